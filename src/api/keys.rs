//! API keys: an operator makes them for everybody, a tenant's administrator for that tenant.
//!
//! Whoever administers a tenant's keys may give them any scope, also one the own key lacks: such
//! a key could be made in two steps anyway. No tenant's key ever makes an operator's.
//!
//! The secret is in the answer to whoever makes a key, and nowhere else. A repeated call gives it
//! again all the same: under an idempotency key it is derived from the master key, not drawn, so
//! the answer need not be kept.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use secrecy::ExposeSecret;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answers::{self, Answer, Turn};
use super::content::read_json;
use super::filters::{Filters, NoParameters};
use super::notifications::json_response;
use super::page::{List, Page, PageParameters, UNFILTERED};
use super::request::{Caller, Id, OPERATOR, idempotency};
use super::schema::CreateKey;
use super::state::ApiState;
use super::view::hex;
use crate::domain::ids::TenantId;
use crate::domain::time::Timestamp;
use crate::json::{self, Faults, Fields};
use crate::ledger::Idempotency;
use crate::ledger::record::TenantPlace;
use crate::ledger::registry::{ApiKey, KeyId, NewKey, Scope, Scopes};
use crate::problem::Problem;

const PATH: &str = "/v1/keys";
const NO_SUCH_KEY: Problem = Problem::NotFound("there is no such key");
/// Most entries of a list of scopes. There are fewer, but they may repeat.
const SCOPES_LISTED_MAX: usize = 16;

/// One key. The secret is not part of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    pub id: Uuid,
    /// `null` for an operator's key.
    #[schema(required)]
    pub tenant_id: Option<String>,
    #[schema(required)]
    pub name: Option<String>,
    #[schema(value_type = Vec<Scope>)]
    pub scopes: Vec<&'static str>,
    pub created_at: Timestamp,
    /// To within a minute or two.
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
    #[schema(required)]
    pub revoked_at: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
