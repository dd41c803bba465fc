//! The database is gone, killed or read-only.

use std::time::Duration;

use serde_json::json;

use crate::audit::audit;
use crate::clients::{Crowd, Plan};
use crate::database::{Cluster, run_sql};
use crate::dice::Dice;
use crate::http::{Addresses, Caller, external_ids};
use crate::place::{Place, timed};
use crate::wait::until;

/// Longest wait for a connection to the database; a tenth of the usual.
const ACQUIRE: Duration = Duration::from_millis(500);
/// Longest wait for being told that there is no database, on a busy machine.
const TOLD: Duration = Duration::from_secs(5);
/// By then a service has found its database again.
const RECOVERED: Duration = Duration::from_secs(15);
/// How often the server is killed.
const KILLS: usize = 5;
/// Events that are answered between two kills.
const EVENTS: std::ops::Range<usize> = 60..300;
/// Clients that are put off before the server is started again.
const PUT_OFF: usize = 10;

fn plan() -> Plan {
    Plan {
        clients: 6,
        shared: 2,
        shared_percent: 25,
    }
}

fn on(cluster: &Cluster, user: &str, database: &str) -> Place {
    let millis = ACQUIRE.as_millis().to_string();
    Place::on(cluster, user, database).with("LEDGER_DB_ACQUIRE_TIMEOUT_MS", millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn when_postgres_is_killed_nothing_answered_is_lost() {
    let mut dice = Dice::of_test("PostgreSQL killed");
    let mut cluster = Cluster::start();
    let place = on(&cluster, "postgres", "postgres");
    let service = place.start().await;
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let addresses = Addresses::of(&[&service]);

    let mut crowd = Crowd::start(&addresses, &tenants, &plan(), &mut dice).await;
    for kill in 0..KILLS {
        crowd.progress(dice.roll(EVENTS)).await;
        cluster.kill(kill % 2 == 1).await;
        if kill % 2 == 0 {
            let before = crowd.put_off();
            until("clients are put off", TOLD, async || {
                (crowd.put_off() >= before + PUT_OFF).then_some(())
            })
            .await;
        }
        cluster.start_again().await;
    }
    crowd.progress(dice.roll(EVENTS)).await;
    let seen = crowd.finish().await;

    audit(&place, &addresses, &tenants, &seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn without_postgres_it_says_so_and_recovers_by_itself() {
    let mut dice = Dice::of_test("PostgreSQL stopped");
    let mut cluster = Cluster::start();
    let place = on(&cluster, "postgres", "postgres");
    let service = place.start().await;
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let addresses = Addresses::of(&[&service]);
    let caller = Caller::new(&addresses, &tenants[0]);
    let mut crowd = Crowd::start(&addresses, &tenants, &plan(), &mut dice).await;
    crowd.progress(EVENTS.end).await;
    let known = caller.log().await[0].notification_id;

    cluster.stop();

    for path in [
        format!("/v1/notifications/{known}"),
        "/v1/events".to_owned(),
    ] {
        let (answer, took) = timed(caller.get(&path)).await;
        answer.assert_says_later(&["unavailable"]);
        assert!(took < TOLD, "{took:?}");
    }
    let (answer, took) = timed(caller.post("/v1/notifications", &[], "{}")).await;
    // What is wrong in itself needs no database to be refused.
    assert!([422, 503].contains(&answer.status), "{answer:?}");
    assert!(took < TOLD, "{took:?}");
    let path = format!("/v1/notifications/{known}/retract");
    let (answer, took) = timed(caller.post(&path, &[], r#"{"reason":"no"}"#)).await;
    answer.assert_says_later(&["unavailable"]);
    assert!(took < TOLD, "{took:?}");
    let ready = caller.get("/readyz").await;
    assert_eq!(
        (ready.status, ready.header("Retry-After").is_some()),
        (503, true),
        "{ready:?}"
    );
    assert_eq!(caller.get("/healthz").await.status, 200);
    let before = crowd.put_off();
    until("clients are put off", TOLD, async || {
        (crowd.put_off() >= before + PUT_OFF).then_some(())
    })
    .await;

    cluster.start_again().await;

    until("the service is ready again", RECOVERED, async || {
        (caller.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(
        caller
            .get(&format!("/v1/notifications/{known}"))
            .await
            .status,
        200
    );
    crowd.progress(EVENTS.end).await;
    let seen = crowd.finish().await;
    audit(&place, &addresses, &tenants, &seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_read_only_database_is_still_read() {
    let cluster = Cluster::start();
    cluster.run("CREATE ROLE ledger LOGIN").await;
    cluster.run("CREATE ROLE auditor LOGIN").await;
    cluster.run("CREATE DATABASE ledger OWNER ledger").await;
    let inside = cluster.url("postgres", "ledger");
    let place = on(&cluster, "ledger", "ledger");
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    let body = json!({ "workflow_id": "w", "subscriber": { "id": "s" }, "external_id": "before" });
    let body = body.to_string();
    let key = [("Idempotency-Key", "first")];
    let made = caller.post("/v1/notifications", &key, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.body["id"].as_str().unwrap();

    run_sql(
        &inside,
        "REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public FROM ledger",
    )
    .await;

    let refused = caller.request("meanwhile").await;
    refused.assert_says_later(&["unavailable"]);
    let refused = caller
        .post(&format!("/v1/notifications/{id}/delivered"), &[], "{}")
        .await;
    refused.assert_says_later(&["unavailable"]);
    let read = caller.get(&format!("/v1/notifications/{id}")).await;
    assert_eq!(
        (read.status, &read.body["version"]),
        (200, &json!(1)),
        "{read:?}"
    );
    assert_eq!(external_ids(&caller.log().await), ["before"]);
    // What was answered before is answered again: that needs no writing.
    let again = caller.post("/v1/notifications", &key, &body).await;
    assert_eq!((again.status, &again.body), (201, &made.body));
    assert_eq!(again.header("Idempotent-Replayed"), Some("true"));

    // Whoever may only read the tables can still check them.
    run_sql(
        &inside,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor",
    )
    .await;
    on(&cluster, "auditor", "ledger").verify();

    run_sql(
        &inside,
        "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ledger",
    )
    .await;

    let delivered = until("the service writes again", RECOVERED, async || {
        let answer = caller
            .post(&format!("/v1/notifications/{id}/delivered"), &[], "{}")
            .await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(delivered.body["version"], 2, "{delivered:?}");
    assert_eq!(external_ids(&caller.log().await), ["before"]);
    place.verify();
}
