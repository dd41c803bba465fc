//! Which failures of a message a retry has answered, and which it still could.
//!
//! A retry begins the message anew: what failed before no longer ends it, and that it was sent
//! or suppressed before no longer says where it stands.

use std::sync::Arc;

use std::collections::BTreeSet;

use super::event::{Fact, Report};
use super::facts::Facts;
use super::ids::EventId;
use super::notification::OnRecord;
use super::time::Timestamp;

/// The failures of one message that were answered by queueing it again.
#[derive(Debug)]
pub(super) struct Retries<'a> {
    answered: Vec<&'a OnRecord<Arc<Report>>>,
}

impl<'a> Retries<'a> {
    pub(super) fn of(facts: &Facts<'a>, answered: &BTreeSet<EventId>) -> Self {
        let is_answered = |fact: &&OnRecord<Arc<Report>>| {
            matches!(fact.value.fact, Fact::Failed { .. }) && answered.contains(&fact.event_id)
        };
        Self {
            answered: facts.iter().copied().filter(is_answered).collect(),
        }
    }

    /// A failure is answered with every earlier one, and in whoever's words it is on record.
    pub(super) fn answer(&self, failure: &OnRecord<Arc<Report>>) -> bool {
        self.answered.iter().any(|answered| {
            failure.occurred_at < answered.occurred_at
                || (failure.occurred_at == answered.occurred_at
                    && failure.value.fact == answered.value.fact)
        })
    }

    /// The message failed after that moment and begins anew, so a stage it had then reached is
    /// past.
    pub(super) fn supersede(&self, reached_at: Timestamp) -> bool {
        self.answered
            .iter()
            .any(|answered| reached_at < answered.occurred_at)
    }

    /// Retryable failures without an answer, since the message was last given up.
    pub(super) fn possible(
        &self,
        facts: &'a Facts<'_>,
    ) -> impl Iterator<Item = &'a OnRecord<Arc<Report>>> {
        let given_up_at = facts
            .iter()
            .filter(|fact| gives_up(&fact.value.fact) && !self.answer(fact))
            .map(|fact| fact.occurred_at)
            .max();
        facts.iter().copied().filter(move |fact| {
            matches!(
                fact.value.fact,
                Fact::Failed {
                    retryable: true,
                    ..
                }
            ) && !self.answer(fact)
                && given_up_at.is_none_or(|given_up_at| fact.occurred_at > given_up_at)
        })
    }
}

/// Says that nobody will try again.
fn gives_up(fact: &Fact) -> bool {
    match fact {
        Fact::Suppressed { .. } => true,
        Fact::Failed {
            retryable,
            is_final,
            ..
        } => *is_final && !*retryable,
        Fact::Sent
        | Fact::Delivered
        | Fact::Bounced { .. }
        | Fact::Seen
        | Fact::Read
        | Fact::Interacted { .. } => false,
    }
}
