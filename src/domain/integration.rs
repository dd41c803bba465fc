//! Provider-side changes that are not about one message: workflows edited, preferences set.
//!
//! One stream per changed object, so that its history reads in order.

use std::borrow::Cow;
use std::sync::Arc;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

use super::event::{Sealed, names};
use super::ids::{EventId, SubscriberId};
use super::sealing::{Sealer, SealingError, Subject};
use super::stored::{DecodeError, SCHEMA_VERSION, StoredPayload, UPCASTERS, parse, upcast, write};
use super::time::Timestamp;

/// Everything one provider-side object was reported to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// By time.
    changes: Vec<(Timestamp, EventId, Change)>,
}

/// One change of one object. Sealed beside it: the raw report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub provider: String,
    /// The provider's own word for it, such as `workflow.updated`.
    pub change: String,
    pub object_id: String,
    /// What people call the object (Novu: the workflow's trigger name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriber_id: Option<SubscriberId>,
    /// The transport's own id of this delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<String>,
    /// Equal for two reports of the same change, whatever envelope they came in.
    pub fact_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationEvent {
    pub event_id: EventId,
    pub occurred_at: Timestamp,
    pub sealed: Option<Sealed>,
    pub change: Change,
}

/// Report a change.
#[derive(Clone, Debug)]
pub struct IntegrationCommand {
    pub event_id: EventId,
    pub occurred_at: Timestamp,
    pub change: Change,
    /// JSON to be sealed beside the event.
    pub private: Option<Arc<str>>,
}

impl Integration {
    /// No change is on record.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// A preference may be set back to what it was, so there only the latest value, or the same
    /// time, makes a repeat; other changes never come again.
    fn knows(&self, change: &Change, occurred_at: Timestamp) -> bool {
        let same_delivery =
            |known: &Change| known.delivery_id.is_some() && known.delivery_id == change.delivery_id;
        let may_return = change.change.starts_with("preference.");
        let latest = self.changes.last().map(|(_, event_id, _)| event_id);
        self.changes.iter().any(|(known_at, event_id, known)| {
            let returns = may_return && *known_at != occurred_at && Some(event_id) != latest;
            same_delivery(known) || (known.fact_key == change.fact_key && !returns)
        })
    }
}

impl Aggregate for Integration {
    const TYPE: &'static str = "integration";
    type Command = IntegrationCommand;
    type Event = IntegrationEvent;
    type Error = SealingError;
    type Services = Arc<dyn Sealer>;

    async fn handle(
        &mut self,
        command: Self::Command,
        sealer: &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        if self.knows(&command.change, command.occurred_at) {
            return Ok(());
        }
        let subject = command
            .change
            .subscriber_id
            .clone()
            .map_or(Subject::Stream, Subject::Subscriber);
        let private = match &command.private {
            Some(text) => Some(sealer.seal(&subject, command.event_id, text).await?),
            None => None,
        };
        let event = IntegrationEvent {
            event_id: command.event_id,
            occurred_at: command.occurred_at,
            sealed: private,
            change: command.change,
        };
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Self::Event) {
        let new = (event.occurred_at, event.event_id, event.change);
        let place = self
            .changes
            .partition_point(|old| (old.0, old.1) <= (new.0, new.1));
        self.changes.insert(place, new);
    }
}

impl DomainEvent for IntegrationEvent {
    fn event_type(&self) -> String {
        names::INTEGRATION_CHANGED.to_owned()
    }

    fn event_version(&self) -> String {
        SCHEMA_VERSION.to_string()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangedV1<'a> {
    provider: Cow<'a, str>,
    change: Cow<'a, str>,
    object_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subscriber_id: Option<Cow<'a, SubscriberId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivery_id: Option<Cow<'a, str>>,
    fact_key: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

impl IntegrationEvent {
    /// The payload in today's version.
    pub fn encode(&self) -> String {
        let change = &self.change;
        write(
            self.sealed.as_ref(),
            &ChangedV1 {
                provider: (&change.provider).into(),
                change: (&change.change).into(),
                object_id: (&change.object_id).into(),
                name: change.name.as_deref().map(Cow::Borrowed),
                subscriber_id: change.subscriber_id.as_ref().map(Cow::Borrowed),
                delivery_id: change.delivery_id.as_deref().map(Cow::Borrowed),
                fact_key: (&change.fact_key).into(),
                sealed: self.sealed.clone(),
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
        if stored.event_type != names::INTEGRATION_CHANGED {
            return Err(DecodeError::UnknownType(stored.event_type.to_owned()));
        }
        let data = upcast(stored, UPCASTERS, SCHEMA_VERSION)?;
        let payload: ChangedV1<'_> = parse(stored.event_type, &data)?;
        Ok(Self {
            event_id,
            occurred_at,
            sealed: payload.sealed,
            change: Change {
                provider: payload.provider.into_owned(),
                change: payload.change.into_owned(),
                object_id: payload.object_id.into_owned(),
                name: payload.name.map(Cow::into_owned),
                subscriber_id: payload.subscriber_id.map(Cow::into_owned),
                delivery_id: payload.delivery_id.map(Cow::into_owned),
                fact_key: payload.fact_key.into_owned(),
            },
        })
    }
}
