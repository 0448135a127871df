//! The simulated cluster, as scenarios see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_history::{Micros, NodeId};
use agora_scenario::cluster::{
    Act, BoxFuture, Cluster, Damage, DiskFault, HttpRequest, HttpResponse, Link, Part, Port, SendError, Syscall,
};
use agora_storage::{MemCall, MemDisk, MemFault, Spoil};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    clients::Clients,
    commands::{Command, Commands},
    machine::{ADMIN_KEY, HTTP_PORT, Machine, PEER_PORT, Plan, SHOP_KEY, http_addr, peer_addr},
    trace::{Trace, fingerprint},
    wires::{Place, Wires},
    world::sim_now,
};

/// Lines of evidence kept.
const EVIDENCE_MAX: usize = 1_000;
/// Nodes of one run, with those that were added later.
const NODES_MAX: usize = 16;

/// All machines and what is between them. Cheap to clone.
#[derive(Clone)]
pub struct SimCluster {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Arc<Plan>,
    wires: Wires,
    commands: Commands,
    clients: Clients,
    trace: Trace,
    machines: Mutex<BTreeMap<NodeId, Arc<Machine>>>,
    evidence: Mutex<Vec<String>>,
    findings: Mutex<Vec<String>>,
    /// The last time told.
    looked: AtomicU64,
}

impl SimCluster {
    /// The first machines, not started.
    pub fn new(plan: Plan, trace: Trace) -> SimCluster {
        let plan = Arc::new(plan);
        let (wires, commands) = (Wires::new(plan.seed), Commands::default());
        let machine =
            |node: &NodeId| (*node, Arc::new(Machine::new(*node, plan.clone(), wires.clone(), commands.clone())));
        let machines = plan.first.iter().map(machine).collect();
        SimCluster {
            inner: Arc::new(Inner {
                clients: Clients::new(wires.clone()),
                machines: Mutex::new(machines),
                evidence: Mutex::default(),
                findings: Mutex::default(),
                looked: AtomicU64::new(0),
                plan,
                wires,
                commands,
                trace,
            }),
        }
    }

    /// What must be done between steps.
    pub fn commands(&self) -> &Commands {
        &self.inner.commands
    }

    /// The links.
    pub fn wires(&self) -> &Wires {
        &self.inner.wires
    }

    /// The fingerprint of the run.
    pub fn trace(&self) -> &Trace {
        &self.inner.trace
    }

