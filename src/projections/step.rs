//! One step of the projections in one partition: the next events in, rows and checkpoints out, those
//! of one projection in one transaction. So every event is in the tables exactly once, however often
//! a step is begun.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::changes::Changes;
use super::projection::Projection;
use super::recent::{Known, Recent, StreamPlace};
use super::store::{Checkpoint, Haste, Place, Store, Transaction, Turn, Turns};
use super::stream::{Folded, Pair, Stream, Unreadable};
use crate::domain::ids::{StreamId, TenantId};
use crate::domain::precedence::PrecedenceRule;
use crate::ledger::record::{
    Hash, LogEvent, Partition, PlainEvent, Position, RecordedEvent, StreamEvent, StreamKey,
};
use crate::ledger::storage::{LOG_BYTES_MAX, Storage, StorageError};
use crate::ledger::tail::Tail;
use crate::telemetry::ErrorChain;

/// Most events in one step: enough to spread the cost of a transaction, few enough to stay quick. More
/// than come in between two steps, or nobody would rest who is abreast.
pub const STEP_EVENTS_MAX: i64 = 2000;
/// With as many in a step, a projection hurries.
const ABREAST_EVENTS_MAX: usize = 750;
/// Most bytes of data that are read of what streams had before: at 1 KiB an event, several events
/// for each stream of a step. One stream is read whole, however large it is.
const STREAMS_BYTES_MAX: i64 = 16 * 1024 * 1024;
/// Larger events may have filled a read of the log alone.
const ONE_EVENT_BYTES_MAX: usize = 1024 * 1024;
#[expect(clippy::cast_possible_wrap, reason = "it is small")]
const _: () = assert!((ONE_EVENT_BYTES_MAX as i64) < LOG_BYTES_MAX);
/// Streams folded before others on this thread get their turn.
const STREAMS_AT_ONCE: usize = 50;

/// Reads the record and writes the tables.
#[derive(Clone, Debug)]
pub struct Stepper {
    pub storage: Arc<dyn Storage>,
    /// What need not be read from there.
    pub tail: Tail,
    pub store: Store,
}

/// How far a step brought a projection.
#[derive(Debug)]
pub struct Step {
    pub projection: Projection,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    /// Its tables have everything up to here; `events` of it are new.
    Moved { to: Checkpoint, events: usize },
    /// There was nothing to do.
    UpToDate { at: Checkpoint },
    /// It can't go on by itself. Nothing of it was written.
    Stopped { at: Checkpoint, why: Trouble },
    /// Its tables are of another version: of an older or newer release.
    OtherVersion { at: Checkpoint },
}

/// What stops a projection.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Not what one event says, but what stands where: no projection can go on.
    #[error("the record is damaged")]
    Damaged(#[source] Arc<StorageError>),
    #[error("the database refuses its rows")]
    Refused(#[source] StorageError),
    /// The ledger is not the one the tables were made from.
    #[error(
        "at position {position} the ledger is not the one that was read: it was restored from a \
         backup or altered. Check it with `notification-ledger verify`, then rebuild the projection"
    )]
    Fork { position: Position },
}

impl Trouble {
    /// One word for it, as metrics have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable_event",
            Self::Damaged(_) => "damaged_record",
            Self::Refused(_) => "refused_rows",
            Self::Fork { .. } => "other_ledger",
        }
    }
}

/// How many connections a step writes through. Each has a transaction of its own, and projections that are
/// its own: what one brings on stands, even if another fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hands {
    /// As cheap as can be.
    One,
    /// Faster, for who is behind. As one, if only one can write to the database at a time.
    Three,
}

/// How far behind the others a hand may be for them to wait for it: a few steps.
const HINDMOST_EVENTS_MAX: i64 = 5 * STEP_EVENTS_MAX;
/// Who has most to write is alone.
const SHARES: [&[Projection]; 3] = [
    &[Projection::Notifications],
    &[Projection::NotificationLogs],
    &[Projection::Timeline, Projection::Metrics],
];

