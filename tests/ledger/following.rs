//! Whoever follows the log hears of everything that is appended.

use notification_ledger::ledger::record::{Partition, Position};

use crate::client::{Client, sent};
use crate::support::{Place, on_each_storage};

on_each_storage!("current_thread": what_is_committed_is_told_before_it_is_answered);

async fn what_is_committed_is_told_before_it_is_answered(place: &Place) {
    let client = Client::of(place).for_tenant("acme", 3);
    let here = client.ledger.appended().subscribe(Partition(3));
    let elsewhere = client.ledger.appended().subscribe(Partition(2));

    let stream = client.requested().await;
    assert_eq!(*here.borrow(), Position(1));
    client.tell(stream, sent("one")).await.unwrap();
    assert_eq!(*here.borrow(), Position(2));
    // It is on record already.
    client.tell(stream, sent("one")).await.unwrap();
    assert_eq!(*here.borrow(), Position(2));
    assert_eq!(*elsewhere.borrow(), Position(0));
}
