//! `message.*`: which fact about which message.
//!
//! The state follows from the event type and `data.error`, never from the object's `status`,
//! which is a snapshot from before the event. Times come from the object, never from the
//! envelope: a repeat has a new envelope and must give the same time.

use super::mapping::{MessageFact, Unmappable, optional, private, required, subject};
use super::wire::{Envelope, ErrorObject, MessageObject};
use crate::domain::event::{BounceType, Context, Fact, Interaction, MessageRef, Report};
use crate::domain::ids::{IdError, SubscriberId, WorkflowId};
use crate::domain::time::Timestamp;

/// What Novu calls a bounce, and what its other names for one have in common.
const BOUNCE: &str = "bounce";
/// The channel whose messages are delivered by being created.
const IN_APP: &str = "in_app";

/// The part of an event type after `message.`.
#[derive(Clone, Copy)]
pub(super) enum MessageType {
    Sent,
    Failed,
    Delivered,
    Seen,
    Read,
    Interacted(Interaction),
}

impl MessageType {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "sent" => Self::Sent,
            "failed" => Self::Failed,
            "delivered" => Self::Delivered,
            "seen" => Self::Seen,
            "read" => Self::Read,
            "unread" => Self::Interacted(Interaction::Unread),
            "archived" => Self::Interacted(Interaction::Archived),
            "unarchived" => Self::Interacted(Interaction::Unarchived),
            "snoozed" => Self::Interacted(Interaction::Snoozed),
            "unsnoozed" => Self::Interacted(Interaction::Unsnoozed),
            "deleted" => Self::Interacted(Interaction::Deleted),
            _ => return None,
        })
    }
}

/// Maps one message event.
///
/// # Errors
///
/// [`Unmappable`] when the message is not named, or a text can't be recorded as it is.
pub(super) fn map(
    message_type: MessageType,
    envelope: Envelope,
    body: &str,
) -> Result<MessageFact, Unmappable> {
    let (object, data) = subject(envelope.data)?;
    let error = data.error.map(|error| error.0);

    let fact = fact(message_type, &object, error.as_ref())?;
    let reason = match &fact {
        Fact::Failed { .. } | Fact::Bounced { .. } => reason(&object, error.as_ref()),
        Fact::Sent
        | Fact::Delivered
        | Fact::Seen
        | Fact::Read
        | Fact::Interacted { .. }
        | Fact::Suppressed { .. } => None,
    };
    let private = private(reason, body);
    let occurred_at = occurred_at(&fact, &object);
    let message_id = required("data.object._id", object.id.0.clone())?;
    let context = context(&object)?;
    Ok(MessageFact {
        transaction_id: context.transaction_id.clone(),
        occurred_at,
        report: Report {
            message: message_ref(message_id.clone(), object)?,
            untimed: occurred_at.is_none(),
            delivery_id: None,
            context,
            fact,
        },
        message_id,
        private: Some(private),
    })
}

fn fact(
    message_type: MessageType,
    object: &MessageObject,
    error: Option<&ErrorObject>,
) -> Result<Fact, Unmappable> {
    Ok(match message_type {
        // Chat steps report a failure as sent, with the error beside it.
        MessageType::Sent if error.is_some() => failed(object, error)?,
        MessageType::Sent => Fact::Sent,
        MessageType::Failed if is_bounce(object) => Fact::Bounced {
            bounce_type: bounce_type(object, error),
            code: code(object, error)?,
        },
        MessageType::Failed => failed(object, error)?,
        MessageType::Delivered => Fact::Delivered,
        MessageType::Seen => Fact::Seen,
        MessageType::Read => Fact::Read,
        MessageType::Interacted(kind) => Fact::Interacted { kind },
    })
}

/// Novu never says whether it will try again, and its callers can't make it: the end.
fn failed(object: &MessageObject, error: Option<&ErrorObject>) -> Result<Fact, Unmappable> {
    Ok(Fact::Failed {
        code: code(object, error)?,
        retryable: false,
        is_final: true,
        attempt: None,
    })
}

