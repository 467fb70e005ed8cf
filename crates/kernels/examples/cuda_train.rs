//! Times the operations of a training step on a GPU, at two shapes, with what each would take at the card's limits.
//!
//! `cargo run -p dropcap-kernels --example cuda_train`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::ops::Range;

use dropcap_kernels::activation::TrainActivation;
use dropcap_kernels::cross_entropy::{Shares, TrainCrossEntropy};
use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSlice, Specialisation, Stopwatch, Stretches};
use dropcap_kernels::embedding::{EmbeddingSlices, TokenRows, TrainEmbedding};
use dropcap_kernels::gated_attention::{
    Attended, AttendedBack, DeviceCurve, DevicePressure, DeviceRule, DeviceVoter, DeviceVoterGradient,
    GateScratch, GatedShape, TrainAttention,
};
use dropcap_kernels::matmul::{Sum, TrainMatrix, TrainProducts};
use dropcap_kernels::norm::{NormSlices, TrainNorm};
use dropcap_kernels::optimizer::{Judged, Parameters, TrainOptimizer};
use dropcap_kernels::reduce::DeviceSums;
use dropcap_kernels::{AdamW, AlphaSigmoid, AttentionShape, DType, GeluKind, KernelError};

/// Bytes and products per second that were measured on an H200.
const BANDWIDTH: f64 = 4.3e12;
const PRODUCTS: f64 = 7e14;

fn matrix(data: &DeviceBuffer<u8>, rows: usize, columns: usize) -> TrainMatrix<'_> {
    TrainMatrix::new(data.into(), DType::Bf16, rows, columns, columns).unwrap()
}

fn f32_matrix(data: &DeviceBuffer<f32>, rows: usize, columns: usize) -> TrainMatrix<'_> {
    TrainMatrix::f32(data.into(), rows, columns).unwrap()
}

/// A shape to train at.
struct Model {
    name: &'static str,
    batch: (usize, usize),
    heads: (usize, usize, usize),
    hidden: usize,
    intermediate: usize,
    gates: (usize, usize),
    vocabulary: usize,
}

const MODELS: [Model; 2] = [
    Model {
        name: "GPT-2-medium",
        batch: (8, 1024),
        heads: (16, 16, 64),
        hidden: 1024,
        intermediate: 4096,
        gates: (16, 16),
        vocabulary: 50257,
    },
    Model {
        name: "SmolLM2-135M",
        batch: (16, 1024),
        heads: (9, 3, 64),
        hidden: 576,
        intermediate: 1536,
        gates: (3, 16),
        vocabulary: 49152,
    },
];

struct Bench {
    device: Device,
    state: u64,
}

impl Bench {
    /// Numbers in [-1, 1) times `size`.
    fn numbers(&mut self, count: usize, size: f32) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            size * ((*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        };
        (0..count).map(|_| next(&mut self.state)).collect()
    }

    fn f32(&mut self, count: usize, size: f32) -> DeviceBuffer<f32> {
        let numbers = self.numbers(count, size);
        DeviceBuffer::copy_of(&self.device, "numbers", &numbers).unwrap()
    }

    fn bf16(&mut self, count: usize) -> DeviceBuffer<u8> {
        let numbers = self.numbers(count, 1.0);
        let bytes: Vec<u8> =
            numbers.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
        DeviceBuffer::copy_of(&self.device, "numbers", &bytes).unwrap()
    }

    /// Prints the median time of `work`, and what `flops` and `bytes` would take.
    fn time(&self, what: &str, flops: f64, bytes: f64, work: impl Fn() -> Result<(), KernelError>) {
        let stopwatch = Stopwatch::new(&self.device).unwrap();
        work().unwrap();
        let mut times: Vec<f32> = (0..9)
            .map(|_| {
                stopwatch.start().unwrap();
                work().unwrap();
                stopwatch.stop().unwrap() * 1e6
            })
            .collect();
        times.sort_by(f32::total_cmp);
        let floor = (flops / PRODUCTS).max(bytes / BANDWIDTH) * 1e6;
        println!("{what:<28} {:>9.1} us, floor {floor:>8.1} us", times[times.len() / 2]);
    }

