//! The two databases: connecting, bringing the schema up to date, and the row that says what
//! this ledger is.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::chain::GENESIS;
use super::postgres::PostgresStorage;
use super::sqlite::SqliteStorage;
use super::storage::{Storage, StorageError};
use crate::domain::time::Timestamp;

/// How long a writer waits for another process to finish with the SQLite file.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts where SQLite does not wait by itself.
const SQLITE_BUSY_PAUSE: Duration = Duration::from_millis(20);

static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// A pool of connections to one of the two databases.
#[derive(Clone, Debug)]
pub enum Database {
    Postgres {
        pool: PgPool,
        options: Box<PgConnectOptions>,
    },
    Sqlite {
        pool: SqlitePool,
        options: Box<SqliteConnectOptions>,
        path: PathBuf,
    },
}

/// Runs the same code on either pool; for statements on which the databases agree.
macro_rules! on_both {
    ($database:expr, $pool:ident => $body:expr) => {
        match $database {
            $crate::ledger::database::Database::Postgres { pool: $pool, .. } => $body,
            $crate::ledger::database::Database::Sqlite { pool: $pool, .. } => $body,
        }
    };
}
pub(crate) use on_both;

/// A connection that lay idle for longer is asked whether it is still alive before it is used again.
/// One that was just used is: asking would cost every statement a round trip.
const IDLE_ASKED: Duration = Duration::from_secs(1);

/// Connections to a PostgreSQL server.
pub(crate) fn postgres_pool(connections_max: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(
                async move { Ok(known.idle_for < IDLE_ASKED || connection.ping().await.is_ok()) },
            )
        })
}

/// Connections to a SQLite file. There is no network on which one could break.
///
/// When SQLite itself undoes a transaction, as it does when the disk is full, sqlx goes on counting
/// it, and nobody could ever begin another one there. So such a connection is given up.
pub(crate) fn sqlite_pool(connections_max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections_max)
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            let is_free = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_free) })
        })
}

/// Why a ledger can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the database can't be reached")]
    Unreachable(#[source] sqlx::Error),
    #[error("`{path}` can't be created")]
    NoFolder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the database address is not valid")]
    Address(#[source] sqlx::Error),
    #[error(
        "this ledger has schema {found}, made by a newer release; this one knows {known}. Start \
         the newer release instead"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("the database schema could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
    #[error(
        "the schema is at {found} and needs {known}. Run `notification-ledger migrate` (or \
         `serve`, which does the same)"
    )]
    SchemaBehind { found: i64, known: i64 },
    #[error(
        "the master key does not open this ledger. It was made with another key: set \
         LEDGER_MASTER_KEY (or LEDGER_MASTER_KEY_FILE) to that one"
    )]
    WrongMasterKey,
    #[error("the row that describes the ledger is damaged")]
    Damaged,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What a ledger is, from its first start on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub ledger_id: uuid::Uuid,
    pub partitions: i16,
    pub key_check: String,
    pub created_at: Timestamp,
}

impl Database {
    /// Connects to PostgreSQL.
    ///
    /// # Errors
    ///
    /// [`OpenError::Address`] or [`OpenError::Unreachable`].
    pub async fn postgres(
        url: &str,
        connections_max: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, OpenError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(OpenError::Address)?
            .application_name("notification-ledger");
        let pool = postgres_pool(connections_max)
            .acquire_timeout(acquire_timeout)
            .connect_with(options.clone())
            .await
            .map_err(OpenError::Unreachable)?;
        Ok(Self::Postgres {
            pool,
            options: Box::new(options),
        })
    }

