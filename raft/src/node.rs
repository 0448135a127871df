//! One node: starting, stopping, and everything a caller asks of it.
//!
//! Raft, its transport and the supervision run on a runtime thread of their own, which no request uses. Callers are on
//! another runtime; everything here works across the two. Dropping the last handle stops the node at once, as a crash
//! would; [`RaftNode::shutdown`] does it properly.

use std::sync::Arc;

use agora_storage::disk::SnapshotInfo;
use agora_storage::rows::Rows;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::apply::Apply;
use crate::boot;
use crate::config::{Boot, Member, RaftConfig};
use crate::core::Core;
use crate::counters::Counters;
use crate::error::{CallError, Fatal, MembershipError, StartError, Timeout};
use crate::hand_over::hand_over;
use crate::journal::Journal;
use crate::membership;
use crate::snapshot;
use crate::status::Status;
use crate::transport::Lane;
use crate::transport::frame::Body;
use crate::transport::link::LinkError;
use crate::transport::wire::{Manage, kind};
use crate::world::{BoxFuture, Exec, World};

/// Serves what other nodes forward to this one.
pub trait PeerService: Send + Sync + 'static {
    /// Answers a request of another node. Runs on the callers' runtime.
    fn handle(&self, from: u64, request: Bytes) -> BoxFuture<'static, Bytes>;
}

/// A running node. Cheap to clone.
pub struct RaftNode<A: Apply> {
    inner: Arc<Inner>,
    journal: Journal<A::Outcome>,
}

impl<A: Apply> Clone for RaftNode<A> {
    fn clone(&self) -> RaftNode<A> {
        RaftNode { inner: self.inner.clone(), journal: self.journal.clone() }
    }
}

/// What the handles share.
struct Inner {
    core: Arc<Core>,
    peer_addr: String,
    running: Mutex<Option<Running>>,
}

/// What must be ended when the node ends.
pub(crate) struct Running {
    /// Ends the runtime thread, or the tasks when they run inline.
    pub(crate) stop: Stop,
    /// Log and apply threads.
    pub(crate) threads: Vec<std::thread::JoinHandle<()>>,
}

/// How the tasks of a node are ended.
pub(crate) enum Stop {
    Thread { stop: oneshot::Sender<()>, thread: std::thread::JoinHandle<()> },
    Tasks(tokio::task::JoinSet<()>),
}

impl<A: Apply> RaftNode<A> {
    /// Opens the directory and starts the node. Must be called on a tokio runtime: answers and calls are served there.
    ///
    /// # Errors
    /// With one clear line: what is wrong and what to do.
    pub async fn start(
        world: World,
        config: RaftConfig,
        boot: Boot,
        apply: A,
        service: Arc<dyn PeerService>,
    ) -> Result<RaftNode<A>, StartError> {
        let callers = tokio::runtime::Handle::current();
        let started = match world.exec {
            Exec::Inline => {
                let mut tasks = tokio::task::JoinSet::new();
                let started = boot::boot(world, config, boot, apply, service, callers, &mut tasks).await?;
                Started { parts: started, stop: Stop::Tasks(tasks) }
            }
            Exec::Threads => start_thread(world, config, boot, apply, service, callers).await?,
        };
        let Started { parts, stop } = started;
        let running = Running { stop, threads: parts.threads };
        let inner = Inner { core: parts.core, peer_addr: parts.peer_addr, running: Mutex::new(Some(running)) };
        Ok(RaftNode { inner: Arc::new(inner), journal: parts.journal })
    }

    /// The one gate for proposals and reads.
    pub fn journal(&self) -> &Journal<A::Outcome> {
        &self.journal
    }

    /// The rows of the current generation. Take them anew for each request: a snapshot may replace them.
    pub fn rows(&self) -> Arc<dyn Rows> {
        self.core().apply.rows().rows()
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.core().who.node()
    }

    /// The peer address really bound, with its port.
    pub fn peer_addr(&self) -> &str {
        &self.inner.peer_addr
    }

