//! Drives the simulation: steps, and between them what only the owner of the simulation can do.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agora_history::NodeId;
use agora_scenario::{cluster::Cluster, rng::Rng};
use agora_storage::{
    MemDisk,
    disk::{Disk, OpenedRows},
};
use turmoil::Sim;

use crate::{cluster::SimCluster, commands::Command, entropy, machine::Machine, safety::Safety, wires::Place};

/// One step of the simulation.
pub const TICK: Duration = Duration::from_millis(1);
/// What a packet takes through a network that is well, at most.
const LATENCY_MAX: Duration = Duration::from_millis(3);
/// A process that died is started again after so long, as a supervisor would.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// Segments a connection may have on its way.
const SEGMENTS_MAX: usize = 1_024;

/// Drives one run.
pub struct Driver {
    sim: Sim<'static>,
    cluster: SimCluster,
    safety: Safety,
    chance: Rng,
    /// Processes to be started again, and when.
    restarts: Vec<(Duration, NodeId, u64)>,
    /// Nodes that ever were.
    hosts: BTreeSet<NodeId>,
}

impl Driver {
    /// With all first machines started. `run_max` is the longest a run may take, in simulated time.
    pub fn new(cluster: SimCluster, seed: u64, run_max: Duration) -> Driver {
        let sim = turmoil::Builder::new()
            .tick_duration(TICK)
            .simulation_duration(run_max)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(SEGMENTS_MAX)
            .rng_seed(seed)
            .build();
        let chance = Rng::new(seed).fork("driver");
        let (safety, restarts, hosts) = (Safety::default(), Vec::new(), BTreeSet::new());
        let mut driver = Driver { sim, safety, cluster, chance, restarts, hosts };
        for machine in driver.cluster.machines() {
            driver.install(&machine);
        }
        driver
    }

    /// A program on the clients' machine.
    pub fn client(&mut self, client: impl Future<Output = turmoil::Result> + 'static) {
        self.sim.client("clients", client);
    }

    /// Steps until the clients are done. Returns the simulated time.
    ///
    /// # Errors
    /// The clients failed, or took too long.
    pub fn run(&mut self) -> Result<Duration, String> {
        loop {
            entropy::set_now(self.sim.elapsed());
            let done = self.sim.step().map_err(|error| error.to_string())?;
            entropy::set_now(self.sim.elapsed());
            while let Some(command) = self.cluster.commands().pop() {
                self.serve(command);
            }
            self.restart();
            self.safety.look(&self.cluster);
            if done {
                return Ok(self.sim.elapsed());
            }
        }
    }

    fn install(&mut self, machine: &Arc<Machine>) {
        let node = machine.node;
        machine.began();
        if !self.hosts.insert(node) {
            // The place of one that was retired: turmoil forgets no host.
            self.sim.bounce(Place::Node(node).name());
            return;
        }
        let cluster = self.cluster.clone();
        self.sim.host(Place::Node(node).name(), move || {
            let machine = cluster.machine(node);
            async move {
                match machine {
                    Some(machine) => machine.live().await,
                    None => std::future::pending().await,
                }
            }
        });
    }

    fn serve(&mut self, command: Command) {
        match command {
            Command::End { nodes, power_loss, done } => {
                self.end(&nodes, power_loss);
                let _ = done.send(());
            }
            Command::Start { node, done } => {
                self.start(node);
                let _ = done.send(());
            }
            Command::Provision { node, done } => {
                if let Some(machine) = self.cluster.machine(node) {
                    self.install(&machine);
                }
                let _ = done.send(());
            }
            Command::Stopped(node) => self.end(&[node].into(), false),
            Command::Tripped { node } => {
                self.cluster.log(format!("node {node} was killed at the counted call"));
                self.end(&[node].into(), false);
                self.cluster.wires().set_silent(Place::Node(node), false);
            }
            Command::Died { node, life, why } => self.died(node, life, &why),
        }
    }

    fn died(&mut self, node: NodeId, life: u64, why: &str) {
        let is_it = |machine: &Arc<Machine>| machine.is_up() && machine.life() == life;
        let Some(machine) = self.cluster.machine(node).filter(is_it) else { return };
        self.cluster.log(format!("node {node} ended: {why}"));
        self.cluster.trace().note("died", &[node]);
        if !machine.is_disk_hurt() {
            self.cluster.found(format!("node {node} ended although nothing was done to its disk: {why}"));
        }
        self.end(&[node].into(), false);
        self.restarts.push((self.sim.elapsed() + RESTART_AFTER, node, life));
    }

    fn restart(&mut self) {
        let now = self.sim.elapsed();
        let due: Vec<_> = self.restarts.extract_if(.., |(at, _, _)| *at <= now).collect();
        for (_, node, life) in due {
            if self.cluster.machine(node).is_some_and(|machine| machine.life() == life) {
                self.start(node);
            }
        }
    }

    fn start(&mut self, node: NodeId) {
        let Some(machine) = self.cluster.machine(node).filter(|machine| !machine.is_up()) else { return };
        self.cluster.trace().note("start", &[node]);
        if let Some(reason) = lost_rows(&machine.disk().fork()) {
            self.cluster.found(format!("node {node} has lost rows that it had recorded as durable: {reason}"));
        }
        self.cluster.wires().set_dark(Place::Node(node), false);
        machine.began();
        self.sim.bounce(Place::Node(node).name());
    }

    /// Ends processes, all in the same moment.
    fn end(&mut self, nodes: &BTreeSet<NodeId>, power_loss: bool) {
        let places = self.cluster.places();
        for node in nodes {
            let Some(machine) = self.cluster.machine(*node) else { continue };
            let place = Place::Node(*node);
            let was_up = machine.is_up();
            self.cluster.trace().note("end", &[*node, power_loss.into(), was_up.into()]);
            if was_up {
                // Before anything of the process is dropped: what its destructors would write must not get to the disk.
                machine.disk().kill();
                let others: Vec<_> = places.iter().copied().filter(|other| *other != place).collect();
                let deaf = if power_loss { others } else { self.cluster.wires().out_of_reach(place, &others) };
                for other in &deaf {
                    self.sim.partition(place.name(), other.name());
                }
                let shop = machine.ended();
                self.sim.crash(place.name());
                drop(shop);
                for other in &deaf {
                    self.sim.repair(place.name(), other.name());
                }
            }
            if power_loss {
                self.cluster.wires().set_dark(place, true);
                machine.disk().crash(self.chance.next_u64());
            } else {
                self.cluster.wires().set_silent(place, false);
            }
        }
    }

    /// The cluster that is driven.
    pub fn cluster(&self) -> &SimCluster {
        &self.cluster
    }

    /// Safety, as it was looked at.
    pub fn safety(&self) -> &Safety {
        &self.safety
    }

    /// Names of the nodes that run.
    pub fn up(&self) -> Vec<NodeId> {
        self.cluster.nodes().into_iter().filter(|node| self.cluster.is_up(*node)).collect()
    }
}

/// Why the rows that a node has recorded as durable are not there; nothing if they are, or were spoiled on purpose.
fn lost_rows(disk: &MemDisk) -> Option<String> {
    let identity = disk.open_log().ok()?.identity().ok()??;
    match disk.open_rows(identity.generation, identity.synced_index).ok()? {
        OpenedRows::Lost { reason } if !reason.ends_with("is damaged") => Some(reason),
        OpenedRows::Lost { .. } | OpenedRows::Ready(_) => None,
    }
}
