//! The record in PostgreSQL. Read beside `sqlite.rs`: the same functions in the same order.
//!
//! Relies on READ COMMITTED: a statement after the lock sees what was committed while waiting
//! for it. Look-ups join a `LATERAL … OFFSET 0`, which keeps the planner at one index probe per
//! row whatever its statistics say.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::postgres::{
    PgBindIterExt, PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgRow,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};

use super::batch::{Plan, PlannedErasure, PlannedEvent, Questions};
use super::record::{
    Head, LedgerPosition, LockedHead, Partition, Position, RecordedEvent, StreamEvent, StreamKey,
    TenantPlace,
};
use super::recordable::stream_referred_to;
use super::records::{Fields, Record, Records};
use super::remembered::{Remembered, Remembering, is_of_message};
use super::rows::{
    event_columns, found_event, head, idempotency_record, recorded_event, referenced,
    stored_data_key, stream_event, stream_event_columns,
};
use super::storage::{
    Announcements, BatchWriter, BrokenStream, DataKeyPlace, Found, FoundEvent, IdempotencyPlace,
    IdempotencyRecord, LOG_BYTES_MAX, LogQuery, Page, ReferencePlace, Storage, StorageError,
    StoredDataKey, StreamQuery, SubscriberStreams,
};
use crate::domain::ids::{Sequence, StreamId, SubscriberId};

/// Where batches are announced.
const CHANNEL: &str = "ledger_appended";
/// Longest announcement that says how far which partitions have come. PostgreSQL takes less than
/// 8,000 bytes.
const ANNOUNCEMENT_BYTES_MAX: usize = 7_000;
/// Longest wait for the connection that listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// There is one way to whatever a lane asks for. Left to itself, PostgreSQL would look for it again
/// each time it is asked for little, which takes longer than going it.
const ONE_PLAN: (&str, &str) = ("plan_cache_mode", "force_generic_plan");

/// The record in a PostgreSQL database.
#[derive(Clone, Debug)]
pub(super) struct PostgresStorage {
    pool: PgPool,
    /// For the lanes' own connections.
    options: PgConnectOptions,
    remembered: Remembered,
}

impl PostgresStorage {
    pub(super) fn new(pool: PgPool, options: PgConnectOptions) -> Self {
        Self {
            pool,
            options,
            remembered: Remembered::default(),
        }
    }
}

/// How a page's column is called that says how many bytes of data there are up to its row. What is
/// summed up is what the database stores, perhaps compressed: it need not fetch the data for it.
const BYTES: &str = "bytes";

const STREAMS: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM UNNEST($1::int2[], $2::text[], $3::uuid[]) AS wanted (partition, tenant_id, stream_id)
    CROSS JOIN LATERAL (
        SELECT *
        FROM events
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND stream_id = wanted.stream_id
        ORDER BY sequence
        OFFSET 0
    ) AS e"
);

// Nested loops give the streams one after the other, each in its order. Nothing is sorted for the
// sum, which is right in any order: whoever reads it looks for what is missing.
const STREAMS_WITHIN: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", e.bytes
    FROM (
        SELECT e.*, SUM(pg_column_size(e.data)) OVER (ROWS UNBOUNDED PRECEDING) AS bytes
        FROM UNNEST($1::int2[], $2::text[], $3::uuid[]) AS wanted (partition, tenant_id, stream_id)
        CROSS JOIN LATERAL (
            SELECT *
            FROM events
            WHERE partition = wanted.partition
                AND tenant_id = wanted.tenant_id
                AND stream_id = wanted.stream_id
            ORDER BY sequence
            OFFSET 0
        ) AS e
    ) AS e
    WHERE e.bytes - pg_column_size(e.data) < $4"
);

const EVENTS: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM UNNEST($1::int2[], $2::text[], $3::uuid[], $4::int8[])
        AS wanted (partition, tenant_id, stream_id, sequence)
    CROSS JOIN LATERAL (
        SELECT *
        FROM events
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND stream_id = wanted.stream_id
            AND sequence = wanted.sequence
        OFFSET 0
    ) AS e"
);

const LOG: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", e.bytes
    FROM (
        SELECT *, SUM(pg_column_size(data)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes
        FROM events
        WHERE partition = $1 AND position > $2
        ORDER BY position
        LIMIT $3
    ) AS e
    WHERE e.bytes - pg_column_size(e.data) < $4
    ORDER BY e.position"
);

const TENANT_LOG: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", e.bytes
    FROM (
        SELECT *, SUM(pg_column_size(data)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes
        FROM events
        WHERE partition = $1 AND position > $2 AND position <= $3 AND tenant_id = $4
            AND recorded_at >= $5 AND recorded_at < $6
            AND (cardinality($7::text[]) = 0 OR event_type = ANY($7))
            AND (cardinality($8::text[]) = 0 OR subscriber_id = ANY($8))
        ORDER BY position
        LIMIT $9
    ) AS e
    WHERE e.bytes - pg_column_size(e.data) < $10
    ORDER BY e.position"
);

const BY_STREAM: &str = concat!(
    "SELECT ",
    stream_event_columns!(),
    " FROM events AS e
    WHERE e.partition = $1
        AND (e.tenant_id, e.stream_id, e.sequence) > ($2, $3, $4)
        AND e.position <= $5
    ORDER BY e.tenant_id, e.stream_id, e.sequence
    LIMIT $6"
);

