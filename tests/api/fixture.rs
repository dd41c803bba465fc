//! A service in a database of its own, with a clock that stands still and ids in their order, and
//! everything a test asks of it over HTTP.

use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, StatusCode, request};
use http_body_util::BodyExt;
use notification_ledger::api::{ApiState, Limits, Live, Pace, Parts, Readiness, Refusals};
use notification_ledger::app;
use notification_ledger::clock::{Clock, IdSource, Surroundings, System};
use notification_ledger::domain::ids::TenantId;
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::database::{Database, LedgerRow};
use notification_ledger::ledger::registry::{NewKey, Registry, Scopes};
use notification_ledger::ledger::sealing::MasterKey;
use notification_ledger::ledger::{Ledger, Options};
use notification_ledger::projections::Projections;
use notification_ledger::tasks::Tasks;
use notification_ledger::telemetry::Metrics;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

/// What time it is at first: 2026-03-14T09:30:00Z.
const START: i64 = 1_773_480_600_000_000;
pub(crate) const PARTITIONS: i16 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// More than a test opens.
const LIVE_STREAMS_MAX: usize = 20;
/// As they are unless configured otherwise.
pub(crate) const LIMITS: Limits = Limits {
    body_bytes_max: 1024 * 1024,
    bulk_body_bytes_max: 16 * 1024 * 1024,
    payload_bytes_max: 512 * 1024,
    body_timeout: Duration::from_secs(10),
    request_timeout: Duration::from_secs(30),
};

/// Stands still until a test moves it.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap();
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_clamped(self.0.load(Ordering::SeqCst))
    }
}

/// Gives one id after the other. Versions and variants are right, and nothing else is real.
#[derive(Debug, Default)]
struct CountedIds(AtomicU64);

impl CountedIds {
    fn next(&self, version: u128) -> Uuid {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Uuid::from_u128(version << 76 | 0x8 << 60 | u128::from(number))
    }
}

impl IdSource for CountedIds {
    fn time_ordered(&self) -> Uuid {
        self.next(7)
    }

    fn random(&self) -> Uuid {
        self.next(4)
    }
}

pub(crate) struct Fixture {
    pub(crate) router: Router,
    pub(crate) state: ApiState,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) operator: String,
    /// Keys of the tenant most tests are about: for everything, and for reading only.
    pub(crate) acme: String,
    pub(crate) reader: String,
    /// Cancelled, it ends what goes on until the service stops.
    pub(crate) stopping: CancellationToken,
    /// Of a SQLite file.
    _folder: Option<TempDir>,
}

impl Fixture {
    /// In a SQLite file of its own.
    pub(crate) async fn new() -> Self {
        Self::with(LIMITS).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::with_live(limits, LIVE_STREAMS_MAX, Pace::default()).await
    }

    /// In a SQLite file of its own, with so many live streams at that pace.
    pub(crate) async fn with_live(limits: Limits, streams_max: usize, pace: Pace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        let database = Database::sqlite(&file, true, 4, ACQUIRE_TIMEOUT)
            .await
            .unwrap();
        Self {
            _folder: Some(folder),
            ..Self::on(database, limits, streams_max, pace).await
        }
    }

    async fn on(database: Database, limits: Limits, streams_max: usize, pace: Pace) -> Self {
        let tasks = Tasks::new();
        let live = Live::new(streams_max, tasks.clone(), pace);
        let clock = Arc::new(TestClock(AtomicI64::new(START)));
        let surroundings = Surroundings {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ids: Arc::new(CountedIds::default()),
        };
        let state = state(database, surroundings, limits, live).await;
        let acme = TenantId::new("acme").unwrap();
        state
            .registry
            .create_tenant(&acme, Some("Acme Ltd."), Some(3))
            .await
            .unwrap();
        Self {
            router: app::router(state.clone()),
            clock,
            operator: key(&state, None, Scopes::ALL).await,
            acme: key(&state, Some(&acme), Scopes::ALL).await,
            reader: key(&state, Some(&acme), "read".parse().unwrap()).await,
            state,
            stopping: tasks.stopping().clone(),
            _folder: None,
        }
    }

