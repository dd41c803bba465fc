//! The ledger as shipped, with its defaults: migrated, with tenants and keys, and serving.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgPool;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::process::{self, Meter};
use crate::http::{Connection, Target, request_json};

/// 32 bytes in base64. It protects nothing but a benchmark.
const MASTER_KEY: &str = "bm90aGluZyBidXQgYSBiZW5jaG1hcmsncyBrZXkhISE=";
/// Longest wait for a start, and for projections that follow.
const START_MAX: Duration = Duration::from_secs(30);
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

pub struct Product {
    child: Child,
    /// One for each tenant.
    pub targets: Vec<Target>,
    pub meter: Meter,
    folder: TempDir,
}

impl Product {
    pub async fn start(
        binary: &Path,
        database_url: &str,
        database: Option<(PgPool, String)>,
        tenants: usize,
    ) -> Result<Self> {
        let binary = binary
            .canonicalize()
            .with_context(|| format!("no ledger at {}; build it in release", binary.display()))?;
        let folder = tempfile::tempdir()?;
        let command = || command(&binary, database_url);
        output(command().arg("migrate")).await?;
        let mut keys = Vec::new();
        for number in 0..tenants {
            let tenant = format!("bench-{number}");
            output(command().args(["tenants", "create", &tenant])).await?;
            let scope = ["--scope", "read,write,admin"];
            let key = command()
                .args(["keys", "create", "--tenant", &tenant])
                .args(scope)
                .output();
            keys.push(String::from_utf8(key.await?.stdout)?.trim().to_owned());
        }
        let listening = folder.path().join("address");
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = command()
            .arg("serve")
            .env("LEDGER_LISTEN", "127.0.0.1:0")
            .env("LEDGER_LISTEN_FILE", &listening)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let process = child.id().context("the ledger has ended")?;
        let mut product = Self {
            child,
            targets: Vec::new(),
            meter: Meter { process, database },
            folder,
        };
        let address = product.address(&listening).await?;
        product.targets = keys
            .into_iter()
            .map(|key| Target {
                address: address.clone(),
                key,
            })
            .collect();
        Ok(product)
    }

    async fn address(&mut self, file: &PathBuf) -> Result<String> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if let Ok(address) = std::fs::read_to_string(file)
                && !address.trim().is_empty()
            {
                return Ok(address.trim().to_owned());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.folder.path().join("log"))?;
                bail!("the ledger ended with {status}:\n{log}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("the ledger did not start within {START_MAX:?}");
    }

    /// Waits until every list shows what was written so far, and says how long that took.
    pub async fn caught_up(&self) -> Result<Duration> {
        self.caught_up_within(CATCH_UP_MAX).await
    }

    /// The same, after so much that it may take longer than usual.
    pub async fn caught_up_within(&self, patience: Duration) -> Result<Duration> {
        const LISTS: [&str; 4] = [
            "/v1/notifications?limit=1",
            "/v1/notification-logs?limit=1",
            "/v1/timeline?limit=1&order=desc",
            "/v1/metrics?interval=day",
        ];
        let begun = Instant::now();
        for target in &self.targets {
            let mut connection = Connection::open(target).await?;
            let number = uuid::Uuid::new_v4().as_u64_pair().0 >> 20;
            let body = request_json(number);
            let answer = connection
                .call("POST", "/v1/notifications", "", &body)
                .await?;
            let position = answer
                .header("ledger-position")
                .context("no position")?
                .to_owned();
            let header = format!("Ledger-Min-Position: {position}\r\n");
            for list in LISTS {
                while connection.call("GET", list, &header, "").await?.status != 200 {
                    if begun.elapsed() > patience {
                        bail!("{list} is still behind after {patience:?}");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Ok(begun.elapsed())
    }

    /// How many events the projection that is furthest behind has still to take in, as the ledger's own
    /// metrics have it.
    pub async fn events_behind(&self) -> Result<u64> {
        const LAG: &str = "ledger_projection_lag_events{";
        let target = self.targets.first().context("no tenant")?;
        let mut connection = Connection::open(target).await?;
        let answer = connection.call("GET", "/metrics", "", "").await?;
        let text = std::str::from_utf8(answer.ok(200)?)?;
        let lags = text.lines().filter(|line| line.starts_with(LAG));
        let lags = lags.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok());
        lags.max().context("the metrics tell of no projection")
    }

    /// Resident memory now.
    pub fn resident_mb(&self) -> Result<f64> {
        process::memory_mb(self.meter.process, "VmRSS:")
    }

    /// Resident memory at its highest so far.
    pub fn memory_mb(&self) -> Result<f64> {
        process::memory_mb(self.meter.process, "VmHWM:")
    }

    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// The ledger with its defaults: nothing that is set for another one reaches it.
fn command(binary: &Path, database_url: &str) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("LEDGER_") || name.starts_with("OTEL_") || name.starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
        .env("LEDGER_DATABASE_URL", database_url)
        .env("LEDGER_MASTER_KEY", MASTER_KEY)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn output(command: &mut Command) -> Result<()> {
    let output = command.output().await?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
