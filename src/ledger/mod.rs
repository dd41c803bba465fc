//! The record: what happened to every notification, in order, for ever.
//!
//! A command comes in through [`Ledger::execute`], which runs it through `cqrs-es` on a
//! [`session`]: load the aggregate (from the `cache`, else the database), decide, seal, append.
//! The append waits in a [`lane`] for the next group commit ([`batch`]), which gives it its
//! position and its link in the [`chain`]. Reads of single streams are put together by
//! `coalesce`; whoever follows the log waits at [`appended`] and finds its end in [`tail`]. The databases stand behind the traits
//! of [`storage`].
//!
//! [`erasure`] destroys a subscriber's keys, in a transaction of its own under the same lock.
//!
//! Everything may be tried twice: a repeat is recognised by the idempotency key or by the
//! aggregate itself, and a lost race is decided again on the fresh stream.

mod announcer;
pub mod appended;
pub mod batch;
mod cache;
pub mod chain;
mod coalesce;
pub mod database;
mod erasure;
mod error;
mod follower;
pub mod known;
pub mod lane;
pub mod memory;
mod postgres;
pub mod record;
pub mod recordable;
pub(crate) mod records;
pub mod registry;
mod remembered;
pub(crate) mod rows;
pub mod sealing;
mod session;
mod sqlite;
pub mod storage;
mod streamlock;
pub mod tail;
pub mod verify;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs_es::{AggregateError, CqrsFramework};
use futures_util::future::try_join_all;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::Surroundings;
use crate::domain::event::Sealed;
use crate::domain::ids::{EventId, Sequence, StreamId};
use crate::domain::integration::Integration;
use crate::domain::notification::Notification;
use crate::domain::sealing::Subject;
use crate::domain::stored::DecodeError;
use crate::domain::time::Timestamp;
use crate::tasks::Tasks;
use crate::telemetry::{AppendOutcome, Cache, Metrics};

pub use erasure::{Erased, Erasure};
pub use error::{CommandError, FromSealing, LedgerError};

use announcer::Announcer;
use appended::Appended;
use cache::AggregateCache;
use coalesce::Coalescer;
use error::{command_error, outcome_label};
use lane::{Lanes, QueueLimits, Told};
use record::{Hash, Head, Position, Provenance, RecordedEvent, StreamKey, TenantPlace, Tip};
use recordable::Recordable;
use sealing::{Keyring, MasterKey, SealedUnder};
use session::{Notes, Outcome, Session};
use storage::{
    DataKeyPlace, IdempotencyPlace, IdempotencyRecord, LogQuery, Page, ReferencePlace, Storage,
    StorageError,
};
use streamlock::StreamLocks;
use tail::Tail;

/// How often a command is decided again after losing a race. Each time somebody else got ahead,
/// so only a stream under siege from other processes comes this far.
const ATTEMPTS_MAX: u32 = 24;
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How a ledger is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub lanes: u16,
    pub queue: QueueLimits,
    pub aggregate_cache_bytes: usize,
    /// How long an erasure in another process may go unnoticed.
    pub key_cache_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lanes: 1,
            queue: QueueLimits {
                commands: 2048,
                bytes: 64 * 1024 * 1024,
            },
            aggregate_cache_bytes: 16 * 1024 * 1024,
            key_cache_ttl: Duration::from_secs(5),
        }
    }
}

/// The record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    core: Arc<Core>,
}

/// What sessions and callers share.
#[derive(Debug)]
struct Core {
    storage: Arc<dyn Storage>,
    lanes: Lanes,
    appended: Appended,
    tail: Tail,
    announcer: Announcer,
    keyring: Keyring,
    notifications: AggregateCache<Notification>,
    locks: StreamLocks,
    streams: Coalescer<StreamKey, Arc<Vec<RecordedEvent>>>,
    references: Coalescer<ReferencePlace, Option<StreamId>>,
    surroundings: Surroundings,
    metrics: Metrics,
    /// For what must come to its end whether or not its caller waits.
    tasks: Tasks,
}

/// On whose behalf a command runs, and how.
#[derive(Clone, Debug)]
pub struct Order {
    pub tenant: TenantPlace,
    pub provenance: Arc<Provenance>,
    pub idempotency: Option<Idempotency>,
    /// The stream must be at this version, or the command is refused.
    pub expected_version: Option<Sequence>,
}

/// A caller's idempotency key, and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub fingerprint: Hash,
}

