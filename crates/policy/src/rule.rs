//! What a policy does, as data: for a device that decides without calling back.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::Floors;

/// One thing that a policy does in every layer. All its rules act on every step in their order; each lowers lifetimes
/// as [`crate::Lanes::lower`] does, under its own floors.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// What it may not take away.
    pub floors: Floors,
}

/// The kinds of rules that a device knows.
#[derive(Debug, Clone)]
pub enum Action {
    /// A new entry at position p ends at `p + recent`, unless `p < sinks`.
    Window {
        /// First positions that the rule leaves alone.
        sinks: u32,
        /// Queries that see an entry, its own included.
        recent: u32,
    },
    /// A new entry at position p ends at `p + 1`, unless `floor((p + 1) keep) > floor(p keep)`, in f64.
    Share {
        /// Share of the entries that stays.
        keep: f64,
    },
    /// Every query votes on the live entries before it with learned gates.
    Vote(VoteRule),
    /// An entry that ended in the layer below, by this step's last query, ends likewise. Needs one lane per layer.
    Inherit,
    /// When a prompt ends after n tokens, entries at the positions given end at n, and n - 1 decided so.
    PromptCut(PromptCut),
}

/// The gates of a vote.
#[derive(Clone)]
pub struct VoteRule {
    /// Gate width r of each gate head.
    pub width: usize,
    /// Gate heads G: 1, or one per lane.
    pub heads: usize,
    /// One per layer.
    pub layers: Vec<GateRows>,
    /// Whether a refusal ends the entry; otherwise the votes are computed and dropped, for benchmarks.
    pub decides: bool,
}

/// The gates of one layer.
#[derive(Debug, Clone)]
pub struct GateRows {
    /// W_q of all gate heads above W_k of all gate heads: row-major f32 `[2 G r, c]`.
    pub both: Vec<f32>,
    /// What is added to every score, `[G]`.
    pub bias: Vec<f32>,
}

/// Which positions a prompt of n tokens loses when it ends.
#[derive(Clone)]
pub struct PromptCut(pub Arc<dyn Fn(u32) -> Range<u32> + Send + Sync>);

impl fmt::Debug for VoteRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, heads, decides, .. } = self;
        write!(out, "VoteRule {{ width: {width}, heads: {heads}, decides: {decides}, .. }}")
    }
}

impl fmt::Debug for PromptCut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PromptCut(..)")
    }
}

impl Rule {
    /// A rule without floors of its own: a token sees itself, nothing more is promised.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { action, floors: Floors::default() }
    }

    /// The same rule under higher floors.
    #[must_use]
    pub fn under(self, floors: Floors) -> Self {
        Self { floors: self.floors.and(floors), ..self }
    }
}
