//! The record in memory: for fast, seeded tests. It passes the same contract tests as the
//! databases, and forgets everything when it is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::batch::{Plan, Questions};
use super::chain::GENESIS;
use super::record::{
    Head, LockedHead, Partition, Position, RecordedEvent, StreamEvent, StreamKey, TenantPlace,
};
use super::recordable::stream_referred_to;
use super::storage::{
    BatchWriter, BrokenStream, DataKeyPlace, Found, FoundEvent, IdempotencyPlace,
    IdempotencyRecord, LOG_BYTES_MAX, LogQuery, Page, ReferencePlace, Room, Storage, StorageError,
    StoredDataKey, StreamQuery, SubscriberStreams,
};
use crate::domain::ids::{Sequence, StreamId, SubscriberId, TenantId};
use crate::domain::time::Timestamp;

/// A ledger that lives as long as the process.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    tables: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    heads: BTreeMap<Partition, Head>,
    /// By partition, in order of position.
    events: BTreeMap<Partition, Vec<RecordedEvent>>,
    /// Where each stream's events are, in order of sequence.
    streams: HashMap<StreamKey, Vec<usize>>,
    idempotent: HashMap<IdempotencyPlace, IdempotencyRecord>,
    data_keys: HashMap<DataKeyPlace, StoredDataKey>,
    references: HashMap<ReferencePlace, StreamId>,
    late_subscribers: HashMap<(Partition, TenantId, SubscriberId), BTreeSet<StreamId>>,
    erasures: HashMap<Partition, i64>,
}

