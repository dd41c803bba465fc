//! Full load for minutes on end: whether memory grows, and how far projections fall behind.

use std::time::Duration;

use anyhow::Result;

use super::Suite;
use super::comparisons::MEMORY_MB_MAX;
use super::report::{Bar, Comparison};
use crate::generator::{self, Pace, Plan};
use crate::http;

const CONNECTIONS: u64 = 256;
/// Most that the second half may have beyond the first.
const GROWTH_MAX: f64 = 1.05;
const LEDGER: &str = "ledger, whole lives";

impl Suite {
    pub async fn memory(&self, comparison: &mut Comparison) -> Result<()> {
        let minutes = self.arguments.minutes;
        comparison.title = format!(
            "Full load for {minutes} minutes: whole lives, one command a request, over {CONNECTIONS} connections."
        );
        comparison.settings = format!("{minutes} rounds of a minute, one right after the other");
        let product = self.product("bench_memory").await?;
        let plan = Plan {
            connections: CONNECTIONS,
            pace: Pace::AsAnswered,
            warm_up: Duration::ZERO,
            duration: Duration::from_mins(1),
        };
        let mut resident = Vec::new();
        let mut behind = Vec::new();
        for _ in 0..minutes {
            let before = product.meter.read().await?;
            let measured = generator::run(&product.targets, plan, http::lifecycles).await?;
            comparison.note(LEDGER, product.meter.since(&before, measured).await?);
            resident.push(product.resident_mb()?);
            behind.push(product.events_behind().await?);
        }
        comparison.wants(Bar::memory(LEDGER, product.memory_mb()?, MEMORY_MB_MAX));
        let (first, second) = resident.split_at(resident.len() / 2);
        let highest = |half: &[f64]| half.iter().copied().fold(f64::NAN, f64::max);
        let growth = highest(second) / highest(first);
        let each: Vec<String> = resident.iter().map(|mb| format!("{mb:.0}")).collect();
        comparison.notes.push(format!(
            "Resident memory after each minute, in MB: {}. Its highest in the second half is {growth:.2} of that in the \
             first; wanted: at most {GROWTH_MAX}.",
            each.join(", ")
        ));
        let rates = comparison.rates_of(LEDGER);
        if let (Some(first), Some(last)) = (rates.first(), rates.last()) {
            comparison.notes.push(format!(
                "The last minute's rate is {:.2} of the first one's, with {:.1} million events more on record.",
                last / first,
                rates.iter().sum::<f64>() * 60.0 / 1e6
            ));
        }
        let each: Vec<String> = behind.iter().map(ToString::to_string).collect();
        comparison.notes.push(format!(
            "Events that projections were behind after each minute: {}.",
            each.join(", ")
        ));
        comparison.notes.push(format!(
            "Everything was in the lists {:.1} s after the load's end.",
            product
                .caught_up_within(Duration::from_mins(30))
                .await?
                .as_secs_f64()
        ));
        self.weigh(comparison, "bench_memory").await?;
        product.stop().await?;
        self.clean(&["bench_memory"]).await
    }
}
