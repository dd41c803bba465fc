//! One notification, as callers see it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::sealed::{JustSealed, Opened, open};
use crate::api::schema;
use crate::api::state::ApiState;
use crate::domain::anomaly::Anomaly;
use crate::domain::event::{
    Audience, BounceType, Category, Classification, Priority, Sealed, Severity,
};
use crate::domain::ids::{EventId, WorkflowId};
use crate::domain::notification::Notification;
use crate::domain::precedence::PrecedenceRule;
use crate::domain::state::{LastError, Message, Status, Times};
use crate::domain::time::Timestamp;
use crate::ledger::record::{StreamKey, Tip};
use crate::ledger::sealing::key_id;
use crate::problem::Problem;

/// One notification, with all that was sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct NotificationView<'a> {
    #[serde(flatten)]
    pub listed: ListedNotification<'a>,
    /// As it was sent; `null` once the subscriber was erased.
    #[schema(required, value_type = Option<Object>)]
    pub payload: Option<Cow<'a, RawValue>>,
    /// Only in the answer to a fact that was on record already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deduplicated: bool,
}

/// One notification, but for what was sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedNotification<'a> {
    pub id: Uuid,
    #[schema(example = "acme")]
    pub tenant_id: &'a str,
    #[schema(required)]
    pub external_id: Option<&'a str>,
    #[schema(required)]
    pub workflow_id: Option<&'a str>,
    #[schema(required)]
    pub workflow_version: Option<&'a str>,
    #[schema(value_type = Status)]
    pub status: &'static str,
    /// Which rule judged between contradicting reports.
    #[schema(example = "provider-truth-v1")]
    pub rule: &'static str,
    /// Sequence of the last event; the value for `If-Match`.
    #[schema(minimum = 1)]
    pub version: i64,
    #[schema(required, value_type = Option<Category>)]
    pub category: Option<&'static str>,
    #[schema(required, value_type = Option<Priority>)]
    pub priority: Option<&'static str>,
    #[schema(value_type = Vec<String>)]
    pub channels: &'a [String],
    #[schema(required)]
    pub classification: Option<ClassificationView<'a>>,
    /// In lists, only the id.
    #[schema(required)]
    pub subscriber: Option<SubscriberView<'a>>,
    #[schema(value_type = BTreeMap<String, String>)]
    pub metadata: &'a BTreeMap<String, String>,
    pub messages: Vec<MessageView>,
    #[schema(required)]
    pub scheduled_at: Option<Timestamp>,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    #[schema(required)]
    pub requested_at: Option<Timestamp>,
    #[schema(required)]
    pub queued_at: Option<Timestamp>,
    #[schema(required)]
    pub queue: Option<&'a str>,
    #[schema(required)]
    pub available_at: Option<Timestamp>,
    #[serde(flatten)]
    pub times: TimesView,
    #[schema(required)]
    pub retracted_at: Option<Timestamp>,
    #[schema(required)]
    pub retraction_reason: Option<String>,
    /// What does not fit together in what was reported.
    pub anomalies: Vec<AnomalyView>,
    /// The history was begun by a provider's report.
    pub adopted: bool,
    /// The subscriber was erased: what was sealed is gone for good.
    pub erased: bool,
}

impl<'a> NotificationView<'a> {
    /// As lists show it: without the payload and the recipient's addresses.
    pub fn listed(self) -> ListedNotification<'a> {
        let mut listed = self.listed;
        if let Some(subscriber) = &mut listed.subscriber {
            subscriber.sealed = Recipient::default();
        }
        listed
    }
}

/// How the caller files the notification.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassificationView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Audience)]
    pub audience: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Severity)]
    pub severity: Option<&'static str>,
}

/// The recipient; all but the id is gone after an erasure.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriberView<'a> {
    pub id: &'a str,
    #[serde(flatten)]
    pub sealed: Recipient,
}

/// How to reach somebody.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// Addresses by channel.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
}

