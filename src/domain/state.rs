//! What follows from everything a notification was told.
//!
//! Computed from the whole set of events at once, so late, repeated and reordered facts lead to
//! the same answer. Status is a judgement and comes from a [`PrecedenceRule`]; times are facts.

use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::{self, Anomaly};
use super::event::{BounceType, Fact, Interaction, Report, Sealed, words};
use super::ids::EventId;
use super::message::{MessageIdentity, identify};
use super::notification::{Notification, OnRecord};
use super::precedence::{Ending, Outcome, PrecedenceRule};
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

/// One message's reports, by time, then content.
pub(super) type Facts<'a> = Vec<&'a OnRecord<Box<Report>>>;

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

/// The endings among a message's facts.
fn endings<'a>(
    facts: &'a Facts<'_>,
    retries: &'a Retries<'_>,
) -> impl Iterator<Item = Ending> + 'a {
    facts.iter().filter_map(|fact| {
        let outcome = match &fact.value.fact {
            Fact::Delivered => Outcome::Delivered,
            Fact::Bounced { bounce_type, .. } if *bounce_type != BounceType::Soft => {
                Outcome::Bounced
            }
            Fact::Failed { is_final: true, .. } if !retries.answer(fact) => Outcome::Failed,
            Fact::Sent
            | Fact::Bounced { .. }
            | Fact::Failed { .. }
            | Fact::Seen
            | Fact::Read
            | Fact::Interacted { .. }
            | Fact::Suppressed { .. } => return None,
        };
        Some(Ending {
            outcome,
            occurred_at: fact.occurred_at,
            event_id: fact.event_id,
        })
    })
}

/// What gives a message its status.
struct Decision {
    status: Status,
    occurred_at: Timestamp,
    event_id: EventId,
}

/// `None` while nobody reported a stage that stands.
fn decision(facts: &Facts<'_>, rule: PrecedenceRule, retries: &Retries<'_>) -> Option<Decision> {
    let ended = || {
        let ending = rule.deciding(endings(facts, retries))?;
        Some(Decision {
            status: ending.outcome.into(),
            occurred_at: ending.occurred_at,
            event_id: ending.event_id,
        })
    };
    let stands = |status, is: fn(&Fact) -> bool| {
        let reached = facts
            .iter()
            .filter(|fact| is(&fact.value.fact) && !retries.supersede(fact.occurred_at))
            .min_by_key(|fact| (fact.occurred_at, fact.event_id))?;
        Some(Decision {
            status,
            occurred_at: reached.occurred_at,
            event_id: reached.event_id,
        })
    };
    ended()
        .or_else(|| stands(Status::Sent, |fact| matches!(fact, Fact::Sent)))
        .or_else(|| {
            stands(Status::Suppressed, |fact| {
                matches!(fact, Fact::Suppressed { .. })
            })
        })
}

/// Of the reports with a sealed part the one that decided, else the last.
fn report_shown(facts: &Facts<'_>, decided_by: Option<EventId>) -> Option<EventId> {
    let mut sealed = facts
        .iter()
        .filter(|fact| fact.sealed.is_some())
        .map(|fact| fact.event_id);
    let last = sealed.clone().next_back();
    sealed.find(|id| Some(*id) == decided_by).or(last)
}

fn message(
    identity: MessageIdentity,
    facts: &Facts<'_>,
    open: Status,
    rule: PrecedenceRule,
    retries: &Retries<'_>,
) -> Message {
    let decision = decision(facts, rule, retries);
    let decided_by = decision.as_ref().map(|decision| decision.event_id);
    Message {
        identity,
        status: decision.as_ref().map_or(open, |decision| decision.status),
        status_at: decision.map(|decision| decision.occurred_at),
        decided_by,
        reports: facts.iter().map(|fact| fact.event_id).collect(),
        report_shown: report_shown(facts, decided_by),
        times: times(facts, rule, retries),
        last_sent_at: last_sent_at(facts),
        attempts: attempts(facts),
        bounce_type: last(facts, |fact| match fact {
            Fact::Bounced { bounce_type, .. } => Some(*bounce_type),
            Fact::Sent
            | Fact::Delivered
            | Fact::Failed { .. }
            | Fact::Seen
            | Fact::Read
            | Fact::Interacted { .. }
            | Fact::Suppressed { .. } => None,
        })
        .map(|(_, bounce_type)| bounce_type),
        suppressed_reason: last(facts, |fact| match fact {
            Fact::Suppressed { reason } => Some(reason.clone()),
            Fact::Sent
            | Fact::Delivered
            | Fact::Bounced { .. }
            | Fact::Failed { .. }
            | Fact::Seen
            | Fact::Read
            | Fact::Interacted { .. } => None,
        })
        .map(|(_, reason)| reason),
        interactions: interactions(facts),
        last_error: last_error(facts),
    }
}

