use proptest::prelude::*;

use super::reference::attention as attention_reference;
use super::*;
use crate::testing::{Lane, Random};
use crate::{Buffer, DType, KvFormat, PageLayout};

/// Largest difference to the f64 oracle, relative to the largest value of the batch: f32 sums over some thousand
/// entries.
const TOLERANCE: f32 = 2e-5;

/// One sequence: its lanes and queries.
struct Sequence {
    lanes: Vec<Lane>,
    first_row: usize,
    queries: usize,
    first_position: u32,
}

impl Sequence {
    fn rows(&self) -> AttentionRows<'_> {
        AttentionRows {
            first_row: self.first_row,
            queries: self.queries,
            first_position: self.first_position,
            lanes: self.lanes.iter().map(Lane::view).collect(),
        }
    }
}

/// A ragged batch.
struct Batch {
    shape: AttentionShape,
    sequences: Vec<Sequence>,
    query: Vec<f32>,
    stride: usize,
}

impl Batch {
    /// Lanes with shuffled positions, random lifetimes and every kind of shape; `longest` bounds the entries.
    fn random(random: &mut Random, longest: usize) -> Self {
        let kv_heads = 1 + random.below(3);
        let group = random.pick(&[1, 2, 3, 4, 7, 13]);
        let head_dim = random.pick(&[1, 3, 8, 16, 20, 33, 64, 80, 96, 128, 256]);
        let format = random.pick(&KvFormat::ALL);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { query_heads: kv_heads * group, kv_heads, head_dim, scale };
        let mut sequences = Vec::new();
        // A gap of a row before every sequence, so that rows without an item are there too.
        let mut first_row = 1;
        for _ in 0..1 + random.below(4) {
            let queries = random.pick(&[0, 1, 1, 2, 5, 14, 40]);
            let split = random.below(2) == 0;
            let (lanes, heads) = if split { (kv_heads, 1) } else { (1, kv_heads) };
            let entries = random.below(longest);
            let first_position = random.below(entries + 10) as u32;
            let lanes = (0..lanes)
                .map(|_| {
                    let layout = PageLayout::new(heads, head_dim, vec![3], format).unwrap();
                    // Head-wise lanes have lengths of their own.
                    let entries = if split { random.below(entries + 1) } else { entries };
                    Lane::random(random, layout, entries)
                })
                .collect();
            sequences.push(Sequence { lanes, first_row, queries, first_position });
            first_row += queries + 1;
        }
        let stride = shape.query_heads * head_dim + random.below(3) * 5;
        let query = (0..first_row * stride).map(|_| 4.0 * random.real()).collect();
        Self { shape, sequences, query, stride }
    }

    fn out(&self) -> Vec<f32> {
        vec![f32::NAN; self.query.len() / self.stride * self.shape.query_heads * self.shape.head_dim]
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let rows: Vec<_> = self.sequences.iter().map(Sequence::rows).collect();
        self.run_rows(isa, threads, &rows)
    }