    /// Opens a SQLite file; with `create`, makes it and its folder if there is none.
    ///
    /// Write-ahead log with `synchronous = FULL`: a commit is on disk before it is answered.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoFolder`] or [`OpenError::Unreachable`].
    pub async fn sqlite(
        path: &Path,
        create: bool,
        connections_max: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, OpenError> {
        if create
            && let Some(folder) = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder).map_err(|source| OpenError::NoFolder {
                path: folder.to_owned(),
                source,
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(SQLITE_BUSY_TIMEOUT)
            // What is deleted is overwritten, so that an erased key is gone from the file.
            .pragma("secure_delete", "ON");
        let pool_options = sqlite_pool(connections_max).acquire_timeout(acquire_timeout);
        let started = Instant::now();
        let pool = loop {
            match pool_options.clone().connect_with(options.clone()).await {
                // A new file gets its write-ahead log from somebody who has it alone. Of several
                // who try at once SQLite turns all but one away without waiting.
                Err(error) if is_busy(&error) && started.elapsed() < SQLITE_BUSY_TIMEOUT => {
                    tokio::time::sleep(SQLITE_BUSY_PAUSE).await;
                }
                result => break result.map_err(OpenError::Unreachable)?,
            }
        };
        Ok(Self::Sqlite {
            pool,
            options: Box::new(options),
            path: path.to_owned(),
        })
    }

    /// `postgresql` or `sqlite`.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "postgresql",
            Self::Sqlite { .. } => "sqlite",
        }
    }

