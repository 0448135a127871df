//! Stored bytes spoiled on purpose, while a node is down.
//!
//! Where a format is known, a case names the field it hits: redb's file header (two commit slots and the flags that choose
//! between them) and the journal of the row store (every field of a batch, checksummed or not). Elsewhere a place is given
//! by its share of what is in use: a journal is allocated in advance and ends in zeroes, a log file has free pages, and
//! damage there would prove nothing.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use agora_scenario::cluster::{Damage, Part};

use crate::shell;

/// Size of what is lost at once when a disk loses a sector of today's size.
pub const SECTOR_BYTES: u64 = 4_096;
const MILLION: u64 = 1_000_000;

/// One change of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One bit is another one.
    Flip { at: u64, bit: u8 },
    /// Bytes become zero.
    Zero { at: u64, bytes: u64 },
    /// Bytes become these.
    Write { at: u64, byte: u8, bytes: u64 },
    /// The file ends here.
    Truncate { at: u64 },
}

/// Does one change.
///
/// # Errors
/// When the file is shorter than that, or cannot be written.
pub fn change(path: &Path, change: Change) -> Result<(), String> {
    let context = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(context)?;
    let length = file.metadata().map_err(context)?.len();
    let inside = |at: u64, bytes: u64| {
        if at + bytes > length {
            return Err(format!("{} has {length} bytes: none to spoil at {at}", path.display()));
        }
        Ok(())
    };
    match change {
        Change::Flip { at, bit } => {
            inside(at, 1)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).map_err(context)?;
            byte[0] ^= 1 << (bit % 8);
            file.write_all_at(&byte, at).map_err(context)
        }
        Change::Zero { at, bytes } => {
            inside(at, 1)?;
            file.write_all_at(&vec![0; bytes.min(length - at) as usize], at).map_err(context)
        }
        Change::Write { at, byte, bytes } => {
            inside(at, 1)?;
            file.write_all_at(&vec![byte; bytes.min(length - at) as usize], at).map_err(context)
        }
        Change::Truncate { at } => {
            inside(at, 0)?;
            file.set_len(at).map_err(context)
        }
    }
}

/// Spoils a part of a node as a scenario tells; returns what was done.
///
/// # Errors
/// When the node has no such file, or nothing in it.
pub fn corrupt(data_dir: &Path, part: Part, damage: Damage) -> Result<String, String> {
    // The largest: most of what there is to lose.
    let size = |path: &PathBuf| used_bytes(path).unwrap_or(0);
    let path = files_of(data_dir, part)?
        .into_iter()
        .filter(|path| size(path) > 0)
        .max_by_key(size)
        .ok_or_else(|| format!("no file of {part:?} in {} to spoil", data_dir.display()))?;
    let what = match damage {
        Damage::FlipBit { at, bit } => Change::Flip { at: place(&path, at)?, bit },
        Damage::ZeroSector { at } => {
            Change::Zero { at: place(&path, at)? / SECTOR_BYTES * SECTOR_BYTES, bytes: SECTOR_BYTES }
        }
        Damage::Truncate { at } => Change::Truncate { at: size(&path) * u64::from(at) / MILLION },
    };
    change(&path, what)?;
    Ok(format!("{}: {what:?}", path.display()))
}

/// The files of a part, of all generations there are.
///
/// # Errors
/// When the directory cannot be read.
pub fn files_of(data_dir: &Path, part: Part) -> Result<Vec<PathBuf>, String> {
    let below = |dir: PathBuf| files_below(&dir).map_err(|error| format!("{}: {error}", dir.display()));
    if part == Part::Log {
        return Ok(Some(data_dir.join("log.redb")).into_iter().filter(|path| path.exists()).collect());
    }
    if part == Part::Snapshot {
        let dir = data_dir.join("snapshots");
        return if dir.is_dir() { below(dir) } else { Ok(Vec::new()) };
    }
    let mut found = Vec::new();
    for dir in generations(data_dir)? {
        found.extend(below(dir)?.into_iter().filter(|path| {
            let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
            let is_table = path.parent().is_some_and(|parent| parent.ends_with("tables"));
            (part == Part::RowsJournal && is_journal) || (part == Part::RowsTable && is_table)
        }));
    }
    Ok(found)
}

