//! Where a node's bytes live: the seam at which a simulation takes the place of a directory.
//!
//! ```text
//! <dir>/lock                      held exclusively while the process runs
//! <dir>/log.redb                  the log, see `log`
//! <dir>/log.end                   which commit was its last, see `log::witness`
//! <dir>/rows-<generation>/        one row store each; `log` says which is current
//! <dir>/snapshots/<name>          snapshot streams, see `snapshot`
//! ```
//!
//! Whatever is created, renamed or removed here is followed by an fsync of the directory it is in: a file whose name is
//! not durable is not there after a power cut.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::AtomicU64},
};

use agora_planted::{self as planted, Bug};
use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    file_backend::CountedFile,
    fjall_rows::{Dir, FjallRows},
    log::LogStore,
    rows::{RowOptions, Rows},
};

/// Snapshots kept in a directory, at most; callers remove old ones.
pub const SNAPSHOTS_MAX: usize = 1_000;
/// Longest name of a snapshot, in bytes.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 200;

/// Where a node's bytes live.
pub trait Disk: Send + Sync + 'static {
    /// Opens the log, creating an empty one if there is none.
    fn open_log(&self) -> Result<LogStore>;

    /// Opens a generation of rows and checks that all of it can be accounted for: the journal is cut at its first batch
    /// that does not check; every keyspace must stand at the same index, at `synced_index` or later. Otherwise, and if
    /// the generation is not there at all, it is [`OpenedRows::Lost`].
    fn open_rows(&self, generation: u64, synced_index: u64) -> Result<OpenedRows>;

    /// The same, also of a generation that was found damaged while it was read: rows that can be read are better than none,
    /// when nobody has better ones.
    fn open_damaged_rows(&self, generation: u64, synced_index: u64) -> Result<OpenedRows> {
        self.open_rows(generation, synced_index)
    }

    /// Creates an empty generation, durably. A leftover of the same number is removed first.
    fn create_rows(&self, generation: u64) -> Result<Arc<dyn Rows>>;

    /// Makes everything of a generation durable, files and directories, after it was filled.
    fn finish_rows(&self, generation: u64) -> Result<()>;

    /// Removes a generation. Not an error if it is not there. If it is still in use here (a handle or a view), it goes with
    /// its last user.
    fn remove_rows(&self, generation: u64) -> Result<()>;

    /// The generations that exist, ascending.
    fn list_generations(&self) -> Result<Vec<u64>>;

    /// A new snapshot file, invisible until [`SnapshotFile::finish`]. An existing one of that name is replaced then.
    fn snapshot_create(&self, name: &str) -> Result<Box<dyn SnapshotFile>>;

    /// Opens a finished snapshot for reading.
    fn snapshot_open(&self, name: &str) -> Result<Box<dyn ReadSeekSend>>;

    /// The finished snapshots, by name.
    fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>>;

    /// Removes a snapshot. Not an error if it is not there.
    fn snapshot_remove(&self, name: &str) -> Result<()>;

    /// Bytes in use, and how many are left.
    fn usage(&self) -> DiskUsage;
}

/// What became of opening a generation.
pub enum OpenedRows {
    /// All of it is accounted for.
    Ready(Arc<dyn Rows>),
    /// It cannot be used, and must be rebuilt; the reason says what was found.
    Lost {
        /// What was found.
        reason: String,
    },
}

/// A snapshot being written or received. Dropped without [`SnapshotFile::finish`], it leaves nothing behind.
pub trait SnapshotFile: Write + Seek + Send {
    /// Makes it durable and gives it its name.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What a snapshot is read from.
pub trait ReadSeekSend: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeekSend for T {}

/// A finished snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Bytes in use, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskUsage {
    /// Size of the log file, bytes.
    pub log_bytes: u64,
    /// Size of all row generations, bytes.
    pub rows_bytes: u64,
    /// Size of all snapshots, bytes.
    pub snapshot_bytes: u64,
}

/// A snapshot's name is a file name: letters, digits, `-`, `_`, `.`, not starting with a dot.
pub(crate) fn check_snapshot_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty()
        || name.len() > SNAPSHOT_NAME_BYTES_MAX
        || name.starts_with('.')
        || name.ends_with(TEMPORARY)
        || !name.bytes().all(allowed)
    {
        return Err(Error::Missing(format!(
            "no snapshot can be called {name:?}: 1 to {SNAPSHOT_NAME_BYTES_MAX} letters, digits, '-', '_' and '.' are allowed, not beginning with '.' and not ending in '{TEMPORARY}'"
        )));
    }
    Ok(())
}

const TEMPORARY: &str = ".new";
const LOG_FILE: &str = "log.redb";
const WITNESS_FILE: &str = "log.end";

/// A directory. Holds the directory's lock file exclusively as long as it lives.
pub struct FileDisk {
    dir: PathBuf,
    options: RowOptions,
    /// Generations in use by this process: they are removed with their last reader.
    in_use: Mutex<BTreeMap<u64, Weak<Dir>>>,
    _lock: File,
}

