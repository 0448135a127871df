//! The two things asked of the kernel that have no safe form: a network interface whose packets this process carries,
//! and a file system that stops as if its power were gone.
//!
//! This is the only unsafe code of the crate. Both are ioctls with an argument of fixed size that the kernel copies in
//! before they return; nothing is kept.
#![allow(unsafe_code)]

use std::{fs::File, io, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::ioctl::{Setter, ioctl};

/// `TUNSETIFF`.
const TUN_SET_INTERFACE: u32 = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI`: whole IP packets, nothing before them.
const TUN_PLAIN: u16 = 0x1001;
/// `struct ifreq`.
const INTERFACE_REQUEST_BYTES: usize = 40;
/// `IFNAMSIZ`, the final zero included.
const INTERFACE_NAME_BYTES: usize = 16;
/// `EXT4_IOC_SHUTDOWN`.
const EXT4_SHUTDOWN: u32 = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written.
const NO_LOG_FLUSH: u32 = 2;
/// `O_NONBLOCK`.
const NON_BLOCKING: i32 = 0o4000;

/// Makes a TUN interface in this thread's network namespace. It lives as long as the file; it may be moved to another
/// namespace and stays attached. Reads do not block.
pub fn tun(name: &str) -> io::Result<File> {
    let mut request = [0u8; INTERFACE_REQUEST_BYTES];
    assert!(name.len() < INTERFACE_NAME_BYTES, "{name} is too long for an interface");
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[INTERFACE_NAME_BYTES..INTERFACE_NAME_BYTES + 2].copy_from_slice(&TUN_PLAIN.to_ne_bytes());
    let file =
        File::options().read(true).write(true).custom_flags(NON_BLOCKING).open("/dev/net/tun").map_err(|error| {
            io::Error::new(error.kind(), format!("/dev/net/tun: {error} (is the module tun loaded?)"))
        })?;
    // SAFETY: TUNSETIFF reads a `struct ifreq` of 40 bytes, which `request` is, and writes nothing beyond it.
    unsafe { ioctl(&file, Setter::<TUN_SET_INTERFACE, [u8; INTERFACE_REQUEST_BYTES]>::new(request)) }?;
    Ok(file)
}

/// Stops the ext4 mounted at `mount`, as if the power of its disk were gone: what is not on the disk by now never will be.
pub fn power_off(mount: &Path) -> io::Result<()> {
    let root = File::open(mount)?;
    // SAFETY: EXT4_IOC_SHUTDOWN reads one u32.
    unsafe { ioctl(&root, Setter::<EXT4_SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
    Ok(())
}
