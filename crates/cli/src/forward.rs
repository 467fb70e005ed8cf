//! `dropcap forward`: logits and lifetimes of a text of token ids, for comparing with anything.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};
use dropcap_engine::{EngineError, Evaluation, LogitSink, Text, evaluate_rows, evaluate_rows_on_device};
use dropcap_files::{Existing, check, publish};
use dropcap_model::DecoderConfig;
use dropcap_model::device::{DeviceDecoder, DeviceOptions};
use dropcap_weights::{StoredType, WeightsError, tensor_header};
use serde_json::json;

use crate::arguments::{MethodArguments, ModelArguments};
use crate::loading::Compute;
use crate::{loading, progress, size};

/// Tokens of a step on a GPU at most: their logits are in memory together.
const DEVICE_CHUNK: usize = 512;
/// Rows of logits that a GPU computes at a time.
const DEVICE_LOGITS: usize = 128;

/// Flags of `dropcap forward`.
#[derive(Args)]
#[command(group = ArgGroup::new("tokens").required(true))]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    method: MethodArguments,
    /// Token ids, separated by commas.
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',', group = "tokens")]
    ids: Vec<u32>,
    /// File with token ids, separated by commas or white space.
    #[arg(long, value_name = "FILE", group = "tokens")]
    ids_file: Option<PathBuf>,
    /// How many of the tokens are the prompt: methods that act where a prompt ends act there [default: all].
    #[arg(long, value_name = "N", value_parser = size::positive)]
    context: Option<usize>,
    /// Feed the text in chunks of so many tokens [default: all at once].
    #[arg(long, value_name = "N", value_parser = size::positive)]
    chunk: Option<usize>,
    /// The safetensors file to write: `logits` f32 [t, v], and for each layer `layers.{i}.expires_at`
    /// u32 [KV heads or 1, t]: the first position that no longer sees the token, or 4294967295 (docs/formats.md).
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print a JSON summary for machines.
    #[arg(long)]
    json: bool,
}

/// Runs the text and writes the file.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    check(&arguments.output, Existing::Replace)?;
    let ids = match &arguments.ids_file {
        Some(path) => ids_from(path)?,
        None => arguments.ids.clone(),
    };
    let method = arguments.method.of(&arguments.model)?;
    let loaded = loading::load(&arguments.model, &method)?;
    loading::say_longer_texts(loaded.policy.as_ref(), ids.len());
    let machine = &arguments.model.machine;
    let (kv_dtype, kv_limit) = (loaded.compute.kv_dtype(machine.kv_dtype), machine.kv_limit);
    let chunk = arguments.chunk.unwrap_or(ids.len().max(1));
    let prompt = arguments.context.unwrap_or(ids.len().max(1));
    let policy = loaded.policy.as_ref();
    let text = Text { ids: &ids, prompt, chunk };
    let (lanes, mut run): (usize, Box<Run<'_>>) = match &loaded.compute {
        Compute::Host { team, decoder } => {
            let pool = decoder.page_pool(policy, kv_dtype, kv_limit)?;
            let run = move |rows: LogitSink<'_>| evaluate_rows(decoder, team, policy, &pool, text, rows);
            (decoder.lanes_per_layer(policy), Box::new(run))
        }
        Compute::Device(weights) => {
            let chunk = chunk.min(DEVICE_CHUNK);
            let options = DeviceOptions {
                kv_dtype,
                kv_limit,
                chunk,
                max_batch: 1,
                deaths: true,
                logit_rows: DEVICE_LOGITS,
                kept: 0,
            };
            let mut decoder = DeviceDecoder::new(weights.clone(), policy, options)?;
            let lanes = decoder.groups();
            let run = move |rows: LogitSink<'_>| evaluate_rows_on_device(&mut decoder, text, rows);
            (lanes, Box::new(run))
        }
    };
    let bar = progress::spinner("running");
    let evaluation = write(&arguments.output, &loaded.config, lanes, ids.len(), &mut run)?;
    bar.finish_and_clear();
    let report = &evaluation.report;
    let kept = report.keep_ratio();
    let line = if arguments.json {
        json!({"tokens": ids.len(), "output": arguments.output, "kv": crate::generate::kv_json(report)})
            .to_string()
    } else {
        let (live, logical) = (report.live_entries, report.logical_entries);
        format!("{} tokens, KV {live} of {logical} entries live ({:.1} %)", ids.len(), 100.0 * kept)
    };
    writeln!(crate::terminal::stdout(), "{line}")?;
    Ok(ExitCode::SUCCESS)
}

fn ids_from(path: &Path) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = crate::utf8::decode(&bytes).with_context(|| format!("cannot read {}", path.display()))?;
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let ids: Vec<u32> = words
        .map(|word| word.parse().with_context(|| format!("'{word}' in {} is not a token id", path.display())))
        .collect::<Result<_>>()?;
    if ids.is_empty() {
        bail!("{} holds no token id", path.display());
    }
    Ok(ids)
}

/// Evaluates a text, wherever the model is.
type Run<'a> = dyn FnMut(LogitSink<'_>) -> Result<Evaluation, EngineError> + 'a;

/// Writes the rows of logits that `run` hands on, as they come, and the lifetimes that it ends with. Where it fails,
/// there is no file.
fn write(
    path: &Path,
    config: &DecoderConfig,
    lanes: usize,
    tokens: usize,
    run: &mut Run<'_>,
) -> Result<Evaluation> {
    let header = header([tokens, config.vocabulary], config.layers, [lanes, tokens])?;
    let mut outcome = None;
    let published = publish(path, Existing::Replace, |file| {
        let mut out = BufWriter::new(file);
        out.write_all(&header)?;
        match run(&mut |rows| rows.iter().try_for_each(|logit| out.write_all(&logit.to_le_bytes()))) {
            Ok(evaluation) => {
                let mut expiries = evaluation.expires_at.iter().flatten();
                expiries.try_for_each(|expiry| out.write_all(&expiry.to_le_bytes()))?;
                outcome = Some(Ok(evaluation));
                out.flush()
            }
            Err(EngineError::Rows(refused)) => Err(refused),
            Err(error) => {
                outcome = Some(Err(error));
                Err(io::Error::other("the text could not be evaluated"))
            }
        }
    });
    // The evaluation's own error comes first: it is why nothing was published.
    let evaluation = outcome.transpose()?;
    published?;
    evaluation.context("nothing was evaluated")
}

/// The header of the file: `logits` f32, then `layers.{i}.expires_at` u32, all in these shapes.
fn header(logits: [usize; 2], layers: usize, lifetimes: [usize; 2]) -> Result<Vec<u8>, WeightsError> {
    let names: Vec<String> = (0..layers).map(|layer| format!("layers.{layer}.expires_at")).collect();
    let lifetimes = names.iter().map(|name| (&**name, StoredType::U32, &lifetimes[..]));
    let tensors = std::iter::once(("logits", StoredType::F32, &logits[..])).chain(lifetimes);
    tensor_header(tensors, &[("format", "dropcap-forward"), ("version", "1")])
}
