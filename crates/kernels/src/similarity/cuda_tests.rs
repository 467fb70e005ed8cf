use super::*;
use crate::DType;
use crate::cuda::rounding::plain;
use crate::cuda::testing::device;
use crate::cuda::{DeviceSpan, Row};
use crate::testing::Random;

#[test]
fn cuda_cosines_of_prompts_are_summed_for_each_sequence_and_layer() {
    let name = "cuda_cosines_of_prompts_are_summed_for_each_sequence_and_layer";
    let Some(device) = device(name) else { return };
    let (random, layers, slots, layer) = (&mut Random(31), 3, 4, 1);
    for hidden in [1, 33, 512] {
        let specialisation = Specialisation { hidden, ..plain(DType::Bf16, hidden) };
        // Slot, tokens, and whether they lie in a prompt; one is padding.
        let sequences = [(2u32, 5u32, true), (u32::MAX, 1, true), (0, 300, true), (3, 4, false)];
        let rows: usize = sequences.iter().map(|sequence| sequence.1 as usize).sum();
        let similarity = DeviceSimilarity::new(&device, &specialisation, rows, (layers, slots)).unwrap();
        let step = DeviceStep::new(&device, layers, 1, rows, sequences.len()).unwrap();
        let (mut all, mut spans) = (Vec::new(), Vec::new());
        for (slot, queries, in_prompt) in sequences {
            spans.push(DeviceSpan { slot, first_row: all.len() as u32, queries, first_position: 7 });
            let bit = if in_prompt { Row::IN_PROMPT } else { 0 };
            all.extend((0..queries).map(|i| Row {
                slot,
                token: 0,
                position: 7 + i,
                back: (queries - i) | bit,
            }));
        }
        step.rows.write(0, &all).unwrap();
        step.spans.write(0, &spans).unwrap();
        let (before, after) = (random.row(rows * hidden), random.row(rows * hidden));
        let residual = DeviceBuffer::copy_of(&device, "a test", &before).unwrap();
        similarity.keep(&residual, rows).unwrap();
        residual.write(0, &after).unwrap();
        similarity.set(2, &[1.0, 2.0, 3.0]).unwrap();
        similarity.add(&step, StepSize { rows, spans: spans.len() }, layer, &residual).unwrap();
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-8);
        let cosine = |row: usize| {
            let [a, b] = [&before, &after].map(|all| &all[row * hidden..][..hidden]);
            let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            product / (length(a) * length(b))
        };
        let sum = |first: usize, count: usize| (first..first + count).map(cosine).sum::<f64>();
        let expected = [[0.0, sum(6, 300), 0.0], [0.0; 3], [1.0, 2.0 + sum(0, 5), 3.0], [0.0; 3]];
        for (slot, expected) in expected.iter().enumerate() {
            for (found, expected) in similarity.sums(slot).unwrap().iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-9, "{hidden} slot {slot}: {found}, not {expected}");
            }
        }
    }
}
