//! What entries got from queries: after prompts, and as decode steps tell it.

use super::{LAYER, LAYERS, coded, score_of, settings, shape};
use crate::attention::{DeviceAttention, ToldScores};
use crate::cuda::testing::device;
use crate::cuda::testing::entries::read;
use crate::cuda::testing::sequences::{
    Sequences, fused_rows, place, random_queries, random_sequences, rows_of,
};
use crate::cuda::{Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Specialisation, StepSize};
use crate::ranking::{DeviceRanking, RankingSize, Score};
use crate::testing::{Lane, Random};
use crate::{AttentionRows, AttentionShape, CodeBits, DType, Team, attention_mass};

/// Sums of probabilities in another order, of f32 products; of 16-bit ones, whose powers of two are approximate; and of codes, whose
/// numbers are rounded to 16 bits besides.
const EXACT: f32 = 2e-5;
const HALF: f32 = 2e-4;
const CODES: f32 = 2.0 * HALF;

/// Sequences with lanes and queries.
pub(super) struct Batch {
    pub(super) specialisation: Specialisation,
    pub(super) sequences: Sequences,
    /// `[rows, h d]`
    pub(super) query: Vec<f32>,
    pub(super) scale: f32,
    /// Of each lane in the order of the sequences, what stands beside its entries beforehand.
    pub(super) sums: Vec<Vec<f32>>,
}

impl Batch {
    /// One sequence for each `(entries, queries)`, `None` for padding; slots are in another order than spans.
    pub(super) fn random(
        random: &mut Random,
        specialisation: Specialisation,
        sequences: &[Option<(usize, usize)>],
    ) -> Self {
        // A lane has no more entries than its sequence has tokens.
        let first = |random: &mut Random, entries: usize, queries: usize| {
            (entries + random.below(4) * entries / 3).max(queries) - queries
        };
        let sequences = random_sequences(random, &specialisation, sequences, first);
        let lanes = sequences.iter().flat_map(|(lanes, _)| lanes);
        let sums = lanes.map(|lane| random.row(lane.positions.len())).collect();
        let query = random_queries(random, &specialisation, rows_of(&sequences));
        let scale = 1.0 / (specialisation.head_dim as f32).sqrt();
        Self { specialisation, sequences, query, scale, sums }
    }

    /// The sums beside each lane's entries after the last `window` queries, where each multiplies what was there by `factor`;
    /// `keeps` says whether anything was.
    fn expected(&self, team: &Team, window: u32, factor: f32, keeps: bool) -> Vec<Vec<f32>> {
        let Specialisation { query_heads, kv_heads, groups, head_dim, .. } = self.specialisation;
        let shape = AttentionShape { query_heads, kv_heads, head_dim, scale: self.scale };
        let mut all = self.sums.clone();
        for ((lanes, span), sums) in self.sequences.iter().zip(all.chunks_mut(groups)) {
            if !keeps && span.slot != u32::MAX {
                sums.iter_mut().flatten().for_each(|sum| *sum = 0.0);
            }
            for query in 0..span.queries {
                if span.slot == u32::MAX {
                    continue;
                }
                sums.iter_mut().flatten().for_each(|sum| *sum *= factor);
                if query.saturating_add(window) < span.queries {
                    continue;
                }
                let rows = AttentionRows {
                    first_row: (span.first_row + query) as usize,
                    queries: 1,
                    first_position: span.first_position + query,
                    lanes: lanes.iter().map(Lane::view).collect(),
                };
                let mut mass: Vec<Vec<f32>> =
                    (0..kv_heads).map(|head| vec![0.0; lanes[head % lanes.len()].positions.len()]).collect();
                let mut slices: Vec<&mut [f32]> = mass.iter_mut().map(Vec::as_mut_slice).collect();
                let width = query_heads * head_dim;
                attention_mass(team, &shape, &[rows], &self.query, width, &mut slices).unwrap();
                for (head, mass) in mass.iter().enumerate() {
                    sums[head % groups].iter_mut().zip(mass).for_each(|(sum, mass)| *sum += mass);
                }
            }
        }
        all
    }
}

/// A batch on the device.
pub(super) struct Loaded {
    pub(super) lanes: DeviceLanes,
    step: DeviceStep,
    size: StepSize,
    pub(super) qkv: DeviceBuffer<u8>,
    pages: usize,
}

impl Loaded {
    pub(super) fn new(device: &Device, batch: &Batch) -> Self {
        let spans = batch.sequences.len();
        let lengths = batch.sums.iter().map(Vec::len);
        let longest = lengths.clone().max().unwrap_or(0);
        let pages: usize = lengths.map(|length| length.div_ceil(32)).sum();
        let lanes = DeviceLanes::new(device, &batch.specialisation, LAYERS, spans, longest + 32, pages + 1);
        let (lanes, rows) = (lanes.unwrap(), rows_of(&batch.sequences));
        let step = DeviceStep::new(device, LAYERS, batch.specialisation.groups, rows, spans).unwrap();
        place(&lanes, &step, LAYER, &batch.sequences, Some(&batch.sums));
        let qkv = fused_rows(&batch.specialisation, &batch.query);
        let qkv = DeviceBuffer::copy_of(device, "queries", &qkv).unwrap();
        Self { lanes, step, size: StepSize { rows, spans }, qkv, pages }
    }

