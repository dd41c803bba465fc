//! A request that is repeated gets its first answer again.

use std::sync::Arc;

use notification_ledger::domain::event::Fact;
use notification_ledger::domain::ids::Sequence;
use notification_ledger::domain::notification::Action;
use notification_ledger::domain::notification::Notification;
use notification_ledger::ledger::{CommandError, Done, LedgerError, Options};

use crate::client::{Client, Told, checked_record, idempotency, queue, request, said, sent};
use crate::faulty::FaultyStorage;
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread":
    a_repeat_gets_the_first_answer_though_the_stream_moved_on,
    a_key_used_for_another_request_is_refused,
    a_repeat_that_would_be_refused_gets_the_first_answer,
    a_repeat_for_an_older_version_gets_the_first_answer,
    a_request_that_appended_nothing_is_remembered,
    a_request_that_was_refused_leaves_its_key_free,
    keys_of_one_batch_count_once,
    keys_outlive_the_process,
    a_key_belongs_to_one_tenant,
    an_answer_is_kept_for_calls_that_append_nothing,
    a_key_is_used_for_a_command_or_for_another_call,
    an_answer_for_a_claimed_key_can_follow,
);

/// `again` is `first`, told again.
fn assert_replayed(again: &Done<Notification>, first: &Done<Notification>) {
    assert!(again.replayed && !first.replayed);
    assert_eq!((&again.stream, again.tip), (&first.stream, first.tip));
    assert_eq!(again.aggregate, first.aggregate);
    assert_eq!(again.appended, first.appended);
}

fn is_reuse(told: &Told) -> bool {
    matches!(
        told,
        Err(CommandError::Ledger(LedgerError::IdempotencyKeyReused))
    )
}

async fn a_repeat_gets_the_first_answer_though_the_stream_moved_on(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let keyed = client.with_key("k", 1);
    let first = keyed.tell(stream, sent("sg-1")).await.unwrap();
    client.tell(stream, sent("sg-2")).await.unwrap();
    place.clock.set(60);

    // A minute later it would be another fact.
    assert_replayed(&keyed.tell(stream, sent("sg-1")).await.unwrap(), &first);
    assert_eq!(first.tip.sequence, Sequence(2));
    let elsewhere = Client::of(place).with_key("k", 1);
    assert_replayed(&elsewhere.tell(stream, sent("sg-1")).await.unwrap(), &first);
    assert_eq!(checked_record(place).await.len(), 3);
}

