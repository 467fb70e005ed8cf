//! Times training steps of a GPT-2 or Llama shape on random weights and random tokens, and prints one JSON line.
//!
//! ```sh
//! cargo run --release -p dropcap-train --example step_time -- method=hard gates=4 width=16 bias=2.6
//! cargo run --release -p dropcap-train --example step_time -- device=cuda:0 shape=smollm2-135m sequences=16 method=hard
//! ```
//!
//! A step is what the trainer does, one micro-batch: forward, loss, backward, the norm of the gradients, AdamW. Reading
//! text is left out; with `distill` the untrained model is its own teacher, and with `train=lora` factors learn beside every
//! linear layer. The learning rate is next to nothing, so that
//! every repeat prunes as much as the first: gates are drawn N(0, 1/c), which makes raw scores about N(bias, 1), and `bias`
//! says how much is forgotten. `runs/train_bench.sh` and `runs/gpu_train_bench.sh` compare these steps with those of others.
//!
//! Started as one of several processes (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), each takes `sequences` of
//! its own on its own GPU, and the first one prints, with what a sum of all gradients takes by itself: `runs/two_gpus.sh`.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::cuda::{Communicator, Device, DeviceBuffer, DeviceChoice, Exchange, WorldId};
use dropcap_kernels::{AdamW, AlphaSigmoid, DType, Team};
use dropcap_model::{DecoderConfig, WeightPlan};
use dropcap_policy::Floors;
use dropcap_train::backend::{Backend, DenseTeacher, Followed, Following, Gathered, Pass, Processor, Room};
use dropcap_train::collective::{Alone, Collective, Meeting, PATIENCE, Star};
use dropcap_train::device::{Cuda, Plan, Teacher};
use dropcap_train::network::{FactorForm, GateForm, Group, Layout, Network, Pruning, Pull, initialize};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde_json::{Value, json};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Arguments and their defaults: the shape, by name or part by part; the method (dense, hard or soft) and its gates (`gates`
/// heads of a layer: 1, or one per KV head); the run.
const DEFAULTS: &str = "shape=custom family=gpt2 layers=8 hidden=256 heads=4 kv_heads=0 intermediate=0 tied=true vocabulary=8192 \
    tokens=1024 positions=0 sequences=4 train=all rank=16 method=dense gates=1 width=64 bias=2 sinks=0 recent=1 alpha=2 gamma=0.3 distill=0 \
    recompute=false device=cpu precision=bf16 threads=2 warmup=1 repeats=5";

/// Shapes of models that people know.
const SHAPES: &[(&str, &str)] = &[
    ("8.7m", "family=gpt2 layers=8 hidden=256 heads=4 vocabulary=8192"),
    ("gpt2-medium", "family=gpt2 layers=24 hidden=1024 heads=16 vocabulary=50257"),
    (
        "smollm2-135m",
        "family=llama layers=30 hidden=576 heads=9 kv_heads=3 intermediate=1536 vocabulary=49152",
    ),
    (
        "llama-3.2-1b",
        "family=llama layers=16 hidden=2048 heads=32 kv_heads=8 intermediate=8192 vocabulary=128256",
    ),
    (
        "llama-3-8b",
        "family=llama layers=32 hidden=4096 heads=32 kv_heads=8 intermediate=14336 tied=false vocabulary=128256",
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
    others: Box<dyn Collective>,
    taken: u64,
}

impl Step<'_> {
    /// Takes one step.
    fn take(&mut self) -> Fallible<Gathered> {
        let Self { backend, pruning, pull, ids, targets, distill, others, .. } = self;
        let parts = others.world().size;
        let wanted = parts * targets.iter().filter(|&&target| target != IGNORE).count();
        let scale = 1.0 / wanted as f32;
        backend.pass(&Pass {
            ids,
            targets,
            pruning,
            pull: *pull,
            scale,
            distill: *distill,
            part: 0,
            parts,
        })?;
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
        let range = backend.layout().trained();
        let ranges = [Followed { range, is_clipped: true, rule: Some(rule) }];
        let gathered = backend.follow(&Following { ranges: &ranges, clip: 1.0 }, &mut **others)?;
        if gathered.skipped {
            return Err("the loss or a gradient is not finite".into());
        }
        Ok(gathered)
    }
}

/// The `config.json` of the shape.
fn config(arguments: &Arguments) -> Fallible<DecoderConfig> {
    let number = |key: &str| arguments.get::<usize>(key);
    let or = |given: usize, other: usize| if given == 0 { other } else { given };
    let (hidden, heads) = (number("hidden")?, number("heads")?);
    let positions = or(number("positions")?, number("tokens")?);
    let config: Value = match arguments.text("family") {
        "gpt2" => {
            json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": number("layers")?,
            "n_embd": hidden, "n_head": heads, "n_positions": positions, "vocab_size": number("vocabulary")?})
        }
        "llama" => json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "num_hidden_layers": number("layers")?, "hidden_size": hidden, "num_attention_heads": heads,
            "num_key_value_heads": or(number("kv_heads")?, heads), "head_dim": hidden / heads.max(1),
            "intermediate_size": or(number("intermediate")?, 4 * hidden), "max_position_embeddings": positions,
            "vocab_size": number("vocabulary")?, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "tie_word_embeddings": arguments.get::<bool>("tied")?}),
        other => return Err(format!("family={other} is none of gpt2, llama").into()),
    };
    Ok(DecoderConfig::parse(Path::new("arguments"), config.to_string().as_bytes())?)
}

