//! Times training steps of a GPT-2 shape on random weights and random tokens, and prints one JSON line.
//!
//! ```sh
//! cargo run --release -p dropcap-train --example step_time -- method=hard gates=4 width=16 bias=2.6
//! ```
//!
//! A step is what the trainer does for one micro-batch: packing, forward, loss, backward, the norm of the gradients,
//! AdamW. Reading text and distillation are left out. The learning rate is next to nothing, so that every repeat prunes
//! as much as the first: gates are drawn N(0, 1/c), which makes raw scores about N(bias, 1), and `bias` says how much
//! is forgotten. `runs/train_bench.sh` compares these steps with those of others.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::{AdamW, AlphaSigmoid, Team, adamw, sum_of_squares};
use dropcap_model::{DecoderConfig, WeightPlan};
use dropcap_policy::Floors;
use dropcap_train::network::{Activations, GateForm, Gradients, Group, Network, Pruning, Pull, initialize};
use dropcap_train::recipe::keep_ratio;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde_json::json;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Arguments and their defaults: the shape; the method (dense, hard or soft) and its gates (`gates` heads of a layer: 1,
/// or one per head); the run.
const DEFAULTS: &str = "layers=8 hidden=256 heads=4 vocabulary=8192 tokens=1024 sequences=4 \
    method=dense gates=1 width=64 bias=2 sinks=0 recent=1 alpha=2 gamma=0.3 threads=2 warmup=1 repeats=5";

/// `key=value` arguments over the defaults.
struct Arguments(Vec<(String, String)>);

impl Arguments {
    fn read() -> Fallible<Self> {
        let pair = |text: &str| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut all: Vec<_> = DEFAULTS.split_whitespace().filter_map(pair).collect();
        for argument in std::env::args().skip(1) {
            let (key, value) = pair(&argument).ok_or(format!("{argument} is not key=value"))?;
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

/// Everything that a step reads and writes.
struct Step<'a> {
    team: Team,
    network: Network,
    pruning: Pruning<'a>,
    pull: Pull<'a>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    moments: [Vec<f32>; 2],
    activations: Activations,
    taken: u64,
}

impl Step<'_> {
    /// Takes one step; the loss per target.
    fn take(&mut self) -> Fallible<f64> {
        let Self { team, network, pruning, pull, ids, targets, values, gradients, activations, .. } = self;
        network.refill(team, values)?;
        gradients.fill(0.0);
        network.forward(team, values, pruning, ids, activations)?;
        let scale = 1.0 / targets.iter().filter(|&&target| target != IGNORE).count() as f32;
        let loss = network.loss(
            team,
            values,
            targets,
            None,
            activations,
            Some(Gradients { scale, into: gradients }),
        )?;
        network.backward(team, values, pruning, *pull, activations, gradients)?;
        if !sum_of_squares(team, gradients).is_finite() {
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
        let [first, second] = &mut self.moments;
        adamw(team, &rule, values, gradients, first, second)?;
        Ok(loss.mean())
    }
}

fn main() -> Fallible<()> {
    let arguments = Arguments::read()?;
    let (layers, hidden): (usize, usize) = (arguments.get("layers")?, arguments.get("hidden")?);
    let (tokens, sequences): (usize, usize) = (arguments.get("tokens")?, arguments.get("sequences")?);
    let vocabulary: u32 = arguments.get("vocabulary")?;
    let config = json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": layers,
        "n_embd": hidden, "n_head": arguments.get::<usize>("heads")?, "n_positions": tokens, "vocab_size": vocabulary});
    let config = DecoderConfig::parse(Path::new("arguments"), config.to_string().as_bytes())?;
    let method = arguments.text("method");
    let form = GateForm { heads: arguments.get("gates")?, width: arguments.get("width")? };
    let plan = WeightPlan::of(&config, &|_| false);
    let network = Network::new(&config, &plan, (method != "dense").then_some(form), &[])?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut values = initialize(&config, &plan, network.layout(), 0)?;
    let (normal, bias) = (Normal::new(0.0, (hidden as f32).powf(-0.5))?, arguments.get("bias")?);
    for slot in network.layout().slots().iter().filter(|slot| slot.group == Group::Gates) {
        let is_bias = slot.name.ends_with("bias");
        values[slot.range.clone()].fill_with(|| if is_bias { bias } else { normal.sample(&mut random) });
    }
    let rows = sequences * tokens;
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
    let threads: usize = arguments.get("threads")?;
    let zeros = vec![0.0; values.len()];
    let (start_mib, activations) = (resident_mib("VmRSS:"), network.activations(sequences, tokens, false));
    let (gradients, moments) = (zeros.clone(), [zeros.clone(), zeros]);
    let team = Team::new(threads)?;
    let mut step = Step {
        team,
        network,
        pruning,
        pull,
        ids,
        targets,
        values,
        gradients,
        moments,
        activations,
        taken: 0,
    };

    let (warmup, repeats): (usize, usize) = (arguments.get("warmup")?, arguments.get("repeats")?);
    let mut loss = 0.0;
    for _ in 0..warmup {
        loss = step.take()?;
    }
    let (mut samples, cpu, start) = (Vec::with_capacity(repeats), cpu_seconds(), Instant::now());
    for _ in 0..repeats {
        let start = Instant::now();
        loss = step.take()?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let wall = start.elapsed().as_secs_f64();
    let share = cpu_seconds().zip(cpu).map(|(after, before)| (after - before) / wall / threads as f64);
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(repeats / 2).copied().unwrap_or(f64::NAN);
    let keep = (0..layers).map(|layer| keep_ratio(step.activations.expires_at(layer), tokens)).sum::<f64>();
    let record = json!({
        "method": method,
        "parameters": step.values.len(),
        "milliseconds": {"min": sorted.first(), "median": median, "max": sorted.last()},
        "samples_ms": samples,
        "tokens_per_second": rows as f64 * 1e3 / median,
        "cpu_share": share,
        "start_mib": start_mib,
        "peak_mib": resident_mib("VmHWM:"),
        "loss": loss,
        "keep": (method != "dense").then_some(keep / layers as f64),
        "survival": (method == "soft").then(|| step.network.mean_survival(&step.activations)),
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
