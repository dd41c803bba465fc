//! Answers that can be given again: what `Idempotency-Key` means for calls that are not single
//! commands.
//!
//! The key is claimed first, then the work is done, then the answer is kept, sealed under the
//! master key. A call that was interrupted in between is simply run again, so the work itself must
//! be repeatable. Only successes are kept: a refused call changed nothing and is judged afresh
//! when it is repeated. But its key stays claimed for what it asked.

use std::future::Future;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::notifications::{IDEMPOTENT_REPLAYED, LEDGER_POSITION};
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::ledger::record::TenantPlace;
use crate::ledger::{Idempotency, LedgerError};
use crate::problem::{Problem, internal};

/// A success, as it is answered and kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    body: Box<RawValue>,
    /// Part of the work could not be done just now: the same call may do better later, so this
    /// is not its answer for ever.
    #[serde(skip)]
    is_unfinished: bool,
}

impl Answer {
    /// # Errors
    ///
    /// [`Problem::Internal`] for a value that does not serialise.
    pub fn new<T: Serialize>(status: StatusCode, body: &T) -> Result<Self, Problem> {
        let body = serde_json::value::to_raw_value(body).map_err(|error| internal(&error))?;
        Ok(Self {
            status: status.as_u16(),
            position: None,
            location: None,
            body,
            is_unfinished: false,
        })
    }

    #[must_use]
    pub fn with_position(mut self, position: Option<String>) -> Self {
        self.position = position;
        self
    }

    #[must_use]
    pub fn with_location(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// Says whether part of the work could not be done just now. Then it is not kept.
    #[must_use]
    pub fn unfinished(mut self, is_unfinished: bool) -> Self {
        self.is_unfinished = is_unfinished;
        self
    }

    /// Writes it out; `replayed` says that it was given before.
    pub fn response(self, replayed: bool) -> Response {
        let json = HeaderValue::from_static("application/json");
        let body = self.body.get().to_owned();
        let mut response = ([(header::CONTENT_TYPE, json)], body).into_response();
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut set = |name: HeaderName, value: Option<String>| {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                response.headers_mut().insert(name, value);
            }
        };
        set(LEDGER_POSITION, self.position);
        set(header::LOCATION, self.location);
        set(IDEMPOTENT_REPLAYED, replayed.then(|| "true".to_owned()));
        response
    }
}

/// Whose turn it is.
#[derive(Debug)]
pub enum Turn {
    /// Somebody was answered under this key before: here is the answer again.
    Answered(Response),
    /// The key is claimed, and the work is to be done.
    Claimed {
        /// When the key was first claimed.
        since: Timestamp,
        /// By an earlier call, which was refused or interrupted, or is still under way.
        earlier: bool,
    },
}

/// Claims an idempotency key, unless it has led to an answer.
///
/// # Errors
///
/// [`Problem::IdempotencyKeyReused`] if it was used for another request.
pub async fn claim(
    state: &ApiState,
    tenant: &TenantPlace,
    claim: &Idempotency,
) -> Result<Turn, Problem> {
    let known = state.ledger.kept_answer(tenant, claim).await?;
    let earlier = known.is_some();
    let record = match known {
        Some(record) => record,
        None => state.ledger.keep_answer(tenant, claim, None).await?,
    };
    if record.command.is_some() {
        return Err(Problem::IdempotencyKeyReused);
    }
    match record.answer {
        Some(kept) => again(state, &context(tenant, claim), &kept).map(Turn::Answered),
        None => Ok(Turn::Claimed {
            since: record.recorded_at,
            earlier,
        }),
    }
}

/// Keeps the answer under the claim, and gives it; or the one that another call with the same key
/// has kept meanwhile.
///
/// # Errors
///
/// [`Problem::IdempotencyKeyReused`] if the key was used for another request.
pub async fn keep(
    state: &ApiState,
    tenant: &TenantPlace,
    claim: &Idempotency,
    answer: Answer,
) -> Result<Response, Problem> {
    if answer.is_unfinished {
        return Ok(answer.response(false));
    }
    let context = context(tenant, claim);
    let text = serde_json::to_vec(&answer).map_err(|error| internal(&error))?;
    let sealed = state
        .master
        .wrap(&context, &text)
        .map_err(LedgerError::from)?;
    let standing = state
        .ledger
        .keep_answer(tenant, claim, Some(sealed.clone()))
        .await?;
    match standing.answer {
        // Another call with the same key was quicker: there is only one first answer.
        Some(first) if first != sealed => again(state, &context, &first),
        _ => Ok(answer.response(false)),
    }
}

/// Runs `work` and keeps its answer under the claim, or gives the kept answer again.
///
/// # Errors
///
/// [`Problem::IdempotencyKeyReused`], or whatever `work` fails with.
pub async fn once(
    state: &ApiState,
    tenant: &TenantPlace,
    key: Option<Idempotency>,
    work: impl Future<Output = Result<Answer, Problem>>,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        return Ok(work.await?.response(false));
    };
    match claim(state, tenant, &key).await? {
        Turn::Answered(response) => Ok(response),
        Turn::Claimed { .. } => keep(state, tenant, &key, work.await?).await,
    }
}

/// An answer opens only as the one to this key.
fn context(tenant: &TenantPlace, claim: &Idempotency) -> String {
    format!("answer/{}/{}", tenant.tenant_id, claim.key)
}

fn again(state: &ApiState, context: &str, kept: &str) -> Result<Response, Problem> {
    let text = state
        .master
        .unwrap(context, kept)
        .map_err(LedgerError::from)?;
    let answer: Answer = serde_json::from_slice(&text).map_err(|error| internal(&error))?;
    Ok(answer.response(true))
}
