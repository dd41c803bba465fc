//! How many messages reached which stage when, and how long it took.
//!
//! Counts are kept by the minute, the hour and the day. A range of time is cut into the longest
//! of these that fit, so that a year is read as days with a few hours and minutes at its edges.

use std::collections::BTreeMap;

use super::{DAY, HOUR, LATENCIES, METRICS, MINUTE, floor};
use crate::domain::time::Timestamp;
use crate::ledger::record::TenantPlace;
use crate::ledger::storage::StorageError;
use crate::projections::Projection;
use crate::projections::latency::quantile;
use crate::projections::query::{Reader, Statement};
use crate::projections::store::{Store, Transaction};
use crate::projections::table::{Column, columns};

/// Most points of an answer: intervals times series.
pub const POINTS_MAX: i64 = 10_000;

/// How long the time of one point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    Minute,
    Hour,
    Day,
}

/// By what messages are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    WorkflowId,
    Channel,
    ProviderId,
}

/// What is to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The beginning of a minute, inclusive.
    pub from: Timestamp,
    /// The beginning of a minute, exclusive.
    pub to: Timestamp,
    pub interval: Interval,
    pub group_by: Vec<Dimension>,
}

/// Messages by the stage they reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requested: i64,
    pub queued: i64,
    pub sent: i64,
    pub delivered: i64,
    pub bounced: i64,
    pub failed: i64,
    /// Of the failed, those that had not been sent.
    pub failed_unsent: i64,
    pub suppressed: i64,
    pub retracted: i64,
    pub seen: i64,
    pub read: i64,
}

/// Messages by how long they took: `(bucket, messages)`, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<(i64, i64)>);

/// The counts of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// By the beginning of the interval; only where something was counted.
    pub points: BTreeMap<Timestamp, Counts>,
    pub sent: Latencies,
    pub delivered: Latencies,
}

/// Series by what their messages have in common, in the order of `group_by`. An empty name means
/// that none was given.
pub type ByGroup = BTreeMap<Vec<String>, Series>;

/// More points than anybody looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    pub intervals: i64,
    /// `None` if there are too many intervals for a single one.
    pub series: Option<i64>,
}

impl Interval {
    pub const WORDS: [&str; 3] = ["minute", "hour", "day"];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Minute, Self::Hour, Self::Day]
            .into_iter()
            .find(|interval| interval.as_str() == word)
    }

    fn seconds(self) -> i64 {
        match self {
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }
}

impl Dimension {
    pub const WORDS: [&str; 3] = ["workflow_id", "channel", "provider_id"];

    /// The column, too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorkflowId => "workflow_id",
            Self::Channel => "channel",
            Self::ProviderId => "provider_id",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [Self::WorkflowId, Self::Channel, Self::ProviderId]
            .into_iter()
            .find(|dimension| dimension.as_str() == word)
    }
}

impl Wanted {
    /// The beginnings of all intervals, in order: the first may lie before `from`.
    pub fn intervals(&self) -> impl Iterator<Item = Timestamp> + use<> {
        let length = self.interval.seconds() * 1_000_000;
        let first = floor(self.from.as_micros(), self.interval.seconds());
        (0..self.count()).map(move |index| Timestamp::from_micros_clamped(first + index * length))
    }

    fn count(&self) -> i64 {
        if self.from >= self.to {
            return 0;
        }
        let seconds = self.interval.seconds();
        let first = floor(self.from.as_micros(), seconds);
        (ceiling(self.to.as_micros(), seconds) - first) / (seconds * 1_000_000)
    }
}

impl Counts {
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            requested: self.requested + other.requested,
            queued: self.queued + other.queued,
            sent: self.sent + other.sent,
            delivered: self.delivered + other.delivered,
            bounced: self.bounced + other.bounced,
            failed: self.failed + other.failed,
            failed_unsent: self.failed_unsent + other.failed_unsent,
            suppressed: self.suppressed + other.suppressed,
            retracted: self.retracted + other.retracted,
            seen: self.seen + other.seen,
            read: self.read + other.read,
        }
    }

    /// What share went wrong, 0 to 1, of all that was sent or failed before it could be.
    pub fn error_rate(&self) -> f64 {
        let tried = self.sent + self.failed_unsent;
        if tried <= 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "nobody counts 2^52 messages")]
        let rate = (self.bounced + self.failed) as f64 / tried as f64;
        // What went wrong today may have been sent yesterday.
        rate.clamp(0.0, 1.0)
    }
}

impl Latencies {
    pub fn count(&self) -> i64 {
        self.0.iter().map(|(_, messages)| messages).sum()
    }

    /// In milliseconds; `None` if there are no messages.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        quantile(&self.0, share).map(|micros| micros / 1000.0)
    }
}

