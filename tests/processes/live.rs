//! Clients that follow the log, through everything that may happen to them and to the service.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Response;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::audit::audit;
use crate::clients::{Crowd, Plan};
use crate::database::Cluster;
use crate::dice::Dice;
use crate::http::{Addresses, Caller, Event, Position, Tenant};
use crate::place::{Place, Service, timed};
use crate::wait::until;

/// Events that are written while others follow.
const EVENTS: usize = 1500;
/// How often the service or its database is killed, and what is written between two kills.
const KILLS: usize = 5;
const BETWEEN: std::ops::Range<usize> = 60..300;
/// Longest time that a restless reader stays.
const RESTLESS: Duration = Duration::from_millis(120);
/// The least that a restless reader has to come back in a test.
const RETURNS: usize = 10;
/// Longer than any stream lasts here.
const LASTING: Duration = Duration::from_mins(10);
/// By then, everybody who follows has seen what there is.
const SEEN: Duration = Duration::from_secs(30);
/// Whatever is sent twice has come by then.
const A_LITTLE: Duration = Duration::from_millis(1500);
/// Before somebody who found no service tries again.
const PAUSE: Duration = Duration::from_millis(20);
/// Notifications for somebody who takes nothing: more than all buffers on the way hold.
const LARGE: usize = 40;
const PAYLOAD_BYTES: usize = 400 * 1024;
const BUFFER_BYTES: u32 = 4096;
/// A stop takes no longer, whoever follows. Much less than the service waits for other answers.
const STOPPED: Duration = Duration::from_secs(6);

fn plan() -> Plan {
    Plan {
        clients: 6,
        shared: 2,
        shared_percent: 30,
    }
}

/// Somebody who follows a tenant's log from its beginning.
struct Follower {
    seen: Arc<Mutex<Seen>>,
    /// Ends when dropped.
    task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    /// How often a stream was opened.
    streams: usize,
}

impl Follower {
    /// With dice, it hangs up now and then, wherever it is, and comes back.
    fn start(addresses: &Addresses, tenant: &Tenant, partition: u16, dice: Option<Dice>) -> Self {
        let caller = Caller::with_patience(addresses, tenant, LASTING);
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(follow(caller, partition, Arc::clone(&seen), dice));
        Self { seen, task }
    }

    /// It has seen the whole log, and nothing else. Says how many streams it took.
    async fn has_seen(mut self, log: &[Event]) -> usize {
        until("the whole log is seen", SEEN, async || {
            (self.seen.lock().unwrap().events.len() >= log.len()).then_some(())
        })
        .await;
        tokio::time::sleep(A_LITTLE).await;
        // It only ends by failing.
        if let Some(ended) = self.task.try_join_next() {
            ended.unwrap();
        }
        drop(self.task);
        let seen = self.seen.lock().unwrap();
        assert_eq!(positions(&seen.events), positions(log));
        assert_eq!(seen.events, log);
        seen.streams
    }
}

fn positions(events: &[Event]) -> Vec<Position> {
    events.iter().map(|event| event.position).collect()
}

async fn follow(caller: Caller, partition: u16, seen: Arc<Mutex<Seen>>, mut dice: Option<Dice>) {
    let mut last = Position {
        partition,
        position: 0,
    };
    loop {
        let stay = dice
            .as_mut()
            .map_or(LASTING, |dice| dice.roll_time(RESTLESS));
        let staying = async {
            let Ok(response) = caller.try_follow(last).await else {
                return;
            };
            if response.status().as_u16() == 503 {
                return;
            }
            assert_eq!(response.status().as_u16(), 200, "{response:?}");
            seen.lock().unwrap().streams += 1;
            read(response, &mut last, &seen).await;
        };
        let _ = tokio::time::timeout(stay, staying).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads until the stream ends or breaks.
async fn read(mut response: Response, last: &mut Position, seen: &Mutex<Seen>) {
    let mut bytes: Vec<u8> = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        bytes.extend_from_slice(&piece);
        while let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = bytes.drain(..end + 2).collect();
            let block = String::from_utf8(block).unwrap();
            let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
            if let Some(id) = field("id: ") {
                let event: Event = serde_json::from_str(field("data: ").unwrap()).unwrap();
                assert_eq!(field("event: "), Some(event.event_type.as_str()));
                assert_eq!(id, event.position.to_string());
                *last = event.position;
                seen.lock().unwrap().events.push(event);
            }
        }
    }
}

