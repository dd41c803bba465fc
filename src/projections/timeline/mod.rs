//! `timeline`: one row per event, of every kind of stream, in the order of what happened.

pub mod query;

use super::stream::Stream;
use super::table::{Rows, Table, Writing, columns};

pub static TIMELINE: Table = Table {
    name: "timeline",
    row_type: "timeline_row",
    key: 4,
    writing: Writing::Replace,
    columns: columns![
        partition: Small,
        position: Int,
        tenant_id: Text,
        occurred_at: Time,
        stream_id: Uuid,
        sequence: Int,
        event_type: Text,
        subscriber_id: Text,
        recorded_at: Time,
    ],
};

/// What one stream contributes. Reads no payload, so even an event that can't be read is shown.
pub(super) fn rows<'a>(stream: &'a Stream<'a>, timeline: &mut Rows<'a>) {
    let first_subscriber = stream.first_subscriber();
    for event in stream.events {
        timeline.push([
            i64::from(stream.partition.0).into(),
            event.position.0.into(),
            stream.tenant_id.into(),
            event.occurred_at.into(),
            stream.stream_id.0.into(),
            event.sequence.0.into(),
            event.event_type.as_ref().into(),
            event.subscriber_id.as_deref().or(first_subscriber).into(),
            event.recorded_at.into(),
        ]);
    }
}
