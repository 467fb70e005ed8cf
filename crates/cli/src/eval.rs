//! `dropcap eval`: what a method costs, beside the dense run.

pub mod bar;
mod conversation;
pub mod generated;
pub mod subject;
pub mod task;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use dropcap_eval::{Compute, Results, Subject, Task, evaluate, report, summarize};
use dropcap_methods::{GATES_FILE, MethodSpec};
use dropcap_train::Digest;
use serde_json::{Value, json};

use crate::arguments::{ModelArguments, StepArguments};
use crate::loading::Found;
use crate::size;
use generated::Generated;
use subject::Asking;
use task::TaskSpec;

/// Where an adapter in PEFT's layout has its factors.
const FACTORS_FILE: &str = "adapter_model.safetensors";

/// Flags of `dropcap eval`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Pruning method; may be given several times. The dense run, `none`, always comes first; see `dropcap methods`
    /// [default: dcp where gates lie with the adapter, and for the model that the command carries].
    #[arg(long = "method", value_name = "SPEC")]
    methods: Vec<MethodSpec>,
    /// What to measure; may be given several times. With a file: text=FILE (perplexity and divergence from the dense run),
    /// lambada=, hellaswag=, piqa=, winogrande=, arc_easy=FILE, choices=FILE (JSON lines with context, choices, gold); files
    /// may be packed with xz. Generated: needle, key_value, second_question, multi_turn, copying, open_book.
    #[arg(long = "task", value_name = "TASK", required = true)]
    tasks: Vec<TaskSpec>,
    /// Tokens that a window of a text has at most [default: 1024, or what the model has].
    #[arg(long, value_name = "N", value_parser = size::positive, help_heading = "Tasks")]
    window: Option<usize>,
    /// Tokens of each window that are read as a prompt first: methods that prune where a prompt ends do so there, and only
    /// what follows counts; with 0 all of the window counts.
    #[arg(long, value_name = "N", default_value = "0", value_parser = size::count, help_heading = "Tasks")]
    context: usize,
    /// At most so many windows of each text, evenly spread, so many examples of each file of a task, its first, and so many
    /// generated prompts.
    #[arg(long, value_name = "N", value_parser = size::positive, help_heading = "Tasks")]
    limit: Option<usize>,
    /// Tokens of each generated context with its question, several with commas [default: 1024, or half of what the model
    /// has].
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = size::positive, help_heading = "Tasks")]
    length: Vec<usize>,
    /// Facts of a generated context: needles, of which one is asked about (two of second_question), turns of multi_turn,
    /// words of copying [default: 1, 2, 4, 20].
    #[arg(long, value_name = "N", value_parser = size::positive, help_heading = "Tasks")]
    facts: Option<usize>,
    /// Generated prompts of each task and length.
    #[arg(long, value_name = "N", default_value = "200", value_parser = size::positive, help_heading = "Tasks")]
    prompts: usize,
    /// Let the question belong to the prompt that methods prune where it ends; otherwise it comes after that.
    #[arg(long, help_heading = "Tasks")]
    aware: bool,
    #[command(flatten)]
    generated: Generated,
    #[command(flatten)]
    step: StepArguments,
    /// Directory for the resolved configuration, a log of every example, the table (Markdown, CSV, JSON) and a page with
    /// plots. The same command goes on where it was stopped; results of another one are never touched.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print one JSON object for machines.
    #[arg(long)]
    json: bool,
}

/// Measures, and prints the table.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let specs = methods(arguments)?;
    let found = Found::open(&arguments.model.source)?;
    let asking = Asking {
        device: arguments.model.machine.device,
        no_chat_template: arguments.generated.no_chat_template,
        chunk: arguments.step.chunk,
        max_batch: arguments.step.max_batch,
    };
    let subject = asking.subject(&arguments.model, &found, &specs)?;
    let mut tasks: Vec<Task> = Vec::new();
    let mut described = Vec::new();
    for spec in &arguments.tasks {
        for (task, description) in spec.open(arguments, &subject)? {
            if tasks.iter().any(|known| known.name() == task.name()) {
                bail!("--task {} is given twice", task.name());
            }
            tasks.push(task);
            described.push(description);
        }
    }
    let configuration = configuration(arguments, &found, &subject, described)?;
    let mut results = match &arguments.output {
        Some(directory) => Results::open(directory, &configuration)?,
        None => Results::default(),
    };
    let mut bar = bar::Bar::default();
    let evaluated = evaluate(&subject, &tasks, &mut results, &mut bar);
    bar.finish();
    evaluated?;
    let names: Vec<&str> = tasks.iter().map(Task::name).collect();
    let methods: Vec<&str> = subject.methods.iter().map(|method| &*method.name).collect();
    let lines = summarize(results.records(), &names, &methods);
    if let Some(directory) = &arguments.output {
        report::write(directory, &lines, &configuration)?;
    }
    let mut out = crate::terminal::stdout();
    if arguments.json {
        writeln!(out, "{}", report::json(&lines, &configuration))?;
    } else {
        write!(out, "{}", report::markdown(&lines))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The methods that were asked for, or the one that goes with the model, each once, after the dense run.
fn methods(arguments: &Arguments) -> Result<Vec<MethodSpec>> {
    let mut asked = arguments.methods.clone();
    if asked.is_empty() {
        asked.push(arguments.model.own_method()?);
    }
    let mut specs: Vec<MethodSpec> = vec!["none".parse()?];
    for spec in asked {
        if specs.iter().all(|known| known.to_string() != spec.to_string()) {
            specs.push(spec);
        }
    }
    Ok(specs)
}

/// Digests of what was learned on top of the model: gates, and the factors of an adapter.
fn learned(arguments: &Arguments, found: &Found) -> Result<Value> {
    let gates = found.facts().directory.iter().map(|folder| folder.join(GATES_FILE));
    let factors = arguments.model.source.adapter.iter().map(|folder| folder.join(FACTORS_FILE));
    let mut digests = serde_json::Map::new();
    for path in gates.chain(factors).filter(|path| path.exists()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        digests.insert(name, Digest::of_file(&path)?.to_string().into());
    }
    Ok(digests.into())
}

/// Everything that the numbers depend on.
fn configuration(
    arguments: &Arguments,
    found: &Found,
    subject: &Subject,
    tasks: Vec<Value>,
) -> Result<Value> {
    let methods: Vec<&str> = subject.methods.iter().map(|method| &*method.name).collect();
    let device = match &subject.compute {
        Compute::Host(_) => "cpu".to_owned(),
        Compute::Device(weights) => weights.device().facts().name.clone(),
    };
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": arguments.model.name(),
        "weights": format!("{:032x}", found.checkpoint.fingerprint()?.content),
        "learned": learned(arguments, found)?,
        "dtype": match &subject.compute {
            Compute::Host(decoder) => decoder.formats(),
            Compute::Device(weights) => weights.formats(),
        },
        "kv_dtype": subject.kv_dtype.to_string(),
        "device": device,
        "chunk": subject.chunk,
        "methods": methods,
        "tasks": tasks,
    }))
}
