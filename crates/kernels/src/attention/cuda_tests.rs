//! The three kernels of the device against the definition.

use super::cuda::DeviceAttention;
use super::reference::attention as attention_reference;
use super::{AttentionRows, AttentionShape};
use crate::cuda::testing::{decoded, device, encoded, first_pages, page_bytes};
use crate::cuda::{
    Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Graph, Row, Specialisation, StepSize,
};
use crate::lifetimes::DeviceLifetimes;
use crate::rope::{Births, DeviceAppend};
use crate::testing::{Lane, Random};
use crate::{DType, PageLayout};

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
    Specialisation { weights, cache, query_heads, kv_heads, groups, head_dim, hidden: 64, side_width: 0 }
}

/// Sequences with lanes and queries, some of them padding.
struct Batch {
    specialisation: Specialisation,
    /// Lanes and the span of each sequence; slots are in another order than spans.
    sequences: Vec<(Vec<Lane>, DeviceSpan)>,
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
        let Specialisation { weights, cache, query_heads, kv_heads, groups, head_dim, side_width, .. } =
            *specialisation;
        let sides = if side_width > 0 { vec![side_width] } else { vec![] };
        let layout = PageLayout::new(kv_heads / groups, head_dim, sides, cache).unwrap();
        let mut rows = 0;
        let sequences: Vec<_> = sequences
            .iter()
            .enumerate()
            .map(|(i, sequence)| {
                let (entries, queries) = sequence.unwrap_or((0, 1));
                let first_position = random.below(entries + 10).max(queries) - queries;
                let slot = if sequence.is_some() { (sequences.len() - 1 - i) as u32 } else { NEVER };
                let span = DeviceSpan {
                    slot,
                    first_row: rows as u32,
                    queries: queries as u32,
                    first_position: first_position as u32,
                };
                rows += queries;
                let lanes = (0..groups).map(|group| {
                    // Lanes of heads have lengths of their own.
                    let entries = if group > 0 { random.below(entries + 1) } else { entries };
                    Lane::random(random, layout.clone(), entries)
                });
                (lanes.collect(), span)
            })
            .collect();
        // What both formats can hold, so that every side computes with the same queries.
        let stored = |x: f32| {
            let x = decoded(cache, &encoded(cache, x))[0];
            decoded(weights, &encoded(weights, x))[0]
        };
        let query = (0..rows * query_heads * head_dim).map(|_| stored(3.0 * random.real())).collect();
        let scale = 1.0 / (head_dim as f32).sqrt();
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
        let qkv = DeviceBuffer::uninitialized(device, "queries", rows * (query_heads + 2 * kv_heads) * row);
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
        let Specialisation { weights, query_heads, kv_heads, groups, head_dim, .. } = self.specialisation;
        let mut rows = vec![Row { slot: NEVER, token: 0, position: 0, back: 1 }; batch.rows];
        let mut lengths = vec![0; self.step.max_spans * groups];
        for (i, (lanes, span)) in batch.sequences.iter().enumerate() {
            if span.slot == NEVER {
                continue;
            }
            for query in 0..span.queries {
                let row = &mut rows[(span.first_row + query) as usize];
                (row.slot, row.position) = (span.slot, span.first_position + query);
            }
            for (group, lane) in lanes.iter().enumerate() {
                let number = (span.slot as usize * LAYERS + LAYER) * groups + group;
                let bytes = page_bytes(&self.specialisation, &lane.view());
                self.lanes.write_lane(number, lane.positions.len() as u32, &bytes).unwrap();
                lengths[i * groups + group] = lane.positions.len();
            }
        }
        self.spans = batch.sequences.iter().map(|&(_, span)| span).collect();
        self.step.spans.write(0, &self.spans).unwrap();
        self.step.rows.write(0, &rows).unwrap();
        self.step.first_pages.write(LAYER * (lengths.len() + 1), &first_pages(lengths)).unwrap();
        let nothing = encoded(weights, f32::NAN).repeat(2 * kv_heads * head_dim);
        let mut qkv = Vec::new();
        for query in batch.query.chunks(query_heads * head_dim) {
            qkv.extend(query.iter().flat_map(|&x| encoded(weights, x)));
            qkv.extend(&nothing);
        }
        self.qkv.write(0, &qkv).unwrap();
        self.scale = batch.scale;
    }

    fn decode(&self, attention: &DeviceAttention) {
        let lanes = self.lanes.tables();
        attention.decode(lanes, &self.step, self.size, LAYER, self.scale, &self.qkv, &self.mixed).unwrap();
    }

    fn prefill(&self, attention: &DeviceAttention) {
        let lanes = self.lanes.tables();
        attention.prefill(lanes, &self.step, &self.spans, LAYER, self.scale, &self.qkv, &self.mixed).unwrap();
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
    assert_close(&what, &first, &expected, slow_tolerance + 2.0 * rounding(cache));
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
    use DType::{Bf16, F16, F32};
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
    ]
}

