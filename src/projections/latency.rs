//! How long something took, in buckets that can be added up.
//!
//! Log-linear, as in HDR histograms: below 64 µs every microsecond has its own bucket; above, each
//! power of two is divided into 32. So a bucket is at most 1/32 of its durations wide, and its
//! middle is within 1.6 % of each of them. Whole numbers only: every machine puts a duration into
//! the same bucket, or a rebuild elsewhere would differ.

/// Buckets per power of two, as a power of two.
const DIVISIONS_BITS: u32 = 5;
const DIVISIONS: i64 = 1 << DIVISIONS_BITS;

/// The bucket of a duration in microseconds. Less than nothing counts as nothing: the clocks of
/// two machines disagreed.
pub fn bucket(micros: i64) -> i64 {
    let micros = micros.max(0);
    if micros < 2 * DIVISIONS {
        return micros;
    }
    let shift = micros.ilog2() - DIVISIONS_BITS;
    i64::from(shift) * DIVISIONS + (micros >> shift)
}

/// The middle of a bucket's durations, in microseconds.
pub fn middle(bucket: i64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "off by far less than the bucket is wide"
    )]
    let float = |value: i64| value as f64;
    if bucket < 2 * DIVISIONS {
        return float(bucket.max(0));
    }
    let shift = bucket / DIVISIONS - 1;
    let mantissa = bucket - shift * DIVISIONS;
    let width = 2f64.powi(i32::try_from(shift).unwrap_or(i32::MAX));
    // Of `width` whole numbers from the lower edge on.
    float(mantissa) * width + (width - 1.0) / 2.0
}

/// The duration in microseconds below which a share of the messages lies, 0 to 1. `buckets` are
/// `(bucket, messages)` in order. `None` if there are no messages.
pub fn quantile(buckets: &[(i64, i64)], share: f64) -> Option<f64> {
    let total: i64 = buckets.iter().map(|(_, messages)| messages).sum();
    if total <= 0 {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "nobody counts 2^52 messages"
    )]
    // The nearest rank: the smallest number of messages that is at least the share.
    let rank = ((total as f64 * share).ceil() as i64).max(1);
    let mut seen = 0;
    for (bucket, messages) in buckets {
        seen += messages;
        if seen >= rank {
            return Some(middle(*bucket));
        }
    }
    None
}

#[cfg(test)]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the test compares with what is exact"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_durations_are_exact() {
        for micros in 0..64 {
            assert_eq!(bucket(micros), micros);
            assert!((middle(micros) - micros as f64).abs() < f64::EPSILON);
        }
        assert_eq!(bucket(-5), 0);
    }

    #[test]
    fn a_bucket_has_no_gap_to_the_next() {
        let mut last = bucket(0);
        for micros in 1..200_000 {
            let next = bucket(micros);
            assert!(next == last || next == last + 1, "{micros}");
            last = next;
        }
    }

    #[test]
    fn the_quantile_of_nothing_is_none() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(7, 0)], 0.5), None);
    }

    proptest! {
        #[test]
        fn the_middle_is_within_two_percent(micros in 0..i64::MAX) {
            let shown = middle(bucket(micros));

            prop_assert!((shown - micros as f64).abs() <= micros as f64 * 0.02, "{micros} → {shown}");
        }

        #[test]
        fn quantiles_are_within_two_percent(
            mut durations in prop::collection::vec(0..100_000_000_i64, 1..300),
            share in 0.01..1.0_f64,
        ) {
            let mut counts = std::collections::BTreeMap::new();
            for micros in &durations {
                *counts.entry(bucket(*micros)).or_insert(0) += 1;
            }
            durations.sort_unstable();
            let rank = ((durations.len() as f64 * share).ceil() as usize).max(1);
            let exact = durations[rank - 1] as f64;

            let shown = quantile(&counts.into_iter().collect::<Vec<_>>(), share).unwrap();

            prop_assert!((shown - exact).abs() <= exact * 0.02, "{exact} → {shown}");
        }
    }
}
