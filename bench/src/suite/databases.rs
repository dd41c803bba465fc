//! Databases on the server that was given: one for each contender, gone with it.

use anyhow::{Context, Result};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};

pub struct Databases {
    server: PgPool,
    url: String,
}

impl Databases {
    pub async fn connect(url: &str) -> Result<Self> {
        let server = PgPoolOptions::new().max_connections(1).connect(url).await?;
        Ok(Self {
            server,
            url: url.to_owned(),
        })
    }

    /// An empty database, and its address. `name` is one of ours.
    pub async fn create(&self, name: &str) -> Result<String> {
        self.remove(name).await?;
        self.execute(format!("CREATE DATABASE {name}")).await?;
        self.address(name)
    }

    /// For whoever looks what goes on in one of them.
    pub fn named(&self, name: &str) -> Option<(PgPool, String)> {
        Some((self.server.clone(), name.to_owned()))
    }

    pub fn address(&self, name: &str) -> Result<String> {
        let (server, _) = self
            .url
            .rsplit_once('/')
            .context("the address names no database")?;
        Ok(format!("{server}/{name}"))
    }

    /// Drops it, whoever is connected.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.execute(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await
    }

    /// Writes out what was changed so far, so that the next to be measured doesn't pay for it.
    pub async fn checkpoint(&self) -> Result<()> {
        self.execute("CHECKPOINT".to_owned()).await
    }

    /// A setting, as the server shows it.
    pub async fn setting(&self, name: &str) -> Result<String> {
        let query = sqlx::query("SELECT current_setting($1)").bind(name);
        Ok(query.fetch_one(&self.server).await?.get(0))
    }

    async fn execute(&self, statement: String) -> Result<()> {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&self.server)
            .await?;
        Ok(())
    }
}

/// Bytes an event takes: of the table, and of each of its indexes.
pub async fn storage(url: &str) -> Result<Vec<(String, f64)>> {
    const COUNT: &str = "SELECT count(*) FROM events";
    const SIZES: &str = "
        SELECT 'the table'::text, pg_table_size('events')
        UNION ALL
        SELECT indexrelid::regclass::text, pg_relation_size(indexrelid)
        FROM pg_index
        WHERE indrelid = 'events'::regclass";
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    let events: i64 = sqlx::query(COUNT).fetch_one(&pool).await?.get(0);
    let rows = sqlx::query(SIZES).fetch_all(&pool).await?;
    pool.close().await;
    let sizes = rows.iter().map(|row| {
        let size: i64 = row.get(1);
        (row.get(0), size as f64 / events as f64)
    });
    Ok(sizes.collect())
}
