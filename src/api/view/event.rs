//! One event, as auditors see it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::hex;
use crate::api::schema::{self, EventType};
use crate::api::state::ApiState;
use crate::domain::event::{Sealed, names};
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, RecordedEvent, StreamKey};
use crate::problem::{Problem, internal};

/// One recorded event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventView {
    pub event_id: Uuid,
    #[schema(example = "acme")]
    pub tenant_id: String,
    /// Of events that are not about a notification, the id of their own stream.
    pub notification_id: Uuid,
    /// Its number in the notification's history: 1, 2, 3 without gaps.
    #[schema(minimum = 1)]
    pub sequence: i64,
    pub position: LedgerPosition,
    #[serde(rename = "type")]
    #[schema(value_type = EventType)]
    pub event_type: String,
    /// Version of the form of `data`.
    #[schema(minimum = 1)]
    pub schema_version: i32,
    /// When it happened, according to who reports it.
    pub occurred_at: Timestamp,
    /// When the ledger made it durable.
    pub recorded_at: Timestamp,
    pub actor: ActorView,
    #[schema(schema_with = schema::sources)]
    pub source: String,
    #[schema(required)]
    pub correlation_id: Option<String>,
    #[schema(required)]
    pub causation_id: Option<String>,
    /// The trace of the request it came with (W3C Trace Context).
    #[schema(
        required,
        example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    )]
    pub traceparent: Option<String>,
    /// The chain hash, in hexadecimal: follows from this event and all before it.
    #[schema(min_length = 64, max_length = 64)]
    pub hash: String,
    /// What was said. With `"erased": true`, what was sealed in it is gone for good.
    #[schema(value_type = Object)]
    pub data: BTreeMap<String, Box<RawValue>>,
}

/// Who did it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActorView {
    #[schema(schema_with = schema::actor_kinds)]
    pub kind: String,
    /// Such as the id of the key that was used.
    pub id: String,
}

/// Shows a recorded event, with its sealed part opened into its data.
pub async fn event(
    state: &ApiState,
    stream: &StreamKey,
    event: &RecordedEvent,
) -> Result<EventView, Problem> {
    let mut data: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&event.data).map_err(|error| internal(&error))?;
    if let Some(sealed) = data.remove("sealed") {
        let sealed: Sealed =
            serde_json::from_str(sealed.get()).map_err(|error| internal(&error))?;
        match state.ledger.open(stream, event.event_id, &sealed).await? {
            Some(text) => {
                let opened: BTreeMap<String, Box<RawValue>> =
                    serde_json::from_str(&text).map_err(|error| internal(&error))?;
                data.extend(opened);
            }
            None => {
                data.insert("erased".to_owned(), raw(&true)?);
            }
        }
    }
    if event.event_type == names::REQUESTED {
        show_subscriber(&mut data)?;
    }
    if event.event_type == names::FAILED {
        show_error(&mut data)?;
    }
    Ok(EventView {
        event_id: event.event_id.0,
        tenant_id: event.tenant_id.clone(),
        notification_id: event.stream_id.0,
        sequence: event.sequence.0,
        position: event.ledger_position(),
        event_type: event.event_type.clone(),
        schema_version: event.schema_version,
        occurred_at: Timestamp::from_micros_clamped(event.occurred_at),
        recorded_at: Timestamp::from_micros_clamped(event.recorded_at),
        actor: ActorView {
            kind: event.actor_kind.clone(),
            id: event.actor_id.clone(),
        },
        source: event.source.clone(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        traceparent: event.traceparent.clone(),
        hash: hex(&event.hash),
        data,
    })
}

/// In the record the subscriber's id stands apart from what is sealed; callers sent them together.
fn show_subscriber(data: &mut BTreeMap<String, Box<RawValue>>) -> Result<(), Problem> {
    let Some(id) = data.remove("subscriber_id") else {
        return Ok(());
    };
    let mut subscriber: BTreeMap<String, Box<RawValue>> = match data.remove("subscriber") {
        Some(sealed) => serde_json::from_str(sealed.get()).map_err(|error| internal(&error))?,
        None => BTreeMap::new(),
    };
    subscriber.insert("id".to_owned(), id);
    data.insert("subscriber".to_owned(), raw(&subscriber)?);
    Ok(())
}

/// A failure's code and words, together again as they were reported.
fn show_error(data: &mut BTreeMap<String, Box<RawValue>>) -> Result<(), Problem> {
    let mut error = BTreeMap::new();
    for (stored, shown) in [("code", "code"), ("reason", "message")] {
        if let Some(value) = data.remove(stored) {
            error.insert(shown, value);
        }
    }
    data.insert("error".to_owned(), raw(&error)?);
    Ok(())
}

fn raw<T: Serialize>(value: &T) -> Result<Box<RawValue>, Problem> {
    serde_json::value::to_raw_value(value).map_err(|error| internal(&error))
}
