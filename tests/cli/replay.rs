//! `replay`: old events under a new question, into CSV or NDJSON.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notification_ledger::clock::{Clock, System};
use serde_json::{Value, json};

use crate::place::{Place, Ran, on_both_databases, until};

on_both_databases!(
    rows_are_printed_in_both_formats,
    only_rows_of_the_time_asked_for_are_printed,
    what_was_known_then_is_printed,
    another_rule_judges_otherwise,
    what_would_change_is_listed,
    what_comes_in_meanwhile_is_no_difference,
    what_people_read_is_not_touched,
    it_needs_no_master_key_and_runs_beside_a_server,
);

/// Of the notification that was sent, delivered and bounced.
const BOUNCED: &str = "019353f0-5f5c-7000-8000-000000000001";
/// Of the notification that was sent.
const SENT: &str = "019353f0-5f5c-7000-8000-000000000002";
const PROJECTIONS: [&str; 4] = ["notifications", "notification_logs", "timeline", "metrics"];
const LINES: &str = "two\nlines, and \"quotes\"";

type Record = BTreeMap<String, String>;

fn request(id: &str, external_id: &str) -> Value {
    json!({
        "type": "request",
        "id": id,
        "workflow_id": "welcome",
        "external_id": external_id,
        "subscriber": { "id": "ada", "email": "ada@example.test" },
        "metadata": { "note": LINES },
    })
}

fn fact(id: &str, fact: &str, at: &str) -> Value {
    let message = json!({ "channel": "email", "provider_message_id": "=sg-1" });
    let at = format!("2026-03-14T{at}Z");
    json!({ "type": fact, "notification_id": id, "message": message, "occurred_at": at })
}

fn import(place: &Place, commands: &[Value]) {
    let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
    let ran = place.run_with(&lines.join("\n"), &["import", "-", "--tenant", "acme"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
}

/// A ledger with six events, and what time it was after the fifth.
fn recorded(place: Place) -> (Place, String) {
    let place = place.with_tenant();
    import(
        &place,
        &[
            request(BOUNCED, "order-1"),
            fact(BOUNCED, "sent", "09:00:00"),
            fact(BOUNCED, "delivered", "09:05:30"),
        ],
    );
    import(
        &place,
        &[request(SENT, "=1+1"), fact(SENT, "sent", "10:00:00")],
    );
    std::thread::sleep(Duration::from_millis(5));
    let then = System.now().to_string();
    std::thread::sleep(Duration::from_millis(5));
    import(&place, &[fact(BOUNCED, "bounced", "09:10:00")]);
    (place, then)
}

/// The same, with live tables that have all of it.
fn followed(place: Place) -> Place {
    let (place, _) = recorded(place);
    let service = place.serve();
    until("the tables have everything", || {
        let places = place.json(&["projections", "list", "--json"]);
        let places = places.as_array().unwrap();
        places.iter().all(|at| at["lag_events"] == 0).then_some(())
    });
    service.stop();
    place
}

/// A position in the tenant's part of the ledger.
fn position(place: &Place, number: u32) -> String {
    let tenants = place.json(&["tenants", "list", "--json"]);
    format!("{}-{number}", tenants[0]["partition"])
}

fn replay(place: &Place, arguments: &[&str]) -> Ran {
    let ran = place.run(&[&["replay"], arguments, &["--tenant", "acme"]].concat());
    assert_eq!(ran.code(), 0, "{arguments:?}: {ran:?}");
    ran
}

/// The records of a CSV file by column, and its columns.
fn records(csv: &str) -> (Vec<String>, Vec<Record>) {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = csv.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.next_if_eq(&'"').is_some() => field.push('"'),
            ('"', _) => quoted = !quoted,
            (',', false) => record.push(std::mem::take(&mut field)),
            ('\n', false) => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            (character, _) => field.push(character),
        }
    }
    let columns: Vec<String> = records.remove(0);
    let by_column = records.into_iter().map(|record| {
        assert_eq!(record.len(), columns.len(), "{record:?}");
        columns.iter().cloned().zip(record).collect()
    });
    (columns.clone(), by_column.collect())
}

fn csv(place: &Place, arguments: &[&str]) -> Vec<Record> {
    records(&replay(place, arguments).stdout).1
}

fn ndjson(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let ran = replay(place, &[arguments, &["--format", "ndjson"]].concat());
    let lines = ran.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// One column of all records, sorted.
fn each<'a>(records: &'a [Record], column: &str) -> Vec<&'a str> {
    let mut values: Vec<_> = records.iter().map(|one| one[column].as_str()).collect();
    values.sort_unstable();
    values
}

