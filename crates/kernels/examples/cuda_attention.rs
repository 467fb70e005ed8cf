//! Times of the device's attention: `cargo run --release -p dropcap-kernels --example cuda_attention [decode|prefill [q8|q4]]`.
//!
//! Decode: a graph over the layers of a cache that is larger than the second-level cache, time per layer and the share
//! of what a plain read of as many bytes gets. Prefill: chunks at the end of a prefix, and a whole prompt in chunks.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod filled;

use std::time::Instant;

use dropcap_kernels::attention::DeviceAttention;
use dropcap_kernels::cuda::{
    Argument, Device, DeviceBuffer, DeviceSpan, Function, Graph, Grid, Module, NO_CONSTANTS, Source,
    Specialisation, kernel_struct,
};
use dropcap_kernels::{DType, KernelError, KvFormat};

use filled::{filled, inputs};

/// Bytes of keys and values that a case may take.
const ROOM: usize = 40 << 30;

const HELPERS: Source = Source {
    file: "examples/cuda_attention",
    text: r#"
struct ReadArgs { const uint4* from; u32* to; u64 count; };
// Each block reads a contiguous piece, eight loads in flight in each thread.
extern "C" __global__ void __launch_bounds__(512) read(ReadArgs a) {
    wait_for_previous();
    let_next_start();
    u64 begin = a.count * blockIdx.x / gridDim.x, end = a.count * (blockIdx.x + 1) / gridDim.x;
    u32 sum = 0;
    for (u64 i = begin + threadIdx.x; i < end; i += 8 * 512) {
        uint4 x[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) x[j] = i + j * 512 < end ? a.from[i + j * 512] : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (u32 j = 0; j < 8; j++) sum ^= x[j].x ^ x[j].y ^ x[j].z ^ x[j].w;
    }
    if (sum == 0x12345678u) *a.to = sum;
}
"#,
    constants: NO_CONSTANTS,
    arguments: &[ReadArguments::LAYOUT],
};

kernel_struct! {
    struct ReadArguments as ReadArgs {
        from: u64,
        to: u64,
        count: u64,
    }
}

fn main() {
    let which = std::env::args().nth(1).unwrap_or_default();
    let format: KvFormat = std::env::args().nth(2).map_or(KvFormat::Bf16, |name| name.parse().unwrap());
    let (cache, codes) = Specialisation::of_cache(format);
    let device = Device::open(0, None).unwrap();
    println!("{} ({} multiprocessors)", device.facts().name, device.facts().multiprocessors);
    for (name, query_heads, kv_heads, head_dim) in
        [("Llama-3-8B", 32, 8, 128), ("Llama-3.2-1B", 32, 8, 64), ("GPT-2-medium", 16, 16, 64)]
    {
        let specialisation = Specialisation {
            weights: DType::Bf16,
            cache,
            codes,
            query_heads,
            kv_heads,
            groups: 1,
            head_dim,
            hidden: query_heads * head_dim,
            side_width: 0,
            statistics: 0,
        };
        println!(
            "{name}: {query_heads} query heads, {kv_heads} KV heads, d = {head_dim}, a cache of {format}"
        );
        if which != "prefill" {
            for batch in [1, 16, 64] {
                [1024, 4096, 32768]
                    .into_iter()
                    .for_each(|length| decode(&device, &specialisation, batch, length));
            }
        }
        if which != "decode" {
            prefill(&device, &specialisation);
        }
    }
}

/// Seconds of `work`, which is asked for `times` times after one that is not counted.
fn seconds(device: &Device, times: usize, mut work: impl FnMut()) -> f64 {
    work();
    device.synchronize().unwrap();
    let start = Instant::now();
    (0..times).for_each(|_| work());
    device.synchronize().unwrap();
    start.elapsed().as_secs_f64() / times as f64
}