/// Counts a tenant's messages.
///
/// # Errors
///
/// [`StorageError`] when the database failed.
pub async fn read(
    store: &Store,
    tenant: &TenantPlace,
    wanted: &Wanted,
) -> Result<Result<ByGroup, TooMany>, StorageError> {
    let intervals = wanted.count();
    if intervals > POINTS_MAX {
        let series = None;
        return Ok(Err(TooMany { intervals, series }));
    }
    // Counts and latencies of the same moment.
    let mut snapshot = store.snapshot_of(Projection::Metrics).await?;
    let mut found = ByGroup::new();
    if wanted.group_by.is_empty() {
        found.insert(Vec::new(), Series::default());
    }
    let complete = counts(&mut snapshot, tenant, wanted, &mut found).await?;
    let series = i64::try_from(found.len()).unwrap_or(i64::MAX);
    if !complete || intervals.saturating_mul(series) > POINTS_MAX {
        let series = Some(series);
        return Ok(Err(TooMany { intervals, series }));
    }
    latencies(&mut snapshot, tenant, wanted, &mut found).await?;
    Ok(Ok(found))
}

const COUNTS: &[Column] = columns![
    bucket: Time,
    workflow_id: Text,
    channel: Text,
    provider_id: Text,
    requested: Int,
    queued: Int,
    sent: Int,
    delivered: Int,
    bounced: Int,
    failed: Int,
    failed_unsent: Int,
    suppressed: Int,
    retracted: Int,
    seen: Int,
    read: Int,
];

/// Says whether that was all.
async fn counts(
    snapshot: &mut Transaction,
    tenant: &TenantPlace,
    wanted: &Wanted,
    found: &mut ByGroup,
) -> Result<bool, StorageError> {
    let mut statement = Statement::default();
    statement.push("SELECT bucket, workflow_id, channel, provider_id");
    for column in &COUNTS[4..] {
        statement.push(", CAST(SUM(").push(column.name);
        statement.push(") AS BIGINT)");
    }
    let mut inner = String::new();
    for column in &COUNTS[4..] {
        inner.push_str(", ");
        inner.push_str(column.name);
    }
    // Every row that is no point would be one too many.
    let length = wanted.interval.seconds() * 1_000_000;
    let resolutions = match wanted.interval {
        Interval::Minute => &[MINUTE][..],
        Interval::Hour => &[HOUR, MINUTE],
        Interval::Day => &[DAY, HOUR, MINUTE],
    };
    statement.push(" FROM (");
    segments(&mut statement, tenant, wanted, resolutions, |statement| {
        statement.push("at - at % ").bind(length).push(" AS bucket");
        dimensions(statement, wanted);
        statement.push(&inner).push(" FROM metrics");
    });
    statement
        .push(") AS pieces GROUP BY bucket, workflow_id, channel, provider_id LIMIT ")
        .bind(POINTS_MAX + 1);
    let rows = snapshot
        .select(statement.text(), statement.arguments(), COUNTS)
        .await?;
    let complete = i64::try_from(rows.len()).is_ok_and(|rows| rows <= POINTS_MAX);
    for row in rows {
        let mut row = Reader::new(&METRICS, row);
        let at = row.time()?;
        let group = group(&mut row, wanted)?;
        let counts = Counts {
            requested: row.int()?,
            queued: row.int()?,
            sent: row.int()?,
            delivered: row.int()?,
            bounced: row.int()?,
            failed: row.int()?,
            failed_unsent: row.int()?,
            suppressed: row.int()?,
            retracted: row.int()?,
            seen: row.int()?,
            read: row.int()?,
        };
        found.entry(group).or_default().points.insert(at, counts);
    }
    Ok(complete)
}

const BUCKETS: &[Column] = columns![
    workflow_id: Text,
    channel: Text,
    provider_id: Text,
    stage: Text,
    bucket: Int,
    messages: Int,
];

