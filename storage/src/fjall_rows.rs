//! The rows on disk: one fjall database per generation.
//!
//! - One writer. `commit` holds fjall's journal lock and may sleep under compaction pressure, so it belongs on a thread of its
//!   own, never on an async worker.
//! - Views go through a fjall snapshot; a plain read would see half of a batch under way.
//! - A commit hands its bytes to the operating system and does not sync. A background thread syncs the journal every 50 ms
//!   through a descriptor of its own, without fjall's lock: each memtable flush syncs the journal *under* the lock
//!   that `commit` needs, and finds nothing left to do.
//! - Every keyspace carries a marker row with the applied index, written in every batch. A store of which some keyspaces know
//!   a later state than others is not opened.
//!
//! **Buckets.** fjall makes and deletes keyspaces outside of any batch, so the truth about which Outcomes buckets exist is a
//! row: a list in Meta, changed in the same batch that first writes or drops a bucket. A keyspace that is not listed
//! is a leftover of a crash and is deleted when the store is opened; a listed one that is missing, or whose marker differs,
//! means the generation is lost. A dropping batch is synced before its keyspace is deleted, so that the list never
//! names what is already gone. Names carry the index of creation, so a bucket that comes back is another keyspace.

mod account;
mod background;
mod damage;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agora_planted::{self as planted, Bug};
use fjall::{
    CompressionType, Database, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Slice, Snapshot,
};
use parking_lot::{Mutex, RwLock};

use self::{
    account::{Accounted, account_for},
    background::{Background, sync_journal},
    damage::Damage,
};
use crate::{
    batch::Batch,
    codec,
    disk::sync_dir,
    error::{Error, Result},
    journal_cut,
    keyspaces::{Keyspace, Keyspaces},
    mem_rows::{owned, range_is_empty},
    row_format::{self, BUCKETS, CONTINUATION, Head, MARKER, ROW, STORED_BYTES_MAX},
    rows::{INGEST_ROWS_MAX, Row, RowOptions, RowStats, RowView, Rows, check_buckets, check_next, goes_later},
};

const BUCKETS_VERSION: u8 = 1;

/// Where fjall keeps keyspaces. It syncs what is in them; their own names are synced here.
const KEYSPACES: &str = "keyspaces";

/// Outcomes buckets that may exist at once. A day of six-hour buckets is five.
pub const BUCKETS_MAX: usize = 64;

/// Memtables waiting to be flushed during an ingest, at most.
const INGEST_FLUSHES_WAITING_MAX: usize = 2;

/// One keyspace of the database, and from which version to which it is part of the rows.
#[derive(Clone)]
struct Handle {
    keyspace: fjall::Keyspace,
    created: u64,
    /// Version that dropped it; `u64::MAX` while it exists.
    dropped: Arc<AtomicU64>,
}

