//! The words of the adversary's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Attacks an Agora cluster and tells whether it kept its promises.
#[derive(Debug, Parser)]
#[command(name = "agora-cluster-tests", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. (`node …`, which is the program under attack itself, is looked for before these.)
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a history that was kept, or one of somebody else in the same format
    Check(CheckArgs),
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Directory with history.jsonl, feed-<node>.jsonl and finals.json
    pub dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write the page with the timeline there
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
