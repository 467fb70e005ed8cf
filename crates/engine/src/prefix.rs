//! Beginnings of texts that went through the model, kept so that later texts with the same beginning do not go through
//! it again.
//!
//! On the host a kept cache is a fork: it shares pages with the sequence that made it, and with every one that begins with
//! it, until somebody writes there. On a device it is a copy, and whoever begins with it gets another. So what a later token
//! kills dies for its own sequence alone.
//!
//! Where nothing is ever freed, the longest text is enough: it is rewound to where two texts part. Where a method forgets, a
//! cache is good for exactly the tokens that made it, so some are kept on the way, at the [`Places`] of a prompt. A method that
//! acts where a prompt ends has made of the end what a longer prompt would not have, so only what precedes it is kept.

use std::ops::ControlFlow;

use dropcap_kernels::PAGE_ENTRIES;
use dropcap_policy::{Action, Cadence, EvictionPolicy};

use crate::memory::KeptMemory;

/// Tokens of a prompt after which a cache is kept for the first time where a method forgets; a power of two.
const STEP: usize = 4 * PAGE_ENTRIES;

/// After how many tokens of a prompt caches are kept where a method forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Places {
    /// Every so many: forks cost little.
    Often,
    /// Each after twice as many as the one before it: copies of all of them are no more than two of the prompt.
    Doubling,
}

impl Places {
    /// Tokens up to the next place, of which `fed` are in.
    fn ahead(self, fed: usize) -> usize {
        match self {
            Self::Often => STEP - fed % STEP,
            Self::Doubling => (fed + 1).next_power_of_two().max(STEP) - fed,
        }
    }

    /// Whether `fed` tokens are a place.
    fn has(self, fed: usize) -> bool {
        fed >= STEP
            && match self {
                Self::Often => fed.is_multiple_of(STEP),
                Self::Doubling => fed.is_power_of_two(),
            }
    }
}

/// What a method makes of a shared beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nothing is ever freed.
    Dense,
    /// Whatever is decided depends on the tokens before it.
    Exact,
    /// The same, until a prompt ends.
    BeforePromptEnds,
}

impl Sharing {
    /// That of a method over a model; `windows` says whether the model itself has sliding windows.
    pub(crate) fn of(policy: &dyn EvictionPolicy, windows: bool) -> Self {
        let cuts = |rules: &[dropcap_policy::Rule]| {
            rules.iter().any(|rule| matches!(rule.action, Action::PromptCut(_) | Action::WindowBehind { .. }))
        };
        let rules = policy.rules().filter(|_| policy.needs().after == Cadence::Never);
        match rules {
            Some([]) if !windows => Self::Dense,
            Some(rules) if !cuts(rules) => Self::Exact,
            // What acts after attention does so there at the latest, and what is only code may do anything.
            _ => Self::BeforePromptEnds,
        }
    }
}

/// Which texts may share a beginning: those that agree in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    /// [`crate::Request::salt`].
    pub(crate) salt: &'a str,
    /// [`crate::Request::kv_budget`].
    pub(crate) budget: Option<u32>,
}

/// One beginning.
#[derive(Debug)]
struct Kept {
    salt: String,
    budget: Option<u32>,
    tokens: Vec<u32>,
    memory: KeptMemory,
}

impl Kept {
    fn key(&self) -> Key<'_> {
        Key { salt: &self.salt, budget: self.budget }
    }
}

/// The beginnings that are kept, within a bound on their pages; a page that several share counts for each.
#[derive(Debug)]
pub(crate) struct Prefixes {
    sharing: Sharing,
    places: Places,
    most_pages: usize,
    /// Each is compared with every new text.
    most: usize,
    /// The least recently used first.
    kept: Vec<Kept>,
    pages: usize,
}

impl Prefixes {
    /// Nothing yet; up to `most` beginnings of `most_pages` pages.
    pub(crate) fn new(sharing: Sharing, places: Places, most_pages: usize, most: usize) -> Self {
        Self { sharing, places, most_pages, most, kept: Vec::new(), pages: 0 }
    }

