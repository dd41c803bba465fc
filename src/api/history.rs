//! One notification, now or at any moment before, and everything that happened to it.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use utoipa::IntoParams;

use super::content::JSON;
use super::filters::Filters;
use super::freshness::caught_up;
use super::moment::{self, At};
use super::notifications::{json_response, shown};
use super::page::{Page, cut};
use super::request::{Caller, Id};
use super::schema::Moment;
use super::state::ApiState;
use super::view::{self, EventView, NotificationView};
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::notification::Notification;
use crate::ledger::record::{RecordedEvent, StreamKey, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::storage::StorageError;
use crate::ledger::{Loaded, Until};
use crate::problem::{Problem, internal};
use crate::projections::stream::KIND;
use crate::telemetry::ErrorChain;

/// Events that are read at once: each may have a megabyte of sealed text.
const TOGETHER: usize = 32;

/// Query of `GET /v1/notifications/{id}`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct AsOf {
    /// As it was known then: a time (by `recorded_at`) or a position, not in the future.
    #[param(example = "2026-03-14T09:30:00Z")]
    as_of: Option<Moment>,
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
    responses((status = 200, description = "The notification.", body = NotificationView<'static>, headers(
        ("ETag" = String, description = "The version, for `If-Match`."),
        ("Ledger-Position" = String, description = "Of the notification's last event."),
    ))),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<StreamId>,
    query: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let Loaded {
        stream,
        aggregate,
        tip,
    } = load(&state, tenant, id, query, &headers).await?;
    let view = view::notification(&state, &stream, &aggregate, tip, None).await?;
    shown(&view, stream.partition_position(tip))
}

/// Query of `GET /v1/notifications/{id}/events`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct HistoryParameters {
    /// As it was known then: a time (by `recorded_at`) or a position, not in the future.
    #[param(example = "2026-03-14T09:30:00Z")]
    as_of: Option<Moment>,
    /// Entries of a page. Without `limit` and `cursor` the answer has all events, however many.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Read a notification's events
///
/// Every one, in order; up to a time or position, if asked for. A long history comes in pieces: if
/// it breaks off, so does the connection. With `limit` it comes in pages. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/notifications/{id}/events",
    tag = "Audit",
    operation_id = "list_notification_events",
    params(("id" = uuid::Uuid, Path, description = "The notification's id."), HistoryParameters),
    responses((status = 200, description = "All of its events, or a page of them.", body = Page<EventView>)),
)]
pub async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<StreamId>,
    mut query: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let until = until(&state, tenant, &mut query).await?;
    let is_paged = query.has("limit") || query.has("cursor");
    let limit = query.limit();
    let after = after(&mut query);
    query.finish()?;
    caught_up(&state, tenant, &headers).await?;
    let mut history = History {
        stream: tenant.stream(id),
        until,
        after,
        is_read: false,
        state,
    };
    let mut events = history.begin().await?;
    if is_paged {
        let wanted = usize::try_from(limit).unwrap_or_default();
        while events.len() <= wanted && !history.is_read {
            events.extend(history.read().await?);
        }
        let next_cursor = cut(&mut events, limit, |last| last.sequence.to_string());
        let data = history.views(&events).await?;
        return json_response(&Page { data, next_cursor });
    }
    let data = history.views(&events).await?;
    if history.is_read {
        let next_cursor = None;
        return json_response(&Page { data, next_cursor });
    }
    let begin = listed("{\"data\":[", &data)?;
    let pieces = stream::once(async { Ok(begin) }).chain(history.pieces());
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(JSON))];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// A notification's events, a few at a time.
struct History {
    state: ApiState,
    stream: StreamKey,
    until: Until,
    /// The last one that was read.
    after: Sequence,
    /// Up to its end.
    is_read: bool,
}

impl History {
    /// The first events, if it is a notification's history: other kinds of streams are not shown.
    async fn begin(&mut self) -> Result<Vec<RecordedEvent>, Problem> {
        let (events, is_shown) = if self.after == Sequence(0) {
            let events = self.read().await?;
            let is_shown = self.shows(&events);
            (events, is_shown)
        } else {
            let first = [(self.stream.clone(), Sequence(1))];
            let first = self.state.ledger.events_at(&first).await?;
            let is_shown = self.shows(&first);
            (self.read().await?, is_shown)
        };
        is_shown
            .then_some(events)
            .ok_or_else(|| not_found(self.until))
    }

