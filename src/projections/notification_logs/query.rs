//! Which messages there are: found by what they are and what became of them, newest first.

use super::NOTIFICATION_LOGS;
use crate::domain::event::Audience;
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::state::Status;
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::storage::StorageError;
use crate::projections::query::{Filter, Newest, Reader, texts};
use crate::projections::store::Store;
use crate::projections::table::Cell;

/// Which are wanted. A filter without values lets all pass; of several values, one must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub status: Vec<Status>,
    pub channel: Vec<String>,
    pub workflow_id: Vec<String>,
    pub step_id: Vec<String>,
    pub subscriber_id: Vec<String>,
    pub provider_id: Vec<String>,
    pub external_id: Vec<String>,
    pub transaction_id: Vec<String>,
    pub error_code: Vec<String>,
    pub audience: Vec<Audience>,
    /// By `occurred_at`, inclusive.
    pub from: Option<Timestamp>,
    /// By `occurred_at`, exclusive.
    pub to: Option<Timestamp>,
}

/// One message, as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub notification_id: StreamId,
    pub message_key: String,
    /// Its place in the list.
    pub first_position: Position,
    pub external_id: Option<String>,
    pub transaction_id: String,
    pub workflow_id: Option<String>,
    pub step_id: Option<String>,
    pub channel: Option<String>,
    pub status: String,
    pub subscriber_id: Option<String>,
    pub provider_id: Option<String>,
    pub provider_message_id: Option<String>,
    pub category: Option<String>,
    pub priority: Option<String>,
    pub error_code: Option<String>,
    pub target_audience: Option<String>,
    pub occurred_at: Timestamp,
    pub requested_at: Option<Timestamp>,
    pub queued_at: Option<Timestamp>,
    pub sent_at: Option<Timestamp>,
    pub delivered_at: Option<Timestamp>,
    pub bounced_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
    pub suppressed_at: Option<Timestamp>,
    pub retracted_at: Option<Timestamp>,
    pub seen_at: Option<Timestamp>,
    pub read_at: Option<Timestamp>,
    pub attempts: i64,
    pub bounce_type: Option<String>,
    pub last_error_code: Option<String>,
    pub last_error_at: Option<Timestamp>,
    /// The event whose sealed part holds the provider's words.
    pub last_error_sequence: Option<Sequence>,
    /// The event whose sealed part holds the raw report.
    pub raw_sequence: Option<Sequence>,
    /// A JSON object.
    pub metadata: String,
}

/// A tenant's messages that fit, newest first: those first reported before an event, if one is
/// given.
///
/// # Errors
///
/// [`StorageError`] when the database failed.
pub async fn list(
    store: &Store,
    tenant: &TenantPlace,
    wanted: &Wanted,
    before: Option<Position>,
    limit: i64,
) -> Result<Vec<Found>, StorageError> {
    let status = wanted.status.iter().map(|status| status.as_str().into());
    let audience = wanted.audience.iter().map(|word| word.as_str().into());
    let newest = Newest {
        table: &NOTIFICATION_LOGS,
        // After the partition and the tenant, all there is.
        columns: &NOTIFICATION_LOGS.columns[2..],
        tenant,
        filters: vec![
            Filter::Rare("transaction_id", texts(&wanted.transaction_id)),
            Filter::Rare("external_id", texts(&wanted.external_id)),
            Filter::Rare("subscriber_id", texts(&wanted.subscriber_id)),
            Filter::Common("error_code", texts(&wanted.error_code)),
            Filter::Common("step_id", texts(&wanted.step_id)),
            Filter::Common("workflow_id", texts(&wanted.workflow_id)),
            Filter::Common("status", status.collect()),
            Filter::Common("target_audience", audience.collect()),
            Filter::Common("provider_id", texts(&wanted.provider_id)),
            Filter::Common("channel", texts(&wanted.channel)),
        ],
        from: wanted.from,
        to: wanted.to,
        before,
        since: None,
        limit,
    };
    let rows = newest.read(store).await?;
    rows.into_iter().map(found).collect()
}

/// In the order of the table's columns.
fn found(row: Vec<Cell<'static>>) -> Result<Found, StorageError> {
    let mut row = Reader::new(&NOTIFICATION_LOGS, row);
    Ok(Found {
        notification_id: StreamId(row.uuid()?),
        message_key: row.text()?,
        first_position: Position(row.int()?),
        external_id: row.text_if_any(),
        transaction_id: row.text()?,
        workflow_id: row.text_if_any(),
        step_id: row.text_if_any(),
        channel: row.text_if_any(),
        status: row.text()?,
        subscriber_id: row.text_if_any(),
        provider_id: row.text_if_any(),
        provider_message_id: row.text_if_any(),
        category: row.text_if_any(),
        priority: row.text_if_any(),
        error_code: row.text_if_any(),
        target_audience: row.text_if_any(),
        occurred_at: row.time()?,
        requested_at: row.time_if_any(),
        queued_at: row.time_if_any(),
        sent_at: row.time_if_any(),
        delivered_at: row.time_if_any(),
        bounced_at: row.time_if_any(),
        failed_at: row.time_if_any(),
        suppressed_at: row.time_if_any(),
        retracted_at: row.time_if_any(),
        seen_at: row.time_if_any(),
        read_at: row.time_if_any(),
        attempts: row.int()?,
        bounce_type: row.text_if_any(),
        last_error_code: row.text_if_any(),
        last_error_at: row.time_if_any(),
        last_error_sequence: row.int_if_any().map(Sequence),
        raw_sequence: row.int_if_any().map(Sequence),
        metadata: row.text()?,
    })
}
