//! The first words on a connection: who are you, do you know the secret, and is your log what it was.
//!
//! ```text
//! dialler → listener   magic, version, 32 random bytes A
//! listener → dialler   magic, version, 32 random bytes B
//! dialler → listener   Hello, mac over ("dial", A, B, Hello)
//! listener → dialler   Welcome or Refused, mac over ("answer", A, B, that)
//! dialler → listener   if welcome: Admitted or Refused, mac over ("verdict", A, B, that)
//! ```
//!
//! The last one costs no round trip, since the dialler speaks first anyway; without it, a node that its peers refuse when they
//! dial it would never learn why nobody talks to it.
//!
//! The mac is blake3 keyed with a key derived from the shared secret, compared in constant time. A stranger learns
//! nothing but random bytes, and costs one bounded read and a deadline. After that the stream is plain TCP: it belongs
//! into a network of its own, or into a tunnel.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use agora_storage::codec;
use agora_storage::meta::LogPosition;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CONNECT_TIMEOUT, Lane};
use crate::types::VoteRecord;
use crate::world::{NetStream, Random};

/// Begins every connection, in both directions; the last byte is the protocol version.
const MAGIC: [u8; 8] = *b"AGORA-P\x02";
/// Random bytes from each side.
const CHALLENGE_BYTES: usize = 32;
/// Largest message of a handshake.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Sources of refused connections that are remembered, so that each is logged once.
const REFUSED_SOURCES_MAX: usize = 1024;

/// Who speaks, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) cluster: String,
    /// 0 while a joining node does not know it yet.
    pub(crate) lineage: u128,
    pub(crate) node: u64,
    /// The node it means to reach.
    pub(crate) to: u64,
    pub(crate) incarnation: u64,
    pub(crate) nonce: u128,
    /// As on disk.
    pub(crate) vote: VoteRecord,
    /// As on disk; index 0 for an empty log.
    pub(crate) last_log: LogPosition,
    pub(crate) lane: Lane,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Welcome(Hello),
    Refused(String),
}

/// The dialler's last word.
#[derive(Serialize, Deserialize)]
enum Verdict {
    Admitted,
    Refused(String),
}