const TENANT_BY_STREAM: &str = concat!(
    "SELECT ",
    stream_event_columns!(),
    " FROM events AS e
    WHERE e.partition = $1 AND e.tenant_id = $2
        AND (e.stream_id, e.sequence) > ($3, $4)
        AND e.position <= $5
    ORDER BY e.stream_id, e.sequence
    LIMIT $6"
);

const HEADS: &str = "
    SELECT partition, position, hash, epoch, recorded_at
    FROM partition_heads
    ORDER BY partition";

const BROKEN_STREAMS: &str = "
    SELECT tenant_id, stream_id, MIN(position) FILTER (WHERE sequence <> place) AS position
    FROM (
        SELECT tenant_id, stream_id, position, sequence,
            ROW_NUMBER() OVER (PARTITION BY tenant_id, stream_id ORDER BY position) AS place
        FROM events
        WHERE partition = $1
    ) AS numbered
    GROUP BY tenant_id, stream_id
    HAVING COUNT(*) FILTER (WHERE sequence <> place) > 0
    ORDER BY 3
    LIMIT 10";

const IDEMPOTENT: &str = "
    SELECT k.partition, k.tenant_id, k.idempotency_key, k.fingerprint, k.stream_id, k.version,
        k.appended, k.answer, k.recorded_at
    FROM UNNEST($1::int2[], $2::text[], $3::text[]) AS wanted (partition, tenant_id, key)
    CROSS JOIN LATERAL (
        SELECT *
        FROM idempotency_keys
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND idempotency_key = wanted.key
        OFFSET 0
    ) AS k";

