//! Events so large that few fit into memory at once.

use notification_ledger::domain::ids::StreamId;
use notification_ledger::ledger::record::Partition;
use notification_ledger::projections::Projection;
use notification_ledger::projections::rebuild::State;
use notification_ledger::projections::step::{Outcome, STEP_EVENTS_MAX, Stepper, Wanted};

use crate::client::{Client, sent};
use crate::process::{Process, until};
use crate::support::{Place, on_each_database};
use crate::tables::assert_expected;

on_each_database!("multi_thread":
    a_step_takes_no_more_large_events_than_fit,
    a_step_takes_no_more_large_streams_than_fit,
    large_events_are_rebuilt,
);

const LARGE: usize = 1024 * 1024;
/// Together more than any read takes at once.
const STREAMS: usize = 18;

async fn large(client: &Client) -> Vec<StreamId> {
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let stream = client.requested().await;
        let secret = format!(r#"{{"raw":"{}"}}"#, "x".repeat(LARGE));
        let report = sent(&format!("sg-{number}"));
        client.confide(stream, report, &secret).await.unwrap();
        streams.push(stream);
    }
    streams
}

/// Steps until there is nothing to do. Says how many events each took.
async fn steps(stepper: &Stepper) -> Vec<usize> {
    let wanted = Projection::ALL.map(|projection| Wanted {
        projection,
        events_max: STEP_EVENTS_MAX,
    });
    let mut taken = Vec::new();
    loop {
        let steps = stepper.step(Partition(0), &wanted).await.unwrap();
        let mut events: Vec<usize> = steps
            .unwrap()
            .into_iter()
            .map(|step| match step.outcome {
                Outcome::Moved { events, .. } => events,
                Outcome::UpToDate { .. } => 0,
                outcome => panic!("{outcome:?}"),
            })
            .collect();
        events.dedup();
        assert_eq!(events.len(), 1, "all stand at the same place");
        if events == [0] {
            return taken;
        }
        taken.extend(events);
    }
}

async fn a_step_takes_no_more_large_events_than_fit(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    large(&process.client).await;

    let taken = steps(&stepper).await;

    assert!(taken.len() > 1, "{taken:?}");
    assert_eq!(taken.iter().sum::<usize>(), 2 * STREAMS);
    assert_expected(&stepper.store, place.storage.as_ref()).await;
    process.stop().await;
}

async fn a_step_takes_no_more_large_streams_than_fit(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let streams = large(&process.client).await;
    steps(&stepper).await;
    for stream in &streams {
        process.client.tell(*stream, sent("small")).await.unwrap();
    }

    let taken = steps(&stepper).await;

    assert!(taken.len() > 1, "{taken:?}");
    assert_eq!(taken.iter().sum::<usize>(), STREAMS);
    assert_expected(&stepper.store, place.storage.as_ref()).await;
    process.stop().await;
}

async fn large_events_are_rebuilt(place: &Place) {
    let process = Process::of(place).await;
    large(&process.client).await;
    process.settle().await;

    let projections = &process.projections;
    projections.rebuild(&Projection::ALL, None).await.unwrap();

    until(async || {
        let rebuilds = projections.rebuilds().await.unwrap();
        let done = rebuilds
            .iter()
            .all(|rebuild| rebuild.state == State::Done && rebuild.checksum_equal == Some(true));
        if done { Ok(()) } else { Err(rebuilds) }
    })
    .await;
    assert_expected(projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}
