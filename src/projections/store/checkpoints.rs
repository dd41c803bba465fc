//! How far each projection has come, and whose turn it is.

use std::cmp::Ordering;
use std::time::Duration;

use sqlx::{PgPool, Postgres, Row, SqlitePool};

use super::{Pools, Store, Transaction, in_both};
use crate::domain::time::Timestamp;
use crate::ledger::chain::GENESIS;
use crate::ledger::record::{Partition, Position};
use crate::ledger::storage::StorageError;
use crate::projections::projection::Projection;
use crate::telemetry::ErrorChain;

/// How far one projection has come in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub partition: Partition,
    pub projection: Projection,
    pub version: i32,
    /// Of the last event in its tables.
    pub position: Position,
    /// The chain hash there.
    pub hash: Vec<u8>,
    pub epoch: uuid::Uuid,
    /// Why it stopped.
    pub error: Option<String>,
    /// Where the partition ends, and its epoch, when this was read.
    pub head: Position,
    pub head_epoch: uuid::Uuid,
}

/// A checkpoint, with what operators ask next.
#[derive(Clone, Debug)]
pub struct Progress {
    pub checkpoint: Checkpoint,
    pub failed_at: Option<Timestamp>,
    /// When the first event was recorded that is not in the tables yet.
    pub waiting_since: Option<Timestamp>,
}

/// How a projection's tables are getting on in one partition: stored nowhere, shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// It follows the ledger.
    Running,
    /// It stopped at an event.
    Failed,
    /// An older release made them: they are to be rebuilt.
    Outdated,
    /// A newer release made them: they are left alone.
    Newer,
}

impl CheckpointState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Outdated => "outdated",
            Self::Newer => "newer",
        }
    }
}

impl Checkpoint {
    pub fn state(&self) -> CheckpointState {
        match self.version.cmp(&self.projection.version()) {
            Ordering::Less => CheckpointState::Outdated,
            Ordering::Greater => CheckpointState::Newer,
            Ordering::Equal if self.error.is_some() => CheckpointState::Failed,
            Ordering::Equal => CheckpointState::Running,
        }
    }

    /// Why it does not go on, for operators.
    pub fn last_error(&self) -> Option<String> {
        if self.state() != CheckpointState::Newer {
            return self.error.clone();
        }
        let (made, makes) = (self.version, self.projection.version());
        Some(format!(
            "a newer release made these tables, in version {made}; this one makes version {makes} \
             and leaves them alone. To go back to it, rebuild the projection"
        ))
    }
}

/// Of which versions a projection's tables are, over all partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub projection: Projection,
    pub oldest: i32,
    pub newest: i32,
}

impl Versions {
    /// Some tables are a newer release's.
    pub fn is_newer(&self) -> bool {
        self.newest > self.projection.version()
    }

    /// Some tables are an older release's, and none a newer one's.
    pub fn is_outdated(&self) -> bool {
        self.oldest < self.projection.version() && !self.is_newer()
    }
}

/// What one process does in a partition at a time.
#[derive(Debug)]
pub struct Turns {
    /// Some may be without checkpoints.
    pub each: Vec<Turn>,
    /// Left when all of them have ended.
    pub place: Option<Taken>,
}

/// A partition that others keep away from. Each turn's rows are free for them as soon as it ends; they
/// would come between, and read and fold for a part what is read and folded for all here.
#[derive(Debug)]
pub struct Taken(sqlx::Transaction<'static, Postgres>);

/// A partition's checkpoints, held for the next step.
#[derive(Debug)]
pub struct Turn {
    pub checkpoints: Vec<Checkpoint>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// The rows are locked: nobody else takes this step.
    Locked(Transaction),
    /// Everybody may take it. Who comes second finds the checkpoints moved.
    Open(Store, Partition),
}

/// How long a step waits for one more connection before it goes on with the one it has, if others have
/// them all.
const HANDS_PATIENCE: Duration = Duration::from_millis(100);
/// The same if one more may be opened, which begins anew for whoever does not wait for it. A distant database
/// takes some tenths of a second.
const OPENING_PATIENCE: Duration = Duration::from_secs(2);

macro_rules! columns {
    () => {
        "c.partition, c.projection, c.version, c.position, c.hash, c.epoch, c.error, \
         h.position AS head, h.epoch AS head_epoch"
    };
}

// Projections that are new get their rows; those that have them keep them. In order, so that of
// several who do this at once none waits for one who waits for it.
const ADD: &str = "
    INSERT INTO projection_checkpoints (partition, projection, version, position, hash, epoch)
    SELECT partition, $1, $2, 0, $3, epoch
    FROM partition_heads
    WHERE TRUE
    ORDER BY partition
    ON CONFLICT (partition, projection) DO NOTHING";

const READ: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM projection_checkpoints AS c
    JOIN partition_heads AS h ON h.partition = c.partition
    WHERE c.partition = $1
    ORDER BY c.projection"
);

