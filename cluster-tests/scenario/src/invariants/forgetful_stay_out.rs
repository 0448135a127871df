//! Promise: a node that lost or rolled back its directory does not come back under its id, because it forgot what it had
//! acknowledged; a new one takes its place under a new id. (README: "A node whose directory was lost must come back under a
//! new id".)
//!
//! Directories are emptied, replaced by old copies, by those of another cluster, or damaged, and their nodes started again
//! and again while leaders sleep. C5 and C1 see an acknowledged write that a majority of forgetful nodes voted away.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "forgetful_stay_out",
    promise: "who forgot what it acknowledged stays out",
    attacks: &["N10", "N11", "N16"],
    checkers: &["C1", "C5", "C9"],
    settings: NodeSettings::NONE,
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Rush, (4, 12), (40, 12)),
            size.load(Kind::Carts, (3, 8), (50, 15)),
            size.load(Kind::Reads, (2, 6), (50, 15)),
        ]
    },
};
