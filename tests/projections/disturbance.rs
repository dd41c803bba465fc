//! Steps that are broken off, runners that come and go, and several of them on one database: every
//! event is in the tables exactly once.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::Partition;
use notification_ledger::projections::Projection;
use notification_ledger::projections::step::{Stepper, Wanted};
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::process::{PATIENCE, Process};
use crate::storm::{Callers, Turn, storm};
use crate::support::{Place, on_each_database};
use crate::tables::assert_expected;

on_each_database!("multi_thread":
    steps_that_are_broken_off_anywhere_leave_no_trace,
    two_processes_share_the_work,
    four_processes_that_come_and_go_share_the_work,
    more_than_one_step_holds_is_followed_to_the_end,
);

const SEED: u64 = 20_260_314;

/// Polls a future so many times at most, then drops it. Says whether it came to its end.
async fn broken_off(future: impl Future, polls: usize) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn deeds(turns: usize, seed: u64) -> impl Iterator<Item = Turn> {
    storm(turns, seed).into_iter().filter(Turn::is_a_deed)
}

async fn step(stepper: &Stepper, dice: &mut Dice) {
    let wanted = Projection::ALL.map(|projection| Wanted {
        projection,
        events_max: i64::try_from(dice.roll(1..20)).unwrap(),
    });
    let partition = if dice.roll(0..3) == 0 { 2 } else { 0 };
    let steps = stepper.step(Partition(partition), &wanted);
    // A step's wait for one answer is one poll; some are cut off within.
    let cut = dice.roll_time(Duration::from_millis(3));
    match dice.roll(0..3) {
        0 => drop(steps.await.unwrap()),
        1 => drop(broken_off(steps, dice.roll(0..30)).await),
        _ => drop(tokio::time::timeout(cut, steps).await),
    }
}

async fn steps_that_are_broken_off_anywhere_leave_no_trace(place: &Place) {
    let process = Process::idle(place);
    let stepper = process.stepper();
    stepper.store.add_checkpoints().await.unwrap();
    let callers = Callers::of(&process.client);
    let mut dice = Dice::of_test("steps broken off");
    for deed in deeds(300, SEED) {
        callers.act(&deed).await;
        step(&stepper, &mut dice).await;
    }

    process.start().await;
    process.settle().await;

    assert_expected(&stepper.store, place.storage.as_ref()).await;
    drop(callers);
    process.stop().await;
}

/// Connections of a process's own.
async fn own_database(place: &Place) -> Database {
    match place.database().clone() {
        Database::Postgres { options, .. } => Database::Postgres {
            pool: PgPoolOptions::new()
                .max_connections(3)
                .acquire_timeout(PATIENCE)
                .connect_lazy_with(options.as_ref().clone()),
            options,
        },
        Database::Sqlite { path, .. } => Database::sqlite(&path, false, 3, PATIENCE).await.unwrap(),
    }
}

async fn own_process(place: &Place) -> (Process, Database) {
    let database = own_database(place).await;
    let process = Process::on(place, &database);
    process.start().await;
    (process, database)
}

async fn two_processes_share_the_work(place: &Place) {
    let processes = [own_process(place).await, own_process(place).await];
    let mut working = JoinSet::new();
    for ((process, _), seed) in processes.iter().zip(SEED..) {
        let callers = Callers::of(&process.client);
        working.spawn(async move {
            for deed in deeds(250, seed) {
                callers.act(&deed).await;
            }
        });
    }
    working.join_all().await;

    for (process, _) in &processes {
        process.settle().await;
        assert_expected(process.projections.store(), place.storage.as_ref()).await;
    }
    for (process, database) in processes {
        process.stop().await;
        database.close().await;
    }
}

async fn four_processes_that_come_and_go_share_the_work(place: &Place) {
    let mut dice = Dice::of_test("processes that come and go");
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(own_process(place).await);
    }
    let writer = Process::idle(place);
    let callers = Callers::of(&writer.client);
    for (number, deed) in deeds(400, SEED + 7).enumerate() {
        callers.act(&deed).await;
        if number % 20 == 19 {
            let leaver = dice.roll(0..4);
            let (process, database) = processes.swap_remove(leaver);
            // Wherever its steps are.
            process.stop().await;
            database.close().await;
            processes.push(own_process(place).await);
        }
    }

    writer.settle().await;

    assert_expected(writer.projections.store(), place.storage.as_ref()).await;
    for (process, database) in processes {
        process.stop().await;
        database.close().await;
    }
    drop(callers);
    writer.stop().await;
}

async fn more_than_one_step_holds_is_followed_to_the_end(place: &Place) {
    let process = Process::idle(place);
    for _ in 0..3 {
        let requests = (0..800).map(|_| process.client.requested());
        futures_util::future::join_all(requests).await;
    }

    process.start().await;
    process.settle().await;

    assert_expected(process.projections.store(), place.storage.as_ref()).await;
    process.stop().await;
}