impl MemoryStorage {
    /// An empty ledger.
    pub fn new(partitions: i16, epoch: uuid::Uuid) -> Self {
        let head = |number| Head {
            partition: Partition(number),
            position: Position(0),
            hash: GENESIS,
            epoch,
            recorded_at: Timestamp::MIN,
        };
        let tables = Tables {
            heads: (0..partitions)
                .map(|number| (Partition(number), head(number)))
                .collect(),
            ..Tables::default()
        };
        Self {
            tables: Arc::new(Mutex::new(tables)),
        }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn writer(&self) -> Result<Box<dyn BatchWriter>, StorageError> {
        Ok(Box::new(MemoryWriter {
            tables: Arc::clone(&self.tables),
            held: None,
            staged: Vec::new(),
        }))
    }

    async fn streams(&self, streams: &[StreamKey]) -> Result<Vec<RecordedEvent>, StorageError> {
        let tables = self.tables.lock().await;
        Ok(streams
            .iter()
            .flat_map(|stream| tables.stream(stream))
            .cloned()
            .collect())
    }

    async fn streams_within(
        &self,
        streams: &[StreamKey],
        bytes_max: i64,
    ) -> Result<Page<RecordedEvent>, StorageError> {
        let tables = self.tables.lock().await;
        let events = streams.iter().flat_map(|stream| tables.stream(stream));
        Ok(page(events, i64::MAX, bytes_max))
    }

    async fn events_at(
        &self,
        places: &[(StreamKey, Sequence)],
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        let tables = self.tables.lock().await;
        Ok(places
            .iter()
            .filter_map(|(stream, sequence)| tables.event_at(stream, *sequence))
            .cloned()
            .collect())
    }

    async fn log(
        &self,
        partition: Partition,
        after: Position,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        let tables = self.tables.lock().await;
        let events = tables.events.get(&partition).into_iter().flatten();
        let events = events.filter(|event| event.position > after);
        Ok(page(events, limit, LOG_BYTES_MAX).events)
    }

    async fn tenant_log(&self, query: &LogQuery) -> Result<Page<RecordedEvent>, StorageError> {
        let tables = self.tables.lock().await;
        let events = tables.events.get(&query.partition).into_iter().flatten();
        let events = events.filter(|event| query.wants(event));
        Ok(page(events, query.limit, query.bytes_max))
    }

    async fn by_stream(&self, query: &StreamQuery) -> Result<Page<StreamEvent>, StorageError> {
        let tables = self.tables.lock().await;
        let place =
            |event: &RecordedEvent| (event.tenant_id.clone(), event.stream_id, event.sequence);
        let (tenant_id, stream_id, sequence) = query.begins_after();
        let after = (tenant_id.to_owned(), stream_id, sequence);
        let is_wanted = |event: &&RecordedEvent| {
            let own = query.tenant_id.as_ref();
            event.position <= query.until
                && place(event) > after
                && own.is_none_or(|tenant_id| tenant_id.as_str() == event.tenant_id)
        };
        let events = tables.events.get(&query.partition).into_iter().flatten();
        let mut events: Vec<_> = events.filter(is_wanted).collect();
        events.sort_unstable_by_key(|event| place(event));
        let page = page(events.into_iter(), query.limit, query.bytes_max);
        Ok(Page {
            events: page.events.into_iter().map(StreamEvent::from).collect(),
            is_cut: page.is_cut,
        })
    }

    async fn heads(&self) -> Result<Vec<Head>, StorageError> {
        Ok(self.tables.lock().await.heads.values().cloned().collect())
    }

    async fn broken_streams(&self, _: Partition) -> Result<Vec<BrokenStream>, StorageError> {
        // Nothing but this file can write here, and it only ever appends.
        Ok(Vec::new())
    }

    async fn idempotent(
        &self,
        keys: &[IdempotencyPlace],
    ) -> Result<Vec<IdempotencyRecord>, StorageError> {
        let tables = self.tables.lock().await;
        Ok(keys
            .iter()
            .filter_map(|place| tables.idempotent.get(place))
            .cloned()
            .collect())
    }

    async fn keep_answer(
        &self,
        record: &IdempotencyRecord,
    ) -> Result<IdempotencyRecord, StorageError> {
        let mut tables = self.tables.lock().await;
        let standing = tables
            .idempotent
            .entry(record.place.clone())
            .or_insert_with(|| record.clone());
        if standing.fingerprint == record.fingerprint
            && standing.command.is_none()
            && standing.answer.is_none()
        {
            standing.answer.clone_from(&record.answer);
        }
        Ok(standing.clone())
    }

    async fn data_keys_as_of(
        &self,
        keys: &[DataKeyPlace],
    ) -> Result<Vec<(StoredDataKey, i64)>, StorageError> {
        let tables = self.tables.lock().await;
        let found = keys.iter().filter_map(|place| tables.data_keys.get(place));
        Ok(found
            .map(|key| (key.clone(), tables.erasures(key.place.partition)))
            .collect())
    }

    async fn add_data_key(&self, key: &StoredDataKey) -> Result<(), StorageError> {
        let mut tables = self.tables.lock().await;
        tables
            .data_keys
            .entry(key.place.clone())
            .or_insert_with(|| key.clone());
        Ok(())
    }

    async fn referenced(
        &self,
        references: &[ReferencePlace],
    ) -> Result<Vec<(ReferencePlace, StreamId)>, StorageError> {
        let tables = self.tables.lock().await;
        let stream_of = |place: &ReferencePlace| match stream_referred_to(&place.reference) {
            Some(stream_id) => {
                let stream = StreamKey {
                    partition: place.partition,
                    tenant_id: place.tenant_id.clone(),
                    stream_id,
                };
                tables.streams.contains_key(&stream).then_some(stream_id)
            }
            None => tables.references.get(place).copied(),
        };
        let found = references
            .iter()
            .filter_map(|place| Some((place.clone(), stream_of(place)?)));
        Ok(found.collect())
    }

    async fn scrub(&self) -> Result<bool, StorageError> {
        // What is dropped here is gone.
        Ok(true)
    }
}

/// The first events, as many as fit.
fn page<'a>(
    events: impl Iterator<Item = &'a RecordedEvent>,
    limit: i64,
    bytes_max: i64,
) -> Page<RecordedEvent> {
    let mut room = Room::new(limit, bytes_max);
    let mut kept = Vec::new();
    for event in events {
        if room.is_full() {
            break;
        }
        room.take(event.data.len());
        kept.push(event.clone());
    }
    Page {
        events: kept,
        is_cut: room.is_full(),
    }
}

