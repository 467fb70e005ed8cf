//! Tokens of one source in a file with a checked header, and what of them is learned.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::answers::Answers;
use crate::digest::Digest;
use crate::disk::{Disk, publish};
use crate::error::TrainError;

/// What a shard's file begins with.
const MAGIC: &[u8; 8] = b"DCTOKENS";
/// The version of the layout and of the rules by which text becomes tokens.
const VERSION: u32 = 2;
/// That of shards with answers, the newest that is read. Those without are written as before, for programs of before.
const ANSWERS_VERSION: u32 = 3;
/// Bytes of the header: magic, version, width, vocabulary, tokens, three digests, and a digest of all that.
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 4 * 32;
/// Bytes that precede the digests with answers: numbers of examples, of stretches that are learned, of unplaced answers.
const ANSWERS_BYTES: usize = 3 * 8;
/// Bytes that are converted at once.
const PIECE: usize = 1 << 16;

/// What a shard was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardFacts {
    /// Tokens that ids are below, v.
    pub vocabulary: u64,
    /// The digest of the tokenizer's file and of what stands around documents.
    pub tokenizer: Digest,
    /// The digest of the source.
    pub source: Digest,
}

/// The tokens of one source, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenShard {
    facts: ShardFacts,
    tokens: Tokens,
    answers: Option<Answers>,
}

/// Two bytes a token where the vocabulary allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tokens {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

impl TokenShard {
    /// A shard of tokens that have just been made, and of what of them is learned where that is not all.
    ///
    /// # Errors
    /// A token that is not below the vocabulary, which `path` then names; answers that are not in order or none of the
    /// tokens.
    pub fn new(
        path: &Path,
        facts: ShardFacts,
        ids: Vec<u32>,
        answers: Option<Answers>,
    ) -> Result<Self, TrainError> {
        if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| u64::from(**id) >= facts.vocabulary) {
            let reason =
                format!("token {at} has the id {id}, and the vocabulary has {} tokens", facts.vocabulary);
            return Err(TrainError::Shard { path: path.to_path_buf(), reason });
        }
        let tokens = Tokens::of(ids, facts.vocabulary);
        let shard = Self { facts, tokens, answers };
        match shard.problem() {
            None => Ok(shard),
            Some(reason) => Err(TrainError::Shard { path: path.to_path_buf(), reason }),
        }
    }

    fn problem(&self) -> Option<String> {
        self.answers.as_ref().and_then(|answers| answers.problem(self.len() as u64))
    }

    /// What of it is learned; `None` where that is all.
    pub fn answers(&self) -> Option<&Answers> {
        self.answers.as_ref()
    }

    /// What it was made of.
    pub fn facts(&self) -> &ShardFacts {
        &self.facts
    }

    /// The shard of some of its examples alone, those that are marked; all of it where it has none.
    #[must_use]
    pub(crate) fn only(&self, kept: &[bool]) -> Self {
        let Some(answers) = &self.answers else { return self.clone() };
        let (places, answers) = answers.only(kept, self.len() as u64);
        let mut ids = Vec::new();
        places
            .iter()
            .for_each(|place| self.read(place.start as usize, (place.end - place.start) as usize, &mut ids));
        Self { facts: self.facts, tokens: Tokens::of(ids, self.facts.vocabulary), answers: Some(answers) }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        match &self.tokens {
            Tokens::Narrow(ids) => ids.len(),
            Tokens::Wide(ids) => ids.len(),
        }
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the tokens from `first` on to `out`, at most `count` of them; those past the end are left out.
    pub fn read(&self, first: usize, count: usize, out: &mut Vec<u32>) {
        let range = first.min(self.len())..first.saturating_add(count).min(self.len());
        match &self.tokens {
            Tokens::Narrow(ids) => out.extend(ids[range].iter().map(|&id| u32::from(id))),
            Tokens::Wide(ids) => out.extend_from_slice(&ids[range]),
        }
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
        let body = self.body_digest();
        let mut header = Vec::with_capacity(HEADER_BYTES + ANSWERS_BYTES);
        header.extend(MAGIC);
        let version = if self.answers.is_some() { ANSWERS_VERSION } else { VERSION };
        header.extend(version.to_le_bytes());
        header.extend((width(self.facts.vocabulary) as u32).to_le_bytes());
        header.extend(self.facts.vocabulary.to_le_bytes());
        header.extend((self.len() as u64).to_le_bytes());
        if let Some(Answers { starts, spans, unplaced }) = &self.answers {
            for count in [starts.len() as u64, spans.len() as u64, *unplaced] {
                header.extend(count.to_le_bytes());
            }
        }
        for digest in [self.facts.tokenizer, self.facts.source, body] {
            header.extend(digest.0);
        }
        header.extend(Digest::of(&header).0);
        publish(disk, path, |file| {
            file.write_all(&header)?;
            self.pieces(&mut |bytes| file.write_all(bytes))
        })
    }

    /// Reads a file that [`TokenShard::write`] made.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`] for a file of a later version; a file that is none, of an earlier version, of another length than it says, or with other bytes than were
    /// written. Nothing is allocated from a claim before it has been compared with the file's length.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let refused = |reason: String| TrainError::Shard { path: path.to_path_buf(), reason };
        let read = |e| TrainError::io("read", path, e);
        let mut file = File::open(path).map_err(|e| TrainError::io("open", path, e))?;
        let length = file.metadata().map_err(read)?.len();
        if length < HEADER_BYTES as u64 {
            return Err(refused(format!("it has {length} bytes, fewer than its header of {HEADER_BYTES}")));
        }
        let mut header = vec![0; HEADER_BYTES];
        file.read_exact(&mut header).map_err(read)?;
        let mut fields = Fields(&header);
        if fields.take() != MAGIC {
            return Err(refused("it does not begin like one".to_owned()));
        }
        let version = u32::from_le_bytes(*fields.take());
        // Where a later version has its checksum is not known here.
        if version > ANSWERS_VERSION {
            let (found, known) = (u64::from(version), u64::from(ANSWERS_VERSION));
            return Err(TrainError::NewerFormat { path: path.to_path_buf(), found, known });
        }
        if version < VERSION {
            return Err(refused(format!("it has version {version}, and text becomes other tokens since")));
        }
        let has_answers = version == ANSWERS_VERSION;
        if has_answers {
            let whole = HEADER_BYTES + ANSWERS_BYTES;
            if length < whole as u64 {
                return Err(refused(format!("it has {length} bytes, fewer than its header of {whole}")));
            }
            header.resize(whole, 0);
            file.read_exact(&mut header[HEADER_BYTES..]).map_err(read)?;
        }
        let mut fields = Fields(&header[12..]);
        let stored_width = u32::from_le_bytes(*fields.take());
        let vocabulary = u64::from_le_bytes(*fields.take());
        let count = u64::from_le_bytes(*fields.take());
        let [examples, spans, unplaced] = if has_answers {
            [fields.take(), fields.take(), fields.take()].map(|bytes| u64::from_le_bytes(*bytes))
        } else {
            [0; 3]
        };
        let (tokenizer, source) = (Digest(*fields.take()), Digest(*fields.take()));
        let body = Digest(*fields.take());
        if Digest(*fields.take()) != Digest::of(&header[..header.len() - 32]) {
            return Err(refused("its header is damaged".to_owned()));
        }
        let width = width(vocabulary);
        if u64::from(stored_width) != width as u64 {
            return Err(refused(format!("its tokens have {stored_width} bytes, expected {width}")));
        }
        let numbers = u128::from(examples) + 2 * u128::from(spans);
        let expected = u128::from(count) * width as u128 + 8 * numbers + header.len() as u128;
        if expected != u128::from(length) {
            return Err(refused(format!("it has {length} bytes, and its {count} tokens take {expected}")));
        }
        let tokens = Tokens::read(&mut file, width, count as usize).map_err(read)?;
        let answers = if has_answers {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(read)?;
            let numbers: Vec<u64> =
                bytes.as_chunks().0.iter().map(|&eight| u64::from_le_bytes(eight)).collect();
            Some(Answers::of_numbers(&numbers, examples as usize, unplaced))
        } else {
            None
        };
        let shard = Self { facts: ShardFacts { vocabulary, tokenizer, source }, tokens, answers };
        if shard.body_digest() != body {
            return Err(refused("its tokens are damaged".to_owned()));
        }
        match shard.problem() {
            None => Ok(shard),
            Some(reason) => Err(refused(reason)),
        }
    }

    /// Gives the tokens as stored, piece by piece, and the answers behind them.
    fn pieces<E>(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.token_pieces(take)?;
        match &self.answers {
            None => Ok(()),
            Some(answers) => take(&answers.numbers().flat_map(u64::to_le_bytes).collect::<Vec<_>>()),
        }
    }

    fn token_pieces<E>(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut bytes = Vec::with_capacity(4 * PIECE);
        match &self.tokens {
            Tokens::Narrow(ids) => ids.chunks(PIECE).try_for_each(|ids| {
                bytes.clear();
                bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                take(&bytes)
            }),
            Tokens::Wide(ids) => ids.chunks(PIECE).try_for_each(|ids| {
                bytes.clear();
                bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                take(&bytes)
            }),
        }
    }

    fn body_digest(&self) -> Digest {
        let mut hash = crate::digest::Measured::new(std::io::sink());
        // A sink takes everything.
        let _ = self.pieces(&mut |bytes| hash.write_all(bytes));
        hash.finish().2
    }
}

