//! What the system says about processes: the memory of a server, and the processor time that it and
//! its connections' processes at the database have used.
//!
//! Rates depend on who else is busy on the machine; processor time hardly does.

use std::collections::HashMap;

use anyhow::{Context, Result};
use sqlx::Row;
use sqlx::postgres::PgPool;

use crate::generator::Measured;

/// Linux counts processor time in hundredths of a second, whatever the kernel's own ticks are.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server, and its database if that is a server, too.
pub struct Meter {
    pub process: u32,
    pub database: Option<(PgPool, String)>,
}

/// Seconds so far.
pub struct Reading {
    server: f64,
    /// Of each process that serves one connection.
    database: Option<HashMap<u32, f64>>,
}

impl Meter {
    pub async fn read(&self) -> Result<Reading> {
        const PROCESSES: &str = "SELECT pid FROM pg_stat_activity WHERE datname = $1";
        let mut database = None;
        if let Some((pool, name)) = &self.database {
            let rows = sqlx::query(PROCESSES).bind(name).fetch_all(pool).await?;
            let mut all = HashMap::new();
            for row in rows {
                let id = u32::try_from(row.get::<i32, _>(0))?;
                // One that has just ended, or is on another machine, is left out.
                if let Ok(seconds) = cpu_seconds(id) {
                    all.insert(id, seconds);
                }
            }
            database = Some(all);
        }
        Ok(Reading {
            server: cpu_seconds(self.process)?,
            database,
        })
    }

    /// Adds what was used since `before` to what was measured.
    pub async fn since(&self, before: &Reading, measured: Measured) -> Result<Measured> {
        let now = self.read().await?;
        let each = |seconds: f64| seconds * 1_000_000.0 / measured.answered as f64;
        let database = now
            .database
            .zip(before.database.as_ref())
            .map(|(now, before)| {
                let used = |(id, seconds): (&u32, &f64)| seconds - before.get(id).unwrap_or(&0.0);
                now.iter().map(used).sum::<f64>().max(0.0)
            });
        Ok(Measured {
            server_us: Some(each(now.server - before.server)),
            database_us: database.map(each),
            ..measured
        })
    }
}

/// Processor time of a process, in seconds: of all threads, in and outside the kernel.
fn cpu_seconds(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, in brackets, may hold anything. Two fields on from it are 14 and 15 of proc(5).
    let (_, fields) = text.rsplit_once(')').context("no name")?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let mut next = || ticks.next().context("too short")?.context("no number");
    Ok((next()? + next()?) / TICKS_PER_SECOND)
}

/// Resident memory, by its name in `status` of proc(5).
pub fn memory_mb(id: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("the system does not say")?.parse()?;
    Ok(kilobytes * 1024.0 / 1_000_000.0)
}
