//! What can't be read, can't be written or is not the same ledger any more stops whom it concerns,
//! where it concerns them, and nobody else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use notification_ledger::domain::ids::StreamId;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::projections::Projection;
use notification_ledger::projections::step::{Outcome, STEP_EVENTS_MAX, Step, Stepper, Wanted};
use notification_ledger::projections::store::Progress;
use sqlx::postgres::PgPoolOptions;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use crate::client::{Client, sent};
use crate::process::{PATIENCE, Process, head, until};
use crate::support::{Place, on_each_database, on_postgres, on_sqlite};
use crate::tables::{assert_expected, assert_some_expected};

on_each_database!("current_thread":
    an_event_of_an_unknown_version_stops_who_reads_it,
    an_event_with_a_damaged_payload_stops_who_reads_it,
    an_event_of_an_unknown_type_stops_who_reads_it,
    one_bad_event_among_many_is_found,
    an_event_that_is_missing_from_its_stream_stops_everybody,
    a_tenant_that_can_not_be_stops_everybody,
    a_refused_row_stops_its_projection_alone,
    what_was_written_beside_a_refused_row_is_undone,
    a_step_moves_all_but_who_is_refused,
    a_row_that_should_be_new_is_written_over,
    a_checkpoint_of_another_history_stops_its_projection,
    a_head_behind_the_checkpoints_stops_them_all,
    a_new_epoch_of_the_same_history_is_adopted,
    a_database_that_is_gone_is_told_once_and_followed_again,
    nobody_waits_for_a_stopped_projection_longer_than_they_want,
);

const READERS: [Projection; 3] = [
    Projection::Notifications,
    Projection::NotificationLogs,
    Projection::Metrics,
];

/// Two notifications in partition 0, with two reports each and the first pair at 3 and 4, and
/// one in partition 1.
async fn recorded(client: &Client) -> [StreamId; 2] {
    let streams = [client.requested().await, client.requested().await];
    for id in ["sg-1", "sg-2"] {
        for stream in streams {
            client.tell(stream, sent(id)).await.unwrap();
        }
    }
    let neighbour = client.clone().for_tenant("globex", 1);
    let stream = neighbour.requested().await;
    neighbour.tell(stream, sent("sg-1")).await.unwrap();
    streams
}

pub(crate) async fn unprotected(place: &Place) {
    let triggers = if place.is_postgres() {
        "DROP TRIGGER events_are_permanent ON events"
    } else {
        "DROP TRIGGER events_are_not_updated; DROP TRIGGER events_are_not_deleted"
    };
    place.sql(triggers).await.unwrap();
}

async fn place_of(process: &Process, projection: Projection) -> Progress {
    let progress = process.projections.progress().await.unwrap();
    let here = progress.into_iter().find(|progress| {
        let at = &progress.checkpoint;
        at.projection == projection && at.partition == Partition(0)
    });
    here.unwrap()
}

/// Waits until a projection has stopped in partition 0. Says why.
async fn stopped(process: &Process, projection: Projection, at: Position) -> String {
    let stopped = until(async || {
        let progress = place_of(process, projection).await;
        progress.checkpoint.error.clone().ok_or(progress)
    });
    let (error, _) = stopped.await;
    let progress = place_of(process, projection).await;
    assert_eq!(progress.checkpoint.position, at, "{projection:?}: {error}");
    assert!(progress.failed_at.is_some());
    error
}

async fn reached(process: &Process, projection: Projection, partition: i16, position: Position) {
    let wait = process
        .projections
        .wait_for(projection, Partition(partition), position, PATIENCE);
    assert!(
        wait.await.unwrap(),
        "{projection:?} does not come to {position}"
    );
}

/// Waits until nothing is stopped and everything is there.
async fn assert_recovers(process: &Process, place: &Place) {
    process.settle().await;
    until(async || {
        let mut progress = process.projections.progress().await.unwrap();
        progress.retain(|progress| progress.checkpoint.error.is_some());
        if progress.is_empty() {
            Ok(())
        } else {
            Err(progress)
        }
    })
    .await;
    assert_expected(process.projections.store(), place.storage.as_ref()).await;
}

