//! The messages between peers, as our own types: the engine's never go over the wire.
//!
//! Small messages are `codec` encodings. An append request is laid out by hand, because its entries must be neither
//! copied nor encoded again:
//!
//! ```text
//! session u32 · vote: term u64, node u64, committed u8 · previous: term u64, index u64 (0 = none)
//! · committed: term u64, index u64 (0 = none) · count u32 · count × (length u32 · log record)
//! ```
//!
//! All numbers little-endian; indexes count from 1. The records' indexes follow from the previous one.

use agora_storage::codec;
use agora_storage::meta::LogPosition;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::Body;
use crate::config::Member;
use crate::error::MembershipError;
use crate::record;
use crate::status::NodeReport;
use crate::types::{LogId, TypeConfig, VoteRecord, log_id, position};

/// Frame kinds. Numbers are part of the protocol and are never given a second meaning.
pub(crate) mod kind {
    pub(crate) const APPEND: u8 = 1;
    pub(crate) const APPENDED: u8 = 2;
    pub(crate) const HEARTBEAT: u8 = 3;
    pub(crate) const VOTE: u8 = 4;
    pub(crate) const PRE_VOTE: u8 = 5;
    pub(crate) const VOTED: u8 = 6;
    pub(crate) const TRANSFER: u8 = 7;
    pub(crate) const TRANSFERRED: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
    pub(crate) const BARRIER: u8 = 11;
    pub(crate) const READ_INDEX: u8 = 12;
    pub(crate) const CALL: u8 = 13;
    pub(crate) const ANSWER: u8 = 14;
    pub(crate) const MANAGE: u8 = 15;
    pub(crate) const MANAGED: u8 = 16;
    pub(crate) const INSTALL: u8 = 17;
    pub(crate) const PULL: u8 = 18;
    pub(crate) const CHUNK: u8 = 19;
    pub(crate) const END: u8 = 20;
    pub(crate) const INSTALLED: u8 = 21;
    /// Instead of any answer: a reason in UTF-8.
    pub(crate) const FAILED: u8 = 255;
}

/// A message that cannot be read: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("message cannot be read: {0}")]
pub(crate) struct BadMessage(pub(crate) String);

/// Encodes a small message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Body {
    Body::from(codec::encode(message))
}

/// Decodes a small message.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadMessage> {
    codec::decode(body).map_err(|error| BadMessage(error.to_string()))
}

/// Answer to an append request or a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppendAnswer {
    /// Everything up to here matches and is on disk.
    Matches(Option<LogPosition>),
    /// There is no such entry here.
    Conflict(LogPosition),
    /// A later leader is known.
    HigherVote(VoteRecord),
}

impl From<StreamAppendResult<TypeConfig>> for AppendAnswer {
    fn from(result: StreamAppendResult<TypeConfig>) -> AppendAnswer {
        match result {
            Ok(matching) => AppendAnswer::Matches(matching.as_ref().map(position)),
            Err(StreamAppendError::Conflict(at)) => AppendAnswer::Conflict(position(&at)),
            Err(StreamAppendError::HigherVote(vote)) => AppendAnswer::HigherVote((&vote).into()),
        }
    }
}

impl AppendAnswer {
    /// As the engine wants it.
    pub(crate) fn into_result(self) -> StreamAppendResult<TypeConfig> {
        match self {
            AppendAnswer::Matches(at) => Ok(at.map(log_id)),
            AppendAnswer::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
            AppendAnswer::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.to_vote())),
        }
    }
}

/// Asks for a vote, or whether one would be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskVote {
    pub(crate) vote: VoteRecord,
    pub(crate) last_log: Option<LogPosition>,
    pub(crate) transfer: bool,
}

impl From<&VoteRequest<TypeConfig>> for AskVote {
    fn from(request: &VoteRequest<TypeConfig>) -> AskVote {
        AskVote {
            vote: (&request.vote).into(),
            last_log: request.last_log_id.as_ref().map(position),
            transfer: request.leadership_transfer,
        }
    }
}

impl AskVote {
    pub(crate) fn into_request(self) -> VoteRequest<TypeConfig> {
        let mut request = VoteRequest::new(self.vote.to_vote(), self.last_log.map(log_id));
        request.leadership_transfer = self.transfer;
        request
    }
}

/// Answer to [`AskVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Voted {
    pub(crate) vote: VoteRecord,
    pub(crate) granted: bool,
    pub(crate) last_log: Option<LogPosition>,
}

impl From<&VoteResponse<TypeConfig>> for Voted {
    fn from(response: &VoteResponse<TypeConfig>) -> Voted {
        Voted {
            vote: (&response.vote).into(),
            granted: response.vote_granted,
            last_log: response.last_log_id.as_ref().map(position),
        }
    }
}

impl Voted {
    pub(crate) fn into_response(self) -> VoteResponse<TypeConfig> {
        VoteResponse::new(self.vote.to_vote(), self.last_log.map(log_id), self.granted)
    }
}

/// Asks a node to stand for election at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) from: VoteRecord,
    pub(crate) to: u64,
    pub(crate) last_log: Option<LogPosition>,
}

/// A look at each other, both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ping {
    pub(crate) report: NodeReport,
}

/// A follower asks its leader for a read index, or, with `quorum` false, for what the leader has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Barrier {
    pub(crate) quorum: bool,
}

