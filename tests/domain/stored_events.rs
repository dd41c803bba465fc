//! Every payload ever written stays readable, and reads as what it meant.
//!
//! The files are the promise, this table is what they mean. Files are added, never edited.

use std::sync::Arc;

use std::collections::BTreeSet;
use std::path::PathBuf;

use notification_ledger::domain::event::{
    Adopted, Audience, Body, BounceType, Category, Classification, Context, Fact, Interaction,
    MessageRef, NotificationEvent, Priority, Queued, Report, Requested, Sealed, Severity, names,
};
use notification_ledger::domain::ids::{EventId, SubscriberId, WorkflowId};
use notification_ledger::domain::integration::{Change, IntegrationEvent};
use notification_ledger::domain::stored::{DecodeError, StoredPayload};
use notification_ledger::domain::subscriber::SubscriberErased;
use notification_ledger::domain::time::Timestamp;
use rstest::rstest;

use crate::given::{at, event_id, said, the_adoption, the_request};

/// An event of any kind of stream.
#[derive(Debug, PartialEq)]
enum Event {
    Notification(NotificationEvent),
    Integration(IntegrationEvent),
    Subscriber(SubscriberErased),
}

impl Event {
    fn decode(event_type: &str, schema_version: i32, data: &str) -> Result<Self, DecodeError> {
        let stored = StoredPayload {
            event_type,
            schema_version,
            data,
        };
        match event_type {
            names::INTEGRATION_CHANGED => {
                IntegrationEvent::decode(event_id(1), at(0), stored).map(Self::Integration)
            }
            names::SUBSCRIBER_ERASED => {
                SubscriberErased::decode(event_id(1), at(0), stored).map(Self::Subscriber)
            }
            _ => NotificationEvent::decode(event_id(1), at(0), stored).map(Self::Notification),
        }
    }

    fn encode(&self) -> String {
        match self {
            Self::Notification(event) => event.encode(),
            Self::Integration(event) => event.encode(),
            Self::Subscriber(event) => event.encode(),
        }
    }
}

/// Every file and what it says.
fn promised() -> Vec<(&'static str, Event)> {
    let mut promised = vec![
        (
            "notification.requested.v1",
            sealed(Body::Requested(Arc::new(full_request()))),
        ),
        (
            "notification.requested.v1.minimal",
            open(Body::Requested(Arc::new(the_request("cust-20417")))),
        ),
        (
            "notification.adopted.v1",
            open(Body::Adopted(the_adoption())),
        ),
        (
            "notification.adopted.v1.minimal",
            open(Body::Adopted(Adopted {
                transaction_id: None,
                ..the_adoption()
            })),
        ),
        ("notification.queued.v1", open(Body::Queued(queued()))),
        (
            "notification.queued.v1.minimal",
            open(Body::Queued(Queued::default())),
        ),
        ("notification.retracted.v1", sealed(Body::Retracted)),
        ("notification.retracted.v1.minimal", open(Body::Retracted)),
        (
            "integration.changed.v1",
            changed(preference_changed(), true),
        ),
        (
            "integration.changed.v1.minimal",
            changed(workflow_deleted(), false),
        ),
        (
            "subscriber.erased.v1",
            erased(2041, Some("req-7f3a".to_owned())),
        ),
        ("subscriber.erased.v1.minimal", erased(0, None)),
    ];
    promised.extend(reports_in_full());
    promised.extend(bare_reports());
    promised
}

