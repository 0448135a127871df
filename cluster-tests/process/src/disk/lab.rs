//! Three nodes on loopback, each with a plain directory or a disk of its own that can lose power: enough to fail a disk
//! under them, and much quicker to begin than machines in namespaces.
//!
//! The processes end with the lab, in a panic too; should this process be killed, they see their standard input close.
//! A node can be started *held*, stopped before its first instruction, so that a tracer sees all of its life.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use toml::{Table, Value};

use crate::{machine::NodeProgram, volume::Volume};

/// The shop's key of every lab.
pub const SHOP_KEY: &str = "shop-key-for-tests-0123456789abcdef0123456789abcdef";
/// The administrator's key of every lab.
pub const ADMIN_KEY: &str = "admin-key-for-tests-0123456789abcdef0123456789abcdef";
const PEER_KEY: &str = "6f1d2c3b4a5968778695a4b3c2d1e0f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const POLL: Duration = Duration::from_millis(2);
/// How long a process may take to stop itself before it begins.
const HELD_TIMEOUT: Duration = Duration::from_secs(10);

/// A node's place on loopback.
#[derive(Clone, Copy, Debug)]
struct Place {
    http: u16,
    peer: u16,
}

struct Node {
    child: Option<Child>,
    volume: Option<Volume>,
}

/// Some nodes that form one cluster.
pub struct Lab {
    program: NodeProgram,
    root: PathBuf,
    disk_bytes: Option<u64>,
    lineage: String,
    founders: Vec<u64>,
    /// Of all nodes there ever were: a place is not given to another.
    places: Mutex<BTreeMap<u64, Place>>,
    nodes: Mutex<BTreeMap<u64, Node>>,
}

impl Lab {
    /// Writes the files of a cluster with a log and row files so small that purges, syncs and flushes come often.
    ///
    /// With `disk_bytes` every node has a disk of its own, which needs root.
    ///
    /// # Errors
    /// When the directory cannot be written, or a disk not be made.
    pub fn new(program: &NodeProgram, root: &Path, count: u64, disk_bytes: Option<u64>) -> Result<Lab, String> {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lab = Lab {
            program: program.clone(),
            root: root.to_path_buf(),
            disk_bytes,
            lineage: format!("{:032x}", u128::from(std::process::id()) << 32 | u128::from(number) | 1 << 100),
            founders: (1..=count).collect(),
            places: Mutex::default(),
            nodes: Mutex::default(),
        };
        for id in 1..=count {
            lab.place(id)?;
        }
        for id in 1..=count {
            lab.write(id)?;
        }
        Ok(lab)
    }

    /// One more node, which is to be added.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn newcomer(&self, id: u64) -> Result<(), String> {
        self.place(id)?;
        self.write(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Node>> {
        // A panic elsewhere must not keep the nodes from being ended.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: u64) -> Result<(), String> {
        let dir = self.root.join(format!("n{id}"));
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let disk = |bytes| Volume::create(&dir.join("disk.img"), &dir.join("disk"), bytes);
        let volume = self.disk_bytes.map(disk).transpose()?;
        let place = Place { http: free_port(), peer: free_port() };
        self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(id, place);
        self.lock().insert(id, Node { child: None, volume });
        Ok(())
    }

    fn place_of(&self, id: u64) -> Place {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[&id]
    }

    fn write(&self, id: u64) -> Result<(), String> {
        let (path, text) = (self.config(id), self.render(id));
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn render(&self, id: u64) -> String {
        let mut root = Table::new();
        let mut set = |section: &str, key: &str, value: Value| {
            let table = root.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(table) = table {
                table.insert(key.to_owned(), value);
            }
        };
        let at = |port: u16| Value::String(format!("127.0.0.1:{port}"));
        let members = self.founders.iter().map(|founder| {
            let place = self.place_of(*founder);
            let fields = [("id", Value::Integer(*founder as i64)), ("peer", at(place.peer)), ("http", at(place.http))];
            Value::Table(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        });
        set("cluster", "members", Value::Array(members.collect()));
        set("cluster", "name", "lab".into());
        set("cluster", "lineage", self.lineage.clone().into());
        set("node", "id", Value::Integer(id as i64));
        set("node", "data_dir", self.data_dir(id).display().to_string().into());
        set("http", "listen", at(self.place_of(id).http));
        set("peer", "listen", at(self.place_of(id).peer));
        set("keys", "shop", SHOP_KEY.into());
        set("keys", "admin", ADMIN_KEY.into());
        set("keys", "peer", PEER_KEY.into());
        set("raft", "log_bytes_max", Value::Integer(1 << 20));
        set("raft", "snapshot_log_bytes", Value::Integer(64 << 10));
        set("storage", "memtable_bytes", Value::Integer(1 << 20));
        set("storage", "cache_bytes", Value::Integer(4 << 20));
        set("log", "format", "text".into());
        // Tells when the log is purged, so that a crash can be told to have met it.
        set("log", "level", "info,openraft=error,agora_raft::supervisor=debug".into());
        toml::to_string(&root).unwrap_or_default()
    }

    /// Where everything of this cluster lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Configuration of a node.
    pub fn config(&self, id: u64) -> PathBuf {
        self.root.join(format!("n{id}/node.toml"))
    }

    /// Data directory of a node.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        let disk = if self.disk_bytes.is_some() { "disk/" } else { "" };
        self.root.join(format!("n{id}/{disk}data"))
    }

    /// HTTP address of a node.
    pub fn http(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.place_of(id).http)
    }

    /// Peer address of a node.
    pub fn peer(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.place_of(id).peer)
    }

