//! What happened at a tenant, to a subscriber or to a notification, in the order of what happened.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::HeaderMap;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::filters::Filters;
use super::freshness::projected;
use super::notifications::list_response;
use super::page::{Page, Place, cut};
use super::request::{Caller, Parameters, parse_time};
use super::schema::{self, EventType, Moment, Name};
use super::state::ApiState;
use super::view::{self, About, ActorView};
use crate::domain::event::names;
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Position, RecordedEvent, StreamKey, TenantPlace};
use crate::ledger::registry::Scope;
use crate::problem::Problem;
use crate::projections::Projection;
use crate::projections::timeline::query::{self, Found, Order, Wanted};

/// Events that are read in one statement: each may have a megabyte of sealed text.
const TOGETHER: usize = 20;

/// Query of `GET /v1/timeline`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct TimelineFilters {
    /// Only events about these subscribers.
    #[param(style = Form, explode, max_items = 100)]
    subscriber_id: Option<Vec<Name>>,
    /// Only events about these notifications.
    #[param(style = Form, explode, max_items = 100)]
    notification_id: Option<Vec<Uuid>>,
    /// Happened at this time or later.
    from: Option<Timestamp>,
    /// Happened before this time.
    to: Option<Timestamp>,
    /// As it was known then: a time (by `recorded_at`, not in the future) or a position.
    #[param(example = "2026-03-14T09:30:00Z")]
    as_of: Option<Moment>,
    #[param(inline, default = "asc")]
    order: Option<Direction>,
    /// Entries of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before, which had the same filters.
    cursor: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "only described")]
enum Direction {
    Asc,
    Desc,
}

/// What happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimelineView {
    pub event_id: Uuid,
    /// `null` for what is not about one notification.
    #[schema(required)]
    pub notification_id: Option<Uuid>,
    pub position: LedgerPosition,
    /// Its number in its own history.
    #[schema(minimum = 1)]
    pub sequence: i64,
    #[serde(rename = "type")]
    #[schema(value_type = EventType)]
    pub event_type: String,
    /// When it happened, according to who reports it.
    pub occurred_at: Timestamp,
    /// When the ledger made it durable.
    pub recorded_at: Timestamp,
    pub actor: ActorView,
    #[schema(schema_with = schema::sources)]
    pub source: String,
    #[schema(required)]
    pub subscriber_id: Option<String>,
    /// As far as the event itself says.
    #[schema(required)]
    pub workflow_id: Option<String>,
    #[schema(required)]
    pub channel: Option<String>,
    /// One line for a person. Programs should read the event instead: the wording may change.
    #[schema(example = "E-mail sent through sendgrid as sg-7Kd2.")]
    pub summary: String,
}

/// Where a page of the timeline ends, and up to where its first page could see.
struct Mark {
    until: Position,
    last: query::Place,
}

impl Place for Mark {
    fn to_bytes(&self) -> Vec<u8> {
        let numbers = [
            self.until.0,
            self.last.occurred_at.as_micros(),
            self.last.position.0,
        ];
        numbers.map(i64::to_be_bytes).concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [until, occurred_at, position] = numbers else {
            return None;
        };
        let number = |bytes: &[u8; 8]| i64::from_be_bytes(*bytes);
        rest.is_empty().then_some(Self {
            until: Position(number(until)),
            last: query::Place {
                occurred_at: Timestamp::from_micros(number(occurred_at)).ok()?,
                position: Position(number(position)),
            },
        })
    }
}

/// Read the timeline
///
/// One entry per event, in the order of what happened, whenever the ledger was told. All pages
/// show what was known at the first. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/timeline",
    tag = "Lists",
    operation_id = "list_timeline",
    params(TimelineFilters),
    responses((status = 200, description = "A page of the timeline.", body = Page<TimelineView>, headers(
        ("Ledger-Position" = String, description = "Everything up to here is known of."),
    ))),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Parameters(query): Parameters<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let mut filters = Filters::of(query);
    let (wanted, as_of) = wanted(&state, tenant, &mut filters);
    let (list, page) = filters.page::<Mark>("timeline", tenant, &state.master);
    filters.finish()?;
    let reached = projected(&state, tenant, &headers, Projection::Timeline).await?;
    let until = match &page.after {
        Some(mark) => mark.until,
        None => reached.position.min(as_of.unwrap_or(Position(i64::MAX))),
    };
    let after = page.after.map(|mark| mark.last);
    let store = state.projections.store();
    let mut rows = query::list(store, tenant, &wanted, until, after, page.limit + 1).await?;
    let next_cursor = cut(&mut rows, page.limit, |row| {
        let mark = Mark {
            until,
            last: row.place,
        };
        list.cursor(&state.master, &mark)
    });
    let mut data = Vec::with_capacity(rows.len());
    for rows in rows.chunks(TOGETHER) {
        data.extend(show(&state, tenant, rows).await?);
    }
    list_response(&Page { data, next_cursor }, reached)
}

