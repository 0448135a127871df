//! Real damage to the files of a row store: it opens at a state that was once committed and not before what was synced, or it
//! says that it is lost. It never fails, panics, or shows anything else.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    Batch, Keyspace, RowOptions, Rows, codec,
    fjall_rows::FjallRows,
    journal_cut::{batch_ends, journal_files},
    meta::{self, LogPosition},
    scrub,
};

const BATCHES: u64 = 60;
const SYNCED: u64 = 25;

fn options() -> RowOptions {
    RowOptions { background_sync_ms: 0, ..RowOptions::default() }
}

/// The batch of an index: rows in every keyspace, one long value now and then, a bucket every ten.
fn batch(index: u64) -> Batch {
    let mut batch = Batch::new(index);
    let bytes = if index.is_multiple_of(7) { 9000 } else { 300 };
    batch.insert(Keyspace::Entity, index.to_be_bytes(), vec![index as u8; bytes]);
    batch.insert(Keyspace::Feed, index.to_be_bytes(), vec![1; 60]);
    batch.insert(Keyspace::Index, index.to_le_bytes(), *b"");
    batch.insert(Keyspace::Outcomes((index / 10) as u32), index.to_be_bytes(), *b"out");
    batch.put_meta(meta::APPLIED, codec::encode(&LogPosition { index, term: 1 }));
    batch
}

/// A store of [`BATCHES`] batches, and the digest of the rows at each index.
struct Store {
    dir: TempDir,
    digests: BTreeMap<u64, u128>,
}

impl Store {
    /// `flush` names the keyspaces whose memtables go into sorted files, and after which batch.
    fn new(flush: &[(u64, Keyspace)]) -> Store {
        let dir = tempfile::tempdir().unwrap();
        let rows = FjallRows::create(&dir.path().join("rows"), &options()).unwrap();
        let mut digests = BTreeMap::from([(0, 0u128)]);
        let mut digest = 0u128;
        for index in 1..=BATCHES {
            let batch = batch(index);
            digest = digest.wrapping_add(batch.digest_delta());
            digests.insert(index, digest);
            rows.commit(batch).unwrap();
            for (_, keyspace) in flush.iter().filter(|(at, _)| *at == index) {
                rows.flush(*keyspace);
            }
        }
        drop(rows);
        let store = Store { dir, digests };
        // The file is allocated far beyond its content; without that it is quicker to copy.
        let journal = store.journal();
        let bytes = batch_ends(&journal).last().unwrap().0;
        fs::OpenOptions::new().write(true).open(&journal).unwrap().set_len(bytes + 5000).unwrap();
        store
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("rows")
    }

    fn journal(&self) -> PathBuf {
        journal_files(&self.path()).unwrap().pop().unwrap().1
    }

    /// A copy to damage.
    fn copy(&self) -> Store {
        let dir = tempfile::tempdir().unwrap();
        copy_tree(&self.path(), &dir.path().join("rows"));
        Store { dir, digests: self.digests.clone() }
    }

    /// Opens the store; the index it stands at, or why it is lost. What it shows must be what was once committed.
    #[track_caller]
    fn open(&self, synced: u64) -> Result<u64, String> {
        let rows = FjallRows::open(&self.path(), &options(), synced).unwrap()?;
        let applied = rows.applied();
        assert!(applied >= synced);
        let view = rows.view().unwrap();
        assert_eq!(view.applied(), applied);
        let report = scrub::scrub(&*view).unwrap();
        assert_eq!(report.digest, self.digests[&applied], "at index {applied}");
        assert_eq!(report.rows, applied * 4, "at index {applied}");
        // It goes on from there.
        drop(view);
        rows.commit(batch(applied + 1)).unwrap();
        Ok(applied)
    }

