//! API keys: made, listed, revoked, and recognised.
//!
//! The secret is in the answer to whoever makes a key, and nowhere else: stored is its hash, and
//! by that a key is found.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::last_use::KnownKey;
use super::secret;
use super::{Cursor, KeyId, Registry, RegistryError, Scopes, damaged, missing_tenant};
use crate::domain::ids::{TenantId, check_name};
use crate::domain::time::Timestamp;
use crate::ledger::database::on_both;
use crate::ledger::record::Hash;
use crate::ledger::rows;
use crate::telemetry;

/// What may be known of a key. The secret is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    #[serde(rename = "id")]
    pub key_id: KeyId,
    /// `None` for an operator's key, which works across tenants.
    pub tenant_id: Option<TenantId>,
    pub name: Option<String>,
    pub scopes: Scopes,
    pub created_at: Timestamp,
    /// To within a minute or two.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// An operator's key names the tenant with each request.
    pub fn is_operator(&self) -> bool {
        self.tenant_id.is_none()
    }

    pub fn cursor(&self) -> Cursor {
        Cursor {
            at: self.created_at,
            id: self.key_id.0,
        }
    }
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// `None` for an operator's key.
    pub tenant_id: Option<TenantId>,
    pub name: Option<String>,
    pub scopes: Scopes,
}

// A macro and not a constant, so that whole statements can be put together at compile time.
macro_rules! key_columns {
    () => {
        "key_id, tenant_id, name, scopes, created_at, last_used_at, revoked_at"
    };
}

const ADD_KEY: &str = "
    INSERT INTO api_keys (key_id, tenant_id, name, scopes, secret_hash, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (secret_hash) DO NOTHING";

const KEY: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys
    WHERE key_id = $1"
);

const KEY_BY_SECRET: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys
    WHERE secret_hash = $1"
);

const ALL_KEYS: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys
    WHERE (created_at, key_id) > ($1, $2)
    ORDER BY created_at, key_id
    LIMIT $3"
);

const TENANT_KEYS: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys
    WHERE (created_at, key_id) > ($1, $2) AND tenant_id = $4
    ORDER BY created_at, key_id
    LIMIT $3"
);

// Nothing is left of a second revocation: the first one's time stands.
const REVOKE: &str = "
    UPDATE api_keys
    SET revoked_at = $2
    WHERE key_id = $1 AND revoked_at IS NULL";

// Revoked ones included: whoever revoked the last one did not ask for another.
const ANY_OPERATOR_KEY: &str = "
    SELECT key_id
    FROM api_keys
    WHERE tenant_id IS NULL
    LIMIT 1";

type Row = (
    Uuid,
    Option<String>,
    Option<String>,
    String,
    i64,
    Option<i64>,
    Option<i64>,
);

impl Registry {
    /// Makes a key. Its secret is in the answer and nowhere else.
    ///
    /// With `derived` bytes the secret follows from them instead of chance, and a second call
    /// with the same bytes gives the same secret and the key that stands, as it is by then.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoSuchTenant`], [`RegistryError::Name`], or
    /// [`RegistryError::AlreadyUsed`] when the same bytes made a different key.
    pub async fn create_key(
        &self,
        new: NewKey,
        derived: Option<&Zeroizing<[u8; 32]>>,
    ) -> Result<(ApiKey, SecretString), RegistryError> {
        new.name.as_deref().map(check_name).transpose()?;
        let is_operator = new.tenant_id.is_none();
        let secret = match derived {
            Some(bytes) => secret::written(is_operator, bytes),
            None => secret::written(is_operator, &secret::random()?),
        };
        let hash = secret::hash(secret.expose_secret());
        let key = ApiKey {
            key_id: KeyId(self.inner.surroundings.ids.time_ordered()),
            tenant_id: new.tenant_id,
            name: new.name,
            scopes: new.scopes,
            created_at: self.inner.surroundings.now(),
            last_used_at: None,
            revoked_at: None,
        };
        if self.add_key(&key, &hash).await? {
            return Ok((key, secret));
        }
        let standing = self
            .key_by_secret(&hash)
            .await?
            .ok_or(RegistryError::AlreadyUsed)?;
        let same = standing.tenant_id == key.tenant_id
            && standing.name == key.name
            && standing.scopes == key.scopes;
        if same {
            Ok((standing, secret))
        } else {
            Err(RegistryError::AlreadyUsed)
        }
    }

