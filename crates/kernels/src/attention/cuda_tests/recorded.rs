//! Decoding as a recorded step does it: lanes that grow, entries that the launch before writes.

use super::{Batch, LAYER, LAYERS, Loaded, NEVER, SUMS, assert_close, coded, narrowing, rounding, shape};
use crate::attention::cuda::DeviceAttention;
use crate::attention::reference::attention as attention_reference;
use crate::attention::{AttentionRows, AttentionShape};
use crate::cuda::testing::{decoded, device, encoded, page_bytes};
use crate::cuda::{DeviceSpan, Graph, Row, Specialisation};
use crate::lifetimes::DeviceLifetimes;
use crate::rope::{Births, DeviceAppend, StepGates};
use crate::testing::{Lane, Random};
use crate::{CodeBits, DType, PageLayout};

#[test]
fn cuda_a_recorded_decode_follows_lanes_that_grew() {
    let Some(device) = device("cuda_a_recorded_decode_follows_lanes_that_grew") else { return };
    let random = &mut Random(15);
    for specialisation in [
        shape(DType::F32, DType::F16, (8, 2), 1, 64),
        shape(DType::F32, DType::F16, (8, 2), 2, 128),
        shape(DType::F32, DType::F32, (4, 2), 1, 16),
        coded(CodeBits::Four, shape(DType::F32, DType::F16, (8, 2), 2, 128)),
    ] {
        let spans = 5;
        let attention = DeviceAttention::new(&device, &specialisation, spans).unwrap();
        let mut loaded = Loaded::empty(&device, &specialisation, spans, spans, 1000);
        loaded.scale = 1.0 / (specialisation.head_dim as f32).sqrt();
        // The addresses of the lanes are those of the first recording.
        let mut graph = Graph::record(&device, || {
            // Twice, because what the first leaves behind is what the second finds.
            for _ in 0..2 {
                let lanes = &loaded.lanes;
                let (step, qkv, mixed) = (&loaded.step, &loaded.qkv, &loaded.mixed);
                attention.decode(lanes, step, loaded.size, LAYER, loaded.scale, qkv, mixed, None)?;
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
            let tolerance = SUMS + narrowing(&specialisation);
            assert_close(&format!("{specialisation:?}"), &loaded.mixed(), &expected, tolerance);
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
        coded(CodeBits::Eight, shape(DType::Bf16, DType::F16, (8, 2), 2, 128)),
        coded(CodeBits::Four, shape(DType::F32, DType::F16, (8, 2), 1, 64)),
    ] {
        let Specialisation { weights, cache, query_heads, kv_heads, groups, head_dim, .. } = specialisation;
        let width = kv_heads / groups * head_dim;
        let layout = PageLayout::new(kv_heads / groups, head_dim, vec![], specialisation.format()).unwrap();
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
        let (tables, step, size) = (&loaded.lanes, &loaded.step, loaded.size);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut graph = Graph::record(&device, || {
            let births = Births::default();
            append.append(
                tables,
                step,
                size,
                LAYER,
                &loaded.qkv,
                None,
                None,
                0.0,
                None,
                StepGates::None,
                &births,
                None,
            )?;
            attention.decode(tables, step, size, LAYER, scale, &loaded.qkv, &loaded.mixed, None)
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
            let tolerance = SUMS + rounding(weights) + narrowing(&specialisation);
            assert_close(
                &format!("step {time} of {specialisation:?}"),
                &loaded.mixed(),
                &expected,
                tolerance,
            );
        }
    }
}
