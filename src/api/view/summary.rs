//! One line that says what an event means.
//!
//! Made when it is read, never stored: it may hold what is sealed, and its wording may change.

use std::fmt::{self, Write as _};

use crate::domain::event::{Body, Fact, Interaction, NotificationEvent, Report, Requested, names};
use crate::domain::integration::IntegrationEvent;
use crate::domain::stored::StoredPayload;
use crate::domain::time::Timestamp;
use crate::ledger::record::RecordedEvent;

/// Most characters of somebody else's words that are repeated.
const WORDS_CHARS_MAX: usize = 200;

/// What an event is about, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub workflow_id: Option<String>,
    pub channel: Option<String>,
    pub summary: String,
}

/// What was known of an event's notification by then, beside what the event itself says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub workflow_id: Option<String>,
    /// Of the message that the event reports on.
    pub channel: Option<String>,
}

impl About {
    fn only(summary: String) -> Self {
        Self {
            workflow_id: None,
            channel: None,
            summary,
        }
    }
}

/// Says what an event means. `reason` is what was sealed beside it as free text; without it, as
/// after an erasure, the line does without. An event that can't be read is named.
pub fn about(event: &RecordedEvent, reason: Option<&str>, known: Known) -> About {
    let stored = StoredPayload {
        event_type: &event.event_type,
        schema_version: event.schema_version,
        data: &event.data,
    };
    let occurred_at = Timestamp::from_micros_clamped(event.occurred_at);
    let unreadable = || About::only(format!("An event of the type {}.", event.event_type));
    match event.event_type.as_str() {
        names::SUBSCRIBER_ERASED => {
            let who = event.subscriber_id.as_deref().unwrap_or("A subscriber");
            About::only(format!("{who} was erased: personal data is gone for good."))
        }
        names::INTEGRATION_CHANGED => {
            match IntegrationEvent::decode(event.event_id, occurred_at, stored) {
                Ok(decoded) => About::only(changed(&decoded)),
                Err(_) => unreadable(),
            }
        }
        _ => match NotificationEvent::decode(event.event_id, occurred_at, stored) {
            Ok(decoded) => notification(&decoded.body, reason, known),
            Err(_) => unreadable(),
        },
    }
}

fn changed(event: &IntegrationEvent) -> String {
    let change = &event.change;
    let name = change.name.as_deref().unwrap_or(&change.object_id);
    format!("{} reported {}: {name}.", change.provider, change.change)
}

fn notification(body: &Body, reason: Option<&str>, known: Known) -> About {
    let of_workflow = |summary| About {
        workflow_id: known.workflow_id.clone(),
        channel: None,
        summary,
    };
    match body {
        Body::Requested(request) => About {
            workflow_id: Some(request.workflow_id.to_string()),
            channel: None,
            summary: requested(request),
        },
        Body::Adopted(adopted) => {
            of_workflow(format!("Taken up from a report of {}.", adopted.provider))
        }
        Body::Queued(queued) => {
            let mut text = if queued.answers.is_empty() {
                "Queued".to_owned()
            } else {
                "Queued again after a failure".to_owned()
            };
            if let Some(queue) = &queued.queue {
                add(&mut text, format_args!(" in {queue}"));
            }
            if let Some(at) = queued.available_at {
                add(&mut text, format_args!(", not before {at}"));
            }
            of_workflow(text + ".")
        }
        Body::Retracted => of_workflow(ended("Retracted".to_owned(), reason)),
        Body::Reported(report) => {
            let own = &report.context.workflow_id;
            let channel = report.message.channel.clone().or(known.channel);
            About {
                workflow_id: own.as_ref().map(ToString::to_string).or(known.workflow_id),
                summary: reported(report, channel.as_deref(), reason),
                channel,
            }
        }
    }
}

fn requested(request: &Requested) -> String {
    let mut text = format!(
        "Requested for {} through {}",
        request.subscriber_id, request.workflow_id
    );
    if !request.channels.is_empty() {
        add(
            &mut text,
            format_args!(" by {}", request.channels.join(", ")),
        );
    }
    if let Some(at) = request.scheduled_at {
        add(&mut text, format_args!(", to be sent at {at}"));
    }
    text + "."
}

fn reported(report: &Report, channel: Option<&str>, reason: Option<&str>) -> String {
    let mut text = message(channel);
    let message = &report.message;
    match &report.fact {
        Fact::Sent => {
            text += " sent";
            if let Some(provider) = &message.provider_id {
                add(&mut text, format_args!(" through {provider}"));
            }
            if let Some(id) = message.provider_message_id.as_ref() {
                add(&mut text, format_args!(" as {id}"));
            }
            text + "."
        }
        Fact::Delivered => {
            text += " delivered";
            if let Some(provider) = &message.provider_id {
                add(&mut text, format_args!(" by {provider}"));
            }
            text + "."
        }
        Fact::Bounced { bounce_type, code } => {
            use crate::domain::event::BounceType as B;

            text += match bounce_type {
                B::Hard => " bounced hard",
                B::Soft => " bounced softly, the provider goes on trying",
                B::Complaint => " was complained about",
                B::Unknown => " bounced",
            };
            ended(coded(text, code.as_deref()), reason)
        }
        Fact::Failed {
            code,
            retryable,
            is_final,
            attempt,
        } => {
            text += " failed";
            if let Some(attempt) = attempt {
                add(&mut text, format_args!(" at attempt {attempt}"));
            }
            text = coded(text, code.as_deref());
            match (retryable, is_final) {
                (_, false) => text += ", and will be tried again",
                (true, true) => text += ", and may be queued again",
                (false, true) => {}
            }
            ended(text, reason)
        }
        Fact::Seen => text + " seen.",
        Fact::Read => text + " read.",
        Fact::Interacted { kind } => {
            text += match kind {
                Interaction::Opened => " opened.",
                Interaction::Clicked => " clicked.",
                Interaction::Archived => " archived.",
                Interaction::Unarchived => " taken back from the archive.",
                Interaction::Snoozed => " snoozed.",
                Interaction::Unsnoozed => " woken from snooze.",
                Interaction::Unread => " marked as unread.",
                Interaction::Deleted => " deleted by the recipient.",
            };
            text
        }
        Fact::Suppressed { reason } => {
            text += " not sent on purpose";
            ended(text, Some(reason))
        }
    }
}

fn message(channel: Option<&str>) -> String {
    match channel {
        None => "Message".to_owned(),
        Some("email") => "E-mail".to_owned(),
        Some("sms") => "SMS".to_owned(),
        Some("push") => "Push message".to_owned(),
        Some("in_app") => "In-app message".to_owned(),
        Some("chat") => "Chat message".to_owned(),
        Some("webhook") => "Webhook call".to_owned(),
        Some(other) => format!("Message by {other}"),
    }
}

fn coded(text: String, code: Option<&str>) -> String {
    match code {
        Some(code) => format!("{text} ({code})"),
        None => text,
    }
}

/// The end of a sentence: somebody's words, if there are any, on one line.
fn ended(text: String, words: Option<&str>) -> String {
    let words = words.unwrap_or_default();
    let mut line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return text + ".";
    }
    if let Some((end, _)) = line.char_indices().nth(WORDS_CHARS_MAX) {
        line.truncate(end);
        line += "…";
    } else if !line.ends_with(['.', '!', '?', '…']) {
        line += ".";
    }
    format!("{text}: {line}")
}

fn add(text: &mut String, more: fmt::Arguments<'_>) {
    // Writing to a `String` does not fail.
    let _ = text.write_fmt(more);
}
