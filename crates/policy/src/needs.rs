//! What a policy asks of whoever runs it, beyond [`crate::EvictionPolicy::decide`].

use crate::rule::recent_within;
use crate::{Span, Stage};

/// What a policy needs, declared once: nothing of it is found out at run time, and nothing is paid for what is not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// When [`crate::EvictionPolicy::after`] is called.
    pub after: Cadence,
    /// Tokens after which it also acts within a prompt, at every multiple of them, so that the queries behind do not see what
    /// it ended there, however the prompt is cut into steps; 0 where it waits for the prompt's end.
    pub stride: u32,
    /// f32 numbers that it sums up about every entry ([`dropcap_cache::Lane::statistics`]).
    pub statistics: usize,
    /// Last tokens of a prompt that must come in one step, so that it sees their queries together: 0 or 1 where any cut
    /// will do, `usize::MAX` for the whole prompt.
    pub together: usize,
    /// Whether keys are turned where a prompt ends, so that what stays is turned as the first tokens of a text are and what comes
    /// behind follows on. Every lane must then keep as many entries. Positions otherwise, of lifetimes and traces, stay
    /// those of the text.
    pub renumbers: bool,
    /// Sinks that keep their place before a window, however far the text has gone.
    pub anchored: Option<Anchored>,
    /// Whether it must know how much every layer changes the residual stream before it ends anything where a prompt ends:
    /// then [`crate::EvictionPolicy::ended`] is called there, and a prompt is held by all layers until then.
    pub layers: bool,
}

/// First tokens of a text that every query finds right before the `recent` ones that it sees: their keys are turned on as the text
/// goes on, which is to turn all keys by their place in the cache. Queries behind the first window attend one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchored {
    /// First positions.
    pub sinks: u32,
    /// Queries that see another entry, its own included.
    pub recent: u32,
}

impl Anchored {
    /// The first query that does not see all of its text, where the text set itself this budget ([`Span::budget`]).
    #[must_use]
    pub fn first_behind(self, budget: Option<u32>) -> u32 {
        self.sinks.saturating_add(recent_within(self.sinks, self.recent, budget).max(1))
    }

    /// How many positions further than their own the keys of sinks are turned for a query.
    #[must_use]
    pub fn ahead(self, query: u32, budget: Option<u32>) -> u32 {
        (query.saturating_add(1)).saturating_sub(self.first_behind(budget))
    }
}

/// When a policy acts after attention; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cadence {
    /// Never.
    #[default]
    Never,
    /// After each step of a prompt: where it ends at the latest, before that for sums.
    Prompt,
    /// Behind the prompt also whenever the text has a multiple of so many tokens, counted from its beginning: 1 is after
    /// every query. What one query ends the next does not see, however the text is cut into steps.
    Every(u32),
}

impl Cadence {
    /// After every query behind a prompt.
    pub const EVERY_QUERY: Self = Self::Every(1);
}

