//! What is on record after a webhook, and what Novu's peculiarities must not do to it.

use serde_json::{Value, json};

use crate::fixture::{Fixture, START};
use crate::novu::{STORY, body, body_with, emitted_again, secret, sign};
use crate::on_both_databases;

on_both_databases!(
    the_whole_story_makes_one_notification,
    a_retried_delivery_is_a_duplicate,
    a_fact_emitted_again_is_a_duplicate,
    a_chat_message_sent_with_an_error_has_failed,
    a_failed_message_has_failed_whatever_its_status_says,
    a_bounce_is_a_bounce,
    a_delivery_may_arrive_before_what_it_follows,
    a_push_message_gets_its_workflow_from_the_others,
    an_inbox_message_is_one_message_under_both_its_ids,
    unread_takes_the_reading_back_until_it_is_read_again,
    a_message_of_an_older_build_has_its_subscriber,
    changes_at_novu_are_recorded_beside_the_notifications,
    a_preference_may_be_set_back,
    an_event_says_where_it_came_from,
    a_sealed_report_comes_back_whole_and_is_nowhere_in_the_clear,
);

fn message<'a>(notification: &'a Value, channel: &str) -> &'a Value {
    let messages = notification["messages"].as_array().unwrap();
    let mut found = messages
        .iter()
        .filter(|message| message["channel"] == channel);
    let first = found.next().unwrap();
    assert!(found.next().is_none(), "{notification}");
    first
}

async fn sole(f: &Fixture, name: &str) -> Value {
    let reply = f.novu(&format!("msg_{name}"), &body(name)).await;
    assert_eq!(reply.outcome(), "appended");
    f.notification(&f.acme, &reply.notification_id()).await
}

async fn the_whole_story_makes_one_notification(f: &Fixture) {
    let mut id = None;
    for name in STORY {
        let reply = f.novu(&format!("msg_{name}"), &body(name)).await;
        assert_eq!(reply.outcome(), "appended", "{name}");
        let first = id.get_or_insert_with(|| reply.notification_id()).clone();
        assert_eq!(reply.notification_id(), first);
    }

    let notification = f.notification(&f.acme, &id.unwrap()).await;

    assert_eq!(notification["status"], "delivered");
    assert_eq!(notification["adopted"], true);
    assert_eq!(notification["workflow_id"], "parcel-dispatched");
    assert_eq!(notification["subscriber"], json!({ "id": "cust-20417" }));
    assert_eq!(notification["version"], 18);
    assert_eq!(notification["anomalies"], json!([]));
    assert_eq!(notification["messages"].as_array().unwrap().len(), 6);
    let email = message(&notification, "email");
    assert_eq!(email["status"], "delivered");
    assert_eq!(email["provider_message_id"], "sg-7Kd2mQxTTu6n0Yp1");
    assert_eq!(email["sent_at"], "2026-03-14T09:30:01.020000Z");
    assert_eq!(email["delivered_at"], "2026-03-14T09:30:05.000000Z");
    assert_eq!(email["seen_at"], "2026-03-14T10:02:43.000000Z");
    assert_eq!(message(&notification, "sms")["status"], "sent");
    assert_eq!(message(&notification, "chat")["status"], "failed");
    assert_eq!(
        message(&notification, "in_app")["interactions"]["snoozed"],
        "2026-03-14T09:55:00.300000Z"
    );
}

async fn a_retried_delivery_is_a_duplicate(f: &Fixture) {
    let body = body("message.sent.email");
    let first = f.novu("msg_1", &body).await;

    // Novu's next attempt, hours later, is signed again.
    f.clock.set_seconds(START + 7_200);
    let again = f.novu("msg_1", &body).await;

    assert_eq!(
        (first.outcome(), again.outcome()),
        ("appended", "duplicate")
    );
    assert_eq!(first.notification_id(), again.notification_id());
    assert_eq!(
        first.header("ledger-position"),
        again.header("ledger-position")
    );
    assert_eq!(
        f.event_types(&f.acme).await,
        ["notification.adopted", "notification.sent"]
    );
}

async fn a_fact_emitted_again_is_a_duplicate(f: &Fixture) {
    for name in STORY
        .into_iter()
        .chain(["workflow.updated", "preference.updated.global"])
    {
        let body = body(name);
        f.novu(&format!("msg_{name}"), &body).await.expect(200);
        let before = f.events(&f.acme).await.len();

        let again = f
            .novu(&format!("msg_{name}_again"), &emitted_again(&body, 7))
            .await;

        assert_eq!(again.outcome(), "duplicate", "{name}");
        assert_eq!(f.events(&f.acme).await.len(), before);
    }
}