    /// A tenant of its own partition, and a key for everything.
    pub(crate) async fn tenant(&self, slug: &str) -> String {
        let id = TenantId::new(slug).unwrap();
        self.state
            .registry
            .create_tenant(&id, None, Some(5))
            .await
            .unwrap();
        key(&self.state, Some(&id), Scopes::ALL).await
    }

    /// A key of the usual tenant's with some scopes.
    pub(crate) async fn key(&self, scopes: &str) -> String {
        let acme = TenantId::new("acme").unwrap();
        key(&self.state, Some(&acme), scopes.parse().unwrap()).await
    }

    pub(crate) fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    /// With a JSON body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Call<'_> {
        self.post_text(path, body.to_string())
    }

    /// With a body that is said to be JSON.
    pub(crate) fn post_text(&self, path: &str, body: impl Into<Body>) -> Call<'_> {
        let mut call = self
            .call(Method::POST, path)
            .header("content-type", "application/json");
        call.body = body.into();
        call
    }

    /// Lines, said to be NDJSON.
    pub(crate) fn post_lines(&self, lines: impl Into<Body>) -> Call<'_> {
        let mut call = self
            .call(Method::POST, "/v1/commands")
            .header("content-type", "application/x-ndjson");
        call.body = lines.into();
        call
    }

    /// Without a body, by the usual tenant's key for everything.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call {
            router: &self.router,
            request: Request::builder().method(method).uri(path),
            key: Some(self.acme.clone()),
            body: Body::empty(),
        }
    }

    /// Requests a notification, and gives its id.
    pub(crate) async fn requested(&self) -> String {
        let made = self
            .post("/v1/notifications", &minimal())
            .send()
            .await
            .expect(201);
        made["id"].as_str().unwrap().to_owned()
    }

    /// An answer that has everything the usual tenant has written so far.
    pub(crate) async fn fresh(&self, path: &str) -> Value {
        let heads = self.state.ledger.heads().await.unwrap();
        let head = heads.iter().find(|head| head.partition.0 == 3).unwrap();
        let position = format!("3-{}", head.position);
        let answer = self.get(path).header("ledger-min-position", &position);
        answer.send().await.expect(200)
    }

    /// Takes everybody's keys away, as erasures do.
    pub(crate) async fn erase_everybody(&self) {
        let erase = sqlx::raw_sql("UPDATE data_keys SET wrapped_key = NULL, erased_at = 1");
        match &self.state.database {
            Database::Postgres { pool, .. } => drop(erase.execute(pool).await.unwrap()),
            Database::Sqlite { pool, .. } => drop(erase.execute(pool).await.unwrap()),
        }
    }

    /// How many events there are.
    pub(crate) async fn events(&self) -> usize {
        let page = self.get("/v1/events?limit=200").send().await.expect(200);
        page["data"].as_array().unwrap().len()
    }
}

/// The smallest request.
pub(crate) fn minimal() -> Value {
    json!({"workflow_id": "welcome", "subscriber": {"id": "ada"}})
}

