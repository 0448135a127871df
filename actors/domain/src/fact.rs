//! Rows of the feed: each fact is stored once, here, and everything that tells history is an index onto it.
//!
//! The feed key is (log index, sub). Sub 0 is the entry itself, subs from 1 are its events in order; the facts of an entry
//! share rows, as many as fit, each under the sub of the first event in it.

use serde::{Deserialize, Serialize};

use crate::transaction::Change;

/// Sub 0 of an entry: when it was closed, by whom, and the audit chain up to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFact {
    /// Log time, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The reign that decided it.
    pub reign: u64,
    /// The audit chain before this entry: `head' = blake3(head ‖ index ‖ time ‖ reign ‖ outcomes hash ‖ facts)`.
    pub prev_head: [u8; 32],
    /// blake3 over the entry's outcomes in the order of their keys, so that the chain can be checked after they are gone.
    pub outcomes_hash: [u8; 32],
}

/// Stock before and after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockMove {
    /// On hand before.
    pub on_hand_pre: u64,
    /// On hand after.
    pub on_hand_post: u64,
    /// Reserved before.
    pub reserved_pre: u64,
    /// Reserved after.
    pub reserved_post: u64,
}

/// One event of a [`FactRow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactEvent {
    /// Version of the entity after it.
    pub version: u64,
    /// What happened.
    pub change: Change,
    /// For events of a SKU's stock.
    pub stock: Option<StockMove>,
}

/// A fact of the feed: events of one transaction, or of a part of a large one. A row holds one or more of them; its key
/// carries the sub of the first event of the first, the others follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactRow {
    /// Trace id of the request that caused them.
    pub trace: u128,
    /// In the order they took effect; never empty.
    pub events: Vec<FactEvent>,
}

impl FactRow {
    /// Its events one by one, each with its sub.
    pub fn facts(self, first_sub: u32) -> impl Iterator<Item = (u32, Fact)> {
        let trace = self.trace;
        self.events.into_iter().zip(first_sub..).map(move |(event, sub)| {
            (sub, Fact { trace, version: event.version, change: event.change, stock: event.stock })
        })
    }
}

/// One event, as it took effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Trace id of the request that caused it.
    pub trace: u128,
    /// Version of the entity after it.
    pub version: u64,
    /// What happened.
    pub change: Change,
    /// For events of a SKU's stock.
    pub stock: Option<StockMove>,
}
