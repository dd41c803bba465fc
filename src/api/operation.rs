//! Whether the service is alive and ready, and what it counts. No key needed.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::state::ApiState;
use crate::telemetry::ErrorChain;

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "ready")]
    status: &'static str,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Health {
    fn good(status: &'static str) -> Response {
        let reason = None;
        axum::Json(Self { status, reason }).into_response()
    }
}

/// Whether it is alive
///
/// The process answers.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Operation",
    responses((status = 200, description = "It is.", body = Health)),
)]
pub async fn healthz() -> Response {
    Health::good("alive")
}

/// Whether it is ready
///
/// The database is reachable, its schema is current, and the service is not shutting down.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Operation",
    responses(
        (status = 200, description = "New requests are welcome.", body = Health),
        (status = 503, description = "They are not; `reason` says why.", body = Health, headers(
            ("Retry-After" = u64, description = "Seconds to wait."),
        )),
    ),
)]
pub async fn readyz(State(state): State<ApiState>) -> Response {
    let problem = if state.readiness.is_shutting_down() {
        Some("shutting down")
    } else if let Err(error) = state.database.require_current_schema().await {
        tracing::warn!(error = %ErrorChain(&error), "not ready");
        Some("the database is not reachable or its schema is not current")
    } else {
        None
    };
    match problem {
        None => Health::good("ready"),
        Some(reason) => {
            let health = Health {
                status: "not_ready",
                reason: Some(reason),
            };
            let status = StatusCode::SERVICE_UNAVAILABLE;
            (status, [(header::RETRY_AFTER, "1")], axum::Json(health)).into_response()
        }
    }
}

/// What it counts
///
/// In the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Operation",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")),
)]
pub async fn metrics(State(state): State<ApiState>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        state.metrics.render(),
    )
        .into_response()
}
