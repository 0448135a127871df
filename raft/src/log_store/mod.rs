//! The engine's log on disk: one thread, one commit for everything that waits, and a cache for its end.
//!
//! `append` puts entries into the cache and the queue and returns; the log thread takes all that waits at a wake-up
//! into **one** commit, which is one fsync, and then calls back. Votes, truncations and purges go through the same
//! queue and are waited for, so everything reaches the disk in the order the engine asked for it.
//!
//! After a failed write nothing more is written: what is in memory and what is on disk may differ, so the node stops.

mod adapter;
pub(crate) mod cache;
pub(crate) mod hard_state;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agora_planted::{self as planted, Bug};
use agora_storage::codec;
use agora_storage::log::{LogOp, LogStore};
use agora_storage::meta::LogPosition;
use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

pub(crate) use self::adapter::LogAdapter;
use self::cache::Cache;
use self::hard_state::HardState;
use crate::counters::Counters;
use crate::error::Fatal;
use crate::record;
use crate::transport::hello::Hello;
use crate::types::{LogId, MemberAddr, TypeConfig, VoteRecord, log_id, position};
use crate::world::{Clock, Exec};

/// Most bytes of entries in one commit; what waits beyond is the next one.
const COMMIT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of log read from disk in one piece.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// What is remembered of peers is written along with other things at most this often.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// Handle of the log; cheap to clone.
#[derive(Clone)]
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<LogStore>,
    exec: Exec,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    fatal: Fatal,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Rung when the durable end moved.
    durable_moved: Notify,
    cache: Mutex<Cache>,
    ends: Mutex<Ends>,
    hard: Mutex<Hard>,
    /// Generation and index last handed in as synced: only forward, whoever finishes first.
    synced: Mutex<(u64, u64)>,
    /// Tasks handed to the thread, and done by it: the gauge of its health.
    handed: AtomicU64,
    done: AtomicU64,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    stopping: bool,
    failed: Option<String>,
    /// What [`Bug::AckBeforePersist`] has acknowledged and not written.
    unwritten: Vec<LogOp>,
}

enum Task {
    Append {
        first: u64,
        records: Vec<Bytes>,
        last: LogPosition,
        flushed: IOFlushed<TypeConfig>,
    },
    Write {
        ops: Vec<LogOp>,
        done: Option<oneshot::Sender<io::Result<()>>>,
        then: After,
    },
    /// Writes the hard state as it is when its turn comes: built any earlier, an older one could follow a newer one.
    Hard {
        done: Option<oneshot::Sender<io::Result<()>>>,
    },
}

/// What becomes true of the durable end when a write is done.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    TruncatedTo(Option<LogPosition>),
    PurgedTo(LogPosition),
}

/// Where the log begins and ends, as the engine sees it and as the disk has it.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// The engine's index of the first entry held, or where it would be.
    first: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    durable: LogPosition,
}

struct Hard {
    state: HardState,
    /// The vote as it is on disk: the only one ever told to others.
    durable_vote: VoteRecord,
    unsaved: bool,
    saved_at: Duration,
}

