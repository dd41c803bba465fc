//! How lists are read: the newest rows that pass some filters, so many at a time.
//!
//! Lists are in the order of `first_position`, which never changes, so whoever pages through one
//! neither misses a row nor sees one twice while events arrive. There is an index per filter in
//! this very order. A filter with several values would have to be sorted; so each value's first
//! rows are read by themselves, in order, and the first of all these are the answer.
//!
//! Every such branch names the values of all other filters again, so how often values may be named
//! has a bound. Beyond it there are no branches: rows are looked up by the values that few rows
//! have, and sorted; or walked through in order, if there is no filter of that kind.
//!
//! A range of time says nothing about that order. Unless a filter leads to few rows anyway, the
//! [`zones`](super::zones) that have rows of the range are looked for first: where these are few they
//! are read by time, and from where they are many on, in order.
//!
//! A tenant lives in one partition, so its name says which, and the first position tells its rows
//! apart. Nothing is said twice: a planner takes conditions for independent, and what it believes to
//! be few rows it sorts.
//!
//! Statements are put together from constant text; what callers say goes in as arguments, each of
//! them once, however often it is named.

use std::fmt::Write as _;

use uuid::Uuid;

use super::store::Store;
use super::table::{Cell, Column, Table};
use super::zones::{self, Range, ZONE, Zones};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::storage::StorageError;

/// An argument of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Argument(usize);

/// A statement in the making.
#[derive(Debug, Default)]
pub(super) struct Statement<'a> {
    text: String,
    arguments: Vec<Cell<'a>>,
}

impl<'a> Statement<'a> {
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds an argument, and `$n` where it stands.
    pub(super) fn bind(&mut self, argument: impl Into<Cell<'a>>) -> &mut Self {
        let argument = self.argument(argument);
        self.name(argument)
    }

    /// Adds an argument that is named where it is needed, any number of times.
    pub(super) fn argument(&mut self, argument: impl Into<Cell<'a>>) -> Argument {
        self.arguments.push(argument.into());
        Argument(self.arguments.len())
    }

    /// As [`Self::argument`], each of them.
    pub(super) fn arguments_of(
        &mut self,
        arguments: impl IntoIterator<Item = impl Into<Cell<'a>>>,
    ) -> Vec<Argument> {
        let arguments = arguments.into_iter();
        arguments.map(|argument| self.argument(argument)).collect()
    }

    /// `$n`.
    pub(super) fn name(&mut self, Argument(number): Argument) -> &mut Self {
        // Writing to a `String` does not fail.
        let _ = write!(self.text, "${number}");
        self
    }

    /// ` AND column IN ($1, $2)`.
    pub(super) fn among(&mut self, column: &str, values: &[Argument]) -> &mut Self {
        self.push(" AND ").one_of(column, values)
    }

    /// `column IN ($1, $2)`.
    pub(super) fn one_of(&mut self, column: &str, values: &[Argument]) -> &mut Self {
        self.push(column).push(" IN (");
        for (index, value) in values.iter().enumerate() {
            self.push(if index == 0 { "" } else { ", " }).name(*value);
        }
        self.push(")")
    }

    /// `(VALUES ($1), ($2))`, whose one column both databases call `column1`.
    pub(super) fn values(&mut self, values: &[Argument]) -> &mut Self {
        self.push("(VALUES ");
        for (index, value) in values.iter().enumerate() {
            self.push(if index == 0 { "(" } else { ", (" })
                .name(*value)
                .push(")");
        }
        self.push(")")
    }

    /// ` AND column < $1`, or with another comparison, if there is something to compare with.
    pub(super) fn compare(
        &mut self,
        column: &str,
        comparison: &str,
        with: Option<Argument>,
    ) -> &mut Self {
        if let Some(with) = with {
            self.push(" AND ").push(column).push(comparison).name(with);
        }
        self
    }

    pub(super) async fn run(
        &self,
        store: &Store,
        columns: &[Column],
    ) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
        store.select(&self.text, &self.arguments, columns).await
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn arguments(&self) -> &[Cell<'a>] {
        &self.arguments
    }
}