/// What is wanted, and as of which position, if the caller gives one.
fn wanted(
    state: &ApiState,
    tenant: &TenantPlace,
    filters: &mut Filters,
) -> (Wanted, Option<Position>) {
    let subscriber_id = filters.names("subscriber_id");
    let notification_id = filters.ids("notification_id");
    let (from, to) = filters.range();
    let order = filters.word("order", &["asc", "desc"], |word| match word {
        "asc" => Some(Order::OldestFirst),
        "desc" => Some(Order::NewestFirst),
        _ => None,
    });
    let mut wanted = Wanted {
        subscriber_id,
        stream_id: notification_id.into_iter().map(StreamId).collect(),
        from,
        to,
        recorded_until: None,
        order: order.unwrap_or_default(),
    };
    let mut until = None;
    if let Some(as_of) = filters.one("as_of") {
        match moment(state, tenant, &as_of) {
            Ok(At::Position(position)) => until = Some(position),
            Ok(At::Time(time)) => wanted.recorded_until = Some(time),
            Err(message) => filters.fault("as_of", message),
        }
    }
    (wanted, until)
}

/// A moment that a query names.
enum At {
    Position(Position),
    Time(Timestamp),
}

fn moment(state: &ApiState, tenant: &TenantPlace, text: &str) -> Result<At, &'static str> {
    if let Ok(position) = text.parse::<LedgerPosition>() {
        if position.partition != tenant.partition {
            return Err("is a position of another part of the ledger");
        }
        return Ok(At::Position(position.position));
    }
    match parse_time(text) {
        Ok(time) if time > state.surroundings.now() => Err("lies in the future"),
        Ok(time) => Ok(At::Time(time)),
        Err(_) => Err(
            "must be an RFC 3339 time such as `2026-03-14T09:30:00Z`, or a position such as `3-1042`",
        ),
    }
}

async fn show(
    state: &ApiState,
    tenant: &TenantPlace,
    rows: &[Found],
) -> Result<Vec<TimelineView>, Problem> {
    let places: Vec<(StreamKey, Sequence)> = rows
        .iter()
        .map(|row| (tenant.stream(row.stream_id), row.sequence))
        .collect();
    let events = state.ledger.events_at(&places).await?;
    let shown = events.iter().map(|event| async move {
        let about = about(state, tenant, event).await?;
        Ok::<_, Problem>((event.position, (event, about)))
    });
    let mut shown: HashMap<_, _> = try_join_all(shown).await?.into_iter().collect();
    let entries = rows.iter().filter_map(|row| {
        let (event, about) = shown.remove(&row.place.position)?;
        Some(entry(row, event, about))
    });
    Ok(entries.collect())
}

async fn about(
    state: &ApiState,
    tenant: &TenantPlace,
    event: &RecordedEvent,
) -> Result<About, Problem> {
    // Only these have words of somebody's.
    let speaks = matches!(
        event.event_type.as_str(),
        names::BOUNCED | names::FAILED | names::RETRACTED
    );
    let opened = if speaks {
        let stream = tenant.stream(event.stream_id);
        view::opened(state, &stream, event).await?
    } else {
        None
    };
    let reason = opened.and_then(|opened| opened.reason);
    Ok(view::about(event, reason.as_deref()))
}

fn entry(row: &Found, event: &RecordedEvent, about: About) -> TimelineView {
    let is_notification = event.event_type.starts_with("notification.");
    TimelineView {
        event_id: event.event_id.0,
        notification_id: is_notification.then_some(event.stream_id.0),
        position: event.ledger_position(),
        sequence: event.sequence.0,
        event_type: event.event_type.clone(),
        occurred_at: row.place.occurred_at,
        recorded_at: Timestamp::from_micros_clamped(event.recorded_at),
        actor: ActorView {
            kind: event.actor_kind.clone(),
            id: event.actor_id.clone(),
        },
        source: event.source.clone(),
        subscriber_id: row.subscriber_id.clone(),
        workflow_id: about.workflow_id,
        channel: about.channel,
        summary: about.summary,
    }
}