async fn a_key_used_for_another_request_is_refused(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    client
        .with_key("k", 1)
        .tell(stream, sent("sg-1"))
        .await
        .unwrap();

    let other = client.with_key("k", 2);
    // One that would be new, one that is on record already, one that the rules refuse.
    for action in [sent("sg-2"), sent("sg-1"), request()] {
        let told = other.tell(stream, action).await;
        assert!(is_reuse(&told), "{told:?}");
    }
    assert!(is_reuse(&other.begin(client.new_stream(), request()).await));
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_repeat_that_would_be_refused_gets_the_first_answer(place: &Place) {
    let client = Client::of(place);
    let stream = client.new_stream();
    let first = client
        .with_key("request", 1)
        .tell(stream, request())
        .await
        .unwrap();
    let queued = client
        .with_key("queue", 2)
        .tell(stream, queue())
        .await
        .unwrap();

    let again = client
        .with_key("request", 1)
        .tell(stream, request())
        .await
        .unwrap();
    assert_replayed(&again, &first);
    let again = client
        .with_key("queue", 2)
        .tell(stream, queue())
        .await
        .unwrap();
    assert_replayed(&again, &queued);
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_repeat_for_an_older_version_gets_the_first_answer(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let careful = client.with_key("k", 1).expecting(1);
    let first = careful.tell(stream, queue()).await.unwrap();

    assert_replayed(&careful.tell(stream, queue()).await.unwrap(), &first);
}

async fn a_request_that_appended_nothing_is_remembered(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    client.tell(stream, Action::Retract).await.unwrap();
    let keyed = client.with_key("k", 1);
    let first = keyed.tell(stream, Action::Retract).await.unwrap();
    assert_eq!(
        (first.appended, first.replayed, first.tip.sequence),
        (0, false, Sequence(2))
    );
    client.tell(stream, sent("sg-1")).await.unwrap();

    assert_replayed(&keyed.tell(stream, Action::Retract).await.unwrap(), &first);
    assert!(is_reuse(
        &client.with_key("k", 2).tell(stream, Action::Retract).await
    ));
    assert_eq!(checked_record(place).await.len(), 3);
}

async fn a_request_that_was_refused_leaves_its_key_free(place: &Place) {
    let client = Client::of(place);
    let stream = client.new_stream();
    let keyed = client.with_key("k", 1);
    assert!(matches!(
        keyed.tell(stream, queue()).await,
        Err(CommandError::Refused(_))
    ));

    client.begin(stream, request()).await.unwrap();
    let done = keyed.tell(stream, queue()).await.unwrap();
    assert_eq!((done.appended, done.replayed), (1, false));
}

async fn keys_of_one_batch_count_once(place: &Place) {
    let storage = FaultyStorage::new(&place.storage);
    let ledger = place.process_on(Arc::new(storage.clone()), Options::default());
    let client = Client::on(place, ledger);
    let keyed = [1, 1, 1, 2].map(|request| client.with_key("k", request));
    let told = storage.together(&client, &keyed).await;

    let [first, second, third, other] = told.as_slice() else {
        unreachable!()
    };
    let first = first.as_ref().unwrap();
    assert_replayed(second.as_ref().unwrap(), first);
    assert_replayed(third.as_ref().unwrap(), first);
    assert!(is_reuse(other), "{other:?}");
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn keys_outlive_the_process(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let first = client
        .with_key("k", 1)
        .tell(stream, sent("sg-1"))
        .await
        .unwrap();
    client
        .with_key("noop", 1)
        .tell(stream, sent("sg-1"))
        .await
        .unwrap();
    drop(client);
    place.stopped().await;

    let client = Client::of(place);
    assert_replayed(
        &client
            .with_key("k", 1)
            .tell(stream, sent("sg-1"))
            .await
            .unwrap(),
        &first,
    );
    assert!(is_reuse(
        &client.with_key("k", 2).tell(stream, sent("sg-2")).await
    ));
    assert!(
        client
            .with_key("noop", 1)
            .tell(stream, sent("sg-1"))
            .await
            .unwrap()
            .replayed
    );
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_key_belongs_to_one_tenant(place: &Place) {
    let acme = Client::of(place).with_key("k", 1);
    let globex = acme.clone().for_tenant("globex", 0).with_key("k", 2);
    acme.begin(acme.new_stream(), request()).await.unwrap();

    let done = globex.begin(globex.new_stream(), request()).await.unwrap();
    assert!(!done.replayed);
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn an_answer_is_kept_for_calls_that_append_nothing(place: &Place) {
    let client = Client::of(place);
    let (tenant, key) = (&client.order.tenant, idempotency("k", 1));
    assert_eq!(client.ledger.kept_answer(tenant, &key).await.unwrap(), None);
    let kept = client
        .ledger
        .keep_answer(tenant, &key, Some("one".to_owned()))
        .await
        .unwrap();
    assert_eq!(kept.answer.as_deref(), Some("one"));
    assert_eq!(
        (kept.command, kept.recorded_at),
        (None, place.surroundings().now())
    );

    place.clock.set(60);
    let again = client
        .ledger
        .keep_answer(tenant, &key, Some("two".to_owned()))
        .await
        .unwrap();
    assert_eq!(again, kept);
    assert_eq!(
        client.ledger.kept_answer(tenant, &key).await.unwrap(),
        Some(kept)
    );
    let other = idempotency("k", 2);
    let asked = client.ledger.kept_answer(tenant, &other).await;
    assert!(
        matches!(asked, Err(LedgerError::IdempotencyKeyReused)),
        "{asked:?}"
    );
    let reused = client
        .ledger
        .keep_answer(tenant, &other, Some("three".to_owned()))
        .await;
    assert!(
        matches!(reused, Err(LedgerError::IdempotencyKeyReused)),
        "{reused:?}"
    );
    let globex = client.clone().for_tenant("globex", 0);
    assert_eq!(
        globex
            .ledger
            .kept_answer(&globex.order.tenant, &other)
            .await
            .unwrap(),
        None
    );
}

async fn a_key_is_used_for_a_command_or_for_another_call(place: &Place) {
    let client = Client::of(place);
    let tenant = &client.order.tenant;
    let stream = client.requested().await;
    let told = client
        .with_key("command", 1)
        .tell(stream, said(Fact::Sent, "sg-1", None))
        .await;
    client
        .ledger
        .keep_answer(tenant, &idempotency("call", 1), None)
        .await
        .unwrap();

    let used = idempotency("command", 1);
    let kept = client
        .ledger
        .keep_answer(tenant, &used, Some("x".to_owned()))
        .await
        .unwrap();
    assert_eq!(kept.command, Some((stream, told.unwrap().tip.sequence, 1)));
    assert_eq!(kept.answer, None);
    let reused = client.with_key("call", 1).tell(stream, sent("sg-2")).await;
    assert!(is_reuse(&reused), "{reused:?}");
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn an_answer_for_a_claimed_key_can_follow(place: &Place) {
    let client = Client::of(place);
    let (tenant, key) = (&client.order.tenant, idempotency("k", 1));
    let claim = client.ledger.keep_answer(tenant, &key, None).await.unwrap();
    assert_eq!(claim.answer, None);

    // A claim is no answer, but it holds off everybody else.
    let other = client
        .ledger
        .keep_answer(tenant, &idempotency("k", 2), None)
        .await;
    assert!(
        matches!(other, Err(LedgerError::IdempotencyKeyReused)),
        "{other:?}"
    );
    let kept = client
        .ledger
        .keep_answer(tenant, &key, Some("one".to_owned()))
        .await
        .unwrap();
    assert_eq!(kept.answer.as_deref(), Some("one"));
    let kept = client
        .ledger
        .keep_answer(tenant, &key, Some("two".to_owned()))
        .await
        .unwrap();
    assert_eq!(kept.answer.as_deref(), Some("one"));
}
