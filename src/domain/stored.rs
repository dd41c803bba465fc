//! How events are written down, and how every version ever written is read.
//!
//! The stored JSON is a promise: it is hashed, kept for ever and never rewritten. So its
//! shape stands here by hand, apart from the types the rules use. A new shape gets a new
//! `schema_version` and an *upcaster*: a pure function from the old payload to the next.
//! Each version ever released has a fixture in `tests/fixtures/events/`.

use std::sync::Arc;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{
    Adopted, Body, BounceType, Category, Classification, Context, Fact, Interaction, MessageRef,
    NotificationEvent, Priority, Queued, Report, Requested, Sealed, names,
};
use super::ids::{EventId, SubscriberId, WorkflowId};
use super::time::Timestamp;

/// The version every event is written in today.
pub const SCHEMA_VERSION: i32 = 1;

/// A payload as it stands in the record.
#[derive(Clone, Copy, Debug)]
pub struct StoredPayload<'a> {
    pub event_type: &'a str,
    pub schema_version: i32,
    pub data: &'a str,
}

/// A payload the code can't read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("`{0}` is not an event of this kind of stream")]
    UnknownType(String),
    /// Written by a newer release. Reading on would lose what the new version says.
    #[error("`{event_type}` has schema version {found}; this release reads up to {SCHEMA_VERSION}")]
    TooNew { event_type: String, found: i32 },
    #[error("no upcaster leads from version {found} of `{event_type}`")]
    NoUpcaster { event_type: String, found: i32 },
    #[error("the payload of `{event_type}` does not fit its schema")]
    Malformed {
        event_type: String,
        source: serde_json::Error,
    },
    #[error("`{event_type}` lacks `{field}`")]
    Missing {
        event_type: String,
        field: &'static str,
    },
}

/// Leads one event type from one version to the next.
#[derive(Clone, Copy, Debug)]
pub struct Upcaster {
    pub event_type: &'static str,
    pub from: i32,
    pub upcast: fn(Value) -> Value,
}

/// Every upcaster there is. None yet: all types are still in their first version.
pub const UPCASTERS: &[Upcaster] = &[];

/// The payload's text in today's version; borrowed when it already is.
///
/// # Errors
///
/// [`DecodeError::TooNew`] or [`DecodeError::NoUpcaster`] when no way leads there.
pub fn upcast<'a>(
    stored: StoredPayload<'a>,
    upcasters: &[Upcaster],
    target: i32,
) -> Result<Cow<'a, str>, DecodeError> {
    if stored.schema_version == target {
        return Ok(Cow::Borrowed(stored.data));
    }
    let event_type = || stored.event_type.to_owned();
    if stored.schema_version > target {
        return Err(DecodeError::TooNew {
            event_type: event_type(),
            found: stored.schema_version,
        });
    }
    let mut value: Value =
        serde_json::from_str(stored.data).map_err(|source| DecodeError::Malformed {
            event_type: event_type(),
            source,
        })?;
    for version in stored.schema_version..target {
        let step = upcasters
            .iter()
            .find(|step| step.event_type == stored.event_type && step.from == version)
            .ok_or_else(|| DecodeError::NoUpcaster {
                event_type: event_type(),
                found: version,
            })?;
        value = (step.upcast)(value);
    }
    Ok(Cow::Owned(value.to_string()))
}

pub(super) fn parse<'a, T: Deserialize<'a>>(
    event_type: &str,
    data: &'a str,
) -> Result<T, DecodeError> {
    serde_json::from_str(data).map_err(|source| DecodeError::Malformed {
        event_type: event_type.to_owned(),
        source,
    })
}

/// What most payloads have room in, but for what is sealed in them.
const UNSEALED_BYTES_USUAL: usize = 512;

/// The JSON of an event whose fields all serialise; `sealed` is one of them, if it has any.
pub(super) fn write<T: Serialize>(sealed: Option<&Sealed>, value: &T) -> String {
    let sealed_bytes = sealed.map_or(0, |sealed| sealed.0.len());
    let mut json = Vec::with_capacity(UNSEALED_BYTES_USUAL + sealed_bytes);
    // Maps have text keys and numbers are finite, so there is nothing to fail on; and JSON is UTF-8.
    match serde_json::to_writer(&mut json, value) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestedV1<'a> {
    // Borrowed, since these two become ids; what stays text is owned from the start.
    #[serde(borrow)]
    workflow_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workflow_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subscriber_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    external_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    channels: Cow<'a, [String]>,
    category: Category,
    priority: Priority,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classification: Option<Cow<'a, Classification>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Cow<'a, BTreeMap<String, String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdoptedV1<'a> {
    provider: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transaction_id: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueuedV1<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    available_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    answers: Cow<'a, [EventId]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetractedV1 {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

/// All facts share one shape; which of the last fields are there depends on the type.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportV1<'a> {
    #[serde(default)]
    message: Cow<'a, MessageRef>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    untimed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivery_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<Cow<'a, Context>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bounce_type: Option<BounceType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Interaction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
}

