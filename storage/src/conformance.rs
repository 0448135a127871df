//! One suite for every row store, and random operations against all of them at once.
//!
//! Each case gets a disk and runs on a directory and on memory. What differs between the two is a bug in one of them.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use proptest::prelude::*;

use crate::{
    Batch, Disk, Error, FileDisk, Keyspace, MemDisk, OpenedRows, RowOptions, RowView, Rows, meta, rows::Row, scrub,
};

/// Runs a case on both disks.
#[track_caller]
fn on_both(case: impl Fn(&dyn Disk)) {
    let dir = tempfile::tempdir().unwrap();
    case(&FileDisk::new(dir.path(), options()).unwrap());
    case(&MemDisk::new());
}

fn options() -> RowOptions {
    RowOptions {
        memtable_bytes: 1024 * 1024,
        outcomes_memtable_bytes: 1024 * 1024,
        background_sync_ms: 5,
        ..RowOptions::default()
    }
}

#[track_caller]
fn reopen(disk: &dyn Disk, rows: Arc<dyn Rows>) -> Arc<dyn Rows> {
    drop(rows);
    match disk.open_rows(1, 0).unwrap() {
        OpenedRows::Ready(rows) => rows,
        OpenedRows::Lost { reason } => panic!("rows lost: {reason}"),
    }
}

fn all(view: &dyn RowView, keyspace: Keyspace) -> Vec<Row> {
    view.scan(keyspace, Bound::Unbounded, Bound::Unbounded, false).map(|row| row.unwrap()).collect()
}

fn everything(view: &dyn RowView) -> BTreeMap<Keyspace, Vec<Row>> {
    view.keyspaces().into_iter().map(|keyspace| (keyspace, all(view, keyspace))).collect()
}

fn one(index: u64, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new(index);
    batch.insert(keyspace, key, value);
    batch
}

#[test]
fn a_committed_row_is_read_and_survives_a_restart() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        assert_eq!(rows.applied(), 0);
        let mut batch = one(1, Keyspace::Entity, b"a", b"1");
        batch.insert(Keyspace::Feed, *b"f", *b"2");
        batch.insert(Keyspace::Outcomes(7), *b"o", *b"3");
        batch.put_meta(meta::APPLIED, vec![4]);
        rows.commit(batch).unwrap();
        let rows = reopen(disk, rows);
        assert_eq!(rows.applied(), 1);
        assert_eq!(rows.sync().unwrap(), 1);
        let get = |keyspace, key: &[u8]| rows.get(keyspace, key).unwrap();
        assert_eq!(get(Keyspace::Entity, b"a"), Some(b"1".to_vec()));
        assert_eq!(get(Keyspace::Feed, b"f"), Some(b"2".to_vec()));
        assert_eq!(get(Keyspace::Outcomes(7), b"o"), Some(b"3".to_vec()));
        assert_eq!(get(Keyspace::Meta, meta::APPLIED), Some(vec![4]));
        assert_eq!(get(Keyspace::Entity, b"o"), None);
        assert_eq!(get(Keyspace::Outcomes(8), b"o"), None);
    });
}

#[test]
fn only_the_next_index_is_committed() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        let refused = |index| {
            let error = rows.commit(one(index, Keyspace::Entity, b"k", b"v"));
            assert!(matches!(error, Err(Error::OutOfOrder(_))), "index {index}");
        };
        refused(2);
        rows.commit(Batch::new(0)).unwrap();
        refused(0);
        rows.commit(Batch::new(1)).unwrap();
        refused(1);
        refused(3);
        assert_eq!(rows.applied(), 1);
        assert_eq!(rows.get(Keyspace::Entity, b"k").unwrap(), None);
        let rows = reopen(disk, rows);
        rows.commit(Batch::new(2)).unwrap();
    });
}

#[test]
fn the_first_batch_may_also_have_index_one() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        rows.commit(Batch::new(1)).unwrap();
        assert_eq!(rows.applied(), 1);
        assert_eq!(rows.view().unwrap().applied(), 1);
    });
}

