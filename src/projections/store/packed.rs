//! New rows on their way into a table in bulk, packed as the database takes them fastest.

use super::{Place, Store, Transaction, postgres, sqlite};
use crate::ledger::storage::StorageError;
use crate::projections::table::{Rows, Table};

/// Rows of one table that are not there yet.
#[derive(Debug)]
pub struct Packed {
    table: &'static Table,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// What a binary copy sends.
    Copy(Vec<u8>),
    Rows(Rows<'static>),
}

impl Store {
    /// Nothing packed yet for a table.
    pub fn pack(&self, table: &'static Table) -> Packed {
        let form = if self.has_one_writer() {
            Form::Rows(Rows::new(table))
        } else {
            Form::Copy(Vec::new())
        };
        Packed { table, form }
    }
}

impl Packed {
    pub fn add(&mut self, rows: &Rows<'_>) {
        match &mut self.form {
            Form::Copy(bytes) => postgres::pack(rows, bytes),
            Form::Rows(kept) => kept.append(rows.clone().into_owned()),
        }
    }
}

impl Transaction {
    /// Writes what is packed; then there is room for more.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database refuses or fails.
    pub async fn unpack(&mut self, place: Place, packed: &mut Packed) -> Result<(), StorageError> {
        match (self, &mut packed.form) {
            (Self::Postgres(transaction), Form::Copy(bytes)) => {
                postgres::copy(transaction, place, packed.table, bytes).await?;
            }
            (Self::Sqlite(transaction), Form::Rows(rows)) => {
                sqlite::insert_new(transaction, place, rows).await?;
                rows.clear();
            }
            (Self::Postgres(_), Form::Rows(_)) | (Self::Sqlite(_), Form::Copy(_)) => {
                unreachable!("packed for the database that takes it")
            }
        }
        Ok(())
    }
}
