//! A small HTTP client for the commands: one connection, kept alive, to whichever node answers.
//!
//! Every request it sends may be repeated: reads change nothing, writes carry an idempotency key, and membership changes
//! are safe to repeat. So it tries the next node, under the same key, after a broken connection and after every answer
//! 502 to 504, until its deadline: what a careful client of the shop does, too.

use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    cli::Access,
    config::{Address, Config},
};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest wait for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for one attempt's answer; a node that hangs must not use up the whole deadline.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// Endpoints one command may name.
const ENDPOINTS_MAX: usize = 64;

/// What a node answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON, or the text as a JSON string; `Null` if empty.
    pub body: Value,
    /// The body as it came.
    pub raw: Bytes,
}

impl Answer {
    /// The answer if it is a 2xx; otherwise an error that says what the node said.
    pub fn success(self) -> anyhow::Result<Answer> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        Err(anyhow!(self.complaint()))
    }

    /// `409 WOULD_LOSE_QUORUM: 1 of 2 voters …`.
    pub fn complaint(&self) -> String {
        let text = |key: &str| self.body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let code = text("code").map(|code| format!(" {code}")).unwrap_or_default();
        let detail =
            text("detail").or_else(|| text("title")).or_else(|| self.body.as_str()).unwrap_or("no explanation");
        let trace = text("trace_id").map(|trace| format!(" (trace {trace})")).unwrap_or_default();
        format!("{}{code}: {detail}{trace}", self.status)
    }
}

/// One client, for one task at a time.
pub struct Client {
    endpoints: Vec<Address>,
    authorization: Option<String>,
    open: Mutex<Open>,
    deadline: Duration,
    attempt_timeout: Duration,
}

/// The endpoint in use and the connection to it.
struct Open {
    at: usize,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Asks `endpoints`, the first one first. `key` is sent as bearer key. A request with its repetitions takes at most
    /// `deadline`.
    pub fn new(endpoints: Vec<Address>, key: Option<&str>, deadline: Duration) -> anyhow::Result<Client> {
        ensure!(!endpoints.is_empty(), "no node to ask: give --endpoints host:port or --config n1.toml");
        ensure!(endpoints.len() <= ENDPOINTS_MAX, "{} endpoints: give at most {ENDPOINTS_MAX}", endpoints.len());
        Ok(Client {
            endpoints,
            authorization: key.map(|key| format!("Bearer {key}")),
            open: Mutex::new(Open { at: 0, connection: None }),
            deadline,
            attempt_timeout: ATTEMPT_TIMEOUT,
        })
    }

    /// Lets one attempt take all the time there is: for work that is long, and that a second node must not begin as well.
    pub fn patient(mut self) -> Client {
        self.attempt_timeout = self.deadline;
        self
    }

    /// Sends one request, with repetitions, and returns the last answer. `key` is the idempotency key of a write.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let deadline = Instant::now() + self.deadline;
        let body = body.map(Value::to_string).map_or_else(Bytes::new, Bytes::from);
        let mut open = self.open.lock().await;
        loop {
            let limit = deadline.min(Instant::now() + self.attempt_timeout);
            let attempt = self.attempt(&mut open, &method, path, key, body.clone(), limit).await;
            let answer = match attempt {
                Ok(answer) if !(502..=504).contains(&answer.status) => return Ok(answer),
                other => other,
            };
            // The next node may know better; the same one may when it has found a leader.
            open.connection = None;
            open.at = (open.at + 1) % self.endpoints.len();
            if Instant::now() + PAUSE >= deadline {
                return answer.with_context(|| format!("none of {} nodes answered", self.endpoints.len()));
            }
            sleep(PAUSE).await;
        }
    }

    /// `GET path`, which must succeed.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, None, None).await?.success()
    }

    /// `POST path`, which must succeed.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, Some(key), Some(body)).await?.success()
    }

    async fn attempt(
        &self,
        open: &mut Open,
        method: &Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
        limit: Instant,
    ) -> anyhow::Result<Answer> {
        let endpoint = &self.endpoints[open.at];
        if open.connection.as_ref().is_none_or(SendRequest::is_closed) {
            open.connection = Some(connect(endpoint, limit).await?);
        }
        let Some(connection) = open.connection.as_mut() else { bail!("{endpoint}: no connection") };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, endpoint.to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).context("request")?;
        let exchange = async {
            connection.ready().await?;
            let response = connection.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| anyhow!(error))?.to_bytes();
            anyhow::Ok((head, body))
        };
        let (head, body) = timeout_at(limit, exchange)
            .await
            .with_context(|| format!("{endpoint}: no answer in time"))?
            .with_context(|| format!("{endpoint}: connection lost"))?;
        let value = match serde_json::from_slice(&body) {
            Ok(value) => value,
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(&body).into_owned()),
        };
        Ok(Answer { status: head.status.as_u16(), body: value, raw: body })
    }
}

