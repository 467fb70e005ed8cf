//! What methods ask of a language model.

use std::ops::Range;

use dropcap_engine::{LogProbs, PromptLogProbs, Request};
use dropcap_model::Tokenizer;

use crate::CompressError;

/// A token and the bytes of the text that it stands for.
pub type Token = (u32, Range<usize>);

/// A text that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its tokens, at most [`Judge::positions`].
    pub ids: Vec<u32>,
    /// The first token that is asked about, at least 1: nothing stands before the first.
    pub from: usize,
}

impl Reading {
    /// What an engine is asked, `begin` before the tokens; none where nothing is asked about.
    #[must_use]
    pub fn request(self, begin: &[u32]) -> Option<Request> {
        let from = begin.len() + self.from;
        let prompt = [begin, &self.ids].concat();
        let log_probs = LogProbs { prompt: Some(PromptLogProbs { from, top: 0 }), generated: None };
        (from < prompt.len()).then(|| Request { prompt, log_probs, ..Request::default() })
    }
}

/// What cuts text into tokens.
pub trait Tokens {
    /// The tokens of a stretch of text, in order, without what a tokenizer puts around whole texts.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    fn tokens(&self, text: &str) -> Result<Vec<Token>, CompressError>;
}

impl Tokens for Tokenizer {
    fn tokens(&self, text: &str) -> Result<Vec<Token>, CompressError> {
        Ok(self.encode_piece(text)?)
    }
}

/// A language model, as far as methods know one.
pub trait Judge: Tokens {
    /// How likely the tokens of each reading were, in nats, from [`Reading::from`] on.
    ///
    /// # Errors
    /// A reading that the model refuses.
    fn log_probs(&mut self, readings: Vec<Reading>) -> Result<Vec<Vec<f32>>, CompressError>;

    /// The most tokens of a reading.
    fn positions(&self) -> usize;
}

/// The ids of a stretch of text.
pub(crate) fn ids(judge: &dyn Tokens, text: &str) -> Result<Vec<u32>, CompressError> {
    Ok(judge.tokens(text)?.into_iter().map(|(id, _)| id).collect())
}

/// The perplexity of tokens of these log-probabilities; 1 of none.
pub(crate) fn perplexity_of(log_probs: &[f32]) -> f64 {
    let sum: f64 = log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum();
    (-sum / log_probs.len().max(1) as f64).exp()
}

/// `end` behind as much of the end of `before` as the model has positions for; tells of the tokens of `end`.
pub(crate) fn behind(before: &[u32], end: &[u32], positions: usize) -> Reading {
    let room = positions.saturating_sub(end.len());
    let before = &before[before.len().saturating_sub(room)..];
    Reading { ids: [before, end].concat(), from: before.len().max(1) }
}
