//! The deterministic half: an entry and the rows before it give the rows after it, on every node alike.
//!
//! Nothing in here decides, waits, reads a clock or talks to anyone. [`machine`] takes one Raft entry and makes one
//! batch of it; [`table`] evolves entities in copies, so that a transaction takes effect whole or not at all;
//! [`schema`] says which rows there are besides the entities; [`answer`] makes an answer again from what is kept of it.

pub mod answer;
pub mod machine;
pub mod schema;
pub mod table;

pub use machine::{ApplyFailure, EntryResult, FEATURE_LEVEL, Machine, TransactionResult};
