//! A tenant's messages, one by one: where each stands, and what its provider said.

use std::borrow::Cow;
use std::collections::HashMap;

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::HeaderMap;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::filters::Filters;
use super::freshness::projected;
use super::notifications::list_response;
use super::page::{Page, cut};
use super::request::Caller;
use super::schema::{Metadata, Name};
use super::state::ApiState;
use super::view::{self, LastErrorView, Opened};
use crate::domain::event::{Audience, BounceType, Category, Priority};
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::state::Status;
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, RecordedEvent, StreamKey, TenantPlace};
use crate::ledger::registry::Scope;
use crate::problem::{Problem, internal};
use crate::projections::Projection;
use crate::projections::notification_logs::query::{Found, Wanted, list as found};

/// A page ends early when its raw reports come to this many bytes: 200 of the largest would not
/// fit anybody's memory.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Messages whose reports are read in one statement, for the same reason.
const TOGETHER: usize = 20;

/// Query of `GET /v1/notification-logs`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct LogFilters {
    #[param(style = Form, explode, max_items = 100)]
    status: Option<Vec<Status>>,
    #[param(style = Form, explode, max_items = 100)]
    channel: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    workflow_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    step_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    subscriber_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    provider_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    external_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    transaction_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    error_code: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    audience: Option<Vec<Audience>>,
    /// Came to its status at this time or later.
    from: Option<Timestamp>,
    /// Came to its status before this time.
    to: Option<Timestamp>,
    /// Entries of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before, which had the same filters.
    cursor: Option<String>,
}

/// One message.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogView {
    pub notification_id: Uuid,
    /// Names the message within its notification.
    pub message_key: String,
    #[schema(required)]
    pub external_id: Option<String>,
    /// The provider's id of the whole transaction; usually the notification's id.
    pub transaction_id: String,
    #[schema(required)]
    pub workflow_id: Option<String>,
    #[schema(required)]
    pub step_id: Option<String>,
    #[schema(required)]
    pub channel: Option<String>,
    #[schema(value_type = Status)]
    pub status: String,
    #[schema(required)]
    pub subscriber_id: Option<String>,
    #[schema(required)]
    pub provider_id: Option<String>,
    #[schema(required)]
    pub provider_message_id: Option<String>,
    #[schema(required, value_type = Option<Category>)]
    pub category: Option<String>,
    #[schema(required, value_type = Option<Priority>)]
    pub priority: Option<String>,
    /// Of the last failure or bounce, else of the notification's classification.
    #[schema(required)]
    pub error_code: Option<String>,
    #[schema(required, value_type = Option<Audience>)]
    pub target_audience: Option<String>,
    /// When it came to its status.
    pub occurred_at: Timestamp,
    #[schema(required)]
    pub requested_at: Option<Timestamp>,
    #[schema(required)]
    pub queued_at: Option<Timestamp>,
    #[schema(required)]
    pub sent_at: Option<Timestamp>,
    #[schema(required)]
    pub delivered_at: Option<Timestamp>,
    #[schema(required)]
    pub bounced_at: Option<Timestamp>,
    #[schema(required)]
    pub failed_at: Option<Timestamp>,
    #[schema(required)]
    pub suppressed_at: Option<Timestamp>,
    #[schema(required)]
    pub retracted_at: Option<Timestamp>,
    #[schema(required)]
    pub seen_at: Option<Timestamp>,
    #[schema(required)]
    pub read_at: Option<Timestamp>,
    /// Hand-overs to the provider that are known of.
    pub attempts: i64,
    #[schema(required, value_type = Option<BounceType>)]
    pub bounce_type: Option<String>,
    /// The latest failure or bounce, whether or not it ended the message.
    #[schema(required)]
    pub last_error: Option<LastErrorView>,
    /// The report that shows the message's status best, as it came; `null` if there is none.
    #[schema(required, value_type = Option<Value>)]
    pub raw: Option<Box<RawValue>>,
    #[schema(value_type = Metadata)]
    pub metadata: Box<RawValue>,
    /// The subscriber was erased: what was sealed is gone for good.
    pub erased: bool,
}

