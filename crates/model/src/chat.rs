//! Chat templates: from a conversation to the text that the model was trained on.
//!
//! A template is a program of the model's maker. It runs with a bounded number of steps, in which the data that it makes counts,
//! so that its time and its memory are bounded, and writes a bounded text; what people wrote is data to it, and never becomes a control token.

mod answers;
mod environment;
mod error;
mod file;
mod message;
mod output;

use std::collections::BTreeMap;

use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind};

pub use answers::Answered;
pub use error::{ChatError, TemplateError};
pub use file::template_of;
pub use message::{Message, Role};
pub use minijinja::Value;

use crate::tokenizer::{MAX_TEXT_BYTES, Tokenizer};

/// Variables of a template. Their values keep the order of their keys, in which templates write them.
pub type Variables = BTreeMap<String, Value>;

/// Longest text that a template may write, in bytes.
const MAX_OUTPUT: usize = MAX_TEXT_BYTES;
/// The name under which the template stands in its environment.
const NAME: &str = "chat";
/// Variables that are the conversation itself; nobody's own may replace them.
const OWN: [&str; 6] = ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "documents"];

/// A chat template, ready to run.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Spellings of the tokens that begin and end a text, for templates that write them.
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Reads a template; `bos` and `eos` are the spellings of the tokens that begin and end a text.
    ///
    /// # Errors
    /// A template that cannot be understood.
    pub fn new(source: String, bos: Option<String>, eos: Option<String>) -> Result<Self, TemplateError> {
        let environment =
            environment::of(source.clone()).map_err(|error| TemplateError::Syntax(words(&error)))?;
        Ok(Self { environment, source, bos: bos.unwrap_or_default(), eos: eos.unwrap_or_default() })
    }

    /// What it is made of: its source, and the spellings of the tokens that begin and end a text.
    #[must_use]
    pub fn parts(&self) -> [&str; 3] {
        [&self.source, &self.bos, &self.eos]
    }

    /// The tokens of a conversation that the model is to continue as the assistant; `tools` and `extra` variables are for
    /// templates that read them.
    ///
    /// # Errors
    /// A conversation without messages, or one that the template refuses or makes too much of; a variable that is the
    /// conversation's own.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: Option<&[Value]>,
        extra: Option<&Variables>,
    ) -> Result<Vec<u32>, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::Empty);
        }
        let told = messages.iter().map(|message| said(tokenizer, message)).collect::<Result<Vec<_>, _>>()?;
        let tools = tools.map(|tools| disarmed(tokenizer, &Value::from(tools.to_vec()))).transpose()?;
        let mut more = vec![("tools".to_owned(), tools.unwrap_or(Value::from(())))];
        for (name, value) in extra.into_iter().flatten() {
            if OWN.contains(&name.as_str()) {
                return Err(ChatError::OwnVariable(name.clone()));
            }
            more.push((name.clone(), disarmed(tokenizer, value)?));
        }
        let text = self.render(&told, true, more)?;
        let ids = tokenizer.encode_rendered(&text)?;
        if ids.is_empty() { Err(ChatError::Nothing) } else { Ok(ids) }
    }

    /// The text of messages as [`said`] gives them, with or without what bids the assistant to speak behind it.
    fn render(
        &self,
        told: &[Value],
        is_asked: bool,
        more: Vec<(String, Value)>,
    ) -> Result<String, ChatError> {
        let mut variables = vec![
            ("messages".to_owned(), Value::from(told.to_vec())),
            ("add_generation_prompt".to_owned(), Value::from(is_asked)),
            ("bos_token".to_owned(), Value::from(self.bos.as_str())),
            ("eos_token".to_owned(), Value::from(self.eos.as_str())),
        ];
        variables.extend(more);
        let mut out = output::Bounded::new(MAX_OUTPUT);
        let rendered = self.environment.get_template(NAME).and_then(|template| {
            template.render_captured_to(Value::from_pairs(variables), &mut out).map(drop)
        });
        match (rendered, out.is_full()) {
            (_, true) => Err(ChatError::TooLong { limit: MAX_OUTPUT }),
            (Err(error), _) if error.kind() == ErrorKind::OutOfFuel => {
                Err(ChatError::TooManySteps { limit: environment::FUEL })
            }
            (Err(error), _) => Err(ChatError::Refused(words(&error))),
            (Ok(()), _) => Ok(out.into_text()),
        }
    }
}

/// A message as templates read it.
fn said(tokenizer: &Tokenizer, message: &Message) -> Result<Value, ChatError> {
    let calls = message.tool_calls.as_ref();
    let content = match &message.content {
        Some(text) => text.as_str(),
        None if calls.is_some() => "",
        None => return Err(ChatError::NoContent(message.role)),
    };
    let mut told =
        vec![("role", Value::from(message.role.name())), ("content", tokenizer.disarm(content)?.into())];
    for (name, text) in [
        ("name", &message.name),
        ("tool_call_id", &message.tool_call_id),
        ("reasoning_content", &message.reasoning_content),
    ] {
        if let Some(text) = text {
            told.push((name, tokenizer.disarm(text)?.into()));
        }
    }
    if let Some(calls) = calls {
        let calls = calls.iter().map(|call| disarmed(tokenizer, &with_arguments(call)));
        told.push(("tool_calls", Value::from(calls.collect::<Result<Vec<_>, _>>()?)));
    }
    Ok(Value::from_pairs(told))
}

/// A call of a tool, whose arguments clients send as JSON in a string and templates read as an object.
fn with_arguments(call: &Value) -> Value {
    changed(call, "function", |function| {
        changed(function, "arguments", |arguments| {
            let parsed = arguments.as_str().map(serde_json::from_str);
            parsed.and_then(Result::ok).unwrap_or_else(|| arguments.clone())
        })
    })
}

/// An object with one of its values changed, if it has it.
fn changed(object: &Value, name: &str, change: impl FnOnce(&Value) -> Value) -> Value {
    let Some(old) = object.as_object().and_then(|fields| fields.get_value(&name.into())) else {
        return object.clone();
    };
    let new = change(&old);
    let field = |(key, value): (Value, Value)| {
        let value = if key.as_str() == Some(name) { new.clone() } else { value };
        (key, value)
    };
    Value::from_pairs(fields(object).into_iter().map(field))
}

/// Keys and values of an object, in its order.
fn fields(object: &Value) -> Vec<(Value, Value)> {
    let keys = object.try_iter().into_iter().flatten();
    keys.map(|key| (key.clone(), object.get_item(&key).unwrap_or_default())).collect()
}

/// JSON of a request, of whose texts none becomes a control token.
fn disarmed(tokenizer: &Tokenizer, value: &Value) -> Result<Value, ChatError> {
    Ok(match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => tokenizer.disarm(text)?.into(),
        (ValueKind::Seq, _) => {
            let items = value.try_iter().into_iter().flatten();
            items.map(|item| disarmed(tokenizer, &item)).collect::<Result<Vec<_>, _>>()?.into()
        }
        (ValueKind::Map, _) => {
            let field =
                |(key, value): (Value, Value)| Ok((disarmed(tokenizer, &key)?, disarmed(tokenizer, &value)?));
            let fields = fields(value).into_iter().map(field).collect::<Result<Vec<_>, ChatError>>()?;
            Value::from_pairs(fields)
        }
        _ => value.clone(),
    })
}

/// An error of the template in one line.
fn words(error: &minijinja::Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{detail} (line {line})"),
        (Some(detail), None) => detail.to_owned(),
        (None, Some(line)) => format!("{} (line {line})", error.kind()),
        (None, None) => error.kind().to_string(),
    }
}
