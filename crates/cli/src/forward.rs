//! `dropcap forward`: logits and lifetimes of a text of token ids, for comparing with anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use dropcap_engine::{Evaluation, evaluate, evaluate_on_device};
use dropcap_methods::MethodSpec;
use dropcap_model::device::{DeviceDecoder, DeviceOptions};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::arguments::ModelArguments;
use crate::loading::Compute;
use crate::{loading, progress, size};

/// Tokens of a step on a GPU where nothing else is asked for.
const DEVICE_CHUNK: usize = 2048;
/// Rows of logits that a GPU computes at a time.
const DEVICE_LOGITS: usize = 128;

/// Flags of `dropcap forward`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Pruning method; see `dropcap methods`.
    #[arg(long, value_name = "SPEC", default_value = "none")]
    method: MethodSpec,
    /// Token ids, separated by commas.
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',', required_unless_present = "ids_file")]
    ids: Vec<u32>,
    /// File with token ids, separated by commas or white space.
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    ids_file: Option<PathBuf>,
    /// Feed the text in chunks of so many tokens [default: all at once].
    #[arg(long, value_name = "N", value_parser = size::positive)]
    chunk: Option<usize>,
    /// The safetensors file to write: `logits` f32 [t, v], and for each layer `layers.{i}.expires_at`
    /// u32 [KV heads or 1, t]: the first position that no longer sees the token, or 4294967295.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print a JSON summary for machines.
    #[arg(long)]
    json: bool,
}

/// Runs the text and writes the file.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let ids = match &arguments.ids_file {
        Some(path) => ids_from(path)?,
        None => arguments.ids.clone(),
    };
    let loaded = loading::load(&arguments.model, &arguments.method)?;
    let machine = &arguments.model.machine;
    let (kv_dtype, kv_limit) = (machine.kv_dtype, machine.kv_limit);
    let chunk = arguments.chunk.unwrap_or(ids.len().max(1));
    let policy = loaded.policy.as_ref();
    let bar = progress::spinner("running");
    let evaluation = match &loaded.compute {
        Compute::Host { team, decoder } => {
            let pool = decoder.page_pool(policy, kv_dtype, kv_limit)?;
            evaluate(decoder, team, policy, &pool, &ids, chunk)?
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
            };
            evaluate_on_device(&mut DeviceDecoder::new(weights.clone(), policy, options)?, &ids, chunk)?
        }
    };
    bar.finish_and_clear();
    write(&arguments.output, &evaluation, ids.len())
        .with_context(|| format!("cannot write {}", arguments.output.display()))?;
    let report = &evaluation.report;
    let kept = report.keep_ratio();
    let line = if arguments.json {
        json!({"tokens": ids.len(), "output": arguments.output, "kv": crate::generate::kv_json(report)})
            .to_string()
    } else {
        let (live, logical) = (report.live_entries, report.logical_entries);
        format!("{} tokens, KV {live} of {logical} entries live ({:.1} %)", ids.len(), 100.0 * kept)
    };
    use std::io::Write;
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

fn write(path: &Path, evaluation: &Evaluation, tokens: usize) -> Result<()> {
    let vocabulary = evaluation.logits.len() / tokens;
    let logits: Vec<u8> = evaluation.logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let lifetimes: Vec<Vec<u8>> = evaluation
        .expires_at
        .iter()
        .map(|layer| layer.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mut tensors = BTreeMap::new();
    tensors.insert("logits".to_owned(), TensorView::new(Dtype::F32, vec![tokens, vocabulary], &logits)?);
    for (layer, bytes) in lifetimes.iter().enumerate() {
        let view = TensorView::new(Dtype::U32, vec![evaluation.lanes, tokens], bytes)?;
        tensors.insert(format!("layers.{layer}.expires_at"), view);
    }
    safetensors::serialize_to_file(tensors, None, path)?;
    Ok(())
}