/// What a row must have to pass.
#[derive(Debug)]
pub(super) enum Filter<V> {
    /// One of these values in this column. Few rows have the same.
    Rare(&'static str, Vec<V>),
    /// One of these values in this column. Any number of rows may have the same.
    Common(&'static str, Vec<V>),
    /// One of these metadata entries.
    Entry(Vec<V>),
}

impl<V> Filter<V> {
    fn values(&self) -> &[V] {
        match self {
            Self::Rare(_, values) | Self::Common(_, values) | Self::Entry(values) => values,
        }
    }

    fn is_common(&self) -> bool {
        matches!(self, Self::Common(..))
    }
}

impl<'a> Filter<Cell<'a>> {
    /// The same, of a statement's arguments.
    fn of(&self, statement: &mut Statement<'a>) -> Filter<Argument> {
        let values = statement.arguments_of(self.values().iter().cloned());
        match self {
            Self::Rare(column, _) => Filter::Rare(column, values),
            Self::Common(column, _) => Filter::Common(column, values),
            Self::Entry(_) => Filter::Entry(values),
        }
    }
}

impl Filter<Argument> {
    /// As a condition that rows of `t` are held against once they are found, and never found by.
    fn push_aside(&self, statement: &mut Statement<'_>) {
        match self {
            Self::Rare(column, values) | Self::Common(column, values) => {
                statement
                    .push(" AND (")
                    .one_of(&format!("t.{column}"), values)
                    .push(") IS TRUE");
            }
            Self::Entry(values) => self.push(values, statement),
        }
    }

    /// As a condition on the rows of `t`.
    fn push(&self, values: &[Argument], statement: &mut Statement<'_>) {
        match self {
            Self::Rare(column, _) | Self::Common(column, _) => {
                statement.among(&format!("t.{column}"), values);
            }
            Self::Entry(_) => {
                statement
                    .push(
                        " AND EXISTS (SELECT 1 FROM notification_metadata AS e
                        WHERE e.tenant_id = t.tenant_id AND e.first_position = t.first_position",
                    )
                    .among("e.entry", values)
                    .push(")");
            }
        }
    }
}

/// Most values that a statement names, in all its branches together: enough for two filters with
/// all the values they may have. SQLite takes about 50 ms to prepare as many, and the time grows with
/// them.
const NAMED_MAX: usize = 12_000;

/// The newest rows of a table that pass every filter.
#[derive(Debug)]
pub(super) struct Newest<'a> {
    pub(super) table: &'static Table,
    /// What is read of each row.
    pub(super) columns: &'static [Column],
    pub(super) tenant: &'a TenantPlace,
    /// In the order of how few rows they usually let pass, those with common values last. Those
    /// without values let all pass.
    pub(super) filters: Vec<Filter<Cell<'a>>>,
    /// By `occurred_at`, inclusive.
    pub(super) from: Option<Timestamp>,
    /// By `occurred_at`, exclusive.
    pub(super) to: Option<Timestamp>,
    /// Only rows whose first event is before this one.
    pub(super) before: Option<Position>,
    /// None of them is older.
    pub(super) since: Option<Position>,
    pub(super) limit: i64,
}

impl<'a> Newest<'a> {
    /// Reads them; of a range of time, in several statements. What arrives or moves between these may
    /// be missing, as if it had come afterwards. Of what stays, nothing is.
    pub(super) async fn read(
        mut self,
        store: &Store,
    ) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
        let columns = self.columns;
        self.filters.retain(|filter| !filter.values().is_empty());
        let mut rows = Vec::new();
        if let Some(range) = self.zoned_range() {
            let zones = Zones::find(store, self.table, self.tenant, range, self.before).await?;
            if !zones.sparse.is_empty() {
                let in_zones = self.in_zones(range, &zones.sparse);
                rows = in_zones.run(store, columns).await?;
            }
            let missing = self.limit - i64::try_from(rows.len()).unwrap_or(i64::MAX);
            if zones.rest.is_none() || missing <= 0 {
                return Ok(rows);
            }
            (self.before, self.limit) = (zones.rest, missing);
            // Otherwise a filter that nothing in the range passes would lead past all that is older.
            // Without one, the page is full before it gets there. SQLite, which plans without
            // statistics, takes two ends of the order for better than the filter's own index.
            let is_led = !self.filters.is_empty() && !store.has_one_writer();
            if self.from.is_some() && is_led {
                self.since = zones::begin(store, self.table, self.tenant, range).await?;
            }
        }
        rows.extend(self.statement().run(store, columns).await?);
        Ok(rows)
    }

