//! The small trait behind which the databases stand.
//!
//! Everything that is decided (who wins a sequence, which position comes next, the chain) is
//! decided in `batch.rs`, once. A database only locks, looks up, inserts and commits, and reads.
//! `postgres.rs`, `sqlite.rs` and `memory.rs` hold the same functions in the same order, and the
//! same contract tests pass on all three.

use std::fmt;
use std::time::Instant;

use async_trait::async_trait;

use super::batch::{Plan, Questions};
use super::record::{
    Hash, Head, LedgerPosition, LockedHead, Partition, Position, RecordedEvent, StreamEvent,
    StreamKey, TenantPlace,
};
use crate::domain::ids::{EventId, Sequence, StreamId, SubscriberId, TenantId};
use crate::domain::time::Timestamp;

/// What a database can do for the record.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// A connection of a lane's own, to append through.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the database does not answer.
    async fn writer(&self) -> Result<Box<dyn BatchWriter>, StorageError>;

    /// A connection of its own on which appends are announced, also those of other processes.
    /// `None` where nobody announces them.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the database does not answer.
    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>, StorageError> {
        Ok(None)
    }

    /// Tells other processes how far some partitions have come.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when nobody could be told.
    async fn announce(&self, positions: &[LedgerPosition]) -> Result<(), StorageError> {
        let _ = positions;
        Ok(())
    }

    /// All events of some streams, each stream's in its order. Unknown streams have none.
    async fn streams(&self, streams: &[StreamKey]) -> Result<Vec<RecordedEvent>, StorageError>;

    /// Single events by their stream and sequence, in any order. Those that don't exist are left
    /// out.
    async fn events_at(
        &self,
        places: &[(StreamKey, Sequence)],
    ) -> Result<Vec<RecordedEvent>, StorageError>;

    /// As [`Storage::streams`], stream by stream, until about `bytes_max` bytes of data are read. Of
    /// a page that is cut, the last stream may lack its end.
    async fn streams_within(
        &self,
        streams: &[StreamKey],
        bytes_max: i64,
    ) -> Result<Page<RecordedEvent>, StorageError>;

    /// Up to `limit` events of a partition after a position, in order; fewer where they are large
    /// ([`LOG_BYTES_MAX`]). After the last event there are none.
    async fn log(
        &self,
        partition: Partition,
        after: Position,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StorageError>;

    /// One tenant's events after a position that pass the filter, in order, as far as the query's
    /// bounds reach.
    async fn tenant_log(&self, query: &LogQuery) -> Result<Page<RecordedEvent>, StorageError>;

    /// A partition's events in the order of streams (by tenant, stream and sequence), as far as the
    /// query's bounds reach. Whoever wants to see each stream whole, and only once, reads on from
    /// page to page.
    async fn by_stream(&self, query: &StreamQuery) -> Result<Page<StreamEvent>, StorageError>;

    /// Every partition's head, in order.
    async fn heads(&self) -> Result<Vec<Head>, StorageError>;

    /// Streams of a partition whose sequences do not run 1, 2, 3: up to ten, with the lowest
    /// position at which each goes wrong.
    async fn broken_streams(&self, partition: Partition)
    -> Result<Vec<BrokenStream>, StorageError>;

    /// What the keys led to, for those that were used.
    async fn idempotent(
        &self,
        keys: &[IdempotencyPlace],
    ) -> Result<Vec<IdempotencyRecord>, StorageError>;

    /// Keeps an answer for a call that appends no events.
    ///
    /// Returns the record that stands: this one, or an earlier one of the same key.
    async fn keep_answer(
        &self,
        record: &IdempotencyRecord,
    ) -> Result<IdempotencyRecord, StorageError>;

    /// The data keys that exist, erased ones included; each with how many erasures its partition
    /// had seen at that moment.
    async fn data_keys_as_of(
        &self,
        keys: &[DataKeyPlace],
    ) -> Result<Vec<(StoredDataKey, i64)>, StorageError>;

    /// The same, for whoever does not seal with them.
    async fn data_keys(&self, keys: &[DataKeyPlace]) -> Result<Vec<StoredDataKey>, StorageError> {
        let found = self.data_keys_as_of(keys).await?;
        Ok(found.into_iter().map(|(key, _)| key).collect())
    }

    /// Stores a data key outside an append. An existing one stays as it is.
    async fn add_data_key(&self, key: &StoredDataKey) -> Result<(), StorageError>;

    /// Which streams some references belong to; those that nobody knows are left out. A stream that
    /// exists refers to itself ([`stream_reference`]).
    ///
    /// [`stream_reference`]: super::recordable::stream_reference
    async fn referenced(
        &self,
        references: &[ReferencePlace],
    ) -> Result<Vec<(ReferencePlace, StreamId)>, StorageError>;

    /// To which stream a message belongs that a lane of this process has stored through a connection
    /// it still has: what [`Storage::referenced`] would find, without asking. `None` proves nothing.
    fn remembered(&self, reference: &ReferencePlace) -> Option<StreamId> {
        let _ = reference;
        None
    }

    /// Overwrites what is left in the database's files of rows that were changed, as far as the
    /// database lets itself be told to. Changes nothing that can be read. `false` while somebody
    /// goes on reading what was there before.
    async fn scrub(&self) -> Result<bool, StorageError>;
}

