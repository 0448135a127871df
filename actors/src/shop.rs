//! The façade: one write path and one read path, on any node.
//!
//! A write goes to the leader as a typed command, is tried again at a new leader under the same key until its
//! deadline, and ends in exactly one of three ways: yes, no, or unknown. Once an attempt *may* have reached a journal,
//! only an answer found under its key, or a decision by a later reign, makes a yes or a no of it; being turned away
//! afterwards says nothing about the earlier attempt.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_apply::{TransactionResult, answer, schema};
use agora_domain::{
    Account, Answer, Claim, Command, Entity, KeyRef, Order, Rejection, Sku, Transaction, transaction::Outcome,
};
use agora_planted::{self as planted, Bug};
use agora_raft::{
    Boot, CallError, Journal, Lost, Pending, RaftConfig, RaftNode, ReadError as BarrierError, Refused, StartError,
    World,
};
use agora_storage::{Keyspace, StateHeader, codec, meta, rows::Rows};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::{
    checkout::{Checkout, Decided, Grants, IdMaker, Undecided},
    forward::{Forwarded, PeerDesk},
    hosts::{HostSet, Hosts},
    inflight::{Entered, InFlight, Ticket},
    machine::ShopMachine,
    metrics::{Counters, ShopMetrics},
    read::ReadView,
    timers,
};

/// How long a write waits for a leader before it is told that there is no quorum. An election takes about a second;
/// whoever has waited longer waits for a majority.
const LEADER_WAIT: Duration = Duration::from_millis(1_800);
/// Pause between attempts while there is no leader.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);
/// Part of admission that is kept for retries of requests that may have been sent before: one in so many.
const RETRY_RESERVE: u64 = 8;
/// What a forwarded write's deadline is earlier than its sender's.
const FORWARD_MARGIN: Duration = Duration::from_millis(30);
/// A refusal waits so long at most for what is committed to be applied; the request's deadline is earlier.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
/// Reads under `Min-Index` wait so long at most.
const MIN_INDEX_WAIT: Duration = Duration::from_secs(1);

/// Settings of a shop.
#[derive(Clone, Debug)]
pub struct ShopConfig {
    /// How long an unpaid order lives, in milliseconds. Default 15 minutes.
    pub order_ttl_ms: u64,
    /// Entities the leader keeps in memory. Default 100,000.
    pub live_entities_max: usize,
    /// Hosts per kind of entity. Default 2.
    pub hosts: usize,
    /// Writes being decided or waiting for their outcome at once; beyond it they are turned away. Default 4,096.
    pub admission_max: u64,
    /// How often the leader looks for orders whose time ran out, in milliseconds. Default 200.
    pub timer_tick_ms: u64,
}

impl Default for ShopConfig {
    fn default() -> Self {
        Self {
            order_ttl_ms: 15 * 60 * 1000,
            live_entities_max: 100_000,
            hosts: 2,
            admission_max: 4_096,
            timer_tick_ms: 200,
        }
    }
}

/// A write.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Its idempotency key.
    pub key: KeyRef,
    /// Its trace id.
    pub trace: u128,
    /// What is wanted.
    pub command: Command,
}

/// A write that was decided: granted or refused, see [`Answer::Refused`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// What it came to.
    pub answer: Answer,
    /// Log index of the entry that holds it.
    pub index: u64,
    /// True when the answer was given before.
    pub replayed: bool,
    /// Trace id of the request that was decided: on a replay, the first one's.
    pub trace: u128,
}

/// A write that was not decided, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum WriteError {
    /// Nobody leads yet. Not applied.
    #[error("no leader is known yet")]
    NoLeader,
    /// No majority answers. Not applied.
    #[error("no majority of the nodes can be reached")]
    NoQuorum,
    /// Too much is waiting. Not applied.
    #[error("too many requests are waiting")]
    Overloaded {
        /// When to come again.
        retry_after_ms: u64,
    },
    /// This node is going away. Not applied.
    #[error("this node is shutting down")]
    ShuttingDown,
    /// The key was used for another request. Not applied.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The first request under the key has not ended by this one's deadline.
    #[error("the first request under this key is still on its way")]
    KeyInFlight,
    /// It may have been applied: ask again under the same key.
    #[error("the outcome is not known")]
    Unknown,
    /// A fault. Not applied.
    #[error("{0}")]
    Internal(String),
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was answered before it was asked.
    Linearizable,
    /// Sees what the leader has applied, as far as the leader knows that it leads.
    Leader,
    /// At most so old.
    Bounded {
        /// How old.
        max_staleness: Duration,
    },
    /// Whatever this node has.
    Local,
}

