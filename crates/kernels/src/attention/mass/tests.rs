use proptest::prelude::*;

use super::*;
use crate::testing::{Lane, Random};
use crate::{DType, KvFormat, PageLayout};

/// Largest difference to f64 of a sum over up to 40 queries, each of which gives at most 1, in f32.
const TOLERANCE: f64 = 5e-5;

struct Case {
    shape: AttentionShape,
    lanes: Vec<Lane>,
    first_row: usize,
    queries: usize,
    first_position: u32,
    query: Vec<f32>,
    stride: usize,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let kv_heads = 1 + random.below(3);
        let group = random.pick(&[1, 2, 3, 4, 7, 13]);
        let head_dim = random.pick(&[1, 8, 20, 33, 64, 128]);
        let dtype = random.pick(&KvFormat::ALL);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { query_heads: kv_heads * group, kv_heads, head_dim, scale };
        let split = random.below(2) == 0;
        let (lanes, heads) = if split { (kv_heads, 1) } else { (1, kv_heads) };
        let entries = random.below(300);
        let lane = |random: &mut Random| {
            let entries = if split { random.below(entries + 1) } else { entries };
            Lane::random(random, PageLayout::new(heads, head_dim, vec![3], dtype).unwrap(), entries)
        };
        let lanes = (0..lanes).map(|_| lane(random)).collect();
        let (first_row, queries) = (random.below(3), random.pick(&[0, 1, 2, 5, 14, 40]));
        let first_position = random.below(entries + 10) as u32;
        let stride = shape.query_heads * head_dim + random.below(3) * 5;
        let query = (0..(first_row + queries) * stride).map(|_| 4.0 * random.real()).collect();
        Self { shape, lanes, first_row, queries, first_position, query, stride }
    }

    fn rows(&self, skip: usize, queries: usize) -> AttentionRows<'_> {
        AttentionRows {
            first_row: self.first_row + skip,
            queries,
            first_position: self.first_position + skip as u32,
            lanes: self.lanes.iter().map(Lane::view).collect(),
        }
    }

    fn entries(&self, head: usize) -> usize {
        self.lanes[head.min(self.lanes.len() - 1)].positions.len()
    }

    /// Adds the mass of some queries to what is there.
    fn add(&self, isa: Isa, threads: usize, skip: usize, queries: usize, mass: &mut [Vec<f32>]) {
        let team = Team::new(threads).unwrap();
        let mut mass: Vec<&mut [f32]> = mass.iter_mut().map(Vec::as_mut_slice).collect();
        let rows = self.rows(skip, queries);
        attention_mass_with(isa, &team, &self.shape, &[rows], &self.query, self.stride, &mut mass).unwrap();
    }

    fn zeros(&self, rows: usize) -> Vec<Vec<f32>> {
        (0..self.shape.kv_heads).map(|head| vec![0.0; rows * self.entries(head)]).collect()
    }

    /// Of each KV head `[group, e]`, in f64, by the definition.
    fn slowly(&self) -> Vec<Vec<f64>> {
        let (d, group) = (self.shape.head_dim, self.shape.query_heads / self.shape.kv_heads);
        let head = |head: usize| {
            let (lane, lane_head) =
                if self.lanes.len() == 1 { (&self.lanes[0], head) } else { (&self.lanes[head], 0) };
            let entries = lane.positions.len();
            let mut mass = vec![0.0; group * entries];
            for (query, member) in (0..self.queries).flat_map(|query| (0..group).map(move |m| (query, m))) {
                let at = (self.first_row + query) * self.stride + (head * group + member) * d;
                let position = self.first_position + query as u32;
                let score = |e: usize| {
                    let seen = lane.positions[e] <= position && position < lane.expires_at[e];
                    let key =
                        lane.layout.read_key(&lane.pages[e / PAGE_ENTRIES], e % PAGE_ENTRIES, lane_head);
                    let products = self.query[at..][..d].iter().zip(key.unwrap());
                    let dot: f64 = products.map(|(&a, b)| f64::from(a) * f64::from(b)).sum();
                    if seen { dot * f64::from(self.shape.scale) } else { f64::NEG_INFINITY }
                };
                let scores: Vec<f64> = (0..entries).map(score).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
                if top > f64::NEG_INFINITY {
                    let row = mass[member * entries..].iter_mut().zip(&scores);
                    row.for_each(|(mass, score)| *mass += (score - top).exp() / sum);
                }
            }
            mass
        };
        (0..self.shape.kv_heads).map(head).collect()
    }
}

