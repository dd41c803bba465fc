//! A storage that fails or waits when it is told to, and tells what was committed together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::{pin_mut, poll};
use notification_ledger::domain::ids::{Sequence, StreamId, SubscriberId};
use notification_ledger::ledger::batch::{Plan, Questions};
use notification_ledger::ledger::record::{
    Head, LockedHead, Partition, Position, RecordedEvent, StreamEvent, StreamKey, TenantPlace,
};
use notification_ledger::ledger::storage::{
    BatchWriter, BrokenStream, DataKeyPlace, Found, IdempotencyPlace, IdempotencyRecord, LogQuery,
    Page, ReferencePlace, Storage, StorageError, StoredDataKey, StreamQuery, SubscriberStreams,
};
use tokio::sync::watch;

use crate::client::{Client, Told, request};

/// Events with this correlation id are refused, as a database refuses rows.
pub(crate) const POISON: &str = "poison";

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Commit {
    /// It is durable, but the connection breaks before anybody hears of it.
    Unheard,
    /// The connection breaks, and nothing is durable.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plans: Arc<Plans>,
}

#[derive(Debug, Default)]
struct Plans {
    next_commit: Mutex<Option<Commit>>,
    /// How many events each commit carried.
    committed: Mutex<Vec<usize>>,
    /// Batches have to wait.
    held: watch::Sender<bool>,
    /// How many came while they had to.
    waiting: watch::Sender<usize>,
    keys_asked_for: AtomicUsize,
    locks: AtomicUsize,
    look_ups: AtomicUsize,
    streams_read: AtomicUsize,
}

impl FaultyStorage {
    pub(crate) fn new(inner: &Arc<dyn Storage>) -> Self {
        Self {
            inner: Arc::clone(inner),
            plans: Arc::default(),
        }
    }

    pub(crate) fn fail_next(&self, commit: Commit) {
        *self.plans.next_commit.lock().unwrap() = Some(commit);
    }

    /// From now on no batch goes on, until [`Self::go_on`].
    pub(crate) fn hold(&self) {
        self.plans.waiting.send_replace(0);
        self.plans.held.send_replace(true);
    }

    /// A lane has a batch, and waits with it.
    pub(crate) async fn is_waiting(&self) {
        let mut waiting = self.plans.waiting.subscribe();
        waiting.wait_for(|waiting| *waiting > 0).await.unwrap();
    }

    pub(crate) fn go_on(&self) {
        self.plans.held.send_replace(false);
    }

    /// New notifications, one for each client, which queue up while the lane is busy with one of
    /// `before`, and so share a batch. Nothing of them may wait before it is queued.
    pub(crate) async fn together(&self, before: &Client, clients: &[Client]) -> Vec<Told> {
        self.hold();
        let keeping_busy = before.begin(before.new_stream(), request());
        pin_mut!(keeping_busy);
        assert!(poll!(&mut keeping_busy).is_pending());
        self.is_waiting().await;
        let told = self.queued(clients).await;
        keeping_busy.await.unwrap();
        told
    }

    /// New notifications, one for each client, of which none is done before all are queued.
    pub(crate) async fn queued(&self, clients: &[Client]) -> Vec<Told> {
        self.hold();
        let told = join_all(
            clients
                .iter()
                .map(|client| client.begin(client.new_stream(), request())),
        );
        pin_mut!(told);
        assert!(poll!(&mut told).is_pending());
        self.go_on();
        told.await
    }

    /// How many data keys batches have asked for.
    pub(crate) fn keys_asked_for(&self) -> usize {
        self.plans.keys_asked_for.load(Ordering::SeqCst)
    }

    /// How often a batch has locked heads before it was planned.
    pub(crate) fn locks(&self) -> usize {
        self.plans.locks.load(Ordering::SeqCst)
    }

    /// How often batches have asked anything.
    pub(crate) fn look_ups(&self) -> usize {
        self.plans.look_ups.load(Ordering::SeqCst)
    }

    /// How often streams were read.
    pub(crate) fn streams_read(&self) -> usize {
        self.plans.streams_read.load(Ordering::SeqCst)
    }

    pub(crate) fn committed(&self) -> Vec<usize> {
        self.plans.committed.lock().unwrap().clone()
    }
}

struct FaultyWriter {
    inner: Box<dyn BatchWriter>,
    plans: Arc<Plans>,
    events: usize,
}

impl Plans {
    /// Waits while batches have to.
    async fn pass(&self) {
        let mut held = self.held.subscribe();
        if *held.borrow() {
            self.waiting.send_modify(|waiting| *waiting += 1);
        }
        held.wait_for(|held| !held).await.unwrap();
    }
}

fn refuse_poison(plan: &Plan<'_>) -> Result<(), StorageError> {
    let mut ids = plan
        .events
        .iter()
        .map(|event| event.provenance.correlation_id.as_deref());
    if ids.any(|id| id == Some(POISON)) {
        return Err(StorageError::Rejected("poison".into()));
    }
    Ok(())
}

fn broken() -> StorageError {
    StorageError::Unavailable("the connection broke, as it was told to".into())
}

