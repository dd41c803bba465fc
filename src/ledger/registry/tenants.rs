//! Tenants, and the partition each lives in for ever.

use ring::digest::{SHA256, digest};
use serde::{Serialize, Serializer};

use super::{Registry, RegistryError};
use crate::domain::ids::{TenantId, check_name};
use crate::domain::time::Timestamp;
use crate::ledger::database::on_both;
use crate::ledger::record::{Partition, TenantPlace};
use crate::ledger::rows;

/// One tenant. Never changes once created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tenant {
    #[serde(rename = "id")]
    pub tenant_id: TenantId,
    pub name: Option<String>,
    #[serde(serialize_with = "number")]
    pub partition: Partition,
    pub created_at: Timestamp,
}

impl Tenant {
    pub fn place(&self) -> TenantPlace {
        TenantPlace {
            tenant_id: self.tenant_id.clone(),
            partition: self.partition,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn number<S: Serializer>(partition: &Partition, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i16(partition.0)
}

const ADD_TENANT: &str = "
    INSERT INTO tenants (tenant_id, name, partition, created_at)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (tenant_id) DO NOTHING";

const TENANT: &str = "
    SELECT tenant_id, name, partition, created_at
    FROM tenants
    WHERE tenant_id = $1";

const TENANTS: &str = "
    SELECT tenant_id, name, partition, created_at
    FROM tenants
    WHERE tenant_id > $1
    ORDER BY tenant_id
    LIMIT $2";

type Row = (String, Option<String>, i16, i64);

impl Registry {
    /// Creates a tenant, by default in the partition that follows from its id.
    ///
    /// # Errors
    ///
    /// [`RegistryError::TenantExists`], [`RegistryError::NoSuchPartition`] or
    /// [`RegistryError::Name`].
    pub async fn create_tenant(
        &self,
        tenant_id: &TenantId,
        name: Option<&str>,
        partition: Option<i16>,
    ) -> Result<Tenant, RegistryError> {
        name.map(check_name).transpose()?;
        let partitions = self.inner.partitions;
        let partition = match partition {
            None => usual_partition(tenant_id, partitions),
            Some(partition) if (0..partitions).contains(&partition) => Partition(partition),
            Some(partition) => {
                let last = partitions - 1;
                return Err(RegistryError::NoSuchPartition { partition, last });
            }
        };
        let tenant = Tenant {
            tenant_id: tenant_id.clone(),
            name: name.map(str::to_owned),
            partition,
            created_at: self.inner.surroundings.now(),
        };
        let added = on_both!(&self.inner.database, pool => {
            sqlx::query(ADD_TENANT)
                .bind(tenant_id.as_str())
                .bind(name)
                .bind(partition.0)
                .bind(tenant.created_at.as_micros())
                .execute(pool)
                .await?
                .rows_affected()
        });
        // Somebody may have asked for it a moment ago.
        self.inner.places.forget(tenant_id);
        if added == 0 {
            let tenant_id = tenant_id.clone();
            return Err(RegistryError::TenantExists { tenant_id });
        }
        Ok(tenant)
    }

    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn tenant(&self, tenant_id: &TenantId) -> Result<Option<Tenant>, RegistryError> {
        let row: Option<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(TENANT).bind(tenant_id.as_str()).fetch_optional(pool).await?
        });
        row.map(tenant).transpose()
    }

    /// Up to `limit` tenants after one, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn tenants(
        &self,
        after: Option<&TenantId>,
        limit: i64,
    ) -> Result<Vec<Tenant>, RegistryError> {
        let after = after.map_or("", TenantId::as_str);
        let rows: Vec<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(TENANTS).bind(after).bind(limit).fetch_all(pool).await?
        });
        rows.into_iter().map(tenant).collect()
    }

    /// Where a tenant lives; remembered, since every request asks.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn place(&self, tenant_id: &TenantId) -> Result<Option<TenantPlace>, RegistryError> {
        let load = async {
            let tenant = self.tenant(tenant_id).await?;
            Ok::<_, RegistryError>(tenant.map(|tenant| tenant.place()))
        };
        let place = self.inner.places.get(tenant_id, load).await?;
        Ok(place.map(|place| TenantPlace::clone(&place)))
    }
}

