//! The rules of opening a directory, and what is said when one is not met.

use std::{fs, sync::Arc};

use agora_storage::{
    Batch, Disk, Error, Expect, FileDisk, Identity, Keyspace, LogOp, MemDisk, NewIdentity, Opened, RowOptions, Rows,
    open, open::FORMAT,
};
use bytes::Bytes;

fn expect() -> Expect {
    Expect { cluster: "shop".into(), node: 1, nonce: 77 }
}

const NEW: Option<NewIdentity> = Some(NewIdentity { lineage: 42 });

fn on_both(case: impl Fn(&dyn Disk)) {
    let dir = tempfile::tempdir().unwrap();
    case(&FileDisk::new(dir.path(), RowOptions::default()).unwrap());
    case(&MemDisk::new());
}

type Ready = (Arc<agora_storage::LogStore>, Identity, Arc<dyn Rows>);

#[track_caller]
fn ready(disk: &dyn Disk, create: Option<NewIdentity>) -> Ready {
    match open(disk, &expect(), create).unwrap() {
        Opened::Ready { log, identity, rows } => (log, identity, rows),
        Opened::RowsLost { reason, .. } => panic!("rows lost: {reason}"),
    }
}

#[track_caller]
fn lost(disk: &dyn Disk) -> (Identity, String, u64) {
    match open(disk, &expect(), None).unwrap() {
        Opened::Ready { .. } => panic!("opened"),
        Opened::RowsLost { identity, reason, need_index, .. } => (identity, reason, need_index),
    }
}

#[track_caller]
fn refused(disk: &dyn Disk, expect: &Expect, create: Option<NewIdentity>) -> Error {
    match open(disk, expect, create) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

fn fill(log: &agora_storage::LogStore, rows: &dyn Rows, to: u64) {
    let first = log.bounds().unwrap().end().map_or(1, |end| end + 1);
    log.write(vec![LogOp::Append { first, entries: (first..=to).map(|_| Bytes::from_static(b"e")).collect() }])
        .unwrap();
    for index in rows.applied() + 1..=to {
        let mut batch = Batch::new(index);
        batch.insert(Keyspace::Feed, index.to_be_bytes(), *b"v");
        rows.commit(batch).unwrap();
    }
}

fn synced_and_purged(log: &agora_storage::LogStore, rows: &dyn Rows, purge: u64) {
    let index = rows.sync().unwrap();
    log.write(vec![
        LogOp::RowsSynced { generation: log.identity().unwrap().unwrap().generation, index },
        LogOp::PurgeTo { index: purge, mark: vec![] },
    ])
    .unwrap();
}

#[test]
fn an_empty_directory_is_opened_only_to_create() {
    on_both(|disk| {
        let error = refused(disk, &expect(), None);
        assert!(matches!(error, Error::Missing(_)), "{error}");
        assert!(error.to_string().contains("directory is empty"), "{error}");
        let (log, identity, rows) = ready(disk, NEW);
        assert_eq!(identity.format, FORMAT);
        assert_eq!((identity.lineage, identity.node), (42, 1));
        assert_eq!((identity.incarnation, identity.nonce), (1, 77));
        assert_eq!((identity.generation, rows.applied()), (1, 0));
        assert_eq!(log.identity().unwrap(), Some(identity));
    });
}

#[test]
fn every_open_counts_the_incarnation_before_anything_is_said() {
    on_both(|disk| {
        for count in 1..4u64 {
            let again = Expect { nonce: u128::from(count) * 1000, ..expect() };
            // Creating what exists opens it.
            let Opened::Ready { log, identity, .. } = open(disk, &again, NEW).unwrap() else {
                panic!("rows lost");
            };
            assert_eq!(identity.incarnation, count);
            assert_eq!(identity.nonce, again.nonce);
            assert_eq!(log.identity().unwrap().unwrap(), identity);
        }
    });
}

#[test]
fn another_cluster_or_node_is_refused_by_name() {
    on_both(|disk| {
        drop(ready(disk, NEW));
        let other_cluster = Expect { cluster: "bazaar".into(), ..expect() };
        let error = refused(disk, &other_cluster, NEW);
        assert!(matches!(error, Error::Foreign(_)));
        let message = error.to_string();
        assert!(message.contains("\"shop\"") && message.contains("\"bazaar\""), "{message}");
        let other_node = Expect { node: 3, ..expect() };
        let message = refused(disk, &other_node, None).to_string();
        assert!(message.contains("node 1") && message.contains("node 3"), "{message}");
        let (_, identity, _) = ready(disk, None);
        assert_eq!(identity.incarnation, 2, "a refused open counts nothing");
    });
}

#[test]
fn formats_from_the_future_and_the_past_are_named() {
    on_both(|disk| {
        let (log, identity, rows) = ready(disk, NEW);
        let write = |format| {
            let identity = Identity { format, ..identity.clone() };
            log.write(vec![LogOp::Identity(identity)]).unwrap();
        };
        write(FORMAT + 1);
        drop(rows);
        drop(log);
        let error = refused(disk, &expect(), None);
        assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
        assert!(error.to_string().contains("start the release that wrote it"), "{error}");
        let log = disk.open_log().unwrap();
        log.write(vec![LogOp::Identity(Identity { format: 0, ..identity.clone() })]).unwrap();
        drop(log);
        let error = refused(disk, &expect(), None);
        assert!(matches!(error, Error::TooOld { .. }), "{error}");
    });
}

#[test]
fn rows_without_a_log_are_a_lost_log() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    drop(ready(&disk, NEW));
    fs::remove_file(dir.path().join("log.redb")).unwrap();
    let error = refused(&disk, &expect(), NEW);
    assert!(matches!(error, Error::LogLost(_)), "{error}");
    let message = error.to_string();
    assert!(message.contains("log.redb is missing") && message.contains("new id"), "{message}");
    assert!(message.contains("log.end says that it held something"), "{message}");
    assert!(message.contains("1 row generations are there"), "{message}");
    assert!(!dir.path().join("log.redb").exists(), "a second look must see the same");
    // Of a log that was moved away, the witness alone is enough.
    disk.remove_rows(1).unwrap();
    let message = refused(&disk, &expect(), NEW).to_string();
    assert!(message.contains("log.redb is missing, but log.end says"), "{message}");
    assert!(message.contains("put the file back"), "{message}");
    // And without it, the rows are.
    drop(disk.create_rows(1).unwrap());
    fs::remove_file(dir.path().join("log.end")).unwrap();
    let message = refused(&disk, &expect(), NEW).to_string();
    assert!(message.contains("log.redb is missing, but 1 row generations are there"), "{message}");
}

