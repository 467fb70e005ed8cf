//! Times the life of entries on a GPU, as recorded steps: votes, growth and freeing, greedy sampling.
//!
//! `cargo run --release -p dropcap-kernels --example cuda_lifetimes`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use dropcap_kernels::cuda::{
    Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Graph, Specialisation, StepSize,
};
use dropcap_kernels::lifetimes::{DeviceLifetimes, PromptCut, StepStatus};
use dropcap_kernels::sampling::{DeviceSampler, SlotSampling};
use dropcap_kernels::vote::DeviceVotes;
use dropcap_kernels::{DType, KernelError};

const LAYERS: usize = 32;
const SPECIALISATION: Specialisation = Specialisation {
    weights: DType::Bf16,
    cache: DType::Bf16,
    codes: None,
    query_heads: 32,
    kv_heads: 8,
    groups: 1,
    head_dim: 64,
    hidden: 2048,
    side_width: 64,
    statistics: 0,
};

/// Median microseconds of one replay; `between` may put things back and is not timed.
fn time(device: &Device, mut between: impl FnMut(), work: impl FnOnce() -> Result<(), KernelError>) -> f64 {
    let mut graph = Graph::record(device, work).unwrap();
    let mut times: Vec<f64> = (0..30)
        .map(|_| {
            between();
            device.synchronize().unwrap();
            let start = Instant::now();
            graph.launch().unwrap();
            device.synchronize().unwrap();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Lanes of `entries` entries at positions 0.., which never end.
struct Bench {
    lanes: DeviceLanes,
    lifetimes: DeviceLifetimes,
    step: DeviceStep,
    spans: Vec<DeviceSpan>,
    size: StepSize,
    status: DeviceBuffer<u32>,
    entries: usize,
}

impl Bench {
    fn new(device: &Device, layers: usize, slots: usize, entries: usize, queries: usize) -> Self {
        let pages = (entries + queries).div_ceil(32) + 2;
        let specialisation = &SPECIALISATION;
        let lanes =
            DeviceLanes::new(device, specialisation, layers, slots, pages * 32, layers * slots * pages)
                .unwrap();
        // Key gates that nobody refuses: 1 against query gates of 1. Lifetimes: never.
        let bytes = specialisation.page_bytes();
        let side = 2 * 8 * 32 * 64 * 2;
        let mut page = vec![0u8; bytes];
        page[side..side + 32 * 64 * 2].copy_from_slice(&[0x80, 0x3f].repeat(32 * 64));
        page[bytes - 256..].fill(0xff);
        let mut image = page.repeat(entries.div_ceil(32));
        for position in 0..entries {
            let place = position / 32 * bytes + bytes - 384 + position % 32 * 4;
            image[place..][..4].copy_from_slice(&(position as u32).to_le_bytes());
        }
        for lane in 0..layers * slots {
            lanes.write_lane(lane, entries as u32, &image).unwrap();
        }
        let step = DeviceStep::new(device, layers, 1, slots * queries, slots).unwrap();
        let spans: Vec<_> = (0..slots)
            .map(|slot| DeviceSpan {
                slot: slot as u32,
                first_row: (slot * queries) as u32,
                queries: queries as u32,
                first_position: entries as u32,
            })
            .collect();
        let lifetimes = DeviceLifetimes::new(device, specialisation).unwrap();
        let size = StepSize { rows: slots * queries, spans: slots };
        let status = DeviceBuffer::zeroed(device, "status", StepStatus::words(slots)).unwrap();
        let bench = Self { lanes, lifetimes, step, spans, size, status, entries };
        // Growth by nothing: it tells where pages lie.
        bench.set_queries(0);
        bench.lifetimes.grow(&bench.lanes, &bench.step, size).unwrap();
        bench.set_queries(queries as u32);
        bench
    }

    fn set_queries(&self, queries: u32) {
        let spans: Vec<_> = self.spans.iter().map(|span| DeviceSpan { queries, ..*span }).collect();
        self.step.spans.write(0, &spans).unwrap();
    }
}

fn votes(device: &Device, what: &str, layers: usize, slots: usize, entries: usize, queries: usize) {
    let bench = Bench::new(device, layers, slots, entries, queries);
    let gates = DeviceBuffer::copy_of(device, "gates", &vec![1.0f32; slots * queries * 128]).unwrap();
    let bias = DeviceBuffer::copy_of(device, "bias", &[0.5f32]).unwrap();
    let votes = DeviceVotes::new(device, &SPECIALISATION, 1).unwrap();
    let tables = &bench.lanes;
    let micros = time(
        device,
        || {},
        || {
            (0..layers).try_for_each(|layer| {
                votes.vote(tables, &bench.step, bench.size, layer, &gates, &bias, (0, 0), false)
            })
        },
    );
    let megabytes = (layers * slots * bench.entries * (64 * 2 + 8)) as f64 / 1e6;
    let products = (layers * slots * entries * queries) as f64 * 64.0 * 6.0;
    println!(
        "vote, {what}: {micros:.1} us for {layers} layers, {:.2} us each, {:.0} GB/s, {:.0} TFLOP/s",
        micros / layers as f64,
        megabytes / micros * 1e3,
        products / micros / 1e6
    );
}

fn main() {
    let device = Device::open(0, None).unwrap();
    println!("{}", device.facts().name);
    votes(&device, "decode b=1, 6500 entries", LAYERS, 1, 6500, 1);
    votes(&device, "decode b=32, 6500 entries", 4, 32, 6500, 1);
    votes(&device, "decode b=8, 6500 entries", 8, 8, 6500, 1);
    votes(&device, "2048 queries, 8548 entries", 4, 1, 8548, 2048);
    votes(&device, "8192 queries, 6500 entries", 4, 1, 6500, 8192);
    votes(&device, "8192 queries, 32768 entries", 4, 1, 32_768, 8192);

    // 8 layers stand for 32: writing the lanes from here takes long.
    let layers = 8;
    let bench = Bench::new(&device, layers, 32, 6500, 1);
    let tables = &bench.lanes;
    // Growth by nothing, so that lanes stay as they are.
    bench.set_queries(0);
    for dying in [false, true] {
        let mut next = 100;
        let kill = || {
            let first = next;
            next += 150;
            let cut = |slot| PromptCut {
                slot,
                first,
                end: first + 1,
                recent: 0,
                expires_at: 6500,
                killer: 6499,
                floor_sinks: 0,
                floor_recent: 0,
            };
            if dying {
                bench.lifetimes.cut(tables, &(0..32).map(cut).collect::<Vec<_>>(), None).unwrap();
            }
        };
        let micros = time(&device, kill, || {
            bench.lifetimes.grow(tables, &bench.step, bench.size)?;
            bench.lifetimes.reclaim(tables, &bench.step, bench.size, None, &bench.status)
        });
        let live = StepStatus::new(&bench.status.read().unwrap()).span(0).live;
        println!(
            "grow + reclaim, 32 sequences x {layers} layers x 6500 entries, a death in each: {dying}: {micros:.1} us ({live} live)"
        );
    }

    let v = 128_256;
    for count in [1, 64] {
        let sampler = DeviceSampler::new(&device, count, v).unwrap();
        let slots: Vec<u32> = (0..count as u32).collect();
        let slots = DeviceBuffer::copy_of(&device, "slots", &slots).unwrap();
        let logits: Vec<f32> = (0..count * v).map(|i| (i * 7919 % 10_007) as f32 / 1000.0).collect();
        let logits = DeviceBuffer::copy_of(&device, "logits", &logits).unwrap();
        let randoms = DeviceBuffer::copy_of(&device, "randoms", &vec![0.5f32; count]).unwrap();
        let tokens = DeviceBuffer::zeroed(&device, "tokens", count).unwrap();
        let repeats = 20;
        let run = || {
            (0..repeats).try_for_each(|_| sampler.sample(count, &slots, &logits, 128_256, &randoms, &tokens))
        };
        let micros = time(&device, || {}, run);
        println!("greedy, b={count}, v={v}: {:.2} us", micros / f64::from(repeats));
        let plain =
            SlotSampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };
        let ways = [
            ("top-k 50, top-p 0.95", SlotSampling { top_k: 50, top_p: 0.95, ..plain }),
            ("top-p 0.95", SlotSampling { top_p: 0.95, temperature: 0.05, ..plain }),
            ("min-p 0.1", SlotSampling { min_p: 0.1, temperature: 0.05, ..plain }),
            ("temperature", plain),
        ];
        for (what, sampling) in ways {
            (0..count).for_each(|slot| sampler.set(slot, sampling).unwrap());
            let micros = time(&device, || {}, run);
            println!("{what}, b={count}, v={v}: {:.2} us", micros / f64::from(repeats));
        }
    }
}
