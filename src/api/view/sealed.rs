//! What is sealed beside events.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Recipient;
use crate::api::state::ApiState;
use crate::domain::event::Sealed;
use crate::domain::ids::EventId;
use crate::ledger::record::{RecordedEvent, StreamKey};
use crate::problem::{Problem, internal};

/// What may be sealed beside an event, whichever event it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Opened {
    pub subscriber: Recipient,
    pub payload: Option<Box<RawValue>>,
    pub reason: Option<String>,
    pub raw: Option<Box<RawValue>>,
}

/// What a call has just had sealed beside an event that is on record now, as it was before.
#[derive(Clone, Copy, Debug)]
pub struct JustSealed<'a> {
    pub event_id: EventId,
    pub text: &'a str,
}

/// Of a stored payload, only that.
#[derive(Deserialize)]
struct SealedPart {
    sealed: Option<Sealed>,
}

/// Opens what was sealed to an event. `None` once its subject was erased.
pub(super) async fn open(
    state: &ApiState,
    stream: &StreamKey,
    event_id: EventId,
    sealed: &Sealed,
) -> Result<Option<Opened>, Problem> {
    let Some(text) = state.ledger.open(stream, event_id, sealed).await? else {
        return Ok(None);
    };
    parse(&text).map(Some)
}

/// Takes apart what was sealed.
pub(super) fn parse(text: &str) -> Result<Opened, Problem> {
    serde_json::from_str(text).map_err(|error| internal(&error))
}

/// As [`open`], of an event as it stands in the record. Without a sealed part there is nothing to
/// find, and nothing to erase.
pub async fn opened(
    state: &ApiState,
    stream: &StreamKey,
    event: &RecordedEvent,
) -> Result<Option<Opened>, Problem> {
    let part: SealedPart = serde_json::from_str(&event.data).map_err(|error| internal(&error))?;
    match part.sealed {
        Some(sealed) => open(state, stream, event.event_id, &sealed).await,
        None => Ok(Some(Opened::default())),
    }
}