impl Needs {
    /// What two policies need together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let after = match (self.after, other.after) {
            (Cadence::Every(first), Cadence::Every(second)) => Cadence::Every(common(first, second)),
            (every @ Cadence::Every(_), _) | (_, every @ Cadence::Every(_)) => every,
            (Cadence::Never, Cadence::Never) => Cadence::Never,
            _ => Cadence::Prompt,
        };
        Self {
            after,
            stride: common(self.stride, other.stride),
            statistics: self.statistics + other.statistics,
            together: self.together.max(other.together),
            renumbers: self.renumbers || other.renumbers,
            anchored: self.anchored.or(other.anchored),
            layers: self.layers || other.layers,
        }
    }

    /// Whether [`crate::EvictionPolicy::after`] has anything to do for these tokens: to sum up or to act.
    #[must_use]
    pub fn heeds(self, span: &Span) -> bool {
        let sums = match span.stage {
            Stage::Prompt | Stage::PromptEnd => self.after != Cadence::Never,
            Stage::Behind => matches!(self.after, Cadence::Every(_)),
        };
        self.acts(span) || self.statistics > 0 && sums
    }

    /// Whether it is time to end entries behind the last of these tokens.
    #[must_use]
    pub fn acts(self, span: &Span) -> bool {
        match span.stage {
            Stage::PromptEnd => self.after != Cadence::Never,
            Stage::Prompt | Stage::Behind => {
                let every = self.every(span.stage);
                every > 0 && span.next_position().is_multiple_of(every)
            }
        }
    }

    /// The text's tokens between two times to act at this stage; 0 where there are none.
    pub(crate) fn every(self, stage: Stage) -> u32 {
        match (stage, self.after) {
            (Stage::Prompt | Stage::PromptEnd, _) => self.stride,
            (Stage::Behind, Cadence::Every(tokens)) => tokens,
            (Stage::Behind, _) => 0,
        }
    }

    /// How many of the `wanted` next tokens one step may take of a text whose prompt has `prompt` tokens and of which
    /// `fed` are in: none where the prompt's last tokens must come together and are more than that.
    #[must_use]
    pub fn cut(self, prompt: usize, fed: usize, wanted: usize) -> usize {
        let begin = prompt - self.together(prompt);
        let end = fed.saturating_add(wanted);
        if end <= begin || end >= prompt { wanted } else { begin.saturating_sub(fed) }
    }

    /// Last tokens of a prompt of `prompt` tokens that must come in one step.
    #[must_use]
    pub fn together(self, prompt: usize) -> usize {
        self.together.min(prompt)
    }
}

/// The largest number of which both are multiples, so that the times of both are among its own; 0 is never.
fn common(first: u32, second: u32) -> u32 {
    if second == 0 { first } else { common(second, first % second) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_ends_among_the_tokens_that_must_come_together() {
        let needs = |together| Needs { together, ..Needs::default() };
        for (together, prompt, chunk) in [(0, 40, 7), (1, 40, 7), (16, 40, 16), (16, 40, 17), (99, 40, 40)] {
            let (needs, mut fed, mut ends) = (needs(together), 0, vec![]);
            while fed < prompt {
                let count = needs.cut(prompt, fed, chunk.min(prompt - fed));
                assert!(count > 0, "together {together}, chunks of {chunk}: stuck at {fed}");
                fed += count;
                ends.push(fed);
            }
            let begin = prompt - together.min(prompt);
            assert!(ends.iter().all(|&end| end <= begin || end >= prompt), "{together}, {chunk}: {ends:?}");
        }
        assert_eq!(needs(16).cut(40, 24, 15), 0, "too few at once");
        assert_eq!(needs(usize::MAX).cut(40, 0, 39), 0);
        assert_eq!(needs(16).cut(40, 40, 1), 1, "what follows the prompt is free");
    }

    #[test]
    fn two_policies_are_asked_whenever_one_of_them_acts() {
        let needs = |after, stride| Needs { after, stride, ..Needs::default() };
        let both = needs(Cadence::Every(6), 8).and(needs(Cadence::Every(4), 0));
        assert_eq!((both.after, both.stride), (Cadence::Every(2), 8));
        assert_eq!(needs(Cadence::Never, 0).and(needs(Cadence::Prompt, 12)).after, Cadence::Prompt);
        let ends = |next_position: u32, stage| Span {
            first_row: 0,
            queries: 1,
            first_position: next_position - 1,
            stage,
            budget: None,
        };
        assert!(both.acts(&ends(10, Stage::Behind)) && !both.acts(&ends(11, Stage::Behind)));
        assert!(both.acts(&ends(16, Stage::Prompt)) && !both.heeds(&ends(10, Stage::Prompt)));
        assert!(needs(Cadence::Prompt, 0).acts(&ends(11, Stage::PromptEnd)));
        let sums = Needs { statistics: 1, ..needs(Cadence::Every(9), 0) };
        assert!(sums.heeds(&ends(10, Stage::Behind)) && !sums.acts(&ends(10, Stage::Behind)));
    }
}