fn tenant((tenant_id, name, partition, created_at): Row) -> Result<Tenant, RegistryError> {
    Ok(Tenant {
        tenant_id: rows::tenant("tenants", &tenant_id)?,
        name,
        partition: Partition(partition),
        created_at: Timestamp::from_micros_clamped(created_at),
    })
}

/// The first 8 bytes of the id's SHA-256, as a big-endian number, modulo the partitions: spreads
/// tenants evenly, and anybody can work it out again.
fn usual_partition(tenant_id: &TenantId, partitions: i16) -> Partition {
    let hash = digest(&SHA256, tenant_id.as_str().as_bytes());
    let number = hash.as_ref()[..8]
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let partitions = u64::from(partitions.max(1).unsigned_abs());
    // Smaller than an `i16`, so it fits.
    Partition(i16::try_from(number % partitions).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, id, on_both_databases};
    use super::*;

    on_both_databases!(
        a_tenant_keeps_what_it_was_created_with,
        a_tenant_is_created_once,
        tenants_come_in_pages,
        a_partition_must_exist,
        a_place_is_known_as_soon_as_its_tenant_is,
    );

    #[test]
    fn the_usual_partition_never_changes() {
        assert_eq!(usual_partition(&id("acme"), 8), Partition(0));
        assert_eq!(usual_partition(&id("demo"), 8), Partition(4));
        assert_eq!(usual_partition(&id("acme"), 1), Partition(0));
        assert_eq!(usual_partition(&id("acme"), i16::MAX), Partition(14_394));
    }

    async fn a_tenant_keeps_what_it_was_created_with(f: &Fixture) {
        let registry = &f.registry;
        let plain = registry
            .create_tenant(&id("plain"), None, None)
            .await
            .unwrap();
        let placed = registry
            .create_tenant(&id("a.b_c-d"), Some("Größe"), Some(7))
            .await
            .unwrap();

        assert_eq!(plain.partition, usual_partition(&id("plain"), 8));
        assert_eq!(placed.partition, Partition(7));
        assert_eq!(placed.name.as_deref(), Some("Größe"));
        assert_eq!(placed.created_at, f.clock.at());
        assert_eq!(registry.tenant(&id("plain")).await.unwrap(), Some(plain));
        assert_eq!(registry.tenant(&id("a.b_c-d")).await.unwrap(), Some(placed));
        assert_eq!(registry.tenant(&id("nobody")).await.unwrap(), None);
    }

    async fn a_tenant_is_created_once(f: &Fixture) {
        let first = f
            .registry
            .create_tenant(&id("acme"), Some("first"), None)
            .await
            .unwrap();

        let second = f
            .registry
            .create_tenant(&id("acme"), Some("second"), Some(0))
            .await;

        assert!(
            matches!(second, Err(RegistryError::TenantExists { .. })),
            "{second:?}"
        );
        assert_eq!(f.registry.tenant(&id("acme")).await.unwrap(), Some(first));
    }

    async fn tenants_come_in_pages(f: &Fixture) {
        for name in ["c", "a", "e", "b", "d"] {
            f.registry
                .create_tenant(&id(name), None, None)
                .await
                .unwrap();
        }

        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = f.registry.tenants(after.as_ref(), 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.tenant_id.clone());
            seen.extend(page.into_iter().map(|tenant| tenant.tenant_id.to_string()));
        }

        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    }

    async fn a_partition_must_exist(f: &Fixture) {
        for partition in [-1, 8, i16::MAX, i16::MIN] {
            let refused = f
                .registry
                .create_tenant(&id("acme"), None, Some(partition))
                .await;

            assert!(
                matches!(refused, Err(RegistryError::NoSuchPartition { last: 7, .. })),
                "{refused:?}"
            );
        }
        let refused = f
            .registry
            .create_tenant(&id("acme"), Some("a\0b"), None)
            .await;
        assert!(
            matches!(refused, Err(RegistryError::Name(_))),
            "{refused:?}"
        );
        assert_eq!(f.registry.tenant(&id("acme")).await.unwrap(), None);
    }

    async fn a_place_is_known_as_soon_as_its_tenant_is(f: &Fixture) {
        assert_eq!(f.registry.place(&id("acme")).await.unwrap(), None);

        let tenant = f
            .registry
            .create_tenant(&id("acme"), None, None)
            .await
            .unwrap();

        assert_eq!(
            f.registry.place(&id("acme")).await.unwrap(),
            Some(tenant.place())
        );
    }
}
