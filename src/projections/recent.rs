//! Streams of the last steps, so that their next events need not have their past read and folded
//! again: most of what happens to a notification happens soon after it was requested.
//!
//! They are one partition's, as of one event. A step begins after the event its checkpoint names, by
//! position and hash, and has made sure that the ledger has it. If it is this event, then every event
//! since was in a step that was taken here, so the streams are what a read would give. Whatever is in
//! doubt is forgotten, and read.

use std::sync::Arc;

use lru::LruCache;

use super::stream::Folded;
use crate::domain::ids::{Sequence, StreamId};
use crate::ledger::record::{PlainEvent, Position};

/// About how many bytes of memory they take in each partition: so many that a notification is still
/// known a second later where a thousand events come in per second.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Larger streams are read each time: one would take the place of hundreds.
const STREAM_BYTES_MAX: usize = BYTES_MAX / 8;
/// What an event takes beside its data, and what it was folded to, which is about as long as the data.
const EVENT_BYTES: usize = 400;

/// A tenant and one of its streams.
pub type StreamPlace = (String, StreamId);

/// A stream's events from the first on, and what they come to if somebody folded them.
#[derive(Debug, Default)]
pub struct Known {
    pub events: Vec<PlainEvent>,
    pub folded: Option<Arc<Folded>>,
}

/// Streams as of one event.
#[derive(Debug)]
pub struct Recent {
    at: (Position, Vec<u8>),
    streams: LruCache<StreamPlace, Known>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            at: (Position(0), Vec::new()),
            streams: LruCache::unbounded(),
            bytes: 0,
        }
    }
}

impl Recent {
    pub fn forget(&mut self) {
        self.streams.clear();
        self.bytes = 0;
    }

    /// A step begins after an event: forgets everything that is not as of this one.
    pub fn begin(&mut self, position: Position, hash: &[u8]) {
        if self.at.0 != position || self.at.1 != hash {
            self.forget();
        }
    }

    /// A stream, if it goes on with this sequence.
    pub fn take(&mut self, place: &StreamPlace, next: Sequence) -> Option<Known> {
        let known = self.streams.pop(place)?;
        self.bytes -= known.bytes();
        // Else an event is missing, and whoever reads the stream will say which.
        let last = i64::try_from(known.events.len()).ok()?;
        (last + 1 == next.0).then_some(known)
    }

    /// A step has come to an end: keeps the streams it brought on, as of its last event. Those that
    /// are kept already had no event in it.
    pub fn keep(
        &mut self,
        position: Position,
        hash: Vec<u8>,
        streams: impl Iterator<Item = (StreamPlace, Known)>,
    ) {
        self.at = (position, hash);
        for (place, known) in streams {
            if let Some(older) = self.streams.pop(&place) {
                self.bytes -= older.bytes();
            }
            let bytes = known.bytes();
            if bytes > STREAM_BYTES_MAX {
                continue;
            }
            self.bytes += bytes;
            self.streams.put(place, known);
            while self.bytes > BYTES_MAX
                && let Some((_, oldest)) = self.streams.pop_lru()
            {
                self.bytes -= oldest.bytes();
            }
        }
    }
}

impl Known {
    fn bytes(&self) -> usize {
        let data = self.events.iter().map(|event| event.content.bytes());
        data.map(|data| 2 * data + EVENT_BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::EventId;
    use crate::ledger::record::Content;

    fn stream(number: u128, events: i64, data: usize) -> (StreamPlace, Known) {
        let event = |sequence| PlainEvent {
            position: Position(sequence),
            sequence: Sequence(sequence),
            event_id: EventId(Uuid::nil()),
            event_type: Cow::Borrowed("notification.requested"),
            occurred_at: 0,
            recorded_at: 0,
            subscriber_id: None,
            content: Content::Stored {
                schema_version: 1,
                data: "x".repeat(data),
            },
        };
        let known = Known {
            events: (1..=events).map(event).collect(),
            folded: None,
        };
        (place(number), known)
    }

    fn place(number: u128) -> StreamPlace {
        ("acme".to_owned(), StreamId(Uuid::from_u128(number)))
    }

    fn recent(streams: Vec<(StreamPlace, Known)>) -> Recent {
        let mut recent = Recent::default();
        recent.keep(Position(7), vec![7], streams.into_iter());
        recent
    }

    #[test]
    fn a_stream_is_known_where_it_was_left_and_nowhere_else() {
        let left = || recent(vec![stream(1, 2, 10)]);
        let taken = |position, hash: &[u8], next| {
            let mut recent = left();
            recent.begin(Position(position), hash);
            recent.take(&place(1), Sequence(next)).is_some()
        };

        assert!(taken(7, &[7], 3));
        assert!(!taken(8, &[7], 3), "another position");
        assert!(!taken(7, &[8], 3), "another history");
        assert!(!taken(7, &[7], 2), "an event that is there already");
        assert!(!taken(7, &[7], 4), "an event is missing");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes() {
        let tenth = BYTES_MAX / 2 / 10;
        let streams = (1..=10).map(|number| stream(number, 1, tenth));
        let mut recent = recent(streams.collect());

        let known: Vec<u128> = (1..=10)
            .filter(|number| recent.take(&place(*number), Sequence(2)).is_some())
            .collect();

        assert_eq!(known, [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(recent.bytes, 0);
    }

    #[test]
    fn a_large_stream_takes_nobodys_place() {
        let large = stream(2, 1, STREAM_BYTES_MAX);

        let mut recent = recent(vec![stream(1, 1, 10), large]);

        assert!(recent.take(&place(1), Sequence(2)).is_some());
        assert!(recent.take(&place(2), Sequence(2)).is_none());
    }
}