async fn a_chat_message_sent_with_an_error_has_failed(f: &Fixture) {
    let notification = sole(f, "message.sent.chat-with-error").await;

    assert_eq!(notification["status"], "failed");
    assert_eq!(
        message(&notification, "chat")["last_error"]["message"],
        "channel_not_found"
    );
    assert_eq!(
        f.event_types(&f.acme).await,
        ["notification.adopted", "notification.failed"]
    );
}

async fn a_failed_message_has_failed_whatever_its_status_says(f: &Fixture) {
    let notification = sole(f, "message.failed.email").await;
    assert_eq!(notification["status"], "failed");

    let notification = sole(f, "message.failed.push").await;
    assert_eq!(
        message(&notification, "push")["last_error"]["code"],
        "token_invalid"
    );
}

async fn a_bounce_is_a_bounce(f: &Fixture) {
    let notification = sole(f, "message.failed.bounced").await;

    assert_eq!(notification["status"], "bounced");
    assert_eq!(notification["bounced_at"], "2026-03-14T09:40:09.551000Z");
    let email = message(&notification, "email");
    assert_eq!(email["bounce_type"], "hard");
    assert_eq!(
        email["last_error"]["message"],
        "550 5.1.1 mailbox unavailable"
    );
}

async fn a_delivery_may_arrive_before_what_it_follows(f: &Fixture) {
    let early = sole(f, "message.delivered.email").await;
    assert_eq!(early["status"], "delivered");

    let late = sole(f, "message.sent.email").await;

    assert_eq!(late["status"], "delivered");
    assert_eq!(late["sent_at"], "2026-03-14T09:30:01.020000Z");
    assert_eq!(late["anomalies"], json!([]));
}

async fn a_push_message_gets_its_workflow_from_the_others(f: &Fixture) {
    let alone = sole(f, "message.sent.push").await;
    assert_eq!(alone["workflow_id"], Value::Null);

    let both = sole(f, "message.sent.sms").await;

    assert_eq!(both["id"], alone["id"]);
    assert_eq!(both["workflow_id"], "parcel-dispatched");
}

async fn an_inbox_message_is_one_message_under_both_its_ids(f: &Fixture) {
    sole(f, "message.sent.in_app").await;
    // This one has no `providerResponseId`.
    let notification = sole(f, "message.seen.in_app").await;

    let inbox = message(&notification, "in_app");
    assert_eq!(inbox["seen_at"], "2026-03-14T09:45:11.990000Z");
    assert_eq!(inbox["status"], "sent");
}

async fn unread_takes_the_reading_back_until_it_is_read_again(f: &Fixture) {
    assert_eq!(
        sole(f, "message.read.in_app").await["read_at"],
        "2026-03-14T09:46:30.221000Z"
    );
    assert_eq!(
        sole(f, "message.unread.in_app").await["read_at"],
        Value::Null
    );

    let later = "2026-03-14T10:00:00.000Z";
    let again = body_with("message.read.in_app", |body| {
        body["data"]["object"]["lastReadDate"] = json!(later);
    });
    let id = f.novu("msg_again", &again).await.notification_id();

    assert_eq!(
        f.notification(&f.acme, &id).await["read_at"],
        "2026-03-14T10:00:00.000000Z"
    );
}

async fn a_message_of_an_older_build_has_its_subscriber(f: &Fixture) {
    let older = body_with("message.sent.email", |body| {
        let object = body["data"]["object"].as_object_mut().unwrap();
        object.remove("subscriberId");
        object.remove("workflowId");
        object.insert(
            "_subscriberId".to_owned(),
            json!("66f0a1c4b7d2e90012ab0900"),
        );
        object.insert(
            "subscriber".to_owned(),
            json!({ "subscriberId": "cust-20417" }),
        );
    });
    let id = f.novu("msg_1", &older).await.notification_id();

    let notification = f.notification(&f.acme, &id).await;
    assert_eq!(notification["subscriber"]["id"], "cust-20417");
    assert_eq!(notification["workflow_id"], "parcel-dispatched");
}

