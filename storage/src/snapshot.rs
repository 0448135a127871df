//! One format for snapshot, backup and catch-up: a stream of sorted rows from one consistent view.
//!
//! Written and read in bounded memory: one block at a time. All numbers little-endian.
//!
//! ```text
//! magic    "AGORASNP"
//! header   length u32 ‖ codec frame of SnapshotHeader
//! block    01 ‖ raw length u32 ‖ stored length u32 ‖ rows u32 ‖ stored bytes (lz4) ‖ checksum u64
//!          …
//! end      02 ‖ rows u64 ‖ digest u128 ‖ checksum u64
//! ```
//!
//! A checksum is xxh3_64, seeded with the number of the block, over everything of the block before it; so a flipped bit,
//! a lost, a repeated and a swapped block are all seen. A raw block holds rows one after another:
//!
//! ```text
//! keyspace tag u8 ‖ bucket u32 (outcomes only) ‖ key length u16 ‖ value length u32 ‖ key ‖ value
//! ```
//!
//! Rows are in order of keyspace, then key, each once. Meta is included. A block holds at most 256 KiB, or one single
//! longer row. What is read is good only when the end block was read, the order and the number of rows are right, and the digest computed
//! from the rows is the one that the header's state carries.

use std::{
    io::{self, Read, Write},
    ops::Bound,
};

use agora_planted::{self as planted, Bug};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    batch::{VALUE_BYTES_MAX, row_hash},
    codec,
    error::{Error, Result},
    key::KEY_BYTES_MAX,
    keyspaces::Keyspace,
    meta::{self, LogPosition, StateHeader, StoredMembership},
    rows::{INGEST_ROWS_MAX, RowView, Rows},
};

/// Format written by this release. Format 1 held rows of another layout; no release wrote it.
pub const SNAPSHOT_FORMAT: u32 = 2;
/// Oldest format this release reads.
pub const SNAPSHOT_FORMAT_OLDEST: u32 = 2;
/// Raw bytes of a block, unless one row alone is longer.
pub const BLOCK_BYTES_MAX: usize = 256 * 1024;
/// Largest header, in bytes.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;

const MAGIC: &[u8; 8] = b"AGORASNP";
const HEADER_VERSION: u8 = 1;
const BLOCK: u8 = 1;
const END: u8 = 2;
/// Bytes before a block's stored bytes.
const BLOCK_HEAD_BYTES: usize = 13;
/// Bytes of the end block.
const END_BYTES: usize = 1 + 8 + 16 + 8;
/// Bytes a row takes besides its key and value, at most.
const ROW_HEAD_BYTES_MAX: usize = 11;
/// Raw bytes of any block: a single row at its bounds.
const RAW_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + ROW_HEAD_BYTES_MAX;

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// [`SNAPSHOT_FORMAT`] of the release that wrote it.
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Id of the cluster's history.
    pub lineage: u128,
    /// Applied index of the rows.
    pub index: u64,
    /// Term of the entry at that index.
    pub term: u64,
    /// Membership in force there.
    pub membership: StoredMembership,
    /// Chain head, digest, log time there.
    pub state: StateHeader,
    /// Wall clock when it was written, milliseconds since 1970; information only.
    pub created_ms: i64,
}

/// How much was written or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotStats {
    /// Rows, Meta included.
    pub rows: u64,
    /// Bytes of rows before compression.
    pub raw_bytes: u64,
    /// Bytes of the stream so far.
    pub stream_bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

/// Called after every block; an error stops the work and is handed on.
pub type Progress<'a> = &'a mut dyn FnMut(&SnapshotStats) -> Result<()>;

