//! The three kernels of the device against the definition.

mod agreement;
mod recorded;

use super::cuda::DeviceAttention;
use super::reference::attention as attention_reference;
use super::{AttentionRows, AttentionShape};
use crate::cuda::testing::decoded;
use crate::cuda::testing::sequences::{
    Sequences, fused_rows, place, random_queries, random_sequences, rows_of,
};
use crate::cuda::{Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Specialisation, StepSize};
use crate::testing::{Lane, Random};
use crate::{CodeBits, DType};

/// f32 sums over some thousand values in [-1, 1], and exponentials that are approximations.
const SUMS: f32 = 3e-5;
/// Layers of the lanes; the other one is empty, so that a wrong lane number shows.
const LAYERS: usize = 2;
const LAYER: usize = 1;
const NEVER: u32 = u32::MAX;

/// Largest error of a number below 1 in a format.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 0.0,
        DType::F16 => 2f32.powi(-12),
        DType::Bf16 => 2f32.powi(-9),
    }
}

fn shape(
    weights: DType,
    cache: DType,
    heads: (usize, usize),
    groups: usize,
    head_dim: usize,
) -> Specialisation {
    let (query_heads, kv_heads) = heads;
    Specialisation {
        weights,
        cache,
        codes: None,
        query_heads,
        kv_heads,
        groups,
        head_dim,
        hidden: 64,
        side_width: 0,
        statistics: 0,
    }
}

/// Sequences with lanes and queries, some of them padding.
struct Batch {
    specialisation: Specialisation,
    /// Lanes and the span of each sequence; slots are in another order than spans.
    sequences: Sequences,
    rows: usize,
    query: Vec<f32>,
    scale: f32,
}

impl Batch {
    /// One sequence for each `(entries, queries)`, `None` for padding.
    fn random(
        random: &mut Random,
        specialisation: &Specialisation,
        sequences: &[Option<(usize, usize)>],
    ) -> Self {
        let first = |random: &mut Random, entries: usize, queries: usize| {
            random.below(entries + 10).max(queries) - queries
        };
        let sequences = random_sequences(random, specialisation, sequences, first);
        let rows = rows_of(&sequences);
        let query = random_queries(random, specialisation, rows);
        let scale = 1.0 / (specialisation.head_dim as f32).sqrt();
        Self { specialisation: *specialisation, sequences, rows, query, scale }
    }

    fn expected(&self) -> Vec<f32> {
        let Specialisation { query_heads, kv_heads, head_dim, .. } = self.specialisation;
        let shape = AttentionShape { query_heads, kv_heads, head_dim, scale: self.scale };
        let real = self.sequences.iter().filter(|(_, span)| span.slot != NEVER);
        let rows: Vec<_> = real
            .map(|(lanes, span)| AttentionRows {
                first_row: span.first_row as usize,
                queries: span.queries as usize,
                first_position: span.first_position,
                lanes: lanes.iter().map(Lane::view).collect(),
            })
            .collect();
        let width = query_heads * head_dim;
        let mut out = vec![f32::NAN; self.rows * width];
        attention_reference(&shape, &rows, &self.query, width, &mut out).unwrap();
        out
    }
}

/// A batch on the device.
struct Loaded {
    specialisation: Specialisation,
    lanes: DeviceLanes,
    step: DeviceStep,
    spans: Vec<DeviceSpan>,
    size: StepSize,
    scale: f32,
    qkv: DeviceBuffer<u8>,
    mixed: DeviceBuffer<u8>,
}

impl Loaded {
    /// Room for batches of up to `spans` sequences and `rows` rows, nothing in it.
    fn empty(
        device: &Device,
        specialisation: &Specialisation,
        spans: usize,
        rows: usize,
        pages: usize,
    ) -> Self {
        let Specialisation { weights, query_heads, kv_heads, groups, head_dim, .. } = *specialisation;
        let row = head_dim * weights.bytes();
        let qkv = DeviceBuffer::zeroed(device, "queries", rows * (query_heads + 2 * kv_heads) * row);
        // A row more than there is, to see that nobody writes it.
        let mixed = DeviceBuffer::uninitialized(device, "mixed", (rows + 1) * query_heads * row);
        let lanes = DeviceLanes::new(device, specialisation, LAYERS, spans, pages * 32, pages + 1).unwrap();
        let step = DeviceStep::new(device, LAYERS, groups, rows, spans).unwrap();
        let padding = vec![DeviceSpan { slot: NEVER, first_row: 0, queries: 1, first_position: 0 }; spans];
        step.spans.write(0, &padding).unwrap();
        Self {
            specialisation: *specialisation,
            lanes,
            step,
            spans: padding,
            size: StepSize { rows, spans },
            scale: 1.0,
            qkv: qkv.unwrap(),
            mixed: mixed.unwrap(),
        }
    }

    fn new(device: &Device, batch: &Batch) -> Self {
        let lanes = batch.sequences.iter().flat_map(|(lanes, _)| lanes);
        let pages = lanes.map(|lane| lane.pages.len()).sum();
        let spans = batch.sequences.len();
        let mut loaded = Self::empty(device, &batch.specialisation, spans, batch.rows, pages);
        loaded.fill(batch);
        loaded
    }

