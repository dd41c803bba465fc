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
    let statement = statement(store.has_one_writer(), tenant, wanted, until, after, limit);
    let rows = statement.run(store, COLUMNS).await?;
    rows.into_iter().map(found).collect()
}

fn statement<'a>(
    is_sqlite: bool,
    tenant: &'a TenantPlace,
    wanted: &'a Wanted,
    until: Position,
    after: Option<Place>,
    limit: i64,
) -> Statement<'a> {
    let mut statement = Statement::default();
    let micros = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
    let [from, to, recorded_until] = [wanted.from, wanted.to, wanted.recorded_until]
        .map(|time| Some(statement.argument(micros(time)?)));
    let rest = Rest {
        tenant: statement.argument(tenant.tenant_id.as_str()),
        from,
        to,
        recorded_until,
        until: statement.argument(until.0),
        after: after.map(|after| {
            let occurred_at = statement.argument(after.occurred_at.as_micros());
            (occurred_at, statement.argument(after.position.0))
        }),
        order: wanted.order,
        limit: statement.argument(limit),
    };
    let subscribers = statement.arguments_of(texts(&wanted.subscriber_id));
    if wanted.stream_id.is_empty() {
        rest.of_subscribers(&subscribers, &mut statement);
    } else {
        let partition = statement.argument(i64::from(tenant.partition.0));
        let streams = statement.arguments_of(wanted.stream_id.iter().map(|id| id.0));
        rest.of_streams(is_sqlite, partition, &streams, &subscribers, &mut statement);
    }
    statement
}

/// What a statement says beside the filter that leads to its rows, in its own arguments.
struct Rest {
    tenant: Argument,
    from: Option<Argument>,
    to: Option<Argument>,
    recorded_until: Option<Argument>,
    until: Argument,
    after: Option<(Argument, Argument)>,
    order: Order,
    limit: Argument,
}

impl Rest {
    /// Everything, or what is about some subscribers. As with other lists, each of these gives its first
    /// rows by itself: so they come from its index in order.
    fn of_subscribers(&self, subscribers: &[Argument], statement: &mut Statement<'_>) {
        let branch = |statement: &mut Statement<'_>, subscribers: &[Argument]| {
            statement
                .push(
                    "SELECT t.occurred_at, t.position, t.stream_id, t.sequence, t.subscriber_id, t.event_type
                    FROM timeline AS t WHERE t.tenant_id = ",
                )
                .name(self.tenant);
            if !subscribers.is_empty() {
                statement.among("t.subscriber_id", subscribers);
            }
            self.push("t", statement);
            self.push_end(statement);
        };
        if subscribers.len() < 2 {
            return branch(statement, subscribers);
        }
        statement.push("SELECT * FROM (");
        for (index, subscriber) in subscribers.iter().enumerate() {
            statement.push(if index == 0 { "" } else { " UNION ALL " });
            statement.push("SELECT * FROM (");
            branch(statement, std::slice::from_ref(subscriber));
            statement.push(") AS branch");
        }
        statement.push(") AS found");
        self.push_end(statement);
    }

    /// What is about some notifications. The record knows which events these are; they are few, so they
    /// may as well be sorted. Each leads to its row by the key.
    fn of_streams(
        &self,
        is_sqlite: bool,
        partition: Argument,
        streams: &[Argument],
        subscribers: &[Argument],
        statement: &mut Statement<'_>,
    ) {
        // A value that is looked up for each event, rather than a join: which PostgreSQL might begin with all
        // rows of the timeline. SQLite has no statistics and would sooner walk through all events than look up
        // those of a hundred streams, so it is told how.
        let events = if is_sqlite {
            " AS lead CROSS JOIN events AS e INDEXED BY event_is_alone_at_its_sequence"
        } else {
            " AS lead CROSS JOIN events AS e"
        };
        statement
            .push(
                "SELECT * FROM (SELECT e.occurred_at, e.position, e.stream_id, e.sequence,
                    (SELECT t.subscriber_id FROM timeline AS t WHERE t.tenant_id = e.tenant_id
                        AND t.occurred_at = e.occurred_at AND t.position = e.position) AS subscriber_id,
                    e.event_type
                FROM ",
            )
            .values(streams)
            .push(events)
            .push(" WHERE e.stream_id = lead.column1 AND e.partition = ")
            .name(partition)
            .push(" AND e.tenant_id = ")
            .name(self.tenant);
        self.push("e", statement);
        statement.push(") AS found");
        if !subscribers.is_empty() {
            statement
                .push(" WHERE ")
                .one_of("found.subscriber_id", subscribers);
        }
        self.push_end(statement);
    }

    /// Everything else, said about the rows of `from`: events, or those of the timeline.
    fn push(&self, from: &str, statement: &mut Statement<'_>) {
        let column = |name: &str| format!("{from}.{name}");
        statement
            .compare(&column("occurred_at"), " >= ", self.from)
            .compare(&column("occurred_at"), " < ", self.to)
            .compare(&column("position"), " <= ", Some(self.until))
            .compare(&column("recorded_at"), " <= ", self.recorded_until);
        if let Some((occurred_at, position)) = self.after {
            statement
                .push(&format!(" AND ({from}.occurred_at, {from}.position) "))
                .push(self.order.beyond())
                .push(" (")
                .name(occurred_at)
                .push(", ")
                .name(position)
                .push(")");
        }
    }

    fn push_end(&self, statement: &mut Statement<'_>) {
        statement.push(self.order.by()).name(self.limit);
    }
}