/// A read that cannot be answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads.
    #[error("no leader is known")]
    NoLeader,
    /// No majority answers.
    #[error("no majority of the nodes can be reached")]
    NoQuorum,
    /// The rows here are older than asked for and newer ones cannot be had.
    #[error("the rows here are older than asked for")]
    Stale {
        /// How old, if known.
        have_ms: Option<u64>,
    },
    /// `Min-Index` was not reached in time.
    #[error("index not reached, applied is {applied}")]
    MinIndexNotReached {
        /// What is applied here.
        applied: u64,
    },
    /// This node lost its rows and is making them again from its log.
    #[error("the rows here are being made again: applied is {applied}, needed is {needed}")]
    Syncing {
        /// What is applied here.
        applied: u64,
        /// What must be.
        needed: u64,
    },
    /// The deadline passed.
    #[error("timed out")]
    Timeout,
    /// The rows could not be read.
    #[error("{0}")]
    Storage(String),
}

/// How one attempt at a write ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Yes, or a no that another attempt would hear again.
    Done(Box<Result<Written, WriteError>>),
    /// No: nothing happened and nothing will. Another attempt may do better.
    No(WriteError),
    /// It may have reached a journal.
    Unknown,
}

impl Attempt {
    fn done(result: Result<Written, WriteError>) -> Self {
        Self::Done(Box::new(result))
    }

    /// What those hear who wait under the same key.
    fn ending(&self) -> Result<Written, WriteError> {
        match self {
            Self::Done(result) => result.as_ref().clone(),
            Self::No(error) => Err(error.clone()),
            Self::Unknown => Err(WriteError::Unknown),
        }
    }
}

/// A node's shop.
#[derive(Clone)]
pub struct Shop {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    raft: RaftNode<ShopMachine>,
    hosts: Arc<Hosts>,
    ids: IdMaker,
    turnstile: tokio::sync::Mutex<()>,
    inflight: Arc<InFlight>,
    counters: Arc<Counters>,
    config: ShopConfig,
    node: u64,
    world: World,
    /// Highest index this node has told a client.
    acknowledged: AtomicU64,
    /// Read indexes this node's rows have reached or will, with the moment each was asked for.
    fresh: Mutex<VecDeque<(Duration, u64)>>,
    /// `None` while writes go through.
    trouble: Mutex<Option<Trouble>>,
    stopping: watch::Sender<bool>,
}

/// No leader or no quorum was found.
#[derive(Clone, Copy)]
struct Trouble {
    since: Duration,
    /// When a write met it last.
    seen: Duration,
}

