//! The acts of a scenario upon one node's disk.
//!
//! A node with a file system of its own (an image on a loop device) meets the real thing: the file system is filled, or
//! frozen with a watchdog that thaws it whatever becomes of us. On a plain directory the same shows through its system
//! calls: writes fail with ENOSPC, or wait. One call-level fault at a time: two tracers cannot hold one process.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use agora_scenario::cluster::{DiskFault, Part, Syscall};

use super::inject::{Effect, Injection, Tracer, calls_of};

/// A frozen file system thaws by itself after so long, also when this process is gone.
pub const FREEZE_MAX: Duration = Duration::from_secs(60);
/// A file system larger than this is not a node's own image, and is not filled.
const FILL_BYTES_MAX: u64 = 4 << 30;
/// A call on a hung disk waits so long, or until healed.
const HANG_US: u64 = 600_000_000;
const FILLER: &str = "filler";

/// A node whose disk is to fail.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its process.
    pub pid: u32,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where its file system is mounted, if it has one of its own.
    pub mount: Option<PathBuf>,
    /// Where traces may be written; not on the disk that fails.
    pub scratch: PathBuf,
}

/// A fault in force. Dropped, it is healed as well as can be; [`mend`] says whether that worked.
pub enum Broken {
    /// Its calls are traced.
    Traced(Tracer),
    /// Its file system is full of this file.
    Full(PathBuf),
    /// Its file system is frozen.
    Frozen(Frozen),
}

/// Breaks a disk.
///
/// # Errors
/// When that cannot be done here; nothing is broken then.
pub fn break_disk(target: &Target, fault: DiskFault) -> Result<Broken, String> {
    let traced = |calls: Vec<&'static str>, paths: Vec<PathBuf>, effect| {
        let injection = Injection { calls, seen: Vec::new(), paths, effect };
        injection.attach(target.pid, &target.scratch.join("fault.trace")).map(Broken::Traced)
    };
    let writes = || [calls_of(Syscall::Write), vec!["fallocate", "ftruncate"]].concat();
    match (fault, &target.mount) {
        (DiskFault::FsyncErrorOnce(part), _) => {
            traced(calls_of(Syscall::Fsync), watched(&target.data_dir, part)?, Effect::ErrorAt(1, "EIO"))
        }
        (DiskFault::WriteError(part), _) => traced(writes(), watched(&target.data_dir, part)?, Effect::Error("EIO")),
        (DiskFault::Full, Some(mount)) => fill(mount).map(Broken::Full),
        (DiskFault::Full, None) => traced(writes(), all_watched(&target.data_dir), Effect::Error("ENOSPC")),
        (DiskFault::Hung, Some(mount)) => Frozen::freeze(mount).map(Broken::Frozen),
        (DiskFault::Hung, None) => {
            let calls = [writes(), calls_of(Syscall::Fsync)].concat();
            traced(calls, all_watched(&target.data_dir), Effect::DelayUs(HANG_US))
        }
        (DiskFault::Slow { ms }, _) => {
            traced(calls_of(Syscall::Fsync), Vec::new(), Effect::DelayUs(ms.saturating_mul(1_000)))
        }
    }
}

/// Heals a disk.
///
/// # Errors
/// When it stays broken.
pub fn mend(broken: Broken) -> Result<(), String> {
    match broken {
        Broken::Traced(tracer) => {
            tracer.detach();
            Ok(())
        }
        Broken::Full(filler) => fs::remove_file(&filler).map_err(|error| format!("{}: {error}", filler.display())),
        Broken::Frozen(mut frozen) => frozen.thaw(),
    }
}

/// Arms the call that kills a node: the n-th write, fsync or rename of any file in its directory.
///
/// # Errors
/// When the tracer cannot be attached.
pub fn crash_at(target: &Target, call: Syscall, n: u64) -> Result<Tracer, String> {
    // A write to a socket or to wake a thread is no write to disk. Syncs and renames are only ever of files.
    let paths = if call == Syscall::Write { all_watched(&target.data_dir) } else { Vec::new() };
    let injection = Injection { calls: calls_of(call), seen: Vec::new(), paths, effect: Effect::KillAt(n) };
    injection.attach(target.pid, &target.scratch.join("crash.trace"))
}

