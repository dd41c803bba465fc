//! A client that follows over HTTP/2 and takes nothing, on a connection that is well.

use std::time::Duration;

use h2::client;
use http::Request;
use serde_json::json;
use tokio::net::TcpStream;

use crate::http::{Addresses, Caller};
use crate::place::Place;
use crate::wait::until;

/// Notifications, larger together than a stream's window.
const COUNT: usize = 4;
const PAYLOAD_BYTES: usize = 100 * 1024;
/// The service waits for a minute.
const GIVEN_UP: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_over_http_2_and_takes_nothing_is_given_up() {
    let place = Place::sqlite();
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let addresses = Addresses::of(&[&service]);
    let caller = Caller::new(&addresses, &tenant);
    let payload = json!({ "text": "x".repeat(PAYLOAD_BYTES) });
    let body = json!({ "workflow_id": "w", "subscriber": { "id": "s" }, "payload": payload });
    let body = body.to_string();
    for _ in 0..COUNT {
        let answer = caller.post("/v1/notifications", &[], &body);
        assert_eq!(answer.await.status, 201);
    }
    let tcp = TcpStream::connect(service.address).await.unwrap();
    let (mut requests, connection) = client::handshake(tcp).await.unwrap();
    let mut going_on = tokio::task::JoinSet::new();
    going_on.spawn(connection);
    let mut get = async |path: &str, accept: &str| {
        let request = Request::get(format!("http://ledger{path}"))
            .header("authorization", format!("Bearer {}", tenant.key))
            .header("accept", accept)
            .body(())
            .unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        response.await.unwrap()
    };

    let stuck = get("/v1/events?after=0-0", "text/event-stream").await;

    assert_eq!(stuck.status(), 200);
    assert_eq!(caller.live_streams().await, 1);
    until("the stream is given up", GIVEN_UP, async || {
        (caller.live_streams().await == 0).then_some(())
    })
    .await;
    // The others on the connection go on.
    assert_eq!(get("/v1/events", "*/*").await.status(), 200);
    // Who takes what was on its way then, and more, is told that it is not all.
    let mut stuck = stuck.into_body();
    let mut taken = 0;
    let end = loop {
        match stuck.data().await {
            Some(Ok(piece)) => {
                taken += piece.len();
                stuck.flow_control().release_capacity(piece.len()).unwrap();
            }
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    assert!(taken < COUNT * PAYLOAD_BYTES, "{taken}");
}
