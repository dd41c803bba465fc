//! Many callers at once, in several processes, on several threads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notification_ledger::domain::event::Fact;
use notification_ledger::domain::ids::Sequence;
use notification_ledger::ledger::Options;
use notification_ledger::ledger::record::{Partition, Position, RecordedEvent};
use notification_ledger::ledger::storage::Storage;
use tokio::task::JoinSet;

use crate::client::{Client, EVERYTHING, checked_record, request, request_for, said, sent};
use crate::support::{PARTITIONS, Place, on_each_storage};

on_each_storage!("multi_thread":
    positions_have_no_gaps_and_become_visible_in_order,
    no_event_is_lost_doubled_or_reordered,
    one_key_used_by_everyone_at_once_counts_once,
    what_everyone_sealed_at_once_opens_for_everyone,
);

/// A process with some lanes.
fn process(place: &Place, lanes: u16) -> Client {
    let options = Options {
        lanes,
        ..Options::default()
    };
    Client::on(place, place.process(options))
}

async fn positions_have_no_gaps_and_become_visible_in_order(place: &Place) {
    const TENANTS: i16 = 6;
    const NOTIFICATIONS: i64 = 5;
    const EVENTS_EACH: i64 = 3;
    let processes = [process(place, 3), process(place, 2)];
    let are_done = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for partition in 0..PARTITIONS {
        let (storage, are_done) = (Arc::clone(&place.storage), Arc::clone(&are_done));
        readers.spawn(async move { followed(&*storage, Partition(partition), &are_done).await });
    }

    let mut writers = JoinSet::new();
    for (client, tenant) in processes
        .iter()
        .flat_map(|one| (0..TENANTS).map(move |t| (one, t)))
    {
        let client = client
            .clone()
            .for_tenant(&format!("t{tenant}"), tenant % PARTITIONS);
        let clock = Arc::clone(&place.clock);
        writers.spawn(async move {
            let mut last = Position(0);
            for notification in 0..NOTIFICATIONS {
                // Every machine believes in another time.
                clock.set((notification * 7919 + i64::from(tenant) * 104_729) % 1000);
                let stream = client.new_stream();
                let begun = client.begin(stream, request()).await.unwrap();
                let told = client.tell(stream, sent("sg-1")).await.unwrap();
                let again = client.tell(stream, sent("sg-2")).await.unwrap();
                for tip in [begun.tip, told.tip, again.tip] {
                    assert!(tip.position > last, "what is appended later comes later");
                    last = tip.position;
                }
            }
        });
    }
    writers.join_all().await;
    are_done.store(true, Ordering::SeqCst);

    let record = checked_record(place).await;
    let expected = 2 * i64::from(TENANTS) * NOTIFICATIONS * EVENTS_EACH;
    assert_eq!(record.len(), usize::try_from(expected).unwrap());
    let mut followed: Vec<RecordedEvent> = readers.join_all().await.into_iter().flatten().collect();
    followed.sort_by_key(RecordedEvent::ledger_position);
    assert_eq!(followed, record);
}

/// Reads along while others write, and misses nothing that a head has promised.
async fn followed(
    storage: &dyn Storage,
    partition: Partition,
    are_done: &AtomicBool,
) -> Vec<RecordedEvent> {
    let mut read: Vec<RecordedEvent> = Vec::new();
    loop {
        let is_last = are_done.load(Ordering::SeqCst);
        let heads = storage.heads().await.unwrap();
        let head = heads
            .into_iter()
            .find(|head| head.partition == partition)
            .unwrap();
        let after = read.last().map_or(Position(0), |event| event.position);
        for event in storage.log(partition, after, EVERYTHING).await.unwrap() {
            let before = read.last().map_or(0, |event| event.position.0);
            assert_eq!(event.position.0, before + 1, "a reader sees no gap");
            read.push(event);
        }
        let seen = read.last().map_or(0, |event| event.position.0);
        assert!(seen >= head.position.0, "what a head promises is there");
        if is_last {
            return read;
        }
        tokio::task::yield_now().await;
    }
}

