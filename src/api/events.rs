//! A tenant's whole log, in order: page by page, or as it grows (`live`).

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use utoipa::IntoParams;

use super::filters::Filters;
use super::freshness::caught_up;
use super::live::{self, LAST_EVENT_ID, Start};
use super::notifications::json_response;
use super::page::{Page, cut};
use super::request::Caller;
use super::schema::{EventType, Name};
use super::state::ApiState;
use super::view::{self, EventView};
use crate::domain::event::names;
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Position, RecordedEvent, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::storage::LogQuery;
use crate::problem::Problem;

/// About how many bytes of event data a page has at most; its last event may go beyond.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// Query of `GET /v1/events`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct LogParameters {
    /// Begin after this position.
    after: Option<LedgerPosition>,
    /// `next_cursor` of the page before.
    cursor: Option<LedgerPosition>,
    /// Entries of a page. It has fewer where they are large, and its `next_cursor` leads on.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// Only events of these types; commas or repetition.
    #[param(style = Form, explode)]
    types: Option<Vec<EventType>>,
    /// Only events about these subscribers; repetition. At most 100.
    #[param(max_items = 100, style = Form, explode)]
    subscriber_id: Option<Vec<Name>>,
    /// Recorded at this time or later.
    from: Option<Timestamp>,
    /// Recorded before this time.
    to: Option<Timestamp>,
}

/// Read the log
///
/// Every event of the tenant, in the order of the ledger. Needs the scope `read`.
///
/// With `Accept: text/event-stream` the answer is a live stream (server-sent events) that goes on
/// as the ledger grows: for each event `id: <position>`, `event: <type>` and `data: <the event>`.
/// It begins after `after` or `Last-Event-ID`, else now, and a client that comes back with the last
/// id it saw neither misses nor repeats an event. A comment comes at least every 15 seconds.
/// `limit` and `cursor` do not apply. With `to` it ends once everything recorded before was sent;
/// else when the service stops, the key is revoked, or the client takes nothing for a minute.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "Audit",
    operation_id = "list_events",
    params(
        LogParameters,
        ("Last-Event-ID" = Option<LedgerPosition>, Header, description = "Live streams only: begin after this event. Outranks `after`."),
    ),
    responses((status = 200, description = "A page of events, or a live stream.", content(
        (Page<EventView> = "application/json"),
        (String = "text/event-stream"),
    ))),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    query: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    if live::is_wanted(&headers) {
        let (wanted, start) = live_query(tenant, query, &headers)?;
        return live::follow(&state, tenant, wanted, start, &headers).await;
    }
    let mut wanted = page_query(tenant, query)?;
    caught_up(&state, tenant, &headers).await?;
    let limit = wanted.limit;
    // One more than asked for says whether there is a next page.
    wanted.limit += 1;
    let read = state.ledger.tenant_log(&wanted).await?;
    let mut events = read.events;
    let position = |event: &RecordedEvent| event.ledger_position().to_string();
    let next_cursor = cut(&mut events, limit, position).or_else(|| {
        // Where events are large, there may be more without one more having been read.
        events.last().filter(|_| read.is_cut).map(position)
    });
    let mut data = Vec::with_capacity(events.len());
    for event in &events {
        let stream = tenant.stream(event.stream_id);
        data.push(view::event(&state, &stream, event).await?);
    }
    json_response(&Page { data, next_cursor })
}

fn page_query(tenant: &TenantPlace, mut query: Filters) -> Result<LogQuery, Problem> {
    let after = query.one("after");
    let after = position("?after", after.as_deref(), tenant, &mut query);
    let filter = filter(tenant, &mut query);
    let limit = query.limit();
    let cursor = query.one("cursor");
    let cursor = position("?cursor", cursor.as_deref(), tenant, &mut query);
    query.finish()?;
    Ok(LogQuery {
        after: after.max(cursor).unwrap_or_default(),
        limit,
        ..filter
    })
}

/// What a live stream lets through, and where it begins.
fn live_query(
    tenant: &TenantPlace,
    mut query: Filters,
    headers: &HeaderMap,
) -> Result<(LogQuery, Option<Start>), Problem> {
    const AFTER: &str = "?after";
    const LAST: &str = "Last-Event-ID";
    let mut ids = headers.get_all(&LAST_EVENT_ID).iter();
    let last = ids.next().map(|id| id.to_str().unwrap_or_default().trim());
    if ids.next().is_some() {
        query.fault_elsewhere(LAST, "appears more than once");
    }
    let after = query.one("after");
    let mut start = |pointer, text| {
        let after = position(pointer, text, tenant, &mut query)?;
        Some(Start { pointer, after })
    };
    let after = start(AFTER, after.as_deref());
    let last = start(LAST, last);
    let filter = filter(tenant, &mut query);
    for name in ["cursor", "limit"] {
        if query.one(name).is_some() {
            query.fault(name, "does not apply to a live stream");
        }
    }
    query.finish()?;
    // A client that comes back sends the query it began with, and how far it came.
    Ok((filter, last.or(after)))
}

/// A position in the tenant's part of the ledger.
fn position(
    pointer: &str,
    text: Option<&str>,
    tenant: &TenantPlace,
    query: &mut Filters,
) -> Option<Position> {
    let message = match text?.parse::<LedgerPosition>() {
        Ok(position) if position.partition == tenant.partition => return Some(position.position),
        Ok(_) => "is a position of another part of the ledger".to_owned(),
        Err(error) => error.to_string(),
    };
    query.fault_elsewhere(pointer, message);
    None
}

/// Which events are wanted, wherever they are.
fn filter(tenant: &TenantPlace, query: &mut Filters) -> LogQuery {
    let event_type = |word: &str| names::ALL.into_iter().find(|name| *name == word);
    let event_types: BTreeSet<&str> = query
        .word_list("types", &names::ALL, event_type)
        .into_iter()
        .collect();
    let subscriber_ids = query.names("subscriber_id");
    let (from, to) = query.range();
    LogQuery {
        partition: tenant.partition,
        tenant_id: tenant.tenant_id.clone(),
        after: Position(0),
        until: Position(i64::MAX),
        event_types: event_types.into_iter().map(ToOwned::to_owned).collect(),
        subscriber_ids,
        from: from.unwrap_or(Timestamp::MIN),
        to: to.unwrap_or(Timestamp::MAX),
        limit: 0,
        bytes_max: PAGE_BYTES_MAX,
    }
}
