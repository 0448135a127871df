//! What redb stores the log in: a file with a counter of syncs, and a look at it that changes nothing.
//!
//! redb brings a file backend of its own; this one exists so that `log_fsyncs` counts what really happened, and to say
//! on failure which file it was. Exclusive use is the business of the directory's lock file, see [`crate::disk`].

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agora_planted::{self as planted, Bug};
use parking_lot::Mutex;
use redb::StorageBackend;

/// A file as redb's storage. `syncs` counts every sync.
#[derive(Debug)]
pub(crate) struct CountedFile {
    pub(crate) file: File,
    pub(crate) syncs: Arc<AtomicU64>,
}

impl StorageBackend for CountedFile {
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
        if planted::is(Bug::LogWithoutFsync) {
            return Ok(());
        }
        match self.file.sync_data() {
            Err(_) if planted::is(Bug::FsyncErrorIgnored) => Ok(()),
            synced => synced,
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// Bytes kept together in an [`Overlay`].
const PAGE_BYTES: u64 = 4096;

/// A backend seen through a sheet of glass: what is written stays on the glass and is gone with it. Opening a log writes to it,
/// and repairing one does so more; a log must be looked at before anything of it is changed.
#[derive(Debug)]
pub(crate) struct Overlay<B> {
    below: B,
    glass: Mutex<Glass>,
}

#[derive(Debug)]
struct Glass {
    bytes: u64,
    /// What lies below this length may still be read through.
    below_bytes: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl<B: StorageBackend> Overlay<B> {
    pub(crate) fn new(below: B) -> io::Result<Overlay<B>> {
        let bytes = below.len()?;
        let glass = Glass { bytes, below_bytes: bytes, pages: BTreeMap::new() };
        Ok(Overlay { below, glass: Mutex::new(glass) })
    }
}

impl Glass {
    fn page(&self, below: &impl StorageBackend, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = self.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE_BYTES as usize];
        let from = number * PAGE_BYTES;
        if from < self.below_bytes {
            let held = (self.below_bytes - from).min(PAGE_BYTES) as usize;
            below.read(from, &mut page[..held])?;
        }
        Ok(page)
    }

    /// The parts of a range by page: page number, place in the page, place in the range.
    fn parts(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let end = offset + bytes as u64;
        (offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).map(move |number| {
            let page = number * PAGE_BYTES;
            let (from, to) = (offset.max(page), end.min(page + PAGE_BYTES));
            let place = |at: u64, base: u64| (at - base) as usize;
            (number, place(from, page)..place(to, page), place(from, offset)..place(to, offset))
        })
    }

    fn check(&self, offset: u64, bytes: usize) -> io::Result<()> {
        if offset + bytes as u64 > self.bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{bytes} bytes at offset {offset} are beyond the end at {}", self.bytes),
            ));
        }
        Ok(())
    }
}

impl<B: StorageBackend> StorageBackend for Overlay<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.glass.lock().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let glass = self.glass.lock();
        glass.check(offset, out.len())?;
        let end = offset + out.len() as u64;
        let touched = glass.pages.range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).next().is_some();
        if !touched && end <= glass.below_bytes {
            return self.below.read(offset, out);
        }
        for (number, in_page, in_out) in Glass::parts(offset, out.len()) {
            out[in_out].copy_from_slice(&glass.page(&self.below, number)?[in_page]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut glass = self.glass.lock();
        if len < glass.bytes {
            // What is cut off must read as zeroes if the length grows again.
            let kept = len % PAGE_BYTES;
            if kept > 0 {
                let number = len / PAGE_BYTES;
                let mut page = glass.page(&self.below, number)?;
                page[kept as usize..].fill(0);
                glass.pages.insert(number, page);
            }
            glass.pages.split_off(&len.div_ceil(PAGE_BYTES));
            glass.below_bytes = glass.below_bytes.min(len);
        }
        glass.bytes = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut glass = self.glass.lock();
        glass.check(offset, bytes.len())?;
        for (number, in_page, in_bytes) in Glass::parts(offset, bytes.len()) {
            let mut page = glass.page(&self.below, number)?;
            page[in_page].copy_from_slice(&bytes[in_bytes]);
            glass.pages.insert(number, page);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn sample() -> (InMemoryBackend, Vec<u8>) {
        let below = InMemoryBackend::new();
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8 + 1).collect();
        below.set_len(bytes.len() as u64).unwrap();
        below.write(0, &bytes).unwrap();
        (below, bytes)
    }

    fn read_all(backend: &impl StorageBackend) -> Vec<u8> {
        let mut all = vec![0; backend.len().unwrap() as usize];
        backend.read(0, &mut all).unwrap();
        all
    }

    #[test]
    fn what_is_written_is_read_and_shows_nowhere_below() {
        let (below, mut expected) = sample();
        let overlay = Overlay::new(below).unwrap();
        assert_eq!(read_all(&overlay), expected);
        overlay.write(4090, &[0xee; 20]).unwrap();
        expected[4090..4110].fill(0xee);
        assert_eq!(read_all(&overlay), expected);
        overlay.set_len(4100).unwrap();
        overlay.set_len(12_000).unwrap();
        expected.truncate(4100);
        expected.resize(12_000, 0);
        assert_eq!(read_all(&overlay), expected);
        assert!(overlay.write(11_990, &[1; 20]).is_err());
        assert!(overlay.read(12_000, &mut [0]).is_err());
        assert_eq!(read_all(&overlay.below), sample().1);
    }
}
