//! Tenants, keys, and the ledger itself.

use std::time::Duration;

use http::HeaderMap;
use notification_ledger::api::request::idempotency;
use notification_ledger::domain::ids::TenantId;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, TenantPlace};
use serde_json::{Value, json};

use crate::fixture::{Fixture, PARTITIONS, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    an_operator_creates_a_tenant_once,
    an_interrupted_creation_is_finished_by_its_repeat,
    tenants_come_in_pages_in_the_order_of_their_ids,
    a_key_is_made_with_its_secret_and_works_until_it_is_revoked,
    a_repeated_creation_gives_the_same_secret_though_nobody_kept_it,
    keys_come_in_pages_of_those_that_the_caller_administers,
    the_ledger_shows_its_heads,
);

async fn an_operator_creates_a_tenant_once(f: &Fixture) {
    let new = json!({"id": "globex", "name": "Globex", "partition": 6});

    let made = f.post("/v1/tenants", &new).key(&f.operator).send().await;

    snapshot!(made.expect(201), @r#"
    {
      "created_at": "2026-03-14T09:30:00.000000Z",
      "id": "globex",
      "name": "Globex",
      "partition": 6
    }
    "#);
    assert_eq!(made.header("location"), Some("/v1/tenants/globex"));
    let shown = f.get("/v1/tenants/globex").key(&f.operator).send().await;
    assert_eq!(shown.expect(200), made.json());
    let again = f.post("/v1/tenants", &new).key(&f.operator).send().await;
    again.problem(409, "already_exists");
    // Its partition is the ledger's business from now on.
    let own = json!({"tenant_id": "globex"});
    let key = f
        .post("/v1/keys", &own)
        .key(&f.operator)
        .send()
        .await
        .expect(201);
    let sent = f
        .post("/v1/notifications", &minimal())
        .key(key["secret"].as_str().unwrap())
        .send()
        .await;
    assert_eq!(
        sent.header("ledger-position"),
        Some("6-1"),
        "{}",
        sent.text()
    );
}

async fn an_interrupted_creation_is_finished_by_its_repeat(f: &Fixture) {
    let new = json!({"id": "globex"});
    let call = || f.post("/v1/tenants", &new).key(&f.operator).once("k-1");
    // What a call leaves behind that breaks off before its answer was kept.
    let headers =
        HeaderMap::from_iter([("idempotency-key".parse().unwrap(), "k-1".parse().unwrap())]);
    let body = new.to_string();
    let claim = idempotency(&headers, "POST", "/v1/tenants", body.as_bytes())
        .unwrap()
        .unwrap();
    let account = TenantPlace {
        tenant_id: TenantId::new("operator").unwrap(),
        partition: Partition(0),
    };
    f.state
        .ledger
        .keep_answer(&account, &claim, None)
        .await
        .unwrap();
    f.clock.advance(Duration::from_millis(1));
    let globex = TenantId::new("globex").unwrap();
    f.state
        .registry
        .create_tenant(&globex, None, None)
        .await
        .unwrap();

    let first = call().send().await;

    assert_eq!(first.expect(201)["id"], "globex");
    call().send().await.is_replay_of(&first);
    // Who was there before the key was claimed is somebody else.
    let acme = json!({"id": "acme", "name": "Acme Ltd."});
    let refused = f
        .post("/v1/tenants", &acme)
        .key(&f.operator)
        .once("k-2")
        .send()
        .await;
    refused.problem(409, "already_exists");
    let refused = f
        .post("/v1/tenants", &acme)
        .key(&f.operator)
        .once("k-2")
        .send()
        .await;
    refused.problem(409, "already_exists");
}

async fn tenants_come_in_pages_in_the_order_of_their_ids(f: &Fixture) {
    for id in ["c", "b", "d"] {
        let made = f
            .post("/v1/tenants", &json!({"id": id}))
            .key(&f.operator)
            .send()
            .await;
        made.expect(201);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/tenants?limit=3".to_owned();
    loop {
        let page = f.get(&path).key(&f.operator).send().await.expect(200);
        seen.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|tenant| tenant["id"].clone()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/tenants?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, ["acme", "b", "c", "d"]);

    // A tenant's key sees its own, whatever it may do otherwise.
    let page = f.get("/v1/tenants").key(&f.reader).send().await.expect(200);
    snapshot!(page, @r#"
    {
      "data": [
        {
          "created_at": "2026-03-14T09:30:00.000000Z",
          "id": "acme",
          "name": "Acme Ltd.",
          "partition": 3
        }
      ],
      "next_cursor": null
    }
    "#);
    let made_up = f.get("/v1/tenants?cursor=acme").send().await;
    assert_eq!(made_up.pointers(), ["?cursor"]);
    f.get("/v1/tenants/acme").send().await.expect(200);
    for other in ["b", "nobody", "No-Slug", "%ff"] {
        let refused = f.get(&format!("/v1/tenants/{other}")).send().await;
        refused.problem(404, "not_found");
    }
    let refused = f
        .get("/v1/tenants?limit=0&cursor=NO&x=1")
        .key(&f.operator)
        .send()
        .await;
    assert_eq!(refused.pointers(), ["?limit", "?cursor", "?"]);
}

#[tokio::test]
async fn every_fault_of_a_new_tenant_is_named_at_once() {
    let f = Fixture::new().await;
    let refused = async |body: Value| {
        let refused = f.post("/v1/tenants", &body).key(&f.operator).send().await;
        refused.pointers()
    };

    assert_eq!(refused(json!({})).await, ["/id"]);
    let all = json!({"id": "A b", "name": "", "partition": PARTITIONS, "slug": 1});
    assert_eq!(refused(all).await, ["/id", "/name", "/partition", "/slug"]);
    assert_eq!(
        refused(json!({"id": "x", "partition": -1})).await,
        ["/partition"]
    );
    assert_eq!(
        refused(json!({"id": "x", "partition": 99_999})).await,
        ["/partition"]
    );
    // Operators' idempotency keys are kept under this name.
    assert_eq!(refused(json!({"id": "operator"})).await, ["/id"]);
    assert_eq!(refused(json!([])).await, [""]);
    for key in [&f.acme, &f.reader] {
        let refused = f
            .post("/v1/tenants", &json!({"id": "x"}))
            .key(key)
            .send()
            .await;
        refused.problem(403, "forbidden");
    }
}

async fn a_key_is_made_with_its_secret_and_works_until_it_is_revoked(f: &Fixture) {
    let new = json!({"tenant_id": "acme", "name": "checkout", "scopes": ["write", "read"]});

    let made = f.post("/v1/keys", &new).key(&f.operator).send().await;

    let mut key = made.expect(201);
    let secret = key["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("nl_") && secret.len() == 46, "{secret}");
    key["secret"] = json!("[secret]");
    snapshot!(key, @r#"
    {
      "created_at": "2026-03-14T09:30:00.000000Z",
      "id": "00000000-0000-7000-8000-000000000005",
      "last_used_at": null,
      "name": "checkout",
      "revoked_at": null,
      "scopes": [
        "read",
        "write"
      ],
      "secret": "[secret]",
      "tenant_id": "acme"
    }
    "#);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let location = made.header("location").unwrap().to_owned();
    assert_eq!(
        location,
        format!("/v1/keys/{}", key["id"].as_str().unwrap())
    );
    f.post("/v1/notifications", &minimal())
        .key(&secret)
        .send()
        .await
        .expect(201);
    f.get("/v1/keys")
        .key(&secret)
        .send()
        .await
        .problem(403, "forbidden");

    let revoked = f.delete(&location).send().await;
    f.clock.advance(Duration::from_secs(1));
    let again = f.delete(&location).send().await;

    assert_eq!(
        revoked.expect(200)["revoked_at"],
        "2026-03-14T09:30:00.000000Z"
    );
    assert_eq!(again.text(), revoked.text());
    assert_eq!(f.get(&location).send().await.text(), revoked.text());
    let refused = f.get("/v1/events").key(&secret).send().await;
    refused.problem(401, "unauthenticated");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
}

async fn a_repeated_creation_gives_the_same_secret_though_nobody_kept_it(f: &Fixture) {
    let new = json!({"name": "ci"});
    let call = || f.post("/v1/keys", &new).once("k-1");

    let first = call().send().await;
    let made = first.expect(201);
    let secret = made["secret"].as_str().unwrap();
    f.get("/v1/tenants").key(secret).send().await.expect(200);
    call().send().await.is_replay_of(&first);
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    f.delete(&path).send().await.expect(200);
    call().send().await.is_replay_of(&first);

    let other = f
        .post("/v1/keys", &json!({"name": "cd"}))
        .once("k-1")
        .send()
        .await;
    other.problem(422, "idempotency_key_reused");
    // A key's own name for it is not another's.
    let rival = f.tenant("rival").await;
    let theirs = f
        .post("/v1/keys", &new)
        .key(&rival)
        .once("k-1")
        .send()
        .await;
    assert_ne!(theirs.expect(201)["secret"], made["secret"]);
    let operators = f
        .post("/v1/keys", &new)
        .key(&f.operator)
        .header("x-tenant-id", "acme");
    let operators = operators.once("k-1").send().await.expect(201);
    assert_ne!(operators["secret"], made["secret"]);
    // The same body for another tenant is another request.
    let elsewhere = f
        .post("/v1/keys", &new)
        .key(&f.operator)
        .header("x-tenant-id", "rival");
    let elsewhere = elsewhere.once("k-1").send().await;
    elsewhere.problem(422, "idempotency_key_reused");
    let keys = f.get("/v1/keys").send().await.expect(200);
    // The two of the fixture, and one each by the tenant and the operator.
    assert_eq!(keys["data"].as_array().unwrap().len(), 4);
    assert_eq!(kept_answers(f).await, 0);
}

async fn kept_answers(f: &Fixture) -> i64 {
    const KEPT: &str = "SELECT COUNT(*) FROM idempotency_keys WHERE answer IS NOT NULL";
    match &f.state.database {
        Database::Sqlite { pool, .. } => sqlx::query_scalar(KEPT).fetch_one(pool).await,
        Database::Postgres { pool, .. } => sqlx::query_scalar(KEPT).fetch_one(pool).await,
    }
    .unwrap()
}

async fn keys_come_in_pages_of_those_that_the_caller_administers(f: &Fixture) {
    let rival = f.tenant("rival").await;
    for name in ["1", "2", "3"] {
        f.post("/v1/keys", &json!({"name": name}))
            .send()
            .await
            .expect(201);
        f.clock.advance(Duration::from_secs(1));
    }
    let pages = async |key: &str, tenant: Option<&str>| {
        let mut sizes = Vec::new();
        let mut path = "/v1/keys?limit=2".to_owned();
        loop {
            let call = f.get(&path).key(key);
            let call = match tenant {
                Some(tenant) => call.header("x-tenant-id", tenant),
                None => call,
            };
            let page = call.send().await.expect(200);
            sizes.push(page["data"].as_array().unwrap().len());
            let Some(cursor) = page["next_cursor"].as_str() else {
                return sizes;
            };
            path = format!("/v1/keys?limit=2&cursor={cursor}");
        }
    };

    assert_eq!(pages(&f.acme, None).await, [2, 2, 1]);
    assert_eq!(pages(&rival, None).await, [1]);
    assert_eq!(pages(&f.operator, None).await, [2, 2, 2, 1]);
    assert_eq!(pages(&f.operator, Some("rival")).await, [1]);
    let all = f.get("/v1/keys").key(&f.operator).send().await.expect(200);
    assert!(
        all["data"]
            .as_array()
            .unwrap()
            .iter()
            .all(|key| key.get("secret").is_none())
    );

    // Nobody learns of, or touches, another tenant's or an operator's key.
    for key in all["data"].as_array().unwrap() {
        if key["tenant_id"] != "rival" {
            let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
            f.get(&path)
                .key(&rival)
                .send()
                .await
                .problem(404, "not_found");
            f.delete(&path)
                .key(&rival)
                .send()
                .await
                .problem(404, "not_found");
            let narrowed = f
                .delete(&path)
                .key(&f.operator)
                .header("x-tenant-id", "rival");
            narrowed.send().await.problem(404, "not_found");
        }
    }
    f.get("/v1/tenants")
        .key(&f.operator)
        .send()
        .await
        .expect(200);
    for id in ["nonsense", "00000000-0000-0000-0000-000000000000"] {
        let path = format!("/v1/keys/{id}");
        f.delete(&path)
            .key(&f.operator)
            .send()
            .await
            .problem(404, "not_found");
    }
    for key in [&f.reader, &f.key("read,write").await] {
        f.get("/v1/keys")
            .key(key)
            .send()
            .await
            .problem(403, "forbidden");
        let refused = f.post("/v1/keys", &json!({})).key(key).send().await;
        refused.problem(403, "forbidden");
    }
}

#[tokio::test]
async fn a_tenants_administrator_makes_keys_for_that_tenant_only() {
    let f = Fixture::new().await;
    f.tenant("rival").await;
    let admin = f.key("admin").await;
    let make = async |body: Value| f.post("/v1/keys", &body).key(&admin).send().await;

    let all = make(json!({"scopes": ["read", "write", "admin"]}))
        .await
        .expect(201);
    assert_eq!(all["scopes"], json!(["read", "write", "admin"]));
    let usual = make(json!({"tenant_id": "acme"})).await.expect(201);
    assert_eq!(usual["scopes"], json!(["read", "write"]));

    make(json!({"operator": true}))
        .await
        .problem(403, "forbidden");
    let answers = [
        make(json!({"tenant_id": "rival"})).await,
        make(json!({"tenant_id": "nobody"})).await,
    ];
    let [there, not_there] =
        answers.map(|answer| answer.problem(403, "forbidden")["detail"].clone());
    assert_eq!(there, not_there);
}

#[tokio::test]
async fn an_operator_says_whose_the_key_is() {
    let f = Fixture::new().await;
    let make = async |body: Value, tenant: Option<&str>| {
        let call = f.post("/v1/keys", &body).key(&f.operator);
        match tenant {
            Some(tenant) => call.header("x-tenant-id", tenant).send().await,
            None => call.send().await,
        }
    };

    let key = make(json!({}), Some("acme")).await.expect(201);
    assert_eq!(key["tenant_id"], "acme");
    let key = make(json!({"operator": true, "name": "second"}), None)
        .await
        .expect(201);
    assert_eq!(
        (&key["tenant_id"], &key["scopes"]),
        (&Value::Null, &json!(["read", "write", "admin"]))
    );
    let secret = key["secret"].as_str().unwrap();
    assert!(secret.starts_with("nlop_"));
    f.get("/v1/admin/ledger")
        .key(secret)
        .send()
        .await
        .expect(200);

    make(json!({"tenant_id": "nobody"}), None)
        .await
        .problem(404, "not_found");
    let refused = async |body: Value, tenant: Option<&str>| make(body, tenant).await.pointers();
    assert_eq!(refused(json!({}), None).await, ["/tenant_id"]);
    assert_eq!(
        refused(json!({"tenant_id": "rival"}), Some("acme")).await,
        ["/tenant_id"]
    );
    assert_eq!(
        refused(json!({"operator": true}), Some("acme")).await,
        ["X-Tenant-Id"]
    );
    let both = json!({"operator": true, "tenant_id": "acme", "scopes": ["read"]});
    assert_eq!(refused(both, None).await, ["/tenant_id", "/scopes"]);
    let all = json!({
        "tenant_id": "No", "name": 1, "scopes": ["read", "all", 7], "operator": "yes", "secret": "x",
    });
    assert_eq!(
        refused(all, None).await,
        ["/tenant_id", "/name", "/scopes/2", "/operator", "/secret"]
    );
    let unknown = json!({"tenant_id": "acme", "scopes": ["read", "all", "Write"]});
    assert_eq!(refused(unknown, None).await, ["/scopes/1", "/scopes/2"]);
    assert_eq!(
        refused(json!({"tenant_id": "acme", "scopes": []}), None).await,
        ["/scopes"]
    );
}

async fn the_ledger_shows_its_heads(f: &Fixture) {
    f.requested().await;

    let mut ledger = f
        .get("/v1/admin/ledger")
        .key(&f.operator)
        .send()
        .await
        .expect(200);

    let backend = f.state.database.backend();
    assert_eq!(ledger["backend"].take(), backend);
    assert_eq!(ledger["version"].take(), env!("CARGO_PKG_VERSION"));
    let partitions = ledger["partitions"].take();
    snapshot!(ledger, @r#"
    {
      "backend": null,
      "created_at": "2026-03-14T09:30:00.000000Z",
      "ledger_id": "00000000-0000-0000-0000-000000000001",
      "partitions": null,
      "schema": 11,
      "version": null
    }
    "#);
    let partitions = partitions.as_array().unwrap();
    assert_eq!(partitions.len(), 8);
    let mut head = partitions[3].clone();
    assert_eq!(head["hash"].take().as_str().unwrap().len(), 64);
    snapshot!(head, @r#"
    {
      "epoch": "00000000-0000-0000-0000-000000000002",
      "hash": null,
      "partition": 3,
      "position": 1,
      "recorded_at": "2026-03-14T09:30:00.000000Z"
    }
    "#);
    snapshot!(partitions[4], @r#"
    {
      "epoch": "00000000-0000-0000-0000-000000000002",
      "hash": "0000000000000000000000000000000000000000000000000000000000000000",
      "partition": 4,
      "position": 0,
      "recorded_at": "2026-03-14T09:30:00.000000Z"
    }
    "#);
    for key in [&f.acme, &f.reader] {
        f.get("/v1/admin/ledger")
            .key(key)
            .send()
            .await
            .problem(403, "forbidden");
    }
}
