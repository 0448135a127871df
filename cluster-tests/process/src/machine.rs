//! One node with its machine: a process, a disk, a clock, a configuration.
//!
//! All here blocks. A machine's lock is held for as long as one act takes, never while waiting for a node's goodwill.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use agora_history::NodeId;
use agora_scenario::cluster::{Damage, DiskFault, Part, Syscall};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    clock,
    config::{self, Overrides},
    disk::{
        corrupt,
        faults::{self, Broken, Target},
        inject::Tracer,
    },
    net::Network,
    volume::Volume,
};

/// How long a node may take to leave after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(45);
/// Lines of a node's log that are shown when a run fails.
const TAIL_LINES: usize = 20;

/// What is run as a node: a program and the words before `start --config …`.
#[derive(Clone, Debug)]
pub struct NodeProgram {
    pub exe: PathBuf,
    pub prefix: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

impl NodeProgram {
    /// This program itself, as `node start …`.
    ///
    /// # Errors
    /// Its path is not known.
    pub fn own() -> io::Result<NodeProgram> {
        Ok(NodeProgram { exe: std::env::current_exe()?, prefix: vec!["node".into()], env: Vec::new() })
    }

    /// A binary `agora`.
    pub fn agora(exe: impl Into<PathBuf>) -> NodeProgram {
        NodeProgram { exe: exe.into(), prefix: Vec::new(), env: Vec::new() }
    }

    /// With one more variable in its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> NodeProgram {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// What all nodes of a cluster have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// Where everything of the run is.
    pub dir: PathBuf,
    /// Nodes 1 to this found the cluster.
    pub founders: u64,
    pub lineage: u128,
    /// One binary, or two to change between.
    pub programs: Vec<NodeProgram>,
    pub overrides: Overrides,
    pub disk_bytes: u64,
}

/// One node and its machine.
pub struct Machine {
    node: NodeId,
    dir: PathBuf,
    volume: Volume,
    state: Mutex<State>,
}

/// What changes.
pub struct State {
    child: Option<Child>,
    /// How the process left when nobody had asked it to, each time.
    left: Vec<ExitStatus>,
    /// Its power was lost and has not come back.
    dark: bool,
    program: usize,
    lineage: u128,
    /// What its disk suffers from.
    broken: Option<Broken>,
    /// The call that will kill it.
    trap: Option<Tracer>,
    /// What waits for a process it can be done to: its next start.
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy)]
enum Waiting {
    Fault(DiskFault),
    Crash { call: Syscall, n: u64 },
}