    fn run_rows(&self, isa: Isa, threads: usize, rows: &[AttentionRows<'_>]) -> Vec<f32> {
        let mut out = self.out();
        let team = Team::new(threads).unwrap();
        attention_with(isa, &team, &self.shape, rows, &self.query, self.stride, &mut out).unwrap();
        out
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_instruction_set_agrees_with_the_reference(seed: u64) {
        let random = &mut Random(seed);
        let longest = random.pick(&[3, 40, 40, 300, 300, 700]);
        let batch = Batch::random(random, longest);
        let rows: Vec<_> = batch.sequences.iter().map(Sequence::rows).collect();
        let mut expected = batch.out();
        attention_reference(&batch.shape, &rows, &batch.query, batch.stride, &mut expected).unwrap();
        for &isa in Isa::available() {
            let out = batch.run(isa, 2);
            for (i, (&got, &want)) in out.iter().zip(&expected).enumerate() {
                // NaN marks rows that nobody may write.
                let close = (got - want).abs() <= TOLERANCE || (got.is_nan() && want.is_nan());
                prop_assert!(close, "{isa:?}: element {i} is {got}, expected {want}");
            }
        }
    }

    #[test]
    fn codes_give_the_bits_of_the_numbers_that_they_stand_for(seed: u64) {
        let random = &mut Random(seed);
        let longest = random.pick(&[3, 40, 300, 700]);
        let batch = Batch::random(random, longest);
        let plain = |lane: &Lane| lane.in_format(KvFormat::F32);
        let plain = |of: &Sequence| Sequence { lanes: of.lanes.iter().map(plain).collect(), ..*of };
        let sequences = batch.sequences.iter().map(plain).collect();
        let twin = Batch { sequences, query: batch.query.clone(), ..batch };
        for &isa in Isa::available() {
            prop_assert_eq!(bits(&batch.run(isa, 2)), bits(&twin.run(isa, 1)));
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_the_batch(seed: u64) {
        let random = &mut Random(seed);
        let longest = random.pick(&[40, 300]);
        let batch = Batch::random(random, longest);
        let width = batch.shape.query_heads * batch.shape.head_dim;
        for &isa in Isa::available() {
            let together = batch.run(isa, 1);
            for sequence in &batch.sequences {
                for i in (0..sequence.queries).take(12) {
                    let mut alone = sequence.rows();
                    (alone.first_row, alone.queries) = (sequence.first_row + i, 1);
                    alone.first_position += i as u32;
                    let row = alone.first_row * width..(alone.first_row + 1) * width;
                    let out = batch.run_rows(isa, 2, &[alone]);
                    prop_assert_eq!(bits(&out[row.clone()]), bits(&together[row]));
                }
            }
        }
    }

    #[test]
    fn entries_that_a_row_does_not_see_change_no_bit(seed: u64) {
        let random = &mut Random(seed);
        let longest = random.pick(&[40, 300]);
        let mut batch = Batch::random(random, longest);
        let before: Vec<_> = Isa::available().iter().map(|&isa| batch.run(isa, 2)).collect();
        for sequence in &mut batch.sequences {
            let end = sequence.first_position + sequence.queries as u32;
            for lane in &mut sequence.lanes {
                let width = lane.layout.heads() * lane.layout.head_dim();
                // Huge, but finite in every dtype.
                let huge = |random: &mut Random| -> Vec<f32> { (0..width).map(|_| 60_000.0 * random.real()).collect() };
                for _ in 0..random.below(600) {
                    let future = random.below(2) == 0;
                    let (position, expires_at) = if future { (end, u32::MAX) } else { (0, sequence.first_position) };
                    let (key, value) = (huge(random), huge(random));
                    lane.push(position, expires_at, &key, &value);
                }
            }
        }
        for (&isa, before) in Isa::available().iter().zip(before) {
            prop_assert_eq!(bits(&batch.run(isa, 2)), bits(&before));
        }
    }
}

/// One sequence over several splits, in one lane of `kv_heads` heads.
fn long(random: &mut Random, entries: usize, queries: usize, kv_heads: usize, group: usize) -> Batch {
    let shape = AttentionShape { query_heads: kv_heads * group, kv_heads, head_dim: 16, scale: 0.25 };
    let layout = PageLayout::new(kv_heads, 16, vec![], DType::F32).unwrap();
    let lanes = vec![Lane::random(random, layout, entries)];
    let first_position = (entries - queries) as u32;
    let stride = shape.query_heads * 16;
    let query = random.row(queries * stride);
    Batch { shape, sequences: vec![Sequence { lanes, first_row: 0, queries, first_position }], query, stride }
}

#[test]
fn splits_agree_with_the_reference_on_any_number_of_threads() {
    let random = &mut Random(1);
    for (entries, queries, kv_heads, group) in
        [(2049, 1, 1, 1), (6000, 1, 2, 4), (4096, 130, 1, 2), (9000, 3, 1, 7)]
    {
        let batch = long(random, entries, queries, kv_heads, group);
        let rows: Vec<_> = batch.sequences.iter().map(Sequence::rows).collect();
        let mut expected = batch.out();
        attention_reference(&batch.shape, &rows, &batch.query, batch.stride, &mut expected).unwrap();
        for &isa in Isa::available() {
            let alone = batch.run(isa, 1);
            assert!(alone.iter().zip(&expected).all(|(got, want)| (got - want).abs() <= TOLERANCE));
            for threads in [2, 3, 8] {
                assert_eq!(bits(&batch.run(isa, threads)), bits(&alone));
            }
        }
    }
}

#[test]
fn a_unit_gives_the_same_bits_whole_and_in_parts() {
    let random = &mut Random(2);
    let single = long(random, 5000, 1, 1, 2);
    let row = single.sequences[0].rows();
    let width = single.stride;
    let many = Batch {
        shape: single.shape,
        sequences: (0..40)
            .map(|i| Sequence {
                lanes: single.sequences[0].lanes.clone(),
                first_row: i,
                queries: 1,
                first_position: row.first_position,
            })
            .collect(),
        query: single.query.repeat(40),
        stride: width,
    };
    let plan = |batch: &Batch| {
        let rows: Vec<_> = batch.sequences.iter().map(Sequence::rows).collect();
        Plan::new(&batch.shape, &rows, 2).merges.len()
    };
    assert_eq!((plan(&single), plan(&many)), (1, 0), "the test needs both kinds");
    for &isa in Isa::available() {
        let (single, many) = (single.run(isa, 2), many.run(isa, 2));
        many.chunks(width).for_each(|row| assert_eq!(bits(row), bits(&single)));
    }
}

#[test]
fn a_lane_that_grows_into_another_split_changes_no_bit() {
    let random = &mut Random(7);
    let mut batch = long(random, 2040, 3, 1, 2);
    let before: Vec<_> = Isa::available().iter().map(|&isa| batch.run(isa, 2)).collect();
    for position in 2040..2200 {
        let (key, value) = (random.row(16), random.row(16));
        batch.sequences[0].lanes[0].push(position, u32::MAX, &key, &value);
    }
    for (&isa, before) in Isa::available().iter().zip(before) {
        assert_eq!(bits(&batch.run(isa, 2)), bits(&before));
    }
}

#[test]
fn a_query_that_sees_nothing_gets_zeros() {
    let random = &mut Random(3);
    let mut batch = long(random, 5000, 20, 2, 2);
    let first = batch.sequences[0].first_position;
    batch.sequences[0].lanes[0].expires_at.fill(first + 10);
    batch.sequences[0].lanes[0].positions.iter_mut().for_each(|position| *position = (*position).min(first));
    for &isa in Isa::available() {
        let out = batch.run(isa, 2);
        let (seeing, blind) = out.split_at(10 * batch.stride);
        assert!(seeing.chunks(batch.stride).all(|row| row.iter().any(|&x| x != 0.0)));
        assert_eq!(bits(blind), vec![0; blind.len()]);
    }
    batch.sequences[0].lanes[0] = Lane::new(batch.sequences[0].lanes[0].layout.clone());
    assert_eq!(bits(&batch.run(Isa::best(), 2)), vec![0; batch.out().len()], "an empty lane");
}

#[test]
fn scores_far_apart_stay_finite() {
    for &isa in Isa::available() {
        let shape = AttentionShape { query_heads: 1, kv_heads: 1, head_dim: 1, scale: 1.0 };
        let mut lane = Lane::new(PageLayout::new(1, 1, vec![], DType::F32).unwrap());
        for i in 0..3000u32 {
            lane.push(i, u32::MAX, &[(i as f32 - 1500.0) * 1e30], &[i as f32]);
        }
        let sequences = vec![Sequence { lanes: vec![lane], first_row: 0, queries: 1, first_position: 3000 }];
        let batch = Batch { shape, sequences, query: vec![1.0], stride: 1 };
        assert_eq!(batch.run(isa, 2), [2999.0]);
    }
}

#[test]
fn a_nan_in_a_query_shows_in_its_own_row_only() {
    let mut batch = long(&mut Random(6), 300, 3, 1, 1);
    batch.query[batch.stride] = f32::NAN;
    for &isa in Isa::available() {
        let out = batch.run(isa, 1);
        let rows: Vec<&[f32]> = out.chunks(batch.stride).collect();
        assert!(rows[1].iter().all(|x| x.is_nan()));
        assert!(rows[0].iter().chain(rows[2]).all(|x| x.is_finite()));
    }
}

#[test]
fn misuse_is_an_error_and_never_a_panic() {
    let random = &mut Random(4);
    let batch = long(random, 50, 4, 2, 2);
    let team = Team::new(1).unwrap();
    let good = batch.sequences[0].rows();
    let call =
        |shape: &AttentionShape, rows: &[AttentionRows<'_>], query: &[f32], stride: usize, len: usize| {
            attention(&team, shape, rows, query, stride, &mut vec![0.0; len]).is_err()
        };
    let (shape, query, stride, len) = (batch.shape, &batch.query[..], batch.stride, 4 * batch.stride);
    assert!(!call(&shape, std::slice::from_ref(&good), query, stride, len));
    assert!(call(&AttentionShape { kv_heads: 3, ..shape }, &[], query, stride, len));
    assert!(call(&AttentionShape { kv_heads: 0, ..shape }, &[], query, stride, len));
    assert!(call(&AttentionShape { head_dim: 0, ..shape }, &[], query, stride, 0));
    assert!(call(&AttentionShape { head_dim: usize::MAX / 2, ..shape }, &[], query, stride, len));
    assert!(call(&AttentionShape { scale: f32::NAN, ..shape }, &[], query, stride, len));
    assert!(call(&AttentionShape { head_dim: 8, ..shape }, std::slice::from_ref(&good), query, stride, len));
    assert!(call(&shape, &[], query, stride - 1, len));
    assert!(call(&shape, &[], query, usize::MAX, len));
    assert!(call(&shape, &[], &query[1..], stride, len));
    assert!(call(&shape, &[], query, stride, len - 1));
    assert!(call(&shape, &[good.clone(), good.clone()], query, stride, len), "rows twice");
    assert!(call(&shape, &[AttentionRows { first_row: 1, ..good.clone() }], query, stride, len));
    assert!(call(&shape, &[AttentionRows { first_row: usize::MAX, ..good.clone() }], query, stride, len));
    assert!(call(
        &shape,
        &[AttentionRows { first_position: u32::MAX - 3, ..good.clone() }],
        query,
        stride,
        len
    ));
    assert!(call(&shape, &[AttentionRows { lanes: vec![], ..good.clone() }], query, stride, len));
    let mut short = good.clone();
    short.lanes[0].pages.pop();
    assert!(call(&shape, &[short], query, stride, len));
    let mut torn = good.clone();
    torn.lanes[0].expires_at = &torn.lanes[0].expires_at[1..];
    assert!(call(&shape, &[torn], query, stride, len));
    let other = Buffer::zeroed(DType::F16, batch.sequences[0].lanes[0].layout.elements());
    let mut mixed = good;
    mixed.lanes[0].pages[1] = &other;
    assert!(call(&shape, &[mixed], query, stride, len));
}
