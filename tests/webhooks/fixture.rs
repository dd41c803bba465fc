//! A service in a database of its own, with a clock that stands still, and everything a test
//! asks of it over HTTP.

use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use notification_ledger::api::{ApiState, Limits, Live, Pace, Parts, Readiness, Refusals};
use notification_ledger::app;
use notification_ledger::clock::{Clock, IdSource, Surroundings, System};
use notification_ledger::domain::ids::TenantId;
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::database::{Database, LedgerRow};
use notification_ledger::ledger::registry::{NewKey, Registry, Scope, Scopes};
use notification_ledger::ledger::sealing::MasterKey;
use notification_ledger::ledger::{Ledger, Options};
use notification_ledger::projections::Projections;
use notification_ledger::tasks::Tasks;
use notification_ledger::telemetry::Metrics;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tower::ServiceExt;
use uuid::Uuid;

use crate::novu::{Signed, secret, sign};

/// Where the samples' story begins, in seconds since 1970.
pub(crate) const START: i64 = 1_773_480_600;
/// Where providers reach the service.
pub(crate) const PUBLIC_URL: &str = "https://ledger.example";
/// Small, so that tests can go beyond it.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
const TOLERANCE: Duration = Duration::from_mins(5);
const PARTITIONS: i16 = 4;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// Stands still until a test moves it.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn set_seconds(&self, seconds: i64) {
        self.0.store(seconds * 1_000_000, Ordering::SeqCst);
    }

    pub(crate) fn seconds(&self) -> i64 {
        self.0.load(Ordering::SeqCst) / 1_000_000
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_clamped(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) router: Router,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) database: Database,
    pub(crate) registry: Registry,
    /// The tenant most tests are about.
    pub(crate) acme: Tenant,
    /// A source of that tenant's, which adopts.
    pub(crate) source: String,
}

/// A tenant and its keys.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    /// May do everything.
    pub(crate) key: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    /// The body, of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn outcome(&self) -> &str {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body["outcome"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn notification_id(&self) -> String {
        self.body["notification_id"].as_str().unwrap().to_owned()
    }
}

impl Fixture {
    async fn new(database: Database) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(0)));
        clock.set_seconds(START);
        // Erasures are seen at once.
        let state = state(&database, &clock, Duration::ZERO).await;
        let registry = state.registry.clone();
        let acme = tenant(&registry, "acme").await;
        let mut fixture = Self {
            router: app::router(state),
            clock,
            database,
            registry,
            acme,
            source: String::new(),
        };
        fixture.source = fixture.new_source(&fixture.acme, "adopt").await;
        fixture
    }

    /// Another process over the same database.
    pub(crate) async fn other_process(&self) -> Self {
        self.remembering(Duration::ZERO).await
    }

    /// Another process, which remembers keys for so long.
    pub(crate) async fn remembering(&self, key_cache_ttl: Duration) -> Self {
        let state = state(&self.database, &self.clock, key_cache_ttl).await;
        Self {
            registry: state.registry.clone(),
            router: app::router(state),
            ..self.clone()
        }
    }

    pub(crate) async fn tenant(&self, slug: &str) -> Tenant {
        tenant(&self.registry, slug).await
    }

    /// A key of a tenant's that may do one thing only.
    pub(crate) async fn key(&self, tenant: &Tenant, scope: Scope) -> Tenant {
        let scopes = Scopes::from_str(scope.as_str()).unwrap();
        Tenant {
            key: key(&self.registry, &tenant.id, scopes).await,
            ..tenant.clone()
        }
    }

    /// A new source with the samples' secret.
    pub(crate) async fn new_source(&self, tenant: &Tenant, unmatched: &str) -> String {
        let new = json!({
            "provider": "novu", "name": "production", "secrets": [secret()], "unmatched": unmatched,
        });
        let made = self
            .post(tenant, "/v1/webhook-sources", &new)
            .await
            .expect(201);
        made["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        tenant: &Tenant,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", tenant.key));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    pub(crate) async fn get(&self, tenant: &Tenant, path: &str) -> Reply {
        self.call(Method::GET, tenant, path, &[], "").await
    }

    pub(crate) async fn post(&self, tenant: &Tenant, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, tenant, path, &[], &body.to_string())
            .await
    }

    pub(crate) async fn patch(&self, tenant: &Tenant, path: &str, body: &Value) -> Reply {
        self.call(Method::PATCH, tenant, path, &[], &body.to_string())
            .await
    }

    pub(crate) async fn delete(&self, tenant: &Tenant, path: &str) -> Reply {
        self.call(Method::DELETE, tenant, path, &[], "").await
    }

    /// Posts a signed request to a source.
    pub(crate) async fn deliver(&self, source: &str, signed: &Signed) -> Reply {
        self.send(signed.request(source)).await
    }

    /// Signs a body now and posts it to the usual source.
    pub(crate) async fn novu(&self, delivery_id: &str, body: &[u8]) -> Reply {
        self.novu_to(&self.source, delivery_id, body).await
    }

    pub(crate) async fn novu_to(&self, source: &str, delivery_id: &str, body: &[u8]) -> Reply {
        let signed = sign(&secret(), delivery_id, self.clock.seconds(), body);
        self.deliver(source, &signed).await
    }

    /// A tenant's whole log.
    pub(crate) async fn events(&self, tenant: &Tenant) -> Vec<Value> {
        let page = self.get(tenant, "/v1/events?limit=200").await.expect(200);
        assert_eq!(page["next_cursor"], Value::Null);
        page["data"].as_array().unwrap().clone()
    }

    /// The types of a tenant's events, in order.
    pub(crate) async fn event_types(&self, tenant: &Tenant) -> Vec<String> {
        let events = self.events(tenant).await;
        let name = |event: &Value| event["type"].as_str().unwrap().to_owned();
        events.iter().map(name).collect()
    }

    pub(crate) async fn notification(&self, tenant: &Tenant, id: &str) -> Value {
        self.get(tenant, &format!("/v1/notifications/{id}"))
            .await
            .expect(200)
    }

    pub(crate) async fn quarantine(&self, tenant: &Tenant) -> Vec<Value> {
        let page = self.get(tenant, "/v1/webhook-quarantine").await.expect(200);
        page["data"].as_array().unwrap().clone()
    }

    /// How many webhooks are counted under an outcome.
    pub(crate) async fn counted(&self, outcome: &str) -> u64 {
        let metrics = self.get(&self.acme, "/metrics").await.expect(200);
        let label = format!("outcome=\"{outcome}\"");
        let line = metrics
            .as_str()
            .unwrap()
            .lines()
            .find(|line| line.starts_with("ledger_webhooks_total{") && line.contains(&label));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// What the database holds of webhooks, as text: whole rows.
    pub(crate) async fn everything_stored(&self) -> Vec<String> {
        let mut rows = Vec::new();
        match &self.database {
            Database::Sqlite { pool, .. } => {
                for columns in [
                    "data FROM events",
                    "reason || sealed_body FROM webhook_quarantine",
                    "name || wrapped_secrets FROM webhook_sources",
                ] {
                    let rows_of = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {columns}")));
                    rows.extend::<Vec<String>>(rows_of.fetch_all(pool).await.unwrap());
                }
            }
            Database::Postgres { pool, .. } => {
                for table in ["events", "webhook_quarantine", "webhook_sources"] {
                    let whole = format!("SELECT whole::text FROM {table} AS whole");
                    let rows_of = sqlx::query_scalar(AssertSqlSafe(whole));
                    rows.extend::<Vec<String>>(rows_of.fetch_all(pool).await.unwrap());
                }
            }
        }
        assert!(!rows.is_empty());
        rows
    }

    /// What an erasure does to keys, to all of them.
    pub(crate) async fn erase_everybody(&self) {
        let erase = "UPDATE data_keys SET wrapped_key = NULL, erased_at = 1";
        match &self.database {
            Database::Sqlite { pool, .. } => {
                sqlx::query(erase).execute(pool).await.unwrap();
            }
            Database::Postgres { pool, .. } => {
                sqlx::query(erase).execute(pool).await.unwrap();
            }
        }
    }
}

