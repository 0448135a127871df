//! A careful integrator's HTTP client.
//!
//! Every write carries an idempotency key. Every attempt ends as one of four verdicts: *yes* (2xx), *no* (a 4xx that a
//! decision or a check gave), *again* (nothing happened, and trying again may help) or *unknown* (the connection was
//! cut, the answer was 504, or it did not come in time). An unknown attempt is never called failed: it is repeated under
//! the same key, on another node, until it is a yes or a no. The promise that every 5xx says whether it was applied is
//! checked here, on every answer of every test.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long one attempt may take before its outcome is called unknown.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle connections kept per node and client.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Bytes of an answer read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Where the API lives.
pub const API: &str = "/api/v2";

/// A node's number and HTTP address (`127.0.0.1:8081`).
pub type Endpoint = (u64, String);

/// A key no other request of this test run uses.
pub fn fresh_key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("key-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Which bearer key a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// The shop's.
    Shop,
    /// The cluster administrator's.
    Admin,
    /// None.
    Nobody,
}

/// One request, to be sent once or many times.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    auth: Auth,
    timeout: Duration,
}

impl Call {
    /// Any request; `path` begins after `/api/v2` unless it is one of the probes.
    pub fn new(method: Method, path: &str) -> Call {
        let bare = ["/livez", "/readyz", "/healthz", "/metrics"].iter().any(|probe| path.starts_with(probe));
        let admin = path.starts_with("/cluster") || path.starts_with("/metrics");
        Call {
            method,
            path: if bare { path.to_owned() } else { format!("{API}{path}") },
            headers: Vec::new(),
            body: Bytes::new(),
            auth: if admin { Auth::Admin } else { Auth::Shop },
            timeout: ATTEMPT_TIMEOUT,
        }
    }

    /// A read.
    pub fn get(path: &str) -> Call {
        Call::new(Method::GET, path)
    }

    /// A write under a key of its own.
    pub fn post(path: &str, body: Value) -> Call {
        Call::post_with_key(path, &fresh_key(), body)
    }

    /// A write under this key.
    pub fn post_with_key(path: &str, key: &str, body: Value) -> Call {
        Call::new(Method::POST, path).header("idempotency-key", key).json(&body)
    }

    /// A change under a key of its own.
    pub fn patch(path: &str, version: u64, body: Value) -> Call {
        Call::new(Method::PATCH, path)
            .header("idempotency-key", &fresh_key())
            .header("if-match", &format!("\"v{version}\""))
            .json(&body)
    }

    /// A removal under a key of its own.
    pub fn delete(path: &str) -> Call {
        Call::new(Method::DELETE, path).header("idempotency-key", &fresh_key())
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a JSON body.
    pub fn json(self, body: &Value) -> Call {
        self.header("content-type", "application/json").bytes(body.to_string())
    }

    /// Sets the body as it is.
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }

    /// Shows another bearer key than the path suggests.
    pub fn auth(mut self, auth: Auth) -> Call {
        self.auth = auth;
        self
    }

    /// Reads at this level.
    pub fn consistency(self, level: &str) -> Call {
        self.header("consistency", level)
    }

    /// Reads at this index or later.
    pub fn min_index(self, index: u64) -> Call {
        self.header("min-index", &index.to_string())
    }

    /// Gives up an attempt after this long.
    pub fn timeout(mut self, timeout: Duration) -> Call {
        self.timeout = timeout;
        self
    }

    /// The idempotency key, if the request carries one.
    pub fn key(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == "idempotency-key").map(|(_, value)| value.as_str())
    }
}

/// What one attempt meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It happened.
    Yes,
    /// It did not happen and will not.
    No,
    /// It did not happen; asking again may help.
    Again,
    /// Nobody can say: only asking again under the same key can.
    Unknown,
}

