//! Which references mean the same message.
//!
//! A worker may say "the e-mail", a provider "`sg-7Kd2`", Novu "`66f0…0301`, which the provider
//! calls `sg-7Kd2`". The answer depends on the *set* of references only, never on the order in
//! which they came:
//!
//! 1. the same platform id (`message_id`) is the same message;
//! 2. the same `provider_message_id` is the same message, unless its references disagree about
//!    channel or provider: then each combination is a message of its own;
//! 3. a reference without ids belongs to the one message that fits it. If several fit, nobody
//!    can tell, and it becomes a message of its own.

use super::event::{MessageRef, is_told};
use super::telling_apart::told_apart;

/// The messages that a set of references names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// In order of their keys.
    pub messages: Vec<MessageIdentity>,
    /// For each reference, in the order given, the index of its message.
    pub assigned: Vec<usize>,
}

/// What is known about which message it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageIdentity {
    /// Names the message within its notification.
    pub key: String,
    pub message_id: Option<String>,
    pub provider_message_id: Option<String>,
    pub channel: Option<String>,
    pub provider_id: Option<String>,
    pub step_id: Option<String>,
}

impl MessageRef {
    /// Leads to the message `known` leads to and says no more about it, whatever else is
    /// reported: without it, every set of references with `known` gives the same messages.
    pub(super) fn adds_nothing_to(&self, known: &Self) -> bool {
        // A bare reference may move to another message, and a provider's id may turn out to be
        // used in several places. Only an id in the same place stays with `known` for good.
        let stays_together = self.is_identified()
            && self.channel == known.channel
            && self.provider_id == known.provider_id;
        self == known
            || (stays_together
                && is_told(self.message_id.as_ref(), known.message_id.as_ref())
                && is_told(
                    self.provider_message_id.as_ref(),
                    known.provider_message_id.as_ref(),
                )
                && is_told(self.step_id.as_ref(), known.step_id.as_ref()))
    }
}

/// Sorts references into messages.
pub fn identify(references: &[&MessageRef]) -> Messages {
    the_only_message(references).unwrap_or_else(|| told_apart(references))
}

/// The message of references that agree in all they say: at most one value for each part, and
/// those with ids linked. Nearly every notification comes down to this, and it gets by without
/// the sets that telling messages apart takes. `None` where only those can tell.
fn the_only_message(references: &[&MessageRef]) -> Option<Messages> {
    let mut all = references.iter();
    let mut said = Said::by(all.next()?);
    for reference in all {
        said.agree(reference)?;
    }
    let has_both_ids =
        |parts: &Said<'_>| parts.message_id.is_some() && parts.provider_message_id.is_some();
    let is_linked = || {
        let mut each = references.iter().map(|reference| Said::by(reference));
        each.any(|parts| has_both_ids(&parts))
    };
    // Two kinds of id that nobody used together are two messages.
    if has_both_ids(&said) && !is_linked() {
        return None;
    }
    Some(Messages {
        messages: vec![said.identity()],
        assigned: vec![0; references.len()],
    })
}

/// One value for each part of a message's name.
pub(super) struct Said<'a> {
    pub(super) message_id: Option<&'a str>,
    pub(super) provider_message_id: Option<&'a str>,
    pub(super) channel: Option<&'a str>,
    pub(super) provider_id: Option<&'a str>,
    pub(super) step_id: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn by(reference: &'a MessageRef) -> Self {
        Self {
            message_id: reference.message_id.as_deref(),
            provider_message_id: reference.provider_message_id.as_deref(),
            channel: reference.channel.as_deref(),
            provider_id: reference.provider_id.as_deref(),
            step_id: reference.step_id.as_deref(),
        }
    }

    /// Takes in what `reference` says besides; `None` if it says otherwise.
    fn agree(&mut self, reference: &'a MessageRef) -> Option<()> {
        let other = Self::by(reference);
        for (known, said) in [
            (&mut self.message_id, other.message_id),
            (&mut self.provider_message_id, other.provider_message_id),
            (&mut self.channel, other.channel),
            (&mut self.provider_id, other.provider_id),
            (&mut self.step_id, other.step_id),
        ] {
            let Some(said) = said else { continue };
            if *known.get_or_insert(said) != said {
                return None;
            }
        }
        Some(())
    }

    pub(super) fn identity(&self) -> MessageIdentity {
        let owned = |part: Option<&str>| part.map(str::to_owned);
        let mut identity = MessageIdentity {
            key: String::new(),
            message_id: owned(self.message_id),
            provider_message_id: owned(self.provider_message_id),
            channel: owned(self.channel),
            provider_id: owned(self.provider_id),
            step_id: owned(self.step_id),
        };
        let id = self.provider_message_id.or(self.message_id);
        identity.key = id.map_or_else(|| place(&identity), str::to_owned);
        identity
    }
}

