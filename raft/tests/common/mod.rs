//! A small cluster in one process: real nodes, real loopback sockets, disks in memory, and a machine that records.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use agora_raft::{
    Applied, Apply, ApplyError, Boot, BoxFuture, Clock, Committed, Exec, Lost, Member, Net, NetListener, NetStream,
    Payload, PeerService, RaftConfig, RaftNode, Refused, Reign, Role, StateDigest, World,
};
use agora_storage::codec;
use agora_storage::entry::{EntryKind, EntryReader};
use agora_storage::meta::{self, LogPosition, StateHeader, StoredMembership};
use agora_storage::{Batch, Keyspace, MemDisk, Rows};
use bytes::Bytes;
use tokio::time::Instant;

/// Generous: these machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const LINEAGE: u128 = 0x1234_5678;

/// What one transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The how-manieth transaction of all times it is.
    Counted(u64),
    /// Its reign was over.
    WrongReign,
}

/// Counts transactions, keeps each as a row, and refuses those of an older reign.
#[derive(Default)]
pub struct Counter {
    header: StateHeader,
    count: u64,
    /// Spoils the state from this index on: a planted fault.
    pub spoil_at: Option<u64>,
    /// While set, apply does not come back.
    pub hang: Arc<AtomicBool>,
}

/// The system's clock, some milliseconds off.
pub struct Skewed {
    inner: Arc<dyn Clock>,
    pub offset_ms: Arc<AtomicI64>,
}

impl Clock for Skewed {
    fn wall_ms(&self) -> i64 {
        self.inner.wall_ms() + self.offset_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }
}

fn broken(error: impl std::fmt::Display) -> ApplyError {
    ApplyError::new(error)
}

impl Apply for Counter {
    type Outcome = Outcome;

    fn apply(&mut self, rows: &Arc<dyn Rows>, entry: Committed<'_>) -> Result<Applied<Outcome>, ApplyError> {
        while self.hang.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut batch = Batch::new(entry.index);
        let mut outcomes = Vec::new();
        let at = LogPosition { index: entry.index, term: entry.term };
        match entry.payload {
            Payload::Blank => {}
            Payload::Membership(bytes) => {
                let stored = StoredMembership { at: Some(at), bytes: bytes.to_vec() };
                batch.put_meta(meta::MEMBERSHIP, codec::encode(&stored));
            }
            Payload::Entry(bytes) => {
                let entry = EntryReader::parse(bytes).map_err(broken)?;
                let header = *entry.header();
                assert!(header.log_time_ms > self.header.log_time_ms, "log time must grow");
                assert_eq!(header.term, at.term);
                self.header.log_time_ms = header.log_time_ms;
                match header.kind {
                    EntryKind::Fence => self.header.reign += 1,
                    EntryKind::Checkpoint => {}
                    EntryKind::Transactions => {
                        for (n, transaction) in entry.transactions().enumerate() {
                            if header.reign != self.header.reign {
                                outcomes.push(Outcome::WrongReign);
                                continue;
                            }
                            self.count += 1;
                            outcomes.push(Outcome::Counted(self.count));
                            let mut value = transaction.to_vec();
                            if self.spoil_at.is_some_and(|spoil| at.index >= spoil) {
                                value.push(b'!');
                            }
                            batch.insert(Keyspace::Feed, agora_storage::key::feed(at.index, n as u32), value);
                        }
                    }
                }
            }
        }
        self.header.digest = self.header.digest.wrapping_add(batch.digest_delta());
        batch.put_meta(meta::APPLIED, codec::encode(&at));
        batch.put_meta(meta::STATE, codec::encode(&self.header));
        rows.commit(batch).map_err(broken)?;
        let state = StateDigest { chain_head: self.header.chain_head, digest: self.header.digest };
        Ok(Applied { outcomes, reign: self.header.reign, state, ends_reign: false })
    }

    fn reset(&mut self, rows: &Arc<dyn Rows>) -> Result<(), ApplyError> {
        let view = rows.view().map_err(broken)?;
        self.header = match view.get(Keyspace::Meta, meta::STATE).map_err(broken)? {
            Some(bytes) => codec::decode(&bytes).map_err(broken)?,
            None => StateHeader::default(),
        };
        self.count = recorded(rows).len() as u64;
        Ok(())
    }
}

