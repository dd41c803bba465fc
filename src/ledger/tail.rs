//! The end of the log, as this process has just written it.
//!
//! Whoever follows the log would read back from the database what the lanes stored a moment ago.
//! So the lanes leave it here, and the follower takes it: an event is taken once, and what nobody
//! takes makes room for what comes after it.
//!
//! Nothing here is the record. Each batch says which event it was stored after, by position and
//! hash; batches that do not follow each other are never kept together, so what is taken after an
//! event is the log after that event if its end is in the record: its hash tells all before it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::record::{Hash, LogEvent, Partition, Position};

/// Most bytes of memory for each partition: what comes in between two steps of the projections under
/// full load, twice.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most bytes for all of them. Where another process takes the steps, nobody takes anything here.
const ALL_BYTES_MAX: usize = 4 * BYTES_MAX;
/// What an event takes beside what it says.
const EVENT_BYTES: usize = 300;

/// The end of each partition's log. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    all: Arc<Mutex<All>>,
}

#[derive(Debug, Default)]
struct All {
    partitions: HashMap<Partition, Kept>,
    bytes: usize,
}

/// Events that follow each other.
#[derive(Debug)]
struct Kept {
    /// The event before the first.
    after: (Position, Hash),
    events: VecDeque<LogEvent>,
    bytes: usize,
}

impl Kept {
    fn new(after: (Position, Hash)) -> Self {
        Self {
            after,
            events: VecDeque::new(),
            bytes: 0,
        }
    }

    fn end(&self) -> (Position, Hash) {
        let last = self.events.back();
        last.map_or(self.after, LogEvent::place)
    }

    fn push(&mut self, event: LogEvent) {
        self.bytes += bytes(&event);
        self.events.push_back(event);
    }

    fn pop(&mut self) -> Option<LogEvent> {
        let event = self.events.pop_front()?;
        self.after = event.place();
        self.bytes -= bytes(&event);
        Some(event)
    }
}

impl Tail {
    /// Some events are in the record, one after the other, and before them the event `after`.
    pub fn add(&self, partition: Partition, after: (Position, Hash), events: Vec<LogEvent>) {
        self.with(|all| {
            let kept = all
                .partitions
                .entry(partition)
                .or_insert_with(|| Kept::new(after));
            all.bytes -= kept.bytes;
            if kept.end() != after {
                *kept = Kept::new(after);
            }
            for event in events {
                kept.push(event);
            }
            while kept.bytes > BYTES_MAX {
                kept.pop();
            }
            if all.bytes + kept.bytes > ALL_BYTES_MAX {
                *kept = Kept::new(kept.end());
            }
            all.bytes += kept.bytes;
        });
    }

    /// Takes up to `limit` events that follow the event `after`. None if they are not here.
    ///
    /// They are in the record if the last of them is there, with this hash.
    pub fn take(
        &self,
        partition: Partition,
        after: (Position, &[u8]),
        limit: usize,
    ) -> Vec<LogEvent> {
        self.with(|all| {
            let Some(kept) = all.partitions.get_mut(&partition) else {
                return Vec::new();
            };
            all.bytes -= kept.bytes;
            while kept.after.0 < after.0 && kept.pop().is_some() {}
            let mut taken = Vec::new();
            if (kept.after.0, kept.after.1.as_slice()) == after {
                let count = limit.min(kept.events.len());
                taken.extend((0..count).filter_map(|_| kept.pop()));
            }
            all.bytes += kept.bytes;
            taken
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut All) -> T) -> T {
        // No code that may panic runs under the lock.
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut all)
    }
}

