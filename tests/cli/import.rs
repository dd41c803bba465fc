//! Files of commands.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::place::{Place, Ran, on_both_databases};

on_both_databases!(
    a_file_is_imported_past_its_bad_lines_and_again_without_repeats,
    events_say_that_they_were_imported,
);

const ID: &str = "019353f0-5f5c-7000-8000-5d4f2b7a9c11";

fn request(key: &str) -> String {
    let body = json!({
        "type": "request",
        "workflow_id": "welcome",
        "subscriber": { "id": "ada" },
        "idempotency_key": key,
    });
    body.to_string()
}

fn sent(id: &str) -> String {
    json!({ "type": "sent", "notification_id": id, "occurred_at": "2026-01-01T00:00:00Z" })
        .to_string()
}

fn import(place: &Place, lines: &[String]) -> (Ran, Value) {
    std::fs::write(place.path("file.ndjson"), lines.join("\n")).unwrap();
    let ran = place.run(&["import", "file.ndjson", "--tenant", "acme", "--json"]);
    let summary = serde_json::from_str(&ran.stdout).unwrap();
    (ran, summary)
}

async fn a_file_is_imported_past_its_bad_lines_and_again_without_repeats(place: Place) {
    let place = place.with_tenant();
    let mut first: Value = serde_json::from_str(&request("first")).unwrap();
    first["id"] = json!(ID);
    let lines = [
        first.to_string(),
        String::new(),
        sent(ID),
        "{not json".to_owned(),
        json!({ "type": "request", "colour": "red" }).to_string(),
        sent("019353f0-5f5c-7000-8000-000000000000"),
        request("last"),
    ];

    let (ran, summary) = import(&place, &lines);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert_eq!(summary["lines"], 6);
    assert_eq!(summary["appended"], 3);
    assert_eq!(summary["repeated"], 0);
    assert_eq!(summary["refused"], 3);
    assert_eq!(summary["position"], "0-3");
    let bad: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("line "))
        .collect();
    assert!(bad[0].starts_with("line 4: malformed_json: "), "{bad:#?}");
    assert!(bad[1].starts_with("line 5: invalid: "), "{bad:#?}");
    for fault in [
        "/workflow_id is required",
        "/subscriber is required",
        "/colour",
    ] {
        assert!(bad[1].contains(fault), "{bad:#?}");
    }
    assert!(bad[2].starts_with("line 6: not_found: "), "{bad:#?}");
    assert_eq!(bad.len(), 3);

    let (again, summary) = import(&place, &lines);
    assert_eq!(again.code(), 1, "{again:?}");
    assert_eq!(summary["appended"], 0);
    assert_eq!(summary["repeated"], 3);

    let good = [lines[0].clone(), lines[2].clone(), lines[6].clone()];
    let (ran, summary) = import(&place, &good);
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(summary["repeated"], 3);
    assert_eq!(place.json(&["verify", "--json"])["events"], 3);
}

async fn events_say_that_they_were_imported(place: Place) {
    let place = place.with_tenant();
    let (ran, _) = import(&place, &[request("only")]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let key = place.done(&["keys", "create", "--tenant", "acme"]);
    let service = place.serve();

    let events = reqwest::Client::new()
        .get(service.url("/v1/events"))
        .bearer_auth(key.trim());
    let events: Value = events.send().await.unwrap().json().await.unwrap();

    let event = &events["data"][0];
    assert_eq!(event["type"], "notification.requested");
    assert_eq!(event["source"], "import");
    assert_eq!(event["actor"], json!({ "kind": "operator", "id": "cli" }));
}

#[test]
fn standard_input_may_take_its_time() {
    let place = Place::sqlite()
        .with("LEDGER_BODY_TIMEOUT_MS", "100")
        .with_tenant();
    let mut command = place.command(&["import", "-", "--tenant", "acme"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", request("one")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // Without a line break at the end.
    write!(stdin, "{}", request("two")).unwrap();
    drop(stdin);

    let ran = Ran::from(child.wait_with_output().unwrap());

    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(ran.stdout, "2 lines: 2 appended, 0 repeated, 0 refused\n");
}

#[test]
fn many_lines_keep_their_order() {
    let place = Place::sqlite().with_tenant();
    let mut lines = Vec::new();
    for number in 0..1500 {
        let id = format!("019353f0-5f5c-7000-8000-{number:012x}");
        let mut requested: Value = serde_json::from_str(&request(&id)).unwrap();
        requested["id"] = json!(id);
        lines.extend([requested.to_string(), sent(&id)]);
    }

    let ran = place.run_with(&lines.join("\n"), &["import", "-", "--tenant", "acme"]);

    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(
        ran.stdout,
        "3,000 lines: 3,000 appended, 0 repeated, 0 refused\n"
    );
    assert_eq!(place.json(&["verify", "--json"])["events"], 3000);
}

#[test]
fn a_signal_stops_it_and_says_how_far_it_came() {
    let place = Place::sqlite().with_tenant();
    let mut child = place
        .command(&["import", "-", "--tenant", "acme"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", request("one")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );

    let ran = Ran::from(child.wait_with_output().unwrap());

    drop(stdin);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("after line 1"), "{ran:?}");
    assert_eq!(ran.stdout, "1 line: 1 appended, 0 repeated, 0 refused\n");
}

#[test]
fn what_cannot_be_imported_is_named() {
    let place = Place::sqlite().with_tenant();

    let nothing = place.run(&["import", "nothing.ndjson", "--tenant", "acme"]);
    assert_eq!(nothing.code(), 1, "{nothing:?}");
    assert!(
        nothing.stderr.contains("`nothing.ndjson` can't be read"),
        "{nothing:?}"
    );
    let folder = place.run(&["import", "data", "--tenant", "acme"]);
    assert!(folder.stderr.contains("a folder"), "{folder:?}");
    let nobody = place.run(&["import", "-", "--tenant", "nobody"]);
    assert_eq!(nobody.code(), 1, "{nobody:?}");
    assert!(
        nobody.stderr.contains("tenants create nobody"),
        "{nobody:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_database_that_is_busy() {
    use sqlx::{Connection, Executor};

    let place = Place::sqlite().with_tenant();
    let url = format!("sqlite://{}", place.path("data/ledger.db").display());
    let mut hold = sqlx::SqliteConnection::connect(&url).await.unwrap();
    hold.execute("BEGIN IMMEDIATE").await.unwrap();
    let importing = tokio::task::spawn_blocking(move || {
        (
            place.run_with(&request("one"), &["import", "-", "--tenant", "acme"]),
            place,
        )
    });
    // Longer than SQLite waits by itself.
    tokio::time::sleep(Duration::from_secs(7)).await;
    hold.execute("ROLLBACK").await.unwrap();

    let (ran, _place) = importing.await.unwrap();

    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(ran.stdout, "1 line: 1 appended, 0 repeated, 0 refused\n");
}
