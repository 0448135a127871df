//! Many seeds, each in a process of its own, on as many cores as there are.
//!
//! One in a hundred is run twice, and both runs must have the same fingerprint. A run that found something keeps its
//! history, and prints the one line that repeats it.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agora_scenario::{child, report::Summary};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::seed::{SeedArgs, SeedReport, run_seed};

/// What a child's report begins with, on a line of its own.
const MARK: &str = "agora-sim-report: ";
/// A run that takes longer hangs. Real time: a hundred times what one takes.
const CHILD_MAX: Duration = Duration::from_secs(300);
/// Failures that are told in full.
const FAILURES_MAX: usize = 50;
/// One of so many seeds is run twice.
pub const TWICE_ONE_IN: u64 = 100;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The first seed; the others follow it.
    pub first: u64,
    /// Seeds at most.
    pub count: u64,
    /// No new seed is begun after so long.
    pub budget: Duration,
    /// Processes at once.
    pub jobs: usize,
    /// The program that runs one seed, and its arguments before the last, which is [`SeedArgs`] as JSON. It must call
    /// [`child`].
    pub program: PathBuf,
    /// See `program`.
    pub arguments: Vec<String>,
    /// Set in the children's environment.
    pub environment: Vec<(String, String)>,
    /// One scenario for all; each seed picks one if there is none.
    pub scenario: Option<String>,
    /// Seconds under attack, if not the usual ones.
    pub attack_s: Option<u64>,
    /// Where histories of failed runs are put.
    pub keep: Option<PathBuf>,
    /// Tell of progress on standard error.
    pub tell: bool,
}

impl Fleet {
    /// So many seeds by this very program, on all cores.
    ///
    /// # Errors
    /// When the program cannot be found.
    pub fn new(first: u64, count: u64, arguments: &[&str]) -> io::Result<Fleet> {
        Ok(Fleet {
            first,
            count,
            budget: Duration::from_secs(24 * 60 * 60),
            jobs: thread::available_parallelism().map_or(1, usize::from),
            program: std::env::current_exe()?,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: Vec::new(),
            scenario: None,
            attack_s: None,
            keep: None,
            tell: false,
        })
    }
}

/// A seed that found something.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What it ran.
    pub scenario: String,
    /// What it found.
    pub findings: Vec<String>,
    /// Paste this to run it again.
    pub reproduce: String,
    /// Where its history is.
    pub kept: Option<PathBuf>,
}

/// What came of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FleetReport {
    /// Seeds that were run.
    pub seeds: u64,
    /// The first and the last of them.
    pub range: (u64, u64),
    /// Simulated time of all of them.
    pub simulated_s: f64,
    /// Processor time of all of them.
    pub cpu_s: f64,
    /// Real time.
    pub wall_s: f64,
    /// Simulated seconds per second of one core.
    pub speed: f64,
    /// Seeds that were run twice.
    pub replayed: u64,
    /// Of them, those whose runs differed.
    pub differed: Vec<u64>,
    /// Events that went into fingerprints.
    pub events: u64,
    /// Terms in which somebody led.
    pub terms: u64,
    /// States that two nodes were found to have alike while a run went on.
    pub states_compared: u64,
    /// Calls by kind of operation.
    pub ops: BTreeMap<String, u64>,
    /// Rounds by nemesis.
    pub faults: BTreeMap<String, u64>,
    /// Seeds that found something; the first ones in full.
    pub failures: Vec<Failure>,
    /// How many there were.
    pub failed: u64,
    /// Everything the tables show.
    pub summary: Summary,
}

impl FleetReport {
    /// Whether nothing was found, something was run, and of that enough was run twice.
    pub fn is_good(&self) -> bool {
        self.failed == 0
            && self.differed.is_empty()
            && self.summary.findings_total == 0
            && self.seeds > 0
            && self.replayed * TWICE_ONE_IN >= self.seeds
    }

    fn add(&mut self, report: &SeedReport) {
        self.seeds += 1;
        self.simulated_s += report.simulated_s;
        self.cpu_s += report.cpu_s;
        self.events += report.events;
        self.terms += report.terms;
        self.states_compared += report.states_compared;
        for (name, count) in &report.ops {
            *self.ops.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &report.faults {
            *self.faults.entry(name.clone()).or_default() += count;
        }
        self.summary.merge(report.summary.clone());
    }

    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }
}

/// What a child's `main` does with its last argument. It ends with the thread that started it, however that ends.
///
/// # Errors
/// Arguments that cannot be understood.
pub fn child(arguments: &str) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    let args: SeedArgs = serde_json::from_str(arguments).map_err(|error| error.to_string())?;
    let report = run_seed(&args);
    println!("\n{MARK}{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    Ok(())
}

