//! `dropcap profile`: what the heads of a model do for its memory.

mod gates;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use dropcap_eval::{
    Masking, Recall, RecallKind, RecallTask, Subject, TextTask, duo_scores, mask_heads, retrieval_heads,
};
use dropcap_files::{Existing, check};
use dropcap_kernels::cuda::DeviceChoice;
use dropcap_methods::{HeadProfile, MeasuredHeads, ProfileKind};
use serde_json::json;

use crate::arguments::{ModelArguments, StepArguments};
use crate::eval::bar::Bar;
use crate::eval::generated::Generated;
use crate::eval::subject::Asking;
use crate::loading::Found;
use crate::progress::note;
use crate::{size, terminal};
use report::Report;

/// Flags of `dropcap profile`.
#[derive(Args)]
#[command(
    group = ArgGroup::new("what").required(true),
    // Where each head of each prompt is watched, fewer of them.
    mut_arg("max_batch", |arg| arg.default_value("8")),
    after_help = "Find the retrieval heads of a model, and let only them keep everything:\n  \
        dropcap profile --model DIR --kind retrieval --output heads.json\n  \
        dropcap generate --model DIR --method \"duo_attention(profile=heads.json, sparsity=0.5)\" \"...\"\n\
        See what is lost without the ten best of them, and without ten others:\n  \
        dropcap profile --model DIR --profile heads.json --mask-top 10"
)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What to measure: `retrieval` (which query heads copy from the context what is asked for; the model has to answer
    /// generated questions), `duo` (how far back each KV head looks, by its mean query and key; faster, and needs no answers) or
    /// `duo_gates` (how much of its full attention each KV head needs, learned as DuoAttention does, with frozen weights; slowest).
    #[arg(long, value_name = "KIND", value_parser = kind, group = "what")]
    kind: Option<ProfileKind>,
    /// Measure nothing and take this profile for --mask-top: a file of this command, DuoAttention's full_attention_heads.tsv
    /// or Retrieval Head's JSON.
    #[arg(long, value_name = "FILE", group = "what", requires = "mask_top")]
    profile: Option<PathBuf>,
    /// Then ask again without the K heads of the highest scores, and without K others: what breaks shows what the heads are
    /// for. The prompts are new ones.
    #[arg(long, value_name = "K", value_parser = size::positive)]
    mask_top: Option<usize>,
    /// How often K others are drawn for --mask-top.
    #[arg(long, value_name = "N", default_value = "3", value_parser = size::positive, requires = "mask_top")]
    mask_draws: usize,
    /// Generated prompts; for --kind duo with --haystack so many windows of that text, evenly spread.
    #[arg(long, value_name = "N", default_value = "30", value_parser = size::positive, help_heading = "Generated prompts")]
    samples: usize,
    /// Tokens of each prompt or window [default: 1024, or half of what the model has].
    #[arg(long, value_name = "N", value_parser = size::positive, help_heading = "Generated prompts")]
    length: Option<usize>,
    #[command(flatten)]
    generated: Generated,
    /// Steps of --kind duo_gates, one prompt each [default: 200; the original takes 2000].
    #[arg(long, value_name = "N", value_parser = size::positive, help_heading = "Gates")]
    steps: Option<usize>,
    /// First tokens that a head of --kind duo_gates sees without its gate.
    #[arg(long, value_name = "N", default_value = "128", value_parser = size::count, help_heading = "Gates")]
    sinks: usize,
    /// Newest tokens that a head of --kind duo_gates sees without its gate.
    #[arg(long, value_name = "N", default_value = "256", value_parser = size::positive, help_heading = "Gates")]
    recent: usize,
    #[command(flatten)]
    step: StepArguments,
    /// The profile to write, for `duo_attention(profile=FILE)` and `headkv(snapkv, profile=FILE)`; its format is in
    /// docs/formats.md.
    #[arg(short, long, value_name = "FILE", conflicts_with = "profile")]
    output: Option<PathBuf>,
    /// Print one JSON object for machines.
    #[arg(long)]
    json: bool,
}

