//! Novu promises no order and at least once. So the same webhooks, shuffled and repeated, lead to
//! the same notification.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::fixture::{Fixture, Tenant};
use crate::novu::{STORY, body, emitted_again};
use crate::on_both_databases;

on_both_databases!(any_order_and_any_repetition_lead_to_the_same_notification);

/// Each is a tenant and some forty webhooks.
const CASES: usize = 16;

/// One arrival of one of the story's webhooks.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    webhook: usize,
    /// Novu tried again, or a worker emitted the fact again.
    emission: usize,
}

/// Every webhook once, some more often, in any order.
fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let repeats = proptest::collection::vec((0..STORY.len(), 0..3_usize), 0..=20);
    repeats
        .prop_map(|repeats| {
            let once = (0..STORY.len()).map(|webhook| (webhook, 0));
            let all = once.chain(repeats);
            all.map(|(webhook, emission)| Arrival { webhook, emission })
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
}

/// The notification, but for what differs between ledgers that know the same.
async fn told(f: &Fixture, tenant: &Tenant, arrivals: &[Arrival]) -> Value {
    let source = f.new_source(tenant, "adopt").await;
    let mut ids = Vec::new();
    for Arrival { webhook, emission } in arrivals {
        let original = body(STORY[*webhook]);
        let (delivery_id, body) = match emission {
            0 => (format!("msg_{webhook}"), original),
            _ => (
                format!("msg_{webhook}_{emission}"),
                emitted_again(&original, *emission),
            ),
        };
        let reply = f.novu_to(&source, &delivery_id, &body).await;
        assert!(["appended", "duplicate"].contains(&reply.outcome()));
        ids.push(reply.notification_id());
    }
    ids.dedup();
    let [id] = ids.as_slice() else {
        panic!("several streams: {ids:?} of {arrivals:?}")
    };
    let mut notification = f.notification(tenant, id).await;
    let fields = notification.as_object_mut().unwrap();
    for own in ["id", "tenant_id", "version"] {
        fields.remove(own).unwrap();
    }
    notification
}

async fn any_order_and_any_repetition_lead_to_the_same_notification(f: &Fixture) {
    let in_order: Vec<_> = (0..STORY.len())
        .map(|webhook| Arrival {
            webhook,
            emission: 0,
        })
        .collect();
    let expected = told(f, &f.acme, &in_order).await;
    let mut runner = TestRunner::new(Config::default());
    for case in 0..CASES {
        let arrivals = arrivals().new_tree(&mut runner).unwrap().current();
        let tenant = f.tenant(&format!("case-{case}")).await;

        let notification = told(f, &tenant, &arrivals).await;

        assert_eq!(notification, expected, "{arrivals:?}");
    }
}
