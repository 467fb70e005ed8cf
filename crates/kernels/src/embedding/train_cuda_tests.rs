//! The embedding of training against plain loops.

use super::{EmbeddingSlices, SumsOfTokens, TokenRows, TrainEmbedding};
use crate::DType;
use crate::cuda::rounding::{assert_close, plain, poisoned_f32};
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, DeviceSlice};
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
        batch.sort().unwrap();
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

#[test]
fn cuda_sums_of_tokens_that_processes_exchange_come_to_what_one_adds() {
    let Some(device) = device("cuda_sums_of_tokens_that_processes_exchange") else { return };
    let mut random = Random(72);
    for (sequences, tokens, vocabulary, c, cut) in
        [(1, 1, 1, 8, 4), (3, 37, 11, 30, 124), (2, 200, 500, 576, 288 * 499), (5, 41, 2, 12, 12)]
    {
        let embedding = TrainEmbedding::new(&device, &plain(DType::F32, c)).unwrap();
        let rows = sequences * tokens;
        let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
        let before = random.row(vocabulary * c);
        let (mut want_table, mut want_positions) =
            (before.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), vec![0.0; tokens * c]);
        // Two processes, the second with fewer rows, and memory for one row more than the first has.
        let room = rows + 1;
        let all_tokens = DeviceBuffer::copy_of(&device, "a test", &vec![0_u32; 2 * room]).unwrap();
        let all_sums = poisoned_f32(&device, 2 * room * c);
        let of = |rank: usize| SumsOfTokens {
            tokens: DeviceSlice::new(&all_tokens, rank * room..(rank + 1) * room).unwrap(),
            sums: DeviceSlice::new(&all_sums, rank * room * c..(rank + 1) * room * c).unwrap(),
        };
        let positions = copy(&vec![0.0; tokens * c]);
        for (rank, sequences) in [(0, sequences), (1, sequences / 2)] {
            let rows = sequences * tokens;
            let ids: Vec<u32> = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
            let dx = random.row(room * c);
            let mut batch = TokenRows::new(&device, room).unwrap();
            batch.set(&ids, vocabulary).unwrap();
            assert!(embedding.sum_tokens(&batch, tokens, &copy(&dx), None, of(rank)).is_err(), "not sorted");
            batch.sort().unwrap();
            let learned = (rank == 0).then(|| (&positions).into());
            embedding.sum_tokens(&batch, tokens, &copy(&dx), learned, of(rank)).unwrap();
            for (row, &id) in ids.iter().enumerate() {
                for i in 0..c {
                    want_table[id as usize * c + i] += f64::from(dx[row * c + i]);
                    want_positions[row % tokens * c + i] +=
                        if rank == 0 { f64::from(dx[row * c + i]) } else { 0.0 };
                }
            }
        }
        assert_close("positions", &positions.read().unwrap(), &want_positions, 1e-5);
        // Each process adds all rows to its own piece of the table; a piece may begin inside a row.
        let add = |own: std::ops::Range<usize>| {
            let table = copy(&before);
            (0..2).for_each(|rank| embedding.add_tokens(of(rank), (&table).into(), own.clone()).unwrap());
            table.read().unwrap()
        };
        let (first, second) = (add(0..cut), add(cut..vocabulary * c));
        assert_eq!((&first[cut..], &second[..cut]), (&before[cut..], &before[..cut]), "others' numbers stay");
        let whole = [&first[..cut], &second[cut..]].concat();
        assert_close("table", &whole, &want_table, 1e-5);
        assert_eq!(whole, add(0..vocabulary * c), "the same bits however the table is cut");
        let table = copy(&before);
        assert!(embedding.add_tokens(of(0), (&table).into(), 2..vocabulary * c).is_err());
        assert!(embedding.add_tokens(of(0), (&table).into(), 0..vocabulary * c + 4).is_err());
    }
}