fn bytes(event: &LogEvent) -> usize {
    event.event.event.content.bytes() + EVENT_BYTES
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{EventId, Sequence, StreamId};
    use crate::ledger::record::{Content, PlainEvent, StreamEvent};

    const HERE: Partition = Partition(3);

    /// The event at a position of a ledger; another ledger has other hashes.
    fn event(ledger: u8, position: i64) -> LogEvent {
        LogEvent {
            event: StreamEvent {
                tenant_id: "acme".to_owned(),
                stream_id: StreamId(Uuid::nil()),
                event: PlainEvent {
                    position: Position(position),
                    sequence: Sequence(1),
                    event_id: EventId(Uuid::nil()),
                    event_type: Cow::Borrowed("notification.requested"),
                    occurred_at: 0,
                    recorded_at: 0,
                    subscriber_id: None,
                    content: Content::Stored {
                        schema_version: 1,
                        data: "{}".to_owned(),
                    },
                },
            },
            hash: hash(ledger, position),
        }
    }

    fn hash(ledger: u8, position: i64) -> Hash {
        let mut hash = [ledger; 32];
        hash[..8].copy_from_slice(&position.to_be_bytes());
        hash
    }

    fn add(tail: &Tail, ledger: u8, positions: std::ops::RangeInclusive<i64>) {
        let before = positions.start() - 1;
        let after = (Position(before), hash(ledger, before));
        let events = positions.map(|position| event(ledger, position));
        tail.add(HERE, after, events.collect());
    }

    fn take(tail: &Tail, ledger: u8, after: i64, limit: usize) -> Vec<i64> {
        let hash = hash(ledger, after);
        let taken = tail.take(HERE, (Position(after), &hash), limit);
        let positions = taken.iter().map(|event| event.event.event.position.0);
        positions.collect()
    }

    #[test]
    fn batches_that_follow_each_other_are_taken_once_from_where_somebody_stands() {
        let tail = Tail::default();
        add(&tail, 1, 1..=3);
        add(&tail, 1, 4..=6);

        assert_eq!(take(&tail, 1, 2, 3), [3, 4, 5]);
        assert_eq!(take(&tail, 1, 5, 10), [6]);
        assert_eq!(take(&tail, 1, 6, 10), [0; 0]);
        assert_eq!(take(&tail, 1, 2, 10), [0; 0], "what was taken is gone");

        add(&tail, 1, 7..=7);
        assert_eq!(take(&tail, 1, 6, 10), [7]);
    }

    #[test]
    fn what_somebody_else_has_appended_is_never_skipped() {
        let tail = Tail::default();
        add(&tail, 1, 1..=3);
        add(&tail, 1, 5..=6);

        assert_eq!(take(&tail, 1, 0, 10), [0; 0]);
        assert_eq!(take(&tail, 1, 3, 10), [0; 0]);
        assert_eq!(take(&tail, 1, 4, 10), [5, 6]);
    }

    #[test]
    fn histories_are_never_mixed() {
        let tail = Tail::default();
        add(&tail, 1, 1..=3);
        add(&tail, 2, 4..=5);

        assert_eq!(take(&tail, 1, 2, 10), [0; 0]);
        assert_eq!(take(&tail, 1, 3, 10), [0; 0]);
        assert_eq!(take(&tail, 2, 3, 10), [4, 5]);
    }

    #[test]
    fn partitions_are_kept_apart() {
        let tail = Tail::default();
        add(&tail, 1, 1..=3);

        let taken = tail.take(Partition(4), (Position(0), &hash(1, 0)), 10);

        assert_eq!(taken, []);
    }

    #[test]
    fn all_partitions_share_some_memory() {
        let tail = Tail::default();
        let fit = i64::try_from(BYTES_MAX / bytes(&event(1, 1))).unwrap();
        let add = |partition, positions: std::ops::RangeInclusive<i64>| {
            let before = positions.start() - 1;
            let events = positions.map(|position| event(1, position)).collect();
            tail.add(
                Partition(partition),
                (Position(before), hash(1, before)),
                events,
            );
        };
        let take = |partition, after| {
            let after = (Position(after), &hash(1, after)[..]);
            tail.take(Partition(partition), after, usize::MAX).len()
        };
        for partition in 0..4 {
            add(partition, 1..=fit);
        }
        add(4, 1..=9);
        assert_eq!(take(4, 0), 0, "there was no room");

        assert!(take(0, 0) > 0);
        add(4, 10..=12);
        assert_eq!(take(4, 9), 3, "there is again");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let tail = Tail::default();
        let fit = i64::try_from(BYTES_MAX / bytes(&event(1, 1))).unwrap();
        add(&tail, 1, 1..=fit + 5);

        assert_eq!(take(&tail, 1, 4, 1), [0; 0]);
        assert_eq!(take(&tail, 1, 5, 2), [6, 7]);
    }
}