    /// The cluster as this node sees it now.
    pub fn status(&self) -> Status {
        self.core().build_status()
    }

    /// Watches the same; published on every change of role, leader or members, and a few times a second.
    pub fn status_watch(&self) -> watch::Receiver<Arc<Status>> {
        self.core().status.subscribe()
    }

    /// The leader this node knows, and whether that is this node.
    pub fn leader(&self) -> Option<u64> {
        self.core().pulse.observed.read().leader
    }

    /// Index the rows have reached.
    pub fn applied_index(&self) -> u64 {
        self.core().apply.rows().applied()
    }

    /// The index the rows must still reach before anything may be read from them: those of a node that lost its rows
    /// and is applying its log anew are older than what it has shown before. `None` when they may be read.
    pub fn serves_from(&self) -> Option<u64> {
        let from = self.core().serves_from;
        (self.applied_index() < from).then_some(from)
    }

    /// Applied index of this node, for those who wait for it to grow.
    pub fn applied_watch(&self) -> watch::Receiver<u64> {
        self.core().apply.rows().watch_applied()
    }

    /// Waits until the rows have reached an index; installs of snapshots count.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), Timeout> {
        let mut applied = self.core().apply.rows().watch_applied();
        if *applied.borrow() >= index {
            return Ok(());
        }
        match tokio::time::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Timeout),
        }
    }

    /// What this leader's engine holds to be committed as of this call, or later: no node had applied more of its reign
    /// when it was called. All who wait at once share one question to the engine. `None` when the engine is gone.
    pub async fn committed_index(&self) -> Option<u64> {
        self.core().committed.index().await
    }

    /// Adds a node without a vote. On any node; safe to repeat.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, member: Member) -> Result<(), MembershipError> {
        membership::change(self.core().clone(), Manage::AddLearner(member)).await
    }

    /// Gives a caught-up learner its vote. On any node; safe to repeat.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn promote(&self, node: u64) -> Result<(), MembershipError> {
        membership::change(self.core().clone(), Manage::Promote(node)).await
    }

    /// Removes a member for good: its id is never used again. On any node; safe to repeat.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove(&self, node: u64) -> Result<(), MembershipError> {
        membership::change(self.core().clone(), Manage::Remove(node)).await
    }

    /// Hands leadership to a voter, or to the one that is furthest. On any node.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<(), MembershipError> {
        membership::change(self.core().clone(), Manage::TransferLeader(to)).await
    }

    /// Writes a snapshot file of this node's rows.
    ///
    /// # Errors
    /// With one line: what went wrong.
    pub async fn create_snapshot(&self) -> Result<SnapshotInfo, String> {
        let core = self.core();
        snapshot::create_file(core.apply.rows(), &core.template, &core.syncer).await.map_err(|error| error.to_string())
    }

    /// The snapshot files of this node.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, String> {
        self.core().world.disk.snapshot_list().map_err(|error| error.to_string())
    }

    /// Sends a request to another node's [`PeerService`] and waits for its answer.
    ///
    /// # Errors
    /// [`CallError::NotSent`] only when it certainly never left this node.
    pub async fn call(&self, node: u64, request: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let link = match tokio::time::timeout_at(deadline, self.core().links.get(node, Lane::Calls)).await {
            Ok(Ok(link)) => link,
            Ok(Err(_)) | Err(_) => return Err(CallError::NotSent),
        };
        match link.call(kind::CALL, Body::from(request), deadline).await {
            Ok((kind::ANSWER, answer)) => Ok(answer),
            Err(LinkError::NotSent(_)) => Err(CallError::NotSent),
            Ok(_) | Err(_) => Err(CallError::Unknown),
        }
    }

    /// Stops properly: hands leadership over, lets what is on its way come back, makes the rows durable. Safe to repeat.
    pub async fn shutdown(&self) {
        let core = self.core().clone();
        let running = self.inner.running.lock().take();
        let Some(running) = running else { return };
        core.pulse.set_stopping();
        if core.pulse.leading().is_some() && core.pulse.observed.read().members.nodes.len() > 1 {
            // Without a successor the others elect one when this node is gone.
            let _ = hand_over(&core, None, "the node stops").await;
        }
        core.journal.set_draining(true);
        core.journal.stop();
        if core.raft.shutdown().await.is_err() {
            tracing::warn!("the consensus engine ended with an error");
        }
        let (generation, rows) = core.apply.rows().current();
        if let Err(error) = core.syncer.sync_blocking(generation, rows).await {
            tracing::warn!(%error, "the rows could not be made durable; the log has what they miss");
        }
        stop(&core, running).await;
    }

    /// Stops at once, as a crash would: nothing is handed over, nothing made durable. For tests of exactly that.
    pub async fn kill(&self) {
        let running = self.inner.running.lock().take();
        if let Some(running) = running {
            let core = self.core().clone();
            core.pulse.set_stopping();
            core.journal.stop();
            if matches!(running.stop, Stop::Tasks(_)) {
                // The engine's tasks share the caller's runtime and would go on without this.
                let _ = core.raft.shutdown().await;
            }
            stop(&core, running).await;
        }
    }

    /// Resolves with a reason when the process must end with a failure.
    pub fn fatal(&self) -> impl Future<Output = String> + Send + 'static {
        Fatal::wait(self.core().fatal.clone())
    }

    /// The reason, if there is one already.
    pub fn fatal_now(&self) -> Option<String> {
        self.core().fatal.get()
    }

    /// What this node counts.
    pub fn counters(&self) -> &Counters {
        &self.core().counters
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}

