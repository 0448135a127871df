//! The apply thread: entries in, rows out, one after the other.
//!
//! It is the only place that calls [`Apply`] and therefore the only writer of rows. The engine's worker hands it a batch
//! and waits: a batch counts as applied when it is in the rows, never when it was handed over. After each entry the
//! journal hears of it, and answers those who wait, before the next entry is looked at.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agora_storage::codec;
use agora_storage::entry::{EntryHeader, EntryKind, EntryReader};
use agora_storage::meta::{LogPosition, StoredMembership as StoredMembershipRow};
use agora_storage::rows::Rows;
use openraft::EntryPayload;
use openraft::storage::ApplyResponder;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::apply::{Applied, Apply, Committed, Payload, StateDigest};
use crate::counters::Counters;
use crate::error::Fatal;
use crate::journal::OnApplied;
use crate::record;
use crate::rows_cell::{RowsCell, RowsMeta};
use crate::stages::{AppliedTimes, micros};
use crate::types::{Entry, MembershipRecord, TypeConfig, position};
use crate::world::{Clock, Exec};

/// Checkpoints remembered for comparison with the other nodes.
pub(crate) const CHECKPOINTS_MAX: usize = 16;

/// What a node had right after a checkpoint entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) index: u64,
    pub(crate) state: StateDigest,
}

/// What the rows have come to; read by the engine's adapter, snapshots and status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) applied: LogPosition,
    pub(crate) membership: StoredMembershipRow,
    pub(crate) members: MembershipRecord,
    pub(crate) state: StateDigest,
    pub(crate) checkpoints: VecDeque<Checkpoint>,
    /// Entries with transactions applied since the last checkpoint.
    pub(crate) since_checkpoint: u64,
}

/// Handle of the apply thread; not generic over what is applied.
#[derive(Clone)]
pub(crate) struct ApplyHandle {
    shared: Arc<Shared>,
}

struct Shared {
    exec: Exec,
    queue: Mutex<Queue>,
    wake: Condvar,
    progress: Mutex<Progress>,
    rows: Arc<RowsCell>,
    handed: AtomicU64,
    done: AtomicU64,
    /// The worker itself when work runs inline.
    inline: Mutex<Option<Box<dyn Work>>>,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    stopping: bool,
}

/// A batch for the apply thread.
pub(crate) type Batch = Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>;

enum Task {
    Apply { batch: Batch, done: oneshot::Sender<Result<(), String>> },
    Replace { generation: u64, rows: Arc<dyn Rows>, done: oneshot::Sender<Result<(), String>> },
}

/// The worker with its type erased.
trait Work: Send {
    fn apply(&mut self, shared: &Shared, batch: Batch) -> Result<(), String>;
    fn replace(&mut self, shared: &Shared, generation: u64, rows: Arc<dyn Rows>) -> Result<(), String>;
}

impl ApplyHandle {
    /// Reads where the rows stand, tells the machine, and starts the thread.
    pub(crate) fn start<A: Apply>(
        apply: A,
        rows: Arc<RowsCell>,
        exec: Exec,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
        fatal: Fatal,
        journal: Arc<dyn OnApplied<A::Outcome>>,
    ) -> Result<(ApplyHandle, Option<std::thread::JoinHandle<()>>), String> {
        let shared = Arc::new(Shared {
            exec,
            queue: Mutex::default(),
            wake: Condvar::new(),
            progress: Mutex::default(),
            rows: rows.clone(),
            handed: AtomicU64::new(0),
            done: AtomicU64::new(0),
            inline: Mutex::new(None),
        });
        let mut worker = Worker { apply, clock, counters, fatal, journal };
        let current = rows.rows();
        worker.reset(&shared, &current)?;
        let handle = ApplyHandle { shared: shared.clone() };
        if exec == Exec::Inline {
            *shared.inline.lock() = Some(Box::new(worker));
            return Ok((handle, None));
        }
        let thread = std::thread::Builder::new()
            .name("agora-apply".to_owned())
            .spawn(move || shared.run(&mut worker))
            .map_err(|error| format!("apply thread: {error}"))?;
        Ok((handle, Some(thread)))
    }

    /// Lets the thread end when everything handed to it is applied.
    pub(crate) fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_all();
    }

    /// Looks at where the rows stand without copying it.
    pub(crate) fn with_progress<T>(&self, look: impl FnOnce(&Progress) -> T) -> T {
        look(&self.shared.progress.lock())
    }

    /// The rows.
    pub(crate) fn rows(&self) -> &Arc<RowsCell> {
        &self.shared.rows
    }

    /// Tasks handed to the apply thread and done by it. Entries count one by one, so a long batch shows progress.
    pub(crate) fn gauge(&self) -> (u64, u64) {
        let done = self.shared.done.load(Ordering::Acquire);
        (self.shared.handed.load(Ordering::Acquire), done)
    }

    /// Applies a batch; returns when it is in the rows.
    pub(crate) async fn apply(&self, batch: Batch) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        self.shared.handed.fetch_add(batch.len() as u64, Ordering::AcqRel);
        self.shared.hand(Task::Apply { batch, done });
        wait.await.unwrap_or_else(|_| Err("the apply thread is gone".to_owned()))
    }

    /// Makes an installed generation the current one.
    pub(crate) async fn replace(&self, generation: u64, rows: Arc<dyn Rows>) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        self.shared.handed.fetch_add(1, Ordering::AcqRel);
        self.shared.hand(Task::Replace { generation, rows, done });
        wait.await.unwrap_or_else(|_| Err("the apply thread is gone".to_owned()))
    }
}