impl LogHandle {
    /// Takes over an open log.
    ///
    /// # Errors
    /// When what lies in it cannot be read.
    pub(crate) fn open(
        store: Arc<LogStore>,
        exec: Exec,
        clock: Arc<dyn Clock>,
        cache_bytes_max: usize,
        counters: Arc<Counters>,
        fatal: Fatal,
    ) -> Result<LogHandle, String> {
        let text = |error: agora_storage::Error| error.to_string();
        let bounds = store.bounds().map_err(text)?;
        let purged = match &bounds.purged {
            Some(purged) => {
                let at: LogPosition = codec::decode(&purged.mark).map_err(text)?;
                if at.index != purged.index {
                    return Err(format!(
                        "the log is purged up to index {}, but its mark says {}: the log is damaged",
                        purged.index, at.index
                    ));
                }
                Some(log_id(at))
            }
            None => None,
        };
        let last = match (bounds.last, &bounds.last_entry) {
            (Some(index), Some(record)) => {
                let term = record::sealed_term(record)
                    .ok_or_else(|| format!("log entry {index} has no term: the log is damaged"))?;
                Some(log_id(LogPosition { index, term }))
            }
            _ => purged,
        };
        let hard = match store.vote().map_err(text)? {
            Some(bytes) => HardState::decode(&bytes).map_err(text)?,
            None => HardState::default(),
        };
        let first = bounds.first.map_or_else(|| purged.map_or(0, |at| at.index + 1), |index| index - 1);
        let synced =
            store.identity().map_err(text)?.map_or((0, 0), |identity| (identity.generation, identity.synced_index));
        counters.log_bytes.set(bounds.bytes);
        let end = last.as_ref().map_or(0, |at| at.index + 1);
        let durable = last.as_ref().map(position).unwrap_or_default();
        let saved_at = clock.monotonic();
        Ok(LogHandle {
            shared: Arc::new(Shared {
                store,
                exec,
                clock,
                counters,
                fatal,
                queue: Mutex::default(),
                wake: Condvar::new(),
                durable_moved: Notify::new(),
                cache: Mutex::new(Cache::new(end, cache_bytes_max)),
                ends: Mutex::new(Ends { first, last, purged, durable }),
                hard: Mutex::new(Hard {
                    durable_vote: hard.vote.unwrap_or_default(),
                    state: hard,
                    unsaved: false,
                    saved_at,
                }),
                synced: Mutex::new(synced),
                handed: AtomicU64::new(0),
                done: AtomicU64::new(0),
            }),
        })
    }

    /// Starts the log thread, unless work runs inline.
    pub(crate) fn start(&self) -> io::Result<Option<std::thread::JoinHandle<()>>> {
        if self.shared.exec == Exec::Inline {
            return Ok(None);
        }
        let shared = self.shared.clone();
        std::thread::Builder::new().name("agora-log".to_owned()).spawn(move || shared.run()).map(Some)
    }

