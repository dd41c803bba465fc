//! Rows to values, for both databases: the columns are the same, only the row types differ.

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
        use sqlx::Row as _;
        let row = $row;
        $crate::ledger::record::RecordedEvent {
            partition: $crate::ledger::record::Partition(row.try_get(0)?),
            position: $crate::ledger::record::Position(row.try_get(1)?),
            tenant_id: row.try_get(2)?,
            stream_id: $crate::domain::ids::StreamId(row.try_get(3)?),
            sequence: $crate::domain::ids::Sequence(row.try_get(4)?),
            event_id: $crate::domain::ids::EventId(row.try_get(5)?),
            event_type: row.try_get(6)?,
            schema_version: row.try_get(7)?,
            occurred_at: row.try_get(8)?,
            recorded_at: row.try_get(9)?,
            actor_kind: row.try_get(10)?,
            actor_id: row.try_get(11)?,
            source: row.try_get(12)?,
            correlation_id: row.try_get(13)?,
            causation_id: row.try_get(14)?,
            traceparent: row.try_get(15)?,
            subscriber_id: row.try_get(16)?,
            data: $crate::ledger::rows::json_text!(row, 17),
            hash: row.try_get(18)?,
        }
    }};
}

/// JSON as its text. Both databases hand it out as it was stored, byte for byte; the column's type
/// is not asked for, because it has another name in each, and a cast would copy every text.
macro_rules! json_text {
    ($row:expr, $index:expr) => {
        $row.try_get_unchecked($index)?
    };
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
        use sqlx::Row as _;
        let row = $row;
        $crate::ledger::record::StreamEvent {
            tenant_id: row.try_get(0)?,
            stream_id: $crate::domain::ids::StreamId(row.try_get(1)?),
            event: $crate::ledger::record::PlainEvent {
                position: $crate::ledger::record::Position(row.try_get(2)?),
                sequence: $crate::domain::ids::Sequence(row.try_get(3)?),
                event_id: $crate::domain::ids::EventId(row.try_get(4)?),
                event_type: $crate::ledger::record::PlainEvent::known_type(row.try_get(5)?),
                schema_version: row.try_get(6)?,
                occurred_at: row.try_get(7)?,
                recorded_at: row.try_get(8)?,
                subscriber_id: row.try_get(9)?,
                data: $crate::ledger::rows::json_text!(row, 10),
            },
        }
    }};
}

macro_rules! head {
    ($row:expr) => {{
        use sqlx::Row as _;
        let row = $row;
        $crate::ledger::record::Head {
            partition: $crate::ledger::record::Partition(row.try_get(0)?),
            position: $crate::ledger::record::Position(row.try_get(1)?),
            hash: $crate::ledger::rows::hash("partition_heads", row.try_get(2)?)?,
            epoch: row.try_get(3)?,
            recorded_at: $crate::domain::time::Timestamp::from_micros_clamped(row.try_get(4)?),
        }
    }};
}

macro_rules! idempotency_record {
    ($row:expr) => {{
        use sqlx::Row as _;
        let row = $row;
        let stream_id: Option<uuid::Uuid> = row.try_get(4)?;
        let version: Option<i64> = row.try_get(5)?;
        let appended: Option<i32> = row.try_get(6)?;
        $crate::ledger::storage::IdempotencyRecord {
            place: $crate::ledger::storage::IdempotencyPlace {
                partition: $crate::ledger::record::Partition(row.try_get(0)?),
                tenant_id: $crate::ledger::rows::tenant("idempotency_keys", row.try_get(1)?)?,
                key: row.try_get(2)?,
            },
            fingerprint: $crate::ledger::rows::hash("idempotency_keys", row.try_get(3)?)?,
            command: stream_id.zip(version).map(|(stream_id, version)| {
                (
                    $crate::domain::ids::StreamId(stream_id),
                    $crate::domain::ids::Sequence(version),
                    appended.unwrap_or_default(),
                )
            }),
            answer: row.try_get(7)?,
            recorded_at: $crate::domain::time::Timestamp::from_micros_clamped(row.try_get(8)?),
        }
    }};
}

macro_rules! stored_data_key {
    ($row:expr) => {{
        use sqlx::Row as _;
        let row = $row;
        $crate::ledger::storage::StoredDataKey {
            place: $crate::ledger::storage::DataKeyPlace {
                partition: $crate::ledger::record::Partition(row.try_get(0)?),
                tenant_id: $crate::ledger::rows::tenant("data_keys", row.try_get(1)?)?,
                key_id: row.try_get(2)?,
            },
            wrapped_key: row.try_get(3)?,
            created_at: $crate::domain::time::Timestamp::from_micros_clamped(row.try_get(4)?),
        }
    }};
}

pub(crate) use head;
pub(super) use {
    event_columns, idempotency_record, json_text, recorded_event, stored_data_key, stream_event,
    stream_event_columns,
};

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
        if error.as_database_error().is_some_and(is_about_the_rows) {
            Self::Rejected(Box::new(error))
        } else {
            Self::Unavailable(Box::new(error))
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
