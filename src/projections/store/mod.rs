//! The read tables in the database: how rows get in and out.
//!
//! What the databases agree on is written here, once; `postgres.rs` and `sqlite.rs` hold what
//! differs, the same functions in the same order.

mod checkpoints;
mod packed;
mod postgres;
mod shadow;
mod sqlite;

use std::time::{Duration, Instant};

use sqlx::sqlite::{SqlitePool, SqliteSynchronous};
use sqlx::{PgPool, Postgres, Sqlite};

use super::changes::Changes;
use super::projection::Projection;
use super::table::{Cell, Column, Rows, Table};
use crate::ledger::database::{Database, postgres_pool, sqlite_pool};
use crate::ledger::record::{Head, Partition};
use crate::ledger::rows::head;
use crate::ledger::storage::StorageError;

pub use checkpoints::{Checkpoint, CheckpointState, Progress, Turn, Turns, Versions};
pub use packed::Packed;
pub use shadow::ShadowIndex;

/// The tables that people read, and the ones that are being built to take their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Live,
    Shadow,
}

/// The read tables of one database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pools: Pools,
}

/// Who writes holds a connection while it reads the record through another one. With connections of
/// their own to write through, writers can't take the last ones and then wait for each other.
///
/// What is lost with the power is derived again, so nobody waits for the disk in `writing`.
#[derive(Clone, Debug)]
enum Pools {
    Postgres {
        reading: PgPool,
        writing: PgPool,
    },
    Sqlite {
        reading: SqlitePool,
        writing: SqlitePool,
    },
}

/// Whether who writes may take the database for as long as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Yes: much is waiting.
    Behind,
    /// No: others need it for what their callers wait for. So it is done in pieces, with a rest after
    /// each that is as long as the piece took, within bounds.
    Abreast,
}

/// Rows of a piece: less than a millisecond's work.
const PIECE_ROWS: usize = 50;
/// The longest rest. A piece that took much longer has waited for somebody, and a transaction that
/// lies idle keeps others waiting.
const REST_MAX: Duration = Duration::from_millis(5);

/// A transaction on either database. Dropped, it leaves no trace.
#[derive(Debug)]
pub enum Transaction {
    Postgres(sqlx::Transaction<'static, Postgres>),
    Sqlite(sqlx::Transaction<'static, Sqlite>),
}

/// Runs the same code on either transaction.
macro_rules! in_both {
    ($transaction:expr, $connection:ident => $body:expr) => {
        match $transaction {
            $crate::projections::store::Transaction::Postgres($connection) => $body,
            $crate::projections::store::Transaction::Sqlite($connection) => $body,
        }
    };
}
use in_both;

/// Most connections for projections and rebuilds in one SQLite file: one writes at a time anyway.
const SQLITE_WRITERS: u32 = 2;
/// The same in PostgreSQL: two steps by three hands each, which hold a place, and a rebuild beside them. While
/// rebuilds take more, as when they compare, steps go on with one hand.
const POSTGRES_WRITERS: u32 = 10;

/// Begins a transaction that sees one moment.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl Store {
    pub fn new(database: &Database) -> Self {
        let pools = match database {
            Database::Postgres { pool, options } => {
                let options = options.as_ref().clone().options([
                    ("synchronous_commit", "off"),
                    ("default_transaction_isolation", "read committed"),
                    // A process that hangs inside a step must not keep it from the others for ever.
                    ("idle_in_transaction_session_timeout", "30s"),
                ]);
                Pools::Postgres {
                    reading: pool.clone(),
                    writing: postgres_pool(POSTGRES_WRITERS)
                        .acquire_timeout(pool.options().get_acquire_timeout())
                        .connect_lazy_with(options),
                }
            }
            Database::Sqlite { pool, options, .. } => {
                let options = options
                    .as_ref()
                    .clone()
                    .synchronous(SqliteSynchronous::Normal)
                    // Nothing that is sealed ever gets here, and wiping takes long.
                    .pragma("secure_delete", "OFF");
                Pools::Sqlite {
                    reading: pool.clone(),
                    writing: sqlite_pool(SQLITE_WRITERS).connect_lazy_with(options),
                }
            }
        };
        Self { pools }
    }

    /// One writer at a time in the whole database.
    pub fn has_one_writer(&self) -> bool {
        matches!(self.pools, Pools::Sqlite { .. })
    }

    /// Begins a transaction that writes. Its end need not reach the disk at once: what is derived
    /// can be derived again, and checkpoint and rows are lost or kept together.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the database does not answer.
    pub async fn begin(&self) -> Result<Transaction, StorageError> {
        match &self.pools {
            Pools::Postgres { writing, .. } => Ok(Transaction::Postgres(writing.begin().await?)),
            Pools::Sqlite { writing, .. } => {
                let transaction = writing.begin_with("BEGIN IMMEDIATE").await?;
                Ok(Transaction::Sqlite(transaction))
            }
        }
    }

    /// Begins a transaction that only reads, and sees one moment throughout.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the database does not answer.
    pub async fn snapshot(&self) -> Result<Transaction, StorageError> {
        match &self.pools {
            Pools::Postgres { reading, .. } => {
                Ok(Transaction::Postgres(reading.begin_with(SNAPSHOT).await?))
            }
            Pools::Sqlite { reading, .. } => Ok(Transaction::Sqlite(reading.begin().await?)),
        }
    }

    /// The same through a connection that callers' reads don't need, where there are such: for whoever holds
    /// it for long.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the database does not answer.
    pub async fn long_snapshot(&self) -> Result<Transaction, StorageError> {
        match &self.pools {
            Pools::Postgres { writing, .. } => {
                Ok(Transaction::Postgres(writing.begin_with(SNAPSHOT).await?))
            }
            Pools::Sqlite { .. } => self.snapshot().await,
        }
    }

    /// As [`Self::snapshot`], over a projection's tables as they stand when it begins. Without being held first,
    /// they could be swapped between that moment and the first read: of the new tables one would
    /// then see what was in them before they were complete.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] when the database does not answer.
    pub async fn snapshot_of(&self, projection: Projection) -> Result<Transaction, StorageError> {
        match &self.pools {
            Pools::Postgres { reading, .. } => {
                let tables: Vec<_> = projection.tables().iter().map(|table| table.name).collect();
                // LOCK is the one statement that does not choose the moment yet.
                let begin = format!(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                    LOCK TABLE {} IN ACCESS SHARE MODE",
                    tables.join(", ")
                );
                let begin = sqlx::AssertSqlSafe(begin);
                Ok(Transaction::Postgres(reading.begin_with(begin).await?))
            }
            Pools::Sqlite { .. } => self.snapshot().await,
        }
    }

    /// Runs a query that was put together for both databases, with `$1`, `$2` for its arguments.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn select(
        &self,
        sql: &str,
        arguments: &[Cell<'_>],
        columns: &[Column],
    ) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
        match &self.pools {
            Pools::Postgres { reading, .. } => {
                postgres::select(reading, sql, arguments, columns).await
            }
            Pools::Sqlite { reading, .. } => sqlite::select(reading, sql, arguments, columns).await,
        }
    }