impl Handle {
    fn new(keyspace: fjall::Keyspace, created: u64) -> Handle {
        Handle { keyspace, created, dropped: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    fn exists_at(&self, version: u64) -> bool {
        self.created <= version && version < self.dropped.load(Ordering::Acquire)
    }
}

/// Rows on disk.
pub struct FjallRows {
    database: Database,
    handles: RwLock<Arc<Keyspaces<Handle>>>,
    /// Applied index plus one. Written under `writer`.
    version: AtomicU64,
    writer: Mutex<Writer>,
    /// The batch that is being written.
    under_way: Mutex<Option<UnderWay>>,
    options: RowOptions,
    commits: Arc<AtomicU64>,
    background_syncs: Arc<AtomicU64>,
    commit_longest_us: AtomicU64,
    bytes_written: AtomicU64,
    background: Option<Background>,
    damage: Arc<Damage>,
    // Last: whatever uses the directory must be gone when it is dropped.
    dir: Arc<Dir>,
}

/// A generation's directory, shared by the store and its views: it can be told to go with the last of them.
pub(crate) struct Dir {
    path: PathBuf,
    remove: AtomicBool,
}

impl Dir {
    /// Removes the directory when nobody uses it any more.
    pub(crate) fn remove_with_last_reader(&self) {
        self.remove.store(true, Ordering::Release);
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.remove.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            // The next start removes generations that are not current.
            tracing::warn!(dir = %self.path.display(), %error, "old rows not removed");
        }
    }
}

/// A batch on its way into the memtables.
///
/// fjall numbers batches, and a snapshot shows those below what is visible when it is taken. A flush or compaction takes a
/// number too, and makes everything below it visible when it ends (lsm-tree 3.1, `upgrade_version_with_seqno`), also a batch
/// that is half in the memtables. So a snapshot that is taken then must not be used; see `storage/tests/views.rs`.
#[derive(Clone, Copy)]
struct UnderWay {
    /// What was visible before it began: its number is not below.
    floor: u64,
    /// The version it makes. Its marker is written last.
    version: u64,
}

/// What only the writing thread uses.
#[derive(Default)]
struct Writer {
    ingesting: bool,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl FjallRows {
    /// Makes an empty store in a directory that does not exist yet, durably (except for the directory's own name).
    pub(crate) fn create(dir: &Path, options: &RowOptions) -> Result<FjallRows> {
        let database = open_database(dir, options).map_err(engine)?;
        let fixed = |name: &str| -> Result<Handle> {
            let keyspace = database.keyspace(name, || keyspace_options(options.memtable_bytes)).map_err(engine)?;
            Ok(Handle::new(keyspace, 0))
        };
        let handles = Keyspaces {
            meta: fixed("meta")?,
            entity: fixed("entity")?,
            index: fixed("index")?,
            feed: fixed("feed")?,
            outcomes: BTreeMap::new(),
        };
        sync_dir(&dir.join(KEYSPACES))?;
        let rows = FjallRows::assemble(database, handles, 0, dir, options);
        let mut out = rows.new_batch(Keyspace::FIXED.len() + 1);
        let handles = rows.handles.read().clone();
        put_markers(&mut out, &handles, 0);
        put_bucket_list(&mut out, &handles, 0);
        out.durability(Some(PersistMode::SyncAll)).commit().map_err(engine)?;
        Ok(rows)
    }

    /// Opens a store, see [`crate::disk::Disk::open_rows`]; the error of the inner result says why it is lost.
    pub(crate) fn open(dir: &Path, options: &RowOptions, synced_index: u64) -> Result<Result<FjallRows, String>> {
        match damage::met_before(dir) {
            Some(met) => Ok(Err(format!("{} was found damaged: {met}", dir.display()))),
            None => match FjallRows::open_as_it_is(dir, options, synced_index)? {
                Ok(rows) if damage::is_suspect(dir) => rows.looked_through(),
                opened => Ok(opened),
            },
        }
    }

    /// Reads everything once: what stopped the store in its last life would stop it again.
    fn looked_through(self) -> Result<Result<FjallRows, String>> {
        let dir = self.dir.path.clone();
        tracing::warn!(dir = %dir.display(), "the store of the rows stopped by itself: all rows are read once");
        // A read that meets damage notes it.
        let read = self.view().and_then(|view| crate::scrub::scrub(&*view));
        match read.map_err(|error| (error.damage(), error)) {
            Ok(_) => {
                damage::is_whole(&dir).map_err(Error::io(format!("{}", dir.display())))?;
                Ok(Ok(self))
            }
            Err((Some(reason), _)) => Ok(Err(format!("{} is damaged: {reason}", dir.display()))),
            Err((None, error)) => Err(error),
        }
    }

    /// An error of writing; if the store has stopped by itself, that is noted.
    pub(crate) fn failed(&self, error: fjall::Error) -> Error {
        if matches!(error, fjall::Error::Poisoned) {
            self.damage.suspect();
        }
        engine(error)
    }

    /// The same, of a store that was found damaged before too: some of its rows cannot be read.
    pub(crate) fn open_as_it_is(
        dir: &Path,
        options: &RowOptions,
        synced_index: u64,
    ) -> Result<Result<FjallRows, String>> {
        match FjallRows::try_open(dir, options, synced_index) {
            // What the disk cannot read is lost, whatever it was.
            Err(error) => match error.damage() {
                Some(reason) => Ok(Err(format!("{} cannot be read: {reason}", dir.display()))),
                None => Err(error),
            },
            opened => opened,
        }
    }

    fn try_open(dir: &Path, options: &RowOptions, synced_index: u64) -> Result<Result<FjallRows, String>> {
        let lost = |reason: String| Ok(Err(reason));
        if !dir.is_dir() {
            return lost(format!("{} is missing", dir.display()));
        }
        // Without this file fjall would make a new, empty database in place.
        if !dir.join("version").is_file() {
            return lost(format!("{} holds no finished row store", dir.display()));
        }
        let journals = journal_cut::cut(dir)?;
        if let Some(cut) = &journals.cut {
            tracing::warn!(%cut, synced_index, "journal of the rows cut");
            if let Some(version) = journals.last_version
                && version.saturating_sub(1) < synced_index
            {
                return lost(format!(
                    "{cut}; that is index {}, before the synced index {synced_index}",
                    version.saturating_sub(1)
                ));
            }
        }
        let database = match open_database(dir, options) {
            Ok(database) => database,
            Err(error) if is_damage(&error) => {
                return lost(format!("{} does not open: {error}", dir.display()));
            }
            Err(error) => return Err(engine(error)),
        };
        let (handles, version) = match account_for(&database, &journals)? {
            Accounted::All { handles, version } => (handles, version),
            Accounted::Lost(reason) => return lost(format!("{}: {reason}", dir.display())),
        };
        let applied = version.saturating_sub(1);
        if applied < synced_index {
            return lost(format!(
                "{} stands at index {applied}, behind the synced index {synced_index}{}",
                dir.display(),
                journals.cut.map(|cut| format!(" ({cut})")).unwrap_or_default()
            ));
        }
        Ok(Ok(FjallRows::assemble(database, handles, version, dir, options)))
    }

    fn assemble(
        database: Database,
        handles: Keyspaces<Handle>,
        version: u64,
        dir: &Path,
        options: &RowOptions,
    ) -> FjallRows {
        let commits = Arc::new(AtomicU64::new(0));
        let background_syncs = Arc::new(AtomicU64::new(0));
        let background = (options.background_sync_ms > 0).then(|| {
            Background::start(
                dir.to_path_buf(),
                Duration::from_millis(options.background_sync_ms),
                commits.clone(),
                background_syncs.clone(),
            )
        });
        FjallRows {
            database,
            handles: RwLock::new(Arc::new(handles)),
            version: AtomicU64::new(version),
            writer: Mutex::new(Writer::default()),
            under_way: Mutex::new(None),
            options: *options,
            commits,
            background_syncs,
            commit_longest_us: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            background: background.flatten(),
            damage: Arc::new(Damage::new(dir, damage::met_before(dir).is_some())),
            dir: Arc::new(Dir { path: dir.to_path_buf(), remove: AtomicBool::new(false) }),
        }
    }

    /// The directory, to be told when it may go.
    pub(crate) fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    fn new_batch(&self, rows: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), rows).durability(Some(PersistMode::Buffer))
    }

