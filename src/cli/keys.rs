//! `keys`: made, listed and revoked, beside a running server or without one.

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::output::{or_dash, time};
use super::{Done, Given, output};
use crate::domain::ids::TenantId;
use crate::ledger::registry::{ApiKey, KeyId, NewKey, Registry, Scope, Scopes};

/// Keys read at once.
const PAGE: i64 = 500;

/// Create, list and revoke API keys
#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Create a key and print its secret, alone on stdout
    ///
    /// The secret can't be shown again: only its hash is kept.
    #[command(after_help = "\
Examples:
  KEY=$(notification-ledger keys create --tenant acme)
  notification-ledger keys create --tenant acme --scope read --name 'support desk'
  notification-ledger keys create --operator --name 'on call'")]
    Create {
        #[command(flatten)]
        owner: Owner,
        /// What the key may do; several with commas or by repetition
        #[arg(
            long,
            value_name = "SCOPES",
            value_delimiter = ',',
            default_value = "read,write",
            conflicts_with = "operator",
            value_parser = PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)),
        )]
        scope: Vec<String>,
        /// For people
        #[arg(long, value_parser = super::name)]
        name: Option<String>,
        /// Answer in JSON, the secret included
        #[arg(long)]
        json: bool,
    },
    /// List keys, oldest first, revoked ones included
    #[command(after_help = "\
Example:
  notification-ledger keys list --tenant acme")]
    List {
        /// Only the keys of this tenant
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key for good
    ///
    /// A server that has just checked the key may accept it for a little longer (its setting
    /// `auth_cache_ttl_ms`, 5 seconds unless changed). Revoking it again changes nothing.
    #[command(after_help = "\
Example:
  notification-ledger keys revoke 019353f0-5f5c-7000-8000-5d4f2b7a9c11     an id from `keys list`")]
    Revoke {
        /// The key's id, not its secret
        #[arg(value_name = "KEY_ID")]
        id: KeyId,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

/// Whose key it is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Owner {
    /// A key of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<TenantId>,
    /// A key that works across tenants and may do everything
    #[arg(long)]
    operator: bool,
}

/// A new key, for a program.
#[derive(Debug, Serialize)]
struct Created<'a> {
    #[serde(flatten)]
    key: &'a ApiKey,
    secret: &'a str,
}

pub(super) async fn run(given: &Given, arguments: Arguments) -> anyhow::Result<Done> {
    let (database, registry) = given.registry().await?;
    match arguments {
        Arguments::Create {
            owner,
            scope,
            name,
            json,
        } => create(&registry, owner, &scope, name, json).await?,
        Arguments::List { tenant, json } => {
            let keys = all(&registry, tenant.as_ref()).await?;
            if json {
                output::json(&keys)?;
            } else {
                show(&keys)?;
            }
        }
        Arguments::Revoke { id, json } => {
            let Some(key) = registry.revoke(id, None).await? else {
                bail!("there is no key {id}; `notification-ledger keys list` shows all of them");
            };
            if json {
                output::json(&key)?;
            } else {
                output::line(format_args!(
                    "Revoked key {id} at {}.",
                    time(key.revoked_at)
                ))?;
            }
        }
    }
    database.close().await;
    Ok(Done::All)
}

async fn create(
    registry: &Registry,
    owner: Owner,
    scope: &[String],
    name: Option<String>,
    json: bool,
) -> anyhow::Result<()> {
    let scopes = if owner.operator {
        Scopes::ALL
    } else {
        Scopes::from_names(scope.iter().map(String::as_str))?
    };
    let new = NewKey {
        tenant_id: owner.tenant,
        name,
        scopes,
    };
    let (key, secret) = registry.create_key(new, None).await?;
    let secret = secret.expose_secret();
    let shown = if json {
        output::json(&Created { key: &key, secret })
    } else {
        output::line(secret)
    };
    shown.with_context(|| {
        format!(
            "key {} was made, but nobody knows its secret: revoke it",
            key.key_id
        )
    })?;
    if !json {
        let owner = match &key.tenant_id {
            Some(tenant_id) => format!("of tenant {tenant_id}"),
            None => "of an operator".to_owned(),
        };
        let id = key.key_id;
        eprintln!("Key {id} {owner}, for {scopes}. Its secret is shown this once.");
    }
    Ok(())
}

async fn all(registry: &Registry, tenant: Option<&TenantId>) -> anyhow::Result<Vec<ApiKey>> {
    let mut keys: Vec<ApiKey> = Vec::new();
    loop {
        let after = keys.last().map(ApiKey::cursor);
        let page = registry.keys(tenant, after, PAGE).await?;
        if page.is_empty() {
            return Ok(keys);
        }
        keys.extend(page);
    }
}

fn show(keys: &[ApiKey]) -> anyhow::Result<()> {
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            [
                key.key_id.to_string(),
                key.tenant_id
                    .as_ref()
                    .map_or("(operator)", TenantId::as_str)
                    .to_owned(),
                key.scopes.to_string(),
                time(Some(key.created_at)),
                time(key.last_used_at),
                time(key.revoked_at),
                or_dash(key.name.as_deref()),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "TENANT",
        "SCOPES",
        "CREATED",
        "LAST USED",
        "REVOKED",
        "NAME",
    ];
    output::table(headings, &rows)
}