    fn run(&mut self, model: &Model) {
        let (sequences, tokens) = model.batch;
        let (h, g, d) = model.heads;
        let (rows, c, m) = (sequences * tokens, model.hidden, model.intermediate);
        let specialisation = Specialisation {
            weights: DType::Bf16,
            cache: DType::Bf16,
            codes: None,
            query_heads: h,
            kv_heads: g,
            groups: model.gates.0,
            head_dim: d,
            hidden: c,
            side_width: model.gates.1,
            statistics: 0,
        };
        println!("{} {sequences} x {tokens}, a layer:", model.name);
        self.dense(&specialisation, rows, c, m);
        self.attention(model, &specialisation);
        self.embedding(model, &specialisation);
        let stride = model.vocabulary.next_multiple_of(64);
        let slice = 2048;
        let logits = self.f32(slice * stride, 4.0);
        let targets = DeviceBuffer::copy_of(&self.device, "targets", &vec![7u32; slice]).unwrap();
        let losses = self.f32(3 * slice, 1.0);
        let loss = TrainCrossEntropy::new(&self.device, &specialisation).unwrap();
        let bytes = (slice * stride * 10) as f64;
        self.time("cross-entropy of 2048 rows", 0.0, bytes, || {
            let shares = Shares { distill: 0.0, scale: 1.0 };
            loss.slice(model.vocabulary, stride, &logits, None, (&targets).into(), shares, (&losses).into())
        });
    }

    fn dense(&mut self, specialisation: &Specialisation, rows: usize, c: usize, m: usize) {
        let products = TrainProducts::new(&self.device).unwrap();
        let (x, dy, weight) = (self.bf16(rows * c), self.bf16(rows * m), self.bf16(c * m));
        let gradient = self.f32(c * m, 1.0);
        let residual = self.f32(rows * c, 1.0);
        let flops = 2.0 * (rows * c * m) as f64;
        let (x_of, dy_of, weight_of) = (matrix(&x, rows, c), matrix(&dy, rows, m), matrix(&weight, m, c));
        self.time("product", flops, 0.0, || {
            products.multiply(x_of, weight_of.turned(), Sum::Store, None, dy_of)
        });
        self.time("product to the residual", flops, 0.0, || {
            let residual = f32_matrix(&residual, rows, c);
            products.multiply(dy_of, weight_of, Sum::With(residual), None, residual)
        });
        self.time("gradient of a weight", flops, 0.0, || {
            products.multiply(dy_of.turned(), x_of, Sum::Add, None, f32_matrix(&gradient, m, c))
        });
        let norm = TrainNorm::new(&self.device, specialisation).unwrap();
        let (stats, scratch) = (self.f32(2 * rows, 1.0), self.f32(norm.scratch(), 1.0));
        let (scale, d_scale, dx) = (self.f32(c, 1.0), self.f32(c, 1.0), self.f32(rows * c, 1.0));
        let slices = |weight| NormSlices { weight: DeviceSlice::from(weight), bias: None };
        let size = (rows * c) as f64;
        self.time("norm", 0.0, 6.0 * size, || {
            norm.forward(rows, slices(&scale), 1e-5, &residual, &x, None, &stats)
        });
        self.time("norm, back", 0.0, 16.0 * size, || {
            let (into, to) = (slices(&d_scale), Some(&x));
            norm.backward(rows, slices(&scale), &residual, &stats, &x, false, &dx, to, &scratch, into)
        });
        let activation = TrainActivation::new(&self.device, specialisation).unwrap();
        let up = self.bf16(rows * m);
        self.time("gelu", 0.0, 4.0 * (rows * m) as f64, || {
            activation.gelu(GeluKind::Tanh, rows * m, &dy, None, &up)
        });
        self.time("gelu, back", 0.0, 6.0 * (rows * m) as f64, || {
            activation.gelu(GeluKind::Tanh, rows * m, &dy, Some(&dy), &up)
        });
        self.optimizer(specialisation, 32 * c * m);
    }

