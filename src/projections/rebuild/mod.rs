//! Rebuilding tables from the record, while everybody goes on reading the old ones.
//!
//! Shadow tables are filled stream by stream ([`fill`]), indexed, brought up to where the live
//! tables are, compared with them, and swapped in one transaction ([`worker`]). How far it has come
//! is kept in the database ([`jobs`]), in the same transactions as the rows: a rebuild that is
//! interrupted goes on where it was, in whichever process of the same release finds it. Tables of
//! an older release are rebuilt without anybody asking ([`outdated`]).

pub(crate) mod fill;
mod jobs;
mod outdated;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::Projections;
use super::projection::Projection;
use super::store::Transaction;
use crate::ledger::record::Partition;
use crate::ledger::storage::StorageError;
use crate::tasks::Tasks;
use crate::telemetry::ErrorChain;

pub use jobs::{Part, Phase, Rebuild, State};
use worker::{LEASE, Worker, later};

/// How long whoever cancels waits for the tables to be free.
const CANCEL_PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take to let go of what others can go on with.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked for rebuilds whose process is gone.
const LOOK: Duration = Duration::from_secs(5);

/// What asking for rebuilds led to: each that was asked for is in one of these.
#[derive(Clone, Debug, Default)]
pub struct Requested {
    /// They begin, as a group that shares its reads.
    pub begun: Vec<Rebuild>,
    /// They were running, and stay as they are.
    pub running: Vec<Rebuild>,
}

impl Requested {
    /// What runs now, whoever asked for it.
    pub fn all(&self) -> impl Iterator<Item = &Rebuild> {
        self.running.iter().chain(&self.begun)
    }
}

