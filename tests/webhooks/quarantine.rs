//! Authentic webhooks that can't be recorded wait for a person, whole, and nowhere in the clear.

use http::Method;
use notification_ledger::ledger::registry::Scope;
use serde_json::{Value, json};

use crate::fixture::{Fixture, START};
use crate::novu::{body, body_with, of_transaction};
use crate::on_both_databases;

on_both_databases!(
    a_type_that_is_not_known_waits_once_however_often_it_comes,
    any_body_is_kept_as_it_came,
    a_webhook_that_is_recorded_after_all_leaves_quarantine,
    a_retry_after_the_fact_came_another_way_finds_a_duplicate,
    a_retry_under_an_idempotency_key_is_answered_again,
    a_retry_says_what_is_wrong_with_it,
    an_entry_is_deleted_for_good,
    entries_outlive_their_source,
    entries_come_in_pages,
    a_page_of_large_bodies_ends_early,
    a_key_does_what_its_scope_says,
    another_tenants_entries_are_not_there,
    an_erased_body_is_gone,
);

const PATH: &str = "/v1/webhook-quarantine";

fn unknown() -> Vec<u8> {
    body_with("message.sent.email", |body| {
        body["type"] = json!("message.clicked");
    })
}

fn path(entry: &Value) -> String {
    format!("{PATH}/{}", entry["id"].as_str().unwrap())
}

fn retry(entry: &Value) -> String {
    format!("{}/retry", path(entry))
}

/// Puts one webhook into quarantine.
async fn one(f: &Fixture, delivery_id: &str, body: &[u8]) -> Value {
    assert_eq!(f.novu(delivery_id, body).await.outcome(), "quarantined");
    let entries = f.quarantine(&f.acme).await;
    entries.last().unwrap().clone()
}

async fn a_type_that_is_not_known_waits_once_however_often_it_comes(f: &Fixture) {
    for _ in 0..3 {
        let reply = f.novu("msg_1", &unknown()).await;
        assert_eq!(reply.body, json!({ "outcome": "quarantined" }));
        assert_eq!(reply.header("ledger-position"), None);
    }

    let entries = f.quarantine(&f.acme).await;

    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(entry["source_id"], json!(f.source));
    assert_eq!(entry["delivery_id"], "novu:msg_1");
    assert_eq!(
        entry["reason"],
        "the event type `message.clicked` is unknown"
    );
    assert_eq!(entry["received_at"], "2026-03-14T09:30:00.000000Z");
    assert_eq!(
        entry["body"],
        serde_json::from_slice::<Value>(&unknown()).unwrap()
    );
    assert_eq!(entry["body_encoding"], "json");
    assert_eq!(entry.get("erased"), None);
    assert_eq!(f.get(&f.acme, &path(entry)).await.expect(200), *entry);
    assert_eq!(f.events(&f.acme).await, Vec::<Value>::new());
    // Still unknown.
    assert_eq!(
        f.post(&f.acme, &retry(entry), &json!({})).await.outcome(),
        "quarantined"
    );
    assert_eq!(f.quarantine(&f.acme).await, entries);
}

async fn any_body_is_kept_as_it_came(f: &Fixture) {
    let deep = "[".repeat(500) + &"]".repeat(500);
    for (body, encoding, shown, reason) in [
        (
            &b"no JSON at all"[..],
            "text",
            json!("no JSON at all"),
            "breaks JSON's rules",
        ),
        (
            b"{\"type\": \"message.sent\"",
            "text",
            json!("{\"type\": \"message.sent\""),
            "too early",
        ),
        (b"", "text", json!(""), "too early"),
        (b"\xff\xfe{}", "base64", json!("//57fQ=="), "not UTF-8"),
        (b"[1, 2]", "json", json!([1, 2]), "not an object"),
        (b"{}", "json", json!({}), "`type` is missing"),
        (deep.as_bytes(), "text", json!(deep), "nested too deeply"),
    ] {
        let entry = one(f, &format!("msg_{}", reason.replace(' ', "_")), body).await;
        assert_eq!(entry["body"], shown);
        assert_eq!(entry["body_encoding"], encoding);
        assert!(
            entry["reason"].as_str().unwrap().contains(reason),
            "{entry}"
        );
        // What is retried is the same bytes.
        assert_eq!(
            f.post(&f.acme, &retry(&entry), &json!({})).await.outcome(),
            "quarantined"
        );
        f.delete(&f.acme, &path(&entry)).await.expect(204);
    }
}

