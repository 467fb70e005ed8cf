//! The text of each token of a trace.

use std::collections::HashMap;
use std::sync::Arc;

use dropcap_model::{IncrementalText, ModelError, Tokenizer};

/// Spells the tokens of many sequences: a token's text is what it completes, so that the texts joined are the text. A
/// token that completes no character has an empty one, and a special token is spelled out.
#[derive(Debug)]
pub(crate) struct Speller {
    tokenizer: Arc<Tokenizer>,
    open: HashMap<u64, IncrementalText>,
}

impl Speller {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, open: HashMap::new() }
    }

    /// The texts of the next tokens of a sequence.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub(crate) fn texts(&mut self, sequence: u64, ids: &[u32]) -> Result<Vec<String>, ModelError> {
        let text = self.open.entry(sequence).or_insert_with(|| IncrementalText::new(self.tokenizer.clone()));
        let mut spelled = |&id: &u32| match self.tokenizer.special_token(id) {
            Some(special) => Ok(text.flush()? + special),
            None => text.push(id),
        };
        ids.iter().map(&mut spelled).collect()
    }

    /// Lets go of a sequence that has ended.
    pub(crate) fn forget(&mut self, sequence: u64) {
        self.open.remove(&sequence);
    }
}