    /// The record in this database.
    pub fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Self::Postgres { pool, options } => {
                Arc::new(PostgresStorage::new(pool.clone(), options.as_ref().clone()))
            }
            Self::Sqlite { pool, options, .. } => {
                Arc::new(SqliteStorage::new(pool.clone(), options.as_ref().clone()))
            }
        }
    }

    /// Brings the schema up to date. Safe to run from several processes at once, and again.
    ///
    /// # Errors
    ///
    /// [`OpenError::NewerSchema`] for a ledger made by a newer release.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        // Any number, as long as everybody who migrates a ledger takes the same.
        const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(6109277713050184961)";
        known_or_older(self.schema().await?)?;
        // Whoever comes second waits, and finds nothing left to do: the migrator's own lock does
        // not cover its table, and in SQLite it has none. One transaction for all of it, so that
        // half a schema is never left behind.
        match self {
            Self::Postgres { pool, .. } => {
                let mut transaction = pool.begin().await.map_err(OpenError::Unreachable)?;
                let lock = sqlx::query(ONE_AT_A_TIME).execute(&mut *transaction);
                lock.await.map_err(OpenError::Unreachable)?;
                let migrated = POSTGRES_MIGRATIONS.run(&mut *transaction).await;
                migrated.map_err(OpenError::Migration)?;
                transaction.commit().await.map_err(OpenError::Unreachable)
            }
            Self::Sqlite { pool, .. } => {
                let begun = pool.begin_with("BEGIN IMMEDIATE").await;
                let mut transaction = begun.map_err(OpenError::Unreachable)?;
                let migrated = SQLITE_MIGRATIONS.run(&mut *transaction).await;
                migrated.map_err(OpenError::Migration)?;
                transaction.commit().await.map_err(OpenError::Unreachable)
            }
        }
    }

    /// For commands that must not change the schema.
    ///
    /// # Errors
    ///
    /// [`OpenError::SchemaBehind`] or [`OpenError::NewerSchema`] unless it is just right.
    pub async fn require_current_schema(&self) -> Result<(), OpenError> {
        let found = known_or_older(self.schema().await?)?;
        let known = known_schema();
        if found < known {
            return Err(OpenError::SchemaBehind { found, known });
        }
        Ok(())
    }

    /// The number of the last migration that was run; 0 for an empty database. Only reads, so that
    /// it can be asked by somebody who may do no more.
    async fn schema(&self) -> Result<i64, OpenError> {
        const NEWEST: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";
        let newest = on_both!(self, pool => sqlx::query_scalar(NEWEST).fetch_one(pool).await);
        newest.or_else(|error| match error.as_database_error() {
            Some(said) if is_about_a_missing_table(said) => Ok(0),
            _ => Err(OpenError::Unreachable(error)),
        })
    }

    /// The row that describes the ledger, if it was created.
    ///
    /// # Errors
    ///
    /// [`OpenError::Storage`] when the database does not answer.
    pub async fn ledger_row(&self) -> Result<Option<LedgerRow>, OpenError> {
        const ROW: &str = "SELECT ledger_id, partitions, key_check, created_at FROM ledger";
        type Row = (uuid::Uuid, i16, String, i64);
        let row: Option<Row> = on_both!(self, pool => {
            sqlx::query_as(ROW).fetch_optional(pool).await.map_err(StorageError::from)?
        });
        Ok(
            row.map(|(ledger_id, partitions, key_check, created_at)| LedgerRow {
                ledger_id,
                partitions,
                key_check,
                created_at: Timestamp::from_micros_clamped(created_at),
            }),
        )
    }

    /// Creates the ledger: its row and its heads. Of several processes that try, one wins.
    ///
    /// Returns the row that stands, and whether it is this one.
    ///
    /// # Errors
    ///
    /// [`OpenError::Storage`] when the database does not answer.
    pub async fn create_ledger(
        &self,
        row: &LedgerRow,
        epoch: uuid::Uuid,
    ) -> Result<(LedgerRow, bool), OpenError> {
        const ADD_LEDGER: &str = "
            INSERT INTO ledger (singleton, ledger_id, partitions, key_check, created_at)
            VALUES (1, $1, $2, $3, $4)
            ON CONFLICT (singleton) DO NOTHING";
        const ADD_HEAD: &str = "
            INSERT INTO partition_heads (partition, position, hash, epoch, recorded_at)
            VALUES ($1, 0, $2, $3, $4)";
        let created = on_both!(self, pool => {
            let mut transaction = pool.begin().await.map_err(StorageError::from)?;
            let added = sqlx::query(ADD_LEDGER)
                .bind(row.ledger_id)
                .bind(row.partitions)
                .bind(&row.key_check)
                .bind(row.created_at.as_micros())
                .execute(&mut *transaction)
                .await
                .map_err(StorageError::from)?
                .rows_affected();
            if added == 1 {
                for partition in 0..row.partitions {
                    sqlx::query(ADD_HEAD)
                        .bind(partition)
                        .bind(GENESIS.as_slice())
                        .bind(epoch)
                        .bind(row.created_at.as_micros())
                        .execute(&mut *transaction)
                        .await
                        .map_err(StorageError::from)?;
                }
            }
            transaction.commit().await.map_err(StorageError::from)?;
            added == 1
        });
        let standing = self.ledger_row().await?.ok_or(OpenError::Damaged)?;
        Ok((standing, created))
    }

    /// Begins a new epoch in every partition: for a ledger restored from a backup, so that
    /// readers which had seen more notice.
    ///
    /// # Errors
    ///
    /// [`OpenError::Storage`] when the database does not answer.
    pub async fn begin_epoch(&self, epoch: uuid::Uuid) -> Result<(), OpenError> {
        const NEW_EPOCH: &str = "UPDATE partition_heads SET epoch = $1";
        on_both!(self, pool => {
            sqlx::query(NEW_EPOCH).bind(epoch).execute(pool).await.map_err(StorageError::from)?;
        });
        Ok(())
    }

    /// The database answers.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<(), StorageError> {
        on_both!(self, pool => {
            sqlx::query("SELECT 1").execute(pool).await?;
        });
        Ok(())
    }

    /// Waits for connections to be given back and closes them.
    pub async fn close(&self) {
        on_both!(self, pool => pool.close().await);
    }
}

/// A schema that this release can work with, perhaps after some migrations.
fn known_or_older(found: i64) -> Result<i64, OpenError> {
    let known = known_schema();
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    Ok(found)
}

fn is_busy(error: &sqlx::Error) -> bool {
    /// SQLite's primary result code BUSY; an extended code has it in the low byte.
    const BUSY: i32 = 5;
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| code & 0xFF == BUSY)
}

fn is_about_a_missing_table(error: &dyn sqlx::error::DatabaseError) -> bool {
    // SQLite has no code of its own for it.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}

/// The number of the newest migration this release has.
fn known_schema() -> i64 {
    POSTGRES_MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |migrator: &Migrator| {
            migrator
                .iter()
                .map(|migration| (migration.version, migration.description.clone()))
                .collect::<Vec<_>>()
        };

        assert_eq!(names(&POSTGRES_MIGRATIONS), names(&SQLITE_MIGRATIONS));
    }
}