const KEEP_ANSWER: &str = "
    INSERT INTO idempotency_keys
        (partition, tenant_id, idempotency_key, fingerprint, answer, recorded_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (partition, tenant_id, idempotency_key) DO UPDATE
    SET answer = COALESCE(idempotency_keys.answer, EXCLUDED.answer)
    WHERE idempotency_keys.fingerprint = EXCLUDED.fingerprint
        AND idempotency_keys.stream_id IS NULL";

// Keys and erasures in one statement, so that both are of the same moment.
const DATA_KEYS: &str = "
    SELECT k.partition, k.tenant_id, k.key_id, k.wrapped_key, k.created_at,
        COALESCE(h.erasures, 0) AS erasures
    FROM UNNEST($1::int2[], $2::text[], $3::uuid[]) AS wanted (partition, tenant_id, key_id)
    CROSS JOIN LATERAL (
        SELECT *
        FROM data_keys
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND key_id = wanted.key_id
        OFFSET 0
    ) AS k
    LEFT JOIN partition_heads AS h ON h.partition = k.partition";

// The same for one key, as a caller alone asks for it. The database sees that it would find the same
// way again and stops looking for it; with arrays it never does, because it takes them for longer
// than they are as long as it doesn't look, and looking takes longer than going.
const DATA_KEY: &str = "
    SELECT k.partition, k.tenant_id, k.key_id, k.wrapped_key, k.created_at,
        COALESCE(h.erasures, 0) AS erasures
    FROM data_keys AS k
    LEFT JOIN partition_heads AS h ON h.partition = k.partition
    WHERE k.partition = $1 AND k.tenant_id = $2 AND k.key_id = $3";

const ADD_DATA_KEY: &str = "
    INSERT INTO data_keys (partition, tenant_id, key_id, wrapped_key, created_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (partition, tenant_id, key_id) DO NOTHING";

// Waits for a batch that has looked for a key and is about to store its own: else its events
// would be sealed under a key that nobody has. SQLite has one writer at a time anyway.
const SHARE_HEAD: &str = "
    SELECT 1
    FROM partition_heads
    WHERE partition = $1
    FOR SHARE";

// References that are stored, and streams that refer to themselves.
const REFERENCED: &str = "
    SELECT r.partition, r.tenant_id, r.reference, r.stream_id
    FROM UNNEST($1::int2[], $2::text[], $3::text[]) AS wanted (partition, tenant_id, reference)
    CROSS JOIN LATERAL (
        SELECT *
        FROM message_references
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND reference = wanted.reference
        OFFSET 0
    ) AS r
    UNION ALL
    SELECT wanted.partition, wanted.tenant_id, wanted.reference, wanted.stream_id
    FROM UNNEST($4::int2[], $5::text[], $6::text[], $7::uuid[])
        AS wanted (partition, tenant_id, reference, stream_id)
    CROSS JOIN LATERAL (
        SELECT 1
        FROM events
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND stream_id = wanted.stream_id
            AND sequence = 1
        OFFSET 0
    ) AS first";

#[async_trait]
impl Storage for PostgresStorage {
    async fn writer(&self) -> Result<Box<dyn BatchWriter>, StorageError> {
        // A database may be set up to answer before the disk has it. The ledger's promise is
        // stronger; a stricter setting (remote_apply) is left alone.
        const DURABLE: &str = "
            SELECT set_config('synchronous_commit', 'on', false)
            WHERE current_setting('synchronous_commit') = 'off'";
        // A process that hangs inside a batch must not hold the heads for ever.
        let options = self.options.clone().options([
            ("lock_timeout", "5s"),
            ("statement_timeout", "15s"),
            ("idle_in_transaction_session_timeout", "10s"),
            // A statement that waited for others must see what they did.
            ("default_transaction_isolation", "read committed"),
            ONE_PLAN,
        ]);
        let mut connection = options.connect().await?;
        connection.execute(DURABLE).await?;
        Ok(Box::new(PostgresWriter {
            connection,
            remembering: self.remembered.through_connection(),
        }))
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>, StorageError> {
        // A pool of its own, for one connection that is never replaced behind its listener's back.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(LISTEN_TIMEOUT)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(self.options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        // Whoever listens wants to know that something may have been missed.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(Some(Box::new(PostgresAnnouncements { listener })))
    }

    async fn announce(&self, positions: &[LedgerPosition]) -> Result<(), StorageError> {
        // A transaction of its own: inside a batch's it would make all commits of the whole server
        // wait for each other, and a listener that hangs long enough could keep the ledger from
        // being written.
        let statement = AssertSqlSafe(announcement(positions));
        sqlx::raw_sql(statement).execute(&self.pool).await?;
        Ok(())
    }

    async fn streams(&self, streams: &[StreamKey]) -> Result<Vec<RecordedEvent>, StorageError> {
        let rows = sqlx::query(STREAMS)
            .bind(streams.iter().map(|key| key.partition.0).bind_iter())
            .bind(streams.iter().map(|key| key.tenant_id.as_str()).bind_iter())
            .bind(streams.iter().map(|key| key.stream_id.0).bind_iter())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(recorded_event!(row))).collect()
    }

    async fn streams_within(
        &self,
        streams: &[StreamKey],
        bytes_max: i64,
    ) -> Result<Page<RecordedEvent>, StorageError> {
        let rows = sqlx::query(STREAMS_WITHIN)
            .bind(streams.iter().map(|key| key.partition.0).bind_iter())
            .bind(streams.iter().map(|key| key.tenant_id.as_str()).bind_iter())
            .bind(streams.iter().map(|key| key.stream_id.0).bind_iter())
            .bind(bytes_max)
            .fetch_all(&self.pool)
            .await?;
        page(&rows, i64::MAX, bytes_max)
    }

    async fn events_at(
        &self,
        places: &[(StreamKey, Sequence)],
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        let keys = || places.iter().map(|(key, _)| key);
        let rows = sqlx::query(EVENTS)
            .bind(keys().map(|key| key.partition.0).bind_iter())
            .bind(keys().map(|key| key.tenant_id.as_str()).bind_iter())
            .bind(keys().map(|key| key.stream_id.0).bind_iter())
            .bind(places.iter().map(|(_, sequence)| sequence.0).bind_iter())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(recorded_event!(row))).collect()
    }

    async fn log(
        &self,
        partition: Partition,
        after: Position,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        let rows = sqlx::query(LOG)
            .bind(partition.0)
            .bind(after.0)
            .bind(limit)
            .bind(LOG_BYTES_MAX)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(recorded_event!(row))).collect()
    }

    async fn tenant_log(&self, query: &LogQuery) -> Result<Page<RecordedEvent>, StorageError> {
        let rows = sqlx::query(TENANT_LOG)
            .bind(query.partition.0)
            .bind(query.after.0)
            .bind(query.until.0)
            .bind(query.tenant_id.as_str())
            .bind(query.from.as_micros())
            .bind(query.to.as_micros())
            .bind(&query.event_types)
            .bind(&query.subscriber_ids)
            .bind(query.limit)
            .bind(query.bytes_max)
            .fetch_all(&self.pool)
            .await?;
        page(&rows, query.limit, query.bytes_max)
    }

    async fn by_stream(&self, query: &StreamQuery) -> Result<Page<StreamEvent>, StorageError> {
        // The planner takes the rows for scattered and would rather sort all of them.
        const ALONG_THE_INDEX: &str = "
            BEGIN READ ONLY;
            SET LOCAL enable_seqscan = off;
            SET LOCAL enable_bitmapscan = off;
            SET LOCAL enable_sort = off";
        let mut transaction = self.pool.begin_with(ALONG_THE_INDEX).await?;
        let (tenant_id, stream_id, sequence) = query.begins_after();
        // Row by row, so that memory does not hold the whole page twice. Sizes are added up here: the
        // database would take a third longer over every row to find the few pages that are too large.
        let mut rows = sqlx::query(
            query
                .tenant_id
                .as_ref()
                .map_or(BY_STREAM, |_| TENANT_BY_STREAM),
        )
        .bind(query.partition.0)
        .bind(tenant_id)
        .bind(stream_id.0)
        .bind(sequence.0)
        .bind(query.until.0)
        .bind(query.limit)
        .fetch(&mut *transaction);
        let (mut events, mut bytes) = (Vec::new(), 0);
        while bytes < query.bytes_max
            && let Some(row) = rows.try_next().await?
        {
            let event: StreamEvent = stream_event!(&row);
            bytes += i64::try_from(event.event.content.bytes()).unwrap_or(i64::MAX);
            events.push(event);
        }
        drop(rows);
        transaction.rollback().await?;
        let is_cut = is_cut(events.len(), Some(bytes), query.limit, query.bytes_max);
        Ok(Page { events, is_cut })
    }

    async fn heads(&self) -> Result<Vec<Head>, StorageError> {
        let rows = sqlx::query(HEADS).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(head!(row))).collect()
    }

    async fn broken_streams(
        &self,
        partition: Partition,
    ) -> Result<Vec<BrokenStream>, StorageError> {
        let rows = sqlx::query(BROKEN_STREAMS)
            .bind(partition.0)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(BrokenStream {
                    tenant_id: row.try_get(0)?,
                    stream_id: StreamId(row.try_get(1)?),
                    position: Position(row.try_get(2)?),
                })
            })
            .collect()
    }

    async fn idempotent(
        &self,
        keys: &[IdempotencyPlace],
    ) -> Result<Vec<IdempotencyRecord>, StorageError> {
        idempotent(&self.pool, &keys.iter().collect::<Vec<_>>()).await
    }

    async fn keep_answer(
        &self,
        record: &IdempotencyRecord,
    ) -> Result<IdempotencyRecord, StorageError> {
        sqlx::query(KEEP_ANSWER)
            .bind(record.place.partition.0)
            .bind(record.place.tenant_id.as_str())
            .bind(&record.place.key)
            .bind(record.fingerprint.as_slice())
            .bind(&record.answer)
            .bind(record.recorded_at.as_micros())
            .execute(&self.pool)
            .await?;
        let standing = idempotent(&self.pool, &[&record.place]).await?;
        Ok(standing
            .into_iter()
            .next()
            .unwrap_or_else(|| record.clone()))
    }

    async fn data_keys_as_of(
        &self,
        keys: &[DataKeyPlace],
    ) -> Result<Vec<(StoredDataKey, i64)>, StorageError> {
        data_keys(&self.pool, &keys.iter().collect::<Vec<_>>()).await
    }

    async fn add_data_key(&self, key: &StoredDataKey) -> Result<(), StorageError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(SHARE_HEAD)
            .bind(key.place.partition.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(ADD_DATA_KEY)
            .bind(key.place.partition.0)
            .bind(key.place.tenant_id.as_str())
            .bind(key.place.key_id)
            .bind(key.wrapped_key.as_deref())
            .bind(key.created_at.as_micros())
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn referenced(
        &self,
        references: &[ReferencePlace],
    ) -> Result<Vec<(ReferencePlace, StreamId)>, StorageError> {
        macro_rules! columns {
            ($query:expr, $rows:expr) => {
                $query
                    .bind($rows.iter().map(|(place, _)| place.partition.0).bind_iter())
                    .bind(
                        $rows
                            .iter()
                            .map(|(place, _)| place.tenant_id.as_str())
                            .bind_iter(),
                    )
                    .bind(
                        $rows
                            .iter()
                            .map(|(place, _)| place.reference.as_str())
                            .bind_iter(),
                    )
            };
        }
        let referred = references
            .iter()
            .map(|place| (place, stream_referred_to(&place.reference)));
        let (streams, stored): (Vec<_>, Vec<_>) =
            referred.partition(|(_, stream)| stream.is_some());
        let query = columns!(sqlx::query(REFERENCED), stored);
        let rows = columns!(query, streams)
            .bind(
                streams
                    .iter()
                    .map(|(_, stream)| stream.map(|id| id.0))
                    .bind_iter(),
            )
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(referenced!(row))).collect()
    }

    fn remembered(&self, reference: &ReferencePlace) -> Option<StreamId> {
        self.remembered.stream_of(reference)
    }

    async fn scrub(&self) -> Result<bool, StorageError> {
        // Old versions of rows can't be read any more; when their space is used again is vacuum's
        // business, and what the server's own log keeps, its administrator's.
        Ok(true)
    }
}

