//! Carries a rebuild out: fill, index, catch up, compare, swap.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Inner;
use super::super::projection::Projection;
use super::super::step::{self, STEP_EVENTS_MAX, Stepper};
use super::super::store::{Checkpoint, CheckpointState, Place, ShadowIndex, Store, Transaction};
use super::super::stream::Unreadable;
use super::fill;
use super::jobs::{Part, Phase, Rebuild, State};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Partition, Position};
use crate::ledger::storage::{Storage, StorageError};
use crate::telemetry::ErrorChain;

/// How long a process that does not answer any more keeps a rebuild to itself.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(1);
/// Pieces of work at the same time: one reads and folds while another writes.
const AT_ONCE: usize = 2;
/// The first pause after the database failed; then twice as long each time, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Live tables that have not moved for so long are not waited for. Longer than a follower pauses.
const STANDSTILL: Duration = Duration::from_millis(1_200);
/// How often it is looked where they are.
const LOOK: Duration = Duration::from_millis(50);
/// How long it is waited for an index that is built for nobody any more.
const DROP_PATIENCE: Duration = Duration::from_mins(10);
/// How long readers may keep the tables from being swapped before it is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);
/// The longest pause before that.
const SWAP_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why a worker stopped before the end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    /// Cancelled, or taken over by another process.
    #[error("somebody else decides about this rebuild now")]
    NotOurs,
    /// The database failed; what was done is kept, and it can go on.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The code can't read an event: there is no going on.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// What was read before is not on record any more.
    #[error("the ledger was restored from a backup meanwhile; begin the rebuild again")]
    Restored,
}

/// One process working on a group of rebuilds that were begun together.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    room: Arc<Inner>,
    owner: uuid::Uuid,
    group: Arc<Vec<Rebuild>>,
}

impl Worker {
    pub(super) fn new(room: &Arc<Inner>, owner: uuid::Uuid, group: Vec<Rebuild>) -> Self {
        Self {
            room: Arc::clone(room),
            owner,
            group: Arc::new(group),
        }
    }

