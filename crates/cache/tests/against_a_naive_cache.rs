//! Random operations on the cache and on a cache so simple that it cannot be wrong: a list of entries.

#![cfg(test)]

use std::collections::HashSet;

use dropcap_cache::{CacheError, Death, KeyValueRows, KvCache, LayerIdx, NEVER, PagePool};
use dropcap_kernels::{Buffer, DType, KvFormat, PAGE_ENTRIES, PageLayout};
use proptest::prelude::*;

const LAYERS: usize = 2;
const STATISTICS: usize = 2;

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    position: u32,
    expires_at: u32,
    killer: u32,
    key: Vec<f32>,
    value: Vec<f32>,
    sides: Vec<Vec<f32>>,
    statistics: [f32; STATISTICS],
}

/// The naive cache: lanes `[layers * groups]` of entries in no order that matters.
#[derive(Debug, Clone)]
struct Naive {
    lanes: Vec<Vec<Entry>>,
    next_position: u32,
}

#[derive(Debug, Clone)]
enum Operation {
    /// One step: so many tokens in every lane, with a window or none.
    Step { tokens: usize, window: Option<u32> },
    /// Writes a side channel of part of a lane's entries.
    WriteSide { lane: usize, from: usize, count: usize, channel: usize },
    /// Adds to the statistics of all entries of a lane.
    Count { lane: usize },
    /// Lowers one entry in so many; the lifetime is the next position and some.
    Lower { lane: usize, every: usize, offset: usize, later: u32 },
    /// Reclaims all lanes at the next position and some.
    Reclaim { later: u32 },
    /// A second sequence with the same past.
    Fork,
    /// The sequence ends.
    End,
    /// Forgets so many tokens.
    Rewind { tokens: u32 },
    /// Forgets all entries of a lane.
    Clear { lane: usize },
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (1..80usize, prop::option::weighted(0.3, 0..60u32))
            .prop_map(|(tokens, window)| Operation::Step { tokens, window }),
        4 => Just(Operation::Step { tokens: 1, window: None }),
        3 => (0..8usize).prop_map(|lane| Operation::Count { lane }),
        3 => (0..8usize, 0..90usize, 0..40usize, 0..3usize)
            .prop_map(|(lane, from, count, channel)| Operation::WriteSide { lane, from, count, channel }),
        6 => (0..8usize, 1..6usize, 0..6usize, 0..50u32)
            .prop_map(|(lane, every, offset, later)| Operation::Lower { lane, every, offset, later }),
        5 => (0..40u32).prop_map(|later| Operation::Reclaim { later }),
        2 => Just(Operation::Fork),
        1 => Just(Operation::End),
        1 => (0..50u32).prop_map(|tokens| Operation::Rewind { tokens }),
        1 => (0..8usize).prop_map(|lane| Operation::Clear { lane }),
    ]
}

/// Numbers with full mantissas, so that rounding to the page's dtype shows.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 3.0
    };
    (0..len).map(next).collect()
}

fn rounded(dtype: DType, row: &[f32]) -> Vec<f32> {
    let mut buffer = Buffer::zeroed(dtype, row.len());
    row.iter().enumerate().for_each(|(i, &x)| buffer.set(i, x));
    (0..row.len()).map(|i| buffer.get(i)).collect()
}

/// What the only entry of a page gives back of a key and a value `[heads * d]`.
fn stored(layout: &PageLayout, key: &[f32], value: &[f32]) -> [Vec<f32>; 2] {
    let mut page = layout.zeroed_page().unwrap();
    layout.write_key_value(&mut page, 0, key, value).unwrap();
    let heads = 0..layout.heads();
    let key = heads.clone().flat_map(|head| layout.read_key(&page, 0, head).unwrap()).collect();
    [key, heads.flat_map(|head| layout.read_value(&page, 0, head).unwrap()).collect()]
}

/// Sequences in both caches, and what made them.
struct World {
    pool: PagePool,
    groups: usize,
    sequences: Vec<(KvCache, Naive)>,
    seed: u64,
}

