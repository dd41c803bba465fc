//! A bare group commit: one task takes what waits, inserts all of it in one statement, and tells
//! everybody once it is committed.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, QueryBuilder, Sqlite};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Rows a statement at most, and rows that may wait.
const ROWS_MAX: usize = 1_000;
const WAITING_MAX: usize = 8_192;

/// One index, and nothing else.
pub const CREATE: &str = "CREATE TABLE reference_rows (id UUID PRIMARY KEY, data TEXT NOT NULL)";
const CREATE_SQLITE: &str =
    "CREATE TABLE reference_rows (id BLOB PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID";

pub const INSERT_MANY: &str = "
    INSERT INTO reference_rows (id, data)
    SELECT * FROM UNNEST($1::uuid[], $2::text[])";

/// A row, and who waits for it.
struct Waiting {
    id: Uuid,
    data: String,
    done: oneshot::Sender<()>,
}

/// Where rows are handed in.
#[derive(Clone)]
pub struct Group(mpsc::Sender<Waiting>);

/// The one connection that writes.
enum Writer {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Makes the table, in `postgres://…` or `sqlite://PATH`.
pub async fn prepare(url: &str) -> Result<()> {
    if url.starts_with("postgres") {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        sqlx::query(CREATE).execute(&pool).await?;
        pool.close().await;
    }
    Ok(())
}

impl Group {
    pub async fn start(url: &str) -> Result<Self> {
        let mut writer = Writer::open(url).await?;
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(ROWS_MAX);
            while receiver.recv_many(&mut batch, ROWS_MAX).await > 0 {
                if let Err(error) = writer.insert(&mut batch).await {
                    // Whoever waits sees that nobody will answer.
                    eprintln!("group commit: {error:#}");
                    batch.clear();
                }
            }
        });
        Ok(Self(sender))
    }

    /// Returns once the row is durable.
    pub async fn insert(&self, id: Uuid, data: String) -> Result<()> {
        let (done, wait) = oneshot::channel();
        let waiting = Waiting { id, data, done };
        self.0
            .send(waiting)
            .await
            .ok()
            .context("nobody takes rows")?;
        wait.await.context("the row was not inserted")
    }
}

impl Writer {
    async fn open(url: &str) -> Result<Self> {
        if url.starts_with("postgres") {
            return Ok(Self::Postgres(PgConnection::connect(url).await?));
        }
        if !url.starts_with("sqlite://") {
            bail!("`{url}` is neither postgres:// nor sqlite://");
        }
        let mut connection = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .connect()
            .await?;
        sqlx::query(CREATE_SQLITE).execute(&mut connection).await?;
        Ok(Self::Sqlite(connection))
    }

    async fn insert(&mut self, batch: &mut Vec<Waiting>) -> Result<()> {
        let mut waiting = Vec::with_capacity(batch.len());
        let rows = batch.drain(..).map(|row| {
            waiting.push(row.done);
            (row.id, row.data)
        });
        // A statement of its own is a transaction of its own.
        match self {
            Self::Postgres(connection) => {
                let (ids, data): (Vec<_>, Vec<_>) = rows.unzip();
                sqlx::query(INSERT_MANY)
                    .bind(ids)
                    .bind(data)
                    .execute(connection)
                    .await?;
            }
            Self::Sqlite(connection) => {
                let mut query =
                    QueryBuilder::<Sqlite>::new("INSERT INTO reference_rows (id, data) ");
                query.push_values(rows, |mut row, (id, data)| {
                    row.push_bind(id).push_bind(data);
                });
                query.build().execute(connection).await?;
            }
        }
        for done in waiting {
            // Who hung up doesn't wait.
            let _ = done.send(());
        }
        Ok(())
    }
}
