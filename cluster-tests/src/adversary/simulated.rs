//! `sim`: many seeds, or one seed once more.

use std::time::Duration;

use agora_scenario::report::render;
use agora_sim::fleet::{self, Fleet, FleetReport};

use super::{cli::SimArgs, enough::Enough, verdict};

/// The word before a seed's arguments, for the processes that run one each.
pub const CHILD: &str = "sim-seed";

/// Runs.
pub fn run(args: &SimArgs) -> Result<bool, String> {
    let (first, count) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let mut fleet = Fleet::new(first, count, &[CHILD]).map_err(|error| format!("the path of this program: {error}"))?;
    if let Some(minutes) = args.minutes {
        fleet.budget = Duration::from_secs_f64((minutes * 60.0).clamp(1.0, 86_400.0));
    }
    fleet.jobs = args.jobs.unwrap_or(fleet.jobs).clamp(1, 256);
    fleet.scenario.clone_from(&args.scenario);
    fleet.attack_s = args.attack_seconds;
    fleet.keep = Some(args.output.dir.join("sim"));
    fleet.tell = true;
    let report = fleet::run(&fleet);
    verdict::write(&args.output, "sim", &report)?;
    verdict::page_of(&args.output, "sim", "Simulated clusters under attack", &report.summary)?;
    if args.output.json {
        println!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    } else {
        tell(&fleet, &report);
    }
    let ran_out = args.minutes.is_some_and(|minutes| report.wall_s >= minutes * 60.0);
    let enough = Enough { what: "seeds", done: report.seeds, asked: count, at_least: args.at_least, ran_out };
    Ok(enough.is_met() && report.is_good())
}

fn tell(fleet: &Fleet, report: &FleetReport) {
    println!("{}", render(&report.summary));
    println!(
        "{} seeds ({} to {}), {:.0} simulated s at {:.1} per second of a core, {} run twice of which {} differed, \
         {} states compared while running, {} terms, {} failed",
        report.seeds,
        report.range.0,
        report.range.1,
        report.simulated_s,
        report.speed,
        report.replayed,
        report.differed.len(),
        report.states_compared,
        report.terms,
        report.failed,
    );
    for seed in &report.differed {
        eprintln!("\nDIFFERED  seed {seed} ran another way the second time\nagain: {}", fleet::reproduce(fleet, *seed));
    }
    for failure in &report.failures {
        eprintln!("\nFAILED  seed {} ({})", failure.seed, failure.scenario);
        for finding in failure.findings.iter().take(3) {
            eprintln!("    {finding}");
        }
        if let Some(kept) = &failure.kept {
            eprintln!("kept: {}", kept.display());
        }
        eprintln!("again: {}", failure.reproduce);
    }
}