impl Tokens {
    fn of(ids: Vec<u32>, vocabulary: u64) -> Self {
        match width(vocabulary) {
            2 => Self::Narrow(ids.iter().map(|&id| id as u16).collect()),
            _ => Self::Wide(ids),
        }
    }

    fn read(file: &mut File, width: usize, count: usize) -> std::io::Result<Self> {
        let mut bytes = vec![0; PIECE * width];
        let mut pieces = |take: &mut dyn FnMut(&[u8])| {
            let mut left = count;
            while left > 0 {
                let piece = &mut bytes[..left.min(PIECE) * width];
                file.read_exact(piece)?;
                take(piece);
                left -= piece.len() / width;
            }
            Ok(())
        };
        if width == 2 {
            let mut ids = Vec::with_capacity(count);
            pieces(&mut |bytes| {
                ids.extend(bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)));
            })
            .map(|()| Self::Narrow(ids))
        } else {
            let mut ids = Vec::with_capacity(count);
            pieces(&mut |bytes| {
                ids.extend(bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)));
            })
            .map(|()| Self::Wide(ids))
        }
    }
}

/// The rest of a header, taken field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> &'a [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                field
            }
            // Not reached: the fields add up to the header's length.
            None => &[0; N],
        }
    }
}

/// Bytes of one token.
fn width(vocabulary: u64) -> usize {
    if vocabulary <= 1 << 16 { 2 } else { 4 }
}

#[cfg(test)]
mod tests;