    /// The handles with the given buckets among them, made where they are missing.
    fn with_buckets(&self, buckets: impl Iterator<Item = u32>, version: u64) -> Result<(Arc<Keyspaces<Handle>>, bool)> {
        let current = self.handles.read().clone();
        let missing: BTreeSet<u32> = buckets.filter(|bucket| !current.outcomes.contains_key(bucket)).collect();
        if missing.is_empty() {
            return Ok((current, false));
        }
        if current.outcomes.len() + missing.len() > BUCKETS_MAX {
            return Err(Error::TooLarge {
                what: "number of outcomes buckets",
                bytes: (current.outcomes.len() + missing.len()) as u64,
                bytes_max: BUCKETS_MAX as u64,
            });
        }
        let mut handles = Keyspaces::clone(&current);
        for bucket in missing {
            let keyspace = self
                .database
                .keyspace(&bucket_name(bucket, version), || keyspace_options(self.options.outcomes_memtable_bytes))
                .map_err(|error| self.failed(error))?;
            handles.outcomes.insert(bucket, Handle::new(keyspace, version));
        }
        sync_dir(&self.dir.path.join(KEYSPACES))?;
        let handles = Arc::new(handles);
        *self.handles.write() = handles.clone();
        Ok((handles, true))
    }

    fn delete_buckets(&self, buckets: &[u32]) -> Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(engine)?;
        let mut handles = Keyspaces::clone(&*self.handles.read());
        for bucket in buckets {
            if let Some(handle) = handles.outcomes.remove(bucket) {
                self.database.delete_keyspace(handle.keyspace).map_err(engine)?;
            }
        }
        *self.handles.write() = Arc::new(handles);
        Ok(())
    }

    fn newest(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let handles = self.handles.read().clone();
        let Some(handle) = handles.get(keyspace) else {
            return Ok(None);
        };
        if !handle.exists_at(self.version.load(Ordering::Acquire)) {
            return Ok(None);
        }
        let mut scratch = Vec::with_capacity(key.len() + 1);
        let stored = handle.keyspace.get(row_format::row_key(key, &mut scratch)).map_err(engine)?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        match row_format::parse_head(&stored)? {
            Head::Whole(value) => Ok(Some(value.to_vec())),
            // Its parts may be of different batches by now: read all of it from one state.
            Head::Split { .. } => get_at(&self.database.snapshot(), handle, key),
        }
    }

    /// Forces all memtables out, for tests that look at sorted files.
    #[cfg(test)]
    pub(crate) fn flush(&self, keyspace: Keyspace) {
        if let Some(handle) = self.handles.read().get(keyspace) {
            handle.keyspace.rotate_memtable_and_wait().unwrap();
        }
    }
}