// Until the transaction's end, in this ledger. Who does without it, an older release or a rebuild, is
// kept apart by the rows all the same.
const COME_FIRST: &str = "
    SELECT pg_try_advisory_xact_lock('projection_checkpoints'::regclass::oid::int4, $1::int4)";

// Who finds them locked does something else: their holder is doing this.
const LOCK: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM projection_checkpoints AS c
    JOIN partition_heads AS h ON h.partition = c.partition
    WHERE c.partition = $1 AND c.projection = ANY($2)
    ORDER BY c.projection
    FOR UPDATE OF c SKIP LOCKED"
);

const PROGRESS: &str = concat!(
    "SELECT ",
    columns!(),
    ", c.failed_at, e.recorded_at
    FROM projection_checkpoints AS c
    JOIN partition_heads AS h ON h.partition = c.partition
    LEFT JOIN events AS e ON e.partition = c.partition AND e.position = c.position + 1
    ORDER BY c.projection, c.partition"
);

const VERSIONS: &str = "
    SELECT projection, MIN(version), MAX(version)
    FROM projection_checkpoints
    GROUP BY projection
    ORDER BY projection";

const MOVE: &str = "
    UPDATE projection_checkpoints
    SET position = $3, hash = $4, epoch = $5, version = $6, error = NULL, failed_at = NULL
    WHERE partition = $1 AND projection = $2";

// All that stand together, in one statement.
const MOVE_TOGETHER: &str = "
    UPDATE projection_checkpoints
    SET position = $3, hash = $4, epoch = $5, error = NULL, failed_at = NULL
    WHERE partition = $1 AND projection = ANY($2)";

const FAIL: &str = "
    UPDATE projection_checkpoints
    SET error = $3, failed_at = $4
    WHERE partition = $1 AND projection = $2 AND position = $5";

const RECOVER: &str = "
    UPDATE projection_checkpoints
    SET error = NULL, failed_at = NULL
    WHERE partition = $1 AND projection = $2 AND position = $3 AND error = $4";

/// A checkpoint from its row; `None` for a projection of a newer release.
macro_rules! checkpoint {
    ($row:expr) => {{
        let row = $row;
        let name: String = row.try_get(1)?;
        match Projection::from_name(&name) {
            Some(projection) => Some(Checkpoint {
                partition: Partition(row.try_get(0)?),
                projection,
                version: row.try_get(2)?,
                position: Position(row.try_get(3)?),
                hash: row.try_get(4)?,
                epoch: row.try_get(5)?,
                error: row.try_get(6)?,
                head: Position(row.try_get(7)?),
                head_epoch: row.try_get(8)?,
            }),
            None => None,
        }
    }};
}

/// Checkpoints of all rows a statement gives for one partition.
macro_rules! checkpoints {
    ($query:expr, $database:expr) => {{
        let rows = $query.fetch_all($database).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.extend(checkpoint!(row));
        }
        found
    }};
}

/// The versions in all rows; projections of a newer release are none of ours.
macro_rules! versions {
    ($database:expr) => {{
        let rows = sqlx::query(VERSIONS).fetch_all($database).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let name: String = row.try_get(0)?;
            let (oldest, newest) = (row.try_get(1)?, row.try_get(2)?);
            found.extend(Projection::from_name(&name).map(|projection| Versions {
                projection,
                oldest,
                newest,
            }));
        }
        found
    }};
}

