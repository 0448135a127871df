//! Agreement on opaque transactions: what a majority of nodes holds, in one order, on disk.
//!
//! This crate knows no commerce. It wraps a Raft engine (openraft, of which no type is visible outside) into what the
//! layer above needs:
//!
//! - [`RaftNode`]: a node of the cluster, started from a [`World`] and a [`RaftConfig`];
//! - [`Journal`]: the one gate through which transactions get into the log, with reigns, waiters and read barriers;
//! - [`Apply`]: the deterministic function from entries to rows, which the layer above brings along;
//! - [`PeerService`] and [`RaftNode::call`]: requests between nodes.
//!
//! Reading order: [`apply`](Apply), `types` and `record` (how the engine's world maps to ours), `log_store` (one thread,
//! one fsync per group), `applier` and `machine` (one thread, one batch per entry), `journal`, `transport`, `snapshot`,
//! then `boot` and `supervisor`, which put it together and look after it.
//!
//! **Invariants** asserted or tested here: nothing decided in an older reign is applied after a later fence; an answer
//! is a definite no only when the transaction never will be applied; a node that lost what it acknowledged is refused
//! before the engine sees a byte of it; the log is purged only below what the rows hold durably; no row is written
//! before its entry is in this node's own log on disk.
//!
//! **Deliberately absent**: leases for reads, client sessions (the layer above has its keys), encryption of peer
//! connections (they are authenticated; run them on a private network).

mod applier;
mod apply;
mod barrier;
mod boot;
mod committed;
mod config;
mod core;
mod counters;
mod divergence;
#[cfg(test)]
mod engine_suite;
mod error;
mod hand_over;
mod identity;
mod journal;
mod local;
mod log_store;
mod machine;
mod membership;
mod node;
mod observer;
mod pulse;
mod record;
mod rows_cell;
mod snapshot;
mod stages;
mod status;
mod supervisor;
mod transport;
mod types;
mod world;

pub use crate::apply::{Applied, Apply, ApplyError, Committed, Payload, StateDigest};
pub use crate::config::{Boot, Member, RaftConfig};
pub use crate::counters::{Counter, Counters, HISTOGRAM_BOUNDS_US, Histogram};
pub use crate::error::{CallError, Fatal, Lost, MembershipError, ReadError, Refused, StartError, Timeout};
pub use crate::journal::{Journal, Pending, Placed, Reign};
pub use crate::node::{PeerService, RaftNode};
pub use crate::stages::{STAGE_BUCKETS, StageHistogram, Stages};
pub use crate::status::{CheckpointReport, Health, MemberStatus, NodeReport, Role, Status};
pub use crate::world::{BoxFuture, Clock, Exec, Net, NetListener, NetStream, Random, World};