/// What is known of a stream before a command looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It may be there or not.
    Unknown,
    /// It is taken not to be there: it was looked for, or the command is to begin it under an id that a
    /// caller made a moment ago. Others may be about to begin it, or have done so.
    Absent,
    /// Its id was made for this command, so nobody else can have begun it.
    JustMade,
}

/// A command's result.
#[derive(Clone, Debug)]
pub struct Done<A> {
    pub stream: StreamKey,
    pub aggregate: Arc<A>,
    /// The stream's end after the command.
    pub tip: Tip,
    /// How many events it appended; 0 when everything was on record already.
    pub appended: usize,
    /// The idempotency key was used before: this is the first answer again.
    pub replayed: bool,
}

impl<A> Done<A> {
    /// The last event that this very call appended: its command's own. `None` if it appended none.
    pub fn just_appended(&self) -> Option<EventId> {
        let has_appended = self.appended > 0 && !self.replayed;
        self.tip.event_id.filter(|_| has_appended)
    }
}

/// An aggregate as it was at some point.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    pub stream: StreamKey,
    pub aggregate: A,
    pub tip: Tip,
}

/// Up to where a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Now,
    Version(Sequence),
    Position(Position),
    RecordedAt(Timestamp),
}

impl Order {
    fn idempotency_place(&self) -> Option<(IdempotencyPlace, Hash)> {
        self.idempotency.as_ref().map(|idempotency| {
            let place = IdempotencyPlace {
                partition: self.tenant.partition,
                tenant_id: self.tenant.tenant_id.clone(),
                key: idempotency.key.clone(),
            };
            (place, idempotency.fingerprint)
        })
    }
}

impl TenantPlace {
    /// One of the tenant's streams.
    pub fn stream(&self, stream_id: StreamId) -> StreamKey {
        StreamKey {
            partition: self.partition,
            tenant_id: self.tenant_id.clone(),
            stream_id,
        }
    }
}

impl Ledger {
    /// Starts the lanes and readers of a ledger that exists.
    ///
    /// # Errors
    ///
    /// When the operating system has no threads for the lanes.
    pub fn start(
        storage: Arc<dyn Storage>,
        master: Arc<MasterKey>,
        options: Options,
        surroundings: Surroundings,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let appended = Appended::default();
        let tail = Tail::default();
        let announcer = Announcer::start(&storage, tasks);
        let lanes = Lanes::start(
            options.lanes,
            options.queue,
            &storage,
            &Told {
                tail: tail.clone(),
                appended: appended.clone(),
                announcer: announcer.clone(),
            },
            &surroundings.clock,
            metrics,
            tasks,
        )?;
        let keyring = Keyring::new(
            Arc::clone(&storage),
            master,
            Arc::clone(&surroundings.clock),
            options.key_cache_ttl,
            tasks,
        );
        let reading = Arc::clone(&storage);
        let streams = Coalescer::start(tasks, move |streams: Vec<StreamKey>| {
            let storage = Arc::clone(&reading);
            async move { by_stream(storage.streams(&streams).await?) }
        });
        let reading = Arc::clone(&storage);
        let references = Coalescer::start(tasks, move |references: Vec<ReferencePlace>| {
            let storage = Arc::clone(&reading);
            async move {
                let found = storage.referenced(&references).await?;
                let found = found.into_iter();
                Ok(found.map(|(place, stream)| (place, Some(stream))).collect())
            }
        });
        Ok(Self {
            core: Arc::new(Core {
                storage,
                lanes,
                appended,
                tail,
                announcer,
                keyring,
                notifications: AggregateCache::new(options.aggregate_cache_bytes),
                locks: StreamLocks::default(),
                streams,
                references,
                surroundings,
                metrics: metrics.clone(),
                tasks: tasks.clone(),
            }),
        })
    }

    /// Says no to a command before anything is done for it, if there would be no room for its
    /// events.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Overloaded`]
    pub fn admit(&self, tenant: &TenantPlace) -> Result<(), LedgerError> {
        if self.core.lanes.has_room(tenant.partition) {
            return Ok(());
        }
        self.core
            .metrics
            .append_outcome(AppendOutcome::Overloaded, 1);
        Err(LedgerError::Overloaded)
    }

