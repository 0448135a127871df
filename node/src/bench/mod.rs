//! `agora bench`: orders per second of a real cluster over HTTP, and what they cost.
//!
//! Closed loop: every connection waits for its answer before it orders again, so that the figure is what so many callers
//! get, and the latency is what each of them waits. Goods and customers are made first and the warm-up is not counted.
//! Without `--endpoints` it starts three nodes of its own; then it also knows their processor time. One run on a shared
//! machine says where things stand, not more: compare only runs made in turn.

mod cluster;
mod generator;
mod histogram;
mod response;

use std::{
    io::{IsTerminal, Write},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use cluster::{OwnCluster, Wish};
use generator::{Shared, Target};
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    cli::{BenchArgs, Distribution},
    client::{self, Client, KeyOf},
    config::Address,
    limits, table, telemetry,
};

/// Connections one run may open.
const CONNECTIONS_MAX: usize = 10_000;
/// Orders one request may hold.
const BATCH_MAX: usize = 100;
/// Lines one order may have here.
const LINES_MAX: usize = 20;
/// Longest run, in seconds.
const SECONDS_MAX: u64 = 86_400;
/// Customers the orders are spread over.
const ACCOUNTS: usize = 1_000;
/// Units of each SKU when nothing is asked.
const STOCK_DEFAULT: u64 = 1_000_000;
/// Units of the hot one when nothing is asked: more than a long run can sell.
const STOCK_HOT_DEFAULT: u64 = 100_000_000;
/// Warm-up when nothing is asked, in seconds. None when the number of orders is given, since all of them count, then.
const WARMUP_DEFAULT_S: u64 = 2;
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Time the last answers have, after the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The command. Needs to run on a `LocalSet`.
pub async fn orders(args: &BenchArgs) -> anyhow::Result<()> {
    check(args)?;
    limits::raise_open_files(args.connections as u64);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let env = |name: &str| std::env::var(name).ok();
    let external =
        !args.access.endpoints.is_empty() || args.access.config.is_some() || env("AGORA_ENDPOINTS").is_some();
    if external {
        let (endpoints, shop_key) = client::resolve(&args.access, args.shop_key.as_deref(), KeyOf::Shop, &env)?;
        let admin_key = client::resolve(&args.access, args.access.admin_key.as_deref(), KeyOf::Admin, &env)
            .ok()
            .map(|(_, key)| key);
        let bench = Bench { args, endpoints, shop_key, admin_key, pids: Vec::new() };
        return tokio::select! {
            result = bench.run() => result,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted"),
        };
    }
    say(args, "starting three nodes …");
    let mut own = OwnCluster::start().await?;
    let bench = Bench {
        args,
        endpoints: own.endpoints(),
        shop_key: own.shop_key.clone(),
        admin_key: Some(own.admin_key.clone()),
        pids: own.pids(),
    };
    let result = tokio::select! {
        result = bench.run() => result,
        broken = own.broken() => Err(anyhow::anyhow!(broken)),
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    own.stop().await;
    result
}

fn check(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(
        (1..=CONNECTIONS_MAX).contains(&args.connections),
        "--connections {}: give 1 to {CONNECTIONS_MAX}",
        args.connections
    );
    ensure!((1..=SECONDS_MAX).contains(&args.seconds), "--seconds {}: give 1 to {SECONDS_MAX}", args.seconds);
    ensure!((1..=BATCH_MAX).contains(&args.batch), "--batch {}: give 1 to {BATCH_MAX}", args.batch);
    ensure!((1..=LINES_MAX).contains(&args.lines), "--lines {}: give 1 to {LINES_MAX}", args.lines);
    ensure!(args.warmup.unwrap_or(0) <= SECONDS_MAX, "--warmup: give at most {SECONDS_MAX}");
    ensure!(args.orders != Some(0) && args.stock != Some(0), "--orders and --stock must not be 0");
    Ok(())
}

/// A line for people, on standard error so that standard output holds the figures alone.
fn say(args: &BenchArgs, text: &str) {
    if !args.access.json {
        eprintln!("{text}");
    }
}

/// One run against one cluster.
struct Bench<'a> {
    args: &'a BenchArgs,
    endpoints: Vec<Address>,
    shop_key: String,
    admin_key: Option<String>,
    /// Of the nodes, if they are ours.
    pids: Vec<u32>,
}

/// What the nodes have used so far.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_us: Option<u64>,
    /// Mean over the nodes.
    fsyncs: Option<f64>,
}

