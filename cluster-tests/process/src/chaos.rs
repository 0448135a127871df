//! Attacks on real processes until the time is over: batch after batch, each on a cluster of its own.
//!
//! A batch is a run of [`agora_scenario::runner`] with many rounds of faults, judged by all checkers before the next one
//! begins, so that no history grows beyond what can be held and a failure names a short run that shows it. Batch `n` of
//! seed `s` is batch 0 of seed `s + n`: the line that repeats a failure repeats nothing else.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agora_checkers::Checked;
use agora_history::{Fault, Role, RunData, RunDir};
use agora_scenario::{
    cluster::Cluster,
    invariants::{self, NodeSettings, Scenario, Size},
    nemesis::{self, Campaign},
    report::Summary,
    runner::{self, Plan},
    schedule::{Calm, Nemesis},
    workloads::{Catalogue, Kind, Load},
};

use crate::{Inside, NodeProgram, Overrides, Processes, Settings};

/// A batch shorter than this shows nothing.
const BATCH_MIN: Duration = Duration::from_secs(20);
/// What a batch takes beside its chaos: opening, settling, collecting, judging. A guess for the first one.
const OVERHEAD: Duration = Duration::from_secs(20);
/// Checker that looks at all rounds together: one batch may well miss a leader.
const OVER_ALL: &str = "C11";
/// So many rounds of an attack must have hit both a leader and a follower at work; fewer may miss one by chance.
const ROUNDS_TO_COVER: usize = 6;
/// A run with so many rounds is a whole one, in which every attack must have hit both, however often it came.
const ROUNDS_OF_A_WHOLE_RUN: usize = 230;
/// What a node says when it panics. No fault excuses that.
const BUG: &str = "this node met a bug";

/// What to do.
#[derive(Clone, Debug)]
pub struct ChaosArgs {
    /// How long, all in all.
    pub time: Duration,
    pub seed: u64,
    /// Attacks by name, or `calm`; none: those of the scenario, or all of them.
    pub nemeses: Vec<String>,
    /// Nodes that found each cluster; 0: three, or five for every fifth seed.
    pub nodes: u64,
    /// One of [`invariants::all`] or of [`MIXES`], or workloads joined by `+`; empty: one after the other, by the seed.
    pub scenario: String,
    /// Time of the attacks in one batch.
    pub batch: Duration,
    /// Keep histories and disks of batches that passed.
    pub keep: bool,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// What runs as a node, and what N14 swaps it for.
    pub program: NodeProgram,
    pub other: Option<NodeProgram>,
    /// Beside [`Settings::usual`].
    pub overrides: Overrides,
}

