//! A histogram of durations: exact below 128 µs, within 1 % above, in a fixed 32 KiB.
//!
//! Buckets are linear within each power of two, 128 of them, as in an HDR histogram. Recording is a shift and an add, so
//! that measuring costs the generator nothing.

/// Buckets per power of two; a power of two itself.
const STEPS: u64 = 128;
const STEPS_BITS: u32 = STEPS.trailing_zeros();
/// Longest duration told apart from longer ones, in microseconds: half a day.
const VALUE_US_MAX: u64 = (1 << 36) - 1;
const BUCKETS: usize = bucket(VALUE_US_MAX) + 1;

/// Durations in microseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_us: u128,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], total: 0, sum_us: 0, max_us: 0 }
    }
}

const fn bucket(value_us: u64) -> usize {
    if value_us < STEPS {
        return value_us as usize;
    }
    let shift = 63 - value_us.leading_zeros() - STEPS_BITS;
    (shift as u64 * STEPS + (value_us >> shift)) as usize
}

/// Largest value that falls into a bucket.
fn upper_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let step = bucket % STEPS + STEPS;
    ((step + 1) << shift) - 1
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value_us: u64) {
        let value_us = value_us.min(VALUE_US_MAX);
        self.counts[bucket(value_us)] += 1;
        self.total += 1;
        self.sum_us += u128::from(value_us);
        self.max_us = self.max_us.max(value_us);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Their mean in microseconds.
    pub fn mean_us(&self) -> Option<f64> {
        (self.total > 0).then(|| self.sum_us as f64 / self.total as f64)
    }

    /// The longest, exactly.
    pub fn max_us(&self) -> Option<u64> {
        (self.total > 0).then_some(self.max_us)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.total, self.sum_us, self.max_us) = (0, 0, 0);
    }

    /// The duration in microseconds that a share of all does not exceed, `0 < share ≤ 1`. `None` if nothing was counted.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        assert!(share > 0.0 && share <= 1.0, "a share is above 0 and at most 1, not {share}");
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(upper_us(bucket).min(self.max_us));
            }
        }
        unreachable!("the counts of all buckets sum up to the total")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_one_percent() {
        let mut value = 0_u64;
        while value < VALUE_US_MAX {
            let upper = upper_us(bucket(value));
            assert!(upper >= value, "{value} above the end of its bucket, {upper}");
            assert!(
                upper - value <= value / 100 + u64::from(value >= STEPS),
                "{value} in a bucket that ends at {upper}"
            );
            assert!(bucket(upper) == bucket(value) && bucket(upper + 1) == bucket(value) + 1);
            value += 1 + value / 7;
        }
        assert_eq!(upper_us(BUCKETS - 1), VALUE_US_MAX);
    }

    #[test]
    fn quantiles_of_one_to_thousand() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), None);
        for value in (1..=100).rev() {
            histogram.record(value);
        }
        assert_eq!(histogram.quantile_us(0.5), Some(50));
        assert_eq!(histogram.quantile_us(0.99), Some(99));
        assert_eq!(histogram.quantile_us(1.0), Some(100));
        assert_eq!(histogram.quantile_us(0.001), Some(1));
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile_us(1.0), Some(VALUE_US_MAX));
        assert_eq!(histogram.count(), 101);
    }

    #[test]
    fn mean_and_longest_are_exact() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.mean_us(), histogram.max_us()), (None, None));
        for value in [1_000_003, 7, 1_000_001] {
            histogram.record(value);
        }
        assert_eq!((histogram.mean_us(), histogram.max_us()), (Some(2_000_011.0 / 3.0), Some(1_000_003)));
        assert_eq!(histogram.quantile_us(1.0), Some(1_000_003), "no quantile is above the longest");
        histogram.clear();
        assert_eq!((histogram.count(), histogram.max_us(), histogram.quantile_us(0.5)), (0, None, None));
    }
}