impl Rows for FjallRows {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.newest(keyspace, key).map_err(|error| self.damage.note(error))
    }

    fn view(&self) -> Result<Box<dyn RowView>> {
        let mut before = self.handles.read().clone();
        loop {
            let snapshot = self.database.snapshot();
            // The set of buckets changes outside of fjall's batches: take the snapshot while it stands still.
            let after = self.handles.read().clone();
            if Arc::ptr_eq(&before, &after) {
                // In this order: a batch that is not under way now is in the snapshot as a whole, or not at all.
                let under_way = *self.under_way.lock();
                let version = read_marker(&snapshot, &after.meta).map_err(|error| self.damage.note(error))?;
                let is_torn = under_way
                    .is_some_and(|batch| self.database.visible_seqno() > batch.floor && version != batch.version);
                if is_torn {
                    drop(snapshot);
                    // Until that batch is written.
                    drop(self.writer.lock());
                    continue;
                }
                let (damage, dir) = (self.damage.clone(), self.dir.clone());
                return Ok(Box::new(FjallView { snapshot, handles: after, version, damage, _dir: dir }));
            }
            before = after;
        }
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let started = Instant::now();
        let mut writer = self.writer.lock();
        if writer.ingesting {
            return Err(Error::OutOfOrder("commit during an ingest".into()));
        }
        check_next(self.version.load(Ordering::Acquire), batch.applied())?;
        check_buckets(&batch)?;
        let version = batch.applied() + 1;
        let (handles, mut list_changed) = self.with_buckets(batch.buckets_written(), version)?;
        let mut out = self.new_batch(batch.len() + handles.outcomes.len() + 8);
        // Only a planted bug commits some keyspaces later than others.
        let mut later = goes_later(Keyspace::Feed).then(|| self.new_batch(batch.len()));
        let Writer { key, value, .. } = &mut *writer;
        for change in batch.changes() {
            let out = match &mut later {
                Some(later) if goes_later(change.keyspace) => later,
                _ => &mut out,
            };
            let Some(handle) = handles.get(change.keyspace) else { continue };
            match change.stored_value {
                // Short over short, as almost all are: the batch holds it as it is stored.
                Some(stored) if stored.len() <= STORED_BYTES_MAX && change.old_bytes < STORED_BYTES_MAX => {
                    out.insert(&handle.keyspace, change.stored_key, stored);
                }
                Some(stored) => put(out, handle, change.key(), &stored[1..], change.old_bytes, key, value),
                None => remove(out, handle, change.key(), change.old_bytes, key),
            }
        }
        let mut dropped = Vec::new();
        for bucket in &batch.dropped {
            if let Some(handle) = handles.outcomes.get(bucket) {
                handle.dropped.store(version, Ordering::Release);
                dropped.push(*bucket);
                list_changed = true;
            }
        }
        if list_changed {
            put_bucket_list(&mut out, &handles, version);
        }
        put_markers(&mut out, &handles, version);
        *self.under_way.lock() = Some(UnderWay { floor: self.database.visible_seqno(), version });
        let written = out.commit().and_then(|()| later.map_or(Ok(()), OwnedWriteBatch::commit));
        // Also where it failed: fjall fails before the memtables are touched, and no view may wait for it for ever.
        *self.under_way.lock() = None;
        written.map_err(|error| self.failed(error))?;
        self.version.store(version, Ordering::Release);
        if !dropped.is_empty() {
            self.delete_buckets(&dropped)?;
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.commit_longest_us.fetch_max(took_us, Ordering::Relaxed);
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.version.load(Ordering::Acquire).saturating_sub(1)
    }

    fn sync(&self) -> Result<u64> {
        let applied = self.applied();
        // Most of the work without fjall's journal lock, which the writer needs; what fails here fails below, too.
        if let Err(error) = sync_journal(&self.dir.path, &mut None) {
            tracing::warn!(%error, "journal of the rows not synced");
        }
        self.database.persist(PersistMode::SyncAll).map_err(|error| self.failed(error))?;
        Ok(applied)
    }

    fn ingest(&self, rows: Vec<(Keyspace, Vec<u8>, Vec<u8>)>) -> Result<()> {
        let mut writer = self.writer.lock();
        check_empty(self.version.load(Ordering::Acquire))?;
        if rows.len() > INGEST_ROWS_MAX {
            return Err(Error::TooLarge {
                what: "ingest in rows",
                bytes: rows.len() as u64,
                bytes_max: INGEST_ROWS_MAX as u64,
            });
        }
        writer.ingesting = true;
        let buckets = rows.iter().filter_map(|(keyspace, _, _)| keyspace.bucket());
        let (handles, _) = self.with_buckets(buckets, 0)?;
        let mut out = self.new_batch(rows.len());
        let Writer { key, value, .. } = &mut *writer;
        for (keyspace, name, bytes) in &rows {
            if let Some(handle) = handles.get(*keyspace) {
                put(&mut out, handle, name, bytes, 0, key, value);
            }
        }
        out.commit().map_err(|error| self.failed(error))?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        // An ingest comes as fast as a file is read: do not let memtables pile up in memory.
        while self.database.outstanding_flushes() > INGEST_FLUSHES_WAITING_MAX {
            std::thread::sleep(Duration::from_millis(1));
            if self.database.persist(PersistMode::Buffer).is_err() {
                // The flushing thread has failed, so nothing would ever end the wait.
                return Err(engine(fjall::Error::Poisoned));
            }
        }
        Ok(())
    }

    fn ingest_finish(&self, applied: u64) -> Result<()> {
        let mut writer = self.writer.lock();
        check_empty(self.version.load(Ordering::Acquire))?;
        let version = applied + 1;
        let handles = self.handles.read().clone();
        let durability = if planted::is(Bug::InstallNotFsynced) { PersistMode::Buffer } else { PersistMode::SyncAll };
        let mut out = self.new_batch(handles.outcomes.len() + 8).durability(Some(durability));
        put_markers(&mut out, &handles, version);
        put_bucket_list(&mut out, &handles, version);
        out.commit().map_err(engine)?;
        writer.ingesting = false;
        self.version.store(version, Ordering::Release);
        Ok(())
    }

    fn stats(&self) -> RowStats {
        let handles = self.handles.read().clone();
        let mut stats = RowStats {
            disk_bytes: self.database.disk_space().unwrap_or(0),
            journal_bytes: self.database.journal_disk_space().unwrap_or(0),
            memtable_bytes: self.database.write_buffer_size(),
            flushes_waiting: self.database.outstanding_flushes() as u64,
            compactions: self.database.compactions_completed() as u64,
            commits: self.commits.load(Ordering::Relaxed),
            background_syncs: self.background_syncs.load(Ordering::Relaxed),
            commit_longest_us: self.commit_longest_us.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            ..RowStats::default()
        };
        for (_, handle) in handles.iter() {
            stats.tables += handle.keyspace.table_count() as u64;
            stats.rows_approximate += handle.keyspace.approximate_len() as u64;
        }
        stats
    }

    fn damage(&self) -> Option<String> {
        self.damage.reason()
    }
}

