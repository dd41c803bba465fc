//! One group commit: who wins, which positions, which hashes. Pure but for the database's steps.
//!
//! A batch is a list of requests in the order they came. Each wants to append to one stream whose
//! tip it saw; it loses if the stream has moved, if its idempotency key is taken, or if a data key it
//! sealed under turns out to be another, or destroyed. A loser gets its own answer and harms nobody.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::chain::{self, Link};
use super::known::Known;
use super::record::{
    Hash, Head, LockedHead, NewEvent, Partition, Position, Provenance, RecordedEvent, StreamKey,
    Tip,
};
use super::storage::{
    BatchWriter, DataKeyPlace, Found, FoundEvent, IdempotencyPlace, IdempotencyRecord,
    StorageError, StoredDataKey, UsedDataKey,
};
use crate::domain::ids::{Sequence, SubscriberId};
use crate::domain::time::Timestamp;

/// Something to append, decided on what was seen of one stream.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    pub stream: StreamKey,
    /// The stream's end when this was decided.
    pub expected: Tip,
    /// May be empty: then only the idempotency key is kept.
    pub events: Vec<NewEvent>,
    pub provenance: Arc<Provenance>,
    pub idempotency: Option<(IdempotencyPlace, Hash)>,
    /// Data keys that were made for these events, to be stored with them.
    pub data_keys: Vec<StoredDataKey>,
    /// Data keys on record that they are sealed under.
    pub sealed_under: Vec<UsedDataKey>,
    /// Whom the stream names from now on, and not when it began.
    pub late_subscriber: Option<SubscriberId>,
    /// Ids by which later reports may find this stream.
    pub references: Vec<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Durable. The tip is the stream's new end (its old one if there were no events).
    Committed {
        tip: Tip,
        recorded_at: Timestamp,
        /// How many erasures the partition had seen by then, and when it was planned. `None` if it was
        /// stored by an earlier attempt whose answer got lost.
        erasures: Option<(i64, Instant)>,
    },
    /// Somebody else appended first. Load the stream and decide again.
    Conflict,
    /// The idempotency key led to this before.
    KeyTaken(Box<IdempotencyRecord>),
    /// Somebody else made the subject's data key first, or it was destroyed. Forget yours and seal
    /// again.
    DataKeyTaken,
}

/// What a batch needs to know before winners can be chosen.
#[derive(Debug, Default)]
pub struct Questions<'a> {
    /// Which events exist at these places?
    pub sequences: Vec<(&'a StreamKey, Sequence)>,
    pub idempotency: Vec<&'a IdempotencyPlace>,
    pub data_keys: Vec<&'a DataKeyPlace>,
}

/// What a batch writes.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    pub events: Vec<PlannedEvent<'a>>,
    pub idempotency: Vec<IdempotencyRecord>,
    pub data_keys: Vec<&'a StoredDataKey>,
    pub references: Vec<(&'a StreamKey, &'a str)>,
    pub late_subscribers: Vec<(&'a StreamKey, &'a SubscriberId)>,
    pub erasure: Option<PlannedErasure>,
    /// The heads as they will be, in order of partition.
    pub heads: Vec<Head>,
}

/// Data keys that are destroyed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedErasure {
    pub partition: Partition,
    pub keys: Vec<DataKeyPlace>,
    pub at: Timestamp,
}

/// An event with its place and hash.
#[derive(Debug)]
pub struct PlannedEvent<'a> {
    pub stream: &'a StreamKey,
    pub provenance: &'a Provenance,
    pub event: &'a NewEvent,
    pub sequence: Sequence,
    pub position: Position,
    pub recorded_at: Timestamp,
    pub hash: Hash,
}

/// What a batch came to.
#[derive(Debug)]
pub struct Stored {
    /// What became of each request, in order.
    pub outcomes: Vec<AppendOutcome>,
    /// The heads it was stored on, in order of partition. None if nothing was stored.
    pub heads: Vec<Head>,
    /// Where its events are, in the order of requests.
    pub places: Vec<EventPlace>,
}

/// Where an event is in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPlace {
    pub position: Position,
    pub sequence: Sequence,
    pub recorded_at: Timestamp,
    pub hash: Hash,
}

