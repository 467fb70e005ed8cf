//! Times training steps of a GPT-2 or Llama shape on random weights and random tokens, and prints one JSON line.
//!
//! ```sh
//! cargo run --release -p dropcap-train --example step_time -- method=hard gates=4 width=16 bias=2.6
//! cargo run --release -p dropcap-train --example step_time -- device=cuda:0 shape=smollm2-135m sequences=16 method=hard
//! ```
//!
//! A step is what the trainer does, one micro-batch: forward, loss, backward, the norm of the gradients, AdamW. Reading
//! text is left out; with `distill` the untrained model is its own teacher. The learning rate is next to nothing, so that
//! every repeat prunes as much as the first: gates are drawn N(0, 1/c), which makes raw scores about N(bias, 1), and `bias`
//! says how much is forgotten. `runs/train_bench.sh` compares these steps with those of others.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::cuda::{Device, DeviceChoice};
use dropcap_kernels::{AdamW, AlphaSigmoid, DType, Team};
use dropcap_model::{DecoderConfig, WeightPlan};
use dropcap_policy::Floors;
use dropcap_train::backend::{Backend, DenseTeacher, Gathered, Pass, Processor, Room};
use dropcap_train::collective::Alone;
use dropcap_train::device::{Cuda, Plan, Teacher};
use dropcap_train::network::{GateForm, Group, Layout, Network, Pruning, Pull, initialize};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde_json::{Value, json};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Arguments and their defaults: the shape, by name or part by part; the method (dense, hard or soft) and its gates (`gates`
/// heads of a layer: 1, or one per KV head); the run.
const DEFAULTS: &str = "shape=custom family=gpt2 layers=8 hidden=256 heads=4 kv_heads=0 intermediate=0 vocabulary=8192 \
    tokens=1024 sequences=4 method=dense gates=1 width=64 bias=2 sinks=0 recent=1 alpha=2 gamma=0.3 distill=0 \
    recompute=false device=cpu precision=bf16 threads=2 warmup=1 repeats=5";

/// Shapes of models that people know.
const SHAPES: &[(&str, &str)] = &[
    ("gpt2-medium", "family=gpt2 layers=24 hidden=1024 heads=16 vocabulary=50257"),
    (
        "smollm2-135m",
        "family=llama layers=30 hidden=576 heads=9 kv_heads=3 intermediate=1536 vocabulary=49152",
    ),
    (
        "llama-3.2-1b",
        "family=llama layers=16 hidden=2048 heads=32 kv_heads=8 intermediate=8192 vocabulary=128256",
    ),
];

/// `key=value` arguments over the defaults.
struct Arguments(Vec<(String, String)>);

impl Arguments {
    fn read() -> Fallible<Self> {
        let pair = |text: &str| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut all: Vec<_> = DEFAULTS.split_whitespace().filter_map(pair).collect();
        let given: Vec<String> = std::env::args().skip(1).collect();
        let named =
            |(name, parts)| given.iter().any(|given| *given == format!("shape={name}")).then_some(parts);
        let shape = SHAPES.iter().copied().find_map(named).unwrap_or_default();
        for argument in shape.split_whitespace().chain(given.iter().map(String::as_str)) {
            let (key, value) = pair(argument).ok_or(format!("{argument} is not key=value"))?;
            let place = all.iter_mut().find(|(known, _)| *known == key);
            place.ok_or(format!("no key is called {key}: there are {DEFAULTS}"))?.1 = value;
        }
        Ok(Self(all))
    }

    fn text(&self, key: &str) -> &str {
        self.0.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value)
    }

    fn get<T: std::str::FromStr>(&self, key: &str) -> Fallible<T> {
        self.text(key)
            .parse()
            .map_err(|_| format!("{key}={} is not a number that fits", self.text(key)).into())
    }
}

/// Everything that a step reads.
struct Step<'a> {
    backend: Box<dyn Backend>,
    pruning: Pruning<'a>,
    pull: Pull<'a>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    distill: f32,
    taken: u64,
}

