//! Attention for training: dense, and with hard and soft gates. Compare within one run.

// A bench whose set-up fails has nothing to measure.
#![allow(clippy::expect_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropcap_kernels::gated_attention::{
    GatedShape, Margin, Pressure, Rule, Saved, Voter, VoterGradient, backward, forward,
};
use dropcap_kernels::{AlphaSigmoid, AttentionShape, Team};

const SHAPE: GatedShape = GatedShape {
    sequences: 8,
    tokens: 1024,
    attention: AttentionShape { query_heads: 4, kv_heads: 4, head_dim: 64, scale: 0.125 },
    gate_heads: 4,
    gate_width: 16,
    sliding_window: None,
    sinks: 4,
    recent: 16,
};

fn noise(len: usize, seed: u64, size: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| size * next()).collect()
}

fn train(bench: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let team = Team::new(threads).expect("the machine has threads");
    let rows = SHAPE.sequences * SHAPE.tokens;
    let stride = 3 * 256;
    let gates = rows * SHAPE.gate_heads * SHAPE.gate_width;
    let (qkv, dout) = (noise(rows * stride, 1, 1.5), noise(rows * 256, 2, 1.0));
    let (query_gates, key_gates) = (noise(gates, 3, 1.5), noise(gates, 4, 1.5));
    let curve = AlphaSigmoid::new(1.5).expect("the curve exists");
    let soft = Rule::Soft { curve: &curve };
    let hard = Rule::Hard { noise: None };
    let press = Pressure::Soft { per_pair: 1e-3, last_query: false };
    let pressed = Pressure::Hard { lambda: &[0.01; 4] };
    let pairs = (SHAPE.sequences * 4 * SHAPE.tokens * (SHAPE.tokens + 1) / 2) as u64;
    let mut group = bench.benchmark_group("gated attention");
    group.sample_size(10);
    // Biases: most keys live on, some do, hardly any does.
    let cases = [
        ("dense", hard, pressed, None),
        ("hard/all live", hard, pressed, Some(9.0)),
        ("hard/some live", hard, pressed, Some(2.5)),
        ("hard/few live", hard, pressed, Some(1.0)),
        ("soft", soft, press, Some(2.5)),
    ];
    for (name, rule, pressure, bias) in cases {
        let bias = bias.map(|bias| [bias; 4]);
        let voters: Vec<Voter<'_>> = bias
            .iter()
            .map(|bias| Voter { query_gates: &query_gates, key_gates: &key_gates, bias })
            .collect();
        let (mut out, mut dqkv, mut saved) = (vec![0.0; rows * 256], vec![0.0; qkv.len()], Saved::new());
        let (mut dq, mut dk, mut db) = (vec![0.0; gates], vec![0.0; gates], [0.0; 4]);
        let mut margin = Margin::default();
        // Two products of 2 d operations for each pair.
        group.throughput(Throughput::Elements(4 * 64 * pairs));
        group.bench_function(format!("forward/{name}"), |bench| {
            bench.iter(|| {
                forward(&team, &SHAPE, rule, &voters, &qkv, stride, &mut out, &mut saved).expect("it fits");
            });
        });
        group.throughput(Throughput::Elements(10 * 64 * pairs));
        group.bench_function(format!("backward/{name}"), |bench| {
            bench.iter(|| {
                let mut gradients =
                    [VoterGradient { query_gates: &mut dq, key_gates: &mut dk, bias: &mut db }];
                let gradients = &mut gradients[..voters.len()];
                backward(
                    &team,
                    &SHAPE,
                    rule,
                    &voters,
                    &qkv,
                    stride,
                    &out,
                    &dout,
                    &saved,
                    pressure,
                    &mut dqkv,
                    gradients,
                    &mut margin,
                )
                .expect("it fits");
            });
        });
    }
}

criterion_group!(benches, train);
criterion_main!(benches);
