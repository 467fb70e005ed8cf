//! What entries are worth: the part of a method that differs from paper to paper.

use std::fmt::Debug;

use dropcap_policy::{PolicyError, Score, Span};

use super::Layer;

/// What of attention's sums a scorer asks for ([`Scorer::looks`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    /// Nothing, or it computes them itself.
    Nowhere,
    /// What all queries gave, added to the only statistic: f32 `[1, e]`.
    Adds,
    /// What the last `window` queries gave: f32 `[group, e]` if query heads stay `apart`, otherwise `[1, e]`.
    Last {
        /// Queries that count.
        window: usize,
        /// Whether query heads that share a KV head have a row each.
        apart: bool,
    },
}

/// Says what the entries of a layer are worth when some must go; the larger stays, and NaN is worth least.
pub(crate) trait Scorer: Debug + Send + Sync {
    /// Whether every KV head has scores of its own; otherwise one row is for all heads, and all keep the same tokens.
    fn per_head(&self) -> bool {
        true
    }

    /// Last tokens of a prompt whose queries it reads: they must come in one step. `usize::MAX` is all of them.
    fn together(&self) -> usize {
        0
    }

    /// Tokens of a prompt after which some go already, at every multiple of them; 0 where the prompt is read densely.
    fn stride(&self) -> u32 {
        0
    }

    /// Whether entries must come in the order of their positions; one that looks at each alone spares the sorting.
    fn ordered(&self) -> bool {
        true
    }

    /// What of the attention behind some tokens is to be computed for all sequences of a step together; `acts` says whether some of
    /// their entries go. [`Layer::taken`] then has it.
    fn looks(&self, span: &Span, acts: bool) -> Looks {
        let _ = (span, acts);
        Looks::Nowhere
    }

    /// f32 numbers s that it sums up about every entry of every lane, 0 for a new one.
    fn statistics(&self) -> usize {
        0
    }

    /// Brings the statistics `[e, s]` of each lane up to date after the queries of a step; [`Layer`] shows all entries, as they
    /// lie.
    ///
    /// # Errors
    /// A failed operation.
    fn observe(&self, layer: &Layer<'_>, statistics: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        let _ = (layer, statistics);
        Ok(())
    }

    /// Whether scores depend on how many are to stay ([`Layer::kept`]).
    fn draws(&self) -> bool {
        false
    }

    /// Entries of each head that stay beside the budget.
    fn beside(&self, layer: &Layer<'_>) -> usize {
        let _ = layer;
        0
    }

    /// What becomes of an entry's statistics `[s]` when it was there as some went; asked of those with a [`stride`](Self::stride).
    fn settle(&self, statistics: &mut [f32]) {
        let _ = statistics;
    }

    /// The same scores as data, for a device; none where they exist only as code.
    fn data(&self) -> Option<Score> {
        None
    }

    /// The scores: f32 `[g][e]` of the entries that [`Layer`] shows of each head, or `[1][e]` of those of any head
    /// ([`Layer::all_positions`]).
    ///
    /// # Errors
    /// A failed operation.
    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError>;
}
