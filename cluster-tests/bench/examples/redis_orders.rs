//! The load for Redis in `peers/run.py`: connections that order, wait for the answer, and order again.
//!
//! It is to Redis what `agora bench orders` is to Agora: one thread, closed loop, requests written as bytes, the same
//! orders drawn the same way. `redis-benchmark` cannot take its place, because it does not send `WAIT` after each order
//! on the same connection, and an order that no replica has would be counted as one that it has.
//!
//! Usage: `redis_orders PORT SHA CONNECTIONS WARMUP_S SECONDS hot|uniform REPLICAS RUN`; the password is in
//! `REDISCLI_AUTH`. It prints `measuring` and `measured` when the time that counts begins and ends, so that whoever
//! started it looks at the servers' processor time then, and one line of JSON.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, timeout},
};

/// Longest wait for an answer, and for all connections to end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What the replicas have to acknowledge, in milliseconds.
const WAIT_TIMEOUT_MS: u32 = 5_000;
/// Bytes of one answer, at most: an order number, a count of replicas, or a line of error.
const ANSWER_BYTES_MAX: usize = 4_096;
/// Latency is counted in steps of this.
const STEP_US: usize = 10;
/// Steps there are; what takes longer is in the last one.
const STEPS: usize = 1_000_000;
/// Customers the orders are spread over.
const ACCOUNTS: usize = 1_000;
/// Most lines of an order.
const LINES_MAX: usize = 3;

/// What to do, from the command line.
struct Plan {
    address: String,
    password: String,
    sha: String,
    connections: usize,
    warmup: Duration,
    measured: Duration,
    skus: usize,
    is_hot: bool,
    replicas: usize,
    run: String,
}

impl Plan {
    fn of(arguments: &[String]) -> Result<Plan, String> {
        let [port, sha, connections, warmup_s, seconds, distribution, replicas, run] = arguments else {
            return Err("give PORT SHA CONNECTIONS WARMUP_S SECONDS hot|uniform REPLICAS RUN".to_owned());
        };
        let number = |text: &String| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
        let is_hot = match distribution.as_str() {
            "hot" => true,
            "uniform" => false,
            other => return Err(format!("{other}: give hot or uniform")),
        };
        let (connections, port) = (number(connections)?, number(port)?);
        if !(1..=10_000).contains(&connections) {
            return Err(format!("{connections} connections: give 1 to 10000"));
        }
        Ok(Plan {
            address: format!("127.0.0.1:{port}"),
            password: std::env::var("REDISCLI_AUTH").map_err(|_| "REDISCLI_AUTH is not set".to_owned())?,
            sha: sha.clone(),
            connections,
            warmup: Duration::from_secs(number(warmup_s)? as u64),
            measured: Duration::from_secs(number(seconds)? as u64),
            skus: if is_hot { 1_000 } else { 10_000 },
            is_hot,
            replicas: number(replicas)?,
            run: run.clone(),
        })
    }
}

/// What all connections share; they live on one thread.
struct Shared {
    plan: Plan,
    measuring: Cell<bool>,
    stopped: Cell<bool>,
    orders: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    /// Orders by latency, in steps of [`STEP_US`].
    latency: RefCell<Vec<u32>>,
}

impl Shared {
    fn count(&self, outcome: Result<(), String>, took: Duration) {
        if !self.measuring.get() {
            return;
        }
        match outcome {
            Ok(()) => {
                self.orders.set(self.orders.get() + 1);
                let step = usize::try_from(took.as_micros()).unwrap_or(usize::MAX) / STEP_US;
                self.latency.borrow_mut()[step.min(STEPS - 1)] += 1;
            }
            Err(error) => {
                self.errors.set(self.errors.get() + 1);
                self.first_error.borrow_mut().get_or_insert(error);
            }
        }
    }

    /// The latency that a share of all orders did not exceed, in milliseconds.
    fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (self.orders.get() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (step, count) in self.latency.borrow().iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return ((step + 1) * STEP_US) as f64 / 1_000.0;
            }
        }
        f64::NAN
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), as `agora bench` draws.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * bound as u128) >> 64) as usize
    }
}

/// The SKUs of one order, descending and none twice, as the script wants them. The hot one is number 1, in nine of ten.
fn draw(plan: &Plan, dice: &mut Dice, skus: &mut Vec<usize>) {
    skus.clear();
    let other = |dice: &mut Dice| if plan.is_hot { 2 + dice.below(plan.skus - 1) } else { 1 + dice.below(plan.skus) };
    let is_of_hot = plan.is_hot && dice.below(10) < 9;
    let lines = 1 + dice.below(LINES_MAX);
    skus.push(if is_of_hot { 1 } else { other(dice) });
    while skus.len() < lines {
        let sku = other(dice);
        if !skus.contains(&sku) {
            skus.push(sku);
        }
    }
    skus.sort_unstable_by(|one, two| two.cmp(one));
}

fn word(out: &mut Vec<u8>, text: &str) {
    // Writing into memory cannot fail.
    let _ = write!(out, "${}\r\n{text}\r\n", text.len());
}

