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

use std::collections::{BTreeMap, BTreeSet};

use super::event::{MessageRef, is_told};

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

/// The values a message's references give, per field.
#[derive(Default)]
struct Group<'a> {
    message_ids: BTreeSet<&'a str>,
    provider_message_ids: BTreeSet<&'a str>,
    channels: BTreeSet<&'a str>,
    providers: BTreeSet<&'a str>,
    steps: BTreeSet<&'a str>,
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

/// Sorts references into messages, whatever they say.
fn told_apart(references: &[&MessageRef]) -> Messages {
    let distinct: BTreeSet<&MessageRef> = references.iter().copied().collect();
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut group_of: BTreeMap<&MessageRef, usize> = BTreeMap::new();

    let (identified, anonymous): (Vec<_>, Vec<_>) = distinct
        .into_iter()
        .partition(|reference| reference.is_identified());
    for component in components(&identified) {
        let index = groups.len();
        let mut group = Group::default();
        for reference in component {
            group.add(reference);
            group_of.insert(reference, index);
        }
        groups.push(group);
    }
    for reference in most_specific_first(anonymous) {
        let index = the_one_that_fits(&groups, reference).unwrap_or_else(|| {
            groups.push(Group::default());
            groups.len() - 1
        });
        groups[index].add(reference);
        group_of.insert(reference, index);
    }
    named(&groups, references, &group_of)
}

/// Groups of identified references that are linked by an id they share.
fn components<'a>(identified: &[&'a MessageRef]) -> Vec<Vec<&'a MessageRef>> {
    let mut links = Links::new(identified.len());
    let mut by_message_id: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_provider_message_id: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, reference) in identified.iter().enumerate() {
        if let Some(id) = &reference.message_id {
            let first = *by_message_id.entry(id).or_insert(index);
            links.join(first, index);
        }
        if let Some(id) = &reference.provider_message_id {
            by_provider_message_id.entry(id).or_default().push(index);
        }
    }
    for bucket in by_provider_message_id.values() {
        link_bucket(identified, bucket, &mut links);
    }
    let mut components: BTreeMap<usize, Vec<&MessageRef>> = BTreeMap::new();
    for (index, reference) in identified.iter().enumerate() {
        components
            .entry(links.root(index))
            .or_default()
            .push(reference);
    }
    components.into_values().collect()
}

/// Links references that share a provider's id, if they agree about channel and provider.
fn link_bucket(identified: &[&MessageRef], bucket: &[usize], links: &mut Links) {
    let channels: BTreeSet<_> = bucket
        .iter()
        .filter_map(|i| identified[*i].channel.as_ref())
        .collect();
    let providers: BTreeSet<_> = bucket
        .iter()
        .filter_map(|i| identified[*i].provider_id.as_ref())
        .collect();
    let agree = channels.len() <= 1 && providers.len() <= 1;
    let mut first_of = BTreeMap::new();
    for index in bucket {
        let reference = identified[*index];
        let place = if agree {
            (None, None)
        } else {
            (reference.channel.as_ref(), reference.provider_id.as_ref())
        };
        let first = *first_of.entry(place).or_insert(*index);
        links.join(first, *index);
    }
}

fn most_specific_first(mut anonymous: Vec<&MessageRef>) -> Vec<&MessageRef> {
    let parts = |reference: &MessageRef| {
        [
            &reference.channel,
            &reference.provider_id,
            &reference.step_id,
        ]
        .iter()
        .filter(|part| part.is_some())
        .count()
    };
    // Stable, and the set came sorted, so equally specific references keep their order.
    anonymous.sort_by_key(|reference| std::cmp::Reverse(parts(reference)));
    anonymous
}

/// The only group that says all the reference says or, failing that, the only one that does
/// not contradict it.
fn the_one_that_fits(groups: &[Group<'_>], reference: &MessageRef) -> Option<usize> {
    let matching = |accepts: fn(&BTreeSet<&str>, &str) -> bool| {
        groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.fits(reference, accepts))
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
    };
    let says_the_same = matching(|known, value| known.get(value).is_some());
    match says_the_same.as_slice() {
        [only] => Some(*only),
        [] => match matching(|known, value| known.is_empty() || known.contains(value)).as_slice() {
            [only] => Some(*only),
            _ => None,
        },
        _ => None,
    }
}

