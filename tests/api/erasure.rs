//! Somebody is erased: what is gone, what stays, and what the call says.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Fixture, Reply, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    an_erasure_is_answered_and_is_on_record,
    nothing_private_is_shown_afterwards,
    a_repeat_gets_the_same_answer,
    an_erasure_under_an_idempotency_key_is_answered_again,
    what_follows_can_be_read,
    only_administrators_erase,
    nobody_is_told_of_somebody_unknown,
    any_id_a_notification_may_name_can_be_erased,
    answers_of_many_commands_keep_nothing_private,
    the_ids_of_erasures_are_no_notifications,
);

/// Stands in everything that is private.
const MARKER: &str = "zx81-lena";

fn request(subscriber: &str) -> Value {
    json!({
        "workflow_id": "parcel-dispatched",
        "external_id": "order-1001",
        "subscriber": {
            "id": subscriber,
            "email": format!("{MARKER}@example.com"),
            "phone": format!("+49 {MARKER}"),
            "channels": {"push": format!("token-{MARKER}")},
        },
        "payload": {"greeting": format!("Dear {MARKER}")},
    })
}

async fn requested(f: &Fixture, subscriber: &str) -> String {
    let made = f
        .post("/v1/notifications", &request(subscriber))
        .send()
        .await;
    made.expect(201)["id"].as_str().unwrap().to_owned()
}

async fn tell(f: &Fixture, id: &str, what: &str, body: &Value) -> Reply {
    let path = format!("/v1/notifications/{id}/{what}");
    f.post(&path, body)
        .once(&format!("{id} {what}"))
        .send()
        .await
}

async fn erase(f: &Fixture, subscriber: &str) -> Reply {
    f.delete(&format!("/v1/subscribers/{subscriber}"))
        .send()
        .await
}

