//! `figures`: what the last runs came to, as a table in this package's README.
//!
//! Every command leaves its report as JSON; this puts the figures that are promised beside those that were reached. A
//! report that is missing is a row that says so: no figure stands there that was not measured.

use std::{fs, path::Path};

use agora_scenario::report::{Quantiles, Summary, table};
use agora_sim::fleet::FleetReport;
use serde_json::Value;

use super::cli::FiguresArgs;

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";
/// The kind of fault that takes a leader away at once, whose outages are measured against the goal.
const LEADER_KILLED: &str = "kill of the leader";

fn report(dir: &Path, name: &str) -> Option<Value> {
    serde_json::from_slice(&fs::read(dir.join(format!("{name}.json"))).ok()?).ok()
}

fn summary(dir: &Path, name: &str) -> Option<Summary> {
    serde_json::from_value(report(dir, name)?).ok()
}

/// Puts the table between the markers.
pub fn publish(args: &FiguresArgs) -> Result<(), String> {
    let table = markdown(&args.dir);
    println!("{table}");
    if args.print {
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (begin, end) = (text.find(BEGIN), text.find(END));
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(format!("{}: no place for figures: {BEGIN} … {END}", path.display()));
    };
    let text = format!("{}{BEGIN}\n\n{table}\n{}", &text[..begin], &text[end..]);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn markdown(dir: &Path) -> String {
    let simulated: Option<FleetReport> = report(dir, "sim").and_then(|value| serde_json::from_value(value).ok());
    let real = [summary(dir, "chaos"), summary(dir, "power")];
    let points = report(dir, "crash-points");
    let rot = report(dir, "corruption");
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut row = |what: &str, goal: &str, reached: Option<String>| {
        rows.push([what.to_owned(), goal.to_owned(), reached.unwrap_or_else(|| "not run".to_owned())]);
    };
    row(
        "simulated seeds × 30 s of attack",
        "2,000",
        simulated.as_ref().map(|fleet| {
            format!(
                "{} ({:.0} simulated s at {:.0} per second of a core)",
                thousands(fleet.seeds),
                fleet.simulated_s,
                fleet.speed
            )
        }),
    );
    row(
        "of them run twice / ran another way",
        "≥ 1 % / 0",
        simulated.as_ref().map(|fleet| format!("{} / {}", fleet.replayed, fleet.differed.len())),
    );
    let mut all = Summary::default();
    let mut is_real = false;
    for part in real.into_iter().flatten() {
        all.merge(part);
        is_real = true;
    }
    let of_real = |text: String| is_real.then_some(text);
    row(
        "real processes: fault rounds / attacks / kinds of fault",
        "≥ 230 / 18 / ≥ 18",
        of_real(format!("{} / {} / {}", thousands(all.rounds()), all.nemeses.len(), all.kinds())),
    );
    let losses: u64 = all
        .nemeses
        .values()
        .flat_map(|row| &row.kinds)
        .filter(|(kind, _)| kind.contains("power") && kind.contains("all"))
        .map(|(_, rounds)| rounds)
        .sum();
    row(
        "power losses of all nodes / orders promised in these runs",
        "≥ 10 / ≥ 100,000",
        of_real(format!("{losses} / {}", thousands(all.orders))),
    );
    row(
        "crash points: a node dies at its N-th write, fsync or rename",
        "300",
        points.as_ref().map(|report| {
            format!(
                "{} ({} different, {} while leading)",
                number(report, "/hit"),
                number(report, "/different"),
                number(report, "/hit_leading")
            )
        }),
    );
    row("corruption cases", "40", rot.as_ref().map(|report| number(report, "/cases").to_string()));
    let mut judged = all.clone();
    if let Some(fleet) = &simulated {
        judged.merge(fleet.summary.clone());
    }
    let is_judged = is_real || simulated.is_some();
    let checked = |name: &str| judged.checkers.get(name).map_or((0, 0), |row| (row.checked, row.undecided));
    let by_model = format!("{} (answers and events: {})", thousands(judged.operations), thousands(checked("C1").0));
    row("operations through C1", "≥ 1,000,000", is_judged.then_some(by_model));
    let (linear, undecided) = checked("C2");
    row(
        "operations through C2 / undecided",
        "≥ 50,000 / 0",
        is_judged.then(|| format!("{} / {undecided}", thousands(linear))),
    );
    // What a seed found beside its checkers is among its failures only.
    let of_seeds = simulated.as_ref().map_or(0, |fleet| fleet.failed.max(fleet.summary.findings_total));
    let of_disks = [&points, &rot].into_iter().flatten().filter_map(|report| report["findings"].as_array());
    let broken = all.findings_total + of_seeds + of_disks.map(|findings| findings.len() as u64).sum::<u64>();
    row("lost, oversold, doubled, unbalanced: broken promises", "0", is_judged.then(|| broken.to_string()));
    let killed: Vec<u64> = kinds_outages(&all, LEADER_KILLED);
    row(
        "leader killed: no write for, ms, p50 / p99 / max",
        "p99 ≤ 1,500",
        (!killed.is_empty()).then(|| {
            let Quantiles { count, p50, p99, max } = Quantiles::of(&killed);
            format!("{p50} / {p99} / {max} ({count} kills)")
        }),
    );
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    table(&["figure", "goal", "reached"], &rows)
}

/// Outages of one kind of fault.
fn kinds_outages(all: &Summary, kind: &str) -> Vec<u64> {
    all.outages_by_kind.iter().filter(|(name, _)| name.contains(kind)).flat_map(|(_, ms)| ms.iter().copied()).collect()
}

/// With commas, as in the goals.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_run_has_no_figure() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = markdown(dir.path());
        assert_eq!(text.matches("not run").count(), text.lines().count() - 2, "{text}");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
    }
}
