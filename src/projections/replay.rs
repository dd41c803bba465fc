//! Replaying: a projection run over one tenant's events into whatever takes the rows, touching
//! nothing that people read. So a new question can be asked of old events: what was known then,
//! what another rule would have said, and what would change.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::changes::Sums;
use super::projection::Projection;
use super::rebuild::fill::{self, Whole};
use super::store::Transaction;
use super::table::{Cell, Rows, Table, Writing};
use super::{Projections, metrics};
use crate::domain::precedence::PrecedenceRule;
use crate::domain::time::Timestamp;
use crate::ledger::record::{PlainEvent, Position, TenantPlace};
use crate::ledger::storage::{StorageError, StreamQuery};

/// What is to be replayed.
#[derive(Clone, Debug)]
pub struct Replay {
    pub projection: Projection,
    pub tenant: TenantPlace,
    /// By `occurred_at` (metrics: the minute), inclusive.
    pub from: Option<Timestamp>,
    /// By `occurred_at` (metrics: the minute), exclusive.
    pub to: Option<Timestamp>,
    pub as_of: AsOf,
    pub rule: PrecedenceRule,
}

/// Which events are taken as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    Now,
    /// Those recorded by then.
    Time(Timestamp),
    Position(Position),
}

/// When a replay is made: whatever comes in while it runs is not in it.
#[derive(Debug)]
pub struct Moment {
    /// The last event that is read. Beside live rows it is the last that they know.
    pub until: Position,
    /// How many events were asked for and are left out, because the live rows don't know them.
    pub behind: i64,
    /// Sees the live rows as they are after that event.
    live: Option<Transaction>,
}

/// Rows that are ready, and how many events were read for them.
#[derive(Debug)]
pub struct Page<'a> {
    pub rows: Rows<'a>,
    /// What is live in the same place, if it was asked for.
    pub live: Option<Rows<'static>>,
    pub events: usize,
    /// Intervals that lie in here have everything that is counted in them: from, to, in
    /// microseconds.
    whole: (i64, i64),
}

