//! One stream's events, as a projection looks at them.
//!
//! Whatever is projected follows from these and nothing else, so it is the same live, rebuilt and
//! replayed.

use std::sync::{Arc, OnceLock};

use crate::domain::event::NotificationEvent;
use crate::domain::ids::{EventId, Sequence, StreamId};
use crate::domain::notification::Notification;
use crate::domain::precedence::PrecedenceRule;
use crate::domain::state::Summary;
use crate::domain::stored::{DecodeError, StoredPayload};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Content, Partition, PlainEvent, Position};

/// How the names of a notification's events begin.
pub const KIND: &str = "notification.";

/// The first events of one stream, in order, and what follows from them under a rule.
#[derive(Debug)]
pub struct Stream<'a> {
    pub partition: Partition,
    pub tenant_id: &'a str,
    pub stream_id: StreamId,
    /// At least one; sequences from 1 without gaps.
    pub events: &'a [PlainEvent],
    rule: PrecedenceRule,
    folded: OnceLock<Option<Arc<Folded>>>,
}

/// One stream as it was before some events, if it was there, and as it is after them.
pub type Pair<'a> = (Option<Stream<'a>>, Stream<'a>);

/// A notification's state.
#[derive(Debug)]
pub struct Folded {
    pub notification: Notification,
    pub summary: Summary,
}

/// An event that does not fit the code: an upcaster is missing, or it was altered.
#[derive(Debug, thiserror::Error)]
#[error("the event at position {position} can't be read")]
pub struct Unreadable {
    pub position: Position,
    pub source: DecodeError,
}

impl<'a> Stream<'a> {
    pub fn new(
        partition: Partition,
        tenant_id: &'a str,
        stream_id: StreamId,
        events: &'a [PlainEvent],
        rule: PrecedenceRule,
    ) -> Self {
        Self {
            partition,
            tenant_id,
            stream_id,
            events,
            rule,
            folded: OnceLock::new(),
        }
    }

    /// The same, known to come to this under the same rule.
    #[must_use]
    pub fn known(self, folded: Option<Arc<Folded>>) -> Self {
        if let Some(folded) = folded {
            self.folded.get_or_init(|| Some(folded));
        }
        self
    }

    /// What it comes to, if somebody has asked.
    pub fn folded(&self) -> Option<Arc<Folded>> {
        self.folded.get().cloned().flatten()
    }

    /// The notification, folded once however many projections ask. `None` for other streams.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when an event does not fit the code.
    pub fn notification(&self) -> Result<Option<&Folded>, Unreadable> {
        if let Some(folded) = self.folded.get() {
            return Ok(folded.as_deref());
        }
        let folded = self.fold(Notification::default(), self.events)?;
        Ok(self.folded.get_or_init(|| folded).as_deref())
    }

    /// The same, going on from what fewer of the same events came to.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when an event does not fit the code.
    pub fn go_on_from(&self, earlier: &Stream<'_>) -> Result<(), Unreadable> {
        debug_assert!(self.events.starts_with(earlier.events));
        if let Some(known) = earlier.notification()?
            && self.folded.get().is_none()
        {
            let more = &self.events[earlier.events.len()..];
            let folded = self.fold(known.notification.clone(), more)?;
            self.folded.get_or_init(|| folded);
        }
        Ok(())
    }

    fn fold(
        &self,
        mut notification: Notification,
        more: &[PlainEvent],
    ) -> Result<Option<Arc<Folded>>, Unreadable> {
        let first = self.events.first();
        let is_notification = first.is_some_and(|first| first.event_type.starts_with(KIND));
        if !is_notification {
            return Ok(None);
        }
        for event in more {
            let decoded = decode(event).map_err(|source| Unreadable {
                position: event.position,
                source,
            })?;
            cqrs_es::Aggregate::apply(&mut notification, decoded);
        }
        let summary = notification.summary(self.rule);
        Ok(Some(Arc::new(Folded {
            notification,
            summary,
        })))
    }

    /// Of its first event.
    pub fn first_position(&self) -> Position {
        self.events
            .first()
            .map_or(Position(0), |event| event.position)
    }

    /// Of its last event.
    pub fn version(&self) -> Sequence {
        self.events
            .last()
            .map_or(Sequence(0), |event| event.sequence)
    }

    /// One of its events. Streams are short: looking through them beats an index.
    pub fn event(&self, id: EventId) -> Option<&'a PlainEvent> {
        self.events.iter().find(|event| event.event_id == id)
    }

    /// The first subscriber an event of the stream names.
    pub fn first_subscriber(&self) -> Option<&'a str> {
        self.events
            .iter()
            .find_map(|event| event.subscriber_id.as_deref())
    }
}

fn decode(event: &PlainEvent) -> Result<NotificationEvent, DecodeError> {
    match &event.content {
        Content::Decided { event, .. } => Ok(NotificationEvent::clone(event)),
        Content::Stored {
            schema_version,
            data,
        } => NotificationEvent::decode(
            event.event_id,
            Timestamp::from_micros_clamped(event.occurred_at),
            StoredPayload {
                event_type: &event.event_type,
                schema_version: *schema_version,
                data,
            },
        ),
    }
}
