//! The hot operations at the shapes of GPT-2 (124M), beside what the machine can do at most: a plain read of as many
//! bytes, and multiply-adds on registers alone. Compare within one run: other load on the machine moves both.
#![allow(clippy::expect_used, reason = "a bench that cannot set itself up should fail")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropcap_kernels::matmul::{Epilogue, Orientation, PackedMatrix, Part, TensorBytes, matmul};
use dropcap_kernels::{Buffer, DType, Elements, Team, activation, norm};

/// `[outputs, inputs]` of the four products of a layer.
const LAYER: [(usize, usize); 4] = [(2304, 768), (768, 768), (3072, 768), (768, 3072)];
const LAYERS: usize = 12;
const VOCABULARY: (usize, usize) = (50_257, 768);

fn team() -> Team {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Team::new(threads).expect("the machine has threads")
}

/// Every weight that one token streams.
fn weights(dtype: DType) -> Vec<PackedMatrix> {
    let shapes = (0..LAYERS).flat_map(|_| LAYER).chain([VOCABULARY]);
    let random = |(n, k)| PackedMatrix::random(n, k, dtype, 0.1, 7).expect("the shape fits");
    shapes.map(random).collect()
}

fn decode(bench: &mut Criterion) {
    let team = team();
    let mut group = bench.benchmark_group("decode");
    group.sample_size(20);
    for dtype in DType::ALL {
        let weights = weights(dtype);
        let bytes: usize = weights.iter().map(PackedMatrix::bytes).sum();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("plain read/{dtype}"), |bench| {
            let mut all = Buffer::zeroed(DType::F32, bytes / 4);
            (0..all.len()).step_by(1024).for_each(|i| all.set(i, 1.0));
            let Elements::F32(all) = all.elements() else { return };
            let piece = all.len().div_ceil(8 * team.threads());
            bench.iter(|| {
                team.run(8 * team.threads(), &|task| {
                    let piece = all.chunks(piece).nth(task).unwrap_or_default();
                    black_box(read(piece));
                })
            });
        });
        for t in [1, 8] {
            let x = vec![0.1; t * 3072];
            let mut out = vec![0.0; t * VOCABULARY.0];
            group.bench_function(format!("all products/{dtype}/t={t}"), |bench| {
                bench.iter(|| {
                    for w in &weights {
                        let out = &mut out[..t * w.outputs()];
                        matmul(&team, &x[..t * w.inputs()], w, None, Epilogue::Store, out)
                            .expect("shapes agree");
                    }
                });
            });
        }
    }
}

/// Adds up eight streams of lanes, which the compiler turns into vector loads.
fn read(piece: &[f32]) -> f32 {
    let mut sums = [0f32; 128];
    for block in piece.as_chunks::<128>().0 {
        sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum()
}

fn prefill(bench: &mut Criterion) {
    let team = team();
    let mut group = bench.benchmark_group("prefill");
    group.sample_size(10);
    for dtype in [DType::F32, DType::Bf16] {
        for (n, k) in LAYER {
            let w = PackedMatrix::random(n, k, dtype, 0.1, 7).expect("the shape fits");
            let t = 512;
            let (x, mut out) = (vec![0.1; t * k], vec![0.0; t * n]);
            // Elements are floating-point operations here.
            group.throughput(Throughput::Elements((2 * t * k * n) as u64));
            group.bench_function(format!("{dtype}/[{t}, {k}] x [{k}, {n}]"), |bench| {
                bench.iter(|| {
                    matmul(&team, &x, &w, None, Epilogue::Store, &mut out).expect("shapes agree");
                });
            });
        }
    }
}

fn small(bench: &mut Criterion) {
    let team = team();
    bench.bench_function("team/fork-join of 2", |bench| {
        bench.iter(|| {
            team.run(2, &|task| {
                black_box(task);
            })
        });
    });
    let mut group = bench.benchmark_group("elementwise");
    for t in [1, 512] {
        let (x, weight) = (vec![0.3; t * 768], vec![1.0; 768]);
        let mut out = vec![0.0; t * 768];
        group.throughput(Throughput::Elements((t * 768) as u64));
        group.bench_function(format!("layer norm/t={t}"), |bench| {
            bench.iter(|| {
                norm::layer_norm(&team, &x, &weight, &weight, 1e-5, &mut out).expect("shapes agree")
            });
        });
        group.bench_function(format!("silu_mul/t={t}"), |bench| {
            bench.iter(|| activation::silu_mul(&team, &x, 384, &mut out[..t * 384]).expect("shapes agree"));
        });
    }
}

fn load(bench: &mut Criterion) {
    let team = team();
    let (n, k) = VOCABULARY;
    let mut group = bench.benchmark_group("load");
    group.sample_size(10);
    for dtype in [DType::F32, DType::Bf16] {
        let bytes = vec![1u8; n * k * dtype.bytes()];
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
            let part = Part { source: TensorBytes { dtype, bytes: &bytes }, orientation, outputs: n };
            group.bench_function(format!("pack/{dtype}/{orientation:?}"), |bench| {
                bench.iter(|| PackedMatrix::pack(&team, &[part], k, dtype).expect("the part fits"));
            });
        }
    }
}

criterion_group!(benches, decode, prefill, small, load);
criterion_main!(benches);