    fn fill(&mut self, batch: &Batch) {
        place(&self.lanes, &self.step, LAYER, &batch.sequences, None);
        self.spans = batch.sequences.iter().map(|&(_, span)| span).collect();
        self.qkv.write(0, &fused_rows(&self.specialisation, &batch.query)).unwrap();
        self.scale = batch.scale;
    }

    fn decode(&self, attention: &DeviceAttention) {
        let lanes = &self.lanes;
        attention
            .decode(lanes, &self.step, self.size, LAYER, self.scale, &self.qkv, &self.mixed, None)
            .unwrap();
    }

    fn prefill(&self, attention: &DeviceAttention) {
        let lanes = &self.lanes;
        attention
            .prefill(lanes, &self.step, &self.spans, LAYER, self.scale, &self.qkv, &self.mixed, None)
            .unwrap();
    }

    fn poison(&self) {
        self.mixed.fill_bytes(0xff).unwrap();
    }

    fn mixed(&self) -> Vec<f32> {
        decoded(self.specialisation.weights, &self.mixed.read().unwrap())
    }
}

/// Rows of padding may hold anything and are NaN in `expected`; the row behind the last must be untouched.
fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    let (got, behind) = got.split_at(expected.len());
    assert!(behind.iter().all(|x| x.is_nan()), "{what}: written past the last row");
    for (i, (&got, &want)) in got.iter().zip(expected).enumerate() {
        assert!(want.is_nan() || (got - want).abs() <= tolerance, "{what}: element {i} is {got}, not {want}");
    }
}

/// Checks a kernel, that it repeats itself, and its slow twin; `run` is decode or prefill.
fn check(device: &Device, batch: &Batch, fast: &DeviceAttention, run: fn(&Loaded, &DeviceAttention)) {
    let Specialisation { weights, cache, .. } = batch.specialisation;
    let lengths: Vec<_> =
        batch.sequences.iter().map(|(lanes, span)| (lanes[0].positions.len(), span)).collect();
    let what = format!("{:?} {lengths:?}", batch.specialisation);
    let loaded = Loaded::new(device, batch);
    let expected = batch.expected();
    // Values are below 1, and so are their means.
    let slow_tolerance = SUMS + rounding(weights);
    loaded.poison();
    run(&loaded, fast);
    let first = loaded.mixed();
    // A weight between two powers of two may be off by twice as much, relative to itself.
    let codes = batch.specialisation.codes;
    // What codes stand for is rounded once more.
    let fast_tolerance = slow_tolerance + if codes.is_some() { 4.0 } else { 2.0 } * rounding(cache);
    assert_close(&what, &first, &expected, fast_tolerance);
    loaded.poison();
    run(&loaded, fast);
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&first), bits(&loaded.mixed()), "{what}: not the same bits twice");
    let slow = DeviceAttention::slow(device, &batch.specialisation, batch.sequences.len()).unwrap();
    loaded.poison();
    run(&loaded, &slow);
    assert_close(&format!("slow {what}"), &loaded.mixed(), &expected, slow_tolerance);
}

/// Formats, sharing, grouping and widths that together reach every constant of the kernels.
fn specialisations() -> Vec<Specialisation> {
    use CodeBits::{Eight, Four};
    use DType::{Bf16, F16, F32};
    let coded = |bits, shape| Specialisation { codes: Some(bits), ..shape };
    vec![
        shape(F32, F16, (8, 2), 1, 64),
        shape(F32, F16, (8, 2), 2, 128),
        shape(Bf16, Bf16, (4, 4), 1, 64),
        shape(Bf16, Bf16, (16, 2), 1, 128),
        shape(F16, Bf16, (8, 2), 1, 80),
        shape(F32, F16, (14, 2), 2, 96),
        Specialisation { side_width: 24, ..shape(F32, F16, (4, 1), 1, 256) },
        shape(F32, F16, (13, 1), 1, 64),
        shape(F32, F32, (8, 2), 1, 64),
        Specialisation { side_width: 4, ..shape(F32, F32, (4, 2), 2, 8) },
        shape(F32, F16, (4, 2), 1, 8),
        shape(F32, Bf16, (2, 1), 1, 33),
        coded(Eight, shape(Bf16, F16, (16, 2), 1, 128)),
        coded(Four, shape(Bf16, F16, (32, 8), 1, 128)),
        coded(Four, shape(F32, F16, (8, 2), 2, 64)),
        coded(Eight, shape(F32, F16, (8, 2), 1, 80)),
        coded(Four, shape(F16, F16, (14, 2), 2, 96)),
        Specialisation { side_width: 24, ..coded(Four, shape(F32, F16, (4, 1), 1, 256)) },
        coded(Eight, shape(F32, F16, (13, 1), 1, 64)),
        Specialisation { side_width: 4, ..coded(Four, shape(F32, F16, (4, 2), 2, 8)) },
        coded(Eight, shape(F32, F16, (4, 2), 1, 40)),
    ]
}