/// A complete HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The node asked.
    pub node: u64,
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as sent.
    pub body: Bytes,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The problem's `code`, or nothing.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// `X-Log-Index`, or `log_index` of the body.
    pub fn index(&self) -> Option<u64> {
        let header = self.header("x-log-index").and_then(|text| text.parse().ok());
        header.or_else(|| self.json()["log_index"].as_u64())
    }

    /// Whether this is the stored answer of an earlier attempt.
    pub fn replayed(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails the test unless the status is as expected; returns the JSON.
    ///
    /// # Panics
    /// On another status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "node {} answered {} instead: {}", self.node, self.status, self.text());
        self.json()
    }

    /// Fails the test unless this is a problem with the status and code; returns the JSON.
    ///
    /// # Panics
    /// On another status or code, or a body that is no problem document.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(self.code(), code, "wrong code: {}", self.text());
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "content type of {status} {code} is {kind:?}");
        body
    }

    /// What this answer to a write means.
    ///
    /// # Panics
    /// When a 5xx does not say whether it was applied, or a 504 claims to know.
    #[track_caller]
    pub fn verdict(&self) -> Verdict {
        let code = self.code();
        let applied = &self.json()["applied"];
        match self.status {
            200..300 => Verdict::Yes,
            // The first request under the key is still on its way: its answer is the answer.
            409 if code == "IDEMPOTENCY_IN_FLIGHT" => Verdict::Unknown,
            408 | 425 | 429 => Verdict::Again,
            400..500 => Verdict::No,
            _ => {
                assert!(!code.is_empty(), "a {} without a code: {}", self.status, self.text());
                assert!(self.status != 504 || applied == "unknown", "a 504 that claims to know: {}", self.text());
                // 500 is for bugs: no honest load may see one.
                assert!(self.status != 500, "internal error: {}", self.text());
                match applied {
                    Value::Bool(false) => Verdict::Again,
                    Value::String(word) if word == "unknown" => Verdict::Unknown,
                    other => panic!("a {} that says applied: {other}: {}", self.status, self.text()),
                }
            }
        }
    }
}

/// How one attempt ended on the wire.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A complete answer.
    Answer(Answer),
    /// No byte of the request left.
    NotSent(String),
    /// The request may have arrived; no answer came.
    Lost(String),
}

impl Reply {
    /// What this attempt of a write means.
    #[track_caller]
    pub fn verdict(&self) -> Verdict {
        match self {
            Reply::Answer(answer) => answer.verdict(),
            Reply::NotSent(_) => Verdict::Again,
            Reply::Lost(_) => Verdict::Unknown,
        }
    }

    /// The answer.
    ///
    /// # Panics
    /// When there was none.
    #[track_caller]
    pub fn answer(self) -> Answer {
        match self {
            Reply::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// For messages and counts: `201`, `503 NO_QUORUM`, `lost`.
    pub fn label(&self) -> String {
        match self {
            Reply::Answer(answer) if answer.status < 300 => answer.status.to_string(),
            Reply::Answer(answer) => format!("{} {}", answer.status, answer.code()),
            Reply::NotSent(_) => "not sent".to_owned(),
            Reply::Lost(_) => "lost".to_owned(),
        }
    }
}

/// One attempt, as a history keeps it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The node asked.
    pub node: u64,
    /// When it was asked.
    pub invoked: Instant,
    /// When the answer, or the knowledge that none will come, was there.
    pub returned: Instant,
    /// How it ended.
    pub reply: Reply,
}

/// A write that was repeated under its key until it was a yes or a no, or time was up.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Its key.
    pub key: String,
    /// All attempts, in order.
    pub attempts: Vec<Attempt>,
    /// The last one's verdict.
    pub verdict: Verdict,
}

impl Settled {
    /// The last attempt's answer.
    ///
    /// # Panics
    /// When none came before the deadline.
    #[track_caller]
    pub fn answer(&self) -> &Answer {
        match self.attempts.last().map(|attempt| &attempt.reply) {
            Some(Reply::Answer(answer)) => answer,
            other => panic!("{} was not settled: {other:?}", self.key),
        }
    }

    /// When it was first asked.
    pub fn invoked(&self) -> Instant {
        self.attempts[0].invoked
    }

