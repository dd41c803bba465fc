//! What can happen to a notification.
//!
//! These are the types the rules work on; how they are written down is in `stored.rs`.
//! Free text and addresses are not here: they are sealed before an event exists, and only
//! their box ([`Sealed`]) is carried along.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::ids::{EventId, SubscriberId, WorkflowId};
use super::text::Text;
use super::time::Timestamp;

/// Encrypted text, as it stands in the record. Only the ledger can make or open one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sealed(pub Arc<str>);

impl Serialize for Sealed {
    /// A text with nothing to escape is written as it is: it may be long, and finding out that it ends
    /// where it should takes less than half the time of looking for what to escape.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(text) = self;
        let quoted = ["\"", text, "\""].concat();
        match RawValue::from_string(quoted) {
            // An escape would stand for something else.
            Ok(raw) if !text.contains('\\') => raw.serialize(serializer),
            _ => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Text::deserialize(deserializer)?.0.into()))
    }
}

/// One thing that happened to one notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationEvent {
    pub event_id: EventId,
    /// When it happened, according to who reports it; when the ledger was told, if nobody says.
    pub occurred_at: Timestamp,
    /// Recipient, payload, free text and raw reports, encrypted under the subscriber's key.
    pub sealed: Option<Sealed>,
    pub body: Body,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Requested(Arc<Requested>),
    Adopted(Adopted),
    Queued(Queued),
    Reported(Arc<Report>),
    Retracted,
}

/// Somebody asked for a notification. Sealed beside it: recipient and payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    pub workflow_id: WorkflowId,
    pub workflow_version: Option<String>,
    pub subscriber_id: SubscriberId,
    pub external_id: Option<String>,
    pub channels: Vec<String>,
    pub category: Category,
    pub priority: Priority,
    pub classification: Classification,
    pub scheduled_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub metadata: BTreeMap<String, String>,
}

/// First event of a stream the ledger did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    pub provider: String,
    /// `None` if the provider did not say which transaction the message belongs to.
    pub transaction_id: Option<String>,
}

/// The notification waits in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    pub queue: Option<String>,
    pub available_at: Option<Timestamp>,
    /// The retryable failures this retry answers. They no longer count as an end.
    pub answers: Vec<EventId>,
}

/// A provider or worker says what happened to one message. Sealed beside it: free text and
/// the raw report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Report {
    // First what was said, last how it came: reports of one moment are told apart in this order,
    // so that an envelope never decides between them.
    pub fact: Fact,
    pub message: MessageRef,
    /// The reporter gave no time, so `occurred_at` is the moment the ledger was told.
    pub untimed: bool,
    pub context: Context,
    /// The transport's own id of this delivery, such as `novu:msg_2x…`.
    pub delivery_id: Option<String>,
}

/// How a reporter names the message. Every part is optional; `message.rs` decides which
/// references mean the same message.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageRef {
    /// The reporting platform's id of the message (Novu's `_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The delivering provider's id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,
}

/// What a report knows about the notification around the message; fills adopted streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<WorkflowId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriber_id: Option<SubscriberId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
}

/// What happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fact {
    Sent,
    Delivered,
    Bounced {
        bounce_type: BounceType,
        code: Option<String>,
    },
    Failed {
        code: Option<String>,
        retryable: bool,
        is_final: bool,
        attempt: Option<u32>,
    },
    Seen,
    Read,
    Interacted {
        kind: Interaction,
    },
    Suppressed {
        reason: String,
    },
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every word, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value a word names.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(crate) use words;

words!(
    /// How a message came back.
    BounceType {
        Hard = "hard",
        /// The provider goes on trying: no end yet.
        Soft = "soft",
        Complaint = "complaint",
        Unknown = "unknown",
    }
);

words!(
    /// What a recipient did, beyond seeing and reading.
    Interaction {
        Opened = "opened",
        Clicked = "clicked",
        Archived = "archived",
        Unarchived = "unarchived",
        Snoozed = "snoozed",
        Unsnoozed = "unsnoozed",
        Unread = "unread",
        Deleted = "deleted",
    }
);

words!(
    Category {
        Transactional = "transactional",
        Marketing = "marketing",
        Escalation = "escalation",
    }
);