    /// Closes what this made for itself.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Postgres { writing, .. } => writing.close().await,
            Pools::Sqlite { writing, .. } => writing.close().await,
        }
    }
}

impl Transaction {
    /// # Errors
    ///
    /// [`StorageError`] when nobody knows whether it was kept.
    pub async fn commit(self) -> Result<(), StorageError> {
        in_both!(self, transaction => Ok(transaction.commit().await?))
    }

    /// Ends it without a trace.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn roll_back(self) -> Result<(), StorageError> {
        in_both!(self, transaction => Ok(transaction.rollback().await?))
    }

    /// Makes the changes of one table, also where rows are there that should be new.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database refuses or fails.
    pub async fn write(&mut self, place: Place, changes: &Changes<'_>) -> Result<(), StorageError> {
        let Changes { new, rows, gone } = changes;
        match self {
            Self::Postgres(transaction) => {
                postgres::delete(transaction, place, gone).await?;
                postgres::write(transaction, place, new).await?;
                postgres::write(transaction, place, rows).await
            }
            Self::Sqlite(transaction) => {
                sqlite::delete(transaction, place, gone).await?;
                sqlite::write(transaction, place, new).await?;
                sqlite::write(transaction, place, rows).await
            }
        }
    }

    /// Makes the changes of one table that has what it should. Cheaper: for a new row nobody looks
    /// whether it is there.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database fails, or refuses: also if such a row is there.
    pub async fn write_expected(
        &mut self,
        place: Place,
        changes: &Changes<'_>,
        haste: Haste,
    ) -> Result<(), StorageError> {
        let Changes { new, rows, gone } = changes;
        match self {
            Self::Postgres(transaction) => {
                postgres::delete(transaction, place, gone).await?;
                for piece in new.pieces(haste.rows_at_once()) {
                    let begun = Instant::now();
                    postgres::insert_new(transaction, place, &piece).await?;
                    haste.rest(begun).await;
                }
                for piece in rows.pieces(haste.rows_at_once()) {
                    let begun = Instant::now();
                    postgres::write(transaction, place, &piece).await?;
                    haste.rest(begun).await;
                }
                Ok(())
            }
            // Nobody else can write until it is done.
            Self::Sqlite(transaction) => {
                sqlite::delete(transaction, place, gone).await?;
                sqlite::insert_new(transaction, place, new).await?;
                sqlite::write(transaction, place, rows).await
            }
        }
    }

    /// Writes rows over those that are there, or adds them up.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database refuses or fails.
    pub async fn add(&mut self, place: Place, rows: &Rows<'_>) -> Result<(), StorageError> {
        match self {
            Self::Postgres(transaction) => postgres::write(transaction, place, rows).await,
            Self::Sqlite(transaction) => sqlite::write(transaction, place, rows).await,
        }
    }

    /// As [`Store::select`], within the transaction.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn select(
        &mut self,
        sql: &str,
        arguments: &[Cell<'_>],
        columns: &[Column],
    ) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
        match self {
            Self::Postgres(transaction) => {
                postgres::select(&mut **transaction, sql, arguments, columns).await
            }
            Self::Sqlite(transaction) => {
                sqlite::select(&mut **transaction, sql, arguments, columns).await
            }
        }
    }

    /// Gives up after waiting for others' locks for so long.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn limit_waiting(&mut self, patience: Duration) -> Result<(), StorageError> {
        match self {
            Self::Postgres(_) => {
                let limit = format!("SET LOCAL lock_timeout = {}", patience.as_millis());
                self.execute(&limit).await
            }
            // It has the only lock there is.
            Self::Sqlite(_) => Ok(()),
        }
    }

    /// Holds the heads of some partitions (sorted): nothing is appended there until the
    /// transaction's end.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn lock_heads(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<Head>, StorageError> {
        const READ: &str = "
            SELECT partition, position, hash, epoch, recorded_at
            FROM partition_heads
            ORDER BY partition";
        // Numbers only, so they may be written into the text.
        let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        let lock = format!(
            "SELECT 1 FROM partition_heads WHERE partition IN ({}) ORDER BY partition FOR UPDATE",
            numbers.join(", ")
        );
        if let Self::Postgres(_) = self {
            self.execute(&lock).await?;
        }
        let mut heads: Vec<Head> = in_both!(self, transaction => {
            let rows = sqlx::query(READ).fetch_all(&mut **transaction).await?;
            rows.iter().map(|row| Ok(head!(row))).collect::<Result<_, StorageError>>()?
        });
        heads.retain(|head| partitions.contains(&head.partition));
        Ok(heads)
    }

    /// Begins a part that can be undone alone.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn savepoint(&mut self) -> Result<(), StorageError> {
        self.execute("SAVEPOINT part").await
    }

    /// Ends the part; `keep` says whether it is kept.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn end_savepoint(&mut self, keep: bool) -> Result<(), StorageError> {
        if !keep {
            self.execute("ROLLBACK TO SAVEPOINT part").await?;
        }
        self.execute("RELEASE SAVEPOINT part").await
    }

    /// Runs a statement without arguments or answer. It must not hold anything from outside.
    pub(super) async fn execute(&mut self, sql: &str) -> Result<(), StorageError> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        in_both!(self, transaction => {
            sqlx::raw_sql(sql).execute(&mut **transaction).await?;
        });
        Ok(())
    }
}