fn code(object: &MessageObject, error: Option<&ErrorObject>) -> Result<Option<String>, Unmappable> {
    if let Some(code) = optional("data.object.errorId", object.error_id.0.clone())? {
        return Ok(Some(code));
    }
    let push = error.and_then(|error| error.push.0.as_ref());
    let reason = push.and_then(|push| push.reason.0.clone());
    optional("data.error.push.reason", reason)
}

fn is_bounce(object: &MessageObject) -> bool {
    let error_id = object.error_id.0.as_deref().unwrap_or_default();
    error_id.to_ascii_lowercase().contains(BOUNCE)
}

/// Judged by the mail server's answer.
fn bounce_type(object: &MessageObject, error: Option<&ErrorObject>) -> BounceType {
    let stored = object.error_text.0.as_deref();
    let reported = error.and_then(|error| error.message.0.as_deref());
    match stored
        .and_then(reply_class)
        .or_else(|| reported.and_then(reply_class))
    {
        Some('5') => BounceType::Hard,
        Some('4') => BounceType::Soft,
        _ => BounceType::Unknown,
    }
}

/// The first digit of the reply code a text begins with: `550` (RFC 5321 §4.2) or `5.1.1`
/// (RFC 3463 §2). A text that merely begins with a number, such as `5 attempts`, has none.
fn reply_class(text: &str) -> Option<char> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let code = end.map_or(text, |end| &text[..end]).trim_end_matches('.');
    let parts: Vec<&str> = code.split('.').collect();
    let is_code = match parts.as_slice() {
        [basic] => basic.len() == 3,
        [class, subject, detail] => class.len() == 1 && !subject.is_empty() && !detail.is_empty(),
        _ => false,
    };
    code.chars().next().filter(|_| is_code)
}

/// What went wrong, in words: as told with this event, else as kept with the message.
fn reason<'a>(object: &'a MessageObject, error: Option<&'a ErrorObject>) -> Option<&'a str> {
    let told = error.and_then(|error| error.message.0.as_deref());
    told.or(object.error_text.0.as_deref())
}

/// When it happened, according to the message. Only the times listed for a fact are looked at:
/// any other belongs to something else that happened to the message.
fn occurred_at(fact: &Fact, object: &MessageObject) -> Option<Timestamp> {
    let (created_at, updated_at) = (object.created_at.0, object.updated_at.0);
    match fact {
        Fact::Sent => created_at,
        Fact::Delivered if object.channel.0.as_deref() == Some(IN_APP) => {
            object.delivered_at.0.or(created_at).or(updated_at)
        }
        Fact::Delivered => object.delivered_at.0.or(updated_at),
        Fact::Bounced { .. } | Fact::Failed { .. } => updated_at.or(created_at),
        Fact::Seen => object.last_seen_date.0.or(object.first_seen_date.0),
        Fact::Read => object.last_read_date.0,
        Fact::Interacted { kind } => match kind {
            Interaction::Archived => object.archived_at.0,
            Interaction::Unread
            | Interaction::Unarchived
            | Interaction::Snoozed
            | Interaction::Unsnoozed
            | Interaction::Deleted => updated_at,
            Interaction::Opened | Interaction::Clicked => None,
        },
        Fact::Suppressed { .. } => None,
    }
}

fn context(object: &MessageObject) -> Result<Context, Unmappable> {
    let embedded = object.subscriber.0.as_ref();
    Ok(Context {
        workflow_id: first(
            [
                ("data.object.workflowId", object.workflow_id.0.as_deref()),
                (
                    "data.object.templateIdentifier",
                    object.template_identifier.0.as_deref(),
                ),
            ],
            WorkflowId::new,
        )?,
        // The internal id comes last: nobody outside Novu knows it.
        subscriber_id: first(
            [
                (
                    "data.object.subscriberId",
                    object.subscriber_id.0.as_deref(),
                ),
                (
                    "data.object.subscriber.subscriberId",
                    embedded.and_then(|subscriber| subscriber.subscriber_id.0.as_deref()),
                ),
                (
                    "data.object._subscriberId",
                    object.internal_subscriber_id.0.as_deref(),
                ),
            ],
            SubscriberId::new,
        )?,
        transaction_id: optional("data.object.transactionId", object.transaction_id.0.clone())?,
    })
}

