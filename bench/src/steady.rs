//! Writing at a fixed rate: latencies counted from when each request was due.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::generator::{self, Pace, Plan};
use crate::http::{self, Target};

/// Measures latencies of a running service at a fixed rate.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Host and port of the service.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// A key with the scope `write`.
    #[arg(long, env = "BENCH_KEY")]
    key: String,
    /// Requests a second.
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// Seconds that count, after a quarter as many that don't.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let duration = Duration::from_secs_f64(arguments.seconds);
    let target = Target {
        address: arguments.address,
        key: arguments.key,
    };
    let plan = Plan {
        connections: arguments.connections,
        pace: Pace::PerSecond(arguments.rate),
        warm_up: duration / 4,
        duration,
    };
    let measured = generator::run(&[target], plan, http::singles).await?;
    println!(
        "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        measured.per_second, measured.p50_ms, measured.p99_ms
    );
    Ok(())
}