/// Ends tasks, then threads, and waits for both.
async fn stop(core: &Core, running: Running) {
    match running.stop {
        Stop::Tasks(mut tasks) => tasks.shutdown().await,
        Stop::Thread { stop, thread } => {
            let _ = stop.send(());
            join(thread).await;
        }
    }
    core.links.close_all();
    core.log.stop();
    core.apply.stop();
    for thread in running.threads {
        join(thread).await;
    }
}

async fn join(thread: std::thread::JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        tracing::warn!("a thread of the node ended with a panic");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last handle is gone without a shutdown: as a crash, but without waiting.
        if let Some(running) = self.running.lock().take() {
            self.core.pulse.set_stopping();
            self.core.journal.stop();
            match running.stop {
                Stop::Tasks(tasks) => drop(tasks),
                Stop::Thread { stop, .. } => {
                    let _ = stop.send(());
                }
            }
            self.core.links.close_all();
            self.core.log.stop();
            self.core.apply.stop();
        }
    }
}

struct Started<O> {
    parts: boot::Parts<O>,
    stop: Stop,
}

/// Starts the runtime thread and boots on it.
async fn start_thread<A: Apply>(
    world: World,
    config: RaftConfig,
    boot: Boot,
    apply: A,
    service: Arc<dyn PeerService>,
    callers: tokio::runtime::Handle,
) -> Result<Started<A::Outcome>, StartError> {
    let (booted, wait) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = booted.send(Err(StartError::Other(format!("runtime: {error}"))));
                return;
            }
        };
        runtime.block_on(async move {
            let mut tasks = tokio::task::JoinSet::new();
            let parts = boot::boot(world, config, boot, apply, service, callers, &mut tasks).await;
            let failed = parts.is_err();
            // Whoever started it may have given up; then the drop of the parts ends everything.
            if booted.send(parts).is_err() || failed {
                return;
            }
            let _ = stopped.await;
            tasks.shutdown().await;
        });
        // Tasks of the engine end here; blocking work that is still running is not waited for.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new()
        .name("agora-raft".to_owned())
        .spawn(work)
        .map_err(|error| StartError::Other(format!("raft thread: {error}")))?;
    let parts = wait.await.map_err(|_| StartError::Other("the raft thread ended while starting".to_owned()))??;
    Ok(Started { parts, stop: Stop::Thread { stop, thread } })
}
