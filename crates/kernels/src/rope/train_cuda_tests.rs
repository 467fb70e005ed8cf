//! Norm and turn of queries and keys in training against the processor's.

use super::{HeadNorms, RopeTable, RopeTables, TrainTurn, rotate, rotate_back};
use crate::cuda::rounding::{
    assert_close, last_bits, numbers_of, plain, poisoned, poisoned_f32, rounded, upload,
};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer, Specialisation};
use crate::testing::Random;
use crate::{DType, Team, rms_norm_heads, rms_norm_heads_backward};

/// f32 sums in another order, of up to 700 heads.
const TOLERANCE: f64 = 5e-5;
const EPSILON: f32 = 1e-6;

fn wide(all: &[f32]) -> Vec<f64> {
    all.iter().map(|&x| f64::from(x)).collect()
}

struct Case {
    heads: (usize, usize, usize),
    pairs: usize,
    norm: bool,
    dtype: DType,
}

impl Case {
    fn check(&self, device: &Device, random: &mut Random) {
        let (h, g, d) = self.heads;
        let (sequences, tokens, dtype) = (2, 45, self.dtype);
        let rows = sequences * tokens;
        let stride = (h + 2 * g) * d;
        let team = Team::new(1).unwrap();
        let specialisation =
            Specialisation { query_heads: h, kv_heads: g, groups: 1, head_dim: d, ..plain(dtype, 8) };
        let turn = TrainTurn::new(device, &specialisation).unwrap();
        let inv_freq = (0..self.pairs).map(|i| 1.0 / (i + 1) as f32).collect();
        let table = RopeTable { inv_freq, attention_scaling: 1.3 };
        let positions: Vec<u32> = (0..rows as u32).map(|row| row % tokens as u32).collect();
        let angles = table.angles(&positions);
        let tables = RopeTables::new(device, &table, tokens).unwrap();
        let rope = (self.pairs > 0).then_some(&tables);
        let (qkv, dy) =
            (rounded(&random.row(rows * stride), dtype), rounded(&random.row(rows * stride), dtype));
        let weights = [random.row(d), random.row(d)];
        let parts = [(0, h), (h * d, g)];

        let mut want = qkv.clone();
        let mut back = dy.clone();
        let mut gradients = [vec![1.0; d], vec![2.0; d]];
        if self.pairs > 0 {
            rotate_back(&team, &mut back, stride, 0, h + g, d, &angles).unwrap();
        }
        for (i, (offset, heads)) in parts.into_iter().enumerate().filter(|_| self.norm) {
            let weight = &weights[i];
            rms_norm_heads(&team, &mut want, stride, offset, heads, weight, EPSILON).unwrap();
            let to = &mut gradients[i];
            rms_norm_heads_backward(&team, &qkv, stride, offset, heads, weight, EPSILON, &mut back, to)
                .unwrap();
        }
        if self.pairs > 0 {
            rotate(&team, &mut want, stride, 0, h + g, d, &angles).unwrap();
        }

        let copy = |values: &[f32]| DeviceBuffer::copy_of(device, "a test", values).unwrap();
        let device_weights = weights.each_ref().map(|weight| copy(weight));
        let [query, key] = &device_weights;
        let norms = self.norm.then(|| HeadNorms { query: query.into(), key: key.into() });
        let what = format!("{dtype} {:?} pairs {} norm {}", self.heads, self.pairs, self.norm);
        let tolerance = last_bits(dtype).max(TOLERANCE);
        let from = upload(device, &qkv, dtype);
        let to = poisoned(device, qkv.len() * dtype.bytes());
        turn.forward(rows, tokens, norms, EPSILON, rope, Some(&from), &to).unwrap();
        assert_close(&what, &numbers_of(&to.read().unwrap(), dtype), &wide(&want), tolerance);
        let in_place = upload(device, &qkv, dtype);
        turn.forward(rows, tokens, norms, EPSILON, rope, None, &in_place).unwrap();
        assert_eq!(in_place.read().unwrap(), to.read().unwrap(), "{what}: in place");

        let device_gradients = [copy(&vec![1.0; d]), copy(&vec![2.0; d])];
        let [to_query, to_key] = &device_gradients;
        let norms = norms.map(|norms| (norms, HeadNorms { query: to_query.into(), key: to_key.into() }));
        let gradient = upload(device, &dy, dtype);
        let scratch = poisoned_f32(device, turn.scratch());
        turn.backward(rows, tokens, norms, EPSILON, rope, &from, &gradient, &scratch).unwrap();
        assert_close(&what, &numbers_of(&gradient.read().unwrap(), dtype), &wide(&back), tolerance);
        for (got, want) in device_gradients.iter().zip(&gradients) {
            assert_close(&what, &got.read().unwrap(), &wide(want), 4.0 * TOLERANCE);
        }
    }
}

#[test]
fn cuda_heads_are_normed_and_turned_and_their_gradients_turned_back() {
    let Some(device) = device("cuda_heads_are_normed_and_turned_and_their_gradients_turned_back") else {
        return;
    };
    let mut random = Random(101);
    for dtype in [DType::F32, DType::Bf16] {
        for (heads, pairs) in [
            ((4, 2, 16), 8),
            ((9, 3, 64), 32),
            ((2, 1, 128), 32),
            ((3, 3, 10), 3),
            ((2, 2, 256), 128),
            ((4, 2, 64), 0),
        ] {
            for norm in [false, true] {
                Case { heads, pairs, norm, dtype }.check(&device, &mut random);
            }
        }
    }
}