    pub(super) fn ranking(&self, device: &Device, batch: &Batch, score: Score) -> DeviceRanking {
        let size =
            RankingSize { rows: self.size.rows, spans: self.size.spans, layers: LAYERS, positions: 4096 };
        DeviceRanking::new(device, &batch.specialisation, settings(score), size).unwrap()
    }

    /// Compares what stands beside the entries.
    pub(super) fn check(&self, batch: &Batch, expected: &[Vec<f32>], case: &str) {
        let groups = batch.specialisation.groups;
        let tolerance = match batch.specialisation {
            Specialisation { codes: Some(_), .. } => CODES,
            Specialisation { cache: DType::F32, .. } => EXACT,
            _ => HALF,
        };
        let found = read(&self.lanes);
        for (index, expected) in expected.iter().enumerate() {
            let slot = batch.sequences[index / groups].1.slot;
            if slot == u32::MAX {
                continue;
            }
            let found = &found[(slot as usize * LAYERS + LAYER) * groups + index % groups];
            assert_eq!(found.len(), expected.len());
            for (entry, (found, &expected)) in found.iter().zip(expected).enumerate() {
                let found = score_of(found);
                let off = (found - expected).abs();
                assert!(
                    off <= tolerance * (1.0 + expected.abs()),
                    "{case} {:?} lane {index} entry {entry}: {found}, not {expected}",
                    batch.specialisation
                );
            }
        }
    }
}

fn shapes() -> [Specialisation; 9] {
    use DType::{Bf16, F16, F32};
    [
        shape(F32, (4, 2), 2, 8),
        shape(F32, (4, 4), 1, 64),
        shape(F32, (6, 2), 1, 80),
        shape(Bf16, (8, 2), 2, 64),
        shape(F16, (8, 2), 1, 128),
        shape(Bf16, (3, 1), 1, 40),
        shape(F16, (14, 2), 2, 256),
        coded(CodeBits::Eight, shape(F16, (8, 2), 1, 128)),
        coded(CodeBits::Four, shape(F16, (4, 2), 2, 40)),
    ]
}

#[test]
fn cuda_entries_get_from_a_prompt_what_they_get_on_the_processor() {
    let Some(device) = device("cuda_entries_get_from_a_prompt_what_they_get_on_the_processor") else {
        return;
    };
    let (random, team) = (&mut Random(11), Team::new(2).unwrap());
    for specialisation in shapes() {
        let sequences = [
            Some((70, 9)),
            Some((1, 1)),
            None,
            Some((300, 40)),
            Some((33, 33)),
            Some((0, 3)),
            Some((130, 1)),
        ];
        for (score, window, factor, keeps) in [
            (Score::Attention { factor: 1.0, per_query: false }, u32::MAX, 1.0, true),
            (Score::Attention { factor: 0.5, per_query: false }, u32::MAX, 0.5, true),
            (Score::Attention { factor: 0.0, per_query: false }, u32::MAX, 0.0, true),
            (Score::Window { window: 7, kernel: 5, largest: false, apart: false }, 7, 1.0, false),
        ] {
            let batch = Batch::random(random, specialisation, &sequences);
            let loaded = Loaded::new(&device, &batch);
            let ranking = loaded.ranking(&device, &batch, score);
            for (_, span) in batch.sequences.iter().filter(|(_, span)| span.slot != u32::MAX) {
                ranking.observe(&loaded.lanes, span, (LAYER, batch.scale), &loaded.qkv, None, None).unwrap();
            }
            loaded.check(&batch, &batch.expected(&team, window, factor, keeps), &format!("{score:?}"));
        }
    }
}

