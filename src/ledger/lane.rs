//! Lanes: the tasks that write.
//!
//! A lane owns some partitions, a thread and one database connection. It takes whatever queued up while its
//! last transaction was being committed and commits all of it in one: it never waits for company,
//! and gets more efficient the busier it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::LedgerError;
use super::announcer::Announcer;
use super::appended::Appended;
use super::batch::{self, AppendOutcome, AppendRequest, Stored};
use super::known::Known;
use super::record::{Content, LogEvent, Partition, PlainEvent, Position, StreamEvent};
use super::storage::{BatchWriter, Storage, StorageError};
use super::tail::Tail;
use crate::clock::Clock;
use crate::tasks::Tasks;
use crate::telemetry::{ErrorChain, Metrics};

/// Most commands in one transaction: beyond, a bigger batch saves nothing and delays its first.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Most bytes of event data in one transaction. More than the largest single command, or that
/// command could never be committed.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an event weighs in a queue beside its data: envelope, keys, references.
const REQUEST_OVERHEAD_BYTES: usize = 512;
/// A transaction that takes longer has lost its database.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a lane whose database is gone answers without asking it again.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How much may wait: commands per lane, bytes over all lanes.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub commands: usize,
    pub bytes: usize,
}

struct Job {
    request: AppendRequest,
    bytes: usize,
    reply: oneshot::Sender<Result<AppendOutcome, LedgerError>>,
    /// Given back when the job is done.
    room: OwnedSemaphorePermit,
}

/// Whom the lanes tell of what they have stored.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub tail: Tail,
    pub appended: Appended,
    pub announcer: Announcer,
}

/// All lanes of a ledger.
#[derive(Debug)]
pub(super) struct Lanes {
    queues: Vec<mpsc::Sender<Job>>,
    room: Arc<Semaphore>,
    limits: QueueLimits,
    metrics: Metrics,
}

impl Lanes {
    /// Starts `count` lanes, each on a thread of its own: under load it would otherwise wait behind
    /// thousands of requests, most of which can only be refused meanwhile. They end when the `Lanes`
    /// are dropped and their queues empty.
    ///
    /// # Errors
    ///
    /// When there are no threads for them.
    pub(super) fn start(
        count: u16,
        limits: QueueLimits,
        storage: &Arc<dyn Storage>,
        told: &Told,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let queues = (0..count.max(1))
            .map(|number| {
                let (queue, jobs) = mpsc::channel(limits.commands.max(1));
                let lane = Lane {
                    number,
                    storage: Arc::clone(storage),
                    told: told.clone(),
                    clock: Arc::clone(clock),
                    metrics: metrics.clone(),
                    connection: None,
                    known: Known::default(),
                    failed_at: None,
                };
                tasks.spawn_apart(format!("lane-{number}"), lane.run(jobs))?;
                Ok(queue)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            queues,
            room: Arc::new(Semaphore::new(limits.bytes.min(Semaphore::MAX_PERMITS))),
            limits,
            metrics: metrics.clone(),
        })
    }

    /// Queues a request and waits until it is durable or lost.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Overloaded`] at once when the queue is full; [`LedgerError::Storage`] when
    /// the database failed.
    pub(super) async fn append(
        &self,
        request: AppendRequest,
    ) -> Result<AppendOutcome, LedgerError> {
        let bytes = weight(&request);
        let permits = u32::try_from(bytes.min(self.limits.bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .map_err(|_| LedgerError::Overloaded)?;
        let number = self.lane_of(request.stream.partition);
        let queue = &self.queues[usize::from(number)];
        let (reply, answer) = oneshot::channel();
        let job = Job {
            request,
            bytes,
            reply,
            room,
        };
        queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => LedgerError::Stopped,
        })?;
        self.metrics.queue_depth(
            number,
            queue.max_capacity() - queue.capacity(),
            self.limits
                .bytes
                .saturating_sub(self.room.available_permits()),
        );
        answer.await.unwrap_or(Err(LedgerError::Stopped))
    }

    /// Whether a request for this partition would be taken now. What is said no to early costs
    /// little, which leaves more for what is taken.
    pub(super) fn has_room(&self, partition: Partition) -> bool {
        let queue = &self.queues[usize::from(self.lane_of(partition))];
        queue.capacity() > 0 && self.room.available_permits() >= REQUEST_OVERHEAD_BYTES
    }

