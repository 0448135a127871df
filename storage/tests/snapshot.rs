//! The snapshot stream: what goes in comes out, and nothing that was touched is taken for good.

use std::{io::Read, sync::Arc};

use agora_storage::{
    Batch, Disk, Error, FileDisk, Keyspace, LogPosition, MemDisk, MemRows, RowOptions, Rows, StateHeader,
    StoredMembership, codec, meta, scrub,
    snapshot::{
        BLOCK_BYTES_MAX, SNAPSHOT_FORMAT, SnapshotHeader, SnapshotStats, install_snapshot, read_header,
        verify_snapshot, write_snapshot,
    },
};

fn quiet(_: &SnapshotStats) -> Result<(), Error> {
    Ok(())
}

/// Rows at some index with a state header that fits them.
fn fill(rows: &dyn Rows, batches: u64, rows_per_batch: u64) -> StateHeader {
    let mut state = StateHeader { chain_head: [3; 32], reign: 2, feature_level: 1, ..StateHeader::default() };
    for index in 1..=batches {
        let mut batch = Batch::new(index);
        for n in 0..rows_per_batch {
            let id = u128::from(index * rows_per_batch + n);
            let bytes = if n % 97 == 5 { 9000 } else { 20 + (n % 90) as usize };
            let value: Vec<u8> = (0..bytes).map(|at| (at as u64 * n) as u8).collect();
            batch.insert(Keyspace::Entity, agora_storage::key::entity(1, id), value);
        }
        batch.insert(Keyspace::Feed, agora_storage::key::feed(index, 0), *b"event");
        batch.insert(Keyspace::Outcomes(index as u32 / 3), index.to_be_bytes(), *b"out");
        state.digest = state.digest.wrapping_add(batch.digest_delta());
        state.log_time_ms = index as i64;
        batch.put_meta(meta::STATE, codec::encode(&state));
        let at = LogPosition { index, term: 7 };
        batch.put_meta(meta::APPLIED, codec::encode(&at));
        rows.commit(batch).unwrap();
    }
    state
}

fn header(rows: &dyn Rows, state: StateHeader) -> SnapshotHeader {
    SnapshotHeader {
        format: SNAPSHOT_FORMAT,
        cluster: "shop".into(),
        lineage: 1,
        index: rows.applied(),
        term: 7,
        membership: StoredMembership { at: None, bytes: vec![1] },
        state,
        created_ms: 5,
    }
}

fn snapshot(rows: &dyn Rows, state: StateHeader) -> (SnapshotHeader, Vec<u8>) {
    let header = header(rows, state);
    let mut stream = Vec::new();
    let view = rows.view().unwrap();
    let stats = write_snapshot(&*view, &header, &mut stream, &mut quiet).unwrap();
    assert_eq!(stats.stream_bytes, stream.len() as u64);
    (header, stream)
}

#[test]
fn golden_bytes_of_a_snapshot() {
    let rows = MemRows::new();
    let mut batch = Batch::new(1);
    batch.insert(Keyspace::Entity, *b"k", *b"v");
    batch.insert(Keyspace::Outcomes(9), *b"o", *b"w");
    let state = StateHeader { digest: batch.digest_delta(), ..StateHeader::default() };
    rows.commit(batch).unwrap();
    let (header, stream) = snapshot(&rows, state);
    let frame = codec::frame(1, &header);
    assert_eq!(frame[..12], [1, 2, 4, b's', b'h', b'o', b'p', 1, 1, 7, 0, 1]);
    let mut expected = b"AGORASNP".to_vec();
    expected.extend((frame.len() as u32).to_le_bytes());
    expected.extend(&frame);
    // One block: lz4 stores a run of literals as its length (shifted by four) and the bytes.
    let raw = b"\x01\x01\0\x01\0\0\0kv\x04\x09\0\0\0\x01\0\x01\0\0\0ow";
    let mut block = vec![1, raw.len() as u8, 0, 0, 0, raw.len() as u8 + 2, 0, 0, 0, 2, 0, 0, 0];
    block.extend([0xf0, raw.len() as u8 - 15]);
    block.extend(raw);
    let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&block, 0);
    expected.extend(block);
    expected.extend(sum.to_le_bytes());
    let mut end = vec![2, 2, 0, 0, 0, 0, 0, 0, 0];
    end.extend(header.state.digest.to_le_bytes());
    let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&end, 1);
    expected.extend(end);
    expected.extend(sum.to_le_bytes());
    assert_eq!(stream, expected);
}

