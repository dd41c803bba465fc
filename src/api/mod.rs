//! Our callers' HTTP: one file per resource.
//!
//! A request passes `observe` (id, span, count), the caller's key (`request::Caller`), and the
//! handler of its resource, which reads the body (`body`), hands a command to the ledger, and shows
//! the result (`view`). Nothing here knows SQL, and nothing decides what a notification may do.
//!
//! Any call may come twice. Commands repeat safely under an `Idempotency-Key`; everything else is
//! a read, or says so.

pub mod answers;
pub mod body;
pub mod bulk;
pub mod events;
pub mod notifications;
pub mod observe;
pub mod operation;
pub mod request;
pub mod state;
pub mod view;

use axum::Router;
use axum::routing::{get, post};

pub use state::{ApiState, Limits, Parts, Readiness};

/// Every route of our own API. [`observe::observe`] still has to be put around it.
pub fn router() -> Router<ApiState> {
    Router::new()
        .route("/v1/notifications", post(notifications::request))
        .route("/v1/notifications/{id}", get(notifications::show))
        .route("/v1/notifications/{id}/events", get(notifications::events))
        .route("/v1/notifications/{id}/{command}", post(notifications::command))
        .route("/v1/commands", post(bulk::commands))
        .route("/v1/events", get(events::list))
        .route("/healthz", get(operation::healthz))
        .route("/readyz", get(operation::readyz))
        .route("/metrics", get(operation::metrics))
        .fallback(observe::not_found)
}