    fn damage(&self, how: impl FnOnce(&fs::File, u64)) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.journal()).unwrap();
        let bytes = file.metadata().unwrap().len();
        how(&file, bytes);
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_tree(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

/// The index of the last batch that lies wholly before a byte of the journal.
fn last_before(ends: &[(u64, Option<u64>)], at: u64) -> Option<u64> {
    ends.iter()
        .rev()
        .find(|(end, _)| *end <= at)
        .and_then(|(_, version)| version.map(|version| version.saturating_sub(1)))
}

#[track_caller]
fn check(store: &Store, survivors: Option<u64>) {
    let opened = store.open(SYNCED);
    match survivors.filter(|survivors| *survivors >= SYNCED) {
        Some(survivors) => assert_eq!(opened, Ok(survivors)),
        None => assert!(opened.is_err(), "{survivors:?} survived, opened at {opened:?}"),
    }
}

#[test]
fn an_undamaged_store_opens_where_it_was() {
    let store = Store::new(&[]);
    assert_eq!(store.copy().open(SYNCED), Ok(BATCHES));
    // Again after the first open cut off the zeroes at the end and something was written behind it.
    let twice = store.copy();
    assert_eq!(twice.open(SYNCED), Ok(BATCHES));
    let rows = FjallRows::open(&twice.path(), &options(), BATCHES + 1).unwrap().unwrap();
    assert_eq!(rows.applied(), BATCHES + 1);
}

#[test]
fn a_journal_cut_anywhere_ends_at_its_last_whole_batch() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    assert_eq!(ends.len() as u64, BATCHES + 1, "one for making the store");
    let bytes = ends.last().unwrap().0;
    let edges = ends.iter().flat_map(|(end, _)| [*end, end - 1, end + 1]);
    let steps = (0..bytes).step_by(2111);
    for at in edges.step_by(7).chain(steps) {
        let copy = store.copy();
        copy.damage(|file, _| file.set_len(at).unwrap());
        check(&copy, last_before(&ends, at));
    }
}

#[test]
fn a_page_of_zeroes_anywhere_cuts_the_journal_there() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    let bytes = ends.last().unwrap().0;
    for page in (0..bytes).step_by(4096) {
        let copy = store.copy();
        copy.damage(|file, _| file.write_all_at(&[0; 4096], page).unwrap());
        // The page may begin within zeroes of a batch: what is untouched up to there decides.
        check(&copy, last_before(&ends, page));
    }
}

#[test]
fn a_flipped_bit_anywhere_cuts_the_journal_there() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    let bytes = ends.last().unwrap().0;
    // Every byte of one batch past the synced index, and samples of all.
    let (from, to) = (ends[40].0, ends[41].0);
    let all = (from..to).step_by(9).chain((0..bytes).step_by(2777));
    for (number, at) in all.enumerate() {
        let copy = store.copy();
        copy.damage(|file, _| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << (number % 8);
            file.write_all_at(&byte, at).unwrap();
        });
        check(&copy, last_before(&ends, at));
    }
}

#[test]
fn a_wrong_sequence_number_is_seen_though_no_checksum_covers_it() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    for bit in 0..64 {
        // Of the batch for index 41, in the middle, and of the last one. Where it runs into its neighbour, that one may go too.
        for (number, survivors) in [(40, 39..=40), (59, 58..=60)] {
            let at = ends[number].0 + 5 + bit / 8;
            let copy = store.copy();
            copy.damage(|file, _| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << (bit % 8);
                file.write_all_at(&byte, at).unwrap();
            });
            let opened = copy.open(SYNCED).unwrap();
            assert!(survivors.contains(&opened), "bit {bit}: {opened}");
        }
    }
}

#[test]
fn a_large_ingest_outlives_its_first_journal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    let options = RowOptions { memtable_bytes: 8 * 1024 * 1024, ..options() };
    let rows = FjallRows::create(&path, &options).unwrap();
    let mut number = 0u64;
    while journal_files(&path).unwrap()[0].0 == 0 {
        assert!(number < 400_000, "the first journal was never removed");
        let chunk = (0..2000).map(|_| {
            number += 1;
            (Keyspace::Entity, number.to_be_bytes().to_vec(), vec![number as u8; 900])
        });
        rows.ingest(chunk.collect()).unwrap();
        for keyspace in [Keyspace::Meta, Keyspace::Index, Keyspace::Feed] {
            if number.is_multiple_of(20_000) {
                rows.flush(keyspace);
            }
        }
    }
    rows.ingest_finish(70).unwrap();
    drop(rows);
    let rows = FjallRows::open(&path, &options, 70).unwrap().unwrap();
    assert_eq!(rows.applied(), 70);
    let view = rows.view().unwrap();
    assert_eq!(scrub::scrub(&*view).unwrap().rows, number);
    drop(view);
    rows.commit(Batch::new(71)).unwrap();
    drop(rows);
    assert_eq!(FjallRows::open(&path, &options, 71).unwrap().unwrap().applied(), 71);
}

#[test]
fn a_lost_batch_in_the_middle_is_seen() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    let copy = store.copy();
    let bytes = fs::read(copy.journal()).unwrap();
    let (from, to) = (ends[39].0 as usize, ends[40].0 as usize);
    fs::write(copy.journal(), [&bytes[..from], &bytes[to..]].concat()).unwrap();
    assert_eq!(copy.open(SYNCED), Ok(39));
}

