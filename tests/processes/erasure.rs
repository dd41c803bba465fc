//! Somebody is erased while others write about them, through several processes that get killed.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::http::{Addresses, Answer, Caller, Position};
use crate::place::Place;
use crate::wait::until;

const ROUNDS: usize = 10;
/// Somebody who is killed while erasing gets killed within this.
const A_LITTLE: Duration = Duration::from_millis(120);
/// Through any other process nothing can be read after this.
const EVERYWHERE: Duration = Duration::from_secs(10);
const LENA: &str = "/v1/subscribers/lena";
/// Stands in everything that is private.
const MARKER: &str = "zx81-lena";

fn body() -> String {
    let subscriber = json!({"id": "lena", "email": format!("{MARKER}@example.test")});
    let payload = json!({"greeting": format!("Dear {MARKER}")});
    json!({"workflow_id": "w", "subscriber": subscriber, "payload": payload}).to_string()
}

async fn requested(caller: &Caller, key: &str) -> Answer {
    caller
        .post("/v1/notifications", &[("Idempotency-Key", key)], &body())
        .await
}

/// By the positions of their requests, whether notifications have lost what was sealed.
async fn erased(caller: &Caller) -> BTreeMap<Position, bool> {
    let mut erased = BTreeMap::new();
    for event in caller.log().await {
        if event.event_type == "notification.requested" {
            let is_erased = event.data["erased"] == true;
            assert_eq!(event.data.to_string().contains(MARKER), !is_erased);
            erased.insert(event.position, is_erased);
        }
    }
    erased
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_reaches_every_process_and_every_file_on_sqlite() {
    let place = Place::sqlite().with("LEDGER_LOG_LEVEL", "debug");
    reach_everywhere(&place).await;
    // Neither in the clear nor under the key, which is gone.
    let mut read = 0;
    for file in fs::read_dir(place.folder()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(MARKER));
        read += bytes.len();
    }
    assert!(read > 10_000, "the files were read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn an_erasure_reaches_every_process_on_postgres() {
    reach_everywhere(&Place::postgres().await.with("LEDGER_LOG_LEVEL", "debug")).await;
}

async fn reach_everywhere(place: &Place) {
    let services = tokio::join!(place.start(), place.start());
    place.tenant("a", 0);
    let tenant = place.administrator("a");
    let (here, there) = (
        Caller::new(&Addresses::of(&[&services.0]), &tenant),
        Caller::new(&Addresses::of(&[&services.1]), &tenant),
    );
    let id = requested(&there, "first").await.body["id"].clone();
    let path = format!("/v1/notifications/{}", id.as_str().unwrap());
    assert!(there.get(&path).await.body.to_string().contains(MARKER));

    let first = here.try_delete(LENA).await.unwrap();

    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.body["notifications"], 1);
    assert!(!here.get(&path).await.body.to_string().contains(MARKER));
    let started = Instant::now();
    until("nobody can read it", EVERYWHERE, async || {
        let mut shown = Vec::new();
        for caller in [&here, &there] {
            shown.push(caller.get(&path).await.body.to_string());
            shown.push(requested(caller, "first").await.body.to_string());
        }
        let is_gone = |shown: &String| !shown.contains(MARKER) && shown.contains("\"erased\":true");
        shown.iter().all(is_gone).then_some(())
    })
    .await;
    eprintln!("nobody could read it after {:?}", started.elapsed());
    // Whatever was said through the process that remembered the key is under another.
    for (caller, key) in [(&there, "second"), (&here, "third")] {
        let made = requested(caller, key).await;
        assert_eq!(made.status, 201, "{made:?}");
        let path = format!("/v1/notifications/{}", made.body["id"].as_str().unwrap());
        for reader in [&here, &there] {
            assert!(reader.get(&path).await.body.to_string().contains(MARKER));
        }
    }
    let (one, other) = tokio::join!(here.try_delete(LENA), there.try_delete(LENA));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.status, other.status), (200, 200), "{one:?} {other:?}");
    assert_eq!(one.body, other.body);
    assert_eq!(one.body["notifications"], 3);
    assert_ne!(one.body["erased_at"], first.body["erased_at"]);
    // Whoever was asked knows it at once.
    for caller in [&here, &there] {
        assert!(erased(caller).await.values().all(|is_erased| *is_erased));
    }
    for service in [&services.0, &services.1] {
        let log = service.log();
        assert!(!log.contains(MARKER) && !log.contains("lena"), "{log}");
    }
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_erasing_it_is_done_or_not_on_sqlite() {
    kill_while_erasing(&Place::sqlite(), Dice::of_test("erasing on SQLite")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn killed_while_erasing_it_is_done_or_not_on_postgres() {
    let place = Place::postgres().await;
    kill_while_erasing(&place, Dice::of_test("erasing on PostgreSQL")).await;
}

async fn kill_while_erasing(place: &Place, mut dice: Dice) {
    let (mut erasing, writing) = tokio::join!(place.start(), place.start());
    place.tenant("a", 0);
    let tenant = place.administrator("a");
    let writer = Caller::new(&Addresses::of(&[&writing]), &tenant);
    let stop = Arc::new(AtomicBool::new(false));
    let mut crowd = JoinSet::new();
    for number in 0..3 {
        crowd.spawn(write(writer.clone(), number, Arc::clone(&stop)));
    }
    let (mut interrupted, mut told) = (0, Vec::new());
    for round in 0..ROUNDS {
        requested(&writer, &format!("round {round}")).await;
        let caller = Caller::new(&Addresses::of(&[&erasing]), &tenant);
        let mut call = JoinSet::new();
        call.spawn(async move { caller.try_delete(LENA).await });
        tokio::time::sleep(dice.roll_time(A_LITTLE)).await;
        erasing.kill();
        match call.join_next().await.unwrap().unwrap() {
            Ok(answer) => told.push(answer),
            Err(_) => interrupted += 1,
        }
        erasing = place.start().await;
    }
    stop.store(true, Ordering::Relaxed);
    crowd.join_all().await;

    // What was answered stays, and what was not is whole or not there at all.
    let reader = Caller::new(&Addresses::of(&[&erasing]), &tenant);
    let last = check(&reader).await;
    let final_answer = reader.try_delete(LENA).await.unwrap();
    assert_eq!(final_answer.status, 200, "{final_answer:?}");
    let after = check(&reader).await;
    assert!(after >= last);
    assert!(erased(&reader).await.values().all(|is_erased| *is_erased));
    let repeat = reader.try_delete(LENA).await.unwrap();
    assert_eq!(repeat.body, final_answer.body);
    let erasures: Vec<Value> = erasures(&reader).await;
    for answer in told.iter().chain([&final_answer]) {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(erasures.contains(&answer.body), "{answer:?} {erasures:?}");
    }
    eprintln!(
        "{interrupted} of {ROUNDS} were interrupted; {} erasures are on record",
        erasures.len()
    );
    place.verify();
}

/// Requests one after the other, until it is told to stop.
async fn write(caller: Caller, number: usize, stop: Arc<AtomicBool>) {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let made = requested(&caller, &format!("{number}-{count}")).await;
        assert_eq!(made.status, 201, "{made:?}");
        count += 1;
    }
}

/// Everything before the last erasure is erased, and nothing after it. Says where that is.
async fn check(caller: &Caller) -> Option<Position> {
    let log = caller.log().await;
    let last = log
        .iter()
        .filter(|event| event.event_type == "subscriber.erased")
        .map(|event| event.position)
        .next_back();
    for (position, is_erased) in erased(caller).await {
        assert_eq!(
            is_erased,
            last.is_some_and(|last| position < last),
            "{position} {last:?}"
        );
    }
    last
}

/// What was answered, as the record has it.
async fn erasures(caller: &Caller) -> Vec<Value> {
    let events = caller
        .get("/v1/events?types=subscriber.erased&limit=200")
        .await;
    let events = events.body["data"].as_array().unwrap().clone();
    let answer = |event: &Value| {
        json!({
            "erased_at": event["occurred_at"],
            "notifications": event["data"]["notifications"],
        })
    };
    events.iter().map(answer).collect()
}
