//! Whose key is destroyed cannot be read again, and can be written to again.
//!
//! Changes the tables by hand, as an erasure does; `erasing.rs` erases.

use std::sync::Arc;
use std::time::{Duration, Instant};

use notification_ledger::domain::ids::EventId;
use notification_ledger::ledger::Options;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::sealing::place as key_place;
use notification_ledger::ledger::storage::StoredDataKey;
use sqlx::Row;

use crate::client::{Client, checked_record, request_for, sent};
use crate::erasing::{erase, reported, stubborn};
use crate::faulty::{Commit, FaultyStorage, POISON};
use crate::sealing::{SECRET, ann, confided, opened, with_poison};
use crate::support::{Place, on_each_database};
use crate::tampering::unprotected;

on_each_database!("current_thread":
    what_is_erased_does_not_open_and_what_follows_does,
    an_erasure_elsewhere_is_noticed_in_time,
    a_key_that_was_erased_before_it_was_stored_is_replaced,
    a_text_sealed_apart_after_an_erasure_opens,
    a_key_that_is_gone_from_a_restored_ledger_is_made_anew,
    a_key_is_not_relied_on_after_the_connection_broke,
    a_repeat_is_acknowledged_from_the_record,
    an_erased_key_cannot_be_brought_back,
    an_older_ledger_knows_who_is_named_where,
);

const ERASE: &str = "UPDATE data_keys SET wrapped_key = NULL, erased_at = 1
    WHERE wrapped_key IS NOT NULL";

fn process(place: &Place, key_cache_ttl: Duration) -> Client {
    let options = Options {
        key_cache_ttl,
        ..Options::default()
    };
    Client::on(place, place.process(options))
}

