//! What a node says of itself and knows of the others.

use agora_storage::meta::LogPosition;
use serde::{Deserialize, Serialize};

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Proposes entries.
    Leader,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Follows without a vote.
    #[default]
    Learner,
}

/// How well a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing wrong.
    #[default]
    Ok,
    /// Its log or apply thread does not move although work waits.
    Stalled,
    /// Its clock is too far from the middle of the voters' clocks.
    ClockOff,
    /// Its state differs from another node's at the same index.
    Diverged,
    /// It is handing leadership over or stopping.
    HandingOver,
    /// It did not answer lately.
    Unreachable,
    /// Some of its rows cannot be read; it makes them anew as soon as the others can do without it.
    Damaged,
}

/// The state of a node right after a checkpoint entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// Index of the checkpoint entry.
    pub index: u64,
    /// Head of the audit chain there.
    pub chain_head: [u8; 32],
    /// State digest there.
    pub digest: u128,
}

/// What a node says of itself; exchanged with every ping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node id.
    pub node: u64,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<u64>,
    /// End of its log.
    pub last_log: LogPosition,
    /// What it knows to be committed.
    pub committed: u64,
    /// What it has applied.
    pub applied: u64,
    /// Version of its program.
    pub version: String,
    /// Its HTTP address.
    pub http_addr: String,
    /// Highest feature level it knows.
    pub feature_level: u32,
    /// How it is.
    pub health: Health,
    /// Its wall clock, milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Its last checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointReport>,
}

/// One member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Node id.
    pub id: u64,
    /// What it is.
    pub role: Role,
    /// Peer address.
    pub peer_addr: String,
    /// HTTP address.
    pub http_addr: String,
    /// Its term, as last heard.
    pub term: u64,
    /// Index of the last entry in its log.
    pub last_log: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What it has applied.
    pub applied: u64,
    /// Entries it has still to apply, compared with what this node knows to be committed.
    pub lag: u64,
    /// Version of its program; empty if never heard.
    pub version: String,
    /// Highest feature level it knows; 0 if never heard.
    pub feature_level: u32,
    /// How it is.
    pub health: Health,
    /// Its state at its last checkpoint.
    pub checkpoint: Option<CheckpointReport>,
    /// Milliseconds since it was last heard; 0 for this node, `None` if never.
    pub heard_ms: Option<u64>,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node's id.
    pub node: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Lineage; 0 while a joining node does not know it.
    pub lineage: u128,
    /// Times this node's directory was opened.
    pub incarnation: u64,
    /// What this node is.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<u64>,
    /// The reign in force here, if this node leads one.
    pub reign: Option<u64>,
    /// Index of the last entry in its log.
    pub last_log: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What it has applied.
    pub applied: u64,
    /// Last index purged from its log.
    pub purged: u64,
    /// Milliseconds since a majority last answered, if it leads.
    pub quorum_age_ms: Option<u64>,
    /// How it is.
    pub health: Health,
    /// Why, when it is not well.
    pub health_detail: String,
    /// Whether the voters' clocks agree.
    pub clock_trusted: bool,
    /// A change of members is on its way.
    pub changing_members: bool,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
}

impl Status {
    /// Lowest feature level that every member was heard to know; 0 if one was never heard.
    pub fn common_feature_level(&self) -> u32 {
        self.members.iter().map(|member| member.feature_level).min().unwrap_or(0)
    }
}
