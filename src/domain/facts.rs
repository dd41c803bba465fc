//! What follows from the facts of one message.
//!
//! The facts come sorted, so everything here depends on what they are and not on how they came.

use std::sync::Arc;

use std::collections::{BTreeMap, BTreeSet};

use super::event::{BounceType, Fact, Interaction, Report};
use super::ids::EventId;
use super::message::MessageIdentity;
use super::notification::OnRecord;
use super::precedence::{Ending, Outcome, PrecedenceRule};
use super::retries::Retries;
use super::state::{LastError, Message, Status, Times};
use super::time::Timestamp;

/// One message's reports, by time, then content.
pub(super) type Facts<'a> = Vec<&'a OnRecord<Arc<Report>>>;

/// The message whose facts these are. Without a stage that stands it is where the notification
/// is: `open`.
pub(super) fn message(
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

/// Retryable failures of a message that has not got further since, and was not given up.
pub(super) fn retryable(facts: &Facts<'_>, retries: &Retries<'_>) -> Vec<EventId> {
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
) -> Option<(&'a OnRecord<Arc<Report>>, T)> {
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

fn last_sent_at(facts: &Facts<'_>) -> Option<Timestamp> {
    facts
        .iter()
        .filter(|fact| matches!(fact.value.fact, Fact::Sent))
        .map(|fact| fact.occurred_at)
        .max()
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
