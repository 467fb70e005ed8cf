//! Lanes as lists of entries, to and from the bytes of their pages.

use bytemuck::cast_slice;

use crate::PAGE_ENTRIES;
use crate::cuda::{Device, DeviceLanes, DeviceSpan, DeviceStep, Specialisation};
use crate::lifetimes::{Floors, Lifetime};
use crate::testing::Random;

/// One entry with all its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: u32,
    pub(crate) expires_at: u32,
    pub(crate) killer: u32,
    /// Its key and value of each head, then its side channel, then its statistics.
    pub(crate) rows: Vec<u8>,
}

impl Entry {
    pub(crate) fn random(random: &mut Random, specialisation: &Specialisation, position: u32) -> Self {
        let bytes = panels(specialisation).iter().map(|panel| panel.1).sum();
        let rows = (0..bytes).map(|_| random.next() as u8).collect();
        Self { position, expires_at: u32::MAX, killer: u32::MAX, rows }
    }

    /// [`Lifetime::lower`] under floors (sinks, recent).
    pub(crate) fn lower(&mut self, wished: u32, killer: u32, floors: (u32, u32)) {
        let mut life = Lifetime { expires_at: self.expires_at, killer: self.killer };
        life.lower(self.position, wished, killer, Floors { sinks: floors.0, recent: floors.1 });
        (self.expires_at, self.killer) = (life.expires_at, life.killer);
    }
}

/// First byte of what is known of a page's entries beside their rows.
fn known(specialisation: &Specialisation) -> usize {
    specialisation.page_bytes() - (3 + specialisation.statistics) * 4 * PAGE_ENTRIES
}

/// First byte and row bytes of each panel of a page.
fn panels(specialisation: &Specialisation) -> Vec<(usize, usize)> {
    let [(key_row, of_key), (value_row, of_value)] = specialisation.rows();
    let heads = specialisation.kv_heads / specialisation.groups;
    let (rows, steps) = (PAGE_ENTRIES * (key_row + value_row), 4 * PAGE_ENTRIES * (of_key + of_value));
    let mut panels = Vec::new();
    for head in 0..heads {
        panels.extend([(head * rows, key_row), (head * rows + PAGE_ENTRIES * key_row, value_row)]);
    }
    for first in (0..heads).map(|head| heads * rows + head * steps) {
        panels.extend([(first, 4 * of_key), (first + 4 * PAGE_ENTRIES * of_key, 4 * of_value)]);
    }
    if specialisation.side_width > 0 {
        let side = PAGE_ENTRIES * specialisation.key_value_bytes();
        panels.push((side, specialisation.side_width * specialisation.cache.bytes()));
    }
    let statistic = |i: usize| (known(specialisation) + (3 + i) * 4 * PAGE_ENTRIES, 4);
    panels.extend((0..specialisation.statistics).map(statistic));
    panels
}

/// The pages of a lane; what lies behind its last entry is arbitrary.
pub(crate) fn pages_of(random: &mut Random, specialisation: &Specialisation, entries: &[Entry]) -> Vec<u8> {
    let mut pages = Vec::new();
    for entries in entries.chunks(PAGE_ENTRIES) {
        let mut page: Vec<u8> = (0..specialisation.page_bytes()).map(|_| random.next() as u8).collect();
        let metadata = known(specialisation);
        for (slot, entry) in entries.iter().enumerate() {
            let mut rows = &entry.rows[..];
            for (first, bytes) in panels(specialisation) {
                page[first + slot * bytes..][..bytes].copy_from_slice(&rows[..bytes]);
                rows = &rows[bytes..];
            }
            for (i, number) in [entry.position, entry.expires_at, entry.killer].into_iter().enumerate() {
                page[metadata + 128 * i + 4 * slot..][..4].copy_from_slice(&number.to_le_bytes());
            }
        }
        pages.extend(page);
    }
    pages
}

