//! More is asked than can be done.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::audit::audit;
use crate::clients::{Crowd, Plan};
use crate::database::Hold;
use crate::dice::Dice;
use crate::http::{Addresses, Caller, external_ids, request_body_to};
use crate::place::{Place, timed};
use crate::wait::until;

/// Commands that may wait.
const QUEUE: usize = 4;
/// Commands that are too many for a queue of one.
const ELSEWHERE: usize = 12;
/// Commands that are sent at once.
const FLOOD: usize = 60;
/// "At once" on a busy machine. Much less than the queue takes to move on here.
const AT_ONCE: Duration = Duration::from_secs(2);
/// By then nobody is inside who has been answered or has gone.
const LEFT: Duration = Duration::from_secs(10);
/// Events the small queue has to pass.
const EVENTS: usize = 800;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_so_at_once_and_the_others_are_served() {
    let place = Place::sqlite().with("LEDGER_QUEUE_COMMANDS_MAX", QUEUE.to_string());
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    assert_eq!(caller.request("before").await.status, 201);

    // Nothing leaves the queue for now.
    let hold = Hold::of(&place).await;
    let mut flood = JoinSet::new();
    for number in 0..FLOOD {
        let caller = caller.clone();
        flood.spawn(async move {
            let external_id = format!("flood-{number:02}");
            let (answer, took) = timed(caller.request(&external_id)).await;
            (external_id, answer, took)
        });
    }
    let mut refused = 0;
    // The lane may have taken a queue full of them before it got stuck.
    while refused < FLOOD - 2 * QUEUE - 1 {
        let (_, answer, took) = flood.join_next().await.unwrap().unwrap();
        answer.assert_says_later(&["overloaded"]);
        assert!(took < AT_ONCE, "{took:?}");
        refused += 1;
    }
    let (log, took) = timed(caller.log()).await;
    assert_eq!(external_ids(&log), ["before"]);
    assert!(took < AT_ONCE, "reading took {took:?}");
    assert_eq!(caller.get("/healthz").await.status, 200);
    assert_eq!(caller.get("/readyz").await.status, 200);
    hold.release().await;

    let mut expected = vec!["before".to_owned()];
    while let Some(ended) = flood.join_next().await {
        let (external_id, answer, _) = ended.unwrap();
        if answer.status == 201 {
            expected.push(external_id);
        } else {
            answer.assert_says_later(&["overloaded"]);
        }
    }
    expected.sort();
    assert!(expected.len() > QUEUE, "{expected:?}");
    assert_eq!(external_ids(&caller.log().await), expected);
    let (answer, took) = timed(caller.request("after")).await;
    assert_eq!(answer.status, 201);
    assert!(took < AT_ONCE, "{took:?}");
    place.verify();
}

/// The first process was about to be the first to seal something for each of these subscribers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_put_off_here_can_go_elsewhere_and_come_back() {
    let place = Place::sqlite().with("LEDGER_QUEUE_COMMANDS_MAX", "1");
    let (full, other) = (place.start().await, place.start().await);
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&full]), &tenant);
    let hold = Hold::of(&place).await;
    let mut flood = JoinSet::new();
    for number in 0..ELSEWHERE {
        let caller = caller.clone();
        let body = request_body_to(&format!("subscriber-{number}"), "here");
        flood.spawn(async move { (number, caller.post("/v1/notifications", &[], &body).await) });
    }
    let (number, answer) = flood.join_next().await.unwrap().unwrap();
    answer.assert_says_later(&["overloaded"]);
    hold.release().await;
    flood.join_all().await;

    let subscriber = format!("subscriber-{number}");
    let body = request_body_to(&subscriber, "elsewhere");
    let made = caller
        .at(&other)
        .post("/v1/notifications", &[], &body)
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.body["id"].as_str().unwrap();
    let read = caller.get(&format!("/v1/notifications/{id}")).await;

    assert_eq!((read.status, &read.body), (200, &made.body));
    assert_eq!(
        read.body["subscriber"]["email"],
        format!("{subscriber}@example.test")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_back_later_gets_everything_through_a_small_queue() {
    let mut dice = Dice::of_test("small queue");
    let place = Place::sqlite().with("LEDGER_QUEUE_COMMANDS_MAX", "2");
    let service = place.start().await;
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let addresses = Addresses::of(&[&service]);
    let plan = Plan {
        clients: 12,
        shared: 2,
        shared_percent: 20,
    };

    let mut crowd = Crowd::start(&addresses, &tenants, &plan, &mut dice).await;
    crowd.progress(EVENTS).await;
    until("somebody is put off", AT_ONCE, async || {
        (crowd.put_off() > 0).then_some(())
    })
    .await;
    let seen = crowd.finish().await;
    // Some have broken off in the middle; nothing of theirs is left behind.
    let caller = Caller::new(&addresses, &tenants[0]);
    until("everybody has left", LEFT, async || {
        (caller.in_flight().await == 0).then_some(())
    })
    .await;

    audit(&place, &addresses, &tenants, &seen).await;
}
