//! `dropcap bench`: speed over lists of prompt lengths, generation lengths, depths, batches and methods.

mod bandwidth;
mod device;
mod machine;
mod measure;
mod report;
mod shapes;
mod sweep;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use dropcap_kernels::cuda::read_bandwidth;
use dropcap_kernels::{DType, Team};
use dropcap_methods::{MethodSpec, ModelFacts};
use dropcap_model::device::DeviceWeights;
use dropcap_model::{Checkpoint, Decoder};
use dropcap_policy::EvictionPolicy;
use dropcap_weights::Fingerprint;
use indicatif::{ProgressBar, ProgressStyle};

use crate::arguments::MachineArguments;
use crate::loading::{Compute, facts_of};
use device::DeviceBench;
use machine::Machine;
pub use machine::processor;
use measure::{Bench, Samples, Test};
use report::{Format, Row};
use sweep::Sweep;

/// Flags of `dropcap bench`.
#[derive(Args)]
#[command(after_help = "Lists: 1,8,64 or ranges 0-4096+1024 (steps) and 1-64*4 (factors); 4K is 4096.\n\
    `pp512` rows time a prompt of 512 tokens, `tg16` rows 16 generated tokens per sequence; both start at the given depth.")]
pub struct Arguments {
    /// A model directory or hub id.
    #[arg(
        short,
        long,
        value_name = "DIR|ORG/NAME",
        required_unless_present = "shape",
        conflicts_with = "shape"
    )]
    model: Option<String>,
    /// Random weights of a known shape: gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-1b, llama-3b, llama-8b, qwen3-0.6b.
    #[arg(long, value_name = "NAME")]
    shape: Option<String>,
    /// How weights are held in memory: f32, bf16 or f16.
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    dtype: DType,
    #[command(flatten)]
    machine: MachineArguments,
    /// Prompt lengths; 0 for none.
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512")]
    prompt_lengths: Sweep,
    /// Generation lengths; 0 for none.
    #[arg(short = 'n', long, value_name = "LIST", default_value = "32")]
    generation_lengths: Sweep,
    /// Tokens already in the cache of each sequence.
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    depths: Sweep,
    /// Sequences at once.
    #[arg(short = 'b', long, value_name = "LIST", default_value = "1")]
    batch_sizes: Sweep,
    /// A method; may be given several times [default: none].
    #[arg(long = "method", value_name = "SPEC")]
    methods: Vec<MethodSpec>,
    /// Also a simulated method that keeps this share of the entries and votes for real; may be a list.
    #[arg(long, value_name = "R,R,..", value_delimiter = ',')]
    keep: Vec<f64>,
    /// Timed repeats of each test.
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Untimed repeats before them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,
    /// Prompt tokens per step [default: 256; 2048 on a GPU].
    #[arg(long, value_name = "N", value_parser = crate::size::count)]
    chunk: Option<usize>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output_format: Format,
    /// Same as --output-format json.
    #[arg(long)]
    json: bool,
}

