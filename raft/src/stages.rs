//! Where the time of a transaction goes, stage by stage, in histograms that cost next to nothing.
//!
//! A record is two relaxed additions: no lock, no allocation. Buckets are linear within each power of two, four of them,
//! as in an HDR histogram, so a quantile is read within a quarter of its value from a microsecond to a quarter of a
//! minute. Time comes from the node's clock, which a simulation owns; nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per power of two; a power of two itself.
const STEPS: u64 = 4;
const STEPS_BITS: u32 = STEPS.trailing_zeros();
/// Longest duration told apart from longer ones, in microseconds: 16.8 seconds.
const VALUE_US_MAX: u64 = (1 << 24) - 1;
/// Buckets of a [`StageHistogram`], the last one for all that is longer.
pub const STAGE_BUCKETS: usize = bucket(VALUE_US_MAX) + 2;
/// Log entries whose moment of durability is remembered: far more than are ever on their way.
const MARKS: usize = 1024;

const fn bucket(value_us: u64) -> usize {
    if value_us < STEPS {
        return value_us as usize;
    }
    if value_us > VALUE_US_MAX {
        return bucket(VALUE_US_MAX) + 1;
    }
    let shift = 63 - value_us.leading_zeros() - STEPS_BITS;
    (shift as u64 * STEPS + (value_us >> shift)) as usize
}

/// Microseconds of a duration.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How long something took, in fixed buckets.
#[derive(Debug)]
pub struct StageHistogram {
    buckets: [AtomicU64; STAGE_BUCKETS],
    sum_us: AtomicU64,
}

impl Default for StageHistogram {
    fn default() -> StageHistogram {
        StageHistogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_us: AtomicU64::new(0) }
    }
}

impl StageHistogram {
    /// Largest value of a bucket in microseconds; the last one has none.
    pub fn upper_us(at: usize) -> Option<u64> {
        if at + 1 >= STAGE_BUCKETS {
            return None;
        }
        let bucket = at as u64;
        if bucket < STEPS {
            return Some(bucket);
        }
        let shift = bucket / STEPS - 1;
        Some(((bucket % STEPS + STEPS + 1) << shift) - 1)
    }

    /// Records that something took from `since` to `now`.
    pub fn record(&self, since: Duration, now: Duration) {
        self.record_many(since, now, 1);
    }

    /// Records the same for `count` that went through it together.
    pub fn record_many(&self, since: Duration, now: Duration, count: u64) {
        let us = micros(now.saturating_sub(since));
        self.buckets[bucket(us)].fetch_add(count, Ordering::Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(count), Ordering::Relaxed);
    }

    /// Counts per bucket, not cumulated, and the sum in microseconds.
    pub fn read(&self) -> ([u64; STAGE_BUCKETS], u64) {
        let counts = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        (counts, self.sum_us.load(Ordering::Relaxed))
    }
}

/// The stages of a transaction on the node that proposed it. Each counts transactions, not entries.
#[derive(Debug, Default)]
pub struct Stages {
    /// From its proposal until its entry was closed.
    pub queue: StageHistogram,
    /// From there until the entry was in this node's log on disk.
    pub append: StageHistogram,
    /// From there until applying began: a majority has it.
    pub commit: StageHistogram,
    /// Until it was in the rows, and those who wait were called.
    pub apply: StageHistogram,
    /// When which entry became durable here.
    durable: Marks,
}

/// Moments by log index; an older one gives way to a newer one.
#[derive(Debug)]
struct Marks(Vec<AtomicU64>);

impl Default for Marks {
    fn default() -> Marks {
        Marks((0..MARKS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// When one entry began to be applied, and when that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppliedTimes {
    pub(crate) begun: Duration,
    pub(crate) done: Duration,
}

impl Stages {
    /// Entries of an index and those after it became durable in this node's log.
    pub(crate) fn durable(&self, first: u64, last: u64, now: Duration) {
        for index in first.max(last.saturating_sub(MARKS as u64 - 1))..=last {
            self.durable.0[index as usize % MARKS].store(micros(now), Ordering::Relaxed);
        }
    }

    /// An entry with so many transactions, closed by this node, was applied.
    pub(crate) fn applied(&self, index: u64, count: u64, closed: Duration, times: AppliedTimes) {
        let mark = Duration::from_micros(self.durable.0[index as usize % MARKS].load(Ordering::Relaxed));
        // A mark is in whole microseconds, and may be another entry's when this one took for ever.
        let durable = mark.clamp(closed, times.begun.max(closed));
        self.append.record_many(closed, durable, count);
        self.commit.record_many(durable, times.begun, count);
        self.apply.record_many(times.begun, times.done, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_a_quarter() {
        let mut value = 0_u64;
        while value <= VALUE_US_MAX {
            let upper = StageHistogram::upper_us(bucket(value)).unwrap();
            assert!(upper >= value && upper - value <= value / 4, "{value} in a bucket that ends at {upper}");
            assert!(bucket(upper) == bucket(value) && bucket(upper + 1) == bucket(value) + 1, "{value}");
            value += 1 + value / 9;
        }
        assert_eq!(StageHistogram::upper_us(STAGE_BUCKETS - 2), Some(VALUE_US_MAX));
        assert_eq!((bucket(u64::MAX), StageHistogram::upper_us(STAGE_BUCKETS - 1)), (STAGE_BUCKETS - 1, None));
    }

    #[test]
    fn an_entry_is_counted_once_per_transaction() {
        let us = Duration::from_micros;
        let stages = Stages::default();
        stages.durable(7, 8, us(1_300));
        stages.applied(8, 50, us(1_000), AppliedTimes { begun: us(1_700), done: us(1_900) });
        for (name, stage, each) in
            [("append", &stages.append, 300), ("commit", &stages.commit, 400), ("apply", &stages.apply, 200)]
        {
            let (counts, sum) = stage.read();
            assert_eq!((counts.iter().sum::<u64>(), sum), (50, 50 * each), "{name}");
            assert_eq!(counts[bucket(each)], 50, "{name}");
        }
    }

    #[test]
    fn a_mark_that_is_not_the_entrys_own_makes_no_time_negative() {
        let us = Duration::from_micros;
        for mark in [0, 5_000_000] {
            let stages = Stages::default();
            stages.durable(1, 3 * MARKS as u64, us(mark));
            stages.applied(9, 1, us(1_000), AppliedTimes { begun: us(1_700), done: us(1_900) });
            assert_eq!(stages.append.read().1 + stages.commit.read().1, 700, "mark {mark}");
        }
    }
}