async fn an_erasure_is_answered_and_is_on_record(f: &Fixture) {
    requested(f, "lena").await;
    requested(f, "lena").await;
    requested(f, "bob").await;
    f.clock.advance(Duration::from_secs(90));

    let call = f
        .delete("/v1/subscribers/lena")
        .header("request-id", "ticket-88");
    let erased = call.send().await;

    snapshot!(erased.expect(200), @r#"
    {
      "erased_at": "2026-03-14T09:31:30.000000Z",
      "notifications": 2
    }
    "#);
    assert_eq!(erased.header("ledger-position"), Some("3-4"));
    let page = f.get("/v1/events?types=subscriber.erased").send().await;
    let mut event = page.expect(200)["data"][0].take();
    // These follow from the master key and from everything before.
    for name in ["event_id", "hash", "notification_id"] {
        assert!(event.as_object_mut().unwrap().remove(name).is_some());
    }
    snapshot!(event, @r#"
    {
      "actor": {
        "id": "00000000-0000-7000-8000-000000000002",
        "kind": "key"
      },
      "causation_id": null,
      "correlation_id": null,
      "data": {
        "notifications": 2,
        "request_id": "ticket-88",
        "subscriber_id": "lena"
      },
      "occurred_at": "2026-03-14T09:31:30.000000Z",
      "position": "3-4",
      "recorded_at": "2026-03-14T09:31:30.000000Z",
      "schema_version": 1,
      "sequence": 1,
      "source": "api",
      "tenant_id": "acme",
      "traceparent": null,
      "type": "subscriber.erased"
    }
    "#);
    let timeline = f.fresh("/v1/timeline?subscriber_id=lena").await;
    let last = timeline["data"].as_array().unwrap().last().unwrap();
    assert_eq!(last["type"], "subscriber.erased");
    assert_eq!(last["notification_id"], Value::Null);
    assert_eq!(
        last["summary"],
        "lena was erased: personal data is gone for good."
    );
}

async fn nothing_private_is_shown_afterwards(f: &Fixture) {
    let first = f
        .post("/v1/notifications", &request("lena"))
        .once("first")
        .send()
        .await;
    let id = first.expect(201)["id"].as_str().unwrap().to_owned();
    let raw = json!({"to": format!("{MARKER}@example.com")});
    let message = json!({"channel": "email", "provider_message_id": "sg-1"});
    let sent = json!({"message": message, "raw": raw});
    tell(f, &id, "sent", &sent).await.expect(200);
    let bounced = json!({
        "message": message, "bounce_type": "hard", "code": "550",
        "reason": format!("<{MARKER}@example.com> unknown"), "raw": raw,
    });
    let told = tell(f, &id, "bounced", &bounced).await;
    assert!(told.text().contains(MARKER));
    let bobs = requested(f, "bob").await;
    let retract = json!({"reason": format!("{MARKER} has moved")});
    let retracted = tell(f, &bobs, "retract", &retract).await;
    retracted.expect(200);
    let lists = [
        "/v1/events?limit=200",
        "/v1/notifications",
        "/v1/notification-logs",
        "/v1/timeline",
    ];
    let paths = [
        format!("/v1/notifications/{id}"),
        format!("/v1/notifications/{id}/events"),
    ];
    let read = async || {
        let mut read = Vec::new();
        for path in lists
            .iter()
            .copied()
            .chain(paths.iter().map(String::as_str))
        {
            read.push((path.to_owned(), f.fresh(path).await));
        }
        read
    };
    assert!(
        read()
            .await
            .iter()
            .all(|(_, shown)| shown.to_string().contains(MARKER)
                || shown.to_string().contains("\"erased\":false"))
    );

    // Others keep theirs.
    erase(f, "lena").await.expect(200);
    assert!(
        f.get(&format!("/v1/notifications/{bobs}"))
            .send()
            .await
            .text()
            .contains(MARKER)
    );
    erase(f, "bob").await.expect(200);

    for (path, shown) in read().await {
        assert!(!shown.to_string().contains(MARKER), "{path} {shown}");
    }
    let notification = f.get(&paths[0]).send().await.expect(200);
    assert_eq!(notification["erased"], true);
    assert_eq!(notification["payload"], Value::Null);
    assert_eq!(notification["subscriber"], json!({"id": "lena"}));
    assert_eq!(notification["external_id"], "order-1001");
    assert_eq!(notification["status"], "bounced");
    let events = f.get(&paths[1]).send().await.expect(200);
    for event in events["data"].as_array().unwrap() {
        assert_eq!(event["data"]["erased"], true, "{event}");
    }
    // Whoever repeats a call gets its answer again, without what is gone.
    let replays = [
        f.post("/v1/notifications", &request("lena"))
            .once("first")
            .send()
            .await,
        tell(f, &id, "sent", &sent).await,
        tell(f, &id, "bounced", &bounced).await,
        tell(f, &bobs, "retract", &retract).await,
    ];
    for replay in replays {
        assert_eq!(replay.header("idempotent-replayed"), Some("true"));
        assert_eq!(replay.json()["erased"], true, "{}", replay.text());
        assert!(!replay.text().contains(MARKER), "{}", replay.text());
    }
    let as_of = f.get(&format!("{}?as_of=3-1", paths[0])).send().await;
    assert!(!as_of.text().contains(MARKER));
}

async fn a_repeat_gets_the_same_answer(f: &Fixture) {
    requested(f, "lena").await;
    let first = erase(f, "lena").await;
    let events = f.events().await;
    f.clock.advance(Duration::from_secs(5));

    for _ in 0..2 {
        let again = erase(f, "lena").await;

        assert_eq!(again.expect(200), first.expect(200));
        assert_eq!(
            again.header("ledger-position"),
            first.header("ledger-position")
        );
    }
    assert_eq!(f.events().await, events);
}

async fn an_erasure_under_an_idempotency_key_is_answered_again(f: &Fixture) {
    requested(f, "lena").await;
    requested(f, "bob").await;
    let once = async |subscriber: &str| {
        let path = format!("/v1/subscribers/{subscriber}");
        f.delete(&path).once("ticket-88").send().await
    };
    let first = once("lena").await;
    first.expect(200);
    let later = requested(f, "lena").await;

    once("lena").await.is_replay_of(&first);

    // It was asked for before what came since.
    let path = format!("/v1/notifications/{later}");
    assert_eq!(f.get(&path).send().await.expect(200)["erased"], false);
    once("bob").await.problem(422, "idempotency_key_reused");
}

async fn what_follows_can_be_read(f: &Fixture) {
    let before = requested(f, "lena").await;
    let first = erase(f, "lena").await.expect(200);

    let after = requested(f, "lena").await;
    let raw = json!({"raw": {"to": MARKER}, "message": {"provider_message_id": "sg-1"}});
    tell(f, &before, "sent", &raw).await.expect(200);

    let shown = async |id: &str| {
        let path = format!("/v1/notifications/{id}");
        f.get(&path).send().await.expect(200)
    };
    assert_eq!(shown(&after).await["payload"], request("lena")["payload"]);
    assert_eq!(shown(&after).await["erased"], false);
    assert_eq!(shown(&before).await["erased"], true);
    let events = format!("/v1/notifications/{before}/events");
    let events = f.get(&events).send().await.expect(200);
    assert_eq!(events["data"][1]["data"]["raw"], json!({"to": MARKER}));
    f.clock.advance(Duration::from_secs(5));
    let second = erase(f, "lena").await.expect(200);
    assert_ne!(second["erased_at"], first["erased_at"]);
    assert_eq!(second["notifications"], 2);
    assert_eq!(shown(&after).await["erased"], true);
    let log = f.get("/v1/events?limit=200").send().await;
    assert!(!log.text().contains(MARKER));
}

async fn only_administrators_erase(f: &Fixture) {
    let id = requested(f, "lena").await;
    let path = "/v1/subscribers/lena";
    for scopes in ["read", "write", "read,write"] {
        let key = f.key(scopes).await;
        f.delete(path)
            .key(&key)
            .send()
            .await
            .problem(403, "forbidden");
    }
    f.delete(path)
        .without_key()
        .send()
        .await
        .problem(401, "unauthenticated");
    let other = f.tenant("globex").await;
    f.delete(path)
        .key(&other)
        .send()
        .await
        .problem(404, "not_found");
    f.delete(path)
        .key(&f.operator)
        .send()
        .await
        .problem(422, "invalid");
    f.get(path).send().await.problem(405, "method_not_allowed");
    let shown = f.get(&format!("/v1/notifications/{id}")).send().await;
    assert_eq!(shown.expect(200)["erased"], false);

    let key = f.key("admin").await;
    let erased = f.delete(path).key(&key).send().await.expect(200);

    let operators = f
        .delete(path)
        .key(&f.operator)
        .header("x-tenant-id", "acme");
    assert_eq!(operators.send().await.expect(200), erased);
}

async fn nobody_is_told_of_somebody_unknown(f: &Fixture) {
    requested(f, "lena").await;
    let other = f.tenant("globex").await;
    f.post("/v1/notifications", &request("bob"))
        .key(&other)
        .send()
        .await
        .expect(201);
    let events = f.events().await;
    let too_long = "x".repeat(257);

    for unknown in [
        "bob",
        "Lena",
        "lena%20",
        "%00",
        "%0a",
        "%ff",
        too_long.as_str(),
    ] {
        erase(f, unknown).await.problem(404, "not_found");
        let path = format!("/v1/subscribers/{unknown}");
        f.delete(&path)
            .once(&format!("key {}", unknown.len()))
            .send()
            .await
            .problem(404, "not_found");
    }

    assert_eq!(f.events().await, events);
    // The same key may be used again once there is somebody.
    requested(f, "bob").await;
    let call = f.delete("/v1/subscribers/bob").once("key 3");
    call.send().await.expect(200);
}

async fn any_id_a_notification_may_name_can_be_erased(f: &Fixture) {
    for (id, written) in [
        ("lena@example.com", "lena@example.com"),
        ("a/b/../c", "a%2Fb%2F..%2Fc"),
        ("?#%", "%3F%23%25"),
        ("Zoë 🦊", "Zo%C3%AB%20%F0%9F%A6%8A"),
        (
            "'; DROP TABLE events; --",
            "'%3B%20DROP%20TABLE%20events%3B%20--",
        ),
        (&"ü".repeat(256), &"%C3%BC".repeat(256)),
    ] {
        let notification = requested(f, id).await;

        assert_eq!(
            erase(f, written).await.expect(200)["notifications"],
            1,
            "{id}"
        );

        let shown = f
            .get(&format!("/v1/notifications/{notification}"))
            .send()
            .await;
        assert_eq!(shown.expect(200)["erased"], true, "{id}");
    }
}

/// They are kept, so nothing may be in them that an erasure would have to find.
async fn answers_of_many_commands_keep_nothing_private(f: &Fixture) {
    let mut wrong = request("lena");
    wrong["type"] = "request".into();
    let mut commands = vec![wrong.clone()];
    for (name, value) in [
        ("payload", json!(MARKER)),
        (
            "subscriber",
            json!({"id": "lena", "email": 7, "channels": [MARKER]}),
        ),
        (
            "subscriber",
            json!({"id": "lena", "phone": {"number": MARKER}}),
        ),
        ("subscriber", json!(MARKER)),
    ] {
        let mut command = wrong.clone();
        command[name] = value;
        commands.push(command);
    }
    commands.push(
        json!({"type": "bounced", "notification_id": "no", "reason": [MARKER], "raw": MARKER}),
    );
    let body = json!({ "commands": commands });

    let answer = f.post("/v1/commands", &body).once("many").send().await;

    answer.expect(200);
    assert!(answer.text().contains("/payload"));
    assert!(!answer.text().contains(MARKER), "{}", answer.text());
    f.post("/v1/commands", &body)
        .once("many")
        .send()
        .await
        .is_replay_of(&answer);
}

async fn the_ids_of_erasures_are_no_notifications(f: &Fixture) {
    f.post("/v1/notifications", &minimal())
        .send()
        .await
        .expect(201);
    erase(f, "ada").await.expect(200);
    let page = f
        .get("/v1/events?types=subscriber.erased")
        .send()
        .await
        .expect(200);
    let id = page["data"][0]["notification_id"].as_str().unwrap();
    let before = f.events().await;

    let path = format!("/v1/notifications/{id}");
    f.get(&path).send().await.problem(404, "not_found");
    f.get(&format!("{path}/events"))
        .send()
        .await
        .problem(404, "not_found");
    f.post(&format!("{path}/sent"), &json!({}))
        .send()
        .await
        .problem(404, "not_found");
    let mut taken = minimal();
    taken["id"] = id.into();
    f.post("/v1/notifications", &taken)
        .send()
        .await
        .problem(404, "not_found");

    assert_eq!(f.events().await, before);
    let listed = f.fresh("/v1/notifications").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}
