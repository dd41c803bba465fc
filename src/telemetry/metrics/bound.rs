//! Instruments that know their labels, so that counting need not look for them.
//!
//! For what every command passes: finding the series that some labels stand for takes ten times as
//! long as adding one to it.

use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

use hashbrown::{Equivalent, HashMap};
use opentelemetry::metrics::{BoundCounter, BoundGauge, BoundHistogram};

/// Instruments by what their labels follow from. A series begins when it is first used.
#[derive(Debug)]
pub(super) struct Bound<K, I>(RwLock<HashMap<K, I>>);

/// What is counted of one kind of answered requests.
#[derive(Debug)]
pub(super) struct HttpInstruments {
    pub(super) requests: BoundCounter<u64>,
    pub(super) duration: BoundHistogram<f64>,
}

/// What waits for one lane.
#[derive(Debug)]
pub(super) struct QueueInstruments {
    pub(super) commands: BoundGauge<u64>,
    pub(super) bytes: BoundGauge<u64>,
}

/// One kind of answered requests.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct HttpKind<'a> {
    pub(super) method: &'static str,
    pub(super) route: &'a str,
    pub(super) status: u16,
}

/// The same, to be kept.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct KeptHttpKind {
    // In the order of `HttpKind`: both must have the same hash.
    method: &'static str,
    route: String,
    status: u16,
}

impl Equivalent<KeptHttpKind> for HttpKind<'_> {
    fn equivalent(&self, kept: &KeptHttpKind) -> bool {
        (self.method, self.route, self.status) == (kept.method, kept.route.as_str(), kept.status)
    }
}

impl From<HttpKind<'_>> for KeptHttpKind {
    fn from(kind: HttpKind<'_>) -> Self {
        Self {
            method: kind.method,
            route: kind.route.to_owned(),
            status: kind.status,
        }
    }
}

impl<K, I> Default for Bound<K, I> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash, I> Bound<K, I> {
    /// Has `count` use the instruments of `key`, which `bind` makes the first time.
    pub(super) fn with<Q>(&self, key: Q, bind: impl FnOnce() -> I, count: impl FnOnce(&I))
    where
        Q: Equivalent<K> + Hash + Into<K>,
    {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(instruments) = known.get(&key) {
            count(instruments);
            return;
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        count(known.entry(key.into()).or_insert_with(bind));
    }
}
