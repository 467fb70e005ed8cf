//! Log-probabilities, in the two shapes in which clients read them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// Log-probabilities of a completion: lists of equal length, an item for each token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// What each token says; where that is no text of its own, its name in the vocabulary.
    pub tokens: Vec<String>,
    /// Log-probability of each in nats; null for a text's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens in its place; null for a text's first token.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each begins, in characters from the start of the text.
    pub text_offset: Vec<usize>,
}

/// Log-probabilities of a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One for each token.
    pub content: Vec<ChatTokenLogprob>,
}

/// The log-probability of one token of a message.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// What it says; where that is no text of its own, its name in the vocabulary.
    pub token: String,
    /// In nats.
    pub logprob: f32,
    /// The bytes of its text; null where it has none of its own.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens in its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the likeliest tokens.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// What it says; where that is no text of its own, its name in the vocabulary.
    pub token: String,
    /// In nats.
    pub logprob: f32,
    /// The bytes of its text; null where it has none of its own.
    pub bytes: Option<Vec<u8>>,
}
