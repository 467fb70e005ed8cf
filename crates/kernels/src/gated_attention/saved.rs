//! What the backward pass needs from the forward pass.

use super::GatedShape;
use super::plan::Plan;

/// The forward pass's results that [`backward`](super::backward) reads; its memory is used again by the next forward
/// pass. Its size grows with T, not with its square.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// What it belongs to, and the number of voters.
    pub(super) of: Option<(GatedShape, usize)>,
    /// `[b, h, T]`.
    pub(super) lse: Vec<f32>,
    /// `[b, voters, G]` trails.
    pub(super) trail: Vec<f32>,
    /// `[b, G, T]`.
    pub(super) expires_at: Vec<u32>,
    /// Per sequence, gate head and panel: the sum of gates without and of the last query.
    pub(super) gates: Vec<[f64; 2]>,
}

impl Saved {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The logarithm of the sum of exponentials of every query, `[b, h, T]`.
    pub fn log_sum_exp(&self) -> &[f32] {
        &self.lse
    }

    /// The first query that does not see key j for the own votes' sake, or `u32::MAX`, u32 `[b, G, T]`.
    ///
    /// That is the first n with `raw[n, j] <= 0` (noise included under the hard rule), or `j + recent` if that is
    /// later; sinks never expire, and the sliding window is not part of it. Empty without voters.
    pub fn expires_at(&self) -> &[u32] {
        &self.expires_at
    }

    /// The own voter's I[k, j], summed over sequences, gate heads and pairs j <= k inside the sliding window, with 1
    /// for pairs that votes do not decide. Soft rule only; else 0.
    ///
    /// The published loss leaves the pairs of the last query out, k = T - 1.
    pub fn sum_of_gates(&self, last_query: bool) -> f64 {
        self.gates.iter().map(|[before, last]| before + if last_query { *last } else { 0.0 }).sum()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        (self.lse.capacity() + self.trail.capacity() + self.expires_at.capacity()) * 4
            + self.gates.capacity() * size_of::<[f64; 2]>()
    }

    /// Makes room for a forward pass.
    pub(super) fn prepare(&mut self, plan: &Plan) {
        let (b, tokens) = (plan.shape.sequences, plan.tokens());
        let gates = if plan.voters == 0 { 0 } else { b * plan.groups };
        self.of = None;
        self.lse.resize(b * plan.shape.attention.query_heads * tokens, 0.0);
        self.trail.resize(gates * plan.voters * plan.trail(), 0.0);
        self.expires_at.resize(gates * tokens, 0);
        self.gates.resize(gates * plan.panels, [0.0; 2]);
    }
}