impl LogQuery {
    fn wants(&self, event: &RecordedEvent) -> bool {
        let among = |wanted: &[String], value: Option<&str>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|one| one == value))
        };
        event.position > self.after
            && event.position <= self.until
            && event.tenant_id == self.tenant_id.as_str()
            && event.recorded_at >= self.from.as_micros()
            && event.recorded_at < self.to.as_micros()
            && among(&self.event_types, Some(&event.event_type))
            && among(&self.subscriber_ids, event.subscriber_id.as_deref())
    }
}

impl Tables {
    fn erasures(&self, partition: Partition) -> i64 {
        self.erasures.get(&partition).copied().unwrap_or_default()
    }

    fn stream(&self, stream: &StreamKey) -> impl Iterator<Item = &RecordedEvent> {
        let places = self.streams.get(stream).into_iter().flatten();
        let events = self.events.get(&stream.partition);
        places.filter_map(move |place| events.and_then(|events| events.get(*place)))
    }

    /// Something that a plan takes for new is there.
    fn has_some_of(&self, plan: &Plan<'_>) -> bool {
        let mut events = plan.events.iter();
        events.any(|new| self.event_at(new.stream, new.sequence).is_some())
            || plan
                .idempotency
                .iter()
                .any(|record| self.idempotent.contains_key(&record.place))
            || plan
                .data_keys
                .iter()
                .any(|key| self.data_keys.contains_key(&key.place))
    }

    fn event_at(&self, stream: &StreamKey, sequence: Sequence) -> Option<&RecordedEvent> {
        let index = usize::try_from(sequence.0 - 1).ok()?;
        let place = *self.streams.get(stream)?.get(index)?;
        self.events.get(&stream.partition)?.get(place)
    }
}

/// A plan's rows, owned, until commit.
type Staged = Box<dyn FnOnce(&mut Tables) + Send>;

struct MemoryWriter {
    tables: Arc<Mutex<Tables>>,
    held: Option<OwnedMutexGuard<Tables>>,
    staged: Vec<Staged>,
}

fn no_transaction() -> StorageError {
    StorageError::Unavailable("no transaction was begun".into())
}

