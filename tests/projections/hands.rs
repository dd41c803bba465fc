//! Who is behind writes through several connections: each has projections of its own, and whatever
//! becomes of one of them, the tables end as they would have anyway.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::projections::Projection;
use notification_ledger::projections::recent::Recent;
use notification_ledger::projections::step::{Hands, Outcome, STEP_EVENTS_MAX, Stepper, Wanted};
use notification_ledger::projections::store::Turns;
use sqlx::Executor;

use crate::client::{queue, sent};
use crate::process::{Process, head};
use crate::support::{Place, on_each_database, on_postgres};
use crate::tables::{assert_expected, assert_some_expected};

on_each_database!("current_thread":
    any_hands_in_turn_come_to_the_same_tables,
    who_was_far_behind_has_everything,
);

/// More than it takes to connect, less than anybody waits for a connection.
const SHORT: Duration = Duration::from_millis(500);

/// How far each projection came in a step, by name; `None` if it stopped. Who is missing had no turn.
type Came = BTreeMap<&'static str, Option<Position>>;

fn wanted(events_max: i64) -> [Wanted; 4] {
    Projection::ALL.map(|projection| Wanted {
        projection,
        events_max,
    })
}

async fn step(stepper: &Stepper, events_max: i64, hands: Hands, recent: &mut Recent) -> Came {
    let wanted = wanted(events_max);
    let steps = stepper.next_step(Partition(0), &wanted, hands, recent);
    steps
        .await
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|step| {
            let came = match step.outcome {
                Outcome::Moved { to, .. } => Some(to.position),
                Outcome::UpToDate { at } => Some(at.position),
                Outcome::Stopped { .. } => None,
                outcome @ Outcome::OtherVersion { .. } => panic!("{outcome:?}"),
            };
            (step.projection.name(), came)
        })
        .collect()
}

fn all_at(position: i64) -> Came {
    Projection::ALL
        .map(|projection| (projection.name(), Some(Position(position))))
        .into()
}

/// Three notifications with two reports and a queueing each, which take turns: positions 1 to 12.
async fn with_twelve_events(place: &Place) -> (Process, Stepper) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let client = &process.client;
    let streams = [
        client.requested().await,
        client.requested().await,
        client.requested().await,
    ];
    for stream in streams {
        client.tell(stream, queue()).await.unwrap();
    }
    for id in ["sg-1", "sg-2"] {
        for stream in streams {
            client.tell(stream, sent(id)).await.unwrap();
        }
    }
    (process, stepper)
}

/// The same on PostgreSQL, for as long as `body` runs.
async fn on_twelve_events(body: impl AsyncFnOnce(&Place, &Stepper)) {
    on_postgres(async |place| {
        let (process, stepper) = with_twelve_events(place).await;
        body(place, &stepper).await;
        process.stop().await;
    })
    .await;
}

async fn any_hands_in_turn_come_to_the_same_tables(place: &Place) {
    let (process, stepper) = with_twelve_events(place).await;
    let mut recent = Recent::default();

    let orders = [Hands::Three, Hands::One, Hands::Three, Hands::Three];
    for (order, number) in orders.into_iter().zip(1..) {
        let came = step(&stepper, 3, order, &mut recent).await;
        assert_eq!(came, all_at(3 * number));
    }

    assert_expected(&stepper.store, place.storage.as_ref()).await;
    process.stop().await;
}

