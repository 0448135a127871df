//! The file under redb, with a counter of syncs.
//!
//! redb brings a file backend of its own; this one exists so that `log_fsyncs` counts what really happened, and to say
//! on failure which file it was. Exclusive use is the business of the directory's lock file, see [`crate::disk`].

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A file as redb's storage. `syncs` counts every sync.
#[derive(Debug)]
pub(crate) struct CountedFile {
    pub(crate) file: File,
    pub(crate) syncs: Arc<AtomicU64>,
}

impl redb::StorageBackend for CountedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
