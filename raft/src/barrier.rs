//! Read barriers: one round on its way, and everyone who waits shares the next.
//!
//! A round on the leader is the engine's read index: it notes the commit index, then hears from a majority that it
//! still leads. A follower asks the leader over the control lane. An answer is good for whoever asked before the round
//! began; what comes in meanwhile waits for the next one.

use std::sync::Arc;
use std::time::Duration;

use agora_planted::{self as planted, Bug};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::counters::Counters;
use crate::error::ReadError;
use crate::machine::Machine;
use crate::pulse::Pulse;
use crate::rows_cell::RowsCell;
use crate::transport::Lane;
use crate::transport::link::{LinkError, Links, after};
use crate::transport::wire::{self, Barrier, ReadIndex, kind};
use crate::types::TypeConfig;

/// Reads that may wait for one round.
const WAITING_MAX: usize = 100_000;
/// Deadline of one question to the leader.
const ASK_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Pause before asking again when no leader is known.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Shared by all who read.
pub(crate) struct Barriers {
    pulse: Arc<Pulse>,
    rows: Arc<RowsCell>,
    counters: Arc<Counters>,
    links: Arc<Links>,
    waiting: Mutex<Vec<Waiting>>,
    bell: Notify,
}

struct Waiting {
    /// Only this node's word as leader will do: a follower asked.
    as_leader: bool,
    answer: oneshot::Sender<ReadIndex>,
}

impl Barriers {
    pub(crate) fn new(pulse: Arc<Pulse>, rows: Arc<RowsCell>, counters: Arc<Counters>, links: Arc<Links>) -> Barriers {
        Barriers { pulse, rows, counters, links, waiting: Mutex::default(), bell: Notify::new() }
    }

    fn join(&self, as_leader: bool) -> Option<oneshot::Receiver<ReadIndex>> {
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return None;
            }
            waiting.push(Waiting { as_leader, answer });
        }
        self.bell.notify_one();
        Some(receiver)
    }

    /// A read index, asked for until the deadline.
    pub(crate) async fn read_barrier(&self, deadline: Instant) -> Result<u64, ReadError> {
        let mut last = ReadError::Timeout;
        loop {
            let Some(receiver) = self.join(false) else { return Err(ReadError::Timeout) };
            match tokio::time::timeout_at(deadline, receiver).await {
                Err(_) => return Err(last),
                Ok(Ok(ReadIndex::At(index))) => return Ok(index),
                Ok(Ok(ReadIndex::NoQuorum)) => last = ReadError::NoQuorum,
                Ok(Ok(ReadIndex::NotLeader) | Err(_)) => last = ReadError::NoLeader,
            }
            pause_until(deadline, last).await?;
        }
    }

    /// What the leader has applied. No round is made for it, but a leader that no majority has answered lately does
    /// not say.
    pub(crate) async fn leader_applied(&self, deadline: Instant) -> Result<u64, ReadError> {
        loop {
            let answer = match self.pulse.leading() {
                Some(_) => self.own_applied(),
                None => self.ask_leader(false, deadline).await,
            };
            let last = match answer {
                ReadIndex::At(index) => return Ok(index),
                ReadIndex::NoQuorum => ReadError::NoQuorum,
                ReadIndex::NotLeader => ReadError::NoLeader,
            };
            pause_until(deadline, last).await?;
        }
    }

    fn own_applied(&self) -> ReadIndex {
        if self.pulse.quorum_fresh() { ReadIndex::At(self.rows.applied()) } else { ReadIndex::NoQuorum }
    }

    /// A read index as leader, for a follower that asked.
    pub(crate) async fn as_leader(&self, barrier: Barrier) -> ReadIndex {
        if self.pulse.leading().is_none() {
            return ReadIndex::NotLeader;
        }
        if !barrier.quorum {
            return self.own_applied();
        }
        match self.join(true) {
            Some(receiver) => receiver.await.unwrap_or(ReadIndex::NotLeader),
            None => ReadIndex::NotLeader,
        }
    }

    /// Runs one round after the other, as long as someone waits.
    pub(crate) async fn run(self: Arc<Self>, raft: Raft<TypeConfig, Machine>) {
        loop {
            self.bell.notified().await;
            loop {
                let waiting = std::mem::take(&mut *self.waiting.lock());
                if waiting.is_empty() {
                    break;
                }
                let answer = self.round(&raft, &waiting).await;
                for one in waiting {
                    let answer = match answer {
                        (index, true) => index,
                        // A follower asked us as leader; what another leader told us is not for it.
                        (_, false) if one.as_leader => ReadIndex::NotLeader,
                        (index, false) => index,
                    };
                    // Whoever gave up waiting does not need it.
                    let _ = one.answer.send(answer);
                }
            }
        }
    }

    /// One round; the flag says whether this node answered as leader.
    async fn round(&self, raft: &Raft<TypeConfig, Machine>, waiting: &[Waiting]) -> (ReadIndex, bool) {
        if let Some(term) = self.pulse.leading() {
            self.counters.barriers.one();
            self.counters.barrier_reads.add(waiting.len() as u64);
            let first_entry_missing = || self.pulse.observed.read().committed.term < term;
            if planted::is(Bug::ReadWithoutQuorumRound)
                || first_entry_missing() && planted::is(Bug::ReadBeforeFirstEntryOfTerm)
            {
                return (ReadIndex::At(self.rows.applied()), true);
            }
            return (read_index(raft).await, true);
        }
        if waiting.iter().all(|one| one.as_leader) {
            return (ReadIndex::NotLeader, true);
        }
        (self.ask_leader(true, after(ASK_TIMEOUT)).await, false)
    }

    async fn ask_leader(&self, quorum: bool, deadline: Instant) -> ReadIndex {
        let Some(leader) = self.pulse.observed.read().leader else { return ReadIndex::NotLeader };
        let asked = async {
            let deadline = deadline.min(after(ASK_TIMEOUT));
            let link = tokio::time::timeout_at(deadline, self.links.get(leader, Lane::Control))
                .await
                .map_err(|_| LinkError::Timeout)??;
            link.call(kind::BARRIER, wire::encode(&Barrier { quorum }), deadline).await
        };
        match asked.await {
            Ok((kind::READ_INDEX, body)) => wire::decode(&body).unwrap_or(ReadIndex::NotLeader),
            Ok(_) | Err(_) => ReadIndex::NotLeader,
        }
    }
}

/// The engine's read index.
async fn read_index(raft: &Raft<TypeConfig, Machine>) -> ReadIndex {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => ReadIndex::At(linearizer.read_log_id().index() + 1),
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => ReadIndex::NoQuorum,
        Err(_) => ReadIndex::NotLeader,
    }
}

async fn pause_until(deadline: Instant, otherwise: ReadError) -> Result<(), ReadError> {
    if Instant::now() + RETRY_PAUSE >= deadline {
        return Err(otherwise);
    }
    tokio::time::sleep(RETRY_PAUSE).await;
    Ok(())
}