impl<'a> Group<'a> {
    fn add(&mut self, reference: &'a MessageRef) {
        self.message_ids.extend(reference.message_id.as_deref());
        self.provider_message_ids
            .extend(reference.provider_message_id.as_deref());
        self.channels.extend(reference.channel.as_deref());
        self.providers.extend(reference.provider_id.as_deref());
        self.steps.extend(reference.step_id.as_deref());
    }

    fn fits(&self, reference: &MessageRef, accepts: fn(&BTreeSet<&str>, &str) -> bool) -> bool {
        let part_fits = |known, part: &Option<String>| {
            part.as_deref().is_none_or(|value| accepts(known, value))
        };
        part_fits(&self.channels, &reference.channel)
            && part_fits(&self.providers, &reference.provider_id)
            && part_fits(&self.steps, &reference.step_id)
    }

    fn identity(&self) -> MessageIdentity {
        let least = |values: &BTreeSet<&'a str>| values.first().copied();
        Said {
            message_id: least(&self.message_ids),
            provider_message_id: least(&self.provider_message_ids),
            channel: least(&self.channels),
            provider_id: least(&self.providers),
            step_id: least(&self.steps),
        }
        .identity()
    }
}

/// One value for each part of a message's name.
struct Said<'a> {
    message_id: Option<&'a str>,
    provider_message_id: Option<&'a str>,
    channel: Option<&'a str>,
    provider_id: Option<&'a str>,
    step_id: Option<&'a str>,
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

    fn identity(&self) -> MessageIdentity {
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
fn place(identity: &MessageIdentity) -> String {
    let parts = [&identity.channel, &identity.step_id, &identity.provider_id];
    parts.map(|part| part.as_deref().unwrap_or("-")).join("/")
}

fn named(
    groups: &[Group<'_>],
    references: &[&MessageRef],
    group_of: &BTreeMap<&MessageRef, usize>,
) -> Messages {
    let mut identities: Vec<(MessageIdentity, usize)> = groups
        .iter()
        .enumerate()
        .map(|(index, group)| (group.identity(), index))
        .collect();
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for (identity, _) in &identities {
        *uses.entry(identity.key.clone()).or_default() += 1;
    }
    for (identity, _) in &mut identities {
        // One provider id used on several channels: the place tells them apart.
        if uses.get(&identity.key).is_some_and(|uses| *uses > 1) {
            identity.key = format!("{}@{}", identity.key, place(identity));
        }
    }
    // Reporters choose their ids, so even a key with its place may be taken: rows are kept under
    // keys, and two messages under one key would stop whoever keeps them.
    identities.sort();
    let mut taken = BTreeSet::new();
    for (identity, _) in &mut identities {
        let wanted = identity.key.clone();
        let mut number = 1;
        while !taken.insert(identity.key.clone()) {
            number += 1;
            identity.key = format!("{wanted}#{number}");
        }
    }
    identities.sort();
    let mut rank = vec![0; groups.len()];
    for (new, (_, old)) in identities.iter().enumerate() {
        rank[*old] = new;
    }
    Messages {
        assigned: references
            .iter()
            .map(|reference| rank[group_of[*reference]])
            .collect(),
        messages: identities
            .into_iter()
            .map(|(identity, _)| identity)
            .collect(),
    }
}

/// Disjoint sets over indices; joining is all they do.
struct Links(Vec<usize>);

impl Links {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, index: usize) -> usize {
        let mut root = index;
        while self.0[root] != root {
            self.0[root] = self.0[self.0[root]];
            root = self.0[root];
        }
        root
    }

    fn join(&mut self, left: usize, right: usize) {
        let (left, right) = (self.root(left), self.root(right));
        self.0[left.max(right)] = left.min(right);
    }
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
