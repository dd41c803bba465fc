//! Where webhooks come from: create, list, change and delete a tenant's webhook sources.
//!
//! Signing secrets go in and never come out again.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::answers::{Answer, once};
use super::content::read_json;
use super::filters::{Filters, NoParameters};
use super::notifications::json_response;
use super::page::{List, Page, PageParameters, UNFILTERED};
use super::request::{Caller, Id, idempotency};
use super::state::ApiState;
use crate::domain::ids::TenantId;
use crate::domain::time::Timestamp;
use crate::json::{Faults, Fields};
use crate::ledger::Idempotency;
use crate::ledger::record::TenantPlace;
use crate::ledger::registry::{
    NewSource, SIGNING_SECRETS_MAX, Scope, SourceChange, SourceId, Unmatched, WebhookSource,
};
use crate::problem::Problem;
use crate::webhooks;
use crate::webhooks::novu::signature::SigningSecret;
use crate::webhooks::record::PROVIDER;

const PATH: &str = "/v1/webhook-sources";
const NO_SUCH_SOURCE: Problem = Problem::NotFound("there is no such webhook source");
/// Namespace of sources that are created under an idempotency key.
const REPEATABLE: Uuid = Uuid::from_u128(0x7d24_81b6_0e3c_4f6d_a1c9_52e8_37fb_4a01);
/// What a change may name.
const CHANGEABLE: &str = "name, secrets, paused, unmatched";

/// One webhook source. Its secrets are never shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceView {
    pub id: Uuid,
    /// Where the provider sends its webhooks.
    #[schema(
        example = "https://ledger.example/webhooks/novu/019353f0-5f5c-7000-8000-5d4f2b7a9c11"
    )]
    pub url: String,
    #[schema(example = "novu")]
    pub provider: String,
    pub name: String,
    pub unmatched: Unmatched,
    /// The provider is sent away to try again later, for as long as it will.
    pub paused: bool,
    /// How many secrets a webhook may be signed with.
    pub secret_count: usize,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl SourceView {
    fn of(state: &ApiState, source: WebhookSource) -> Self {
        Self {
            id: source.source_id.0,
            url: webhooks::address(state, source.source_id),
            provider: source.provider,
            name: source.name,
            unmatched: source.unmatched,
            paused: source.paused,
            secret_count: source.secrets.len(),
            created_at: source.created_at,
            updated_at: source.updated_at,
        }
    }
}

impl PartialSchema for Unmatched {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some([Self::Adopt, Self::Quarantine].map(Self::as_str)))
            .description(Some(
                "What becomes of a report about a message nobody knows: `adopt` begins a \
                 notification, `quarantine` keeps it for a person.",
            ))
            .into()
    }
}

impl ToSchema for Unmatched {}

/// `POST /v1/webhook-sources`
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "provider": "novu",
    "name": "production",
    "secrets": ["whsec_c2FtcGxlLXNpZ25pbmcta2V5LTMyLWJ5dGVzLWxvbmc="],
    "unmatched": "adopt"
})))]
#[expect(dead_code, reason = "only its schema is used: bodies are read by hand")]
pub struct CreateSource {
    #[schema(pattern = "^novu$")]
    provider: String,
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// What the provider signs with, as it shows them: `whsec_` and base64. A webhook may be
    /// signed with any of them.
    #[schema(min_items = 1, max_items = 5)]
    secrets: Vec<String>,
    /// `adopt` if left out.
    unmatched: Option<Unmatched>,
}

/// `PATCH /v1/webhook-sources/{id}`: at least one of these. What is left out stays.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "name": "production",
    "secrets": [
        "whsec_c2FtcGxlLXNpZ25pbmcta2V5LTMyLWJ5dGVzLWxvbmc=",
        "whsec_YW5vdGhlci1zaWduaW5nLWtleS0zMi1ieXRlcy1sbmc="
    ],
    "paused": false,
    "unmatched": "quarantine"
})))]
#[expect(dead_code, reason = "only its schema is used: bodies are read by hand")]
pub struct ChangeSource {
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    /// All of them: those left out are no longer good. To change a secret without losing a
    /// webhook, set the old and the new one, then the new one alone.
    #[schema(min_items = 1, max_items = 5)]
    secrets: Option<Vec<String>>,
    paused: Option<bool>,
    unmatched: Option<Unmatched>,
}

