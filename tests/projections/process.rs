//! Somebody who follows the ledger.

use std::time::{Duration, Instant};

use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::ledger::storage::Storage;
use notification_ledger::ledger::{Ledger, Options};
use notification_ledger::projections::Projections;
use notification_ledger::projections::step::Stepper;
use notification_ledger::projections::store::Progress;
use notification_ledger::tasks::Tasks;
use notification_ledger::telemetry::Metrics;

use crate::client::Client;
use crate::support::{PARTITIONS, Place};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Projections of one process, and somebody who sends it commands.
pub(crate) struct Process {
    pub(crate) client: Client,
    pub(crate) projections: Projections,
    tasks: Tasks,
}

impl Process {
    /// With projections that nobody has started yet.
    pub(crate) fn idle(place: &Place) -> Self {
        Self::on(place, place.database())
    }

    /// The same, through connections of its own.
    pub(crate) fn on(place: &Place, database: &Database) -> Self {
        let ledger = place.process_on(database.storage(), Options::default());
        Self {
            projections: projections(place, database, &ledger),
            client: Client::on(place, ledger),
            tasks: Tasks::new(),
        }
    }

    /// With projections that follow the ledger.
    pub(crate) async fn of(place: &Place) -> Self {
        let process = Self::idle(place);
        process.start().await;
        process
    }

    /// Hears of other processes, as a service does, and keeps the tables up to date.
    pub(crate) async fn start(&self) {
        self.client.ledger.follow(&self.tasks);
        self.start_deaf().await;
    }

    /// Keeps the tables up to date, but hears of no other process.
    pub(crate) async fn start_deaf(&self) {
        self.projections.start(&self.tasks).await.unwrap();
    }

    pub(crate) fn stepper(&self) -> Stepper {
        Stepper {
            storage: self.client.ledger.storage().clone(),
            tail: self.client.ledger.tail().clone(),
            store: self.projections.store().clone(),
        }
    }

    /// Waits until the tables have everything.
    pub(crate) async fn settle(&self) {
        let behind = until(async || {
            let behind = behind(self).await;
            if behind.is_empty() {
                Ok(())
            } else {
                Err(behind)
            }
        });
        behind.await;
    }

    pub(crate) async fn stop(self) {
        assert!(self.tasks.stop(PATIENCE).await, "the runner does not end");
        self.projections.store().close().await;
    }
}

fn projections(place: &Place, database: &Database, ledger: &Ledger) -> Projections {
    Projections::new(
        database,
        PARTITIONS,
        ledger,
        &place.surroundings(),
        &Metrics::new().unwrap(),
    )
}

/// Checkpoints that are not at their heads.
async fn behind(process: &Process) -> Vec<Progress> {
    let heads = process.client.ledger.heads().await.unwrap();
    let mut progress = process.projections.progress().await.unwrap();
    assert!(!progress.is_empty(), "there are no checkpoints");
    progress.retain(|progress| {
        let checkpoint = &progress.checkpoint;
        let head = heads
            .iter()
            .find(|head| head.partition == checkpoint.partition)
            .unwrap();
        checkpoint.position < head.position
    });
    progress
}

/// Looks again and again until something is so. Says how long that took.
pub(crate) async fn until<T, W: std::fmt::Debug>(
    mut look: impl AsyncFnMut() -> Result<T, W>,
) -> (T, Duration) {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return (seen, started.elapsed()),
            Err(why) => assert!(started.elapsed() < PATIENCE, "not in time: {why:#?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(crate) async fn head(storage: &dyn Storage, partition: i16) -> Position {
    let heads = storage.heads().await.unwrap();
    let head = heads
        .iter()
        .find(|head| head.partition == Partition(partition));
    head.unwrap().position
}
