//! Nothing outlives an attack: the program runs itself again as the first process of namespaces of its own.
//!
//! Its mounts, its network, its processes exist in these namespaces only. When the first process goes, however it goes,
//! the kernel kills the others, and with the last of them the namespaces, the mounts and the loop devices (which are
//! mounted with autoclear) are gone. `unshare`, which takes this process's place outside, kills the first process when
//! it is itself killed.

use std::{
    convert::Infallible,
    env, fmt,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, id},
};

use crate::{probe, shell};

/// Set for the program inside, to the process id it had outside.
const MARK: &str = "AGORA_ATTACK_INSIDE";

/// Proof that this process is the first of namespaces of its own, with private `/run` and `/dev/shm`.
#[derive(Clone, Copy, Debug)]
pub struct Inside(());

/// Why not.
#[derive(Debug)]
pub struct NotInside(Vec<String>);

impl fmt::Display for NotInside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for NotInside {}

/// Goes inside: looks for what is needed, then replaces this process by `unshare` running it again with the same
/// arguments, environment and directory, and so does not return; the process inside gets the proof. Call it
/// before anything was begun. The exit code of the process inside becomes that of this one.
///
/// # Errors
/// What is missing, line by line.
pub fn enter() -> Result<Inside, NotInside> {
    // First of its processes: the mark alone could be inherited from anywhere.
    if env::var_os(MARK).is_some() && id() == 1 {
        return settle().map_err(|error| NotInside(vec![error]));
    }
    probe::probe().map_err(NotInside)?;
    match replace() {
        Ok(never) => match never {},
        Err(error) => Err(NotInside(vec![error])),
    }
}

fn replace() -> Result<Infallible, String> {
    let own = env::current_exe().map_err(|error| format!("the path of this program: {error}"))?;
    let error = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(own)
        .args(env::args_os().skip(1))
        .env(MARK, id().to_string())
        .exec();
    Err(format!("unshare: {error}"))
}

fn settle() -> Result<Inside, String> {
    shell::words("mount --make-rprivate /")?;
    // Names of network namespaces are files in /run.
    for place in ["/run", "/dev/shm"] {
        if Path::new(place).is_dir() {
            shell::run("mount", ["-t", "tmpfs", "tmpfs", place])?;
        }
    }
    std::fs::create_dir_all("/run/netns").map_err(|error| format!("/run/netns: {error}"))?;
    shell::words("ip link set lo up")?;
    Ok(Inside(()))
}
