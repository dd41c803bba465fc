//! What is written down: every round's figures as JSON, and tables made of them.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::databases::Databases;
use super::plot;
use crate::generator::Measured;

/// The rows a combined table has, in this order.
const ORDER: [&str; 12] = [
    "single-64",
    "single-256",
    "p99-at-70-percent",
    "one-connection",
    "lifecycle-64",
    "bulk",
    "webhooks",
    "rebuild",
    "sqlite-64",
    "overload",
    "memory",
    "size",
];

/// Where it was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gb: u64,
    pub database: String,
    /// Processes that wanted a processor before anything was started here.
    pub load: String,
}

/// One comparison, with all that was measured.
#[derive(Debug, Deserialize, Serialize)]
pub struct Comparison {
    pub name: String,
    pub title: String,
    pub settings: String,
    pub machine: Machine,
    pub unit: String,
    pub rows: Vec<Row>,
    bars: Vec<Bar>,
    pub notes: Vec<String>,
}

/// A contender, with what each round gave. Without latencies if there is nothing to wait for.
#[derive(Debug, Deserialize, Serialize)]
pub struct Row {
    pub who: String,
    pub per_second: Vec<f64>,
    pub p50_ms: Vec<f64>,
    pub p99_ms: Vec<f64>,
    /// Processor time for each request.
    pub server_us: Vec<f64>,
    pub database_us: Vec<f64>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub enum Figure {
    PerSecond,
    P50,
    P99,
    /// Resident memory of `of`, already known.
    MemoryMb(f64),
}

/// Something that must be reached.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bar {
    pub figure: Figure,
    pub of: String,
    /// Without one, the figure itself is judged.
    pub reference: Option<String>,
    /// `at least` for rates, `at most` for times and memory.
    pub wanted: f64,
    /// The ratio, or the figure.
    reached: Option<f64>,
}

impl Machine {
    pub async fn look(databases: &Databases) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .map(str::to_owned);
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let mut database = format!("PostgreSQL {}", databases.setting("server_version").await?);
        for name in [
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "shared_buffers",
            "max_wal_size",
        ] {
            database += &format!(", {name} {}", databases.setting(name).await?);
        }
        Ok(Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gb: kilobytes.unwrap_or_default() / 1_000_000,
            database,
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        })
    }

    fn sentence(&self) -> String {
        let Self {
            processor,
            cores,
            memory_gb,
            database,
            load,
        } = self;
        format!(
            "{cores} cores ({processor}), {memory_gb} GB; {database}; service, database and load side by side; before it began, {load} processes of others were busy"
        )
    }
}

impl Bar {
    pub fn at(figure: Figure, of: &str, reference: &str, wanted: f64) -> Self {
        Self {
            figure,
            of: of.to_owned(),
            reference: Some(reference.to_owned()),
            wanted,
            reached: None,
        }
    }

    /// The figure itself is judged.
    pub fn alone(figure: Figure, of: &str, wanted: f64) -> Self {
        Self {
            figure,
            of: of.to_owned(),
            reference: None,
            wanted,
            reached: None,
        }
    }

    pub fn memory(of: &str, memory_mb: f64, wanted: f64) -> Self {
        Self::alone(Figure::MemoryMb(memory_mb), of, wanted)
    }

    fn line(&self) -> String {
        let Some(reached) = self.reached else {
            return String::new();
        };
        let ms = if self.reference.is_none() { " ms" } else { "" };
        let (what, digits, unit) = match self.figure {
            Figure::PerSecond => ("rate", 2, ""),
            Figure::P50 => ("p50", 2, ms),
            Figure::P99 => ("p99", 2, ms),
            Figure::MemoryMb(_) => ("resident memory", 0, " MB"),
        };
        let (words, is_reached) = match self.figure {
            Figure::PerSecond => ("at least", reached >= self.wanted),
            _ => ("at most", reached <= self.wanted),
        };
        let rounded = |value: f64| format!("{value:.digits$}");
        // What just misses would look as if it did not.
        let digits = digits + usize::from(!is_reached && rounded(reached) == rounded(self.wanted));
        let reference = self.reference.as_deref().unwrap_or("–");
        let verdict = if is_reached { "yes" } else { "**no**" };
        format!(
            "{what} of {} | {reference} | {reached:.digits$}{unit} | {words} {}{unit} | {verdict}",
            self.of, self.wanted
        )
    }
}

const BARS: &str = "| work | what | beside | reached | wanted | is it? |\n| --- | --- | --- | ---: | ---: | --- |\n";

