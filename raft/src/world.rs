//! The one value from which a node gets the world: clock, randomness, sockets, disk, and where blocking work runs.
//!
//! Nothing else in this crate reads a clock, draws a random number, opens a socket or starts a thread for log and
//! apply. A simulation hands in its own `World` and so decides all of these; the real one is [`World::real`]. (Timers
//! are tokio's, which a simulation controls by its runtime.)

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agora_storage::disk::Disk;
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything a node takes from outside itself. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Nonces and jitter; never used to decide anything that is replicated.
    pub random: Arc<dyn Random>,
    /// Listening and dialling.
    pub net: Arc<dyn Net>,
    /// Where log writes and applying run.
    pub exec: Exec,
    /// Where the bytes live.
    pub disk: Arc<dyn Disk>,
}

impl World {
    /// The real world: system clock, operating system randomness, TCP, threads of their own for log and apply.
    pub fn real(disk: Arc<dyn Disk>) -> World {
        World {
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
            net: Arc::new(TcpNet),
            exec: Exec::Threads,
            disk,
        }
    }
}

/// Two kinds of time. Wall time may jump; monotonic time never goes back and starts anywhere.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, as this machine believes.
    fn wall_ms(&self) -> i64;
    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;
}

/// Unpredictable numbers.
pub trait Random: Send + Sync + 'static {
    /// 64 random bits.
    fn u64(&self) -> u64;
    /// 128 random bits.
    fn u128(&self) -> u128;
}

/// Streams of bytes between nodes.
pub trait Net: Send + Sync + 'static {
    /// Listens on `addr` (`host:port`; port 0 asks for a free one).
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetListener>>>;
    /// Dials `addr`. The caller sets the deadline.
    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetStream>>>;
}

/// An open listening socket.
pub trait NetListener: Send + 'static {
    /// Waits for the next connection; the string names where it comes from, for logs only.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn NetStream>, String)>>;
    /// The address really bound, with its port.
    fn local_addr(&self) -> String;
}

/// A connected stream in both directions.
pub trait NetStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> NetStream for T {}

/// Where work that blocks (log writes, applying, snapshots) and Raft itself run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    /// Log, apply and Raft each on an operating system thread of their own.
    Threads,
    /// Everything on the runtime that calls `start`, in the order it is asked for: for simulation.
    Inline,
}

struct SystemClock {
    start: Instant,
}

impl SystemClock {
    fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A clock before 1970 is wrong by decades; the comparison with the other voters will say so.
            Err(_) => 0,
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn u64(&self) -> u64 {
        let mut bytes = [0_u8; 8];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        u64::from_le_bytes(bytes)
    }

    fn u128(&self) -> u128 {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        u128::from_le_bytes(bytes)
    }
}

struct TcpNet;

impl Net for TcpNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetListener>>> {
        let addr = addr.to_owned();
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(&addr).await?;
            Ok(Box::new(TcpAccept { listener }) as Box<dyn NetListener>)
        })
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn NetStream>>> {
        let addr = addr.to_owned();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(&addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn NetStream>)
        })
    }
}

struct TcpAccept {
    listener: tokio::net::TcpListener,
}

impl NetListener for TcpAccept {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn NetStream>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn NetStream>, from.ip().to_string()))
        })
    }

    fn local_addr(&self) -> String {
        self.listener.local_addr().map(|addr| addr.to_string()).unwrap_or_default()
    }
}
