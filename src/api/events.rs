//! A tenant's whole log, in order: page by page, or as it grows (`live`).

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::freshness::caught_up;
use super::live::{self, LAST_EVENT_ID, Start};
use super::notifications::json_response;
use super::page::{Page, cut, page_limit};
use super::request::{Caller, Parameters, parse_time};
use super::schema::{EventType, Name};
use super::state::ApiState;
use super::view::{self, EventView};
use crate::domain::event::names;
use crate::domain::ids::check_name;
use crate::domain::time::Timestamp;
use crate::json::Faults;
use crate::ledger::record::{LedgerPosition, Position, RecordedEvent, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::storage::LogQuery;
use crate::problem::Problem;

/// About how many bytes of event data a page has at most; its last event may go beyond.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// Most subscribers one call asks for.
const SUBSCRIBERS_MAX: usize = 100;

/// Query of `GET /v1/events`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct LogParameters {
    /// Begin after this position.
    #[param(value_type = Option<LedgerPosition>)]
    #[serde(deserialize_with = "super::request::given")]
    after: Option<String>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<LedgerPosition>)]
    #[serde(deserialize_with = "super::request::given")]
    cursor: Option<String>,
    /// Entries of a page. It has fewer where they are large, and its `next_cursor` leads on.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    #[serde(deserialize_with = "super::request::given")]
    limit: Option<String>,
    /// Only events of these types; commas or repetition.
    #[param(value_type = Vec<EventType>, style = Form, explode)]
    types: Vec<String>,
    /// Only events about these subscribers; repetition. At most 100.
    #[param(value_type = Vec<Name>, max_items = 100, style = Form, explode)]
    subscriber_id: Vec<String>,
    /// Recorded at this time or later.
    #[param(value_type = Option<Timestamp>)]
    #[serde(deserialize_with = "super::request::given")]
    from: Option<String>,
    /// Recorded before this time.
    #[param(value_type = Option<Timestamp>)]
    #[serde(deserialize_with = "super::request::given")]
    to: Option<String>,
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
    Parameters(query): Parameters<LogParameters>,
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

fn page_query(tenant: &TenantPlace, query: LogParameters) -> Result<LogQuery, Problem> {
    let mut faults = Faults::default();
    let after = position("?after", query.after.as_deref(), tenant, &mut faults);
    let cursor = position("?cursor", query.cursor.as_deref(), tenant, &mut faults);
    let limit = page_limit(query.limit.as_deref(), &mut faults);
    let filter = filter(tenant, query, &mut faults);
    let wanted = LogQuery {
        after: after.max(cursor).unwrap_or_default(),
        limit,
        ..filter
    };
    Ok(faults.or(Some(wanted))?)
}

/// What a live stream lets through, and where it begins.
fn live_query(
    tenant: &TenantPlace,
    query: LogParameters,
    headers: &HeaderMap,
) -> Result<(LogQuery, Option<Start>), Problem> {
    const AFTER: &str = "?after";
    const LAST: &str = "Last-Event-ID";
    let mut faults = Faults::default();
    let mut ids = headers.get_all(&LAST_EVENT_ID).iter();
    let last = ids.next().map(|id| id.to_str().unwrap_or_default().trim());
    if ids.next().is_some() {
        faults.add(LAST, "appears more than once");
    }
    let mut start = |pointer, text| {
        let after = position(pointer, text, tenant, &mut faults)?;
        Some(Start { pointer, after })
    };
    let after = start(AFTER, query.after.as_deref());
    let last = start(LAST, last);
    for (pointer, given) in [("?cursor", &query.cursor), ("?limit", &query.limit)] {
        if given.is_some() {
            faults.add(pointer, "does not apply to a live stream");
        }
    }
    let filter = filter(tenant, query, &mut faults);
    // A client that comes back sends the query it began with, and how far it came.
    Ok(faults.or(Some((filter, last.or(after))))?)
}

/// A position in the tenant's part of the ledger.
fn position(
    pointer: &str,
    text: Option<&str>,
    tenant: &TenantPlace,
    faults: &mut Faults,
) -> Option<Position> {
    match text?.parse::<LedgerPosition>() {
        Ok(position) if position.partition == tenant.partition => return Some(position.position),
        Ok(_) => faults.add(pointer, "is a position of another part of the ledger"),
        Err(error) => faults.add(pointer, error.to_string()),
    }
    None
}

/// Which events are wanted, wherever they are.
fn filter(tenant: &TenantPlace, query: LogParameters, faults: &mut Faults) -> LogQuery {
    if query.subscriber_id.len() > SUBSCRIBERS_MAX {
        let count = query.subscriber_id.len();
        faults.add(
            "?subscriber_id",
            format!("comes {count} times; at most {SUBSCRIBERS_MAX} are allowed"),
        );
    }
    for error in query
        .subscriber_id
        .iter()
        .filter_map(|id| check_name(id).err())
    {
        faults.add("?subscriber_id", error.to_string());
    }
    let named = query.types.iter().flat_map(|types| types.split(','));
    let event_types: BTreeSet<String> = named.map(ToOwned::to_owned).collect();
    for unknown in event_types
        .iter()
        .filter(|name| !names::ALL.contains(&name.as_str()))
    {
        let name: String = unknown.chars().take(64).collect();
        faults.add(
            "?types",
            format!(
                "`{name}` is no event type; known are: {}",
                names::ALL.join(", ")
            ),
        );
    }
    let from = time("?from", query.from.as_deref(), Timestamp::MIN, faults);
    let to = time("?to", query.to.as_deref(), Timestamp::MAX, faults);
    if from > to {
        faults.add("?from", "is later than `to`");
    }
    LogQuery {
        partition: tenant.partition,
        tenant_id: tenant.tenant_id.clone(),
        after: Position(0),
        until: Position(i64::MAX),
        event_types: event_types.into_iter().collect(),
        subscriber_ids: query.subscriber_id,
        from,
        to,
        limit: 0,
        bytes_max: PAGE_BYTES_MAX,
    }
}

/// A time in a query, or what it is when left out.
fn time(name: &str, text: Option<&str>, otherwise: Timestamp, faults: &mut Faults) -> Timestamp {
    match text.map(parse_time) {
        None => otherwise,
        Some(Ok(time)) => time,
        Some(Err(error)) => {
            faults.add(name, error.to_string());
            otherwise
        }
    }
}
