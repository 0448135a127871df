//! The log: group commit, order, purge and truncation, what survives a power cut, and what damage says.

use std::{collections::BTreeMap, fs, os::unix::fs::FileExt};

use agora_storage::{
    Disk, Error, FileDisk, Identity, LogBounds, LogOp, LogStore, MemDisk, PurgeMark, RowOptions, codec,
};
use bytes::Bytes;
use proptest::prelude::*;

fn on_both(case: impl Fn(&dyn Disk)) {
    let dir = tempfile::tempdir().unwrap();
    case(&FileDisk::new(dir.path(), RowOptions::default()).unwrap());
    case(&MemDisk::new());
}

fn entries(from: u64, count: u64) -> Vec<Bytes> {
    (from..from + count).map(|index| Bytes::from(format!("entry {index}"))).collect()
}

fn append(first: u64, count: u64) -> LogOp {
    LogOp::Append { first, entries: entries(first, count) }
}

fn identity() -> Identity {
    Identity {
        format: 1,
        cluster: "shop".into(),
        lineage: 3,
        node: 2,
        incarnation: 4,
        nonce: 5,
        generation: 6,
        synced_index: 7,
    }
}

fn indexes(log: &LogStore) -> Vec<u64> {
    let read = log.read(0..u64::MAX, usize::MAX).unwrap();
    for (index, bytes) in &read {
        assert_eq!(bytes, &format!("entry {index}"));
    }
    read.into_iter().map(|(index, _)| index).collect()
}

#[test]
fn a_group_commit_is_one_fsync() {
    on_both(|disk| {
        let log = disk.open_log().unwrap();
        let before = log.fsyncs();
        log.write(vec![
            LogOp::Vote(vec![1]),
            append(1, 500),
            LogOp::Identity(identity()),
            LogOp::RowsSynced { generation: 8, index: 9 },
            LogOp::PurgeTo { index: 100, mark: vec![7] },
        ])
        .unwrap();
        assert_eq!(log.fsyncs() - before, 1);
        for index in 501..521 {
            log.write(vec![append(index, 1)]).unwrap();
        }
        assert_eq!(log.fsyncs() - before, 21);
        assert_eq!(log.commits(), 21);
        log.write(Vec::new()).unwrap();
        assert_eq!(log.commits(), 21);
        // Nor does what the log is held against cost one, not even where the log is cut.
        log.write(vec![LogOp::TruncateFrom(510)]).unwrap();
        log.write(vec![LogOp::Vote(vec![2])]).unwrap();
        assert_eq!((log.fsyncs() - before, log.commits()), (23, 23));
    });
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    on_both(|disk| {
        let log = disk.open_log().unwrap();
        assert_eq!(log.identity().unwrap(), None);
        assert_eq!(log.vote().unwrap(), None);
        assert_eq!(log.bounds().unwrap(), LogBounds::default());
        log.write(vec![
            LogOp::Identity(identity()),
            LogOp::Vote(vec![1, 2]),
            append(1, 10),
            LogOp::PurgeTo { index: 3, mark: vec![9] },
            LogOp::TruncateFrom(9),
            LogOp::RowsSynced { generation: 11, index: 12 },
        ])
        .unwrap();
        let bounds = log.bounds().unwrap();
        assert_eq!(
            bounds,
            LogBounds {
                first: Some(4),
                last: Some(8),
                purged: Some(PurgeMark { index: 3, mark: vec![9] }),
                last_entry: Some(Bytes::from("entry 8")),
                bytes: 5 * 7,
            }
        );
        drop(log);
        let log = disk.open_log().unwrap();
        assert_eq!(log.bounds().unwrap(), bounds);
        assert_eq!(log.vote().unwrap(), Some(vec![1, 2]));
        let stored = log.identity().unwrap().unwrap();
        assert_eq!((stored.generation, stored.synced_index), (11, 12));
        assert_eq!(stored.cluster, "shop");
        assert_eq!(indexes(&log), [4, 5, 6, 7, 8]);
    });
}

#[test]
fn appends_leave_no_gap() {
    on_both(|disk| {
        let log = disk.open_log().unwrap();
        log.write(vec![append(0, 3)]).unwrap();
        for wrong in [0, 2, 4] {
            let refused = log.write(vec![LogOp::Vote(vec![1]), append(wrong, 1)]);
            assert!(matches!(refused, Err(Error::OutOfOrder(_))), "{wrong}");
        }
        assert_eq!(log.vote().unwrap(), None, "nothing of a refused write stays");
        log.write(vec![LogOp::TruncateFrom(1), append(1, 1), append(2, 2)]).unwrap();
        assert_eq!(indexes(&log), [0, 1, 2, 3]);
        let refused = log.write(vec![LogOp::RowsSynced { generation: 1, index: 1 }]);
        assert!(matches!(refused, Err(Error::OutOfOrder(_))));
    });
}