impl Store {
    /// Makes the rows of projections that have none yet.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn add_checkpoints(&self) -> Result<(), StorageError> {
        let mut transaction = self.begin().await?;
        for projection in Projection::ALL {
            in_both!(&mut transaction, connection => {
                sqlx::query(ADD)
                    .bind(projection.name())
                    .bind(projection.version())
                    .bind(GENESIS.as_slice())
                    .execute(&mut **connection)
                    .await?;
            });
        }
        transaction.commit().await
    }

    /// Begins a step in a partition, of some projections in each of several transactions; of all of them in
    /// one, where connections are short. `None` if somebody else is at it. Projections that somebody else
    /// holds have no turn.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn turns(
        &self,
        partition: Partition,
        shares: &[&[Projection]],
    ) -> Result<Option<Turns>, StorageError> {
        let mut each = Vec::with_capacity(shares.len());
        let mut place = None;
        match &self.pools {
            Pools::Postgres { writing, .. } => {
                let mut first = writing.begin().await?;
                let come_first = sqlx::query_scalar(COME_FIRST).bind(partition.0);
                let is_first: bool = come_first.fetch_one(&mut *first).await?;
                if !is_first {
                    return Ok(None);
                }
                let hands = match shares {
                    [_] => None,
                    _ => Turn::locked_apart(writing, partition, shares).await?,
                };
                match hands {
                    Some(hands) => {
                        each = hands;
                        place = Some(Taken(first));
                    }
                    None => each.push(Turn::locked(first, partition, &shares.concat()).await?),
                }
            }
            Pools::Sqlite { reading, .. } => {
                for share in shares {
                    each.push(self.open_turn(reading, partition, share).await?);
                }
            }
        }
        let turns = Turns { each, place };
        if turns.each.iter().all(|turn| turn.checkpoints.is_empty()) {
            turns.release().await?;
            return Ok(None);
        }
        Ok(Some(turns))
    }

    /// Begins a step of some projections in a partition, whoever is at the others. `None` if somebody
    /// else is at all of these.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn turn(
        &self,
        partition: Partition,
        projections: &[Projection],
    ) -> Result<Option<Turn>, StorageError> {
        let turn = match &self.pools {
            Pools::Postgres { writing, .. } => {
                Turn::locked(writing.begin().await?, partition, projections).await?
            }
            Pools::Sqlite { reading, .. } => {
                self.open_turn(reading, partition, projections).await?
            }
        };
        Ok((!turn.checkpoints.is_empty()).then_some(turn))
    }

    /// A write lock would be held while events are read and folded: nobody could append.
    async fn open_turn(
        &self,
        reading: &SqlitePool,
        partition: Partition,
        projections: &[Projection],
    ) -> Result<Turn, StorageError> {
        let mut checkpoints = checkpoints!(sqlx::query(READ).bind(partition.0), reading);
        checkpoints.retain(|at| projections.contains(&at.projection));
        Ok(Turn {
            checkpoints,
            held: Held::Open(self.clone(), partition),
        })
    }

    /// Takes a turn anew whose transaction was given up, and begins to write. `None` if somebody
    /// else is at it or has taken the step meanwhile.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn write_again(
        &self,
        partition: Partition,
        standing: &[Checkpoint],
    ) -> Result<Option<Transaction>, StorageError> {
        let projections: Vec<_> = standing.iter().map(|at| at.projection).collect();
        match self.turn(partition, &projections).await? {
            Some(turn) if stand_alike(&turn.checkpoints, standing) => turn.write().await,
            Some(turn) => {
                turn.release().await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Every checkpoint.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn progress(&self) -> Result<Vec<Progress>, StorageError> {
        macro_rules! read {
            ($pool:expr) => {{
                let rows = sqlx::query(PROGRESS).fetch_all($pool).await?;
                let mut found = Vec::with_capacity(rows.len());
                for row in &rows {
                    let Some(checkpoint) = checkpoint!(row) else {
                        continue;
                    };
                    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros_clamped);
                    found.push(Progress {
                        checkpoint,
                        failed_at: time(row.try_get(9)?),
                        waiting_since: time(row.try_get(10)?),
                    });
                }
                found
            }};
        }
        Ok(match &self.pools {
            Pools::Postgres { reading, .. } => read!(reading),
            Pools::Sqlite { reading, .. } => read!(reading),
        })
    }

    /// Of which versions every projection's tables are.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn versions(&self) -> Result<Vec<Versions>, StorageError> {
        Ok(match &self.pools {
            Pools::Postgres { reading, .. } => versions!(reading),
            Pools::Sqlite { reading, .. } => versions!(reading),
        })
    }

    /// One partition's checkpoints, without holding them.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn checkpoints(&self, partition: Partition) -> Result<Vec<Checkpoint>, StorageError> {
        Ok(match &self.pools {
            Pools::Postgres { reading, .. } => {
                checkpoints!(sqlx::query(READ).bind(partition.0), reading)
            }
            Pools::Sqlite { reading, .. } => {
                checkpoints!(sqlx::query(READ).bind(partition.0), reading)
            }
        })
    }

    /// Notes why a projection stopped, unless it has gone on since.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn fail(
        &self,
        checkpoint: &Checkpoint,
        error: &str,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        let mut transaction = self.begin().await?;
        in_both!(&mut transaction, connection => {
            sqlx::query(FAIL)
                .bind(checkpoint.partition.0)
                .bind(checkpoint.projection.name())
                .bind(error)
                .bind(at.as_micros())
                .bind(checkpoint.position.0)
                .execute(&mut **connection)
                .await?;
        });
        transaction.commit().await
    }

    /// Notes that what had stopped a projection is gone, unless something else has meanwhile.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn recover(&self, checkpoint: &Checkpoint) -> Result<(), StorageError> {
        let mut transaction = self.begin().await?;
        in_both!(&mut transaction, connection => {
            sqlx::query(RECOVER)
                .bind(checkpoint.partition.0)
                .bind(checkpoint.projection.name())
                .bind(checkpoint.position.0)
                .bind(checkpoint.error.as_deref())
                .execute(&mut **connection)
                .await?;
        });
        transaction.commit().await
    }
}

