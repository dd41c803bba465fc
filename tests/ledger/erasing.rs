//! An erasure takes everything that was sealed before it, nothing that was sealed after it, and
//! says the same to whoever asks again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use notification_ledger::domain::event::{Adopted, Context, Fact, MessageRef, Report};
use notification_ledger::domain::ids::{EventId, StreamId, SubscriberId};
use notification_ledger::domain::notification::{Action, Adoption};
use notification_ledger::domain::sealing::Subject;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Position, RecordedEvent};
use notification_ledger::ledger::sealing::place as key_place;
use notification_ledger::ledger::{Erased, Erasure, LedgerError, Options};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::task::JoinSet;

use crate::client::{Client, checked_record, request_for, sent};
use crate::faulty::{Commit, FaultyStorage};
use crate::sealing::{SECRET, ann, confided, opened};
use crate::support::{Place, on_each_storage, on_sqlite};

on_each_storage!("multi_thread":
    what_was_sealed_before_is_gone_and_what_follows_is_not,
    a_repeat_gets_the_same_answer_everywhere,
    nobody_hears_of_somebody_unknown,
    somebody_known_elsewhere_is_erased_all_the_same,
    what_was_sealed_since_is_erased_by_the_next,
    a_process_that_remembers_the_key_seals_under_another,
    a_key_in_use_is_not_asked_for_again,
    an_adopted_stream_loses_its_own_key,
    a_stream_that_named_two_counts_for_both,
    a_stream_that_came_back_to_the_first_counts_once,
    others_are_not_touched,
    of_erasures_at_once_one_counts,
    an_erasure_whose_commit_was_not_heard_of_is_found,
    an_erasure_whose_commit_was_lost_is_done_again,
    a_caller_who_leaves_does_not_stop_it,
    an_event_is_readable_exactly_if_it_follows_the_last_erasure,
);

/// A process that goes on believing what it knows.
pub(crate) fn stubborn(place: &Place) -> Client {
    let options = Options {
        key_cache_ttl: Duration::from_mins(10),
        ..Options::default()
    };
    Client::on(place, place.process(options))
}

fn of(subscriber_id: &str) -> Erasure {
    Erasure {
        subscriber_id: SubscriberId::new(subscriber_id).unwrap(),
        request_id: Some("req-1".to_owned()),
        is_known: false,
    }
}

async fn try_erase(client: &Client, subscriber_id: &str) -> Result<Option<Erased>, LedgerError> {
    client.ledger.erase(&client.order, of(subscriber_id)).await
}

pub(crate) async fn erase(client: &Client, subscriber_id: &str) -> Erased {
    try_erase(client, subscriber_id).await.unwrap().unwrap()
}

async fn erasures(place: &Place) -> Vec<RecordedEvent> {
    let mut record = checked_record(place).await;
    record.retain(|event| event.event_type == "subscriber.erased");
    record
}

async fn what_was_sealed_before_is_gone_and_what_follows_is_not(place: &Place) {
    let client = stubborn(place);
    let before = confided(&client).await;
    client.confide(before, sent("sg-1"), SECRET).await.unwrap();
    place.clock.set(7);

    let erased = erase(&client, "ann").await;

    assert_eq!(erased.erased_at, client.surroundings.now());
    assert_eq!((erased.notifications, erased.is_repeat), (1, false));
    let after = confided(&client).await;
    for client in [&client, &Client::of(place)] {
        assert_eq!(opened(client, before).await, None);
        assert_eq!(opened(client, after).await.as_deref(), Some(SECRET));
    }
    let told = erasures(place).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].position, erased.position.position);
    assert_eq!(told[0].subscriber_id.as_deref(), Some("ann"));
    assert_eq!(
        told[0].data,
        r#"{"subscriber_id":"ann","notifications":1,"request_id":"req-1"}"#
    );
    assert_eq!(told[0].actor_id, "key-1");
}

async fn a_repeat_gets_the_same_answer_everywhere(place: &Place) {
    let client = Client::of(place);
    confided(&client).await;
    let first = erase(&client, "ann").await;
    place.clock.set(60);

    for client in [&client, &Client::of(place), &stubborn(place)] {
        let again = erase(client, "ann").await;

        assert!(again.is_repeat);
        assert_eq!(
            Erased {
                is_repeat: false,
                ..again
            },
            first
        );
    }
    // What holds nothing private changes nothing.
    client
        .begin(client.new_stream(), request_for("ann"))
        .await
        .unwrap();
    assert_eq!(erase(&client, "ann").await.notifications, 1);
    assert_eq!(erasures(place).await.len(), 1);
}