impl Projections {
    /// Begins to rebuild those projections of which no rebuild is running, sharing one read of the
    /// record; `partition` alone or all of it. Whoever follows ([`Self::start`]) or works
    /// ([`Self::work`]) carries it out.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn rebuild(
        &self,
        projections: &[Projection],
        partition: Option<Partition>,
    ) -> Result<Requested, StorageError> {
        let room = &self.inner;
        let mut transaction = room.store.begin().await?;
        transaction.lock_rebuilds().await?;
        let mut running = transaction.rebuilds().await?;
        let now = room.surroundings.now();
        running.retain(|rebuild| {
            projections.contains(&rebuild.projection) && rebuild.is_in_the_way(now)
        });
        let is_idle = |projection: &Projection| {
            let mut running = running.iter();
            running.all(|rebuild| rebuild.projection != *projection)
        };
        let idle: Vec<Projection> = projections.iter().copied().filter(is_idle).collect();
        let begun = if idle.is_empty() {
            transaction.roll_back().await?;
            Vec::new()
        } else {
            self.begin(transaction, &idle, partition).await?
        };
        Ok(Requested { begun, running })
    }

    /// Notes rebuilds that begin, as one group, and wakes who carries them out. Nobody else may
    /// begin any meanwhile.
    async fn begin(
        &self,
        mut transaction: Transaction,
        projections: &[Projection],
        partition: Option<Partition>,
    ) -> Result<Vec<Rebuild>, StorageError> {
        let room = &self.inner;
        let now = room.surroundings.now();
        let rebuild_id = room.surroundings.ids.time_ordered();
        for projection in projections {
            let new = Rebuild {
                projection: *projection,
                rebuild_id,
                version: projection.version(),
                partition,
                state: State::Running,
                phase: Phase::Filling,
                error: None,
                checksum_equal: None,
                started_at: now,
                updated_at: now,
                owner: None,
                lease_until: now,
                done: 0,
                total: 0,
            };
            transaction.add_rebuild(&new).await?;
            transaction.create_shadow(*projection).await?;
        }
        // Read before anybody else can move them.
        let mut begun = transaction.rebuilds().await?;
        begun.retain(|rebuild| rebuild.rebuild_id == rebuild_id);
        transaction.commit().await?;
        room.rebuild_wanted.notify_waiters();
        Ok(begun)
    }

    /// The last rebuild of every projection that had one.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn rebuilds(&self) -> Result<Vec<Rebuild>, StorageError> {
        self.inner.store.rebuilds().await
    }

    /// Ends a running rebuild; its tables go. `None` if none is running.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn cancel_rebuild(
        &self,
        projection: Projection,
    ) -> Result<Option<Rebuild>, StorageError> {
        let room = &self.inner;
        let mut transaction = room.store.begin().await?;
        transaction.lock_rebuilds().await?;
        let running =
            transaction.rebuilds().await?.into_iter().find(|rebuild| {
                rebuild.projection == projection && rebuild.state == State::Running
            });
        let Some(rebuild) = running else {
            return Ok(None);
        };
        let now = room.surroundings.now();
        transaction
            .end(&rebuild, State::Cancelled, None, now)
            .await?;
        transaction.commit().await?;
        // An index may be in the making, for minutes. Whoever builds it drops the table then.
        if let Err(error) = room.store.drop_cancelled(&rebuild, CANCEL_PATIENCE).await {
            tracing::debug!(error = %ErrorChain(&error), "shadow tables are still in use");
        }
        let standing = room.store.rebuilds().await?;
        Ok(standing
            .into_iter()
            .find(|standing| standing.projection == projection))
    }

    /// Carries out what is to be rebuilt and nobody works on, until nothing of it is left. Says
    /// whether there was anything.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn work(&self) -> Result<bool, StorageError> {
        let mut any = false;
        while let Some(worker) = self.claim().await? {
            any = true;
            worker.run().await;
        }
        Ok(any)
    }

    async fn claim(&self) -> Result<Option<Worker>, StorageError> {
        let room = &self.inner;
        let now = room.surroundings.now();
        // Looked at first: there is hardly ever one, and claiming takes a lock.
        if !self
            .rebuilds()
            .await?
            .iter()
            .any(|rebuild| rebuild.is_open(now))
        {
            return Ok(None);
        }
        let owner = room.surroundings.ids.random();
        let mut transaction: Transaction = room.store.begin().await?;
        let group = transaction.claim(owner, now, later(now, LEASE)).await?;
        if group.is_empty() {
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(Worker::new(room, owner, group)))
    }

    /// Carries out rebuilds as they are asked for, here or in a process that is gone, and asks for
    /// those of outdated tables.
    pub(super) fn rebuild_in_background(&self, tasks: &Tasks) {
        let projections = self.clone();
        let stopping = tasks.stopping().clone();
        tasks.spawn(async move {
            let owners = std::sync::Mutex::default();
            tokio::select! {
                () = stopping.cancelled() => {}
                () = projections.follow_rebuilds(&owners) => {}
            }
            let owners = owners.into_inner().unwrap_or_default();
            let released = projections.release(&owners);
            if tokio::time::timeout(RELEASE_PATIENCE, released)
                .await
                .is_err()
            {
                tracing::debug!("rebuilds were not released; their leases run out by themselves");
            }
        });
    }

    /// Lets others go on at once.
    async fn release(&self, owners: &[uuid::Uuid]) {
        for owner in owners {
            let released = async {
                let mut transaction = self.inner.store.begin().await?;
                transaction.release(*owner).await?;
                transaction.commit().await
            };
            if let Err(error) = released.await {
                tracing::debug!(error = %ErrorChain(&error), "a rebuild was not released");
            }
        }
    }

    async fn follow_rebuilds(&self, owners: &std::sync::Mutex<Vec<uuid::Uuid>>) {
        // Dropped with this, and what they were at goes on elsewhere, or after the next start.
        let mut working = tokio::task::JoinSet::new();
        let wanted: Arc<Notify> = Arc::clone(&self.inner.rebuild_wanted);
        let mut has_begun = false;
        loop {
            let woken = wanted.notified();
            match self.rebuild_outdated(!has_begun).await {
                Ok(()) => has_begun = true,
                Err(error) => {
                    tracing::debug!(error = %ErrorChain(&error), "no outdated tables were looked for");
                }
            }
            loop {
                match self.claim().await {
                    Ok(Some(worker)) => {
                        if let Ok(mut owners) = owners.lock() {
                            owners.push(worker.owner());
                        }
                        working.spawn(worker.run());
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(error = %ErrorChain(&error), "no rebuild was looked for");
                        break;
                    }
                }
            }
            while working.try_join_next().is_some() {}
            let _ = tokio::time::timeout(LOOK, woken).await;
        }
    }
}
