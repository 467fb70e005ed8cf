//! `/v1/completions`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::request;
use super::{CompletionLogprobs, Usage};

/// What is to be continued: a text, several, the tokens of one, or of several.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, texts, token ids or lists of token ids")]
pub enum PromptInput {
    /// A text. Special tokens that it spells out become those tokens.
    Text(String),
    /// Several texts, each with choices of its own.
    Texts(Vec<String>),
    /// Tokens.
    Ids(Vec<u32>),
    /// Several lists of tokens.
    Lists(Vec<Vec<u32>>),
}

impl PromptInput {
    /// How many prompts they are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Ids(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::Lists(lists) => lists.len(),
        }
    }
}

request! {
    /// A text to be continued.
    CompletionRequest {
        /// What is to be continued; the model's start token where it is left out.
        prompt: Option<PromptInput>,
        /// Whether the text begins with the prompt; with `logprobs` those of the prompt are told too.
        echo: Option<bool>,
        /// Tells the log-probability of every token, with so many of the likeliest in its place.
        #[schema(maximum = 20)]
        logprobs: Option<u64>,
        /// Only 1 or `n`: all choices are given.
        best_of: Option<u64>,
        /// Not supported.
        suffix: Option<String>,
    }
}

/// A continued text, whole or one chunk of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    /// Names the request.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The texts, or what is new of one; none in the chunk that tells the usage.
    pub choices: Vec<CompletionChoice>,
    /// What the request cost; null in chunks before the last.
    pub usage: Option<Usage>,
}

/// One text, or what is new of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Number of the prompt times `n`, and of the choice among its `n`.
    pub index: usize,
    /// The text.
    pub text: String,
    /// How likely its tokens were, if the request asks.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null while the text goes on.
    pub finish_reason: Option<&'static str>,
    /// Why a text ended earlier than it should have, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_details: Option<String>,
}