    /// What is done with all parameters, and with every other matrix's worth of them, as one of two processes does.
    fn optimizer(&mut self, specialisation: &Specialisation, count: usize) {
        let optimizer = TrainOptimizer::new(&self.device, specialisation).unwrap();
        let [values, gradients, first, second] = [1.0, 0.1, 0.0, 0.0].map(|value| self.f32(count, value));
        let working = self.bf16(count);
        let rule = AdamW {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
        };
        let sums = DeviceSums::new(&self.device, specialisation).unwrap();
        let scratch = DeviceBuffer::zeroed(&self.device, "squares", DeviceSums::SQUARES_SCRATCH).unwrap();
        let total = DeviceBuffer::zeroed(&self.device, "squares", 1).unwrap();
        let verdict = DeviceBuffer::copy_of(&self.device, "a verdict", &[0.5, 1.0]).unwrap();
        let piece = count / 64;
        let halves: Vec<_> = (0..32).map(|at| 2 * at * piece..(2 * at + 1) * piece).collect();
        for (what, ranges) in [("all", std::slice::from_ref(&(0..count))), ("half", &halves)] {
            let stretches = Stretches::new(&self.device, ranges).unwrap();
            let moved: usize = ranges.iter().map(Range::len).sum();
            self.time(&format!("adamw of {what}"), 0.0, 30.0 * moved as f64, || {
                let range = Parameters {
                    values: (&values).into(),
                    gradients: (&gradients).into(),
                    first: (&first).into(),
                    second: (&second).into(),
                    working: Some((&working).into()),
                };
                let judged = Judged { verdict: (&verdict).into(), is_clipped: true };
                optimizer.adamw(&rule, range, &stretches, judged)
            });
            self.time(&format!("squares of {what}"), 0.0, 4.0 * moved as f64, || {
                sums.squares((&gradients).into(), &stretches, &scratch, (&total).into())
            });
        }
    }

    /// Dense, under the hard rule with a gate per KV head, and under the soft one with a gate per layer.
    fn attention(&mut self, model: &Model, specialisation: &Specialisation) {
        let (kv_heads, width) = model.gates;
        self.gated(model, specialisation, (kv_heads, width), None);
        self.gated(model, specialisation, (1, 64), Some(2.0));
    }

