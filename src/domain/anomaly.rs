//! Contradictions in what was reported. They are shown, never dropped.

use serde::Serialize;

use super::notification::Notification;
use super::state::{Message, Status};

/// Something that can't all be true, or came too late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: String,
}

/// Every contradiction on record, message by message.
pub(super) fn find(notification: &Notification, messages: &[Message]) -> Vec<Anomaly> {
    messages
        .iter()
        .flat_map(|message| of_message(notification, message))
        .collect()
}

fn of_message(notification: &Notification, message: &Message) -> Vec<Anomaly> {
    let key = &message.identity.key;
    let times = &message.times;
    let retracted_at = notification
        .retraction
        .as_ref()
        .map(|retracted| retracted.occurred_at);
    let after_retraction =
        |at: Option<_>| matches!((at, retracted_at), (Some(at), Some(retracted)) if at > retracted);
    let delivered = times.delivered_at.is_some();
    let checks = [
        (
            delivered && times.bounced_at.is_some(),
            "delivered_and_bounced",
            "was reported both delivered and bounced.",
        ),
        (
            delivered && times.failed_at.is_some(),
            "delivered_and_failed",
            "was reported both delivered and failed for good.",
        ),
        (
            delivered && times.sent_at.is_none(),
            "delivered_never_sent",
            "was reported delivered, but nobody reported sending it.",
        ),
        (
            after_retraction(message.last_sent_at),
            "sent_after_retraction",
            "was sent after the notification had been retracted.",
        ),
        (
            delivered && retracted_at.is_some(),
            "retraction_too_late",
            "reached its recipient although the notification was retracted.",
        ),
        (
            times.suppressed_at.is_some() && message.status != Status::Suppressed,
            "sent_despite_suppression",
            "was reported suppressed, yet it went further.",
        ),
    ];
    checks
        .into_iter()
        .filter(|(found, _, _)| *found)
        .map(|(_, code, what)| Anomaly {
            code,
            detail: format!("Message {key} {what}"),
        })
        .collect()
}
