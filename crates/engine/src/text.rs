//! The text of a growing sequence: pieces that may be shown at once, up to a stop string.

use std::sync::Arc;

use dropcap_model::{IncrementalText, ModelError, Tokenizer};

use crate::StopMatcher;

/// Tokens of the prompt that set the scene for the first generated one: a tokenizer may write a word without its
/// leading space at the start of a text, and more than a few tokens back it never looks.
const CONTEXT: usize = 8;

/// Turns the tokens of one sequence into text that is safe to show.
#[derive(Debug)]
pub struct TextStream {
    text: IncrementalText,
    matcher: StopMatcher,
    stop_tokens: Vec<u32>,
}

impl TextStream {
    /// The text that follows `prompt`, ending at a stop token (which has no text) or before a stop string.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot decode.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        stop_tokens: &[u32],
        stops: Vec<String>,
    ) -> Result<Self, ModelError> {
        let mut text = IncrementalText::new(tokenizer);
        for &token in &prompt[prompt.len().saturating_sub(CONTEXT)..] {
            text.push(token)?;
        }
        Ok(TextStream { text, matcher: StopMatcher::new(stops), stop_tokens: stop_tokens.to_vec() })
    }

    /// Takes the next token; returns what may be shown now, and whether a stop string was met (then nothing
    /// more may be pushed).
    ///
    /// # Errors
    /// Tokens that the tokenizer cannot decode.
    pub fn push(&mut self, token: u32) -> Result<(String, bool), ModelError> {
        if self.stop_tokens.contains(&token) {
            return Ok((String::new(), false));
        }
        let piece = self.text.push(token)?;
        Ok(self.matcher.push(&piece))
    }

    /// The end of a text that no stop string ended: what was held back, and whether it held a stop string after
    /// all.
    ///
    /// # Errors
    /// Tokens that the tokenizer cannot decode.
    pub fn finish(&mut self) -> Result<(String, bool), ModelError> {
        let piece = self.text.finish()?;
        let (mut shown, stopped) = self.matcher.push(&piece);
        if !stopped {
            shown.push_str(&self.matcher.finish());
        }
        Ok((shown, stopped))
    }
}