    fn gated(
        &mut self,
        model: &Model,
        specialisation: &Specialisation,
        (gate_heads, gate_width): (usize, usize),
        alpha: Option<f64>,
    ) {
        let specialisation =
            &Specialisation { groups: gate_heads, side_width: gate_width, ..*specialisation };
        let (sequences, tokens) = model.batch;
        let (query_heads, kv_heads, head_dim) = model.heads;
        let rows = sequences * tokens;
        let shape = GatedShape {
            sequences,
            tokens,
            attention: AttentionShape { query_heads, kv_heads, head_dim, scale: 0.125 },
            gate_heads,
            gate_width,
            sliding_window: None,
            sinks: 4,
            recent: 16,
        };
        let attention = TrainAttention::new(&self.device, specialisation).unwrap();
        let qkv = self.bf16(rows * (query_heads + 2 * kv_heads) * head_dim);
        let dqkv = self.bf16(rows * (query_heads + 2 * kv_heads) * head_dim);
        let (out, dout) =
            (self.bf16(rows * query_heads * head_dim), self.bf16(rows * query_heads * head_dim));
        let (lse, delta) = (self.f32(rows * query_heads, 1.0), self.f32(rows * query_heads, 1.0));
        let row = gate_heads * gate_width;
        let gates = [self.f32(2 * rows * row, 1.0), self.f32(2 * rows * row, 1.0)];
        // Query and key gates of a token beside each other.
        let halves = |both| {
            [0..(2 * rows - 1) * row, row..2 * rows * row].map(|range| DeviceSlice::new(both, range).unwrap())
        };
        let ([query_gates, key_gates], [d_query, d_key]) = (halves(&gates[0]), halves(&gates[1]));
        let (d_bias, lambda) = (self.f32(gate_heads, 1.0), self.f32(gate_heads, 0.1));
        let ends = DeviceBuffer::<u32>::zeroed(&self.device, "ends", rows * gate_heads).unwrap();
        let margin = DeviceBuffer::<f64>::zeroed(&self.device, "margin", 2 * gate_heads).unwrap();
        let survival = DeviceBuffer::<f64>::zeroed(&self.device, "survival", 2).unwrap();
        let soft_voters = usize::from(alpha.is_some());
        let scratch = GateScratch::new(&self.device, specialisation, &shape, soft_voters).unwrap();
        let mut curve = DeviceCurve::new(&self.device).unwrap();
        curve.set(&AlphaSigmoid::new(alpha.unwrap_or(1.0)).unwrap()).unwrap();
        // Of a product of all visible pairs.
        let flops = (tokens * tokens) as f64 * (query_heads * head_dim * sequences) as f64;
        let back = AttendedBack { dout: &dout, delta: &delta, dqkv: &dqkv };
        if alpha.is_none() {
            let layer = Attended { qkv: &qkv, expires_at: None, out: &out, lse: &lse, trail: None };
            let (rule, pressure) = (DeviceRule::DENSE, DevicePressure::NONE);
            self.time("attention", 2.0 * flops, 0.0, || attention.forward(&shape, rule, &[], layer, None));
            self.time("attention, back", 7.0 * flops, 0.0, || {
                attention.backward(&shape, rule, &[], layer, pressure, back, &[], None)
            });
        }
        // Scores deviate by a third: with a bias of 0.8 a key lives for about a hundred queries.
        for (what, level) in [("nothing dies", 50.0), ("most die", 0.8)] {
            let bias = DeviceBuffer::copy_of(&self.device, "bias", &vec![level; gate_heads]).unwrap();
            let voter = DeviceVoter { query_gates, key_gates, stride: 2 * row, bias: (&bias).into() };
            let (rule, pressure, name) = match alpha {
                None => (
                    DeviceRule::DENSE,
                    DevicePressure::Hard { lambda: (&lambda).into(), margin: &margin },
                    "hard",
                ),
                Some(_) => (
                    DeviceRule::Soft { curve: &curve, survival: (&survival).into() },
                    DevicePressure::Soft { per_pair: 1e-6, last_query: false },
                    "soft",
                ),
            };
            let layer = Attended { qkv: &qkv, expires_at: Some(&ends), out: &out, lse: &lse, trail: None };
            let gradient = DeviceVoterGradient {
                query_gates: d_query,
                key_gates: d_key,
                fresh: true,
                bias: (&d_bias).into(),
            };
            println!("{name}, {gate_heads} gate heads of {gate_width}, {what}:");
            self.time("votes and attention", 2.0 * flops, 0.0, || {
                attention.forward(&shape, rule, &[voter], layer, Some(&scratch))
            });
            self.time("both, back", 7.0 * flops, 0.0, || {
                let gradients = [gradient];
                attention.backward(&shape, rule, &[voter], layer, pressure, back, &gradients, Some(&scratch))
            });
        }
    }

    /// The gradient of the embedding where one token in four is the same.
    fn embedding(&mut self, model: &Model, specialisation: &Specialisation) {
        let rows = model.batch.0 * model.batch.1;
        let ids: Vec<u32> =
            (0..rows as u32)
                .map(|row| {
                    if row % 4 == 0 { 11 } else { row.wrapping_mul(2_654_435_761) % model.vocabulary as u32 }
                })
                .collect();
        let mut batch = TokenRows::new(&self.device, rows).unwrap();
        batch.set(&ids, model.vocabulary).unwrap();
        batch.sort().unwrap();
        let table = self.f32(model.vocabulary * model.hidden, 1.0);
        let dx = self.f32(rows * model.hidden, 1.0);
        let embedding = TrainEmbedding::new(&self.device, specialisation).unwrap();
        self.time("embedding, back", 0.0, (8 * rows * model.hidden) as f64, || {
            let slices = EmbeddingSlices { table: (&table).into(), positions: None };
            embedding.backward(&batch, model.batch.1, &dx, slices)
        });
    }
}

fn main() {
    let device = Device::open(0, Some(std::env::temp_dir().join("dropcap-test-kernels"))).unwrap();
    println!("{}", device.facts().name);
    let mut bench = Bench { device, state: 0x2545_f491_4f6c_dd1d };
    MODELS.iter().for_each(|model| bench.run(model));
}
