//! The record in a SQLite file. Read beside `postgres.rs`: the same functions in the same order.
//!
//! `BEGIN IMMEDIATE` takes the place of the head lock: there is one writer at a time in the whole
//! file. `CROSS JOIN` fixes the join order, and `INDEXED BY` the index, so that
//! look-ups are one probe per row.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{ConnectOptions, Connection, Executor, QueryBuilder, Row, Sqlite};

use super::batch::{Plan, PlannedErasure, PlannedEvent, Questions};
use super::record::{
    Head, LockedHead, Partition, Position, RecordedEvent, StreamEvent, StreamKey, TenantPlace,
};
use super::recordable::stream_referred_to;
use super::rows::{
    self, event_columns, found_event, head, idempotency_record, recorded_event, referenced,
    stored_data_key, stream_event, stream_event_columns,
};
use super::storage::{
    BatchWriter, BrokenStream, DataKeyPlace, Found, IdempotencyPlace, IdempotencyRecord,
    LOG_BYTES_MAX, LogQuery, Page, ReferencePlace, Room, Storage, StorageError, StoredDataKey,
    StreamQuery, SubscriberStreams,
};
use crate::domain::ids::{Sequence, StreamId, SubscriberId};

/// The record in a SQLite file.
#[derive(Clone, Debug)]
pub(super) struct SqliteStorage {
    pool: SqlitePool,
    /// For the lane's own connection.
    options: SqliteConnectOptions,
}

impl SqliteStorage {
    pub(super) fn new(pool: SqlitePool, options: SqliteConnectOptions) -> Self {
        Self { pool, options }
    }

    /// The streams among these references that exist.
    async fn existing(
        &self,
        references: &[ReferencePlace],
    ) -> Result<Vec<(ReferencePlace, StreamId)>, StorageError> {
        let streams: HashMap<StreamKey, &ReferencePlace> = references
            .iter()
            .filter_map(|place| {
                let stream = StreamKey {
                    partition: place.partition,
                    tenant_id: place.tenant_id.clone(),
                    stream_id: stream_referred_to(&place.reference)?,
                };
                Some((stream, place))
            })
            .collect();
        let first = |stream: &StreamKey| (stream.clone(), Sequence(1));
        let firsts: Vec<_> = streams.keys().map(first).collect();
        let mut existing = Vec::new();
        for event in self.events_at(&firsts).await? {
            let stream = StreamKey {
                partition: event.partition,
                tenant_id: rows::tenant("events", &event.tenant_id)?,
                stream_id: event.stream_id,
            };
            let place = streams.get(&stream);
            existing.extend(place.map(|place| ((*place).clone(), stream.stream_id)));
        }
        Ok(existing)
    }
}

/// How long the file's readers are waited for at a time, and how long nobody is.
const SCRUB_BUSY_TIMEOUT: Duration = Duration::from_millis(200);
const SCRUB_PAUSE: Duration = Duration::from_millis(50);
/// Reads of ours are short. Who reads longer than this (a copy is being made, say) may go on.
const SCRUB_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows per statement. 19 columns of them stay below SQLite's 32,766 parameters.
const ROWS_PER_STATEMENT: usize = 1000;

const STREAMS: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM wanted CROSS JOIN events AS e INDEXED BY event_is_alone_at_its_sequence
        USING (partition, tenant_id, stream_id)
    ORDER BY e.tenant_id, e.stream_id, e.sequence"
);

// Nested loops give the streams one after the other, and the index each in its order. Nothing is
// sorted, so nothing is read beyond where the reader stops.
const STREAMS_WITHIN: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM wanted CROSS JOIN events AS e INDEXED BY event_is_alone_at_its_sequence
        USING (partition, tenant_id, stream_id)"
);

const EVENTS: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM wanted CROSS JOIN events AS e INDEXED BY event_is_alone_at_its_sequence
        USING (partition, tenant_id, stream_id, sequence)"
);

const LOG: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM events AS e
    WHERE e.partition = $1 AND e.position > $2
    ORDER BY e.position
    LIMIT $3"
);