impl Turns {
    /// Leaves everything to whoever comes next, as [`Turn::release`].
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn release(self) -> Result<(), StorageError> {
        for turn in self.each {
            turn.release().await?;
        }
        if let Some(place) = self.place {
            place.leave().await;
        }
        Ok(())
    }
}

impl Taken {
    /// Lets others in. If its connection is gone they are in already.
    pub async fn leave(self) {
        if let Err(error) = self.0.rollback().await {
            tracing::debug!(error = %ErrorChain(&error), "a partition was not held to the end of a step");
        }
    }
}

impl Turn {
    /// What somebody else holds is left to them.
    async fn locked(
        mut transaction: sqlx::Transaction<'static, Postgres>,
        partition: Partition,
        projections: &[Projection],
    ) -> Result<Self, StorageError> {
        let names: Vec<&str> = projections.iter().map(|it| it.name()).collect();
        let lock = sqlx::query(LOCK).bind(partition.0).bind(names);
        Ok(Self {
            checkpoints: checkpoints!(lock, &mut *transaction),
            held: Held::Locked(Transaction::Postgres(transaction)),
        })
    }

    /// A transaction for each share. `None` if there are not as many connections now.
    async fn locked_apart(
        writing: &PgPool,
        partition: Partition,
        shares: &[&[Projection]],
    ) -> Result<Option<Vec<Self>>, StorageError> {
        let mut turns = Vec::with_capacity(shares.len());
        for share in shares {
            // Who waited longer might wait for somebody who waits for a connection that is held here.
            let patience = if writing.size() < writing.options().get_max_connections() {
                OPENING_PATIENCE
            } else {
                HANDS_PATIENCE
            };
            let Ok(begun) = tokio::time::timeout(patience, writing.begin()).await else {
                for turn in turns {
                    Self::release(turn).await?;
                }
                return Ok(None);
            };
            turns.push(Self::locked(begun?, partition, share).await?);
        }
        Ok(Some(turns))
    }