    pub(super) fn owner(&self) -> uuid::Uuid {
        self.owner
    }

    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.room.storage)
    }

    pub(super) fn store(&self) -> &Store {
        &self.room.store
    }

    pub(super) fn projections(&self) -> impl Iterator<Item = Projection> {
        let projections: Vec<_> = self
            .group
            .iter()
            .map(|rebuild| rebuild.projection)
            .collect();
        projections.into_iter()
    }

    /// Begins a transaction that is ours: if somebody else decides by now, it does not begin.
    pub(super) async fn begin(&self) -> Result<Transaction, Interrupted> {
        let mut transaction = self.room.store.begin().await?;
        for rebuild in self.group.iter() {
            if !transaction.is_owned(rebuild, self.owner).await? {
                return Err(Interrupted::NotOurs);
            }
        }
        Ok(transaction)
    }

    pub(super) async fn save(
        &self,
        transaction: &mut Transaction,
        part: &Part,
    ) -> Result<(), StorageError> {
        for projection in self.projections() {
            transaction.save_part(projection, part).await?;
        }
        Ok(())
    }

    /// Works until the rebuild is done, failed or no longer ours.
    pub(super) async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let worked = tokio::select! {
                worked = self.work() => worked,
                lost = self.keep() => Err(lost),
            };
            let error = match worked {
                Ok(()) => return,
                Err(Interrupted::NotOurs) => {
                    self.leave().await;
                    return;
                }
                Err(error) => error,
            };
            let text = match &error {
                Interrupted::Storage(storage) if !is_final(storage) => {
                    tracing::warn!(
                        projections = self.names(),
                        error = %ErrorChain(storage),
                        "a rebuild waits for the database"
                    );
                    tokio::time::sleep(pause).await;
                    pause = PAUSE_MAX.min(pause * 2);
                    continue;
                }
                Interrupted::Storage(storage) if is_disk_full(storage) => self.disk_full().await,
                error @ (Interrupted::Storage(_)
                | Interrupted::Unreadable(_)
                | Interrupted::Restored
                | Interrupted::NotOurs) => ErrorChain(error).to_string(),
            };
            if self.fail(&text).await.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Renews the lease for as long as it can.
    async fn keep(&self) -> Interrupted {
        loop {
            tokio::time::sleep(RENEWAL).await;
            match self.renew().await {
                Ok(true) => {}
                Ok(false) => return Interrupted::NotOurs,
                // The work itself will notice.
                Err(error) => {
                    tracing::debug!(error = %ErrorChain(&error), "a lease was not renewed");
                }
            }
        }
    }

    async fn renew(&self) -> Result<bool, StorageError> {
        let now = self.room.surroundings.now();
        let mut transaction = self.room.store.begin().await?;
        let mut is_ours = true;
        for rebuild in self.group.iter() {
            is_ours &= transaction
                .renew(rebuild, self.owner, now, later(now, LEASE))
                .await?;
        }
        transaction.commit().await?;
        self.measure().await;
        Ok(is_ours)
    }

    async fn measure(&self) {
        let Ok(rebuilds) = self.room.store.rebuilds().await else {
            return;
        };
        for rebuild in rebuilds {
            let is_it = |ours: &Rebuild| ours.rebuild_id == rebuild.rebuild_id;
            if self.group.iter().any(is_it) {
                let name = rebuild.projection.name();
                self.room.metrics.rebuild(name, rebuild.done, rebuild.total);
            }
        }
    }

    async fn work(&self) -> Result<(), Interrupted> {
        self.fill().await?;
        self.index().await?;
        // From here on each is on its own: they may stand at different places.
        let comparing = self.group.iter().map(|rebuild| self.alone(rebuild));
        in_turns(comparing, |(worker, rebuild)| async move {
            if worker.is_running(&rebuild).await? {
                worker.compare(&rebuild).await?;
            }
            Ok(())
        })
        .await?;
        for rebuild in self.group.iter() {
            if self.is_running(rebuild).await? {
                self.alone(rebuild).0.finish(rebuild).await?;
            }
        }
        Ok(())
    }

    fn alone(&self, rebuild: &Rebuild) -> (Self, Rebuild) {
        let worker = Self::new(&self.room, self.owner, vec![rebuild.clone()]);
        (worker, rebuild.clone())
    }

    async fn is_running(&self, rebuild: &Rebuild) -> Result<bool, StorageError> {
        let rebuilds = self.room.store.rebuilds().await?;
        Ok(rebuilds.iter().any(|standing| {
            standing.rebuild_id == rebuild.rebuild_id
                && standing.projection == rebuild.projection
                && standing.state == State::Running
        }))
    }

    async fn parts(&self, projection: Projection) -> Result<Vec<Part>, StorageError> {
        self.room.store.rebuild_parts(projection).await
    }

    async fn fill(&self) -> Result<(), Interrupted> {
        let Some(first) = self.group.first() else {
            return Ok(());
        };
        let mut waiting = self.parts(first.projection).await?;
        waiting.retain(|part| !part.is_filled);
        // The longest first, so that nobody waits for one that was begun last.
        waiting.sort_by_key(|part| Reverse(part.target));
        in_turns(waiting.into_iter(), |mut part| {
            let worker = self.clone();
            async move { fill::fill(&worker, &mut part).await }
        })
        .await
    }

    async fn index(&self) -> Result<(), Interrupted> {
        let mut waiting = Vec::new();
        for projection in self.projections() {
            self.enter(projection, Phase::Indexing).await?;
            let mut transaction = self.begin().await?;
            waiting.extend(transaction.shadow_indexes(projection).await?);
            transaction.commit().await?;
        }
        // The largest table first, as with partitions; those of one table together.
        waiting.sort_by_key(|index| Reverse(index.table_bytes));
        in_turns(waiting.into_iter(), |index| {
            let worker = self.clone();
            async move {
                // This may take minutes, so nothing is held meanwhile: neither the lease's renewal
                // nor whoever cancels has to wait.
                worker.begin().await?.commit().await?;
                match worker.build(&index).await {
                    Err(error) if has_code(&error, &BUILT_MEANWHILE) => {
                        Ok(worker.build(&index).await?)
                    }
                    built => Ok(built?),
                }
            }
        })
        .await?;
        in_turns(self.projections(), |projection| {
            let worker = self.clone();
            async move {
                let mut transaction = worker.begin().await?;
                transaction.key_shadow(projection).await?;
                transaction.analyze_shadow(projection).await?;
                Ok(transaction.commit().await?)
            }
        })
        .await
    }

    async fn build(&self, index: &ShadowIndex) -> Result<(), StorageError> {
        let mut transaction = self.store().begin().await?;
        transaction.execute(&index.build).await?;
        transaction.commit().await
    }

    async fn enter(&self, projection: Projection, phase: Phase) -> Result<(), Interrupted> {
        let mut transaction = self.begin().await?;
        transaction.set_phase(projection, phase).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Brings the shadow tables to where the live ones are, and compares them there.
    async fn compare(&self, rebuild: &Rebuild) -> Result<(), Interrupted> {
        let projection = rebuild.projection;
        self.enter(projection, Phase::CatchingUp).await?;
        // Near first: whatever is left is then brought in while the live tables stand still for us.
        let live = self.live_checkpoints(rebuild).await?;
        for checkpoint in &live {
            self.catch_up(rebuild, checkpoint.partition, checkpoint.position)
                .await?;
        }
        self.enter(projection, Phase::Comparing).await?;
        self.wait_for_live(rebuild).await?;
        let mut snapshot = self.room.store.long_snapshot().await?;
        let mut live = Vec::new();
        for part in self.parts(projection).await? {
            let found = snapshot.look_at_checkpoints(part.partition).await?;
            live.extend(found.into_iter().filter(|at| at.projection == projection));
        }
        // Both at once: the live rows in this snapshot, and the shadow's, brought to the same place.
        let sums = async {
            let mut sums = Vec::new();
            for table in projection.tables() {
                let sum = snapshot.checksum(Place::Live, table, rebuild.partition);
                sums.push(sum.await?);
            }
            drop(snapshot);
            Ok::<_, Interrupted>(sums)
        };
        let shadow_sums = self.shadow_sums(rebuild, &live);
        let (sums, shadow_sums) = tokio::try_join!(sums, shadow_sums)?;
        let equal = shadow_sums.map(|shadow_sums| shadow_sums == sums);
        let mut transaction = self.begin().await?;
        transaction.set_checksum(projection, equal).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Number and checksum of the shadow tables' rows where the live tables were. `None` if they can't be
    /// compared there.
    async fn shadow_sums(
        &self,
        rebuild: &Rebuild,
        live: &[Checkpoint],
    ) -> Result<Option<Vec<(i64, i64)>>, Interrupted> {
        let projection = rebuild.projection;
        let mut comparable = live
            .iter()
            .all(|checkpoint| checkpoint.version == projection.version());
        for checkpoint in live {
            let at = self
                .catch_up(rebuild, checkpoint.partition, checkpoint.position)
                .await?;
            // A projection that had stopped is behind what was filled.
            comparable &= at == checkpoint.position;
        }
        if !comparable {
            return Ok(None);
        }
        let mut sums = Vec::new();
        for table in projection.tables() {
            let mut snapshot = self.room.store.long_snapshot().await?;
            let sum = snapshot.checksum(Place::Shadow, table, rebuild.partition);
            sums.push(sum.await?);
        }
        Ok(Some(sums))
    }

    /// Waits until the live tables are where the shadow tables are, or do not come any nearer: then
    /// they have stopped, or nobody follows.
    async fn wait_for_live(&self, rebuild: &Rebuild) -> Result<(), StorageError> {
        let mut moved_at = Instant::now();
        let mut stood = Vec::new();
        loop {
            let parts = self.parts(rebuild.projection).await?;
            let live = self.live_checkpoints(rebuild).await?;
            let is_behind = |at: &Checkpoint| {
                let mut parts = parts.iter();
                let shadow = parts.find(|part| part.partition == at.partition);
                shadow.is_some_and(|shadow| at.position < shadow.position)
            };
            let follows = |at: &Checkpoint| at.state() == CheckpointState::Running;
            if !live.iter().any(is_behind) || !live.iter().all(follows) {
                return Ok(());
            }
            let stand: Vec<Position> = live.iter().map(|at| at.position).collect();
            if stand != stood {
                (stood, moved_at) = (stand, Instant::now());
            } else if moved_at.elapsed() > STANDSTILL {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn live_checkpoints(&self, rebuild: &Rebuild) -> Result<Vec<Checkpoint>, StorageError> {
        let mut live = Vec::new();
        for part in self.parts(rebuild.projection).await? {
            let found = self.room.store.checkpoints(part.partition).await?;
            live.extend(
                found
                    .into_iter()
                    .filter(|at| at.projection == rebuild.projection),
            );
        }
        Ok(live)
    }

    /// Brings one partition of the shadow tables up to a position. Says where it then is.
    async fn catch_up(
        &self,
        rebuild: &Rebuild,
        partition: Partition,
        until: Position,
    ) -> Result<Position, Interrupted> {
        loop {
            let Some(part) = self.part(rebuild, partition).await? else {
                return Ok(until);
            };
            if part.position >= until {
                return Ok(part.position);
            }
            let stood = part.position;
            let mut transaction = self.begin().await?;
            let part = self.advance(&mut transaction, rebuild, part, until).await?;
            transaction.commit().await?;
            if part.position == stood {
                // The ledger is shorter than what was read of it once.
                return Ok(stood);
            }
        }
    }

    async fn part(
        &self,
        rebuild: &Rebuild,
        partition: Partition,
    ) -> Result<Option<Part>, StorageError> {
        let parts = self.parts(rebuild.projection).await?;
        Ok(parts.into_iter().find(|part| part.partition == partition))
    }

    /// Brings the next events into the shadow tables, at most up to a position.
    async fn advance(
        &self,
        transaction: &mut Transaction,
        rebuild: &Rebuild,
        mut part: Part,
        until: Position,
    ) -> Result<Part, Interrupted> {
        let stepper: Stepper = self.room.stepper();
        let wanted = STEP_EVENTS_MAX.min(until.0 - part.position.0);
        let log = stepper
            .storage
            .log(part.partition, part.position, wanted)
            .await?;
        let batch = stepper.load(part.partition, part.position, log).await?;
        let pairs = batch.pairs();
        for changes in step::changes(rebuild.projection, &pairs).await? {
            transaction.write(Place::Shadow, &changes).await?;
        }
        part.position = batch.end;
        part.done = batch.end.0;
        transaction.save_part(rebuild.projection, &part).await?;
        Ok(part)
    }

    /// Swaps the tables as soon as nobody reads them for longer than a moment.
    async fn finish(&self, rebuild: &Rebuild) -> Result<(), Interrupted> {
        self.enter(rebuild.projection, Phase::Swapping).await?;
        let mut pause = PAUSE_MIN;
        loop {
            // Heads are held only for what comes in while the last of this is written.
            for checkpoint in self.live_checkpoints(rebuild).await? {
                self.catch_up(rebuild, checkpoint.partition, checkpoint.head)
                    .await?;
            }
            match self.swap(rebuild).await {
                Err(Interrupted::Storage(error)) if has_code(&error, &IN_USE) => {
                    tracing::debug!(error = %ErrorChain(&error), "the tables are in use");
                    tokio::time::sleep(pause).await;
                    pause = SWAP_PAUSE_MAX.min(pause * 2);
                }
                swapped => return swapped,
            }
        }
    }

    /// With the checkpoints held nobody writes the live tables, and with the heads held nothing is
    /// appended: so the new tables take over with everything in them.
    async fn swap(&self, rebuild: &Rebuild) -> Result<(), Interrupted> {
        let projection = rebuild.projection;
        let mut transaction = self.begin().await?;
        transaction.limit_waiting(LOCK_TIMEOUT).await?;
        let parts = self.parts(projection).await?;
        let mut live = Vec::new();
        for part in &parts {
            live.extend(transaction.checkpoint(projection, part.partition).await?);
        }
        transaction.lock_tables(projection).await?;
        let partitions: Vec<_> = live.iter().map(|checkpoint| checkpoint.partition).collect();
        let heads = transaction.lock_heads(&partitions).await?;
        for head in &heads {
            let mut parts = parts.iter();
            let part = parts.find(|part| part.partition == head.partition);
            if part.is_some_and(|part| part.epoch.is_some_and(|epoch| epoch != head.epoch)) {
                return Err(Interrupted::Restored);
            }
            while let Some(part) = transaction
                .rebuild_part(projection, head.partition)
                .await?
                .filter(|part| part.position < head.position)
            {
                self.advance(&mut transaction, rebuild, part, head.position)
                    .await?;
            }
        }
        match rebuild.partition {
            None => transaction.swap(projection).await?,
            Some(partition) => transaction.swap_partition(projection, partition).await?,
        }
        let mut reached = Vec::new();
        for (checkpoint, head) in live.into_iter().zip(heads) {
            let to = Checkpoint {
                position: head.position,
                hash: head.hash.to_vec(),
                epoch: head.epoch,
                version: projection.version(),
                error: None,
                ..checkpoint
            };
            transaction.move_checkpoint(&to).await?;
            reached.push(to);
        }
        let now = self.room.surroundings.now();
        if !transaction.end(rebuild, State::Done, None, now).await? {
            return Err(Interrupted::NotOurs);
        }
        transaction.commit().await?;
        for checkpoint in &reached {
            self.room.reached(checkpoint);
        }
        tracing::info!(projection = projection.name(), "the projection was rebuilt");
        self.measure().await;
        Ok(())
    }

    /// Ends the rebuild. The shadow tables go, and with them the space they took.
    async fn fail(&self, error: &str) -> Result<(), StorageError> {
        let now = self.room.surroundings.now();
        let mut transaction = self.room.store.begin().await?;
        for rebuild in self.group.iter() {
            if transaction
                .end(rebuild, State::Failed, Some(error), now)
                .await?
            {
                transaction.drop_shadow(rebuild.projection).await?;
            }
        }
        transaction.commit().await?;
        tracing::error!(projections = self.names(), error, "a rebuild failed");
        Ok(())
    }

    /// Of a group, some may have been cancelled: their tables go, and the others go on.
    async fn leave(&self) {
        tracing::info!(
            projections = self.names(),
            "the rebuild was cancelled, or another process goes on with it"
        );
        let released = async {
            let mut transaction = self.room.store.begin().await?;
            transaction.release(self.owner).await?;
            transaction.commit().await
        };
        if let Err(error) = released.await {
            // The lease runs out by itself.
            tracing::debug!(error = %ErrorChain(&error), "a rebuild was not released");
        }
        for rebuild in self.group.iter() {
            let dropped = self.store().drop_cancelled(rebuild, DROP_PATIENCE).await;
            if let Err(error) = dropped {
                tracing::warn!(
                    projection = rebuild.projection.name(),
                    error = %ErrorChain(&error),
                    "shadow tables are left; the next rebuild drops them"
                );
            }
        }
    }

    async fn disk_full(&self) -> String {
        let mut bytes = 0;
        for projection in self.projections() {
            let size = self.room.store.size(projection).await;
            bytes += size.unwrap_or_default();
        }
        let needed = if bytes > 0 {
            format!("at least {} MiB", bytes / (1024 * 1024) + 1)
        } else {
            "as much as the live tables take".to_owned()
        };
        format!(
            "the disk is full. The shadow tables were dropped and the live tables are untouched. \
             Free {needed} where the database keeps its files, and begin the rebuild again"
        )
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.projections().map(Projection::name).collect();
        names.join(", ")
    }
}

/// Does pieces of work, [`AT_ONCE`] at a time, until all are done or one is interrupted.
async fn in_turns<T, F>(
    pieces: impl Iterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<(), Interrupted>
where
    F: Future<Output = Result<(), Interrupted>> + Send + 'static,
{
    let mut pieces = pieces.fuse();
    let mut working = tokio::task::JoinSet::new();
    loop {
        while working.len() < AT_ONCE
            && let Some(piece) = pieces.next()
        {
            working.spawn(work(piece));
        }
        match working.join_next().await {
            None => return Ok(()),
            Some(Ok(worked)) => worked?,
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Trying again would end the same.
fn is_final(error: &StorageError) -> bool {
    is_disk_full(error)
        || match error {
            StorageError::Rejected(_) | StorageError::Damaged { .. } => true,
            StorageError::Unavailable(_) => false,
        }
}

fn is_disk_full(error: &StorageError) -> bool {
    has_code(error, &DISK_FULL)
}

/// `disk_full` of PostgreSQL; SQLite's primary result code FULL.
const DISK_FULL: [&str; 2] = ["53100", "13"];
/// `lock_not_available` and `deadlock_detected`.
const IN_USE: [&str; 2] = ["55P03", "40P01"];
/// `unique_violation` in the catalogue and `duplicate_table`: two processes build the same index, of
/// which one was taken for dead.
const BUILT_MEANWHILE: [&str; 2] = ["23505", "42P07"];

fn has_code(error: &StorageError, codes: &[&str]) -> bool {
    let source = match error {
        StorageError::Unavailable(source) | StorageError::Rejected(source) => source,
        StorageError::Damaged { .. } => return false,
    };
    source
        .downcast_ref::<sqlx::Error>()
        .and_then(sqlx::Error::as_database_error)
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| codes.contains(&code.as_ref()))
}

pub(super) fn later(now: Timestamp, by: Duration) -> Timestamp {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros_clamped(now.as_micros().saturating_add(micros))
}
