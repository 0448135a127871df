//! One seed: a run from an empty cluster to its report.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use agora_actors::RaftConfig;
use agora_history::{NodeId, RunData, RunDir};
use agora_scenario::{
    cluster::Cluster,
    report::Summary,
    runner::{self, Plan},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{cluster::SimCluster, driver::Driver, entropy, machine, pick, trace::Trace};

/// Longest run, in simulated time: every part of it is bounded by far less.
const RUN_MAX: Duration = Duration::from_secs(900);
/// Time in which the nodes find each other.
const WAKE_UP: Duration = Duration::from_millis(1_500);
/// Stack of the thread that runs a seed.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// What to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SeedArgs {
    /// Everything random comes from it.
    pub seed: u64,
    /// A scenario by name; the seed picks one if there is none.
    pub scenario: Option<String>,
    /// Keep every event, to compare two runs line by line.
    pub lines: bool,
    /// Where history and evidence of a failed run are put.
    pub keep: Option<PathBuf>,
    /// Seconds under attack, if not the usual ones. The same seed with another time is another run.
    #[serde(default)]
    pub attack_s: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SeedReport {
    /// Which.
    pub seed: u64,
    /// Name of the scenario.
    pub scenario: String,
    /// Nodes at the beginning.
    pub nodes: u64,
    /// Fingerprint of the run.
    pub trace: u64,
    /// Events in it.
    pub events: u64,
    /// Simulated time.
    pub simulated_s: f64,
    /// Real time.
    pub wall_s: f64,
    /// Processor time.
    pub cpu_s: f64,
    /// Of the real time, what the checkers took.
    pub checking_s: f64,
    /// Calls by kind of operation.
    pub ops: BTreeMap<String, u64>,
    /// Rounds by nemesis.
    pub faults: BTreeMap<String, u64>,
    /// What must not be.
    pub findings: Vec<String>,
    /// Terms in which somebody led.
    pub terms: u64,
    /// States that two nodes were found to have alike while it ran.
    pub states_compared: u64,
    /// Everything the tables show.
    pub summary: Summary,
    /// What was logged, if anything was found.
    pub evidence: String,
    /// The events, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

/// Runs a seed on a thread of its own, where everything random comes from it. One process runs one seed: what libraries
/// keep for the whole process is not as new for a second one.
///
/// # Panics
/// When the thread cannot be made, or the product panics.
pub fn run_seed(args: &SeedArgs) -> SeedReport {
    let mut args = args.clone();
    args.scenario = args.scenario.or_else(|| pick::scenario(args.seed));
    std::thread::Builder::new()
        .name("seed".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            entropy::seed_this_thread(args.seed);
            run(&args)
        })
        .expect("a thread can be made")
        .join()
        .expect("the run does not panic")
}

type Result<T> = std::result::Result<T, String>;
/// What was recorded, and whether the run came to its end.
type Outcome = Arc<Mutex<Option<(RunData, Result<()>)>>>;

fn run(args: &SeedArgs) -> SeedReport {
    let begun = entropy::real_now();
    let seed = args.seed;
    let trace = Trace::new(args.lines);
    let nodes: Vec<NodeId> = (1..=pick::nodes(seed)).collect();
    let plan = machine::Plan {
        seed,
        first: nodes.clone(),
        shop: pick::shop(seed, args.scenario.as_deref()),
        raft: pick::raft(seed, args.scenario.as_deref(), RaftConfig::default()),
    };
    let cluster = SimCluster::new(plan, trace.clone());
    let mut driver = Driver::new(cluster.clone(), seed, RUN_MAX);
    let outcome = Outcome::default();
    let mut report = SeedReport { seed, nodes: nodes.len() as u64, ..SeedReport::default() };
    let chaos = args.attack_s.map_or(pick::CHAOS, Duration::from_secs);
    match pick::plan(seed, args.scenario.as_deref(), chaos, &cluster) {
        Ok(plan) => {
            report.scenario.clone_from(&plan.scenario);
            driver.client(attack(cluster.clone(), plan, outcome.clone()));
        }
        Err(error) => {
            report.findings.push(error);
            return report;
        }
    }
    let ended = driver.run();
    let simulated = ended.clone().unwrap_or(RUN_MAX);
    if let Err(error) = ended {
        cluster.found(format!("the run did not end: {error}"));
    }
    report.terms = driver.safety().terms() as u64;
    report.states_compared = driver.safety().compared();
    // Nothing of the nodes may be dropped outside of the simulation; the process ends soon.
    std::mem::forget(driver);
    trace.note("chance", &[entropy::drawn()]);
    let told_nothing = || (RunData::default(), Err("the run told nothing".to_owned()));
    let (data, outcome) = outcome.lock().take().unwrap_or_else(told_nothing);
    if let Err(error) = outcome {
        cluster.found(error);
    }
    let checking = entropy::real_now();
    let verdicts: Vec<_> = agora_checkers::all().into_iter().map(|check| check(&data)).collect();
    report.checking_s = (entropy::real_now() - checking).as_secs_f64();
    for verdict in verdicts.iter().filter(|verdict| !pick::is_about_many_runs(&verdict.checker)) {
        if let Some(unsure) = verdict.unsure() {
            cluster.found(format!("{}: {unsure}", verdict.checker));
        }
        for finding in &verdict.findings {
            cluster.found(format!(
                "{}: {} (operations {:?}, index {:?})",
                verdict.checker, finding.what, finding.ops, finding.index
            ));
        }
    }
    report.summary.add(&data, &verdicts);
    for call in &data.calls {
        *report.ops.entry(name_of(&call.request)).or_default() += 1;
    }
    for fault in &data.faults {
        *report.faults.entry(fault.nemesis.clone()).or_default() += 1;
    }
    report.findings = cluster.findings();
    (report.trace, report.events, report.lines) = (trace.hash(), trace.events(), trace.lines());
    report.simulated_s = simulated.as_secs_f64();
    report.wall_s = (entropy::real_now() - begun).as_secs_f64();
    report.cpu_s = entropy::processor_time().as_secs_f64();
    if !report.findings.is_empty() || args.lines {
        report.evidence = cluster.evidence();
        if let Some(keep) = &args.keep
            && let Err(error) = keep_all(keep, &data, &report)
        {
            report.findings.push(format!("the history could not be kept in {}: {error}", keep.display()));
        }
    }
    report
}

/// What the clients' machine does.
async fn attack(cluster: SimCluster, plan: Plan, outcome: Outcome) -> turmoil::Result {
    tokio::time::sleep(WAKE_UP).await;
    let ended = runner::run(Arc::new(cluster.clone()), &plan).await;
    *outcome.lock() = Some(match ended {
        Ok(data) => (data, Ok(())),
        Err(failed) => {
            cluster.log(failed.evidence.clone());
            (*failed.data, Err(format!("{}: {}", failed.phase, failed.why)))
        }
    });
    Ok(())
}

fn name_of(op: &agora_history::Op) -> String {
    let text = format!("{op:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

fn keep_all(keep: &std::path::Path, data: &RunData, report: &SeedReport) -> std::io::Result<()> {
    let dir = keep.join(format!("seed-{}", report.seed));
    RunDir::new(&dir).write(data)?;
    std::fs::write(dir.join("evidence.txt"), &report.evidence)?;
    let report = SeedReport { lines: Vec::new(), ..report.clone() };
    std::fs::write(dir.join("report.json"), serde_json::to_vec_pretty(&report)?)
}
