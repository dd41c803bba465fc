//! What a lane knows of the record without asking.
//!
//! Nobody appends to a partition without moving its head, and every append gives the head another
//! hash. So as long as a head is as this lane left it, so is the whole partition: the streams it
//! appended to end where it left them. A batch that is planned on this is stored only if the heads
//! are still these ([`BatchWriter::append`]); if they are not, everything here is forgotten.
//!
//! [`BatchWriter::append`]: super::storage::BatchWriter::append

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::record::{LockedHead, Partition, StreamKey, Tip};
use super::storage::{DataKeyPlace, StoredDataKey};

/// Most streams whose ends are known. About 150 bytes each.
const TIPS_KNOWN: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Most data keys that are known to be on record. About 300 bytes each.
const KEYS_KNOWN: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How long a connection is believed to be alive that was just used. A batch that is planned ahead
/// is stored by a single statement, and if the connection breaks there, nobody knows whether it
/// was; a transaction that has to begin first finds out in time.
const CONNECTION_FRESH: Duration = Duration::from_secs(1);
/// Most batches that go the long way after a plan turned out to be made on old heads: where
/// processes take turns in writing to a partition, planning ahead is in vain.
const REST_MAX: u32 = 64;

/// Heads and tips as a lane left them.
#[derive(Debug)]
pub struct Known {
    heads: BTreeMap<Partition, LockedHead>,
    tips: LruCache<StreamKey, Tip>,
    /// Keys that this lane has stored: requests that were sealed meanwhile bring them along again.
    keys: LruCache<DataKeyPlace, StoredDataKey>,
    as_of: Instant,
    /// When the lane's connection was made. Who knows which database was there before: one that
    /// took over may lack the last commits, and with them data keys.
    connected: Instant,
    /// Batches that are still to go the long way.
    rest: u32,
    /// How many did so the last time.
    rested: u32,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            heads: BTreeMap::new(),
            tips: LruCache::new(TIPS_KNOWN),
            keys: LruCache::new(KEYS_KNOWN),
            as_of: Instant::now(),
            connected: Instant::now(),
            rest: 0,
            rested: 0,
        }
    }
}

impl Known {
    /// The heads of some partitions, if a batch may be planned on them.
    pub(super) fn heads(&mut self, partitions: &[Partition]) -> Option<Vec<LockedHead>> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        if self.as_of.elapsed() > CONNECTION_FRESH {
            return None;
        }
        let heads = partitions.iter().map(|number| self.heads.get(number));
        heads.map(Option::<&LockedHead>::cloned).collect()
    }

    /// Where a stream ends, if this lane has appended to it.
    pub(super) fn tip(&self, stream: &StreamKey) -> Option<Tip> {
        self.tips.peek(stream).copied()
    }

    /// A data key, if this lane has stored it.
    pub(super) fn key(&self, place: &DataKeyPlace) -> Option<&StoredDataKey> {
        self.keys.peek(place)
    }

    /// A batch was stored: so its partitions and streams end now.
    pub(super) fn learn<'a>(
        &mut self,
        heads: impl IntoIterator<Item = LockedHead>,
        tips: impl IntoIterator<Item = (&'a StreamKey, Tip)>,
        keys: impl IntoIterator<Item = &'a StoredDataKey>,
    ) {
        for locked in heads {
            self.heads.insert(locked.head.partition, locked);
        }
        for (stream, tip) in tips {
            self.tips.put(stream.clone(), tip);
        }
        for key in keys {
            self.keys.put(key.place.clone(), key.clone());
        }
        self.as_of = Instant::now();
    }

    /// A batch that was planned ahead got in.
    pub(super) fn was_right(&mut self) {
        self.rested = 0;
    }

    /// Somebody else has moved a head: the next batches look first, more of them each time.
    pub(super) fn was_wrong(&mut self) {
        self.rested = (self.rested * 2).clamp(1, REST_MAX);
        self.rest = self.rested;
        self.forget();
    }

    /// The lane has another connection.
    pub(super) fn reconnected(&mut self) {
        self.forget();
        self.connected = Instant::now();
    }

    /// What was seen of the database before may not be so any more.
    pub(super) fn connected(&self) -> Instant {
        self.connected
    }

    /// Nothing is certain any more.
    pub(super) fn forget(&mut self) {
        self.heads.clear();
        self.tips.clear();
        self.keys.clear();
    }
}