async fn what_is_erased_does_not_open_and_what_follows_does(place: &Place) {
    let client = process(place, Duration::ZERO);
    let before = confided(&client).await;
    assert_eq!(place.sql(ERASE).await.unwrap(), 1);

    assert_eq!(opened(&client, before).await, None);
    let after = confided(&client).await;
    for client in [&client, &Client::of(place)] {
        assert_eq!(opened(client, before).await, None);
        assert_eq!(opened(client, after).await.as_deref(), Some(SECRET));
    }
    let places = [0, 1, 2].map(|generation| key_place(&client.key(after), &ann(), generation));
    let keys = place.storage.data_keys(&places).await.unwrap();
    let living: Vec<_> = keys
        .iter()
        .map(|key| (&key.place, key.wrapped_key.is_some()))
        .collect();
    assert_eq!(living.len(), 2);
    assert!(living.contains(&(&places[0], false)) && living.contains(&(&places[1], true)));
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn an_erasure_elsewhere_is_noticed_in_time(place: &Place) {
    let ttl = Duration::from_millis(300);
    let client = process(place, ttl);
    let stream = confided(&client).await;
    let started = Instant::now();
    assert_eq!(opened(&client, stream).await.as_deref(), Some(SECRET));
    place.sql(ERASE).await.unwrap();
    while opened(&client, stream).await.is_some() {
        assert!(
            started.elapsed() < ttl + Duration::from_secs(2),
            "still opens"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = confided(&client).await;
    assert_eq!(
        opened(&Client::of(place), after).await.as_deref(),
        Some(SECRET)
    );
}

async fn a_key_that_was_erased_before_it_was_stored_is_replaced(place: &Place) {
    let late = with_poison(place);
    let poisoned = late.correlating(POISON);
    poisoned
        .confide(late.new_stream(), request_for("ann"), SECRET)
        .await
        .unwrap_err();
    let before = confided(&Client::of(place)).await;
    place.sql(ERASE).await.unwrap();

    let after = confided(&late).await;
    for client in [late, Client::of(place)] {
        assert_eq!(opened(&client, after).await.as_deref(), Some(SECRET));
        assert_eq!(opened(&client, before).await, None);
    }
}

async fn a_key_that_is_gone_from_a_restored_ledger_is_made_anew(place: &Place) {
    let client = process(place, Duration::ZERO);
    confided(&client).await;
    place.sql("DELETE FROM data_keys").await.unwrap();

    let after = confided(&client).await;
    assert_eq!(
        opened(&Client::of(place), after).await.as_deref(),
        Some(SECRET)
    );
}

/// As it is after a failover to a database that lacks the last commits.
async fn a_key_is_not_relied_on_after_the_connection_broke(place: &Place) {
    let storage = FaultyStorage::new(&place.storage);
    let options = Options {
        key_cache_ttl: Duration::from_hours(1),
        ..Options::default()
    };
    let client = Client::on(place, place.process_on(Arc::new(storage.clone()), options));
    confided(&client).await;
    confided(&client).await;
    place.sql("DELETE FROM data_keys").await.unwrap();

    storage.fail_next(Commit::Lost);
    let after = [confided(&client).await, confided(&client).await];

    for stream in after {
        let text = opened(&Client::of(place), stream).await;
        assert_eq!(text.as_deref(), Some(SECRET));
    }
}

async fn a_repeat_is_acknowledged_from_the_record(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    client.tell(stream, sent("sg-1")).await.unwrap();
    unprotected(place).await;
    place
        .sql("DELETE FROM events WHERE sequence = 2")
        .await
        .unwrap();

    let again = client.tell(stream, sent("sg-1")).await.unwrap();

    assert_eq!(again.appended, 1);
    assert_eq!(client.events(stream).await.len(), 2);
}

async fn a_text_sealed_apart_after_an_erasure_opens(place: &Place) {
    let late = with_poison(place);
    let poisoned = late.correlating(POISON);
    poisoned
        .confide(late.new_stream(), request_for("ann"), SECRET)
        .await
        .unwrap_err();
    confided(&Client::of(place)).await;
    place.sql(ERASE).await.unwrap();

    let stream = late.key(late.new_stream());
    let id = EventId(late.surroundings.ids.time_ordered());
    let sealed = late
        .ledger
        .seal_apart(&stream, &ann(), id, SECRET)
        .await
        .unwrap();
    let opened = Client::of(place)
        .ledger
        .open(&stream, id, &sealed)
        .await
        .unwrap();
    assert_eq!(opened.unwrap().as_str(), SECRET);
}

async fn an_erased_key_cannot_be_brought_back(place: &Place) {
    let client = Client::of(place);
    let stream = confided(&client).await;
    let places = [key_place(&client.key(stream), &ann(), 0)];
    let key = place.storage.data_keys(&places).await.unwrap().remove(0);
    place.sql(ERASE).await.unwrap();

    place.storage.add_data_key(&key).await.unwrap();
    let standing = place.storage.data_keys(&places).await.unwrap();
    assert_eq!(
        standing,
        [StoredDataKey {
            wrapped_key: None,
            ..key
        }]
    );
}

/// A ledger that an older release has written.
async fn an_older_ledger_knows_who_is_named_where(place: &Place) {
    let client = stubborn(place);
    confided(&client).await;
    let late = client.new_stream();
    for named in [None, Some("ann"), Some("bob")] {
        let report = reported(&client, named, named.unwrap_or("nobody"));
        client.confide(late, report, SECRET).await.unwrap();
    }
    client
        .confide(late, request_for("bob"), SECRET)
        .await
        .unwrap();
    client.confide(late, sent("sg-1"), SECRET).await.unwrap();
    let elsewhere = client.clone().for_tenant("globex", 2);
    confided(&elsewhere).await;
    confided(&elsewhere).await;
    erase(&elsewhere, "ann").await;
    let as_written = table(place).await;
    assert_eq!(as_written.len(), 2, "{as_written:?}");

    let migration = if place.is_postgres() {
        include_str!("../../migrations/postgres/0004_erasure.sql")
    } else {
        include_str!("../../migrations/sqlite/0004_erasure.sql")
    };
    let filling = &migration[migration.find("INSERT INTO").unwrap()..];
    place.sql("DELETE FROM late_subscribers").await.unwrap();
    place.sql(filling).await.unwrap();

    assert_eq!(table(place).await, as_written);
}

async fn table(place: &Place) -> Vec<(String, String, uuid::Uuid)> {
    const ROWS: &str = "SELECT tenant_id, subscriber_id, stream_id
        FROM late_subscribers ORDER BY 1, 2, 3";
    macro_rules! rows {
        ($pool:expr) => {{
            let rows = sqlx::query(ROWS).fetch_all($pool).await.unwrap();
            let row = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2)));
            row.collect()
        }};
    }
    match place.database() {
        Database::Postgres { pool, .. } => rows!(pool),
        Database::Sqlite { pool, .. } => rows!(pool),
    }
}
