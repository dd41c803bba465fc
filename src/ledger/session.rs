//! One command on its way through the framework: the ledger as a `cqrs_es::EventStore`.
//!
//! A session is made for one attempt at one command. It carries what the framework has no place
//! for (tenant, provenance, idempotency key, the version the caller saw) and notes what became of
//! the command. It is also the aggregate's [`Sealer`], because a data key made for an event must
//! be stored with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cqrs_es::{AggregateContext, AggregateError, EventEnvelope, EventStore};

use super::batch::{AppendOutcome, AppendRequest};
use super::record::{StreamKey, Tip};
use super::recordable::Recordable;
use super::sealing::SealedUnder;
use super::storage::{IdempotencyRecord, StoredDataKey, UsedDataKey};
use super::{Cached, Core, LedgerError, Order};
use crate::domain::event::Sealed;
use crate::domain::ids::{EventId, StreamId, SubscriberId};
use crate::domain::sealing::{Sealer, SealingError, Subject};

/// The ledger, as one command sees it.
#[derive(Debug)]
pub(super) struct Session<'a, A> {
    core: &'a Core,
    order: &'a Order,
    /// The stream is taken not to be there. If it is all the same, the command is decided again.
    is_new: bool,
    sealing: Arc<SessionSealer>,
    notes: &'a Notes<A>,
}

/// What a session notes. The framework consumes the session and gives back nothing but errors.
#[derive(Debug)]
pub(super) struct Notes<A> {
    outcome: Mutex<Option<Outcome<A>>>,
    /// The aggregate was not read for this attempt, so it may be behind the record.
    remembered: AtomicBool,
}

/// What a session's command came to.
#[derive(Debug)]
pub(super) enum Outcome<A> {
    /// On record; with no events appended, everything asked for already was.
    Recorded {
        aggregate: A,
        tip: Tip,
        appended: usize,
    },
    /// The idempotency key was used before, and led to this.
    KeyTaken(Box<IdempotencyRecord>),
}

/// Seals for one stream, and remembers the keys it had to make and those it found.
#[derive(Debug)]
pub(super) struct SessionSealer {
    core: Arc<Core>,
    stream: StreamKey,
    made: Mutex<Vec<StoredDataKey>>,
    used: Mutex<Vec<UsedDataKey>>,
}

/// An aggregate on its way from load to commit.
#[derive(Debug)]
pub(super) struct LoadedAggregate<A> {
    aggregate: A,
    tip: Tip,
    /// Whom it named before the command.
    subscriber_id: Option<SubscriberId>,
}

impl<A> AggregateContext<A> for LoadedAggregate<A>
where
    A: Recordable,
{
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

impl<A> Default for Notes<A> {
    fn default() -> Self {
        Self {
            outcome: Mutex::default(),
            remembered: AtomicBool::default(),
        }
    }
}

impl<A> Notes<A> {
    /// What became of the command, if it came so far.
    pub(super) fn into_outcome(self) -> Option<Outcome<A>> {
        self.outcome
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the command was decided on what this process remembered.
    pub(super) fn is_remembered(&self) -> bool {
        self.remembered.load(Ordering::Relaxed)
    }
}

impl<'a, A: Cached> Session<'a, A> {
    pub(super) fn new(
        core: &'a Arc<Core>,
        order: &'a Order,
        stream: StreamKey,
        is_new: bool,
        notes: &'a Notes<A>,
    ) -> Self {
        Self {
            core,
            order,
            is_new,
            sealing: Arc::new(SessionSealer {
                core: Arc::clone(core),
                stream,
                made: Mutex::default(),
                used: Mutex::default(),
            }),
            notes,
        }
    }

    /// The aggregate's service.
    pub(super) fn sealer(&self) -> Arc<dyn Sealer> {
        Arc::clone(&self.sealing) as Arc<dyn Sealer>
    }

    fn stream(&self) -> &StreamKey {
        &self.sealing.stream
    }

    fn check_id(&self, aggregate_id: &str) -> Result<(), LedgerError> {
        let id: Option<StreamId> = aggregate_id.parse().ok();
        if id == Some(self.stream().stream_id) {
            Ok(())
        } else {
            Err(LedgerError::OtherStream)
        }
    }

    fn note(&self, outcome: Outcome<A>) {
        let mut noted = self
            .notes
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *noted = Some(outcome);
    }

    fn made_keys(&self) -> Vec<StoredDataKey> {
        let mut made = self
            .sealing
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *made)
    }

    fn used_keys(&self) -> Vec<UsedDataKey> {
        let mut used = self
            .sealing
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *used)
    }
}

fn failed<E: std::error::Error>(error: LedgerError) -> AggregateError<E> {
    AggregateError::UnexpectedError(Box::new(error))
}