fn reports_in_full() -> [(&'static str, Event); 8] {
    let bounced = Fact::Bounced {
        bounce_type: BounceType::Hard,
        code: Some("5.1.1".to_owned()),
    };
    let failed = Fact::Failed {
        code: Some("421".to_owned()),
        retryable: true,
        is_final: false,
        attempt: Some(2),
    };
    let archived = Fact::Interacted {
        kind: Interaction::Archived,
    };
    let suppressed = Fact::Suppressed {
        reason: "preference".to_owned(),
    };
    let told = |delivery, message, fact| {
        sealed(Body::Reported(Arc::new(full_report(
            delivery, message, fact,
        ))))
    };
    let sent = Report {
        untimed: true,
        ..full_report("novu:msg_2xSent01", the_email(), Fact::Sent)
    };
    [
        (
            "notification.sent.v1",
            sealed(Body::Reported(Arc::new(sent))),
        ),
        (
            "notification.delivered.v1",
            told("novu:msg_2xDelivered01", the_email(), Fact::Delivered),
        ),
        (
            "notification.bounced.v1",
            told("novu:msg_2xBounced01", the_email(), bounced),
        ),
        (
            "notification.failed.v1",
            told("novu:msg_2xFailed01", the_email(), failed),
        ),
        (
            "notification.seen.v1",
            told("novu:msg_2xSeen01", in_the_inbox(), Fact::Seen),
        ),
        (
            "notification.read.v1",
            told("novu:msg_2xRead01", in_the_inbox(), Fact::Read),
        ),
        (
            "notification.interacted.v1",
            told("novu:msg_2xArchived01", in_the_inbox(), archived),
        ),
        (
            "notification.suppressed.v1",
            told("novu:msg_2xSuppressed01", by_text_message(), suppressed),
        ),
    ]
}

fn bare_reports() -> [(&'static str, Event); 8] {
    let bounced = Fact::Bounced {
        bounce_type: BounceType::Unknown,
        code: None,
    };
    let failed = Fact::Failed {
        code: None,
        retryable: false,
        is_final: true,
        attempt: None,
    };
    let clicked = Fact::Interacted {
        kind: Interaction::Clicked,
    };
    let suppressed = Fact::Suppressed {
        reason: "duplicate".to_owned(),
    };
    [
        ("notification.sent.v1.minimal", told_openly(Fact::Sent)),
        (
            "notification.delivered.v1.minimal",
            told_openly(Fact::Delivered),
        ),
        ("notification.bounced.v1.minimal", told_openly(bounced)),
        ("notification.failed.v1.minimal", told_openly(failed)),
        ("notification.seen.v1.minimal", told_openly(Fact::Seen)),
        ("notification.read.v1.minimal", told_openly(Fact::Read)),
        ("notification.interacted.v1.minimal", told_openly(clicked)),
        (
            "notification.suppressed.v1.minimal",
            told_openly(suppressed),
        ),
    ]
}

#[test]
fn every_stored_payload_reads_as_what_it_meant() {
    for (name, meant) in promised() {
        let (event_type, version) = type_and_version(name);

        let read = Event::decode(event_type, version, &stored(name));

        assert_eq!(read.unwrap(), meant, "{name}");
    }
}

#[test]
fn escaped_text_reads_as_what_it_meant() {
    for (name, meaning) in promised() {
        // Neither stands outside of text: no payload has fractions or negative numbers.
        let data = stored(name).replace('-', r"\u002d").replace('.', r"\u002e");
        let (event_type, version) = type_and_version(name);

        let read = Event::decode(event_type, version, &data).unwrap();

        assert_eq!(read, meaning, "{name}");
    }
}

#[test]
fn what_is_written_today_is_the_stored_payload_byte_for_byte() {
    for (name, event) in promised() {
        assert_eq!(event.encode(), stored(name), "{name}");
    }
}

#[test]
fn every_file_is_promised_and_every_promise_has_a_file() {
    let promised: BTreeSet<String> = promised()
        .iter()
        .map(|(name, _)| format!("{name}.json"))
        .collect();
    let files: BTreeSet<String> = folder()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();

    assert_eq!(files, promised);
}

#[test]
fn every_event_type_has_a_stored_payload() {
    let promised = promised();
    let stored: BTreeSet<&str> = promised
        .iter()
        .map(|(name, _)| type_and_version(name).0)
        .collect();

    let named: BTreeSet<&str> = names::ALL.into_iter().collect();

    assert_eq!(stored, named);
}

#[test]
fn a_field_this_release_does_not_know_is_refused() {
    for (name, _) in promised() {
        let (event_type, version) = type_and_version(name);
        let mut data: serde_json::Value = serde_json::from_str(&stored(name)).unwrap();
        data["mood"] = "good".into();

        let read = Event::decode(event_type, version, &data.to_string());

        assert!(
            matches!(read, Err(DecodeError::Malformed { .. })),
            "{name}: {read:?}"
        );
    }
}

#[rstest]
#[case("message", "folder")]
#[case("context", "mood")]
#[case("classification", "mood")]
fn an_unknown_field_inside_a_part_is_refused(#[case] part: &str, #[case] field: &str) {
    let name = match part {
        "classification" => "notification.requested.v1",
        _ => "notification.sent.v1",
    };
    let (event_type, version) = type_and_version(name);
    let mut data: serde_json::Value = serde_json::from_str(&stored(name)).unwrap();
    data[part][field] = "good".into();

    let read = Event::decode(event_type, version, &data.to_string());

    assert!(
        matches!(read, Err(DecodeError::Malformed { .. })),
        "{read:?}"
    );
}

#[test]
fn a_version_of_a_later_release_is_refused() {
    for (name, _) in promised() {
        let (event_type, version) = type_and_version(name);

        let read = Event::decode(event_type, version + 1, &stored(name));

        assert!(
            matches!(read, Err(DecodeError::TooNew { found: 2, .. })),
            "{name}: {read:?}"
        );
    }
}

#[test]
fn a_version_before_the_first_is_refused() {
    for (name, _) in promised() {
        let read = Event::decode(type_and_version(name).0, 0, &stored(name));

        assert!(
            matches!(read, Err(DecodeError::NoUpcaster { found: 0, .. })),
            "{name}: {read:?}"
        );
    }
}

#[rstest]
#[case(
    "notification.requested",
    r#"{"subscriber_id":"a","category":"transactional","priority":"low"}"#
)]
#[case(
    "notification.requested",
    r#"{"workflow_id":"","subscriber_id":"a","category":"transactional","priority":"low"}"#
)]
#[case(
    "notification.requested",
    r#"{"workflow_id":"w","subscriber_id":"a","category":"spam","priority":"low"}"#
)]
#[case(
    "notification.adopted",
    r#"{"transaction_id":"txn_66f0a1c4b7d2e90012ab0100"}"#
)]
#[case("notification.bounced", r#"{"message":{}}"#)]
#[case("notification.bounced", r#"{"message":{},"bounce_type":"Hard"}"#)]
#[case("notification.failed", r#"{"message":{},"final":true}"#)]
#[case("notification.failed", r#"{"message":{},"retryable":true}"#)]
#[case("notification.interacted", r#"{"message":{}}"#)]
#[case("notification.suppressed", r#"{"message":{}}"#)]
#[case(
    "integration.changed",
    r#"{"provider":"novu","change":"workflow.deleted","object_id":"1"}"#
)]
#[case("subscriber.erased", r#"{"notifications":1}"#)]
#[case("subscriber.erased", r#"{"subscriber_id":"a"}"#)]
#[case("subscriber.erased", r#"{"subscriber_id":"a","notifications":-1}"#)]
#[case("notification.sent", "")]
fn a_damaged_payload_is_refused(#[case] event_type: &str, #[case] data: &str) {
    let read = Event::decode(event_type, 1, data);

    assert!(
        matches!(
            read,
            Err(DecodeError::Malformed { .. } | DecodeError::Missing { .. })
        ),
        "{read:?}"
    );
}

