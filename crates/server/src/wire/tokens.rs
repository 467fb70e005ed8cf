//! `/tokenize`, `/detokenize`, `/v1/models`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Message;

/// A text or a conversation that is to become tokens.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// The model, as `/v1/models` names it; the one that there is where it is left out.
    pub model: Option<String>,
    /// A text, tokenized as a prompt of `/v1/completions`; this or `messages`.
    pub prompt: Option<String>,
    /// A conversation, tokenized as by `/v1/chat/completions`.
    pub messages: Option<Vec<Message>>,
}

/// Tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokenized {
    /// Their number.
    pub count: usize,
    /// Positions of the model.
    pub max_model_len: usize,
    /// Their ids.
    pub tokens: Vec<u32>,
}

/// Tokens that are to become a text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    /// The model, as `/v1/models` names it; the one that there is where it is left out.
    pub model: Option<String>,
    /// Their ids.
    pub tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text; special tokens have none.
    pub prompt: String,
}

/// The models that there are: one.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelCard>,
}

/// A model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelCard {
    /// What requests call it.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When the server began, in seconds since 1970.
    pub created: u64,
    /// `dropcap`.
    pub owned_by: &'static str,
    /// Positions of the model.
    pub max_model_len: usize,
    /// How it forgets.
    pub method: String,
}