impl ChaosArgs {
    /// All attacks, all scenarios.
    pub fn new(program: NodeProgram) -> ChaosArgs {
        ChaosArgs {
            time: Duration::from_secs(300),
            seed: 1,
            nemeses: Vec::new(),
            nodes: 0,
            scenario: String::new(),
            batch: Duration::from_secs(60),
            keep: false,
            dir: PathBuf::from("target/chaos"),
            program,
            other: None,
            overrides: Overrides::none(),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct ChaosReport {
    /// All batches added up, findings included.
    pub summary: Summary,
    /// One line to paste for each batch that failed.
    pub again: Vec<String>,
    /// Where what they left is kept.
    pub kept: Vec<PathBuf>,
    /// Attacks that could not be made in full here, and what was missing.
    pub left_out: Vec<String>,
    pub batches: u64,
    /// Packets between the machines: all, and those that were lost, late, doubled.
    pub packets: [u64; 4],
}

/// Workload, clients, pause of each in milliseconds.
type Mix = &'static [(Kind, u32, u64)];

/// Loads for any attacks, by name.
pub const MIXES: &[(&str, Mix)] = &[
    (
        "everything",
        &[
            (Kind::Rush, 8, 4),
            (Kind::Carts, 5, 8),
            (Kind::Payments, 5, 8),
            (Kind::Storm, 4, 10),
            (Kind::Receiving, 3, 20),
            (Kind::Feed, 2, 30),
            (Kind::Reads, 6, 8),
        ],
    ),
    ("bulk", &[(Kind::Bulk, 4, 20), (Kind::Rush, 6, 5), (Kind::Reads, 2, 20)]),
];

/// What clients do, and what the nodes are configured to for it.
enum Loads {
    /// A promise with loads and attacks of its own.
    Promise(Box<Scenario>),
    Mixed(Vec<Load>),
}

impl Loads {
    fn named(scenario: &str) -> Result<Loads, String> {
        if let Some(promise) = invariants::by_name(scenario) {
            return Ok(Loads::Promise(Box::new(promise)));
        }
        let load = |(kind, clients, pace_ms)| Load::new(kind, clients, Duration::from_millis(pace_ms));
        if let Some((_, mix)) = MIXES.iter().find(|(name, _)| *name == scenario) {
            return Ok(Loads::Mixed(mix.iter().copied().map(load).collect()));
        }
        let wrong = |name: &str| format!("no scenario {name:?}: {}, or workloads as in W1+W7", names().join(", "));
        let kinds = scenario.split('+').map(|name| Kind::named(name.trim()).ok_or_else(|| wrong(name)));
        kinds.map(|kind| Ok(load((kind?, 10, 5)))).collect::<Result<_, _>>().map(Loads::Mixed)
    }

    fn overrides(&self) -> Overrides {
        let settings = match self {
            Loads::Promise(promise) => promise.settings,
            // Long enough to pay in, short enough to run out in a run.
            Loads::Mixed(_) => NodeSettings { order_ttl_ms: Some(4_000), ..NodeSettings::default() },
        };
        let given = [
            ("shop", "order_ttl_ms", settings.order_ttl_ms),
            ("shop", "admission_max", settings.admission_max),
            ("raft", "log_bytes_max", settings.log_bytes_max),
            ("raft", "snapshot_log_bytes", settings.snapshot_log_bytes()),
        ];
        given.into_iter().fold(Overrides::none(), |all, (section, key, value)| match value {
            Some(value) => all.set(section, key, i64::try_from(value).unwrap_or(i64::MAX)),
            None => all,
        })
    }
}

/// All scenarios there are.
pub fn names() -> Vec<&'static str> {
    invariants::all().iter().map(|scenario| scenario.name).chain(MIXES.iter().map(|(name, _)| *name)).collect()
}

/// Attacks until the time is over or a promise is broken. Says on standard error how it goes. Call it on a runtime of
/// several threads.
///
/// # Errors
/// What could not be begun at all: an unknown name, a machine that cannot be made.
pub async fn chaos(inside: Inside, args: &ChaosArgs) -> Result<ChaosReport, String> {
    tokio::spawn(async {
        // The first process of a namespace has to say itself that it can be interrupted.
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    let began = Instant::now();
    let mut report = ChaosReport::default();
    let mut faults = Vec::new();
    let mut overhead = OVERHEAD;
    while report.again.is_empty() {
        let left = args.time.saturating_sub(began.elapsed());
        let chaos = args.batch.min(left.saturating_sub(overhead));
        // The first one is made however short the time is.
        if report.batches > 0 && chaos < BATCH_MIN {
            break;
        }
        let batch = Batch::new(args, report.batches, chaos.max(BATCH_MIN.min(args.batch)));
        let begun = Instant::now();
        let outcome = batch.run(inside, &mut report).await?;
        overhead = begun.elapsed().saturating_sub(batch.chaos).max(Duration::from_secs(5));
        report.batches += 1;
        for fault in &outcome.faults {
            faults.push(fault.clone());
        }
        eprintln!("{}, {} s in all", outcome.line, begun.elapsed().as_secs());
    }
    cover(&mut report, args, faults);
    report.summary.judge_all();
    Ok(report)
}

/// Attacks that must have hit both leaders and followers at work: those with enough rounds, and in a whole run every one
/// that hits members at all.
fn to_cover(faults: &[Fault]) -> Vec<&str> {
    let mut rounds: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    for fault in faults {
        let (count, hits_members) = rounds.entry(&fault.nemesis).or_default();
        *count += 1;
        *hits_members |= fault.targets.iter().any(|target| target.role != Role::Neither);
    }
    let is_whole = faults.len() >= ROUNDS_OF_A_WHOLE_RUN;
    let is_due = |(count, hits_members): &(usize, bool)| *count >= ROUNDS_TO_COVER || (is_whole && *hits_members);
    rounds.into_iter().filter(|(_, seen)| is_due(seen)).map(|(nemesis, _)| nemesis).collect()
}

/// Whether every attack met leaders and followers at work, over all batches.
fn cover(report: &mut ChaosReport, args: &ChaosArgs, faults: Vec<Fault>) {
    let declared = to_cover(&faults);
    let settings = BTreeMap::from([("nemeses".to_owned(), declared.join(","))]);
    let run = agora_history::Run { harness: "processes".to_owned(), seed: args.seed, settings, ..Default::default() };
    let all = RunData { run, faults, ..RunData::default() };
    for verdict in agora_checkers::all().iter().map(|checker| checker(&all)) {
        if verdict.checker == OVER_ALL {
            let mut only = Summary::default();
            only.add(&RunData { run: all.run.clone(), ..RunData::default() }, &[verdict]);
            only.scenarios.clear();
            only.seeds.clear();
            report.summary.merge(only);
        }
    }
}

struct Batch<'a> {
    args: &'a ChaosArgs,
    seed: u64,
    scenario: String,
    nodes: u64,
    chaos: Duration,
    dir: PathBuf,
}

struct Outcome {
    faults: Vec<Fault>,
    line: String,
}

impl Batch<'_> {
    fn new(args: &ChaosArgs, number: u64, chaos: Duration) -> Batch<'_> {
        let seed = args.seed.wrapping_add(number);
        // By the seed, so that the same seed alone is the same batch.
        let names: Vec<&str> = match args.nemeses.as_slice() {
            [] => names(),
            _ => MIXES.iter().map(|(name, _)| *name).collect(),
        };
        let by_seed = || names[(seed % names.len() as u64) as usize].to_owned();
        let scenario = if args.scenario.is_empty() { by_seed() } else { args.scenario.clone() };
        let nodes = match args.nodes {
            0 if seed % 5 == 4 => 5,
            0 => 3,
            given => given,
        };
        let dir = args.dir.join(format!("seed-{seed}"));
        Batch { args, seed, scenario, nodes, chaos, dir }
    }

    /// The line that does this batch again.
    fn again(&self) -> String {
        let mut line = format!(
            "cargo run -p agora-cluster-tests -- chaos --seed {} --scenario {} --nodes {} --minutes {:.1}",
            self.seed,
            self.scenario,
            self.nodes,
            (self.chaos + OVERHEAD).as_secs_f64() / 60.0
        );
        for nemesis in &self.args.nemeses {
            let _ = write!(line, " --nemesis {nemesis}");
        }
        line
    }

    fn plan(&self, loads: Loads, nemesis: Arc<dyn Nemesis>) -> Plan {
        let mut plan = match loads {
            Loads::Promise(promise) => promise.plan_with(self.seed, Size::Real(self.chaos), nemesis),
            Loads::Mixed(loads) => {
                let bulk = if loads.iter().any(|load| load.kind == Kind::Bulk) { 20 } else { 0 };
                let catalogue = Catalogue { bulk, ..Catalogue::default() };
                Plan { catalogue, loads, ..Plan::new(&self.scenario, self.seed, nemesis, self.chaos) }
            }
        };
        plan.stream = Some(self.dir.join("stream.jsonl"));
        plan
    }

    async fn run(&self, inside: Inside, report: &mut ChaosReport) -> Result<Outcome, String> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", self.dir.display()));
            }
            _ => {}
        }
        let loads = Loads::named(&self.scenario)?;
        let cluster = Arc::new(Processes::start(inside, self.settings(&loads))?);
        let nemesis = self.nemesis(&loads, &cluster, report)?;
        let plan = self.plan(loads, nemesis);
        let ended = runner::run(cluster.clone(), &plan).await;
        let carried = cluster.carried();
        for (sum, more) in report.packets.iter_mut().zip([carried.packets, carried.lost, carried.late, carried.doubled])
        {
            *sum += more;
        }
        let left: usize = cluster.left().values().map(Vec::len).sum();
        let evidence = cluster.evidence();
        let run_dir = cluster.dir().to_owned();
        let closed = tokio::task::spawn_blocking(move || drop(cluster)).await;
        closed.map_err(|error| error.to_string())?;
        let (data, broken) = match ended {
            Ok(data) => (data, None),
            Err(failed) => {
                let told = format!("{}: {}", failed.phase, failed.why);
                let _ = fs::write(run_dir.join("evidence.txt"), &failed.evidence);
                (*failed.data, Some(told))
            }
        };
        let judged = data.clone();
        let verdicts = tokio::task::spawn_blocking(move || -> Vec<Checked> {
            agora_checkers::all().into_iter().map(|checker| checker(&judged)).collect()
        });
        let mut verdicts = verdicts.await.map_err(|error| format!("a checker broke: {error}"))?;
        verdicts.retain(|verdict| verdict.checker != OVER_ALL);
        let mut summary = Summary::default();
        // What a run that broke off never collected is missing from no node.
        summary.add(&data, if broken.is_some() { &[] } else { &verdicts });
        if let Some(told) = &broken {
            summary.find(format!("run (seed {}): {told}", self.seed));
        }
        if evidence.contains(BUG) {
            summary.find(format!("run (seed {}): a node met a bug of its own and ended; see nodes.txt", self.seed));
        }
        let found = summary.findings_total;
        let line = format!(
            "batch {}: seed {}, {}, {} rounds, {} operations, {} acknowledged, {} unknown, {left} deaths of nodes, {}",
            report.batches,
            self.seed,
            self.scenario,
            summary.rounds(),
            summary.operations,
            summary.acknowledged,
            summary.unknown,
            if found == 0 { "all promises kept".to_owned() } else { format!("{found} FINDINGS") }
        );
        if found > 0 {
            for finding in &summary.findings {
                eprintln!("{finding}");
            }
            eprintln!("kept in {}; again: {}", run_dir.display(), self.again());
            report.again.push(self.again());
            report.kept.push(run_dir.clone());
            let _ = fs::write(run_dir.join("nodes.txt"), evidence);
        }
        if found > 0 || self.args.keep {
            RunDir::new(run_dir.join("history")).write(&data).map_err(|error| error.to_string())?;
        } else {
            fs::remove_dir_all(&run_dir).map_err(|error| format!("{}: {error}", run_dir.display()))?;
        }
        report.summary.merge(summary);
        Ok(Outcome { faults: data.faults, line })
    }

    fn settings(&self, loads: &Loads) -> Settings {
        let mut settings = Settings::new(&self.dir, self.args.program.clone());
        settings.nodes = self.nodes;
        settings.seed = self.seed;
        settings.other.clone_from(&self.args.other);
        settings.overrides = loads.overrides().and(&self.args.overrides);
        settings
    }

    fn nemesis(
        &self,
        loads: &Loads,
        cluster: &Arc<Processes>,
        report: &mut ChaosReport,
    ) -> Result<Arc<dyn Nemesis>, String> {
        let names: Vec<&str> = match (self.args.nemeses.as_slice(), loads) {
            ([one], _) if one.eq_ignore_ascii_case("calm") => Vec::new(),
            ([], Loads::Promise(promise)) => promise.attacks.to_vec(),
            ([], Loads::Mixed(_)) => nemesis::all().iter().map(|attack| attack.name()).collect(),
            (given, _) => given.iter().map(String::as_str).collect(),
        };
        if names.is_empty() {
            return Ok(Arc::new(Calm));
        }
        let campaign = Campaign::of(&names)?.from_turn(self.seed % 2);
        for attack in campaign.attacks() {
            let (needed, wanted) = nemesis::missing(&**attack, &**cluster);
            if !needed.is_empty() {
                return Err(format!("{} cannot be made here: {needed:?}", attack.name()));
            }
            let told = format!("{}: {wanted:?}", attack.name());
            if !wanted.is_empty() && !report.left_out.contains(&told) {
                report.left_out.push(told);
            }
        }
        Ok(Arc::new(campaign))
    }
}

