//! Whether the ledger kept its promises.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use crate::clients::{Answered, Seen};
use crate::http::{Addresses, Caller, Event, Tenant};
use crate::place::Place;

/// Reads that are made at once.
const AT_ONCE: usize = 8;
/// Answered calls that are made once more.
const REPEATS: usize = 60;

/// Each answered event is there, once, where the answer said; nothing else is there; the order
/// has no gaps, and was the same for everybody who looked; calls made again change nothing.
pub(crate) async fn audit(place: &Place, addresses: &Addresses, tenants: &[Tenant], seen: &Seen) {
    let mut partitions: BTreeMap<u16, Vec<Event>> = BTreeMap::new();
    let mut total = 0;
    for tenant in tenants {
        let caller = Caller::new(addresses, tenant);
        let log = caller.log().await;
        let answered: Vec<_> = seen
            .answered
            .iter()
            .filter(|answered| answered.tenant == tenant.id)
            .collect();
        assert_what_was_answered_is_there(&log, &answered);
        assert_in_order(&answered);
        assert_streams_have_no_gaps(&caller, &log).await;
        for (_, followed) in seen.followed.iter().filter(|(name, _)| *name == tenant.id) {
            assert!(
                log.starts_with(followed),
                "somebody saw another history of {}",
                tenant.id
            );
        }
        repeat(&caller, &answered, &log).await;
        total += log.len();
        for event in log {
            partitions
                .entry(event.position.partition)
                .or_default()
                .push(event);
        }
    }
    for events in partitions.values_mut() {
        events.sort_by_key(|event| event.position);
        assert_partition_has_no_gaps(events);
    }
    place.verify();
    let (later, broken) = (&seen.counts.later, &seen.counts.broken);
    eprintln!(
        "{total} events in {} calls; {later:?} calls were put off, {broken:?} broke off",
        seen.answered.len(),
    );
    assert_eq!(total, seen.counts.events.load(Ordering::Relaxed));
}

/// Each once, and nothing else.
fn assert_what_was_answered_is_there(log: &[Event], answered: &[&Answered]) {
    let mut by_marker: HashMap<&str, &Event> = HashMap::new();
    for event in log {
        let twice = by_marker.insert(event.marker(), event);
        assert!(twice.is_none(), "twice: {event:?} and {twice:?}");
    }
    let mut entries = 0;
    for entry in answered.iter().flat_map(|answered| &answered.entries) {
        entries += 1;
        let event = by_marker.get(entry.marker.as_str());
        let event = event.unwrap_or_else(|| panic!("answered, but not there: {entry:?}"));
        assert_eq!(event.event_type, entry.event_type, "{entry:?}");
        assert_eq!(event.notification_id, entry.notification_id, "{entry:?}");
        assert_eq!(event.sequence, entry.sequence, "{entry:?}");
        assert_eq!(event.position, entry.position, "{entry:?}");
    }
    // Every call was repeated until it was answered, so nothing may be there that was not.
    assert_eq!(log.len(), entries);
}

/// What a client did later stands later.
fn assert_in_order(answered: &[&Answered]) {
    let mut last: HashMap<usize, &Answered> = HashMap::new();
    for answered in answered {
        let first = answered.entries.iter().map(|entry| entry.position).min();
        if let Some(before) = last.insert(answered.client, answered) {
            let end = before.entries.iter().map(|entry| entry.position).max();
            assert!(end < first, "out of order: {before:?} and {answered:?}");
        }
    }
}

async fn assert_streams_have_no_gaps(caller: &Caller, log: &[Event]) {
    let mut streams: HashMap<Uuid, Vec<Event>> = HashMap::new();
    for event in log {
        streams
            .entry(event.notification_id)
            .or_default()
            .push(event.clone());
    }
    let caller = Arc::new(caller.clone());
    stream::iter(streams)
        .for_each_concurrent(AT_ONCE, |(notification, events)| {
            let caller = Arc::clone(&caller);
            async move {
                for (event, sequence) in events.iter().zip(1..) {
                    assert_eq!(event.sequence, sequence, "{events:?}");
                }
                assert_eq!(caller.history(notification).await, events);
            }
        })
        .await;
}

fn assert_partition_has_no_gaps(events: &[Event]) {
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event.position.position, position, "{event:?}");
    }
    for pair in events.windows(2) {
        assert!(pair[0].recorded_at <= pair[1].recorded_at, "{pair:?}");
    }
}

/// Calls made again get the same answer and append nothing.
async fn repeat(caller: &Caller, answered: &[&Answered], log: &[Event]) {
    let step = answered.len().div_ceil(REPEATS).max(1);
    for answered in answered.iter().step_by(step) {
        let again = answered.call.send(caller).await;
        assert_eq!(again.unwrap(), answered.entries, "{answered:?}");
    }
    let after = caller
        .log_after(log.last().map(|event| event.position))
        .await;
    assert_eq!(
        after,
        Some(Vec::new()),
        "a repeated call has appended something"
    );
}

impl Event {
    fn marker(&self) -> &str {
        let marker = match self.event_type.as_str() {
            "notification.requested" => &self.data["external_id"],
            _ => &self.data["raw"]["marker"],
        };
        marker
            .as_str()
            .unwrap_or_else(|| panic!("nobody here asked for {self:?}"))
    }
}
