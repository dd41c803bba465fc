//! What `replay` prints, taken apart again and compared with the live rows.

use std::collections::BTreeMap;

use notification_ledger::domain::time::Timestamp;
use notification_ledger::projections::Projection;
use notification_ledger::projections::table::{Cell, Column, Kind};
use serde_json::{Map, Value};

use crate::place::Place;
use crate::tables::{Row, Tables};

/// Replays a projection over a tenant's events in a process of its own: it prints the tenant's
/// live rows, and no others. Says how many.
pub(crate) fn assert_replayed(
    place: &Place,
    tables: &Tables,
    projection: Projection,
    tenant: &str,
    format: &str,
) -> usize {
    let table = projection.tables()[0];
    let is_theirs = |row: &&Row| row[1..3].iter().any(|cell| cell.as_text() == Some(tenant));
    let live: Vec<&Row> = tables.rows(table).iter().filter(is_theirs).collect();
    let name = projection.name();
    let printed = place.run(&["replay", name, "--tenant", tenant, "--format", format]);
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let (mut found, mut expected) = if format == "csv" {
        let mut records = records(&printed);
        let names: Vec<_> = table.columns.iter().map(|column| column.name).collect();
        assert_eq!(records.remove(0), names);
        let expected = live.iter().map(|row| as_csv(row, table.columns));
        (records, expected.collect::<Vec<_>>())
    } else {
        let found = printed.lines().map(|line| vec![sorted(line)]);
        let expected = live.iter().map(|row| vec![as_json(row, table.columns)]);
        (found.collect(), expected.collect())
    };
    found.sort_unstable();
    expected.sort_unstable();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{name} of {tenant} as {format}");
    }
    assert_eq!(
        found.len(),
        expected.len(),
        "{name} of {tenant} as {format}"
    );
    found.len()
}

/// The records of a CSV file (RFC 4180).
fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let (mut record, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.next_if_eq(&'"').is_some() => field.push('"'),
            ('"', _) => quoted = !quoted,
            (',', false) => record.push(std::mem::take(&mut field)),
            ('\n', false) => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            (character, _) => field.push(character),
        }
    }
    assert!(
        record.is_empty() && field.is_empty(),
        "the last line has no end"
    );
    records
}

fn as_csv(row: &Row, columns: &[Column]) -> Vec<String> {
    let shown = row.iter().zip(columns).map(|(cell, column)| {
        let text = text(cell, column.kind);
        // What a spreadsheet would calculate with is marked as text.
        let is_number = text.parse::<i64>().is_ok();
        if text.starts_with(['=', '+', '-', '@']) && !is_number {
            format!("'{text}")
        } else {
            text
        }
    });
    shown.collect()
}

fn text(cell: &Cell<'_>, kind: Kind) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Bool(value) => value.to_string(),
        Cell::Int(micros) if kind == Kind::Time => {
            Timestamp::from_micros(*micros).unwrap().to_string()
        }
        Cell::Int(value) => value.to_string(),
        Cell::Uuid(value) => value.to_string(),
        Cell::Text(value) => value.to_string(),
    }
}

fn as_json(row: &Row, columns: &[Column]) -> String {
    let object: BTreeMap<&str, Value> = row
        .iter()
        .zip(columns)
        .map(|(cell, column)| {
            let value = match (cell, column.kind) {
                (Cell::Null, _) => Value::Null,
                (Cell::Bool(value), _) => (*value).into(),
                (Cell::Int(value), Kind::Int | Kind::Small) => (*value).into(),
                (Cell::Text(json), Kind::Json) => serde_json::from_str(json).unwrap(),
                (cell, kind) => text(cell, kind).into(),
            };
            (column.name, value)
        })
        .collect();
    serde_json::to_string(&object).unwrap()
}

/// A line's object, its names in order.
fn sorted(line: &str) -> String {
    let object: Map<String, Value> = serde_json::from_str(line).unwrap();
    let object: BTreeMap<String, Value> = object.into_iter().collect();
    serde_json::to_string(&object).unwrap()
}