/// The entries of a lane.
pub(crate) fn entries_of(specialisation: &Specialisation, length: u32, pages: &[u8]) -> Vec<Entry> {
    let page_bytes = specialisation.page_bytes();
    let entry = |i: usize| {
        let (page, slot) = (&pages[i / PAGE_ENTRIES * page_bytes..][..page_bytes], i % PAGE_ENTRIES);
        let metadata: &[u8] = &page[known(specialisation)..];
        let number = |i: usize| {
            let bytes = &metadata[128 * i + 4 * slot..][..4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let rows = panels(specialisation)
            .iter()
            .flat_map(|&(first, bytes)| &page[first + slot * bytes..][..bytes])
            .copied()
            .collect();
        Entry { position: number(0), expires_at: number(1), killer: number(2), rows }
    };
    (0..length as usize).map(entry).collect()
}

/// Writes every lane, which must be empty.
pub(crate) fn write(random: &mut Random, lanes: &DeviceLanes, contents: &[Vec<Entry>]) {
    for (lane, entries) in contents.iter().enumerate() {
        if !entries.is_empty() {
            let pages = pages_of(random, lanes.specialisation(), entries);
            lanes.write_lane(lane, entries.len() as u32, &pages).unwrap();
        }
    }
}

/// Reads every lane.
pub(crate) fn read(lanes: &DeviceLanes) -> Vec<Vec<Entry>> {
    let count = lanes.slots() * lanes.layers() * lanes.specialisation().groups;
    let lane = |lane| {
        let (length, pages) = lanes.read_lane(lane).unwrap();
        entries_of(lanes.specialisation(), length, &pages)
    };
    (0..count).map(lane).collect()
}

/// Every page is in one lane or free, and only once.
pub(crate) fn check_pages(lanes: &DeviceLanes) {
    let (mut all, tables) = lanes.page_numbers();
    all.extend(tables.into_iter().flatten());
    all.sort_unstable();
    assert_eq!(all, (0..lanes.capacity() as u32).collect::<Vec<_>>(), "pages that are lost or held twice");
}

/// A step over lanes as they are, with the `first_pages` that they have grown to.
pub(crate) fn step_over(
    device: &Device,
    lanes: &DeviceLanes,
    spans: &[DeviceSpan],
    max_spans: usize,
) -> DeviceStep {
    let groups = lanes.specialisation().groups;
    let rows = spans.iter().map(|span| (span.first_row + span.queries) as usize).max().unwrap_or(0);
    let step = DeviceStep::new(device, lanes.layers(), groups, rows.max(1), max_spans).unwrap();
    let lengths = lanes.lengths().unwrap();
    let mut first_pages = Vec::new();
    for layer in 0..lanes.layers() {
        let mut total = 0;
        let mut of_layer = vec![0; max_spans * groups + 1];
        for (unit, first) in of_layer.iter_mut().enumerate().take(spans.len() * groups + 1) {
            *first = total;
            if let Some(span) = spans.get(unit / groups).filter(|span| span.slot != u32::MAX) {
                let lane = (span.slot as usize * lanes.layers() + layer) * groups + unit % groups;
                total += lengths[lane].div_ceil(32);
            }
        }
        first_pages.extend(of_layer);
    }
    step.first_pages.write(0, &first_pages).unwrap();
    step.spans.write(0, spans).unwrap();
    step
}

/// A span that nobody sees.
pub(crate) const PADDING: DeviceSpan =
    DeviceSpan { slot: u32::MAX, first_row: 0, queries: 0, first_position: 0 };

/// Floats in a cache's format.
pub(crate) fn bytes_of(dtype: crate::DType, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        crate::DType::F32 => cast_slice(numbers).to_vec(),
        crate::DType::F16 => numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        crate::DType::Bf16 => numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// The way back.
pub(crate) fn floats_of(dtype: crate::DType, bytes: &[u8]) -> Vec<f64> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match dtype {
        crate::DType::F32 => {
            bytes.chunks_exact(4).map(|x| f64::from(f32::from_le_bytes([x[0], x[1], x[2], x[3]]))).collect()
        }
        crate::DType::F16 => pairs().map(|pair| half::f16::from_le_bytes(pair).to_f64()).collect(),
        crate::DType::Bf16 => pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f64()).collect(),
    }
}
