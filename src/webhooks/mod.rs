//! Inbound callbacks of providers: verify the raw bytes, map them to facts, append.

pub mod novu;

use axum::Router;

use crate::api::ApiState;

/// Every route that providers call.
pub fn router() -> Router<ApiState> {
    Router::new()
}