impl Recipient {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When each stage was reached.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimesView {
    #[schema(required)]
    pub sent_at: Option<Timestamp>,
    #[schema(required)]
    pub delivered_at: Option<Timestamp>,
    #[schema(required)]
    pub bounced_at: Option<Timestamp>,
    #[schema(required)]
    pub failed_at: Option<Timestamp>,
    #[schema(required)]
    pub suppressed_at: Option<Timestamp>,
    #[schema(required)]
    pub seen_at: Option<Timestamp>,
    #[schema(required)]
    pub read_at: Option<Timestamp>,
}

/// One hand-over of the notification to one channel, step and provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageView {
    /// Names the message within its notification.
    pub message_key: String,
    #[schema(required)]
    pub channel: Option<String>,
    #[schema(required)]
    pub step_id: Option<String>,
    #[schema(required)]
    pub provider_id: Option<String>,
    #[schema(required)]
    pub provider_message_id: Option<String>,
    #[schema(value_type = Status)]
    pub status: &'static str,
    #[serde(flatten)]
    pub times: TimesView,
    /// Hand-overs to the provider that are known of.
    pub attempts: u32,
    #[schema(required, value_type = Option<BounceType>)]
    pub bounce_type: Option<&'static str>,
    #[schema(required)]
    pub suppressed_reason: Option<String>,
    /// When each was last done.
    #[schema(schema_with = schema::interaction_times)]
    pub interactions: BTreeMap<&'static str, Timestamp>,
    /// The latest failure or bounce, whether or not it ended the message.
    #[schema(required)]
    pub last_error: Option<LastErrorView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LastErrorView {
    #[schema(required)]
    pub code: Option<String>,
    #[schema(required)]
    pub message: Option<String>,
    pub occurred_at: Timestamp,
}

/// Something that does not fit together.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnomalyView {
    /// Stable; programs may rely on it.
    #[schema(example = "delivered_and_bounced")]
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: String,
}

/// Opens sealed parts of one stream, and notices erasures.
struct Opener<'a> {
    state: &'a ApiState,
    stream: &'a StreamKey,
    just_sealed: Option<JustSealed<'a>>,
    erased: bool,
}

impl<'a> Opener<'a> {
    async fn open(
        &mut self,
        event_id: EventId,
        sealed: Option<&Sealed>,
    ) -> Result<Opened<'a>, Problem> {
        let Some(sealed) = sealed else {
            return Ok(Opened::default());
        };
        let just_sealed = &mut self.just_sealed;
        if let Some(just_sealed) = just_sealed.take_if(|just| just.event_id == event_id) {
            return Ok(just_sealed.private);
        }
        let opened = open(self.state, self.stream, event_id, sealed).await?;
        self.erased |= opened.is_none();
        Ok(opened.unwrap_or_default())
    }
}

impl Opener<'_> {
    /// Notices erasures of what is not shown here, such as raw reports.
    async fn look_into(&mut self, notification: &Notification) -> Result<(), Problem> {
        let mut seen = Vec::new();
        let reports = notification.reports().iter();
        for sealed in reports.filter_map(|report| report.sealed.as_ref()) {
            if self.erased {
                break;
            }
            let key_id = key_id(sealed);
            if !seen.contains(&key_id) {
                self.erased = self.state.ledger.is_erased(self.stream, sealed).await?;
                seen.push(key_id);
            }
        }
        Ok(())
    }
}

/// Of a notification that nobody requested here.
const NO_METADATA: &BTreeMap<String, String> = &BTreeMap::new();