impl Bench<'_> {
    async fn run(&self) -> anyhow::Result<()> {
        let target = self.prepare().await?;
        let shared = Shared::new(target, self.args.orders.unwrap_or(u64::MAX));
        let mut seed = [0_u8; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        generator::start(&shared, self.args.connections, u64::from_le_bytes(seed));
        let warmup = self.args.warmup.unwrap_or(if self.args.orders.is_some() { 0 } else { WARMUP_DEFAULT_S });
        sleep(Duration::from_secs(warmup)).await;
        let before = self.used().await;
        shared.measure(true);
        let measured = self.watch(&shared).await;
        shared.measure(false);
        let after = self.used().await;
        shared.stop();
        let drained = Instant::now() + DRAIN_TIMEOUT;
        while !shared.is_done() && Instant::now() < drained {
            sleep(TICK).await;
        }
        let report = shared.tally(|tally| Report::new(tally, measured, before, after));
        report.print(self.args)
    }

    /// Makes goods and customers.
    async fn prepare(&self) -> anyhow::Result<Target> {
        let run = format!("b{}", crate::init::random_hex(4)?);
        let skus = match self.args.distribution {
            Distribution::Hot => 1_000,
            Distribution::Uniform => 10_000,
        };
        let is_hot = self.args.distribution == Distribution::Hot;
        let units = self.args.stock.unwrap_or(STOCK_DEFAULT);
        let units_hot = self.args.stock.unwrap_or(if is_hot { STOCK_HOT_DEFAULT } else { STOCK_DEFAULT });
        say(self.args, &format!("making {skus} SKUs and {ACCOUNTS} accounts …"));
        let started = Instant::now();
        let wish = Wish { skus, units, units_hot, accounts: ACCOUNTS, run: run.clone() };
        let goods = cluster::set_up(&self.endpoints, &self.shop_key, &wish).await?;
        say(self.args, &format!("made in {:.1} s; measuring …", started.elapsed().as_secs_f64()));
        Ok(Target {
            endpoints: self.endpoints.clone(),
            shop_key: self.shop_key.clone(),
            skus: goods.skus,
            accounts: goods.accounts,
            distribution: self.args.distribution,
            batch: self.args.batch,
            lines: self.args.lines,
            run,
        })
    }

    /// Waits for the end, with a line of progress each second. How long it took.
    async fn watch(&self, shared: &Rc<Shared>) -> Duration {
        let started = Instant::now();
        let end = started + Duration::from_secs(self.args.seconds);
        let show = !self.args.access.json && std::io::stderr().is_terminal();
        let (mut shown, mut shown_count) = (started, 0);
        while Instant::now() < end && !shared.is_done() {
            sleep_until((Instant::now() + TICK).min(end)).await;
            if show && shown.elapsed() >= Duration::from_secs(1) {
                let (count, errors) = shared.tally(|tally| (tally.accepted + tally.refused, tally.errors));
                let rate = (count - shown_count) as f64 / shown.elapsed().as_secs_f64();
                eprint!(
                    "\r{:4} s  {:>9} orders/s  {errors} errors   ",
                    started.elapsed().as_secs(),
                    table::grouped(rate as u64)
                );
                // Progress is a courtesy: a terminal that is gone must not end the measurement.
                let _ = std::io::stderr().flush();
                (shown, shown_count) = (Instant::now(), count);
            }
        }
        if show {
            eprintln!();
        }
        started.elapsed()
    }

    async fn used(&self) -> Used {
        let cpu: Option<Vec<u64>> = self.pids.iter().map(|pid| telemetry::cpu_us(*pid)).collect();
        let cpu_us = cpu.filter(|all| !all.is_empty()).map(|all| all.iter().sum());
        Used { cpu_us, fsyncs: self.fsyncs().await }
    }

    /// Fsyncs of the log so far, mean over the nodes. `None` if one of them does not say.
    async fn fsyncs(&self) -> Option<f64> {
        let mut sum = 0.0;
        for endpoint in &self.endpoints {
            let key = self.admin_key.as_deref().or(Some(&self.shop_key));
            let client = Client::new(vec![endpoint.clone()], key, Duration::from_secs(2)).ok()?;
            let answer = client.get("/metrics").await.ok()?;
            let text = std::str::from_utf8(&answer.raw).ok()?;
            sum += telemetry::metric(text, "agora_log_fsyncs")?;
        }
        Some(sum / self.endpoints.len() as f64)
    }
}

/// The line of `--json`. What is not known is null.
#[derive(Serialize)]
struct Line {
    orders_per_second: f64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    cpu_us_per_order: Option<f64>,
    orders_per_fsync: Option<f64>,
    errors: u64,
}