#[test]
fn garbage_after_the_last_batch_is_cut_off() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    for garbage in [&b"\x01"[..], b"\x01\x02\0\0\0garbage", b"\xff\xff", b"\0\0\0\x01"] {
        let copy = store.copy();
        copy.damage(|file, _| {
            file.write_all_at(garbage, ends.last().unwrap().0).unwrap();
        });
        assert_eq!(copy.open(BATCHES), Ok(BATCHES));
    }
}

#[test]
fn keyspaces_that_know_different_indexes_are_lost() {
    for keyspace in [Keyspace::Entity, Keyspace::Meta, Keyspace::Outcomes(2)] {
        let store = Store::new(&[(45, keyspace)]);
        let ends = batch_ends(&store.journal());
        // The journal ends at 30, one keyspace stands at 45.
        let copy = store.copy();
        copy.damage(|file, _| file.set_len(ends[30].0).unwrap());
        let reason = copy.open(SYNCED).unwrap_err();
        assert!(reason.contains("stands at") || reason.contains("is missing"), "{reason}");
        // With the journal whole they meet again.
        assert_eq!(store.copy().open(SYNCED), Ok(BATCHES));
        // And where the cut lies behind what was flushed.
        let copy = store.copy();
        copy.damage(|file, _| file.set_len(ends[50].0).unwrap());
        assert_eq!(copy.open(SYNCED), Ok(50));
    }
}

#[test]
fn a_store_flushed_wholly_needs_its_journal_only_from_there() {
    let flushed = |to: u32| {
        Keyspace::FIXED
            .into_iter()
            .chain((0..=to).map(Keyspace::Outcomes))
            .map(|keyspace| (44, keyspace))
            .collect::<Vec<_>>()
    };
    let store = Store::new(&flushed(4));
    let ends = batch_ends(&store.journal());
    let copy = store.copy();
    copy.damage(|file, _| file.set_len(ends[30].0).unwrap());
    assert_eq!(copy.open(SYNCED), Ok(44));
    // The files below are whole, so the beginning of the journal is not needed.
    let copy = store.copy();
    let bytes = fs::read(copy.journal()).unwrap();
    fs::write(copy.journal(), &bytes[ends[44].0 as usize..]).unwrap();
    assert_eq!(copy.open(SYNCED), Ok(BATCHES));
    let copy = store.copy();
    fs::write(copy.journal(), &bytes[ends[45].0 as usize..]).unwrap();
    let reason = copy.open(SYNCED).unwrap_err();
    assert!(reason.contains("where the journals begin"), "{reason}");
}

/// Splits the journal into two files as a rotation does, with some batches left out in between.
fn split(store: &Store, first_to: usize, second_from: usize, second_name: &str) -> Store {
    let ends = batch_ends(&store.journal());
    let copy = store.copy();
    let bytes = fs::read(copy.journal()).unwrap();
    let (to, from) = (ends[first_to].0 as usize, ends[second_from].0 as usize);
    fs::write(copy.path().join(second_name), &bytes[from..]).unwrap();
    fs::write(copy.path().join("0.jnl"), &bytes[..to]).unwrap();
    copy
}

#[test]
fn several_journals_are_read_in_order_and_cut_as_one() {
    let store = Store::new(&[]);
    assert_eq!(split(&store, 40, 40, "1.jnl").open(SYNCED), Ok(BATCHES));
    // A hole between two files, and a file that is missing.
    assert_eq!(split(&store, 40, 42, "1.jnl").open(SYNCED), Ok(40));
    assert_eq!(split(&store, 40, 40, "2.jnl").open(SYNCED), Ok(40));
    assert!(split(&store, 20, 20, "2.jnl").open(SYNCED).is_err());
    // Damage in the first one takes the second one along.
    let ends = batch_ends(&store.journal());
    let copy = split(&store, 40, 40, "1.jnl");
    let first = fs::OpenOptions::new().write(true).open(copy.path().join("0.jnl")).unwrap();
    first.write_all_at(&[0xff], ends[33].0 + 20).unwrap();
    assert_eq!(copy.open(SYNCED), Ok(33));
    assert!(!copy.path().join("1.jnl").exists());
}

#[test]
fn a_first_journal_that_is_missing_is_seen() {
    let store = Store::new(&[(30, Keyspace::Entity)]);
    let copy = split(&store, 30, 30, "1.jnl");
    fs::remove_file(copy.path().join("0.jnl")).unwrap();
    let reason = copy.open(SYNCED).unwrap_err();
    assert!(reason.contains("where the journals begin"), "{reason}");
}

