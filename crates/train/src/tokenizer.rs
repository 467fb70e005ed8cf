//! A byte-level BPE tokenizer of one's own text.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, Tokenizer};

use crate::TrainError;
use crate::data::{Document, Documents, END_OF_TEXT};
use crate::disk::{LocalDisk, publish};

/// Smallest vocabulary: every byte, and the token that ends a text.
pub const MIN_VOCABULARY: usize = 257;

/// What came of training a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// Tokens that it has; fewer than asked for where the text has no more pairs that occur twice.
    pub vocabulary: usize,
    /// Documents that it was trained on.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
}

/// Trains a byte-level BPE tokenizer on `files` and writes it to `out` as a `tokenizer.json`.
///
/// Any text can be tokenized, since every byte is a token; `<|endoftext|>` is a special token and has the id 0. The
/// text is split as GPT-2 splits it, and no space is put before it. The same files give the same tokenizer.
/// `progress` gets the documents and bytes read so far.
///
/// # Errors
/// A vocabulary below [`MIN_VOCABULARY`] or above a model's limit; what [`Documents`] refuses; a file that cannot be
/// written. `out` appears whole or not at all.
pub fn train_bpe(
    files: &[PathBuf],
    vocabulary: usize,
    out: &Path,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<TrainedTokenizer, TrainError> {
    let refused = |reason: String| TrainError::TokenizerTraining { reason };
    if !(MIN_VOCABULARY..=dropcap_model::MAX_VOCABULARY).contains(&vocabulary) {
        return Err(refused(format!(
            "a vocabulary of {vocabulary} tokens is outside {MIN_VOCABULARY} (all bytes and {END_OF_TEXT}) to {}",
            dropcap_model::MAX_VOCABULARY
        )));
    }
    if files.is_empty() {
        return Err(refused("no file is given".to_owned()));
    }
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    tokenizer.with_post_processor(Some(ByteLevel::default().trim_offsets(false)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let end = AddedToken::from(END_OF_TEXT.to_owned(), true);
    let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .special_tokens(vec![end])
        .initial_alphabet(alphabet)
        .build();
    // The library takes texts only; what goes wrong with them is kept aside, and ends them.
    let failure = Mutex::new(None);
    let mut done = TrainedTokenizer { vocabulary, documents: 0, bytes: 0 };
    let texts = files.iter().flat_map(|file| Source::open(file));
    let texts = texts.map_while(|found| match found {
        Ok(document) => {
            done.documents += 1;
            done.bytes += document.text.len() as u64;
            progress(done.documents, done.bytes);
            Some(document.text)
        }
        Err(error) => {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            None
        }
    });
    let mut trainer = TrainerWrapper::from(trainer);
    let trained = tokenizer.train(&mut trainer, texts).map(|_| ()).map_err(|error| error.to_string());
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    trained.map_err(refused)?;
    let text = tokenizer.to_string(true).map_err(|error| refused(error.to_string()))?;
    publish(&LocalDisk, out, |file| file.write_all(text.as_bytes()))?;
    done.vocabulary = tokenizer.get_model().get_vocab_size();
    Ok(done)
}

/// A file's documents, or the reason why it was not opened.
enum Source {
    Open(Box<Documents>),
    Refused(Option<TrainError>),
}

impl Source {
    fn open(file: &Path) -> Self {
        Documents::open(file)
            .map_or_else(|error| Self::Refused(Some(error)), |documents| Self::Open(Box::new(documents)))
    }
}

impl Iterator for Source {
    type Item = Result<Document, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Open(documents) => documents.next(),
            Self::Refused(error) => error.take().map(Err),
        }
    }
}
