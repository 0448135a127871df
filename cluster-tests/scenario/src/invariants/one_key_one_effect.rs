//! Promise: a request repeated under its key, on any node, has one effect and gets the first answer again, byte for byte,
//! for 24 hours. (README: "one key, one effect"; invariant 8.)
//!
//! Clients throw every third answer away and repeat on another node, some with an altered body, while connections break and
//! leaders change. C6 compares the bytes and counts the effects; C5 sees an effect that came twice.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "one_key_one_effect",
    promise: "a request repeated under its key has one effect and one answer",
    attacks: &["N1", "N3", "N4", "N5", "N6"],
    checkers: &["C5", "C6"],
    settings: NodeSettings::expiring(4_000),
    catalogue: |_| Catalogue::default(),
    loads: |size| vec![size.load(Kind::Storm, (8, 24), (50, 15)), size.load(Kind::Payments, (2, 6), (80, 30))],
};