impl Hands {
    fn shares(self) -> &'static [&'static [Projection]] {
        match self {
            Self::One => &[&Projection::ALL],
            Self::Three => &SHARES,
        }
    }
}

/// What is to be done in a step.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub projection: Projection,
    pub events_max: i64,
}

/// Some streams of one partition, as they were before some events and after them.
#[derive(Debug)]
pub struct Batch {
    partition: Partition,
    streams: Vec<Loaded>,
    /// Position and hash of its last event.
    pub end: Position,
    pub end_hash: Vec<u8>,
    pub events: usize,
}

#[derive(Debug)]
struct Loaded {
    tenant_id: String,
    stream_id: StreamId,
    /// Up to the batch's end.
    events: Vec<PlainEvent>,
    /// How many of them were there before.
    before: usize,
    /// What those come to, if it is known.
    folded: Option<Arc<Folded>>,
}

/// What a read of the log found.
enum Read {
    Batch(Batch),
    Nothing,
    Fork,
    Damaged(Arc<StorageError>),
}

impl Stepper {
    /// Takes one step in a partition for those projections that are wanted. Projections at the same
    /// place share one read of the log. `None` if somebody else is at it.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed: nothing was done.
    pub async fn step(
        &self,
        partition: Partition,
        wanted: &[Wanted],
    ) -> Result<Option<Vec<Step>>, StorageError> {
        self.next_step(partition, wanted, Hands::One, &mut Recent::default())
            .await
    }

    /// The same for whoever takes one step after the other in this partition.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed: nothing was done. If it failed for some hands only, what
    /// the others did is told, and theirs has no outcome.
    pub async fn next_step(
        &self,
        partition: Partition,
        wanted: &[Wanted],
        hands: Hands,
        recent: &mut Recent,
    ) -> Result<Option<Vec<Step>>, StorageError> {
        let hands = if self.store.has_one_writer() {
            Hands::One
        } else {
            hands
        };
        let Some(Turns { each: turns, place }) =
            self.store.turns(partition, hands.shares()).await?
        else {
            return Ok(None);
        };
        let mut steps = Vec::with_capacity(wanted.len());
        // By place and size, so that who stands together reads together.
        let mut groups = Groups::new();
        for checkpoint in turns.iter().flat_map(|turn| &turn.checkpoints) {
            let projection = checkpoint.projection;
            let Some(wanted) = wanted.iter().find(|wanted| wanted.projection == projection) else {
                continue;
            };
            if checkpoint.version != projection.version() {
                let at = checkpoint.clone();
                steps.push(Step {
                    projection,
                    outcome: Outcome::OtherVersion { at },
                });
                continue;
            }
            groups
                .entry((
                    checkpoint.position,
                    checkpoint.hash.clone(),
                    wanted.events_max,
                ))
                .or_default()
                .push(checkpoint.clone());
        }
        if hands == Hands::Three {
            wait_for_the_hindmost(&mut groups);
        }
        // What is kept was read by all, so nobody stumbled over it; and none has to catch up on it.
        let together = groups
            .values()
            .all(|group| group.len() == Projection::ALL.len());
        let mut read = Vec::new();
        for ((position, hash, events_max), checkpoints) in groups {
            if together {
                recent.begin(position, &hash);
            } else {
                recent.forget();
            }
            let found = match self
                .read(partition, position, &hash, events_max, recent)
                .await
            {
                Err(damaged @ StorageError::Damaged { .. }) => Read::Damaged(Arc::new(damaged)),
                found => found?,
            };
            match found {
                Read::Batch(batch) => read.push((batch, checkpoints)),
                Read::Nothing => steps.extend(checkpoints.into_iter().map(|at| Step {
                    projection: at.projection,
                    outcome: Outcome::UpToDate { at },
                })),
                Read::Fork => steps.extend(checkpoints.into_iter().map(|at| Step {
                    projection: at.projection,
                    outcome: Outcome::Stopped {
                        why: Trouble::Fork {
                            position: at.position,
                        },
                        at,
                    },
                })),
                Read::Damaged(damaged) => steps.extend(checkpoints.into_iter().map(|at| Step {
                    projection: at.projection,
                    outcome: Outcome::Stopped {
                        at,
                        why: Trouble::Damaged(Arc::clone(&damaged)),
                    },
                })),
            }
        }
        let mut is_ours = true;
        if read.is_empty() {
            for turn in turns {
                turn.release().await?;
            }
        } else {
            let applied = self.apply(partition, turns, read, &mut steps, recent);
            is_ours = applied.await?;
        }
        if let Some(place) = place {
            place.leave().await;
        }
        Ok(is_ours.then_some(steps))
    }

