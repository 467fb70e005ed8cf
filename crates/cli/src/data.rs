//! `dropcap data`: what is known of examples before a model learns from them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use dropcap_train::config::Config;
use dropcap_train::disk::LocalDisk;
use dropcap_train::trainer::score as score_examples;

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
    Score(Score),
}

/// Flags of `dropcap data score`.
#[derive(Args)]
struct Score {
    /// The configuration of the run that the scores are for.
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
    match &arguments.verb {
        Verb::Score(arguments) => score(arguments),
    }
}

fn score(arguments: &Score) -> Result<ExitCode> {
    // The scores that a run will want are not there yet.
    let mut overrides = arguments.overrides.clone();
    overrides.extend(["data.select=".to_owned(), "data.scores=".to_owned()]);
    let config = Config::resolve(&arguments.config, &overrides)?;
    let path = &arguments.output;
    if path.exists() && !arguments.force {
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
    let scores = score_examples(&config, source, device.as_ref(), &mut listener, &mut progress);
    listener.finish();
    let scores = scores?;
    scores.write(&LocalDisk, path)?;
    progress::note(&format!("{} examples scored in {}", scores.examples(), path.display()));
    Ok(ExitCode::SUCCESS)
}
