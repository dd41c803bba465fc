//! Tables that another release made: an older one's are made anew without anybody asking, a newer
//! one's are left alone. What another release would be is written into the database.

use std::time::Duration;

use notification_ledger::ledger::database::Database;
use notification_ledger::projections::Projection;
use notification_ledger::projections::rebuild::{Rebuild, State};
use notification_ledger::projections::store::CheckpointState;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::http::{Addresses, Caller};
use crate::killed::opened;
use crate::place;
use crate::process::{PATIENCE, Process, until};
use crate::storm::{Callers, storm};
use crate::support::{Place, on_each_database};
use crate::tables::{Tables, assert_expected, assert_some_expected};

on_each_database!("multi_thread":
    outdated_tables_are_rebuilt_once,
    a_rebuild_that_runs_is_left_alone,
    newer_tables_are_left_alone,
    a_newer_releases_rebuild_is_left_to_it,
    an_older_releases_rebuild_is_replaced_when_nobody_works_on_it,
    a_rebuild_that_failed_is_tried_again_at_the_next_start,
);

const TURNS: usize = 150;
/// Longer than a service that starts needs to look.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Longer than between two looks of a service.
const NEXT_LOOK: Duration = Duration::from_secs(6);

/// Tables with something in them, and nobody who follows.
async fn followed(place: &Place, seed: u64) -> Tables {
    let process = Process::of(place).await;
    weathered(&process, seed).await;
    process.settle().await;
    let tables = assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
    tables
}

async fn weathered(process: &Process, seed: u64) {
    let callers = Callers::of(&process.client);
    for turn in storm(TURNS, seed).iter().filter(|turn| turn.is_a_deed()) {
        callers.act(turn).await;
    }
}

async fn made_in_version(place: &Place, projections: &[Projection], version: i32) {
    for projection in projections {
        let name = projection.name();
        let made = format!(
            "UPDATE projection_checkpoints SET version = {version} WHERE projection = '{name}'"
        );
        assert!(place.sql(&made).await.unwrap() > 0);
    }
}

async fn rebuild_of(process: &Process, projection: Projection) -> Option<Rebuild> {
    let rebuilds = process.projections.rebuilds().await.unwrap();
    rebuilds
        .into_iter()
        .find(|rebuild| rebuild.projection == projection)
}

/// Waits until a projection's rebuild has ended like this. Says which it was.
async fn ended(process: &Process, projection: Projection, state: State) -> Uuid {
    let (rebuild, _) = until(async || {
        let rebuild = rebuild_of(process, projection).await;
        rebuild
            .filter(|rebuild| rebuild.state != State::Running)
            .ok_or(projection)
    })
    .await;
    assert_eq!(rebuild.state, state, "{rebuild:?}");
    rebuild.rebuild_id
}

async fn outdated_tables_are_rebuilt_once(place: &Place) {
    let tables = followed(place, 21).await;
    let outdated = [Projection::Timeline, Projection::Metrics];
    made_in_version(place, &outdated, 0).await;
    let other_rows = "UPDATE timeline SET event_type = 'older'; DELETE FROM metrics";
    place.sql(other_rows).await.unwrap();
    let processes = [Process::idle(place), Process::idle(place)];

    for process in &processes {
        process.start().await;
    }

    let mut ids = Vec::new();
    for projection in outdated {
        ids.push(ended(&processes[0], projection, State::Done).await);
    }
    assert_eq!(ids[0], ids[1], "they share one read");
    let rebuilds = processes[0].projections.rebuilds().await.unwrap();
    assert_eq!(rebuilds.len(), outdated.len(), "{rebuilds:?}");
    for rebuild in rebuilds {
        // There was nothing to compare with.
        assert_eq!((rebuild.version, rebuild.checksum_equal), (1, None));
    }
    for place in processes[0].projections.progress().await.unwrap() {
        assert_eq!(place.checkpoint.state(), CheckpointState::Running);
    }
    let store = processes[0].projections.store();
    let rebuilt = assert_expected(store, place.storage.as_ref()).await;
    assert_eq!(rebuilt.difference(&tables), "");
    // And they follow from there, in whichever process, which begins no other.
    weathered(&processes[0], 22).await;
    let late = Process::of(place).await;
    late.settle().await;
    assert_expected(store, place.storage.as_ref()).await;
    let rebuilt = rebuild_of(&late, Projection::Timeline).await.unwrap();
    assert_eq!(rebuilt.rebuild_id, ids[0]);
    late.stop().await;
    for process in processes {
        process.stop().await;
    }
}

