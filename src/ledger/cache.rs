//! Recently used aggregates, with the end of the stream they were folded from.
//!
//! An entry may be stale, because another process can append too; then the append finds the
//! stream's end elsewhere, and the aggregate is loaded anew. So the cache saves reads and can't
//! do harm. Private text in it is sealed.

use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use std::sync::Arc;

use lru::LruCache;

use super::record::{StreamKey, Tip};

/// Locks, so that callers on several cores seldom meet.
const SHARDS: usize = 16;

/// A bounded cache of one kind of aggregate.
#[derive(Debug)]
pub(super) struct AggregateCache<A> {
    shards: Vec<Mutex<Shard<A>>>,
    hasher: std::hash::RandomState,
    shard_bytes_max: usize,
}

#[derive(Debug)]
struct Shard<A> {
    entries: LruCache<StreamKey, Entry<A>>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<A> {
    aggregate: Arc<A>,
    tip: Tip,
    bytes: usize,
}

impl<A> AggregateCache<A> {
    pub(super) fn new(bytes_max: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                entries: LruCache::unbounded(),
                bytes: 0,
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: std::hash::RandomState::new(),
            shard_bytes_max: bytes_max / SHARDS,
        }
    }

    /// Takes an aggregate out: whoever uses it puts it back, with what they added.
    pub(super) fn take(&self, stream: &StreamKey) -> Option<(Arc<A>, Tip)> {
        let mut shard = self
            .shard(stream)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entries.pop(stream)?;
        shard.bytes -= entry.bytes;
        Some((entry.aggregate, entry.tip))
    }

    /// Whether an aggregate is here now that passes.
    pub(super) fn has(&self, stream: &StreamKey, passes: impl FnOnce(&A) -> bool) -> bool {
        let shard = self
            .shard(stream)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entries.peek(stream);
        entry.is_some_and(|entry| passes(&entry.aggregate))
    }

    /// Keeps an aggregate, at the cost of those used least recently.
    pub(super) fn put(&self, stream: StreamKey, aggregate: Arc<A>, tip: Tip, weight: usize) {
        let bytes = weight + stream.tenant_id.as_str().len();
        if bytes > self.shard_bytes_max {
            return;
        }
        let mut shard = self
            .shard(&stream)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shard.bytes += bytes;
        let entry = Entry {
            aggregate,
            tip,
            bytes,
        };
        if let Some((_, old)) = shard.entries.push(stream, entry) {
            shard.bytes -= old.bytes;
        }
        while shard.bytes > self.shard_bytes_max {
            let Some((_, oldest)) = shard.entries.pop_lru() else {
                break;
            };
            shard.bytes -= oldest.bytes;
        }
    }

    fn shard(&self, stream: &StreamKey) -> &Mutex<Shard<A>> {
        let hash = self.hasher.hash_one(stream);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        &self.shards[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{StreamId, TenantId};
    use crate::ledger::record::Partition;

    fn stream(number: u128) -> StreamKey {
        StreamKey {
            partition: Partition(0),
            tenant_id: TenantId::new("t").unwrap(),
            stream_id: StreamId(uuid::Uuid::from_u128(number)),
        }
    }

    #[test]
    fn an_entry_is_taken_once() {
        let cache = AggregateCache::new(1 << 20);
        cache.put(stream(1), Arc::new("one"), Tip::default(), 100);

        assert!(cache.has(&stream(1), |aggregate| *aggregate == "one"));
        assert!(!cache.has(&stream(1), |aggregate| *aggregate == "two"));
        assert_eq!(
            cache.take(&stream(1)).map(|(aggregate, _)| *aggregate),
            Some("one")
        );
        assert!(cache.take(&stream(1)).is_none());
        assert!(!cache.has(&stream(1), |_| true));
    }

    #[test]
    fn the_bytes_stay_below_the_bound() {
        let cache = AggregateCache::new(SHARDS * 1000);
        for number in 0..1000 {
            cache.put(stream(number), Arc::new(number), Tip::default(), 99);
        }

        for shard in &cache.shards {
            let shard = shard.lock().unwrap();
            assert!(shard.bytes <= 1000 && shard.bytes == shard.entries.len() * 100);
        }
    }
}