/// A lane's connection, inside at most one transaction.
///
/// The steps of a transaction are called in order: `lock_heads`, `look_up`, `insert`, `commit`;
/// `roll_back` at any point in between. After an error the connection is thrown away, unless it was
/// a [`StorageError::Rejected`] of `append`.
#[async_trait]
pub trait BatchWriter: Send {
    /// Begins a transaction and locks the heads of `partitions` (sorted) until its end.
    async fn lock_heads(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<LockedHead>, StorageError>;

    /// Stores a plan in a transaction of its own if the heads are still those that it was planned on
    /// (sorted), and nobody is holding them; else does nothing and says `false`. The plan destroys no
    /// keys. [`StorageError::Rejected`] if something it takes for new is there: nothing is stored
    /// then, and the connection is as good as before. After any other error nobody knows whether it
    /// is stored.
    async fn append(
        &mut self,
        plan: &Plan<'_>,
        expected: &[LockedHead],
    ) -> Result<bool, StorageError>;

    /// Answers the batch's questions. Within a transaction it runs in a statement after the lock, so
    /// that it sees whatever was committed while waiting for it.
    async fn look_up(&mut self, questions: &Questions<'_>) -> Result<Found, StorageError>;

    /// Which notifications name a subscriber.
    async fn streams_of(
        &mut self,
        tenant: &TenantPlace,
        subscriber_id: &SubscriberId,
    ) -> Result<SubscriberStreams, StorageError>;

    /// Writes a plan: events, keys, references, heads.
    async fn insert(&mut self, plan: &Plan<'_>) -> Result<(), StorageError>;

    /// Makes what was inserted durable. After an error here nobody knows whether it is.
    async fn commit(&mut self) -> Result<(), StorageError>;

    /// Ends the transaction without a trace.
    async fn roll_back(&mut self) -> Result<(), StorageError>;
}

/// Where appends of all processes are announced.
#[async_trait]
pub trait Announcements: Send {
    /// Waits for the next one: how far partitions are said to have come. Without positions, some
    /// partition has. Only a hint: some get lost, and anybody may have sent it.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the connection broke. Ask for another one.
    async fn next(&mut self) -> Result<Vec<LedgerPosition>, StorageError>;
}

/// Most bytes of data that [`Storage::log`] reads at once: several times what as many ordinary
/// events have as anybody asks for.
pub const LOG_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// Some events in their order, as many as fit: so many, and so many bytes of data as the database
/// stores it. The last one may go beyond the bytes, so that there is always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<E> {
    pub events: Vec<E>,
    /// It ends at a bound: there may be more.
    pub is_cut: bool,
}

/// What is left of a page's bounds.
pub(super) struct Room {
    events: i64,
    bytes: i64,
}

impl Room {
    pub(super) fn new(events: i64, bytes: i64) -> Self {
        Self { events, bytes }
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.events -= 1;
        self.bytes = i64::try_from(bytes).map_or(0, |bytes| self.bytes - bytes);
    }

    pub(super) fn is_full(&self) -> bool {
        self.events <= 0 || self.bytes <= 0
    }
}

/// What the database knew about a batch's questions.
#[derive(Debug, Default)]
pub struct Found {
    /// Events at the sequences asked for.
    pub events: Vec<FoundEvent>,
    pub idempotent: Vec<IdempotencyRecord>,
    pub data_keys: Vec<StoredDataKey>,
}

/// An event where a batch has looked for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEvent {
    pub stream: StreamKey,
    pub sequence: Sequence,
    pub event_id: EventId,
    pub position: Position,
    pub recorded_at: Timestamp,
}

/// The notifications that name a subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriberStreams {
    pub count: u64,
    /// Those that had begun before they named them, and so may have keys of their own.
    pub late: Vec<StreamId>,
}