#[test]
fn a_purge_goes_beyond_the_end_after_an_install_and_never_back() {
    on_both(|disk| {
        let log = disk.open_log().unwrap();
        let purge = |index| LogOp::PurgeTo { index, mark: vec![index as u8] };
        log.write(vec![append(1, 5), purge(9)]).unwrap();
        let bounds = log.bounds().unwrap();
        assert_eq!((bounds.first, bounds.last, bounds.end()), (None, None, Some(9)));
        assert_eq!((bounds.bytes, bounds.last_entry), (0, None));
        log.write(vec![purge(4)]).unwrap();
        assert_eq!(log.bounds().unwrap().purged.unwrap().index, 9);
        assert!(log.write(vec![append(9, 1)]).is_err());
        log.write(vec![append(10, 2)]).unwrap();
        drop(log);
        let log = disk.open_log().unwrap();
        assert_eq!(log.bounds().unwrap().first, Some(10));
        assert_eq!(indexes(&log), [10, 11]);
    });
}

#[test]
fn reads_are_bounded_in_bytes_but_never_empty_handed() {
    on_both(|disk| {
        let log = disk.open_log().unwrap();
        log.write(vec![LogOp::Append { first: 1, entries: vec![Bytes::from(vec![1; 100]); 10] }]).unwrap();
        let count = |range, bytes_max| log.read(range, bytes_max).unwrap().len();
        assert_eq!(count(1..11, 1000), 10);
        assert_eq!(count(1..11, 999), 9);
        assert_eq!(count(1..11, 0), 1);
        assert_eq!(count(5..7, 1000), 2);
        assert_eq!(count(11..20, 1000), 0);
        assert_eq!(count(7..7, 1000), 0);
        assert_eq!(log.bounds().unwrap().bytes, 1000);
    });
}

#[test]
fn golden_bytes_of_log_state() {
    assert_eq!(codec::encode(&identity()), [1, 4, b's', b'h', b'o', b'p', 3, 2, 4, 5, 6, 7]);
    assert_eq!(codec::encode(&PurgeMark { index: 300, mark: vec![1] }), [0xfb, 0x2c, 1, 1, 1]);
}

#[test]
fn a_directory_is_used_by_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _first = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    let error = FileDisk::new(dir.path(), RowOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(error.to_string().contains("in use by another process"));
    let memory = MemDisk::new();
    let _log = memory.open_log().unwrap();
    assert!(matches!(memory.open_log(), Err(Error::Locked { .. })));
}

#[test]
fn a_file_that_is_no_log_is_a_lost_log() {
    for bytes in [b"garbage that is long enough".to_vec(), vec![0xff; 100_000]] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.redb"), bytes).unwrap();
        let disk = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
        let error = disk.open_log().unwrap_err();
        assert!(matches!(error, Error::LogLost(_)), "{error}");
        let message = error.to_string();
        assert!(message.contains("is damaged"), "{message}");
        assert!(message.contains("new id"), "{message}");
    }
}

#[test]
fn a_log_cut_short_is_a_lost_log() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    let log = disk.open_log().unwrap();
    log.write(vec![append(1, 2000)]).unwrap();
    drop(log);
    let path = dir.path().join("log.redb");
    let bytes = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes / 3).unwrap();
    let error = disk.open_log().unwrap_err();
    assert!(matches!(error, Error::LogLost(_)), "{error}");
}

#[test]
fn a_flipped_bit_in_an_entry_is_found_when_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    let log = disk.open_log().unwrap();
    let marked = Bytes::from_static(b"look for me in the file");
    log.write(vec![LogOp::Append { first: 1, entries: vec![marked.clone(); 3] }]).unwrap();
    drop(log);
    let path = dir.path().join("log.redb");
    let bytes = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut found = 0;
    for at in 0..bytes.len() - marked.len() {
        if bytes[at..at + marked.len()] == marked {
            file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
            found += 1;
        }
    }
    assert!(found >= 3);
    let error = disk.open_log().unwrap_err();
    assert!(matches!(error, Error::LogLost(_)), "{error}");
}

