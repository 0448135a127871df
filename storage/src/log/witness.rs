//! A second word on which commit was the log's last, in a file of its own.
//!
//! redb keeps the commit before the last one. When the bytes that name the last one rot, it falls back, as it must after a
//! torn commit, and a log opens that is whole and one commit short: entries or a vote that this node acknowledged are gone,
//! and nothing in the file says so. So every commit carries a number, one more than the last, and after it that number is
//! written here. The write is not synced: it reaches the disk after the commit or not at all, so the witness never names a
//! commit that was not durable, and it survives whatever kills only the process. A log whose last commit has a lower number
//! has lost one; one with a higher number was interrupted before the witness heard of it, or has a witness that a power
//! cut set back.
//!
//! Format 2: `"end2" ‖ commit u64 LE ‖ crc32c of both u32 LE`. Format 1, of logs without numbers: `end u64 LE ‖ crc32c of it
//! u32 LE`, where the end is the last index plus one. It is still read, and replaced.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, Result};

const TAG: [u8; 4] = *b"end2";
const BYTES: usize = 16;
const SUMMED: usize = 12;

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// Nothing that checks.
    Nothing,
    /// This commit was durable.
    Commit(u64),
    /// Format 1: the log once ended before this index.
    End(u64),
}

impl Word {
    fn parse(bytes: &[u8]) -> Word {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let checks = |summed: usize| {
            bytes.get(summed..summed + 4).is_some_and(|sum| crc32c::crc32c(&bytes[..summed]).to_le_bytes() == sum)
        };
        if bytes.starts_with(&TAG) && checks(SUMMED) {
            Word::Commit(number(&bytes[4..SUMMED]))
        } else if checks(8) {
            Word::End(number(&bytes[..8]))
        } else {
            Word::Nothing
        }
    }

    /// Whether there ever was a log that held something.
    pub(super) fn knows_of_a_log(self) -> bool {
        match self {
            Word::Nothing => false,
            Word::Commit(number) | Word::End(number) => number > 0,
        }
    }

    /// Holds a log against it: the number of its last commit, and its last index plus one.
    pub(super) fn check(self, commit: u64, end: u64) -> Result<()> {
        match self {
            Word::Commit(seen) if commit < seen => Err(Error::corrupt(format!(
                "it ends with its commit {commit}, and commit {seen} was once written: its last commit is gone"
            ))),
            Word::End(seen) if end < seen => Err(Error::corrupt(format!(
                "it ends before index {end}, and once ended before index {seen}: its last commit is gone"
            ))),
            Word::Nothing | Word::Commit(_) | Word::End(_) => Ok(()),
        }
    }
}

/// Reads the file, changing nothing.
pub(super) fn read(path: &Path) -> Result<Word> {
    match fs::read(path) {
        Ok(bytes) => Ok(Word::parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Word::Nothing),
        Err(source) => Err(Error::Io { what: format!("read {}", path.display()), source }),
    }
}

/// The file, written after every commit.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    path: PathBuf,
}

impl Witness {
    /// Goes on writing where `word` was read. What it said in format 1 is replaced durably: a log that is cut on purpose
    /// later must not be held against it. `syncs` counts that.
    pub(super) fn open(path: &Path, word: Word, commit: u64, syncs: &AtomicU64) -> Result<Witness> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io(format!("open {}", path.display())))?;
        let witness = Witness { file, path: path.to_path_buf() };
        if word != Word::Commit(commit) {
            witness.note(commit)?;
        }
        if matches!(word, Word::End(_)) {
            syncs.fetch_add(1, Ordering::Relaxed);
            witness.file.sync_data().map_err(Error::io(format!("sync {}", path.display())))?;
        }
        Ok(witness)
    }

    /// This commit is durable.
    pub(super) fn note(&self, commit: u64) -> Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&TAG);
        bytes[4..SUMMED].copy_from_slice(&commit.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..SUMMED]);
        bytes[SUMMED..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&bytes, 0).map_err(Error::io(format!("write {}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_the_witness() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.end");
        assert_eq!(read(&path).unwrap(), Word::Nothing);
        let syncs = AtomicU64::new(0);
        Witness::open(&path, Word::Nothing, 300, &syncs).unwrap();
        assert_eq!(syncs.into_inner(), 0);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[..12], [b'e', b'n', b'd', b'2', 0x2c, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[12..], crc32c::crc32c(&bytes[..12]).to_le_bytes());
        assert_eq!(read(&path).unwrap(), Word::Commit(300));
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            assert_eq!(Word::parse(&rotten), Word::Nothing, "byte {at}");
            assert_eq!(Word::parse(&bytes[..at]), Word::Nothing, "{at} bytes");
        }
    }

    #[test]
    fn format_1_is_read_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.end");
        let mut bytes = 7u64.to_le_bytes().to_vec();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let word = read(&path).unwrap();
        assert_eq!(word, Word::End(7));
        assert!(word.check(0, 6).is_err() && word.check(0, 7).is_ok());
        let syncs = AtomicU64::new(0);
        Witness::open(&path, word, 0, &syncs).unwrap();
        assert_eq!(syncs.into_inner(), 1);
        assert_eq!(read(&path).unwrap(), Word::Commit(0));
    }
}