#[test]
fn missing_files_are_named() {
    let store = Store::new(&[(50, Keyspace::Entity), (50, Keyspace::Meta)]);
    let lost = |what: &str, damage: fn(&Path)| {
        let copy = store.copy();
        damage(&copy.path());
        let reason = copy.open(SYNCED).unwrap_err();
        assert!(reason.contains("rows"), "{what}: {reason}");
    };
    lost("everything", |dir| fs::remove_dir_all(dir).unwrap());
    lost("the version", |dir| fs::remove_file(dir.join("version")).unwrap());
    lost("the keyspaces", |dir| fs::remove_dir_all(dir.join("keyspaces")).unwrap());
    lost("the names", |dir| fs::remove_dir_all(dir.join("keyspaces/0")).unwrap());
    lost("one keyspace", |dir| fs::remove_dir_all(dir.join("keyspaces/2")).unwrap());
    lost("what is in the files of one keyspace", |dir| {
        for item in fs::read_dir(dir.join("keyspaces/2/tables")).unwrap() {
            fs::write(item.unwrap().path(), b"").unwrap();
        }
    });
    lost("all files of one keyspace", |dir| {
        fs::remove_dir_all(dir.join("keyspaces/2/tables")).unwrap();
    });
}

#[test]
fn a_bucket_left_over_from_a_crash_is_deleted_and_a_listed_one_must_be_there() {
    let store = Store::new(&[]);
    let ends = batch_ends(&store.journal());
    // Made for batch 30, which is then lost: the keyspace is there, the list does not know it.
    let copy = store.copy();
    copy.damage(|file, _| file.set_len(ends[29].0).unwrap());
    let rows = FjallRows::open(&copy.path(), &options(), SYNCED).unwrap().unwrap();
    let view = rows.view().unwrap();
    assert_eq!(view.keyspaces().last(), Some(&Keyspace::Outcomes(2)));
    // It is made again as another one.
    rows.commit(batch(30)).unwrap();
    assert_eq!(rows.get(Keyspace::Outcomes(3), &30u64.to_be_bytes()).unwrap(), Some(b"out".to_vec()));
    drop((rows, view));
    let rows = FjallRows::open(&copy.path(), &options(), 30).unwrap().unwrap();
    assert_eq!(rows.applied(), 30);
}

#[test]
fn the_journal_is_synced_behind_the_writers_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = RowOptions { background_sync_ms: 5, ..RowOptions::default() };
    let rows = FjallRows::create(&dir.path().join("rows"), &options).unwrap();
    rows.commit(batch(1)).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while rows.stats().background_syncs == 0 {
        assert!(std::time::Instant::now() < deadline, "no background sync");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let stats = rows.stats();
    assert_eq!(stats.commits, 1);
    assert!(stats.journal_bytes > 0);
}

/// All files below a directory, except journals and the lock.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_none_or(|extension| extension != "jnl") && !path.ends_with("lock") {
            found.push(path);
        }
    }
}

#[test]
fn rot_in_any_file_is_lost_or_an_error_and_never_other_rows() {
    let flushed = Keyspace::FIXED.into_iter().chain([Keyspace::Outcomes(0), Keyspace::Outcomes(2)]);
    let store = Store::new(&flushed.map(|keyspace| (44, keyspace)).collect::<Vec<_>>());
    let mut all = Vec::new();
    files(&store.path(), &mut all);
    all.sort();
    let (mut lost, mut errors, mut harmless) = (0, 0, 0);
    for file in &all {
        let name = file.strip_prefix(store.path()).unwrap();
        let bytes = fs::metadata(file).unwrap().len();
        for at in (0..bytes).step_by((bytes / 4).max(1) as usize) {
            let copy = store.copy();
            let path = copy.path().join(name);
            let mut content = fs::read(&path).unwrap();
            content[at as usize] ^= 1 << (at % 8);
            fs::write(&path, content).unwrap();
            match FjallRows::open(&copy.path(), &options(), SYNCED) {
                Ok(Err(_)) => lost += 1,
                Err(_) => errors += 1,
                Ok(Ok(rows)) => match scrub::scrub(&*rows.view().unwrap()) {
                    Err(error) => {
                        errors += 1;
                        // What a read has met is not opened again.
                        assert!(rows.damage().is_some(), "{} at byte {at}: {error}", name.display());
                        drop(rows);
                        let again = FjallRows::open(&copy.path(), &options(), SYNCED).unwrap();
                        assert!(again.is_err_and(|why| why.contains("found damaged")), "{} at {at}", name.display());
                    }
                    // Filters and spare bytes carry no rows.
                    Ok(report) => {
                        let expected = store.digests[&rows.applied()];
                        assert_eq!(report.digest, expected, "{} at byte {at}", name.display());
                        harmless += 1;
                    }
                },
            }
        }
    }
    assert!(lost > 0 && errors > 0 && harmless > 0, "{lost} lost, {errors} errors, {harmless} harmless");
}

