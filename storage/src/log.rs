//! The Raft log, the vote and who this node is: what must survive, in one redb file.
//!
//! Everything a caller wants written at once goes into one [`LogStore::write`]: one redb commit, one fsync. That is the
//! group commit of the whole node. redb gives atomic commits and checksummed pages; on top, every entry carries a
//! checksum over its index and bytes, because redb looks at its page checksums only when it repairs or is told to.
//!
//! The log is small, bounded in bytes by its caller ([`LogBounds::bytes`]), so opening it may read all of it: gaps and flipped
//! bits are found at start and not in the middle of an election.
//!
//! Quick repair stays off: it would make every commit two fsyncs.
//!
//! Every commit has a number, in the state table and, after it, in a file beside the log: so one that is gone is missed, see
//! [`witness`]. A log without numbers is of an earlier release; its next commit is its first.

mod header;
mod witness;

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agora_planted::{self as planted, Bug};
use bytes::Bytes;
use parking_lot::Mutex;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec,
    entry::ENTRY_BYTES_MAX,
    error::{Error, Result},
    file_backend::Overlay,
};

use self::witness::{Witness, Word};

/// `index` → `crc32c over index (u64 LE) and bytes, u32 LE ‖ bytes`.
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// `name` → codec frame, version 1: `identity` ([`Identity`]), `vote` (bytes), `purge` ([`PurgeMark`]), `commit` (u64, the
/// number of the commit that wrote it).
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");

/// Name of the commit's number in the state table.
const COMMIT: &str = "commit";

const STATE_VERSION: u8 = 1;

/// Page cache of the log, in bytes. Followers that lag read through it; the newest entries are in the callers' hands.
pub const LOG_CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Largest log entry: an encoded [`crate::entry`] and what the raft crate wraps around it.
pub const LOG_ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MAX + 64 * 1024;

/// Who this node is, and which row generation it uses. Committed before anything is said to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the data directory, see [`crate::open::FORMAT`].
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Random id of the cluster's history: a restored cluster has another one.
    pub lineage: u128,
    /// Id of this node.
    pub node: u64,
    /// Number of times the directory was opened.
    pub incarnation: u64,
    /// Random, new at every open: tells two copies of one directory apart.
    pub nonce: u128,
    /// Current row generation.
    pub generation: u64,
    /// Applied index last synced into that generation. The log is purged only up to here.
    pub synced_index: u64,
}

/// Up to where the log was purged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PurgeMark {
    /// Last purged index.
    pub index: u64,
    /// What the raft crate wants to remember of it, opaque.
    pub mark: Vec<u8>,
}

/// One change of the log directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogOp {
    /// Entries from index `first` on; they must follow the last one (or the purge mark) without a gap.
    Append {
        /// Index of the first entry.
        first: u64,
        /// The entries.
        entries: Vec<Bytes>,
    },
    /// Removes the entries from this index on.
    TruncateFrom(u64),
    /// Removes the entries up to and including an index, and remembers it. May go beyond the last entry (after a snapshot
    /// was installed). A mark below the present one changes nothing.
    PurgeTo {
        /// Last index to go.
        index: u64,
        /// Opaque bytes for [`PurgeMark::mark`].
        mark: Vec<u8>,
    },
    /// The vote, opaque.
    Vote(Vec<u8>),
    /// Who this node is.
    Identity(Identity),
    /// The current generation, and the applied index that is durable in it.
    RowsSynced {
        /// Row generation, current from here on.
        generation: u64,
        /// Applied index durable in it.
        index: u64,
    },
}

/// What the log holds. Cheap: kept in memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogBounds {
    /// First index held; `None` if no entry is.
    pub first: Option<u64>,
    /// Last index held.
    pub last: Option<u64>,
    /// Up to where entries were purged.
    pub purged: Option<PurgeMark>,
    /// Bytes of the last entry.
    pub last_entry: Option<Bytes>,
    /// Bytes of all entries held.
    pub bytes: u64,
}

impl LogBounds {
    /// Last index that is or was in the log: of the entries held, else of the purged ones.
    pub fn end(&self) -> Option<u64> {
        self.last.or(self.purged.as_ref().map(|purged| purged.index))
    }
}

/// The open log. All methods block; `write` is meant for one thread.
pub struct LogStore {
    database: Database,
    head: Mutex<Head>,
    syncs: Arc<AtomicU64>,
    commits: AtomicU64,
}