/// The row generations of a node.
///
/// # Errors
/// When the directory cannot be read.
pub fn generations(data_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let context = |error: std::io::Error| format!("{}: {error}", data_dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir).map_err(context)? {
        let entry = entry.map_err(context)?;
        if entry.file_name().to_string_lossy().starts_with("rows-") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// All files below a directory, in order.
///
/// # Errors
/// When one of the directories cannot be read.
pub fn files_below(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// Up to where a file holds more than zeroes.
///
/// # Errors
/// When it cannot be read.
pub fn used_bytes(path: &Path) -> std::io::Result<u64> {
    let bytes = read_used(path)?;
    Ok(bytes.len() as u64)
}

/// A file without the zeroes it ends in.
///
/// # Errors
/// When it cannot be read.
pub fn read_used(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    Ok(bytes)
}

/// A place in the sectors of a file that hold something, by its share of them in parts of a million.
fn place(path: &Path, at: u32) -> Result<u64, String> {
    let bytes = read_used(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let sectors: Vec<(u64, u64)> = bytes
        .chunks(SECTOR_BYTES as usize)
        .enumerate()
        .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
        .map(|(number, sector)| (number as u64 * SECTOR_BYTES, sector.len() as u64))
        .collect();
    let total: u64 = sectors.iter().map(|(_, length)| length).sum();
    let mut left = (total * u64::from(at) / MILLION).min(total.saturating_sub(1));
    for (start, length) in sectors {
        if left < length {
            return Ok(start + left);
        }
        left -= length;
    }
    Err(format!("{} holds nothing", path.display()))
}

/// Copies a directory as it is, holes in files included.
///
/// # Errors
/// When `cp` fails.
pub fn copy_tree(from: &Path, to: &Path) -> Result<(), String> {
    if to.exists() {
        fs::remove_dir_all(to).map_err(|error| format!("{}: {error}", to.display()))?;
    }
    let how = ["-a", "--sparse=always", "--"].map(OsStr::new);
    shell::run("cp", how.into_iter().chain([from.as_os_str(), to.as_os_str()])).map(drop)
}

/// A field of a stored format, at its place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub name: &'static str,
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub bytes: u64,
}

fn field(name: &'static str, at: u64, bytes: u64) -> Field {
    Field { name, at, bytes }
}

/// The header of a redb file of format 3, from its design document.
pub fn log_header() -> Vec<Field> {
    let mut fields = vec![
        field("magic", 0, 9),
        field("flags", 9, 1),
        field("page size", 12, 4),
        field("region header pages", 16, 4),
        field("region data pages", 20, 4),
        field("full regions", 24, 4),
        field("pages of the last region", 28, 4),
    ];
    for (slot, base) in [(0, 64), (1, 192)] {
        let name = |first: &'static str, second: &'static str| if slot == 0 { first } else { second };
        fields.extend([
            field(name("slot 0 version", "slot 1 version"), base, 1),
            field(name("slot 0 has roots", "slot 1 has roots"), base + 1, 2),
            field(name("slot 0 root page", "slot 1 root page"), base + 8, 8),
            field(name("slot 0 root checksum", "slot 1 root checksum"), base + 16, 16),
            field(name("slot 0 root length", "slot 1 root length"), base + 32, 8),
            field(name("slot 0 system root", "slot 1 system root"), base + 40, 32),
            field(name("slot 0 transaction", "slot 1 transaction"), base + 104, 8),
            field(name("slot 0 checksum", "slot 1 checksum"), base + 112, 16),
        ]);
    }
    fields
}

/// Whether the second commit slot of a redb file is the current one.
///
/// # Errors
/// When there is no header.
pub fn second_slot_is_current(path: &Path) -> Result<bool, String> {
    let mut flags = [0];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut flags, 9));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(flags[0] & 1 == 1)
}

/// Where bytes are found in a file, page by page: (start of the page, place), without an order of age.
///
/// # Errors
/// When it cannot be read.
pub fn pages_with(path: &Path, pattern: &[u8]) -> std::io::Result<Vec<(u64, u64)>> {
    let bytes = read_used(path)?;
    let mut found = Vec::new();
    for (number, page) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
        let start = number as u64 * SECTOR_BYTES;
        if let Some(at) = page.windows(pattern.len()).position(|window| window == pattern) {
            found.push((start, start + at as u64));
        }
    }
    Ok(found)
}

