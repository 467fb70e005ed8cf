//! `dropcap compress`: text in, shorter text out.

mod journal;
mod source;
mod task;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use dropcap_compress::{
    Closeness, Compressed, Embed, Evolution, HiddenStates, Language, Listener, ModelJudge, Tokens, context,
    longcodezip, perplexity,
};
use dropcap_files::{Existing, publish};
use dropcap_kernels::cuda::DeviceChoice;
use dropcap_methods::Amount;
use dropcap_model::Tokenizer;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::arguments::{ModelArguments, StepArguments};
use crate::loading::{self, Found, Loaded};
use crate::{progress, size, terminal, utf8};
use journal::Journal;
use task::{Rule, Task};

/// Flags of `dropcap compress`.
#[derive(Args)]
pub struct Arguments {
    /// Text to shorten; `-` or nothing reads standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// How much stays: a number of tokens such as 2K, or a share such as 0.25.
    #[arg(short, long, value_name = "TOKENS|SHARE", value_parser = budget, required_unless_present = "task")]
    budget: Option<Amount>,
    /// What the text is for, such as a question about it. It is no part of the text, takes nothing of the budget and is never
    /// shortened.
    #[arg(short, long, value_name = "TEXT")]
    instruction: Option<String>,
    /// What decides [default: tapruning with --task, else longcodezip with an instruction, else perplexity].
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// What the text is written in: c, go, java, javascript, python, rust or text [default: what the file's name says, else
    /// text].
    #[arg(short, long, value_name = "NAME")]
    language: Option<Language>,
    /// Write the instruction behind the text, after a blank line, for a pipe into `dropcap generate`.
    #[arg(long, requires = "instruction", conflicts_with = "json")]
    append_instruction: bool,
    /// JSON lines with `label` and what goes into the prompt's placeholders: the text is a prompt that ends before the label.
    #[arg(long, value_name = "FILE", conflicts_with = "budget", help_heading = "Tapruning")]
    task: Option<PathBuf>,
    /// A token goes if the prompt without it scores at least this share of the best score so far.
    #[arg(long, value_name = "X", default_value_t = 0.96, help_heading = "Tapruning")]
    threshold: f64,
    /// A file that every scored prompt is noted in; the same command goes on from it.
    #[arg(long, value_name = "FILE", requires = "task", help_heading = "Tapruning")]
    journal: Option<PathBuf>,
    /// Prompts that live on from one generation to the next.
    #[arg(long, value_name = "N", default_value = "30", value_parser = size::positive, help_heading = "Promptquine")]
    population: usize,
    /// Prompts that are made in a generation.
    #[arg(long, value_name = "N", default_value = "50", value_parser = size::positive, help_heading = "Promptquine")]
    offspring: usize,
    /// No generation begins once so many prompts were made.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = size::positive, help_heading = "Promptquine")]
    prompts: usize,
    /// Nor once those that live have so many tokens or fewer, on average.
    #[arg(long, value_name = "N", default_value_t = 15, help_heading = "Promptquine")]
    least: usize,
    /// The seed of all choices.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Promptquine")]
    seed: u64,
    /// JSON lines with `text` and `vector`, for the instruction and every sentence [default: the mean of what the model's last
    /// layer reads].
    #[arg(long, value_name = "FILE", help_heading = "Context")]
    vectors: Option<PathBuf>,
    /// Sentences closer to the instruction than so many per cent of their passage may stay.
    #[arg(long, value_name = "X", default_value_t = 75.0, help_heading = "Context")]
    percentile: f64,
    /// Sentences whose cosine with the instruction is larger may stay.
    #[arg(long, value_name = "X", default_value_t = 0.5, help_heading = "Context")]
    floor: f64,
    /// So many sentences may stay, each passage an equal share.
    #[arg(long, value_name = "N", default_value = "150", value_parser = size::positive, help_heading = "Context")]
    volume: usize,
    #[command(flatten)]
    step: StepArguments,
    /// Write to a file, which is there as a whole or not at all.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write one JSON object: what is kept with its bytes and scores, tokens before and after, and the text.
    #[arg(long)]
    json: bool,
}