    fn shows(&self, first: &[RecordedEvent]) -> bool {
        first
            .first()
            .is_some_and(|first| first.event_type.starts_with(KIND) && self.until.includes(first))
    }

    async fn read(&mut self) -> Result<Vec<RecordedEvent>, Problem> {
        let sequences = std::iter::successors(Some(self.after.next()), |last| Some(last.next()));
        let places: Vec<_> = sequences
            .take(TOGETHER)
            .map(|sequence| (self.stream.clone(), sequence))
            .collect();
        let mut events = self.state.ledger.events_at(&places).await?;
        events.sort_unstable_by_key(|event| event.sequence);
        if let Some(gap) = events
            .iter()
            .zip(&places)
            .find_map(|(event, (_, next))| (event.sequence != *next).then_some(next))
        {
            return Err(Problem::from(StorageError::Damaged {
                table: "events",
                detail: format!("event {gap} of stream {} is missing", self.stream.stream_id),
            }));
        }
        let known = events.partition_point(|event| self.until.includes(event));
        events.truncate(known);
        self.is_read = events.len() < TOGETHER;
        self.after = events.last().map_or(self.after, |last| last.sequence);
        Ok(events)
    }

    async fn views(&self, events: &[RecordedEvent]) -> Result<Vec<EventView>, Problem> {
        let mut data = Vec::with_capacity(events.len());
        for event in events {
            data.push(view::event(&self.state, &self.stream, event).await?);
        }
        Ok(data)
    }

    /// What is left to read, as the client takes it, and the end of the answer.
    fn pieces(self) -> impl futures_util::Stream<Item = Result<Bytes, Problem>> + Send {
        stream::try_unfold(Some(self), |history| async move {
            let Some(mut history) = history else {
                return Ok(None);
            };
            if history.is_read {
                return Ok(Some((Bytes::from_static(b"],\"next_cursor\":null}"), None)));
            }
            let events = history.read().await.inspect_err(broken_off)?;
            let data = history.views(&events).await.inspect_err(broken_off)?;
            Ok(Some((
                listed(if data.is_empty() { "" } else { "," }, &data)?,
                Some(history),
            )))
        })
    }
}

fn broken_off(problem: &Problem) {
    tracing::error!(error = %ErrorChain(problem), "a notification's history broke off");
}

/// Entries of a list, without what stands around it.
fn listed(begin: &str, data: &[EventView]) -> Result<Bytes, Problem> {
    let mut text = begin.as_bytes().to_vec();
    for (index, view) in data.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        serde_json::to_writer(&mut text, view).map_err(|error| internal(&error))?;
    }
    Ok(text.into())
}

/// A cursor is the last event's number: it stays the same, whatever is recorded meanwhile.
fn after(query: &mut Filters) -> Sequence {
    let Some(cursor) = query.one("cursor") else {
        return Sequence(0);
    };
    match cursor.parse() {
        Ok(sequence) if (1..i64::MAX / 2).contains(&sequence) => Sequence(sequence),
        _ => {
            query.fault("cursor", "is no `next_cursor` of this list");
            Sequence(0)
        }
    }
}

fn not_found(until: Until) -> Problem {
    Problem::NotFound(match until {
        Until::Now | Until::Version(_) => "there is no such notification",
        Until::Position(_) | Until::RecordedAt(_) => "there was no such notification then",
    })
}

async fn load(
    state: &ApiState,
    tenant: &TenantPlace,
    id: StreamId,
    mut query: Filters,
    headers: &HeaderMap,
) -> Result<Loaded<Notification>, Problem> {
    let until = until(state, tenant, &mut query).await?;
    query.finish()?;
    caught_up(state, tenant, headers).await?;
    let loaded = state.ledger.load(&tenant.stream(id), until).await?;
    loaded.ok_or_else(|| not_found(until))
}

async fn until(
    state: &ApiState,
    tenant: &TenantPlace,
    query: &mut Filters,
) -> Result<Until, Problem> {
    let mut until = Until::Now;
    if let Some(as_of) = query.one("as_of") {
        match moment::past(state, tenant, &as_of).await? {
            Ok((At::Position(position), _)) => until = Until::Position(position),
            Ok((At::Time(time), _)) => until = Until::RecordedAt(time),
            Err(message) => query.fault("as_of", message),
        }
    }
    Ok(until)
}
