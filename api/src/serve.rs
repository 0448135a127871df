//! The way in from the network: an accept loop that a crowd, a slow client or a silent one cannot hold up.
//!
//! Every connection has a bound on each thing it may wait for: its first byte, a request's head, a request's body, and
//! the client taking its answer. A connection that has not said anything yet costs a task and no buffers, so ten
//! thousand of them cost little. Beyond the bound on connections new ones are closed at once. When the node stops, no
//! new connections are taken, idle ones are closed, and requests on their way are finished until the time is over.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, Sleep},
};

use crate::{ApiState, router};

/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// Bytes of one request's head, and of what is buffered of a connection.
const HEAD_BYTES_MAX: usize = 64 * 1_024;
/// Pause after an accept failed, as it does when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Finish what is on its way.
    Draining,
    /// Close.
    Over,
}

/// Serves the API until `shutdown` resolves, then drains.
///
/// # Panics
/// When `connections_max` is 0 or beyond what a semaphore holds.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: impl Future<Output = ()>) {
    let connections_max = state.config.connections_max;
    assert!(connections_max > 0, "connections_max is 0: nobody could connect");
    let room = Arc::new(Semaphore::new(connections_max));
    let phase = watch::Sender::new(Phase::Open);
    let service = TowerToHyperService::new(router(state.clone()));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&room).try_acquire_owned() else {
            state.metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (state, service, phase) = (state.clone(), service.clone(), phase.subscribe());
        tokio::spawn(async move {
            state.metrics.connections.fetch_add(1, Ordering::Relaxed);
            if connection(stream, state.clone(), service, phase).await.is_err() {
                state.metrics.connections_broken.fetch_add(1, Ordering::Relaxed);
            }
            state.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
    drop(listener);
    state.stop.send_replace(true);
    phase.send_replace(Phase::Draining);
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let drain = Duration::from_millis(state.config.drain_timeout_ms);
    if tokio::time::timeout(drain, room.acquire_many(all)).await.is_err() {
        tracing::warn!(
            open = connections_max - room.available_permits(),
            "connections were cut after the drain timeout"
        );
        phase.send_replace(Phase::Over);
    }
}

/// A connection that broke off, or was broken off.
struct Broken;

/// One connection. Whoever has not said anything yet is held by this alone, so it is kept small: what talking takes is
/// boxed, and made when there is something to hear.
async fn connection(
    stream: TcpStream,
    state: ApiState,
    service: TowerToHyperService<axum::Router>,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), Broken> {
    // Answers are written whole; waiting for more to send would only delay them.
    stream.set_nodelay(true).map_err(|_| Broken)?;
    let head_timeout = Duration::from_millis(state.config.header_timeout_ms);
    let mut first = [0; 1];
    tokio::select! {
        // A fresh stream is taken for readable until a read says otherwise, so it must be tried.
        first = tokio::time::timeout(head_timeout, stream.peek(&mut first)) => {
            first.map_err(|_| Broken)?.map_err(|_| Broken)?;
        }
        _ = phase.wait_for(|phase| *phase != Phase::Open) => return Ok(()),
    }
    let write_timeout = Duration::from_millis(state.config.write_timeout_ms);
    Box::pin(talk(Taken::new(stream, write_timeout), head_timeout, service, phase)).await
}

/// Request after request, until the client leaves or the node stops.
async fn talk(
    stream: Taken<TcpStream>,
    head_timeout: Duration,
    service: TowerToHyperService<axum::Router>,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), Broken> {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        done = &mut serving => return done.map_err(|_| Broken),
        _ = phase.wait_for(|phase| *phase != Phase::Open) => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        done = &mut serving => done.map_err(|_| Broken),
        _ = phase.wait_for(|phase| *phase == Phase::Over) => Err(Broken),
    }
}

/// A stream whose writes fail when the peer takes nothing for too long.
struct Taken<S> {
    stream: S,
    timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    fn new(stream: S, timeout: Duration) -> Self {
        Self { stream, timeout, waiting: None }
    }

    /// Called with what a write came to: starts, checks or stops the clock.
    fn watch<T>(&mut self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let deadline = Instant::now() + self.timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watch(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_silent_connection_is_held_by_less_than_two_kilobytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let bench = crate::tests::Bench::start().await;
        let service = TowerToHyperService::new(router(bench.state.clone()));
        let (_phase, seen) = watch::channel(Phase::Open);
        let bytes = size_of_val(&connection(stream, bench.state.clone(), service, seen));
        assert!(bytes < 2_048, "{bytes} bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = duplex(16);
        let mut taken = Taken::new(ours, Duration::from_secs(30));
        let reader = tokio::spawn(async move {
            let mut seen = 0;
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                seen += theirs.read(&mut [0; 16]).await.unwrap();
            }
            (seen, theirs)
        });
        // 20 seconds per 16 bytes is slow, but it is progress.
        taken.write_all(&[7; 80]).await.unwrap();
        let (seen, theirs) = reader.await.unwrap();
        assert_eq!(seen, 64);
        let begun = Instant::now();
        let error = taken.write_all(&[7; 80]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
        drop(theirs);
    }
}
