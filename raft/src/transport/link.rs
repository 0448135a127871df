//! One open connection to a peer, shared by many exchanges at once, and the table of such connections.
//!
//! Each question gets an id; answers may come in any order. One task writes (everything that waits in one go), one
//! reads. When either fails, every open question fails with it, and the next use dials anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::frame::{Body, FRAME_BYTES_MAX, Frame, FrameReader, WRITE_BYTES_MAX, WriteQueue};
use super::hello::{Gate, HandshakeError, PeerKey, RefusalLog, dial};
use super::wire::kind;
use super::{CONNECT_TIMEOUT, Lane, REDIAL_AFTER, SHARED_LANES, WRITE_TIMEOUT};
use crate::counters::Counters;
use crate::world::{NetStream, World};

/// Questions that may wait to be written on one connection.
const OUTGOING_MAX: usize = 4096;
/// Questions without an answer on one connection.
const OPEN_QUESTIONS_MAX: usize = 65_536;

/// An answer: its kind and its bytes.
pub(crate) type Answer = (u8, Bytes);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The question never left this node.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("connection lost: {0}")]
    Lost(&'static str),
    /// The deadline passed; it may have arrived.
    #[error("timed out")]
    Timeout,
    /// The peer could not answer, and says why.
    #[error("peer failed: {0}")]
    Failed(String),
}

/// One connection.
pub(crate) struct Link {
    outgoing: mpsc::Sender<Frame>,
    state: Arc<LinkState>,
}

struct LinkState {
    open: Mutex<Open>,
    next_id: AtomicU64,
    closed: AtomicBool,
    closing: Notify,
}

#[derive(Default)]
struct Open {
    questions: BTreeMap<u64, oneshot::Sender<Answer>>,
    closed: bool,
}

impl LinkState {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
        // Dropping the senders is what fails the open questions.
        let open = &mut *self.open.lock();
        open.closed = true;
        open.questions.clear();
    }
}

impl Link {
    /// Starts the two tasks of an open connection on the runtime of the caller.
    pub(crate) fn start(stream: Box<dyn NetStream>, counters: Arc<Counters>) -> Link {
        let (read, write) = tokio::io::split(stream);
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let state = Arc::new(LinkState {
            open: Mutex::default(),
            next_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        });
        tokio::spawn(run_writer(write, waiting, state.clone(), counters));
        tokio::spawn(run_reader(read, state.clone()));
        Link { outgoing, state }
    }

    /// Whether it is of no more use.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Acquire)
    }

    /// Gives the connection up: every open question fails.
    pub(crate) fn close(&self) {
        self.state.close();
    }

    /// Puts a question on its way; the receiver fails when the connection does.
    pub(crate) async fn ask(&self, kind: u8, body: Body) -> Result<oneshot::Receiver<Answer>, LinkError> {
        let not_sent = |why: &str| LinkError::NotSent(why.to_owned());
        if body.len() > FRAME_BYTES_MAX {
            return Err(LinkError::NotSent(format!("message of {} bytes, at most {FRAME_BYTES_MAX}", body.len())));
        }
        let (sender, receiver) = oneshot::channel();
        let id = self.state.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = self.state.open.lock();
            if open.closed {
                return Err(not_sent("connection closed"));
            }
            if open.questions.len() >= OPEN_QUESTIONS_MAX {
                return Err(not_sent("too many open questions"));
            }
            open.questions.insert(id, sender);
        }
        if self.outgoing.send(Frame { kind, id, body }).await.is_err() {
            return Err(not_sent("connection closed"));
        }
        Ok(receiver)
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call(&self, kind: u8, body: Body, deadline: Instant) -> Result<Answer, LinkError> {
        let asked = tokio::time::timeout_at(deadline, self.ask(kind, body)).await;
        let mut receiver = match asked {
            // The question may already lie in the queue: from here on the outcome is unknown.
            Err(_) => return Err(LinkError::Timeout),
            Ok(asked) => asked?,
        };
        wait_answer(&mut receiver, deadline).await
    }
}

