//! Rows in SQLite. Read beside `postgres.rs`: the same functions in the same order.

use std::hash::{DefaultHasher, Hash, Hasher};

use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite, SqliteExecutor};

use super::{Place, is_empty_row, may_be_empty, on_conflict};
use crate::ledger::storage::StorageError;
use crate::projections::table::{Cell, Column, Kind, Rows, Table};

/// Values per statement. SQLite takes 32,766.
const VALUES_MAX: usize = 16_000;

/// Runs a query that was put together for both databases.
pub(super) async fn select(
    database: impl SqliteExecutor<'_>,
    sql: &str,
    arguments: &[Cell<'_>],
    columns: &[Column],
) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false);
    for argument in arguments {
        query = match argument {
            Cell::Null => query.bind(None::<String>),
            Cell::Bool(value) => query.bind(*value),
            Cell::Int(value) => query.bind(*value),
            Cell::Uuid(value) => query.bind(*value),
            Cell::Text(value) => query.bind(value.to_string()),
        };
    }
    let rows = query.fetch_all(database).await?;
    rows.iter().map(|row| cells(row, columns)).collect()
}

fn cells(row: &SqliteRow, columns: &[Column]) -> Result<Vec<Cell<'static>>, StorageError> {
    let cell = |(index, column): (usize, &Column)| {
        Ok(match column.kind {
            Kind::Small | Kind::Int | Kind::Time => row.try_get::<Option<i64>, _>(index)?.into(),
            Kind::Bool => row
                .try_get::<Option<bool>, _>(index)?
                .map_or(Cell::Null, Cell::Bool),
            Kind::Text | Kind::Json => row
                .try_get::<Option<String>, _>(index)?
                .map_or(Cell::Null, Cell::from),
            Kind::Uuid => row
                .try_get::<Option<uuid::Uuid>, _>(index)?
                .map_or(Cell::Null, Cell::Uuid),
        })
    };
    columns.iter().enumerate().map(cell).collect()
}

/// Number and checksum of the rows a query gives.
pub(super) async fn checksum(
    connection: &mut SqliteConnection,
    sql: &str,
    columns: &[Column],
) -> Result<(i64, i64), StorageError> {
    let (mut count, mut sum) = (0, 0);
    let mut rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let mut hasher = DefaultHasher::new();
        cells(&row, columns)?.hash(&mut hasher);
        count += 1;
        sum ^= hasher.finish().cast_signed();
    }
    Ok((count, sum))
}

/// Deletes rows by their keys.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    place: Place,
    gone: &Rows<'_>,
) -> Result<(), StorageError> {
    delete_where(connection, place, gone, "").await
}

/// Writes rows, over those that are there.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    place: Place,
    rows: &Rows<'_>,
) -> Result<(), StorageError> {
    insert(connection, place, rows, &on_conflict(place, rows.table)).await?;
    if may_be_empty(rows) {
        let empty = format!(" AND {}", is_empty_row(place, rows.table));
        delete_where(connection, place, rows, &empty).await?;
    }
    Ok(())
}

/// Adds rows that are not there yet.
pub(super) async fn insert_new(
    connection: &mut SqliteConnection,
    place: Place,
    rows: &Rows<'_>,
) -> Result<(), StorageError> {
    insert(connection, place, rows, "").await
}

async fn insert(
    connection: &mut SqliteConnection,
    place: Place,
    rows: &Rows<'_>,
    on_conflict: &str,
) -> Result<(), StorageError> {
    let table = rows.table;
    let all: Vec<_> = rows.iter().collect();
    for rows in all.chunks(VALUES_MAX / table.columns.len()) {
        let mut query = QueryBuilder::<Sqlite>::new(format!(
            "INSERT INTO {} ({}) ",
            place.table(table),
            Table::names(table.columns)
        ));
        query.push_values(rows, |mut values, row| {
            for cell in *row {
                match cell {
                    Cell::Null => values.push("NULL"),
                    Cell::Bool(value) => values.push_bind(*value),
                    Cell::Int(value) => values.push_bind(*value),
                    Cell::Uuid(value) => values.push_bind(*value),
                    Cell::Text(value) => values.push_bind(value.as_ref()),
                };
            }
        });
        query.push(" ").push(on_conflict);
        query
            .build()
            .persistent(false)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn delete_where(
    connection: &mut SqliteConnection,
    place: Place,
    rows: &Rows<'_>,
    and: &str,
) -> Result<(), StorageError> {
    let key = rows.table.key_columns();
    let name = place.table(rows.table);
    let same: Vec<String> = key
        .iter()
        .zip(1..)
        .map(|(column, number)| format!("{} = ${number}", column.name))
        .collect();
    let sql = format!("DELETE FROM {name} WHERE {}{and}", same.join(" AND "));
    for row in rows.iter() {
        let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
        for cell in &row[..key.len()] {
            query = match cell {
                Cell::Null => query.bind(None::<String>),
                Cell::Bool(value) => query.bind(*value),
                Cell::Int(value) => query.bind(*value),
                Cell::Uuid(value) => query.bind(*value),
                Cell::Text(value) => query.bind(value.as_ref()),
            };
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
