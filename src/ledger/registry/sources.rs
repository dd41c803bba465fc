//! Webhook sources: which tenant a webhook belongs to, and the secrets its provider signs with.
//!
//! To check a signature the secret must be known, so secrets are encrypted under the master key,
//! bound to their source, and never shown again.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Cursor, Registry, RegistryError, SourceId, damaged, missing_tenant};
use crate::domain::ids::{TenantId, check_name};
use crate::domain::time::Timestamp;
use crate::ledger::database::on_both;
use crate::ledger::rows;

/// Most secrets a source has at a time. Changing a secret needs two; the rest is for whoever
/// changes them one region after the other.
pub const SIGNING_SECRETS_MAX: usize = 5;

/// What becomes of an authentic webhook about a message the ledger does not know: stored by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// It begins a stream.
    #[default]
    Adopt,
    /// It waits for a person.
    Quarantine,
}

impl Unmatched {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adopt => "adopt",
            Self::Quarantine => "quarantine",
        }
    }

    /// The value a stored name stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "adopt" => Some(Self::Adopt),
            "quarantine" => Some(Self::Quarantine),
            _ => None,
        }
    }
}

/// One webhook source.
#[derive(Clone, Debug, Serialize)]
pub struct WebhookSource {
    #[serde(rename = "id")]
    pub source_id: SourceId,
    pub tenant_id: TenantId,
    pub provider: String,
    pub name: String,
    pub unmatched: Unmatched,
    pub paused: bool,
    /// For checking signatures; a webhook may be signed with any of them.
    #[serde(skip)]
    pub secrets: Vec<SecretString>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl WebhookSource {
    pub fn cursor(&self) -> Cursor {
        Cursor {
            at: self.created_at,
            id: self.source_id.0,
        }
    }
}

/// A source to be created.
#[derive(Clone, Debug)]
pub struct NewSource {
    /// Given when a repeated call must find what the first one made; else a new one.
    pub source_id: Option<SourceId>,
    pub tenant_id: TenantId,
    pub provider: String,
    pub name: String,
    pub unmatched: Unmatched,
    pub secrets: Vec<SecretString>,
}

/// What is to change; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct SourceChange {
    pub name: Option<String>,
    /// All of them: those left out are no longer accepted.
    pub secrets: Option<Vec<SecretString>>,
    pub paused: Option<bool>,
    pub unmatched: Option<Unmatched>,
}

// A macro and not a constant, so that whole statements can be put together at compile time.
macro_rules! source_columns {
    () => {
        "source_id, tenant_id, provider, name, unmatched, paused, wrapped_secrets, created_at, \
         updated_at"
    };
}

const ADD_SOURCE: &str = concat!(
    "INSERT INTO webhook_sources (",
    source_columns!(),
    ")
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (source_id) DO NOTHING"
);

const SOURCE: &str = concat!(
    "SELECT ",
    source_columns!(),
    " FROM webhook_sources
    WHERE source_id = $1"
);

const SOURCES: &str = concat!(
    "SELECT ",
    source_columns!(),
    " FROM webhook_sources
    WHERE tenant_id = $1 AND (created_at, source_id) > ($2, $3)
    ORDER BY created_at, source_id
    LIMIT $4"
);

const UPDATE_SOURCE: &str = "
    UPDATE webhook_sources
    SET name = COALESCE($3, name),
        wrapped_secrets = COALESCE($4, wrapped_secrets),
        paused = COALESCE($5, paused),
        unmatched = COALESCE($6, unmatched),
        updated_at = $7
    WHERE source_id = $1 AND tenant_id = $2";

const DELETE_SOURCE: &str = "
    DELETE FROM webhook_sources
    WHERE source_id = $1 AND tenant_id = $2";

type Row = (Uuid, String, String, String, String, bool, String, i64, i64);

