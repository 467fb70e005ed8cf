//! Gated attention in training on the device against full matrices in f64.

use super::super::tests::{Case, close, wide};
use super::*;
use crate::attention::AttentionShape;
use crate::cuda::rounding::{numbers_of, plain, poisoned, poisoned_f32, rounded, upload};
use crate::cuda::testing::device;
use crate::testing::Random;
use crate::{AlphaSigmoid, DType};

/// In relative L2: f32 sums of up to 200 terms, and exponentials with the hardware's two bits less.
const TOLERANCE: f64 = 3e-5;
/// Steep curves multiply the rounding of a raw score by up to 1/p near their saturation.
const STEEP_TOLERANCE: f64 = 3e-3;
/// Weights, and the gradients of scores and votes, are rounded to 8 bits before they are multiplied.
const ROUNDED: f64 = 1.5e-2;

/// Voters and the alpha of soft ones: dense, hard twice (with and without noise), soft from flat to steep.
const RULES: [(usize, Option<f64>); 7] =
    [(0, None), (1, None), (1, None), (1, Some(1.0)), (1, Some(1.5)), (3, Some(2.0)), (1, Some(4.0))];
/// Hard, where all queries vote alike: of most tiles no vote holds a minimum.
const ALIKE: (usize, Option<f64>) = (1, None);

/// Heads `(h, g, d)`, gates `(G, r)`, batch `(b, T)`, floors `(sinks, recent)`, window.
struct Sizes {
    heads: (usize, usize, usize),
    gates: (usize, usize),
    batch: (usize, usize),
    floors: (u32, u32),
    window: Option<u32>,
}