const TENANT_LOG: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM events AS e
    WHERE e.partition = $1 AND e.position > $2 AND e.position <= $3 AND e.tenant_id = $4
        AND e.recorded_at >= $5 AND e.recorded_at < $6
        AND (json_array_length($7) = 0 OR e.event_type IN (SELECT value FROM json_each($7)))
        AND (json_array_length($8) = 0 OR e.subscriber_id IN (SELECT value FROM json_each($8)))
    ORDER BY e.position
    LIMIT $9"
);

const BY_STREAM: &str = concat!(
    "SELECT ",
    stream_event_columns!(),
    " FROM events AS e INDEXED BY event_is_alone_at_its_sequence
    WHERE e.partition = $1
        AND (e.tenant_id, e.stream_id, e.sequence) > ($2, $3, $4)
        AND e.position <= $5
    ORDER BY e.tenant_id, e.stream_id, e.sequence
    LIMIT $6"
);

const TENANT_BY_STREAM: &str = concat!(
    "SELECT ",
    stream_event_columns!(),
    " FROM events AS e INDEXED BY event_is_alone_at_its_sequence
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
    FROM wanted CROSS JOIN idempotency_keys AS k USING (partition, tenant_id, idempotency_key)";

const ADD_IDEMPOTENT: &str = "
    INSERT INTO idempotency_keys
        (partition, tenant_id, idempotency_key, fingerprint, stream_id, version, appended, answer,
        recorded_at) ";

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
    FROM wanted CROSS JOIN data_keys AS k USING (partition, tenant_id, key_id)
    LEFT JOIN partition_heads AS h ON h.partition = k.partition";

const ADD_DATA_KEYS: &str =
    "INSERT INTO data_keys (partition, tenant_id, key_id, wrapped_key, created_at) ";

const REFERENCED: &str = "
    SELECT r.partition, r.tenant_id, r.reference, r.stream_id
    FROM wanted CROSS JOIN message_references AS r USING (partition, tenant_id, reference)";

const ADD_REFERENCES: &str =
    "INSERT INTO message_references (partition, tenant_id, reference, stream_id) ";

#[async_trait]
impl Storage for SqliteStorage {
    async fn writer(&self) -> Result<Box<dyn BatchWriter>, StorageError> {
        let connection = self.options.connect().await?;
        Ok(Box::new(SqliteWriter { connection }))
    }

    async fn streams(&self, streams: &[StreamKey]) -> Result<Vec<RecordedEvent>, StorageError> {
        let mut events = Vec::new();
        for streams in streams.chunks(ROWS_PER_STATEMENT) {
            let mut query = wanted("partition, tenant_id, stream_id");
            query.push_values(streams, |mut row, key| {
                row.push_bind(key.partition.0)
                    .push_bind(key.tenant_id.as_str())
                    .push_bind(key.stream_id.0);
            });
            let rows = query
                .push(") ")
                .push(STREAMS)
                .build()
                .persistent(streams.len() == 1)
                .fetch_all(&self.pool)
                .await?;
            for row in &rows {
                events.push(recorded_event!(row));
            }
        }
        Ok(events)
    }

    async fn streams_within(
        &self,
        streams: &[StreamKey],
        bytes_max: i64,
    ) -> Result<Page<RecordedEvent>, StorageError> {
        let mut room = Room::new(i64::MAX, bytes_max);
        let mut events = Vec::new();
        for streams in streams.chunks(ROWS_PER_STATEMENT) {
            let mut query = wanted("partition, tenant_id, stream_id");
            query.push_values(streams, |mut row, key| {
                row.push_bind(key.partition.0)
                    .push_bind(key.tenant_id.as_str())
                    .push_bind(key.stream_id.0);
            });
            let query = query.push(") ").push(STREAMS_WITHIN).build();
            let mut rows = query.persistent(false).fetch(&self.pool);
            while !room.is_full()
                && let Some(row) = rows.try_next().await?
            {
                let event = recorded_event!(&row);
                room.take(event.data.len());
                events.push(event);
            }
        }
        Ok(Page {
            events,
            is_cut: room.is_full(),
        })
    }

    async fn events_at(
        &self,
        places: &[(StreamKey, Sequence)],
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        let mut events = Vec::with_capacity(places.len());
        for places in places.chunks(ROWS_PER_STATEMENT) {
            let mut query = wanted("partition, tenant_id, stream_id, sequence");
            query.push_values(places, |mut row, (key, sequence)| {
                row.push_bind(key.partition.0)
                    .push_bind(key.tenant_id.as_str())
                    .push_bind(key.stream_id.0)
                    .push_bind(sequence.0);
            });
            let query = query.push(") ").push(EVENTS).build();
            let rows = query.persistent(false).fetch_all(&self.pool).await?;
            for row in &rows {
                events.push(recorded_event!(row));
            }
        }
        Ok(events)
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
            .fetch(&self.pool);
        Ok(page(rows, Room::new(limit, LOG_BYTES_MAX)).await?.events)
    }

    async fn tenant_log(&self, query: &LogQuery) -> Result<Page<RecordedEvent>, StorageError> {
        let rows = sqlx::query(TENANT_LOG)
            .bind(query.partition.0)
            .bind(query.after.0)
            .bind(query.until.0)
            .bind(query.tenant_id.as_str())
            .bind(query.from.as_micros())
            .bind(query.to.as_micros())
            .bind(sqlx::types::Json(&query.event_types))
            .bind(sqlx::types::Json(&query.subscriber_ids))
            .bind(query.limit)
            .fetch(&self.pool);
        page(rows, Room::new(query.limit, query.bytes_max)).await
    }

    async fn by_stream(&self, query: &StreamQuery) -> Result<Page<StreamEvent>, StorageError> {
        let (tenant_id, stream_id, sequence) = query.begins_after();
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
        .fetch(&self.pool);
        let mut room = Room::new(query.limit, query.bytes_max);
        let mut events = Vec::new();
        while !room.is_full()
            && let Some(row) = rows.try_next().await?
        {
            let event = stream_event!(&row);
            room.take(event.event.content.bytes());
            events.push(event);
        }
        Ok(Page {
            events,
            is_cut: room.is_full(),
        })
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
        let mut connection = self.pool.acquire().await?;
        idempotent(&mut connection, &keys.iter().collect::<Vec<_>>()).await
    }

    async fn keep_answer(
        &self,
        record: &IdempotencyRecord,
    ) -> Result<IdempotencyRecord, StorageError> {
        let mut connection = self.pool.acquire().await?;
        sqlx::query(KEEP_ANSWER)
            .bind(record.place.partition.0)
            .bind(record.place.tenant_id.as_str())
            .bind(&record.place.key)
            .bind(record.fingerprint.as_slice())
            .bind(&record.answer)
            .bind(record.recorded_at.as_micros())
            .execute(&mut *connection)
            .await?;
        let standing = idempotent(&mut connection, &[&record.place]).await?;
        Ok(standing
            .into_iter()
            .next()
            .unwrap_or_else(|| record.clone()))
    }

    async fn data_keys_as_of(
        &self,
        keys: &[DataKeyPlace],
    ) -> Result<Vec<(StoredDataKey, i64)>, StorageError> {
        let mut connection = self.pool.acquire().await?;
        data_keys(&mut connection, &keys.iter().collect::<Vec<_>>()).await
    }

    async fn add_data_key(&self, key: &StoredDataKey) -> Result<(), StorageError> {
        let mut connection = self.pool.acquire().await?;
        let or_leave = " ON CONFLICT (partition, tenant_id, key_id) DO NOTHING";
        add_data_keys(&mut connection, &[key], or_leave).await
    }

    async fn referenced(
        &self,
        references: &[ReferencePlace],
    ) -> Result<Vec<(ReferencePlace, StreamId)>, StorageError> {
        let mut found = self.existing(references).await?;
        for references in references.chunks(ROWS_PER_STATEMENT) {
            let mut query = wanted("partition, tenant_id, reference");
            query.push_values(references, |mut row, place| {
                row.push_bind(place.partition.0)
                    .push_bind(place.tenant_id.as_str())
                    .push_bind(place.reference.as_str());
            });
            let query = query.push(") ").push(REFERENCED).build();
            let rows = query
                .persistent(references.len() == 1)
                .fetch_all(&self.pool)
                .await?;
            for row in &rows {
                found.push(referenced!(row));
            }
        }
        Ok(found)
    }

    async fn scrub(&self) -> Result<bool, StorageError> {
        // `secure_delete` has overwritten what was deleted in the pages of the file. But as long as
        // those wait in the write-ahead log, the file has the old ones; and the log has them too.
        // While somebody waits inside for readers to finish nobody can write, so it asks often
        // rather than long.
        let options = self.options.clone().busy_timeout(SCRUB_BUSY_TIMEOUT);
        let mut connection = options.connect().await?;
        let started = Instant::now();
        loop {
            let done = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .fetch_one(&mut connection)
                .await?;
            if done.try_get::<i64, _>(0)? == 0 {
                connection.close().await?;
                return Ok(true);
            }
            if started.elapsed() > SCRUB_TIMEOUT {
                return Ok(false);
            }
            tokio::time::sleep(SCRUB_PAUSE).await;
        }
    }
}

/// The first events of some rows, as many as fit. The rest is not read.
async fn page(
    mut rows: BoxStream<'_, Result<SqliteRow, sqlx::Error>>,
    mut room: Room,
) -> Result<Page<RecordedEvent>, StorageError> {
    let mut events = Vec::new();
    while !room.is_full()
        && let Some(row) = rows.try_next().await?
    {
        let event = recorded_event!(&row);
        room.take(event.data.len());
        events.push(event);
    }
    Ok(Page {
        events,
        is_cut: room.is_full(),
    })
}

/// `WITH wanted (columns) AS (`: values and a closing parenthesis follow.
fn wanted(columns: &str) -> QueryBuilder<Sqlite> {
    QueryBuilder::new(format!("WITH wanted ({columns}) AS ("))
}

async fn idempotent(
    connection: &mut SqliteConnection,
    keys: &[&IdempotencyPlace],
) -> Result<Vec<IdempotencyRecord>, StorageError> {
    let mut records = Vec::new();
    for keys in keys.chunks(ROWS_PER_STATEMENT) {
        let mut query = wanted("partition, tenant_id, idempotency_key");
        query.push_values(keys, |mut row, place| {
            row.push_bind(place.partition.0)
                .push_bind(place.tenant_id.as_str())
                .push_bind(place.key.as_str());
        });
        let query = query.push(") ").push(IDEMPOTENT).build();
        let rows = query
            .persistent(keys.len() == 1)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            records.push(idempotency_record!(row));
        }
    }
    Ok(records)
}