impl Drop for FjallRows {
    fn drop(&mut self) {
        if let Some(background) = self.background.take() {
            background.stop();
        }
    }
}

/// One state of the store.
struct FjallView {
    snapshot: Snapshot,
    handles: Arc<Keyspaces<Handle>>,
    version: u64,
    damage: Arc<Damage>,
    _dir: Arc<Dir>,
}

impl FjallView {
    fn handle(&self, keyspace: Keyspace) -> Option<&Handle> {
        self.handles.get(keyspace).filter(|handle| handle.exists_at(self.version))
    }

    fn row(&self, handle: &Handle, stored: fjall::Result<(Slice, Slice)>) -> Result<Row> {
        self.parse(handle, stored).map_err(|error| self.damage.note(error))
    }

    fn parse(&self, handle: &Handle, stored: fjall::Result<(Slice, Slice)>) -> Result<Row> {
        let (stored_key, stored) = stored.map_err(engine)?;
        let key = stored_key[1..].to_vec();
        let value = match row_format::parse_head(&stored)? {
            Head::Whole(value) => value.to_vec(),
            Head::Split { bytes, first } => row_format::join(&key, bytes, first, part_reader(&self.snapshot, handle))?,
        };
        Ok((key, value))
    }
}

impl RowView for FjallView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.handle(keyspace) {
            Some(handle) => get_at(&self.snapshot, handle, key).map_err(|error| self.damage.note(error)),
            None => Ok(None),
        }
    }

    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Row>> + 'a> {
        let with_prefix = |key: &[u8]| row_format::row_key(key, &mut Vec::new()).to_vec();
        let range = (
            match from {
                Bound::Unbounded => Bound::Included(vec![ROW]),
                bound => bound.map(with_prefix),
            },
            match to {
                Bound::Unbounded => Bound::Excluded(vec![CONTINUATION]),
                bound => bound.map(with_prefix),
            },
        );
        let Some(handle) = self.handle(keyspace) else {
            return Box::new(std::iter::empty());
        };
        if range_is_empty(&owned(from), &owned(to)) {
            return Box::new(std::iter::empty());
        }
        let rows = self.snapshot.range(&handle.keyspace, range);
        if reverse {
            Box::new(rows.rev().map(move |guard| self.row(handle, guard.into_inner())))
        } else {
            Box::new(rows.map(move |guard| self.row(handle, guard.into_inner())))
        }
    }

    fn applied(&self) -> u64 {
        self.version.saturating_sub(1)
    }

    fn keyspaces(&self) -> Vec<Keyspace> {
        self.handles.iter().filter(|(_, handle)| handle.exists_at(self.version)).map(|(keyspace, _)| keyspace).collect()
    }
}

