//! A cluster of real processes, as scenarios see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use agora_history::{Micros, NodeId};
use agora_scenario::cluster::{Act, BoxFuture, Cluster, HttpRequest, HttpResponse, Port, SendError};
use bytes::Bytes;
use rustix::process::Signal;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    client::Clients,
    config::{self, ADMIN_KEY, Overrides, SHOP_KEY},
    inside::Inside,
    machine::{Common, Machine, NodeProgram},
    net::{Carried, Network},
};

/// Raw connections that may be opened at once.
const RAW_CONNECTIONS_MAX: u32 = 20_000;
/// Of these, how many are being opened at once.
const RAW_OPENING_MAX: usize = 64;
const RAW_CONNECT_MAX: Duration = Duration::from_secs(10);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything of it is kept: logs, configurations, images of disks. Absolute.
    pub dir: PathBuf,
    /// Nodes that found it.
    pub nodes: u64,
    /// Decides the chance of lossy links.
    pub seed: u64,
    /// What runs as a node …
    pub program: NodeProgram,
    /// … and what [`Act::SwapBinary`] changes to.
    pub other: Option<NodeProgram>,
    /// Beside [`Settings::usual`].
    pub overrides: Overrides,
    /// Size of each disk.
    pub disk_bytes: u64,
}

impl Settings {
    /// Three nodes of this binary on disks of 1 GiB.
    pub fn new(dir: impl Into<PathBuf>, program: NodeProgram) -> Settings {
        Settings {
            dir: dir.into(),
            nodes: 3,
            seed: 0,
            program,
            other: None,
            overrides: Overrides::none(),
            disk_bytes: 1 << 30,
        }
    }

    /// Figures of all nodes under attack: logs and memtables so small that they are purged, rotated and written out
    /// many times in a run, on a disk that is small as well.
    pub fn usual() -> Overrides {
        Overrides::none()
            .set("raft", "log_bytes_max", 32 << 20)
            .set("raft", "snapshot_log_bytes", 4 << 20)
            .set("storage", "memtable_bytes", 2 << 20)
            .set("storage", "journal_bytes_max", 64 << 20)
            .set("storage", "cache_bytes", 32 << 20)
    }
}

struct Inner {
    common: Common,
    network: Network,
    machines: Mutex<BTreeMap<NodeId, Arc<Machine>>>,
    clients: Clients,
    began: Instant,
}

/// The cluster. Dropped, it ends its processes and takes its machines away; files stay.
pub struct Processes {
    inner: Arc<Inner>,
}

