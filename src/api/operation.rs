//! Whether the service is alive and ready, and what it counts. No key needed.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use super::state::ApiState;

/// `GET /healthz`: the process answers.
pub async fn healthz() -> Response {
    axum::Json(json!({ "status": "alive" })).into_response()
}

/// `GET /readyz`: new requests are welcome. 503 says what is missing.
pub async fn readyz(State(state): State<ApiState>) -> Response {
    let problem = if state.readiness.is_shutting_down() {
        Some("shutting down")
    } else if let Err(error) = state.database.require_current_schema().await {
        tracing::warn!(error = %crate::telemetry::ErrorChain(&error), "not ready");
        Some("the database is not reachable or its schema is not current")
    } else {
        None
    };
    match problem {
        None => axum::Json(json!({ "status": "ready" })).into_response(),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "1")],
            axum::Json(json!({ "status": "not_ready", "reason": reason })),
        )
            .into_response(),
    }
}

/// `GET /metrics`: Prometheus text.
pub async fn metrics(State(state): State<ApiState>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], state.metrics.render()).into_response()
}
