//! The engine's view of the log: its storage and reader traits over [`LogHandle`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use agora_storage::codec;
use agora_storage::log::LogOp;
use futures_util::Stream;
use futures_util::stream;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};

use super::{After, LogHandle, READ_BYTES_MAX, Task};
use crate::record;
use crate::types::{Entry, LogId, TypeConfig, Vote, VoteRecord, position};

/// Most bytes of entries in one append request.
const REPLICATE_BYTES_MAX: usize = 1024 * 1024;

/// Implements the engine's traits.
#[derive(Clone)]
pub(crate) struct LogAdapter {
    log: LogHandle,
}

impl LogAdapter {
    pub(crate) fn new(log: LogHandle) -> LogAdapter {
        LogAdapter { log }
    }

    /// The range cut to what the log holds; the engine allows entries to be missing at both ends only.
    fn clip(&self, range: impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => at + 1,
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        let ends = *self.log.shared.ends.lock();
        let after = ends.last.map_or(0, |at| at.index + 1);
        start.max(ends.first)..end.min(after)
    }

    /// Entries from the start of a range, at most about `bytes_max` of them, at least one.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        {
            let cache = self.log.shared.cache.lock();
            if range.start >= cache.first() {
                let entries = cache.read(range.clone(), bytes_max);
                return check_start(&range, entries);
            }
        }
        self.log.shared.counters.log_cache_misses.one();
        let from_disk = range.start + 1..range.end.saturating_add(1);
        let rows = self.log.shared.store.read(from_disk, bytes_max.min(READ_BYTES_MAX)).map_err(io::Error::other)?;
        let mut entries = Vec::with_capacity(rows.len());
        for (index, bytes) in rows {
            let next = range.start + entries.len() as u64;
            if index != next + 1 {
                return Err(io::Error::other(format!(
                    "log entry {} is missing, {index} was found: the log is damaged",
                    next + 1
                )));
            }
            entries.push(record::decode(next, bytes).map_err(io::Error::other)?);
        }
        check_start(&range, entries)
    }

    fn read_all(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut entries = self.read(range.clone(), READ_BYTES_MAX)?;
        while !entries.is_empty() && range.start + (entries.len() as u64) < range.end {
            let more = self.read(range.start + entries.len() as u64..range.end, READ_BYTES_MAX)?;
            entries.extend(more);
        }
        Ok(entries)
    }
}

fn check_start(range: &Range<u64>, entries: Vec<Entry>) -> io::Result<Vec<Entry>> {
    match entries.first() {
        Some(first) if first.log_id.index == range.start => Ok(entries),
        _ => Err(io::Error::other(format!("log entry {} is missing: the log is damaged", range.start + 1))),
    }
}

impl RaftLogReader<TypeConfig> for LogAdapter {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read_all(self.clip(range))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.shared.hard.lock().state.vote.map(VoteRecord::to_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(self.clip(start..end), REPLICATE_BYTES_MAX)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In pieces: after a restart there may be far more to apply than should be in memory at once.
        let reader = self.clone();
        let rest = self.clip(range);
        let pieces = stream::unfold(Some((reader, rest)), |state| async move {
            let (reader, rest) = state?;
            if rest.is_empty() {
                return None;
            }
            match reader.read(rest.clone(), READ_BYTES_MAX) {
                Ok(entries) => {
                    let next = rest.start + entries.len() as u64..rest.end;
                    Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), Some((reader, next))))
                }
                Err(error) => Some((vec![Err(error)], None)),
            }
        });
        futures_util::StreamExt::flat_map(pieces, stream::iter)
    }
}

impl RaftLogStorage<TypeConfig> for LogAdapter {
    type LogReader = LogAdapter;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let ends = *self.log.shared.ends.lock();
        Ok(LogState { last_purged_log_id: ends.purged, last_log_id: ends.last })
    }

    async fn get_log_reader(&mut self) -> LogAdapter {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(vote.into()).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut span: Option<(LogId, LogId)> = None;
        {
            let mut cache = self.log.shared.cache.lock();
            for entry in entries {
                let record = record::encode(&entry);
                let first = span.map_or(entry.log_id, |(first, _)| first);
                span = Some((first, entry.log_id));
                cache.push(entry, &record);
                records.push(record);
            }
        }
        let Some((first, last)) = span else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        {
            let mut ends = self.log.shared.ends.lock();
            if ends.last == ends.purged {
                ends.first = first.index;
            }
            ends.last = Some(last);
        }
        let task = Task::Append { first: first.index + 1, records, last: position(&last), flushed: callback };
        self.log.shared.hand(task);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |at| at.index + 1);
        {
            let mut ends = self.log.shared.ends.lock();
            if ends.last.is_none_or(|last| last.index < from) {
                return Ok(());
            }
            // The id is of an entry that is there, or of the one purged last.
            ends.last = last_log_id;
        }
        self.log.shared.cache.lock().truncate(from);
        let then = After::TruncatedTo(last_log_id.as_ref().map(position));
        self.log.write_then(vec![LogOp::TruncateFrom(from + 1)], then).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut ends = self.log.shared.ends.lock();
            if ends.purged.is_some_and(|purged| purged.index >= log_id.index) {
                return Ok(());
            }
            ends.purged = Some(log_id);
            ends.first = ends.first.max(log_id.index + 1);
            if ends.last.is_none_or(|last| last.index <= log_id.index) {
                ends.last = Some(log_id);
            }
        }
        self.log.shared.cache.lock().purge(log_id.index + 1);
        let mark = position(&log_id);
        let op = LogOp::PurgeTo { index: mark.index, mark: codec::encode(&mark) };
        self.log.write_then(vec![op], After::PurgedTo(mark)).await
    }
}