/// Stores all requests at once.
///
/// Whatever `known` answers is not asked of the database. If all heads are known, the batch is
/// planned on them and stored by one statement, which does nothing if they have moved; otherwise,
/// and if that came to nothing, in a transaction that locks them first.
///
/// # Errors
///
/// [`BatchError`] when the database failed: then no request is known to be stored.
pub async fn append(
    writer: &mut dyn BatchWriter,
    known: &mut Known,
    requests: &[AppendRequest],
    now: impl Fn() -> Timestamp,
) -> Result<Stored, BatchError> {
    let mut partitions: Vec<Partition> = requests
        .iter()
        .map(|request| request.stream.partition)
        .collect();
    partitions.sort_unstable();
    partitions.dedup();
    if let Some(heads) = known.heads(&partitions)
        && let Some(stored) = append_ahead(writer, known, requests, heads, now()).await?
    {
        return Ok(stored);
    }
    known.forget();
    let heads = writer.lock_heads(&partitions).await?;
    let before = heads.clone();
    let connected = known.connected();
    let questions = questions(requests, &heads, connected);
    let found = writer.look_up(&questions).await?;
    // Read under the lock, so that a partition's times run with its positions.
    let (outcomes, plan) = choose(requests, heads, &found, HashMap::new(), (connected, now()));
    if plan.is_empty() {
        writer.roll_back().await?;
        return Ok(Stored {
            outcomes,
            heads: Vec::new(),
            places: Vec::new(),
        });
    }
    writer.insert(&plan).await?;
    writer.commit().await.map_err(BatchError::committing)?;
    Ok(learn(known, requests, outcomes, plan, before))
}

/// Plans a batch on what is known and stores it. `None` if it was not stored: somebody else has
/// appended meanwhile, or it stumbled over something that is on record already.
async fn append_ahead(
    writer: &mut dyn BatchWriter,
    known: &mut Known,
    requests: &[AppendRequest],
    heads: Vec<LockedHead>,
    now: Timestamp,
) -> Result<Option<Stored>, BatchError> {
    let tips: HashMap<&StreamKey, Tip> = requests
        .iter()
        .filter_map(|request| Some((&request.stream, known.tip(&request.stream)?)))
        .collect();
    let connected = known.connected();
    let questions = questions_ahead(requests, &heads, &tips, connected);
    let mut found = if questions.is_empty() {
        Found::default()
    } else {
        // If the heads are the same afterwards, this was true all the while.
        writer.look_up(&questions).await?
    };
    let made = requests.iter().flat_map(|request| &request.data_keys);
    let stored = made.filter_map(|key| known.key(&key.place).cloned());
    found.data_keys.extend(stored);
    let before = heads.clone();
    let (outcomes, plan) = choose(requests, heads, &found, tips, (connected, now));
    if plan.is_empty() {
        // Nothing is stored, so nothing would show that the others are right and this is wrong.
        return Ok(None);
    }
    match writer.append(&plan, &before).await {
        Ok(true) => {
            known.was_right();
            Ok(Some(learn(known, requests, outcomes, plan, before)))
        }
        Ok(false) => {
            known.was_wrong();
            Ok(None)
        }
        // A key, or an event at a sequence that was believed to be free.
        Err(StorageError::Rejected(_)) => Ok(None),
        Err(error) => Err(BatchError::committing(error)),
    }
}

/// Remembers where a batch that was stored has left everything.
fn learn(
    known: &mut Known,
    requests: &[AppendRequest],
    outcomes: Vec<AppendOutcome>,
    plan: Plan<'_>,
    before: Vec<LockedHead>,
) -> Stored {
    let erasures: BTreeMap<Partition, i64> = before
        .iter()
        .map(|locked| (locked.head.partition, locked.erasures))
        .collect();
    let heads = plan.heads.into_iter().map(|head| LockedHead {
        erasures: erasures.get(&head.partition).copied().unwrap_or_default(),
        head,
    });
    let tips = requests
        .iter()
        .zip(&outcomes)
        .filter_map(|(request, outcome)| match outcome {
            // Of what was stored by an earlier attempt nobody knows what came after it.
            AppendOutcome::Committed {
                tip,
                erasures: Some(_),
                ..
            } => Some((&request.stream, *tip)),
            _ => None,
        });
    known.learn(heads, tips, plan.data_keys);
    Stored {
        outcomes,
        heads: before.into_iter().map(|locked| locked.head).collect(),
        places: plan.events.iter().map(PlannedEvent::place).collect(),
    }
}