impl Step<'_> {
    /// Takes one step.
    fn take(&mut self) -> Fallible<Gathered> {
        let Self { backend, pruning, pull, ids, targets, distill, .. } = self;
        let scale = 1.0 / targets.iter().filter(|&&target| target != IGNORE).count() as f32;
        backend.pass(&Pass {
            ids,
            targets,
            pruning,
            pull: *pull,
            scale,
            distill: *distill,
            part: 0,
            parts: 1,
        })?;
        let all = 0..backend.layout().len();
        let gathered = backend.gather(std::slice::from_ref(&all), &mut Alone)?;
        if !gathered.squares.iter().all(|squares| squares.is_finite()) {
            return Err("a gradient is not finite".into());
        }
        self.taken += 1;
        let rule = AdamW {
            learning_rate: 1e-9,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: self.taken,
            gradient_scale: 1.0,
        };
        backend.update(&[(all, rule)])?;
        Ok(gathered)
    }
}

/// The `config.json` of the shape.
fn config(arguments: &Arguments) -> Fallible<DecoderConfig> {
    let number = |key: &str| arguments.get::<usize>(key);
    let or = |given: usize, other: usize| if given == 0 { other } else { given };
    let (hidden, heads, tokens) = (number("hidden")?, number("heads")?, number("tokens")?);
    let config: Value = match arguments.text("family") {
        "gpt2" => {
            json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": number("layers")?,
            "n_embd": hidden, "n_head": heads, "n_positions": tokens, "vocab_size": number("vocabulary")?})
        }
        "llama" => json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "num_hidden_layers": number("layers")?, "hidden_size": hidden, "num_attention_heads": heads,
            "num_key_value_heads": or(number("kv_heads")?, heads), "head_dim": hidden / heads.max(1),
            "intermediate_size": or(number("intermediate")?, 4 * hidden), "max_position_embeddings": tokens,
            "vocab_size": number("vocabulary")?, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "tie_word_embeddings": true}),
        other => return Err(format!("family={other} is none of gpt2, llama").into()),
    };
    Ok(DecoderConfig::parse(Path::new("arguments"), config.to_string().as_bytes())?)
}

