//! Gated attention in training on the device against full matrices in f64.

use super::tests::{Case, close, wide};
use super::*;
use crate::DType;
use crate::attention::AttentionShape;
use crate::cuda::rounding::{numbers_of, plain, poisoned, poisoned_f32, rounded, upload};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer, DeviceSlice, Specialisation};
use crate::testing::Random;

/// In relative L2: f32 sums of up to 200 terms, and exponentials with the hardware's two bits less.
const TOLERANCE: f64 = 3e-5;
/// Weights, and the gradients of scores and votes, are rounded to 8 bits before they are multiplied.
const ROUNDED: f64 = 1.5e-2;

/// Heads `(h, g, d)`, gates `(G, r)`, batch `(b, T)`, floors `(sinks, recent)`, window.
struct Sizes {
    heads: (usize, usize, usize),
    gates: (usize, usize),
    batch: (usize, usize),
    floors: (u32, u32),
    window: Option<u32>,
}

impl Sizes {
    fn case(&self, random: &mut Random, dtype: DType, gated: bool) -> Case {
        let (query_heads, kv_heads, head_dim) = self.heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = GatedShape {
            sequences: self.batch.0,
            tokens: self.batch.1,
            attention: AttentionShape { query_heads, kv_heads, head_dim, scale },
            gate_heads: self.gates.0,
            gate_width: self.gates.1,
            sliding_window: self.window,
            sinks: self.floors.0,
            recent: self.floors.1,
        };
        // Scores nearer to 0 than this may fall on either side; another draw decides otherwise.
        let clear = if dtype == DType::F32 { 5e-6 } else { 4e-5 };
        loop {
            let mut case = Case::of(random, shape, None, usize::from(gated));
            case.stride = (query_heads + 2 * kv_heads) * head_dim;
            case.qkv = random.row(shape.sequences * shape.tokens * case.stride);
            case.qkv = rounded(&case.qkv, dtype);
            case.dout = rounded(&case.dout, dtype);
            if !gated || case.answer().margin > clear {
                return case;
            }
        }
    }

