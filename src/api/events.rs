//! A tenant's whole log, in order, page by page.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::freshness::caught_up;
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

/// Most subscribers one call asks for.
const SUBSCRIBERS_MAX: usize = 100;

/// Query of `GET /v1/events`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct LogParameters {
    /// Begin after this position.
    #[param(value_type = Option<LedgerPosition>)]
    after: Option<String>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<LedgerPosition>)]
    cursor: Option<String>,
    /// Entries of a page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// Only events of these types; commas or repetition.
    #[param(value_type = Vec<EventType>, style = Form, explode)]
    types: Vec<String>,
    /// Only events about these subscribers; repetition. At most 100.
    #[param(value_type = Vec<Name>, max_items = 100, style = Form, explode)]
    subscriber_id: Vec<String>,
    /// Recorded at this time or later.
    #[param(value_type = Option<Timestamp>)]
    from: Option<String>,
    /// Recorded before this time.
    #[param(value_type = Option<Timestamp>)]
    to: Option<String>,
}

/// Read the log
///
/// Every event of the tenant, in the order of the ledger. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "Audit",
    operation_id = "list_events",
    params(LogParameters),
    responses((status = 200, description = "A page of events.", body = Page<EventView>)),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Parameters(query): Parameters<LogParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let mut wanted = log_query(tenant, query)?;
    caught_up(&state, tenant, &headers).await?;
    let limit = wanted.limit;
    // One more than asked for says whether there is a next page.
    wanted.limit += 1;
    let mut events = state.ledger.tenant_log(&wanted).await?;
    let position = |event: &RecordedEvent| event.ledger_position().to_string();
    let next_cursor = cut(&mut events, limit, position);
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
        event_types: event_types.into_iter().collect(),
        subscriber_ids: query.subscriber_id,
        from,
        to,
        limit,
    };
    Ok(faults.or(Some(wanted))?)
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