    /// Carries out a command on one stream. Nothing is read first of one that does not exist as far as
    /// `beginning` says; if it exists all the same, the command is decided again.
    ///
    /// Returns once it is durable. Repeats are recognised: the same idempotency key gets the first
    /// answer again.
    ///
    /// # Errors
    ///
    /// [`CommandError::Refused`] by the rules; [`CommandError::Ledger`] when it could not be done.
    pub async fn execute<A: Cached<Command: Clone>>(
        &self,
        order: &Order,
        stream_id: StreamId,
        beginning: Beginning,
        command: A::Command,
    ) -> Result<Done<A>, CommandError<A::Error>>
    where
        A::Error: FromSealing,
    {
        let stream = order.tenant.stream(stream_id);
        let result = self.run::<A>(order, &stream, beginning, command).await;
        self.core.metrics.append_outcome(outcome_label(&result), 1);
        match result {
            // A repeat may be refused only because its first time succeeded.
            Err(error) if order.idempotency.is_some() => match self.used_before(order).await? {
                Some(record) => self.replay(order, &record).await.map_err(Into::into),
                None => Err(error),
            },
            result => result,
        }
    }

    async fn run<A: Cached<Command: Clone>>(
        &self,
        order: &Order,
        stream: &StreamKey,
        beginning: Beginning,
        command: A::Command,
    ) -> Result<Done<A>, CommandError<A::Error>>
    where
        A::Error: FromSealing,
    {
        let _turn = match beginning {
            Beginning::JustMade => None,
            Beginning::Absent | Beginning::Unknown => Some(self.core.locks.lock(stream).await),
        };
        // Whoever had the turn before may have begun it.
        let is_new = match beginning {
            Beginning::JustMade => true,
            Beginning::Absent => !self.remembers(stream),
            Beginning::Unknown => false,
        };
        for attempt in 0..ATTEMPTS_MAX {
            let is_new = is_new && attempt == 0;
            match self
                .attempt::<A>(order, stream, is_new, command.clone())
                .await
            {
                Err(AggregateError::AggregateConflict) => self.pause(attempt).await,
                Err(error) => return Err(command_error(error)),
                Ok(Outcome::KeyTaken(record)) => {
                    return self.replay(order, &record).await.map_err(Into::into);
                }
                Ok(Outcome::Recorded {
                    aggregate,
                    tip,
                    appended,
                }) => {
                    let aggregate = Arc::new(aggregate);
                    A::remember(&self.core, stream, &aggregate, tip);
                    return Ok(Done {
                        stream: stream.clone(),
                        aggregate,
                        tip,
                        appended,
                        replayed: false,
                    });
                }
            }
        }
        Err(LedgerError::Contended.into())
    }

    async fn attempt<A: Cached>(
        &self,
        order: &Order,
        stream: &StreamKey,
        is_new: bool,
        command: A::Command,
    ) -> Result<Outcome<A>, AggregateError<A::Error>> {
        let notes = Notes::default();
        let session = Session::<A>::new(&self.core, order, stream.clone(), is_new, &notes);
        let sealer = session.sealer();
        let framework = CqrsFramework::new(session, Vec::new(), sealer);
        let mut id = Uuid::encode_buffer();
        let id = stream.stream_id.0.hyphenated().encode_lower(&mut id);
        match framework.execute(id, command).await {
            // Others may have appended to what this process remembered. It is forgotten now, so
            // the next attempt is decided on the record.
            Err(AggregateError::UserError(_)) if notes.is_remembered() => {
                return Err(AggregateError::AggregateConflict);
            }
            result => result?,
        }
        drop(framework);
        let outcome = notes.into_outcome();
        outcome.ok_or(AggregateError::AggregateConflict)
    }

    /// Lets others finish before the next attempt; a little longer each time, never in step.
    async fn pause(&self, attempt: u32) {
        if attempt == 0 {
            return;
        }
        let random = self.core.surroundings.ids.random().as_u128();
        let most = PAUSE_MAX
            .min(Duration::from_millis(1) * attempt)
            .as_micros()
            .max(1);
        let pause = u64::try_from(random % most).unwrap_or_default();
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }

    async fn used_before(&self, order: &Order) -> Result<Option<IdempotencyRecord>, LedgerError> {
        let Some((place, _)) = order.idempotency_place() else {
            return Ok(None);
        };
        let records = self.core.storage.idempotent(&[place]).await?;
        Ok(records.into_iter().next())
    }

