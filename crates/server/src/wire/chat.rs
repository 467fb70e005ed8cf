//! `/v1/chat/completions`.

use dropcap_model::chat::{self, Value, Variables};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::request;
use super::{ChatLogprobs, Usage};
use crate::ApiError;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The frame of the conversation.
    System,
    /// The same, under its newer name; templates see `system`.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The answer of a tool.
    Tool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say; may be left out of a call of tools.
    pub content: Option<Content>,
    /// A name of the speaker, for templates that use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls of tools that the model made, as templates take them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the model thought, for templates that use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Not used; clients send back what they got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

impl Message {
    /// The message as templates take it.
    ///
    /// # Errors
    /// A part that is no text.
    pub(crate) fn said(&self) -> Result<chat::Message, ApiError> {
        let content = match &self.content {
            None => None,
            Some(Content::Text(text)) => Some(text.clone()),
            Some(Content::Parts(parts)) => {
                let text = |part: &Part| match (part.kind.as_str(), &part.text) {
                    ("text", Some(text)) => Ok(text.clone()),
                    (kind, _) => Err(ApiError::parameter(
                        "messages",
                        format!(
                            "a part of a message is of type {kind:?}: this server understands text alone"
                        ),
                    )),
                };
                Some(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
            }
        };
        Ok(chat::Message {
            role: match self.role {
                Role::System | Role::Developer => chat::Role::System,
                Role::User => chat::Role::User,
                Role::Assistant => chat::Role::Assistant,
                Role::Tool => chat::Role::Tool,
            },
            content,
            name: self.name.clone(),
            tool_calls: self.tool_calls.clone(),
            tool_call_id: self.tool_call_id.clone(),
            reasoning_content: self.reasoning_content.clone(),
        })
    }
}

/// The text of a message, in one piece or in parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
pub enum Content {
    /// In one piece.
    Text(String),
    /// In parts, which are joined.
    Parts(Vec<Part>),
}

/// A part of a message; only text is understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
}

/// The form of the answer; only `text` is supported.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whether tools may be called: `auto` or `none`; whichever tool is called is up to the model.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected \"auto\" or \"none\"")]
pub enum ToolChoice {
    /// `auto` or `none`.
    Mode(String),
    /// Not supported.
    #[schema(value_type = Object)]
    Named(Variables),
}

request! {
    /// A conversation to be continued.
    ChatRequest {
        /// The conversation so far, at least one message.
        messages: Vec<Message>,
        /// As `max_tokens`, under its newer name.
        max_completion_tokens: Option<u64>,
        /// Whether the log-probability of every token is told.
        logprobs: Option<bool>,
        /// With how many of the likeliest in its place.
        #[schema(maximum = 20)]
        top_logprobs: Option<u64>,
        /// The form of the answer.
        response_format: Option<ResponseFormat>,
        /// Descriptions of tools, for the model's template; calls come back as text.
        #[schema(value_type = Option<Vec<Object>>)]
        tools: Option<Vec<Value>>,
        /// Whether tools may be called.
        tool_choice: Option<ToolChoice>,
        /// Not used: calls come back as text.
        parallel_tool_calls: Option<bool>,
        /// Further variables for the model's template, such as `enable_thinking`.
        #[schema(value_type = Option<Object>)]
        chat_template_kwargs: Option<Variables>,
        /// Not used.
        store: Option<bool>,
        /// Not used.
        #[schema(value_type = Option<Object>)]
        metadata: Option<Variables>,
    }
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatResponse {
    /// Names the request.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// What the request cost.
    pub usage: Usage,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    pub index: usize,
    /// What the model says.
    pub message: AssistantMessage,
    /// How likely its tokens were, if the request asks.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
    /// Why a text ended earlier than it should have, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_details: Option<String>,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: Role,
    /// The text.
    pub content: String,
}

/// What is new of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// Names the request.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// What is new of one answer; none in the chunk that tells the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// What the request cost; null in chunks before the last.
    pub usage: Option<Usage>,
}

/// What is new of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Its number.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// How likely the new tokens were, if the request asks.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`; null while the text goes on.
    pub finish_reason: Option<&'static str>,
    /// Why a text ended earlier than it should have, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_details: Option<String>,
}

/// What is new of a message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// New text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