/// All transactions in the rows, in order.
pub fn recorded(rows: &Arc<dyn Rows>) -> Vec<Vec<u8>> {
    use std::ops::Bound::Unbounded;
    let view = rows.view().unwrap();
    view.scan(Keyspace::Feed, Unbounded, Unbounded, false).map(|row| row.unwrap().1).collect()
}

/// Names in place of addresses, and links that can be cut.
#[derive(Clone, Default)]
pub struct Wires {
    inner: Arc<Mutex<Names>>,
}

#[derive(Default)]
struct Names {
    bound: BTreeMap<String, String>,
    cut: BTreeSet<String>,
}

impl Wires {
    /// The socket behind a name.
    pub fn addr(&self, name: &str) -> Option<String> {
        self.inner.lock().unwrap().bound.get(name).cloned()
    }

    /// The wires as a node of that name sees them.
    pub fn net(&self, own: &str) -> Arc<dyn Net> {
        Arc::new(NodeNet { own: own.to_owned(), wires: self.clone() })
    }

    pub fn cut(&self, name: &str) {
        self.inner.lock().unwrap().cut.insert(name.to_owned());
    }

    pub fn heal(&self) {
        self.inner.lock().unwrap().cut.clear();
    }
}

/// The wires as one node sees them.
struct NodeNet {
    own: String,
    wires: Wires,
}

struct NamedListener {
    listener: tokio::net::TcpListener,
    name: String,
}

impl NetListener for NamedListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn NetStream>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn NetStream>, from.ip().to_string()))
        })
    }

    fn local_addr(&self) -> String {
        self.name.clone()
    }
}

impl Net for NodeNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetListener>>> {
        let (name, wires) = (addr.to_owned(), self.wires.clone());
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let real = listener.local_addr()?.to_string();
            wires.inner.lock().unwrap().bound.insert(name.clone(), real);
            Ok(Box::new(NamedListener { listener, name }) as Box<dyn NetListener>)
        })
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetStream>>> {
        let (name, own, wires) = (addr.to_owned(), self.own.clone(), self.wires.clone());
        Box::pin(async move {
            let real = {
                let names = wires.inner.lock().unwrap();
                if names.cut.contains(&name) || names.cut.contains(&own) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                names.bound.get(&name).cloned()
            };
            let real = real.ok_or(io::ErrorKind::ConnectionRefused)?;
            let stream = tokio::net::TcpStream::connect(real).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Cuttable { stream, own, peer: name, wires }) as Box<dyn NetStream>)
        })
    }
}

/// A stream that fails once its link is cut.
struct Cuttable {
    stream: tokio::net::TcpStream,
    own: String,
    peer: String,
    wires: Wires,
}

impl Cuttable {
    fn check(&self) -> io::Result<()> {
        let names = self.wires.inner.lock().unwrap();
        if names.cut.contains(&self.own) || names.cut.contains(&self.peer) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Answers a call with what was asked and who was asked.
pub struct Echo(pub u64);

impl PeerService for Echo {
    fn handle(&self, from: u64, request: Bytes) -> BoxFuture<'static, Bytes> {
        let answer = format!("{from}>{}:{}", self.0, String::from_utf8_lossy(&request));
        Box::pin(async move { Bytes::from(answer) })
    }
}

pub type Node = RaftNode<Counter>;

/// A cluster under test.
pub struct Cluster {
    pub wires: Wires,
    pub disks: BTreeMap<u64, MemDisk>,
    pub nodes: BTreeMap<u64, Node>,
    pub tune: fn(&mut RaftConfig),
    pub spoil: BTreeMap<u64, u64>,
    pub hang: BTreeMap<u64, Arc<AtomicBool>>,
    pub skew: BTreeMap<u64, Arc<AtomicI64>>,
    pub exec: Exec,
}

pub fn name(id: u64) -> String {
    format!("n{id}")
}

pub fn member(id: u64) -> Member {
    Member { id, peer_addr: name(id), http_addr: format!("http-{id}") }
}

pub fn config(id: u64) -> RaftConfig {
    RaftConfig {
        node_id: id,
        cluster: "test".to_owned(),
        listen: name(id),
        http_advertise: format!("http-{id}"),
        peer_secret: [7; 32],
        // A noisy machine must not look like a sick one.
        stall_hand_over_ms: 20_000,
        stall_exit_ms: 60_000,
        checkpoint_ms: 200,
        ..RaftConfig::default()
    }
}

impl Cluster {
    /// `count` first members, all running.
    pub async fn new(count: u64) -> Cluster {
        Cluster::tuned(count, |_| ()).await
    }

