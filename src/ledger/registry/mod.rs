//! Who may use the ledger, and where webhooks come from: tenants, API keys, webhook sources, and
//! the quarantine of webhooks nobody understood.
//!
//! Small tables, read on every request and written seldom, so the reads that every request makes
//! ([`Registry::authenticate`], [`Registry::place`], [`Registry::source`]) are remembered for a
//! while. A change made through this process is seen at once; one made through another process
//! within the time the registry was given. Everything else asks the database.
//!
//! Called by the HTTP rooms, the command line and the start-up. Creating a key or a source twice
//! from the same derived secret or id gives the one that stands; revoking, removing and
//! quarantining twice changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;

use self::cache::Cache;
use self::last_use::{KnownKey, Uses};
use super::database::Database;
use super::record::{Hash, TenantPlace};
use super::sealing::{MasterKey, NoRandomness};
use super::storage::StorageError;
use crate::clock::Surroundings;
use crate::domain::ids::{IdError, TenantId};
use crate::telemetry::Metrics;

mod cache;
mod ids;
mod keys;
mod last_use;
mod quarantine;
mod scopes;
mod secret;
mod sources;
mod tenants;
#[cfg(test)]
mod testing;

pub use self::ids::{Cursor, EntryId, KeyId, SourceId};
pub use self::keys::{ApiKey, NewKey};
pub use self::quarantine::{QuarantineEntry, Quarantined};
pub use self::scopes::{Scope, Scopes, ScopesError};
pub use self::sources::{NewSource, SIGNING_SECRETS_MAX, SourceChange, Unmatched, WebhookSource};
pub use self::tenants::Tenant;

/// The small global tables. Cheap to clone; clones share what is remembered.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    master: Arc<MasterKey>,
    surroundings: Surroundings,
    /// How many partitions the ledger has.
    partitions: i16,
    places: Cache<TenantId, TenantPlace>,
    keys: Cache<Hash, KnownKey>,
    sources: Cache<SourceId, WebhookSource>,
    uses: Uses,
    metrics: Metrics,
}

impl Registry {
    /// `partitions` is the ledger's count; `cache_ttl` is how long a change made by another
    /// process, such as a revoked key, may go unnoticed.
    pub fn new(
        database: Database,
        master: Arc<MasterKey>,
        surroundings: Surroundings,
        partitions: i16,
        cache_ttl: Duration,
        metrics: &Metrics,
    ) -> Self {
        let clock = &surroundings.clock;
        Self {
            inner: Arc::new(Inner {
                places: Cache::new(Arc::clone(clock), cache_ttl),
                keys: Cache::new(Arc::clone(clock), cache_ttl),
                sources: Cache::new(Arc::clone(clock), cache_ttl),
                uses: Uses::default(),
                metrics: metrics.clone(),
                database,
                master,
                surroundings,
                partitions,
            }),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// What the registry may say instead of doing it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("there is already a tenant `{tenant_id}`")]
    TenantExists { tenant_id: TenantId },
    /// Create the tenant first.
    #[error("there is no tenant `{tenant_id}`")]
    NoSuchTenant { tenant_id: TenantId },
    #[error("there is no partition {partition}: the ledger's run from 0 to {last}")]
    NoSuchPartition { partition: i16, last: i16 },
    #[error("the name is not valid")]
    Name(#[from] IdError),
    #[error("a source has 1 to {SIGNING_SECRETS_MAX} signing secrets, not {given}")]
    SecretCount { given: usize },
    /// The derived secret or id was given before, for something else. Derive from something that
    /// is not repeated.
    #[error("this secret or id belongs to something else already")]
    AlreadyUsed,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

/// Names what an insert was refused for: in these tables only a tenant can be missing.
fn missing_tenant(error: sqlx::Error, tenant_id: Option<&TenantId>) -> RegistryError {
    let missing = error
        .as_database_error()
        .is_some_and(DatabaseError::is_foreign_key_violation);
    match tenant_id {
        Some(tenant_id) if missing => RegistryError::NoSuchTenant {
            tenant_id: tenant_id.clone(),
        },
        _ => error.into(),
    }
}

fn damaged(table: &'static str, detail: impl Into<String>) -> RegistryError {
    RegistryError::Storage(StorageError::Damaged {
        table,
        detail: detail.into(),
    })
}