#[test]
fn cuda_decode_agrees_with_the_reference() {
    let Some(device) = device("cuda_decode_agrees_with_the_reference") else { return };
    let random = &mut Random(11);
    let one = |entries| Some((entries, 1));
    for specialisation in specialisations() {
        // One kernel for all batches, so that what one leaves behind would show in the next.
        let attention = DeviceAttention::new(&device, &specialisation, 48).unwrap();
        let many: Vec<_> = (0..40).map(|i| if i % 7 == 5 { None } else { one(random.below(150)) }).collect();
        for sequences in [
            vec![one(1)],
            vec![one(33)],
            vec![one(3000)],
            vec![None, one(0), one(1), one(31), one(32), one(33), one(64), one(1100), one(0), None, None],
            vec![one(0), None],
            vec![one(700), one(1), one(2000)],
            many,
        ] {
            let batch = Batch::random(random, &specialisation, &sequences);
            check(&device, &batch, &attention, Loaded::decode);
        }
    }
}

#[test]
fn cuda_prefill_agrees_with_the_reference() {
    let Some(device) = device("cuda_prefill_agrees_with_the_reference") else { return };
    let random = &mut Random(12);
    for specialisation in specialisations() {
        let attention = DeviceAttention::new(&device, &specialisation, 80).unwrap();
        let many: Vec<_> = (0..70)
            .map(|i| if i % 9 == 4 { None } else { Some((1 + random.below(40), random.below(6))) })
            .collect();
        for sequences in [
            vec![Some((1, 1))],
            vec![Some((200, 130))],
            vec![Some((0, 3)), None, Some((33, 33)), Some((700, 20)), Some((31, 0)), Some((64, 1))],
            // More pages than a block lists at once.
            vec![Some((9000, 2))],
            many,
        ] {
            let batch = Batch::random(random, &specialisation, &sequences);
            check(&device, &batch, &attention, Loaded::prefill);
        }
    }
}

/// A prompt in order and without deaths, as most are: full, mixed and skipped pages side by side.
#[test]
fn cuda_prefill_is_causal() {
    let Some(device) = device("cuda_prefill_is_causal") else { return };
    let random = &mut Random(13);
    for specialisation in specialisations() {
        let attention = DeviceAttention::new(&device, &specialisation, 4).unwrap();
        let mut batch = Batch::random(random, &specialisation, &[Some((390, 300)), Some((45, 45))]);
        for (lanes, span) in &mut batch.sequences {
            for lane in lanes.iter_mut() {
                let entries = lane.positions.len() as u32;
                lane.positions = (0..entries).collect();
                lane.expires_at = vec![NEVER; entries as usize];
            }
            span.first_position = lanes[0].positions.len() as u32 - span.queries;
        }
        check(&device, &batch, &attention, Loaded::prefill);
    }
}

#[test]
fn cuda_queries_that_see_nothing_get_zeros() {
    let Some(device) = device("cuda_queries_that_see_nothing_get_zeros") else { return };
    let random = &mut Random(14);
    for specialisation in specialisations() {
        let attention = DeviceAttention::new(&device, &specialisation, 4).unwrap();
        let mut batch = Batch::random(random, &specialisation, &[Some((500, 1)), Some((70, 1))]);
        for (lanes, span) in &mut batch.sequences {
            lanes.iter_mut().for_each(|lane| lane.expires_at.fill(span.first_position));
        }
        for run in [Loaded::decode, Loaded::prefill] {
            let loaded = Loaded::new(&device, &batch);
            loaded.poison();
            run(&loaded, &attention);
            let out = loaded.mixed();
            assert!(out[..batch.query.len()].iter().all(|x| x.to_bits() == 0), "{specialisation:?}");
        }
    }
}

