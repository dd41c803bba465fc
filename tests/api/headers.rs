//! What comes in headers: who calls, whether it may come twice, which version is meant.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::fixture::{Fixture, minimal};
use crate::on_both_databases;

on_both_databases!(
    a_repeated_call_gets_the_first_answer_byte_for_byte,
    a_key_used_for_something_else_is_refused,
    a_command_for_another_version_is_refused,
    a_read_sees_the_write_it_waits_for,
);

const NOTIFICATIONS: &str = "/v1/notifications";

#[tokio::test]
async fn a_call_needs_a_key() {
    let f = Fixture::new().await;
    let long = "x".repeat(5000);
    let nobody = format!("Bearer nl_{}", "a".repeat(43));
    for authorization in [
        None,
        Some("Basic YTpi"),
        Some("Bearer"),
        Some("Bearer "),
        Some("nl_abc"),
        Some("Bearer nl_abc"),
        Some(nobody.as_str()),
        Some(long.as_str()),
    ] {
        for (method, path) in [
            (Method::GET, "/v1/events"),
            (Method::POST, NOTIFICATIONS),
            (Method::GET, "/v1/notifications/nonsense"),
            (Method::POST, "/v1/commands"),
            (Method::GET, "/v1/keys"),
            (Method::GET, "/v1/admin/ledger"),
            (Method::GET, "/v1/webhook-sources"),
        ] {
            let mut call = f.call(method.clone(), path).without_key();
            if let Some(authorization) = authorization {
                call = call.header("authorization", authorization);
            }
            let refused = call.send().await;
            refused.problem(401, "unauthenticated");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        }
    }
    let forgiving = f.get("/v1/events").without_key();
    let forgiving = forgiving.header("authorization", &format!("bearer  {} ", f.acme));
    forgiving.send().await.expect(200);
}

#[tokio::test]
async fn a_key_does_what_its_scopes_allow() {
    let f = Fixture::new().await;
    let id = f.requested().await;
    let reads = [
        "/v1/events",
        &format!("{NOTIFICATIONS}/{id}"),
        &format!("{NOTIFICATIONS}/{id}/events"),
    ]
    .map(str::to_owned);
    let writes = [
        NOTIFICATIONS,
        &format!("{NOTIFICATIONS}/{id}/sent"),
        "/v1/commands",
    ]
    .map(str::to_owned);
    for (scope, may_read, may_write) in [
        ("read", true, false),
        ("write", false, true),
        ("admin", false, false),
    ] {
        let key = f.key(scope).await;
        for path in &reads {
            let reply = f.get(path).key(&key).send().await;
            assert_eq!(
                reply.status.as_u16(),
                if may_read { 200 } else { 403 },
                "{scope} {path}"
            );
        }
        for path in &writes {
            let reply = f
                .post(path, &json!({"commands": []}))
                .key(&key)
                .send()
                .await;
            let refused = reply.status.as_u16() == 403;
            assert_eq!(refused, !may_write, "{scope} {path} {}", reply.text());
        }
    }
    let refused = f
        .post(NOTIFICATIONS, &minimal())
        .key(&f.reader)
        .send()
        .await;
    let problem = refused.problem(403, "forbidden");
    assert_eq!(problem["detail"], "this needs a key with the scope `write`");
}

#[tokio::test]
async fn an_operator_names_the_tenant() {
    let f = Fixture::new().await;
    let call = || f.post(NOTIFICATIONS, &minimal()).key(&f.operator);

    assert_eq!(call().send().await.pointers(), ["X-Tenant-Id"]);
    let made = call()
        .header("x-tenant-id", "acme")
        .send()
        .await
        .expect(201);
    assert_eq!(made["tenant_id"], "acme");
    call()
        .header("x-tenant-id", "nobody")
        .send()
        .await
        .problem(404, "not_found");
    let wrong = call().header("x-tenant-id", "Not A Slug").send().await;
    assert_eq!(wrong.pointers(), ["X-Tenant-Id"]);
    let twice = call()
        .header("x-tenant-id", "acme")
        .header("x-tenant-id", "rival");
    assert_eq!(twice.send().await.pointers(), ["X-Tenant-Id"]);

    // A tenant's key may name its own, and learns nothing of others.
    f.tenant("rival").await;
    f.get("/v1/events")
        .header("x-tenant-id", "acme")
        .send()
        .await
        .expect(200);
    let there = f
        .get("/v1/events")
        .header("x-tenant-id", "rival")
        .send()
        .await;
    let not_there = f
        .get("/v1/events")
        .header("x-tenant-id", "nobody")
        .send()
        .await;
    let [there, not_there] = [there, not_there].map(|reply| reply.problem(403, "forbidden"));
    assert_eq!(there["detail"], not_there["detail"]);
}

