//! The comparisons, with what each must reach.

use anyhow::Result;
use futures_util::future::BoxFuture;

use super::databases::storage;
use super::product::Product;
use super::report::{Bar, Comparison, Figure, median};
use super::server::Server;
use super::{Suite, novu};
use crate::generator::{self, Measured, Pace, Plan, Requests};
use crate::http;
use crate::rebuild;
use crate::references::raw::How;
use crate::references::rows::{Aside, Cost};
use crate::references::serve::Kind;
use crate::references::stock::Stock;
use crate::references::{group, raw, stock};

const LEDGER: &str = "ledger";
const STRANGERS: &str = "ledger, each to somebody new";
const GROUP: &str = "axum, bare group commit";
const COPIED: &str = "no service: the ledger's rows, copied";
const STOCK: &str = "axum, postgres-es";

/// Notifications that are requested for each second of webhooks, of which there are two for each: more
/// than are needed.
const REQUESTED_A_SECOND: f64 = 15_000.0;

/// Resident memory of the service under full load, at most.
pub const MEMORY_MB_MAX: f64 = 150.0;

/// Somebody who is measured once a round.
pub type Contender<'a> = (
    &'a str,
    Box<dyn Fn() -> BoxFuture<'a, Result<Measured>> + 'a>,
);

pub fn contender<'a, F>(name: &'a str, work: impl Fn() -> F + 'a) -> Contender<'a>
where
    F: Future<Output = Result<Measured>> + Send + 'a,
{
    (name, Box::new(move || Box::pin(work())))
}

/// Requests over connections, to a reference.
fn over<'a>(
    name: &'a str,
    server: &'a Server,
    plan: Plan,
    requests: fn(u64) -> Requests,
) -> Contender<'a> {
    contender(name, move || async move {
        let before = server.meter.read().await?;
        let measured = generator::run(&server.targets, plan, requests).await?;
        server.meter.since(&before, measured).await
    })
}

/// The same to the ledger.
fn ledger(product: &Product, plan: Plan, requests: fn(u64) -> Requests) -> Contender<'_> {
    ledger_as(LEDGER, product, plan, requests)
}

fn ledger_as<'a>(
    name: &'a str,
    product: &'a Product,
    plan: Plan,
    requests: fn(u64) -> Requests,
) -> Contender<'a> {
    contender(name, move || to_ledger(product, plan, requests))
}

/// The ledger may catch up afterwards, which counts as work but not as time.
pub async fn to_ledger(
    product: &Product,
    plan: Plan,
    requests: impl Fn(u64) -> Requests,
) -> Result<Measured> {
    let before = product.meter.read().await?;
    let measured = generator::run(&product.targets, plan, requests).await?;
    let behind = product.caught_up().await?.as_secs_f64();
    eprintln!("  (projections were there after {behind:.2} s more)");
    product.meter.since(&before, measured).await
}

/// The rows that the ledger's commands have left, copied by the database alone.
fn copied<'a>(product: &'a Product, url: &'a str) -> Contender<'a> {
    contender(COPIED, move || async move {
        let mut aside = Aside::set(url).await?;
        let before = product.meter.read().await?;
        let measured = aside.copy().await?;
        let measured = product.meter.since(&before, measured).await?;
        aside.drop().await?;
        // No server has a part in it.
        let server_us = None;
        Ok(Measured {
            server_us,
            ..measured
        })
    })
}

/// Notes what those rows cost, table by table.
async fn note_rows(comparison: &mut Comparison, url: &str) -> Result<()> {
    let mut aside = Aside::set(url).await?;
    let costs = aside.costs().await?;
    aside.drop().await?;
    let parts: Vec<_> = costs
        .iter()
        .map(|cost| {
            let Cost {
                table,
                micros,
                bare_micros,
            } = cost;
            format!("`{table}` {micros:.1} ({bare_micros:.1})")
        })
        .collect();
    comparison.notes.push(format!(
        "{COPIED}: the rows of 500 notifications a transaction, as they are in the end, into empty tables with all \
        their indexes, by 2 connections; latencies are of transactions. By one connection each table alone, µs a \
        row, and without indexes: {}.",
        parts.join(", ")
    ));
    Ok(())
}

