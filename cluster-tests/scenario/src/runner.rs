//! One run, from an empty catalogue to what checkers read.
//!
//! ```text
//! open       SKUs, customers, money, through a client like any other
//! load       clients start; after a moment the nemesis starts beside them
//! stop       time is over: the nemesis returns, everything is healed, every node is started
//! liveness   a write is acknowledged within a bound, and members that were left half-way are tidied up
//! drain      clients end what they were at, which tells much of what was unknown
//! quiet      all nodes stand at one index with one checkpoint
//! collect    every node's feed and every node's word on every entity, read at that index
//! ```
//!
//! Whatever does not come in time fails the run with what was recorded so far; and so does, at once, what nodes say
//! differently of one index.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use agora_history::{NodeId, Op, Reply, Run, RunData};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    admin::{Admin, Status},
    client::{Client, Patience},
    cluster::{Act, Cluster, Link},
    collect::{Apart, Checkpoints, Collected, collect, quiet},
    recorder::Recorder,
    rng::Rng,
    schedule::{Context, Nemesis},
    workloads::{self, Catalogue, Kind, Load, Shop, Stage},
};

/// How long each part of a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Until the first leader, and for opening the shop.
    pub open: Duration,
    /// Until the nemesis returned after its time was over.
    pub stop: Duration,
    /// From healing to an acknowledged write.
    pub liveness: Duration,
    /// Until all clients ended.
    pub drain: Duration,
    /// Until all nodes stand still at one index.
    pub quiet: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            open: Duration::from_secs(60),
            stop: Duration::from_secs(60),
            liveness: Duration::from_secs(30),
            drain: Duration::from_secs(60),
            quiet: Duration::from_secs(90),
        }
    }
}

/// What to run. The seed must not have been used in the same cluster before: keys, codes and trace ids come from it.
#[derive(Clone)]
pub struct Plan {
    pub scenario: String,
    pub seed: u64,
    pub catalogue: Catalogue,
    pub loads: Vec<Load>,
    pub nemesis: Arc<dyn Nemesis>,
    /// Load before the first fault.
    pub warm_up: Duration,
    /// Time of the nemesis.
    pub chaos: Duration,
    pub patience: Patience,
    pub bounds: Bounds,
    /// Where to write the history while it happens, if anywhere.
    pub stream: Option<PathBuf>,
    /// Nodes whose whole feed is read; all of them unless it would be too much to hold.
    pub feeds_max: usize,
}

impl Plan {
    /// A plan with the usual bounds.
    pub fn new(scenario: &str, seed: u64, nemesis: Arc<dyn Nemesis>, chaos: Duration) -> Plan {
        Plan {
            scenario: scenario.to_owned(),
            seed,
            catalogue: Catalogue::default(),
            loads: Vec::new(),
            nemesis,
            warm_up: Duration::from_secs(1),
            chaos,
            patience: Patience::default(),
            bounds: Bounds::default(),
            stream: None,
            feeds_max: usize::MAX,
        }
    }

    /// With all kinds of load at once, so many clients each, and a little of what is slow by nature.
    pub fn mixed(mut self, clients: u32, pace: Duration) -> Plan {
        for kind in [Kind::Rush, Kind::Carts, Kind::Payments, Kind::Storm, Kind::Receiving, Kind::Reads] {
            self.loads.push(Load::new(kind, clients, pace));
        }
        self.loads.push(Load::new(Kind::Feed, clients.div_ceil(2), pace * 2));
        self.loads.push(Load::new(Kind::Operators, 1, Duration::from_secs(2)));
        self
    }

    /// With one more load.
    pub fn load(mut self, load: Load) -> Plan {
        self.loads.push(load);
        self
    }
}

/// A run that could not be brought to its end.
#[derive(Debug)]
pub struct Failed {
    /// During which part.
    pub phase: &'static str,
    pub why: String,
    /// What the nodes said last, and the ends of their logs.
    pub evidence: String,
    /// What was recorded.
    pub data: Box<RunData>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n{}", self.phase, self.why, self.evidence)
    }
}

impl std::error::Error for Failed {}

