//! Private texts are readable for whoever holds the keys, in their place, until they are erased.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::poll;
use notification_ledger::domain::event::Sealed;
use notification_ledger::domain::ids::{EventId, StreamId, SubscriberId};
use notification_ledger::domain::sealing::Subject;
use notification_ledger::ledger::batch::Plan;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, StreamKey};
use notification_ledger::ledger::sealing::{Keyring, MasterKey, place as key_place};
use notification_ledger::ledger::storage::StoredDataKey;
use notification_ledger::ledger::{LedgerError, Options};
use notification_ledger::tasks::Tasks;

use crate::client::{Client, checked_record, request_for, sent};
use crate::faulty::{FaultyStorage, POISON};
use crate::support::{Place, on_each_storage, on_sqlite};

on_each_storage!("current_thread":
    a_private_text_opens_in_every_process,
    a_private_text_stands_nowhere_in_the_clear,
    a_sealed_text_opens_only_in_its_place,
    another_master_key_opens_nothing,
    a_key_that_another_process_made_first_is_used,
    a_key_that_was_not_stored_is_stored_with_the_next_event,
    only_the_key_that_was_stored_counts_as_stored,
    a_text_sealed_apart_opens_in_every_process,
    a_text_sealed_apart_uses_the_key_that_another_process_made_first,
    a_key_that_is_added_waits_for_the_batch_that_looked_for_it,
);

pub(crate) const SECRET: &str = "{\"to\":\"ann@example.org\"}";

/// A caller whose process never gets a poisoned command stored, and so keeps the keys it made for
/// itself.
pub(crate) fn with_poison(place: &Place) -> Client {
    let storage = FaultyStorage::new(&place.storage);
    Client::on(
        place,
        place.process_on(Arc::new(storage), Options::default()),
    )
}

/// A new notification for Ann that holds [`SECRET`].
pub(crate) async fn confided(client: &Client) -> StreamId {
    let stream = client.new_stream();
    client
        .confide(stream, request_for("ann"), SECRET)
        .await
        .unwrap();
    stream
}

/// What became of the private text of a notification's request.
pub(crate) async fn opened(client: &Client, stream: StreamId) -> Option<String> {
    let loaded = client.load(stream).await;
    let request = loaded.aggregate.request().unwrap();
    let sealed = request.sealed.as_ref().unwrap();
    let text = client
        .ledger
        .open(&loaded.stream, request.event_id, sealed)
        .await
        .unwrap();
    text.map(|text| text.to_string())
}

pub(crate) fn ann() -> Subject {
    Subject::Subscriber(SubscriberId::new("ann").unwrap())
}

async fn a_private_text_opens_in_every_process(place: &Place) {
    let client = Client::of(place);
    let stream = confided(&client).await;
    let done = client
        .confide(stream, sent("sg-1"), "{\"raw\":1}")
        .await
        .unwrap();

    for client in [client, Client::of(place)] {
        assert_eq!(opened(&client, stream).await.as_deref(), Some(SECRET));
        let report = &done.aggregate.reports()[0];
        let sealed = report.sealed.as_ref().unwrap();
        let text = client
            .ledger
            .open(&done.stream, report.event_id, sealed)
            .await
            .unwrap();
        assert_eq!(text.unwrap().as_str(), "{\"raw\":1}");
    }
    // One key for all of a subscriber's texts.
    let places = [0, 1].map(|generation| key_place(&done.stream, &ann(), generation));
    assert_eq!(place.storage.data_keys(&places).await.unwrap().len(), 1);
}

async fn a_private_text_stands_nowhere_in_the_clear(place: &Place) {
    let client = Client::of(place).with_key("ann's", 1);
    let stream = confided(&client).await;
    client
        .with_key("ann's again", 1)
        .confide(stream, sent("sg-1"), SECRET)
        .await
        .unwrap();

    let record = checked_record(place).await;
    assert_eq!(record.len(), 2);
    for event in record {
        assert!(event.data.contains("\"sealed\":\"1."), "{}", event.data);
        assert!(!format!("{event:?}").contains("ann@"), "{event:?}");
    }
}

