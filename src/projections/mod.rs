//! What people look at: tables that follow from the events and can be thrown away and rebuilt.
//!
//! A [`Projection`] is a pure function from one stream's events to rows. The [`runner`] keeps the
//! tables up to date while events are appended, a [`step`] at a time; checkpoint and rows move in
//! one transaction, so every event is counted exactly once. Whatever the runner does may be begun
//! twice, by any number of processes, and interrupted anywhere.
//!
//! Only this room writes the read tables, and it writes nothing else. It reads the record through
//! the ledger, and knows no HTTP.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod changes;
pub mod latency;
pub mod metrics;
pub mod notification_logs;
pub mod notifications;
mod projection;
mod query;
pub mod rebuild;
pub mod recent;
pub mod replay;
mod runner;
pub mod step;
pub mod store;
pub mod stream;
pub mod table;
pub mod timeline;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Surroundings;
use crate::ledger::Ledger;
use crate::ledger::appended::Appended;
use crate::ledger::database::Database;
use crate::ledger::record::{Partition, Position};
use crate::ledger::storage::{Storage, StorageError};
use crate::ledger::tail::Tail;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

pub use projection::Projection;
use step::Stepper;
use store::{Checkpoint, Progress, Store};

/// How often it is looked whether another process has brought a projection further.
const LOOK: Duration = Duration::from_millis(50);

/// The read tables. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Projections {
    inner: Arc<Inner>,
}

/// What the runner, rebuilds and readers share.
#[derive(Debug)]
struct Inner {
    store: Store,
    storage: Arc<dyn Storage>,
    partitions: Vec<Partition>,
    ledger_appended: Appended,
    ledger_tail: Tail,
    /// How far each projection has come, as this process knows.
    reached: BTreeMap<Projection, Appended>,
    /// Somebody in this process asked for a rebuild.
    rebuild_wanted: Arc<Notify>,
    surroundings: Surroundings,
    metrics: Metrics,
}

impl Projections {
    pub fn new(
        database: &Database,
        partitions: i16,
        ledger: &Ledger,
        surroundings: &Surroundings,
        metrics: &Metrics,
    ) -> Self {
        let storage = Arc::clone(ledger.storage());
        let told = (ledger.appended().clone(), ledger.tail().clone());
        Self::with(database, partitions, storage, told, surroundings, metrics)
    }

    /// For a command beside a server: without lanes, and without the key to what is sealed.
    pub fn apart(
        database: &Database,
        partitions: i16,
        surroundings: &Surroundings,
        metrics: &Metrics,
    ) -> Self {
        let (storage, told) = (database.storage(), Default::default());
        Self::with(database, partitions, storage, told, surroundings, metrics)
    }

    fn with(
        database: &Database,
        partitions: i16,
        storage: Arc<dyn Storage>,
        (ledger_appended, ledger_tail): (Appended, Tail),
        surroundings: &Surroundings,
        metrics: &Metrics,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store: Store::new(database),
                storage,
                partitions: (0..partitions).map(Partition).collect(),
                ledger_appended,
                ledger_tail,
                reached: Projection::ALL
                    .into_iter()
                    .map(|projection| (projection, Appended::default()))
                    .collect(),
                rebuild_wanted: Arc::default(),
                surroundings: surroundings.clone(),
                metrics: metrics.clone(),
            }),
        }
    }

    /// Keeps the tables up to date until the tasks are to stop.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn start(&self, tasks: &Tasks) -> Result<(), StorageError> {
        self.inner.store.add_checkpoints().await?;
        runner::start(&self.inner, tasks);
        self.rebuild_in_background(tasks);
        Ok(())
    }

    /// The tables themselves.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// How far every projection has come in every partition.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn progress(&self) -> Result<Vec<Progress>, StorageError> {
        self.inner.store.progress().await
    }

    /// How far one projection has come in one partition.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn position(
        &self,
        projection: Projection,
        partition: Partition,
    ) -> Result<Position, StorageError> {
        let checkpoints = self.inner.store.checkpoints(partition).await?;
        let at = checkpoints
            .into_iter()
            .find(|checkpoint| checkpoint.projection == projection);
        Ok(at.map_or(Position(0), |at| {
            self.inner.reached(&at);
            at.position
        }))
    }

    /// Waits until a projection has everything up to a position, in whichever process. Says
    /// whether it came so far in time.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn wait_for(
        &self,
        projection: Projection,
        partition: Partition,
        position: Position,
        patience: Duration,
    ) -> Result<bool, StorageError> {
        let deadline = Instant::now() + patience;
        let Some(reached) = self.inner.reached.get(&projection) else {
            return Ok(false);
        };
        let mut reached = reached.subscribe(partition);
        loop {
            if *reached.borrow_and_update() >= position
                || self.position(projection, partition).await? >= position
            {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            let look = deadline.min(Instant::now() + LOOK);
            // The sender lives as long as `self`.
            let _ = tokio::time::timeout_at(look, reached.changed()).await;
        }
    }
}

impl Inner {
    fn stepper(&self) -> Stepper {
        Stepper {
            storage: Arc::clone(&self.storage),
            tail: self.ledger_tail.clone(),
            store: self.store.clone(),
        }
    }

    /// Tells whoever waits for it.
    fn reached(&self, at: &Checkpoint) {
        if let Some(reached) = self.reached.get(&at.projection) {
            reached.advance(at.partition, at.position);
        }
    }
}