/// Waits for an answer that was asked for with [`Link::ask`].
pub(crate) async fn wait_answer(
    receiver: &mut oneshot::Receiver<Answer>,
    deadline: Instant,
) -> Result<Answer, LinkError> {
    match tokio::time::timeout_at(deadline, receiver).await {
        Err(_) => Err(LinkError::Timeout),
        Ok(Err(_)) => Err(LinkError::Lost("before the answer came")),
        Ok(Ok((kind::FAILED, reason))) => Err(LinkError::Failed(String::from_utf8_lossy(&reason).into_owned())),
        Ok(Ok(answer)) => Ok(answer),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.close();
    }
}

async fn run_writer(
    mut stream: WriteHalf<Box<dyn NetStream>>,
    mut waiting: mpsc::Receiver<Frame>,
    state: Arc<LinkState>,
    counters: Arc<Counters>,
) {
    write_frames(&mut stream, &mut waiting, &counters, &state).await;
    state.close();
}

async fn write_frames(
    stream: &mut WriteHalf<Box<dyn NetStream>>,
    waiting: &mut mpsc::Receiver<Frame>,
    counters: &Counters,
    state: &LinkState,
) {
    let mut queue = WriteQueue::default();
    loop {
        let closing = state.closing.notified();
        if state.closed.load(Ordering::Acquire) {
            return;
        }
        let first = tokio::select! {
            frame = waiting.recv() => frame,
            () = closing => return,
        };
        let Some(first) = first else { return };
        queue.push(first);
        if !send_waiting(stream, &mut queue, waiting, counters).await {
            return;
        }
    }
}

/// Adds what waits to the queue, up to a bound, and writes all of it. False when the connection is lost.
pub(crate) async fn send_waiting(
    stream: &mut WriteHalf<Box<dyn NetStream>>,
    queue: &mut WriteQueue,
    waiting: &mut mpsc::Receiver<Frame>,
    counters: &Counters,
) -> bool {
    let mut frames = 1;
    while queue.len() < WRITE_BYTES_MAX {
        let Ok(frame) = waiting.try_recv() else { break };
        queue.push(frame);
        frames += 1;
    }
    counters.frames_sent.add(frames);
    counters.socket_writes.one();
    matches!(tokio::time::timeout(WRITE_TIMEOUT, queue.write_to(stream)).await, Ok(Ok(())))
}

async fn run_reader(stream: ReadHalf<Box<dyn NetStream>>, state: Arc<LinkState>) {
    let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX);
    loop {
        let closing = state.closing.notified();
        if state.closed.load(Ordering::Acquire) {
            break;
        }
        let next = tokio::select! {
            next = reader.next() => next,
            () = closing => break,
        };
        let Ok(Some(frame)) = next else { break };
        let asked = state.open.lock().questions.remove(&frame.id);
        if let Some(asked) = asked {
            // Whoever asked may have given up meanwhile.
            let _ = asked.send((frame.kind, frame.body.into_bytes()));
        }
    }
    state.close();
}

/// How to reach peers: addresses, and the connections that are open.
pub(crate) struct Links {
    world: World,
    key: PeerKey,
    gate: Arc<dyn Gate>,
    counters: Arc<Counters>,
    refusals: RefusalLog,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
}

struct Peer {
    addr: Mutex<String>,
    lanes: [tokio::sync::Mutex<LaneState>; SHARED_LANES],
}

#[derive(Default)]
struct LaneState {
    link: Option<Arc<Link>>,
    failed_at: Option<(Instant, String)>,
}

impl Links {
    pub(crate) fn new(world: World, key: PeerKey, gate: Arc<dyn Gate>, counters: Arc<Counters>) -> Links {
        Links { world, key, gate, counters, refusals: RefusalLog::default(), peers: Mutex::default() }
    }

    /// Sets where a peer is dialled.
    pub(crate) fn set_addr(&self, node: u64, addr: &str) {
        let peer = self.peers.lock().entry(node).or_insert_with(|| Arc::new(Peer::new())).clone();
        let mut known = peer.addr.lock();
        if *known != addr {
            addr.clone_into(&mut known);
        }
    }

