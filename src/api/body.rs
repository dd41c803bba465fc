//! The bodies of commands and facts: read, checked, and turned into what the domain understands.
//! Personal data leaves here as text to be sealed.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::view::{Opened, Recipient};
use crate::domain::event::{
    Audience, BounceType, Category, Classification, Context, Fact, Interaction, MessageRef,
    Priority, Report, Requested, Severity, words,
};
use crate::domain::ids::{self, SubscriberId};
use crate::domain::notification::Action;
use crate::domain::time::Timestamp;
use crate::json::{Faults, Fields};

/// Channels that need no explanation; others are slugs of the caller's own.
pub const CHANNELS: [&str; 6] = ["email", "sms", "push", "in_app", "chat", "webhook"];
/// Most channels one notification names.
pub const CHANNELS_MAX: usize = 32;
/// Most metadata entries, and characters in each of their values.
pub const METADATA_ENTRIES_MAX: usize = 50;
pub const METADATA_VALUE_CHARS_MAX: usize = 512;
/// Most bytes of a provider's or person's own words.
pub const FREE_TEXT_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of an address. Push tokens are the longest kind.
pub const ADDRESS_BYTES_MAX: usize = 4096;
/// Most addresses by channel.
pub const ADDRESSES_MAX: usize = 32;
/// Highest attempt number.
pub const ATTEMPT_MAX: u32 = 1_000_000;

/// What one call asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub action: Action,
    /// When it happened, if the caller says.
    pub occurred_at: Option<Timestamp>,
    /// JSON to be sealed beside the event.
    pub private: Option<Arc<str>>,
    /// The caller's own id for a new notification.
    pub id: Option<uuid::Uuid>,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
}

words!(
    /// The calls about a notification, by the last word of their path; in bulk, by their `type`.
    CommandName {
        Request = "request",
        Queue = "queue",
        Retract = "retract",
        Sent = "sent",
        Delivered = "delivered",
        Bounced = "bounced",
        Failed = "failed",
        Seen = "seen",
        Read = "read",
        Interacted = "interacted",
        Suppressed = "suppressed",
    }
);

impl CommandName {
    /// Reports what happened, rather than wishing for something.
    pub fn is_fact(self) -> bool {
        match self {
            Self::Request | Self::Queue | Self::Retract => false,
            Self::Sent
            | Self::Delivered
            | Self::Bounced
            | Self::Failed
            | Self::Seen
            | Self::Read
            | Self::Interacted
            | Self::Suppressed => true,
        }
    }
}

/// What a call says: what it wants, and what of it is private.
#[derive(Debug)]
pub struct Said<'a> {
    pub wish: Wish,
    /// What the wish has sealed.
    pub private: Opened<'a>,
}

/// Reads the body of a call. `None` when something was wrong; then `faults` says what.
pub fn read<'a>(
    command: CommandName,
    fields: &mut Fields<'a>,
    payload_bytes_max: usize,
    faults: &mut Faults,
) -> Option<Said<'a>> {
    match command {
        CommandName::Request => request(fields, payload_bytes_max, faults),
        CommandName::Queue => {
            let action = Action::Queue {
                queue: fields.name("queue", faults),
                available_at: fields.time("available_at", faults),
            };
            Some(Said::of(Wish::of(action), Opened::default()))
        }
        CommandName::Retract => {
            let reason = fields.required("reason", faults, |fields, name, faults| {
                fields.text(name, FREE_TEXT_BYTES_MAX, faults)
            })?;
            let private = Opened {
                reason: Some(reason),
                ..Opened::default()
            };
            Some(Said::of(Wish::of(Action::Retract), private))
        }
        CommandName::Sent
        | CommandName::Delivered
        | CommandName::Bounced
        | CommandName::Failed
        | CommandName::Seen
        | CommandName::Read
        | CommandName::Interacted
        | CommandName::Suppressed => report(command, fields, payload_bytes_max, faults),
    }
}

impl Wish {
    fn of(action: Action) -> Self {
        Self {
            action,
            occurred_at: None,
            private: None,
            id: None,
            correlation_id: None,
            causation_id: None,
        }
    }
}

