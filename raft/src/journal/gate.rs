//! The state behind the journal, and everything that changes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agora_planted::{self as planted, Bug};
use agora_storage::codec;
use agora_storage::entry::{CheckpointBody, EntryBuilder, EntryHeader, EntryKind};
use agora_storage::meta::LogPosition;
use bytes::Bytes;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::handle::{Accepted, Waiter};
use crate::apply::Applied;
use crate::config::{ENTRY_BYTES_MAX, RaftConfig};
use crate::counters::Counters;
use crate::error::{Lost, Refused};
use crate::machine::Machine;
use crate::pulse::Pulse;
use crate::record;
use crate::stages::AppliedTimes;
use crate::types::{Callback, Sealed, TypeConfig, term_id};
use crate::world::Clock;

/// The pump looks again so often, for what happens without anyone ringing: a quorum that came back.
const PUMP_INTERVAL: Duration = Duration::from_millis(20);
/// Bits of a sequence number below the incarnation, so that numbers do not repeat after a restart.
const SEQUENCE_BITS: u32 = 40;
/// The level every release knows.
const FEATURE_LEVEL_FIRST: u32 = 1;
/// Room an entry's bytes take besides its transactions.
const TRANSACTION_OVERHEAD_BYTES: usize = 4;

/// A time during which one leader decides, without interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Number given by apply to its fence; grows over the life of the cluster.
    pub number: u64,
    /// Term of the leader.
    pub term: u64,
}

/// What the apply thread tells the journal.
pub(crate) trait OnApplied<O>: Send + Sync + 'static {
    /// An entry is in the rows.
    fn on_applied(&self, at: LogPosition, header: Option<EntryHeader>, applied: Applied<O>, times: AppliedTimes);
    /// Rows were opened or replaced; their log time and feature level.
    fn on_reset(&self, log_time_ms: i64, feature_level: u32);
    /// A snapshot took the place of entries that were never seen here.
    fn on_installed(&self);
}

/// Bounds and constants of one journal.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
    pub(crate) entry_count_max: usize,
    pub(crate) entry_bytes_max: usize,
    pub(crate) entries_in_flight_max: usize,
    pub(crate) queue_count_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) feature_level: u32,
}

impl Settings {
    pub(crate) fn new(config: &RaftConfig, incarnation: u64) -> Settings {
        Settings {
            node: config.node_id,
            incarnation,
            entry_count_max: config.entry_count_max,
            entry_bytes_max: config.entry_bytes_max,
            entries_in_flight_max: config.entries_in_flight_max,
            queue_count_max: config.queue_count_max,
            queue_bytes_max: config.queue_bytes_max,
            feature_level: config.feature_level,
        }
    }
}

/// Answers on their way from the apply thread to those who wait: one message per entry.
pub(crate) enum Answers<O> {
    Applied { index: u64, applied_at: Duration, outcomes: Vec<O>, waiters: Vec<Waiter<O>> },
    Lost { lost: Lost, waiters: Vec<Waiter<O>> },
}

/// The state of a journal.
pub(crate) struct Gate<O> {
    settings: Settings,
    clock: Arc<dyn Clock>,
    pulse: Arc<Pulse>,
    counters: Arc<Counters>,
    state: Mutex<State<O>>,
    /// Rings the pump.
    work: Notify,
    /// Rings when entries came back, for whoever waits for all of them.
    came_back: Notify,
    reign: watch::Sender<Option<Reign>>,
    answers: mpsc::UnboundedSender<Answers<O>>,
}

struct State<O> {
    /// Term this node leads.
    leading: Option<u64>,
    reign: Option<Reign>,
    /// Sequence of the fence on its way.
    fence: Option<u64>,
    queue: VecDeque<Queued<O>>,
    queue_bytes: usize,
    flights: BTreeMap<u64, Flight<O>>,
    /// Flights that count against the bound on entries on their way.
    on_their_way: usize,
    checkpoint: Option<CheckpointBody>,
    last_sequence: u64,
    /// Log time of the last entry stamped or applied.
    last_time_ms: i64,
    /// Wall and monotonic clock as read when the reign's fence was made.
    base: Option<(i64, Duration)>,
    /// Level by which new entries are applied: never below the last entry's, raised when every member knows more.
    feature_level: u32,
    draining: bool,
    stopped: bool,
}

