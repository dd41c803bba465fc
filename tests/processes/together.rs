//! Several processes on one database, and clients that talk to all of them about the same
//! notifications.

use std::time::Duration;

use serde_json::json;

use crate::audit::audit;
use crate::clients::{Crowd, Plan};
use crate::database::writers_wait;
use crate::dice::Dice;
use crate::http::{Addresses, Answer, Caller};
use crate::place::{Place, timed};

/// Events that are written.
const EVENTS: usize = 1000;
/// Pairs of calls that are sent to both at once.
const PAIRS: usize = 30;
/// How long a frozen process is tried to be caught inside a batch.
const CATCH_ATTEMPTS: usize = 30;
/// How long others may have to wait for a frozen one: the database cuts it off after 10 s.
const CUT_OFF: Duration = Duration::from_secs(20);
/// So that it is caught at any step of what it does.
const A_LITTLE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_sqlite_file_write_one_history() {
    write_together(&Place::sqlite(), Dice::of_test("together on SQLite")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn two_processes_on_one_postgres_database_write_one_history() {
    let place = Place::postgres().await;
    write_together(&place, Dice::of_test("together on PostgreSQL")).await;
}

fn plan() -> Plan {
    Plan {
        clients: 8,
        shared: 3,
        shared_percent: 80,
    }
}

async fn write_together(place: &Place, mut dice: Dice) {
    // Started at the same moment on nothing: one creates the ledger, the other finds it.
    let (one, other) = tokio::join!(place.start(), place.start());
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let addresses = Addresses::of(&[&one, &other]);

    let mut crowd = Crowd::start(&addresses, &tenants, &plan(), &mut dice).await;
    crowd.progress(EVENTS).await;
    let seen = crowd.finish().await;

    audit(place, &addresses, &tenants, &seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_calls_at_once_to_two_processes_one_counts_on_sqlite() {
    call_both_at_once(&Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn of_two_calls_at_once_to_two_processes_one_counts_on_postgres() {
    call_both_at_once(&Place::postgres().await).await;
}

/// Two callers, each with a process of its own.
struct Both {
    here: Caller,
    there: Caller,
}

async fn call_both_at_once(place: &Place) {
    let (one, other) = tokio::join!(place.start(), place.start());
    let tenant = place.tenant("a", 0);
    let here = Caller::new(&Addresses::of(&[&one]), &tenant);
    let both = Both {
        there: here.at(&other),
        here,
    };
    let id = "00000000-0000-4000-8000-000000000001";
    let body = json!({ "id": id, "workflow_id": "w", "subscriber": { "id": "s" } }).to_string();

    let answers = both.post("/v1/notifications", &[], &body).await;
    assert_one_of_each(
        &answers,
        |answer| answer.status == 201,
        |answer| answer.status == 409 && answer.body["code"] == "already_exists",
    );
    for number in 0..PAIRS {
        both.report(id, number, 1 + number).await;
    }

    let log = both.here.log().await;
    assert_eq!(log.len(), 1 + PAIRS);
    assert_eq!(both.there.log().await, log);
    place.verify();
}

impl Both {
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> [Answer; 2] {
        let (here, there) = tokio::join!(
            self.here.post(path, headers, body),
            self.there.post(path, headers, body)
        );
        [here, there]
    }

    /// The same fact, told to both. One of the tellings must lose: by its idempotency key, by
    /// what it says, or by the version it expects.
    async fn report(&self, id: &str, number: usize, version: usize) {
        let path = format!("/v1/notifications/{id}/delivered");
        let message = format!("m-{number}");
        let body = json!({ "message": { "provider_message_id": message } }).to_string();
        let expected = format!("\"{version}\"");
        let is_first = |answer: &Answer| {
            answer.status == 200
                && answer.body.get("deduplicated").is_none()
                && answer.header("Idempotent-Replayed").is_none()
        };
        match number % 3 {
            0 => {
                let answers = self
                    .post(&path, &[("Idempotency-Key", &message)], &body)
                    .await;
                assert_one_of_each(&answers, is_first, |answer| {
                    answer.status == 200 && answer.header("Idempotent-Replayed") == Some("true")
                });
                assert_eq!(answers[0].body, answers[1].body);
            }
            1 => {
                let answers = self.post(&path, &[], &body).await;
                assert_one_of_each(&answers, is_first, |answer| {
                    answer.status == 200 && answer.body["deduplicated"] == true
                });
            }
            _ => {
                let answers = self.post(&path, &[("If-Match", &expected)], &body).await;
                assert_one_of_each(&answers, is_first, |answer| {
                    answer.status == 412 && answer.body["code"] == "version_mismatch"
                });
            }
        }
        for reader in [&self.here, &self.there] {
            let read = reader.get(&format!("/v1/notifications/{id}")).await;
            assert_eq!(read.body["version"], version + 1, "{read:?}");
        }
    }
}

fn assert_one_of_each(
    answers: &[Answer; 2],
    one: impl Fn(&Answer) -> bool,
    other: impl Fn(&Answer) -> bool,
) {
    let [first, second] = answers;
    let fits = (one(first) && other(second)) || (other(first) && one(second));
    assert!(fits, "{answers:?}");
}

/// A process that hangs while it holds the heads, and later goes on as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_frozen_process_neither_stops_the_others_nor_harms_them_when_it_thaws() {
    let mut dice = Dice::of_test("frozen");
    let place = Place::postgres().await;
    let (one, other) = tokio::join!(place.start(), place.start());
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let addresses = Addresses::of(&[&one, &other]);
    let mut crowd = Crowd::start(&addresses, &tenants, &plan(), &mut dice).await;

    let mut attempts = 0;
    loop {
        crowd.progress(20).await;
        tokio::time::sleep(dice.roll_time(A_LITTLE)).await;
        one.freeze();
        if writers_wait(&place).await {
            break;
        }
        one.thaw();
        attempts += 1;
        assert!(
            attempts < CATCH_ATTEMPTS,
            "it was never caught inside a batch"
        );
    }
    addresses.change(&[&other]);
    let ((), took) = timed(crowd.progress(EVENTS / 2)).await;
    assert!(took < CUT_OFF, "the others waited {took:?}");
    one.thaw();
    addresses.change(&[&one, &other]);
    crowd.progress(EVENTS / 2).await;
    let seen = crowd.finish().await;

    audit(&place, &addresses, &tenants, &seen).await;
    eprintln!("caught after {attempts} attempts; the others went on after at most {took:?}");
}