/// Writes all rows of a view. Fails, and the stream must be thrown away, if the view is not at the header's index or its
/// rows do not add up to the header's digest: a bad snapshot is found by its writer.
pub fn write_snapshot(
    view: &dyn RowView,
    header: &SnapshotHeader,
    out: &mut dyn Write,
    progress: Progress<'_>,
) -> Result<SnapshotStats> {
    if view.applied() != header.index {
        return Err(Error::OutOfOrder(format!(
            "snapshot of index {} from rows at index {}",
            header.index,
            view.applied()
        )));
    }
    let mut writer = BlockWriter {
        out,
        raw: Vec::with_capacity(BLOCK_BYTES_MAX),
        rows_in_block: 0,
        buffer: Vec::new(),
        stats: SnapshotStats::default(),
    };
    writer.header(header)?;
    let mut digest = 0u128;
    for keyspace in view.keyspaces() {
        for row in view.scan(keyspace, Bound::Unbounded, Bound::Unbounded, false) {
            let (key, value) = row?;
            if keyspace != Keyspace::Meta {
                digest = digest.wrapping_add(row_hash(keyspace, &key, &value));
            }
            if left_out(keyspace) {
                continue;
            }
            let bytes = ROW_HEAD_BYTES_MAX + key.len() + value.len();
            if !writer.raw.is_empty() && writer.raw.len() + bytes > BLOCK_BYTES_MAX {
                writer.block()?;
                progress(&writer.stats)?;
            }
            writer.row(keyspace, &key, &value);
        }
    }
    if !writer.raw.is_empty() {
        writer.block()?;
    }
    if digest != header.state.digest {
        return Err(Error::corrupt(format!(
            "rows at index {} have digest {digest:032x}, {:032x} expected: this node must not be the source of a snapshot",
            header.index, header.state.digest
        )));
    }
    writer.end(digest)?;
    progress(&writer.stats)?;
    Ok(writer.stats)
}

/// Whether a planted bug leaves this keyspace out of snapshots.
fn left_out(keyspace: Keyspace) -> bool {
    match keyspace {
        Keyspace::Outcomes(_) => planted::is(Bug::SnapshotWithoutOutcomes),
        Keyspace::Index => planted::is(Bug::SnapshotMissesKeyspace),
        _ => false,
    }
}

/// Without this, the digest would catch these planted bugs where they are made.
fn digest_unchecked() -> bool {
    planted::is(Bug::SnapshotWithoutOutcomes)
        || planted::is(Bug::SnapshotMissesKeyspace)
        || planted::is(Bug::SnapshotBlockChecksumUnchecked)
}

struct BlockWriter<'a> {
    out: &'a mut dyn Write,
    raw: Vec<u8>,
    rows_in_block: u32,
    buffer: Vec<u8>,
    stats: SnapshotStats,
}

impl BlockWriter<'_> {
    fn header(&mut self, header: &SnapshotHeader) -> Result<()> {
        let frame = codec::frame(HEADER_VERSION, header);
        if frame.len() > HEADER_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "snapshot header",
                bytes: frame.len() as u64,
                bytes_max: HEADER_BYTES_MAX as u64,
            });
        }
        self.buffer.extend_from_slice(MAGIC);
        self.buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&frame);
        self.write_buffer()
    }

    fn row(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) {
        self.raw.push(keyspace.tag());
        if let Some(bucket) = keyspace.bucket() {
            self.raw.extend_from_slice(&bucket.to_le_bytes());
        }
        self.raw.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.raw.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(key);
        self.raw.extend_from_slice(value);
        self.rows_in_block += 1;
    }

    fn block(&mut self) -> Result<()> {
        let room = lz4_flex::block::get_maximum_output_size(self.raw.len());
        self.buffer.clear();
        self.buffer.resize(BLOCK_HEAD_BYTES + room, 0);
        let stored = lz4_flex::block::compress_into(&self.raw, &mut self.buffer[BLOCK_HEAD_BYTES..])
            .map_err(|error| Error::Engine { engine: "lz4", what: error.to_string() })?;
        self.buffer.truncate(BLOCK_HEAD_BYTES + stored);
        self.buffer[0] = BLOCK;
        self.buffer[1..5].copy_from_slice(&(self.raw.len() as u32).to_le_bytes());
        self.buffer[5..9].copy_from_slice(&(stored as u32).to_le_bytes());
        self.buffer[9..13].copy_from_slice(&self.rows_in_block.to_le_bytes());
        self.stats.rows += u64::from(self.rows_in_block);
        self.stats.raw_bytes += self.raw.len() as u64;
        self.raw.clear();
        self.rows_in_block = 0;
        self.seal()
    }

    fn end(&mut self, digest: u128) -> Result<()> {
        self.buffer.clear();
        self.buffer.push(END);
        self.buffer.extend_from_slice(&self.stats.rows.to_le_bytes());
        self.buffer.extend_from_slice(&digest.to_le_bytes());
        self.seal()?;
        self.out.flush().map_err(Error::io("write snapshot"))
    }

    /// Appends the checksum and writes the block.
    fn seal(&mut self) -> Result<()> {
        let sum = xxh3_64_with_seed(&self.buffer, self.stats.blocks);
        self.buffer.extend_from_slice(&sum.to_le_bytes());
        self.stats.blocks += 1;
        self.write_buffer()
    }

    fn write_buffer(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer).map_err(Error::io("write snapshot"))?;
        self.stats.stream_bytes += self.buffer.len() as u64;
        Ok(())
    }
}