async fn nobody_hears_of_somebody_unknown(place: &Place) {
    let client = Client::of(place);
    confided(&client).await;
    let before = checked_record(place).await;

    for unknown in ["bob", "Ann", "ann ", "an", "anna"] {
        assert_eq!(try_erase(&client, unknown).await.unwrap(), None);
    }
    let elsewhere = client.clone().for_tenant("globex", 0);
    assert_eq!(try_erase(&elsewhere, "ann").await.unwrap(), None);

    assert_eq!(checked_record(place).await, before);
}

async fn somebody_known_elsewhere_is_erased_all_the_same(place: &Place) {
    let client = Client::of(place);
    let erasure = Erasure {
        is_known: true,
        ..of("ann")
    };

    let erased = client.ledger.erase(&client.order, erasure).await.unwrap();

    assert_eq!(erased.unwrap().notifications, 0);
    assert!(erase(&client, "ann").await.is_repeat);
    // Without anything private, too.
    client
        .begin(client.new_stream(), request_for("bob"))
        .await
        .unwrap();
    assert_eq!(erase(&client, "bob").await.notifications, 1);
}

async fn what_was_sealed_since_is_erased_by_the_next(place: &Place) {
    let client = stubborn(place);
    let mut streams = Vec::new();
    for number in 1..=4 {
        streams.push(confided(&client).await);
        place.clock.set(number);

        let erased = erase(&client, "ann").await;

        assert_eq!(erased.notifications, u64::try_from(number).unwrap());
        assert_eq!(erased.erased_at, client.surroundings.now());
        for stream in &streams {
            assert_eq!(opened(&Client::of(place), *stream).await, None);
        }
    }
    // A fact about an old notification, too.
    let told = client
        .confide(streams[0], sent("sg-1"), SECRET)
        .await
        .unwrap();
    let report = &told.aggregate.reports()[0];
    let sealed = report.sealed.as_ref().unwrap();
    let open = async || {
        let client = Client::of(place);
        let text = client
            .ledger
            .open(&told.stream, report.event_id, sealed)
            .await;
        text.unwrap().is_some()
    };
    assert!(open().await);
    assert!(!erase(&client, "ann").await.is_repeat);
    assert!(!open().await);
    assert_eq!(erasures(place).await.len(), 5);
}

async fn a_process_that_remembers_the_key_seals_under_another(place: &Place) {
    let (here, there) = (stubborn(place), stubborn(place));
    confided(&here).await;
    let known = confided(&there).await;
    assert_eq!(opened(&there, known).await.as_deref(), Some(SECRET));

    erase(&here, "ann").await;
    let after = confided(&there).await;
    let told = there.confide(known, sent("sg-1"), SECRET).await.unwrap();

    let reader = Client::of(place);
    assert_eq!(opened(&reader, after).await.as_deref(), Some(SECRET));
    assert_eq!(opened(&reader, known).await, None);
    let report = &told.aggregate.reports()[0];
    let sealed = report.sealed.as_ref().unwrap();
    let text = reader
        .ledger
        .open(&told.stream, report.event_id, sealed)
        .await;
    assert_eq!(text.unwrap().unwrap().as_str(), SECRET);
}

/// The hot path: as long as nobody is erased, nobody asks again for a key that is known.
async fn a_key_in_use_is_not_asked_for_again(place: &Place) {
    let storage = FaultyStorage::new(&place.storage);
    let options = Options {
        key_cache_ttl: Duration::from_mins(10),
        ..Options::default()
    };
    let client = Client::on(place, place.process_on(Arc::new(storage.clone()), options));
    confided(&client).await;
    let asked = storage.keys_asked_for();
    assert_eq!(asked, 1, "a new key is looked for when it is stored");

    confided(&client).await;
    assert_eq!(storage.keys_asked_for(), asked);

    client
        .begin(client.new_stream(), request_for("bob"))
        .await
        .unwrap();
    erase(&Client::of(place), "bob").await;
    let stream = confided(&client).await;
    assert_eq!(
        storage.keys_asked_for(),
        asked + 1,
        "somebody was erased since"
    );
    assert_eq!(
        opened(&Client::of(place), stream).await.as_deref(),
        Some(SECRET)
    );
}

