//! Read tables as they are, and as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use notification_ledger::domain::ids::StreamId;
use notification_ledger::domain::precedence::PrecedenceRule;
use notification_ledger::ledger::record::{Partition, PlainEvent, StreamEvent};
use notification_ledger::ledger::storage::Storage;
use notification_ledger::projections::Projection;
use notification_ledger::projections::changes::Sums;
use notification_ledger::projections::metrics::{LATENCIES, METRICS};
use notification_ledger::projections::store::Store;
use notification_ledger::projections::stream::Stream;
use notification_ledger::projections::table::{Cell, Rows, Table, Writing};
use notification_ledger::projections::timeline::TIMELINE;

use crate::client::whole_log;

/// Rows that a failing test shows of each kind.
const SHOWN: usize = 4;

pub(crate) type Row = Vec<Cell<'static>>;

/// The rows of some projections' tables, by table, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables(BTreeMap<&'static str, Vec<Row>>);

impl Tables {
    /// As they are.
    pub(crate) async fn live(store: &Store, projections: &[Projection]) -> Self {
        let mut tables = BTreeMap::new();
        for table in projections.iter().flat_map(|one| one.tables()) {
            let sql = format!("SELECT {} FROM {}", Table::names(table.columns), table.name);
            let mut rows = store.select(&sql, &[], table.columns).await.unwrap();
            rows.sort_unstable();
            tables.insert(table.name, rows);
        }
        Self(tables)
    }

    /// As they should be: what follows from each whole stream, added up.
    pub(crate) async fn expected(storage: &dyn Storage, projections: &[Projection]) -> Self {
        let streams = whole_streams(storage).await;
        let mut tables = BTreeMap::new();
        for projection in projections {
            let mut sums: Vec<Rows<'static>> = Vec::new();
            for table in projection.tables() {
                sums.push(Rows::new(table));
            }
            for ((partition, tenant_id, stream_id), events) in &streams {
                let rule = PrecedenceRule::default();
                let stream = Stream::new(*partition, tenant_id, *stream_id, events, rule);
                for (sum, rows) in sums.iter_mut().zip(projection.rows(&stream).unwrap()) {
                    sum.append(rows.into_owned());
                }
            }
            for (table, rows) in projection.tables().iter().zip(sums) {
                tables.insert(table.name, complete(*projection, rows));
            }
        }
        Self(tables)
    }

    /// Made from rows by table.
    pub(crate) fn of(tables: impl Iterator<Item = (&'static str, Vec<Row>)>) -> Self {
        let sorted = |mut rows: Vec<Row>| {
            rows.sort_unstable();
            rows
        };
        Self(tables.map(|(name, rows)| (name, sorted(rows))).collect())
    }

    pub(crate) fn rows(&self, table: &Table) -> &[Row] {
        &self.0[table.name]
    }

    /// Rows that only one of the two has; empty if they are the same.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        let names: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let of = |tables: &'_ Self, name| tables.0.get(name).cloned().unwrap_or_default();
        for name in names {
            let (rows, others) = (of(self, name), of(other, name));
            let (here, there): (BTreeSet<_>, BTreeSet<_>) =
                (rows.iter().collect(), others.iter().collect());
            for (side, only) in [
                ("live", here.difference(&there).collect::<Vec<_>>()),
                ("expected", there.difference(&here).collect::<Vec<_>>()),
            ] {
                for row in only.iter().take(SHOWN) {
                    writeln!(text, "{name}: only {side}: {row:?}").unwrap();
                }
            }
            if rows.len() != others.len() {
                let (live, expected) = (rows.len(), others.len());
                writeln!(text, "{name}: {live} rows live, {expected} expected").unwrap();
            }
        }
        text
    }
}

type Place = (Partition, String, StreamId);

/// Every stream of the record, each whole.
async fn whole_streams(storage: &dyn Storage) -> BTreeMap<Place, Vec<PlainEvent>> {
    let mut streams: BTreeMap<Place, Vec<PlainEvent>> = BTreeMap::new();
    for head in storage.heads().await.unwrap() {
        let log = whole_log(storage, head.partition).await;
        assert_eq!(
            i64::try_from(log.len()).unwrap(),
            head.position.0,
            "the log ends at its head"
        );
        for event in log {
            let event: StreamEvent = event.into();
            streams
                .entry((head.partition, event.tenant_id, event.stream_id))
                .or_default()
                .push(event.event);
        }
    }
    streams
}

fn complete(projection: Projection, rows: Rows<'static>) -> Vec<Row> {
    let rows = if rows.table.writing == Writing::Add {
        let mut sums = Sums::new(rows.table);
        sums.add(&rows, 1);
        let mut rows = sums.take_rows();
        projection.settle(&mut rows);
        rows
    } else {
        rows
    };
    let mut rows: Vec<Row> = rows.iter().map(<[Cell<'_>]>::to_vec).collect();
    rows.sort_unstable();
    rows
}

/// The tables of all projections are what follows from the record, row for row.
pub(crate) async fn assert_expected(store: &Store, storage: &dyn Storage) -> Tables {
    assert_some_expected(store, storage, &Projection::ALL).await
}

/// The tables of some projections are what follows from the record, row for row.
pub(crate) async fn assert_some_expected(
    store: &Store,
    storage: &dyn Storage,
    projections: &[Projection],
) -> Tables {
    let live = Tables::live(store, projections).await;
    let expected = Tables::expected(storage, projections).await;
    assert_eq!(live.difference(&expected), "");
    if projections.contains(&Projection::Metrics) {
        assert_counts(&live);
    }
    if projections.contains(&Projection::Timeline) {
        let heads = storage.heads().await.unwrap();
        let events: i64 = heads.iter().map(|head| head.position.0).sum();
        assert_eq!(i64::try_from(live.rows(&TIMELINE).len()).unwrap(), events);
    }
    live
}

/// Nothing is counted less than never, and no row counts nothing.
fn assert_counts(tables: &Tables) {
    for table in [&METRICS, &LATENCIES] {
        for row in tables.rows(table) {
            let counts = || row[table.key..].iter().map(|cell| cell.as_int().unwrap());
            assert!(counts().all(|count| count >= 0), "{row:?}");
            assert!(counts().any(|count| count > 0), "{row:?}");
        }
    }
}
