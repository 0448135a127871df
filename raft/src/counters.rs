//! What this crate counts, for `/metrics` and for tests that hold it to its word.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stages::Stages;

/// One number that only grows, or is set.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Replaces the value: for figures that are measured rather than counted.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histogram's buckets, in microseconds; the last bucket has none.
pub const HISTOGRAM_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// How long something took, in fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; HISTOGRAM_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Records one duration in microseconds.
    pub fn record_us(&self, us: u64) {
        let bucket = HISTOGRAM_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Counts per bucket (not cumulated; the last one has no bound), and the sum in microseconds.
    pub fn read(&self) -> ([u64; HISTOGRAM_BOUNDS_US.len() + 1], u64) {
        let counts = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        (counts, self.sum_us.load(Ordering::Relaxed))
    }
}

/// All counters of one node. Reading them costs nothing that matters.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries the journal proposed (fences and checkpoints included).
    pub raft_entries: Counter,
    /// Transactions in them.
    pub transactions: Counter,
    /// Bytes of them.
    pub entry_bytes: Counter,
    /// Entries applied on this node, whoever proposed them.
    pub entries_applied: Counter,
    /// Commits of the log, each one fsync.
    pub log_fsyncs: Counter,
    /// Bytes written to the log.
    pub log_bytes_written: Counter,
    /// Bytes the log holds now.
    pub log_bytes: Counter,
    /// Reads of the log that the cache could not answer.
    pub log_cache_misses: Counter,
    /// Times this node became leader.
    pub elections_won: Counter,
    /// Reigns begun here.
    pub reigns: Counter,
    /// Reigns that ended before their term.
    pub reigns_broken: Counter,
    /// Proposals refused with a definite no.
    pub proposals_refused: Counter,
    /// Transactions answered as never applied after they had been accepted.
    pub never_applied: Counter,
    /// Read barriers run on this node as leader.
    pub barriers: Counter,
    /// Reads that shared them.
    pub barrier_reads: Counter,
    /// Times the engine was asked what is committed.
    pub committed_questions: Counter,
    /// Refusals that shared the answers.
    pub committed_answers: Counter,
    /// Points at which the rows were made durable.
    pub row_syncs: Counter,
    /// Snapshot files written.
    pub snapshots_built: Counter,
    /// Snapshots sent to a peer.
    pub snapshots_sent: Counter,
    /// Snapshots installed here.
    pub snapshots_installed: Counter,
    /// Connections refused: strangers, foreign clusters, nodes that lost what they held.
    pub peers_refused: Counter,
    /// Frames sent to peers.
    pub frames_sent: Counter,
    /// Writes to sockets; fewer than frames, because what waits shares one.
    pub socket_writes: Counter,
    /// Calls forwarded to this node.
    pub calls_served: Counter,
    /// Time one entry took to apply.
    pub apply_us: Histogram,
    /// Time one log commit took.
    pub log_commit_us: Histogram,
    /// Where the time of the transactions proposed here goes.
    pub stages: Stages,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_they_do_not_exceed() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_001] {
            histogram.record_us(us);
        }
        let (counts, sum) = histogram.read();
        assert_eq!((counts[0], counts[1], counts[HISTOGRAM_BOUNDS_US.len()]), (2, 1, 1));
        assert_eq!(sum, 10_000_202);
    }
}