/// Whoever has hung up is counted out.
async fn assert_streams_are_closed(caller: &Caller) {
    until("the streams are closed", SEEN, async || {
        (caller.live_streams().await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_sees_everything_once_on_sqlite() {
    let place = Place::sqlite();
    let service = place.start().await;
    follow_a_crowd(&place, &[&service], Dice::of_test("live on SQLite")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_one_of_two_processes_sees_everything_once_on_sqlite() {
    let place = Place::sqlite();
    let (one, other) = tokio::join!(place.start(), place.start());
    let dice = Dice::of_test("live on SQLite, two processes");
    follow_a_crowd(&place, &[&one, &other], dice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn who_follows_one_of_two_processes_sees_everything_once_on_postgres() {
    let place = Place::postgres().await;
    let (one, other) = tokio::join!(place.start(), place.start());
    let dice = Dice::of_test("live on PostgreSQL");
    follow_a_crowd(&place, &[&one, &other], dice).await;
}

/// Everybody writes to all processes. One reader stays with the first process; another hangs up
/// again and again and comes back to any.
async fn follow_a_crowd(place: &Place, services: &[&Service], mut dice: Dice) {
    let tenants = [place.tenant("a", 0), place.tenant("b", 1)];
    let first = Addresses::of(&services[..1]);
    let all = Addresses::of(services);
    let mut steady = Vec::new();
    let mut restless = Vec::new();
    for (tenant, partition) in tenants.iter().zip(0..) {
        steady.push(Follower::start(&first, tenant, partition, None));
        restless.push(Follower::start(&all, tenant, partition, Some(dice.split())));
    }

    let mut crowd = Crowd::start(&all, &tenants, &plan(), &mut dice).await;
    crowd.progress(EVENTS).await;
    let seen = crowd.finish().await;

    for ((tenant, steady), restless) in tenants.iter().zip(steady).zip(restless) {
        let log = Caller::new(&all, tenant).log().await;
        assert_eq!(steady.has_seen(&log).await, 1, "its stream has broken");
        let streams = restless.has_seen(&log).await;
        assert!(streams > RETURNS, "{streams}");
        eprintln!(
            "{} events; {streams} streams of a restless reader",
            log.len()
        );
    }
    for service in services {
        assert_streams_are_closed(&Caller::new(&all, &tenants[0]).at(service)).await;
    }
    audit(place, &all, &tenants, &seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_service_that_is_killed_goes_on_where_it_was_on_sqlite() {
    follow_through_kills(&Place::sqlite(), Dice::of_test("live, killed on SQLite")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn who_follows_a_service_that_is_killed_goes_on_where_it_was_on_postgres() {
    let place = Place::postgres().await;
    follow_through_kills(&place, Dice::of_test("live, killed on PostgreSQL")).await;
}

async fn follow_through_kills(place: &Place, mut dice: Dice) {
    let mut service = place.start().await;
    let tenants = [place.tenant("a", 0)];
    let addresses = Addresses::of(&[&service]);
    let steady = Follower::start(&addresses, &tenants[0], 0, None);
    let restless = Follower::start(&addresses, &tenants[0], 0, Some(dice.split()));
    let mut crowd = Crowd::start(&addresses, &tenants, &plan(), &mut dice).await;
    for _ in 0..KILLS {
        crowd.progress(dice.roll(BETWEEN)).await;
        service.kill();
        service = place.start().await;
        addresses.change(&[&service]);
    }
    crowd.progress(dice.roll(BETWEEN)).await;
    let seen = crowd.finish().await;

    let log = Caller::new(&addresses, &tenants[0]).log().await;
    assert!(steady.has_seen(&log).await > KILLS);
    restless.has_seen(&log).await;
    audit(place, &addresses, &tenants, &seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_stream_waits_for_a_database_that_is_gone() {
    let mut dice = Dice::of_test("live without PostgreSQL");
    let mut cluster = Cluster::start();
    let place = Place::on(&cluster, "postgres", "postgres");
    let (one, other) = tokio::join!(place.start(), place.start());
    let tenants = [place.tenant("a", 0)];
    let writing = Addresses::of(&[&one]);
    let reading = Addresses::of(&[&other]);
    let steady = Follower::start(&reading, &tenants[0], 0, None);
    let mut crowd = Crowd::start(&writing, &tenants, &plan(), &mut dice).await;
    for kill in 0..KILLS {
        crowd.progress(dice.roll(BETWEEN)).await;
        cluster.kill(kill % 2 == 1).await;
        cluster.start_again().await;
    }
    crowd.progress(dice.roll(BETWEEN)).await;
    let seen = crowd.finish().await;

    let log = Caller::new(&writing, &tenants[0]).log().await;
    assert_eq!(steady.has_seen(&log).await, 1, "its stream has ended");
    audit(&place, &writing, &tenants, &seen).await;
    // Said once when it is lost, and once when it is back.
    let said = other.log();
    for line in [
        "announcements are not heard",
        "announcements are heard again",
    ] {
        let times = said.matches(line).count();
        assert!((1..=KILLS).contains(&times), "{times} times: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_does_not_hold_up_a_stop_even_without_reading() {
    let place = Place::sqlite();
    let mut service = place.start().await;
    let tenant = place.tenant("a", 0);
    let addresses = Addresses::of(&[&service]);
    let caller = Caller::new(&addresses, &tenant);
    let payload = json!({ "text": "x".repeat(PAYLOAD_BYTES) });
    let body = json!({ "workflow_id": "w", "subscriber": { "id": "s" }, "payload": payload });
    let body = body.to_string();
    for _ in 0..LARGE {
        let answer = caller.post("/v1/notifications", &[], &body);
        assert_eq!(answer.await.status, 201);
    }
    let idle = Follower::start(&addresses, &tenant, 0, None);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
    let mut stuck = socket.connect(service.address).await.unwrap();
    let head = format!(
        "GET /v1/events?after=0-0 HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {}\r\n\
         Accept: text/event-stream\r\n\r\n",
        tenant.key
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    until("both follow", SEEN, async || {
        let is_there = idle.seen.lock().unwrap().events.len() == LARGE;
        (is_there && caller.live_streams().await == 2).then_some(())
    })
    .await;

    service.terminate();
    let (status, took) = timed(service.ended()).await;

    assert!(status.success(), "{status}");
    assert!(took < STOPPED, "{took:?}");
    eprintln!("stopped after {took:?}");
    drop(idle);
}