/// The id in the first field that says something.
fn first<T, const N: usize>(
    fields: [(&'static str, Option<&str>); N],
    id: fn(&str) -> Result<T, IdError>,
) -> Result<Option<T>, Unmappable> {
    let said = fields
        .into_iter()
        .find_map(|(field, text)| Some((field, text.filter(|text| !text.is_empty())?)));
    said.map(|(field, text)| id(text).map_err(|why| Unmappable::UnusableText { field, why }))
        .transpose()
}

fn message_ref(message_id: String, object: MessageObject) -> Result<MessageRef, Unmappable> {
    Ok(MessageRef {
        message_id: Some(message_id),
        provider_message_id: optional(
            "data.object.providerResponseId",
            object.provider_response_id.0,
        )?,
        channel: optional("data.object.channel", object.channel.0)?,
        provider_id: optional("data.object.providerId", object.provider_id.0)?,
        step_id: optional("data.object.stepId", object.step_id.0)?,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::mapping::{Mapped, map};
    use super::super::samples::body_with;
    use super::*;

    const OBJECT: &str = "/data/object";

    fn mapped(name: &str, change: impl FnOnce(&mut Value)) -> Result<MessageFact, Unmappable> {
        map(&body_with(name, change)).map(|mapped| match mapped {
            Mapped::Message(fact) => *fact,
            other => panic!("not a message: {other:?}"),
        })
    }

    /// A recorded body whose message has other fields; `null` takes one away.
    fn message_with(name: &str, fields: Value) -> Result<MessageFact, Unmappable> {
        mapped(name, |body| {
            merge(body.pointer_mut(OBJECT).unwrap(), fields);
        })
    }

    fn merge(object: &mut Value, fields: Value) {
        let object = object.as_object_mut().unwrap();
        let Value::Object(fields) = fields else {
            panic!("not an object")
        };
        for (name, value) in fields {
            match value {
                Value::Null => object.remove(&name),
                value => object.insert(name, value),
            };
        }
    }

    fn private(fact: &MessageFact) -> Value {
        serde_json::from_str(fact.private.as_deref().unwrap()).unwrap()
    }

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn subscriber(fact: &MessageFact) -> Option<&str> {
        fact.report
            .context
            .subscriber_id
            .as_ref()
            .map(SubscriberId::as_str)
    }

    #[test]
    fn a_chat_message_sent_with_an_error_has_failed() {
        let fact = mapped("message.sent.chat-with-error", |_| {}).unwrap();
        let sent = mapped("message.sent.chat-with-error", |body| {
            body["data"]["error"] = Value::Null;
        });

        assert!(matches!(
            fact.report.fact,
            Fact::Failed {
                code: None,
                retryable: false,
                is_final: true,
                attempt: None
            }
        ));
        assert_eq!(private(&fact)["reason"], "channel_not_found");
        assert_eq!(sent.unwrap().report.fact, Fact::Sent);
    }

    #[test]
    fn an_error_may_be_a_bare_text_or_empty() {
        let with = |error: Value| {
            let fact = mapped("message.sent.email", |body| body["data"]["error"] = error).unwrap();
            assert!(matches!(fact.report.fact, Fact::Failed { .. }));
            private(&fact)["reason"].clone()
        };

        assert_eq!(with(json!("no such channel")), "no such channel");
        assert_eq!(with(json!({})), Value::Null);
        assert_eq!(with(json!(7)), Value::Null);
    }

    #[test]
    fn the_status_of_the_object_is_not_believed() {
        for status in ["sent", "error", "warning", "bounced"] {
            for (name, expected) in [
                ("message.sent.email", "notification.sent"),
                ("message.failed.email", "notification.failed"),
                ("message.delivered.email", "notification.delivered"),
            ] {
                let fact = message_with(name, json!({ "status": status })).unwrap();
                assert_eq!(fact.report.fact.event_name(), expected);
            }
        }
    }

    #[test]
    fn a_push_message_may_come_without_a_workflow() {
        let fact = mapped("message.failed.push", |_| {}).unwrap();

        assert_eq!(fact.report.context.workflow_id, None);
        assert!(matches!(
            &fact.report.fact,
            Fact::Failed { code: Some(code), .. } if code == "token_invalid"
        ));
    }

    #[rstest]
    #[case(
        "mail_bounced",
        "550 5.1.1 mailbox unavailable",
        Some(BounceType::Hard)
    )]
    #[case("MAIL_BOUNCED", "5.1.1 no such user", Some(BounceType::Hard))]
    #[case("softBounce", "421 try later", Some(BounceType::Soft))]
    #[case("mail_bounced", "452-4.2.2 over quota", Some(BounceType::Soft))]
    #[case("mail_bounced", "5 attempts, all in vain", Some(BounceType::Unknown))]
    #[case("mail_bounced", "5000 messages waiting", Some(BounceType::Unknown))]
    #[case("mail_bounced", "no reason given", Some(BounceType::Unknown))]
    #[case("mail_bounced", "", Some(BounceType::Unknown))]
    #[case("provider_error", "550 5.1.1 mailbox unavailable", None)]
    fn a_bounce_is_told_by_its_error_id_and_judged_by_the_reply_code(
        #[case] error_id: &str,
        #[case] error_text: &str,
        #[case] expected: Option<BounceType>,
    ) {
        let fact = mapped("message.failed.bounced", |body| {
            body["data"]["object"]["errorId"] = json!(error_id);
            body["data"]["object"]["errorText"] = json!(error_text);
            body["data"]["error"]["message"] = json!(error_text);
        });
        let code = Some(error_id.to_owned());

        let expected = match expected {
            Some(bounce_type) => Fact::Bounced { bounce_type, code },
            None => Fact::Failed {
                code,
                retryable: false,
                is_final: true,
                attempt: None,
            },
        };
        assert_eq!(fact.unwrap().report.fact, expected);
    }

    #[test]
    fn older_builds_name_the_subscriber_in_other_places() {
        let with = |fields| {
            let fact = message_with("message.sent.email", fields).unwrap();
            subscriber(&fact).map(str::to_owned)
        };
        let internal = "66f0a1c4b7d2e90012ab0401";
        let embedded = json!({"_id": internal, "subscriberId": "cust-1", "email": "x@y.example"});

        assert_eq!(
            with(json!({"subscriberId": null, "_subscriberId": internal, "subscriber": embedded})),
            Some("cust-1".to_owned())
        );
        assert_eq!(
            with(json!({"subscriberId": "", "_subscriberId": internal})),
            Some(internal.to_owned())
        );
        assert_eq!(
            with(json!({"_subscriberId": internal})),
            Some("cust-20417".to_owned())
        );
        assert_eq!(with(json!({"subscriberId": null})), None);
    }

    #[rstest]
    #[case("message.sent.email", json!({"createdAt": null}), None)]
    #[case("message.delivered.email", json!({"deliveredAt": null}), Some("2026-03-14T09:30:06.117Z"))]
    #[case("message.delivered.email", json!({"deliveredAt": "2026-03-14T09:30:04Z"}), Some("2026-03-14T09:30:04Z"))]
    #[case("message.delivered.email", json!({"deliveredAt": [], "updatedAt": null}), None)]
    #[case("message.delivered.in_app", json!({"updatedAt": "2026-03-14T12:00:00Z"}), Some("2026-03-14T09:30:00.412Z"))]
    #[case("message.failed.bounced", json!({"updatedAt": "soon"}), Some("2026-03-14T09:40:00Z"))]
    #[case("message.failed.email", json!({"updatedAt": null, "createdAt": "0001-01-01T00:00:00Z"}), None)]
    #[case("message.seen.in_app", json!({"lastSeenDate": null}), Some("2026-03-14T09:45:11.990Z"))]
    #[case("message.seen.in_app", json!({"lastSeenDate": 5, "firstSeenDate": null}), None)]
    #[case("message.read.in_app", json!({"lastReadDate": null}), None)]
    #[case("message.archived.in_app", json!({"archivedAt": null}), None)]
    #[case("message.unread.in_app", json!({"updatedAt": null}), None)]
    fn a_time_that_is_not_there_gives_way_to_the_next_listed(
        #[case] name: &str,
        #[case] fields: Value,
        #[case] expected: Option<&str>,
    ) {
        let fact = message_with(name, fields).unwrap();

        assert_eq!(fact.occurred_at, expected.map(time));
        assert_eq!(fact.report.untimed, expected.is_none());
    }

    #[test]
    fn a_text_that_is_no_name_is_refused_by_field_and_not_quoted() {
        for (field, path) in [
            ("_id", "data.object._id"),
            ("transactionId", "data.object.transactionId"),
            ("workflowId", "data.object.workflowId"),
            ("subscriberId", "data.object.subscriberId"),
            ("channel", "data.object.channel"),
            ("providerId", "data.object.providerId"),
            ("providerResponseId", "data.object.providerResponseId"),
            ("stepId", "data.object.stepId"),
            ("errorId", "data.object.errorId"),
        ] {
            for text in ["x".repeat(257), "secret\u{0}".to_owned()] {
                let refused = message_with("message.failed.email", json!({ field: text }));
                let refusal = refused.unwrap_err().to_string();
                assert!(refusal.starts_with(&format!("`{path}` ")), "{refusal}");
                assert!(
                    !refusal.contains("secret") && refusal.len() < 100,
                    "{refusal}"
                );
            }
        }
    }

    #[test]
    fn only_the_message_id_is_essential() {
        for value in [Value::Null, json!(7), json!("")] {
            let refused = mapped("message.sent.email", |body| {
                body["data"]["object"]["_id"] = value;
            });
            assert_eq!(
                refused,
                Err(Unmappable::MissingField {
                    field: "data.object._id"
                })
            );
        }
        let bare = mapped("message.read.in_app", |body| {
            body["data"]["object"] = json!({ "_id": "m1" });
        });
        assert_eq!(bare.unwrap().message_id, "m1");
    }

    #[test]
    fn a_field_of_another_type_never_costs_the_fact() {
        let sample = body_with("message.failed.bounced", |_| {});
        let sample: Value = serde_json::from_slice(&sample).unwrap();
        let fields = sample.pointer(OBJECT).unwrap().as_object().unwrap();
        for field in fields.keys().filter(|field| *field != "_id") {
            for odd in [json!(7), json!(true), json!({}), json!([[]]), json!("")] {
                let fact = message_with("message.failed.bounced", json!({ field: odd }));
                assert!(fact.is_ok(), "{field}: {odd}");
            }
        }
    }

    #[test]
    fn what_is_sensitive_is_only_in_the_sealed_part() {
        for (name, secret) in [
            ("message.sent.push", "dev-token-A1"),
            ("message.failed.push", "dev-token-B2"),
            ("message.failed.push", "Requested entity"),
            ("message.sent.chat-with-error", "C0482OPS"),
        ] {
            let fact = mapped(name, |_| {}).unwrap();
            assert!(fact.private.as_deref().unwrap().contains(secret));
            assert!(!format!("{fact:?}").contains(secret));
        }
    }
}
