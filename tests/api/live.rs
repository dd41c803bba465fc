//! The log as it grows.

use std::time::Duration;

use axum::body::BodyDataStream;
use futures_util::StreamExt;
use notification_ledger::api::Pace;
use serde_json::{Value, json};

use crate::fixture::{Call, Fixture, LIMITS, minimal};
use crate::on_both_databases;

on_both_databases!(
    a_stream_begins_now_and_follows_the_log,
    a_stream_goes_on_after_any_event,
    a_stream_is_filtered,
    a_stream_with_an_end_ends,
    a_stream_stays_within_its_tenant,
    large_events_come_one_after_the_other,
);

const EVENTS: &str = "/v1/events";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// For streams that are not waited for.
const QUICK: Pace = Pace {
    heartbeat: Duration::from_millis(50),
    recheck: Duration::from_millis(20),
    patience: PATIENCE,
};
/// More than a page of a stream holds.
const MANY: usize = 150;

/// An open stream, read block by block.
struct Stream {
    body: BodyDataStream,
    text: String,
}

/// One message.
#[derive(Debug, PartialEq)]
struct Message {
    id: String,
    event: String,
    data: Value,
}

impl Stream {
    async fn open(call: Call<'_>) -> Self {
        let response = call.header("accept", "text/event-stream").open().await;
        assert_eq!(response.status().as_u16(), 200);
        let header = |name| response.headers()[name].to_str().unwrap();
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-accel-buffering"), "no");
        let body = response.into_body().into_data_stream();
        let mut stream = Self {
            body,
            text: String::new(),
        };
        assert_eq!(stream.block().await.unwrap(), "retry: 1000");
        stream
    }

    /// What stands between two empty lines; `None` once the stream has ended.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.into();
                return Some(block);
            }
            let next = tokio::time::timeout(PATIENCE, self.body.next());
            let Some(piece) = next.await.expect("nothing comes") else {
                assert_eq!(self.text, "", "the stream ends in the middle");
                return None;
            };
            self.text += std::str::from_utf8(&piece.unwrap()).unwrap();
        }
    }

    async fn message(&mut self) -> Option<Message> {
        loop {
            let block = self.block().await?;
            if block != ": heartbeat" {
                return Some(Message::of(&block));
            }
        }
    }

    /// So many of them.
    async fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(self.message().await.expect("the stream has ended"));
        }
        messages
    }
}

impl Message {
    /// Each line of a block says one thing.
    fn of(block: &str) -> Self {
        let lines: Vec<_> = block.lines().collect();
        let [id, event, data] = lines.as_slice() else {
            panic!("{block}")
        };
        Self {
            id: id.strip_prefix("id: ").unwrap().to_owned(),
            event: event.strip_prefix("event: ").unwrap().to_owned(),
            data: serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
        }
    }
}

/// A page of the log, as the messages it should come as.
async fn listed(f: &Fixture, query: &str) -> Vec<Message> {
    let page = f
        .get(&format!("{EVENTS}?limit=200{query}"))
        .send()
        .await
        .expect(200);
    assert_eq!(page["next_cursor"], Value::Null);
    let events = page["data"].as_array().unwrap().iter();
    events
        .map(|event| Message {
            id: event["position"].as_str().unwrap().to_owned(),
            event: event["type"].as_str().unwrap().to_owned(),
            data: event.clone(),
        })
        .collect()
}

/// Requests for one subscriber, all at once.
async fn requested_for(f: &Fixture, subscriber: &str, count: usize) {
    let command = json!({"type": "request", "workflow_id": "w", "subscriber": {"id": subscriber}});
    let commands = vec![command; count];
    f.post("/v1/commands", &json!({ "commands": commands }))
        .send()
        .await
        .expect(200);
}

