//! Which tokens of a conversation are the assistant's.

use std::ops::Range;

use minijinja::Value;

use super::{ChatError, ChatTemplate, Message, Role, said};
use crate::tokenizer::Tokenizer;

/// A whole conversation in tokens, up to its last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Where each answer stands that the model would have generated, with the token that ends it; in their order, none
    /// empty.
    pub answers: Vec<Range<usize>>,
    /// Messages of the assistant of which the template does not tell where they stand.
    pub unplaced: usize,
    /// Whether the last answer ends with a stop token.
    pub is_stopped: bool,
}

impl ChatTemplate {
    /// The tokens of a conversation up to the last message of the assistant, and which of them are its answers: those that
    /// the model would generate if it was asked with all that precedes, up to the last token of `stops` among them where the
    /// template writes one.
    ///
    /// An answer begins where the text that asks for it ends, and is over where the conversation with it is. A template that
    /// writes earlier messages otherwise once later ones follow (without what was thought, say) leaves no such place in the
    /// whole text; such an answer is context alone.
    ///
    /// # Errors
    /// A conversation without an answer, or one that the template refuses or makes too much of.
    pub fn answered(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        stops: &[u32],
    ) -> Result<Answered, ChatError> {
        let is_answer = |message: &Message| message.role == Role::Assistant;
        let last = messages.iter().rposition(is_answer).ok_or(ChatError::NoAnswer)?;
        let messages = &messages[..=last];
        let told = messages.iter().map(|message| said(tokenizer, message)).collect::<Result<Vec<_>, _>>()?;
        let render = |count: usize, is_asked: bool| {
            self.render(&told[..count], is_asked, vec![("tools".to_owned(), Value::from(()))])
        };
        let whole = render(told.len(), false)?;
        let mut places = Vec::new();
        let mut unplaced = 0;
        for at in (0..messages.len()).filter(|&at| is_answer(&messages[at])) {
            // A template may refuse a beginning of what it takes as a whole, one without a question for instance.
            let asked = render(at, true).ok().filter(|asked| whole.starts_with(asked.as_str()));
            let over =
                if at == last { Some(whole.len()) } else { within(&whole, render(at + 1, false).ok()) };
            match (asked, over) {
                (Some(asked), Some(over)) if asked.len() < over => places.push(asked.len()..over),
                _ => unplaced += 1,
            }
        }
        let tokens = tokenizer.encode_rendered_at(&whole)?;
        if tokens.is_empty() {
            return Err(ChatError::Nothing);
        }
        let mut answers = Vec::new();
        let mut is_stopped = false;
        for (number, place) in places.iter().enumerate() {
            // A token that begins before the place is one that the question would end with.
            let first = tokens.partition_point(|(_, bytes)| bytes.start < place.start);
            let behind = tokens.partition_point(|(_, bytes)| bytes.end <= place.end).max(first);
            let stop = tokens[first..behind].iter().rposition(|(id, _)| stops.contains(id));
            let end = stop.map_or(behind, |stop| first + stop + 1);
            is_stopped = stop.is_some() && number + 1 == places.len() && place.end == whole.len();
            if first < end {
                answers.push(first..end);
            } else {
                unplaced += 1;
            }
        }
        Ok(Answered { ids: tokens.into_iter().map(|(id, _)| id).collect(), answers, unplaced, is_stopped })
    }
}

/// The length of a text that a longer one begins with.
fn within(whole: &str, beginning: Option<String>) -> Option<usize> {
    beginning.filter(|beginning| whole.starts_with(beginning.as_str())).map(|beginning| beginning.len())
}

#[cfg(test)]
mod tests;
