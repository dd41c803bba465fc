//! No server: the rows that commands left in the ledger's tables, copied into empty tables of the same make, with
//! all their indexes: about what a database needs for them. All of them, projections' rows too, are there when the
//! time ends. What a command leaves only sometimes, or many share, isn't among them: data keys, idempotency keys,
//! metrics, heads.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgExecutor};

use crate::generator::Measured;

/// Notifications a transaction.
const AT_ONCE: i64 = 500;
/// Notifications whose rows are copied in one turn, at most.
const NOTIFICATIONS_MAX: i64 = 100_000;
const WRITERS: usize = 2;
const DROPPED: &str = "DROP SCHEMA IF EXISTS aside, copied, bare CASCADE";

/// Where a notification has rows, and which column says whose they are.
const TABLES: [(&str, &str); 6] = [
    ("events", "stream_id"),
    ("message_references", "stream_id"),
    ("notifications", "notification_id"),
    ("notification_metadata", "notification_id"),
    ("notification_logs", "notification_id"),
    ("timeline", "stream_id"),
];

/// The rows of a ledger's last notifications, set aside in its database: where they come from, and empty
/// tables to copy them to.
pub struct Aside {
    /// Of each table, how the rows of `$slice` are copied.
    statements: Vec<String>,
    slices: i64,
    /// Events among them: one for each command.
    events: u64,
    writers: Vec<PgConnection>,
}

/// What it takes one writer to copy the rows of a table, each.
pub struct Cost {
    pub table: &'static str,
    pub micros: f64,
    /// Into a table without indexes.
    pub bare_micros: f64,
}

impl Aside {
    pub async fn set(url: &str) -> Result<Self> {
        let slices = format!(
            "{DROPPED};
            CREATE SCHEMA aside;
            CREATE SCHEMA copied;
            CREATE SCHEMA bare;
            CREATE TABLE aside.slices AS
            SELECT notification_id, (row_number() OVER (ORDER BY partition, first_position) - 1) / {AT_ONCE} AS slice
            FROM (SELECT * FROM notifications ORDER BY notification_id DESC LIMIT {NOTIFICATIONS_MAX}) AS last;
            ANALYZE aside.slices;"
        );
        let pool = PgPool::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(slices)).execute(&pool).await?;
        let mut statements = Vec::new();
        for (table, whose) in TABLES {
            let made = format!(
                "CREATE TABLE aside.{table} AS
                SELECT t.*, s.slice
                FROM {table} AS t
                JOIN aside.slices AS s ON s.notification_id = t.{whose}
                ORDER BY s.slice, t.{whose};
                CREATE INDEX ON aside.{table} (slice);
                ANALYZE aside.{table};
                CREATE TABLE copied.{table} (LIKE {table} INCLUDING ALL);
                CREATE TABLE bare.{table} (LIKE {table});"
            );
            sqlx::raw_sql(AssertSqlSafe(made)).execute(&pool).await?;
            let columns = columns(&pool, table).await?;
            statements.push(format!(
                "INSERT INTO copied.{table} ({columns})
                SELECT {columns} FROM aside.{table} WHERE slice = $slice"
            ));
        }
        let notifications = count(&pool, "slices").await?;
        let events = count(&pool, "events").await?;
        sqlx::raw_sql("CHECKPOINT").execute(&pool).await?;
        pool.close().await;
        let writers = (0..WRITERS).map(|_| PgConnection::connect(url));
        Ok(Self {
            statements,
            // The last may be of fewer.
            slices: (notifications + AT_ONCE - 1) / AT_ONCE,
            events: events.unsigned_abs(),
            writers: try_join_all(writers).await?,
        })
    }

    /// Copies all of it as fast as it can, once; all rows of some notifications in a transaction.
    pub async fn copy(&mut self) -> Result<Measured> {
        let together = self.statements.join(";");
        let begun = Instant::now();
        let copied = self.writers.iter_mut().zip(0..).map(|(writer, first)| {
            let slices = (first..self.slices).step_by(WRITERS);
            slices_by(writer, slices, &together)
        });
        let mut histogram = Histogram::<u64>::new(3)?;
        for time in try_join_all(copied).await?.into_iter().flatten() {
            histogram.record(u64::try_from(time.as_micros())?)?;
        }
        Ok(Measured {
            per_second: self.events as f64 / begun.elapsed().as_secs_f64(),
            p50_ms: histogram.value_at_quantile(0.50) as f64 / 1000.0,
            p99_ms: histogram.value_at_quantile(0.99) as f64 / 1000.0,
            answered: self.events,
            server_us: None,
            database_us: None,
        })
    }

    /// Copies each table that has rows by itself, with its indexes and without; once.
    pub async fn costs(&mut self) -> Result<Vec<Cost>> {
        let writer = &mut self.writers[0];
        let mut costs = Vec::new();
        for ((table, _), copied) in TABLES.into_iter().zip(&self.statements) {
            let rows = count(&mut *writer, table).await?;
            if rows == 0 {
                continue;
            }
            let bare = copied.replacen("copied.", "bare.", 1);
            sqlx::raw_sql("CHECKPOINT").execute(&mut *writer).await?;
            let mut micros = [0.0; 2];
            // The one who comes first reads what isn't in memory yet: not the one with the indexes.
            for (statement, micros) in [&bare, copied].into_iter().zip(&mut micros) {
                let times = slices_by(writer, 0..self.slices, statement).await?;
                let all: Duration = times.iter().sum();
                *micros = all.as_secs_f64() * 1_000_000.0 / rows as f64;
            }
            let [bare_micros, micros] = micros;
            costs.push(Cost {
                table,
                micros,
                bare_micros,
            });
        }
        Ok(costs)
    }

    /// Nobody else has to work beside these tables.
    pub async fn drop(mut self) -> Result<()> {
        sqlx::raw_sql(DROPPED).execute(&mut self.writers[0]).await?;
        Ok(())
    }
}

/// Copies some slices, and says how long each took.
async fn slices_by(
    writer: &mut PgConnection,
    slices: impl Iterator<Item = i64>,
    statement: &str,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for slice in slices {
        let statement = statement.replace("$slice", &slice.to_string());
        let sent = Instant::now();
        // Several statements at once are one transaction.
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *writer)
            .await?;
        times.push(sent.elapsed());
    }
    Ok(times)
}

async fn columns(pool: &PgPool, table: &str) -> Result<String> {
    const COLUMNS: &str = "
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
        FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
    let columns = sqlx::query_scalar(COLUMNS).bind(table);
    Ok(columns.fetch_one(pool).await?)
}

async fn count(database: impl PgExecutor<'_>, table: &str) -> Result<i64> {
    let count = format!("SELECT count(*) FROM aside.{table}");
    let count = sqlx::query_scalar(AssertSqlSafe(count));
    Ok(count.fetch_one(database).await?)
}