impl Shop {
    /// Opens the node's directory, joins its peers and starts the actors.
    ///
    /// # Errors
    /// A directory that cannot be used, a port that is taken, settings that cannot work.
    pub async fn start(world: World, raft: RaftConfig, boot: Boot, config: ShopConfig) -> Result<Self, StartError> {
        let counters = Arc::new(Counters::default());
        let source = Arc::new(RowSource::default());
        let spawn = |error: ractor::SpawnErr| StartError::Other(format!("cannot start the actors: {error}"));
        // Four kinds share the bound: most of what is warm are SKUs.
        let share = |part: usize| (config.live_entities_max / part).max(1);
        let hosts = Arc::new(Hosts::new(
            HostSet::<Sku>::start_with(config.hosts, share(2), source.load(), source.wrong()).await.map_err(spawn)?,
            HostSet::<Order>::start_with(config.hosts, share(4), source.load(), source.wrong()).await.map_err(spawn)?,
            HostSet::<Account>::start_with(config.hosts, share(8), source.load(), source.wrong())
                .await
                .map_err(spawn)?,
            HostSet::<Claim>::start_with(1, share(8), source.load(), source.wrong()).await.map_err(spawn)?,
        ));
        let machine = ShopMachine::new(raft.node_id, Arc::clone(&hosts), Arc::clone(&counters));
        let desk = Arc::new(PeerDesk::default());
        let node = raft.node_id;
        let raft = RaftNode::start(world.clone(), raft, boot, machine, Arc::clone(&desk) as _).await?;
        source.set(raft.clone());
        let shop = Self {
            inner: Arc::new(Inner {
                raft,
                hosts,
                ids: IdMaker::default(),
                turnstile: tokio::sync::Mutex::default(),
                inflight: Arc::default(),
                counters,
                config,
                node,
                world,
                acknowledged: AtomicU64::new(0),
                fresh: Mutex::default(),
                trouble: Mutex::default(),
                stopping: watch::Sender::new(false),
            }),
        };
        desk.open(&shop.inner);
        tokio::spawn(watch_reigns(shop.clone()));
        tokio::spawn(timers::run(shop.clone()));
        Ok(shop)
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The node below: status, members, snapshots, counters, shutdown.
    pub fn cluster(&self) -> &RaftNode<ShopMachine> {
        &self.inner.raft
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.inner.node
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<u64> {
        self.inner.raft.leader()
    }

    /// Applied index, for long polls of the feed.
    pub fn feed_wake(&self) -> watch::Receiver<u64> {
        self.inner.raft.applied_watch()
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> ShopMetrics {
        self.inner.counters.read(self.inner.hosts.residents())
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    pub(crate) fn config(&self) -> &ShopConfig {
        &self.inner.config
    }

    pub(crate) fn journal(&self) -> &Journal<TransactionResult> {
        self.inner.raft.journal()
    }

    /// The time by which orders expire and ids are made.
    pub(crate) fn order_time_ms(&self) -> i64 {
        if planted::is(Bug::ExpiryByLocalClock) {
            self.inner.world.clock.wall_ms()
        } else {
            self.journal().log_time_ms()
        }
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.inner.stopping.subscribe()
    }

    /// Hands leadership over, drains what is on its way, makes the rows durable and stops.
    pub async fn shutdown(&self) {
        self.inner.stopping.send_replace(true);
        self.inner.raft.shutdown().await;
        self.inner.hosts.stop().await;
    }

    // ---------------------------------------------------------------------------------------------------- writes

    /// Places a write wherever the leader is, under one key, until the deadline.
    ///
    /// # Errors
    /// See [`WriteError`]. Everything but [`WriteError::Unknown`] and [`WriteError::KeyInFlight`] is a definite no.
    pub async fn submit(&self, request: WriteRequest, deadline: Instant) -> Result<Written, WriteError> {
        let begun = self.now();
        let result = self.place(request, deadline).await;
        self.inner.counters.stages.submit.record(begun, self.now());
        result
    }

    /// Time since some fixed moment, for measuring.
    pub(crate) fn now(&self) -> Duration {
        self.inner.world.clock.monotonic()
    }

    async fn place(&self, request: WriteRequest, deadline: Instant) -> Result<Written, WriteError> {
        if *self.inner.stopping.borrow() {
            return Err(WriteError::ShuttingDown);
        }
        let mut leaders = self.inner.raft.status_watch();
        let mut maybe_sent = false;
        loop {
            leaders.mark_unchanged();
            let no = match self.attempt(&request, deadline, maybe_sent).await {
                Attempt::Done(result) => {
                    self.inner.trouble.lock().take();
                    return self.ended(*result, maybe_sent, request.trace);
                }
                Attempt::Unknown => {
                    maybe_sent = !planted::is(Bug::LastAnswerWins);
                    WriteError::Unknown
                }
                Attempt::No(why) => why,
            };
            let patience = match no {
                WriteError::NoLeader | WriteError::NoQuorum => self.patience(),
                WriteError::Unknown => deadline,
                // Turned away by a leader: if nothing was ever sent, the client may as well know at once.
                _ => {
                    self.inner.trouble.lock().take();
                    if !maybe_sent {
                        return self.ended(Err(no), false, request.trace);
                    }
                    deadline
                }
            };
            let now = Instant::now();
            if now >= deadline || (now >= patience && !maybe_sent) {
                return Err(if maybe_sent {
                    Counters::add(&self.inner.counters.unknown);
                    WriteError::Unknown
                } else if now >= patience {
                    WriteError::NoQuorum
                } else {
                    no
                });
            }
            // Nothing will happen before someone else leads; the pause is for a leader still on its way to a reign.
            let pause = tokio::time::timeout(ATTEMPT_PAUSE, leaders.changed());
            let _ = tokio::time::timeout_at(deadline, pause).await;
        }
    }

    fn ended(
        &self,
        mut result: Result<Written, WriteError>,
        maybe_sent: bool,
        trace: u128,
    ) -> Result<Written, WriteError> {
        match &mut result {
            Ok(written) => {
                // Found under its key, but left there by an earlier attempt of this very request.
                written.replayed &= !(maybe_sent && written.trace == trace);
                self.inner.acknowledged.fetch_max(written.index, Ordering::Relaxed);
                if written.replayed {
                    Counters::add(&self.inner.counters.replays);
                }
            }
            Err(WriteError::KeyReused) => Counters::add(&self.inner.counters.key_conflicts),
            // The first request under this key is, or may be, an earlier attempt of this very request. And a decision
            // that failed is not kept under the key: an earlier attempt still on the wire would be decided anew.
            Err(WriteError::KeyInFlight | WriteError::Internal(_)) if maybe_sent => {
                Counters::add(&self.inner.counters.unknown);
                return Err(WriteError::Unknown);
            }
            Err(_) => {}
        }
        result
    }

    /// Until when a write may wait for a leader.
    fn patience(&self) -> Instant {
        let now = self.inner.world.clock.monotonic();
        let mut trouble = self.inner.trouble.lock();
        // Whoever waits looks again every few milliseconds. If nobody has looked for so long, what was wrong then says
        // nothing of now, and an election deserves its second anew.
        let lasting = trouble.filter(|trouble| now.saturating_sub(trouble.seen) <= LEADER_WAIT);
        let since = lasting.map_or(now, |trouble| trouble.since);
        *trouble = Some(Trouble { since, seen: now });
        Instant::now() + LEADER_WAIT.saturating_sub(now.saturating_sub(since))
    }

    async fn attempt(&self, request: &WriteRequest, deadline: Instant, retry: bool) -> Attempt {
        match self.leader() {
            Some(leader) if leader == self.inner.node => self.decide_here(request, deadline, retry).await,
            Some(leader) => {
                let begun = self.now();
                let attempt = self.forward(leader, request, deadline, retry).await;
                self.inner.counters.stages.forward.record(begun, self.now());
                attempt
            }
            None => Attempt::No(WriteError::NoLeader),
        }
    }

    /// Sends the typed command to the leader. Stops waiting when somebody else leads: that one knows, or decides anew.
    async fn forward(&self, leader: u64, request: &WriteRequest, deadline: Instant, retry: bool) -> Attempt {
        Counters::add(&self.inner.counters.forwarded);
        // The leader gives up a little earlier than this node, so that its definite no still arrives here as one.
        let left_ms = deadline.saturating_duration_since(Instant::now()).saturating_sub(FORWARD_MARGIN).as_millis();
        let forwarded = Forwarded {
            key: request.key,
            trace: request.trace,
            command: request.command.clone(),
            left_ms: u32::try_from(left_ms).unwrap_or(u32::MAX),
            retry,
        };
        let call = self.inner.raft.call(leader, Bytes::from(codec::encode(&forwarded)), deadline);
        let mut status = self.inner.raft.status_watch();
        let someone_else = async {
            loop {
                let now = status.borrow_and_update().leader;
                if now.is_some_and(|now| now != leader) || status.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            answered = call => match answered {
                Ok(bytes) => crate::forward::read_reply(&bytes),
                Err(CallError::NotSent) => Attempt::No(WriteError::NoLeader),
                Err(CallError::Unknown) if planted::is(Bug::ForwardedTimeoutAnsweredOk) => self.as_if_done(request),
                Err(CallError::Unknown) => Attempt::Unknown,
            },
            () = someone_else => Attempt::Unknown,
        }
    }

    /// What [`Bug::ForwardedTimeoutAnsweredOk`] answers.
    fn as_if_done(&self, request: &WriteRequest) -> Attempt {
        let (Command::PayOrder { order, .. } | Command::CancelOrder { order, .. } | Command::ShipOrder { order, .. }) =
            &request.command
        else {
            return Attempt::Unknown;
        };
        let Ok(Some(order)) = schema::load::<Order>(self.inner.raft.rows().as_ref(), order.0.0) else {
            return Attempt::Unknown;
        };
        let (trace, index) = (request.trace, self.inner.raft.applied_index());
        let answer = Answer::Order { order: Box::new(order), no_change: false };
        Attempt::done(Ok(Written { answer, index, replayed: false, trace }))
    }

    /// Decides as leader. Also called for other nodes, with `retry` as they say.
    pub(crate) async fn decide_here(&self, request: &WriteRequest, deadline: Instant, retry: bool) -> Attempt {
        let begun = self.now();
        let journal = self.journal();
        let Some(reign) = journal.reign() else { return Attempt::No(WriteError::NoLeader) };
        if !journal.quorum_fresh() {
            return Attempt::No(WriteError::NoQuorum);
        }
        let mut ticket = match self.inner.inflight.enter(request.key) {
            Entered::First(ticket) => ticket,
            // That request may yet come to nothing, and leave the key to an earlier attempt of this one.
            Entered::Other => return Attempt::No(WriteError::KeyReused),
            Entered::Full => return self.turn_away(),
            Entered::Same(running) => {
                return match running.wait(deadline).await {
                    Some(Ok(written)) => Attempt::done(Ok(Written { replayed: true, ..written })),
                    Some(Err(WriteError::Unknown)) => Attempt::Unknown,
                    Some(Err(error)) => Attempt::No(error),
                    None => Attempt::done(Err(WriteError::KeyInFlight)),
                };
            }
        };
        match self.known(request.key) {
            Ok(None) => {}
            Ok(Some(result)) => {
                ticket.end(result.clone());
                return Attempt::done(result);
            }
            Err(error) => return Attempt::No(WriteError::Internal(error.to_string())),
        }
        let Some(_admitted) = Admitted::enter(&self.inner.counters, self.inner.config.admission_max, retry) else {
            return self.turn_away();
        };
        let propose = self.propose(reign.number, Some(request.key), request.trace, &request.command);
        let pending = match tokio::time::timeout_at(deadline, propose).await {
            Ok(Ok(Some(pending))) => pending,
            // Only commands without a key are dropped when refused.
            Ok(Ok(None)) => return Attempt::No(WriteError::Internal("a keyed write came to nothing".into())),
            Ok(Err(error)) => {
                ticket.end(Err(error.clone()));
                return Attempt::No(error);
            }
            // Nothing had been handed to the journal; what was granted is given back.
            Err(_) => return self.turn_away(),
        };
        ticket.sent();
        let stages = &self.inner.counters.stages;
        stages.decide.record(begun, pending.since());
        let (ticket, pending, trace) = (Some(ticket), Some(pending), request.trace);
        let mut waiting = Waiting { ticket, pending, applied_at: None, trace };
        let attempt = tokio::time::timeout_at(deadline, waiting.outcome()).await;
        if let Some(applied_at) = waiting.applied_at {
            stages.answer.record(applied_at, self.now());
        }
        attempt.unwrap_or(Attempt::Unknown)
    }

    fn turn_away(&self) -> Attempt {
        Counters::add(&self.inner.counters.overloaded);
        Attempt::No(WriteError::Overloaded { retry_after_ms: 1_000 })
    }

    /// Decides a command and hands it to the journal. `None` when a command that nobody asked for was refused: then
    /// there is nothing to write.
    pub(crate) async fn propose(
        &self,
        reign: u64,
        key: Option<KeyRef>,
        trace: u128,
        command: &Command,
    ) -> Result<Option<Pending<TransactionResult>>, WriteError> {
        let journal = self.journal();
        self.inner.hosts.open(reign);
        let checkout = Checkout {
            hosts: &self.inner.hosts,
            reign,
            now_ms: self.order_time_ms(),
            ids: &self.inner.ids,
            order_ttl_ms: self.inner.config.order_ttl_ms,
            rows: self.inner.raft.rows(),
            turnstile: &self.inner.turnstile,
        };
        let undecided = |undecided| match undecided {
            Undecided::Stale => WriteError::NoLeader,
            Undecided::Overloaded => WriteError::Overloaded { retry_after_ms: 1_000 },
            Undecided::Failed(message) => WriteError::Internal(message),
        };
        let fed = self.inner.raft.applied_index();
        let mut decided = checkout.decide(command).await.map_err(undecided)?;
        if key.is_some() && decided.refuses() {
            // An engine that is gone leads nothing.
            let committed = self.inner.raft.committed_index().await.ok_or(WriteError::NoLeader)?;
            if committed > fed {
                // Before asking again: what a batch was granted would stand in its own way.
                drop(decided);
                self.catch_up(committed).await?;
                decided = checkout.decide(command).await.map_err(undecided)?;
            }
        }
        let Decided { decided_at, changes, legs, outcome, mut grants } = decided;
        if key.is_none() && matches!(outcome, Outcome::Refused(_)) {
            return Ok(None);
        }
        let transaction = Transaction { key, trace, decided_at, changes, legs, outcome };
        let mut proposed = journal.propose(reign, Bytes::from(codec::encode(&transaction)));
        if let (Err(Refused::TooLarge { bytes_max, .. }), Some(_)) = (&proposed, key) {
            // Many orders of many lines with long names: the request's doing and not a fault, so a refusal like any
            // other. What was granted goes back.
            grants = Grants::default();
            let limit = *bytes_max as u64;
            let rejection = Rejection::LimitExceeded { what: "bytes of what one request changes".to_owned(), limit };
            let outcome = Outcome::Refused(rejection);
            let refused = Transaction { changes: Vec::new(), legs: Vec::new(), outcome, ..transaction };
            proposed = journal.propose(reign, Bytes::from(codec::encode(&refused)));
        }
        match proposed {
            Ok(pending) => {
                grants.keep();
                Ok(Some(pending))
            }
            Err(refused) => Err(match refused {
                Refused::ReignOver | Refused::Draining => WriteError::NoLeader,
                Refused::NoQuorum => WriteError::NoQuorum,
                Refused::Overloaded => WriteError::Overloaded { retry_after_ms: 1_000 },
                Refused::TooLarge { .. } => WriteError::Internal(refused.to_string()),
            }),
        }
    }

    /// Waits until the entities know all that is committed, before anything is refused.
    ///
    /// A follower may apply an entry before this leader does, and show it to somebody who then asks here. Granting on
    /// the older state is safe: what is committed and not applied here can only give. Refusing is not: that somebody has
    /// seen the units that a refusal would deny.
    async fn catch_up(&self, committed: u64) -> Result<(), WriteError> {
        // The caller's deadline ends the wait; a node that stops applies no more.
        let until = Instant::now() + CATCH_UP_MAX;
        self.inner.raft.wait_applied(committed, until).await.map_err(|_| WriteError::NoLeader)
    }

    /// The outcome kept under a key, if there is one.
    fn known(&self, key: KeyRef) -> agora_storage::Result<Option<Result<Written, WriteError>>> {
        let rows = self.inner.raft.rows();
        let Some(state) = rows.get(Keyspace::Meta, meta::STATE)? else { return Ok(None) };
        let state: StateHeader = codec::decode(&state)?;
        let newest_first = state.outcome_buckets.iter().rev().map(|(bucket, _)| *bucket);
        let Some(row) = answer::find_outcome(newest_first, key.hash, |keyspace, key| rows.get(keyspace, key))? else {
            return Ok(None);
        };
        if row.fingerprint != key.fingerprint && !planted::is(Bug::AlteredBodyAnswered) {
            return Ok(Some(Err(WriteError::KeyReused)));
        }
        let answer = answer::restore(row.answer, |id| schema::load::<Order>(rows.as_ref(), id.0.0))?;
        Ok(Some(Ok(Written { answer, index: row.index, replayed: true, trace: row.trace })))
    }

    // ----------------------------------------------------------------------------------------------------- reads

    /// A consistent view of this node's rows, as fresh as asked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(
        &self,
        consistency: Consistency,
        min_index: Option<u64>,
        deadline: Instant,
    ) -> Result<ReadView, ReadError> {
        if let Some(needed) = self.inner.raft.serves_from() {
            return Err(ReadError::Syncing { applied: self.inner.raft.applied_index(), needed });
        }
        let clock = &self.inner.world.clock;
        // Whoever has waited for a leader as long as an election takes waits for a majority, and is told so.
        let patience = deadline.min(Instant::now() + LEADER_WAIT);
        let mut reach = 0;
        let mut staleness = None;
        let mut timed_out = ReadError::Timeout;
        match consistency {
            Consistency::Local => {}
            Consistency::Linearizable => {
                let asked = clock.monotonic();
                reach = self.journal().read_barrier(patience).await.map_err(barrier_error)?;
                self.note_fresh(asked, reach);
                staleness = Some(Duration::ZERO);
            }
            Consistency::Leader => {
                reach = self.journal().leader_applied(patience).await.map_err(barrier_error)?;
            }
            Consistency::Bounded { max_staleness } => {
                let stale = || ReadError::Stale { have_ms: self.staleness().map(|age| age.as_millis() as u64) };
                // What this node has told a client, it shows. The age is looked at after that wait: rows age in it.
                let told = self.inner.acknowledged.load(Ordering::Relaxed);
                if !planted::is(Bug::AcknowledgedNotWaitedFor) {
                    self.inner.raft.wait_applied(told, deadline).await.map_err(|_| stale())?;
                }
                let too_old = self.staleness().is_none_or(|age| age > max_staleness);
                if too_old && !planted::is(Bug::StaleReadTakenForBounded) {
                    let asked = clock.monotonic();
                    reach = self.journal().read_barrier(patience).await.map_err(|_| stale())?;
                    self.note_fresh(asked, reach);
                    staleness = Some(Duration::ZERO);
                    timed_out = stale();
                }
            }
        }
        if reach > 0 && !planted::is(Bug::ReadDoesNotWaitForApply) {
            self.inner.raft.wait_applied(reach, deadline).await.map_err(|_| timed_out)?;
        }
        if let Some(min_index) = min_index {
            let until = deadline.min(Instant::now() + MIN_INDEX_WAIT);
            let reached = self.inner.raft.wait_applied(min_index, until).await;
            reached.map_err(|_| ReadError::MinIndexNotReached { applied: self.inner.raft.applied_index() })?;
        }
        if matches!(consistency, Consistency::Local | Consistency::Bounded { .. }) && staleness.is_none() {
            // As late as can be: whatever was waited for is part of the age.
            staleness = self.staleness();
        }
        ReadView::open(self.inner.raft.rows().as_ref(), self.inner.node, self.leader(), staleness)
            .map_err(|error| ReadError::Storage(error.to_string()))
    }

    /// How old this node's rows are at most: they have reached a read index that was asked for so long ago.
    fn staleness(&self) -> Option<Duration> {
        let applied = self.inner.raft.applied_index();
        let now = self.inner.world.clock.monotonic();
        let fresh = self.inner.fresh.lock();
        fresh.iter().rev().find(|(_, index)| *index <= applied).map(|(asked, _)| now.saturating_sub(*asked))
    }

    fn note_fresh(&self, asked: Duration, index: u64) {
        const KEPT_MAX: usize = 8;
        let mut fresh = self.inner.fresh.lock();
        if fresh.back().is_none_or(|(last, _)| *last < asked) {
            fresh.push_back((asked, index));
        }
        if fresh.len() > KEPT_MAX {
            fresh.pop_front();
        }
    }
}

fn barrier_error(error: BarrierError) -> ReadError {
    match error {
        BarrierError::NoLeader => ReadError::NoLeader,
        BarrierError::NoQuorum => ReadError::NoQuorum,
        BarrierError::Timeout => ReadError::Timeout,
    }
}

/// One place in admission.
struct Admitted {
    counters: Arc<Counters>,
}

impl Admitted {
    fn enter(counters: &Arc<Counters>, max: u64, retry: bool) -> Option<Self> {
        let limit = if retry { max } else { max - max / RETRY_RESERVE };
        let admitted = Self { counters: Arc::clone(counters) };
        (counters.deciding.fetch_add(1, Ordering::Relaxed) < limit).then_some(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.counters.deciding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A transaction in the journal. Whoever waits for it may go away; its key stays taken until its fate is known.
struct Waiting {
    ticket: Option<Ticket>,
    pending: Option<Pending<TransactionResult>>,
    /// When it was in the rows.
    applied_at: Option<Duration>,
    trace: u128,
}

impl Waiting {
    async fn outcome(&mut self) -> Attempt {
        let Some(pending) = self.pending.as_mut() else { return Attempt::Unknown };
        let placed = pending.await;
        self.applied_at = placed.as_ref().ok().map(|placed| placed.applied_at);
        let attempt = fate(placed, self.trace);
        self.pending = None;
        if let Some(ticket) = self.ticket.take() {
            ticket.end(attempt.ending());
        }
        attempt
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let (Some(ticket), Some(pending)) = (self.ticket.take(), self.pending.take()) {
            let trace = self.trace;
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                // Not another `Waiting`: a runtime that ends drops the task at once, and that must not start the next.
                runtime.spawn(async move { ticket.end(fate(pending.await, trace).ending()) });
            }
        }
    }
}

fn fate(placed: Result<agora_raft::Placed<TransactionResult>, Lost>, trace: u128) -> Attempt {
    match placed {
        Ok(placed) => match placed.outcome {
            TransactionResult::Applied(answer) => {
                Attempt::done(Ok(Written { answer, index: placed.index, replayed: false, trace }))
            }
            TransactionResult::Replayed { answer, index, trace } => {
                Attempt::done(Ok(Written { answer, index, replayed: true, trace }))
            }
            TransactionResult::KeyReused => Attempt::done(Err(WriteError::KeyReused)),
            TransactionResult::Fenced => Attempt::No(WriteError::NoLeader),
            TransactionResult::Impossible(reason) => {
                Attempt::done(Err(WriteError::Internal(format!("refused when it was applied: {reason}"))))
            }
        },
        Err(Lost::NeverApplied) if planted::is(Bug::DeposedMeansNo) => Attempt::done(Err(WriteError::NoLeader)),
        Err(Lost::NeverApplied) => Attempt::No(WriteError::NoLeader),
        Err(Lost::Unknown) => Attempt::Unknown,
    }
}

/// Where hosts load entities from: the rows of the node that is started after them.
#[derive(Default)]
struct RowSource {
    raft: std::sync::OnceLock<RaftNode<ShopMachine>>,
}

impl RowSource {
    fn set(&self, raft: RaftNode<ShopMachine>) {
        let _ = self.raft.set(raft);
    }

    fn wrong(self: &Arc<Self>) -> crate::host::Wrong {
        let source = Arc::clone(self);
        Arc::new(move || {
            if let Some(raft) = source.raft.get() {
                raft.journal().end_reign("an entity in memory disagreed with its rows");
            }
        })
    }

    fn load<E: Entity>(self: &Arc<Self>) -> crate::host::Load<E> {
        let source = Arc::clone(self);
        Arc::new(move |id| {
            let raft =
                source.raft.get().ok_or_else(|| agora_storage::Error::corrupt("asked before the node was open"))?;
            let rows: Arc<dyn Rows> = raft.rows();
            schema::load(rows.as_ref(), id)
        })
    }
}

/// Ends the entities of a reign when it is over, so that nobody waits for them and memory is given back.
async fn watch_reigns(shop: Shop) {
    let mut reigns = shop.journal().reign_watch();
    let mut stopping = shop.stopping();
    loop {
        reigns.mark_unchanged();
        // Reigns may come and go between two looks, so it is not enough to compare with the last one seen. The order
        // matters: what was opened before there was no reign is over, and a number never comes back.
        let opened = shop.inner.hosts.opened();
        let over = shop.journal().reign().map_or(opened, |reign| reign.number.saturating_sub(1));
        shop.inner.hosts.forget(over);
        tokio::select! {
            changed = reigns.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}
