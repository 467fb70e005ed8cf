//! Causal attention with learned gates, for training: forward and backward, without any `[T, T]` tensor.
//!
//! Every sequence of the batch has the same number of tokens T. A gate is a pair of small vectors per token: query
//! gate n and key gate j give the raw score `raw[n, j] = q_n . k_j / sqrt(r) + bias`, by which token n votes on keeping
//! token j. Under the soft rule a vote is a factor of what later queries see of the token; under the hard rule, which is
//! that of inference, the first refusal ends the token's life.
//!
//! How memory stays linear. The votes are computed three times: once to follow each key's running value (the sum of
//! the log votes, or the smallest score so far), of which one number per key and block of queries is kept, the trail;
//! then by the attention (where one task owns all queries of soft gates, these two are one); then by the backward pass,
//! which owns a panel of 32 keys and walks the queries from the last to the first, so that the sums over later queries
//! that gradients are made of need one accumulator per key. A block is a 32nd of the tokens (and at least 32), so the
//! trail is at most 16 numbers per token and gate.
//!
//! Bits: sums are cut by the shape alone and partial sums are added in a fixed order, so that the number of threads
//! does not show.
//!
//! Sources: the soft rule is that of Anagnostidis et al. 2023, arXiv 2305.15805; the order of the passes is that of
//! FlashAttention-2 (Dao 2023, arXiv 2307.08691).

mod attend;
mod backward;
mod check;
mod combine;
pub(crate) mod cuda;
mod forward;
mod gate;
mod pack;
mod plan;
mod product;
#[cfg(test)]
mod reference;
mod saved;
mod unit;
mod votes;

use crate::alpha_sigmoid::AlphaSigmoid;
use crate::attention::AttentionShape;

pub use backward::{backward, backward_with};
pub use cuda::{
    Attended, AttendedBack, DeviceCurve, DevicePressure, DeviceRule, DeviceVoter, DeviceVoterGradient,
    GateScratch, GateTrail, TrainAttention,
};
pub use forward::{forward, forward_with};
pub use saved::Saved;

/// The shape of one layer's attention over a batch of equally long sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatedShape {
    /// Sequences b.
    pub sequences: usize,
    /// Tokens T of every sequence.
    pub tokens: usize,
    /// Heads and scale.
    pub attention: AttentionShape,
    /// Gate heads G: one for the layer, or one for each KV head.
    pub gate_heads: usize,
    /// Width r of a gate head.
    pub gate_width: usize,
    /// Query k sees key j only if `k - j` is below it.
    pub sliding_window: Option<u32>,
    /// Keys `j < sinks` are always visible, whatever the votes.
    pub sinks: u32,
    /// Keys with `k - j < recent` are always visible to query k; at least 1, as a token always sees itself. A vote
    /// that is cast meanwhile counts, but acts when the key leaves this range.
    pub recent: u32,
}

/// What votes do.
#[derive(Debug, Clone, Copy)]
pub enum Rule<'a> {
    /// `log I[k, j] = sum over n = j+1..=k of log vote[n, j]`, added to the attention's scores.
    Soft {
        /// `vote = curve(raw)`.
        curve: &'a AlphaSigmoid,
    },
    /// Query k sees key j iff every `raw[n, j]` for n = j+1..=k is positive; the backward pass uses
    /// `sigmoid(m) sigmoid(-m)` of the smallest one, m, in place of the step's derivative.
    Hard {
        /// `[b, G, T]`, added to every raw score of a key.
        noise: Option<&'a [f32]>,
    },
}

/// The gates of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Voter<'a> {
    /// `[b * T, G * r]`.
    pub query_gates: &'a [f32],
    /// `[b * T, G * r]`.
    pub key_gates: &'a [f32],
    /// `[G]`.
    pub bias: &'a [f32],
}

/// Where the gradients of one [`Voter`] are added to.
#[derive(Debug)]
pub struct VoterGradient<'a> {
    /// `[b * T, G * r]`.
    pub query_gates: &'a mut [f32],
    /// `[b * T, G * r]`.
    pub key_gates: &'a mut [f32],
    /// `[G]`.
    pub bias: &'a mut [f64],
}

/// What is added to the gradient of the loss so that gates do refuse.
///
/// It acts on pairs that votes decide: j < k, not a sink, not recent, inside the sliding window.
#[derive(Debug, Clone, Copy)]
pub enum Pressure<'a> {
    /// Adds `per_pair * I[k, j]`, of the own voter, to `d loss / d log I[k, j]`: the gradient of `per_pair * sum I`.
    Soft {
        /// Factor of every pair.
        per_pair: f32,
        /// Whether the pairs of the last query are in the sum.
        last_query: bool,
    },
    /// Adds `lambda` to the worth of every entry, per gate head `[G]`.
    Hard {
        /// Negative values ask for more entries, positive ones for fewer.
        lambda: &'a [f32],
    },
}

/// How much the entries at the threshold are worth, per gate head: what a controller of the keep ratio reads.
///
/// Over the pairs that votes decide, with m the smallest score, `phi = sigmoid(m) sigmoid(-m)` (0 below m = -8) and
/// `worth` the change of the loss if the entry were there rather than not. Zero under the soft rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Margin {
    /// `[G]`, sum of `phi * worth`.
    pub worth: Vec<f64>,
    /// `[G]`, sum of `phi`.
    pub weight: Vec<f64>,
}

#[cfg(test)]
mod tests;
