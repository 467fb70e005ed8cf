//! What a prompt loses when it ends.

use std::ops::Range;

/// Keeps the sinks and the newest tokens of a prompt and drops what lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptCut {
    /// First positions that stay.
    pub sinks: u32,
    /// How many tokens stay, the sinks included.
    pub budget: PromptBudget,
}

/// How much of a prompt of n tokens is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PromptBudget {
    /// So many tokens, sinks included.
    Tokens(u32),
    /// This share of n, in `(0, 1]`.
    Share(f64),
}

impl PromptCut {
    /// The positions that a prompt of n tokens loses under its own budget ([`crate::Span::budget`]); those of an earlier
    /// turn count like the others.
    #[must_use]
    pub fn dropped(self, n: u32, budget: Option<u32>) -> Range<u32> {
        let kept = self.budget.within(n, self.sinks, budget).kept(n, self.sinks);
        // With kept = n this ends at the first position after the sinks: nothing lies between.
        self.sinks..n - kept.saturating_sub(self.sinks).min(n)
    }
}

impl PromptBudget {
    /// The smaller of this budget and a text's own, for a prompt of n tokens.
    #[must_use]
    pub fn within(self, n: u32, sinks: u32, budget: Option<u32>) -> Self {
        budget.filter(|&budget| budget < self.kept(n, sinks)).map_or(self, Self::Tokens)
    }

    /// Tokens kept of a prompt of n, sinks included: at least `sinks + 1` (or all n, if they are fewer), at most n.
    ///
    /// A share means the decimal number as it was written: `0.29` of 100 is 29, though the nearest binary
    /// fraction gives 28.999999999999996. kvpress computes `int(n * (1 - r))` in binary and so keeps one token
    /// less for some r, such as 0.9 of 10.
    #[must_use]
    pub fn kept(self, n: u32, sinks: u32) -> u32 {
        let wanted = match self {
            Self::Tokens(tokens) => tokens,
            Self::Share(share) => {
                let product = f64::from(n) * share;
                // Two roundings of half a unit in the last place each; `as` saturates and maps NaN to 0.
                (product * (1.0 + 4.0 * f64::EPSILON)) as u32
            }
        };
        wanted.max(sinks.saturating_add(1)).min(n)
    }
}

#[cfg(test)]
mod tests;
