//! `agora verify`: reads all rows of a stopped node and compares them with what it believes of them.
//!
//! The state digest is kept up by differences while entries are applied; here it is made again from the rows
//! themselves. Where the two differ, a row was lost, changed on disk, or written past the log.

use agora_storage::{Disk, FileDisk, OpenedRows, scrub};
use anyhow::{Context, bail};
use serde_json::json;

use crate::{cli::VerifyArgs, config::Config, start, table::grouped};

/// Runs the command. An error says what was found and what to do; it is the exit code that scripts look at.
pub fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let place = config.data_dir.display();
    if !config.data_dir.exists() {
        bail!("{place} does not exist: name the configuration of a node that ran on this machine");
    }
    let disk = FileDisk::new(&config.data_dir, start::row_options(&config))
        .with_context(|| format!("cannot look at {place}"))?;
    let identity = disk.open_log()?.identity()?;
    let identity = identity.with_context(|| format!("{place} holds no node: nothing to look at"))?;
    let rows = match disk.open_rows(identity.generation, identity.synced_index)? {
        OpenedRows::Ready(rows) => rows,
        OpenedRows::Lost { reason } => {
            bail!("the rows in {place} cannot be used ({reason}): start the node, it fetches them from another")
        }
    };
    let report = scrub::verify(rows.view()?.as_ref()).with_context(|| {
        format!("{place}: remove the directory and let the node join anew under a new id, or stop trusting the others")
    })?;
    if args.json {
        let digest = format!("{:032x}", report.digest);
        println!("{}", json!({"ok": true, "index": report.applied, "rows": report.rows, "digest": digest}));
    } else {
        let (rows, index) = (grouped(report.rows), grouped(report.applied));
        println!(
            "node {}: {rows} rows at index {index}, digest {:032x}: all as it should be",
            config.node_id, report.digest
        );
    }
    Ok(())
}
