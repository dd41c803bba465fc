//! Names and numbers of things. Each is its own type, so that swapping two does not compile.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};
use uuid::Uuid;

use super::text::Text;

/// Most characters an id or a name has.
pub const NAME_CHARS_MAX: usize = 256;
/// Most characters a tenant's slug has: it also fits a DNS label.
pub const TENANT_CHARS_MAX: usize = 63;

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("must not be empty")]
    Empty,
    #[error("has {chars} characters; at most {NAME_CHARS_MAX} are allowed")]
    TooLong { chars: usize },
    /// Control characters end up in logs and terminals, and PostgreSQL can't store U+0000.
    #[error("must not contain control characters")]
    ControlCharacter,
    #[error(
        "must be 1 to {TENANT_CHARS_MAX} of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit"
    )]
    NotASlug,
}

/// Checks the rules every id and name shares: 1 to 256 characters, none of them a control character.
///
/// # Errors
///
/// [`IdError`] saying which rule is broken.
pub fn check_name(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    // Bytes bound characters from above, so short texts need no counting.
    if text.len() > NAME_CHARS_MAX {
        let chars = text.chars().count();
        if chars > NAME_CHARS_MAX {
            return Err(IdError::TooLong { chars });
        }
    }
    // The same for ASCII, but without telling characters apart.
    let has_control = if text.is_ascii() {
        text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    };
    if has_control {
        return Err(IdError::ControlCharacter);
    }
    Ok(())
}

/// Checks `[a-z0-9][a-z0-9._-]{0,62}`.
///
/// # Errors
///
/// [`IdError::NotASlug`] for anything else.
pub fn check_slug(text: &str) -> Result<(), IdError> {
    let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let begins = bytes.first().is_some_and(|first| letter_or_digit(*first));
    let goes_on = bytes
        .iter()
        .all(|byte| letter_or_digit(*byte) || matches!(byte, b'.' | b'_' | b'-'));
    if begins && goes_on && bytes.len() <= TENANT_CHARS_MAX {
        Ok(())
    } else {
        Err(IdError::NotASlug)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            ///
            /// [`IdError`] saying which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, IdError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Text::deserialize(deserializer)?;
                Self::new(&text.0).map_err(de::Error::custom)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

text_id!(
    /// The isolation boundary: a slug.
    TenantId, check_slug
);
text_id!(
    /// Whom a notification is for, in the caller's own words. Not sealed.
    SubscriberId, check_name
);
text_id!(
    /// The workflow a notification went through.
    WorkflowId, check_name
);
uuid_id!(
    /// One notification. Usually a `UUIDv7`; doubles as Novu's `transactionId`.
    NotificationId
);
uuid_id!(
    /// One recorded event (`UUIDv7`).
    EventId
);
uuid_id!(
    /// One aggregate's events. A notification's stream has the notification's id.
    StreamId
);

impl From<NotificationId> for StreamId {
    fn from(id: NotificationId) -> Self {
        Self(id.0)
    }
}

impl From<StreamId> for NotificationId {
    fn from(id: StreamId) -> Self {
        Self(id.0)
    }
}

/// An event's number in its stream: 1, 2, 3 without gaps. 0 is the empty stream.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sequence(pub i64);

impl Sequence {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_a_slug() {
        for good in ["a", "acme", "7-eleven", "a.b_c-d", &"x".repeat(63)] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(TenantId::new(bad), Err(IdError::NotASlug), "{bad}");
        }
    }

    #[test]
    fn a_name_counts_characters_not_bytes() {
        assert!(SubscriberId::new(&"ä".repeat(256)).is_ok());
        assert_eq!(
            SubscriberId::new(&"ä".repeat(257)),
            Err(IdError::TooLong { chars: 257 })
        );
    }

    #[test]
    fn a_name_has_no_control_characters() {
        assert_eq!(SubscriberId::new("a\0b"), Err(IdError::ControlCharacter));
        assert_eq!(SubscriberId::new("a\nb"), Err(IdError::ControlCharacter));
    }
}
