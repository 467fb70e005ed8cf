//! The table: Markdown for people, CSV and JSON for machines.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use super::machine::Machine;
use crate::size::human;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table.
    Md,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object.
    Json,
}

/// One measured line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Model or shape.
    pub model: String,
    /// How weights are held.
    pub dtype: String,
    /// How keys and values are held.
    pub kv_dtype: String,
    /// The method.
    pub method: String,
    /// `pp512` or `tg16`.
    pub test: String,
    /// Tokens already in the cache of each sequence.
    pub depth: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Timed repeats.
    pub repeats: usize,
    /// Tokens of all sequences per second, mean over the repeats.
    pub tokens_per_second: f64,
    /// Standard deviation of the same.
    pub tokens_per_second_deviation: f64,
    /// Best repeat: milliseconds per step (decode) or for the whole prompt (prefill).
    pub best_milliseconds: f64,
    /// The same for every timed repeat.
    pub milliseconds: Vec<f64>,
    /// Live bytes of all caches at the end of a repeat.
    pub live_bytes: u64,
    /// Bytes that pages hold at that time.
    pub held_bytes: u64,
    /// Bytes of weights and live cache that one decode step reads; none for prefill.
    pub bytes_per_step: Option<u64>,
    /// Those bytes per second, as a share of the plain read loop.
    pub bandwidth_share: Option<f64>,
    /// Best time of method `none` on the same test over this one's.
    pub speed_up: Option<f64>,
    /// The same ratio for the bytes: what a run limited by bandwidth alone would reach.
    pub speed_up_limit: Option<f64>,
}

/// Prints all rows.
pub fn print(format: Format, machine: &Machine, rows: &[Row]) -> Result<()> {
    let mut out = crate::terminal::stdout();
    match format {
        Format::Json => {
            let object = json!({"machine": machine, "rows": rows});
            writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
        }
        Format::Csv => csv(&mut out, machine, rows)?,
        Format::Md => markdown(&mut out, machine, rows)?,
    }
    Ok(())
}

fn markdown(out: &mut impl Write, machine: &Machine, rows: &[Row]) -> Result<()> {
    let loaded = machine.load_seconds.map_or(String::new(), |seconds| format!(", loaded in {seconds:.2} s"));
    writeln!(
        out,
        "{}, {} threads, plain read {:.1} GB/s, commit {}{loaded}\n",
        machine.processor,
        machine.threads,
        machine.read_bytes_per_second / 1e9,
        machine.commit
    )?;
    writeln!(
        out,
        "| model | weights / KV | method | test | depth | batch | tok/s | best ms | KV live | of read bandwidth | x dense | limit |"
    )?;
    writeln!(out, "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    let dash = || "-".to_owned();
    for row in rows {
        writeln!(
            out,
            "| {} | {} / {} | {} | {} | {} | {} | {:.1} ± {:.1} | {:.2} | {} | {} | {} | {} |",
            row.model,
            row.dtype,
            row.kv_dtype,
            row.method,
            row.test,
            row.depth,
            row.batch,
            row.tokens_per_second,
            row.tokens_per_second_deviation,
            row.best_milliseconds,
            human(row.live_bytes),
            row.bandwidth_share.map_or_else(dash, |share| format!("{:.0} %", 100.0 * share)),
            row.speed_up.map_or_else(dash, |ratio| format!("{ratio:.2}")),
            row.speed_up_limit.map_or_else(dash, |ratio| format!("{ratio:.2}")),
        )?;
    }
    Ok(())
}

fn csv(out: &mut impl Write, machine: &Machine, rows: &[Row]) -> Result<()> {
    for (number, row) in rows.iter().enumerate() {
        let mut value = serde_json::to_value(row)?;
        if let (Some(object), serde_json::Value::Object(rest)) =
            (value.as_object_mut(), serde_json::to_value(machine)?)
        {
            object.extend(rest);
            if number == 0 {
                writeln!(out, "{}", object.keys().cloned().collect::<Vec<_>>().join(","))?;
            }
            let cells = object.values().map(|value| match value {
                serde_json::Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
                serde_json::Value::Null => String::new(),
                serde_json::Value::Array(items) => {
                    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                }
                other => other.to_string(),
            });
            writeln!(out, "{}", cells.collect::<Vec<_>>().join(","))?;
        }
    }
    Ok(())
}
