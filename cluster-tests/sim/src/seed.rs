//! One seed: a run from an empty cluster to its report.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use agora_actors::{RaftConfig, ShopConfig};
use agora_history::NodeId;
use agora_scenario::{
    cluster::{Act, Cluster, Link},
    rng::Rng,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{cluster::SimCluster, driver::Driver, entropy, load, machine::Plan, trace::Trace};

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeedArgs {
    /// Everything random comes from it.
    pub seed: u64,
    /// Keep every event, to compare two runs line by line.
    pub lines: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SeedReport {
    /// Which.
    pub seed: u64,
    /// Name of the scenario.
    pub scenario: String,
    /// Fingerprint of the run.
    pub trace: u64,
    /// Events in it.
    pub events: u64,
    /// Simulated time.
    pub simulated_s: f64,
    /// Real time.
    pub wall_s: f64,
    /// Operations by kind.
    pub ops: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// What must not be.
    pub findings: Vec<String>,
    /// What was logged.
    pub evidence: String,
    /// The events, if asked for.
    pub lines: Vec<String>,
}

/// Runs a seed on a thread of its own, where everything random comes from it.
///
/// # Panics
/// When the thread cannot be made, or the product panics.
pub fn run_seed(args: &SeedArgs) -> SeedReport {
    let args = args.clone();
    std::thread::Builder::new()
        .name("seed".to_owned())
        .stack_size(16 * 1024 * 1024)
        .spawn(move || {
            entropy::seed_this_thread(args.seed);
            run(&args)
        })
        .expect("a thread can be made")
        .join()
        .expect("the run does not panic")
}

fn run(args: &SeedArgs) -> SeedReport {
    let begun = entropy::real_now();
    let seed = args.seed;
    let trace = Trace::new(args.lines);
    let nodes: Vec<NodeId> = (1..=3).collect();
    let plan = Plan {
        seed,
        first: nodes,
        shop: ShopConfig { order_ttl_ms: 5_000, ..ShopConfig::default() },
        raft: RaftConfig::default(),
    };
    let cluster = SimCluster::new(plan, trace.clone());
    let mut driver = Driver::new(cluster.clone(), seed, Duration::from_secs(600));
    let tally = Arc::new(Mutex::new(load::Tally::default()));
    let faults = Arc::new(Mutex::new(BTreeMap::new()));
    {
        let (cluster, tally, faults) = (cluster.clone(), tally.clone(), faults.clone());
        driver.client(async move {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let until = cluster.now() + 30_000_000;
            let chaos = tokio::spawn(chaos(cluster.clone(), seed, until, faults));
            let load = load::run(&cluster, seed, 12, until, 300).await;
            chaos.await??;
            *tally.lock() = load;
            let mut last = load::Client::new(&cluster, seed, 999);
            let begun = cluster.now();
            let (skus, _) = last.set_up(1, 0).await;
            if skus.iter().any(String::is_empty) {
                cluster.found("no write succeeds after healing".to_owned());
            }
            cluster.log(format!("first write {} ms after healing", (cluster.now() - begun) / 1_000));
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        });
    }
    let ended = driver.run();
    let simulated = ended.clone().unwrap_or(Duration::from_secs(600));
    if let Err(error) = ended {
        cluster.found(format!("the run did not end: {error}"));
    }
    cluster.log(format!("{} terms led, {} states compared", driver.safety().terms(), driver.safety().compared()));
    trace.note("chance", &[entropy::drawn()]);
    let tally = *tally.lock();
    let ops = [("sent", tally.sent), ("yes", tally.yes), ("no", tally.no), ("5xx", tally.failed), ("lost", tally.lost)];
    let faults = faults.lock().clone();
    let report = SeedReport {
        seed,
        scenario: "own load".to_owned(),
        trace: trace.hash(),
        events: trace.events(),
        simulated_s: simulated.as_secs_f64(),
        wall_s: (entropy::real_now() - begun).as_secs_f64(),
        ops: ops.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        faults,
        findings: cluster.findings(),
        evidence: cluster.evidence(),
        lines: trace.lines(),
    };
    // Nothing of the nodes may be dropped outside of the simulation.
    std::mem::forget(driver);
    report
}

type Counted = Arc<Mutex<BTreeMap<String, u64>>>;

async fn chaos(cluster: SimCluster, seed: u64, until: u64, faults: Counted) -> Result<(), String> {
    let mut rng = Rng::new(seed).fork("chaos");
    tokio::time::sleep(Duration::from_secs(2)).await;
    while cluster.now() < until {
        let nodes = cluster.nodes();
        let one = *rng.pick(&nodes).unwrap_or(&1);
        let single = BTreeSet::from([one]);
        let others: BTreeSet<NodeId> = nodes.iter().copied().filter(|node| *node != one).collect();
        let pause = Duration::from_millis(rng.between(300, 3_000));
        let kind = rng.below(8);
        let name = ["isolate", "one way", "loss", "kill", "power", "power all", "stop", "reset"];
        *faults.lock().entry(name[kind as usize].to_owned()).or_default() += 1;
        match kind {
            0 | 1 => {
                cluster.act(Act::SetLinks { from: single.clone(), to: others.clone(), link: Link::CUT }).await?;
                if kind == 0 {
                    cluster.act(Act::SetLinks { from: others, to: single, link: Link::CUT }).await?;
                }
                tokio::time::sleep(pause).await;
            }
            2 => {
                let link = Link { loss: 0.2, delay_ms: 20, jitter_ms: 30, ..Link::default() };
                cluster.act(Act::SetLinks { from: single.clone(), to: others.clone(), link }).await?;
                tokio::time::sleep(pause).await;
            }
            3 | 4 => {
                let act = if kind == 3 { Act::Kill(single) } else { Act::PowerLoss(single) };
                cluster.act(act).await?;
                tokio::time::sleep(pause).await;
                cluster.act(Act::Start(one)).await?;
            }
            5 => {
                cluster.act(Act::PowerLoss(nodes.iter().copied().collect())).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
                for node in nodes {
                    cluster.act(Act::Start(node)).await?;
                }
            }
            6 => {
                cluster.act(Act::Stop(one)).await?;
                tokio::time::sleep(pause).await;
                cluster.act(Act::Start(one)).await?;
            }
            _ => cluster.act(Act::ResetConnections { nodes: nodes.into_iter().collect() }).await?,
        }
        cluster.act(Act::HealNetwork).await?;
        tokio::time::sleep(Duration::from_millis(rng.between(500, 2_500))).await;
    }
    cluster.act(Act::HealNetwork).await?;
    for node in cluster.nodes() {
        cluster.act(Act::Start(node)).await?;
    }
    Ok(())
}