    /// The first answer again: the stream as it was right after the key was first used.
    async fn replay<A: Recordable>(
        &self,
        order: &Order,
        record: &IdempotencyRecord,
    ) -> Result<Done<A>, LedgerError> {
        let same = order
            .idempotency
            .as_ref()
            .is_some_and(|idempotency| idempotency.fingerprint == record.fingerprint);
        let Some((stream_id, version, appended)) = record.command.filter(|_| same) else {
            return Err(LedgerError::IdempotencyKeyReused);
        };
        let stream = order.tenant.stream(stream_id);
        let loaded = self.load::<A>(&stream, Until::Version(version)).await?;
        let loaded = loaded.ok_or(LedgerError::IdempotencyKeyReused)?;
        Ok(Done {
            stream,
            aggregate: Arc::new(loaded.aggregate),
            tip: loaded.tip,
            appended: usize::try_from(appended).unwrap_or_default(),
            replayed: true,
        })
    }

    /// An aggregate, folded from its stream. `None` if the stream had no events by then, or is
    /// of another kind.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Undecodable`] when an event does not fit the code.
    pub async fn load<A: Recordable>(
        &self,
        stream: &StreamKey,
        until: Until,
    ) -> Result<Option<Loaded<A>>, LedgerError> {
        let events = self.core.stream(stream).await?;
        let mut events = events
            .iter()
            .take_while(|event| until.includes(event))
            .peekable();
        let of_another_kind = events.peek().is_some_and(|first| {
            A::from_recorded(first).is_err_and(|e| matches!(e, DecodeError::UnknownType(_)))
        });
        if of_another_kind {
            return Ok(None);
        }
        let (aggregate, tip) = folded::<A>(events)?;
        Ok((tip.event_id.is_some()).then(|| Loaded {
            stream: stream.clone(),
            aggregate,
            tip,
        }))
    }

    /// One stream's events, in order.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Storage`] when the database failed.
    pub async fn stream(&self, stream: &StreamKey) -> Result<Arc<Vec<RecordedEvent>>, LedgerError> {
        self.core.stream(stream).await
    }

    /// Single events, in any order. Those that don't exist are left out.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Storage`] when the database failed.
    pub async fn events_at(
        &self,
        places: &[(StreamKey, Sequence)],
    ) -> Result<Vec<RecordedEvent>, LedgerError> {
        Ok(self.core.storage.events_at(places).await?)
    }

    /// A tenant's events in the order of the log, as many as fit.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Storage`] when the database failed.
    pub async fn tenant_log(&self, query: &LogQuery) -> Result<Page<RecordedEvent>, LedgerError> {
        Ok(self.core.storage.tenant_log(query).await?)
    }

    /// Every partition's head.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Storage`] when the database failed.
    pub async fn heads(&self) -> Result<Vec<Head>, LedgerError> {
        Ok(self.core.storage.heads().await?)
    }

    /// Notices from now on what other processes append, until the tasks are told to stop. Without
    /// it [`Self::appended`] knows of this process only.
    pub fn follow(&self, tasks: &Tasks) {
        let stopping = tasks.stopping().clone();
        let storage = Arc::clone(&self.core.storage);
        tasks.spawn(follower::follow(
            storage,
            self.core.appended.clone(),
            stopping,
        ));
    }

    /// How far each partition has come, as far as this process knows.
    pub fn appended(&self) -> &Appended {
        &self.core.appended
    }

    /// The end of the log, as this process has just written it.
    pub fn tail(&self) -> &Tail {
        &self.core.tail
    }

    /// Whether a stream is a notification's, as far as this process remembers: none ever ceases to be
    /// one. A database that has taken over may lack it, which whoever appends finds out. `false`
    /// proves nothing.
    pub fn remembers(&self, stream: &StreamKey) -> bool {
        let notifications = &self.core.notifications;
        notifications.has(stream, Notification::exists)
    }

    /// To which stream a reference belongs, as far as this process remembers both (`remembered.rs`). A
    /// database that has taken over may lack them: whoever appends to the stream finds out, and it is
    /// forgotten. `None` proves nothing.
    pub fn remembered(&self, tenant: &TenantPlace, reference: &str) -> Option<StreamId> {
        let stream_id = self.core.storage.remembered(&ReferencePlace {
            partition: tenant.partition,
            tenant_id: tenant.tenant_id.clone(),
            reference: reference.to_owned(),
        })?;
        // Of a stream that has to be read, the lane that may have to connect again hears nothing.
        self.remembers(&tenant.stream(stream_id))
            .then_some(stream_id)
    }

    /// To which streams these references belong, in their order.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Storage`] when the database failed.
    pub async fn referenced(
        &self,
        tenant: &TenantPlace,
        references: &[String],
    ) -> Result<Vec<Option<StreamId>>, LedgerError> {
        let questions = references.iter().map(|reference| {
            self.core.references.get(ReferencePlace {
                partition: tenant.partition,
                tenant_id: tenant.tenant_id.clone(),
                reference: reference.clone(),
            })
        });
        Ok(try_join_all(questions).await?)
    }

