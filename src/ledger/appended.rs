//! How far each partition has come, as far as this process knows.
//!
//! Whoever follows the log waits here instead of asking the database again and again. The lanes
//! tell at once what they have committed; what other processes have appended is noticed a little
//! later (`follower`). So this may lag behind the record, but a position that is told is there for
//! everybody to read, and everything before it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::record::{Partition, Position};

/// The last position of each partition. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    /// Made when somebody first speaks of a partition; there are as many as the ledger has.
    partitions: Arc<Mutex<HashMap<Partition, watch::Sender<Position>>>>,
}

impl Appended {
    /// The partition's last position, now and whenever it moves. Position 0 as long as nothing is
    /// known of it.
    pub fn subscribe(&self, partition: Partition) -> watch::Receiver<Position> {
        self.with(partition, watch::Sender::subscribe)
    }

    /// Everything up to `position` can be read. Never goes back: what is known already stays.
    pub fn advance(&self, partition: Partition, position: Position) {
        self.with(partition, |known| {
            known.send_if_modified(|known| {
                let is_news = position > *known;
                if is_news {
                    *known = position;
                }
                is_news
            })
        });
    }

    fn with<T>(&self, partition: Partition, act: impl FnOnce(&watch::Sender<Position>) -> T) -> T {
        // No code that may panic runs under the lock.
        let mut partitions = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(partitions.entry(partition).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Partition = Partition(3);

    #[test]
    fn whoever_subscribes_late_knows_what_was_told_before() {
        let appended = Appended::default();
        appended.advance(HERE, Position(7));

        assert_eq!(*appended.subscribe(HERE).borrow(), Position(7));
        assert_eq!(*appended.subscribe(Partition(4)).borrow(), Position(0));
    }

    #[test]
    fn old_news_wakes_nobody_and_takes_nothing_back() {
        let appended = Appended::default();
        let mut seen = appended.subscribe(HERE);

        appended.clone().advance(HERE, Position(7));
        assert!(seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), Position(7));

        appended.advance(HERE, Position(7));
        appended.advance(HERE, Position(6));
        appended.advance(Partition(4), Position(9));
        assert!(!seen.has_changed().unwrap());
        assert_eq!(*seen.borrow(), Position(7));
    }
}
