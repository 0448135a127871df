//! Promise: a node never serves rows that it cannot account for. What is damaged is noticed, and made again from the log or
//! taken from a peer. (README: "what is looked at before a node may run", `agora verify`.)
//!
//! Power loss with the rows' journal holed on all nodes at once; bits, sectors and lengths changed in every kind of file;
//! snapshots cut off half way. C9 compares all nodes in the end, C2 and C8 see a reader that was served from a hole.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "rows_are_disposable",
    promise: "damaged rows are noticed and never served",
    attacks: &["N6", "N10", "N13"],
    checkers: &["C2", "C8", "C9"],
    settings: NodeSettings::expiring(4_000).short_log(),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Carts, (5, 16), (35, 8)),
            size.load(Kind::Reads, (4, 10), (30, 10)),
            size.load(Kind::Receiving, (2, 6), (60, 20)),
            // Makes the log grow beyond its bound, so that it is purged.
            size.load(Kind::Bulk, (1, 2), (200, 40)),
        ]
    },
};
