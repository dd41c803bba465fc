//! Which rebuilds there are and how far each has come: two small tables.
//!
//! A rebuild is owned by one process at a time, for as long as it renews its lease. Every piece of
//! work is committed together with a look at the owner, so a process that was taken for dead can't
//! add anything.

use std::time::Duration;

use super::super::store::{Store, Transaction};
use super::super::table::{Cell, Column, Kind};
use crate::domain::ids::StreamId;
use crate::domain::time::Timestamp;
use crate::ledger::record::{Partition, Position};
use crate::ledger::storage::StorageError;
use crate::projections::projection::Projection;

/// What became of a rebuild: stored by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Done,
    Failed,
    Cancelled,
}

/// What a running rebuild is at: stored by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Stream by stream, up to where the ledger was when it began.
    Filling,
    Indexing,
    /// Event by event, up to where the live tables are.
    CatchingUp,
    /// Shadow and live tables are compared.
    Comparing,
    Swapping,
}

macro_rules! stored_by_name {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

stored_by_name!(State {
    Running = "running",
    Done = "done",
    Failed = "failed",
    Cancelled = "cancelled",
});
stored_by_name!(Phase {
    Filling = "filling",
    Indexing = "indexing",
    CatchingUp = "catching_up",
    Comparing = "comparing",
    Swapping = "swapping",
});

/// The last rebuild of one projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Rebuild {
    pub projection: Projection,
    pub rebuild_id: uuid::Uuid,
    pub version: i32,
    /// `None` for all of them.
    pub partition: Option<Partition>,
    pub state: State,
    pub phase: Phase,
    pub error: Option<String>,
    /// Shadow and live tables had the same rows at the same place. `None` if they could not be
    /// compared: not yet, or the live tables are of another version or had stopped.
    pub checksum_equal: Option<bool>,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
    pub owner: Option<uuid::Uuid>,
    pub lease_until: Timestamp,
    /// Events in the shadow tables, of how many.
    pub done: i64,
    pub total: i64,
}

/// One partition's share of a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub partition: Partition,
    /// Up to here it is filled stream by stream.
    pub target: Position,
    /// The last stream in the shadow tables.
    pub after: Option<(String, StreamId)>,
    pub is_filled: bool,
    /// Once filled: the last event in the shadow tables.
    pub position: Position,
    pub done: i64,
    /// The partition's epoch when the rebuild began: another one means that the ledger was restored.
    pub epoch: Option<uuid::Uuid>,
}

impl Rebuild {
    /// Nobody works on it.
    pub(super) fn is_free(&self, now: Timestamp) -> bool {
        self.state == State::Running && (self.owner.is_none() || self.lease_until < now)
    }

    /// Nobody works on it, and this release makes the rows it is to have: an older one would take
    /// the tables back, a newer one knows what is still missing.
    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        self.is_free(now) && self.version == self.projection.version()
    }

    /// No other may begin: it runs, and is not what an older release has left for good.
    pub(super) fn is_in_the_way(&self, now: Timestamp) -> bool {
        let is_left = self.is_free(now) && self.version < self.projection.version();
        self.state == State::Running && !is_left
    }

    /// On average since it began; 0 until that is known.
    pub fn events_per_second(&self) -> i64 {
        let micros = self.updated_at.as_micros() - self.started_at.as_micros();
        if micros <= 0 {
            return 0;
        }
        i64::try_from(i128::from(self.done) * 1_000_000 / i128::from(micros)).unwrap_or(i64::MAX)
    }

    /// Until it has read everything, at that rate; `None` if nobody can tell.
    pub fn seconds_left(&self) -> Option<i64> {
        let rate = self.events_per_second();
        match self.state {
            State::Running if rate > 0 => Some((self.total - self.done).max(0) / rate),
            State::Running => None,
            State::Done | State::Failed | State::Cancelled => Some(0),
        }
    }
}

const REBUILD: &[Column] = &[
    column("projection", Kind::Text),
    column("rebuild_id", Kind::Uuid),
    column("version", Kind::Int),
    column("only_partition", Kind::Int),
    column("state", Kind::Text),
    column("phase", Kind::Text),
    column("error", Kind::Text),
    column("checksum_equal", Kind::Bool),
    column("started_at", Kind::Int),
    column("updated_at", Kind::Int),
    column("owner", Kind::Uuid),
    column("lease_until", Kind::Int),
    column("done", Kind::Int),
    column("total", Kind::Int),
];

