//! The keys of `tokenizer.json` that the library does not give access to, or changes without a word.

use std::collections::HashMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    pub(super) model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    special: bool,
}

/// The token for what the vocabulary lacks stands in one of two keys.
#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) unk_token: Option<String>,
    pub(super) unk_id: Option<u32>,
}

/// An added token of a file that leaves gaps: the library numbers added tokens itself.
#[derive(Debug)]
pub(super) struct Misplaced {
    /// As the file writes it.
    pub(super) token: String,
    /// Its id in the file.
    pub(super) stated: u32,
    /// Its id in the library.
    pub(super) place: u32,
}

impl File {
    /// The special tokens by id, and the added tokens that have another id in the library, by that one.
    pub(super) fn placed(
        self,
        inner: &tokenizers::Tokenizer,
    ) -> (HashMap<u32, String>, HashMap<u32, Misplaced>) {
        let (mut special, mut misplaced) = (HashMap::new(), HashMap::new());
        for AddedToken { id, content, special: is_special } in self.added_tokens {
            match inner.token_to_id(&content) {
                Some(place) if place != id => {
                    misplaced.insert(place, Misplaced { token: content, stated: id, place });
                }
                Some(_) if is_special => {
                    special.insert(id, content);
                }
                // Ordinary text; or a token without text, which is in no text.
                Some(_) | None => {}
            }
        }
        (special, misplaced)
    }
}
