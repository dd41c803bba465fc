//! What comes with every request: its id and trace, the caller, the body, the conditions.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt;
use ring::digest;

use super::state::ApiState;
use crate::domain::ids::{Sequence, TenantId};
use crate::ledger::Idempotency;
use crate::ledger::record::{Actor, ActorKind, Hash, Provenance, Source, TenantPlace};
use crate::ledger::registry::{ApiKey, Scope};
use crate::problem::Problem;
use crate::telemetry::{AuthFailure, TraceParent, traceparent_for_event};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Longest idempotency key.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// A request's id: the caller's own, or a new one.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// The trace a request is part of, as its `traceparent` header says.
#[derive(Clone, Debug, Default)]
pub struct IncomingTrace(pub Option<TraceParent>);

/// Who is calling: a valid key.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: Arc<ApiKey>,
    /// For a tenant's key, its tenant; for an operator's, the one named by `X-Tenant-Id`.
    tenant: Option<TenantPlace>,
    trace: Option<TraceParent>,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let secret = match bearer(&parts.headers) {
            Ok(secret) => secret,
            Err((failure, detail)) => {
                state.metrics.auth_failure(failure);
                return Err(Problem::Unauthenticated(detail));
            }
        };
        let Some(key) = state.registry.authenticate(secret).await? else {
            state.metrics.auth_failure(AuthFailure::Unknown);
            return Err(Problem::Unauthenticated(
                "the key is not valid: it is unknown or was revoked",
            ));
        };
        let tenant = tenant(state, &key, &parts.headers).await?;
        let trace = parts.extensions.get::<IncomingTrace>().and_then(|trace| trace.0);
        Ok(Self { key, tenant, trace })
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, (AuthFailure, &'static str)> {
    let value = headers.get(header::AUTHORIZATION).ok_or((
        AuthFailure::Missing,
        "send a key: `Authorization: Bearer <key>`",
    ))?;
    let malformed = (
        AuthFailure::Malformed,
        "the Authorization header must have the form `Bearer <key>`",
    );
    let (scheme, secret) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") && !secret.trim().is_empty() {
        Ok(secret.trim())
    } else {
        Err(malformed)
    }
}

async fn tenant(
    state: &ApiState,
    key: &ApiKey,
    headers: &HeaderMap,
) -> Result<Option<TenantPlace>, Problem> {
    let named = headers.get(TENANT_ID).map(|value| {
        let text = value.to_str().unwrap_or_default();
        TenantId::new(text).map_err(|error| Problem::invalid("X-Tenant-Id", error.to_string()))
    });
    let named = named.transpose()?;
    let tenant_id = match (&key.tenant_id, named) {
        (Some(own), Some(named)) if *own != named => {
            return Err(Problem::Forbidden(
                "this key belongs to one tenant, and X-Tenant-Id names another".to_owned(),
            ));
        }
        (Some(own), _) => own.clone(),
        (None, Some(named)) => named,
        (None, None) => return Ok(None),
    };
    let place = state.registry.place(&tenant_id).await?;
    place
        .map(Some)
        .ok_or(Problem::NotFound("there is no such tenant"))
}

impl Caller {
    /// The tenant to act for, if the key may.
    pub fn tenant(&self, state: &ApiState, scope: Scope) -> Result<&TenantPlace, Problem> {
        self.require(state, scope)?;
        self.tenant.as_ref().ok_or_else(|| {
            Problem::invalid("X-Tenant-Id", "is required with an operator key: it names the tenant")
        })
    }

    /// The tenant an operator named, or the key's own.
    pub fn tenant_if_any(&self) -> Option<&TenantPlace> {
        self.tenant.as_ref()
    }

    /// Refuses all but operators.
    pub fn operator(&self, state: &ApiState) -> Result<(), Problem> {
        if self.is_operator() {
            return Ok(());
        }
        state.metrics.auth_failure(AuthFailure::Forbidden);
        Err(Problem::Forbidden("this needs an operator key".to_owned()))
    }

