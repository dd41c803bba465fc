//! What goes wrong, as callers see it: `application/problem+json` (RFC 9457).
//!
//! One enum for the whole HTTP surface. A new problem does not compile without a public code,
//! a status and a title, and nothing internal reaches a caller: what is logged and what is
//! answered are two texts.
//!
//! A handler returns a [`Problem`]; the outermost layer ([`render`]) writes it out, because only
//! there the request's id is known.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::notification::Refusal;
use crate::domain::state::Status;
use crate::json::{Fault, Unreadable};
use crate::ledger::record::LedgerPosition;
use crate::ledger::registry::RegistryError;
use crate::ledger::storage::StorageError;
use crate::ledger::{CommandError, FromSealing, LedgerError};
use crate::telemetry::ErrorChain;

/// How long an overloaded or disconnected service asks callers to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long whoever calls a paused webhook source is asked to wait: a person has to act first.
const RETRY_AFTER_PAUSE: Duration = Duration::from_mins(5);

/// Media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Anything a caller can be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    MalformedJson(String),
    #[error("{0}")]
    Unauthenticated(&'static str),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(&'static str),
    #[error("{method} is not allowed here")]
    MethodNotAllowed { method: String },
    #[error("{detail}")]
    InvalidTransition {
        current_status: Status,
        detail: String,
    },
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0}")]
    VersionMismatch(String),
    #[error("{what} is too large: {size}; the limit is {limit} {unit}")]
    TooLarge {
        what: String,
        /// What it measures, or that it is more than the limit.
        size: String,
        limit: usize,
        unit: &'static str,
    },
    #[error("the content type must be {expected}")]
    UnsupportedMediaType { expected: &'static str },
    #[error("{}", summary(.0))]
    Invalid(Vec<Fault>),
    #[error(
        "this Idempotency-Key was used for another request before; a new request needs a new key"
    )]
    IdempotencyKeyReused,
    #[error("the request took too long to arrive")]
    RequestTimeout,
    #[error("{0}")]
    Overloaded(&'static str),
    #[error("{reader} has not come to position {position} within {} s", .waited.as_secs())]
    ProjectionBehind {
        reader: &'static str,
        position: LedgerPosition,
        waited: Duration,
    },
    #[error("{0}")]
    Unavailable(&'static str),
    /// The sender keeps what it has to say and tries again, so nothing is lost.
    #[error("this webhook source is paused; try again later")]
    Paused,
    #[error("something went wrong in the service; the log has the details under this request id")]
    Internal,
}

/// Declares the codes, each with its name, status and title, and the list of all.
macro_rules! codes {
    ($($code:ident = $name:literal, $status:ident, $title:literal;)+) => {
        /// What a problem is called in public. Names are stable; programs may rely on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($code),+
        }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => $name),+ }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status),+ }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$code => $title),+ }
            }
        }
    };
}

codes! {
    MalformedJson = "malformed_json", BAD_REQUEST, "The body is not valid JSON";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "Authentication is needed";
    Forbidden = "forbidden", FORBIDDEN, "This key may not do that";
    NotFound = "not_found", NOT_FOUND, "There is no such thing here";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    InvalidTransition = "invalid_transition", CONFLICT, "The notification's state does not allow it";
    AlreadyExists = "already_exists", CONFLICT, "It exists already";
    VersionMismatch = "version_mismatch", PRECONDITION_FAILED, "The stream has moved";
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "Too large";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    Invalid = "invalid", UNPROCESSABLE_ENTITY, "The request is not valid";
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The idempotency key was used before";
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too busy just now";
    ProjectionBehind = "projection_behind", SERVICE_UNAVAILABLE, "What was asked for has not been reached yet";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Not available just now";
    Paused = "paused", SERVICE_UNAVAILABLE, "The webhook source is paused";
}

fn summary(faults: &[Fault]) -> String {
    match faults {
        [only] if only.pointer.is_empty() => only.message.clone(),
        [only] => format!("{} {}", only.pointer, only.message),
        many => format!(
            "{} things are wrong with the request; see `errors`",
            many.len()
        ),
    }
}

/// What went wrong (RFC 9457 §3.1).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    #[serde(rename = "type")]
    #[schema(example = "urn:notification-ledger:problem:invalid")]
    type_uri: String,
    #[schema(example = "The request is not valid")]
    title: &'static str,
    #[schema(example = 422)]
    status: u16,
    /// For a person. Never repeats what was sent.
    #[schema(example = "/workflow_id is required")]
    detail: String,
    /// For programs: stable.
    #[schema(value_type = Code)]
    code: &'static str,
    /// Under this the service's log knows the request.
    request_id: &'a str,
    /// Of the notification, with `invalid_transition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Status)]
    current_status: Option<&'static str>,
    /// Everything wrong with the request, with `invalid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<Fault>)]
    errors: Option<&'a [Fault]>,
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.iter().map(|code| code.as_str());
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names))
            .into()
    }
}

impl ToSchema for Code {}