/// Removes what earlier runs left in a directory.
///
/// # Errors
/// Those of the file system.
pub fn clear(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("seed-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_loads_and_a_wrong_name_is_told() {
        for name in names() {
            assert!(Loads::named(name).is_ok(), "{name}");
        }
        let Ok(Loads::Mixed(two)) = Loads::named("W1+w7") else { panic!("W1+w7 is no scenario") };
        assert_eq!(two.iter().map(|load| load.kind).collect::<Vec<_>>(), [Kind::Rush, Kind::Reads]);
        assert!(Loads::named("W99").is_err_and(|error| error.contains("never_oversell")));
    }

    fn fault(nemesis: &str, role: Role) -> Fault {
        let targets = vec![agora_history::Target { node: 1, role }];
        Fault {
            nemesis: nemesis.into(),
            kind: "cut".into(),
            from: 0,
            until: None,
            targets,
            in_flight: 1,
            detail: String::new(),
        }
    }

    #[test]
    fn in_a_whole_run_every_attack_on_members_must_hit_leaders_and_followers() {
        let judge = |faults: Vec<Fault>| {
            let mut report = ChaosReport::default();
            cover(&mut report, &ChaosArgs::new(NodeProgram::agora("/agora")), faults);
            report.summary.findings
        };
        let many = |count| [fault("N1", Role::Leader), fault("N1", Role::Follower)].into_iter().cycle().take(count);
        let rare = || [fault("N14", Role::Leader), fault("N17", Role::Neither)];
        assert_eq!(judge(many(227).chain(rare()).collect()), Vec::<String>::new());
        let found = judge(many(228).chain(rare()).collect());
        assert!(found.len() == 1 && found[0].contains("N14 never hit who followed"), "{found:?}");
        assert_eq!(judge((0..6).map(|_| fault("N5", Role::Leader)).collect()).len(), 1);
        assert_eq!(judge((0..5).map(|_| fault("N5", Role::Leader)).collect()), Vec::<String>::new());
    }

    #[test]
    fn a_later_batch_is_the_first_one_of_its_own_seed() {
        let args = ChaosArgs { nemeses: vec!["N6".into()], ..ChaosArgs::new(NodeProgram::agora("/agora")) };
        let fourth = Batch::new(&args, 3, args.batch);
        let line = fourth.again();
        assert!(line.contains("--seed 4 ") && line.contains("--nodes 5 ") && line.ends_with("--nemesis N6"), "{line}");
        let same = ChaosArgs { seed: 4, ..args.clone() };
        let again = Batch::new(&same, 0, args.batch);
        assert_eq!((again.seed, &again.scenario, again.nodes), (fourth.seed, &fourth.scenario, fourth.nodes));
    }
}
