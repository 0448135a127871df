//! Promise: what a leader decided before it lost its leadership is not applied behind the fence of its successor, and it
//! tells nobody so. (README: "an entry names its reign, and what an older reign decided cannot be applied behind a newer
//! fence".)
//!
//! Leaders stand still with requests queued, for less and for more than an election takes, are cut off with their clients
//! connected, and are back from a loss of power before anybody has noticed. C1 compares every answer with the log; C2 and
//! C3 see two leaders that both said yes.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "old_leaders_are_fenced",
    promise: "the decisions of an old leader are not applied",
    attacks: &["N1", "N2", "N4", "N9"],
    checkers: &["C1", "C2", "C3"],
    settings: NodeSettings::expiring(2_500),
    catalogue: |size| Catalogue { hot: 2, hot_units: size.scaled(100, 250), ..Catalogue::default() },
    loads: |size| {
        vec![
            size.load(Kind::Rush, (8, 24), (35, 8)),
            size.load(Kind::Carts, (3, 8), (50, 15)),
            size.load(Kind::Reads, (2, 6), (50, 15)),
        ]
    },
};
