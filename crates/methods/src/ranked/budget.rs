//! How many entries stay, and how heads and layers share them.

use std::sync::Arc;

use dropcap_policy::{Budgets, Cadence, Floors, Peak, PromptBudget, RankingBudget, TextSize};

use super::keep::{best, best_of_all, best_weighed};
use crate::budgets::{head_capacities, pyramid_share, pyramid_tokens, squeeze};

/// How much of a text stays.
#[derive(Debug, Clone, PartialEq)]
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heads {
    /// Each has the same.
    Alike,
    /// Each keeps its best `floor` of its budget, and the rest goes to the best entries of all heads.
    Adaptive {
        /// A share in [0, 1].
        floor: f64,
    },
    /// Each has the share `floor` of its budget, and the rest by how many of the best entries of all heads are its own, heads
    /// weighed by how much they focus.
    Weighed {
        /// A share in [0, 1].
        floor: f64,
    },
    /// Each has what a table says, of all layers.
    Table(Arc<HeadTable>),
}

/// How much each head looks far back, and how much that counts.
#[derive(Debug, PartialEq)]
pub(crate) struct HeadTable {
    /// Scores `[L][heads]`: query heads or KV heads.
    pub(crate) scores: Vec<Vec<f64>>,
    /// KV heads g.
    pub(crate) kv_heads: usize,
    /// Share of a budget that is shared out by score.
    pub(crate) shared: f64,
}

/// How layers share their budgets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Layers {
    /// Each has the same.
    Alike,
    /// Lower layers have more, the steeper the larger `beta`.
    Pyramid {
        /// The last layer has a budget of `1 / beta`.
        beta: u32,
    },
    /// Those that change the residual stream least have `least` times the mean, and the others what is left.
    Squeezed {
        /// A share in [0, 1].
        least: f64,
    },
}

impl RankingBudget for Budget {
    /// As [`RankingBudget::kept`]; not below the floors.
    fn kept(&self, next: u32, own: Option<u32>, layer: usize, layers: usize) -> u32 {
        let amount = self.amount.within(next, self.floors.sinks, own);
        let kept = match self.layers {
            // The mean of all layers, until it is known what they change.
            Layers::Alike | Layers::Squeezed { .. } => amount.kept(next, self.floors.sinks),
            Layers::Pyramid { beta } => {
                let (tokens, window) = (next as usize, self.floors.recent as usize);
                let kept = match amount {
                    PromptBudget::Share(share) => {
                        pyramid_share(layer, layers, tokens, share, window, beta.into())
                    }
                    PromptBudget::Tokens(kept) => {
                        pyramid_tokens(layer, layers, tokens, kept as usize, window, beta as usize)
                    }
                };
                u32::try_from(kept).unwrap_or(u32::MAX)
            }
        };
        self.within_floors(kept, next)
    }

    fn kept_of_heads(
        &self,
        next: u32,
        own: Option<u32>,
        similarities: &[f64],
        layers: usize,
        heads: usize,
    ) -> Vec<u32> {
        let mut all = Vec::with_capacity(layers * heads);
        let mut last: Option<(u32, Vec<Vec<usize>>)> = None;
        for layer in 0..layers {
            let kept = self.kept_knowing(next, own, (layer, layers), similarities);
            let Heads::Table(table) = &self.heads else {
                all.extend(std::iter::repeat_n(kept, heads));
                continue;
            };
            // Most often all layers have the same.
            let (_, capacities) = match last.take() {
                Some(same) if same.0 == kept => last.insert(same),
                _ => last.insert((kept, self.capacities(table, kept as usize))),
            };
            let of_layer = capacities.get(layer).map_or(&[][..], Vec::as_slice);
            let of_head =
                |head| of_layer.get(head).map_or(kept, |&count| u32::try_from(count).unwrap_or(u32::MAX));
            // The largest number means that a lane is left alone.
            all.extend((0..heads).map(|head| of_head(head).min(u32::MAX - 1)));
        }
        all
    }
}

impl Budget {
    /// Entries of each head `[L][g]` by a table, `kept` on average: what stays in any case is not shared out.
    fn capacities(&self, table: &HeadTable, kept: usize) -> Vec<Vec<usize>> {
        let fixed = (self.floors.sinks.saturating_add(self.floors.recent) as usize).min(kept);
        let mut capacities = head_capacities(&table.scores, table.kv_heads, kept - fixed, table.shared);
        capacities.iter_mut().flatten().for_each(|capacity| *capacity += fixed);
        capacities
    }

    /// As [`RankingBudget::kept`] in a layer where `similarities` `[L]` say how little each changes ([`dropcap_policy::Ended`]).
    pub(crate) fn kept_knowing(
        &self,
        next: u32,
        own: Option<u32>,
        (layer, layers): (usize, usize),
        similarities: &[f64],
    ) -> u32 {
        let Layers::Squeezed { least } = self.layers else { return self.kept(next, own, layer, layers) };
        let mean = match self.amount.within(next, self.floors.sinks, own) {
            PromptBudget::Share(share) => share * f64::from(next),
            PromptBudget::Tokens(tokens) => f64::from(tokens.min(next)),
        };
        let kept = squeeze(similarities, mean, least).get(layer).copied().unwrap_or(0);
        self.within_floors(u32::try_from(kept).unwrap_or(u32::MAX), next)
    }

    /// Entries that stay where `kept` should: not below the floors, and of a text of `next` tokens.
    fn within_floors(&self, kept: u32, next: u32) -> u32 {
        kept.max(self.floors.sinks.saturating_add(self.floors.recent)).clamp(1, next.max(1))
    }

