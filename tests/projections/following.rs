//! How soon the tables have what was appended, and whoever waits for it is told.

use std::time::{Duration, Instant};

use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::projections::Projection;

use crate::client::sent;
use crate::process::{PATIENCE, Process};
use crate::support::{Place, on_each_database, on_postgres};

on_each_database!("multi_thread":
    what_this_process_appends_is_there_at_once,
    what_another_process_appends_is_there_within_seconds,
    what_another_process_projects_is_waited_for,
    who_does_not_want_to_wait_does_not,
);

/// At least half of the time. Polls alone take a second, or half of one on average.
const AT_ONCE: Duration = Duration::from_millis(250);
/// Two polls one after the other, on a busy machine.
const WITHIN_SECONDS: Duration = Duration::from_secs(4);
const APPENDS: i64 = 9;

/// How long it took from each of some acknowledgements until one process saw it in its tables.
async fn lags(writer: &Process, reader: &Process, appends: i64) -> Vec<Duration> {
    let client = &writer.client;
    let stream = client.requested().await;
    let mut lags = Vec::new();
    for number in 0..appends {
        let done = client
            .tell(stream, sent(&format!("sg-{number}")))
            .await
            .unwrap();
        let started = Instant::now();
        for projection in Projection::ALL {
            let waiting =
                reader
                    .projections
                    .wait_for(projection, Partition(0), done.tip.position, PATIENCE);
            assert!(waiting.await.unwrap(), "{projection:?}");
        }
        lags.push(started.elapsed());
    }
    lags.sort_unstable();
    lags
}

fn assert_at_once(lags: &[Duration]) {
    assert!(lags[lags.len() / 2] < AT_ONCE, "{lags:?}");
    assert!(lags[lags.len() - 1] < WITHIN_SECONDS, "{lags:?}");
}

async fn what_this_process_appends_is_there_at_once(place: &Place) {
    let process = Process::of(place).await;

    let lags = lags(&process, &process, APPENDS).await;

    assert_at_once(&lags);
    process.stop().await;
}

async fn what_another_process_appends_is_there_within_seconds(place: &Place) {
    let writer = Process::idle(place);
    // Hears of nobody: it polls.
    let reader = Process::idle(place);
    reader.start_deaf().await;

    let lags = lags(&writer, &reader, 2).await;

    assert!(lags[1] < WITHIN_SECONDS, "{lags:?}");
    writer.stop().await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn what_another_process_announces_is_there_at_once() {
    on_postgres(async |place| {
        let writer = Process::idle(place);
        let reader = Process::of(place).await;

        let lags = lags(&writer, &reader, APPENDS).await;

        assert_at_once(&lags);
        writer.stop().await;
        reader.stop().await;
    })
    .await;
}

async fn what_another_process_projects_is_waited_for(place: &Place) {
    let worker = Process::of(place).await;
    let idle = Process::idle(place);

    let lags = lags(&worker, &idle, APPENDS).await;

    assert_at_once(&lags);
    worker.stop().await;
    idle.stop().await;
}

async fn who_does_not_want_to_wait_does_not(place: &Place) {
    let process = Process::idle(place);
    process.projections.store().add_checkpoints().await.unwrap();
    process.client.requested().await;
    for patience in [Duration::ZERO, Duration::from_millis(120)] {
        let started = Instant::now();
        let waiting =
            process
                .projections
                .wait_for(Projection::Metrics, Partition(0), Position(1), patience);
        assert!(!waiting.await.unwrap());
        let took = started.elapsed();
        assert!(
            (patience..patience + Duration::from_secs(2)).contains(&took),
            "{took:?}"
        );
    }
    process.stop().await;
}