async fn data_keys(
    connection: &mut SqliteConnection,
    keys: &[&DataKeyPlace],
) -> Result<Vec<(StoredDataKey, i64)>, StorageError> {
    let mut found = Vec::new();
    for keys in keys.chunks(ROWS_PER_STATEMENT) {
        let mut query = wanted("partition, tenant_id, key_id");
        query.push_values(keys, |mut row, place| {
            row.push_bind(place.partition.0)
                .push_bind(place.tenant_id.as_str())
                .push_bind(place.key_id);
        });
        let query = query.push(") ").push(DATA_KEYS).build();
        let rows = query
            .persistent(keys.len() == 1)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            found.push((stored_data_key!(row), row.try_get(5)?));
        }
    }
    Ok(found)
}

async fn add_data_keys(
    connection: &mut SqliteConnection,
    keys: &[&StoredDataKey],
    and_then: &str,
) -> Result<(), StorageError> {
    for keys in keys.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new(ADD_DATA_KEYS);
        query.push_values(keys, |mut row, key| {
            row.push_bind(key.place.partition.0)
                .push_bind(key.place.tenant_id.as_str())
                .push_bind(key.place.key_id)
                .push_bind(key.wrapped_key.as_deref())
                .push_bind(key.created_at.as_micros());
        });
        query.push(and_then);
        query
            .build()
            .persistent(keys.len() == 1)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// A lane's connection.
#[derive(Debug)]
struct SqliteWriter {
    connection: SqliteConnection,
}

const EVENTS_AT: &str = "
    SELECT e.partition, e.tenant_id, e.stream_id, e.sequence, e.event_id, e.position,
        e.recorded_at
    FROM wanted CROSS JOIN events AS e INDEXED BY event_is_alone_at_its_sequence
        USING (partition, tenant_id, stream_id, sequence)";

const ADD_EVENTS: &str = "
    INSERT INTO events
        (partition, position, tenant_id, stream_id, sequence, event_id, event_type, schema_version,
        occurred_at, recorded_at, actor_kind, actor_id, source, correlation_id, causation_id,
        traceparent, subscriber_id, data, hash) ";

const LOCKED_HEADS: &str = "
    SELECT partition, position, hash, epoch, recorded_at, erasures
    FROM partition_heads
    ORDER BY partition";

const COUNT_OF: &str = "
    SELECT COUNT(*)
    FROM events INDEXED BY event_begins_for_subscriber
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

const ADD_LATE_SUBSCRIBERS: &str =
    "INSERT INTO late_subscribers (partition, tenant_id, subscriber_id, stream_id) ";

const DESTROY_KEY: &str = "
    UPDATE data_keys
    SET wrapped_key = NULL, erased_at = $4
    WHERE partition = $1 AND tenant_id = $2 AND key_id = $3 AND wrapped_key IS NOT NULL";

const COUNT_ERASURE: &str = "
    UPDATE partition_heads
    SET erasures = erasures + 1
    WHERE partition = $1";

const MOVE_HEAD: &str = "
    UPDATE partition_heads
    SET position = $2, hash = $3, recorded_at = $4
    WHERE partition = $1";

#[async_trait]
impl BatchWriter for SqliteWriter {
    async fn lock_heads(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<LockedHead>, StorageError> {
        self.connection.execute("BEGIN IMMEDIATE").await?;
        let rows = sqlx::query(LOCKED_HEADS)
            .fetch_all(&mut self.connection)
            .await?;
        let mut heads = Vec::with_capacity(partitions.len());
        for row in &rows {
            let head = head!(row);
            if partitions.binary_search(&head.partition).is_ok() {
                heads.push(LockedHead {
                    head,
                    erasures: row.try_get(5)?,
                });
            }
        }
        Ok(heads)
    }

    async fn append(
        &mut self,
        plan: &Plan<'_>,
        expected: &[LockedHead],
    ) -> Result<bool, StorageError> {
        let partitions: Vec<Partition> = expected
            .iter()
            .map(|locked| locked.head.partition)
            .collect();
        if self.lock_heads(&partitions).await? != expected {
            self.roll_back().await?;
            return Ok(false);
        }
        match self.insert(plan).await {
            Ok(()) => {}
            Err(rejected @ StorageError::Rejected(_)) => {
                self.roll_back().await?;
                return Err(rejected);
            }
            Err(error) => return Err(error),
        }
        self.commit().await?;
        Ok(true)
    }

    async fn look_up(&mut self, questions: &Questions<'_>) -> Result<Found, StorageError> {
        let mut found = Found::default();
        for questions in questions.sequences.chunks(ROWS_PER_STATEMENT) {
            let mut query = wanted("partition, tenant_id, stream_id, sequence");
            query.push_values(questions, |mut row, (key, sequence)| {
                row.push_bind(key.partition.0)
                    .push_bind(key.tenant_id.as_str())
                    .push_bind(key.stream_id.0)
                    .push_bind(sequence.0);
            });
            let query = query.push(") ").push(EVENTS_AT).build();
            let rows = query
                .persistent(questions.len() <= 2)
                .fetch_all(&mut self.connection)
                .await?;
            for row in &rows {
                found.events.push(found_event!(row));
            }
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
        if !plan.data_keys.is_empty() {
            add_data_keys(&mut self.connection, &plan.data_keys, "").await?;
        }
        if !plan.idempotency.is_empty() {
            self.add_idempotent(&plan.idempotency).await?;
        }
        if !plan.references.is_empty() {
            self.add_references(&plan.references).await?;
        }
        if !plan.late_subscribers.is_empty() {
            self.add_late_subscribers(&plan.late_subscribers).await?;
        }
        if !plan.events.is_empty() {
            self.add_events(&plan.events).await?;
            self.move_heads(&plan.heads).await?;
        }
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

impl SqliteWriter {
    async fn add_events(&mut self, events: &[PlannedEvent<'_>]) -> Result<(), StorageError> {
        for events in events.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new(ADD_EVENTS);
            query.push_values(events, |mut row, new| {
                row.push_bind(new.stream.partition.0)
                    .push_bind(new.position.0)
                    .push_bind(new.stream.tenant_id.as_str())
                    .push_bind(new.stream.stream_id.0)
                    .push_bind(new.sequence.0)
                    .push_bind(new.event.event_id.0)
                    .push_bind(new.event.event_type)
                    .push_bind(new.event.schema_version)
                    .push_bind(new.event.occurred_at.as_micros())
                    .push_bind(new.recorded_at.as_micros())
                    .push_bind(new.provenance.actor.kind.as_str())
                    .push_bind(new.provenance.actor.id.as_ref())
                    .push_bind(new.provenance.source.as_str())
                    .push_bind(new.provenance.correlation_id.as_deref())
                    .push_bind(new.provenance.causation_id.as_deref())
                    .push_bind(new.provenance.traceparent.as_deref())
                    .push_bind(new.event.subscriber_id.as_ref().map(SubscriberId::as_str))
                    .push_bind(new.event.data.as_str())
                    .push_bind(new.hash.as_slice());
            });
            query
                .build()
                .persistent(events.len() == 1)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    async fn move_heads(&mut self, heads: &[Head]) -> Result<(), StorageError> {
        for head in heads {
            sqlx::query(MOVE_HEAD)
                .bind(head.partition.0)
                .bind(head.position.0)
                .bind(head.hash.as_slice())
                .bind(head.recorded_at.as_micros())
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    async fn add_idempotent(&mut self, records: &[IdempotencyRecord]) -> Result<(), StorageError> {
        for records in records.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new(ADD_IDEMPOTENT);
            query.push_values(records, |mut row, new| {
                row.push_bind(new.place.partition.0)
                    .push_bind(new.place.tenant_id.as_str())
                    .push_bind(new.place.key.as_str())
                    .push_bind(new.fingerprint.as_slice())
                    .push_bind(new.command.map(|(stream_id, _, _)| stream_id.0))
                    .push_bind(new.command.map(|(_, version, _)| version.0))
                    .push_bind(new.command.map(|(_, _, appended)| appended))
                    .push_bind(new.answer.as_deref())
                    .push_bind(new.recorded_at.as_micros());
            });
            query
                .build()
                .persistent(records.len() == 1)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    async fn add_references(
        &mut self,
        references: &[(&StreamKey, &str)],
    ) -> Result<(), StorageError> {
        for references in references.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new(ADD_REFERENCES);
            query.push_values(references, |mut row, (key, reference)| {
                row.push_bind(key.partition.0)
                    .push_bind(key.tenant_id.as_str())
                    .push_bind(*reference)
                    .push_bind(key.stream_id.0);
            });
            query.push(" ON CONFLICT (partition, tenant_id, reference) DO NOTHING");
            query
                .build()
                .persistent(references.len() == 1)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    async fn add_late_subscribers(
        &mut self,
        late: &[(&StreamKey, &SubscriberId)],
    ) -> Result<(), StorageError> {
        for late in late.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new(ADD_LATE_SUBSCRIBERS);
            query.push_values(late, |mut row, (key, named)| {
                row.push_bind(key.partition.0)
                    .push_bind(key.tenant_id.as_str())
                    .push_bind(named.as_str())
                    .push_bind(key.stream_id.0);
            });
            query.push(" ON CONFLICT (partition, tenant_id, subscriber_id, stream_id) DO NOTHING");
            query
                .build()
                .persistent(late.len() == 1)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    async fn destroy_keys(&mut self, erasure: &PlannedErasure) -> Result<(), StorageError> {
        for place in &erasure.keys {
            sqlx::query(DESTROY_KEY)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(place.key_id)
                .bind(erasure.at.as_micros())
                .execute(&mut self.connection)
                .await?;
        }
        sqlx::query(COUNT_ERASURE)
            .bind(erasure.partition.0)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}
