//! What the rows of logits of a step are for.

use dropcap_kernels::Team;

use super::{Answer, Feed};
use crate::sampler::{Score, score_all};
use crate::{Draw, EngineError, TokenLogProb, sample_all};

/// Rows of logits that are computed at a time where a prompt's log-probabilities are wanted: enough for a matrix kernel,
/// 40 MB of the largest vocabularies.
pub(super) const ROWS: usize = 64;

/// What one row of logits is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The log-probability of a target of the prompt.
    Target(usize),
    /// The next token.
    Token,
    /// Nothing: it lies between rows that are for something.
    Nothing,
}

impl Feed<'_> {
    /// The first token of the feed whose logits are wanted; they are from there on.
    pub(super) fn first_row(&self) -> Option<usize> {
        let last = self.draw.is_some().then(|| self.tokens.len() - 1);
        if self.targets.tokens.is_empty() { last } else { Some(self.targets.row) }
    }

    /// What the logits of one token of the feed are for.
    pub(super) fn use_of(&self, row: usize) -> Use {
        match row.checked_sub(self.targets.row).filter(|&target| target < self.targets.tokens.len()) {
            Some(target) => Use::Target(target),
            None if self.draw.is_some() && row + 1 == self.tokens.len() => Use::Token,
            None => Use::Nothing,
        }
    }

    /// The log-probability that a row of logits is asked for; the next token's only once it is `drawn`.
    fn score<'l>(&self, row: usize, logits: &'l [f32], drawn: Option<u32>) -> Option<Score<'l>> {
        match self.use_of(row) {
            Use::Target(target) => Some(Score {
                logits,
                token: self.targets.tokens[target],
                position: self.targets.position + target,
                top: self.targets.top,
            }),
            Use::Token => {
                let next = self.draw.as_ref()?;
                Some(Score { logits, token: drawn?, position: next.text.len(), top: next.top? })
            }
            Use::Nothing => None,
        }
    }
}

/// Some row of logits `[v]` that a feed asked for.
pub(super) struct Row<'l> {
    /// Number of the feed, and of its token.
    pub(super) feed: usize,
    pub(super) row: usize,
    pub(super) logits: &'l [f32],
}

/// Draws the tokens that are wanted after some of the rows.
pub(super) fn draw(team: &Team, feeds: &[Feed<'_>], rows: &[Row<'_>], answers: &mut [Answer]) {
    let wanted = rows.iter().filter(|row| feeds[row.feed].use_of(row.row) == Use::Token);
    let (numbers, draws): (Vec<usize>, Vec<Draw<'_>>) = wanted
        .filter_map(|row| {
            let next = feeds[row.feed].draw.as_ref()?;
            let draw =
                Draw { sampler: next.sampler, logits: row.logits, text: next.text, random: next.random };
            Some((row.feed, draw))
        })
        .unzip();
    for (feed, token) in numbers.into_iter().zip(sample_all(team, &draws)) {
        give(&mut answers[feed], token, |given, token| given.token = Some((token, None)));
    }
}

/// Gives the log-probabilities that are asked for, those of drawn tokens last.
pub(super) fn score(team: &Team, feeds: &[Feed<'_>], rows: &[Row<'_>], answers: &mut [Answer]) {
    let drawn = |feed: usize| answers[feed].as_ref().ok()?.token.as_ref().map(|(token, _)| *token);
    let wanted = rows
        .iter()
        .filter_map(|row| Some((row, feeds[row.feed].score(row.row, row.logits, drawn(row.feed))?)));
    let (wanted, scores): (Vec<&Row<'_>>, Vec<Score<'_>>) = wanted.unzip();
    for (row, log_prob) in wanted.into_iter().zip(score_all(team, &scores)) {
        let is_drawn = feeds[row.feed].use_of(row.row) == Use::Token;
        give(&mut answers[row.feed], log_prob, |given, log_prob: TokenLogProb| match &mut given.token {
            Some((_, place)) if is_drawn => *place = Some(log_prob),
            _ => given.prompt.push(log_prob),
        });
    }
}

/// Adds to an answer; its first error stays.
fn give<T>(answer: &mut Answer, part: Result<T, EngineError>, add: impl FnOnce(&mut super::Given, T)) {
    match (answer.as_mut(), part) {
        (Ok(given), Ok(part)) => add(given, part),
        (Ok(_), Err(error)) => *answer = Err(error),
        (Err(_), _) => {}
    }
}
