//! Rebuilt and replayed tables are the live ones, row for row.

use std::time::Duration;

use notification_ledger::domain::ids::TenantId;
use notification_ledger::domain::precedence::PrecedenceRule;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, TenantPlace};
use notification_ledger::projections::Projection;
use notification_ledger::projections::rebuild::{Requested, State};
use notification_ledger::projections::replay::{AsOf, Replay};

use crate::process::{Process, until};
use crate::storm::{Callers, storm};
use crate::support::{Place, on_each_database, on_postgres};
use crate::tables::assert_expected;

on_each_database!("multi_thread":
    rebuilt_and_replayed_tables_are_the_live_ones,
    a_rebuild_is_asked_for_once_and_can_be_cancelled,
    live_tables_that_lag_are_waited_for_and_compared,
);

const TURNS: usize = 250;

async fn done(process: &Process) {
    until(async || {
        let rebuilds = process.projections.rebuilds().await.unwrap();
        let states: Vec<_> = rebuilds
            .iter()
            .map(|rebuild| (rebuild.state, rebuild.error.clone(), rebuild.checksum_equal))
            .collect();
        let ended = states.iter().all(|(state, ..)| *state != State::Running);
        if ended { Ok(()) } else { Err(states) }
    })
    .await;
}

async fn rebuilt_and_replayed_tables_are_the_live_ones(place: &Place) {
    let process = Process::of(place).await;
    let callers = Callers::of(&process.client);
    let turns: Vec<_> = storm(TURNS, 7)
        .into_iter()
        .filter(crate::storm::Turn::is_a_deed)
        .collect();
    let (before, meanwhile) = turns.split_at(turns.len() / 2);
    for turn in before {
        callers.act(turn).await;
    }

    // Rebuilt while more comes in.
    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();
    for turn in meanwhile {
        callers.act(turn).await;
    }
    done(&process).await;
    process.settle().await;
    let store = process.projections.store();
    assert_expected(store, place.storage.as_ref()).await;

    // Rebuilt once more, with everything at rest: the checksums agree, and twice is once.
    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();
    done(&process).await;
    for rebuild in process.projections.rebuilds().await.unwrap() {
        assert_eq!(
            (rebuild.state, rebuild.checksum_equal),
            (State::Done, Some(true)),
            "{rebuild:?}"
        );
    }
    let tables = assert_expected(store, place.storage.as_ref()).await;

    // One partition alone.
    process
        .projections
        .rebuild(&[Projection::Metrics], Some(Partition(0)))
        .await
        .unwrap();
    done(&process).await;
    assert_eq!(
        assert_expected(store, place.storage.as_ref())
            .await
            .difference(&tables),
        ""
    );

    // Replayed: nothing would change.
    let tenant = TenantPlace {
        tenant_id: TenantId::new("acme").unwrap(),
        partition: Partition(0),
    };
    for projection in Projection::ALL {
        let replay = Replay {
            projection,
            tenant: tenant.clone(),
            from: None,
            to: None,
            as_of: AsOf::Now,
            rule: PrecedenceRule::default(),
        };
        let (mut rows, mut differences) = (0, Vec::new());
        process
            .projections
            .replay(&replay, true, |page| {
                rows += page.rows.len();
                differences.push(format!("{:?}", page.differences()));
                Ok(())
            })
            .await
            .unwrap();
        assert!(rows > 0, "{projection:?}");
        assert!(
            differences.iter().all(|none| none == "[]"),
            "{differences:?}"
        );
    }
    drop(callers);
    process.stop().await;
}

async fn a_rebuild_is_asked_for_once_and_can_be_cancelled(place: &Place) {
    // Nobody works on it here.
    let process = Process::idle(place);
    let store = process.projections.store().clone();
    store.add_checkpoints().await.unwrap();
    let wanted = [Projection::Timeline];
    let begun = process.projections.rebuild(&wanted, None).await.unwrap();
    assert!(matches!(begun, Requested::Begun(_)), "{begun:?}");

    let again = process.projections.rebuild(&wanted, None).await.unwrap();

    let Requested::Running(running) = again else {
        panic!("{again:?}");
    };
    assert_eq!(running.state, State::Running);
    let cancelled = process
        .projections
        .cancel_rebuild(Projection::Timeline)
        .await
        .unwrap();
    assert_eq!(cancelled.unwrap().state, State::Cancelled);
    let nothing = process
        .projections
        .cancel_rebuild(Projection::Timeline)
        .await
        .unwrap();
    assert!(nothing.is_none());
    // Its tables are gone, so the next begins anew and is carried out.
    process.projections.rebuild(&wanted, None).await.unwrap();
    let worked = tokio::time::timeout(Duration::from_secs(20), process.projections.work());
    assert!(worked.await.unwrap().unwrap());
    let rebuilds = process.projections.rebuilds().await.unwrap();
    assert_eq!(rebuilds[0].state, State::Done, "{rebuilds:?}");
    process.stop().await;
}

async fn live_tables_that_lag_are_waited_for_and_compared(place: &Place) {
    let process = Process::idle(place);
    process.projections.store().add_checkpoints().await.unwrap();
    let callers = Callers::of(&process.client);
    for turn in storm(TURNS, 9)
        .iter()
        .filter(|turn| crate::storm::Turn::is_a_deed(turn))
    {
        callers.act(turn).await;
    }
    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();

    // By then the new tables are filled, and the live ones are empty.
    let follow = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        process.start().await;
    };
    let (worked, ()) = tokio::join!(process.projections.work(), follow);

    assert!(worked.unwrap());
    done(&process).await;
    for rebuild in process.projections.rebuilds().await.unwrap() {
        assert_eq!(
            (rebuild.state, rebuild.checksum_equal),
            (State::Done, Some(true)),
            "{rebuild:?}"
        );
    }
    drop(callers);
    process.stop().await;
}

/// Without statistics, PostgreSQL takes every status for rare and sorts what it could read in order.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn the_planner_knows_what_is_in_rebuilt_tables() {
    on_postgres(planned_for).await;
}

async fn planned_for(place: &Place) {
    let Database::Postgres { pool, .. } = place.database().clone() else {
        panic!("not in PostgreSQL");
    };
    let process = Process::of(place).await;
    let callers = Callers::of(&process.client);
    for turn in storm(TURNS, 11).iter().filter(|turn| turn.is_a_deed()) {
        callers.act(turn).await;
    }
    process.settle().await;

    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();
    done(&process).await;

    for projection in Projection::ALL {
        for table in projection.tables() {
            let known: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM pg_stats WHERE schemaname = current_schema() AND tablename = $1")
                    .bind(table.name)
                    .fetch_one(&pool)
                    .await
                    .unwrap();
            assert_eq!(
                known,
                i64::try_from(table.columns.len()).unwrap(),
                "{}",
                table.name
            );
        }
    }
    process.stop().await;
}