impl World {
    fn new(layout: PageLayout, groups: usize, limit_pages: Option<usize>) -> Self {
        let limit = limit_pages.map(|pages| pages * layout.bytes());
        let pool = PagePool::with_statistics(layout, limit, STATISTICS);
        let mut world = Self { pool, groups, sequences: Vec::new(), seed: 0 };
        (0..2).for_each(|_| world.begin());
        world
    }

    fn begin(&mut self) {
        let naive = Naive { lanes: vec![Vec::new(); LAYERS * self.groups], next_position: 0 };
        self.sequences.push((KvCache::new(&self.pool, LAYERS, self.groups), naive));
    }

    fn row(&self) -> usize {
        self.pool.layout().heads() * self.pool.layout().head_dim()
    }

    fn step(&mut self, which: usize, tokens: usize, window: Option<u32>) {
        let (row, groups, layout) = (self.row(), self.groups, self.pool.layout().clone());
        let sides: Vec<_> = self.pool.layout().side_widths().iter().map(|&width| vec![0.0; width]).collect();
        // [q | k | something | v], as a fused projection gives it.
        let (key_offset, value_offset) = (3, 3 + groups * row + 2);
        let stride = value_offset + groups * row + 1;
        let available = self.pool.pages_available();
        let (cache, naive) = &mut self.sequences[which];
        let lanes = (0..LAYERS).flat_map(|layer| cache.lanes(LayerIdx(layer)));
        let appended: usize = lanes.map(|lane| lane.pages_wanted(tokens)).sum();
        assert!(cache.pages_wanted(tokens) >= appended, "a reclaim may copy pages on top");
        let before = naive.clone();
        let first = cache.next_position();
        let mut exhausted = false;
        for layer in 0..LAYERS {
            self.seed += 1;
            let data = noise(self.seed, tokens * stride);
            let rows = KeyValueRows { data: &data, stride, key_offset, value_offset, count: tokens };
            match cache.append(LayerIdx(layer), rows, window) {
                Ok(()) => {}
                Err(CacheError::PoolExhausted { .. }) => {
                    exhausted = true;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
            for group in 0..groups {
                for token in 0..tokens {
                    let position = first + token as u32;
                    let expires_at = window.map_or(NEVER, |window| position + window.max(1));
                    let at = |offset: usize| &data[token * stride + offset + group * row..][..row];
                    let [key, value] = stored(&layout, at(key_offset), at(value_offset));
                    naive.lanes[layer * groups + group].push(Entry {
                        position,
                        expires_at,
                        killer: expires_at,
                        key,
                        value,
                        sides: sides.clone(),
                        statistics: [0.0; STATISTICS],
                    });
                }
                // A recycled page is zeroed, a reused slot holds what lay there; channels are the policy's.
                let lane = &mut cache.lanes_mut(LayerIdx(layer))[group];
                for (channel, zeros) in sides.iter().enumerate() {
                    let new = lane.newest(tokens);
                    lane.write_side(new, channel, &zeros.repeat(tokens), zeros.len()).unwrap();
                }
            }
        }
        assert_eq!(exhausted, appended > available, "{appended} pages for the append, {available} available");
        if exhausted {
            cache.rewind(first).unwrap();
            *naive = before;
        } else {
            cache.advance(tokens);
            naive.next_position += tokens as u32;
        }
    }

    fn apply(&mut self, which: usize, operation: &Operation) {
        let which = which % self.sequences.len();
        let layout = self.pool.layout().clone();
        let lanes = LAYERS * self.groups;
        let groups = self.groups;
        self.seed += 1;
        let (cache, naive) = &mut self.sequences[which];
        match *operation {
            Operation::Step { tokens, window } => self.step(which, tokens, window),
            Operation::WriteSide { lane, from, count, channel } => {
                let Some(&width) = layout.side_widths().get(channel) else { return };
                let lane_index = lane % lanes;
                let lane = &mut cache.lanes_mut(LayerIdx(lane_index / groups))[lane_index % groups];
                let from = from.min(lane.len());
                let count = count.min(lane.len() - from);
                let stride = width + 2;
                let rows = noise(self.seed, count * stride);
                let entries = &mut naive.lanes[lane_index];
                for i in 0..count {
                    // A write that fails half-way has written the rows before; one row at a time shows which.
                    match lane.write_side(from + i..from + i + 1, channel, &rows[i * stride..], stride) {
                        Ok(()) => {}
                        Err(CacheError::PoolExhausted { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                    let position = lane.positions()[from + i];
                    let entry = entries.iter_mut().find(|entry| entry.position == position).unwrap();
                    entry.sides[channel] = rounded(layout.side_dtype(), &rows[i * stride..][..width]);
                }
            }
            Operation::Count { lane } => {
                let lane_index = lane % lanes;
                let lane = &mut cache.lanes_mut(LayerIdx(lane_index / groups))[lane_index % groups];
                let positions = lane.positions().to_vec();
                for (row, position) in lane.statistics_mut().chunks_exact_mut(STATISTICS).zip(positions) {
                    row[0] += 1.0;
                    row[1] -= position as f32;
                }
                for entry in &mut naive.lanes[lane_index] {
                    entry.statistics[0] += 1.0;
                    entry.statistics[1] -= entry.position as f32;
                }
            }
            Operation::Lower { lane, every, offset, later } => {
                let lane_index = lane % lanes;
                let lane = &mut cache.lanes_mut(LayerIdx(lane_index / groups))[lane_index % groups];
                let now = naive.next_position.saturating_sub(20) + later;
                for index in (offset..lane.len()).step_by(every) {
                    let (position, before) = (lane.positions()[index], lane.expires_at()[index]);
                    let changed = lane.lower(index, now, now);
                    let entry =
                        naive.lanes[lane_index].iter_mut().find(|entry| entry.position == position).unwrap();
                    let wanted = now.max(position + 1);
                    assert_eq!(changed, wanted < entry.expires_at);
                    let killer = now.clamp(position, wanted);
                    if changed {
                        (entry.expires_at, entry.killer) = (wanted, killer);
                    } else if wanted == entry.expires_at && wanted != NEVER {
                        entry.killer = entry.killer.min(killer);
                    }
                    assert!(lane.expires_at()[index] <= before, "a lifetime never grows");
                    assert!(lane.expires_at()[index] > position, "a token never kills itself");
                }
            }
            Operation::Reclaim { later } => {
                let now = naive.next_position.saturating_sub(10) + later;
                let forked = self.sequences.len() > 1 && self.pool.limit_bytes().is_some();
                let (cache, naive) = &mut self.sequences[which];
                for (index, entries) in naive.lanes.iter_mut().enumerate() {
                    let mut died = Vec::new();
                    let lane = &mut cache.lanes_mut(LayerIdx(index / groups))[index % groups];
                    let freed = lane.reclaim(now, &mut |death| died.push(death)).unwrap();
                    assert_eq!(freed, died.len());
                    let mut expected: Vec<_> = entries
                        .iter()
                        .filter(|entry| entry.expires_at <= now)
                        .map(|&Entry { position, expires_at, killer, .. }| Death {
                            position,
                            expires_at,
                            killer,
                        })
                        .collect();
                    died.sort();
                    expected.sort();
                    if died.is_empty() && !expected.is_empty() {
                        assert!(forked, "only a full pool of forks may put a reclaim off");
                        continue;
                    }
                    assert_eq!(died, expected);
                    entries.retain(|entry| entry.expires_at > now);
                }
            }
            Operation::Fork => {
                let fork = (cache.fork(), naive.clone());
                if self.sequences.len() < 4 {
                    self.sequences.push(fork);
                }
            }
            Operation::End => {
                self.sequences.swap_remove(which);
                if self.sequences.is_empty() {
                    self.begin();
                }
            }
            Operation::Rewind { tokens } => {
                let position = naive.next_position.saturating_sub(tokens);
                match cache.rewind(position) {
                    Ok(()) => {
                        naive.next_position = position;
                        naive
                            .lanes
                            .iter_mut()
                            .for_each(|lane| lane.retain(|entry| entry.position < position));
                    }
                    // Some lanes have been rewound; the sequence is of no more use in this test.
                    Err(CacheError::PoolExhausted { .. }) => {
                        self.sequences.swap_remove(which);
                        self.begin();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Operation::Clear { lane } => {
                let lane = lane % lanes;
                cache.lanes_mut(LayerIdx(lane / groups))[lane % groups].clear();
                naive.lanes[lane].clear();
            }
        }
    }

    /// Both caches agree on every sequence, whoever shares pages with whom, and the pool counts every page once.
    fn check(&self) {
        let layout = self.pool.layout();
        let (heads, d) = (layout.heads(), layout.head_dim());
        let mut pages = HashSet::new();
        for (cache, naive) in &self.sequences {
            assert_eq!(cache.next_position(), naive.next_position);
            for (index, entries) in naive.lanes.iter().enumerate() {
                let lane = &cache.lanes(LayerIdx(index / self.groups))[index % self.groups];
                assert_eq!(lane.len(), entries.len());
                assert_eq!(lane.pages(), lane.len().div_ceil(PAGE_ENTRIES), "no holes");
                assert!(
                    lane.held_bytes() >= lane.pages() * layout.bytes() + (12 + 4 * STATISTICS) * lane.len()
                );
                let view = lane.view();
                assert_eq!((view.len(), view.pages.len()), (lane.len(), lane.pages()));
                pages.extend(view.pages.iter().map(|page| std::ptr::from_ref(*page)));
                let mut order: Vec<usize> = (0..lane.len()).collect();
                order.sort_by_key(|&entry| lane.positions()[entry]);
                let mut expected: Vec<_> = entries.iter().collect();
                expected.sort_by_key(|entry| entry.position);
                for (entry, expected) in order.into_iter().zip(expected) {
                    let got = Entry {
                        position: lane.positions()[entry],
                        expires_at: lane.expires_at()[entry],
                        killer: lane.killers()[entry],
                        key: (0..heads).flat_map(|head| lane.read_key(entry, head).unwrap()).collect(),
                        value: (0..heads).flat_map(|head| lane.read_value(entry, head).unwrap()).collect(),
                        sides: (0..layout.side_widths().len())
                            .map(|channel| lane.read_side(entry, channel).unwrap())
                            .collect(),
                        statistics: lane.statistics()[entry * STATISTICS..][..STATISTICS].try_into().unwrap(),
                    };
                    assert_eq!(&got, expected);
                }
            }
            let report = cache.report();
            let live: usize = naive.lanes.iter().map(Vec::len).sum();
            let logical = u64::from(naive.next_position) * naive.lanes.len() as u64;
            assert_eq!((report.live_entries, report.logical_entries), (live as u64, logical));
            assert_eq!(report.live_bytes, (live * (layout.entry_bytes() + 12 + 4 * STATISTICS)) as u64);
            // A group of either; a code for each dimension of a key, and a line of 32 for a value.
            let key_value_bytes = match layout.format() {
                KvFormat::Q8 => heads * (4 + d + 4 + 32),
                KvFormat::Q4 => heads * (4 + d + 4 + 16),
                numbers => 2 * heads * d * numbers.elements().bytes(),
            };
            assert_eq!(report.dense_bytes, logical * key_value_bytes as u64);
            assert!(report.held_bytes >= report.live_bytes);
        }
        assert_eq!(pages.len(), self.pool.pages_in_use(), "every page in use is in a lane");
        if let Some(limit) = self.pool.limit_bytes() {
            assert!(self.pool.held_bytes() + self.pool.retained_bytes() <= limit);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn the_cache_is_a_list_of_entries(
        (heads, groups) in prop_oneof![Just((2, 1)), Just((1, 3)), Just((1, 1))],
        head_dim in 1..6usize,
        side_widths in prop::collection::vec(1..5usize, 0..3),
        format in 0..5usize,
        limit_pages in prop::option::of(12..60usize),
        operations in prop::collection::vec((0..4usize, operations()), 1..50),
    ) {
        let layout = PageLayout::new(heads, head_dim, side_widths, KvFormat::ALL[format]).unwrap();
        let mut world = World::new(layout, groups, limit_pages);
        for (which, operation) in &operations {
            world.apply(*which, operation);
            world.check();
        }
        let pool = world.pool.clone();
        drop(world);
        prop_assert_eq!((pool.pages_in_use(), pool.held_bytes()), (0, 0));
    }
}
