//! Attention at the shape of GPT-2 (124M) and of an 8B Llama: decode beside a plain read of the same pages, prefill in
//! multiply-adds. Compare within one run: other load on the machine moves everything.

// A bench whose set-up fails has nothing to measure.
#![allow(clippy::expect_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropcap_kernels::{
    AttentionRows, AttentionShape, Buffer, DType, Elements, LaneView, PAGE_ENTRIES, PageLayout, Team,
    attention,
};

const GPT2: AttentionShape = AttentionShape { query_heads: 12, kv_heads: 12, head_dim: 64, scale: 0.125 };
const LLAMA_8B: AttentionShape =
    AttentionShape { query_heads: 32, kv_heads: 8, head_dim: 128, scale: 0.0884 };

/// Several times a third-level cache, so that a decode reads memory.
const STREAMED_BYTES: usize = 150_000_000;

struct Lane {
    layout: PageLayout,
    pages: Vec<Buffer>,
    positions: Vec<u32>,
    expires_at: Vec<u32>,
}

impl Lane {
    fn new(shape: &AttentionShape, entries: usize, dtype: DType) -> Self {
        let layout =
            PageLayout::new(shape.kv_heads, shape.head_dim, vec![], dtype).expect("the layout is small");
        let mut page = layout.zeroed_page().expect("a page fits");
        (0..page.len()).for_each(|i| page.set(i, (i % 17) as f32 / 17.0 - 0.5));
        Self {
            pages: vec![page; entries.div_ceil(PAGE_ENTRIES)],
            positions: (0..entries as u32).collect(),
            expires_at: vec![u32::MAX; entries],
            layout,
        }
    }

    fn rows(&self, first_row: usize, queries: usize) -> AttentionRows<'_> {
        let lane = LaneView {
            layout: &self.layout,
            pages: self.pages.iter().collect(),
            positions: &self.positions,
            expires_at: &self.expires_at,
        };
        let first_position = (self.positions.len() - queries) as u32;
        AttentionRows { first_row, queries, first_position, lanes: vec![lane] }
    }
}

fn team() -> Team {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Team::new(threads).expect("the machine has threads")
}

/// A plain read of every page.
fn read(team: &Team, lanes: &[Lane]) {
    let pages: Vec<&Buffer> = lanes.iter().flat_map(|lane| &lane.pages).collect();
    team.run(pages.len(), &|page| match pages[page].elements() {
        Elements::F32(all) => mix(bytemuck::cast_slice(all)),
        Elements::F16(all) => mix(bytemuck::cast_slice(all)),
        Elements::Bf16(all) => mix(bytemuck::cast_slice(all)),
    });
}

fn mix(words: &[u64]) {
    let mut all = [0; 16];
    for line in words.chunks_exact(16) {
        all.iter_mut().zip(line).for_each(|(all, word)| *all ^= word);
    }
    black_box(all);
}

fn decode(bench: &mut Criterion) {
    let team = team();
    let mut group = bench.benchmark_group("attention decode");
    group.sample_size(20);
    for (name, shape) in [("gpt2", GPT2), ("llama-8b", LLAMA_8B)] {
        for (entries, batch) in [(1024, 1), (1024, 8), (8192, 1), (8192, 8)] {
            for dtype in [DType::F32, DType::Bf16] {
                let width = shape.kv_heads * shape.head_dim;
                let bytes = 2 * entries * batch * width * dtype.bytes();
                let layers = STREAMED_BYTES.div_ceil(bytes);
                let lanes: Vec<Lane> =
                    (0..layers * batch).map(|_| Lane::new(&shape, entries, dtype)).collect();
                let layers: Vec<Vec<AttentionRows<'_>>> = lanes
                    .chunks(batch)
                    .map(|lanes| lanes.iter().enumerate().map(|(row, lane)| lane.rows(row, 1)).collect())
                    .collect();
                let stride = shape.query_heads * shape.head_dim;
                let (query, mut out) = (vec![0.3; batch * stride], vec![0.0; batch * stride]);
                group.throughput(Throughput::Bytes((bytes * layers.len()) as u64));
                let label = format!("{name}/{dtype}/e={entries}/b={batch}");
                group.bench_function(format!("plain read/{label}"), |bench| {
                    bench.iter(|| read(&team, &lanes));
                });
                group.bench_function(format!("attention/{label}"), |bench| {
                    bench.iter(|| {
                        for rows in &layers {
                            attention(&team, &shape, rows, &query, stride, &mut out).expect("shapes agree");
                        }
                    });
                });
            }
        }
    }
}

fn prefill(bench: &mut Criterion) {
    let team = team();
    let mut group = bench.benchmark_group("attention prefill");
    group.sample_size(20);
    for (name, shape) in [("gpt2", GPT2), ("llama-8b", LLAMA_8B)] {
        for dtype in [DType::F32, DType::Bf16] {
            let queries = 512;
            let lane = Lane::new(&shape, queries, dtype);
            let stride = shape.query_heads * shape.head_dim;
            let (query, mut out) = (vec![0.3; queries * stride], vec![0.0; queries * stride]);
            // Two products, two operations each, over the lower triangle.
            group.throughput(Throughput::Elements((2 * queries * (queries + 1) * stride) as u64));
            group.bench_function(format!("{name}/{dtype}/t={queries}"), |bench| {
                let rows = [lane.rows(0, queries)];
                bench.iter(|| {
                    attention(&team, &shape, &rows, &query, stride, &mut out).expect("shapes agree")
                });
            });
        }
    }
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