async fn a_rebuild_that_runs_is_left_alone(place: &Place) {
    followed(place, 23).await;
    made_in_version(place, &[Projection::Timeline], 0).await;
    let process = Process::idle(place);
    let wanted = [Projection::Timeline];
    process.projections.rebuild(&wanted, None).await.unwrap();
    let asked_for = rebuild_of(&process, Projection::Timeline).await.unwrap();

    process.start().await;

    let done = ended(&process, Projection::Timeline, State::Done).await;
    assert_eq!(done, asked_for.rebuild_id);
    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}

async fn newer_tables_are_left_alone(place: &Place) {
    followed(place, 24).await;
    let newer = [Projection::Metrics, Projection::Timeline];
    made_in_version(place, &newer, 2).await;
    // Some of its partitions are still older: a newer release is at it.
    let mixed = "UPDATE projection_checkpoints SET version = 0
        WHERE projection = 'timeline' AND partition = 2";
    assert_eq!(place.sql(mixed).await.unwrap(), 1);
    let process = Process::idle(place);
    let store = process.projections.store();
    let before = Tables::live(store, &newer).await;

    process.start().await;
    weathered(&process, 25).await;

    let others = [Projection::Notifications, Projection::NotificationLogs];
    for head in process.client.ledger.heads().await.unwrap() {
        for projection in others {
            let waiting =
                process
                    .projections
                    .wait_for(projection, head.partition, head.position, PATIENCE);
            assert!(waiting.await.unwrap(), "{projection:?}");
        }
    }
    tokio::time::sleep(FIRST_LOOK).await;
    assert_some_expected(store, place.storage.as_ref(), &others).await;
    let after = Tables::live(store, &newer).await;
    assert_eq!(after.difference(&before), "");
    assert_eq!(process.projections.rebuilds().await.unwrap(), []);
    for place in process.projections.progress().await.unwrap() {
        let at = place.checkpoint;
        let expected = match at.version {
            0 => CheckpointState::Outdated,
            1 => CheckpointState::Running,
            _ => CheckpointState::Newer,
        };
        assert_eq!(at.state(), expected, "{at:?}");
        let error = at.last_error();
        let tells = error.is_some_and(|error| error.contains("a newer release made these tables"));
        assert_eq!(tells, expected == CheckpointState::Newer, "{at:?}");
    }
    process.stop().await;
}

async fn a_newer_releases_rebuild_is_left_to_it(place: &Place) {
    let tables = followed(place, 26).await;
    let process = Process::idle(place);
    let wanted = [Projection::Timeline];
    process.projections.rebuild(&wanted, None).await.unwrap();
    place
        .sql("UPDATE projection_rebuilds SET version = 2")
        .await
        .unwrap();

    assert!(!process.projections.work().await.unwrap());
    process.start().await;
    tokio::time::sleep(FIRST_LOOK).await;

    let rebuild = rebuild_of(&process, Projection::Timeline).await.unwrap();
    assert_eq!((rebuild.state, rebuild.owner), (State::Running, None));
    assert_eq!(rebuild.version, 2);
    let live = Tables::live(process.projections.store(), &Projection::ALL).await;
    assert_eq!(live.difference(&tables), "");
    process.stop().await;
}

