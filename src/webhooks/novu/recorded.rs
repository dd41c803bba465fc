//! What each recorded body in `tests/fixtures/novu/` says, in full.

use std::sync::Arc;

use serde_json::json;

use super::mapping::{Mapped, MessageFact, ObjectChange, map};
use super::samples::{body, body_with, names};
use crate::domain::event::{BounceType, Context, Fact, Interaction, MessageRef, Report};
use crate::domain::ids::{SubscriberId, WorkflowId};
use crate::domain::integration::Change;
use crate::domain::time::Timestamp;

const EMAIL_ID: &str = "66f0a1c4b7d2e90012ab0301";
const IN_APP_ID: &str = "66f0a1c4b7d2e90012ab0302";
const TRANSACTION: &str = "txn_66f0a1c4b7d2e90012ab0100";
const WORKFLOW_ID: &str = "66f0a1c4b7d2e90012ab0010";

fn time(text: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-03-{text}Z")).unwrap()
}

fn part(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// `place`: message id, channel, step, provider, provider's message id.
fn message(fact: Fact, at: &str, place: [&str; 5]) -> MessageFact {
    let [message_id, channel, step, provider, provider_message_id] = place;
    MessageFact {
        transaction_id: part(TRANSACTION),
        message_id: message_id.to_owned(),
        occurred_at: Some(time(at)),
        report: Report {
            message: MessageRef {
                message_id: part(message_id),
                provider_message_id: part(provider_message_id),
                channel: part(channel),
                provider_id: part(provider),
                step_id: part(step),
            },
            untimed: false,
            delivery_id: None,
            context: Context {
                workflow_id: Some(WorkflowId::new("parcel-dispatched").unwrap()),
                subscriber_id: Some(SubscriberId::new("cust-20417").unwrap()),
                transaction_id: part(TRANSACTION),
            },
            fact,
        },
        private: None,
    }
}

fn email(fact: Fact, at: &str) -> MessageFact {
    let id = "sg-7Kd2mQxTTu6n0Yp1";
    message(
        fact,
        at,
        [EMAIL_ID, "email", "dispatch-email", "sendgrid", id],
    )
}

fn in_app(fact: Fact, at: &str) -> MessageFact {
    message(fact, at, [IN_APP_ID, "in_app", "inbox-notice", "novu", ""])
}

fn in_app_at_send(fact: Fact) -> MessageFact {
    let place = [IN_APP_ID, "in_app", "inbox-notice", "novu", IN_APP_ID];
    message(fact, "14T09:30:00.412", place)
}

fn interacted(kind: Interaction, at: &str) -> MessageFact {
    in_app(Fact::Interacted { kind }, at)
}

fn failed(code: &str) -> Fact {
    Fact::Failed {
        code: part(code),
        retryable: false,
        is_final: true,
        attempt: None,
    }
}

fn without_workflow(mut fact: MessageFact) -> MessageFact {
    fact.report.context.workflow_id = None;
    fact
}

fn for_subscriber(subscriber_id: &str, transaction_id: &str, mut fact: MessageFact) -> MessageFact {
    let context = &mut fact.report.context;
    context.subscriber_id = Some(SubscriberId::new(subscriber_id).unwrap());
    context.transaction_id = part(transaction_id);
    fact.transaction_id = part(transaction_id);
    fact
}

fn workflow(change: &str, at: &str, key: &str) -> ObjectChange {
    ObjectChange {
        change: Change {
            provider: "novu".to_owned(),
            change: change.to_owned(),
            object_id: WORKFLOW_ID.to_owned(),
            name: part("parcel-dispatched"),
            subscriber_id: None,
            delivery_id: None,
            fact_key: key.to_owned(),
        },
        occurred_at: time(at),
        private: None,
    }
}

fn preference(scope: &str, name: &str, at: &str, key: &str) -> ObjectChange {
    let mut changed = workflow("preference.updated", at, key);
    changed.change.object_id = format!("cust-20417/{scope}");
    changed.change.name = part(name);
    changed.change.subscriber_id = Some(SubscriberId::new("cust-20417").unwrap());
    changed
}

/// What a recorded body says, and in which words it failed if it did.
type Expected = (&'static str, MessageFact, Option<&'static str>);

/// What the recorded bodies say that were sent when the messages were.
fn expected_at_send() -> Vec<Expected> {
    let chat = ["66f0a1c4b7d2e90012ab0305", "chat", "ops-chat", "slack", ""];
    let push_id = "projects/northwind/messages/0:1773480603-a1";
    let push = [
        "66f0a1c4b7d2e90012ab0304",
        "push",
        "dispatch-push",
        "fcm",
        push_id,
    ];
    let push_failed = [
        "66f0a1c4b7d2e90012ab0308",
        "push",
        "dispatch-push",
        "fcm",
        "",
    ];
    let sms_id = "SM4f0c9b1d2e3a47f58c6d7e8f90a1b2c3";
    let sms = [
        "66f0a1c4b7d2e90012ab0303",
        "sms",
        "dispatch-sms",
        "twilio",
        sms_id,
    ];
    let refused = [
        "66f0a1c4b7d2e90012ab0306",
        "email",
        "dispatch-email",
        "sendgrid",
        "",
    ];
    let second = |fact| for_subscriber("cust-20418", "txn_66f0a1c4b7d2e90012ab0101", fact);
    vec![
        (
            "message.failed.email",
            second(message(failed(""), "14T09:31:10.300", refused)),
            Some("The provided authorization grant is invalid, expired, or revoked"),
        ),
        (
            "message.failed.push",
            without_workflow(message(
                failed("token_invalid"),
                "14T09:30:03.006",
                push_failed,
            )),
            Some("Requested entity was not found."),
        ),
        (
            "message.sent.chat-with-error",
            message(failed(""), "14T09:30:04.200", chat),
            Some("channel_not_found"),
        ),
        (
            "message.sent.email",
            email(Fact::Sent, "14T09:30:01.020"),
            None,
        ),
        ("message.sent.in_app", in_app_at_send(Fact::Sent), None),
        (
            "message.sent.push",
            without_workflow(message(Fact::Sent, "14T09:30:03.005", push)),
            None,
        ),
        (
            "message.sent.sms",
            message(Fact::Sent, "14T09:30:02.100", sms),
            None,
        ),
    ]
}

/// What the recorded bodies say that came later: receipts, and what recipients did.
fn expected_later() -> Vec<Expected> {
    let bounced = Fact::Bounced {
        bounce_type: BounceType::Hard,
        code: part("mail_bounced"),
    };
    let bounced_id = "0100018e3c2f9a77-5b1d6f0e";
    let bounced_mail = [
        "66f0a1c4b7d2e90012ab0307",
        "email",
        "dispatch-email",
        "ses",
        bounced_id,
    ];
    let third = |fact| for_subscriber("cust-20419", "txn_66f0a1c4b7d2e90012ab0102", fact);
    vec![
        (
            "message.archived.in_app",
            interacted(Interaction::Archived, "14T12:10:20.480"),
            None,
        ),
        (
            "message.deleted.in_app",
            interacted(Interaction::Deleted, "14T12:12:00.100"),
            None,
        ),
        (
            "message.delivered.email",
            email(Fact::Delivered, "14T09:30:05"),
            None,
        ),
        (
            "message.delivered.in_app",
            in_app_at_send(Fact::Delivered),
            None,
        ),
        (
            "message.failed.bounced",
            third(message(bounced, "14T09:40:09.551", bounced_mail)),
            Some("550 5.1.1 mailbox unavailable"),
        ),
        (
            "message.read.in_app",
            in_app(Fact::Read, "14T09:46:30.221"),
            None,
        ),
        ("message.seen.email", email(Fact::Seen, "14T10:02:43"), None),
        (
            "message.seen.in_app",
            in_app(Fact::Seen, "14T09:45:11.990"),
            None,
        ),
        (
            "message.snoozed.in_app",
            interacted(Interaction::Snoozed, "14T09:55:00.300"),
            None,
        ),
        (
            "message.unarchived.in_app",
            interacted(Interaction::Unarchived, "14T12:12:00.100"),
            None,
        ),
        (
            "message.unread.in_app",
            interacted(Interaction::Unread, "14T09:50:00.010"),
            None,
        ),
        (
            "message.unsnoozed.in_app",
            interacted(Interaction::Unsnoozed, "14T12:00:00.950"),
            None,
        ),
    ]
}

/// What each recorded body that is about a change at Novu says.
fn expected_changes() -> Vec<(&'static str, ObjectChange)> {
    let created = "workflow.created|2026-03-01T08:00:00.000000Z";
    let updated = "workflow.updated|2026-03-14T08:10:00.000000Z";
    let published = "workflow.published|2026-03-14T08:15:00.000000Z|2026-03-14T08:15:00.000000Z";
    let deleted = "workflow.deleted|2026-03-14T08:15:00.000000Z";
    let name = "parcel-dispatched";
    vec![
        (
            "preference.updated.global",
            preference(
                "global",
                "",
                "14T11:00:00.080",
                "5341bf836eccebec2f4d5b9776e03be0",
            ),
        ),
        (
            "preference.updated.workflow",
            preference(
                WORKFLOW_ID,
                name,
                "14T11:05:00.090",
                "dcfa4d073d5bc9a93cc8999c5089a1dd",
            ),
        ),
        (
            "workflow.created",
            workflow("workflow.created", "01T08:00:00", created),
        ),
        (
            "workflow.deleted",
            workflow("workflow.deleted", "20T16:00:00.300", deleted),
        ),
        (
            "workflow.published",
            workflow("workflow.published", "14T08:15:00", published),
        ),
        (
            "workflow.updated",
            workflow("workflow.updated", "14T08:10:00", updated),
        ),
    ]
}

/// The sealed part of a recorded body: the raw text as it came.
fn sealed(name: &str, reason: Option<&str>) -> Arc<str> {
    let raw = String::from_utf8(body(name)).unwrap();
    let reason = reason
        .map(|reason| format!(r#""reason":"{reason}","#))
        .unwrap_or_default();
    format!(r#"{{{reason}"raw":{raw}}}"#).into()
}

#[test]
fn every_recorded_body_maps_to_what_it_says() {
    let mut seen = vec!["email.received"];
    for (name, mut fact, reason) in expected_at_send().into_iter().chain(expected_later()) {
        fact.private = Some(sealed(name, reason));
        assert_eq!(
            map(&body(name)),
            Ok(Mapped::Message(Box::new(fact))),
            "{name}"
        );
        seen.push(name);
    }
    for (name, mut changed) in expected_changes() {
        changed.private = Some(sealed(name, None));
        assert_eq!(
            map(&body(name)),
            Ok(Mapped::Change(Box::new(changed))),
            "{name}"
        );
        seen.push(name);
    }
    let event_type = "email.received".to_owned();
    assert_eq!(
        map(&body("email.received")),
        Ok(Mapped::Ignored { event_type })
    );
    seen.sort_unstable();
    assert_eq!(seen, names());
}

#[test]
fn the_same_fact_in_another_envelope_is_equal_but_for_the_raw_text() {
    let fact = |body: &[u8]| match map(body).unwrap() {
        Mapped::Message(fact) => fact,
        other => panic!("not a message: {other:?}"),
    };
    for (name, ..) in expected_at_send().into_iter().chain(expected_later()) {
        let mut first = fact(&body(name));
        let mut again = fact(&body_with(name, |body| {
            body["id"] = json!("evt_66f0a1c4b7d2e90012adffff");
            body["timestamp"] = json!("2026-03-15T00:00:00.000Z");
        }));
        assert_ne!(first.private.take(), again.private.take());
        assert_eq!(first, again);
    }
}
