//! How far projections are, and rebuilding them by hand.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Value, json};

use crate::place::{Place, Ran, on_both_databases, until};

on_both_databases!(
    projections_are_listed_with_how_far_they_are,
    tables_are_rebuilt_without_a_server,
    tables_are_rebuilt_beside_a_server,
    a_rebuild_that_fails_says_why,
    what_runs_is_cancelled,
    what_runs_is_followed_beside_what_begins,
);

const NAMES: [&str; 4] = ["notifications", "notification_logs", "timeline", "metrics"];
/// Three of each of these notifications.
const EVENTS: u64 = 30;

fn recorded(place: Place) -> Place {
    let place = place.with_tenant();
    let mut lines = Vec::new();
    for number in 0..EVENTS / 3 {
        let id = format!("019353f0-5f5c-7000-8000-{number:012x}");
        let request = json!({
            "type": "request",
            "id": id,
            "workflow_id": "welcome",
            "subscriber": { "id": "ada" },
        });
        lines.push(request.to_string());
        for fact in ["sent", "read"] {
            lines.push(json!({ "type": fact, "notification_id": id }).to_string());
        }
    }
    let ran = place.run_with(&lines.join("\n"), &["import", "-", "--tenant", "acme"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    place
}

fn places(place: &Place) -> Vec<Value> {
    let listed = place.json(&["projections", "list", "--json"]);
    listed.as_array().unwrap().clone()
}

fn lag(place: &Place) -> u64 {
    let lags = places(place);
    lags.iter()
        .map(|at| at["lag_events"].as_u64().unwrap())
        .sum()
}

async fn projections_are_listed_with_how_far_they_are(place: Place) {
    let place = recorded(place);
    let listed = places(&place);
    assert_eq!(listed.len(), NAMES.len() * 8);
    assert_eq!(lag(&place), EVENTS * 4);
    for at in &listed {
        assert_eq!(at["version"], 1, "{at}");
        assert_eq!(at["state"], "running", "{at}");
        assert_eq!(at["last_error"], Value::Null, "{at}");
    }
    let service = place.serve();
    until("the tables have everything", || {
        (lag(&place) == 0).then_some(())
    });
    service.stop();
    let shown = place.done(&["projections", "list"]);
    let heading: Vec<_> = shown.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        [
            "PROJECTION",
            "PARTITION",
            "POSITION",
            "BEHIND",
            "STATE",
            "ERROR"
        ]
    );
    assert_eq!(shown.lines().count(), 1 + listed.len());

    place
        .sql(
            "UPDATE projection_checkpoints SET version = 0 WHERE projection = 'metrics';
            UPDATE projection_checkpoints SET version = 2 WHERE projection = 'timeline'",
        )
        .await;
    for at in places(&place) {
        let (state, said) = match at["projection"].as_str().unwrap() {
            "metrics" => ("outdated", ""),
            "timeline" => ("newer", "a newer release made these tables, in version 2"),
            _ => ("running", ""),
        };
        assert_eq!(at["state"], state, "{at}");
        let error = at["last_error"].as_str().unwrap_or_default();
        assert!(
            error.contains(said) && error.is_empty() == said.is_empty(),
            "{at}"
        );
    }
}

async fn tables_are_rebuilt_without_a_server(place: Place) {
    let place = recorded(place);

    let rebuilt = place.json(&["projections", "rebuild", "timeline", "--json"]);

    let shown = &rebuilt[0];
    assert_eq!(rebuilt.as_array().unwrap().len(), 1);
    assert_eq!(shown["projection"], "timeline");
    assert_eq!(shown["state"], "done");
    assert_eq!(shown["partition"], Value::Null);
    assert_eq!(
        (&shown["done"], &shown["total"]),
        (&json!(EVENTS), &json!(EVENTS))
    );
    assert_eq!(shown["seconds_left"], 0);
    assert_eq!(shown["error"], Value::Null);
    for at in places(&place) {
        let lag = at["lag_events"].as_u64().unwrap();
        assert!(at["projection"] != "timeline" || lag == 0, "{at}");
    }

    // All of them, once more, with equal tables to compare with.
    place.done(&["projections", "rebuild", "all"]);
    let said = place.done(&["projections", "rebuild", "all"]);
    for name in NAMES {
        let start = format!("{name}: rebuilt from {EVENTS} events in ");
        let line = said.lines().find(|line| line.starts_with(&start));
        assert!(
            line.unwrap().ends_with("equal to the tables it replaced"),
            "{said}"
        );
    }
    let tenants = place.json(&["tenants", "list", "--json"]);
    let number = tenants[0]["partition"].to_string();
    let arguments = [
        "projections",
        "rebuild",
        "metrics",
        "--partition",
        &number,
        "--json",
    ];
    let alone = place.json(&arguments);
    assert_eq!(alone[0]["partition"], tenants[0]["partition"]);
    assert_eq!(alone[0]["checksum_equal"], true);

    let none = place.run(&["projections", "rebuild", "metrics", "--partition", "8"]);
    assert_eq!(none.code(), 2, "{none:?}");
    assert!(none.stderr.contains("from 0 to 7"), "{none:?}");
    for arguments in [
        &["rebuild", "orders"][..],
        &["rebuild", "metrics", "orders"],
    ] {
        let unknown = place.run(&[&["projections"], arguments].concat());
        assert_eq!(unknown.code(), 2, "{unknown:?}");
        assert!(
            NAMES.iter().all(|name| unknown.stderr.contains(name)),
            "{unknown:?}"
        );
    }
    let nameless = place.run(&["projections", "rebuild"]);
    assert_eq!(nameless.code(), 2, "{nameless:?}");
}

async fn tables_are_rebuilt_beside_a_server(place: Place) {
    let place = recorded(place);
    let service = place.serve();
    until("the tables have everything", || {
        (lag(&place) == 0).then_some(())
    });

    let rebuilt = place.json(&["projections", "rebuild", "all", "--json"]);

    for rebuild in rebuilt.as_array().unwrap() {
        assert_eq!(rebuild["state"], "done", "{rebuild}");
        assert_eq!(rebuild["checksum_equal"], true, "{rebuild}");
    }
    assert_eq!(rebuilt.as_array().unwrap().len(), NAMES.len());
    let id = json!({ "type": "request", "workflow_id": "w", "subscriber": { "id": "ada" } });
    let more = place.run_with(&format!("{id}\n"), &["import", "-", "--tenant", "acme"]);
    assert_eq!(more.code(), 0, "{more:?}");
    until("the new tables are followed", || {
        (lag(&place) == 0).then_some(())
    });
    assert_eq!(service.stop().code(), 0);
}

async fn a_rebuild_that_fails_says_why(place: Place) {
    let place = recorded(place);
    let unprotected = if place.path("data/ledger.db").exists() {
        "DROP TRIGGER events_are_not_updated"
    } else {
        "ALTER TABLE events DISABLE TRIGGER ALL"
    };
    place.sql(unprotected).await;
    place
        .sql("UPDATE events SET schema_version = 99 WHERE position = 5")
        .await;
    let before = places(&place);

    let ran = place.run(&["projections", "rebuild", "notifications", "metrics"]);

    assert_eq!(ran.code(), 1, "{ran:?}");
    for name in ["notifications", "metrics"] {
        let failed = format!("{name}: failed: the event at position 5 can't be read");
        assert!(ran.stdout.contains(&failed), "{ran:?}");
    }
    assert_eq!(places(&place), before);
    place
        .sql("UPDATE events SET schema_version = 1 WHERE position = 5")
        .await;
    place.done(&["projections", "rebuild", "notifications", "metrics"]);
}

async fn what_runs_is_cancelled(place: Place) {
    let place = recorded(place);
    let none = place.done(&["projections", "rebuild", "metrics", "--cancel"]);
    assert_eq!(none, "No rebuild was running.\n");
    place.done(&["projections", "rebuild", "metrics"]);
    // As if somebody were at it, for a while.
    let later = 9_000_000_000_000_000_i64;
    let owner = "UPDATE projection_rebuilds SET state = 'running', owner = rebuild_id";
    place.sql(&format!("{owner}, lease_until = {later}")).await;

    let cancelled = place.json(&["projections", "rebuild", "metrics", "--cancel", "--json"]);

    assert_eq!(cancelled[0]["state"], "cancelled", "{cancelled}");
    let said = place.done(&["projections", "rebuild", "metrics", "--cancel"]);
    assert!(said.starts_with("metrics: cancelled"), "{said}");
    let again = place.json(&["projections", "rebuild", "metrics", "--json"]);
    assert_eq!(again[0]["state"], "done", "{again}");
    assert_ne!(again[0]["rebuild_id"], cancelled[0]["rebuild_id"]);
    let both = place.run(&[
        "projections",
        "rebuild",
        "metrics",
        "--cancel",
        "--partition",
        "1",
    ]);
    assert_eq!(both.code(), 2, "{both:?}");
}

async fn what_runs_is_followed_beside_what_begins(place: Place) {
    let place = recorded(place);
    for (state, code) in [("done", 0), ("cancelled", 1), ("failed", 1)] {
        let before = place.json(&["projections", "rebuild", "all", "--json"]);
        let before = by_name(&before);
        assert_eq!(before.len(), NAMES.len());
        // As if somebody were at one of them, for a while.
        let runs = "UPDATE projection_rebuilds SET state = 'running', owner = rebuild_id,
            lease_until = 9000000000000000 WHERE projection = 'timeline'";
        place.sql(runs).await;

        let mut child = place
            .command(&["projections", "rebuild", "all", "--json"])
            .spawn()
            .unwrap();
        // Its end comes after the others have begun.
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("A rebuild of timeline is running") {
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "{said}");
        }
        let ends = format!(
            "UPDATE projection_rebuilds SET state = '{state}', owner = NULL
            WHERE projection = 'timeline'"
        );
        place.sql(&ends).await;
        let telling = std::thread::spawn(move || {
            let _ = stderr.read_to_string(&mut said);
            said
        });
        let ran = Ran::from(child.wait_with_output().unwrap());
        let said = telling.join().unwrap();

        assert_eq!(ran.code(), code, "{state}: {ran:?} {said}");
        let after: Value = serde_json::from_str(&ran.stdout).unwrap();
        let after = by_name(&after);
        assert_eq!(after.len(), NAMES.len(), "{ran:?}");
        for name in NAMES {
            let (was, is) = (&before[name], &after[name]);
            if name == "timeline" {
                assert_eq!(is["rebuild_id"], was["rebuild_id"]);
                assert_eq!(is["state"], state);
            } else {
                assert_ne!(
                    is["rebuild_id"], was["rebuild_id"],
                    "{name} was not rebuilt"
                );
                assert_eq!(is["rebuild_id"], after["metrics"]["rebuild_id"], "{name}");
                assert_eq!(is["state"], "done", "{is}");
            }
        }
    }
}

fn by_name(rebuilds: &Value) -> std::collections::BTreeMap<&str, &Value> {
    let rebuilds = rebuilds.as_array().unwrap().iter();
    rebuilds
        .map(|rebuild| (rebuild["projection"].as_str().unwrap(), rebuild))
        .collect()
}