    /// The range, unless a filter leads to so few rows that their times do not matter.
    fn zoned_range(&self) -> Option<Range> {
        let is_rare = |filter: &Filter<_>| matches!(filter, Filter::Rare(..));
        let range = Range::of(self.from, self.to)?;
        (!self.filters.iter().any(is_rare)).then_some(range)
    }

    /// What lies in some zones and in the range.
    fn in_zones(&self, range: Range, zones: &[i64]) -> Statement<'a> {
        let mut statement = Statement::default();
        let rows = self.rows(Some(range.from), Some(range.to), &mut statement);
        let zones = statement.arguments_of(zones.iter().copied());
        rows.select_in_zones(&zones, &mut statement);
        statement
    }

    fn statement(mut self) -> Statement<'a> {
        let way = self.way();
        let mut statement = Statement::default();
        let (from, to) = (self.from, self.to);
        let (from, to) = (from.map(Timestamp::as_micros), to.map(Timestamp::as_micros));
        let rows = self.rows(from, to, &mut statement);
        let lead = rows.filters.first().map_or(&[][..], Filter::values);
        match way {
            Way::InOrder => rows.select(lead, &mut statement),
            Way::LookedUp => rows.look_up(lead, &mut statement),
            Way::Branches => {
                statement.push("SELECT * FROM (");
                for (index, value) in lead.iter().enumerate() {
                    let before = if index == 0 { "" } else { " UNION ALL " };
                    statement.push(before).push("SELECT * FROM (");
                    rows.select(std::slice::from_ref(value), &mut statement);
                    statement.push(") AS branch");
                }
                statement
                    .push(") AS found ORDER BY first_position DESC LIMIT ")
                    .name(rows.limit);
            }
        }
        statement
    }

    /// What is said about rows, as arguments of a statement.
    fn rows(&self, from: Option<i64>, to: Option<i64>, statement: &mut Statement<'a>) -> Rows {
        Rows {
            table: self.table,
            columns: self.columns,
            tenant: statement.argument(self.tenant.tenant_id.as_str()),
            filters: self
                .filters
                .iter()
                .map(|filter| filter.of(statement))
                .collect(),
            from: from.map(|from| statement.argument(from)),
            to: to.map(|to| statement.argument(to)),
            before: self.before.map(|before| statement.argument(before.0)),
            since: self.since.map(|since| statement.argument(since.0)),
            limit: statement.argument(self.limit),
        }
    }

    /// Chooses how rows are read, and puts the filter that leads to them first.
    fn way(&mut self) -> Way {
        let all: usize = self
            .filters
            .iter()
            .map(|filter| filter.values().len())
            .sum();
        // A common value leads to too many rows, as long as there is something better.
        let is_common = self.filters.first().is_some_and(Filter::is_common);
        let lead = self.filters.iter().position(|filter| {
            let branches = filter.values().len();
            // Each has one of its values, and all of the others.
            filter.is_common() == is_common && branches * (1 + all - branches) <= NAMED_MAX
        });
        let Some(lead) = lead else {
            return match self.filters.first() {
                Some(Filter::Rare(..)) => Way::LookedUp,
                // An entry's table has no other order than by entries.
                Some(Filter::Common(..) | Filter::Entry(_)) | None => Way::InOrder,
            };
        };
        self.filters[..=lead].rotate_right(1);
        if self.filters[0].values().len() == 1 {
            Way::InOrder
        } else {
            Way::Branches
        }
    }
}

/// How rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From one index, newest first, until there are enough that pass.
    InOrder,
    /// From one index for each value of the first filter, likewise.
    Branches,
    /// All that have a value of the first filter; then they are sorted.
    LookedUp,
}

/// What a statement says about rows, in its own arguments.
struct Rows {
    table: &'static Table,
    columns: &'static [Column],
    tenant: Argument,
    filters: Vec<Filter<Argument>>,
    from: Option<Argument>,
    to: Option<Argument>,
    before: Option<Argument>,
    since: Option<Argument>,
    limit: Argument,
}

impl Rows {
    fn push_columns(&self, statement: &mut Statement<'_>) {
        statement.push("SELECT ");
        for (index, column) in self.columns.iter().enumerate() {
            let before = if index == 0 { "t." } else { ", t." };
            statement.push(before).push(column.name);
        }
        statement.push(" FROM ");
    }

