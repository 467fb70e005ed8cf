//! Text to tokens and back, with the `tokenizer.json` of a model.

mod bytes;
mod file;
mod incremental;
mod rendered;

pub use incremental::IncrementalText;

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::tokenizer::{AddedVocabulary, Encoding, Model, OffsetType, PreTokenizer};
use tokenizers::{Decoder, DecoderWrapper, NormalizedString};

use crate::companion::read_companion;
use crate::error::ModelError;
use file::{File, Misplaced};

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
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// The tokenizer of a model, for text of users ([`Tokenizer::encode`]) and for whole prompts, which may hold control
/// tokens ([`Tokenizer::encode_prompt`]).
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The library's added tokens, which finds no special ones in a text.
    plain: AddedVocabulary,
    path: PathBuf,
    /// Tokens that have no text, as the file writes them: a normalizer may have changed the library's copy.
    special: HashMap<u32, String>,
    /// Tokens to which the library gave another id than the file, by the library's.
    misplaced: HashMap<u32, Misplaced>,
    /// The special token that text may become.
    unknown: Option<u32>,
    /// Whether tokens such as `<0xE4>` are bytes of a text.
    byte_tokens: bool,
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
        match read_companion(&path, MAX_FILE_BYTES)? {
            Some(bytes) => Self::parse(&path, &bytes),
            None => Err(ModelError::NoTokenizer { path }),
        }
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
        let file = match serde_json::from_slice::<File>(bytes) {
            Ok(file) => file,
            Err(e) => return Err(ModelError::Tokenizer { path, reason: e.to_string() }),
        };
        inner.with_padding(None);
        if let Err(e) = inner.with_truncation(None) {
            return Err(ModelError::Tokenizer { path, reason: e.to_string() });
        }
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let unknown = file.model.unk_id.or_else(|| inner.token_to_id(file.model.unk_token.as_ref()?));
        let (special, misplaced) = file.placed(&inner);
        let byte_tokens = inner.get_decoder().is_some_and(falls_back_to_bytes);
        Ok(Self { inner, plain, path, special, misplaced, unknown, byte_tokens })
    }

    /// Refuses a model whose vocabulary is too small for this tokenizer; models may have rows that no token uses.
    ///
    /// Added tokens may lie outside the vocabulary, as they do in files to which somebody added a padding token that
    /// is never used: [`Tokenizer::check_ids`] refuses a text that does use one.
    ///
    /// # Errors
    /// [`ModelError::TokenizerVocabulary`] with the token of the largest id; a tokenizer that fails on no text.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), ModelError> {
        // What is put around a text has ids of its own in the file, which nothing ties to the vocabulary.
        let around =
            self.encode("")?.into_iter().map(|id| (self.inner.id_to_token(id).unwrap_or_default(), id));
        let added = self.plain.get_vocab();
        let own = self.inner.get_vocab(false).into_iter().filter(|(token, _)| !added.contains_key(token));
        match own.chain(around).max_by_key(|(_, id)| *id) {
            Some((token, id)) if id as usize >= vocabulary => {
                let (path, token) = (self.path.clone(), format!("{token:?}"));
                Err(ModelError::TokenizerVocabulary { path, token, id, vocabulary })
            }
            _ => Ok(()),
        }
    }

    /// Refuses tokens of a text that the model does not have.
    ///
    /// # Errors
    /// [`ModelError::TokenWithoutRow`] with the first such token.
    pub fn check_ids(&self, ids: &[u32], vocabulary: usize) -> Result<(), ModelError> {
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => {
                let (path, token) = (self.path.clone(), format!("{:?}", self.token(id).unwrap_or_default()));
                Err(ModelError::TokenWithoutRow { path, token, id, vocabulary })
            }
            None => Ok(()),
        }
    }

    /// Tokenizes a text of a user, such as a message of a chat or a document: special tokens spelled out in it stay
    /// text. Adds what the tokenizer puts around every text, such as a token that begins it.
    ///
    /// # Errors
    /// A text longer than [`MAX_TEXT_BYTES`] or with 250 000 white space characters in a row; a text that the
    /// tokenizer fails on, or turns into a control token all the same.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.encode_with(&self.plain, text)?;
        // The mask marks what was put around the text, which may well be control tokens.
        for (&id, &added) in encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()) {
            if added == 0 && self.is_control(id) {
                let token = format!("{:?}", self.token(id).unwrap_or_default());
                return Err(ModelError::ControlToken { token });
            }
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a stretch of a longer text, without what the tokenizer puts around every text, each with the bytes of
    /// `text` that it stands for. Tokens of one character that has several have the same bytes; bytes that a normalizer takes
    /// away are of no token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_piece(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, ModelError> {
        let encoding = self.encode_split(&self.plain, text, |_| Ok(()), false, OffsetType::Byte)?;
        if let Some(&id) = encoding.get_ids().iter().find(|&&id| self.is_control(id)) {
            let token = format!("{:?}", self.token(id).unwrap_or_default());
            return Err(ModelError::ControlToken { token });
        }
        let ranges = encoding.get_offsets().iter().map(|&(from, to)| from..to);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    /// Tokenizes a prompt that its writer answers for as a whole, such as a filled-in chat template: special tokens
    /// spelled out in it become those tokens. Adds what the tokenizer puts around every text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], control tokens apart.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.encode_with(self.inner.get_added_vocabulary(), text)?.get_ids().to_vec())
    }

    fn encode_with(&self, added: &AddedVocabulary, text: &str) -> Result<Encoding, ModelError> {
        self.encode_split(added, text, |_| Ok(()), true, OffsetType::None)
    }

    /// Splits a text at added tokens, lets `change` change what lies between them, and tokenizes that; `around` says whether
    /// to add what the tokenizer puts around every text, and `offsets` whether to tell where tokens stand in it.
    fn encode_split(
        &self,
        added: &AddedVocabulary,
        text: &str,
        change: impl Fn(&mut NormalizedString) -> tokenizers::Result<()>,
        around: bool,
        offsets: OffsetType,
    ) -> Result<Encoding, ModelError> {
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
        // The library's own `encode_fast`, which knows one vocabulary of added tokens only.
        let encode = || {
            let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
            pieces.normalize(&change)?;
            if let Some(splitter) = self.inner.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut pieces)?;
            }
            self.inner.get_model().tokenize_in_pretokenized(&mut pieces, None)?;
            let encoding = pieces.into_encoding(None, 0, offsets)?;
            if around { self.inner.post_process(encoding, None, true) } else { Ok(encoding) }
        };
        let encoding = contained(encode).map_err(|reason| ModelError::Encode { reason })?;
        match encoding.get_ids().iter().find_map(|id| self.misplaced.get(id)) {
            Some(Misplaced { token, stated, place }) => {
                let reason = format!(
                    "it holds {token:?}, which {} gives the id {stated} although its place is {place}: remove it from the text",
                    self.path.display()
                );
                Err(ModelError::Encode { reason })
            }
            None => Ok(encoding),
        }
    }

    /// Turns tokens into text; special tokens and ids that are no token give nothing, each broken sequence of bytes
    /// that is no UTF-8 gives one U+FFFD.
    ///
    /// # Errors
    /// Tokens that the tokenizer fails on.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        // The library looks special tokens up by a text that its normalizer may have changed, and misses them.
        let mut tokens: Vec<String> = ids.iter().filter_map(|&id| self.with_text(id)).collect();
        if self.byte_tokens {
            tokens = bytes::repaired(tokens);
        }
        let decode = || match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens),
            None => Ok(tokens.join(" ")),
        };
        contained(decode).map_err(|reason| ModelError::Decode { reason })
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

    /// How a prompt spells a special token out; none for others.
    pub fn special_token(&self, id: u32) -> Option<&str> {
        self.special.get(&id).map(String::as_str)
    }

    /// The token of an id, unless [`Tokenizer::decode`] passes it over.
    fn with_text(&self, id: u32) -> Option<String> {
        if self.special.contains_key(&id) || self.misplaced.contains_key(&id) {
            return None;
        }
        self.inner.id_to_token(id).filter(|token| !token.is_empty())
    }
}

fn falls_back_to_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(falls_back_to_bytes),
        _ => false,
    }
}

/// Runs the tokenizer library, whose panics on strange input must end a request and not the process.
fn contained<T>(body: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizer library panicked".to_owned()),
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
