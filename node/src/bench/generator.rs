//! The load: connections that order, wait for the answer, and order again.
//!
//! It runs on one thread and writes its requests as bytes: what it spends, the nodes on the same machine do not have. A
//! request is built from a head that never changes, a key that is new for every order, and a body of one to a few lines.
//! A connection that breaks is an error, and the next one goes to the next node.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    histogram::Histogram,
    response::{self, ANSWER_BYTES_MAX, Head},
};
use crate::{cli::Distribution, config::Address};

/// Longest wait for an answer: longer than a node's own deadline, so that it is the node that answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after an error, so that a node that is down is not asked ten thousand times a second.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// What to order, and where.
pub struct Target {
    /// The nodes; connection `n` begins with node `n mod nodes`.
    pub endpoints: Vec<Address>,
    /// Bearer key of the shop.
    pub shop_key: String,
    /// SKU ids; the first one is the hot one.
    pub skus: Vec<String>,
    /// Customers.
    pub accounts: Vec<String>,
    /// Which SKUs orders name.
    pub distribution: Distribution,
    /// Orders per request.
    pub batch: usize,
    /// Most lines per order.
    pub lines: usize,
    /// Beginning of every idempotency key, new for every run.
    pub run: String,
}

/// What was counted while measuring.
#[derive(Default)]
pub struct Tally {
    /// Orders placed.
    pub accepted: u64,
    /// Orders refused for want of stock.
    pub refused: u64,
    /// Requests that got no answer, or another one than these.
    pub errors: u64,
    /// The first error, in words.
    pub first_error: Option<String>,
    /// From the first byte of a request to the last of its answer.
    pub latency: Histogram,
}

/// What all connections share. They live on one thread.
pub struct Shared {
    target: Target,
    measuring: Cell<bool>,
    stopped: Cell<bool>,
    /// Orders that may still be sent.
    left: Cell<u64>,
    /// Connections that have not ended.
    live: Cell<usize>,
    tally: RefCell<Tally>,
}

impl Shared {
    /// Nothing sent yet; at most `orders` will be.
    pub fn new(target: Target, orders: u64) -> Rc<Shared> {
        Rc::new(Shared {
            target,
            measuring: Cell::new(false),
            stopped: Cell::new(false),
            left: Cell::new(orders),
            live: Cell::new(0),
            tally: RefCell::default(),
        })
    }

    /// Starts or ends counting.
    pub fn measure(&self, on: bool) {
        self.measuring.set(on);
    }

    /// Lets every connection end after the answer it waits for.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Whether all connections have ended.
    pub fn is_done(&self) -> bool {
        self.live.get() == 0
    }

    /// Looks at what was counted.
    pub fn tally<T>(&self, look: impl FnOnce(&Tally) -> T) -> T {
        look(&self.tally.borrow())
    }

    /// Takes the orders of one request from what is left. 0: none is left.
    fn take(&self) -> usize {
        let count = self.left.get().min(self.target.batch as u64);
        self.left.set(self.left.get() - count);
        count as usize
    }

    fn count(&self, status: u16, body: &[u8], orders: usize, took: Duration) {
        if !self.measuring.get() {
            return;
        }
        let mut tally = self.tally.borrow_mut();
        match status {
            200 | 201 if self.target.batch > 1 => {
                let accepted = response::count(body, b"\"status\":201");
                let refused = response::count(body, b"\"status\":409");
                tally.accepted += accepted;
                tally.refused += refused;
                let lost = (orders as u64).saturating_sub(accepted + refused);
                tally.errors += lost;
                if lost > 0 {
                    note(&mut tally, status, body);
                }
            }
            201 => tally.accepted += 1,
            409 if response::count(body, b"INVENTORY_SHORTAGE") > 0 => tally.refused += 1,
            _ => {
                tally.errors += 1;
                note(&mut tally, status, body);
                return;
            }
        }
        tally.latency.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn fail(&self, error: &str) {
        if self.measuring.get() {
            let mut tally = self.tally.borrow_mut();
            tally.errors += 1;
            tally.first_error.get_or_insert_with(|| error.to_owned());
        }
    }
}

fn note(tally: &mut Tally, status: u16, body: &[u8]) {
    /// Bytes of an answer that are shown.
    const SHOWN_BYTES_MAX: usize = 400;
    let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
    tally.first_error.get_or_insert_with(|| format!("{status}: {}", String::from_utf8_lossy(shown)));
}

/// Starts `connections` tasks on the current `LocalSet`.
pub fn start(shared: &Rc<Shared>, connections: usize, seed: u64) {
    shared.live.set(connections);
    for number in 0..connections {
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            run(&shared, number, Dice::new(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))).await;
            shared.live.set(shared.live.get() - 1);
        });
    }
}