#[test]
fn cuda_a_recorded_decode_follows_lanes_that_grew() {
    let Some(device) = device("cuda_a_recorded_decode_follows_lanes_that_grew") else { return };
    let random = &mut Random(15);
    for specialisation in [
        shape(DType::F32, DType::F16, (8, 2), 1, 64),
        shape(DType::F32, DType::F16, (8, 2), 2, 128),
        shape(DType::F32, DType::F32, (4, 2), 1, 16),
    ] {
        let spans = 5;
        let attention = DeviceAttention::new(&device, &specialisation, spans).unwrap();
        let mut loaded = Loaded::empty(&device, &specialisation, spans, spans, 1000);
        loaded.scale = 1.0 / (specialisation.head_dim as f32).sqrt();
        // The addresses of the lanes are those of the first recording.
        let mut graph = Graph::record(&device, || {
            // Twice, because what the first leaves behind is what the second finds.
            for _ in 0..2 {
                let lanes = loaded.lanes.tables();
                let (step, qkv, mixed) = (&loaded.step, &loaded.qkv, &loaded.mixed);
                attention.decode(lanes, step, loaded.size, LAYER, loaded.scale, qkv, mixed)?;
            }
            Ok::<(), crate::KernelError>(())
        })
        .unwrap();
        graph.launch().unwrap();
        let sizes = [Some((900, 1)), Some((40, 1)), None, Some((1, 1)), Some((2500, 1))];
        let batch = Batch::random(random, &specialisation, &sizes);
        loaded.fill(&batch);
        let expected = batch.expected();
        for _ in 0..3 {
            loaded.poison();
            graph.launch().unwrap();
            let tolerance = SUMS + 2.0 * rounding(specialisation.cache);
            assert_close(&format!("{specialisation:?}"), &loaded.mixed(), &expected, tolerance);
        }
    }
}

#[test]
fn cuda_attention_refuses_what_does_not_fit() {
    let Some(device) = device("cuda_attention_refuses_what_does_not_fit") else { return };
    let specialisation = shape(DType::F32, DType::F16, (8, 2), 1, 64);
    let attention = DeviceAttention::new(&device, &specialisation, 2).unwrap();
    let loaded = Loaded::empty(&device, &specialisation, 4, 4, 1);
    let call = |size: StepSize, layer, mixed: &DeviceBuffer<u8>| {
        let lanes = loaded.lanes.tables();
        attention.decode(lanes, &loaded.step, size, layer, 1.0, &loaded.qkv, mixed).is_err()
    };
    let size = StepSize { rows: 2, spans: 2 };
    let short = DeviceBuffer::uninitialized(&device, "a test", 100).unwrap();
    assert!(!call(size, 1, &loaded.mixed));
    assert!(call(StepSize { rows: 3, spans: 3 }, 1, &loaded.mixed), "more spans than it was made for");
    assert!(call(StepSize { rows: 1, spans: 2 }, 1, &loaded.mixed), "fewer rows than spans");
    assert!(call(size, LAYERS, &loaded.mixed), "a layer too far");
    assert!(call(size, 1, &short), "no room for the result");
    for odd in [
        Specialisation { query_heads: 7, ..specialisation },
        Specialisation { groups: 3, ..specialisation },
        Specialisation { head_dim: 257, ..specialisation },
    ] {
        assert!(DeviceAttention::new(&device, &odd, 2).is_err(), "{odd:?}");
    }
    device.synchronize().unwrap();
}

#[test]
fn cuda_one_sequence_may_have_any_number_of_pages() {
    let Some(device) = device("cuda_one_sequence_may_have_any_number_of_pages") else { return };
    let random = &mut Random(16);
    for specialisation in [
        shape(DType::F32, DType::F16, (8, 2), 1, 64),
        shape(DType::Bf16, DType::Bf16, (32, 8), 1, 128),
        shape(DType::F16, DType::Bf16, (4, 4), 4, 80),
    ] {
        let attention = DeviceAttention::new(&device, &specialisation, 1).unwrap();
        for pages in 1..=40 {
            let entries = 32 * pages - random.below(32);
            let batch = Batch::random(random, &specialisation, &[Some((entries, 1))]);
            check(&device, &batch, &attention, Loaded::decode);
        }
    }
}

/// Sequences that grow by an entry a step; what they hold is known on both sides.
struct Growing {
    /// Entries at first, and whether no query sees those.
    starts: Vec<Option<(usize, bool)>>,
    lanes: Vec<Vec<Lane>>,
}

impl Growing {
    fn push(&mut self, sequence: usize, width: usize, position: u32, expires_at: u32, row: &[f32]) {
        let (keys, values) = row.split_at(row.len() / 2);
        for (group, lane) in self.lanes[sequence].iter_mut().enumerate() {
            let own = group * width..(group + 1) * width;
            lane.push(position, expires_at, &keys[own.clone()], &values[own]);
        }
    }
}

