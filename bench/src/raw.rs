//! The reference: raw multi-row inserts of the same bytes, into a table with the same columns that
//! carry data and the same two indexes, with the durability of the product.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{QueryBuilder, Sqlite};

use crate::generator::Measured;
use crate::http::request_json;

/// Rows per statement, each its own transaction.
const ROWS: i64 = 500;
const CONNECTIONS: u32 = 2;

/// A table beside the ledger's.
pub enum Reference {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

const CREATE: &str = "
    CREATE TABLE bench_reference (
        partition INTEGER NOT NULL,
        position BIGINT NOT NULL,
        stream_id BYTEA NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (partition, position),
        UNIQUE (partition, stream_id)
    )";

impl Reference {
    pub async fn prepare(url: &str) -> Result<Self> {
        const DROP: &str = "DROP TABLE IF EXISTS bench_reference";
        if url.starts_with("postgres") {
            let pool = PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .connect(url)
                .await?;
            sqlx::query(DROP).execute(&pool).await?;
            sqlx::query(CREATE).execute(&pool).await?;
            return Ok(Self::Postgres(pool));
        }
        let Some(path) = url.strip_prefix("sqlite://") else {
            bail!("`{url}` is neither postgres:// nor sqlite://");
        };
        let options = SqliteConnectOptions::from_str(&format!("sqlite://{path}"))?
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        sqlx::query(DROP).execute(&pool).await?;
        sqlx::query(CREATE).execute(&pool).await?;
        Ok(Self::Sqlite(pool))
    }

    pub async fn run(&self, duration: Duration) -> Result<Measured> {
        let started = Instant::now();
        let mut workers = tokio::task::JoinSet::new();
        let connections = match self {
            Self::Postgres(_) => CONNECTIONS,
            // One writer at a time is all SQLite has.
            Self::Sqlite(_) => 1,
        };
        for worker in 0..connections {
            let reference = match self {
                Self::Postgres(pool) => Self::Postgres(pool.clone()),
                Self::Sqlite(pool) => Self::Sqlite(pool.clone()),
            };
            workers.spawn(async move {
                let mut histogram = Histogram::<u64>::new(3)?;
                let mut number = i64::try_from(uuid::Uuid::new_v4().as_u64_pair().0 >> 16)?;
                while started.elapsed() < duration {
                    let sent = Instant::now();
                    reference.insert(i32::try_from(worker)?, number).await?;
                    number += ROWS;
                    histogram.record(u64::try_from(sent.elapsed().as_micros())?)?;
                }
                anyhow::Ok(histogram)
            });
        }
        let mut all = Histogram::<u64>::new(3)?;
        while let Some(worker) = workers.join_next().await {
            all.add(worker??)?;
        }
        Ok(Measured {
            per_second: all.len() as f64 * ROWS as f64 / started.elapsed().as_secs_f64(),
            p50_ms: all.value_at_quantile(0.50) as f64 / 1000.0,
            p99_ms: all.value_at_quantile(0.99) as f64 / 1000.0,
            answered: all.len() * ROWS.unsigned_abs(),
            server_us: None,
            database_us: None,
        })
    }

    async fn insert(&self, partition: i32, from: i64) -> Result<()> {
        const INSERT: &str = "
            INSERT INTO bench_reference (partition, position, stream_id, data)
            SELECT * FROM UNNEST($1::int4[], $2::int8[], $3::bytea[], $4::text[])";
        let positions: Vec<i64> = (from..from + ROWS).collect();
        let rows = positions.iter().map(|position| {
            let stream = uuid::Uuid::now_v7().as_bytes().to_vec();
            (stream, request_json(position.unsigned_abs()))
        });
        let (streams, data): (Vec<_>, Vec<_>) = rows.unzip();
        match self {
            Self::Postgres(pool) => {
                let partitions = vec![partition; positions.len()];
                sqlx::query(INSERT)
                    .bind(partitions)
                    .bind(positions)
                    .bind(streams)
                    .bind(data)
                    .execute(pool)
                    .await?;
            }
            Self::Sqlite(pool) => {
                let mut query = QueryBuilder::<Sqlite>::new(
                    "INSERT INTO bench_reference (partition, position, stream_id, data) ",
                );
                let rows = positions.into_iter().zip(streams).zip(data);
                query.push_values(rows, |mut row, ((position, stream), data)| {
                    row.push_bind(partition)
                        .push_bind(position)
                        .push_bind(stream)
                        .push_bind(data);
                });
                query.build().execute(pool).await?;
            }
        }
        Ok(())
    }

    pub async fn finish(&self) -> Result<()> {
        const DROP: &str = "DROP TABLE bench_reference";
        match self {
            Self::Postgres(pool) => sqlx::query(DROP).execute(pool).await.map(drop)?,
            Self::Sqlite(pool) => sqlx::query(DROP).execute(pool).await.map(drop)?,
        }
        Ok(())
    }
}