async fn nothing_private_is_in_the_file(place: &Place) {
    let client = Client::of(place).with_key("ann's", 1);
    confided(&client).await;

    let Database::Sqlite { path, .. } = place.database() else {
        unreachable!()
    };
    let mut bytes = 0;
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains("ann@"));
        bytes += content.len();
    }
    assert!(bytes > 10_000, "the files were read");
}

#[tokio::test]
async fn a_private_text_is_not_in_the_file_either() {
    on_sqlite(nothing_private_is_in_the_file).await;
}

async fn a_sealed_text_opens_only_in_its_place(place: &Place) {
    let client = Client::of(place);
    let (one, other) = (confided(&client).await, confided(&client).await);
    let (one, other) = (client.load(one).await, client.load(other).await);
    let request = one.aggregate.request().unwrap();
    let sealed = request.sealed.clone().unwrap();
    let open = async |stream: &StreamKey, event_id, sealed: &Sealed| {
        client.ledger.open(stream, event_id, sealed).await
    };
    assert!(
        open(&one.stream, request.event_id, &sealed)
            .await
            .unwrap()
            .is_some()
    );

    let other_event = other.aggregate.request().unwrap().event_id;
    let moved = [
        open(&one.stream, other_event, &sealed).await,
        open(&other.stream, request.event_id, &sealed).await,
        open(&other.stream, other_event, &sealed).await,
    ];
    for opened in moved {
        assert!(matches!(opened, Err(LedgerError::Unopenable)), "{opened:?}");
    }
    let last = if sealed.0.ends_with('A') { "B" } else { "A" };
    let altered = format!("{}{last}", &sealed.0[..sealed.0.len() - 1]);
    let shortened = &sealed.0[..sealed.0.len() - 4];
    for text in [
        &altered,
        shortened,
        "",
        "1",
        "1.x.y",
        &sealed.0[1..],
        "2.AAAA.AAAA",
    ] {
        let opened = open(&one.stream, request.event_id, &Sealed(text.into())).await;
        assert!(
            matches!(opened, Err(LedgerError::Unopenable)),
            "{text}: {opened:?}"
        );
    }
}

fn keyring(place: &Place, master: u8) -> (Keyring, Tasks) {
    let tasks = Tasks::new();
    let keyring = Keyring::new(
        Arc::clone(&place.storage),
        Arc::new(MasterKey::new(&[master; 32]).unwrap()),
        place.surroundings().clock,
        Duration::from_mins(1),
        &tasks,
    );
    (keyring, tasks)
}

async fn another_master_key_opens_nothing(place: &Place) {
    let client = Client::of(place);
    let loaded = client.load(confided(&client).await).await;
    let request = loaded.aggregate.request().unwrap();
    let sealed = request.sealed.as_ref().unwrap();

    let (right, _tasks) = keyring(place, 7);
    let opened = right
        .open(&loaded.stream, request.event_id, sealed)
        .await
        .unwrap();
    assert_eq!(opened.unwrap().as_str(), SECRET);
    let (wrong, _tasks) = keyring(place, 8);
    let opened = wrong.open(&loaded.stream, request.event_id, sealed).await;
    assert!(matches!(opened, Err(LedgerError::Unopenable)), "{opened:?}");
    let sealing = wrong
        .seal(&loaded.stream, &ann(), request.event_id, SECRET)
        .await;
    assert!(
        matches!(sealing, Err(LedgerError::Unopenable)),
        "{sealing:?}"
    );
}

