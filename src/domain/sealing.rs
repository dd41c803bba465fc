//! The line between what the rules decide and what may be stored: private parts pass it only
//! encrypted. How is the ledger's business; here is the trait it implements.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::event::{NotificationEvent, Sealed};
use super::ids::{EventId, SubscriberId};

/// Under whose key something is sealed. Destroying that key erases it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    Subscriber(SubscriberId),
    /// Nobody was named yet: the stream has a key of its own.
    Stream,
}

/// Encrypts the private part of one stream's events.
#[async_trait]
pub trait Sealer: Send + Sync + fmt::Debug {
    /// Seals `text` for good to the stream and event it belongs to.
    ///
    /// # Errors
    ///
    /// [`SealingError`] when the subject's key can't be had.
    async fn seal(
        &self,
        subject: &Subject,
        event_id: EventId,
        text: &str,
    ) -> Result<Sealed, SealingError>;
}

/// The subject's key can't be had, so nothing may be stored.
#[derive(Debug, thiserror::Error)]
#[error("the subject's data key is not available")]
pub struct SealingError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// An event that was decided, and the private text that must be sealed before it can be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub(super) event: NotificationEvent,
    pub(super) private: Option<(Subject, Arc<str>)>,
}

impl Draft {
    /// # Errors
    ///
    /// [`SealingError`] when the subject's key can't be had.
    pub async fn seal(self, sealer: &dyn Sealer) -> Result<NotificationEvent, SealingError> {
        let mut event = self.event;
        if let Some((subject, text)) = self.private {
            event.sealed = Some(sealer.seal(&subject, event.event_id, &text).await?);
        }
        Ok(event)
    }

    /// The event without its private part.
    pub fn event(&self) -> &NotificationEvent {
        &self.event
    }
}