async fn no_event_is_lost_doubled_or_reordered(place: &Place) {
    const CALLERS: usize = 5;
    const FACTS_EACH: usize = 4;
    // The processes remember the notifications, and are wrong about them again and again.
    let processes = [process(place, 1), process(place, 2)];
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(processes[0].requested().await);
    }

    let mut callers = JoinSet::new();
    for (process, caller) in (0..2).flat_map(|process| (0..CALLERS).map(move |c| (process, c))) {
        let client = processes[process].clone();
        let streams = streams.clone();
        callers.spawn(async move {
            let mut appended = 0;
            for number in 0..FACTS_EACH {
                for &stream in &streams {
                    let own = format!("{process}-{caller}:{number}");
                    let told = client.tell(stream, sent(&own)).await.unwrap();
                    // Callers of the same number in the two processes say the same here.
                    let common = format!("both-{caller}:{number}");
                    let common = client.tell(stream, sent(&common)).await.unwrap();
                    assert!(
                        told.tip.sequence <= common.tip.sequence,
                        "versions only grow"
                    );
                    assert_eq!(told.appended, 1);
                    appended += told.appended + common.appended;
                }
            }
            appended
        });
    }
    let appended: usize = callers.join_all().await.into_iter().sum();

    let facts_per_stream = 3 * CALLERS * FACTS_EACH;
    assert_eq!(appended, streams.len() * facts_per_stream);
    assert_eq!(
        checked_record(place).await.len(),
        streams.len() * (1 + facts_per_stream)
    );
    for stream in streams {
        let events = processes[1].events(stream).await;
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in &events[1..] {
            let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            let id = data["message"]["provider_message_id"].as_str().unwrap();
            let (caller, number) = id.split_once(':').unwrap();
            told.entry(caller.to_owned())
                .or_default()
                .push(number.to_owned());
        }
        let in_order: Vec<_> = (0..FACTS_EACH).map(|number| number.to_string()).collect();
        assert_eq!(told.len(), 3 * CALLERS);
        assert!(
            told.values().all(|numbers| *numbers == in_order),
            "{told:?}"
        );
    }
}

async fn one_key_used_by_everyone_at_once_counts_once(place: &Place) {
    let processes = [process(place, 1), process(place, 2)];
    let stream = processes[0].requested().await;
    let mut callers = JoinSet::new();
    for number in 0..24_usize {
        let client = processes[number % 2].clone();
        callers.spawn(async move {
            // One key asks for a notification under ever new ids, the other reports a fact that
            // looks new every time.
            let begun = client
                .with_key("order-7", 1)
                .begin(client.new_stream(), request())
                .await;
            let fact = said(Fact::Sent, &format!("sg-{number}"), None);
            let told = client.with_key("sent-7", 2).tell(stream, fact).await;
            (begun.unwrap(), told.unwrap())
        });
    }
    let (begun, told): (Vec<_>, Vec<_>) = callers.join_all().await.into_iter().unzip();

    for done in [&begun, &told] {
        assert_eq!(done.iter().filter(|done| !done.replayed).count(), 1);
        assert!(
            done.iter()
                .all(|one| one.stream == done[0].stream && one.tip == done[0].tip)
        );
        assert!(
            done.iter()
                .all(|one| one.aggregate == done[0].aggregate && one.appended == 1)
        );
    }
    assert_eq!(told[0].tip.sequence, Sequence(2));
    let record = checked_record(place).await;
    let mut sizes: HashMap<_, usize> = HashMap::new();
    for event in &record {
        *sizes.entry(event.stream_id).or_default() += 1;
    }
    assert_eq!(
        sizes,
        HashMap::from([(stream, 2), (begun[0].stream.stream_id, 1)])
    );
    let begun_stream = begun[0].stream.stream_id;
    assert_eq!(
        processes[0].load(begun_stream).await.aggregate,
        *begun[0].aggregate
    );
}

async fn what_everyone_sealed_at_once_opens_for_everyone(place: &Place) {
    let processes = [process(place, 1), process(place, 2)];
    let mut callers = JoinSet::new();
    for number in 0..24_usize {
        let client = processes[number % 2].clone();
        callers.spawn(async move {
            // Nobody has a key yet when all begin.
            let subscriber_id = format!("cust-{}", number % 3);
            let text = format!("{{\"number\":{number}}}");
            let stream = client.new_stream();
            let done = client
                .confide(stream, request_for(&subscriber_id), &text)
                .await
                .unwrap();
            (done, text)
        });
    }

    let newcomer = process(place, 1);
    for (done, text) in callers.join_all().await {
        let request = done.aggregate.request().unwrap();
        let sealed = request.sealed.as_ref().unwrap();
        for client in processes.iter().chain([&newcomer]) {
            let opened = client
                .ledger
                .open(&done.stream, request.event_id, sealed)
                .await
                .unwrap();
            assert_eq!(
                opened.as_ref().map(|opened| opened.as_str()),
                Some(text.as_str())
            );
        }
    }
    assert_eq!(checked_record(place).await.len(), 24);
}