    /// The newest rows that the first filter lets pass for these values, and the others for theirs.
    fn select(&self, lead: &[Argument], statement: &mut Statement<'_>) {
        let by_entry = matches!(self.filters.first(), Some(Filter::Entry(_)));
        self.push_columns(statement);
        // SQLite joins from left to right, PostgreSQL as it thinks best.
        if by_entry {
            statement.push("notification_metadata AS m CROSS JOIN ");
        }
        statement.push(self.table.name).push(" AS t WHERE ");
        if by_entry {
            statement
                .push("m.tenant_id = ")
                .name(self.tenant)
                .among("m.entry", lead)
                .compare("m.first_position", " < ", self.before)
                .compare("m.first_position", " >= ", self.since);
            // With nothing else to go by, each entry leads to its one row, newest first. An expression
            // keeps PostgreSQL from walking both indexes side by side instead, past all rows that
            // are newer than the last one with this entry.
            let alone = self.filters.len() == 1 && self.from.is_none() && self.to.is_none();
            statement
                .push(" AND t.first_position = m.first_position")
                .push(if alone { " + 0 AND " } else { " AND " });
        }
        statement.push("t.tenant_id = ").name(self.tenant);
        if let Some(first) = self.filters.first()
            && !by_entry
        {
            first.push(lead, statement);
        }
        self.push_rest(statement);
        statement
            .push(if by_entry {
                " ORDER BY m.first_position DESC LIMIT "
            } else {
                " ORDER BY t.first_position DESC LIMIT "
            })
            .name(self.limit);
    }

    /// The newest rows again, found by the values of the first filter. Joined rather than listed:
    /// without statistics SQLite would sooner walk through all rows in order than look up a hundred.
    fn look_up(&self, lead: &[Argument], statement: &mut Statement<'_>) {
        let Some(Filter::Rare(column, _)) = self.filters.first() else {
            return self.select(lead, statement);
        };
        self.push_columns(statement);
        statement
            .values(lead)
            .push(" AS lead CROSS JOIN ")
            .push(self.table.name)
            .push(" AS t WHERE t.tenant_id = ")
            .name(self.tenant)
            .push(" AND t.")
            .push(column)
            .push(" = lead.column1");
        self.push_rest(statement);
        statement
            .push(" ORDER BY t.first_position DESC LIMIT ")
            .name(self.limit);
    }

    /// The newest rows within some zones and times: found by these, and by nothing else.
    fn select_in_zones(&self, zones: &[Argument], statement: &mut Statement<'_>) {
        self.push_columns(statement);
        statement
            .push(self.table.name)
            .push(" AS t WHERE t.tenant_id = ")
            .name(self.tenant)
            .among(ZONE, zones);
        // Few rows are there, but PostgreSQL takes zones and times for independent. If it could see
        // the times it would, of a long range, sooner look at all rows there are.
        for (time, comparison) in [(self.from, " >= "), (self.to, " < ")] {
            if let Some(time) = time {
                statement
                    .push(" AND t.occurred_at")
                    .push(comparison)
                    .push("(SELECT ")
                    .name(time)
                    .push(")");
            }
        }
        for filter in &self.filters {
            filter.push_aside(statement);
        }
        if let Some(before) = self.before {
            statement
                .push(" AND (t.first_position < ")
                .name(before)
                .push(") IS TRUE");
        }
        statement
            // An index that has this order must not be taken for it.
            .push(" ORDER BY t.first_position + 0 DESC LIMIT ")
            .name(self.limit);
    }

    /// All but the first filter, and what else there is.
    fn push_rest(&self, statement: &mut Statement<'_>) {
        // Without statistics SQLite takes any filter for as good as another, and would walk through
        // all that a provider has sent to find what one subscriber was sent.
        let is_led = matches!(self.filters.first(), Some(Filter::Rare(..)));
        for filter in self.filters.iter().skip(1) {
            if is_led {
                filter.push_aside(statement);
            } else {
                filter.push(filter.values(), statement);
            }
        }
        for (time, comparison) in [(self.from, " >= "), (self.to, " < ")] {
            if let Some(time) = time {
                statement
                    .push(if is_led { " AND (" } else { " AND " })
                    .push("t.occurred_at")
                    .push(comparison)
                    .name(time)
                    .push(if is_led { ") IS TRUE" } else { "" });
            }
        }
        statement
            .compare("t.first_position", " < ", self.before)
            .compare("t.first_position", " >= ", self.since);
    }
}

