//! Rebuilding tables over HTTP, while everybody goes on reading and writing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use notification_ledger::api::request::idempotency;
use notification_ledger::domain::ids::TenantId;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, TenantPlace};
use notification_ledger::projections::rebuild::State;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::fixture::{Fixture, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    a_rebuild_is_shown_until_its_end,
    a_second_request_shows_the_one_that_runs,
    a_rebuild_is_begun_once_under_a_key,
    a_rebuild_whose_answer_was_lost_is_not_begun_again,
    a_cancelled_rebuild_leaves_nothing,
    one_partition_is_rebuilt_alone,
    a_rebuild_that_fails_says_why,
    only_operators_rebuild,
    what_is_wrong_with_a_request_is_said,
    tables_of_other_releases_are_shown,
    nobody_who_reads_or_writes_notices_a_rebuild,
);

const NAMES: [&str; 4] = ["notifications", "notification_logs", "timeline", "metrics"];
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until everybody has seen the tables swapped a few times.
const ROUNDS: usize = 3;

fn path(name: &str) -> String {
    format!("/v1/admin/projections/{name}/rebuild")
}

async fn begin(f: &Fixture, name: &str) -> Value {
    let call = f.call(Method::POST, &path(name)).key(&f.operator);
    call.send().await.expect(202)
}

async fn show(f: &Fixture, name: &str) -> Value {
    f.get(&path(name)).key(&f.operator).send().await.expect(200)
}

