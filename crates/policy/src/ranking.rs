//! What a policy that ranks entries does after attention, as data: for a backend that does it on its device.

use std::fmt::Debug;
use std::sync::Arc;

use dropcap_kernels::ranking::Score;

use crate::{Cadence, Floors};

/// A budget of the best entries stays when a prompt ends, or every so many tokens from there on; what goes has been seen by the
/// query that ends it.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// What an entry is worth.
    pub score: Score,
    /// Whether every KV head has scores of its own; otherwise all heads of a layer keep the same tokens.
    pub per_head: bool,
    /// [`Cadence::Prompt`] or [`Cadence::Every`].
    pub cadence: Cadence,
    /// Tokens of a prompt after which some go already, at every multiple of them; 0 where they wait for its end.
    pub stride: u32,
    /// How many stay.
    pub budget: Arc<dyn RankingBudget>,
    /// The share of its budget that each head has for itself, where the rest goes to the best entries of all heads; otherwise
    /// all heads have the same.
    pub share: Option<f64>,
    /// What stays whatever it is worth, and counts.
    pub counted: Floors,
    /// What may not be taken away, beside the budget.
    pub floors: Floors,
}

/// How many entries stay.
pub trait RankingBudget: Debug + Send + Sync {
    /// Entries that stay of each head of a layer, on average, where the text has `next` tokens and `own` is the budget that it set
    /// itself ([`crate::Span::budget`]); at least 1.
    fn kept(&self, next: u32, own: Option<u32>, layer: usize, layers: usize) -> u32;

    /// Entries that stay of each lane, `[layers][heads]`, where lanes do not share. `similarities` `[layers]` say how little each
    /// layer changes, as [`crate::Ended::similarities`] does, where [`crate::Needs::layers`] asks for it.
    fn kept_of_heads(
        &self,
        next: u32,
        own: Option<u32>,
        similarities: &[f64],
        layers: usize,
        heads: usize,
    ) -> Vec<u32>;
}

impl Ranking {
    /// The same ranking under higher floors.
    #[must_use]
    pub fn under(self, floors: Floors) -> Self {
        Self { floors: self.floors.and(floors), ..self }
    }
}