    /// Writes what follows from some batches. `false` if others have done all of it meanwhile.
    async fn apply(
        &self,
        partition: Partition,
        turns: Vec<Turn>,
        read: Vec<(Batch, Vec<Checkpoint>)>,
        steps: &mut Vec<Step>,
        recent: &mut Recent,
    ) -> Result<bool, StorageError> {
        let pairs: Vec<_> = read.iter().map(|(batch, _)| batch.pairs()).collect();
        let mut writing = Vec::with_capacity(turns.len());
        for turn in turns {
            let groups = groups(&turn, &read, &pairs, steps).await;
            writing.push(self.write(partition, turn, groups));
        }
        let mut is_ours = Vec::with_capacity(writing.len());
        let mut failed = None;
        // Each to its end, whatever becomes of the others.
        for written in join_all(writing).await {
            match written {
                Ok(written) => {
                    is_ours.push(written.is_some());
                    steps.extend(written.into_iter().flatten());
                }
                Err(error) => failed = Some(error),
            }
        }
        let folded: Vec<_> = pairs
            .iter()
            .flatten()
            .map(|(_, now)| now.folded())
            .collect();
        drop(pairs);
        let has_moved = |step: &Step| matches!(step.outcome, Outcome::Moved { .. });
        let all_moved =
            failed.is_none() && !is_ours.contains(&false) && steps.iter().all(has_moved);
        match <[_; 1]>::try_from(read) {
            Ok([(batch, members)]) if all_moved && members.len() == Projection::ALL.len() => {
                batch.remember(folded, recent);
            }
            _ => recent.forget(),
        }
        match failed {
            // What the others have written stands, and is told.
            Some(error) if steps.iter().any(has_moved) => {
                tracing::warn!(
                    partition = partition.0,
                    error = %ErrorChain(&error),
                    "some projections could not take a step; it is tried again"
                );
                Ok(true)
            }
            Some(error) => Err(error),
            None => Ok(is_ours.contains(&true)),
        }
    }

    /// Writes a turn's part of it. `None` if somebody else has done so meanwhile.
    async fn write(
        &self,
        partition: Partition,
        turn: Turn,
        mut groups: Vec<Group<'_>>,
    ) -> Result<Option<Vec<Step>>, StorageError> {
        if groups.iter().all(|group| group.members.is_empty()) {
            turn.release().await?;
            return Ok(Some(Vec::new()));
        }
        let standing = turn.checkpoints.clone();
        let Some(transaction) = turn.write().await? else {
            return Ok(None);
        };
        if !write_together(transaction, &groups).await? {
            // Somebody's rows are refused. Whose, shows when each projection is written apart.
            let Some(transaction) = self.store.write_again(partition, &standing).await? else {
                return Ok(None);
            };
            write_apart(transaction, &mut groups).await?;
        }
        let steps = groups.into_iter().flat_map(Group::into_steps);
        Ok(Some(steps.collect()))
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        hash: &[u8],
        events_max: i64,
        recent: &mut Recent,
    ) -> Result<Read, StorageError> {
        if let Some(log) = self
            .written_here(partition, after, hash, events_max)
            .await?
        {
            let batch = self.load_on(partition, after, log, recent).await?;
            return Ok(Read::Batch(batch));
        }
        // The last event that was read is read again: its hash says whether this is the same ledger.
        let from = Position((after.0 - 1).max(0));
        let overlap = after.0 - from.0;
        let mut log = self
            .storage
            .log(partition, from, events_max + overlap)
            .await?;
        if overlap > 0 {
            let is_same = log
                .first()
                .is_some_and(|known| known.position == after && known.hash == hash);
            if !is_same {
                return Ok(Read::Fork);
            }
            let known = log.remove(0);
            // So large an event leaves no room for those after it.
            if log.is_empty() && known.data.len() >= ONE_EVENT_BYTES_MAX {
                log = self.storage.log(partition, after, events_max).await?;
            }
        }
        if log.is_empty() {
            return Ok(Read::Nothing);
        }
        let batch = self.load_on(partition, after, log_events(log)?, recent);
        Ok(Read::Batch(batch.await?))
    }

