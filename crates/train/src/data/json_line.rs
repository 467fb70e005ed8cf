//! What one line of a `.jsonl` says.

use dropcap_model::chat::{Message, Role, Value as TemplateValue};
use serde::Deserialize;
use serde_json::Value;

use super::documents::Said;

/// Keys that a message names at most.
const SHOWN_KEYS: usize = 8;
/// Messages of a conversation at most: each answer's place is found by filling the template in with what precedes it.
pub const MAX_MESSAGES: usize = 1024;

/// Keys that are read; others are for other programs.
#[derive(Deserialize)]
struct JsonLine {
    text: Option<String>,
    prompt: Option<Value>,
    completion: Option<Value>,
    messages: Option<Vec<JsonMessage>>,
}

/// A message; what templates read of calls keeps the order of its keys.
#[derive(Deserialize)]
struct JsonMessage {
    #[serde(default)]
    role: Value,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    name: Value,
    tool_calls: Option<Vec<TemplateValue>>,
    #[serde(default)]
    tool_call_id: Value,
    #[serde(default)]
    reasoning_content: Value,
}

/// What a line says: its `text`, else its `messages`, else its `prompt` with its `completion`; none for a text of nothing
/// but white space.
///
/// # Errors
/// In words, what is wrong with the line.
pub(super) fn read(line: &str) -> Result<Option<Said>, String> {
    let object: JsonLine =
        serde_json::from_str(line).map_err(|error| format!("is no JSON object with a text: {error}"))?;
    let JsonLine { text, prompt, completion, messages } = object;
    match (text, messages, prompt, completion) {
        (Some(text), ..) => {
            let text = text.trim();
            Ok((!text.is_empty()).then(|| Said::Text(text.to_owned())))
        }
        (None, Some(messages), ..) => conversation(messages).map(|said| Some(Said::Chat(said))),
        (None, None, Some(Value::String(prompt)), Some(Value::String(completion))) => {
            if completion.trim().is_empty() {
                return Err("has an empty `completion`, from which nothing is learned: remove the line".to_owned());
            }
            Ok(Some(Said::Pair { prompt, completion }))
        }
        (None, None, Some(_), Some(_)) => Err(
            "has a `prompt` or a `completion` that is no text: write both as texts, or a conversation as `messages`"
                .to_owned(),
        ),
        _ => Err(format!(
            "has no `text`: every line is an object such as {{\"text\": \"...\"}}, {{\"prompt\": \"...\", \"completion\": \"...\"}} or {{\"messages\": [{{\"role\": \"user\", \"content\": \"...\"}}, ...]}}, and this one has {}",
            keys(line)
        )),
    }
}

/// The messages of a conversation with at least one answer.
fn conversation(messages: Vec<JsonMessage>) -> Result<Vec<Message>, String> {
    if messages.len() > MAX_MESSAGES {
        return Err(format!(
            "has {} messages: a conversation may have {MAX_MESSAGES}, so cut it",
            messages.len()
        ));
    }
    let numbered = messages.into_iter().enumerate().map(|(number, one)| {
        message(one).map_err(|reason| format!("has a message (number {number}) {reason}"))
    });
    let messages = numbered.collect::<Result<Vec<_>, _>>()?;
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        return Err("has no message of the assistant, so there is no answer to learn".to_owned());
    }
    Ok(messages)
}

fn message(given: JsonMessage) -> Result<Message, String> {
    let JsonMessage { role, content, name, tool_calls, tool_call_id, reasoning_content } = given;
    let text = |key: &str, value: Value| match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(format!("whose `{key}` is no text")),
    };
    let role = text("role", role)?.ok_or("without a `role`")?;
    let role = Role::of(&role).ok_or_else(|| {
        format!("of the role {role:?}: roles are system, developer, user, assistant and tool")
    })?;
    let content = match content {
        Value::Array(parts) => Some(parts.iter().map(part).collect::<Result<Vec<_>, _>>()?.join("\n")),
        other => text("content", other)?,
    };
    if content.is_none() && tool_calls.is_none() {
        return Err("without `content`".to_owned());
    }
    Ok(Message {
        role,
        content,
        name: text("name", name)?,
        tool_calls,
        tool_call_id: text("tool_call_id", tool_call_id)?,
        reasoning_content: text("reasoning_content", reasoning_content)?,
    })
}

/// The text of a part of a message.
fn part(value: &Value) -> Result<String, String> {
    match (value["type"].as_str(), value["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (kind, _) => {
            Err(format!("with a part of the type {:?}: only text is learned from", kind.unwrap_or("none")))
        }
    }
}

/// The keys of an object, as a message shows them.
fn keys(line: &str) -> String {
    let object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap_or_default();
    let keys: Vec<String> = object.keys().take(SHOWN_KEYS).map(|key| format!("{key:?}")).collect();
    if keys.is_empty() { "no keys".to_owned() } else { keys.join(", ") }
}
