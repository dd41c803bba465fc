//! What a test of a running ledger begins with: an empty ledger in a place of its own, a clock
//! that stands still, and ids that come in order.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use notification_ledger::clock::{Clock, IdSource, Surroundings, System};
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::database::{Database, LedgerRow};
use notification_ledger::ledger::memory::MemoryStorage;
use notification_ledger::ledger::sealing::MasterKey;
use notification_ledger::ledger::storage::Storage;
use notification_ledger::ledger::{Ledger, Options};
use notification_ledger::tasks::Tasks;
use notification_ledger::telemetry::Metrics;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use uuid::Uuid;

pub(crate) const PARTITIONS: i16 = 4;
/// 2026-03-14T09:00:00Z
const NINE_O_CLOCK_MICROS: i64 = 1_773_478_800_000_000;
/// Longer than anything a test waits for takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs each test on every storage: `on_each_storage!("current_thread": a, b);`
macro_rules! on_each_storage {
    ($flavor:tt: $($test:ident),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = $flavor)]
            async fn $test() {
                $crate::support::in_memory(super::$test).await;
            })+
        }

        $crate::support::on_each_database!($flavor: $($test),+);
    };
}

/// Runs each test on SQLite and on PostgreSQL.
macro_rules! on_each_database {
    ($flavor:tt: $($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = $flavor)]
            async fn $test() {
                $crate::support::on_sqlite(super::$test).await;
            })+
        }

        mod on_postgres {
            $(#[tokio::test(flavor = $flavor)]
            #[ignore = "needs PostgreSQL"]
            async fn $test() {
                $crate::support::on_postgres(super::$test).await;
            })+
        }
    };
}
pub(crate) use {on_each_database, on_each_storage};

/// Where a ledger is kept, for the time of one test.
pub(crate) struct Place {
    pub(crate) storage: Arc<dyn Storage>,
    /// `None` in memory.
    pub(crate) database: Option<Database>,
    pub(crate) clock: Arc<SteppedClock>,
    pub(crate) ids: Arc<CountedIds>,
    tasks: Mutex<Vec<Tasks>>,
}

impl Place {
    fn new(storage: Arc<dyn Storage>, database: Option<Database>) -> Self {
        Self {
            storage,
            database,
            clock: Arc::new(SteppedClock(AtomicI64::new(NINE_O_CLOCK_MICROS))),
            ids: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ids: Arc::clone(&self.ids) as Arc<dyn IdSource>,
        }
    }

    /// A ledger with tasks and caches of its own, as another process would have.
    pub(crate) fn process(&self, options: Options) -> Ledger {
        self.process_on(Arc::clone(&self.storage), options)
    }

    pub(crate) fn process_on(&self, storage: Arc<dyn Storage>, options: Options) -> Ledger {
        let tasks = Tasks::new();
        self.tasks.lock().unwrap().push(tasks.clone());
        Ledger::start(
            storage,
            Arc::new(MasterKey::new(&[7; 32]).unwrap()),
            options,
            self.surroundings(),
            &Metrics::new().unwrap(),
            &tasks,
        )
        .unwrap()
    }

    /// Waits until all processes have ended. Every handle of theirs must be gone.
    pub(crate) async fn stopped(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        for tasks in tasks {
            assert!(tasks.stop(PATIENCE).await, "a process did not end");
        }
    }

    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    /// Changes the tables behind the ledger's back. Says how many rows it concerned.
    ///
    /// # Errors
    ///
    /// What the database says.
    pub(crate) async fn sql(&self, statements: &str) -> Result<u64, sqlx::Error> {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements));
        Ok(match self.database() {
            Database::Postgres { pool, .. } => statements.execute(pool).await?.rows_affected(),
            Database::Sqlite { pool, .. } => statements.execute(pool).await?.rows_affected(),
        })
    }

    /// The same database, for somebody who may only read.
    pub(crate) fn read_only_database(&self) -> Database {
        match self.database() {
            Database::Postgres { options, .. } => {
                let read_only = [("default_transaction_read_only", "on")];
                let options = options.as_ref().clone().options(read_only);
                Database::Postgres {
                    pool: PgPoolOptions::new().connect_lazy_with(options.clone()),
                    options: Box::new(options),
                }
            }
            Database::Sqlite { options, path, .. } => {
                let options = options.as_ref().clone().pragma("query_only", "ON");
                Database::Sqlite {
                    pool: SqlitePoolOptions::new().connect_lazy_with(options.clone()),
                    options: Box::new(options),
                    path: path.clone(),
                }
            }
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self.database, Some(Database::Postgres { .. }))
    }
}

pub(crate) async fn in_memory(body: impl AsyncFnOnce(&Place)) {
    let storage = MemoryStorage::new(PARTITIONS, System.random());
    let place = Place::new(Arc::new(storage), None);
    body(&place).await;
    place.stopped().await;
}

pub(crate) async fn on_sqlite(body: impl AsyncFnOnce(&Place)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.db");
    let database = Database::sqlite(&file, true, 4, PATIENCE).await.unwrap();
    let place = created(database).await;
    body(&place).await;
    place.stopped().await;
    place.database().close().await;
}

/// Needs `TEST_POSTGRES_URL`, as somebody who may create schemas there: each test has its own.
pub(crate) async fn on_postgres(body: impl AsyncFnOnce(&Place)) {
    let server = std::env::var("TEST_POSTGRES_URL").unwrap();
    let schema = format!("ledger_test_{}", System.random().simple());
    let options: PgConnectOptions = server.parse().unwrap();
    let mut administrator = options.connect().await.unwrap();
    let create = format!("CREATE SCHEMA {schema}");
    administrator.execute(AssertSqlSafe(create)).await.unwrap();
    let outcome = AssertUnwindSafe(async {
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options[search_path]={schema}");
        let database = Database::postgres(&url, 4, PATIENCE).await.unwrap();
        let place = created(database).await;
        body(&place).await;
        place.stopped().await;
        place.database().close().await;
    });
    let outcome = outcome.catch_unwind().await;
    // A test that made a role has named it after the schema.
    let drop = format!("DROP SCHEMA {schema} CASCADE; DROP ROLE IF EXISTS {schema}");
    administrator.execute(AssertSqlSafe(drop)).await.unwrap();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

async fn created(database: Database) -> Place {
    database.migrate().await.unwrap();
    let place = Place::new(database.storage(), Some(database));
    let row = LedgerRow {
        ledger_id: place.ids.random(),
        partitions: PARTITIONS,
        key_check: "not checked here".to_owned(),
        created_at: place.clock.now(),
    };
    place
        .database()
        .create_ledger(&row, place.ids.random())
        .await
        .unwrap();
    place
}

/// Stands still until it is set.
#[derive(Debug)]
pub(crate) struct SteppedClock(AtomicI64);

impl SteppedClock {
    /// So many seconds past nine o'clock; earlier ones are negative.
    pub(crate) fn set(&self, seconds: i64) {
        self.0
            .store(NINE_O_CLOCK_MICROS + seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct CountedIds(AtomicU64);

impl IdSource for CountedIds {
    fn time_ordered(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::SeqCst)) + 1)
    }

    fn random(&self) -> Uuid {
        self.time_ordered()
    }
}
