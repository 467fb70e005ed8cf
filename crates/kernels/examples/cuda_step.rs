//! A step of one sequence on the first CUDA device: its products with attention between them (`cuda_dense` has the products alone).
//!
//! `cargo run --release -p dropcap-kernels --example cuda_step [Q8_0|Q4_0|Q4_1 ...]`; without a format bf16. All products of a step with weights
//! from memory, norms as a decoder has them, and attention over a cache of each layer's own. Rotation, new entries and sampling
//! are left out.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "that is its purpose")]

mod filled;

use dropcap_kernels::attention::DeviceAttention;
use dropcap_kernels::cuda::{
    Device, DeviceBuffer, DeviceSpan, Graph, Specialisation, Stopwatch, read_bandwidth,
};
use dropcap_kernels::matmul::{DeviceMatmul, DeviceMatrix, DeviceRandom, Target};
use dropcap_kernels::norm::{DeviceNorm, NormParameters, Unrounded};
use dropcap_kernels::{BlockFormat, DType, KernelError};

use filled::{filled, inputs};

type Outcome = Result<(), KernelError>;

const EPSILON: f32 = 1e-5;

struct Model {
    name: &'static str,
    layers: usize,
    hidden: usize,
    /// Query heads, KV heads, their width.
    heads: (usize, usize, usize),
    intermediate: usize,
    gated: bool,
    vocabulary: usize,
    /// Entries of a layer.
    entries: usize,
}

const MODELS: [Model; 3] = [
    Model {
        name: "Llama-3-8B",
        layers: 32,
        hidden: 4096,
        heads: (32, 8, 128),
        intermediate: 14336,
        gated: true,
        vocabulary: 128_256,
        entries: 4096,
    },
    Model {
        name: "Llama-3.2-1B",
        layers: 16,
        hidden: 2048,
        heads: (32, 8, 64),
        intermediate: 8192,
        gated: true,
        vocabulary: 128_256,
        entries: 4096,
    },
    Model {
        name: "GPT-2-medium",
        layers: 24,
        hidden: 1024,
        heads: (16, 16, 64),
        intermediate: 4096,
        gated: false,
        vocabulary: 50_264,
        entries: 1024,
    },
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let formats: Vec<_> = BlockFormat::ALL
        .into_iter()
        .filter(|format| words.iter().any(|word| word == format.name()))
        .collect();
    let device = Device::open(0, Some(std::env::temp_dir().join("dropcap-test-kernels"))).unwrap();
    let plain = read_bandwidth(&device).unwrap();
    println!("{}: plain reading {:.0} GB/s", device.facts().name, plain / 1e9);
    for model in &MODELS {
        if formats.is_empty() {
            Step::new(&device, model, None).measure(plain);
        }
        formats.iter().for_each(|&format| Step::new(&device, model, Some(format)).measure(plain));
    }
}

/// Everything that a step needs.
struct Step<'a> {
    device: &'a Device,
    model: &'a Model,
    format: Option<BlockFormat>,
    specialisation: Specialisation,
    matmul: DeviceMatmul,
    norm: DeviceNorm,
    /// Of a layer: projection, output, up, down; at last the head.
    weights: Vec<DeviceMatrix>,
    scale: DeviceBuffer<f32>,
    residual: DeviceBuffer<f32>,
    logits: DeviceBuffer<f32>,
    normed: DeviceBuffer<u8>,
    up: DeviceBuffer<u8>,
}

