//! System calls of a running node made to fail, to wait, or to be its last: strace, attached when it is wanted.
//!
//! Attaching takes a few milliseconds and slows every call of the node a little, so a tracer is attached for one fault and
//! goes with it. A call that kills does not take place: the node dies on entering it, so that the N-th and the (N+1)-th
//! point lie before and after one call.
//!
//! strace counts each call **of each thread** for itself; the first thread to reach N decides. A selection by path looks at
//! the files a call names or holds open; those that do not exist yet may be named too, as long as their name is known.

use std::{
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agora_scenario::cluster::Syscall;

/// How long attaching may take on a busy machine.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a tracer may take to let its node go.
const DETACH_TIMEOUT: Duration = Duration::from_secs(5);
/// Paths of one selection, at most.
pub const PATHS_MAX: usize = 512;
const POLL: Duration = Duration::from_millis(1);

/// What happens to the calls that are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The n-th one (from 1) kills the node on entry.
    KillAt(u64),
    /// The n-th one fails with this error and does nothing.
    ErrorAt(u64, &'static str),
    /// All fail with this error and do nothing.
    Error(&'static str),
    /// All wait so long before they begin.
    DelayUs(u64),
}

/// Which calls, and what of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Names of system calls.
    pub calls: Vec<&'static str>,
    /// Calls that are only written down, to know what went before.
    pub seen: Vec<&'static str>,
    /// Only calls on these files; empty is all.
    pub paths: Vec<PathBuf>,
    /// What happens.
    pub effect: Effect,
}

/// The kernel's names of a kind of call.
pub fn calls_of(call: Syscall) -> Vec<&'static str> {
    match call {
        Syscall::Fsync => vec!["fsync", "fdatasync"],
        Syscall::Write => vec!["write", "pwrite64", "writev", "pwritev"],
        Syscall::Rename => vec!["rename", "renameat", "renameat2"],
    }
}

impl Injection {
    /// The arguments of strace, up to where the process would be named. What the calls were goes to `trace`.
    pub fn arguments(&self, trace: &Path) -> Vec<OsString> {
        let calls = self.calls.join(",");
        let traced = [&self.calls[..], &self.seen[..]].concat().join(",");
        let effect = match self.effect {
            Effect::KillAt(n) => format!("signal=KILL:when={n}"),
            Effect::ErrorAt(n, error) => format!("error={error}:when={n}"),
            Effect::Error(error) => format!("error={error}"),
            Effect::DelayUs(us) => format!("delay_enter={us}"),
        };
        let mut arguments: Vec<OsString> =
            ["-f", "-y", "-Y", "-s", "0", "-o"].into_iter().map(OsString::from).collect();
        arguments.push(trace.into());
        for argument in
            ["-e".to_owned(), format!("trace={traced}"), "-e".to_owned(), format!("inject={calls}:{effect}")]
        {
            arguments.push(argument.into());
        }
        for path in &self.paths {
            arguments.push("-P".into());
            arguments.push(path.into());
        }
        arguments
    }

