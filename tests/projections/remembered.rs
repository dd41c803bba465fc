//! Streams that a process remembers from its last step: it reads them no more, and they are what a
//! read would give.

use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::projections::Projection;
use notification_ledger::projections::recent::Recent;
use notification_ledger::projections::step::{Hands, Outcome, STEP_EVENTS_MAX, Stepper, Wanted};

use crate::client::sent;
use crate::process::Process;
use crate::support::{Place, on_each_database};
use crate::tables::assert_expected;
use crate::trouble::unprotected;

on_each_database!("current_thread":
    what_is_remembered_is_not_read_again,
    what_others_did_meanwhile_is_read,
    what_one_projection_lacks_is_read,
);

/// How far each projection came in a step, or that it stopped.
async fn step(
    stepper: &Stepper,
    projections: &[Projection],
    recent: &mut Recent,
) -> Vec<Option<Position>> {
    let wanted: Vec<Wanted> = projections
        .iter()
        .map(|projection| Wanted {
            projection: *projection,
            events_max: STEP_EVENTS_MAX,
        })
        .collect();
    let steps = stepper
        .next_step(Partition(0), &wanted, Hands::One, recent)
        .await;
    steps
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|step| match step.outcome {
            Outcome::Moved { to, .. } => Some(to.position),
            Outcome::Stopped { .. } => None,
            outcome => panic!("{outcome:?}"),
        })
        .collect()
}

async fn what_is_remembered_is_not_read_again(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let mut recent = Recent::default();
    let stream = process.client.requested().await;
    step(&stepper, &Projection::ALL, &mut recent).await;
    unprotected(place).await;
    let unreadable = "UPDATE events SET schema_version = 99 WHERE partition = 0 AND position = 1";
    place.sql(unreadable).await.unwrap();

    process.client.tell(stream, sent("sg-1")).await.unwrap();
    let remembered = step(&stepper, &Projection::ALL, &mut recent).await;
    process.client.tell(stream, sent("sg-2")).await.unwrap();
    let mut forgotten = step(&stepper, &Projection::ALL, &mut Recent::default()).await;

    assert_eq!(remembered, [Some(Position(2)); 4]);
    forgotten.sort_unstable();
    assert_eq!(forgotten, [None, None, None, Some(Position(3))]);
    let readable = "UPDATE events SET schema_version = 1 WHERE partition = 0 AND position = 1";
    place.sql(readable).await.unwrap();
    process.start().await;
    process.settle().await;
    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}

async fn what_others_did_meanwhile_is_read(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let mut recents = [Recent::default(), Recent::default()];
    let stream = process.client.requested().await;

    for (number, turn) in [0, 1, 1, 0, 1, 0, 0].into_iter().enumerate() {
        let report = sent(&format!("sg-{number}"));
        process.client.tell(stream, report).await.unwrap();
        let position = Position(i64::try_from(number).unwrap() + 2);
        let moved = step(&stepper, &Projection::ALL, &mut recents[turn]).await;
        assert_eq!(moved, [Some(position); 4]);
        assert_expected(&stepper.store, place.storage.as_ref()).await;
    }
    process.stop().await;
}

async fn what_one_projection_lacks_is_read(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let mut recent = Recent::default();
    let stream = process.client.requested().await;
    step(&stepper, &Projection::ALL, &mut recent).await;

    let [_, others @ ..] = &Projection::ALL;
    for id in ["sg-1", "sg-2"] {
        process.client.tell(stream, sent(id)).await.unwrap();
        step(&stepper, others, &mut recent).await;
    }
    process.client.tell(stream, sent("sg-3")).await.unwrap();
    let moved = step(&stepper, &Projection::ALL, &mut recent).await;

    assert_eq!(moved, [Some(Position(4)); 4]);
    assert_expected(&stepper.store, place.storage.as_ref()).await;
    process.stop().await;
}