/// A batch the database did not take.
#[derive(Debug)]
pub struct BatchError {
    /// It failed while committing, so it may be stored all the same. Otherwise nothing is.
    pub committing: bool,
    pub source: StorageError,
}

impl BatchError {
    fn committing(source: StorageError) -> Self {
        Self {
            committing: true,
            source,
        }
    }
}

impl From<StorageError> for BatchError {
    fn from(source: StorageError) -> Self {
        Self {
            committing: false,
            source,
        }
    }
}

/// What has to be asked before a batch is planned on known heads. What is new is not asked for: a
/// stream, an idempotency key or a data key that is there already will not let itself be added.
fn questions_ahead<'a>(
    requests: &'a [AppendRequest],
    heads: &[LockedHead],
    tips: &HashMap<&StreamKey, Tip>,
    connected: Instant,
) -> Questions<'a> {
    let mut questions = Questions::default();
    let mut data_keys = HashSet::new();
    for request in requests {
        let seen = request.expected.sequence;
        if seen > Sequence(0) && !tips.contains_key(&request.stream) {
            questions.sequences.push((&request.stream, seen));
            questions.sequences.push((&request.stream, seen.next()));
        }
        let uncertain = uncertain_keys(request, heads, connected);
        let uncertain = uncertain.filter(|place| data_keys.insert(*place));
        questions.data_keys.extend(uncertain);
    }
    questions
}

/// What has to be asked once the heads are locked.
fn questions<'a>(
    requests: &'a [AppendRequest],
    heads: &[LockedHead],
    connected: Instant,
) -> Questions<'a> {
    let mut questions = Questions::default();
    let mut keys = HashSet::new();
    let mut data_keys = HashSet::new();
    for request in requests {
        let seen = request.expected.sequence;
        if seen > Sequence(0) {
            questions.sequences.push((&request.stream, seen));
        }
        questions.sequences.push((&request.stream, seen.next()));
        let used = request.idempotency.iter().map(|(place, _)| place);
        questions
            .idempotency
            .extend(used.filter(|place| keys.insert(*place)));
        let made = request.data_keys.iter().map(|key| &key.place);
        let wanted = made.chain(uncertain_keys(request, heads, connected));
        questions
            .data_keys
            .extend(wanted.filter(|place| data_keys.insert(*place)));
    }
    questions
}

/// Keys that may have been destroyed since they were read, or were read of another database.
fn uncertain_keys<'a>(
    request: &'a AppendRequest,
    heads: &[LockedHead],
    connected: Instant,
) -> impl Iterator<Item = &'a DataKeyPlace> {
    let erasures = heads
        .iter()
        .find(|locked| locked.head.partition == request.stream.partition)
        .map(|locked| locked.erasures);
    let used = request.sealed_under.iter();
    used.filter(move |used| Some(used.as_of) != erasures || used.since < connected)
        .map(|used| &used.place)
}

/// Everything that is known while winners are chosen.
struct Ledgerbook<'a> {
    heads: BTreeMap<Partition, Head>,
    erasures: BTreeMap<Partition, i64>,
    /// Streams whose ends are known, or that this batch has appended to.
    tips: HashMap<&'a StreamKey, Tip>,
    stored: HashMap<(&'a StreamKey, Sequence), &'a FoundEvent>,
    taken: HashMap<&'a IdempotencyPlace, IdempotencyRecord>,
    data_keys: HashMap<&'a DataKeyPlace, Option<&'a str>>,
    connected: Instant,
    planned: Instant,
    now: Timestamp,
}