    /// Whether it is this projection's turn, too.
    pub fn has(&self, projection: Projection) -> bool {
        let mut checkpoints = self.checkpoints.iter();
        checkpoints.any(|at| at.projection == projection)
    }

    /// Leaves the step to whoever comes next, at once: dropped, it is held a little longer.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn release(self) -> Result<(), StorageError> {
        match self.held {
            Held::Locked(transaction) => transaction.roll_back().await,
            Held::Open(..) => Ok(()),
        }
    }

    /// Begins to write. `None` if somebody else has taken the step meanwhile.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn write(self) -> Result<Option<Transaction>, StorageError> {
        let (store, partition) = match self.held {
            Held::Locked(transaction) => return Ok(Some(transaction)),
            Held::Open(store, partition) => (store, partition),
        };
        let mut transaction = store.begin().await?;
        let mut standing = transaction.look_at_checkpoints(partition).await?;
        let expected = &self.checkpoints;
        standing.retain(|at| expected.iter().any(|it| it.projection == at.projection));
        Ok(stand_alike(&standing, expected).then_some(transaction))
    }
}

/// Nobody has moved them.
fn stand_alike(some: &[Checkpoint], others: &[Checkpoint]) -> bool {
    let place = |checkpoint: &Checkpoint| {
        (
            checkpoint.projection,
            checkpoint.position,
            checkpoint.version,
        )
    };
    some.iter().map(place).eq(others.iter().map(place))
}

impl Transaction {
    /// A projection's checkpoint in one partition; on PostgreSQL held until the transaction's end,
    /// waiting for whoever holds it now. The other projections go on.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn checkpoint(
        &mut self,
        projection: Projection,
        partition: Partition,
    ) -> Result<Option<Checkpoint>, StorageError> {
        const WAIT: &str = "
            SELECT 1
            FROM projection_checkpoints
            WHERE partition = $1 AND projection = $2
            FOR UPDATE";
        if let Self::Postgres(connection) = self {
            sqlx::query(WAIT)
                .bind(partition.0)
                .bind(projection.name())
                .execute(&mut **connection)
                .await?;
        }
        let found = self.look_at_checkpoints(partition).await?;
        Ok(found.into_iter().find(|at| at.projection == projection))
    }

    /// One partition's checkpoints, without holding them.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn look_at_checkpoints(
        &mut self,
        partition: Partition,
    ) -> Result<Vec<Checkpoint>, StorageError> {
        Ok(
            in_both!(self, connection => checkpoints!(sqlx::query(READ).bind(partition.0), &mut **connection)),
        )
    }

    /// Of which versions every projection's tables are.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn versions(&mut self) -> Result<Vec<Versions>, StorageError> {
        Ok(in_both!(self, connection => versions!(&mut **connection)))
    }

    /// Moves some projections' checkpoints in one partition to the same event, and clears what had
    /// stopped them.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn move_checkpoints(&mut self, to: &[Checkpoint]) -> Result<(), StorageError> {
        match (self, to) {
            (Self::Postgres(connection), [first, ..]) => {
                let names: Vec<&str> = to.iter().map(|to| to.projection.name()).collect();
                sqlx::query(MOVE_TOGETHER)
                    .bind(first.partition.0)
                    .bind(names)
                    .bind(first.position.0)
                    .bind(first.hash.as_slice())
                    .bind(first.epoch)
                    .execute(&mut **connection)
                    .await?;
            }
            (transaction, to) => {
                for to in to {
                    transaction.move_checkpoint(to).await?;
                }
            }
        }
        Ok(())
    }

    /// Moves a checkpoint to an event, and clears what had stopped it.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn move_checkpoint(&mut self, to: &Checkpoint) -> Result<(), StorageError> {
        in_both!(self, connection => {
            sqlx::query(MOVE)
                .bind(to.partition.0)
                .bind(to.projection.name())
                .bind(to.position.0)
                .bind(to.hash.as_slice())
                .bind(to.epoch)
                .bind(to.version)
                .execute(&mut **connection)
                .await?;
        });
        Ok(())
    }
}
