//! A subscriber, as far as the record knows one: when they were erased, and what went with it.
//!
//! One stream per subscriber that was ever erased. An erasure is no fact about a notification:
//! those stay as they are, and only what was sealed in them can't be opened any more.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

use super::event::names;
use super::ids::{EventId, SubscriberId};
use super::sealing::Sealer;
use super::stored::{DecodeError, SCHEMA_VERSION, StoredPayload, UPCASTERS, parse, upcast, write};
use super::time::Timestamp;

/// How often somebody was erased, in the order of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    erasures: Vec<SubscriberErased>,
}

/// The subscriber's data keys were destroyed, and with them everything sealed until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberErased {
    pub event_id: EventId,
    pub erased_at: Timestamp,
    pub subscriber_id: SubscriberId,
    /// How many notifications named them by then.
    pub notifications: u64,
    /// Under which somebody asked for it.
    pub request_id: Option<String>,
}

/// Erase somebody.
#[derive(Clone, Debug)]
pub struct Erase {
    pub event_id: EventId,
    pub at: Timestamp,
    pub subscriber_id: SubscriberId,
    pub request_id: Option<String>,
    /// What the record has of them now.
    pub found: FoundOfSubscriber,
}

/// What there is of a subscriber, at the moment that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundOfSubscriber {
    /// How many notifications name them.
    pub notifications: u64,
    /// Something sealed can still be opened.
    pub is_readable: bool,
    /// Somebody has heard of them, be it only that something was sealed for them once.
    pub is_known: bool,
}

impl Subscriber {
    /// Decides whether there is something to erase. Changes nothing.
    ///
    /// `None` for somebody nobody has heard of: then the record must not hear of them either, for
    /// what is in it stays. And for a repeat, while nothing was sealed since: [`Self::last`] has
    /// its answer.
    pub fn decide(&self, command: Erase) -> Option<SubscriberErased> {
        let found = command.found;
        let is_first = self.erasures.is_empty();
        if !(found.is_readable || (is_first && (found.is_known || found.notifications > 0))) {
            return None;
        }
        Some(SubscriberErased {
            event_id: command.event_id,
            erased_at: command.at,
            subscriber_id: command.subscriber_id,
            notifications: found.notifications,
            request_id: command.request_id,
        })
    }

    /// The latest erasure.
    pub fn last(&self) -> Option<&SubscriberErased> {
        self.erasures.last()
    }
}

impl Aggregate for Subscriber {
    const TYPE: &'static str = "subscriber";
    type Command = Erase;
    type Event = SubscriberErased;
    type Error = Infallible;
    type Services = Arc<dyn Sealer>;

    async fn handle(
        &mut self,
        command: Self::Command,
        _sealer: &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        if let Some(erased) = self.decide(command) {
            sink.write(erased, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Self::Event) {
        self.erasures.push(event);
    }
}

impl DomainEvent for SubscriberErased {
    fn event_type(&self) -> String {
        names::SUBSCRIBER_ERASED.to_owned()
    }

    fn event_version(&self) -> String {
        SCHEMA_VERSION.to_string()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErasedV1<'a> {
    subscriber_id: Cow<'a, SubscriberId>,
    notifications: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<Cow<'a, str>>,
}

impl SubscriberErased {
    /// The payload in today's version.
    pub fn encode(&self) -> String {
        write(
            None,
            &ErasedV1 {
                subscriber_id: Cow::Borrowed(&self.subscriber_id),
                notifications: self.notifications,
                request_id: self.request_id.as_deref().map(Cow::Borrowed),
            },
        )
    }

    /// Reads a payload of any version ever written.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the payload is of another type, too new, or damaged.
    pub fn decode(
        event_id: EventId,
        occurred_at: Timestamp,
        stored: StoredPayload<'_>,
    ) -> Result<Self, DecodeError> {
        if stored.event_type != names::SUBSCRIBER_ERASED {
            return Err(DecodeError::UnknownType(stored.event_type.to_owned()));
        }
        let data = upcast(stored, UPCASTERS, SCHEMA_VERSION)?;
        let payload: ErasedV1<'_> = parse(stored.event_type, &data)?;
        Ok(Self {
            event_id,
            erased_at: occurred_at,
            subscriber_id: payload.subscriber_id.into_owned(),
            notifications: payload.notifications,
            request_id: payload.request_id.map(Cow::into_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erase(number: u128, found: FoundOfSubscriber) -> Erase {
        Erase {
            event_id: EventId(uuid::Uuid::from_u128(number)),
            at: Timestamp::from_micros_clamped(i64::try_from(number).unwrap()),
            subscriber_id: SubscriberId::new("ann").unwrap(),
            request_id: None,
            found,
        }
    }

    fn found(notifications: u64, is_readable: bool, is_known: bool) -> FoundOfSubscriber {
        FoundOfSubscriber {
            notifications,
            is_readable,
            is_known,
        }
    }

    fn erased() -> Subscriber {
        let mut subscriber = Subscriber::default();
        let first = subscriber.decide(erase(1, found(2, true, true))).unwrap();
        subscriber.apply(first);
        subscriber
    }

    #[test]
    fn nobody_knows_somebody_who_was_never_named() {
        let decided = Subscriber::default().decide(erase(1, found(0, false, false)));

        assert_eq!(decided, None);
    }

    #[test]
    fn somebody_is_erased_even_if_nothing_was_sealed() {
        for found in [found(3, false, true), found(0, false, true)] {
            let decided = Subscriber::default().decide(erase(1, found)).unwrap();

            assert_eq!(decided.notifications, found.notifications);
        }
    }

    #[test]
    fn a_repeat_appends_nothing() {
        let subscriber = erased();

        assert_eq!(subscriber.decide(erase(2, found(5, false, true))), None);
        assert_eq!(subscriber.last().unwrap().notifications, 2);
    }

    #[test]
    fn what_was_sealed_since_is_erased_as_well() {
        let mut subscriber = erased();

        let again = subscriber.decide(erase(2, found(5, true, true))).unwrap();

        subscriber.apply(again.clone());
        assert_eq!(subscriber.last(), Some(&again));
        assert_eq!(again.notifications, 5);
    }
}
