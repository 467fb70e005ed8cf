//! Random lanes for the tests of attention and votes.

use crate::{Buffer, KvFormat, LaneView, PAGE_ENTRIES, PageLayout};

/// A small generator (Steele, Lea and Flood 2014, "SplitMix"), so that a case is one seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// In [-1, 1).
    pub(crate) fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn row(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.real()).collect()
    }
}

/// A lane that owns its memory.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) layout: PageLayout,
    pub(crate) pages: Vec<Buffer>,
    pub(crate) positions: Vec<u32>,
    pub(crate) expires_at: Vec<u32>,
}

impl Lane {
    pub(crate) fn new(layout: PageLayout) -> Self {
        Self { layout, pages: Vec::new(), positions: Vec::new(), expires_at: Vec::new() }
    }

    pub(crate) fn push(&mut self, position: u32, expires_at: u32, key: &[f32], value: &[f32]) {
        let slot = self.positions.len() % PAGE_ENTRIES;
        if slot == 0 {
            let mut page = self.layout.zeroed_page().unwrap();
            // A pool does not clear pages: what lies behind the last entry may be anything.
            (0..page.len()).for_each(|i| page.set(i, if i % 2 == 0 { f32::NAN } else { f32::INFINITY }));
            self.pages.push(page);
        }
        self.layout.write_key_value(self.pages.last_mut().unwrap(), slot, key, value).unwrap();
        self.positions.push(position);
        self.expires_at.push(expires_at);
    }

    pub(crate) fn view(&self) -> LaneView<'_> {
        LaneView {
            layout: &self.layout,
            pages: self.pages.iter().collect(),
            positions: &self.positions,
            expires_at: &self.expires_at,
        }
    }

    /// The same entries, widened, in pages of another format; without side channels.
    pub(crate) fn in_format(&self, format: KvFormat) -> Self {
        let (heads, width) = (self.layout.heads(), self.layout.head_dim());
        let mut lane = Self::new(PageLayout::new(heads, width, vec![], format).unwrap());
        for (entry, (&position, &expires_at)) in self.positions.iter().zip(&self.expires_at).enumerate() {
            let (page, slot) = (&self.pages[entry / PAGE_ENTRIES], entry % PAGE_ENTRIES);
            let (mut key, mut value) = (Vec::new(), Vec::new());
            for head in 0..heads {
                key.extend(self.layout.read_key(page, slot, head).unwrap());
                value.extend(self.layout.read_value(page, slot, head).unwrap());
            }
            lane.push(position, expires_at, &key, &value);
        }
        lane
    }

    /// Positions shuffled, mostly, and none, some or all entries mortal.
    pub(crate) fn random(random: &mut Random, layout: PageLayout, entries: usize) -> Self {
        let width = layout.heads() * layout.head_dim();
        let mut positions: Vec<u32> = (0..entries as u32).collect();
        if random.below(4) > 0 {
            (1..entries).for_each(|i| positions.swap(i, random.below(i + 1)));
        }
        let mortal = random.below(3);
        let side_widths = layout.side_widths().to_vec();
        let mut lane = Lane::new(layout);
        for position in positions {
            let lifetime = 1 + random.below(entries) as u32;
            let expires_at = if random.below(3) < mortal { position + lifetime } else { u32::MAX };
            lane.push(position, expires_at, &random.row(width), &random.row(width));
            let slot = (lane.positions.len() - 1) % PAGE_ENTRIES;
            for (channel, &width) in side_widths.iter().enumerate() {
                let page = lane.pages.last_mut().unwrap();
                lane.layout.write_side(page, slot, channel, &random.row(width)).unwrap();
            }
        }
        lane
    }
}
