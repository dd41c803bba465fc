//! Inbound callbacks of providers: facts that nobody at the ledger asked for.
//!
//! `receive` answers the provider: it finds the source, verifies the raw bytes and hands what is
//! authentic to [`record`]. There the body is mapped (`novu`), its stream is found
//! ([`correlate`]), and the fact is appended; what can't be mapped or placed waits in
//! [`quarantine`] until somebody of `api` lets it be recorded again.
//!
//! Providers deliver at least once, late and in any order, and try again after anything but a
//! 2xx. So every step here may run any number of times with the same delivery, and a 2xx is
//! answered only when there is nothing left that could get lost.

pub mod correlate;
pub mod novu;
pub mod quarantine;
pub mod record;

mod receive;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::ApiState;
use crate::ledger::registry::SourceId;

/// Every route that providers call.
pub fn router() -> Router<ApiState> {
    Router::from(documented())
}

/// The same, with their description.
pub fn documented() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default().routes(routes!(receive::novu))
}

/// Where a source's provider sends its webhooks.
pub fn address(state: &ApiState, source_id: SourceId) -> String {
    format!("{}/webhooks/novu/{source_id}", state.public_url)
}