async fn an_unreadable_event_stops_its_readers(place: &Place, damage: &str) {
    let process = stopped_by_an_unreadable_event(place, damage).await;
    assert_recovers(&process, place).await;
    process.stop().await;
}

/// Up to the repair.
async fn stopped_by_an_unreadable_event(place: &Place, damage: &str) -> Process {
    let process = Process::idle(place);
    // By another process: what it writes itself, it need not read.
    recorded(&Client::of(place)).await;
    unprotected(place).await;
    let damage = format!(
        "CREATE TABLE kept AS SELECT event_type, schema_version, CAST(data AS TEXT) AS data
        FROM events WHERE partition = 0 AND position = 4;
        UPDATE events SET {damage} WHERE partition = 0 AND position = 4"
    );
    place.sql(&damage).await.unwrap();

    process.start().await;

    for projection in READERS {
        let error = stopped(&process, projection, Position(3)).await;
        assert!(error.contains("position 4"), "{error}");
    }
    process.client.requested().await;
    reached(&process, Projection::Timeline, 0, Position(7)).await;
    for projection in Projection::ALL {
        reached(&process, projection, 1, Position(2)).await;
    }
    let store = process.projections.store();
    assert_some_expected(store, place.storage.as_ref(), &[Projection::Timeline]).await;

    let data = if place.is_postgres() {
        "CAST(kept.data AS json)"
    } else {
        "kept.data"
    };
    let repair = format!(
        "UPDATE events
        SET event_type = kept.event_type, schema_version = kept.schema_version, data = {data}
        FROM kept WHERE partition = 0 AND position = 4"
    );
    place.sql(&repair).await.unwrap();
    process
}

async fn an_event_of_an_unknown_version_stops_who_reads_it(place: &Place) {
    an_unreadable_event_stops_its_readers(place, "schema_version = 99").await;
}

