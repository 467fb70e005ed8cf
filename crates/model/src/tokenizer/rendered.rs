//! Filled-in chat templates: what the template writes may be control tokens, what people write never is.
//!
//! Text of people is disarmed before it goes into the template: within each control token that it spells out, and
//! within what could become one beside the template's own text, stands a character that no text holds. The tokenizer does
//! not see a control token there, and the character is taken away before it splits words.

use std::ops::Range;

use tokenizers::OffsetReferential;
use tokenizers::tokenizer::{Encoding, OffsetType};

use super::{Tokenizer, contained};
use crate::ModelError;

/// Breaks a control token; Unicode promises that it is no character, so no text loses anything by it.
const BREAK: char = '\u{fdd0}';

impl Tokenizer {
    /// A text of a person for a chat template: no part of it becomes a control token in
    /// [`Tokenizer::encode_rendered`], whatever the template writes beside it.
    ///
    /// # Errors
    /// A text that the tokenizer library fails on.
    pub fn disarm(&self, text: &str) -> Result<String, ModelError> {
        let mut text = text.replace(BREAK, "\u{fffd}");
        // Breaking one token may leave another, but each turn breaks at least one character pair for good.
        loop {
            let found = contained(|| Ok(self.control_tokens_in(&text)))
                .map_err(|reason| ModelError::Encode { reason })?;
            if found.is_empty() {
                break;
            }
            found.into_iter().rev().for_each(|start| break_after(&mut text, start));
        }
        let starts: Vec<usize> = self.special.values().filter_map(|token| open_start(&text, token)).collect();
        if let Some(&start) = starts.iter().min() {
            break_after(&mut text, start);
        }
        let ends: Vec<usize> = self.special.values().filter_map(|token| open_end(&text, token)).collect();
        if let Some(&end) = ends.iter().max() {
            text.insert(end, BREAK);
        }
        Ok(text)
    }

    /// Tokenizes a filled-in chat template, to which the texts of people were given by [`Tokenizer::disarm`]. Nothing is
    /// put around it: a template writes what begins a text itself.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_prompt`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.rendered(text, OffsetType::None)?.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode_rendered`], each token with the bytes of `text` that it stands for. Tokens of one character
    /// that has several have the same bytes.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_rendered`].
    pub fn encode_rendered_at(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, ModelError> {
        let encoding = self.rendered(text, OffsetType::Byte)?;
        let ranges = encoding.get_offsets().iter().map(|&(from, to)| from..to);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    fn rendered(&self, text: &str, offsets: OffsetType) -> Result<Encoding, ModelError> {
        let added = self.inner.get_added_vocabulary();
        let mend = |piece: &mut tokenizers::NormalizedString| {
            piece.filter(|character| character != BREAK);
            Ok(())
        };
        let encoding = self.encode_split(added, text, mend, false, offsets)?;
        // A vocabulary may also make a control token of the pieces of a text.
        let written = contained(|| Ok(self.control_tokens_in(text).len()));
        let written = written.map_err(|reason| ModelError::Encode { reason })?;
        match encoding.get_ids().iter().filter(|&&id| self.is_control(id)).nth(written) {
            Some(&id) => {
                Err(ModelError::ControlToken { token: format!("{:?}", self.token(id).unwrap_or_default()) })
            }
            None => Ok(encoding),
        }
    }

    /// Where the library finds control tokens in a text, in bytes.
    fn control_tokens_in(&self, text: &str) -> Vec<usize> {
        let added = self.inner.get_added_vocabulary();
        let pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let found = pieces.into_iter().filter(|(_, _, tokens)| {
            tokens.as_ref().is_some_and(|tokens| tokens.iter().any(|token| self.is_control(token.id)))
        });
        // A token may take white space beside it along.
        let start = |(_, (start, end), _): (&str, (usize, usize), &Option<Vec<tokenizers::Token>>)| {
            let piece = text.get(start..end).unwrap_or_default();
            start + (piece.len() - piece.trim_start().len())
        };
        found.map(start).collect()
    }
}

/// Puts a break behind the character at a place.
fn break_after(text: &mut String, start: usize) {
    let width = text.get(start..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
    text.insert((start + width).min(text.len()), BREAK);
}

/// Where, at the end of a text, a token begins that what follows could complete; white space there may be trimmed.
fn open_start(text: &str, token: &str) -> Option<usize> {
    let text = text.trim_end();
    let mut ends = token.char_indices().rev().map(|(end, _)| end).filter(|&end| end > 0);
    ends.find(|&end| text.ends_with(&token[..end])).map(|end| text.len() - end)
}

/// Before which character, at the start of a text, a token would have to be broken that what precedes could begin.
fn open_end(text: &str, token: &str) -> Option<usize> {
    let trimmed = text.trim_start();
    let offset = text.len() - trimmed.len();
    let starts = token.char_indices().map(|(start, _)| start).skip(1);
    let end = starts.map(|start| &token[start..]).find(|end| trimmed.starts_with(end))?;
    end.char_indices().last().map(|(last, _)| offset + last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_become_a_token_beside_other_text_is_found_at_both_ends() {
        let token = "<|im_end|>";
        for (text, start) in [("a <|im", Some(2)), ("<", Some(0)), ("a<|im_end| \n", Some(1)), ("a|", None)] {
            assert_eq!(open_start(text, token), start, "{text}");
        }
        for (text, end) in [("> a", Some(0)), (" _end|>", Some(6)), ("|> a", Some(1)), ("a>", None)] {
            assert_eq!(open_end(text, token), end, "{text}");
        }
    }
}