#[test]
fn a_view_stays_what_it_was() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        rows.commit(one(1, Keyspace::Entity, b"a", b"1")).unwrap();
        rows.commit(one(2, Keyspace::Outcomes(1), b"o", b"1")).unwrap();
        let view = rows.view().unwrap();
        let mut batch = Batch::new(3);
        batch.replace(Keyspace::Entity, *b"a", b"1", *b"2");
        batch.insert(Keyspace::Entity, *b"b", *b"2");
        batch.insert(Keyspace::Outcomes(2), *b"o", *b"2");
        batch.drop_bucket(1, 0);
        rows.commit(batch).unwrap();
        assert_eq!(view.applied(), 2);
        assert_eq!(all(&*view, Keyspace::Entity), [(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(view.get(Keyspace::Entity, b"b").unwrap(), None);
        assert_eq!(view.get(Keyspace::Outcomes(1), b"o").unwrap(), Some(b"1".to_vec()));
        assert_eq!(view.get(Keyspace::Outcomes(2), b"o").unwrap(), None);
        assert_eq!(view.keyspaces().last(), Some(&Keyspace::Outcomes(1)));
        let now = rows.view().unwrap();
        assert_eq!(now.applied(), 3);
        assert_eq!(now.get(Keyspace::Entity, b"a").unwrap(), Some(b"2".to_vec()));
        assert_eq!(now.get(Keyspace::Outcomes(1), b"o").unwrap(), None);
        assert_eq!(now.keyspaces().last(), Some(&Keyspace::Outcomes(2)));
    });
}

#[test]
fn scans_follow_their_bounds_in_both_directions() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        let mut batch = Batch::new(1);
        for n in 0..1000u16 {
            batch.insert(Keyspace::Index, n.to_be_bytes(), n.to_le_bytes());
        }
        batch.insert(Keyspace::Index, [0xff; 40], *b"last");
        rows.commit(batch).unwrap();
        let view = rows.view().unwrap();
        let keys = |from, to, reverse| -> Vec<u16> {
            view.scan(Keyspace::Index, from, to, reverse)
                .map(|row| row.unwrap().1)
                .filter(|value| value.len() == 2)
                .map(|value| u16::from_le_bytes([value[0], value[1]]))
                .collect()
        };
        let (low, high) = (300u16.to_be_bytes(), 700u16.to_be_bytes());
        let up: Vec<u16> = (300..700).collect();
        let down: Vec<u16> = (301..=700).rev().collect();
        assert_eq!(keys(Bound::Included(&low), Bound::Excluded(&high), false), up);
        assert_eq!(keys(Bound::Excluded(&low), Bound::Included(&high), true), down);
        assert_eq!(keys(Bound::Unbounded, Bound::Unbounded, false).len(), 1000);
        assert_eq!(keys(Bound::Unbounded, Bound::Excluded(&low), true).len(), 300);
        let empty: Vec<u16> = Vec::new();
        assert_eq!(keys(Bound::Included(&high), Bound::Excluded(&low), false), empty);
        assert_eq!(keys(Bound::Excluded(&low), Bound::Excluded(&low), true), empty);
        assert_eq!(keys(Bound::Included(&low), Bound::Included(&low), true), [300]);
        let mut reversed = view.scan(Keyspace::Index, Bound::Unbounded, Bound::Unbounded, true);
        assert_eq!(reversed.next().unwrap().unwrap().1, b"last");
        assert_eq!(reversed.count(), 1000);
    });
}

#[test]
fn long_values_come_back_whole_and_leave_nothing_behind() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        let value = |bytes: usize| -> Vec<u8> { (0..bytes).map(|n| (n % 253) as u8).collect() };
        let lengths = [0, 2047, 2048, 9000, 70_000, 9000, 3, 2048, 500_000, 1];
        let mut old: Option<Vec<u8>> = None;
        for (index, bytes) in (1..).zip(lengths) {
            let mut batch = Batch::new(index);
            match &old {
                None => batch.insert(Keyspace::Entity, *b"k", value(bytes)),
                Some(old) => batch.replace(Keyspace::Entity, *b"k", old, value(bytes)),
            }
            // A neighbour whose key goes on where the other one's continuations would.
            if index == 1 {
                batch.insert(Keyspace::Entity, *b"k\0\0", value(5000));
            }
            rows.commit(batch).unwrap();
            old = Some(value(bytes));
            assert_eq!(rows.get(Keyspace::Entity, b"k").unwrap(), old);
        }
        let rows = reopen(disk, rows);
        let view = rows.view().unwrap();
        let expected = [(b"k".to_vec(), value(1)), (b"k\0\0".to_vec(), value(5000))];
        assert_eq!(all(&*view, Keyspace::Entity), expected);
        let mut batch = Batch::new(lengths.len() as u64 + 1);
        batch.remove(Keyspace::Entity, *b"k", &value(1));
        batch.remove(Keyspace::Entity, *b"k\0\0", &value(5000));
        batch.put_meta(meta::MEMBERSHIP, value(30_000));
        rows.commit(batch).unwrap();
        let view = rows.view().unwrap();
        assert_eq!(all(&*view, Keyspace::Entity), []);
        assert_eq!(view.get(Keyspace::Meta, meta::MEMBERSHIP).unwrap(), Some(value(30_000)));
        assert_eq!(scrub::scrub(&*view).unwrap().digest, 0);
    });
}

