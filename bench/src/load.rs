//! Writing: a running ledger beside raw multi-row inserts of the same bytes into the same
//! database, in turn, in one run.
//!
//! Timings on a shared machine mean nothing alone, so every figure has its reference from the same
//! minute, and what is reported is the ratio of medians over several rounds.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::{generator, http, raw};

/// Measures a running service against raw inserts into the same database.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Host and port of the service.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// A key with the scope `write`.
    #[arg(long, env = "BENCH_KEY")]
    key: String,
    /// The service's database, for the reference: `postgres://…` or `sqlite://PATH`. The
    /// reference makes a table of its own, and drops it at the end.
    #[arg(long)]
    database_url: String,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// One kind of work, with what each round gave.
struct Row {
    name: String,
    per_second: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let duration = Duration::from_secs(arguments.seconds);
    let target = http::Target {
        address: arguments.address.clone(),
        key: arguments.key.clone(),
    };
    let reference = raw::Reference::prepare(&arguments.database_url)
        .await
        .context("the reference's table")?;
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        let inserted = reference.run(duration).await.context("raw inserts")?;
        note(
            &mut rows,
            "raw multi-row insert, 500 rows, 2 connections (rows)",
            inserted,
        );
        for connections in [1, 64, 256] {
            let name = format!("POST /v1/notifications, {connections} connections");
            note(
                &mut rows,
                &name,
                target.single(connections, duration).await?,
            );
        }
        let bulk = target.bulk(4, 1000, duration).await?;
        note(
            &mut rows,
            "POST /v1/commands, 1,000 a call, 4 connections (events)",
            bulk,
        );
    }
    reference.finish().await?;
    print(&rows);
    Ok(())
}

fn note(rows: &mut Vec<Row>, name: &str, measured: generator::Measured) {
    eprintln!(
        "  {name}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        measured.per_second, measured.p50_ms, measured.p99_ms
    );
    let index = rows
        .iter()
        .position(|row| row.name == name)
        .unwrap_or_else(|| {
            rows.push(Row {
                name: name.to_owned(),
                per_second: Vec::new(),
                p50_ms: Vec::new(),
                p99_ms: Vec::new(),
            });
            rows.len() - 1
        });
    rows[index].per_second.push(measured.per_second);
    rows[index].p50_ms.push(measured.p50_ms);
    rows[index].p99_ms.push(measured.p99_ms);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(rows: &[Row]) {
    let reference = rows.first().map_or(f64::NAN, |row| median(&row.per_second));
    println!("| work | per second | of raw insert | p50 ms | p99 ms |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for row in rows {
        let rate = median(&row.per_second);
        println!(
            "| {} | {rate:.0} | {:.2} | {:.2} | {:.2} |",
            row.name,
            rate / reference,
            median(&row.p50_ms),
            median(&row.p99_ms)
        );
    }
}
