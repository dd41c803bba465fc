//! What is appended can be read, in every way there is.

use std::sync::Arc;

use notification_ledger::domain::event::{Fact, names};
use notification_ledger::domain::ids::{EventId, Sequence, StreamId, TenantId};
use notification_ledger::domain::integration::{Change, Integration, IntegrationCommand};
use notification_ledger::domain::notification::{Action, Notification, Refusal};
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::record::{Partition, Position, Provenance, RecordedEvent};
use notification_ledger::ledger::recordable::{message_reference, stream_reference};
use notification_ledger::ledger::storage::{LOG_BYTES_MAX, LogQuery, StreamQuery};
use notification_ledger::ledger::{Beginning, CommandError, Until};

use crate::client::{Client, EVERYTHING, checked_record, queue, request, request_for, said, sent};
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread":
    events_come_back_as_they_were_told,
    sequences_and_positions_count_from_one,
    a_stream_can_be_read_as_it_was,
    recorded_times_never_run_backwards,
    one_id_in_two_tenants_is_two_streams,
    a_tenants_log_gives_what_is_asked_for,
    a_log_is_read_page_by_page,
    a_log_of_large_events_is_read_in_pieces,
    pages_end_at_their_bounds,
    an_unknown_stream_is_empty,
    single_events_are_found_by_their_places,
    the_ids_in_a_report_lead_to_its_stream,
    the_first_stream_with_an_id_keeps_it,
    what_is_remembered_of_a_message_is_on_record,
    a_repeated_fact_appends_nothing,
    a_repeated_delivery_appends_nothing,
    a_fact_told_many_times_at_once_is_recorded_once,
    provider_side_changes_have_streams_of_their_own,
);