#[test]
fn rows_that_were_found_damaged_are_opened_as_they_are_where_nobody_has_better_ones() {
    let store = Store::new(&[(44, Keyspace::Entity)]);
    let mut all = Vec::new();
    files(&store.path(), &mut all);
    all.retain(|file| file.parent().is_some_and(|dir| dir.ends_with("tables")));
    let table = all.iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let name = table.strip_prefix(store.path()).unwrap();
    let copy = store.copy();
    let path = copy.path().join(name);
    let mut content = fs::read(&path).unwrap();
    content[3_000] ^= 4;
    fs::write(&path, content).unwrap();
    let rows = FjallRows::open(&copy.path(), &options(), SYNCED).unwrap().unwrap();
    scrub::scrub(&*rows.view().unwrap()).unwrap_err();
    assert!(rows.damage().is_some());
    drop(rows);
    for life in 0..2u64 {
        let met = FjallRows::open(&copy.path(), &options(), SYNCED).unwrap();
        assert!(met.is_err_and(|why| why.contains("found damaged")), "life {life}");
        let rows = FjallRows::open_as_it_is(&copy.path(), &options(), SYNCED).unwrap().unwrap();
        assert_eq!(rows.applied(), BATCHES + life);
        // What is gone is gone, and no reason to end again; everything else is there, and it goes on.
        scrub::scrub(&*rows.view().unwrap()).unwrap_err();
        assert_eq!(rows.damage(), None, "life {life}");
        for index in 1..=BATCHES + life {
            let found = rows.get(Keyspace::Feed, &index.to_be_bytes()).unwrap();
            assert_eq!(found, Some(vec![1; 60]), "life {life}, index {index}");
        }
        rows.commit(batch(BATCHES + life + 1)).unwrap();
    }
    // Rows that are behind what was recorded as durable are not better than none.
    let behind = FjallRows::open_as_it_is(&copy.path(), &options(), BATCHES + 10).unwrap();
    assert!(behind.is_err_and(|why| why.contains("behind the synced index")));
}

#[test]
fn rows_whose_store_stopped_by_itself_are_read_once_before_they_are_trusted() {
    let store = Store::new(&[(44, Keyspace::Entity)]);
    let suspect = store.copy();
    let rows = FjallRows::open(&suspect.path(), &options(), SYNCED).unwrap().unwrap();
    // What fjall tells when its own work in the background has failed.
    rows.failed(fjall::Error::Poisoned);
    drop(rows);
    let rotten = suspect.copy();
    // Nothing is wrong with these: they are used, and not read again.
    assert!(suspect.path().join("suspect").exists());
    suspect.open(SYNCED).unwrap();
    assert!(!suspect.path().join("suspect").exists());
    // These would stop it again.
    let mut all = Vec::new();
    files(&rotten.path(), &mut all);
    all.retain(|file| file.parent().is_some_and(|dir| dir.ends_with("tables")));
    let table = all.iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let mut content = fs::read(table).unwrap();
    content[3_000] ^= 4;
    fs::write(table, content).unwrap();
    let met = FjallRows::open(&rotten.path(), &options(), SYNCED).unwrap();
    assert!(met.is_err_and(|why| why.contains("is damaged")));
    let met = FjallRows::open(&rotten.path(), &options(), SYNCED).unwrap();
    assert!(met.is_err_and(|why| why.contains("was found damaged")));
}

/// Reading the first bytes of a process's memory is EIO, as reading a bad sector is.
#[test]
#[cfg(target_os = "linux")]
fn rows_of_which_the_disk_cannot_read_a_file_are_lost_and_no_reason_not_to_start() {
    let store = Store::new(&[]);
    let journal = store.journal();
    fs::remove_file(&journal).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &journal).unwrap();
    let reason = store.open(SYNCED).unwrap_err();
    assert!(reason.contains("cannot be read") && reason.contains("os error 5"), "{reason}");
}