/// Measures, writes the profile, and prints what stands out.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let machine = &arguments.model.machine;
    if matches!(machine.device, DeviceChoice::Cuda(_)) {
        bail!("heads are watched on the processor, which sees their queries and keys: use --device cpu");
    }
    if let Some(path) = &arguments.output {
        check(path, Existing::Replace)?;
    }
    let found = Found::open(&arguments.model.source)?;
    // A profile of another model should not cost a minute of loading.
    let known = arguments.profile.as_deref().map(HeadProfile::read).transpose()?;
    if let Some(profile) = &known {
        profile.of_kv_heads(found.facts())?;
    }
    let asking = Asking {
        device: DeviceChoice::Cpu,
        no_chat_template: arguments.generated.no_chat_template,
        chunk: arguments.step.chunk,
        max_batch: arguments.step.max_batch,
    };
    let subject = asking.subject(&arguments.model, &found, &["none".parse()?])?;
    let mut bar = Bar::default();
    let mut report = Report { model: arguments.model.name(), ..Report::default() };
    if let Some(kind) = arguments.kind {
        let measured = measure(arguments, kind, &subject, &found, &mut report, &mut bar);
        bar.finish();
        let measured = measured?;
        report.kind = Some(kind);
        report.scores = measured.means();
        if let Some(path) = &arguments.output {
            measured.write(path)?;
            note(&format!(
                "the profile is in {}: --method \"duo_attention(profile={})\"",
                path.display(),
                path.display()
            ));
            report.output = Some(path.clone());
        }
    }
    if let Some(profile) = known {
        report.scores = profile.layers().to_vec();
    }
    if let Some(top) = arguments.mask_top {
        // Other prompts than those that chose the heads.
        let task =
            needles(arguments, &subject, RecallKind::Needle, arguments.generated.seed.wrapping_add(1))?;
        let masking = Masking { top, draws: arguments.mask_draws, seed: arguments.generated.seed };
        let masked = mask_heads(&subject, &task, &report.scores, masking, &mut bar);
        bar.finish();
        report.masked = masked?;
    }
    let mut out = terminal::stdout();
    match arguments.json {
        true => writeln!(out, "{}", report.json())?,
        false => write!(out, "{}", report.text())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The scores of all heads.
fn measure(
    arguments: &Arguments,
    kind: ProfileKind,
    subject: &Subject,
    found: &Found,
    report: &mut Report,
    bar: &mut Bar,
) -> Result<MeasuredHeads> {
    let length = length(arguments, subject);
    let mut made = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "samples": arguments.samples,
        "length": length,
        "depths": arguments.generated.depth,
        "haystack": arguments.generated.haystack,
        "seed": arguments.generated.seed,
        "chat_template": subject.template.is_some(),
    });
    let trials = match kind {
        ProfileKind::Retrieval => {
            let task = needles(arguments, subject, RecallKind::Needle, arguments.generated.seed)?;
            let retrieved = retrieval_heads(subject, &task, bar)?;
            made["answered"] = retrieved.answered.into();
            report.answered = Some((retrieved.answered, retrieved.asked));
            retrieved.trials
        }
        ProfileKind::Duo => {
            let texts = match &arguments.generated.haystack {
                Some(path) => {
                    let task =
                        TextTask::open("windows".into(), path, subject, length, 0, Some(arguments.samples))?;
                    task.windows()
                }
                None => needles(arguments, subject, RecallKind::Needle, arguments.generated.seed)?
                    .prompts(subject)?,
            };
            duo_scores(subject, &texts, bar)?
        }
        ProfileKind::DuoGates => gates::learn(arguments, subject, found, &mut made, bar)?,
    };
    let model = Some(found.checkpoint.fingerprint()?);
    Ok(MeasuredHeads { kind, name: arguments.model.name(), model, made, trials })
}

/// Prompts with a sentence or two to find.
fn needles(arguments: &Arguments, subject: &Subject, kind: RecallKind, seed: u64) -> Result<RecallTask> {
    let length = length(arguments, subject);
    let recall = Recall {
        kind,
        length,
        depths: arguments.generated.depth.clone(),
        facts: 1,
        prompts: arguments.samples,
        seed,
        aware: true,
        haystack: arguments.generated.haystack.clone(),
    };
    Ok(RecallTask::generate(format!("needle {length}"), &recall, subject)?)
}

fn length(arguments: &Arguments, subject: &Subject) -> usize {
    arguments.length.unwrap_or((subject.config.max_positions / 2).min(1024))
}

/// A kind of profile by its name.
fn kind(text: &str) -> Result<ProfileKind, String> {
    let known = ProfileKind::ALL.iter().find(|known| known.0 == text.trim());
    known.map(|known| known.1).ok_or_else(|| {
        let names: Vec<&str> = ProfileKind::ALL.iter().map(|known| known.0).collect();
        format!("'{text}' is no kind of profile: there are {}", names.join(", "))
    })
}