pub(crate) fn reported(client: &Client, named: Option<&str>, message_id: &str) -> Action {
    let ids = &client.surroundings.ids;
    Action::Report {
        report: Arc::new(Report {
            fact: Fact::Sent,
            message: MessageRef {
                message_id: Some(message_id.to_owned()),
                ..MessageRef::default()
            },
            untimed: false,
            context: Context {
                subscriber_id: named.map(|id| SubscriberId::new(id).unwrap()),
                ..Context::default()
            },
            delivery_id: None,
        }),
        adoption: Some(Adoption {
            event_id: EventId(ids.time_ordered()),
            adopted: Adopted {
                provider: "novu".to_owned(),
                transaction_id: None,
            },
        }),
    }
}

/// Which of a stream's reports can still be read.
async fn readable_reports(place: &Place, stream: StreamId) -> Vec<bool> {
    let client = Client::of(place);
    let loaded = client.load(stream).await;
    let mut readable = Vec::new();
    for report in loaded.aggregate.reports() {
        let sealed = report.sealed.as_ref().unwrap();
        let text = client
            .ledger
            .open(&loaded.stream, report.event_id, sealed)
            .await;
        readable.push(text.unwrap().is_some());
    }
    readable
}

async fn an_adopted_stream_loses_its_own_key(place: &Place) {
    let client = stubborn(place);
    let [named_late, never_named, named_at_once] = [(); 3].map(|()| client.new_stream());
    let tell = async |stream, named, message| {
        let report = reported(&client, named, message);
        client.confide(stream, report, SECRET).await.unwrap();
    };
    tell(named_late, None, "m-1").await;
    tell(never_named, None, "m-2").await;
    tell(named_at_once, Some("ann"), "m-3").await;
    tell(named_late, Some("ann"), "m-4").await;
    let own_key = key_place(&client.key(named_late), &Subject::Stream, 0);
    let stored = place
        .storage
        .data_keys(std::slice::from_ref(&own_key))
        .await;
    assert!(stored.unwrap()[0].wrapped_key.is_some());

    let erased = erase(&client, "ann").await;

    assert_eq!(erased.notifications, 2);
    assert_eq!(readable_reports(place, named_late).await, [false, false]);
    assert_eq!(readable_reports(place, named_at_once).await, [false]);
    assert_eq!(readable_reports(place, never_named).await, [true]);
    let stored = place.storage.data_keys(&[own_key]).await.unwrap();
    assert_eq!(stored[0].wrapped_key, None);
}

async fn a_stream_that_named_two_counts_for_both(place: &Place) {
    let client = stubborn(place);
    let stream = client.new_stream();
    let report = reported(&client, Some("bob"), "m-1");
    client.confide(stream, report, SECRET).await.unwrap();
    client
        .confide(stream, request_for("ann"), SECRET)
        .await
        .unwrap();

    assert_eq!(erase(&client, "bob").await.notifications, 1);
    assert_eq!(readable_reports(place, stream).await, [false]);
    assert_eq!(
        opened(&Client::of(place), stream).await.as_deref(),
        Some(SECRET)
    );
    assert_eq!(erase(&client, "ann").await.notifications, 1);
    assert_eq!(opened(&Client::of(place), stream).await, None);
}

async fn a_stream_that_came_back_to_the_first_counts_once(place: &Place) {
    let client = stubborn(place);
    let stream = client.new_stream();
    let tell = async |named, message| {
        let report = reported(&client, Some(named), message);
        client.confide(stream, report, SECRET).await.unwrap()
    };
    tell("bob", "m-1").await;
    // A report of something earlier says otherwise, until the request comes.
    place.clock.set(-5);
    let told = tell("ann", "m-2").await;
    assert_eq!(told.aggregate.subscriber_id().unwrap().as_str(), "ann");
    client
        .confide(stream, request_for("bob"), SECRET)
        .await
        .unwrap();

    assert_eq!(erase(&client, "bob").await.notifications, 1);
    assert_eq!(erase(&client, "ann").await.notifications, 1);
    assert_eq!(opened(&Client::of(place), stream).await, None);
}

async fn others_are_not_touched(place: &Place) {
    let client = stubborn(place);
    let elsewhere = client.clone().for_tenant("globex", 0);
    let far_away = client.clone().for_tenant("initech", 1);
    let mut kept = Vec::new();
    for client in [&elsewhere, &far_away] {
        kept.push((client.clone(), confided(client).await));
    }
    let bobs = client.new_stream();
    client
        .confide(bobs, request_for("bob"), SECRET)
        .await
        .unwrap();
    kept.push((client.clone(), bobs));
    confided(&client).await;

    assert_eq!(erase(&client, "ann").await.notifications, 1);

    for (client, stream) in kept {
        assert_eq!(opened(&client, stream).await.as_deref(), Some(SECRET));
    }
}

