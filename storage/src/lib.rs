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
pub mod disk;
pub mod entry;
pub mod error;
pub mod fjall_rows;
pub mod key;
pub mod keyspaces;
pub mod log;
pub mod mem_disk;
pub mod mem_rows;
pub mod meta;
pub mod open;
pub mod rows;
pub mod scrub;
pub mod snapshot;

mod file_backend;
mod journal_cut;
mod mem_faults;
mod row_format;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod damage_tests;

pub use batch::{Batch, RowMark, row_hash};
pub use disk::{Disk, DiskUsage, FileDisk, OpenedRows, ReadSeekSend, SnapshotFile, SnapshotInfo};
pub use error::{Error, Result};
pub use keyspaces::{Keyspace, Keyspaces};
pub use log::{Identity, LogBounds, LogOp, LogStore, PurgeMark};
pub use mem_disk::MemDisk;
pub use mem_faults::{BrokenRow, MemCall, MemFault, Spoil};
pub use mem_rows::MemRows;
pub use meta::{LogPosition, StateHeader, StoredMembership};
pub use open::{Expect, NewIdentity, Opened, open};
pub use rows::{RowOptions, RowStats, RowView, Rows};