    async fn add_key(&self, key: &ApiKey, hash: &Hash) -> Result<bool, RegistryError> {
        let added = on_both!(&self.inner.database, pool => {
            sqlx::query(ADD_KEY)
                .bind(key.key_id.0)
                .bind(key.tenant_id.as_ref().map(TenantId::as_str))
                .bind(key.name.as_deref())
                .bind(key.scopes.to_string())
                .bind(hash.as_slice())
                .bind(key.created_at.as_micros())
                .execute(pool)
                .await
                .map_err(|error| missing_tenant(error, key.tenant_id.as_ref()))?
                .rows_affected()
        });
        // Somebody may have tried it a moment ago.
        self.inner.keys.forget(hash);
        Ok(added == 1)
    }

    /// Whose secret this is; `None` if nobody's, or a revoked key's. Notes that it was used.
    ///
    /// Remembered: a key revoked through another process may pass for a while.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Arc<ApiKey>>, RegistryError> {
        if !secret::has_its_form(secret) {
            return Ok(None);
        }
        let hash = secret::hash(secret);
        let mut remembered = true;
        let load = async {
            remembered = false;
            let key = self.key_by_secret(&hash).await?;
            Ok::<_, RegistryError>(
                key.filter(|key| key.revoked_at.is_none())
                    .map(KnownKey::new),
            )
        };
        let known = self.inner.keys.get(&hash, load).await?;
        self.inner
            .metrics
            .cache_lookup(telemetry::Cache::Auth, remembered);
        let Some(known) = known else {
            return Ok(None);
        };
        self.inner.uses.note(&known, self.inner.surroundings.now());
        Ok(Some(Arc::clone(known.key())))
    }

    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn key(&self, key_id: KeyId) -> Result<Option<ApiKey>, RegistryError> {
        let row: Option<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(KEY).bind(key_id.0).fetch_optional(pool).await?
        });
        row.map(key).transpose()
    }

    async fn key_by_secret(&self, hash: &Hash) -> Result<Option<ApiKey>, RegistryError> {
        let row: Option<Row> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(KEY_BY_SECRET).bind(hash.as_slice()).fetch_optional(pool).await?
        });
        row.map(key).transpose()
    }

    /// Up to `limit` keys after one, oldest first, revoked ones included: a tenant's, or with
    /// `None` all there are.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn keys(
        &self,
        tenant_id: Option<&TenantId>,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<ApiKey>, RegistryError> {
        let (at, id) = Cursor::bound(after);
        let rows: Vec<Row> = on_both!(&self.inner.database, pool => {
            let query = match tenant_id {
                None => sqlx::query_as(ALL_KEYS).bind(at).bind(id).bind(limit),
                Some(tenant_id) => sqlx::query_as(TENANT_KEYS)
                    .bind(at)
                    .bind(id)
                    .bind(limit)
                    .bind(tenant_id.as_str()),
            };
            query.fetch_all(pool).await?
        });
        rows.into_iter().map(key).collect()
    }

    /// Revokes a key for good; a second call gives the same answer. With a tenant, `None` for the
    /// keys of others.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn revoke(
        &self,
        key_id: KeyId,
        tenant_id: Option<&TenantId>,
    ) -> Result<Option<ApiKey>, RegistryError> {
        let found = self.key(key_id).await?;
        let theirs = |key: &ApiKey| tenant_id.is_none_or(|id| key.tenant_id.as_ref() == Some(id));
        if !found.as_ref().is_some_and(theirs) {
            return Ok(None);
        }
        let now = self.inner.surroundings.now().as_micros();
        let revoked = on_both!(&self.inner.database, pool => {
            sqlx::query(REVOKE).bind(key_id.0).bind(now).execute(pool).await.map(drop)
        });
        // Even after an error: it may have been stored all the same. And all of them, because
        // they are remembered by their secrets; it happens seldom.
        self.inner.keys.forget_known();
        revoked?;
        self.key(key_id).await
    }

    /// An operator's key was made at some time; whether it still works does not matter.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer.
    pub async fn operator_key_exists(&self) -> Result<bool, RegistryError> {
        let row: Option<(Uuid,)> = on_both!(&self.inner.database, pool => {
            sqlx::query_as(ANY_OPERATOR_KEY).fetch_optional(pool).await?
        });
        Ok(row.is_some())
    }
}

