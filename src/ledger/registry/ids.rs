//! Ids of what the registry holds, and a page's end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::time::Timestamp;

/// Namespace of quarantine entries.
const ENTRY_IDS: Uuid = Uuid::from_u128(0x2b7d_0c1e_58f4_4d0a_9c66_3f1a_7be2_90d5);

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

uuid_id!(
    /// One API key (`UUIDv7`). Not the secret: it may be shown and logged.
    KeyId
);
uuid_id!(
    /// One webhook source. Part of the URL the provider calls.
    SourceId
);
uuid_id!(
    /// One quarantined webhook (`UUIDv5`).
    EntryId
);

impl EntryId {
    /// Follows from source and delivery, so that a provider's retry finds its own entry.
    pub fn of(source_id: SourceId, delivery_id: &str) -> Self {
        // The source's bytes always number 16, so no two pairs give the same name.
        let mut name = source_id.0.as_bytes().to_vec();
        name.extend_from_slice(delivery_id.as_bytes());
        Self(Uuid::new_v5(&ENTRY_IDS, &name))
    }
}

/// The last item of a page, after which the next page begins. Stays valid when that item goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub at: Timestamp,
    pub id: Uuid,
}

impl Cursor {
    /// What a page's items are greater than.
    pub(super) fn bound(after: Option<Self>) -> (i64, Uuid) {
        // No time is negative, so this is before everything.
        after.map_or((-1, Uuid::nil()), |cursor| {
            (cursor.at.as_micros(), cursor.id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_id_follows_from_source_and_delivery_and_never_changes() {
        let source = |number| SourceId(Uuid::from_u128(number));

        let id = EntryId::of(source(1), "novu:msg_1");

        assert_eq!(id.to_string(), "f74c67d5-c906-519b-ab55-e0c182a79874");
        assert_ne!(id, EntryId::of(source(2), "novu:msg_1"));
        assert_ne!(id, EntryId::of(source(1), "novu:msg_2"));
    }
}