    /// The next events, if this process has just stored them. The last of them must be in the record
    /// all the same: a database that took over from another may lack them.
    async fn written_here(
        &self,
        partition: Partition,
        after: Position,
        hash: &[u8],
        events_max: i64,
    ) -> Result<Option<Vec<LogEvent>>, StorageError> {
        let limit = usize::try_from(events_max).unwrap_or(0);
        let events = self.tail.take(partition, (after, hash), limit);
        let Some((last, hash)) = events.last().map(LogEvent::place) else {
            return Ok(None);
        };
        let found = self.storage.log(partition, Position(last.0 - 1), 1).await?;
        let is_recorded = found
            .first()
            .is_some_and(|found| found.position == last && found.hash == hash);
        Ok(is_recorded.then_some(events))
    }

    /// The streams of some events that follow each other, each from its beginning. Where streams
    /// are large, those of the first of these events.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed; [`StorageError::Damaged`] when it lacks an event
    /// of one of the streams.
    pub async fn load(
        &self,
        partition: Partition,
        after: Position,
        log: Vec<RecordedEvent>,
    ) -> Result<Batch, StorageError> {
        self.load_on(partition, after, log_events(log)?, &mut Recent::default())
            .await
    }

    /// The same, reading only streams that are not known as of `after`.
    async fn load_on(
        &self,
        partition: Partition,
        after: Position,
        mut log: Vec<LogEvent>,
        recent: &mut Recent,
    ) -> Result<Batch, StorageError> {
        let earlier = self.earlier(partition, after, &log, recent).await?;
        if let Some(missing) = log.iter().position(|event| earlier.lacks(&event.event)) {
            log.truncate(missing);
        }
        let events = log.len();
        let end = log.last().map(LogEvent::place);
        let (end, end_hash) = end.map_or((after, Vec::new()), |(end, hash)| (end, hash.to_vec()));
        let mut index: HashMap<StreamPlace, usize> = HashMap::new();
        let mut streams: Vec<Loaded> = Vec::new();
        let mut known = earlier.streams;
        for event in log {
            let event = event.event;
            let place = *index
                .entry((event.tenant_id.clone(), event.stream_id))
                .or_insert_with_key(|key| {
                    let Known { events, folded } = known.remove(key).unwrap_or_default();
                    streams.push(Loaded {
                        tenant_id: event.tenant_id,
                        stream_id: event.stream_id,
                        before: events.len(),
                        folded,
                        events,
                    });
                    streams.len() - 1
                });
            streams[place].events.push(event.event);
        }
        for stream in &streams {
            stream.check()?;
        }
        Ok(Batch {
            partition,
            streams,
            end,
            end_hash,
            events,
        })
    }

