//! A crowd that uses the ledger as it is meant to be used: every call carries an idempotency key
//! and is repeated, unchanged, until it is answered.
//!
//! Whatever goes wrong outside, a client only ever sees an answer, a 503 that says when to come
//! back, or a broken connection. Anything else ends the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::dice::Dice;
use crate::http::{Addresses, Answer, Caller, Event, Position, Tenant};

/// How long a client goes on repeating one call.
const PERSISTENCE: Duration = Duration::from_mins(1);
/// How long it waits for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a hundred attempts, how many a client breaks off almost at once, and after how long.
const HASTY_PERCENT: usize = 5;
const HASTY: Duration = Duration::from_millis(6);
/// Longest wait for the crowd to get something done.
const PROGRESS: Duration = Duration::from_mins(1);
/// Between two attempts. Shorter than `Retry-After` asks for: tests are impatient.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at the log.
const FOLLOW: Duration = Duration::from_millis(15);
/// Subscribers whose keys the clients share.
const SUBSCRIBERS: usize = 12;
/// Items of a bulk call.
const BULK: std::ops::Range<usize> = 2..7;
/// Facts that are never refused.
const FACTS: [&str; 6] = ["sent", "delivered", "bounced", "seen", "read", "interacted"];

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Crowd {
    counts: Arc<Counts>,
    clients: JoinSet<Vec<Answered>>,
    followers: JoinSet<(String, Vec<Event>)>,
}

/// What a crowd has seen. All of it was answered.
#[derive(Debug)]
pub(crate) struct Seen {
    /// By tenant; each client's in the order of its calls.
    pub(crate) answered: Vec<Answered>,
    /// What those who followed the log saw, by tenant.
    pub(crate) followed: Vec<(String, Vec<Event>)>,
    pub(crate) counts: Arc<Counts>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Events that were answered.
    pub(crate) events: AtomicUsize,
    /// Calls that were told to come back later.
    pub(crate) later: AtomicUsize,
    /// Calls whose connection broke.
    pub(crate) broken: AtomicUsize,
    stop: AtomicBool,
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) tenant: String,
    pub(crate) client: usize,
    pub(crate) call: Call,
    pub(crate) entries: Vec<Entry>,
}

/// One event that was answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) notification_id: Uuid,
    pub(crate) sequence: u64,
    pub(crate) position: Position,
    pub(crate) event_type: String,
    pub(crate) marker: String,
}

/// A call that can be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    path: String,
    idempotency_key: Option<String>,
    body: String,
    shape: Shape,
    /// Type and marker of the events it leads to, in order.
    wanted: Vec<(String, String)>,
}

/// How commands are put into a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Lines,
}

/// Why a call has to be repeated.
#[derive(Debug)]
pub(crate) enum Setback {
    Later,
    Broken,
}

/// How a crowd is made up.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// For each tenant.
    pub(crate) clients: usize,
    /// Notifications that all clients of a tenant write to.
    pub(crate) shared: usize,
    /// Of a hundred calls, how many are about those.
    pub(crate) shared_percent: usize,
}

impl Crowd {
    /// Lets the clients loose. They go on until told to stop.
    pub(crate) async fn start(
        addresses: &Addresses,
        tenants: &[Tenant],
        plan: &Plan,
        dice: &mut Dice,
    ) -> Self {
        let mut crowd = Self {
            counts: Arc::default(),
            clients: JoinSet::new(),
            followers: JoinSet::new(),
        };
        for tenant in tenants {
            let caller = Caller::with_patience(addresses, tenant, PATIENCE);
            let mut first = Client {
                number: 0,
                tenant: tenant.id.clone(),
                caller: caller.clone(),
                dice: dice.split(),
                counts: Arc::clone(&crowd.counts),
                shared: Arc::default(),
                shared_percent: plan.shared_percent,
                own: Vec::new(),
                calls: 0,
            };
            let mut answered = Vec::new();
            for _ in 0..plan.shared {
                let call = first.request();
                answered.push(first.persist(call).await);
            }
            first.own.clear();
            let shared: Arc<[Uuid]> = answered
                .iter()
                .map(|answered| answered.entries[0].notification_id)
                .collect();
            for number in 1..=plan.clients {
                let client = Client {
                    number,
                    dice: dice.split(),
                    shared: Arc::clone(&shared),
                    ..first.clone()
                };
                let before = std::mem::take(&mut answered);
                crowd.clients.spawn(client.work(before));
            }
            let (name, counts) = (tenant.id.clone(), Arc::clone(&crowd.counts));
            crowd
                .followers
                .spawn(async move { (name, follow(&caller, &counts).await) });
        }
        crowd
    }

