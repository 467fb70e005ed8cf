//! The embedding of training against plain loops.

use super::{EmbeddingSlices, TokenRows, TrainEmbedding};
use crate::DType;
use crate::cuda::DeviceBuffer;
use crate::cuda::rounding::{assert_close, plain, poisoned_f32};
use crate::cuda::testing::device;
use crate::testing::Random;

#[test]
fn cuda_embeddings_are_read_and_their_gradients_added_in_order() {
    let Some(device) = device("cuda_embeddings_are_read_and_their_gradients_added_in_order") else { return };
    let mut random = Random(71);
    for (sequences, tokens, vocabulary, c) in
        [(1, 1, 1, 8), (3, 37, 11, 30), (2, 200, 500, 576), (5, 41, 2, 12)]
    {
        let embedding = TrainEmbedding::new(&device, &plain(DType::F32, c)).unwrap();
        let rows = sequences * tokens;
        let ids: Vec<u32> = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
        let mut batch = TokenRows::new(&device, rows).unwrap();
        assert!(batch.set(&[vocabulary as u32], vocabulary).is_err());
        batch.set(&ids, vocabulary).unwrap();
        let (table, positions) = (random.row(vocabulary * c), random.row(tokens * c));
        let dx = random.row(rows * c);
        let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
        let (device_table, device_positions) = (copy(&table), copy(&positions));
        for learned in [true, false] {
            let slices = EmbeddingSlices {
                table: (&device_table).into(),
                positions: learned.then(|| (&device_positions).into()),
            };
            let x = poisoned_f32(&device, rows * c);
            embedding.forward(&batch, tokens, slices, &x).unwrap();
            let mut want_table = vec![1.0; vocabulary * c];
            let mut want_positions = vec![2.0; tokens * c];
            let mut want = Vec::new();
            for (row, &id) in ids.iter().enumerate() {
                for i in 0..c {
                    let (entry, position) = (id as usize * c + i, row % tokens * c + i);
                    want.push(f64::from(table[entry] + if learned { positions[position] } else { 0.0 }));
                    want_table[entry] += f64::from(dx[row * c + i]);
                    want_positions[position] += f64::from(if learned { dx[row * c + i] } else { 0.0 });
                }
            }
            assert_close("embedding", &x.read().unwrap(), &want, 0.0);
            let (to_table, to_positions) = (copy(&vec![1.0; vocabulary * c]), copy(&vec![2.0; tokens * c]));
            let gradients = EmbeddingSlices {
                table: (&to_table).into(),
                positions: learned.then(|| (&to_positions).into()),
            };
            embedding.backward(&batch, tokens, &copy(&dx), gradients).unwrap();
            assert_close("table", &to_table.read().unwrap(), &want_table, 1e-5);
            assert_close("positions", &to_positions.read().unwrap(), &want_positions, 1e-5);
        }
    }
}
