//! What a provider said of somebody goes when they do, wherever it ended up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Fixture, Reply};
use crate::novu::{body, body_with};
use crate::on_both_databases;

on_both_databases!(
    what_was_adopted_is_erased,
    a_preference_is_erased,
    bodies_in_quarantine_go_whoever_they_are_sealed_for,
    somebody_known_only_in_quarantine_is_erased,
    a_process_that_remembers_the_key_quarantines_under_another,
);

/// Whom the recorded bodies are about.
const SUBSCRIBER: &str = "cust-20417";
const QUARANTINE: &str = "/v1/webhook-quarantine";

async fn erase(f: &Fixture, subscriber: &str) -> Reply {
    f.delete(&f.acme, &format!("/v1/subscribers/{subscriber}"))
        .await
}

/// A body that is not understood, about somebody.
fn unknown(subscriber: &str) -> Vec<u8> {
    body_with("message.sent.email", |body| {
        body["type"] = json!("message.clicked");
        body["data"]["object"]["subscriberId"] = json!(subscriber);
    })
}

async fn raw_reports(f: &Fixture) -> Vec<Value> {
    let mut events = f.events(&f.acme).await;
    events.retain(|event| {
        event["type"] != "subscriber.erased" && event["type"] != "notification.adopted"
    });
    events
        .iter_mut()
        .map(|event| event["data"].take())
        .collect()
}

/// The deliveries in quarantine whose bodies are gone.
async fn erased_bodies(f: &Fixture) -> Vec<String> {
    let entries = f.quarantine(&f.acme).await;
    let erased = entries.iter().filter(|entry| entry["erased"] == true);
    let mut ids: Vec<_> = erased
        .map(|entry| entry["delivery_id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

async fn what_was_adopted_is_erased(f: &Fixture) {
    // The first report does not say to whom it went.
    let unnamed = body_with("message.sent.sms", |body| {
        let object = body["data"]["object"].as_object_mut().unwrap();
        object.retain(|key, _| !key.to_lowercase().contains("subscriber"));
    });
    let reply = f.novu("msg_1", &unnamed).await;
    let id = reply.notification_id();
    assert_eq!(
        f.notification(&f.acme, &id).await["subscriber"],
        Value::Null
    );
    assert_eq!(
        f.novu("msg_2", &body("message.sent.email"))
            .await
            .notification_id(),
        id
    );
    let reports = raw_reports(f).await;
    assert_eq!(reports.len(), 2);
    assert!(
        reports.iter().all(|data| data["raw"].is_object()),
        "{reports:?}"
    );
    assert_eq!(f.notification(&f.acme, &id).await["erased"], false);

    let erased = erase(f, SUBSCRIBER).await.expect(200);

    assert_eq!(erased["notifications"], 1);
    assert_eq!(f.notification(&f.acme, &id).await["erased"], true);
    for data in raw_reports(f).await {
        assert_eq!(data.get("raw"), None, "{data}");
        assert_eq!(data["erased"], true, "{data}");
    }
    assert_eq!(erase(f, SUBSCRIBER).await.expect(200), erased);
    // The provider goes on, and what it says next can be read.
    f.novu("msg_3", &body("message.delivered.email"))
        .await
        .expect(200);
    let reports = raw_reports(f).await;
    assert!(reports.last().unwrap()["raw"].is_object(), "{reports:?}");
}

async fn a_preference_is_erased(f: &Fixture) {
    f.novu("msg_1", &body("preference.updated.global"))
        .await
        .expect(200);
    let reports = raw_reports(f).await;
    assert!(reports[0]["raw"].is_object(), "{reports:?}");
    let subscriber = reports[0]["subscriber_id"].as_str().unwrap();

    let erased = erase(f, subscriber).await.expect(200);

    assert_eq!(erased["notifications"], 0);
    assert_eq!(raw_reports(f).await[0]["erased"], true);
}

async fn bodies_in_quarantine_go_whoever_they_are_sealed_for(f: &Fixture) {
    let about = |subscriber: &str| format!("{{\"to\": {{\"subscriberId\": \"{subscriber}\"}}");
    let bodies = [
        unknown("ann"),
        json!({"type": "x", "list": [{"subscriber": {"id": "ann"}}]})
            .to_string()
            .into(),
        about("ann").into(),
        unknown("bob"),
        about("bob").into(),
        b"about nobody".to_vec(),
    ];
    for (number, body) in bodies.iter().enumerate() {
        assert_eq!(
            f.novu(&format!("msg_{number}"), body).await.outcome(),
            "quarantined"
        );
    }

    erase(f, "ann").await.expect(200);

    let entries = f.quarantine(&f.acme).await;
    assert_eq!(entries.len(), bodies.len());
    for entry in &entries {
        let number: usize = entry["delivery_id"].as_str().unwrap()["novu:msg_".len()..]
            .parse()
            .unwrap();
        assert_eq!(entry["body"] == Value::Null, number < 3, "{entry}");
        assert_eq!(entry.get("erased").is_some(), number < 3, "{entry}");
    }
    assert!(!json!(entries).to_string().contains("\"ann"));
    let gone = entries
        .iter()
        .find(|entry| entry["delivery_id"] == "novu:msg_2")
        .unwrap();
    let path = format!("{QUARANTINE}/{}", gone["id"].as_str().unwrap());
    f.post(&f.acme, &format!("{path}/retry"), &json!({}))
        .await
        .expect(404);
    f.delete(&f.acme, &path).await.expect(204);
}

async fn somebody_known_only_in_quarantine_is_erased(f: &Fixture) {
    f.novu("msg_1", b"{\"subscriberId\": \"ann\"")
        .await
        .expect(200);
    erase(f, "bob").await.expect(404);

    let erased = erase(f, "ann").await.expect(200);

    assert_eq!(erased["notifications"], 0);
    assert_eq!(erased_bodies(f).await, ["novu:msg_1"]);
    assert_eq!(erase(f, "ann").await.expect(200), erased);
    // One that comes later is dropped by the next call, which has no more to say.
    f.novu("msg_2", b"{\"subscriberId\": \"ann\"")
        .await
        .expect(200);
    assert_eq!(erased_bodies(f).await, ["novu:msg_1"]);
    assert_eq!(erase(f, "ann").await.expect(200), erased);
    assert_eq!(erased_bodies(f).await, ["novu:msg_1", "novu:msg_2"]);
}

async fn a_process_that_remembers_the_key_quarantines_under_another(f: &Fixture) {
    let stubborn = f.remembering(Duration::from_mins(10)).await;
    assert_eq!(
        stubborn.novu("msg_1", &unknown("ann")).await.outcome(),
        "quarantined"
    );

    erase(f, "ann").await.expect(200);
    assert_eq!(
        stubborn.novu("msg_2", &unknown("ann")).await.outcome(),
        "quarantined"
    );

    let entries = f.quarantine(&f.acme).await;
    let readable = |delivery: &str| {
        let entry = entries
            .iter()
            .find(|entry| entry["delivery_id"] == delivery);
        entry.unwrap()["body"].is_object()
    };
    assert!(!readable("novu:msg_1"));
    assert!(readable("novu:msg_2"));
}