/// Events from rows with their bytes.
fn page(rows: &[PgRow], limit: i64, bytes_max: i64) -> Result<Page<RecordedEvent>, StorageError> {
    let bytes = rows.last().map(|row| row.try_get(BYTES)).transpose()?;
    let events: Result<_, StorageError> = rows.iter().map(|row| Ok(recorded_event!(row))).collect();
    Ok(Page {
        events: events?,
        is_cut: is_cut(rows.len(), bytes, limit, bytes_max),
    })
}

fn is_cut(events: usize, bytes: Option<i64>, limit: i64, bytes_max: i64) -> bool {
    bytes >= Some(bytes_max) || i64::try_from(events).is_ok_and(|events| events >= limit)
}

async fn idempotent(
    database: impl sqlx::PgExecutor<'_>,
    keys: &[&IdempotencyPlace],
) -> Result<Vec<IdempotencyRecord>, StorageError> {
    let rows = sqlx::query(IDEMPOTENT)
        .bind(keys.iter().map(|place| place.partition.0).bind_iter())
        .bind(
            keys.iter()
                .map(|place| place.tenant_id.as_str())
                .bind_iter(),
        )
        .bind(keys.iter().map(|place| place.key.as_str()).bind_iter())
        .fetch_all(database)
        .await?;
    rows.iter()
        .map(|row| Ok(idempotency_record!(row)))
        .collect()
}