    pub async fn tuned(count: u64, tune: fn(&mut RaftConfig)) -> Cluster {
        Cluster::with(count, tune, Exec::Threads).await
    }

    pub async fn with(count: u64, tune: fn(&mut RaftConfig), exec: Exec) -> Cluster {
        init_logs();
        let mut cluster = Cluster {
            wires: Wires::default(),
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            tune,
            spoil: BTreeMap::new(),
            hang: BTreeMap::new(),
            skew: BTreeMap::new(),
            exec,
        };
        let members: Vec<Member> = (1..=count).map(member).collect();
        for id in 1..=count {
            cluster.start(id, Boot::Create { lineage: LINEAGE, members: members.clone() }).await;
        }
        cluster
    }

    pub async fn start(&mut self, id: u64, boot: Boot) {
        let started = Instant::now();
        loop {
            match self.try_start(id, boot.clone()).await {
                Ok(node) => {
                    self.nodes.insert(id, node);
                    return;
                }
                // The last tasks of the node's former life may still be ending.
                Err(agora_raft::StartError::Storage(agora_storage::Error::Locked { .. }))
                    if started.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("node {id} did not start: {error}"),
            }
        }
    }

    pub async fn try_start(&mut self, id: u64, boot: Boot) -> Result<Node, agora_raft::StartError> {
        let disk = self.disks.entry(id).or_default().clone();
        let mut world = World::real(Arc::new(disk));
        world.net = Arc::new(NodeNet { own: name(id), wires: self.wires.clone() });
        let mut config = config(id);
        (self.tune)(&mut config);
        world.exec = self.exec;
        let offset_ms = self.skew.entry(id).or_default().clone();
        world.clock = Arc::new(Skewed { inner: world.clock.clone(), offset_ms });
        let hang = self.hang.entry(id).or_default().clone();
        let counter = Counter { spoil_at: self.spoil.get(&id).copied(), hang, ..Counter::default() };
        RaftNode::start(world, config, boot, counter, Arc::new(Echo(id))).await
    }

    /// The wires as a node of that name sees them.
    pub fn net(&self, own: &str) -> Arc<dyn Net> {
        self.wires.net(own)
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    /// Ends a node as a crash would.
    pub async fn kill(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        node.kill().await;
    }

    pub async fn restart(&mut self, id: u64) {
        self.start(id, Boot::Existing).await;
    }

    /// The node that leads a live reign.
    pub async fn leader(&self) -> (u64, Reign) {
        eventually("a reign", || {
            self.nodes.iter().find_map(|(id, node)| node.journal().reign().map(|reign| (*id, reign)))
        })
        .await
    }

    /// Proposes until it is applied; whatever is refused or lost is proposed again at whoever leads then.
    pub async fn write(&self, transaction: &str) -> (u64, Outcome) {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "{transaction} was not written");
            let (id, reign) = self.leader().await;
            match self.node(id).journal().propose(reign.number, Bytes::from(transaction.to_owned())) {
                Ok(pending) => match tokio::time::timeout(PATIENCE, pending).await.expect("an answer") {
                    Ok(placed) => return (placed.index, placed.outcome),
                    Err(Lost::NeverApplied) => {}
                    Err(Lost::Unknown) => panic!("{transaction} is unknown"),
                },
                Err(Refused::Overloaded) => panic!("overloaded"),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all nodes have recorded the same as this one has.
    pub async fn settled(&self) -> Vec<Vec<u8>> {
        let (id, _) = self.leader().await;
        let index = self.node(id).journal().read_barrier(Instant::now() + PATIENCE).await.unwrap();
        for node in self.nodes.values() {
            node.wait_applied(index, Instant::now() + PATIENCE).await.unwrap();
        }
        let all: BTreeSet<_> = self.nodes.values().map(|node| recorded(&node.rows())).collect();
        assert_eq!(all.len(), 1, "nodes recorded different things");
        all.into_iter().next().unwrap()
    }

    pub async fn shutdown(self) {
        for node in self.nodes.values() {
            node.shutdown().await;
        }
    }
}

/// Polls until there is something.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks until the answer is yes.
pub async fn eventually_ok<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(started.elapsed() < PATIENCE, "waited too long for {what}: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn role(node: &Node) -> Role {
    node.status().role
}

/// Logs to the test's output when `RUST_LOG` asks for it.
pub fn init_logs() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}
