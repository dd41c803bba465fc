//! Tells other processes what this one has appended.
//!
//! Nobody waits for it: an append is answered once it is durable, and who follows the log elsewhere
//! hears of it a moment later. What is appended meanwhile shares an announcement. One that gets
//! lost is made up for by the look that the others take every second (`follower`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::record::{LedgerPosition, Partition, Position};
use super::storage::Storage;
use crate::tasks::Tasks;
use crate::telemetry::ErrorChain;

/// From one announcement to the next.
const PACE: Duration = Duration::from_millis(5);

/// Where partitions end.
type Heads = BTreeMap<Partition, Position>;

/// Clones share what is to be announced.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    heads: watch::Sender<Heads>,
}

impl Announcer {
    /// Starts the task that announces. It ends when every clone is gone and all is told.
    pub(super) fn start(storage: &Arc<dyn Storage>, tasks: &Tasks) -> Self {
        let (heads, told) = watch::channel(Heads::new());
        tasks.spawn(announce(Arc::clone(storage), told));
        Self { heads }
    }

    /// This process has appended up to here.
    pub(super) fn tell(&self, partition: Partition, position: Position) {
        self.heads.send_modify(|heads| {
            let head = heads.entry(partition).or_default();
            *head = position.max(*head);
        });
    }
}

async fn announce(storage: Arc<dyn Storage>, mut heads: watch::Receiver<Heads>) {
    let mut announced = Heads::new();
    while heads.changed().await.is_ok() {
        let now = heads.borrow_and_update().clone();
        let news: Vec<LedgerPosition> = now
            .iter()
            .filter(|(partition, position)| announced.get(partition) != Some(position))
            .map(|(partition, position)| LedgerPosition {
                partition: *partition,
                position: *position,
            })
            .collect();
        if let Err(error) = storage.announce(&news).await {
            tracing::debug!(error = %ErrorChain(&error), "appends were not announced");
        }
        announced = now;
        tokio::time::sleep(PACE).await;
    }
}
