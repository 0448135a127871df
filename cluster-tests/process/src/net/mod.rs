//! The network of a cluster: one namespace per machine, and a wire between them that can be made bad.

mod address;
mod fabric;
mod links;

use std::collections::BTreeSet;

use agora_history::NodeId;
use agora_scenario::cluster::Link;

pub use address::{NODE_ID_MAX, of as address_of};
pub use fabric::Carried;
use fabric::Fabric;

use crate::{inside::Inside, kernel, shell};
use address::CLIENTS;

/// Machines and the wire between them.
pub struct Network {
    fabric: Fabric,
}

impl Network {
    /// With the clients' machine, which is this process's own namespace.
    ///
    /// # Errors
    /// What the system's tools said.
    pub fn new(_: Inside, seed: u64) -> Result<Network, String> {
        let network = Network { fabric: Fabric::new(seed) };
        let wire = kernel::tun("wire0").map_err(|error| error.to_string())?;
        shell::words(&format!("ip addr add {}/{} dev wire0", address_of(CLIENTS), address::PREFIX))?;
        shell::words("ip link set wire0 up")?;
        network.fabric.plug(CLIENTS, wire);
        Ok(network)
    }

    /// Makes a node's machine.
    ///
    /// # Errors
    /// What the system's tools said.
    pub fn add(&self, node: NodeId) -> Result<(), String> {
        if node == 0 || node > NODE_ID_MAX {
            return Err(format!("node {node}: ids go from 1 to {NODE_ID_MAX} here"));
        }
        let (space, wire) = (format!("n{node}"), format!("wire{node}"));
        shell::words(&format!("ip netns add {space}"))?;
        // Made here and moved: the packets stay with the file that made it.
        let file = kernel::tun(&wire).map_err(|error| error.to_string())?;
        shell::words(&format!("ip link set {wire} netns {space}"))?;
        shell::words(&format!("ip -n {space} addr add {}/{} dev {wire}", address_of(node), address::PREFIX))?;
        shell::words(&format!("ip -n {space} link set lo up"))?;
        shell::words(&format!("ip -n {space} link set {wire} up"))?;
        self.fabric.plug(node, file);
        Ok(())
    }

    /// Takes a node's machine away.
    ///
    /// # Errors
    /// What the system's tools said.
    pub fn remove(&self, node: NodeId) -> Result<(), String> {
        self.fabric.unplug(node);
        self.fabric.set_dark(&[node], false);
        shell::words(&format!("ip netns del n{node}")).map(drop)
    }

    /// Path of a node's namespace.
    pub fn space(node: NodeId) -> String {
        format!("/run/netns/n{node}")
    }

    /// One way, from each to each.
    pub fn set_links(&self, from: &BTreeSet<NodeId>, to: &BTreeSet<NodeId>, link: Link) {
        let (from, to): (Vec<_>, Vec<_>) = (from.iter().copied().collect(), to.iter().copied().collect());
        self.fabric.set(&from, &to, link);
    }

    /// Between clients and nodes, both ways.
    pub fn set_client_links(&self, nodes: &BTreeSet<NodeId>, link: Link) {
        let nodes: Vec<_> = nodes.iter().copied().collect();
        self.fabric.set(&nodes, &[CLIENTS], link);
        self.fabric.set(&[CLIENTS], &nodes, link);
    }

    /// All links perfect again.
    pub fn heal(&self) {
        self.fabric.heal();
    }

    /// The machines' power goes: nothing leaves or reaches them.
    pub fn power_off(&self, nodes: &[NodeId]) {
        self.fabric.set_dark(nodes, true);
    }

    /// A machine has power again and has forgotten all its connections: whoever still speaks of them is told so.
    ///
    /// # Errors
    /// What the system's tools said.
    pub fn power_on(&self, node: NodeId) -> Result<(), String> {
        // Still dark, so nobody hears of this.
        shell::words(&format!("nsenter --net={} ss -K -n -t -a", Network::space(node)))?;
        self.fabric.set_dark(&[node], false);
        Ok(())
    }

    /// Open connections between these nodes are reset.
    ///
    /// # Errors
    /// What the system's tools said.
    pub fn reset_connections(&self, nodes: &BTreeSet<NodeId>) -> Result<(), String> {
        for node in nodes {
            for peer in nodes.iter().filter(|peer| *peer != node) {
                let (space, peer) = (Network::space(*node), address_of(*peer));
                shell::words(&format!("nsenter --net={space} ss -K -n -t dst {peer}"))?;
            }
        }
        Ok(())
    }

    /// What the wire has done so far.
    pub fn carried(&self) -> Carried {
        self.fabric.carried()
    }
}