fn status_of(records: &[Record], id: &str) -> String {
    let found = records.iter().find(|one| one["notification_id"] == id);
    found.map_or(String::new(), |found| found["status"].clone())
}

async fn rows_are_printed_in_both_formats(place: Place) {
    let (place, _) = recorded(place);
    for projection in ["notifications", "notification_logs", "timeline", "metrics"] {
        let records = csv(&place, &[projection]);
        let objects = ndjson(&place, &[projection]);
        assert!(!records.is_empty());
        assert_eq!(records.len(), objects.len(), "{projection}");
        for (record, object) in records.iter().zip(&objects) {
            let object = object.as_object().unwrap();
            assert_eq!(object.len(), record.len(), "{projection}");
            for (name, value) in object {
                let shown = match value {
                    Value::Null => String::new(),
                    Value::String(text) if text.starts_with('=') => format!("'{text}"),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                assert_eq!(record[name], shown, "{projection}.{name}");
            }
        }
    }

    let (columns, logs) = records(&replay(&place, &["notification_logs"]).stdout);
    assert_eq!(
        columns[..4],
        ["partition", "tenant_id", "notification_id", "message_key"]
    );
    assert_eq!(each(&logs, "status"), ["bounced", "sent"]);
    assert_eq!(each(&logs, "external_id"), ["'=1+1", "order-1"]);
    let metadata: Value = serde_json::from_str(&logs[0]["metadata"]).unwrap();
    assert_eq!(metadata, json!({ "note": LINES }));
    assert_eq!(
        each(&logs, "occurred_at"),
        ["2026-03-14T09:10:00.000000Z", "2026-03-14T10:00:00.000000Z"]
    );
    let objects = ndjson(&place, &["notification_logs"]);
    assert_eq!(objects[0]["metadata"]["note"], LINES);
    assert_eq!(objects[0]["read_at"], Value::Null);
    assert!(objects[0]["attempts"].is_u64(), "{}", objects[0]);
    // What is sealed is in no row.
    for printed in [&logs[0]["metadata"], &objects[0].to_string()] {
        assert!(!printed.contains("ada@example.test"), "{printed}");
    }
}

async fn only_rows_of_the_time_asked_for_are_printed(place: Place) {
    let (place, _) = recorded(place);
    let types = |from: &str, to: &str| {
        let (from, to) = (format!("2026-03-14T{from}"), format!("2026-03-14T{to}"));
        let range = ["timeline", "--from", &from, "--to", &to];
        let records = csv(&place, &range);
        let lines = ndjson(&place, &range).len();
        assert_eq!(lines, records.len());
        let types = each(&records, "event_type").into_iter();
        types
            .map(|name| name.trim_start_matches("notification.").to_owned())
            .collect::<Vec<_>>()
    };

    // From is inclusive, to is not.
    assert_eq!(types("09:05:30Z", "10:00:00Z"), ["bounced", "delivered"]);
    assert_eq!(
        types("09:05:30.000001Z", "10:00:00.000001Z"),
        ["bounced", "sent"]
    );
    assert_eq!(types("11:00:00+01:00", "10:00:01Z"), ["sent"]);
    assert_eq!(types("10:00:00Z", "10:00:00Z"), [""; 0]);
    // Requests were made now.
    let late = csv(&place, &["notifications", "--from", "2026-03-15T00:00:00Z"]);
    assert_eq!(late.len(), 2);
    let early = csv(&place, &["notifications", "--to", "2026-03-15T00:00:00Z"]);
    assert_eq!(early.len(), 0);
    // Counts are kept by the minute: the one in which the range begins belongs to it.
    let minute = [
        "--from",
        "2026-03-14T09:10:59Z",
        "--to",
        "2026-03-14T09:11:00Z",
    ];
    let counts = csv(&place, &[&["metrics"][..], &minute].concat());
    let minutes: Vec<_> = counts
        .iter()
        .filter(|one| one["resolution"] == "60")
        .collect();
    assert_eq!(minutes.len(), 1, "{counts:?}");
    assert_eq!(minutes[0]["bounced"], "1");
    assert_eq!(minutes[0]["at"], "2026-03-14T09:10:00.000000Z");
}

async fn what_was_known_then_is_printed(place: Place) {
    let (place, then) = recorded(place);
    for (as_of, bounced, sent) in [
        (then.clone(), "delivered", "sent"),
        (System.now().to_string(), "bounced", "sent"),
        (position(&place, 6), "bounced", "sent"),
        (position(&place, 5), "delivered", "sent"),
        (position(&place, 4), "delivered", "requested"),
        (position(&place, 2), "sent", ""),
        (position(&place, 1), "requested", ""),
        (position(&place, 0), "", ""),
        (position(&place, 999), "bounced", "sent"),
        ("2026-03-14T09:10:00Z".to_owned(), "", ""),
    ] {
        let records = csv(&place, &["notifications", "--as-of", &as_of]);
        assert_eq!(status_of(&records, BOUNCED), bounced, "{as_of}");
        assert_eq!(status_of(&records, SENT), sent, "{as_of}");
    }
    let counts = csv(&place, &["metrics", "--as-of", &then]);
    assert!(counts.iter().all(|one| one["bounced"] == "0"), "{counts:?}");
    assert_eq!(csv(&place, &["timeline", "--as-of", &then]).len(), 5);
}

async fn another_rule_judges_otherwise(place: Place) {
    let (place, _) = recorded(place);
    for (rule, status) in [
        ("provider-truth-v1", "bounced"),
        ("first-terminal-wins-v1", "delivered"),
    ] {
        for projection in ["notifications", "notification_logs"] {
            let records = csv(&place, &[projection, "--rule", rule]);
            assert_eq!(status_of(&records, BOUNCED), status, "{projection} {rule}");
            assert_eq!(status_of(&records, SENT), "sent");
        }
        let days = csv(&place, &["metrics", "--rule", rule]);
        let days = days.iter().filter(|one| one["resolution"] == "86400");
        let ended: Vec<_> = days.filter(|one| one[status] == "1").collect();
        assert_eq!(ended.len(), 1, "{rule}");
    }
}

async fn what_would_change_is_listed(place: Place) {
    // However few connections there may be.
    let place = followed(place).with("LEDGER_DATABASE_CONNECTIONS_MAX", "1");
    for projection in ["notifications", "notification_logs", "timeline", "metrics"] {
        let ran = replay(&place, &[projection, "--diff"]);
        assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
        assert!(ran.stdout.starts_with("change,partition,"), "{ran:?}");
        assert!(ran.stderr.contains("0 differences"), "{ran:?}");
    }

    let rule = ["--rule", "first-terminal-wins-v1", "--diff"];
    let arguments = [&["notifications"][..], &rule].concat();
    let changed = csv(&place, &arguments);
    let status = changed
        .iter()
        .find(|one| one["column"] == "status")
        .unwrap();
    assert_eq!(status["change"], "changed");
    assert_eq!(status["notification_id"], BOUNCED);
    assert_eq!(
        (status["live"].as_str(), status["replayed"].as_str()),
        ("bounced", "delivered")
    );
    assert!(changed.iter().all(|one| one["notification_id"] == BOUNCED));
    let objects = ndjson(&place, &arguments);
    assert_eq!(objects.len(), changed.len());
    let objects: Vec<_> = objects
        .iter()
        .filter(|one| one["column"] == "status")
        .collect();
    assert_eq!(objects[0]["replayed"], "delivered");
    let ran = replay(&place, &arguments);
    assert!(ran.stderr.contains("1 differences"), "{ran:?}");

    // What was not there yet, and what is there no more.
    let early = position(&place, 3);
    let removed = csv(&place, &["notifications", "--as-of", &early, "--diff"]);
    let gone: Vec<_> = removed
        .iter()
        .filter(|one| one["change"] == "removed")
        .collect();
    assert_eq!(gone.len(), 1, "{removed:?}");
    assert_eq!(gone[0]["notification_id"], SENT);
    let delete = "DELETE FROM timeline WHERE event_type = 'notification.bounced'";
    place.sql(delete).await;
    let added = csv(&place, &["timeline", "--diff"]);
    assert_eq!(each(&added, "change"), ["added"]);
    assert_eq!(added[0]["position"], "6");
    // Of counts, how many.
    place
        .sql("DELETE FROM metrics WHERE bounced > 0 AND resolution = 60")
        .await;
    let counts = csv(&place, &["metrics", "--diff"]);
    assert_eq!(each(&counts, "change"), ["added"], "{counts:?}");
    assert_eq!(counts[0]["at"], "2026-03-14T09:10:00.000000Z");
    let values = ["column", "live", "replayed"].map(|name| counts[0][name].as_str());
    assert_eq!(values, ["bounced", "", "1"]);
    let early = position(&place, 5);
    let gone = csv(&place, &["metrics", "--as-of", &early, "--diff"]);
    let fewer = csv(
        &place,
        &["metrics", "--as-of", &position(&place, 4), "--diff"],
    );
    let sent = |records: &[Record]| {
        let mut removed = records.iter().filter(|one| one["change"] == "removed");
        removed.any(|one| {
            let values = ["at", "column", "live", "replayed"].map(|name| one[name].as_str());
            values == ["2026-03-14T10:00:00.000000Z", "sent", "1", ""]
        })
    };
    assert!(!sent(&gone), "{gone:?}");
    assert!(sent(&fewer), "{fewer:?}");
    // Outside of the range nothing is compared.
    let before = csv(
        &place,
        &["timeline", "--diff", "--to", "2026-03-14T09:10:00Z"],
    );
    assert_eq!(before.len(), 0, "{before:?}");
}

async fn what_comes_in_meanwhile_is_no_difference(place: Place) {
    let place = followed(place);
    let unchanged = |said: &str| {
        for projection in PROJECTIONS {
            let ran = replay(&place, &[projection, "--diff"]);
            assert_eq!(ran.stdout.lines().count(), 1, "{projection}: {ran:?}");
            assert!(ran.stderr.contains("0 differences"), "{ran:?}");
            assert_eq!(ran.stderr.contains("lack the last"), !said.is_empty());
            assert!(ran.stderr.contains(said), "{ran:?}");
        }
    };
    // Nobody follows: the live rows don't know this, and there is nothing to compare it with.
    let commands = |round: u32| {
        let ids = (0..20).map(|number| format!("019353f0-5f5c-7000-9000-{round:06x}{number:06x}"));
        let news = ids.flat_map(|id| [request(&id, "o"), fact(&id, "sent", "11:00:00")]);
        let later = format!("12:{:02}:00", round % 60);
        let old = [fact(SENT, "seen", &later), fact(BOUNCED, "read", &later)];
        news.chain(old).collect::<Vec<_>>()
    };
    import(&place, &commands(0));
    unchanged("lack the last 42 events");
    let then = position(&place, 6);
    let ran = replay(&place, &["timeline", "--diff", "--as-of", &then]);
    assert!(!ran.stderr.contains("lack the last"), "{ran:?}");

    // Somebody follows, and others write all the time.
    let service = place.serve();
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                import(&place, &commands(round));
            }
            round
        });
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..3 {
                for projection in PROJECTIONS {
                    let ran = replay(&place, &[projection, "--diff"]);
                    assert_eq!(ran.stdout.lines().count(), 1, "{projection}: {ran:?}");
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let rounds = writing.join().unwrap();
        looked.unwrap();
        rounds
    });
    assert!(rounds > 1, "nobody wrote meanwhile");
    until("the tables have everything", || {
        let places = place.json(&["projections", "list", "--json"]);
        let places = places.as_array().unwrap();
        places.iter().all(|at| at["lag_events"] == 0).then_some(())
    });
    unchanged("");
    service.stop();
}