impl<'a> Step<'a> {
    fn new(device: &'a Device, model: &'a Model, format: Option<BlockFormat>) -> Self {
        let (query_heads, kv_heads, head_dim) = model.heads;
        let c = model.hidden;
        let specialisation = Specialisation {
            weights: DType::Bf16,
            cache: DType::Bf16,
            codes: None,
            query_heads,
            kv_heads,
            groups: 1,
            head_dim,
            hidden: c,
            side_width: 0,
            statistics: 0,
        };
        let random = DeviceRandom::new(device, &specialisation).unwrap();
        let weight = |n: usize, k: usize, seed: usize| {
            let scale = 1.7 / (k as f32).sqrt();
            match format {
                None => DeviceMatrix::random(&random, device, n, k, DType::Bf16, scale, seed as u64),
                Some(format) => {
                    DeviceMatrix::random_blocks(&random, device, n, k, format, scale, seed as u64)
                }
            }
            .unwrap()
        };
        let (qkv, m) = ((query_heads + 2 * kv_heads) * head_dim, model.intermediate);
        let up = if model.gated { 2 * m } else { m };
        let sizes = [(qkv, c), (c, query_heads * head_dim), (up, c), (c, m)];
        let mut weights: Vec<_> =
            (0..4 * model.layers).map(|i| weight(sizes[i % 4].0, sizes[i % 4].1, i)).collect();
        weights.push(weight(model.vocabulary, c, 999));
        let bytes = |count: usize| DeviceBuffer::zeroed(device, "activations", 2 * count).unwrap();
        let most = model.vocabulary * c;
        Self {
            matmul: DeviceMatmul::new(device, &specialisation).unwrap().with_blocks(most).unwrap(),
            norm: DeviceNorm::new(device, &specialisation).unwrap(),
            weights,
            scale: DeviceBuffer::copy_of(device, "a norm", &vec![1.0; c]).unwrap(),
            residual: DeviceBuffer::copy_of(device, "a residual", &vec![0.5; c]).unwrap(),
            logits: DeviceBuffer::zeroed(device, "logits", model.vocabulary).unwrap(),
            normed: bytes(c),
            up: bytes(up),
            device,
            model,
            format,
            specialisation,
        }
    }

    fn measure(&self, plain: f64) {
        let bytes: usize = self.weights.iter().map(DeviceMatrix::bytes).sum();
        let Model { name, layers, entries, .. } = self.model;
        let format = self.format.map_or("bf16", BlockFormat::name);
        let lanes = filled(self.device, &self.specialisation, *layers, 1, *entries);
        let attention = DeviceAttention::new(self.device, &self.specialisation, 1).unwrap();
        let (step, size, qkv, mixed) = inputs(self.device, &self.specialisation, *layers, 1, 1);
        let position = *entries as u32 - 1;
        step.spans
            .write(0, &[DeviceSpan { slot: 0, first_row: 0, queries: 1, first_position: position }])
            .unwrap();
        let firsts: Vec<_> = (0..2 * layers).map(|i| (i % 2 * entries / 32) as u32).collect();
        step.first_pages.write(0, &firsts).unwrap();
        let attend = |layer: usize| attention.decode(&lanes, &step, size, layer, 0.1, &qkv, &mixed, None);
        let seconds = self.time(|| self.products(&qkv, &mixed, &attend));
        println!(
            "{name}, {format}: {:.2} GB of weights, with attention over {entries} entries {:.1} us (plain reading of the weights {:.1} us)",
            bytes as f64 / 1e9,
            seconds * 1e6,
            1e6 * bytes as f64 / plain,
        );
    }

    /// Seconds of `work`, recorded, the best of several.
    fn time(&self, work: impl Fn() -> Outcome) -> f64 {
        let watch = Stopwatch::new(self.device).unwrap();
        work().unwrap();
        self.device.synchronize().unwrap();
        let mut graph = Graph::record(self.device, work).unwrap();
        graph.launch().unwrap();
        let once = |_| {
            watch.start().unwrap();
            graph.launch().unwrap();
            f64::from(watch.stop().unwrap())
        };
        (0..7).map(once).fold(f64::INFINITY, f64::min)
    }

    fn parameters(&self) -> NormParameters<'_> {
        NormParameters::Rms { weight: &self.scale }
    }

    fn hidden_target(&self) -> Target<'_> {
        if self.model.gated { Target::SiluMul(&self.up) } else { Target::GeluTanh(&self.up) }
    }

    /// As a decoder runs them, and `attend` with each layer.
    fn products(
        &self,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
        attend: &dyn Fn(usize) -> Outcome,
    ) -> Outcome {
        let normed = |w: &DeviceMatrix, target: Target<'_>| {
            let norm = self.parameters();
            if self.matmul.norms(w, 1) {
                return self.matmul.normed_product(&self.residual, norm, EPSILON, w, None, 1, target);
            }
            self.norm.apply(1, norm, EPSILON, &self.residual, &self.normed, Unrounded::None)?;
            self.matmul.product(&self.normed, w, None, 1, target)
        };
        let add = |x: &DeviceBuffer<u8>, w: &DeviceMatrix| {
            self.matmul.product(x, w, None, 1, Target::Add(&self.residual))
        };
        let (layers, head) = self.weights.as_chunks::<4>();
        for (index, [projection, output, up, down]) in layers.iter().enumerate() {
            normed(projection, Target::Store(qkv))?;
            attend(index)?;
            add(mixed, output)?;
            normed(up, self.hidden_target())?;
            add(&self.up, down)?;
        }
        normed(&head[0], Target::StoreF32(&self.logits))
    }
}