    /// When it was settled.
    pub fn returned(&self) -> Instant {
        self.attempts[self.attempts.len() - 1].returned
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// A client that knows all nodes. Clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Mutex<Vec<Endpoint>>,
    shop_key: String,
    admin_key: String,
    idle: Mutex<HashMap<u64, Vec<Connection>>>,
}

impl Client {
    /// A client with connections of its own.
    pub fn new(endpoints: Vec<Endpoint>, shop_key: &str, admin_key: &str) -> Client {
        Client {
            shared: Arc::new(Shared {
                endpoints: Mutex::new(endpoints),
                shop_key: shop_key.to_owned(),
                admin_key: admin_key.to_owned(),
                idle: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// The nodes this client asks, in order.
    pub fn nodes(&self) -> Vec<u64> {
        self.shared.endpoints.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }

    /// Adds a node, or replaces the list.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        *self.shared.endpoints.lock().unwrap() = endpoints;
    }

    /// Sends a request to one node, once.
    pub async fn send(&self, node: u64, call: &Call) -> Reply {
        match tokio::time::timeout(call.timeout, self.send_untimed(node, call)).await {
            Ok(reply) => reply,
            Err(_) => Reply::Lost(format!("no answer within {:?}", call.timeout)),
        }
    }

    /// Sends a request that must be answered.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn ask(&self, node: u64, call: &Call) -> Answer {
        match self.send(node, call).await {
            Reply::Answer(answer) => answer,
            other => panic!("node {node} did not answer {} {}: {other:?}", call.method, call.path),
        }
    }

    /// Sends a write and repeats it under the same key, starting at the `first`-th node and going round, until it is a
    /// yes or a no, or `patience` is over.
    pub async fn settle(&self, first: usize, call: &Call, patience: Duration) -> Settled {
        let key = call.key().expect("only a request with a key can be repeated").to_owned();
        let deadline = Instant::now() + patience;
        let mut attempts = Vec::new();
        loop {
            let nodes = self.nodes();
            let node = nodes[(first + attempts.len()) % nodes.len()];
            let invoked = Instant::now();
            let reply = self.send(node, call).await;
            let verdict = reply.verdict();
            attempts.push(Attempt { node, invoked, returned: Instant::now(), reply });
            if matches!(verdict, Verdict::Yes | Verdict::No) || Instant::now() > deadline {
                return Settled { key, attempts, verdict };
            }
            // A node that is down refuses at once: do not spin on it.
            let round = attempts.len() / nodes.len();
            tokio::time::sleep(Duration::from_millis((10 << round.min(4)) as u64)).await;
        }
    }

    /// Settles a write that must be a yes with this status, and returns its body.
    ///
    /// # Panics
    /// When it is anything else.
    pub async fn must(&self, first: usize, call: &Call, status: u16) -> Value {
        let settled = self.settle(first, call, Duration::from_secs(60)).await;
        settled.answer().expect(status)
    }

    async fn send_untimed(&self, node: u64, call: &Call) -> Reply {
        let address = {
            let endpoints = self.shared.endpoints.lock().unwrap();
            endpoints.iter().find(|(id, _)| *id == node).map(|(_, address)| address.clone())
        };
        let Some(address) = address else { return Reply::NotSent(format!("no endpoint for node {node}")) };
        let mut request = match self.request(&address, call) {
            Ok(request) => request,
            Err(error) => panic!("{} {} is no request: {error}", call.method, call.path),
        };
        loop {
            let pooled = self.shared.idle.lock().unwrap().get_mut(&node).and_then(Vec::pop);
            let reused = pooled.is_some();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => match connect(&address).await {
                    Ok(connection) => connection,
                    Err(error) => return Reply::NotSent(error),
                },
            };
            if let Err(error) = connection.ready().await {
                if reused {
                    continue;
                }
                return Reply::NotSent(error.to_string());
            }
            match connection.try_send_request(request).await {
                Ok(response) => return self.read(node, response, connection).await,
                Err(mut error) => match error.take_message() {
                    // The kept connection was closed before the request went out.
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Reply::NotSent(error.into_error().to_string()),
                    None => return Reply::Lost(error.into_error().to_string()),
                },
            }
        }
    }

    async fn read(&self, node: u64, response: http::Response<hyper::body::Incoming>, connection: Connection) -> Reply {
        let (head, body) = response.into_parts();
        let body = match http_body_util::Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Reply::Lost(error.to_string()),
        };
        let mut idle = self.shared.idle.lock().unwrap();
        let kept = idle.entry(node).or_default();
        if kept.len() < IDLE_CONNECTIONS_MAX {
            kept.push(connection);
        }
        Reply::Answer(Answer { node, status: head.status.as_u16(), headers: head.headers, body })
    }

    fn request(&self, address: &str, call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(call.method.clone()).uri(&call.path).header("host", address);
        let bearer = match call.auth {
            Auth::Shop => Some(&self.shared.shop_key),
            Auth::Admin => Some(&self.shared.admin_key),
            Auth::Nobody => None,
        };
        if let Some(key) = bearer {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(call.body.clone()))
    }
}

async fn connect(address: &str) -> Result<Connection, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // An error here shows in the request that was on its way.
        let _ = connection.await;
    });
    Ok(sender)
}