async fn data_keys(
    database: impl sqlx::PgExecutor<'_>,
    keys: &[&DataKeyPlace],
) -> Result<Vec<(StoredDataKey, i64)>, StorageError> {
    let query = match keys {
        [place] => sqlx::query(DATA_KEY)
            .bind(place.partition.0)
            .bind(place.tenant_id.as_str())
            .bind(place.key_id),
        _ => sqlx::query(DATA_KEYS)
            .bind(keys.iter().map(|place| place.partition.0).bind_iter())
            .bind(
                keys.iter()
                    .map(|place| place.tenant_id.as_str())
                    .bind_iter(),
            )
            .bind(keys.iter().map(|place| place.key_id).bind_iter()),
    };
    let rows = query.fetch_all(database).await?;
    rows.iter()
        .map(|row| Ok((stored_data_key!(row), row.try_get(5)?)))
        .collect()
}

/// A lane's connection.
#[derive(Debug)]
struct PostgresWriter {
    connection: PgConnection,
    remembering: Remembering,
}

const EVENTS_AT: &str = "
    SELECT wanted.partition, wanted.tenant_id, wanted.stream_id, wanted.sequence, e.event_id,
        e.position, e.recorded_at
    FROM UNNEST($1::int2[], $2::text[], $3::uuid[], $4::int8[])
        AS wanted (partition, tenant_id, stream_id, sequence)
    CROSS JOIN LATERAL (
        SELECT event_id, position, recorded_at
        FROM events
        WHERE partition = wanted.partition
            AND tenant_id = wanted.tenant_id
            AND stream_id = wanted.stream_id
            AND sequence = wanted.sequence
        OFFSET 0
    ) AS e";

// One head, if it is as it should be: moved at once. Who holds it is waited for; then it is seldom as it was.
const ONE_MOVED: &str = "
    WITH matched AS (
        UPDATE partition_heads
        SET position = $2, hash = $3, recorded_at = $4
        WHERE partition = $1 AND position = $5 AND hash = $6 AND epoch = $7 AND erasures = $8
        RETURNING TRUE AS ok
    )";

// Several heads as they are; none that somebody else is holding.
const LOCKED: &str = "
    WITH locked AS MATERIALIZED (
        SELECT partition, position, hash, epoch, erasures
        FROM partition_heads
        WHERE partition = ANY($1)
        ORDER BY partition
        FOR UPDATE SKIP LOCKED
    ), matched AS MATERIALIZED (
        SELECT COUNT(*) = cardinality($1) AS ok
        FROM locked
        JOIN UNNEST($1::int2[], $5::int8[], $6::bytea[], $7::uuid[], $8::int8[])
            AS expected (partition, position, hash, epoch, erasures)
            USING (partition, position, hash, epoch, erasures)
    )";

// In a transaction that has locked them.
const HELD: &str = "
    WITH matched AS MATERIALIZED (SELECT TRUE AS ok)";

const MOVED: &str = ", moved AS (
        UPDATE partition_heads
        SET position = new.position, hash = new.hash, recorded_at = new.recorded_at
        FROM UNNEST($1::int2[], $2::int8[], $3::bytea[], $4::int8[])
            AS new (partition, position, hash, recorded_at)
        CROSS JOIN matched
        WHERE matched.ok AND partition_heads.partition = new.partition
    )";

/// Rows that a plan may add, a parameter for each table.
struct Added {
    table: &'static str,
    /// In the order of the row type.
    columns: &'static str,
    row_type: &'static str,
    and_then: &'static str,
}

const EVENTS_ADDED: Added = Added {
    table: "events",
    columns: "partition, position, tenant_id, stream_id, sequence, event_id, event_type, \
        schema_version, occurred_at, recorded_at, actor_kind, actor_id, source, correlation_id, \
        causation_id, traceparent, subscriber_id, data, hash",
    row_type: "event_row",
    and_then: "",
};

impl Record for &PlannedEvent<'_> {
    fn write(&self, fields: &mut Fields<'_>) {
        fields.small(Some(self.stream.partition.0));
        fields.big(Some(self.position.0));
        fields.text(Some(self.stream.tenant_id.as_str()));
        fields.uuid(Some(self.stream.stream_id.0));
        fields.big(Some(self.sequence.0));
        fields.uuid(Some(self.event.event_id.0));
        fields.text(Some(self.event.event_type));
        fields.int(Some(self.event.schema_version));
        fields.big(Some(self.event.occurred_at.as_micros()));
        fields.big(Some(self.recorded_at.as_micros()));
        fields.text(Some(self.provenance.actor.kind.as_str()));
        fields.text(Some(&self.provenance.actor.id));
        fields.text(Some(self.provenance.source.as_str()));
        fields.text(self.provenance.correlation_id.as_deref());
        fields.text(self.provenance.causation_id.as_deref());
        fields.text(self.provenance.traceparent.as_deref());
        fields.text(self.event.subscriber_id.as_ref().map(SubscriberId::as_str));
        fields.json(&self.event.data);
        fields.blob(&self.hash);
    }
}

const DATA_KEYS_ADDED: Added = Added {
    table: "data_keys",
    columns: "partition, tenant_id, key_id, wrapped_key, created_at",
    row_type: "data_key_row",
    and_then: "",
};

impl Record for &&StoredDataKey {
    fn write(&self, fields: &mut Fields<'_>) {
        fields.small(Some(self.place.partition.0));
        fields.text(Some(self.place.tenant_id.as_str()));
        fields.uuid(Some(self.place.key_id));
        fields.text(self.wrapped_key.as_deref());
        fields.big(Some(self.created_at.as_micros()));
    }
}