    /// Lets the thread end when everything handed to it is written.
    pub(crate) fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_all();
    }

    /// Writes down that rows are durable up to an index, and which generation is the current one. A generation or an
    /// index that is behind what was written before changes nothing: a sync may end after an install.
    pub(crate) async fn rows_synced(&self, generation: u64, index: u64) -> io::Result<()> {
        let wait = {
            let mut synced = self.shared.synced.lock();
            if (generation, index) <= *synced {
                return Ok(());
            }
            *synced = (generation, index);
            let (done, wait) = oneshot::channel();
            let ops = vec![LogOp::RowsSynced { generation, index }];
            self.shared.hand(Task::Write { ops, done: Some(done), then: After::Nothing });
            wait
        };
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// The index up to which the current rows are durable.
    pub(crate) fn synced_index(&self) -> u64 {
        self.shared.synced.lock().1
    }

    /// Writes operations in their turn, before everything that is handed in later.
    pub(crate) fn write_later(&self, ops: Vec<LogOp>) {
        self.shared.hand(Task::Write { ops, done: None, then: After::Nothing });
    }

    async fn write_then(&self, ops: Vec<LogOp>, then: After) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.shared.hand(Task::Write { ops, done: Some(done), then });
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// Tasks handed to the log thread and done by it.
    pub(crate) fn gauge(&self) -> (u64, u64) {
        // `done` first: a task counted in between makes the thread look busier, never idle while it is stuck.
        let done = self.shared.done.load(Ordering::Acquire);
        (self.shared.handed.load(Ordering::Acquire), done)
    }

    /// The end of the log on disk.
    pub(crate) fn durable_end(&self) -> LogPosition {
        self.shared.ends.lock().durable
    }

    /// Waits until the log on disk reaches an index (from 1).
    ///
    /// The engine applies what a majority holds, even where this node's own disk is not done with it. Rows must not get
    /// ahead of the log of the same node: after a crash they could not be accounted for.
    pub(crate) async fn wait_durable(&self, index: u64) {
        loop {
            let moved = self.shared.durable_moved.notified();
            if self.durable_end().index >= index {
                return;
            }
            moved.await;
        }
    }

    /// The last entry purged.
    pub(crate) fn purged(&self) -> LogPosition {
        self.shared.ends.lock().purged.as_ref().map(position).unwrap_or_default()
    }

    /// The vote on disk.
    pub(crate) fn vote(&self) -> VoteRecord {
        self.shared.hard.lock().durable_vote
    }

    async fn save_vote(&self, vote: VoteRecord) -> io::Result<()> {
        self.shared.hard.lock().state.vote = Some(vote);
        let (done, wait) = oneshot::channel();
        self.shared.hand(Task::Hard { done: Some(done) });
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// Judges a peer by what is remembered of it.
    pub(crate) fn admit(&self, hello: &Hello, committed: LogPosition) -> Result<(), String> {
        let renewed = {
            let mut hard = self.shared.hard.lock();
            let renewed = hard.state.peers.admit(hello, committed)?;
            hard.unsaved = true;
            renewed
        };
        if renewed {
            self.save_memory();
        }
        Ok(())
    }

    /// Remembers a term that a peer voted in.
    pub(crate) fn saw_term(&self, node: u64, term: u64) {
        let mut hard = self.shared.hard.lock();
        hard.state.peers.saw_term(node, term);
        hard.unsaved = true;
    }

    /// Remembers how far a peer's log reaches.
    pub(crate) fn saw_log(&self, node: u64, last: LogPosition, committed: LogPosition) {
        let mut hard = self.shared.hard.lock();
        if hard.state.peers.saw_log(node, last, committed) {
            hard.unsaved = true;
        }
    }

    /// Remembers where the members live.
    pub(crate) fn saw_members(&self, members: &BTreeMap<u64, MemberAddr>) {
        let changed = {
            let mut hard = self.shared.hard.lock();
            let changed = hard.state.members != *members;
            if changed {
                hard.state.members.clone_from(members);
            }
            changed
        };
        if changed {
            self.save_memory();
        }
    }

    /// Where the members lived when they were last seen.
    pub(crate) fn members(&self) -> BTreeMap<u64, MemberAddr> {
        self.shared.hard.lock().state.members.clone()
    }

    /// The term of the log entry at an index (from 1), if it is held.
    pub(crate) fn term_at(&self, index: u64) -> Result<Option<u64>, String> {
        let found = self.shared.store.read(index..index + 1, READ_BYTES_MAX).map_err(|error| error.to_string())?;
        match found.first() {
            Some((at, record)) if *at == index => Ok(record::sealed_term(record)),
            _ => Ok(None),
        }
    }

    fn save_memory(&self) {
        self.shared.hand(Task::Hard { done: None });
    }
}

impl Shared {
    fn hand(&self, task: Task) {
        self.handed.fetch_add(1, Ordering::AcqRel);
        if self.exec == Exec::Inline {
            let failed = self.queue.lock().failed.clone();
            self.commit(vec![task], failed);
            return;
        }
        let mut queue = self.queue.lock();
        queue.tasks.push_back(task);
        drop(queue);
        self.wake.notify_one();
    }

    fn run(&self) {
        loop {
            let (tasks, failed) = {
                let mut queue = self.queue.lock();
                while queue.tasks.is_empty() {
                    if queue.stopping {
                        return;
                    }
                    self.wake.wait(&mut queue);
                }
                (take_batch(&mut queue.tasks), queue.failed.clone())
            };
            self.commit(tasks, failed);
        }
    }

    /// One commit for all tasks, then their answers.
    fn commit(&self, tasks: Vec<Task>, failed: Option<String>) {
        let count = tasks.len() as u64;
        let result = match failed {
            Some(failed) => Err(failed),
            None => self.write(&tasks),
        };
        if let Err(message) = &result {
            let mut queue = self.queue.lock();
            if queue.failed.is_none() {
                queue.failed = Some(message.clone());
                self.fatal.report(format!("log write failed: {message}; check the disk, then start the node again"));
            }
        } else {
            self.committed(&tasks);
        }
        // The gauge moves before the answers go out: whoever hears one may look at it.
        self.done.fetch_add(count, Ordering::AcqRel);
        for task in tasks {
            let result = result.clone().map_err(io::Error::other);
            match task {
                Task::Append { flushed, .. } => flushed.io_completed(result),
                Task::Write { done, .. } | Task::Hard { done } => {
                    if let Some(done) = done {
                        // Whoever waited may be gone with its runtime.
                        let _ = done.send(result);
                    }
                }
            }
        }
    }

    fn write(&self, tasks: &[Task]) -> Result<(), String> {
        let mut ops = Vec::with_capacity(tasks.len() + 1);
        let (mut bytes, mut hard_asked) = (0, false);
        for task in tasks {
            match task {
                Task::Append { first, records, .. } => {
                    bytes += records.iter().map(Bytes::len).sum::<usize>();
                    ops.push(LogOp::Append { first: *first, entries: records.clone() });
                }
                Task::Write { ops: more, .. } => ops.extend(more.iter().cloned()),
                Task::Hard { .. } => hard_asked = true,
            }
        }
        if planted::is(Bug::AckBeforePersist) {
            let only_appends = tasks.iter().all(|task| matches!(task, Task::Append { .. }));
            let mut queue = self.queue.lock();
            let later = if only_appends { ops.split_off(0) } else { Vec::new() };
            ops.splice(..0, std::mem::replace(&mut queue.unwritten, later));
        }
        let mut vote = None;
        {
            let mut hard = self.hard.lock();
            let now = self.clock.monotonic();
            if hard_asked || hard.unsaved && now.saturating_sub(hard.saved_at) >= MEMORY_INTERVAL {
                hard.unsaved = false;
                hard.saved_at = now;
                vote = hard.state.vote;
                ops.push(LogOp::Vote(hard.state.encode()));
            }
        }
        let started = self.clock.monotonic();
        self.store.write(ops).map_err(|error| error.to_string())?;
        let took = self.clock.monotonic().saturating_sub(started);
        if let Some(vote) = vote {
            self.hard.lock().durable_vote = vote;
        }
        self.counters.log_commit_us.record_us(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.counters.log_fsyncs.set(self.store.fsyncs());
        self.counters.log_bytes_written.add(bytes as u64);
        if let Ok(bounds) = self.store.bounds() {
            self.counters.log_bytes.set(bounds.bytes);
        }
        Ok(())
    }

    fn committed(&self, tasks: &[Task]) {
        let now = self.clock.monotonic();
        for task in tasks {
            match task {
                Task::Append { first, last, .. } => {
                    self.counters.stages.durable(*first, last.index, now);
                    self.ends.lock().durable = *last;
                    // Our positions count from 1, so the index of the last entry is the engine's end.
                    self.cache.lock().set_durable(last.index);
                }
                Task::Write { then: After::TruncatedTo(last), .. } => {
                    let last = last.unwrap_or_default();
                    self.ends.lock().durable = last;
                    self.cache.lock().disk_truncated(last.index);
                }
                Task::Write { then: After::PurgedTo(mark), .. } => {
                    let mut ends = self.ends.lock();
                    if ends.durable.index < mark.index {
                        ends.durable = *mark;
                    }
                }
                Task::Write { then: After::Nothing, .. } | Task::Hard { .. } => {}
            }
        }
        self.durable_moved.notify_waiters();
    }
}

/// Takes tasks from the front until their entries weigh enough; always at least one.
fn take_batch(tasks: &mut VecDeque<Task>) -> Vec<Task> {
    let mut taken = Vec::with_capacity(tasks.len());
    let mut bytes = 0;
    while let Some(task) = tasks.front() {
        if let Task::Append { records, .. } = task {
            bytes += records.iter().map(Bytes::len).sum::<usize>();
        }
        if bytes > COMMIT_BYTES_MAX && !taken.is_empty() {
            break;
        }
        taken.extend(tasks.pop_front());
    }
    taken
}
