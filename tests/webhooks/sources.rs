//! Webhook sources, over the API.

use http::Method;
use notification_ledger::ledger::registry::Scope;
use serde_json::{Value, json};

use crate::fixture::{Fixture, PUBLIC_URL};
use crate::novu::secret;
use crate::on_both_databases;

on_both_databases!(
    a_source_is_created_with_an_address_and_without_its_secrets,
    a_repeated_creation_is_answered_again,
    every_fault_of_a_source_is_told_at_once,
    a_change_leaves_the_rest_as_it_is,
    a_change_of_nothing_is_refused,
    a_deleted_source_is_gone,
    sources_come_in_pages,
    another_tenants_source_is_not_there,
    a_key_does_what_its_scope_says,
);

const PATH: &str = "/v1/webhook-sources";

fn new() -> Value {
    json!({ "provider": "novu", "name": "staging", "secrets": [secret()], "unmatched": "quarantine" })
}

fn path(source: &Value) -> String {
    format!("{PATH}/{}", source["id"].as_str().unwrap())
}

fn pointers(problem: &Value) -> Vec<&str> {
    let faults = problem["errors"].as_array().unwrap();
    faults
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap())
        .collect()
}

async fn a_source_is_created_with_an_address_and_without_its_secrets(f: &Fixture) {
    let reply = f.post(&f.acme, PATH, &new()).await;

    let location = reply.header("location").unwrap().to_owned();
    let source = reply.expect(201);
    let id = source["id"].as_str().unwrap();
    assert_eq!(location, path(&source));
    assert_eq!(
        source,
        json!({
            "id": id,
            "url": format!("{PUBLIC_URL}/webhooks/novu/{id}"),
            "provider": "novu",
            "name": "staging",
            "unmatched": "quarantine",
            "paused": false,
            "secret_count": 1,
            "created_at": "2026-03-14T09:30:00.000000Z",
            "updated_at": "2026-03-14T09:30:00.000000Z",
        })
    );
    assert_eq!(f.get(&f.acme, &location).await.expect(200), source);
    let standard = json!({ "provider": "novu", "name": "n", "secrets": [secret()] });
    assert_eq!(
        f.post(&f.acme, PATH, &standard).await.expect(201)["unmatched"],
        "adopt"
    );
}

async fn a_repeated_creation_is_answered_again(f: &Fixture) {
    let create = async |key: &str, body: &Value| {
        let headers = [("idempotency-key", key)];
        f.call(Method::POST, &f.acme, PATH, &headers, &body.to_string())
            .await
    };
    let first = create("k1", &new()).await;
    let again = create("k1", &new()).await;

    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.expect(201), first.expect(201));
    let other = json!({ "provider": "novu", "name": "other", "secrets": [secret()] });
    assert_eq!(
        create("k1", &other).await.expect(422)["code"],
        "idempotency_key_reused"
    );
    create("k2", &new()).await.expect(201);
    let page = f.get(&f.acme, PATH).await.expect(200);
    // With the fixture's own.
    assert_eq!(page["data"].as_array().unwrap().len(), 3);
}

async fn every_fault_of_a_source_is_told_at_once(f: &Fixture) {
    let wrong = json!({
        "provider": "mailgun", "name": "", "secrets": [secret(), "whsec_hush!", 7], "unmatched": "drop",
        "url": "https://example.com",
    });
    let problem = f.post(&f.acme, PATH, &wrong).await.expect(422);

    assert_eq!(
        pointers(&problem),
        [
            "/provider",
            "/name",
            "/secrets/1",
            "/secrets/2",
            "/unmatched",
            "/url"
        ]
    );
    assert!(!problem.to_string().contains("hush"));
    let nothing = f.post(&f.acme, PATH, &json!({})).await.expect(422);
    assert_eq!(pointers(&nothing), ["/provider", "/name", "/secrets"]);
    let too_many = json!({ "provider": "novu", "name": "n", "secrets": vec![secret(); 6] });
    let problem = f.post(&f.acme, PATH, &too_many).await.expect(422);
    assert_eq!(pointers(&problem), ["/secrets"]);
    let text = f
        .call(
            Method::POST,
            &f.acme,
            PATH,
            &[("content-type", "text/plain")],
            "",
        )
        .await;
    text.expect(415);
}

