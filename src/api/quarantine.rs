//! Webhooks nobody understood, or had a place for: look at them, let them be recorded after all,
//! or delete them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answers::{Answer, once};
use super::content::read_json_if_any;
use super::filters::{Filters, NoParameters};
use super::notifications::json_response;
use super::page::{List, Page, PageParameters, PageWanted, UNFILTERED};
use super::request::{Caller, Id, idempotency};
use super::sources::unmatched;
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::json::{self, Faults, Fields};
use crate::ledger::record::{Provenance, Source, TenantPlace};
use crate::ledger::registry::{EntryId, QuarantineEntry, Scope, SourceId, Unmatched};
use crate::problem::{Problem, internal};
use crate::webhooks::quarantine::open;
use crate::webhooks::record::{Delivery, Outcome, Placed, Recorded, place};

const NO_SUCH_ENTRY: Problem = Problem::NotFound("there is no such webhook in quarantine");

/// A page ends early when its bodies come to this many bytes: 200 of the largest would not fit
/// anybody's memory.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries read in one statement, for the same reason.
const ENTRIES_PER_READ: i64 = 10;

/// One webhook in quarantine.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryView {
    pub id: Uuid,
    pub source_id: Uuid,
    /// The transport's own id of the delivery.
    #[schema(example = "novu:msg_2sample00000000000000000001")]
    pub delivery_id: String,
    /// Why it could not be recorded.
    pub reason: String,
    pub received_at: Timestamp,
    /// How `body` is to be read.
    #[schema(required)]
    pub body_encoding: Option<BodyEncoding>,
    /// As it came; `null` once the subscriber it named was erased.
    #[schema(value_type = Option<Value>, required)]
    pub body: Option<Box<RawValue>>,
    /// The body is gone for good.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
}

/// How a body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BodyEncoding {
    /// It is JSON, and stands there as it came.
    Json,
    /// It is text, but not JSON.
    Text,
    /// It is no text.
    Base64,
}

/// `POST /v1/webhook-quarantine/{id}/retry`. May be left out.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"unmatched": "adopt"})))]
#[expect(dead_code, reason = "only its schema is used: bodies are read by hand")]
pub struct Retry {
    /// Stands in for the source's own policy, for this once.
    unmatched: Option<Unmatched>,
}

/// List webhooks in quarantine
///
/// In the order of arrival. A page may end before its limit when the bodies are large.
#[utoipa::path(
    get,
    path = "/v1/webhook-quarantine",
    tag = "Webhooks",
    operation_id = "list_quarantined_webhooks",
    params(PageParameters),
    responses((status = 200, description = "A page of webhooks.", body = Page<EntryView>)),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    query: Filters,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let list = List {
        name: "webhook-quarantine",
        owner: tenant.tenant_id.as_str(),
        filters: UNFILTERED,
    };
    let wanted = list.wanted(&state.master, query)?;
    let (data, end) = page(&state, tenant, wanted).await?;
    let next_cursor = end.map(|end| list.cursor(&state.master, &end.cursor()));
    json_response(&Page { data, next_cursor })
}

/// Show a webhook in quarantine
#[utoipa::path(
    get,
    path = "/v1/webhook-quarantine/{id}",
    tag = "Webhooks",
    operation_id = "get_quarantined_webhook",
    params(("id" = Uuid, Path, description = "The entry's id.")),
    responses((status = 200, description = "The webhook.", body = EntryView)),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(entry_id): Id<EntryId>,
    _: NoParameters,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let entry = state.registry.entry(tenant, entry_id).await?;
    let view = view(&state, tenant, &entry.ok_or(NO_SUCH_ENTRY)?).await?;
    json_response(&view)
}

/// Record a webhook in quarantine after all
///
/// As if it came in now, after a fix or when its notification is known by now, and answered as it
/// would be. It leaves quarantine when it was recorded; otherwise the outcome is `quarantined`
/// again. Needs the scope `write`.
#[utoipa::path(
    post,
    path = "/v1/webhook-quarantine/{id}/retry",
    tag = "Webhooks",
    operation_id = "retry_quarantined_webhook",
    params(("id" = Uuid, Path, description = "The entry's id.")),
    request_body = Retry,
    responses(
        (status = 200, description = "What became of it.", body = Recorded, headers(
            ("Ledger-Position" = String, description = "Where the fact's stream ends."),
            ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
        )),
    ),
)]
pub async fn retry(
    State(state): State<ApiState>,
    caller: Caller,
    Id(entry_id): Id<EntryId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Write)?;
    let body = read_json_if_any(&headers, body, &state.limits).await?;
    let unmatched = read_retry(&body)?;
    let path = format!("/v1/webhook-quarantine/{entry_id}/retry");
    let claim = idempotency(&headers, "POST", &path, &body)?;
    let mut recorded = None;
    let response = once(&state, tenant, claim, async {
        let again = record_again(&state, &caller, tenant, entry_id, unmatched).await?;
        let answer = Answer::new(StatusCode::OK, &again)?;
        let position = again.position.map(|position| position.to_string());
        recorded = Some(again);
        Ok(answer.with_position(position))
    })
    .await?;
    // Last of all: a call that breaks off before can be repeated, and finds a duplicate.
    if recorded.is_some_and(|recorded| recorded.outcome != Outcome::Quarantined) {
        state.registry.remove(tenant, entry_id).await?;
    }
    Ok(response)
}

