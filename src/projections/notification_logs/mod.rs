//! `notification_logs`: one row per message, to track deliveries and list failures.

pub mod query;
use std::fmt::Write;

use ring::digest::{SHA256, digest};

use super::notifications::{metadata_json, time};
use super::stream::{Folded, Stream, Unreadable};
use super::table::{Cell, Rows, Table, Writing, columns};
use crate::domain::event::{Audience, BounceType, Category, Priority};
use crate::domain::ids::{SubscriberId, WorkflowId};
use crate::domain::state::Message;

pub static NOTIFICATION_LOGS: Table = Table {
    name: "notification_logs",
    row_type: "notification_logs_row",
    key: 4,
    writing: Writing::Replace,
    columns: columns![
        partition: Small,
        tenant_id: Text,
        notification_id: Uuid,
        message_key: Text,
        first_position: Int,
        external_id: Text,
        transaction_id: Text,
        workflow_id: Text,
        step_id: Text,
        channel: Text,
        status: Text,
        subscriber_id: Text,
        provider_id: Text,
        provider_message_id: Text,
        category: Text,
        priority: Text,
        error_code: Text,
        target_audience: Text,
        occurred_at: Time,
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
        attempts: Int,
        bounce_type: Text,
        last_error_code: Text,
        last_error_at: Time,
        last_error_sequence: Int,
        raw_sequence: Int,
        metadata: Json,
    ],
};

/// Longest key of a message that is kept as it is, in bytes. PostgreSQL's indexes hold 2704 in all,
/// and a key may have three names in it, each of 256 characters of four bytes.
const KEY_BYTES_MAX: usize = 2048;

/// What one stream contributes: a row per message.
pub(super) fn rows<'a>(stream: &'a Stream<'a>, logs: &mut Rows<'a>) -> Result<(), Unreadable> {
    let Some(folded) = stream.notification()? else {
        return Ok(());
    };
    for message in &folded.summary.messages {
        logs.push(row(stream, folded, message));
    }
    Ok(())
}

fn row<'a>(stream: &'a Stream<'a>, folded: &'a Folded, message: &'a Message) -> [Cell<'a>; 36] {
    let Folded {
        notification,
        summary,
    } = folded;
    let request = notification.request().map(|request| request.value.as_ref());
    let requested_at = notification.request().map(|request| request.occurred_at);
    let classification = request.map(|request| &request.classification);
    let transaction_id = notification.transaction_id().map_or_else(
        // The notification's own id doubles as the transaction's.
        || stream.stream_id.to_string().into(),
        Cell::from,
    );
    let last_error = message.last_error.as_ref();
    let error_code = last_error
        .and_then(|error| error.code.as_deref())
        .or_else(|| classification.and_then(|given| given.error_code.as_deref()));
    let first_position = message
        .reports
        .iter()
        .filter_map(|id| stream.event(*id))
        .map(|event| event.position)
        .min();
    let sequence = |id| stream.event(id).map(|event| event.sequence.0);
    let identity = &message.identity;
    let times = &message.times;
    [
        i64::from(stream.partition.0).into(),
        stream.tenant_id.into(),
        stream.stream_id.0.into(),
        key(&identity.key),
        first_position.unwrap_or(stream.first_position()).0.into(),
        request
            .and_then(|request| request.external_id.as_deref())
            .into(),
        transaction_id,
        notification.workflow_id().map(WorkflowId::as_str).into(),
        identity.step_id.as_deref().into(),
        identity.channel.as_deref().into(),
        message.status.as_str().into(),
        notification
            .subscriber_id()
            .map(SubscriberId::as_str)
            .into(),
        identity.provider_id.as_deref().into(),
        identity.provider_message_id.as_deref().into(),
        request
            .map(|request| Category::as_str(request.category))
            .into(),
        request
            .map(|request| Priority::as_str(request.priority))
            .into(),
        error_code.into(),
        classification
            .and_then(|given| given.audience)
            .map(Audience::as_str)
            .into(),
        time(
            message
                .status_at
                .or(summary.queued_at)
                .or(summary.occurred_at),
        )
        .as_int()
        .unwrap_or_default()
        .into(),
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
        i64::from(message.attempts).into(),
        message.bounce_type.map(BounceType::as_str).into(),
        last_error.and_then(|error| error.code.as_deref()).into(),
        time(last_error.map(|error| error.occurred_at)),
        last_error.and_then(|error| sequence(error.event_id)).into(),
        message.report_shown.and_then(sequence).into(),
        metadata_json(folded),
    ]
}

/// A message's key, short enough for an index. What is cut off is told apart by its hash.
fn key(key: &str) -> Cell<'_> {
    if key.len() <= KEY_BYTES_MAX {
        return key.into();
    }
    let hash = digest(&SHA256, key.as_bytes());
    let rest = 2 * hash.as_ref().len() + "…".len();
    let mut short = key[..key.floor_char_boundary(KEY_BYTES_MAX - rest)].to_owned();
    short.push('…');
    for byte in hash.as_ref() {
        // Text does not fail to take text.
        let _ = write!(short, "{byte:02x}");
    }
    short.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_is_cut_and_stays_one_of_its_own() {
        let long = "é".repeat(KEY_BYTES_MAX);
        let longer = long.clone() + "é";

        assert_eq!(key("sg-1"), Cell::from("sg-1"));
        assert_ne!(key(&long), key(&longer));
        for cell in [key(&long), key(&longer)] {
            assert!((KEY_BYTES_MAX - 1..=KEY_BYTES_MAX).contains(&cell.as_text().unwrap().len()));
        }
    }
}
