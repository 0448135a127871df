//! The seam between a scenario and what it attacks: HTTP to a node, acts upon the cluster, and time.
//!
//! Two things implement [`Cluster`]: the simulation, on simulated time, network and disks, and real processes in network
//! namespaces on disks that lose power. A scenario cannot tell them apart but by what they support.

use std::{collections::BTreeSet, future::Future, pin::Pin, time::Duration};

use agora_history::{Micros, NodeId};
use bytes::Bytes;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A request to a node. Paths are absolute (`/api/v2/orders`).
#[derive(Clone, Debug)]
pub struct HttpRequest {
    pub method: http::Method,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Its answer.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// No whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The connection could not be opened: the node has not seen the request.
    NotSent(String),
    /// The request may have arrived.
    Lost(String),
    /// No answer by the deadline; the request may have arrived.
    TimedOut,
}

/// A cluster under attack.
pub trait Cluster: Send + Sync + 'static {
    /// `simulation` or `processes`.
    fn harness(&self) -> &'static str;
    /// Nodes that were created and not removed, ascending; some may be down.
    fn nodes(&self) -> Vec<NodeId>;
    /// A node id that was never used in this cluster, for [`Act::Provision`].
    fn fresh_id(&self) -> NodeId {
        self.nodes().into_iter().max().unwrap_or(0) + 1
    }
    /// Whether a node's process runs (a paused one does).
    fn is_up(&self, node: NodeId) -> bool;
    /// Since the beginning of the run. tokio timers run on the same clock.
    fn now(&self) -> Micros;
    /// Sends a request from the clients' place in the network. Bounded by `deadline`.
    fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<HttpResponse, SendError>>;
    /// Where other nodes and clients reach a node: (`peer`, `http`), for the admin's requests.
    fn addresses(&self, node: NodeId) -> (String, String);
    /// The bearer keys: (shop, admin).
    fn keys(&self) -> (String, String);
    /// Whether this kind of act can be done here at all.
    fn supports(&self, act: &Act) -> bool;
    /// Does it. An error means it was not done, which fails the run: a fault that did not happen proves nothing.
    fn act(&self, act: Act) -> BoxFuture<'_, Result<(), String>>;
    /// Lines worth keeping when a run fails, such as the ends of the nodes' logs.
    fn evidence(&self) -> String;
}

/// Quality of a link, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Part of the traffic that is lost, 0 to 1; 1 is a cut.
    pub loss: f64,
    /// Added to every packet.
    pub delay_ms: u64,
    /// Up to so much more, by chance: reorders what is not a stream.
    pub jitter_ms: u64,
    /// Bytes per second; 0 is unlimited.
    pub rate_bytes: u64,
    /// Part of the traffic that arrives twice, 0 to 1 (where the harness carries packets).
    pub duplicate: f64,
}

impl Link {
    /// Nothing passes.
    pub const CUT: Link = Link { loss: 1.0, delay_ms: 0, jitter_ms: 0, rate_bytes: 0, duplicate: 0.0 };
}

/// Which file of a node's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `log.redb`.
    Log,
    /// The rows' journal.
    RowsJournal,
    /// The rows' tables.
    RowsTable,
    /// A snapshot file.
    Snapshot,
}

/// How stored bytes are spoiled, while the node is down. `at` is a place in the file, in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    FlipBit { at: u32, bit: u8 },
    ZeroSector { at: u32 },
    Truncate { at: u32 },
}

/// A disk that fails without losing power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The next fsync of that part fails once.
    FsyncErrorOnce(Part),
    /// Writes of that part fail from now on.
    WriteError(Part),
    /// No space left.
    Full,
    /// Every write and fsync waits until healed.
    Hung,
    /// Every fsync takes so much longer.
    Slow { ms: u64 },
}

/// A system call whose N-th occurrence from now on kills the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Syscall {
    Fsync,
    Write,
    Rename,
}

/// A port of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Where clients ask.
    Http,
    /// Where peers talk.
    Peer,
}

/// Something done to the cluster.
///
/// What is so already is no error and nothing happens: killing a node that died by itself, resuming one that runs,
/// mending a disk that works, starting one that is up. An attack cannot know which of them a node did on its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Traffic between peers, from each of `from` to each of `to` (one way). Clients are not concerned.
    SetLinks { from: BTreeSet<NodeId>, to: BTreeSet<NodeId>, link: Link },
    /// Traffic between clients and these nodes, both ways.
    SetClientLinks { nodes: BTreeSet<NodeId>, link: Link },
    /// Open connections between these peers are reset; new ones may be made.
    ResetConnections { nodes: BTreeSet<NodeId> },
    /// All links as they were.
    HealNetwork,
    /// `kill -9`: what was written survives, synced or not.
    Kill(BTreeSet<NodeId>),
    /// The power goes, for all of these at once: only what was synced surely survives.
    PowerLoss(BTreeSet<NodeId>),
    /// Told to stop (SIGTERM), and waited for.
    Stop(NodeId),
    /// Started again with its directory. Does not wait until it serves. Nothing happens if it runs.
    Start(NodeId),
    /// Stands still (SIGSTOP).
    Pause(NodeId),
    /// Goes on.
    Resume(NodeId),
    /// The node's wall clock is off by so much from now on.
    ClockOffset { node: NodeId, ms: i64 },
    /// The disk of a node fails in this way from now on.
    BreakDisk { node: NodeId, fault: DiskFault },
    /// The disk of a node works again (a full one has space again), and a [`Act::CrashAt`] that has not struck is off.
    MendDisk(NodeId),
    /// The node dies at the n-th such call from now on (n from 1); one that is down, from its next start on. Its death
    /// by any means takes the trap away.
    CrashAt { node: NodeId, call: Syscall, n: u64 },
    /// Bytes of a node that is down are spoiled.
    Corrupt { node: NodeId, part: Part, damage: Damage },
    /// The directory of a node that is down is kept aside …
    KeepDirectory(NodeId),
    /// … and put back in place of what is there now: an old backup restored.
    RestoreDirectory(NodeId),
    /// The directory of a node that is down is emptied.
    Wipe(NodeId),
    /// A new node is made and started, waiting to be added by the leader.
    Provision(NodeId),
    /// A node that is not (or no longer) a member is stopped and forgotten.
    Retire(NodeId),
    /// The directory of a node that is down is emptied, and its configuration names another lineage from now on, with the
    /// same id, addresses, cluster name and secret: a node of another cluster in its place.
    Refound(NodeId),
    /// From its next start on the node is run by the other of two binaries, and by the first one after the next such
    /// act. Not supported where the harness was given one binary only.
    SwapBinary(NodeId),
    /// From the clients' place so many connections are opened to a port, these bytes written on each, and all held open
    /// for so long without reading, then dropped. Returns when they are open.
    RawConnections { node: NodeId, port: Port, count: u32, bytes: Bytes, hold_ms: u64 },
}
