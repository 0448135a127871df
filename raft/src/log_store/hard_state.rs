//! The small facts beside the log that must survive: the vote, what is remembered of the peers, where they live.
//!
//! All of it is one record, kept in the place storage has for the vote, so that it shares the fsync of whatever is
//! written anyway. The vote alone decides when it must be on disk; the rest is written along: at once when a peer shows
//! a new incarnation, at most once a second otherwise.

use std::collections::BTreeMap;

use agora_storage::codec;
use serde::{Deserialize, Serialize};

use crate::transport::peers::Peers;
use crate::types::{MemberAddr, VoteRecord};

/// Version of the record.
const VERSION: u8 = 1;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HardState {
    /// The last vote; `None` before the first.
    pub(crate) vote: Option<VoteRecord>,
    /// What the peers showed.
    pub(crate) peers: Peers,
    /// The members as last seen: whom to ask for a snapshot when the rows, which hold the members, are lost.
    pub(crate) members: BTreeMap<u64, MemberAddr>,
}

impl HardState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::frame(VERSION, self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> agora_storage::Result<HardState> {
        codec::unframe(VERSION, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_the_hard_state() {
        let state = HardState {
            vote: Some(VoteRecord { term: 3, node: 2, committed: true }),
            peers: Peers::default(),
            members: BTreeMap::from([(2, MemberAddr { peer_addr: "p".into(), http_addr: "h".into() })]),
        };
        let bytes = state.encode();
        assert_eq!(bytes[..bytes.len() - 4], *b"\x01\x01\x03\x02\x01\x00\x01\x02\x01p\x01h");
        assert_eq!(HardState::decode(&bytes).unwrap(), state);
    }
}
