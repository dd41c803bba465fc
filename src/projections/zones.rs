//! Where the rows of a range of time are in a list, without walking past all others.
//!
//! Lists are in the order of `first_position`, ranges are of `occurred_at`, and no index has both
//! orders. So positions are taken in *zones* of equal length, and one index has a list's rows by zone
//! and, within each, by time. Two steps into that index, from the newest zone to the oldest, say
//! whether a zone has rows of a range, and which zone with rows is next. One that has none of the
//! range costs as much as some thirty rows, however many it holds.

use super::query::{Reader, Statement};
use super::store::Store;
use super::table::{Column, Table, columns};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::storage::StorageError;

/// Positions in a zone. Twice as many would halve what it takes to skip a million rows, about 2 ms,
/// and double what it takes to walk through one zone. The indexes are made for it.
const POSITIONS: i64 = 16_384;

/// The zone of a row of `t`, as the index has it: `notifications_by_zone` and
/// `notification_logs_by_zone`.
pub(super) const ZONE: &str = "t.first_position / 16384";

/// How many rows of a range are looked at by time, at most. More than the longest page, so a page that
/// nothing else filters needs no others; few enough to be held against other filters, and sorted, in
/// about a millisecond.
const FEW: i64 = 1000;

/// From when, inclusive, to when, exclusive, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Range {
    /// `None` if it has neither end.
    pub(super) fn of(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<Self> {
        (from.is_some() || to.is_some()).then(|| Self {
            from: from.map_or(i64::MIN, Timestamp::as_micros),
            to: to.map_or(i64::MAX, Timestamp::as_micros),
        })
    }
}

/// Which zones have rows of a range.
#[derive(Debug)]
pub(super) struct Zones {
    /// The newest, as long as all rows of the range in them are few.
    pub(super) sparse: Vec<i64>,
    /// The end of the next one, where so many are that they are better read in order from there on.
    /// `None` if there are no others.
    pub(super) rest: Option<Position>,
}

const COLUMNS: &[Column] = columns![zone: Int, met: Int];

impl Zones {
    /// Looks for those that have rows in a tenant's list before a position.
    pub(super) async fn find(
        store: &Store,
        table: &'static Table,
        tenant: &TenantPlace,
        range: Range,
        before: Option<Position>,
    ) -> Result<Self, StorageError> {
        let walk = walk(table, tenant, range, before, Way::Down);
        let mut zones = Self {
            sparse: Vec::new(),
            rest: None,
        };
        for row in walk.run(store, COLUMNS).await? {
            let mut row = Reader::new(table, row);
            let (zone, met) = (row.int()?, row.int()?);
            if met < FEW {
                zones.sparse.push(zone);
            } else {
                let end = Position((zone + 1) * POSITIONS);
                zones.rest = Some(before.map_or(end, |before| end.min(before)));
            }
        }
        Ok(zones)
    }
}

/// Where the oldest zone begins that has rows of a range in a tenant's list.
pub(super) async fn begin(
    store: &Store,
    table: &'static Table,
    tenant: &TenantPlace,
    range: Range,
) -> Result<Option<Position>, StorageError> {
    let walk = walk(table, tenant, range, None, Way::Up);
    let Some(row) = walk.run(store, COLUMNS).await?.pop() else {
        return Ok(None);
    };
    let zone = Reader::new(table, row).int()?;
    Ok(Some(Position(zone * POSITIONS)))
}

/// How a list is walked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the newest zone to the oldest, until rows of the range are no longer few.
    Down,
    /// From the oldest zone to the newest, until there is a row of the range.
    Up,
}

/// Each zone that has rows of a range, with how many were met in it and those before.
///
/// The walk has a row per zone, and one after the last, each made from the zone before: which zone it
/// is, how many rows were met until there, which zone was passed, and how many were met before that.
fn walk<'a>(
    table: &Table,
    tenant: &'a TenantPlace,
    range: Range,
    before: Option<Position>,
    way: Way,
) -> Statement<'a> {
    let (enough, beyond, order) = match way {
        Way::Down => (FEW, " < ", " DESC LIMIT 1)"),
        Way::Up => (1, " > ", " LIMIT 1)"),
    };
    let mut statement = Statement::default();
    let tenant = statement.argument(tenant.tenant_id.as_str());
    let from = statement.argument(range.from);
    let to = statement.argument(range.to);
    let enough = statement.argument(enough);
    let before = before.map(|before| statement.argument(before.0));
    let rows = format!(" FROM {} AS t WHERE t.tenant_id = ", table.name);
    statement
        .push("WITH RECURSIVE walk (zone, met, passed, met_before) AS (SELECT (SELECT ")
        .push(ZONE)
        .push(&rows)
        .name(tenant)
        .compare("t.first_position", " < ", before)
        .push(" ORDER BY t.first_position")
        .push(order)
        .push(
            ", CAST(0 AS bigint), CAST(NULL AS bigint), CAST(0 AS bigint)
            UNION ALL SELECT (SELECT ",
        )
        .push(ZONE)
        .push(&rows)
        .name(tenant)
        .push(" AND ")
        .push(ZONE)
        .push(beyond)
        .push("w.zone ORDER BY ")
        .push(ZONE)
        .push(order)
        .push(", w.met + (SELECT COUNT(*) FROM (SELECT 1")
        .push(&rows)
        .name(tenant)
        .push(" AND ")
        .push(ZONE)
        .push(" = w.zone")
        .compare("t.occurred_at", " >= ", Some(from))
        .compare("t.occurred_at", " < ", Some(to))
        .compare("t.first_position + 0", " < ", before)
        .push(" LIMIT ")
        .name(enough)
        .push(
            ") AS counted), w.zone, w.met
            FROM walk AS w WHERE w.zone IS NOT NULL AND w.met < ",
        )
        .name(enough)
        .push(") SELECT passed, met FROM walk WHERE met > met_before");
    statement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_as_long_as_their_index_has_them() {
        assert!(ZONE.ends_with(&format!("/ {POSITIONS}")));
        let migrations = [
            include_str!("../../migrations/postgres/0007_zones.sql"),
            include_str!("../../migrations/sqlite/0007_zones.sql"),
        ];
        for migration in migrations {
            let indexes = migration.matches("first_position / ").count();
            let indexes_of_zones = migration.matches(ZONE.trim_start_matches("t.")).count();
            assert_eq!((indexes, indexes_of_zones), (2, 2));
        }
    }
}