pub(super) fn choose<'a>(
    requests: &'a [AppendRequest],
    heads: Vec<LockedHead>,
    found: &'a Found,
    tips: HashMap<&'a StreamKey, Tip>,
    (connected, now): (Instant, Timestamp),
) -> (Vec<AppendOutcome>, Plan<'a>) {
    let mut book = Ledgerbook {
        erasures: heads
            .iter()
            .map(|locked| (locked.head.partition, locked.erasures))
            .collect(),
        heads: heads
            .into_iter()
            .map(|locked| (locked.head.partition, locked.head))
            .collect(),
        tips,
        stored: found
            .events
            .iter()
            .map(|found| ((&found.stream, found.sequence), found))
            .collect(),
        taken: found
            .idempotent
            .iter()
            .map(|record| (&record.place, record.clone()))
            .collect(),
        data_keys: found
            .data_keys
            .iter()
            .map(|key| (&key.place, key.wrapped_key.as_deref()))
            .collect(),
        connected,
        planned: Instant::now(),
        now,
    };
    let mut plan = Plan::default();
    let outcomes = requests
        .iter()
        .map(|request| match book.objection(request) {
            Some(outcome) => outcome,
            None => book.enter(request, &mut plan),
        })
        .collect();
    if !plan.is_empty() {
        plan.heads = book.heads.into_values().collect();
    }
    (outcomes, plan)
}

impl<'a> Ledgerbook<'a> {
    /// Why a request can't be entered.
    fn objection(&self, request: &'a AppendRequest) -> Option<AppendOutcome> {
        if let Some((place, _)) = &request.idempotency
            && let Some(record) = self.taken.get(place)
        {
            return Some(AppendOutcome::KeyTaken(Box::new(record.clone())));
        }
        if let Some(stored) = self.stored_before(request) {
            return Some(stored);
        }
        if !self.heads.contains_key(&request.stream.partition) || !self.at_tip(request) {
            return Some(AppendOutcome::Conflict);
        }
        let other_key = request.data_keys.iter().any(|key| {
            self.data_keys
                .get(&key.place)
                .is_some_and(|stored| *stored != key.wrapped_key.as_deref())
        });
        let is_destroyed = request
            .sealed_under
            .iter()
            .any(|used| !self.is_living(request.stream.partition, used));
        (other_key || is_destroyed).then_some(AppendOutcome::DataKeyTaken)
    }

    /// Nobody was erased since the key was known to be there; or it was not about this key.
    fn is_living(&self, partition: Partition, used: &UsedDataKey) -> bool {
        (self.erasures.get(&partition) == Some(&used.as_of) && used.since >= self.connected)
            || self.data_keys.get(&used.place).is_some_and(Option::is_some)
    }

    /// This very request was stored by an attempt whose answer got lost. Its events were put into
    /// the log one after the other.
    fn stored_before(&self, request: &'a AppendRequest) -> Option<AppendOutcome> {
        let (first, last) = (request.events.first()?, request.events.last()?);
        let seen = request.expected.sequence;
        let found = self.stored.get(&(&request.stream, seen.next()))?;
        let count = i64::try_from(request.events.len()).ok()?;
        (found.event_id == first.event_id).then_some(AppendOutcome::Committed {
            tip: Tip {
                sequence: Sequence(seen.0 + count),
                position: Position(found.position.0 + count - 1),
                event_id: Some(last.event_id),
            },
            recorded_at: found.recorded_at,
            erasures: None,
        })
    }

    /// The stream ends exactly where the request saw it end.
    fn at_tip(&self, request: &'a AppendRequest) -> bool {
        let expected = &request.expected;
        if let Some(tip) = self.tips.get(&request.stream) {
            return tip.event_id == expected.event_id;
        }
        let stored = |sequence| {
            let found = self.stored.get(&(&request.stream, sequence));
            found.map(|found| found.event_id)
        };
        let seen_is_there = match expected.event_id {
            Some(event_id) => stored(expected.sequence) == Some(event_id),
            None => expected.sequence == Sequence(0),
        };
        seen_is_there && stored(expected.sequence.next()).is_none()
    }