/// Reads the header alone; the stream then stands at the first block.
pub fn read_header(input: &mut dyn Read) -> Result<SnapshotHeader> {
    let mut head = [0u8; 12];
    fill(input, &mut head)?;
    if &head[..8] != MAGIC {
        return Err(Error::corrupt("this is not a snapshot: it does not begin with AGORASNP"));
    }
    let bytes = u32::from_le_bytes(head[8..].try_into().expect("four bytes")) as usize;
    if bytes > HEADER_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "snapshot header",
            bytes: bytes as u64,
            bytes_max: HEADER_BYTES_MAX as u64,
        });
    }
    let mut frame = vec![0; bytes];
    fill(input, &mut frame)?;
    let header: SnapshotHeader = codec::unframe(HEADER_VERSION, &frame).map_err(|error| match error {
        Error::NewerFormat { found, known, .. } => Error::NewerFormat { what: "the snapshot", found, known },
        other => other,
    })?;
    check_format("the snapshot", header.format, SNAPSHOT_FORMAT_OLDEST, SNAPSHOT_FORMAT)?;
    Ok(header)
}

/// Refuses formats outside of what this release reads.
pub(crate) fn check_format(what: &'static str, found: u32, oldest: u32, known: u32) -> Result<()> {
    if found > known {
        return Err(Error::NewerFormat { what, found, known });
    }
    if found < oldest {
        return Err(Error::TooOld { what, found, oldest });
    }
    Ok(())
}

/// Reads a snapshot into empty rows and makes them stand at its index. On any error the rows must be thrown away.
pub fn install_snapshot(input: &mut dyn Read, into: &dyn Rows, progress: Progress<'_>) -> Result<SnapshotHeader> {
    let (header, _) = read_snapshot(input, progress, &mut |rows| into.ingest(rows))?;
    into.ingest_finish(header.index)?;
    Ok(header)
}

/// Reads and checks a whole snapshot without keeping anything.
pub fn verify_snapshot(input: &mut dyn Read, progress: Progress<'_>) -> Result<(SnapshotHeader, SnapshotStats)> {
    read_snapshot(input, progress, &mut |_| Ok(()))
}

type Ingest = Vec<(Keyspace, Vec<u8>, Vec<u8>)>;