fn open_database(dir: &Path, options: &RowOptions) -> fjall::Result<Database> {
    Database::builder(dir)
        .cache_size(options.cache_bytes)
        // Rows are split far below fjall's threshold; none is what our journal reader expects, too.
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
        .worker_threads(options.worker_threads.max(1))
        .max_cached_files(Some(options.open_files.max(16)))
        .max_journaling_size(options.journal_bytes_max.max(64 * 1024 * 1024))
        .open()
}

fn keyspace_options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(memtable_bytes.max(1024 * 1024))
}

fn bucket_name(bucket: u32, created: u64) -> String {
    format!("outcomes-{bucket}-{created}")
}

fn put(
    out: &mut OwnedWriteBatch,
    handle: &Handle,
    name: &[u8],
    bytes: &[u8],
    old_bytes: usize,
    key: &mut Vec<u8>,
    value: &mut Vec<u8>,
) {
    out.insert(&handle.keyspace, row_format::row_key(name, key), row_format::head(bytes, value));
    let parts = row_format::continuations(bytes.len());
    for part in 0..parts {
        out.insert(
            &handle.keyspace,
            row_format::continuation_key(name, part, key),
            row_format::continuation(bytes, part),
        );
    }
    for part in parts..row_format::continuations(old_bytes) {
        out.remove(&handle.keyspace, row_format::continuation_key(name, part, key));
    }
}