/// The figures of one run.
#[derive(Clone, Debug, PartialEq)]
struct Report {
    orders_per_second: f64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    cpu_us_per_order: Option<f64>,
    orders_per_fsync: Option<f64>,
    refused: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Report {
    fn new(tally: &generator::Tally, measured: Duration, before: Used, after: Used) -> Report {
        let decided = (tally.accepted + tally.refused) as f64;
        let quantile = |share| tally.latency.quantile_us(share).map(|us| us as f64 / 1_000.0);
        let cpu = before.cpu_us.zip(after.cpu_us).map(|(before, after)| after.saturating_sub(before) as f64);
        let fsyncs = before.fsyncs.zip(after.fsyncs).map(|(before, after)| after - before);
        Report {
            orders_per_second: tally.accepted as f64 / measured.as_secs_f64(),
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            cpu_us_per_order: cpu.filter(|_| decided > 0.0).map(|cpu| cpu / decided),
            orders_per_fsync: fsyncs.filter(|fsyncs| *fsyncs > 0.0).map(|fsyncs| decided / fsyncs),
            refused: tally.refused,
            errors: tally.errors,
            first_error: tally.first_error.clone(),
        }
    }

    fn json(&self) -> String {
        let rounded = |value: Option<f64>| value.map(|value| (value * 1_000.0).round() / 1_000.0);
        let line = Line {
            orders_per_second: (self.orders_per_second * 10.0).round() / 10.0,
            p50_ms: rounded(self.p50_ms),
            p95_ms: rounded(self.p95_ms),
            p99_ms: rounded(self.p99_ms),
            cpu_us_per_order: rounded(self.cpu_us_per_order),
            orders_per_fsync: rounded(self.orders_per_fsync),
            errors: self.errors,
        };
        serde_json::to_string(&line).expect("figures are JSON")
    }

    fn text(&self) -> String {
        let shown = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "not available".to_owned(), |value| format!("{value:.2}{unit}"))
        };
        let rows = [
            ("orders per second", table::grouped(self.orders_per_second.round() as u64)),
            ("p50", shown(self.p50_ms, " ms")),
            ("p95", shown(self.p95_ms, " ms")),
            ("p99", shown(self.p99_ms, " ms")),
            ("CPU per order, all nodes", shown(self.cpu_us_per_order, " µs")),
            ("orders per fsync", shown(self.orders_per_fsync, "")),
            ("refused for want of stock", table::grouped(self.refused)),
            ("errors", table::grouped(self.errors)),
        ];
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        table::render(&[table::words("FIGURE"), table::figures("VALUE")], &rows)
    }

    fn print(&self, args: &BenchArgs) -> anyhow::Result<()> {
        if args.access.json {
            println!("{}", self.json());
            if self.refused > 0 {
                eprintln!("agora: {} orders were refused for want of stock", self.refused);
            }
        } else {
            print!("{}", self.text());
        }
        if let Some(error) = &self.first_error {
            eprintln!("agora: the first of {} errors: {error}", self.errors);
        }
        if self.orders_per_second == 0.0 && self.refused == 0 {
            return Err(anyhow::anyhow!("no order was answered")).context("bench");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> generator::Tally {
        let mut tally = generator::Tally { accepted: 900, refused: 100, errors: 2, ..generator::Tally::default() };
        for us in 1..=1_000_u64 {
            tally.latency.record(us / 10);
        }
        tally
    }

    #[test]
    fn json_has_exactly_the_promised_keys() {
        let used = |cpu_us, fsyncs| Used { cpu_us: Some(cpu_us), fsyncs: Some(fsyncs) };
        let report = Report::new(&tally(), Duration::from_secs(2), used(1_000, 10.0), used(61_000, 50.0));
        assert_eq!(
            report.json(),
            concat!(
                r#"{"orders_per_second":450.0,"p50_ms":0.05,"p95_ms":0.095,"p99_ms":0.099,"#,
                r#""cpu_us_per_order":60.0,"orders_per_fsync":25.0,"errors":2}"#
            )
        );
    }

    #[test]
    fn what_is_not_known_is_null() {
        let report =
            Report::new(&generator::Tally::default(), Duration::from_secs(1), Used::default(), Used::default());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for key in ["p50_ms", "p95_ms", "p99_ms", "cpu_us_per_order", "orders_per_fsync"] {
            assert!(json[key].is_null(), "{key}");
        }
        assert!(report.text().contains("orders per fsync           not available\n"), "{}", report.text());
    }
}