async fn what_people_read_is_not_touched(place: Place) {
    let place = followed(place);
    let wrong = "UPDATE notifications SET status = 'suppressed' WHERE external_id = 'order-1'";
    place.sql(wrong).await;
    let before = place.json(&["projections", "list", "--json"]);

    for projection in ["notifications", "notification_logs", "timeline", "metrics"] {
        for rule in ["provider-truth-v1", "first-terminal-wins-v1"] {
            replay(&place, &[projection, "--rule", rule]);
            replay(&place, &[projection, "--rule", rule, "--diff"]);
        }
    }

    assert_eq!(place.json(&["projections", "list", "--json"]), before);
    let changed = csv(&place, &["notifications", "--diff"]);
    assert_eq!(each(&changed, "column"), ["status"]);
    assert_eq!(changed[0]["live"], "suppressed");
    for projection in ["notification_logs", "timeline", "metrics"] {
        assert_eq!(csv(&place, &[projection, "--diff"]).len(), 0);
    }
}

async fn it_needs_no_master_key_and_runs_beside_a_server(place: Place) {
    let (place, _) = recorded(place);
    let service = place.serve();
    let place = place.without("LEDGER_MASTER_KEY");
    if let Ok(key) = std::fs::read(place.path("data/ledger.db.key")) {
        assert!(!key.is_empty());
        std::fs::remove_file(place.path("data/ledger.db.key")).unwrap();
    }

    let records = csv(&place, &["notifications"]);

    assert_eq!(each(&records, "status"), ["bounced", "sent"]);
    assert_eq!(service.stop().code(), 0);
}