/// Runs all tests and prints one table.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.repeats == 0 {
        bail!("--repeats is 0: at least one repeat is needed");
    }
    let start = Instant::now();
    let (name, compute, facts) = subject(arguments)?;
    let load_seconds = arguments.model.is_some().then(|| start.elapsed().as_secs_f64());
    let read_bytes_per_second = match &compute {
        Compute::Host { team, .. } => bandwidth::read_bytes_per_second(team),
        Compute::Device(weights) => read_bandwidth(weights.device())?,
    };
    let streamed_bytes = match &compute {
        Compute::Host { decoder, .. } => decoder.streamed_bytes(),
        Compute::Device(weights) => weights.streamed_bytes(),
    };
    let methods = methods(arguments, &facts)?;
    let tests = tests(arguments);
    let bar = ProgressBar::new((tests.len() * methods.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {elapsed}, {eta} left") {
        bar.set_style(style);
    }
    let mut rows: Vec<Row> = Vec::new();
    for test in &tests {
        let mut dense: Option<(f64, Option<u64>)> = None;
        for (method, policy) in &methods {
            bar.set_message(format!("{} depth {} batch {} {method}", test.name(), test.depth, test.batch));
            let samples = measure(arguments, &compute, policy.as_ref(), test)?;
            let best = samples.best_seconds();
            let bytes = (test.prompt == 0).then(|| streamed_bytes as u64 + samples.live_bytes);
            if method == "none" {
                dense = Some((best, bytes));
            }
            let steps = test.generation.max(1) as f64;
            let (mean, deviation) = samples.tokens_per_second(test);
            rows.push(Row {
                model: name.clone(),
                dtype: arguments.dtype.to_string(),
                kv_dtype: arguments.machine.kv_dtype.to_string(),
                method: method.clone(),
                test: test.name(),
                depth: test.depth,
                batch: test.batch,
                repeats: arguments.repeats,
                tokens_per_second: mean,
                tokens_per_second_deviation: deviation,
                best_milliseconds: 1e3 * best / steps,
                milliseconds: samples.milliseconds(steps),
                live_bytes: samples.live_bytes,
                held_bytes: samples.held_bytes,
                bytes_per_step: bytes,
                bandwidth_share: bytes.map(|bytes| bytes as f64 * steps / best / read_bytes_per_second),
                speed_up: dense.map(|(seconds, _)| seconds / best),
                speed_up_limit: dense.and_then(|(_, dense)| Some(dense? as f64 / bytes? as f64)),
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let machine = Machine {
        commit: env!("DROPCAP_COMMIT"),
        processor: match &compute {
            Compute::Host { .. } => processor(),
            Compute::Device(weights) => weights.device().facts().name.clone(),
        },
        threads: match &compute {
            Compute::Host { team, .. } => team.threads(),
            Compute::Device(weights) => weights.device().facts().multiprocessors as usize,
        },
        load_seconds,
        read_bytes_per_second,
    };
    let format = if arguments.json { Format::Json } else { arguments.output_format };
    report::print(format, &machine, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs one test where the weights are.
fn measure(
    arguments: &Arguments,
    compute: &Compute,
    policy: &dyn EvictionPolicy,
    test: &Test,
) -> Result<Samples> {
    let MachineArguments { kv_dtype, kv_limit, .. } = arguments.machine;
    let (warmup, repeats) = (arguments.warmup, arguments.repeats);
    match compute {
        Compute::Host { team, decoder } => {
            let chunk = arguments.chunk.unwrap_or(256);
            Bench { decoder, team, policy, kv_dtype, kv_limit, chunk }.run(test, warmup, repeats)
        }
        Compute::Device(weights) => {
            let chunk = arguments.chunk.unwrap_or(2048);
            DeviceBench { weights, policy, kv_dtype, kv_limit, chunk }.run(test, warmup, repeats)
        }
    }
}

/// What is under test: a model's weights, or random ones of a shape.
fn subject(arguments: &Arguments) -> Result<(String, Compute, ModelFacts)> {
    let device = arguments.machine.device.open()?;
    let dtype = arguments.dtype;
    let team = || Ok::<_, anyhow::Error>(Arc::new(Team::new(arguments.machine.threads())?));
    if let Some(shape) = &arguments.shape {
        let deepest = arguments.depths.0.iter().max().copied().unwrap_or(0);
        let longest = arguments.prompt_lengths.0.iter().chain(&arguments.generation_lengths.0).max();
        // A GPU decodes one token before the clock starts.
        let config = shapes::named(shape, deepest + longest.copied().unwrap_or(0) + 1)?;
        let facts = facts_of(&config, Fingerprint::default(), None);
        let compute = match device {
            Some(device) => Compute::Device(Arc::new(DeviceWeights::random(&device, &config, dtype, 0)?)),
            None => Compute::Host { team: team()?, decoder: Arc::new(Decoder::random(&config, dtype, 0)?) },
        };
        return Ok((shape.clone(), compute, facts));
    }
    let model = arguments.model.as_deref().unwrap_or_default();
    let checkpoint = Checkpoint::open(&crate::loading::find(model, None, false)?)?;
    let folder = Some(checkpoint.directory().to_path_buf());
    let facts = facts_of(checkpoint.config(), checkpoint.fingerprint()?, folder);
    let compute = match device {
        Some(device) => {
            Compute::Device(Arc::new(DeviceWeights::load(&device, &*team()?, &checkpoint, dtype)?))
        }
        None => {
            let team = team()?;
            let decoder = Arc::new(Decoder::load(&team, &checkpoint, dtype)?);
            Compute::Host { team, decoder }
        }
    };
    Ok((model.to_owned(), compute, facts))
}

/// All methods of the run; `none` leads if it is there, since the others are compared with it.
fn methods(arguments: &Arguments, facts: &ModelFacts) -> Result<Vec<(String, Arc<dyn EvictionPolicy>)>> {
    let mut specs = arguments.methods.clone();
    if specs.is_empty() {
        specs.push("none".parse()?);
    }
    for keep in &arguments.keep {
        specs.push(format!("simulate(keep={keep})").parse()?);
    }
    specs.sort_by_key(|spec| spec.to_string() != "none");
    specs.iter().map(|spec| Ok((spec.to_string(), dropcap_methods::build(spec, facts)?))).collect()
}

fn tests(arguments: &Arguments) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &arguments.depths.0 {
        for &batch in arguments.batch_sizes.0.iter().filter(|&&batch| batch > 0) {
            let prompts = arguments.prompt_lengths.0.iter().filter(|&&prompt| prompt > 0);
            tests.extend(prompts.map(|&prompt| Test { prompt, generation: 0, depth, batch }));
            let generations = arguments.generation_lengths.0.iter().filter(|&&generation| generation > 0);
            tests.extend(generations.map(|&generation| Test { prompt: 0, generation, depth, batch }));
        }
    }
    tests
}
