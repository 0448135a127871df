//! How every command ends: the report as JSON and as a page, a table, an exit code.

use std::{fs, path::Path};

use agora_checkers::Checked;
use agora_history::{RunData, RunDir};
use agora_scenario::report::{Summary, page, render};
use serde::Serialize;

use super::cli::{CheckArgs, Output};

/// What all checkers say of a run.
fn judge(data: &RunData) -> Vec<Checked> {
    agora_checkers::all().into_iter().map(|checker| checker(data)).collect()
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes `<name>.json`, from which the figures of the README are made.
pub fn write(output: &Output, name: &str, report: &impl Serialize) -> Result<(), String> {
    fs::create_dir_all(&output.dir).map_err(|error| format!("{}: {error}", output.dir.display()))?;
    let json = serde_json::to_vec(report).map_err(|error| error.to_string())?;
    put(&output.dir.join(format!("{name}.json")), &json)
}

/// Writes `<name>.json` and `<name>.html`, and prints the summary.
pub fn publish(output: &Output, name: &str, title: &str, summary: &Summary) -> Result<(), String> {
    write(output, name, summary)?;
    if output.json {
        println!("{}", serde_json::to_string(summary).map_err(|error| error.to_string())?);
    } else {
        println!("{}", render(summary));
    }
    page_of(output, name, title, summary)
}

/// Writes the page with the timeline.
pub fn page_of(output: &Output, name: &str, title: &str, summary: &Summary) -> Result<(), String> {
    let path = output.dir.join(format!("{name}.html"));
    put(&path, page(title, summary).as_bytes())?;
    eprintln!("page: {}", path.display());
    Ok(())
}

/// `check`.
pub fn check(args: &CheckArgs) -> Result<bool, String> {
    let data = RunDir::new(&args.dir).read().map_err(|error| format!("{}: {error}", args.dir.display()))?;
    let mut summary = Summary::default();
    summary.add(&data, &judge(&data));
    summary.judge_all();
    if let Some(path) = &args.html {
        put(path, page("Agora under attack", &summary).as_bytes())?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&summary).map_err(|error| error.to_string())?);
    } else {
        println!("{}", render(&summary));
    }
    Ok(summary.findings_total == 0)
}