async fn an_older_releases_rebuild_is_replaced_when_nobody_works_on_it(place: &Place) {
    followed(place, 27).await;
    made_in_version(place, &[Projection::Timeline], 0).await;
    let process = Process::idle(place);
    let wanted = [Projection::Timeline];
    process.projections.rebuild(&wanted, None).await.unwrap();
    let older = rebuild_of(&process, Projection::Timeline).await.unwrap();
    // Somebody works on it, for ten more seconds of the test's clock.
    let at_work = "UPDATE projection_rebuilds
        SET version = 0, owner = rebuild_id, lease_until = lease_until + 10000000";
    place.sql(at_work).await.unwrap();

    process.start().await;
    tokio::time::sleep(FIRST_LOOK).await;
    let rebuild = rebuild_of(&process, Projection::Timeline).await.unwrap();
    assert_eq!(rebuild.rebuild_id, older.rebuild_id);
    place.clock.set(11);

    // The older one never ends.
    let done = ended(&process, Projection::Timeline, State::Done).await;
    assert_ne!(done, older.rebuild_id);
    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}

async fn a_rebuild_that_failed_is_tried_again_at_the_next_start(place: &Place) {
    followed(place, 28).await;
    made_in_version(place, &[Projection::Notifications], 0).await;
    let unprotected = if place.is_postgres() {
        "DROP TRIGGER events_are_permanent ON events"
    } else {
        "DROP TRIGGER events_are_not_updated"
    };
    place.sql(unprotected).await.unwrap();
    let of_version = |version: i32| {
        format!("UPDATE events SET schema_version = {version} WHERE partition = 0 AND position = 3")
    };
    place.sql(&of_version(99)).await.unwrap();
    let process = Process::of(place).await;
    let failed = ended(&process, Projection::Notifications, State::Failed).await;
    place.sql(&of_version(1)).await.unwrap();

    // A look later is no start.
    tokio::time::sleep(NEXT_LOOK).await;
    let standing = ended(&process, Projection::Notifications, State::Failed).await;
    assert_eq!(standing, failed);
    process.stop().await;

    let process = Process::of(place).await;
    until(async || {
        let rebuild = rebuild_of(&process, Projection::Notifications).await;
        rebuild
            .filter(|rebuild| rebuild.rebuild_id != failed)
            .ok_or(failed)
    })
    .await;
    ended(&process, Projection::Notifications, State::Done).await;
    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_services_that_start_one_rebuilds_outdated_tables_on_sqlite() {
    one_of_two_rebuilds(&place::Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn of_two_services_that_start_one_rebuilds_outdated_tables_on_postgres() {
    one_of_two_rebuilds(&place::Place::postgres().await).await;
}

async fn one_of_two_rebuilds(place: &place::Place) {
    const BEGUN: &str = "the tables are those of an older release: they are rebuilt";
    const DONE: &str = "the projection was rebuilt";
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    for number in 0..20 {
        let made = caller.request(&format!("request-{number}")).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    service.kill();
    let database = opened(place).await;
    let older = "UPDATE projection_checkpoints SET version = version - 1;
        DELETE FROM notifications; DELETE FROM timeline";
    let older = sqlx::raw_sql(AssertSqlSafe(older.to_owned()));
    match &database {
        Database::Postgres { pool, .. } => drop(older.execute(pool).await.unwrap()),
        Database::Sqlite { pool, .. } => drop(older.execute(pool).await.unwrap()),
    }

    let services = tokio::join!(place.start(), place.start());

    let logged = |what: &str| {
        let logs = services.0.log() + &services.1.log();
        let info = logs.lines().filter(|line| line.contains(" INFO "));
        info.filter(|line| line.contains(what)).count()
    };
    let all = Projection::ALL.len();
    until(async || {
        (logged(DONE) == all)
            .then_some(())
            .ok_or_else(|| logged(DONE))
    })
    .await;
    assert_eq!(logged(BEGUN), all);
    let caller = caller.at(&services.0);
    for list in ["/v1/notifications", "/v1/timeline"] {
        let page = caller.get(&format!("{list}?limit=200")).await;
        assert_eq!(page.body["data"].as_array().unwrap().len(), 20, "{page:?}");
    }
    database.close().await;
}
