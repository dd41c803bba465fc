//! Messages that this process has stored, and the streams they belong to.
//!
//! The next webhook about a message mostly comes to the process that recorded the one before. Which
//! stream a message belongs to is never changed once it is on record, so whoever stored it need not
//! ask. Two things must be certain: that it was this very row that was stored, and not another one
//! that was there before; and that it is still on record. So only those are remembered that the
//! database counted as added, and only for as long as the connection through which they were: a
//! database that takes over after a failure may lack them.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lru::LruCache;

use super::record::StreamKey;
use super::recordable::MESSAGE_REFERENCE;
use super::storage::ReferencePlace;
use crate::domain::ids::StreamId;

/// Most messages that are remembered: those of some seconds under load. About 200 bytes each.
const MESSAGES_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Shared by all connections of one ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    messages: Arc<Mutex<LruCache<ReferencePlace, Stored>>>,
}

/// One message's stream, and through which connection it was stored.
#[derive(Clone, Debug)]
struct Stored {
    stream_id: StreamId,
    connection: Weak<()>,
}

/// What is remembered through one connection; all of it is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Remembering {
    all: Remembered,
    connection: Arc<()>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            messages: Arc::new(Mutex::new(LruCache::new(MESSAGES_MAX))),
        }
    }
}

impl Remembered {
    /// For a new connection.
    pub(super) fn through_connection(&self) -> Remembering {
        Remembering {
            all: self.clone(),
            connection: Arc::default(),
        }
    }

    pub(super) fn stream_of(&self, reference: &ReferencePlace) -> Option<StreamId> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = messages.get(reference)?;
        (stored.connection.strong_count() > 0).then_some(stored.stream_id)
    }
}

impl Remembering {
    /// These references are on record now. Keeps those of messages.
    pub(super) fn keep(&self, references: &[(&StreamKey, &str)]) {
        let mut messages = self
            .all
            .messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (stream, reference) in references {
            if !is_of_message(reference) {
                continue;
            }
            let place = ReferencePlace {
                partition: stream.partition,
                tenant_id: stream.tenant_id.clone(),
                reference: (*reference).to_owned(),
            };
            let stored = Stored {
                stream_id: stream.stream_id,
                connection: Arc::downgrade(&self.connection),
            };
            messages.put(place, stored);
        }
    }
}

/// Whether it is the platform's own id of a message.
pub(super) fn is_of_message(reference: &str) -> bool {
    reference.starts_with(MESSAGE_REFERENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TenantId;
    use crate::ledger::record::Partition;

    fn stream(number: u128) -> StreamKey {
        StreamKey {
            partition: Partition(3),
            tenant_id: TenantId::new("acme").unwrap(),
            stream_id: StreamId(uuid::Uuid::from_u128(number)),
        }
    }

    fn place(reference: &str) -> ReferencePlace {
        ReferencePlace {
            partition: Partition(3),
            tenant_id: TenantId::new("acme").unwrap(),
            reference: reference.to_owned(),
        }
    }

    #[test]
    fn only_messages_are_remembered() {
        let remembered = Remembered::default();
        let connection = remembered.through_connection();

        connection.keep(&[(&stream(1), "message:m1"), (&stream(1), "provider:ok")]);

        let found = |reference| remembered.stream_of(&place(reference));
        assert_eq!(found("message:m1"), Some(stream(1).stream_id));
        assert_eq!(found("provider:ok"), None);
        assert_eq!(found("message:m2"), None);
    }

    #[test]
    fn nothing_is_remembered_beyond_its_connection() {
        let remembered = Remembered::default();
        let lost = remembered.through_connection();
        let living = remembered.through_connection();
        lost.keep(&[(&stream(1), "message:m1")]);
        living.keep(&[(&stream(2), "message:m2")]);

        drop(lost);

        assert_eq!(remembered.stream_of(&place("message:m1")), None);
        assert_eq!(
            remembered.stream_of(&place("message:m2")),
            Some(stream(2).stream_id)
        );
    }
}
