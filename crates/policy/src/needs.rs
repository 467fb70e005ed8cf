//! What a policy asks of whoever runs it, beyond [`crate::EvictionPolicy::decide`].

use crate::Stage;

/// What a policy needs, declared once: nothing of it is found out at run time, and nothing is paid for what is not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// When [`crate::EvictionPolicy::after`] is called.
    pub after: Cadence,
    /// f32 numbers that it sums up about every entry ([`dropcap_cache::Lane::statistics`]).
    pub statistics: usize,
    /// Last tokens of a prompt that must come in one step, so that it sees their queries together: 0 or 1 where any cut
    /// will do, `usize::MAX` for the whole prompt.
    pub together: usize,
}

/// When a policy acts after attention; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Cadence {
    /// Never.
    #[default]
    Never,
    /// After each step of a prompt: where it ends at the latest, before that for sums.
    Prompt,
    /// Behind the prompt also after each query: queries of one step attend one after the other, so that what one ends the
    /// next does not see, however the text is cut into steps.
    EveryQuery,
}

impl Needs {
    /// What two policies need together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            after: self.after.max(other.after),
            statistics: self.statistics + other.statistics,
            together: self.together.max(other.together),
        }
    }

    /// Whether [`crate::EvictionPolicy::after`] has anything to do for tokens at this stage.
    #[must_use]
    pub fn heeds(self, stage: Stage) -> bool {
        match stage {
            Stage::Prompt => self.after >= Cadence::Prompt && self.statistics > 0,
            Stage::PromptEnd => self.after >= Cadence::Prompt,
            Stage::Behind => self.after == Cadence::EveryQuery,
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
}