async fn connect(endpoint: &Address, limit: Instant) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let limit = limit.min(Instant::now() + CONNECT_TIMEOUT);
    let stream = timeout_at(limit, TcpStream::connect(endpoint.to_string()))
        .await
        .with_context(|| format!("{endpoint}: does not accept a connection in time"))?
        .with_context(|| format!("{endpoint}: cannot connect"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself when the sender is dropped or the node closes; its error reaches the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// Reads an endpoint: `host:port`, or the same as a URL.
pub fn endpoint(text: &str) -> anyhow::Result<Address> {
    let bare = text.trim().trim_end_matches('/');
    ensure!(!bare.starts_with("https://"), "{text}: nodes speak plain HTTP; give http://host:port");
    let bare = bare.strip_prefix("http://").unwrap_or(bare);
    bare.parse().with_context(|| format!("endpoint {text:?}"))
}

/// Which key a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// Cluster administration.
    Admin,
    /// The shop.
    Shop,
}

/// Nodes and bearer key from options, environment and configuration, in this order.
pub fn resolve(
    access: &Access,
    given: Option<&str>,
    key_of: KeyOf,
    env: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<(Vec<Address>, String)> {
    let config = access.config.as_deref().map(Config::load).transpose()?;
    let variable = env("AGORA_ENDPOINTS").filter(|list| !list.trim().is_empty());
    let endpoints = match (&config, variable) {
        _ if !access.endpoints.is_empty() => {
            access.endpoints.iter().map(|text| endpoint(text)).collect::<Result<_, _>>()?
        }
        (_, Some(list)) => list.split(',').map(endpoint).collect::<Result<_, _>>()?,
        (Some(config), None) => from_config(config),
        (None, None) => bail!("no node to ask: give --endpoints host:port, --config n1.toml or AGORA_ENDPOINTS"),
    };
    let (option, variable) = match key_of {
        KeyOf::Admin => ("--admin-key", "AGORA_ADMIN_KEY"),
        KeyOf::Shop => ("--shop-key", "AGORA_SHOP_KEY"),
    };
    let from_config = config.as_ref().map(|config| match key_of {
        KeyOf::Admin => config.admin_key.reveal().to_owned(),
        KeyOf::Shop => config.shop_key.reveal().to_owned(),
    });
    let key = given.map(str::to_owned).or_else(|| env(variable)).or(from_config);
    let key = key.with_context(|| format!("no key: give {option}, --config n1.toml or {variable}"))?;
    Ok((endpoints, key))
}

/// The node the file belongs to first, then the others.
fn from_config(config: &Config) -> Vec<Address> {
    let others = config.members.iter().filter(|member| member.id != config.node_id).map(|member| member.http.clone());
    std::iter::once(config.http.advertise.clone()).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A node that answers every request on every connection with `status`, until it is dropped.
    async fn node(status: &'static str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0_u8; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 8\r\n\r\n{{\"a\": 1}}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn the_next_node_is_asked_after_a_retryable_answer_and_a_refused_connection() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string().parse().unwrap();
        let endpoints = vec![gone, node("503 Service Unavailable").await, node("201 Created").await];
        let client = Client::new(endpoints.clone(), Some("key"), Duration::from_secs(5)).unwrap();
        for _ in 0..2 {
            assert_eq!(client.post("/x", "k", &Value::Null).await.unwrap().body["a"], 1);
        }
        let client = Client::new(endpoints[..2].to_vec(), None, Duration::from_millis(300)).unwrap();
        let failed = client.get("/x").await.unwrap_err().to_string();
        assert!(failed.starts_with("503") || failed == "none of 2 nodes answered", "{failed}");
    }

    #[tokio::test]
    async fn long_work_is_asked_of_one_node_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0_u8; 4096]).await.unwrap();
            sleep(Duration::from_millis(200)).await;
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            std::future::pending::<()>().await;
        });
        let mut client = Client::new(vec![endpoint], None, Duration::from_secs(10)).unwrap();
        client.attempt_timeout = Duration::from_millis(20);
        let client = client.patient();
        assert_eq!(client.post("/x", "k", &Value::Null).await.unwrap().status, 201);
    }

    #[test]
    fn endpoints_may_be_written_as_urls() {
        for text in ["127.0.0.1:8081", "http://127.0.0.1:8081", "http://127.0.0.1:8081/"] {
            assert_eq!(endpoint(text).unwrap().to_string(), "127.0.0.1:8081");
        }
        assert!(endpoint("https://a:1").unwrap_err().to_string().contains("plain HTTP"));
        assert!(endpoint("nonsense").is_err());
    }

    #[test]
    fn options_win_over_the_environment() {
        let env = |name: &str| match name {
            "AGORA_ENDPOINTS" => Some("a:1, b:2".to_owned()),
            "AGORA_ADMIN_KEY" => Some("from-env".to_owned()),
            _ => None,
        };
        let mut access = Access::default();
        let (endpoints, key) = resolve(&access, None, KeyOf::Admin, &env).unwrap();
        assert_eq!((endpoints.len(), endpoints[1].to_string().as_str(), key.as_str()), (2, "b:2", "from-env"));
        access.endpoints = vec!["c:3".to_owned()];
        let (endpoints, key) = resolve(&access, Some("given"), KeyOf::Admin, &env).unwrap();
        assert_eq!((endpoints[0].to_string().as_str(), key.as_str()), ("c:3", "given"));
        let error = resolve(&access, None, KeyOf::Shop, &env).unwrap_err();
        assert_eq!(error.to_string(), "no key: give --shop-key, --config n1.toml or AGORA_SHOP_KEY");
    }

    #[test]
    fn a_problem_becomes_one_line() {
        let body = serde_json::json!({"code": "WOULD_LOSE_QUORUM", "detail": "1 of 2 voters", "trace_id": "ab"});
        let answer = Answer { status: 409, body, raw: Bytes::new() };
        assert_eq!(answer.complaint(), "409 WOULD_LOSE_QUORUM: 1 of 2 voters (trace ab)");
        assert!(answer.success().is_err());
    }
}
