//! For whoever runs the server.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::ApiError;
use crate::service::Service;
use crate::status::State as Standing;

/// The format of metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// That requests are served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether requests are served.
#[utoipa::path(get, path = "/health", responses(
    (status = 200, description = "They are", body = Health),
    (status = 503, description = "The server is loading, draining or has failed", body = crate::error::ErrorBody),
))]
pub(super) async fn health(State(service): State<Service>) -> Result<Json<Health>, ApiError> {
    match service.status.get() {
        Standing::Ready => Ok(Json(Health { status: "ok" })),
        other => Err(ApiError { code: Some(other.as_str()), ..ApiError::unavailable(other.reason()) }),
    }
}

/// What Prometheus reads.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "OpenMetrics", body = String)))]
pub(super) async fn metrics(State(service): State<Service>) -> Response {
    ([(CONTENT_TYPE, OPEN_METRICS)], service.metrics.text()).into_response()
}
