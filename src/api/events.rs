//! A tenant's whole log, in order, page by page.

use axum::extract::State;
use axum::response::Response;
use axum_extra::extract::Query;
use serde::{Deserialize, Serialize};

use super::notifications::{bad_query, json_response};
use super::request::Caller;
use super::state::ApiState;
use super::view::{self, EventView};
use crate::domain::event::names;
use crate::domain::time::Timestamp;
use crate::json::Faults;
use crate::ledger::record::{LedgerPosition, Position, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::storage::LogQuery;
use crate::problem::Problem;

/// Entries of a page, unless the caller says.
pub const PAGE_DEFAULT: i64 = 50;
/// Most entries of a page.
pub const PAGE_MAX: i64 = 200;

/// Query of `GET /v1/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogParameters {
    after: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
    types: Vec<String>,
    subscriber_id: Vec<String>,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Debug, Serialize)]
struct Page {
    data: Vec<EventView>,
    next_cursor: Option<String>,
}

/// `GET /v1/events`
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    query: Result<Query<LogParameters>, axum_extra::extract::QueryRejection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let query = query.map_err(|error| bad_query(&error))?.0;
    let mut wanted = log_query(tenant, query)?;
    let limit = wanted.limit;
    // One more than asked for says whether there is a next page.
    wanted.limit += 1;
    let mut events = state.ledger.tenant_log(&wanted).await?;
    let more = i64::try_from(events.len()).unwrap_or(i64::MAX) > limit;
    events.truncate(usize::try_from(limit).unwrap_or_default());
    let next_cursor = events
        .last()
        .filter(|_| more)
        .map(|event| event.ledger_position().to_string());
    let mut data = Vec::with_capacity(events.len());
    for event in &events {
        let stream = tenant.stream(event.stream_id);
        data.push(view::event(&state, &stream, event).await?);
    }
    json_response(&Page { data, next_cursor })
}

fn log_query(tenant: &TenantPlace, query: LogParameters) -> Result<LogQuery, Problem> {
    let mut faults = Faults::default();
    let mut after = Position(0);
    for (name, text) in [("?after", &query.after), ("?cursor", &query.cursor)] {
        match text.as_deref().map(str::parse::<LedgerPosition>) {
            None => {}
            Some(Ok(position)) if position.partition == tenant.partition => {
                after = after.max(position.position);
            }
            Some(Ok(_)) => faults.add(name, "is a position of another part of the ledger"),
            Some(Err(error)) => faults.add(name, error.to_string()),
        }
    }
    let event_types: Vec<String> = query
        .types
        .iter()
        .flat_map(|types| types.split(','))
        .map(ToOwned::to_owned)
        .collect();
    for unknown in event_types.iter().filter(|name| !names::ALL.contains(&name.as_str())) {
        let name: String = unknown.chars().take(64).collect();
        faults.add("?types", format!("`{name}` is no event type; known are: {}", names::ALL.join(", ")));
    }
    let from = time("?from", query.from.as_deref(), Timestamp::MIN, &mut faults);
    let to = time("?to", query.to.as_deref(), Timestamp::MAX, &mut faults);
    if from > to {
        faults.add("?from", "is later than `to`");
    }
    let limit = page_limit(query.limit.as_deref(), &mut faults);
    let wanted = LogQuery {
        partition: tenant.partition,
        tenant_id: tenant.tenant_id.clone(),
        after,
        until: Position(i64::MAX),
        event_types,
        subscriber_ids: query.subscriber_id,
        from,
        to,
        limit,
    };
    Ok(faults.or(Some(wanted))?)
}

/// A time in a query, or what it is when left out.
fn time(name: &str, text: Option<&str>, otherwise: Timestamp, faults: &mut Faults) -> Timestamp {
    match text.map(Timestamp::parse) {
        None => otherwise,
        Some(Ok(time)) => time,
        Some(Err(error)) => {
            faults.add(name, error.to_string());
            otherwise
        }
    }
}

/// `limit` of a page: 1 to 200.
pub fn page_limit(text: Option<&str>, faults: &mut Faults) -> i64 {
    let Some(text) = text else {
        return PAGE_DEFAULT;
    };
    match text.parse() {
        Ok(limit) if (1..=PAGE_MAX).contains(&limit) => limit,
        _ => {
            faults.add("?limit", format!("must be a whole number from 1 to {PAGE_MAX}"));
            PAGE_DEFAULT
        }
    }
}
