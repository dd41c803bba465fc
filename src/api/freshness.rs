//! Reading one's own writes: `Ledger-Min-Position`.
//!
//! Single notifications and the log are read from the record itself, which has everything that
//! was answered. So there is nothing to wait for, unless the position lies beyond the head: then
//! the ledger was restored from a backup, or this process reads from a copy that is behind. Lists
//! are read from projections, which follow the record a moment later, or stop.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::moment::At;
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Partition, Position, TenantPlace};
use crate::problem::Problem;
use crate::projections::Projection;

pub const LEDGER_MIN_POSITION: HeaderName = HeaderName::from_static("ledger-min-position");

/// Longest wait for a position.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The first pause between two looks; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Waits until the record has come to the position the caller wants to see.
///
/// # Errors
///
/// [`Problem::Invalid`] for what is no position of the tenant's; [`Problem::ProjectionBehind`]
/// when it is not reached in time.
pub async fn caught_up(
    state: &ApiState,
    tenant: &TenantPlace,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    let Some(wanted) = min_position(tenant, headers)? else {
        return Ok(());
    };
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let heads = state.ledger.heads().await?;
        let reached = heads
            .iter()
            .any(|head| head.partition == wanted.partition && head.position >= wanted.position);
        if reached {
            return Ok(());
        }
        if begun.elapsed() + pause > WAIT_MAX {
            return Err(Problem::ProjectionBehind {
                reader: "the ledger",
                position: wanted,
                waited: WAIT_MAX,
            });
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// Waits until a projection has come to the position the caller wants to see. Says how far it has
/// come: whatever is read afterwards has everything up to there.
///
/// # Errors
///
/// As [`caught_up`].
pub async fn projected(
    state: &ApiState,
    tenant: &TenantPlace,
    headers: &HeaderMap,
    projection: Projection,
) -> Result<LedgerPosition, Problem> {
    projected_as_of(state, tenant, headers, projection, None).await
}

/// As [`projected`], and until the projection has everything that was on record at a moment of
/// the past, given with the head as it is now.
///
/// # Errors
///
/// As [`caught_up`].
pub async fn projected_as_of(
    state: &ApiState,
    tenant: &TenantPlace,
    headers: &HeaderMap,
    projection: Projection,
    as_of: Option<(At, Position)>,
) -> Result<LedgerPosition, Problem> {
    let partition = tenant.partition;
    let here = |position| LedgerPosition {
        partition,
        position,
    };
    let known = match as_of {
        None => None,
        Some((At::Position(position), _)) => Some(here(position)),
        Some((At::Time(time), head)) => missing(state, projection, partition, time)
            .await?
            .then_some(here(head)),
    };
    if let Some(wanted) = min_position(tenant, headers)?.max(known) {
        let position = wanted.position;
        let reached = state
            .projections
            .wait_for(projection, partition, position, WAIT_MAX)
            .await?;
        if !reached {
            return Err(Problem::ProjectionBehind {
                reader: "the list",
                position: wanted,
                waited: WAIT_MAX,
            });
        }
    }
    Ok(here(
        state.projections.position(projection, partition).await?,
    ))
}

/// Whether a projection lacks an event that was on record by then.
async fn missing(
    state: &ApiState,
    projection: Projection,
    partition: Partition,
    time: Timestamp,
) -> Result<bool, Problem> {
    let progress = state.projections.progress().await?;
    Ok(progress.iter().any(|progress| {
        let at = &progress.checkpoint;
        (at.projection, at.partition) == (projection, partition)
            && progress.waiting_since.is_some_and(|since| since <= time)
    }))
}

fn min_position(
    tenant: &TenantPlace,
    headers: &HeaderMap,
) -> Result<Option<LedgerPosition>, Problem> {
    // Of several, the last to be reached.
    let mut wanted: Option<LedgerPosition> = None;
    for value in headers.get_all(LEDGER_MIN_POSITION) {
        let text = value.to_str().unwrap_or_default().trim();
        let position: LedgerPosition = text.parse().map_err(|error| fault(format!("{error}")))?;
        if position.partition != tenant.partition {
            return Err(fault("is a position of another part of the ledger"));
        }
        wanted = wanted.max(Some(position));
    }
    Ok(wanted)
}

fn fault(message: impl Into<String>) -> Problem {
    Problem::invalid("Ledger-Min-Position", message)
}