impl Comparison {
    pub fn new(name: &str, machine: &Machine, settings: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: String::new(),
            settings: settings.to_owned(),
            machine: machine.clone(),
            unit: "requests".to_owned(),
            rows: Vec::new(),
            bars: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds what one round gave.
    pub fn note(&mut self, who: &str, measured: Measured) {
        let Measured {
            per_second,
            p50_ms,
            p99_ms,
            server_us,
            database_us,
            ..
        } = measured;
        if p50_ms.is_nan() {
            eprintln!("  {who}: {per_second:.0}/s");
        } else {
            eprintln!("  {who}: {per_second:.0}/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms");
        }
        let index = self
            .rows
            .iter()
            .position(|row| row.who == who)
            .unwrap_or_else(|| {
                self.rows.push(Row {
                    who: who.to_owned(),
                    per_second: Vec::new(),
                    p50_ms: Vec::new(),
                    p99_ms: Vec::new(),
                    server_us: Vec::new(),
                    database_us: Vec::new(),
                });
                self.rows.len() - 1
            });
        let row = &mut self.rows[index];
        row.per_second.push(per_second);
        if !p50_ms.is_nan() {
            row.p50_ms.push(p50_ms);
            row.p99_ms.push(p99_ms);
        }
        row.server_us.extend(server_us);
        row.database_us.extend(database_us);
    }

    pub fn wants(&mut self, bar: Bar) {
        self.bars.push(bar);
    }

    /// Works out what was reached.
    pub fn judge(&mut self) {
        for number in 0..self.bars.len() {
            let bar = &self.bars[number];
            let reached = match (bar.figure, &bar.reference) {
                (Figure::MemoryMb(memory), _) => Some(memory),
                (figure, Some(reference)) => {
                    let figure = |who| self.median_of(who, figure);
                    figure(&bar.of)
                        .zip(figure(reference))
                        .map(|(one, other)| one / other)
                }
                (figure, None) => self.median_of(&bar.of, figure),
            };
            self.bars[number].reached = reached;
        }
    }

    /// What each round gave.
    pub fn rates_of(&self, who: &str) -> Vec<f64> {
        let row = self.rows.iter().find(|row| row.who == who);
        row.map_or_else(Vec::new, |row| row.per_second.clone())
    }

    pub fn median_of(&self, who: &str, figure: Figure) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.who == who)?;
        match figure {
            Figure::PerSecond => median(&row.per_second),
            Figure::P50 => median(&row.p50_ms),
            Figure::P99 => median(&row.p99_ms),
            Figure::MemoryMb(_) => None,
        }
    }

    pub fn markdown(&self) -> String {
        let Self {
            name,
            title,
            settings,
            unit,
            ..
        } = self;
        let mut text = format!(
            "# {name}\n\n{title}\n\nMedians of {settings}, on {}.\n\n",
            self.machine.sentence()
        );
        text += &format!(
            "| who | {unit} per second | lowest and highest | p50 ms | p99 ms | processor µs: server | database |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        );
        for row in &self.rows {
            let ms = |values: &[f64]| {
                median(values).map_or("–".to_owned(), |value| format!("{value:.2}"))
            };
            let us = |values: &[f64]| {
                median(values).map_or("–".to_owned(), |value| format!("{value:.0}"))
            };
            let lowest = row.per_second.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = row.per_second.iter().copied().fold(0.0, f64::max);
            text += &format!(
                "| {} | {} | {} – {} | {} | {} | {} | {} |\n",
                row.who,
                thousands(median(&row.per_second).unwrap_or(f64::NAN)),
                thousands(lowest),
                thousands(highest),
                ms(&row.p50_ms),
                ms(&row.p99_ms),
                us(&row.server_us),
                us(&row.database_us)
            );
        }
        if !self.bars.is_empty() {
            text += &format!("\n{BARS}");
            text += &self.bar_lines();
        }
        text += "\n";
        for note in &self.notes {
            text += &format!("- {note}\n");
        }
        text + &format!("\n![{name}]({name}.svg)\n")
    }

    fn bar_lines(&self) -> String {
        let lines = self
            .bars
            .iter()
            .map(|bar| format!("| [{0}]({0}.md) | {1} |\n", self.name, bar.line()));
        lines.collect()
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = |ending: &str| folder.join(format!("{}.{ending}", self.name));
        std::fs::write(path("json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(path("md"), self.markdown())?;
        plot::write(self, &path("svg")).context("the plot")
    }
}

/// Writes the combined table of all that the folder has, of this run or an earlier one.
pub fn summary(folder: &Path) -> Result<String> {
    let mut table = String::new();
    let mut plots = String::new();
    let mut how = Vec::new();
    for name in ORDER {
        let path = folder.join(format!("{name}.json"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let comparison: Comparison =
            serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        table += &comparison.bar_lines();
        plots += &format!("\n![{name}]({name}.svg)\n");
        let sentence = comparison.machine.sentence();
        if !how.contains(&sentence) {
            how.push(sentence);
        }
    }
    let how: String = how
        .iter()
        .map(|sentence| format!("On {sentence}.\n\n"))
        .collect();
    let text = format!(
        "# What was measured\n\nWritten by `scripts/bench`; `docs/performance.md` says what each reference \
         is. Ratios of medians.\n\n{how}{BARS}{table}{plots}"
    );
    std::fs::write(folder.join("README.md"), &text)?;
    Ok(text)
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied()?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[middle - 1] + upper) / 2.0)
}

/// `12345.6` as `12,346`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
