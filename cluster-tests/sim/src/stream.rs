//! A stream through the simulated network, with a link's faults done to what is written into it.
//!
//! While a link is well, writes go straight through. Otherwise they wait here, in order, for the moment the link lets
//! them go, and a task of the sending host moves them on. Closing a stream behind a cut link is heard on the other side
//! only when the link is healed, as the kernel's last packets would be.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    time::Instant,
};
use turmoil::net::{
    TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::wires::{Place, Wires};

/// Bytes that wait for a link, at most; beyond it the writer waits, as with a full send buffer.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// Bytes that are sent although nothing acknowledges them, when the way back is cut.
const UNACKNOWLEDGED_BYTES_MAX: usize = 16 * 1024;

/// Whether a stream was reset from outside, and who must be told.
#[derive(Default)]
pub struct Fate {
    reset: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Fate {
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
        for waker in self.wakers.lock().drain(..) {
            waker.wake();
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.reset.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    fn wake_on_reset(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

/// One end of a stream.
pub struct Stream {
    read: Option<OwnedReadHalf>,
    out: Arc<Mutex<Out>>,
    fate: Arc<Fate>,
    wires: Wires,
    from: Place,
    to: Place,
}

/// The sending side.
struct Out {
    write: OwnedWriteHalf,
    waiting: VecDeque<(Instant, Bytes)>,
    waiting_bytes: usize,
    unacknowledged: usize,
    /// A task moves on what waits.
    moving: bool,
    shut: bool,
    /// Version of the wires at which the link was found clean.
    clean_at: u64,
    writer: Option<Waker>,
}

impl Stream {
    /// Puts a link's faults on a stream.
    pub fn new(stream: TcpStream, wires: &Wires, from: Place, to: Place) -> Stream {
        let (read, write) = stream.into_split();
        let fate = Arc::new(Fate::default());
        wires.enrol(from, to, &fate);
        Stream {
            read: Some(read),
            out: Arc::new(Mutex::new(Out {
                write,
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                unacknowledged: 0,
                moving: false,
                shut: false,
                clean_at: 0,
                writer: None,
            })),
            fate,
            wires: wires.clone(),
            from,
            to,
        }
    }

    /// Dials from one place to a port of another.
    ///
    /// # Errors
    /// When nobody listens there. Where nothing answers, it does not return.
    pub async fn connect(wires: &Wires, from: Place, to: Place, port: u16) -> io::Result<Stream> {
        wires.reachable(from, to).await;
        let stream = TcpStream::connect((to.name().as_str(), port)).await?;
        Ok(Stream::new(stream, wires, from, to))
    }

    fn is_clean(&self, out: &mut Out) -> bool {
        let version = self.wires.version();
        if out.clean_at != version && self.wires.is_clean(self.from, self.to) {
            out.clean_at = version;
            out.unacknowledged = 0;
        }
        out.clean_at == version
    }

    fn queue(&self, out: &mut Out, bytes: Bytes) {
        let after = out.waiting.back().map_or_else(Instant::now, |(at, _)| *at).max(Instant::now());
        let at = after.max(Instant::now() + self.wires.delay(self.from, self.to, bytes.len()));
        out.waiting_bytes += bytes.len();
        out.waiting.push_back((at, bytes));
        if !out.moving {
            out.moving = true;
            tokio::spawn(move_on(self.out.clone(), self.wires.clone(), self.from, self.to));
        }
    }
}

/// Moves on what waits, until nothing does.
async fn move_on(out: Arc<Mutex<Out>>, wires: Wires, from: Place, to: Place) {
    let mut changed = wires.watch();
    loop {
        let (at, bytes) = {
            let mut out = out.lock();
            match out.waiting.front() {
                Some((at, bytes)) => (*at, bytes.clone()),
                None => {
                    out.moving = false;
                    return;
                }
            }
        };
        tokio::time::sleep_until(at).await;
        changed.mark_unchanged();
        let unacknowledged = out.lock().unacknowledged + bytes.len();
        let one_way = wires.is_cut(to, from) && unacknowledged > UNACKNOWLEDGED_BYTES_MAX;
        if wires.is_cut(from, to) || one_way {
            // Packets are sent again now and then; the first one after healing is a little late.
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        }
        let sent = std::future::poll_fn(|cx| {
            let mut out = out.lock();
            if bytes.is_empty() {
                return Pin::new(&mut out.write).poll_shutdown(cx).map_ok(|()| 0);
            }
            Pin::new(&mut out.write).poll_write(cx, &bytes)
        })
        .await;
        let mut out = out.lock();
        match sent {
            Ok(_) => {
                out.unacknowledged = if wires.is_cut(to, from) { unacknowledged } else { 0 };
                out.waiting.pop_front();
                out.waiting_bytes -= bytes.len();
            }
            Err(_) => {
                out.waiting.clear();
                out.waiting_bytes = 0;
                out.shut = true;
            }
        }
        if let Some(writer) = out.writer.take() {
            writer.wake();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.fate.check()?;
        let Some(read) = self.read.as_mut() else { return Poll::Ready(Ok(())) };
        let polled = Pin::new(read).poll_read(cx, buffer);
        if polled.is_pending() {
            self.fate.wake_on_reset(cx.waker());
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fate.check()?;
        let mut out = self.out.lock();
        if out.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if out.waiting.is_empty() && self.is_clean(&mut out) {
            return Pin::new(&mut out.write).poll_write(cx, bytes);
        }
        if out.waiting_bytes >= WAITING_BYTES_MAX {
            out.writer = Some(cx.waker().clone());
            self.fate.wake_on_reset(cx.waker());
            return Poll::Pending;
        }
        if !bytes.is_empty() {
            self.queue(&mut out, Bytes::copy_from_slice(bytes));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.fate.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fate.check()?;
        let mut out = self.out.lock();
        if out.shut {
            return Poll::Ready(Ok(()));
        }
        out.shut = true;
        if out.waiting.is_empty() && self.is_clean(&mut out) {
            return Pin::new(&mut out.write).poll_shutdown(cx);
        }
        // An empty piece is the end.
        self.queue(&mut out, Bytes::new());
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.fate.check().is_err() || Handle::try_current().is_err() {
            return;
        }
        let linger = {
            let mut out = self.out.lock();
            !out.waiting.is_empty() || !self.is_clean(&mut out)
        };
        if let (true, Some(read)) = (linger, self.read.take()) {
            let last = Linger { read, out: self.out.clone() };
            tokio::spawn(last.until_sent(self.wires.clone(), self.from, self.to));
        }
    }
}

/// A stream whose owner is gone and whose last words are still on their way.
struct Linger {
    read: OwnedReadHalf,
    out: Arc<Mutex<Out>>,
}

impl Linger {
    async fn until_sent(self, wires: Wires, from: Place, to: Place) {
        let mut changed = wires.watch();
        loop {
            changed.mark_unchanged();
            if wires.is_cut(from, to) {
                if changed.changed().await.is_err() {
                    break;
                }
            } else if self.out.lock().waiting.is_empty() {
                break;
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        drop(self.read);
    }
}