    /// What the streams of some events had before: of as many streams as fit, but at least those of
    /// the first event.
    async fn earlier(
        &self,
        partition: Partition,
        after: Position,
        log: &[LogEvent],
        recent: &mut Recent,
    ) -> Result<Earlier, StorageError> {
        let mut earlier = Earlier::default();
        let mut seen = HashSet::new();
        let begun_before: Vec<StreamKey> = log
            .iter()
            .map(|event| &event.event)
            .filter(|event| seen.insert((event.tenant_id.as_str(), event.stream_id)))
            .filter(|event| event.event.sequence.0 > 1)
            .filter(|event| !earlier.recall(event, recent))
            .map(|event| key(partition, event))
            .collect::<Result<_, _>>()?;
        let Some(first) = begun_before.first() else {
            return Ok(earlier);
        };
        let page = self
            .storage
            .streams_within(&begun_before, STREAMS_BYTES_MAX)
            .await?;
        earlier.add(page.events, after);
        if page.is_cut {
            // Whichever streams the page ends in: those it lacks wait for the next step.
            earlier.lacking = begun_before
                .iter()
                .filter(|stream| !earlier.has(stream, log))
                .map(|stream| (stream.tenant_id.to_string(), stream.stream_id))
                .collect();
            let first_place = (first.tenant_id.to_string(), first.stream_id);
            if earlier.lacking.remove(&first_place) {
                let whole = self.storage.streams(std::slice::from_ref(first)).await?;
                earlier.streams.remove(&first_place);
                earlier.add(whole, after);
            }
        }
        Ok(earlier)
    }
}

/// What streams had before some events.
#[derive(Default)]
struct Earlier {
    streams: HashMap<StreamPlace, Known>,
    /// Those that had more than was read.
    lacking: HashSet<StreamPlace>,
}

impl Earlier {
    /// Whether what the event's stream had before need not be read.
    fn recall(&mut self, event: &StreamEvent, recent: &mut Recent) -> bool {
        let place = (event.tenant_id.clone(), event.stream_id);
        match recent.take(&place, event.event.sequence) {
            Some(known) => {
                self.streams.insert(place, known);
                true
            }
            None => false,
        }
    }

    fn add(&mut self, events: Vec<RecordedEvent>, until: Position) {
        for event in events {
            if event.position <= until {
                let event: StreamEvent = event.into();
                self.streams
                    .entry((event.tenant_id, event.stream_id))
                    .or_default()
                    .events
                    .push(event.event);
            }
        }
    }

    /// Whether it has everything of a stream up to where `log` goes on with it.
    fn has(&self, stream: &StreamKey, log: &[LogEvent]) -> bool {
        let mut events = log.iter().map(|event| &event.event);
        let next = events.find(|event| {
            event.stream_id == stream.stream_id && event.tenant_id == stream.tenant_id.as_str()
        });
        let place = (stream.tenant_id.to_string(), stream.stream_id);
        let read = self
            .streams
            .get(&place)
            .map_or(0, |known| known.events.len());
        // Sequences begin at 1. A gap is found when the stream is read whole.
        next.is_some_and(|next| {
            i64::try_from(read).is_ok_and(|read| read + 1 == next.event.sequence.0)
        })
    }

    fn lacks(&self, event: &StreamEvent) -> bool {
        !self.lacking.is_empty()
            && self
                .lacking
                .contains(&(event.tenant_id.clone(), event.stream_id))
    }
}

fn key(partition: Partition, event: &StreamEvent) -> Result<StreamKey, StorageError> {
    let tenant_id = TenantId::new(&event.tenant_id).map_err(|_| StorageError::Damaged {
        table: "events",
        detail: format!("a tenant called `{}`", event.tenant_id),
    })?;
    Ok(StreamKey {
        partition,
        tenant_id,
        stream_id: event.stream_id,
    })
}

/// Events of the log as a step needs them.
fn log_events(log: Vec<RecordedEvent>) -> Result<Vec<LogEvent>, StorageError> {
    log.into_iter()
        .map(|event| {
            let hash: Hash =
                event
                    .hash
                    .as_slice()
                    .try_into()
                    .map_err(|_| StorageError::Damaged {
                        table: "events",
                        detail: format!("the hash at position {} is not one", event.position),
                    })?;
            Ok(LogEvent {
                hash,
                event: event.into(),
            })
        })
        .collect()
}