async fn a_repeated_call_gets_the_first_answer_byte_for_byte(f: &Fixture) {
    let request = || f.post(NOTIFICATIONS, &minimal()).once("order-1");
    let first = request().send().await;
    let id = first.expect(201)["id"].as_str().unwrap().to_owned();
    request().send().await.is_replay_of(&first);

    let path = format!("{NOTIFICATIONS}/{id}/sent");
    let sent = || {
        f.post(&path, &json!({"message": {"channel": "sms"}}))
            .once("order-1-sent")
    };
    let first_sent = sent().send().await;
    first_sent.expect(200);
    // It moves on, and the answers do not.
    f.clock.advance(Duration::from_hours(1));
    f.post(&format!("{NOTIFICATIONS}/{id}/delivered"), &json!({}))
        .send()
        .await
        .expect(200);
    request().send().await.is_replay_of(&first);
    sent().send().await.is_replay_of(&first_sent);
    assert_eq!(f.events().await, 3);

    // A repeat is one, even where a second call would be refused.
    let id = f.requested().await;
    let queue = || {
        f.post(&format!("{NOTIFICATIONS}/{id}/queue"), &json!({}))
            .once("q")
    };
    let first = queue().send().await;
    f.post(&format!("{NOTIFICATIONS}/{id}/delivered"), &json!({}))
        .send()
        .await
        .expect(200);
    queue().send().await.is_replay_of(&first);
}