async fn run(shared: &Shared, number: usize, mut dice: Dice) {
    let mut at = number % shared.target.endpoints.len();
    let mut writer = Writer::new(&shared.target, number);
    let mut connection = None;
    while !shared.stopped.get() {
        let orders = shared.take();
        if orders == 0 {
            return;
        }
        if let Err(error) =
            exchange(shared, &mut connection, at, writer.request(&shared.target, at, orders, &mut dice), orders).await
        {
            shared.fail(&format!("{}: {error}", shared.target.endpoints[at]));
            connection = None;
            at = (at + 1) % shared.target.endpoints.len();
            sleep(ERROR_PAUSE).await;
        }
    }
}

/// Sends one request and counts its answer. An error means that the connection is of no more use.
async fn exchange(
    shared: &Shared,
    connection: &mut Option<Connection>,
    at: usize,
    request: &[u8],
    orders: usize,
) -> Result<(), String> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(&shared.target.endpoints[at]).await?),
    };
    let started = Instant::now();
    let head = timeout(ANSWER_TIMEOUT, open.ask(request)).await.map_err(|_| "no answer in time".to_owned())??;
    shared.count(head.status, &open.buffer[head.body_at..head.end()], orders, started.elapsed());
    open.buffer.drain(..head.end());
    if head.close {
        *connection = None;
    }
    if matches!(head.status, 429 | 500..) {
        sleep(ERROR_PAUSE).await;
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// What was read and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(endpoint: &Address) -> Result<Connection, String> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint.to_string()))
            .await
            .map_err(|_| "does not accept a connection in time".to_owned())?
            .map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads until its answer is complete at the start of the buffer.
    async fn ask(&mut self, request: &[u8]) -> Result<Head, String> {
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
}

/// Builds requests in one buffer.
struct Writer {
    /// Everything up to the key, per endpoint.
    heads: Vec<Vec<u8>>,
    connection: usize,
    sequence: u64,
    body: Vec<u8>,
    request: Vec<u8>,
}

impl Writer {
    fn new(target: &Target, connection: usize) -> Writer {
        let path = if target.batch > 1 { "/api/v2/orders/batch" } else { "/api/v2/orders" };
        let heads = target.endpoints.iter().map(|endpoint| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: {endpoint}\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nIdempotency-Key: {}-{connection}-",
                target.shop_key, target.run
            )
            .into_bytes()
        });
        Writer { heads: heads.collect(), connection, sequence: 0, body: Vec::new(), request: Vec::new() }
    }

    /// A request for that many orders, under a new key.
    fn request(&mut self, target: &Target, at: usize, orders: usize, dice: &mut Dice) -> &[u8] {
        self.sequence += 1;
        self.body.clear();
        if target.batch > 1 {
            self.body.extend_from_slice(b"{\"orders\":[");
            for number in 0..orders {
                if number > 0 {
                    self.body.push(b',');
                }
                order(&mut self.body, target, self.connection, dice);
            }
            self.body.extend_from_slice(b"]}");
        } else {
            order(&mut self.body, target, self.connection, dice);
        }
        self.request.clear();
        self.request.extend_from_slice(&self.heads[at]);
        decimal(&mut self.request, self.sequence);
        self.request.extend_from_slice(b"\r\nContent-Length: ");
        decimal(&mut self.request, self.body.len() as u64);
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(&self.body);
        &self.request
    }
}

/// One order of one to `lines` single units, no SKU twice in a row.
fn order(out: &mut Vec<u8>, target: &Target, connection: usize, dice: &mut Dice) {
    let account = &target.accounts[(connection + dice.below(target.accounts.len())) % target.accounts.len()];
    out.extend_from_slice(b"{\"user_id\":\"");
    out.extend_from_slice(account.as_bytes());
    out.extend_from_slice(b"\",\"items\":[");
    let lines = 1 + dice.below(target.lines);
    let mut last = usize::MAX;
    for line in 0..lines {
        let mut sku = pick(target, line == 0, dice);
        if sku == last {
            sku = (sku + 1) % target.skus.len();
        }
        last = sku;
        if line > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"sku_id\":\"");
        out.extend_from_slice(target.skus[sku].as_bytes());
        out.extend_from_slice(b"\",\"quantity\":1}");
    }
    out.extend_from_slice(b"]}");
}

