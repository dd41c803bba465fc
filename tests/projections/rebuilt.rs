//! Rebuilt and replayed tables are the live ones, row for row.

use std::collections::BTreeSet;
use std::time::Duration;

use notification_ledger::domain::ids::TenantId;
use notification_ledger::domain::precedence::PrecedenceRule;
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, TenantPlace};
use notification_ledger::projections::Projection;
use notification_ledger::projections::rebuild::{Phase, State};
use notification_ledger::projections::replay::{AsOf, Difference, Replay};

use crate::client::sent;
use crate::process::{Process, until};
use crate::storm::{Callers, storm};
use crate::support::{Place, on_each_database, on_postgres};
use crate::tables::assert_expected;
use crate::trouble::unprotected;

on_each_database!("multi_thread":
    rebuilt_and_replayed_tables_are_the_live_ones,
    a_rebuild_is_asked_for_once_and_can_be_cancelled,
    live_tables_that_lag_are_waited_for_and_compared,
    tables_of_a_ledger_that_was_restored_are_rebuilt,
    a_ledger_restored_meanwhile_ends_a_rebuild,
    hours_and_days_are_compared_too,
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
        let moment = process.projections.moment(&replay, true).await.unwrap();
        process
            .projections
            .replay(&replay, moment, |page| {
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

async fn hours_and_days_are_compared_too(place: &Place) {
    const HOUR: &str = "UPDATE metrics SET sent = sent + 1 WHERE resolution = 3600";
    const DAY: &str = "UPDATE metrics SET sent = sent + 1 WHERE resolution = 86400";
    let process = Process::of(place).await;
    let stream = process.client.requested().await;
    process.client.tell(stream, sent("sg-1")).await.unwrap();
    process.settle().await;
    let time = |text: Option<&str>| text.map(|text| Timestamp::parse(text).unwrap());
    // Which resolutions differ, between two times.
    let differing = async |from, to| {
        let replay = Replay {
            projection: Projection::Metrics,
            tenant: process.client.order.tenant.clone(),
            from: time(from),
            to: time(to),
            as_of: AsOf::Now,
            rule: PrecedenceRule::default(),
        };
        let mut differing = BTreeSet::new();
        let moment = process.projections.moment(&replay, true).await.unwrap();
        let replayed = process.projections.replay(&replay, moment, |page| {
            differing.extend(
                page.differences()
                    .iter()
                    .map(|difference| match difference {
                        Difference::Changed(live, _) => live[2].as_int().unwrap(),
                        other => panic!("{other:?}"),
                    }),
            );
            Ok(())
        });
        replayed.await.unwrap();
        Vec::from_iter(differing)
    };
    let ranges = [
        (None, None),
        (Some("2026-03-14T00:00:00Z"), Some("2026-03-15T00:00:00Z")),
        (Some("2026-03-14T09:00:00Z"), Some("2026-03-14T10:00:00Z")),
        (Some("2026-03-14T09:00:30Z"), Some("2026-03-14T09:59:01Z")),
        (None, Some("2026-03-14T09:59:00Z")),
        (None, Some("2026-03-14T09:59:00.000001Z")),
    ];
    for (from, to) in ranges {
        assert_eq!(differing(from, to).await, [0; 0], "{from:?} {to:?}");
    }

    assert!(place.sql(HOUR).await.unwrap() > 0);
    assert!(place.sql(DAY).await.unwrap() > 0);

    let expected: [&[i64]; 6] = [
        &[3600, 86400],
        &[3600, 86400],
        &[3600],
        &[3600],
        &[],
        &[3600],
    ];
    for ((from, to), expected) in ranges.into_iter().zip(expected) {
        assert_eq!(differing(from, to).await, expected, "{from:?} {to:?}");
    }
    process.stop().await;
}

async fn a_rebuild_is_asked_for_once_and_can_be_cancelled(place: &Place) {
    // Nobody works on it here.
    let process = Process::idle(place);
    let store = process.projections.store().clone();
    store.add_checkpoints().await.unwrap();
    let wanted = [Projection::Timeline];
    let begun = process.projections.rebuild(&wanted, None).await.unwrap();
    assert_eq!(begun.begun.len(), 1, "{begun:?}");
    assert!(begun.running.is_empty(), "{begun:?}");

    let again = process.projections.rebuild(&wanted, None).await.unwrap();

    assert!(again.begun.is_empty(), "{again:?}");
    assert_eq!(again.running.len(), 1, "{again:?}");
    assert_eq!(again.running[0].state, State::Running);
    assert_eq!(again.running[0].rebuild_id, begun.begun[0].rebuild_id);
    // Of several, the others begin.
    let both = [Projection::Timeline, Projection::Metrics];
    let both = process.projections.rebuild(&both, None).await.unwrap();
    assert_eq!(both.begun.len(), 1, "{both:?}");
    assert_eq!(both.begun[0].projection, Projection::Metrics);
    assert_eq!(both.running.len(), 1, "{both:?}");
    assert_eq!(both.running[0].rebuild_id, begun.begun[0].rebuild_id);
    let metrics = process.projections.cancel_rebuild(Projection::Metrics);
    assert_eq!(metrics.await.unwrap().unwrap().state, State::Cancelled);
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
    let mut rebuilds = rebuilds.iter();
    let timeline = rebuilds.find(|rebuild| rebuild.projection == Projection::Timeline);
    assert_eq!(timeline.unwrap().state, State::Done);
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

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn who_was_let_read_the_old_tables_reads_the_new_ones() {
    on_postgres(granted).await;
}

async fn granted(place: &Place) {
    const GRANTED: &str = "
        SELECT COALESCE(string_agg(acl::text, ' ' ORDER BY acl::text), '')
        FROM (
            SELECT unnest(relacl) AS acl FROM pg_class WHERE oid = to_regclass('notifications')
            UNION ALL
            SELECT unnest(attacl) FROM pg_attribute WHERE attrelid = to_regclass('notifications')
        ) AS granted";
    let process = Process::of(place).await;
    process.client.requested().await;
    let grants = "
        GRANT SELECT ON notifications TO pg_monitor WITH GRANT OPTION;
        GRANT SELECT (status), REFERENCES (\"tenant_id\") ON notifications TO pg_read_all_stats;
        GRANT TRIGGER ON notifications TO PUBLIC";
    place.sql(grants).await.unwrap();
    let before = text(place, GRANTED).await;

    let projections = &process.projections;
    let wanted = [Projection::Notifications];
    projections.rebuild(&wanted, None).await.unwrap();
    done(&process).await;

    assert!(before.contains("pg_monitor=r*"), "{before}");
    assert_eq!(text(place, GRANTED).await, before);
    process.stop().await;
}

async fn text(place: &Place, sql: &'static str) -> String {
    let Database::Postgres { pool, .. } = place.database() else {
        panic!("PostgreSQL only");
    };
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn tables_of_a_ledger_that_was_restored_are_rebuilt(place: &Place) {
    let process = Process::of(place).await;
    process.client.requested().await;
    process.client.requested().await;
    process.settle().await;
    process.stop().await;
    unprotected(place).await;
    let restore = "DELETE FROM events WHERE partition = 0 AND position > 1;
        UPDATE partition_heads
        SET position = 1, hash = (SELECT hash FROM events WHERE partition = 0 AND position = 1)
        WHERE partition = 0";
    place.sql(restore).await.unwrap();
    let process = Process::of(place).await;

    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();

    done(&process).await;
    for rebuild in process.projections.rebuilds().await.unwrap() {
        // Not at the same place, so there is nothing to compare.
        assert_eq!(
            (rebuild.state, rebuild.checksum_equal),
            (State::Done, None),
            "{rebuild:?}"
        );
    }
    process.client.requested().await;
    process.settle().await;
    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}

async fn a_ledger_restored_meanwhile_ends_a_rebuild(place: &Place) {
    let process = Process::idle(place);
    process.projections.store().add_checkpoints().await.unwrap();
    process.client.requested().await;
    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();

    let epoch = uuid::Uuid::from_u128(7);
    place.database().begin_epoch(epoch).await.unwrap();
    process.projections.work().await.unwrap();

    let rebuilds = process.projections.rebuilds().await.unwrap();
    assert_eq!(rebuilds.len(), Projection::ALL.len());
    for rebuild in rebuilds {
        assert_eq!(rebuild.state, State::Failed, "{rebuild:?}");
        let error = rebuild.error.unwrap();
        assert!(error.contains("was restored from a backup"), "{error}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn an_index_that_takes_long_keeps_nobody_waiting() {
    on_postgres(indexed_for_long).await;
}

async fn indexed_for_long(place: &Place) {
    let Database::Postgres { pool, .. } = place.database().clone() else {
        panic!("not in PostgreSQL");
    };
    let process = Process::of(place).await;
    process.client.requested().await;
    process.settle().await;
    // Building an index waits for whoever writes the table.
    let mut writer = pool.begin().await.unwrap();
    let idle = Process::idle(place);
    idle.projections
        .rebuild(&[Projection::Timeline], None)
        .await
        .unwrap();
    sqlx::query("LOCK TABLE timeline_shadow IN ROW EXCLUSIVE MODE")
        .execute(&mut *writer)
        .await
        .unwrap();
    let phase = async || {
        let rebuilds = process.projections.rebuilds().await.unwrap();
        (rebuilds[0].phase, rebuilds[0].lease_until)
    };
    until(async || match phase().await {
        (Phase::Indexing, _) => Ok(()),
        other => Err(other),
    })
    .await;

    // The lease is renewed, and what comes in is followed.
    let (_, lease) = phase().await;
    place.clock.set(10);
    process.client.requested().await;
    process.settle().await;
    until(async || match phase().await {
        (_, renewed) if renewed > lease => Ok(()),
        other => Err(other),
    })
    .await;
    let asked = std::time::Instant::now();
    let cancelled = process.projections.cancel_rebuild(Projection::Timeline);
    let cancelled = cancelled.await.unwrap().unwrap();
    assert_eq!(cancelled.state, State::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(5));

    // Whoever built the index drops the table as soon as it can.
    writer.rollback().await.unwrap();
    until(async || {
        let left: Option<String> =
            sqlx::query_scalar("SELECT CAST(to_regclass('timeline_shadow') AS TEXT)")
                .fetch_one(&pool)
                .await
                .unwrap();
        left.map_or(Ok(()), Err)
    })
    .await;
    idle.stop().await;
    process.stop().await;
}
