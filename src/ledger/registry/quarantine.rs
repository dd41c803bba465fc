//! Authentic webhooks that could not be understood, until a person has looked at them.
//!
//! Bodies come and go sealed; this file never sees what is in them.

use uuid::Uuid;

use super::{Cursor, EntryId, Registry, RegistryError, SourceId};
use crate::domain::event::Sealed;
use crate::domain::time::Timestamp;
use crate::ledger::database::{Database, on_both};
use crate::ledger::record::TenantPlace;
use crate::ledger::sealing;

/// Most characters of a reason that are kept. What does not fit is of no more help.
const REASON_CHARS_MAX: usize = 1_000;

/// One webhook in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// [`EntryId::of`] the two ids below.
    pub entry_id: EntryId,
    pub source_id: SourceId,
    pub delivery_id: String,
    /// For the person who looks. Control characters and what is too long are not kept.
    pub reason: String,
    pub sealed_body: Sealed,
    pub received_at: Timestamp,
}

impl QuarantineEntry {
    pub fn cursor(&self) -> Cursor {
        Cursor {
            at: self.received_at,
            id: self.entry_id.0,
        }
    }
}

/// What became of a webhook on its way into quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantined {
    Added,
    /// It is there already.
    Known,
    /// Its key was destroyed since it was sealed. Seal it anew, or nobody can read it.
    KeyDestroyed,
}

// Only as long as the key is there: an erasure that is under way is waited for.
const ADD_ENTRY_POSTGRES: &str = "
    WITH living AS (
        SELECT 1
        FROM data_keys
        WHERE partition = $1 AND tenant_id = $2 AND key_id = $9 AND wrapped_key IS NOT NULL
        FOR SHARE
    )
    INSERT INTO webhook_quarantine
        (partition, tenant_id, entry_id, source_id, delivery_id, reason, sealed_body, received_at)
    SELECT $1::int2, $2::text, $3::uuid, $4::uuid, $5::text, $6::text, $7::text, $8::int8
    FROM living
    ON CONFLICT (partition, tenant_id, entry_id) DO NOTHING";

// SQLite has one writer at a time anyway.
const ADD_ENTRY_SQLITE: &str = "
    INSERT INTO webhook_quarantine
        (partition, tenant_id, entry_id, source_id, delivery_id, reason, sealed_body, received_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8
    FROM data_keys
    WHERE partition = $1 AND tenant_id = $2 AND key_id = $9 AND wrapped_key IS NOT NULL
    ON CONFLICT (partition, tenant_id, entry_id) DO NOTHING";

const ENTRIES: &str = "
    SELECT entry_id, source_id, delivery_id, reason, sealed_body, received_at
    FROM webhook_quarantine
    WHERE partition = $1 AND tenant_id = $2 AND (received_at, entry_id) > ($3, $4)
    ORDER BY received_at, entry_id
    LIMIT $5";

const ENTRY: &str = "
    SELECT entry_id, source_id, delivery_id, reason, sealed_body, received_at
    FROM webhook_quarantine
    WHERE partition = $1 AND tenant_id = $2 AND entry_id = $3";

const EMPTY_ENTRY: &str = "
    UPDATE webhook_quarantine
    SET sealed_body = $4
    WHERE partition = $1 AND tenant_id = $2 AND entry_id = $3";

const REMOVE_ENTRY: &str = "
    DELETE FROM webhook_quarantine
    WHERE partition = $1 AND tenant_id = $2 AND entry_id = $3";

type Row = (Uuid, Uuid, String, String, String, i64);

impl Registry {
    /// Puts a webhook into quarantine. One that is there already stays as it is.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer: the provider must send it
    /// again.
    pub async fn quarantine(
        &self,
        place: &TenantPlace,
        entry: &QuarantineEntry,
    ) -> Result<Quarantined, RegistryError> {
        let Some(key_id) = sealing::key_id(&entry.sealed_body) else {
            return Ok(Quarantined::KeyDestroyed);
        };
        let add_entry = match &self.inner.database {
            Database::Postgres { .. } => ADD_ENTRY_POSTGRES,
            Database::Sqlite { .. } => ADD_ENTRY_SQLITE,
        };
        let added = on_both!(&self.inner.database, pool => {
            sqlx::query(add_entry)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(entry.entry_id.0)
                .bind(entry.source_id.0)
                .bind(&entry.delivery_id)
                .bind(storable_reason(&entry.reason))
                .bind(&*entry.sealed_body.0)
                .bind(entry.received_at.as_micros())
                .bind(key_id)
                .execute(pool)
                .await?
                .rows_affected()
        });
        if added == 1 {
            return Ok(Quarantined::Added);
        }
        let known = self.entry(place, entry.entry_id).await?;
        Ok(known.map_or(Quarantined::KeyDestroyed, |_| Quarantined::Known))
    }

    /// Drops what an entry holds, for good; the entry itself stays.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn empty(&self, place: &TenantPlace, entry_id: EntryId) -> Result<(), RegistryError> {
        let nothing = sealing::nothing();
        on_both!(&self.inner.database, pool => {
            sqlx::query(EMPTY_ENTRY)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(entry_id.0)
                .bind(&*nothing.0)
                .execute(pool)
                .await?;
        });
        Ok(())
    }

    /// Up to `limit` of a tenant's entries after one, in the order of arrival.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn entries(
        &self,
        place: &TenantPlace,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<QuarantineEntry>, RegistryError> {
        let (at, id) = Cursor::bound(after);
        let rows: Vec<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(ENTRIES)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(at)
                .bind(id)
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        Ok(rows.into_iter().map(entry).collect())
    }

    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn entry(
        &self,
        place: &TenantPlace,
        entry_id: EntryId,
    ) -> Result<Option<QuarantineEntry>, RegistryError> {
        let row: Option<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(ENTRY)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(entry_id.0)
                .fetch_optional(pool)
                .await?
        });
        Ok(row.map(entry))
    }

    /// Takes an entry out of quarantine for good, and says whether it was there.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn remove(
        &self,
        place: &TenantPlace,
        entry_id: EntryId,
    ) -> Result<bool, RegistryError> {
        let removed = on_both!(&self.inner.database, pool => {
            sqlx::query(REMOVE_ENTRY)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(entry_id.0)
                .execute(pool)
                .await?
                .rows_affected()
        });
        Ok(removed == 1)
    }
}