/// Waits until the last rebuild of a projection has ended.
async fn ended(f: &Fixture, name: &str) -> Value {
    let started = Instant::now();
    loop {
        let rebuild = show(f, name).await;
        if rebuild["state"] != "running" {
            return rebuild;
        }
        assert!(started.elapsed() < PATIENCE, "{rebuild}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn sql(f: &Fixture, statements: &str) {
    let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    match &f.state.database {
        Database::Postgres { pool, .. } => drop(statements.execute(pool).await.unwrap()),
        Database::Sqlite { pool, .. } => drop(statements.execute(pool).await.unwrap()),
    }
}

fn is_postgres(f: &Fixture) -> bool {
    matches!(f.state.database, Database::Postgres { .. })
}

async fn sent(f: &Fixture, count: usize) {
    for _ in 0..count {
        let id = f.requested().await;
        let fact = json!({"message": {"channel": "email"}});
        let path = format!("/v1/notifications/{id}/sent");
        f.post(&path, &fact).send().await.expect(200);
    }
}

async fn a_rebuild_is_shown_until_its_end(f: &Fixture) {
    sent(f, 3).await;
    f.fresh("/v1/notification-logs").await;

    let begun = begin(f, "notification_logs").await;

    assert_eq!(begun["projection"], "notification_logs");
    assert_eq!(begun["state"], "running");
    assert_eq!(begun["total"], 6);
    let mut ended = ended(f, "notification_logs").await;
    assert_eq!(ended["rebuild_id"], begun["rebuild_id"]);
    // On a clock that stands still it takes no time.
    for (name, shown) in [("rebuild_id", "an id"), ("events_per_second", "a rate")] {
        assert!(!ended[name].is_null());
        ended[name] = shown.into();
    }
    snapshot!(ended, @r#"
    {
      "checksum_equal": true,
      "done": 6,
      "error": null,
      "events_per_second": "a rate",
      "partition": null,
      "phase": null,
      "projection": "notification_logs",
      "rebuild_id": "an id",
      "seconds_left": 0,
      "started_at": "2026-03-14T09:30:00.000000Z",
      "state": "done",
      "total": 6,
      "updated_at": "2026-03-14T09:30:00.000000Z"
    }
    "#);
    // The new tables are read and followed.
    sent(f, 1).await;
    let page = f.fresh("/v1/notification-logs").await;
    assert_eq!(page["data"].as_array().unwrap().len(), 4);
}

/// Notes a rebuild that nobody of this service works on.
async fn held(f: &Fixture, name: &str) -> Value {
    begin(f, name).await;
    ended(f, name).await;
    // A process that does not answer has it, for a while.
    let held = "UPDATE projection_rebuilds SET state = 'running', phase = 'filling',
        owner = rebuild_id, lease_until = 9000000000000000";
    sql(f, held).await;
    show(f, name).await
}

async fn a_second_request_shows_the_one_that_runs(f: &Fixture) {
    sent(f, 2).await;
    let running = held(f, "timeline").await;
    assert_eq!(running["state"], "running");
    assert_eq!(running["phase"], "filling");

    let again = begin(f, "timeline").await;

    assert_eq!(again, running);
    // Another projection's is its own.
    let other = begin(f, "metrics").await;
    assert_ne!(other["rebuild_id"], running["rebuild_id"]);
    assert_eq!(ended(f, "metrics").await["state"], "done");
    assert_eq!(show(f, "timeline").await, running);
}

async fn a_cancelled_rebuild_leaves_nothing(f: &Fixture) {
    sent(f, 2).await;
    let before = f.fresh("/v1/timeline").await;
    let running = held(f, "timeline").await;
    sql(f, "CREATE TABLE timeline_shadow AS SELECT * FROM timeline").await;

    let call = f.delete(&path("timeline")).key(&f.operator);
    let cancelled = call.send().await.expect(200);

    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(cancelled["rebuild_id"], running["rebuild_id"]);
    assert_eq!(cancelled["seconds_left"], 0);
    // It only succeeds where there is none.
    sql(f, "CREATE TABLE timeline_shadow (gone integer)").await;
    sql(f, "DROP TABLE timeline_shadow").await;
    assert_eq!(f.fresh("/v1/timeline").await, before);
    // A second call is the same answer.
    let call = f.delete(&path("timeline")).key(&f.operator);
    assert_eq!(call.send().await.expect(200), cancelled);
    // And the next begins anew.
    let next = begin(f, "timeline").await;
    assert_ne!(next["rebuild_id"], running["rebuild_id"]);
    assert_eq!(ended(f, "timeline").await["state"], "done");
}

async fn one_partition_is_rebuilt_alone(f: &Fixture) {
    sent(f, 2).await;
    let rival = f.tenant("rival").await;
    let made = f.post("/v1/notifications", &minimal()).key(&rival);
    made.send().await.expect(201);
    let theirs = f.get("/v1/timeline").header("ledger-min-position", "5-1");
    theirs.key(&rival).send().await.expect(200);
    f.fresh("/v1/timeline").await;
    sql(f, "UPDATE timeline SET event_type = 'of old'").await;

    let call = f.call(Method::POST, &format!("{}?partition=3", path("timeline")));
    let begun = call.key(&f.operator).send().await.expect(202);

    assert_eq!(
        (&begun["partition"], &begun["total"]),
        (&json!(3), &json!(4))
    );
    let ended = ended(f, "timeline").await;
    // The rows were others, which the checksum shows.
    assert_eq!(
        (&ended["state"], &ended["checksum_equal"]),
        (&json!("done"), &json!(false))
    );
    let store = f.state.projections.store();
    let columns = notification_ledger::projections::timeline::TIMELINE.columns;
    let partition = &columns[..1];
    let old = "SELECT partition FROM timeline WHERE event_type = 'of old'";
    let old = store.select(old, &[], partition).await.unwrap();
    let partitions: Vec<_> = old.iter().map(|row| row[0].as_int()).collect();
    assert_eq!(partitions, [Some(5)]);
}

async fn a_rebuild_is_begun_once_under_a_key(f: &Fixture) {
    sent(f, 2).await;
    f.fresh("/v1/timeline").await;
    let ask = async |path: &str, body: &str, key: &str| {
        let call = f.post_text(path, body.to_owned()).key(&f.operator);
        call.once(key).send().await
    };
    let timeline = path("timeline");
    let first = ask(&timeline, "", "once").await;
    let begun = first.expect(202);
    ended(f, "timeline").await;
    f.clock.advance(Duration::from_secs(1));

    // It has ended meanwhile; the answer is the first one still, and nothing is begun.
    for body in ["", ""] {
        ask(&timeline, body, "once").await.is_replay_of(&first);
    }
    let last = show(f, "timeline").await;
    assert_eq!(last["rebuild_id"], begun["rebuild_id"]);

    for (path, body) in [
        (timeline.clone(), "{}"),
        (format!("{timeline}?partition=3"), ""),
        (path("metrics"), ""),
        ("/v1/tenants".to_owned(), r#"{"id": "beta"}"#),
    ] {
        let reused = ask(&path, body, "once").await;
        reused.problem(422, "idempotency_key_reused");
    }
    for key in ["", &"k".repeat(300)] {
        let refused = ask(&timeline, "", key).await;
        assert_eq!(refused.pointers(), ["Idempotency-Key"], "{key}");
    }
    let last = show(f, "timeline").await;
    assert_eq!(last["rebuild_id"], begun["rebuild_id"]);
    let metrics = f.get(&path("metrics")).key(&f.operator).send().await;
    metrics.problem(404, "not_found");

    // Another key is another wish.
    let again = ask(&timeline, "{}", "twice").await.expect(202);
    assert_ne!(again["rebuild_id"], begun["rebuild_id"]);
    ended(f, "timeline").await;
}

async fn a_rebuild_whose_answer_was_lost_is_not_begun_again(f: &Fixture) {
    sent(f, 2).await;
    f.fresh("/v1/timeline").await;
    // What a call leaves behind that breaks off before its answer was kept.
    let headers =
        HeaderMap::from_iter([("idempotency-key".parse().unwrap(), "lost".parse().unwrap())]);
    let claim = idempotency(&headers, "POST", &path("timeline"), b"").unwrap();
    let account = TenantPlace {
        tenant_id: TenantId::new("operator").unwrap(),
        partition: Partition(0),
    };
    let ledger = &f.state.ledger;
    let kept = ledger.keep_answer(&account, &claim.unwrap(), None).await;
    assert_eq!(kept.unwrap().answer, None);
    let first = begin(f, "timeline").await;
    ended(f, "timeline").await;
    let ask = || f.call(Method::POST, &path("timeline")).key(&f.operator);

    let answer = ask().once("lost").send().await;

    let shown = answer.expect(202);
    assert_eq!(shown["rebuild_id"], first["rebuild_id"]);
    assert_eq!(shown["state"], "done");
    ask().once("lost").send().await.is_replay_of(&answer);
    // The same of one partition was never begun.
    let alone = format!("{}?partition=3", path("timeline"));
    let call = f.call(Method::POST, &alone).key(&f.operator);
    let alone = call.once("other").send().await.expect(202);
    assert_ne!(alone["rebuild_id"], first["rebuild_id"]);
}

async fn a_rebuild_that_fails_says_why(f: &Fixture) {
    sent(f, 2).await;
    let before = f.fresh("/v1/notifications").await;
    let unprotected = if is_postgres(f) {
        "DROP TRIGGER events_are_permanent ON events"
    } else {
        "DROP TRIGGER events_are_not_updated"
    };
    sql(f, unprotected).await;
    sql(
        f,
        "UPDATE events SET schema_version = 99 WHERE position = 3",
    )
    .await;
    begin(f, "notifications").await;

    let failed = ended(f, "notifications").await;

    assert_eq!(failed["state"], "failed");
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("position 3") && error.contains("schema version 99"),
        "{error}"
    );
    assert_eq!(failed["checksum_equal"], Value::Null);
    sql(f, "UPDATE events SET schema_version = 1 WHERE position = 3").await;
    assert_eq!(f.fresh("/v1/notifications").await, before);
    begin(f, "notifications").await;
    assert_eq!(ended(f, "notifications").await["state"], "done");
}

async fn only_operators_rebuild(f: &Fixture) {
    for method in [Method::POST, Method::GET, Method::DELETE] {
        for name in ["timeline", "orders"] {
            for key in [&f.acme, &f.reader] {
                let call = f.call(method.clone(), &path(name)).key(key);
                call.send().await.problem(403, "forbidden");
            }
            let call = f.call(method.clone(), &path(name)).without_key();
            call.send().await.problem(401, "unauthenticated");
        }
    }
    assert!(f.state.projections.rebuilds().await.unwrap().is_empty());
}

async fn what_is_wrong_with_a_request_is_said(f: &Fixture) {
    for method in [Method::POST, Method::GET, Method::DELETE] {
        for name in ["orders", "Timeline", "notification-logs", "%20"] {
            let call = f.call(method.clone(), &path(name)).key(&f.operator);
            let refused = call.send().await;
            assert_eq!(refused.pointers(), ["name"], "{method} {name}");
            let words = refused.json()["detail"].to_string();
            assert!(NAMES.iter().all(|name| words.contains(name)), "{words}");
        }
    }
    for (body, pointers) in [
        (r#"{"partition": 3, "x": 1}"#, &["/partition", "/x"][..]),
        ("[]", &[""]),
    ] {
        let call = f.post_text(&path("timeline"), body).key(&f.operator);
        assert_eq!(call.send().await.pointers(), pointers, "{body}");
    }
    let cut_off = f.post_text(&path("timeline"), "{").key(&f.operator);
    cut_off.send().await.problem(400, "malformed_json");
    // None was ever asked for.
    for name in NAMES {
        for method in [Method::GET, Method::DELETE] {
            let call = f.call(method, &path(name)).key(&f.operator);
            call.send().await.problem(404, "not_found");
        }
    }
    for (query, pointer, words) in [
        ("partition=8", "?partition", "from 0 to 7"),
        ("partition=-1", "?partition", "from 0 to 7"),
        ("partition=all", "?partition", "from 0 to 7"),
        ("partition=", "?partition", "from 0 to 7"),
        ("partitions=1", "?", "partition"),
    ] {
        // Nothing is not all of them.
        let call = f.call(Method::POST, &format!("{}?{query}", path("timeline")));
        let refused = call.key(&f.operator).send().await;
        assert_eq!(refused.pointers(), [pointer], "{query}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    assert!(f.state.projections.rebuilds().await.unwrap().is_empty());
}

async fn tables_of_other_releases_are_shown(f: &Fixture) {
    sql(
        f,
        "UPDATE projection_checkpoints SET version = 0 WHERE projection = 'metrics';
        UPDATE projection_checkpoints SET version = 2 WHERE projection = 'timeline'",
    )
    .await;

    let path = "/v1/admin/projections";
    let all = f.get(path).key(&f.operator).send().await.expect(200);

    for projection in all["data"].as_array().unwrap() {
        let (state, has_error) = match projection["name"].as_str().unwrap() {
            "metrics" => ("outdated", false),
            "timeline" => ("newer", true),
            _ => ("running", false),
        };
        assert_eq!(projection["version"], 1);
        for at in projection["partitions"].as_array().unwrap() {
            assert_eq!(at["state"], state, "{at}");
            assert_eq!(at["last_error"].is_string(), has_error, "{at}");
        }
    }
    let error = all["data"][2]["partitions"][0]["last_error"]
        .as_str()
        .unwrap();
    assert!(
        error.contains("a newer release made these tables, in version 2"),
        "{error}"
    );
}

/// Looks at every list again and again. What was there must be there, and nothing may fail.
async fn read_on(f: &Fixture, stop: &AtomicBool, least: &AtomicUsize, looks: &AtomicUsize) {
    let counted = "/v1/metrics?from=2026-03-14T09:00:00Z&to=2026-03-14T10:00:00Z";
    while !stop.load(Ordering::SeqCst) {
        for list in ["notifications", "notification-logs", "timeline"] {
            let wanted = least.load(Ordering::SeqCst).min(40);
            let call = f.get(&format!("/v1/{list}?limit=200"));
            let page = call.send().await.expect(200);
            let found = page["data"].as_array().unwrap().len();
            assert!(found >= wanted, "{list}: {found} of {wanted}");
        }
        let wanted = least.load(Ordering::SeqCst);
        let answer = f.get(counted).send().await.expect(200);
        let found = answer["series"][0]["totals"]["sent"].as_u64().unwrap();
        let found = usize::try_from(found).unwrap();
        assert!(found >= wanted, "metrics: {found} of {wanted}");
        looks.fetch_add(1, Ordering::SeqCst);
    }
}

/// Writes, and waits until it is in every list: that is what readers may expect from then on.
async fn write_on(f: &Fixture, stop: &AtomicBool, least: &AtomicUsize) {
    while !stop.load(Ordering::SeqCst) {
        sent(f, 1).await;
        for list in ["notifications", "notification-logs", "timeline", "metrics"] {
            f.fresh(&format!("/v1/{list}")).await;
        }
        least.fetch_add(1, Ordering::SeqCst);
    }
}

async fn nobody_who_reads_or_writes_notices_a_rebuild(f: &Fixture) {
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    sent(f, 30).await;
    for list in ["notifications", "notification-logs", "timeline", "metrics"] {
        f.fresh(&format!("/v1/{list}")).await;
    }
    let least = AtomicUsize::new(30);
    let rebuild = async {
        for _ in 0..ROUNDS {
            for name in NAMES {
                begin(f, name).await;
            }
            for name in NAMES {
                let ended = ended(f, name).await;
                assert_eq!(ended["state"], "done", "{ended}");
                assert_ne!(ended["checksum_equal"], false, "{ended}");
            }
        }
        // One partition alone takes another way in.
        let alone = format!("{}?partition=3", path("metrics"));
        let call = f.call(Method::POST, &alone).key(&f.operator);
        call.send().await.expect(202);
        ended(f, "metrics").await;
        stop.store(true, Ordering::SeqCst);
    };
    tokio::join!(
        rebuild,
        read_on(f, &stop, &least, &looks),
        read_on(f, &stop, &least, &looks),
        write_on(f, &stop, &least),
    );
    let (looks, written) = (looks.into_inner(), least.into_inner());
    assert!(
        looks > ROUNDS && written > 30,
        "{looks} looks, {written} written"
    );
    let rebuilds = f.state.projections.rebuilds().await.unwrap();
    assert!(rebuilds.iter().all(|rebuild| rebuild.state == State::Done));
}