const IDEMPOTENCY_KEYS_ADDED: Added = Added {
    table: "idempotency_keys",
    columns: "partition, tenant_id, idempotency_key, fingerprint, stream_id, version, appended, \
        answer, recorded_at",
    row_type: "idempotency_key_row",
    and_then: "",
};

impl Record for &IdempotencyRecord {
    fn write(&self, fields: &mut Fields<'_>) {
        fields.small(Some(self.place.partition.0));
        fields.text(Some(self.place.tenant_id.as_str()));
        fields.text(Some(&self.place.key));
        fields.blob(&self.fingerprint);
        fields.uuid(self.command.map(|(stream_id, _, _)| stream_id.0));
        fields.big(self.command.map(|(_, version, _)| version.0));
        fields.int(self.command.map(|(_, _, appended)| appended));
        fields.text(self.answer.as_deref());
        fields.big(Some(self.recorded_at.as_micros()));
    }
}

const REFERENCES_ADDED: Added = Added {
    table: "message_references",
    columns: "partition, tenant_id, reference, stream_id",
    row_type: "message_reference_row",
    and_then: " ON CONFLICT (partition, tenant_id, reference) DO NOTHING RETURNING reference",
};

impl Record for &(&StreamKey, &str) {
    fn write(&self, fields: &mut Fields<'_>) {
        let (stream, reference) = self;
        fields.small(Some(stream.partition.0));
        fields.text(Some(stream.tenant_id.as_str()));
        fields.text(Some(reference));
        fields.uuid(Some(stream.stream_id.0));
    }
}

// As `remembered` knows them.
const MESSAGES_ADDED: &str =
    "SELECT COUNT(*) FROM message_references_added WHERE starts_with(reference, 'message:')";

const LATE_SUBSCRIBERS_ADDED: Added = Added {
    table: "late_subscribers",
    columns: "partition, tenant_id, subscriber_id, stream_id",
    row_type: "late_subscriber_row",
    and_then: " ON CONFLICT (partition, tenant_id, subscriber_id, stream_id) DO NOTHING",
};

impl Record for &(&StreamKey, &SubscriberId) {
    fn write(&self, fields: &mut Fields<'_>) {
        let (stream, subscriber_id) = self;
        fields.small(Some(stream.partition.0));
        fields.text(Some(stream.tenant_id.as_str()));
        fields.text(Some(subscriber_id.as_str()));
        fields.uuid(Some(stream.stream_id.0));
    }
}

impl Added {
    /// Adds the part of a statement that adds these rows, if the heads are right.
    fn push(&self, statement: &mut String, parameter: usize) {
        let Self {
            table,
            columns,
            row_type,
            and_then,
        } = self;
        // Writing to a string can't fail.
        let _ = write!(
            statement,
            ", {table}_added AS (
                INSERT INTO {table} ({columns})
                SELECT new.*
                FROM UNNEST(${parameter}::{row_type}[]) AS new
                CROSS JOIN matched
                WHERE matched.ok{and_then}
            )"
        );
    }
}

const COUNT_OF: &str = "
    SELECT COUNT(*)
    FROM events
    WHERE partition = $1 AND tenant_id = $2 AND subscriber_id = $3 AND sequence = 1
        AND event_type IN ('notification.requested', 'notification.adopted')";

// A notification may come back to the one it began with.
const LATE_OF: &str = "
    SELECT l.stream_id, EXISTS (
        SELECT 1
        FROM events AS e
        WHERE e.partition = l.partition
            AND e.tenant_id = l.tenant_id
            AND e.stream_id = l.stream_id
            AND e.sequence = 1
            AND e.subscriber_id = l.subscriber_id
    ) AS is_counted
    FROM late_subscribers AS l
    WHERE l.partition = $1 AND l.tenant_id = $2 AND l.subscriber_id = $3";

const DESTROY_KEYS: &str = "
    UPDATE data_keys
    SET wrapped_key = NULL, erased_at = $4
    FROM UNNEST($1::int2[], $2::text[], $3::uuid[]) AS gone (partition, tenant_id, key_id)
    WHERE data_keys.partition = gone.partition
        AND data_keys.tenant_id = gone.tenant_id
        AND data_keys.key_id = gone.key_id
        AND data_keys.wrapped_key IS NOT NULL";

const COUNT_ERASURE: &str = "
    UPDATE partition_heads
    SET erasures = erasures + 1
    WHERE partition = $1";

