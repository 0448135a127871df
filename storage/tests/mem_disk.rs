//! What a disk in memory does when its process or its power goes, when it fails, and when what it holds is spoiled.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use agora_storage::{
    Batch, Disk, Error, Expect, Keyspace, LogOp, LogStore, MemCall, MemDisk, MemFault, NewIdentity, Opened, OpenedRows,
    Rows, Spoil, open,
};

type Open = (Arc<LogStore>, Arc<dyn Rows>);

fn try_open(disk: &MemDisk) -> agora_storage::Result<Opened> {
    open(disk, &Expect { cluster: "c".into(), node: 1, nonce: 1 }, Some(NewIdentity { lineage: 9 }))
}

fn opened(disk: &MemDisk) -> Open {
    match try_open(disk) {
        Ok(Opened::Ready { log, rows, .. }) => (log, rows),
        Ok(Opened::RowsLost { reason, .. }) => panic!("rows lost: {reason}"),
        Err(error) => panic!("{error}"),
    }
}

fn entry(index: u64) -> LogOp {
    LogOp::Append { first: index, entries: vec![vec![index as u8; 900].into()] }
}

fn row(index: u64) -> Batch {
    let mut batch = Batch::new(index);
    batch.insert(Keyspace::Entity, index.to_be_bytes(), vec![1]);
    batch
}

fn filled(disk: &MemDisk, to: u64) -> Open {
    let (log, rows) = opened(disk);
    for index in 1..=to {
        log.write(vec![entry(index)]).unwrap();
        rows.commit(row(index)).unwrap();
    }
    (log, rows)
}

fn end(log: &LogStore) -> Option<u64> {
    log.bounds().unwrap().end()
}

#[test]
fn a_killed_process_loses_nothing_and_can_do_nothing_any_more() {
    let disk = MemDisk::new();
    let (log, rows) = filled(&disk, 5);
    disk.kill();
    assert!(log.write(vec![entry(6)]).is_err());
    assert!(matches!(rows.commit(row(6)), Err(Error::Closed(_))));
    // What its destructors write does not arrive.
    drop((log, rows));
    let (log, rows) = opened(&disk);
    assert_eq!((end(&log), rows.applied()), (Some(5), 5));
}

#[test]
fn rows_that_survive_a_kill_are_lost_with_the_power_unless_they_were_synced() {
    let mut least = u64::MAX;
    for seed in 0..20 {
        let disk = MemDisk::new();
        let (_, rows) = filled(&disk, 3);
        rows.sync().unwrap();
        for index in 4..=9 {
            rows.commit(row(index)).unwrap();
        }
        disk.kill();
        disk.crash(seed);
        let OpenedRows::Ready(rows) = disk.open_rows(1, 3).unwrap() else { panic!("synced rows are there") };
        assert!((3..=9).contains(&rows.applied()));
        least = least.min(rows.applied());
    }
    assert_eq!(least, 3);
}

#[test]
fn a_log_is_whole_after_a_power_cut_at_any_write_of_a_commit_torn_pages_and_all() {
    for seed in 0..40 {
        let disk = MemDisk::new();
        let (log, rows) = filled(&disk, 5);
        disk.stop_log_after(seed % 8);
        let written = log.write((6..12).map(entry).collect()).is_ok();
        drop((log, rows));
        disk.crash(seed);
        let (log, _) = opened(&disk);
        let end = end(&log);
        assert!(end == Some(11) || !written && end == Some(5), "seed {seed}: {end:?}");
    }
}

#[test]
fn each_fault_fails_its_own_calls_until_it_is_mended() {
    let disk = MemDisk::new();
    let (log, rows) = filled(&disk, 2);
    disk.fail(MemFault::RowsSyncOnce);
    assert!(rows.sync().is_err());
    rows.sync().unwrap();
    disk.fail(MemFault::RowWrites);
    assert!(rows.commit(row(3)).is_err());
    log.write(vec![entry(3)]).unwrap();
    disk.mend();
    rows.commit(row(3)).unwrap();
    disk.fail(MemFault::Full);
    assert!(rows.commit(row(4)).is_err());
    assert!(disk.snapshot_create("s").unwrap().finish().is_err());
    disk.mend();
    rows.commit(row(4)).unwrap();
    disk.fail(MemFault::LogSyncOnce);
    assert!(log.write(vec![entry(4)]).is_err());
    drop((log, rows));
    disk.kill();
    opened(&disk).0.write(vec![LogOp::Vote(vec![1])]).unwrap();
}

#[test]
fn the_counted_call_is_the_last_one_that_is_heard_of() {
    for (call, n) in [(MemCall::Fsync, 3), (MemCall::Write, 10)] {
        let disk = MemDisk::new();
        let (log, rows) = filled(&disk, 1);
        let tripped = Arc::new(AtomicU64::new(0));
        let count = tripped.clone();
        let trip = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        disk.crash_at(call, n, Box::new(trip));
        let written = (2..100).take_while(|index| log.write(vec![entry(*index)]).is_ok()).count();
        assert!(written < 12 && (call == MemCall::Write || written == 2), "{call:?}: {written}");
        assert_eq!(tripped.load(Ordering::Relaxed), 1);
        assert!(rows.commit(row(2)).is_err());
        drop((log, rows));
        disk.kill();
        let (log, rows) = opened(&disk);
        assert!(end(&log) > Some(written as u64));
        rows.commit(row(2)).unwrap();
    }
}

#[test]
fn what_is_spoiled_is_noticed() {
    let disk = MemDisk::new();
    filled(&disk, 5);
    assert!(disk.spoil_rows());
    // The log is whole and makes them again.
    assert_eq!(opened(&disk).1.applied(), 0);

    let mut refused = 0;
    for part in 0..100 {
        let copy = disk.fork();
        let at = part * 10_000;
        let spoil = if part % 2 == 0 { Spoil::FlipBit { at, bit: 3 } } else { Spoil::ZeroSector { at } };
        copy.spoil_log(spoil);
        match try_open(&copy) {
            Ok(Opened::Ready { log, .. }) => assert_eq!(end(&log), Some(5)),
            Ok(Opened::RowsLost { .. }) => panic!("the log was never purged"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
    assert!(disk.spoil_log(Spoil::Truncate { at: 300_000 }));
    assert!(try_open(&disk).is_err());
}
