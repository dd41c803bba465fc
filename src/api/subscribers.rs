//! Subscribers: the only thing that can be asked about them is to be forgotten.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::answers::{Answer, once};
use super::request::{Caller, Id, RequestId, idempotency};
use super::schema::Name;
use super::state::ApiState;
use crate::domain::ids::SubscriberId;
use crate::domain::time::Timestamp;
use crate::ledger::record::TenantPlace;
use crate::ledger::registry::Scope;
use crate::ledger::{Erased, Erasure, Order};
use crate::problem::Problem;
use crate::webhooks::quarantine;

/// A subscriber who was erased.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasedView {
    /// When it was done.
    pub erased_at: Timestamp,
    /// How many notifications named the subscriber by then. They stay, without what was sealed.
    pub notifications: u64,
}

/// Erase a subscriber
///
/// Destroys the keys under which their addresses, payloads, free text and raw reports are sealed:
/// at once in this process, within the time that others remember keys for (5 s unless configured
/// otherwise, never more than 10 s), and for good. Events, counts and proofs stay, and so do ids
/// and what else is not sealed; notifications say `"erased": true`. Bodies in quarantine that name
/// the subscriber are dropped.
///
/// A repeat gets the same answer. What is sealed for the subscriber later is under a new key; a
/// call after that erases it as well, and says when. Of a subscriber nobody has heard of: 404, and
/// the record says nothing of the call. Needs the scope `admin`.
#[utoipa::path(
    delete,
    path = "/v1/subscribers/{id}",
    tag = "Audit",
    operation_id = "erase_subscriber",
    params(("id" = inline(Name), Path, description = "The subscriber's id, as notifications name it.")),
    responses((status = 200, description = "The subscriber is erased.", body = ErasedView, headers(
        ("Ledger-Position" = String, description = "Of the event that says so."),
        ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
    ))),
)]
pub async fn erase(
    State(state): State<ApiState>,
    caller: Caller,
    Id(subscriber_id): Id<SubscriberId>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Admin)?;
    let path = format!("/v1/subscribers/{subscriber_id}");
    let claim = idempotency(&headers, "DELETE", &path, b"")?;
    let order = Order {
        tenant: tenant.clone(),
        provenance: Arc::new(caller.provenance(None, None)),
        idempotency: None,
        expected_version: None,
    };
    once(&state, tenant, claim, async {
        let erasure = Erasure {
            subscriber_id: subscriber_id.clone(),
            request_id: Some(request_id.to_string()),
            is_known: false,
        };
        let erased = forget(&state, &order, erasure).await?;
        let view = ErasedView {
            erased_at: erased.erased_at,
            notifications: erased.notifications,
        };
        let answer = Answer::new(StatusCode::OK, &view)?;
        Ok(answer.with_position(Some(erased.position.to_string())))
    })
    .await
}

async fn forget(state: &ApiState, order: &Order, erasure: Erasure) -> Result<Erased, Problem> {
    let tenant = &order.tenant;
    let subscriber_id = erasure.subscriber_id.clone();
    let erased = match state.ledger.erase(order, erasure.clone()).await? {
        Some(erased) => erased,
        None => only_in_quarantine(state, order, erasure).await?,
    };
    // Also after a repeat: the call before it may not have come this far.
    if quarantine::erase(state, tenant, &subscriber_id).await? > 0 {
        state.ledger.scrub().await?;
    }
    Ok(erased)
}

/// Nothing on record names the subscriber, but a webhook that nobody understood may.
async fn only_in_quarantine(
    state: &ApiState,
    order: &Order,
    erasure: Erasure,
) -> Result<Erased, Problem> {
    let tenant: &TenantPlace = &order.tenant;
    let entries = quarantine::naming(state, tenant, &erasure.subscriber_id).await?;
    let erasure = Erasure {
        is_known: !entries.is_empty(),
        ..erasure
    };
    let erased = state.ledger.erase(order, erasure).await?;
    erased.ok_or(Problem::NotFound("nothing is known of this subscriber"))
}
