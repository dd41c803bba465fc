//! The demo: what it prints works, and what it leaves is a ledger like any other.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::place::{Place, Ran};

/// Starts a demo and reads what it says first.
fn introduced(
    place: &Place,
    arguments: &[&str],
) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut command = place.command(&[&["demo"], arguments].concat());
    let mut child = command.env("LEDGER_LISTEN", "127.0.0.1:0").spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("request one yourself") || !text.ends_with("\n\n") {
        let read = stdout.read_line(&mut text).unwrap();
        assert_ne!(
            read,
            0,
            "the demo ended: {text}\n{:?}",
            child.wait_with_output()
        );
    }
    (child, stdout, text)
}

fn between<'a>(text: &'a str, before: &str, after: char) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap();
    rest.split(after).next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_works_and_what_it_leaves_verifies() {
    let place = Place::sqlite();
    let (child, mut stdout, text) = introduced(&place, &["--duration", "4", "--rate", "60"]);
    let key = between(&text, "Bearer ", '\'');
    let client = reqwest::Client::new();
    let get = async |url: &str| -> Value {
        let answer = client.get(url).bearer_auth(key).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{url}");
        answer.json().await.unwrap()
    };

    let curls: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("curl -s "))
        .collect();
    let urls: Vec<_> = curls
        .iter()
        .map(|curl| curl.split(' ').next().unwrap().trim_matches('\''))
        .collect();
    let [log, example, history, request] = urls[..] else {
        panic!("{text}");
    };
    assert_eq!(get(log).await["data"].as_array().unwrap().len(), 5);
    let example = get(example).await;
    assert_eq!(
        example["anomalies"][0]["code"], "retraction_too_late",
        "{example}"
    );
    assert_eq!(get(history).await["data"].as_array().unwrap().len(), 5);
    let body = between(curls[3], "-d '", '\'').to_owned();
    let post = client
        .post(request)
        .bearer_auth(key)
        .header("Content-Type", "application/json");
    assert_eq!(post.body(body).send().await.unwrap().status().as_u16(), 201);

    let mut rest = String::new();
    while stdout.read_line(&mut rest).unwrap() > 0 {}
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code(), 0, "{ran:?}");
    let last = rest.lines().last().unwrap();
    assert!(last.contains("events"), "{rest}");
    assert!(
        last.contains("The data is in data/demo/ledger.db"),
        "{rest}"
    );
    let url = "sqlite://data/demo/ledger.db";
    let checked = place.json(&["verify", "--json", "--database-url", url]);
    assert!(checked["events"].as_u64().unwrap() > 40, "{checked}");
    let tenants = place.json(&["tenants", "list", "--json", "--database-url", url]);
    assert_eq!(tenants[0]["id"], "demo");
}

#[test]
fn a_folder_is_for_one_demo_at_a_time() {
    let place = Place::sqlite();
    let (mut child, _stdout, _) = introduced(&place, &[]);

    let second = place.run(&["demo", "--duration", "1"]);
    assert_eq!(second.code(), 1, "{second:?}");
    assert!(
        second.stderr.contains("another demo is running"),
        "{second:?}"
    );
    let fresh = place.run(&["demo", "--fresh", "--duration", "1"]);
    assert_eq!(fresh.code(), 1, "{fresh:?}");

    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_next_demo_goes_on_unless_it_is_to_begin_afresh() {
    let place = Place::sqlite().with("LEDGER_LISTEN", "127.0.0.1:0");
    let url = "sqlite://data/demo/ledger.db";
    let events = |place: &Place| {
        place.json(&["verify", "--json", "--database-url", url])["events"]
            .as_u64()
            .unwrap()
    };
    place.done(&["demo", "--duration", "2", "--rate", "40"]);
    let first = events(&place);

    place.done(&["demo", "--duration", "1"]);
    assert!(events(&place) > first);
    let keys = place.json(&[
        "keys",
        "list",
        "--tenant",
        "demo",
        "--json",
        "--database-url",
        url,
    ]);
    let valid = keys
        .as_array()
        .unwrap()
        .iter()
        .filter(|key| key["revoked_at"].is_null());
    assert_eq!(valid.count(), 1, "{keys}");

    let said = place.done(&["demo", "--fresh", "--duration", "1", "--rate", "1"]);
    assert!(said.contains("nlop_"), "{said}");
    assert!(events(&place) < first);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn it_keeps_away_from_the_tenants_of_others() {
    let place = Place::postgres().await.with("LEDGER_LISTEN", "127.0.0.1:0");
    let fresh = place.run(&["demo", "--fresh", "--duration", "1"]);
    assert_eq!(fresh.code(), 1, "{fresh:?}");
    assert_eq!(
        place
            .command(&["demo", "--duration", "2"])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .code(),
        Some(0)
    );

    place.done(&["tenants", "create", "acme"]);
    let before = place.json(&["verify", "--json"]);
    let ran = place.run(&["demo", "--duration", "2"]);

    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("a tenant `acme`"), "{ran:?}");
    assert_eq!(place.json(&["verify", "--json"]), before);
}
