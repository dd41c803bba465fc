//! Named comparisons: the ledger beside its references, in turn, several rounds.
//!
//! A shared machine is faster in one minute than in the next, so figures of different minutes are
//! not compared. In every round each contender is measured once, right after the other; what is told
//! are medians over the rounds, and their ratios beside the bar that is to be reached.
//!
//! The ledger runs as shipped: its own binary as a process of its own, with its defaults, a tenant
//! and a key, and its projections following. Before the next contender's turn they may catch up,
//! and the database writes a checkpoint, so that nobody pays for the one before.

mod comparisons;
mod databases;
mod memory;
mod novu;
mod overload;
mod plot;
mod process;
mod product;
mod report;
mod server;
mod size;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::generator::{Pace, Plan};
use databases::Databases;
use report::{Comparison, Machine};

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Name {
    /// `POST /v1/notifications`, 64 connections.
    #[value(name = "single-64")]
    Single64,
    /// The same with 256.
    #[value(name = "single-256")]
    Single256,
    /// Its p99 at 70 % of its peak rate.
    #[value(name = "p99-at-70-percent")]
    P99,
    /// One command at a time.
    OneConnection,
    /// Four commands for each notification.
    #[value(name = "lifecycle-64")]
    Lifecycle64,
    /// 1,000 commands a call.
    Bulk,
    /// Signed webhooks of Novu.
    Webhooks,
    /// Projections made anew.
    Rebuild,
    /// On SQLite.
    #[value(name = "sqlite-64")]
    Sqlite64,
    /// Three times its peak rate.
    Overload,
    /// Full load for minutes on end. Takes its time, so only if it is named.
    Memory,
    /// With few events on record and with many. Takes its time, so only if it is named.
    Size,
}

/// Measures the ledger beside its references and writes down what came of it.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// All of them, if none is named.
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// A PostgreSQL server where databases may be made and dropped: `postgres://…`.
    #[arg(long)]
    database_url: String,
    /// The ledger.
    #[arg(long, default_value = "../target/release/notification-ledger")]
    binary: PathBuf,
    /// Where the results go.
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// Where files that need a disk are kept meanwhile, SQLite's for one.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 6.0, default_value_if("quick", "true", "1.2"))]
    seconds: f64,
    /// Rounds; medians are told.
    #[arg(long, default_value_t = 5, default_value_if("quick", "true", "3"))]
    rounds: usize,
    /// Tenants that share the load.
    #[arg(long, default_value_t = 1)]
    tenants: usize,
    /// Events that are rebuilt.
    #[arg(
        long,
        default_value_t = 1_000_000,
        default_value_if("quick", "true", "100000")
    )]
    events: i64,
    /// Events on record for `size`.
    #[arg(long, default_value_t = 10_000_000)]
    large_events: u64,
    /// Minutes of full load for `memory`.
    #[arg(long, default_value_t = 10)]
    minutes: usize,
    /// Fewer seconds, rounds and events: all of it in less than five minutes.
    #[arg(long)]
    quick: bool,
}

/// What all comparisons share.
pub struct Suite {
    arguments: Arguments,
    databases: Databases,
}

pub async fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.names.is_empty() {
        arguments.names = Name::value_variants().to_vec();
        arguments
            .names
            .retain(|name| !matches!(name, Name::Memory | Name::Size));
    }
    std::fs::create_dir_all(&arguments.out)?;
    let databases = Databases::connect(&arguments.database_url).await?;
    let machine = Machine::look(&databases).await?;
    let suite = Suite {
        arguments,
        databases,
    };
    for name in suite.arguments.names.clone() {
        let label = name
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        eprintln!("{label}");
        let mut comparison = Comparison::new(&label, &machine, &suite.settings());
        match name {
            Name::Single64 => suite.single(&mut comparison, 64).await?,
            Name::Single256 => suite.single(&mut comparison, 256).await?,
            Name::P99 => suite.p99(&mut comparison).await?,
            Name::OneConnection => suite.one_connection(&mut comparison).await?,
            Name::Lifecycle64 => suite.lifecycle(&mut comparison).await?,
            Name::Bulk => suite.bulk(&mut comparison).await?,
            Name::Webhooks => suite.webhooks(&mut comparison).await?,
            Name::Rebuild => suite.rebuild(&mut comparison).await?,
            Name::Sqlite64 => suite.sqlite(&mut comparison).await?,
            Name::Overload => suite.overload(&mut comparison).await?,
            Name::Memory => suite.memory(&mut comparison).await?,
            Name::Size => suite.size(&mut comparison).await?,
        }
        comparison.judge();
        comparison.write(&suite.arguments.out)?;
        println!("{}", comparison.markdown());
    }
    println!("{}", report::summary(&suite.arguments.out)?);
    Ok(())
}

impl Suite {
    fn settings(&self) -> String {
        let Arguments {
            seconds,
            rounds,
            tenants,
            ..
        } = self.arguments;
        format!("{rounds} rounds of {seconds} s, tenants: {tenants}")
    }

    fn plan(&self, connections: u64, pace: Pace) -> Plan {
        let duration = Duration::from_secs_f64(self.arguments.seconds);
        Plan {
            connections,
            pace,
            warm_up: duration / 4,
            duration,
        }
    }

    fn closed(&self, connections: u64) -> Plan {
        self.plan(connections, Pace::AsAnswered)
    }
}
