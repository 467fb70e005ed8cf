//! The texts that a tokenizer is trained on, one after the other, none with a word that would take forever.

use std::path::PathBuf;

use super::{MAX_WORD_BYTES, TokenizerProgress};
use crate::TrainError;
use crate::data::{Documents, pieces};

/// Texts of all files. The library takes texts only; what goes wrong with them ends them, and is kept aside.
pub(super) struct Feed<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    open: Option<Documents>,
    /// What is left of the document that is being given.
    waiting: std::vec::IntoIter<String>,
    pub(super) documents: u64,
    pub(super) bytes: u64,
    pub(super) cut_words: u64,
    pub(super) failure: Option<TrainError>,
    progress: &'a mut (dyn FnMut(TokenizerProgress) + Send),
}

impl<'a> Feed<'a> {
    pub(super) fn new(files: &'a [PathBuf], progress: &'a mut (dyn FnMut(TokenizerProgress) + Send)) -> Self {
        Self {
            files: files.iter(),
            open: None,
            waiting: Vec::new().into_iter(),
            documents: 0,
            bytes: 0,
            cut_words: 0,
            failure: None,
            progress,
        }
    }

    /// The text of the next document of all files.
    fn document(&mut self) -> Result<Option<String>, TrainError> {
        loop {
            match &mut self.open {
                Some(documents) => match documents.next() {
                    Some(document) => {
                        return document.map(|document| Some(document.said.text().into_owned()));
                    }
                    None => self.open = None,
                },
                None => match self.files.next() {
                    Some(file) => self.open = Some(Documents::open(file)?),
                    None => return Ok(None),
                },
            }
        }
    }
}

impl Iterator for Feed<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.waiting.next() {
                return Some(text);
            }
            if self.failure.is_some() {
                return None;
            }
            match self.document() {
                Ok(Some(document)) => {
                    let mut texts = Vec::new();
                    for piece in pieces(&document) {
                        self.cut_words += cut(piece, &mut texts);
                    }
                    self.waiting = texts.into_iter();
                    self.documents += 1;
                    self.bytes += document.len() as u64;
                    (self.progress)(TokenizerProgress::Reading {
                        documents: self.documents,
                        bytes: self.bytes,
                    });
                }
                Ok(None) => {
                    (self.progress)(TokenizerProgress::Joining { bytes: self.bytes });
                    return None;
                }
                Err(error) => self.failure = Some(error),
            }
        }
    }
}

/// Appends a text to `out`, cut wherever it has more than [`MAX_WORD_BYTES`] of nothing but white space, or of anything
/// else; gives the number of the latter.
fn cut(text: &str, out: &mut Vec<String>) -> u64 {
    let (mut begin, mut run, mut is_space, mut words, mut counted) = (0, 0, false, 0, false);
    for (at, character) in text.char_indices() {
        if character.is_whitespace() != is_space {
            (run, is_space, counted) = (at, !is_space, false);
        }
        if at + character.len_utf8() - run > MAX_WORD_BYTES {
            out.push(text[begin..at].to_owned());
            words += u64::from(!is_space && !counted);
            (begin, run, counted) = (at, at, true);
        }
    }
    out.push(text[begin..].to_owned());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cuts(text: &str) -> (Vec<String>, u64) {
        let mut out = Vec::new();
        let words = cut(text, &mut out);
        (out, words)
    }

    proptest! {
        #[test]
        fn a_text_that_is_cut_is_the_same_text_and_no_word_is_too_long(
            runs in prop::collection::vec((0_usize..1500, prop::sample::select(vec!["a", "é", "漢", " ", "\n", "\u{a0}"])), 0..6),
        ) {
            let text: String = runs.iter().map(|(count, letter)| letter.repeat(*count)).collect();
            let (texts, _) = cuts(&text);
            prop_assert_eq!(texts.concat(), text);
            for text in &texts {
                let words = text.split(char::is_whitespace).map(str::len).max().unwrap_or(0);
                let spaces = text.split(|c: char| !c.is_whitespace()).map(str::len).max().unwrap_or(0);
                prop_assert!(words.max(spaces) <= MAX_WORD_BYTES, "{} {}", words, spaces);
            }
        }
    }

    #[test]
    fn only_what_is_no_text_of_words_is_cut() {
        let text = "The cat sat, naïvely, on the mat.\n\n".repeat(2000);
        assert_eq!(cuts(&text), (vec![text], 0));
        let (texts, words) = cuts(&format!("a {} b {}", "ab".repeat(1000), " ".repeat(3000)));
        assert_eq!((texts.len(), words), (9, 1));
    }
}
