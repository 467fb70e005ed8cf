//! Tokens for a large batch from logits over a large vocabulary (Qwen's 151936), by each way of choosing.
#![allow(clippy::expect_used, reason = "a bench that cannot set itself up should fail")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropcap_engine::{Draw, Sampler, Sampling, sample_all};
use dropcap_kernels::Team;

const VOCABULARY: usize = 151_936;
const SEQUENCES: usize = 64;

/// Nearly normal numbers with a standard deviation of 3, which is what logits of language models look like.
fn logits() -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    // Four of them have a variance of a third.
    let mut normal = || ((0..4).map(|_| uniform()).sum::<f32>() - 2.0) * 27f32.sqrt();
    (0..SEQUENCES * VOCABULARY).map(|_| normal()).collect()
}

fn batch(bench: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
        .expect("the machine has threads");
    let logits = logits();
    let text: Vec<u32> = (0..512).map(|i| i * 291).collect();
    let warm = Sampling { temperature: 0.8, ..Sampling::default() };
    let ways = [
        ("greedy", Sampling::default()),
        ("temperature", warm.clone()),
        ("temperature, top-p 0.95", Sampling { top_p: 0.95, ..warm.clone() }),
        ("temperature, top-k 50", Sampling { top_k: 50, ..warm.clone() }),
        ("temperature, min-p 0.05", Sampling { min_p: 0.05, ..warm.clone() }),
        ("penalty, temperature, top-p 0.95", Sampling { repetition_penalty: 1.1, top_p: 0.95, ..warm }),
    ];
    let mut group = bench.benchmark_group(format!("sample {SEQUENCES} of {VOCABULARY}"));
    group.sample_size(20).throughput(Throughput::Elements(SEQUENCES as u64));
    for (name, sampling) in ways {
        let sampler = Sampler::new(sampling).expect("in range");
        let draws: Vec<Draw<'_>> = logits
            .chunks(VOCABULARY)
            .zip(0u16..)
            .map(|(logits, i)| Draw { sampler: &sampler, logits, text: &text, random: f32::from(i) / 64.0 })
            .collect();
        group.bench_function(name, |bench| bench.iter(|| black_box(sample_all(&team, &draws))));
    }
    group.finish();
}

criterion_group!(benches, batch);
criterion_main!(benches);
