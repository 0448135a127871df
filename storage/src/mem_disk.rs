//! A disk in memory: survives a restart, and forgets what was not synced when it crashes.
//!
//! A simulation gives every node one of these. Clones are the same disk. Opening again after the old handles were dropped
//! is a restart. [`MemDisk::kill`] ends the process that has it open: all handles are dead, all that was written stays.
//! [`MemDisk::crash`] is a power cut: of what was written but not synced only some survives, chosen by a seed, some of it
//! torn at a sector. [`MemDisk::fail`] makes it answer with errors, [`MemDisk::crash_at`] ends the process in the middle
//! of its work, and what is stored can be spoiled. The log runs the real redb on a [`redb::StorageBackend`]; the rows are
//! [`crate::mem_rows::MemRows`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Cursor, Seek, SeekFrom, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agora_planted::{self as planted, Bug};
use parking_lot::Mutex;

use crate::{
    disk::{Disk, DiskUsage, OpenedRows, ReadSeekSend, SnapshotFile, SnapshotInfo, check_snapshot_name},
    error::{Error, Result},
    keyspaces::Keyspace,
    log::LogStore,
    mem_faults::{BrokenRow, Faults, MemCall, MemFault, Spoil},
    mem_rows::Shared,
    rows::Rows,
};

/// Writes of the log that a crash can take back, at most; older ones count as synced.
const UNSYNCED_WRITES_MAX: usize = 100_000;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory.
#[derive(Clone, Default)]
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    log: Arc<MemFile>,
    generations: BTreeMap<u64, Arc<Shared>>,
    /// Generations that cannot be accounted for.
    spoiled: BTreeSet<u64>,
    snapshots: BTreeMap<String, Arc<[u8]>>,
    faults: Arc<Faults>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// A power cut. Every handle on this disk is dead. `seed` picks which of the writes that were not synced survive;
    /// the same seed on the same disk picks the same.
    pub fn crash(&self, seed: u64) {
        let inner = self.inner.lock();
        inner.faults.reset_calls();
        let mut random = SplitMix(seed);
        inner.log.crash(&mut random);
        for shared in inner.generations.values() {
            shared.crash(|unsynced| random.next() % (unsynced + 1));
        }
    }

    /// The process that has it open is killed. Every handle on this disk is dead; all that was written stays, and what was
    /// not synced is still lost by a later power cut.
    pub fn kill(&self) {
        let inner = self.inner.lock();
        inner.faults.reset_calls();
        inner.log.kill();
        for shared in inner.generations.values() {
            shared.kill();
        }
    }

    /// It fails in this way from now on.
    pub fn fail(&self, fault: MemFault) {
        self.inner.lock().faults.add(fault);
    }

    /// It works again, and nothing is counted down any more.
    pub fn mend(&self) {
        self.inner.lock().faults.mend();
    }

    /// `tripped` is called at the n-th such call from now on (n from 1), and nothing works after it until
    /// [`MemDisk::kill`] or [`MemDisk::crash`].
    pub fn crash_at(&self, call: MemCall, n: u64, tripped: Box<dyn Fn() + Send + Sync>) {
        self.inner.lock().faults.crash_at(call, n, tripped);
    }

    /// Spoils the log while it is not open. True if anything was changed.
    pub fn spoil_log(&self, spoil: Spoil) -> bool {
        let log = self.inner.lock().log.clone();
        let mut state = log.state.lock();
        state.unsynced.clear();
        spoil.apply(&mut state.data)
    }

    /// Spoils the rows while they are not open: what is found so is given up, as a directory's would be. True if there
    /// are any.
    pub fn spoil_rows(&self) -> bool {
        let mut inner = self.inner.lock();
        let Some(newest) = inner.generations.keys().next_back().copied() else { return false };
        inner.spoiled.insert(newest);
        true
    }

    /// A row of a generation cannot be read from now on, until it is written anew. True if there is such a generation.
    pub fn break_row(&self, generation: u64, keyspace: Keyspace, key: &[u8], how: BrokenRow) -> bool {
        let inner = self.inner.lock();
        let shared = inner.generations.get(&generation);
        shared.inspect(|shared| shared.break_row(keyspace, key, how)).is_some()
    }

    /// Spoils the newest snapshot. True if there is one.
    pub fn spoil_snapshot(&self, spoil: Spoil) -> bool {
        let mut inner = self.inner.lock();
        let Some((_, bytes)) = inner.snapshots.iter_mut().next_back() else { return false };
        let mut copy = bytes.to_vec();
        let changed = spoil.apply(&mut copy);
        *bytes = copy.into();
        changed
    }

    /// A copy of the whole disk, with a life of its own and without faults.
    pub fn fork(&self) -> MemDisk {
        let inner = self.inner.lock();
        MemDisk {
            inner: Arc::new(Mutex::new(Inner {
                log: Arc::new(inner.log.fork()),
                generations: inner
                    .generations
                    .iter()
                    .map(|(generation, shared)| (*generation, Arc::new(shared.fork())))
                    .collect(),
                spoiled: inner.spoiled.clone(),
                snapshots: inner.snapshots.clone(),
                faults: Arc::default(),
            })),
        }
    }

    /// The power goes after this many more writes of the log: they, and all syncs, fail from then on. Followed by
    /// [`MemDisk::crash`], which brings the power back.
    pub fn stop_log_after(&self, writes: u64) {
        self.inner.lock().log.state.lock().writes_left = Some(writes);
    }

    /// Flips one bit of the log file, `at` counted from its beginning, as rot does. Nothing happens beyond the end.
    pub fn rot_log(&self, at_bit: u64) {
        let inner = self.inner.lock();
        let mut file = inner.log.state.lock();
        if let Some(byte) = file.data.get_mut((at_bit / 8) as usize) {
            *byte ^= 1 << (at_bit % 8);
        }
    }
}