async fn a_webhook_that_is_recorded_after_all_leaves_quarantine(f: &Fixture) {
    let careful = f.new_source(&f.acme, "quarantine").await;
    let untimed = body_with("message.deleted.in_app", |body| {
        body["data"]["object"]
            .as_object_mut()
            .unwrap()
            .remove("updatedAt");
    });
    f.novu_to(&careful, "msg_1", &untimed).await.expect(200);
    f.clock.set_seconds(f.clock.seconds() + 1);
    f.novu_to(&careful, "msg_2", &body("message.sent.sms"))
        .await
        .expect(200);
    let [first, second] = &f.quarantine(&f.acme).await[..] else {
        panic!("not two entries")
    };
    let writer = f.key(&f.acme, Scope::Write).await;
    f.clock.set_seconds(START + 3_600);

    // For this once; the policy stays.
    let adopted = f
        .post(&writer, &retry(first), &json!({ "unmatched": "adopt" }))
        .await;
    assert_eq!(adopted.outcome(), "appended");
    assert!(adopted.header("ledger-position").is_some());
    // Its transaction is known now. A body is not needed.
    let known = f.call(Method::POST, &writer, &retry(second), &[], "").await;
    assert_eq!(known.outcome(), "appended");
    assert_eq!(known.notification_id(), adopted.notification_id());

    assert_eq!(f.quarantine(&f.acme).await, Vec::<Value>::new());
    f.post(&writer, &retry(first), &json!({})).await.expect(404);
    let events = f.events(&f.acme).await;
    assert_eq!(events.len(), 3);
    for event in &events {
        assert_eq!(event["source"], "novu");
        // Whoever retried it had it recorded.
        assert_eq!(event["actor"]["kind"], "key");
    }
    // A fact without a time happened when it came in, not when it was retried.
    assert_eq!(events[1]["occurred_at"], "2026-03-14T09:30:00.000000Z");
    assert_eq!(events[1]["recorded_at"], "2026-03-14T10:30:00.000000Z");
    assert_eq!(events[1]["data"]["delivery_id"], "novu:msg_1");
}

async fn a_retry_after_the_fact_came_another_way_finds_a_duplicate(f: &Fixture) {
    let careful = f.new_source(&f.acme, "quarantine").await;
    f.novu_to(&careful, "msg_1", &body("message.sent.sms"))
        .await
        .expect(200);
    let entry = f.quarantine(&f.acme).await.remove(0);
    f.novu("msg_2", &body("message.sent.sms")).await.expect(200);

    let reply = f.post(&f.acme, &retry(&entry), &json!({})).await;

    assert_eq!(reply.outcome(), "duplicate");
    assert_eq!(f.quarantine(&f.acme).await, Vec::<Value>::new());
    assert_eq!(f.events(&f.acme).await.len(), 2);
}

async fn a_retry_under_an_idempotency_key_is_answered_again(f: &Fixture) {
    let careful = f.new_source(&f.acme, "quarantine").await;
    f.novu_to(&careful, "msg_1", &body("message.sent.sms"))
        .await
        .expect(200);
    let path = retry(&f.quarantine(&f.acme).await[0]);
    let adopt = json!({ "unmatched": "adopt" }).to_string();
    let call = async |key: &str, body: &str| {
        f.call(
            Method::POST,
            &f.acme,
            &path,
            &[("idempotency-key", key)],
            body,
        )
        .await
    };

    let first = call("k1", &adopt).await;
    let again = call("k1", &adopt).await;

    assert_eq!(first.outcome(), "appended");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(
        again.header("ledger-position"),
        first.header("ledger-position")
    );
    assert_eq!(again.body, first.body);
    assert_eq!(
        call("k1", "").await.expect(422)["code"],
        "idempotency_key_reused"
    );
    call("k2", &adopt).await.expect(404);
}

async fn a_retry_says_what_is_wrong_with_it(f: &Fixture) {
    let entry = one(f, "msg_1", &unknown()).await;

    let wrong = json!({ "unmatched": "drop", "policy": "adopt" });
    let problem = f.post(&f.acme, &retry(&entry), &wrong).await.expect(422);
    let pointers: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(pointers, ["/unmatched", "/policy"]);
    f.call(Method::POST, &f.acme, &retry(&entry), &[], "{")
        .await
        .expect(400);
    for id in ["0195954e-7bb8-7000-8000-00000000002a", "x"] {
        f.post(&f.acme, &format!("{PATH}/{id}/retry"), &json!({}))
            .await
            .expect(404);
        f.get(&f.acme, &format!("{PATH}/{id}")).await.expect(404);
        f.delete(&f.acme, &format!("{PATH}/{id}")).await.expect(404);
    }
}

async fn an_entry_is_deleted_for_good(f: &Fixture) {
    let entry = one(f, "msg_1", &unknown()).await;

    let reply = f.delete(&f.acme, &path(&entry)).await;
    assert_eq!(reply.body, json!(""));
    reply.expect(204);

    f.delete(&f.acme, &path(&entry)).await.expect(404);
    assert_eq!(f.quarantine(&f.acme).await, Vec::<Value>::new());
}

