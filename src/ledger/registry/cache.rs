//! Remembers, for a while and within bounds, what the database said.
//!
//! What exists and what does not are remembered apart, so that somebody who guesses can't push
//! out what everybody else needs. Questions about the same thing wait for the first one's answer,
//! so a popular entry that runs out costs one look-up and not hundreds.

use std::future::Future;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::clock::Clock;
use crate::domain::time::Timestamp;

/// Most things remembered to exist. A few hundred bytes each.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Most things remembered not to exist. Enough for callers that are set up wrongly; guesses never
/// repeat, so more would not help against them.
const UNKNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// How long that something does not exist is believed at most: somebody may be about to create it
/// through another process, and try it at once.
const UNKNOWN_TTL: Duration = Duration::from_secs(1);
/// Look-ups at the same time. Things that share a turn wait for each other needlessly, so it is
/// larger than any pool of connections is likely to be.
const TURNS: usize = 64;

pub(super) struct Cache<K, V> {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    memory: Mutex<Memory<K, V>>,
    turns: [tokio::sync::Mutex<()>; TURNS],
    hasher: RandomState,
}

struct Memory<K, V> {
    known: LruCache<K, (Arc<V>, Timestamp)>,
    unknown: LruCache<K, Timestamp>,
    /// How often something was forgotten. A look-up that began earlier may have read what has
    /// changed since, and must not bring it back.
    changes: u64,
}

/// Neither that it exists nor that it does not.
struct NotRemembered;

impl<K: Clone + Eq + Hash, V> Cache<K, V> {
    pub(super) fn new(clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self {
            clock,
            ttl,
            memory: Mutex::new(Memory {
                known: LruCache::new(KNOWN_MAX),
                unknown: LruCache::new(UNKNOWN_MAX),
                changes: 0,
            }),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            hasher: RandomState::new(),
        }
    }

    /// What is remembered, else what `load` says.
    ///
    /// # Errors
    ///
    /// Those of `load`. They are not remembered.
    pub(super) async fn get<E>(
        &self,
        key: &K,
        load: impl Future<Output = Result<Option<V>, E>>,
    ) -> Result<Option<Arc<V>>, E> {
        if let Ok(answer) = self.remembered(key) {
            return Ok(answer);
        }
        let _turn = self.turn(key).lock().await;
        // Whoever had the turn before may have asked the same.
        if let Ok(answer) = self.remembered(key) {
            return Ok(answer);
        }
        // Before the look-up: what it finds is as old as its beginning.
        let since = self.clock.now();
        let changes = self.memory().changes;
        let answer = load.await?.map(Arc::new);
        self.remember(key, answer.clone(), since, changes);
        Ok(answer)
    }

    /// It has changed: ask again.
    pub(super) fn forget(&self, key: &K) {
        let mut memory = self.memory();
        memory.changes += 1;
        memory.known.pop(key);
        memory.unknown.pop(key);
    }

    /// Something has changed, and it is not known under which key.
    pub(super) fn forget_known(&self) {
        let mut memory = self.memory();
        memory.changes += 1;
        memory.known.clear();
    }

    fn remembered(&self, key: &K) -> Result<Option<Arc<V>>, NotRemembered> {
        let now = self.clock.now();
        let mut memory = self.memory();
        if let Some((value, since)) = memory.known.get(key) {
            let is_fresh = fresh(*since, now, self.ttl);
            return is_fresh
                .then(|| Some(Arc::clone(value)))
                .ok_or(NotRemembered);
        }
        let since = memory.unknown.get(key).ok_or(NotRemembered)?;
        let is_fresh = fresh(*since, now, self.ttl.min(UNKNOWN_TTL));
        is_fresh.then_some(None).ok_or(NotRemembered)
    }

    fn remember(&self, key: &K, answer: Option<Arc<V>>, since: Timestamp, changes: u64) {
        let mut memory = self.memory();
        if memory.changes != changes {
            return;
        }
        if let Some(value) = answer {
            memory.unknown.pop(key);
            memory.known.put(key.clone(), (value, since));
        } else {
            memory.known.pop(key);
            memory.unknown.put(key.clone(), since);
        }
    }

