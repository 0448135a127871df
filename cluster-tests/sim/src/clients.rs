//! HTTP from the clients' machine, over kept connections.

use std::{collections::BTreeMap, time::Duration};

use agora_history::NodeId;
use agora_scenario::cluster::{HttpRequest, HttpResponse, SendError};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use crate::{
    machine::{HTTP_PORT, http_addr},
    stream::Stream,
    wires::{Place, Wires},
};

/// Idle connections kept to one node.
const IDLE_MAX: usize = 64;
/// Connections of a flood.
const RAW_MAX: u32 = 1_000;
/// How long one of a flood may take to open.
const RAW_TIMEOUT: Duration = Duration::from_secs(3);

type Connection = SendRequest<Full<Bytes>>;

/// All clients' connections.
pub struct Clients {
    wires: Wires,
    idle: Mutex<BTreeMap<NodeId, Vec<Connection>>>,
}

impl Clients {
    /// None yet.
    pub fn new(wires: Wires) -> Clients {
        Clients { wires, idle: Mutex::default() }
    }

    /// One request to one node.
    ///
    /// # Errors
    /// No whole answer in time.
    pub async fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> Result<HttpResponse, SendError> {
        let until = tokio::time::Instant::now() + deadline;
        let connecting = tokio::time::timeout_at(until, self.connection(node));
        let mut connection = match connecting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(SendError::NotSent(error)),
            Err(_) => return Err(SendError::NotSent("no connection by the deadline".to_owned())),
        };
        let mut head = http::Request::builder()
            .method(request.method)
            .uri(request.path)
            .header(http::header::HOST, http_addr(node));
        for (name, value) in &request.headers {
            head = head.header(name, value);
        }
        let whole = head.body(Full::new(request.body)).map_err(|error| SendError::NotSent(error.to_string()))?;
        let talking = async {
            let response = connection.send_request(whole).await?;
            let (head, body) = response.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        let answered = tokio::time::timeout_at(until, talking).await;
        let (head, body) = match answered {
            Ok(Ok(answer)) => answer,
            // It was not taken off our hands.
            Ok(Err(error)) if error.is_canceled() => return Err(SendError::NotSent(error.to_string())),
            Ok(Err(error)) => return Err(SendError::Lost(error.to_string())),
            Err(_) => return Err(SendError::TimedOut),
        };
        self.keep(node, connection);
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Ok(HttpResponse { status: head.status.as_u16(), headers, body })
    }

    async fn connection(&self, node: NodeId) -> Result<Connection, String> {
        loop {
            let kept = self.idle.lock().get_mut(&node).and_then(Vec::pop);
            let Some(mut kept) = kept else { break };
            if kept.ready().await.is_ok() {
                return Ok(kept);
            }
        }
        let stream = Stream::connect(&self.wires, Place::Clients, Place::Node(node), HTTP_PORT)
            .await
            .map_err(|error| error.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Opens so many connections to a port, says the same on each, and holds them.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn raw(&self, node: NodeId, port: u16, count: u32, bytes: &[u8], hold: Duration) -> Result<(), String> {
        let mut held = Vec::new();
        for _ in 0..count.min(RAW_MAX) {
            let connecting = Stream::connect(&self.wires, Place::Clients, Place::Node(node), port);
            let mut stream = tokio::time::timeout(RAW_TIMEOUT, connecting)
                .await
                .map_err(|_| "no connection in time".to_owned())?
                .map_err(|error| error.to_string())?;
            // What is written to somebody who hangs up is lost, which is fine here.
            let _ = stream.write_all(bytes).await;
            held.push(stream);
        }
        tokio::spawn(async move {
            tokio::time::sleep(hold).await;
            drop(held);
        });
        Ok(())
    }

    fn keep(&self, node: NodeId, connection: Connection) {
        let mut idle = self.idle.lock();
        let kept = idle.entry(node).or_default();
        if kept.len() < IDLE_MAX && !connection.is_closed() {
            kept.push(connection);
        }
    }
}
