//! Which models there are: one.

use axum::Json;
use axum::extract::{Path, State};

use crate::ApiError;
use crate::service::Service;
use crate::wire::{ModelCard, ModelList};

/// The models of this server.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "One", body = ModelList)))]
pub(super) async fn list(State(service): State<Service>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![service.model.card.clone()] })
}

/// One of them.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "It", body = ModelCard),
        (status = 404, description = "There is none of that name", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn retrieve(
    State(service): State<Service>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    service.model.check_name(Some(&id))?;
    Ok(Json(service.model.card.clone()))
}
