//! Bodies of requests: bounded in size and time, and said exactly what is wrong with them.

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use serde::de::DeserializeOwned;

use crate::{ApiError, ServerOptions};

/// Reads a body as JSON.
pub(crate) async fn json<T: DeserializeOwned>(
    request: Request<Body>,
    options: &ServerOptions,
) -> Result<T, ApiError> {
    check_head(request.headers())?;
    let limit = options.max_body;
    let body = axum::body::to_bytes(request.into_body(), limit);
    let bytes = match tokio::time::timeout(options.body_timeout, body).await {
        Err(_) => {
            let seconds = options.body_timeout.as_secs_f64();
            return Err(refusal(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body took longer than {seconds} s"),
            ));
        }
        Ok(Err(error)) if is_too_long(&error) => {
            let message = format!("the body has more than {limit} bytes, which is the most");
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Ok(Err(error)) => return Err(ApiError::invalid(format!("the body cannot be read: {error}"))),
        Ok(Ok(bytes)) => bytes,
    };
    parse(&bytes)
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

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
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
