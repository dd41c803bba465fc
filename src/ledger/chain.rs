//! The chain that makes history tamper-evident.
//!
//! `hash(n) = SHA-256(hash(n-1) ‖ SHA-256(0x00 ‖ canonical bytes of event n))`, with 32 zero
//! bytes before the first event of a partition. The `0x00` keeps an event's hash apart from an
//! inner node's, as in RFC 9162 §2.1.1, so that a Merkle tree can be built over the same leaves.
//!
//! Canonical bytes, so that anyone can recompute them: every field of the envelope in the order
//! of [`canonical`], numbers as 8 bytes big-endian, UUIDs as their 16 bytes, texts as their
//! length in bytes (8 bytes big-endian) and their UTF-8, an absent text as the length
//! `0xFFFF_FFFF_FFFF_FFFF`. The hash itself is not part of them.

use ring::digest::{Context, SHA256};

use super::record::{Hash, Provenance, RecordedEvent};

/// Before the first event of every partition.
pub const GENESIS: Hash = [0; 32];

/// Distinguishes a leaf from an inner node.
const LEAF: u8 = 0x00;
const ABSENT: u64 = u64::MAX;

/// What the hash of an event covers: all of it. Borrowed, because appending hashes every event.
#[derive(Debug)]
pub struct Link<'a> {
    pub partition: i16,
    pub position: i64,
    pub tenant_id: &'a str,
    pub stream_id: uuid::Uuid,
    pub sequence: i64,
    pub event_id: uuid::Uuid,
    pub event_type: &'a str,
    pub schema_version: i32,
    pub occurred_at: i64,
    pub recorded_at: i64,
    pub actor_kind: &'a str,
    pub actor_id: &'a str,
    pub source: &'a str,
    pub correlation_id: Option<&'a str>,
    pub causation_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    pub subscriber_id: Option<&'a str>,
    pub data: &'a str,
}

/// The hash of an event that follows `previous`.
pub fn next(previous: &Hash, link: &Link<'_>) -> Hash {
    let mut leaf = Context::new(&SHA256);
    leaf.update(&[LEAF]);
    canonical(link, |bytes| leaf.update(bytes));
    let mut node = Context::new(&SHA256);
    node.update(previous);
    node.update(leaf.finish().as_ref());
    let mut hash = [0; 32];
    hash.copy_from_slice(node.finish().as_ref());
    hash
}

/// Feeds the canonical bytes, field by field, to `sink`.
fn canonical(link: &Link<'_>, mut sink: impl FnMut(&[u8])) {
    let mut number = |value: i64| sink(&value.to_be_bytes());
    number(link.partition.into());
    number(link.position);
    number(link.sequence);
    number(link.schema_version.into());
    number(link.occurred_at);
    number(link.recorded_at);
    sink(link.stream_id.as_bytes());
    sink(link.event_id.as_bytes());
    let mut text = |value: Option<&str>| match value {
        Some(value) => {
            sink(&(value.len() as u64).to_be_bytes());
            sink(value.as_bytes());
        }
        None => sink(&ABSENT.to_be_bytes()),
    };
    text(Some(link.tenant_id));
    text(Some(link.event_type));
    text(Some(link.actor_kind));
    text(Some(link.actor_id));
    text(Some(link.source));
    text(link.correlation_id);
    text(link.causation_id);
    text(link.traceparent);
    text(link.subscriber_id);
    text(Some(link.data));
}

impl<'a> From<&'a RecordedEvent> for Link<'a> {
    fn from(event: &'a RecordedEvent) -> Self {
        Self {
            partition: event.partition.0,
            position: event.position.0,
            tenant_id: &event.tenant_id,
            stream_id: event.stream_id.0,
            sequence: event.sequence.0,
            event_id: event.event_id.0,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            occurred_at: event.occurred_at,
            recorded_at: event.recorded_at,
            actor_kind: &event.actor_kind,
            actor_id: &event.actor_id,
            source: &event.source,
            correlation_id: event.correlation_id.as_deref(),
            causation_id: event.causation_id.as_deref(),
            traceparent: event.traceparent.as_deref(),
            subscriber_id: event.subscriber_id.as_deref(),
            data: &event.data,
        }
    }
}

impl<'a> Link<'a> {
    /// Fills in where the event came from.
    #[must_use]
    pub fn with_provenance(mut self, provenance: &'a Provenance) -> Self {
        self.actor_kind = provenance.actor.kind.as_str();
        self.actor_id = &provenance.actor.id;
        self.source = provenance.source.as_str();
        self.correlation_id = provenance.correlation_id.as_deref();
        self.causation_id = provenance.causation_id.as_deref();
        self.traceparent = provenance.traceparent.as_deref();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link<'static> {
        Link {
            partition: 3,
            position: 1042,
            tenant_id: "acme",
            stream_id: uuid::Uuid::from_u128(1),
            sequence: 1,
            event_id: uuid::Uuid::from_u128(2),
            event_type: "notification.retracted",
            schema_version: 1,
            occurred_at: 5,
            recorded_at: 6,
            actor_kind: "key",
            actor_id: "k",
            source: "api",
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            subscriber_id: Some("s"),
            data: "{}",
        }
    }

    fn bytes(link: &Link<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        canonical(link, |part| bytes.extend_from_slice(part));
        bytes
    }

    /// The published form of the chain: it must never change.
    #[test]
    fn a_known_event_has_a_known_hash() {
        let hash = next(&GENESIS, &link());

        let hex: String = hash
            .iter()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(hex, KNOWN_HASH);
    }

    const KNOWN_HASH: &str = "e18601e12826ab25775970d07750cc78f54e76bf1eb1c67f80715f3ab6f42b95";

    #[test]
    fn text_cannot_move_between_fields_unnoticed() {
        let one = Link {
            actor_id: "ab",
            source: "c",
            ..link()
        };
        let other = Link {
            actor_id: "a",
            source: "bc",
            ..link()
        };

        assert_ne!(bytes(&one), bytes(&other));
    }

    #[test]
    fn an_absent_text_is_not_an_empty_one() {
        assert_ne!(
            bytes(&link()),
            bytes(&Link {
                causation_id: Some(""),
                ..link()
            })
        );
    }
}