/// What decides what stays.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Functions or paragraphs, and blocks within them, that help most with the instruction (arXiv 2510.00446).
    Longcodezip,
    /// Tokens that the model does not foresee (arXiv 2310.06201, 2310.05736).
    Perplexity,
    /// Sentences that are close to the instruction (KG-RAG).
    Context,
    /// Tokens of a prompt without which it answers worse (arXiv 2506.17930).
    Tapruning,
    /// The same by generations of prompts that lack some tokens at random (arXiv 2506.17930).
    Promptquine,
}

/// Tokens of beginnings that texts have in common are read once; what is kept of them takes so many bytes at most.
const PREFIX_BYTES: usize = 256 << 20;

/// What is written about a text.
struct Account {
    text: String,
    before: usize,
    after: usize,
    /// What else there is, for machines and for people.
    json: Value,
    line: String,
}

/// Shortens the text.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let instruction = arguments.instruction.as_deref().unwrap_or_default();
    let method = arguments.method.unwrap_or(match (&arguments.task, instruction) {
        (Some(_), _) => Method::Tapruning,
        (None, "") => Method::Perplexity,
        (None, _) => Method::Longcodezip,
    });
    let name = method.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    if matches!(method, Method::Longcodezip | Method::Context) && instruction.trim().is_empty() {
        bail!(
            "--method {name} keeps what helps with an --instruction: give one, or take --method perplexity"
        );
    }
    let prunes = matches!(method, Method::Tapruning | Method::Promptquine);
    if prunes != arguments.task.is_some() {
        bail!(
            "--method tapruning or promptquine and --task go together: the one prunes a prompt by the questions of the other"
        );
    }
    let bytes = source::read(arguments.file.as_deref())?;
    let file = arguments.file.as_deref().unwrap_or(Path::new("-"));
    let text = utf8::decode(&bytes).with_context(|| format!("cannot read {} as text", file.display()))?;
    let begin = Instant::now();
    let account = match arguments.task.as_deref() {
        Some(task) => prune(arguments, method, text, &Task::open(task, text)?)?,
        None => {
            let language = arguments.language.unwrap_or_else(|| Language::of_file(file));
            let kept = compress(arguments, method, language, instruction, text)?;
            let line = format!("{} stretches", kept.spans.len());
            let (before, after) = (kept.tokens_before, kept.tokens_after);
            let json = json!({ "judged": kept.judged, "spans": kept.spans });
            Account { text: kept.text(text), before, after, json, line }
        }
    };
    let share = account.after as f64 / account.before.max(1) as f64;
    let out = match arguments.json {
        true => {
            let mut object = json!({
                "model": arguments.model.name(),
                "method": name,
                "budget": arguments.budget.map(|budget| budget.to_string()),
                "tokens_before": account.before,
                "tokens_after": account.after,
                "share": share,
                "seconds": begin.elapsed().as_secs_f64(),
                "text": account.text,
            });
            if let (Some(object), Value::Object(more)) = (object.as_object_mut(), account.json) {
                object.extend(more);
            }
            format!("{object}\n")
        }
        false if arguments.append_instruction => format!("{}\n\n{instruction}", account.text),
        false => account.text,
    };
    match &arguments.output {
        Some(path) => publish(path, Existing::Replace, |file| file.write_all(out.as_bytes()))?,
        None => terminal::stdout().write_all(out.as_bytes())?,
    }
    progress::note(&format!(
        "{} of {} tokens kept ({:.1} %), {}, {:.1} s",
        account.after,
        account.before,
        100.0 * share,
        account.line,
        begin.elapsed().as_secs_f64()
    ));
    Ok(ExitCode::SUCCESS)
}

fn compress(
    arguments: &Arguments,
    method: Method,
    language: Language,
    instruction: &str,
    text: &str,
) -> Result<Compressed> {
    let budget = arguments.budget.context("--budget says how much stays")?;
    let bar = progress::spinner("reading");
    if method == Method::Context {
        return close(arguments, instruction, text, budget, &bar);
    }
    let loaded = loading::load(&arguments.model, &"none".parse()?)?;
    let mut judge = judge(arguments, &loaded, PREFIX_BYTES, &bar)?;
    let kept = match method {
        Method::Longcodezip => longcodezip(&mut judge, text, instruction, language, budget),
        _ => perplexity(&mut judge, text, instruction, budget),
    };
    bar.finish_and_clear();
    Ok(kept?)
}

