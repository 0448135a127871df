//! The engine's type parameters, and the two translations between its world and ours.
//!
//! Nothing of the engine's types is visible outside this crate. Two facts to know here:
//!
//! - The engine counts entries from 0; everything else in Agora counts from 1, so that 0 can say "nothing". The
//!   translation is [`position`] and [`log_id`], used at every border (log, rows, wire, status).
//! - `leader_id_std` is used: one leader per term, so the committed leader id of an entry *is* its term.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agora_storage::meta::LogPosition;
use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};

/// The engine's type parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Sealed;
    type R = ();
    type NodeId = u64;
    type Node = MemberAddr;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Sealed, u64, MemberAddr>;
    type Entry = openraft::Entry<TermId, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

/// The term, in the engine's wrapping.
pub type TermId = <leader_id_std::LeaderId<u64, u64> as RaftLeaderId>::Committed;
/// The engine's log id.
pub type LogId = openraft::LogId<TermId>;
/// The engine's vote.
pub type Vote = openraft::impls::Vote<leader_id_std::LeaderId<u64, u64>>;
/// The engine's entry.
pub type Entry = openraft::Entry<TermId, openraft::EntryPayload<Sealed, u64, MemberAddr>>;
/// The engine's membership.
pub type Membership = openraft::Membership<u64, MemberAddr>;
/// The engine's membership with the log id that set it.
pub type StoredMembership = openraft::StoredMembership<TermId, u64, MemberAddr>;

/// Bytes of a proposed entry, sealed for log and wire (see `record`); shared, never copied.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Bytes);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Where a member is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddr {
    /// Address of the peer port, as other nodes dial it.
    pub peer_addr: String,
    /// Address of the HTTP port, as clients dial it.
    pub http_addr: String,
}

/// Answers a write by calling a function on the engine's task: no channel, no wake-up.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send + 'static>);

impl<T> Callback<T> {
    /// Wraps the function to be called with the result.
    pub fn new(call: impl FnOnce(T) + Send + 'static) -> Callback<T> {
        Callback(Box::new(call))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// From the engine's log id to a position counted from 1.
pub fn position(id: &LogId) -> LogPosition {
    LogPosition { index: id.index + 1, term: term_of(id) }
}

/// From a position counted from 1 to the engine's log id.
pub fn log_id(at: LogPosition) -> LogId {
    assert!(at.index >= 1, "position {} of term {} cannot be an entry: indexes start at 1", at.index, at.term);
    LogId::new(term_id(at.term), at.index - 1)
}

/// The engine's wrapping of a term.
pub fn term_id(term: u64) -> TermId {
    // A committed leader id holds the term alone, so the node id given here leaves no trace.
    leader_id_std::LeaderId { term, voted_for: 0 }.to_committed()
}

/// The term of a log id.
pub fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

/// A vote as it is stored and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// A majority agreed: that node leads the term.
    pub committed: bool,
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> VoteRecord {
        VoteRecord { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl VoteRecord {
    /// As the engine wants it.
    pub fn to_vote(self) -> Vote {
        if self.committed { Vote::new_committed(self.term, self.node) } else { Vote::new(self.term, self.node) }
    }
}

/// The members as they are stored, in the log and (with every id ever used) in the rows and snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipRecord {
    /// Voter sets; two while a change is on its way.
    pub configs: Vec<BTreeSet<u64>>,
    /// All members, learners too, with their addresses.
    pub nodes: BTreeMap<u64, MemberAddr>,
    /// Every node id that was ever a member: none is used twice. Empty in the log, complete in the rows.
    pub used_ids: BTreeSet<u64>,
}

impl MembershipRecord {
    /// From the engine's membership; `used_ids` are those known before it, to which its own are added.
    pub fn new(membership: &Membership, used_ids: &BTreeSet<u64>) -> MembershipRecord {
        let nodes: BTreeMap<u64, MemberAddr> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        let mut used_ids = used_ids.clone();
        used_ids.extend(nodes.keys());
        MembershipRecord { configs: membership.get_joint_config().clone(), nodes, used_ids }
    }

    /// As the engine wants it.
    pub fn to_membership(&self) -> Membership {
        if self.configs.is_empty() {
            return Membership::default();
        }
        Membership::new(self.configs.clone(), self.nodes.clone())
            .expect("a stored membership names an address for every voter")
    }
}
