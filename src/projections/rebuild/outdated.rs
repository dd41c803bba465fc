//! Tables that an older release made: rebuilt without anybody asking.
//!
//! A service looks when it starts, and again and again afterwards, because a rebuild of the older
//! release may be running still. What a newer release made is left alone: services of both may run
//! side by side for a while, and taking the tables back would only mean to make them anew again.

use super::super::Projections;
use super::super::projection::Projection;
use super::super::store::Versions;
use super::jobs::{Rebuild, State};
use crate::domain::time::Timestamp;
use crate::ledger::storage::StorageError;

impl Projections {
    /// Begins to rebuild what an older release made, unless somebody is at it. A rebuild that was
    /// tried and failed or was cancelled is only tried again `at_start`.
    pub(super) async fn rebuild_outdated(&self, at_start: bool) -> Result<(), StorageError> {
        let store = &self.inner.store;
        let versions = store.versions().await?;
        if at_start {
            tell_of_newer(&versions);
        }
        // Looked at first: there is hardly ever one, and beginning takes a lock.
        if !versions.iter().any(Versions::is_outdated) {
            return Ok(());
        }
        let mut transaction = store.begin().await?;
        transaction.lock_rebuilds().await?;
        let now = self.inner.surroundings.now();
        // In this order: whoever is no longer running has moved the checkpoints by now.
        let standing = transaction.rebuilds().await?;
        let versions = transaction.versions().await?;
        let is_wanted = |versions: &&Versions| {
            let standing = standing
                .iter()
                .find(|rebuild| rebuild.projection == versions.projection);
            versions.is_outdated() && is_to_begin(standing, at_start, now)
        };
        let wanted: Vec<Projection> = versions
            .iter()
            .filter(is_wanted)
            .map(|versions| versions.projection)
            .collect();
        if wanted.is_empty() {
            return transaction.roll_back().await;
        }
        self.begin(transaction, &wanted, None).await?;
        for versions in versions {
            if wanted.contains(&versions.projection) {
                tracing::info!(
                    projection = versions.projection.name(),
                    version = versions.projection.version(),
                    version.tables = versions.oldest,
                    "the tables are those of an older release: they are rebuilt"
                );
            }
        }
        Ok(())
    }
}

fn is_to_begin(standing: Option<&Rebuild>, at_start: bool, now: Timestamp) -> bool {
    let Some(standing) = standing else {
        return true;
    };
    let was_tried =
        standing.version >= standing.projection.version() && standing.partition.is_none();
    match standing.state {
        State::Running => !standing.is_in_the_way(now),
        State::Done | State::Failed | State::Cancelled => at_start || !was_tried,
    }
}

fn tell_of_newer(versions: &[Versions]) {
    for versions in versions.iter().filter(|versions| versions.is_newer()) {
        tracing::warn!(
            projection = versions.projection.name(),
            version = versions.projection.version(),
            version.tables = versions.newest,
            "the tables are those of a newer release: this one leaves them alone"
        );
    }
}