    /// Pages that the beginnings hold, those counted more than once that several share.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Most of the next tokens of a prompt that a step may feed, of which `fed` are in, so that a cache can be kept.
    pub(crate) fn feedable(&self, fed: usize) -> usize {
        match self.sharing {
            Sharing::Dense => usize::MAX,
            Sharing::Exact | Sharing::BeforePromptEnds => self.places.ahead(fed),
        }
    }

    /// Whether a cache of the first `fed` tokens of a text whose context has `context` tokens is to be kept while it goes
    /// in.
    pub(crate) fn keeps_on_the_way(&self, fed: usize, context: usize) -> bool {
        self.sharing != Sharing::Dense && fed < context && self.places.has(fed)
    }

    /// Whether a cache is to be kept when its text is over.
    pub(crate) fn keeps_ends(&self) -> bool {
        self.sharing != Sharing::BeforePromptEnds
    }

    /// The longest beginning of `text` that has at most `most` tokens: what is kept of it, and how many tokens of that are
    /// the text's.
    pub(crate) fn find(&mut self, key: Key<'_>, text: &[u32], most: usize) -> Option<(&KeptMemory, usize)> {
        let usable = |kept: &Kept| {
            let same = kept.tokens.iter().zip(text).take_while(|(a, b)| a == b).count();
            match self.sharing {
                // A page that is shared in part would have to be copied.
                Sharing::Dense => same.min(most) / PAGE_ENTRIES * PAGE_ENTRIES,
                _ if same == kept.tokens.len() && same <= most => same,
                _ => 0,
            }
        };
        let found = self.kept.iter().enumerate().filter(|(_, kept)| kept.key() == key);
        let (index, tokens) =
            found.map(|(index, kept)| (index, usable(kept))).max_by_key(|&(_, same)| same)?;
        if tokens == 0 {
            return None;
        }
        self.use_again(index);
        self.kept.last().map(|kept| (&kept.memory, tokens))
    }

    /// Makes room for a cache of so many pages of a text, unless it is there or too large; says whether to keep it.
    pub(crate) fn makes_room(&mut self, key: Key<'_>, tokens: &[u32], pages: usize) -> bool {
        if pages == 0 || pages > self.most_pages || self.most == 0 {
            return false;
        }
        let dense = self.sharing == Sharing::Dense;
        let covers = |kept: &Kept| {
            kept.key() == key && if dense { kept.tokens.starts_with(tokens) } else { kept.tokens == tokens }
        };
        if let Some(index) = self.kept.iter().position(covers) {
            self.use_again(index);
            return false;
        }
        if dense {
            // What is longer says all that is shorter.
            self.drop_where(|kept| kept.key() == key && tokens.starts_with(&kept.tokens));
        }
        while self.pages + pages > self.most_pages || self.kept.len() >= self.most {
            if self.drop_oldest().is_break() {
                break;
            }
        }
        true
    }

    /// Keeps what there is room for.
    pub(crate) fn add(&mut self, key: Key<'_>, tokens: &[u32], memory: KeptMemory) {
        self.pages += memory.pages();
        let Key { salt, budget } = key;
        let (salt, tokens) = (salt.to_owned(), tokens.to_vec());
        self.kept.push(Kept { salt, budget, tokens, memory });
    }

    /// The most recently used is last.
    fn use_again(&mut self, index: usize) {
        let kept = self.kept.remove(index);
        self.kept.push(kept);
    }

    /// Gives the least recently used up; breaks where there is none.
    pub(crate) fn drop_oldest(&mut self) -> ControlFlow<()> {
        if self.kept.is_empty() {
            return ControlFlow::Break(());
        }
        self.pages -= self.kept.remove(0).memory.pages();
        ControlFlow::Continue(())
    }

    fn drop_where(&mut self, is_old: impl Fn(&Kept) -> bool) {
        self.kept.retain(|kept| !is_old(kept));
        self.pages = self.kept.iter().map(|kept| kept.memory.pages()).sum();
    }
}