#[test]
fn a_log_whose_last_commit_is_gone_is_a_lost_log() {
    let dir = tempfile::tempdir().unwrap();
    let open = || FileDisk::new(dir.path(), RowOptions::default()).unwrap().open_log();
    let path = dir.path().join("log.redb");
    let log = open().unwrap();
    log.write(vec![LogOp::Identity(identity()), append(1, 5)]).unwrap();
    drop(log);
    let before = std::fs::read(&path).unwrap();
    let log = open().unwrap();
    log.write(vec![append(6, 1)]).unwrap();
    drop(log);
    let after = std::fs::read(&path).unwrap();
    // As if the engine had fallen back to the commit before.
    std::fs::write(&path, before).unwrap();
    let error = open().unwrap_err();
    assert!(matches!(&error, Error::LogLost(why) if why.contains("its last commit is gone")), "{error}");
    // The whole one opens, and what is cut off on purpose is not missed, nor is a witness that is gone or rotten.
    std::fs::write(&path, after).unwrap();
    let log = open().unwrap();
    assert_eq!(indexes(&log), [1, 2, 3, 4, 5, 6]);
    log.write(vec![LogOp::TruncateFrom(3)]).unwrap();
    drop(log);
    assert_eq!(indexes(&open().unwrap()), [1, 2]);
    std::fs::write(dir.path().join("log.end"), [7; 12]).unwrap();
    assert_eq!(indexes(&open().unwrap()), [1, 2]);
    std::fs::remove_file(dir.path().join("log.end")).unwrap();
    assert_eq!(indexes(&open().unwrap()), [1, 2]);
}

/// A directory with a log's two files.
fn dir_with(log: &[u8], witness: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log.redb"), log).unwrap();
    fs::write(dir.path().join("log.end"), witness).unwrap();
    dir
}

fn files_in(dir: &std::path::Path) -> (Vec<u8>, Vec<u8>) {
    (fs::read(dir.join("log.redb")).unwrap(), fs::read(dir.join("log.end")).unwrap())
}

fn open_in(dir: &std::path::Path) -> Result<LogStore, Error> {
    FileDisk::new(dir, RowOptions::default()).unwrap().open_log()
}

#[test]
fn a_lost_commit_is_missed_whatever_it_held() {
    let other = LogOp::Append { first: 5, entries: vec![Bytes::from("another")] };
    for ops in [
        vec![LogOp::Vote(vec![9])],
        vec![LogOp::TruncateFrom(5), other],
        vec![LogOp::TruncateFrom(4)],
        vec![LogOp::RowsSynced { generation: 6, index: 8 }],
        vec![LogOp::PurgeTo { index: 2, mark: vec![1] }],
        vec![append(6, 1)],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = open_in(dir.path()).unwrap();
        log.write(vec![LogOp::Identity(identity()), LogOp::Vote(vec![1]), append(1, 5)]).unwrap();
        drop(log);
        let (before, old_witness) = files_in(dir.path());
        let log = open_in(dir.path()).unwrap();
        log.write(ops.clone()).unwrap();
        drop(log);
        let (after, witness) = files_in(dir.path());
        // As if the engine had fallen back to the commit before. The look changes nothing: a second one says the same.
        let lost = dir_with(&before, &witness);
        for _ in 0..2 {
            let error = open_in(lost.path()).unwrap_err();
            let is_missed = matches!(&error, Error::LogLost(why) if why.contains("its last commit is gone"));
            assert!(is_missed, "{ops:?}: {error}");
            assert_eq!(files_in(lost.path()), (before.clone(), witness.clone()), "{ops:?}");
        }
        // A witness that was set back by a power cut accuses nobody, and catches up.
        let behind = dir_with(&after, &old_witness);
        drop(open_in(behind.path()).unwrap());
        assert_eq!(files_in(behind.path()).1, witness, "{ops:?}");
    }
}

#[test]
fn a_torn_commit_is_forgotten_and_a_rotten_one_is_missed() {
    const FLAGS: usize = 9;
    const SLOTS: [usize; 2] = [64, 192];
    let dir = tempfile::tempdir().unwrap();
    let log = open_in(dir.path()).unwrap();
    log.write(vec![LogOp::Identity(identity()), LogOp::Vote(vec![1]), append(1, 5)]).unwrap();
    // As a killed process leaves them.
    let (_, first_witness) = files_in(dir.path());
    log.write(vec![LogOp::Vote(vec![2])]).unwrap();
    let (whole, second_witness) = files_in(dir.path());
    assert_ne!(first_witness, second_witness);
    let vote = |log: &[u8], witness: &[u8]| {
        let dir = dir_with(log, witness);
        open_in(dir.path()).map(|log| log.vote().unwrap().unwrap())
    };
    assert_eq!(vote(&whole, &second_witness).unwrap(), [2]);
    // Killed between the commit and the word of it.
    assert_eq!(vote(&whole, &first_witness).unwrap(), [2]);
    let mut spoiled = whole.clone();
    spoiled[SLOTS[usize::from(whole[FLAGS] & 1)] + 112] ^= 1;
    // Torn: the write was not answered, and the witness has not heard of it.
    assert_eq!(vote(&spoiled, &first_witness).unwrap(), [1]);
    // Rotten: it was.
    let error = vote(&spoiled, &second_witness).unwrap_err();
    assert!(matches!(&error, Error::LogLost(why) if why.contains("its last commit is gone")), "{error}");
}

