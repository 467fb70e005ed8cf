//! The look-up against indexing.

use super::DeviceEmbedding;
use crate::DType;
use crate::Team;
use crate::cuda::rounding::{bytes_of, plain, poisoned_f32, rounded};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceStep, Row, StepSize};
use crate::matmul::{
    BlockFormat, DeviceMatrix, DeviceRandom, Orientation, Part, QuantisedMatrix, TensorBytes,
};
use crate::testing::Random;

fn matrix(device: &Device, values: &[f32], c: usize, dtype: DType) -> DeviceMatrix {
    let matrix = DeviceMatrix::uninitialized(device, values.len() / c, c, dtype).unwrap();
    matrix.upload_rows(0, &bytes_of(values, dtype)).unwrap();
    matrix
}

#[test]
fn cuda_tables_in_blocks_are_those_of_the_processor() {
    let Some(device) = device("cuda_tables_in_blocks_are_those_of_the_processor") else { return };
    let (mut random, team) = (Random(6), Team::new(2).unwrap());
    for (format, c) in BlockFormat::ALL.into_iter().flat_map(|format| [(format, 96), (format, 1024)]) {
        let specialisation = plain(DType::Bf16, c);
        let embedding = DeviceEmbedding::new(&device, &specialisation).unwrap();
        let filler = DeviceRandom::new(&device, &specialisation).unwrap();
        let (v, positions) = (45, 30);
        let both = |values: &[f32]| {
            let bytes = bytes_of(values, DType::F32);
            let (source, orientation) =
                (TensorBytes { dtype: DType::F32, bytes: &bytes }, Orientation::OutputsByInputs);
            let part = Part { source, orientation, outputs: values.len() / c };
            let mut host = QuantisedMatrix::zeroed(part.outputs, c, format).unwrap();
            host.fill(&team, 0, &part).unwrap();
            let matrix = DeviceMatrix::zeroed_blocks(&device, part.outputs, c, format).unwrap();
            matrix.fill(&filler, &team, 0, &part).unwrap();
            (host, matrix)
        };
        let (host, table) = both(&random.row(v * c));
        let (host_learned, learned) = both(&random.row(positions * c));
        let rows: Vec<Row> = (0..v as u32)
            .map(|i| Row { slot: i, token: i, position: i * 7 % positions as u32, back: 1 })
            .collect();
        let step = DeviceStep::new(&device, 1, 1, v, v).unwrap();
        step.rows.write(0, &rows).unwrap();
        let size = StepSize { rows: v, spans: 1 };
        let (mut token, mut place) = (vec![0.0; c], vec![0.0; c]);
        for learned in [None, Some(&learned)] {
            let residual = poisoned_f32(&device, v * c);
            embedding.embed(&step, size, &table, learned, &residual).unwrap();
            for (row, got) in rows.iter().zip(residual.read().unwrap().chunks(c)) {
                host.row(row.token as usize, &mut token);
                host_learned.row(row.position as usize, &mut place);
                let shift = |j: usize| learned.map_or(0.0, |_| place[j]);
                let want: Vec<f32> = (0..c).map(|j| token[j] + shift(j)).collect();
                assert_eq!(got, want, "{format}, token {}", row.token);
            }
        }
    }
}

#[test]
fn cuda_embeddings_are_the_rows_of_their_tables() {
    let Some(device) = device("cuda_embeddings_are_the_rows_of_their_tables") else { return };
    let mut random = Random(5);
    for (dtype, c) in [(DType::F32, 32), (DType::F16, 768), (DType::Bf16, 2048), (DType::Bf16, 50)] {
        let embedding = DeviceEmbedding::new(&device, &plain(dtype, c)).unwrap();
        let (v, positions) = (40, 30);
        let (table, learned) = (random.row(v * c), random.row(positions * c));
        let (wide, wide_learned) = (rounded(&table, dtype), rounded(&learned, dtype));
        let (table, learned) = (matrix(&device, &table, c, dtype), matrix(&device, &learned, c, dtype));
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
