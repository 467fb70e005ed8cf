//! The hot operations at the shapes of GPT-2 (124M), beside what the machine can do at most: a plain read of as many
//! bytes, and multiply-adds on registers alone. Compare within one run: other load on the machine moves both.
#![allow(clippy::expect_used, reason = "a bench that cannot set itself up should fail")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropcap_kernels::matmul::{
    BlockFormat, Epilogue, Orientation, PackedMatrix, Part, QuantisedMatrix, TensorBytes, matmul,
    quantised_matmul,
};
use dropcap_kernels::{
    AdamW, Buffer, Columns, DType, Elements, GeluKind, RowLoss, Team, activation, adamw, column_sums,
    cross_entropy, gelu_backward, layer_norm_backward, norm, sum_of_squares, transposed_product,
};

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

/// Weights in blocks at two shapes of SmolLM2-135M that fit the caches: what the arithmetic costs, memory aside.
fn blocks(bench: &mut Criterion) {
    let team = team();
    let mut group = bench.benchmark_group("blocks");
    group.sample_size(10);
    for format in BlockFormat::ALL {
        for (n, k) in [(3072, 576), (576, 1536)] {
            let w = QuantisedMatrix::random(n, k, format, 0.1, 7).expect("the shape fits");
            for t in [1, 512] {
                let (x, mut out) = (vec![0.1; t * k], vec![0.0; t * n]);
                // Elements are multiply-adds here.
                group.throughput(Throughput::Elements((t * k * n) as u64));
                group.bench_function(format!("{format}/[{t}, {k}] x [{k}, {n}]"), |bench| {
                    bench.iter(|| {
                        quantised_matmul(&team, &x, &w, None, Epilogue::Store, &mut out)
                            .expect("shapes agree");
                    });
                });
            }
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

/// The gradients of weights `[widths]` over 1024 rows, beside the forward product with as much arithmetic.
fn training(bench: &mut Criterion) {
    let team = team();
    let mut group = bench.benchmark_group("training");
    group.sample_size(10);
    let t = 1024;
    for (m, n) in [(256, 1024), (1024, 256), (256, 768), (8192, 256)] {
        let (a, b, mut out) = (vec![0.1; t * m], vec![0.1; t * n], vec![0.0; m * n]);
        group.throughput(Throughput::Elements((2 * t * m * n) as u64));
        group.bench_function(format!("weight gradient/[{m}, {n}]"), |bench| {
            let (a, b) = (Columns::all(&a, m), Columns::all(&b, n));
            bench.iter(|| transposed_product(&team, a, b, &mut out).expect("shapes agree"));
        });
        let w = PackedMatrix::random(m, n, DType::F32, 0.1, 7).expect("the shape fits");
        let (x, mut y) = (vec![0.1; t * n], vec![0.0; t * m]);
        group.bench_function(format!("forward/[{m}, {n}]"), |bench| {
            bench.iter(|| {
                matmul(&team, &x, &w, None, Epilogue::Store, &mut y).expect("shapes agree");
            });
        });
        let weights = vec![0.1f32; m * n];
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut packed = PackedMatrix::zeroed(m, n, DType::F32).expect("the shape fits");
        group.throughput(Throughput::Elements((m * n) as u64));
        for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
            let part =
                Part { source: TensorBytes { dtype: DType::F32, bytes: &bytes }, orientation, outputs: m };
            group.bench_function(format!("pack again/[{m}, {n}]/{orientation:?}"), |bench| {
                bench.iter(|| packed.fill(&team, 0, &part).expect("the part fits"));
            });
        }
    }
    let (v, rows) = (8192, 256);
    group.throughput(Throughput::Elements((v * rows) as u64));
    let (mut logits, targets) = (vec![0.5; v * rows], vec![7; rows]);
    let mut losses = vec![RowLoss::default(); rows];
    group.bench_function("cross-entropy", |bench| {
        bench.iter(|| cross_entropy(&team, &mut logits, v, &targets, None, 0.0, 1.0, &mut losses).is_ok());
    });
    let teacher = vec![0.5; v * rows];
    group.bench_function("cross-entropy and distillation", |bench| {
        bench.iter(|| {
            let teacher = Some(&teacher[..]);
            cross_entropy(&team, &mut logits, v, &targets, teacher, 0.8, 1.0, &mut losses).is_ok()
        });
    });
    let (mut p, mut m, mut second) = (logits.clone(), logits.clone(), teacher.clone());
    let step = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        step: 3,
        gradient_scale: 1.0,
    };
    group.bench_function("adamw", |bench| {
        bench.iter(|| adamw(&team, &step, &mut p, &teacher, &mut m, &mut second).is_ok());
    });
    group.bench_function("sum of squares", |bench| bench.iter(|| black_box(sum_of_squares(&team, &teacher))));
    let (x, weight) = (&teacher[..1024 * 256], vec![1.0; 256]);
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; 256], vec![0.0; 256]);
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("layer norm backward", |bench| {
        bench.iter(|| layer_norm_backward(&team, x, &weight, 1e-5, x, &mut dx, &mut dw, &mut db).is_ok());
    });
    group.bench_function("gelu backward", |bench| {
        bench.iter(|| gelu_backward(&team, GeluKind::Tanh, x, x, &mut dx).is_ok());
    });
    group.bench_function("column sums", |bench| {
        bench.iter(|| column_sums(&team, Columns::all(x, 256), &mut db).is_ok());
    });
}

criterion_group!(benches, decode, prefill, blocks, small, load, training);
criterion_main!(benches);
