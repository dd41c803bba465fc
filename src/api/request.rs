//! What comes with every request: its id and trace, the caller, what it is about, the conditions.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::digest;
use uuid::Uuid;

pub use super::content::{JSON, media_type, read_body, require_json};
use super::state::ApiState;
use crate::domain::ids::{Sequence, TenantId};
use crate::domain::time::{Timestamp, TimestampError};
use crate::ledger::Idempotency;
use crate::ledger::record::{Actor, ActorKind, Hash, Partition, Provenance, Source, TenantPlace};
use crate::ledger::registry::{ApiKey, Scope};
use crate::problem::{Problem, internal};
use crate::telemetry::{AuthFailure, TraceParent, traceparent_for_event};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Name under which operators' idempotency keys are kept, so no tenant may have it.
pub const OPERATOR: &str = "operator";

/// Longest idempotency key.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// A request's id: the caller's own, or a new one.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

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
        let trace = parts
            .extensions
            .get::<IncomingTrace>()
            .and_then(|trace| trace.0);
        let caller = Self::of(state, &parts.headers).await?;
        Ok(Self { trace, ..caller })
    }
}

/// Of a request's headers, those that say who is calling.
pub fn credentials(headers: &HeaderMap) -> HeaderMap {
    let names = [header::AUTHORIZATION, TENANT_ID];
    let found = names
        .into_iter()
        .filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)));
    found
        .map(|(name, mut value)| {
            value.set_sensitive(true);
            (name, value)
        })
        .collect()
}

impl Caller {
    /// Who is calling, by their [`credentials`].
    ///
    /// # Errors
    ///
    /// [`Problem::Unauthenticated`], or what else keeps the caller out.
    pub async fn of(state: &ApiState, headers: &HeaderMap) -> Result<Self, Problem> {
        let secret = match bearer(headers) {
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
        let tenant = tenant(state, &key, headers).await?;
        Ok(Self {
            key,
            tenant,
            trace: None,
        })
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
    let named = only(headers, &TENANT_ID)?.map(|value| {
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
            Problem::invalid(
                "X-Tenant-Id",
                "is required with an operator key: it names the tenant",
            )
        })
    }

    /// Whose keys the caller administers: one tenant's, or with `None` everybody's. An operator
    /// who names a tenant gets no further than that tenant's own administrators.
    ///
    /// # Errors
    ///
    /// [`Problem::Forbidden`] for a tenant's key without the scope `admin`.
    pub fn administers(&self, state: &ApiState) -> Result<Option<&TenantPlace>, Problem> {
        self.require(state, Scope::Admin)?;
        Ok(self.tenant.as_ref())
    }

    /// Where the caller's idempotency keys for administration are kept: operators share a place
    /// of their own, whichever tenant they name.
    ///
    /// # Errors
    ///
    /// None in practice: the name is a valid one.
    pub fn account(&self) -> Result<TenantPlace, Problem> {
        if let Some(tenant) = self.tenant.as_ref().filter(|_| !self.is_operator()) {
            return Ok(tenant.clone());
        }
        Ok(TenantPlace {
            tenant_id: TenantId::new(OPERATOR).map_err(|error| internal(&error))?,
            partition: Partition(0),
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
        Err(Problem::Forbidden(format!(
            "this needs a key with the scope `{}`",
            scope.as_str()
        )))
    }

    /// What the events of this request say about where they came from.
    pub fn provenance(
        &self,
        correlation_id: Option<&str>,
        causation_id: Option<&str>,
    ) -> Provenance {
        Provenance {
            actor: Actor {
                kind: ActorKind::Key,
                id: (&*self
                    .key
                    .key_id
                    .0
                    .hyphenated()
                    .encode_lower(&mut Uuid::encode_buffer()))
                    .into(),
            },
            source: Source::Api,
            correlation_id: correlation_id.map(Into::into),
            causation_id: causation_id.map(Into::into),
            traceparent: traceparent_for_event(self.trace.as_ref()).map(Into::into),
        }
    }
}

/// The `{id}` of a path. What can't be one is not there.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

impl<T: FromStr> FromRequestParts<ApiState> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, state).await;
        let id = parameters.ok().and_then(|parameters| {
            let (_, text) = parameters.iter().find(|(name, _)| *name == "id")?;
            text.parse().ok()
        });
        id.map(Self)
            .ok_or(Problem::NotFound("there is nothing with this id"))
    }
}

/// A time in a query. Forgives a `+` that was not escaped and so came as a space.
///
/// # Errors
///
/// [`TimestampError`] saying what a time looks like.
pub fn parse_time(text: &str) -> Result<Timestamp, TimestampError> {
    Timestamp::parse(text).or_else(|error| match text.split_once('T') {
        Some((date, time)) => Timestamp::parse(&format!("{date}T{}", time.replace(' ', "+"))),
        None => Err(error),
    })
}

/// Says why a query can't be read at all.
pub fn bad_query(error: &dyn std::error::Error) -> Problem {
    let mut detail = error.to_string();
    if let Some(source) = error.source() {
        detail = source.to_string();
    }
    Problem::invalid("?", detail)
}

/// A header that may come once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(Problem::invalid(
            header_name(name),
            "appears more than once",
        )),
    }
}

/// A header's name as documentation writes it.
fn header_name(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

/// The caller's idempotency key, if any, as it was sent.
///
/// # Errors
///
/// [`Problem::Invalid`] for anything but one key of 1 to 255 printable characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = only(headers, &IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    check_idempotency_key(text)
        .map_err(|message| Problem::invalid(header_name(&IDEMPOTENCY_KEY), message))?;
    Ok(Some(text))
}

/// The caller's idempotency key, if any, bound to this request.
///
/// # Errors
///
/// Those of [`idempotency_key`].
pub fn idempotency(
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    let key = idempotency_key(headers)?;
    Ok(key.map(|key| Idempotency {
        key: format!("call:{key}"),
        fingerprint: fingerprint(&[method.as_bytes(), path.as_bytes(), body]),
    }))
}

/// 1 to 255 printable characters.
pub fn check_idempotency_key(text: &str) -> Result<(), String> {
    let printable = text.chars().all(|c| !c.is_control());
    let chars = text.chars().count();
    if (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&chars) && printable {
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

/// `If-Match: "<version>"`, if given. `*` asks for nothing that the command would not ask for.
///
/// # Errors
///
/// [`Problem::Invalid`] for anything else.
pub fn if_match(headers: &HeaderMap) -> Result<Option<Sequence>, Problem> {
    let Some(value) = only(headers, &header::IF_MATCH)? else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let quoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let digits = quoted.unwrap_or(text);
    let version = Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u32>().ok());
    match version {
        Some(version) => Ok(Some(Sequence(version.into()))),
        None => Err(Problem::invalid(
            "If-Match",
            "must be a version in quotes, such as `\"3\"`",
        )),
    }
}