impl<'a> Said<'a> {
    /// Has the wish seal what was said in private.
    fn of(wish: Wish, private: Opened<'a>) -> Self {
        let text = serde_json::to_string(&private).unwrap_or_default();
        let to_seal = (text != "{}").then(|| text.into());
        Self {
            wish: Wish {
                private: to_seal,
                ..wish
            },
            private,
        }
    }
}

fn request<'a>(
    fields: &mut Fields<'a>,
    payload_bytes_max: usize,
    faults: &mut Faults,
) -> Option<Said<'a>> {
    let workflow_id = fields.required("workflow_id", faults, Fields::parsed);
    let subscriber = fields.required("subscriber", faults, |fields, name, faults| {
        let mut fields = fields.object(name, faults)?;
        let subscriber = subscriber(&mut fields, faults);
        fields.finish(faults);
        subscriber
    });
    let id = fields.value("id", "a UUID", faults);
    let workflow_version = fields.name("workflow_version", faults);
    let external_id = fields.name("external_id", faults);
    let channels = channels(fields, faults);
    let payload = fields.verbatim_object("payload", payload_bytes_max, faults);
    let category = fields.word("category", Category::WORDS, Category::from_word, faults);
    let priority = fields.word("priority", Priority::WORDS, Priority::from_word, faults);
    let classification = classification(fields, faults);
    let scheduled_at = fields.time("scheduled_at", faults);
    let expires_at = fields.time("expires_at", faults);
    if let (Some(scheduled), Some(expires)) = (scheduled_at, expires_at)
        && expires <= scheduled
    {
        faults.add(
            fields.pointer("expires_at"),
            "must be later than scheduled_at",
        );
    }
    let metadata = fields.texts(
        "metadata",
        METADATA_ENTRIES_MAX,
        METADATA_VALUE_CHARS_MAX,
        faults,
    );
    let correlation_id = fields.name("correlation_id", faults);
    let causation_id = fields.name("causation_id", faults);

    let (subscriber_id, recipient) = subscriber?;
    let requested = Requested {
        workflow_id: workflow_id?,
        workflow_version,
        subscriber_id,
        external_id,
        channels,
        category: category.unwrap_or(Category::Transactional),
        priority: priority.unwrap_or(Priority::Normal),
        classification,
        scheduled_at,
        expires_at,
        metadata,
    };
    let wish = Wish {
        id,
        correlation_id,
        causation_id,
        ..Wish::of(Action::Request(Arc::new(requested)))
    };
    let private = Opened {
        subscriber: recipient,
        payload: payload.map(Cow::Borrowed),
        ..Opened::default()
    };
    Some(Said::of(wish, private))
}

fn subscriber(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<(SubscriberId, Recipient)> {
    let id = fields.required("id", faults, Fields::parsed);
    let mut address = |name| fields.text(name, ADDRESS_BYTES_MAX, faults);
    let recipient = Recipient {
        email: address("email"),
        phone: address("phone"),
        locale: address("locale"),
        timezone: address("timezone"),
        channels: fields.texts("channels", ADDRESSES_MAX, ADDRESS_BYTES_MAX, faults),
    };
    Some((id?, recipient))
}

fn channels(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<String> {
    let channels = fields
        .list("channels", CHANNELS_MAX, faults)
        .unwrap_or_default();
    let at = |index| format!("{}/{index}", fields.pointer("channels"));
    for (index, name) in channels.iter().enumerate() {
        if ids::check_slug(name).is_err() {
            faults.add(at(index), not_a_channel());
        } else if channels[..index].contains(name) {
            faults.add(at(index), "names a channel a second time");
        }
    }
    channels
}

fn not_a_channel() -> String {
    format!(
        "must be one of {}, or a slug of your own",
        CHANNELS.join(", ")
    )
}

fn classification(fields: &mut Fields<'_>, faults: &mut Faults) -> Classification {
    let Some(mut fields) = fields.object("classification", faults) else {
        return Classification::default();
    };
    let classification = Classification {
        error_code: fields.name("error_code", faults),
        audience: fields.word("audience", Audience::WORDS, Audience::from_word, faults),
        severity: fields.word("severity", Severity::WORDS, Severity::from_word, faults),
    };
    fields.finish(faults);
    classification
}

fn report<'a>(
    command: CommandName,
    fields: &mut Fields<'a>,
    payload_bytes_max: usize,
    faults: &mut Faults,
) -> Option<Said<'a>> {
    let message = message(fields, faults);
    let occurred_at = fields.time("occurred_at", faults);
    let raw = fields.verbatim("raw", payload_bytes_max, faults);
    let (fact, reason) = fact(command, fields, faults)?;
    let report = Report {
        message,
        untimed: occurred_at.is_none(),
        delivery_id: None,
        context: Context::default(),
        fact,
    };
    let action = Action::Report {
        report: Arc::new(report),
        adoption: None,
    };
    let wish = Wish {
        occurred_at,
        ..Wish::of(action)
    };
    let private = Opened {
        reason,
        raw: raw.map(Cow::Borrowed),
        ..Opened::default()
    };
    Some(Said::of(wish, private))
}

