//! How every command ends: the summary as JSON and as a page, a table, an exit code.

use std::{fs, io, path::Path};

use agora_checkers::Checked;
use agora_history::{RunData, RunDir};
use agora_scenario::report::{Summary, page, render};

use super::cli::CheckArgs;

/// What all checkers say of a run.
pub fn judge(data: &RunData) -> Vec<Checked> {
    agora_checkers::all().into_iter().map(|checker| checker(data)).collect()
}

/// Writes `<name>.json` and `<name>.html`, and prints the summary.
///
/// # Errors
/// Those of the file system.
pub fn publish(dir: &Path, name: &str, title: &str, summary: &Summary, json: bool) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(format!("{name}.json")), serde_json::to_vec(summary)?)?;
    let shown = dir.join(format!("{name}.html"));
    fs::write(&shown, page(title, summary))?;
    if json {
        println!("{}", serde_json::to_string(summary)?);
    } else {
        println!("{}", render(summary));
        println!("page: {}", shown.display());
    }
    Ok(())
}

/// `check`.
pub fn check(args: &CheckArgs) -> Result<bool, String> {
    let data = RunDir::new(&args.dir).read().map_err(|error| format!("{}: {error}", args.dir.display()))?;
    let mut summary = Summary::default();
    summary.add(&data, &judge(&data));
    if let Some(path) = &args.html {
        fs::write(path, page("Agora under attack", &summary)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&summary).map_err(|error| error.to_string())?);
    } else {
        println!("{}", render(&summary));
    }
    Ok(summary.findings_total == 0)
}
