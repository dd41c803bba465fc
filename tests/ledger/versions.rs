//! Every command is decided on the stream as it stands, whoever else writes to it.

use std::slice;
use std::sync::Arc;

use notification_ledger::domain::event::Fact;
use notification_ledger::domain::ids::{EventId, Sequence, StreamId};
use notification_ledger::domain::notification::{Action, Refusal};
use notification_ledger::domain::sealing::Subject;
use notification_ledger::ledger::batch::{self, AppendOutcome, AppendRequest, Plan};
use notification_ledger::ledger::known::Known;
use notification_ledger::ledger::record::{NewEvent, Position, Tip};
use notification_ledger::ledger::sealing::place as key_place;
use notification_ledger::ledger::storage::StoredDataKey;
use notification_ledger::ledger::{CommandError, LedgerError};

use crate::client::{Client, Told, checked_record, queue, said, sent};
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread":
    a_command_for_another_version_is_refused,
    a_version_another_process_reached_is_known,
    what_another_process_appended_is_decided_upon,
    a_refusal_is_decided_on_what_another_process_appended,
    of_two_appends_decided_on_one_tip_one_wins,
    an_append_past_the_end_of_a_stream_is_refused,
    a_tip_of_another_history_is_refused,
    a_new_stream_with_a_known_id_is_a_conflict,
    a_batch_that_was_rolled_back_leaves_no_trace,
);

fn version_mismatch(told: &Told) -> Option<(i64, i64)> {
    match told {
        Err(CommandError::Ledger(LedgerError::VersionMismatch { expected, current })) => {
            Some((expected.0, current.0))
        }
        _ => None,
    }
}