/// A message's place, for messages without an id: `email/welcome/sendgrid`, `-` for the unknown.
pub(super) fn place(identity: &MessageIdentity) -> String {
    let parts = [&identity.channel, &identity.step_id, &identity.provider_id];
    parts.map(|part| part.as_deref().unwrap_or("-")).join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn reference(parts: [&str; 5]) -> MessageRef {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        MessageRef {
            message_id: part(parts[0]),
            provider_message_id: part(parts[1]),
            channel: part(parts[2]),
            provider_id: part(parts[3]),
            step_id: part(parts[4]),
        }
    }

    fn keys(references: &[[&str; 5]]) -> Vec<String> {
        let references: Vec<_> = references.iter().map(|parts| reference(*parts)).collect();
        let messages = identify(&references.iter().collect::<Vec<_>>());
        messages
            .assigned
            .iter()
            .map(|index| messages.messages[*index].key.clone())
            .collect()
    }

    #[test]
    fn a_shared_id_makes_one_message_of_two_reporters() {
        assert_eq!(
            keys(&[
                ["", "sg-1", "email", "", ""],
                ["66f0", "sg-1", "email", "sendgrid", "s"],
                ["66f0", "", "", "", ""]
            ]),
            ["sg-1", "sg-1", "sg-1"]
        );
    }

    #[test]
    fn a_bare_report_belongs_to_the_only_message() {
        assert_eq!(
            keys(&[["", "sg-1", "email", "", ""], ["", "", "", "", ""]]),
            ["sg-1", "sg-1"]
        );
        assert_eq!(
            keys(&[["", "", "email", "", ""], ["", "", "", "", ""]]),
            ["email/-/-", "email/-/-"]
        );
    }

    #[test]
    fn a_bare_report_among_several_messages_stands_alone() {
        assert_eq!(
            keys(&[
                ["", "a", "email", "", ""],
                ["", "b", "sms", "", ""],
                ["", "", "", "", ""]
            ]),
            ["a", "b", "-/-/-"]
        );
        assert_eq!(
            keys(&[
                ["", "a", "email", "", ""],
                ["", "b", "sms", "", ""],
                ["", "", "sms", "", ""]
            ]),
            ["a", "b", "b"]
        );
    }

    #[test]
    fn one_provider_id_on_two_channels_is_two_messages() {
        assert_eq!(
            keys(&[["", "x", "email", "", ""], ["", "x", "sms", "", ""]]),
            ["x@email/-/-", "x@sms/-/-"]
        );
    }

    #[test]
    fn no_two_messages_share_a_key() {
        let same_place = [
            ["66f0", "x", "email", "", ""],
            ["66f0", "", "", "ses", ""],
            ["", "x", "email", "ses", ""],
            ["", "x", "sms", "", ""],
        ];
        assert_eq!(
            keys(&same_place),
            [
                "x@email/-/ses#2",
                "x@email/-/ses#2",
                "x@email/-/ses",
                "x@sms/-/-"
            ]
        );
        assert_eq!(
            keys(&[["x", "", "email", "", ""], ["", "x", "email", "", ""]]),
            ["x@email/-/-#2", "x@email/-/-"]
        );
    }

    #[test]
    fn two_provider_ids_are_two_messages() {
        assert_eq!(
            keys(&[["", "a", "email", "ses", ""], ["", "b", "email", "ses", ""]]),
            ["a", "b"]
        );
    }

    /// Few enough values that references meet, and more often agree than not.
    fn any_reference() -> impl Strategy<Value = MessageRef> {
        let part = |first: &'static str, second: &'static str| {
            select(vec!["", first, first, first, second])
        };
        (
            part("66f0", "66f1"),
            part("sg-1", "66f0"),
            part("email", "sms"),
            part("ses", "sendgrid"),
            part("welcome", "remind"),
        )
            .prop_map(|parts| reference(parts.into()))
    }

    fn any_parts_of_one() -> impl Strategy<Value = MessageRef> {
        let part = |value: &'static str| select(vec!["", value]);
        (
            part("66f0"),
            part("sg-1"),
            part("email"),
            part("ses"),
            part("welcome"),
        )
            .prop_map(|parts| reference(parts.into()))
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 3_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_only_message_is_the_one_they_are_told_apart_into(
            references in prop_oneof![
                proptest::collection::vec(any_reference(), 0..5),
                proptest::collection::vec(any_parts_of_one(), 0..5),
            ]
        ) {
            let references: Vec<_> = references.iter().collect();

            prop_assert_eq!(identify(&references), told_apart(&references));
        }

        #[test]
        fn references_to_one_message_with_an_id_in_common_need_no_telling_apart(
            references in proptest::collection::vec(any_parts_of_one(), 1..5)
        ) {
            let linked = reference(["66f0", "sg-1", "", "", ""]);
            let references: Vec<_> = references.iter().chain([&linked]).collect();

            prop_assert!(the_only_message(&references).is_some());
        }
    }
}
