//! Whoever changes history by hand is refused; whoever gets around that is found out.

use std::sync::Arc;

use notification_ledger::domain::ids::{EventId, Sequence, StreamId};
use notification_ledger::domain::sealing::Subject;
use notification_ledger::ledger::batch::{self, AppendOutcome, AppendRequest, Plan, PlannedEvent};
use notification_ledger::ledger::chain::{self, Link};
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::known::Known;
use notification_ledger::ledger::record::{Head, NewEvent, Partition, Position, StreamKey, Tip};
use notification_ledger::ledger::sealing::place as key_place;
use notification_ledger::ledger::storage::{
    IdempotencyPlace, StorageError, StoredDataKey, StreamQuery,
};
use notification_ledger::ledger::verify::{Broken, Fault, Intact, verify};

use crate::client::{Client, checked_record, request_for, sent};
use crate::support::{Place, on_each_database};

on_each_database!("current_thread":
    recorded_events_cannot_be_changed,
    every_change_of_an_event_is_found,
    events_that_are_gone_are_found,
    events_that_were_added_are_found,
    events_that_were_moved_are_found,
    a_head_that_was_changed_is_found,
    a_ledger_that_grows_meanwhile_is_intact,
    a_stream_with_a_gap_is_found,
    a_part_of_the_record_can_be_verified,
    a_long_record_is_verified_to_its_end,
    a_value_of_another_type_is_damage,
);

/// Six events in partition 0, in two streams by turns, and two in partition 1.
async fn recorded(place: &Place) -> Client {
    let client = Client::of(place).correlating("c-1");
    let streams = [client.new_stream(), client.new_stream()];
    for stream in streams {
        client.begin(stream, request_for("ann")).await.unwrap();
    }
    for (number, stream) in streams.iter().chain(&streams).enumerate() {
        client
            .tell(*stream, sent(&format!("sg-{number}")))
            .await
            .unwrap();
    }
    let elsewhere = client.clone().for_tenant("globex", 1);
    elsewhere.requested().await;
    elsewhere.requested().await;
    client
}