    /// Opens what was sealed to one event. `None` once its subject was erased.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Unopenable`] when the text was altered or moved.
    pub async fn open(
        &self,
        stream: &StreamKey,
        event_id: EventId,
        sealed: &Sealed,
    ) -> Result<Option<Zeroizing<String>>, LedgerError> {
        self.core.keyring.open(stream, event_id, sealed).await
    }

    /// Whether what was sealed is gone for good, because its subject was erased.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the key can't be read.
    pub async fn is_erased(
        &self,
        stream: &StreamKey,
        sealed: &Sealed,
    ) -> Result<bool, LedgerError> {
        self.core.keyring.is_erased(stream, sealed).await
    }

    /// The key that something was sealed under turned out to be destroyed: ask again for it.
    pub fn forget_key(&self, tenant: &TenantPlace, sealed: &Sealed) {
        if let Some(key_id) = sealing::key_id(sealed) {
            self.core.keyring.forget([&DataKeyPlace {
                partition: tenant.partition,
                tenant_id: tenant.tenant_id.clone(),
                key_id,
            }]);
        }
    }

    /// Seals a text that belongs to no event, such as a quarantined webhook. The subject's key is
    /// stored before this returns; whoever stores the text makes sure that it is still there then.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the key can't be made or stored.
    pub async fn seal_apart(
        &self,
        stream: &StreamKey,
        subject: &Subject,
        id: EventId,
        text: &str,
    ) -> Result<Sealed, LedgerError> {
        for _ in 0..ATTEMPTS_MAX {
            let (sealed, under) = self.core.keyring.seal(stream, subject, id, text).await?;
            let key = match under {
                SealedUnder::Stored(_) => return Ok(sealed),
                SealedUnder::Made(key) => key,
            };
            let begun = Instant::now();
            self.core.storage.add_data_key(&key).await?;
            let standing = self
                .core
                .storage
                .data_keys_as_of(std::slice::from_ref(&key.place))
                .await?;
            let own = standing
                .iter()
                .find(|(stored, _)| stored.wrapped_key == key.wrapped_key);
            if let Some((_, as_of)) = own {
                self.core.keyring.stored(&[key], *as_of, begun);
                return Ok(sealed);
            }
            // Another process has stored another key first, or it was erased already.
            self.core.keyring.forget([&key.place]);
        }
        Err(LedgerError::Contended)
    }

    /// Overwrites what is left in the database's files of what was erased, as far as the database
    /// lets itself be told to.
    ///
    /// # Errors
    ///
    /// [`LedgerError::StillRead`] while somebody goes on reading what was there before.
    pub async fn scrub(&self) -> Result<(), LedgerError> {
        self.core.scrub().await
    }

    /// What a call other than a command led to before, under this idempotency key.
    ///
    /// # Errors
    ///
    /// [`LedgerError::IdempotencyKeyReused`] if it was used for another request.
    pub async fn kept_answer(
        &self,
        tenant: &TenantPlace,
        idempotency: &Idempotency,
    ) -> Result<Option<IdempotencyRecord>, LedgerError> {
        let place = IdempotencyPlace {
            partition: tenant.partition,
            tenant_id: tenant.tenant_id.clone(),
            key: idempotency.key.clone(),
        };
        let record = self
            .core
            .storage
            .idempotent(&[place])
            .await?
            .into_iter()
            .next();
        match record {
            Some(record) if record.fingerprint != idempotency.fingerprint => {
                Err(LedgerError::IdempotencyKeyReused)
            }
            record => Ok(record),
        }
    }

    /// Keeps the answer of a call other than a command; `None` only claims the key for it. Returns
    /// the record that stands, which may be an earlier one.
    ///
    /// # Errors
    ///
    /// [`LedgerError::IdempotencyKeyReused`] if the key was used for another request.
    pub async fn keep_answer(
        &self,
        tenant: &TenantPlace,
        idempotency: &Idempotency,
        answer: Option<String>,
    ) -> Result<IdempotencyRecord, LedgerError> {
        let record = IdempotencyRecord {
            place: IdempotencyPlace {
                partition: tenant.partition,
                tenant_id: tenant.tenant_id.clone(),
                key: idempotency.key.clone(),
            },
            fingerprint: idempotency.fingerprint,
            command: None,
            answer,
            recorded_at: self.core.surroundings.now(),
        };
        let standing = self.core.storage.keep_answer(&record).await?;
        if standing.fingerprint == idempotency.fingerprint {
            Ok(standing)
        } else {
            Err(LedgerError::IdempotencyKeyReused)
        }
    }

