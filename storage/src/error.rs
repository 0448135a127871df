//! Why storage could not do what was asked, in words an operator can act on.
//!
//! Nothing here is retried inside the crate. A caller that gets any of these from `commit` or `write` must stop the
//! node: the state in memory and the state on disk may differ.

use std::io;

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What Linux answers where a medium, or the file system on it, cannot give back what it holds: EIO, ENODATA, EBADMSG, EILSEQ,
/// EUCLEAN, EREMOTEIO.
const UNREADABLE: [i32; 6] = [5, 61, 74, 84, 117, 121];

/// A failure of storage. Messages are lower case and carry the values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that do not check: a wrong checksum, a broken length, trailing bytes, an impossible value.
    #[error("damaged bytes: {0}")]
    Corrupt(String),
    /// Written by a later release than this one.
    #[error(
        "{what} has format {found}, this release reads up to {known}: start the release that wrote it, or a later one"
    )]
    NewerFormat {
        /// What was read.
        what: &'static str,
        /// Format found on disk.
        found: u32,
        /// Newest format this release reads.
        known: u32,
    },
    /// Written by a release so old that this one no longer reads it.
    #[error(
        "{what} has format {found}, this release reads from {oldest} on: start a release in between first, it rewrites the format"
    )]
    TooOld {
        /// What was read.
        what: &'static str,
        /// Format found on disk.
        found: u32,
        /// Oldest format this release reads.
        oldest: u32,
    },
    /// Something is larger than its bound.
    #[error("{what} too large: {bytes} bytes, at most {bytes_max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The bound in bytes.
        bytes_max: u64,
    },
    /// A batch, or entries, out of order. A bug in the caller; nothing was written.
    #[error("out of order: {0}")]
    OutOfOrder(String),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// An engine (redb, fjall) refused for a reason that is neither damage nor I/O.
    #[error("{engine}: {what}")]
    Engine {
        /// `redb` or `fjall`.
        engine: &'static str,
        /// What it said, and what was being done.
        what: String,
    },
    /// Another process, or another part of this one, has the directory open.
    #[error("{what} is in use by another process: stop it first, two processes must never share a data directory")]
    Locked {
        /// The directory or file.
        what: String,
    },
    /// There is nothing here to open.
    #[error("{0}")]
    Missing(String),
    /// The directory belongs to another cluster or node.
    #[error("{0}")]
    Foreign(String),
    /// The log was lost or damaged, so this node must not vote under its id again.
    #[error("{0}")]
    LogLost(String),
    /// The store was closed or has crashed; no more operations are accepted.
    #[error("{0} is closed")]
    Closed(&'static str),
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// Why rows cannot be relied on any more, if this error of reading some of them says so: bytes that are not what was
    /// written, or a place that the disk cannot read. What the system refuses for want of something else (memory, open
    /// files) says nothing about the rows.
    pub fn damage(&self) -> Option<String> {
        match self {
            Error::Corrupt(what) => Some(what.clone()),
            Error::Io { what, source } if source.raw_os_error().is_some_and(|code| UNREADABLE.contains(&code)) => {
                Some(format!("{what}: {source}"))
            }
            _ => None,
        }
    }

    /// Damage, with a message.
    pub fn corrupt(what: impl Into<String>) -> Error {
        Error::Corrupt(what.into())
    }
}
