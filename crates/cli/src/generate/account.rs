//! What a run cost: the closing line for people, the object for machines.

use std::time::Duration;

use dropcap_cache::KvReport;
use dropcap_engine::{Finished, Timings};
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
    json!({
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.token_ids.len(),
        "token_ids": finished.token_ids,
        "text": text,
        "finish_reason": finished.reason.as_str(),
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        "kv": kv_json(&finished.report),
    })
}

/// One line for people over everything that ran.
pub fn line(prompt_tokens: usize, completion_tokens: usize, timings: &Timings, report: &KvReport) -> String {
    let (prefill, decode) = rates(prompt_tokens, completion_tokens, timings);
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    format!(
        "{prompt_tokens} prompt + {completion_tokens} completion tokens | prefill {} tok/s, decode {} tok/s | KV entries {} logical, {} live ({:.1} %) | KV bytes {} live, {} held, {} if dense",
        rate(prefill),
        rate(decode),
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
