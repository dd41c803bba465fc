//! Rows in PostgreSQL. Read beside `sqlite.rs`: the same functions in the same order.

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgExecutor, Postgres, Row};

use super::{Place, is_empty_row, may_be_empty, on_conflict};
use crate::ledger::records::{Fields, Record, Records};
use crate::ledger::storage::StorageError;
use crate::projections::table::{Cell, Column, Kind, Rows, Table};

/// Bytes that are sent at a time while copying.
const COPY_BYTES: usize = 1024 * 1024;
/// What a binary copy begins with: signature, no flags, no extension.
/// <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format".
const COPY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Runs a query that was put together for both databases.
pub(super) async fn select(
    database: impl PgExecutor<'_>,
    sql: &str,
    arguments: &[Cell<'_>],
    columns: &[Column],
) -> Result<Vec<Vec<Cell<'static>>>, StorageError> {
    // Planned for these very arguments: a status most rows have asks for another plan than one
    // that few have.
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

fn cells(row: &PgRow, columns: &[Column]) -> Result<Vec<Cell<'static>>, StorageError> {
    let cell = |(index, column): (usize, &Column)| {
        Ok(match column.kind {
            Kind::Small => row
                .try_get::<Option<i16>, _>(index)?
                .map_or(Cell::Null, |value| Cell::Int(value.into())),
            Kind::Int | Kind::Time => row.try_get::<Option<i64>, _>(index)?.into(),
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

/// Deletes rows by their keys.
pub(super) async fn delete(
    connection: &mut PgConnection,
    place: Place,
    gone: &Rows<'_>,
) -> Result<(), StorageError> {
    delete_where(connection, place, gone, "").await
}

/// Writes rows in one statement, over those that are there.
pub(super) async fn write(
    connection: &mut PgConnection,
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
    connection: &mut PgConnection,
    place: Place,
    rows: &Rows<'_>,
) -> Result<(), StorageError> {
    insert(connection, place, rows, "").await
}

async fn insert(
    connection: &mut PgConnection,
    place: Place,
    rows: &Rows<'_>,
    on_conflict: &str,
) -> Result<(), StorageError> {
    if rows.is_empty() {
        return Ok(());
    }
    let table = rows.table;
    let sql = format!(
        "INSERT INTO {} ({}) SELECT * FROM UNNEST($1::{}[]) {on_conflict}",
        place.table(table),
        Table::names(table.columns),
        table.row_type,
    );
    let cells = rows.iter().map(|row| Cells(row, table.columns));
    sqlx::query(AssertSqlSafe(sql))
        .bind(Records::new(table.row_type, cells))
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds rows that are not there yet, as [`pack`] wrote them. Sent in pieces that are as large as can
/// be: where small packets wait for each other's acknowledgement, each piece may cost 40 ms.
pub(super) async fn copy(
    connection: &mut PgConnection,
    place: Place,
    table: &Table,
    packed: &mut Vec<u8>,
) -> Result<(), StorageError> {
    if packed.is_empty() {
        return Ok(());
    }
    let statement = format!(
        "COPY {} ({}) FROM STDIN (FORMAT binary)",
        place.table(table),
        Table::names(table.columns)
    );
    packed.extend_from_slice(&COPY_TRAILER);
    let mut copy = connection.copy_in_raw(&statement).await?;
    for bytes in packed.chunks(COPY_BYTES) {
        copy.send(bytes).await?;
    }
    copy.finish().await?;
    packed.clear();
    Ok(())
}

async fn delete_where(
    connection: &mut PgConnection,
    place: Place,
    rows: &Rows<'_>,
    and: &str,
) -> Result<(), StorageError> {
    if rows.is_empty() {
        return Ok(());
    }
    let name = place.table(rows.table);
    let key = rows.table.key_columns();
    let same: Vec<String> = key
        .iter()
        .map(|column| format!("{name}.{0} = gone.{0}", column.name))
        .collect();
    let sql = format!(
        "DELETE FROM {name} USING UNNEST({}) AS gone ({}) WHERE {}{and}",
        arrays(key),
        Table::names(key),
        same.join(" AND "),
    );
    bind(&sql, rows, key).execute(connection).await?;
    Ok(())
}

/// `$1::int2[], $2::text[]`: an array per column.
fn arrays(columns: &[Column]) -> String {
    let arrays: Vec<String> = columns
        .iter()
        .zip(1..)
        .map(|(column, number)| format!("${number}::{}[]", sql_type(column.kind)))
        .collect();
    arrays.join(", ")
}

fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Small => "int2",
        Kind::Int | Kind::Time => "int8",
        Kind::Bool => "bool",
        Kind::Text | Kind::Json => "text",
        Kind::Uuid => "uuid",
    }
}

/// The first columns of all rows, an array each.
fn bind<'q>(sql: &str, rows: &'q Rows<'_>, columns: &[Column]) -> Query<'q, Postgres, PgArguments> {
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for (index, column) in columns.iter().enumerate() {
        let cells = rows.iter().map(|row| &row[index]);
        query = match column.kind {
            Kind::Small => query.bind(cells.map(small).collect::<Vec<_>>()),
            Kind::Int | Kind::Time => query.bind(cells.map(Cell::as_int).collect::<Vec<_>>()),
            Kind::Bool => query.bind(cells.map(Cell::as_bool).collect::<Vec<_>>()),
            Kind::Text | Kind::Json => query.bind(cells.map(Cell::as_text).collect::<Vec<_>>()),
            Kind::Uuid => query.bind(cells.map(Cell::as_uuid).collect::<Vec<_>>()),
        };
    }
    query
}

fn small(cell: &Cell<'_>) -> Option<i16> {
    cell.as_int().and_then(|value| i16::try_from(value).ok())
}

/// One row, and its columns.
struct Cells<'a>(&'a [Cell<'a>], &'static [Column]);

impl Record for Cells<'_> {
    fn write(&self, fields: &mut Fields<'_>) {
        let Self(row, columns) = self;
        for (cell, column) in row.iter().zip(*columns) {
            match column.kind {
                Kind::Small => fields.small(small(cell)),
                Kind::Int | Kind::Time => fields.big(cell.as_int()),
                Kind::Bool => fields.bool(cell.as_bool()),
                Kind::Text | Kind::Json => fields.text(cell.as_text()),
                Kind::Uuid => fields.uuid(cell.as_uuid()),
            }
        }
    }
}

/// Adds rows to what [`copy`] sends.
pub(super) fn pack(rows: &Rows<'_>, bytes: &mut Vec<u8>) {
    if bytes.is_empty() && !rows.is_empty() {
        bytes.extend_from_slice(COPY_HEADER);
    }
    for row in rows.iter() {
        encode(row, rows.table.columns, bytes);
    }
}

/// One row as a binary copy has it: the number of fields, then each with its length.
fn encode(row: &[Cell<'_>], columns: &[Column], bytes: &mut Vec<u8>) {
    let count = i16::try_from(row.len()).unwrap_or(i16::MAX);
    bytes.extend_from_slice(&count.to_be_bytes());
    for (cell, column) in row.iter().zip(columns) {
        field(cell, column.kind, bytes);
    }
}

/// A value with its length.
fn field(cell: &Cell<'_>, kind: Kind, bytes: &mut Vec<u8>) {
    match (cell, kind) {
        (Cell::Null, _) => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
        (Cell::Int(_), Kind::Small) => {
            sized(&small(cell).unwrap_or_default().to_be_bytes(), bytes);
        }
        (Cell::Int(value), _) => sized(&value.to_be_bytes(), bytes),
        (Cell::Bool(value), _) => sized(&[u8::from(*value)], bytes),
        (Cell::Uuid(value), _) => sized(value.as_bytes(), bytes),
        (Cell::Text(value), _) => sized(value.as_bytes(), bytes),
    }
}

fn sized(value: &[u8], bytes: &mut Vec<u8>) {
    let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
}
