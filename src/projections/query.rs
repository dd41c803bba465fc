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
    fn one_of(&mut self, column: &str, values: &[Argument]) -> &mut Self {
        self.push(column).push(" IN (");
        for (index, value) in values.iter().enumerate() {
            self.push(if index == 0 { "" } else { ", " }).name(*value);
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
    pub(super) limit: i64,
}

impl Newest<'_> {
    pub(super) async fn read(self, store: &Store) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
        let columns = self.columns;
        self.statement().run(store, columns).await
    }
}

impl<'a> Newest<'a> {
    fn statement(mut self) -> Statement<'a> {
        self.filters.retain(|filter| !filter.values().is_empty());
        let way = self.way();
        let mut statement = Statement::default();
        let rows = Rows {
            table: self.table,
            columns: self.columns,
            tenant: statement.argument(self.tenant.tenant_id.as_str()),
            filters: self
                .filters
                .iter()
                .map(|filter| filter.of(&mut statement))
                .collect(),
            from: self.from.map(|from| statement.argument(from.as_micros())),
            to: self.to.map(|to| statement.argument(to.as_micros())),
            before: self.before.map(|before| statement.argument(before.0)),
            limit: statement.argument(self.limit),
        };
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
                .compare("m.first_position", " < ", self.before);
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
        statement.push("(VALUES ");
        for (index, value) in lead.iter().enumerate() {
            statement.push(if index == 0 { "(" } else { ", (" });
            statement.name(*value).push(")");
        }
        statement
            .push(") AS lead CROSS JOIN ")
            .push(self.table.name)
            .push(" AS t WHERE t.tenant_id = ")
            .name(self.tenant)
            // Both databases call it that.
            .push(" AND t.")
            .push(column)
            .push(" = lead.column1");
        self.push_rest(statement);
        statement
            .push(" ORDER BY t.first_position DESC LIMIT ")
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
        statement.compare("t.first_position", " < ", self.before);
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
mod tests {
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

    #[tokio::test]
    async fn rows_are_found_by_the_value_that_few_have() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        let patience = Duration::from_secs(20);
        let database = Database::sqlite(&file, true, 1, patience).await.unwrap();
        database.migrate().await.unwrap();
        let Database::Sqlite { pool, .. } = &database else {
            panic!("not the database that was opened");
        };
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
            let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}")));
            let plan = plan.fetch_all(pool).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
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
}