    /// The budgets that a text of `tokens` tokens may set itself; an average where heads or layers share them.
    pub(crate) fn budgets(&self, tokens: usize) -> Budgets {
        let all = u32::try_from(tokens).unwrap_or(u32::MAX);
        let Floors { sinks, recent } = self.floors;
        let kept = self.amount.kept(all, sinks).max(sinks.saturating_add(recent));
        // One more than the sinks is the least that any amount keeps.
        Budgets::new(Floors { sinks, recent: recent.max(1) }, kept.clamp(1, all.max(1)))
    }

    /// Whether any lane of a layer has more entries than it may keep, `kept` on average.
    pub(crate) fn is_exceeded(&self, layer: usize, counts: &[usize], kept: usize) -> bool {
        let Heads::Table(table) = &self.heads else { return counts.iter().any(|&count| count > kept) };
        let capacities = self.capacities(table, kept);
        let of_layer = capacities.get(layer).map_or(&[][..], Vec::as_slice);
        let capacity = |head: usize| of_layer.get(head).copied().unwrap_or(kept);
        counts.iter().enumerate().any(|(head, &count)| count > capacity(head))
    }

    /// Which entries of a layer stay, of each row of scores: `kept` on average, under the floors at the query `next`.
    pub(crate) fn share_out(
        &self,
        layer: usize,
        scores: &[Vec<f32>],
        positions: &[&[u32]],
        next: u32,
        kept: usize,
    ) -> Vec<Vec<bool>> {
        let each = |count: &dyn Fn(usize) -> usize| {
            let rows = scores.iter().zip(positions).enumerate();
            let row = |(head, (scores, positions)): (usize, (&Vec<f32>, &&[u32]))| {
                best(scores, positions, next, self.floors, count(head))
            };
            rows.map(row).collect()
        };
        match &self.heads {
            Heads::Adaptive { floor } => best_of_all(scores, positions, next, self.floors, *floor, kept),
            Heads::Weighed { floor } => best_weighed(scores, positions, next, self.floors, *floor, kept),
            Heads::Table(table) => {
                let capacities = self.capacities(table, kept);
                let of_layer = capacities.get(layer).map_or(&[][..], Vec::as_slice);
                each(&|head| of_layer.get(head).copied().unwrap_or(kept))
            }
            Heads::Alike => each(&|_| kept),
        }
    }

    /// How full a lane gets ([`dropcap_policy::EvictionPolicy::peak`]), if what acts inside a prompt does so every `stride` tokens.
    pub(crate) fn peak(
        &self,
        cadence: Cadence,
        stride: u32,
        TextSize { prompt, tokens, budget }: TextSize,
    ) -> Peak {
        let behind = tokens.saturating_sub(prompt);
        let kept = |tokens: usize| {
            let next = u32::try_from(tokens).unwrap_or(u32::MAX);
            self.kept(next, budget, 0, 1) as usize
        };
        if stride > 0 {
            // What stays, what came between the last two looks, and what has come since.
            let most = kept(prompt).saturating_add(2 * stride as usize).min(prompt).saturating_add(behind);
            return Peak { least: tokens.min(1), most };
        }
        if behind == 0 {
            return Peak::exactly(tokens);
        }
        if self.heads != Heads::Alike || self.layers != Layers::Alike {
            // One lane may have what others spare.
            return Peak { least: prompt, most: tokens };
        }
        let grown = kept(prompt).min(prompt) + behind;
        match cadence {
            Cadence::EVERY_QUERY => Peak::exactly((kept(tokens - 1).min(tokens - 1) + 1).max(prompt)),
            // Between two looks a lane grows.
            Cadence::Every(every) => {
                let most = kept(tokens - 1).saturating_add(every as usize).min(grown).max(prompt);
                Peak { least: prompt, most }
            }
            Cadence::Prompt | Cadence::Never => Peak::exactly(grown.max(prompt)),
        }
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
    #[test]
    fn a_head_that_has_more_than_its_own_share_is_seen_though_none_has_more_than_the_mean() {
        let table = HeadTable { scores: vec![vec![1.0, 0.0]], kv_heads: 2, shared: 1.0 };
        let (floors, layers) = (Floors { sinks: 2, recent: 0 }, Layers::Alike);
        let budget =
            Budget { amount: PromptBudget::Tokens(10), floors, heads: Heads::Table(Arc::new(table)), layers };
        let capacities = budget.kept_of_heads(100, None, &[], 1, 2);
        assert_eq!(capacities, [18, 2]);
        // As behind a window that ends what the first head would keep.
        assert!(budget.is_exceeded(0, &[9, 3], 10) && budget.is_exceeded(0, &[19, 0], 10));
        assert!(!budget.is_exceeded(0, &[18, 2], 10) && !budget.is_exceeded(0, &[9, 2], 10));
    }
    #[test]
    fn squeezed_layers_have_what_they_are_known_to_need() {
        let budget = Budget {
            amount: PromptBudget::Share(0.5),
            floors: Floors::default(),
            heads: Heads::Alike,
            layers: Layers::Squeezed { least: 0.2 },
        };
        let similarities = [0.1, 0.95, 0.5, 0.97];
        let kept = budget.kept_of_heads(100, None, &similarities, 4, 2);
        // Those of the most similar group keep a fifth of the mean, and the others what is left of four times 50.
        assert_eq!(kept, [90, 90, 10, 10, 90, 90, 10, 10]);
        let each = |layer| budget.kept_knowing(100, None, (layer, 4), &similarities);
        assert!((0..4).all(|layer| each(layer) == kept[2 * layer]));
    }
}