/// A row that would be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference<'a> {
    /// Only the replay has it.
    Added(Vec<Cell<'a>>),
    /// Only the live table has it.
    Removed(Vec<Cell<'a>>),
    /// Live, then replayed.
    Changed(Vec<Cell<'a>>, Vec<Cell<'a>>),
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Unreadable(#[from] super::stream::Unreadable),
    #[error("the rows could not be written")]
    Output(#[source] std::io::Error),
}

impl Projections {
    /// Chooses the moment of a replay: now, or what the live rows know now. With `beside_live` those
    /// stay as they are for this replay, whoever writes; on PostgreSQL a rebuild can't swap their
    /// tables until it is over, and tries again.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn moment(&self, replay: &Replay, beside_live: bool) -> Result<Moment, StorageError> {
        let partition = replay.tenant.partition;
        let asked_for = |head: Position| match replay.as_of {
            AsOf::Position(position) => head.min(position),
            AsOf::Now | AsOf::Time(_) => head,
        };
        if !beside_live {
            let heads = self.inner.storage.heads().await?;
            let head = heads.iter().find(|head| head.partition == partition);
            return Ok(Moment {
                until: asked_for(head.map_or(Position(0), |head| head.position)),
                behind: 0,
                live: None,
            });
        }
        let mut live = self.store().snapshot_of(replay.projection).await?;
        let checkpoints = live.look_at_checkpoints(partition).await?;
        let mut checkpoints = checkpoints.iter();
        let at = checkpoints.find(|at| at.projection == replay.projection);
        let (until, head) = at.map_or_else(Default::default, |at| (at.position, at.head));
        Ok(Moment {
            until,
            behind: (asked_for(head).0 - until.0).max(0),
            live: Some(live),
        })
    }

    /// Runs a projection over the tenant's events and hands over its rows, a page at a time, in the
    /// order of streams; metrics come as one page at the end. Memory holds a few pages. Of a moment
    /// beside live rows, each page comes with the live rows of the same streams.
    ///
    /// # Errors
    ///
    /// [`ReplayError`] when events can't be read, or `take` fails.
    pub async fn replay(
        &self,
        replay: &Replay,
        moment: Moment,
        mut take: impl FnMut(Page<'_>) -> std::io::Result<()>,
    ) -> Result<(), ReplayError> {
        let table = replay.projection.tables()[0];
        let mut beside = moment.live;
        let query = StreamQuery {
            partition: replay.tenant.partition,
            tenant_id: Some(replay.tenant.tenant_id.clone()),
            after: None,
            // Beside live rows also those that were not known then: so a page of events spans no
            // more live rows than fit beside it.
            until: moment.until,
            limit: 0,
            bytes_max: 0,
        };
        let mut tasks = tokio::task::JoinSet::new();
        let storage = std::sync::Arc::clone(&self.inner.storage);
        let mut pages = fill::read_ahead(storage, query, &mut tasks);
        let mut sums = (table.writing == Writing::Add).then(|| Sums::new(table));
        let mut after = uuid::Uuid::nil();
        let mut is_first = true;
        while let Some(read) = pages.recv().await {
            let mut read = read?;
            let last = read.last().map(|whole| whole.stream_id.0);
            known_by(&mut read, replay.as_of);
            let events = read.iter().map(|whole| whole.events.len()).sum();
            let streams = fill::views(replay.tenant.partition, &read, replay.rule);
            let mut found = Rows::new(table);
            for streams in streams.chunks(STREAMS_AT_ONCE) {
                for stream in streams {
                    if let Some(rows) = replay.projection.rows(stream)?.into_iter().next() {
                        found.append(rows);
                    }
                }
                tokio::task::yield_now().await;
            }
            let rows = replay.within(&found);
            if let Some(sums) = &mut sums {
                sums.add(&rows, 1);
                let rows = Rows::new(table);
                let live = None;
                take(replay.page(rows, live, events)).map_err(ReplayError::Output)?;
                continue;
            }
            let mut live = None;
            if let Some(beside) = &mut beside
                && let Some(last) = last
            {
                let span = (!is_first).then_some(after);
                live = Some(replay.live(beside, span, Some(last)).await?);
                after = last;
                is_first = false;
            }
            take(replay.page(rows, live, events)).map_err(ReplayError::Output)?;
        }
        let events = 0;
        if let Some(mut sums) = sums {
            let mut sums = sums.take_rows();
            replay.projection.settle(&mut sums);
            // The same replay prints the same lines in the same order.
            let mut rows = Rows::new(table);
            for row in sums.sorted() {
                rows.extend_from_row(row);
            }
            let mut live = None;
            if let Some(beside) = &mut beside {
                live = Some(replay.live(beside, None, None).await?);
            }
            take(replay.page(rows, live, events)).map_err(ReplayError::Output)?;
        } else if let Some(beside) = &mut beside {
            // What is live after the last stream, though nothing should be.
            let rows = Rows::new(table);
            let span = (!is_first).then_some(after);
            let live = Some(replay.live(beside, span, None).await?);
            take(replay.page(rows, live, events)).map_err(ReplayError::Output)?;
        }
        Ok(())
    }
}

/// Streams folded before others on this thread get their turn.
const STREAMS_AT_ONCE: usize = 50;

/// Leaves only what was known by then; whole streams may go.
fn known_by(page: &mut Vec<Whole>, as_of: AsOf) {
    let is_known = |event: &PlainEvent| match as_of {
        AsOf::Now => true,
        AsOf::Time(time) => event.recorded_at <= time.as_micros(),
        AsOf::Position(position) => event.position <= position,
    };
    for whole in page.iter_mut() {
        // Recorded in order, so what is known is a beginning.
        whole.events.retain(is_known);
    }
    page.retain(|whole| !whole.events.is_empty());
}

impl Replay {
    /// The column that says when a row is from.
    fn time_column(&self) -> &'static str {
        match self.projection {
            Projection::Notifications | Projection::NotificationLogs | Projection::Timeline => {
                "occurred_at"
            }
            Projection::Metrics => "at",
        }
    }

    /// The rows of the time asked for.
    fn within<'a>(&self, rows: &Rows<'a>) -> Rows<'a> {
        let table = rows.table;
        let mut kept = Rows::new(table);
        let name = self.time_column();
        let Some(index) = table.columns.iter().position(|column| column.name == name) else {
            return kept;
        };
        let from = self.bound(self.from);
        let to = self.to;
        for row in rows.iter() {
            let at = row[index].as_int().unwrap_or_default();
            if from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to.as_micros()) {
                kept.extend_from_row(row);
            }
        }
        kept
    }

    /// Metrics are counted by whole minutes: the one in which the range begins belongs to it.
    fn bound(&self, time: Option<Timestamp>) -> Option<i64> {
        let micros = time.map(Timestamp::as_micros);
        match self.projection {
            Projection::Metrics => micros.map(|micros| metrics::floor(micros, metrics::MINUTE)),
            Projection::Notifications | Projection::NotificationLogs | Projection::Timeline => {
                micros
            }
        }
    }

    fn page<'a>(&self, rows: Rows<'a>, live: Option<Rows<'static>>, events: usize) -> Page<'a> {
        Page {
            rows,
            live,
            events,
            whole: self.whole(),
        }
    }

    /// What is counted in the range: whole minutes, also the one in which it ends.
    fn whole(&self) -> (i64, i64) {
        let minute = metrics::MINUTE * 1_000_000;
        let end = |to: Timestamp| {
            let last = metrics::floor(to.as_micros() - 1, metrics::MINUTE);
            last.saturating_add(minute)
        };
        (
            self.bound(self.from).unwrap_or(i64::MIN),
            self.to.map_or(i64::MAX, end),
        )
    }

    /// The live rows of the streams after one, up to another, in the time asked for.
    async fn live(
        &self,
        live: &mut Transaction,
        after: Option<uuid::Uuid>,
        until: Option<uuid::Uuid>,
    ) -> Result<Rows<'static>, StorageError> {
        let table = self.projection.tables()[0];
        let stream = match self.projection {
            Projection::Notifications | Projection::NotificationLogs => "notification_id",
            Projection::Timeline => "stream_id",
            Projection::Metrics => "",
        };
        let mut sql = format!(
            "SELECT {} FROM {} WHERE partition = $1 AND tenant_id = $2",
            Table::names(table.columns),
            table.name
        );
        let mut arguments: Vec<Cell<'_>> = vec![
            i64::from(self.tenant.partition.0).into(),
            self.tenant.tenant_id.as_str().into(),
        ];
        for (bound, comparison) in [(after, ">"), (until, "<=")] {
            if let Some(bound) = bound.filter(|_| !stream.is_empty()) {
                arguments.push(bound.into());
                // Writing to a `String` does not fail.
                let _ = write!(sql, " AND {stream} {comparison} ${}", arguments.len());
            }
        }
        let mut rows = Rows::new(table);
        for row in live.select(&sql, &arguments, table.columns).await? {
            rows.extend_from_row(&row);
        }
        Ok(self.within(&rows))
    }
}

