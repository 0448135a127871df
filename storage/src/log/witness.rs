//! A second word on where the log ends, in a file of its own.
//!
//! redb keeps the commit before the last one. When the bytes that name the last one rot, it falls back, as it must after a
//! torn commit, and a log opens that is whole and one commit short: entries that this node acknowledged are gone, and
//! nothing in the file says so. So every commit that changes the log's end is followed by a write of that end here. The
//! write is not synced: it reaches the disk after the commit or not at all, so the witness never names an end that was not
//! durable, and it survives whatever kills only the process. Before the end is lowered, the witness is, durably.
//!
//! It speaks of the end alone: a lost last commit that held only a vote, or entries in place of as many others, it does not
//! notice.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::error::{Error, Result};

/// `end u64 LE ‖ crc32c of it u32 LE`. The end is the last index plus one; 0 for a log that never held an entry.
const BYTES: usize = 12;

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    end: u64,
}

impl Witness {
    /// Opens or makes the file. What does not check says nothing: it is written anew.
    pub(super) fn open(path: &Path) -> Result<Witness> {
        let what = || format!("open {}", path.display());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io(what()))?;
        let mut bytes = [0; BYTES];
        let end = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) if crc32c::crc32c(&bytes[..8]).to_le_bytes() == bytes[8..] => {
                u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default())
            }
            Ok(()) | Err(_) => 0,
        };
        Ok(Witness { file, end })
    }

    /// Last index plus one that this log once held durably, as far as is known.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Before a commit after which the log ends at `end`: lowers the word durably, if it has to be lowered.
    pub(super) fn before(&mut self, end: u64) -> Result<()> {
        if end < self.end {
            self.write(end)?;
            self.file.sync_data().map_err(Error::io("sync the witness of the log"))?;
        }
        Ok(())
    }

    /// After the commit.
    pub(super) fn after(&mut self, end: u64) -> Result<()> {
        if end > self.end { self.write(end) } else { Ok(()) }
    }

    fn write(&mut self, end: u64) -> Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&end.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..8]);
        bytes[8..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&bytes, 0).map_err(Error::io("write the witness of the log"))?;
        self.end = end;
        Ok(())
    }
}