async fn state(database: &Database, clock: &Arc<TestClock>, key_cache_ttl: Duration) -> ApiState {
    let surroundings = Surroundings {
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        ids: Arc::new(System),
    };
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
    let options = Options {
        key_cache_ttl,
        ..Options::default()
    };
    let ledger = Ledger::start(
        database.storage(),
        Arc::clone(&master),
        options,
        surroundings.clone(),
        &metrics,
        &Tasks::new(),
    )
    .unwrap();
    let projections = Projections::new(database, PARTITIONS, &ledger, &surroundings, &metrics);
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
        database: database.clone(),
        ledger_row: row,
        master,
        surroundings,
        metrics,
        limits: Limits {
            body_bytes_max: BODY_BYTES_MAX,
            bulk_body_bytes_max: BODY_BYTES_MAX,
            payload_bytes_max: BODY_BYTES_MAX / 2,
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
        },
        webhook_tolerance: TOLERANCE,
        public_url: PUBLIC_URL.to_owned(),
        readiness: Readiness::default(),
        refusals: Refusals::new(Tasks::new()),
        live: Live::new(0, Tasks::new(), Pace::default()),
    })
}

async fn tenant(registry: &Registry, slug: &str) -> Tenant {
    let id = TenantId::new(slug).unwrap();
    registry.create_tenant(&id, None, None).await.unwrap();
    let key = key(registry, &id, Scopes::ALL).await;
    Tenant { id, key }
}

async fn key(registry: &Registry, tenant_id: &TenantId, scopes: Scopes) -> String {
    let new = NewKey {
        tenant_id: Some(tenant_id.clone()),
        name: None,
        scopes,
    };
    let (_, secret) = registry.create_key(new, None).await.unwrap();
    secret.expose_secret().to_owned()
}

pub(crate) async fn on_sqlite(test: impl AsyncFnOnce(&Fixture)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.db");
    let database = Database::sqlite(&file, true, 4, ACQUIRE_TIMEOUT)
        .await
        .unwrap();
    let fixture = Fixture::new(database).await;
    test(&fixture).await;
    fixture.database.close().await;
}

/// In a database that is dropped afterwards, even when the test fails.
pub(crate) async fn on_postgres(test: impl AsyncFnOnce(&Fixture)) {
    let url = std::env::var("TEST_POSTGRES_URL").expect("TEST_POSTGRES_URL names a server");
    let server = PgConnectOptions::from_str(&url).unwrap();
    let name = format!("webhooks_{}", System.random().simple());
    execute(&server, format!("CREATE DATABASE {name}")).await;
    let outcome = AssertUnwindSafe(in_database(&server, &name, test))
        .catch_unwind()
        .await;
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
    let fixture = Fixture::new(database).await;
    test(&fixture).await;
    fixture.database.close().await;
}

async fn execute(server: &PgConnectOptions, statement: String) {
    let mut connection = server.connect().await.unwrap();
    // Put together from a name made here.
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}
