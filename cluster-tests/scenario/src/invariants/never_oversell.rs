//! Promise: a unit is promised to one order, whichever node was asked and whichever node dies. (README: "never oversell";
//! invariant 5: never negative, never half an order, never a false refusal.)
//!
//! Few units, many buyers, orders that expire and are cancelled, so that the last units change hands all the time; while
//! leaders fall, hang and come back. C4 counts the units at every index; C1 looks at every refusal: it must have been true
//! at some index between its decision and its entry; C3 looks at orders of several SKUs, which are taken whole or not at all.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "never_oversell",
    promise: "a unit is promised to one order",
    attacks: &["N1", "N2", "N4", "N5", "N9"],
    checkers: &["C1", "C3", "C4"],
    settings: NodeSettings::expiring(2_500),
    catalogue: |size| Catalogue {
        hot: 2,
        hot_units: size.scaled(120, 300),
        wide: 6,
        wide_units: size.scaled(40, 150),
        ..Catalogue::default()
    },
    loads: |size| {
        vec![
            size.load(Kind::Rush, (8, 24), (40, 10)),
            size.load(Kind::Carts, (3, 8), (60, 15)),
            size.load(Kind::Receiving, (1, 2), (250, 100)),
        ]
    },
};
