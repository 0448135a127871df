//! The change feed, as a node tells it.

use serde::{Deserialize, Serialize};

/// One event. The fields are those of `GET /changes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedEvent {
    /// Log index.
    pub index: u64,
    /// Position in the entry, from 1.
    pub sub: u32,
    /// `inventory.stock.reserved`, `order.order.created`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `sku`, `order`, `account`, `claim`.
    pub aggregate: String,
    pub aggregate_id: String,
    /// Version of the aggregate after the event.
    pub aggregate_version: u64,
    /// Log time, RFC 3339 with milliseconds.
    pub time: String,
    pub data: serde_json::Value,
    /// Stock before and after, where the event is about stock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock: Option<StockMove>,
    /// Trace id of the request that caused it, 32 hex digits.
    pub trace_id: String,
    /// Audit chain before the entry, hex.
    pub prev_hash: String,
}

/// Stock before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockMove {
    pub on_hand_pre: u64,
    pub on_hand_post: u64,
    pub reserved_pre: u64,
    pub reserved_post: u64,
}

/// A page of it, as a client read it: the places of its events, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPage {
    /// (index, sub) of each event, in order.
    pub places: Vec<(u64, u32)>,
    pub head_index: u64,
    pub next_after: u64,
}