fn remove(out: &mut OwnedWriteBatch, handle: &Handle, name: &[u8], old_bytes: usize, key: &mut Vec<u8>) {
    out.remove(&handle.keyspace, row_format::row_key(name, key));
    for part in 0..row_format::continuations(old_bytes) {
        out.remove(&handle.keyspace, row_format::continuation_key(name, part, key));
    }
}

/// The markers of all keyspaces; the one in Meta is the last row of the batch.
fn put_markers(out: &mut OwnedWriteBatch, handles: &Keyspaces<Handle>, version: u64) {
    let others = handles.iter().filter(|(keyspace, _)| *keyspace != Keyspace::Meta).map(|(_, handle)| handle);
    for handle in others.chain([&handles.meta]) {
        if handle.exists_at(version) {
            out.insert(&handle.keyspace, MARKER, row_format::marker(version));
        }
    }
}

fn put_bucket_list(out: &mut OwnedWriteBatch, handles: &Keyspaces<Handle>, version: u64) {
    let list: Vec<(u32, u64)> = handles
        .outcomes
        .iter()
        .filter(|(_, handle)| handle.exists_at(version))
        .map(|(bucket, handle)| (*bucket, handle.created))
        .collect();
    out.insert(&handles.meta.keyspace, BUCKETS, codec::frame(BUCKETS_VERSION, &list));
}

fn read_marker(snapshot: &Snapshot, handle: &Handle) -> Result<u64> {
    snapshot
        .get(&handle.keyspace, MARKER)
        .map_err(engine)?
        .and_then(|stored| row_format::parse_marker(&stored))
        .ok_or_else(|| Error::corrupt("the marker of the applied index is missing"))
}

fn get_at(snapshot: &Snapshot, handle: &Handle, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut scratch = Vec::with_capacity(key.len() + 1);
    let stored = snapshot.get(&handle.keyspace, row_format::row_key(key, &mut scratch)).map_err(engine)?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    Ok(Some(match row_format::parse_head(&stored)? {
        Head::Whole(value) => value.to_vec(),
        Head::Split { bytes, first } => row_format::join(key, bytes, first, part_reader(snapshot, handle))?,
    }))
}

fn part_reader(snapshot: &Snapshot, handle: &Handle) -> impl FnMut(&[u8], &mut Vec<u8>) -> Result<bool> {
    move |key, value| {
        let part = snapshot.get(&handle.keyspace, key).map_err(engine)?;
        if let Some(part) = &part {
            value.extend_from_slice(part);
        }
        Ok(part.is_some())
    }
}

fn check_empty(version: u64) -> Result<()> {
    match version {
        0 => Ok(()),
        version => Err(Error::OutOfOrder(format!("ingest into rows at {}, empty rows expected", version - 1))),
    }
}

/// Whether an error of opening means that what is on disk cannot be used, as opposed to the system not letting us.
fn is_damage(error: &fjall::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    let unusable =
        |error: &std::io::Error| matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof);
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => unusable(error),
        fjall::Error::Locked | fjall::Error::Poisoned => false,
        _ => true,
    }
}

fn engine(error: fjall::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
            if !matches!(source.kind(), InvalidData | UnexpectedEof) =>
        {
            Error::Io { what: "rows".into(), source }
        }
        fjall::Error::Io(source) => Error::corrupt(format!("rows: {source}")),
        fjall::Error::Locked => Error::Locked { what: "the row store".into() },
        fjall::Error::Storage(error) => {
            Error::corrupt(format!("rows: {error}; this node makes its rows anew when it is started again"))
        }
        other => Error::Engine { engine: "fjall", what: other.to_string() },
    }
}
