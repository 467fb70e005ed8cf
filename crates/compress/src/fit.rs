//! What stays of a text, within a budget.

use std::ops::Range;

use dropcap_methods::Amount;
use serde::Serialize;

use crate::{CompressError, Tokens};

/// A stretch of a text that stays.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Span {
    /// Its first byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
    /// What the method found it worth; larger is better, and methods' scales differ.
    pub score: f64,
}

/// What a method made of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compressed {
    /// What stays, in the order of the text.
    pub spans: Vec<Span>,
    /// Stretches that the method judged.
    pub judged: usize,
    /// The text's tokens.
    pub tokens_before: usize,
    /// Tokens of what stays, as one text.
    pub tokens_after: usize,
}

impl Compressed {
    /// What stays of `text`, which is the one that this was made of.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        self.spans.iter().filter_map(|span| text.get(span.start..span.end)).collect()
    }
}

/// A stretch that a method has judged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unit {
    pub(crate) range: Range<usize>,
    pub(crate) score: f64,
    pub(crate) tokens: usize,
}

/// The tokens that a budget allows of a text of `tokens`.
pub(crate) fn allowed(budget: Amount, tokens: usize) -> usize {
    match budget {
        Amount::Tokens(count) => (count as usize).min(tokens),
        Amount::Share(share) => (tokens as f64 * share) as usize,
    }
}

/// All of a text that the budget holds anyway, or nothing of one that has nothing.
pub(crate) fn whole(text: &str, tokens: usize, judged: usize) -> Compressed {
    let spans =
        if text.is_empty() { Vec::new() } else { vec![Span { start: 0, end: text.len(), score: 0.0 }] };
    Compressed { spans, judged, tokens_before: tokens, tokens_after: tokens }
}

/// As many of the units, which come best first, as `budget` tokens hold; one that does not fit is passed over.
///
/// Tokens of stretches do not add up to those of what they make together, so that is counted, and the worst go again until it
/// fits.
pub(crate) fn fit(
    judge: &dyn Tokens,
    text: &str,
    units: &[Unit],
    budget: usize,
    tokens_before: usize,
) -> Result<Compressed, CompressError> {
    let mut left = budget;
    let mut chosen: Vec<&Unit> = Vec::new();
    for unit in units {
        if unit.tokens <= left {
            left -= unit.tokens;
            chosen.push(unit);
        }
    }
    loop {
        let spans = in_order(&chosen);
        let kept = Compressed { spans, judged: units.len(), tokens_before, tokens_after: 0 };
        let tokens_after = judge.tokens(&kept.text(text))?.len();
        if tokens_after <= budget {
            return Ok(Compressed { tokens_after, ..kept });
        }
        let mut excess = tokens_after - budget;
        while excess > 0 {
            let Some(unit) = chosen.pop() else { break };
            excess = excess.saturating_sub(unit.tokens.max(1));
        }
    }
}

/// Spans of units in the order of the text; units of one score that touch are one span.
fn in_order(units: &[&Unit]) -> Vec<Span> {
    let mut units = units.to_vec();
    units.sort_by_key(|unit| unit.range.start);
    let mut spans: Vec<Span> = Vec::new();
    for unit in units {
        match spans.last_mut() {
            Some(last) if last.end == unit.range.start && last.score == unit.score => {
                last.end = unit.range.end
            }
            _ => spans.push(Span { start: unit.range.start, end: unit.range.end, score: unit.score }),
        }
    }
    spans
}