/// Texts as arguments.
pub(super) fn texts(values: &[String]) -> Vec<Cell<'_>> {
    values.iter().map(|value| value.as_str().into()).collect()
}

/// Takes a row apart, column by column.
#[derive(Debug)]
pub(super) struct Reader {
    table: &'static Table,
    cells: std::vec::IntoIter<Cell<'static>>,
}

impl Reader {
    pub(super) fn new(table: &'static Table, row: Vec<Cell<'static>>) -> Self {
        Self {
            table,
            cells: row.into_iter(),
        }
    }

    fn next(&mut self) -> Cell<'static> {
        self.cells.next().unwrap_or(Cell::Null)
    }

    fn damaged(&self) -> StorageError {
        StorageError::Damaged {
            table: self.table.name,
            detail: "a value is not of its column's kind".to_owned(),
        }
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, StorageError> {
        self.next().as_uuid().ok_or_else(|| self.damaged())
    }

    pub(super) fn int(&mut self) -> Result<i64, StorageError> {
        self.next().as_int().ok_or_else(|| self.damaged())
    }

    pub(super) fn int_if_any(&mut self) -> Option<i64> {
        self.next().as_int()
    }

    pub(super) fn text(&mut self) -> Result<String, StorageError> {
        self.text_if_any().ok_or_else(|| self.damaged())
    }

    pub(super) fn text_if_any(&mut self) -> Option<String> {
        match self.next() {
            Cell::Text(text) => Some(text.into_owned()),
            Cell::Null | Cell::Bool(_) | Cell::Int(_) | Cell::Uuid(_) => None,
        }
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StorageError> {
        self.int().map(Timestamp::from_micros_clamped)
    }

    pub(super) fn time_if_any(&mut self) -> Option<Timestamp> {
        self.int_if_any().map(Timestamp::from_micros_clamped)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use sqlx::{AssertSqlSafe, Row};

    use super::*;
    use crate::domain::ids::TenantId;
    use crate::ledger::database::Database;
    use crate::ledger::record::Partition;
    use crate::projections::notification_logs::NOTIFICATION_LOGS;

    const VALUES: usize = 100;

    fn filter(name: &'static str, count: usize) -> Filter<Cell<'static>> {
        let values = (0..count).map(|number| Cell::from(format!("{name}-{number}")));
        if ["transaction_id", "external_id", "subscriber_id"].contains(&name) {
            Filter::Rare(name, values.collect())
        } else {
            Filter::Common(name, values.collect())
        }
    }

    /// The statement for filters with so many values each, and the way it goes.
    fn statement(filters: &[(&'static str, usize)]) -> (Way, String, usize) {
        let tenant = TenantPlace {
            tenant_id: TenantId::new("acme").unwrap(),
            partition: Partition(3),
        };
        let newest = || Newest {
            table: &NOTIFICATION_LOGS,
            columns: &NOTIFICATION_LOGS.columns[2..],
            tenant: &tenant,
            filters: filters
                .iter()
                .map(|(name, count)| filter(name, *count))
                .collect(),
            from: Some(Timestamp::MIN),
            to: Some(Timestamp::MAX),
            before: Some(Position(9)),
            since: None,
            limit: 51,
        };
        let way = newest().way();
        let wanted = newest();
        let statement = wanted.statement();
        (
            way,
            statement.text().to_owned(),
            statement.arguments().len(),
        )
    }

    const ALL: [&str; 10] = [
        "transaction_id",
        "external_id",
        "subscriber_id",
        "error_code",
        "step_id",
        "workflow_id",
        "status",
        "target_audience",
        "provider_id",
        "channel",
    ];

    #[test]
    fn a_value_is_one_argument_however_often_it_is_named() {
        for count in 1..=ALL.len() {
            let filters: Vec<_> = ALL[..count].iter().map(|name| (*name, VALUES)).collect();

            let (_, text, arguments) = statement(&filters);

            // The tenant, two times, a position and the limit.
            assert_eq!(arguments, count * VALUES + 5);
            for number in 1..=arguments {
                assert!(text.contains(&format!("${number}")), "${number}");
            }
            // Five beside the values, in each of at most as many branches as values.
            let named = text.matches('$').count();
            assert!(named <= NAMED_MAX + 6 * VALUES, "{count}: {named}");
        }
    }

    #[test]
    fn rows_are_read_in_the_way_that_fits_the_filters() {
        for (filters, way, first) in [
            (&[][..], Way::InOrder, ""),
            (&[("status", 1)], Way::InOrder, "t.status IN ("),
            (
                &[("status", 3), ("channel", 100)],
                Way::Branches,
                "t.status IN (",
            ),
            (
                &[("subscriber_id", 100), ("workflow_id", 100)],
                Way::Branches,
                "t.subscriber_id IN (",
            ),
            // The one with fewer branches.
            (
                &[
                    ("transaction_id", 100),
                    ("subscriber_id", 5),
                    ("workflow_id", 100),
                    ("channel", 100),
                ],
                Way::Branches,
                "t.subscriber_id IN (",
            ),
            // Not the status, though it would have few: most rows have one of seven.
            (
                &[
                    ("transaction_id", 100),
                    ("workflow_id", 100),
                    ("status", 7),
                    ("channel", 100),
                ],
                Way::LookedUp,
                "t.transaction_id = lead.column1",
            ),
            (
                &[
                    ("workflow_id", 100),
                    ("status", 7),
                    ("provider_id", 100),
                    ("channel", 100),
                ],
                Way::Branches,
                "t.status IN (",
            ),
            (
                &[("workflow_id", 100), ("provider_id", 100), ("channel", 100)],
                Way::InOrder,
                "t.workflow_id IN (",
            ),
        ] {
            let (found, text, _) = statement(filters);

            assert_eq!(found, way, "{filters:?}");
            let (_, conditions) = text.split_once("t.tenant_id = $1").unwrap();
            let conditions = conditions.trim_start_matches(" AND ");
            assert!(conditions.starts_with(first), "{filters:?}");
        }
    }

    /// What SQLite says it would do, line by line.
    pub(in crate::projections) async fn plan(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        let patience = Duration::from_secs(20);
        let database = Database::sqlite(&file, true, 1, patience).await.unwrap();
        database.migrate().await.unwrap();
        let Database::Sqlite { pool, .. } = &database else {
            panic!("not the database that was opened");
        };
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}")));
        let plan = plan.fetch_all(pool).await.unwrap();
        plan.iter().map(|step| step.get("detail")).collect()
    }

    #[tokio::test]
    async fn rows_are_found_by_the_value_that_few_have() {
        for filters in [
            &[("subscriber_id", 1), ("provider_id", 1)][..],
            &[
                ("subscriber_id", 1),
                ("status", 1),
                ("step_id", 1),
                ("provider_id", 2),
            ],
            &[("subscriber_id", 3), ("target_audience", 1)],
            &[
                ("subscriber_id", 100),
                ("workflow_id", 100),
                ("provider_id", 100),
                ("channel", 100),
            ],
        ] {
            let (_, text, _) = statement(filters);
            let steps = plan(&text).await;
            let by = "SEARCH t USING INDEX notification_logs_by_subscriber";
            let searches = steps.iter().filter(|step| step.contains(" t "));
            let searches: Vec<_> = searches.collect();
            assert!(!searches.is_empty(), "{steps:?}");
            assert!(
                searches.iter().all(|step| step.starts_with(by)),
                "{filters:?}: {steps:?}"
            );
        }
    }

    #[tokio::test]
    async fn ranges_are_found_by_zone_and_time() {
        let tenant = TenantPlace {
            tenant_id: TenantId::new("acme").unwrap(),
            partition: Partition(3),
        };
        for filters in [
            &[][..],
            &[("status", 1)],
            &[("workflow_id", 2), ("channel", 1)],
        ] {
            let newest = Newest {
                table: &NOTIFICATION_LOGS,
                columns: &NOTIFICATION_LOGS.columns[2..],
                tenant: &tenant,
                filters: filters
                    .iter()
                    .map(|(name, count)| filter(name, *count))
                    .collect(),
                from: None,
                to: Some(Timestamp::MAX),
                before: Some(Position(9)),
                since: None,
                limit: 51,
            };
            let range = newest.zoned_range().unwrap();

            let steps = plan(newest.in_zones(range, &[3, 2]).text()).await;

            let by = "SEARCH t USING INDEX notification_logs_by_zone \
                (tenant_id=? AND <expr>=? AND occurred_at>? AND occurred_at<?)";
            assert_eq!(steps[0], by, "{filters:?}");
        }
    }
}
