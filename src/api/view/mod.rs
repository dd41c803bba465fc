//! How notifications and events look from outside. Sealed parts are opened here, or shown to be
//! erased.

mod event;
mod notification;
mod sealed;
mod summary;

pub use event::{ActorView, EventView, event};
pub use notification::{
    AnomalyView, ClassificationView, LastErrorView, ListedNotification, MessageView,
    NotificationView, Recipient, SubscriberView, TimesView, notification,
};

pub use sealed::{JustSealed, Opened, opened};
pub use summary::{About, Known, about};

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a `String` does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
