//! Promise: debits equal credits at every index; what is captured was held, what is refunded was captured, and no balance
//! is spent twice. (README: invariant 6.)
//!
//! Holds, captures, refunds and corrections of wallets by several clients at one order, by customers with little money,
//! while leaders change and power goes. C4 sums the ledger at every index, C7 allows legal steps only, C1 looks at each
//! balance.

use super::{NodeSettings, Scenario};
use crate::workloads::{Catalogue, Kind};

/// The run.
pub const SCENARIO: Scenario = Scenario {
    name: "money_is_conserved",
    promise: "money is neither made nor lost",
    attacks: &["N1", "N4", "N5", "N6"],
    checkers: &["C1", "C4", "C7"],
    settings: NodeSettings::expiring(3_000),
    catalogue: |_| Catalogue { accounts: 6, poor: 4, ..Catalogue::default() },
    loads: |size| vec![size.load(Kind::Payments, (8, 24), (40, 10)), size.load(Kind::Rush, (3, 8), (60, 20))],
};
