//! Chance that needs no secrecy: which story comes next, and how long it takes.

use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014): small, and good enough to look natural.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice for somebody else, who then rolls independently.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// Any number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to less than `count`; 0 if that is 0.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.next().checked_rem(count).unwrap_or_default()
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Milliseconds within a range.
    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to.saturating_sub(from) + 1))
    }

    /// One of some items, each as likely as its weight says.
    pub(super) fn weighted<T: Copy>(&mut self, items: &[(T, u64)]) -> Option<T> {
        let total = items.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.below(total);
        for (item, weight) in items {
            if roll < *weight {
                return Some(*item);
            }
            roll -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_comes_up_about_as_often_as_its_weight_says() {
        let mut dice = Dice::new(7);
        let items = [('a', 1), ('b', 9), ('c', 0)];

        let rolled: Vec<_> = (0..1000).filter_map(|_| dice.weighted(&items)).collect();

        assert_eq!(rolled.len(), 1000);
        let often = rolled.iter().filter(|item| **item == 'b').count();
        assert!((850..950).contains(&often), "{often}");
        assert!(!rolled.contains(&'c'));
    }

    #[test]
    fn a_range_includes_both_ends() {
        let mut dice = Dice::new(1);
        let rolled: Vec<_> = (0..200).map(|_| dice.millis(5, 7).as_millis()).collect();

        assert!(rolled.iter().all(|millis| (5..=7).contains(millis)));
        assert!(rolled.contains(&5) && rolled.contains(&7));
        assert_eq!(dice.below(0), 0);
    }
}
