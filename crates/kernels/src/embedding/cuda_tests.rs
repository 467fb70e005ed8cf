//! The look-up against indexing.

use super::DeviceEmbedding;
use crate::DType;
use crate::cuda::rounding::{plain, poisoned_f32, rounded, upload};
use crate::cuda::testing::device;
use crate::cuda::{DeviceStep, Row, StepSize};
use crate::testing::Random;

#[test]
fn cuda_embeddings_are_the_rows_of_their_tables() {
    let Some(device) = device("cuda_embeddings_are_the_rows_of_their_tables") else { return };
    let mut random = Random(5);
    for (dtype, c) in [(DType::F32, 32), (DType::F16, 768), (DType::Bf16, 2048), (DType::Bf16, 50)] {
        let embedding = DeviceEmbedding::new(&device, &plain(dtype, c)).unwrap();
        let (v, positions) = (40, 30);
        let (table, learned) = (random.row(v * c), random.row(positions * c));
        let (wide, wide_learned) = (rounded(&table, dtype), rounded(&learned, dtype));
        let (table, learned) = (upload(&device, &table, dtype), upload(&device, &learned, dtype));
        let mut rows: Vec<Row> = (0..9)
            .map(|i| Row {
                slot: i,
                token: random.below(v) as u32,
                position: random.below(positions) as u32,
                back: 1,
            })
            .collect();
        rows[0].token = v as u32 - 1;
        rows[3].slot = u32::MAX;
        // What a broken sampler might say.
        rows[5].token = v as u32;
        let step = DeviceStep::new(&device, 1, 1, 16, 16).unwrap();
        step.rows.write(0, &rows).unwrap();
        for learned in [None, Some(&learned)] {
            let residual = poisoned_f32(&device, 10 * c);
            let size = StepSize { rows: rows.len(), spans: 1 };
            embedding.embed(&step, size, &table, learned, &residual).unwrap();
            let residual = residual.read().unwrap();
            for (i, got) in residual.chunks(c).enumerate() {
                let Some(row) = rows.get(i).filter(|row| row.slot != u32::MAX && row.token < v as u32) else {
                    assert!(got.iter().all(|x| x.is_nan()), "row {i} was written");
                    continue;
                };
                for (j, &got) in got.iter().enumerate() {
                    let shift = learned.map_or(0.0, |_| wide_learned[row.position as usize * c + j]);
                    assert_eq!(got, wide[row.token as usize * c + j] + shift, "row {i}, element {j}");
                }
            }
        }
    }
}
