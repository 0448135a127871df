//! Bytes on disk: the Raft log, the rows, snapshots, and the rules by which a node's directory is opened.
//!
//! This crate knows no commerce and no Raft types. It offers four things and one seam:
//!
//! - [`log`]: entries, vote, purge mark and identity in redb. Small, must survive, one fsync per group commit.
//! - [`rows`]: everything else, behind one trait with two implementations: [`fjall_rows`] (a log-structured
//!   merge tree on disk) and [`mem_rows`] (a deterministic twin in memory). Large, may be lost, is rebuilt.
//! - [`snapshot`]: one format for snapshot, backup and catch-up: a checksummed stream of sorted rows.
//! - [`open`]: what is looked at before a node may run, and what is said when it may not.
//! - [`disk`]: where all of that lives. [`disk::FileDisk`] is a directory, [`mem_disk::MemDisk`] is memory that survives a
//!   restart and forgets what was not synced when it crashes.
//!
//! Reading order: [`keyspaces`] (the schema), [`key`], [`batch`], [`rows`], [`log`], [`open`].
//!
//! **Invariants** asserted here: only one batch per applied index, at exactly the next index; every keyspace carries
//! that index; a store whose keyspaces disagree is never opened; a log directory of another cluster or node is never opened.
//!
//! **Deliberately absent**: clocks, randomness, async, and any interpretation of row values.

pub mod batch;
pub mod codec;
pub mod entry;
pub mod error;
pub mod key;
pub mod keyspaces;
pub mod mem_rows;
pub mod meta;
pub mod rows;

pub use batch::{Batch, row_hash};
pub use error::{Error, Result};
pub use keyspaces::{Keyspace, Keyspaces};
pub use mem_rows::MemRows;
pub use meta::{LogPosition, StateHeader, StoredMembership};
pub use rows::{RowOptions, RowStats, RowView, Rows};
