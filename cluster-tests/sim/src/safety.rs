//! What must hold at every step, looked at from inside the nodes.

use std::collections::BTreeMap;

use agora_history::NodeId;
use agora_raft::Role;
use agora_storage::{Keyspace, LogPosition, StateHeader, codec, meta};

use crate::cluster::SimCluster;

/// States remembered for comparing.
const STATES_MAX: usize = 50_000;

/// What was seen so far.
#[derive(Default)]
pub struct Safety {
    leaders: BTreeMap<u64, NodeId>,
    /// By index: term, digest and chain head, and who had them first.
    states: BTreeMap<u64, (u64, u128, [u8; 32], NodeId)>,
    applied: BTreeMap<NodeId, u64>,
    compared: u64,
    /// The most transactions that apply refused as impossible on one node.
    impossible: u64,
}

impl Safety {
    /// Looks at all nodes.
    pub fn look(&mut self, cluster: &SimCluster) {
        for machine in cluster.machines() {
            let Some(shop) = machine.shop() else { continue };
            let status = shop.cluster().status_watch().borrow().clone();
            if status.role == Role::Leader {
                self.leads(cluster, machine.node, status.term);
            }
            let applied = shop.cluster().applied_index();
            if self.applied.insert(machine.node, applied) != Some(applied) {
                let impossible = shop.metrics().impossible;
                if impossible > self.impossible {
                    self.impossible = impossible;
                    cluster.found(format!(
                        "node {}: apply refused {impossible} transactions that no honest decision can have produced",
                        machine.node
                    ));
                }
                self.compare(cluster, machine.node, shop.cluster().rows().as_ref());
            }
        }
    }

    /// States that two nodes were found to have alike.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Terms in which somebody led.
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }

    fn leads(&mut self, cluster: &SimCluster, node: NodeId, term: u64) {
        match self.leaders.insert(term, node) {
            Some(other) if other != node => {
                self.leaders.insert(term, other);
                cluster.found(format!("nodes {other} and {node} both lead in term {term}"));
            }
            Some(_) => {}
            None => {
                cluster.trace().note("leads", &[node, term]);
                cluster.log(format!("node {node} leads in term {term}"));
            }
        }
    }

    fn compare(&mut self, cluster: &SimCluster, node: NodeId, rows: &dyn agora_storage::Rows) {
        let Ok(view) = rows.view() else { return };
        let read = |key| view.get(Keyspace::Meta, key).ok().flatten();
        let (Some(at), Some(state)) = (read(meta::APPLIED), read(meta::STATE)) else { return };
        let (Ok(at), Ok(state)) = (codec::decode::<LogPosition>(&at), codec::decode::<StateHeader>(&state)) else {
            cluster.found(format!("node {node}: the rows about the rows cannot be read"));
            return;
        };
        cluster.trace().note("applied", &[node, at.index, at.term, state.digest as u64]);
        match self.states.get(&at.index) {
            Some((term, digest, chain, other)) if *other != node => {
                self.compared += 1;
                if (*term, *digest, *chain) != (at.term, state.digest, state.chain_head) {
                    cluster.found(format!(
                        "nodes {other} and {node} differ at index {}: terms {term} and {}, digests {digest:x} and {:x}",
                        at.index, at.term, state.digest
                    ));
                }
            }
            Some(_) => {}
            None => {
                self.states.insert(at.index, (at.term, state.digest, state.chain_head, node));
                if self.states.len() > STATES_MAX {
                    self.states.pop_first();
                }
            }
        }
    }
}
