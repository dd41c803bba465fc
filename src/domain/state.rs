//! What follows from everything a notification was told.
//!
//! Computed from the whole set of events at once, so late, repeated and reordered facts lead to
//! the same answer. Status is a judgement and comes from a [`PrecedenceRule`]; times are facts.

use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::{self, Anomaly};
use super::event::{BounceType, Interaction, Sealed, words};
use super::facts::{Facts, message, retryable};
use super::ids::EventId;
use super::message::{MessageIdentity, identify};
use super::notification::Notification;
use super::precedence::PrecedenceRule;
use super::retries::Retries;
use super::time::Timestamp;

use serde::{Deserialize, Serialize};

words!(
    /// Where a notification or message stands.
    Status {
        Requested = "requested",
        Queued = "queued",
        Sent = "sent",
        Delivered = "delivered",
        Bounced = "bounced",
        Failed = "failed",
        Retracted = "retracted",
        Suppressed = "suppressed",
    }
);

impl Status {
    /// Nothing more is expected of a message that stands here.
    pub fn is_end(self) -> bool {
        match self {
            Self::Delivered | Self::Bounced | Self::Failed | Self::Retracted | Self::Suppressed => {
                true
            }
            Self::Requested | Self::Queued | Self::Sent => false,
        }
    }
}

/// The whole of one notification's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub status: Status,
    /// When it began: when it was requested, else the time of the earliest report. `None` while
    /// neither is on record.
    pub occurred_at: Option<Timestamp>,
    /// In order of their keys.
    pub messages: Vec<Message>,
    pub times: Times,
    pub queued_at: Option<Timestamp>,
    pub anomalies: Vec<Anomaly>,
    /// Retryable failures that no retry has answered yet. The same under every rule, since
    /// commands are decided under the default one.
    pub unanswered_failures: Vec<EventId>,
}

/// When each stage was reached. An end that was reported several times counts from the report
/// that the rule would have decide between them, so the time of the end shown is the one that
/// decided. For a notification: by its first message, and for bad ends by its last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub sent_at: Option<Timestamp>,
    pub delivered_at: Option<Timestamp>,
    pub bounced_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
    pub suppressed_at: Option<Timestamp>,
    pub seen_at: Option<Timestamp>,
    pub read_at: Option<Timestamp>,
}

/// One hand-over to one channel, step and provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub identity: MessageIdentity,
    pub status: Status,
    /// When that status was reached: the time of `decided_by`.
    pub status_at: Option<Timestamp>,
    /// The event whose fact gives the status: the ending that decides, else the earliest sending
    /// or suppression that no retry has superseded. Of several that say it at the same time, the
    /// one with the smallest id. `None` while the message is merely requested or queued.
    pub decided_by: Option<EventId>,
    /// Every event about this message, by time, then content, then id.
    pub reports: Vec<EventId>,
    /// The event whose sealed part shows the report best: `decided_by` if it has one, else the
    /// last of `reports` that has. `None` if none has.
    pub report_shown: Option<EventId>,
    pub times: Times,
    /// When it was last handed over: a retry is sent again.
    pub last_sent_at: Option<Timestamp>,
    /// Hand-overs to the provider that are known of.
    pub attempts: u32,
    pub bounce_type: Option<BounceType>,
    pub suppressed_reason: Option<String>,
    /// When each was last done.
    pub interactions: BTreeMap<Interaction, Timestamp>,
    pub last_error: Option<LastError>,
}

/// The latest failure or bounce of a message, whether or not it ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    pub code: Option<String>,
    pub occurred_at: Timestamp,
    /// The event whose sealed part holds the provider's words.
    pub event_id: EventId,
    pub sealed: Option<Sealed>,
}

impl Summary {
    pub(super) fn of(notification: &Notification, rule: PrecedenceRule) -> Self {
        let answered: BTreeSet<EventId> = notification
            .queued
            .iter()
            .flat_map(|queued| queued.value.answers.iter().copied())
            .collect();
        let open = if notification.queued.is_empty() {
            Status::Requested
        } else {
            Status::Queued
        };
        let facts = facts_by_message(notification);
        let mut unanswered_failures = Vec::new();
        let mut messages = Vec::with_capacity(facts.len());
        for (identity, facts) in facts {
            let retries = Retries::of(&facts, &answered);
            unanswered_failures.extend(retryable(&facts, &retries));
            messages.push(message(identity, &facts, open, rule, &retries));
        }
        unanswered_failures.sort_unstable();
        let times = Times::of_all(&messages);
        Self {
            status: status(notification, &messages, open, rule),
            occurred_at: began_at(notification),
            anomalies: anomaly::find(notification, &messages),
            queued_at: notification.queued.last().map(|queued| queued.occurred_at),
            messages,
            times,
            unanswered_failures,
        }
    }
}

fn began_at(notification: &Notification) -> Option<Timestamp> {
    let requested_at = notification
        .request
        .as_ref()
        .map(|request| request.occurred_at);
    // By time, so the first report is the earliest.
    let reported_at = || {
        notification
            .reports
            .first()
            .map(|report| report.occurred_at)
    };
    requested_at.or_else(reported_at)
}

fn facts_by_message(notification: &Notification) -> Vec<(MessageIdentity, Facts<'_>)> {
    let references: Vec<_> = notification
        .reports
        .iter()
        .map(|report| &report.value.message)
        .collect();
    let found = identify(&references);
    let mut facts: Vec<_> = found
        .messages
        .into_iter()
        .map(|identity| (identity, Vec::new()))
        .collect();
    for (report, message) in notification.reports.iter().zip(found.assigned) {
        facts[message].1.push(report);
    }
    facts
}

fn status(
    notification: &Notification,
    messages: &[Message],
    open: Status,
    rule: PrecedenceRule,
) -> Status {
    let best = rule.best(messages.iter().map(|message| message.status));
    match best {
        Some(Status::Delivered) => Status::Delivered,
        _ if notification.retraction.is_some() => Status::Retracted,
        Some(status) => status,
        None => open,
    }
}

impl Times {
    fn of_all(messages: &[Message]) -> Self {
        let times = |part: fn(&Times) -> Option<Timestamp>| {
            messages
                .iter()
                .filter_map(move |message| part(&message.times))
        };
        Self {
            sent_at: times(|times| times.sent_at).min(),
            delivered_at: times(|times| times.delivered_at).min(),
            bounced_at: times(|times| times.bounced_at).max(),
            failed_at: times(|times| times.failed_at).max(),
            suppressed_at: times(|times| times.suppressed_at).min(),
            seen_at: times(|times| times.seen_at).min(),
            read_at: times(|times| times.read_at).min(),
        }
    }
}
