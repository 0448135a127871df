//! Ways in which a disk in memory fails while its process lives, and ways in which what it holds is spoiled.

use std::io;

use parking_lot::Mutex;

use crate::error::Error;

/// A disk that answers with errors. The kinds add up until [`crate::MemDisk::mend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemFault {
    /// The next fsync of the log fails, and nothing of what was waiting for it is known to be kept.
    LogSyncOnce,
    /// The next sync of the rows fails.
    RowsSyncOnce,
    /// Writes of the log fail.
    LogWrites,
    /// Commits of rows fail.
    RowWrites,
    /// No file grows: the log, rows and snapshots.
    Full,
}

/// Calls that can be counted for [`crate::MemDisk::crash_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemCall {
    /// An fsync of log or rows.
    Fsync,
    /// A write of the log, or a commit of rows.
    Write,
    /// A snapshot file getting its name.
    Rename,
}

/// How stored bytes are spoiled; places are in parts of a million of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// One bit is another.
    FlipBit {
        /// Where.
        at: u32,
        /// Which of the byte's eight.
        bit: u8,
    },
    /// 4 KiB are zero.
    ZeroSector {
        /// Where.
        at: u32,
    },
    /// What follows is gone.
    Truncate {
        /// Where.
        at: u32,
    },
}

/// Why a row cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRow {
    /// Its bytes are not what was written.
    Rotten,
    /// The disk answers with an error.
    Unreadable,
}

impl BrokenRow {
    /// What a read of it answers.
    pub(crate) fn error(self) -> Error {
        match self {
            BrokenRow::Rotten => Error::corrupt("a row in memory: checksum does not match"),
            // EIO
            BrokenRow::Unreadable => Error::io("read rows in memory")(io::Error::from_raw_os_error(5)),
        }
    }
}

const ZEROED_BYTES: usize = 4_096;
const MILLION: u64 = 1_000_000;

impl Spoil {
    /// Does it; true if the bytes are others than before.
    pub(crate) fn apply(self, data: &mut Vec<u8>) -> bool {
        let place = |at: u32| (data.len() as u64 * u64::from(at) / MILLION) as usize;
        match self {
            Spoil::FlipBit { at, bit } => {
                let at = place(at);
                let Some(byte) = data.get_mut(at) else { return false };
                *byte ^= 1 << (bit % 8);
                true
            }
            Spoil::ZeroSector { at } => {
                let from = place(at) / ZEROED_BYTES * ZEROED_BYTES;
                let to = (from + ZEROED_BYTES).min(data.len());
                let part = &mut data[from..to];
                let changed = part.iter().any(|byte| *byte != 0);
                part.fill(0);
                changed
            }
            Spoil::Truncate { at } => {
                let at = place(at);
                let changed = at < data.len();
                data.truncate(at);
                changed
            }
        }
    }
}

/// The faults of one disk.
#[derive(Default)]
pub(crate) struct Faults {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Vec<MemFault>,
    countdown: Option<Countdown>,
    /// The countdown ended: nothing works.
    tripped: bool,
}

struct Countdown {
    call: MemCall,
    left: u64,
    tripped: Box<dyn Fn() + Send + Sync>,
}

impl Faults {
    pub(crate) fn add(&self, fault: MemFault) {
        self.state.lock().faults.push(fault);
    }

    pub(crate) fn mend(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.countdown = None;
    }

    pub(crate) fn crash_at(&self, call: MemCall, n: u64, tripped: Box<dyn Fn() + Send + Sync>) {
        self.state.lock().countdown = Some(Countdown { call, left: n.max(1), tripped });
    }

    /// The process is gone, and with it what was counted for it.
    pub(crate) fn reset_calls(&self) {
        let mut state = self.state.lock();
        state.countdown = None;
        state.tripped = false;
    }

    /// Counts a call.
    pub(crate) fn call(&self, call: MemCall) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.tripped {
            return Err(gone());
        }
        let Some(countdown) = state.countdown.as_mut().filter(|countdown| countdown.call == call) else {
            return Ok(());
        };
        countdown.left -= 1;
        if countdown.left > 0 {
            return Ok(());
        }
        (countdown.tripped)();
        state.tripped = true;
        Err(gone())
    }

    pub(crate) fn log_write(&self) -> io::Result<()> {
        self.call(MemCall::Write)?;
        self.unless(MemFault::LogWrites, "write error")
    }

    pub(crate) fn log_sync(&self) -> io::Result<()> {
        self.call(MemCall::Fsync)?;
        self.once(MemFault::LogSyncOnce)
    }

    pub(crate) fn row_write(&self) -> io::Result<()> {
        self.call(MemCall::Write)?;
        self.unless(MemFault::RowWrites, "write error")?;
        self.grow()
    }

    pub(crate) fn rows_sync(&self) -> io::Result<()> {
        self.call(MemCall::Fsync)?;
        self.once(MemFault::RowsSyncOnce)
    }

    /// Asks for room.
    pub(crate) fn grow(&self) -> io::Result<()> {
        if self.state.lock().faults.contains(&MemFault::Full) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk in memory"));
        }
        Ok(())
    }

    fn unless(&self, fault: MemFault, what: &'static str) -> io::Result<()> {
        if self.state.lock().faults.contains(&fault) {
            return Err(io::Error::other(what));
        }
        Ok(())
    }

    fn once(&self, fault: MemFault) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(at) = state.faults.iter().position(|other| *other == fault) else { return Ok(()) };
        state.faults.remove(at);
        Err(io::Error::other("fsync failed"))
    }
}

fn gone() -> io::Error {
    io::Error::other("the process that had this disk in memory is gone")
}