    fn lane_of(&self, partition: Partition) -> u16 {
        partition.0.unsigned_abs() % u16::try_from(self.queues.len()).unwrap_or(1)
    }
}

fn weight(request: &AppendRequest) -> usize {
    let data: usize = request.events.iter().map(|event| event.data.len()).sum();
    data + REQUEST_OVERHEAD_BYTES
}

struct Lane {
    number: u16,
    storage: Arc<dyn Storage>,
    told: Told,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    connection: Option<Box<dyn BatchWriter>>,
    known: Known,
    failed_at: Option<Instant>,
}

impl Lane {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut drained = Vec::with_capacity(BATCH_COMMANDS_MAX);
        while jobs.recv_many(&mut drained, BATCH_COMMANDS_MAX).await > 0 {
            self.metrics.queue_depth(self.number, jobs.len(), 0);
            while !drained.is_empty() {
                let rest = drained.split_off(within_bytes(&drained));
                self.commit(std::mem::replace(&mut drained, rest)).await;
            }
        }
    }

    /// Commits a batch. Rows the database refuses are singled out by halving, so that the others
    /// still get in.
    async fn commit(&mut self, jobs: Vec<Job>) {
        let mut batches = vec![jobs];
        while let Some(mut jobs) = batches.pop() {
            let (requests, replies): (Vec<_>, Vec<_>) = jobs
                .drain(..)
                .map(|job| (job.request, (job.reply, job.bytes, job.room)))
                .unzip();
            match self.append(&requests).await {
                Ok(stored) => {
                    self.told.tell(requests, &stored);
                    let outcomes = stored.outcomes;
                    for ((reply, _, room), outcome) in replies.into_iter().zip(outcomes) {
                        // First, or a caller who hears and goes on at once finds no room.
                        drop(room);
                        // A caller who left loses the answer, not the event.
                        let _ = reply.send(Ok(outcome));
                    }
                }
                Err(StorageError::Rejected(_)) if requests.len() > 1 => {
                    let mut halves: Vec<Job> = requests
                        .into_iter()
                        .zip(replies)
                        .map(|(request, (reply, bytes, room))| Job {
                            request,
                            bytes,
                            reply,
                            room,
                        })
                        .collect();
                    let second = halves.split_off(halves.len() / 2);
                    // A stack: the first half goes first.
                    batches.push(second);
                    batches.push(halves);
                }
                Err(error) => {
                    tracing::error!(
                        lane = self.number,
                        commands = requests.len(),
                        error = %ErrorChain(&error),
                        "a batch could not be committed"
                    );
                    let error = Arc::new(error);
                    for (reply, _, room) in replies {
                        drop(room);
                        let _ = reply.send(Err(LedgerError::Storage(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    async fn append(&mut self, requests: &[AppendRequest]) -> Result<Stored, StorageError> {
        let reused = self.connection.is_some();
        match self.try_append(requests).await {
            // A connection that broke while idle shows at the first statement: nothing was done. One
            // that breaks later may have done it all; then the next attempt finds it on record.
            Err(Failure::BeforeCommit(StorageError::Unavailable(_))) if reused => {
                self.try_append(requests).await.map_err(Failure::into_error)
            }
            Err(Failure::Committing(StorageError::Unavailable(_))) => {
                self.try_append(requests).await.map_err(Failure::into_error)
            }
            result => result.map_err(Failure::into_error),
        }
    }

    async fn try_append(&mut self, requests: &[AppendRequest]) -> Result<Stored, Failure> {
        let started = Instant::now();
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let connection = self.connect().await.map_err(Failure::BeforeCommit)?;
            self.known.reconnected();
            connection
        };
        let known = &mut self.known;
        let transaction = batch::append(connection.as_mut(), known, requests, || self.clock.now());
        let Ok(result) = tokio::time::timeout(BATCH_TIMEOUT, transaction).await else {
            return Err(Failure::TooLate);
        };
        match result {
            Ok(stored) => {
                self.connection = Some(connection);
                self.failed_at = None;
                self.measure(requests, &stored.outcomes, started.elapsed());
                Ok(stored)
            }
            // After an error nobody knows what state the connection is in: it is dropped, and
            // with it whatever the transaction had done.
            Err(error) if error.committing => Err(Failure::Committing(error.source)),
            Err(error) => Err(Failure::BeforeCommit(error.source)),
        }
    }

    async fn connect(&mut self) -> Result<Box<dyn BatchWriter>, StorageError> {
        if self
            .failed_at
            .is_some_and(|at| at.elapsed() < REST_AFTER_FAILURE)
        {
            return Err(StorageError::Unavailable(
                "the database was gone a moment ago".into(),
            ));
        }
        let connecting = tokio::time::timeout(BATCH_TIMEOUT, self.storage.writer());
        let result = connecting
            .await
            .unwrap_or_else(|elapsed| Err(StorageError::Unavailable(Box::new(elapsed))));
        if result.is_err() {
            self.failed_at = Some(Instant::now());
        }
        result
    }

    fn measure(&self, requests: &[AppendRequest], outcomes: &[AppendOutcome], took: Duration) {
        let mut events = 0;
        let mut bytes = 0;
        for (request, outcome) in requests.iter().zip(outcomes) {
            if matches!(outcome, AppendOutcome::Committed { .. }) {
                events += request.events.len();
                bytes += request
                    .events
                    .iter()
                    .map(|event| event.data.len())
                    .sum::<usize>();
            }
        }
        self.metrics
            .append_batch(self.number, requests.len(), events, bytes, took);
    }
}

impl Told {
    /// Says what a batch has stored. Before the callers are answered, so that a reader whom one of
    /// them calls finds the ledger as far as it is.
    fn tell(&self, requests: Vec<AppendRequest>, stored: &Stored) {
        let mut heads: BTreeMap<Partition, Position> = BTreeMap::new();
        let mut news: BTreeMap<Partition, Vec<LogEvent>> = BTreeMap::new();
        let mut places = stored.places.iter();
        for (request, outcome) in requests.into_iter().zip(&stored.outcomes) {
            let AppendOutcome::Committed { tip, erasures, .. } = outcome else {
                continue;
            };
            let head = heads.entry(request.stream.partition).or_default();
            *head = tip.position.max(*head);
            if erasures.is_none() {
                // An earlier attempt has stored it.
                continue;
            }
            let news = news.entry(request.stream.partition).or_default();
            for (event, place) in request.events.into_iter().zip(&mut places) {
                news.push(LogEvent {
                    event: StreamEvent {
                        tenant_id: request.stream.tenant_id.to_string(),
                        stream_id: request.stream.stream_id,
                        event: PlainEvent {
                            position: place.position,
                            sequence: place.sequence,
                            event_id: event.event_id,
                            event_type: Cow::Borrowed(event.event_type),
                            occurred_at: event.occurred_at.as_micros(),
                            recorded_at: place.recorded_at.as_micros(),
                            subscriber_id: event
                                .subscriber_id
                                .map(|subscriber| subscriber.as_str().to_owned()),
                            content: match event.decided {
                                Some(decided) => Content::Decided {
                                    event: decided,
                                    bytes: event.data.len(),
                                },
                                None => Content::Stored {
                                    schema_version: event.schema_version,
                                    data: event.data,
                                },
                            },
                        },
                    },
                    hash: place.hash,
                });
            }
        }
        for head in &stored.heads {
            if let Some(events) = news.remove(&head.partition) {
                let after = (head.position, head.hash);
                self.tail.add(head.partition, after, events);
            }
        }
        for (partition, position) in heads {
            self.appended.advance(partition, position);
            self.announcer.tell(partition, position);
        }
    }
}

enum Failure {
    /// Nothing was stored.
    BeforeCommit(StorageError),
    /// Nobody knows whether it was stored.
    Committing(StorageError),
    /// Nor here, and everybody has waited long enough.
    TooLate,
}

impl Failure {
    fn into_error(self) -> StorageError {
        match self {
            Self::BeforeCommit(error) | Self::Committing(error) => error,
            Self::TooLate => StorageError::Unavailable("a batch took too long".into()),
        }
    }
}

/// How many of the jobs fit one transaction: at least one.
fn within_bytes(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    jobs.iter()
        .take_while(|job| {
            let first = bytes == 0;
            bytes += job.bytes;
            first || bytes <= BATCH_BYTES_MAX
        })
        .count()
}