impl Shared {
    fn hand(&self, task: Task) {
        if self.exec == Exec::Inline {
            let mut worker = self.inline.lock();
            if let Some(worker) = worker.as_mut() {
                self.work(&mut **worker, task);
            }
            return;
        }
        self.queue.lock().tasks.push_back(task);
        self.wake.notify_one();
    }

    fn run(&self, worker: &mut dyn Work) {
        loop {
            let task = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(task) = queue.tasks.pop_front() {
                        break task;
                    }
                    if queue.stopping {
                        return;
                    }
                    self.wake.wait(&mut queue);
                }
            };
            self.work(worker, task);
        }
    }

    fn work(&self, worker: &mut dyn Work, task: Task) {
        // The engine's worker may be gone with its runtime; then nobody hears, and that is fine.
        match task {
            Task::Apply { batch, done } => {
                let _ = done.send(worker.apply(self, batch));
            }
            Task::Replace { generation, rows, done } => {
                let result = worker.replace(self, generation, rows);
                self.done.fetch_add(1, Ordering::AcqRel);
                let _ = done.send(result);
            }
        }
    }
}

struct Worker<A: Apply> {
    apply: A,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    fatal: Fatal,
    journal: Arc<dyn OnApplied<A::Outcome>>,
}

impl<A: Apply> Worker<A> {
    /// Reads where rows stand and tells the machine that they are new to it.
    fn reset(&mut self, shared: &Shared, rows: &Arc<dyn Rows>) -> Result<(), String> {
        let text = |error: agora_storage::Error| error.to_string();
        let meta = RowsMeta::read(&*rows.view().map_err(text)?).map_err(text)?;
        let members = if meta.membership.bytes.is_empty() {
            MembershipRecord::default()
        } else {
            codec::decode(&meta.membership.bytes).map_err(text)?
        };
        self.apply.reset(rows).map_err(|error| error.to_string())?;
        let mut progress = shared.progress.lock();
        progress.applied = meta.applied;
        progress.membership = meta.membership;
        progress.members = members;
        progress.state = StateDigest { chain_head: meta.state.chain_head, digest: meta.state.digest };
        progress.checkpoints.clear();
        drop(progress);
        self.journal.on_reset(meta.state.log_time_ms, meta.state.feature_level);
        Ok(())
    }

    fn apply_one(&mut self, shared: &Shared, rows: &Arc<dyn Rows>, entry: &Entry) -> Result<(), String> {
        let at = position(&entry.log_id);
        let started = self.clock.monotonic();
        let mut members = None;
        let mut header = None;
        let applied = match &entry.payload {
            EntryPayload::Blank => self.hand_over(rows, at, Payload::Blank)?,
            EntryPayload::Membership(membership) => {
                let record = MembershipRecord::new(membership, &shared.progress.lock().members.used_ids);
                let bytes = codec::encode(&record);
                let applied = self.hand_over(rows, at, Payload::Membership(&bytes))?;
                members = Some((record, bytes));
                applied
            }
            EntryPayload::Normal(sealed) => {
                let bytes = record::payload(sealed);
                let parsed = EntryReader::parse(&bytes)
                    .map_err(|error| format!("entry {} cannot be read: {error}", at.index))?;
                header = Some(*parsed.header());
                self.hand_over(rows, at, Payload::Entry(&bytes))?
            }
        };
        self.counters.entries_applied.one();
        let done = self.clock.monotonic();
        self.counters.apply_us.record_us(micros(done.saturating_sub(started)));
        shared.progress.lock().note(at, members, header.as_ref(), applied.state);
        shared.rows.set_applied(at.index);
        self.journal.on_applied(at, header, applied, AppliedTimes { begun: started, done });
        Ok(())
    }

    fn hand_over(
        &mut self,
        rows: &Arc<dyn Rows>,
        at: LogPosition,
        payload: Payload<'_>,
    ) -> Result<Applied<A::Outcome>, String> {
        self.apply
            .apply(rows, Committed { index: at.index, term: at.term, payload })
            .map_err(|error| format!("entry {} of term {} cannot be applied: {error}", at.index, at.term))
    }
}

impl Progress {
    fn note(
        &mut self,
        at: LogPosition,
        members: Option<(MembershipRecord, Vec<u8>)>,
        header: Option<&EntryHeader>,
        state: StateDigest,
    ) {
        self.applied = at;
        self.state = state;
        if let Some((record, bytes)) = members {
            self.members = record;
            self.membership = StoredMembershipRow { at: Some(at), bytes };
        }
        match header.map(|header| header.kind) {
            Some(EntryKind::Checkpoint) => {
                self.since_checkpoint = 0;
                if self.checkpoints.len() == CHECKPOINTS_MAX {
                    self.checkpoints.pop_front();
                }
                self.checkpoints.push_back(Checkpoint { index: at.index, state });
            }
            Some(EntryKind::Transactions) => self.since_checkpoint += 1,
            Some(EntryKind::Fence) | None => {}
        }
    }
}

impl<A: Apply> Work for Worker<A> {
    fn apply(&mut self, shared: &Shared, batch: Batch) -> Result<(), String> {
        let rows = shared.rows.rows();
        for (entry, responder) in batch {
            let result = self.apply_one(shared, &rows, &entry);
            shared.done.fetch_add(1, Ordering::AcqRel);
            if let Err(message) = result {
                self.fatal.report(message.clone());
                return Err(message);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    fn replace(&mut self, shared: &Shared, generation: u64, rows: Arc<dyn Rows>) -> Result<(), String> {
        let result = self.reset(shared, &rows);
        match &result {
            Ok(()) => {
                shared.rows.replace(generation, rows);
                self.journal.on_installed();
            }
            Err(message) => self.fatal.report(format!("installed rows cannot be read: {message}")),
        }
        result
    }
}