    pub fn is_operator(&self) -> bool {
        self.key.tenant_id.is_none()
    }

    /// Refuses keys without the scope. Operators may do everything.
    pub fn require(&self, state: &ApiState, scope: Scope) -> Result<(), Problem> {
        if self.is_operator() || self.key.scopes.allows(scope) {
            return Ok(());
        }
        state.metrics.auth_failure(AuthFailure::Forbidden);
        Err(Problem::Forbidden(format!("this needs a key with the scope `{}`", scope.as_str())))
    }

    /// What the events of this request say about where they came from.
    pub fn provenance(&self, correlation_id: Option<&str>, causation_id: Option<&str>) -> Provenance {
        Provenance {
            actor: Actor {
                kind: ActorKind::Key,
                id: self.key.key_id.to_string().into(),
            },
            source: Source::Api,
            correlation_id: correlation_id.map(Into::into),
            causation_id: causation_id.map(Into::into),
            traceparent: traceparent_for_event(self.trace.as_ref()).map(Into::into),
        }
    }
}

/// What a body is expected to be.
pub const JSON: &str = "application/json";

/// The media type of a body, without its parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default();
    Some(essence.trim().to_ascii_lowercase())
}

/// Refuses a body that does not say it is JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if media_type(headers).is_some_and(|media| media == JSON) {
        Ok(())
    } else {
        Err(Problem::UnsupportedMediaType { expected: JSON })
    }
}

/// The whole body, within a size and without long pauses.
pub async fn read_body(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    pause_max: Duration,
) -> Result<Bytes, Problem> {
    let too_large = |size: String| Problem::TooLarge {
        what: "the body".to_owned(),
        size,
        limit: bytes_max,
        unit: "bytes",
    };
    // A caller who says how much is coming need not send it to be refused.
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<usize>().ok());
    if let Some(length) = announced.filter(|length| *length > bytes_max) {
        return Err(too_large(format!("{length} bytes")));
    }
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(pause_max, body.frame())
            .await
            .map_err(|_| Problem::RequestTimeout)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Problem::MalformedJson("the body ended before it was complete".to_owned())
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.as_ref().map_or(joined.len(), Bytes::len) + data.len();
        if length > bytes_max {
            return Err(too_large(format!("more than {bytes_max} bytes")));
        }
        // Most bodies come in one piece, and then nothing is copied.
        match whole.take() {
            None if joined.is_empty() => whole = Some(data),
            first => {
                joined.extend_from_slice(&first.unwrap_or_default());
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(whole.unwrap_or_else(|| joined.freeze()))
}

/// The caller's idempotency key, if any, bound to this request.
pub fn idempotency(
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    check_idempotency_key(text)
        .map_err(|message| Problem::invalid("Idempotency-Key", message))?;
    Ok(Some(Idempotency {
        key: format!("call:{text}"),
        fingerprint: fingerprint(&[method.as_bytes(), path.as_bytes(), body]),
    }))
}

/// 1 to 255 printable characters.
pub fn check_idempotency_key(text: &str) -> Result<(), String> {
    let printable = text.chars().all(|c| !c.is_control());
    let chars = text.chars().count();
    if chars >= 1 && chars <= IDEMPOTENCY_KEY_CHARS_MAX && printable {
        Ok(())
    } else {
        Err(format!(
            "must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters"
        ))
    }
}

/// SHA-256 over parts, each with its length, so that they can't run into each other.
pub fn fingerprint(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// `If-Match: "<version>"`, if given.
pub fn if_match(headers: &HeaderMap) -> Result<Option<Sequence>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.trim_matches('"').parse::<u32>().map_err(|_| {
        Problem::invalid("If-Match", "must be a version in quotes, such as `\"3\"`")
    })?;
    Ok(Some(Sequence(version.into())))
}
