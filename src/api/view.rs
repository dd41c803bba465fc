//! How notifications and events look from outside. Sealed parts are opened here, or shown to be
//! erased.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::state::ApiState;
use crate::domain::anomaly::Anomaly;
use crate::domain::event::{Classification, Interaction, Sealed, names};
use crate::domain::ids::EventId;
use crate::domain::notification::Notification;
use crate::domain::precedence::PrecedenceRule;
use crate::domain::state::{LastError, Message, Times};
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, RecordedEvent, StreamKey, Tip};
use crate::problem::{Problem, internal};

/// One notification, as callers see it.
#[derive(Debug, Serialize)]
pub struct NotificationView {
    pub id: uuid::Uuid,
    pub tenant_id: String,
    pub external_id: Option<String>,
    pub workflow_id: Option<String>,
    pub workflow_version: Option<String>,
    pub status: &'static str,
    /// Which rule judged between contradicting reports.
    pub rule: &'static str,
    /// Sequence of the last event; the value for `If-Match`.
    pub version: i64,
    pub category: Option<&'static str>,
    pub priority: Option<&'static str>,
    pub channels: Vec<String>,
    pub classification: Option<Classification>,
    pub subscriber: Option<SubscriberView>,
    pub payload: Option<Box<RawValue>>,
    pub metadata: BTreeMap<String, String>,
    pub messages: Vec<MessageView>,
    pub scheduled_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub requested_at: Option<Timestamp>,
    pub queued_at: Option<Timestamp>,
    pub queue: Option<String>,
    pub available_at: Option<Timestamp>,
    #[serde(flatten)]
    pub times: TimesView,
    pub retracted_at: Option<Timestamp>,
    pub retraction_reason: Option<String>,
    pub anomalies: Vec<Anomaly>,
    /// The stream was begun by a provider's report.
    pub adopted: bool,
    /// The subscriber was erased: what was sealed is gone for good.
    pub erased: bool,
    /// Only in the answer to a fact that was on record already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deduplicated: bool,
}

/// The recipient; all but the id is gone after an erasure.
#[derive(Debug, Serialize)]
pub struct SubscriberView {
    pub id: String,
    #[serde(flatten)]
    pub sealed: Recipient,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipient {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
}

/// When each stage was reached.
#[derive(Debug, Serialize)]
pub struct TimesView {
    pub sent_at: Option<Timestamp>,
    pub delivered_at: Option<Timestamp>,
    pub bounced_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
    pub suppressed_at: Option<Timestamp>,
    pub seen_at: Option<Timestamp>,
    pub read_at: Option<Timestamp>,
}

/// One hand-over of the notification to one channel, step and provider.
#[derive(Debug, Serialize)]
pub struct MessageView {
    pub message_key: String,
    pub channel: Option<String>,
    pub step_id: Option<String>,
    pub provider_id: Option<String>,
    pub provider_message_id: Option<String>,
    pub status: &'static str,
    #[serde(flatten)]
    pub times: TimesView,
    pub attempts: u32,
    pub bounce_type: Option<&'static str>,
    pub suppressed_reason: Option<String>,
    /// When each was last done.
    pub interactions: BTreeMap<Interaction, Timestamp>,
    pub last_error: Option<LastErrorView>,
}

#[derive(Debug, Serialize)]
pub struct LastErrorView {
    pub code: Option<String>,
    pub message: Option<String>,
    pub occurred_at: Timestamp,
}

/// What may be sealed beside an event, whichever event it is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Opened {
    subscriber: Recipient,
    payload: Option<Box<RawValue>>,
    reason: Option<String>,
}

/// Opens sealed parts of one stream, and notices erasures.
struct Opener<'a> {
    state: &'a ApiState,
    stream: &'a StreamKey,
    erased: bool,
}

impl Opener<'_> {
    async fn open(&mut self, event_id: EventId, sealed: Option<&Sealed>) -> Result<Opened, Problem> {
        let Some(sealed) = sealed else {
            return Ok(Opened::default());
        };
        match self.state.ledger.open(self.stream, event_id, sealed).await? {
            Some(text) => serde_json::from_str(&text).map_err(|error| internal(&error)),
            None => {
                self.erased = true;
                Ok(Opened::default())
            }
        }
    }
}