impl Processes {
    /// Makes the machines and starts the nodes; does not wait until they serve. Blocks for about a second.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(inside: Inside, settings: Settings) -> Result<Processes, String> {
        let processes = Processes::prepare(inside, settings)?;
        for node in processes.nodes() {
            processes.inner.start(node)?;
        }
        Ok(processes)
    }

    /// Makes the machines and starts no node.
    ///
    /// # Errors
    /// What the system said.
    pub fn prepare(inside: Inside, settings: Settings) -> Result<Processes, String> {
        let dir = std::path::absolute(&settings.dir).map_err(|error| error.to_string())?;
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        raise_open_files();
        let common = Common {
            dir,
            founders: settings.nodes,
            lineage: 0x0a60_7a00_0000_0000_u128 << 64 | u128::from(settings.seed | 1),
            programs: [Some(settings.program), settings.other].into_iter().flatten().collect(),
            overrides: Settings::usual().and(&settings.overrides),
            disk_bytes: settings.disk_bytes,
        };
        let inner = Inner {
            common,
            network: Network::new(inside, settings.seed)?,
            machines: Mutex::default(),
            clients: Clients::default(),
            began: Instant::now(),
        };
        let processes = Processes { inner: Arc::new(inner) };
        for node in 1..=settings.nodes {
            processes.inner.provision(node)?;
        }
        Ok(processes)
    }

    /// Where everything of it is kept.
    pub fn dir(&self) -> &Path {
        &self.inner.common.dir
    }

    /// A node's machine, for acts that are not in [`Act`].
    ///
    /// # Errors
    /// No such node.
    pub fn machine(&self, node: NodeId) -> Result<Arc<Machine>, String> {
        self.inner.machine(node)
    }

    /// How nodes left when nobody had asked them to.
    pub fn left(&self) -> BTreeMap<NodeId, Vec<ExitStatus>> {
        self.inner.all().into_iter().map(|(node, machine)| (node, machine.left())).collect()
    }

    /// What the wire between the machines has done so far.
    pub fn carried(&self) -> Carried {
        self.inner.network.carried()
    }

    /// Part of a node's disk that is used, 0 to 1.
    pub fn disk_used(&self, node: NodeId) -> f64 {
        let Ok(machine) = self.machine(node) else { return 0.0 };
        match rustix::fs::statvfs(machine.volume().root()) {
            Ok(disk) if disk.f_blocks > 0 => 1.0 - disk.f_bavail as f64 / disk.f_blocks as f64,
            _ => 0.0,
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let machines = self.inner.all();
        for machine in machines.values() {
            machine.lock().kill();
        }
        for (node, machine) in machines {
            machine.lock().reap();
            // What cannot be taken away now goes with the namespaces.
            let _ = machine.volume().unmount();
            let _ = self.inner.network.remove(node);
        }
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Machine>>> {
        self.machines.lock().unwrap()
    }

    fn all(&self) -> BTreeMap<NodeId, Arc<Machine>> {
        self.table().clone()
    }

    fn machine(&self, node: NodeId) -> Result<Arc<Machine>, String> {
        self.table().get(&node).cloned().ok_or_else(|| format!("no node {node}"))
    }

    fn some(&self, nodes: &BTreeSet<NodeId>) -> Result<Vec<Arc<Machine>>, String> {
        nodes.iter().map(|node| self.machine(*node)).collect()
    }

    fn provision(&self, node: NodeId) -> Result<(), String> {
        if self.table().contains_key(&node) {
            return Err(format!("node {node} exists"));
        }
        self.network.add(node)?;
        let machine = Machine::create(&self.common, node)?;
        self.table().insert(node, Arc::new(machine));
        Ok(())
    }

    fn start(&self, node: NodeId) -> Result<(), String> {
        self.machine(node)?.start(&self.common, &self.network)
    }

    fn retire(&self, node: NodeId) -> Result<(), String> {
        let machine = self.machine(node)?;
        let mut state = machine.lock();
        state.kill();
        state.reap();
        drop(state);
        machine.volume().unmount()?;
        std::fs::remove_file(machine.volume().image()).map_err(|error| error.to_string())?;
        self.network.remove(node)?;
        self.clients.forget(node);
        self.table().remove(&node);
        Ok(())
    }

    fn kill(&self, nodes: &BTreeSet<NodeId>) -> Result<(), String> {
        let machines = self.some(nodes)?;
        let mut states: Vec<_> = machines.iter().map(|machine| machine.lock()).collect();
        for state in &mut states {
            state.kill();
        }
        for state in &mut states {
            state.reap();
        }
        Ok(())
    }

    /// All at one moment: first nobody hears of them any more, so that nothing they do from then on counts.
    fn power_loss(&self, nodes: &BTreeSet<NodeId>) -> Result<(), String> {
        let machines = self.some(nodes)?;
        let mut states: Vec<_> = machines.iter().map(|machine| machine.lock()).collect();
        self.network.power_off(&nodes.iter().copied().collect::<Vec<_>>());
        for machine in &machines {
            machine.volume().power_off()?;
        }
        for state in &mut states {
            state.kill();
        }
        for (state, machine) in states.iter_mut().zip(&machines) {
            state.reap();
            state.set_dark();
            machine.volume().power_on()?;
        }
        for node in nodes {
            self.clients.forget(*node);
        }
        Ok(())
    }

    /// All acts that block.
    fn act(&self, act: Act) -> Result<(), String> {
        match act {
            Act::SetLinks { from, to, link } => {
                self.network.set_links(&from, &to, link);
                Ok(())
            }
            Act::SetClientLinks { nodes, link } => {
                self.network.set_client_links(&nodes, link);
                Ok(())
            }
            Act::ResetConnections { nodes } => self.network.reset_connections(&nodes),
            Act::HealNetwork => {
                self.network.heal();
                Ok(())
            }
            Act::Kill(nodes) => self.kill(&nodes),
            Act::PowerLoss(nodes) => self.power_loss(&nodes),
            Act::Stop(node) => self.machine(node)?.stop(),
            Act::Start(node) => self.start(node),
            Act::Pause(node) => self.machine(node)?.signal(&[Signal::STOP]),
            Act::Resume(node) => self.machine(node)?.signal(&[Signal::CONT]),
            Act::ClockOffset { node, ms } => self.machine(node)?.set_clock(ms),
            Act::BreakDisk { node, fault } => self.machine(node)?.break_disk(fault),
            Act::MendDisk(node) => self.machine(node)?.mend_disk(),
            Act::CrashAt { node, call, n } => self.machine(node)?.crash_at(call, n),
            Act::Corrupt { node, part, damage } => self.machine(node)?.corrupt(part, damage).map(drop),
            Act::KeepDirectory(node) => self.machine(node)?.keep(),
            Act::RestoreDirectory(node) => self.machine(node)?.restore(),
            Act::Wipe(node) => self.machine(node)?.wipe(),
            Act::Refound(node) => self.machine(node)?.refound(&self.common),
            Act::Provision(node) => self.provision(node).and_then(|()| self.start(node)),
            Act::Retire(node) => self.retire(node),
            Act::SwapBinary(node) if self.common.programs.len() > 1 => {
                self.machine(node)?.swap_program(&self.common);
                Ok(())
            }
            other => Err(format!("{other:?} is not supported here")),
        }
    }
}

impl Cluster for Processes {
    fn harness(&self) -> &'static str {
        "processes"
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.inner.table().keys().copied().collect()
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.inner.machine(node).is_ok_and(|machine| machine.is_up())
    }

    fn now(&self) -> Micros {
        Micros::try_from(self.inner.began.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<HttpResponse, SendError>> {
        Box::pin(self.inner.clients.send(node, request, deadline))
    }

    fn addresses(&self, node: NodeId) -> (String, String) {
        config::addresses(node)
    }

    fn keys(&self) -> (String, String) {
        (SHOP_KEY.to_owned(), ADMIN_KEY.to_owned())
    }

    fn supports(&self, act: &Act) -> bool {
        match act {
            Act::SwapBinary(_) => self.inner.common.programs.len() > 1,
            _ => true,
        }
    }

    fn act(&self, act: Act) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if let Act::RawConnections { node, port, count, bytes, hold_ms } = act {
                return raw_connections(node, port, count, bytes, Duration::from_millis(hold_ms)).await;
            }
            let inner = self.inner.clone();
            let done = tokio::task::spawn_blocking(move || inner.act(act)).await;
            done.unwrap_or_else(|error| Err(error.to_string()))
        })
    }

    fn evidence(&self) -> String {
        let carried = self.carried();
        let machines = self.inner.all();
        let nodes: String = machines.values().map(|machine| machine.evidence()).collect();
        format!("the wire: {carried:?}\n{nodes}")
    }
}

