//! Chance that can be repeated.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

/// Used unless `TEST_SEED` says otherwise.
const SEED: u64 = 0x001e_d6e5;

/// Numbers that follow from a seed: `SplitMix64`.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of one test. Says how to throw them again; only failing tests show that.
    pub(crate) fn of_test(name: &str) -> Self {
        let given = std::env::var("TEST_SEED")
            .ok()
            .map(|text| text.parse().unwrap());
        let seed = given.unwrap_or(SEED);
        eprintln!("{name}: repeat with TEST_SEED={seed}");
        let of_name = name
            .bytes()
            .fold(seed, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
        Self(of_name)
    }

    /// For names that must not collide with those of other test runs.
    pub(crate) fn of_moment() -> Self {
        Self(RandomState::new().hash_one(std::process::id()))
    }

    /// Dice of somebody's own.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.number())
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of a range.
    pub(crate) fn roll(&mut self, range: Range<usize>) -> usize {
        let span = (range.end - range.start) as u64;
        range.start + usize::try_from(self.number() % span).unwrap()
    }

    /// Any time shorter than this.
    pub(crate) fn roll_time(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap().max(1);
        Duration::from_nanos(self.number() % nanos)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(0..of.len())]
    }

    pub(crate) fn uuid(&mut self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(
            (u128::from(self.number()) << 64 | u128::from(self.number())).to_be_bytes(),
        )
        .into_uuid()
    }
}