/// The place of a SKU. The hot one is in nine of ten orders, in their first line; all else is even.
fn pick(target: &Target, first_line: bool, dice: &mut Dice) -> usize {
    match target.distribution {
        Distribution::Uniform => dice.below(target.skus.len()),
        Distribution::Hot if first_line && dice.below(10) < 9 => 0,
        Distribution::Hot => 1 + dice.below(target.skus.len() - 1),
    }
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// SplitMix64 (Steele, Lea, Flood 2014): good enough to choose goods, and three instructions.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// From 0 to `bound` - 1, all alike; `bound` must not be 0.
    fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing is below 0");
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(distribution: Distribution, batch: usize) -> Target {
        Target {
            endpoints: vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()],
            shop_key: "key".to_owned(),
            skus: (0..1_000).map(|number| format!("sku_{number}")).collect(),
            accounts: vec!["acc_1".to_owned()],
            distribution,
            batch,
            lines: 3,
            run: "r".to_owned(),
        }
    }

    #[test]
    fn a_request_is_what_a_client_would_send() {
        let mut target = target(Distribution::Hot, 1);
        target.lines = 1;
        let mut writer = Writer::new(&target, 7);
        let mut dice = Dice::new(1);
        let text = String::from_utf8(writer.request(&target, 1, 1, &mut dice).to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /api/v2/orders HTTP/1.1\r\nHost: 127.0.0.1:2\r\nAuthorization: Bearer key\r\n"),
            "{head}"
        );
        assert!(head.ends_with(&format!("Idempotency-Key: r-7-1\r\nContent-Length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["user_id"], "acc_1");
        assert_eq!(body["items"][0]["quantity"], 1);
        let next = String::from_utf8(writer.request(&target, 0, 1, &mut dice).to_vec()).unwrap();
        assert!(next.contains("Idempotency-Key: r-7-2\r\n"));
    }

    #[test]
    fn a_batch_holds_as_many_orders_as_asked() {
        let target = target(Distribution::Uniform, 50);
        let mut writer = Writer::new(&target, 0);
        let text = String::from_utf8(writer.request(&target, 0, 20, &mut Dice::new(1)).to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /api/v2/orders/batch "));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["orders"].as_array().map(Vec::len), Some(20));
    }

    #[test]
    fn nine_of_ten_orders_name_the_hot_sku_once() {
        let target = target(Distribution::Hot, 1);
        let mut dice = Dice::new(42);
        let (mut hot, mut lines) = (0, 0);
        for _ in 0..10_000 {
            let mut body = Vec::new();
            order(&mut body, &target, 0, &mut dice);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let items = body["items"].as_array().unwrap();
            let named = items.iter().filter(|item| item["sku_id"] == "sku_0").count();
            assert!(named <= 1);
            hot += named;
            lines += items.len();
        }
        assert!((8_800..9_200).contains(&hot), "{hot}");
        assert!((19_500..20_500).contains(&lines), "{lines}");
    }

    /// A node that breaks every tenth answer off in the middle and spreads the others over two packets.
    async fn clumsy_node() -> Address {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::task::spawn_local(async move {
            let mut answered = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0_u8; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    answered += 1;
                    stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-le").await.unwrap();
                    if answered % 10 == 0 {
                        break;
                    }
                    tokio::task::yield_now().await;
                    stream.write_all(b"ngth: 2\r\n\r\n{}").await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_run_counts_answers_and_survives_broken_connections() {
        let set = tokio::task::LocalSet::new();
        let run = async {
            let mut target = target(Distribution::Hot, 1);
            target.endpoints = vec![clumsy_node().await];
            let shared = Shared::new(target, 25);
            shared.measure(true);
            start(&shared, 1, 7);
            while !shared.is_done() {
                sleep(Duration::from_millis(1)).await;
            }
            shared.tally(|tally| {
                assert_eq!((tally.accepted, tally.errors, tally.latency.count()), (23, 2, 23));
                assert!(
                    tally
                        .first_error
                        .as_deref()
                        .is_some_and(|error| error.ends_with("connection closed before the answer"))
                );
            });
        };
        timeout(Duration::from_secs(10), set.run_until(run)).await.unwrap();
    }

    #[test]
    fn no_more_orders_are_taken_than_are_left() {
        let shared = Shared::new(target(Distribution::Hot, 50), 120);
        assert_eq!([shared.take(), shared.take(), shared.take(), shared.take()], [50, 50, 20, 0]);
    }

    #[test]
    fn answers_are_sorted_into_accepted_refused_and_errors() {
        let shared = Shared::new(target(Distribution::Hot, 1), 10);
        let ms = Duration::from_millis(1);
        shared.count(201, b"{}", 1, ms);
        shared.measure(true);
        shared.count(201, b"{}", 1, ms);
        shared.count(409, b"{\"code\":\"INVENTORY_SHORTAGE\"}", 1, ms);
        shared.count(503, b"{\"code\":\"NO_QUORUM\"}", 1, ms);
        shared.fail("later");
        shared.tally(|tally| {
            assert_eq!((tally.accepted, tally.refused, tally.errors, tally.latency.count()), (1, 1, 2, 2));
            assert_eq!(tally.first_error.as_deref(), Some("503: {\"code\":\"NO_QUORUM\"}"));
        });
        let shared = Shared::new(target(Distribution::Hot, 3), 10);
        shared.measure(true);
        shared.count(200, b"[{\"status\":201},{\"status\":409}]", 3, ms);
        shared.tally(|tally| assert_eq!((tally.accepted, tally.refused, tally.errors), (1, 1, 1)));
    }
}
