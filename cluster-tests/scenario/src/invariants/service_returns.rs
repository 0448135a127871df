//! Promise: with a majority alive there is service; writes again about a second after a leader dies, by itself, and a slow
//! or hung node holds nobody up. (README: "writes again about a second after a leader dies".)
//!
//! Leaders die, hang, lose their disk or their network, and several of it at once, after which only a majority is healed.
//! C10 measures from each fault to the next acknowledged write; C11 rejects a run in which a fault hit nothing.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "service_returns",
    promise: "service returns by itself, within seconds",
    attacks: &["N1", "N3", "N4", "N5", "N8", "N18"],
    checkers: &["C10", "C11"],
    settings: NodeSettings::expiring(5_000),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Rush, (5, 16), (30, 10)),
            size.load(Kind::Carts, (3, 8), (40, 15)),
            size.load(Kind::Reads, (3, 8), (40, 15)),
        ]
    },
};