impl Registry {
    /// Creates a source. With an id that was given before, the answer is the source that stands.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoSuchTenant`], [`RegistryError::Name`], [`RegistryError::SecretCount`],
    /// or [`RegistryError::AlreadyUsed`] when the id is another tenant's or provider's.
    pub async fn create_source(&self, new: NewSource) -> Result<WebhookSource, RegistryError> {
        check_name(&new.name)?;
        check_name(&new.provider)?;
        let surroundings = &self.inner.surroundings;
        let now = surroundings.now();
        let source = WebhookSource {
            source_id: new
                .source_id
                .unwrap_or_else(|| SourceId(surroundings.ids.time_ordered())),
            tenant_id: new.tenant_id,
            provider: new.provider,
            name: new.name,
            unmatched: new.unmatched,
            paused: false,
            secrets: new.secrets,
            created_at: now,
            updated_at: now,
        };
        if self.add_source(&source).await? {
            return Ok(source);
        }
        let standing = self.stored_source(source.source_id).await?;
        standing
            .filter(|standing| {
                standing.tenant_id == source.tenant_id && standing.provider == source.provider
            })
            .ok_or(RegistryError::AlreadyUsed)
    }

    async fn add_source(&self, source: &WebhookSource) -> Result<bool, RegistryError> {
        let wrapped = self.wrap(source.source_id, &source.secrets)?;
        let added = on_both!(&self.inner.database, pool => {
            sqlx::query(ADD_SOURCE)
                .bind(source.source_id.0)
                .bind(source.tenant_id.as_str())
                .bind(&source.provider)
                .bind(&source.name)
                .bind(source.unmatched.as_str())
                .bind(source.paused)
                .bind(wrapped)
                .bind(source.created_at.as_micros())
                .bind(source.updated_at.as_micros())
                .execute(pool)
                .await
                .map_err(|error| missing_tenant(error, Some(&source.tenant_id)))?
                .rows_affected()
        });
        // Somebody may have asked for it a moment ago.
        self.inner.sources.forget(&source.source_id);
        Ok(added == 1)
    }

    /// For webhooks: any tenant's source, remembered since every webhook asks.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer, or the secrets do not open.
    pub async fn source(
        &self,
        source_id: SourceId,
    ) -> Result<Option<Arc<WebhookSource>>, RegistryError> {
        self.inner
            .sources
            .get(&source_id, self.stored_source(source_id))
            .await
    }

    /// For a tenant: one of its own sources, as it is now.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer, or the secrets do not open.
    pub async fn source_of(
        &self,
        tenant_id: &TenantId,
        source_id: SourceId,
    ) -> Result<Option<WebhookSource>, RegistryError> {
        let source = self.stored_source(source_id).await?;
        Ok(source.filter(|source| source.tenant_id == *tenant_id))
    }