#[test]
fn a_file_appears_when_it_is_complete() {
    let (place, _) = recorded(Place::sqlite());
    let file = place.path("logs.csv");
    let shown = replay(&place, &["notification_logs"]).stdout;

    let ran = replay(&place, &["notification_logs", "--out", "logs.csv"]);
    assert_eq!(ran.stdout, "");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), shown);
    // In place of what was there.
    replay(&place, &["timeline", "--out", "logs.csv"]);
    let timeline = std::fs::read_to_string(&file).unwrap();
    assert_eq!(timeline.lines().count(), 7);

    let nowhere = place.run(&[
        "replay",
        "timeline",
        "--tenant",
        "acme",
        "--out",
        "no/where.csv",
    ]);
    assert_eq!(nowhere.code(), 1, "{nowhere:?}");
    assert!(nowhere.stderr.contains("no/where.csv"), "{nowhere:?}");
}

#[test]
fn a_reader_who_leaves_ends_it_without_a_word() {
    let (place, _) = recorded(Place::sqlite());
    for arguments in [
        &["timeline"][..],
        &["timeline", "--format", "ndjson"],
        &["metrics"],
        &["timeline", "--diff"],
    ] {
        let arguments = [&["replay"], arguments, &["--tenant", "acme"]].concat();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = place.command(&arguments);
        command.stdout(writer);

        let ran = Ran::of(command);

        // What a shell shows of others who write into a closed pipe.
        assert_eq!(ran.code(), 128 + 13, "{arguments:?}: {ran:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
    }
    // A full disk is no reader who left.
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = place.command(&["replay", "timeline", "--tenant", "acme"]);
    command.stdout(full.unwrap());
    let ran = Ran::from(command.spawn().unwrap().wait_with_output().unwrap());
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("could not be written"), "{ran:?}");
}

