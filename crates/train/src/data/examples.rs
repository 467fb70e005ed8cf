//! Examples to tokens: a question that is context, and an answer that is learned.

use std::ops::Range;

use dropcap_model::ModelError;
use dropcap_model::chat::{Answered, Message};

use super::documents::{Document, Form, Said};
use super::language::Language;

/// An example in tokens, with its borders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Example {
    pub(super) ids: Vec<u32>,
    /// What of it is learned.
    pub(super) answers: Vec<Range<usize>>,
    /// Messages of the assistant that are context alone.
    pub(super) unplaced: usize,
}

/// The tokens of an example, or what is wrong with it.
pub(super) fn encode(language: &Language<'_>, document: &Document) -> Result<Example, String> {
    match &document.said {
        Said::Pair { prompt, completion } => {
            pair(language, prompt, completion).map_err(|error| format!("cannot be tokenized: {error}"))
        }
        Said::Chat(messages) => chat(language, messages),
        Said::Text(_) => Err(format!("is no example, but one of {}", Form::Text.name())),
    }
}

/// The prompt as inference tokenizes it, and behind it the answer: as it continues the prompt where no token of both together
/// crosses the border, else by itself.
fn pair(language: &Language<'_>, prompt: &str, completion: &str) -> Result<Example, ModelError> {
    let Language { tokenizer, borders, .. } = language;
    let head = tokenizer.encode_piece(prompt)?;
    let whole = tokenizer.encode_piece(&[prompt, completion].concat())?;
    let id = |&(id, _): &(u32, Range<usize>)| id;
    let is_continued = whole.len() > head.len()
        && whole.iter().zip(&head).all(|(a, b)| a.0 == b.0)
        && whole[head.len()].1.start >= prompt.len();
    let mut ids = borders.begin.clone();
    ids.extend(head.iter().map(id));
    let first = ids.len();
    if is_continued {
        ids.extend(whole[head.len()..].iter().map(id));
    } else {
        ids.extend(tokenizer.encode_piece(completion)?.iter().map(id));
    }
    ids.extend(&borders.end);
    let answers = if first < ids.len() { vec![first..ids.len()] } else { Vec::new() };
    Ok(Example { ids, answers, unplaced: 0 })
}

/// The conversation as the model's template writes it; where that leaves the last answer without a stop token, what ends
/// documents follows.
fn chat(language: &Language<'_>, messages: &[Message]) -> Result<Example, String> {
    let template = match language.template {
        Ok(Some(template)) => template,
        Ok(None) => return Err(NO_TEMPLATE.to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let answered = template.answered(language.tokenizer, messages, language.stops);
    let Answered { mut ids, mut answers, unplaced, is_stopped } =
        answered.map_err(|error| error.to_string())?;
    if answers.is_empty() {
        return Err("the model's chat template does not tell where an answer begins: what asks for it is no beginning of the whole conversation".to_owned());
    }
    if !is_stopped {
        let before = ids.len();
        ids.extend(&language.borders.end);
        match answers.last_mut() {
            // The last answer goes to the end, with what ends it.
            Some(last) if last.end == before => last.end = ids.len(),
            _ => {}
        }
    }
    Ok(Example { ids, answers, unplaced })
}

const NO_TEMPLATE: &str = "is a conversation, and the model has no chat template: put a chat_template.jinja beside its tokenizer.json";

#[cfg(test)]
mod tests;
