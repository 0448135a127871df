//! Our own reader of the row store's journal, run before the store opens it.
//!
//! fjall writes every batch to a journal file `<n>.jnl`, and syncs it late. After a power cut the tail of the newest file may
//! be torn, hold a page of zeroes in the middle, or bits that rotted. fjall opens some of these silently with a suffix
//! missing, and refuses others altogether. Here the journals are read first, in order, and cut at the first batch that
//! does not check: the file ends there, and later files go. What is lost that way was not promised to be there; whether that
//! is so is decided by the caller, who knows the applied index last synced.
//!
//! The format, read from fjall 3.1.13 (numbers little-endian), is one batch after another, then zeroes (the file is
//! allocated in advance):
//!
//! ```text
//! start   01 ‖ items u32 ‖ sequence number u64
//! item    02 ‖ type u8 ‖ compression u8 ‖ keyspace u64 ‖ key length u16 ‖ value length u32 ‖ stored length u32 ‖ key ‖ value
//! clear   04 ‖ keyspace u64                                                      (counts as an item)
//! end     03 ‖ xxh3 over all items u64 ‖ "FJL" 03
//! ```
//!
//! Every batch of ours carries the marker row, so the reader knows at which applied index the journal ends, and that
//! no batch is missing in between: markers count up by one.
//!
//! The checksum leaves out a batch's start. A wrong number of items does not parse; a wrong sequence number shows in that
//! sequence numbers must grow, and not by leaps. (It would put a batch before or after its neighbours, or let fjall
//! take it for one that is in its sorted files already.)

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use crate::{
    disk::sync_dir,
    error::{Error, Result},
    row_format::{MARKER, parse_marker},
};

/// Leap of sequence numbers between two batches, at most. Flushes and compactions between them take a few.
const SEQUENCE_LEAP_MAX: u64 = 1_000_000;

const TRAILER: [u8; 4] = [b'F', b'J', b'L', 3];

/// What the journals held, after they were cut.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Journals {
    /// Sequence number and marker of the first batch held that has a marker; markers are versions (applied index + 1).
    pub(crate) first: Option<(u64, u64)>,
    /// Last marker held.
    pub(crate) last_version: Option<u64>,
    /// Batches held.
    pub(crate) batches: u64,
    /// What was cut off and why; `None` if the journals ended cleanly.
    pub(crate) cut: Option<String>,
}

impl Journals {
    fn take(&mut self, batch: &JournalBatch) {
        self.batches += 1;
        if let Some(version) = batch.version {
            self.first.get_or_insert((batch.sequence, version));
            self.last_version = Some(version);
        }
    }

    /// Takes back the last batch. Markers count up by one, so the one before it is known.
    fn forget_last(&mut self) {
        self.batches -= 1;
        let last = self.last_version.take();
        if self.first.map(|(_, version)| version) == last {
            self.first = None;
        } else {
            self.last_version = last.map(|version| version.saturating_sub(1));
        }
    }
}

/// Reads the journals of a row store and cuts them at the first batch that does not check.
pub(crate) fn cut(dir: &Path) -> Result<Journals> {
    let mut found = Journals::default();
    let files = journal_files(dir)?;
    let mut previous: Option<u64> = None;
    for (position, (number, path)) in files.iter().enumerate() {
        if previous.is_some_and(|previous| previous + 1 != *number) {
            found.cut = Some(format!("journal {} is missing", previous.unwrap_or_default() + 1));
            remove_from(dir, &files[position..])?;
            break;
        }
        previous = Some(*number);
        let end = read_file(path, &mut found)?;
        let bytes = fs::metadata(path).map_err(Error::io(format!("look at {}", path.display())))?.len();
        if end.good_bytes < bytes {
            // Also where only zeroes follow: the store then appends right after the last batch.
            let file =
                OpenOptions::new().write(true).open(path).map_err(Error::io(format!("open {}", path.display())))?;
            file.set_len(end.good_bytes)
                .and_then(|()| file.sync_all())
                .map_err(Error::io(format!("cut {}", path.display())))?;
        }
        if let Some(reason) = end.damage {
            found.cut = Some(format!("journal {} cut at byte {} of {bytes}: {reason}", path.display(), end.good_bytes));
            remove_from(dir, &files[position + 1..])?;
            break;
        }
    }
    Ok(found)
}