impl NotificationEvent {
    /// The payload in today's version.
    pub fn encode(&self) -> String {
        let sealed = self.sealed.as_ref();
        match &self.body {
            Body::Requested(requested) => write(sealed, &requested_v1(requested, sealed.cloned())),
            Body::Adopted(adopted) => write(
                sealed,
                &AdoptedV1 {
                    provider: (&adopted.provider).into(),
                    transaction_id: adopted.transaction_id.as_deref().map(Cow::Borrowed),
                },
            ),
            Body::Queued(queued) => write(
                sealed,
                &QueuedV1 {
                    queue: queued.queue.as_deref().map(Cow::Borrowed),
                    available_at: queued.available_at,
                    answers: Cow::Borrowed(&queued.answers),
                },
            ),
            Body::Reported(report) => write(sealed, &report_v1(report, sealed.cloned())),
            Body::Retracted => write(
                sealed,
                &RetractedV1 {
                    sealed: sealed.cloned(),
                },
            ),
        }
    }

    /// Reads a payload of any version ever written.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the payload is of no known type, too new, or damaged.
    pub fn decode(
        event_id: EventId,
        occurred_at: Timestamp,
        stored: StoredPayload<'_>,
    ) -> Result<Self, DecodeError> {
        let data = upcast(stored, UPCASTERS, SCHEMA_VERSION)?;
        let (body, sealed) = decode_body(stored.event_type, &data)?;
        Ok(Self {
            event_id,
            occurred_at,
            sealed,
            body,
        })
    }
}

fn requested_v1(requested: &Requested, sealed: Option<Sealed>) -> RequestedV1<'_> {
    let classification = &requested.classification;
    let metadata = &requested.metadata;
    RequestedV1 {
        workflow_id: requested.workflow_id.as_str().into(),
        workflow_version: requested.workflow_version.as_deref().map(Cow::Borrowed),
        subscriber_id: requested.subscriber_id.as_str().into(),
        external_id: requested.external_id.as_deref().map(Cow::Borrowed),
        channels: Cow::Borrowed(&requested.channels),
        category: requested.category,
        priority: requested.priority,
        classification: (!classification.is_empty()).then_some(Cow::Borrowed(classification)),
        scheduled_at: requested.scheduled_at,
        expires_at: requested.expires_at,
        metadata: (!metadata.is_empty()).then_some(Cow::Borrowed(metadata)),
        sealed,
    }
}

fn report_v1(report: &Report, sealed: Option<Sealed>) -> ReportV1<'_> {
    let mut stored = ReportV1 {
        message: Cow::Borrowed(&report.message),
        untimed: report.untimed,
        delivery_id: report.delivery_id.as_deref().map(Cow::Borrowed),
        context: (report.context != Context::default()).then_some(Cow::Borrowed(&report.context)),
        sealed,
        bounce_type: None,
        code: None,
        retryable: None,
        is_final: None,
        attempt: None,
        kind: None,
        reason: None,
    };
    match &report.fact {
        Fact::Sent | Fact::Delivered | Fact::Seen | Fact::Read => {}
        Fact::Bounced { bounce_type, code } => {
            stored.bounce_type = Some(*bounce_type);
            stored.code = code.as_deref().map(Cow::Borrowed);
        }
        Fact::Failed {
            code,
            retryable,
            is_final,
            attempt,
        } => {
            stored.code = code.as_deref().map(Cow::Borrowed);
            stored.retryable = Some(*retryable);
            stored.is_final = Some(*is_final);
            stored.attempt = *attempt;
        }
        Fact::Interacted { kind } => stored.kind = Some(*kind),
        Fact::Suppressed { reason } => stored.reason = Some(reason.into()),
    }
    stored
}

fn decode_body(event_type: &str, data: &str) -> Result<(Body, Option<Sealed>), DecodeError> {
    match event_type {
        names::REQUESTED => {
            let stored: RequestedV1<'_> = parse(event_type, data)?;
            let sealed = stored.sealed.clone();
            Ok((Body::Requested(Arc::new(requested(stored)?)), sealed))
        }
        names::ADOPTED => {
            let stored: AdoptedV1<'_> = parse(event_type, data)?;
            let adopted = Adopted {
                provider: stored.provider.into_owned(),
                transaction_id: stored.transaction_id.map(Cow::into_owned),
            };
            Ok((Body::Adopted(adopted), None))
        }
        names::QUEUED => {
            let stored: QueuedV1<'_> = parse(event_type, data)?;
            let queued = Queued {
                queue: stored.queue.map(Cow::into_owned),
                available_at: stored.available_at,
                answers: stored.answers.into_owned(),
            };
            Ok((Body::Queued(queued), None))
        }
        names::RETRACTED => {
            let stored: RetractedV1 = parse(event_type, data)?;
            Ok((Body::Retracted, stored.sealed))
        }
        _ => {
            let stored: ReportV1<'_> = parse_report(event_type, data)?;
            let sealed = stored.sealed.clone();
            Ok((
                Body::Reported(Arc::new(report(event_type, stored)?)),
                sealed,
            ))
        }
    }
}

