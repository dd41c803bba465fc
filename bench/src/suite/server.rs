//! A reference as a process of its own, like the ledger.

use std::process::Stdio;

use anyhow::{Context, Result};
use clap::ValueEnum;
use sqlx::postgres::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::process::Meter;
use crate::http::Target;
use crate::references::serve::Kind;

pub struct Server {
    child: Child,
    pub targets: Vec<Target>,
    pub meter: Meter,
}

impl Server {
    pub async fn start(
        kind: Kind,
        database_url: &str,
        database: Option<(PgPool, String)>,
    ) -> Result<Self> {
        let value = kind.to_possible_value().context("not to be skipped")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "reference",
                value.get_name(),
                "--database-url",
                database_url,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let line = BufReader::new(out).lines().next_line().await?;
        let target = Target {
            address: line.with_context(|| format!("{kind:?} did not start"))?,
            key: "nobody-looks-at-it".to_owned(),
        };
        let process = child.id().context("the reference has ended")?;
        Ok(Self {
            child,
            targets: vec![target],
            meter: Meter { process, database },
        })
    }

    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