async fn a_stream_begins_now_and_follows_the_log(f: &Fixture) {
    f.requested().await;
    let mut stream = Stream::open(f.get(EVENTS).key(&f.reader)).await;

    let id = f.requested().await;
    let first = stream.message().await.unwrap();
    assert_eq!(first.id, "3-2");
    assert_eq!(first.event, "notification.requested");
    assert_eq!(first.data["notification_id"], id);
    // Broken over lines, as some people write it.
    let raw = "{\"raw\": {\n  \"a\":\r\n\t\"b\\n\"}}";
    f.post_text(&format!("/v1/notifications/{id}/sent"), raw)
        .send()
        .await
        .expect(200);
    let second = stream.message().await.unwrap();

    assert_eq!(second.event, "notification.sent");
    assert_eq!(second.data["data"]["raw"], json!({"a": "b\n"}));
    assert_eq!([first, second].as_slice(), &listed(f, "&after=3-1").await);
}

async fn a_stream_goes_on_after_any_event(f: &Fixture) {
    requested_for(f, "ada", MANY).await;
    let log = listed(f, "").await;
    assert_eq!(log.len(), MANY);

    let all = f.get(&format!("{EVENTS}?after=3-0"));
    let mut all = Stream::open(all).await;
    assert_eq!(all.messages(MANY).await, log);
    for seen in [1, 63, 64, 65, MANY - 1] {
        let again = f
            .get(&format!("{EVENTS}?after=3-0"))
            .header("last-event-id", &format!("3-{seen}"));
        let mut again = Stream::open(again).await;
        assert_eq!(again.messages(MANY - seen).await, log[seen..]);
    }
    let end = format!("{EVENTS}?after=3-{MANY}");
    let mut end = Stream::open(f.get(&end)).await;
    f.requested().await;
    let next = end.message().await.unwrap();
    assert_eq!(next.id, format!("3-{}", MANY + 1));
    assert_eq!(all.message().await.unwrap(), next);
}

async fn a_stream_is_filtered(f: &Fixture) {
    requested_for(f, "ada", MANY).await;
    f.clock.advance(Duration::from_mins(1));
    let id = f.requested().await;
    requested_for(f, "bob", 3).await;
    let retract = json!({"reason": "r"});
    f.post(&format!("/v1/notifications/{id}/retract"), &retract)
        .send()
        .await
        .expect(200);

    for (query, count) in [
        ("&subscriber_id=bob", 3),
        ("&types=notification.retracted", 1),
        ("&types=notification.retracted,notification.sent", 1),
        ("&types=notification.requested&subscriber_id=bob", 3),
        ("&from=2026-03-14T09:31:00Z", 5),
        ("&from=2026-03-14T09:31:00Z&subscriber_id=ada", 2),
    ] {
        let wanted = listed(f, query).await;
        let path = format!("{EVENTS}?after=3-0{query}");
        let mut stream = Stream::open(f.get(&path)).await;
        assert_eq!(wanted.len(), count, "{query}");
        assert_eq!(stream.messages(count).await, wanted, "{query}");
    }
}

async fn a_stream_with_an_end_ends(f: &Fixture) {
    requested_for(f, "ada", 3).await;
    f.clock.advance(Duration::from_mins(1));
    requested_for(f, "ada", 2).await;

    for (query, count) in [
        ("to=2026-03-14T09:30:01Z", 3),
        ("to=2026-03-14T09:30:01Z&subscriber_id=bob", 0),
        ("to=2026-03-14T09:30:00Z", 0),
        ("to=2026-03-14T09:31:00Z", 3),
    ] {
        let path = format!("{EVENTS}?after=3-0&{query}");
        let mut stream = Stream::open(f.get(&path)).await;
        stream.messages(count).await;
        assert_eq!(stream.message().await, None, "{query}");
    }
    // Whoever comes back to it has seen everything.
    let again = f
        .get(&format!("{EVENTS}?to=2026-03-14T09:31:00Z"))
        .header("last-event-id", "3-5");
    assert_eq!(Stream::open(again).await.message().await, None);
}

async fn a_stream_stays_within_its_tenant(f: &Fixture) {
    let other = f.tenant("other").await;
    let mut stream = Stream::open(f.get(EVENTS).key(&other)).await;
    let named = f
        .get(EVENTS)
        .key(&f.operator)
        .header("x-tenant-id", "other");
    let mut named = Stream::open(named).await;

    f.requested().await;
    let made = f.post("/v1/notifications", &minimal()).key(&other);
    made.send().await.expect(201);

    let message = stream.message().await.unwrap();
    assert_eq!(message.id, "5-1");
    assert_eq!(message.data["tenant_id"], "other");
    assert_eq!(named.message().await.unwrap(), message);
}

