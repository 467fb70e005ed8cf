//! What a text takes of the cache before it is in: the arithmetic of admission, the same for both backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use dropcap_kernels::PAGE_ENTRIES;
use dropcap_model::DecoderConfig;
use dropcap_policy::{Budgets, EvictionPolicy, HeadSet, Needs, Peak, TextSize};

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
    /// Lanes that get as full as each other.
    kinds: Vec<LaneKind>,
    layers: usize,
    pool: PoolSize,
}

/// Lanes of one kind: one of them, the model's own window there, and how many there are.
#[derive(Debug)]
struct LaneKind {
    layer: usize,
    head: usize,
    window: Option<u32>,
    lanes: usize,
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
        let demand = Self::over(policy, groups, &(0..config.layers).map(window).collect::<Vec<_>>(), pool);
        if pool.pages < demand.lanes() {
            return Err(EngineError::CapTooSmall {
                limit: pool.limit_bytes,
                least: demand.lanes().saturating_mul(pool.page_bytes),
            });
        }
        Ok(demand)
    }

    /// Those of a method over `groups` lanes of each layer, of which the model has windows of its own.
    fn over(policy: Arc<dyn EvictionPolicy>, groups: usize, windows: &[Option<u32>], pool: PoolSize) -> Self {
        // A policy that is only code says the same of all lanes unless it knows better; rules know heads.
        let rules = policy.rules().unwrap_or_default();
        let sets: Vec<&HeadSet> = rules.iter().filter_map(|rule| rule.heads.as_ref()).collect();
        let mut kinds: BTreeMap<(Option<u32>, Vec<bool>), LaneKind> = BTreeMap::new();
        for (layer, &window) in windows.iter().enumerate() {
            for head in 0..groups {
                let acts = sets.iter().map(|set| set.of(layer).get(head).copied().unwrap_or(false));
                let kind = LaneKind { layer, head, window, lanes: 0 };
                kinds.entry((window, acts.collect())).or_insert(kind).lanes += 1;
            }
        }
        let (needs, kinds, layers) = (policy.needs(), kinds.into_values().collect(), windows.len());
        Self { policy, needs, groups, kinds, layers, pool }
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
        self.layers
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
        self.layers * self.groups
    }

    /// Pages of all lanes where each holds what `entries` says of its peak, and no more than the text has tokens.
    fn pages(&self, text: TextSize, entries: impl Fn(Peak) -> usize) -> usize {
        let of_kind = |kind: &LaneKind| {
            let peak = self.policy.peak_in(text, kind.layer, kind.head);
            let own = kind.window.map_or(peak, |window| {
                peak.and(Peak::exactly(text.tokens.min(window.max(1) as usize)), text.tokens)
            });
            entries(own).min(text.tokens).div_ceil(PAGE_ENTRIES) * kind.lanes
        };
        self.kinds.iter().map(of_kind).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropcap_policy::{Action, Both, KeepAll, Protected, Rule, Rules};

    const PAGES: usize = 40;

    fn demand(policy: impl EvictionPolicy + 'static, windows: Vec<Option<u32>>) -> Demand {
        let pool = PoolSize { pages: PAGES, page_bytes: 10, limit_bytes: 10 * PAGES };
        Demand::over(Arc::new(policy), 2, &windows, pool)
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

    #[test]
    fn heads_that_stream_are_promised_a_window_and_the_others_everything() {
        let streaming = HeadSet::new(vec![vec![true, false], vec![false, false], vec![true, true]]);
        let rule = Rule::new(Action::Window { sinks: 4, recent: 28 }).among(streaming);
        let demand = demand(Rules::new(vec![rule]), vec![None; 3]);
        // Three stream in a page each, token by token, and three hold all ten pages.
        assert_eq!(demand.most(text(320, 320), 1), 3 + 30);
        assert_eq!(demand.most(text(320, 320), 33), 3 * 2 + 30);
        assert!(demand.check(text(320, 320)).is_ok(), "33 of 40 pages");
        assert!(demand.check(text(400, 400)).is_err());
        assert_eq!(demand.most(text(20, 20), 1), 6);
    }
}
