//! What a run cost: the closing line for people, the object for machines.

use std::time::Duration;

use dropcap_cache::KvReport;
use dropcap_engine::{FinishReason, Finished, Timings};
use serde_json::{Value, json};

use crate::size::human;

/// The cache's account for machines: entries in tokens times lanes, sizes in bytes.
pub fn kv_json(report: &KvReport) -> Value {
    json!({
        "logical_entries": report.logical_entries,
        "live_entries": report.live_entries,
        "live_bytes": report.live_bytes,
        "held_bytes": report.held_bytes,
        "dense_bytes": report.dense_bytes,
        "keep_ratio": report.keep_ratio(),
    })
}

/// One finished prompt for machines.
pub fn finished_json(finished: &Finished, text: &str) -> Value {
    let (prefill, decode) = rates(finished.prompt_tokens, finished.token_ids.len(), &finished.timings);
    let mut object = json!({
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.token_ids.len(),
        "token_ids": finished.token_ids,
        "text": text,
        "finish_reason": finished.reason.as_str(),
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        "kv": kv_json(&finished.report),
    });
    if let FinishReason::OutOfMemory(shortage) = finished.reason {
        object["error"] = shortage.to_string().into();
    }
    object
}

/// The closing line for people, of one prompt.
pub fn line(finished: &Finished) -> String {
    let (prompt_tokens, completion_tokens) = (finished.prompt_tokens, finished.token_ids.len());
    let (prefill, decode) = rates(prompt_tokens, completion_tokens, &finished.timings);
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    format!(
        "{prompt_tokens} prompt + {completion_tokens} completion tokens | prefill {} tok/s, decode {} tok/s | {}",
        rate(prefill),
        rate(decode),
        kv_line(&finished.report),
    )
}

/// The closing line for people, of several prompts that ran together for `elapsed`.
pub fn total_line(finished: &[&Finished], elapsed: Duration) -> String {
    let prompt_tokens: usize = finished.iter().map(|one| one.prompt_tokens).sum();
    let completion_tokens: usize = finished.iter().map(|one| one.token_ids.len()).sum();
    let rate = (prompt_tokens + completion_tokens) as f64 / elapsed.as_secs_f64().max(1e-9);
    format!(
        "{} prompts: {prompt_tokens} prompt + {completion_tokens} completion tokens in {:.1} s, {rate:.1} tok/s together | {}",
        finished.len(),
        elapsed.as_secs_f64(),
        kv_line(&finished.iter().map(|one| one.report).sum()),
    )
}

fn kv_line(report: &KvReport) -> String {
    format!(
        "KV entries {} logical, {} live ({:.1} %) | KV bytes {} live, {} held, {} if dense",
        report.logical_entries,
        report.live_entries,
        100.0 * report.keep_ratio(),
        human(report.live_bytes),
        human(report.held_bytes),
        human(report.dense_bytes),
    )
}

/// Tokens per second of the two phases; none where a phase was too short to have a rate. The first generated
/// token belongs to the prefill, so decoding counts one less.
fn rates(prompt_tokens: usize, completion_tokens: usize, timings: &Timings) -> (Option<f64>, Option<f64>) {
    let rate = |tokens: usize, time: Duration| {
        (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
    };
    (rate(prompt_tokens, timings.prefill), rate(completion_tokens.saturating_sub(1), timings.decode))
}