impl Haste {
    fn rows_at_once(self) -> usize {
        match self {
            Self::Behind => usize::MAX,
            Self::Abreast => PIECE_ROWS,
        }
    }

    async fn rest(self, begun: Instant) {
        if self == Self::Abreast {
            tokio::time::sleep(begun.elapsed().min(REST_MAX)).await;
        }
    }
}

impl Place {
    /// A table's name there.
    pub fn table(self, table: &Table) -> String {
        match self {
            Self::Live => table.name.to_owned(),
            Self::Shadow => format!("{}_shadow", table.name),
        }
    }
}

/// What is done with a row that is there already.
fn on_conflict(place: Place, table: &Table) -> String {
    use super::table::Writing;

    let name = place.table(table);
    let values: Vec<String> = table
        .value_columns()
        .iter()
        .map(|column| match table.writing {
            Writing::Replace => format!("{0} = EXCLUDED.{0}", column.name),
            Writing::Add => format!("{0} = {name}.{0} + EXCLUDED.{0}", column.name),
        })
        .collect();
    format!(
        "ON CONFLICT ({}) DO UPDATE SET {}",
        Table::names(table.key_columns()),
        values.join(", ")
    )
}

/// Of a table that adds up: rows that may have come to nothing.
fn may_be_empty(rows: &Rows<'_>) -> bool {
    use super::table::Writing;

    let key = rows.table.key;
    rows.table.writing == Writing::Add
        && rows
            .iter()
            .any(|row| row[key..].iter().any(|cell| cell.as_int() < Some(0)))
}

/// That every value beside the key is zero.
fn is_empty_row(place: Place, table: &Table) -> String {
    let name = place.table(table);
    let zero: Vec<String> = table
        .value_columns()
        .iter()
        .map(|column| format!("{name}.{} = 0", column.name))
        .collect();
    zero.join(" AND ")
}
