//! `notifications`: the current state of each notification, to list and to filter.

pub mod query;

use ring::digest::{Context, SHA256};
use uuid::Uuid;

use super::stream::{Folded, Stream, Unreadable};
use super::table::{Cell, Rows, Table, Writing, columns};
use crate::domain::event::{Audience, Category, Priority, Severity};
use crate::domain::ids::{SubscriberId, WorkflowId};
use crate::domain::time::Timestamp;

pub static NOTIFICATIONS: Table = Table {
    name: "notifications",
    row_type: "notifications_row",
    key: 3,
    writing: Writing::Replace,
    columns: columns![
        partition: Small,
        tenant_id: Text,
        notification_id: Uuid,
        first_position: Int,
        version: Int,
        external_id: Text,
        workflow_id: Text,
        workflow_version: Text,
        subscriber_id: Text,
        status: Text,
        category: Text,
        priority: Text,
        channels: Json,
        error_code: Text,
        audience: Text,
        severity: Text,
        metadata: Json,
        occurred_at: Time,
        scheduled_at: Time,
        expires_at: Time,
        requested_at: Time,
        queued_at: Time,
        sent_at: Time,
        delivered_at: Time,
        bounced_at: Time,
        failed_at: Time,
        suppressed_at: Time,
        retracted_at: Time,
        seen_at: Time,
        read_at: Time,
        messages: Int,
        anomalies: Json,
        adopted: Bool,
    ],
};

pub static METADATA: Table = Table {
    name: "notification_metadata",
    row_type: "notification_metadata_row",
    key: 4,
    writing: Writing::Replace,
    columns: columns![
        partition: Small,
        tenant_id: Text,
        entry: Uuid,
        first_position: Int,
        notification_id: Uuid,
    ],
};

/// What one stream contributes: a row, and one per metadata entry.
pub(super) fn rows<'a>(
    stream: &'a Stream<'a>,
    notifications: &mut Rows<'a>,
    metadata: &mut Rows<'a>,
) -> Result<(), Unreadable> {
    let Some(folded) = stream.notification()? else {
        return Ok(());
    };
    notifications.push(row(stream, folded));
    let request = folded.notification.request();
    for (key, value) in request.iter().flat_map(|request| &request.value.metadata) {
        metadata.push([
            i64::from(stream.partition.0).into(),
            stream.tenant_id.into(),
            metadata_entry(key, value).into(),
            stream.first_position().0.into(),
            stream.stream_id.0.into(),
        ]);
    }
    Ok(())
}

fn row<'a>(stream: &'a Stream<'a>, folded: &'a Folded) -> [Cell<'a>; 33] {
    let Folded {
        notification,
        summary,
    } = folded;
    let request = notification.request().map(|request| request.value.as_ref());
    let requested_at = notification.request().map(|request| request.occurred_at);
    let classification = request.map(|request| &request.classification);
    let codes: Vec<&str> = summary
        .anomalies
        .iter()
        .map(|anomaly| anomaly.code)
        .collect();
    let times = &summary.times;
    [
        i64::from(stream.partition.0).into(),
        stream.tenant_id.into(),
        stream.stream_id.0.into(),
        stream.first_position().0.into(),
        stream.version().0.into(),
        request
            .and_then(|request| request.external_id.as_deref())
            .into(),
        notification.workflow_id().map(WorkflowId::as_str).into(),
        request
            .and_then(|request| request.workflow_version.as_deref())
            .into(),
        notification
            .subscriber_id()
            .map(SubscriberId::as_str)
            .into(),
        summary.status.as_str().into(),
        request
            .map(|request| Category::as_str(request.category))
            .into(),
        request
            .map(|request| Priority::as_str(request.priority))
            .into(),
        json_list(request.map_or(&[], |request| request.channels.as_slice())),
        classification
            .and_then(|given| given.error_code.as_deref())
            .into(),
        classification
            .and_then(|given| given.audience)
            .map(Audience::as_str)
            .into(),
        classification
            .and_then(|given| given.severity)
            .map(Severity::as_str)
            .into(),
        metadata_json(folded),
        time(summary.occurred_at.or(requested_at))
            .as_int()
            .unwrap_or_default()
            .into(),
        time(request.and_then(|request| request.scheduled_at)),
        time(request.and_then(|request| request.expires_at)),
        time(requested_at),
        time(summary.queued_at),
        time(times.sent_at),
        time(times.delivered_at),
        time(times.bounced_at),
        time(times.failed_at),
        time(times.suppressed_at),
        time(
            notification
                .retraction()
                .map(|retraction| retraction.occurred_at),
        ),
        time(times.seen_at),
        time(times.read_at),
        i64::try_from(summary.messages.len())
            .unwrap_or(i64::MAX)
            .into(),
        json_list(&codes),
        notification.adoption().is_some().into(),
    ]
}

/// How a metadata entry is found: the first half of a SHA-256 over key and value.
pub(super) fn metadata_entry(key: &str, value: &str) -> Uuid {
    let mut context = Context::new(&SHA256);
    // With its length, so that key and value can't run into each other.
    context.update(&(key.len() as u64).to_be_bytes());
    context.update(key.as_bytes());
    context.update(value.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&context.finish().as_ref()[..16]);
    Uuid::from_bytes(half)
}

/// The metadata as it was given, as a JSON object.
pub(super) fn metadata_json(folded: &Folded) -> Cell<'_> {
    match folded.notification.request() {
        Some(request) if !request.value.metadata.is_empty() => {
            // Text to text: there is nothing to fail on.
            serde_json::to_string(&request.value.metadata)
                .unwrap_or_default()
                .into()
        }
        _ => "{}".into(),
    }
}

pub(super) fn time(time: Option<Timestamp>) -> Cell<'static> {
    time.map(Timestamp::as_micros).into()
}

fn json_list<'a>(texts: &[impl serde::Serialize]) -> Cell<'a> {
    if texts.is_empty() {
        return "[]".into();
    }
    serde_json::to_string(texts).unwrap_or_default().into()
}
