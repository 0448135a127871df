//! Promise: every 5xx says whether the write was applied, and what may have been applied is never reported as "no".
//! (README: "yes, no or unknown"; invariant 9.)
//!
//! Writes are on their way when leaders are cut off, paused and killed, and when links lose and delay what they carry. C1
//! and C5 see a write that was called not done and is there; C2 sees one that was refused though nothing stood against it.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "unknown_is_not_no",
    promise: "what may have been applied is never reported as not applied",
    attacks: &["N1", "N2", "N3", "N4", "N5", "N12"],
    checkers: &["C1", "C2", "C5"],
    settings: NodeSettings::expiring(3_000),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Carts, (5, 16), (50, 10)),
            size.load(Kind::Storm, (3, 8), (60, 20)),
            size.load(Kind::Payments, (2, 6), (80, 20)),
        ]
    },
};