/// A part that failed, and why.
type Trouble = (&'static str, String);

/// Runs a plan.
///
/// # Errors
/// What did not come in time, with all that was recorded.
pub async fn run(cluster: Arc<dyn Cluster>, plan: &Plan) -> Result<RunData, Box<Failed>> {
    let recorder = Arc::new(Recorder::new(plan.seed));
    let mut data = RunData { run: describe(&*cluster, plan), ..RunData::default() };
    let (stop, stopped) = watch::channel(false);
    let mut running = Running {
        admin: Admin::new(cluster.clone()),
        rng: Rng::new(plan.seed).fork(&plan.scenario),
        cluster: cluster.clone(),
        recorder: recorder.clone(),
        plan,
        stop,
        stopped,
    };
    let ended = running.whole(&mut data).await;
    running.stop.send_replace(true);
    recorder.end_all_faults(cluster.now());
    let mut trouble = ended.err();
    match recorder.take() {
        Ok((calls, faults)) => (data.calls, data.faults) = (calls, faults),
        Err(why) => trouble = trouble.or(Some(("record", why))),
    }
    let Some((phase, why)) = trouble else { return Ok(data) };
    let said = Admin::new(cluster.clone()).statuses().await;
    let said: Vec<String> = said.iter().map(|status| format!("{status:?}")).collect();
    let evidence = format!("{}\n{}", said.join("\n"), cluster.evidence());
    Err(Box::new(Failed { phase, why, evidence, data: Box::new(data) }))
}

fn describe(cluster: &dyn Cluster, plan: &Plan) -> Run {
    let mut settings = BTreeMap::new();
    let mut set = |name: &str, value: String| drop(settings.insert(name.to_owned(), value));
    set("nemesis", plan.nemesis.name());
    set("warm_up_ms", plan.warm_up.as_millis().to_string());
    set("chaos_ms", plan.chaos.as_millis().to_string());
    set("catalogue", format!("{:?}", plan.catalogue));
    for (number, load) in plan.loads.iter().enumerate() {
        let Load { kind, clients, pace, ops_max } = load;
        let most = if *ops_max == u64::MAX { String::new() } else { format!(", at most {ops_max} operations") };
        set(&format!("load {number}"), format!("{}: {clients} clients, pace {pace:?}{most}", kind.name()));
    }
    Run {
        harness: cluster.harness().to_owned(),
        scenario: plan.scenario.clone(),
        seed: plan.seed,
        nodes: cluster.nodes(),
        settings,
    }
}

struct Running<'a> {
    cluster: Arc<dyn Cluster>,
    admin: Admin,
    recorder: Arc<Recorder>,
    rng: Rng,
    plan: &'a Plan,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

/// Clients of the runner itself.
const OPENER: u32 = 1;
const PROBE: u32 = 2;
/// Keys for which all nodes must name the same order.
const KEYS_COMPARED: usize = 40;
/// How often it is looked whether something has come.
const LOOK: Duration = Duration::from_millis(200);
/// Starts of one node after healing, and the pause between them; one that does not come up by then never will.
const STARTS_MAX: u32 = 20;
const START_PAUSE: Duration = Duration::from_secs(1);

/// How often each node was started, and when last.
type Starts = BTreeMap<NodeId, (u32, Option<Instant>)>;

async fn within<T>(bound: Duration, part: &'static str, work: impl Future<Output = T>) -> Result<T, Trouble> {
    tokio::time::timeout(bound, work).await.map_err(|_| (part, format!("not done within {bound:?}")))
}

fn client_ended(ended: Result<(), JoinError>) -> Result<(), Trouble> {
    ended.map_err(|error| ("load", format!("a client broke: {error}")))
}

/// The nemesis at work, which does not outlive the run.
struct AbortOnDrop(JoinHandle<Result<(), String>>);

impl Future for AbortOnDrop {
    type Output = Result<(), String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let ended = Pin::new(&mut self.0).poll(context);
        ended.map(|ended| ended.unwrap_or_else(|error| Err(format!("the nemesis broke: {error}"))))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running<'_> {
    async fn whole(&mut self, data: &mut RunData) -> Result<(), Trouble> {
        let plan = self.plan;
        if !plan.nemesis.fits(&*self.cluster) {
            return Err(("open", format!("{} cannot be done to this cluster", plan.nemesis.name())));
        }
        if let Some(path) = &plan.stream {
            self.recorder.stream_to(path, &data.run).map_err(|error| ("open", error.to_string()))?;
        }
        let shop = within(plan.bounds.open, "open", self.open()).await?.map_err(|why| ("open", why))?;
        let shop = Arc::new(shop);
        let stage = Stage {
            cluster: self.cluster.clone(),
            recorder: self.recorder.clone(),
            shop: shop.clone(),
            rng: self.rng.fork("loads"),
            patience: plan.patience,
            stop: self.stopped.clone(),
        };
        let mut clients = workloads::start(&stage, &plan.loads);
        self.attack(&mut clients).await?;
        self.stop.send_replace(true);
        within(plan.bounds.stop, "heal", self.heal()).await?.map_err(|why| ("heal", why))?;
        let healed = self.cluster.now();
        self.recorder.end_all_faults(healed);
        let alive = within(plan.bounds.liveness, "liveness", self.write_once(&shop)).await?;
        data.finals.first_write_after_heal = Some(alive.saturating_sub(healed));
        within(plan.bounds.drain, "drain", async {
            while let Some(ended) = clients.join_next().await {
                client_ended(ended)?;
            }
            Ok(())
        })
        .await??;
        within(plan.bounds.liveness, "tidy", self.tidy()).await?;
        for (act, (done, refused)) in shop.acts() {
            data.run.settings.insert(format!("operators: {act}"), format!("{done} done, {refused} not"));
        }
        self.end(&shop, data).await
    }

    async fn open(&self) -> Result<Shop, String> {
        self.admin.wait_for_leader(self.plan.bounds.open).await.ok_or("nobody leads")?;
        // Opening is not under attack, and nothing of it may be missing; so it is patient.
        let patience = Patience { whole: self.plan.bounds.open, attempts_max: 10_000, ..self.plan.patience };
        let mut client = self.client(OPENER, patience);
        Shop::open(&mut client, &self.plan.catalogue, self.plan.seed).await
    }

    fn client(&self, id: u32, patience: Patience) -> Client {
        Client::new(id, self.cluster.clone(), self.recorder.clone(), &self.rng, patience)
    }

    /// Runs the nemesis for its time, or until there is no more load: faults that hit nothing show nothing.
    async fn attack(&self, clients: &mut JoinSet<()>) -> Result<(), Trouble> {
        tokio::time::sleep(self.plan.warm_up).await;
        let chaos_us = u64::try_from(self.plan.chaos.as_micros()).unwrap_or(u64::MAX);
        let until = self.cluster.now().saturating_add(chaos_us);
        let rng = self.rng.fork("nemesis");
        let context = Context::new(self.cluster.clone(), self.recorder.clone(), rng, until, self.stopped.clone());
        let nemesis = self.plan.nemesis.clone();
        let attack = tokio::spawn(async move { nemesis.run(&context).await });
        let attack = AbortOnDrop(attack);
        let bound = tokio::time::sleep(self.plan.chaos + self.plan.bounds.stop);
        tokio::pin!(attack, bound);
        let had_clients = !clients.is_empty();
        loop {
            tokio::select! {
                biased;
                ended = &mut attack => {
                    ended.map_err(|why| ("attack", why))?;
                    break;
                }
                Some(ended) = clients.join_next() => {
                    client_ended(ended)?;
                    if had_clients && clients.is_empty() {
                        self.stop.send_replace(true);
                    }
                }
                () = &mut bound => {
                    return Err(("attack", format!("the nemesis did not end within {:?}", self.plan.bounds.stop)));
                }
            }
        }
        // A nemesis that has done its part before the time is over leaves the rest to the load.
        while !clients.is_empty() && self.cluster.now() < until {
            let left = Duration::from_micros(until.saturating_sub(self.cluster.now()));
            match tokio::time::timeout(left, clients.join_next()).await {
                Ok(Some(ended)) => client_ended(ended)?,
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// Everything as it should be; every node started.
    async fn heal(&self) -> Result<(), String> {
        let cluster = &*self.cluster;
        if cluster.supports(&Act::HealNetwork) {
            cluster.act(Act::HealNetwork).await?;
        }
        let nodes = cluster.nodes();
        let all = nodes.iter().copied().collect();
        let whole = Act::SetClientLinks { nodes: all, link: Link::default() };
        if cluster.supports(&whole) {
            cluster.act(whole).await?;
        }
        for node in nodes {
            for act in [Act::MendDisk(node), Act::Resume(node), Act::ClockOffset { node, ms: 0 }, Act::Start(node)] {
                if cluster.supports(&act) {
                    cluster.act(act.clone()).await.map_err(|why| format!("{act:?}: {why}"))?;
                }
            }
        }
        Ok(())
    }

    /// Starts whoever is not up: a node may end itself on a fault that it found late.
    async fn start_all(&self, starts: &mut Starts) {
        for node in self.cluster.nodes().into_iter().filter(|node| !self.cluster.is_up(*node)) {
            let (count, last) = starts.get(&node).copied().unwrap_or((0, None));
            let is_early = last.is_some_and(|last: Instant| last.elapsed() < START_PAUSE);
            if !is_early && count < STARTS_MAX {
                starts.insert(node, (count + 1, Some(Instant::now())));
                // What cannot be started is seen when the nodes are waited for.
                self.cluster.act(Act::Start(node)).await.ok();
            }
        }
    }

    /// Writes until a write is acknowledged; says when that was.
    async fn write_once(&self, shop: &Shop) -> u64 {
        let patience = Patience { attempt: Duration::from_secs(1), whole: Duration::from_secs(1), attempts_max: 1 };
        let mut client = self.client(PROBE, patience);
        let goods = shop.hot.first().or(shop.wide.first()).or(shop.bulk.first());
        let mut starts = BTreeMap::new();
        loop {
            self.start_all(&mut starts).await;
            let op = match (goods, shop.accounts.first()) {
                (Some(goods), _) => Op::AdjustStock { sku: goods.id.clone(), delta: 1 },
                (None, Some(account)) => Op::AdjustWallet { account: account.clone(), amount: 1 },
                (None, None) => Op::CreateAccount { name: "nobody".to_owned() },
            };
            if matches!(client.write(op).await, Reply::Yes { .. }) {
                return self.cluster.now();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Members that were left half-way: a learner is removed again, a stranger is switched off.
    async fn tidy(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(leader) = self.admin.leader().await else { continue };
            let Some(status) = self.admin.status(leader).await else { continue };
            if !status.is_leader {
                continue;
            }
            let nodes = self.cluster.nodes();
            let is_known = |node| status.members.iter().any(|(member, _)| *member == node);
            let mut is_tidy = true;
            for (member, votes) in &status.members {
                if !votes || !nodes.contains(member) {
                    is_tidy = false;
                    self.admin.remove(leader, *member).await.ok();
                }
            }
            for node in nodes.iter().filter(|node| !is_known(**node)) {
                is_tidy = false;
                self.cluster.act(Act::Retire(*node)).await.ok();
            }
            if is_tidy {
                return;
            }
        }
    }

    /// Takes everything down, if all nodes stand at one index.
    async fn alike(&self, said: &[Status], checkpoints: &mut Checkpoints, shop: &Shop) -> Result<Collected, Apart> {
        checkpoints.see(said)?;
        let index = quiet(&self.cluster.nodes(), said)?;
        let keys = shop.keys(KEYS_COMPARED);
        collect(&self.cluster, said, index, &keys, self.plan.feeds_max).await
    }

    /// Waits until all is quiet and takes everything down. What nodes contradict each other in is not waited for.
    async fn end(&self, shop: &Shop, data: &mut RunData) -> Result<(), Trouble> {
        let until = Instant::now() + self.plan.bounds.quiet;
        let mut starts = BTreeMap::new();
        let mut checkpoints = Checkpoints::default();
        let mut touched = Instant::now();
        loop {
            self.start_all(&mut starts).await;
            let said = self.admin.statuses().await;
            let why = match self.alike(&said, &mut checkpoints, shop).await {
                Ok(Collected { nodes, feeds }) => {
                    (data.finals.nodes, data.feeds) = (nodes, feeds);
                    return Ok(());
                }
                Err(Apart::NotYet(why)) => why,
                Err(Apart::Contradiction(what)) => return Err(("contradiction", what)),
            };
            if Instant::now() >= until {
                return Err(("quiet", format!("not within {:?}: {why}", self.plan.bounds.quiet)));
            }
            if touched.elapsed() > Duration::from_secs(5) {
                // A node that was started after the last checkpoint waits for one, and so for a write.
                within(self.plan.bounds.liveness, "quiet", self.write_once(shop)).await?;
                touched = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