/// A batch of the rows' journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalBatch {
    /// Its first byte.
    pub at: u64,
    /// First byte after it.
    pub end: u64,
    /// Its fields: those of its beginning, of each item, of its end.
    pub fields: Vec<Field>,
}

/// The whole batches of a journal file.
///
/// ```text
/// start   01 ‖ items u32 ‖ sequence number u64
/// item    02 ‖ type u8 ‖ compression u8 ‖ keyspace u64 ‖ key length u16 ‖ value length u32 ‖ stored length u32 ‖ key ‖ value
/// clear   04 ‖ keyspace u64
/// end     03 ‖ checksum u64 ‖ trailer, 4 bytes
/// ```
pub fn journal_batches(bytes: &[u8]) -> Vec<JournalBatch> {
    let mut batches = Vec::new();
    let mut at = 0;
    while let Some(batch) = journal_batch(bytes, at) {
        at = batch.end;
        batches.push(batch);
    }
    batches
}

fn journal_batch(bytes: &[u8], at: u64) -> Option<JournalBatch> {
    let byte = |at: u64| bytes.get(at as usize).copied();
    let number = |at: u64, length: u64| -> Option<u64> {
        let slice = bytes.get(at as usize..(at + length) as usize)?;
        Some(slice.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    if byte(at)? != 1 {
        return None;
    }
    let items = number(at + 1, 4)?;
    let mut fields = vec![field("start tag", at, 1), field("items", at + 1, 4), field("sequence number", at + 5, 8)];
    let mut here = at + 13;
    for _ in 0..items {
        match byte(here)? {
            2 => {
                let (key, value) = (number(here + 11, 2)?, number(here + 17, 4)?);
                fields.extend([
                    field("item tag", here, 1),
                    field("value type", here + 1, 1),
                    field("compression", here + 2, 1),
                    field("keyspace", here + 3, 8),
                    field("key length", here + 11, 2),
                    field("value length", here + 13, 4),
                    field("stored length", here + 17, 4),
                    field("key", here + 21, key),
                    field("value", here + 21 + key, value),
                ]);
                here += 21 + key + value;
            }
            4 => {
                fields.push(field("clear", here, 9));
                here += 9;
            }
            _ => return None,
        }
    }
    if byte(here)? != 3 || here + 13 > bytes.len() as u64 {
        return None;
    }
    fields.extend([field("end tag", here, 1), field("checksum", here + 1, 8), field("trailer", here + 9, 4)]);
    Some(JournalBatch { at, end: here + 13, fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        let content: Vec<u8> = (0..bytes).map(|n| (n % 250) as u8 + 1).collect();
        fs::write(&path, &content).unwrap();
        (dir, path, content)
    }

    fn differing(path: &Path, before: &[u8]) -> Vec<usize> {
        let after = fs::read(path).unwrap();
        assert_eq!(after.len(), before.len());
        (0..before.len()).filter(|at| after[*at] != before[*at]).collect()
    }

    #[test]
    fn a_change_touches_what_it_names_and_nothing_else() {
        let (_dir, path, content) = sample(10_000);
        change(&path, Change::Flip { at: 4_097, bit: 3 }).unwrap();
        assert_eq!(differing(&path, &content), [4_097]);
        assert_eq!(fs::read(&path).unwrap()[4_097], content[4_097] ^ 8);
        change(&path, Change::Flip { at: 4_097, bit: 3 }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        change(&path, Change::Zero { at: 9_990, bytes: 4_096 }).unwrap();
        assert_eq!(differing(&path, &content), (9_990..10_000).collect::<Vec<_>>());
        change(&path, Change::Truncate { at: 77 }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content[..77]);
        assert!(change(&path, Change::Flip { at: 77, bit: 0 }).is_err());
        assert!(change(&path, Change::Truncate { at: 78 }).is_err());
    }

    #[test]
    fn the_acts_of_a_scenario_hit_the_part_they_name_where_it_is_in_use() {
        let (dir, path, content) = sample(3 * 4_096);
        // A hole in the middle, and zeroes allocated in advance at the end: neither is spoiled.
        let mut holed = content.clone();
        holed[4_096..8_192].fill(0);
        holed.extend([0; 8_192]);
        fs::write(&path, &holed).unwrap();
        for at in [0, 499_999, 500_001, 999_999] {
            fs::write(&path, &holed).unwrap();
            corrupt(dir.path(), Part::Log, Damage::FlipBit { at, bit: 1 }).unwrap();
            let places = differing(&path, &holed);
            let expected = if at < 500_000 { 0..4_096 } else { 8_192..12_288 };
            assert!(places.len() == 1 && expected.contains(&places[0]), "{at}: {places:?}");
        }
        fs::write(&path, &holed).unwrap();
        corrupt(dir.path(), Part::Log, Damage::ZeroSector { at: 700_000 }).unwrap();
        assert_eq!(differing(&path, &holed), (8_192..12_288).collect::<Vec<_>>());
        corrupt(dir.path(), Part::Log, Damage::Truncate { at: 500_000 }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2_048);
        assert!(corrupt(dir.path(), Part::RowsTable, Damage::Truncate { at: 0 }).is_err());
    }

    #[test]
    fn parts_are_told_apart_by_where_their_files_lie() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["rows-1/keyspaces/0/tables", "snapshots"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let all =
            ["log.redb", "lock", "rows-1/0.jnl", "rows-1/version", "rows-1/keyspaces/0/tables/4", "snapshots/s-1"];
        for name in all {
            fs::write(at(name), name).unwrap();
        }
        for (part, name) in [
            (Part::Log, "log.redb"),
            (Part::RowsJournal, "rows-1/0.jnl"),
            (Part::RowsTable, "rows-1/keyspaces/0/tables/4"),
            (Part::Snapshot, "snapshots/s-1"),
        ] {
            assert_eq!(files_of(dir.path(), part).unwrap(), [at(name)], "{part:?}");
        }
    }

    #[test]
    fn the_fields_of_a_journal_follow_one_another_without_a_gap() {
        let mut bytes = Vec::new();
        for (key, value) in [(&b"k1"[..], &b"value"[..]), (b"key-2", b"")] {
            bytes.extend([1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend([2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, key.len() as u8, 0]);
            bytes.extend([value.len() as u8, 0, 0, 0, value.len() as u8, 0, 0, 0]);
            bytes.extend(key);
            bytes.extend(value);
            bytes.extend([4, 5, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend([3, 8, 8, 8, 8, 8, 8, 8, 8]);
            bytes.extend(b"FJL\x03");
        }
        let whole = bytes.len() as u64;
        bytes.extend([1, 7, 0]);
        let batches = journal_batches(&bytes);
        assert_eq!(batches.len(), 2);
        let fields: Vec<&Field> = batches.iter().flat_map(|batch| &batch.fields).collect();
        let mut at = 0;
        for field in fields {
            assert_eq!(field.at, at, "{}", field.name);
            at += field.bytes;
        }
        assert_eq!((at, batches[1].end), (whole, whole));
        assert_eq!(batches[0].fields[0].name, "start tag");
        assert_eq!(batches[0].fields.last().unwrap().name, "trailer");
    }
}