/// Create a webhook source
///
/// The answer says which address to give to the provider. Needs the scope `admin`.
#[utoipa::path(
    post,
    path = "/v1/webhook-sources",
    tag = "Webhooks",
    operation_id = "create_webhook_source",
    request_body = CreateSource,
    responses(
        (status = 201, description = "The source.", body = SourceView, headers(
            ("Location" = String, description = "Where the source can be read."),
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
    let tenant = caller.tenant(&state, Scope::Admin)?;
    let body = read_json(&headers, body, &state.limits).await?;
    let mut new = read_new(&tenant.tenant_id, &body)?;
    let claim = idempotency(&headers, "POST", PATH, &body)?;
    // A call that broke off before its answer was kept finds the source it made.
    new.source_id = claim.as_ref().map(|claim| repeatable_id(tenant, claim));
    once(&state, tenant, claim, async {
        let source = state.registry.create_source(new).await?;
        tracing::info!(webhook.source_id = %source.source_id, "a webhook source was created");
        let view = SourceView::of(&state, source);
        let location = format!("{PATH}/{}", view.id);
        Ok(Answer::new(StatusCode::CREATED, &view)?.with_location(location))
    })
    .await
}

/// List webhook sources
///
/// Oldest first.
#[utoipa::path(
    get,
    path = "/v1/webhook-sources",
    tag = "Webhooks",
    operation_id = "list_webhook_sources",
    params(PageParameters),
    responses((status = 200, description = "A page of sources.", body = Page<SourceView>)),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    query: Filters,
) -> Result<Response, Problem> {
    let tenant_id = &caller.tenant(&state, Scope::Read)?.tenant_id;
    let list = List {
        name: "webhook-sources",
        owner: tenant_id.as_str(),
        filters: UNFILTERED,
    };
    let wanted = list.wanted(&state.master, query)?;
    let sources = state
        .registry
        .sources(tenant_id, wanted.after, wanted.limit + 1)
        .await?;
    let cursor = |source: &WebhookSource| list.cursor(&state.master, &source.cursor());
    let show = |source| SourceView::of(&state, source);
    json_response(&Page::of(sources, wanted.limit, cursor, show))
}

/// Show a webhook source
#[utoipa::path(
    get,
    path = "/v1/webhook-sources/{id}",
    tag = "Webhooks",
    operation_id = "get_webhook_source",
    params(("id" = Uuid, Path, description = "The source's id.")),
    responses((status = 200, description = "The source.", body = SourceView)),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<SourceId>,
    _: NoParameters,
) -> Result<Response, Problem> {
    let tenant_id = &caller.tenant(&state, Scope::Read)?.tenant_id;
    let source = state.registry.source_of(tenant_id, id).await?;
    json_response(&SourceView::of(&state, source.ok_or(NO_SUCH_SOURCE)?))
}

/// Change a webhook source
///
/// Rotate its secrets, pause it, rename it, or choose what becomes of reports about messages
/// nobody knows. While it is paused its provider is answered 503 and tries again later, so nothing
/// is lost unless that takes longer than the provider tries. Other processes notice within the
/// time they remember sources for (5 s unless configured otherwise). Needs the scope `admin`.
#[utoipa::path(
    patch,
    path = "/v1/webhook-sources/{id}",
    tag = "Webhooks",
    operation_id = "change_webhook_source",
    params(("id" = Uuid, Path, description = "The source's id.")),
    request_body = ChangeSource,
    responses((status = 200, description = "The source, changed.", body = SourceView)),
)]
pub async fn change(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<SourceId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let tenant_id = &caller.tenant(&state, Scope::Admin)?.tenant_id;
    let body = read_json(&headers, body, &state.limits).await?;
    let change = read_change(&body)?;
    let source = state.registry.update_source(id, tenant_id, change).await?;
    let source = source.ok_or(NO_SUCH_SOURCE)?;
    tracing::info!(webhook.source_id = %id, "a webhook source was changed");
    json_response(&SourceView::of(&state, source))
}

