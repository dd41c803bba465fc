//! What an authentic body says: a fact about a message, a change at Novu, or nothing for us.
//!
//! A function of the bytes alone. The same fact in another envelope maps to an equal result
//! (but for the raw text), which is how repeats are recognised. What can't be mapped is never
//! dropped: the caller keeps it for a person, with the [`Unmappable`] as the reason.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::change::WorkflowChange;
use super::message::MessageType;
use super::wire::{self, Data, MessageObject, NESTING_MAX, Nested};
use super::{change, message};
use crate::domain::event::Report;
use crate::domain::ids::{IdError, check_name};
use crate::domain::integration::Change;
use crate::domain::time::Timestamp;

/// What a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    Message(Box<MessageFact>),
    Change(Box<ObjectChange>),
    /// Understood, and no business of the ledger's.
    Ignored {
        event_type: String,
    },
}

/// Something happened to one message.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageFact {
    /// Links all messages of one trigger; the ledger's notification id if it did the triggering.
    pub transaction_id: Option<String>,
    /// Novu's own id of the message.
    pub message_id: String,
    /// According to the message itself; `None` if it has no time for this.
    pub occurred_at: Option<Timestamp>,
    /// Without its delivery id, which is the transport's to know.
    pub report: Report,
    /// JSON to be sealed beside the event: the reason of a failure or bounce, and the raw body.
    pub private: Option<Arc<str>>,
}

/// Something changed at Novu that is not about one message.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectChange {
    /// Without its delivery id, which is the transport's to know.
    pub change: Change,
    pub occurred_at: Timestamp,
    /// JSON to be sealed beside the event: the raw body.
    pub private: Option<Arc<str>>,
}

