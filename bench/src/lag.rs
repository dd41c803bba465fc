//! How long after a write's answer its effect is seen in lists, while others write at a fixed rate.
//!
//! The rate is kept by a clock, not by the answers, and bulk calls carry it. Beside them a prober
//! writes one notification, notes when it was answered, and reads a list that must contain it
//! (`Ledger-Min-Position`): the time until that list is there is the lag, the read included.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use hdrhistogram::Histogram;

use crate::http::{Connection, Target, request_json};

/// Commands in each bulk call.
pub const CALL: u64 = 100;
/// Writers that share the rate.
const WRITERS: u64 = 4;
/// Between a probe's end and the next one.
const PAUSE: Duration = Duration::from_millis(5);

/// Measures how far lists are behind.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Host and port of the service.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// A key with the scopes `read` and `write`.
    #[arg(long, env = "BENCH_KEY")]
    key: String,
    /// Events per second that others write meanwhile.
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// Seconds of it.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let target = Target {
        address: arguments.address,
        key: arguments.key,
    };
    let duration = Duration::from_secs(arguments.seconds);
    let started = Instant::now();
    let base = uuid::Uuid::new_v4().as_u64_pair().0 >> 20;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let target = target.clone();
        let every = Duration::from_secs_f64((CALL * WRITERS) as f64 / arguments.rate as f64);
        writers.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            let mut ticks = tokio::time::interval(every);
            let mut written = 0;
            while started.elapsed() < duration {
                ticks.tick().await;
                let first = base + writer * 100_000_000 + written;
                let body = lifecycles(first, uuid::Uuid::now_v7);
                connection
                    .call("POST", "/v1/commands", "", &body)
                    .await?
                    .ok(200)?;
                written += CALL;
            }
            anyhow::Ok(written)
        });
    }
    let mut histograms = Vec::new();
    for list in [
        "/v1/notifications?limit=1",
        "/v1/notification-logs?limit=1",
        "/v1/timeline?limit=1&order=desc",
    ] {
        histograms.push((list, Histogram::<u64>::new(3)?));
    }
    let mut connection = Connection::open(&target).await?;
    let mut number = base + 900_000_000;
    while started.elapsed() < duration {
        for (list, histogram) in &mut histograms {
            number += 1;
            let answer = connection
                .call("POST", "/v1/notifications", "", &request_json(number))
                .await?;
            let position = answer
                .header("ledger-position")
                .context("no position")?
                .to_owned();
            answer.ok(201)?;
            let answered = Instant::now();
            let header = format!("Ledger-Min-Position: {position}\r\n");
            connection.call("GET", list, &header, "").await?.ok(200)?;
            histogram.record(u64::try_from(answered.elapsed().as_micros())?)?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    let mut written = 0;
    while let Some(writer) = writers.join_next().await {
        written += writer??;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{:.0} events per second were written meanwhile, {} asked for",
        written as f64 / seconds,
        arguments.rate
    );
    println!();
    println!("| answered until visible in | probes | p50 ms | p99 ms | longest ms |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (list, histogram) in &histograms {
        let ms = |micros: u64| micros as f64 / 1000.0;
        println!(
            "| `{list}` | {} | {:.1} | {:.1} | {:.1} |",
            histogram.len(),
            ms(histogram.value_at_quantile(0.50)),
            ms(histogram.value_at_quantile(0.99)),
            ms(histogram.max())
        );
    }
    Ok(())
}

/// Commands of whole lives: each notification is requested, queued, sent and delivered. The caller
/// chooses the ids.
pub fn lifecycles(first: u64, mut id: impl FnMut() -> uuid::Uuid) -> String {
    let mut items = Vec::new();
    for number in first..first + CALL / 4 {
        let id = id();
        let message = format!(
            r#""message":{{"channel":"email","provider_id":"northmail","provider_message_id":"nm-{number}"}}"#
        );
        items.push(format!(
            r#"{{"type":"request","id":"{id}",{}"#,
            &request_json(number)[1..]
        ));
        items.push(format!(r#"{{"type":"queue","notification_id":"{id}"}}"#));
        items.push(format!(
            r#"{{"type":"sent","notification_id":"{id}",{message}}}"#
        ));
        items.push(format!(
            r#"{{"type":"delivered","notification_id":"{id}",{message}}}"#
        ));
    }
    format!(r#"{{"commands":[{}]}}"#, items.join(","))
}