/// List messages
///
/// One entry per message of each notification, newest first. Filters take several values by
/// repetition. A page may end before its limit when the reports are large. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/notification-logs",
    tag = "Lists",
    operation_id = "list_notification_logs",
    params(LogFilters),
    responses((status = 200, description = "A page of messages.", body = Page<LogView>, headers(
        ("Ledger-Position" = String, description = "Everything up to here is in the list."),
    ))),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    mut filters: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let wanted = wanted(&mut filters);
    let (list, page) = filters.page::<Position>("notification-logs", tenant, &state.master);
    filters.finish()?;
    let reached = projected(&state, tenant, &headers, Projection::NotificationLogs).await?;
    let store = state.projections.store();
    let mut rows = found(store, tenant, &wanted, page.after, page.limit + 1).await?;
    let cursor = |last: &Found| list.cursor(&state.master, &last.first_position);
    let mut next_cursor = cut(&mut rows, page.limit, cursor);
    let mut data = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for part in rows.chunks(TOGETHER) {
        for view in show(&state, tenant, part).await? {
            bytes += view.raw.as_ref().map_or(0, |raw| raw.get().len());
            data.push(view);
            if bytes >= PAGE_BYTES_MAX && data.len() < rows.len() {
                next_cursor = Some(cursor(&rows[data.len() - 1]));
                return list_response(&Page { data, next_cursor }, reached);
            }
        }
    }
    list_response(&Page { data, next_cursor }, reached)
}

fn wanted(filters: &mut Filters) -> Wanted {
    let status = filters.words("status", Status::WORDS, Status::from_word);
    let channel = filters.names("channel");
    let workflow_id = filters.names("workflow_id");
    let step_id = filters.names("step_id");
    let subscriber_id = filters.names("subscriber_id");
    let provider_id = filters.names("provider_id");
    let external_id = filters.names("external_id");
    let transaction_id = filters.names("transaction_id");
    let error_code = filters.names("error_code");
    let audience = filters.words("audience", Audience::WORDS, Audience::from_word);
    let (from, to) = filters.range();
    Wanted {
        status,
        channel,
        workflow_id,
        step_id,
        subscriber_id,
        provider_id,
        external_id,
        transaction_id,
        error_code,
        audience,
        from,
        to,
    }
}

/// The sealed parts that some rows point at: by event, `None` if they were erased.
type Parts = HashMap<(StreamId, Sequence), Option<Opened<'static>>>;

async fn show(
    state: &ApiState,
    tenant: &TenantPlace,
    rows: &[Found],
) -> Result<Vec<LogView>, Problem> {
    let mut places: Vec<(StreamKey, Sequence)> = rows
        .iter()
        .flat_map(|row| {
            let sequences = [row.last_error_sequence, row.raw_sequence];
            let stream = tenant.stream(row.notification_id);
            sequences.map(|sequence| Some((stream.clone(), sequence?)))
        })
        .flatten()
        .collect();
    places.sort_unstable();
    places.dedup();
    let events = if places.is_empty() {
        Vec::new()
    } else {
        state.ledger.events_at(&places).await?
    };
    let opened = events.iter().map(|event| open(state, tenant, event));
    let parts: Parts = try_join_all(opened).await?.into_iter().collect();
    rows.iter().map(|row| log(row, &parts)).collect()
}

async fn open(
    state: &ApiState,
    tenant: &TenantPlace,
    event: &RecordedEvent,
) -> Result<((StreamId, Sequence), Option<Opened<'static>>), Problem> {
    let stream = tenant.stream(event.stream_id);
    let opened = view::opened(state, &stream, event).await?;
    Ok(((event.stream_id, event.sequence), opened))
}

fn log(row: &Found, parts: &Parts) -> Result<LogView, Problem> {
    let part = |sequence: Option<Sequence>| parts.get(&(row.notification_id, sequence?));
    let error = part(row.last_error_sequence);
    let report = part(row.raw_sequence);
    let row = row.clone();
    Ok(LogView {
        notification_id: row.notification_id.0,
        message_key: row.message_key,
        external_id: row.external_id,
        transaction_id: row.transaction_id,
        workflow_id: row.workflow_id,
        step_id: row.step_id,
        channel: row.channel,
        status: row.status,
        subscriber_id: row.subscriber_id,
        provider_id: row.provider_id,
        provider_message_id: row.provider_message_id,
        category: row.category,
        priority: row.priority,
        error_code: row.error_code,
        target_audience: row.target_audience,
        occurred_at: row.occurred_at,
        requested_at: row.requested_at,
        queued_at: row.queued_at,
        sent_at: row.sent_at,
        delivered_at: row.delivered_at,
        bounced_at: row.bounced_at,
        failed_at: row.failed_at,
        suppressed_at: row.suppressed_at,
        retracted_at: row.retracted_at,
        seen_at: row.seen_at,
        read_at: row.read_at,
        attempts: row.attempts,
        bounce_type: row.bounce_type,
        last_error: row.last_error_at.map(|occurred_at| LastErrorView {
            code: row.last_error_code,
            message: error.and_then(|opened| opened.as_ref()?.reason.clone()),
            occurred_at,
        }),
        raw: report
            .and_then(|opened| opened.as_ref()?.raw.clone())
            .map(Cow::into_owned),
        metadata: RawValue::from_string(row.metadata).map_err(|error| internal(&error))?,
        erased: [error, report].into_iter().flatten().any(Option::is_none),
    })
}
