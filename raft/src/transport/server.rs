//! The listening side: admits peers, then answers on each lane.
//!
//! Votes, heartbeats and appends are answered on Raft's runtime. Calls are served on the runtime of the layer above, so
//! that no request ever takes a turn on Raft's thread. Connections that have not proved themselves are few and
//! short-lived; proved ones are bounded per peer.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use openraft::Raft;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest};
use parking_lot::Mutex;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::frame::{Body, FRAME_BYTES_MAX, Frame, FrameReader, WRITE_BYTES_MAX, WriteQueue};
use super::hello::{Gate, HandshakeError, Hello, PeerKey, RefusalLog, answer};
use super::wire::{self, AppendAnswer, AskVote, Barrier, Manage, Managed, Ping, ReadIndex, Transfer, Voted, kind};
use super::{APPENDS_IN_FLIGHT_MAX, Lane, WRITE_TIMEOUT};
use crate::counters::Counters;
use crate::machine::Machine;
use crate::node::PeerService;
use crate::status::NodeReport;
use crate::types::{TypeConfig, log_id};
use crate::world::{BoxFuture, NetListener, NetStream, World};

/// Connections that may be in their handshake at once; more are closed unread.
const HANDSHAKES_MAX: usize = 64;
/// Connections one peer may have open here: four lanes, some of them twice while one replaces another. Beyond, the oldest
/// gives way.
const CONNECTIONS_PER_PEER_MAX: usize = 16;
/// Questions of one control connection that are worked on at once.
const CONTROL_IN_FLIGHT_MAX: usize = 64;
/// Calls of one connection that are worked on at once; beyond, the socket is not read.
const CALLS_IN_FLIGHT_MAX: usize = 8192;
/// Pause after the system refused to accept, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the server asks of its node.
pub(crate) trait Local: Send + Sync + 'static {
    /// What this node says of itself.
    fn report(&self) -> NodeReport;
    /// What a peer says of itself.
    fn heard(&self, report: NodeReport);
    /// A peer showed a vote of this term.
    fn saw_term(&self, node: u64, term: u64);
    /// A read index as leader.
    fn read_index(&self, barrier: Barrier) -> BoxFuture<'static, ReadIndex>;
    /// A change that only the leader makes.
    fn manage(&self, change: Manage) -> BoxFuture<'static, Managed>;
    /// A connection that carries one snapshot, either way.
    fn serve_snapshot(&self, stream: Box<dyn NetStream>, from: u64) -> BoxFuture<'static, ()>;
}

/// Everything the listening side needs.
pub(crate) struct Server {
    pub(crate) world: World,
    pub(crate) key: PeerKey,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) raft: Raft<TypeConfig, Machine>,
    pub(crate) local: Arc<dyn Local>,
    pub(crate) service: Arc<dyn PeerService>,
    /// Runtime on which calls are served.
    pub(crate) callers: tokio::runtime::Handle,
    pub(crate) counters: Arc<Counters>,
}

