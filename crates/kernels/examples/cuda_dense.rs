//! How fast the products of known models are on the first CUDA device, beside a plain reading of its memory.
//! What is tuned is timed behind a small kernel, whose time is in it.
//!
//! `cargo run --release -p dropcap-kernels --example cuda_dense [Q8_0|Q4_0|Q4_1] [rows ...]`
#![allow(clippy::print_stdout, reason = "that is its purpose")]

use dropcap_kernels::activation::DeviceActivation;
use dropcap_kernels::cuda::{
    Argument, Device, DeviceBuffer, Graph, Grid, Module, NO_CONSTANTS, Source, Specialisation, Stopwatch,
    kernel_struct,
};
use dropcap_kernels::matmul::{DeviceBias, DeviceMatmul, DeviceMatrix, DeviceRandom, Target};
use dropcap_kernels::norm::{DeviceNorm, NormParameters, Unrounded};
use dropcap_kernels::{BlockFormat, DType, KernelError};

type Outcome<T> = Result<T, KernelError>;

const DTYPE: DType = DType::Bf16;
const ELEMENT: usize = 2;
const DECODE: [usize; 6] = [1, 2, 4, 8, 16, 64];
const PREFILL: [usize; 2] = [2048, 8192];

/// The matrices of a layer, and of the head.
struct Model {
    name: &'static str,
    hidden: usize,
    qkv: usize,
    intermediate: usize,
    gated: bool,
    vocabulary: usize,
    /// Layers of the chain.
    layers: usize,
}