async fn who_was_far_behind_has_everything(place: &Place) {
    let process = Process::idle(place);
    let at_once = 250;
    let requested = 2 * STEP_EVENTS_MAX + at_once;
    for _ in 0..requested / at_once {
        join_all((0..at_once).map(|_| process.client.requested())).await;
    }
    assert_eq!(head(place.storage.as_ref(), 0).await, Position(requested));

    process.start().await;
    process.settle().await;

    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_somebody_else_is_at_is_left_to_them() {
    on_twelve_events(async |place, stepper| {
        let mut recent = Recent::default();
        let theirs = [Projection::NotificationLogs];
        let turn = stepper.store.turn(Partition(0), &theirs).await;

        let beside = step(stepper, 4, Hands::Three, &mut recent).await;
        turn.unwrap().unwrap().release().await.unwrap();
        let apart = step(stepper, 4, Hands::Three, &mut recent).await;

        let mut others = all_at(4);
        others.remove("notification_logs");
        assert_eq!(beside, others);
        // The others wait, so that they read together again.
        assert_eq!(
            apart,
            Came::from([("notification_logs", Some(Position(4)))])
        );
        let together = step(stepper, 4, Hands::Three, &mut recent).await;
        assert_eq!(together, all_at(8));
        let end = step(stepper, STEP_EVENTS_MAX, Hands::One, &mut recent).await;
        assert_eq!(end, all_at(12));
        assert_expected(&stepper.store, place.storage.as_ref()).await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn nobody_comes_between_before_the_last_hand_is_done() {
    on_twelve_events(async |_, stepper| {
        let shares: Vec<_> = Projection::ALL.iter().map(std::slice::from_ref).collect();
        let turns = stepper.store.turns(Partition(0), &shares).await.unwrap();
        let Turns { each, place } = turns.unwrap();
        for turn in each {
            turn.release().await.unwrap();
        }
        // All rows are free by now.
        for hands in [Hands::One, Hands::Three] {
            let mut recent = Recent::default();
            let wanted = wanted(4);
            let came = stepper.next_step(Partition(0), &wanted, hands, &mut recent);
            assert!(came.await.unwrap().is_none());
        }

        place.unwrap().leave().await;

        let came = step(stepper, 4, Hands::Three, &mut Recent::default()).await;
        assert_eq!(came, all_at(4));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn who_lacks_connections_goes_on_with_the_one_there_is() {
    on_twelve_events(async |_, stepper| {
        let mut taken = Vec::new();
        while let Ok(begun) = tokio::time::timeout(SHORT, stepper.store.begin()).await {
            taken.push(begun.unwrap());
        }
        // One for the step and one for a hand: there is none for the others.
        taken.truncate(taken.len() - 2);

        let begun = Instant::now();
        let came = step(stepper, 4, Hands::Three, &mut Recent::default()).await;

        assert_eq!(came, all_at(4));
        assert!(begun.elapsed() < 5 * SHORT, "{:?}", begun.elapsed());
        drop(taken);
        let came = step(stepper, 4, Hands::Three, &mut Recent::default()).await;
        assert_eq!(came, all_at(8));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn who_loses_one_connection_tells_what_the_others_did() {
    // Whoever waits for the table: nobody else is on this schema's.
    const END_WAITING: &str = "
        SELECT pg_terminate_backend(pid)
        FROM pg_locks
        WHERE relation = 'timeline'::regclass AND NOT granted";
    on_twelve_events(async |place, stepper| {
        let Database::Postgres { pool, .. } = place.database() else {
            unreachable!()
        };
        let mut holder = pool.begin().await.unwrap();
        let lock = "LOCK TABLE timeline IN ACCESS EXCLUSIVE MODE";
        holder.execute(lock).await.unwrap();
        let mut recent = Recent::default();

        let (came, ()) = join(step(stepper, 4, Hands::Three, &mut recent), async {
            while pool.execute(END_WAITING).await.unwrap().rows_affected() == 0 {
                tokio::time::sleep(SHORT / 50).await;
            }
        })
        .await;
        holder.rollback().await.unwrap();

        let mut others = all_at(4);
        others.retain(|name, _| !["timeline", "metrics"].contains(name));
        assert_eq!(came, others);
        let late = step(stepper, 4, Hands::Three, &mut recent).await;
        assert_eq!(
            late.keys().copied().collect::<Vec<_>>(),
            ["metrics", "timeline"]
        );
        let end = step(stepper, STEP_EVENTS_MAX, Hands::Three, &mut recent).await;
        assert_eq!(end, all_at(12));
        assert_expected(&stepper.store, place.storage.as_ref()).await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_one_hand_can_not_write_stops_nobody_else() {
    on_twelve_events(async |place, stepper| {
        let mut recent = Recent::default();
        let refuse = "ALTER TABLE timeline ADD CONSTRAINT refused CHECK (position <> 5)";
        place.sql(refuse).await.unwrap();

        let refused = step(stepper, 6, Hands::Three, &mut recent).await;

        let mut others = all_at(6);
        others.insert("timeline", None);
        assert_eq!(refused, others);
        let written = [
            Projection::Notifications,
            Projection::NotificationLogs,
            Projection::Metrics,
        ];
        let last = step(stepper, 6, Hands::One, &mut recent).await;
        assert_eq!(last["notifications"], Some(Position(12)));
        assert_some_expected(&stepper.store, place.storage.as_ref(), &written).await;
        place
            .sql("ALTER TABLE timeline DROP CONSTRAINT refused")
            .await
            .unwrap();
        let late = step(stepper, STEP_EVENTS_MAX, Hands::Three, &mut recent).await;
        assert_eq!(late, Came::from([("timeline", Some(Position(12)))]));
        assert_expected(&stepper.store, place.storage.as_ref()).await;
    })
    .await;
}
