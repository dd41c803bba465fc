//! What every handler needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::live::Live;
use super::refusals::Refusals;
use crate::clock::Surroundings;
use crate::ledger::Ledger;
use crate::ledger::database::{Database, LedgerRow};
use crate::ledger::registry::Registry;
use crate::ledger::sealing::MasterKey;
use crate::projections::Projections;
use crate::telemetry::Metrics;

/// Shared by all handlers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    inner: Arc<Parts>,
}

/// What the state is made of.
#[derive(Debug)]
pub struct Parts {
    pub ledger: Ledger,
    pub projections: Projections,
    pub registry: Registry,
    pub database: Database,
    pub ledger_row: LedgerRow,
    pub master: Arc<MasterKey>,
    pub surroundings: Surroundings,
    pub metrics: Metrics,
    pub limits: Limits,
    /// How far a webhook's timestamp may be from now.
    pub webhook_tolerance: Duration,
    /// The address from which providers reach this service, without a slash at the end.
    pub public_url: String,
    pub readiness: Readiness,
    pub refusals: Refusals,
    pub live: Live,
}

/// How much a caller may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub bulk_body_bytes_max: usize,
    pub payload_bytes_max: usize,
    /// The longest pause in the middle of a body.
    pub body_timeout: Duration,
    /// The longest a whole request may take, streams apart.
    pub request_timeout: Duration,
}

/// Whether new requests are welcome.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on the service is shutting down.
    pub fn begin_shutdown(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_shutting_down(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ApiState {
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(parts),
        }
    }
}

impl std::ops::Deref for ApiState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.inner
    }
}