/// Factors beside every linear layer, where they are what trains.
fn factors(arguments: &Arguments, plan: &WeightPlan) -> Fallible<Option<FactorForm>> {
    let targets = || plan.products().flat_map(|matrix| &matrix.parts).map(|part| part.tensor.clone());
    match arguments.text("train") {
        "all" => Ok(None),
        "lora" => {
            let form = FactorForm { rank: arguments.get("rank")?, scale: 2.0, targets: targets().collect() };
            Ok(Some(form))
        }
        other => Err(format!("train={other} is none of all, lora").into()),
    }
}

/// A model of more parameters repeats a million drawn ones: drawing billions takes minutes.
const DRAWN: usize = 256 << 20;

/// Values of a layout, gates and factors still without any.
fn weights(config: &DecoderConfig, plan: &WeightPlan, layout: &Layout) -> Fallible<Vec<f32>> {
    if layout.len() <= DRAWN {
        return Ok(initialize(config, plan, layout, 0)?);
    }
    let (mut random, normal) = (ChaCha8Rng::seed_from_u64(0), Normal::new(0.0, 0.02_f32)?);
    let drawn: Vec<f32> = (0..1_000_003).map(|_| normal.sample(&mut random)).collect();
    let mut values = vec![0.0; layout.len()];
    for slot in layout.slots().iter().filter(|slot| slot.group == Group::Weights) {
        let values = &mut values[slot.range.clone()];
        match slot.shape[..] {
            [_] if slot.name.ends_with("weight") => values.fill(1.0),
            [_] => {}
            _ => values.chunks_mut(drawn.len()).for_each(|part| part.copy_from_slice(&drawn[..part.len()])),
        }
    }
    Ok(values)
}

/// Milliseconds that a sum of `count` numbers over all processes takes by itself, where NCCL is there.
fn sum_time(device: &Device, others: &mut dyn Collective, count: usize) -> Fallible<Option<f64>> {
    if Communicator::is_possible().is_err() {
        return Ok(None);
    }
    let world = others.world();
    let mut id = if world.is_first() { WorldId::new()?.0.to_vec() } else { Vec::new() };
    others.share(&mut id)?;
    let id = WorldId(id.try_into().map_err(|_| "an id of another length")?);
    let communicator = Communicator::join(device, &id, world.rank, world.size)?;
    let numbers = DeviceBuffer::<f32>::zeroed(device, "numbers to add up", count)?;
    let sums = |repeats: usize| -> Fallible<f64> {
        let start = Instant::now();
        for _ in 0..repeats {
            communicator.exchange(&[Exchange::Sum((&numbers).into())])?;
        }
        communicator.rejoin()?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() * 1e3 / repeats as f64)
    };
    sums(3)?;
    sums(10).map(Some)
}