#[test]
fn an_event_of_another_kind_of_stream_is_refused() {
    let stored = |event_type| StoredPayload {
        event_type,
        schema_version: 1,
        data: r#"{"message":{}}"#,
    };

    for other in [
        names::INTEGRATION_CHANGED,
        names::SUBSCRIBER_ERASED,
        "notification.Sent",
        "",
    ] {
        let read = NotificationEvent::decode(event_id(1), at(0), stored(other));
        assert!(
            matches!(read, Err(DecodeError::UnknownType(_))),
            "{other}: {read:?}"
        );
    }
    let read = IntegrationEvent::decode(event_id(1), at(0), stored(names::SENT));
    assert!(matches!(read, Err(DecodeError::UnknownType(_))), "{read:?}");
    let read = SubscriberErased::decode(event_id(1), at(0), stored(names::SENT));
    assert!(matches!(read, Err(DecodeError::UnknownType(_))), "{read:?}");
}

/// Renaming a variant must not rename what is on record.
#[test]
fn stored_words_stay_as_they_are() {
    assert_eq!(BounceType::WORDS, ["hard", "soft", "complaint", "unknown"]);
    assert_eq!(
        Interaction::WORDS,
        [
            "opened",
            "clicked",
            "archived",
            "unarchived",
            "snoozed",
            "unsnoozed",
            "unread",
            "deleted"
        ]
    );
    assert_eq!(
        Category::WORDS,
        ["transactional", "marketing", "escalation"]
    );
    assert_eq!(Priority::WORDS, ["critical", "high", "normal", "low"]);
    assert_eq!(Audience::WORDS, ["customer", "support"]);
    assert_eq!(Severity::WORDS, ["low", "medium", "high", "critical"]);
    assert_eq!(
        names::ALL,
        [
            "notification.requested",
            "notification.adopted",
            "notification.queued",
            "notification.sent",
            "notification.delivered",
            "notification.bounced",
            "notification.failed",
            "notification.seen",
            "notification.read",
            "notification.interacted",
            "notification.retracted",
            "notification.suppressed",
            "subscriber.erased",
            "integration.changed",
        ]
    );
}

