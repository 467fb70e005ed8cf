//! `dropcap train`: teach a model what to forget.

mod company;
mod listener;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use dropcap_kernels::cuda::{Device, DeviceChoice};
use dropcap_train::collective::Meeting;
use dropcap_train::config::{Config, KEYS, Trained};
use dropcap_train::data::Documents;
use dropcap_train::metrics::Quiet;
use dropcap_train::signals::{STOPPED, Stop};
use dropcap_train::trainer::{Evaluation, Examined, Finish, Source, examine, run as train};
use serde_json::json;

use crate::device::chosen;
use crate::{loading, progress};
pub use listener::Listener;

/// Flags of `dropcap train`.
#[derive(Args)]
#[command(after_long_help = keys())]
pub struct Arguments {
    /// The run's configuration, YAML; see the keys below.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Keys that replace those of the file, as `optimizer.learning_rate=1e-4`.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Check everything that the run would, read all data, print what the run needs, and take no step.
    #[arg(long)]
    dry_run: bool,
    /// Print the resolved configuration and do nothing else.
    #[arg(long)]
    print_config: bool,
    /// Print the result as one JSON object for machines.
    #[arg(long)]
    json: bool,
    /// Start so many processes on this host that train together, each on its own GPU or its share of the processors.
    ///
    /// Jobs of several hosts are started by torchrun, srun or Kubernetes: their RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
    /// and MASTER_PORT (or SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID) are understood.
    #[arg(long, visible_alias = "processes", value_name = "N")]
    gpus: Option<NonZeroUsize>,
}

/// Longest text of a document that a dry run shows, in characters.
const SHOWN: usize = 60;

