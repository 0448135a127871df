//! What this node remembers of every other, and who is refused because of it.
//!
//! Raft is safe only while nobody forgets what it acknowledged. The engine does not check that: a follower's lost
//! entries go on counting as held. So it is checked here, before the engine sees a byte of such a node:
//!
//! - its **incarnation** (a counter and a nonce, committed before a node says anything) may not go back, and one count
//!   belongs to one nonce: a copy of a running directory is noticed;
//! - the **term of its vote** may not go back: votes are on disk before they are answered;
//! - its log may not end before an entry that it **held when we knew that entry committed**. Only those: an entry that
//!   was not committed may be truncated honestly.
//!
//! The memory is kept in the log directory, beside the vote (see `log_store::hard_state`), so it survives a restart of
//! this node. What it cannot see, and the design admits: one node rolled back while every other node's memory is
//! rolled back with it.

use std::collections::BTreeMap;

use agora_planted::{self as planted, Bug};
use agora_storage::meta::LogPosition;
use serde::{Deserialize, Serialize};

use super::hello::Hello;

/// Most peers remembered: ids are never reused, so a cluster that replaces many nodes forgets the lowest, oldest ids.
pub(crate) const PEERS_MAX: usize = 256;

/// What is remembered of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerMemory {
    /// Highest incarnation seen.
    pub(crate) incarnation: u64,
    /// Nonce of that incarnation.
    pub(crate) nonce: u128,
    /// Highest term voted in.
    pub(crate) term: u64,
    /// Last committed entry it is known to hold.
    pub(crate) held: LogPosition,
}

/// The memory of all peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peers {
    by_id: BTreeMap<u64, PeerMemory>,
}

/// Order of log positions by which Raft compares logs: term first.
pub(crate) fn log_order(at: LogPosition) -> (u64, u64) {
    (at.term, at.index)
}

impl Peers {
    /// Refuses a peer that is behind its past, otherwise remembers what it says. True when something changed that must
    /// be on disk soon (a new incarnation).
    pub(crate) fn admit(&mut self, hello: &Hello, committed: LogPosition) -> Result<bool, String> {
        let known =
            self.by_id.get(&hello.node).copied().filter(|_| !planted::is(Bug::WipedNodeVotes)).unwrap_or_default();
        let node = hello.node;
        if hello.incarnation < known.incarnation {
            return Err(format!(
                "node {node} shows incarnation {}, but {} was seen before: its directory is an older copy; wipe it and join under a new id",
                hello.incarnation, known.incarnation
            ));
        }
        if hello.incarnation == known.incarnation && hello.nonce != known.nonce {
            return Err(format!(
                "node {node} shows incarnation {} with another nonce: two copies of one directory exist, or it was wiped; join under a new id",
                hello.incarnation
            ));
        }
        if hello.vote.term < known.term {
            return Err(format!(
                "node {node} voted in term {}, but {} was seen before: its directory is an older copy; wipe it and join under a new id",
                hello.vote.term, known.term
            ));
        }
        if log_order(hello.last_log) < log_order(known.held) {
            return Err(format!(
                "node {node} has a log up to term {} index {}, but held committed entries up to term {} index {}: entries were lost; wipe it and join under a new id",
                hello.last_log.term, hello.last_log.index, known.held.term, known.held.index
            ));
        }
        let renewed = hello.incarnation > known.incarnation;
        let entry = self.entry(node);
        entry.incarnation = hello.incarnation;
        entry.nonce = hello.nonce;
        entry.term = entry.term.max(hello.vote.term);
        self.saw_log(node, hello.last_log, committed);
        Ok(renewed)
    }

    /// Remembers the term of a vote.
    pub(crate) fn saw_term(&mut self, node: u64, term: u64) {
        if let Some(known) = self.by_id.get_mut(&node) {
            known.term = known.term.max(term);
        }
    }