impl<A: Cached> EventStore<A> for Session<'_, A> {
    type AC = LoadedAggregate<A>;

    async fn load_events(
        &self,
        aggregate_id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        self.check_id(aggregate_id).map_err(failed)?;
        let recorded = self.core.stream(self.stream()).await.map_err(failed)?;
        let mut envelopes = Vec::with_capacity(recorded.len());
        for event in recorded.iter() {
            envelopes.push(EventEnvelope {
                aggregate_id: aggregate_id.to_owned(),
                sequence: usize::try_from(event.sequence.0).unwrap_or_default(),
                payload: super::decoded::<A>(event).map_err(failed)?,
                metadata: HashMap::new(),
            });
        }
        Ok(envelopes)
    }

    async fn load_aggregate(
        &self,
        aggregate_id: &str,
    ) -> Result<Self::AC, AggregateError<A::Error>> {
        self.check_id(aggregate_id).map_err(failed)?;
        let remembered = if self.is_new {
            Some((A::default(), Tip::default()))
        } else {
            self.core.remembered::<A>(self.stream())
        };
        self.notes
            .remembered
            .store(remembered.is_some(), Ordering::Relaxed);
        let (aggregate, tip) = match remembered {
            Some(remembered) => remembered,
            None => self
                .core
                .recorded::<A>(self.stream())
                .await
                .map_err(failed)?,
        };
        match self.order.expected_version {
            // The caller may know of an append by another process that this one does not.
            Some(expected) if expected != tip.sequence && self.notes.is_remembered() => {
                return Err(AggregateError::AggregateConflict);
            }
            Some(expected) if expected != tip.sequence => {
                return Err(failed(LedgerError::VersionMismatch {
                    expected,
                    current: tip.sequence,
                }));
            }
            _ => {}
        }
        Ok(LoadedAggregate {
            subscriber_id: aggregate.subscriber_id().cloned(),
            aggregate,
            tip,
        })
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: Self::AC,
        _metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let LoadedAggregate {
            aggregate,
            tip,
            subscriber_id,
        } = context;
        if events.is_empty() && self.order.idempotency.is_none() {
            if self.notes.is_remembered() {
                // It was durable once. A database that took over meanwhile may have lost it: the
                // next attempt is decided on the record.
                return Err(AggregateError::AggregateConflict);
            }
            // The aggregate was folded from committed events only, so what it says is durable.
            self.note(Outcome::Recorded {
                aggregate,
                tip,
                appended: 0,
            });
            return Ok(Vec::new());
        }
        let has_begun = tip.event_id.is_some() && !events.is_empty();
        let late = aggregate
            .subscriber_id()
            .filter(|named| has_begun && subscriber_id.as_ref() != Some(named));
        let request = AppendRequest {
            stream: self.stream().clone(),
            expected: tip,
            events: events.iter().map(|event| aggregate.to_new(event)).collect(),
            provenance: Arc::clone(&self.order.provenance),
            idempotency: self.order.idempotency_place(),
            data_keys: self.made_keys(),
            sealed_under: self.used_keys(),
            late_subscriber: late.cloned(),
            references: events
                .iter()
                .flat_map(|event| aggregate.references(event))
                .collect(),
        };
        let data_keys = request.data_keys.clone();
        let used_keys = request.sealed_under.clone();
        match self.core.lanes.append(request).await.map_err(failed)? {
            AppendOutcome::Committed {
                tip: new_tip,
                erasures,
                ..
            } => {
                if let Some((erasures, planned)) = erasures {
                    self.core.keyring.stored(&data_keys, erasures, planned);
                    self.core.keyring.living(&used_keys, erasures, planned);
                }
                self.note(Outcome::Recorded {
                    aggregate,
                    tip: new_tip,
                    appended: events.len(),
                });
                // The framework would show them to its queries, and it has none.
                Ok(Vec::new())
            }
            AppendOutcome::KeyTaken(record) => {
                self.note(Outcome::KeyTaken(record));
                Ok(Vec::new())
            }
            AppendOutcome::Conflict => Err(AggregateError::AggregateConflict),
            AppendOutcome::DataKeyTaken => {
                let made = data_keys.iter().map(|key| &key.place);
                let used = used_keys.iter().map(|used| &used.place);
                self.core.keyring.forget(made.chain(used));
                Err(AggregateError::AggregateConflict)
            }
        }
    }
}

#[async_trait]
impl Sealer for SessionSealer {
    async fn seal(
        &self,
        subject: &Subject,
        event_id: EventId,
        text: &str,
    ) -> Result<Sealed, SealingError> {
        let sealed = self
            .core
            .keyring
            .seal(&self.stream, subject, event_id, text);
        let (sealed, under) = sealed
            .await
            .map_err(|error| SealingError(Box::new(error)))?;
        match under {
            SealedUnder::Made(key) => {
                let mut keys = self.made.lock().unwrap_or_else(PoisonError::into_inner);
                keys.push(key);
            }
            SealedUnder::Stored(used) => {
                let mut keys = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                if !keys.contains(&used) {
                    keys.push(used);
                }
            }
        }
        Ok(sealed)
    }
}
