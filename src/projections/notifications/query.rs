//! Which notifications there are: found by what they are, newest first.

use std::collections::BTreeMap;

use super::{NOTIFICATIONS, metadata_entry};
use crate::domain::event::Category;
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::state::Status;
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::storage::StorageError;
use crate::projections::query::{Filter, Newest, Reader, texts};
use crate::projections::store::Store;
use crate::projections::table::{Cell, Column, columns};

/// Which are wanted. A filter without values lets all pass; of several values, one must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub status: Vec<Status>,
    pub workflow_id: Vec<String>,
    pub subscriber_id: Vec<String>,
    pub category: Vec<Category>,
    pub external_id: Vec<String>,
    /// Values by key; every key must fit.
    pub metadata: BTreeMap<String, Vec<String>>,
    /// By `occurred_at`, inclusive.
    pub from: Option<Timestamp>,
    /// By `occurred_at`, exclusive.
    pub to: Option<Timestamp>,
}

/// One that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub notification_id: StreamId,
    /// Its place in the list.
    pub first_position: Position,
    /// As of which event it fits the filters.
    pub version: Sequence,
}

const COLUMNS: &[Column] = columns![notification_id: Uuid, first_position: Int, version: Int];

/// A tenant's notifications that fit, newest first: those begun before an event, if one is given.
///
/// # Errors
///
/// [`StorageError`] when the database failed.
pub async fn list(
    store: &Store,
    tenant: &TenantPlace,
    wanted: &Wanted,
    before: Option<Position>,
    limit: i64,
) -> Result<Vec<Found>, StorageError> {
    let mut filters = vec![
        Filter::Rare("external_id", texts(&wanted.external_id)),
        Filter::Rare("subscriber_id", texts(&wanted.subscriber_id)),
    ];
    filters.extend(wanted.metadata.iter().map(|(key, values)| {
        let entry = |value: &String| Cell::from(metadata_entry(key, value));
        Filter::Entry(values.iter().map(entry).collect())
    }));
    let status = wanted.status.iter().map(|status| status.as_str().into());
    let category = wanted.category.iter().map(|word| word.as_str().into());
    filters.extend([
        Filter::Common("workflow_id", texts(&wanted.workflow_id)),
        Filter::Common("status", status.collect()),
        Filter::Common("category", category.collect()),
    ]);
    let newest = Newest {
        table: &NOTIFICATIONS,
        columns: COLUMNS,
        tenant,
        filters,
        from: wanted.from,
        to: wanted.to,
        before,
        since: None,
        limit,
    };
    let rows = newest.read(store).await?;
    rows.into_iter().map(found).collect()
}

fn found(row: Vec<Cell<'static>>) -> Result<Found, StorageError> {
    let mut row = Reader::new(&NOTIFICATIONS, row);
    Ok(Found {
        notification_id: StreamId(row.uuid()?),
        first_position: Position(row.int()?),
        version: Sequence(row.int()?),
    })
}
