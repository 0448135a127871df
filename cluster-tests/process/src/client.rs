//! HTTP from the clients' machine: few kept connections per node, and the difference between a request that was never
//! sent and one whose answer was lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use agora_history::NodeId;
use agora_scenario::cluster::{HttpRequest, HttpResponse, SendError};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use crate::config;

/// Connections to one node at once.
const CONNECTIONS_MAX: usize = 256;
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

type Connection = SendRequest<Full<Bytes>>;

/// Connections to all nodes.
#[derive(Default)]
pub struct Clients {
    lines: Mutex<BTreeMap<NodeId, Arc<Line>>>,
}

struct Line {
    address: String,
    free: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Clients {
    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> Result<HttpResponse, SendError> {
        let line = self.line(node);
        let until = Instant::now() + deadline;
        let mut request = line.request(request).map_err(|error| SendError::NotSent(error.to_string()))?;
        let late = |what: &str| SendError::NotSent(format!("no {what} by the deadline"));
        let _permit: SemaphorePermit<'_> = match timeout_at(until, line.free.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(late("free connection")),
        };
        loop {
            let kept = line.idle.lock().unwrap().pop();
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => timeout_at(until, connect(&line.address))
                    .await
                    .map_err(|_| late("connection"))?
                    .map_err(SendError::NotSent)?,
            };
            match timeout_at(until, connection.ready()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) if reused => continue,
                Ok(Err(error)) => return Err(SendError::NotSent(error.to_string())),
                Err(_) => return Err(late("ready connection")),
            }
            let answer = match timeout_at(until, connection.try_send_request(request)).await {
                Err(_) => return Err(SendError::TimedOut),
                Ok(Ok(answer)) => answer,
                Ok(Err(mut error)) => match error.take_message() {
                    // The kept connection was closed before anything of the request went out.
                    Some(unsent) if reused => {
                        request = unsent;
                        continue;
                    }
                    Some(_) => return Err(SendError::NotSent(error.into_error().to_string())),
                    None => return Err(SendError::Lost(error.into_error().to_string())),
                },
            };
            let (head, body) = answer.into_parts();
            let body = match timeout_at(until, Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
                Err(_) => return Err(SendError::TimedOut),
                Ok(Err(error)) => return Err(SendError::Lost(error.to_string())),
                Ok(Ok(body)) => body.to_bytes(),
            };
            line.idle.lock().unwrap().push(connection);
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            return Ok(HttpResponse { status: head.status.as_u16(), headers, body });
        }
    }

    /// Forgets kept connections to a node.
    pub fn forget(&self, node: NodeId) {
        self.lines.lock().unwrap().remove(&node);
    }

    fn line(&self, node: NodeId) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap();
        let make = || {
            let (_, address) = config::addresses(node);
            Arc::new(Line { address, free: Semaphore::new(CONNECTIONS_MAX), idle: Mutex::default() })
        };
        lines.entry(node).or_insert_with(make).clone()
    }
}

impl Line {
    fn request(&self, request: HttpRequest) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut built = Request::builder().method(request.method).uri(request.path).header("host", &self.address);
        for (name, value) in request.headers {
            built = built.header(name, value);
        }
        built.body(Full::new(request.body))
    }
}

async fn connect(address: &str) -> Result<Connection, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // An error here shows in the request that was on its way.
        let _ = connection.await;
    });
    Ok(sender)
}
