use proptest::prelude::*;

use super::reference::raw_votes;
use super::*;
use crate::testing::{Lane, Random};
use crate::{DType, KvFormat, PageLayout};

/// A raw vote nearer to 0 than this may fall on either side of it in f32.
const UNDECIDED: f64 = 1e-5;

struct Case {
    lane: Lane,
    gates: Vec<f32>,
    width: usize,
    queries: usize,
    first_row: usize,
    first_position: u32,
    bias: f32,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let width = random.pick(&[1, 2, 5, 16, 33, 64, 256]);
        let entries = random.below(600);
        let layout = PageLayout::new(1, 4, vec![3, width], random.pick(&KvFormat::ALL)).unwrap();
        let queries = random.pick(&[0, 1, 1, 3, 13, 60]);
        let first_row = random.below(3);
        let gates = random.row((first_row + queries) * width);
        Self {
            lane: Lane::random(random, layout, entries),
            gates,
            width,
            queries,
            first_row,
            first_position: random.below(entries + 10) as u32,
            bias: random.pick(&[0.0, 0.3, 1.0]),
        }
    }

    /// The key gate of one entry.
    fn key(&self, entry: usize) -> Vec<f32> {
        let page = &self.lane.pages[entry / PAGE_ENTRIES];
        self.lane.layout.read_side(page, entry % PAGE_ENTRIES, 1).unwrap()
    }

    /// Votes of queries `skip..skip + queries` of the case.
    fn refusals(&self, isa: Isa, threads: usize, skip: usize, queries: usize) -> Vec<u32> {
        let mut refused_by = vec![7; self.lane.positions.len()];
        let mut jobs = [VoteJob {
            first_row: self.first_row + skip,
            queries,
            first_position: self.first_position + skip as u32,
            lane: self.lane.view(),
            channel: 1,
            refused_by: &mut refused_by,
        }];
        let team = Team::new(threads).unwrap();
        first_refusals_with(isa, &team, &self.gates, self.bias, &mut jobs).unwrap();
        refused_by
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_first_query_that_refuses_is_found(seed: u64) {
        let case = Case::random(&mut Random(seed));
        let raw: Vec<Vec<f64>> = (0..case.queries)
            .map(|i| &case.gates[(case.first_row + i) * case.width..][..case.width])
            .map(|gate| raw_votes(&case.lane.view(), 1, gate, case.bias))
            .collect();
        for &isa in Isa::available() {
            let found = case.refusals(isa, 2, 0, case.queries);
            for (e, &by) in found.iter().enumerate() {
                let (position, expires_at) = (case.lane.positions[e], case.lane.expires_at[e]);
                for (i, raw) in raw.iter().enumerate() {
                    let query = case.first_position + i as u32;
                    let votes = position < query && query < expires_at;
                    if query < by && votes {
                        prop_assert!(raw[e] > -UNDECIDED, "{isa:?}: {query} refuses {e} before {by}");
                    }
                    if query == by {
                        prop_assert!(votes && raw[e] < UNDECIDED, "{isa:?}: {query} does not refuse {e}");
                    }
                }
                let last = case.first_position + case.queries as u32;
                prop_assert!(by == u32::MAX || (case.first_position..last).contains(&by));
            }
        }
    }

    #[test]
    fn chunks_and_threads_decide_alike(seed: u64, chunk in 1..20usize) {
        let case = Case::random(&mut Random(seed));
        for &isa in Isa::available() {
            let whole = case.refusals(isa, 1, 0, case.queries);
            prop_assert_eq!(&case.refusals(isa, 3, 0, case.queries), &whole);
            let mut chunked = vec![u32::MAX; whole.len()];
            for skip in (0..case.queries).step_by(chunk) {
                let part = case.refusals(isa, 2, skip, chunk.min(case.queries - skip));
                chunked.iter_mut().zip(part).for_each(|(by, part)| *by = (*by).min(part));
            }
            prop_assert_eq!(&chunked, &whole);
        }
    }

    /// Compaction puts an entry into whichever slot is free: the sign of a score near 0 must not follow it there.
    #[test]
    fn an_entry_is_judged_alike_in_every_slot(seed: u64) {
        let random = &mut Random(seed);
        let mut case = Case::random(random);
        // Half of the scores are as near to the threshold as an f32 sum gets: the bias is the negative of one.
        if let (Some(key), true) = (case.lane.positions.first().map(|_| case.key(0)), case.queries > 0) {
            let gate = &case.gates[case.first_row * case.width..][..case.width];
            let score: f32 = gate.iter().zip(&key).map(|(q, k)| q * k).sum();
            case.bias = -score / (case.width as f32).sqrt();
        }
        let mut order: Vec<usize> = (0..case.lane.positions.len()).collect();
        (1..order.len()).for_each(|i| order.swap(i, random.below(i + 1)));
        let mut moved = Lane::new(case.lane.layout.clone());
        for &entry in &order {
            moved.push(case.lane.positions[entry], case.lane.expires_at[entry], &[0.0; 4], &[0.0; 4]);
            let (slot, key) = ((moved.positions.len() - 1) % PAGE_ENTRIES, case.key(entry));
            moved.layout.write_side(moved.pages.last_mut().unwrap(), slot, 1, &key).unwrap();
        }
        for &isa in Isa::available() {
            let found = case.refusals(isa, 1, 0, case.queries);
            std::mem::swap(&mut case.lane, &mut moved);
            let found_moved = case.refusals(isa, 2, 0, case.queries);
            std::mem::swap(&mut case.lane, &mut moved);
            let expected: Vec<u32> = order.iter().map(|&entry| found[entry]).collect();
            prop_assert_eq!(&found_moved, &expected);
        }
    }
}