/// Shows a notification as folded up to `tip`.
pub async fn notification(
    state: &ApiState,
    stream: &StreamKey,
    notification: &Notification,
    tip: Tip,
) -> Result<NotificationView, Problem> {
    let mut opener = Opener {
        state,
        stream,
        erased: false,
    };
    let rule = PrecedenceRule::default();
    let summary = notification.summary(rule);
    let request = notification.request();
    let opened = match request {
        Some(request) => opener.open(request.event_id, request.sealed.as_ref()).await?,
        None => Opened::default(),
    };
    let retraction = notification.retraction();
    let retraction_reason = match retraction {
        Some(retraction) => {
            opener.open(retraction.event_id, retraction.sealed.as_ref()).await?.reason
        }
        None => None,
    };
    let mut messages = Vec::with_capacity(summary.messages.len());
    for message in summary.messages {
        messages.push(message_view(message, &mut opener).await?);
    }
    let requested = request.map(|request| &request.value);
    let queued = notification.queued().last().map(|queued| &queued.value);
    Ok(NotificationView {
        id: stream.stream_id.0,
        tenant_id: stream.tenant_id.to_string(),
        external_id: requested.and_then(|requested| requested.external_id.clone()),
        workflow_id: notification.workflow_id().map(ToString::to_string),
        workflow_version: requested.and_then(|requested| requested.workflow_version.clone()),
        status: summary.status.as_str(),
        rule: rule.name(),
        version: tip.sequence.0,
        category: requested.map(|requested| requested.category.as_str()),
        priority: requested.map(|requested| requested.priority.as_str()),
        channels: requested.map(|requested| requested.channels.clone()).unwrap_or_default(),
        classification: requested
            .map(|requested| requested.classification.clone())
            .filter(|classification| !classification.is_empty()),
        subscriber: notification.subscriber_id().map(|id| SubscriberView {
            id: id.to_string(),
            sealed: opened.subscriber,
        }),
        payload: opened.payload,
        metadata: requested.map(|requested| requested.metadata.clone()).unwrap_or_default(),
        messages,
        scheduled_at: requested.and_then(|requested| requested.scheduled_at),
        expires_at: requested.and_then(|requested| requested.expires_at),
        requested_at: request.map(|request| request.occurred_at),
        queued_at: summary.queued_at,
        queue: queued.and_then(|queued| queued.queue.clone()),
        available_at: queued.and_then(|queued| queued.available_at),
        times: summary.times.into(),
        retracted_at: retraction.map(|retraction| retraction.occurred_at),
        retraction_reason,
        anomalies: summary.anomalies,
        adopted: notification.adoption().is_some(),
        erased: opener.erased,
        deduplicated: false,
    })
}

async fn message_view(message: Message, opener: &mut Opener<'_>) -> Result<MessageView, Problem> {
    let last_error = match message.last_error {
        Some(error) => Some(last_error_view(error, opener).await?),
        None => None,
    };
    Ok(MessageView {
        message_key: message.identity.key,
        channel: message.identity.channel,
        step_id: message.identity.step_id,
        provider_id: message.identity.provider_id,
        provider_message_id: message.identity.provider_message_id,
        status: message.status.as_str(),
        times: message.times.into(),
        attempts: message.attempts,
        bounce_type: message.bounce_type.map(crate::domain::event::BounceType::as_str),
        suppressed_reason: message.suppressed_reason,
        interactions: message.interactions,
        last_error,
    })
}

async fn last_error_view(error: LastError, opener: &mut Opener<'_>) -> Result<LastErrorView, Problem> {
    Ok(LastErrorView {
        message: opener.open(error.event_id, error.sealed.as_ref()).await?.reason,
        code: error.code,
        occurred_at: error.occurred_at,
    })
}