/// Which of a tenant's events are wanted.
#[derive(Clone, Debug)]
pub struct LogQuery {
    pub partition: Partition,
    pub tenant_id: TenantId,
    pub after: Position,
    /// Up to and including; usually the head when the question was asked.
    pub until: Position,
    /// Empty for all.
    pub event_types: Vec<String>,
    pub subscriber_ids: Vec<String>,
    /// By `recorded_at`, inclusive.
    pub from: Timestamp,
    /// By `recorded_at`, exclusive.
    pub to: Timestamp,
    pub limit: i64,
    /// Of data.
    pub bytes_max: i64,
}

/// Which events are wanted in the order of streams.
#[derive(Clone, Debug)]
pub struct StreamQuery {
    pub partition: Partition,
    /// `None` for all.
    pub tenant_id: Option<TenantId>,
    /// The stream after which to begin.
    pub after: Option<(String, StreamId)>,
    /// Up to and including.
    pub until: Position,
    pub limit: i64,
    /// Of data.
    pub bytes_max: i64,
}

impl StreamQuery {
    /// The event after which to begin.
    pub(super) fn begins_after(&self) -> (&str, StreamId, Sequence) {
        let first = StreamId(uuid::Uuid::nil());
        match (&self.after, &self.tenant_id) {
            (Some((tenant_id, stream_id)), _) => (tenant_id, *stream_id, Sequence(i64::MAX)),
            (None, Some(tenant_id)) => (tenant_id.as_str(), first, Sequence(0)),
            (None, None) => ("", first, Sequence(0)),
        }
    }
}

/// A stream whose sequences have a gap or do not begin at 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenStream {
    pub tenant_id: String,
    pub stream_id: StreamId,
    pub position: Position,
}

/// Where an idempotency key lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyPlace {
    pub partition: Partition,
    pub tenant_id: TenantId,
    pub key: String,
}

/// What an idempotency key led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    pub place: IdempotencyPlace,
    /// Of the request that used the key.
    pub fingerprint: Hash,
    /// For commands: the stream, its version right after, and how many events the command
    /// appended (0 for a repeat).
    pub command: Option<(StreamId, Sequence, i32)>,
    /// For other calls: their answer, sealed.
    pub answer: Option<String>,
    pub recorded_at: Timestamp,
}

/// Where an id is kept by which a report may find its stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReferencePlace {
    pub partition: Partition,
    pub tenant_id: TenantId,
    pub reference: String,
}

/// Where a data key lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyPlace {
    pub partition: Partition,
    pub tenant_id: TenantId,
    pub key_id: uuid::Uuid,
}

/// A data key that something was sealed under, and how many erasures its partition had seen when it
/// was known to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedDataKey {
    pub place: DataKeyPlace,
    pub as_of: i64,
    /// When that was.
    pub since: Instant,
}

/// A data key under the master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDataKey {
    pub place: DataKeyPlace,
    /// `None` once erased.
    pub wrapped_key: Option<String>,
    pub created_at: Timestamp,
}

/// What a database may say instead of doing it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Gone, full, read-only or out of connections. Nothing is known to have been stored; the
    /// same may succeed later.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refuses these rows, and would again.
    #[error("the database refused what was to be stored")]
    Rejected(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row does not have the form the code gave it.
    #[error("a stored row of `{table}` is damaged: {detail}")]
    Damaged { table: &'static str, detail: String },
}
