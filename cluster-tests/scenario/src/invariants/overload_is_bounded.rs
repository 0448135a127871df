//! Promise: every queue, batch, cache, retry and loop has a bound. More load than the cluster takes is answered 503 with
//! `applied: false`, and who is let in is served. (README: invariant 10.)
//!
//! More clients than the nodes admit, large batches, floods of strangers, a slow disk and slow links. C6 and C5 see a
//! request that was turned away and done all the same; C10 sees service that does not return.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "overload_is_bounded",
    promise: "overload is turned away, and what was let in is served",
    attacks: &["N3", "N8", "N17"],
    checkers: &["C5", "C6", "C10"],
    settings: NodeSettings { admission_max: Some(16), ..NodeSettings::expiring(3_000) },
    catalogue: |_| Catalogue { bulk: 2, ..Catalogue::default() },
    loads: |size| {
        vec![
            size.load(Kind::Bulk, (3, 8), (60, 5)),
            size.load(Kind::Storm, (8, 64), (20, 2)),
            size.load(Kind::Reads, (3, 12), (30, 5)),
        ]
    },
};