impl Disk for MemDisk {
    fn open_log(&self) -> Result<LogStore> {
        let (file, faults) = {
            let inner = self.inner.lock();
            (inner.log.clone(), inner.faults.clone())
        };
        let epoch = {
            let mut state = file.state.lock();
            if state.open {
                return Err(Error::Locked { what: "the log of a disk in memory".into() });
            }
            state.open = true;
            state.epoch
        };
        let syncs = Arc::new(AtomicU64::new(0));
        let backend = || Ok(MemBackend { file: file.clone(), epoch, syncs: syncs.clone(), faults: faults.clone() });
        LogStore::open(backend, syncs.clone(), None).map_err(|error| {
            file.state.lock().open = false;
            match error {
                Error::Corrupt(what) => {
                    Error::LogLost(format!("the log is damaged: {what}; this node must not come back under its id"))
                }
                other => other,
            }
        })
    }

    fn open_rows(&self, generation: u64, synced_index: u64) -> Result<OpenedRows> {
        let found = self.inner.lock().generations.get(&generation).and_then(|shared| shared.found_damaged());
        match found {
            Some(found) => {
                Ok(OpenedRows::Lost { reason: format!("generation {generation} was found damaged: {found}") })
            }
            None => self.open_damaged_rows(generation, synced_index),
        }
    }

    fn open_damaged_rows(&self, generation: u64, synced_index: u64) -> Result<OpenedRows> {
        let (shared, faults, spoiled) = {
            let inner = self.inner.lock();
            let shared = inner.generations.get(&generation).cloned();
            (shared, inner.faults.clone(), inner.spoiled.contains(&generation))
        };
        if spoiled {
            return Ok(OpenedRows::Lost { reason: format!("generation {generation} is damaged") });
        }
        let Some(shared) = shared else {
            return Ok(OpenedRows::Lost { reason: format!("generation {generation} is missing") });
        };
        let Some(next) = shared.next() else {
            return Ok(OpenedRows::Lost { reason: format!("generation {generation} was not filled to its end") });
        };
        if next.saturating_sub(1) < synced_index {
            return Ok(OpenedRows::Lost {
                reason: format!(
                    "generation {generation} stands at index {}, behind the synced index {synced_index}",
                    next.saturating_sub(1)
                ),
            });
        }
        Ok(OpenedRows::Ready(Arc::new(shared.handle_with(faults))))
    }

