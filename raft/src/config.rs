//! The settings of one node, their defaults and bounds, and the engine's settings derived from them.
//!
//! The election timing follows from the engine's arithmetic: a follower stands only after `election_max_ms` plus a
//! random time between min and max of silence, and the leader's lease is `election_max_ms` too. 100/300–500 ms give
//! 0.8–1.0 s from a leader's death to the next election.

use std::time::Duration;

use openraft::{SnapshotPolicy, StepDownPolicy};
use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// Most entries on their way at once: beyond a few, batching is lost and nothing is won.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 64;
/// Most transactions in one entry.
pub const ENTRY_COUNT_MAX: usize = 65_536;
/// Most bytes in one entry; leaves room for headers below the frame limit of log and wire.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most transactions waiting in the journal.
pub const QUEUE_COUNT_MAX: usize = 1_000_000;
/// Fewest bytes of log a node may be told to keep: so few that a test sees it purged within seconds.
pub const LOG_BYTES_MIN: u64 = 64 * 1024;

/// A node of the cluster, as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Node id, from 1; never used twice in the life of a cluster.
    pub id: u64,
    /// Address of the peer port, as other nodes dial it.
    pub peer_addr: String,
    /// Address of the HTTP port, as clients dial it.
    pub http_addr: String,
}

/// How a node begins.
#[derive(Clone, Debug)]
pub enum Boot {
    /// The directory already holds a node: go on where it was.
    Existing,
    /// A new cluster: each of its first members starts with the same list and the same lineage.
    Create {
        /// The cluster's identity, drawn once by whoever creates it.
        lineage: u128,
        /// All first voters, this node among them.
        members: Vec<Member>,
    },
    /// An empty directory: wait to be added by the leader, and take over the lineage of the first peer that calls.
    Join,
}

/// Settings of one node.
#[derive(Clone)]
pub struct RaftConfig {
    /// This node's id, from 1.
    pub node_id: u64,
    /// Name of the cluster; peers of another name are refused.
    pub cluster: String,
    /// Address to listen on for peers, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Address clients dial; told to the other nodes.
    pub http_advertise: String,
    /// Secret shared by all nodes of the cluster; each connection proves it in both directions.
    pub peer_secret: [u8; 32],
    /// Version of the program; told to the other nodes.
    pub version: String,
    /// Peers to ask for a snapshot when the rows are lost and the log no longer names the members.
    pub seeds: Vec<Member>,

    /// Interval of heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// Shortest random part of the election timeout, in milliseconds.
    pub election_min_ms: u64,
    /// Longest random part, the silence before it, and the leader's lease, in milliseconds.
    pub election_max_ms: u64,

    /// Most transactions in one entry.
    pub entry_count_max: usize,
    /// Most bytes of transactions in one entry.
    pub entry_bytes_max: usize,
    /// Most entries on their way at once.
    pub entries_in_flight_max: usize,
    /// Most transactions waiting to be proposed.
    pub queue_count_max: usize,
    /// Most bytes waiting to be proposed.
    pub queue_bytes_max: usize,
    /// Feature level the entries are applied by.
    pub feature_level: u32,

    /// Bytes of log kept on disk; beyond it the oldest applied entries go. While a peer needs them to catch up, up to
    /// twice as much.
    pub log_bytes_max: u64,
    /// Bytes of log kept in memory, so that replication and apply do not read the disk.
    pub log_cache_bytes_max: usize,
    /// Bytes of log after which the rows are made durable, so that the log before may go.
    pub snapshot_log_bytes: u64,
    /// Age in milliseconds after which the rows are made durable anyway, if anything was applied.
    pub snapshot_age_ms: u64,

    /// A checkpoint is proposed after so many entries …
    pub checkpoint_entries: u64,
    /// … or so many milliseconds, if anything was applied since the last one.
    pub checkpoint_ms: u64,

    /// A leader whose log or apply thread has not moved for so long with work waiting hands over, in milliseconds.
    pub stall_hand_over_ms: u64,
    /// After so long the process must end, in milliseconds.
    pub stall_exit_ms: u64,
    /// How far a clock may be from the middle of the voters' clocks, in milliseconds.
    pub clock_skew_max_ms: i64,
    /// A hand-over without a successor for so long ends the process, in milliseconds.
    pub transfer_timeout_ms: u64,
    /// How long a start may wait for a peer's snapshot when the rows are lost, in milliseconds.
    pub rebuild_timeout_ms: u64,
}