/// The journal files, oldest first.
pub(crate) fn journal_files(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let context = || format!("list {}", dir.display());
    let mut files = Vec::new();
    for item in fs::read_dir(dir).map_err(Error::io(context()))? {
        let path = item.map_err(Error::io(context()))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn remove_from(dir: &Path, files: &[(u64, PathBuf)]) -> Result<()> {
    // Newest first: a crash in between must not leave a gap that looks like an older file.
    for (_, path) in files.iter().rev() {
        fs::remove_file(path).map_err(Error::io(format!("remove {}", path.display())))?;
    }
    if files.is_empty() {
        return Ok(());
    }
    sync_dir(dir)
}

/// Where the good part of a file ends, and what came after it if that was not just zeroes.
struct FileEnd {
    good_bytes: u64,
    damage: Option<String>,
}

fn read_file(path: &Path, found: &mut Journals) -> Result<FileEnd> {
    let file = File::open(path).map_err(Error::io(format!("open {}", path.display())))?;
    let mut reader = BatchReader::new(file);
    let mut end = FileEnd { good_bytes: 0, damage: None };
    // Where the batch before the last one ended, and its sequence number.
    let mut before: Option<(u64, Option<u64>)> = None;
    let mut last_sequence = None;
    loop {
        let batch = match reader.batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(end),
            Err(Stop::Damage(damage)) => {
                end.damage = Some(damage);
                return Ok(end);
            }
            Err(Stop::Io(source)) => {
                return Err(Error::Io { what: format!("read {}", path.display()), source });
            }
        };
        end.damage = out_of_step(found, &batch);
        if let (None, Some(last)) = (&end.damage, last_sequence) {
            if batch.sequence > last + SEQUENCE_LEAP_MAX {
                end.damage = Some(format!("sequence number {} after {last}", batch.sequence));
            } else if batch.sequence <= last {
                end.damage = Some(format!("sequence number {} after {last}", batch.sequence));
                // If this one fits after the one before the last, the last one is wrong.
                if let Some((bytes, sequence)) = before
                    && sequence.is_none_or(|sequence| batch.sequence > sequence)
                {
                    end.good_bytes = bytes;
                    found.forget_last();
                }
            }
        }
        if end.damage.is_some() {
            return Ok(end);
        }
        before = Some((end.good_bytes, last_sequence));
        last_sequence = Some(batch.sequence);
        end.good_bytes = reader.position;
        found.take(&batch);
    }
}

/// Where each batch of a journal file ends, and its version; for tests that damage them.
#[cfg(test)]
pub(crate) fn batch_ends(path: &Path) -> Vec<(u64, Option<u64>)> {
    let mut reader =
        BatchReader { input: BufReader::new(File::open(path).unwrap()), position: 0, scratch: vec![0; 64 * 1024] };
    let mut ends = Vec::new();
    while let Ok(Some(batch)) = reader.batch() {
        ends.push((reader.position, batch.version));
    }
    ends
}

/// A batch that checks but does not follow the one before: some in between are missing.
fn out_of_step(found: &Journals, batch: &JournalBatch) -> Option<String> {
    let (Some(last), Some(version)) = (found.last_version, batch.version) else {
        return None;
    };
    // Version 0 is written when the store is made; an ingest then goes to any version at once.
    if last == 0 || version == last + 1 {
        return None;
    }
    Some(format!("batch for index {} after the one for index {}", version.saturating_sub(1), last - 1))
}

struct JournalBatch {
    sequence: u64,
    version: Option<u64>,
}

/// Why a batch could not be read.
enum Stop {
    Damage(String),
    Io(io::Error),
}

struct BatchReader {
    input: BufReader<File>,
    position: u64,
    scratch: Vec<u8>,
}

impl BatchReader {
    fn new(file: File) -> BatchReader {
        BatchReader { input: BufReader::with_capacity(256 * 1024, file), position: 0, scratch: vec![0; 64 * 1024] }
    }

    /// The next batch; `None` where the file ends or only zeroes follow.
    fn batch(&mut self) -> Result<Option<JournalBatch>, Stop> {
        let mut tag = [0u8];
        if !self.fill_or_end(&mut tag)? {
            return Ok(None);
        }
        if tag[0] == 0 {
            return self.only_zeroes_follow().map(|()| None);
        }
        if tag[0] != 1 {
            return Err(damage(format!("byte {} where a batch begins", tag[0])));
        }
        let mut start = [0u8; 12];
        self.fill(&mut start)?;
        let items = u32::from_le_bytes(start[..4].try_into().expect("four bytes"));
        let sequence = u64::from_le_bytes(start[4..].try_into().expect("eight bytes"));
        let mut sum = Xxh3::new();
        let mut versions: Option<u64> = None;
        for _ in 0..items {
            if let Some(version) = self.item(&mut sum)? {
                if versions.is_some_and(|other| other != version) {
                    return Err(damage("markers of one batch disagree".into()));
                }
                versions = Some(version);
            }
        }
        let mut end = [0u8; 13];
        self.fill(&mut end)?;
        if end[0] != 3 {
            return Err(damage(format!("byte {} where a batch ends", end[0])));
        }
        if end[1..9] != sum.digest().to_le_bytes() {
            return Err(damage("checksum does not match".into()));
        }
        if end[9..] != TRAILER {
            return Err(damage("batch without its trailer".into()));
        }
        Ok(Some(JournalBatch { sequence, version: versions }))
    }

    /// One item; the marker's version if it is one.
    fn item(&mut self, sum: &mut Xxh3) -> Result<Option<u64>, Stop> {
        let mut tag = [0u8];
        self.fill(&mut tag)?;
        match tag[0] {
            2 => {}
            4 => {
                let mut keyspace = [0u8; 8];
                self.fill(&mut keyspace)?;
                sum.update(&tag);
                sum.update(&keyspace);
                return Ok(None);
            }
            other => return Err(damage(format!("byte {other} where an item begins"))),
        }
        let mut head = [0u8; 20];
        self.fill(&mut head)?;
        sum.update(&tag);
        sum.update(&head);
        let key_bytes = usize::from(u16::from_le_bytes([head[10], head[11]]));
        let stored_bytes = u32::from_le_bytes(head[16..20].try_into().expect("four bytes"));
        if key_bytes == MARKER.len() && stored_bytes == 8 {
            let mut row = [0u8; 9];
            self.fill(&mut row)?;
            sum.update(&row);
            return Ok(row.strip_prefix(MARKER).and_then(parse_marker));
        }
        self.skip(key_bytes as u64 + u64::from(stored_bytes), sum)?;
        Ok(None)
    }

    fn skip(&mut self, mut bytes: u64, sum: &mut Xxh3) -> Result<(), Stop> {
        let mut scratch = std::mem::take(&mut self.scratch);
        while bytes > 0 {
            let take = bytes.min(scratch.len() as u64) as usize;
            self.fill(&mut scratch[..take])?;
            sum.update(&scratch[..take]);
            bytes -= take as u64;
        }
        self.scratch = scratch;
        Ok(())
    }

    fn only_zeroes_follow(&mut self) -> Result<(), Stop> {
        loop {
            let read = self.input.read(&mut self.scratch).map_err(Stop::Io)?;
            if read == 0 {
                return Ok(());
            }
            if self.scratch[..read].iter().any(|byte| *byte != 0) {
                return Err(damage("zeroes where a batch begins, and more after them".into()));
            }
        }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Stop> {
        match self.input.read_exact(out) {
            Ok(()) => {
                self.position += out.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(damage("file ends within a batch".into()))
            }
            Err(error) => Err(Stop::Io(error)),
        }
    }

    fn fill_or_end(&mut self, out: &mut [u8; 1]) -> Result<bool, Stop> {
        match self.input.read(out).map_err(Stop::Io)? {
            0 => Ok(false),
            _ => {
                self.position += 1;
                Ok(true)
            }
        }
    }
}

fn damage(what: String) -> Stop {
    Stop::Damage(what)
}