/// A transaction that was accepted and is in no entry yet.
struct Queued<O> {
    transaction: Bytes,
    waiter: Waiter<O>,
    since: Duration,
}

/// An entry between the engine's acceptance and the knowledge of its fate.
struct Flight<O> {
    kind: EntryKind,
    /// 0 for a fence.
    reign: u64,
    waiters: Vec<Waiter<O>>,
    counted: bool,
    /// When it was closed.
    closed: Duration,
}

/// An entry ready for the engine.
pub(super) struct Closed<O> {
    pub(super) sequence: u64,
    pub(super) term: u64,
    pub(super) header: EntryHeader,
    transactions: Vec<Bytes>,
    _outcome: std::marker::PhantomData<O>,
}

impl<O: Send + 'static> Gate<O> {
    pub(crate) fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        pulse: Arc<Pulse>,
        counters: Arc<Counters>,
    ) -> (Arc<Gate<O>>, mpsc::UnboundedReceiver<Answers<O>>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        let last_sequence = settings.incarnation << SEQUENCE_BITS;
        let gate = Gate {
            settings,
            clock,
            pulse,
            counters,
            state: Mutex::new(State {
                leading: None,
                reign: None,
                fence: None,
                queue: VecDeque::new(),
                queue_bytes: 0,
                flights: BTreeMap::new(),
                on_their_way: 0,
                checkpoint: None,
                last_sequence,
                last_time_ms: 0,
                base: None,
                feature_level: FEATURE_LEVEL_FIRST,
                draining: false,
                stopped: false,
            }),
            work: Notify::new(),
            came_back: Notify::new(),
            reign: watch::Sender::new(None),
            answers,
        };
        (Arc::new(gate), receiver)
    }

    pub(crate) fn reign(&self) -> Option<Reign> {
        *self.reign.borrow()
    }

    pub(crate) fn reign_watch(&self) -> watch::Receiver<Option<Reign>> {
        self.reign.subscribe()
    }

    pub(crate) fn propose(&self, reign: u64, transaction: Bytes) -> Result<Accepted<O>, Refused> {
        let taken = self.try_propose(reign, transaction);
        if taken.is_err() {
            self.counters.proposals_refused.one();
        }
        taken
    }

    fn try_propose(&self, reign: u64, transaction: Bytes) -> Result<Accepted<O>, Refused> {
        let bytes = transaction.len() + TRANSACTION_OVERHEAD_BYTES;
        if bytes > ENTRY_BYTES_MAX {
            return Err(Refused::TooLarge {
                bytes: transaction.len(),
                bytes_max: ENTRY_BYTES_MAX - TRANSACTION_OVERHEAD_BYTES,
            });
        }
        let mut state = self.state.lock();
        if state.draining || state.stopped {
            return Err(Refused::Draining);
        }
        if state.reign.is_none_or(|current| current.number != reign) {
            return Err(Refused::ReignOver);
        }
        if !self.pulse.quorum_fresh() {
            return Err(Refused::NoQuorum);
        }
        if state.queue.len() >= self.settings.queue_count_max
            || state.queue_bytes + bytes > self.settings.queue_bytes_max
        {
            return Err(Refused::Overloaded);
        }
        let (waiter, receiver) = oneshot::channel();
        let since = self.clock.monotonic();
        state.queue.push_back(Queued { transaction, waiter, since });
        state.queue_bytes += bytes;
        // With all entries out, the next one closes when one of them comes back.
        let ring = state.on_their_way < self.settings.entries_in_flight_max;
        drop(state);
        if ring {
            self.work.notify_one();
        }
        Ok((receiver, since))
    }

    /// Ends the reign, if there is one, for a reason to be logged.
    pub(crate) fn end_reign(&self, reason: &str) {
        let mut state = self.state.lock();
        self.end_reign_locked(&mut state, reason);
        drop(state);
        self.work.notify_one();
    }

    fn end_reign_locked(&self, state: &mut State<O>, reason: &str) {
        let Some(reign) = state.reign.take() else { return };
        tracing::info!(reign = reign.number, term = reign.term, reason, "reign ended");
        if state.leading == Some(reign.term) {
            self.counters.reigns_broken.one();
        }
        state.base = None;
        state.checkpoint = None;
        self.reign.send_replace(None);
        self.drop_queue(state);
    }

    /// Answers what was accepted but never left: a definite no.
    fn drop_queue(&self, state: &mut State<O>) {
        let waiters: Vec<_> = state.queue.drain(..).map(|queued| queued.waiter).collect();
        state.queue_bytes = 0;
        self.answer_lost(Lost::NeverApplied, waiters);
    }

    fn answer_lost(&self, lost: Lost, waiters: Vec<Waiter<O>>) {
        if waiters.is_empty() {
            return;
        }
        if lost == Lost::NeverApplied {
            self.counters.never_applied.add(waiters.len() as u64);
        }
        // The receiving task ends with the callers' runtime; then nobody waits any more.
        let _ = self.answers.send(Answers::Lost { lost, waiters });
    }

    /// The engine began or stopped leading.
    pub(crate) fn set_leading(&self, term: Option<u64>) {
        let mut state = self.state.lock();
        if state.leading == term {
            return;
        }
        self.end_reign_locked(&mut state, "the term is over");
        state.leading = term;
        state.fence = None;
        // Whatever is still out belongs to a past leadership and no longer counts.
        state.on_their_way = 0;
        for flight in state.flights.values_mut() {
            flight.counted = false;
        }
        if planted::is(Bug::DeposedMeansNo) {
            for flight in std::mem::take(&mut state.flights).into_values() {
                self.answer_lost(Lost::NeverApplied, flight.waiters);
            }
        }
        drop(state);
        self.work.notify_one();
        self.came_back.notify_waiters();
    }

    /// Takes no more transactions (and lets what was taken run out), or takes them again.
    pub(crate) fn set_draining(&self, draining: bool) {
        self.state.lock().draining = draining;
        self.work.notify_one();
    }

    /// Waits until everything taken has come back.
    pub(crate) async fn drained(&self) {
        loop {
            let came_back = self.came_back.notified();
            {
                let state = self.state.lock();
                if state.queue.is_empty() && state.on_their_way == 0 {
                    return;
                }
            }
            came_back.await;
        }
    }

    /// The node stops: nothing is taken any more; what is out stays unknown.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        self.end_reign_locked(&mut state, "the node stops");
        self.drop_queue(&mut state);
        let flights = std::mem::take(&mut state.flights);
        for flight in flights.into_values() {
            self.answer_lost(Lost::Unknown, flight.waiters);
        }
        state.on_their_way = 0;
        drop(state);
        self.work.notify_one();
        self.came_back.notify_waiters();
    }

    /// Proposes a checkpoint with the next entries.
    pub(crate) fn want_checkpoint(&self, body: CheckpointBody) {
        let mut state = self.state.lock();
        if state.reign.is_some() && !state.draining {
            state.checkpoint = Some(body);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Every member is known to know this level.
    pub(crate) fn set_feature_level(&self, common: u32) {
        let mut state = self.state.lock();
        state.feature_level = state.feature_level.max(common.min(self.settings.feature_level));
    }

    /// Log time now, as this leader sees it; elsewhere the log time of the last entry.
    pub(crate) fn log_time_ms(&self) -> i64 {
        let state = self.state.lock();
        self.time_now(&state)
    }

    fn time_now(&self, state: &State<O>) -> i64 {
        let Some((wall_ms, then)) = state.base else { return state.last_time_ms };
        let since = self.clock.monotonic().saturating_sub(then);
        let since_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        wall_ms.saturating_add(since_ms).max(state.last_time_ms)
    }

    /// Stamps an entry: the time now, but later than the last.
    fn stamp(&self, state: &mut State<O>) -> i64 {
        let now = self.time_now(state);
        state.last_time_ms = now.max(state.last_time_ms + 1);
        state.last_time_ms
    }

    /// Closes the next entry, if there is one to propose now.
    pub(super) fn close_next(&self) -> Option<Closed<O>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.stopped {
            return None;
        }
        let term = state.leading?;
        let Some(reign) = state.reign else { return self.close_fence(state, term) };
        if state.on_their_way >= self.settings.entries_in_flight_max {
            return None;
        }
        if let Some(body) = state.checkpoint.take() {
            let payload = Bytes::from(codec::encode(&body));
            return Some(self.close(state, EntryKind::Checkpoint, reign.number, term, vec![payload], Vec::new()));
        }
        if state.queue.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let (mut transactions, mut waiters) = (Vec::new(), Vec::new());
        let now = self.clock.monotonic();
        while let Some(queued) = state.queue.front() {
            let more = queued.transaction.len() + TRANSACTION_OVERHEAD_BYTES;
            let full =
                transactions.len() >= self.settings.entry_count_max || bytes + more > self.settings.entry_bytes_max;
            if full && !transactions.is_empty() {
                break;
            }
            bytes += more;
            state.queue_bytes -= more;
            if let Some(queued) = state.queue.pop_front() {
                self.counters.stages.queue.record(queued.since, now);
                transactions.push(queued.transaction);
                waiters.push(queued.waiter);
            }
        }
        Some(self.close(state, EntryKind::Transactions, reign.number, term, transactions, waiters))
    }

    fn close_fence(&self, state: &mut State<O>, term: u64) -> Option<Closed<O>> {
        let may = self.pulse.quorum_fresh() && self.pulse.clock_leads() && self.pulse.diverged().is_none();
        if state.fence.is_some() || state.draining || !may {
            return None;
        }
        state.base = Some((self.clock.wall_ms(), self.clock.monotonic()));
        if planted::is(Bug::LeadershipFenceRemoved) {
            // Nothing is waited for, and the reign bears the number of its term.
            self.begin(state, Reign { number: term, term });
            return None;
        }
        let closed = self.close(state, EntryKind::Fence, 0, term, Vec::new(), Vec::new());
        state.fence = Some(closed.sequence);
        Some(closed)
    }

    fn close(
        &self,
        state: &mut State<O>,
        kind: EntryKind,
        reign: u64,
        term: u64,
        transactions: Vec<Bytes>,
        waiters: Vec<Waiter<O>>,
    ) -> Closed<O> {
        state.last_sequence += 1;
        let sequence = state.last_sequence;
        let header = EntryHeader {
            kind,
            reign,
            term,
            node: self.settings.node,
            sequence,
            log_time_ms: self.stamp(state),
            feature_level: state.feature_level,
            count: transactions.len() as u32,
        };
        let closed = self.clock.monotonic();
        state.flights.insert(sequence, Flight { kind, reign, waiters, counted: true, closed });
        state.on_their_way += 1;
        Closed { sequence, term, header, transactions, _outcome: std::marker::PhantomData }
    }

    /// Proposes whatever can be, for as long as the node runs.
    pub(crate) async fn pump(self: Arc<Self>, raft: Raft<TypeConfig, Machine>) {
        loop {
            while let Some(closed) = self.close_next() {
                self.counters.raft_entries.one();
                self.counters.transactions.add(if closed.header.kind == EntryKind::Transactions {
                    closed.transactions.len() as u64
                } else {
                    0
                });
                let (sequence, term) = (closed.sequence, closed.term);
                let sealed = encode(closed);
                self.counters.entry_bytes.add(sealed.0.len() as u64);
                let gate = self.clone();
                let responder = Callback::new(move |result: Result<_, ClientWriteError<TypeConfig>>| {
                    if let Err(error) = result {
                        gate.on_refused(sequence, &error);
                    }
                });
                let written = raft.write(sealed).with_leader(term_id(term)).responder(responder).await;
                if let Err(fatal) = written {
                    // The supervisor sees the same and ends the process; what is out stays unknown.
                    tracing::warn!(%fatal, "the engine takes no more entries");
                    self.end_reign("the engine stopped");
                    return;
                }
            }
            // Without a reign a fence may become possible without anyone ringing.
            let idle = self.state.lock().leading.is_none();
            if idle {
                self.work.notified().await;
            } else {
                let _ = tokio::time::timeout(PUMP_INTERVAL, self.work.notified()).await;
            }
            if self.state.lock().stopped {
                return;
            }
        }
    }

    /// The engine did not take an entry, or dropped it.
    pub(super) fn on_refused(&self, sequence: u64, error: &ClientWriteError<TypeConfig>) {
        let definite = !matches!(error, ClientWriteError::LogEntryDiscarded(_));
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(flight) = state.flights.get_mut(&sequence) else { return };
        if std::mem::take(&mut flight.counted) {
            state.on_their_way -= 1;
        }
        let kind = flight.kind;
        if definite && let Some(flight) = state.flights.remove(&sequence) {
            self.answer_lost(Lost::NeverApplied, flight.waiters);
        }
        if state.fence == Some(sequence) {
            state.fence = None;
        }
        if kind != EntryKind::Fence {
            let reason = if definite { "the engine refused an entry" } else { "the engine dropped an entry" };
            tracing::debug!(%error, "entry not taken");
            self.end_reign_locked(state, reason);
        }
        drop(guard);
        self.came_back.notify_waiters();
        // No ring: without quorum a new fence would be refused at once. The pump looks again by itself.
    }
}