impl From<Times> for TimesView {
    fn from(times: Times) -> Self {
        let Times {
            sent_at,
            delivered_at,
            bounced_at,
            failed_at,
            suppressed_at,
            seen_at,
            read_at,
        } = times;
        Self {
            sent_at,
            delivered_at,
            bounced_at,
            failed_at,
            suppressed_at,
            seen_at,
            read_at,
        }
    }
}

/// One event, as auditors see it.
#[derive(Debug, Serialize)]
pub struct EventView {
    pub event_id: uuid::Uuid,
    pub tenant_id: String,
    pub notification_id: uuid::Uuid,
    pub sequence: i64,
    pub position: LedgerPosition,
    #[serde(rename = "type")]
    pub event_type: String,
    pub schema_version: i32,
    pub occurred_at: Timestamp,
    pub recorded_at: Timestamp,
    pub actor: ActorView,
    pub source: String,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
    pub traceparent: Option<String>,
    /// The chain hash, in hexadecimal.
    pub hash: String,
    pub data: BTreeMap<String, Box<RawValue>>,
}

#[derive(Debug, Serialize)]
pub struct ActorView {
    pub kind: String,
    pub id: String,
}

/// Shows a recorded event, with its sealed part opened into its data.
pub async fn event(
    state: &ApiState,
    stream: &StreamKey,
    event: &RecordedEvent,
) -> Result<EventView, Problem> {
    let mut data: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&event.data).map_err(|error| internal(&error))?;
    if let Some(sealed) = data.remove("sealed") {
        let sealed: Sealed = serde_json::from_str(sealed.get()).map_err(|error| internal(&error))?;
        match state.ledger.open(stream, event.event_id, &sealed).await? {
            Some(text) => {
                let opened: BTreeMap<String, Box<RawValue>> =
                    serde_json::from_str(&text).map_err(|error| internal(&error))?;
                data.extend(opened);
            }
            None => {
                data.insert("erased".to_owned(), raw(&true)?);
            }
        }
    }
    if event.event_type == names::REQUESTED {
        show_subscriber(&mut data)?;
    }
    if event.event_type == names::FAILED {
        show_error(&mut data)?;
    }
    Ok(EventView {
        event_id: event.event_id.0,
        tenant_id: event.tenant_id.clone(),
        notification_id: event.stream_id.0,
        sequence: event.sequence.0,
        position: event.ledger_position(),
        event_type: event.event_type.clone(),
        schema_version: event.schema_version,
        occurred_at: Timestamp::from_micros_clamped(event.occurred_at),
        recorded_at: Timestamp::from_micros_clamped(event.recorded_at),
        actor: ActorView {
            kind: event.actor_kind.clone(),
            id: event.actor_id.clone(),
        },
        source: event.source.clone(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        traceparent: event.traceparent.clone(),
        hash: hex(&event.hash),
        data,
    })
}

/// In the record the subscriber's id stands apart from what is sealed; callers sent them together.
fn show_subscriber(data: &mut BTreeMap<String, Box<RawValue>>) -> Result<(), Problem> {
    let Some(id) = data.remove("subscriber_id") else {
        return Ok(());
    };
    let mut subscriber: BTreeMap<String, Box<RawValue>> = match data.remove("subscriber") {
        Some(sealed) => serde_json::from_str(sealed.get()).map_err(|error| internal(&error))?,
        None => BTreeMap::new(),
    };
    subscriber.insert("id".to_owned(), id);
    data.insert("subscriber".to_owned(), raw(&subscriber)?);
    Ok(())
}

/// A failure's code and words, together again as they were reported.
fn show_error(data: &mut BTreeMap<String, Box<RawValue>>) -> Result<(), Problem> {
    let mut error = BTreeMap::new();
    for (stored, shown) in [("code", "code"), ("reason", "message")] {
        if let Some(value) = data.remove(stored) {
            error.insert(shown, value);
        }
    }
    data.insert("error".to_owned(), raw(&error)?);
    Ok(())
}

fn raw<T: Serialize>(value: &T) -> Result<Box<RawValue>, Problem> {
    serde_json::value::to_raw_value(value).map_err(|error| internal(&error))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
