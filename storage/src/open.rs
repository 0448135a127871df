//! What is looked at before a node may run, and what is said when it may not.
//!
//! In order:
//!
//! 1. The log opens, every entry checks, and there is no gap. A damaged log ends the node's life under its id.
//! 2. The directory belongs to the cluster and the node that the configuration names, in a format this release reads.
//! 3. The current row generation opens: its journal cut where it stops checking, every keyspace at one index, not behind
//!    what the log knows as synced.
//! 4. Rows and log meet: rows are not behind what was purged. They may be ahead of the log's end: Raft applies what a majority
//!    holds, even before the own log has synced it, and an installed snapshot is ahead until the log was purged up to it. Raft will
//!    then let its log begin behind the rows, which is a purge; so such rows are synced, and recorded as synced, first.
//! 5. The incarnation is counted up and a new nonce written, before anything is said to a peer.
//!
//! Where 3 or 4 fails, the generation is given up. If the log holds everything since its beginning, a new empty one takes
//! its place, and the log is applied from there. Otherwise the caller gets [`Opened::RowsLost`] and must pull a snapshot
//! from a peer before Raft starts: rows that cannot be accounted for are never served.
//!
//! A log without identity beside rows or snapshots is a lost log, and refused: the node may have voted.

use std::sync::Arc;

use crate::{
    disk::{Disk, OpenedRows},
    error::{Error, Result},
    log::{Identity, LogBounds, LogOp, LogStore},
    rows::Rows,
    snapshot::check_format,
};

/// Format of a data directory written by this release. Format 1 had rows of another layout; no release wrote it.
pub const FORMAT: u32 = 2;
/// Oldest format this release opens.
pub const FORMAT_OLDEST: u32 = 2;

/// What the configuration says this directory must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    /// Name of the cluster.
    pub cluster: String,
    /// Id of this node.
    pub node: u64,
    /// A fresh random number, for [`Identity::nonce`] of this open.
    pub nonce: u128,
}

/// What to write into an empty directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewIdentity {
    /// Id of the cluster's history; 0 for a node that joins and learns it from its peers.
    pub lineage: u128,
}

/// An opened directory.
pub enum Opened {
    /// Everything is there.
    Ready {
        /// The log.
        log: Arc<LogStore>,
        /// Who this node is, with the new incarnation.
        identity: Identity,
        /// The current generation.
        rows: Arc<dyn Rows>,
    },
    /// The log is whole, the rows are not.
    RowsLost {
        /// The log.
        log: Arc<LogStore>,
        /// Who this node is, with the new incarnation. The next generation is [`Identity::generation`] + 1.
        identity: Identity,
        /// What was found.
        reason: String,
        /// The snapshot to pull must be of this index or later: the log before it is gone.
        need_index: u64,
    },
}

/// Opens a node's directory. `create` is what to do with an empty one; without it an empty directory is an error, and
/// with it a directory already in use is opened as it is.
pub fn open(disk: &dyn Disk, expect: &Expect, create: Option<NewIdentity>) -> Result<Opened> {
    let log = disk.open_log()?;
    let identity = match log.identity().map_err(damaged_identity)? {
        Some(identity) => identity,
        None => new_identity(disk, &log, expect, create)?,
    };
    check_identity(&identity, expect)?;
    let bounds = log.bounds()?;
    let mut identity = Identity { incarnation: identity.incarnation + 1, nonce: expect.nonce, ..identity };
    let rows = match disk.open_rows(identity.generation, identity.synced_index)? {
        OpenedRows::Ready(rows) => match behind_purge(rows.as_ref(), &bounds) {
            None => Ok(rows),
            Some(reason) => Err(reason),
        },
        OpenedRows::Lost { reason } => Err(reason),
    };
    if let Ok(rows) = &rows
        && rows.applied() > bounds.end().unwrap_or(0)
    {
        identity.synced_index = rows.sync()?;
    }
    let need_index = if rows.is_ok() { 0 } else { without_log(&identity, &bounds) };
    let rows = match rows {
        Err(reason) if need_index == 0 => {
            tracing::warn!(%reason, "rows given up: the log is whole and is applied from its beginning");
            identity.generation += 1;
            identity.synced_index = 0;
            Ok(disk.create_rows(identity.generation)?)
        }
        rows => rows,
    };
    log.write(vec![LogOp::Identity(identity.clone())])?;
    let log = Arc::new(log);
    Ok(match rows {
        Ok(rows) => {
            remove_others(disk, identity.generation);
            Opened::Ready { log, identity, rows }
        }
        Err(reason) => {
            tracing::warn!(%reason, need_index, "rows given up: a snapshot is needed");
            Opened::RowsLost { log, identity, reason, need_index }
        }
    })
}

