//! Starting, and stopping without losing what was begun.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::place::{Place, Service, on_both_databases, until};

/// What a stop may take.
const STOP: Duration = Duration::from_secs(10);

on_both_databases!(
    what_is_in_flight_is_answered_before_the_end,
    a_start_is_quick
);

fn is_ready(service: &Service) -> bool {
    let Ok(mut stream) = TcpStream::connect(service.address) else {
        return false;
    };
    let request = "GET /readyz HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// The first part of a request whose body is still to come, and that body.
fn half_a_request(service: &Service, key: &str) -> (TcpStream, &'static str) {
    let body = r#"{"workflow_id":"welcome","subscriber":{"id":"ada"}}"#;
    let mut stream = TcpStream::connect(service.address).unwrap();
    let (first, rest) = body.split_at(10);
    write!(
        stream,
        "POST /v1/notifications HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    )
    .unwrap();
    (stream, rest)
}

async fn what_is_in_flight_is_answered_before_the_end(place: Place) {
    let place = place.with_tenant();
    let key = place.done(&["keys", "create", "--tenant", "acme"]);
    let service = place.serve();
    until("ready", || is_ready(&service).then_some(()));
    let (mut stream, rest) = half_a_request(&service, key.trim());
    // Somebody who has connected and says nothing must not hold up the stop.
    let silent = TcpStream::connect(service.address).unwrap();
    let address = service.address;
    std::thread::sleep(Duration::from_millis(200));

    let told = Instant::now();
    service.signal("TERM");
    until("no longer listens", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    stream.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");

    let ran = service.ended(STOP.saturating_sub(told.elapsed()));
    assert_eq!(ran.code(), 0);
    drop(silent);
    let checked = place.json(&["verify", "--json"]);
    assert_eq!(checked["events"], 1, "{checked}");
}

async fn a_start_is_quick(place: Place) {
    let place = place.with_tenant();

    let began = Instant::now();
    let service = place.serve();
    until("ready", || is_ready(&service).then_some(()));
    let took = began.elapsed();

    eprintln!("ready after {took:?}");
    // A release build needs a tenth of this.
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::sqlite().with_tenant();
    let key = place.done(&["keys", "create", "--tenant", "acme"]);
    let service = place.serve();
    let (_stream, _) = half_a_request(&service, key.trim());
    let address = service.address;
    std::thread::sleep(Duration::from_millis(200));

    service.signal("INT");
    until("no longer listens", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    let told = Instant::now();
    service.signal("INT");
    let ran = service.ended(Duration::from_secs(5));

    assert_eq!(ran.code(), 1);
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn an_idle_service_stops_at_once_and_serving_is_the_default() {
    let place = Place::sqlite();
    let service = place.start(&[]);
    until("ready", || is_ready(&service).then_some(()));

    let told = Instant::now();
    assert_eq!(service.stop().code(), 0);

    assert!(
        told.elapsed() < Duration::from_secs(3),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn an_address_in_use_is_named_and_costs_no_operator_key() {
    let place = Place::sqlite();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let ran = place.run(&["serve", "--listen", &address]);

    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("can't listen on {address}")),
        "{ran:?}"
    );
    // The key that nobody was shown was not made.
    let ran = place.serve().stop();
    assert!(ran.stdout.contains("nlop_"), "{ran:?}");
}
