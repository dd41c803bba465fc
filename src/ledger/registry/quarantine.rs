//! Authentic webhooks that could not be understood, until a person has looked at them.
//!
//! Bodies come and go sealed; this file never sees what is in them.

use uuid::Uuid;

use super::{Cursor, EntryId, Registry, RegistryError, SourceId};
use crate::domain::event::Sealed;
use crate::domain::time::Timestamp;
use crate::ledger::database::on_both;
use crate::ledger::record::TenantPlace;

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

const ADD_ENTRY: &str = "
    INSERT INTO webhook_quarantine
        (partition, tenant_id, entry_id, source_id, delivery_id, reason, sealed_body, received_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
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

const REMOVE_ENTRY: &str = "
    DELETE FROM webhook_quarantine
    WHERE partition = $1 AND tenant_id = $2 AND entry_id = $3";

type Row = (Uuid, Uuid, String, String, String, i64);

impl Registry {
    /// Puts a webhook into quarantine, and says whether it is new there. One that is there
    /// already stays as it is.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer: the provider must send it
    /// again.
    pub async fn quarantine(
        &self,
        place: &TenantPlace,
        entry: &QuarantineEntry,
    ) -> Result<bool, RegistryError> {
        let added = on_both!(&self.inner.database, pool => {
            sqlx::query(ADD_ENTRY)
                .bind(place.partition.0)
                .bind(place.tenant_id.as_str())
                .bind(entry.entry_id.0)
                .bind(entry.source_id.0)
                .bind(&entry.delivery_id)
                .bind(storable_reason(&entry.reason))
                .bind(&*entry.sealed_body.0)
                .bind(entry.received_at.as_micros())
                .execute(pool)
                .await?
                .rows_affected()
        });
        Ok(added == 1)
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

    use super::super::testing::{Fixture, on_both_databases};
    use super::*;

    on_both_databases!(
        an_entry_is_kept_as_it_came_the_first_time,
        entries_come_in_the_order_of_arrival,
        an_entry_is_removed_once,
        a_tenant_does_not_see_the_entries_of_another,
        any_reason_can_be_stored,
    );

    async fn place(f: &Fixture, slug: &str) -> TenantPlace {
        let tenant_id = f.tenant(slug).await;
        f.registry.place(&tenant_id).await.unwrap().unwrap()
    }

    fn came_in(f: &Fixture, delivery_id: &str) -> QuarantineEntry {
        let source_id = SourceId(Uuid::from_u128(1));
        QuarantineEntry {
            entry_id: EntryId::of(source_id, delivery_id),
            source_id,
            delivery_id: delivery_id.into(),
            reason: "is not JSON".into(),
            sealed_body: Sealed("1.sealed.body".into()),
            received_at: f.clock.at(),
        }
    }

    async fn an_entry_is_kept_as_it_came_the_first_time(f: &Fixture) {
        let acme = place(f, "acme").await;
        let first = came_in(f, "novu:msg_1");
        assert!(f.registry.quarantine(&acme, &first).await.unwrap());
        f.clock.advance(Duration::from_secs(5));

        let again = came_in(f, "novu:msg_1");

        assert!(!f.registry.quarantine(&acme, &again).await.unwrap());
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

        assert!(f.registry.quarantine(&acme, &entry).await.unwrap());

        let found = f
            .registry
            .entry(&acme, entry.entry_id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.reason.chars().count(), REASON_CHARS_MAX);
        assert!(found.reason.starts_with("unknown type `\u{FFFD}\u{FFFD}ä"));
    }
}
