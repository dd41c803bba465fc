//! No server: rows straight into the one-index table of the group commit.

use anyhow::Result;
use clap::ValueEnum;
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::group::INSERT_MANY;
use crate::generator::{self, Measured, Plan, Repeated};
use crate::http::request_json;

/// Rows a statement.
const ROWS: u64 = 500;
/// Writers of many rows.
const WRITERS: u64 = 2;

/// How rows get in.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum How {
    /// One row, one commit, one connection.
    One,
    /// `UNNEST`, random ids.
    Unnest,
    /// `UNNEST`, ids that begin with the time.
    UnnestOrdered,
    /// `COPY`, ids that begin with the time.
    Copy,
}

struct Writer {
    how: How,
    connection: PgConnection,
    number: u64,
}

pub async fn run(url: &str, how: How, plan: Plan) -> Result<Measured> {
    let workers = if how == How::One { 1 } else { WRITERS };
    let mut writers = Vec::new();
    for worker in 0..workers {
        writers.push(Some(Writer {
            how,
            connection: PgConnection::connect(url).await?,
            number: (Uuid::new_v4().as_u64_pair().0 >> 20) + worker * 1_000_000_000,
        }));
    }
    let writers = std::sync::Mutex::new(writers);
    generator::repeat(workers, plan, |_| {
        let mut writers = writers.lock().expect("nobody panics with it");
        writers.pop().flatten().expect("one each")
    })
    .await
}

/// Empties the table, so that what comes next finds what the first one found.
pub async fn truncate(url: &str) -> Result<()> {
    let pool = PgPool::connect(url).await?;
    sqlx::query("TRUNCATE reference_rows")
        .execute(&pool)
        .await?;
    pool.close().await;
    Ok(())
}

impl Repeated for Writer {
    async fn once(&mut self) -> Result<u64> {
        const INSERT_ONE: &str = "INSERT INTO reference_rows (id, data) VALUES ($1, $2)";
        let from = self.number;
        self.number += ROWS;
        let data = (from..from + ROWS).map(request_json);
        match self.how {
            How::One => {
                sqlx::query(INSERT_ONE)
                    .bind(Uuid::now_v7())
                    .bind(request_json(from))
                    .execute(&mut self.connection)
                    .await?;
                return Ok(1);
            }
            How::Unnest | How::UnnestOrdered => {
                let ordered = self.how == How::UnnestOrdered;
                let id = || {
                    if ordered {
                        Uuid::now_v7()
                    } else {
                        Uuid::new_v4()
                    }
                };
                let ids: Vec<_> = (0..ROWS).map(|_| id()).collect();
                sqlx::query(INSERT_MANY)
                    .bind(ids)
                    .bind(data.collect::<Vec<_>>())
                    .execute(&mut self.connection)
                    .await?;
            }
            How::Copy => {
                // The bodies hold neither tabs nor backslashes.
                let lines: String = data
                    .map(|row| format!("{}\t{row}\n", Uuid::now_v7()))
                    .collect();
                let mut copy = self
                    .connection
                    .copy_in_raw("COPY reference_rows (id, data) FROM STDIN")
                    .await?;
                copy.send(lines.into_bytes()).await?;
                copy.finish().await?;
            }
        }
        Ok(ROWS)
    }
}