impl<'a> Page<'a> {
    /// What differs between live and replayed rows, in the order of their keys. Of metrics, hours
    /// and days are compared where they lie in the range as a whole: of others the replay has only
    /// a part.
    pub fn differences(&self) -> Vec<Difference<'a>> {
        let Some(live) = &self.live else {
            return Vec::new();
        };
        let table = self.rows.table;
        let is_compared = |row: &[Cell<'_>]| match table.writing {
            Writing::Replace => true,
            Writing::Add => metrics::interval(row)
                .is_some_and(|(from, to)| from >= self.whole.0 && to <= self.whole.1),
        };
        let mut standing: BTreeMap<Vec<Cell<'a>>, Vec<Cell<'a>>> = live
            .iter()
            .filter(|row| is_compared(row))
            .map(|row| (row[..table.key].to_vec(), row.to_vec()))
            .collect();
        let mut differences = Vec::new();
        for row in self.rows.sorted() {
            if !is_compared(row) {
                continue;
            }
            match standing.remove(&row[..table.key]) {
                None => differences.push(Difference::Added(row.to_vec())),
                Some(live) if live == row => {}
                Some(live) => differences.push(Difference::Changed(live, row.to_vec())),
            }
        }
        differences.extend(standing.into_values().map(Difference::Removed));
        differences
    }
}