    fn create_rows(&self, generation: u64) -> Result<Arc<dyn Rows>> {
        let shared = Arc::new(Shared::default());
        let mut inner = self.inner.lock();
        let rows = shared.handle_with(inner.faults.clone());
        inner.generations.insert(generation, shared);
        inner.spoiled.remove(&generation);
        Ok(Arc::new(rows))
    }

    fn finish_rows(&self, generation: u64) -> Result<()> {
        let inner = self.inner.lock();
        match inner.generations.get(&generation) {
            Some(_) if planted::is(Bug::InstallNotFsynced) => Ok(()),
            Some(shared) => shared.handle_with(inner.faults.clone()).sync().map(drop),
            None => Err(Error::Missing(format!("row generation {generation} is missing"))),
        }
    }

    fn remove_rows(&self, generation: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.generations.remove(&generation);
        inner.spoiled.remove(&generation);
        Ok(())
    }

    fn list_generations(&self) -> Result<Vec<u64>> {
        Ok(self.inner.lock().generations.keys().copied().collect())
    }

    fn snapshot_create(&self, name: &str) -> Result<Box<dyn SnapshotFile>> {
        check_snapshot_name(name)?;
        Ok(Box::new(MemSnapshot { disk: self.clone(), name: name.to_owned(), bytes: Cursor::new(Vec::new()) }))
    }

    fn snapshot_open(&self, name: &str) -> Result<Box<dyn ReadSeekSend>> {
        match self.inner.lock().snapshots.get(name) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            None => Err(Error::Missing(format!("no snapshot is called {name:?}"))),
        }
    }

    fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        let inner = self.inner.lock();
        Ok(inner
            .snapshots
            .iter()
            .map(|(name, bytes)| SnapshotInfo { name: name.clone(), bytes: bytes.len() as u64 })
            .collect())
    }

    fn snapshot_remove(&self, name: &str) -> Result<()> {
        self.inner.lock().snapshots.remove(name);
        Ok(())
    }

    fn usage(&self) -> DiskUsage {
        let inner = self.inner.lock();
        DiskUsage {
            log_bytes: inner.log.state.lock().data.len() as u64,
            rows_bytes: inner.generations.values().map(|shared| shared.handle().stats().memtable_bytes).sum(),
            snapshot_bytes: inner.snapshots.values().map(|bytes| bytes.len() as u64).sum(),
        }
    }
}

struct MemSnapshot {
    disk: MemDisk,
    name: String,
    bytes: Cursor<Vec<u8>>,
}

impl Write for MemSnapshot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for MemSnapshot {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

impl SnapshotFile for MemSnapshot {
    fn finish(self: Box<Self>) -> Result<()> {
        let bytes = self.bytes.into_inner().into();
        let mut inner = self.disk.inner.lock();
        inner
            .faults
            .grow()
            .and_then(|()| inner.faults.call(MemCall::Rename))
            .map_err(Error::io("finish a snapshot"))?;
        inner.snapshots.insert(self.name, bytes);
        Ok(())
    }
}

/// A file that knows what was not synced.
#[derive(Debug, Default)]
struct MemFile {
    state: Mutex<FileState>,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    epoch: u64,
    open: bool,
    data: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Writes until the power goes, if it will.
    writes_left: Option<u64>,
}

impl FileState {
    /// Counts a write down; fails once the power is gone.
    fn spend(&mut self, writes: u64) -> io::Result<()> {
        match &mut self.writes_left {
            None => Ok(()),
            Some(left) if *left >= writes.max(1) => {
                *left -= writes;
                Ok(())
            }
            Some(_) => Err(io::Error::other("the disk in memory has lost power")),
        }
    }
}

/// A write that a crash may undo.
#[derive(Debug, Clone)]
enum Unsynced {
    Write { offset: usize, old: Vec<u8>, new: Vec<u8> },
    Length { old: Vec<u8>, old_bytes: usize, new_bytes: usize },
}

impl Unsynced {
    fn undo(&self, data: &mut Vec<u8>) {
        match self {
            Unsynced::Write { offset, old, .. } => {
                data[*offset..offset + old.len()].copy_from_slice(old);
            }
            Unsynced::Length { old, old_bytes, new_bytes } => {
                data.truncate(*old_bytes.min(new_bytes));
                data.extend_from_slice(old);
                data.resize(*old_bytes, 0);
            }
        }
    }

