//! What happened at a tenant, to a subscriber or to a notification, in the order of what happened.

use std::collections::{BTreeMap, HashMap, HashSet};

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::HeaderMap;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::filters::Filters;
use super::freshness::projected_as_of;
use super::moment::{self, At};
use super::notifications::list_response;
use super::page::{Page, Place, cut};
use super::request::Caller;
use super::schema::{self, EventType, Moment, Name};
use super::state::ApiState;
use super::view::{self, About, ActorView, Known};
use crate::domain::event::names;
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::notification::Notification;
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Position, RecordedEvent, TenantPlace};
use crate::ledger::recordable;
use crate::ledger::registry::Scope;
use crate::problem::Problem;
use crate::projections::Projection;
use crate::projections::timeline::query::{self, Found, Order, Wanted};

/// Notifications, or other events, that are read together: each may have a megabyte of sealed text.
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
    /// As it was known then: a time (by `recorded_at`) or a position, not in the future.
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
    /// As far as it was known when this was recorded.
    #[schema(required)]
    pub workflow_id: Option<String>,
    /// Of the message this is about, as far as it was known when this was recorded.
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
    mut filters: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let (wanted, as_of) = wanted(&state, tenant, &mut filters).await?;
    let (list, page) = filters.page::<Mark>("timeline", tenant, &state.master);
    filters.finish()?;
    // What a later page shows, the first one has waited for.
    let least = as_of.filter(|_| page.after.is_none());
    let reached = projected_as_of(&state, tenant, &headers, Projection::Timeline, least).await?;
    let until = match (&page.after, as_of) {
        (Some(mark), _) => mark.until,
        (None, Some((At::Position(position), _))) => position,
        (None, Some((At::Time(_), _)) | None) => reached.position,
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
    let data = show(&state, tenant, &rows).await?;
    list_response(&Page { data, next_cursor }, reached)
}

/// What is wanted, and as of which moment, if the caller gives one.
async fn wanted(
    state: &ApiState,
    tenant: &TenantPlace,
    filters: &mut Filters,
) -> Result<(Wanted, Option<(At, Position)>), Problem> {
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
    let mut known = None;
    if let Some(as_of) = filters.one("as_of") {
        match moment::past(state, tenant, &as_of).await? {
            Ok((at, head)) => {
                if let At::Time(time) = at {
                    wanted.recorded_until = Some(time);
                }
                known = Some((at, head));
            }
            Err(message) => filters.fault("as_of", message),
        }
    }
    Ok((wanted, known))
}

/// The entries of a page, in its order. Each notification is read once, whole: what was known by an
/// event is what its events up to there say.
async fn show(
    state: &ApiState,
    tenant: &TenantPlace,
    rows: &[Found],
) -> Result<Vec<TimelineView>, Problem> {
    let mut streams: BTreeMap<StreamId, Vec<&Found>> = BTreeMap::new();
    let mut others = Vec::new();
    for row in rows {
        if row.is_about_a_notification {
            streams.entry(row.stream_id).or_default().push(row);
        } else {
            others.push((tenant.stream(row.stream_id), row.sequence));
        }
    }
    let mut found = HashMap::new();
    let streams: Vec<_> = streams.into_iter().collect();
    for streams in streams.chunks(TOGETHER) {
        let read = streams.iter().map(|(stream_id, _)| async move {
            let events = state.ledger.stream(&tenant.stream(*stream_id)).await?;
            Ok::<_, Problem>(events)
        });
        for (events, (_, rows)) in try_join_all(read).await?.iter().zip(streams) {
            let wanted = known(events, rows);
            found.extend(entries(state, tenant, wanted).await?);
        }
    }
    for places in others.chunks(TOGETHER) {
        let events = state.ledger.events_at(places).await?;
        let wanted = events.iter().map(|event| (event, Known::default()));
        found.extend(entries(state, tenant, wanted.collect()).await?);
    }
    let shown = rows.iter().filter_map(|row| {
        let mut entry = found.remove(&row.place.position)?;
        entry.subscriber_id.clone_from(&row.subscriber_id);
        Some(entry)
    });
    Ok(shown.collect())
}

/// Those of a notification's events that a page shows, and what was known by them.
fn known<'a>(events: &'a [RecordedEvent], rows: &[&Found]) -> Vec<(&'a RecordedEvent, Known)> {
    let wanted: HashSet<Sequence> = rows.iter().map(|row| row.sequence).collect();
    let last = rows.iter().map(|row| row.sequence).max();
    let end = events.partition_point(|event| Some(event.sequence) <= last);
    let mut shown = Vec::with_capacity(rows.len());
    recordable::along(&events[..end], |event, notification: &Notification| {
        if wanted.contains(&event.sequence) {
            shown.push(Known {
                workflow_id: notification.workflow_id().map(ToString::to_string),
                channel: notification.channel_of(event.event_id),
            });
        }
    });
    let wanted = events[..end]
        .iter()
        .filter(|event| wanted.contains(&event.sequence));
    wanted.zip(shown).collect()
}

/// Entries by their positions, still without whom they are about.
async fn entries(
    state: &ApiState,
    tenant: &TenantPlace,
    wanted: Vec<(&RecordedEvent, Known)>,
) -> Result<Vec<(Position, TimelineView)>, Problem> {
    let entries = wanted.into_iter().map(|(event, known)| async move {
        let about = about(state, tenant, event, known).await?;
        Ok((event.position, entry(event, about)))
    });
    try_join_all(entries).await
}

async fn about(
    state: &ApiState,
    tenant: &TenantPlace,
    event: &RecordedEvent,
    known: Known,
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
    Ok(view::about(event, reason.as_deref(), known))
}

fn entry(event: &RecordedEvent, about: About) -> TimelineView {
    let is_notification = event.event_type.starts_with("notification.");
    TimelineView {
        event_id: event.event_id.0,
        notification_id: is_notification.then_some(event.stream_id.0),
        position: event.ledger_position(),
        sequence: event.sequence.0,
        event_type: event.event_type.clone(),
        occurred_at: Timestamp::from_micros_clamped(event.occurred_at),
        recorded_at: Timestamp::from_micros_clamped(event.recorded_at),
        actor: ActorView {
            kind: event.actor_kind.clone(),
            id: event.actor_id.clone(),
        },
        source: event.source.clone(),
        subscriber_id: None,
        workflow_id: about.workflow_id,
        channel: about.channel,
        summary: about.summary,
    }
}
