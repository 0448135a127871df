//! The journal as the layer above sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::gate::{Answers, Gate, Reign};
use crate::barrier::Barriers;
use crate::error::{Lost, ReadError, Refused};
use crate::pulse::Pulse;

/// Where the answer to one transaction goes.
pub(crate) type Waiter<O> = oneshot::Sender<Result<Placed<O>, Lost>>;

/// Where the answer to an accepted transaction comes from, and when it was accepted.
pub(crate) type Accepted<O> = (oneshot::Receiver<Result<Placed<O>, Lost>>, Duration);

/// A transaction that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<O> {
    /// Index of the entry it is in.
    pub index: u64,
    /// When it was in the rows, by the node's monotonic clock.
    pub applied_at: Duration,
    /// What it came to.
    pub outcome: O,
}

/// An accepted transaction on its way. Dropping it changes nothing: the transaction stays accepted.
#[derive(Debug)]
pub struct Pending<O> {
    receiver: oneshot::Receiver<Result<Placed<O>, Lost>>,
    since: Duration,
}

impl<O> Pending<O> {
    /// When it was accepted, by the node's monotonic clock.
    pub fn since(&self) -> Duration {
        self.since
    }
}

impl<O> Future for Pending<O> {
    type Output = Result<Placed<O>, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A sender that is gone without an answer belongs to a node that stopped.
        Pin::new(&mut self.receiver).poll(context).map(|answer| answer.unwrap_or(Err(Lost::Unknown)))
    }
}

/// The one gate. Cheap to clone; all methods may be called from any runtime or thread.
pub struct Journal<O> {
    gate: Arc<Gate<O>>,
    pulse: Arc<Pulse>,
    barriers: Arc<Barriers>,
}

impl<O> Clone for Journal<O> {
    fn clone(&self) -> Journal<O> {
        Journal { gate: self.gate.clone(), pulse: self.pulse.clone(), barriers: self.barriers.clone() }
    }
}

impl<O: Send + 'static> Journal<O> {
    pub(crate) fn new(gate: Arc<Gate<O>>, pulse: Arc<Pulse>, barriers: Arc<Barriers>) -> Journal<O> {
        Journal { gate, pulse, barriers }
    }

    /// The reign in force; `Some` only while this node leads it.
    pub fn reign(&self) -> Option<Reign> {
        self.gate.reign()
    }

    /// Watches the reign. Reigns may follow each other faster than a watcher looks; their numbers tell.
    pub fn reign_watch(&self) -> watch::Receiver<Option<Reign>> {
        self.gate.reign_watch()
    }

    /// The leader's estimate of log time now, milliseconds since the Unix epoch: the wall clock as read once per reign,
    /// plus monotonic time since, never before the last entry. On other nodes the log time of the last entry applied.
    pub fn log_time_ms(&self) -> i64 {
        self.gate.log_time_ms()
    }

    /// Puts a transaction at the tail of the queue. Never waits.
    ///
    /// # Errors
    /// Always a definite no: it was not taken, and will never be applied.
    pub fn propose(&self, reign: u64, transaction: Bytes) -> Result<Pending<O>, Refused> {
        self.gate.propose(reign, transaction).map(|(receiver, since)| Pending { receiver, since })
    }

    /// Ends the reign, if one is in force; a new one begins with a new fence.
    pub fn end_reign(&self, reason: &str) {
        self.gate.end_reign(reason);
    }

    /// An index such that rows which have reached it answer linearizably as of this call. On any node: a follower asks
    /// the leader. One round at a time; everyone who waits shares the next. Wait for the index with `wait_applied`.
    ///
    /// # Errors
    /// When no leader, or the leader no majority, was reached before the deadline.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<u64, ReadError> {
        self.barriers.read_barrier(deadline).await
    }

    /// What the leader has applied, without asking a majority: monotonic with the leader, not linearizable.
    ///
    /// # Errors
    /// When no leader was reached before the deadline.
    pub async fn leader_applied(&self, deadline: Instant) -> Result<u64, ReadError> {
        self.barriers.leader_applied(deadline).await
    }

    /// This node leads and heard from a majority within the lease: proposals are taken.
    pub fn quorum_fresh(&self) -> bool {
        self.pulse.quorum_fresh()
    }

    /// Milliseconds since a majority last answered this leader; `None` elsewhere.
    pub fn last_quorum_age_ms(&self) -> Option<u64> {
        self.pulse.quorum_age_ms()
    }

    /// The voters' clocks agree: decisions that depend on time may be taken.
    pub fn clock_trusted(&self) -> bool {
        self.pulse.clock_trusted()
    }
}

/// Hands answers to those who wait, on their own runtime: the apply thread rings once per entry, not once per waiter.
pub(crate) async fn deliver<O>(mut answers: mpsc::UnboundedReceiver<Answers<O>>) {
    while let Some(answer) = answers.recv().await {
        match answer {
            Answers::Applied { index, applied_at, outcomes, waiters } => {
                for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                    // Whoever gave up waiting does not need the answer.
                    let _ = waiter.send(Ok(Placed { index, applied_at, outcome }));
                }
            }
            Answers::Lost { lost, waiters } => {
                for waiter in waiters {
                    let _ = waiter.send(Err(lost));
                }
            }
        }
    }
}
