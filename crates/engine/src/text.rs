//! The text of a growing sequence: pieces that may be shown at once, up to a stop string.

use std::sync::Arc;

use dropcap_model::{IncrementalText, ModelError, Tokenizer};

use crate::StopMatcher;

/// Turns the tokens of one sequence into text that is safe to show.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    text: IncrementalText,
    matcher: StopMatcher,
    stop_tokens: Vec<u32>,
    stopped: bool,
}

impl TextStream {
    /// The text that follows `prompt`, ending at a stop token (which has no text) or before a stop string.
    ///
    /// A stop string also matches special tokens, as a prompt spells them out; they are never part of the text.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot decode.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        stop_tokens: &[u32],
        stops: Vec<String>,
    ) -> Result<Self, ModelError> {
        let text = IncrementalText::after(tokenizer.clone(), prompt)?;
        let (matcher, stop_tokens) = (StopMatcher::new(stops), stop_tokens.to_vec());
        Ok(TextStream { tokenizer, text, matcher, stop_tokens, stopped: false })
    }

    /// Takes the next token; returns what may be shown now, and whether a stop string was met (then nothing
    /// more may be pushed).
    ///
    /// # Errors
    /// Tokens that the tokenizer cannot decode.
    pub fn push(&mut self, token: u32) -> Result<(String, bool), ModelError> {
        if let Some(special) = self.tokenizer.special_token(token) {
            let (mut shown, stopped) = self.matcher.push(&self.text.flush()?);
            self.stopped = stopped;
            if !stopped {
                let (more, stopped) = self.matcher.push_hidden(special);
                shown.push_str(&more);
                self.stopped = stopped;
            }
            return Ok((shown, self.stopped));
        }
        if self.stop_tokens.contains(&token) {
            return Ok((String::new(), false));
        }
        let (shown, stopped) = self.matcher.push(&self.text.push(token)?);
        self.stopped = stopped;
        Ok((shown, stopped))
    }

    /// The end of a text: what was held back, and whether the text ended at a stop string after all.
    ///
    /// # Errors
    /// Tokens that the tokenizer cannot decode.
    pub fn finish(&mut self) -> Result<(String, bool), ModelError> {
        if self.stopped {
            return Ok((String::new(), true));
        }
        let (mut shown, stopped) = self.matcher.push(&self.text.finish()?);
        if !stopped {
            shown.push_str(&self.matcher.finish());
        }
        Ok((shown, stopped))
    }
}
