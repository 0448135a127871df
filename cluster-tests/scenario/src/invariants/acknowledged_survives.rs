//! Promise: a 2xx is on a majority of disks, fsynced, before the client sees it; so it survives the loss of the power of
//! all nodes, and of any minority for good. (README: "never lose an acknowledged order"; invariant 7.)
//!
//! Many orders in little time, while the power goes for one node, a majority, all of them, also while the rows' journal is
//! holed on all of them; nodes die at their N-th fsync and write, and fsyncs fail. C5 looks for every acknowledged order in
//! the end, exactly once; C1 replays the log against every answer.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "acknowledged_survives",
    promise: "what was acknowledged survives the loss of power of all nodes",
    attacks: &["N5", "N6", "N7", "N8", "N9"],
    checkers: &["C1", "C5"],
    settings: NodeSettings::NONE,
    catalogue: |_| Catalogue { bulk: 4, ..Catalogue::default() },
    loads: |size| {
        vec![
            size.load(Kind::Bulk, (2, 6), (120, 20)),
            size.load(Kind::Rush, (3, 8), (60, 20)),
            size.load(Kind::Payments, (3, 8), (60, 20)),
        ]
    },
};