/// The one line that runs a seed of this fleet again.
pub fn reproduce(fleet: &Fleet, seed: u64) -> String {
    let scenario = fleet.scenario.as_deref().map(|name| format!(" --scenario {name}")).unwrap_or_default();
    let attack = fleet.attack_s.map(|seconds| format!(" --attack-seconds {seconds}")).unwrap_or_default();
    format!("cargo run -p agora-cluster-tests -- sim --seed {seed}{scenario}{attack}")
}

/// Runs them all.
pub fn run(fleet: &Fleet) -> FleetReport {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let all = Mutex::new(FleetReport { range: (fleet.first, fleet.first), ..FleetReport::default() });
    thread::scope(|scope| {
        for _ in 0..fleet.jobs.max(1) {
            scope.spawn(|| {
                while begun.elapsed() < fleet.budget {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= fleet.count {
                        return;
                    }
                    one(fleet, number, &all);
                    if fleet.tell && (number + 1).is_multiple_of(50) {
                        let all = all.lock().unwrap_or_else(PoisonError::into_inner);
                        eprintln!(
                            "{:>6} seeds, {:.0} simulated s, {} failed, {:.0} s",
                            all.seeds,
                            all.simulated_s,
                            all.failed,
                            begun.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.wall_s = begun.elapsed().as_secs_f64();
    all.speed = if all.cpu_s > 0.0 { all.simulated_s / all.cpu_s } else { 0.0 };
    all.failures.sort_by_key(|failure| failure.seed);
    let told = all.summary.findings.len();
    all.summary.judge_all();
    for what in all.summary.findings.iter().skip(told) {
        eprintln!("{what}");
    }
    all
}

fn one(fleet: &Fleet, number: u64, all: &Mutex<FleetReport>) {
    let seed = fleet.first + number;
    let args = SeedArgs {
        seed,
        scenario: fleet.scenario.clone(),
        lines: false,
        keep: fleet.keep.clone(),
        attack_s: fleet.attack_s,
    };
    let ran = run_child(fleet, &args);
    let again = number.is_multiple_of(TWICE_ONE_IN).then(|| run_child(fleet, &args));
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.range.1 = all.range.1.max(seed);
    let failure = |scenario: &str, findings: Vec<String>| Failure {
        seed,
        scenario: scenario.to_owned(),
        findings,
        reproduce: reproduce(fleet, seed),
        kept: fleet.keep.as_ref().map(|keep| keep.join(format!("seed-{seed}"))),
    };
    if let Some(Err(error)) = &again {
        let failure = failure("", vec![format!("its second run: {error}")]);
        eprintln!("seed {seed}, second run: {error}\n  {}", failure.reproduce);
        all.summary.find(format!("seed {seed}, second run: {error}"));
        all.fail(failure);
    }
    match &ran {
        Ok(report) => {
            all.add(report);
            if !report.findings.is_empty() {
                let failure = failure(&report.scenario, report.findings.clone());
                eprintln!("seed {seed} ({}): {}\n  {}", report.scenario, failure.findings[0], failure.reproduce);
                all.fail(failure);
            }
        }
        Err(error) => {
            let failure = failure("", vec![error.clone()]);
            eprintln!("seed {seed}: {error}\n  {}", failure.reproduce);
            all.summary.find(format!("seed {seed}: {error}"));
            all.fail(failure);
        }
    }
    if let (Ok(first), Some(Ok(second))) = (&ran, &again) {
        all.replayed += 1;
        if (first.trace, first.events) != (second.trace, second.events) {
            let what = format!("seed {seed} ran in two ways: {:x} and {:x}", first.trace, second.trace);
            eprintln!("{what}");
            all.summary.find(what);
            all.differed.push(seed);
        }
    }
}

/// Runs one seed in a process of its own.
///
/// # Errors
/// It ended without a report, or did not end.
pub fn run_child(fleet: &Fleet, args: &SeedArgs) -> Result<SeedReport, String> {
    let text = serde_json::to_string(args).map_err(|error| error.to_string())?;
    let mut command = Command::new(&fleet.program);
    command.args(&fleet.arguments).arg(text).envs(fleet.environment.iter().cloned());
    let child::Ended { status, out, err } = child::run(&mut command, CHILD_MAX, "")?;
    let status = status.ok_or_else(|| format!("the process did not end within {CHILD_MAX:?}"))?;
    let report = out.lines().find_map(|line| line.strip_prefix(MARK));
    match report {
        Some(report) if status.success() => serde_json::from_str(report).map_err(|error| error.to_string()),
        _ => {
            let lines: Vec<&str> = err.lines().collect();
            let from = lines.iter().position(|line| line.contains("panicked at")).unwrap_or(0);
            let told = &lines[from..lines.len().min(from + 12)];
            Err(format!("the process ended with {status}: {}", told.join(" | ")))
        }
    }
}