/// Makes directories that nobody else may look into.
fn private_dir() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

impl FileDisk {
    /// Takes possession of a directory, creating it if need be. [`Error::Locked`] if another process has it.
    pub fn new(dir: impl Into<PathBuf>, options: RowOptions) -> Result<FileDisk> {
        let dir = dir.into();
        let snapshots = dir.join("snapshots");
        let is_new = !snapshots.exists();
        // Orders and balances: for the service alone.
        private_dir().create(&snapshots).map_err(Error::io(format!("create {}", snapshots.display())))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io(format!("open {}", path.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Locked { what: format!("data directory {}", dir.display()) });
            }
            Err(fs::TryLockError::Error(source)) => {
                return Err(Error::Io { what: format!("lock {}", path.display()), source });
            }
        }
        if is_new {
            sync_dir(&dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
        }
        Ok(FileDisk { dir, options, in_use: Mutex::new(BTreeMap::new()), _lock: lock })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn rows_dir(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("rows-{generation}"))
    }

    fn used(&self, generation: u64, rows: FjallRows) -> Arc<dyn Rows> {
        let mut in_use = self.in_use.lock();
        in_use.retain(|_, user| user.strong_count() > 0);
        in_use.insert(generation, Arc::downgrade(rows.dir()));
        Arc::new(rows)
    }

    fn user(&self, generation: u64) -> Option<Arc<Dir>> {
        self.in_use.lock().get(&generation)?.upgrade()
    }

    fn snapshot_path(&self, name: &str) -> Result<PathBuf> {
        check_snapshot_name(name)?;
        Ok(self.dir.join("snapshots").join(name))
    }

    /// Says so if there must have been a log here, before an empty one takes its place.
    fn check_never_used(&self, path: &Path) -> Result<()> {
        let mut found = Vec::new();
        if LogStore::is_witnessed(&self.dir.join(WITNESS_FILE))? {
            found.push(format!("{WITNESS_FILE} says that it held something"));
        }
        match self.list_generations()?.len() {
            0 => {}
            generations => found.push(format!("{generations} row generations are there")),
        }
        match self.snapshot_list()?.len() {
            0 => {}
            snapshots => found.push(format!("{snapshots} snapshots are there")),
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::LogLost(format!(
            "the log {} is missing, but {}: this node may have promised what it no longer knows, so it must not come back under its id; put the file back if it was moved by mistake, or else remove the node from the cluster, move {} aside, and add it again with a new id",
            path.display(),
            found.join(", and "),
            self.dir.display()
        )))
    }

    fn open_log_file(&self, path: &Path) -> Result<LogStore> {
        let syncs = Arc::new(AtomicU64::new(0));
        let backend = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(Error::io(format!("open {}", path.display())))?;
            Ok(CountedFile { file, syncs: syncs.clone() })
        };
        let opened = LogStore::open(backend, syncs.clone(), Some(&self.dir.join(WITNESS_FILE)));
        opened.map_err(|error| match error {
            Error::Corrupt(what) => Error::LogLost(format!(
                "the log {} is damaged: {what}; this node may have promised what it no longer knows, so it must not come back under its id: remove the node from the cluster, move {} aside, and add it again with a new id",
                path.display(),
                self.dir.display()
            )),
            other => other,
        })
    }
}

impl Disk for FileDisk {
    fn open_log(&self) -> Result<LogStore> {
        let path = self.dir.join(LOG_FILE);
        if !path.exists() {
            self.check_never_used(&path)?;
            // Made under another name first, so that a crash in between does not leave half a log behind.
            let new = self.dir.join(format!("{LOG_FILE}{TEMPORARY}"));
            remove_file(&new)?;
            drop(self.open_log_file(&new)?);
            fs::rename(&new, &path).map_err(Error::io(format!("rename {}", new.display())))?;
            sync_dir(&self.dir)?;
        }
        self.open_log_file(&path)
    }

    fn open_rows(&self, generation: u64, synced_index: u64) -> Result<OpenedRows> {
        let opened = FjallRows::open(&self.rows_dir(generation), &self.options, synced_index)?;
        Ok(match opened {
            Ok(rows) => OpenedRows::Ready(self.used(generation, rows)),
            Err(reason) => OpenedRows::Lost { reason },
        })
    }

    fn open_damaged_rows(&self, generation: u64, synced_index: u64) -> Result<OpenedRows> {
        let opened = FjallRows::open_as_it_is(&self.rows_dir(generation), &self.options, synced_index)?;
        Ok(match opened {
            Ok(rows) => OpenedRows::Ready(self.used(generation, rows)),
            Err(reason) => OpenedRows::Lost { reason },
        })
    }

    fn create_rows(&self, generation: u64) -> Result<Arc<dyn Rows>> {
        if self.user(generation).is_some() {
            return Err(Error::Locked { what: format!("row generation {generation}") });
        }
        self.remove_rows(generation)?;
        let rows = FjallRows::create(&self.rows_dir(generation), &self.options)?;
        sync_dir(&self.dir)?;
        Ok(self.used(generation, rows))
    }

