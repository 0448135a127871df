//! One connection to a node: a request out, an answer in.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::response::{self, ANSWER_BYTES_MAX, Head};
use crate::config::Address;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where connections come from: TCP, or something else in tests.
pub trait Dial: 'static {
    /// What is read from and written to.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;
    /// How many nodes there are.
    fn nodes(&self) -> usize;
    /// The name of one, for messages.
    fn name(&self, node: usize) -> String;
    /// Connects to one.
    fn dial(&self, node: usize) -> impl Future<Output = Result<Self::Stream, String>>;
}

/// The nodes of a cluster.
pub struct Tcp(pub Vec<Address>);

impl Dial for Tcp {
    type Stream = TcpStream;

    fn nodes(&self) -> usize {
        self.0.len()
    }

    fn name(&self, node: usize) -> String {
        self.0[node].to_string()
    }

    async fn dial(&self, node: usize) -> Result<TcpStream, String> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.0[node].to_string()))
            .await
            .map_err(|_| "does not accept a connection in time".to_owned())?
            .map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(stream)
    }
}

/// An open connection.
pub struct Connection<S> {
    stream: S,
    /// What was read and not yet used.
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Nothing sent yet.
    pub fn new(stream: S) -> Connection<S> {
        Connection { stream, buffer: Vec::with_capacity(4096) }
    }

    /// Sends a request and reads until its answer is complete at the start of the buffer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Head, String> {
        self.stream.write_all(request).await.map_err(|error| format!("cannot send: {error}"))?;
        let mut head = None;
        loop {
            if head.is_none() {
                head =
                    response::head(&self.buffer).map_err(|malformed| format!("malformed answer: {}", malformed.0))?;
            }
            if let Some(head) = head.filter(|head| self.buffer.len() >= head.end()) {
                return Ok(head);
            }
            if self.buffer.len() > ANSWER_BYTES_MAX + response::HEAD_BYTES_MAX {
                return Err("answer too long".to_owned());
            }
            let read = self.stream.read_buf(&mut self.buffer).await.map_err(|error| format!("cannot read: {error}"))?;
            if read == 0 {
                return Err("connection closed before the answer".to_owned());
            }
        }
    }

    /// The body of the answer.
    pub fn body(&self, head: &Head) -> &[u8] {
        &self.buffer[head.body_at..head.end()]
    }

    /// The answer was used.
    pub fn done(&mut self, head: &Head) {
        self.buffer.drain(..head.end());
    }
}
