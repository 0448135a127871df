//! The rows behind one trait: what every row store promises, and the options of those on disk.
//!
//! Two implementations: [`crate::fjall_rows::FjallRows`] on disk and [`crate::mem_rows::MemRows`] in memory, held to the
//! same promises by one conformance suite and by random operation sequences run against both.
//!
//! **Promises.** A commit is atomic over keyspaces. A view is one consistent state, and stays so. Commits come at exactly
//! the next index, from one thread. Every keyspace carries the applied index, written in every batch, so that a store of
//! which a part was lost is recognised when it is opened.

use std::ops::Bound;

use agora_planted::{self as planted, Bug};

use crate::{batch::Batch, error::Result, keyspaces::Keyspace};

/// A row as it is handed out: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows of one ingest call, at most.
pub const INGEST_ROWS_MAX: usize = 16_384;

/// A store of rows at one applied index. One writer (the apply thread), any number of readers.
pub trait Rows: Send + Sync + 'static {
    /// The newest committed value of one key. An Outcomes bucket that does not exist is empty.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// One consistent view of all keyspaces. Keep it short-lived: old versions of rows stay while it does.
    fn view(&self) -> Result<Box<dyn RowView>>;

    /// Commits a batch over all keyspaces atomically, together with its applied index in every keyspace.
    ///
    /// The batch's index must be the one after [`Rows::applied`]; the first batch of an empty store may have index 0 or 1.
    /// Anything else is [`crate::Error::OutOfOrder`] and changes nothing. After any other error the node must stop.
    fn commit(&self, batch: Batch) -> Result<()>;

    /// Index of the last committed batch; 0 if there is none (or if it was index 0: see the meta row
    /// [`crate::meta::APPLIED`] where that matters).
    fn applied(&self) -> u64;

    /// Makes everything committed so far durable; returns the applied index that now is.
    fn sync(&self) -> Result<u64>;

    /// Fills an empty store, rows in any order, at most [`INGEST_ROWS_MAX`] per call. Allowed only before the first
    /// commit; not atomic: a store whose ingest was not finished must be thrown away.
    fn ingest(&self, rows: Vec<(Keyspace, Vec<u8>, Vec<u8>)>) -> Result<()>;

    /// Ends an ingest: from here on the store stands at index `applied`, in every keyspace, durably.
    fn ingest_finish(&self, applied: u64) -> Result<()>;

    /// Counters and sizes.
    fn stats(&self) -> RowStats;

    /// The first damage that a read has met, if any: the node must stop, and makes its rows anew when it is started again.
    fn damage(&self) -> Option<String> {
        None
    }
}

/// One consistent state of all keyspaces.
pub trait RowView: Send {
    /// Value of one key.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Rows from one bound to another in key order, or in reverse. Bounds are the same in both directions: `from` is
    /// the low end. An empty or reversed range yields nothing.
    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Row>> + 'a>;

    /// Applied index of this state.
    fn applied(&self) -> u64;

    /// The keyspaces that exist in this state, in order: the four fixed ones, then the Outcomes buckets.
    fn keyspaces(&self) -> Vec<Keyspace>;
}

/// Sizes and counters of a row store. In-memory stores leave what they do not have at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowStats {
    /// Bytes on disk, journal included.
    pub disk_bytes: u64,
    /// Bytes of the journals.
    pub journal_bytes: u64,
    /// Bytes of keys and values not yet in sorted files.
    pub memtable_bytes: u64,
    /// Sorted files.
    pub tables: u64,
    /// Rows, roughly: overwritten and removed ones may count until they are compacted away. Markers and continuation
    /// rows are included.
    pub rows_approximate: u64,
    /// Memtables waiting to be flushed.
    pub flushes_waiting: u64,
    /// Compactions finished since the store was opened.
    pub compactions: u64,
    /// Batches committed since the store was opened.
    pub commits: u64,
    /// Background syncs of the journal since the store was opened.
    pub background_syncs: u64,
    /// Longest commit since the store was opened, in microseconds: the apply stall.
    pub commit_longest_us: u64,
    /// Bytes of keys and values in those batches, in stored form.
    pub bytes_written: u64,
}

/// Options of a row store on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOptions {
    /// Block cache, bytes. Default 64 MiB.
    pub cache_bytes: u64,
    /// Size at which a keyspace's memtable is flushed, bytes. Default 32 MiB.
    pub memtable_bytes: u64,
    /// Memtable size of an Outcomes bucket, bytes. Default 16 MiB.
    pub outcomes_memtable_bytes: u64,
    /// Journals kept before old memtables are forced out, bytes; at least 64 MiB. Default 256 MiB.
    pub journal_bytes_max: u64,
    /// Threads that flush and compact. Default 1.
    pub worker_threads: usize,
    /// Pause between background syncs of the journal, milliseconds; 0 turns them off. Default 50.
    pub background_sync_ms: u64,
    /// Open files kept for reading. Default 256.
    pub open_files: usize,
}

impl Default for RowOptions {
    fn default() -> Self {
        RowOptions {
            cache_bytes: 64 * 1024 * 1024,
            memtable_bytes: 32 * 1024 * 1024,
            outcomes_memtable_bytes: 16 * 1024 * 1024,
            journal_bytes_max: 256 * 1024 * 1024,
            worker_threads: 1,
            background_sync_ms: 50,
            open_files: 256,
        }
    }
}

/// What the planted bugs of commits do to a batch: which keyspaces are committed after the others.
pub(crate) fn goes_later(keyspace: Keyspace) -> bool {
    match keyspace {
        Keyspace::Meta => false,
        Keyspace::Entity => planted::is(Bug::AppliedIndexWrittenFirst),
        _ => planted::is(Bug::AppliedIndexWrittenFirst) || planted::is(Bug::ApplyNotAtomicOverKeyspaces),
    }
}

/// Checks that `given` is the index that follows. `next` is the applied index plus one, 0 for an empty store.
pub(crate) fn check_next(next: u64, given: u64) -> Result<()> {
    let follows = match next {
        0 => given <= 1,
        next => given == next,
    };
    if follows {
        return Ok(());
    }
    Err(crate::Error::OutOfOrder(match next {
        0 => format!("batch for index {given} on empty rows, 0 or 1 expected"),
        next => format!("batch for index {given} on rows at {}, {next} expected", next - 1),
    }))
}

/// Checks what a batch may not do to Outcomes buckets: write to one that it drops.
pub(crate) fn check_buckets(batch: &Batch) -> Result<()> {
    match batch.buckets_written().find(|bucket| batch.dropped.contains(bucket)) {
        None => Ok(()),
        Some(bucket) => Err(crate::Error::OutOfOrder(format!(
            "batch for index {} writes to outcomes bucket {bucket} and drops it",
            batch.applied()
        ))),
    }
}