/// Says who we are, and judges others.
pub(crate) trait Gate: Send + Sync + 'static {
    /// Our own words, to that node on that lane.
    fn hello(&self, to: u64, lane: Lane) -> Hello;
    /// Refuses a peer with a reason, or remembers it.
    fn admit(&self, hello: &Hello) -> Result<(), String>;
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("handshake: {0}")]
    Io(#[from] io::Error),
    /// They did not prove that they know the secret, or do not speak this protocol.
    #[error("{0}")]
    Stranger(&'static str),
    /// They are who they say, and may not talk to us, or we not to them.
    #[error("refused: {0}")]
    Refused(String),
    #[error("handshake timed out")]
    Timeout,
}

/// The key that both sides prove to know.
#[derive(Clone)]
pub(crate) struct PeerKey([u8; 32]);

impl PeerKey {
    pub(crate) fn new(secret: &[u8; 32]) -> PeerKey {
        PeerKey(blake3::derive_key("agora peer connection 1", secret))
    }

    fn mac(&self, role: &str, dialler: &[u8], listener: &[u8], message: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // All parts but the last have fixed lengths per role, so they cannot run into each other.
        hasher.update(role.as_bytes()).update(dialler).update(listener).update(message);
        hasher.finalize()
    }
}

/// Opens the connection from the dialling side. Returns who answered.
pub(crate) async fn dial(
    stream: &mut Box<dyn NetStream>,
    key: &PeerKey,
    random: &dyn Random,
    gate: &dyn Gate,
    to: u64,
    lane: Lane,
) -> Result<Hello, HandshakeError> {
    with_deadline(async {
        let own = challenge(random);
        write_opening(stream, &own).await?;
        let theirs = read_opening(stream).await?;
        let hello = codec::encode(&gate.hello(to, lane));
        write_message(stream, &hello, &key.mac("dial", &own, &theirs, &hello)).await?;
        let (message, mac) = read_message(stream).await?;
        if key.mac("answer", &own, &theirs, &message) != mac {
            return Err(HandshakeError::Stranger("the other side does not know the secret"));
        }
        let answer =
            codec::decode(&message).map_err(|_| HandshakeError::Stranger("the other side's answer cannot be read"))?;
        match answer {
            Answer::Refused(reason) => Err(HandshakeError::Refused(reason)),
            Answer::Welcome(hello) => {
                let admitted = match hello.node == to {
                    true => gate.admit(&hello),
                    false => {
                        Err(format!("node {} answers where node {to} was expected: check the addresses", hello.node))
                    }
                };
                let verdict = codec::encode(&match &admitted {
                    Ok(()) => Verdict::Admitted,
                    Err(reason) => Verdict::Refused(reason.clone()),
                });
                write_message(stream, &verdict, &key.mac("verdict", &own, &theirs, &verdict)).await?;
                admitted.map_err(HandshakeError::Refused)?;
                Ok(hello)
            }
        }
    })
    .await
}

/// Opens the connection from the listening side. Returns who dialled.
pub(crate) async fn answer(
    stream: &mut Box<dyn NetStream>,
    key: &PeerKey,
    random: &dyn Random,
    gate: &dyn Gate,
) -> Result<Hello, HandshakeError> {
    with_deadline(async {
        let own = challenge(random);
        let theirs = read_opening(stream).await?;
        write_opening(stream, &own).await?;
        let (message, mac) = read_message(stream).await?;
        if key.mac("dial", &theirs, &own, &message) != mac {
            return Err(HandshakeError::Stranger("the other side does not know the secret"));
        }
        let hello: Hello =
            codec::decode(&message).map_err(|_| HandshakeError::Stranger("the other side's hello cannot be read"))?;
        let admitted = gate.admit(&hello);
        let answer = match &admitted {
            Ok(()) => Answer::Welcome(gate.hello(hello.node, hello.lane)),
            Err(reason) => Answer::Refused(reason.clone()),
        };
        let answer = codec::encode(&answer);
        write_message(stream, &answer, &key.mac("answer", &theirs, &own, &answer)).await?;
        admitted.map_err(HandshakeError::Refused)?;
        let (verdict, mac) = read_message(stream).await?;
        if key.mac("verdict", &theirs, &own, &verdict) != mac {
            return Err(HandshakeError::Stranger("the other side does not know the secret"));
        }
        match codec::decode(&verdict) {
            Ok(Verdict::Admitted) => Ok(hello),
            Ok(Verdict::Refused(reason)) => {
                Err(HandshakeError::Refused(format!("node {} does not let this one in: {reason}", hello.node)))
            }
            Err(_) => Err(HandshakeError::Stranger("the other side's verdict cannot be read")),
        }
    })
    .await
}

async fn with_deadline<T>(work: impl Future<Output = Result<T, HandshakeError>>) -> Result<T, HandshakeError> {
    tokio::time::timeout(CONNECT_TIMEOUT, work).await.unwrap_or(Err(HandshakeError::Timeout))
}

fn challenge(random: &dyn Random) -> [u8; CHALLENGE_BYTES] {
    let mut bytes = [0; CHALLENGE_BYTES];
    bytes[..16].copy_from_slice(&random.u128().to_le_bytes());
    bytes[16..].copy_from_slice(&random.u128().to_le_bytes());
    bytes
}

async fn write_opening(stream: &mut Box<dyn NetStream>, challenge: &[u8; CHALLENGE_BYTES]) -> io::Result<()> {
    let mut opening = MAGIC.to_vec();
    opening.extend_from_slice(challenge);
    stream.write_all(&opening).await?;
    stream.flush().await
}

async fn read_opening(stream: &mut Box<dyn NetStream>) -> Result<[u8; CHALLENGE_BYTES], HandshakeError> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(HandshakeError::Stranger("these are not the first bytes of a peer"));
    }
    let mut challenge = [0; CHALLENGE_BYTES];
    stream.read_exact(&mut challenge).await?;
    Ok(challenge)
}

async fn write_message(stream: &mut Box<dyn NetStream>, message: &[u8], mac: &blake3::Hash) -> io::Result<()> {
    let mut out = Vec::with_capacity(2 + message.len() + blake3::OUT_LEN);
    let length = u16::try_from(message.len()).expect("handshake messages are small");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(mac.as_bytes());
    stream.write_all(&out).await?;
    stream.flush().await
}