    /// Waits until so many more events were answered.
    pub(crate) async fn progress(&mut self, events: usize) {
        let started = Instant::now();
        let goal = self.counts.events.load(Ordering::Relaxed) + events;
        while self.counts.events.load(Ordering::Relaxed) < goal {
            // A client only ends early by failing.
            if let Some(ended) = self.clients.try_join_next() {
                ended.unwrap();
            }
            assert!(
                started.elapsed() < PROGRESS,
                "nothing gets done: {:?}",
                self.counts
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Calls so far that were told to come back later.
    pub(crate) fn put_off(&self) -> usize {
        self.counts.later.load(Ordering::Relaxed)
    }

    /// Lets everybody finish what they are at.
    pub(crate) async fn finish(self) -> Seen {
        self.counts.stop.store(true, Ordering::Relaxed);
        Seen {
            answered: self
                .clients
                .join_all()
                .await
                .into_iter()
                .flatten()
                .collect(),
            followed: self.followers.join_all().await,
            counts: self.counts,
        }
    }
}

/// Reads the log as it grows, each time from where it was.
async fn follow(caller: &Caller, counts: &Counts) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while !counts.stop.load(Ordering::Relaxed) {
        let last = events.last().map(|event| event.position);
        events.extend(caller.log_after(last).await.into_iter().flatten());
        tokio::time::sleep(FOLLOW).await;
    }
    events
}

#[derive(Clone, Debug)]
struct Client {
    number: usize,
    tenant: String,
    caller: Caller,
    dice: Dice,
    counts: Arc<Counts>,
    shared: Arc<[Uuid]>,
    shared_percent: usize,
    /// Notifications it has made.
    own: Vec<Uuid>,
    calls: usize,
}

impl Client {
    async fn work(mut self, mut answered: Vec<Answered>) -> Vec<Answered> {
        while !self.counts.stop.load(Ordering::Relaxed) {
            let call = match self.dice.roll(0..100) {
                0..35 => self.request(),
                35..70 => self.fact(),
                _ => self.bulk(),
            };
            answered.push(self.persist(call).await);
        }
        answered
    }

    /// Repeats a call until it is answered.
    async fn persist(&mut self, call: Call) -> Answered {
        let started = Instant::now();
        loop {
            let entries = match self.attempt(&call).await {
                Ok(entries) => entries,
                Err(setback) => {
                    let counter = match setback {
                        Setback::Later => &self.counts.later,
                        Setback::Broken => &self.counts.broken,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let so_far = started.elapsed();
                    assert!(so_far < PERSISTENCE, "{setback:?} for {so_far:?}: {call:?}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            self.counts
                .events
                .fetch_add(entries.len(), Ordering::Relaxed);
            for entry in &entries {
                if entry.event_type == "notification.requested" {
                    self.own.push(entry.notification_id);
                }
            }
            return Answered {
                tenant: self.tenant.clone(),
                client: self.number,
                call,
                entries,
            };
        }
    }

    async fn attempt(&mut self, call: &Call) -> Result<Vec<Entry>, Setback> {
        let attempt = call.send(&self.caller);
        if self.dice.roll(0..100) >= HASTY_PERCENT {
            return attempt.await;
        }
        let hasty = tokio::time::timeout(self.dice.roll_time(HASTY), attempt);
        hasty.await.unwrap_or(Err(Setback::Broken))
    }

    /// A text that no other event has.
    fn marker(&mut self) -> String {
        self.calls += 1;
        format!("{}/{}/{}", self.tenant, self.number, self.calls)
    }

    fn request(&mut self) -> Call {
        let (body, wanted) = self.request_item();
        Call::single("/v1/notifications".to_owned(), &body, wanted)
    }

    fn fact(&mut self) -> Call {
        let Some(target) = self.target() else {
            return self.request();
        };
        let word = *self.dice.pick(&FACTS);
        let (body, wanted) = self.fact_item(word);
        Call::single(format!("/v1/notifications/{target}/{word}"), &body, wanted)
    }

    /// Requests and facts; a fact may be about a request before it.
    fn bulk(&mut self) -> Call {
        let mut commands: Vec<Value> = Vec::new();
        let mut wanted = Vec::new();
        let mut made = None;
        for _ in 0..self.dice.roll(BULK) {
            let target = match self.dice.roll(0..3) {
                0 => None,
                1 => made.or_else(|| self.target()),
                _ => self.target(),
            };
            let (command, event) = match target {
                None => {
                    let (mut command, event) = self.request_item();
                    let id = self.dice.uuid();
                    command["id"] = json!(id);
                    command["type"] = json!("request");
                    made = Some(id);
                    (command, event)
                }
                Some(target) => {
                    let word = *self.dice.pick(&FACTS);
                    let (mut command, event) = self.fact_item(word);
                    command["notification_id"] = json!(target);
                    command["type"] = json!(word);
                    (command, event)
                }
            };
            commands.push(command);
            wanted.push(event);
        }
        // Either the call has a key, or each of its items.
        let whole = self.dice.roll(0..3) == 0;
        if !whole {
            for (command, (_, marker)) in commands.iter_mut().zip(&wanted) {
                command["idempotency_key"] = json!(marker);
            }
        }
        let shape = if whole || self.dice.roll(0..2) == 0 {
            Shape::List
        } else {
            Shape::Lines
        };
        let body = match shape {
            Shape::Lines => commands.iter().fold(String::new(), |lines, command| {
                lines + &command.to_string() + "\n"
            }),
            Shape::One | Shape::List => json!({ "commands": commands }).to_string(),
        };
        Call {
            path: "/v1/commands".to_owned(),
            idempotency_key: whole.then(|| wanted[0].1.clone()),
            body,
            shape,
            wanted,
        }
    }

    /// A notification to report about, if there is one.
    fn target(&mut self) -> Option<Uuid> {
        let shared = self.dice.roll(0..100) < self.shared_percent;
        let among = if shared {
            &self.shared[..]
        } else {
            &self.own[..]
        };
        (!among.is_empty()).then(|| *self.dice.pick(among))
    }

    fn request_item(&mut self) -> (Value, (String, String)) {
        let marker = self.marker();
        let subscriber = format!("subscriber-{}", self.dice.roll(0..SUBSCRIBERS));
        let body = json!({
            "workflow_id": "welcome",
            "external_id": marker,
            "subscriber": { "id": subscriber, "email": format!("{subscriber}@example.test") },
            "channels": ["email"],
            "payload": { "marker": marker },
        });
        (body, ("notification.requested".to_owned(), marker))
    }

    fn fact_item(&mut self, word: &str) -> (Value, (String, String)) {
        let marker = self.marker();
        // The same fact only counts once, so each has a time of its own.
        let mut body = json!({
            "message": { "channel": "email", "step_id": format!("{}", self.number) },
            "occurred_at": format!("2026-03-14T09:00:00.{:06}Z", self.calls),
            "raw": { "marker": marker },
        });
        if word == "interacted" {
            body["kind"] = json!("opened");
        }
        (body, (format!("notification.{word}"), marker))
    }
}

impl Call {
    fn single(path: String, body: &Value, wanted: (String, String)) -> Self {
        Self {
            path,
            idempotency_key: Some(wanted.1.clone()),
            body: body.to_string(),
            shape: Shape::One,
            wanted: vec![wanted],
        }
    }

    /// # Errors
    ///
    /// When it has to be repeated.
    pub(crate) async fn send(&self, caller: &Caller) -> Result<Vec<Entry>, Setback> {
        let key = self
            .idempotency_key
            .as_deref()
            .map(|key| ("Idempotency-Key", key));
        let answer = match self.shape {
            Shape::One | Shape::List => {
                caller
                    .try_post(&self.path, key.as_slice(), &self.body)
                    .await
            }
            Shape::Lines => caller.try_post_lines(&self.path, &self.body).await,
        };
        let answer = answer.map_err(|_| Setback::Broken)?;
        if answer.status == 503 {
            answer.assert_says_later(&["overloaded", "unavailable"]);
            return Err(Setback::Later);
        }
        match self.shape {
            Shape::One => Ok(vec![self.only_entry(&answer)]),
            Shape::List => {
                assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
                self.entries(answer.body["results"].as_array().unwrap())
            }
            Shape::Lines => {
                assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
                self.entries(&answer.lines())
            }
        }
    }

    fn only_entry(&self, answer: &Answer) -> Entry {
        let expected = if self.path == "/v1/notifications" {
            201
        } else {
            200
        };
        assert_eq!(answer.status, expected, "{self:?}: {answer:?}");
        assert!(
            answer.body.get("deduplicated").is_none(),
            "{self:?}: {answer:?}"
        );
        let position = answer.header("Ledger-Position").unwrap().to_owned();
        self.entry(0, &answer.body["id"], &answer.body["version"], position)
    }

    fn entries(&self, results: &[Value]) -> Result<Vec<Entry>, Setback> {
        assert_eq!(results.len(), self.wanted.len(), "{self:?}: {results:?}");
        let is_later = |result: &Value| result["status"] == 503;
        if results.iter().any(is_later) {
            return Err(Setback::Later);
        }
        let entries = results.iter().enumerate().map(|(index, result)| {
            let made = self.wanted[index].0 == "notification.requested";
            assert_eq!(
                result["status"],
                if made { 201 } else { 200 },
                "{self:?}: {result:?}"
            );
            assert_eq!(result["index"], index, "{self:?}: {result:?}");
            assert!(result.get("deduplicated").is_none(), "{self:?}: {result:?}");
            let position = result["position"].as_str().unwrap().to_owned();
            self.entry(
                index,
                &result["notification_id"],
                &result["version"],
                position,
            )
        });
        Ok(entries.collect())
    }

    fn entry(&self, index: usize, id: &Value, version: &Value, position: String) -> Entry {
        let (event_type, marker) = self.wanted[index].clone();
        Entry {
            notification_id: id.as_str().unwrap().parse().unwrap(),
            sequence: version.as_u64().unwrap(),
            position: position.try_into().unwrap(),
            event_type,
            marker,
        }
    }
}
