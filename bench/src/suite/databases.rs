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

/// What a table takes on disk.
pub struct Weight {
    pub table: String,
    /// Bytes for each event on record: of the table itself, and of each of its indexes.
    pub parts: Vec<(String, f64)>,
}

/// What each table takes on disk that grows with the record.
pub async fn storage(url: &str) -> Result<Vec<Weight>> {
    const COUNT: &str = "SELECT count(*) FROM events";
    const SIZES: &str = "
        SELECT t.oid::regclass::text, part.name, part.size
        FROM pg_class AS t
        CROSS JOIN LATERAL (
            SELECT 'the table' AS name, pg_table_size(t.oid) AS size, 0 AS place
            UNION ALL
            SELECT indexrelid::regclass::text, pg_relation_size(indexrelid), 1
            FROM pg_index
            WHERE indrelid = t.oid
        ) AS part
        WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
            AND pg_total_relation_size(t.oid) > 10000000
        ORDER BY t.relname <> 'events', t.relname, part.place, part.name";
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    let events: i64 = sqlx::query(COUNT).fetch_one(&pool).await?.get(0);
    let rows = sqlx::query(SIZES).fetch_all(&pool).await?;
    pool.close().await;
    let mut weights: Vec<Weight> = Vec::new();
    for row in rows {
        let (table, size): (String, i64) = (row.get(0), row.get(2));
        if weights.last().is_none_or(|last| last.table != table) {
            weights.push(Weight {
                table,
                parts: Vec::new(),
            });
        }
        if let Some(weight) = weights.last_mut() {
            weight.parts.push((row.get(1), size as f64 / events as f64));
        }
    }
    Ok(weights)
}