impl Server {
    /// Accepts connections until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>, mut listener: Box<dyn NetListener>) {
        let refusals = RefusalLog::default();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let connections = Connections::default();
        // Dropped with this task: no connection outlives the node.
        let mut serving = JoinSet::new();
        loop {
            let (stream, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a peer's connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = handshakes.clone().try_acquire_owned() else {
                refusals.note(&source, "too many connections are in their handshake");
                continue;
            };
            while serving.try_join_next().is_some() {}
            let server = self.clone();
            let (refusals, connections) = (refusals.clone(), connections.clone());
            serving.spawn(async move {
                let mut stream = stream;
                let hello = match answer(&mut stream, &server.key, &*server.world.random, &*server.gate).await {
                    Ok(hello) => hello,
                    Err(error) => {
                        server.counters.peers_refused.one();
                        let source = match &error {
                            // The reason belongs to a node; several nodes may share an address.
                            HandshakeError::Refused(_) => format!("{source} (proved)"),
                            _ => source,
                        };
                        refusals.note(&source, &error.to_string());
                        return;
                    }
                };
                drop(permit);
                let mut place = connections.enter(hello.node);
                tokio::select! {
                    () = server.serve(stream, hello) => {}
                    () = place.given_up() => {}
                }
            });
        }
    }

    async fn serve(self: Arc<Self>, stream: Box<dyn NetStream>, hello: Hello) {
        let from = hello.node;
        let served = match hello.lane {
            Lane::Append => self.serve_append(stream, from).await,
            Lane::Control => {
                let server = self.clone();
                serve_questions(stream, CONTROL_IN_FLIGHT_MAX, &self.counters, move |kind, body| {
                    server.clone().control(from, kind, body).boxed()
                })
                .await
            }
            Lane::Calls => {
                let server = self.clone();
                let work = async move {
                    let counters = server.counters.clone();
                    serve_questions(stream, CALLS_IN_FLIGHT_MAX, &counters, move |kind, body| {
                        server.clone().called(from, kind, body)
                    })
                    .await
                };
                let mut serving = AbortOnDrop(self.callers.spawn(work));
                match (&mut serving.0).await {
                    Ok(served) => served,
                    Err(_) => Ok(()),
                }
            }
            Lane::Snapshot => {
                self.local.serve_snapshot(stream, from).await;
                Ok(())
            }
        };
        if let Err(error) = served {
            tracing::debug!(from, lane = ?hello.lane, %error, "connection of a peer ended");
        }
    }

    async fn control(self: Arc<Self>, from: u64, kind: u8, body: Bytes) -> (u8, Body) {
        match self.try_control(from, kind, body).await {
            Ok(answer) => answer,
            Err(reason) => failed(&reason),
        }
    }

    async fn try_control(&self, from: u64, kind: u8, body: Bytes) -> Result<(u8, Body), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        match kind {
            kind::HEARTBEAT => {
                let (_, request) = wire::decode_append(body).map_err(|e| text(&e))?;
                let answer = match self.raft.append_entries(request).await.map_err(|e| text(&e))? {
                    AppendEntriesResponse::Success => AppendAnswer::Matches(None),
                    AppendEntriesResponse::PartialSuccess(at) => {
                        AppendAnswer::Matches(at.as_ref().map(crate::types::position))
                    }
                    // The asker knows what it asked to match; only the fact is news.
                    AppendEntriesResponse::Conflict => {
                        AppendAnswer::Conflict(agora_storage::meta::LogPosition { index: 1, term: 0 })
                    }
                    AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote((&vote).into()),
                };
                Ok((kind::APPENDED, wire::encode(&answer)))
            }
            kind::VOTE => {
                let ask: AskVote = wire::decode(&body).map_err(|e| text(&e))?;
                self.local.saw_term(from, ask.vote.term);
                let response = self.raft.vote(ask.into_request()).await.map_err(|e| text(&e))?;
                Ok((kind::VOTED, wire::encode(&Voted::from(&response))))
            }
            kind::PRE_VOTE => {
                let ask: AskVote = wire::decode(&body).map_err(|e| text(&e))?;
                let response = self.raft.pre_vote(ask.into_request()).await.map_err(|e| text(&e))?;
                Ok((kind::VOTED, wire::encode(&Voted::from(&response))))
            }
            kind::TRANSFER => {
                let ask: Transfer = wire::decode(&body).map_err(|e| text(&e))?;
                let request = TransferLeaderRequest::new(ask.from.to_vote(), ask.to, ask.last_log.map(log_id));
                let accepted = self.raft.handle_transfer_leader(request).await.map_err(|e| text(&e))?;
                Ok((kind::TRANSFERRED, wire::encode(&accepted.is_ok())))
            }
            kind::PING => {
                let ping: Ping = wire::decode(&body).map_err(|e| text(&e))?;
                if ping.report.node != from {
                    return Err(format!("node {from} reports for node {}", ping.report.node));
                }
                self.local.heard(ping.report);
                Ok((kind::PONG, wire::encode(&Ping { report: self.local.report() })))
            }
            kind::BARRIER => {
                let barrier: Barrier = wire::decode(&body).map_err(|e| text(&e))?;
                let index = self.local.read_index(barrier).await;
                Ok((kind::READ_INDEX, wire::encode(&index)))
            }
            other => Err(format!("unknown question {other} on the control lane")),
        }
    }

    fn called(self: Arc<Self>, from: u64, kind: u8, body: Bytes) -> BoxFuture<'static, (u8, Body)> {
        match kind {
            kind::CALL => {
                self.counters.calls_served.one();
                let work = self.service.handle(from, body);
                Box::pin(async move { (kind::ANSWER, Body::from(work.await)) })
            }
            kind::MANAGE => match wire::decode::<Manage>(&body) {
                Ok(change) => {
                    let work = self.local.manage(change);
                    Box::pin(async move { (kind::MANAGED, wire::encode(&work.await)) })
                }
                Err(error) => Box::pin(std::future::ready(failed(&error.to_string()))),
            },
            // Whether anyone is there.
            kind::PING => Box::pin(std::future::ready((kind::PONG, Body::default()))),
            other => Box::pin(std::future::ready(failed(&format!("unknown question {other} on the calls lane")))),
        }
    }

    async fn serve_append(&self, stream: Box<dyn NetStream>, from: u64) -> io::Result<()> {
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, FRAME_BYTES_MAX);
        let mut queue = WriteQueue::default();
        let mut pipeline: Option<Pipeline> = None;
        loop {
            tokio::select! {
                frame = reader.next() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    if frame.kind != kind::APPEND {
                        return Err(io::Error::other(format!("unknown question {} of node {from} on the append lane", frame.kind)));
                    }
                    let (session, request) = wire::decode_append(frame.body.into_bytes()).map_err(io::Error::other)?;
                    let line = match pipeline.take() {
                        Some(line) if line.session == session => line,
                        _ => Pipeline::open(&self.raft, session),
                    };
                    pipeline = Some(line.push(frame.id, request).await);
                }
                answer = next_answer(&mut pipeline) => {
                    queue_answer(&mut queue, &mut pipeline, answer);
                    // What else is ready shares the write.
                    while queue.len() < WRITE_BYTES_MAX {
                        let Some(answer) = next_answer(&mut pipeline).now_or_never() else { break };
                        queue_answer(&mut queue, &mut pipeline, answer);
                    }
                    self.write(&mut queue, &mut write).await?;
                }
            }
        }
    }

    async fn write(&self, queue: &mut WriteQueue, write: &mut WriteHalf<Box<dyn NetStream>>) -> io::Result<()> {
        self.counters.socket_writes.one();
        tokio::time::timeout(WRITE_TIMEOUT, queue.write_to(write))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Ends a task on another runtime together with the one that waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One run of append requests between two errors: the engine answers them in order, and stops at the first error.
struct Pipeline {
    session: u32,
    requests: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    answers: BoxStream<'static, Result<StreamAppendResult<TypeConfig>, String>>,
    /// Ids of the requests on their way.
    ids: VecDeque<u64>,
    /// An error ended it; what still comes in for this session is answered as failed.
    over: bool,
}

impl Pipeline {
    fn open(raft: &Raft<TypeConfig, Machine>, session: u32) -> Pipeline {
        let (requests, waiting) = mpsc::channel(2 * APPENDS_IN_FLIGHT_MAX);
        let waiting = futures_util::stream::unfold(waiting, |mut waiting: mpsc::Receiver<_>| async move {
            waiting.recv().await.map(|request| (request, waiting))
        });
        let answers = raft.stream_append(waiting).map(|answer| answer.map_err(|fatal| fatal.to_string())).boxed();
        Pipeline { session, requests, answers, ids: VecDeque::new(), over: false }
    }

    async fn push(mut self, id: u64, request: AppendEntriesRequest<TypeConfig>) -> Pipeline {
        self.ids.push_back(id);
        if !self.over && self.requests.send(request).await.is_err() {
            self.over = true;
        }
        self
    }
}

/// An answer and the id of its question.
type Numbered = (u64, Result<StreamAppendResult<TypeConfig>, String>);

async fn next_answer(pipeline: &mut Option<Pipeline>) -> Numbered {
    let Some(line) = pipeline else { return std::future::pending().await };
    if line.ids.is_empty() {
        return std::future::pending().await;
    }
    let answer = if line.over { None } else { line.answers.next().await };
    let answer = answer.unwrap_or_else(|| Err("the session is over".to_owned()));
    let id = line.ids.pop_front().expect("looked at above");
    (id, answer)
}

fn queue_answer(queue: &mut WriteQueue, pipeline: &mut Option<Pipeline>, (id, answer): Numbered) {
    if !matches!(answer, Ok(Ok(_)))
        && let Some(line) = pipeline
    {
        line.over = true;
    }
    let (kind, body) = match answer {
        Ok(result) => (kind::APPENDED, wire::encode(&AppendAnswer::from(result))),
        Err(reason) => failed(&reason),
    };
    queue.push(Frame { kind, id, body });
}

/// Reads questions, works on up to `in_flight_max` of them at once, and writes all answers that are ready in one go.
async fn serve_questions(
    stream: Box<dyn NetStream>,
    in_flight_max: usize,
    counters: &Counters,
    handle: impl Fn(u8, Bytes) -> BoxFuture<'static, (u8, Body)>,
) -> io::Result<()> {
    let (read, mut write): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, FRAME_BYTES_MAX);
    let mut queue = WriteQueue::default();
    let mut working = FuturesUnordered::new();
    loop {
        tokio::select! {
            frame = reader.next(), if working.len() < in_flight_max => {
                let Some(frame) = frame? else { return Ok(()) };
                let mut frame = Some(frame);
                while let Some(Frame { kind, id, body }) = frame.take() {
                    let work = handle(kind, body.into_bytes());
                    working.push(async move {
                        let (kind, body) = work.await;
                        Frame { kind, id, body }
                    });
                    if working.len() < in_flight_max {
                        frame = reader.take()?;
                    }
                }
            }
            Some(answer) = working.next(), if !working.is_empty() => {
                push_answer(&mut queue, answer);
                let mut frames = 1;
                while queue.len() < WRITE_BYTES_MAX {
                    let Some(Some(answer)) = working.next().now_or_never() else { break };
                    push_answer(&mut queue, answer);
                    frames += 1;
                }
                counters.frames_sent.add(frames);
                counters.socket_writes.one();
                let written = tokio::time::timeout(WRITE_TIMEOUT, queue.write_to(&mut write)).await;
                written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
        }
    }
}

fn push_answer(queue: &mut WriteQueue, frame: Frame) {
    if frame.body.len() <= FRAME_BYTES_MAX {
        queue.push(frame);
        return;
    }
    let (kind, body) = failed(&format!("the answer of {} bytes is too large", frame.body.len()));
    queue.push(Frame { kind, id: frame.id, body });
}

fn failed(reason: &str) -> (u8, Body) {
    (kind::FAILED, Body::from(Bytes::copy_from_slice(reason.as_bytes())))
}

/// The connections each peer has open here. One more than allowed makes the oldest give way: a peer that lost its power, or
/// was cut off, leaves connections behind whose end is never heard of, and must not be kept out by them for ever.
#[derive(Clone, Default)]
struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    /// By peer and by order of coming; a sender that is dropped tells its connection to end.
    by_peer: BTreeMap<u64, BTreeMap<u64, oneshot::Sender<()>>>,
    last: u64,
}

