//! A registry in a database of its own, and a clock that stands still.

use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::Registry;
use crate::clock::{Clock, IdSource, Surroundings, System};
use crate::domain::ids::TenantId;
use crate::domain::time::Timestamp;
use crate::ledger::database::Database;
use crate::ledger::sealing::MasterKey;
use crate::telemetry::Metrics;

/// How long a fixture's registry believes what it remembers.
pub(super) const CACHE_TTL: Duration = Duration::from_secs(10);
const PARTITIONS: i16 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Stands still until a test moves it.
#[derive(Debug)]
pub(super) struct TestClock(AtomicI64);

impl Default for TestClock {
    fn default() -> Self {
        Self(AtomicI64::new(1_780_000_000_000_000))
    }
}

impl TestClock {
    pub(super) fn at(&self) -> Timestamp {
        Timestamp::from_micros_clamped(self.0.load(Ordering::SeqCst))
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0
            .fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn set_back(&self, by: Duration) {
        self.0
            .fetch_sub(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.at()
    }
}

pub(super) struct Fixture {
    pub(super) registry: Registry,
    pub(super) clock: Arc<TestClock>,
    pub(super) database: Database,
}

impl Fixture {
    async fn new(database: Database) -> Self {
        database.migrate().await.unwrap();
        let clock = Arc::new(TestClock::default());
        Self {
            registry: registry(&database, &clock),
            clock,
            database,
        }
    }

    /// A registry over the same database that remembers nothing.
    pub(super) fn other_process(&self) -> Registry {
        registry(&self.database, &self.clock)
    }

    pub(super) async fn tenant(&self, slug: &str) -> TenantId {
        let tenant_id = id(slug);
        self.registry
            .create_tenant(&tenant_id, None, None)
            .await
            .unwrap();
        tenant_id
    }
}

fn registry(database: &Database, clock: &Arc<TestClock>) -> Registry {
    Registry::new(
        database.clone(),
        Arc::new(MasterKey::new(&[7; 32]).unwrap()),
        Surroundings {
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            ids: Arc::new(System),
        },
        PARTITIONS,
        CACHE_TTL,
        &Metrics::new().unwrap(),
    )
}

pub(super) fn id(slug: &str) -> TenantId {
    TenantId::new(slug).unwrap()
}

/// Runs each test on SQLite and, shown as ignored where there is none, on PostgreSQL.
macro_rules! on_both_databases {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                $crate::ledger::registry::testing::on_sqlite(super::$test).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            #[ignore = "needs PostgreSQL"]
            async fn $test() {
                $crate::ledger::registry::testing::on_postgres(super::$test).await;
            })+
        }
    };
}
pub(super) use on_both_databases;

pub(super) async fn on_sqlite(test: impl AsyncFnOnce(&Fixture)) {
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
pub(super) async fn on_postgres(test: impl AsyncFnOnce(&Fixture)) {
    let url = std::env::var("TEST_POSTGRES_URL").expect("TEST_POSTGRES_URL names a server");
    let server = PgConnectOptions::from_str(&url).unwrap();
    let name = format!("registry_{}", System.random().simple());
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