/// Shows a notification as folded up to `tip`. What was just sealed is not opened again: it is shown
/// as it was when its event became durable.
pub async fn notification<'a>(
    state: &'a ApiState,
    stream: &'a StreamKey,
    notification: &'a Notification,
    tip: Tip,
    just_sealed: Option<JustSealed<'a>>,
) -> Result<NotificationView<'a>, Problem> {
    let mut seals = Opener {
        state,
        stream,
        just_sealed,
        erased: false,
    };
    let rule = PrecedenceRule::default();
    let summary = notification.summary(rule);
    let request = notification.request();
    let opened = match request {
        Some(request) => {
            seals
                .open(request.event_id, request.sealed.as_ref())
                .await?
        }
        None => Opened::default(),
    };
    let retraction = notification.retraction();
    let retraction_reason = match retraction {
        Some(retraction) => {
            seals
                .open(retraction.event_id, retraction.sealed.as_ref())
                .await?
                .reason
        }
        None => None,
    };
    let mut messages = Vec::with_capacity(summary.messages.len());
    for message in summary.messages {
        messages.push(message_view(message, &mut seals).await?);
    }
    seals.look_into(notification).await?;
    let requested = request.map(|request| &request.value);
    let queued = notification.queued().last().map(|queued| &queued.value);
    let listed = ListedNotification {
        id: stream.stream_id.0,
        tenant_id: stream.tenant_id.as_str(),
        external_id: requested.and_then(|requested| requested.external_id.as_deref()),
        workflow_id: notification.workflow_id().map(WorkflowId::as_str),
        workflow_version: requested.and_then(|requested| requested.workflow_version.as_deref()),
        status: summary.status.as_str(),
        rule: rule.name(),
        version: tip.sequence.0,
        category: requested.map(|requested| requested.category.as_str()),
        priority: requested.map(|requested| requested.priority.as_str()),
        channels: requested.map_or(&[], |requested| &requested.channels),
        classification: requested
            .map(|requested| &requested.classification)
            .filter(|classification| !classification.is_empty())
            .map(Into::into),
        subscriber: notification.subscriber_id().map(|id| SubscriberView {
            id: id.as_str(),
            sealed: opened.subscriber,
        }),
        metadata: requested.map_or(NO_METADATA, |requested| &requested.metadata),
        messages,
        scheduled_at: requested.and_then(|requested| requested.scheduled_at),
        expires_at: requested.and_then(|requested| requested.expires_at),
        requested_at: request.map(|request| request.occurred_at),
        queued_at: summary.queued_at,
        queue: queued.and_then(|queued| queued.queue.as_deref()),
        available_at: queued.and_then(|queued| queued.available_at),
        times: summary.times.into(),
        retracted_at: retraction.map(|retraction| retraction.occurred_at),
        retraction_reason,
        anomalies: summary.anomalies.into_iter().map(Into::into).collect(),
        adopted: notification.adoption().is_some(),
        erased: seals.erased,
    };
    Ok(NotificationView {
        listed,
        payload: opened.payload,
        deduplicated: false,
    })
}

async fn message_view(message: Message, seals: &mut Opener<'_>) -> Result<MessageView, Problem> {
    let last_error = match message.last_error {
        Some(error) => Some(last_error_view(error, seals).await?),
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
        bounce_type: message.bounce_type.map(BounceType::as_str),
        suppressed_reason: message.suppressed_reason,
        interactions: message
            .interactions
            .into_iter()
            .map(|(interaction, at)| (interaction.as_str(), at))
            .collect(),
        last_error,
    })
}

async fn last_error_view(
    error: LastError,
    seals: &mut Opener<'_>,
) -> Result<LastErrorView, Problem> {
    Ok(LastErrorView {
        message: seals
            .open(error.event_id, error.sealed.as_ref())
            .await?
            .reason,
        code: error.code,
        occurred_at: error.occurred_at,
    })
}

impl<'a> From<&'a Classification> for ClassificationView<'a> {
    fn from(classification: &'a Classification) -> Self {
        Self {
            error_code: classification.error_code.as_deref(),
            audience: classification.audience.map(Audience::as_str),
            severity: classification.severity.map(Severity::as_str),
        }
    }
}

impl From<Anomaly> for AnomalyView {
    fn from(anomaly: Anomaly) -> Self {
        Self {
            code: anomaly.code,
            detail: anomaly.detail,
        }
    }
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