async fn events_come_back_as_they_were_told(place: &Place) {
    let mut client = Client::of(place).for_tenant("acme", 3);
    client.order.provenance = Arc::new(Provenance {
        correlation_id: Some("order ä-7".into()),
        causation_id: Some("c".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..(*client.order.provenance).clone()
    });
    let stream = client.new_stream();
    client.begin(stream, request_for("cust-ü")).await.unwrap();
    place.clock.set(60);
    let done = client.tell(stream, sent("sg-\"1\" 🐘")).await.unwrap();

    let events = client.events(stream).await;
    let [requested, sent] = events.as_slice() else {
        panic!("{events:?}");
    };
    let request = done.aggregate.request().unwrap();
    let minute = |event: &RecordedEvent| (event.occurred_at, event.recorded_at);
    let (nine, one_past) = (
        request.occurred_at.as_micros(),
        place.surroundings().now().as_micros(),
    );
    assert_eq!(minute(requested), (nine, nine));
    assert_eq!(minute(sent), (one_past, one_past));
    assert_eq!(requested.event_id, request.event_id);
    assert_eq!(requested.event_type, names::REQUESTED);
    assert_eq!(sent.event_type, names::SENT);
    assert!(sent.data.contains("sg-\\\"1\\\" 🐘"), "{}", sent.data);
    assert_eq!(sent.tip(), done.tip);
    for event in events.iter() {
        assert_eq!(event.partition, Partition(3));
        assert_eq!(event.tenant_id, "acme");
        assert_eq!(event.stream_id, stream);
        assert_eq!(event.schema_version, 1);
        assert_eq!(
            (event.actor_kind.as_str(), event.actor_id.as_str()),
            ("key", "key-1")
        );
        assert_eq!(event.source, "api");
        assert_eq!(event.correlation_id.as_deref(), Some("order ä-7"));
        assert_eq!(event.causation_id.as_deref(), Some("c"));
        assert_eq!(
            event.traceparent,
            client
                .order
                .provenance
                .traceparent
                .as_deref()
                .map(String::from)
        );
        assert_eq!(event.subscriber_id.as_deref(), Some("cust-ü"));
        assert_eq!(event.hash.len(), 32);
    }
    assert_eq!(checked_record(place).await, *events);
}

async fn sequences_and_positions_count_from_one(place: &Place) {
    let client = Client::of(place);
    let (one, other) = (client.requested().await, client.requested().await);
    client.tell(one, sent("a")).await.unwrap();
    let done = client.tell(other, sent("b")).await.unwrap();

    assert_eq!(
        (done.tip.sequence, done.tip.position),
        (Sequence(2), Position(4))
    );
    assert_eq!(done.appended, 1);
    let record = checked_record(place).await;
    let streams: Vec<_> = record.iter().map(|event| event.stream_id).collect();
    assert_eq!(streams, [one, other, one, other]);
    let head = &place.storage.heads().await.unwrap()[0];
    assert_eq!(head.position, Position(4));
    assert_eq!(head.hash.as_slice(), record[3].hash);
}

async fn a_stream_can_be_read_as_it_was(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    client.requested().await;
    for minute in 1..4 {
        place.clock.set(60 * minute);
        client
            .tell(stream, sent(&format!("sg-{minute}")))
            .await
            .unwrap();
    }

    let events = client.events(stream).await;
    let reports = async |until| {
        let loaded = client
            .ledger
            .load::<Notification>(&client.key(stream), until)
            .await;
        loaded
            .unwrap()
            .map(|loaded| (loaded.aggregate.reports().len(), loaded.tip.sequence.0))
    };
    assert_eq!(reports(Until::Now).await, Some((3, 4)));
    assert_eq!(reports(Until::Version(Sequence(2))).await, Some((1, 2)));
    assert_eq!(reports(Until::Version(Sequence(0))).await, None);
    // The second event of the partition belongs to another stream.
    assert_eq!(reports(Until::Position(Position(2))).await, Some((0, 1)));
    assert_eq!(reports(Until::Position(Position(4))).await, Some((2, 3)));
    let recorded_at = |event: usize| Timestamp::from_micros(events[event].recorded_at).unwrap();
    assert_eq!(
        reports(Until::RecordedAt(recorded_at(2))).await,
        Some((2, 3))
    );
    let just_before = Timestamp::from_micros(events[2].recorded_at - 1).unwrap();
    assert_eq!(reports(Until::RecordedAt(just_before)).await, Some((1, 2)));
}

async fn recorded_times_never_run_backwards(place: &Place) {
    let client = Client::of(place);
    let elsewhere = client.clone().for_tenant("globex", 1);
    let times = async |client: &Client, seconds| {
        place.clock.set(seconds);
        let stream = client.requested().await;
        client.events(stream).await[0].recorded_at
    };

    let late = times(&client, 100).await;
    // Another machine's clock is behind, and still is after a restart.
    assert_eq!(times(&client, -3600).await, late);
    assert_eq!(times(&Client::of(place), 50).await, late);
    assert_eq!(times(&client, 101).await, late + 1_000_000);
    // A partition keeps its own time.
    assert_eq!(times(&elsewhere, 50).await, late - 50_000_000);
    checked_record(place).await;
}

async fn one_id_in_two_tenants_is_two_streams(place: &Place) {
    let acme = Client::of(place);
    let globex = acme.clone().for_tenant("globex", 0);
    let stream = acme.requested().await;
    globex.begin(stream, request()).await.unwrap();

    let done = globex.tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!(done.tip.sequence, Sequence(2));
    assert_eq!(acme.events(stream).await.len(), 1);
    let found = async |client: &Client| {
        let references = ["provider:sg-1".to_owned()];
        client
            .ledger
            .referenced(&client.order.tenant, &references)
            .await
            .unwrap()
    };
    assert_eq!(found(&globex).await, [Some(stream)]);
    assert_eq!(found(&acme).await, [None]);
}

async fn a_tenants_log_gives_what_is_asked_for(place: &Place) {
    let acme = Client::of(place);
    let globex = acme.clone().for_tenant("globex", 0);
    // Positions 1 and 2, 4 and 5, 7 and 8; every third event is another tenant's.
    for (minute, subscriber_id) in [(0, "ann"), (1, "bob"), (2, "ann")] {
        place.clock.set(60 * minute);
        let stream = acme.new_stream();
        acme.begin(stream, request_for(subscriber_id))
            .await
            .unwrap();
        acme.tell(stream, sent("sg-1")).await.unwrap();
        globex.requested().await;
    }

    let everything = LogQuery {
        partition: Partition(0),
        tenant_id: TenantId::new("acme").unwrap(),
        after: Position(0),
        until: Position(EVERYTHING),
        event_types: vec![],
        subscriber_ids: vec![],
        from: Timestamp::MIN,
        to: Timestamp::MAX,
        limit: 100,
        bytes_max: 1_000_000,
    };
    let positions = async |query: LogQuery| {
        let page = acme.ledger.tenant_log(&query).await.unwrap();
        page.events
            .iter()
            .map(|event| event.position.0)
            .collect::<Vec<_>>()
    };
    let all = || everything.clone();
    let strings = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let minute = |minute: i64| {
        place.clock.set(60 * minute);
        place.surroundings().now()
    };
    assert_eq!(positions(all()).await, [1, 2, 4, 5, 7, 8]);
    assert_eq!(
        positions(LogQuery {
            after: Position(2),
            ..all()
        })
        .await,
        [4, 5, 7, 8]
    );
    assert_eq!(
        positions(LogQuery {
            until: Position(4),
            ..all()
        })
        .await,
        [1, 2, 4]
    );
    assert_eq!(positions(LogQuery { limit: 3, ..all() }).await, [1, 2, 4]);
    assert_eq!(
        positions(LogQuery {
            from: minute(1),
            to: minute(2),
            ..all()
        })
        .await,
        [4, 5]
    );
    let event_types = strings(&[names::SENT]);
    assert_eq!(
        positions(LogQuery {
            event_types,
            ..all()
        })
        .await,
        [2, 5, 8]
    );
    let event_types = strings(&[names::SENT, names::REQUESTED, names::READ]);
    let subscriber_ids = strings(&["bob", "carol"]);
    assert_eq!(
        positions(LogQuery {
            event_types,
            subscriber_ids,
            ..all()
        })
        .await,
        [4, 5]
    );
    assert!(
        positions(LogQuery {
            partition: Partition(1),
            ..all()
        })
        .await
        .is_empty()
    );
}

async fn a_log_is_read_page_by_page(place: &Place) {
    let client = Client::of(place);
    for _ in 0..5 {
        client.requested().await;
    }

    let page = async |after, limit| {
        let events = place
            .storage
            .log(Partition(0), Position(after), limit)
            .await
            .unwrap();
        events
            .iter()
            .map(|event| event.position.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(page(0, 2).await, [1, 2]);
    assert_eq!(page(2, 2).await, [3, 4]);
    assert_eq!(page(4, 2).await, [5]);
    assert!(page(5, 2).await.is_empty());
}

/// So many notifications with one large report each.
async fn large(client: &Client, count: usize, bytes: usize) -> Vec<StreamId> {
    let mut streams = Vec::new();
    for number in 0..count {
        let stream = client.requested().await;
        let secret = format!(r#"{{"raw":"{}"}}"#, "x".repeat(bytes));
        let report = sent(&format!("sg-{number}"));
        client.confide(stream, report, &secret).await.unwrap();
        streams.push(stream);
    }
    streams
}

fn bytes(events: &[RecordedEvent]) -> usize {
    events.iter().map(|event| event.data.len()).sum()
}

async fn a_log_of_large_events_is_read_in_pieces(place: &Place) {
    let client = Client::of(place);
    let count = 8;
    large(&client, count, 1024 * 1024).await;
    let log_bytes_max = usize::try_from(LOG_BYTES_MAX).unwrap();

    let mut positions = Vec::new();
    let mut pages = 0;
    loop {
        let after = positions.last().copied().unwrap_or_default();
        let page = place
            .storage
            .log(Partition(0), Position(after), EVERYTHING)
            .await
            .unwrap();
        let Some((_, all_but_last)) = page.split_last() else {
            break;
        };
        assert!(bytes(all_but_last) < log_bytes_max);
        pages += 1;
        positions.extend(page.iter().map(|event| event.position.0));
    }

    assert_eq!(pages, 2);
    let end = i64::try_from(2 * count).unwrap();
    assert!(positions.into_iter().eq(1..=end));
    checked_record(place).await;
}

async fn pages_end_at_their_bounds(place: &Place) {
    const ROOM: i64 = 10_000;
    let client = Client::of(place);
    let neighbour = client.clone().for_tenant("globex", 0);
    // Each report takes more than half of the room.
    let streams = large(&client, 3, 6_000).await;
    neighbour.requested().await;
    let everything = LogQuery {
        partition: Partition(0),
        tenant_id: TenantId::new("acme").unwrap(),
        after: Position(0),
        until: Position(EVERYTHING),
        event_types: vec![],
        subscriber_ids: vec![],
        from: Timestamp::MIN,
        to: Timestamp::MAX,
        limit: 100,
        bytes_max: ROOM,
    };
    let tenants_page = async |after, limit, bytes_max| {
        let query = LogQuery {
            after: Position(after),
            limit,
            bytes_max,
            ..everything.clone()
        };
        let page = client.ledger.tenant_log(&query).await.unwrap();
        let positions = page.events.iter().map(|event| event.position.0);
        (positions.collect::<Vec<_>>(), page.is_cut)
    };
    assert_eq!(tenants_page(0, 100, ROOM).await, (vec![1, 2, 3, 4], true));
    assert_eq!(tenants_page(4, 100, ROOM).await, (vec![5, 6], false));
    assert_eq!(tenants_page(6, 100, ROOM).await, (vec![], false));
    assert_eq!(tenants_page(0, 3, ROOM).await, (vec![1, 2, 3], true));
    // There is always one.
    assert_eq!(tenants_page(1, 100, 1).await, (vec![2], true));

    let streams_page =
        async |tenant_id: Option<&str>, after: Option<StreamId>, limit, bytes_max| {
            let query = StreamQuery {
                partition: Partition(0),
                tenant_id: tenant_id.map(|tenant_id| TenantId::new(tenant_id).unwrap()),
                after: after.map(|stream| ("acme".to_owned(), stream)),
                until: Position(EVERYTHING),
                limit,
                bytes_max,
            };
            let page = place.storage.by_stream(&query).await.unwrap();
            let positions = page.events.iter().map(|event| event.event.position.0);
            (positions.collect::<Vec<_>>(), page.is_cut)
        };
    for tenant_id in [None, Some("acme")] {
        let page = async |after, limit, bytes| streams_page(tenant_id, after, limit, bytes).await;
        assert_eq!(page(None, 100, ROOM).await, (vec![1, 2, 3, 4], true));
        assert_eq!(page(None, 100, 1).await, (vec![1], true));
        assert_eq!(page(None, 3, ROOM).await, (vec![1, 2, 3], true));
        assert_eq!(page(Some(streams[0]), 100, 1).await, (vec![3], true));
    }
    let last = streams.last().copied();
    assert_eq!(
        streams_page(Some("acme"), last, 100, 1).await,
        (vec![], false)
    );
    assert_eq!(streams_page(None, last, 100, ROOM).await, (vec![7], false));

    let keys: Vec<_> = streams.iter().map(|stream| client.key(*stream)).collect();
    let within = async |bytes_max| {
        let storage = place.storage.as_ref();
        let page = storage.streams_within(&keys, bytes_max).await.unwrap();
        let mut positions: Vec<_> = page.events.iter().map(|event| event.position.0).collect();
        positions.sort_unstable();
        (positions, page.is_cut)
    };
    assert_eq!(within(1_000_000).await, (vec![1, 2, 3, 4, 5, 6], false));
    assert_eq!(within(ROOM).await, (vec![1, 2, 3, 4], true));
    assert_eq!(within(1).await, (vec![1], true));
}

async fn an_unknown_stream_is_empty(place: &Place) {
    let client = Client::of(place);
    let stream = client.new_stream();

    assert!(client.events(stream).await.is_empty());
    let loaded = client
        .ledger
        .load::<Notification>(&client.key(stream), Until::Now)
        .await;
    assert!(loaded.unwrap().is_none());
    let refused = client.tell(stream, queue()).await;
    assert!(
        matches!(refused, Err(CommandError::Refused(Refusal::NotFound))),
        "{refused:?}"
    );
    assert_eq!(checked_record(place).await, []);
}

async fn single_events_are_found_by_their_places(place: &Place) {
    let client = Client::of(place);
    let (one, other) = (client.requested().await, client.requested().await);
    for id in ["a", "b"] {
        client.tell(one, sent(id)).await.unwrap();
    }
    let rival = client.clone().for_tenant("rival", 0);
    rival.begin(one, request()).await.unwrap();
    let at = |client: &Client, stream, sequence| (client.key(stream), Sequence(sequence));

    let mut found = place
        .storage
        .events_at(&[
            at(&client, one, 3),
            at(&client, other, 1),
            at(&client, one, 1),
            // Not there: beyond the end, before the beginning, in no stream, of another tenant.
            at(&client, one, 4),
            at(&client, one, 0),
            at(&client, client.new_stream(), 1),
            at(&rival, other, 1),
        ])
        .await
        .unwrap();
    found.sort_by_key(|event| event.position);

    let record = checked_record(place).await;
    assert_eq!(
        found,
        [&record[0], &record[1], &record[3]].map(Clone::clone)
    );
    assert_eq!(place.storage.events_at(&[]).await.unwrap(), []);
}

/// A report that names the platform's message and its transaction, too.
fn about(message_id: &str, provider_message_id: &str) -> Action {
    let Action::Report {
        mut report,
        adoption,
    } = sent(provider_message_id)
    else {
        unreachable!()
    };
    Arc::make_mut(&mut report).message.message_id = Some(message_id.to_owned());
    Arc::make_mut(&mut report).context.transaction_id = Some("txn_1".to_owned());
    Action::Report { report, adoption }
}

async fn the_ids_in_a_report_lead_to_its_stream(place: &Place) {
    let client = Client::of(place);
    let (one, other) = (client.requested().await, client.requested().await);
    client.tell(one, sent("sg-1")).await.unwrap();
    client.tell(other, sent("sg-2")).await.unwrap();
    client.tell(other, about("66f0", "sg-3")).await.unwrap();

    let found = async |references: &[&str]| {
        let references: Vec<_> = references.iter().map(|text| (*text).to_owned()).collect();
        client
            .ledger
            .referenced(&client.order.tenant, &references)
            .await
            .unwrap()
    };
    assert_eq!(found(&["provider:sg-1"]).await, [Some(one)]);
    assert_eq!(
        found(&["provider:sg-3", "provider:nobody's"]).await,
        [Some(other), None]
    );
    assert_eq!(found(&["message:66f0"]).await, [Some(other)]);
    assert_eq!(found(&["transaction:txn_1"]).await, [Some(other)]);
    assert_eq!(
        found(&["provider:sg-3", "provider:sg-2", "provider:sg-1"]).await,
        [Some(other), Some(other), Some(one)]
    );
    assert_eq!(found(&["provider:66f0"]).await, [None]);
    // A stream leads to itself once it has begun.
    let (own, none) = (stream_reference(one), stream_reference(client.new_stream()));
    assert_eq!(
        found(&[&own, "provider:sg-2", &none]).await,
        [Some(one), Some(other), None]
    );
    let elsewhere = client.clone().for_tenant("acme", 1).order.tenant;
    let references = ["provider:sg-1".to_owned(), own];
    assert_eq!(
        client
            .ledger
            .referenced(&elsewhere, &references)
            .await
            .unwrap(),
        [None, None]
    );
    assert_eq!(found(&[]).await, []);
}

async fn the_first_stream_with_an_id_keeps_it(place: &Place) {
    let client = Client::of(place);
    let (one, other) = (client.requested().await, client.requested().await);
    client.tell(one, sent("sg-1")).await.unwrap();
    client.tell(other, sent("sg-1")).await.unwrap();

    let references = ["provider:sg-1".to_owned()];
    let found = client
        .ledger
        .referenced(&client.order.tenant, &references)
        .await
        .unwrap();
    assert_eq!(found, [Some(one)]);
}

async fn what_is_remembered_of_a_message_is_on_record(place: &Place) {
    let (client, rival) = (Client::of(place), Client::of(place));
    let (one, other) = (client.requested().await, rival.requested().await);
    let tenant = &client.order.tenant;
    let remembered = |id: &str| client.ledger.remembered(tenant, &message_reference(id));

    // Two lanes take turns: each message is told of by both, and belongs to who was first.
    for number in 0..20 {
        let id = format!("shared-{number}");
        let both = [(&client, one), (&rival, other)];
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        for (teller, stream) in order.map(|place| both[place]) {
            teller.tell(stream, about(&id, "ok")).await.unwrap();
        }
        let references = [message_reference(&id)];
        let found = client.ledger.referenced(tenant, &references).await.unwrap();
        assert_eq!(found, [Some(both[order[0]].1)]);
        let remembered = remembered(&id);
        assert!(remembered.is_none() || remembered == found[0]);
    }

    // One lane alone plans ahead, unless a second has passed since its last batch.
    let mut any = false;
    for number in 0..70 {
        let id = format!("own-{number}");
        client.tell(one, about(&id, "ok")).await.unwrap();
        let remembered = remembered(&id);
        assert!(remembered.is_none() || remembered == Some(one));
        any |= remembered.is_some();
    }
    assert_eq!(any, place.is_postgres());
}

async fn a_repeated_fact_appends_nothing(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let first = client.tell(stream, sent("sg-1")).await.unwrap();
    client.tell(stream, sent("sg-2")).await.unwrap();

    let again = client.tell(stream, sent("sg-1")).await.unwrap();
    let elsewhere = Client::of(place).tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!(
        (first.appended, again.appended, elsewhere.appended),
        (1, 0, 0)
    );
    assert_eq!(again.tip.sequence, Sequence(3));
    assert_eq!(elsewhere.tip, again.tip);
    assert!(!again.replayed);
    assert_eq!(checked_record(place).await.len(), 3);
}

async fn a_repeated_delivery_appends_nothing(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    let delivery = Some("novu:msg_2x");
    client
        .tell(stream, said(Fact::Sent, "sg-1", delivery))
        .await
        .unwrap();
    place.clock.set(1);

    let again = client
        .tell(stream, said(Fact::Sent, "sg-1", delivery))
        .await
        .unwrap();
    assert_eq!(again.appended, 0);
    // The same words a second later, in another delivery, are another fact.
    let other = client
        .tell(stream, said(Fact::Sent, "sg-1", Some("novu:msg_2y")))
        .await;
    assert_eq!(other.unwrap().appended, 1);
    assert_eq!(checked_record(place).await.len(), 3);
}

async fn a_fact_told_many_times_at_once_is_recorded_once(place: &Place) {
    let processes = [Client::of(place), Client::of(place)];
    let stream = processes[0].requested().await;
    let told = (0..20).map(|number: usize| {
        let delivery = format!("novu:{number}");
        let client = &processes[number % 2];
        async move {
            client
                .tell(stream, said(Fact::Sent, "sg-1", Some(&delivery)))
                .await
        }
    });

    let done = futures_util::future::try_join_all(told).await.unwrap();
    assert_eq!(done.iter().map(|done| done.appended).sum::<usize>(), 1);
    assert!(done.iter().all(|done| done.tip.sequence == Sequence(2)));
    assert_eq!(checked_record(place).await.len(), 2);
}

async fn provider_side_changes_have_streams_of_their_own(place: &Place) {
    let client = Client::of(place);
    let stream = client.new_stream();
    let change = |fact_key: &str| IntegrationCommand {
        event_id: EventId(client.surroundings.ids.time_ordered()),
        occurred_at: client.surroundings.now(),
        change: Change {
            provider: "novu".to_owned(),
            change: "workflow.updated".to_owned(),
            object_id: "66e0".to_owned(),
            name: None,
            subscriber_id: None,
            delivery_id: None,
            fact_key: fact_key.to_owned(),
        },
        private: Some("{\"raw\":{}}".into()),
    };
    let tell = async |fact_key| {
        let ledger = &client.ledger;
        let told = ledger.execute::<Integration>(
            &client.order,
            stream,
            Beginning::Unknown,
            change(fact_key),
        );
        told.await.unwrap().appended
    };

    assert_eq!(tell("one").await, 1);
    assert_eq!(tell("two").await, 1);
    assert_eq!(tell("one").await, 0);
    let key = client.key(stream);
    assert!(
        client
            .ledger
            .load::<Integration>(&key, Until::Now)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        client
            .ledger
            .load::<Notification>(&key, Until::Now)
            .await
            .unwrap()
            .is_none()
    );
    let record = checked_record(place).await;
    assert!(
        record
            .iter()
            .all(|event| event.event_type == names::INTEGRATION_CHANGED)
    );
    assert_eq!(record.len(), 2);
}
