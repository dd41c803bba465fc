//! Batches that are planned on what a lane knows: right as long as nobody else appends, and noticed
//! when somebody does.

use std::sync::Arc;

use notification_ledger::domain::ids::{Sequence, StreamId};
use notification_ledger::domain::notification::Refusal;
use notification_ledger::ledger::{CommandError, Options};

use crate::client::{Client, checked_record, request, request_for, sent};
use crate::erasing::{erase, reported};
use crate::faulty::FaultyStorage;
use crate::sealing::opened;
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread":
    a_lane_that_is_alone_locks_nothing,
    what_another_process_appended_is_noticed,
    a_stream_that_another_process_began_is_not_begun_again,
    a_stream_under_an_id_of_the_callers_is_begun_without_looking,
    a_key_that_was_used_is_found_again,
    a_data_key_that_another_process_stored_is_used,
    an_erasure_by_another_process_is_noticed,
);

/// A caller of a process that counts what its lane does.
fn counted(place: &Place) -> (FaultyStorage, Client) {
    let storage = FaultyStorage::new(&place.storage);
    let ledger = place.process_on(Arc::new(storage.clone()), Options::default());
    (storage, Client::on(place, ledger))
}

/// A new notification with something to hide.
async fn confided_to(client: &Client, subscriber_id: &str) -> StreamId {
    let stream = client.new_stream();
    client
        .confide(stream, request_for(subscriber_id), r#"{"to":"home"}"#)
        .await
        .unwrap();
    stream
}

async fn a_lane_that_is_alone_locks_nothing(place: &Place) {
    let (storage, client) = counted(place);
    let stream = client.requested().await;
    let locked = storage.locks();
    let asked = storage.look_ups();

    for number in 0..20 {
        let done = client.tell(stream, sent(&format!("sg-{number}"))).await;
        assert_eq!(done.unwrap().tip.sequence, Sequence(number + 2));
        client.requested().await;
    }

    assert_eq!((storage.locks(), storage.look_ups()), (locked, asked));
    assert_eq!(checked_record(place).await.len(), 41);
}

async fn what_another_process_appended_is_noticed(place: &Place) {
    let (storage, here) = counted(place);
    let there = Client::of(place);
    let stream = here.requested().await;
    here.tell(stream, sent("sg-0")).await.unwrap();

    for number in 1..10 {
        let locked = storage.locks();
        let told = there.tell(stream, sent(&format!("there-{number}"))).await;
        assert_eq!(told.unwrap().tip.sequence, Sequence(2 * number + 1));
        let told = here.tell(stream, sent(&format!("here-{number}"))).await;
        assert_eq!(told.unwrap().tip.sequence, Sequence(2 * number + 2));
        assert!(storage.locks() > locked);
    }

    assert_eq!(checked_record(place).await.len(), 20);
}

async fn a_stream_that_another_process_began_is_not_begun_again(place: &Place) {
    let (_, here) = counted(place);
    let there = Client::of(place);
    here.requested().await;
    let stream = here.new_stream();
    there.begin(stream, request()).await.unwrap();

    here.begin(stream, request()).await.unwrap_err();
    here.requested().await;

    assert_eq!(here.events(stream).await.len(), 1);
    assert_eq!(checked_record(place).await.len(), 3);
}

async fn a_stream_under_an_id_of_the_callers_is_begun_without_looking(place: &Place) {
    let (storage, here) = counted(place);
    let there = Client::of(place);
    let theirs = here.new_stream();
    there.begin(theirs, request()).await.unwrap();
    here.requested().await;
    let asked = (storage.streams_read(), storage.look_ups());

    let ours = here.new_stream();
    here.begin_own(ours, request()).await.unwrap();
    assert_eq!((storage.streams_read(), storage.look_ups()), asked);

    for taken in [ours, theirs] {
        let (refused, neighbour) = tokio::join!(
            here.begin_own(taken, request()),
            here.begin_own(here.new_stream(), request()),
        );
        assert!(matches!(
            refused.unwrap_err(),
            CommandError::Refused(Refusal::AlreadyExists)
        ));
        neighbour.unwrap();
        assert_eq!(here.events(taken).await.len(), 1);
    }
    // What a provider reported first is completed.
    let adopted = here.new_stream();
    let report = reported(&there, Some("ada"), "m-1");
    there.begin(adopted, report).await.unwrap();
    here.begin_own(adopted, request()).await.unwrap();
    assert_eq!(here.events(adopted).await.len(), 3);
    assert_eq!(checked_record(place).await.len(), 8);
}

async fn a_key_that_was_used_is_found_again(place: &Place) {
    let (_, here) = counted(place);
    here.requested().await;
    let keyed = here.with_key("k", 1);
    let first = keyed.begin(here.new_stream(), request()).await.unwrap();
    let again = keyed.begin(here.new_stream(), request()).await.unwrap();

    assert!(!first.replayed && again.replayed);
    assert_eq!(first.stream, again.stream);
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_data_key_that_another_process_stored_is_used(place: &Place) {
    let (_, here) = counted(place);
    let there = Client::of(place);
    here.requested().await;
    let told = [
        confided_to(&here, "ann").await,
        confided_to(&there, "ann").await,
        confided_to(&here, "ann").await,
        confided_to(&there, "bob").await,
        confided_to(&here, "bob").await,
    ];

    for stream in told {
        for client in [&here, &there, &Client::of(place)] {
            assert!(opened(client, stream).await.is_some());
        }
    }
    checked_record(place).await;
}

async fn an_erasure_by_another_process_is_noticed(place: &Place) {
    let (_, here) = counted(place);
    let there = Client::of(place);
    let before = confided_to(&here, "ann").await;
    here.requested().await;
    erase(&there, "ann").await;
    let after = confided_to(&here, "ann").await;

    let elsewhere = Client::of(place);
    assert_eq!(opened(&elsewhere, before).await, None);
    assert!(opened(&elsewhere, after).await.is_some());
    checked_record(place).await;
}