proptest! {
    #[test]
    fn mass_is_the_column_sum_of_the_probabilities(seed: u64) {
        let case = Case::random(&mut Random(seed));
        let group = case.shape.query_heads / case.shape.kv_heads;
        let expected = case.slowly();
        for &isa in Isa::available() {
            let (mut apart, mut together) = (case.zeros(group), case.zeros(1));
            case.add(isa, 2, 0, case.queries, &mut apart);
            case.add(isa, 1, 0, case.queries, &mut together);
            for (head, expected) in expected.iter().enumerate() {
                for (found, expected) in apart[head].iter().zip(expected) {
                    prop_assert!((f64::from(*found) - expected).abs() < TOLERANCE, "{found} {expected}");
                }
                for (entry, found) in together[head].iter().enumerate() {
                    let sum: f64 = expected.iter().skip(entry).step_by(case.entries(head)).sum();
                    prop_assert!((f64::from(*found) - sum).abs() < TOLERANCE * group as f64, "{found} {sum}");
                }
            }
        }
    }

    #[test]
    fn codes_give_the_mass_of_the_numbers_that_they_stand_for(seed: u64) {
        let case = Case::random(&mut Random(seed));
        let lanes = case.lanes.iter().map(|lane| lane.in_format(KvFormat::F32)).collect();
        let twin = Case { lanes, query: case.query.clone(), ..case };
        for &isa in Isa::available() {
            let (mut of_codes, mut of_numbers) = (case.zeros(1), case.zeros(1));
            case.add(isa, 2, 0, case.queries, &mut of_codes);
            twin.add(isa, 1, 0, case.queries, &mut of_numbers);
            prop_assert_eq!(of_codes, of_numbers);
        }
    }

    #[test]
    fn neither_chunks_nor_threads_change_a_bit(seed: u64, chunk in 1..20usize) {
        let case = Case::random(&mut Random(seed));
        for &isa in Isa::available() {
            let (mut whole, mut cut) = (case.zeros(1), case.zeros(1));
            case.add(isa, 1, 0, case.queries, &mut whole);
            for skip in (0..case.queries).step_by(chunk) {
                case.add(isa, 3, skip, chunk.min(case.queries - skip), &mut cut);
            }
            prop_assert_eq!(&whole, &cut);
        }
    }
}

#[test]
fn sequences_that_share_a_call_get_what_each_gets_alone() {
    let random = &mut Random(9);
    let shape = AttentionShape { query_heads: 6, kv_heads: 2, head_dim: 24, scale: 0.2 };
    let layout = PageLayout::new(2, 24, vec![], DType::Bf16).unwrap();
    // More exponentials than are held at a time, beside next to nothing.
    let lanes: Vec<Lane> =
        [700, 0, 5, 300].iter().map(|&entries| Lane::random(random, layout.clone(), entries)).collect();
    let queries = [300, 4, 0, 1];
    let query: Vec<f32> = (0..305 * 144).map(|_| 4.0 * random.real()).collect();
    let item = |i: usize| AttentionRows {
        first_row: queries[..i].iter().sum(),
        queries: queries[i],
        first_position: 40,
        lanes: vec![lanes[i].view()],
    };
    let lengths = || lanes.iter().flat_map(|lane| [lane.positions.len(); 2]);
    for &isa in Isa::available() {
        let mut alone: Vec<Vec<f32>> = lengths().map(|entries| vec![0.5; entries]).collect();
        let mut together = alone.clone();
        for (i, mass) in alone.chunks_mut(2).enumerate() {
            let mut mass: Vec<&mut [f32]> = mass.iter_mut().map(Vec::as_mut_slice).collect();
            let team = Team::new(1).unwrap();
            attention_mass_with(isa, &team, &shape, &[item(i)], &query, 144, &mut mass).unwrap();
        }
        let mut mass: Vec<&mut [f32]> = together.iter_mut().map(Vec::as_mut_slice).collect();
        let (team, all) = (Team::new(3).unwrap(), [0, 1, 2, 3].map(item));
        attention_mass_with(isa, &team, &shape, &all, &query, 144, &mut mass).unwrap();
        assert_eq!(alone, together);
        let given: f32 = together[0].iter().map(|mass| mass - 0.5).sum();
        assert!((given - 900.0).abs() < 0.1, "{given}");
    }
}

#[test]
fn misuse_is_an_error_and_never_a_panic() {
    let random = &mut Random(5);
    let lane = Lane::random(random, PageLayout::new(2, 4, vec![], DType::F32).unwrap(), 70);
    let team = Team::new(1).unwrap();
    let shape = AttentionShape { query_heads: 4, kv_heads: 2, head_dim: 4, scale: 0.5 };
    let call = |shape: AttentionShape, queries, first_position, numbers: usize, masses: [usize; 2]| {
        let rows = AttentionRows { first_row: 1, queries, first_position, lanes: vec![lane.view()] };
        let [mut first, mut second] = masses.map(|len| vec![0.0; len]);
        let mut mass = [&mut first[..], &mut second[..]];
        attention_mass(&team, &shape, &[rows], &vec![0.0; numbers], 16, &mut mass).is_err()
    };
    assert!(!call(shape, 2, 9, 48, [70, 140]));
    assert!(call(shape, 2, 9, 47, [70, 140]), "too few queries");
    assert!(call(shape, 2, 9, 48, [70, 71]), "a mass of another length");
    assert!(call(shape, 2, u32::MAX - 1, 48, [70, 70]), "positions end");
    assert!(call(AttentionShape { query_heads: 3, ..shape }, 2, 9, 48, [70, 70]), "heads do not divide");
    assert!(call(AttentionShape { kv_heads: 4, ..shape }, 2, 9, 48, [70, 70]), "other lanes");
}