fn entry(
    (entry_id, source_id, delivery_id, reason, sealed_body, received_at): Row,
) -> QuarantineEntry {
    QuarantineEntry {
        entry_id: EntryId(entry_id),
        source_id: SourceId(source_id),
        delivery_id,
        reason,
        sealed_body: Sealed(sealed_body.into()),
        received_at: Timestamp::from_micros_clamped(received_at),
    }
}

/// A reason may quote what came in, and PostgreSQL refuses U+0000. A webhook must not get lost
/// over that.
fn storable_reason(reason: &str) -> String {
    reason
        .chars()
        .take(REASON_CHARS_MAX)
        .map(|one| {
            if one.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                one
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::super::testing::{Fixture, on_both_databases};
    use super::*;
    use crate::ledger::storage::{DataKeyPlace, StoredDataKey};

    on_both_databases!(
        an_entry_is_kept_as_it_came_the_first_time,
        entries_come_in_the_order_of_arrival,
        an_entry_is_removed_once,
        a_tenant_does_not_see_the_entries_of_another,
        any_reason_can_be_stored,
        nothing_is_added_under_a_key_that_was_destroyed,
        an_emptied_entry_stays_without_its_body,
    );

    const KEY: Uuid = Uuid::from_u128(0x5eed);

    /// A tenant, and the key that its entries are sealed under.
    async fn place(f: &Fixture, slug: &str) -> TenantPlace {
        let tenant_id = f.tenant(slug).await;
        let place = f.registry.place(&tenant_id).await.unwrap().unwrap();
        let key = StoredDataKey {
            place: DataKeyPlace {
                partition: place.partition,
                tenant_id,
                key_id: KEY,
            },
            wrapped_key: Some("1.wrapped".into()),
            created_at: f.clock.at(),
        };
        let storage = f.registry.inner.database.storage();
        storage.add_data_key(&key).await.unwrap();
        place
    }

    async fn destroy_keys(f: &Fixture) {
        const DESTROY: &str = "UPDATE data_keys SET wrapped_key = NULL, erased_at = 1";
        on_both!(&f.registry.inner.database, pool => {
            sqlx::query(DESTROY).execute(pool).await.unwrap();
        });
    }

    fn came_in(f: &Fixture, delivery_id: &str) -> QuarantineEntry {
        let source_id = SourceId(Uuid::from_u128(1));
        QuarantineEntry {
            entry_id: EntryId::of(source_id, delivery_id),
            source_id,
            delivery_id: delivery_id.into(),
            reason: "is not JSON".into(),
            sealed_body: Sealed(format!("1.{}.body", URL_SAFE_NO_PAD.encode(KEY)).into()),
            received_at: f.clock.at(),
        }
    }

    async fn an_entry_is_kept_as_it_came_the_first_time(f: &Fixture) {
        let acme = place(f, "acme").await;
        let first = came_in(f, "novu:msg_1");
        assert_eq!(
            f.registry.quarantine(&acme, &first).await.unwrap(),
            Quarantined::Added
        );
        f.clock.advance(Duration::from_secs(5));

        let again = came_in(f, "novu:msg_1");

        assert_eq!(
            f.registry.quarantine(&acme, &again).await.unwrap(),
            Quarantined::Known
        );
        let found = f.registry.entry(&acme, first.entry_id).await.unwrap();
        assert_eq!(found, Some(first));
    }

    async fn entries_come_in_the_order_of_arrival(f: &Fixture) {
        let acme = place(f, "acme").await;
        let mut came = Vec::new();
        for number in 0..5 {
            // Two at the same microsecond, then the next.
            f.clock.advance(Duration::from_micros(number % 2));
            let entry = came_in(f, &format!("novu:msg_{number}"));
            f.registry.quarantine(&acme, &entry).await.unwrap();
            came.push(entry);
        }
        came.sort_by_key(|entry| (entry.received_at, entry.entry_id));

        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = f.registry.entries(&acme, after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.cursor());
            seen.extend(page);
        }

        assert_eq!(seen, came);
    }

    async fn an_entry_is_removed_once(f: &Fixture) {
        let acme = place(f, "acme").await;
        let entry = came_in(f, "novu:msg_1");
        f.registry.quarantine(&acme, &entry).await.unwrap();

        assert!(f.registry.remove(&acme, entry.entry_id).await.unwrap());
        assert!(!f.registry.remove(&acme, entry.entry_id).await.unwrap());
        assert_eq!(f.registry.entry(&acme, entry.entry_id).await.unwrap(), None);
    }

    async fn a_tenant_does_not_see_the_entries_of_another(f: &Fixture) {
        let (acme, other) = (place(f, "acme").await, place(f, "other").await);
        let entry = came_in(f, "novu:msg_1");
        f.registry.quarantine(&acme, &entry).await.unwrap();

        assert_eq!(
            f.registry.entry(&other, entry.entry_id).await.unwrap(),
            None
        );
        assert_eq!(f.registry.entries(&other, None, 10).await.unwrap(), []);
        assert!(!f.registry.remove(&other, entry.entry_id).await.unwrap());
        assert!(
            f.registry
                .entry(&acme, entry.entry_id)
                .await
                .unwrap()
                .is_some()
        );
    }

    async fn any_reason_can_be_stored(f: &Fixture) {
        let acme = place(f, "acme").await;
        let entry = QuarantineEntry {
            reason: format!("unknown type `\0\n{}`", "ä".repeat(5_000)),
            ..came_in(f, "novu:msg_1")
        };

        assert_eq!(
            f.registry.quarantine(&acme, &entry).await.unwrap(),
            Quarantined::Added
        );

        let found = f
            .registry
            .entry(&acme, entry.entry_id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.reason.chars().count(), REASON_CHARS_MAX);
        assert!(found.reason.starts_with("unknown type `\u{FFFD}\u{FFFD}ä"));
    }

    async fn nothing_is_added_under_a_key_that_was_destroyed(f: &Fixture) {
        let acme = place(f, "acme").await;
        let (early, late) = (came_in(f, "novu:msg_1"), came_in(f, "novu:msg_2"));
        f.registry.quarantine(&acme, &early).await.unwrap();
        destroy_keys(f).await;

        let said = f.registry.quarantine(&acme, &late).await.unwrap();

        assert_eq!(said, Quarantined::KeyDestroyed);
        assert_eq!(f.registry.entry(&acme, late.entry_id).await.unwrap(), None);
        let again = f.registry.quarantine(&acme, &early).await.unwrap();
        assert_eq!(again, Quarantined::Known);
    }

    async fn an_emptied_entry_stays_without_its_body(f: &Fixture) {
        let acme = place(f, "acme").await;
        let (entry, other) = (came_in(f, "novu:msg_1"), came_in(f, "novu:msg_2"));
        f.registry.quarantine(&acme, &entry).await.unwrap();
        f.registry.quarantine(&acme, &other).await.unwrap();

        f.registry.empty(&acme, entry.entry_id).await.unwrap();

        let entries = f.registry.entries(&acme, None, 10).await.unwrap();
        let emptied = QuarantineEntry {
            sealed_body: sealing::nothing(),
            ..entry
        };
        let mut expected = [emptied, other];
        expected.sort_by_key(|entry| entry.entry_id);
        assert_eq!(entries, expected);
    }
}