    /// All machines, by node.
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        self.inner.machines.lock().values().cloned().collect()
    }

    /// One machine.
    pub fn machine(&self, node: NodeId) -> Option<Arc<Machine>> {
        self.inner.machines.lock().get(&node).cloned()
    }

    /// Everything that can be cut off.
    pub fn places(&self) -> Vec<Place> {
        let nodes = self.inner.machines.lock().keys().map(|node| Place::Node(*node)).collect::<Vec<_>>();
        [vec![Place::Clients], nodes].concat()
    }

    /// A line worth keeping.
    pub fn log(&self, line: impl Into<String>) {
        let mut evidence = self.inner.evidence.lock();
        if evidence.len() < EVIDENCE_MAX {
            evidence.push(format!("{:>10.3} s  {}", sim_now().as_secs_f64(), line.into()));
        }
    }

    /// Something that must not be.
    pub fn found(&self, what: String) {
        self.log(format!("FINDING {what}"));
        self.inner.trace.note("finding", &[fingerprint(what.as_bytes())]);
        let mut findings = self.inner.findings.lock();
        if findings.len() < 100 {
            findings.push(what);
        }
    }

    /// All of them.
    pub fn findings(&self) -> Vec<String> {
        self.inner.findings.lock().clone()
    }

    fn existing(&self, node: NodeId) -> Result<Arc<Machine>, String> {
        self.machine(node).ok_or_else(|| format!("there is no node {node}"))
    }

    /// A machine that is down.
    fn down(&self, node: NodeId) -> Result<Arc<Machine>, String> {
        let machine = self.existing(node)?;
        if machine.is_up() {
            return Err(format!("node {node} runs"));
        }
        Ok(machine)
    }

    async fn command(&self, make: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        self.inner.commands.push(make(done));
        wait.await.map_err(|_| "the driver did not do it".to_owned())
    }

    fn set_links(&self, from: &BTreeSet<NodeId>, to: &BTreeSet<NodeId>, link: Link) {
        for from in from {
            for to in to.iter().filter(|to| *to != from) {
                self.inner.wires.set(Place::Node(*from), Place::Node(*to), link);
            }
        }
    }

    async fn end(&self, nodes: BTreeSet<NodeId>, power_loss: bool) -> Result<(), String> {
        for node in &nodes {
            self.existing(*node)?;
        }
        self.command(|done| Command::End { nodes, power_loss, done }).await
    }

    async fn stop(&self, node: NodeId) -> Result<(), String> {
        let machine = self.existing(node)?;
        if !machine.ask_to_stop() {
            return Ok(());
        }
        // A minute is more than any stop may take.
        for _ in 0..6_000 {
            if !machine.is_up() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("node {node} was told to stop and does not"))
    }

    fn crash_at(&self, node: NodeId, call: Syscall, n: u64) -> Result<(), String> {
        let machine = self.existing(node)?;
        let call = match call {
            Syscall::Fsync => MemCall::Fsync,
            Syscall::Write => MemCall::Write,
            Syscall::Rename => MemCall::Rename,
        };
        let (commands, wires) = (self.inner.commands.clone(), self.inner.wires.clone());
        machine.disk().crash_at(
            call,
            n,
            Box::new(move || {
                // Dead from this call on, although its runtime goes on until the end of the step.
                wires.set_silent(Place::Node(node), true);
                commands.push(Command::Tripped { node });
            }),
        );
        Ok(())
    }

    async fn provision(&self, node: NodeId) -> Result<(), String> {
        {
            let mut machines = self.inner.machines.lock();
            if machines.contains_key(&node) || machines.len() >= NODES_MAX {
                return Err(format!("node {node} cannot be made"));
            }
            let inner = &self.inner;
            let machine = Machine::new(node, inner.plan.clone(), inner.wires.clone(), inner.commands.clone());
            machines.insert(node, Arc::new(machine));
        }
        self.command(|done| Command::Provision { node, done }).await
    }

    async fn do_act(&self, act: Act) -> Result<(), String> {
        let wires = &self.inner.wires;
        match act {
            Act::SetLinks { from, to, link } => self.set_links(&from, &to, link),
            Act::SetClientLinks { nodes, link } => {
                for node in nodes {
                    wires.set(Place::Clients, Place::Node(node), link);
                    wires.set(Place::Node(node), Place::Clients, link);
                }
            }
            Act::ResetConnections { nodes } => wires.reset(&nodes.into_iter().map(Place::Node).collect()),
            Act::HealNetwork => wires.heal(),
            Act::Kill(nodes) => return self.end(nodes, false).await,
            Act::PowerLoss(nodes) => return self.end(nodes, true).await,
            Act::Stop(node) => return self.stop(node).await,
            Act::Start(node) => {
                self.existing(node)?;
                return self.command(|done| Command::Start { node, done }).await;
            }
            Act::Pause(node) | Act::Resume(node) => {
                let pause = matches!(act, Act::Pause(_));
                self.existing(node)?.set_paused(pause);
                wires.set_silent(Place::Node(node), pause);
            }
            Act::ClockOffset { node, ms } => self.existing(node)?.offset.set(ms),
            Act::BreakDisk { node, fault } => {
                let machine = self.existing(node)?;
                let fault = mem_fault(fault).ok_or("not here")?;
                machine.hurt_disk();
                machine.disk().fail(fault);
            }
            Act::MendDisk(node) => self.existing(node)?.mend_disk(),
            Act::Refound(node) => {
                let machine = self.down(node)?;
                machine.hurt_disk();
                machine.set_disk(MemDisk::new());
                machine.refound();
            }
            Act::SwapBinary(_) => return Err("a simulation is one binary".to_owned()),
            Act::RawConnections { node, port, count, bytes, hold_ms } => {
                let port = match port {
                    Port::Http => HTTP_PORT,
                    Port::Peer => PEER_PORT,
                };
                return self.inner.clients.raw(node, port, count, &bytes, Duration::from_millis(hold_ms)).await;
            }
            Act::CrashAt { node, call, n } => self.crash_at(node, call, n)?,
            Act::Corrupt { node, part, damage } => {
                let machine = self.down(node)?;
                machine.hurt_disk();
                if !corrupt(&machine.disk(), part, damage) {
                    return Err(format!("{part:?} of node {node} has nothing there"));
                }
            }
            Act::KeepDirectory(node) => self.down(node)?.keep_disk(),
            Act::RestoreDirectory(node) => {
                let machine = self.down(node)?;
                machine.hurt_disk();
                let kept = machine.kept_disk().ok_or_else(|| format!("nothing is kept of node {node}"))?;
                machine.set_disk(kept);
            }
            Act::Wipe(node) => {
                let machine = self.down(node)?;
                machine.hurt_disk();
                machine.set_disk(MemDisk::new());
            }
            Act::Provision(node) => return self.provision(node).await,
            Act::Retire(node) => {
                self.stop(node).await?;
                self.end([node].into(), false).await?;
                self.inner.machines.lock().remove(&node);
            }
        }
        Ok(())
    }
}