impl Suite {
    pub async fn single(&self, comparison: &mut Comparison, connections: u64) -> Result<()> {
        comparison.title =
            format!("`POST /v1/notifications`, one command a request, {connections} connections.");
        let plan = self.closed(connections);
        let product = self.product("bench_ledger").await?;
        let bare = self.server(Kind::Bare, "bench_bare").await?;
        let insert = self.server(Kind::Insert, "bench_insert").await?;
        let group = self.server(Kind::Group, "bench_group").await?;
        let stock = self.server(Kind::Stock, "bench_stock").await?;
        let contenders = [
            over("axum, nothing stored", &bare, plan, http::singles),
            over("axum, one INSERT a request", &insert, plan, http::singles),
            over(STOCK, &stock, plan, http::singles),
            over(GROUP, &group, plan, http::singles),
            ledger(&product, plan, http::singles),
            ledger_as(STRANGERS, &product, plan, http::to_strangers),
        ];
        self.in_turn(comparison, &contenders).await?;
        comparison.wants(Bar::at(Figure::PerSecond, LEDGER, GROUP, 0.6));
        comparison.wants(Bar::at(Figure::PerSecond, LEDGER, STOCK, 6.0));
        drop(contenders);
        comparison.wants(Bar::memory(LEDGER, product.memory_mb()?, MEMORY_MB_MAX));
        self.weigh(comparison, "bench_ledger").await?;
        product.stop().await?;
        for server in [bare, insert, group, stock] {
            server.stop().await?;
        }
        self.clean(&[
            "bench_ledger",
            "bench_bare",
            "bench_insert",
            "bench_group",
            "bench_stock",
        ])
        .await
    }

    pub async fn p99(&self, comparison: &mut Comparison) -> Result<()> {
        let product = self.product("bench_ledger").await?;
        let group = self.server(Kind::Group, "bench_group").await?;
        let mut peaks = Vec::new();
        for _ in 0..self.arguments.rounds {
            self.databases.checkpoint().await?;
            let peak = generator::run(&product.targets, self.closed(64), http::singles).await?;
            eprintln!("  peak: {:.0}/s", peak.per_second);
            peaks.push(peak.per_second);
            product.caught_up().await?;
        }
        let rate = 0.7 * median(&peaks).unwrap_or_default();
        comparison.title = format!(
            "`POST /v1/notifications`, 64 connections, at {rate:.0} requests a second: 70 % of what the ledger \
             reached just before. Latency counts from when a request was due."
        );
        let plan = self.plan(64, Pace::PerSecond(rate));
        let contenders = [
            over(GROUP, &group, plan, http::singles),
            ledger(&product, plan, http::singles),
        ];
        self.in_turn(comparison, &contenders).await?;
        comparison.wants(Bar::at(Figure::P99, LEDGER, GROUP, 2.5));
        drop(contenders);
        product.stop().await?;
        group.stop().await?;
        self.clean(&["bench_ledger", "bench_group"]).await
    }

    pub async fn one_connection(&self, comparison: &mut Comparison) -> Result<()> {
        const ONE: &str = "one-row INSERT and commit";
        comparison.title =
            "One command at a time on one connection. The reference has no server in front."
                .to_owned();
        let plan = self.closed(1);
        let product = self.product("bench_ledger").await?;
        let insert = self.server(Kind::Insert, "bench_insert").await?;
        let url = self.databases.create("bench_raw").await?;
        group::prepare(&url).await?;
        let contenders = [
            contender(ONE, || raw::run(&url, How::One, plan)),
            over("axum, one INSERT a request", &insert, plan, http::singles),
            ledger(&product, plan, http::singles),
        ];
        self.in_turn(comparison, &contenders).await?;
        comparison.wants(Bar::at(Figure::P50, LEDGER, ONE, 1.6));
        drop(contenders);
        product.stop().await?;
        insert.stop().await?;
        self.clean(&["bench_ledger", "bench_insert", "bench_raw"])
            .await
    }

    pub async fn lifecycle(&self, comparison: &mut Comparison) -> Result<()> {
        const VIEW: &str = "axum, postgres-es with its view";
        const BARE: &str = "postgres-es, no server";
        const BARE_VIEW: &str = "postgres-es with its view, no server";
        comparison.title = "Four commands for each notification (request, queue, sent, delivered), one a request, \
            64 connections. Without a server in front: 64 tasks with `request` only."
            .to_owned();
        comparison.unit = "commands".to_owned();
        let plan = self.closed(64);
        let product = self.product("bench_ledger").await?;
        let recorded = self.databases.address("bench_ledger")?;
        let view = self.server(Kind::StockView, "bench_view").await?;
        let stocks = [
            self.stock("bench_stock", false).await?,
            self.stock("bench_stock_view", true).await?,
        ];
        let contenders = [
            contender(BARE, || stocks[0].run(64, plan)),
            contender(BARE_VIEW, || stocks[1].run(64, plan)),
            over(VIEW, &view, plan, http::lifecycles),
            ledger(&product, plan, http::lifecycles),
            copied(&product, &recorded),
        ];
        self.in_turn(comparison, &contenders).await?;
        comparison.wants(Bar::at(Figure::PerSecond, LEDGER, VIEW, 10.0));
        drop(contenders);
        note_rows(comparison, &recorded).await?;
        let memory = product.memory_mb()?;
        comparison.notes.push(format!(
            "Resident memory of the ledger at its highest: {memory:.0} MB."
        ));
        self.weigh(comparison, "bench_ledger").await?;
        product.stop().await?;
        view.stop().await?;
        self.clean(&[
            "bench_ledger",
            "bench_view",
            "bench_stock",
            "bench_stock_view",
        ])
        .await
    }