async fn changes_at_novu_are_recorded_beside_the_notifications(f: &Fixture) {
    for kind in ["created", "updated", "published", "deleted"] {
        let reply = f
            .novu(&format!("msg_{kind}"), &body(&format!("workflow.{kind}")))
            .await;
        assert_eq!(reply.outcome(), "appended");
        assert_eq!(reply.body.get("notification_id"), None);
        let events = f.events(&f.acme).await;
        assert_eq!(
            reply.header("ledger-position"),
            events.last().unwrap()["position"].as_str()
        );
    }
    f.novu("msg_global", &body("preference.updated.global"))
        .await
        .expect(200);

    let events = f.events(&f.acme).await;

    assert!(
        events
            .iter()
            .all(|event| event["type"] == "integration.changed")
    );
    // One stream per object, read in order.
    let places: Vec<_> = events
        .iter()
        .map(|event| {
            (
                &event["data"]["change"],
                event["sequence"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (&json!("workflow.created"), 1),
            (&json!("workflow.updated"), 2),
            (&json!("workflow.published"), 3),
            (&json!("workflow.deleted"), 4),
            (&json!("preference.updated"), 1),
        ]
    );
    assert!(
        events[..4]
            .iter()
            .all(|event| event["data"]["name"] == "parcel-dispatched")
    );
    let stream = events[0]["notification_id"].as_str().unwrap();
    f.get(&f.acme, &format!("/v1/notifications/{stream}"))
        .await
        .expect(404);
}

async fn a_preference_may_be_set_back(f: &Fixture) {
    let set = |email: bool, at: &str| {
        body_with("preference.updated.workflow", |body| {
            body["data"]["object"]["channels"]["email"] = json!(email);
            body["timestamp"] = json!(at);
        })
    };
    for (number, email, outcome) in [
        (1, false, "appended"),
        (2, true, "appended"),
        (3, false, "appended"),
        (4, false, "duplicate"),
    ] {
        let body = set(email, &format!("2026-03-14T11:0{number}:00.000Z"));
        let reply = f.novu(&format!("msg_{number}"), &body).await;
        assert_eq!(reply.outcome(), outcome, "{number}");
    }
}

async fn an_event_says_where_it_came_from(f: &Fixture) {
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let signed = sign(&secret(), "msg_1", START, &body("message.sent.sms"));
    let mut request = signed.request(&f.source);
    request
        .headers_mut()
        .insert("traceparent", traceparent.parse().unwrap());
    let reply = f.send(request).await;

    let path = format!("/v1/notifications/{}/events", reply.notification_id());
    let history = f.get(&f.acme, &path).await.expect(200);

    let [adopted, sent] = history["data"].as_array().unwrap().as_slice() else {
        panic!("not two events: {history}")
    };
    for event in [adopted, sent] {
        assert_eq!(event["actor"], json!({ "kind": "source", "id": f.source }));
        assert_eq!(event["source"], "novu");
        assert_eq!(event["traceparent"], traceparent);
        assert_eq!(event["occurred_at"], "2026-03-14T09:30:02.100000Z");
        assert_eq!(event["recorded_at"], "2026-03-14T09:30:00.000000Z");
    }
    assert_eq!(
        adopted["data"],
        json!({ "provider": "novu", "transaction_id": "txn_66f0a1c4b7d2e90012ab0100" })
    );
    assert_eq!(sent["data"]["delivery_id"], "novu:msg_1");
    assert_eq!(reply.header("ledger-position"), sent["position"].as_str());
}

async fn a_sealed_report_comes_back_whole_and_is_nowhere_in_the_clear(f: &Fixture) {
    let push = body("message.failed.push");
    let id = f.novu("msg_1", &push).await.notification_id();
    f.novu("msg_2", b"dev-token-B2, but not JSON")
        .await
        .expect(200);

    let path = format!("/v1/notifications/{id}/events");
    let history = f.get(&f.acme, &path).await.expect(200);

    let raw = &history["data"][1]["data"]["raw"];
    assert_eq!(*raw, serde_json::from_slice::<Value>(&push).unwrap());
    assert_eq!(raw["data"]["error"]["push"]["deviceToken"], "dev-token-B2");
    for text in f.everything_stored().await {
        assert!(!text.contains("dev-token-B2"));
        assert!(!text.contains("Requested entity"));
        assert!(!text.contains("whsec_"));
    }
}
