//! Where windows among examples begin, and what of the examples is in reach of them.

use std::ops::Range;

use super::places;
use crate::TrainError;
use crate::data::shard::TokenShard;

/// What is learned of examples, and what is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learned {
    /// Examples of all sources.
    pub examples: u64,
    /// Their tokens, context and answers.
    pub tokens: u64,
    /// Tokens of answers.
    pub answers: u64,
    /// Examples of which a window of the run's length shows some answers only in part, or not at all.
    pub cut: u64,
    /// Those of which it shows none.
    pub unseen: u64,
    /// Messages of the assistant that are context alone, because the chat template does not tell where they stand.
    pub unplaced: u64,
}

impl Learned {
    /// In words, for people.
    #[must_use]
    pub fn sentence(&self, window: usize) -> String {
        let Self { examples, tokens, answers, cut, unseen, unplaced } = self;
        let share = 100.0 * *answers as f64 / (*tokens).max(1) as f64;
        let mut text = format!(
            "{examples} examples of {tokens} tokens; the loss counts the {answers} of answers ({share:.1} %)"
        );
        if *cut > 0 {
            text.push_str(&format!(
                "; {cut} are longer than a sequence of {window} tokens and lose some of their answers, {unseen} of them all (raise batch.tokens)"
            ));
        }
        if *unplaced > 0 {
            text.push_str(&format!(
                "; {unplaced} messages of the assistant are context alone, because the chat template writes them otherwise once others follow"
            ));
        }
        text
    }
}

/// The examples that windows begin with.
#[derive(Debug)]
pub(super) struct Beginnings {
    /// First tokens in the concatenation, rising, each with an answer in its window; at least one.
    starts: Vec<u64>,
    /// Where examples lie in the concatenation.
    examples: Vec<Range<u64>>,
    learned: Learned,
}

impl Beginnings {
    /// Those of shards that hold `total` tokens, for windows of `tokens`; `None` where all text is learned.
    pub(super) fn of(
        split: &'static str,
        shards: &[TokenShard],
        tokens: usize,
        total: u64,
    ) -> Result<Option<Self>, TrainError> {
        let mut found = Self { starts: Vec::new(), examples: Vec::new(), learned: Learned::default() };
        for (shard, place) in places(shards) {
            let Some(answers) = shard.answers() else { continue };
            let learned = &mut found.learned;
            learned.examples += answers.starts.len() as u64;
            learned.tokens += place.end - place.start;
            learned.answers += answers.tokens();
            learned.unplaced += answers.unplaced;
            let ends = answers.starts.iter().skip(1).copied().chain([shard.len() as u64]);
            for (&start, end) in answers.starts.iter().zip(ends) {
                // The first token of a window is no target.
                let window = start + 1..start + 1 + tokens as u64;
                let own = answers.within(&(start..end));
                let seen = answers.within(&(window.start..window.end.min(end)));
                learned.cut += u64::from(seen < own);
                learned.unseen += u64::from(seen == 0);
                if answers.within(&window) > 0 && place.start + window.end <= total {
                    found.starts.push(place.start + start);
                }
            }
            found.examples.push(place);
        }
        match (found.examples.is_empty(), found.starts.is_empty()) {
            (true, _) => Ok(None),
            (false, false) => Ok(Some(found)),
            (false, true) => {
                Err(TrainError::NoAnswers { split, examples: found.learned.examples, window: tokens })
            }
        }
    }

    pub(super) fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Where a window begins that was drawn to begin at a place: there where all text is learned, else with an example.
    pub(super) fn before(&self, place: u64) -> u64 {
        if !self.examples.iter().any(|examples| examples.contains(&place)) {
            return place;
        }
        let behind = self.starts.partition_point(|&start| start <= place);
        self.starts.get(behind.saturating_sub(1)).copied().unwrap_or(place)
    }

    /// Beginnings, from the first on, whose windows share no target.
    pub(super) fn apart(&self, tokens: u64) -> Vec<u64> {
        let mut apart: Vec<u64> = Vec::new();
        for &start in &self.starts {
            if apart.last().is_none_or(|&last| start >= last + tokens) {
                apart.push(start);
            }
        }
        apart
    }
}

#[cfg(test)]
mod tests;
