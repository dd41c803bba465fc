//! One notification, now or at any moment before, and everything that happened to it.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::freshness::caught_up;
use super::notifications::{json_response, shown};
use super::page::Page;
use super::request::{Caller, Id, Parameters, parse_time};
use super::schema::Moment;
use super::state::ApiState;
use super::view::{self, EventView, NotificationView};
use crate::domain::ids::StreamId;
use crate::domain::notification::Notification;
use crate::ledger::record::{LedgerPosition, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::{Loaded, Until};
use crate::problem::Problem;

/// Query of both calls.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AsOf {
    /// As it was known then: a time (by `recorded_at`, not in the future) or a position.
    #[param(value_type = Option<Moment>, example = "2026-03-14T09:30:00Z")]
    #[serde(default, deserialize_with = "super::request::given")]
    as_of: Option<String>,
}

/// Read a notification
///
/// Its state now, or as it was known at a time or position before. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/notifications/{id}",
    tag = "Audit",
    operation_id = "get_notification",
    params(("id" = uuid::Uuid, Path, description = "The notification's id."), AsOf),
    responses((status = 200, description = "The notification.", body = NotificationView, headers(
        ("ETag" = String, description = "The version, for `If-Match`."),
        ("Ledger-Position" = String, description = "Of the notification's last event."),
    ))),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<StreamId>,
    Parameters(query): Parameters<AsOf>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let Loaded {
        stream,
        aggregate,
        tip,
    } = load(&state, tenant, id, query, &headers).await?;
    let view = view::notification(&state, &stream, &aggregate, tip).await?;
    shown(&view, stream.partition_position(tip))
}

/// Read a notification's events
///
/// Every one, in order; up to a time or position, if asked for. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/notifications/{id}/events",
    tag = "Audit",
    operation_id = "list_notification_events",
    params(("id" = uuid::Uuid, Path, description = "The notification's id."), AsOf),
    responses((status = 200, description = "All of its events: there is no second page.", body = Page<EventView>)),
)]
pub async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<StreamId>,
    Parameters(query): Parameters<AsOf>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    // Other kinds of streams are not notifications.
    let Loaded { stream, tip, .. } = load(&state, tenant, id, query, &headers).await?;
    let events = state.ledger.stream(&stream).await?;
    let mut data = Vec::with_capacity(events.len());
    for event in events
        .iter()
        .take_while(|event| event.sequence <= tip.sequence)
    {
        data.push(view::event(&state, &stream, event).await?);
    }
    json_response(&Page {
        data,
        next_cursor: None,
    })
}

async fn load(
    state: &ApiState,
    tenant: &TenantPlace,
    id: StreamId,
    query: AsOf,
    headers: &HeaderMap,
) -> Result<Loaded<Notification>, Problem> {
    let until = until(state, tenant, query)?;
    caught_up(state, tenant, headers).await?;
    let loaded = state.ledger.load(&tenant.stream(id), until).await?;
    loaded.ok_or(match until {
        Until::Now | Until::Version(_) => Problem::NotFound("there is no such notification"),
        Until::Position(_) | Until::RecordedAt(_) => {
            Problem::NotFound("there was no such notification then")
        }
    })
}

fn until(state: &ApiState, tenant: &TenantPlace, query: AsOf) -> Result<Until, Problem> {
    let Some(as_of) = query.as_of else {
        return Ok(Until::Now);
    };
    if let Ok(position) = as_of.parse::<LedgerPosition>() {
        if position.partition != tenant.partition {
            return Err(Problem::invalid(
                "?as_of",
                "is a position of another part of the ledger",
            ));
        }
        return Ok(Until::Position(position.position));
    }
    let time = parse_time(&as_of).map_err(|_| {
        Problem::invalid(
            "?as_of",
            "must be an RFC 3339 time such as `2026-03-14T09:30:00Z`, or a position such as `3-1042`",
        )
    })?;
    if time > state.surroundings.now() {
        return Err(Problem::invalid("?as_of", "lies in the future"));
    }
    Ok(Until::RecordedAt(time))
}