    fn check(&self, device: &Device, seed: u64) {
        for dtype in [DType::F32, DType::Bf16] {
            let mut random = Random(seed);
            for gated in [false, true, true] {
                let case = self.case(&mut random, dtype, gated);
                let first = run(device, &case, dtype);
                first.check(&case, dtype);
                assert_eq!(first, run(device, &case, dtype), "the same bits twice");
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Results {
    out: Vec<f32>,
    lse: Vec<f32>,
    dqkv: Vec<f32>,
    gates: Option<Gates>,
}

#[derive(Debug, PartialEq)]
struct Gates {
    expires_at: Vec<u32>,
    query: Vec<f32>,
    key: Vec<f32>,
    bias: Vec<f32>,
    margin: Vec<f64>,
}

fn run(device: &Device, case: &Case, dtype: DType) -> Results {
    let shape = &case.shape;
    let AttentionShape { query_heads, kv_heads, head_dim, .. } = shape.attention;
    let specialisation = Specialisation {
        query_heads,
        kv_heads,
        groups: shape.gate_heads,
        head_dim,
        side_width: shape.gate_width,
        ..plain(dtype, 8)
    };
    let rows = shape.sequences * shape.tokens;
    let attention = TrainAttention::new(device, &specialisation).unwrap();
    let copy = |values: &[f32]| DeviceBuffer::copy_of(device, "a test", values).unwrap();
    let qkv = upload(device, &case.qkv, dtype);
    let dout = upload(device, &case.dout, dtype);
    let out = poisoned(device, case.dout.len() * dtype.bytes());
    let dqkv = poisoned(device, case.qkv.len() * dtype.bytes());
    let lse = poisoned_f32(device, rows * query_heads);
    let delta = poisoned_f32(device, rows * query_heads);
    let lanes = shape.sequences * shape.gate_heads;
    let expires_at = DeviceBuffer::<u32>::uninitialized(device, "a test", lanes * shape.tokens).unwrap();
    let layer = Attended {
        qkv: &qkv,
        expires_at: (!case.voters.is_empty()).then_some(&expires_at),
        out: &out,
        lse: &lse,
    };
    let gates = case.voters.first().map(|[query, key, bias]| {
        let votes = TrainVotes::new(device, &specialisation).unwrap();
        let scratch = VoteScratch::new(device, shape).unwrap();
        let (query_gates, key_gates) = (copy(query), copy(key));
        // A shift of every bias and the same shift subtracted again are nothing.
        let biases = copy(&bias.iter().map(|bias| bias + 0.25).collect::<Vec<_>>());
        let noise = case.noise.as_deref().map(copy);
        let voter = DeviceVoter {
            query_gates: &query_gates,
            key_gates: &key_gates,
            bias: (&biases).into(),
            noise: noise.as_ref(),
            shift: 0.25,
        };
        votes.forward(shape, voter, &expires_at, &scratch).unwrap();
        attention.forward(shape, layer).unwrap();
        attention.backward(shape, layer, &dout, &delta, &dqkv).unwrap();
        let lambda = copy(&case.lambda);
        let to = [query, key].map(|gates| poisoned_f32(device, gates.len()));
        let d_bias = copy(&vec![1.0; bias.len()]);
        let margin = DeviceBuffer::<f64>::zeroed(device, "a test", 2 * shape.gate_heads).unwrap();
        let gradient = DeviceVoterGradient {
            query_gates: &to[0],
            key_gates: &to[1],
            bias: (&d_bias).into(),
            margin: &margin,
        };
        let lambda = DeviceSlice::from(&lambda);
        votes.backward(shape, voter, layer, &dout, &delta, lambda, &scratch, gradient).unwrap();
        Gates {
            expires_at: expires_at.read().unwrap(),
            query: to[0].read().unwrap(),
            key: to[1].read().unwrap(),
            bias: d_bias.read().unwrap().iter().map(|bias| bias - 1.0).collect(),
            margin: margin.read().unwrap(),
        }
    });
    if gates.is_none() {
        attention.forward(shape, layer).unwrap();
        attention.backward(shape, layer, &dout, &delta, &dqkv).unwrap();
    }
    Results {
        out: numbers_of(&out.read().unwrap(), dtype),
        lse: lse.read().unwrap(),
        dqkv: numbers_of(&dqkv.read().unwrap(), dtype),
        gates,
    }
}

impl Results {
    fn check(&self, case: &Case, dtype: DType) {
        let answer = case.answer();
        let tolerance = if dtype == DType::F32 { TOLERANCE } else { ROUNDED };
        let what = |name: &str| format!("{name} of {dtype} {:?}", case.shape);
        close(&what("out"), &wide(&self.out), &answer.out, tolerance);
        close(&what("lse"), &wide(&self.lse), &answer.lse, tolerance);
        close(&what("dqkv"), &wide(&self.dqkv), &answer.dqkv, tolerance);
        let Some(gates) = &self.gates else { return };
        assert_eq!(gates.expires_at, answer.expires_at, "{}", what("expires_at"));
        close(&what("query gates"), &wide(&gates.query), &answer.voters[0][0], tolerance);
        close(&what("key gates"), &wide(&gates.key), &answer.voters[0][1], tolerance);
        // Biases and worths sum numbers of both signs: against the size of what is summed.
        let size: f64 = answer.voters[0][1].iter().map(|x| x.abs()).sum();
        for (got, want) in gates.bias.iter().zip(&answer.voters[0][2]) {
            let miss = (f64::from(*got) - want).abs();
            assert!(miss <= tolerance * (1.0 + size + want.abs()), "{}: {got}, want {want}", what("bias"));
        }
        for (group, margin) in gates.margin.chunks(2).enumerate() {
            let (worth, weight) = (answer.worth[group], answer.weight[group]);
            let allowed = 4.0 * tolerance * (worth.abs() + weight) + 1e-5;
            assert!((margin[0] - worth).abs() <= allowed, "{}: {margin:?}, want {worth}", what("worth"));
            assert!((margin[1] - weight).abs() <= allowed, "{}: {margin:?}, want {weight}", what("weight"));
        }
    }
}

/// One test per shape, so that their kernels are compiled beside each other.
macro_rules! agrees {
    ($name:ident, $seed:expr, $sizes:expr) => {
        #[test]
        fn $name() {
            let Some(device) = device(stringify!($name)) else { return };
            $sizes.check(&device, $seed);
        }
    };
}

agrees!(
    cuda_training_attends_with_one_gate_for_all_heads,
    1,
    Sizes { heads: (2, 2, 16), gates: (1, 5), batch: (2, 130), floors: (0, 1), window: None }
);
agrees!(
    cuda_training_attends_with_a_gate_per_kv_head,
    2,
    Sizes { heads: (4, 2, 64), gates: (2, 16), batch: (1, 200), floors: (4, 16), window: None }
);
agrees!(
    cuda_training_attends_with_grouped_heads_in_a_sliding_window,
    3,
    Sizes { heads: (6, 2, 64), gates: (1, 64), batch: (2, 129), floors: (1, 2), window: Some(70) }
);
agrees!(
    cuda_training_attends_with_heads_of_odd_width,
    4,
    Sizes { heads: (3, 3, 20), gates: (3, 17), batch: (1, 65), floors: (0, 1), window: None }
);
agrees!(
    cuda_training_attends_with_wide_heads,
    5,
    Sizes { heads: (2, 1, 128), gates: (1, 16), batch: (1, 64), floors: (0, 1), window: None }
);
agrees!(
    cuda_training_attends_to_a_single_token,
    6,
    Sizes { heads: (1, 1, 7), gates: (1, 2), batch: (1, 1), floors: (0, 1), window: None }
);
