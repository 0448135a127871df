//! What the layer above plugs in: the deterministic function from entries to rows.
//!
//! The engine agrees on bytes; an [`Apply`] gives them meaning. It is called on one thread, in log order, once per
//! entry, and is the only writer of rows. It answers with one outcome per transaction, which the journal hands to
//! whoever proposed them.
//!
//! Positions count from 1: index 0 means "nothing yet" everywhere outside the engine.

use std::sync::Arc;

use agora_storage::rows::Rows;
use bytes::Bytes;

/// The replicated state machine.
pub trait Apply: Send + 'static {
    /// What a transaction came to: handed to its proposer on the node that proposed it.
    type Outcome: Send + 'static;

    /// Applies one entry: writes **one** batch with `APPLIED`, `MEMBERSHIP` (when it changes) and `STATE`, and returns
    /// after it is in the rows.
    ///
    /// # Errors
    /// Only for what is wrong on this node alone (storage, an entry it cannot decode): the node stops.
    fn apply(&mut self, rows: &Arc<dyn Rows>, entry: Committed<'_>) -> Result<Applied<Self::Outcome>, ApplyError>;

    /// The rows were opened, or replaced by an installed snapshot: forget whatever is cached from older ones.
    ///
    /// # Errors
    /// When the rows cannot be read: the node stops.
    fn reset(&mut self, rows: &Arc<dyn Rows>) -> Result<(), ApplyError>;
}

/// One entry that a majority holds.
pub struct Committed<'a> {
    /// Position in the log, from 1.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// What it carries.
    pub payload: Payload<'a>,
}

/// What an entry carries.
pub enum Payload<'a> {
    /// A leader's first entry of its term; changes nothing but the applied position.
    Blank,
    /// The members, as opaque bytes to be kept under `meta::MEMBERSHIP` together with this entry's position.
    Membership(&'a [u8]),
    /// An entry as `agora_storage::entry` lays it out.
    Entry(&'a Bytes),
}

/// What applying one entry came to.
pub struct Applied<O> {
    /// One per transaction of the entry, in order; empty for everything that carries none.
    pub outcomes: Vec<O>,
    /// The reign in force after this entry.
    pub reign: u64,
    /// The state after this entry, for comparison between nodes.
    pub state: StateDigest,
    /// A transaction was refused that no honest decision could have produced: the reign must end.
    pub ends_reign: bool,
}

/// A fingerprint of the whole state at one index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDigest {
    /// Head of the audit chain.
    pub chain_head: [u8; 32],
    /// Order-independent sum of row hashes.
    pub digest: u128,
}

/// Why this node must stop.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApplyError {
    /// One clear line: what happened, with values, and what to do.
    pub message: String,
}

impl ApplyError {
    /// An error from anything that can be shown.
    pub fn new(message: impl std::fmt::Display) -> ApplyError {
        ApplyError { message: message.to_string() }
    }
}
