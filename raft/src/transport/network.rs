//! The engine's way to its peers: implements its network traits over [`Links`].
//!
//! Heartbeats and votes take the control lane, whichever client the engine hands them to; entries take the append
//! lane, several requests on their way at once and answered in order; snapshots dial a connection of their own. An
//! unreachable peer is always an error: a synthesized "yes" to a pre-vote would let an isolated node inflate its term.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::BoxStream;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AnyError, OptionalSend};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::link::{Answer, Link, LinkError, Links, after, wait_answer};
use super::wire::{self, AppendAnswer, AskVote, Transfer, Voted, kind};
use super::{APPEND_TIMEOUT, APPENDS_IN_FLIGHT_MAX, Lane};
use crate::machine::SnapshotHandle;
use crate::snapshot::Sender;
use crate::types::{MemberAddr, TermId, TypeConfig, Vote, position};

/// Numbers the runs of append requests, so that a peer tells a new run from the rest of a broken one.
static SESSIONS: AtomicU32 = AtomicU32::new(1);

/// Makes the engine's clients.
pub(crate) struct Network {
    pub(crate) links: Arc<Links>,
    pub(crate) snapshots: Arc<Sender>,
}

/// What a client is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Replicate,
    Heartbeat,
}

/// The engine's client for one peer.
pub(crate) struct Client {
    links: Arc<Links>,
    snapshots: Arc<Sender>,
    target: u64,
    purpose: Use,
}

impl Network {
    fn client(&self, target: u64, node: &MemberAddr, purpose: Use) -> Client {
        self.links.set_addr(target, &node.peer_addr);
        Client { links: self.links.clone(), snapshots: self.snapshots.clone(), target, purpose }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &MemberAddr) -> Client {
        self.client(target, node, Use::Replicate)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberAddr) -> Client {
        self.client(target, node, Use::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MemberAddr) -> Client {
        // `full_snapshot` dials its own connection whichever client it is called on.
        self.client(target, node, Use::Replicate)
    }
}

type RpcError = RPCError<TypeConfig>;

fn unreachable(error: &LinkError) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(error)))
}

fn network(message: impl std::fmt::Display) -> RpcError {
    RPCError::Network(NetworkError::new(&AnyError::error(message)))
}

impl Client {
    /// One question on the control lane.
    async fn ask(
        &self,
        kind: u8,
        body: super::frame::Body,
        timeout: Duration,
        expect: u8,
    ) -> Result<bytes::Bytes, RpcError> {
        let link = self.links.get(self.target, Lane::Control).await.map_err(|error| unreachable(&error))?;
        let (got, body) = link.call(kind, body, after(timeout)).await.map_err(|error| unreachable(&error))?;
        if got != expect {
            link.close();
            return Err(network(format!("node {} answered with kind {got} where {expect} was expected", self.target)));
        }
        Ok(body)
    }

    async fn heartbeat(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let body = wire::encode_append(0, request);
        let answer = self.ask(kind::HEARTBEAT, body, timeout, kind::APPENDED).await?;
        let answer: AppendAnswer = wire::decode(&answer).map_err(network)?;
        Ok(match answer {
            AppendAnswer::Matches(_) => Ok(request.prev_log_id),
            AppendAnswer::Conflict(_) => {
                // The peer says only that what we named is not there.
                let Some(at) = request.prev_log_id else {
                    return Err(network("a peer finds a conflict where nothing was claimed"));
                };
                Err(openraft::raft::StreamAppendError::Conflict(at))
            }
            AppendAnswer::HigherVote(vote) => Err(openraft::raft::StreamAppendError::HigherVote(vote.to_vote())),
        })
    }

