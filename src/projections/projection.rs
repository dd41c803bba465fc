//! Which projections there are.
//!
//! A projection is a pure function from one stream's events to rows. Live, rebuilt and replayed
//! tables are the same because all three call it; only what becomes of the rows differs.

use super::changes::{Changes, Sums};
use super::stream::{Pair, Stream, Unreadable};
use super::table::{Rows, Table, Writing};
use super::{metrics, notification_logs, notifications, timeline};

/// A named, versioned reader of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    Notifications,
    NotificationLogs,
    Timeline,
    Metrics,
}

impl Projection {
    pub const ALL: [Self; 4] = [
        Self::Notifications,
        Self::NotificationLogs,
        Self::Timeline,
        Self::Metrics,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Notifications => "notifications",
            Self::NotificationLogs => "notification_logs",
            Self::Timeline => "timeline",
            Self::Metrics => "metrics",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|projection| projection.name() == name)
    }

    /// Goes up whenever the same events give other rows: the tables are then rebuilt.
    pub fn version(self) -> i32 {
        match self {
            Self::Notifications | Self::NotificationLogs | Self::Timeline | Self::Metrics => 1,
        }
    }

    /// The tables it writes, and nobody else. The first is the one a replay prints.
    pub fn tables(self) -> &'static [&'static Table] {
        static NOTIFICATIONS: [&Table; 2] =
            [&notifications::NOTIFICATIONS, &notifications::METADATA];
        static NOTIFICATION_LOGS: [&Table; 1] = [&notification_logs::NOTIFICATION_LOGS];
        static TIMELINE: [&Table; 1] = [&timeline::TIMELINE];
        static METRICS: [&Table; 2] = [&metrics::METRICS, &metrics::LATENCIES];
        match self {
            Self::Notifications => &NOTIFICATIONS,
            Self::NotificationLogs => &NOTIFICATION_LOGS,
            Self::Timeline => &TIMELINE,
            Self::Metrics => &METRICS,
        }
    }

    /// Folds a stream as it was and as it is, if this projection needs it folded, so that it is done
    /// once and in time.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when an event does not fit the code.
    pub fn prepare(self, (before, now): &Pair<'_>) -> Result<(), Unreadable> {
        match self {
            Self::Timeline => Ok(()),
            Self::Notifications | Self::NotificationLogs | Self::Metrics => {
                if let Some(before) = before {
                    now.go_on_from(before)?;
                }
                now.notification().map(drop)
            }
        }
    }

    /// What one stream contributes, a list per table. Of tables that add up, only the finest
    /// grain: [`Self::settle`] derives the rest from the sum over many streams.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when an event does not fit the code.
    pub fn rows<'a>(self, stream: &'a Stream<'a>) -> Result<Vec<Rows<'a>>, Unreadable> {
        let mut rows: Vec<Rows<'a>> = self.tables().iter().map(|table| Rows::new(table)).collect();
        self.write(stream, &mut rows)?;
        Ok(rows)
    }

    /// Adds what one stream contributes to lists, one per table.
    pub(super) fn write<'a>(
        self,
        stream: &'a Stream<'a>,
        rows: &mut [Rows<'a>],
    ) -> Result<(), Unreadable> {
        match (self, rows) {
            (Self::Notifications, [first, second]) => notifications::rows(stream, first, second),
            (Self::Metrics, [first, second]) => metrics::rows(stream, first, second),
            (Self::NotificationLogs, [first]) => notification_logs::rows(stream, first),
            (Self::Timeline, [first]) => {
                timeline::rows(stream, first);
                Ok(())
            }
            (Self::Notifications | Self::Metrics | Self::NotificationLogs | Self::Timeline, _) => {
                unreachable!("one list per table")
            }
        }
    }

    /// Completes what many streams contributed to a table that adds up.
    pub fn settle(self, rows: &mut Rows<'_>) {
        match self {
            Self::Metrics => metrics::roll_up(rows),
            Self::Notifications | Self::NotificationLogs | Self::Timeline => {}
        }
    }

    /// What must change in the tables when streams go from what they were to what they are.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when an event does not fit the code.
    pub fn changes<'a>(self, streams: &'a [Pair<'a>]) -> Result<Vec<Changes<'a>>, Unreadable> {
        let tables = self.tables();
        let mut changes: Vec<Changes<'a>> =
            tables.iter().map(|table| Changes::new(table)).collect();
        let mut sums: Vec<Option<Sums>> = tables
            .iter()
            .map(|table| (table.writing == Writing::Add).then(|| Sums::new(table)))
            .collect();
        // Rows of streams that are new all go the same way, so they are made where they will stay.
        let mut new: Vec<Rows<'a>> = tables.iter().map(|table| Rows::new(table)).collect();
        for (before, now) in streams {
            let Some(before) = before else {
                self.write(now, &mut new)?;
                continue;
            };
            let rows = self.rows(before)?.into_iter().zip(self.rows(now)?);
            for (index, (before, now)) in rows.enumerate() {
                match &mut sums[index] {
                    Some(sums) => {
                        sums.add(&now, 1);
                        sums.add(&before, -1);
                    }
                    None => changes[index].replace(&before, now),
                }
            }
        }
        for (index, rows) in new.into_iter().enumerate() {
            match &mut sums[index] {
                Some(sums) => sums.add(&rows, 1),
                None => changes[index].new.append(rows),
            }
        }
        for (changes, sums) in changes.iter_mut().zip(sums) {
            if let Some(mut sums) = sums {
                changes.rows = sums.take_rows();
                self.settle(&mut changes.rows);
            }
        }
        Ok(changes)
    }
}
