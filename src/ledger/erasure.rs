//! Erasing a subscriber: their data keys are destroyed, and an event says so.
//!
//! Everything that decides happens in one transaction under the partition's lock: nobody appends
//! meanwhile, so what is counted is exactly what was recorded before, and everything sealed before
//! can't be opened afterwards. An append that was sealed earlier and comes later finds that
//! somebody was erased since, looks whether it was about its keys, and if so is sealed anew.
//!
//! May be repeated at any time. Whoever repeats it while nothing was sealed since gets the first
//! answer again; what a killed process left undone after its commit is done then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Instrument;

use super::batch::{self, AppendOutcome, AppendRequest, PlannedErasure, Questions};
use super::record::{LedgerPosition, LockedHead, Position, StreamKey, Tip};
use super::recordable::Recordable;
use super::sealing::{GENERATIONS_MAX, place};
use super::storage::{BatchWriter, DataKeyPlace, Found, StorageError};
use super::{ATTEMPTS_MAX, Core, Ledger, LedgerError, Order, folded};
use crate::domain::ids::{EventId, SubscriberId};
use crate::domain::sealing::Subject;
use crate::domain::subscriber::{Erase, FoundOfSubscriber, Subscriber, SubscriberErased};
use crate::domain::time::Timestamp;
use crate::telemetry::AppendOutcome as Counted;

/// A transaction that takes longer has lost its database.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Who is to be erased.
#[derive(Clone, Debug)]
pub struct Erasure {
    pub subscriber_id: SubscriberId,
    /// Under which somebody asked for it.
    pub request_id: Option<String>,
    /// Somebody else knows of them, even if nothing on record does.
    pub is_known: bool,
}

/// A subscriber who was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    pub erased_at: Timestamp,
    /// How many notifications named them by then.
    pub notifications: u64,
    /// Of the event that says so.
    pub position: LedgerPosition,
    /// It was done before, and nothing was sealed since.
    pub is_repeat: bool,
}

impl Ledger {
    /// Erases a subscriber. Once it returns, nothing that was sealed for them before can be opened
    /// any more by this process, nor by others once their keys' time is over, and it is gone from
    /// the database's files. Goes on to its end even if its caller doesn't wait.
    ///
    /// `None` for somebody of whom nothing is known: then nothing was changed.
    ///
    /// # Errors
    ///
    /// [`LedgerError::StillRead`] when it is done, but not in the database's files;
    /// [`LedgerError::Storage`] when the database failed. Then it may be done all the same. A repeat
    /// finishes it, and says when it was.
    pub async fn erase(
        &self,
        order: &Order,
        erasure: Erasure,
    ) -> Result<Option<Erased>, LedgerError> {
        let core = Arc::clone(&self.core);
        let order = order.clone();
        let (reply, answer) = oneshot::channel();
        let erasing = async move {
            let erased = erase(&core, &order, &erasure).await;
            // A caller who left loses the answer, not the erasure.
            let _ = reply.send(erased);
        };
        let span = tracing::Span::current();
        self.core.tasks.spawn(erasing.instrument(span));
        answer.await.unwrap_or(Err(LedgerError::Stopped))
    }
}

async fn erase(
    core: &Core,
    order: &Order,
    erasure: &Erasure,
) -> Result<Option<Erased>, LedgerError> {
    let tenant = &order.tenant;
    let stream_id = core
        .keyring
        .subscriber_stream(&tenant.tenant_id, &erasure.subscriber_id);
    let stream = tenant.stream(stream_id);
    let _turn = core.locks.lock(&stream).await;
    for _ in 0..ATTEMPTS_MAX {
        let attempt = attempt(core, order, erasure, &stream);
        let outcome = tokio::time::timeout(TRANSACTION_TIMEOUT, attempt)
            .await
            .unwrap_or_else(|elapsed| Err(StorageError::Unavailable(Box::new(elapsed)).into()))?;
        let erased = match outcome {
            Outcome::Unknown => return Ok(None),
            // Another process erases the same subscriber.
            Outcome::Conflict => continue,
            Outcome::Erased(erased) => erased,
        };
        // Also of a repeat: the process that committed it may not have come this far.
        core.scrub().await?;
        return Ok(Some(erased));
    }
    Err(LedgerError::Contended)
}

enum Outcome {
    Unknown,
    Conflict,
    Erased(Erased),
}