/// One order as the protocol has it, and the wait for its replicas.
fn request(plan: &Plan, key: &str, account: usize, skus: &[usize], out: &mut Vec<u8>) {
    out.clear();
    let keys = 1 + skus.len();
    // EVALSHA sha n, the keys, and account and quantities.
    let _ = write!(out, "*{}\r\n", 3 + keys + 1 + skus.len());
    word(out, "EVALSHA");
    word(out, &plan.sha);
    word(out, &keys.to_string());
    word(out, key);
    for sku in skus {
        word(out, &format!("sku:{sku}"));
    }
    word(out, &account.to_string());
    for _ in skus {
        word(out, "1");
    }
    if plan.replicas > 0 {
        out.extend_from_slice(b"*3\r\n");
        word(out, "WAIT");
        word(out, &plan.replicas.to_string());
        word(out, &WAIT_TIMEOUT_MS.to_string());
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(plan: &Plan) -> Result<Connection, String> {
        let stream = TcpStream::connect(&plan.address).await.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection = Connection { stream, buffer: Vec::with_capacity(ANSWER_BYTES_MAX) };
        let mut auth = b"*2\r\n".to_vec();
        word(&mut auth, "AUTH");
        word(&mut auth, &plan.password);
        connection.send(&auth).await?;
        match connection.line().await?.as_str() {
            "+OK" => Ok(connection),
            other => Err(format!("AUTH: {other}")),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| format!("cannot send: {error}"))
    }

    /// One line of an answer; every answer here is one line.
    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err("answer too long".to_owned());
            }
            let read = self.stream.read_buf(&mut self.buffer).await.map_err(|error| format!("cannot read: {error}"))?;
            if read == 0 {
                return Err("connection closed".to_owned());
            }
        }
    }

    /// Sends one order; `Ok` when it was placed and as many replicas have it as were asked for.
    async fn order(&mut self, plan: &Plan, request: &[u8]) -> Result<(), String> {
        self.send(request).await?;
        let placed = self.line().await?;
        let replicas = if plan.replicas > 0 { self.line().await? } else { ":0".to_owned() };
        if !placed.starts_with(':') {
            return Err(placed);
        }
        let has: usize = replicas.strip_prefix(':').and_then(|count| count.parse().ok()).unwrap_or(0);
        if has < plan.replicas { Err(format!("WAIT: {replicas} replicas in time")) } else { Ok(()) }
    }
}

/// One connection, until all are told to stop. A connection that cannot be used is an error and its end.
async fn buy(shared: Rc<Shared>, number: usize) -> Result<(), String> {
    let plan = &shared.plan;
    let mut dice = Dice(0x5eed_u64.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let mut connection = Connection::open(plan).await?;
    let (mut skus, mut bytes) = (Vec::with_capacity(LINES_MAX), Vec::with_capacity(512));
    let mut sequence = 0_u64;
    while !shared.stopped.get() {
        sequence += 1;
        draw(plan, &mut dice, &mut skus);
        let key = format!("key:{}-{number}-{sequence}", plan.run);
        request(plan, &key, 1 + dice.below(ACCOUNTS), &skus, &mut bytes);
        let started = Instant::now();
        let outcome = timeout(ANSWER_TIMEOUT, connection.order(plan, &bytes)).await;
        let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let failed = outcome.as_ref().err().cloned();
        shared.count(outcome, started.elapsed());
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| error.to_string())
}

async fn run(plan: Plan) -> Result<(), String> {
    let shared = Rc::new(Shared {
        plan,
        measuring: Cell::new(false),
        stopped: Cell::new(false),
        orders: Cell::new(0),
        errors: Cell::new(0),
        first_error: RefCell::default(),
        latency: RefCell::new(vec![0; STEPS]),
    });
    let mut buyers = JoinSet::new();
    for number in 0..shared.plan.connections {
        buyers.spawn_local(buy(Rc::clone(&shared), number));
    }
    sleep(shared.plan.warmup).await;
    say("measuring")?;
    shared.measuring.set(true);
    let started = Instant::now();
    sleep(shared.plan.measured).await;
    shared.measuring.set(false);
    let seconds = started.elapsed().as_secs_f64();
    say("measured")?;
    shared.stopped.set(true);
    let ended = timeout(ANSWER_TIMEOUT, async {
        while let Some(ended) = buyers.join_next().await {
            ended.map_err(|error| error.to_string())??;
        }
        Ok::<(), String>(())
    });
    ended.await.map_err(|_| "connections did not end in time".to_owned())??;
    if let Some(error) = shared.first_error.borrow().as_ref() {
        return Err(format!("{} orders failed; the first: {error}", shared.errors.get()));
    }
    say(&format!(
        "{{\"orders\":{},\"seconds\":{seconds:.6},\"p50_ms\":{:.3},\"p99_ms\":{:.3}}}",
        shared.orders.get(),
        shared.quantile_ms(0.5),
        shared.quantile_ms(0.99)
    ))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = Plan::of(&arguments).and_then(|plan| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        LocalSet::new().block_on(&runtime, run(plan))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redis_orders: {error}");
            ExitCode::FAILURE
        }
    }
}