#[async_trait]
impl BatchWriter for MemoryWriter {
    async fn lock_heads(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<LockedHead>, StorageError> {
        let tables = Arc::clone(&self.tables).lock_owned().await;
        let heads = partitions
            .iter()
            .filter_map(|partition| tables.heads.get(partition))
            .map(|head| LockedHead {
                head: head.clone(),
                erasures: tables.erasures(head.partition),
            })
            .collect();
        self.held = Some(tables);
        Ok(heads)
    }

    async fn append(
        &mut self,
        plan: &Plan<'_>,
        expected: &[LockedHead],
    ) -> Result<bool, StorageError> {
        let Ok(tables) = Arc::clone(&self.tables).try_lock_owned() else {
            return Ok(false);
        };
        let is_there = |locked: &LockedHead| {
            let partition = locked.head.partition;
            tables.heads.get(&partition) == Some(&locked.head)
                && tables.erasures(partition) == locked.erasures
        };
        if !expected.iter().all(is_there) {
            return Ok(false);
        }
        if tables.has_some_of(plan) {
            return Err(StorageError::Rejected("it is there already".into()));
        }
        self.held = Some(tables);
        self.insert(plan).await?;
        self.commit().await?;
        Ok(true)
    }

    async fn look_up(&mut self, questions: &Questions<'_>) -> Result<Found, StorageError> {
        let own;
        let tables = if let Some(held) = &self.held {
            &**held
        } else {
            own = self.tables.lock().await;
            &*own
        };
        let mut found = Found::default();
        for (stream, sequence) in &questions.sequences {
            if let Some(event) = tables.event_at(stream, *sequence) {
                found.events.push(FoundEvent {
                    stream: (*stream).clone(),
                    sequence: *sequence,
                    event_id: event.event_id,
                    position: event.position,
                    recorded_at: Timestamp::from_micros_clamped(event.recorded_at),
                });
            }
        }
        let idempotent = questions.idempotency.iter();
        found.idempotent.extend(
            idempotent
                .filter_map(|place| tables.idempotent.get(place))
                .cloned(),
        );
        let data_keys = questions.data_keys.iter();
        found.data_keys.extend(
            data_keys
                .filter_map(|place| tables.data_keys.get(place))
                .cloned(),
        );
        Ok(found)
    }

    async fn streams_of(
        &mut self,
        tenant: &TenantPlace,
        subscriber_id: &SubscriberId,
    ) -> Result<SubscriberStreams, StorageError> {
        let tables = self.held.as_ref().ok_or_else(no_transaction)?;
        let place = (
            tenant.partition,
            tenant.tenant_id.clone(),
            subscriber_id.clone(),
        );
        let late = tables.late_subscribers.get(&place);
        let events = tables.events.get(&tenant.partition).into_iter().flatten();
        let begun = events.filter(|event| {
            event.sequence == Sequence(1)
                && event.tenant_id == tenant.tenant_id.as_str()
                && event.subscriber_id.as_deref() == Some(subscriber_id.as_str())
                && event.event_type.starts_with("notification.")
        });
        let mut all: BTreeSet<StreamId> = begun.map(|event| event.stream_id).collect();
        all.extend(late.into_iter().flatten());
        Ok(SubscriberStreams {
            count: all.len() as u64,
            late: late.into_iter().flatten().copied().collect(),
        })
    }

    async fn insert(&mut self, plan: &Plan<'_>) -> Result<(), StorageError> {
        let events: Vec<(StreamKey, RecordedEvent)> = plan
            .events
            .iter()
            .map(|new| (new.stream.clone(), new.recorded()))
            .collect();
        let idempotent = plan.idempotency.clone();
        let data_keys: Vec<StoredDataKey> = plan.data_keys.iter().copied().cloned().collect();
        let references: Vec<(ReferencePlace, StreamId)> = plan
            .references
            .iter()
            .map(|(key, reference)| {
                let place = ReferencePlace {
                    partition: key.partition,
                    tenant_id: key.tenant_id.clone(),
                    reference: (*reference).to_owned(),
                };
                (place, key.stream_id)
            })
            .collect();
        let late: Vec<_> = plan
            .late_subscribers
            .iter()
            .map(|(key, named)| ((*key).clone(), (*named).clone()))
            .collect();
        let erasure = plan.erasure.clone();
        let heads = plan.heads.clone();
        self.staged.push(Box::new(move |tables| {
            for (stream, event) in events {
                let log = tables.events.entry(stream.partition).or_default();
                tables.streams.entry(stream).or_default().push(log.len());
                log.push(event);
            }
            for record in idempotent {
                tables.idempotent.insert(record.place.clone(), record);
            }
            for key in data_keys {
                tables.data_keys.entry(key.place.clone()).or_insert(key);
            }
            for (place, stream_id) in references {
                tables.references.entry(place).or_insert(stream_id);
            }
            for (key, named) in late {
                let place = (key.partition, key.tenant_id, named);
                let streams = tables.late_subscribers.entry(place).or_default();
                streams.insert(key.stream_id);
            }
            if let Some(erasure) = erasure {
                for place in &erasure.keys {
                    if let Some(key) = tables.data_keys.get_mut(place) {
                        key.wrapped_key = None;
                    }
                }
                *tables.erasures.entry(erasure.partition).or_default() += 1;
            }
            for head in heads {
                tables.heads.insert(head.partition, head);
            }
        }));
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), StorageError> {
        let mut tables = self.held.take().ok_or_else(no_transaction)?;
        for staged in self.staged.drain(..) {
            staged(&mut tables);
        }
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<(), StorageError> {
        self.held = None;
        self.staged.clear();
        Ok(())
    }
}
