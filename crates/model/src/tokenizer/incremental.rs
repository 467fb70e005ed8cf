//! Text that grows token by token.

use std::sync::Arc;

use super::Tokenizer;
use crate::error::ModelError;

/// Tokens that new ones are decoded with. A tokenizer may write a token differently at the start of a text than within
/// it (a leading space), and a character has at most 4 bytes, each of them at most one token.
const CONTEXT: usize = 8;
/// Tokens after which all but [`CONTEXT`] are forgotten.
const MOST: usize = 4 * CONTEXT;

/// Turns tokens into pieces of text as they come, and never emits part of a character.
///
/// The pieces together are the text of all tokens decoded at once.
#[derive(Debug)]
pub struct IncrementalText {
    tokenizer: Arc<Tokenizer>,
    /// The latest tokens that have text.
    ids: Vec<u32>,
    /// What of their text has been emitted.
    emitted: String,
}

impl IncrementalText {
    /// A text without tokens.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, ids: Vec::new(), emitted: String::new() }
    }

    /// A text that goes on after `prompt`, of which nothing is emitted.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn after(tokenizer: Arc<Tokenizer>, prompt: &[u32]) -> Result<Self, ModelError> {
        let heard = prompt.iter().copied().rev().filter(|&id| tokenizer.with_text(id).is_some());
        let mut ids: Vec<u32> = heard.take(CONTEXT).collect();
        ids.reverse();
        let emitted = tokenizer.decode(&ids)?;
        Ok(Self { tokenizer, ids, emitted })
    }

    /// Takes a token and gives the text that it completes, which may be empty.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        // A token without text is no context for what follows.
        if self.tokenizer.with_text(id).is_none() {
            return Ok(String::new());
        }
        self.ids.push(id);
        let piece = self.emit(settled(&self.tokenizer.decode(&self.ids)?));
        if self.ids.len() >= MOST {
            self.ids.drain(..self.ids.len() - CONTEXT);
            settled(&self.tokenizer.decode(&self.ids)?).clone_into(&mut self.emitted);
        }
        Ok(piece)
    }

    /// Gives what is still held back: a U+FFFD, for bytes that no token has completed.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn flush(&mut self) -> Result<String, ModelError> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(self.emit(&text))
    }

    /// Gives what is still held back; the text begins anew after it.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn finish(&mut self) -> Result<String, ModelError> {
        let rest = self.flush()?;
        self.ids.clear();
        self.emitted.clear();
        Ok(rest)
    }

    /// Emits what `text` has more than was emitted. What was emitted is its start, but for a last U+FFFD that has
    /// become a character since.
    fn emit(&mut self, text: &str) -> String {
        let same = self.emitted.chars().zip(text.chars()).take_while(|(old, new)| old == new);
        let piece = text[same.map(|(old, _)| old.len_utf8()).sum()..].to_owned();
        if !piece.is_empty() {
            text.clone_into(&mut self.emitted);
        }
        piece
    }
}

/// A text without a last U+FFFD: the only part of it that later bytes can change.
fn settled(text: &str) -> &str {
    text.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(text)
}
