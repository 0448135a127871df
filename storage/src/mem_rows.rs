//! The rows in memory: the deterministic twin of the rows on disk, for simulation and tests.
//!
//! Every key keeps its versions, each with the batch that wrote it, as long as a view or a possible crash can still ask
//! for them: views read at their version, and [`Shared::crash`] goes back to any batch not older than the last sync,
//! as a power cut does. Only maps in key order are used, so two runs with the same input are equal.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, OnceLock},
};

use agora_planted::{self as planted, Bug};
use parking_lot::Mutex;

use crate::{
    batch::Batch,
    error::{Error, Result},
    keyspaces::Keyspace,
    mem_faults::{BrokenRow, Faults},
    rows::{INGEST_ROWS_MAX, Row, RowStats, RowView, Rows, check_buckets, check_next, goes_later},
};

/// Rows fetched per lock of the store during a scan.
const SCAN_ROWS_MAX: usize = 256;

/// Batches that a crash can take back, at most; older ones count as synced. A disk writes back by itself in the end, and memory
/// must stay bounded when nobody calls `sync`.
const UNSYNCED_BATCHES_MAX: u64 = 100_000;

/// A handle on rows in memory. Clones and later handles see the same rows.
#[derive(Clone)]
pub struct MemRows {
    shared: Arc<Shared>,
    epoch: u64,
    faults: Arc<Faults>,
    damage: Damage,
}

/// The damage that one life of a store has met.
#[derive(Clone, Default)]
struct Damage {
    reason: Arc<OnceLock<String>>,
    /// It is known already: what can be read is read.
    tolerated: bool,
}

/// What all handles of one generation share, and what survives a restart.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    /// Handles of an older epoch are dead: their process crashed.
    epoch: u64,
    /// Applied index plus one; 0 if nothing was committed. Also the version a new view reads at.
    next: u64,
    /// What a crash cannot take back, in the same terms as `next`.
    synced: u64,
    ingesting: bool,
    spaces: BTreeMap<Keyspace, BTreeMap<Vec<u8>, Versions>>,
    /// Lives of each bucket: created at, and dropped at, in versions.
    buckets: BTreeMap<u32, Vec<(u64, Option<u64>)>>,
    /// Versions that views read at, with the number of views.
    views: BTreeMap<u64, usize>,
    /// What was written when, oldest first: where old versions may be waiting to go.
    trail: VecDeque<(u64, Keyspace, Vec<u8>)>,
    rows: u64,
    bytes: u64,
    commits: u64,
    /// Rows that cannot be read until they are written anew.
    broken: BTreeMap<(Keyspace, Vec<u8>), BrokenRow>,
    /// That a read has met one of them, as a later start knows it.
    found_damaged: Option<String>,
}

/// Versions of one key, oldest first: the version that wrote it, and the value, or `None` where it was removed.
type Versions = Vec<(u64, Option<Arc<[u8]>>)>;

fn at_version(versions: &Versions, version: u64) -> Option<&Arc<[u8]>> {
    versions.iter().rev().find(|(written, _)| *written <= version).and_then(|(_, value)| value.as_ref())
}

impl State {
    fn write(&mut self, version: u64, keyspace: Keyspace, key: Vec<u8>, value: Option<Arc<[u8]>>) {
        self.bytes += value.as_ref().map_or(0, |value| value.len() as u64);
        if !self.broken.is_empty() {
            self.broken.remove(&(keyspace, key.clone()));
        }
        let versions = self.spaces.entry(keyspace).or_default().entry(key.clone()).or_default();
        let was = versions.last().is_some_and(|(_, value)| value.is_some());
        match (was, value.is_some()) {
            (false, true) => self.rows += 1,
            (true, false) => self.rows -= 1,
            _ => {}
        }
        match versions.last_mut() {
            Some(last) if last.0 == version => last.1 = value,
            _ => versions.push((version, value)),
        }
        self.trail.push_back((version, keyspace, key));
    }

    fn bucket_exists(&self, bucket: u32, version: u64) -> bool {
        self.buckets.get(&bucket).is_some_and(|lives| {
            lives
                .iter()
                .any(|(created, dropped)| *created <= version && dropped.is_none_or(|dropped| dropped > version))
        })
    }

    fn create_bucket(&mut self, bucket: u32, version: u64) {
        if !self.bucket_exists(bucket, version) {
            self.buckets.entry(bucket).or_default().push((version, None));
        }
    }

