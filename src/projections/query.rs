//! How lists are read: the newest rows that pass some filters, so many at a time.
//!
//! Lists are in the order of `first_position`, which never changes, so whoever pages through one
//! neither misses a row nor sees one twice while events arrive. There is an index per filter in
//! this very order. A filter with several values would have to be sorted; so each value's first
//! rows are read by themselves, in order, and the first of all these are the answer.
//!
//! A tenant lives in one partition, so its name says which, and the first position tells its rows
//! apart. Nothing is said twice: a planner takes conditions for independent, and what it believes to
//! be few rows it sorts.
//!
//! Statements are put together from constant text; what callers say goes in as arguments.

use std::fmt::Write as _;

use uuid::Uuid;

use super::store::Store;
use super::table::{Cell, Column, Table};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::storage::StorageError;

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
        self.arguments.push(argument.into());
        // Writing to a `String` does not fail.
        let _ = write!(self.text, "${}", self.arguments.len());
        self
    }

    /// ` AND column IN ($1, $2)`.
    pub(super) fn among(&mut self, column: &str, values: &[Cell<'a>]) -> &mut Self {
        self.push(" AND ").push(column).push(" IN (");
        for (index, value) in values.iter().enumerate() {
            self.push(if index == 0 { "" } else { ", " });
            self.bind(value.clone());
        }
        self.push(")")
    }

    /// ` AND column >= $1 AND column < $2`, as far as either is given.
    pub(super) fn within(
        &mut self,
        column: &str,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> &mut Self {
        for (time, comparison) in [(from, " >= "), (to, " < ")] {
            if let Some(time) = time {
                self.push(" AND ").push(column).push(comparison);
                self.bind(time.as_micros());
            }
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
pub(super) enum Filter<'a> {
    /// One of these values in this column.
    Column(&'static str, Vec<Cell<'a>>),
    /// One of these metadata entries.
    Entry(Vec<Cell<'a>>),
}

impl<'a> Filter<'a> {
    fn values(&self) -> &[Cell<'a>] {
        match self {
            Self::Column(_, values) | Self::Entry(values) => values,
        }
    }

    /// As a condition on the rows of `t`.
    fn push(&self, values: &[Cell<'a>], statement: &mut Statement<'a>) {
        match self {
            Self::Column(column, _) => {
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

/// The newest rows of a table that pass every filter.
#[derive(Debug)]
pub(super) struct Newest<'a> {
    pub(super) table: &'static Table,
    /// What is read of each row.
    pub(super) columns: &'static [Column],
    pub(super) tenant: &'a TenantPlace,
    /// In the order of how few rows they usually let pass. Those without values let all pass.
    pub(super) filters: Vec<Filter<'a>>,
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
        let mut statement = Statement::default();
        let lead = self.filters.first().map_or(&[][..], Filter::values);
        if lead.len() < 2 {
            self.branch(lead, &mut statement);
            return statement;
        }
        statement.push("SELECT * FROM (");
        for (index, value) in lead.iter().enumerate() {
            let before = if index == 0 { "" } else { " UNION ALL " };
            statement.push(before).push("SELECT * FROM (");
            self.branch(std::slice::from_ref(value), &mut statement);
            statement.push(") AS branch");
        }
        statement
            .push(") AS found ORDER BY first_position DESC LIMIT ")
            .bind(self.limit);
        statement
    }

    /// The newest rows that the first filter lets pass for these values, and the others for theirs.
    fn branch(&self, lead: &[Cell<'a>], statement: &mut Statement<'a>) {
        let by_entry = matches!(self.filters.first(), Some(Filter::Entry(_)));
        statement.push("SELECT ");
        for (index, column) in self.columns.iter().enumerate() {
            let before = if index == 0 { "t." } else { ", t." };
            statement.push(before).push(column.name);
        }
        statement.push(" FROM ");
        // SQLite joins from left to right, PostgreSQL as it thinks best.
        if by_entry {
            statement.push("notification_metadata AS m CROSS JOIN ");
        }
        statement.push(self.table.name).push(" AS t WHERE ");
        if by_entry {
            statement
                .push("m.tenant_id = ")
                .bind(self.tenant.tenant_id.as_str())
                .among("m.entry", lead);
            if let Some(before) = self.before {
                statement.push(" AND m.first_position < ").bind(before.0);
            }
            // With nothing else to go by, each entry leads to its one row, newest first. An expression
            // keeps PostgreSQL from walking both indexes side by side instead, past all rows that
            // are newer than the last one with this entry.
            let alone = self.filters.len() == 1 && self.from.is_none() && self.to.is_none();
            statement
                .push(" AND t.first_position = m.first_position")
                .push(if alone { " + 0 AND " } else { " AND " });
        }
        statement
            .push("t.tenant_id = ")
            .bind(self.tenant.tenant_id.as_str());
        for (index, filter) in self.filters.iter().enumerate() {
            match (index, by_entry) {
                (0, true) => {}
                (0, false) => filter.push(lead, statement),
                _ => filter.push(filter.values(), statement),
            }
        }
        statement.within("t.occurred_at", self.from, self.to);
        if let Some(before) = self.before {
            statement.push(" AND t.first_position < ").bind(before.0);
        }
        let order = if by_entry {
            " ORDER BY m.first_position DESC LIMIT "
        } else {
            " ORDER BY t.first_position DESC LIMIT "
        };
        statement.push(order).bind(self.limit);
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
