//! Tells messages apart that references may mean: the general case of `message.rs`, where the
//! rules are.
//!
//! References with ids are grouped by the ids they share; then each without one joins the only
//! group that fits it, the most specific first.

use std::collections::{BTreeMap, BTreeSet};

use super::event::MessageRef;
use super::message::{MessageIdentity, Messages, Said, place};

/// Sorts references into messages, whatever they say.
pub(super) fn told_apart(references: &[&MessageRef]) -> Messages {
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

/// The values a message's references give, per field.
#[derive(Default)]
struct Group<'a> {
    message_ids: BTreeSet<&'a str>,
    provider_message_ids: BTreeSet<&'a str>,
    channels: BTreeSet<&'a str>,
    providers: BTreeSet<&'a str>,
    steps: BTreeSet<&'a str>,
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
