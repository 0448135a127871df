//! The cluster as an attack finds it, and whose turn it is to be hit.
//!
//! Targets go by turns: an even round of an attack hits the leader, an odd one a follower. Two rounds of any attack are
//! enough for the coverage that checker C11 asks for.

use std::{collections::BTreeSet, sync::Arc};

use agora_history::NodeId;

use crate::{
    cluster::{Act, Cluster},
    rng::Rng,
};

/// Voters, leader and turn.
#[derive(Clone)]
pub struct Scene {
    /// Who led a moment ago.
    pub leader: NodeId,
    /// Members with a vote, ascending; the leader is one of them.
    pub voters: Vec<NodeId>,
    /// Voters that still hold their log from its first entry on: they can make their rows again by themselves.
    pub uncut: BTreeSet<NodeId>,
    /// Rounds of this attack before this one.
    pub turn: u64,
    cluster: Arc<dyn Cluster>,
}

impl Scene {
    /// As found.
    pub fn new(leader: NodeId, voters: Vec<NodeId>, uncut: BTreeSet<NodeId>, cluster: Arc<dyn Cluster>) -> Scene {
        Scene { leader, voters, uncut, turn: 0, cluster }
    }

    /// Whether the harness can do it. Attacks leave out variants that it cannot; what they cannot do without, they
    /// declare in [`super::Attack::needs`].
    pub fn can(&self, act: &Act) -> bool {
        self.cluster.supports(act)
    }

    /// Voters that do not lead.
    pub fn followers(&self) -> Vec<NodeId> {
        self.voters.iter().copied().filter(|node| *node != self.leader).collect()
    }

    /// The leader on even turns, some follower on odd ones.
    pub fn victim(&self, rng: &mut Rng) -> NodeId {
        if self.turn.is_multiple_of(2) { self.leader } else { self.follower(rng) }
    }

    /// Some follower; the leader where it is alone.
    pub fn follower(&self, rng: &mut Rng) -> NodeId {
        rng.pick(&self.followers()).copied().unwrap_or(self.leader)
    }

    /// Voters that are not among these.
    pub fn rest(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.voters.iter().copied().filter(|node| !nodes.contains(node)).collect()
    }

    /// A harness can do what is asked for in all these.
    pub fn can_all(&self, acts: &[Act]) -> bool {
        acts.iter().all(|act| self.can(act))
    }

    /// Most voters that may be gone without loss of service.
    pub fn minority(&self) -> usize {
        self.voters.len().saturating_sub(1) / 2
    }

    /// How many voters decide.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// So many voters, the victim of this turn among them.
    pub fn group(&self, size: usize, rng: &mut Rng) -> BTreeSet<NodeId> {
        let first = self.victim(rng);
        let mut others = self.voters.clone();
        others.retain(|node| *node != first);
        rng.shuffle(&mut others);
        let mut group = BTreeSet::from([first]);
        group.extend(others.into_iter().take(size.saturating_sub(1)));
        group
    }

    /// All voters.
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.voters.iter().copied().collect()
    }
}

/// A set of one.
pub fn only(node: NodeId) -> BTreeSet<NodeId> {
    BTreeSet::from([node])
}