async fn read_message(stream: &mut Box<dyn NetStream>) -> Result<(Vec<u8>, blake3::Hash), HandshakeError> {
    let length = usize::from(stream.read_u16_le().await?);
    if length > MESSAGE_BYTES_MAX {
        return Err(HandshakeError::Stranger("a message of the handshake is too long"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    let mut mac = [0; blake3::OUT_LEN];
    stream.read_exact(&mut mac).await?;
    Ok((message, blake3::Hash::from_bytes(mac)))
}

/// Logs each source of refused connections once, and no more than a bounded number of them.
#[derive(Clone, Default)]
pub(crate) struct RefusalLog {
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl RefusalLog {
    /// Counts a refusal; logs it if this source is new.
    pub(crate) fn note(&self, source: &str, reason: &str) {
        let mut seen = self.seen.lock();
        if let Some(count) = seen.get_mut(source) {
            *count += 1;
            return;
        }
        if seen.len() >= REFUSED_SOURCES_MAX {
            return;
        }
        seen.insert(source.to_owned(), 1);
        tracing::warn!(source, reason, "connection to the peer port refused; more from this source are not logged");
    }

    /// Forgets a source, so that a later refusal is news again.
    pub(crate) fn forget(&self, source: &str) {
        self.seen.lock().remove(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Random for Fixed {
        fn u64(&self) -> u64 {
            7
        }

        fn u128(&self) -> u128 {
            7
        }
    }

    /// Says that it is this node, and admits peers or refuses them.
    struct Door(u64, Result<(), &'static str>);

    impl Gate for Door {
        fn hello(&self, to: u64, lane: Lane) -> Hello {
            let (vote, last_log) = (VoteRecord::default(), LogPosition::default());
            let cluster = "shop".to_owned();
            Hello { cluster, lineage: 1, node: self.0, to, incarnation: 1, nonce: 1, vote, last_log, lane }
        }

        fn admit(&self, _: &Hello) -> Result<(), String> {
            self.1.map_err(str::to_owned)
        }
    }

    /// Node 1 dials node 2: what both make of it.
    async fn meet(dialler: Door, listener: Door) -> (Result<u64, String>, Result<u64, String>) {
        let (one, two) = tokio::io::duplex(1 << 16);
        let (mut one, mut two): (Box<dyn NetStream>, Box<dyn NetStream>) = (Box::new(one), Box::new(two));
        let key = PeerKey::new(&[1; 32]);
        let (dialled, answered) = tokio::join!(
            async {
                let dialled = dial(&mut one, &key, &Fixed, &dialler, 2, Lane::Append).await;
                drop(one);
                dialled
            },
            answer(&mut two, &key, &Fixed, &listener)
        );
        let told = |ended: Result<Hello, HandshakeError>| ended.map(|hello| hello.node).map_err(|why| why.to_string());
        (told(dialled), told(answered))
    }

    #[tokio::test]
    async fn both_sides_learn_why_one_of_them_refuses() {
        assert_eq!(meet(Door(1, Ok(())), Door(2, Ok(()))).await, (Ok(2), Ok(1)));
        let (dialled, answered) = meet(Door(1, Err("it was wiped")), Door(2, Ok(()))).await;
        assert_eq!(dialled.unwrap_err(), "refused: it was wiped");
        assert_eq!(answered.unwrap_err(), "refused: node 1 does not let this one in: it was wiped");
        let (dialled, answered) = meet(Door(1, Ok(())), Door(2, Err("it is a stranger"))).await;
        assert_eq!(dialled.unwrap_err(), "refused: it is a stranger");
        assert_eq!(answered.unwrap_err(), "refused: it is a stranger");
    }

    #[tokio::test]
    async fn a_node_under_another_id_than_was_dialled_is_told_so() {
        let (dialled, answered) = meet(Door(1, Ok(())), Door(3, Ok(()))).await;
        assert!(dialled.unwrap_err().contains("node 3 answers where node 2 was expected"));
        assert!(answered.unwrap_err().contains("node 3 answers where node 2 was expected"));
    }
}
