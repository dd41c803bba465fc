//! Tenants, keys and the schema, beside a running service and without one.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::place::{Place, on_both_databases, until};

on_both_databases!(
    a_first_serve_shows_an_operator_key_once,
    a_key_works_until_it_is_revoked,
    a_ledger_is_created_by_migrate_too,
    a_wrong_master_key_stops_the_start,
    a_ledger_made_by_a_newer_release_is_refused,
);

async fn status(url: &str, key: &str) -> u16 {
    let request = reqwest::Client::new().get(url).bearer_auth(key);
    request.send().await.unwrap().status().as_u16()
}

async fn a_first_serve_shows_an_operator_key_once(place: Place) {
    let service = place.serve();
    let url = service.url("/v1/events");
    let ran = service.stop();
    assert_eq!(ran.code(), 0);

    let keys: Vec<_> = ran
        .stdout
        .split_whitespace()
        .filter(|word| word.starts_with("nlop_"))
        .collect();
    let [key] = keys[..] else {
        panic!("one operator key: {}", ran.stdout);
    };
    assert_eq!(
        place
            .json(&["keys", "list", "--json"])
            .as_array()
            .unwrap()
            .len(),
        1
    );

    place.done(&["tenants", "create", "acme"]);
    let service = place.serve();
    let request = reqwest::Client::new()
        .get(service.url("/v1/events"))
        .bearer_auth(key);
    let answer = request.header("X-Tenant-Id", "acme").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let again = service.stop();
    assert!(!again.stdout.contains("nlop_"), "{}", again.stdout);
    assert!(reqwest::get(url).await.is_err());
}

async fn a_key_works_until_it_is_revoked(place: Place) {
    let place = place.with("LEDGER_AUTH_CACHE_TTL_MS", "500").with_tenant();
    let service = place.serve();
    let url = service.url("/v1/events");

    let ran = place.run(&[
        "keys", "create", "--tenant", "acme", "--scope", "read", "--name", "ops",
    ]);
    let secret = ran.stdout.strip_suffix('\n').unwrap();
    assert!(
        secret.starts_with("nl_") && !secret.contains(char::is_whitespace),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains(secret), "{ran:?}");
    assert_eq!(status(&url, secret).await, 200);

    let keys = place.json(&["keys", "list", "--tenant", "acme", "--json"]);
    let key = &keys.as_array().unwrap()[0];
    assert_eq!(key["tenant_id"], "acme");
    assert_eq!(key["name"], "ops");
    assert_eq!(key["scopes"], json!(["read"]));
    assert_eq!(key["revoked_at"], json!(null));
    assert!(!keys.to_string().contains(secret));

    let id = key["id"].as_str().unwrap();
    place.done(&["keys", "revoke", id]);
    let revoked = Instant::now();
    while status(&url, secret).await != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(5), "it still works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let first = place.json(&["keys", "revoke", id, "--json"]);
    assert_eq!(first, place.json(&["keys", "revoke", id, "--json"]));
    assert_ne!(first["revoked_at"], json!(null));
    let nobodys = place.run(&["keys", "revoke", "019353f0-5f5c-7000-8000-5d4f2b7a9c11"]);
    assert_eq!(nobodys.code(), 1, "{nobodys:?}");
}

async fn a_ledger_is_created_by_migrate_too(place: Place) {
    let created = place.json(&["migrate", "--json"]);
    assert_eq!(created["created"], true);
    assert_eq!(created["partitions"], 8);

    let again = place.json(&["migrate", "--json"]);
    assert_eq!(again["created"], false);
    assert_eq!(again["ledger_id"], created["ledger_id"]);
    assert_eq!(again["epoch"], json!(null));

    let restored = place.json(&["migrate", "--restored", "--json"]);
    let twice = place.json(&["migrate", "--restored", "--json"]);
    assert!(restored["epoch"].is_string());
    assert_ne!(restored["epoch"], twice["epoch"]);

    // The operator key is for whoever serves first, not for whoever migrates.
    let ran = place.serve().stop();
    assert!(ran.stdout.contains("nlop_"));
}

