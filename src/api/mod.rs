//! Our callers' HTTP: one file per resource.
//!
//! A request passes `observe` (id, span, count), the caller's key (`request::Caller`), and the
//! handler of its resource, which reads the body (`body`), hands a command to the ledger, and shows
//! the result (`view`). Nothing here knows SQL, and nothing decides what a notification may do.
//!
//! Any call may come twice. Commands repeat safely under an `Idempotency-Key`; everything else is
//! a read, or says so.

pub mod accept;
pub mod answers;
pub mod arrival;
pub mod body;
pub mod bulk;
pub mod content;
pub mod docs;
pub mod events;
pub mod filters;
pub mod freshness;
pub mod history;
pub mod keys;
pub mod ledger;
pub mod live;
pub mod metrics;
pub mod moment;
pub mod notification_list;
pub mod notification_logs;
pub mod notifications;
pub mod observe;
pub mod openapi;
pub mod operation;
pub mod page;
pub mod projections;
pub mod quarantine;
pub mod rebuilds;
pub mod refusals;
pub mod request;
pub mod schema;
pub mod sources;
pub mod state;
pub mod subscribers;
pub mod tenants;
pub mod timeline;
pub mod view;

use axum::Router;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use live::{Live, Pace};
pub use refusals::Refusals;
pub use state::{ApiState, Limits, Parts, Readiness};

/// Every route of our own API. [`observe::Observe`] still has to be put around it.
pub fn router() -> Router<ApiState> {
    Router::from(documented())
        .route("/openapi.json", get(docs::document))
        .route("/docs", get(docs::page))
        .route("/docs/{*file}", get(docs::file))
        .fallback(observe::not_found)
}

/// The routes that bring their description with them.
fn documented() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(notifications::request, notification_list::list))
        .routes(routes!(history::show))
        .routes(routes!(history::events))
        .routes(routes!(notifications::queue))
        .routes(routes!(notifications::retract))
        .routes(routes!(notifications::sent))
        .routes(routes!(notifications::delivered))
        .routes(routes!(notifications::bounced))
        .routes(routes!(notifications::failed))
        .routes(routes!(notifications::seen))
        .routes(routes!(notifications::read))
        .routes(routes!(notifications::interacted))
        .routes(routes!(notifications::suppressed))
        .routes(routes!(bulk::commands))
        .routes(routes!(events::list))
        .routes(routes!(subscribers::erase))
        .routes(routes!(notification_logs::list))
        .routes(routes!(timeline::list))
        .routes(routes!(metrics::show))
        .routes(routes!(sources::create, sources::list))
        .routes(routes!(sources::show, sources::change, sources::delete))
        .routes(routes!(quarantine::list))
        .routes(routes!(quarantine::show, quarantine::delete))
        .routes(routes!(quarantine::retry))
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(tenants::show))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::show, keys::revoke))
        .routes(routes!(ledger::show))
        .routes(routes!(rebuilds::begin, rebuilds::show, rebuilds::cancel))
        .routes(routes!(projections::list))
        .routes(routes!(operation::healthz))
        .routes(routes!(operation::readyz))
        .routes(routes!(operation::metrics))
}