async fn a_change_leaves_the_rest_as_it_is(f: &Fixture) {
    let source = f.post(&f.acme, PATH, &new()).await.expect(201);
    f.clock.set_seconds(f.clock.seconds() + 60);
    let path = path(&source);

    let renamed = f
        .patch(&f.acme, &path, &json!({ "name": "live" }))
        .await
        .expect(200);
    let mut expected = source.clone();
    expected["name"] = json!("live");
    expected["updated_at"] = json!("2026-03-14T09:31:00.000000Z");
    assert_eq!(renamed, expected);

    let change = json!({ "secrets": [secret(), secret()], "paused": true, "unmatched": "adopt" });
    let changed = f.patch(&f.acme, &path, &change).await.expect(200);
    expected["secret_count"] = json!(2);
    expected["paused"] = json!(true);
    expected["unmatched"] = json!("adopt");
    assert_eq!(changed, expected);
    assert_eq!(f.get(&f.acme, &path).await.expect(200), expected);
}

async fn a_change_of_nothing_is_refused(f: &Fixture) {
    let path = format!("{PATH}/{}", f.source);
    let before = f.get(&f.acme, &path).await.expect(200);

    let problem = f.patch(&f.acme, &path, &json!({})).await.expect(422);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("name, secrets, paused, unmatched")
    );
    for (wrong, pointer) in [
        (json!({ "secrets": [] }), "/secrets"),
        (json!({ "paused": "yes" }), "/paused"),
        (json!({ "provider": "novu" }), "/provider"),
    ] {
        let problem = f.patch(&f.acme, &path, &wrong).await.expect(422);
        assert_eq!(pointers(&problem), [pointer]);
    }

    assert_eq!(f.get(&f.acme, &path).await.expect(200), before);
}

async fn a_deleted_source_is_gone(f: &Fixture) {
    let path = format!("{PATH}/{}", f.source);

    f.delete(&f.acme, &path).await.expect(204);

    f.delete(&f.acme, &path).await.expect(404);
    f.get(&f.acme, &path).await.expect(404);
    f.patch(&f.acme, &path, &json!({ "paused": true }))
        .await
        .expect(404);
    f.get(&f.acme, &format!("{PATH}/x")).await.expect(404);
}

async fn sources_come_in_pages(f: &Fixture) {
    for _ in 0..4 {
        f.post(&f.acme, PATH, &new()).await.expect(201);
    }
    let all = f.get(&f.acme, PATH).await.expect(200);
    assert_eq!(all["next_cursor"], Value::Null);

    let first = f.get(&f.acme, &format!("{PATH}?limit=3")).await.expect(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = f
        .get(&f.acme, &format!("{PATH}?limit=3&cursor={cursor}"))
        .await
        .expect(200);

    assert_eq!(rest["next_cursor"], Value::Null);
    let seen: Vec<_> = [&first, &rest]
        .iter()
        .flat_map(|page| page["data"].as_array().unwrap().clone())
        .collect();
    assert_eq!(json!(seen), all["data"]);
    assert_eq!(seen.len(), 5);
    // A cursor belongs to its list.
    f.get(&f.acme, &format!("/v1/webhook-quarantine?cursor={cursor}"))
        .await
        .expect(422);
}

async fn another_tenants_source_is_not_there(f: &Fixture) {
    let beta = f.tenant("beta").await;
    let path = format!("{PATH}/{}", f.source);

    f.get(&beta, &path).await.expect(404);
    f.patch(&beta, &path, &json!({ "paused": true }))
        .await
        .expect(404);
    f.delete(&beta, &path).await.expect(404);

    assert_eq!(f.get(&beta, PATH).await.expect(200)["data"], json!([]));
    assert_eq!(f.get(&f.acme, &path).await.expect(200)["paused"], false);
}

async fn a_key_does_what_its_scope_says(f: &Fixture) {
    let path = format!("{PATH}/{}", f.source);
    let created = new().to_string();
    let calls = [
        (Method::GET, PATH, "", Scope::Read),
        (Method::GET, &path, "", Scope::Read),
        (Method::POST, PATH, &created, Scope::Admin),
        (Method::PATCH, &path, r#"{"paused": true}"#, Scope::Admin),
        (Method::DELETE, &path, "", Scope::Admin),
    ];
    for (method, path, body, needed) in calls {
        for scope in Scope::ALL {
            let key = f.key(&f.acme, scope).await;
            let status = f.call(method.clone(), &key, path, &[], body).await.status;
            assert_eq!(
                status.is_success(),
                scope == needed,
                "{method} {path} with {scope:?}"
            );
        }
    }
    let nobody = crate::fixture::Tenant {
        key: "nobody".to_owned(),
        ..f.acme.clone()
    };
    f.get(&nobody, PATH).await.expect(401);
}
