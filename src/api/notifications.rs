//! One notification: request it, act on it, report about it, read it and its history.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::Query;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::body::{self, CommandName, Wish};
use super::request::{Caller, idempotency, if_match, read_body, require_json};
use super::state::ApiState;
use super::view::{self, EventView, NotificationView};
use crate::domain::ids::{EventId, StreamId};
use crate::domain::notification::{Action, Notification, NotificationCommand};
use crate::domain::time::Timestamp;
use crate::json::{self, Faults, Fields};
use crate::ledger::record::{LedgerPosition, StreamKey, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::{Done, Idempotency, Order, Until};
use crate::problem::Problem;

pub const LEDGER_POSITION: HeaderName = HeaderName::from_static("ledger-position");
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// `POST /v1/notifications`
pub async fn request(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    run(&state, &caller, &headers, body, CommandName::Request, "/v1/notifications", None).await
}

/// `POST /v1/notifications/{id}/{command}`
pub async fn command(
    State(state): State<ApiState>,
    caller: Caller,
    Path((id, command)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let command = CommandName::from_word(&command)
        .filter(|command| *command != CommandName::Request)
        .ok_or(Problem::NotFound("there is no such command"))?;
    let path = format!("/v1/notifications/{id}/{command:?}");
    let id = stream_id(&id)?;
    run(&state, &caller, &headers, body, command, &path, Some(id)).await
}

async fn run(
    state: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    command: CommandName,
    path: &str,
    id: Option<StreamId>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(state, Scope::Write)?;
    require_json(headers)?;
    let limits = &state.limits;
    let body = read_body(headers, body, limits.body_bytes_max, limits.body_timeout).await?;
    let wish = read_wish(state, command, &body)?;
    let call = Call {
        caller,
        tenant,
        idempotency: idempotency(headers, "POST", path, &body)?,
        expected_version: if_match(headers)?,
    };
    let done = carry_out(state, &call, id, wish).await?;
    answer(state, command, &done).await
}

/// The checked body of a single call.
fn read_wish(state: &ApiState, command: CommandName, body: &[u8]) -> Result<Wish, Problem> {
    // Calls without anything to say may leave the body out.
    let document = if body.is_empty() && command != CommandName::Request {
        json::document(b"{}")?
    } else {
        json::document(body)?
    };
    let mut faults = Faults::default();
    let wish = Fields::of(document, "", &mut faults).and_then(|mut fields| {
        let wish = body::read(command, &mut fields, state.limits.payload_bytes_max, &mut faults);
        fields.finish(&mut faults);
        wish
    });
    Ok(faults.or(wish)?)
}

/// Who wants something, for which tenant, and under which conditions.
#[derive(Debug)]
pub struct Call<'a> {
    pub caller: &'a Caller,
    pub tenant: &'a TenantPlace,
    pub idempotency: Option<Idempotency>,
    pub expected_version: Option<crate::domain::ids::Sequence>,
}

/// Hands a wish to the ledger. Returns once it is durable.
pub async fn carry_out(
    state: &ApiState,
    call: &Call<'_>,
    id: Option<StreamId>,
    wish: Wish,
) -> Result<Done<Notification>, Problem> {
    let ids = &state.surroundings.ids;
    let given = id.or(wish.id.map(StreamId));
    let stream_id = given.unwrap_or_else(|| StreamId(ids.time_ordered()));
    tracing::Span::current().record("notification.id", tracing::field::display(stream_id));
    let provenance = call
        .caller
        .provenance(wish.correlation_id.as_deref(), wish.causation_id.as_deref());
    let order = Order {
        tenant: call.tenant.clone(),
        provenance: Arc::new(provenance),
        idempotency: call.idempotency.clone(),
        expected_version: call.expected_version,
    };
    let command = NotificationCommand {
        event_id: EventId(ids.time_ordered()),
        occurred_at: wish.occurred_at.unwrap_or_else(|| state.surroundings.now()),
        private: wish.private,
        action: wish.action,
    };
    let is_new = given.is_none();
    Ok(state
        .ledger
        .execute::<Notification>(&order, stream_id, is_new, command)
        .await?)
}

/// The answer to a command: the notification right after it.
async fn answer(
    state: &ApiState,
    command: CommandName,
    done: &Done<Notification>,
) -> Result<Response, Problem> {
    let mut view = view::notification(state, &done.stream, &done.aggregate, done.tip).await?;
    view.deduplicated = done.appended == 0 && command.is_fact();
    let mut response = shown(&view, done.stream.partition_position(done.tip))?;
    if command == CommandName::Request {
        *response.status_mut() = StatusCode::CREATED;
        let location = format!("/v1/notifications/{}", done.stream.stream_id);
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
    }
    if done.replayed {
        response
            .headers_mut()
            .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn shown(view: &NotificationView, position: LedgerPosition) -> Result<Response, Problem> {
    let mut response = json_response(view)?;
    let headers = response.headers_mut();
    if let Ok(position) = HeaderValue::from_str(&position.to_string()) {
        headers.insert(LEDGER_POSITION, position);
    }
    if let Ok(version) = HeaderValue::from_str(&format!("\"{}\"", view.version)) {
        headers.insert(header::ETAG, version);
    }
    Ok(response)
}

/// A JSON answer. Unlike `axum::Json`, a value that does not serialise is a problem like others.
pub fn json_response<T: Serialize>(value: &T) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value).map_err(|error| crate::problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

/// Query of `GET /v1/notifications/{id}` and its events.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AsOf {
    /// A time (by `recorded_at`) or a position.
    as_of: Option<String>,
}

/// `GET /v1/notifications/{id}`
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<AsOf>, axum_extra::extract::QueryRejection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let stream = tenant.stream(stream_id(&id)?);
    let until = until(&state, tenant, query.map_err(|error| bad_query(&error))?.0)?;
    let loaded = state.ledger.load::<Notification>(&stream, until).await?;
    let loaded = loaded.ok_or(no_such_notification(until))?;
    let view = view::notification(&state, &stream, &loaded.aggregate, loaded.tip).await?;
    shown(&view, stream.partition_position(loaded.tip))
}

/// The answer of `GET /v1/notifications/{id}/events`.
#[derive(Debug, Serialize)]
struct History {
    data: Vec<EventView>,
    next_cursor: Option<String>,
}

/// `GET /v1/notifications/{id}/events`
pub async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<AsOf>, axum_extra::extract::QueryRejection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let stream = tenant.stream(stream_id(&id)?);
    let until = until(&state, tenant, query.map_err(|error| bad_query(&error))?.0)?;
    // Other kinds of streams are not notifications.
    let loaded = state.ledger.load::<Notification>(&stream, until).await?;
    let loaded = loaded.ok_or(no_such_notification(until))?;
    let events = state.ledger.stream(&stream).await?;
    let mut data = Vec::with_capacity(events.len());
    for event in events.iter().take_while(|event| event.sequence <= loaded.tip.sequence) {
        data.push(view::event(&state, &stream, event).await?);
    }
    json_response(&History {
        data,
        next_cursor: None,
    })
}

