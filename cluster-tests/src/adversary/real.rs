//! Commands that attack real processes. Each goes into namespaces of its own first, so it needs root.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use agora_process::{
    Inside, NodeProgram, chaos,
    disk::{corruption, crash_plan::Point, crash_points},
    enter,
};
use agora_scenario::report::table;

use super::{
    cli::{ChaosArgs, CorruptionArgs, CrashPointArgs, Output, Program},
    enough::Enough,
    verdict,
};

/// Cases of damage that show something together.
const CASES_MIN: u64 = 40;
/// How many requests of the harness run at once.
const THREADS: usize = 2;

/// Goes inside (in a process of its own that replaces this one), then works.
pub fn inside<F: Future<Output = Result<bool, String>>>(work: impl FnOnce(Inside) -> F) -> Result<bool, String> {
    let inside = enter().map_err(|missing| missing.to_string())?;
    on_threads(work(inside))
}

fn on_threads<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.map_err(|error| format!("cannot start a runtime: {error}"))?.block_on(work)
}

/// The program under attack: the one built with this, or another.
pub fn program(args: &Program) -> Result<NodeProgram, String> {
    match &args.agora {
        Some(path) => other(path),
        None => NodeProgram::own().map_err(|error| format!("the path of this program: {error}")),
    }
}

fn other(path: &Path) -> Result<NodeProgram, String> {
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(NodeProgram::agora(path))
}

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64((minutes * 60.0).clamp(1.0, 86_400.0))
}

/// Where nodes keep their data: they are started in other directories than this.
fn place(output: &Output, name: &str) -> Result<PathBuf, String> {
    std::path::absolute(output.dir.join(name)).map_err(|error| format!("{}: {error}", output.dir.display()))
}

/// `chaos`.
pub async fn chaos(inside: Inside, args: &ChaosArgs) -> Result<bool, String> {
    let mut all = chaos::ChaosArgs::new(program(&args.program)?);
    all.time = minutes(args.minutes);
    all.seed = args.seed;
    all.nemeses.clone_from(&args.nemesis);
    all.nodes = args.nodes;
    all.scenario.clone_from(&args.scenario);
    all.batch = Duration::from_secs(args.batch_seconds.clamp(5, 3_600));
    all.keep = args.keep;
    all.dir = place(&args.output, &args.name)?;
    all.other = args.other_agora.as_deref().map(other).transpose()?;
    let report = chaos::chaos(inside, &all).await?;
    verdict::publish(&args.output, &args.name, "Real processes under attack", &report.summary)?;
    if !args.output.json {
        let [all, lost, late, twice] = report.packets;
        println!("packets between the machines: {all}, lost {lost}, late {late}, twice {twice}");
        for what in &report.left_out {
            println!("not done here: {what}");
        }
    }
    for (line, kept) in report.again.iter().zip(&report.kept) {
        eprintln!("\nkept: {}\nagain: {line}", kept.display());
    }
    Ok(report.summary.findings_total == 0 && report.again.is_empty())
}

/// `crash-points`.
pub async fn crash_points(_: Inside, args: &CrashPointArgs) -> Result<bool, String> {
    let only: Vec<Point> = args.only.iter().map(|text| text.parse()).collect::<Result<_, String>>()?;
    let report = crash_points::run(crash_points::Args {
        program: program(&args.program)?,
        dir: place(&args.output, "crash-points")?,
        seed: args.seed,
        points: args.points,
        wall: minutes(args.minutes),
        clusters: args.clusters.clamp(1, 8),
        power: args.power,
        only,
    })
    .await;
    verdict::write(&args.output, "crash-points", &report)?;
    if args.output.json {
        println!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    } else {
        let rows: Vec<Vec<String>> = report
            .by_phase
            .iter()
            .map(|(phase, calls)| {
                let all: u64 = calls.values().sum();
                let what: Vec<String> = calls.iter().map(|(call, hits)| format!("{call} {hits}")).collect();
                vec![phase.clone(), all.to_string(), what.join(", ")]
            })
            .collect();
        println!("{}", table(&["phase", "died", "last call"], &rows));
        println!(
            "{} crash points ({} different, {} while leading), {} losses of power, {} meant that did not occur, in {:.0} s; \
             {} orders promised, {} digests compared",
            report.hit,
            report.different,
            report.hit_leading,
            report.power_losses,
            report.missed,
            report.wall_s,
            report.promised,
            report.digests_compared,
        );
    }
    tell(&report.findings);
    // Whoever names points wants to see them; otherwise a run that hit next to nothing proves nothing.
    let asked = if args.only.is_empty() { args.points } else { 1 };
    let ran_out = report.wall_s >= minutes(args.minutes).as_secs_f64();
    let enough = Enough { what: "crash points", done: report.hit, asked, at_least: args.at_least, ran_out };
    Ok(enough.is_met() && report.findings.is_empty())
}

fn tell(findings: &[crash_points::Finding]) {
    for finding in findings {
        let kept = finding.kept.display();
        eprintln!("\nBROKEN  {}: {}\nkept: {kept}\nagain: {}", finding.point, finding.what, finding.again);
    }
}

/// `corruption`.
pub async fn corruption(_: Inside, args: &CorruptionArgs) -> Result<bool, String> {
    let report = corruption::run(corruption::Args {
        program: program(&args.program)?,
        dir: place(&args.output, "corruption")?,
        seed: args.seed,
        wall: minutes(args.minutes),
        only: args.only.clone(),
    })
    .await;
    verdict::write(&args.output, "corruption", &report)?;
    if args.output.json {
        println!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    } else {
        let rows: Vec<Vec<String>> = report
            .by_file
            .iter()
            .map(|(file, outcomes)| {
                let all: u64 = outcomes.values().sum();
                let what: Vec<String> =
                    outcomes.iter().map(|(outcome, cases)| format!("{outcome:?} {cases}").to_lowercase()).collect();
                vec![file.clone(), all.to_string(), what.join(", ")]
            })
            .collect();
        println!("{}", table(&["file", "cases", "what became of the node"], &rows));
        println!(
            "{} cases ({} while leading), {} nodes replaced under a new id, {} orders promised, {} digests compared, {:.0} s",
            report.cases,
            report.while_leading,
            report.replaced,
            report.promised,
            report.digests_compared,
            report.wall_s,
        );
        for case in &report.not_made {
            println!("not made: {case}");
        }
    }
    tell(&report.findings);
    // They do not depend on time: a machine too slow for these must be given more.
    let at_least = args.at_least.unwrap_or(if args.only.is_some() { 1 } else { CASES_MIN });
    let ran_out = report.wall_s >= minutes(args.minutes).as_secs_f64();
    let done = report.cases;
    let enough = Enough { what: "cases", done, asked: at_least, at_least: Some(at_least), ran_out };
    Ok(enough.is_met() && report.findings.is_empty())
}
