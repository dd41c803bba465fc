//! The service is asked to stop while it is busy.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::database::Hold;
use crate::http::{Addresses, Caller, external_ids, request_body};
use crate::place::{Place, Service};
use crate::raw::RawCall;
use crate::wait::until;

/// Requests that are half-way through the door when the service is told to stop.
const HALF: usize = 6;
/// Requests that wait for the database then.
const WAITING: usize = 20;
/// How long they still wait then. Longer than anything lasts that the service allows itself after
/// the last answer, and shorter than its own wait for the database.
const STILL_WAITING: Duration = Duration::from_millis(2500);
/// What the tests wait for besides comes at once, unless the machine is very busy.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_before_the_stop_is_finished_on_sqlite() {
    stop_while_busy(&Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn what_was_begun_before_the_stop_is_finished_on_postgres() {
    stop_while_busy(&Place::postgres().await).await;
}

async fn stop_while_busy(place: &Place) {
    let mut service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    // Nobody can write for now, so what arrives waits inside.
    let hold = Hold::of(place).await;
    let mut waiting = JoinSet::new();
    for number in 0..WAITING {
        let caller = caller.clone();
        waiting.spawn(async move { caller.request(&format!("waiting-{number}")).await });
    }
    let mut half = Vec::new();
    for number in 0..HALF {
        let body = request_body(&format!("half-{number}"));
        half.push(RawCall::half_way(&service, &tenant, &body).await);
    }
    let inside = i64::try_from(WAITING + HALF).unwrap();
    until("all are inside", SOON, async || {
        (caller.in_flight().await == inside).then_some(())
    })
    .await;

    service.terminate();
    no_longer_listens(&service).await;
    for call in &mut half {
        call.send_the_rest().await;
    }
    tokio::time::sleep(STILL_WAITING).await;
    hold.release().await;

    for answer in waiting.join_all().await {
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    for call in half {
        let answer = call.answer().await;
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
    let status = service.ended().await;
    assert!(status.success(), "{status}");
    let next = place.start().await;
    let seen = external_ids(&caller.at(&next).log().await);
    let mut expected: Vec<_> = (0..WAITING)
        .map(|number| format!("waiting-{number}"))
        .collect();
    expected.extend((0..HALF).map(|number| format!("half-{number}")));
    expected.sort();
    assert_eq!(seen, expected);
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_never_finish_do_not_hold_up_the_stop() {
    let place = Place::sqlite().with("LEDGER_SHUTDOWN_TIMEOUT_MS", "3500");
    let mut service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    assert_eq!(caller.request("before").await.status, 201);
    let _half = RawCall::half_way(&service, &tenant, &request_body("never")).await;
    let _silent = TcpStream::connect(service.address).await.unwrap();

    service.terminate();
    let status = service.ended().await;

    // Somebody else's patience is no failure of ours.
    assert!(status.success(), "{status}");
    let next = place.start().await;
    assert_eq!(external_ids(&caller.at(&next).log().await), ["before"]);
}

async fn no_longer_listens(service: &Service) {
    until("the service no longer listens", SOON, async || {
        TcpStream::connect(service.address)
            .await
            .is_err()
            .then_some(())
    })
    .await;
}
