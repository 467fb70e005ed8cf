//! How full a lane gets.

use crate::Floors;

/// The most entries that one lane holds at any moment while a text goes in token by token, the newest token's own
/// among them: at least `least` whatever the text, and never more than `most`.
///
/// Nothing is freed before a step is over, so a text that goes in `t` tokens at a time holds up to `t - 1` entries
/// more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peak {
    /// No text of this length stays below.
    pub least: usize,
    /// No text of this length goes above.
    pub most: usize,
}

impl Peak {
    /// A peak that does not depend on the text.
    #[must_use]
    pub fn exactly(entries: usize) -> Self {
        Self { least: entries, most: entries }
    }

    /// What holds for every method and a text of `tokens` tokens: a token sees itself, and nothing is held twice.
    #[must_use]
    pub fn unknown(tokens: usize) -> Self {
        Self { least: tokens.min(1), most: tokens }
    }

    /// The peak of a text of `tokens` tokens where floors hold their own entries whatever the method drops, and nothing
    /// else beside them.
    #[must_use]
    pub fn under(self, floors: Floors, tokens: usize) -> Self {
        let held = (floors.sinks as usize).saturating_add(floors.recent.max(1) as usize).min(tokens);
        // Both count the newest token.
        let most = self.most.saturating_add(held).saturating_sub(1).min(tokens);
        Self { least: self.least.max(held), most }
    }

    /// The peak of a text of `tokens` tokens where an entry lives as long as two methods both let it.
    #[must_use]
    pub fn and(self, other: Self, tokens: usize) -> Self {
        // Where one frees nothing the other decides alone; two that free may peak at different moments.
        let least = match (self.least == tokens, other.least == tokens) {
            (true, _) => other.least,
            (_, true) => self.least,
            _ => tokens.min(1),
        };
        Self { least, most: self.most.min(other.most) }
    }
}
