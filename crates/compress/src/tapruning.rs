//! A prompt without the tokens that it does as well without: TAPruning, of PromptQuine (arXiv 2506.17930).

use std::collections::BTreeMap;
use std::ops::Range;

use crate::judge::{behind, ids};
use crate::{CompressError, Judge};

/// What a search came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// The prompt that is left.
    pub prompt: String,
    /// Every prompt that was accepted with its score, the whole one first.
    pub accepted: Vec<(String, f64)>,
    /// Prompts that were scored.
    pub evaluations: usize,
}

/// Cuts a prompt into its tokens, as ranges of bytes.
pub type Cut<'a> = dyn FnMut(&str) -> Result<Vec<Range<usize>>, CompressError> + 'a;

/// Leaves out the tokens of `prompt`, from the first to the last, without which it scores at least `threshold` times the best
/// score so far; again and again, until a pass leaves nothing out. Placeholders (`{name}`) stay.
///
/// `cut` gives the tokens of a prompt as bytes, `score` says how good a prompt is, above 0. As published, a step is compared
/// with the best score ever and not with the last, and the result is the last prompt that was accepted, not the best one.
///
/// # Errors
/// A score that is not above 0, which the rule cannot compare; failures of `cut` and `score`.
pub fn tapruning(
    prompt: &str,
    threshold: f64,
    cut: &mut Cut<'_>,
    score: &mut dyn FnMut(&str) -> Result<f64, CompressError>,
) -> Result<Search, CompressError> {
    let mut best = score(prompt)?;
    if best <= 0.0 || !best.is_finite() {
        return Err(CompressError::Score { given: best });
    }
    let mut search =
        Search { prompt: prompt.to_owned(), accepted: vec![(prompt.to_owned(), best)], evaluations: 1 };
    let mut before = cut(prompt)?.len();
    loop {
        let pieces = pieces(&search.prompt, cut(&search.prompt)?);
        let texts: Vec<String> =
            pieces.iter().map(|(piece, _)| search.prompt[piece.clone()].to_owned()).collect();
        let mut left: Vec<bool> = vec![true; pieces.len()];
        for index in (0..pieces.len()).filter(|&index| !pieces[index].1) {
            left[index] = false;
            let shorter: String =
                texts.iter().zip(&left).filter(|(_, left)| **left).map(|(text, _)| text.as_str()).collect();
            let reached = score(&shorter)?;
            search.evaluations += 1;
            if reached / best < threshold || reached.is_nan() {
                left[index] = true;
                continue;
            }
            best = best.max(reached);
            search.prompt.clone_from(&shorter);
            search.accepted.push((shorter, reached));
        }
        let now = cut(&search.prompt)?.len();
        if now == before {
            return Ok(search);
        }
        before = now;
    }
}

/// The pieces of a prompt that are whole characters, and whether each is part of a placeholder.
pub(crate) fn pieces(prompt: &str, tokens: Vec<Range<usize>>) -> Vec<(Range<usize>, bool)> {
    let placeholders = placeholders(prompt);
    let mut pieces: Vec<(Range<usize>, bool)> = Vec::new();
    let mut begin = 0;
    for (index, token) in tokens.iter().enumerate() {
        let end = tokens.get(index + 1).map_or(prompt.len(), |next| next.start.max(token.end));
        if end > begin && prompt.is_char_boundary(end) {
            let touches = |held: &Range<usize>| held.start < end && begin < held.end;
            pieces.push((begin..end, placeholders.iter().any(touches)));
            begin = end;
        }
    }
    pieces
}

/// Where `{name}` stands.
fn placeholders(prompt: &str) -> Vec<Range<usize>> {
    let opened = prompt.match_indices('{').map(|(at, _)| at);
    let closed = opened.filter_map(|at| {
        let name = prompt[at + 1..].split('}').next()?;
        let is_name =
            !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        let end = at + 1 + name.len();
        (is_name && prompt[end..].starts_with('}')).then_some(at..end + 1)
    });
    closed.collect()
}

/// A question with its answer: what goes into the placeholders, and the label that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Texts by the names of their placeholders.
    pub fields: BTreeMap<String, String>,
    /// The right label.
    pub label: String,
}

/// How well a model answers with a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answers {
    /// The mean probability of the right label among all labels.
    pub probability: f64,
    /// The share of examples whose right label is the likeliest.
    pub accuracy: f64,
}

/// Asks a model every example with each of `prompts`: each of the `labels` follows the filled-in prompt behind a space, and its
/// probability is that of all its tokens. The questions of all prompts go through the model side by side. One answer for
/// each prompt.
///
/// # Errors
/// A refusal of the model; a label without a token.
pub fn answers(
    judge: &mut dyn Judge,
    prompts: &[String],
    examples: &[Example],
    labels: &[String],
) -> Result<Vec<Answers>, CompressError> {
    let ends = labels.iter().map(|label| ids(judge, &format!(" {label}"))).collect::<Result<Vec<_>, _>>()?;
    if let Some(index) = ends.iter().position(Vec::is_empty) {
        return Err(CompressError::Label { label: labels[index].clone() });
    }
    let positions = judge.positions();
    let mut readings = Vec::new();
    for (prompt, example) in prompts.iter().flat_map(|prompt| examples.iter().map(move |one| (prompt, one))) {
        let filled = example
            .fields
            .iter()
            .fold(prompt.clone(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
        // Something must stand before a label, whatever was left out.
        let before = ids(judge, if filled.is_empty() { "\n" } else { &filled })?;
        readings.extend(ends.iter().map(|end| behind(&before, end, positions)));
    }
    let found = judge.log_probs(readings)?;
    let of_prompt = (examples.len() * labels.len()).max(1);
    Ok((0..prompts.len())
        .map(|index| {
            let found = found.get(index * of_prompt..).unwrap_or_default();
            judged(&found[..of_prompt.min(found.len())], examples, labels)
        })
        .collect())
}

/// What log-probabilities of the labels' tokens, example by example, come to.
fn judged(found: &[Vec<f32>], examples: &[Example], labels: &[String]) -> Answers {
    let (mut probability, mut right) = (0.0, 0);
    for (example, found) in examples.iter().zip(found.chunks(labels.len().max(1))) {
        let logs: Vec<f64> =
            found.iter().map(|log_probs| log_probs.iter().map(|&log| f64::from(log)).sum()).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
        let own =
            labels.iter().position(|label| *label == example.label).map_or(f64::NEG_INFINITY, |at| logs[at]);
        probability += (own - most).exp() / sum;
        right += usize::from(own >= most);
    }
    let count = examples.len().max(1) as f64;
    Answers { probability: probability / count, accuracy: right as f64 / count }
}
