//! Promise: equal index, equal digest: the same entries make the same rows on every node, whatever happened to it. (README:
//! invariants 3 and 11.)
//!
//! Everything the domain can do, while nodes are rebuilt from their logs and from peers' snapshots, restarted in a row and
//! run under clocks of their own. C9 compares digests, audit chains and every entity of all nodes at one index.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "replicas_are_equal",
    promise: "equal index, equal state",
    attacks: &["N5", "N6", "N13", "N14", "N15"],
    checkers: &["C9"],
    settings: NodeSettings::expiring(2_000).short_log(),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Carts, (4, 12), (40, 8)),
            size.load(Kind::Payments, (3, 8), (50, 15)),
            size.load(Kind::Receiving, (3, 8), (60, 20)),
            size.load(Kind::Rush, (3, 8), (50, 15)),
            // Makes the log grow beyond its bound, so that it is purged.
            size.load(Kind::Bulk, (1, 2), (200, 40)),
        ]
    },
};
