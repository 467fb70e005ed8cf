//! `dropcap bench`: speed over lists of prompt lengths, generation lengths, depths, batches and methods.

mod bandwidth;
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
use dropcap_kernels::{DType, Team};
use dropcap_methods::{MethodSpec, ModelFacts};
use dropcap_model::{Checkpoint, Decoder};
use dropcap_policy::EvictionPolicy;
use dropcap_weights::Fingerprint;
use indicatif::{ProgressBar, ProgressStyle};

use crate::arguments::MachineArguments;
use crate::loading::facts_of;
use machine::Machine;
use measure::{Bench, Test};
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
    /// Prompt tokens per step.
    #[arg(long, value_name = "N", default_value = "256", value_parser = crate::size::count)]
    chunk: usize,
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
    let team = Arc::new(Team::new(arguments.machine.threads())?);
    let start = Instant::now();
    let (name, decoder, facts) = subject(arguments, &team)?;
    let load_seconds = arguments.model.is_some().then(|| start.elapsed().as_secs_f64());
    let read_bytes_per_second = bandwidth::read_bytes_per_second(&team);
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
            let bench = Bench {
                decoder: &decoder,
                team: &team,
                policy: policy.as_ref(),
                kv_dtype: arguments.machine.kv_dtype,
                kv_limit: arguments.machine.kv_limit,
                chunk: arguments.chunk,
            };
            let samples = bench.run(test, arguments.warmup, arguments.repeats)?;
            let best = samples.best_seconds();
            let bytes = (test.prompt == 0).then(|| decoder.streamed_bytes() as u64 + samples.live_bytes);
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
        processor: machine::processor(),
        threads: team.threads(),
        load_seconds,
        read_bytes_per_second,
    };
    let format = if arguments.json { Format::Json } else { arguments.output_format };
    report::print(format, &machine, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// The decoder under test: a model's weights, or random ones of a shape.
fn subject(arguments: &Arguments, team: &Team) -> Result<(String, Decoder, ModelFacts)> {
    if let Some(shape) = &arguments.shape {
        let deepest = arguments.depths.0.iter().max().copied().unwrap_or(0);
        let longest = arguments.prompt_lengths.0.iter().chain(&arguments.generation_lengths.0).max();
        let config = shapes::named(shape, deepest + longest.copied().unwrap_or(0))?;
        let facts = facts_of(&config, Fingerprint::default(), None);
        return Ok((shape.clone(), Decoder::random(&config, arguments.dtype, 0)?, facts));
    }
    let model = arguments.model.as_deref().unwrap_or_default();
    let checkpoint = Checkpoint::open(&crate::loading::find(model, None, false)?)?;
    let folder = Some(checkpoint.directory().to_path_buf());
    let facts = facts_of(checkpoint.config(), checkpoint.fingerprint()?, folder);
    Ok((model.to_owned(), Decoder::load(team, &checkpoint, arguments.dtype)?, facts))
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