    fn drop_bucket(&mut self, bucket: u32, version: u64) {
        if !self.bucket_exists(bucket, version) {
            return;
        }
        let keys: Vec<Vec<u8>> =
            self.spaces.get(&Keyspace::Outcomes(bucket)).into_iter().flat_map(|space| space.keys().cloned()).collect();
        for key in keys {
            self.write(version, Keyspace::Outcomes(bucket), key, None);
        }
        if let Some(life) = self.buckets.get_mut(&bucket).and_then(|lives| lives.last_mut()) {
            life.1 = Some(version);
        }
    }

    /// Lets go of versions that neither a view nor a crash can ask for.
    fn prune(&mut self) {
        self.synced = self.synced.max(self.next.saturating_sub(UNSYNCED_BATCHES_MAX));
        let oldest_view = self.views.keys().next().copied().unwrap_or(u64::MAX);
        let floor = self.synced.min(oldest_view).min(self.next);
        while self.trail.front().is_some_and(|(version, _, _)| *version <= floor) {
            let Some((_, keyspace, key)) = self.trail.pop_front() else {
                break;
            };
            let Some(space) = self.spaces.get_mut(&keyspace) else {
                continue;
            };
            let Some(versions) = space.get_mut(&key) else {
                continue;
            };
            let keep_from = versions.iter().rposition(|(written, _)| *written <= floor).unwrap_or(0);
            for (_, value) in versions.drain(..keep_from) {
                self.bytes -= value.map_or(0, |value| value.len() as u64);
            }
            if versions.len() == 1 && versions[0].0 <= floor && versions[0].1.is_none() {
                space.remove(&key);
            }
        }
        self.buckets.retain(|_, lives| {
            lives.retain(|(_, dropped)| dropped.is_none_or(|dropped| dropped > floor));
            !lives.is_empty()
        });
    }

    /// Takes back everything written after `version`.
    fn rewind(&mut self, version: u64) {
        for (keyspace, space) in &mut self.spaces {
            // Only a planted bug commits some keyspaces later than others.
            let torn = version > self.synced && goes_later(*keyspace);
            space.retain(|_, versions| {
                versions.retain(|(written, _)| *written < version || *written == version && !torn);
                !versions.is_empty()
            });
        }
        self.buckets.retain(|_, lives| {
            lives.retain_mut(|(created, dropped)| {
                if dropped.is_some_and(|dropped| dropped > version) {
                    *dropped = None;
                }
                *created <= version
            });
            !lives.is_empty()
        });
        self.trail.retain(|(written, _, _)| *written <= version);
        self.next = version;
        self.synced = version;
        self.views.clear();
        let values = || self.spaces.values().flat_map(|space| space.values()).flat_map(|versions| versions.iter());
        self.bytes = values().map(|(_, value)| value.as_ref().map_or(0, |value| value.len() as u64)).sum();
        self.rows = self
            .spaces
            .values()
            .flat_map(|space| space.values())
            .filter(|versions| versions.last().is_some_and(|(_, value)| value.is_some()))
            .count() as u64;
    }
}

impl Shared {
    /// A new handle; older ones go on working until [`Shared::crash`].
    pub(crate) fn handle(self: &Arc<Self>) -> MemRows {
        self.handle_with(Arc::default())
    }

    /// The same, on a disk that may fail.
    pub(crate) fn handle_with(self: &Arc<Self>, faults: Arc<Faults>) -> MemRows {
        let state = self.state.lock();
        let damage = Damage { tolerated: state.found_damaged.is_some(), ..Damage::default() };
        MemRows { epoch: state.epoch, shared: self.clone(), faults, damage }
    }

    /// A row cannot be read from now on.
    pub(crate) fn break_row(&self, keyspace: Keyspace, key: &[u8], how: BrokenRow) {
        self.state.lock().broken.insert((keyspace, key.to_vec()), how);
    }

    /// What a read has met in this life or an earlier one.
    pub(crate) fn found_damaged(&self) -> Option<String> {
        self.state.lock().found_damaged.clone()
    }

