//! A byte-level BPE tokenizer of one's own text.

mod feed;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, Tokenizer};

use crate::TrainError;
use crate::data::END_OF_TEXT;
use crate::disk::{LocalDisk, publish};
use feed::Feed;

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
    /// Stretches longer than [`MAX_WORD_BYTES`] without a place to cut between words, which were cut all the same.
    pub cut_words: u64,
}

/// How far the training of a tokenizer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerProgress {
    /// Text is read and cut into words.
    Reading {
        /// Documents so far.
        documents: u64,
        /// Bytes of their text.
        bytes: u64,
    },
    /// All text is read; pairs are joined, the most frequent first.
    Joining {
        /// Bytes of all text.
        bytes: u64,
    },
}

/// Longest stretch of letters or of white space that is counted as one word, in bytes.
///
/// Joining a pair takes time in the square of the word that it stands in, and no language has words as long as this:
/// data without spaces, such as sequences of bases or of base64, is what is cut here.
pub const MAX_WORD_BYTES: usize = 512;

/// Trains a byte-level BPE tokenizer on `files` and writes it to `out` as a `tokenizer.json`.
///
/// Any text can be tokenized, since every byte is a token; `<|endoftext|>` is a special token and has the id 0. The
/// text is split as GPT-2 splits it, and no space is put before it; words longer than [`MAX_WORD_BYTES`] are counted in
/// pieces. The same files give the same tokenizer.
///
/// # Errors
/// A vocabulary below [`MIN_VOCABULARY`] or above a model's limit; what [`crate::data::Documents`] refuses; a file that cannot be
/// written. `out` appears whole or not at all.
pub fn train_bpe(
    files: &[PathBuf],
    vocabulary: usize,
    out: &Path,
    progress: &mut (dyn FnMut(TokenizerProgress) + Send),
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
    let mut feed = Feed::new(files, progress);
    let mut trainer = TrainerWrapper::from(trainer);
    let trained = tokenizer.train(&mut trainer, &mut feed).map(|_| ()).map_err(|error| error.to_string());
    let Feed { failure, documents, bytes, cut_words, .. } = feed;
    if let Some(error) = failure {
        return Err(error);
    }
    trained.map_err(refused)?;
    let text = tokenizer.to_string(true).map_err(|error| refused(error.to_string()))?;
    publish(&LocalDisk, out, |file| file.write_all(text.as_bytes()))?;
    let vocabulary = tokenizer.get_model().get_vocab_size();
    Ok(TrainedTokenizer { vocabulary, documents, bytes, cut_words })
}