#[test]
fn a_log_of_a_release_that_did_not_number_its_commits_is_opened() {
    let end = |end: u64| {
        let mut bytes = end.to_le_bytes().to_vec();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    };
    let dir = tempfile::tempdir().unwrap();
    let log = open_in(dir.path()).unwrap();
    log.write(vec![LogOp::Identity(identity()), append(1, 5)]).unwrap();
    drop(log);
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("state");
    assert!(transaction.open_table(table).unwrap().remove("commit").unwrap().is_some());
    transaction.commit().unwrap();
    drop(database);
    let (old, _) = files_in(dir.path());
    let lost = dir_with(&old, &end(7));
    let error = open_in(lost.path()).unwrap_err();
    assert!(matches!(&error, Error::LogLost(why) if why.contains("its last commit is gone")), "{error}");
    // From here on commits are numbered, and the log may be cut.
    let dir = dir_with(&old, &end(6));
    let log = open_in(dir.path()).unwrap();
    assert_eq!(indexes(&log), [1, 2, 3, 4, 5]);
    drop(log);
    let (_, unnumbered) = files_in(dir.path());
    let log = open_in(dir.path()).unwrap();
    log.write(vec![LogOp::TruncateFrom(3)]).unwrap();
    drop(log);
    let (_, numbered) = files_in(dir.path());
    assert_ne!(unnumbered, numbered);
    assert_eq!(indexes(&open_in(dir.path()).unwrap()), [1, 2]);
}

#[test]
fn rot_anywhere_in_a_closed_log_is_damage_or_does_not_matter() {
    let disk = MemDisk::new();
    let log = disk.open_log().unwrap();
    log.write(vec![LogOp::Identity(identity()), LogOp::Vote(vec![3])]).unwrap();
    for index in 0..30 {
        let entries = vec![Bytes::from(vec![index as u8; 700]); 10];
        log.write(vec![LogOp::Append { first: 1 + index * 10, entries }]).unwrap();
    }
    let before = Model::of(&log);
    drop(log);
    let bits = disk.usage().log_bytes * 8;
    let (mut damaged, mut harmless) = (0, 0);
    // A prime step, so that all places within pages and all bits of bytes come up; and all of the first page.
    for bit in (0..bits).step_by(20_011).chain(0..320 * 8) {
        let rotten = disk.fork();
        rotten.rot_log(bit);
        match rotten.open_log() {
            Err(Error::LogLost(message)) => {
                assert!(message.contains("is damaged"), "{message}");
                damaged += 1;
                assert!(rotten.open_log().is_err(), "bit {bit}: a second look differs");
            }
            Err(other) => {
                assert!(bit < 320 * 8, "bit {bit}: {other}");
                damaged += 1;
            }
            Ok(log) => {
                assert_eq!(Model::of(&log), before, "bit {bit}");
                assert_eq!(log.identity().unwrap(), Some(identity()));
                harmless += 1;
            }
        }
    }
    assert!(damaged > 20 && harmless > 20, "{damaged} damaged, {harmless} harmless");
}

#[test]
fn a_crash_anywhere_in_an_opening_leaves_a_log_that_opens() {
    let disk = MemDisk::new();
    let log = disk.open_log().unwrap();
    log.write(vec![LogOp::Identity(identity()), LogOp::Vote(vec![3]), append(1, 40)]).unwrap();
    log.write(vec![append(41, 10)]).unwrap();
    let before = Model::of(&log);
    disk.kill();
    drop(log);
    // An opening, and one after it that is not like the first, each of which ends at any of its writes.
    let mut interrupted = 0;
    for (first, second, power) in (0..12).flat_map(|n| (0..12).flat_map(move |m| [(n, m, false), (n, m, true)])) {
        let disk = disk.fork();
        for writes in [first, second] {
            disk.stop_log_after(writes);
            interrupted += u32::from(disk.open_log().is_err());
            if power { disk.crash(writes) } else { disk.kill() }
        }
        let log = disk.open_log().unwrap_or_else(|error| panic!("{first}, {second}, power {power}: {error}"));
        assert_eq!(Model::of(&log), before, "{first}, {second}, power {power}");
    }
    assert!(interrupted > 100, "{interrupted}");
}