#[async_trait]
impl BatchWriter for PostgresWriter {
    async fn lock_heads(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<LockedHead>, StorageError> {
        // Held until commit. Nobody else can hand out these positions meanwhile, so they have no
        // gaps and become visible in order. Numbers only, so they may be written into the text;
        // that lets BEGIN and the lock share one round trip.
        let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        let statement = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;
            SELECT partition, position, hash, epoch, recorded_at, erasures
            FROM partition_heads
            WHERE partition IN ({})
            ORDER BY partition
            FOR UPDATE",
            numbers.join(", ")
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(statement))
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(LockedHead {
                    head: head!(row),
                    erasures: row.try_get(5)?,
                })
            })
            .collect()
    }

    async fn append(
        &mut self,
        plan: &Plan<'_>,
        expected: &[LockedHead],
    ) -> Result<bool, StorageError> {
        let (ok, messages) = self.store(plan, Some(expected)).await?;
        let references = plan.references.iter();
        let planned = references.filter(|(_, reference)| is_of_message(reference));
        // Else somebody was first with one of them, and it is not said with which.
        if ok && usize::try_from(messages) == Ok(planned.count()) {
            self.remembering.keep(&plan.references);
        }
        Ok(ok)
    }

    async fn look_up(&mut self, questions: &Questions<'_>) -> Result<Found, StorageError> {
        let mut found = Found::default();
        if !questions.sequences.is_empty() {
            found.events = self.events_at(&questions.sequences).await?;
        }
        if !questions.idempotency.is_empty() {
            found.idempotent = idempotent(&mut self.connection, &questions.idempotency).await?;
        }
        if !questions.data_keys.is_empty() {
            let keys = data_keys(&mut self.connection, &questions.data_keys).await?;
            found.data_keys = keys.into_iter().map(|(key, _)| key).collect();
        }
        Ok(found)
    }

    async fn streams_of(
        &mut self,
        tenant: &TenantPlace,
        subscriber_id: &SubscriberId,
    ) -> Result<SubscriberStreams, StorageError> {
        let count: i64 = sqlx::query_scalar(COUNT_OF)
            .bind(tenant.partition.0)
            .bind(tenant.tenant_id.as_str())
            .bind(subscriber_id.as_str())
            .fetch_one(&mut self.connection)
            .await?;
        let late = sqlx::query(LATE_OF)
            .bind(tenant.partition.0)
            .bind(tenant.tenant_id.as_str())
            .bind(subscriber_id.as_str())
            .fetch_all(&mut self.connection)
            .await?;
        let mut streams = SubscriberStreams {
            count: count.unsigned_abs(),
            late: Vec::with_capacity(late.len()),
        };
        for row in &late {
            streams.late.push(StreamId(row.try_get(0)?));
            if !row.try_get::<bool, _>(1)? {
                streams.count += 1;
            }
        }
        Ok(streams)
    }

    async fn insert(&mut self, plan: &Plan<'_>) -> Result<(), StorageError> {
        self.store(plan, None).await?;
        if let Some(erasure) = &plan.erasure {
            self.destroy_keys(erasure).await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), StorageError> {
        self.connection.execute("COMMIT").await?;
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<(), StorageError> {
        self.connection.execute("ROLLBACK").await?;
        Ok(())
    }
}

/// The parts of a plan, in the order of their parameters in [`PostgresWriter::store`].
const PARTS: [&Added; 5] = [
    &EVENTS_ADDED,
    &DATA_KEYS_ADDED,
    &IDEMPOTENCY_KEYS_ADDED,
    &REFERENCES_ADDED,
    &LATE_SUBSCRIBERS_ADDED,
];

/// What a statement does about the heads before it stores a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heads {
    /// Moves the only one, if it is as expected.
    One,
    /// Moves all of them, if they are as expected.
    Several,
    /// Moves them: they are held.
    Held,
}

impl Heads {
    /// In the order of their numbers.
    const ALL: [Self; 3] = [Self::One, Self::Several, Self::Held];

    fn of(plan: &Plan<'_>, expected: Option<&[LockedHead]>) -> Self {
        match (plan.heads.as_slice(), expected) {
            (_, None) => Self::Held,
            ([_], Some([_])) => Self::One,
            (_, Some(_)) => Self::Several,
        }
    }

    /// How a statement begins, and how many parameters that takes.
    fn beginning(self) -> (String, usize) {
        match self {
            Self::One => (ONE_MOVED.to_owned(), 8),
            Self::Several => ([LOCKED, MOVED].concat(), 8),
            Self::Held => ([HELD, MOVED].concat(), 4),
        }
    }
}

/// All statements that store plans. Which one it is, [`statement`] knows.
static STATEMENTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let references = PARTS
        .iter()
        .position(|part| part.table == REFERENCES_ADDED.table);
    let whole = move |heads: Heads, parts: usize| {
        let (mut statement, mut parameters) = heads.beginning();
        for (place, added) in PARTS.iter().enumerate() {
            if parts >> place & 1 == 1 {
                parameters += 1;
                added.push(&mut statement, parameters);
            }
        }
        let messages = match references {
            Some(place) if parts >> place & 1 == 1 => MESSAGES_ADDED,
            _ => "SELECT CAST(0 AS int8)",
        };
        let _ = write!(statement, " SELECT ok, ({messages}) FROM matched");
        statement
    };
    let all_parts = |heads| (0..1 << PARTS.len()).map(move |parts| whole(heads, parts));
    Heads::ALL.into_iter().flat_map(all_parts).collect()
});