#[test]
fn rows_travel_from_disk_to_memory_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let files = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    let memory = MemDisk::new();
    let disks: [&dyn Disk; 2] = [&files, &memory];
    for (from, to) in [(disks[0], disks[1]), (disks[1], disks[0])] {
        let source = from.create_rows(1).unwrap();
        let state = fill(&*source, 12, 400);
        let header = header(&*source, state);
        let mut file = from.snapshot_create("snap-1").unwrap();
        let view = source.view().unwrap();
        let written = write_snapshot(&*view, &header, &mut *file, &mut quiet).unwrap();
        assert!(written.blocks > 2, "{written:?}");
        assert_eq!(from.snapshot_list().unwrap(), []);
        file.finish().unwrap();
        let listed = from.snapshot_list().unwrap();
        assert_eq!(listed[0].bytes, written.stream_bytes);

        let target = to.create_rows(2).unwrap();
        let mut input = from.snapshot_open("snap-1").unwrap();
        let installed = install_snapshot(&mut *input, &*target, &mut quiet).unwrap();
        to.finish_rows(2).unwrap();
        assert_eq!(installed, header);
        assert_eq!(target.applied(), 12);
        let copy = target.view().unwrap();
        let report = scrub::verify(&*copy).unwrap();
        assert_eq!(report, scrub::verify(&*view).unwrap());
        assert_eq!(report.rows, 12 * 402);
        drop(copy);
        drop(target);
        let agora_storage::OpenedRows::Ready(again) = to.open_rows(2, 12).unwrap() else {
            panic!("installed rows lost");
        };
        scrub::verify(&*again.view().unwrap()).unwrap();
        drop((view, source, again));
        from.snapshot_remove("snap-1").unwrap();
        from.snapshot_remove("snap-1").unwrap();
        assert!(matches!(from.snapshot_open("snap-1"), Err(Error::Missing(_))));
        from.remove_rows(1).unwrap();
        to.remove_rows(2).unwrap();
    }
}

#[test]
fn empty_rows_make_a_snapshot_too() {
    let rows = MemRows::new();
    rows.commit(Batch::new(1)).unwrap();
    let (_, stream) = snapshot(&rows, StateHeader::default());
    let target = MemRows::new();
    install_snapshot(&mut stream.as_slice(), &target, &mut quiet).unwrap();
    assert_eq!(target.applied(), 1);
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let rows = MemRows::new();
    let state = fill(&rows, 3, 6);
    let (_, stream) = snapshot(&rows, state);
    for bit in 0..stream.len() * 8 {
        let mut bad = stream.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let result = verify_snapshot(&mut bad.as_slice(), &mut quiet);
        assert!(result.is_err(), "bit {bit} of {}", stream.len() * 8);
    }
    for cut in 0..stream.len() {
        let result = verify_snapshot(&mut &stream[..cut], &mut quiet);
        assert!(matches!(result, Err(Error::Corrupt(_))), "cut at {cut}");
    }
    let mut longer = stream;
    longer.push(0);
    assert!(verify_snapshot(&mut longer.as_slice(), &mut quiet).is_err());
}

#[test]
fn a_flipped_bit_in_every_block_of_a_large_one_is_refused() {
    let rows = MemRows::new();
    let state = fill(&rows, 10, 1000);
    let (_, stream) = snapshot(&rows, state);
    let (_, stats) = verify_snapshot(&mut stream.as_slice(), &mut quiet).unwrap();
    assert!(stats.blocks > 5);
    for at in (0..stream.len()).step_by(stream.len() / 60) {
        let mut bad = stream.clone();
        bad[at] ^= 0x10;
        let target = MemRows::new();
        assert!(install_snapshot(&mut bad.as_slice(), &target, &mut quiet).is_err());
        assert_eq!(target.applied(), 0, "nothing good came of it");
    }
}

