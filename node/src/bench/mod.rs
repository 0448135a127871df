//! `agora bench`: what a real cluster does per second over HTTP, how long it takes, and what it costs.
//!
//! Goods and customers are made first and the warm-up is not counted. Without `--endpoints` it starts three nodes of its
//! own; then it also knows their processor time. One run on a shared machine says where things stand, not more: compare
//! only runs made in turn.
//!
//! A [`scenario`] says what connections ask for, the [`engine`] when, the [`recorder`] counts, [`nodes`] asks the nodes and the
//! kernel what it cost, and the [`report`] puts it together.

mod cluster;
mod connection;
mod dice;
mod engine;
mod histogram;
mod nodes;
mod plot;
mod recorder;
mod report;
mod request;
mod response;
mod scenario;

use std::{
    io::{IsTerminal, Write},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use self::{
    cluster::{OwnCluster, Wish},
    connection::Tcp,
    dice::Choice,
    engine::{Schedule, Shared},
    nodes::{Reading, Used},
    recorder::Recorder,
    report::{Report, Subject},
    request::Request,
    scenario::{
        Prepared,
        basket::Basket,
        flash::{self, Sale},
        marketplace, mixed, orders, pay, reads,
    },
};
use crate::{
    cli::{BenchCommand, Distribution, Goods, Load, On},
    client::{self, Client, KeyOf},
    config::Address,
    limits, table,
};

/// Connections one run may open.
const CONNECTIONS_MAX: usize = 10_000;
/// Lines one order may have here.
const LINES_MAX: usize = 20;
/// Longest run, in seconds.
const SECONDS_MAX: u64 = 86_400;
/// Sessions per second of an open loop, at most.
const RATE_MAX: f64 = 1_000_000.0;
/// SKUs and customers one run may make.
const MADE_MAX: usize = 10_000_000;
/// SKUs when nothing is asked.
const SKUS_HOT_DEFAULT: usize = 1_000;
const SKUS_DEFAULT: usize = 10_000;
/// Units of each SKU when nothing is asked.
const STOCK_DEFAULT: u64 = 1_000_000;
/// Units of the hot one when nothing is asked: more than a long run can sell.
const STOCK_HOT_DEFAULT: u64 = 100_000_000;
/// Warm-up when nothing is asked, in seconds. None when the number of orders is given, since all of them count, then.
const WARMUP_DEFAULT_S: u64 = 2;
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(20);
/// The first session of an open loop is due so much later than all is set up, so that it counts.
const START_MARGIN: Duration = Duration::from_millis(5);
/// Time the last answers have, after the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of one question of a scenario, with its repetitions.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// The command. Needs to run on a `LocalSet`.
pub async fn run(command: &BenchCommand) -> anyhow::Result<()> {
    let load = load_of(command);
    check(load)?;
    limits::raise_open_files(load.connections as u64);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let env = |name: &str| std::env::var(name).ok();
    let external =
        !load.access.endpoints.is_empty() || load.access.config.is_some() || env("AGORA_ENDPOINTS").is_some();
    if external {
        let (endpoints, shop_key) = client::resolve(&load.access, load.shop_key.as_deref(), KeyOf::Shop, &env)?;
        let admin_key = client::resolve(&load.access, load.access.admin_key.as_deref(), KeyOf::Admin, &env)
            .ok()
            .map(|(_, key)| key);
        let ground = Ground::new(load, endpoints, shop_key, admin_key, Vec::new())?;
        return tokio::select! {
            result = measure(command, &ground) => result,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted"),
        };
    }
    say(load, "starting three nodes …");
    let mut own = OwnCluster::start().await?;
    let (shop_key, admin_key) = (own.shop_key.clone(), Some(own.admin_key.clone()));
    let ground = Ground::new(load, own.endpoints(), shop_key, admin_key, own.pids())?;
    let result = tokio::select! {
        result = measure(command, &ground) => result,
        broken = own.broken() => Err(anyhow::anyhow!(broken)),
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    own.stop().await;
    result
}

fn load_of(command: &BenchCommand) -> &Load {
    match command {
        BenchCommand::Orders(args) => &args.load,
        BenchCommand::Pay(args) => &args.load,
        BenchCommand::Reads(args) => &args.load,
        BenchCommand::Mixed(args) => &args.load,
        BenchCommand::Flash(args) => &args.load,
        BenchCommand::Marketplace(args) => &args.load,
    }
}

fn check(load: &Load) -> anyhow::Result<()> {
    ensure!(
        (1..=CONNECTIONS_MAX).contains(&load.connections),
        "--connections {}: give 1 to {CONNECTIONS_MAX}",
        load.connections
    );
    ensure!((1..=SECONDS_MAX).contains(&load.seconds), "--seconds {}: give 1 to {SECONDS_MAX}", load.seconds);
    ensure!(load.warmup.unwrap_or(0) <= SECONDS_MAX, "--warmup: give at most {SECONDS_MAX}");
    let rate = load.rate.unwrap_or(1.0);
    ensure!(rate > 0.0 && rate <= RATE_MAX, "--rate {rate}: give more than 0 and at most {RATE_MAX}");
    load.plot.as_deref().map_or(Ok(()), plot::check)
}

/// A line for people, on standard error so that standard output holds the figures alone.
fn say(load: &Load, text: &str) {
    if !load.access.json {
        eprintln!("{text}");
    }
}

/// The cluster a run is made against, and what every scenario needs of it.
#[derive(Clone)]
pub struct Ground {
    load: Load,
    endpoints: Vec<Address>,
    shop_key: String,
    admin_key: Option<String>,
    /// Of the nodes, if they are ours.
    pids: Vec<u32>,
    wallets: bool,
    /// Beginning of every code and idempotency key, new for every run.
    pub run: String,
    /// For choices.
    pub seed: u64,
}

impl Ground {
    fn new(
        load: &Load,
        endpoints: Vec<Address>,
        shop_key: String,
        admin_key: Option<String>,
        pids: Vec<u32>,
    ) -> anyhow::Result<Ground> {
        let mut seed = [0_u8; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let run = format!("b{}", crate::init::random_hex(4)?);
        let seed = u64::from_le_bytes(seed);
        Ok(Ground { load: load.clone(), endpoints, shop_key, admin_key, pids, wallets: false, run, seed })
    }

    /// The same, where customers have money.
    pub fn with_wallets(&self, wallets: bool) -> Ground {
        Ground { wallets, ..self.clone() }
    }

    /// A client of the shop.
    pub fn shop(&self) -> anyhow::Result<Client> {
        Client::new(self.endpoints.clone(), Some(&self.shop_key), ASK_TIMEOUT)
    }

    /// Makes goods and customers.
    pub async fn make(&self, wish: &Wish) -> anyhow::Result<cluster::Goods> {
        for (name, count) in [("SKUs", wish.skus), ("customers", wish.accounts)] {
            ensure!((1..=MADE_MAX).contains(&count), "{count} {name}: give 1 to {MADE_MAX}");
        }
        say(&self.load, &format!("making {} SKUs and {} customers …", wish.skus, wish.accounts));
        let started = Instant::now();
        let goods = cluster::set_up(&self.endpoints, &self.shop_key, wish).await?;
        say(&self.load, &format!("made in {:.1} s; measuring …", started.elapsed().as_secs_f64()));
        Ok(goods)
    }

    /// Makes what orders need; one basket per connection. So many orders are placed beforehand.
    pub async fn baskets(&self, goods: &Goods, load: &Load, placed: usize) -> anyhow::Result<Vec<Basket>> {
        let is_hot = goods.distribution == Distribution::Hot;
        let skus = goods.skus.unwrap_or(if is_hot { SKUS_HOT_DEFAULT } else { SKUS_DEFAULT });
        ensure!(skus > usize::from(is_hot), "--skus {skus}: give at least {}", 1 + usize::from(is_hot));
        ensure!((1..=LINES_MAX).contains(&goods.lines), "--lines {}: give 1 to {LINES_MAX}", goods.lines);
        ensure!(goods.stock != Some(0), "--stock must not be 0");
        let wish = Wish {
            skus,
            units: goods.stock.unwrap_or(STOCK_DEFAULT),
            units_hot: goods.stock.unwrap_or(if is_hot { STOCK_HOT_DEFAULT } else { STOCK_DEFAULT }),
            accounts: goods.accounts,
            wallets: self.wallets,
            orders: placed,
            run: self.run.clone(),
        };
        let made = self.make(&wish).await?;
        let choice = Choice::new(goods.distribution, skus);
        Ok(Basket::many(made, choice, goods.lines, load.connections, self.seed))
    }

    async fn read(&self) -> Reading {
        let key = self.admin_key.as_deref().unwrap_or(&self.shop_key);
        Reading::take(&self.endpoints, key, &self.pids).await
    }

    /// The nodes that connections go to.
    async fn targets(&self) -> anyhow::Result<Vec<Address>> {
        if self.load.on == On::All {
            return Ok(self.endpoints.clone());
        }
        let leader = self.read().await.leader().context("no node says that it leads: --on needs the admin key")?;
        let leads = |at: &usize| (*at == leader) == (self.load.on == On::Leader);
        let at = (0..self.endpoints.len()).find(leads).context("no follower to connect to")?;
        Ok(vec![self.endpoints[at].clone()])
    }
}

/// Prepares a scenario, runs it, and shows what came of it.
async fn measure(command: &BenchCommand, ground: &Ground) -> anyhow::Result<()> {
    let mut sale: Option<Sale> = None;
    let prepared = match command {
        BenchCommand::Orders(args) => orders::prepare(args, ground).await?,
        BenchCommand::Pay(args) => pay::prepare(args, ground).await?,
        BenchCommand::Reads(args) => reads::prepare(args, ground).await?,
        BenchCommand::Mixed(args) => mixed::prepare(args, ground).await?,
        BenchCommand::Flash(args) => {
            let (prepared, sold) = flash::prepare(args, ground).await?;
            sale = Some(sold);
            prepared
        }
        BenchCommand::Marketplace(args) => marketplace::prepare(args, ground).await?,
    };
    let subject = Subject {
        title: title(),
        unit: prepared.unit,
        writes: prepared.writes,
        rate: ground.load.rate.or(prepared.rate),
        seconds: 0.0,
        remarks: Vec::new(),
    };
    let (shared, seconds, used) = load_up(prepared, ground).await?;
    let remarks = match sale {
        Some(sale) => sale.verify(ground, &shared).await?,
        None => Vec::new(),
    };
    let report = shared.look(|recorder| Report::new(recorder, Subject { seconds, remarks, ..subject }, &used));
    show(&report, &ground.load)
}

/// The command line, without where and how to show.
fn title() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut kept = vec!["agora".to_owned()];
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default();
        match name {
            "--json" => {}
            "--plot" | "--shop-key" | "--admin-key" | "--config" | "--endpoints" => {
                if !word.contains('=') {
                    words.next();
                }
            }
            _ => kept.push(word),
        }
    }
    kept.join(" ")
}

/// Runs the load. What was counted, for how many seconds, and what the nodes used meanwhile.
async fn load_up(prepared: Prepared, ground: &Ground) -> anyhow::Result<(Rc<Shared>, f64, Used)> {
    let load = &ground.load;
    let targets = ground.targets().await?;
    let warmup = load.warmup.unwrap_or(if prepared.ends { 0 } else { WARMUP_DEFAULT_S });
    let lines = prepared.scripts.into_iter().enumerate().map(|(number, script)| {
        let request = Request::new(&targets, &ground.shop_key, &ground.run, number);
        (script, request)
    });
    let lines = lines.collect();
    let mut before = if warmup == 0 { Some(ground.read().await) } else { None };
    let schedule = prepared.rate.map(|rate| Schedule::new(Instant::now() + START_MARGIN, rate));
    let shared = Shared::new(Recorder::new(prepared.ops, load.seconds), schedule.clone());
    if before.is_some() {
        shared.measure();
    }
    let pacer = schedule.map(|schedule| schedule.pace()).transpose().context("cannot start a thread")?;
    engine::start(&shared, Tcp(targets), lines);
    if before.is_none() {
        sleep(Duration::from_secs(warmup)).await;
        before = Some(ground.read().await);
        shared.measure();
    }
    let started = Instant::now();
    watch(&shared, load, prepared.unit).await;
    let ended_by_itself = shared.is_done();
    if prepared.ends {
        // All that was sent counts.
        let late = Instant::now() + DRAIN_TIMEOUT;
        shared.stop();
        wait(late, || shared.is_done()).await;
    }
    shared.seal();
    let seconds = started.elapsed().as_secs_f64();
    let after = ground.read().await;
    if let Some(pacer) = pacer {
        wait(Instant::now() + DRAIN_TIMEOUT, || pacer.is_finished() && shared.is_drained()).await;
    }
    shared.stop();
    // Who has nothing left to do leaves nothing undone, whatever the schedule would have had for them.
    if !ended_by_itself {
        shared.settle();
    }
    wait(Instant::now() + DRAIN_TIMEOUT, || shared.is_done()).await;
    let used = Used::between(&before.unwrap_or_default(), &after);
    Ok((shared, seconds, used))
}

async fn wait(until: Instant, is_over: impl Fn() -> bool) {
    while !is_over() && Instant::now() < until {
        sleep(TICK).await;
    }
}

/// Waits for the end, with a line of progress each second.
async fn watch(shared: &Shared, load: &Load, unit: &str) {
    let started = Instant::now();
    let end = started + Duration::from_secs(load.seconds);
    let is_shown = !load.access.json && std::io::stderr().is_terminal();
    let (mut shown, mut shown_count) = (started, 0);
    while Instant::now() < end && !shared.is_done() {
        sleep_until((Instant::now() + TICK).min(end)).await;
        if is_shown && shown.elapsed() >= Duration::from_secs(1) {
            let (count, errors, p99) = shared.look(|recorder| {
                let total = recorder.total;
                (total.done + total.refused, total.errors, recorder.sessions.quantile_us(0.99).unwrap_or(0))
            });
            let rate = (count - shown_count) as f64 / shown.elapsed().as_secs_f64();
            eprint!(
                "\r{:4} of {} s  {:>9} {unit}s/s  p99 {:.1} ms  {errors} errors   ",
                started.elapsed().as_secs(),
                load.seconds,
                table::grouped(rate as u64),
                p99 as f64 / 1_000.0
            );
            // Progress is a courtesy: a terminal that is gone must not end the measurement.
            let _ = std::io::stderr().flush();
            (shown, shown_count) = (Instant::now(), count);
        }
    }
    if is_shown {
        eprintln!();
    }
}

/// Prints the figures and draws the picture.
fn show(report: &Report, load: &Load) -> anyhow::Result<()> {
    if load.access.json {
        println!("{}", report.json());
        if report.refused > 0 {
            eprintln!("agora: {} were refused", report.refused);
        }
    } else {
        print!("{}", report.text());
    }
    if let Some(error) = &report.first_error {
        eprintln!("agora: the first of {} errors: {error}", report.errors);
    }
    if let Some(path) = &load.plot {
        plot::write(path, report)?;
        say(load, &format!("drawn into {}", path.display()));
    }
    if report.per_second == 0.0 && report.refused == 0 {
        return Err(anyhow::anyhow!("nothing was answered")).context("bench");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> BenchCommand {
        match Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).command {
            Command::Bench(command) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_scenario_takes_the_load_and_its_own_words() {
        for line in [
            "agora bench orders --batch 50 --rate 1000 --distribution zipf --skus 100000 --lines 2 --orders 9",
            "agora bench pay --rate 1000 --connections 256 --on leader",
            "agora bench reads --what skus --consistency linearizable --placed 10 --on follower",
            "agora bench mixed --reads 80 --consistency local --closed",
            "agora bench flash --units 100 --accounts 5 --connections 1000",
            "agora bench marketplace --cart 5 --skus 100 --distribution uniform",
        ] {
            let more = " --seconds 3 --warmup 1 --json --plot out.svg --endpoints a:1 --shop-key k";
            let command = parse(&format!("{line}{more}"));
            let load = load_of(&command);
            assert_eq!((load.seconds, load.warmup, load.access.json), (3, Some(1), true), "{line}");
            check(load).unwrap();
        }
    }

    #[test]
    fn a_load_that_cannot_be_is_refused_with_its_name() {
        for (words, said) in [
            ("--connections 0", "--connections 0: give 1 to"),
            ("--seconds 0", "--seconds 0: give 1 to"),
            ("--rate 0", "--rate 0: give more than 0"),
            ("--rate inf", "--rate inf: give more than 0"),
            ("--rate NaN", "--rate NaN: give more than 0"),
            ("--plot out.png", "give a name that ends in .svg or .html"),
        ] {
            let error = check(load_of(&parse(&format!("agora bench orders {words}")))).unwrap_err();
            assert!(error.to_string().contains(said), "{words}: {error}");
        }
        assert!(Cli::try_parse_from("agora bench mixed --closed --rate 5".split(' ')).is_err());
    }
}
