//! What this machine must have. Whatever is missing is a failure that says how to get it: an attack that was skipped
//! proves nothing.

use std::{env, path::PathBuf};

use crate::clock;

/// Programs, and the Debian package each comes with.
const PROGRAMS: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("fsfreeze", "util-linux"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("strace", "strace"),
    ("cp", "coreutils"),
];

/// Devices, and what provides each.
const DEVICES: &[(&str, &str)] =
    &[("/dev/net/tun", "the kernel module tun (modprobe tun)"), ("/dev/loop-control", "the kernel module loop")];

/// Looks for all of it.
///
/// # Errors
/// One line per missing thing, with how to get it.
pub fn probe() -> Result<(), Vec<String>> {
    if !is_root() {
        let how = "sudo -E env \"PATH=$PATH\" …";
        return Err(vec![format!("real partitions and power loss need root: run the same command by {how}")]);
    }
    let mut missing = Vec::new();
    for (program, package) in PROGRAMS {
        if find(program).is_none() {
            missing.push(format!("{program} is missing: apt-get install {package}"));
        }
    }
    for (device, from) in DEVICES {
        if !PathBuf::from(device).exists() {
            missing.push(format!("{device} is missing: it comes with {from}"));
        }
    }
    if clock::library().is_none() {
        missing.push("libfaketimeMT.so.1 is missing: apt-get install faketime".to_owned());
    }
    let own = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "true"];
    if missing.is_empty()
        && let Err(error) = crate::shell::run("unshare", own)
    {
        missing.push(format!("namespaces cannot be made here (a container needs --privileged): {error}"));
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program on the path, or where the system's own are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_system_has_is_found_and_what_none_has_is_not() {
        assert!(find("cp").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