fn until(state: &ApiState, tenant: &TenantPlace, query: AsOf) -> Result<Until, Problem> {
    let Some(as_of) = query.as_of else {
        return Ok(Until::Now);
    };
    if let Ok(position) = as_of.parse::<LedgerPosition>() {
        if position.partition != tenant.partition {
            return Err(Problem::invalid("?as_of", "is a position of another part of the ledger"));
        }
        return Ok(Until::Position(position.position));
    }
    let time = Timestamp::parse(&as_of).map_err(|_| {
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

fn no_such_notification(until: Until) -> Problem {
    match until {
        Until::Now | Until::Version(_) => Problem::NotFound("there is no such notification"),
        Until::Position(_) | Until::RecordedAt(_) => {
            Problem::NotFound("there was no such notification then")
        }
    }
}

/// A notification's id from a path. What is no UUID can't be there.
pub fn stream_id(text: &str) -> Result<StreamId, Problem> {
    text.parse()
        .map_err(|_| Problem::NotFound("there is no such notification: ids are UUIDs"))
}

/// Says which query parameter is wrong.
pub fn bad_query(error: &dyn std::error::Error) -> Problem {
    let mut detail = error.to_string();
    if let Some(source) = error.source() {
        detail = source.to_string();
    }
    Problem::invalid("?", detail)
}

impl StreamKey {
    /// Where the stream's tip is in the ledger.
    pub fn partition_position(&self, tip: crate::ledger::record::Tip) -> LedgerPosition {
        LedgerPosition {
            partition: self.partition,
            position: tip.position,
        }
    }
}

impl CommandName {
    /// Reports what happened, rather than wishing for something.
    pub fn is_fact(self) -> bool {
        match self {
            Self::Request | Self::Queue | Self::Retract => false,
            Self::Sent
            | Self::Delivered
            | Self::Bounced
            | Self::Failed
            | Self::Seen
            | Self::Read
            | Self::Interacted
            | Self::Suppressed => true,
        }
    }
}

/// The status of a command that was carried out.
pub fn success(action: &Action) -> StatusCode {
    match action {
        Action::Request(_) => StatusCode::CREATED,
        Action::Queue { .. } | Action::Retract | Action::Report { .. } => StatusCode::OK,
    }
}