async fn a_wrong_master_key_stops_the_start(place: Place) {
    let place = place.with_tenant();
    let place = place.with("LEDGER_MASTER_KEY", &"A".repeat(43));

    for arguments in [&["serve"][..], &["tenants", "list"], &["migrate"]] {
        let ran = place.run(arguments);

        assert_eq!(ran.code(), 1, "{ran:?}");
        assert!(
            ran.stderr
                .contains("the master key does not open this ledger"),
            "{ran:?}"
        );
        assert!(ran.stderr.contains("LEDGER_MASTER_KEY"), "{ran:?}");
    }
    // Whoever only checks needs no key, so a wrong one does no harm.
    assert_eq!(place.run(&["verify"]).code(), 0);
}

async fn a_ledger_made_by_a_newer_release_is_refused(place: Place) {
    let place = place.with_tenant();
    place
        .sql(
            "INSERT INTO _sqlx_migrations
                (version, description, installed_on, success, checksum, execution_time)
            SELECT 99999999999999, 'of the future', installed_on, success, checksum, 0
            FROM _sqlx_migrations
            WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
        )
        .await;

    for arguments in [&["serve"][..], &["migrate"], &["verify"], &["keys", "list"]] {
        let ran = place.run(arguments);

        assert_eq!(ran.code(), 1, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("made by a newer release"), "{ran:?}");
    }
}

#[test]
fn tenants_are_listed_as_they_were_created() {
    let place = Place::sqlite();
    place.done(&["migrate"]);
    let created = place.json(&[
        "tenants",
        "create",
        "acme",
        "--name",
        "Acme Inc.",
        "--partition",
        "7",
        "--json",
    ]);
    assert_eq!(created["id"], "acme");
    assert_eq!(created["partition"], 7);
    place.done(&["tenants", "create", "zenith"]);

    let twice = place.run(&["tenants", "create", "acme"]);
    assert_eq!(twice.code(), 1, "{twice:?}");
    assert!(
        twice.stderr.contains("already a tenant `acme`"),
        "{twice:?}"
    );
    let nowhere = place.run(&["tenants", "create", "nowhere", "--partition", "8"]);
    assert_eq!(nowhere.code(), 1, "{nowhere:?}");
    assert!(nowhere.stderr.contains("from 0 to 7"), "{nowhere:?}");

    let listed = place.json(&["tenants", "list", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0], created);
    let shown = place.done(&["tenants", "list"]);
    let rows: Vec<_> = shown
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(rows, ["ID", "acme", "zenith"]);
}

#[test]
fn a_key_needs_its_tenant() {
    let place = Place::sqlite();
    place.done(&["migrate"]);

    let ran = place.run(&["keys", "create", "--tenant", "nobody"]);

    assert_eq!(ran.code(), 1, "{ran:?}");
    assert_eq!(ran.stdout, "");
    assert!(
        ran.stderr.contains("there is no tenant `nobody`"),
        "{ran:?}"
    );
}

#[test]
fn a_lost_key_file_stops_the_start() {
    let place = Place::sqlite().with_tenant();
    let file = place.path("data/ledger.db.key");
    let moved = place.path("elsewhere");
    std::fs::rename(&file, &moved).unwrap();

    let ran = place.run(&["serve"]);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("data/ledger.db.key"), "{ran:?}");
    assert!(!file.exists(), "a new key would open nothing");

    std::fs::rename(&moved, &file).unwrap();
    assert_eq!(place.run(&["tenants", "list"]).code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_key_was_used_is_noted_at_the_stop() {
    let place = Place::sqlite().with_tenant();
    let secret = place.done(&["keys", "create", "--tenant", "acme"]);
    let service = place.serve();
    assert_eq!(status(&service.url("/v1/events"), secret.trim()).await, 200);

    service.stop();

    let used = until("the use is noted", || {
        let keys = place.json(&["keys", "list", "--tenant", "acme", "--json"]);
        keys[0]["last_used_at"].as_str().map(str::to_owned)
    });
    assert!(used.ends_with('Z'), "{used}");
}