fn parse_report<'a>(event_type: &str, data: &'a str) -> Result<ReportV1<'a>, DecodeError> {
    match event_type {
        names::SENT
        | names::DELIVERED
        | names::BOUNCED
        | names::FAILED
        | names::SEEN
        | names::READ
        | names::INTERACTED
        | names::SUPPRESSED => parse(event_type, data),
        _ => Err(DecodeError::UnknownType(event_type.to_owned())),
    }
}

fn requested(stored: RequestedV1<'_>) -> Result<Requested, DecodeError> {
    let missing = |field| DecodeError::Missing {
        event_type: names::REQUESTED.to_owned(),
        field,
    };
    Ok(Requested {
        workflow_id: WorkflowId::new(&stored.workflow_id).map_err(|_| missing("workflow_id"))?,
        workflow_version: stored.workflow_version.map(Cow::into_owned),
        subscriber_id: SubscriberId::new(&stored.subscriber_id)
            .map_err(|_| missing("subscriber_id"))?,
        external_id: stored.external_id.map(Cow::into_owned),
        channels: stored.channels.into_owned(),
        category: stored.category,
        priority: stored.priority,
        classification: stored
            .classification
            .map(Cow::into_owned)
            .unwrap_or_default(),
        scheduled_at: stored.scheduled_at,
        expires_at: stored.expires_at,
        metadata: stored.metadata.map(Cow::into_owned).unwrap_or_default(),
    })
}

fn report(event_type: &str, stored: ReportV1<'_>) -> Result<Report, DecodeError> {
    let missing = |field| DecodeError::Missing {
        event_type: event_type.to_owned(),
        field,
    };
    let fact = match event_type {
        names::SENT => Fact::Sent,
        names::DELIVERED => Fact::Delivered,
        names::SEEN => Fact::Seen,
        names::READ => Fact::Read,
        names::BOUNCED => Fact::Bounced {
            bounce_type: stored.bounce_type.ok_or_else(|| missing("bounce_type"))?,
            code: stored.code.map(Cow::into_owned),
        },
        names::FAILED => Fact::Failed {
            code: stored.code.map(Cow::into_owned),
            retryable: stored.retryable.ok_or_else(|| missing("retryable"))?,
            is_final: stored.is_final.ok_or_else(|| missing("final"))?,
            attempt: stored.attempt,
        },
        names::INTERACTED => Fact::Interacted {
            kind: stored.kind.ok_or_else(|| missing("kind"))?,
        },
        names::SUPPRESSED => Fact::Suppressed {
            reason: stored
                .reason
                .map(Cow::into_owned)
                .ok_or_else(|| missing("reason"))?,
        },
        _ => return Err(DecodeError::UnknownType(event_type.to_owned())),
    };
    Ok(Report {
        message: stored.message.into_owned(),
        untimed: stored.untimed,
        delivery_id: stored.delivery_id.map(Cow::into_owned),
        context: stored.context.map(Cow::into_owned).unwrap_or_default(),
        fact,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_payload_is_led_through_every_version_in_turn() {
        let steps = [
            Upcaster {
                event_type: "notification.sent",
                from: 1,
                upcast: |mut value| {
                    value["channel"] = "email".into();
                    value
                },
            },
            Upcaster {
                event_type: "notification.sent",
                from: 2,
                upcast: |value| serde_json::json!({ "message": value }),
            },
        ];
        let old = StoredPayload {
            event_type: "notification.sent",
            schema_version: 1,
            data: "{}",
        };

        assert_eq!(
            upcast(old, &steps, 3).unwrap(),
            r#"{"message":{"channel":"email"}}"#
        );
        assert!(matches!(
            upcast(old, &steps[1..], 3),
            Err(DecodeError::NoUpcaster { found: 1, .. })
        ));
    }

    #[test]
    fn a_payload_from_a_newer_release_is_refused() {
        let newer = StoredPayload {
            event_type: names::RETRACTED,
            schema_version: SCHEMA_VERSION + 1,
            data: "{}",
        };

        let decoded = NotificationEvent::decode(EventId(uuid::Uuid::nil()), Timestamp::MIN, newer);

        assert!(matches!(decoded, Err(DecodeError::TooNew { .. })));
    }
}
