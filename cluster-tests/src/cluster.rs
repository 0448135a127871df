//! Real node processes on loopback, and everything that can be done to them.
//!
//! A [`Cluster`] ends its processes when it is dropped, in a panic too; should the test process itself be killed, the
//! nodes see their standard input close and go. Data directories are removed after a test that passed and kept, with
//! their path printed, after one that failed.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    client::{Answer, Call, Client, Endpoint, Reply},
    config::{ADMIN_KEY, Founding, Overrides, Place, SHOP_KEY, render},
    ports,
};

/// How long a cluster may take to find a leader, on a machine that is busy with other tests.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to leave after SIGTERM.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(50);

struct Node {
    place: Place,
    dir: PathBuf,
    child: Option<Child>,
}

/// Some nodes that form one cluster.
pub struct Cluster {
    binary: PathBuf,
    founding: Founding,
    overrides: Overrides,
    nodes: Mutex<BTreeMap<u64, Node>>,
    dir: Option<tempfile::TempDir>,
    /// A test failed on it: keep what it left on disk.
    failed: AtomicBool,
}

impl Cluster {
    /// Founds a cluster of `count` nodes and waits until it has a leader that all of them follow.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(binary: &str, count: u64, overrides: Overrides) -> Cluster {
        let cluster = Cluster::prepare(binary, count, overrides);
        for id in 1..=count {
            cluster.start_node(id);
        }
        cluster.wait_ready().await;
        cluster
    }

    /// Writes the configurations of `count` nodes and starts none.
    pub fn prepare(binary: &str, count: u64, overrides: Overrides) -> Cluster {
        let dir = tempfile::Builder::new().prefix("agora-test-").tempdir().expect("a temporary directory");
        let members: Vec<Place> =
            (1..=count).map(|id| Place { id, http_port: ports::free(), peer_port: ports::free() }).collect();
        let founding = Founding {
            name: "test".to_owned(),
            lineage: format!("{:032x}", 0x0a60_7a00_0000_0000_u128 << 64 | u128::from(std::process::id())),
            members: members.clone(),
        };
        let cluster = Cluster {
            binary: PathBuf::from(binary),
            founding,
            overrides,
            nodes: Mutex::new(BTreeMap::new()),
            dir: Some(dir),
            failed: AtomicBool::new(false),
        };
        for place in members {
            cluster.write_node(place);
        }
        cluster
    }

    /// Prepares one more node, which is not a founding member: it waits to be added.
    pub fn prepare_joiner(&self, id: u64) {
        self.write_node(Place { id, http_port: ports::free(), peer_port: ports::free() });
    }

    fn write_node(&self, place: Place) {
        let dir = self.root().join(format!("n{}", place.id));
        std::fs::create_dir_all(&dir).expect("a node's directory");
        let node = Node { place, dir, child: None };
        std::fs::write(node.config(), render(&self.founding, &node.place, &node.data(), &self.overrides))
            .expect("a node's configuration");
        self.nodes.lock().unwrap().insert(node.place.id, node);
    }

    /// The directory that holds everything of this cluster.
    pub fn root(&self) -> &Path {
        self.dir.as_ref().expect("the directory lives as long as the cluster").path()
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Starts a node that is down, on whatever its data directory holds.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_node(&self, id: u64) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&id).unwrap_or_else(|| panic!("no node {id}"));
        assert!(node.child.is_none(), "node {id} runs already");
        let log = node.open_log();
        let child = Command::new(&self.binary)
            .args(["start", "--exit-with-stdin", "--config"])
            .arg(node.config())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle on the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.binary.display()));
        node.child = Some(child);
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&self, id: u64) {
        let mut child = self.take_child(id);
        child.kill().expect("kill -9 of an own child");
        child.wait().expect("the end of an own child");
    }

    /// `kill -9` of several nodes, all signalled before any is waited for.
    pub fn kill_all(&self, ids: &[u64]) {
        let mut children: Vec<Child> = ids.iter().map(|id| self.take_child(*id)).collect();
        for child in &mut children {
            child.kill().expect("kill -9 of an own child");
        }
        for child in &mut children {
            child.wait().expect("the end of an own child");
        }
    }

    /// SIGTERM; returns how the process left.
    ///
    /// # Panics
    /// When it does not leave within [`STOP_TIMEOUT`].
    pub fn terminate(&self, id: u64) -> ExitStatus {
        self.signal(id, Signal::TERM);
        let mut child = self.take_child(id);
        wait_exit(&mut child, STOP_TIMEOUT).unwrap_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("node {id} did not leave within {STOP_TIMEOUT:?} of SIGTERM\n{}", self.log_tail(id))
        })
    }

    /// Stops a node's clockwork (SIGSTOP).
    pub fn pause(&self, id: u64) {
        self.signal(id, Signal::STOP);
    }

    /// Lets a paused node go on (SIGCONT).
    pub fn resume(&self, id: u64) {
        self.signal(id, Signal::CONT);
    }

    fn signal(&self, id: u64, signal: Signal) {
        kill_process(self.pid_of(id), signal).expect("a signal to an own child");
    }

    fn pid_of(&self, id: u64) -> Pid {
        let nodes = self.nodes.lock().unwrap();
        let child = nodes[&id].child.as_ref().unwrap_or_else(|| panic!("node {id} is down"));
        Pid::from_child(child)
    }

    fn take_child(&self, id: u64) -> Child {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&id).unwrap_or_else(|| panic!("no node {id}"));
        node.child.take().unwrap_or_else(|| panic!("node {id} is down"))
    }

    /// Waits for a started node to leave by itself; returns how, or `None` if it still runs after `patience`.
    pub fn wait_exit(&self, id: u64, patience: Duration) -> Option<ExitStatus> {
        let mut child = self.take_child(id);
        let status = wait_exit(&mut child, patience);
        if status.is_none() {
            self.nodes.lock().unwrap().get_mut(&id).expect("it was just there").child = Some(child);
        }
        status
    }

    /// Fails the test if a node that should run has left.
    ///
    /// # Panics
    /// With the end of the node's log.
    #[track_caller]
    pub fn assert_running(&self) {
        let mut left = Vec::new();
        for (id, node) in self.nodes.lock().unwrap().iter_mut() {
            if let Some(child) = &mut node.child
                && let Some(status) = child.try_wait().expect("the state of an own child")
            {
                left.push((*id, status));
            }
        }
        if let Some((id, status)) = left.first() {
            panic!("node {id} left with {status}\n{}", self.log_tail(*id));
        }
    }

    /// Nodes that run.
    pub fn running(&self) -> Vec<u64> {
        self.nodes.lock().unwrap().iter().filter(|(_, node)| node.child.is_some()).map(|(id, _)| *id).collect()
    }

    /// HTTP address of a node.
    pub fn http(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.nodes.lock().unwrap()[&id].place.http_port)
    }

    /// Peer address of a node.
    pub fn peer(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.nodes.lock().unwrap()[&id].place.peer_port)
    }

    /// Configuration file of a node.
    pub fn config_path(&self, id: u64) -> PathBuf {
        self.nodes.lock().unwrap()[&id].config()
    }

    /// Data directory of a node.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.nodes.lock().unwrap()[&id].data()
    }

    /// Everything a node has printed, over all its starts.
    pub fn log(&self, id: u64) -> String {
        let path = self.nodes.lock().unwrap()[&id].log_path();
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The last lines a node has printed.
    pub fn log_tail(&self, id: u64) -> String {
        let log = self.log(id);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Resident memory of a running node in KiB: now, and the most it ever was.
    pub fn memory_kib(&self, id: u64) -> (u64, u64) {
        let pid = self.pid_of(id).as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc of an own child");
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name));
            let figure = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|text| text.parse().ok());
            figure.unwrap_or_else(|| panic!("no {name} in /proc/{pid}/status"))
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// A client of all nodes that exist, with connections of its own.
    pub fn client(&self) -> Client {
        Client::new(self.endpoints(), SHOP_KEY, ADMIN_KEY)
    }

    /// All nodes' HTTP addresses.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let nodes = self.nodes.lock().unwrap();
        nodes.iter().map(|(id, node)| (*id, format!("127.0.0.1:{}", node.place.http_port))).collect()
    }

    /// Waits until every running node is ready and all name the same running leader; returns the leader.
    ///
    /// # Panics
    /// When that does not come to pass within [`SETTLE_TIMEOUT`].
    pub async fn wait_ready(&self) -> u64 {
        let client = self.client();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut seen = String::new();
        loop {
            self.assert_running();
            let running = self.running();
            let mut leaders = Vec::new();
            seen.clear();
            for id in &running {
                let ready = client.send(*id, &Call::get("/readyz").timeout(Duration::from_secs(2))).await;
                let leader = self.leader_seen_by(&client, *id).await;
                seen.push_str(&format!("node {id}: readyz {}, leader {leader:?}; ", ready.label()));
                if matches!(&ready, Reply::Answer(answer) if answer.status == 200) {
                    leaders.push(leader);
                }
            }
            if leaders.len() == running.len()
                && let Some(Some(leader)) = leaders.first()
                && running.contains(leader)
                && leaders.iter().all(|other| *other == Some(*leader))
            {
                return *leader;
            }
            assert!(Instant::now() < deadline, "no leader within {SETTLE_TIMEOUT:?}: {seen}\n{}", self.all_tails());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until some running node says that it leads itself; returns it.
    ///
    /// # Panics
    /// When none does within [`SETTLE_TIMEOUT`].
    pub async fn wait_leader(&self) -> u64 {
        let client = self.client();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            self.assert_running();
            for id in self.running() {
                if self.leader_seen_by(&client, id).await == Some(id) {
                    return id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads within {SETTLE_TIMEOUT:?}\n{}", self.all_tails());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a started node answers its probes, ready or not.
    ///
    /// # Panics
    /// When it does not within [`SETTLE_TIMEOUT`].
    pub async fn wait_live(&self, id: u64) {
        let client = self.client();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while !matches!(client.send(id, &Call::get("/livez")).await, Reply::Answer(answer) if answer.status == 200) {
            self.assert_running();
            assert!(
                Instant::now() < deadline,
                "node {id} does not live within {SETTLE_TIMEOUT:?}\n{}",
                self.log_tail(id)
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// The leader a node names, if it answers.
    pub async fn leader_seen_by(&self, client: &Client, id: u64) -> Option<u64> {
        self.status_of(client, id).await.and_then(|status| status["leader"].as_u64())
    }

    /// A node's answer to `cluster/status`, if it answers.
    pub async fn status_of(&self, client: &Client, id: u64) -> Option<Value> {
        match client.send(id, &Call::get("/cluster/status").timeout(Duration::from_secs(3))).await {
            Reply::Answer(answer @ Answer { status: 200, .. }) => Some(answer.json()),
            _ => None,
        }
    }

    /// Some running node that is not the leader.
    pub async fn follower(&self) -> u64 {
        let leader = self.wait_ready().await;
        self.running().into_iter().find(|id| *id != leader).expect("more than one node")
    }

    /// Sum of a counter or gauge over its labels, from a node's `/metrics`.
    ///
    /// # Panics
    /// When the node does not offer it.
    pub async fn metric(&self, client: &Client, id: u64, name: &str) -> f64 {
        let answer = client.ask(id, &Call::get("/metrics")).await;
        assert_eq!(answer.status, 200, "metrics of node {id}: {}", answer.text());
        metric_in(&answer.text(), name).unwrap_or_else(|| panic!("node {id} has no metric {name}:\n{}", answer.text()))
    }

    fn all_tails(&self) -> String {
        let ids: Vec<u64> = self.nodes.lock().unwrap().keys().copied().collect();
        ids.iter().map(|id| format!("--- log of node {id}\n{}\n", self.log_tail(*id))).collect()
    }
}

/// Sum of the samples of `name` (or `name_total`) in a Prometheus text.
pub fn metric_in(text: &str, name: &str) -> Option<f64> {
    let total = format!("{name}_total");
    let samples = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let bare = series.split('{').next()?;
        if bare == name || bare == total { value.parse::<f64>().ok() } else { None }
    });
    samples.reduce(|sum, value| sum + value)
}

/// Waits for a child to leave; kills nobody.
pub fn wait_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("the state of an own child") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Node {
    fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    fn open_log(&self) -> File {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(self.log_path()).expect("a node's log file")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let nodes = self.nodes.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for node in nodes.values_mut() {
            if let Some(mut child) = node.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if (std::thread::panicking() || self.failed.load(Ordering::Relaxed))
            && let Some(dir) = self.dir.take()
        {
            eprintln!("data directories and logs are kept in {}", dir.keep().display());
        }
    }
}

/// One cluster for the tests of a file that do it no harm: the first test starts it, the last one to finish ends it.
pub struct Shared {
    slot: tokio::sync::Mutex<Weak<Cluster>>,
}

impl Shared {
    /// No cluster yet.
    pub const fn new() -> Shared {
        Shared { slot: tokio::sync::Mutex::const_new(Weak::new()) }
    }

    /// The cluster that runs, or a new one.
    pub async fn lease(&self, binary: &str, count: u64, overrides: Overrides) -> Lease {
        let mut slot = self.slot.lock().await;
        if let Some(cluster) = slot.upgrade() {
            return Lease(cluster);
        }
        let cluster = Arc::new(Cluster::start(binary, count, overrides).await);
        *slot = Arc::downgrade(&cluster);
        Lease(cluster)
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared::new()
    }
}

/// A test's share in a cluster.
pub struct Lease(Arc<Cluster>);

impl std::ops::Deref for Lease {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_other 9\nb 4.5\n";
        assert_eq!(metric_in(text, "a"), Some(5.0));
        assert_eq!(metric_in(text, "b"), Some(4.5));
        assert_eq!(metric_in(text, "c"), None);
    }
}