/// Keeps sentences by vectors, which need a model only where they are not given.
fn close(
    arguments: &Arguments,
    instruction: &str,
    text: &str,
    budget: Amount,
    bar: &ProgressBar,
) -> Result<Compressed> {
    let rule =
        Closeness { percentile: arguments.percentile, floor: arguments.floor, volume: arguments.volume };
    let by = |tokenizer: &Tokenizer, embed: &mut dyn Embed| -> Result<Compressed> {
        let kept = context(tokenizer, embed, text, instruction, &rule, budget);
        bar.finish_and_clear();
        Ok(kept?)
    };
    if let Some(path) = &arguments.vectors {
        let found = Found::open(&arguments.model.source)?;
        return by(&Tokenizer::open(found.checkpoint.directory())?, &mut source::vectors(path)?);
    }
    if matches!(arguments.model.machine.device, DeviceChoice::Cuda(_)) {
        bail!(
            "hidden states are heard on the processor: give --device cpu, or --vectors that were made elsewhere"
        );
    }
    let listener = Arc::new(Listener::default());
    let loaded = loading::load_as(&arguments.model, &"none".parse()?, |_| listener.clone())?;
    let judge = judge(arguments, &loaded, 0, bar)?;
    by(&Tokenizer::open(&loaded.directory)?, &mut HiddenStates::new(judge, listener))
}

/// Prunes a prompt by a task.
fn prune(arguments: &Arguments, method: Method, text: &str, task: &Task) -> Result<Account> {
    let rule = match method {
        Method::Promptquine => Rule::Promptquine(Evolution {
            population: arguments.population,
            offspring: arguments.offspring,
            prompts: arguments.prompts,
            least: arguments.least,
            seed: arguments.seed,
        }),
        _ => Rule::Tapruning { threshold: arguments.threshold },
    };
    let loaded = loading::load(&arguments.model, &"none".parse()?)?;
    let mut journal = match &arguments.journal {
        None => Journal::none(),
        Some(path) => Journal::open(
            path,
            &json!({ "model": arguments.model.name(), "prompt": text, "task": task.digest() }),
        )?,
    };
    if journal.len() > 0 {
        progress::note(&format!("{} prompts were scored before", journal.len()));
    }
    let bar = progress::spinner("pruning");
    let hidden = ProgressBar::hidden();
    let mut judge = judge(arguments, &loaded, PREFIX_BYTES, &hidden)?;
    let before = judge.tokens(text)?.len();
    let tell = |scored, left| {
        bar.set_message(format!("pruning: {scored} prompts tried, {left} of {before} tokens left"))
    };
    let pruned = task.prune(&mut judge, text, &rule, &mut journal, tell);
    bar.finish_and_clear();
    let pruned = pruned?;
    let after = judge.tokens(&pruned.search.prompt)?.len();
    Ok(Account { before, after, json: pruned.json(), line: pruned.line(), text: pruned.search.prompt })
}

/// The model as a judge, which tells `bar` how much it has read.
fn judge<'a>(
    arguments: &Arguments,
    loaded: &Loaded,
    prefix_bytes: usize,
    bar: &'a ProgressBar,
) -> Result<ModelJudge<'a>> {
    let tokenizer = Arc::new(Tokenizer::open(&loaded.directory)?);
    tokenizer.check_vocabulary(loaded.config.vocabulary)?;
    let mut options =
        loaded.engine_options(&arguments.model.machine, arguments.step.chunk, arguments.step.max_batch);
    options.prefix_bytes = prefix_bytes;
    let engine = loaded.engine(options, false)?;
    let mut sum = 0;
    let told = move |tokens| {
        sum += tokens;
        bar.set_message(format!("reading: {sum} tokens"));
    };
    Ok(ModelJudge::new(engine, tokenizer, loaded.config.max_positions, told)?)
}

/// A budget as `--budget` takes it.
fn budget(text: &str) -> Result<Amount, String> {
    text.trim().parse().map_err(|_| {
        format!("'{text}' is no budget: a number of tokens such as 2048 or 2K, or the share that stays such as 0.25")
    })
}
