//! Hears of what other processes append.
//!
//! Two ways lead to the same statement, which reads the heads. An announcement
//! ([`Announcements`], PostgreSQL only) says at once that there is something to read; a look every
//! second finds what was announced to nobody, and is all there is on SQLite. Announcements are
//! never believed, only followed up: anybody may send one, and another ledger in the same database
//! sends them too.
//!
//! A database that is gone is tried again until it is back; nothing here ends before the process
//! does.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::appended::Appended;
use super::record::LedgerPosition;
use super::storage::{Announcements, Storage, StorageError};
use crate::telemetry::ErrorChain;

/// Between two looks at the heads: how late an append is noticed that nobody announced.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer has lost its database.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Between an announcement and the look it leads to. Batches that are committed meanwhile share
/// the look, and this process's own, which its lanes are about to tell, need none.
const SETTLING: Duration = Duration::from_millis(2);
/// The first pause before listening is tried again; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Tells `appended` of everything that anybody appends, until `stopping`.
pub(super) async fn follow(
    storage: Arc<dyn Storage>,
    appended: Appended,
    stopping: CancellationToken,
) {
    let follower = Follower { storage, appended };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = follower.look_again_and_again() => {}
        () = follower.listen_again_and_again() => {}
    }
}

struct Follower {
    storage: Arc<dyn Storage>,
    appended: Appended,
}

impl Follower {
    async fn look_again_and_again(&self) {
        let mut is_lost = false;
        loop {
            match self.look().await {
                Ok(()) if is_lost => {
                    tracing::info!("other processes' appends are noticed again");
                    is_lost = false;
                }
                Err(error) if !is_lost => {
                    tracing::warn!(
                        error = %ErrorChain(&error),
                        "other processes' appends are not noticed: the heads can't be read"
                    );
                    is_lost = true;
                }
                Ok(()) | Err(_) => {}
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Reads how far the partitions have come.
    async fn look(&self) -> Result<(), StorageError> {
        let heads = tokio::time::timeout(LOOK_TIMEOUT, self.storage.heads());
        let heads = heads
            .await
            .unwrap_or_else(|elapsed| Err(StorageError::Unavailable(Box::new(elapsed))))?;
        for head in heads {
            self.appended.advance(head.partition, head.position);
        }
        Ok(())
    }

    async fn listen_again_and_again(&self) {
        let mut is_lost = false;
        let mut pause = PAUSE_MIN;
        loop {
            let error = match self.storage.announcements().await {
                Ok(None) => return std::future::pending().await,
                Ok(Some(announcements)) => {
                    if is_lost {
                        tracing::info!("other processes' announcements are heard again");
                        is_lost = false;
                    }
                    pause = PAUSE_MIN;
                    self.listen(announcements).await
                }
                Err(error) => error,
            };
            if !is_lost {
                tracing::warn!(
                    error = %ErrorChain(&error),
                    "other processes' announcements are not heard; their appends are noticed \
                     within a second"
                );
                is_lost = true;
            }
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Follows announcements up until none can come any more; says why.
    async fn listen(&self, mut announcements: Box<dyn Announcements>) -> StorageError {
        loop {
            let announced = match announcements.next().await {
                Ok(announced) => announced,
                Err(error) => return error,
            };
            if !self.is_news(&announced) {
                continue;
            }
            tokio::time::sleep(SETTLING).await;
            // Many announcements wait for one look: those it has covered need none of their own.
            if self.is_news(&announced)
                && let Err(error) = self.look().await
            {
                return error;
            }
        }
    }

    /// An announcement without positions may be about anything.
    fn is_news(&self, announced: &[LedgerPosition]) -> bool {
        announced.is_empty()
            || announced.iter().any(|position| {
                let known = self.appended.subscribe(position.partition);
                position.position > *known.borrow()
            })
    }
}