/// The entry that a launch just before this one writes, in all places that it may have.
#[test]
fn cuda_a_recorded_decode_sees_what_its_step_appends() {
    let Some(device) = device("cuda_a_recorded_decode_sees_what_its_step_appends") else { return };
    let random = &mut Random(17);
    for specialisation in [
        shape(DType::F32, DType::F16, (8, 2), 1, 64),
        shape(DType::Bf16, DType::Bf16, (8, 2), 2, 128),
        shape(DType::F16, DType::Bf16, (4, 4), 1, 80),
        shape(DType::Bf16, DType::Bf16, (4, 1), 1, 256),
    ] {
        let Specialisation { weights, cache, query_heads, kv_heads, groups, head_dim, .. } = specialisation;
        let width = kv_heads / groups * head_dim;
        let layout = PageLayout::new(kv_heads / groups, head_dim, vec![], cache).unwrap();
        let stored = |x: f32| {
            let x = decoded(cache, &encoded(cache, x))[0];
            decoded(weights, &encoded(weights, x))[0]
        };
        let starts = vec![
            Some((0, false)),
            Some((31, false)),
            None,
            Some((70, true)),
            Some((1900, false)),
            Some((62, true)),
        ];
        let count = starts.len();
        let lanes = vec![vec![Lane::new(layout.clone()); groups]; count];
        let mut growing = Growing { starts, lanes };
        let loaded = Loaded::empty(&device, &specialisation, count, count, 200);
        for sequence in 0..count {
            let Some((entries, hidden)) = growing.starts[sequence] else { continue };
            for position in 0..entries as u32 {
                let row: Vec<_> = random.row(2 * groups * width).into_iter().map(stored).collect();
                growing.push(sequence, width, position, if hidden { position + 1 } else { NEVER }, &row);
            }
            for (group, lane) in growing.lanes[sequence].iter().enumerate().filter(|_| entries > 0) {
                let number = (sequence * LAYERS + LAYER) * groups + group;
                let bytes = page_bytes(&specialisation, &lane.view());
                loaded.lanes.write_lane(number, entries as u32, &bytes).unwrap();
            }
        }
        let attention = DeviceAttention::new(&device, &specialisation, count).unwrap();
        let append = DeviceAppend::new(&device, &specialisation).unwrap();
        let lifetimes = DeviceLifetimes::new(&device, &specialisation).unwrap();
        let (tables, step, size) = (loaded.lanes.tables(), &loaded.step, loaded.size);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut graph = Graph::record(&device, || {
            let births = Births::default();
            append.append(tables, step, size, LAYER, &loaded.qkv, None, None, 0.0, None, None, 1, &births)?;
            attention.decode(tables, step, size, LAYER, scale, &loaded.qkv, &loaded.mixed)
        })
        .unwrap();
        for time in 0..4 {
            let (mut rows, mut spans, mut queries, mut qkv) = (vec![], vec![], vec![], vec![]);
            for sequence in 0..count {
                let start = growing.starts[sequence];
                let slot = if start.is_some() { sequence as u32 } else { NEVER };
                let position = (start.map_or(0, |start| start.0) + time) as u32;
                rows.push(Row { slot, token: 0, position, back: 1 });
                let first_row = sequence as u32;
                spans.push(DeviceSpan { slot, first_row, queries: 1, first_position: position });
                let query: Vec<_> = random.row(query_heads * head_dim).into_iter().map(stored).collect();
                let row: Vec<_> = random.row(2 * groups * width).into_iter().map(stored).collect();
                growing.push(sequence, width, position, NEVER, &row);
                qkv.extend(query.iter().chain(&row).flat_map(|&x| encoded(weights, x)));
                queries.extend(query);
            }
            step.rows.write(0, &rows).unwrap();
            step.spans.write(0, &spans).unwrap();
            loaded.qkv.write(0, &qkv).unwrap();
            loaded.poison();
            lifetimes.grow(tables, step, size).unwrap();
            graph.launch().unwrap();
            let real = spans.iter().zip(&growing.lanes).filter(|(span, _)| span.slot != NEVER);
            let asked: Vec<_> = real
                .map(|(span, lanes)| AttentionRows {
                    first_row: span.first_row as usize,
                    queries: 1,
                    first_position: span.first_position,
                    lanes: lanes.iter().map(Lane::view).collect(),
                })
                .collect();
            let mut expected = vec![f32::NAN; queries.len()];
            let shape = AttentionShape { query_heads, kv_heads, head_dim, scale };
            attention_reference(&shape, &asked, &queries, query_heads * head_dim, &mut expected).unwrap();
            let tolerance = SUMS + rounding(weights) + 2.0 * rounding(cache);
            assert_close(
                &format!("step {time} of {specialisation:?}"),
                &loaded.mixed(),
                &expected,
                tolerance,
            );
        }
    }
}