async fn entries_outlive_their_source(f: &Fixture) {
    f.patch(
        &f.acme,
        &format!("/v1/webhook-sources/{}", f.source),
        &json!({ "unmatched": "quarantine" }),
    )
    .await
    .expect(200);
    let entry = one(f, "msg_1", &body("message.sent.sms")).await;
    f.delete(&f.acme, &format!("/v1/webhook-sources/{}", f.source))
        .await
        .expect(204);

    // Nobody is left who would want it adopted.
    assert_eq!(
        f.post(&f.acme, &retry(&entry), &json!({})).await.outcome(),
        "quarantined"
    );
    let adopt = json!({ "unmatched": "adopt" });
    assert_eq!(
        f.post(&f.acme, &retry(&entry), &adopt).await.outcome(),
        "appended"
    );
}

async fn entries_come_in_pages(f: &Fixture) {
    for number in 0..5 {
        f.clock.set_seconds(f.clock.seconds() + number % 2);
        f.novu(&format!("msg_{number}"), b"{}").await.expect(200);
    }
    let all = f.quarantine(&f.acme).await;

    let mut seen = Vec::new();
    let mut next = format!("{PATH}?limit=2");
    loop {
        let page = f.get(&f.acme, &next).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        next = format!("{PATH}?limit=2&cursor={cursor}");
    }

    assert_eq!(seen.len(), 5);
    assert_eq!(seen, all);
    for query in [
        "cursor=AAAA",
        "limit=0",
        "limit=201",
        "page=2",
        "limit=2&limit=3",
    ] {
        f.get(&f.acme, &format!("{PATH}?{query}")).await.expect(422);
    }
    let cursor = next.split_once("cursor=").unwrap().1;
    let other = if cursor.starts_with('A') { "B" } else { "A" };
    f.get(&f.acme, &format!("{PATH}?cursor={other}{}", &cursor[1..]))
        .await
        .expect(422);
    let beta = f.tenant("beta").await;
    f.get(&beta, &format!("{PATH}?cursor={cursor}"))
        .await
        .expect(422);
}

async fn a_page_of_large_bodies_ends_early(f: &Fixture) {
    let large = format!("\"{}\"", "x".repeat(60 * 1024));
    for number in 0..150 {
        f.novu(&format!("msg_{number}"), large.as_bytes())
            .await
            .expect(200);
    }

    let page = f
        .get(&f.acme, &format!("{PATH}?limit=200"))
        .await
        .expect(200);
    let count = page["data"].as_array().unwrap().len();
    assert!((100..150).contains(&count), "{count}");
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = f
        .get(&f.acme, &format!("{PATH}?limit=200&cursor={cursor}"))
        .await
        .expect(200);

    assert_eq!(rest["data"].as_array().unwrap().len(), 150 - count);
    assert_eq!(rest["next_cursor"], Value::Null);
}

async fn a_key_does_what_its_scope_says(f: &Fixture) {
    let entry = one(f, "msg_1", &unknown()).await;
    let (path, retry) = (path(&entry), retry(&entry));
    let calls = [
        (Method::GET, PATH, Scope::Read, 200),
        (Method::GET, &path, Scope::Read, 200),
        (Method::POST, &retry, Scope::Write, 200),
        (Method::DELETE, &path, Scope::Admin, 204),
    ];

    for (method, path, needed, status) in calls {
        for scope in Scope::ALL.into_iter().filter(|scope| *scope != needed) {
            let key = f.key(&f.acme, scope).await;
            f.call(method.clone(), &key, path, &[], "")
                .await
                .expect(403);
        }
        let key = f.key(&f.acme, needed).await;
        f.call(method, &key, path, &[], "").await.expect(status);
    }
}

async fn another_tenants_entries_are_not_there(f: &Fixture) {
    let beta = f.tenant("beta").await;
    let entry = one(f, "msg_1", &unknown()).await;

    f.get(&beta, &path(&entry)).await.expect(404);
    f.post(&beta, &retry(&entry), &json!({})).await.expect(404);
    f.delete(&beta, &path(&entry)).await.expect(404);
    assert_eq!(f.quarantine(&beta).await, Vec::<Value>::new());
    f.get(&f.acme, &path(&entry)).await.expect(200);
}

async fn an_erased_body_is_gone(f: &Fixture) {
    let entry = one(
        f,
        "msg_1",
        &of_transaction("message.sent.sms", "x").repeat(2),
    )
    .await;
    assert_eq!(entry["body_encoding"], "text");
    f.erase_everybody().await;

    let erased = f.get(&f.acme, &path(&entry)).await.expect(200);

    assert_eq!(erased["body"], Value::Null);
    assert_eq!(erased["erased"], true);
    assert_eq!(f.quarantine(&f.acme).await, [erased]);
    let problem = f
        .post(&f.acme, &retry(&entry), &json!({}))
        .await
        .expect(404);
    assert!(problem["detail"].as_str().unwrap().contains("erased"));
    f.delete(&f.acme, &path(&entry)).await.expect(204);
    // What comes in later is sealed under a new key.
    let entry = one(f, "msg_2", &unknown()).await;
    assert_eq!(entry["body"]["type"], "message.clicked");
}