#[test]
fn a_crash_before_the_first_rows_were_made_is_mended() {
    on_both(|disk| {
        let (_, identity, _) = ready(disk, NEW);
        disk.remove_rows(identity.generation).unwrap();
        let (_, identity, rows) = ready(disk, None);
        assert_eq!((identity.generation, rows.applied()), (2, 0));
    });
}

#[test]
fn lost_rows_are_made_again_from_a_log_that_was_never_purged() {
    on_both(|disk| {
        let (log, identity, rows) = ready(disk, NEW);
        fill(&log, &*rows, 5);
        let index = rows.sync().unwrap();
        log.write(vec![LogOp::RowsSynced { generation: identity.generation, index }]).unwrap();
        drop((log, rows));
        disk.remove_rows(identity.generation).unwrap();
        let (log, identity, rows) = ready(disk, None);
        assert_eq!((identity.generation, identity.synced_index), (2, 0));
        assert_eq!(rows.applied(), 0);
        fill(&log, &*rows, 6);
        drop((log, rows));
        let (_, identity, rows) = ready(disk, None);
        assert_eq!((identity.generation, rows.applied()), (2, 6));
    });
}

#[test]
fn a_missing_generation_needs_a_snapshot_once_the_log_was_purged() {
    on_both(|disk| {
        let (log, identity, rows) = ready(disk, NEW);
        fill(&log, &*rows, 9);
        synced_and_purged(&log, &*rows, 6);
        drop((log, rows));
        disk.remove_rows(identity.generation).unwrap();
        for incarnation in 2..4 {
            let (identity, reason, need_index) = lost(disk);
            assert!(reason.contains("missing"), "{reason}");
            assert_eq!(need_index, 6);
            assert_eq!(identity.incarnation, incarnation);
        }
        // What the caller then does with a snapshot.
        let rows = disk.create_rows(identity.generation + 1).unwrap();
        rows.ingest_finish(8).unwrap();
        disk.finish_rows(identity.generation + 1).unwrap();
        let log = disk.open_log().unwrap();
        log.write(vec![LogOp::RowsSynced { generation: identity.generation + 1, index: 8 }]).unwrap();
        drop((log, rows));
        let (_, identity, rows) = ready(disk, None);
        assert_eq!((identity.generation, rows.applied()), (2, 8));
    });
}