words!(
    Priority {
        Critical = "critical",
        High = "high",
        Normal = "normal",
        Low = "low",
    }
);

words!(
    /// For whom an error is meant.
    Audience {
        Customer = "customer",
        Support = "support",
    }
);

words!(
    Severity {
        Low = "low",
        Medium = "medium",
        High = "high",
        Critical = "critical",
    }
);

/// How the caller files the notification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Audience>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

impl Classification {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Stored event names. They never change, whatever the Rust types are called.
pub mod names {
    pub const REQUESTED: &str = "notification.requested";
    pub const ADOPTED: &str = "notification.adopted";
    pub const QUEUED: &str = "notification.queued";
    pub const SENT: &str = "notification.sent";
    pub const DELIVERED: &str = "notification.delivered";
    pub const BOUNCED: &str = "notification.bounced";
    pub const FAILED: &str = "notification.failed";
    pub const SEEN: &str = "notification.seen";
    pub const READ: &str = "notification.read";
    pub const INTERACTED: &str = "notification.interacted";
    pub const RETRACTED: &str = "notification.retracted";
    pub const SUPPRESSED: &str = "notification.suppressed";
    pub const SUBSCRIBER_ERASED: &str = "subscriber.erased";
    pub const INTEGRATION_CHANGED: &str = "integration.changed";

    /// Every name an event can have, for filters that name the valid ones.
    pub const ALL: [&str; 14] = [
        REQUESTED,
        ADOPTED,
        QUEUED,
        SENT,
        DELIVERED,
        BOUNCED,
        FAILED,
        SEEN,
        READ,
        INTERACTED,
        RETRACTED,
        SUPPRESSED,
        SUBSCRIBER_ERASED,
        INTEGRATION_CHANGED,
    ];
}

impl Fact {
    /// The stored event name.
    pub fn event_name(&self) -> &'static str {
        match self {
            Self::Sent => names::SENT,
            Self::Delivered => names::DELIVERED,
            Self::Bounced { .. } => names::BOUNCED,
            Self::Failed { .. } => names::FAILED,
            Self::Seen => names::SEEN,
            Self::Read => names::READ,
            Self::Interacted { .. } => names::INTERACTED,
            Self::Suppressed { .. } => names::SUPPRESSED,
        }
    }
}

impl Body {
    /// The stored event name.
    pub fn event_name(&self) -> &'static str {
        match self {
            Self::Requested(_) => names::REQUESTED,
            Self::Adopted(_) => names::ADOPTED,
            Self::Queued(_) => names::QUEUED,
            Self::Reported(report) => report.fact.event_name(),
            Self::Retracted => names::RETRACTED,
        }
    }
}

impl Report {
    /// `known`, said at the same time, says all of this already.
    pub(super) fn adds_nothing_to(&self, known: &Self) -> bool {
        self.fact == known.fact
            && self.untimed == known.untimed
            && self.message.adds_nothing_to(&known.message)
            && self.context.adds_nothing_to(&known.context)
    }
}

impl Context {
    fn adds_nothing_to(&self, known: &Self) -> bool {
        is_told(self.workflow_id.as_ref(), known.workflow_id.as_ref())
            && is_told(self.subscriber_id.as_ref(), known.subscriber_id.as_ref())
            && is_told(self.transaction_id.as_ref(), known.transaction_id.as_ref())
    }
}

/// What `part` says, if anything, is known.
pub(super) fn is_told<T: PartialEq>(part: Option<&T>, known: Option<&T>) -> bool {
    part.is_none() || part == known
}

impl MessageRef {
    /// Names the message itself, not just a channel or step.
    pub fn is_identified(&self) -> bool {
        self.message_id.is_some() || self.provider_message_id.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_is_written_like_any_other() {
        for text in [
            "",
            "v1.0195954e-7bb8.Zm9vYmFyLw+/==",
            "ä🐘",
            "a\"b",
            "a\",\"b",
            "a\\nb",
            "a\\",
            "a\nb",
            "\u{0}",
            " ",
        ] {
            let sealed = Sealed(text.into());
            let json = serde_json::to_string(&sealed).unwrap();

            assert_eq!(json, serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::to_value(&sealed).unwrap(), text);
            assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), sealed);
        }
    }
}
