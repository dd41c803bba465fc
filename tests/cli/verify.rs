//! A record that was tampered with is found out.

use crate::place::{Place, on_both_databases};

on_both_databases!(
    an_altered_event_is_named,
    a_cut_end_is_found,
    a_missing_head_is_found,
    it_needs_no_master_key_and_runs_beside_a_server,
);

/// How many events each of these ledgers has: three of each of ten notifications.
const EVENTS: u64 = 30;
const STOP_GUARD_SQLITE: &str =
    "DROP TRIGGER events_are_not_updated; DROP TRIGGER events_are_not_deleted;";

fn with_events(place: Place) -> Place {
    let place = place.with_tenant();
    let mut lines = String::new();
    for number in 0..10 {
        let id = format!("019353f0-5f5c-7000-8000-{number:012x}");
        let request = format!(
            r#"{{"type":"request","id":"{id}","workflow_id":"welcome","subscriber":{{"id":"ada"}}}}"#
        );
        let sent = format!(r#"{{"type":"sent","notification_id":"{id}"}}"#);
        let read = format!(r#"{{"type":"read","notification_id":"{id}"}}"#);
        lines.push_str(&[request, sent, read].join("\n"));
        lines.push('\n');
    }
    let ran = place.run_with(&lines, &["import", "-", "--tenant", "acme"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    place
}

/// Switches off what keeps honest people from changing history.
async fn unguard(place: &Place) {
    if place.path("data/ledger.db").exists() {
        place.sql(STOP_GUARD_SQLITE).await;
    } else {
        place.sql("ALTER TABLE events DISABLE TRIGGER ALL").await;
    }
}

async fn an_altered_event_is_named(place: Place) {
    let place = with_events(place);
    let clean = place.run(&["verify"]);
    assert_eq!(clean.code(), 0, "{clean:?}");
    assert_eq!(clean.stdout, "8 partitions, 30 events: intact\n");
    // `acme` lives in partition 0.
    let part = place.run(&["verify", "--from", "0-21"]);
    assert_eq!(part.stdout, "1 partition, 10 events: intact\n");

    unguard(&place).await;
    place
        .sql("UPDATE events SET occurred_at = occurred_at + 1 WHERE position = 17")
        .await;

    let ran = place.run(&["verify"]);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(
        ran.stdout.starts_with("0-17: the event was altered"),
        "{ran:?}"
    );
    let answer = place.run(&["verify", "--json"]);
    assert_eq!(answer.code(), 1);
    let answer: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(answer["intact"], false);
    assert_eq!(answer["partitions"][0]["position"], "0-17");
    assert_eq!(answer["partitions"][0]["fault"], "altered");
    assert_eq!(answer["partitions"][1]["intact"], true);
    // The others hold, and so does what came after.
    assert_eq!(place.run(&["verify", "--partition", "1"]).code(), 0);
    assert_eq!(
        place
            .run(&["verify", "--partition", "0", "--from", "18"])
            .code(),
        0
    );
}

async fn a_cut_end_is_found(place: Place) {
    let place = with_events(place);
    unguard(&place).await;
    place
        .sql(&format!("DELETE FROM events WHERE position = {EVENTS}"))
        .await;

    let ran = place.run(&["verify"]);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(
        ran.stdout.starts_with("0-30: the event is missing"),
        "{ran:?}"
    );

    // Who also moves the head back still can't fool those who remember how far it was.
    let beyond = place.run(&["verify", "--from", "0-40"]);
    assert_eq!(beyond.code(), 1, "{beyond:?}");
    assert!(beyond.stderr.contains("cut or restored"), "{beyond:?}");
}

async fn a_missing_head_is_found(place: Place) {
    let place = with_events(place);
    place
        .sql("DELETE FROM partition_heads WHERE partition = 3")
        .await;

    let ran = place.run(&["verify"]);

    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(
        ran.stdout
            .starts_with("3-0: the partition's head is missing"),
        "{ran:?}"
    );
}

/// Somebody who audits, and must not be able to change anything.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn whoever_may_only_read_can_check() {
    let place = with_events(Place::postgres().await);
    let role = format!("auditor_{}", std::process::id());
    place
        .sql(&format!(
            "CREATE ROLE {role} LOGIN;
            ALTER ROLE {role} SET default_transaction_read_only = on;
            GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
        ))
        .await;
    let url = place
        .setting("LEDGER_DATABASE_URL")
        .replace("postgres@", &format!("{role}@"));
    let ran = place.run(&["verify", "--database-url", &url]);
    place
        .sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;

    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(ran.stdout, "8 partitions, 30 events: intact\n");
}

async fn it_needs_no_master_key_and_runs_beside_a_server(place: Place) {
    let place = with_events(place);
    let service = place.serve();
    let place = place.without("LEDGER_MASTER_KEY");
    let key = place.path("data/ledger.db.key");
    if key.exists() {
        std::fs::remove_file(key).unwrap();
    }

    let ran = place.run(&["verify"]);

    assert_eq!(ran.code(), 0, "{ran:?}");
    let nowhere = place.run(&["verify", "--partition", "8"]);
    assert_eq!(nowhere.code(), 2, "{nowhere:?}");
    drop(service);
}
