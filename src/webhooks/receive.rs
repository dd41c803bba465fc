//! `POST /webhooks/novu/{source_id}`: what Novu is answered.
//!
//! Nothing in a request is believed, or even parsed, before its signature was verified over the
//! raw bytes. A 2xx means that everything it says is durable. Anything else makes Novu try again
//! for a day or so, which is what a paused source and a database that is gone want.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use tracing::Instrument;

use super::novu::signature::{DeliveryId, Rejection, SigningSecret, verify};
use super::quarantine;
use super::record::{Delivery, Outcome, PROVIDER, Placed, Recorded, place};
use crate::api::ApiState;
use crate::api::notifications::{LEDGER_POSITION, json_response};
use crate::api::request::{IncomingTrace, read_body};
use crate::domain::time::Timestamp;
use crate::ledger::record::{Actor, ActorKind, Provenance, Source};
use crate::ledger::registry::{SourceId, WebhookSource};
use crate::problem::Problem;
use crate::telemetry::{WebhookOutcome, traceparent_for_event};

const NO_SUCH_SOURCE: Problem = Problem::NotFound("there is no such webhook source");

/// A refusal, and how it is counted.
struct Refused {
    problem: Problem,
    counted: WebhookOutcome,
}

/// Receive a webhook of Novu's
///
/// What Novu calls, at the address of a webhook source. It is signed instead of carrying a key: by
/// the scheme of Standard Webhooks, with one of the source's secrets, not more than five minutes
/// ago unless configured otherwise. The headers may also begin with `webhook-`. Whatever is
/// answered 2xx is durable; anything else makes Novu try again.
#[utoipa::path(
    post,
    path = "/webhooks/novu/{source_id}",
    tag = "Webhooks",
    operation_id = "receive_novu_webhook",
    params(
        ("source_id" = Uuid, Path, description = "The source's id."),
        ("svix-id" = String, Header, description = "The delivery's id, the same on every attempt."),
        ("svix-timestamp" = String, Header, description = "When this attempt was signed, in seconds since 1970."),
        ("svix-signature" = String, Header, description = "Signatures `v1,<base64>`, separated by spaces."),
    ),
    request_body(content = Value, description = "Novu's envelope. The signature covers its bytes."),
    responses(
        (status = 200, description = "What became of it.", body = Recorded, headers(
            ("Ledger-Position" = String, description = "Where the fact's stream ends."),
        )),
    ),
)]
pub(super) async fn novu(
    State(state): State<ApiState>,
    Path(source_id): Path<String>,
    Extension(trace): Extension<IncomingTrace>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let span = tracing::info_span!(
        "webhook",
        webhook.provider = PROVIDER,
        webhook.source_id = tracing::field::Empty,
        webhook.delivery_id = tracing::field::Empty,
        webhook.outcome = tracing::field::Empty,
        notification.id = tracing::field::Empty,
    );
    let receiving = receive(&state, &source_id, &trace, &headers, body);
    let received = receiving.instrument(span.clone()).await;
    let counted = match &received {
        Ok(recorded) => {
            span.record("webhook.outcome", recorded.outcome.as_str());
            counted(recorded.outcome)
        }
        Err(refused) => refused.counted,
    };
    state.metrics.webhook(PROVIDER, counted);
    answer(&received.map_err(|refused| refused.problem)?)
}

async fn receive(
    state: &ApiState,
    source_id: &str,
    trace: &IncomingTrace,
    headers: &HeaderMap,
    body: Body,
) -> Result<Recorded, Refused> {
    let source = source(state, source_id).await?;
    let span = tracing::Span::current();
    span.record(
        "webhook.source_id",
        tracing::field::display(source.source_id),
    );
    let limits = &state.limits;
    let reading = read_body(headers, body, limits.body_bytes_max, limits.body_timeout);
    let body = reading.await.map_err(|problem| Refused {
        counted: match problem {
            Problem::TooLarge { .. } => WebhookOutcome::RejectedTooLarge,
            // It broke off, so nobody can have signed it.
            _ => WebhookOutcome::RejectedSignature,
        },
        problem,
    })?;
    let now = state.surroundings.now();
    let delivery_id = authentic(state, &source, headers, &body, now)?;
    span.record("webhook.delivery_id", delivery_id.as_str());
    // Only now, so that strangers learn nothing of it.
    if source.paused {
        return Err(Refused {
            problem: Problem::Paused,
            counted: WebhookOutcome::RejectedSource,
        });
    }
    let recorded = record(state, &source, delivery_id, trace, &body, now).await;
    recorded.map_err(|problem| Refused {
        problem,
        counted: WebhookOutcome::Unavailable,
    })
}