    fn enter(&mut self, request: &'a AppendRequest, plan: &mut Plan<'a>) -> AppendOutcome {
        let mut tip = request.expected;
        let mut recorded_at = self.now;
        if let Some(head) = self.heads.get_mut(&request.stream.partition) {
            // Another machine's clock may be ahead: the record's times never run backwards.
            recorded_at = self.now.max(head.recorded_at);
            for event in &request.events {
                let planned =
                    PlannedEvent::after(head, tip.sequence.next(), request, event, recorded_at);
                head.position = planned.position;
                head.hash = planned.hash;
                head.recorded_at = recorded_at;
                tip = Tip {
                    sequence: planned.sequence,
                    position: planned.position,
                    event_id: Some(event.event_id),
                };
                plan.events.push(planned);
            }
        }
        self.tips.insert(&request.stream, tip);
        for key in &request.data_keys {
            if self
                .data_keys
                .insert(&key.place, key.wrapped_key.as_deref())
                .is_none()
            {
                plan.data_keys.push(key);
            }
        }
        plan.references.extend(
            request
                .references
                .iter()
                .map(|id| (&request.stream, id.as_str())),
        );
        let late = request.late_subscriber.iter();
        plan.late_subscribers
            .extend(late.map(|named| (&request.stream, named)));
        if let Some((place, fingerprint)) = &request.idempotency {
            let record = IdempotencyRecord {
                place: place.clone(),
                fingerprint: *fingerprint,
                command: Some((
                    request.stream.stream_id,
                    tip.sequence,
                    i32::try_from(request.events.len()).unwrap_or(i32::MAX),
                )),
                answer: None,
                recorded_at,
            };
            self.taken.insert(place, record.clone());
            plan.idempotency.push(record);
        }
        let erasures = self.erasures.get(&request.stream.partition);
        AppendOutcome::Committed {
            tip,
            recorded_at,
            erasures: Some((erasures.copied().unwrap_or_default(), self.planned)),
        }
    }
}

impl<'a> PlannedEvent<'a> {
    fn after(
        head: &Head,
        sequence: Sequence,
        request: &'a AppendRequest,
        event: &'a NewEvent,
        recorded_at: Timestamp,
    ) -> Self {
        let position = Position(head.position.0 + 1);
        let link = Link {
            partition: head.partition.0,
            position: position.0,
            tenant_id: request.stream.tenant_id.as_str(),
            stream_id: request.stream.stream_id.0,
            sequence: sequence.0,
            event_id: event.event_id.0,
            event_type: event.event_type,
            schema_version: event.schema_version,
            occurred_at: event.occurred_at.as_micros(),
            recorded_at: recorded_at.as_micros(),
            actor_kind: "",
            actor_id: "",
            source: "",
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            subscriber_id: event.subscriber_id.as_ref().map(SubscriberId::as_str),
            data: &event.data,
        }
        .with_provenance(&request.provenance);
        Self {
            stream: &request.stream,
            provenance: &request.provenance,
            event,
            sequence,
            position,
            recorded_at,
            hash: chain::next(&head.hash, &link),
        }
    }
}

impl PlannedEvent<'_> {
    fn place(&self) -> EventPlace {
        EventPlace {
            position: self.position,
            sequence: self.sequence,
            recorded_at: self.recorded_at,
            hash: self.hash,
        }
    }

    /// As it will stand in the record.
    pub fn recorded(&self) -> RecordedEvent {
        let owned = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string);
        RecordedEvent {
            partition: self.stream.partition,
            position: self.position,
            tenant_id: self.stream.tenant_id.to_string(),
            stream_id: self.stream.stream_id,
            sequence: self.sequence,
            event_id: self.event.event_id,
            event_type: self.event.event_type.to_owned(),
            schema_version: self.event.schema_version,
            occurred_at: self.event.occurred_at.as_micros(),
            recorded_at: self.recorded_at.as_micros(),
            actor_kind: self.provenance.actor.kind.as_str().to_owned(),
            actor_id: self.provenance.actor.id.to_string(),
            source: self.provenance.source.as_str().to_owned(),
            correlation_id: owned(&self.provenance.correlation_id),
            causation_id: owned(&self.provenance.causation_id),
            traceparent: owned(&self.provenance.traceparent),
            subscriber_id: self.event.subscriber_id.as_ref().map(ToString::to_string),
            data: self.event.data.clone(),
            hash: self.hash.to_vec(),
        }
    }
}

impl Questions<'_> {
    fn is_empty(&self) -> bool {
        self.sequences.is_empty() && self.idempotency.is_empty() && self.data_keys.is_empty()
    }
}

impl Plan<'_> {
    /// Nothing would be stored.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.idempotency.is_empty()
            && self.data_keys.is_empty()
            && self.references.is_empty()
            && self.late_subscribers.is_empty()
            && self.erasure.is_none()
    }
}
