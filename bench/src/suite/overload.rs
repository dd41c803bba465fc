//! More than can be done: three times what the ledger reaches at its peak.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use super::Suite;
use super::report::{Bar, Comparison, Figure, median};
use crate::generator::{self, Measured, Tally};
use crate::http::{self, Connection, Target};

/// Connections while the peak is measured.
const PEAK_CONNECTIONS: u64 = 256;
/// How many times the peak is asked for.
const TIMES: f64 = 3.0;
/// Connections that ask for it: more than the ledger lets wait, or nobody would be refused.
const CONNECTIONS: u64 = 9_500;
/// Requests a second before and after, to see what is normal.
const PROBES_PER_SECOND: f64 = 100.0;
/// It must be normal again after so long, in seconds.
const RECOVERY_MAX: f64 = 5.0;
/// So many answers in a row are normal when it is.
const IN_A_ROW: usize = 20;
/// Longer than this many times the normal p99 isn't normal.
const NORMAL_MAX: f64 = 2.0;

const PEAK: &str = "peak, 256 connections";
const TAKEN: &str = "taken at three times the peak";
const REFUSED: &str = "answered 503 meanwhile";

/// What a flood was answered.
struct Flood {
    taken: Tally,
    refused: Tally,
    elapsed: Duration,
    ended: Instant,
}

impl Suite {
    pub async fn overload(&self, comparison: &mut Comparison) -> Result<()> {
        comparison.title = format!(
            "`POST /v1/notifications` at {TIMES} times its peak rate, over up to {CONNECTIONS} connections. Latencies of \
             what was taken count from when it was due, of refusals from when the request was sent."
        );
        let product = self.product("bench_overload").await?;
        let plan = self.closed(PEAK_CONNECTIONS);
        let probes = self.plan(1, generator::Pace::PerSecond(PROBES_PER_SECOND));
        let normal = generator::run(&product.targets, probes, http::singles).await?;
        let mut recoveries = Vec::new();
        for round in 0..self.arguments.rounds {
            self.databases.checkpoint().await?;
            let peak = generator::run(&product.targets, plan, http::singles).await?;
            eprintln!("  round {}: peak {:.0}/s", round + 1, peak.per_second);
            comparison.note(PEAK, peak);
            product.caught_up().await?;
            let flood = flood(&product.targets[0], TIMES * peak.per_second, plan.duration).await?;
            let recovery = recovery(&product.targets[0], &flood, &normal).await?;
            let [taken, refused] =
                [&flood.taken, &flood.refused].map(|tally| tally.measured(flood.elapsed));
            eprintln!(
                "    taken {:.0}/s, refused {:.0}/s, normal again after {recovery:.1} s",
                taken.per_second, refused.per_second
            );
            comparison.note(TAKEN, taken);
            comparison.note(REFUSED, refused);
            recoveries.push(recovery);
            product.caught_up().await?;
        }
        comparison.wants(Bar::at(Figure::PerSecond, TAKEN, PEAK, 0.8));
        let recovery = median(&recoveries).unwrap_or(f64::NAN);
        comparison.notes.push(format!(
            "One request at a time is answered as fast as before the load (p99 {:.1} ms, or at most {NORMAL_MAX} times that, \
             {IN_A_ROW} times in a row) {recovery:.1} s after its end; wanted: at most {RECOVERY_MAX} s.",
            normal.p99_ms
        ));
        comparison.notes.push(format!(
            "Resident memory at its highest: {:.0} MB.",
            product.memory_mb()?
        ));
        product.stop().await?;
        self.clean(&["bench_overload"]).await
    }
}

/// Asks for so much a second, whatever the answers do: whoever is free sends what is due next.
async fn flood(target: &Target, rate: f64, duration: Duration) -> Result<Flood> {
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        connections.push((Connection::open(target).await?, http::singles(number)));
    }
    let count = (rate * duration.as_secs_f64()) as u64;
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for (mut connection, mut requests) in connections {
        let next = Arc::clone(&next);
        workers.spawn(async move {
            let (mut taken, mut refused) = (Tally::new()?, Tally::new()?);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok((taken, refused));
                }
                let due = begun + Duration::from_secs_f64(number as f64 / rate);
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                }
                let request = requests();
                let sent = Instant::now();
                let answer = connection
                    .call(request.method, &request.path, "", &request.body)
                    .await?;
                match answer.status {
                    201 => taken.note(due, 1, true)?,
                    503 if answer.header("retry-after").is_some() => refused.note(sent, 1, true)?,
                    other => bail!("answered {other}"),
                }
            }
        });
    }
    let (mut taken, mut refused) = (Tally::new()?, Tally::new()?);
    while let Some(worker) = workers.join_next().await {
        let (of_one, refused_of_one) = worker??;
        taken.add(&of_one)?;
        refused.add(&refused_of_one)?;
    }
    Ok(Flood {
        taken,
        refused,
        elapsed: begun.elapsed(),
        ended: Instant::now(),
    })
}

/// Seconds from the end of a flood until answers are as fast as usual.
async fn recovery(target: &Target, flood: &Flood, normal: &Measured) -> Result<f64> {
    let mut connection = Connection::open(target).await?;
    let mut requests = http::singles(CONNECTIONS);
    let mut in_a_row = 0;
    let mut since = flood.ended;
    while in_a_row < IN_A_ROW {
        if flood.ended.elapsed() > Duration::from_mins(1) {
            return Ok(f64::INFINITY);
        }
        let sent = Instant::now();
        connection.send(&requests()).await?;
        let took = sent.elapsed().as_secs_f64() * 1000.0;
        if took > NORMAL_MAX * normal.p99_ms {
            in_a_row = 0;
            since = Instant::now();
        } else {
            in_a_row += 1;
        }
        tokio::time::sleep(Duration::from_secs_f64(1.0 / PROBES_PER_SECOND)).await;
    }
    Ok(since.duration_since(flood.ended).as_secs_f64())
}