const MODELS: [Model; 3] = [
    Model {
        name: "Llama-3-8B",
        hidden: 4096,
        qkv: 6144,
        intermediate: 14336,
        gated: true,
        vocabulary: 128_256,
        layers: 32,
    },
    Model {
        name: "Llama-3.2-1B",
        hidden: 2048,
        qkv: 3072,
        intermediate: 8192,
        gated: true,
        vocabulary: 128_256,
        layers: 16,
    },
    Model {
        name: "GPT-2-medium",
        hidden: 1024,
        qkv: 3072,
        intermediate: 4096,
        gated: false,
        vocabulary: 50_257,
        layers: 24,
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Goal {
    Store,
    Logits,
    Add,
    Gelu,
    Silu,
}

struct Bench {
    device: Device,
    matmul: DeviceMatmul,
    random: DeviceRandom,
    activation: DeviceActivation,
    watch: Stopwatch,
    /// Of the weights; none for numbers.
    format: Option<BlockFormat>,
    /// Bytes per second of a plain reading.
    plain: f64,
}

fn main() -> Outcome<()> {
    let device = Device::open(0, Some(std::env::temp_dir().join("dropcap-test-kernels")))?;
    // Products do not depend on the other sizes.
    let specialisation = specialisation(4096);
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |format: &BlockFormat| words.iter().any(|word| word == format.name());
    let mut bench = Bench {
        matmul: DeviceMatmul::new(&device, &specialisation)?.with_blocks(128_256 * 4096)?,
        random: DeviceRandom::new(&device, &specialisation)?,
        activation: DeviceActivation::new(&device, &specialisation)?,
        watch: Stopwatch::new(&device)?,
        format: BlockFormat::ALL.into_iter().find(named),
        plain: 0.0,
        device,
    };
    bench.plain = bench.plain_reading(&specialisation)?;
    println!("{}: plain reading {:.0} GB/s", bench.device.facts().name, bench.plain / 1e9);
    let rows: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let rows = if rows.is_empty() { DECODE.to_vec() } else { rows };
    for model in &MODELS {
        println!("\n{}: one product, weights from memory", model.name);
        println!(
            "{:>8} {:>14} {:>5} {:>10} {:>7} {:>6} {:>10}",
            "", "n x k", "rows", "us", "GB/s", "share", "tuned us"
        );
        for (name, n, k, goal) in model.matrices() {
            bench.decode_products(name, n, k, goal, &rows)?;
        }
        println!("{}: all products of a step, in the order of decoding", model.name);
        for &rows in &rows {
            bench.chain(model, rows)?;
        }
    }
    for model in &MODELS {
        println!("\n{}: prefill", model.name);
        for (name, n, k, _) in &model.matrices()[..4] {
            bench.prefill_products(name, *n, *k)?;
        }
    }
    Ok(())
}

fn specialisation(hidden: usize) -> Specialisation {
    Specialisation {
        weights: DTYPE,
        cache: DTYPE,
        codes: None,
        query_heads: 32,
        kv_heads: 8,
        groups: 1,
        head_dim: 64,
        hidden,
        side_width: 0,
        statistics: 0,
    }
}

impl Model {
    fn matrices(&self) -> [(&'static str, usize, usize, Goal); 5] {
        let (c, m) = (self.hidden, self.intermediate);
        let up = if self.gated { (2 * m, Goal::Silu) } else { (m, Goal::Gelu) };
        [
            ("qkv", self.qkv, c, Goal::Store),
            ("output", c, c, Goal::Add),
            ("up", up.0, c, up.1),
            ("down", c, m, Goal::Add),
            ("head", self.vocabulary, c, Goal::Logits),
        ]
    }
}

/// Room for what a product writes.
struct Outputs {
    wide: DeviceBuffer<f32>,
    narrow: DeviceBuffer<u8>,
    /// A gate and its up, where they are not one product with their activation.
    gate_up: DeviceBuffer<u8>,
}

impl Outputs {
    fn new(device: &Device, count: usize) -> Outcome<Self> {
        Ok(Self {
            wide: DeviceBuffer::zeroed(device, "outputs", count)?,
            narrow: DeviceBuffer::zeroed(device, "outputs", count * ELEMENT)?,
            gate_up: DeviceBuffer::zeroed(device, "outputs", count * ELEMENT)?,
        })
    }
}

impl Bench {
    fn weights(&self, n: usize, k: usize, seed: usize) -> Outcome<DeviceMatrix> {
        let scale = 1.7 / (k as f32).sqrt();
        match self.format {
            None => DeviceMatrix::random(&self.random, &self.device, n, k, DTYPE, scale, seed as u64),
            Some(format) => {
                DeviceMatrix::random_blocks(&self.random, &self.device, n, k, format, scale, seed as u64)
            }
        }
    }

    fn activations(&self, count: usize) -> Outcome<DeviceBuffer<u8>> {
        let x = DeviceBuffer::uninitialized(&self.device, "activations", count * ELEMENT)?;
        self.random.fill(&x, DTYPE, count, 1.0, 1)?;
        Ok(x)
    }

    /// Seconds of one round of `work`, recorded, the best of several.
    fn time(&self, work: impl Fn() -> Outcome<()>) -> Outcome<f64> {
        work()?;
        self.device.synchronize()?;
        let mut graph = Graph::record(&self.device, &work)?;
        graph.launch()?;
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            self.watch.start()?;
            graph.launch()?;
            best = best.min(f64::from(self.watch.stop()?));
        }
        Ok(best)
    }

    fn plain_reading(&self, specialisation: &Specialisation) -> Outcome<f64> {
        const BYTES: usize = 2 << 30;
        let read = Module::load(&self.device, &READ, specialisation)?.function("read", 0)?;
        let from = DeviceBuffer::<u8>::zeroed(&self.device, "memory to read", BYTES)?;
        let to = DeviceBuffer::<u32>::zeroed(&self.device, "a sum", 1)?;
        let blocks = self.device.facts().multiprocessors as usize * 8;
        let seconds = self.time(|| {
            let arguments = Read { from: from.pointer(), to: to.pointer(), count: BYTES as u64 / 16 };
            // SAFETY: the kernel's argument, with addresses and length of living buffers.
            Ok(unsafe { read.launch(Grid::new(blocks, 256), &arguments) }?)
        })?;
        Ok(BYTES as f64 / seconds)
    }

    fn product(
        &self,
        x: &DeviceBuffer<u8>,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        goal: Goal,
        out: &Outputs,
    ) -> Outcome<()> {
        let target = match goal {
            Goal::Store => Target::Store(&out.narrow),
            Goal::Logits => Target::StoreF32(&out.wide),
            Goal::Add => Target::Add(&out.wide),
            Goal::Gelu => Target::GeluTanh(&out.narrow),
            Goal::Silu if self.matmul.gates(w, rows) => Target::SiluMul(&out.narrow),
            Goal::Silu => {
                self.matmul.product(x, w, bias, rows, Target::Store(&out.gate_up))?;
                return self.activation.silu_mul(rows, w.outputs() / 2, &out.gate_up, &out.narrow);
            }
        };
        self.matmul.product(x, w, bias, rows, target)
    }

    fn decode_products(&self, name: &str, n: usize, k: usize, goal: Goal, rows: &[usize]) -> Outcome<()> {
        let bytes = self.weights(n, k, 0)?.bytes();
        // Together several times what the second-level cache holds.
        let copies = (4 * self.device.facts().l2_bytes).div_ceil(bytes).max(2);
        let weights: Vec<_> = (0..copies).map(|i| self.weights(n, k, i)).collect::<Result<_, _>>()?;
        for &rows in rows {
            let x = self.activations(rows * k)?;
            let out = Outputs::new(&self.device, rows * n)?;
            let rounds = (400_usize << 20).div_ceil(copies * bytes).max(1);
            let all = || {
                for _ in 0..rounds {
                    for w in &weights {
                        self.product(&x, w, None, rows, goal, &out)?;
                    }
                }
                Ok(())
            };
            let seconds = self.time(all)? / (rounds * copies) as f64;
            let target = match goal {
                Goal::Add => Target::Add(&out.wide),
                Goal::Logits => Target::StoreF32(&out.wide),
                Goal::Gelu => Target::GeluTanh(&out.narrow),
                Goal::Store | Goal::Silu => Target::Store(&out.narrow),
            };
            self.matmul.tune(&x, &weights[0], None, rows, target)?;
            let tuned = self.time(all)? / (rounds * copies) as f64;
            let rate = bytes as f64 / seconds;
            println!(
                "{name:>8} {:>14} {rows:>5} {:>10.2} {:>7.0} {:>5.0}% {:>10.2}",
                format!("{n}x{k}"),
                seconds * 1e6,
                rate / 1e9,
                100.0 * rate / self.plain,
                tuned * 1e6,
            );
        }
        Ok(())
    }

    /// Every product of a step with weights of its own, and the norms, fused and apart.
    fn chain(&self, model: &Model, rows: usize) -> Outcome<()> {
        let c = model.hidden;
        let norm = DeviceNorm::new(&self.device, &specialisation(c))?;
        let mut weights = Vec::new();
        for layer in 0..model.layers {
            for (_, n, k, goal) in &model.matrices()[..4] {
                weights.push((self.weights(*n, *k, layer)?, *goal));
            }
        }
        weights.push((self.weights(model.vocabulary, c, 99)?, Goal::Logits));
        let bytes: usize = weights.iter().map(|(w, _)| w.bytes()).sum();
        let widest = 2 * model.intermediate.max(c);
        let layers = Outputs::new(&self.device, rows * widest)?;
        let residual = &layers.wide;
        let logits = Outputs::new(&self.device, rows * model.vocabulary)?;
        let (x, normed) = (self.activations(rows * widest)?, self.activations(rows * c)?);
        let ones = DeviceBuffer::copy_of(&self.device, "a norm", &vec![1.0; c])?;
        let parameters = NormParameters::Rms { weight: &ones };
        let step = |fused: bool| {
            for (w, goal) in &weights {
                let out = if *goal == Goal::Logits { &logits } else { &layers };
                let target = match goal {
                    // These multiply what attention or the activation left.
                    Goal::Add => {
                        self.product(&x, w, None, rows, *goal, out)?;
                        continue;
                    }
                    Goal::Store => Target::Store(&out.narrow),
                    Goal::Logits => Target::StoreF32(&out.wide),
                    Goal::Gelu => Target::GeluTanh(&out.narrow),
                    Goal::Silu => Target::SiluMul(&out.narrow),
                };
                if fused && self.matmul.norms(w, rows) {
                    self.matmul.normed_product(residual, parameters, 1e-5, w, None, rows, target)?;
                } else {
                    norm.apply(rows, parameters, 1e-5, residual, &normed, Unrounded::None)?;
                    self.product(&normed, w, None, rows, *goal, out)?;
                }
            }
            Ok(())
        };
        let (fused, apart) = (self.time(|| step(true))?, self.time(|| step(false))?);
        let share = |seconds: f64| 100.0 * bytes as f64 / seconds / self.plain;
        println!(
            "{rows:>5} rows, {:>6.2} GB: {:>9.1} us ({:>3.0}%) with norms inside, {:>9.1} us ({:>3.0}%) apart",
            bytes as f64 / 1e9,
            fused * 1e6,
            share(fused),
            apart * 1e6,
            share(apart),
        );
        Ok(())
    }

    fn prefill_products(&self, name: &str, n: usize, k: usize) -> Outcome<()> {
        let w = self.weights(n, k, 0)?;
        for rows in PREFILL {
            let x = self.activations(rows * k)?;
            let out = DeviceBuffer::zeroed(&self.device, "outputs", rows * n * ELEMENT)?;
            let product = || self.matmul.product(&x, &w, None, rows, Target::Store(&out));
            let first = self.time(product)?;
            self.matmul.tune(&x, &w, None, rows, Target::Store(&out))?;
            let tuned = self.time(product)?;
            let work = 2.0 * rows as f64 * n as f64 * k as f64 / 1e12;
            println!(
                "{name:>8} {:>14} {rows:>5} rows: {:>6.0} TFLOP/s, tuned {:>6.0}",
                format!("{n}x{k}"),
                work / first,
                work / tuned,
            );
        }
        Ok(())
    }
}

kernel_struct! {
    struct Read as Read {
        from: u64,
        to: u64,
        count: u64,
    }
}

/// Eight loads of 16 bytes in flight per thread, and a sum so that they happen.
const READ: Source = Source {
    file: "examples/cuda_dense.cu",
    text: READ_TEXT,
    constants: NO_CONSTANTS,
    arguments: &[Read::LAYOUT],
};

const READ_TEXT: &str = r#"
struct Read { const uint4* from; u32* to; u64 count; };
extern "C" __global__ void __launch_bounds__(256) read(Read p) {
    u32 sum = 0;
    u64 stride = (u64)gridDim.x * 256 * 8;
    for (u64 base = (u64)blockIdx.x * 256 * 8 + threadIdx.x; base < p.count; base += stride) {
        uint4 x[8];
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = base + i * 256 < p.count ? __ldg(p.from + base + i * 256) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
    }
    if (sum == 0x12345678) *p.to = sum;
}
"#;