impl Order {
    /// Such places come after a place.
    fn beyond(self) -> &'static str {
        match self {
            Self::OldestFirst => ">",
            Self::NewestFirst => "<",
        }
    }

    /// The first two columns.
    fn by(self) -> &'static str {
        match self {
            Self::OldestFirst => " ORDER BY 1, 2 LIMIT ",
            Self::NewestFirst => " ORDER BY 1 DESC, 2 DESC LIMIT ",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TenantId;
    use crate::ledger::record::Partition;
    use crate::projections::query::tests::plan;

    /// How SQLite would look for rows, step by step.
    async fn searches(subscribers: usize, streams: usize) -> Vec<String> {
        let tenant = TenantPlace {
            tenant_id: TenantId::new("acme").unwrap(),
            partition: Partition(3),
        };
        let subscriber_id = (0..subscribers).map(|number| number.to_string());
        let stream_id = (0..streams as u128).map(|number| StreamId(uuid::Uuid::from_u128(number)));
        let wanted = Wanted {
            subscriber_id: subscriber_id.collect(),
            stream_id: stream_id.collect(),
            from: Some(Timestamp::MIN),
            to: Some(Timestamp::MAX),
            ..Wanted::default()
        };
        let after = Some(Place {
            occurred_at: Timestamp::MIN,
            position: Position(1),
        });
        let statement = statement(true, &tenant, &wanted, Position(9), after, 51);
        let mut steps = plan(statement.text()).await;
        steps.retain(|step| step.starts_with("SEARCH"));
        steps
    }

    #[tokio::test]
    async fn events_are_found_by_the_fewest_there_can_be() {
        for subscribers in [1, 2, 100] {
            let steps = searches(subscribers, 0).await;
            let by = "SEARCH t USING INDEX timeline_by_subscriber (subscriber_id=? AND tenant_id=?";
            assert_eq!(steps.len(), subscribers);
            assert!(steps.iter().all(|step| step.starts_with(by)), "{steps:?}");
        }
        for (subscribers, streams) in [(0, 1), (0, 100), (3, 2)] {
            let steps = searches(subscribers, streams).await;
            let Some((events, rows)) = steps.split_first() else {
                panic!("{streams} streams are found by nothing");
            };
            let by = "SEARCH e USING INDEX event_is_alone_at_its_sequence \
                (partition=? AND tenant_id=? AND stream_id=?)";
            assert_eq!(events, by);
            let by = "(tenant_id=? AND occurred_at=? AND position=?)";
            assert!(!rows.is_empty());
            assert!(rows.iter().all(|step| step.ends_with(by)), "{rows:?}");
        }
        let steps = searches(0, 0).await;
        assert!(
            steps[0].contains("(tenant_id=? AND occurred_at"),
            "{steps:?}"
        );
    }
}
