//! Shards for a list of sources: found in the cache, or made.

use std::path::{Path, PathBuf};

use super::documents::Form;
use super::language::Language;
use super::shard::{ShardFacts, TokenShard};
use super::tokens::{Tokenized, tokenize};
use crate::TrainError;
use crate::digest::Digest;
use crate::disk::{Disk, LocalDisk};

/// What to turn into tokens, and where to keep them.
#[derive(Debug, Clone, Copy)]
pub struct Preparing<'a> {
    /// The sources, in their order.
    pub files: &'a [PathBuf],
    /// How they become tokens.
    pub language: Language<'a>,
    /// The digest of the tokenizer's file.
    pub tokenizer_digest: Digest,
    /// Tokens of the model, v.
    pub vocabulary: usize,
    /// The folder that shards are kept in.
    pub cache: &'a Path,
    /// Whether what is made is written there; else the cache is only looked into.
    pub keep: bool,
    /// Threads to tokenize with.
    pub threads: usize,
}

/// What [`prepare`] tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prepared<'a> {
    /// A source's shard was found in the cache.
    Found {
        /// The source.
        file: &'a Path,
        /// Its tokens.
        tokens: u64,
    },
    /// A source is being tokenized.
    Tokenizing {
        /// The source.
        file: &'a Path,
        /// Tokens so far.
        tokens: u64,
    },
    /// A source's shard has been made.
    Made {
        /// The source.
        file: &'a Path,
        /// Its tokens.
        tokens: u64,
    },
    /// A shard in the cache could not be used and is made again.
    Replacing {
        /// The shard.
        shard: &'a Path,
        /// Why.
        reason: String,
    },
}

/// The shards of all sources, in their order.
///
/// A shard in the cache is used if its header and bytes are whole and it was made of the same source by the same
/// tokenizer with the same borders, and of conversations by the same chat template; otherwise it is made again.
///
/// # Errors
/// A source that is refused (see [`super::Documents`]); conversations for a model without a chat template; a
/// shard of a later version; one that cannot be written.
pub fn prepare(
    what: &Preparing<'_>,
    tell: &mut dyn FnMut(Prepared<'_>),
) -> Result<Vec<TokenShard>, TrainError> {
    what.files.iter().map(|file| prepare_one(&LocalDisk, what, file, tell)).collect()
}

fn prepare_one(
    disk: &dyn Disk,
    what: &Preparing<'_>,
    file: &Path,
    tell: &mut dyn FnMut(Prepared<'_>),
) -> Result<TokenShard, TrainError> {
    let facts = ShardFacts {
        vocabulary: what.vocabulary as u64,
        tokenizer: what.language.digest(Form::of_file(file)?, &what.tokenizer_digest),
        source: Digest::of_file(file)?,
    };
    let path = shard_path(what, file, &facts.tokenizer);
    if path.exists() {
        match TokenShard::open(&path) {
            Ok(shard) if *shard.facts() == facts => {
                tell(Prepared::Found { file, tokens: shard.len() as u64 });
                return Ok(shard);
            }
            Ok(_) => {
                let reason = format!("{} or the tokenizer has changed since", file.display());
                tell(Prepared::Replacing { shard: &path, reason });
            }
            Err(error @ TrainError::NewerFormat { .. }) => return Err(error),
            Err(error) => tell(Prepared::Replacing { shard: &path, reason: error.to_string() }),
        }
    }
    let mut progress = |tokens| tell(Prepared::Tokenizing { file, tokens });
    let Tokenized { ids, answers } = tokenize(file, &what.language, what.threads, &mut progress)?;
    let shard = TokenShard::new(&path, facts, ids, answers)?;
    if what.keep {
        disk.create_folder(what.cache).map_err(|e| TrainError::write(what.cache, e))?;
        shard.write(disk, &path)?;
    }
    tell(Prepared::Made { file, tokens: shard.len() as u64 });
    Ok(shard)
}

/// One name per source and tokenizer, so that runs with different tokenizers can share a cache.
fn shard_path(what: &Preparing<'_>, file: &Path, tokenizer: &Digest) -> PathBuf {
    let place = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let place = place.to_string_lossy();
    let mark = Digest::of_parts([place.as_bytes(), &tokenizer.0]).short();
    let stem: String = file.file_name().unwrap_or_default().to_string_lossy().chars().take(100).collect();
    what.cache.join(format!("{stem}-{mark}.tokens"))
}