#[test]
fn the_last_write_of_a_key_in_a_batch_holds() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        let long = vec![1; 5000];
        let mut batch = Batch::new(1);
        batch.insert(Keyspace::Entity, *b"a", long.clone());
        batch.replace(Keyspace::Entity, *b"a", &long, *b"short");
        batch.insert(Keyspace::Entity, *b"b", *b"1");
        batch.remove(Keyspace::Entity, *b"b", b"1");
        batch.insert(Keyspace::Entity, *b"c", *b"1");
        batch.remove(Keyspace::Entity, *b"c", b"1");
        batch.insert(Keyspace::Entity, *b"c", *b"2");
        let digest = batch.digest_delta();
        rows.commit(batch).unwrap();
        let expected = [(b"a".to_vec(), b"short".to_vec()), (b"c".to_vec(), b"2".to_vec())];
        let rows = {
            let view = rows.view().unwrap();
            assert_eq!(all(&*view, Keyspace::Entity), expected);
            drop(view);
            reopen(disk, rows)
        };
        let view = rows.view().unwrap();
        assert_eq!(all(&*view, Keyspace::Entity), expected);
        assert_eq!(scrub::scrub(&*view).unwrap().digest, digest);
    });
}

#[test]
fn a_dropped_bucket_is_gone_and_may_come_back_empty() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        rows.commit(one(1, Keyspace::Outcomes(3), b"k", b"old")).unwrap();
        let mut batch = Batch::new(2);
        batch.drop_bucket(3, 0);
        rows.commit(batch).unwrap();
        assert_eq!(rows.get(Keyspace::Outcomes(3), b"k").unwrap(), None);
        assert_eq!(rows.view().unwrap().keyspaces(), Keyspace::FIXED);
        let rows = reopen(disk, rows);
        assert_eq!(rows.view().unwrap().keyspaces(), Keyspace::FIXED);
        rows.commit(one(3, Keyspace::Outcomes(3), b"new", b"1")).unwrap();
        assert_eq!(rows.get(Keyspace::Outcomes(3), b"k").unwrap(), None);
        let rows = reopen(disk, rows);
        let view = rows.view().unwrap();
        assert_eq!(all(&*view, Keyspace::Outcomes(3)), [(b"new".to_vec(), b"1".to_vec())]);
        // Dropping what is not there changes nothing.
        let mut batch = Batch::new(4);
        batch.drop_bucket(99, 0);
        rows.commit(batch).unwrap();
    });
}

#[test]
fn a_batch_does_not_write_to_a_bucket_it_drops() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        let mut batch = one(1, Keyspace::Outcomes(3), b"k", b"v");
        batch.drop_bucket(3, 0);
        assert!(matches!(rows.commit(batch), Err(Error::OutOfOrder(_))));
        assert_eq!(rows.applied(), 0);
    });
}

#[test]
fn an_ingest_ends_at_its_index() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        rows.ingest(vec![
            (Keyspace::Meta, b"m".to_vec(), b"1".to_vec()),
            (Keyspace::Entity, b"e".to_vec(), vec![9; 6000]),
            (Keyspace::Outcomes(5), b"o".to_vec(), b"3".to_vec()),
        ])
        .unwrap();
        let many = (0..5000u64).map(|n| {
            let bucket = Keyspace::Outcomes(6 + (n / 2500) as u32);
            (bucket, n.to_be_bytes().to_vec(), b"v".to_vec())
        });
        rows.ingest(many.collect()).unwrap();
        assert!(rows.commit(Batch::new(1)).is_err());
        rows.ingest_finish(40).unwrap();
        assert_eq!(rows.applied(), 40);
        assert!(rows.ingest(Vec::new()).is_err());
        disk.finish_rows(1).unwrap();
        let rows = reopen(disk, rows);
        assert_eq!(rows.applied(), 40);
        rows.commit(one(41, Keyspace::Outcomes(5), b"p", b"4")).unwrap();
        let view = rows.view().unwrap();
        assert_eq!(view.get(Keyspace::Entity, b"e").unwrap(), Some(vec![9; 6000]));
        assert_eq!(all(&*view, Keyspace::Outcomes(5)).len(), 2);
        assert_eq!(all(&*view, Keyspace::Outcomes(7)).len(), 2500);
        assert_eq!(view.get(Keyspace::Meta, b"m").unwrap(), Some(b"1".to_vec()));
    });
}