async fn of_erasures_at_once_one_counts(place: &Place) {
    const ROUNDS: usize = 10;
    let clients: Vec<_> = (0..4).map(|_| stubborn(place)).collect();
    for round in 1..=ROUNDS {
        for client in &clients {
            confided(client).await;
        }

        let calls = clients.iter().chain(&clients);
        let told = join_all(calls.map(|client| erase(client, "ann"))).await;

        let first = told.iter().filter(|erased| !erased.is_repeat).count();
        assert_eq!(first, 1, "{told:?}");
        let answers: BTreeSet<_> = told
            .iter()
            .map(|erased| (erased.erased_at, erased.notifications, erased.position))
            .collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let named = u64::try_from(clients.len() * round).unwrap();
        assert_eq!(told[0].notifications, named);
        assert_eq!(erasures(place).await.len(), round);
    }
}

async fn an_erasure_whose_commit_was_not_heard_of_is_found(place: &Place) {
    let storage = FaultyStorage::new(&place.storage);
    let options = Options {
        key_cache_ttl: Duration::from_mins(10),
        ..Options::default()
    };
    let client = Client::on(place, place.process_on(Arc::new(storage.clone()), options));
    let stream = confided(&client).await;
    assert_eq!(opened(&client, stream).await.as_deref(), Some(SECRET));
    storage.fail_next(Commit::Unheard);

    let told = try_erase(&client, "ann").await;

    assert!(matches!(told, Err(LedgerError::Storage(_))), "{told:?}");
    assert_eq!(opened(&client, stream).await, None);
    let again = erase(&client, "ann").await;
    assert_eq!((again.notifications, again.is_repeat), (1, true));
    assert_eq!(erasures(place).await.len(), 1);
}

async fn an_erasure_whose_commit_was_lost_is_done_again(place: &Place) {
    let storage = FaultyStorage::new(&place.storage);
    let client = Client::on(
        place,
        place.process_on(Arc::new(storage.clone()), Options::default()),
    );
    let stream = confided(&client).await;
    storage.fail_next(Commit::Lost);

    let told = try_erase(&client, "ann").await;

    assert!(matches!(told, Err(LedgerError::Storage(_))), "{told:?}");
    assert_eq!(opened(&client, stream).await.as_deref(), Some(SECRET));
    assert!(!erase(&client, "ann").await.is_repeat);
    assert_eq!(opened(&client, stream).await, None);
}