fn key(row: Row) -> Result<ApiKey, RegistryError> {
    let (key_id, tenant_id, name, scopes, created_at, last_used_at, revoked_at) = row;
    Ok(ApiKey {
        key_id: KeyId(key_id),
        tenant_id: tenant_id
            .map(|id: String| rows::tenant("api_keys", &id))
            .transpose()?,
        name,
        scopes: scopes.parse().map_err(|_| {
            damaged(
                "api_keys",
                format!("key {key_id} has the scopes `{scopes}`"),
            )
        })?,
        created_at: Timestamp::from_micros_clamped(created_at),
        last_used_at: last_used_at.map(Timestamp::from_micros_clamped),
        revoked_at: revoked_at.map(Timestamp::from_micros_clamped),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{CACHE_TTL, Fixture, id, on_both_databases};
    use super::*;

    on_both_databases!(
        a_key_is_recognised_by_its_secret_only,
        a_secret_is_not_in_the_database,
        the_same_derived_bytes_give_the_same_key,
        derived_bytes_make_no_second_different_key,
        a_key_needs_its_tenant,
        keys_come_in_pages_of_one_tenant_or_all,
        a_revoked_key_is_refused_at_once,
        a_key_revoked_elsewhere_is_refused_soon,
        a_second_revocation_changes_nothing,
        a_tenant_does_not_see_the_keys_of_another,
        an_operator_key_stays_known_when_revoked,
        a_use_is_noted_once_a_minute,
    );

    fn new(tenant_id: Option<&TenantId>) -> NewKey {
        NewKey {
            tenant_id: tenant_id.cloned(),
            name: None,
            scopes: Scopes::default(),
        }
    }

    async fn make(f: &Fixture, tenant_id: Option<&TenantId>) -> (ApiKey, SecretString) {
        f.registry.create_key(new(tenant_id), None).await.unwrap()
    }

    async fn recognised(registry: &Registry, secret: &SecretString) -> Option<KeyId> {
        let key = registry.authenticate(secret.expose_secret()).await.unwrap();
        key.map(|key| key.key_id)
    }

    #[test]
    fn a_key_is_shown_without_its_secret() {
        let key = ApiKey {
            key_id: KeyId(Uuid::from_u128(1)),
            tenant_id: Some(id("acme")),
            name: Some("ci".into()),
            scopes: Scopes::default(),
            created_at: Timestamp::MIN,
            last_used_at: None,
            revoked_at: None,
        };

        insta::assert_json_snapshot!(key, @r#"
        {
          "id": "00000000-0000-0000-0000-000000000001",
          "tenant_id": "acme",
          "name": "ci",
          "scopes": [
            "read",
            "write"
          ],
          "created_at": "1970-01-01T00:00:00.000000Z",
          "last_used_at": null,
          "revoked_at": null
        }
        "#);
    }

    async fn a_key_is_recognised_by_its_secret_only(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let (key, secret) = make(f, Some(&acme)).await;
        let (operator, operator_secret) = make(f, None).await;

        assert_eq!(recognised(&f.registry, &secret).await, Some(key.key_id));
        assert_eq!(
            recognised(&f.registry, &operator_secret).await,
            Some(operator.key_id)
        );
        assert!(operator.is_operator() && !key.is_operator());
        let text = secret.expose_secret();
        let other = format!(
            "{}{}",
            &text[..45],
            if text.ends_with('A') { 'B' } else { 'A' }
        );
        let rest = text.strip_prefix("nl_").unwrap();
        for wrong in [
            other,
            format!("nlop_{rest}"),
            text[..45].to_owned(),
            String::new(),
        ] {
            assert_eq!(
                f.registry.authenticate(&wrong).await.unwrap(),
                None,
                "{wrong}"
            );
        }
        assert_eq!(f.registry.key(key.key_id).await.unwrap(), Some(key));
    }

    async fn a_secret_is_not_in_the_database(f: &Fixture) {
        let (_, secret) = make(f, None).await;

        let stored: Vec<u8> = on_both!(&f.database, pool => {
            sqlx::query_scalar("SELECT secret_hash FROM api_keys").fetch_one(pool).await.unwrap()
        });

        assert_eq!(stored, secret::hash(secret.expose_secret()));
        assert!(!format!("{secret:?}").contains("nlop_"));
    }

    async fn the_same_derived_bytes_give_the_same_key(f: &Fixture) {
        let acme = f.tenant("acme").await;
        let bytes = Zeroizing::new([9; 32]);
        let (first, first_secret) = f
            .registry
            .create_key(new(Some(&acme)), Some(&bytes))
            .await
            .unwrap();
        f.clock.advance(Duration::from_secs(5));

        let (again, again_secret) = f
            .other_process()
            .create_key(new(Some(&acme)), Some(&bytes))
            .await
            .unwrap();

        assert_eq!(again, first);
        assert_eq!(again_secret.expose_secret(), first_secret.expose_secret());
        assert_eq!(f.registry.keys(None, None, 10).await.unwrap(), [first]);
    }

    async fn derived_bytes_make_no_second_different_key(f: &Fixture) {
        let (acme, other) = (f.tenant("acme").await, f.tenant("other").await);
        let bytes = Zeroizing::new([9; 32]);
        f.registry
            .create_key(new(Some(&acme)), Some(&bytes))
            .await
            .unwrap();

        let other = new(Some(&other));
        let admin = NewKey {
            scopes: Scopes::ALL,
            ..new(Some(&acme))
        };
        let named = NewKey {
            name: Some("ci".into()),
            ..new(Some(&acme))
        };

        for different in [other, admin, named] {
            let refused = f.registry.create_key(different, Some(&bytes)).await;
            assert!(
                matches!(refused, Err(RegistryError::AlreadyUsed)),
                "{refused:?}"
            );
        }
    }

    async fn a_key_needs_its_tenant(f: &Fixture) {
        let refused = f.registry.create_key(new(Some(&id("nobody"))), None).await;

        assert!(
            matches!(&refused, Err(RegistryError::NoSuchTenant { tenant_id }) if *tenant_id == id("nobody")),
            "{refused:?}"
        );
        let unnamed = NewKey {
            name: Some(String::new()),
            ..new(None)
        };
        let refused = f.registry.create_key(unnamed, None).await;
        assert!(
            matches!(refused, Err(RegistryError::Name(_))),
            "{refused:?}"
        );
    }

    async fn keys_come_in_pages_of_one_tenant_or_all(f: &Fixture) {
        let (acme, other) = (f.tenant("acme").await, f.tenant("other").await);
        let mut made = Vec::new();
        for (index, tenant_id) in [Some(&acme), None, Some(&other), Some(&acme), Some(&acme)]
            .into_iter()
            .enumerate()
        {
            made.push(make(f, tenant_id).await.0);
            // The first ones at the same microsecond, told apart by their ids.
            f.clock.advance(Duration::from_secs(index as u64 / 2));
        }

        let pages = async |tenant_id: Option<&TenantId>| {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = f.registry.keys(tenant_id, after, 2).await.unwrap();
                let Some(last) = page.last() else { return seen };
                after = Some(last.cursor());
                seen.extend(page);
            }
        };

        let mut all = made.clone();
        all.sort_by_key(|key| (key.created_at, key.key_id));
        assert_eq!(pages(None).await, all);
        all.retain(|key| key.tenant_id.as_ref() == Some(&acme));
        assert_eq!(pages(Some(&acme)).await, all);
        assert_eq!(pages(Some(&id("nobody"))).await, []);
    }

    async fn a_revoked_key_is_refused_at_once(f: &Fixture) {
        let (key, secret) = make(f, None).await;
        assert!(recognised(&f.registry, &secret).await.is_some());

        f.registry.revoke(key.key_id, None).await.unwrap();

        assert_eq!(recognised(&f.registry, &secret).await, None);
    }

    async fn a_key_revoked_elsewhere_is_refused_soon(f: &Fixture) {
        let (key, secret) = make(f, None).await;
        assert!(recognised(&f.registry, &secret).await.is_some());
        f.other_process().revoke(key.key_id, None).await.unwrap();

        assert!(recognised(&f.registry, &secret).await.is_some());
        f.clock.advance(CACHE_TTL);
        assert_eq!(recognised(&f.registry, &secret).await, None);
    }

    async fn a_second_revocation_changes_nothing(f: &Fixture) {
        let (key, _) = make(f, None).await;
        let first = f.registry.revoke(key.key_id, None).await.unwrap().unwrap();
        assert_eq!(first.revoked_at, Some(f.clock.at()));
        f.clock.advance(Duration::from_secs(5));

        let second = f.registry.revoke(key.key_id, None).await.unwrap();

        assert_eq!(second, Some(first));
        let nobody = KeyId(Uuid::from_u128(1));
        assert_eq!(f.registry.revoke(nobody, None).await.unwrap(), None);
    }

    async fn a_tenant_does_not_see_the_keys_of_another(f: &Fixture) {
        let (acme, other) = (f.tenant("acme").await, f.tenant("other").await);
        let (key, secret) = make(f, Some(&acme)).await;
        let (operator, operator_secret) = make(f, None).await;

        assert_eq!(
            f.registry.revoke(key.key_id, Some(&other)).await.unwrap(),
            None
        );
        assert_eq!(
            f.registry
                .revoke(operator.key_id, Some(&other))
                .await
                .unwrap(),
            None
        );

        assert!(recognised(&f.registry, &secret).await.is_some());
        assert!(recognised(&f.registry, &operator_secret).await.is_some());
        assert!(
            f.registry
                .revoke(key.key_id, Some(&acme))
                .await
                .unwrap()
                .is_some()
        );
    }

    async fn an_operator_key_stays_known_when_revoked(f: &Fixture) {
        let acme = f.tenant("acme").await;
        make(f, Some(&acme)).await;
        assert!(!f.registry.operator_key_exists().await.unwrap());

        let (operator, _) = make(f, None).await;
        f.registry.revoke(operator.key_id, None).await.unwrap();

        assert!(f.registry.operator_key_exists().await.unwrap());
    }

    async fn a_use_is_noted_once_a_minute(f: &Fixture) {
        let (key, secret) = make(f, None).await;
        let begin = f.clock.at();
        let last_used = async || {
            f.registry
                .key(key.key_id)
                .await
                .unwrap()
                .unwrap()
                .last_used_at
        };

        recognised(&f.registry, &secret).await;
        let used = f.registry.take_used();
        assert_eq!(used, [(key.key_id, begin)]);
        assert_eq!(last_used().await, None);
        f.registry.store_used(&used).await.unwrap();
        assert_eq!(last_used().await, Some(begin));

        // Also when what was remembered has run out, and in another process.
        for _ in 0..5 {
            f.clock.advance(Duration::from_secs(11));
            recognised(&f.registry, &secret).await;
            let other = f.other_process();
            recognised(&other, &secret).await;
            assert_eq!(
                (f.registry.take_used(), other.take_used()),
                (vec![], vec![])
            );
        }
        f.clock.advance(Duration::from_secs(5));
        recognised(&f.registry, &secret).await;
        assert_eq!(f.registry.take_used(), [(key.key_id, f.clock.at())]);

        // Whoever stores late does not set it back.
        f.registry
            .store_used(&[(key.key_id, f.clock.at())])
            .await
            .unwrap();
        f.registry.store_used(&used).await.unwrap();
        assert_eq!(last_used().await, Some(f.clock.at()));
    }
}
