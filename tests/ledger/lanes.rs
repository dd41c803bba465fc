//! Lanes beside everything else that a process does.

use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::{pin_mut, poll};

use crate::client::{Client, request};
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread": a_lane_waits_for_nobody);

/// Longer than an append takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

async fn a_lane_waits_for_nobody(place: &Place) {
    let client = Client::of(place);
    // Connects, and makes the subscriber's key known.
    client.begin(client.new_stream(), request()).await.unwrap();

    // From here on the only thread of this runtime is never free: nothing that is spawned on it runs.
    let appending = tokio::task::unconstrained(client.begin(client.new_stream(), request()));
    pin_mut!(appending);
    let begun = Instant::now();
    let done = loop {
        if let Poll::Ready(done) = poll!(&mut appending) {
            break done.unwrap();
        }
        assert!(begun.elapsed() < PATIENCE, "the lane waits for its turn");
        std::thread::sleep(Duration::from_millis(1));
    };

    assert_eq!(done.tip.position.0, 2);
}
