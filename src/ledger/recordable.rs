//! What an aggregate must offer to be kept in the ledger.

use std::sync::Arc;

use cqrs_es::Aggregate;

use super::record::{NewEvent, RecordedEvent};
use crate::domain::event::{Body, NotificationEvent};
use crate::domain::ids::{StreamId, SubscriberId};
use crate::domain::integration::{Integration, IntegrationEvent};
use crate::domain::notification::Notification;
use crate::domain::sealing::Sealer;
use crate::domain::stored::{DecodeError, SCHEMA_VERSION, StoredPayload};
use crate::domain::subscriber::{Subscriber, SubscriberErased};
use crate::domain::time::Timestamp;

/// An aggregate whose events the ledger can write and read.
pub trait Recordable:
    Aggregate<Services = Arc<dyn Sealer>, Command: Send> + Clone + 'static
{
    /// The event as it is to be stored. `self` already contains it.
    fn to_new(&self, event: &Self::Event) -> NewEvent;

    /// # Errors
    ///
    /// [`DecodeError`] when the event belongs to another kind of stream, or an upcaster is missing.
    fn from_recorded(event: &RecordedEvent) -> Result<Self::Event, DecodeError>;

    /// Ids in the event by which later reports may find this stream, unless an earlier event
    /// already had them. `self` already contains it.
    fn references(&self, event: &Self::Event) -> Vec<String>;

    /// Whose notification it is. `None` for other kinds of streams.
    fn subscriber_id(&self) -> Option<&SubscriberId>;

    /// About how many bytes it takes in memory.
    fn weight(&self) -> usize;
}

/// Shows an aggregate as it was after each of a stream's events, in order. An event that does not
/// fit the code changes nothing.
pub fn along<A: Recordable>(events: &[RecordedEvent], mut look: impl FnMut(&RecordedEvent, &A)) {
    let mut aggregate = A::default();
    for event in events {
        if let Ok(decoded) = A::from_recorded(event) {
            aggregate.apply(decoded);
        }
        look(event, &aggregate);
    }
}

/// How a provider's id is written as a reference.
pub fn provider_message_reference(id: &str) -> String {
    format!("provider:{id}")
}

/// How references to a platform's messages begin.
pub(super) const MESSAGE_REFERENCE: &str = "message:";
/// How streams' references to themselves begin.
const STREAM_REFERENCE: &str = "stream:";

/// How a platform's message id is written as a reference.
pub fn message_reference(id: &str) -> String {
    [MESSAGE_REFERENCE, id].concat()
}

/// How a stream refers to itself. Nothing is stored for it: the stream's first event is enough.
pub fn stream_reference(id: StreamId) -> String {
    format!("{STREAM_REFERENCE}{id}")
}

/// The stream that refers to itself so.
pub(super) fn stream_referred_to(reference: &str) -> Option<StreamId> {
    reference.strip_prefix(STREAM_REFERENCE)?.parse().ok()
}

/// How a transaction is written as a reference.
pub fn transaction_reference(id: &str) -> String {
    format!("transaction:{id}")
}

fn payload(event: &RecordedEvent) -> StoredPayload<'_> {
    StoredPayload {
        event_type: &event.event_type,
        schema_version: event.schema_version,
        data: &event.data,
    }
}

/// Whoever reads the event back has what was decided.
fn is_read_as_decided(new: &NewEvent) -> bool {
    let read = NotificationEvent::decode(
        new.event_id,
        new.occurred_at,
        StoredPayload {
            event_type: new.event_type,
            schema_version: new.schema_version,
            data: &new.data,
        },
    );
    read.ok().as_ref() == new.decided.as_deref()
}

impl Recordable for Notification {
    fn to_new(&self, event: &NotificationEvent) -> NewEvent {
        let new = NewEvent {
            event_id: event.event_id,
            event_type: event.body.event_name(),
            schema_version: SCHEMA_VERSION,
            occurred_at: event.occurred_at,
            subscriber_id: self.subscriber_id().cloned(),
            data: event.encode(),
            decided: Some(Box::new(event.clone())),
        };
        debug_assert!(is_read_as_decided(&new), "{event:?}");
        new
    }

