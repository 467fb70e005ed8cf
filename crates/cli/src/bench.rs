//! `dropcap bench`: speed over lists of prompt lengths, generation lengths, depths, batches and methods.

mod bandwidth;
mod device;
mod machine;
mod measure;
mod report;
mod shapes;
mod subject;
mod sweep;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use dropcap_methods::MethodSpec;
use indicatif::{ProgressBar, ProgressStyle};

use crate::arguments::ModelArguments;
use crate::size;
use machine::Machine;
pub use machine::processor;
use measure::{Samples, Test};
use report::{Format, Row};
use subject::Subject;
use sweep::Sweep;

/// Flags of `dropcap bench`.
#[derive(Args)]
#[command(after_help = "Lists: 1,8,64 or ranges 0-4096+1024 (steps) and 1-64*4 (factors); 4K is 4096.\n\
    `pp512` rows time a prompt of 512 tokens, `tg16` rows 16 generated tokens per sequence; both start at the given depth.")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Instead of a model, random weights of a known shape: gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-1b, llama-3b,
    /// llama-8b, smollm2-135m, qwen3-0.6b.
    #[arg(long, value_name = "NAME", overrides_with = "model", help_heading = "Model")]
    shape: Option<String>,
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
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = size::positive)]
    repeats: usize,
    /// Untimed repeats before them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,
    /// Prompt tokens per step [default: 256; 2048 on a GPU].
    #[arg(long, value_name = "N", value_parser = size::positive, help_heading = "Machine")]
    chunk: Option<usize>,
    /// How to print: md (a table), csv or json.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Md, hide_possible_values = true)]
    output_format: Format,
    /// Same as --output-format json.
    #[arg(long)]
    json: bool,
}

/// Runs all tests and prints one table.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let tests = tests(arguments)?;
    let start = Instant::now();
    let subject = Subject::open(arguments, &tests)?;
    let load_seconds = arguments.shape.is_none().then(|| start.elapsed().as_secs_f64());
    let read_bytes_per_second = subject.read_bytes_per_second()?;
    let bar = ProgressBar::new((tests.len() * subject.methods.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {elapsed}, {eta} left") {
        bar.set_style(style);
    }
    let mut rows = Vec::new();
    for test in &tests {
        let mut dense = None;
        for (method, policy) in &subject.methods {
            let method = method.to_string();
            bar.set_message(format!("{} depth {} batch {} {method}", test.name(), test.depth, test.batch));
            let samples = subject.measure(arguments, policy.as_ref(), test)?;
            let mut row = row(arguments, &subject, method, test, &samples, read_bytes_per_second);
            if row.method == "none" {
                dense = Some((row.best_milliseconds, row.bytes_per_step));
            }
            if let Some((milliseconds, bytes)) = dense {
                row.speed_up = Some(milliseconds / row.best_milliseconds);
                let ratio = |dense: u64| Some(dense as f64 / row.bytes_per_step? as f64);
                row.speed_up_limit = bytes.and_then(ratio);
            }
            rows.push(row);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let machine = Machine {
        commit: env!("DROPCAP_COMMIT"),
        processor: subject.processor(),
        threads: subject.threads(),
        load_seconds,
        read_bytes_per_second,
    };
    let format = if arguments.json { Format::Json } else { arguments.output_format };
    report::print(format, &machine, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Every combination of the lists.
fn tests(arguments: &Arguments) -> Result<Vec<Test>> {
    let (prompts, generations) = (&arguments.prompt_lengths.0, &arguments.generation_lengths.0);
    let mut tests = Vec::new();
    for &depth in &arguments.depths.0 {
        for &batch in &arguments.batch_sizes.0 {
            if batch == 0 {
                bail!("--batch-sizes holds 0: a batch has at least 1 sequence");
            }
            let prompts = prompts.iter().filter(|&&prompt| prompt > 0);
            tests.extend(prompts.map(|&prompt| Test { prompt, generation: 0, depth, batch }));
            let generations = generations.iter().filter(|&&generation| generation > 0);
            tests.extend(generations.map(|&generation| Test { prompt: 0, generation, depth, batch }));
        }
    }
    if tests.is_empty() {
        bail!("nothing to measure: --prompt-lengths and --generation-lengths hold nothing but 0");
    }
    Ok(tests)
}

/// One line of the table, not yet compared with others.
fn row(
    arguments: &Arguments,
    subject: &Subject,
    method: String,
    test: &Test,
    samples: &Samples,
    read_bytes_per_second: f64,
) -> Row {
    let best = samples.best_seconds();
    let steps = test.generation.max(1) as f64;
    let bytes = (test.prompt == 0).then(|| subject.streamed_bytes() as u64 + samples.live_bytes);
    let (mean, deviation) = samples.tokens_per_second(test);
    Row {
        model: subject.name.clone(),
        dtype: subject.compute.formats(),
        kv_dtype: subject.compute.kv_dtype(arguments.model.machine.kv_dtype).to_string(),
        method,
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
        speed_up: None,
        speed_up_limit: None,
    }
}
