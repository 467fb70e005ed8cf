//! Sequences with random lanes and queries, and the way to put them on a device.

use super::{decoded, encoded, first_pages, page_bytes};
use crate::PageLayout;
use crate::cuda::{DeviceLanes, DeviceSpan, DeviceStep, Row, Specialisation};
use crate::testing::{Lane, Random};

/// Each with its lanes and its span; slots are in another order than spans, and padding has none.
pub(crate) type Sequences = Vec<(Vec<Lane>, DeviceSpan)>;

/// One for each `(entries, queries)`, `None` for padding. `first` gives the position of the first query of so many.
pub(crate) fn random_sequences(
    random: &mut Random,
    specialisation: &Specialisation,
    sizes: &[Option<(usize, usize)>],
    first: impl Fn(&mut Random, usize, usize) -> usize,
) -> Sequences {
    let Specialisation { kv_heads, groups, head_dim, side_width, .. } = *specialisation;
    let sides = if side_width > 0 { vec![side_width] } else { vec![] };
    let layout = PageLayout::new(kv_heads / groups, head_dim, sides, specialisation.format()).unwrap();
    let mut rows = 0;
    let mut sequence = |(i, size): (usize, &Option<(usize, usize)>)| {
        let (entries, queries) = size.unwrap_or((0, 1));
        let first_position = first(random, entries, queries) as u32;
        let slot = if size.is_some() { (sizes.len() - 1 - i) as u32 } else { u32::MAX };
        let span = DeviceSpan { slot, first_row: rows as u32, queries: queries as u32, first_position };
        rows += queries;
        let lane = |group: usize| {
            // Lanes of heads have lengths of their own.
            let entries = if group > 0 { random.below(entries + 1) } else { entries };
            Lane::random(random, layout.clone(), entries)
        };
        ((0..groups).map(lane).collect(), span)
    };
    sizes.iter().enumerate().map(&mut sequence).collect()
}

/// Rows of the step that all spans make together.
pub(crate) fn rows_of(sequences: &Sequences) -> usize {
    sequences.iter().map(|(_, span)| span.queries as usize).sum()
}

/// Queries `[rows, h d]` that both formats can hold, so that every side computes with the same.
pub(crate) fn random_queries(random: &mut Random, specialisation: &Specialisation, rows: usize) -> Vec<f32> {
    let Specialisation { weights, cache, query_heads, head_dim, .. } = *specialisation;
    let stored = |x: f32| {
        let x = decoded(cache, &encoded(cache, x))[0];
        decoded(weights, &encoded(weights, x))[0]
    };
    (0..rows * query_heads * head_dim).map(|_| stored(3.0 * random.real())).collect()
}

/// The bytes of `[rows, (h + 2g) d]` with these queries; keys and values are NaN, because nobody should read them.
pub(crate) fn fused_rows(specialisation: &Specialisation, query: &[f32]) -> Vec<u8> {
    let Specialisation { weights, query_heads, kv_heads, head_dim, .. } = *specialisation;
    let nothing = encoded(weights, f32::NAN).repeat(2 * kv_heads * head_dim);
    let row = |query: &[f32]| {
        let query: Vec<u8> = query.iter().flat_map(|&x| encoded(weights, x)).collect();
        [query, nothing.clone()].concat()
    };
    query.chunks(query_heads * head_dim).flat_map(row).collect()
}

/// Writes the sequences into empty lanes of a layer, and the step that is about them. `statistics` are those of the entries of all
/// lanes in order, where there are any.
pub(crate) fn place(
    lanes: &DeviceLanes,
    step: &DeviceStep,
    layer: usize,
    sequences: &Sequences,
    statistics: Option<&[Vec<f32>]>,
) {
    let specialisation = lanes.specialisation();
    let (groups, page) = (specialisation.groups, specialisation.page_bytes());
    let (mut rows, mut lengths) = (Vec::new(), vec![0; step.max_spans * groups]);
    for (number, (of_sequence, span)) in sequences.iter().enumerate() {
        let row = |query| Row { slot: span.slot, token: 0, position: span.first_position + query, back: 1 };
        rows.extend((0..span.queries).map(row));
        if span.slot == u32::MAX {
            continue;
        }
        for (group, lane) in of_sequence.iter().enumerate() {
            let mut bytes = page_bytes(specialisation, &lane.view());
            let own = statistics.map_or(&[][..], |all| &all[number * groups + group]);
            for (entry, number) in own.iter().enumerate() {
                let at = (entry / 32 + 1) * page - 128 + entry % 32 * 4;
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            let place = (span.slot as usize * lanes.layers() + layer) * groups + group;
            lanes.write_lane(place, lane.positions.len() as u32, &bytes).unwrap();
            lengths[number * groups + group] = lane.positions.len();
        }
    }
    let spans: Vec<DeviceSpan> = sequences.iter().map(|&(_, span)| span).collect();
    step.rows.write(0, &rows).unwrap();
    step.spans.write(0, &spans).unwrap();
    step.first_pages.write(layer * (lengths.len() + 1), &first_pages(lengths)).unwrap();
}
