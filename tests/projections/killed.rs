//! Services that are killed at any moment, and the tables they leave to the next one.

use std::sync::Arc;
use std::time::Duration;

use notification_ledger::ledger::database::Database;
use notification_ledger::projections::Projection;
use notification_ledger::projections::store::Store;

use crate::clients::{Crowd, Plan};
use crate::dice::Dice;
use crate::http::Addresses;
use crate::place::{Place, Service};
use crate::process::PATIENCE;
use crate::tables::assert_expected;
use crate::wait::until;

/// How often a service is killed.
const ROUNDS: usize = 4;
/// Events that are answered between two kills.
const EVENTS: std::ops::Range<usize> = 20..120;
/// A little longer, so that any part of a step may be the last one.
const A_LITTLE: Duration = Duration::from_millis(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_counts_every_event_once_on_sqlite() {
    let dice = Dice::of_test("projections killed on SQLite");
    kill_again_and_again(&Place::sqlite(), 1, dice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn killed_at_any_moment_it_counts_every_event_once_on_postgres() {
    let dice = Dice::of_test("projections killed on PostgreSQL");
    kill_again_and_again(&Place::postgres().await, 1, dice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn one_of_two_is_killed_and_the_other_goes_on() {
    let dice = Dice::of_test("one of two killed");
    kill_again_and_again(&Place::postgres().await, 2, dice).await;
}

async fn kill_again_and_again(place: &Place, count: usize, mut dice: Dice) {
    let mut services = Vec::new();
    for _ in 0..count {
        services.push(place.start().await);
    }
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let addresses = Addresses::of(&all(&services));
    let plan = Plan {
        clients: 5,
        shared: 3,
        shared_percent: 40,
    };
    let mut crowd = Crowd::start(&addresses, &tenants, &plan, &mut dice).await;
    for _ in 0..ROUNDS {
        crowd.progress(dice.roll(EVENTS)).await;
        tokio::time::sleep(dice.roll_time(A_LITTLE)).await;
        services.swap_remove(dice.roll(0..services.len())).kill();
        if !services.is_empty() {
            addresses.change(&all(&services));
            crowd.progress(dice.roll(EVENTS)).await;
        }
        services.push(place.start().await);
        addresses.change(&all(&services));
    }
    crowd.progress(dice.roll(EVENTS)).await;
    crowd.finish().await;

    let database = opened(place).await;
    let (store, storage) = (Store::new(&database), database.storage());
    until("the tables have everything", PATIENCE, async || {
        let progress = store.progress().await.unwrap();
        let is_done = progress
            .iter()
            .all(|progress| progress.checkpoint.position == progress.checkpoint.head);
        is_done.then_some(())
    })
    .await;
    let tables = assert_expected(&store, Arc::clone(&storage).as_ref()).await;
    let timeline = tables.rows(Projection::Timeline.tables()[0]);
    assert!(
        timeline.len() > ROUNDS * EVENTS.start,
        "hardly anything happened"
    );
    drop(services);
    store.close().await;
    database.close().await;
}

fn all(services: &[Service]) -> Vec<&Service> {
    services.iter().collect()
}

/// The database, as one more process has it.
pub(crate) async fn opened(place: &Place) -> Database {
    let url = place.database_url();
    let opened = match url.strip_prefix("sqlite://") {
        Some(path) => Database::sqlite(path.as_ref(), false, 2, PATIENCE).await,
        None => Database::postgres(url, 2, PATIENCE).await,
    };
    opened.unwrap()
}