/// The blocks of a stream, header first, end block last.
fn blocks(stream: &[u8]) -> Vec<Vec<u8>> {
    let u32_at = |at: usize| u32::from_le_bytes(stream[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 12 + u32_at(8);
    let mut blocks = vec![stream[..at].to_vec()];
    while stream[at] == 1 {
        let bytes = 13 + u32_at(at + 5) + 8;
        blocks.push(stream[at..at + bytes].to_vec());
        at += bytes;
    }
    blocks.push(stream[at..].to_vec());
    blocks
}

#[test]
fn lost_repeated_and_swapped_blocks_are_refused() {
    let rows = MemRows::new();
    let state = fill(&rows, 6, 2000);
    let (_, stream) = snapshot(&rows, state);
    let whole = blocks(&stream);
    assert!(whole.len() > 5);
    assert!(verify_snapshot(&mut whole.concat().as_slice(), &mut quiet).is_ok());
    let mut lost = whole.clone();
    lost.remove(2);
    let mut repeated = whole.clone();
    repeated.insert(2, whole[2].clone());
    let mut swapped = whole.clone();
    swapped.swap(2, 3);
    for bad in [lost, repeated, swapped] {
        assert!(verify_snapshot(&mut bad.concat().as_slice(), &mut quiet).is_err());
    }
}

#[test]
fn a_header_with_another_digest_is_refused() {
    let rows = MemRows::new();
    let state = fill(&rows, 3, 20);
    let (header, stream) = snapshot(&rows, state);
    let mut other = header.clone();
    other.state.digest ^= 1;
    let frame = codec::frame(1, &other);
    let mut forged = b"AGORASNP".to_vec();
    forged.extend((frame.len() as u32).to_le_bytes());
    forged.extend(frame);
    forged.extend(blocks(&stream)[1..].concat());
    let error = verify_snapshot(&mut forged.as_slice(), &mut quiet).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
    // Nor does a writer make one.
    let view = rows.view().unwrap();
    let error = write_snapshot(&*view, &other, &mut Vec::new(), &mut quiet).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
    let stale = SnapshotHeader { index: header.index - 1, ..header };
    assert!(write_snapshot(&*view, &stale, &mut Vec::new(), &mut quiet).is_err());
}

#[test]
fn newer_formats_are_named() {
    let rows = MemRows::new();
    rows.commit(Batch::new(1)).unwrap();
    let mut newer = header(&rows, StateHeader::default());
    newer.format = SNAPSHOT_FORMAT + 1;
    for frame in [codec::frame(1, &newer), codec::frame(2, &newer)] {
        let mut stream = b"AGORASNP".to_vec();
        stream.extend((frame.len() as u32).to_le_bytes());
        stream.extend(frame);
        let error = read_header(&mut stream.as_slice()).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
        assert!(error.to_string().starts_with("the snapshot has format"), "{error}");
    }
    assert!(read_header(&mut &b"something else entirely"[..]).is_err());
}

#[test]
fn crafted_lengths_do_not_allocate() {
    let rows = MemRows::new();
    let state = fill(&rows, 2, 5);
    let (_, stream) = snapshot(&rows, state);
    let at = blocks(&stream)[0].len();
    for field in [at + 1, at + 5] {
        let mut bad = stream.clone();
        bad[field..field + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(verify_snapshot(&mut bad.as_slice(), &mut quiet).is_err());
    }
    let mut bad = stream;
    bad[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(verify_snapshot(&mut bad.as_slice(), &mut quiet), Err(Error::TooLarge { .. })));
}

#[test]
fn progress_can_stop_the_work() {
    let rows = MemRows::new();
    let state = fill(&rows, 4, 2000);
    let (header, stream) = snapshot(&rows, state);
    let mut calls = 0;
    let mut stop = |_: &SnapshotStats| -> Result<(), Error> {
        calls += 1;
        Err(Error::Closed("node"))
    };
    let view = rows.view().unwrap();
    assert!(write_snapshot(&*view, &header, &mut Vec::new(), &mut stop).is_err());
    assert!(verify_snapshot(&mut stream.as_slice(), &mut stop).is_err());
    assert_eq!(calls, 2);
}

#[test]
fn unfinished_snapshots_and_odd_names_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::new(dir.path(), RowOptions::default()).unwrap();
    let mut file = disk.snapshot_create("half").unwrap();
    file.write_all(b"half").unwrap();
    drop(file);
    assert_eq!(disk.snapshot_list().unwrap(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
    for name in ["", "../log.redb", "a/b", ".hidden", "x.new", "a b"] {
        assert!(disk.snapshot_create(name).is_err(), "{name:?}");
        assert!(disk.snapshot_open(name).is_err(), "{name:?}");
        assert!(MemDisk::new().snapshot_create(name).is_err(), "{name:?}");
    }
}

/// Counts the bytes read at once, to see that the stream is read piece by piece.
struct Piecewise<'a> {
    rest: &'a [u8],
    largest: Arc<std::sync::atomic::AtomicUsize>,
}

impl Read for Piecewise<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.largest.fetch_max(out.len(), std::sync::atomic::Ordering::Relaxed);
        // Short reads, as sockets give them.
        let take = out.len().min(1000);
        self.rest.read(&mut out[..take])
    }
}

#[test]
fn memory_is_bounded_by_a_block() {
    let rows = MemRows::new();
    let state = fill(&rows, 10, 3000);
    let (_, stream) = snapshot(&rows, state);
    let largest = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut input = Piecewise { rest: &stream, largest: largest.clone() };
    let (_, stats) = verify_snapshot(&mut input, &mut quiet).unwrap();
    assert!(stats.raw_bytes > 5 * BLOCK_BYTES_MAX as u64);
    let largest = largest.load(std::sync::atomic::Ordering::Relaxed);
    assert!(largest < 2 * BLOCK_BYTES_MAX, "{largest}");
}
