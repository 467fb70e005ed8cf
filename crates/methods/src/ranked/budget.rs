//! How many entries stay, and how heads and layers share them.

use dropcap_policy::{Budgets, Cadence, Floors, Peak, PromptBudget, RankingBudget, TextSize};

use super::keep::{best, best_of_all};
use crate::budgets::pyramid_share;

/// How much of a text stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Budget {
    /// Entries of a lane, on average.
    pub(crate) amount: PromptBudget,
    /// What stays whatever it is worth; it counts.
    pub(crate) floors: Floors,
    /// How the KV heads of a layer share their budgets.
    pub(crate) heads: Heads,
    /// How layers share theirs.
    pub(crate) layers: Layers,
}

/// How the KV heads of a layer share their budgets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Heads {
    /// Each has the same.
    Alike,
    /// Each keeps its best `floor` of its budget, and the rest goes to the best entries of all heads.
    Adaptive {
        /// A share in [0, 1].
        floor: f64,
    },
}

/// How layers share their budgets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Layers {
    /// Each has the same.
    Alike,
    /// Lower layers have more, the steeper the larger `beta`.
    Pyramid {
        /// The last layer has a budget of `1 / beta`.
        beta: f64,
    },
}

impl RankingBudget for Budget {
    /// As [`RankingBudget::kept`]; not below the floors.
    fn kept(&self, next: u32, own: Option<u32>, layer: usize, layers: usize) -> u32 {
        let amount = self.amount.within(next, self.floors.sinks, own);
        let kept = match self.layers {
            Layers::Alike => amount.kept(next, self.floors.sinks),
            Layers::Pyramid { beta } => {
                let keep = match amount {
                    PromptBudget::Share(share) => share,
                    PromptBudget::Tokens(tokens) => f64::from(tokens) / f64::from(next.max(1)),
                };
                let window = self.floors.recent as usize;
                let kept = pyramid_share(layer, layers, next as usize, keep.min(1.0), window, beta);
                u32::try_from(kept).unwrap_or(u32::MAX)
            }
        };
        kept.max(self.floors.sinks.saturating_add(self.floors.recent)).clamp(1, next.max(1))
    }
}

impl Budget {
    /// The budgets that a text of `tokens` tokens may set itself; an average where heads or layers share them.
    pub(crate) fn budgets(&self, tokens: usize) -> Budgets {
        let all = u32::try_from(tokens).unwrap_or(u32::MAX);
        let Floors { sinks, recent } = self.floors;
        let kept = self.amount.kept(all, sinks).max(sinks.saturating_add(recent));
        // One more than the sinks is the least that any amount keeps.
        Budgets::new(Floors { sinks, recent: recent.max(1) }, kept.clamp(1, all.max(1)))
    }

    /// Which entries stay, of each row of scores: `kept` on average, under the floors at the query `next`.
    pub(crate) fn share_out(
        &self,
        scores: &[Vec<f32>],
        positions: &[&[u32]],
        next: u32,
        kept: usize,
    ) -> Vec<Vec<bool>> {
        match self.heads {
            Heads::Adaptive { floor } => best_of_all(scores, positions, next, self.floors, floor, kept),
            Heads::Alike => {
                let rows = scores.iter().zip(positions);
                rows.map(|(scores, positions)| best(scores, positions, next, self.floors, kept)).collect()
            }
        }
    }

    /// How full a lane gets ([`dropcap_policy::EvictionPolicy::peak`]).
    pub(crate) fn peak(&self, cadence: Cadence, TextSize { prompt, tokens, budget }: TextSize) -> Peak {
        let behind = tokens.saturating_sub(prompt);
        if behind == 0 {
            return Peak::exactly(tokens);
        }
        if self.heads != Heads::Alike || self.layers != Layers::Alike {
            // One lane may have what others spare.
            return Peak { least: prompt, most: tokens };
        }
        let kept = |tokens: usize| {
            let next = u32::try_from(tokens).unwrap_or(u32::MAX);
            self.kept(next, budget, 0, 1) as usize
        };
        let grown = match cadence {
            Cadence::EveryQuery => kept(tokens - 1).min(tokens - 1) + 1,
            Cadence::Prompt | Cadence::Never => kept(prompt).min(prompt) + behind,
        };
        Peak::exactly(grown.max(prompt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_what_is_kept_as_kvpress_counts_it() {
        let kept = |share, n| {
            let amount = PromptBudget::Share(share);
            Budget { amount, floors: Floors::default(), heads: Heads::Alike, layers: Layers::Alike }
                .kept(n, None, 0, 1)
        };
        assert_eq!([kept(0.2, 1024), kept(0.5, 1024), kept(0.2, 97), kept(0.75, 97)], [204, 512, 19, 72]);
        assert_eq!([kept(0.01, 3), kept(1.0, 7)], [1, 7]);
    }
}
