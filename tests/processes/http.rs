//! The API, as its callers see it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::place::Service;

/// Longest wait for an answer. Longer than anything the service may wait for itself.
pub(crate) const ANSWER: Duration = Duration::from_secs(35);
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
/// The largest page there is.
const PAGE: usize = 200;

/// A tenant, and a key that may read and write.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) key: String,
}

/// The processes that serve one ledger. A restarted one has another address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    now: Arc<Mutex<Vec<SocketAddr>>>,
    next: Arc<AtomicUsize>,
}

impl Addresses {
    pub(crate) fn of(services: &[&Service]) -> Self {
        let addresses = Self::default();
        addresses.change(services);
        addresses
    }

    pub(crate) fn change(&self, services: &[&Service]) {
        *self.now.lock().unwrap() = services.iter().map(|service| service.address).collect();
    }

    /// Each in turn.
    fn next(&self) -> SocketAddr {
        let addresses = self.now.lock().unwrap();
        addresses[self.next.fetch_add(1, Ordering::Relaxed) % addresses.len()]
    }
}

/// Somebody who calls with a tenant's key.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client,
    addresses: Addresses,
    key: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// `partition-position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Position {
    pub(crate) partition: u16,
    pub(crate) position: u64,
}

/// One event of the log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the contract")]
pub(crate) struct Event {
    pub(crate) event_id: Uuid,
    pub(crate) notification_id: Uuid,
    pub(crate) sequence: u64,
    pub(crate) position: Position,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) recorded_at: String,
    pub(crate) hash: String,
    pub(crate) data: Value,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Event>,
    next_cursor: Option<String>,
}

impl Caller {
    pub(crate) fn new(addresses: &Addresses, tenant: &Tenant) -> Self {
        Self::with_patience(addresses, tenant, ANSWER)
    }

    /// One that gives up on an answer after so long.
    pub(crate) fn with_patience(
        addresses: &Addresses,
        tenant: &Tenant,
        patience: Duration,
    ) -> Self {
        Self {
            client: Client::builder()
                .timeout(patience)
                .no_proxy()
                .build()
                .unwrap(),
            addresses: addresses.clone(),
            key: tenant.key.clone(),
        }
    }

    /// The same caller, asking other processes.
    pub(crate) fn at(&self, service: &Service) -> Self {
        Self {
            addresses: Addresses::of(&[service]),
            ..self.clone()
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.next())
    }

    /// # Errors
    ///
    /// When there was no answer.
    pub(crate) async fn try_get(&self, path: &str) -> reqwest::Result<Answer> {
        self.send(self.client.get(self.url(path))).await
    }

    /// An answer that must come.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    /// # Errors
    ///
    /// When there was no answer: then nobody knows what became of it.
    pub(crate) async fn try_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> reqwest::Result<Answer> {
        let mut request = self
            .client
            .post(self.url(path))
            .header("Content-Type", JSON);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.to_owned())).await
    }

    /// An answer that must come.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.try_post(path, headers, body).await.unwrap()
    }

    /// # Errors
    ///
    /// When there was no answer: then nobody knows what became of it.
    pub(crate) async fn try_delete(&self, path: &str) -> reqwest::Result<Answer> {
        self.send(self.client.delete(self.url(path))).await
    }

    /// # Errors
    ///
    /// When the answers broke off.
    pub(crate) async fn try_post_lines(&self, path: &str, lines: &str) -> reqwest::Result<Answer> {
        let request = self
            .client
            .post(self.url(path))
            .header("Content-Type", LINES);
        self.send(request.body(lines.to_owned())).await
    }

    async fn send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.bearer_auth(&self.key).send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// The log from its beginning, page by page.
    pub(crate) async fn log(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut query = format!("/v1/events?limit={PAGE}");
        loop {
            let answer = self.get(&query).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let page: Page = answer.read();
            events.extend(page.data);
            let Some(cursor) = page.next_cursor else {
                return events;
            };
            query = format!("/v1/events?limit={PAGE}&cursor={cursor}");
        }
    }

    /// What comes after an event, if the service answers: at most a page.
    pub(crate) async fn log_after(&self, position: Option<Position>) -> Option<Vec<Event>> {
        let after = position
            .map(|position| format!("&after={position}"))
            .unwrap_or_default();
        let answer = self
            .try_get(&format!("/v1/events?limit={PAGE}{after}"))
            .await
            .ok()?;
        (answer.status == 200).then(|| answer.read::<Page>().data)
    }

    /// The log as it grows, after an event that was seen: an answer that goes on for as long as
    /// this caller waits for one.
    ///
    /// # Errors
    ///
    /// When there was no answer.
    pub(crate) async fn try_follow(&self, seen: Position) -> reqwest::Result<Response> {
        let request = self
            .client
            .get(self.url("/v1/events"))
            .header("Accept", "text/event-stream")
            .header("Last-Event-ID", seen.to_string());
        request.bearer_auth(&self.key).send().await
    }

    /// Live streams that are open at this moment.
    pub(crate) async fn live_streams(&self) -> i64 {
        self.gauge("ledger_live_streams").await
    }

    /// Requests in the service at this moment, this one left out.
    pub(crate) async fn in_flight(&self) -> i64 {
        self.gauge("ledger_http_in_flight").await - 1
    }

    async fn gauge(&self, name: &str) -> i64 {
        let answer = self.get("/metrics").await;
        let text = answer.body.as_str().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.rsplit_once(' ')).unwrap().1;
        value.parse().unwrap()
    }

    /// Asks for a notification.
    pub(crate) async fn request(&self, external_id: &str) -> Answer {
        self.post("/v1/notifications", &[], &request_body(external_id))
            .await
    }

    /// One notification's events.
    pub(crate) async fn history(&self, notification: Uuid) -> Vec<Event> {
        let answer = self
            .get(&format!("/v1/notifications/{notification}/events"))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.read::<Page>().data
    }
}

/// The least there is to a notification.
pub(crate) fn request_body(external_id: &str) -> String {
    request_body_to("s", external_id)
}

/// One for a subscriber, whose address is to be sealed.
pub(crate) fn request_body_to(subscriber: &str, external_id: &str) -> String {
    let subscriber = json!({ "id": subscriber, "email": format!("{subscriber}@example.test") });
    json!({ "workflow_id": "w", "subscriber": subscriber, "external_id": external_id }).to_string()
}

/// The `external_id`s in a log, sorted.
pub(crate) fn external_ids(log: &[Event]) -> Vec<String> {
    let ids = log
        .iter()
        .filter_map(|event| event.data["external_id"].as_str());
    let mut ids: Vec<_> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

impl Answer {
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(&self) -> T {
        T::deserialize(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// An answer of one value a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        match &self.body {
            Value::String(text) => text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            only => vec![only.clone()],
        }
    }

    /// "Not now": with the right words, and with when to come back.
    pub(crate) fn assert_says_later(&self, codes: &[&str]) {
        assert_eq!(self.status, 503, "{self:?}");
        let code = self.body["code"].as_str().unwrap_or_default();
        assert!(codes.contains(&code), "{self:?}");
        let seconds = self
            .header("Retry-After")
            .and_then(|text| text.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds >= 1), "{self:?}");
    }
}

impl TryFrom<String> for Position {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parts = text.split_once('-');
        let parsed = parts.and_then(|(partition, position)| {
            Some(Self {
                partition: partition.parse().ok()?,
                position: position.parse().ok()?,
            })
        });
        parsed.ok_or(text)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.partition, self.position)
    }
}