fn read_snapshot(
    input: &mut dyn Read,
    progress: Progress<'_>,
    take: &mut dyn FnMut(Ingest) -> Result<()>,
) -> Result<(SnapshotHeader, SnapshotStats)> {
    let header = read_header(input)?;
    let mut reader =
        BlockReader { input, buffer: Vec::new(), raw: Vec::new(), rows_before: 0, stats: SnapshotStats::default() };
    let mut check = RowCheck { header: &header, digest: 0, last: None, saw_applied: false };
    while reader.block()? {
        let mut rows = Vec::new();
        let mut rest = reader.raw.as_slice();
        while !rest.is_empty() {
            let (row, after) = split_row(rest).ok_or_else(|| Error::corrupt("snapshot block with a broken row"))?;
            rest = after;
            check.row(&row)?;
            reader.stats.rows += 1;
            rows.push((row.keyspace, row.key.to_vec(), row.value.to_vec()));
            if rows.len() == INGEST_ROWS_MAX {
                take(std::mem::take(&mut rows))?;
            }
        }
        reader.block_rows_seen()?;
        if !rows.is_empty() {
            take(rows)?;
        }
        progress(&reader.stats)?;
    }
    reader.end(check.digest, header.state.digest)?;
    Ok((header, reader.stats))
}

/// One row inside a raw block.
struct BlockRow<'a> {
    keyspace: Keyspace,
    key: &'a [u8],
    value: &'a [u8],
}

fn split_row(bytes: &[u8]) -> Option<(BlockRow<'_>, &[u8])> {
    let (&tag, mut rest) = bytes.split_first()?;
    let mut bucket = 0;
    if tag == Keyspace::Outcomes(0).tag() {
        let (number, after) = rest.split_first_chunk::<4>()?;
        bucket = u32::from_le_bytes(*number);
        rest = after;
    }
    let keyspace = Keyspace::from_tag(tag, bucket)?;
    let (key_bytes, rest) = rest.split_first_chunk::<2>()?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let key_bytes = usize::from(u16::from_le_bytes(*key_bytes));
    let value_bytes = u32::from_le_bytes(*value_bytes) as usize;
    if key_bytes == 0 || key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some((BlockRow { keyspace, key, value }, rest))
}

/// What all rows together must be.
struct RowCheck<'a> {
    header: &'a SnapshotHeader,
    digest: u128,
    last: Option<(Keyspace, Vec<u8>)>,
    saw_applied: bool,
}

impl RowCheck<'_> {
    fn row(&mut self, row: &BlockRow<'_>) -> Result<()> {
        if let Some((keyspace, key)) = &self.last
            && (*keyspace, key.as_slice()) >= (row.keyspace, row.key)
        {
            return Err(Error::corrupt(format!("snapshot rows out of order in {:?}", row.keyspace)));
        }
        match &mut self.last {
            Some((keyspace, key)) => {
                *keyspace = row.keyspace;
                key.clear();
                key.extend_from_slice(row.key);
            }
            last => *last = Some((row.keyspace, row.key.to_vec())),
        }
        if row.keyspace != Keyspace::Meta {
            self.digest = self.digest.wrapping_add(row_hash(row.keyspace, row.key, row.value));
        } else if row.key == meta::APPLIED {
            let applied: LogPosition = codec::decode(row.value)?;
            let expected = LogPosition { index: self.header.index, term: self.header.term };
            if applied != expected || self.saw_applied {
                return Err(Error::corrupt(format!("snapshot of {expected:?} with rows of {applied:?}")));
            }
            self.saw_applied = true;
        }
        Ok(())
    }
}

struct BlockReader<'a> {
    input: &'a mut dyn Read,
    /// The block as it is in the stream.
    buffer: Vec<u8>,
    /// Its rows.
    raw: Vec<u8>,
    /// Rows before the present block.
    rows_before: u64,
    stats: SnapshotStats,
}

