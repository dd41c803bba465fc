//! No room for what is to be written: whoever writes stops, says so, and goes on when there is room.
//! With real disks in `tests/processes/full.rs`, which needs root to mount them.

use std::time::Duration;

use notification_ledger::ledger::database::Database;
use notification_ledger::projections::Projection;
use notification_ledger::projections::rebuild::State;
use notification_ledger::projections::store::Transaction;
use notification_ledger::projections::table::{Column, Kind};
use sqlx::Executor;

use crate::process::{PATIENCE, Process, until};
use crate::storm::{Callers, Turn, storm};
use crate::support::{Place, on_each_database, on_sqlite};
use crate::tables::{Tables, assert_expected};

on_each_database!("multi_thread":
    a_rebuild_without_room_ends_and_harms_nothing,
);

const TURNS: usize = 200;

async fn weathered(process: &Process, seed: u64) {
    let callers = Callers::of(&process.client);
    for turn in storm(TURNS, seed)
        .iter()
        .filter(|turn| Turn::is_a_deed(turn))
    {
        callers.act(turn).await;
    }
}

/// The same SQLite file, for somebody who may not make it larger.
fn without_room(place: &Place) -> Database {
    let Database::Sqlite {
        pool,
        options,
        path,
    } = place.database().clone()
    else {
        unreachable!("the test runs on SQLite")
    };
    // Less than it has; it becomes what it has.
    let options = options.as_ref().clone().pragma("max_page_count", "1");
    Database::Sqlite {
        pool,
        options: Box::new(options),
        path,
    }
}

/// A database that has no room for new rows of `metrics` in partition 2, which the worker finds
/// out in the midst of its work. Says who is to work.
async fn fill_up(place: &Place) -> Process {
    if !place.is_postgres() {
        return Process::on(place, &without_room(place));
    }
    let full = "
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'could not extend file \"base/1/2\": No space left on device'
                USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON metrics_shadow
        FOR EACH ROW WHEN (NEW.partition = 2) EXECUTE FUNCTION full_disk()";
    place.sql(full).await.unwrap();
    Process::idle(place)
}

/// Names of tables that were left behind.
async fn shadows(process: &Process, place: &Place) -> Vec<String> {
    const NAME: &[Column] = &[Column {
        name: "name",
        kind: Kind::Text,
    }];
    let sql = if place.is_postgres() {
        "SELECT relname::text FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relname LIKE '%\\_shadow%'"
    } else {
        "SELECT name FROM sqlite_master WHERE name LIKE '%\\_shadow%' ESCAPE '\\'"
    };
    let rows = process.projections.store().select(sql, &[], NAME).await;
    let name = |row: &Vec<_>| format!("{:?}", row[0]);
    rows.unwrap().iter().map(name).collect()
}

async fn a_rebuild_without_room_ends_and_harms_nothing(place: &Place) {
    let process = Process::of(place).await;
    weathered(&process, 11).await;
    process.settle().await;
    process.stop().await;
    let process = Process::idle(place);
    let store = process.projections.store();
    let tables = assert_expected(store, place.storage.as_ref()).await;
    let wanted = [
        Projection::Notifications,
        Projection::NotificationLogs,
        Projection::Metrics,
    ];
    process.projections.rebuild(&wanted, None).await.unwrap();
    let worker = fill_up(place).await;

    let ended = tokio::time::timeout(PATIENCE, worker.projections.work()).await;

    assert!(ended.unwrap().unwrap());
    let rebuilds = process.projections.rebuilds().await.unwrap();
    assert_eq!(rebuilds.len(), wanted.len());
    for rebuild in rebuilds {
        assert_eq!(rebuild.state, State::Failed, "{rebuild:?}");
        assert_eq!(rebuild.checksum_equal, None);
        let error = rebuild.error.unwrap();
        assert!(error.contains("the disk is full"), "{error}");
        assert!(error.contains("Free at least 1 MiB"), "{error}");
    }
    assert_eq!(shadows(&process, place).await, [""; 0]);
    let live = Tables::live(store, &Projection::ALL).await;
    assert_eq!(live.difference(&tables), "");

    // With room it is begun anew, and the tables have not stood still.
    process.start().await;
    weathered(&process, 12).await;
    process.settle().await;
    assert_expected(store, place.storage.as_ref()).await;
    process.projections.rebuild(&wanted, None).await.unwrap();
    until(async || {
        let mut rebuilds = process.projections.rebuilds().await.unwrap();
        rebuilds.retain(|rebuild| rebuild.state != State::Done);
        if rebuilds.is_empty() {
            Ok(())
        } else {
            Err(rebuilds)
        }
    })
    .await;
    assert_expected(store, place.storage.as_ref()).await;
    worker.stop().await;
    process.stop().await;
}

/// When the end of a transaction does not fit on the disk, SQLite undoes it by itself.
#[tokio::test]
async fn after_transactions_that_sqlite_has_undone_others_begin() {
    on_sqlite(async |place| {
        let process = Process::idle(place);
        let store = process.projections.store();
        for _ in 0..5 {
            let mut transaction = store.begin().await.unwrap();
            let Transaction::Sqlite(connection) = &mut transaction else {
                unreachable!("the test runs on SQLite")
            };
            connection.execute("ROLLBACK").await.unwrap();
            assert!(transaction.commit().await.is_err());
        }
        process.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_without_room_goes_on_when_there_is_some() {
    on_sqlite(async |place| {
        let ballast = "CREATE TABLE ballast AS SELECT zeroblob(4000000) AS zeros";
        place.sql(ballast).await.unwrap();
        let writer = Process::idle(place);
        let follower = Process::on(place, &without_room(place));
        follower.start_deaf().await;
        weathered(&writer, 13).await;
        // Longer than both of its connections need to find out.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let progress = follower.projections.progress().await.unwrap();
        let stuck = progress
            .iter()
            .filter(|progress| progress.checkpoint.position < progress.checkpoint.head);
        assert!(stuck.count() > 0, "there was room for everything");

        place.sql("DROP TABLE ballast").await.unwrap();

        follower.settle().await;
        let store = follower.projections.store();
        assert_expected(store, place.storage.as_ref()).await;
        writer.stop().await;
        follower.stop().await;
    })
    .await;
}