    pub async fn bulk(&self, comparison: &mut Comparison) -> Result<()> {
        const UNNEST: &str = "raw UNNEST, 500 rows, 2 connections";
        const ORDERED: &str = "the same, ids that begin with the time";
        comparison.title = "`POST /v1/commands`, 1,000 commands a call, 4 connections. Latencies are of calls, and of \
            statements."
            .to_owned();
        comparison.unit = "commands or rows".to_owned();
        let plan = self.closed(4);
        let product = self.product("bench_ledger").await?;
        let recorded = self.databases.address("bench_ledger")?;
        let url = self.databases.create("bench_raw").await?;
        group::prepare(&url).await?;
        let insert = |how| {
            let url = &url;
            move || async move {
                raw::truncate(url).await?;
                raw::run(url, how, plan).await
            }
        };
        let contenders = [
            contender("raw COPY, 500 rows, 2 connections", insert(How::Copy)),
            contender(ORDERED, insert(How::UnnestOrdered)),
            contender(UNNEST, insert(How::Unnest)),
            ledger(&product, plan, |worker| http::bulks(worker, 1_000)),
            copied(&product, &recorded),
        ];
        self.in_turn(comparison, &contenders).await?;
        comparison.wants(Bar::at(Figure::PerSecond, LEDGER, UNNEST, 0.5));
        drop(contenders);
        note_rows(comparison, &recorded).await?;
        let memory = product.memory_mb()?;
        comparison.notes.push(format!(
            "Resident memory of the ledger at its highest: {memory:.0} MB."
        ));
        product.stop().await?;
        self.clean(&["bench_ledger", "bench_raw"]).await
    }

    pub async fn webhooks(&self, comparison: &mut Comparison) -> Result<()> {
        const OURS: &str = "ledger, signed webhooks of its own notifications";
        const STRANGERS: &str = "ledger, signed webhooks of others";
        comparison.title = "Signed webhooks of Novu, 64 connections: for each message that it was sent, and that it was \
            delivered. Of notifications that were requested through the ledger before, whose ids Novu was given; and of \
            others, which are adopted."
            .to_owned();
        let plan = self.closed(64);
        let product = self.product("bench_ledger").await?;
        let mut paths = Vec::new();
        for target in &product.targets {
            paths.push(novu::source(target).await?);
        }
        let path = |worker| paths[worker as usize % paths.len()].clone();
        let contenders = [
            ledger(&product, plan, http::singles),
            contender(OURS, || async {
                let seconds = (plan.warm_up + plan.duration).as_secs_f64();
                let count = (seconds * REQUESTED_A_SECOND) as u64;
                let mut requested = Vec::new();
                for target in &product.targets {
                    requested.push(novu::requested(target, count).await?);
                }
                product.caught_up().await?;
                let requested = |worker| requested[worker as usize % requested.len()].clone();
                let requests = |worker| novu::of_ours(path(worker), requested(worker));
                to_ledger(&product, plan, requests).await
            }),
            contender(STRANGERS, || async {
                let requests = |worker| novu::of_strangers(path(worker));
                to_ledger(&product, plan, requests).await
            }),
        ];
        self.in_turn(comparison, &contenders).await?;
        for who in [OURS, STRANGERS] {
            comparison.wants(Bar::at(Figure::PerSecond, who, LEDGER, 0.8));
        }
        drop(contenders);
        product.stop().await?;
        self.clean(&["bench_ledger"]).await
    }

