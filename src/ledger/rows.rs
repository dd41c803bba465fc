//! Rows to values, for both databases: the columns are the same, only the row types differ.

use sqlx::{Column, ColumnIndex, Decode, Row, Type};

use super::record::Hash;
use super::storage::StorageError;

/// The columns of [`recorded_event!`], in its order.
///
/// A macro and not a constant, so that whole statements can be put together at compile time.
macro_rules! event_columns {
    () => {
        "e.partition, e.position, e.tenant_id, e.stream_id, e.sequence, e.event_id, \
         e.event_type, e.schema_version, e.occurred_at, e.recorded_at, e.actor_kind, e.actor_id, \
         e.source, e.correlation_id, e.causation_id, e.traceparent, e.subscriber_id, \
         e.data, e.hash"
    };
}

macro_rules! recorded_event {
    ($row:expr) => {{
        use $crate::ledger::rows::{json_text, value};
        let row = $row;
        $crate::ledger::record::RecordedEvent {
            partition: $crate::ledger::record::Partition(value(row, "events", 0)?),
            position: $crate::ledger::record::Position(value(row, "events", 1)?),
            tenant_id: value(row, "events", 2)?,
            stream_id: $crate::domain::ids::StreamId(value(row, "events", 3)?),
            sequence: $crate::domain::ids::Sequence(value(row, "events", 4)?),
            event_id: $crate::domain::ids::EventId(value(row, "events", 5)?),
            event_type: value(row, "events", 6)?,
            schema_version: value(row, "events", 7)?,
            occurred_at: value(row, "events", 8)?,
            recorded_at: value(row, "events", 9)?,
            actor_kind: value(row, "events", 10)?,
            actor_id: value(row, "events", 11)?,
            source: value(row, "events", 12)?,
            correlation_id: value(row, "events", 13)?,
            causation_id: value(row, "events", 14)?,
            traceparent: value(row, "events", 15)?,
            subscriber_id: value(row, "events", 16)?,
            data: json_text(row, "events", 17)?,
            hash: value(row, "events", 18)?,
        }
    }};
}

/// The columns of [`stream_event!`], in its order.
macro_rules! stream_event_columns {
    () => {
        "e.tenant_id, e.stream_id, e.position, e.sequence, e.event_id, e.event_type, \
         e.schema_version, e.occurred_at, e.recorded_at, e.subscriber_id, \
         e.data"
    };
}

macro_rules! stream_event {
    ($row:expr) => {{
        use $crate::ledger::rows::{json_text, value};
        let row = $row;
        $crate::ledger::record::StreamEvent {
            tenant_id: value(row, "events", 0)?,
            stream_id: $crate::domain::ids::StreamId(value(row, "events", 1)?),
            event: $crate::ledger::record::PlainEvent {
                position: $crate::ledger::record::Position(value(row, "events", 2)?),
                sequence: $crate::domain::ids::Sequence(value(row, "events", 3)?),
                event_id: $crate::domain::ids::EventId(value(row, "events", 4)?),
                event_type: $crate::ledger::record::PlainEvent::known_type(value(
                    row, "events", 5,
                )?),
                occurred_at: value(row, "events", 7)?,
                recorded_at: value(row, "events", 8)?,
                subscriber_id: value(row, "events", 9)?,
                content: $crate::ledger::record::Content::Stored {
                    schema_version: value(row, "events", 6)?,
                    data: json_text(row, "events", 10)?,
                },
            },
        }
    }};
}

/// A reference and the stream it belongs to.
macro_rules! referenced {
    ($row:expr) => {{
        use $crate::ledger::rows::value;
        let row = $row;
        let tenant_id: String = value(row, "message_references", 1)?;
        let place = $crate::ledger::storage::ReferencePlace {
            partition: $crate::ledger::record::Partition(value(row, "message_references", 0)?),
            tenant_id: $crate::ledger::rows::tenant("message_references", &tenant_id)?,
            reference: value(row, "message_references", 2)?,
        };
        let stream_id = $crate::domain::ids::StreamId(value(row, "message_references", 3)?);
        (place, stream_id)
    }};
}

/// An event where a batch has looked for one.
macro_rules! found_event {
    ($row:expr) => {{
        use $crate::ledger::rows::value;
        let row = $row;
        let tenant_id: String = value(row, "events", 1)?;
        $crate::ledger::storage::FoundEvent {
            stream: $crate::ledger::record::StreamKey {
                partition: $crate::ledger::record::Partition(value(row, "events", 0)?),
                tenant_id: $crate::ledger::rows::tenant("events", &tenant_id)?,
                stream_id: $crate::domain::ids::StreamId(value(row, "events", 2)?),
            },
            sequence: $crate::domain::ids::Sequence(value(row, "events", 3)?),
            event_id: $crate::domain::ids::EventId(value(row, "events", 4)?),
            position: $crate::ledger::record::Position(value(row, "events", 5)?),
            recorded_at: $crate::domain::time::Timestamp::from_micros_clamped(value(
                row, "events", 6,
            )?),
        }
    }};
}

macro_rules! head {
    ($row:expr) => {{
        use $crate::ledger::rows::value;
        let row = $row;
        $crate::ledger::record::Head {
            partition: $crate::ledger::record::Partition(value(row, "partition_heads", 0)?),
            position: $crate::ledger::record::Position(value(row, "partition_heads", 1)?),
            hash: $crate::ledger::rows::hash("partition_heads", value(row, "partition_heads", 2)?)?,
            epoch: value(row, "partition_heads", 3)?,
            recorded_at: $crate::domain::time::Timestamp::from_micros_clamped(value(
                row,
                "partition_heads",
                4,
            )?),
        }
    }};
}

