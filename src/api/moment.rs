//! `as_of`: a moment that has passed, as a time or as a position.
//!
//! What was known then never changes. So nothing is shown as of a moment that is still to come, and
//! whoever reads from a projection waits until it has everything up to the moment.

use super::request::parse_time;
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Position, TenantPlace};
use crate::problem::Problem;

/// A moment that a query names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// After the event at this position.
    Position(Position),
    /// By `recorded_at`, inclusive.
    Time(Timestamp),
}

/// A moment of the past, and where the tenant's part of the ledger ends now. The inner error says
/// what is wrong with the text.
///
/// # Errors
///
/// When the ledger can't be asked how far it has come.
pub async fn past(
    state: &ApiState,
    tenant: &TenantPlace,
    text: &str,
) -> Result<Result<(At, Position), String>, Problem> {
    let at = match read(tenant, text) {
        Ok(at) => at,
        Err(message) => return Ok(Err(message.to_owned())),
    };
    let heads = state.ledger.heads().await?;
    let head = heads.iter().find(|head| head.partition == tenant.partition);
    let head = head.map(|head| head.position).unwrap_or_default();
    Ok(match at {
        At::Time(time) if time > state.surroundings.now() => Err("lies in the future".to_owned()),
        At::Position(position) if position > head => {
            let head = LedgerPosition {
                partition: tenant.partition,
                position: head,
            };
            Err(format!("lies in the future: the last position is {head}"))
        }
        At::Time(_) | At::Position(_) => Ok((at, head)),
    })
}

fn read(tenant: &TenantPlace, text: &str) -> Result<At, &'static str> {
    if let Ok(position) = text.parse::<LedgerPosition>() {
        if position.partition != tenant.partition {
            return Err("is a position of another part of the ledger");
        }
        return Ok(At::Position(position.position));
    }
    parse_time(text).map(At::Time).map_err(
        |_| "must be an RFC 3339 time such as `2026-03-14T09:30:00Z`, or a position such as `3-1042`",
    )
}