async fn attempt(
    core: &Core,
    order: &Order,
    erasure: &Erasure,
    stream: &StreamKey,
) -> Result<Outcome, LedgerError> {
    let recorded = core.stream(stream).await?;
    let (mut subscriber, tip) = folded::<Subscriber>(recorded.iter())?;
    let mut writer = core.storage.writer().await?;
    let heads = writer.lock_heads(&[stream.partition]).await?;
    let questions = Questions {
        sequences: vec![(stream, tip.sequence), (stream, tip.sequence.next())],
        ..Questions::default()
    };
    let found = writer.look_up(&questions).await?;
    // Also for a repeat: its answer is that of the last erasure.
    let Some(now) = now(core, &heads).filter(|_| is_at_tip(&found, tip)) else {
        writer.roll_back().await?;
        return Ok(Outcome::Conflict);
    };
    let streams = writer
        .streams_of(&order.tenant, &erasure.subscriber_id)
        .await?;
    let late = streams.late.iter().map(|id| order.tenant.stream(*id));
    let mut owners: Vec<_> = late.map(|stream| (stream, Subject::Stream)).collect();
    owners.push((
        stream.clone(),
        Subject::Subscriber(erasure.subscriber_id.clone()),
    ));
    let keys = keys(writer.as_mut(), owners).await?;
    let decided = subscriber.decide(Erase {
        event_id: EventId(core.surroundings.ids.time_ordered()),
        at: now,
        subscriber_id: erasure.subscriber_id.clone(),
        request_id: erasure.request_id.clone(),
        found: FoundOfSubscriber {
            notifications: streams.count,
            is_readable: !keys.living.is_empty(),
            is_known: erasure.is_known || !keys.destroyed.is_empty(),
        },
    });
    let Some(event) = decided else {
        writer.roll_back().await?;
        core.keyring.destroyed(&keys.destroyed);
        let last = subscriber.last().map(|last| {
            core.metrics.append_outcome(Counted::Deduplicated, 1);
            Outcome::Erased(erased(stream, tip, last, true))
        });
        return Ok(last.unwrap_or(Outcome::Unknown));
    };
    cqrs_es::Aggregate::apply(&mut subscriber, event.clone());
    let requests = [AppendRequest {
        stream: stream.clone(),
        expected: tip,
        events: vec![subscriber.to_new(&event)],
        provenance: Arc::clone(&order.provenance),
        idempotency: None,
        data_keys: Vec::new(),
        sealed_under: Vec::new(),
        late_subscriber: None,
        references: Vec::new(),
    }];
    let (outcomes, mut plan) = batch::choose(
        &requests,
        heads,
        &found,
        HashMap::new(),
        (Instant::now(), now),
    );
    let Some(AppendOutcome::Committed { tip, .. }) = outcomes.first() else {
        writer.roll_back().await?;
        return Ok(Outcome::Conflict);
    };
    let tip = *tip;
    plan.erasure = Some(PlannedErasure {
        partition: stream.partition,
        keys: keys.living,
        at: now,
    });
    writer.insert(&plan).await?;
    let committed = writer.commit().await;
    let keys = plan.erasure.map(|erasure| erasure.keys).unwrap_or_default();
    if committed.is_err() {
        // Even if nobody heard of the commit, it may be durable. Who asks again will know.
        core.keyring.forget(&keys);
    }
    committed?;
    core.keyring.destroyed(&keys);
    // Without the id, which may say more about somebody than a log should.
    tracing::info!(
        tenant.id = %stream.tenant_id,
        notifications = event.notifications,
        keys = keys.len(),
        "a subscriber was erased"
    );
    core.metrics.append_outcome(Counted::Committed, 1);
    core.appended.advance(stream.partition, tip.position);
    core.announcer.tell(stream.partition, tip.position);
    Ok(Outcome::Erased(erased(stream, tip, &event, false)))
}

/// The stream, of which alone was asked, ends where it was seen to end.
fn is_at_tip(found: &Found, tip: Tip) -> bool {
    let at = |sequence| {
        let mut events = found.events.iter();
        let event = events.find(|found| found.sequence == sequence);
        event.map(|found| found.event_id)
    };
    at(tip.sequence) == tip.event_id && at(tip.sequence.next()).is_none()
}

fn erased(stream: &StreamKey, tip: Tip, event: &SubscriberErased, is_repeat: bool) -> Erased {
    Erased {
        erased_at: event.erased_at,
        notifications: event.notifications,
        position: LedgerPosition {
            partition: stream.partition,
            position: tip.position,
        },
        is_repeat,
    }
}

/// The time it happens: not before anything that goes with it. `None` without the partition's head.
fn now(core: &Core, heads: &[LockedHead]) -> Option<Timestamp> {
    let locked = heads.first()?;
    let is_empty = locked.head.position == Position(0);
    let now = core.surroundings.now();
    Some(if is_empty {
        now
    } else {
        now.max(locked.head.recorded_at)
    })
}

/// A subscriber's keys.
#[derive(Default)]
struct Keys {
    living: Vec<DataKeyPlace>,
    /// By an erasure before, perhaps through another process.
    destroyed: Vec<DataKeyPlace>,
}

/// The keys of all generations of some owners.
async fn keys(
    writer: &mut dyn BatchWriter,
    mut owners: Vec<(StreamKey, Subject)>,
) -> Result<Keys, StorageError> {
    let mut keys = Keys::default();
    for generation in 0..GENERATIONS_MAX {
        let places: Vec<DataKeyPlace> = owners
            .iter()
            .map(|(stream, subject)| place(stream, subject, generation))
            .collect();
        let questions = Questions {
            data_keys: places.iter().collect(),
            ..Questions::default()
        };
        let found = writer.look_up(&questions).await?.data_keys;
        if found.is_empty() {
            break;
        }
        let known: std::collections::HashSet<&DataKeyPlace> =
            found.iter().map(|key| &key.place).collect();
        // Only who had this generation can have the next.
        owners = owners
            .into_iter()
            .zip(&places)
            .filter(|(_, place)| known.contains(place))
            .map(|(owner, _)| owner)
            .collect();
        for key in found {
            let place = key.place;
            match key.wrapped_key {
                Some(_) => keys.living.push(place),
                None => keys.destroyed.push(place),
            }
        }
    }
    Ok(keys)
}