/// Answer to [`Barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadIndex {
    /// Rows that have reached this index answer linearizably.
    At(u64),
    /// Not the leader.
    NotLeader,
    /// No majority answered the leader.
    NoQuorum,
}

/// A change that only the leader makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Manage {
    AddLearner(Member),
    Promote(u64),
    Remove(u64),
    TransferLeader(Option<u64>),
}

/// Answer to [`Manage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Managed {
    Done,
    Refused(MembershipError),
    /// The node asked does not lead (any more); nothing was done.
    NotLeader,
}

/// Begins the transfer of a snapshot from the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Install {
    pub(crate) vote: VoteRecord,
}

/// Asks any node for a snapshot at or past an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pull {
    pub(crate) need_index: u64,
}

/// Fixed part of an append request, in bytes.
const APPEND_HEAD_BYTES: usize = 4 + 17 + 16 + 16 + 4;

/// Encodes an append request; the records are shared, not copied.
pub(crate) fn encode_append(session: u32, request: &AppendEntriesRequest<TypeConfig>) -> Body {
    let mut head = BytesMut::with_capacity(APPEND_HEAD_BYTES + 4);
    let vote = VoteRecord::from(&request.vote);
    head.put_u32_le(session);
    head.put_u64_le(vote.term);
    head.put_u64_le(vote.node);
    head.put_u8(u8::from(vote.committed));
    put_position(&mut head, request.prev_log_id.as_ref());
    put_position(&mut head, request.leader_commit.as_ref());
    head.put_u32_le(request.entries.len() as u32);
    let mut body = Body::default();
    for entry in &request.entries {
        let record = record::encode(entry);
        head.put_u32_le(record.len() as u32);
        body.push(head.split().freeze());
        body.push(record);
    }
    body.push(head.freeze());
    body
}

/// Decodes an append request; its entries share the buffer of the frame.
pub(crate) fn decode_append(mut body: Bytes) -> Result<(u32, AppendEntriesRequest<TypeConfig>), BadMessage> {
    let short = || BadMessage("append request is cut short".to_owned());
    if body.len() < APPEND_HEAD_BYTES {
        return Err(short());
    }
    let session = body.get_u32_le();
    let vote = VoteRecord { term: body.get_u64_le(), node: body.get_u64_le(), committed: body.get_u8() == 1 };
    let prev_log_id = get_position(&mut body);
    let leader_commit = get_position(&mut body);
    let count = body.get_u32_le() as usize;
    let first = prev_log_id.as_ref().map_or(0, |at| at.index + 1);
    // Bounded by what is really there, whatever the count says.
    let mut entries = Vec::with_capacity(count.min(body.len() / 4));
    for index in first..first.saturating_add(count as u64) {
        if body.len() < 4 {
            return Err(short());
        }
        let length = body.get_u32_le() as usize;
        if body.len() < length {
            return Err(short());
        }
        let record = body.split_to(length);
        entries.push(record::decode(index, record).map_err(|error| BadMessage(error.to_string()))?);
    }
    if !body.is_empty() {
        return Err(BadMessage(format!("{} bytes after the last entry of an append request", body.len())));
    }
    Ok((session, AppendEntriesRequest { vote: vote.to_vote(), prev_log_id, entries, leader_commit }))
}

fn put_position(out: &mut BytesMut, at: Option<&LogId>) {
    let at = at.map(position).unwrap_or_default();
    out.put_u64_le(at.term);
    out.put_u64_le(at.index);
}

fn get_position(body: &mut Bytes) -> Option<LogId> {
    let at = LogPosition { term: body.get_u64_le(), index: body.get_u64_le() };
    (at.index > 0).then(|| log_id(at))
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{Entry, Vote, term_id};

    fn request() -> AppendEntriesRequest<TypeConfig> {
        let entry = |index, payload| Entry { log_id: LogId::new(term_id(2), index), payload };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 3),
            prev_log_id: Some(LogId::new(term_id(1), 6)),
            entries: vec![
                entry(7, EntryPayload::Blank),
                entry(8, EntryPayload::Normal(record::seal(Bytes::from_static(b"abc"), 2))),
            ],
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_request_comes_back_as_it_was() {
        let (session, got) = decode_append(encode_append(9, &request()).into_bytes()).unwrap();
        let want = request();
        assert_eq!(session, 9);
        assert_eq!((got.vote, got.prev_log_id, got.leader_commit), (want.vote, want.prev_log_id, want.leader_commit));
        assert_eq!(got.entries, want.entries);
    }

    #[test]
    fn golden_bytes_of_an_append_request() {
        let mut expected = b"\x09\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01".to_vec();
        expected.extend(b"\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
        expected.extend([0; 16]);
        expected.extend(b"\x02\0\0\0\x09\0\0\0\x02\0\0\0\0\0\0\0\0\x0c\0\0\0abc\x02\0\0\0\0\0\0\0\x02");
        assert_eq!(encode_append(9, &request()).into_bytes(), expected);
    }

    #[test]
    fn every_cut_of_an_append_request_is_refused() {
        let whole = encode_append(9, &request()).into_bytes();
        for cut in 0..whole.len() {
            assert!(decode_append(whole.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(decode_append(longer.into()).is_err());
        let mut boastful = whole.to_vec();
        boastful[APPEND_HEAD_BYTES - 4..APPEND_HEAD_BYTES].fill(0xff);
        assert!(decode_append(boastful.into()).is_err());
    }
}