#[test]
fn zero_and_nan_refuse_and_nobody_refuses_itself() {
    for &isa in Isa::available() {
        for (raw, refuses) in [(0.0, true), (-0.0, true), (f32::NAN, true), (-1.0, true), (1e-30, false)] {
            let mut lane = Lane::new(PageLayout::new(1, 1, vec![1], DType::F32).unwrap());
            for position in 0..40 {
                lane.push(position, u32::MAX, &[0.0], &[0.0]);
                let slot = position as usize % PAGE_ENTRIES;
                lane.layout.write_side(lane.pages.last_mut().unwrap(), slot, 0, &[raw]).unwrap();
            }
            let mut refused_by = vec![0; 40];
            let mut jobs = [VoteJob {
                first_row: 0,
                queries: 3,
                first_position: 37,
                lane: lane.view(),
                channel: 0,
                refused_by: &mut refused_by,
            }];
            first_refusals_with(isa, &Team::new(1).unwrap(), &[1.0; 3], 0.0, &mut jobs).unwrap();
            let expected =
                |position: u32| if !refuses || position >= 39 { u32::MAX } else { 37.max(position + 1) };
            assert_eq!(refused_by, (0..40).map(expected).collect::<Vec<_>>(), "raw vote {raw}");
        }
    }
}

#[test]
fn misuse_is_an_error_and_never_a_panic() {
    let random = &mut Random(5);
    let lane = Lane::random(random, PageLayout::new(1, 2, vec![4, 5], DType::F32).unwrap(), 70);
    let team = Team::new(1).unwrap();
    let call = |first_row, queries, first_position, channel, len: usize, gates: usize| {
        let mut refused_by = vec![0; len];
        let lane = lane.view();
        let job = VoteJob { first_row, queries, first_position, lane, channel, refused_by: &mut refused_by };
        first_refusals(&team, &vec![0.0; gates], 0.0, &mut [job]).is_err()
    };
    assert!(!call(1, 2, 9, 0, 70, 12));
    assert!(call(1, 2, 9, 2, 70, 12), "no such channel");
    assert!(call(1, 2, 9, 0, 69, 12), "too few results");
    assert!(call(1, 2, 9, 1, 70, 12), "too few gates");
    assert!(call(usize::MAX, 2, 9, 0, 70, 12));
    assert!(call(1, 2, u32::MAX - 1, 0, 70, 12), "positions end");
    let (mut first, mut second) = (vec![0; 70], vec![0; 70]);
    let job = |channel, refused_by| VoteJob {
        first_row: 0,
        queries: 1,
        first_position: 0,
        lane: lane.view(),
        channel,
        refused_by,
    };
    let mut jobs = [job(0, &mut first[..]), job(1, &mut second[..])];
    assert!(first_refusals(&team, &[0.0; 5], 0.0, &mut jobs).is_err(), "widths differ");
    assert!(first_refusals(&team, &[], 0.0, &mut []).is_ok());
}