/// An outage would pass; this does not.
async fn a_value_of_another_type_is_damage(place: &Place) {
    recorded(place).await;
    unprotected(place).await;
    let damage = if place.is_postgres() {
        "ALTER TABLE events ALTER COLUMN occurred_at TYPE text;
        ALTER TABLE partition_heads ALTER COLUMN recorded_at TYPE text"
    } else {
        "UPDATE events SET occurred_at = 'noon' WHERE partition = 0 AND position = 3;
        UPDATE partition_heads SET recorded_at = 'noon' WHERE partition = 0"
    };
    place.sql(damage).await.unwrap();

    let log = place.storage.log(Partition(0), Position(0), 10).await;
    let query = StreamQuery {
        partition: Partition(0),
        tenant_id: None,
        after: None,
        until: Position(10),
        limit: 10,
        bytes_max: 1_000_000,
    };
    let by_stream = place.storage.by_stream(&query).await;
    let heads = place.storage.heads().await;
    // Whatever is read without a table's name at hand.
    let count: Result<i64, sqlx::Error> = match place.database() {
        Database::Postgres { pool, .. } => {
            let count = sqlx::query_scalar("SELECT 'noon'");
            count.fetch_one(pool).await
        }
        Database::Sqlite { pool, .. } => {
            let count = sqlx::query_scalar("SELECT 'noon'");
            count.fetch_one(pool).await
        }
    };

    for (read, named) in [
        (
            log.map(drop),
            "a stored row of `events` is damaged: `occurred_at`: ",
        ),
        (
            by_stream.map(drop),
            "a stored row of `events` is damaged: `occurred_at`: ",
        ),
        (
            heads.map(drop),
            "a stored row of `partition_heads` is damaged: `recorded_at`: ",
        ),
        (count.map(drop).map_err(StorageError::from), "is damaged: "),
    ] {
        let error = read.unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// Lets the test change history, and go back to how it was.
pub(crate) async fn unprotected(place: &Place) {
    let triggers = if place.is_postgres() {
        "DROP TRIGGER events_are_permanent ON events"
    } else {
        "DROP TRIGGER events_are_not_updated; DROP TRIGGER events_are_not_deleted"
    };
    place.sql(triggers).await.unwrap();
    let keep = "CREATE TABLE kept_events AS SELECT * FROM events;
        CREATE TABLE kept_heads AS SELECT * FROM partition_heads";
    place.sql(keep).await.unwrap();
}

async fn verdict(place: &Place, partition: i16, from: i64) -> Result<Intact, Broken> {
    let heads = place.storage.heads().await.unwrap();
    let head = heads
        .into_iter()
        .find(|head| head.partition == Partition(partition))
        .unwrap();
    verify(place.storage.as_ref(), &head, Position(from), |_| {})
        .await
        .unwrap()
}

/// Does something to the tables, and says what is found first in partition 0.
async fn found(place: &Place, tampering: &str) -> Option<(i64, Fault)> {
    let changed = place.sql(tampering).await.unwrap();
    assert!(changed > 0, "{tampering}");
    let verdict = verdict(place, 0, 1).await;
    let restore = "DELETE FROM events; INSERT INTO events SELECT * FROM kept_events;
        DELETE FROM partition_heads; INSERT INTO partition_heads SELECT * FROM kept_heads";
    place.sql(restore).await.unwrap();
    checked_record(place).await;
    verdict.err().map(|broken| {
        assert_eq!(broken.position.partition, Partition(0));
        (broken.position.position.0, broken.fault)
    })
}

async fn recorded_events_cannot_be_changed(place: &Place) {
    recorded(place).await;
    let before = checked_record(place).await;
    let mut attempts = vec![
        "UPDATE events SET data = '{}' WHERE partition = 0 AND position = 3",
        "UPDATE events SET actor_id = actor_id",
        "DELETE FROM events WHERE partition = 0 AND position = 6",
        "DELETE FROM events",
        "INSERT INTO events SELECT * FROM events WHERE partition = 0 AND position = 3
            ON CONFLICT (partition, position) DO UPDATE SET data = '{}'",
    ];
    if place.is_postgres() {
        attempts.extend([
            "TRUNCATE events",
            "TRUNCATE events, partition_heads CASCADE",
        ]);
    }
    for attempt in attempts {
        let refused = place.sql(attempt).await.unwrap_err();
        let message = refused.as_database_error().unwrap().message().to_owned();
        assert!(
            message.contains("events are permanent"),
            "{attempt}: {message}"
        );
    }
    assert_eq!(checked_record(place).await, before);
}

async fn every_change_of_an_event_is_found(place: &Place) {
    recorded(place).await;
    unprotected(place).await;
    let changes = [
        "tenant_id = 'globex'",
        "stream_id = event_id",
        "sequence = 99",
        "event_id = stream_id",
        "event_type = 'notification.delivered'",
        "schema_version = 2",
        "occurred_at = occurred_at - 1",
        "recorded_at = recorded_at + 1",
        "actor_kind = 'operator'",
        "actor_id = 'nobody'",
        "source = 'import'",
        "correlation_id = NULL",
        "causation_id = ''",
        "traceparent = ''",
        "subscriber_id = 'bob'",
        "subscriber_id = NULL",
        "data = '{}'",
        "data = (SELECT data FROM kept_events WHERE partition = 0 AND position = 4)",
        "hash = (SELECT hash FROM kept_events WHERE partition = 0 AND position = 2)",
        // What belongs together in one text belongs to two.
        "actor_kind = 'ke', actor_id = 'ykey-1'",
    ];
    for change in changes {
        for position in [1, 3, 6] {
            let change =
                format!("UPDATE events SET {change} WHERE partition = 0 AND position = {position}");
            assert_eq!(
                found(place, &change).await,
                Some((position, Fault::Altered)),
                "{change}"
            );
        }
    }
}

async fn events_that_are_gone_are_found(place: &Place) {
    recorded(place).await;
    unprotected(place).await;
    let delete = |which: &str| format!("DELETE FROM events WHERE partition = 0 AND {which}");

    for position in [1, 3, 6] {
        let delete = delete(&format!("position = {position}"));
        assert_eq!(
            found(place, &delete).await,
            Some((position, Fault::Missing))
        );
    }
    assert_eq!(
        found(place, &delete("position > 0")).await,
        Some((1, Fault::Missing))
    );
    assert_eq!(
        found(place, &delete("position IN (2, 5)")).await,
        Some((2, Fault::Missing))
    );
    let cut =
        delete("position = 6") + "; UPDATE partition_heads SET position = 5 WHERE partition = 0";
    assert_eq!(found(place, &cut).await, Some((5, Fault::HeadHash)));
    let closed = delete("position = 3")
        + "; UPDATE events SET position = position + 100 WHERE partition = 0 AND position > 3
           ; UPDATE events SET position = position - 101 WHERE partition = 0 AND position > 100
           ; UPDATE partition_heads SET position = 5 WHERE partition = 0";
    assert_eq!(found(place, &closed).await, Some((3, Fault::Altered)));
}

async fn events_that_were_added_are_found(place: &Place) {
    recorded(place).await;
    unprotected(place).await;
    let add = |position: i64| {
        format!(
            "CREATE TABLE added AS SELECT * FROM events WHERE partition = 0 AND position = 6;
            UPDATE added SET position = {position}, sequence = 4;
            INSERT INTO events SELECT * FROM added;
            DROP TABLE added"
        )
    };

    assert_eq!(found(place, &add(7)).await, Some((7, Fault::PastHead)));
    assert_eq!(
        found(place, &add(1000)).await,
        Some((1000, Fault::PastHead))
    );
    let with_head = add(7) + "; UPDATE partition_heads SET position = 7 WHERE partition = 0";
    assert_eq!(found(place, &with_head).await, Some((7, Fault::Altered)));
    let inserted = "UPDATE events SET position = position + 100 WHERE partition = 0 AND position > 3
        ; UPDATE events SET position = position - 99 WHERE partition = 0 AND position > 100
        ; UPDATE partition_heads SET position = 7 WHERE partition = 0; "
        .to_owned() + &add(4).replace("position = 6", "position = 7");
    assert_eq!(found(place, &inserted).await, Some((4, Fault::Altered)));
}

async fn events_that_were_moved_are_found(place: &Place) {
    recorded(place).await;
    unprotected(place).await;

    let swap = "UPDATE events SET data = (
            SELECT data FROM kept_events
            WHERE kept_events.partition = 0 AND kept_events.position = 6 - events.position
        ) WHERE partition = 0 AND position IN (2, 4)";
    assert_eq!(found(place, swap).await, Some((2, Fault::Altered)));
    let rotate = "UPDATE events SET position = 100 WHERE partition = 0 AND position = 4;
        UPDATE events SET position = 4 WHERE partition = 0 AND position = 5;
        UPDATE events SET position = 5 WHERE partition = 0 AND position = 100";
    assert_eq!(found(place, rotate).await, Some((4, Fault::Altered)));
    let elsewhere = "UPDATE events SET partition = 2 WHERE partition = 0 AND position = 1";
    assert_eq!(found(place, elsewhere).await, Some((1, Fault::Missing)));
}

async fn a_head_that_was_changed_is_found(place: &Place) {
    recorded(place).await;
    unprotected(place).await;
    let head = |change: &str| format!("UPDATE partition_heads SET {change} WHERE partition = 0");

    assert_eq!(
        found(place, &head("position = 7")).await,
        Some((7, Fault::Missing))
    );
    assert_eq!(
        found(place, &head("position = 5")).await,
        Some((5, Fault::HeadHash))
    );
    let hash = "hash = (SELECT hash FROM kept_events WHERE partition = 1 AND position = 1)";
    assert_eq!(found(place, &head(hash)).await, Some((6, Fault::HeadHash)));
    let rewound = "position = 5,
        hash = (SELECT hash FROM kept_events WHERE partition = 0 AND position = 5)";
    assert_eq!(
        found(place, &head(rewound)).await,
        Some((6, Fault::PastHead))
    );
    // An epoch is no part of history: a restored ledger gets another one.
    let epoch = "epoch = (SELECT event_id FROM kept_events WHERE partition = 1 AND position = 1)";
    assert_eq!(found(place, &head(epoch)).await, None);
}

async fn a_ledger_that_grows_meanwhile_is_intact(place: &Place) {
    let client = recorded(place).await;
    let heads = place.storage.heads().await.unwrap();
    client.requested().await;

    let verdict = verify(place.storage.as_ref(), &heads[0], Position(1), |_| {})
        .await
        .unwrap();
    let intact = Intact {
        partition: Partition(0),
        events: 6,
        head: Position(6),
    };
    assert_eq!(verdict, Ok(intact));
}

fn new_event(client: &Client) -> NewEvent {
    NewEvent {
        event_id: EventId(client.surroundings.ids.time_ordered()),
        event_type: "notification.retracted",
        schema_version: 1,
        occurred_at: client.surroundings.now(),
        subscriber_id: None,
        data: "{}".to_owned(),
        decided: None,
    }
}

/// Appends an event at a sequence that is not the stream's next, in a chain without a flaw.
async fn append_at(place: &Place, client: &Client, stream: &StreamKey, sequence: i64) {
    let mut writer = place.storage.writer().await.unwrap();
    let head = writer
        .lock_heads(&[stream.partition])
        .await
        .unwrap()
        .remove(0)
        .head;
    let event = new_event(client);
    let planned = PlannedEvent {
        stream,
        provenance: &client.order.provenance,
        event: &event,
        sequence: Sequence(sequence),
        position: Position(head.position.0 + 1),
        recorded_at: head.recorded_at,
        hash: [0; 32],
    };
    let hash = chain::next(&head.hash, &Link::from(&planned.recorded()));
    let position = planned.position;
    let plan = Plan {
        events: vec![PlannedEvent { hash, ..planned }],
        heads: vec![Head {
            position,
            hash,
            ..head
        }],
        ..Plan::default()
    };
    writer.insert(&plan).await.unwrap();
    writer.commit().await.unwrap();
}

async fn a_stream_with_a_gap_is_found(place: &Place) {
    let client = recorded(place).await;
    let (one, other) = (
        client.key(client.new_stream()),
        client.key(client.new_stream()),
    );
    append_at(place, &client, &one, 1).await;
    append_at(place, &client, &one, 3).await;
    append_at(place, &client, &other, 2).await;

    let broken = verdict(place, 0, 1).await.unwrap_err();
    assert_eq!(
        (broken.position.position, broken.fault),
        (Position(8), Fault::Sequence)
    );
    let streams = place.storage.broken_streams(Partition(0)).await.unwrap();
    let found: Vec<_> = streams
        .iter()
        .map(|broken| {
            (
                broken.tenant_id.as_str(),
                broken.stream_id,
                broken.position.0,
            )
        })
        .collect();
    assert_eq!(
        found,
        [("acme", one.stream_id, 8), ("acme", other.stream_id, 9)]
    );
    assert_eq!(
        place.storage.broken_streams(Partition(1)).await.unwrap(),
        []
    );
}

async fn a_part_of_the_record_can_be_verified(place: &Place) {
    recorded(place).await;
    assert_eq!(verdict(place, 0, 4).await.unwrap().events, 3);
    assert_eq!(verdict(place, 0, 6).await.unwrap().events, 1);
    unprotected(place).await;
    place
        .sql("UPDATE events SET actor_id = 'x' WHERE partition = 0 AND position = 3")
        .await
        .unwrap();

    let at = async |from| {
        verdict(place, 0, from)
            .await
            .map_err(|broken| broken.position.position.0)
    };
    assert_eq!(at(1).await.map(|_| ()), Err(3));
    assert_eq!(at(3).await.map(|_| ()), Err(3));
    // The hash that stands there is taken as given.
    assert_eq!(at(4).await.map(|intact| intact.events), Ok(3));
    place
        .sql("DELETE FROM events WHERE partition = 0 AND position = 3")
        .await
        .unwrap();
    assert_eq!(at(4).await.map(|_| ()), Err(3));
    // Streams are looked at whole: in one of them an event is missing.
    assert_eq!(
        verdict(place, 0, 5).await.unwrap_err().fault,
        Fault::Sequence
    );
}

/// More than fit one statement, or one page.
const MANY: usize = 2500;

/// One event for a new stream, with everything that can come with it.
fn laden_append(client: &Client, number: usize) -> AppendRequest {
    let stream = client.key(StreamId(uuid::Uuid::from_u128(1_000_000 + number as u128)));
    AppendRequest {
        expected: Tip::default(),
        events: vec![new_event(client)],
        provenance: Arc::clone(&client.order.provenance),
        idempotency: Some((idempotency_place(client, number), [1; 32])),
        data_keys: vec![StoredDataKey {
            place: key_place(&stream, &Subject::Stream, 0),
            wrapped_key: Some("wrapped".to_owned()),
            created_at: client.surroundings.now(),
        }],
        sealed_under: vec![],
        late_subscriber: None,
        references: vec![format!("provider:{number}")],
        stream,
    }
}

fn idempotency_place(client: &Client, number: usize) -> IdempotencyPlace {
    IdempotencyPlace {
        partition: client.order.tenant.partition,
        tenant_id: client.order.tenant.tenant_id.clone(),
        key: format!("k-{number}"),
    }
}

async fn a_long_record_is_verified_to_its_end(place: &Place) {
    let client = Client::of(place);
    let requests: Vec<_> = (0..MANY)
        .map(|number| laden_append(&client, number))
        .collect();
    let mut writer = place.storage.writer().await.unwrap();
    let now = || client.surroundings.now();
    let stored = batch::append(writer.as_mut(), &mut Known::default(), &requests, now)
        .await
        .unwrap();
    assert!(
        stored
            .outcomes
            .iter()
            .all(|outcome| matches!(outcome, AppendOutcome::Committed { .. }))
    );
    let again = batch::append(writer.as_mut(), &mut Known::default(), &requests, now)
        .await
        .unwrap();
    assert!(
        again
            .outcomes
            .iter()
            .all(|outcome| matches!(outcome, AppendOutcome::KeyTaken(_)))
    );

    let streams: Vec<_> = requests
        .iter()
        .map(|request| request.stream.clone())
        .collect();
    assert_eq!(place.storage.streams(&streams).await.unwrap().len(), MANY);
    let keys: Vec<_> = (0..MANY)
        .map(|number| idempotency_place(&client, number))
        .collect();
    assert_eq!(place.storage.idempotent(&keys).await.unwrap().len(), MANY);
    let keys: Vec<_> = streams
        .iter()
        .map(|key| key_place(key, &Subject::Stream, 0))
        .collect();
    assert_eq!(place.storage.data_keys(&keys).await.unwrap().len(), MANY);
    let references: Vec<_> = (0..MANY)
        .map(|number| format!("provider:{number}"))
        .collect();
    let found = client
        .ledger
        .referenced(&client.order.tenant, &references)
        .await
        .unwrap();
    assert_eq!(found.iter().flatten().count(), MANY);

    assert_eq!(checked_record(place).await.len(), MANY);
    let head = place.storage.heads().await.unwrap().remove(0);
    let mut checked = 0;
    let verdict = verify(place.storage.as_ref(), &head, Position(1), |events| {
        checked += events;
    });
    verdict.await.unwrap().unwrap();
    assert_eq!(checked, MANY as u64);
    unprotected(place).await;
    let change = "UPDATE events SET actor_id = 'nobody' WHERE partition = 0 AND position = 2400";
    assert_eq!(found_first(place, change).await, (2400, Fault::Altered));
    let delete = "DELETE FROM events WHERE partition = 0 AND position = 2001";
    assert_eq!(found_first(place, delete).await, (2001, Fault::Missing));
}

async fn found_first(place: &Place, tampering: &str) -> (i64, Fault) {
    found(place, tampering).await.unwrap()
}
