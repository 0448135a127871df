//! The wire between the machines: every packet of every node passes through this process.
//!
//! Each node, and the clients as machine 0, has a TUN interface as its only way out. A thread per machine reads its
//! packets and hands each to the interface of the machine it is for, unless [`Links`] says otherwise; one more thread
//! delivers what is late. So loss, delay, jitter, duplication, reordering and a low rate are those of real IP packets under
//! real TCP stacks, on a kernel without `netem` too.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use agora_history::NodeId;
use agora_scenario::cluster::Link;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    address,
    links::{Fate, Links},
};

/// Largest packet. The interfaces have the MTU of an Ethernet.
const PACKET_BYTES_MAX: usize = 2_048;
/// Packets that may be late at once; beyond it they are lost.
const LATE_MAX: usize = 200_000;
/// How often a reader looks whether it should end.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What the wire has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub packets: u64,
    pub lost: u64,
    pub late: u64,
    pub doubled: u64,
}

#[derive(Default)]
struct Counters {
    packets: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    doubled: AtomicU64,
}

struct Port {
    wire: File,
    over: AtomicBool,
}

type Late = Reverse<(Instant, u64, NodeId, Vec<u8>)>;

struct Shared {
    ports: RwLock<BTreeMap<NodeId, Arc<Port>>>,
    links: Mutex<Links>,
    late: Mutex<BinaryHeap<Late>>,
    more: Condvar,
    over: AtomicBool,
    order: AtomicU64,
    counters: Counters,
}

/// The wire. Ends its threads when dropped.
pub struct Fabric {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Fabric {
    /// With no machine on it.
    pub fn new(seed: u64) -> Fabric {
        let shared = Arc::new(Shared {
            ports: RwLock::default(),
            links: Mutex::new(Links::new(seed)),
            late: Mutex::default(),
            more: Condvar::new(),
            over: AtomicBool::new(false),
            order: AtomicU64::new(0),
            counters: Counters::default(),
        });
        let fabric = Fabric { shared: shared.clone(), threads: Mutex::default() };
        fabric.spawn("wire-late".to_owned(), move || deliver_late(&shared));
        fabric
    }

    /// Puts a machine on it, by the other end of its interface.
    pub fn plug(&self, node: NodeId, wire: File) {
        let port = Arc::new(Port { wire, over: AtomicBool::new(false) });
        let before = self.shared.ports.write().unwrap().insert(node, port.clone());
        assert!(before.is_none(), "machine {node} is on the wire already");
        let shared = self.shared.clone();
        self.spawn(format!("wire-{node}"), move || carry_from(&shared, node, &port));
    }

    /// Takes a machine off it.
    pub fn unplug(&self, node: NodeId) {
        if let Some(port) = self.shared.ports.write().unwrap().remove(&node) {
            port.over.store(true, Relaxed);
        }
    }

    /// Makes links so, from each to each.
    pub fn set(&self, from: &[NodeId], to: &[NodeId], link: Link) {
        let mut links = self.shared.links.lock().unwrap();
        for from in from {
            for to in to.iter().filter(|to| *to != from) {
                links.set(*from, *to, link);
            }
        }
    }

    /// All links perfect again.
    pub fn heal(&self) {
        self.shared.links.lock().unwrap().heal();
    }

    /// Whether machines are without power.
    pub fn set_dark(&self, nodes: &[NodeId], dark: bool) {
        let mut links = self.shared.links.lock().unwrap();
        for node in nodes {
            links.set_dark(*node, dark);
        }
    }

    /// Figures so far.
    pub fn carried(&self) -> Carried {
        let counters = &self.shared.counters;
        Carried {
            packets: counters.packets.load(Relaxed),
            lost: counters.lost.load(Relaxed),
            late: counters.late.load(Relaxed),
            doubled: counters.doubled.load(Relaxed),
        }
    }

    fn spawn(&self, name: String, work: impl FnOnce() + Send + 'static) {
        let mut threads = self.threads.lock().unwrap();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread::Builder::new().name(name).spawn(work).expect("a thread for the wire"));
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        for port in self.shared.ports.read().unwrap().values() {
            port.over.store(true, Relaxed);
        }
        self.shared.more.notify_all();
        for thread in self.threads.lock().unwrap().drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry_from(shared: &Shared, from: NodeId, port: &Port) {
    let mut packet = [0u8; PACKET_BYTES_MAX];
    while !port.over.load(Relaxed) {
        match (&port.wire).read(&mut packet) {
            Ok(bytes) => carry(shared, from, &packet[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut wanted = [PollFd::from_borrowed_fd(port.wire.as_fd(), PollFlags::IN)];
                let _ = poll(&mut wanted, Some(&IDLE));
            }
            // The interface is down, or not yet up.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn carry(shared: &Shared, from: NodeId, packet: &[u8]) {
    let Some(to) = receiver(packet) else { return };
    let counters = &shared.counters;
    counters.packets.fetch_add(1, Relaxed);
    let now = Instant::now();
    let fate = shared.links.lock().unwrap().fate(from, to, packet.len(), now);
    match fate {
        Fate::Lost => {
            counters.lost.fetch_add(1, Relaxed);
        }
        Fate::Arrives { after, again } => {
            if let Some(again) = again {
                counters.doubled.fetch_add(1, Relaxed);
                hand_over(shared, to, packet, now, again);
            }
            hand_over(shared, to, packet, now, after);
        }
    }
}

fn hand_over(shared: &Shared, to: NodeId, packet: &[u8], now: Instant, after: Duration) {
    if after.is_zero() {
        return write(shared, to, packet);
    }
    let order = shared.order.fetch_add(1, Relaxed);
    let mut late = shared.late.lock().unwrap();
    if late.len() >= LATE_MAX {
        shared.counters.lost.fetch_add(1, Relaxed);
        return;
    }
    shared.counters.late.fetch_add(1, Relaxed);
    late.push(Reverse((now + after, order, to, packet.to_vec())));
    shared.more.notify_one();
}

fn deliver_late(shared: &Shared) {
    let mut late = shared.late.lock().unwrap();
    while !shared.over.load(Relaxed) {
        let now = Instant::now();
        let next = late.peek().map(|Reverse((due, ..))| *due);
        match next {
            Some(due) if due <= now => {
                let Some(Reverse((_, _, to, packet))) = late.pop() else { continue };
                drop(late);
                write(shared, to, &packet);
                late = shared.late.lock().unwrap();
            }
            next => {
                let idle = Duration::from_millis(200);
                let wait = next.map_or(idle, |due| due.saturating_duration_since(now).min(idle));
                late = shared.more.wait_timeout(late, wait).unwrap().0;
            }
        }
    }
}

fn write(shared: &Shared, to: NodeId, packet: &[u8]) {
    let port = shared.ports.read().unwrap().get(&to).cloned();
    // A machine that is gone, or whose queue is full, loses the packet, as on any wire.
    let written = port.is_some_and(|port| (&port.wire).write(packet).is_ok());
    if !written {
        shared.counters.lost.fetch_add(1, Relaxed);
    }
}

/// The machine an IPv4 packet is for.
fn receiver(packet: &[u8]) -> Option<NodeId> {
    let version = packet.first()? >> 4;
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    if version == 4 { address::machine(to.into()) } else { None }
}