    /// The process died: all handles are dead, and everything that was written stays.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.views.clear();
    }

    /// The power went: all handles are dead, and of the batches that were not synced, only some survive.
    /// `keep` picks how many of the given number.
    pub(crate) fn crash(&self, keep: impl FnOnce(u64) -> u64) {
        let mut state = self.state.lock();
        state.epoch += 1;
        let unsynced = state.next - state.synced;
        let version = state.synced + keep(unsynced).min(unsynced);
        if state.ingesting {
            // What an unfinished ingest wrote stays, as it does on a disk; the caller must not open it.
            state.views.clear();
            return;
        }
        state.rewind(version);
    }

    /// A copy with a life of its own.
    pub(crate) fn fork(&self) -> Shared {
        let mut state = self.state.lock().clone();
        state.views.clear();
        Shared { state: Mutex::new(state) }
    }

    /// Applied index plus one; `None` if an ingest was left unfinished.
    pub(crate) fn next(&self) -> Option<u64> {
        let state = self.state.lock();
        (!state.ingesting).then_some(state.next)
    }
}

impl Default for MemRows {
    fn default() -> Self {
        Self::new()
    }
}

impl MemRows {
    /// Empty rows.
    pub fn new() -> MemRows {
        Arc::new(Shared::default()).handle()
    }

    fn lock(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.shared.state.lock();
        if state.epoch != self.epoch {
            return Err(Error::Closed("row store in memory"));
        }
        Ok(state)
    }

    /// Fails if a row is broken, and notes it.
    fn check_row(&self, state: &mut State, keyspace: Keyspace, key: &[u8]) -> Result<()> {
        if state.broken.is_empty() {
            return Ok(());
        }
        let Some(how) = state.broken.get(&(keyspace, key.to_vec())) else { return Ok(()) };
        let error = how.error();
        if let Some(what) = error.damage()
            && !self.damage.tolerated
        {
            state.found_damaged.get_or_insert_with(|| what.clone());
            let _ = self.damage.reason.set(what);
        }
        Err(error)
    }
}

impl Rows for MemRows {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut state = self.lock()?;
        self.check_row(&mut state, keyspace, key)?;
        Ok(state
            .spaces
            .get(&keyspace)
            .and_then(|space| space.get(key))
            .and_then(|versions| at_version(versions, state.next))
            .map(|value| value.to_vec()))
    }

    fn view(&self) -> Result<Box<dyn RowView>> {
        let mut state = self.lock()?;
        let version = state.next;
        *state.views.entry(version).or_insert(0) += 1;
        drop(state);
        Ok(Box::new(MemView { rows: self.clone(), version }))
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let mut state = self.lock()?;
        if state.ingesting {
            return Err(Error::OutOfOrder("commit during an ingest".into()));
        }
        check_next(state.next, batch.applied())?;
        check_buckets(&batch)?;
        self.faults.row_write().map_err(Error::io("commit rows in memory"))?;
        let version = batch.applied() + 1;
        for bucket in batch.buckets_written() {
            state.create_bucket(bucket, version);
        }
        for bucket in &batch.dropped {
            state.drop_bucket(*bucket, version);
        }
        for change in batch.changes() {
            state.write(version, change.keyspace, change.key().to_vec(), change.value().map(Arc::from));
        }
        state.next = version;
        state.commits += 1;
        state.prune();
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.shared.state.lock().next.saturating_sub(1)
    }

    fn sync(&self) -> Result<u64> {
        let mut state = self.lock()?;
        self.faults.rows_sync().map_err(Error::io("sync rows in memory"))?;
        state.synced = state.next;
        state.prune();
        Ok(state.next.saturating_sub(1))
    }

    fn ingest(&self, rows: Vec<(Keyspace, Vec<u8>, Vec<u8>)>) -> Result<()> {
        let mut state = self.lock()?;
        if state.next != 0 {
            return Err(Error::OutOfOrder(format!("ingest into rows at {}, empty rows expected", state.next - 1)));
        }
        if rows.len() > INGEST_ROWS_MAX {
            return Err(Error::TooLarge {
                what: "ingest in rows",
                bytes: rows.len() as u64,
                bytes_max: INGEST_ROWS_MAX as u64,
            });
        }
        self.faults.row_write().map_err(Error::io("fill rows in memory"))?;
        state.ingesting = true;
        for (keyspace, key, value) in rows {
            if let Keyspace::Outcomes(bucket) = keyspace {
                state.create_bucket(bucket, 0);
            }
            state.write(0, keyspace, key, Some(value.into()));
        }
        state.trail.clear();
        Ok(())
    }

    fn ingest_finish(&self, applied: u64) -> Result<()> {
        let mut state = self.lock()?;
        if state.next != 0 {
            return Err(Error::OutOfOrder(format!("end of an ingest on rows at {}", state.next - 1)));
        }
        self.faults.rows_sync().map_err(Error::io("sync rows in memory"))?;
        state.ingesting = false;
        state.next = applied + 1;
        if !planted::is(Bug::InstallNotFsynced) {
            state.synced = state.next;
        }
        Ok(())
    }

    fn stats(&self) -> RowStats {
        let state = self.shared.state.lock();
        RowStats {
            memtable_bytes: state.bytes,
            rows_approximate: state.rows,
            commits: state.commits,
            ..RowStats::default()
        }
    }

    fn damage(&self) -> Option<String> {
        self.damage.reason.get().cloned()
    }
}

