//! The current generation of rows, and what it has reached.
//!
//! Readers take the handle and keep the generation they began with; an install swaps the handle and wakes everyone who
//! waits for an index. The old generation goes when its last reader is gone.

use std::sync::Arc;
use std::time::Duration;

use agora_storage::disk::Disk;
use agora_storage::keyspaces::Keyspace;
use agora_storage::meta::{self, LogPosition, StateHeader, StoredMembership};
use agora_storage::rows::Rows;
use agora_storage::{codec, rows::RowView};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// An old generation stays so long after its last handle is gone: a view may outlive the handle it came from.
const GRACE: Duration = Duration::from_secs(5);

/// Shared by apply, readers and snapshots.
pub(crate) struct RowsCell {
    current: RwLock<Current>,
    applied: watch::Sender<u64>,
    retired: Mutex<Vec<Retired>>,
}

struct Current {
    generation: u64,
    rows: Arc<dyn Rows>,
}

struct Retired {
    generation: u64,
    rows: Option<Arc<dyn Rows>>,
    unused_for: Duration,
}

impl RowsCell {
    pub(crate) fn new(generation: u64, rows: Arc<dyn Rows>) -> RowsCell {
        let applied = rows.applied();
        RowsCell {
            current: RwLock::new(Current { generation, rows }),
            applied: watch::Sender::new(applied),
            retired: Mutex::default(),
        }
    }

    /// The current rows.
    pub(crate) fn rows(&self) -> Arc<dyn Rows> {
        self.current.read().rows.clone()
    }

    /// The current rows and the number of their generation.
    pub(crate) fn current(&self) -> (u64, Arc<dyn Rows>) {
        let current = self.current.read();
        (current.generation, current.rows.clone())
    }

    /// Index the rows have reached.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Watches that index.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Tells that the rows have reached an index.
    pub(crate) fn set_applied(&self, index: u64) {
        self.applied.send_replace(index);
    }

    /// Makes another generation the current one. It only moves forward.
    pub(crate) fn replace(&self, generation: u64, rows: Arc<dyn Rows>) {
        let index = rows.applied();
        let before = self.applied();
        assert!(index >= before, "rows at index {index} would replace rows at {before}");
        let old = std::mem::replace(&mut *self.current.write(), Current { generation, rows });
        self.retired.lock().push(Retired {
            generation: old.generation,
            rows: Some(old.rows),
            unused_for: Duration::ZERO,
        });
        self.set_applied(index);
    }

    /// Removes retired generations that nobody reads any more; called every `since_last`.
    pub(crate) fn remove_retired(&self, disk: &dyn Disk, since_last: Duration) {
        let mut retired = self.retired.lock();
        retired.retain_mut(|old| {
            if old.rows.as_ref().is_some_and(|rows| Arc::strong_count(rows) > 1) {
                return true;
            }
            old.rows = None;
            old.unused_for += since_last;
            if old.unused_for < GRACE {
                return true;
            }
            match disk.remove_rows(old.generation) {
                Ok(()) => tracing::info!(generation = old.generation, "old rows removed"),
                // Tried again at the next start.
                Err(error) => tracing::warn!(generation = old.generation, %error, "old rows not removed"),
            }
            false
        });
    }
}

/// What rows say of themselves, read from one view.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowsMeta {
    pub(crate) applied: LogPosition,
    pub(crate) membership: StoredMembership,
    pub(crate) state: StateHeader,
}

impl RowsMeta {
    /// Reads the three meta rows; missing ones are empty, as in rows that nothing was applied to.
    pub(crate) fn read(view: &dyn RowView) -> agora_storage::Result<RowsMeta> {
        Ok(RowsMeta {
            applied: read_one(view, meta::APPLIED)?,
            membership: read_one(view, meta::MEMBERSHIP)?,
            state: read_one(view, meta::STATE)?,
        })
    }
}

fn read_one<T: DeserializeOwned + Default>(view: &dyn RowView, key: &[u8]) -> agora_storage::Result<T> {
    view.get(Keyspace::Meta, key)?.map_or_else(|| Ok(T::default()), |bytes| codec::decode(&bytes))
}
