//! What a text takes of the cache before it is in: the arithmetic of admission, the same for both backends.

use std::sync::Arc;

use dropcap_kernels::PAGE_ENTRIES;
use dropcap_model::DecoderConfig;
use dropcap_policy::{Budgets, EvictionPolicy, Needs, Peak, TextSize};

use crate::{EngineError, Shortage};

/// The pool as all sequences share it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSize {
    /// Pages that there are, taken or free.
    pub(crate) pages: usize,
    pub(crate) page_bytes: usize,
    /// The cap that their number comes from.
    pub(crate) limit_bytes: usize,
}

/// Says how many pages texts take under one method.
#[derive(Debug)]
pub(crate) struct Demand {
    policy: Arc<dyn EvictionPolicy>,
    needs: Needs,
    /// Lanes of each layer.
    groups: usize,
    /// The model's own window in each layer.
    windows: Vec<Option<u32>>,
    pool: PoolSize,
}

impl Demand {
    /// The demands of texts on `pool`.
    ///
    /// # Errors
    /// A pool that cannot hold a single token.
    pub(crate) fn new(
        policy: Arc<dyn EvictionPolicy>,
        config: &DecoderConfig,
        pool: PoolSize,
    ) -> Result<Self, EngineError> {
        let groups = if policy.per_head() { config.kv_heads } else { 1 };
        let window = |layer| config.sliding_window.get(layer).copied().flatten();
        let needs = policy.needs();
        let demand = Self { policy, needs, groups, windows: (0..config.layers).map(window).collect(), pool };
        if pool.pages < demand.lanes() {
            return Err(EngineError::CapTooSmall {
                limit: pool.limit_bytes,
                least: demand.lanes().saturating_mul(pool.page_bytes),
            });
        }
        Ok(demand)
    }

    /// Whether every KV head forgets on its own.
    pub(crate) fn per_head(&self) -> bool {
        self.policy.per_head()
    }

    /// What the method asks for.
    pub(crate) fn needs(&self) -> Needs {
        self.needs
    }

    /// Layers of the model.
    pub(crate) fn layers(&self) -> usize {
        self.windows.len()
    }

    /// Pages that a text never takes more of at once, if it goes in by up to `step` tokens.
    pub(crate) fn most(&self, text: TextSize, step: usize) -> usize {
        self.pages(text, |peak| peak.most.saturating_add(step.max(1) - 1))
    }

    /// Refuses a text that does not fit even alone and token by token, but for those of its prompt that must come together.
    ///
    /// # Errors
    /// The sum that does not come out.
    pub(crate) fn check(&self, text: TextSize) -> Result<(), EngineError> {
        let together = self.needs.together(text.prompt).max(1);
        let wanted = self.pages(text, |peak| peak.least.saturating_add(together - 1));
        if wanted <= self.pool.pages {
            return Ok(());
        }
        Err(EngineError::OutOfMemory(self.shortage(text.tokens, 0, wanted)))
    }

    /// Refuses a budget of a text's own that the method cannot keep to, or that is above what it keeps of the longest text,
    /// which has `longest` tokens.
    ///
    /// # Errors
    /// A method without a budget; one with others than this.
    pub(crate) fn check_budget(&self, given: u32, longest: usize) -> Result<(), EngineError> {
        let Budgets { least, most } = self.policy.budgets(longest).ok_or(EngineError::NoBudget)?;
        if (least..=most).contains(&given) {
            return Ok(());
        }
        Err(EngineError::Budget { given, least, most })
    }

    /// Entries of each lane that a text lets stay where the method acts; none where the method has no budget.
    pub(crate) fn budget(&self, text: TextSize) -> Option<u32> {
        let most = self.policy.budgets(text.tokens)?.most;
        Some(text.budget.map_or(most, |budget| budget.min(most)))
    }

    /// The account of a sequence that cannot go on.
    pub(crate) fn shortage(&self, tokens: usize, held_pages: usize, wanted_pages: usize) -> Shortage {
        let PoolSize { page_bytes, limit_bytes, .. } = self.pool;
        Shortage { tokens, held_pages, wanted_pages, lanes: self.lanes(), page_bytes, limit_bytes }
    }

    fn lanes(&self) -> usize {
        self.windows.len() * self.groups
    }

    /// Pages of all lanes where each holds what `entries` says of its peak, and no more than the text has tokens.
    fn pages(&self, text: TextSize, entries: impl Fn(Peak) -> usize) -> usize {
        let peak = self.policy.peak(text);
        let lane = |window: &Option<u32>| {
            let own = window.map_or(peak, |window| {
                peak.and(Peak::exactly(text.tokens.min(window.max(1) as usize)), text.tokens)
            });
            entries(own).min(text.tokens).div_ceil(PAGE_ENTRIES)
        };
        self.windows.iter().map(lane).sum::<usize>() * self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropcap_policy::{Both, KeepAll, Protected};

    const PAGES: usize = 40;

    fn demand(policy: impl EvictionPolicy + 'static, windows: Vec<Option<u32>>) -> Demand {
        let pool = PoolSize { pages: PAGES, page_bytes: 10, limit_bytes: 10 * PAGES };
        Demand { needs: policy.needs(), policy: Arc::new(policy), groups: 2, windows, pool }
    }

    fn text(prompt: usize, tokens: usize) -> TextSize {
        TextSize::new(prompt, tokens)
    }

    #[test]
    fn without_a_method_a_text_takes_its_tokens_in_every_lane() {
        let demand = demand(KeepAll, vec![None; 3]);
        for (tokens, pages) in [(1, 6), (32, 6), (33, 12), (192, 36), (193, 42)] {
            assert_eq!(demand.most(text(tokens, tokens), 16), pages);
            assert_eq!(demand.check(text(tokens, tokens)).is_ok(), pages <= PAGES, "{tokens}");
        }
    }

    #[test]
    fn a_window_of_the_model_bounds_its_layers_alone() {
        let demand = demand(KeepAll, vec![None, Some(10), Some(64)]);
        // Token by token; then by 25, of which 24 lie beside a full window.
        assert_eq!(demand.most(text(320, 320), 1), 2 * (10 + 1 + 2));
        assert_eq!(demand.most(text(320, 320), 25), 2 * (10 + 2 + 3));
        assert!(demand.check(text(320, 320)).is_ok());
        assert!(demand.check(text(800, 800)).is_err());
    }

    #[test]
    fn a_method_that_depends_on_the_text_is_asked_for_all_and_refused_for_nothing() {
        #[derive(Debug)]
        struct Unknown;
        impl EvictionPolicy for Unknown {
            fn decide(
                &self,
                _seen: &dropcap_policy::Observation<'_>,
                _lanes: &mut [dropcap_policy::LaneEditor<'_>],
            ) -> Result<(), dropcap_policy::PolicyError> {
                Ok(())
            }
        }
        let unknown = demand(Unknown, vec![None; 3]);
        assert_eq!(unknown.most(text(400, 400), 1), 6 * 13);
        assert!(unknown.check(text(400, 400)).is_ok());
        let guarded = demand(Protected::new(Unknown, 100, 200), vec![None; 3]);
        assert!(guarded.check(text(400, 400)).is_err(), "floors of 300 entries hold whatever the text");
        let both = demand(Both::new(Unknown, KeepAll), vec![None; 3]);
        assert!(both.check(text(400, 400)).is_ok());
    }
}