/// The statement that stores a plan.
fn statement(plan: &Plan<'_>, heads: Heads) -> &'static str {
    let is_there = [
        !plan.events.is_empty(),
        !plan.data_keys.is_empty(),
        !plan.idempotency.is_empty(),
        !plan.references.is_empty(),
        !plan.late_subscribers.is_empty(),
    ];
    let bits = is_there.iter().enumerate();
    let parts: usize = bits
        .map(|(place, is_there)| usize::from(*is_there) << place)
        .sum();
    &STATEMENTS[((heads as usize) << PARTS.len()) + parts]
}

/// The statement that tells other processes how far some partitions have come. Numbers only, so
/// that they may be written into the text.
fn announcement(positions: &[LedgerPosition]) -> String {
    let positions: Vec<String> = positions.iter().map(ToString::to_string).collect();
    let positions = positions.join(",");
    if positions.len() <= ANNOUNCEMENT_BYTES_MAX {
        format!("NOTIFY {CHANNEL}, '{positions}'")
    } else {
        format!("NOTIFY {CHANNEL}")
    }
}

/// A connection that listens.
struct PostgresAnnouncements {
    listener: PgListener,
}

#[async_trait]
impl Announcements for PostgresAnnouncements {
    async fn next(&mut self) -> Result<Vec<LedgerPosition>, StorageError> {
        let notification = self.listener.try_recv().await?;
        let notification = notification.ok_or_else(|| {
            StorageError::Unavailable("the connection that listens was closed".into())
        })?;
        // What nobody here has sent leads to a look, as an announcement without positions does.
        let positions = notification.payload().split(',').map(str::parse);
        Ok(positions.collect::<Result<_, _>>().unwrap_or_default())
    }
}

impl PostgresWriter {
    async fn events_at(
        &mut self,
        wanted: &[(&StreamKey, Sequence)],
    ) -> Result<Vec<FoundEvent>, StorageError> {
        let rows = sqlx::query(EVENTS_AT)
            .bind(wanted.iter().map(|(key, _)| key.partition.0).bind_iter())
            .bind(
                wanted
                    .iter()
                    .map(|(key, _)| key.tenant_id.as_str())
                    .bind_iter(),
            )
            .bind(wanted.iter().map(|(key, _)| key.stream_id.0).bind_iter())
            .bind(wanted.iter().map(|(_, sequence)| sequence.0).bind_iter())
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter().map(|row| Ok(found_event!(row))).collect()
    }

    /// Stores a plan in one statement, and so one round trip: if the heads are as expected, or else
    /// held already. Says whether they were, and how many references to messages were new.
    async fn store(
        &mut self,
        plan: &Plan<'_>,
        expected: Option<&[LockedHead]>,
    ) -> Result<(bool, i64), StorageError> {
        macro_rules! column {
            ($rows:expr, $row:ident => $value:expr) => {
                $rows.iter().map(|$row| $value).bind_iter()
            };
        }
        let heads = Heads::of(plan, expected);
        let mut query = sqlx::query_as(statement(plan, heads));
        if let (Heads::One, [head], Some([locked])) = (heads, plan.heads.as_slice(), expected) {
            query = query
                .bind(head.partition.0)
                .bind(head.position.0)
                .bind(head.hash.as_slice())
                .bind(head.recorded_at.as_micros())
                .bind(locked.head.position.0)
                .bind(locked.head.hash.as_slice())
                .bind(locked.head.epoch)
                .bind(locked.erasures);
        } else {
            query = query
                .bind(column!(plan.heads, head => head.partition.0))
                .bind(column!(plan.heads, head => head.position.0))
                .bind(column!(plan.heads, head => head.hash.as_slice()))
                .bind(column!(plan.heads, head => head.recorded_at.as_micros()));
            if let Some(expected) = expected {
                query = query
                    .bind(column!(expected, locked => locked.head.position.0))
                    .bind(column!(expected, locked => locked.head.hash.as_slice()))
                    .bind(column!(expected, locked => locked.head.epoch))
                    .bind(column!(expected, locked => locked.erasures));
            }
        }
        if !plan.events.is_empty() {
            query = query.bind(Records::new(EVENTS_ADDED.row_type, &plan.events));
        }
        if !plan.data_keys.is_empty() {
            query = query.bind(Records::new(DATA_KEYS_ADDED.row_type, &plan.data_keys));
        }
        if !plan.idempotency.is_empty() {
            let rows = &plan.idempotency;
            query = query.bind(Records::new(IDEMPOTENCY_KEYS_ADDED.row_type, rows));
        }
        if !plan.references.is_empty() {
            query = query.bind(Records::new(REFERENCES_ADDED.row_type, &plan.references));
        }
        if !plan.late_subscribers.is_empty() {
            let rows = &plan.late_subscribers;
            query = query.bind(Records::new(LATE_SUBSCRIBERS_ADDED.row_type, rows));
        }
        let stored = query.fetch_optional(&mut self.connection).await?;
        // Of one head that isn't as expected, nothing comes back.
        Ok(stored.unwrap_or((false, 0)))
    }

    async fn destroy_keys(&mut self, erasure: &PlannedErasure) -> Result<(), StorageError> {
        let keys = &erasure.keys;
        sqlx::query(DESTROY_KEYS)
            .bind(keys.iter().map(|place| place.partition.0).bind_iter())
            .bind(
                keys.iter()
                    .map(|place| place.tenant_id.as_str())
                    .bind_iter(),
            )
            .bind(keys.iter().map(|place| place.key_id).bind_iter())
            .bind(erasure.at.as_micros())
            .execute(&mut self.connection)
            .await?;
        sqlx::query(COUNT_ERASURE)
            .bind(erasure.partition.0)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}