    fn from_recorded(event: &RecordedEvent) -> Result<NotificationEvent, DecodeError> {
        NotificationEvent::decode(
            event.event_id,
            Timestamp::from_micros_clamped(event.occurred_at),
            payload(event),
        )
    }

    fn references(&self, event: &NotificationEvent) -> Vec<String> {
        let Body::Reported(report) = &event.body else {
            return Vec::new();
        };
        let is_new = |part: &dyn Fn(&crate::domain::event::Report) -> bool| {
            !self
                .reports()
                .iter()
                .any(|known| known.event_id != event.event_id && part(&known.value))
        };
        let message = &report.message;
        let mut references = Vec::new();
        if let Some(id) = &message.provider_message_id
            && is_new(&|known| known.message.provider_message_id.as_ref() == Some(id))
        {
            references.push(provider_message_reference(id));
        }
        if let Some(id) = &message.message_id
            && is_new(&|known| known.message.message_id.as_ref() == Some(id))
        {
            references.push(message_reference(id));
        }
        // A stream that was adopted for this transaction is found anyway: its id follows from it.
        if let Some(id) = &report.context.transaction_id
            && self
                .adoption()
                .is_none_or(|adoption| adoption.value.transaction_id.as_ref() != Some(id))
            && is_new(&|known| known.context.transaction_id.as_ref() == Some(id))
        {
            references.push(transaction_reference(id));
        }
        references
    }

    fn subscriber_id(&self) -> Option<&SubscriberId> {
        self.subscriber_id()
    }

    fn weight(&self) -> usize {
        const NOTIFICATION: usize = 1024;
        const REPORT: usize = 512;
        let sealed =
            |text: Option<&crate::domain::event::Sealed>| text.map_or(0, |text| text.0.len());
        let request = self.request().map_or(0, |request| {
            let metadata: usize = request
                .value
                .metadata
                .iter()
                .map(|(key, value)| key.len() + value.len() + 64)
                .sum();
            sealed(request.sealed.as_ref()) + metadata
        });
        let reports: usize = self
            .reports()
            .iter()
            .map(|report| REPORT + sealed(report.sealed.as_ref()))
            .sum();
        NOTIFICATION + request + reports
    }
}

impl Recordable for Integration {
    fn to_new(&self, event: &IntegrationEvent) -> NewEvent {
        NewEvent {
            event_id: event.event_id,
            event_type: crate::domain::event::names::INTEGRATION_CHANGED,
            schema_version: SCHEMA_VERSION,
            occurred_at: event.occurred_at,
            subscriber_id: event.change.subscriber_id.clone(),
            data: event.encode(),
            decided: None,
        }
    }

    fn from_recorded(event: &RecordedEvent) -> Result<IntegrationEvent, DecodeError> {
        IntegrationEvent::decode(
            event.event_id,
            Timestamp::from_micros_clamped(event.occurred_at),
            payload(event),
        )
    }

    fn references(&self, _event: &IntegrationEvent) -> Vec<String> {
        Vec::new()
    }

    fn subscriber_id(&self) -> Option<&SubscriberId> {
        None
    }

    fn weight(&self) -> usize {
        // Not cached: see `cache.rs`.
        0
    }
}

impl Recordable for Subscriber {
    fn to_new(&self, event: &SubscriberErased) -> NewEvent {
        NewEvent {
            event_id: event.event_id,
            event_type: crate::domain::event::names::SUBSCRIBER_ERASED,
            schema_version: SCHEMA_VERSION,
            occurred_at: event.erased_at,
            subscriber_id: Some(event.subscriber_id.clone()),
            data: event.encode(),
            decided: None,
        }
    }

    fn from_recorded(event: &RecordedEvent) -> Result<SubscriberErased, DecodeError> {
        SubscriberErased::decode(
            event.event_id,
            Timestamp::from_micros_clamped(event.occurred_at),
            payload(event),
        )
    }

    fn references(&self, _event: &SubscriberErased) -> Vec<String> {
        Vec::new()
    }

    fn subscriber_id(&self) -> Option<&SubscriberId> {
        None
    }

    fn weight(&self) -> usize {
        // Not cached: erasures are seldom.
        0
    }
}