impl Sizes {
    fn case(
        &self,
        random: &mut Random,
        dtype: DType,
        (voters, alpha): (usize, Option<f64>),
        alike: bool,
    ) -> Case {
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
            let mut case = Case::of(random, shape, alpha, voters);
            case.stride = (query_heads + 2 * kv_heads) * head_dim;
            case.qkv = random.row(shape.sequences * shape.tokens * case.stride);
            case.qkv = rounded(&case.qkv, dtype);
            case.dout = rounded(&case.dout, dtype);
            if alike {
                case.voters.iter_mut().for_each(|[query, ..]| query.fill(1.0));
            }
            if voters == 0 || case.answer().margin > clear {
                return case;
            }
        }
    }

    fn check(&self, device: &Device, seed: u64) {
        for dtype in [DType::F32, DType::Bf16] {
            let mut random = Random(seed);
            let rules = RULES.map(|rule| (rule, false)).into_iter().chain([(ALIKE, true)]);
            for (rule, alike) in rules {
                let case = self.case(&mut random, dtype, rule, alike);
                let run = Run::new(device, &case, dtype);
                // Strips of one tile, and one strip of all.
                for bytes in [1, usize::MAX] {
                    let first = run.results(bytes, false);
                    first.check(&case, dtype);
                    assert_eq!(first, run.results(bytes, true), "the same bits twice, once with votes kept");
                }
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Results {
    out: Vec<f32>,
    lse: Vec<f32>,
    dqkv: Vec<f32>,
    expires_at: Vec<u32>,
    survival: Vec<f64>,
    voters: Vec<[Vec<f32>; 3]>,
    margin: Vec<f64>,
}

/// Query and key gates of every token beside each other, as the trainer has them.
fn beside(query: &[f32], key: &[f32], row: usize) -> Vec<f32> {
    query.chunks(row).zip(key.chunks(row)).flat_map(|(query, key)| [query, key]).flatten().copied().collect()
}

fn halves(both: &DeviceBuffer<f32>, row: usize) -> [DeviceSlice<'_, f32>; 2] {
    [0..both.len() - row, row..both.len()].map(|range| DeviceSlice::new(both, range).unwrap())
}

/// One case on the device.
struct Run<'a> {
    device: &'a Device,
    case: &'a Case,
    dtype: DType,
    specialisation: Specialisation,
    attention: TrainAttention,
}

impl<'a> Run<'a> {
    fn new(device: &'a Device, case: &'a Case, dtype: DType) -> Self {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = case.shape.attention;
        let specialisation = Specialisation {
            query_heads,
            kv_heads,
            groups: case.shape.gate_heads,
            head_dim,
            side_width: case.shape.gate_width,
            statistics: 0,
            ..plain(dtype, 8)
        };
        let attention = TrainAttention::new(device, &specialisation).unwrap();
        Self { device, case, dtype, specialisation, attention }
    }

    fn copy(&self, values: &[f32]) -> DeviceBuffer<f32> {
        DeviceBuffer::copy_of(self.device, "a test", values).unwrap()
    }

    fn results(&self, bytes: usize, kept: bool) -> Results {
        let Self { device, case, dtype, .. } = *self;
        let shape = &case.shape;
        let heads = shape.attention.query_heads;
        let (rows, lanes) = (shape.sequences * shape.tokens, shape.sequences * shape.gate_heads);
        let row = shape.gate_heads * shape.gate_width;
        let qkv = upload(device, &case.qkv, dtype);
        let dout = upload(device, &case.dout, dtype);
        let out = poisoned(device, case.dout.len() * dtype.bytes());
        let dqkv = poisoned(device, case.qkv.len() * dtype.bytes());
        let (lse, delta) = (poisoned_f32(device, rows * heads), poisoned_f32(device, rows * heads));
        let expires_at = DeviceBuffer::<u32>::zeroed(device, "a test", lanes * shape.tokens).unwrap();
        let gated = !case.voters.is_empty();
        let trail = if kept { GateTrail::new(device, shape).unwrap() } else { None };
        let ends = gated.then_some(&expires_at);
        let layer = Attended { qkv: &qkv, expires_at: ends, out: &out, lse: &lse, trail: trail.as_ref() };
        // Under the hard rule, a shift of every bias and the same shift subtracted again are nothing.
        let shift = if case.alpha.is_none() { 0.25 } else { 0.0 };
        let mut curve = DeviceCurve::new(device).unwrap();
        curve.set(&AlphaSigmoid::new(case.alpha.unwrap_or(1.0)).unwrap()).unwrap();
        let survival = DeviceBuffer::<f64>::zeroed(device, "a test", 2).unwrap();
        let noise = case.noise.as_deref().map(|noise| self.copy(noise));
        let rule = match case.alpha {
            Some(_) => DeviceRule::Soft { curve: &curve, survival: (&survival).into() },
            None => DeviceRule::Hard { noise: noise.as_ref(), shift },
        };
        let gates: Vec<_> = case
            .voters
            .iter()
            .map(|[query, key, bias]| {
                let bias: Vec<f32> = bias.iter().map(|bias| bias + shift).collect();
                [self.copy(&beside(query, key, row)), self.copy(&bias)]
            })
            .collect();
        let voters: Vec<_> = gates
            .iter()
            .map(|[both, bias]| {
                let [query_gates, key_gates] = halves(both, row);
                DeviceVoter { query_gates, key_gates, stride: 2 * row, bias: bias.into() }
            })
            .collect();
        let soft_voters = if case.alpha.is_some() { voters.len() } else { 0 };
        let scratch = gated.then(|| {
            GateScratch::with_strips_of(device, &self.specialisation, shape, soft_voters, bytes).unwrap()
        });
        self.attention.forward(shape, rule, &voters, layer, scratch.as_ref()).unwrap();
        // The first voter's are added to what a layer above has left.
        let to: Vec<_> = case
            .voters
            .iter()
            .enumerate()
            .map(|(number, [query, _, bias])| {
                let room = |len| {
                    if number == 0 && gates.len() > 1 {
                        self.copy(&vec![0.0; len])
                    } else {
                        poisoned_f32(device, len)
                    }
                };
                [room(2 * query.len()), self.copy(&vec![1.0; bias.len()])]
            })
            .collect();
        let gradients: Vec<_> = to
            .iter()
            .enumerate()
            .map(|(number, [both, bias])| {
                let [query_gates, key_gates] = halves(both, row);
                let fresh = number > 0 || gates.len() == 1;
                DeviceVoterGradient { query_gates, key_gates, fresh, bias: bias.into() }
            })
            .collect();
        let lambda = self.copy(&case.lambda);
        let margin = DeviceBuffer::<f64>::zeroed(device, "a test", 2 * shape.gate_heads).unwrap();
        let pressure = match (gated, case.alpha) {
            (false, _) => DevicePressure::NONE,
            (_, Some(_)) => DevicePressure::Soft { per_pair: case.per_pair, last_query: case.last_query },
            (_, None) => DevicePressure::Hard { lambda: (&lambda).into(), margin: &margin },
        };
        let back = AttendedBack { dout: &dout, delta: &delta, dqkv: &dqkv };
        self.attention
            .backward(shape, rule, &voters, layer, pressure, back, &gradients, scratch.as_ref())
            .unwrap();
        Results {
            out: numbers_of(&out.read().unwrap(), dtype),
            lse: lse.read().unwrap(),
            dqkv: numbers_of(&dqkv.read().unwrap(), dtype),
            expires_at: expires_at.read().unwrap(),
            survival: survival.read().unwrap(),
            voters: to
                .iter()
                .map(|[both, bias]| {
                    let bias = bias.read().unwrap().iter().map(|bias| bias - 1.0).collect();
                    let both = both.read().unwrap();
                    let half = |at| both.chunks(row).skip(at).step_by(2).flatten().copied().collect();
                    [half(0), half(1), bias]
                })
                .collect(),
            margin: margin.read().unwrap(),
        }
    }
}

impl Results {
    fn check(&self, case: &Case, dtype: DType) {
        let answer = case.answer();
        let tolerance = match dtype {
            DType::F32 if case.alpha.is_some_and(|alpha| alpha > 2.0) => STEEP_TOLERANCE,
            DType::F32 => TOLERANCE,
            _ => ROUNDED,
        };
        let what = |name: &str| {
            format!(
                "{name} of {dtype}, {} voters, alpha {:?}, {:?}",
                case.voters.len(),
                case.alpha,
                case.shape
            )
        };
        close(&what("out"), &wide(&self.out), &answer.out, tolerance);
        close(&what("lse"), &wide(&self.lse), &answer.lse, tolerance);
        close(&what("dqkv"), &wide(&self.dqkv), &answer.dqkv, tolerance);
        if case.voters.is_empty() {
            return;
        }
        assert_eq!(self.expires_at, answer.expires_at, "{}", what("expires_at"));
        if case.alpha.is_some() {
            close(&what("survival"), &self.survival, &answer.gates, tolerance);
        }
        for (got, expected) in self.voters.iter().zip(&answer.voters) {
            close(&what("query gates"), &wide(&got[0]), &expected[0], tolerance);
            close(&what("key gates"), &wide(&got[1]), &expected[1], tolerance);
            // Biases and worths sum numbers of both signs: against the size of what is summed.
            let size: f64 = expected[1].iter().map(|x| x.abs()).sum();
            for (got, want) in got[2].iter().zip(&expected[2]) {
                let miss = (f64::from(*got) - want).abs();
                assert!(
                    miss <= tolerance * (1.0 + size + want.abs()),
                    "{}: {got}, want {want}",
                    what("bias")
                );
            }
        }
        for (group, margin) in self.margin.chunks(2).enumerate().filter(|_| case.alpha.is_none()) {
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
agrees!(
    cuda_training_attends_with_wide_heads_over_several_tiles,
    7,
    Sizes { heads: (4, 2, 128), gates: (2, 32), batch: (2, 150), floors: (2, 3), window: None }
);