    pub async fn rebuild(&self, comparison: &mut Comparison) -> Result<()> {
        let events = self.arguments.events;
        comparison.title = format!("Rebuilding projections of {events} events.");
        comparison.settings = format!("{} rounds", self.arguments.rounds);
        comparison.unit = "events".to_owned();
        let arguments = rebuild::Arguments {
            database_url: self.databases.create("bench_rebuild").await?,
            events,
            rounds: self.arguments.rounds,
            stock_database_url: Some(self.databases.create("bench_rebuild_stock").await?),
        };
        let figures = rebuild::measure(&arguments).await?;
        let rows = [
            ("reading the same rows in a plain loop", figures.read_by_one),
            ("the same by two readers", figures.read_by_two),
            ("ledger, `notifications`", figures.notifications),
            ("ledger, all four", figures.all),
            (
                "`postgres-es` replaying into its view (of a fiftieth of the events)",
                figures.stock,
            ),
        ];
        for (who, rates) in &rows {
            for per_second in rates {
                let measured = Measured {
                    per_second: *per_second,
                    p50_ms: f64::NAN,
                    p99_ms: f64::NAN,
                    answered: 0,
                    server_us: None,
                    database_us: None,
                };
                comparison.note(who, measured);
            }
        }
        // Whoever reads and does nothing needs one reader; a rebuild has two, so it is held against as many,
        // too.
        for (reading, _) in &rows[..2] {
            comparison.wants(Bar::at(Figure::PerSecond, rows[2].0, reading, 0.4));
            comparison.wants(Bar::at(Figure::PerSecond, rows[3].0, reading, 0.15));
        }
        self.clean(&["bench_rebuild", "bench_rebuild_stock"]).await
    }

    pub async fn sqlite(&self, comparison: &mut Comparison) -> Result<()> {
        const GROUP: &str = "axum, bare SQLite group commit";
        comparison.title =
            "`POST /v1/notifications` on SQLite (WAL, `synchronous` FULL), 64 connections."
                .to_owned();
        let plan = self.closed(64);
        let folder = tempfile::tempdir_in(&self.arguments.scratch)?;
        let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
        let group = Server::start(Kind::Group, &url("reference.db"), None).await?;
        let Self { arguments, .. } = self;
        let url = url("ledger.db");
        let product = Product::start(&arguments.binary, &url, None, arguments.tenants).await?;
        let contenders = [
            over(GROUP, &group, plan, http::singles),
            ledger(&product, plan, http::singles),
        ];
        self.in_turn(comparison, &contenders).await?;
        comparison.wants(Bar::at(Figure::PerSecond, LEDGER, GROUP, 0.5));
        drop(contenders);
        let memory = product.memory_mb()?;
        comparison.notes.push(format!(
            "Resident memory of the ledger at its highest: {memory:.0} MB."
        ));
        product.stop().await?;
        group.stop().await
    }

    /// Everybody once, then everybody again.
    pub async fn in_turn(
        &self,
        comparison: &mut Comparison,
        contenders: &[Contender<'_>],
    ) -> Result<()> {
        for round in 1..=self.arguments.rounds {
            eprintln!("  round {round} of {}", self.arguments.rounds);
            for (name, work) in contenders {
                self.databases.checkpoint().await?;
                comparison.note(name, work().await?);
            }
        }
        Ok(())
    }

    pub async fn product(&self, database: &str) -> Result<Product> {
        let url = self.databases.create(database).await?;
        let Self {
            arguments,
            databases,
        } = self;
        Product::start(
            &arguments.binary,
            &url,
            databases.named(database),
            arguments.tenants,
        )
        .await
    }

    async fn server(&self, kind: Kind, database: &str) -> Result<Server> {
        let url = self.databases.create(database).await?;
        Server::start(kind, &url, self.databases.named(database)).await
    }

    async fn stock(&self, database: &str, with_view: bool) -> Result<Stock> {
        let url = self.databases.create(database).await?;
        stock::prepare(&url).await?;
        Ok(Stock::open(&url, with_view).await)
    }

    /// Notes what an event takes on disk.
    pub async fn weigh(&self, comparison: &mut Comparison, database: &str) -> Result<()> {
        for weight in storage(&self.databases.address(database)?).await? {
            let parts = weight.parts.iter();
            let all: f64 = parts.clone().map(|(_, bytes)| bytes).sum();
            let parts: Vec<_> = parts
                .map(|(what, bytes)| format!("{what} {bytes:.0}"))
                .collect();
            let note = format!(
                "Bytes on disk per event, `{}`: {all:.0} ({}).",
                weight.table,
                parts.join(", ")
            );
            comparison.notes.push(note);
        }
        Ok(())
    }

    pub async fn clean(&self, databases: &[&str]) -> Result<()> {
        for name in databases {
            self.databases.remove(name).await?;
        }
        Ok(())
    }
}