struct NewKeyView<'a> {
    #[serde(flatten)]
    key: KeyView,
    /// What to send as `Authorization: Bearer <secret>`. It is shown here and never again.
    #[schema(example = "nl_2nNq0t8jHwQ0V0d0hY4n9bqkq3E7YkqPpVJm3xWm2aM")]
    secret: &'a str,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.key_id.0,
            tenant_id: key.tenant_id.map(|id| id.to_string()),
            name: key.name,
            scopes: key.scopes.iter().map(Scope::as_str).collect(),
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// Create an API key
///
/// An operator makes keys for any tenant, named in the body or by `X-Tenant-Id`, and further
/// operator keys. A tenant's key with the scope `admin` makes keys for its own tenant, with any
/// scopes. The secret is in this answer and nowhere else; under an `Idempotency-Key` a repeat gets
/// it again.
#[utoipa::path(
    post,
    path = "/v1/keys",
    tag = "Administration",
    operation_id = "create_key",
    request_body = CreateKey,
    responses(
        (status = 201, description = "The key, and its secret.", body = NewKeyView<'static>, headers(
            ("Location" = String, description = "Where the key can be read."),
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
    caller.require(&state, Scope::Admin)?;
    let body = read_json(&headers, body, &state.limits).await?;
    let new = wanted(&caller, read(&body)?)?;
    let account = caller.account()?;
    // An operator's header says for whom as well, so it is part of what is asked.
    let for_whom = new.tenant_id.as_ref().map_or(OPERATOR, TenantId::as_str);
    let asked = format!("{PATH}?for={for_whom}");
    let Some(claim) = idempotency(&headers, "POST", &asked, &body)? else {
        return make(&state, new, None, false).await;
    };
    match answers::claim(&state, &account, &claim).await? {
        Turn::Answered(response) => Ok(response),
        Turn::Claimed { earlier, .. } => {
            let derived = state.master.derive(&context(&account, &claim));
            make(&state, new, Some(&derived), earlier).await
        }
    }
}

/// From what the secret follows. The fingerprint has a fixed length and comes last, so no two
/// claims give the same text.
fn context(account: &TenantPlace, claim: &Idempotency) -> String {
    format!(
        "api-key/{}/{}/{}",
        account.tenant_id,
        claim.key,
        hex(&claim.fingerprint)
    )
}

async fn make(
    state: &ApiState,
    new: NewKey,
    derived: Option<&Zeroizing<[u8; 32]>>,
    replayed: bool,
) -> Result<Response, Problem> {
    let (key, secret) = state.registry.create_key(new, derived).await?;
    tracing::info!(key.id = %key.key_id, "an API key was created");
    let location = format!("{PATH}/{}", key.key_id);
    // The first answer again: what has happened to the key since is not part of it.
    let first = ApiKey {
        last_used_at: None,
        revoked_at: None,
        ..key
    };
    let view = NewKeyView {
        key: first.into(),
        secret: secret.expose_secret(),
    };
    let answer = Answer::new(StatusCode::CREATED, &view)?.with_location(location);
    let mut response = answer.response(replayed);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// What a body asks for.
struct Asked {
    tenant_id: Option<TenantId>,
    name: Option<String>,
    scopes: Option<Scopes>,
    is_operator: bool,
}

fn read(body: &[u8]) -> Result<Asked, Problem> {
    let mut faults = Faults::default();
    let asked = Fields::of(json::document(body)?, "", &mut faults).map(|mut fields| {
        let asked = Asked {
            tenant_id: fields.parsed("tenant_id", &mut faults),
            name: fields.name("name", &mut faults),
            scopes: scopes(&mut fields, &mut faults),
            is_operator: fields.flag("operator", &mut faults).unwrap_or(false),
        };
        if asked.is_operator {
            for (name, given) in [
                ("tenant_id", asked.tenant_id.is_some()),
                ("scopes", asked.scopes.is_some()),
            ] {
                if given {
                    let message = "must be left out for an operator key: it may do everything, \
                                   for every tenant";
                    faults.add(fields.pointer(name), message);
                }
            }
        }
        fields.finish(&mut faults);
        asked
    });
    Ok(faults.or(asked)?)
}

fn scopes(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Scopes> {
    let names = fields.list("scopes", SCOPES_LISTED_MAX, faults)?;
    let at = fields.pointer("scopes");
    let mut known = true;
    for (index, name) in names.iter().enumerate() {
        if Scope::from_name(name).is_none() {
            let words = Scope::ALL.map(Scope::as_str).join(", ");
            faults.add(format!("{at}/{index}"), format!("must be one of: {words}"));
            known = false;
        }
    }
    if !known {
        return None;
    }
    let scopes = Scopes::from_names(names.iter().map(String::as_str));
    scopes
        .map_err(|error| faults.add(at, error.to_string()))
        .ok()
}

/// The key that the caller may make.
fn wanted(caller: &Caller, asked: Asked) -> Result<NewKey, Problem> {
    let own = caller.tenant_if_any().map(|tenant| &tenant.tenant_id);
    if !caller.is_operator() && asked.is_operator {
        return Err(Problem::Forbidden(
            "only an operator makes operator keys".to_owned(),
        ));
    }
    let tenant_id = match (asked.tenant_id, own) {
        (None, None) if asked.is_operator => None,
        (None, Some(_)) if asked.is_operator => {
            let message = "names a tenant, but an operator key belongs to none";
            return Err(Problem::invalid("X-Tenant-Id", message));
        }
        (Some(named), Some(own)) if named != *own => {
            return Err(if caller.is_operator() {
                Problem::invalid("/tenant_id", "is not the tenant that X-Tenant-Id names")
            } else {
                // Whether there is such a tenant makes no difference.
                Problem::Forbidden(
                    "this key administers the keys of its own tenant only".to_owned(),
                )
            });
        }
        (Some(named), _) => Some(named),
        (None, Some(own)) => Some(own.clone()),
        (None, None) => {
            let message = "is required, unless X-Tenant-Id names the tenant or `operator` is true";
            return Err(Problem::invalid("/tenant_id", message));
        }
    };
    let usual = if tenant_id.is_none() {
        Scopes::ALL
    } else {
        Scopes::default()
    };
    Ok(NewKey {
        tenant_id,
        name: asked.name,
        scopes: asked.scopes.unwrap_or(usual),
    })
}

/// List API keys
///
/// Oldest first, revoked ones included: all of them with an operator key, or those of the tenant
/// that `X-Tenant-Id` names; with a tenant's key those of its tenant. Needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/v1/keys",
    tag = "Administration",
    operation_id = "list_keys",
    params(PageParameters),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>)),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    query: Filters,
) -> Result<Response, Problem> {
    let tenant_id = caller.administers(&state)?.map(|tenant| &tenant.tenant_id);
    let list = List {
        name: "keys",
        owner: tenant_id.map_or("", TenantId::as_str),
        filters: UNFILTERED,
    };
    let wanted = list.wanted(&state.master, query)?;
    let keys = state
        .registry
        .keys(tenant_id, wanted.after, wanted.limit + 1)
        .await?;
    let cursor = |key: &ApiKey| list.cursor(&state.master, &key.cursor());
    json_response(&Page::of(keys, wanted.limit, cursor, KeyView::from))
}

/// Show an API key
///
/// Without its secret, which nobody knows any more. Needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/v1/keys/{id}",
    tag = "Administration",
    operation_id = "get_key",
    params(("id" = Uuid, Path, description = "The key's id, which is not its secret.")),
    responses((status = 200, description = "The key.", body = KeyView)),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(key_id): Id<KeyId>,
    _: NoParameters,
) -> Result<Response, Problem> {
    let tenant_id = caller.administers(&state)?.map(|tenant| &tenant.tenant_id);
    let key = state.registry.key(key_id).await?;
    let key = key.filter(|key| tenant_id.is_none() || key.tenant_id.as_ref() == tenant_id);
    json_response(&KeyView::from(key.ok_or(NO_SUCH_KEY)?))
}

/// Revoke an API key
///
/// For good, and at once in this process; others notice within the time they remember keys for
/// (5 s unless configured otherwise). The answer is the key with its `revoked_at`; a second call
/// gives the same answer. Needs the scope `admin`. A key may revoke itself.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    tag = "Administration",
    operation_id = "revoke_key",
    params(("id" = Uuid, Path, description = "The key's id, which is not its secret.")),
    responses((status = 200, description = "The key, revoked.", body = KeyView)),
)]
pub async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Id(key_id): Id<KeyId>,
) -> Result<Response, Problem> {
    let tenant_id = caller.administers(&state)?.map(|tenant| &tenant.tenant_id);
    let key = state
        .registry
        .revoke(key_id, tenant_id)
        .await?
        .ok_or(NO_SUCH_KEY)?;
    tracing::info!(key.id = %key_id, "an API key was revoked");
    json_response(&KeyView::from(key))
}