    /// Closes what is open to nodes that are no longer members.
    pub(crate) fn retain(&self, keep: impl Fn(u64) -> bool) {
        self.peers.lock().retain(|node, _| keep(*node));
    }

    /// Closes every connection: the node stops.
    pub(crate) fn close_all(&self) {
        for lane in [Lane::Append, Lane::Control, Lane::Calls] {
            self.open(lane).iter().for_each(|link| link.close());
        }
        self.retain(|_| false);
    }

    /// Closes the shared connection of one lane; false if there is none.
    pub(crate) fn close(&self, node: u64, lane: Lane) -> bool {
        let Some(slot) = lane.slot() else { return false };
        let peer = self.peers.lock().get(&node).cloned();
        let link = peer.and_then(|peer| peer.lanes[slot].try_lock().ok()?.link.take());
        link.inspect(|link| link.close()).is_some()
    }

    /// The connections of a lane that are open now.
    pub(crate) fn open(&self, lane: Lane) -> Vec<Arc<Link>> {
        let Some(slot) = lane.slot() else { return Vec::new() };
        let peers: Vec<_> = self.peers.lock().values().cloned().collect();
        let link_of = |peer: &Arc<Peer>| peer.lanes[slot].try_lock().ok().and_then(|state| state.link.clone());
        peers.iter().filter_map(link_of).filter(|link| !link.is_closed()).collect()
    }

    /// The shared connection of a lane, dialled if there is none.
    pub(crate) async fn get(&self, node: u64, lane: Lane) -> Result<Arc<Link>, LinkError> {
        let slot = lane.slot().expect("snapshots dial a connection of their own");
        let peer = self.peers.lock().get(&node).cloned();
        let Some(peer) = peer else { return Err(LinkError::NotSent(format!("no address of node {node} is known"))) };
        let mut state = peer.lanes[slot].lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        state.link = None;
        if let Some((at, why)) = &state.failed_at
            && at.elapsed() < REDIAL_AFTER
        {
            return Err(LinkError::NotSent(why.clone()));
        }
        let addr = peer.addr.lock().clone();
        match self.connect(node, &addr, lane).await {
            Ok(stream) => {
                let link = Arc::new(Link::start(stream, self.counters.clone()));
                state.failed_at = None;
                state.link = Some(link.clone());
                Ok(link)
            }
            Err(error) => {
                let why = error.to_string();
                state.failed_at = Some((Instant::now(), why.clone()));
                Err(LinkError::NotSent(why))
            }
        }
    }

    /// A connection of its own, for one snapshot.
    pub(crate) async fn dial_own(&self, node: u64, lane: Lane) -> Result<Box<dyn NetStream>, LinkError> {
        let peer = self.peers.lock().get(&node).cloned();
        let Some(peer) = peer else { return Err(LinkError::NotSent(format!("no address of node {node} is known"))) };
        let addr = peer.addr.lock().clone();
        self.connect(node, &addr, lane).await.map_err(|error| LinkError::NotSent(error.to_string()))
    }

    async fn connect(&self, node: u64, addr: &str, lane: Lane) -> Result<Box<dyn NetStream>, HandshakeError> {
        let dialled = tokio::time::timeout(CONNECT_TIMEOUT, self.world.net.connect(addr)).await;
        let mut stream = dialled.map_err(|_| HandshakeError::Timeout)??;
        let source = format!("node {node} at {addr}");
        match dial(&mut stream, &self.key, &*self.world.random, &*self.gate, node, lane).await {
            Ok(_) => {
                self.refusals.forget(&source);
                Ok(stream)
            }
            Err(error) => {
                if matches!(error, HandshakeError::Refused(_) | HandshakeError::Stranger(_)) {
                    self.counters.peers_refused.one();
                    self.refusals.note(&source, &error.to_string());
                }
                Err(error)
            }
        }
    }
}

impl Peer {
    fn new() -> Peer {
        Peer { addr: Mutex::default(), lanes: std::array::from_fn(|_| tokio::sync::Mutex::default()) }
    }
}

/// The moment a duration from now.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration
}