    fn turn(&self, key: &K) -> &tokio::sync::Mutex<()> {
        let number = self.hasher.hash_one(key) % TURNS as u64;
        &self.turns[usize::try_from(number).unwrap_or_default()]
    }

    fn memory(&self) -> MutexGuard<'_, Memory<K, V>> {
        // No code that may panic runs under the lock.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock that was set back makes everything stale, rather than fresh for longer.
fn fresh(since: Timestamp, now: Timestamp, ttl: Duration) -> bool {
    u64::try_from(now.as_micros() - since.as_micros())
        .is_ok_and(|age| Duration::from_micros(age) < ttl)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::testing::TestClock;
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    /// A cache of numbers, and how often each question went through to the database.
    struct Counted {
        cache: Cache<u32, u32>,
        clock: Arc<TestClock>,
        loads: AtomicU32,
    }

    impl Counted {
        fn new() -> Self {
            let clock = Arc::new(TestClock::default());
            Self {
                cache: Cache::new(Arc::clone(&clock) as Arc<dyn Clock>, TTL),
                clock,
                loads: AtomicU32::new(0),
            }
        }

        /// Odd numbers exist.
        async fn get(&self, key: u32) -> Option<u32> {
            let load = async {
                self.loads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, Infallible>((key % 2 == 1).then_some(key))
            };
            self.cache
                .get(&key, load)
                .await
                .unwrap()
                .map(|value| *value)
        }

        fn loads(&self) -> u32 {
            self.loads.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn what_exists_is_believed_for_as_long_as_was_said() {
        let counted = Counted::new();

        assert_eq!(counted.get(1).await, Some(1));
        counted.clock.advance(Duration::from_millis(9_999));
        assert_eq!(counted.get(1).await, Some(1));
        assert_eq!(counted.loads(), 1);
        counted.clock.advance(Duration::from_millis(1));
        assert_eq!(counted.get(1).await, Some(1));
        assert_eq!(counted.loads(), 1);
    }

    #[tokio::test]
    async fn what_does_not_exist_is_believed_for_a_second() {
        let counted = Counted::new();

        assert_eq!(counted.get(2).await, None);
        counted.clock.advance(Duration::from_millis(999));
        assert_eq!(counted.get(2).await, None);
        assert_eq!(counted.loads(), 1);
        counted.clock.advance(Duration::from_millis(1));
        assert_eq!(counted.get(2).await, None);
        assert_eq!(counted.loads(), 1);
    }

    #[tokio::test]
    async fn guesses_do_not_push_out_what_exists() {
        let counted = Counted::new();
        counted.get(1).await;

        for guess in 0..20_000 {
            counted.get(guess * 2).await;
        }

        counted.loads();
        counted.get(1).await;
        assert_eq!(counted.loads(), 0);
        assert_eq!(counted.cache.memory().unknown.len(), UNKNOWN_MAX.get());
    }

    #[tokio::test]
    async fn many_questions_at_once_are_one_look_up() {
        let counted = Counted::new();

        let answers = futures_util::future::join_all((0..100).map(|_| counted.get(7))).await;

        assert_eq!(answers, vec![Some(7); 100]);
        assert_eq!(counted.loads(), 1);
    }

    #[tokio::test]
    async fn a_change_during_a_look_up_is_not_undone_by_it() {
        let counted = Counted::new();
        let load = async {
            counted.cache.forget(&1);
            Ok::<_, Infallible>(Some(1))
        };
        counted.cache.get(&1, load).await.unwrap();

        counted.get(1).await;

        assert_eq!(counted.loads(), 1);
    }

    #[tokio::test]
    async fn a_clock_set_back_makes_nothing_last_longer() {
        let counted = Counted::new();
        counted.clock.advance(Duration::from_hours(1));
        counted.get(1).await;
        counted.loads();

        counted.clock.set_back(Duration::from_mins(30));

        counted.get(1).await;
        assert_eq!(counted.loads(), 1);
    }
}
