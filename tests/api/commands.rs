//! One notification from request to outcome.

#![expect(clippy::too_many_lines, reason = "whole answers are long")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::bodies::ON_A_NOTIFICATION;
use crate::fixture::{Fixture, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    a_request_is_answered_with_all_of_it,
    a_notification_is_queued_sent_and_delivered,
    every_fact_is_told_with_what_belongs_to_it,
    a_fact_that_is_on_record_appends_nothing,
    what_is_settled_is_not_retracted,
    nothing_of_another_tenant_can_be_found,
);

async fn a_request_is_answered_with_all_of_it(f: &Fixture) {
    let request = json!({
        "id": "019353f0-5f5c-7000-8000-5d4f2b7a9c11",
        "workflow_id": "order-shipped",
        "workflow_version": "12",
        "external_id": "order-4711",
        "subscriber": {
            "id": "ada", "email": "ada@example.com", "phone": "+4915112345678",
            "locale": "de-DE", "timezone": "Europe/Berlin", "channels": {"push": "token"},
        },
        "channels": ["email", "push"],
        "payload": {"order": {"number": 4711}},
        "category": "escalation",
        "priority": "high",
        "classification": {"error_code": "E-42", "audience": "customer", "severity": "low"},
        "scheduled_at": "2026-03-14T11:00:00+01:00",
        "expires_at": "9999-12-31T23:59:59.999999Z",
        "metadata": {"region": "eu"},
        "correlation_id": "checkout-8842",
        "causation_id": "order-4711-shipped",
    });

    let made = f.post("/v1/notifications", &request).send().await;

    snapshot!(made.expect(201), @r#"
    {
      "adopted": false,
      "anomalies": [],
      "available_at": null,
      "bounced_at": null,
      "category": "escalation",
      "channels": [
        "email",
        "push"
      ],
      "classification": {
        "audience": "customer",
        "error_code": "E-42",
        "severity": "low"
      },
      "delivered_at": null,
      "erased": false,
      "expires_at": "9999-12-31T23:59:59.999999Z",
      "external_id": "order-4711",
      "failed_at": null,
      "id": "019353f0-5f5c-7000-8000-5d4f2b7a9c11",
      "messages": [],
      "metadata": {
        "region": "eu"
      },
      "payload": {
        "order": {
          "number": 4711
        }
      },
      "priority": "high",
      "queue": null,
      "queued_at": null,
      "read_at": null,
      "requested_at": "2026-03-14T09:30:00.000000Z",
      "retracted_at": null,
      "retraction_reason": null,
      "rule": "provider-truth-v1",
      "scheduled_at": "2026-03-14T10:00:00.000000Z",
      "seen_at": null,
      "sent_at": null,
      "status": "requested",
      "subscriber": {
        "channels": {
          "push": "token"
        },
        "email": "ada@example.com",
        "id": "ada",
        "locale": "de-DE",
        "phone": "+4915112345678",
        "timezone": "Europe/Berlin"
      },
      "suppressed_at": null,
      "tenant_id": "acme",
      "version": 1,
      "workflow_id": "order-shipped",
      "workflow_version": "12"
    }
    "#);
    let path = "/v1/notifications/019353f0-5f5c-7000-8000-5d4f2b7a9c11";
    assert_eq!(made.header("location"), Some(path));
    assert_eq!(made.header("ledger-position"), Some("3-1"));
    assert_eq!(made.header("etag"), Some("\"1\""));
    let shown = f.get(path).key(&f.reader).send().await;
    assert_eq!(shown.text(), made.text());
    let again = f.post("/v1/notifications", &request).send().await;
    again.problem(409, "already_exists");
}

async fn a_notification_is_queued_sent_and_delivered(f: &Fixture) {
    let id = f.requested().await;
    let path = format!("/v1/notifications/{id}");
    let message = json!({"channel": "email", "provider_id": "ses", "provider_message_id": "m-1"});
    let post = async |call: &str, body: Value| {
        f.clock.advance(Duration::from_secs(1));
        f.post(&format!("{path}/{call}"), &body)
            .send()
            .await
            .expect(200)["status"]
            .clone()
    };

    let later = json!({"queue": "bulk", "available_at": "2026-03-14T10:00:00Z"});
    assert_eq!(post("queue", later).await, "queued");
    assert_eq!(post("sent", json!({"message": message})).await, "sent");
    let occurred_at = "2026-03-14T09:30:02.5Z";
    let delivered = json!({"message": message, "occurred_at": occurred_at, "raw": {"code": 250}});
    assert_eq!(post("delivered", delivered).await, "delivered");

    let shown = f.get(&path).send().await.expect(200);
    snapshot!(shown["messages"], @r#"
    [
      {
        "attempts": 1,
        "bounce_type": null,
        "bounced_at": null,
        "channel": "email",
        "delivered_at": "2026-03-14T09:30:02.500000Z",
        "failed_at": null,
        "interactions": {},
        "last_error": null,
        "message_key": "m-1",
        "provider_id": "ses",
        "provider_message_id": "m-1",
        "read_at": null,
        "seen_at": null,
        "sent_at": "2026-03-14T09:30:02.000000Z",
        "status": "delivered",
        "step_id": null,
        "suppressed_at": null,
        "suppressed_reason": null
      }
    ]
    "#);
    let mut history = f.get(&format!("{path}/events")).send().await.expect(200);
    for event in history["data"].as_array_mut().unwrap() {
        assert_eq!(event["hash"].take().as_str().unwrap().len(), 64);
    }
    snapshot!(history, @r#"
    {
      "data": [
        {
          "actor": {
            "id": "00000000-0000-7000-8000-000000000002",
            "kind": "key"
          },
          "causation_id": null,
          "correlation_id": null,
          "data": {
            "category": "transactional",
            "priority": "normal",
            "subscriber": {
              "id": "ada"
            },
            "workflow_id": "welcome"
          },
          "event_id": "00000000-0000-7000-8000-000000000006",
          "hash": null,
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:00.000000Z",
          "position": "3-1",
          "recorded_at": "2026-03-14T09:30:00.000000Z",
          "schema_version": 1,
          "sequence": 1,
          "source": "api",
          "tenant_id": "acme",
          "traceparent": null,
          "type": "notification.requested"
        },
        {
          "actor": {
            "id": "00000000-0000-7000-8000-000000000002",
            "kind": "key"
          },
          "causation_id": null,
          "correlation_id": null,
          "data": {
            "available_at": "2026-03-14T10:00:00.000000Z",
            "queue": "bulk"
          },
          "event_id": "00000000-0000-7000-8000-000000000008",
          "hash": null,
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:01.000000Z",
          "position": "3-2",
          "recorded_at": "2026-03-14T09:30:01.000000Z",
          "schema_version": 1,
          "sequence": 2,
          "source": "api",
          "tenant_id": "acme",
          "traceparent": null,
          "type": "notification.queued"
        },
        {
          "actor": {
            "id": "00000000-0000-7000-8000-000000000002",
            "kind": "key"
          },
          "causation_id": null,
          "correlation_id": null,
          "data": {
            "message": {
              "channel": "email",
              "provider_id": "ses",
              "provider_message_id": "m-1"
            },
            "untimed": true
          },
          "event_id": "00000000-0000-7000-8000-00000000000a",
          "hash": null,
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:02.000000Z",
          "position": "3-3",
          "recorded_at": "2026-03-14T09:30:02.000000Z",
          "schema_version": 1,
          "sequence": 3,
          "source": "api",
          "tenant_id": "acme",
          "traceparent": null,
          "type": "notification.sent"
        },
        {
          "actor": {
            "id": "00000000-0000-7000-8000-000000000002",
            "kind": "key"
          },
          "causation_id": null,
          "correlation_id": null,
          "data": {
            "message": {
              "channel": "email",
              "provider_id": "ses",
              "provider_message_id": "m-1"
            },
            "raw": {
              "code": 250
            }
          },
          "event_id": "00000000-0000-7000-8000-00000000000c",
          "hash": null,
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:02.500000Z",
          "position": "3-4",
          "recorded_at": "2026-03-14T09:30:03.000000Z",
          "schema_version": 1,
          "sequence": 4,
          "source": "api",
          "tenant_id": "acme",
          "traceparent": null,
          "type": "notification.delivered"
        }
      ],
      "next_cursor": null
    }
    "#);
    let queued = f.post(&format!("{path}/queue"), &json!({})).send().await;
    let mut problem = queued.problem(409, "invalid_transition");
    problem["request_id"] = json!("[id]");
    snapshot!(problem, @r#"
    {
      "code": "invalid_transition",
      "current_status": "delivered",
      "detail": "a delivered notification can't be queued: only a requested one, or one whose failure was reported `retryable`, can be",
      "request_id": "[id]",
      "status": 409,
      "title": "The notification's state does not allow it",
      "type": "urn:notification-ledger:problem:invalid_transition"
    }
    "#);
}

async fn every_fact_is_told_with_what_belongs_to_it(f: &Fixture) {
    let tell = async |call: &str, body: Value| {
        let id = f.requested().await;
        let path = format!("/v1/notifications/{id}");
        let told = f
            .post(&format!("{path}/{call}"), &body)
            .send()
            .await
            .expect(200);
        let history = f.get(&format!("{path}/events")).send().await.expect(200);
        (
            told["messages"][0].clone(),
            history["data"][1]["data"].clone(),
        )
    };

    let bounced = json!({"bounce_type": "hard", "code": "550", "reason": "No such mailbox."});
    let told = tell("bounced", bounced).await;
    snapshot!(told, @r#"
    [
      {
        "attempts": 1,
        "bounce_type": "hard",
        "bounced_at": "2026-03-14T09:30:00.000000Z",
        "channel": null,
        "delivered_at": null,
        "failed_at": null,
        "interactions": {},
        "last_error": {
          "code": "550",
          "message": "No such mailbox.",
          "occurred_at": "2026-03-14T09:30:00.000000Z"
        },
        "message_key": "-/-/-",
        "provider_id": null,
        "provider_message_id": null,
        "read_at": null,
        "seen_at": null,
        "sent_at": null,
        "status": "bounced",
        "step_id": null,
        "suppressed_at": null,
        "suppressed_reason": null
      },
      {
        "bounce_type": "hard",
        "code": "550",
        "message": {},
        "reason": "No such mailbox.",
        "untimed": true
      }
    ]
    "#);
    let failed = json!({
        "error": {"code": "timeout", "message": "No answer."}, "retryable": true, "attempt": 2,
    });
    let told = tell("failed", failed).await;
    snapshot!(told, @r#"
    [
      {
        "attempts": 2,
        "bounce_type": null,
        "bounced_at": null,
        "channel": null,
        "delivered_at": null,
        "failed_at": null,
        "interactions": {},
        "last_error": {
          "code": "timeout",
          "message": "No answer.",
          "occurred_at": "2026-03-14T09:30:00.000000Z"
        },
        "message_key": "-/-/-",
        "provider_id": null,
        "provider_message_id": null,
        "read_at": null,
        "seen_at": null,
        "sent_at": null,
        "status": "requested",
        "step_id": null,
        "suppressed_at": null,
        "suppressed_reason": null
      },
      {
        "attempt": 2,
        "error": {
          "code": "timeout",
          "message": "No answer."
        },
        "final": false,
        "message": {},
        "retryable": true,
        "untimed": true
      }
    ]
    "#);
    let (message, _) = tell("failed", json!({"error": {"message": "Gone."}})).await;
    assert_eq!(message["status"], "failed");
    let (message, data) = tell("interacted", json!({"kind": "clicked"})).await;
    assert_eq!(
        message["interactions"]["clicked"],
        "2026-03-14T09:30:00.000000Z"
    );
    assert_eq!(data["kind"], "clicked");
    let (message, _) = tell("suppressed", json!({"reason": "preference"})).await;
    assert_eq!(
        (&message["status"], &message["suppressed_reason"]),
        (&json!("suppressed"), &json!("preference"))
    );
    let (message, _) = tell("seen", json!({})).await;
    assert_eq!(message["seen_at"], "2026-03-14T09:30:00.000000Z");
    let (message, _) = tell("read", json!({"occurred_at": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(message["read_at"], "2020-01-01T00:00:00.000000Z");
}

async fn a_fact_that_is_on_record_appends_nothing(f: &Fixture) {
    let path = format!("/v1/notifications/{}/delivered", f.requested().await);
    let fact = json!({"message": {"channel": "sms"}, "occurred_at": "2026-03-14T09:00:00Z"});

    let first = f.post(&path, &fact).send().await;
    f.clock.advance(Duration::from_hours(48));
    let again = f.post(&path, &fact).send().await;

    assert_eq!(first.expect(200).get("deduplicated"), None);
    let mut repeated = again.expect(200);
    assert_eq!(repeated["deduplicated"].take(), true);
    repeated.as_object_mut().unwrap().remove("deduplicated");
    assert_eq!(repeated, first.json());
    assert_eq!(
        again.header("ledger-position"),
        first.header("ledger-position")
    );
}

async fn what_is_settled_is_not_retracted(f: &Fixture) {
    let id = f.requested().await;
    let retract = json!({"reason": "The order was cancelled."});
    let path = format!("/v1/notifications/{id}/retract");

    let first = f.post(&path, &retract).send().await;
    let retracted = first.expect(200);
    assert_eq!(retracted["status"], "retracted");
    assert_eq!(retracted["retraction_reason"], "The order was cancelled.");
    let again = f.post(&path, &json!({"reason": "Again."})).send().await;
    assert_eq!(again.text(), first.text());

    let id = f.requested().await;
    f.post(&format!("/v1/notifications/{id}/delivered"), &json!({}))
        .send()
        .await
        .expect(200);
    let refused = f
        .post(&format!("/v1/notifications/{id}/retract"), &retract)
        .send()
        .await;
    assert_eq!(
        refused.problem(409, "invalid_transition")["current_status"],
        "delivered"
    );
}

async fn nothing_of_another_tenant_can_be_found(f: &Fixture) {
    let rival = f.tenant("rival").await;
    let body = |call: &str| match call {
        "retract" | "suppressed" => json!({"reason": "r"}),
        "failed" => json!({"error": {"message": "m"}}),
        "interacted" => json!({"kind": "opened"}),
        _ => json!({}),
    };
    let theirs = f.requested().await;
    let unknown = "019353f0-5f5c-7000-8000-00000000dead";
    for id in [theirs.as_str(), unknown, "nonsense", "%ff", "7"] {
        let path = format!("/v1/notifications/{id}");
        for path in [
            path.clone(),
            format!("{path}/events"),
            format!("{path}?as_of=5-0"),
        ] {
            f.get(&path)
                .key(&rival)
                .send()
                .await
                .problem(404, "not_found");
        }
        for call in ON_A_NOTIFICATION {
            let refused = f
                .post(&format!("{path}/{call}"), &body(call))
                .key(&rival)
                .send()
                .await;
            refused.problem(404, "not_found");
        }
    }
    assert_eq!(f.events().await, 1);
    let page = f.get("/v1/events").key(&rival).send().await.expect(200);
    assert_eq!(page["data"], json!([]));

    // The same id is free for everybody.
    let same = json!({"id": theirs, "workflow_id": "w", "subscriber": {"id": "s"}});
    let made = f
        .post("/v1/notifications", &same)
        .key(&rival)
        .send()
        .await
        .expect(201);
    assert_eq!(
        (&made["tenant_id"], &made["version"]),
        (&json!("rival"), &json!(1))
    );
    let ours = f
        .get(&format!("/v1/notifications/{theirs}"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&ours["tenant_id"], &ours["workflow_id"]),
        (&json!("acme"), &minimal()["workflow_id"])
    );
}

#[tokio::test]
async fn an_id_may_be_written_in_any_way_a_uuid_is() {
    let f = Fixture::new().await;
    let id = f.requested().await;
    let upper = id.to_uppercase();
    let delivered = json!({"message": {"channel": "sms"}});

    let first = f
        .post(&format!("/v1/notifications/{id}/delivered"), &delivered)
        .once("k")
        .send()
        .await;
    let again = f
        .post(&format!("/v1/notifications/{upper}/delivered"), &delivered)
        .once("k")
        .send()
        .await;

    again.is_replay_of(&first);
}