impl Machine {
    /// Makes directory, disk and configuration; starts nothing.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(common: &Common, node: NodeId) -> Result<Machine, String> {
        let dir = common.dir.join(format!("n{node}"));
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let volume = Volume::create(&dir.join("disk.img"), &dir.join("disk"), common.disk_bytes)?;
        let state = State {
            child: None,
            left: Vec::new(),
            dark: false,
            program: 0,
            lineage: common.lineage,
            broken: None,
            trap: None,
            waiting: None,
        };
        let machine = Machine { node, dir, volume, state: Mutex::new(state) };
        machine.empty_data()?;
        machine.set_clock(0)?;
        machine.configure(common, common.lineage)?;
        Ok(machine)
    }

    /// Its directory on the disk that keeps its power.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its disk.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.volume.root().join("data")
    }

    /// The lock.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.lock().pid().is_some()
    }

    fn configure(&self, common: &Common, lineage: u128) -> Result<(), String> {
        let file = config::render(lineage, common.founders, self.node, &self.data(), &common.overrides);
        self.write("node.toml", &file)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Sets the wall clock off by so much.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_clock(&self, offset_ms: i64) -> Result<(), String> {
        clock::set(&self.dir.join("clock"), offset_ms).map_err(|error| format!("clock of node {}: {error}", self.node))
    }

    /// Starts the process, unless it runs.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(&self, common: &Common, network: &Network) -> Result<(), String> {
        let mut state = self.lock();
        if state.pid().is_some() {
            return Ok(());
        }
        if state.dark {
            network.power_on(self.node)?;
            state.dark = false;
        }
        let log_path = self.dir.join("log");
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(|error| format!("{}: {error}", log_path.display()))?;
        let program = &common.programs[state.program];
        let mut command = Command::new("nsenter");
        // Not `ip netns exec`: that would keep a copy of all mounts, and with it other nodes' disks.
        command
            .arg(format!("--net={}", Network::space(self.node)))
            .arg("--")
            .arg(&program.exe)
            .args(&program.prefix)
            .args(["start", "--config"])
            .arg(self.dir.join("node.toml"))
            .current_dir(&self.dir)
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            // Ctrl-C is for us alone.
            .process_group(0);
        clock::follow(&mut command, &self.dir.join("clock"));
        state.child = Some(command.spawn().map_err(|error| format!("nsenter: {error}"))?);
        match state.waiting.take() {
            Some(Waiting::Fault(fault)) => self.break_now(&mut state, fault),
            Some(Waiting::Crash { call, n }) => self.trap_now(&mut state, call, n),
            None => Ok(()),
        }
    }

    /// Breaks its disk. A fault of single calls needs a process, and waits for one. What was broken before is mended.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn break_disk(&self, fault: DiskFault) -> Result<(), String> {
        let mut state = self.lock();
        state.mend()?;
        self.break_now(&mut state, fault)
    }

    fn break_now(&self, state: &mut State, fault: DiskFault) -> Result<(), String> {
        let needs_process = !matches!(fault, DiskFault::Full | DiskFault::Hung);
        let pid = state.pid();
        if pid.is_none() && needs_process {
            state.waiting = Some(Waiting::Fault(fault));
            return Ok(());
        }
        match faults::break_disk(&self.target(pid), fault) {
            Ok(broken) => state.broken = Some(broken),
            // It died before it could be held.
            Err(_) if needs_process && state.pid().is_none() => state.waiting = Some(Waiting::Fault(fault)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Its disk works again.
    ///
    /// # Errors
    /// It stays broken.
    pub fn mend_disk(&self) -> Result<(), String> {
        self.lock().mend()
    }

    /// Has the n-th such call kill it, from now or from its next start on. Takes the place of a fault of its disk.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn crash_at(&self, call: Syscall, n: u64) -> Result<(), String> {
        let mut state = self.lock();
        // One process can be held by one tracer.
        state.mend()?;
        self.trap_now(&mut state, call, n)
    }

    fn trap_now(&self, state: &mut State, call: Syscall, n: u64) -> Result<(), String> {
        let Some(pid) = state.pid() else {
            state.waiting = Some(Waiting::Crash { call, n });
            return Ok(());
        };
        match faults::crash_at(&self.target(Some(pid)), call, n) {
            Ok(trap) => state.trap = Some(trap),
            // It may have struck while it was being set.
            Err(_) if state.pid().is_none() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn target(&self, pid: Option<Pid>) -> Target {
        Target {
            pid: pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()),
            data_dir: self.data(),
            mount: Some(self.volume.root().to_owned()),
            scratch: self.dir.clone(),
        }
    }

    /// Spoils bytes of a node that is down; says which.
    ///
    /// # Errors
    /// It runs, or has no such bytes.
    pub fn corrupt(&self, part: Part, damage: Damage) -> Result<String, String> {
        self.while_down(|_| corrupt::corrupt(&self.data(), part, damage))
    }

    /// Told to stop, and waited for.
    ///
    /// # Errors
    /// It does not leave in time; it is killed then.
    pub fn stop(&self) -> Result<(), String> {
        self.signal(&[Signal::TERM, Signal::CONT])?;
        let until = Instant::now() + STOP_MAX;
        while Instant::now() < until {
            let mut state = self.lock();
            match state.child.as_mut().map(Child::try_wait) {
                None => return Ok(()),
                Some(Ok(Some(status))) => {
                    state.child = None;
                    state.let_go();
                    return if status.success() {
                        Ok(())
                    } else {
                        Err(format!("node {} left with {status} when told to stop", self.node))
                    };
                }
                Some(_) => drop(state),
            }
            thread::sleep(Duration::from_millis(10));
        }
        let mut state = self.lock();
        state.kill();
        state.reap();
        Err(format!("node {} did not leave within {STOP_MAX:?} of SIGTERM", self.node))
    }

    /// Sends signals, if it runs.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn signal(&self, signals: &[Signal]) -> Result<(), String> {
        let mut state = self.lock();
        let Some(pid) = state.pid() else { return Ok(()) };
        for signal in signals {
            kill_process(pid, *signal).map_err(|error| format!("{signal:?} to node {}: {error}", self.node))?;
        }
        Ok(())
    }

    /// Runs something that needs the node to be down.
    ///
    /// # Errors
    /// It runs.
    pub fn while_down<T>(&self, work: impl FnOnce(&mut State) -> Result<T, String>) -> Result<T, String> {
        let mut state = self.lock();
        if state.pid().is_some() {
            return Err(format!("node {} runs", self.node));
        }
        work(&mut state)
    }

    /// Empties the data directory of a node that is down.
    ///
    /// # Errors
    /// It runs, or the file system's.
    pub fn wipe(&self) -> Result<(), String> {
        self.while_down(|_| self.empty_data())
    }

    fn empty_data(&self) -> Result<(), String> {
        let data = self.data();
        remove(&data)?;
        fs::create_dir(&data).map_err(|error| format!("{}: {error}", data.display()))
    }

    /// Keeps the data of a node that is down aside.
    ///
    /// # Errors
    /// It runs, or the file system's.
    pub fn keep(&self) -> Result<(), String> {
        self.while_down(|_| corrupt::copy_tree(&self.data(), &self.dir.join("kept")))
    }

    /// Puts back what was kept.
    ///
    /// # Errors
    /// It runs, nothing was kept, or the file system's.
    pub fn restore(&self) -> Result<(), String> {
        self.while_down(|_| {
            let kept = self.dir.join("kept");
            if !kept.is_dir() {
                return Err(format!("nothing of node {} was kept", self.node));
            }
            corrupt::copy_tree(&kept, &self.data())
        })
    }

    /// Makes a node of another cluster of a node that is down.
    ///
    /// # Errors
    /// It runs, or the file system's.
    pub fn refound(&self, common: &Common) -> Result<(), String> {
        self.while_down(|state| {
            state.lineage = state.lineage.wrapping_add(1);
            self.empty_data()?;
            self.configure(common, state.lineage)
        })
    }

    /// From its next start on it is run by the other binary.
    pub fn swap_program(&self, common: &Common) {
        let mut state = self.lock();
        state.program = (state.program + 1) % common.programs.len();
    }

    /// How it stands and the end of its log.
    pub fn evidence(&self) -> String {
        let (up, left) = {
            let mut state = self.lock();
            let up = if state.pid().is_some() { "up" } else { "down" };
            (up, state.left.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let left = if left.is_empty() { String::new() } else { format!(", left by itself: {}", left.join(", ")) };
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("--- node {} is {up}{left}; the end of {}\n{tail}\n", self.node, self.dir.join("log").display())
    }

    /// How its process left when nobody had asked it to, each time.
    pub fn left(&self) -> Vec<ExitStatus> {
        let mut state = self.lock();
        let _ = state.pid();
        state.left.clone()
    }
}

impl State {
    /// The process, if it runs.
    pub fn pid(&mut self) -> Option<Pid> {
        let child = self.child.as_mut()?;
        match child.try_wait() {
            Ok(None) => Some(Pid::from_child(child)),
            Ok(Some(status)) => {
                self.left.push(status);
                self.child = None;
                self.let_go();
                None
            }
            Err(_) => None,
        }
    }

    /// SIGKILL; does not wait. A process that waits for a frozen disk could not die, so the disk thaws.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have gone by itself.
            let _ = child.kill();
        }
        self.let_go();
    }

    /// With a process go the faults of its calls, and a freeze.
    fn let_go(&mut self) {
        self.trap = None;
        if matches!(self.broken, Some(Broken::Traced(_) | Broken::Frozen(_))) {
            self.broken = None;
        }
    }

    fn mend(&mut self) -> Result<(), String> {
        self.waiting = None;
        self.trap = None;
        match self.broken.take() {
            // What filled it was lost with the power.
            Some(Broken::Full(filler)) if !filler.exists() => Ok(()),
            Some(broken) => faults::mend(broken),
            None => Ok(()),
        }
    }

    /// Waits for a process that was killed. If it went of its own before that, it is noted.
    pub fn reap(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Ok(status) = child.wait()
            && status.signal() != Some(Signal::KILL.as_raw())
        {
            self.left.push(status);
        }
    }

    /// Its power is gone, until it is started.
    pub fn set_dark(&mut self) {
        self.dark = true;
    }
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        _ => Ok(()),
    }
}
