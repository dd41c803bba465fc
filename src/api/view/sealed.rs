//! What is sealed beside events.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Recipient;
use crate::api::state::ApiState;
use crate::domain::event::Sealed;
use crate::domain::ids::EventId;
use crate::ledger::record::{RecordedEvent, StreamKey};
use crate::problem::{Problem, internal};

/// What may be sealed beside an event, whichever event it is: as it is read, before it is sealed and
/// after it was opened.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Opened<'a> {
    #[serde(skip_serializing_if = "Recipient::is_empty")]
    pub subscriber: Recipient,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Cow<'a, RawValue>>,
}

/// What a call has just had sealed beside an event that is on record now.
#[derive(Debug)]
pub struct JustSealed<'a> {
    pub event_id: EventId,
    pub private: Opened<'a>,
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
) -> Result<Option<Opened<'static>>, Problem> {
    let Some(text) = state.ledger.open(stream, event_id, sealed).await? else {
        return Ok(None);
    };
    let opened = serde_json::from_str(&text).map_err(|error| internal(&error))?;
    Ok(Some(opened))
}

/// As [`open`], of an event as it stands in the record. Without a sealed part there is nothing to
/// find, and nothing to erase.
pub async fn opened(
    state: &ApiState,
    stream: &StreamKey,
    event: &RecordedEvent,
) -> Result<Option<Opened<'static>>, Problem> {
    let part: SealedPart = serde_json::from_str(&event.data).map_err(|error| internal(&error))?;
    match part.sealed {
        Some(sealed) => open(state, stream, event.event_id, &sealed).await,
        None => Ok(Some(Opened::default())),
    }
}
