//! What the record consists of: events in their envelopes, and the words for their places.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::event::{NotificationEvent, names};
use crate::domain::ids::{EventId, Sequence, StreamId, SubscriberId, TenantId};
use crate::domain::time::Timestamp;

/// A slice of the ledger with its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub i16);

/// An event's place in its partition: 1, 2, 3 without gaps. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub i64);

/// A place in the ledger, written `partition-position`, such as `3-1042`. Callers treat it as a
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerPosition {
    pub partition: Partition,
    pub position: Position,
}

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a position such as `3-1042`")]
pub struct PositionError;

/// 32 bytes of SHA-256.
pub type Hash = [u8; 32];

/// A tenant, and the partition it lives in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantPlace {
    pub tenant_id: TenantId,
    pub partition: Partition,
}

/// One aggregate's events, wherever they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    pub partition: Partition,
    pub tenant_id: TenantId,
    pub stream_id: StreamId,
}

/// The end of a stream, as somebody saw it. The event id makes sure that it is *that* stream
/// with *that* history, not merely one as long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    pub sequence: Sequence,
    pub position: Position,
    /// `None` for the empty stream.
    pub event_id: Option<EventId>,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Actor {
    pub kind: ActorKind,
    pub id: Arc<str>,
}

/// What kind of actor: stored by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// An API key.
    Key,
    /// A webhook source.
    Source,
    /// Somebody at the command line.
    Operator,
    /// The ledger itself.
    System,
}

/// How an event came in: stored by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Api,
    Novu,
    Worker,
    Import,
}

macro_rules! stored_by_name {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The value a stored name stands for.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

stored_by_name!(ActorKind {
    Key = "key",
    Source = "source",
    Operator = "operator",
    System = "system",
});
stored_by_name!(Source {
    Api = "api",
    Novu = "novu",
    Worker = "worker",
    Import = "import",
});

/// Where an event came from, beside what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    pub actor: Actor,
    pub source: Source,
    pub correlation_id: Option<Arc<str>>,
    pub causation_id: Option<Arc<str>>,
    /// W3C Trace Context, so that what follows joins the trace of its request.
    pub traceparent: Option<Arc<str>>,
}

/// An event that has no place yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub event_id: EventId,
    pub event_type: &'static str,
    pub schema_version: i32,
    pub occurred_at: Timestamp,
    pub subscriber_id: Option<SubscriberId>,
    /// JSON, kept byte for byte.
    pub data: String,
    /// The same as it was decided, if it is a notification's: for whoever follows in this process.
    pub decided: Option<Box<NotificationEvent>>,
}

/// An event as it stands in the record.
///
/// Text fields are kept as stored, even where the code has a type for them: what is verified is
/// what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    pub partition: Partition,
    pub position: Position,
    pub tenant_id: String,
    pub stream_id: StreamId,
    pub sequence: Sequence,
    pub event_id: EventId,
    pub event_type: String,
    pub schema_version: i32,
    /// Microseconds since 1970, as stored.
    pub occurred_at: i64,
    /// Microseconds since 1970, as stored.
    pub recorded_at: i64,
    pub actor_kind: String,
    pub actor_id: String,
    pub source: String,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
    pub traceparent: Option<String>,
    pub subscriber_id: Option<String>,
    pub data: String,
    pub hash: Vec<u8>,
}

/// An event without its envelope: what a projection follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainEvent {
    pub position: Position,
    pub sequence: Sequence,
    pub event_id: EventId,
    /// Borrowed when it is one this release knows.
    pub event_type: Cow<'static, str>,
    /// Microseconds since 1970, as stored.
    pub occurred_at: i64,
    /// Microseconds since 1970, as stored.
    pub recorded_at: i64,
    pub subscriber_id: Option<String>,
    pub content: Content,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// As it is stored.
    Stored { schema_version: i32, data: String },
    /// As it was decided, which is how the stored form would be read.
    Decided {
        event: Box<NotificationEvent>,
        /// Of the stored form.
        bytes: usize,
    },
}

/// An event in the order of streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    pub tenant_id: String,
    pub stream_id: StreamId,
    pub event: PlainEvent,
}

/// An event in the order of the log, without its provenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    pub event: StreamEvent,
    pub hash: Hash,
}

/// One row per partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub partition: Partition,
    pub position: Position,
    pub hash: Hash,
    /// Changes when a ledger is restored from a backup.
    pub epoch: uuid::Uuid,
    /// No later event of the partition is recorded earlier, whatever a machine's clock says.
    pub recorded_at: Timestamp,
}

/// A head, locked until the end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedHead {
    pub head: Head,
    /// How often a subscriber of the partition was erased. As long as it stays the same, no data
    /// key of the partition was destroyed.
    pub erasures: i64,
}

impl RecordedEvent {
    pub fn ledger_position(&self) -> LedgerPosition {
        LedgerPosition {
            partition: self.partition,
            position: self.position,
        }
    }

    pub fn tip(&self) -> Tip {
        Tip {
            sequence: self.sequence,
            position: self.position,
            event_id: Some(self.event_id),
        }
    }
}

impl Content {
    /// How long the stored form is.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Stored { data, .. } => data.len(),
            Self::Decided { bytes, .. } => *bytes,
        }
    }
}

impl PlainEvent {
    /// An event type as cheaply as it can be kept.
    pub fn known_type(name: &str) -> Cow<'static, str> {
        names::ALL
            .into_iter()
            .find(|known| *known == name)
            .map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
    }
}

impl LogEvent {
    /// Which event it is, of all that ever were.
    pub fn place(&self) -> (Position, Hash) {
        (self.event.event.position, self.hash)
    }
}

impl From<RecordedEvent> for StreamEvent {
    fn from(event: RecordedEvent) -> Self {
        Self {
            tenant_id: event.tenant_id,
            stream_id: event.stream_id,
            event: PlainEvent {
                position: event.position,
                sequence: event.sequence,
                event_id: event.event_id,
                event_type: PlainEvent::known_type(&event.event_type),
                occurred_at: event.occurred_at,
                recorded_at: event.recorded_at,
                subscriber_id: event.subscriber_id,
                content: Content::Stored {
                    schema_version: event.schema_version,
                    data: event.data,
                },
            },
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LedgerPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.position)
    }
}

impl FromStr for LedgerPosition {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (partition, position) = text.split_once('-').ok_or(PositionError)?;
        if !digits(partition) || !digits(position) {
            return Err(PositionError);
        }
        Ok(Self {
            partition: Partition(partition.parse().map_err(|_| PositionError)?),
            position: Position(position.parse().map_err(|_| PositionError)?),
        })
    }
}

impl Serialize for LedgerPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LedgerPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_is_written() {
        let position: LedgerPosition = "3-1042".parse().unwrap();

        assert_eq!(position.to_string(), "3-1042");
        for bad in ["", "3", "3-", "-3", "3--1", "+3-1", "3-1x", "99999-1"] {
            assert_eq!(bad.parse::<LedgerPosition>(), Err(PositionError), "{bad}");
        }
    }
}