    async fn stored_source(
        &self,
        source_id: SourceId,
    ) -> Result<Option<WebhookSource>, RegistryError> {
        let row: Option<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(SOURCE).bind(source_id.0).fetch_optional(pool).await?
        });
        row.map(|row| self.opened(row)).transpose()
    }

    /// Up to `limit` of a tenant's sources after one, oldest first.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer, or some secrets do not open.
    pub async fn sources(
        &self,
        tenant_id: &TenantId,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<WebhookSource>, RegistryError> {
        let (at, id) = Cursor::bound(after);
        let rows: Vec<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(SOURCES)
                .bind(tenant_id.as_str())
                .bind(at)
                .bind(id)
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(|row| self.opened(row)).collect()
    }

    /// Changes a source in one step, and answers with what it is then; `None` if the tenant has
    /// no such source.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Name`] or [`RegistryError::SecretCount`].
    pub async fn update_source(
        &self,
        source_id: SourceId,
        tenant_id: &TenantId,
        change: SourceChange,
    ) -> Result<Option<WebhookSource>, RegistryError> {
        change.name.as_deref().map(check_name).transpose()?;
        let wrapped = change
            .secrets
            .map(|secrets| self.wrap(source_id, &secrets))
            .transpose()?;
        let now = self.inner.surroundings.now().as_micros();
        let updated = on_both!(&self.inner.database, pool => {
            sqlx::query(UPDATE_SOURCE)
                .bind(source_id.0)
                .bind(tenant_id.as_str())
                .bind(change.name)
                .bind(wrapped)
                .bind(change.paused)
                .bind(change.unmatched.map(Unmatched::as_str))
                .bind(now)
                .execute(pool)
                .await
                .map(drop)
        });
        // Even after an error: it may have been stored all the same.
        self.inner.sources.forget(&source_id);
        updated?;
        self.source_of(tenant_id, source_id).await
    }

    /// Deletes a source, and says whether the tenant had it. What it has in quarantine stays.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn delete_source(
        &self,
        source_id: SourceId,
        tenant_id: &TenantId,
    ) -> Result<bool, RegistryError> {
        let deleted = on_both!(&self.inner.database, pool => {
            sqlx::query(DELETE_SOURCE)
                .bind(source_id.0)
                .bind(tenant_id.as_str())
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        });
        // Even after an error: it may have been deleted all the same.
        self.inner.sources.forget(&source_id);
        Ok(deleted? == 1)
    }

    fn opened(&self, row: Row) -> Result<WebhookSource, RegistryError> {
        let (
            source_id,
            tenant_id,
            provider,
            name,
            unmatched,
            paused,
            wrapped_secrets,
            created_at,
            updated_at,
        ) = row;
        let unmatched = Unmatched::from_name(&unmatched).ok_or_else(|| {
            damaged(
                "webhook_sources",
                format!("source {source_id} has `{unmatched}`"),
            )
        })?;
        let source_id = SourceId(source_id);
        Ok(WebhookSource {
            source_id,
            tenant_id: rows::tenant("webhook_sources", &tenant_id)?,
            provider,
            name,
            unmatched,
            paused,
            secrets: self.unwrap(source_id, &wrapped_secrets)?,
            created_at: Timestamp::from_micros_clamped(created_at),
            updated_at: Timestamp::from_micros_clamped(updated_at),
        })
    }

    fn wrap(&self, source_id: SourceId, secrets: &[SecretString]) -> Result<String, RegistryError> {
        if !(1..=SIGNING_SECRETS_MAX).contains(&secrets.len()) {
            let given = secrets.len();
            return Err(RegistryError::SecretCount { given });
        }
        let texts: Vec<&str> = secrets.iter().map(ExposeSecret::expose_secret).collect();
        // Texts always have a JSON form.
        let json = serde_json::to_vec(&texts).map(Zeroizing::new);
        let json = json.map_err(|_| damaged("webhook_sources", "secrets without a JSON form"))?;
        Ok(self
            .inner
            .master
            .wrap(&wrapping_context(source_id), &json)?)
    }

    fn unwrap(
        &self,
        source_id: SourceId,
        wrapped: &str,
    ) -> Result<Vec<SecretString>, RegistryError> {
        let context = wrapping_context(source_id);
        let json = self.inner.master.unwrap(&context, wrapped).ok();
        // Without the parser's own words, which might quote a secret.
        json.and_then(|json| serde_json::from_slice::<Vec<String>>(&json).ok())
            .map(|texts| texts.into_iter().map(SecretString::from).collect())
            .ok_or_else(|| {
                damaged(
                    "webhook_sources",
                    format!("the secrets of source {source_id} do not open"),
                )
            })
    }
}