    /// What the rest of the house may read directly.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.core.storage
    }
}

impl Core {
    async fn scrub(&self) -> Result<(), LedgerError> {
        if self.storage.scrub().await? {
            Ok(())
        } else {
            Err(LedgerError::StillRead)
        }
    }

    async fn stream(&self, stream: &StreamKey) -> Result<Arc<Vec<RecordedEvent>>, LedgerError> {
        Ok(self.streams.get(stream.clone()).await?)
    }

    /// The aggregate as this process remembers it. May be stale.
    fn remembered<A: Cached>(&self, stream: &StreamKey) -> Option<(A, Tip)> {
        let (aggregate, tip) = A::recall(self, stream)?;
        Some((
            Arc::try_unwrap(aggregate).unwrap_or_else(|shared| A::clone(&shared)),
            tip,
        ))
    }

    /// The aggregate as it is on record.
    async fn recorded<A: Recordable>(&self, stream: &StreamKey) -> Result<(A, Tip), LedgerError> {
        folded(self.stream(stream).await?.iter())
    }
}

/// Which aggregates are worth remembering.
pub trait Cached: Recordable {
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "implemented in this file only")]
    fn recall(core: &Core, stream: &StreamKey) -> Option<(Arc<Self>, Tip)>;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "implemented in this file only")]
    fn remember(core: &Core, stream: &StreamKey, aggregate: &Arc<Self>, tip: Tip);
}

#[expect(
    private_interfaces,
    reason = "the trait is implemented in this file only"
)]
impl Cached for Notification {
    fn recall(core: &Core, stream: &StreamKey) -> Option<(Arc<Self>, Tip)> {
        let found = core.notifications.take(stream);
        core.metrics.cache_lookup(Cache::Stream, found.is_some());
        found
    }

    fn remember(core: &Core, stream: &StreamKey, aggregate: &Arc<Self>, tip: Tip) {
        let weight = aggregate.weight();
        core.notifications
            .put(stream.clone(), Arc::clone(aggregate), tip, weight);
    }
}

/// Workflows and preferences change seldom: each is read when it does.
#[expect(
    private_interfaces,
    reason = "the trait is implemented in this file only"
)]
impl Cached for Integration {
    fn recall(_: &Core, _: &StreamKey) -> Option<(Arc<Self>, Tip)> {
        None
    }

    fn remember(_: &Core, _: &StreamKey, _: &Arc<Self>, _: Tip) {}
}

impl Until {
    /// Events are recorded in their order: after one that is not included none is.
    pub fn includes(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Now => true,
            Self::Version(version) => event.sequence <= version,
            Self::Position(position) => event.position <= position,
            Self::RecordedAt(time) => event.recorded_at <= time.as_micros(),
        }
    }
}

fn by_stream(
    events: Vec<RecordedEvent>,
) -> Result<HashMap<StreamKey, Arc<Vec<RecordedEvent>>>, StorageError> {
    let mut streams: HashMap<StreamKey, Vec<RecordedEvent>> = HashMap::new();
    for event in events {
        let key = StreamKey {
            partition: event.partition,
            tenant_id: rows::tenant("events", &event.tenant_id)?,
            stream_id: event.stream_id,
        };
        streams.entry(key).or_default().push(event);
    }
    Ok(streams
        .into_iter()
        .map(|(key, events)| (key, Arc::new(events)))
        .collect())
}

fn decoded<A: Recordable>(event: &RecordedEvent) -> Result<A::Event, LedgerError> {
    A::from_recorded(event).map_err(|source| match source {
        // A stream's first event says what kind it is.
        DecodeError::UnknownType(_) if event.sequence == Sequence(1) => LedgerError::OtherKind,
        source => LedgerError::Undecodable {
            position: event.ledger_position(),
            source,
        },
    })
}

fn folded<'a, A: Recordable>(
    events: impl Iterator<Item = &'a RecordedEvent>,
) -> Result<(A, Tip), LedgerError> {
    let mut aggregate = A::default();
    let mut tip = Tip::default();
    for event in events {
        aggregate.apply(decoded::<A>(event)?);
        tip = event.tip();
    }
    Ok((aggregate, tip))
}