macro_rules! idempotency_record {
    ($row:expr) => {{
        use $crate::ledger::rows::value;
        let row = $row;
        let stream_id: Option<uuid::Uuid> = value(row, "idempotency_keys", 4)?;
        let version: Option<i64> = value(row, "idempotency_keys", 5)?;
        let appended: Option<i32> = value(row, "idempotency_keys", 6)?;
        $crate::ledger::storage::IdempotencyRecord {
            place: $crate::ledger::storage::IdempotencyPlace {
                partition: $crate::ledger::record::Partition(value(row, "idempotency_keys", 0)?),
                tenant_id: $crate::ledger::rows::tenant(
                    "idempotency_keys",
                    value(row, "idempotency_keys", 1)?,
                )?,
                key: value(row, "idempotency_keys", 2)?,
            },
            fingerprint: $crate::ledger::rows::hash(
                "idempotency_keys",
                value(row, "idempotency_keys", 3)?,
            )?,
            command: stream_id.zip(version).map(|(stream_id, version)| {
                (
                    $crate::domain::ids::StreamId(stream_id),
                    $crate::domain::ids::Sequence(version),
                    appended.unwrap_or_default(),
                )
            }),
            answer: value(row, "idempotency_keys", 7)?,
            recorded_at: $crate::domain::time::Timestamp::from_micros_clamped(value(
                row,
                "idempotency_keys",
                8,
            )?),
        }
    }};
}

macro_rules! stored_data_key {
    ($row:expr) => {{
        use $crate::ledger::rows::value;
        let row = $row;
        $crate::ledger::storage::StoredDataKey {
            place: $crate::ledger::storage::DataKeyPlace {
                partition: $crate::ledger::record::Partition(value(row, "data_keys", 0)?),
                tenant_id: $crate::ledger::rows::tenant("data_keys", value(row, "data_keys", 1)?)?,
                key_id: value(row, "data_keys", 2)?,
            },
            wrapped_key: value(row, "data_keys", 3)?,
            created_at: $crate::domain::time::Timestamp::from_micros_clamped(value(
                row,
                "data_keys",
                4,
            )?),
        }
    }};
}

pub(crate) use head;
pub(super) use {
    event_columns, found_event, idempotency_record, recorded_event, referenced, stored_data_key,
    stream_event, stream_event_columns,
};

/// A value of the type the code gave its column, or the row is damaged: SQLite keeps any value in
/// any column, and either database's columns can be altered.
pub(crate) fn value<'r, R, T>(
    row: &'r R,
    table: &'static str,
    index: usize,
) -> Result<T, StorageError>
where
    R: Row,
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(index)
        .map_err(|error| misread(row, table, index, error))
}

/// JSON as its text. Both databases hand it out as it was stored, byte for byte; the column's type
/// is not asked for, because it has another name in each, and a cast would copy every text.
pub(super) fn json_text<'r, R>(
    row: &'r R,
    table: &'static str,
    index: usize,
) -> Result<String, StorageError>
where
    R: Row,
    usize: ColumnIndex<R>,
    String: Decode<'r, R::Database>,
{
    row.try_get_unchecked(index)
        .map_err(|error| misread(row, table, index, error))
}

fn misread<R: Row>(row: &R, table: &'static str, index: usize, error: sqlx::Error) -> StorageError {
    let name = row.columns().get(index).map_or("?", Column::name);
    let why = match error {
        sqlx::Error::ColumnDecode { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    StorageError::Damaged {
        table,
        detail: format!("`{name}`: {why}"),
    }
}

/// 32 bytes, or the row is damaged.
pub(crate) fn hash(table: &'static str, bytes: Vec<u8>) -> Result<Hash, StorageError> {
    let length = bytes.len();
    Hash::try_from(bytes).map_err(|_| StorageError::Damaged {
        table,
        detail: format!("a hash of {length} bytes"),
    })
}

/// A slug, or the row is damaged.
pub(super) fn tenant(
    table: &'static str,
    text: &str,
) -> Result<crate::domain::ids::TenantId, StorageError> {
    crate::domain::ids::TenantId::new(text).map_err(|_| StorageError::Damaged {
        table,
        detail: format!("a tenant called `{text}`"),
    })
}

/// Sorts database errors by what can be done about them.
impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Damaged {
                table: "some table",
                detail: error.to_string(),
            },
            error if error.as_database_error().is_some_and(is_about_the_rows) => {
                Self::Rejected(Box::new(error))
            }
            error => Self::Unavailable(Box::new(error)),
        }
    }
}

/// The rows themselves are at fault, so trying again is no use. Everything else (gone, full,
/// read-only, busy, timed out) may pass.
fn is_about_the_rows(error: &dyn sqlx::error::DatabaseError) -> bool {
    /// SQLite primary result codes: TOOBIG, CONSTRAINT, MISMATCH, RANGE.
    const SQLITE: [i32; 4] = [18, 19, 20, 25];

    let Some(code) = error.code() else {
        return false;
    };
    match code.parse::<i32>() {
        // An extended SQLite code holds its primary code in the low byte. SQLSTATEs have five
        // characters, so the two can't be taken for each other.
        Ok(number) if code.len() < 5 => SQLITE.contains(&(number & 0xFF)),
        // Classes 22 (data exception), 23 (integrity constraint violation), 54 (a value too large
        // for its index or row).
        _ => {
            code.len() == 5
                && (["22", "23", "54"]
                    .iter()
                    .any(|class| code.starts_with(class)))
        }
    }
}
