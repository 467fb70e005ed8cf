//! What retrieval has found, without what is far from the question: KG-RAG's rule.

use std::ops::Range;

use dropcap_methods::Amount;
use unicode_segmentation::UnicodeSegmentation;

use crate::fit::{Unit, allowed, fit, whole};
use crate::{CompressError, Compressed, Fences, Language, Tokens, chunks};

/// Which sentences stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Closeness {
    /// Those of a passage that are closer to the question than so many per cent of its sentences.
    pub percentile: f64,
    /// Those whose cosine with the question is larger.
    pub floor: f64,
    /// So many of all passages together, each an equal share.
    pub volume: usize,
}

/// The published settings.
impl Default for Closeness {
    fn default() -> Self {
        Self { percentile: 75.0, floor: 0.5, volume: 150 }
    }
}

/// The sentences of each passage that stay, the closest first, each with its cosine; of equal ones the later first.
///
/// The rule of KG-RAG (`retrieve_context` of BaranziniLab/KG_RAG), percentiles between two values in proportion. Both bounds
/// must be exceeded, so a passage of one sentence never passes.
#[must_use]
pub fn close(question: &[f64], passages: &[Vec<Vec<f64>>], rule: &Closeness) -> Vec<Vec<(usize, f64)>> {
    let most = rule.volume / passages.len().max(1);
    let of_passage = |sentences: &Vec<Vec<f64>>| {
        let cosines: Vec<f64> = sentences.iter().map(|sentence| cosine(question, sentence)).collect();
        let least = percentile(&cosines, rule.percentile);
        let mut kept: Vec<(usize, f64)> = cosines.into_iter().enumerate().collect();
        kept.retain(|&(_, cosine)| cosine > least && cosine > rule.floor);
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        kept.truncate(most);
        kept
    };
    passages.iter().map(of_passage).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

fn percentile(values: &[f64], per_cent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = (per_cent / 100.0).clamp(0.0, 1.0) * last as f64;
    let below = place as usize;
    let above = sorted[(below + 1).min(last)];
    sorted[below] + (above - sorted[below]) * (place - below as f64)
}

/// Turns texts into vectors of one length.
pub trait Embed {
    /// The vector of each text.
    ///
    /// # Errors
    /// A text without a vector.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f64>>, CompressError>;
}

/// Keeps the sentences of `text` that are [`close`] to the question, then of those the closest that the budget holds; their
/// scores are cosines. Passages are paragraphs, sentences are Unicode's (UAX 29), and a fenced block is a sentence.
///
/// # Errors
/// No question; a text that the tokenizer or `embed` refuses.
pub fn context(
    tokenizer: &dyn Tokens,
    embed: &mut dyn Embed,
    text: &str,
    question: &str,
    rule: &Closeness,
    budget: Amount,
) -> Result<Compressed, CompressError> {
    if question.trim().is_empty() {
        return Err(CompressError::NoInstruction { method: "context" });
    }
    let tokens = tokenizer.tokens(text)?.len();
    let budget = allowed(budget, tokens);
    if tokens <= budget {
        return Ok(whole(text, tokens, 0));
    }
    let passages: Vec<Vec<Range<usize>>> =
        chunks(text, Language::Text).into_iter().map(|passage| sentences(text, passage)).collect();
    let said: Vec<&str> = passages.iter().flatten().map(|sentence| text[sentence.clone()].trim()).collect();
    let asked = embed.embed(&[question])?.pop().unwrap_or_default();
    let mut vectors = embed.embed(&said)?.into_iter();
    let vectors: Vec<Vec<Vec<f64>>> =
        passages.iter().map(|passage| vectors.by_ref().take(passage.len()).collect()).collect();
    let mut units = Vec::new();
    for (passage, kept) in passages.iter().zip(close(&asked, &vectors, rule)) {
        for (sentence, score) in kept {
            let range = passage[sentence].clone();
            units.push(Unit { tokens: tokenizer.tokens(&text[range.clone()])?.len(), range, score });
        }
    }
    units.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(Compressed { judged: said.len(), ..fit(tokenizer, text, &units, budget, tokens)? })
}

/// The sentences of a passage, white space behind them with them.
fn sentences(text: &str, passage: Range<usize>) -> Vec<Range<usize>> {
    let fences = Fences::of(text);
    let mut sentences: Vec<Range<usize>> = Vec::new();
    for (at, sentence) in text[passage.clone()].split_sentence_bound_indices() {
        let range = passage.start + at..passage.start + at + sentence.len();
        match sentences.last_mut() {
            Some(last) if sentence.trim().is_empty() || fences.hold(range.start) => last.end = range.end,
            _ => sentences.push(range),
        }
    }
    sentences
}
