//! What a policy does, as data: carried out by [`crate::Rules`] on the processor, by kernels on a device.

mod gates;
mod head_set;
mod prompt_cut;

pub use gates::{BirthGates, GateLayer, RuleGates, VoteGates};
pub use head_set::HeadSet;
pub use prompt_cut::{PromptBudget, PromptCut};

use std::sync::Arc;

use dropcap_kernels::DType;

use crate::{Budgets, Floors, Peak, TextSize};

/// One thing that a policy does in every layer; copies share what is large.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// What it may not take away.
    pub floors: Floors,
    /// The KV heads that it acts on, if not all; then there is a lane for each.
    pub heads: Option<HeadSet>,
}

/// The kinds of rules.
#[derive(Debug, Clone)]
pub enum Action {
    /// A new entry at position p ends at `p + recent`, unless `p < sinks`.
    Window {
        /// First positions that the rule leaves alone.
        sinks: u32,
        /// Queries that see an entry, its own included.
        recent: u32,
    },
    /// From the end of a prompt of n tokens on as a window: what is there then ends at `max(n, p + recent)`, and what comes
    /// behind it at `p + recent`, unless `p < sinks`. The prompt itself sees everything.
    WindowBehind {
        /// First positions that the rule leaves alone.
        sinks: u32,
        /// Queries behind the prompt that see an entry, its own included.
        recent: u32,
    },
    /// A new entry at position p ends at `p + 1`, unless `floor((p + 1) keep) > floor(p keep)`, in f64: of the first n
    /// entries `floor(n keep)` stay, evenly spaced.
    Share {
        /// Share of the entries that stays.
        keep: f64,
    },
    /// Every query votes with learned gates on the live entries before it. The key gates are a side channel of the
    /// gates' width.
    Vote {
        /// The gates of all layers.
        gates: Arc<VoteGates>,
        /// Whether the first refusal ends an entry at the query that refuses; otherwise the votes are computed and
        /// dropped, for benchmarks.
        decides: bool,
    },
    /// A new entry at position p ends at `p + 1` if its token's gate says so; nothing later changes that. Under floors, this
    /// is a choice between a window and all that follows.
    BirthGate {
        /// The gates of all layers.
        gates: Arc<BirthGates>,
    },
    /// The entry of a token that died in the layer below during this step, in every lane there, ends likewise.
    Inherit,
    /// When a prompt ends after n tokens, entries at the positions that the cut drops end at n, and n - 1 decided so.
    PromptCut(PromptCut),
}

impl Action {
    /// The format of the cache that the biases of its gates were settled for, where there are gates that say so.
    #[must_use]
    pub fn settled_for(&self) -> Option<DType> {
        match self {
            Self::Vote { gates, .. } => gates.kv_dtype(),
            Self::BirthGate { gates } => gates.kv_dtype(),
            _ => None,
        }
    }
}

impl Rule {
    /// A rule without floors of its own: a token sees itself, nothing more is promised.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { action, floors: Floors::default(), heads: None }
    }

    /// The same rule under higher floors.
    #[must_use]
    pub fn under(self, floors: Floors) -> Self {
        Self { floors: self.floors.and(floors), ..self }
    }

    /// The same rule for the lanes of these heads alone.
    #[must_use]
    pub fn among(self, heads: HeadSet) -> Self {
        Self { heads: Some(heads), ..self }
    }

    /// How full any lane gets under this rule alone.
    pub(crate) fn peak(&self, text: TextSize) -> Peak {
        let peak = self.peak_where_it_acts(text);
        // Lanes of other heads may hold everything.
        if self.heads.is_some() { Peak { most: text.tokens, ..peak } } else { peak }
    }

    /// How full the lane of one head in one layer gets under this rule alone.
    pub(crate) fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        let acts = |heads: &HeadSet| heads.of(layer).get(head).copied().unwrap_or(false);
        if self.heads.as_ref().is_none_or(acts) {
            return self.peak_where_it_acts(text);
        }
        Peak::exactly(text.tokens)
    }

    fn peak_where_it_acts(&self, TextSize { prompt, tokens, budget }: TextSize) -> Peak {
        let budget = budget.filter(|_| self.heads.is_none());
        let alone = match &self.action {
            Action::Window { sinks, recent } => {
                let recent = recent_within(*sinks, *recent, budget).max(1);
                let window = (*sinks as usize).saturating_add(recent as usize);
                Peak::exactly(window.min(tokens))
            }
            Action::WindowBehind { sinks, recent } => {
                let recent = recent_within(*sinks, *recent, budget).max(1);
                let window = (*sinks as usize).saturating_add(recent as usize);
                Peak::exactly(window.max(prompt).min(tokens))
            }
            Action::Share { keep } => {
                // A token that does not stay is there for itself.
                let stay = (tokens as f64 * keep).floor() as usize;
                Peak { least: stay.clamp(tokens.min(1), tokens), most: stay.saturating_add(1).min(tokens) }
            }
            Action::Vote { decides: false, .. } => Peak::exactly(tokens),
            Action::Vote { .. } | Action::BirthGate { .. } | Action::Inherit => Peak::unknown(tokens),
            Action::PromptCut(cut) => {
                let n = u32::try_from(prompt).unwrap_or(u32::MAX);
                let kept = cut.budget.within(n, cut.sinks, budget).kept(n, cut.sinks) as usize;
                Peak::exactly(prompt.max(kept.saturating_add(tokens - prompt.min(tokens))))
            }
        };
        alone.under(self.floors, tokens)
    }

    /// The budgets that a text may set itself under this rule; none where it has none, or other lanes keep everything.
    pub(crate) fn budgets(&self, tokens: usize) -> Option<Budgets> {
        let (sinks, most) = match &self.action {
            Action::Window { sinks, recent } | Action::WindowBehind { sinks, recent } => {
                (*sinks, sinks.saturating_add(*recent))
            }
            Action::PromptCut(cut) => {
                let n = u32::try_from(tokens).unwrap_or(u32::MAX);
                (cut.sinks, cut.budget.kept(n, cut.sinks))
            }
            Action::Share { .. } | Action::Vote { .. } | Action::BirthGate { .. } | Action::Inherit => {
                return None;
            }
        };
        let budgets = Budgets::new(Floors { sinks, recent: 1 }, most).under(self.floors);
        self.heads.is_none().then_some(budgets)
    }
}

/// What a text's own budget leaves of a window of `recent` queries: one at least, if it has any.
pub(crate) fn recent_within(sinks: u32, recent: u32, budget: Option<u32>) -> u32 {
    budget.map_or(recent, |budget| recent.min(budget.saturating_sub(sinks).max(1)))
}