/// A view: the version it reads at, kept alive in the store until it is dropped.
struct MemView {
    rows: MemRows,
    version: u64,
}

impl Drop for MemView {
    fn drop(&mut self) {
        if let Ok(mut state) = self.rows.lock() {
            if let Some(count) = state.views.get_mut(&self.version) {
                *count -= 1;
                if *count == 0 {
                    state.views.remove(&self.version);
                }
            }
            state.prune();
        }
    }
}

impl MemView {
    fn chunk(&self, keyspace: Keyspace, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>, reverse: bool) -> Result<Vec<Row>> {
        let mut state = self.rows.lock()?;
        let Some(space) = state.spaces.get(&keyspace) else {
            return Ok(Vec::new());
        };
        if range_is_empty(from, to) {
            return Ok(Vec::new());
        }
        let bounds = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let present = |(key, versions): (&Vec<u8>, &Versions)| {
            at_version(versions, self.version).map(|value| (key.clone(), value.to_vec()))
        };
        let range = space.range::<[u8], _>(bounds);
        let rows: Vec<Row> = if reverse {
            range.rev().filter_map(present).take(SCAN_ROWS_MAX).collect()
        } else {
            range.filter_map(present).take(SCAN_ROWS_MAX).collect()
        };
        if !state.broken.is_empty() {
            for (key, _) in &rows {
                self.rows.check_row(&mut state, keyspace, key)?;
            }
        }
        Ok(rows)
    }
}

/// Whether no key can lie between the bounds; such ranges are asked for by callers that compute them.
pub(crate) fn range_is_empty(from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    match (from, to) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        _ => false,
    }
}

pub(crate) fn owned(bound: Bound<&[u8]>) -> Bound<Vec<u8>> {
    bound.map(<[u8]>::to_vec)
}

impl RowView for MemView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut state = self.rows.lock()?;
        self.rows.check_row(&mut state, keyspace, key)?;
        Ok(state
            .spaces
            .get(&keyspace)
            .and_then(|space| space.get(key))
            .and_then(|versions| at_version(versions, self.version))
            .map(|value| value.to_vec()))
    }

    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Row>> + 'a> {
        let (mut from, mut to) = (owned(from), owned(to));
        let mut chunk = VecDeque::new();
        let mut ended = false;
        Box::new(std::iter::from_fn(move || {
            if chunk.is_empty() && !ended {
                match self.chunk(keyspace, &from, &to, reverse) {
                    Ok(rows) => {
                        ended = rows.len() < SCAN_ROWS_MAX;
                        chunk = rows.into();
                    }
                    Err(error) => {
                        ended = true;
                        return Some(Err(error));
                    }
                }
            }
            let row = chunk.pop_front()?;
            if chunk.is_empty() && !ended {
                let edge = Bound::Excluded(row.0.clone());
                if reverse {
                    to = edge;
                } else {
                    from = edge;
                }
            }
            Some(Ok(row))
        }))
    }

    fn applied(&self) -> u64 {
        self.version.saturating_sub(1)
    }

    fn keyspaces(&self) -> Vec<Keyspace> {
        let state = self.rows.shared.state.lock();
        let buckets = state
            .buckets
            .keys()
            .copied()
            .filter(|bucket| state.bucket_exists(*bucket, self.version))
            .map(Keyspace::Outcomes);
        Keyspace::FIXED.into_iter().chain(buckets).collect()
    }
}
