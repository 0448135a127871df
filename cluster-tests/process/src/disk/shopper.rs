//! Buyers who write down what they were promised, and the few requests the disk runs make.
//!
//! Every order is repeated under its key, on one node after the other, until it has a definite answer; an order nobody
//! answers for longer than [`PATIENCE`] is a finding of its own. All orders are for one unit of one SKU with stock enough
//! for everybody, so that what is reserved on a node, at an index past the last promise, is the number of promises.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::RwLock, task::JoinHandle};

use super::lab::{ADMIN_KEY, Lab, SHOP_KEY};

/// How long an order may go without a definite answer.
pub const PATIENCE: Duration = Duration::from_secs(60);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Units of the one SKU.
const UNITS: u64 = 1_000_000;
/// Orders of one batch.
const BATCH: usize = 100;
/// What went wrong with orders is kept for so many.
const TROUBLES_MAX: usize = 20;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Body, `Null` where it is no JSON.
    pub body: Value,
}

/// Sends one request; an error says that no whole answer came.
///
/// # Errors
/// See above.
pub async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
    timeout: Duration,
) -> Result<Reply, String> {
    match tokio::time::timeout(timeout, send_untimed(address, method, path, headers, body)).await {
        Ok(reply) => reply,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

async fn send_untimed(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Result<Reply, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    let driver = tokio::spawn(async move {
        // Its error shows in the request.
        let _ = connection.await;
    });
    let admin = path.starts_with("/api/v2/cluster") || path.starts_with("/metrics");
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .header("authorization", format!("Bearer {}", if admin { ADMIN_KEY } else { SHOP_KEY }));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let request = request.body(Full::new(bytes)).map_err(|error| text(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| text(&error));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            driver.abort();
            return Err(error);
        }
    };
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| text(&error));
    driver.abort();
    let body = body?.to_bytes();
    Ok(Reply { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

/// What was promised.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Order number by key; of a batch, by key and place.
    pub orders: BTreeMap<String, String>,
    /// The highest index of a promise.
    pub index: u64,
    /// Orders without a definite answer, and answers that no honest node gives.
    pub troubles: Vec<String>,
    /// Attempts that had to be repeated.
    pub repeated: u64,
}

/// Somebody who orders.
#[derive(Clone)]
pub struct Shopper {
    lab: Arc<Lab>,
    /// What was promised so far.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Held for reading by every order on its way; held for writing, nothing is on its way.
    pub gate: Arc<RwLock<()>>,
    sku: String,
    account: String,
}

impl Shopper {
    /// Opens a shop with one SKU and one customer.
    ///
    /// # Errors
    /// When the cluster does not take writes.
    pub async fn open(lab: Arc<Lab>) -> Result<Shopper, String> {
        let mut shopper =
            Shopper { lab, ledger: Arc::default(), gate: Arc::default(), sku: String::new(), account: String::new() };
        let sku = json!({"sku_code": "DISK", "name": "what the disks are asked for", "price": {"amount": 1, "currency": "CNY"}});
        shopper.sku = id_of(&shopper.write("/api/v2/skus", &sku).await?)?;
        let lines = json!({"lines": [{"sku_id": shopper.sku, "quantity": UNITS}], "reason": "delivery"});
        shopper.write("/api/v2/stock/receive", &lines).await?;
        let account = json!({"name": "buyer", "kind": "customer"});
        shopper.account = id_of(&shopper.write("/api/v2/accounts", &account).await?)?;
        Ok(shopper)
    }

    /// The SKU everybody orders.
    pub fn sku(&self) -> &str {
        &self.sku
    }

    /// The customer in whose name everybody orders.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// What was promised, looked at.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A write that must be accepted.
    ///
    /// # Errors
    /// When it is refused or stays without an answer.
    pub async fn write(&self, path: &str, body: &Value) -> Result<Value, String> {
        let (key, reply) = self.settle(0, path, body).await?;
        if (200..300).contains(&reply.status) {
            return Ok(reply.body);
        }
        Err(format!("{path} under {key}: {} {}", reply.status, reply.body))
    }

    /// Asks under a fresh key until the answer is definite.
    async fn settle(&self, first: usize, path: &str, body: &Value) -> Result<(String, Reply), String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = format!("disk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let deadline = Instant::now() + PATIENCE;
        let mut turn = first;
        loop {
            let nodes = self.lab.nodes();
            let address = self.lab.http(nodes[turn % nodes.len()]);
            let headers = [("idempotency-key", key.as_str())];
            let last = match send(&address, "POST", path, &headers, Some(body), ATTEMPT_TIMEOUT).await {
                Ok(reply) if is_definite(&reply) => return Ok((key, reply)),
                Ok(reply) => format!("{} {}", reply.status, reply.body),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(format!(
                    "{path} under {key} has no definite answer after {PATIENCE:?}; the last was {last}"
                ));
            }
            self.with_ledger(|ledger| ledger.repeated += 1);
            let round = (turn - first) / nodes.len();
            turn += 1;
            tokio::time::sleep(Duration::from_millis(5 << round.min(4))).await;
        }
    }

    async fn buy(&self, first: usize) {
        let _open = self.gate.read().await;
        let order = json!({"user_id": self.account, "items": [{"sku_id": self.sku, "quantity": 1}]});
        let settled = self.settle(first, "/api/v2/orders", &order).await;
        self.note(settled, |key, body| vec![(key.to_owned(), body.clone())]);
    }

    /// Orders by the hundred, to make the log grow by about so many bytes (an order of a batch takes some 700).
    pub async fn buy_many(&self, batches: usize) {
        for batch in 0..batches {
            let _open = self.gate.read().await;
            let order = json!({"user_id": self.account, "items": [{"sku_id": self.sku, "quantity": 1}]});
            let body = json!({"orders": vec![order; BATCH]});
            let settled = self.settle(batch, "/api/v2/orders/batch", &body).await;
            self.note(settled, |key, body| {
                let results = body["results"].as_array().into_iter().flatten().enumerate();
                results.map(|(place, result)| (format!("{key}#{place}"), result["order"].clone())).collect()
            });
        }
    }

    fn note(&self, settled: Result<(String, Reply), String>, orders: impl Fn(&str, &Value) -> Vec<(String, Value)>) {
        self.with_ledger(|ledger| {
            let trouble = match settled {
                Ok((key, reply)) if (200..300).contains(&reply.status) => {
                    ledger.index = ledger.index.max(reply.body["log_index"].as_u64().unwrap_or(0));
                    let mut trouble = None;
                    for (key, order) in orders(&key, &reply.body) {
                        match order["order_no"].as_str() {
                            Some(number) => drop(ledger.orders.insert(key, number.to_owned())),
                            None => trouble = Some(format!("{key} was answered without an order: {}", reply.body)),
                        }
                    }
                    trouble
                }
                Ok((key, reply)) => Some(format!("{key}: {} {}", reply.status, reply.body)),
                Err(error) => Some(error),
            };
            if let Some(trouble) = trouble.filter(|_| ledger.troubles.len() < TROUBLES_MAX) {
                ledger.troubles.push(trouble);
            }
        });
    }

    /// Lets buyers in, who order until they are sent home.
    pub fn crowd(&self, buyers: usize, pause: Duration) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let buyers = (0..buyers).map(|buyer| {
            let (shopper, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let mut turn = buyer;
                while !stop.load(Ordering::Relaxed) {
                    shopper.buy(turn).await;
                    turn += 1;
                    tokio::time::sleep(pause).await;
                }
            })
        });
        Crowd { stop: stop.clone(), buyers: buyers.collect() }
    }
}

/// Buyers at work.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    buyers: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Sends them home, each after its last order.
    pub async fn leave(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for buyer in std::mem::take(&mut self.buyers) {
            let _ = buyer.await;
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn id_of(body: &Value) -> Result<String, String> {
    body["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no id in {body}"))
}

/// Whether asking again can change nothing.
fn is_definite(reply: &Reply) -> bool {
    match reply.status {
        200..300 => true,
        409 => reply.body["code"] != "IDEMPOTENCY_IN_FLIGHT",
        408 | 425 | 429 => false,
        400..500 => true,
        _ => false,
    }
}