/// Where the log stands.
#[derive(Debug, Default)]
struct Head {
    bounds: LogBounds,
    /// Number of the last commit; 0 before the first, and in a log of an earlier release.
    commit: u64,
    /// Told of every commit. A disk in memory has none.
    witness: Option<Witness>,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("head", &*self.head.lock()).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the log on a backend, creating its tables if they are not there, and reads all of it once. `backend` is
    /// asked twice: first for a look that changes nothing. `syncs` is the counter the second backend adds to. `witness` is
    /// the file beside the log, see [`witness`]; what is held against it is refused before anything is changed.
    pub(crate) fn open<B: StorageBackend>(
        backend: impl Fn() -> Result<B>,
        syncs: Arc<AtomicU64>,
        witness: Option<&Path>,
    ) -> Result<LogStore> {
        let word = witness.map_or(Ok(Word::Nothing), witness::read)?;
        let found = look(backend()?)?;
        let is_new = found.is_none();
        let mut head = found.unwrap_or_default();
        word.check(head.commit, end_of(&head.bounds))?;
        let database = database(backend()?)?;
        if is_new {
            // The tables exist from the first open on, so reading need not care.
            let transaction = database.begin_write().map_err(engine)?;
            transaction.open_table(ENTRIES).map_err(engine)?;
            transaction.open_table(STATE).map_err(engine)?;
            transaction.commit().map_err(engine)?;
        }
        head.witness = witness.map(|path| Witness::open(path, word, head.commit, &syncs)).transpose()?;
        Ok(LogStore { database, head: Mutex::new(head), syncs, commits: AtomicU64::new(0) })
    }

    /// Whether the file beside a log tells of one that held something.
    pub(crate) fn is_witnessed(witness: &Path) -> Result<bool> {
        witness::read(witness).map(Word::knows_of_a_log)
    }

    /// Applies all operations in order, atomically and durably: one commit, one fsync. Nothing is changed on error;
    /// after an error other than [`Error::OutOfOrder`] and [`Error::TooLarge`] the node must stop.
    pub fn write(&self, ops: Vec<LogOp>) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let mut head = self.head.lock();
        let mut transaction = self.database.begin_write().map_err(engine)?;
        let only_votes = ops.iter().all(|op| matches!(op, LogOp::Vote(_)));
        let careless = only_votes && planted::is(Bug::VoteWithoutFsync);
        let durability = if careless { Durability::None } else { Durability::Immediate };
        transaction.set_durability(durability).map_err(engine)?;
        let bounds = {
            let mut writing = Writing {
                entries: transaction.open_table(ENTRIES).map_err(engine)?,
                state: transaction.open_table(STATE).map_err(engine)?,
                bounds: head.bounds.clone(),
            };
            for op in ops {
                writing.apply(op)?;
            }
            writing.put(COMMIT, &(head.commit + 1))?;
            writing.bounds
        };
        transaction.commit().map_err(engine)?;
        head.bounds = bounds;
        head.commit += 1;
        if let Some(witness) = &head.witness {
            witness.note(head.commit)?;
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Entries of a range of indexes, in order, up to `bytes_max` bytes but at least one if there is one.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>> {
        let mut entries = Vec::new();
        if range.is_empty() {
            return Ok(entries);
        }
        let transaction = self.database.begin_read().map_err(engine)?;
        let table = transaction.open_table(ENTRIES).map_err(engine)?;
        let mut bytes = 0;
        for row in table.range(range).map_err(storage_error)? {
            let (index, stored) = row.map_err(storage_error)?;
            let entry = checked_entry(index.value(), stored.value())?;
            if !entries.is_empty() && bytes + entry.len() > bytes_max {
                break;
            }
            bytes += entry.len();
            entries.push((index.value(), Bytes::copy_from_slice(entry)));
        }
        Ok(entries)
    }

    /// What the log holds.
    pub fn bounds(&self) -> Result<LogBounds> {
        Ok(self.head.lock().bounds.clone())
    }

    /// The vote, as last written.
    pub fn vote(&self) -> Result<Option<Vec<u8>>> {
        self.state("vote")
    }

    /// Who this node is; `None` in a log that was never used.
    pub fn identity(&self) -> Result<Option<Identity>> {
        self.state("identity")
    }

    /// Fsyncs since the log was opened.
    pub fn fsyncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Group commits since the log was opened.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn state<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let transaction = self.database.begin_read().map_err(engine)?;
        state_of(&transaction.open_table(STATE).map_err(engine)?, name)
    }
}

