//! What is wrong with a request, as the official clients read it.

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use dropcap_engine::EngineError;
use dropcap_model::ModelError;
use dropcap_model::chat::ChatError;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

/// Seconds after which a client that was turned away may come again.
const RETRY_SECONDS: &str = "1";

/// A request that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The status of the response.
    pub status: StatusCode,
    /// What an API of this kind calls it.
    pub kind: &'static str,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// A sentence for people.
    pub message: String,
}

/// The body of every response that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetails,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetails {
    /// A sentence for people; names the limit and the given value.
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `server_error` or `unavailable_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// A word for programs, such as `context_length_exceeded`.
    pub code: Option<String>,
}

impl ApiError {
    /// Something is wrong with the request itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// Something is wrong with one parameter.
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(name.into()), ..Self::invalid(message) }
    }

    /// The server is not ready, or not any more.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    /// As many requests as may wait are waiting.
    pub fn busy(message: impl Into<String>) -> Self {
        let busy = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { code: Some("queue_full"), ..busy }
    }

    /// The engine failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// Any other.
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// The body of its response.
    pub fn body(&self) -> serde_json::Value {
        let ErrorBody { error } = ErrorBody {
            error: ErrorDetails {
                message: self.message.clone(),
                kind: self.kind.to_owned(),
                param: self.param.clone(),
                code: self.code.map(str::to_owned),
            },
        };
        json!({ "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        match error {
            ChatError::Text(error) => error.into(),
            ChatError::OwnVariable(_) => Self::parameter("chat_template_kwargs", error.to_string()),
            _ => Self::parameter("messages", error.to_string()),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::from_engine(&error)
    }
}

impl ApiError {
    /// What the engine refuses or fails with.
    pub(crate) fn from_engine(error: &EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::PromptTooLong { .. }
            | EngineError::OutOfMemory(_)
            | EngineError::Together { .. } => {
                let code = Some("context_length_exceeded");
                Self { code, ..Self::parameter("prompt", message) }
            }
            EngineError::EmptyPrompt | EngineError::TokenOutsideVocabulary { .. } => {
                Self::parameter("prompt", message)
            }
            EngineError::NoBudget | EngineError::Budget { .. } | EngineError::BudgetOnDevice => {
                Self::parameter("kv_budget", message)
            }
            EngineError::NoTokensWanted => Self::parameter("max_tokens", message),
            EngineError::Sampling { name, .. } => Self::parameter(*name, message),
            EngineError::QueueFull { .. } => Self::busy(message),
            EngineError::NonFiniteLogits { .. } => {
                Self { code: Some("non_finite_logits"), ..Self::failed(message) }
            }
            _ => Self::failed(message),
        }
    }
}

impl From<ModelError> for ApiError {
    /// What the tokenizer says of a text.
    fn from(error: ModelError) -> Self {
        Self::invalid(error.to_string())
    }
}