impl<O: Send + 'static> OnApplied<O> for Gate<O> {
    fn on_applied(&self, at: LogPosition, header: Option<EntryHeader>, applied: Applied<O>, times: AppliedTimes) {
        let Some(header) = header else { return };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.last_time_ms = state.last_time_ms.max(header.log_time_ms);
        state.feature_level = state.feature_level.max(header.feature_level);
        let own = if header.node == self.settings.node { state.flights.remove(&header.sequence) } else { None };
        if let Some(mut flight) = own {
            if flight.counted {
                state.on_their_way -= 1;
            }
            if flight.waiters.is_empty() {
                // A fence or a checkpoint.
            } else if applied.outcomes.len() == flight.waiters.len() {
                let waiters = std::mem::take(&mut flight.waiters);
                self.counters.stages.applied(at.index, waiters.len() as u64, flight.closed, times);
                let (index, applied_at, outcomes) = (at.index, times.done, applied.outcomes);
                let _ = self.answers.send(Answers::Applied { index, applied_at, outcomes, waiters });
            } else {
                tracing::error!(
                    index = at.index,
                    outcomes = applied.outcomes.len(),
                    waiters = flight.waiters.len(),
                    "apply gave another number of outcomes than the entry has transactions"
                );
                self.answer_lost(Lost::Unknown, flight.waiters);
            }
        }
        if header.kind == EntryKind::Fence {
            self.on_fence(state, at, &header, applied.reign);
        }
        if applied.ends_reign {
            self.end_reign_locked(state, "apply refused a transaction that no honest decision can produce");
        }
        let ring = state.leading.is_some();
        drop(guard);
        if ring {
            self.work.notify_one();
            self.came_back.notify_waiters();
        }
    }

    fn on_reset(&self, log_time_ms: i64, feature_level: u32) {
        let mut state = self.state.lock();
        state.feature_level = state.feature_level.max(feature_level);
        state.last_time_ms = state.last_time_ms.max(log_time_ms);
    }

    fn on_installed(&self) {
        let mut state = self.state.lock();
        self.end_reign_locked(&mut state, "a snapshot was installed");
        // Their entries may be part of the snapshot; only their keys can tell.
        let flights = std::mem::take(&mut state.flights);
        for flight in flights.into_values() {
            self.answer_lost(Lost::Unknown, flight.waiters);
        }
        state.on_their_way = 0;
        state.fence = None;
    }
}