fn new_identity(disk: &dyn Disk, log: &LogStore, expect: &Expect, create: Option<NewIdentity>) -> Result<Identity> {
    let generations = disk.list_generations()?;
    let snapshots = disk.snapshot_list()?;
    if !generations.is_empty() || !snapshots.is_empty() || log.bounds()?.end().is_some() {
        return Err(Error::LogLost(format!(
            "the log is missing, but {} row generations and {} snapshots are there: node {} may have promised what it no longer knows, so it must not come back under its id; remove it from the cluster, move the directory aside, and add it again with a new id",
            generations.len(),
            snapshots.len(),
            expect.node
        )));
    }
    let Some(create) = create else {
        return Err(Error::Missing(format!(
            "the data directory is empty: nothing to start node {} of cluster {:?} from; create the cluster, join this node to it, or check the configured directory",
            expect.node, expect.cluster
        )));
    };
    // The identity comes first. A crash before the rows are made finds them missing with nothing purged, and makes them.
    let identity = Identity {
        format: FORMAT,
        cluster: expect.cluster.clone(),
        lineage: create.lineage,
        node: expect.node,
        incarnation: 0,
        nonce: expect.nonce,
        generation: 1,
        synced_index: 0,
    };
    log.write(vec![LogOp::Identity(identity.clone())])?;
    disk.create_rows(identity.generation)?;
    Ok(identity)
}

fn check_identity(identity: &Identity, expect: &Expect) -> Result<()> {
    check_format("the data directory", identity.format, FORMAT_OLDEST, FORMAT)?;
    if identity.cluster != expect.cluster {
        return Err(Error::Foreign(format!(
            "the data directory belongs to cluster {:?}, the configuration names {:?}: check the configured directory and cluster name",
            identity.cluster, expect.cluster
        )));
    }
    if identity.node != expect.node {
        return Err(Error::Foreign(format!(
            "the data directory belongs to node {}, the configuration says node {}: check the configured directory and node id, and never copy a directory from one node to another",
            identity.node, expect.node
        )));
    }
    Ok(())
}

/// Up to where the log cannot make rows again, 0 if it holds everything: what was purged, and what it never had. Rows of an
/// installed snapshot were promised to the leader, and the log is purged up to them only afterwards.
fn without_log(identity: &Identity, bounds: &LogBounds) -> u64 {
    let purged = bounds.purged.as_ref().map_or(0, |purged| purged.index);
    let never_held = if identity.synced_index > bounds.end().unwrap_or(0) { identity.synced_index } else { 0 };
    purged.max(never_held)
}

/// Says so if the log that would follow the rows is gone.
fn behind_purge(rows: &dyn Rows, bounds: &LogBounds) -> Option<String> {
    let applied = rows.applied();
    let purged = bounds.purged.as_ref()?.index;
    (applied < purged).then(|| format!("rows stand at index {applied}, the log was purged up to {purged}"))
}

/// Removes generations that are not current: leftovers of a crash between making one and switching to it, or
/// between switching and removing.
fn remove_others(disk: &dyn Disk, current: u64) {
    let others = disk.list_generations().unwrap_or_default();
    for generation in others.into_iter().filter(|other| *other != current) {
        if let Err(error) = disk.remove_rows(generation) {
            tracing::warn!(generation, %error, "old rows not removed");
        }
    }
}

fn damaged_identity(error: Error) -> Error {
    match error {
        Error::Corrupt(what) => Error::LogLost(format!(
            "the identity in the log is damaged: {what}; this node must not come back under its id: remove it from the cluster, move the directory aside, and add it again with a new id"
        )),
        Error::NewerFormat { found, known, .. } => Error::NewerFormat { what: "the data directory", found, known },
        other => other,
    }
}
