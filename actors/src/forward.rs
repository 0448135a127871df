//! A write that was asked of a follower, on its way to the leader and back.
//!
//! What travels is the typed command, not the HTTP request: the follower has parsed, checked and authenticated it
//! already. The reply says which of the three it is: decided, a definite no of this attempt, or unknown.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use agora_domain::{Command, KeyRef};
use agora_raft::{BoxFuture, PeerService};
use agora_storage::codec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::shop::{Attempt, Inner, Shop, WriteError, WriteRequest, Written};

/// Longest time a forwarded write may ask for, whatever its sender says.
const LEFT_MAX: Duration = Duration::from_secs(60);

/// The request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Forwarded {
    pub key: KeyRef,
    pub trace: u128,
    pub command: Command,
    /// Milliseconds until the sender's deadline.
    pub left_ms: u32,
    /// An earlier attempt may have reached a journal.
    pub retry: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Done(Result<Written, WriteError>),
    No(WriteError),
    Unknown,
}

/// Reads a reply. One that cannot be read leaves the outcome unknown.
pub(crate) fn read_reply(bytes: &[u8]) -> Attempt {
    match codec::decode(bytes) {
        Ok(Reply::Done(result)) => Attempt::Done(Box::new(result)),
        Ok(Reply::No(error)) => Attempt::No(error),
        Ok(Reply::Unknown) | Err(_) => Attempt::Unknown,
    }
}

/// Answers other nodes. Opened when the shop is ready; before that it knows no leader.
#[derive(Default)]
pub(crate) struct PeerDesk {
    shop: OnceLock<Weak<Inner>>,
}

impl PeerDesk {
    pub(crate) fn open(&self, shop: &Arc<Inner>) {
        let _ = self.shop.set(Arc::downgrade(shop));
    }
}

impl PeerService for PeerDesk {
    fn handle(&self, _from: u64, request: Bytes) -> BoxFuture<'static, Bytes> {
        let shop = self.shop.get().and_then(Weak::upgrade);
        Box::pin(async move {
            let reply = match (shop, codec::decode::<Forwarded>(&request)) {
                (None, _) => Reply::No(WriteError::NoLeader),
                (_, Err(error)) => {
                    Reply::No(WriteError::Internal(format!("a forwarded write cannot be read: {error}")))
                }
                (Some(inner), Ok(forwarded)) => {
                    let left = Duration::from_millis(forwarded.left_ms.into()).min(LEFT_MAX);
                    let Forwarded { key, trace, command, retry, .. } = forwarded;
                    let request = WriteRequest { key, trace, command };
                    let shop = Shop::from_inner(inner);
                    let begun = shop.now();
                    let attempt = shop.decide_here(&request, Instant::now() + left, retry).await;
                    shop.stages().serve.record(begun, shop.now());
                    match attempt {
                        Attempt::Done(result) => Reply::Done(*result),
                        Attempt::No(error) => Reply::No(error),
                        Attempt::Unknown => Reply::Unknown,
                    }
                }
            };
            Bytes::from(codec::encode(&reply))
        })
    }
}