async fn an_event_with_a_damaged_payload_stops_who_reads_it(place: &Place) {
    an_unreadable_event_stops_its_readers(place, r#"data = '{"message": 7}'"#).await;
}

async fn an_event_of_an_unknown_type_stops_who_reads_it(place: &Place) {
    let damage = "event_type = 'notification.teleported'";
    let process = stopped_by_an_unreadable_event(place, damage).await;

    process.settle().await;
    // The timeline shows the type that stood there.
    let store = process.projections.store();
    assert_some_expected(store, place.storage.as_ref(), &READERS).await;
    process.stop().await;
}

async fn one_bad_event_among_many_is_found(place: &Place) {
    let process = Process::idle(place);
    let other = Client::of(place);
    let requests = (0..150).map(|_| other.requested());
    futures_util::future::join_all(requests).await;
    unprotected(place).await;
    let bad = "UPDATE events SET schema_version = 99 WHERE partition = 0 AND position IN (90, 120)";
    place.sql(bad).await.unwrap();

    process.start().await;

    for projection in READERS {
        stopped(&process, projection, Position(89)).await;
    }
    let repair = |position: i64| {
        format!(
            "UPDATE events SET schema_version = 1 WHERE partition = 0 AND position = {position}"
        )
    };
    place.sql(&repair(90)).await.unwrap();
    for projection in READERS {
        reached(&process, projection, 0, Position(119)).await;
        stopped(&process, projection, Position(119)).await;
    }
    place.sql(&repair(120)).await.unwrap();
    assert_recovers(&process, place).await;
    process.stop().await;
}

/// Something is wrong with event 4, wherever it is looked at.
async fn damage_stops_everybody(place: &Place, damage: &str, repair: &str, reason: &str) {
    let process = Process::idle(place);
    // By another process: what it writes itself, it need not read.
    recorded(&Client::of(place)).await;
    unprotected(place).await;
    assert_eq!(place.sql(damage).await.unwrap(), 1);

    process.start().await;

    for projection in Projection::ALL {
        let error = stopped(&process, projection, Position(3)).await;
        assert!(error.contains(reason), "{error}");
        reached(&process, projection, 1, Position(2)).await;
    }
    assert_eq!(place.sql(repair).await.unwrap(), 1);
    assert_recovers(&process, place).await;
    process.stop().await;
}

async fn an_event_that_is_missing_from_its_stream_stops_everybody(place: &Place) {
    let damage = "UPDATE events SET sequence = 7 WHERE partition = 0 AND position = 4";
    let repair = "UPDATE events SET sequence = 2 WHERE partition = 0 AND position = 4";
    damage_stops_everybody(place, damage, repair, "event 2 is missing").await;
}

async fn a_tenant_that_can_not_be_stops_everybody(place: &Place) {
    let damage = "UPDATE events SET tenant_id = 'No Slug' WHERE partition = 0 AND position = 4";
    let repair = "UPDATE events SET tenant_id = 'acme' WHERE partition = 0 AND position = 4";
    damage_stops_everybody(place, damage, repair, "`No Slug`").await;
}

#[tokio::test]
async fn a_value_of_another_type_stops_everybody() {
    // PostgreSQL has none: its columns are of one type.
    on_sqlite(async |place| {
        let damage = "UPDATE events SET occurred_at = 'noon' WHERE partition = 0 AND position = 4";
        let repair = "
            UPDATE events SET occurred_at = recorded_at WHERE partition = 0 AND position = 4";
        damage_stops_everybody(place, damage, repair, "`occurred_at`").await;
    })
    .await;
}

/// Makes a table refuse some rows. Returns what takes that back.
async fn refusing(place: &Place, table: &str, what: &str) -> String {
    let (refuse, allow) = if place.is_postgres() {
        (
            format!("ALTER TABLE {table} ADD CONSTRAINT no_such_rows CHECK (NOT ({what}))"),
            format!("ALTER TABLE {table} DROP CONSTRAINT no_such_rows"),
        )
    } else {
        (
            format!(
                "CREATE TRIGGER no_such_rows BEFORE INSERT ON {table} WHEN NEW.{what}
                BEGIN SELECT RAISE(ABORT, 'no such rows'); END"
            ),
            "DROP TRIGGER no_such_rows".to_owned(),
        )
    };
    place.sql(&refuse).await.unwrap();
    allow
}

async fn a_refused_row_stops_its_projection_alone(place: &Place) {
    let process = Process::idle(place);
    let allow = refusing(place, "notification_logs", "message_key = 'sg-2'").await;
    recorded(&process.client).await;

    process.start().await;

    let error = stopped(&process, Projection::NotificationLogs, Position(4)).await;
    assert!(error.contains("refuses"), "{error}");
    assert!(
        error.contains("no_such_rows") || error.contains("no such rows"),
        "{error}"
    );
    process.client.requested().await;
    let others = [
        Projection::Notifications,
        Projection::Timeline,
        Projection::Metrics,
    ];
    for projection in others {
        reached(&process, projection, 0, Position(7)).await;
    }
    let store = process.projections.store();
    assert_some_expected(store, place.storage.as_ref(), &others).await;
    place.sql(&allow).await.unwrap();
    assert_recovers(&process, place).await;
    process.stop().await;
}

async fn what_was_written_beside_a_refused_row_is_undone(place: &Place) {
    let process = Process::idle(place);
    // The second of the two tables: the first is written by then.
    let allow = refusing(place, "metric_latencies", "resolution = 60").await;
    recorded(&process.client).await;

    process.start().await;

    stopped(&process, Projection::Metrics, Position(2)).await;
    for projection in [Projection::Notifications, Projection::NotificationLogs] {
        reached(&process, projection, 0, Position(6)).await;
    }
    place.sql(&allow).await.unwrap();
    assert_recovers(&process, place).await;
    process.stop().await;
}

/// In the very step that is refused, not only in the ones after it.
async fn a_step_moves_all_but_who_is_refused(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let allow = refusing(place, "notification_logs", "message_key = 'sg-2'").await;
    recorded(&process.client).await;

    let mut moved = Vec::new();
    for step in whole_step(&stepper).await {
        match step.outcome {
            Outcome::Moved { to, events } => {
                assert_eq!((to.position, events), (Position(6), 6));
                moved.push(step.projection);
            }
            Outcome::Stopped { at, why } => {
                assert_eq!(step.projection, Projection::NotificationLogs);
                assert_eq!(at.position, Position(0));
                assert_eq!(why.reason(), "refused_rows");
            }
            outcome => panic!("{outcome:?}"),
        }
    }

    let others = [
        Projection::Notifications,
        Projection::Timeline,
        Projection::Metrics,
    ];
    moved.sort_unstable();
    assert_eq!(moved, others);
    place.sql(&allow).await.unwrap();
    process.start().await;
    assert_recovers(&process, place).await;
    process.stop().await;
}

async fn whole_step(stepper: &Stepper) -> Vec<Step> {
    let wanted = Projection::ALL.map(|projection| Wanted {
        projection,
        events_max: STEP_EVENTS_MAX,
    });
    let steps = stepper.step(Partition(0), &wanted).await.unwrap();
    steps.unwrap()
}

/// As it is when somebody puts a checkpoint back to have events read again.
async fn a_row_that_should_be_new_is_written_over(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    recorded(&process.client).await;
    whole_step(&stepper).await;
    let put_back = "
        UPDATE projection_checkpoints
        SET position = 2, hash = (SELECT hash FROM events WHERE partition = 0 AND position = 2)
        WHERE partition = 0 AND projection = 'timeline'";
    assert_eq!(place.sql(put_back).await.unwrap(), 1);
    let damage = "UPDATE timeline SET event_type = 'another' WHERE partition = 0 AND position > 2";
    assert_eq!(place.sql(damage).await.unwrap(), 4);

    let steps = whole_step(&stepper).await;

    let moved = steps
        .iter()
        .find(|step| matches!(&step.outcome, Outcome::Moved { events: 4, .. }));
    assert_eq!(
        moved.map(|step| step.projection),
        Some(Projection::Timeline),
        "{steps:?}"
    );
    process.start().await;
    assert_recovers(&process, place).await;
    process.stop().await;
}

async fn a_checkpoint_of_another_history_stops_its_projection(place: &Place) {
    let process = Process::of(place).await;
    recorded(&process.client).await;
    process.settle().await;
    let swap = |from: &str, to: &str| {
        format!(
            "UPDATE projection_checkpoints
            SET hash = (SELECT hash FROM events WHERE partition = 0 AND position = {to})
            WHERE partition = 0 AND projection = 'metrics' AND position = {from}"
        )
    };

    assert_eq!(place.sql(&swap("6", "5")).await.unwrap(), 1);

    let error = stopped(&process, Projection::Metrics, Position(6)).await;
    assert!(
        error.contains("restored from a backup or altered"),
        "{error}"
    );
    let others = [
        Projection::Notifications,
        Projection::NotificationLogs,
        Projection::Timeline,
    ];
    for projection in others {
        assert_eq!(place_of(&process, projection).await.checkpoint.error, None);
    }
    // Put right without a new event: then it has nothing to do, and has not stopped either.
    place.sql(&swap("6", "6")).await.unwrap();
    assert_recovers(&process, place).await;
    process.client.requested().await;
    assert_recovers(&process, place).await;
    process.stop().await;
}

async fn a_head_behind_the_checkpoints_stops_them_all(place: &Place) {
    let process = Process::of(place).await;
    recorded(&process.client).await;
    process.settle().await;
    process.stop().await;
    unprotected(place).await;
    let restore = "DELETE FROM events WHERE partition = 0 AND position > 4;
        UPDATE partition_heads
        SET position = 4, hash = (SELECT hash FROM events WHERE partition = 0 AND position = 4)
        WHERE partition = 0";
    place.sql(restore).await.unwrap();

    let process = Process::of(place).await;

    let assert_all_stopped = async || {
        for projection in Projection::ALL {
            let error = stopped(&process, projection, Position(6)).await;
            assert!(error.contains("at position 6"), "{error}");
            assert!(
                error.contains("restored from a backup or altered"),
                "{error}"
            );
        }
    };
    assert_all_stopped().await;
    // Other events in the old ones' places are not the old ones.
    for _ in 0..4 {
        process.client.requested().await;
    }
    let neighbour = process.client.clone().for_tenant("globex", 1);
    neighbour.requested().await;
    for projection in Projection::ALL {
        reached(&process, projection, 1, Position(3)).await;
    }
    place
        .sql("UPDATE projection_checkpoints SET error = NULL, failed_at = NULL")
        .await
        .unwrap();
    assert_all_stopped().await;
    drop(neighbour);
    process.stop().await;
}

async fn a_new_epoch_of_the_same_history_is_adopted(place: &Place) {
    let process = Process::of(place).await;
    recorded(&process.client).await;
    process.settle().await;
    let epoch = Uuid::from_u128(7);

    place.database().begin_epoch(epoch).await.unwrap();
    process.client.requested().await;

    assert_recovers(&process, place).await;
    for projection in Projection::ALL {
        assert_eq!(place_of(&process, projection).await.checkpoint.epoch, epoch);
    }
    process.stop().await;
}

/// Everything that is logged on this thread.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap())
            .matches(what)
            .count()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

async fn a_database_that_is_gone_is_told_once_and_followed_again(place: &Place) {
    const GONE: &str = "projections can't follow the ledger";
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let process = Process::of(place).await;
    recorded(&process.client).await;
    process.settle().await;

    place
        .sql("ALTER TABLE projection_checkpoints RENAME TO moved")
        .await
        .unwrap();
    process.client.requested().await;
    // One for each partition: they are followed one by one.
    let partitions = usize::try_from(crate::support::PARTITIONS).unwrap();
    until(async || {
        (log.count(GONE) == partitions)
            .then_some(())
            .ok_or(log.count(GONE))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(log.count(GONE), partitions);
    place
        .sql("ALTER TABLE moved RENAME TO projection_checkpoints")
        .await
        .unwrap();

    assert_recovers(&process, place).await;
    process.stop().await;
}

async fn nobody_waits_for_a_stopped_projection_longer_than_they_want(place: &Place) {
    let process = Process::idle(place);
    let allow = refusing(place, "timeline", "position = 3").await;
    recorded(&process.client).await;
    process.start().await;
    stopped(&process, Projection::Timeline, Position(2)).await;

    let started = std::time::Instant::now();
    let patience = Duration::from_millis(200);
    let timeline = process.projections.wait_for(
        Projection::Timeline,
        Partition(0),
        head(place.storage.as_ref(), 0).await,
        patience,
    );
    assert!(!timeline.await.unwrap());
    assert!(
        (patience..patience * 10).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
    // What is there is there at once.
    reached(&process, Projection::Timeline, 0, Position(2)).await;

    place.sql(&allow).await.unwrap();
    assert_recovers(&process, place).await;
    process.stop().await;
}

/// The same database through so many connections.
fn through(place: &Place, connections: u32) -> Database {
    let Database::Postgres { options, .. } = place.database().clone() else {
        unreachable!("the test runs on PostgreSQL")
    };
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options.as_ref().clone());
    Database::Postgres { pool, options }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn one_connection_is_enough() {
    on_postgres(async |place| {
        let database = through(place, 1);
        let process = Process::on(place, &database);
        process.start().await;
        recorded(&process.client).await;

        process.settle().await;

        assert_expected(process.projections.store(), place.storage.as_ref()).await;
        process.stop().await;
        database.close().await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn who_hangs_in_a_step_does_not_keep_the_turn_for_ever() {
    on_postgres(async |place| {
        let process = Process::idle(place);
        let store = process.projections.store();
        store.add_checkpoints().await.unwrap();
        let turn = store
            .turn(Partition(0), &Projection::ALL)
            .await
            .unwrap()
            .unwrap();
        assert!(
            store
                .turn(Partition(0), &Projection::ALL)
                .await
                .unwrap()
                .is_none()
        );

        let mut held = turn.write().await.unwrap().unwrap();

        let ask = "SELECT current_setting('idle_in_transaction_session_timeout')";
        let column = &Projection::Timeline.tables()[0].columns[2..3];
        let timeout = held.select(ask, &[], column).await.unwrap();
        assert_ne!(timeout[0][0].as_text(), Some("0"));
        drop(held);
        process.stop().await;
    })
    .await;
}
