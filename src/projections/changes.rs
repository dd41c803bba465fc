//! From what streams contributed before and contribute now to what must change in the tables.

use hashbrown::{Equivalent, HashMap};

use super::table::{Cell, Rows, Table, Writing};

/// What must change in one table.
#[derive(Clone, Debug)]
pub struct Changes<'a> {
    /// Rows that were not there; none for a table that adds up.
    pub new: Rows<'a>,
    /// Rows that were there and are others now; for a table that adds up, what is to be added.
    pub rows: Rows<'a>,
    /// Rows that are no more; only their keys count.
    pub gone: Rows<'a>,
}

/// Adds up rows of a table that adds up. Outlives what the rows were made from.
#[derive(Debug)]
pub struct Sums {
    table: &'static Table,
    by_key: HashMap<Key, Vec<i64>>,
}

/// The first cells of a row.
type Key = Vec<Cell<'static>>;

/// A key that is looked for.
#[derive(Hash)]
struct Sought<'a>(&'a [Cell<'a>]);

impl Equivalent<Key> for Sought<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.0 == key.as_slice()
    }
}

impl<'a> Changes<'a> {
    pub fn new(table: &'static Table) -> Self {
        Self {
            new: Rows::new(table),
            rows: Rows::new(table),
            gone: Rows::new(table),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.rows.is_empty() && self.gone.is_empty()
    }

    /// One stream's rows, before and now. A row belongs to one stream alone.
    pub fn replace(&mut self, before: &Rows<'a>, now: Rows<'a>) {
        if before.is_empty() {
            self.new.append(now);
            return;
        }
        let key = now.table.key;
        let (old, new) = (before.sorted(), now.sorted());
        let mut old = old.into_iter().peekable();
        for row in new {
            while let Some(gone) = old.next_if(|old| old[..key] < row[..key]) {
                self.gone.extend_from_row(gone);
            }
            match old.next_if(|old| old[..key] == row[..key]) {
                None => self.new.extend_from_row(row),
                Some(old) if old != row => self.rows.extend_from_row(row),
                Some(_) => {}
            }
        }
        for gone in old {
            self.gone.extend_from_row(gone);
        }
    }
}

impl Sums {
    pub fn new(table: &'static Table) -> Self {
        debug_assert_eq!(table.writing, Writing::Add);
        Self {
            table,
            by_key: HashMap::new(),
        }
    }

    /// Adds rows `times` over; −1 takes them back.
    pub fn add(&mut self, rows: &Rows<'_>, times: i64) {
        let key = self.table.key;
        for row in rows.iter() {
            let values = row[key..]
                .iter()
                .map(|cell| cell.as_int().unwrap_or_default());
            if let Some(sum) = self.by_key.get_mut(&Sought(&row[..key])) {
                for (sum, value) in sum.iter_mut().zip(values) {
                    *sum += times * value;
                }
            } else {
                let new = values.map(|value| times * value).collect();
                let key = row[..key].iter().cloned().map(Cell::into_owned).collect();
                self.by_key.insert(key, new);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// What is left, in the order of the keys; what cancelled out is left away. Then it begins anew.
    pub fn take_rows(&mut self) -> Rows<'static> {
        let mut sums: Vec<_> = self
            .by_key
            .drain()
            .filter(|(_, sum)| sum.iter().any(|value| *value != 0))
            .collect();
        sums.sort_unstable();
        let mut rows = Rows::new(self.table);
        for (mut row, sum) in sums {
            row.extend(sum.into_iter().map(Cell::Int));
            rows.extend_from_row(&row);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::columns;
    use super::*;

    static KEYED: Table = Table {
        name: "keyed",
        row_type: "keyed_row",
        key: 1,
        writing: Writing::Replace,
        columns: columns![key: Int, value: Int],
    };
    static SUMMED: Table = Table {
        name: "summed",
        row_type: "summed_row",
        key: 1,
        writing: Writing::Add,
        columns: columns![key: Int, value: Int],
    };

    fn rows(table: &'static Table, given: &[(i64, i64)]) -> Rows<'static> {
        let mut rows = Rows::new(table);
        for (key, value) in given {
            rows.push([Cell::Int(*key), Cell::Int(*value)]);
        }
        rows
    }

    fn pairs(rows: &Rows<'_>) -> Vec<(i64, i64)> {
        let int = |cell: &Cell<'_>| cell.as_int().unwrap();
        rows.iter()
            .map(|row| (int(&row[0]), int(&row[1])))
            .collect()
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut changes = Changes::new(&KEYED);

        changes.replace(
            &rows(&KEYED, &[(1, 1), (2, 2), (3, 3), (5, 5)]),
            rows(&KEYED, &[(4, 4), (2, 9), (3, 3)]),
        );

        assert_eq!(pairs(&changes.new), [(4, 4)]);
        assert_eq!(pairs(&changes.rows), [(2, 9)]);
        assert_eq!(pairs(&changes.gone), [(1, 1), (5, 5)]);
    }

    #[test]
    fn what_cancels_out_is_no_change() {
        let mut sums = Sums::new(&SUMMED);

        sums.add(&rows(&SUMMED, &[(2, 3), (1, 1)]), 1);
        sums.add(&rows(&SUMMED, &[(1, 1), (3, 1)]), -1);

        assert_eq!(pairs(&sums.take_rows()), [(2, 3), (3, -1)]);
    }
}