const REBUILDS: &str = "
    SELECT r.projection, r.rebuild_id, CAST(r.version AS bigint),
        CAST(r.partition AS bigint) AS only_partition, r.state, r.phase, r.error, r.checksum_equal,
        r.started_at, r.updated_at, r.owner, r.lease_until,
        CAST(COALESCE((SELECT SUM(p.done) FROM projection_rebuild_parts AS p
            WHERE p.projection = r.projection), 0) AS bigint) AS done,
        CAST(COALESCE((SELECT SUM(CASE WHEN p.position > p.target THEN p.position ELSE p.target END)
            FROM projection_rebuild_parts AS p
            WHERE p.projection = r.projection), 0) AS bigint) AS total
    FROM projection_rebuilds AS r
    ORDER BY r.projection";

const PART: &[Column] = &[
    column("partition", Kind::Int),
    column("target", Kind::Int),
    column("after_tenant_id", Kind::Text),
    column("after_stream_id", Kind::Uuid),
    column("is_filled", Kind::Bool),
    column("position", Kind::Int),
    column("done", Kind::Int),
    column("epoch", Kind::Uuid),
];

const PARTS: &str = "
    SELECT CAST(partition AS bigint), target, after_tenant_id, after_stream_id, is_filled, position,
        done, epoch
    FROM projection_rebuild_parts
    WHERE projection = $1
    ORDER BY partition";

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

impl Store {
    /// The last rebuild of every projection that had one.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn rebuilds(&self) -> Result<Vec<Rebuild>, StorageError> {
        let rows = self.select(REBUILDS, &[], REBUILD).await?;
        Ok(rows.iter().filter_map(|row| rebuild(row)).collect())
    }

    /// Every partition's share of a projection's rebuild.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn rebuild_parts(&self, projection: Projection) -> Result<Vec<Part>, StorageError> {
        let rows = self
            .select(PARTS, &[projection.name().into()], PART)
            .await?;
        Ok(rows.iter().filter_map(|row| part(row)).collect())
    }
}

impl Store {
    /// Drops the shadow tables of a rebuild that was cancelled, unless another was begun since.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when somebody uses the tables for longer than `patience`, or the database
    /// failed.
    pub(super) async fn drop_cancelled(
        &self,
        rebuild: &Rebuild,
        patience: Duration,
    ) -> Result<(), StorageError> {
        let mut transaction = self.begin().await?;
        transaction.limit_waiting(patience).await?;
        transaction.lock_rebuilds().await?;
        let is_it = |standing: &Rebuild| {
            standing.projection == rebuild.projection && standing.rebuild_id == rebuild.rebuild_id
        };
        let standing = transaction.rebuilds().await?.into_iter().find(is_it);
        if standing.is_some_and(|standing| standing.state == State::Cancelled) {
            transaction.drop_shadow(rebuild.projection).await?;
        }
        transaction.commit().await
    }
}

