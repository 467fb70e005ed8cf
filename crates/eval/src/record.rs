//! What is known of one example under one method: the line of the log from which every number is computed.

use dropcap_cache::KvReport;
use serde::{Deserialize, Serialize};

/// One example of one task under one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The task, as the tables name it.
    pub task: String,
    /// The method's spec.
    pub method: String,
    /// Number of the example in its task, from 0.
    pub example: usize,
    /// What came out.
    pub outcome: Outcome,
}

/// What one example gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A window of a text.
    Window(Window),
    /// Continuations that were scored.
    Likelihood(Likelihood),
    /// Questions that were answered.
    Answers(Answers),
    /// An example that does not fit into the model, and was left out.
    TooLong {
        /// Positions that it takes.
        tokens: usize,
    },
    /// An example with a continuation that the tokenizer gives no token of its own, and so nothing to score; left out.
    NoToken {
        /// The first such choice, from 0.
        choice: usize,
    },
}

/// What was held, and what would have been.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The share of entries kept.
    pub keep: f64,
    /// Bytes of the pages that were held at the end.
    pub held_bytes: u64,
    /// Bytes of the keys and values of a cache without pruning.
    pub dense_bytes: u64,
}

impl Memory {
    /// Of a cache at the end of its text.
    pub(crate) fn at_end(report: &KvReport) -> Self {
        Self { keep: report.keep_ratio(), held_bytes: report.held_bytes, dense_bytes: report.dense_bytes }
    }
}

/// A window of a text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Window {
    /// Number of the document in the file, from 0.
    pub document: usize,
    /// The position in the window of the first prediction that counts.
    pub first: usize,
    /// Bytes of the text that is predicted.
    pub bytes: usize,
    /// Surprise of each token that is predicted, in nats.
    pub nats: Vec<f32>,
    /// KL(dense || pruned) at each of them, in nats; none for the dense run itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divergence: Vec<f32>,
    /// How many of them have the same likeliest token as in the dense run.
    pub same_top: usize,
    /// Keep ratio of each lane (layer, or KV head) of each layer.
    pub keep_by_lane: Vec<Vec<f64>>,
    /// The mean of those, and the bytes at the window's end.
    pub memory: Memory,
}

/// Continuations that were scored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Likelihood {
    /// The right one.
    pub gold: usize,
    /// The sum of the log-probabilities of each one's tokens.
    pub log_likelihood: Vec<f64>,
    /// Characters of each choice.
    pub characters: Vec<usize>,
    /// Whether each one's tokens all were the likeliest in their places.
    pub greedy: Vec<bool>,
    /// Over all of them.
    pub memory: Memory,
}

/// Questions that were answered, in their order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answers {
    /// Where in the context the first answer stands, from 0 to 1.
    pub depth: f64,
    /// Tokens of the context and the first question.
    pub tokens: usize,
    /// The questions.
    pub turns: Vec<Answer>,
    /// After the last answer.
    pub memory: Memory,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// What was expected.
    pub expected: String,
    /// What the model wrote.
    pub written: String,
    /// The share of the expected words that were written in their places.
    pub share: f64,
}

impl Answer {
    /// Whether all of it was right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.share >= 1.0
    }
}
