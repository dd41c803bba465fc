//! Ledgers of some size, and whether it matters: the same work with few events on record and with many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Suite;
use super::comparisons::{contender, to_ledger};
use super::product::Product;
use super::report::{Bar, Comparison, Figure};
use crate::generator::{self, Pace, Request, Requests};
use crate::http::{self, Connection};
use crate::lag;

const SMALL: u64 = 100_000;
/// Connections that fill a ledger.
const WRITERS: usize = 32;
/// Longest wait for projections after so much was written as fast as could be.
const CATCH_UP_MAX: Duration = Duration::from_mins(30);
/// Notifications whose history is read, about.
const READ: u64 = 1_000;
/// Histories read a second: a person's pace, not a peak.
const READS_PER_SECOND: f64 = 200.0;

impl Suite {
    pub async fn size(&self, comparison: &mut Comparison) -> Result<()> {
        let many = self.arguments.large_events;
        comparison.title = format!(
            "The same work with {SMALL} events on record and with {many}: one command a request and whole lives at \
             64 connections, and histories of single notifications at {READS_PER_SECOND} a second."
        );
        let small = self.product("bench_small").await?;
        let large = self.product("bench_large").await?;
        let mut work = Vec::new();
        let mut names = Vec::new();
        for (product, size) in [(&small, SMALL), (&large, many)] {
            let written = fill(product, size).await?;
            let kinds = ["POST /v1/notifications", "whole lives", "histories"];
            names.push(kinds.map(|kind| format!("ledger of {size} events, {kind}")));
            work.push((product, written));
        }
        let closed = self.closed(64);
        let paced = self.plan(8, Pace::PerSecond(READS_PER_SECOND));
        let mut contenders = Vec::new();
        for kind in 0..3 {
            for ((product, written), names) in work.iter().zip(&names) {
                contenders.push(contender(&names[kind], move || async move {
                    match kind {
                        0 => to_ledger(product, closed, http::singles).await,
                        1 => to_ledger(product, closed, http::lifecycles).await,
                        _ => {
                            let reads = |worker| histories(worker, written.clone());
                            generator::run(&product.targets[..1], paced, reads).await
                        }
                    }
                }));
            }
        }
        self.in_turn(comparison, &contenders).await?;
        for (few, many) in names[0].iter().zip(&names[1]).take(2) {
            comparison.wants(Bar::at(Figure::PerSecond, many, few, 0.85));
        }
        comparison.wants(Bar::alone(Figure::P99, &names[1][2], 5.0));
        drop(contenders);
        self.weigh(comparison, "bench_large").await?;
        small.stop().await?;
        large.stop().await?;
        self.clean(&["bench_small", "bench_large"]).await
    }
}

/// Writes so many events, and returns the histories of some notifications they are about, from all
/// over the log.
async fn fill(product: &Product, events: u64) -> Result<Vec<String>> {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let first = Uuid::new_v4().as_u64_pair().0 >> 20;
    let every = (events / READ).max(lag::CALL);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let next = Arc::clone(&next);
        let tenant = writer % product.targets.len();
        let mut connection = Connection::open(&product.targets[tenant]).await?;
        writers.spawn(async move {
            let mut paths = Vec::new();
            loop {
                let from = next.fetch_add(lag::CALL, Ordering::Relaxed);
                if from >= events {
                    return anyhow::Ok(paths);
                }
                let mut id = Uuid::nil();
                let body = lag::lifecycles(first + from, || {
                    id = Uuid::now_v7();
                    id
                });
                connection
                    .call("POST", "/v1/commands", "", &body)
                    .await?
                    .ok(200)?;
                if tenant == 0 && from % every < lag::CALL {
                    paths.push(format!("/v1/notifications/{id}/events"));
                }
            }
        });
    }
    let mut paths = Vec::new();
    while let Some(writer) = writers.join_next().await {
        paths.extend(writer??);
    }
    let written = begun.elapsed().as_secs_f64();
    let behind = product.caught_up_within(CATCH_UP_MAX).await?.as_secs_f64();
    eprintln!(
        "  wrote {events} events in {written:.0} s; projections were there {behind:.0} s later"
    );
    Ok(paths)
}

/// Reads histories, each connection from another one on.
fn histories(worker: u64, paths: Vec<String>) -> Requests {
    let mut number = usize::try_from(worker).unwrap_or_default() * 97;
    Box::new(move || {
        number += 1;
        Request {
            method: "GET",
            path: paths[number % paths.len()].clone().into(),
            headers: String::new(),
            body: String::new(),
            status: 200,
            weight: 1,
        }
    })
}
