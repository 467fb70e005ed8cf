//! The sections that every run has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choices::Decay;
use super::select::Select;
use crate::schedule::LearningRate;

/// Tokens of a sequence where the model has more positions.
pub(super) const DEFAULT_TOKENS: usize = 1024;

/// The texts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Files to train on.
    pub train: Vec<PathBuf>,
    /// Held-out files.
    pub valid: Vec<PathBuf>,
    /// The folder of token shards; see [`super::Config::cache`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Which examples are learned from; all without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    /// The scores that a coreset is chosen by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<PathBuf>,
}

/// How large a step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Sequences of a step, b.
    pub sequences: usize,
    /// Tokens of a sequence, t; see [`super::Config::sequence_tokens`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Sequences that are computed at once; gradients are summed over the rest.
    pub micro_sequences: usize,
}

/// AdamW and its rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// The highest learning rate of the model's weights.
    pub learning_rate: f64,
    /// That of the gates' weights.
    pub gate_learning_rate: f64,
    /// The decays of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The norm that gradients are clipped to; 0 does not clip.
    pub clip: f64,
    /// Steps over which the rate rises.
    pub warmup: u64,
    /// What the rate does then.
    pub schedule: Decay,
    /// The share of the rate that is left at the end of a decay.
    pub floor: f64,
}

impl Optimizer {
    /// The rate of the model's weights by step, in a run of `steps` steps.
    pub fn learning_rate(&self, steps: u64) -> LearningRate {
        let (peak, decay) = (self.learning_rate, self.schedule == Decay::Cosine);
        LearningRate { peak, warmup: self.warmup, decay, floor: self.floor, steps }
    }

    /// The rate of the gates' weights by step.
    pub fn gate_learning_rate(&self, steps: u64) -> LearningRate {
        LearningRate { peak: self.gate_learning_rate, ..self.learning_rate(steps) }
    }
}

/// Saved states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps between two states.
    pub every: u64,
    /// States that are kept.
    pub keep: usize,
    /// Whether activations are computed again in the backward pass instead of kept.
    pub activations: bool,
}

/// Evaluation of the hard policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluate {
    /// Steps between two evaluations.
    pub every: u64,
    /// Windows of held-out text.
    pub windows: usize,
}

/// When a run has gone wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watchdog {
    /// Steps in a row whose loss or gradients are not finite that are skipped before the run stops.
    pub skip_steps: u64,
    /// A layer that keeps less than this share counts as collapsed.
    pub keep_below: f64,
    /// A layer that keeps more than this share counts as one that forgets nothing.
    pub keep_above: f64,
    /// Steps in a row after which a layer outside of these bounds is warned of.
    pub patience: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self { sequences: 16, tokens: None, micro_sequences: 1 }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 100, keep: 2, activations: false }
    }
}

impl Default for Evaluate {
    fn default() -> Self {
        Self { every: 100, windows: 16 }
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { skip_steps: 5, keep_below: 0.005, keep_above: 0.995, patience: 100 }
    }
}