/// Why a body can't be mapped. Holds no value of the body but its event type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    #[error("the body {why}, so it is not JSON")]
    NotJson { why: &'static str },
    #[error("the body is nested too deeply: more than {NESTING_MAX} levels")]
    NestedTooDeeply,
    #[error("the body is JSON, but not an object")]
    NotAnObject,
    /// Newer than this release.
    #[error("the event type `{event_type}` is unknown")]
    UnknownType { event_type: String },
    #[error("`{field}` is missing or of the wrong type")]
    MissingField { field: &'static str },
    /// Recorded otherwise, it would name something else than Novu meant.
    #[error("`{field}` {why}")]
    UnusableText { field: &'static str, why: IdError },
}

/// What an event type is about. Types that are not listed are newer than this release.
enum Kind {
    Message(MessageType),
    Workflow(WorkflowChange),
    Preference,
    InboundMail,
}

impl Kind {
    fn of(event_type: &str) -> Option<Self> {
        match event_type.split_once('.')? {
            ("message", word) => MessageType::from_word(word).map(Self::Message),
            ("workflow", word) => WorkflowChange::from_word(word).map(Self::Workflow),
            ("preference", "updated") => Some(Self::Preference),
            ("email", "received") => Some(Self::InboundMail),
            _ => None,
        }
    }
}

/// Says what a body says. Call it only with a body whose signature was verified.
///
/// # Errors
///
/// [`Unmappable`] when the body can't be understood, or lacks what is essential.
pub fn map(body: &[u8]) -> Result<Mapped, Unmappable> {
    let text = std::str::from_utf8(body).map_err(|_| Unmappable::NotJson {
        why: "is not UTF-8",
    })?;
    let mut envelope = wire::read_envelope(text)?;
    let event_type = required("type", envelope.event_type.0.take())?;
    match Kind::of(&event_type) {
        Some(Kind::Message(message_type)) => {
            let fact = message::map(message_type, envelope, text)?;
            Ok(Mapped::Message(Box::new(fact)))
        }
        Some(Kind::Workflow(kind)) => {
            let changed = change::workflow(kind, event_type, envelope, text)?;
            Ok(Mapped::Change(Box::new(changed)))
        }
        Some(Kind::Preference) => {
            let changed = change::preference(event_type, envelope, text)?;
            Ok(Mapped::Change(Box::new(changed)))
        }
        Some(Kind::InboundMail) => Ok(Mapped::Ignored { event_type }),
        None => Err(Unmappable::UnknownType { event_type }),
    }
}

/// A text that becomes an id or a name in the record. An empty one says nothing.
pub(super) fn optional(
    field: &'static str,
    text: Option<String>,
) -> Result<Option<String>, Unmappable> {
    let text = text.filter(|text| !text.is_empty());
    if let Some(text) = &text {
        check_name(text).map_err(|why| Unmappable::UnusableText { field, why })?;
    }
    Ok(text)
}

/// The same, of a text there must be.
pub(super) fn required(field: &'static str, text: Option<String>) -> Result<String, Unmappable> {
    optional(field, text)?.ok_or(Unmappable::MissingField { field })
}

/// The object a body is about, and what stands beside it.
pub(super) fn subject(data: Nested<Data>) -> Result<(MessageObject, Data), Unmappable> {
    let missing = |field| Unmappable::MissingField { field };
    let mut data = data.0.ok_or(missing("data"))?;
    let object = data.object.0.take().ok_or(missing("data.object"))?;
    Ok((object, data))
}

/// What is to be sealed. The body goes in as it came, byte for byte.
pub(super) fn private(reason: Option<&str>, body: &str) -> Arc<str> {
    let raw = body.trim();
    match reason {
        Some(reason) => format!(r#"{{"reason":{},"raw":{raw}}}"#, Value::from(reason)).into(),
        None => format!(r#"{{"raw":{raw}}}"#).into(),
    }
}

// By hand, so that what must be sealed is not printed first.
impl fmt::Debug for MessageFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageFact")
            .field("transaction_id", &self.transaction_id)
            .field("message_id", &self.message_id)
            .field("occurred_at", &self.occurred_at)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ObjectChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectChange")
            .field("change", &self.change)
            .field("occurred_at", &self.occurred_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{body, body_with};
    use super::*;

    #[test]
    fn an_unknown_type_is_kept_for_a_person() {
        for event_type in [
            "message.clicked",
            "message.",
            "workflow.paused",
            "sent",
            "digest.sent",
        ] {
            let refused = map(&body_with("message.sent.email", |body| {
                body["type"] = json!(event_type);
            }));
            let event_type = event_type.to_owned();
            assert_eq!(refused, Err(Unmappable::UnknownType { event_type }));
        }
        assert_eq!(
            map(br#"{"type": "a\nb"}"#).unwrap_err().to_string(),
            "`type` must not contain control characters"
        );
    }

    #[test]
    fn an_envelope_without_type_or_object_is_refused_by_field() {
        let missing = |field| Err(Unmappable::MissingField { field });

        assert_eq!(map(b"{}"), missing("type"));
        assert_eq!(map(br#"{"type": 7}"#), missing("type"));
        assert_eq!(map(br#"{"type": "message.sent"}"#), missing("data"));
        assert_eq!(
            map(br#"{"type": "message.sent", "data": []}"#),
            missing("data")
        );
        assert_eq!(
            map(br#"{"type": "message.sent", "data": {"object": []}}"#),
            missing("data.object")
        );
    }

    #[test]
    fn what_is_no_json_object_is_refused_with_the_reason() {
        let sample = body("message.sent.chat-with-error");
        for end in 0..sample.len() {
            let why = "ends too early";
            assert_eq!(
                map(&sample[..end]),
                Err(Unmappable::NotJson { why }),
                "cut at {end}"
            );
        }
        let why = "is not UTF-8";
        assert_eq!(
            map(b"{\"type\": \"\xff\"}"),
            Err(Unmappable::NotJson { why })
        );
        let why = "breaks JSON's rules";
        assert_eq!(map(b"{} {}"), Err(Unmappable::NotJson { why }));
        for value in ["null", "7", "\"message.sent\"", "[\"message.sent\"]"] {
            assert_eq!(map(value.as_bytes()), Err(Unmappable::NotAnObject));
        }
    }

    #[test]
    fn deep_nesting_is_refused_wherever_it_is() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(
                r#"{{"type": "message.sent", "data": {{"object": {{"_id": "m1"}}}}, "x": {open}{close}}}"#
            )
        };

        assert!(map(nested(NESTING_MAX - 1).as_bytes()).is_ok());
        for levels in [NESTING_MAX, 1_000_000] {
            assert_eq!(
                map(nested(levels).as_bytes()),
                Err(Unmappable::NestedTooDeeply)
            );
        }
    }

    #[test]
    fn the_sealed_part_is_json_whatever_the_reason_and_the_white_space() {
        let reason = "\"quoted\" \\ and\nbroken \u{0}";
        let body = body_with("message.failed.email", |body| {
            body["data"]["error"]["message"] = json!(reason);
        });
        let spaced = [b" \r\n".as_slice(), body.as_slice(), b"\n"].concat();
        let Ok(Mapped::Message(fact)) = map(&spaced) else {
            panic!("not a message")
        };

        let private: Value = serde_json::from_str(fact.private.as_deref().unwrap()).unwrap();
        assert_eq!(private["reason"], reason);
        assert_eq!(
            private["raw"],
            serde_json::from_slice::<Value>(&body).unwrap()
        );
    }
}
