//! Promise: time is a property of the entry. Orders expire at the same index on every node, and no clock that is far off
//! decides. (README: "Time is a property of the entry".)
//!
//! Short-lived orders while clocks jump by seconds, hours and a day and drift apart, and while leaders sleep. C1 knows when
//! each order may expire, C7 allows no other step than from unpaid to cancelled, C9 sees replicas that asked their own
//! clock.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "time_is_the_logs",
    promise: "orders expire by the log's time, on all nodes alike",
    attacks: &["N4", "N5", "N15"],
    checkers: &["C1", "C7", "C9"],
    settings: NodeSettings::expiring(2_000),
    catalogue: |size| Catalogue { hot: 3, hot_units: size.scaled(200, 500), ..Catalogue::default() },
    loads: |size| vec![size.load(Kind::Rush, (8, 24), (35, 8)), size.load(Kind::Payments, (3, 8), (60, 20))],
};