impl<O: Send + 'static> Gate<O> {
    /// A fence was applied, ours or another's.
    fn on_fence(&self, state: &mut State<O>, at: LogPosition, header: &EntryHeader, number: u64) {
        let ours = header.node == self.settings.node && state.fence == Some(header.sequence);
        if !ours {
            self.end_reign_locked(state, "a later fence was applied");
        }
        // Transactions of older reigns that were not applied by now are refused by apply from here on.
        let dead: Vec<u64> = state
            .flights
            .iter()
            .filter(|(_, flight)| flight.kind == EntryKind::Transactions && flight.reign < number)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in dead {
            if let Some(flight) = state.flights.remove(&sequence) {
                if flight.counted {
                    state.on_their_way -= 1;
                }
                self.answer_lost(Lost::NeverApplied, flight.waiters);
            }
        }
        if ours {
            state.fence = None;
            if state.leading == Some(header.term) {
                tracing::info!(reign = number, term = header.term, index = at.index, "reign began");
                self.begin(state, Reign { number, term: header.term });
            }
        }
    }

    fn begin(&self, state: &mut State<O>, reign: Reign) {
        state.reign = Some(reign);
        self.counters.reigns.one();
        self.reign.send_replace(Some(reign));
    }
}

fn encode<O>(closed: Closed<O>) -> Sealed {
    let mut builder = EntryBuilder::new();
    for transaction in &closed.transactions {
        builder.push(transaction);
    }
    record::seal(builder.finish(closed.header), closed.term)
}
