//! Measures the ledger. Timings on a shared machine mean little alone, so wherever there is something
//! to compare with, it is measured in the same run, and ratios are told beside the figures.

mod generator;
mod http;
mod lag;
mod load;
mod pages;
mod raw;
mod rebuild;
mod references;
mod steady;
mod suite;

use anyhow::Result;
use clap::Parser;

/// As in the program that is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures the ledger.
#[derive(Debug, Parser)]
enum Command {
    /// Writing through a running service, beside raw inserts into the same database.
    Load(load::Arguments),
    /// Writing at a fixed rate.
    Steady(steady::Arguments),
    /// Rebuilding projections, beside reading the same rows.
    Rebuild(rebuild::Arguments),
    /// From a write's answer until lists show it, while others write at a fixed rate.
    Lag(lag::Arguments),
    /// First pages of lists, by every filter.
    Pages(pages::Arguments),
    /// Named comparisons, each beside its references; what `scripts/bench` runs.
    Suite(suite::Arguments),
    /// A reference, as a process of its own.
    Reference(references::serve::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Load(arguments) => load::run(arguments).await,
        Command::Steady(arguments) => steady::run(arguments).await,
        Command::Rebuild(arguments) => rebuild::run(arguments).await,
        Command::Lag(arguments) => lag::run(arguments).await,
        Command::Pages(arguments) => pages::run(arguments).await,
        Command::Suite(arguments) => suite::run(arguments).await,
        Command::Reference(arguments) => references::serve::run(arguments).await,
    }
}
