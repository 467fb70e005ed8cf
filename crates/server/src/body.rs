//! Bodies of requests: bounded in size and time, each and all together, and said exactly what is wrong with them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use futures_core::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ApiError;
use crate::service::Service;

/// Memory that the bodies of all requests share: each connection may send a large one, and all of them at once would be
/// more than a machine has.
#[derive(Debug)]
pub(crate) struct Bodies {
    free: Arc<Semaphore>,
    bytes: usize,
}

/// What a body takes of [`Bodies`], given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _taken: Vec<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let permits = u32::try_from(bytes).ok();
        let taken = permits.and_then(|permits| self.free.clone().try_acquire_many_owned(permits).ok());
        taken.ok_or_else(|| {
            let message = format!(
                "the bodies of the requests that are being read fill their {} bytes: try again when some are done",
                self.bytes
            );
            ApiError { code: Some(FULL), ..ApiError::busy(message) }
        })
    }
}

/// Why a body was not taken, for programs.
const FULL: &str = "bodies_full";

/// Reads a body as JSON; its room is to be held until what it says has become tokens.
pub(crate) async fn json<T: DeserializeOwned>(
    request: Request<Body>,
    service: &Service,
) -> Result<(T, Room), ApiError> {
    check_head(request.headers())?;
    let (options, body) = (&service.options, request.into_body().into_data_stream());
    let whole = tokio::time::timeout(options.body_timeout, read(body, &service.bodies, options.max_body));
    let (bytes, room) = whole
        .await
        .unwrap_or_else(|_| {
            let seconds = options.body_timeout.as_secs_f64();
            Err(refusal(StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {seconds} s")))
        })
        .inspect_err(|error| {
            if error.code == Some(FULL) {
                service.metrics.refused_for(FULL);
            }
        })?;
    parse(&bytes).map(|parsed| (parsed, room))
}

/// A whole body, of at most `limit` bytes; what has come of it counts, not what its head promises.
async fn read(mut body: BodyDataStream, bodies: &Bodies, limit: usize) -> Result<(Vec<u8>, Room), ApiError> {
    let (mut bytes, mut taken) = (Vec::new(), Vec::new());
    while let Some(part) = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await {
        let part: Bytes =
            part.map_err(|error| ApiError::invalid(format!("the body cannot be read: {error}")))?;
        if bytes.len() + part.len() > limit {
            let message = format!("the body has more than {limit} bytes, which is the most");
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        taken.push(bodies.take(part.len())?);
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, Room { _taken: taken }))
}

/// Refuses a body that is not said to be plain JSON.
fn check_head(headers: &HeaderMap) -> Result<(), ApiError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = header(CONTENT_ENCODING);
    if !encoding.is_empty() && encoding != "identity" {
        let message = format!("the body is encoded as {encoding:?}: send it as it is");
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let kind = header(CONTENT_TYPE);
    if !kind.is_empty() && !kind.to_ascii_lowercase().starts_with("application/json") {
        let message = format!("the body is of type {kind:?}: send application/json");
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    Ok(())
}

fn refusal(status: StatusCode, message: String) -> ApiError {
    ApiError::new(status, "invalid_request_error", message)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.inner();
        if path == "." {
            ApiError::invalid(cause.to_string())
        } else {
            ApiError::parameter(&path, format!("{path}: {cause}"))
        }
    })?;
    reader.end().map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::CompletionRequest;

    fn refusal(body: &[u8]) -> ApiError {
        parse::<CompletionRequest>(body).unwrap_err()
    }

    #[test]
    fn all_bodies_together_have_a_bound_and_give_their_room_back() {
        let bodies = Bodies::new(100);
        let first = bodies.take(60).unwrap();
        let refused = bodies.take(41).unwrap_err();
        assert_eq!((refused.status, refused.code), (StatusCode::TOO_MANY_REQUESTS, Some(FULL)));
        assert!(refused.message.contains("100 bytes"), "{}", refused.message);
        let second = bodies.take(40).unwrap();
        drop(first);
        assert!(bodies.take(60).is_ok() && bodies.take(61).is_err());
        drop(second);
        assert!(bodies.take(100).is_ok() && bodies.take(usize::MAX).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_with_the_parameters_name() {
        for (body, param, words) in [
            (r#"{"max_tokens": -1}"#, Some("max_tokens"), "-1"),
            (r#"{"max_tokens": 1.5}"#, Some("max_tokens"), "1.5"),
            (r#"{"max_tokens": "7"}"#, Some("max_tokens"), "string"),
            (r#"{"max_tokens": 99999999999999999999999}"#, Some("max_tokens"), "max_tokens"),
            (r#"{"temperature": 1e999}"#, Some("temperature"), "out of range"),
            (r#"{"temperature": NaN}"#, Some("temperature"), "expected"),
            (r#"{"maximum": 1}"#, Some("maximum"), "unknown field"),
            (r#"{"seed": 1, "seed": 2}"#, None, "duplicate field"),
            (r#"{"prompt": "\ud800"}"#, Some("prompt"), "escape"),
            (r#"{} x"#, None, "trailing"),
            ("", None, "EOF"),
            ("[1]", None, ""),
        ] {
            let error = refusal(body.as_bytes());
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert!(error.message.contains(words), "{body}: {}", error.message);
            if param.is_some() {
                assert_eq!(error.param.as_deref(), param, "{body}: {}", error.message);
            }
        }
        assert!(refusal(b"{\"prompt\": \"\xff\"}").message.contains("unicode"));
        let deep = format!("{{\"prompt\": {}", "[".repeat(100_000));
        assert!(refusal(deep.as_bytes()).message.contains("recursion"));
    }
}