    fn redo(&self, data: &mut Vec<u8>) {
        match self {
            Unsynced::Write { offset, new, .. } => {
                let end = offset + new.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[*offset..end].copy_from_slice(new);
            }
            Unsynced::Length { new_bytes, .. } => data.resize(*new_bytes, 0),
        }
    }

    /// Of a write, some sectors get through.
    fn tear(&self, data: &mut Vec<u8>, random: &mut SplitMix) {
        let Unsynced::Write { offset, new, .. } = self else { return };
        for (number, part) in new.chunks(SECTOR_BYTES).enumerate() {
            if random.next().is_multiple_of(2) {
                let at = offset + number * SECTOR_BYTES;
                Unsynced::Write { offset: at, old: Vec::new(), new: part.to_vec() }.redo(data);
            }
        }
    }
}

impl MemFile {
    fn crash(&self, random: &mut SplitMix) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.open = false;
        state.writes_left = None;
        let unsynced = std::mem::take(&mut state.unsynced);
        for write in unsynced.iter().rev() {
            write.undo(&mut state.data);
        }
        for write in &unsynced {
            // Lengths are metadata, which file systems keep in order: they stay with the writes that needed them.
            match random.next() % 8 {
                _ if matches!(write, Unsynced::Length { .. }) => write.redo(&mut state.data),
                0..4 => write.redo(&mut state.data),
                4 => write.tear(&mut state.data, random),
                _ => {}
            }
        }
    }

    fn kill(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.open = false;
        state.writes_left = None;
    }

    fn fork(&self) -> MemFile {
        let mut state = self.state.lock().clone();
        state.open = false;
        state.writes_left = None;
        MemFile { state: Mutex::new(state) }
    }
}

struct MemBackend {
    file: Arc<MemFile>,
    epoch: u64,
    syncs: Arc<AtomicU64>,
    faults: Arc<Faults>,
}

impl MemBackend {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, FileState>> {
        let state = self.file.state.lock();
        if state.epoch != self.epoch {
            return Err(io::Error::other("the disk in memory has crashed"));
        }
        Ok(state)
    }
}

impl std::fmt::Debug for MemBackend {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("MemBackend").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

fn beyond_end(offset: u64, bytes: usize) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{bytes} bytes at offset {offset} are beyond the end"))
}

impl redb::StorageBackend for MemBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.data.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state()?;
        let from = offset as usize;
        let bytes = state.data.get(from..from + out.len()).ok_or_else(|| beyond_end(offset, out.len()))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.spend(1)?;
        if len > state.data.len() as u64 {
            self.faults.grow()?;
        }
        let (old_bytes, new_bytes) = (state.data.len(), len as usize);
        let old = state.data.get(new_bytes..).unwrap_or_default().to_vec();
        state.data.resize(new_bytes, 0);
        state.unsynced.push(Unsynced::Length { old, old_bytes, new_bytes });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state()?;
        state.spend(0)?;
        match self.faults.log_sync() {
            Err(_) if planted::is(Bug::FsyncErrorIgnored) => return Ok(()),
            synced => synced?,
        }
        if !planted::is(Bug::LogWithoutFsync) {
            state.unsynced.clear();
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.spend(1)?;
        self.faults.log_write()?;
        let from = offset as usize;
        let place = state.data.get_mut(from..from + bytes.len()).ok_or_else(|| beyond_end(offset, bytes.len()))?;
        let old = place.to_vec();
        place.copy_from_slice(bytes);
        if state.unsynced.len() >= UNSYNCED_WRITES_MAX {
            state.unsynced.remove(0);
        }
        state.unsynced.push(Unsynced::Write { offset: from, old, new: bytes.to_vec() });
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        if let Ok(mut state) = self.state() {
            state.open = false;
        }
        Ok(())
    }
}

/// A small generator for choosing what survives: equal seeds, equal choices.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
