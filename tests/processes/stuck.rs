//! Clients that begin something and stop.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::http::{Addresses, Caller, external_ids, request_body};
use crate::place::{Place, timed};
use crate::raw::{RawCall, head};

/// Of each kind.
const STUCK: usize = 40;
/// Calls made in their midst.
const CALLS: usize = 40;
/// Longest wait of a caller in their midst, on a busy machine. Much less than the service waits
/// for those who are stuck.
const UNHARMED: Duration = Duration::from_secs(2);
/// How long the service waits for the next piece of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(4);
/// By then, whoever is stuck in the middle of a body has been told. Much less than the service
/// waits for a request as a whole.
const TOLD: Duration = Duration::from_secs(15);
/// Notifications there are to read.
const EARLIER: usize = 20;
/// Reads that are asked for by somebody who never looks at the answers.
const UNREAD: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_clients_harm_nobody_else() {
    let millis = BODY_TIMEOUT.as_millis().to_string();
    let place = Place::sqlite().with("LEDGER_BODY_TIMEOUT_MS", millis);
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    let body = request_body("stuck");
    let whole_head = head(&tenant, body.len(), "");
    // A stream of lines has no length; its first line never ends.
    let lines = whole_head
        .replace("/v1/notifications", "/v1/commands")
        .replace("application/json", "application/x-ndjson")
        .replace(
            &format!("Content-Length: {}", body.len()),
            "Transfer-Encoding: chunked",
        );
    let many_reads = format!(
        "GET /v1/events?limit=200 HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {}\r\n\r\n",
        tenant.key
    )
    .repeat(UNREAD);
    for number in 0..EARLIER {
        let answer = caller.request(&format!("before-{number:02}")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    let mut connections = Vec::new();
    let mut half_way = Vec::new();
    for _ in 0..STUCK {
        for text in [
            "",
            &whole_head[..whole_head.len() / 2],
            &whole_head,
            &format!("{lines}5\r\n{{\"typ\r\n"),
            &many_reads,
        ] {
            let mut stream = TcpStream::connect(service.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            connections.push(stream);
        }
        half_way.push(RawCall::half_way(&service, &tenant, &body).await);
    }
    let mut slowest = Duration::ZERO;
    for number in 0..CALLS {
        let (answer, took) = timed(caller.request(&format!("call-{number:02}"))).await;
        assert_eq!(answer.status, 201);
        slowest = slowest.max(took);
    }
    assert!(slowest < UNHARMED, "{slowest:?}");

    // They are told, and that is the end of it.
    for call in half_way {
        let answer = tokio::time::timeout(TOLD, call.answer()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let mut expected: Vec<_> = (0..EARLIER)
        .map(|number| format!("before-{number:02}"))
        .collect();
    expected.extend((0..CALLS).map(|number| format!("call-{number:02}")));
    expected.sort();
    assert_eq!(external_ids(&caller.log().await), expected);
    place.verify();
}