async fn a_key_that_another_process_made_first_is_used(place: &Place) {
    let late = with_poison(place);
    let poisoned = late.correlating(POISON);
    poisoned
        .confide(late.new_stream(), request_for("ann"), SECRET)
        .await
        .unwrap_err();
    // The key that `late` remembers was never stored, and now cannot be.
    let early = Client::of(place);
    let one = confided(&early).await;
    let two = confided(&late).await;

    for client in [early, late, Client::of(place)] {
        assert_eq!(opened(&client, one).await.as_deref(), Some(SECRET));
        assert_eq!(opened(&client, two).await.as_deref(), Some(SECRET));
    }
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_key_that_was_not_stored_is_stored_with_the_next_event(place: &Place) {
    let client = with_poison(place);
    let poisoned = client.correlating(POISON);
    poisoned
        .confide(client.new_stream(), request_for("ann"), SECRET)
        .await
        .unwrap_err();

    let stream = confided(&client).await;
    assert_eq!(
        opened(&Client::of(place), stream).await.as_deref(),
        Some(SECRET)
    );
}

async fn only_the_key_that_was_stored_counts_as_stored(place: &Place) {
    let (keyring, _tasks) = keyring(place, 7);
    let stream = Client::of(place).key(StreamId(uuid::Uuid::nil()));
    let id = EventId(uuid::Uuid::nil());
    let made = async || {
        let (_, under) = keyring.seal(&stream, &ann(), id, SECRET).await.unwrap();
        under.made()
    };
    let first = made().await.unwrap();
    keyring.forget([&first.place]);
    let second = made().await.unwrap();

    // The append that carried the first one is only now heard of.
    keyring.stored(&[first], 0, Instant::now());
    assert_eq!(made().await.as_ref(), Some(&second));
    keyring.stored(&[second], 0, Instant::now());
    assert_eq!(made().await, None);
}

async fn a_text_sealed_apart_opens_in_every_process(place: &Place) {
    let client = Client::of(place);
    let stream = client.key(client.new_stream());
    let id = EventId(client.surroundings.ids.time_ordered());
    let sealed = client
        .ledger
        .seal_apart(&stream, &ann(), id, SECRET)
        .await
        .unwrap();

    for client in [client, Client::of(place)] {
        let opened = client.ledger.open(&stream, id, &sealed).await.unwrap();
        assert_eq!(opened.unwrap().as_str(), SECRET);
        // An event for the same subscriber uses the same key.
        let confided = confided(&client).await;
        assert_eq!(
            self::opened(&Client::of(place), confided).await.as_deref(),
            Some(SECRET)
        );
    }
}

async fn a_text_sealed_apart_uses_the_key_that_another_process_made_first(place: &Place) {
    let late = with_poison(place);
    let poisoned = late.correlating(POISON);
    poisoned
        .confide(late.new_stream(), request_for("ann"), SECRET)
        .await
        .unwrap_err();
    confided(&Client::of(place)).await;

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

async fn a_key_that_is_added_waits_for_the_batch_that_looked_for_it(place: &Place) {
    let client = Client::of(place);
    let stream = client.key(client.new_stream());
    let key = |wrapped: &str| StoredDataKey {
        place: key_place(&stream, &ann(), 0),
        wrapped_key: Some(wrapped.to_owned()),
        created_at: client.surroundings.now(),
    };
    let (of_the_batch, added) = (key("of the batch"), key("added"));
    let mut writer = place.storage.writer().await.unwrap();
    writer.lock_heads(&[Partition(0)]).await.unwrap();

    // The batch found no key, and goes on to store events sealed under its own.
    let adding = place.storage.add_data_key(&added);
    tokio::pin!(adding);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(200) {
        assert!(poll!(&mut adding).is_pending());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let plan = Plan {
        data_keys: vec![&of_the_batch],
        ..Plan::default()
    };
    writer.insert(&plan).await.unwrap();
    writer.commit().await.unwrap();
    adding.await.unwrap();
    let stored = place
        .storage
        .data_keys(std::slice::from_ref(&added.place))
        .await
        .unwrap();
    assert_eq!(stored, [of_the_batch]);
}