    /// Remembers that a peer's log reaches `last`, as far as that is committed. True when that is news.
    pub(crate) fn saw_log(&mut self, node: u64, last: LogPosition, committed: LogPosition) -> bool {
        let held = if log_order(last) < log_order(committed) { last } else { committed };
        let Some(known) = self.by_id.get_mut(&node) else { return false };
        // Below the committed end a peer may still hold entries of a log that lost: those it may lose as well. An
        // entry at or below our committed index is certainly committed only if its term is the one we have there,
        // which is so when the terms are equal.
        if held.term != committed.term || log_order(held) <= log_order(known.held) {
            return false;
        }
        known.held = held;
        true
    }

    /// What is remembered of a peer.
    #[cfg(test)]
    pub(crate) fn get(&self, node: u64) -> Option<PeerMemory> {
        self.by_id.get(&node).copied()
    }

    fn entry(&mut self, node: u64) -> &mut PeerMemory {
        if !self.by_id.contains_key(&node) && self.by_id.len() >= PEERS_MAX {
            self.by_id.pop_first();
        }
        self.by_id.entry(node).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Lane;
    use crate::types::VoteRecord;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term, index }
    }

    fn hello(incarnation: u64, nonce: u128, term: u64, last_log: LogPosition) -> Hello {
        Hello {
            cluster: "c".into(),
            lineage: 1,
            node: 2,
            to: 1,
            incarnation,
            nonce,
            vote: VoteRecord { term, node: 1, committed: true },
            last_log,
            lane: Lane::Control,
        }
    }

    #[track_caller]
    fn check(steps: &[(Hello, bool)]) {
        let mut peers = Peers::default();
        for (step, (hello, admitted)) in steps.iter().enumerate() {
            assert_eq!(peers.admit(hello, at(3, 50)).is_ok(), *admitted, "step {step}");
        }
    }

    #[test]
    fn a_restarted_node_is_admitted() {
        check(&[(hello(1, 7, 1, at(3, 5)), true), (hello(1, 7, 1, at(3, 5)), true), (hello(2, 9, 2, at(3, 6)), true)]);
    }

    #[test]
    fn an_older_copy_is_refused() {
        check(&[(hello(8, 7, 3, at(3, 5)), true), (hello(7, 6, 3, at(3, 5)), false)]);
    }

    #[test]
    fn two_copies_of_one_incarnation_are_noticed() {
        check(&[(hello(8, 7, 3, at(3, 5)), true), (hello(8, 6, 3, at(3, 5)), false)]);
    }

    #[test]
    fn a_forgotten_vote_is_refused() {
        check(&[(hello(8, 7, 3, at(3, 5)), true), (hello(9, 8, 2, at(3, 5)), false)]);
    }

    #[test]
    fn a_lost_committed_entry_is_refused_even_under_a_new_incarnation() {
        check(&[
            (hello(8, 7, 3, at(3, 40)), true),
            (hello(9, 8, 3, at(3, 39)), false),
            (hello(9, 8, 3, at(3, 40)), true),
        ]);
    }

    #[test]
    fn an_uncommitted_tail_may_be_truncated() {
        // Everything after index 50 was not committed when it was seen.
        check(&[
            (hello(8, 7, 3, at(3, 70)), true),
            (hello(9, 8, 3, at(3, 50)), true),
            (hello(10, 8, 3, at(3, 49)), false),
        ]);
    }

    #[test]
    fn entries_of_a_lost_term_do_not_count_as_held() {
        // Our committed end is of term 3; what it holds of term 2 may have lost against it.
        check(&[(hello(8, 7, 3, at(2, 45)), true), (hello(9, 8, 3, at(2, 40)), true)]);
    }

    #[test]
    fn progress_between_two_connections_counts() {
        let mut peers = Peers::default();
        peers.admit(&hello(1, 7, 1, at(3, 5)), at(3, 5)).unwrap();
        assert!(peers.saw_log(2, at(3, 30), at(3, 20)));
        assert_eq!(peers.get(2).unwrap().held, at(3, 20));
        assert!(peers.admit(&hello(2, 8, 1, at(3, 19)), at(3, 20)).is_err());
    }
}
