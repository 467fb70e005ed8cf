//! `dropcap data`: what is known of examples before a model learns from them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use dropcap_train::config::Config;
use dropcap_train::disk::LocalDisk;
use dropcap_train::trainer::{confounders, score};

use crate::progress;
use crate::train::{Listener, device_for, source};

/// Flags of `dropcap data`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Score every example of a run's training files, for `data.select: coreset(...)`.
    ///
    /// By the gradients of what the run would train (`train: lora` is the cheap way): `effort` is the norm of an example's
    /// gradient, `influence` that gradient times the mean of all.
    Score(Write),
    /// Find the tokens of prompts that mislead a run's model and not its teacher, for `data.select: leaf(...)`.
    ///
    /// By the gradients of the answer's loss at the embeddings of the prompt's tokens, under the `model` and under the `teacher` of the
    /// configuration.
    Confounders(Write),
}

/// Flags of both verbs.
#[derive(Args)]
struct Write {
    /// The configuration of the run that the file is for.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Keys that replace those of the file, as for `dropcap train`.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The file to write: one object a line.
    #[arg(short, long, value_name = "FILE", default_value = "scores.jsonl")]
    output: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (Verb::Score(write) | Verb::Confounders(write)) = &arguments.verb;
    // What a run will want to read is not there yet.
    let mut overrides = write.overrides.clone();
    overrides.extend(["data.select=".to_owned(), "data.scores=".to_owned()]);
    let config = Config::resolve(&write.config, &overrides)?;
    let path = &write.output;
    if path.exists() && !write.force {
        bail!(
            "{} is there already: give --force to replace it, or name another with --output",
            path.display()
        );
    }
    let source = source(&config)?;
    let device = device_for(&config)?;
    let mut listener = Listener::new(0);
    let bar = listener.bar();
    let mut progress = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
        bar.set_message("gradients of examples");
    };
    let (device, listening) = (device.as_ref(), &mut listener);
    let written = match &arguments.verb {
        Verb::Score(_) => score(&config, source, device, listening, &mut progress).and_then(|scores| {
            scores.write(&LocalDisk, path)?;
            Ok(format!("{} examples scored in {}", scores.examples(), path.display()))
        }),
        Verb::Confounders(_) => {
            confounders(&config, &source, device, listening, &mut progress).and_then(|found| {
                found.write(&LocalDisk, path)?;
                Ok(format!("{} prompts compared in {}", found.prompts.len(), path.display()))
            })
        }
    };
    listener.finish();
    progress::note(&written?);
    Ok(ExitCode::SUCCESS)
}
