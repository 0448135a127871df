//! What a node takes from outside itself, simulated: clock, chance and sockets.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use agora_history::NodeId;
use agora_raft::{BoxFuture, Clock, Exec, Net, NetListener, NetStream, Random, World};
use agora_scenario::rng::Rng;
use agora_storage::MemDisk;
use parking_lot::Mutex;
use turmoil::net::TcpListener;

use crate::{
    entropy,
    stream::Stream,
    wires::{Place, Wires},
};

/// Simulated time since the beginning of the run, as the host that runs now sees it.
pub fn sim_now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_else(entropy::now)
}

/// How far a node's wall clock is off, in milliseconds. Cheap to clone.
#[derive(Clone, Default)]
pub struct ClockOffset(Arc<AtomicI64>);

impl ClockOffset {
    /// Sets it.
    pub fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::Relaxed);
    }
}

struct SimClock {
    offset: ClockOffset,
}

impl Clock for SimClock {
    fn wall_ms(&self) -> i64 {
        let true_ms = i64::try_from(entropy::EPOCH_MS).unwrap_or(0) + i64::try_from(sim_now().as_millis()).unwrap_or(0);
        true_ms + self.offset.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        sim_now()
    }
}

struct SimRandom {
    rng: Mutex<Rng>,
}

impl Random for SimRandom {
    fn u64(&self) -> u64 {
        self.rng.lock().next_u64()
    }

    fn u128(&self) -> u128 {
        let mut rng = self.rng.lock();
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }
}

struct SimNet {
    place: Place,
    wires: Wires,
}

impl Net for SimNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetListener>>> {
        let (addr, wires, place) = (addr.to_owned(), self.wires.clone(), self.place);
        Box::pin(async move {
            let port = split(&addr)?.1;
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            Ok(Box::new(SimListener { listener, wires, place, addr }) as Box<dyn NetListener>)
        })
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetStream>>> {
        let (addr, wires, from) = (addr.to_owned(), self.wires.clone(), self.place);
        Box::pin(async move {
            let (host, port) = split(&addr)?;
            let to = Place::of(host).ok_or_else(|| unknown(&addr))?;
            let stream = Stream::connect(&wires, from, to, port).await?;
            Ok(Box::new(stream) as Box<dyn NetStream>)
        })
    }
}

fn unknown(addr: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("nobody is called {addr}"))
}

fn split(addr: &str) -> io::Result<(&str, u16)> {
    addr.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))).ok_or_else(|| unknown(addr))
}

/// A listening socket of a node.
pub struct SimListener {
    listener: TcpListener,
    wires: Wires,
    place: Place,
    addr: String,
}

impl SimListener {
    /// Listens on a port of this machine.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn bind(wires: &Wires, place: Place, port: u16) -> io::Result<SimListener> {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        Ok(SimListener { listener, wires: wires.clone(), place, addr: format!("{}:{port}", place.name()) })
    }

    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn next(&self) -> io::Result<(Stream, Place)> {
        let (stream, from) = self.listener.accept().await?;
        let name = turmoil::reverse_lookup(from.ip()).ok_or_else(|| unknown(&from.to_string()))?;
        let from = Place::of(&name).ok_or_else(|| unknown(&name))?;
        Ok((Stream::new(stream, &self.wires, self.place, from), from))
    }
}

impl NetListener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn NetStream>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.next().await?;
            Ok((Box::new(stream) as Box<dyn NetStream>, from.name()))
        })
    }

    fn local_addr(&self) -> String {
        self.addr.clone()
    }
}

/// The world of one life of a node. `life` counts its starts.
pub fn world(seed: u64, node: NodeId, life: u64, wires: &Wires, offset: ClockOffset, disk: MemDisk) -> World {
    let rng = Rng::new(seed).fork(&format!("node {node} life {life}"));
    World {
        clock: Arc::new(SimClock { offset }),
        random: Arc::new(SimRandom { rng: Mutex::new(rng) }),
        net: Arc::new(SimNet { place: Place::Node(node), wires: wires.clone() }),
        exec: Exec::Inline,
        disk: Arc::new(disk),
    }
}