#[test]
fn readers_beside_the_writer_see_whole_batches() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        let writer = {
            let rows = rows.clone();
            std::thread::spawn(move || {
                let mut old: Option<Vec<u8>> = None;
                for index in 1..=400u64 {
                    let mut batch = Batch::new(index);
                    // Longer than a page, so that a torn read would show.
                    let value = vec![(index % 251) as u8; 3000];
                    for keyspace in [Keyspace::Entity, Keyspace::Feed, Keyspace::Index] {
                        match &old {
                            None => batch.insert(keyspace, *b"k", value.clone()),
                            Some(old) => batch.replace(keyspace, *b"k", old, value.clone()),
                        }
                    }
                    let bucket = (index / 50) as u32;
                    batch.insert(Keyspace::Outcomes(bucket), index.to_be_bytes(), *b"v");
                    if index % 50 == 0 && bucket >= 2 {
                        batch.drop_bucket(bucket - 2, 0);
                    }
                    rows.commit(batch).unwrap();
                    old = Some(value);
                }
            })
        };
        while !writer.is_finished() {
            let view = rows.view().unwrap();
            let applied = view.applied();
            for keyspace in [Keyspace::Entity, Keyspace::Feed, Keyspace::Index] {
                let value = view.get(keyspace, b"k").unwrap().unwrap_or_default();
                if applied > 0 {
                    assert_eq!(value, vec![(applied % 251) as u8; 3000]);
                }
            }
            let bucket = (applied / 50) as u32;
            let outcomes: usize = view
                .keyspaces()
                .iter()
                .filter(|keyspace| keyspace.bucket().is_some())
                .map(|keyspace| all(&*view, *keyspace).len())
                .sum();
            let first = u64::from(bucket.saturating_sub(1)) * 50;
            assert_eq!(outcomes as u64, applied + 1 - first.max(1), "at {applied}");
            let torn = rows.get(Keyspace::Entity, b"k").unwrap().unwrap_or_default();
            assert!(torn.iter().all(|byte| *byte == torn[0]));
        }
        writer.join().unwrap();
    });
}

#[test]
fn generations_are_listed_made_and_removed() {
    on_both(|disk| {
        let second = disk.create_rows(2).unwrap();
        let first = disk.create_rows(1).unwrap();
        assert_eq!(disk.list_generations().unwrap(), [1, 2]);
        first.commit(one(1, Keyspace::Entity, b"k", b"v")).unwrap();
        drop((first, second));
        // A leftover of the same number does not shine through.
        let first = disk.create_rows(1).unwrap();
        assert_eq!(first.applied(), 0);
        assert_eq!(first.get(Keyspace::Entity, b"k").unwrap(), None);
        disk.remove_rows(2).unwrap();
        disk.remove_rows(2).unwrap();
        assert_eq!(disk.list_generations().unwrap(), [1]);
        assert!(matches!(disk.open_rows(2, 0).unwrap(), OpenedRows::Lost { .. }));
    });
}

#[test]
fn a_removed_generation_goes_with_its_last_reader() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        rows.commit(one(1, Keyspace::Entity, b"k", b"v")).unwrap();
        let view = rows.view().unwrap();
        disk.remove_rows(1).unwrap();
        assert_eq!(rows.get(Keyspace::Entity, b"k").unwrap(), Some(b"v".to_vec()));
        drop(rows);
        assert_eq!(view.get(Keyspace::Entity, b"k").unwrap(), Some(b"v".to_vec()));
        drop(view);
        assert_eq!(disk.list_generations().unwrap(), []);
    });
}

#[test]
fn rows_behind_the_synced_index_are_lost() {
    on_both(|disk| {
        let rows = disk.create_rows(1).unwrap();
        rows.commit(Batch::new(1)).unwrap();
        rows.sync().unwrap();
        drop(rows);
        match disk.open_rows(1, 2).unwrap() {
            OpenedRows::Lost { reason } => assert!(reason.contains("index 1"), "{reason}"),
            OpenedRows::Ready(_) => panic!("rows at 1 opened as synced to 2"),
        }
    });
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>, Option<u32>),
    Sync,
    Reopen,
    KeepView,
}

#[derive(Clone, Debug)]
struct Change {
    keyspace: u8,
    key: u8,
    /// Length of the value, or remove.
    value: Option<u16>,
}

fn keyspace_of(number: u8) -> Keyspace {
    match number {
        0 => Keyspace::Entity,
        1 => Keyspace::Index,
        2 => Keyspace::Feed,
        bucket => Keyspace::Outcomes(u32::from(bucket)),
    }
}

