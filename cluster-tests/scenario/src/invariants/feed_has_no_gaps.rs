//! Promise: the change feed is ordered, without gaps, the same on every node, and never tells what was not committed.
//! (README: `GET /changes`.)
//!
//! Readers resume anywhere on any node while nodes die, lose power and are filled from snapshots. C8 follows each reader, C9
//! compares the feeds and the audit chain of all nodes, C5 looks for each acknowledged write in them.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "feed_has_no_gaps",
    promise: "the feed is gap-free and the same on every node",
    attacks: &["N1", "N5", "N6", "N13"],
    checkers: &["C5", "C8", "C9"],
    settings: NodeSettings::expiring(3_000).short_log(),
    catalogue: |_| Catalogue::default(),
    loads: |size| {
        vec![
            size.load(Kind::Feed, (4, 12), (40, 15)),
            size.load(Kind::Carts, (5, 16), (40, 8)),
            size.load(Kind::Rush, (3, 8), (50, 15)),
            // Makes the log grow beyond its bound, so that it is purged.
            size.load(Kind::Bulk, (1, 2), (200, 40)),
        ]
    },
};