/// The files of a part as they are now, and those a node is about to make of it.
///
/// # Errors
/// When the node has no such file.
pub fn watched(data_dir: &Path, part: Part) -> Result<Vec<PathBuf>, String> {
    let mut files = super::corrupt::files_of(data_dir, part)?;
    if files.is_empty() && part != Part::Snapshot {
        return Err(format!("no file of {part:?} in {}", data_dir.display()));
    }
    if part == Part::RowsJournal {
        // Journals rotate: the next ones are known by their numbers.
        let newest = files.iter().filter_map(|path| path.file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
        let dir = files[0].parent().map(Path::to_path_buf).unwrap_or_default();
        files.extend((newest + 1..=newest + 8).map(|number| dir.join(format!("{number}.jnl"))));
    }
    Ok(files)
}

fn all_watched(data_dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = [Part::Log, Part::RowsJournal, Part::RowsTable, Part::Snapshot]
        .into_iter()
        .flat_map(|part| watched(data_dir, part).unwrap_or_default())
        .collect();
    // The oldest tables are the least likely to be written again.
    all.truncate(super::inject::PATHS_MAX);
    all
}

/// Takes all space of a node's own file system.
fn fill(mount: &Path) -> Result<PathBuf, String> {
    let context = |error: std::io::Error| format!("{}: {error}", mount.display());
    own_file_system(mount)?;
    let room = rustix::fs::statvfs(mount).map_err(|error| context(error.into()))?;
    if room.f_blocks * room.f_frsize > FILL_BYTES_MAX {
        return Err(format!(
            "{} is larger than {FILL_BYTES_MAX} bytes: not a node's image, not filled",
            mount.display()
        ));
    }
    let path = mount.join(FILLER);
    let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(context)?;
    let mut chunk = vec![0xa5_u8; 1 << 20];
    // Ever smaller pieces, so that not a block is left.
    while chunk.len() >= 512 {
        match file.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => chunk.truncate(chunk.len() / 2),
            Err(error) => return Err(context(error)),
        }
    }
    Ok(path)
}

fn own_file_system(mount: &Path) -> Result<(), String> {
    let device =
        |path: &Path| fs::metadata(path).map(|file| file.dev()).map_err(|e| format!("{}: {e}", path.display()));
    let (own, above) = (device(mount)?, device(mount.parent().unwrap_or(Path::new("/")))?);
    if own == above || own == device(Path::new("/"))? {
        return Err(format!("{} is not the root of a file system of its own", mount.display()));
    }
    Ok(())
}

/// A frozen file system, and the process that thaws it should we not.
pub struct Frozen {
    mount: PathBuf,
    watchdog: Child,
    thawed: bool,
}

impl Frozen {
    fn freeze(mount: &Path) -> Result<Frozen, String> {
        own_file_system(mount)?;
        // Before the freeze, in a group of its own, so that no end of ours takes it along.
        let watchdog = Command::new("sh")
            .args(["-c", &format!("sleep {}; exec fsfreeze -u \"$0\"", FREEZE_MAX.as_secs())])
            .arg(mount)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("no watchdog, so nothing is frozen: {error}"))?;
        let mut frozen = Frozen { mount: mount.to_path_buf(), watchdog, thawed: true };
        fsfreeze("-f", mount).inspect_err(|_| frozen.dismiss())?;
        frozen.thawed = false;
        Ok(frozen)
    }

    fn thaw(&mut self) -> Result<(), String> {
        if self.thawed {
            return Ok(());
        }
        let thawed = fsfreeze("-u", &self.mount);
        // If the watchdog was first, it is thawed too.
        let by_watchdog = matches!(self.watchdog.try_wait(), Ok(Some(_)));
        if thawed.is_ok() || by_watchdog {
            self.thawed = true;
            self.dismiss();
            return Ok(());
        }
        thawed
    }

    fn dismiss(&mut self) {
        let group = rustix::process::Pid::from_child(&self.watchdog);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.watchdog.wait();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // If this fails the watchdog is left to do it.
        let _ = self.thaw();
    }
}

fn fsfreeze(flag: &str, mount: &Path) -> Result<(), String> {
    let done = Command::new("fsfreeze").arg(flag).arg(mount).output().map_err(|error| format!("fsfreeze: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("fsfreeze {flag} {}: {}", mount.display(), String::from_utf8_lossy(&done.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_shared_with_others_is_neither_filled_nor_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let target = |mount: &Path| Target {
            pid: std::process::id(),
            data_dir: dir.path().to_path_buf(),
            mount: Some(mount.to_path_buf()),
            scratch: dir.path().to_path_buf(),
        };
        for fault in [DiskFault::Full, DiskFault::Hung] {
            for mount in [dir.path(), Path::new("/")] {
                let refused = break_disk(&target(mount), fault).err().expect("it was broken");
                assert!(refused.contains("of its own"), "{refused}");
            }
        }
        assert!(!dir.path().join(FILLER).exists());
    }

    #[test]
    fn journals_to_come_are_watched_too() {
        let dir = tempfile::tempdir().unwrap();
        let rows = dir.path().join("rows-3");
        fs::create_dir(&rows).unwrap();
        assert!(watched(dir.path(), Part::RowsJournal).is_err());
        fs::write(rows.join("7.jnl"), b"").unwrap();
        let paths = watched(dir.path(), Part::RowsJournal).unwrap();
        assert_eq!((paths.len(), &paths[0], &paths[8]), (9, &rows.join("7.jnl"), &rows.join("15.jnl")));
        assert!(watched(dir.path(), Part::Log).is_err());
    }
}