/// A call in the making.
pub(crate) struct Call<'a> {
    router: &'a Router,
    request: request::Builder,
    key: Option<String>,
    body: Body,
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self.header("content-type", "application/json")
    }

    /// A header that is no text.
    pub(crate) fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    pub(crate) fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    pub(crate) fn without_content_type(mut self) -> Self {
        let headers = self.request.headers_mut().unwrap();
        headers.remove("content-type");
        self
    }

    /// Under an idempotency key.
    pub(crate) fn once(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) async fn send(self) -> Reply {
        let response = self.open().await;
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// The answer as it begins.
    pub(crate) async fn open(self) -> http::Response<Body> {
        let mut request = self.request;
        if let Some(key) = self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        self.router
            .clone()
            .oneshot(request.body(self.body).unwrap())
            .await
            .unwrap()
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self.json()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.text();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    /// A problem as every problem must be, with this status and code.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(problem["status"], status);
        assert_eq!(
            problem["type"],
            format!("urn:notification-ledger:problem:{code}")
        );
        for name in ["title", "detail"] {
            assert!(!problem[name].as_str().unwrap().is_empty(), "{problem}");
        }
        assert_eq!(self.header("request-id"), problem["request_id"].as_str());
        let waits = self.header("retry-after").is_some();
        assert_eq!(waits, status == 503, "{problem}");
        problem
    }

    /// Where a request is wrong, of an answer that must say so.
    #[track_caller]
    pub(crate) fn pointers(&self) -> Vec<String> {
        let problem = self.problem(422, "invalid");
        let errors = problem["errors"].as_array().unwrap();
        errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The first answer again.
    #[track_caller]
    pub(crate) fn is_replay_of(&self, first: &Self) {
        assert_eq!(first.header("idempotent-replayed"), None);
        assert_eq!(self.header("idempotent-replayed"), Some("true"));
        assert_eq!((self.status, self.text()), (first.status, first.text()));
        for name in ["location", "etag", "ledger-position", "content-type"] {
            assert_eq!(self.header(name), first.header(name), "{name}");
        }
    }
}

async fn state(
    database: Database,
    surroundings: Surroundings,
    limits: Limits,
    live: Live,
) -> ApiState {
    database.migrate().await.unwrap();
    let master = Arc::new(MasterKey::new(&[7; 32]).unwrap());
    let metrics = Metrics::new().unwrap();
    let row = LedgerRow {
        ledger_id: Uuid::from_u128(1),
        partitions: PARTITIONS,
        key_check: "not checked here".to_owned(),
        created_at: surroundings.now(),
    };
    let (row, _) = database
        .create_ledger(&row, Uuid::from_u128(2))
        .await
        .unwrap();
    let tasks = Tasks::new();
    let ledger = Ledger::start(
        database.storage(),
        Arc::clone(&master),
        Options {
            // An erasure is noticed at once.
            key_cache_ttl: Duration::ZERO,
            ..Options::default()
        },
        surroundings.clone(),
        &metrics,
        &tasks,
    )
    .unwrap();
    let projections = Projections::new(&database, PARTITIONS, &ledger, &surroundings, &metrics);
    projections.start(&tasks).await.unwrap();
    let registry = Registry::new(
        database.clone(),
        Arc::clone(&master),
        surroundings.clone(),
        PARTITIONS,
        Duration::from_secs(10),
        &metrics,
    );
    ApiState::new(Parts {
        ledger,
        projections,
        registry,
        database,
        ledger_row: row,
        master,
        surroundings,
        metrics,
        limits,
        webhook_tolerance: Duration::from_mins(5),
        public_url: "https://ledger.example".to_owned(),
        readiness: Readiness::default(),
        refusals: Refusals::new(tasks),
        live,
    })
}

async fn key(state: &ApiState, tenant_id: Option<&TenantId>, scopes: Scopes) -> String {
    let new = NewKey {
        tenant_id: tenant_id.cloned(),
        name: None,
        scopes,
    };
    let (_, secret) = state.registry.create_key(new, None).await.unwrap();
    secret.expose_secret().to_owned()
}

pub(crate) async fn on_sqlite(test: impl AsyncFnOnce(&Fixture)) {
    test(&Fixture::new().await).await;
}

/// In a database that is dropped afterwards, even when the test fails.
pub(crate) async fn on_postgres(test: impl AsyncFnOnce(&Fixture)) {
    let url = std::env::var("TEST_POSTGRES_URL").expect("TEST_POSTGRES_URL names a server");
    let server = PgConnectOptions::from_str(&url).unwrap();
    let name = format!("api_{}", System.random().simple());
    execute(&server, format!("CREATE DATABASE {name}")).await;
    let running = AssertUnwindSafe(in_database(&server, &name, test)).catch_unwind();
    let outcome = running.await;
    execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn in_database(server: &PgConnectOptions, name: &str, test: impl AsyncFnOnce(&Fixture)) {
    let url = server.clone().database(name).to_url_lossy();
    let database = Database::postgres(url.as_str(), 4, ACQUIRE_TIMEOUT)
        .await
        .unwrap();
    let fixture = Fixture::on(database, LIMITS, LIVE_STREAMS_MAX, Pace::default()).await;
    test(&fixture).await;
    fixture.state.database.close().await;
}

async fn execute(server: &PgConnectOptions, statement: String) {
    let mut connection = server.connect().await.unwrap();
    // Put together from a name made here.
    let statement = sqlx::raw_sql(AssertSqlSafe(statement));
    statement.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
