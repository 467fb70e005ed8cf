//! Text to tokens and back, with the `tokenizer.json` of a model.

mod incremental;

pub use incremental::IncrementalText;

use std::collections::HashMap;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// Longest text that is tokenized at once, in bytes: about a million tokens of English.
///
/// Time is linear in the length, also for a million equal characters (a few seconds at this limit).
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Longest run of white space in a text, in characters.
///
/// The splitting patterns of GPT-2 and its heirs look ahead after white space, which the regex engine does by
/// backtracking. At a million steps it gives up, and the tokenizer library would go on with the rest of the text
/// unsplit and say nothing.
const MAX_WHITE_SPACE: usize = 250_000;
/// Longest `tokenizer.json` that is read, in bytes; the largest published are about 40 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A tokenizer for user text: nothing in the text becomes a control token.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    /// Tokens that have no text, as the file writes them: a normalizer may have changed the library's copy.
    special: HashMap<u32, String>,
    /// The special token that text may become.
    unknown: Option<u32>,
}

impl Tokenizer {
    /// Reads the `tokenizer.json` of a directory.
    ///
    /// Truncation and padding that the file asks for are turned off: no text is cut without a word.
    ///
    /// # Errors
    /// No such file; a file that is not a tokenizer.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("tokenizer.json");
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ModelError::NoTokenizer { path });
            }
            Err(e) => return Err(ModelError::io("open", &path, e)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| ModelError::io("read", &path, e))?;
        Self::parse(&path, &bytes)
    }

    /// Reads the text of a `tokenizer.json`; `path` is only for messages.
    ///
    /// # Errors
    /// Text that is not a tokenizer.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let path = path.to_path_buf();
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ModelError::FileTooLong { path, limit: MAX_FILE_BYTES });
        }
        let mut inner = match contained(|| tokenizers::Tokenizer::from_bytes(bytes)) {
            Ok(inner) => inner,
            Err(reason) => return Err(ModelError::Tokenizer { path, reason }),
        };
        let file = match File::read(bytes, &inner) {
            Ok(file) => file,
            Err(reason) => return Err(ModelError::Tokenizer { path, reason }),
        };
        inner.with_padding(None);
        if let Err(e) = inner.with_truncation(None) {
            return Err(ModelError::Tokenizer { path, reason: e.to_string() });
        }
        inner.set_encode_special_tokens(true);
        let special = file.added_tokens.into_iter().filter(|token| token.special);
        let special = special.map(|token| (token.id, token.content)).collect();
        let unknown = file.model.unk_id.or_else(|| inner.token_to_id(&file.model.unk_token?));
        Ok(Self { inner, path, special, unknown })
    }

    /// Refuses a model whose vocabulary is too small for this tokenizer; models may have rows that no token uses.
    ///
    /// # Errors
    /// [`ModelError::TokenizerVocabulary`] with the token of the largest id; a tokenizer that fails on no text.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), ModelError> {
        // What is put around a text has ids of its own in the file, which nothing ties to the vocabulary.
        let around =
            self.encode("")?.into_iter().map(|id| (self.inner.id_to_token(id).unwrap_or_default(), id));
        match self.inner.get_vocab(true).into_iter().chain(around).max_by_key(|(_, id)| *id) {
            Some((token, id)) if id as usize >= vocabulary => {
                let (path, token) = (self.path.clone(), format!("{token:?}"));
                Err(ModelError::TokenizerVocabulary { path, token, id, vocabulary })
            }
            _ => Ok(()),
        }
    }

    /// Tokenizes a text, and adds what the tokenizer puts around every text, such as a token that begins it.
    ///
    /// Special tokens spelled out in the text stay text.
    ///
    /// # Errors
    /// A text longer than [`MAX_TEXT_BYTES`] or with 250 000 white space characters in a row; a text that the
    /// tokenizer fails on, or turns into a control token all the same.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(ModelError::TextTooLong { limit: MAX_TEXT_BYTES, got: text.len() });
        }
        let run = longest_white_space(text);
        if run > MAX_WHITE_SPACE {
            let reason = format!(
                "it has {run} white space characters in a row, and the limit is {MAX_WHITE_SPACE}: shorten the run"
            );
            return Err(ModelError::Encode { reason });
        }
        let encoding = contained(|| self.inner.encode_fast(text, true))
            .map_err(|reason| ModelError::Encode { reason })?;
        // The mask marks what was put around the text, which may well be control tokens.
        for (&id, &added) in encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()) {
            if added == 0 && self.is_control(id) {
                let token = format!("{:?}", self.token(id).unwrap_or_default());
                return Err(ModelError::ControlToken { token });
            }
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// Turns tokens into text; special tokens and ids that are no token give nothing, bytes that are not UTF-8
    /// give U+FFFD.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        // The library looks special tokens up by a text that its normalizer may have changed, and misses them.
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| !self.is_silent(id)).collect();
        contained(|| self.inner.decode(&ids, true)).map_err(|reason| ModelError::Decode { reason })
    }

    /// The token of an id, as it is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.special.get(&id).cloned().or_else(|| self.inner.id_to_token(id))
    }

    /// The least vocabulary that a model needs for this tokenizer: its largest id, and one.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The id of a token, as it is written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether an id is a special token other than the unknown token: one that text never becomes.
    pub fn is_control(&self, id: u32) -> bool {
        self.special.contains_key(&id) && self.unknown != Some(id)
    }

    /// Whether [`Tokenizer::decode`] passes an id over.
    fn is_silent(&self, id: u32) -> bool {
        self.special.contains_key(&id) || self.inner.id_to_token(id).is_none()
    }
}

/// Runs the tokenizer library, whose panics on strange input must end a request and not the process.
fn contained<T>(body: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizer library panicked".to_owned()),
    }
}

/// The keys of `tokenizer.json` that the library does not give access to, or changes without a word.
#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
}

#[derive(serde::Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    special: bool,
}

/// The token for what the vocabulary lacks stands in one of two keys.
#[derive(serde::Deserialize)]
struct Model {
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

impl File {
    fn read(bytes: &[u8], inner: &tokenizers::Tokenizer) -> Result<Self, String> {
        let file: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        // The library numbers added tokens itself and overrides the ids of a file that leaves gaps.
        for token in &file.added_tokens {
            let found = inner.token_to_id(&token.content);
            if found != Some(token.id) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                return Err(format!(
                    "it gives {:?} the id {}, and its place is {found}",
                    token.content, token.id
                ));
            }
        }
        Ok(file)
    }
}

fn longest_white_space(text: &str) -> usize {
    let (mut longest, mut run) = (0, 0);
    for character in text.chars() {
        run = if character.is_whitespace() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
