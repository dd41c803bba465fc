//! What a person sees of the demo: a line for each step of a life, and how many there were.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output;
use crate::domain::time::Timestamp;

/// Between two lines of counts where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A step in the life of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Requested,
    Queued,
    Sent,
    Delivered,
    Seen,
    Read,
    Clicked,
    Bounced,
    Failed,
    Suppressed,
    Retracted,
    /// It was on record: nothing was appended.
    Repeat,
    /// What was reported contradicts something else.
    Anomaly,
    /// A command that the rules do not allow.
    Refused,
}

/// One line.
pub(super) struct Step<'a> {
    pub(super) at: Timestamp,
    pub(super) what: What,
    pub(super) workflow: &'a str,
    pub(super) person: &'a str,
    pub(super) detail: &'a str,
}

/// Where steps are shown and counted.
#[derive(Debug)]
pub(super) struct Board {
    bar: Option<ProgressBar>,
    colourful: bool,
    began: Instant,
    counts: RefCell<BTreeMap<What, u64>>,
    next_line: RefCell<Instant>,
}

impl What {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Seen => "seen",
            Self::Read => "read",
            Self::Clicked => "clicked",
            Self::Bounced => "bounced",
            Self::Failed => "failed",
            Self::Suppressed => "suppressed",
            Self::Retracted => "retracted",
            Self::Repeat => "known",
            Self::Anomaly => "anomaly",
            Self::Refused => "refused",
        }
    }

    /// Number of the terminal's colour (ECMA-48 §8.3.117).
    fn colour(self) -> u8 {
        match self {
            Self::Requested | Self::Queued => 37,
            Self::Sent => 34,
            Self::Delivered => 32,
            Self::Seen | Self::Read | Self::Clicked => 36,
            Self::Bounced | Self::Failed => 31,
            Self::Suppressed | Self::Anomaly | Self::Refused => 33,
            Self::Retracted => 35,
            Self::Repeat => 90,
        }
    }

    fn mark(self) -> char {
        match self {
            Self::Requested => '○',
            Self::Queued => '◔',
            Self::Sent => '→',
            Self::Delivered | Self::Seen | Self::Read | Self::Clicked => '●',
            Self::Bounced => '↩',
            Self::Failed => '✗',
            Self::Suppressed => '–',
            Self::Retracted => '⊘',
            Self::Repeat => '=',
            Self::Anomaly | Self::Refused => '!',
        }
    }

    /// An event was appended.
    fn is_recorded(self) -> bool {
        !matches!(self, Self::Repeat | Self::Anomaly | Self::Refused)
    }
}

impl Board {
    pub(super) fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        // The convention of https://no-color.org.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let now = Instant::now();
        Self {
            colourful: bar.is_some() && !refused,
            bar,
            began: now,
            counts: RefCell::default(),
            next_line: RefCell::new(now + LINE_INTERVAL),
        }
    }

    /// Emphasised, where there is colour.
    pub(super) fn bold(&self, text: &str) -> String {
        if self.colourful {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Counts a step, and shows it on a terminal if `shown`.
    pub(super) fn step(&self, step: &Step<'_>, shown: bool) {
        *self.counts.borrow_mut().entry(step.what).or_default() += 1;
        if let Some(bar) = self.bar.as_ref().filter(|_| shown) {
            bar.println(self.line(step));
        }
    }

    /// Brings the counts up to date.
    pub(super) fn refresh(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}   Ctrl-C stops", self.counted()));
            bar.tick();
        } else if Instant::now() >= *self.next_line.borrow() {
            *self.next_line.borrow_mut() = Instant::now() + LINE_INTERVAL;
            // Whoever closed stdout does not want to know.
            let _ = output::line(self.counted());
        }
    }

    /// Takes the counts away, and says what it came to.
    pub(super) fn finish(&self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        format!(
            "{} in {}",
            self.counted(),
            HumanDuration(self.began.elapsed())
        )
    }

    fn line(&self, step: &Step<'_>) -> String {
        let at = step.at.to_string();
        let time = at.get(11..19).unwrap_or(&at);
        let what = format!("{} {:<10}", step.what.mark(), step.what.word());
        let about = format!("{:<18} {:<19}", step.workflow, step.person);
        let detail = step.detail;
        if self.colourful {
            let colour = step.what.colour();
            format!(
                "\x1b[90m{time}\x1b[0m \x1b[{colour}m{what}\x1b[0m {about} \x1b[90m{detail}\x1b[0m"
            )
        } else {
            format!("{time} {what} {about} {detail}")
                .trim_end()
                .to_owned()
        }
    }

    fn counted(&self) -> String {
        let counts = self.counts.borrow();
        let of = |what: What| counts.get(&what).copied().unwrap_or_default();
        let recorded: u64 = counts
            .iter()
            .filter(|(what, _)| what.is_recorded())
            .map(|(_, count)| count)
            .sum();
        let mut parts = vec![format!("{} events", HumanCount(recorded))];
        for what in [
            What::Requested,
            What::Delivered,
            What::Read,
            What::Bounced,
            What::Failed,
            What::Retracted,
            What::Suppressed,
        ] {
            if of(what) > 0 {
                parts.push(format!("{} {}", HumanCount(of(what)), what.word()));
            }
        }
        for (what, one, many) in [
            (What::Repeat, "repeat dropped", "repeats dropped"),
            (What::Anomaly, "anomaly found", "anomalies found"),
            (What::Refused, "call refused", "calls refused"),
        ] {
            match of(what) {
                0 => {}
                1 => parts.push(format!("1 {one}")),
                count => parts.push(format!("{} {many}", HumanCount(count))),
            }
        }
        parts.join(" · ")
    }
}
