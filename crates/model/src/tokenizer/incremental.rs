//! Text that grows token by token.

use std::sync::Arc;

use super::Tokenizer;
use crate::error::ModelError;

/// Most tokens held back while the text ends in U+FFFD. A character has at most 4 bytes, so these are not going to
/// become one; fewer would cut into runs of U+FFFD that are really in the text.
const MOST_HELD: usize = 64;

/// Turns tokens into pieces of text as they come, and never emits part of a character.
///
/// The pieces together are the text of all tokens decoded at once, as far as that text is UTF-8. A tokenizer may
/// write a token differently at the start of a text than within it (a leading space), so a few tokens that were
/// already emitted are decoded again with the new ones.
#[derive(Debug)]
pub struct IncrementalText {
    tokenizer: Arc<Tokenizer>,
    /// The tokens of the last piece, then those not yet emitted.
    ids: Vec<u32>,
    /// How many of `ids` have been emitted.
    emitted: usize,
}

impl IncrementalText {
    /// A text without tokens.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, ids: Vec::new(), emitted: 0 }
    }

    /// Takes a token and gives the text that it completes, which may be empty.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        // Silent tokens would pile up here, and are no context for what follows.
        if self.tokenizer.is_silent(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // Half a character decodes to U+FFFD at the end.
        if text.ends_with('\u{fffd}') && self.ids.len() - self.emitted < MOST_HELD {
            return Ok(String::new());
        }
        self.take(&text)
    }

    /// Gives what is still held back, as U+FFFD where it is not UTF-8; the text begins anew after it.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn finish(&mut self) -> Result<String, ModelError> {
        let text = self.tokenizer.decode(&self.ids)?;
        let rest = self.take(&text)?;
        self.ids.clear();
        self.emitted = 0;
        Ok(rest)
    }

    /// Emits what `text`, the text of all ids, has more than the text of those emitted.
    fn take(&mut self, text: &str) -> Result<String, ModelError> {
        let before = self.tokenizer.decode(&self.ids[..self.emitted])?;
        // The old text is a prefix of the new one, except where it ended in bytes that were given up.
        let same = before.chars().zip(text.chars()).take_while(|(old, new)| old == new);
        let piece = text[same.map(|(old, _)| old.len_utf8()).sum()..].to_owned();
        if !piece.is_empty() {
            self.ids.drain(..self.emitted);
            self.emitted = self.ids.len();
        }
        Ok(piece)
    }
}
