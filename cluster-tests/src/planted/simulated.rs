//! A look in simulation: one seed of a scenario, with what every checker says of it.

use agora_sim::seed::{SeedArgs, run_seed};

use super::look::{Found, Report};

/// Longest name of who found something.
const BY_MAX: usize = 12;

/// Runs a seed of a scenario, such as `N1+N5` or `calm`.
pub fn look(seed: u64, scenario: &str) -> Report {
    let scenario = Some(scenario.to_owned()).filter(|scenario| scenario != "any");
    let report = run_seed(&SeedArgs { seed, scenario, ..SeedArgs::default() });
    eprintln!("{}: {:?} {:?}", report.scenario, report.faults, report.ops);
    Report { findings: report.findings.iter().map(|finding| found(finding)).collect() }
}

/// Who found it stands before the first colon, if anybody in particular did.
fn found(finding: &str) -> Found {
    match finding.split_once(": ") {
        Some((by, what)) if by.len() <= BY_MAX && !by.contains(' ') => {
            Found { by: by.to_owned(), what: what.to_owned() }
        }
        _ => Found { by: "safety".to_owned(), what: finding.to_owned() },
    }
}
