//! A wall clock per node that can be set wrong while the node runs, by `libfaketime`.
//!
//! The monotonic clock is left alone, as that of a machine whose wall clock jumps. Time namespaces cannot do this: they
//! know no wall clock.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Where distributions keep the library, below a folder named after the machine.
const FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];

/// The library, if it is installed: the one made for several threads.
pub fn library() -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1")).find(|file| file.is_file())
}

/// Has a command's clock follow `file`. It is read again once a second.
pub fn follow(command: &mut Command, file: &Path) {
    let Some(library) = library() else { return };
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_CACHE_DURATION", "1")
        // Its shared memory would be left locked by `kill -9`.
        .env("FAKETIME_DISABLE_SHM", "1");
}

/// Sets the clock off by so much. The file is replaced at once, so that it is never read half-written.
///
/// # Errors
/// Those of the file system.
pub fn set(file: &Path, offset_ms: i64) -> io::Result<()> {
    let fresh = file.with_extension("new");
    fs::write(&fresh, words(offset_ms))?;
    fs::rename(fresh, file)
}

fn words(offset_ms: i64) -> String {
    let sign = if offset_ms < 0 { '-' } else { '+' };
    let size = offset_ms.unsigned_abs();
    format!("{sign}{}.{:03}\n", size / 1_000, size % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_seconds_with_a_sign() {
        assert_eq!(words(0), "+0.000\n");
        assert_eq!(words(90_500), "+90.500\n");
        assert_eq!(words(-1), "-0.001\n");
        assert_eq!(words(-3_600_000), "-3600.000\n");
    }
}