impl Loaded {
    /// Without the events before them, what follows from some events would be wrong in silence.
    fn check(&self) -> Result<(), StorageError> {
        let gap = self
            .events
            .iter()
            .zip(1..)
            .find(|(event, sequence)| event.sequence.0 != *sequence);
        match gap {
            None => Ok(()),
            Some((event, sequence)) => Err(StorageError::Damaged {
                table: "events",
                detail: format!(
                    "position {} is event {} of stream {}, but event {sequence} is missing",
                    event.position, event.sequence.0, self.stream_id
                ),
            }),
        }
    }
}

impl Batch {
    /// Where it brings a projection.
    fn checkpoint(&self, at: &Checkpoint) -> Checkpoint {
        Checkpoint {
            position: self.end,
            hash: self.end_hash.clone(),
            epoch: at.head_epoch,
            error: None,
            ..at.clone()
        }
    }

    /// Keeps its streams for the next step, with what they came to.
    fn remember(self, folded: Vec<Option<Arc<Folded>>>, recent: &mut Recent) {
        let streams = self.streams.into_iter().zip(folded);
        let streams = streams.map(|(loaded, folded)| {
            let place = (loaded.tenant_id, loaded.stream_id);
            let events = loaded.events;
            (place, Known { events, folded })
        });
        recent.keep(self.end, self.end_hash, streams);
    }

    /// Each stream as it was before, if it was there, and as it is.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let rule = PrecedenceRule::default();
        self.streams
            .iter()
            .map(|loaded| {
                let stream = |events| {
                    let Loaded {
                        tenant_id,
                        stream_id,
                        ..
                    } = loaded;
                    Stream::new(self.partition, tenant_id, *stream_id, events, rule)
                };
                let before = (loaded.before > 0).then(|| {
                    let before = stream(&loaded.events[..loaded.before]);
                    before.known(loaded.folded.clone())
                });
                (before, stream(&loaded.events))
            })
            .collect()
    }
}

/// What a batch changes in one projection's tables. Folding keeps a processor busy, so others on
/// this thread get their turn now and then.
pub async fn changes<'a>(
    projection: Projection,
    pairs: &'a [Pair<'a>],
) -> Result<Vec<Changes<'a>>, Unreadable> {
    for pairs in pairs.chunks(STREAMS_AT_ONCE) {
        for pair in pairs {
            projection.prepare(pair)?;
        }
        tokio::task::yield_now().await;
    }
    projection.changes(pairs)
}

/// Checkpoints by place and size of their step.
type Groups = BTreeMap<(Position, Vec<u8>, i64), Vec<Checkpoint>>;

/// Of hands that came apart, because one of them failed, lets those ahead wait for the one behind if that
/// is not far: together they read the log once, apart each for itself, until they are at its end.
fn wait_for_the_hindmost(groups: &mut Groups) {
    let mut places = groups.keys().map(|(position, ..)| *position);
    let (Some(hindmost), Some(next)) = (places.next(), places.next()) else {
        return;
    };
    let gap = next.0 - hindmost.0;
    // At the same place, one of them is of another ledger, which its step finds out.
    if !(1..=HINDMOST_EVENTS_MAX).contains(&gap) {
        return;
    }
    if let Some(((position, hash, events_max), checkpoints)) = groups.pop_first() {
        let place = (position, hash, events_max.min(gap));
        *groups = Groups::from([(place, checkpoints)]);
    }
}