async fn source(state: &ApiState, source_id: &str) -> Result<Arc<WebhookSource>, Refused> {
    let unknown = || Refused {
        problem: NO_SUCH_SOURCE,
        counted: WebhookOutcome::RejectedSource,
    };
    let source_id: SourceId = source_id.parse().map_err(|_| unknown())?;
    let found = state.registry.source(source_id).await;
    let found = found.map_err(|error| Refused {
        problem: error.into(),
        counted: WebhookOutcome::Unavailable,
    })?;
    found
        .filter(|source| source.provider == PROVIDER)
        .ok_or_else(unknown)
}

/// Believes a request that one of the source's secrets signed not long ago.
fn authentic(
    state: &ApiState,
    source: &WebhookSource,
    headers: &HeaderMap,
    body: &Bytes,
    now: Timestamp,
) -> Result<DeliveryId, Refused> {
    let secrets: Vec<SigningSecret> = source
        .secrets
        .iter()
        // They were checked when they were set.
        .filter_map(|secret| SigningSecret::parse(secret.expose_secret()).ok())
        .collect();
    verify(headers, body, &secrets, now, state.webhook_tolerance).map_err(|rejection| {
        tracing::info!(
            reason = rejection.label(),
            "a webhook is not believed: {rejection}"
        );
        Refused {
            problem: Problem::Unauthenticated(told(rejection)),
            counted: match rejection {
                Rejection::Stale { .. } => WebhookOutcome::RejectedStale,
                Rejection::NoSecret
                | Rejection::MissingHeader { .. }
                | Rejection::UnusableId { .. }
                | Rejection::UnreadableTimestamp
                | Rejection::NoMatchingSignature => WebhookOutcome::RejectedSignature,
            },
        }
    })
}

/// What a sender is told; the log has the rest.
fn told(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::MissingHeader { .. } => {
            "the signature is missing: send `svix-id`, `svix-timestamp` and `svix-signature`, or \
             the same with `webhook-`"
        }
        Rejection::UnusableId { .. } => "the delivery id is not usable",
        Rejection::UnreadableTimestamp => {
            "the signature's timestamp is not a number of seconds since 1970"
        }
        Rejection::Stale { .. } => {
            "the signature's timestamp is too far from our clock: the request is old, or a clock \
             is wrong"
        }
        Rejection::NoSecret | Rejection::NoMatchingSignature => {
            "the signature does not match: the body was altered, or signed with another secret"
        }
    }
}

async fn record(
    state: &ApiState,
    source: &WebhookSource,
    delivery_id: DeliveryId,
    trace: &IncomingTrace,
    body: &Bytes,
    now: Timestamp,
) -> Result<Recorded, Problem> {
    let tenant = state.registry.place(&source.tenant_id).await?;
    let provenance = Provenance {
        actor: Actor {
            kind: ActorKind::Source,
            id: source.source_id.to_string().into(),
        },
        source: Source::Novu,
        correlation_id: None,
        causation_id: None,
        traceparent: traceparent_for_event(trace.0.as_ref()).map(Into::into),
    };
    let delivery = Delivery {
        tenant: tenant.ok_or(NO_SUCH_SOURCE)?,
        source_id: source.source_id,
        delivery_id: delivery_id.into(),
        received_at: now,
        provenance: Arc::new(provenance),
        unmatched: source.unmatched,
    };
    match place(state, &delivery, body).await? {
        Placed::Recorded(recorded) => Ok(recorded),
        Placed::Nowhere { reason, subject } => {
            quarantine::keep(state, &delivery, body, &reason, &subject).await?;
            tracing::warn!(
                reason,
                "a webhook is in quarantine until somebody looks at it"
            );
            Ok(Recorded::nothing(Outcome::Quarantined))
        }
    }
}

fn answer(recorded: &Recorded) -> Result<Response, Problem> {
    let mut response = json_response(recorded)?;
    let position = recorded
        .position
        .and_then(|position| HeaderValue::from_str(&position.to_string()).ok());
    if let Some(position) = position {
        response.headers_mut().insert(LEDGER_POSITION, position);
    }
    Ok(response)
}

fn counted(outcome: Outcome) -> WebhookOutcome {
    match outcome {
        Outcome::Appended => WebhookOutcome::Appended,
        Outcome::Duplicate => WebhookOutcome::Duplicate,
        Outcome::Quarantined => WebhookOutcome::Quarantined,
        Outcome::Ignored => WebhookOutcome::Ignored,
    }
}
