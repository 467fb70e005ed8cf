//! Who wants to know how a run goes.

use std::path::PathBuf;
use std::time::Duration;

use crate::data::Prepared;

/// One step that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Stepped {
    /// Steps taken, this one included.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean loss of the step's tokens, in nats.
    pub loss: f64,
    /// The share of entries that the hard policy keeps; `None` without gates.
    pub keep: Option<f64>,
    /// The learning rate.
    pub learning_rate: f64,
    /// The norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// How long it took.
    pub took: Duration,
}

/// One evaluation of the hard policy on held-out text.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// Steps taken.
    pub step: u64,
    /// Perplexity per token, pruned where there are gates.
    pub perplexity: f64,
    /// Perplexity of the same weights without pruning, where it was measured.
    pub dense_perplexity: Option<f64>,
    /// The share of entries kept, per layer; empty without gates.
    pub keep: Vec<f64>,
}

/// One state that was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Steps taken.
    pub step: u64,
    /// The folder.
    pub folder: PathBuf,
}

/// Listens to a run; every call is made between two steps, by the thread that trains.
pub trait Report {
    /// A source is turned into tokens, or was found to be.
    fn prepared(&mut self, _: &Prepared<'_>) {}
    /// Something that takes a while begins.
    fn told(&mut self, _: &str) {}
    /// A step was taken.
    fn stepped(&mut self, _: &Stepped) {}
    /// The policy was evaluated.
    fn evaluated(&mut self, _: &Evaluated) {}
    /// A state was saved.
    fn saved(&mut self, _: &Saved) {}
    /// Something that a person should know and that is no error.
    fn warned(&mut self, _: &str) {}
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Report for Quiet {}