async fn a_command_for_another_version_is_refused(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;

    for wrong in [0, 2] {
        let told = client.expecting(wrong).tell(stream, queue()).await;
        assert_eq!(version_mismatch(&told), Some((wrong, 1)), "{told:?}");
    }
    let done = client.expecting(1).tell(stream, queue()).await.unwrap();
    assert_eq!(done.tip.sequence, Sequence(2));
    let told = client.expecting(1).tell(stream, sent("sg-1")).await;
    assert_eq!(version_mismatch(&told), Some((1, 2)), "{told:?}");
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_version_another_process_reached_is_known(place: &Place) {
    let (here, elsewhere) = (Client::of(place), Client::of(place));
    let stream = here.requested().await;
    elsewhere.tell(stream, sent("sg-1")).await.unwrap();

    // `here` still remembers version 1.
    let done = here.expecting(2).tell(stream, sent("sg-2")).await.unwrap();
    assert_eq!(done.tip.sequence, Sequence(3));
    elsewhere.tell(stream, sent("sg-3")).await.unwrap();
    let told = here.expecting(3).tell(stream, sent("sg-4")).await;
    assert_eq!(version_mismatch(&told), Some((3, 4)), "{told:?}");
    assert_eq!(checked_record(place).await.len(), 4);
}

async fn what_another_process_appended_is_decided_upon(place: &Place) {
    let (here, elsewhere) = (Client::of(place), Client::of(place));
    let stream = here.requested().await;
    elsewhere.tell(stream, Action::Retract).await.unwrap();

    // `here` remembers a notification that could be queued.
    let told = here.tell(stream, queue()).await;
    assert!(
        matches!(
            told,
            Err(CommandError::Refused(Refusal::NotQueueable { .. }))
        ),
        "{told:?}"
    );
    let done = here.tell(stream, sent("sg-1")).await.unwrap();
    assert!(done.aggregate.retraction().is_some());
    assert_eq!(done.tip.sequence, Sequence(3));
    assert_eq!(*done.aggregate, here.load(stream).await.aggregate);
    checked_record(place).await;
}

async fn a_refusal_is_decided_on_what_another_process_appended(place: &Place) {
    let (here, elsewhere) = (Client::of(place), Client::of(place));
    let stream = here.requested().await;
    here.tell(stream, queue()).await.unwrap();
    let failed = Fact::Failed {
        code: None,
        retryable: true,
        is_final: false,
        attempt: Some(1),
    };
    elsewhere
        .tell(stream, said(failed, "sg-1", None))
        .await
        .unwrap();

    // `here` remembers a notification that is queued already.
    let done = here.tell(stream, queue()).await.unwrap();
    assert_eq!(done.tip.sequence, Sequence(4));
    checked_record(place).await;
}

/// An append of one event to `stream`, decided when its end was `expected`.
fn append(client: &Client, stream: StreamId, expected: Tip) -> AppendRequest {
    AppendRequest {
        stream: client.key(stream),
        expected,
        events: vec![NewEvent {
            event_id: EventId(client.surroundings.ids.time_ordered()),
            event_type: "notification.retracted",
            schema_version: 1,
            occurred_at: client.surroundings.now(),
            subscriber_id: None,
            data: "{}".to_owned(),
            decided: None,
        }],
        provenance: Arc::clone(&client.order.provenance),
        idempotency: None,
        data_keys: vec![],
        sealed_under: vec![],
        late_subscriber: None,
        references: vec![],
    }
}

/// What becomes of appends that go into one batch.
async fn committed(place: &Place, requests: &[AppendRequest]) -> Vec<AppendOutcome> {
    let mut writer = place.storage.writer().await.unwrap();
    let now = || place.surroundings().now();
    let stored = batch::append(writer.as_mut(), &mut Known::default(), requests, now).await;
    stored.unwrap().outcomes
}

fn is_committed(outcome: &AppendOutcome) -> bool {
    matches!(outcome, AppendOutcome::Committed { .. })
}

async fn of_two_appends_decided_on_one_tip_one_wins(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let tip = client.load(stream).await.tip;
    let [one, other, third] = [(); 3].map(|()| append(&client, stream, tip));

    let outcomes = committed(place, &[one.clone(), other.clone()]).await;
    assert!(is_committed(&outcomes[0]), "{outcomes:?}");
    assert_eq!(outcomes[1], AppendOutcome::Conflict);
    // And in a later batch.
    assert_eq!(committed(place, &[third]).await, [AppendOutcome::Conflict]);
    let AppendOutcome::Committed { tip, .. } = outcomes[0] else {
        unreachable!()
    };
    let decided_again = AppendRequest {
        expected: tip,
        ..other
    };
    assert!(is_committed(
        &committed(place, slice::from_ref(&decided_again)).await[0]
    ));
    let record = checked_record(place).await;
    let appended: Vec<_> = record[1..].iter().map(|event| event.event_id).collect();
    assert_eq!(
        appended,
        [one.events[0].event_id, decided_again.events[0].event_id]
    );
}

async fn an_append_past_the_end_of_a_stream_is_refused(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let tip = client.load(stream).await.tip;
    let ahead = |event_id| Tip {
        sequence: Sequence(5),
        position: Position(5),
        event_id,
    };

    let known = append(&client, stream, ahead(tip.event_id));
    let unknown = append(&client, stream, ahead(None));
    let of_nothing = append(&client, client.new_stream(), ahead(None));
    let outcomes = committed(place, &[known, unknown, of_nothing]).await;
    assert_eq!(outcomes, [const { AppendOutcome::Conflict }; 3]);
    assert_eq!(checked_record(place).await.len(), 1);
}

async fn a_tip_of_another_history_is_refused(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let tip = client.load(stream).await.tip;

    // As long, but not that one: seen before the ledger was restored from a backup.
    let event_id = Some(EventId(client.surroundings.ids.time_ordered()));
    let elsewhere = append(&client, stream, Tip { event_id, ..tip });
    let twin = append(&client, stream, tip);
    let outcomes = committed(place, slice::from_ref(&elsewhere)).await;
    assert_eq!(outcomes, [AppendOutcome::Conflict]);
    let outcomes = committed(place, &[twin, elsewhere]).await;
    assert!(is_committed(&outcomes[0]), "{outcomes:?}");
    assert_eq!(outcomes[1], AppendOutcome::Conflict);
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn a_new_stream_with_a_known_id_is_a_conflict(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;

    let begun = append(&client, stream, Tip::default());
    assert_eq!(committed(place, &[begun]).await, [AppendOutcome::Conflict]);
    // Through the front door it is decided again, and then refused.
    let told = client.begin(stream, crate::client::request()).await;
    assert!(
        matches!(told, Err(CommandError::Refused(Refusal::AlreadyExists))),
        "{told:?}"
    );
    assert_eq!(checked_record(place).await.len(), 1);
}

async fn a_batch_that_was_rolled_back_leaves_no_trace(place: &Place) {
    let client = Client::of(place);
    let [one, other] = [(); 2].map(|()| client.key(client.new_stream()));
    let key = |stream| StoredDataKey {
        place: key_place(stream, &Subject::Stream, 0),
        wrapped_key: Some("wrapped".to_owned()),
        created_at: client.surroundings.now(),
    };
    let mut writer = place.storage.writer().await.unwrap();
    for (stream, is_kept) in [(&one, false), (&other, true)] {
        writer.lock_heads(&[stream.partition]).await.unwrap();
        let key = key(stream);
        let plan = Plan {
            data_keys: vec![&key],
            references: vec![(stream, "provider:sg-1")],
            ..Plan::default()
        };
        writer.insert(&plan).await.unwrap();
        if is_kept {
            writer.commit().await.unwrap();
        } else {
            writer.roll_back().await.unwrap();
        }
    }

    let places = [key(&one).place, key(&other).place];
    assert_eq!(
        place.storage.data_keys(&places).await.unwrap(),
        [key(&other)]
    );
    let references = ["provider:sg-1".to_owned()];
    let found = client
        .ledger
        .referenced(&client.order.tenant, &references)
        .await
        .unwrap();
    assert_eq!(found, [Some(other.stream_id)]);
}
