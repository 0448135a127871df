//! The ways in which this crate says no.
//!
//! One distinction runs through all of them: a *definite no* (nothing happened and nothing will) and *unknown* (it may
//! have happened, or may still). Unknown is never turned into no here.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Why [`crate::Journal::propose`] took nothing. Always a definite no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The reign named is not in force here (any more): decide again in the next one.
    #[error("the reign is over")]
    ReignOver,
    /// No majority has answered for a while.
    #[error("no quorum")]
    NoQuorum,
    /// The queue is full.
    #[error("the journal's queue is full")]
    Overloaded,
    /// This node is handing leadership over or stopping.
    #[error("the node is handing over")]
    Draining,
    /// One transaction is larger than an entry may be.
    #[error("transaction too large: {bytes} bytes, at most {bytes_max}")]
    TooLarge {
        /// Size of the transaction in bytes.
        bytes: usize,
        /// The bound in bytes.
        bytes_max: usize,
    },
}

/// Why an accepted transaction has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It was not applied and never will be: a definite no.
    #[error("never applied")]
    NeverApplied,
    /// It may have been applied, or may still be; the node is stopping or took over a snapshot.
    #[error("outcome unknown")]
    Unknown,
}

/// Why there is no read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known, or it cannot be reached.
    #[error("no leader")]
    NoLeader,
    /// The leader reached no majority.
    #[error("no quorum")]
    NoQuorum,
    /// The deadline passed.
    #[error("timed out")]
    Timeout,
}

/// Why a call to another node has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It never left this node: a definite no.
    #[error("not sent")]
    NotSent,
    /// It may have been handled.
    #[error("no answer, outcome unknown")]
    Unknown,
}

/// Waited too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Timeout;

/// Why the members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum MembershipError {
    /// The members left could not form a majority of live nodes.
    #[error("would lose quorum: {live} of {voters} voters that would remain are alive, {needed} are needed")]
    WouldLoseQuorum {
        /// Voters that would remain and answer now.
        live: usize,
        /// Voters that would remain.
        voters: usize,
        /// Majority of them.
        needed: usize,
    },
    /// The id was a member before, or is one under another address.
    #[error("node id {0} was used before: give the new node an id of its own")]
    NodeIdReused(u64),
    /// No such member.
    #[error("node {0} is not a member")]
    NotFound(u64),
    /// Another change is on its way.
    #[error("another change of members is on its way")]
    InProgress,
    /// The learner is too far behind to vote.
    #[error("node {node} is {lag} entries behind, at most {lag_max} to become a voter")]
    NotCaughtUp {
        /// The learner.
        node: u64,
        /// How far behind it is.
        lag: u64,
        /// How far it may be.
        lag_max: u64,
    },
    /// No leader is known, or it cannot be reached; nothing was changed.
    #[error("no leader")]
    NoLeader,
    /// The leader reaches no majority; nothing was changed.
    #[error("no quorum")]
    NoQuorum,
    /// It may have been changed: look, or repeat.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The node that was to lead does not answer; nothing was changed.
    #[error("node {0} does not answer, so it cannot lead: nothing was changed")]
    NotAnswering(u64),
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used; the message says why and what to do.
    #[error(transparent)]
    Storage(#[from] agora_storage::Error),
    /// The peer port cannot be opened.
    #[error("cannot listen for peers on {addr}: {source}")]
    Listen {
        /// The address.
        addr: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A value that cannot be.
    #[error("raft settings: {0}")]
    Config(String),
    /// The rows must be rebuilt and no peer gave a snapshot in time.
    #[error(
        "rows are lost ({reason}) and no peer gave a snapshot at or past index {need_index}: start another node first"
    )]
    RowsLost {
        /// Why they were given up.
        reason: String,
        /// The index they must reach.
        need_index: u64,
    },
    /// Anything else, in one line.
    #[error("{0}")]
    Other(String),
}

/// The first thing that went so wrong that the process must end. Shared by every part of a node.
#[derive(Clone, Debug)]
pub struct Fatal {
    inner: Arc<FatalInner>,
}

#[derive(Debug)]
struct FatalInner {
    sent: watch::Sender<Option<String>>,
    first: Mutex<()>,
}

impl Fatal {
    /// Nothing wrong yet.
    pub(crate) fn new() -> Fatal {
        Fatal { inner: Arc::new(FatalInner { sent: watch::Sender::new(None), first: Mutex::new(()) }) }
    }

    /// Reports a reason to stop; only the first is kept.
    pub(crate) fn report(&self, message: impl Into<String>) {
        let message = message.into();
        let _first = self.inner.first.lock();
        if self.inner.sent.borrow().is_none() {
            tracing::error!(reason = %message, "this node must stop");
            self.inner.sent.send_replace(Some(message));
        }
    }

    /// The reason, if there is one.
    pub fn get(&self) -> Option<String> {
        self.inner.sent.borrow().clone()
    }

    /// Resolves when there is one.
    pub async fn wait(self) -> String {
        let mut receiver = self.inner.sent.subscribe();
        loop {
            if let Some(reason) = self.get() {
                return reason;
            }
            if receiver.changed().await.is_err() {
                // The sender lives in `self`, so it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }
}