/// Delete a webhook source
///
/// Its address stops being there. What it has in quarantine stays. Needs the scope `admin`.
#[utoipa::path(
    delete,
    path = "/v1/webhook-sources/{id}",
    tag = "Webhooks",
    operation_id = "delete_webhook_source",
    params(("id" = Uuid, Path, description = "The source's id.")),
    responses((status = 204, description = "It is gone.")),
)]
pub async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<SourceId>,
) -> Result<Response, Problem> {
    let tenant_id = &caller.tenant(&state, Scope::Admin)?.tenant_id;
    if !state.registry.delete_source(id, tenant_id).await? {
        return Err(NO_SUCH_SOURCE);
    }
    tracing::info!(webhook.source_id = %id, "a webhook source was deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn repeatable_id(tenant: &TenantPlace, claim: &Idempotency) -> SourceId {
    // A tenant's id has no line breaks, so no two pairs give the same name.
    let name = format!("{}\n{}", tenant.tenant_id, claim.key);
    SourceId(Uuid::new_v5(&REPEATABLE, name.as_bytes()))
}

fn read_new(tenant_id: &TenantId, body: &[u8]) -> Result<NewSource, Problem> {
    let mut faults = Faults::default();
    let new = Fields::of_body(body, &mut faults)?.and_then(|mut fields| {
        let provider = fields.required("provider", &mut faults, |fields, name, faults| {
            fields.word(
                name,
                &[PROVIDER],
                |word| (word == PROVIDER).then_some(PROVIDER),
                faults,
            )
        });
        let name = fields.required("name", &mut faults, Fields::name);
        let secrets = fields.required("secrets", &mut faults, secrets);
        let unmatched = unmatched(&mut fields, &mut faults);
        fields.finish(&mut faults);
        Some(NewSource {
            source_id: None,
            tenant_id: tenant_id.clone(),
            provider: provider?.to_owned(),
            name: name?,
            unmatched: unmatched.unwrap_or_default(),
            secrets: secrets?,
        })
    });
    Ok(faults.or(new)?)
}

fn read_change(body: &[u8]) -> Result<SourceChange, Problem> {
    // Nothing at all names nothing to change, like an empty object.
    let body = if body.is_empty() { b"{}" } else { body };
    let mut faults = Faults::default();
    let change = Fields::of_body(body, &mut faults)?.map(|mut fields| {
        let change = SourceChange {
            name: fields.name("name", &mut faults),
            secrets: secrets(&mut fields, "secrets", &mut faults),
            paused: fields.flag("paused", &mut faults),
            unmatched: unmatched(&mut fields, &mut faults),
        };
        fields.finish(&mut faults);
        let is_empty = change.name.is_none()
            && change.secrets.is_none()
            && change.paused.is_none()
            && change.unmatched.is_none();
        if is_empty && faults.is_empty() {
            faults.add(
                "",
                format!("nothing to change is named; what can be changed: {CHANGEABLE}"),
            );
        }
        change
    });
    Ok(faults.or(change)?)
}

/// What to do about messages nobody knows.
pub(super) fn unmatched(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Unmatched> {
    let words = [Unmatched::Adopt, Unmatched::Quarantine].map(Unmatched::as_str);
    fields.word("unmatched", &words, Unmatched::from_name, faults)
}

/// 1 to 5 signing secrets. A fault says which one is wrong, and never what it is.
fn secrets(
    fields: &mut Fields<'_>,
    name: &'static str,
    faults: &mut Faults,
) -> Option<Vec<SecretString>> {
    let at = fields.pointer(name);
    let raw: Vec<Box<RawValue>> = fields.value(name, "a list of texts", faults)?;
    if !(1..=SIGNING_SECRETS_MAX).contains(&raw.len()) {
        let count = raw.len();
        faults.add(
            at,
            format!("must hold 1 to {SIGNING_SECRETS_MAX} secrets, not {count}"),
        );
        return None;
    }
    let mut secrets = Vec::with_capacity(raw.len());
    for (index, value) in raw.iter().enumerate() {
        let Ok(text) = serde_json::from_str::<String>(value.get()) else {
            faults.add(format!("{at}/{index}"), "must be a text");
            continue;
        };
        match SigningSecret::parse(&text) {
            Ok(_) => secrets.push(SecretString::from(text)),
            Err(error) => faults.add(format!("{at}/{index}"), error.to_string()),
        }
    }
    Some(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers<T>(result: Result<T, Problem>) -> Vec<String> {
        let Err(Problem::Invalid(faults)) = result else {
            panic!("not refused by fault")
        };
        assert!(faults.iter().all(|fault| !fault.message.contains("hush")));
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn every_fault_of_a_new_source_is_named_at_once() {
        let acme = TenantId::new("acme").unwrap();
        let read = |body: &str| pointers(read_new(&acme, body.as_bytes()));

        assert_eq!(read("{}"), ["/provider", "/name", "/secrets"]);
        assert_eq!(
            read(
                r#"{"provider": "svix", "name": "", "secrets": ["whsec_b25l", "hush!", 7, "whsec_"],
                    "unmatched": "drop", "secret": 1}"#
            ),
            [
                "/provider",
                "/name",
                "/secrets/1",
                "/secrets/2",
                "/secrets/3",
                "/unmatched",
                "/secret"
            ]
        );
        let six = ["\"whsec_b25l\""; 6].join(",");
        for secrets in ["[]", &format!("[{six}]"), "\"whsec_b25l\"", "{}"] {
            let body = format!(r#"{{"provider": "novu", "name": "n", "secrets": {secrets}}}"#);
            assert_eq!(read(&body), ["/secrets"], "{secrets}");
        }
    }

    #[test]
    fn a_change_that_names_nothing_says_what_can_be_changed() {
        for body in ["", "{}", r#"{"name": null}"#] {
            let refused = read_change(body.as_bytes()).unwrap_err();
            assert!(refused.to_string().contains(CHANGEABLE), "{refused}");
        }
        assert_eq!(pointers(read_change(br#"{"id": "x"}"#)), ["/id"]);
        assert!(
            read_change(br#"{"paused": false}"#)
                .unwrap()
                .paused
                .is_some()
        );
    }
}