    /// Nodes that exist.
    pub fn nodes(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// A node is gone for good.
    pub fn forget(&self, id: u64) {
        self.kill(id);
        if let Some(volume) = self.lock().remove(&id).and_then(|node| node.volume) {
            let _ = volume.unmount();
        }
    }

    /// Process of a node that was started and not waited for.
    pub fn pid(&self, id: u64) -> Option<u32> {
        self.lock().get(&id)?.child.as_ref().map(Child::id)
    }

    /// Whether a node's process runs; how it left is still to be asked for.
    pub fn runs(&self, id: u64) -> bool {
        self.pid(id).is_some_and(|pid| state_of(pid).is_some_and(|state| state != 'Z'))
    }

    /// Starts a node on whatever its directory holds.
    ///
    /// # Errors
    /// When there is no process to be had.
    pub fn start(&self, id: u64) -> Result<(), String> {
        let command = self.command(id, &["start", "--exit-with-stdin"]);
        self.spawn(id, command)
    }

    /// Starts a node that stands still before its first instruction; [`Lab::release`] lets it go.
    ///
    /// # Errors
    /// When there is no process to be had, or it does not stand still.
    pub fn start_held(&self, id: u64) -> Result<u32, String> {
        let begun = self.command(id, &["start", "--exit-with-stdin"]);
        let mut command = Command::new("sh");
        command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(begun.get_program()).args(begun.get_args());
        command.envs(begun.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.spawn(id, command)?;
        let pid = self.pid(id).ok_or("no process")?;
        let deadline = Instant::now() + HELD_TIMEOUT;
        while state_of(pid) != Some('T') {
            if Instant::now() > deadline {
                return Err(format!("process {pid} does not stop itself"));
            }
            std::thread::sleep(POLL);
        }
        Ok(pid)
    }

    /// Lets a node go on.
    pub fn release(&self, id: u64) {
        self.signal(id, Signal::CONT);
    }

    /// Stops a node's clockwork.
    pub fn pause(&self, id: u64) {
        self.signal(id, Signal::STOP);
    }

    fn command(&self, id: u64, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program.exe);
        command.args(&self.program.prefix).args(words).arg("--config").arg(self.config(id));
        command.envs(self.program.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The power of a node's disk goes, and the node with it; when this returns the disk is there again, with what had
    /// reached it.
    ///
    /// # Errors
    /// When it has no disk of its own, or that does not come back.
    pub fn power_loss(&self, id: u64) -> Result<(), String> {
        let volume = self.lock().get(&id).and_then(|node| node.volume.clone());
        let volume = volume.ok_or("a plain directory has no power to lose")?;
        volume.power_off()?;
        self.kill(id);
        volume.power_on()
    }

    fn signal(&self, id: u64, signal: Signal) {
        if let Some(pid) = self.pid(id).and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(pid, signal);
        }
    }

    fn spawn(&self, id: u64, mut command: Command) -> Result<(), String> {
        let path = self.log_path(id);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| format!("{}: {error}", path.display()))?;
        let other = log.try_clone().map_err(|error| error.to_string())?;
        let child = command.stdin(Stdio::piped()).stdout(other).stderr(log).spawn();
        let child = child.map_err(|error| format!("{}: {error}", self.program.exe.display()))?;
        let mut nodes = self.lock();
        let node = nodes.get_mut(&id).ok_or_else(|| format!("no node {id}"))?;
        if node.child.is_some() {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("node {id} runs already"));
        }
        node.child = Some(child);
        Ok(())
    }

    /// `kill -9`, waited for. Nothing happens to a node that is down.
    pub fn kill(&self, id: u64) {
        let child = self.lock().get_mut(&id).and_then(|node| node.child.take());
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Told to stop; true when it left with zero in time.
    pub async fn stop(&self, id: u64) -> bool {
        self.signal(id, Signal::TERM);
        let left = self.exited(id, Duration::from_secs(45)).await.is_some_and(|status| status.success());
        self.kill(id);
        left
    }

    /// Waits for a process to leave by itself; how it did, or `None` if it still runs.
    pub async fn exited(&self, id: u64, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            {
                let mut nodes = self.lock();
                let node = nodes.get_mut(&id)?;
                if let Some(status) = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                    node.child = None;
                    return Some(status);
                }
                node.child.as_ref()?;
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.root.join(format!("n{id}/node.log"))
    }

    /// How much a node has said so far.
    pub fn said(&self, id: u64) -> u64 {
        fs::metadata(self.log_path(id)).map_or(0, |file| file.len())
    }

    /// What a node has said since.
    pub fn said_since(&self, id: u64, since: u64) -> String {
        let all = fs::read(self.log_path(id)).unwrap_or_default();
        String::from_utf8_lossy(all.get(since as usize..).unwrap_or_default()).into_owned()
    }

    /// A node's command that looks at its stopped directory: `agora verify`. Success, and what it said.
    pub async fn verify(&self, id: u64) -> (bool, String) {
        let mut command = self.command(id, &["verify", "--json"]);
        let done = tokio::task::spawn_blocking(move || command.output()).await;
        match done {
            Ok(Ok(done)) => {
                let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
                (done.status.success(), said)
            }
            other => (false, format!("{other:?}")),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for id in self.nodes() {
            self.forget(id);
        }
    }
}

fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// A port below the kernel's range for outgoing connections, so that nobody takes it while its node is down.
fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const SPAN: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(131) % u32::from(SPAN)) as u16;
    for _ in 0..SPAN {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % SPAN;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    0
}