/// What some batches change for the projections of a turn. Who can't read one stops, which is noted.
async fn groups<'a>(
    turn: &Turn,
    read: &'a [(Batch, Vec<Checkpoint>)],
    pairs: &'a [Vec<Pair<'a>>],
    steps: &mut Vec<Step>,
) -> Vec<Group<'a>> {
    let mut groups = Vec::with_capacity(read.len());
    for ((batch, checkpoints), pairs) in read.iter().zip(pairs) {
        let mut group = Group {
            events: batch.events,
            members: Vec::new(),
        };
        for at in checkpoints.iter().filter(|at| turn.has(at.projection)) {
            match changes(at.projection, pairs).await {
                Ok(changes) => group.members.push(Member {
                    at,
                    to: batch.checkpoint(at),
                    changes,
                    refused: None,
                }),
                Err(unreadable) => steps.push(Step {
                    projection: at.projection,
                    outcome: Outcome::Stopped {
                        at: at.clone(),
                        why: unreadable.into(),
                    },
                }),
            }
        }
        groups.push(group);
    }
    groups
}

/// Projections that stand at the same place.
struct Group<'a> {
    /// Of the batch that brings them on.
    events: usize,
    members: Vec<Member<'a>>,
}

/// A projection, and what a step does to it.
struct Member<'a> {
    at: &'a Checkpoint,
    to: Checkpoint,
    changes: Vec<Changes<'a>>,
    /// Why the database does not take it.
    refused: Option<StorageError>,
}

impl Group<'_> {
    /// Who does not come to the log's end, or takes much at once, has to catch up.
    fn haste(&self) -> Haste {
        let mut members = self.members.iter();
        let comes_to_the_end = members.all(|member| member.to.position >= member.at.head);
        if comes_to_the_end && self.events < ABREAST_EVENTS_MAX {
            Haste::Abreast
        } else {
            Haste::Behind
        }
    }

    fn into_steps(self) -> impl Iterator<Item = Step> {
        let events = self.events;
        self.members.into_iter().map(move |member| Step {
            projection: member.at.projection,
            outcome: match member.refused {
                None => Outcome::Moved {
                    to: member.to,
                    events,
                },
                Some(refused) => Outcome::Stopped {
                    at: member.at.clone(),
                    why: Trouble::Refused(refused),
                },
            },
        })
    }
}

/// Writes everything in as few statements as can be, taking the tables to have what they should.
/// `false` if the database refuses some of it: then nothing was written.
async fn write_together(
    mut transaction: Transaction,
    groups: &[Group<'_>],
) -> Result<bool, StorageError> {
    for group in groups {
        let changes = group.members.iter().flat_map(|member| &member.changes);
        for changes in changes {
            let written = transaction.write_expected(Place::Live, changes, group.haste());
            if is_refusal(written.await)?.is_some() {
                transaction.roll_back().await?;
                return Ok(false);
            }
        }
        let to: Vec<Checkpoint> = group
            .members
            .iter()
            .map(|member| member.to.clone())
            .collect();
        transaction.move_checkpoints(&to).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// Writes each projection so that it can be undone alone, and over whatever is in its tables.
/// Notes what is refused.
async fn write_apart(
    mut transaction: Transaction,
    groups: &mut [Group<'_>],
) -> Result<(), StorageError> {
    for member in groups.iter_mut().flat_map(|group| &mut group.members) {
        transaction.savepoint().await?;
        for changes in &member.changes {
            member.refused = is_refusal(transaction.write(Place::Live, changes).await)?;
            if member.refused.is_some() {
                break;
            }
        }
        if member.refused.is_none() {
            transaction.move_checkpoint(&member.to).await?;
        }
        transaction.end_savepoint(member.refused.is_none()).await?;
    }
    transaction.commit().await
}

/// Tells rows that the database does not take from a database that failed.
fn is_refusal(written: Result<(), StorageError>) -> Result<Option<StorageError>, StorageError> {
    match written {
        Ok(()) => Ok(None),
        Err(refused @ (StorageError::Rejected(_) | StorageError::Damaged { .. })) => {
            Ok(Some(refused))
        }
        Err(error) => Err(error),
    }
}
