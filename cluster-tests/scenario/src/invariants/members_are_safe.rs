//! Promise: members come and go while orders run; what would lose the majority is refused, and a change that a dead leader
//! left half done is finished or was not begun. (README: "Running three hosts".)
//!
//! Nodes join, are promoted and removed while others are cut off and killed in the middle of it. In the end the cluster is
//! as large as before, of other nodes, which must hold all that was acknowledged by those that left.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "members_are_safe",
    promise: "members come and go without loss",
    attacks: &["N12", "N14"],
    checkers: &["C1", "C5", "C9"],
    settings: NodeSettings::expiring(4_000),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Rush, (4, 12), (40, 12)),
            size.load(Kind::Carts, (3, 8), (50, 15)),
            size.load(Kind::Storm, (2, 6), (60, 20)),
        ]
    },
};
