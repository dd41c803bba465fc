//! The command line: what to do, with which settings, and what to tell whoever asked.
//!
//! Answers go to stdout, and nothing else does: everything said beside them goes to stderr, as do
//! log lines. The exit status is 0 when it was done, 1 when it failed, 2 when it was asked for in
//! a wrong way, settings included, and 141 when whoever read rows left before their end. Nothing here decides anything: each subcommand hands its
//! arguments to the rooms and shows what comes back.

mod demo;
mod import;
mod keys;
mod migrate;
mod output;
mod progress;
mod projections;
mod replay;
mod serve;
mod tenants;
mod verify;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::app::{self, Opened, StartError};
use crate::clock::Surroundings;
use crate::config::{Config, ConfigArgs, ConfigError, process_environment};
use crate::domain::ids::{IdError, check_name};
use crate::ledger::database::{Database, OpenError};
use crate::ledger::registry::Registry;
use crate::telemetry::{self, ErrorChain, Metrics};

/// Least and most time for handing over what is left of the traces. The least is what `app` keeps
/// for it when everything else takes as long as it may.
const FLUSH_MIN: Duration = Duration::from_millis(400);
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// How much is logged by what answers and ends: its words to the caller say the rest.
const LOG_LEVEL_OF_ANSWERS: &str = "warn";
const LOG_LEVEL_DEFAULT: &str = "info";

/// Exit statuses.
const FAILED: u8 = 1;
const WRONG_USE: u8 = 2;
/// As a shell shows a program that SIGPIPE ended: not all was read, and nothing failed.
const CUT_SHORT: u8 = 128 + 13;

/// Keeps the complete, permanent and checkable history of every notification.
///
/// Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
#[command(after_help = "\
Try it:
  notification-ledger                     an empty ledger in data/ledger.db, on 127.0.0.1:8080

Settings come from flags, then environment variables, then the file named by --config, then their
defaults. `--help` lists all of them.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: ConfigArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Migrate(migrate::Arguments),
    #[command(subcommand)]
    Tenants(tenants::Arguments),
    #[command(subcommand)]
    Keys(keys::Arguments),
    #[command(subcommand)]
    Projections(projections::Arguments),
    Replay(replay::Arguments),
    Verify(verify::Arguments),
    Import(import::Arguments),
    Demo(demo::Arguments),
}

/// What became of a command that did not fail.
enum Done {
    /// What was asked for.
    All,
    /// The answer is "no", such as a chain that is broken. The command has said so.
    No,
    /// Whoever read the rows has left before their end, as `head` does. There is nothing to say.
    CutShort,
}

/// It was asked for in a way that can't be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUse(String);

/// What every subcommand is given.
struct Given {
    config: Config,
    metrics: Metrics,
    /// Since when a service has been stopping.
    stopping_since: OnceLock<Instant>,
}

/// Runs the program. Wrong use of the command line ends the process right here.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::No) => ExitCode::from(FAILED),
        Ok(Done::CutShort) => ExitCode::from(CUT_SHORT),
        Err(error) => {
            eprintln!("error: {}", ErrorChain(error.as_ref()));
            if let Some(advice) = advice(&error) {
                eprintln!("\n{advice}");
            }
            ExitCode::from(status(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Done> {
    let command = cli.command.unwrap_or(Command::Serve(serve::Arguments {}));
    let env = process_environment();
    let mut config = if command.needs_master_key() {
        Config::load(&cli.settings, &env)?
    } else {
        Config::load_keyless(&cli.settings, &env)?
    };
    if !command.logs() && config.telemetry.log_level == LOG_LEVEL_DEFAULT {
        LOG_LEVEL_OF_ANSWERS.clone_into(&mut config.telemetry.log_level);
    }
    let connections_max = &mut config.database_connections_max;
    *connections_max = command.connections_min().max(*connections_max);
    let telemetry = telemetry::init(&config.telemetry)?;
    let given = Given {
        metrics: Metrics::new()?,
        config,
        stopping_since: OnceLock::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the operating system gave no threads")?;
    let result = runtime.block_on(command.run(&given));
    telemetry.shutdown(given.time_to_flush());
    // Not waited for: a thread may be stuck reading a terminal.
    runtime.shutdown_background();
    result
}

impl Command {
    /// Whoever checks the chain need not be able to read what is sealed in it.
    fn needs_master_key(&self) -> bool {
        !matches!(
            self,
            Self::Verify(_) | Self::Projections(_) | Self::Replay(_)
        )
    }

    /// A replay beside live rows holds on to those through one connection, and reads the record
    /// through another.
    fn connections_min(&self) -> u32 {
        if matches!(self, Self::Replay(_)) {
            2
        } else {
            1
        }
    }

    /// Runs on, and logs what it does: the demo shows that in its own way.
    fn logs(&self) -> bool {
        matches!(self, Self::Serve(_))
    }

    async fn run(self, given: &Given) -> anyhow::Result<Done> {
        match self {
            Self::Serve(_) => serve::run(given).await,
            Self::Migrate(arguments) => migrate::run(given, &arguments).await,
            Self::Tenants(arguments) => tenants::run(given, arguments).await,
            Self::Keys(arguments) => keys::run(given, arguments).await,
            Self::Projections(arguments) => projections::run(given, arguments).await,
            Self::Replay(arguments) => replay::run(given, &arguments).await,
            Self::Verify(arguments) => verify::run(given, &arguments).await,
            Self::Import(arguments) => import::run(given, &arguments).await,
            Self::Demo(arguments) => demo::run(given, &arguments).await,
        }
    }
}

impl Given {
    /// What a stop has left of its time.
    fn time_to_flush(&self) -> Duration {
        let stopping = self
            .stopping_since
            .get()
            .map_or(Duration::ZERO, Instant::elapsed);
        let left = self.config.shutdown_timeout.saturating_sub(stopping);
        left.clamp(FLUSH_MIN, FLUSH_MAX)
    }

    /// The ledger that is there, for a command beside a server.
    async fn open(&self) -> Result<Opened, StartError> {
        app::open_existing(&self.config, &Surroundings::system()).await
    }

    /// The tables of tenants and keys. The database is to be closed at the end.
    async fn registry(&self) -> Result<(Database, Registry), StartError> {
        let opened = self.open().await?;
        let registry = opened.registry(&self.config, &self.metrics);
        Ok((opened.database, registry))
    }
}

/// A name for people, as an argument.
fn name(text: &str) -> Result<String, IdError> {
    check_name(text).map(|()| text.to_owned())
}

fn status(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() || error.is::<WrongUse>() {
        WRONG_USE
    } else {
        FAILED
    }
}

/// What to do about an error whose own words don't say.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let error = match error.downcast_ref::<StartError>()? {
        StartError::Listen { .. } => {
            return Some(
                "Is another ledger running? Choose another address with --listen; `127.0.0.1:0` \
                 takes any free port.",
            );
        }
        StartError::Open(error) => error,
        _ => return None,
    };
    match error {
        OpenError::Unreachable(_) => Some(
            "Check LEDGER_DATABASE_URL (or --database-url), that the database is running, and \
             that this user may use it.",
        ),
        _ => None,
    }
}
