//! Gates of KV heads, learned.

use anyhow::{Result, bail};
use dropcap_eval::{Progress, RecallKind, Subject};
use dropcap_policy::Floors;
use dropcap_train::head_gates::{GateLearning, GateSample, GateStep, learn_head_gates};
use serde_json::{Value, json};

use super::{Arguments, length, needles};
use crate::eval::bar::Bar;
use crate::loading::Found;
use crate::progress::note;

/// Steps where none are asked for.
const STEPS: usize = 200;
/// The original's learning rate and weight of the mean gate.
const LEARNING_RATE: f32 = 0.02;
const PENALTY: f64 = 0.05;

/// The gate of each KV head as its one trial, `[L][g][1]`.
pub fn learn(
    arguments: &Arguments,
    subject: &Subject,
    found: &Found,
    made: &mut Value,
    bar: &mut Bar,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let (length, near) = (length(arguments, subject), arguments.sinks.saturating_add(arguments.recent));
    if length <= near {
        bail!(
            "texts of {length} tokens lie within --sinks {} and --recent {}, so gates would have nothing to lose: ask for a longer --length or fewer of those",
            arguments.sinks,
            arguments.recent
        );
    }
    if found.checkpoint.adapter().is_some() {
        bail!(
            "gates are learned over a model as it is stored: merge the adapter into it first (`dropcap merge`)"
        );
    }
    // Two sentences are asked about, behind each other.
    let task = needles(arguments, subject, RecallKind::SecondQuestion, arguments.generated.seed)?;
    let samples: Vec<GateSample> =
        task.answered(subject)?.into_iter().map(|(ids, counts)| GateSample { ids, counts }).collect();
    let steps = arguments.steps.unwrap_or(STEPS);
    // Fit: no text is longer than a model's positions.
    let window = Floors { sinks: arguments.sinks as u32, recent: arguments.recent as u32 };
    let learning = GateLearning { steps, learning_rate: LEARNING_RATE, penalty: PENALTY, window };
    bar.begin("learning gates", "", steps, 0);
    let mut last: Option<GateStep> = None;
    let gates = learn_head_gates(&subject.team, &found.checkpoint, &samples, learning, &mut |step| {
        last = Some(step);
        bar.advance();
    })?;
    if let Some(GateStep { distance, mean, .. }) = last {
        note(&format!("mean gate {mean:.3}, squared distance of the last hidden states {distance:.2e}"));
        made["distance"] = json!(distance);
    }
    made["steps"] = json!(steps);
    made["sinks"] = json!(arguments.sinks);
    made["recent"] = json!(arguments.recent);
    Ok(gates.into_iter().map(|gates| gates.into_iter().map(|gate| vec![gate]).collect()).collect())
}