async fn raw_connections(node: NodeId, port: Port, count: u32, bytes: Bytes, hold: Duration) -> Result<(), String> {
    if count > RAW_CONNECTIONS_MAX {
        return Err(format!("{count} connections, at most {RAW_CONNECTIONS_MAX}"));
    }
    let (peer, http) = config::addresses(node);
    let address = match port {
        Port::Http => http,
        Port::Peer => peer,
    };
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for number in 0..=count {
        // The last round only waits for the rest.
        while opening.len() >= if number == count { 1 } else { RAW_OPENING_MAX } {
            match opening.join_next().await {
                Some(Ok(Ok(stream))) => open.push(stream),
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => return Err(error.to_string()),
                None => break,
            }
        }
        if number < count {
            let (address, bytes) = (address.clone(), bytes.clone());
            opening.spawn(async move { open_raw(&address, &bytes).await });
        }
    }
    tokio::spawn(async move {
        tokio::time::sleep(hold).await;
        drop(open);
    });
    Ok(())
}

async fn open_raw(address: &str, bytes: &Bytes) -> Result<TcpStream, String> {
    let connect = tokio::time::timeout(RAW_CONNECT_MAX, TcpStream::connect(address)).await;
    let mut stream = connect.map_err(|_| format!("no connection to {address}"))?.map_err(|error| error.to_string())?;
    // It may be closed on us, which is one way to answer.
    let _ = stream.write_all(bytes).await;
    Ok(stream)
}

/// Nodes and clients hold thousands of sockets.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