fn wrapping_context(source_id: SourceId) -> String {
    format!("webhook-source/{source_id}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{CACHE_TTL, Fixture, id, on_both_databases};
    use super::*;

    on_both_databases!(
        a_source_keeps_what_it_was_created_with,
        a_repeated_creation_finds_the_first,
        a_source_has_one_to_five_secrets_and_a_tenant,
        secrets_are_neither_stored_nor_shown,
        secrets_open_only_for_their_own_source,
        a_change_leaves_the_rest_and_is_seen_at_once,
        a_change_made_elsewhere_is_seen_soon,
        a_tenant_does_not_see_the_sources_of_another,
        sources_come_in_pages,
    );

    fn secrets<const N: usize>(texts: [&str; N]) -> Vec<SecretString> {
        texts.into_iter().map(SecretString::from).collect()
    }

    fn exposed(source: &WebhookSource) -> Vec<&str> {
        source
            .secrets
            .iter()
            .map(ExposeSecret::expose_secret)
            .collect()
    }

    fn new(tenant_id: &TenantId) -> NewSource {
        NewSource {
            source_id: None,
            tenant_id: tenant_id.clone(),
            provider: "novu".into(),
            name: "production".into(),
            unmatched: Unmatched::Quarantine,
            secrets: secrets(["whsec_b25l", "whsec_dHdv"]),
        }
    }

    async fn make(f: &Fixture, tenant_id: &TenantId) -> WebhookSource {
        f.registry.create_source(new(tenant_id)).await.unwrap()
    }

    async fn a_source_keeps_what_it_was_created_with(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let made = make(f, &acme).await;

        let found = f.registry.source(made.source_id).await.unwrap().unwrap();

        assert_eq!(
            serde_json::to_value(&*found).unwrap(),
            serde_json::to_value(&made).unwrap()
        );
        assert_eq!(exposed(&found), ["whsec_b25l", "whsec_dHdv"]);
        assert_eq!(found.tenant_id, acme);
        assert_eq!(
            (found.unmatched, found.paused),
            (Unmatched::Quarantine, false)
        );
        assert_eq!(
            (found.created_at, found.updated_at),
            (f.clock.at(), f.clock.at())
        );
    }

    async fn a_repeated_creation_finds_the_first(f: &Fixture) {
        let (acme, other) = (f.tenant("acme").await, f.tenant("other").await);
        let source_id = Some(SourceId(Uuid::from_u128(5)));
        let first = NewSource {
            source_id,
            ..new(&acme)
        };
        let made = f.registry.create_source(first.clone()).await.unwrap();
        f.clock.advance(Duration::from_secs(5));

        let again = f.registry.create_source(first).await.unwrap();

        assert_eq!(again.created_at, made.created_at);
        assert_eq!(f.registry.sources(&acme, None, 10).await.unwrap().len(), 1);
        let taken = f
            .registry
            .create_source(NewSource {
                source_id,
                ..new(&other)
            })
            .await;
        assert!(
            matches!(taken, Err(RegistryError::AlreadyUsed)),
            "{taken:?}"
        );
    }

    async fn a_source_has_one_to_five_secrets_and_a_tenant(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let made = make(f, &acme).await;

        for given in [0, SIGNING_SECRETS_MAX + 1] {
            let secrets = vec![SecretString::from("whsec_b25l"); given];
            let change = SourceChange {
                secrets: Some(secrets.clone()),
                ..SourceChange::default()
            };
            let refused = f
                .registry
                .create_source(NewSource {
                    secrets,
                    ..new(&acme)
                })
                .await;
            assert!(
                matches!(refused, Err(RegistryError::SecretCount { .. })),
                "{refused:?}"
            );
            let refused = f
                .registry
                .update_source(made.source_id, &acme, change)
                .await;
            assert!(
                matches!(refused, Err(RegistryError::SecretCount { .. })),
                "{refused:?}"
            );
        }
        let refused = f.registry.create_source(new(&id("nobody"))).await;
        assert!(
            matches!(refused, Err(RegistryError::NoSuchTenant { .. })),
            "{refused:?}"
        );
    }

    async fn secrets_are_neither_stored_nor_shown(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let made = make(f, &acme).await;

        let stored: String = on_both!(&f.database, pool => {
            sqlx::query_scalar("SELECT wrapped_secrets FROM webhook_sources")
                .fetch_one(pool)
                .await
                .unwrap()
        });

        let shown = format!("{made:?} {}", serde_json::to_string(&made).unwrap());
        for text in [stored, shown] {
            assert!(!text.contains("whsec_") && !text.contains("b25l"), "{text}");
        }
    }

    async fn secrets_open_only_for_their_own_source(f: &Fixture) {
        let acme = f.tenant("acme").await;
        make(f, &acme).await;
        f.clock.advance(Duration::from_secs(1));
        let second = make(f, &acme).await;

        on_both!(&f.database, pool => {
            sqlx::query(
                "UPDATE webhook_sources SET wrapped_secrets = (
                    SELECT wrapped_secrets FROM webhook_sources ORDER BY created_at LIMIT 1
                )",
            )
            .execute(pool)
            .await
            .unwrap();
        });

        let refused = f.registry.source(second.source_id).await;
        assert!(
            matches!(refused, Err(RegistryError::Storage(_))),
            "{refused:?}"
        );
    }

    async fn a_change_leaves_the_rest_and_is_seen_at_once(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let source_id = make(f, &acme).await.source_id;
        f.registry.source(source_id).await.unwrap();
        f.clock.advance(Duration::from_secs(5));
        let pause = SourceChange {
            paused: Some(true),
            ..SourceChange::default()
        };
        let rest = SourceChange {
            name: Some("staging".into()),
            secrets: Some(secrets(["whsec_bmV3"])),
            paused: None,
            unmatched: Some(Unmatched::Adopt),
        };

        f.registry
            .update_source(source_id, &acme, pause)
            .await
            .unwrap();
        let paused = f.registry.source(source_id).await.unwrap().unwrap();
        let changed = f
            .registry
            .update_source(source_id, &acme, rest)
            .await
            .unwrap()
            .unwrap();

        assert!(paused.paused);
        assert_eq!(
            (paused.name.as_str(), paused.unmatched),
            ("production", Unmatched::Quarantine)
        );
        assert_eq!(exposed(&paused), ["whsec_b25l", "whsec_dHdv"]);
        assert_eq!(paused.updated_at, f.clock.at());
        assert!(paused.created_at < paused.updated_at);
        assert!(changed.paused);
        assert_eq!(
            (changed.name.as_str(), changed.unmatched),
            ("staging", Unmatched::Adopt)
        );
        assert_eq!(exposed(&changed), ["whsec_bmV3"]);
    }

    async fn a_change_made_elsewhere_is_seen_soon(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let source_id = make(f, &acme).await.source_id;
        f.registry.source(source_id).await.unwrap();

        assert!(
            f.other_process()
                .delete_source(source_id, &acme)
                .await
                .unwrap()
        );

        assert!(f.registry.source(source_id).await.unwrap().is_some());
        assert!(
            f.registry
                .source_of(&acme, source_id)
                .await
                .unwrap()
                .is_none()
        );
        f.clock.advance(CACHE_TTL);
        assert!(f.registry.source(source_id).await.unwrap().is_none());
        assert!(!f.registry.delete_source(source_id, &acme).await.unwrap());
    }

    async fn a_tenant_does_not_see_the_sources_of_another(f: &Fixture) {
        let (acme, other) = (f.tenant("acme").await, f.tenant("other").await);
        let source_id = make(f, &acme).await.source_id;
        let change = SourceChange {
            paused: Some(true),
            ..SourceChange::default()
        };

        let updated = f
            .registry
            .update_source(source_id, &other, change)
            .await
            .unwrap();

        assert!(updated.is_none());
        assert!(!f.registry.delete_source(source_id, &other).await.unwrap());
        assert!(
            f.registry
                .source_of(&other, source_id)
                .await
                .unwrap()
                .is_none()
        );
        assert!(
            f.registry
                .sources(&other, None, 10)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(!f.registry.source(source_id).await.unwrap().unwrap().paused);
    }

    async fn sources_come_in_pages(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let mut made = Vec::new();
        for _ in 0..3 {
            made.push(make(f, &acme).await.source_id);
            f.clock.advance(Duration::from_micros(1));
        }

        let first = f.registry.sources(&acme, None, 2).await.unwrap();
        let rest = f
            .registry
            .sources(&acme, first.last().map(WebhookSource::cursor), 2)
            .await;

        let seen: Vec<_> = first
            .iter()
            .chain(&rest.unwrap())
            .map(|one| one.source_id)
            .collect();
        assert_eq!(seen, made);
    }
}
