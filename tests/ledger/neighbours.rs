//! Whoever shares a batch shares nothing else: not bad data, not a conflict, not a hang-up.

use std::sync::Arc;

use futures_util::poll;
use notification_ledger::ledger::lane::QueueLimits;
use notification_ledger::ledger::storage::StorageError;
use notification_ledger::ledger::{CommandError, LedgerError, Options};

use crate::client::{Client, Told, checked_record, request, sent};
use crate::faulty::{Commit, FaultyStorage, POISON};
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread":
    what_queues_up_is_committed_together,
    a_bad_request_harms_nobody_else_in_its_batch,
    who_hangs_up_harms_nobody_else_in_the_batch,
    an_unheard_commit_is_not_repeated,
    a_lost_commit_is_repeated,
    a_full_queue_says_so_at_once,
    a_full_queue_says_so_by_its_bytes,
    a_large_command_passes_an_empty_queue,
);

/// A caller of a process on a storage that can be made to fail.
fn faulty(place: &Place) -> (FaultyStorage, Client) {
    let storage = FaultyStorage::new(&place.storage);
    let ledger = place.process_on(Arc::new(storage.clone()), Options::default());
    (storage, Client::on(place, ledger))
}

fn rejected(told: &Told) -> bool {
    let Err(CommandError::Ledger(LedgerError::Storage(error))) = told else {
        return false;
    };
    matches!(**error, StorageError::Rejected(_))
}

fn overloaded(told: &Told) -> bool {
    matches!(told, Err(CommandError::Ledger(LedgerError::Overloaded)))
}

async fn what_queues_up_is_committed_together(place: &Place) {
    let (storage, client) = faulty(place);
    let elsewhere = client.clone().for_tenant("globex", 1);

    storage
        .together(&client, &[client.clone(), elsewhere, client.clone()])
        .await;
    assert_eq!(storage.committed(), [1, 3]);
    checked_record(place).await;
}

async fn a_bad_request_harms_nobody_else_in_its_batch(place: &Place) {
    let (storage, client) = faulty(place);
    let mut clients = vec![client.clone(); 9];
    clients[4] = client.correlating(POISON);

    let told = storage.together(&clients[0], &clients).await;
    let bad: Vec<_> = (0..9).filter(|number| told[*number].is_err()).collect();
    assert_eq!(bad, [4]);
    assert!(rejected(&told[4]), "{:?}", told[4]);
    // The halves without it are committed whole, in the order they came.
    assert_eq!(storage.committed(), [1, 4, 1, 3]);
    let record = checked_record(place).await;
    let streams: Vec<_> = record[1..].iter().map(|event| event.stream_id).collect();
    let told: Vec<_> = told
        .iter()
        .flatten()
        .map(|done| done.stream.stream_id)
        .collect();
    assert_eq!(streams, told);
}

async fn who_hangs_up_harms_nobody_else_in_the_batch(place: &Place) {
    let (storage, client) = faulty(place);
    let stream = client.new_stream();
    storage.hold();
    let before = client.begin(client.new_stream(), request());
    let neighbour = client.begin(client.new_stream(), request());
    tokio::pin!(before, neighbour);
    assert!(poll!(&mut before).is_pending());
    storage.is_waiting().await;
    {
        let hanging_up = client.begin(stream, request());
        tokio::pin!(hanging_up);
        assert!(poll!(&mut hanging_up).is_pending());
        assert!(poll!(&mut neighbour).is_pending());
    }

    storage.go_on();
    before.await.unwrap();
    neighbour.await.unwrap();
    assert_eq!(storage.committed(), [1, 2]);
    // The one who hung up can go on, too.
    assert_eq!(
        client
            .tell(stream, sent("sg-1"))
            .await
            .unwrap()
            .tip
            .sequence
            .0,
        2
    );
    assert_eq!(checked_record(place).await.len(), 4);
}

async fn an_unheard_commit_is_not_repeated(place: &Place) {
    let (storage, client) = faulty(place);
    let stream = client.requested().await;
    client.tell(stream, sent("sg-0")).await.unwrap();
    let keyed = client.with_key("k", 1);
    storage.fail_next(Commit::Unheard);
    let told = keyed.begin(client.new_stream(), request()).await;
    assert!(
        told.is_ok_and(|done| done.replayed),
        "the key tells what became of it"
    );

    storage.fail_next(Commit::Unheard);
    let told = client.tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!((told.appended, told.tip.sequence.0), (1, 3));
    let recorded = client.events(stream).await;
    assert_eq!(recorded.last().unwrap().tip(), told.tip);
    let again = client.tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!((again.appended, again.tip), (0, told.tip));
    assert_eq!(checked_record(place).await.len(), 4);
}

async fn a_lost_commit_is_repeated(place: &Place) {
    let (storage, client) = faulty(place);
    let stream = client.requested().await;
    let keyed = client.with_key("k", 1);
    storage.fail_next(Commit::Lost);
    let told = keyed.tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!((told.appended, told.replayed), (1, false));
    assert_eq!(checked_record(place).await.len(), 2);

    let again = keyed.tell(stream, sent("sg-1")).await.unwrap();
    assert!(again.replayed);
    assert_eq!(checked_record(place).await.len(), 2);
}

/// A caller of a process that lets so much wait, on a storage that can be made to.
fn with_queue(place: &Place, lanes: u16, queue: QueueLimits) -> (FaultyStorage, Client) {
    let storage = FaultyStorage::new(&place.storage);
    let options = Options {
        queue,
        lanes,
        ..Options::default()
    };
    let ledger = place.process_on(Arc::new(storage.clone()), options);
    (storage, Client::on(place, ledger))
}

async fn a_full_queue_says_so_at_once(place: &Place) {
    let queue = QueueLimits {
        commands: 2,
        bytes: 1 << 20,
    };
    let (storage, client) = with_queue(place, 1, queue);

    let told = storage.together(&client, &vec![client.clone(); 5]).await;
    let answers: Vec<_> = told.iter().map(overloaded).collect();
    assert_eq!(answers, [false, false, true, true, true]);
    assert_eq!(told.iter().flatten().count(), 2);
    client.requested().await;
    assert_eq!(checked_record(place).await.len(), 4);
}

async fn a_full_queue_says_so_by_its_bytes(place: &Place) {
    // Over all lanes, and one command is at least half a kilobyte.
    let queue = QueueLimits {
        commands: 100,
        bytes: 1500,
    };
    let (storage, one) = with_queue(place, 2, queue);
    let other = one.clone().for_tenant("globex", 1);

    let callers = [one.clone(), other.clone(), one.clone(), other];
    let told = storage.queued(&callers).await;
    let answers: Vec<_> = told.iter().map(overloaded).collect();
    assert_eq!(answers, [false, false, true, true]);
    for told in storage.queued(&[one.clone(), one]).await {
        told.unwrap();
    }
    assert_eq!(checked_record(place).await.len(), 4);
}

async fn a_large_command_passes_an_empty_queue(place: &Place) {
    let queue = QueueLimits {
        commands: 100,
        bytes: 10,
    };
    let (storage, client) = with_queue(place, 1, queue);

    let told = storage.queued(&[client.clone(), client.clone()]).await;
    assert!(told[0].is_ok() && overloaded(&told[1]), "{told:?}");
    client.requested().await;
}