    fn finish_rows(&self, generation: u64) -> Result<()> {
        if planted::is(Bug::InstallNotFsynced) {
            return Ok(());
        }
        sync_tree(&self.rows_dir(generation))?;
        sync_dir(&self.dir)
    }

    fn remove_rows(&self, generation: u64) -> Result<()> {
        if let Some(user) = self.user(generation) {
            user.remove_with_last_reader();
            return Ok(());
        }
        let dir = self.rows_dir(generation);
        match fs::remove_dir_all(&dir) {
            Ok(()) => sync_dir(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Io { what: format!("remove {}", dir.display()), source }),
        }
    }

    fn list_generations(&self) -> Result<Vec<u64>> {
        let mut generations: Vec<u64> =
            file_names(&self.dir)?.iter().filter_map(|name| name.strip_prefix("rows-")?.parse().ok()).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    fn snapshot_create(&self, name: &str) -> Result<Box<dyn SnapshotFile>> {
        let path = self.snapshot_path(name)?;
        let new = self.dir.join("snapshots").join(format!("{name}{TEMPORARY}"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&new)
            .map_err(Error::io(format!("create {}", new.display())))?;
        Ok(Box::new(NewSnapshot { file, new: Some(new), path }))
    }

    fn snapshot_open(&self, name: &str) -> Result<Box<dyn ReadSeekSend>> {
        let path = self.snapshot_path(name)?;
        match File::open(&path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::Missing(format!("no snapshot is called {name:?}")))
            }
            Err(source) => Err(Error::Io { what: format!("open {}", path.display()), source }),
        }
    }

    fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        let dir = self.dir.join("snapshots");
        let mut names = file_names(&dir)?;
        names.retain(|name| check_snapshot_name(name).is_ok());
        names.sort();
        names
            .into_iter()
            .map(|name| {
                let path = dir.join(&name);
                let bytes = fs::metadata(&path).map_err(Error::io(format!("look at {}", path.display())))?.len();
                Ok(SnapshotInfo { name, bytes })
            })
            .collect()
    }

    fn snapshot_remove(&self, name: &str) -> Result<()> {
        remove_file(&self.snapshot_path(name)?)?;
        sync_dir(&self.dir.join("snapshots"))
    }

    fn usage(&self) -> DiskUsage {
        let generations = self.list_generations().unwrap_or_default();
        DiskUsage {
            log_bytes: fs::metadata(self.dir.join(LOG_FILE)).map_or(0, |file| file.len()),
            rows_bytes: generations.into_iter().map(|generation| tree_bytes(&self.rows_dir(generation))).sum(),
            snapshot_bytes: tree_bytes(&self.dir.join("snapshots")),
        }
    }
}

/// A snapshot file under its temporary name.
struct NewSnapshot {
    file: File,
    new: Option<PathBuf>,
    path: PathBuf,
}

impl Write for NewSnapshot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for NewSnapshot {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl SnapshotFile for NewSnapshot {
    fn finish(mut self: Box<Self>) -> Result<()> {
        let Some(new) = self.new.take() else {
            return Ok(());
        };
        self.file.sync_all().map_err(Error::io(format!("sync {}", new.display())))?;
        fs::rename(&new, &self.path).map_err(Error::io(format!("rename {}", new.display())))?;
        self.path.parent().map_or(Ok(()), sync_dir)
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        if let Some(new) = self.new.take()
            && let Err(error) = fs::remove_file(&new)
        {
            tracing::warn!(path = %new.display(), %error, "unfinished snapshot not removed");
        }
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(format!("sync directory {}", dir.display())))
}

/// Makes all files and directories below a directory durable, and itself.
fn sync_tree(dir: &Path) -> Result<()> {
    let context = || format!("sync {}", dir.display());
    for item in fs::read_dir(dir).map_err(Error::io(context()))? {
        let item = item.map_err(Error::io(context()))?;
        let kind = item.file_type().map_err(Error::io(context()))?;
        if kind.is_dir() {
            sync_tree(&item.path())?;
        } else {
            match File::open(item.path()).and_then(|file| file.sync_all()) {
                Ok(()) => {}
                // The store may be open and have compacted the file away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(Error::Io { what: format!("sync {}", item.path().display()), source });
                }
            }
        }
    }
    sync_dir(dir)
}

/// Size of all files below a directory; files that vanish meanwhile do not count.
fn tree_bytes(dir: &Path) -> u64 {
    let Ok(items) = fs::read_dir(dir) else {
        return 0;
    };
    items
        .flatten()
        .map(|item| match item.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_bytes(&item.path()),
            // What is allocated: journals are mostly holes.
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn file_names(dir: &Path) -> Result<Vec<String>> {
    let context = || format!("list {}", dir.display());
    fs::read_dir(dir)
        .map_err(Error::io(context()))?
        .map(|item| {
            let item = item.map_err(Error::io(context()))?;
            Ok(item.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { what: format!("remove {}", path.display()), source }),
    }
}