    /// Attaches to a running process and returns when the fault is armed in all of its threads. Files `trace` and
    /// `trace` + `.err` are written.
    ///
    /// # Errors
    /// When strace is missing or not allowed, or the process is gone.
    pub fn attach(&self, pid: u32, trace: &Path) -> Result<Tracer, String> {
        if self.paths.len() > PATHS_MAX {
            return Err(format!("{} paths to watch, at most {PATHS_MAX}", self.paths.len()));
        }
        let errors = trace.with_extension("err");
        let said = fs::File::create(&errors).map_err(|error| format!("{}: {error}", errors.display()))?;
        let child = Command::new("strace")
            .args(self.arguments(trace))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(|error| format!("strace does not start ({error}): install it"))?;
        let mut tracer = Tracer { child, trace: trace.to_path_buf(), injection: self.clone() };
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        loop {
            let mut said = String::new();
            fs::File::open(&errors).and_then(|mut file| file.read_to_string(&mut said)).map_err(|e| e.to_string())?;
            // After its name the number of threads, if it has more than one; the line is written when all are held.
            if said.lines().any(|line| line.contains(&format!("Process {pid} attached"))) {
                return Ok(tracer);
            }
            if let Ok(Some(status)) = tracer.child.try_wait() {
                return Err(format!("strace left with {status}: {}", said.trim()));
            }
            if Instant::now() > deadline {
                return Err(format!("strace did not attach to {pid} within {ATTACH_TIMEOUT:?}: {}", said.trim()));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A strace at work. Dropped, it lets the node go on without the fault.
pub struct Tracer {
    child: Child,
    trace: PathBuf,
    injection: Injection,
}

impl Tracer {
    /// What is injected.
    pub fn injection(&self) -> &Injection {
        &self.injection
    }

    /// Lets the node go; returns the call that decided, if it came to pass.
    pub fn detach(self) -> Option<Hit> {
        self.detach_with_trace().0
    }

    /// The same, with all that was written down.
    pub fn detach_with_trace(mut self) -> (Option<Hit>, String) {
        self.end();
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        let n = match self.injection.effect {
            Effect::KillAt(n) | Effect::ErrorAt(n, _) => n,
            Effect::Error(_) | Effect::DelayUs(_) => 1,
        };
        (nth_call(&trace, &self.injection.calls, n), trace)
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Told to stop, it detaches from all threads; a killed one leaves that to the kernel, which is as good.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + DETACH_TIMEOUT;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The call that a fault hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Name of the thread.
    pub thread: String,
    /// Name of the call.
    pub call: String,
    /// The file it is about, as far as the trace tells.
    pub path: PathBuf,
}

/// The first call that was the n-th of its kind in its thread.
pub fn nth_call(trace: &str, calls: &[&'static str], n: u64) -> Option<Hit> {
    let mut counts: std::collections::BTreeMap<(&str, &str), u64> = std::collections::BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        // `<... write resumed>` is the end of a call whose beginning was counted, `+++` the end of a thread.
        let Some((call, arguments)) = rest.split_once('(') else { continue };
        if !calls.contains(&call) {
            continue;
        }
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        if *count == n {
            let name = thread.split_once('<').map_or(thread, |(_, name)| name.trim_end_matches('>'));
            return Some(Hit { thread: name.to_owned(), call: call.to_owned(), path: path_in(arguments) });
        }
    }
    None
}

/// The first path in a call's arguments: of a descriptor (`17</a/b>`), or in quotes.
fn path_in(arguments: &str) -> PathBuf {
    let quoted = arguments.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map(|(path, _)| path);
    let held = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
    // A directory's descriptor comes before the name in it (`renameat`), and the name says more.
    let is_name = |path: &&str| path.starts_with('/');
    PathBuf::from(quoted.filter(is_name).or(held).or(quoted).unwrap_or_default())
}

/// Whether strace can hold a process of ours, found out on one.
///
/// # Errors
/// With what is missing and how to get it.
pub fn probe() -> Result<(), String> {
    let mut sleeper = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start `sleep` to try strace on: {error}"))?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let injection = Injection {
        calls: calls_of(Syscall::Fsync),
        seen: Vec::new(),
        paths: Vec::new(),
        effect: Effect::Error("EIO"),
    };
    let held = injection.attach(sleeper.id(), &dir.path().join("probe")).map(|tracer| drop(tracer.detach()));
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    held.map_err(|error| {
        format!("strace cannot be used here: {error} (Debian: apt install strace; ptrace must be allowed)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(injection: &Injection) -> String {
        let arguments = injection.arguments(Path::new("/t"));
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_effect_is_said_in_straces_words() {
        let mut injection = Injection {
            calls: calls_of(Syscall::Fsync),
            seen: Vec::new(),
            paths: vec!["/n1/log".into(), "/n1/log.new".into()],
            effect: Effect::KillAt(3),
        };
        assert_eq!(
            words(&injection),
            "-f -y -Y -s 0 -o /t -e trace=fsync,fdatasync -e inject=fsync,fdatasync:signal=KILL:when=3 \
             -P /n1/log -P /n1/log.new"
        );
        injection.seen = vec!["rename"];
        assert!(words(&injection).contains("trace=fsync,fdatasync,rename -e inject=fsync,fdatasync:"));
        for (effect, said) in [
            (Effect::ErrorAt(1, "EIO"), ":error=EIO:when=1"),
            (Effect::Error("ENOSPC"), ":error=ENOSPC"),
            (Effect::DelayUs(20_000), ":delay_enter=20000"),
        ] {
            injection.effect = effect;
            assert!(words(&injection).contains(&format!("inject=fsync,fdatasync{said} -P")), "{said}");
        }
    }

    const TRACE: &str = include_str!("inject_sample.trace");

    #[test]
    fn the_call_that_decided_is_found_by_thread() {
        let nth = |calls: &[&'static str], n| nth_call(TRACE, calls, n);
        let hit = |thread: &str, call: &str, path: &str| {
            Some(Hit { thread: thread.to_owned(), call: call.to_owned(), path: path.into() })
        };
        assert_eq!(nth(&["pwrite64"], 2), hit("agora-log", "pwrite64", "/d/log.redb"));
        assert_eq!(nth(&["fdatasync"], 2), hit("rows-sync", "fdatasync", "/d/rows-1/0.jnl"));
        assert_eq!(nth(&["fdatasync", "pwrite64"], 2), hit("rows-sync", "fdatasync", "/d/rows-1/0.jnl"));
        assert_eq!(nth(&["fdatasync"], 3), None, "a resumed call is not another one");
        assert_eq!(nth(&["rename"], 1), hit("agora-snap-file", "rename", "/d/snapshots/a.new"));
        assert_eq!(nth(&["renameat"], 1), hit("fjall:worker", "renameat", "/d/rows-1"));
        assert_eq!(nth(&["fsync"], 1), None);
    }
}