#[async_trait]
impl BatchWriter for FaultyWriter {
    async fn lock_heads(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<LockedHead>, StorageError> {
        self.plans.pass().await;
        self.plans.locks.fetch_add(1, Ordering::SeqCst);
        self.inner.lock_heads(partitions).await
    }

    async fn streams_of(
        &mut self,
        tenant: &TenantPlace,
        subscriber_id: &SubscriberId,
    ) -> Result<SubscriberStreams, StorageError> {
        self.inner.streams_of(tenant, subscriber_id).await
    }

    async fn look_up(&mut self, questions: &Questions<'_>) -> Result<Found, StorageError> {
        self.plans.pass().await;
        self.plans.look_ups.fetch_add(1, Ordering::SeqCst);
        let keys = &self.plans.keys_asked_for;
        keys.fetch_add(questions.data_keys.len(), Ordering::SeqCst);
        self.inner.look_up(questions).await
    }

    async fn append(
        &mut self,
        plan: &Plan<'_>,
        expected: &[LockedHead],
    ) -> Result<bool, StorageError> {
        self.plans.pass().await;
        refuse_poison(plan)?;
        let fault = self.plans.next_commit.lock().unwrap().take();
        if let Some(Commit::Lost) = fault {
            return Err(broken());
        }
        let is_stored = self.inner.append(plan, expected).await?;
        if is_stored {
            let mut committed = self.plans.committed.lock().unwrap();
            committed.push(plan.events.len());
        }
        if fault.is_some() {
            Err(broken())
        } else {
            Ok(is_stored)
        }
    }

    async fn insert(&mut self, plan: &Plan<'_>) -> Result<(), StorageError> {
        refuse_poison(plan)?;
        self.events = plan.events.len();
        self.inner.insert(plan).await
    }

    async fn commit(&mut self) -> Result<(), StorageError> {
        let fault = self.plans.next_commit.lock().unwrap().take();
        if let Some(Commit::Lost) = fault {
            self.inner.roll_back().await?;
            return Err(broken());
        }
        self.inner.commit().await?;
        self.plans.committed.lock().unwrap().push(self.events);
        if fault.is_some() {
            Err(broken())
        } else {
            Ok(())
        }
    }

    async fn roll_back(&mut self) -> Result<(), StorageError> {
        self.inner.roll_back().await
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    async fn writer(&self) -> Result<Box<dyn BatchWriter>, StorageError> {
        Ok(Box::new(FaultyWriter {
            inner: self.inner.writer().await?,
            plans: Arc::clone(&self.plans),
            events: 0,
        }))
    }

    async fn streams(&self, streams: &[StreamKey]) -> Result<Vec<RecordedEvent>, StorageError> {
        self.plans.streams_read.fetch_add(1, Ordering::SeqCst);
        self.inner.streams(streams).await
    }

    async fn streams_within(
        &self,
        streams: &[StreamKey],
        bytes_max: i64,
    ) -> Result<Page<RecordedEvent>, StorageError> {
        self.inner.streams_within(streams, bytes_max).await
    }

    async fn events_at(
        &self,
        places: &[(StreamKey, Sequence)],
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        self.inner.events_at(places).await
    }

    async fn log(
        &self,
        partition: Partition,
        after: Position,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StorageError> {
        self.inner.log(partition, after, limit).await
    }

    async fn tenant_log(&self, query: &LogQuery) -> Result<Page<RecordedEvent>, StorageError> {
        self.inner.tenant_log(query).await
    }

    async fn by_stream(&self, query: &StreamQuery) -> Result<Page<StreamEvent>, StorageError> {
        self.inner.by_stream(query).await
    }

    async fn heads(&self) -> Result<Vec<Head>, StorageError> {
        self.inner.heads().await
    }

    async fn broken_streams(
        &self,
        partition: Partition,
    ) -> Result<Vec<BrokenStream>, StorageError> {
        self.inner.broken_streams(partition).await
    }

    async fn idempotent(
        &self,
        keys: &[IdempotencyPlace],
    ) -> Result<Vec<IdempotencyRecord>, StorageError> {
        self.inner.idempotent(keys).await
    }

    async fn keep_answer(
        &self,
        record: &IdempotencyRecord,
    ) -> Result<IdempotencyRecord, StorageError> {
        self.inner.keep_answer(record).await
    }

    async fn data_keys_as_of(
        &self,
        keys: &[DataKeyPlace],
    ) -> Result<Vec<(StoredDataKey, i64)>, StorageError> {
        self.inner.data_keys_as_of(keys).await
    }

    async fn scrub(&self) -> Result<bool, StorageError> {
        self.inner.scrub().await
    }

    async fn add_data_key(&self, key: &StoredDataKey) -> Result<(), StorageError> {
        self.inner.add_data_key(key).await
    }

    async fn referenced(
        &self,
        references: &[ReferencePlace],
    ) -> Result<Vec<(ReferencePlace, StreamId)>, StorageError> {
        self.inner.referenced(references).await
    }

    fn remembered(&self, reference: &ReferencePlace) -> Option<StreamId> {
        self.inner.remembered(reference)
    }
}