fn rebuild(row: &[Cell<'_>]) -> Option<Rebuild> {
    let text = |index: usize| row[index].as_text();
    let int = |index: usize| row[index].as_int();
    let time = |index| int(index).map(Timestamp::from_micros_clamped);
    Some(Rebuild {
        projection: Projection::from_name(text(0)?)?,
        rebuild_id: row[1].as_uuid()?,
        version: i32::try_from(int(2)?).ok()?,
        partition: int(3)
            .and_then(|number| i16::try_from(number).ok())
            .map(Partition),
        state: State::from_name(text(4)?)?,
        phase: Phase::from_name(text(5)?)?,
        error: text(6).map(ToOwned::to_owned),
        checksum_equal: row[7].as_bool(),
        started_at: time(8)?,
        updated_at: time(9)?,
        owner: row[10].as_uuid(),
        lease_until: time(11)?,
        done: int(12)?,
        total: int(13)?,
    })
}

fn part(row: &[Cell<'_>]) -> Option<Part> {
    let after = row[2].as_text().map(ToOwned::to_owned);
    Some(Part {
        partition: Partition(i16::try_from(row[0].as_int()?).ok()?),
        target: Position(row[1].as_int()?),
        after: after.zip(row[3].as_uuid().map(StreamId)),
        is_filled: row[4].as_bool()?,
        position: Position(row[5].as_int()?),
        done: row[6].as_int()?,
        epoch: row[7].as_uuid(),
    })
}

macro_rules! run {
    ($transaction:expr, $sql:expr $(, $argument:expr)* $(,)?) => {
        match $transaction {
            Transaction::Postgres(connection) => sqlx::query($sql)
                $(.bind($argument))*
                .execute(&mut **connection)
                .await?
                .rows_affected(),
            Transaction::Sqlite(connection) => sqlx::query($sql)
                $(.bind($argument))*
                .execute(&mut **connection)
                .await?
                .rows_affected(),
        }
    };
}

impl Transaction {
    /// The last rebuild of every projection that had one.
    pub(super) async fn rebuilds(&mut self) -> Result<Vec<Rebuild>, StorageError> {
        let rows = self.select(REBUILDS, &[], REBUILD).await?;
        Ok(rows.iter().filter_map(|row| rebuild(row)).collect())
    }

    /// One rebuild is begun at a time, in the whole database.
    pub(super) async fn lock_rebuilds(&mut self) -> Result<(), StorageError> {
        // Any number, as long as everybody takes the same. SQLite has one writer anyway.
        const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(6109277713050184962)";
        if let Self::Postgres(connection) = self {
            sqlx::query(ONE_AT_A_TIME)
                .execute(&mut **connection)
                .await?;
        }
        Ok(())
    }

    /// Notes a rebuild that begins, in place of the one before.
    pub(super) async fn add_rebuild(&mut self, new: &Rebuild) -> Result<(), StorageError> {
        const FORGET: &str = "DELETE FROM projection_rebuilds WHERE projection = $1";
        const FORGET_PARTS: &str = "DELETE FROM projection_rebuild_parts WHERE projection = $1";
        const ADD: &str = "
            INSERT INTO projection_rebuilds
                (projection, rebuild_id, version, partition, state, phase, started_at, updated_at,
                owner, lease_until)
            VALUES ($1, $2, $3, $4, 'running', 'filling', $5, $5, $6, $7)";
        const ADD_PARTS: &str = "
            INSERT INTO projection_rebuild_parts
                (partition, projection, target, is_filled, position, done, epoch)
            SELECT partition, $1, position, FALSE, 0, 0, epoch
            FROM partition_heads
            WHERE $2 IS NULL OR partition = $2";
        run!(self, FORGET, new.projection.name());
        run!(self, FORGET_PARTS, new.projection.name());
        run!(
            self,
            ADD,
            new.projection.name(),
            new.rebuild_id,
            new.version,
            new.partition.map(|partition| partition.0),
            new.started_at.as_micros(),
            new.owner,
            new.lease_until.as_micros(),
        );
        run!(
            self,
            ADD_PARTS,
            new.projection.name(),
            new.partition.map(|partition| partition.0),
        );
        Ok(())
    }

    /// Takes over rebuilds that nobody works on and this release can go on with. Those of one group
    /// are taken together.
    pub(super) async fn claim(
        &mut self,
        owner: uuid::Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Rebuild>, StorageError> {
        const CLAIM: &str = "
            UPDATE projection_rebuilds
            SET owner = $1, lease_until = $2
            WHERE projection = $3 AND rebuild_id = $4 AND state = 'running' AND lease_until = $5";
        self.lock_rebuilds().await?;
        let rebuilds = self.rebuilds().await?;
        let is_open = |rebuild: &&Rebuild| rebuild.is_open(now);
        let Some(first) = rebuilds.iter().find(is_open) else {
            return Ok(Vec::new());
        };
        let mut group = Vec::new();
        for rebuild in rebuilds
            .iter()
            .filter(is_open)
            .filter(|rebuild| rebuild.rebuild_id == first.rebuild_id)
        {
            if self.is_held(rebuild).await? {
                continue;
            }
            let claimed = run!(
                self,
                CLAIM,
                owner,
                until.as_micros(),
                rebuild.projection.name(),
                rebuild.rebuild_id,
                rebuild.lease_until.as_micros(),
            );
            if claimed == 1 {
                group.push(rebuild.clone());
            }
        }
        Ok(group)
    }

    /// Somebody is writing for this rebuild right now: late with the lease, but alive.
    async fn is_held(&mut self, rebuild: &Rebuild) -> Result<bool, StorageError> {
        const FREE: &str = "
            SELECT 1
            FROM projection_rebuilds
            WHERE projection = $1
            FOR UPDATE SKIP LOCKED";
        match self {
            Self::Postgres(connection) => {
                let free = sqlx::query(FREE)
                    .bind(rebuild.projection.name())
                    .fetch_optional(&mut **connection)
                    .await?;
                Ok(free.is_none())
            }
            // It has the only lock there is.
            Self::Sqlite(_) => Ok(false),
        }
    }

    /// Keeps others away a while longer. Says whether the rebuild is still ours to work on.
    pub(super) async fn renew(
        &mut self,
        rebuild: &Rebuild,
        owner: uuid::Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StorageError> {
        const RENEW: &str = "
            UPDATE projection_rebuilds
            SET updated_at = $4, lease_until = $5
            WHERE projection = $1 AND rebuild_id = $2 AND owner = $3 AND state = 'running'";
        const DONE: &[Column] = &[column("done", Kind::Int)];
        const IS_DONE: &str = "
            SELECT CAST(1 AS bigint)
            FROM projection_rebuilds
            WHERE projection = $1 AND rebuild_id = $2 AND state = 'done'";
        let renewed = run!(
            self,
            RENEW,
            rebuild.projection.name(),
            rebuild.rebuild_id,
            owner,
            now.as_micros(),
            until.as_micros(),
        );
        if renewed == 1 {
            return Ok(true);
        }
        // Of a group, some are finished before others.
        let arguments = [rebuild.projection.name().into(), rebuild.rebuild_id.into()];
        Ok(!self.select(IS_DONE, &arguments, DONE).await?.is_empty())
    }

    /// Whether the rebuild is ours, until the transaction's end.
    pub(super) async fn is_owned(
        &mut self,
        rebuild: &Rebuild,
        owner: uuid::Uuid,
    ) -> Result<bool, StorageError> {
        const OWNED: &str = "
            SELECT 1
            FROM projection_rebuilds
            WHERE projection = $1 AND rebuild_id = $2 AND owner = $3 AND state = 'running'";
        // Shared, so that partitions do not wait for each other; nobody can take it over meanwhile.
        const OWNED_POSTGRES: &str = "
            SELECT 1
            FROM projection_rebuilds
            WHERE projection = $1 AND rebuild_id = $2 AND owner = $3 AND state = 'running'
            FOR SHARE";
        macro_rules! found {
            ($sql:expr, $connection:expr) => {
                sqlx::query($sql)
                    .bind(rebuild.projection.name())
                    .bind(rebuild.rebuild_id)
                    .bind(owner)
                    .fetch_optional(&mut **$connection)
                    .await?
                    .is_some()
            };
        }
        Ok(match self {
            Self::Postgres(connection) => found!(OWNED_POSTGRES, connection),
            Self::Sqlite(connection) => found!(OWNED, connection),
        })
    }

    pub(super) async fn set_phase(
        &mut self,
        projection: Projection,
        phase: Phase,
    ) -> Result<(), StorageError> {
        const SET: &str = "UPDATE projection_rebuilds SET phase = $2 WHERE projection = $1";
        run!(self, SET, projection.name(), phase.name());
        Ok(())
    }

    pub(super) async fn set_checksum(
        &mut self,
        projection: Projection,
        equal: Option<bool>,
    ) -> Result<(), StorageError> {
        const SET: &str = "
            UPDATE projection_rebuilds SET checksum_equal = $2 WHERE projection = $1";
        run!(self, SET, projection.name(), equal);
        Ok(())
    }

    /// Ends a running rebuild. Says whether it was still running.
    pub(super) async fn end(
        &mut self,
        rebuild: &Rebuild,
        state: State,
        error: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        const END: &str = "
            UPDATE projection_rebuilds
            SET state = $3, error = $4, updated_at = $5, owner = NULL
            WHERE projection = $1 AND rebuild_id = $2 AND state = 'running'";
        let ended = run!(
            self,
            END,
            rebuild.projection.name(),
            rebuild.rebuild_id,
            state.name(),
            error,
            now.as_micros(),
        );
        Ok(ended == 1)
    }

    /// One partition's share, within the transaction.
    pub(super) async fn rebuild_part(
        &mut self,
        projection: Projection,
        partition: Partition,
    ) -> Result<Option<Part>, StorageError> {
        let rows = self
            .select(PARTS, &[projection.name().into()], PART)
            .await?;
        let mut parts = rows.iter().filter_map(|row| part(row));
        Ok(parts.find(|part| part.partition == partition))
    }

    /// Leaves whatever an owner still has to others, at once.
    pub(super) async fn release(&mut self, owner: uuid::Uuid) -> Result<(), StorageError> {
        const RELEASE: &str = "UPDATE projection_rebuilds SET owner = NULL WHERE owner = $1";
        run!(self, RELEASE, owner);
        Ok(())
    }

    pub(super) async fn save_part(
        &mut self,
        projection: Projection,
        part: &Part,
    ) -> Result<(), StorageError> {
        const SAVE: &str = "
            UPDATE projection_rebuild_parts
            SET after_tenant_id = $3, after_stream_id = $4, is_filled = $5, position = $6, done = $7
            WHERE partition = $1 AND projection = $2";
        let (tenant_id, stream_id) = part
            .after
            .as_ref()
            .map(|(tenant_id, stream_id)| (tenant_id.as_str(), stream_id.0))
            .unzip();
        run!(
            self,
            SAVE,
            part.partition.0,
            projection.name(),
            tenant_id,
            stream_id,
            part.is_filled,
            part.position.0,
            part.done,
        );
        Ok(())
    }
}