async fn large_events_come_one_after_the_other(f: &Fixture) {
    let payload = json!({"text": "x".repeat(400 * 1024)});
    let large = json!({"workflow_id": "w", "subscriber": {"id": "ada"}, "payload": payload});
    for _ in 0..6 {
        f.post("/v1/notifications", &large).send().await.expect(201);
    }
    requested_for(f, "ada", MANY).await;
    let path = format!("{EVENTS}?after=3-0");
    let mut stream = Stream::open(f.get(&path)).await;

    let messages = stream.messages(6 + MANY).await;

    for (message, number) in messages.iter().zip(1..) {
        assert_eq!(message.id, format!("3-{number}"));
    }
    assert_eq!(messages[5].data["data"]["payload"], payload);
}

#[tokio::test]
async fn a_filter_looks_through_any_length_of_log() {
    /// More than one statement looks through.
    const LENGTH: usize = 5_200;
    let f = Fixture::new().await;
    let mut left = LENGTH;
    while left > 0 {
        let part = left.min(1_000);
        requested_for(&f, "ada", part).await;
        left -= part;
    }
    requested_for(&f, "bob", 1).await;

    let path = format!("{EVENTS}?after=3-0&subscriber_id=bob");
    let mut stream = Stream::open(f.get(&path)).await;

    let found = stream.message().await.unwrap();
    assert_eq!(found.id, format!("3-{}", LENGTH + 1));
}

#[tokio::test]
async fn only_who_prefers_a_stream_gets_one() {
    let f = Fixture::new().await;
    for accept in [
        "*/*",
        "application/json, text/event-stream;q=0.9",
        "text/html",
    ] {
        let page = f.get(EVENTS).header("accept", accept).send().await;
        assert_eq!(page.expect(200)["next_cursor"], Value::Null);
        assert_eq!(page.header("content-type"), Some("application/json"));
    }
    // To a page it says nothing.
    let page = f.get(EVENTS).header("last-event-id", "?").send().await;
    page.expect(200);
}

#[tokio::test]
async fn what_makes_no_sense_for_a_stream_is_refused() {
    let f = Fixture::new().await;
    f.requested().await;
    let live = |path: &str| f.get(path).header("accept", "text/event-stream");
    for (query, pointer) in [
        ("limit=10", "?limit"),
        ("cursor=3-1", "?cursor"),
        ("after=3-2", "?after"),
        ("after=4-1", "?after"),
        ("after=1", "?after"),
        ("types=nonsense", "?types"),
        ("from=yesterday", "?from"),
        ("to=tomorrow", "?to"),
    ] {
        let refused = live(&format!("{EVENTS}?{query}")).send().await;
        assert_eq!(refused.pointers(), [pointer], "{query}");
    }
    for id in ["3-2", "4-1", "", "x", "3-99999999999999999999"] {
        let refused = live(EVENTS).header("last-event-id", id).send().await;
        assert_eq!(refused.pointers(), ["Last-Event-ID"], "{id}");
    }
    let twice = live(EVENTS)
        .header("last-event-id", "3-0")
        .header("last-event-id", "3-1");
    assert_eq!(twice.send().await.pointers(), ["Last-Event-ID"]);
    let all = live(&format!("{EVENTS}?limit=1&cursor=3-0&after=x")).header("last-event-id", "y");
    assert_eq!(
        all.send().await.pointers(),
        ["?after", "Last-Event-ID", "?cursor", "?limit"]
    );
    let elsewhere = live(EVENTS).header("ledger-min-position", "4-1");
    assert_eq!(elsewhere.send().await.pointers(), ["Ledger-Min-Position"]);
    let writer = f.key("write").await;
    live(EVENTS)
        .key(&writer)
        .send()
        .await
        .problem(403, "forbidden");
    live(EVENTS)
        .without_key()
        .send()
        .await
        .problem(401, "unauthenticated");
}

