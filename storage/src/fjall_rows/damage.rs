//! Rows that turn out to be damaged while they are read: noted once, durably, so that the next start gives them up.
//!
//! Opening looks at what it can afford to look at; a block deep in a table is only checked when somebody reads it. Rows are
//! disposable, so a node that meets such a block stops, and when it is started again it makes its rows anew from its log
//! or a peer, like any others that cannot be accounted for.
//!
//! A block may also be met by fjall's own work in the background. That ends the store for this life, and fjall tells no more
//! than that it did: the reason may be rot, or a full disk. Opening such rows again would meet the same block again, for ever;
//! so that is noted too, and the next start reads all rows once before it trusts them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{disk::sync_dir, error::Error};

/// The file in a generation's directory that says so; its text is the reason.
const MARK: &str = "damaged";
/// The file that says that the store stopped by itself for a reason it did not tell.
const SUSPECT: &str = "suspect";
/// Longest reason that is read back, in bytes.
const REASON_BYTES_MAX: usize = 2_000;

/// What is known of the damage of one generation.
pub(super) struct Damage {
    dir: PathBuf,
    reason: OnceLock<String>,
    /// It is known already and there is nothing better than these rows: what can be read of them is read.
    tolerated: bool,
}

impl Damage {
    pub(super) fn new(dir: &Path, tolerated: bool) -> Damage {
        Damage { dir: dir.to_path_buf(), reason: OnceLock::new(), tolerated }
    }

    /// Passes an error of reading on, and notes it if it means that bytes are not what was written or cannot be read.
    pub(super) fn note(&self, error: Error) -> Error {
        if let Some(what) = error.damage()
            && !self.tolerated
            && self.reason.set(what.clone()).is_ok()
        {
            tracing::error!(dir = %self.dir.display(), what, "rows are damaged: they are given up at the next start");
            if let Err(error) = self.write(&what) {
                // Whoever reads the block again meets it again.
                tracing::warn!(%error, "the damage of the rows could not be written down");
            }
        }
        error
    }

    /// Notes that the store has stopped by itself.
    pub(super) fn suspect(&self) {
        let path = self.dir.join(SUSPECT);
        if self.tolerated || path.exists() {
            return;
        }
        tracing::error!(dir = %self.dir.display(), "the store of the rows has stopped: the next start reads all of them");
        if let Err(error) = fs::write(&path, "").and_then(|()| sync_dir(&self.dir).map_err(std::io::Error::other)) {
            tracing::warn!(%error, "that the rows are suspect could not be written down");
        }
    }

    /// What was met first.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }

    fn write(&self, what: &str) -> std::io::Result<()> {
        let path = self.dir.join(MARK);
        fs::write(&path, what)?;
        fs::File::open(&path)?.sync_all()?;
        sync_dir(&self.dir).map_err(std::io::Error::other)
    }
}

/// What an earlier life met in this directory.
pub(super) fn met_before(dir: &Path) -> Option<String> {
    let bytes = fs::read(dir.join(MARK)).ok()?;
    Some(String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES_MAX)]).into_owned())
}

/// Whether the store stopped by itself in an earlier life and was not looked through since.
pub(super) fn is_suspect(dir: &Path) -> bool {
    dir.join(SUSPECT).exists()
}

/// The store was looked through, and is whole.
pub(super) fn is_whole(dir: &Path) -> std::io::Result<()> {
    fs::remove_file(dir.join(SUSPECT))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_place_that_cannot_be_read_is_damage_and_a_want_of_open_files_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let read = |code| Error::Io { what: "rows".into(), source: io::Error::from_raw_os_error(code) };
        let damage = Damage::new(dir.path(), false);
        // EMFILE, ENOMEM, EACCES: the next read may do better, and the next start.
        for code in [24, 12, 13] {
            damage.note(read(code));
        }
        assert_eq!((damage.reason(), met_before(dir.path())), (None, None));
        damage.note(read(5));
        let reason = damage.reason().unwrap();
        assert!(reason.contains("os error 5"), "{reason}");
        assert_eq!(met_before(dir.path()), Some(reason));
        // Where it is known already there is nothing to note.
        let tolerated = Damage::new(dir.path(), true);
        tolerated.note(read(5));
        assert_eq!(tolerated.reason(), None);
    }
}
