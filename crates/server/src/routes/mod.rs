//! The routes, and what holds for all of them: keys, request ids, the access log, no answer while the server is not ready.

mod chat;
mod completions;
mod compress;
mod models;
mod operation;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use utoipa::OpenApi;

use crate::account::Account;
use crate::service::{Service, random_id};
use crate::status::State as Standing;
use crate::{ApiError, wire};

/// The header that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Routes that answer whatever the state and the key: probes of a supervisor.
const HEALTH: &str = "/health";
/// Longest request id that is taken over.
const MAX_ID: usize = 128;

/// The description of all routes.
#[derive(OpenApi)]
#[openapi(
    info(title = "dropcap", description = "The OpenAI routes over a model that forgets."),
    paths(
        completions::completions,
        chat::chat_completions,
        compress::compress,
        models::list,
        models::retrieve,
        tokens::tokenize,
        tokens::detokenize,
        operation::health,
        operation::metrics,
    ),
    components(schemas(wire::Completion, wire::ChatChunk, crate::error::ErrorBody))
)]
struct Description;

/// The OpenAPI description of the routes, as JSON.
pub fn openapi() -> String {
    Description::openapi().to_json().unwrap_or_default()
}

/// All routes.
pub(crate) fn router(service: Service) -> Router {
    let described = openapi();
    let openapi =
        move || async move { ([(axum::http::header::CONTENT_TYPE, "application/json")], described) };
    Router::new()
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/compress", post(compress::compress))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route(HEALTH, get(operation::health))
        .route("/metrics", get(operation::metrics))
        .route("/openapi.json", get(openapi))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(service.clone(), around))
        .with_state(service)
}

async fn no_route(request: Request<Body>) -> ApiError {
    let message =
        format!("there is no route {}: /openapi.json describes those that are", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
}

async fn no_method(request: Request<Body>) -> ApiError {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
}

/// What holds for every request.
async fn around(State(service): State<Service>, mut request: Request<Body>, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let id = given.filter(|id| !id.is_empty() && id.len() <= MAX_ID).map(str::to_owned);
    let id = id.unwrap_or_else(|| random_id("req-"));
    let path = request.uri().path().to_owned();
    let name = HeaderValue::from_str(&id);
    // Probes come every second and tell nothing.
    let account =
        (path != HEALTH).then(|| Arc::new(Account::new(&service, id, request.method().as_str(), &path)));
    let checked = if path == HEALTH { Ok(()) } else { service.keys.check(request.headers()) };
    let checked = checked.and_then(|()| ready(&service, &path));
    if let Some(account) = &account {
        request.extensions_mut().insert(account.clone());
    }
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    service.metrics.responded(response.status().as_u16());
    if let Ok(name) = name {
        response.headers_mut().insert(REQUEST_ID, name);
    }
    if let Some(account) = &account {
        let streams = response
            .headers()
            .get(axum::http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind == "text/event-stream");
        account.respond(response.status().as_u16(), !streams);
    }
    response
}

/// Refuses requests while they cannot be served; what tells of the server itself is always told.
fn ready(service: &Service, path: &str) -> Result<(), ApiError> {
    let standing = service.status.get();
    if standing == Standing::Ready || !path.starts_with("/v1/") || path.starts_with("/v1/models") {
        return Ok(());
    }
    service.metrics.refused_for(standing.as_str());
    Err(ApiError::unavailable(standing.reason()))
}

/// Seconds since 1970.
fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