impl Default for RaftConfig {
    fn default() -> RaftConfig {
        RaftConfig {
            node_id: 0,
            cluster: String::new(),
            listen: "127.0.0.1:0".to_owned(),
            http_advertise: String::new(),
            peer_secret: [0; 32],
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seeds: Vec::new(),
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 500,
            entry_count_max: 4096,
            entry_bytes_max: 1024 * 1024,
            entries_in_flight_max: 2,
            queue_count_max: 32_768,
            queue_bytes_max: 64 * 1024 * 1024,
            feature_level: 1,
            log_bytes_max: 256 * 1024 * 1024,
            log_cache_bytes_max: 32 * 1024 * 1024,
            snapshot_log_bytes: 64 * 1024 * 1024,
            snapshot_age_ms: 60_000,
            checkpoint_entries: 10_000,
            checkpoint_ms: 1_000,
            stall_hand_over_ms: 500,
            stall_exit_ms: 10_000,
            clock_skew_max_ms: 1_000,
            transfer_timeout_ms: 3_000,
            rebuild_timeout_ms: 30_000,
        }
    }
}

impl RaftConfig {
    /// Refuses values that cannot work, with the value and what to do.
    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let refuse = |message: String| Err(StartError::Config(message));
        if self.node_id == 0 {
            return refuse("node_id is 0: ids start at 1".to_owned());
        }
        if self.cluster.is_empty() || self.cluster.len() > 128 {
            return refuse(format!("cluster name of {} bytes: give it 1 to 128", self.cluster.len()));
        }
        if self.heartbeat_ms == 0
            || self.election_min_ms < 2 * self.heartbeat_ms
            || self.election_max_ms <= self.election_min_ms
        {
            return refuse(format!(
                "heartbeat_ms {} / election_min_ms {} / election_max_ms {}: the election time must be at least twice the heartbeat, and max above min",
                self.heartbeat_ms, self.election_min_ms, self.election_max_ms
            ));
        }
        if self.entries_in_flight_max == 0 || self.entries_in_flight_max > ENTRIES_IN_FLIGHT_MAX {
            return refuse(format!(
                "entries_in_flight_max {}: give 1 to {ENTRIES_IN_FLIGHT_MAX}",
                self.entries_in_flight_max
            ));
        }
        if self.entry_count_max == 0 || self.entry_count_max > ENTRY_COUNT_MAX {
            return refuse(format!("entry_count_max {}: give 1 to {ENTRY_COUNT_MAX}", self.entry_count_max));
        }
        if self.entry_bytes_max == 0 || self.entry_bytes_max > ENTRY_BYTES_MAX {
            return refuse(format!("entry_bytes_max {}: give 1 to {ENTRY_BYTES_MAX}", self.entry_bytes_max));
        }
        if self.queue_count_max == 0
            || self.queue_count_max > QUEUE_COUNT_MAX
            || self.queue_bytes_max < self.entry_bytes_max
        {
            return refuse(format!(
                "queue_count_max {} / queue_bytes_max {}: give 1 to {QUEUE_COUNT_MAX}, and bytes for at least one entry",
                self.queue_count_max, self.queue_bytes_max
            ));
        }
        if self.log_bytes_max < LOG_BYTES_MIN
            || self.snapshot_log_bytes == 0
            || self.snapshot_log_bytes > self.log_bytes_max
        {
            return refuse(format!(
                "log_bytes_max {} / snapshot_log_bytes {}: give at least {LOG_BYTES_MIN}, and the second below the first",
                self.log_bytes_max, self.snapshot_log_bytes
            ));
        }
        Ok(())
    }

    /// The engine's settings. What is not named here keeps the engine's default.
    pub(crate) fn engine(&self) -> Result<openraft::Config, StartError> {
        let config = openraft::Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            // A restarted leader stands for election like everyone else; see openraft issue 1511.
            enable_leader_restore: Some(false),
            // The rows are durable by themselves: when they are synced and how much log is kept is decided here.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX / 2,
            max_payload_entries: 1024,
            // Entries leave for the followers while the leader's own disk still works on them.
            broadcast_submitted_on_append: Some(true),
            backoff: "50ms 100ms 200ms ...500ms".to_owned(),
            removed_leader_step_down: StepDownPolicy::After(150),
            // Deadline of one whole snapshot transfer: the transport has finer ones for each step.
            install_snapshot_timeout: Duration::from_secs(3600).as_millis() as u64,
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| StartError::Config(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> RaftConfig {
        RaftConfig { node_id: 1, cluster: "c".to_owned(), ..RaftConfig::default() }
    }

    #[test]
    fn defaults_are_valid_for_us_and_for_the_engine() {
        valid().validate().unwrap();
        let engine = valid().engine().unwrap();
        assert_eq!((engine.enable_pre_vote, engine.enable_leader_restore), (Some(true), Some(false)));
        assert_eq!(engine.allow_log_reversion, None, "a follower that lost its log must never be counted");
    }

    #[test]
    fn impossible_values_are_refused_with_what_to_do() {
        let refused: [fn(&mut RaftConfig); 6] = [
            |c| c.node_id = 0,
            |c| c.cluster.clear(),
            |c| c.election_min_ms = 100,
            |c| c.entries_in_flight_max = 0,
            |c| c.entry_bytes_max = usize::MAX,
            |c| c.log_bytes_max = 1,
        ];
        for spoil in refused {
            let mut config = valid();
            spoil(&mut config);
            assert!(config.validate().is_err());
        }
    }
}