#[test]
fn a_lost_snapshot_is_not_made_good_by_the_log_before_it() {
    on_both(|disk| {
        let (log, identity, rows) = ready(disk, NEW);
        fill(&log, &*rows, 3);
        // A snapshot was made current, and the crash came before the log was purged up to it.
        log.write(vec![LogOp::RowsSynced { generation: identity.generation + 1, index: 9 }]).unwrap();
        drop((log, rows));
        let (_, reason, need_index) = lost(disk);
        assert!(reason.contains("missing") || reason.contains("not there"), "{reason}");
        assert_eq!(need_index, 9);
    });
}

#[test]
fn rows_behind_the_purge_mark_are_lost() {
    on_both(|disk| {
        let (log, identity, rows) = ready(disk, NEW);
        fill(&log, &*rows, 4);
        log.write(vec![
            LogOp::Append { first: 5, entries: vec![Bytes::from_static(b"e"); 5] },
            LogOp::PurgeTo { index: 7, mark: vec![] },
        ])
        .unwrap();
        rows.sync().unwrap();
        drop((log, rows, identity));
        let (_, reason, need_index) = lost(disk);
        assert!(reason.contains("index 4") && reason.contains("purged up to 7"), "{reason}");
        assert_eq!(need_index, 7);
    });
}

#[test]
fn rows_ahead_of_the_log_are_synced_and_recorded_first() {
    on_both(|disk| {
        let (log, _, rows) = ready(disk, NEW);
        fill(&log, &*rows, 9);
        // Entries applied before the own log had synced them, then a kill.
        log.write(vec![LogOp::TruncateFrom(6)]).unwrap();
        drop((log, rows));
        let (log, identity, rows) = ready(disk, None);
        assert_eq!((rows.applied(), identity.synced_index), (9, 9));
        assert_eq!(log.identity().unwrap().unwrap().synced_index, 9);
    });
}

#[test]
fn leftover_generations_are_removed() {
    on_both(|disk| {
        let (log, identity, rows) = ready(disk, NEW);
        drop(disk.create_rows(identity.generation + 1).unwrap());
        drop((log, rows));
        let (_, identity, _) = ready(disk, None);
        assert_eq!(disk.list_generations().unwrap(), [identity.generation]);
    });
}

#[test]
fn a_power_cut_in_memory_loses_only_rows_that_were_not_synced() {
    for seed in 0..50 {
        let disk = MemDisk::new();
        let (log, identity, rows) = ready(&disk, NEW);
        fill(&log, &*rows, 10);
        let index = rows.sync().unwrap();
        log.write(vec![LogOp::RowsSynced { generation: identity.generation, index }]).unwrap();
        fill(&log, &*rows, 20);
        disk.crash(seed);
        assert!(rows.commit(Batch::new(21)).is_err());
        assert!(log.write(vec![LogOp::Vote(vec![])]).is_err());
        drop((log, rows));
        let (log, _, rows) = ready(&disk, None);
        assert_eq!(log.bounds().unwrap().last, Some(20));
        let applied = rows.applied();
        assert!((10..=20).contains(&applied), "{applied}");
        let view = rows.view().unwrap();
        assert_eq!(agora_storage::scrub::scrub(&*view).unwrap().rows, applied);
        drop(view);
        fill(&log, &*rows, 25);
        assert_eq!(rows.applied(), 25);
    }
}

#[test]
fn a_fork_has_a_life_of_its_own() {
    let disk = MemDisk::new();
    let (log, _, rows) = ready(&disk, NEW);
    fill(&log, &*rows, 5);
    let fork = disk.fork();
    fill(&log, &*rows, 7);
    let (log, _, rows) = ready(&fork, None);
    assert_eq!(rows.applied(), 5);
    assert_eq!(log.bounds().unwrap().last, Some(5));
    fill(&log, &*rows, 6);
}
