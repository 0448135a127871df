//! What the nodes say when all is healed and quiet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::calls::{Account, NodeId, Order, Sku, Stock};

/// All nodes' words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finals {
    /// By node.
    pub nodes: BTreeMap<NodeId, NodeFinals>,
    /// From the end of the last fault to the first acknowledged write, microseconds; `None` if there was none.
    pub first_write_after_heal: Option<u64>,
}

/// One node's words, all read at `index`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeFinals {
    /// Applied index.
    pub index: u64,
    /// Index of the last checkpoint, at most `index`: nothing of the shop changed behind it.
    #[serde(default)]
    pub digest_index: u64,
    /// Digest of all rows there, hex.
    pub digest: String,
    /// Audit chain there, hex.
    pub chain_head: String,
    pub skus: BTreeMap<String, Sku>,
    pub stocks: BTreeMap<String, Stock>,
    pub accounts: BTreeMap<String, Account>,
    pub orders: BTreeMap<String, Order>,
    /// Totals of the ledger.
    pub debits: i64,
    pub credits: i64,
}