/// Trains, or says what it would do.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let config = Config::resolve(&arguments.config, &arguments.overrides)?;
    let mut out = crate::terminal::stdout();
    if arguments.print_config {
        write!(out, "{}", config.to_yaml()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.dry_run {
        return dry_run(&config, arguments.json, &mut out);
    }
    let stop = Stop::on_signals().context("cannot listen to signals")?;
    if let Some(count) = arguments.gpus.filter(|count| count.get() > 1) {
        return company::launch(count.get(), &config, &stop);
    }
    let source = source(&config)?;
    let others = company::company(&config, &source)?;
    let device = device_for(&config)?;
    let device = device.as_ref();
    if !others.world().is_first() {
        // The first process tells and writes everything.
        return Ok(match train(&config, source, device, &command(arguments), others, &mut Quiet, &stop)? {
            Finish::Stopped { .. } => ExitCode::from(STOPPED),
            Finish::Done { .. } => ExitCode::SUCCESS,
        });
    }
    let mut listener = Listener::new(config.steps);
    let finish = train(&config, source, device, &command(arguments), others, &mut listener, &stop);
    listener.finish();
    match finish? {
        Finish::Stopped { step } => {
            progress::warn(&format!(
                "stopped after step {step} of {}; its state is saved, the same command goes on from there",
                config.steps
            ));
            Ok(ExitCode::from(STOPPED))
        }
        Finish::Done { folder, evaluation } => {
            if arguments.json {
                let (perplexity, dense_perplexity) = evaluation.perplexities();
                let files: Vec<_> = config
                    .data
                    .valid
                    .iter()
                    .zip(&evaluation.files)
                    .map(|(file, measured)| {
                        json!({
                            "file": file,
                            "perplexity": measured.pruned.perplexity(),
                            "dense_perplexity": measured.dense.perplexity(),
                            "keep": measured.keep,
                        })
                    })
                    .collect();
                let kind = if config.train == Trained::All { "model" } else { "adapter" };
                let object = json!({
                    kind: folder,
                    "perplexity": finite(perplexity, &evaluation),
                    "dense_perplexity": finite(dense_perplexity, &evaluation),
                    "keep": evaluation.keep(),
                    "files": files,
                });
                writeln!(out, "{object}")?;
            } else {
                writeln!(out, "{}", folder.display())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The GPU to train on, or none for the processor. `auto` takes a GPU of its own for each process of a host that has one.
pub fn device_for(config: &Config) -> Result<Option<Device>> {
    let meeting = Meeting::of_environment(&|name| std::env::var(name).ok())?;
    chosen(match (config.device, meeting) {
        (DeviceChoice::Auto, Some(Meeting { local_rank, .. }))
            if Device::count().is_ok_and(|count| local_rank < count) =>
        {
            DeviceChoice::Cuda(local_rank)
        }
        (choice, _) => choice,
    })
}

/// A run without held-out text has no perplexity.
fn finite(perplexity: f64, evaluation: &Evaluation) -> Option<f64> {
    (!evaluation.files.is_empty()).then_some(perplexity)
}

/// The model to start from; a hub id is downloaded.
pub fn source(config: &Config) -> Result<Source> {
    let found = |model: &Path| -> Result<Source> {
        Ok(Source::of_checkpoint(&loading::find(&model.to_string_lossy(), None, false)?)?)
    };
    let source = match &config.model {
        Some(model) => found(model)?,
        None => return Ok(Source::open(config)?),
    };
    match &config.teacher {
        Some(teacher) => Ok(source.taught_by(found(teacher)?)?),
        None => Ok(source),
    }
}

fn dry_run(config: &Config, machine: bool, out: &mut impl Write) -> Result<ExitCode> {
    let source = source(config)?;
    if !machine {
        for file in config.data.train.iter().chain(&config.data.valid) {
            writeln!(out, "{}: \"{}...\"", file.display(), head(file)?)?;
        }
    }
    let device = device_for(config)?;
    let mut listener = Listener::new(0);
    let examined = examine(config, &source, device.as_ref(), &mut listener);
    listener.finish();
    let Examined { plan, train_tokens, valid_tokens, from_step } = examined?;
    if machine {
        let object = json!({
            "weights": plan.weights,
            "gates": plan.gates,
            "trained": plan.trained,
            "train_tokens": train_tokens,
            "valid_tokens": valid_tokens,
            "sequence_tokens": plan.tokens,
            "step_tokens": plan.step_tokens,
            "parameter_bytes": plan.parameter_bytes,
            "activation_bytes": plan.activation_bytes,
            "step_seconds": plan.step_time().as_secs_f64(),
            "steps": plan.steps,
            "device": plan.device.as_ref().map(|(name, _)| name),
            "device_free_bytes": plan.device.as_ref().map(|(_, free)| free),
            "from_step": from_step,
        });
        writeln!(out, "{object}")?;
    } else {
        let passes = (plan.steps * plan.step_tokens as u64) as f64 / train_tokens as f64;
        writeln!(out, "text         {train_tokens} tokens to train on, {passes:.2} times over")?;
        if from_step > 0 {
            writeln!(out, "state        goes on from step {from_step}")?;
        }
        writeln!(out, "{plan}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The beginning of a file's first document.
fn head(file: &Path) -> Result<String> {
    let first = Documents::open(file)?.next().transpose()?;
    let text = first.map(|document| document.said.text().into_owned()).unwrap_or_default();
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect())
}

/// The command as it can be given again.
fn command(arguments: &Arguments) -> String {
    let mut words = vec!["dropcap".to_owned(), "train".into(), "--config".into()];
    words.push(arguments.config.file_name().unwrap_or_default().to_string_lossy().into_owned());
    // Where files lie on this machine is of no use to who reads the card.
    words.extend(arguments.overrides.iter().map(|word| match word.split_once("=/") {
        Some((key, path)) => format!("{key}={}", path.rsplit('/').next().unwrap_or(path)),
        None => word.clone(),
    }));
    let quoted = words.iter().map(|word| {
        if word.contains([' ', '*', '$', '"', '(', '[', '{']) { format!("'{word}'") } else { word.clone() }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// All keys, with defaults and meanings.
fn keys() -> String {
    let mut text = String::from("Keys of the configuration, with their defaults:\n");
    for key in KEYS {
        text.push_str(&format!("  {} [{}]\n      {}\n", key.path, key.default, key.help));
    }
    text
}