/// Last index that is or was in a log, plus one.
fn end_of(bounds: &LogBounds) -> u64 {
    bounds.end().map_or(0, |end| end + 1)
}

/// One write transaction under way, and the bounds as they will be after it.
struct Writing<'t> {
    entries: redb::Table<'t, u64, &'static [u8]>,
    state: redb::Table<'t, &'static str, &'static [u8]>,
    bounds: LogBounds,
}

impl Writing<'_> {
    fn apply(&mut self, op: LogOp) -> Result<()> {
        match op {
            LogOp::Append { first, entries } => self.append(first, entries),
            LogOp::TruncateFrom(index) => self.remove(index..=u64::MAX),
            LogOp::PurgeTo { index, mark } => self.purge(PurgeMark { index, mark }),
            LogOp::Vote(vote) => self.put("vote", &vote),
            LogOp::Identity(identity) => self.put("identity", &identity),
            LogOp::RowsSynced { generation, index } => {
                let mut identity = self.identity()?;
                identity.generation = generation;
                identity.synced_index = index;
                self.put("identity", &identity)
            }
        }
    }

    fn identity(&self) -> Result<Identity> {
        match self.state.get("identity").map_err(storage_error)? {
            Some(stored) => codec::unframe(STATE_VERSION, stored.value()),
            None => Err(Error::OutOfOrder("rows synced before the log has an identity".into())),
        }
    }

    fn append(&mut self, first: u64, entries: Vec<Bytes>) -> Result<()> {
        if let Some(end) = self.bounds.end()
            && first != end + 1
        {
            return Err(Error::OutOfOrder(format!("append at index {first} to a log that ends at {end}")));
        }
        let mut index = first;
        for entry in &entries {
            if entry.len() > LOG_ENTRY_BYTES_MAX {
                return Err(Error::TooLarge {
                    what: "log entry",
                    bytes: entry.len() as u64,
                    bytes_max: LOG_ENTRY_BYTES_MAX as u64,
                });
            }
            let mut stored = self.entries.insert_reserve(index, 4 + entry.len()).map_err(storage_error)?;
            let stored = stored.as_mut();
            stored[..4].copy_from_slice(&entry_sum(index, entry).to_le_bytes());
            stored[4..].copy_from_slice(entry);
            self.bounds.bytes += entry.len() as u64;
            index += 1;
        }
        if let Some(last) = entries.last() {
            self.bounds.first.get_or_insert(first);
            self.bounds.last = Some(index - 1);
            // A copy of its own: the caller's buffer may be a slice of something much larger.
            self.bounds.last_entry = Some(Bytes::copy_from_slice(last));
        }
        Ok(())
    }

    fn purge(&mut self, mark: PurgeMark) -> Result<()> {
        if self.bounds.purged.as_ref().is_some_and(|purged| purged.index >= mark.index) {
            return Ok(());
        }
        self.remove(0..=mark.index)?;
        self.put("purge", &mark)?;
        self.bounds.purged = Some(mark);
        Ok(())
    }

    fn remove(&mut self, range: std::ops::RangeInclusive<u64>) -> Result<()> {
        let mut bytes = 0;
        self.entries
            .retain_in(range, |_, stored| {
                bytes += stored.len().saturating_sub(4) as u64;
                false
            })
            .map_err(storage_error)?;
        self.bounds.bytes -= bytes;
        let first = self.entries.first().map_err(storage_error)?;
        self.bounds.first = first.map(|(index, _)| index.value());
        let last = self.entries.last().map_err(storage_error)?;
        (self.bounds.last, self.bounds.last_entry) = match last {
            None => (None, None),
            Some((index, stored)) => {
                let index = index.value();
                if self.bounds.last == Some(index) {
                    (Some(index), self.bounds.last_entry.take())
                } else {
                    let entry = checked_entry(index, stored.value())?;
                    (Some(index), Some(Bytes::copy_from_slice(entry)))
                }
            }
        };
        Ok(())
    }

    fn put<T: Serialize>(&mut self, name: &'static str, value: &T) -> Result<()> {
        self.state.insert(name, codec::frame(STATE_VERSION, value).as_slice()).map_err(storage_error)?;
        Ok(())
    }
}

