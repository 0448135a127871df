//! A disk that can lose its power: an ext4 in a file, on a loop device.
//!
//! What a power loss here takes is what was never handed to the disk: pages of files and of the file system that are only in
//! memory, the journal's open transaction included. What the file system has sent to its disk stays, flushed or
//! not, so a disk that lies about its cache is not emulated. Mounted again, ext4 recovers from its journal as after
//! a real loss of power.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::mount::{UnmountFlags, unmount};

use crate::{kernel, shell};

/// Seconds between commits of ext4's journal that nobody asked for: more than its usual 5, so that what a node forgets
/// to sync stays unsynced until the power goes.
const COMMIT_S: u32 = 60;
/// How long a disk that nobody should use any more may stay in use.
const UNMOUNT_MAX: Duration = Duration::from_secs(10);

/// One disk.
#[derive(Clone, Debug)]
pub struct Volume {
    image: PathBuf,
    mount: PathBuf,
}

impl Volume {
    /// Makes the image, which takes no space until it is written to, and mounts it.
    ///
    /// # Errors
    /// What the system's tools said.
    pub fn create(image: &Path, mount: &Path, bytes: u64) -> Result<Volume, String> {
        let told = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
        File::create(image).and_then(|file| file.set_len(bytes)).map_err(|error| told(image, error))?;
        fs::create_dir_all(mount).map_err(|error| told(mount, error))?;
        let how = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"].map(Into::into);
        shell::run("mkfs.ext4", how.into_iter().chain([image.as_os_str().to_owned()]))?;
        let volume = Volume { image: image.to_owned(), mount: mount.to_owned() };
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.mount
    }

    /// The file that holds it.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Mounts it; ext4 recovers what its journal holds. `loop` makes a device that goes when it is unmounted.
    ///
    /// # Errors
    /// What `mount` said.
    pub fn mount(&self) -> Result<(), String> {
        let options = format!("loop,noatime,commit={COMMIT_S}");
        let args = ["-t".as_ref(), "ext4".as_ref(), "-o".as_ref(), options.as_ref()];
        let places = [self.image.as_os_str(), self.mount.as_os_str()];
        shell::run("mount", args.into_iter().chain(places)).map(drop)
    }

    /// Unmounts it, when the last process that used it has gone.
    ///
    /// # Errors
    /// It stays in use.
    pub fn unmount(&self) -> Result<(), String> {
        let until = Instant::now() + UNMOUNT_MAX;
        loop {
            match unmount(&self.mount, UnmountFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::BUSY) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(format!("unmount {}: {error}", self.mount.display())),
            }
        }
    }

    /// The power goes: from now on nothing reaches the disk.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn power_off(&self) -> Result<(), String> {
        kernel::power_off(&self.mount).map_err(|error| format!("power loss of {}: {error}", self.mount.display()))
    }

    /// The power is back: what is in memory is forgotten, and the file system recovers. Nobody may use it any more.
    ///
    /// # Errors
    /// It stays in use, or does not recover.
    pub fn power_on(&self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }
}