fn times(facts: &Facts<'_>, rule: PrecedenceRule, retries: &Retries<'_>) -> Times {
    let first = |is: fn(&Fact) -> bool| {
        facts
            .iter()
            .filter(|fact| is(&fact.value.fact))
            .map(|fact| fact.occurred_at)
            .min()
    };
    let ended = |outcome| {
        rule.deciding(endings(facts, retries).filter(|ending| ending.outcome == outcome))
            .map(|ending| ending.occurred_at)
    };
    Times {
        sent_at: first(|fact| matches!(fact, Fact::Sent)),
        delivered_at: ended(Outcome::Delivered),
        bounced_at: ended(Outcome::Bounced),
        failed_at: ended(Outcome::Failed),
        suppressed_at: first(|fact| matches!(fact, Fact::Suppressed { .. })),
        seen_at: first(|fact| matches!(fact, Fact::Seen)),
        read_at: read_at(facts),
    }
}

/// The first reading since the message was last marked unread.
fn read_at(facts: &Facts<'_>) -> Option<Timestamp> {
    let unread_at = facts
        .iter()
        .filter(|fact| {
            matches!(
                fact.value.fact,
                Fact::Interacted {
                    kind: Interaction::Unread
                }
            )
        })
        .map(|fact| fact.occurred_at)
        .max();
    facts
        .iter()
        .filter(|fact| matches!(fact.value.fact, Fact::Read))
        .map(|fact| fact.occurred_at)
        .filter(|read_at| unread_at.is_none_or(|unread_at| *read_at >= unread_at))
        .min()
}

fn attempts(facts: &Facts<'_>) -> u32 {
    let failures: BTreeSet<_> = facts
        .iter()
        .filter(|fact| matches!(fact.value.fact, Fact::Failed { .. }))
        .map(|fact| {
            let occurred_at = (!fact.value.untimed).then_some(fact.occurred_at);
            (fact.value.fact.natural_key(), occurred_at)
        })
        .collect();
    let numbered = facts.iter().filter_map(|fact| match &fact.value.fact {
        Fact::Failed { attempt, .. } => *attempt,
        Fact::Sent
        | Fact::Delivered
        | Fact::Bounced { .. }
        | Fact::Seen
        | Fact::Read
        | Fact::Interacted { .. }
        | Fact::Suppressed { .. } => None,
    });
    let went_out = facts.iter().any(|fact| {
        matches!(
            fact.value.fact,
            Fact::Sent | Fact::Delivered | Fact::Bounced { .. }
        )
    });
    let counted = u32::try_from(failures.len()).unwrap_or(u32::MAX);
    counted
        .saturating_add(u32::from(went_out))
        .max(numbered.max().unwrap_or_default())
}

fn interactions(facts: &Facts<'_>) -> BTreeMap<Interaction, Timestamp> {
    let mut interactions = BTreeMap::new();
    for fact in facts {
        if let Fact::Interacted { kind } = fact.value.fact {
            let latest = interactions.entry(kind).or_insert(fact.occurred_at);
            *latest = fact.occurred_at.max(*latest);
        }
    }
    interactions
}

/// The latest value a kind of fact gives; the facts come sorted, so ties are decided by content.
fn last<'a, T>(
    facts: &Facts<'a>,
    value: impl Fn(&'a Fact) -> Option<T>,
) -> Option<(&'a OnRecord<Box<Report>>, T)> {
    facts
        .iter()
        .rev()
        .find_map(|fact| value(&fact.value.fact).map(|value| (*fact, value)))
}

fn last_error(facts: &Facts<'_>) -> Option<LastError> {
    let (fact, code) = last(facts, |fact| match fact {
        Fact::Bounced { code, .. } | Fact::Failed { code, .. } => Some(code.clone()),
        Fact::Sent
        | Fact::Delivered
        | Fact::Seen
        | Fact::Read
        | Fact::Interacted { .. }
        | Fact::Suppressed { .. } => None,
    })?;
    Some(LastError {
        code,
        occurred_at: fact.occurred_at,
        event_id: fact.event_id,
        sealed: fact.sealed.clone(),
    })
}

/// Retryable failures of a message that has not got further since, and was not given up.
fn retryable(facts: &Facts<'_>, retries: &Retries<'_>) -> Vec<EventId> {
    let ended_otherwise = PrecedenceRule::default()
        .deciding(endings(facts, retries))
        .is_some_and(|ending| ending.outcome != Outcome::Failed);
    if ended_otherwise {
        return Vec::new();
    }
    let last_sent_at = last_sent_at(facts);
    retries
        .possible(facts)
        .filter(|failure| last_sent_at.is_none_or(|sent_at| failure.occurred_at >= sent_at))
        .map(|failure| failure.event_id)
        .collect()
}

fn last_sent_at(facts: &Facts<'_>) -> Option<Timestamp> {
    facts
        .iter()
        .filter(|fact| matches!(fact.value.fact, Fact::Sent))
        .map(|fact| fact.occurred_at)
        .max()
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

impl Fact {
    /// What makes it the same fact, beside message and time: bounces and interactions differ by
    /// kind, failures by attempt.
    pub(super) fn natural_key(&self) -> (&'static str, Option<&'static str>, Option<u32>) {
        let (kind, attempt) = match self {
            Self::Bounced { bounce_type, .. } => (Some(bounce_type.as_str()), None),
            Self::Interacted { kind } => (Some(kind.as_str()), None),
            Self::Failed { attempt, .. } => (None, *attempt),
            Self::Sent | Self::Delivered | Self::Seen | Self::Read | Self::Suppressed { .. } => {
                (None, None)
            }
        };
        (self.event_name(), kind, attempt)
    }
}
