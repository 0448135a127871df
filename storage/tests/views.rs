//! A view shows whole batches and nothing of others, whatever the store does in the background meanwhile.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use agora_storage::{Batch, Disk, FileDisk, Keyspace, RowOptions, Rows};

const ROWS: u8 = 64;
const BATCHES: u64 = 10_000;

fn batch(index: u64) -> Batch {
    let mut batch = Batch::new(index);
    for row in 0..ROWS {
        let mut value = vec![row; 100];
        value[..8].copy_from_slice(&index.to_be_bytes());
        batch.insert(if row % 2 == 0 { Keyspace::Entity } else { Keyspace::Index }, [row], value);
    }
    batch
}

/// A memtable so small that flushes and compactions end while batches are written.
#[test]
fn a_view_shows_whole_batches_while_tables_are_flushed_and_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let options = RowOptions { memtable_bytes: 16 * 1024, background_sync_ms: 0, ..RowOptions::default() };
    let disk = FileDisk::new(dir.path(), options).unwrap();
    let rows: Arc<dyn Rows> = disk.create_rows(1).unwrap();
    rows.commit(batch(1)).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = || {
            let mut views = 0u64;
            while !over.load(Ordering::Relaxed) {
                let view = rows.view().unwrap();
                let applied = view.applied();
                for keyspace in [Keyspace::Index, Keyspace::Entity] {
                    for row in view.scan(keyspace, Bound::Unbounded, Bound::Unbounded, views.is_multiple_of(2)) {
                        let (key, value) = row.unwrap();
                        let of = u64::from_be_bytes(value[..8].try_into().unwrap());
                        assert_eq!(of, applied, "row {key:?} of a view of index {applied}, view {views}");
                    }
                }
                views += 1;
            }
            views
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for index in 2..=BATCHES {
            rows.commit(batch(index)).unwrap();
            if readers.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("no view is torn") > 5);
        }
    });
    assert!(rows.stats().tables > 0 && rows.stats().compactions > 0, "{:?}", rows.stats());
}
