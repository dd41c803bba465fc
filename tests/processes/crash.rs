//! The service is killed at any moment.

use std::time::Duration;

use crate::audit::audit;
use crate::clients::{Crowd, Plan};
use crate::dice::Dice;
use crate::http::{Addresses, Caller, external_ids};
use crate::place::{Place, timed};

/// How often it is killed.
const ROUNDS: usize = 8;
/// Events that are answered between two kills: enough that commits are always under way.
const EVENTS: std::ops::Range<usize> = 40..250;
/// A little longer, so that any step of a commit may be the last one.
const A_LITTLE: Duration = Duration::from_millis(8);
/// First starts that are interrupted, on as many new ledgers.
const STARTS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_nothing_answered_is_lost_on_sqlite() {
    kill_again_and_again(&Place::sqlite(), Dice::of_test("crash on SQLite")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn killed_at_any_moment_nothing_answered_is_lost_on_postgres() {
    let place = Place::postgres().await;
    kill_again_and_again(&place, Dice::of_test("crash on PostgreSQL")).await;
}

async fn kill_again_and_again(place: &Place, mut dice: Dice) {
    let mut service = place.start().await;
    let tenants = [
        place.tenant("a", 0),
        place.tenant("b", 0),
        place.tenant("c", 1),
    ];
    let addresses = Addresses::of(&[&service]);
    let plan = Plan {
        clients: 6,
        shared: 3,
        shared_percent: 25,
    };
    let mut crowd = Crowd::start(&addresses, &tenants, &plan, &mut dice).await;
    for _ in 0..ROUNDS {
        crowd.progress(dice.roll(EVENTS)).await;
        tokio::time::sleep(dice.roll_time(A_LITTLE)).await;
        service.kill();
        service = place.start().await;
        addresses.change(&[&service]);
    }
    crowd.progress(dice.roll(EVENTS)).await;
    let seen = crowd.finish().await;

    audit(place, &addresses, &tenants, &seen).await;
    service.kill();
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_its_very_first_start_it_starts_again_on_sqlite() {
    let mut dice = Dice::of_test("first start on SQLite");
    let (_, takes) = timed(Place::sqlite().start()).await;
    for _ in 0..STARTS {
        kill_first_start(&Place::sqlite(), dice.roll_time(takes)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn killed_at_its_very_first_start_it_starts_again_on_postgres() {
    let mut dice = Dice::of_test("first start on PostgreSQL");
    let place = Place::postgres().await;
    let (_, takes) = timed(place.start()).await;
    for _ in 0..STARTS {
        kill_first_start(&Place::postgres().await, dice.roll_time(takes)).await;
    }
}

async fn kill_first_start(place: &Place, after: Duration) {
    let first = place.begin();
    tokio::time::sleep(after).await;
    first.kill();

    let service = place.start().await;

    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    assert_eq!(caller.request("first").await.status, 201);
    assert_eq!(external_ids(&caller.log().await), ["first"]);
    place.verify();
}
