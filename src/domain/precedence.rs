//! Which fact wins when reports contradict each other.
//!
//! Rules are declared: each has a name and a version, and is never changed once released.
//! A new judgement is a new rule, so that what was shown yesterday can be shown again.

use super::state::Status;
use super::time::Timestamp;

/// A named judgement over the facts of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrecedenceRule {
    /// A terminal fact beats an earlier stage; among terminal facts the later `occurred_at`
    /// wins, and ties go to the worse outcome.
    #[default]
    ProviderTruthV1,
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
}

impl PrecedenceRule {
    pub fn name(self) -> &'static str {
        match self {
            Self::ProviderTruthV1 => "provider-truth-v1",
        }
    }

    /// The ending that decides, whatever the order they are given in.
    pub fn deciding(self, endings: impl IntoIterator<Item = Ending>) -> Option<Ending> {
        match self {
            Self::ProviderTruthV1 => endings
                .into_iter()
                .max_by_key(|ending| (ending.occurred_at, ending.outcome)),
        }
    }

    /// The status of a notification: that of its best message.
    ///
    /// A message that went out is better than one that did not; among those that ended badly
    /// the better ending counts. `None` without messages.
    pub fn best(self, messages: impl IntoIterator<Item = Status>) -> Option<Status> {
        match self {
            Self::ProviderTruthV1 => messages.into_iter().max_by_key(|status| match status {
                Status::Delivered => 7,
                Status::Sent => 6,
                Status::Queued => 5,
                Status::Requested => 4,
                Status::Failed => 3,
                Status::Bounced => 2,
                Status::Suppressed => 1,
                Status::Retracted => 0,
            }),
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
        }
    }

    #[test]
    fn the_later_ending_decides() {
        let rule = PrecedenceRule::ProviderTruthV1;
        let endings = [at(2, Outcome::Delivered), at(1, Outcome::Bounced)];

        assert_eq!(rule.deciding(endings), Some(at(2, Outcome::Delivered)));
    }

    #[test]
    fn a_tie_goes_to_the_worse_outcome() {
        let rule = PrecedenceRule::ProviderTruthV1;
        let endings = [
            at(1, Outcome::Bounced),
            at(1, Outcome::Failed),
            at(1, Outcome::Delivered),
        ];

        assert_eq!(rule.deciding(endings), Some(at(1, Outcome::Bounced)));
    }
}