fn decode(device: &Device, specialisation: &Specialisation, batch: usize, length: usize) {
    let pages = batch * length / 32;
    let bytes = pages * specialisation.page_bytes();
    // Every launch reads other data, until the second-level cache has forgotten it.
    let layers = (4 * device.facts().l2_bytes).div_ceil(bytes).clamp(2, 64);
    if layers * bytes > ROOM {
        println!("  decode b={batch:<3} KV={length:<6} skipped: more than {} GiB", ROOM >> 30);
        return;
    }
    let lanes = filled(device, specialisation, layers, batch, length);
    let attention = DeviceAttention::new(device, specialisation, batch).unwrap();
    let (step, size, qkv, mixed) = inputs(device, specialisation, layers, batch, batch);
    let position = length as u32 - 1;
    let spans: Vec<_> = (0..batch as u32)
        .map(|slot| DeviceSpan { slot, first_row: slot, queries: 1, first_position: position })
        .collect();
    step.spans.write(0, &spans).unwrap();
    let firsts = (0..=batch).map(|i| (i * length / 32) as u32);
    let firsts: Vec<_> = firsts.cycle().take(layers * (batch + 1)).collect();
    step.first_pages.write(0, &firsts).unwrap();
    let launches = layers * 64usize.div_ceil(layers);
    let mut graph = Graph::record(device, || {
        (0..launches)
            .try_for_each(|i| attention.decode(&lanes, &step, size, i % layers, 0.1, &qkv, &mixed, None))
    })
    .unwrap();
    let time = seconds(device, 5, || graph.launch().unwrap()) / launches as f64;
    // Positions and lifetimes are read beside keys and values; side channels and killers are not.
    let read = pages * (specialisation.page_bytes() - 128);
    let plain = plain_read(device, specialisation, layers, read, launches);
    let (rate, best) = (read as f64 / time / 1e9, read as f64 / plain / 1e9);
    println!(
        "  decode b={batch:<3} KV={length:<6} {:8.2} us  {rate:6.0} GB/s  plain read {:8.2} us {best:6.0} GB/s  {:5.1} %",
        time * 1e6,
        plain * 1e6,
        100.0 * rate / best
    );
}

/// Seconds of one of `launches` reads of `bytes` bytes, each of another piece of memory as far as there is one.
fn plain_read(
    device: &Device,
    specialisation: &Specialisation,
    pieces: usize,
    bytes: usize,
    launches: usize,
) -> f64 {
    let bytes = bytes / 16 * 16;
    let from = DeviceBuffer::<u8>::uninitialized(device, "a plain read", pieces * bytes).unwrap();
    let to = DeviceBuffer::<u32>::zeroed(device, "a plain read", 1).unwrap();
    let read: Function = Module::load(device, &HELPERS, specialisation).unwrap().function("read", 0).unwrap();
    let grid = Grid::new(4 * device.facts().multiprocessors as usize, 512).early();
    let mut graph = Graph::record(device, || {
        (0..launches).try_for_each(|i| {
            let from = from.pointer() + (i % pieces * bytes) as u64;
            let arguments = ReadArguments { from, to: to.pointer(), count: bytes as u64 / 16 };
            // SAFETY: the structure mirrors `ReadArgs`; the piece is inside the buffer.
            unsafe { read.launch(grid, &arguments) }
        })
    })
    .unwrap();
    seconds(device, 5, || graph.launch().unwrap()) / launches as f64
}

fn prefill(device: &Device, specialisation: &Specialisation) {
    let whole = 32768;
    let attention = DeviceAttention::new(device, specialisation, 1).unwrap();
    let run = |prefix: usize, chunk: usize| -> (f64, f64) {
        let lanes = filled(device, specialisation, 1, 1, prefix);
        let (step, _, qkv, mixed) = inputs(device, specialisation, 1, chunk, 1);
        let first = prefix - chunk;
        let span = DeviceSpan { slot: 0, first_row: 0, queries: chunk as u32, first_position: first as u32 };
        step.spans.write(0, &[span]).unwrap();
        let once = || -> Result<(), KernelError> {
            attention.prefill(&lanes, &step, &[span], 0, 0.1, &qkv, &mixed, None).map(drop)
        };
        let time = seconds(device, 5, || once().unwrap());
        // Two products of d multiply-adds for every query, head and entry that it sees.
        let seen = chunk as f64 * (first as f64 + (chunk as f64 + 1.0) / 2.0);
        (time, 4.0 * seen * (specialisation.query_heads * specialisation.head_dim) as f64)
    };
    for (prefix, chunk) in [(2048, 2048), (8192, 2048), (8192, 8192), (32768, 2048), (32768, 8192)] {
        let (time, flops) = run(prefix, chunk);
        println!(
            "  prefill prefix={prefix:<6} chunk={chunk:<5} {:9.1} us  {:6.1} TFLOP/s",
            time * 1e6,
            flops / time / 1e12
        );
    }
    for chunk in [2048, 8192, 32768] {
        let runs = (1..=whole / chunk).map(|i| run(i * chunk, chunk));
        let (time, flops) = runs.fold((0.0, 0.0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
        println!(
            "  prompt of {whole} in chunks of {chunk:<6} {:9.1} us  {:6.1} TFLOP/s",
            time * 1e6,
            flops / time / 1e12
        );
    }
}