impl Connections {
    fn enter(&self, node: u64) -> Place {
        let mut open = self.open.lock();
        open.last += 1;
        let number = open.last;
        let (hold, given_up) = oneshot::channel();
        let places = open.by_peer.entry(node).or_default();
        if places.len() >= CONNECTIONS_PER_PEER_MAX {
            places.pop_first();
        }
        places.insert(number, hold);
        Place { connections: self.clone(), node, number, given_up }
    }
}

/// The right of one connection to be served.
struct Place {
    connections: Connections,
    node: u64,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

impl Place {
    /// Waits until a newer connection needs the place.
    async fn given_up(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = (&mut self.given_up).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        if let Some(places) = open.by_peer.get_mut(&self.node) {
            places.remove(&self.number);
            if places.is_empty() {
                open.by_peer.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_whose_end_was_never_heard_of_give_way_to_new_ones() {
        let connections = Connections::default();
        let mut places: Vec<_> = (0..CONNECTIONS_PER_PEER_MAX).map(|_| connections.enter(2)).collect();
        let _other = connections.enter(3);
        assert!(places.iter_mut().all(|place| place.given_up().now_or_never().is_none()));
        let mut newest = connections.enter(2);
        assert!(places[0].given_up().now_or_never().is_some(), "the oldest gives way");
        assert!(places[1..].iter_mut().all(|place| place.given_up().now_or_never().is_none()));
        assert!(newest.given_up().now_or_never().is_none());
        places.clear();
        drop(newest);
        assert_eq!(connections.open.lock().by_peer.keys().copied().collect::<Vec<_>>(), [3]);
    }
}
