//! One command at a time per stream, within this process.
//!
//! Correctness does not need it: the append checks the stream's end. Without it, many clients
//! writing to one notification would mostly conflict with each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::record::StreamKey;

type Locks = Arc<Mutex<HashMap<StreamKey, Arc<tokio::sync::Mutex<()>>>>>;

/// The streams somebody is working on.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamLocks(Locks);

/// Holds a stream until dropped.
#[derive(Debug)]
pub(super) struct StreamGuard {
    locks: Locks,
    stream: StreamKey,
    held: Option<OwnedMutexGuard<()>>,
}

impl StreamLocks {
    /// Waits for the stream's turn. First come, first served.
    pub(super) async fn lock(&self, stream: &StreamKey) -> StreamGuard {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(stream.clone()).or_default())
        };
        // Made first, so that the entry is cleared even if this future is dropped while waiting.
        let mut guard = StreamGuard {
            locks: Arc::clone(&self.0),
            stream: stream.clone(),
            held: None,
        };
        guard.held = Some(lock.lock_owned().await);
        guard
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        // Under the map's lock nobody else can come by the stream's; when only the map still
        // holds it, nobody waits.
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.held = None;
        if let Some(lock) = locks.get(&self.stream)
            && Arc::strong_count(lock) == 1
        {
            locks.remove(&self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{StreamId, TenantId};
    use crate::ledger::record::Partition;

    #[tokio::test]
    async fn a_stream_is_held_by_one_and_forgotten_after_the_last() {
        let stream = StreamKey {
            partition: Partition(0),
            tenant_id: TenantId::new("t").unwrap(),
            stream_id: StreamId(uuid::Uuid::nil()),
        };
        let locks = StreamLocks::default();

        let first = locks.lock(&stream).await;
        let waiting = locks.lock(&stream);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        drop(waiting.await);

        assert!(locks.0.lock().unwrap().is_empty());
    }
}