fn change() -> impl Strategy<Value = Change> {
    let length = prop_oneof![4 => 0u16..200, 1 => 2000u16..9000];
    (0u8..6, 0u8..12, proptest::option::weighted(0.75, length)).prop_map(|(keyspace, key, value)| Change {
        keyspace,
        key,
        value,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (
            proptest::collection::vec(change(), 0..12),
            proptest::option::weighted(0.1, 3u32..6)
        )
            .prop_map(|(changes, dropped)| Step::Commit(changes, dropped)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        2 => Just(Step::KeepView),
    ]
}

/// Keys of different lengths, one the beginning of another.
fn key_of(number: u8) -> Vec<u8> {
    vec![number / 3; 1 + usize::from(number % 3)]
}

fn batch_of(
    index: u64,
    changes: &[Change],
    dropped: Option<u32>,
    rows: &dyn Rows,
    digests: &mut BTreeMap<u32, u128>,
) -> Batch {
    let mut batch = Batch::new(index);
    let mut seen = BTreeMap::<(Keyspace, Vec<u8>), Option<Vec<u8>>>::new();
    for change in changes {
        let (keyspace, key) = (keyspace_of(change.keyspace), key_of(change.key));
        if keyspace.bucket().is_some() && keyspace.bucket() == dropped {
            continue;
        }
        let old = seen.entry((keyspace, key.clone())).or_insert_with(|| rows.get(keyspace, &key).unwrap());
        let new = change.value.map(|bytes| vec![(index % 256) as u8 ^ change.key; usize::from(bytes)]);
        match (&old, &new) {
            (None, Some(value)) => batch.insert(keyspace, key, value.clone()),
            (Some(old), Some(value)) => batch.replace(keyspace, key, old, value.clone()),
            (Some(old), None) => batch.remove(keyspace, key, old),
            (None, None) => {}
        }
        *old = new;
    }
    for bucket in 3..6 {
        let sum = digests.entry(bucket).or_insert(0);
        *sum = sum.wrapping_add(batch.bucket_digest_delta(bucket));
    }
    if let Some(bucket) = dropped {
        batch.drop_bucket(bucket, digests.insert(bucket, 0).unwrap_or(0));
    }
    batch
}

#[track_caller]
fn assert_equal(disk: &dyn RowView, memory: &dyn RowView) {
    assert_eq!(disk.applied(), memory.applied());
    assert_eq!(everything(disk), everything(memory));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn disk_and_memory_agree_on_random_histories(
        steps in proptest::collection::vec(step(), 1..40),
        bounds in (0u8..12, 0u8..12)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disks: [Box<dyn Disk>; 2] = [
            Box::new(FileDisk::new(dir.path(), options()).unwrap()),
            Box::new(MemDisk::new()),
        ];
        let mut rows = disks.each_ref().map(|disk| disk.create_rows(1).unwrap());
        let mut kept = Vec::new();
        let mut digests = BTreeMap::new();
        let (mut index, mut digest) = (0u64, 0u128);
        for step in steps {
            match step {
                Step::Commit(changes, dropped) => {
                    index += 1;
                    let batch = batch_of(index, &changes, dropped, &*rows[1], &mut digests);
                    digest = digest.wrapping_add(batch.digest_delta());
                    for rows in &rows {
                        rows.commit(batch.clone()).unwrap();
                    }
                }
                Step::Sync => {
                    for rows in &rows {
                        prop_assert_eq!(rows.sync().unwrap(), index);
                    }
                }
                Step::Reopen => {
                    kept.clear();
                    let mut each = disks.iter();
                    rows = rows.map(|rows| reopen(&**each.next().unwrap(), rows));
                }
                Step::KeepView => {
                    let views = rows.each_ref().map(|rows| rows.view().unwrap());
                    let content = everything(&*views[1]);
                    kept.push((views, content));
                }
            }
        }
        for ([disk, memory], content) in &kept {
            assert_equal(&**disk, &**memory);
            prop_assert_eq!(&everything(&**memory), content);
        }
        let views = rows.each_ref().map(|rows| rows.view().unwrap());
        assert_equal(&*views[0], &*views[1]);
        for view in &views {
            prop_assert_eq!(scrub::scrub(&**view).unwrap().digest, digest);
        }
        let (from, to) = (key_of(bounds.0), key_of(bounds.1));
        for number in 0..6 {
            for reverse in [false, true] {
                let scan = |view: &dyn RowView| -> Vec<_> {
                    view.scan(keyspace_of(number), Bound::Excluded(&from), Bound::Included(&to), reverse)
                        .map(|row| row.unwrap())
                        .collect()
                };
                prop_assert_eq!(scan(&*views[0]), scan(&*views[1]));
            }
        }
    }
}
