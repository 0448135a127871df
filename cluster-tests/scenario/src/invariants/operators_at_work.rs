//! Promise: what an operator may do at any time (hand leadership over, take a snapshot, add, promote and remove a node)
//! costs clients a repetition at most. (README: "Membership, leadership and snapshots are managed on any node".)
//!
//! An operator does all of that without pause while the network is bad and nodes are killed. Attacks that destroy logs are
//! left out: both change the members.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "operators_at_work",
    promise: "operators may act at any time",
    attacks: &["N1", "N3", "N4", "N5"],
    checkers: &["C1", "C5", "C10"],
    settings: NodeSettings::expiring(4_000).short_log(),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Operators, (1, 1), (400, 300)),
            size.load(Kind::Rush, (4, 12), (40, 12)),
            size.load(Kind::Carts, (4, 12), (40, 12)),
        ]
    },
};
