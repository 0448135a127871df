//! Every key a configuration file may hold: its meaning, unit, default and bounds, in one table.
//!
//! The table is read by three: the reader, which takes defaults and bounds from it and refuses every other key; the
//! writer, which comments each key from it; and the test that holds the files in `deploy` against it. So a key cannot
//! exist without a comment, and a comment cannot name a default that is not the one in force.

use agora_actors::hosts::HOSTS_MAX;

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A whole number from `min` to `max`.
    Number {
        /// Taken when the key is absent.
        default: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// One of a few words.
    Choice {
        /// Taken when the key is absent.
        default: &'static str,
        /// All of them.
        allowed: &'static [&'static str],
    },
    /// Text that may be left out.
    Text {
        /// Taken when the key is absent.
        default: &'static str,
    },
    /// A number every file must give itself: it has no sensible default.
    NumberGiven {
        /// Largest value; the smallest is 1.
        max: u64,
    },
    /// Text every file must give itself.
    TextGiven,
    /// Text every file must give itself, never shown.
    Secret,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table it stands in, `raft` for `[raft]`.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it may hold.
    pub rule: Rule,
    /// `ms`, `bytes`, or empty.
    pub unit: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
}

/// Members a configuration may list.
pub const MEMBERS_MAX: usize = 9;
/// Largest node id.
pub const NODE_ID_MAX: u64 = 65_535;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const HOUR_MS: u64 = 3_600_000;

/// The sections in the order of a file, each with the sentence that stands above it.
pub const SECTIONS: &[(&str, &str)] = &[
    ("node", "This process."),
    ("cluster", "The cluster this node belongs to: the same in the files of all nodes."),
    (
        "cluster.members",
        "The nodes the cluster begins with, the same list in all files. A node that is not in it joins later.",
    ),
    ("http", "What clients talk to."),
    ("peer", "What the other nodes talk to. Keep this port inside your network."),
    ("keys", "Secrets. `agora init` makes strong ones; this file should be readable by the service alone."),
    ("shop", "The shop itself."),
    ("raft", "Agreement. The defaults suit nodes in one region."),
    ("storage", "Rows on disk."),
    ("log", "What the process writes to standard error."),
];

const fn number(
    section: &'static str,
    name: &'static str,
    default: u64,
    min: u64,
    max: u64,
    unit: &'static str,
    about: &'static str,
) -> Key {
    Key { section, name, rule: Rule::Number { default, min, max }, unit, about }
}

const fn key(section: &'static str, name: &'static str, rule: Rule, about: &'static str) -> Key {
    Key { section, name, rule, unit: "", about }
}

