//! How far long work has come: a bar on a terminal, a line every few seconds otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Events,
    Bytes,
}

/// Work in progress, told on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    unit: Unit,
    /// `None` when nobody knows how much there is.
    total: Option<u64>,
    done: u64,
    bar: Option<ProgressBar>,
    next_line: Instant,
    began: Instant,
}

impl Progress {
    pub(super) fn new(what: &'static str, unit: Unit, total: Option<u64>) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| bar(what, unit, total));
        Self {
            what,
            unit,
            total,
            done: 0,
            bar,
            next_line: now + LINE_INTERVAL,
            began: now,
        }
    }

    pub(super) fn add(&mut self, count: u64) {
        self.done += count;
        self.show();
    }

    /// So much is done, of so much.
    pub(super) fn reach(&mut self, done: u64, total: u64) {
        self.done = done;
        self.total = Some(total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
        self.show();
    }

    fn show(&mut self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_INTERVAL;
            eprintln!("{}", self.line());
        }
    }

    /// Says something without disturbing the bar.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bar away. What was done is said by whoever did it.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self) -> String {
        let done = self.unit.show(self.done);
        let rate = self.unit.show(per_second(self.done, self.began.elapsed()));
        match self.total {
            Some(total) if total > 0 => {
                let percent = self.done.min(total) * 100 / total;
                let total = self.unit.show(total);
                format!(
                    "{}: {done} of {total} ({percent} %), {rate} per second",
                    self.what
                )
            }
            _ => format!("{}: {done}, {rate} per second", self.what),
        }
    }
}

impl Unit {
    fn show(self, count: u64) -> String {
        match self {
            Self::Events => format!("{} events", HumanCount(count)),
            Self::Bytes => HumanBytes(count).to_string(),
        }
    }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let milliseconds = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    count.saturating_mul(1000) / milliseconds
}

fn bar(what: &'static str, unit: Unit, total: Option<u64>) -> ProgressBar {
    let template = match (unit, total) {
        (Unit::Events, Some(_)) => {
            "{msg} {wide_bar} {human_pos}/{human_len} ({per_sec}, {eta} left)"
        }
        (Unit::Bytes, Some(_)) => {
            "{msg} {wide_bar} {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)"
        }
        (Unit::Events, None) => "{spinner} {msg} {human_pos} ({per_sec})",
        (Unit::Bytes, None) => "{spinner} {msg} {bytes} ({bytes_per_sec})",
    };
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    // The templates are ours and fixed; one that did not parse would only cost its looks.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much() {
        let mut progress = Progress::new("checking", Unit::Events, Some(2000));
        progress.done = 500;
        progress.began = Instant::now();

        assert!(
            progress
                .line()
                .starts_with("checking: 500 events of 2,000 events (25 %), "),
            "{}",
            progress.line()
        );
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(per_second(5, Duration::ZERO), 5000);
        let progress = Progress::new("checking", Unit::Events, Some(0));
        assert!(progress.line().starts_with("checking: 0 events, "));
    }
}
