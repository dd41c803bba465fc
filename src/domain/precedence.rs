//! Which fact wins when reports contradict each other.
//!
//! Rules are declared: each has a name and a version, and is never changed once released.
//! A new judgement is a new rule, so that what was shown yesterday can be shown again.

use std::cmp::Reverse;

use super::ids::EventId;
use super::state::Status;
use super::time::Timestamp;

/// A named judgement over the facts of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrecedenceRule {
    /// A terminal fact beats an earlier stage; among terminal facts the later `occurred_at`
    /// wins, and ties go to the worse outcome.
    #[default]
    ProviderTruthV1,
    /// Among terminal facts the earlier `occurred_at` wins, and ties go to the worse outcome;
    /// all else is as in [`ProviderTruthV1`](Self::ProviderTruthV1).
    FirstTerminalWinsV1,
}

/// How a message can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    // From good to bad: the order decides ties.
    Delivered,
    Failed,
    Bounced,
}

/// A fact that ends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub outcome: Outcome,
    pub occurred_at: Timestamp,
    /// The event that says so.
    pub event_id: EventId,
}

impl PrecedenceRule {
    /// Every rule, the default first.
    pub const ALL: [Self; 2] = [Self::ProviderTruthV1, Self::FirstTerminalWinsV1];

    /// The name of every rule, for answers that list the valid ones.
    pub const NAMES: [&str; Self::ALL.len()] = [Self::ALL[0].name(), Self::ALL[1].name()];

    /// Stable: what was shown under a rule is known by its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProviderTruthV1 => "provider-truth-v1",
            Self::FirstTerminalWinsV1 => "first-terminal-wins-v1",
        }
    }

    /// The rule a name means; [`NAMES`](Self::NAMES) has the valid ones.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// The ending that decides, whatever the order they are given in. Of several events that
    /// say the same, the one with the smallest id stands for them.
    pub fn deciding(self, endings: impl IntoIterator<Item = Ending>) -> Option<Ending> {
        let endings = endings.into_iter();
        match self {
            Self::ProviderTruthV1 => endings.max_by_key(|ending| {
                (ending.occurred_at, ending.outcome, Reverse(ending.event_id))
            }),
            Self::FirstTerminalWinsV1 => endings.min_by_key(|ending| {
                (ending.occurred_at, Reverse(ending.outcome), ending.event_id)
            }),
        }
    }

    /// The status of a notification: that of its best message.
    ///
    /// A message that went out is better than one that did not; among those that ended badly
    /// the better ending counts. `None` without messages.
    pub fn best(self, messages: impl IntoIterator<Item = Status>) -> Option<Status> {
        match self {
            Self::ProviderTruthV1 | Self::FirstTerminalWinsV1 => {
                messages.into_iter().max_by_key(|status| match status {
                    Status::Delivered => 7,
                    Status::Sent => 6,
                    Status::Queued => 5,
                    Status::Requested => 4,
                    Status::Failed => 3,
                    Status::Bounced => 2,
                    Status::Suppressed => 1,
                    Status::Retracted => 0,
                })
            }
        }
    }
}

impl From<Outcome> for Status {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Delivered => Self::Delivered,
            Outcome::Failed => Self::Failed,
            Outcome::Bounced => Self::Bounced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64, outcome: Outcome) -> Ending {
        Ending {
            outcome,
            occurred_at: Timestamp::from_micros(micros).unwrap(),
            event_id: EventId(uuid::Uuid::nil()),
        }
    }

    #[test]
    fn the_later_ending_decides() {
        let rule = PrecedenceRule::ProviderTruthV1;
        let endings = [at(2, Outcome::Delivered), at(1, Outcome::Bounced)];

        assert_eq!(rule.deciding(endings), Some(at(2, Outcome::Delivered)));
    }

    #[test]
    fn the_earlier_ending_decides_where_the_first_wins() {
        let rule = PrecedenceRule::FirstTerminalWinsV1;
        let endings = [at(2, Outcome::Delivered), at(1, Outcome::Bounced)];

        assert_eq!(rule.deciding(endings), Some(at(1, Outcome::Bounced)));
    }

    #[test]
    fn a_tie_goes_to_the_worse_outcome() {
        let endings = [
            at(1, Outcome::Bounced),
            at(1, Outcome::Failed),
            at(1, Outcome::Delivered),
        ];

        for rule in PrecedenceRule::ALL {
            assert_eq!(rule.deciding(endings), Some(at(1, Outcome::Bounced)));
        }
    }

    #[test]
    fn of_several_that_say_the_same_the_smallest_id_stands_for_them() {
        let told = |id| Ending {
            event_id: EventId(uuid::Uuid::from_u128(id)),
            ..at(1, Outcome::Delivered)
        };

        for rule in PrecedenceRule::ALL {
            assert_eq!(rule.deciding([told(2), told(1), told(3)]), Some(told(1)));
        }
    }

    #[test]
    fn a_rule_is_found_by_its_name() {
        assert_eq!(
            PrecedenceRule::NAMES,
            ["provider-truth-v1", "first-terminal-wins-v1"]
        );
        for rule in PrecedenceRule::ALL {
            assert_eq!(PrecedenceRule::from_name(rule.name()), Some(rule));
        }
        assert_eq!(PrecedenceRule::from_name("provider-truth"), None);
    }
}
