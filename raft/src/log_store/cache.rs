//! The newest entries of the log, in memory.
//!
//! Replication and apply read the log's end all the time; they find it here and never touch the disk. What is not yet
//! durable stays whatever it weighs (there is nowhere else to read it); of the rest the oldest go when the bound on
//! bytes is passed. Indexes are the engine's, from 0.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::types::Entry;

/// Bookkeeping per entry, counted against the bound so that many tiny entries are bounded too.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// A run of entries that ends where the log ends.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: VecDeque<(Entry, usize)>,
    /// Index of the first entry held, or where the next one goes.
    first: u64,
    bytes: usize,
    bytes_max: usize,
    /// Entries below are on disk.
    durable_end: u64,
}

impl Cache {
    /// Empty, at the end of a log whose next index is `end`.
    pub(crate) fn new(end: u64, bytes_max: usize) -> Cache {
        Cache { entries: VecDeque::new(), first: end, bytes: 0, bytes_max, durable_end: end }
    }

    /// First index held.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index after the last one held.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Adds the entry at the end.
    pub(crate) fn push(&mut self, entry: Entry, record: &Bytes) {
        if self.entries.is_empty() {
            self.first = entry.log_id.index;
        }
        assert_eq!(entry.log_id.index, self.end(), "the log grows without gaps");
        let bytes = record.len() + ENTRY_OVERHEAD_BYTES;
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
    }

    /// Entries below `end` are on disk; those that are too many go.
    pub(crate) fn set_durable(&mut self, end: u64) {
        self.durable_end = self.durable_end.max(end);
        while self.bytes > self.bytes_max && self.first < self.durable_end {
            let Some((_, bytes)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            self.first += 1;
        }
    }

    /// The disk ends at `end` now: what it had beyond is gone, and what comes there anew is not on it yet.
    pub(crate) fn disk_truncated(&mut self, end: u64) {
        self.durable_end = self.durable_end.min(end);
    }

    /// Entries from `index` on are gone.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.end() > index && !self.entries.is_empty() {
            if let Some((_, bytes)) = self.entries.pop_back() {
                self.bytes -= bytes;
            }
        }
        if self.entries.is_empty() {
            self.first = self.first.min(index);
        }
        self.durable_end = self.durable_end.min(index);
    }

    /// Entries below `end` are gone.
    pub(crate) fn purge(&mut self, end: u64) {
        while self.first < end {
            let Some((_, bytes)) = self.entries.pop_front() else {
                self.first = end;
                break;
            };
            self.bytes -= bytes;
            self.first += 1;
        }
        self.durable_end = self.durable_end.max(end);
    }

    /// The entries of a range that are held, from its start; stops after `bytes_max`, but gives at least one.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        if range.start < self.first || range.start >= self.end() {
            return Vec::new();
        }
        let from = (range.start - self.first) as usize;
        let to = (range.end.min(self.end()) - self.first) as usize;
        let mut taken = Vec::with_capacity(to.saturating_sub(from).min(1024));
        let mut bytes = 0;
        for (entry, size) in self.entries.range(from..to) {
            if !taken.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            taken.push(entry.clone());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::record;
    use crate::types::{LogId, term_id};

    fn filled(count: u64, bytes_max: usize) -> Cache {
        let mut cache = Cache::new(0, bytes_max);
        for index in 0..count {
            let sealed = record::seal(Bytes::from(vec![0; 100]), 1);
            let record = sealed.0.clone();
            cache.push(Entry { log_id: LogId::new(term_id(1), index), payload: EntryPayload::Normal(sealed) }, &record);
        }
        cache
    }

    fn indexes(cache: &Cache, range: Range<u64>, bytes_max: usize) -> Vec<u64> {
        cache.read(range, bytes_max).iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn what_is_not_durable_is_never_dropped() {
        let mut cache = filled(10, 1);
        cache.set_durable(0);
        assert_eq!(indexes(&cache, 0..10, usize::MAX), (0..10).collect::<Vec<_>>());
        cache.set_durable(7);
        assert_eq!((cache.first(), cache.end()), (7, 10));
        assert_eq!(indexes(&cache, 6..10, usize::MAX), [0_u64; 0], "what is not held is not half answered");
    }

    #[test]
    fn what_replaces_a_truncated_tail_is_not_durable_because_the_tail_was() {
        let mut cache = filled(10, 1);
        cache.truncate(4);
        // The tail was still on its way to the disk when it was cut off, and arrives before the cut does.
        cache.set_durable(10);
        cache.disk_truncated(4);
        let sealed = record::seal(Bytes::from(vec![1; 100]), 2);
        for index in 4..8 {
            let entry = Entry { log_id: LogId::new(term_id(2), index), payload: EntryPayload::Normal(sealed.clone()) };
            cache.push(entry, &sealed.0);
        }
        cache.set_durable(5);
        assert_eq!((cache.first(), cache.end()), (5, 8));
    }

    #[test]
    fn reads_are_bounded_by_bytes_but_give_at_least_one() {
        let cache = filled(10, usize::MAX);
        assert_eq!(indexes(&cache, 3..10, 1), [3]);
        assert_eq!(indexes(&cache, 3..10, 600), [3, 4]);
        assert_eq!(indexes(&cache, 8..20, usize::MAX), [8, 9]);
    }

    #[test]
    fn truncation_and_purge_keep_the_run_whole() {
        let mut cache = filled(10, usize::MAX);
        cache.set_durable(10);
        cache.truncate(6);
        assert_eq!((cache.first(), cache.end()), (0, 6));
        cache.purge(4);
        assert_eq!((cache.first(), cache.end()), (4, 6));
        cache.purge(20);
        assert_eq!((cache.first(), cache.end()), (20, 20));
        let mut cache = filled(3, usize::MAX);
        cache.truncate(0);
        assert_eq!((cache.first(), cache.end()), (0, 0));
    }
}
