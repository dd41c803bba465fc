//! What a read table looks like, and its rows on their way there.
//!
//! A row is a run of [`Cell`]s in the order of its table's columns, so that the same row can be
//! written to PostgreSQL and SQLite, copied in bulk, compared, and printed as CSV or JSON.

use std::borrow::Cow;
use std::cmp::Ordering;

use uuid::Uuid;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 16 bits: the partition.
    Small,
    /// 64 bits.
    Int,
    /// Microseconds since 1970; shown as RFC 3339.
    Time,
    Bool,
    Text,
    /// JSON as text; shown as JSON.
    Json,
    Uuid,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

/// What writing a row does that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// It takes the place of the old one.
    Replace,
    /// Everything beside its key is added; a row of nothing but zeros is no row.
    Add,
}

/// One read table. In its migrations columns have the same names, and in its row type the same order, too.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    /// What PostgreSQL calls one row as a value.
    pub row_type: &'static str,
    pub columns: &'static [Column],
    /// How many of the first columns are the primary key. The first is the partition.
    pub key: usize,
    pub writing: Writing,
}

/// One value. Text is borrowed from the events it comes from, where it can be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uuid(Uuid),
    Text(Cow<'a, str>),
}

/// Rows of one table, one after the other.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    pub table: &'static Table,
    cells: Vec<Cell<'a>>,
}

impl Table {
    /// The names of some columns, with commas.
    pub fn names(columns: &[Column]) -> String {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        names.join(", ")
    }

    pub fn key_columns(&self) -> &'static [Column] {
        &self.columns[..self.key]
    }

    pub fn value_columns(&self) -> &'static [Column] {
        &self.columns[self.key..]
    }
}

impl<'a> Rows<'a> {
    pub fn new(table: &'static Table) -> Self {
        Self {
            table,
            cells: Vec::new(),
        }
    }

    /// Adds a row. Its cells must be in the order of the table's columns.
    pub fn push<const N: usize>(&mut self, row: [Cell<'a>; N]) {
        debug_assert_eq!(N, self.table.columns.len(), "{}", self.table.name);
        self.cells.extend(row);
    }

    pub fn extend_from_row(&mut self, row: &[Cell<'a>]) {
        debug_assert_eq!(row.len(), self.table.columns.len());
        self.cells.extend_from_slice(row);
    }

    pub fn append(&mut self, mut rows: Rows<'a>) {
        self.cells.append(&mut rows.cells);
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[Cell<'a>]> + Clone {
        self.cells.chunks_exact(self.table.columns.len())
    }

    pub fn len(&self) -> usize {
        self.cells.len() / self.table.columns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    pub fn clear(&mut self) {
        self.cells.clear();
    }

    /// The same rows, at most so many at a time.
    pub fn pieces(&self, rows: usize) -> impl Iterator<Item = Rows<'_>> {
        let cells = rows.max(1).saturating_mul(self.table.columns.len());
        self.cells.chunks(cells).map(|cells| Rows {
            table: self.table,
            cells: cells.iter().map(Cell::borrowed).collect(),
        })
    }

    /// Rows that outlive what they were made from.
    pub fn into_owned(self) -> Rows<'static> {
        Rows {
            table: self.table,
            cells: self.cells.into_iter().map(Cell::into_owned).collect(),
        }
    }

    /// Rows sorted by their keys.
    pub fn sorted(&self) -> Vec<&[Cell<'a>]> {
        let mut rows: Vec<_> = self.iter().collect();
        rows.sort_unstable_by(|left, right| self.by_key(left, right));
        rows
    }

    fn by_key(&self, left: &[Cell<'_>], right: &[Cell<'_>]) -> Ordering {
        let key = self.table.key;
        left[..key].cmp(&right[..key])
    }
}

impl Cell<'_> {
    pub fn into_owned(self) -> Cell<'static> {
        match self {
            Self::Null => Cell::Null,
            Self::Bool(value) => Cell::Bool(value),
            Self::Int(value) => Cell::Int(value),
            Self::Uuid(value) => Cell::Uuid(value),
            Self::Text(value) => Cell::Text(Cow::Owned(value.into_owned())),
        }
    }

    /// The same value, which is not copied.
    pub fn borrowed(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Bool(value) => Cell::Bool(*value),
            Self::Int(value) => Cell::Int(*value),
            Self::Uuid(value) => Cell::Uuid(*value),
            Self::Text(value) => Cell::Text(Cow::Borrowed(value)),
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Null | Self::Bool(_) | Self::Uuid(_) | Self::Text(_) => None,
        }
    }

    pub fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Self::Uuid(value) => Some(*value),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Text(_) => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Null | Self::Int(_) | Self::Uuid(_) | Self::Text(_) => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Uuid(_) => None,
        }
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<Option<&'a str>> for Cell<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for Cell<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<Option<i64>> for Cell<'_> {
    fn from(value: Option<i64>) -> Self {
        value.map_or(Self::Null, Self::Int)
    }
}

impl From<bool> for Cell<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Uuid> for Cell<'_> {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

/// Columns as they are declared: `name: Kind`.
macro_rules! columns {
    ($($name:ident: $kind:ident),+ $(,)?) => {
        &[$($crate::projections::table::Column {
            name: stringify!($name),
            kind: $crate::projections::table::Kind::$kind,
        }),+]
    };
}
pub(super) use columns;

#[cfg(test)]
mod tests {
    use super::*;

    static PAIRS: Table = Table {
        name: "pairs",
        row_type: "pairs_row",
        key: 1,
        writing: Writing::Replace,
        columns: columns![key: Int, text: Text],
    };

    #[test]
    fn pieces_hold_every_row_once_and_in_order() {
        let mut rows = Rows::new(&PAIRS);
        for key in 0..5_i64 {
            rows.push([key.into(), format!("text {key}").into()]);
        }

        for size in [0, 1, 2, 5, 6, usize::MAX] {
            let pieces: Vec<_> = rows.pieces(size).collect();

            assert!(pieces.iter().all(|piece| piece.len() <= size.max(1)));
            let cells = pieces.into_iter().flat_map(|piece| piece.cells);
            assert_eq!(cells.collect::<Vec<_>>(), rows.cells, "{size}");
        }
        assert_eq!(Rows::new(&PAIRS).pieces(3).count(), 0);
    }
}