fn message(fields: &mut Fields<'_>, faults: &mut Faults) -> MessageRef {
    let Some(mut fields) = fields.object("message", faults) else {
        return MessageRef::default();
    };
    let channel = fields.name("channel", faults);
    if channel
        .as_deref()
        .is_some_and(|channel| ids::check_slug(channel).is_err())
    {
        faults.add(fields.pointer("channel"), not_a_channel());
    }
    let message = MessageRef {
        message_id: None,
        provider_message_id: fields.name("provider_message_id", faults),
        channel,
        provider_id: fields.name("provider_id", faults),
        step_id: fields.name("step_id", faults),
    };
    fields.finish(faults);
    message
}

/// The fact, and the words that go with it.
fn fact(
    command: CommandName,
    fields: &mut Fields<'_>,
    faults: &mut Faults,
) -> Option<(Fact, Option<String>)> {
    Some(match command {
        CommandName::Sent => (Fact::Sent, None),
        CommandName::Delivered => (Fact::Delivered, None),
        CommandName::Seen => (Fact::Seen, None),
        CommandName::Read => (Fact::Read, None),
        CommandName::Bounced => {
            let bounce_type = fields
                .word(
                    "bounce_type",
                    BounceType::WORDS,
                    BounceType::from_word,
                    faults,
                )
                .unwrap_or(BounceType::Unknown);
            let code = fields.name("code", faults);
            let reason = fields.text("reason", FREE_TEXT_BYTES_MAX, faults);
            (Fact::Bounced { bounce_type, code }, reason)
        }
        CommandName::Failed => return failed(fields, faults),
        CommandName::Interacted => {
            let kind = fields.required("kind", faults, |fields, name, faults| {
                fields.word(name, Interaction::WORDS, Interaction::from_word, faults)
            })?;
            (Fact::Interacted { kind }, None)
        }
        CommandName::Suppressed => {
            let reason = fields.required("reason", faults, Fields::name)?;
            (Fact::Suppressed { reason }, None)
        }
        CommandName::Request | CommandName::Queue | CommandName::Retract => return None,
    })
}

fn failed(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<(Fact, Option<String>)> {
    let error = fields.required("error", faults, |fields, name, faults| {
        let mut fields = fields.object(name, faults)?;
        let code = fields.name("code", faults);
        let message = fields.required("message", faults, |fields, name, faults| {
            fields.text(name, FREE_TEXT_BYTES_MAX, faults)
        });
        fields.finish(faults);
        Some((code, message?))
    });
    let retryable = fields.flag("retryable", faults).unwrap_or(false);
    let is_final = fields.flag("final", faults).unwrap_or(!retryable);
    let attempt: Option<u32> = fields.value("attempt", "a whole number from 1 on", faults);
    if attempt.is_some_and(|attempt| !(1..=ATTEMPT_MAX).contains(&attempt)) {
        faults.add(
            fields.pointer("attempt"),
            format!("must be a whole number from 1 to {ATTEMPT_MAX}"),
        );
    }
    let (code, message) = error?;
    let fact = Fact::Failed {
        code,
        retryable,
        is_final,
        attempt,
    };
    Some((fact, Some(message)))
}