impl BlockReader<'_> {
    /// Reads the next block into `raw`; `false` where it was the end block, which is then in `buffer`.
    fn block(&mut self) -> Result<bool> {
        self.buffer.clear();
        self.more(1)?;
        match self.buffer[0] {
            BLOCK => {}
            END => {
                self.more(END_BYTES - 1)?;
                self.check_sum()?;
                return Ok(false);
            }
            other => {
                return Err(Error::corrupt(format!("byte {other} where a snapshot block begins")));
            }
        }
        self.more(BLOCK_HEAD_BYTES - 1)?;
        let raw_bytes = self.u32_at(1) as usize;
        let stored_bytes = self.u32_at(5) as usize;
        if raw_bytes == 0
            || raw_bytes > RAW_BYTES_MAX
            || stored_bytes > lz4_flex::block::get_maximum_output_size(raw_bytes)
        {
            return Err(Error::corrupt(format!("snapshot block of {raw_bytes} bytes, {stored_bytes} stored")));
        }
        self.more(stored_bytes + 8)?;
        self.check_sum()?;
        self.raw.clear();
        self.raw.resize(raw_bytes, 0);
        let stored = &self.buffer[BLOCK_HEAD_BYTES..BLOCK_HEAD_BYTES + stored_bytes];
        match lz4_flex::block::decompress_into(stored, &mut self.raw) {
            Ok(written) if written == raw_bytes => {}
            Ok(written) => {
                return Err(Error::corrupt(format!("snapshot block of {raw_bytes} bytes gave {written}")));
            }
            Err(error) => return Err(Error::corrupt(format!("snapshot block: {error}"))),
        }
        self.stats.raw_bytes += raw_bytes as u64;
        Ok(true)
    }

    /// Checks that the block just taken apart had as many rows as it said.
    fn block_rows_seen(&mut self) -> Result<()> {
        let announced = u64::from(self.u32_at(9));
        let before = std::mem::replace(&mut self.rows_before, self.stats.rows);
        if self.stats.rows - before != announced {
            return Err(Error::corrupt(format!(
                "snapshot block with {} rows, {announced} announced",
                self.stats.rows - before
            )));
        }
        Ok(())
    }

    /// Compares the end block with what was read, and makes sure that nothing follows it.
    fn end(&mut self, digest: u128, expected: u128) -> Result<()> {
        let rows = u64::from_le_bytes(self.buffer[1..9].try_into().expect("eight bytes"));
        let written = u128::from_le_bytes(self.buffer[9..25].try_into().expect("sixteen bytes"));
        if rows != self.stats.rows {
            return Err(Error::corrupt(format!("snapshot with {} rows, {rows} expected", self.stats.rows)));
        }
        if (digest != written || digest != expected) && !digest_unchecked() {
            return Err(Error::corrupt(format!(
                "snapshot rows have digest {digest:032x}, its end says {written:032x}, its header {expected:032x}"
            )));
        }
        let mut after = [0u8];
        loop {
            return match self.input.read(&mut after) {
                Ok(0) => Ok(()),
                Ok(_) => Err(Error::corrupt("bytes after the end of the snapshot")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => Err(Error::Io { what: "read snapshot".into(), source }),
            };
        }
    }

    fn check_sum(&mut self) -> Result<()> {
        let at = self.buffer.len() - 8;
        let sum = xxh3_64_with_seed(&self.buffer[..at], self.stats.blocks);
        if self.buffer[at..] != sum.to_le_bytes() && !planted::is(Bug::SnapshotBlockChecksumUnchecked) {
            return Err(Error::corrupt(format!("snapshot block {}: checksum does not match", self.stats.blocks)));
        }
        self.stats.blocks += 1;
        self.stats.stream_bytes += self.buffer.len() as u64;
        Ok(())
    }

    fn more(&mut self, bytes: usize) -> Result<()> {
        let from = self.buffer.len();
        self.buffer.resize(from + bytes, 0);
        fill(self.input, &mut self.buffer[from..])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.buffer[at..at + 4].try_into().expect("four bytes"))
    }
}

fn fill(input: &mut dyn Read, out: &mut [u8]) -> Result<()> {
    input.read_exact(out).map_err(|source| {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            Error::corrupt("snapshot ends too early")
        } else {
            Error::Io { what: "read snapshot".into(), source }
        }
    })
}