async fn a_caller_who_leaves_does_not_stop_it(place: &Place) {
    let client = stubborn(place);
    let stream = confided(&client).await;
    {
        let erasing = client.ledger.erase(&client.order, of("ann"));
        tokio::pin!(erasing);
        // In memory it may be over by then.
        let _ = futures_util::poll!(&mut erasing);
    }

    let started = Instant::now();
    while opened(&client, stream).await.is_some() {
        assert!(started.elapsed() < Duration::from_secs(10), "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(erase(&client, "ann").await.is_repeat);
    assert_eq!(erasures(place).await.len(), 1);
}

async fn an_event_is_readable_exactly_if_it_follows_the_last_erasure(place: &Place) {
    const CLIENTS: usize = 4;
    const EACH: usize = 25;
    const ERASURES: usize = 8;
    let processes = [stubborn(place), stubborn(place)];
    confided(&processes[0]).await;
    let mut writing = JoinSet::new();
    for number in 0..CLIENTS {
        let client = processes[number % 2].clone();
        writing.spawn(async move {
            let mut acknowledged = Vec::new();
            for message in 0..EACH {
                let stream = confided(&client).await;
                let id = format!("sg-{number}-{message}");
                client.confide(stream, sent(&id), SECRET).await.unwrap();
                acknowledged.push(stream);
            }
            acknowledged
        });
    }
    let mut told = Vec::new();
    for number in 0..ERASURES {
        told.push(erase(&processes[number % 2], "ann").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let acknowledged: Vec<_> = writing.join_all().await.into_iter().flatten().collect();

    let last = told.last().unwrap().position.position;
    let record = checked_record(place).await;
    assert_eq!(
        record.len(),
        1 + CLIENTS * EACH * 2 + erasures(place).await.len()
    );
    let reader = Client::of(place);
    let (mut kept, mut gone) = (0, 0);
    for stream in acknowledged {
        for event in reader.events(stream).await.iter() {
            let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            let sealed = serde_json::from_value(data["sealed"].clone()).unwrap();
            let key = reader.key(stream);
            let text = reader
                .ledger
                .open(&key, event.event_id, &sealed)
                .await
                .unwrap();
            let is_after = event.position > last;
            assert_eq!(text.is_some(), is_after, "{:?} {last:?}", event.position);
            if is_after { kept += 1 } else { gone += 1 }
        }
    }
    assert!(gone > 0, "{kept} kept, {gone} gone");
    // Each answer is what was on record just then.
    for erased in &told {
        let position = erased.position.position;
        assert_eq!(erased.notifications, named_before(&record, position));
    }
}

fn named_before(record: &[RecordedEvent], position: Position) -> u64 {
    let before = record.iter().filter(|event| event.position < position);
    let named = before.filter(|event| event.event_type.starts_with("notification."));
    let streams: BTreeSet<_> = named.map(|event| event.stream_id).collect();
    streams.len() as u64
}

/// Everything in the folder of a SQLite file.
fn files(place: &Place) -> String {
    let Database::Sqlite { path, .. } = place.database() else {
        unreachable!()
    };
    let folder = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let mut bytes = Vec::new();
    for file in folder {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn no_wrapped_key_is_left_in_the_files(place: &Place) {
    const SUBSCRIBERS: usize = 600;
    const ERASED: [usize; 5] = [0, 123, 300, 301, 599];
    let client = stubborn(place);
    let name = |number: usize| format!("cust-{number}");
    let key = |number: usize| {
        let subject = Subject::Subscriber(SubscriberId::new(&name(number)).unwrap());
        key_place(&client.key(StreamId(uuid::Uuid::nil())), &subject, 0)
    };
    // So many that pages are split, and some keys move between them.
    for numbers in (0..SUBSCRIBERS).collect::<Vec<_>>().chunks(50) {
        let told = numbers.iter().map(async |number| {
            let stream = client.new_stream();
            client
                .confide(stream, request_for(&name(*number)), SECRET)
                .await
                .unwrap();
        });
        join_all(told).await;
    }
    let places: Vec<_> = (0..SUBSCRIBERS).map(key).collect();
    let mut wrapped = vec![String::new(); SUBSCRIBERS];
    for stored in place.storage.data_keys(&places).await.unwrap() {
        let number = places
            .iter()
            .position(|place| *place == stored.place)
            .unwrap();
        wrapped[number] = stored.wrapped_key.unwrap();
    }
    let before = files(place);
    assert!(wrapped.iter().all(|key| before.contains(key.as_str())));

    for number in ERASED {
        erase(&client, &name(number)).await;
    }

    let after = files(place);
    for (number, key) in wrapped.iter().enumerate() {
        // Not even a part of it.
        let is_there = after.contains(key.as_str()) || after.contains(&key[20..60]);
        assert_eq!(is_there, !ERASED.contains(&number), "{number}");
    }
}

#[tokio::test]
async fn no_wrapped_key_is_left_in_the_file_or_its_log() {
    on_sqlite(no_wrapped_key_is_left_in_the_files).await;
}

async fn a_long_reader_is_told_of(place: &Place) {
    let client = stubborn(place);
    confided(&client).await;
    let places = [key_place(&client.key(client.new_stream()), &ann(), 0)];
    let key = place.storage.data_keys(&places).await.unwrap().remove(0);
    let wrapped = key.wrapped_key.unwrap();
    let Database::Sqlite { options, .. } = place.database() else {
        unreachable!()
    };
    let mut reader = options.connect().await.unwrap();
    reader
        .execute("BEGIN; SELECT * FROM data_keys")
        .await
        .unwrap();

    let told = try_erase(&client, "ann").await;

    // It is done, and cannot be undone. But the file still has what the reader may read.
    assert!(matches!(told, Err(LedgerError::StillRead)), "{told:?}");
    assert!(files(place).contains(&wrapped));
    // Nobody was kept from writing all that time.
    confided(&client).await;
    reader.execute("ROLLBACK").await.unwrap();
    reader.close().await.unwrap();
    erase(&client, "ann").await;
    assert!(!files(place).contains(&wrapped));
}

#[tokio::test]
async fn whoever_goes_on_reading_the_file_keeps_an_erasure_from_being_answered() {
    on_sqlite(a_long_reader_is_told_of).await;
}
