//! `dropcap generate`: text from a model that forgets, and an account of its memory.

mod account;
mod batch;
mod encoder;
mod watch;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use dropcap_engine::{Engine, Request, Sampling, VoteScores};
use dropcap_model::{GenerationConfig, Tokenizer};
use dropcap_trace::{Granularity, TraceHeader, TraceWriter};

pub use account::{kv_json, line as account_line};

use crate::arguments::{MethodArguments, ModelArguments, SamplingArguments, StepArguments};
use crate::loading::{self, Loaded};
use crate::prompts::{self, Prompt};
use crate::size;
use encoder::Encoder;
use watch::Watch;

/// Flags of `dropcap generate`.
#[derive(Args)]
pub struct Arguments {
    /// Text to continue; `-` or nothing reads standard input, without the line break at its end.
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "prompt_file"])]
    text: Option<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Text to continue.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// Many prompts at once: JSON lines with `prompt` (or `ids`) and optionally `max_tokens`, `temperature`,
    /// `seed`, `stop`; `-` reads them from standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Take special tokens that a prompt spells out, such as `<|endoftext|>`, for plain text; otherwise they become
    /// those tokens.
    #[arg(long)]
    no_parse_special: bool,
    #[command(flatten)]
    method: MethodArguments,
    /// Most tokens to generate.
    #[arg(short = 'n', long, value_name = "N", default_value = "256", allow_negative_numbers = true, value_parser = size::count)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// End the text before this string, which may be a special token; may be given several times.
    #[arg(long, value_name = "TEXT", value_parser = prompts::stop_string, help_heading = "Sampling")]
    stop: Vec<String>,
    /// Go on past the model's end-of-text tokens.
    #[arg(long, help_heading = "Sampling")]
    ignore_eos: bool,
    #[command(flatten)]
    step: StepArguments,
    /// Record what was forgotten, when, and by which token, as JSON lines, for `dropcap inspect`. A trace that cannot be written costs no
    /// text: they are printed, then the command says so and fails.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Say in the trace what the votes scored that killed tokens; on the processor alone.
    #[arg(long, requires = "trace")]
    trace_scores: bool,
    /// Show on the terminal what is forgotten as it happens: what all layers keep stays bright, what they have forgotten
    /// goes dim, and the memory stands below. Plain text where there is no terminal.
    #[arg(long, conflicts_with_all = ["prompt_file", "json"])]
    watch: bool,
    /// Print one JSON object per prompt instead of text.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Whether the forgetting is shown on a terminal.
    fn watches(&self) -> bool {
        self.watch && std::io::stdout().is_terminal()
    }

    /// Whether anybody hears what is forgotten.
    fn traces(&self) -> bool {
        self.trace.is_some() || self.watches()
    }
}

/// Generates for every prompt.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let prompts = read_prompts(arguments)?;
    let method = arguments.method.of(&arguments.model)?;
    let mut scores = None;
    let loaded = loading::load_as(&arguments.model, &method, |policy| {
        if !arguments.trace_scores {
            return policy;
        }
        let (policy, heard) = VoteScores::of(policy);
        scores = Some(heard);
        policy
    })?;
    let tokenizer = tokenizer_for(&prompts, arguments, &loaded.directory)?;
    if let Some(tokenizer) = &tokenizer {
        tokenizer.check_vocabulary(loaded.config.vocabulary)?;
    }
    let generation = GenerationConfig::open(&loaded.directory, &loaded.config)?;
    let stop_tokens = if arguments.ignore_eos { Vec::new() } else { generation.eos_token_ids };
    let encoder = Encoder {
        tokenizer: tokenizer.as_deref(),
        parse_special: !arguments.no_parse_special,
        start: generation.bos_token_id,
        vocabulary: loaded.config.vocabulary,
    };
    let mut engine = engine(arguments, &loaded, prompts.len())?;
    if let Some(tokenizer) = &tokenizer {
        engine.spell_trace(tokenizer.clone());
    }
    if let Some(scores) = scores {
        engine.score_trace(scores);
    }
    let watch = arguments.watches().then(|| Watch::over(&mut engine, &loaded));
    let mut run = batch::Batch::new(arguments.json, loaded.compute.formats(), prompts.len(), watch);
    let single = prompts.len() == 1;
    for (number, prompt) in prompts.into_iter().enumerate() {
        let ids = encoder.encode(&prompt);
        let ids = if single { ids? } else { ids.with_context(|| format!("prompt {}", number + 1))? };
        let sampling = arguments.sampling.sampling();
        let sampling = Sampling {
            temperature: prompt.temperature.unwrap_or(sampling.temperature),
            seed: prompt.seed.unwrap_or(sampling.seed),
            ..sampling
        };
        let max_tokens = prompt.max_tokens.unwrap_or(arguments.max_tokens);
        let stop_tokens = stop_tokens.clone();
        let request = Request { prompt: ids, max_tokens, sampling, stop_tokens, ..Request::default() };
        let stops = prompt.stop.unwrap_or_else(|| arguments.stop.clone());
        run.submit(&mut engine, request, tokenizer.clone(), stops)?;
    }
    run.drive(&mut engine)
}

fn read_prompts(arguments: &Arguments) -> Result<Vec<Prompt>> {
    match (&arguments.text, &arguments.prompt, &arguments.prompt_file) {
        (_, _, Some(path)) => prompts::from_file(path),
        (_, Some(text), None) => Ok(vec![Prompt::text(text.clone())]),
        (Some(text), None, None) if text != "-" => Ok(vec![Prompt::text(text.clone())]),
        _ => Ok(vec![prompts::from_stdin()?]),
    }
}

/// The tokenizer, unless nothing needs one: prompts of ids, JSON output without text, no stop strings.
fn tokenizer_for(
    prompts: &[Prompt],
    arguments: &Arguments,
    directory: &Path,
) -> Result<Option<Arc<Tokenizer>>> {
    let only_ids = prompts.iter().all(|prompt| prompt.ids.is_some() && prompt.stop.is_none());
    match Tokenizer::open(directory) {
        Ok(tokenizer) => Ok(Some(Arc::new(tokenizer))),
        Err(_) if only_ids && arguments.json && arguments.stop.is_empty() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn engine(arguments: &Arguments, loaded: &Loaded, prompts: usize) -> Result<Engine> {
    // A device prepares for every sequence of a batch.
    let max_batch = arguments.step.max_batch.min(prompts.max(1));
    let options = loaded.engine_options(&arguments.model.machine, arguments.step.chunk, max_batch);
    let mut engine = loaded.engine(options, arguments.traces())?;
    if arguments.traces() {
        let writer: Box<dyn Write + Send> = match &arguments.trace {
            Some(path) => {
                Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
            }
            // Who only watches hears of all that a trace would say.
            None => Box::new(std::io::sink()),
        };
        let config = &loaded.config;
        let header = TraceHeader {
            version: dropcap_trace::VERSION,
            model: arguments.model.name(),
            method: arguments.method.of(&arguments.model)?.to_string(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            granularity: if loaded.policy.per_head() { Granularity::KvHead } else { Granularity::Layer },
            vocabulary: config.vocabulary,
        };
        engine.trace_to(TraceWriter::new(writer, &header)?);
    }
    Ok(engine)
}