fn mem_fault(fault: DiskFault) -> Option<MemFault> {
    Some(match fault {
        DiskFault::FsyncErrorOnce(Part::Log) => MemFault::LogSyncOnce,
        DiskFault::FsyncErrorOnce(Part::RowsJournal | Part::RowsTable) => MemFault::RowsSyncOnce,
        DiskFault::WriteError(Part::Log) => MemFault::LogWrites,
        DiskFault::WriteError(Part::RowsJournal | Part::RowsTable) => MemFault::RowWrites,
        DiskFault::Full => MemFault::Full,
        // Work on a disk in memory is done at once, in the order it is asked for: it cannot be made to wait.
        DiskFault::FsyncErrorOnce(Part::Snapshot)
        | DiskFault::WriteError(Part::Snapshot)
        | DiskFault::Hung
        | DiskFault::Slow { .. } => return None,
    })
}

fn corrupt(disk: &MemDisk, part: Part, damage: Damage) -> bool {
    let spoil = match damage {
        Damage::FlipBit { at, bit } => Spoil::FlipBit { at, bit },
        Damage::ZeroSector { at } => Spoil::ZeroSector { at },
        Damage::Truncate { at } => Spoil::Truncate { at },
    };
    match part {
        Part::Log => disk.spoil_log(spoil),
        Part::RowsJournal | Part::RowsTable => disk.spoil_rows(),
        Part::Snapshot => disk.spoil_snapshot(spoil),
    }
}

impl Cluster for SimCluster {
    fn harness(&self) -> &'static str {
        "simulation"
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.inner.machines.lock().keys().copied().collect()
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.machine(node).is_some_and(|machine| machine.is_up())
    }

    fn now(&self) -> Micros {
        // Timers go by milliseconds, and much happens in one. A microsecond per look keeps what came first apart from what
        // came next; all clients run in one thread, so the order of looks is the order of things.
        let now = u64::try_from(sim_now().as_micros()).unwrap_or(u64::MAX);
        let before = self.inner.looked.fetch_max(now, Ordering::Relaxed);
        if before < now { now } else { self.inner.looked.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<HttpResponse, SendError>> {
        Box::pin(async move {
            let answer = self.inner.clients.send(node, request, deadline).await;
            match &answer {
                Ok(response) => {
                    self.inner.trace.note("answer", &[node, response.status.into(), fingerprint(&response.body)]);
                }
                Err(error) => {
                    let kind = match error {
                        SendError::NotSent(_) => 1,
                        SendError::Lost(_) => 2,
                        SendError::TimedOut => 3,
                    };
                    self.inner.trace.note("no answer", &[node, kind]);
                }
            }
            answer
        })
    }

    fn addresses(&self, node: NodeId) -> (String, String) {
        (peer_addr(node), http_addr(node))
    }

    fn keys(&self) -> (String, String) {
        (SHOP_KEY.to_owned(), ADMIN_KEY.to_owned())
    }

    fn supports(&self, act: &Act) -> bool {
        match act {
            Act::BreakDisk { fault, .. } => mem_fault(*fault).is_some(),
            // A machine of turmoil's cannot be kept from running; see the crate's text.
            Act::Pause(_) | Act::Resume(_) | Act::SwapBinary(_) => false,
            _ => true,
        }
    }

    fn act(&self, act: Act) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let what = format!("{act:?}");
            self.inner.trace.note("act", &[fingerprint(what.as_bytes())]);
            let done = self.do_act(act).await;
            self.log(format!("{what}{}", done.as_ref().err().map(|error| format!(": {error}")).unwrap_or_default()));
            done
        })
    }

    fn evidence(&self) -> String {
        self.inner.evidence.lock().join("\n")
    }
}