#[test]
fn half_a_log_left_by_a_crash_while_making_it_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    fs::write(dir.path().join("log.redb.new"), b"half").unwrap();
    let log = disk.open_log().unwrap();
    assert_eq!(log.identity().unwrap(), None);
    assert!(!dir.path().join("log.redb.new").exists());
}

/// What the log must hold, kept beside it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, Vec<u8>>,
    purged: u64,
    vote: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Act {
    Append(Vec<u16>),
    Truncate(u8),
    Purge(u8),
    Vote(u8),
}

impl Model {
    fn end(&self) -> u64 {
        self.entries.keys().last().copied().unwrap_or(self.purged)
    }

    /// Applies an act and says what to ask of the log.
    fn act(&mut self, act: &Act) -> LogOp {
        match act {
            Act::Append(lengths) => {
                let first = self.end() + 1;
                let entries: Vec<Vec<u8>> =
                    (first..).zip(lengths).map(|(index, bytes)| vec![index as u8; usize::from(*bytes)]).collect();
                self.entries.extend((first..).zip(entries.clone()));
                LogOp::Append { first, entries: entries.into_iter().map(Bytes::from).collect() }
            }
            Act::Truncate(back) => {
                let from = (self.end() + 1).saturating_sub(u64::from(*back)).max(1);
                self.entries.split_off(&from);
                LogOp::TruncateFrom(from)
            }
            Act::Purge(on) => {
                let index = self.purged + u64::from(*on);
                self.entries = self.entries.split_off(&(index + 1));
                self.purged = self.purged.max(index);
                LogOp::PurgeTo { index, mark: vec![index as u8] }
            }
            Act::Vote(vote) => {
                self.vote = Some(vec![*vote]);
                LogOp::Vote(vec![*vote])
            }
        }
    }

    fn of(log: &LogStore) -> Model {
        let bounds = log.bounds().unwrap();
        let entries: BTreeMap<u64, Vec<u8>> = log
            .read(0..u64::MAX, usize::MAX)
            .unwrap()
            .into_iter()
            .map(|(index, bytes)| (index, bytes.to_vec()))
            .collect();
        assert_eq!(bounds.first, entries.keys().next().copied());
        assert_eq!(bounds.last, entries.keys().last().copied());
        assert_eq!(bounds.last_entry.map(|entry| entry.to_vec()), entries.values().last().cloned());
        assert_eq!(bounds.bytes, entries.values().map(|entry| entry.len() as u64).sum::<u64>());
        Model { entries, purged: bounds.purged.map_or(0, |purged| purged.index), vote: log.vote().unwrap() }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => proptest::collection::vec(0u16..6000, 1..8).prop_map(Act::Append),
        1 => (0u8..5).prop_map(Act::Truncate),
        1 => (0u8..9).prop_map(Act::Purge),
        2 => any::<u8>().prop_map(Act::Vote),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Power goes in the middle of writing, and of what was not synced any part survives: the log then holds all that
    /// was acknowledged, and of the interrupted write all or nothing.
    #[test]
    fn acknowledged_writes_survive_every_power_cut(
        rounds in proptest::collection::vec(
            (proptest::collection::vec(proptest::collection::vec(act(), 1..4), 0..6), 0u64..12, any::<u64>()),
            1..5
        )
    ) {
        let disk = MemDisk::new();
        let mut model = Model::default();
        drop(disk.open_log().unwrap());
        for (writes, power, seed) in rounds {
            let log = disk.open_log().unwrap();
            prop_assert_eq!(&Model::of(&log), &model);
            let mut interrupted = None;
            let last = writes.len().saturating_sub(1);
            for (number, acts) in writes.iter().enumerate() {
                let mut after = model.clone();
                let ops = acts.iter().map(|act| after.act(act)).collect();
                if number == last {
                    disk.stop_log_after(power);
                }
                match log.write(ops) {
                    Ok(()) => model = after,
                    Err(_) => {
                        interrupted = Some(after);
                        break;
                    }
                }
            }
            disk.crash(seed);
            prop_assert!(log.write(vec![LogOp::Vote(vec![0])]).is_err(), "a dead handle writes");
            drop(log);
            let log = disk.open_log().unwrap();
            let found = Model::of(&log);
            if let Some(after) = interrupted
                && found == after
            {
                model = after;
            }
            prop_assert_eq!(found, model.clone());
        }
    }
}
