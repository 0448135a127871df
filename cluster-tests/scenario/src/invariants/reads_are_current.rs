//! Promise: a linearizable read sees every write answered before it was asked, on any node; a client that names the index
//! of its own write sees it; a bounded read is at most two seconds old. (README: reads by `Consistency`.)
//!
//! Readers at every level on every node while leaders are cut off with their clients still connected, paused past their
//! lease, and have wrong clocks. C2 trusts no index of the server; C8 follows each session.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "reads_are_current",
    promise: "linearizable reads see every write answered before them",
    attacks: &["N1", "N2", "N4", "N9", "N15"],
    checkers: &["C2", "C8"],
    settings: NodeSettings::expiring(3_000),
    catalogue: |_| Catalogue { hot: 2, wide: 4, ..Catalogue::default() },
    loads: |size| {
        vec![
            size.load(Kind::Reads, (6, 20), (25, 5)),
            size.load(Kind::Rush, (4, 12), (50, 15)),
            size.load(Kind::Receiving, (2, 6), (80, 25)),
            size.load(Kind::Payments, (2, 4), (80, 30)),
        ]
    },
};