#[tokio::test]
async fn silence_is_broken_now_and_then() {
    let f = Fixture::with_live(LIMITS, 3, QUICK).await;
    let nothing = format!("{EVENTS}?types=notification.bounced");
    let mut stream = Stream::open(f.get(&nothing)).await;

    for _ in 0..3 {
        f.requested().await;
        assert_eq!(stream.block().await.unwrap(), ": heartbeat");
    }
}

#[tokio::test]
async fn no_more_streams_are_open_than_may_be() {
    let f = Fixture::with_live(LIMITS, 2, Pace::default()).await;
    let open = async || {
        let metrics = f.get("/metrics").send().await.text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("ledger_live_streams "));
        line.unwrap().to_owned()
    };
    assert_eq!(open().await, "0");
    let one = Stream::open(f.get(EVENTS)).await;
    let _other = Stream::open(f.get(EVENTS)).await;
    assert_eq!(open().await, "2");

    let refused = f.get(EVENTS).header("accept", "text/event-stream");
    refused.send().await.problem(503, "overloaded");
    f.get(EVENTS).send().await.expect(200);

    drop(one);
    assert_eq!(open().await, "1");
    Stream::open(f.get(EVENTS)).await;
}

/// Of several pieces.
async fn open_and_read_a_little(f: &Fixture) -> Stream {
    requested_for(f, "ada", MANY).await;
    let path = format!("{EVENTS}?after=3-0");
    Stream::open(f.get(&path)).await
}

#[tokio::test]
async fn who_takes_nothing_is_given_up() {
    let pace = Pace {
        patience: Duration::from_millis(100),
        ..Pace::default()
    };
    let f = Fixture::with_live(LIMITS, 1, pace).await;
    let mut stuck = open_and_read_a_little(&f).await;

    // There is room for another one then.
    let started = std::time::Instant::now();
    loop {
        let call = f.get(EVENTS).header("accept", "text/event-stream");
        if call.open().await.status().as_u16() == 200 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "it is not given up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // What was on its way comes, and then it is no good end.
    let mut pieces = 0;
    let end = loop {
        match stuck.body.next().await {
            Some(Ok(_)) => pieces += 1,
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    assert!(pieces <= 2, "{pieces}");
}

#[tokio::test]
async fn who_takes_a_little_now_and_then_is_not_given_up() {
    let pace = Pace {
        patience: Duration::from_secs(2),
        ..Pace::default()
    };
    let f = Fixture::with_live(LIMITS, 1, pace).await;
    let mut slow = open_and_read_a_little(&f).await;
    for _ in 0..5 {
        tokio::time::sleep(pace.patience / 4).await;
        slow.body.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_stream_outlives_the_time_for_a_request_but_not_the_service() {
    let limits = notification_ledger::api::Limits {
        request_timeout: Duration::from_millis(200),
        ..LIMITS
    };
    let f = Fixture::with_live(limits, 2, QUICK).await;
    let mut stream = Stream::open(f.get(EVENTS)).await;
    let mut busy = Stream::open(f.get(&format!("{EVENTS}?after=3-0"))).await;
    tokio::time::sleep(limits.request_timeout * 2).await;
    f.requested().await;
    stream.message().await.unwrap();

    requested_for(&f, "ada", MANY).await;
    busy.message().await.unwrap();
    f.stopping.cancel();

    while stream.message().await.is_some() {}
    while busy.message().await.is_some() {}
}

#[tokio::test]
async fn who_may_not_read_any_more_hears_no_more() {
    let f = Fixture::with_live(LIMITS, 2, QUICK).await;
    let made = f
        .post("/v1/keys", &json!({"scopes": ["read"]}))
        .send()
        .await;
    let made = made.expect(201);
    let secret = made["secret"].as_str().unwrap_or_else(|| panic!("{made}"));
    let mut stream = Stream::open(f.get(EVENTS).key(secret)).await;
    let mut other = Stream::open(f.get(EVENTS)).await;

    let id = made["id"].as_str().unwrap();
    let revoked = f.delete(&format!("/v1/keys/{id}")).send().await;
    assert!(revoked.status.is_success(), "{}", revoked.text());

    assert_eq!(stream.message().await, None);
    f.requested().await;
    assert!(other.message().await.is_some());
}
