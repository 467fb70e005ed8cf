//! Text that has nothing to do with what is asked.

use std::path::Path;

use dropcap_train::data::Documents;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::EvalError;

/// RULER's noise (Hsieh et al. 2024, arXiv 2404.06654).
const NOISE: [&str; 5] =
    ["The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."];

/// Sentences to hide something among.
#[derive(Debug)]
pub(super) struct Haystack {
    sentences: Vec<String>,
}

impl Haystack {
    /// The sentences of a text file, or a few that repeat.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, EvalError> {
        let Some(path) = path else {
            return Ok(Self { sentences: NOISE.map(str::to_owned).to_vec() });
        };
        let mut sentences = Vec::new();
        for document in Documents::open(path)? {
            split(&document?.said.text(), &mut sentences);
        }
        Ok(Self { sentences })
    }

    /// Sentences one after the other from a random place on, without end.
    pub(super) fn run_on(&self, random: &mut ChaCha8Rng) -> impl Iterator<Item = &str> {
        let start = random.random_range(0..self.sentences.len().max(1));
        self.sentences.iter().cycle().skip(start).map(String::as_str)
    }
}

/// Cuts a text after marks that end sentences; line breaks and runs of spaces become one space.
fn split(text: &str, into: &mut Vec<String>) {
    let mut sentence = String::new();
    for word in text.split_whitespace() {
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(word);
        let last = word.trim_end_matches(['"', '\'', ')', '”', '’']).chars().last();
        if matches!(last, Some('.' | '!' | '?')) {
            into.push(std::mem::take(&mut sentence));
        }
    }
    if !sentence.is_empty() {
        into.push(sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_marks_whatever_the_lines() {
        let mut sentences = Vec::new();
        split("One two\nthree.  \"Four!\" five?\n\nsix", &mut sentences);
        assert_eq!(sentences, ["One two three.", "\"Four!\"", "five?", "six"]);
    }
}