#[test]
fn every_interaction_and_bounce_is_stored_under_its_word() {
    for word in Interaction::WORDS {
        let kind = Interaction::from_word(word).unwrap();
        let stored = told_openly(Fact::Interacted { kind }).encode();
        assert_eq!(stored, format!(r#"{{"message":{{}},"kind":"{word}"}}"#));
    }
    for word in BounceType::WORDS {
        let bounce_type = BounceType::from_word(word).unwrap();
        let fact = Fact::Bounced {
            bounce_type,
            code: None,
        };
        let stored = told_openly(fact).encode();
        assert_eq!(
            stored,
            format!(r#"{{"message":{{}},"bounce_type":"{word}"}}"#)
        );
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events")
}

fn stored(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap()
}

/// `notification.sent.v1.minimal` is version 1 of `notification.sent`.
fn type_and_version(name: &str) -> (&str, i32) {
    let name = name.trim_end_matches(".minimal");
    let (event_type, version) = name.rsplit_once(".v").unwrap();
    (event_type, version.parse().unwrap())
}

fn event(body: Body, sealed: Option<Sealed>) -> Event {
    Event::Notification(NotificationEvent {
        event_id: event_id(1),
        occurred_at: at(0),
        sealed,
        body,
    })
}

fn a_box() -> Sealed {
    Sealed("1.Zm9v.YmFy".into())
}

fn sealed(body: Body) -> Event {
    event(body, Some(a_box()))
}

fn open(body: Body) -> Event {
    event(body, None)
}

fn told_openly(fact: Fact) -> Event {
    open(Body::Reported(Arc::new(said(fact, MessageRef::default()))))
}

fn changed(change: Change, is_sealed: bool) -> Event {
    Event::Integration(IntegrationEvent {
        event_id: event_id(1),
        occurred_at: at(0),
        sealed: is_sealed.then(a_box),
        change,
    })
}

fn erased(notifications: u64, request_id: Option<String>) -> Event {
    Event::Subscriber(SubscriberErased {
        event_id: event_id(1),
        erased_at: at(0),
        subscriber_id: SubscriberId::new("cust-20417").unwrap(),
        notifications,
        request_id,
    })
}

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn full_request() -> Requested {
    Requested {
        workflow_version: Some("2026-03".to_owned()),
        external_id: Some("order-88213".to_owned()),
        channels: vec!["email".to_owned(), "sms".to_owned()],
        category: Category::Escalation,
        priority: Priority::High,
        classification: Classification {
            error_code: Some("E1042".to_owned()),
            audience: Some(Audience::Support),
            severity: Some(Severity::Critical),
        },
        scheduled_at: Some(time("2026-03-14T09:30:00Z")),
        expires_at: Some(time("2026-03-15T09:30:00.5Z")),
        metadata: [("region", "eu-west"), ("shop", "Café Nordwind")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..the_request("cust-20417")
    }
}

fn queued() -> Queued {
    let answered = |id: &str| id.parse::<EventId>().unwrap();
    Queued {
        queue: Some("email-retries".to_owned()),
        available_at: Some(time("2026-03-14T09:35:00Z")),
        answers: vec![
            answered("0195948a-2b10-7000-8000-00000000000a"),
            answered("0195948a-2b10-7000-8000-00000000000b"),
        ],
    }
}

fn full_report(delivery_id: &str, message: MessageRef, fact: Fact) -> Report {
    Report {
        message,
        untimed: false,
        delivery_id: Some(delivery_id.to_owned()),
        context: Context {
            workflow_id: Some(WorkflowId::new("parcel-dispatched").unwrap()),
            subscriber_id: Some(SubscriberId::new("cust-20417").unwrap()),
            transaction_id: Some("txn_66f0a1c4b7d2e90012ab0100".to_owned()),
        },
        fact,
    }
}

fn the_email() -> MessageRef {
    MessageRef {
        message_id: Some("66f0a1c4b7d2e90012ab0301".to_owned()),
        provider_message_id: Some("sg-7Kd2Qw9fR1".to_owned()),
        channel: Some("email".to_owned()),
        provider_id: Some("sendgrid".to_owned()),
        step_id: Some("send-email".to_owned()),
    }
}

fn in_the_inbox() -> MessageRef {
    MessageRef {
        message_id: Some("66f0a1c4b7d2e90012ab0302".to_owned()),
        provider_message_id: Some("66f0a1c4b7d2e90012ab0302".to_owned()),
        channel: Some("in_app".to_owned()),
        provider_id: Some("novu".to_owned()),
        step_id: Some("inbox".to_owned()),
    }
}

fn by_text_message() -> MessageRef {
    MessageRef {
        channel: Some("sms".to_owned()),
        step_id: Some("send-sms".to_owned()),
        ..MessageRef::default()
    }
}

fn preference_changed() -> Change {
    Change {
        provider: "novu".to_owned(),
        change: "preference.updated".to_owned(),
        object_id: "66f0a1c4b7d2e90012ab0777".to_owned(),
        name: Some("parcel-dispatched".to_owned()),
        subscriber_id: Some(SubscriberId::new("cust-20417").unwrap()),
        delivery_id: Some("novu:msg_2xPreference01".to_owned()),
        fact_key: "b4f1c02d9e7a5583".to_owned(),
    }
}

fn workflow_deleted() -> Change {
    Change {
        provider: "novu".to_owned(),
        change: "workflow.deleted".to_owned(),
        object_id: "66f0a1c4b7d2e90012ab0888".to_owned(),
        name: None,
        subscriber_id: None,
        delivery_id: None,
        fact_key: "03d7a9be41c6f250".to_owned(),
    }
}
