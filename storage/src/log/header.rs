//! The few bytes of redb's file header that decide whether it repairs, and to which commit it may go back.
//!
//! From redb 4.4, file format 3 (numbers little-endian):
//!
//! ```text
//! 0     magic, 9 bytes
//! 9     flags: 1 the primary commit slot is the second one, 2 not closed, 4 the primary was written in two phases
//! 64    commit slot, 128 bytes: version u8 = 3 ‖ has user root ‖ has system root ‖ … ‖
//!       8 user root: page u64, checksum u128, length u64 ‖ 40 system root, the same ‖ 104 transaction u64 ‖ … ‖ 112 checksum u128
//! 192   the other commit slot
//! ```

use redb::StorageBackend;

use crate::error::{Error, Result};

const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const HEADER_BYTES: usize = 320;
const FLAGS: usize = 9;
const SECOND_IS_PRIMARY: u8 = 1;
const NOT_CLOSED: u8 = 2;
const TWO_PHASES: u8 = 4;
const SLOTS: [usize; 2] = [64, 192];
const SLOT_VERSION: u8 = 3;
const HAS_ROOTS: std::ops::Range<usize> = 1..3;
/// Page and checksum. The length after them is counted anew by a repair.
const USER_ROOT: std::ops::Range<usize> = 8..32;
const USER_CHECKSUM: usize = 16;
const SYSTEM_CHECKSUM: usize = 48;
const TRANSACTION: usize = 104;

/// Changes the header so that redb checks every page when it opens the log, and, where the last commit is known to have been
/// written wholly (the log was closed, or it was committed in two phases), so that it has nothing to go back to.
pub(super) fn make_repair(backend: &impl StorageBackend) -> Result<()> {
    let io = || Error::io("log file");
    let bytes = backend.len().map_err(io())?;
    if bytes < HEADER_BYTES as u64 {
        return Err(Error::corrupt(format!("log: file of {bytes} bytes")));
    }
    let mut header = [0u8; HEADER_BYTES];
    backend.read(0, &mut header).map_err(io())?;
    if !header.starts_with(MAGIC) {
        return Err(Error::corrupt("log: the file is not a redb file"));
    }
    if SLOTS.iter().any(|slot| header[*slot] != SLOT_VERSION) {
        // Another format of redb, or damage: its own checks tell which.
        return Ok(());
    }
    let flags = header[FLAGS];
    let [first, second] = SLOTS;
    let (primary, other) = if flags & SECOND_IS_PRIMARY == 0 { (first, second) } else { (second, first) };
    if flags & NOT_CLOSED == 0 || flags & TWO_PHASES != 0 {
        let transaction = |slot: usize| {
            let at = slot + TRANSACTION;
            u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
        };
        // Opening a log that was not closed, and closing one, commit the user's tables once more as they are, in two
        // phases; one that was killed between them looks like this too, and then both slots say the same.
        if transaction(primary) < transaction(other) && header[primary..][USER_ROOT] != header[other..][USER_ROOT] {
            return Err(Error::corrupt("log: the header names an old commit as the last one"));
        }
        header[other + HAS_ROOTS.start..other + HAS_ROOTS.end].fill(1);
        for at in [USER_CHECKSUM, SYSTEM_CHECKSUM] {
            header[other + at] ^= 0xff;
        }
    }
    header[FLAGS] = (flags | NOT_CLOSED) & !TWO_PHASES;
    backend.write(0, &header).map_err(io())
}
