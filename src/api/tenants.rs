//! Tenants: created by operators, and never changed.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::answers::{self, Answer, Turn};
use super::content::read_json;
use super::filters::{Filters, NoParameters};
use super::notifications::json_response;
use super::page::{List, Page, PageParameters, PageWanted, UNFILTERED};
use super::request::{Caller, Id, OPERATOR, idempotency};
use super::schema::CreateTenant;
use super::state::ApiState;
use crate::domain::ids::TenantId;
use crate::domain::time::Timestamp;
use crate::json::{self, Faults, Fields};
use crate::ledger::registry::{RegistryError, Tenant};
use crate::problem::Problem;

const PATH: &str = "/v1/tenants";
const NO_SUCH_TENANT: Problem = Problem::NotFound("there is no such tenant");

/// One tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantView {
    #[schema(example = "acme")]
    pub id: String,
    #[schema(required)]
    pub name: Option<String>,
    /// The slice of the ledger it lives in, for good.
    pub partition: i16,
    pub created_at: Timestamp,
}

impl From<Tenant> for TenantView {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.tenant_id.to_string(),
            name: tenant.name,
            partition: tenant.partition.0,
            created_at: tenant.created_at,
        }
    }
}

/// Create a tenant
///
/// Needs an operator key. The partition follows from the id unless it is given; it can't be
/// changed later.
#[utoipa::path(
    post,
    path = "/v1/tenants",
    tag = "Administration",
    operation_id = "create_tenant",
    request_body = CreateTenant,
    responses(
        (status = 201, description = "The tenant.", body = TenantView, headers(
            ("Location" = String, description = "Where the tenant can be read."),
            ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
        )),
    ),
)]
pub async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    let body = read_json(&headers, body, &state.limits).await?;
    let wanted = read(&state, &body)?;
    let account = caller.account()?;
    let Some(key) = idempotency(&headers, "POST", PATH, &body)? else {
        return Ok(answer(wanted.create(&state).await?)?.response(false));
    };
    match answers::claim(&state, &account, &key).await? {
        Turn::Answered(response) => Ok(response),
        Turn::Claimed { since, .. } => {
            let tenant = wanted.create_once(&state, since).await?;
            answers::keep(&state, &account, &key, answer(tenant)?).await
        }
    }
}

fn answer(tenant: Tenant) -> Result<Answer, Problem> {
    let location = format!("{PATH}/{}", tenant.tenant_id);
    Ok(Answer::new(StatusCode::CREATED, &TenantView::from(tenant))?.with_location(location))
}

/// A tenant somebody wants.
struct Wanted {
    tenant_id: TenantId,
    name: Option<String>,
    partition: Option<i16>,
}

impl Wanted {
    async fn create(&self, state: &ApiState) -> Result<Tenant, RegistryError> {
        let name = self.name.as_deref();
        state
            .registry
            .create_tenant(&self.tenant_id, name, self.partition)
            .await
    }

    /// Creates it, or finds what an earlier call under the same key made before it was
    /// interrupted: such a tenant is younger than the claim.
    async fn create_once(&self, state: &ApiState, since: Timestamp) -> Result<Tenant, Problem> {
        let refused = match self.create(state).await {
            Err(refused @ RegistryError::TenantExists { .. }) => refused,
            created => return Ok(created?),
        };
        let standing = state.registry.tenant(&self.tenant_id).await?;
        standing
            .filter(|standing| {
                standing.created_at > since
                    && standing.name == self.name
                    && self
                        .partition
                        .is_none_or(|partition| standing.partition.0 == partition)
            })
            .ok_or_else(|| refused.into())
    }
}

fn read(state: &ApiState, body: &[u8]) -> Result<Wanted, Problem> {
    let mut faults = Faults::default();
    let wanted = Fields::of(json::document(body)?, "", &mut faults).and_then(|mut fields| {
        let tenant_id: Option<TenantId> = fields.required("id", &mut faults, Fields::parsed);
        if tenant_id.as_ref().is_some_and(|id| id.as_str() == OPERATOR) {
            faults.add("/id", "is a name the ledger itself uses; choose another");
        }
        let name = fields.name("name", &mut faults);
        let partition: Option<i16> = fields.value("partition", "a whole number", &mut faults);
        let last = state.ledger_row.partitions - 1;
        if partition.is_some_and(|partition| !(0..=last).contains(&partition)) {
            faults.add("/partition", format!("must be from 0 to {last}"));
        }
        fields.finish(&mut faults);
        Some(Wanted {
            tenant_id: tenant_id?,
            name,
            partition,
        })
    });
    Ok(faults.or(wanted)?)
}

/// List tenants
///
/// All of them with an operator key, in the order of their ids; with a tenant's key its own.
#[utoipa::path(
    get,
    path = "/v1/tenants",
    tag = "Administration",
    operation_id = "list_tenants",
    params(PageParameters),
    responses((status = 200, description = "A page of tenants.", body = Page<TenantView>)),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    query: Filters,
) -> Result<Response, Problem> {
    let own = caller.key.tenant_id.as_ref();
    let list = List {
        name: "tenants",
        owner: own.map_or("", TenantId::as_str),
        filters: UNFILTERED,
    };
    let PageWanted { limit, after } = list.wanted::<TenantId>(&state.master, query)?;
    let tenants = match own {
        None => state.registry.tenants(after.as_ref(), limit + 1).await?,
        // One of one: there is no second page.
        Some(own) => state.registry.tenant(own).await?.into_iter().collect(),
    };
    let cursor = |tenant: &Tenant| list.cursor(&state.master, &tenant.tenant_id);
    json_response(&Page::of(tenants, limit, cursor, TenantView::from))
}

/// Show a tenant
///
/// Any of them with an operator key; with a tenant's key its own.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}",
    tag = "Administration",
    operation_id = "get_tenant",
    params(("id" = String, Path, description = "The tenant's id.", example = "acme")),
    responses((status = 200, description = "The tenant.", body = TenantView)),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(tenant_id): Id<TenantId>,
    _: NoParameters,
) -> Result<Response, Problem> {
    if caller
        .key
        .tenant_id
        .as_ref()
        .is_some_and(|own| *own != tenant_id)
    {
        return Err(NO_SUCH_TENANT);
    }
    let tenant = state.registry.tenant(&tenant_id).await?;
    json_response(&TenantView::from(tenant.ok_or(NO_SUCH_TENANT)?))
}