async fn a_key_used_for_something_else_is_refused(f: &Fixture) {
    let id = f.requested().await;
    f.post(NOTIFICATIONS, &minimal())
        .once("k")
        .send()
        .await
        .expect(201);
    let other = json!({"workflow_id": "other", "subscriber": {"id": "ada"}});

    for (path, body) in [
        (NOTIFICATIONS.to_owned(), other),
        (format!("{NOTIFICATIONS}/{id}/sent"), json!({})),
        ("/v1/commands".to_owned(), json!({"commands": []})),
        ("/v1/keys".to_owned(), json!({})),
    ] {
        let refused = f.post(&path, &body).once("k").send().await;
        refused.problem(422, "idempotency_key_reused");
    }
    // Another tenant's key of the same name is another key.
    let rival = f.tenant("rival").await;
    f.post(NOTIFICATIONS, &minimal())
        .key(&rival)
        .once("k")
        .send()
        .await
        .expect(201);
    // What was refused has not used its key.
    let refused = f.post(NOTIFICATIONS, &json!({})).once("k-2").send().await;
    assert_eq!(refused.pointers().len(), 2);
    f.post(NOTIFICATIONS, &minimal())
        .once("k-2")
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn an_idempotency_key_has_1_to_255_printable_characters() {
    let f = Fixture::new().await;
    let with = |key: &[u8]| {
        f.post(NOTIFICATIONS, &minimal())
            .header_bytes("idempotency-key", key)
    };

    for good in [
        "k",
        "a b",
        &"x".repeat(255),
        &"ö".repeat(255),
        "~!@#$%^&*()",
    ] {
        with(good.as_bytes()).send().await.expect(201);
    }
    for bad in [
        &b""[..],
        &[b'x'; 256],
        b"a\tb",
        b"\xff",
        "a\u{85}b".as_bytes(),
    ] {
        assert_eq!(
            with(bad).send().await.pointers(),
            ["Idempotency-Key"],
            "{bad:?}"
        );
    }
    let twice = with(b"a").header("idempotency-key", "b").send().await;
    assert_eq!(twice.pointers(), ["Idempotency-Key"]);
    assert_eq!(f.events().await, 5);
}

async fn a_command_for_another_version_is_refused(f: &Fixture) {
    let id = f.requested().await;
    let sent = |channel: &str, version: &str| {
        let path = format!("{NOTIFICATIONS}/{id}/sent");
        f.post(&path, &json!({"message": {"channel": channel}}))
            .header("if-match", version)
    };

    sent("sms", "\"2\"")
        .send()
        .await
        .problem(412, "version_mismatch");
    let moved = sent("sms", "\"1\"").send().await;
    assert_eq!(moved.expect(200)["version"], 2);
    assert_eq!(moved.header("etag"), Some("\"2\""));
    let refused = sent("push", "\"1\"")
        .send()
        .await
        .problem(412, "version_mismatch");
    assert!(
        refused["detail"].as_str().unwrap().contains("version 2"),
        "{refused}"
    );
    sent("push", "*").send().await.expect(200);
    for bad in [
        "",
        "x",
        "\"x\"",
        "W/\"1\"",
        "\"1\", \"2\"",
        "\"\"3\"\"",
        "-1",
        "99999999999",
    ] {
        assert_eq!(
            sent("sms", bad).send().await.pointers(),
            ["If-Match"],
            "{bad}"
        );
    }
    // What does not exist has no version to match.
    let new = f
        .post(NOTIFICATIONS, &minimal())
        .header("if-match", "\"1\"")
        .send()
        .await;
    new.problem(412, "version_mismatch");
    let many = f
        .post("/v1/commands", &json!({"commands": []}))
        .header("if-match", "\"1\"");
    assert_eq!(many.send().await.pointers(), ["If-Match"]);
}

async fn a_read_sees_the_write_it_waits_for(f: &Fixture) {
    let made = f.post(NOTIFICATIONS, &minimal()).send().await;
    let position = made.header("ledger-position").unwrap();
    let path = made.header("location").unwrap();
    for path in [path, &format!("{path}/events"), "/v1/events"] {
        let read = async |position: &str| {
            f.get(path)
                .header("ledger-min-position", position)
                .send()
                .await
        };
        read(position).await.expect(200);
        read("3-0").await.expect(200);
        for bad in [
            "",
            "x",
            "3",
            "3-x",
            "-1-1",
            "99-1",
            "5-1",
            "3-99999999999999999999",
        ] {
            assert_eq!(
                read(bad).await.pointers(),
                ["Ledger-Min-Position"],
                "{path} {bad}"
            );
        }
    }

    // One that is still to come is waited for.
    let waiting = f.get(path).header("ledger-min-position", "3-2").send();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        f.requested().await
    };
    let (seen, _) = tokio::join!(waiting, meanwhile);
    seen.expect(200);
}

#[tokio::test]
async fn a_position_that_does_not_come_is_waited_for_no_longer_than_5_seconds() {
    let f = Fixture::new().await;
    let begun = Instant::now();

    let refused = f
        .get("/v1/events")
        .header("ledger-min-position", "3-1")
        .send()
        .await;

    refused.problem(503, "projection_behind");
    assert!(
        (4..=6).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_request_keeps_its_id_and_its_trace() {
    let f = Fixture::new().await;
    let own = f
        .get("/v1/events")
        .header("request-id", "checkout-17")
        .send()
        .await;
    assert_eq!(own.header("request-id"), Some("checkout-17"));
    let refused = f.get("/nowhere").header("request-id", "r-1").send().await;
    assert_eq!(refused.problem(404, "not_found")["request_id"], "r-1");
    for unusable in ["", &"x".repeat(129), "a b", "ä"] {
        let made = f
            .get("/healthz")
            .header_bytes("request-id", unusable.as_bytes())
            .send()
            .await;
        let id = made.header("request-id").unwrap();
        assert!(id.parse::<uuid::Uuid>().is_ok(), "{unusable} {id}");
    }

    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let made = f
        .post(NOTIFICATIONS, &minimal())
        .header("traceparent", trace)
        .send()
        .await;
    let events = format!("{}/events", made.header("location").unwrap());
    let history = f.get(&events).send().await.expect(200);
    let kept = history["data"][0]["traceparent"].as_str().unwrap();
    assert!(
        kept.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
        "{kept}"
    );
    for ignored in [
        "",
        "00-xyz",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    ] {
        let call = f
            .post(NOTIFICATIONS, &minimal())
            .header("traceparent", ignored);
        call.send().await.expect(201);
    }
}
