//! `tenants`: made and listed, beside a running server or without one.

use super::output::{or_dash, time};
use super::{Done, Given, output};
use crate::domain::ids::TenantId;
use crate::ledger::registry::{Registry, Tenant};

/// Tenants read at once.
const PAGE: i64 = 500;

/// Create and list tenants
#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Create a tenant
    ///
    /// It lives in one partition for ever: the one that follows from its id, unless you choose.
    #[command(after_help = "\
Examples:
  notification-ledger tenants create acme --name 'Acme Inc.'
  notification-ledger tenants create busy --partition 7     a partition it need not share")]
    Create {
        /// 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
        id: TenantId,
        /// For people
        #[arg(long, value_parser = super::name)]
        name: Option<String>,
        /// The partition to live in, from 0 on
        #[arg(long, value_name = "N")]
        partition: Option<i16>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// List all tenants
    #[command(after_help = "\
Example:
  notification-ledger tenants list --json | jq -r '.[].id'")]
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(given: &Given, arguments: Arguments) -> anyhow::Result<Done> {
    let (database, registry) = given.registry().await?;
    match arguments {
        Arguments::Create {
            id,
            name,
            partition,
            json,
        } => {
            let tenant = registry
                .create_tenant(&id, name.as_deref(), partition)
                .await?;
            if json {
                output::json(&tenant)?;
            } else {
                output::line(format_args!(
                    "Created tenant {id} in partition {}.",
                    tenant.partition
                ))?;
                eprintln!("Make a key for it: notification-ledger keys create --tenant {id}");
            }
        }
        Arguments::List { json } => {
            let tenants = all(&registry).await?;
            if json {
                output::json(&tenants)?;
            } else {
                show(&tenants)?;
            }
        }
    }
    database.close().await;
    Ok(Done::All)
}

async fn all(registry: &Registry) -> anyhow::Result<Vec<Tenant>> {
    let mut tenants: Vec<Tenant> = Vec::new();
    loop {
        let after = tenants.last().map(|tenant| &tenant.tenant_id);
        let page = registry.tenants(after, PAGE).await?;
        if page.is_empty() {
            return Ok(tenants);
        }
        tenants.extend(page);
    }
}

fn show(tenants: &[Tenant]) -> anyhow::Result<()> {
    let rows: Vec<_> = tenants
        .iter()
        .map(|tenant| {
            [
                tenant.tenant_id.to_string(),
                tenant.partition.to_string(),
                time(Some(tenant.created_at)),
                or_dash(tenant.name.as_deref()),
            ]
        })
        .collect();
    output::table(["ID", "PARTITION", "CREATED", "NAME"], &rows)
}