#[test]
fn what_is_no_file_is_written_to_and_stays() {
    use std::os::unix::fs::FileTypeExt;

    let (place, _) = recorded(Place::sqlite());
    let shown = replay(&place, &["timeline"]).stdout;
    let pipe = place.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::symlink("pipe", place.path("link")).unwrap();
    for name in ["pipe", "link"] {
        // Ends by itself, even if nobody ever writes.
        let reader = Command::new("timeout")
            .args(["20", "cat"])
            .arg(&pipe)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();

        replay(&place, &["timeline", "--out", name]);

        let read = reader.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(read.stdout).unwrap(), shown, "{name}");
        let kind = std::fs::symlink_metadata(&pipe).unwrap().file_type();
        assert!(kind.is_fifo(), "{kind:?}");
        assert!(place.path("link").is_symlink());
    }
    std::fs::create_dir(place.path("folder")).unwrap();
    let ran = place.run(&["replay", "timeline", "--tenant", "acme", "--out", "folder"]);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("`folder` can't be written"), "{ran:?}");
    assert!(place.path("folder").is_dir());
}

#[test]
fn a_link_stays_and_what_it_points_to_is_replaced() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let (place, _) = recorded(Place::sqlite());
    let shown = replay(&place, &["timeline"]).stdout;
    std::fs::create_dir(place.path("there")).unwrap();
    let target = place.path("there/logs.csv");
    std::fs::write(&target, "as it was").unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&target, private).unwrap();
    symlink("there/logs.csv", place.path("logs.csv")).unwrap();
    // What is there yet, and what is not, through two links.
    symlink("there/new.csv", place.path("new.csv")).unwrap();
    symlink("new.csv", place.path("newer.csv")).unwrap();
    // Somebody else's.
    std::fs::write(place.path("logs.csv.part"), "mine").unwrap();
    std::fs::write(place.path("there/logs.csv.part"), "mine").unwrap();

    replay(&place, &["timeline", "--out", "logs.csv"]);
    replay(&place, &["timeline", "--out", "newer.csv"]);

    for link in ["logs.csv", "new.csv", "newer.csv"] {
        assert!(place.path(link).is_symlink(), "{link}");
        let through = std::fs::read_to_string(place.path(link)).unwrap();
        assert_eq!(through, shown, "{link}");
    }
    let mode = std::fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for part in ["logs.csv.part", "there/logs.csv.part"] {
        assert_eq!(std::fs::read_to_string(place.path(part)).unwrap(), "mine");
    }
    let names = std::fs::read_dir(place.path("there")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["logs.csv", "logs.csv.part", "new.csv"]);
    // A link to itself leads nowhere.
    symlink("round.csv", place.path("round.csv")).unwrap();
    let ran = place.run(&[
        "replay",
        "timeline",
        "--tenant",
        "acme",
        "--out",
        "round.csv",
    ]);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("round.csv"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_leaves_the_old_file_and_no_other() {
    let (place, _) = recorded(Place::sqlite());
    let file = place.path("logs.csv");
    std::fs::write(&file, "as it was").unwrap();
    place
        .sql(
            "DROP TRIGGER events_are_not_updated;
            UPDATE events SET schema_version = 99 WHERE position = 3",
        )
        .await;
    let files = || {
        let names = std::fs::read_dir(place.path("")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let before = files();

    for projection in ["notifications", "metrics"] {
        let arguments = [
            "replay", projection, "--tenant", "acme", "--out", "logs.csv",
        ];
        let ran = place.run(&arguments);
        assert_eq!(ran.code(), 1, "{ran:?}");
        assert!(ran.stderr.contains("position 3"), "{ran:?}");
        assert!(ran.stderr.contains("schema version 99"), "{ran:?}");
    }

    assert_eq!(std::fs::read_to_string(&file).unwrap(), "as it was");
    assert_eq!(files(), before);
}

#[test]
fn what_can_not_be_meant_is_refused_with_what_can() {
    let (place, _) = recorded(Place::sqlite());
    let here = position(&place, 1);
    let (number, _) = here.split_once('-').unwrap();
    let elsewhere = format!("{}-1", (number.parse::<u16>().unwrap() + 1) % 8);
    let later = tomorrow_at_this_time();
    let names = ["notifications", "notification_logs", "timeline", "metrics"];
    for (arguments, words) in [
        (&["orders", "--tenant", "acme"][..], &names[..]),
        (
            &["timeline", "--tenant", "acme", "--rule", "coin-toss-v1"],
            &["provider-truth-v1", "first-terminal-wins-v1"],
        ),
        (
            &["timeline", "--tenant", "acme", "--format", "xml"],
            &["csv", "ndjson"],
        ),
        (&["timeline"], &["--tenant"]),
        (&["timeline", "--tenant", "No Slug"], &["No Slug"]),
        (
            &["timeline", "--tenant", "acme", "--as-of", &later],
            &["--as-of lies in the future"],
        ),
        (
            &["timeline", "--tenant", "acme", "--as-of", &elsewhere],
            &["another part of the ledger"],
        ),
        (
            &["timeline", "--tenant", "acme", "--as-of", "yesterday"],
            &["2026-03-14T09:30:00Z", "3-1042"],
        ),
        (
            &[
                "timeline",
                "--tenant",
                "acme",
                "--from",
                "2026-03-14T09:00:01Z",
                "--to",
                "2026-03-14T09:00:00Z",
            ],
            &["--from is later than --to"],
        ),
        (
            &["timeline", "--tenant", "acme", "--from", "monday"],
            &["--from", "monday"],
        ),
        (
            &[
                "timeline",
                "--tenant",
                "acme",
                "--to",
                "2026-13-01T00:00:00Z",
            ],
            &["--to"],
        ),
        (&["timeline", "--tenant", "acme", "--colour"], &["--colour"]),
    ] {
        let ran = place.run(&[&["replay"], arguments].concat());
        assert_eq!(ran.code(), 2, "{arguments:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{arguments:?}: {ran:?}");
        }
    }

    let nobody = place.run(&["replay", "timeline", "--tenant", "nobody"]);
    assert_eq!(nobody.code(), 1, "{nobody:?}");
    assert!(
        nobody.stderr.contains("there is no tenant `nobody`"),
        "{nobody:?}"
    );
    assert_eq!(nobody.stdout, "");
}

/// A day from now.
fn tomorrow_at_this_time() -> String {
    let day = 24 * 60 * 60 * 1_000_000;
    let tomorrow = System.now().as_micros() + day;
    let tomorrow = notification_ledger::domain::time::Timestamp::from_micros(tomorrow);
    tomorrow.unwrap().to_string()
}

#[test]
fn without_a_ledger_none_is_made() {
    let place = Place::sqlite();

    let ran = place.run(&["replay", "timeline", "--tenant", "acme"]);

    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(!place.path("data/ledger.db").exists());
}
