//! Texts to tokens, and back.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;

use crate::service::Service;
use crate::wire::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokenized};
use crate::{ApiError, body};

/// The tokens of a text or of a conversation.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, responses(
    (status = 200, description = "They", body = Tokenized),
    (status = 400, description = "Something is wrong with the request", body = crate::error::ErrorBody),
))]
pub(super) async fn tokenize(
    State(service): State<Service>,
    request: Request<Body>,
) -> Result<Json<Tokenized>, ApiError> {
    let (asked, _room): (TokenizeRequest, _) = body::json(request, &service).await?;
    service.model.check_name(asked.model.as_deref())?;
    let model = service.model.clone();
    let tokens = off_the_reactor(move || match (asked.prompt, asked.messages) {
        (Some(text), None) => Ok(model.tokenizer.encode_prompt(&text)?),
        (None, Some(messages)) => super::chat::encode(&model, &messages, None, None),
        _ => Err(ApiError::invalid("give either prompt or messages")),
    })
    .await?;
    Ok(Json(Tokenized { count: tokens.len(), max_model_len: service.model.card.max_model_len, tokens }))
}

/// The text of tokens.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest, responses(
    (status = 200, description = "It", body = Detokenized),
    (status = 400, description = "Something is wrong with the request", body = crate::error::ErrorBody),
))]
pub(super) async fn detokenize(
    State(service): State<Service>,
    request: Request<Body>,
) -> Result<Json<Detokenized>, ApiError> {
    let (asked, _room): (DetokenizeRequest, _) = body::json(request, &service).await?;
    service.model.check_name(asked.model.as_deref())?;
    let model = service.model.clone();
    let prompt = off_the_reactor(move || {
        model.tokenizer.check_ids(&asked.tokens, model.vocabulary)?;
        Ok(model.tokenizer.decode(&asked.tokens)?)
    })
    .await?;
    Ok(Json(Detokenized { prompt }))
}

/// Longest that a text may take to become tokens.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// Runs what may take seconds beside the threads that serve connections. What takes longer than the deadline is given up
/// as a request; its thread comes to its end by the limits of what it runs.
pub(super) async fn off_the_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(ApiError::failed("the text could not be made tokens of")),
        Err(_) => {
            let seconds = DEADLINE.as_secs();
            Err(ApiError::invalid(format!(
                "making tokens of the text took longer than {seconds} s: shorten it"
            )))
        }
    }
}