/// Delete a webhook in quarantine
///
/// For good. Needs the scope `admin`.
#[utoipa::path(
    delete,
    path = "/v1/webhook-quarantine/{id}",
    tag = "Webhooks",
    operation_id = "delete_quarantined_webhook",
    params(("id" = Uuid, Path, description = "The entry's id.")),
    responses((status = 204, description = "It is gone.")),
)]
pub async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Id(entry_id): Id<EntryId>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Admin)?;
    if !state.registry.remove(tenant, entry_id).await? {
        return Err(NO_SUCH_ENTRY);
    }
    tracing::info!(webhook.entry_id = %entry_id, "a webhook in quarantine was deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The entries of a page, and the last of them if there are more.
async fn page(
    state: &ApiState,
    tenant: &TenantPlace,
    wanted: PageWanted,
) -> Result<(Vec<EntryView>, Option<QuarantineEntry>), Problem> {
    let limit = usize::try_from(wanted.limit).unwrap_or_default();
    let mut data = Vec::new();
    let mut last: Option<QuarantineEntry> = None;
    let mut bytes = 0;
    loop {
        let after = last.as_ref().map(QuarantineEntry::cursor).or(wanted.after);
        let entries = state
            .registry
            .entries(tenant, after, ENTRIES_PER_READ)
            .await?;
        if entries.is_empty() {
            return Ok((data, None));
        }
        for entry in entries {
            if data.len() == limit || bytes >= PAGE_BYTES_MAX {
                return Ok((data, last));
            }
            let view = view(state, tenant, &entry).await?;
            bytes += view.body.as_ref().map_or(0, |body| body.get().len());
            data.push(view);
            last = Some(entry);
        }
    }
}

async fn view(
    state: &ApiState,
    tenant: &TenantPlace,
    entry: &QuarantineEntry,
) -> Result<EntryView, Problem> {
    let opened = open(state, tenant, entry).await?;
    let shown = opened.as_deref().map(|body| shown(body)).transpose()?;
    let (body_encoding, body) = shown.unzip();
    Ok(EntryView {
        id: entry.entry_id.0,
        source_id: entry.source_id.0,
        delivery_id: entry.delivery_id.clone(),
        reason: entry.reason.clone(),
        received_at: entry.received_at,
        erased: body.is_none(),
        body_encoding,
        body,
    })
}

fn shown(body: &[u8]) -> Result<(BodyEncoding, Box<RawValue>), Problem> {
    if let Ok(document) = json::document(body) {
        return Ok((BodyEncoding::Json, document.to_owned()));
    }
    let (encoding, text) = if let Ok(text) = std::str::from_utf8(body) {
        (BodyEncoding::Text, serde_json::value::to_raw_value(text))
    } else {
        let encoded = STANDARD.encode(body);
        let text = serde_json::value::to_raw_value(&encoded);
        (BodyEncoding::Base64, text)
    };
    Ok((encoding, text.map_err(|error| internal(&error))?))
}

/// What is to become of the webhook if nobody knows its message, if the caller says.
fn read_retry(body: &[u8]) -> Result<Option<Unmatched>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut faults = Faults::default();
    let said = Fields::of_body(body, &mut faults)?.map(|mut fields| {
        let said = unmatched(&mut fields, &mut faults);
        fields.finish(&mut faults);
        said
    });
    Ok(faults.or(said)?)
}

async fn record_again(
    state: &ApiState,
    caller: &Caller,
    tenant: &TenantPlace,
    entry_id: EntryId,
    unmatched: Option<Unmatched>,
) -> Result<Recorded, Problem> {
    let entry = state.registry.entry(tenant, entry_id).await?;
    let entry = entry.ok_or(NO_SUCH_ENTRY)?;
    let body = open(state, tenant, &entry).await?.ok_or(Problem::NotFound(
        "the subscriber this webhook named was erased, so its body is gone; it can only be deleted",
    ))?;
    let unmatched = match unmatched {
        Some(unmatched) => unmatched,
        None => policy(state, tenant, entry.source_id).await?,
    };
    let delivery = Delivery {
        tenant: tenant.clone(),
        source_id: entry.source_id,
        delivery_id: entry.delivery_id,
        received_at: entry.received_at,
        provenance: Arc::new(Provenance {
            source: Source::Novu,
            ..caller.provenance(None, None)
        }),
        unmatched,
    };
    match place(state, &delivery, &body).await? {
        Placed::Recorded(recorded) => Ok(recorded),
        Placed::Nowhere { reason, .. } => {
            tracing::info!(reason, "a webhook stays in quarantine");
            Ok(Recorded::nothing(Outcome::Quarantined))
        }
    }
}

/// What the source does now with messages nobody knows. One that was deleted has no wish left, so
/// nothing is begun in its name.
async fn policy(
    state: &ApiState,
    tenant: &TenantPlace,
    source_id: SourceId,
) -> Result<Unmatched, Problem> {
    let source = state
        .registry
        .source_of(&tenant.tenant_id, source_id)
        .await?;
    Ok(source.map_or(Unmatched::Quarantine, |source| source.unmatched))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> (BodyEncoding, String) {
        let (encoding, raw) = shown(body).unwrap();
        (encoding, raw.get().to_owned())
    }

    #[test]
    fn a_body_is_shown_as_what_it_is() {
        use BodyEncoding::{Base64, Json, Text};

        assert_eq!(
            read(br#" {"a": 1.50} "#),
            (Json, r#"{"a": 1.50}"#.to_owned())
        );
        assert_eq!(read(b"{\"a\""), (Text, r#""{\"a\"""#.to_owned()));
        assert_eq!(read(b""), (Text, "\"\"".to_owned()));
        assert_eq!(read(b"\xff"), (Base64, "\"/w==\"".to_owned()));
        let nested = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(read(nested.as_bytes()).0, Text);
    }
}