fn database(backend: impl StorageBackend) -> Result<Database> {
    Database::builder().set_cache_size(LOG_CACHE_BYTES_MAX).create_with_backend(backend).map_err(database_error)
}

/// Looks at everything in a log without changing it; `None` if nothing was ever written.
///
/// redb checks its pages only when it repairs, and then goes back to the commit before the last if the last one does not
/// check. After a crash that is right: the last one was never acknowledged. In a log that was closed it would forget
/// what was promised. And pages it does not check it trusts, to the point of panics. So the look makes it repair, and
/// in a log that was closed it takes the way back away.
fn look(backend: impl StorageBackend) -> Result<Option<Head>> {
    let overlay = Overlay::new(backend).map_err(Error::io("log file"))?;
    if overlay.len().map_err(Error::io("log file"))? == 0 {
        return Ok(None);
    }
    header::make_repair(&overlay)?;
    let database = database(overlay)?;
    let transaction = database.begin_read().map_err(engine)?;
    let is_new = transaction.list_tables().map_err(storage_error)?.next().is_none();
    drop(transaction);
    if is_new { Ok(None) } else { read_all(&database).map(Some) }
}

/// Reads every entry once: checksums, no gaps, and the sum of bytes.
fn read_all(database: &Database) -> Result<Head> {
    let transaction = database.begin_read().map_err(engine)?;
    let state = transaction.open_table(STATE).map_err(engine)?;
    let purged: Option<PurgeMark> = state_of(&state, "purge")?;
    let commit = state_of(&state, COMMIT)?.unwrap_or_default();
    let table = transaction.open_table(ENTRIES).map_err(engine)?;
    let mut bounds = LogBounds { purged, ..LogBounds::default() };
    let mut expected = bounds.purged.as_ref().map(|purged| purged.index + 1);
    let mut last_entry = None;
    for row in table.iter().map_err(storage_error)? {
        let (index, stored) = row.map_err(storage_error)?;
        let index = index.value();
        if expected.is_some_and(|expected| expected != index) {
            return Err(Error::corrupt(format!(
                "log entry {} is missing: the next one held is {index}",
                expected.unwrap_or_default()
            )));
        }
        bounds.bytes += checked_entry(index, stored.value())?.len() as u64;
        bounds.first.get_or_insert(index);
        bounds.last = Some(index);
        last_entry = Some(stored);
        expected = Some(index + 1);
    }
    bounds.last_entry = last_entry.map(|stored| Bytes::copy_from_slice(&stored.value()[4..]));
    Ok(Head { bounds, commit, witness: None })
}

fn state_of<T: DeserializeOwned>(
    state: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>> {
    let stored = state.get(name).map_err(storage_error)?;
    stored.map(|stored| codec::unframe(STATE_VERSION, stored.value())).transpose()
}

fn entry_sum(index: u64, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.to_le_bytes()), entry)
}

fn checked_entry(index: u64, stored: &[u8]) -> Result<&[u8]> {
    let Some((sum, entry)) = stored.split_first_chunk::<4>() else {
        return Err(Error::corrupt(format!("log entry {index} has {} bytes", stored.len())));
    };
    if u32::from_le_bytes(*sum) != entry_sum(index, entry) {
        return Err(Error::corrupt(format!("log entry {index} of {} bytes: checksum does not match", entry.len())));
    }
    Ok(entry)
}

fn engine(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(what) => Error::corrupt(format!("log: {what}")),
        redb::Error::Io(source) => Error::Io { what: "log file".into(), source },
        redb::Error::DatabaseAlreadyOpen => Error::Locked { what: "the log".into() },
        other => Error::Engine { engine: "redb", what: other.to_string() },
    }
}

fn storage_error(error: StorageError) -> Error {
    engine(error)
}

fn database_error(error: DatabaseError) -> Error {
    match error {
        DatabaseError::UpgradeRequired(found) => {
            Error::TooOld { what: "the log file", found: u32::from(found), oldest: u32::from(found) + 1 }
        }
        other => match engine(other) {
            // redb says "invalid data" for a file that is none of its own, and "unexpected end" for one cut short.
            Error::Io { what, source }
                if matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
            {
                Error::corrupt(format!("{what}: {source}"))
            }
            other => other,
        },
    }
}