fn main() -> Fallible<()> {
    let arguments = Arguments::read()?;
    let config = config(&arguments)?;
    let (layers, hidden) = (config.layers, config.hidden);
    let (tokens, sequences): (usize, usize) = (arguments.get("tokens")?, arguments.get("sequences")?);
    let method = arguments.text("method");
    let form = GateForm { heads: arguments.get("gates")?, width: arguments.get("width")? };
    let gates = (method != "dense").then_some(form);
    let plan = WeightPlan::of(&config, &|_| false);
    let layout = Layout::new(&config, &plan, gates);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut values = initialize(&config, &plan, &layout, 0)?;
    let (normal, bias) = (Normal::new(0.0, (hidden as f32).powf(-0.5))?, arguments.get("bias")?);
    for slot in layout.slots().iter().filter(|slot| slot.group == Group::Gates) {
        let is_bias = slot.name.ends_with("bias");
        values[slot.range.clone()].fill_with(|| if is_bias { bias } else { normal.sample(&mut random) });
    }
    let rows = sequences * tokens;
    let vocabulary = config.vocabulary as u32;
    let mut draw = || (0..rows).map(|_| random.random_range(0..vocabulary)).collect::<Vec<_>>();
    let (ids, mut targets) = (draw(), draw());
    targets.iter_mut().skip(tokens - 1).step_by(tokens).for_each(|target| *target = IGNORE);

    let floors = Floors { sinks: arguments.get("sinks")?, recent: arguments.get("recent")? };
    let curve = AlphaSigmoid::new(arguments.get("alpha")?)?;
    let (shifts, per_entry) = (vec![0.0; layers], vec![1e-6; layers]);
    let pairs = (layers * sequences * form.heads * (tokens - 1) * tokens) as f64;
    let weight = (arguments.get::<f64>("gamma")? / pairs) as f32;
    let (pruning, pull) = match method {
        "dense" => (Pruning::Dense, Pull::None),
        "hard" => (Pruning::Hard { floors, shifts: &shifts, noise: None }, Pull::PerEntry(&per_entry)),
        "soft" => (
            Pruning::Soft { curve: &curve, in_depth: false, floors },
            Pull::PerPair { weight, last_query: false },
        ),
        other => return Err(format!("method={other} is none of dense, hard, soft").into()),
    };
    let distill: f32 = arguments.get("distill")?;
    let dense = Layout::new(&config, &plan, None).len();
    let teacher = (distill > 0.0).then(|| values[..dense].to_vec());
    let room = Room { sequences, tokens, recompute: arguments.get("recompute")? };
    let threads: usize = arguments.get("threads")?;
    let device = match arguments.get("device")? {
        DeviceChoice::Cpu => None,
        DeviceChoice::Auto => Some(Device::open(0, Some(std::env::temp_dir().join("dropcap-kernels")))?),
        DeviceChoice::Cuda(number) => {
            Some(Device::open(number, Some(std::env::temp_dir().join("dropcap-kernels")))?)
        }
    };
    let start_mib = resident_mib("VmRSS:");
    let mut backend: Box<dyn Backend> = match &device {
        Some(device) => Box::new(Cuda::new(
            device,
            &Plan {
                config: &config,
                plan: &plan,
                gates,
                scales: &[],
                dtype: arguments.get::<DType>("precision")?,
                cache: DType::F32,
                room,
                layout: layout.clone(),
                held: &[],
                still: Vec::new(),
                teacher: teacher.as_deref().map_or(Teacher::None, Teacher::Apart),
            },
        )?),
        None => {
            let team = Team::new(threads)?;
            let network = Network::new(&config, &plan, gates, &[])?;
            let teacher = match teacher {
                None => None,
                Some(values) => {
                    let dense = Network::new(&config, &plan, None, &[])?.forward_only();
                    Some(DenseTeacher::apart(&team, dense, values, &network, room)?)
                }
            };
            Box::new(Processor::new(team, network, teacher, room, Vec::new(), Vec::new()))
        }
    };
    backend.load(&values, None)?;
    let mut step = Step { backend, pruning, pull, ids, targets, distill, taken: 0 };

    let (warmup, repeats): (usize, usize) = (arguments.get("warmup")?, arguments.get("repeats")?);
    let mut last = Gathered::default();
    for _ in 0..warmup {
        last = step.take()?;
    }
    let (mut samples, cpu, start) = (Vec::with_capacity(repeats), cpu_seconds(), Instant::now());
    for _ in 0..repeats {
        let start = Instant::now();
        last = step.take()?;
        // The update is part of the step that asked for it.
        if let Some(device) = &device {
            device.synchronize()?;
        }
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let wall = start.elapsed().as_secs_f64();
    let share = cpu_seconds().zip(cpu).map(|(after, before)| (after - before) / wall / threads as f64);
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(repeats / 2).copied().unwrap_or(f64::NAN);
    let device_mib =
        device.as_ref().map(Device::memory).transpose()?.map(|(free, total)| (total - free) >> 20);
    let record = json!({
        "shape": arguments.text("shape"),
        "device": device.as_ref().map_or("cpu", |device| device.facts().name.as_str()),
        "method": method,
        "parameters": values.len(),
        "milliseconds": {"min": sorted.first(), "median": median, "max": sorted.last()},
        "samples_ms": samples,
        "tokens_per_second": rows as f64 * 1e3 / median,
        "cpu_share": share,
        "start_mib": start_mib,
        "peak_mib": resident_mib("VmHWM:"),
        "device_mib": device_mib,
        "loss": last.loss.mean(),
        "keep": (method != "dense").then_some(last.keep.iter().sum::<f64>() / layers as f64),
        "survival": (method == "soft").then_some(last.survival),
    });
    Ok(writeln!(std::io::stdout(), "{record}")?)
}

/// Processor time of all threads of this process; waiting in a loop counts. `None` where there is no Linux `/proc`.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    // The kernel shows these in hundredths of a second, on every architecture.
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse().unwrap_or(0.0));
    Some(ticks.sum::<f64>() / 100.0)
}

/// A line of `/proc/self/status` that counts memory.
fn resident_mib(line: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|text| text.strip_prefix(line))?.trim().trim_end_matches(" kB");
    Some(kib.parse::<f64>().ok()? / 1024.0)
}