    async fn ask_vote(
        &self,
        kind: u8,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let body = wire::encode(&AskVote::from(&request));
        let answer = self.ask(kind, body, option.hard_ttl(), kind::VOTED).await?;
        let voted: Voted = wire::decode(&answer).map_err(network)?;
        Ok(voted.into_response())
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        // The engine uses the stream; this is for completeness, and for requests without entries.
        let link = self.links.get(self.target, Lane::Append).await.map_err(|error| unreachable(&error))?;
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let body = wire::encode_append(session, &request);
        let answer =
            link.call(kind::APPEND, body, after(option.hard_ttl())).await.map_err(|error| unreachable(&error))?;
        Ok(AppendEntriesResponse::from(read_answer(answer)?))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.purpose == Use::Heartbeat {
            let timeout = option.hard_ttl();
            let client = &*self;
            let answers = input.then(move |request| async move { client.heartbeat(&request, timeout).await });
            return Box::pin(std::future::ready(Ok(answers.boxed())));
        }
        let (links, target) = (self.links.clone(), self.target);
        let line = Line {
            links,
            target,
            link: None,
            input: Some(input),
            on_their_way: VecDeque::new(),
            session: SESSIONS.fetch_add(1, Ordering::Relaxed),
        };
        let answers = futures_util::stream::unfold(Some(line), |line| async move { line?.next().await });
        Box::pin(std::future::ready(Ok(answers.boxed())))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(kind::VOTE, request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(kind::PRE_VOTE, request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TermId, u64, MemberAddr, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = std::pin::pin!(self.snapshots.send(&self.links, self.target, (&vote).into(), snapshot.snapshot));
        let cancel = std::pin::pin!(cancel);
        match select(sending, cancel).await {
            Either::Left((Ok(vote), _)) => Ok(SnapshotResponse::new(vote.to_vote())),
            Either::Left((Err(error), _)) => {
                tracing::warn!(target_node = self.target, error = %error, "a snapshot did not arrive");
                Err(StreamingError::Unreachable(Unreachable::new(&AnyError::error(error))))
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let ask = Transfer {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last_log: request.last_log_id().map(position),
        };
        let answer = self.ask(kind::TRANSFER, wire::encode(&ask), option.hard_ttl(), kind::TRANSFERRED).await?;
        let accepted: bool = wire::decode(&answer).map_err(network)?;
        if accepted {
            return Ok(Ok(()));
        }
        Err(network(format!("node {} does not take over", self.target)))
    }
}

fn read_answer((kind, body): Answer) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
    if kind != kind::APPENDED {
        return Err(network(format!("answer of kind {kind} on the append lane")));
    }
    let answer: AppendAnswer = wire::decode(&body).map_err(network)?;
    Ok(answer.into_result())
}

/// A run of append requests: sends while it may, yields answers in order.
///
/// The engine waits out its pause after a failure inside `input`, so the peer is dialled only when a request has come
/// out of it; dialling before would try an unreachable peer again at once, thousands of times.
struct Line<S> {
    links: Arc<Links>,
    target: u64,
    /// Open from the first request on.
    link: Option<Arc<Link>>,
    /// `None` when the engine has no more to send in this run.
    input: Option<S>,
    on_their_way: VecDeque<(oneshot::Receiver<Answer>, Instant)>,
    session: u32,
}

type Step<S> = Option<(Result<StreamAppendResult<TypeConfig>, RpcError>, Option<Line<S>>)>;

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Line<S> {
    async fn next(mut self) -> Step<S> {
        loop {
            let may_send = self.input.is_some() && self.on_their_way.len() < APPENDS_IN_FLIGHT_MAX;
            if self.on_their_way.is_empty() && !may_send {
                return None;
            }
            let input = &mut self.input;
            let sending = async move {
                match input {
                    Some(input) if may_send => input.next().await,
                    _ => std::future::pending().await,
                }
            };
            let first = self.on_their_way.front_mut();
            let answering = async move {
                match first {
                    Some((receiver, deadline)) => wait_answer(receiver, *deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Answers first: they move the commit index.
                biased;
                answer = answering => {
                    self.on_their_way.pop_front();
                    return Some(self.answered(answer));
                }
                request = sending => {
                    let Some(request) = request else {
                        self.input = None;
                        continue;
                    };
                    match self.send(&request).await {
                        Ok(receiver) => self.on_their_way.push_back((receiver, after(APPEND_TIMEOUT))),
                        Err(error) => return Some((Err(unreachable(&error)), None)),
                    }
                }
            }
        }
    }

    async fn send(
        &mut self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<oneshot::Receiver<Answer>, LinkError> {
        let link = match &self.link {
            Some(link) => link,
            None => self.link.insert(self.links.get(self.target, Lane::Append).await?),
        };
        link.ask(kind::APPEND, wire::encode_append(self.session, request)).await
    }

    fn answered(
        self,
        answer: Result<Answer, LinkError>,
    ) -> (Result<StreamAppendResult<TypeConfig>, RpcError>, Option<Line<S>>) {
        let result = match answer {
            Ok(answer) => read_answer(answer),
            Err(error) => {
                if !matches!(error, LinkError::Failed(_)) {
                    // Silent or lost: dial anew, so that nothing of this run can arrive later than the next one.
                    if let Some(link) = &self.link {
                        link.close();
                    }
                }
                Err(unreachable(&error))
            }
        };
        match result {
            Ok(Ok(matching)) => (Ok(Ok(matching)), Some(self)),
            other => (other, None),
        }
    }
}