async fn latencies(
    snapshot: &mut Transaction,
    tenant: &TenantPlace,
    wanted: &Wanted,
    found: &mut ByGroup,
) -> Result<(), StorageError> {
    let mut statement = Statement::default();
    statement.push(
        "SELECT workflow_id, channel, provider_id, stage, bucket, CAST(SUM(messages) AS BIGINT)
        FROM (",
    );
    // They are shown for the whole range at once, whatever the interval.
    let resolutions = &[DAY, HOUR, MINUTE];
    segments(&mut statement, tenant, wanted, resolutions, |statement| {
        statement.push("stage, bucket, messages");
        dimensions(statement, wanted);
        statement.push(" FROM metric_latencies");
    });
    statement.push(
        ") AS pieces GROUP BY workflow_id, channel, provider_id, stage, bucket
        ORDER BY workflow_id, channel, provider_id, stage, bucket",
    );
    let rows = snapshot
        .select(statement.text(), statement.arguments(), BUCKETS)
        .await?;
    for row in rows {
        let mut row = Reader::new(&LATENCIES, row);
        let group = group(&mut row, wanted)?;
        let stage = row.text()?;
        let bucket = (row.int()?, row.int()?);
        // What has a latency was counted.
        let Some(series) = found.get_mut(&group) else {
            continue;
        };
        match stage.as_str() {
            "sent" => series.sent.0.push(bucket),
            _ => series.delivered.0.push(bucket),
        }
    }
    Ok(())
}

/// Selects from each piece of the range, in the longest resolutions that fit.
fn segments<'a>(
    statement: &mut Statement<'a>,
    tenant: &'a TenantPlace,
    wanted: &Wanted,
    resolutions: &[i64],
    mut select: impl FnMut(&mut Statement<'a>),
) {
    let (from, to) = (wanted.from.as_micros(), wanted.to.as_micros());
    for (index, piece) in cut(from, to, resolutions).into_iter().enumerate() {
        statement.push(if index == 0 {
            "SELECT "
        } else {
            " UNION ALL SELECT "
        });
        select(statement);
        statement
            .push(" WHERE partition = ")
            .bind(i64::from(tenant.partition.0))
            .push(" AND tenant_id = ")
            .bind(tenant.tenant_id.as_str())
            .push(" AND resolution = ")
            .bind(piece.resolution)
            .push(" AND at >= ")
            .bind(piece.from)
            .push(" AND at < ")
            .bind(piece.to);
    }
}

/// The dimensions that count; the others are all the same.
fn dimensions(statement: &mut Statement<'_>, wanted: &Wanted) {
    for name in Dimension::WORDS {
        let counts = wanted
            .group_by
            .iter()
            .any(|dimension| dimension.as_str() == name);
        let before = if counts { ", " } else { ", '' AS " };
        statement.push(before).push(name);
    }
}

/// What a row is counted under, in the order that was asked for.
fn group(row: &mut Reader, wanted: &Wanted) -> Result<Vec<String>, StorageError> {
    let mut names = BTreeMap::new();
    for name in Dimension::WORDS {
        names.insert(name, row.text()?);
    }
    let name = |dimension: &Dimension| names.remove(dimension.as_str()).unwrap_or_default();
    Ok(wanted.group_by.iter().map(name).collect())
}

/// A piece of the range, and the rows that count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    resolution: i64,
    from: i64,
    to: i64,
}

/// Cuts a range of whole minutes: the longest resolution first. At least one piece, if an empty
/// one.
fn cut(from: i64, to: i64, resolutions: &[i64]) -> Vec<Piece> {
    let [resolution, finer @ ..] = resolutions else {
        return Vec::new();
    };
    let resolution = *resolution;
    let piece = |from, to| Piece {
        resolution,
        from,
        to,
    };
    if finer.is_empty() {
        return vec![piece(from, to)];
    }
    let (first, last) = (ceiling(from, resolution), floor(to, resolution));
    if first >= last {
        return cut(from, to, finer);
    }
    let mut pieces = vec![piece(first, last)];
    for (from, to) in [(from, first), (last, to)] {
        if from < to {
            pieces.extend(cut(from, to, finer));
        }
    }
    pieces
}

/// The end of the interval of `seconds` in which a time lies, or the time, if it is one's
/// beginning; both in microseconds.
fn ceiling(micros: i64, seconds: i64) -> i64 {
    let length = seconds * 1_000_000;
    floor(micros + length - 1, seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_year_is_read_as_days() {
        let day = DAY * SECOND;
        let (from, to) = (day - 90 * MINUTE * SECOND, 366 * day + HOUR * SECOND);

        let pieces = cut(from, to, &[DAY, HOUR, MINUTE]);

        let shown: Vec<(i64, i64)> = pieces
            .iter()
            .map(|piece| {
                let length = piece.resolution * SECOND;
                (piece.resolution, (piece.to - piece.from) / length)
            })
            .collect();
        assert_eq!(shown, [(DAY, 365), (HOUR, 1), (MINUTE, 30), (HOUR, 1)]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once(from in 0..5_000_i64, minutes in 0..5_000_i64) {
            let minute = MINUTE * SECOND;
            let (from, to) = (from * minute, (from + minutes) * minute);

            let mut pieces = cut(from, to, &[DAY, HOUR, MINUTE]);
            pieces.sort_by_key(|piece| piece.from);

            prop_assert_eq!(pieces[0].from, from);
            prop_assert_eq!(pieces[pieces.len() - 1].to, to);
            for pair in pieces.windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from);
            }
            for piece in pieces {
                prop_assert_eq!(floor(piece.from, piece.resolution), piece.from);
                prop_assert_eq!(floor(piece.to, piece.resolution), piece.to);
            }
        }
    }

    #[test]
    fn the_error_rate_stays_between_none_and_all() {
        let counts = |sent, failed, failed_unsent, bounced| Counts {
            sent,
            bounced,
            failed,
            failed_unsent,
            ..Counts::default()
        };

        for (counts, rate) in [
            (counts(0, 0, 0, 0), 0.0),
            (counts(8, 2, 0, 0), 0.25),
            (counts(2, 2, 2, 1), 0.75),
            (counts(0, 3, 3, 0), 1.0),
            // Sent before the range, bounced within it.
            (counts(1, 0, 0, 5), 1.0),
            (counts(0, 0, 0, 5), 0.0),
        ] {
            assert!((counts.error_rate() - rate).abs() < 1e-9, "{counts:?}");
        }
    }
}
