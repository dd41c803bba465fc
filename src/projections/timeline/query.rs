//! What happened, in the order in which it happened.

use super::TIMELINE;
use crate::domain::ids::{Sequence, StreamId};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::storage::StorageError;
use crate::projections::query::{Argument, Reader, Statement, texts};
use crate::projections::store::Store;
use crate::projections::stream::KIND;
use crate::projections::table::{Cell, Column, columns};

/// Which events are wanted. A filter without values lets all pass; of several values, one must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub subscriber_id: Vec<String>,
    pub stream_id: Vec<StreamId>,
    /// By `occurred_at`, inclusive.
    pub from: Option<Timestamp>,
    /// By `occurred_at`, exclusive.
    pub to: Option<Timestamp>,
    /// Recorded then or before.
    pub recorded_until: Option<Timestamp>,
    pub order: Order,
}

/// By `occurred_at`, then by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    OldestFirst,
    NewestFirst,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub occurred_at: Timestamp,
    pub position: Position,
}

/// One that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub place: Place,
    pub stream_id: StreamId,
    pub sequence: Sequence,
    pub subscriber_id: Option<String>,
    /// Else its stream is of another kind.
    pub is_about_a_notification: bool,
}

const COLUMNS: &[Column] = columns![
    occurred_at: Time,
    position: Int,
    stream_id: Uuid,
    sequence: Int,
    subscriber_id: Text,
    event_type: Text,
];

/// A tenant's events that fit, up to and including one in the order of the log: those after a
/// place in the order of the timeline, if one is given.
///
/// # Errors
///
/// [`StorageError`] when the database failed.
pub async fn list(
    store: &Store,
    tenant: &TenantPlace,
    wanted: &Wanted,
    until: Position,
    after: Option<Place>,
    limit: i64,
) -> Result<Vec<Found>, StorageError> {
    let statement = statement(tenant, wanted, until, after, limit);
    let rows = statement.run(store, COLUMNS).await?;
    rows.into_iter().map(found).collect()
}

/// As with other lists, each value of the filter that leads gives its first rows by itself: so
/// they come from its index in order.
fn statement<'a>(
    tenant: &'a TenantPlace,
    wanted: &'a Wanted,
    until: Position,
    after: Option<Place>,
    limit: i64,
) -> Statement<'a> {
    let mut statement = Statement::default();
    let tenant = statement.argument(tenant.tenant_id.as_str());
    let streams = statement.arguments_of(wanted.stream_id.iter().map(|id| id.0));
    let subscribers = statement.arguments_of(texts(&wanted.subscriber_id));
    let micros = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
    let [from, to, recorded_until] = [wanted.from, wanted.to, wanted.recorded_until]
        .map(|time| Some(statement.argument(micros(time)?)));
    let until = statement.argument(until.0);
    let after = after.map(|after| {
        let occurred_at = statement.argument(after.occurred_at.as_micros());
        (occurred_at, statement.argument(after.position.0))
    });
    let limit = statement.argument(limit);
    let (lead, values, rest) = if streams.is_empty() {
        ("subscriber_id", subscribers, Vec::new())
    } else {
        ("stream_id", streams, subscribers)
    };
    let branch = |statement: &mut Statement<'a>, value: Option<&Argument>| {
        statement
            .push(
                "SELECT occurred_at, position, stream_id, sequence, subscriber_id, event_type
                FROM timeline WHERE tenant_id = ",
            )
            .name(tenant);
        if let Some(value) = value {
            statement.among(lead, std::slice::from_ref(value));
        }
        if !rest.is_empty() {
            statement.among("subscriber_id", &rest);
        }
        statement
            .compare("occurred_at", " >= ", from)
            .compare("occurred_at", " < ", to)
            .compare("position", " <= ", Some(until))
            .compare("recorded_at", " <= ", recorded_until);
        if let Some((occurred_at, position)) = after {
            statement
                .push(" AND (occurred_at, position) ")
                .push(wanted.order.beyond())
                .push(" (")
                .name(occurred_at)
                .push(", ")
                .name(position)
                .push(")");
        }
        statement.push(wanted.order.by()).name(limit);
    };
    if values.len() < 2 {
        branch(&mut statement, values.first());
        return statement;
    }
    statement.push("SELECT * FROM (");
    for (index, value) in values.iter().enumerate() {
        statement.push(if index == 0 { "" } else { " UNION ALL " });
        statement.push("SELECT * FROM (");
        branch(&mut statement, Some(value));
        statement.push(") AS branch");
    }
    statement
        .push(") AS found")
        .push(wanted.order.by())
        .name(limit);
    statement
}

impl Order {
    /// Such places come after a place.
    fn beyond(self) -> &'static str {
        match self {
            Self::OldestFirst => ">",
            Self::NewestFirst => "<",
        }
    }

    fn by(self) -> &'static str {
        match self {
            Self::OldestFirst => " ORDER BY occurred_at, position LIMIT ",
            Self::NewestFirst => " ORDER BY occurred_at DESC, position DESC LIMIT ",
        }
    }
}

fn found(row: Vec<Cell<'static>>) -> Result<Found, StorageError> {
    let mut row = Reader::new(&TIMELINE, row);
    Ok(Found {
        place: Place {
            occurred_at: row.time()?,
            position: Position(row.int()?),
        },
        stream_id: StreamId(row.uuid()?),
        sequence: Sequence(row.int()?),
        subscriber_id: row.text_if_any(),
        is_about_a_notification: row.text()?.starts_with(KIND),
    })
}