/// All keys, by section, in the order of a file.
pub const KEYS: &[Key] = &[
    key(
        "node",
        "id",
        Rule::NumberGiven { max: NODE_ID_MAX },
        "Number of this node. Never used again in the life of a cluster, not even after the node was removed.",
    ),
    key("node", "data_dir", Rule::TextGiven, "Directory for everything this node keeps. Relative to this file."),
    number(
        "node",
        "worker_threads",
        2,
        1,
        256,
        "threads",
        "Threads that answer requests. Log, apply and agreement have threads of their own.",
    ),
    key(
        "cluster",
        "name",
        Rule::TextGiven,
        "Name of the cluster, a-z, 0-9 and '-'. Nodes of another name are refused.",
    ),
    key(
        "cluster",
        "lineage",
        Rule::Secret,
        "Identity of the cluster's history, 32 hex digits, drawn once. Nodes of another lineage are refused.",
    ),
    key("cluster.members", "id", Rule::NumberGiven { max: NODE_ID_MAX }, "Number of the node."),
    key("cluster.members", "peer", Rule::TextGiven, "host:port at which the other nodes reach it."),
    key("cluster.members", "http", Rule::TextGiven, "host:port at which clients reach it."),
    key("http", "listen", Rule::TextGiven, "host:port to listen on."),
    key(
        "http",
        "advertise",
        Rule::Text { default: "" },
        "host:port told to others. Empty: as in cluster.members, else as listen.",
    ),
    number("http", "body_bytes_max", MIB, KIB, 64 * MIB, "bytes", "Largest request body."),
    number(
        "http",
        "request_timeout_ms",
        10_000,
        100,
        HOUR_MS,
        "ms",
        "Time after which a request is answered, if need be with 'outcome unknown'.",
    ),
    number(
        "http",
        "header_timeout_ms",
        30_000,
        100,
        HOUR_MS,
        "ms",
        "Time a connection has to send the head of a request, and to stay idle between two.",
    ),
    number(
        "http",
        "connections_max",
        12_000,
        16,
        1_000_000,
        "connections",
        "Connections open at once; beyond it new ones are closed.",
    ),
    key("peer", "listen", Rule::TextGiven, "host:port to listen on."),
    key(
        "keys",
        "shop",
        Rule::Secret,
        "Bearer key for the shop's API. At least 32 characters. Environment: AGORA_SHOP_KEY.",
    ),
    key(
        "keys",
        "admin",
        Rule::Secret,
        "Bearer key for cluster administration and metrics. At least 32 characters. Environment: AGORA_ADMIN_KEY.",
    ),
    key(
        "keys",
        "peer",
        Rule::Secret,
        "What nodes prove to each other, 64 hex digits, the same in all files. Environment: AGORA_PEER_SECRET.",
    ),
    number(
        "shop",
        "order_ttl_ms",
        900_000,
        1_000,
        30 * 24 * HOUR_MS,
        "ms",
        "Time an unpaid order holds its stock before it is cancelled.",
    ),
    number(
        "shop",
        "live_entities_max",
        100_000,
        100,
        50_000_000,
        "entities",
        "SKUs, orders and accounts held in the leader's memory at once; the rest is loaded when asked for.",
    ),
    number("shop", "hosts", 2, 1, HOSTS_MAX as u64, "actors", "Actors that share the live entities of one kind."),
    number(
        "shop",
        "admission_max",
        4_096,
        1,
        1_000_000,
        "requests",
        "Writes being decided or waiting for their outcome at once; beyond it the answer is 503 OVERLOADED.",
    ),
    number("shop", "timer_tick_ms", 200, 10, 60_000, "ms", "How often the leader looks for orders whose time ran out."),
    number("raft", "heartbeat_ms", 100, 10, 60_000, "ms", "Interval of heartbeats."),
    number(
        "raft",
        "election_min_ms",
        300,
        20,
        120_000,
        "ms",
        "Shortest random part of the election timeout. At least twice the heartbeat.",
    ),
    number(
        "raft",
        "election_max_ms",
        500,
        30,
        240_000,
        "ms",
        "Longest random part, the silence before it, and the leader's lease. Above election_min_ms.",
    ),
    number("raft", "entry_count_max", 4_096, 1, 65_536, "transactions", "Transactions one log entry may hold."),
    number("raft", "entry_bytes_max", MIB, KIB, 8 * MIB, "bytes", "Size of one log entry."),
    number(
        "raft",
        "entries_in_flight_max",
        2,
        1,
        64,
        "entries",
        "Log entries on their way at once. More make smaller groups.",
    ),
    number("raft", "log_bytes_max", 256 * MIB, MIB, 64 * GIB, "bytes", "Log kept on disk."),
    number(
        "raft",
        "snapshot_log_bytes",
        64 * MIB,
        64 * KIB,
        64 * GIB,
        "bytes",
        "Log after which the rows are made durable, so that the log before may go. At most log_bytes_max.",
    ),
    number("storage", "cache_bytes", 64 * MIB, MIB, 1024 * GIB, "bytes", "Blocks of rows kept in memory."),
    number(
        "storage",
        "memtable_bytes",
        32 * MIB,
        MIB,
        4 * GIB,
        "bytes",
        "Rows gathered in memory before they are written as a sorted file, per keyspace.",
    ),
    number(
        "storage",
        "journal_bytes_max",
        256 * MIB,
        64 * MIB,
        64 * GIB,
        "bytes",
        "Journals kept before memtables are written out because of them.",
    ),
    key(
        "log",
        "format",
        Rule::Choice { default: "json", allowed: &["json", "text"] },
        "One object per line, or lines for people.",
    ),
    key(
        "log",
        "level",
        Rule::Text { default: "info,openraft=error" },
        "error, warn, info, debug or trace, and per module: info,agora_raft=debug.",
    ),
];

/// The key of that name, if there is one.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The names of a section's keys.
pub fn names(section: &str) -> impl Iterator<Item = &'static str> + Clone {
    let section = section.to_owned();
    KEYS.iter().filter(move |key| key.section == section).map(|key| key.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_complete_and_unique() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(
                SECTIONS.iter().any(|(section, _)| *section == key.section),
                "{}.{}: no such section",
                key.section,
                key.name
            );
            assert!(key.about.ends_with('.'), "{}.{}: the comment is no sentence", key.section, key.name);
            assert!(!KEYS[..at].iter().any(|other| other.section == key.section && other.name == key.name));
            if let Rule::Number { default, min, max } = key.rule {
                assert!(min <= default && default <= max, "{}.{}: default outside its bounds", key.section, key.name);
                assert!(!key.unit.is_empty(), "{}.{}: a number without a unit", key.section, key.name);
            }
        }
    }
}
