//! What a server knows of its model beside the engine.

use std::sync::Arc;

use axum::http::StatusCode;
use dropcap_model::chat::ChatTemplate;
use dropcap_model::{GenerationConfig, Tokenizer};

use crate::ApiError;
use crate::wire::ModelCard;

/// A model that is served: its words, its template, where its texts end.
#[derive(Debug)]
pub struct ServedModel {
    /// What requests call it, and how it forgets.
    pub card: ModelCard,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How a conversation becomes a text, if the model says so.
    pub template: Option<ChatTemplate>,
    /// The token that begins a text.
    pub start: Option<u32>,
    /// Tokens that end one.
    pub stop_tokens: Vec<u32>,
    /// Tokens that the model has.
    pub vocabulary: usize,
}

impl ServedModel {
    /// A model under a name; `created` is in seconds since 1970.
    pub fn new(
        name: String,
        method: String,
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
        generation: GenerationConfig,
        (vocabulary, positions): (usize, usize),
        created: u64,
    ) -> Self {
        let card = ModelCard {
            id: name,
            object: "model",
            created,
            owned_by: "dropcap",
            max_model_len: positions,
            method,
        };
        let (start, stop_tokens) = (generation.bos_token_id, generation.eos_token_ids);
        Self { card, tokenizer, template, start, stop_tokens, vocabulary }
    }

    /// Refuses a request for another model.
    pub(crate) fn check_name(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(name) if name != self.card.id => {
                let message = format!("there is no model {name:?}: this server has {:?}", self.card.id);
                let missing = ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
                Err(ApiError { param: Some("model".to_owned()), code: Some("model_not_found"), ..missing })
            }
            _ => Ok(()),
        }
    }

    /// The tokens of a prompt, at least one: where it is empty, the token that begins a text.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, ApiError> {
        let ids = self.tokenizer.encode_prompt(text)?;
        self.tokenizer.check_ids(&ids, self.vocabulary)?;
        self.begun(ids)
    }

    /// Tokens, or where there are none the one that begins a text.
    pub(crate) fn begun(&self, ids: Vec<u32>) -> Result<Vec<u32>, ApiError> {
        match (ids.is_empty(), self.start) {
            (false, _) => Ok(ids),
            (true, Some(start)) => Ok(vec![start]),
            (true, None) => Err(ApiError::parameter(
                "prompt",
                "the prompt is empty, and the model names no token that begins a text",
            )),
        }
    }

    /// What a token says in a list of log-probabilities, and whether that is its text.
    pub(crate) fn token_text(&self, id: u32) -> (String, bool) {
        match self.tokenizer.decode(&[id]) {
            Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => (text, true),
            _ => (self.tokenizer.token(id).unwrap_or_default(), false),
        }
    }
}