fn main() -> Fallible<()> {
    let arguments = Arguments::read()?;
    let config = config(&arguments)?;
    let (layers, hidden) = (config.layers, config.hidden);
    let (tokens, sequences): (usize, usize) = (arguments.get("tokens")?, arguments.get("sequences")?);
    let method = arguments.text("method");
    let form = GateForm::votes(arguments.get("gates")?, arguments.get("width")?);
    let gates = (method != "dense").then_some(form);
    let plan = WeightPlan::of(&config, &|_| false);
    let layout = Layout::new(&config, &plan, gates);
    let factors = factors(&arguments, &plan)?;
    let layout = match &factors {
        None => layout,
        Some(form) => layout.with_factors(form, &plan),
    };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut values = weights(&config, &plan, &layout)?;
    let (normal, bias) = (Normal::new(0.0, (hidden as f32).powf(-0.5))?, arguments.get("bias")?);
    for slot in layout.slots().iter().filter(|slot| slot.group == Group::Gates) {
        let is_bias = slot.name.ends_with("bias");
        values[slot.range.clone()].fill_with(|| if is_bias { bias } else { normal.sample(&mut random) });
    }
    for slot in layout.slots().iter().filter(|slot| slot.group == Group::Factors) {
        // Both halves, so that every gradient is there; small, so that the model stays about the same.
        values[slot.range.clone()].fill_with(|| 0.1 * normal.sample(&mut random));
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
    let teacher = (distill > 0.0 && factors.is_none()).then(|| values[..dense].to_vec());
    let border = layout.trained().start;
    let room = Room { sequences, tokens, recompute: arguments.get("recompute")? };
    let threads: usize = arguments.get("threads")?;
    let meeting = Meeting::of_environment(&|name| std::env::var(name).ok())?;
    let number = match arguments.get("device")? {
        DeviceChoice::Cpu => None,
        DeviceChoice::Auto => Some(meeting.as_ref().map_or(0, |meeting| meeting.local_rank)),
        DeviceChoice::Cuda(number) => Some(number),
    };
    let kernels = std::env::temp_dir().join("dropcap-kernels");
    let device = number.map(|number| Device::open(number, Some(kernels))).transpose()?;
    let mut others: Box<dyn Collective> = match &meeting {
        None => Box::new(Alone),
        Some(meeting) => Box::new(Star::meet(meeting, [0; 32], PATIENCE)?),
    };
    let start_mib = resident_mib("VmRSS:");
    let mut backend: Box<dyn Backend> = match &device {
        Some(device) => Box::new(Cuda::new(
            device,
            &Plan {
                config: &config,
                plan: &plan,
                gates,
                factors: factors.as_ref(),
                scales: &[],
                dtype: arguments.get::<DType>("precision")?,
                cache: DType::F32,
                room,
                layout: layout.clone(),
                held: &values[..border],
                still: Vec::new(),
                teacher: match &teacher {
                    Some(values) => Teacher::Apart(values),
                    None if distill > 0.0 => Teacher::Student,
                    None => Teacher::None,
                },
            },
        )?),
        None => {
            let team = Team::new(threads)?;
            let network = Network::new(&config, &plan, gates, &[])?;
            let network = match &factors {
                None => network,
                Some(form) => network.with_factors(form, &plan)?,
            };
            let held = values[..border].to_vec();
            let dense = || Network::new(&config, &plan, None, &[]).map(Network::forward_only);
            let teacher = match teacher {
                Some(values) => Some(DenseTeacher::apart(&team, dense()?, values, room)?),
                None if distill > 0.0 => Some(DenseTeacher::beneath(&team, dense()?, &held, room)?),
                None => None,
            };
            Box::new(Processor::new(team, network, teacher, room, Vec::new(), held))
        }
    };
    backend.load(&values[border..], None)?;
    let parameters = values.len();
    drop(values);
    if let Some(warning) = backend.connect(&mut *others)? {
        writeln!(std::io::stderr(), "{warning}")?;
    }
    let mut step = Step { backend, pruning, pull, ids, targets, distill, others, taken: 0 };

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
    let world = step.others.world();
    let sum = match &device {
        Some(device) if world.size > 1 => Some(sum_time(device, &mut *step.others, layout.trained().len())?),
        _ => None,
    };
    if !world.is_first() {
        return Ok(());
    }
    let record = json!({
        "shape": arguments.text("shape"),
        "device": device.as_ref().map_or("cpu", |device| device.facts().name.as_str()),
        "method": method,
        "train": arguments.text("train"),
        "processes": world.size,
        "parameters": parameters,
        "trained": layout.trained().len(),
        "milliseconds": {"min": sorted.first(), "median": median, "max": sorted.last()},
        "samples_ms": samples,
        "tokens_per_second": (world.size * rows) as f64 * 1e3 / median,
        "sum_ms": sum,
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