impl Problem {
    /// One fault, where it is.
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault {
            pointer: pointer.into(),
            message: message.into(),
            over: None,
        }])
    }

    /// What is wrong with a body. One whose payload is too large is told so with a status of its
    /// own.
    pub fn of_faults(faults: Vec<Fault>) -> Self {
        let oversized = faults.iter().find_map(|fault| Some((fault, fault.over?)));
        match oversized {
            Some((fault, over)) => Self::TooLarge {
                what: fault.pointer.clone(),
                size: format!("{} bytes", over.bytes),
                limit: over.bytes_max,
                unit: "bytes",
            },
            None => Self::Invalid(faults),
        }
    }

    pub fn status(&self) -> StatusCode {
        self.public().status()
    }

    /// Stable; programs may rely on it.
    pub fn code(&self) -> &'static str {
        self.public().as_str()
    }

    fn public(&self) -> Code {
        match self {
            Self::MalformedJson(_) => Code::MalformedJson,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Forbidden(_) => Code::Forbidden,
            Self::NotFound(_) => Code::NotFound,
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Self::InvalidTransition { .. } => Code::InvalidTransition,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::VersionMismatch(_) => Code::VersionMismatch,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::UnsupportedMediaType { .. } => Code::UnsupportedMediaType,
            Self::Invalid(_) => Code::Invalid,
            Self::IdempotencyKeyReused => Code::IdempotencyKeyReused,
            Self::RequestTimeout => Code::RequestTimeout,
            Self::Overloaded(_) => Code::Overloaded,
            Self::ProjectionBehind { .. } => Code::ProjectionBehind,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Paused => Code::Paused,
            Self::Internal => Code::Internal,
        }
    }

    /// The document a caller gets.
    pub fn document<'a>(&'a self, request_id: &'a str) -> ProblemDocument<'a> {
        let code = self.public();
        ProblemDocument {
            type_uri: format!("urn:notification-ledger:problem:{}", code.as_str()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: self.to_string(),
            code: code.as_str(),
            request_id,
            current_status: match self {
                Self::InvalidTransition { current_status, .. } => Some(current_status.as_str()),
                _ => None,
            },
            errors: match self {
                Self::Invalid(faults) => Some(faults),
                _ => None,
            },
        }
    }
}

/// A response that still has to be written out: see [`render`].
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Writes out a problem that a handler returned. Other responses pass as they are.
pub fn render(response: Response, request_id: &str) -> Response {
    let Some(problem) = response.extensions().get::<Arc<Problem>>().cloned() else {
        return response;
    };
    let (mut parts, _) = response.into_parts();
    let headers = &mut parts.headers;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    match problem.as_ref() {
        Problem::Overloaded(_) | Problem::ProjectionBehind { .. } | Problem::Unavailable(_) => {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(RETRY_AFTER.as_secs()),
            );
        }
        Problem::Paused => {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(RETRY_AFTER_PAUSE.as_secs()),
            );
        }
        Problem::Unauthenticated(_) => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    let body = serde_json::to_vec(&problem.document(request_id)).unwrap_or_default();
    Response::from_parts(parts, Body::from(body))
}

impl From<Unreadable> for Problem {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Malformed(detail) => Self::MalformedJson(detail),
            Unreadable::Invalid(faults) => Self::of_faults(faults),
        }
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::Unavailable(_) => {
                tracing::error!(error = %ErrorChain(&error), "the database is not available");
                Self::Unavailable("the database is not available just now; try again")
            }
            StorageError::Rejected(_) | StorageError::Damaged { .. } => internal(&error),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match &error {
            LedgerError::Overloaded => {
                Self::Overloaded("more is waiting to be written than may wait; try again soon")
            }
            LedgerError::Contended => {
                Self::Overloaded("too many others are writing to this notification; try again soon")
            }
            LedgerError::VersionMismatch { expected, current } => Self::VersionMismatch(format!(
                "the notification is at version {current}, not {expected}; read it and decide again"
            )),
            LedgerError::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            // The lane has logged the batch's error once for everybody in it.
            LedgerError::Storage(storage) => match storage.as_ref() {
                StorageError::Unavailable(_) => {
                    Self::Unavailable("the database is not available just now; try again")
                }
                StorageError::Rejected(_) | StorageError::Damaged { .. } => internal(&error),
            },
            LedgerError::StillRead => Self::Unavailable(
                "it is erased, but somebody goes on reading the database's file, so what was there \
                 before is still in it; try again",
            ),
            LedgerError::OtherKind => Self::NotFound("there is no such notification"),
            LedgerError::Stopped => Self::Unavailable("the service is shutting down; try again"),
            LedgerError::Undecodable { .. }
            | LedgerError::Unopenable
            | LedgerError::NoRandomness
            | LedgerError::TooManyErasures
            | LedgerError::OtherStream => internal(&error),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::TenantExists { .. } => Self::AlreadyExists(error.to_string()),
            RegistryError::NoSuchTenant { .. } => Self::NotFound("there is no such tenant"),
            RegistryError::NoSuchPartition { .. } => Self::invalid("/partition", error.to_string()),
            RegistryError::Name(error) => Self::invalid("/name", error.to_string()),
            RegistryError::SecretCount { .. } => Self::invalid("/secrets", error.to_string()),
            RegistryError::Storage(error) => error.into(),
            RegistryError::AlreadyUsed => Self::IdempotencyKeyReused,
            RegistryError::NoRandomness(_) => internal(&error),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NotFound => Self::NotFound("there is no such notification"),
            Refusal::AlreadyExists => Self::AlreadyExists(detail),
            Refusal::NotQueueable { current_status, .. } | Refusal::Settled { current_status } => {
                Self::InvalidTransition {
                    current_status,
                    detail,
                }
            }
            refusal @ Refusal::Sealing(_) => match refusal.into_ledger_error() {
                Ok(error) => error.into(),
                Err(refusal) => internal(&refusal),
            },
        }
    }
}

impl<E> From<CommandError<E>> for Problem
where
    E: std::error::Error + Into<Problem> + 'static,
{
    fn from(error: CommandError<E>) -> Self {
        match error {
            CommandError::Refused(refusal) => refusal.into(),
            CommandError::Ledger(error) => error.into(),
        }
    }
}

/// Logs what went wrong and tells the caller only that something did.
pub fn internal(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::error!(error = %ErrorChain(error), "a request failed");
    Problem::Internal
}
