//! Events that a process has just written: it need not read them, and believes them only while they
//! are in the record.

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
    what_was_written_here_is_not_read,
    what_the_record_has_lost_is_not_projected,
    what_another_process_wrote_in_between_is_read,
);

/// Takes a step with all projections. `None` if there was nothing to do.
async fn step(stepper: &Stepper, recent: &mut Recent) -> Option<Position> {
    let wanted = Projection::ALL.map(|projection| Wanted {
        projection,
        events_max: STEP_EVENTS_MAX,
    });
    let steps = stepper
        .next_step(Partition(0), &wanted, Hands::One, recent)
        .await;
    let reached = steps
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|step| match step.outcome {
            Outcome::Moved { to, .. } => Some(to.position),
            Outcome::UpToDate { .. } => None,
            outcome => panic!("{outcome:?}"),
        });
    let mut reached: Vec<_> = reached.collect();
    reached.dedup();
    assert_eq!(reached.len(), 1, "{reached:?}");
    reached[0]
}

async fn what_was_written_here_is_not_read(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let mut recent = Recent::default();
    process.client.requested().await;
    assert_eq!(step(&stepper, &mut recent).await, Some(Position(1)));

    let stream = process.client.requested().await;
    process.client.tell(stream, sent("sg-1")).await.unwrap();
    unprotected(place).await;
    let unreadable = "UPDATE events SET schema_version = 99 WHERE partition = 0 AND position = 2";
    place.sql(unreadable).await.unwrap();

    assert_eq!(step(&stepper, &mut recent).await, Some(Position(3)));
    let readable = "UPDATE events SET schema_version = 1 WHERE partition = 0 AND position = 2";
    place.sql(readable).await.unwrap();
    assert_expected(&stepper.store, place.storage.as_ref()).await;
    process.stop().await;
}

async fn what_the_record_has_lost_is_not_projected(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let mut recent = Recent::default();
    process.client.requested().await;
    step(&stepper, &mut recent).await;

    // As after a failover to a database that lacks the last commits.
    process.client.requested().await;
    process.client.requested().await;
    unprotected(place).await;
    let lost = "
        DELETE FROM events WHERE partition = 0 AND position > 1;
        UPDATE partition_heads SET position = 1,
            hash = (SELECT hash FROM events WHERE partition = 0 AND position = 1)
        WHERE partition = 0";
    place.sql(lost).await.unwrap();

    assert_eq!(step(&stepper, &mut recent).await, None);
    assert_expected(&stepper.store, place.storage.as_ref()).await;

    // Others go on from there, and so do we.
    let other = Process::idle(place);
    other.client.requested().await;
    process.client.requested().await;
    assert_eq!(step(&stepper, &mut recent).await, Some(Position(3)));
    assert_expected(&stepper.store, place.storage.as_ref()).await;
    other.stop().await;
    process.stop().await;
}

async fn what_another_process_wrote_in_between_is_read(place: &Place) {
    let process = Process::idle(place);
    let other = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let mut recent = Recent::default();

    let stream = process.client.requested().await;
    for (number, who) in [&other, &process, &process, &other, &other, &process]
        .into_iter()
        .enumerate()
    {
        let report = sent(&format!("sg-{number}"));
        who.client.tell(stream, report).await.unwrap();
        if number % 2 == 1 {
            let position = Position(i64::try_from(number).unwrap() + 2);
            let mut reached = None;
            while let Some(further) = step(&stepper, &mut recent).await {
                reached = Some(further);
            }
            assert_eq!(reached, Some(position));
            assert_expected(&stepper.store, place.storage.as_ref()).await;
        }
    }
    other.stop().await;
    process.stop().await;
}
