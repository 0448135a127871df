//! Peers talking to each other: framed TCP, four connections per pair and direction.
//!
//! | lane | carries | why alone |
//! |---|---|---|
//! | [`Lane::Append`] | the append stream, several requests on their way | large frames |
//! | [`Lane::Control`] | votes, heartbeats, read barriers, pings | must never wait behind anything large |
//! | [`Lane::Calls`] | forwarded commands and changes of members | load of the layer above; served on its runtime, not on Raft's |
//! | [`Lane::Snapshot`] | one transfer per connection | long |
//!
//! Each connection opens with [`hello`]: cluster, lineage, node, incarnation, vote and last log position, proved by the
//! shared secret. Whoever is behind what we remember of it ([`peers`]) is refused before the engine sees a byte.
//! Whatever waits at a wake-up shares one write ([`frame`]); every exchange has a deadline.

pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod peers;
pub(crate) mod server;
pub(crate) mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lane {
    /// The append stream.
    Append,
    /// Votes, heartbeats, barriers, pings.
    Control,
    /// Forwarded commands.
    Calls,
    /// One snapshot.
    Snapshot,
}

/// Lanes that are kept open and shared by many exchanges.
pub(crate) const SHARED_LANES: usize = 3;

impl Lane {
    /// Place of a shared lane in a peer's table; `None` for snapshots, which dial anew.
    pub(crate) fn slot(self) -> Option<usize> {
        match self {
            Lane::Append => Some(0),
            Lane::Control => Some(1),
            Lane::Calls => Some(2),
            Lane::Snapshot => None,
        }
    }
}

/// Deadline for dialling and for the handshake after it, each.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A dial that failed is not repeated sooner than this, so that a dead peer costs little.
pub(crate) const REDIAL_AFTER: Duration = Duration::from_millis(50);
/// Deadline for one answer on the append stream. Longer than any honest fsync; a silent peer is dialled anew.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_millis(2_000);
/// Deadline for one write to a socket: a peer that does not read is hung.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_millis(5_000);
/// Append requests on their way to one peer.
pub(crate) const APPENDS_IN_FLIGHT_MAX: usize = 16;
