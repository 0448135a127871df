//! The thread that syncs the journal behind the writer's back, so that fjall's own syncs find nothing left to do.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::journal_cut;

/// The running thread.
pub(super) struct Background {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Background {
    /// `None`, with a warning, where no thread can be started: syncing in the background is for speed alone.
    pub(super) fn start(
        dir: PathBuf,
        pause: Duration,
        commits: Arc<AtomicU64>,
        syncs: Arc<AtomicU64>,
    ) -> Option<Background> {
        let (stop, stopped) = mpsc::channel();
        std::thread::Builder::new()
            .name("rows-sync".into())
            .spawn(move || {
                let mut journal: Option<(u64, File)> = None;
                let mut seen = 0;
                while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let now = commits.load(Ordering::Relaxed);
                    if now == seen {
                        continue;
                    }
                    seen = now;
                    match sync_journal(&dir, &mut journal) {
                        Ok(()) => {
                            syncs.fetch_add(1, Ordering::Relaxed);
                        }
                        // fjall meets the same disk and reports it where it counts.
                        Err(error) => {
                            tracing::warn!(dir = %dir.display(), %error, "background sync of the journal failed");
                        }
                    }
                }
            })
            .inspect_err(|error| tracing::warn!(%error, "no background sync of the journal"))
            .ok()
            .map(|thread| Background { stop, thread })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // A panic there was reported by the panic hook, and nothing depends on the thread.
        self.thread.join().ok();
    }
}

/// Syncs the newest journal. A rotated one was synced by fjall when it was sealed.
pub(super) fn sync_journal(dir: &Path, open: &mut Option<(u64, File)>) -> std::io::Result<()> {
    let newest = match open {
        Some((number, _)) if !dir.join(format!("{}.jnl", *number + 1)).exists() => None,
        _ => journal_cut::journal_files(dir).map_err(std::io::Error::other)?.pop(),
    };
    if let Some((number, path)) = newest {
        *open = Some((number, File::open(path)?));
    }
    match open {
        Some((_, file)) => file.sync_data(),
        None => Ok(()),
    }
}