#[test]
fn cuda_what_attention_tells_of_its_rows_spares_a_pass_and_changes_no_sum() {
    let name = "cuda_what_attention_tells_of_its_rows_spares_a_pass_and_changes_no_sum";
    let Some(device) = device(name) else { return };
    let (random, team) = (&mut Random(13), Team::new(2).unwrap());
    let wide = [shape(DType::Bf16, (16, 1), 1, 96), shape(DType::F16, (2, 2), 2, 64)];
    let mixed_formats = Specialisation { weights: DType::F32, ..shape(DType::Bf16, (8, 4), 4, 128) };
    let mut served = 0;
    for specialisation in shapes().into_iter().chain(wide).chain([mixed_formats]) {
        // Tiles of one query's heads and of many, lanes of more blocks than one, and next to nothing.
        let sequences = [
            Some((70, 9)),
            Some((700, 300)),
            None,
            Some((130, 1)),
            Some((0, 3)),
            Some((33, 33)),
            Some((257, 65)),
        ];
        for (score, window, factor, keeps) in [
            (Score::Attention { factor: 1.0, per_query: false }, u32::MAX, 1.0, true),
            (Score::Attention { factor: 0.5, per_query: false }, u32::MAX, 0.5, true),
            (Score::Attention { factor: 0.0, per_query: false }, u32::MAX, 0.0, true),
            (Score::Window { window: 64, kernel: 5, largest: false, apart: false }, 64, 1.0, false),
        ] {
            let batch = Batch::random(random, specialisation, &sequences);
            let loaded = Loaded::new(&device, &batch);
            let ranking = loaded.ranking(&device, &batch, score);
            let attention = DeviceAttention::new(&device, &specialisation, sequences.len()).unwrap();
            let spans: Vec<DeviceSpan> = batch.sequences.iter().map(|&(_, span)| span).collect();
            let heads = loaded.size.rows * specialisation.query_heads;
            let bytes = heads * specialisation.head_dim * specialisation.weights.bytes();
            let mixed = || DeviceBuffer::<u8>::zeroed(&device, "mixed", bytes).unwrap();
            let (with, without) = (mixed(), mixed());
            let sums = DeviceBuffer::<f32>::zeroed(&device, "sums", heads).unwrap();
            let (lanes, step, scale, qkv) = (&loaded.lanes, &loaded.step, batch.scale, &loaded.qkv);
            let told = attention.prefill(lanes, step, &spans, LAYER, scale, qkv, &with, Some(&sums)).unwrap();
            attention.prefill(lanes, step, &spans, LAYER, scale, qkv, &without, None).unwrap();
            assert!(with.read().unwrap() == without.read().unwrap(), "telling changes nothing");
            served += usize::from(told);
            for span in spans.iter().filter(|span| span.slot != u32::MAX) {
                ranking.observe(lanes, span, (LAYER, scale), qkv, told.then_some(&sums), None).unwrap();
            }
            loaded.check(&batch, &batch.expected(&team, window, factor, keeps), &format!("{score:?}"));
        }
    }
    assert_eq!(served, 4 * 7, "shapes that tensor cores serve");
}

/// Lets a decode step tell its scores, and a ranking add them to its own; being told changes nothing of the step.
pub(super) fn told_by(
    device: &Device,
    attention: &DeviceAttention,
    loaded: &Loaded,
    batch: &Batch,
    ranking: &DeviceRanking,
) {
    let specialisation = &batch.specialisation;
    let mixed = || {
        let numbers = loaded.size.rows * specialisation.query_heads * specialisation.head_dim;
        DeviceBuffer::<u8>::zeroed(device, "mixed", numbers * specialisation.weights.bytes()).unwrap()
    };
    let told = ToldScores::new(device, specialisation, loaded.pages, batch.sequences.len()).unwrap();
    // What is told is told anew.
    told.scores.fill_bytes(0xff).unwrap();
    told.stats.fill_bytes(0xff).unwrap();
    let (lanes, step, size, scale) = (&loaded.lanes, &loaded.step, loaded.size, batch.scale);
    let (with, without) = (mixed(), mixed());
    let attend = |mixed, told| {
        attention.decode(lanes, step, size, LAYER, scale, &loaded.qkv, mixed, told).unwrap();
    };
    attend(&without, None);
    attend(&with, Some(&told));
    ranking.observe_decoded(lanes, step, size, LAYER, &told).unwrap();
    assert!(with.read().unwrap() == without.read().unwrap(), "telling changes nothing: {specialisation:?}");
}

#[test]
fn cuda_decode_steps_tell_what_their_queries_give() {
    let Some(device) = device("cuda_decode_steps_tell_what_their_queries_give") else { return };
    let (random, team) = (&mut Random(12), Team::new(2).unwrap());
    for specialisation in shapes() {
        let lengths = [Some(70), Some(1), None, Some(3000), Some(33), Some(0), Some(128), Some(900), None];
        let sequences = lengths.map(|length| length.map(|length| (length, 1)));
        for factor in [1.0, 0.25, 0.0] {
            let batch = Batch::random(random, specialisation, &sequences);
            let make = [DeviceAttention::new, DeviceAttention::slow];
            for (which, make) in make.iter().enumerate() {
                let loaded = Loaded::new(&device, &batch);
                let attention = make(&device, &specialisation, sequences.len()).unwrap();
                let score = Score::Attention { factor, per_query: false };
                let ranking = loaded.ranking(&device, &batch, score);
                told_by(&device, &attention, &loaded, &batch, &ranking);
                let expected = batch.expected(&team, u32::MAX, factor, true);
                loaded.check(&batch, &expected, &format!("{which} {factor}"));
            }
        }
    }
}
