//! Which notifications and messages there are, found by what they are.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::{on_both_databases, snapshot};

on_both_databases!(
    notifications_are_listed_as_they_stand,
    messages_are_listed_with_what_was_said,
    what_was_erased_is_not_listed,
    notifications_are_found_by_every_filter,
    messages_are_found_by_every_filter,
    every_filter_takes_a_hundred_values,
    pages_hold_while_events_arrive,
    a_cursor_is_good_for_one_list_only,
    everything_wrong_with_a_query_is_said_at_once,
    a_list_waits_for_what_its_caller_has_written,
    a_page_of_large_reports_ends_early,
    operators_see_how_far_projections_are,
);

const NOTIFICATIONS: &str = "/v1/notifications";
const LOGS: &str = "/v1/notification-logs";
/// Most values of one filter.
const VALUES_MAX: usize = 100;

/// Tells a fact about a notification.
async fn tell(f: &Fixture, id: &str, fact: &str, body: &Value) {
    let path = format!("{NOTIFICATIONS}/{id}/{fact}");
    f.post(&path, body).send().await.expect(200);
}

/// Requests a notification, and gives its id.
async fn request(f: &Fixture, body: &Value) -> String {
    let made = f.post(NOTIFICATIONS, body).send().await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

/// One that was sent and came back.
async fn bounced(f: &Fixture) -> String {
    let body = json!({
        "workflow_id": "order-shipped",
        "external_id": "order-4711",
        "subscriber": {"id": "ada", "email": "ada@example.com"},
        "channels": ["email"],
        "payload": {"order": 4711},
        "classification": {"error_code": "E-42", "audience": "support"},
        "metadata": {"region": "eu"},
    });
    let id = request(f, &body).await;
    let message = json!({
        "channel": "email",
        "step_id": "send-email",
        "provider_id": "sendgrid",
        "provider_message_id": "sg-1",
    });
    f.clock.advance(Duration::from_secs(10));
    let sent = json!({"message": message, "raw": {"status": 202}});
    tell(f, &id, "sent", &sent).await;
    f.clock.advance(Duration::from_secs(10));
    let bounced = json!({
        "message": message,
        "bounce_type": "hard",
        "code": "550",
        "reason": "mailbox unknown",
        "raw": {"event": "bounce"},
    });
    tell(f, &id, "bounced", &bounced).await;
    id
}

async fn notifications_are_listed_as_they_stand(f: &Fixture) {
    let id = bounced(f).await;

    let page = f.fresh(NOTIFICATIONS).await;

    // As anywhere else, but for the payload and the addresses.
    let mut shown = f.get(&format!("{NOTIFICATIONS}/{id}")).send().await.json();
    assert_eq!(shown["subscriber"]["email"], "ada@example.com");
    shown["subscriber"] = json!({"id": "ada"});
    let payload = shown.as_object_mut().unwrap().remove("payload");
    assert_eq!(payload, Some(json!({"order": 4711})));
    assert_eq!(page["data"], json!([shown]));
    snapshot!(page, @r#"
    {
      "data": [
        {
          "adopted": false,
          "anomalies": [],
          "available_at": null,
          "bounced_at": "2026-03-14T09:30:20.000000Z",
          "category": "transactional",
          "channels": [
            "email"
          ],
          "classification": {
            "audience": "support",
            "error_code": "E-42"
          },
          "delivered_at": null,
          "erased": false,
          "expires_at": null,
          "external_id": "order-4711",
          "failed_at": null,
          "id": "00000000-0000-7000-8000-000000000005",
          "messages": [
            {
              "attempts": 1,
              "bounce_type": "hard",
              "bounced_at": "2026-03-14T09:30:20.000000Z",
              "channel": "email",
              "delivered_at": null,
              "failed_at": null,
              "interactions": {},
              "last_error": {
                "code": "550",
                "message": "mailbox unknown",
                "occurred_at": "2026-03-14T09:30:20.000000Z"
              },
              "message_key": "sg-1",
              "provider_id": "sendgrid",
              "provider_message_id": "sg-1",
              "read_at": null,
              "seen_at": null,
              "sent_at": "2026-03-14T09:30:10.000000Z",
              "status": "bounced",
              "step_id": "send-email",
              "suppressed_at": null,
              "suppressed_reason": null
            }
          ],
          "metadata": {
            "region": "eu"
          },
          "priority": "normal",
          "queue": null,
          "queued_at": null,
          "read_at": null,
          "requested_at": "2026-03-14T09:30:00.000000Z",
          "retracted_at": null,
          "retraction_reason": null,
          "rule": "provider-truth-v1",
          "scheduled_at": null,
          "seen_at": null,
          "sent_at": "2026-03-14T09:30:10.000000Z",
          "status": "bounced",
          "subscriber": {
            "id": "ada"
          },
          "suppressed_at": null,
          "tenant_id": "acme",
          "version": 3,
          "workflow_id": "order-shipped",
          "workflow_version": null
        }
      ],
      "next_cursor": null
    }
    "#);
}

async fn messages_are_listed_with_what_was_said(f: &Fixture) {
    bounced(f).await;

    let page = f.fresh(LOGS).await;

    snapshot!(page, @r#"
    {
      "data": [
        {
          "attempts": 1,
          "bounce_type": "hard",
          "bounced_at": "2026-03-14T09:30:20.000000Z",
          "category": "transactional",
          "channel": "email",
          "delivered_at": null,
          "erased": false,
          "error_code": "550",
          "external_id": "order-4711",
          "failed_at": null,
          "last_error": {
            "code": "550",
            "message": "mailbox unknown",
            "occurred_at": "2026-03-14T09:30:20.000000Z"
          },
          "message_key": "sg-1",
          "metadata": {
            "region": "eu"
          },
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:20.000000Z",
          "priority": "normal",
          "provider_id": "sendgrid",
          "provider_message_id": "sg-1",
          "queued_at": null,
          "raw": {
            "event": "bounce"
          },
          "read_at": null,
          "requested_at": "2026-03-14T09:30:00.000000Z",
          "retracted_at": null,
          "seen_at": null,
          "sent_at": "2026-03-14T09:30:10.000000Z",
          "status": "bounced",
          "step_id": "send-email",
          "subscriber_id": "ada",
          "suppressed_at": null,
          "target_audience": "support",
          "transaction_id": "00000000-0000-7000-8000-000000000005",
          "workflow_id": "order-shipped"
        }
      ],
      "next_cursor": null
    }
    "#);
}

async fn what_was_erased_is_not_listed(f: &Fixture) {
    bounced(f).await;
    f.erase_everybody().await;

    let notification = &f.fresh(NOTIFICATIONS).await["data"][0];
    assert_eq!(notification["erased"], true);
    let error = &notification["messages"][0]["last_error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("550"), &Value::Null)
    );

    let message = &f.fresh(LOGS).await["data"][0];
    assert_eq!(message["erased"], true);
    assert_eq!(
        (&message["raw"], &message["last_error"]["message"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(message["error_code"], "550");
}

/// Three that differ in everything.
async fn variety(f: &Fixture) {
    for (name, category, metadata, fact) in [
        (
            "a",
            "transactional",
            json!({"region": "eu", "team": "x"}),
            "sent",
        ),
        (
            "b",
            "marketing",
            json!({"region": "us", "team": "x"}),
            "delivered",
        ),
        ("c", "escalation", json!({"region": "apac"}), "failed"),
    ] {
        let mut body = json!({
            "workflow_id": format!("workflow-{name}"),
            "external_id": format!("order-{name}"),
            "subscriber": {"id": format!("subscriber-{name}")},
            "category": category,
            "metadata": metadata,
        });
        if name == "c" {
            body["classification"] = json!({"audience": "customer"});
        }
        let id = request(f, &body).await;
        let mut told = json!({"message": {
            "channel": format!("channel-{name}"),
            "step_id": format!("step-{name}"),
            "provider_id": format!("provider-{name}"),
            "provider_message_id": name,
        }});
        if fact == "failed" {
            told["error"] = json!({"code": "timeout", "message": "m"});
        }
        tell(f, &id, fact, &told).await;
        f.clock.advance(Duration::from_secs(10));
    }
}

/// The last letters of what a list gives, in its order.
async fn found(f: &Fixture, path: &str) -> String {
    let page = f.fresh(path).await;
    let entries = page["data"].as_array().unwrap().iter();
    let letter = |entry: &Value| {
        entry["external_id"]
            .as_str()
            .unwrap()
            .chars()
            .last()
            .unwrap()
    };
    entries.map(letter).collect()
}

async fn notifications_are_found_by_every_filter(f: &Fixture) {
    variety(f).await;
    for (query, expected) in [
        ("", "cba"),
        ("status=sent", "a"),
        ("status=sent&status=failed", "ca"),
        ("status=sent&status=sent", "a"),
        ("status=queued", ""),
        ("workflow_id=workflow-b", "b"),
        (
            "workflow_id=workflow-b&workflow_id=workflow-a&workflow_id=none",
            "ba",
        ),
        ("subscriber_id=subscriber-c", "c"),
        (
            "subscriber_id=subscriber-c&subscriber_id=subscriber-a&status=sent",
            "a",
        ),
        ("category=marketing&category=escalation", "cb"),
        ("external_id=order-a&external_id=order-b", "ba"),
        ("external_id=order-a&status=failed", ""),
        ("metadata[region]=eu", "a"),
        ("metadata%5Bregion%5D=eu", "a"),
        ("metadata[region]=eu&metadata[region]=us", "ba"),
        ("metadata[team]=x&metadata[region]=us", "b"),
        ("metadata[team]=x&metadata[region]=apac", ""),
        ("metadata[team]=x&status=sent&status=failed", "a"),
        (
            "metadata[region]=us&metadata[region]=apac&workflow_id=workflow-c",
            "c",
        ),
        ("metadata[none]=", ""),
        ("from=2026-03-14T09:30:10Z", "cb"),
        ("to=2026-03-14T09:30:10Z", "a"),
        ("from=2026-03-14T09:30:10Z&to=2026-03-14T09:30:20Z", "b"),
        ("from=2026-03-14T09:30:10Z&to=2026-03-14T09:30:10Z", ""),
        ("from=2026-03-14T09:30:10Z&status=sent&status=failed", "c"),
    ] {
        assert_eq!(
            found(f, &format!("{NOTIFICATIONS}?{query}")).await,
            expected,
            "{query}"
        );
    }
}

async fn messages_are_found_by_every_filter(f: &Fixture) {
    variety(f).await;
    let all = f.fresh(LOGS).await;
    let transaction = all["data"][2]["transaction_id"].as_str().unwrap();
    for (query, expected) in [
        ("", "cba"),
        ("status=delivered&status=failed", "cb"),
        ("channel=channel-a", "a"),
        ("channel=channel-a&channel=channel-b&status=sent", "a"),
        ("workflow_id=workflow-b", "b"),
        ("step_id=step-a&step_id=step-c", "ca"),
        ("subscriber_id=subscriber-a", "a"),
        ("provider_id=provider-b&provider_id=provider-c", "cb"),
        ("external_id=order-b", "b"),
        (&format!("transaction_id={transaction}"), "a"),
        ("error_code=timeout", "c"),
        ("error_code=550", ""),
        ("audience=customer", "c"),
        ("audience=support", ""),
        ("from=2026-03-14T09:30:10Z&to=2026-03-14T09:30:20Z", "b"),
        (
            "status=failed&channel=channel-c&audience=customer&from=2026-03-14T09:30:20Z",
            "c",
        ),
    ] {
        assert_eq!(
            found(f, &format!("{LOGS}?{query}")).await,
            expected,
            "{query}"
        );
    }
}

/// So many values of a filter: those that something has, and others that nothing has.
fn values(name: &str, real: &[&str]) -> String {
    let others = (real.len()..VALUES_MAX).map(|number| format!("none-{number}"));
    let values = real.iter().map(|value| (*value).to_owned()).chain(others);
    let pairs: Vec<_> = values.map(|value| format!("{name}={value}")).collect();
    pairs.join("&")
}

async fn every_filter_takes_a_hundred_values(f: &Fixture) {
    variety(f).await;
    let all = f.fresh(LOGS).await;
    let own = |name: &str| -> Vec<String> {
        let entries = all["data"].as_array().unwrap().iter();
        entries
            .map(|entry| entry[name].as_str().unwrap().to_owned())
            .collect()
    };
    let many = |name: &str| {
        let real = own(name);
        values(name, &real.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let names = [
        "channel",
        "workflow_id",
        "step_id",
        "subscriber_id",
        "provider_id",
        "external_id",
        "transaction_id",
    ];
    // One after the other, and all of them together.
    let mut query = String::from("status=sent&status=delivered&status=failed");
    for name in names {
        query = format!("{query}&{}", many(name));
        assert_eq!(found(f, &format!("{LOGS}?{query}")).await, "cba", "{name}");
    }
    let one_channel = query.replace(&many("channel"), "channel=channel-b");
    for (query, fits) in [
        (one_channel, "b"),
        (format!("{query}&audience=customer"), "c"),
    ] {
        assert_eq!(found(f, &format!("{LOGS}?{query}")).await, fits, "{query}");
    }
    let errors = values("error_code", &["timeout"]);
    assert_eq!(found(f, &format!("{LOGS}?{query}&{errors}")).await, "c");
    // Those without a value that few rows have.
    let common = ["channel", "workflow_id", "step_id", "provider_id"].map(many);
    let common = common.join("&");
    assert_eq!(found(f, &format!("{LOGS}?{common}")).await, "cba");
    let failed = format!("{LOGS}?{common}&status=failed&status=bounced");
    assert_eq!(found(f, &failed).await, "c");
    // In small pages.
    let page = f.fresh(&format!("{LOGS}?{query}&limit=2")).await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = found(f, &format!("{LOGS}?{query}&cursor={cursor}")).await;
    assert_eq!(rest, "a");

    let requested = ["workflow_id", "subscriber_id", "external_id"].map(many);
    let requested = requested.join("&");
    let region = values("metadata[region]", &["eu", "us"]);
    for (query, fits) in [
        (requested.clone(), "cba"),
        (format!("{requested}&{region}"), "ba"),
        (format!("{region}&{}", many("workflow_id")), "ba"),
    ] {
        assert_eq!(found(f, &format!("{NOTIFICATIONS}?{query}")).await, fits);
    }

    let ids = own("notification_id");
    let others = (3..VALUES_MAX).map(|number| format!("00000000-0000-7000-9000-{number:012}"));
    let ids: Vec<_> = ids.into_iter().chain(others).collect();
    let ids = format!("notification_id={}", ids.join("&notification_id="));
    let subscribers = many("subscriber_id");
    let page = f
        .fresh(&format!(
            "/v1/timeline?{ids}&{subscribers}&from=2026-03-14T09:00:00Z"
        ))
        .await;
    assert_eq!(page["data"].as_array().unwrap().len(), 6);
}

async fn pages_hold_while_events_arrive(f: &Fixture) {
    let mut ids = Vec::new();
    for number in 0..7 {
        let body = json!({"workflow_id": "w", "subscriber": {"id": format!("s{}", number % 2)}});
        let id = request(f, &body).await;
        tell(f, &id, "sent", &json!({"message": {"channel": "email"}})).await;
        ids.insert(0, id);
    }
    // One value and two: read in one piece, and in several.
    for query in ["limit=2", "limit=3&subscriber_id=s0&subscriber_id=s1"] {
        for (list, name) in [(NOTIFICATIONS, "id"), (LOGS, "notification_id")] {
            let expected = f.fresh(&format!("{list}?limit=200")).await;
            let expected = expected["data"].as_array().unwrap().iter();
            let expected: Vec<_> = expected.map(|entry| entry[name].clone()).collect();
            let mut seen = Vec::new();
            let mut path = format!("{list}?{query}");
            loop {
                let page = f.fresh(&path).await;
                let data = page["data"].as_array().unwrap();
                seen.extend(data.iter().map(|entry| entry[name].clone()));
                // New ones come, and old ones change.
                let new = request(f, &crate::fixture::minimal()).await;
                tell(f, &new, "sent", &json!({"message": {"channel": "sms"}})).await;
                tell(f, &ids[seen.len() % 7], "seen", &json!({})).await;
                let Some(cursor) = page["next_cursor"].as_str() else {
                    break;
                };
                path = format!("{list}?{query}&cursor={cursor}");
            }
            let wanted = |id: &Value| query == "limit=2" || ids.iter().any(|known| id == known);
            let expected: Vec<_> = expected.into_iter().filter(wanted).collect();
            assert_eq!(seen, expected, "{list}?{query}");
        }
    }
}

async fn a_cursor_is_good_for_one_list_only(f: &Fixture) {
    let rival = f.tenant("rival").await;
    for key in [&f.acme, &rival] {
        for _ in 0..3 {
            let made = f.post(NOTIFICATIONS, &crate::fixture::minimal()).key(key);
            let id = made.send().await.expect(201)["id"].clone();
            let path = format!("{NOTIFICATIONS}/{}/sent", id.as_str().unwrap());
            f.post(&path, &json!({})).key(key).send().await.expect(200);
        }
    }
    let page = f
        .fresh(&format!("{NOTIFICATIONS}?limit=1&status=sent"))
        .await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let mut changed = cursor.as_bytes().to_vec();
    changed[3] = if changed[3] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();

    // The size of the page and the order of the filters don't matter.
    for query in ["limit=2&status=sent", "status=sent&limit=1"] {
        f.fresh(&format!("{NOTIFICATIONS}?{query}&cursor={cursor}"))
            .await;
    }
    for (path, cursor) in [
        (format!("{NOTIFICATIONS}?status=sent"), changed.as_str()),
        (format!("{NOTIFICATIONS}?status=sent"), "A"),
        (NOTIFICATIONS.to_owned() + "?limit=1", cursor),
        (format!("{NOTIFICATIONS}?status=failed"), cursor),
        (format!("{NOTIFICATIONS}?status=sent&status=failed"), cursor),
        (format!("{LOGS}?status=sent"), cursor),
        ("/v1/timeline?order=asc".to_owned(), cursor),
    ] {
        let refused = f.get(&format!("{path}&cursor={cursor}")).send().await;
        assert_eq!(refused.pointers(), ["?cursor"], "{path} {cursor}");
    }
    let path = format!("{NOTIFICATIONS}?status=sent&cursor={cursor}");
    let refused = f.get(&path).key(&rival).send().await;
    assert_eq!(refused.pointers(), ["?cursor"]);
}

async fn everything_wrong_with_a_query_is_said_at_once(f: &Fixture) {
    let many: Vec<String> = (0..101)
        .map(|number| format!("subscriber_id={number}"))
        .collect();
    let many = many.join("&");
    for (query, pointers) in [
        ("limit=0", vec!["?limit"]),
        ("limit=201", vec!["?limit"]),
        ("limit=1&limit=2", vec!["?limit"]),
        ("status=lost", vec!["?status"]),
        ("status=", vec!["?status"]),
        ("workflow_id=", vec!["?workflow_id"]),
        ("subscriber_id=a%00b", vec!["?subscriber_id"]),
        ("from=yesterday", vec!["?from"]),
        (
            "from=2026-03-14T09:30:10Z&to=2026-03-14T09:30:09Z",
            vec!["?from"],
        ),
        (
            "from=2026-03-14T09:30:10Z&from=2026-03-14T09:30:10Z",
            vec!["?from"],
        ),
        (&many, vec!["?subscriber_id"]),
        ("colour=red", vec!["?"]),
        (
            "status=lost&limit=ten&colour=red&to=x",
            vec!["?status", "?to", "?limit", "?"],
        ),
    ] {
        for list in [NOTIFICATIONS, LOGS] {
            let refused = f.get(&format!("{list}?{query}")).send().await;
            assert_eq!(refused.pointers(), pointers, "{list}?{query}");
        }
    }
    let said =
        async |path: &str| f.get(path).send().await.problem(422, "invalid")["detail"].to_string();
    let words = said(&format!("{LOGS}?audience=nobody")).await;
    assert!(words.contains("customer, support"), "{words}");
    let known = said(&format!("{NOTIFICATIONS}?colour=red&metadata=1")).await;
    assert!(known.contains("2 things"), "{known}");
    let known = said(&format!("{NOTIFICATIONS}?colour=red")).await;
    assert!(
        known.contains("colour") && known.contains("status, workflow_id"),
        "{known}"
    );
    let odd = f.get(&format!("{NOTIFICATIONS}?status=%ff")).send().await;
    assert!(odd.status.as_u16() < 500, "{}", odd.text());

    let writer = f.key("write").await;
    for list in [NOTIFICATIONS, LOGS, "/v1/timeline", "/v1/metrics"] {
        f.get(list)
            .key(&writer)
            .send()
            .await
            .problem(403, "forbidden");
        f.get(list)
            .without_key()
            .send()
            .await
            .problem(401, "unauthenticated");
        f.get(list).key(&f.reader).send().await.expect(200);
    }
}

async fn a_list_waits_for_what_its_caller_has_written(f: &Fixture) {
    let made = f
        .post(NOTIFICATIONS, &crate::fixture::minimal())
        .send()
        .await;
    let position = made.header("ledger-position").unwrap();
    for list in [NOTIFICATIONS, LOGS, "/v1/timeline", "/v1/metrics"] {
        let page = f
            .get(list)
            .header("ledger-min-position", position)
            .send()
            .await;
        page.expect(200);
        assert_eq!(page.header("ledger-position"), Some("3-1"), "{list}");
        let elsewhere = f
            .get(list)
            .header("ledger-min-position", "4-1")
            .send()
            .await;
        assert_eq!(elsewhere.pointers(), ["Ledger-Min-Position"]);
    }
    let beyond = f
        .get(LOGS)
        .header("ledger-min-position", "3-2")
        .send()
        .await;
    beyond.problem(503, "projection_behind");
}

async fn a_page_of_large_reports_ends_early(f: &Fixture) {
    let id = f.requested().await;
    for number in 0..20 {
        let raw = "x".repeat(500_000);
        let sent = json!({"message": {"provider_message_id": number.to_string()}, "raw": raw});
        tell(f, &id, "sent", &sent).await;
    }
    let first = f.fresh(LOGS).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = f.fresh(&format!("{LOGS}?cursor={cursor}")).await;

    let keys = |page: &Value| -> Vec<u32> {
        let data = page["data"].as_array().unwrap().iter();
        data.map(|entry| entry["message_key"].as_str().unwrap().parse().unwrap())
            .collect()
    };
    assert_eq!(keys(&first).len(), 17);
    assert_eq!(second["next_cursor"], Value::Null);
    let all: Vec<u32> = [keys(&first), keys(&second)].concat();
    assert_eq!(all, (0..20).rev().collect::<Vec<_>>());
}

async fn operators_see_how_far_projections_are(f: &Fixture) {
    f.requested().await;
    f.fresh(NOTIFICATIONS).await;
    let path = "/v1/admin/projections";
    f.get(path).send().await.problem(403, "forbidden");

    let all = f.get(path).key(&f.operator).send().await.expect(200);

    let names: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(
        names,
        ["notifications", "notification_logs", "timeline", "metrics"]
    );
    assert_eq!(all["data"][0]["partitions"].as_array().unwrap().len(), 8);
    snapshot!(all["data"][0]["partitions"][3], @r#"
    {
      "failed_at": null,
      "head": 1,
      "lag_events": 0,
      "lag_seconds": 0.0,
      "last_error": null,
      "partition": 3,
      "position": 1,
      "state": "running"
    }
    "#);
}
