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
    /// Attack real node processes in network namespaces, on disks that lose power (needs root)
    Chaos(ChaosArgs),
    /// Attack simulated clusters: one process per seed, the same seed the same run
    Sim(SimArgs),
    /// Let nodes die at the N-th write, fsync and rename of every phase of their lives (needs root)
    CrashPoints(CrashPointArgs),
    /// Spoil every kind of file of nodes that are down, field by field (needs root)
    Corruption(CorruptionArgs),
    /// Check a history that was kept, or one of somebody else in the same format
    Check(CheckArgs),
    /// Hunt bugs planted on purpose, and write the table of what caught them (needs the feature `planted`)
    Planted(PlantedArgs),
    /// Write the figures of the last runs into the README of this package
    Figures(FiguresArgs),
    /// One look of the hunt
    #[cfg(feature = "planted")]
    #[command(hide = true)]
    PlantedLook(PlantedLookArgs),
}

/// What all attacks take.
#[derive(Debug, Args)]
pub struct Output {
    /// Where reports and whatever a failure leaves are put
    #[arg(long, value_name = "DIR", default_value = "target/adversary")]
    pub dir: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Which program is attacked.
#[derive(Debug, Args)]
pub struct Program {
    /// Binary to attack instead of the one built with this program
    #[arg(long, value_name = "FILE")]
    pub agora: Option<PathBuf>,
}

/// `chaos`.
#[derive(Debug, Args)]
pub struct ChaosArgs {
    /// How long, all in all
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// Everything by chance comes from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Attacks, as in N1,N6; all of them by default
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub nemesis: Vec<String>,
    /// Nodes that found each cluster, 3 to 5; 0 lets each seed decide between three and five
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=5))]
    pub nodes: u64,
    /// Loads: a scenario's name, or workloads joined by +, as in W1+W7; each in turn by default
    #[arg(long, value_name = "NAME", default_value = "")]
    pub scenario: String,
    /// Seconds of attack on one cluster before it is judged
    #[arg(long, default_value_t = 60)]
    pub batch_seconds: u64,
    /// Name of the report, to keep several apart
    #[arg(long, default_value = "chaos")]
    pub name: String,
    /// Keep histories and disks of what passed, too
    #[arg(long)]
    pub keep: bool,
    /// Binary of another version, which N14 swaps nodes to
    #[arg(long, value_name = "FILE")]
    pub other_agora: Option<PathBuf>,
    /// What is attacked
    #[command(flatten)]
    pub program: Program,
    /// What is left
    #[command(flatten)]
    pub output: Output,
}

/// `sim`.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// One seed, once more
    #[arg(long, conflicts_with_all = ["seeds", "from", "minutes"])]
    pub seed: Option<u64>,
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    pub seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// No seed is begun after so many minutes
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Simulated seconds under attack, instead of 30
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub attack_seconds: Option<u64>,
    /// Fail with fewer seeds, whatever the time; by default all that were asked for, unless `--minutes` cut them
    #[arg(long, value_name = "N")]
    pub at_least: Option<u64>,
    /// Seeds at once; as many as there are cores by default
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Scenario instead of the one each seed picks
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// What is left
    #[command(flatten)]
    pub output: Output,
}

/// `planted-look`.
#[cfg(feature = "planted")]
#[derive(Debug, Args)]
pub struct PlantedLookArgs {
    /// What to look at
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

/// `crash-points`.
#[derive(Debug, Args)]
pub struct CrashPointArgs {
    /// Points to hit
    #[arg(long, default_value_t = 300)]
    pub points: u64,
    /// Decides the order of the points
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// No point is begun after so many minutes
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// Fail with fewer points, whatever the time; by default all that were asked for, unless time was over
    #[arg(long, value_name = "N")]
    pub at_least: Option<u64>,
    /// Clusters side by side
    #[arg(long, default_value_t = 2)]
    pub clusters: usize,
    /// Every other crash is followed by a loss of power
    #[arg(long)]
    pub power: bool,
    /// Only these points, as in append/leader/write/3
    #[arg(long, value_name = "POINT", value_delimiter = ',')]
    pub only: Vec<String>,
    /// What is attacked
    #[command(flatten)]
    pub program: Program,
    /// What is left
    #[command(flatten)]
    pub output: Output,
}

/// `corruption`.
#[derive(Debug, Args)]
pub struct CorruptionArgs {
    /// Only cases whose name holds this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Decides which bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// No case is begun after so many minutes
    #[arg(long, default_value_t = 15.0)]
    pub minutes: f64,
    /// Fail with fewer cases, whatever the time; by default 40, unless `--only` chooses some
    #[arg(long, value_name = "N")]
    pub at_least: Option<u64>,
    /// What is attacked
    #[command(flatten)]
    pub program: Program,
    /// What is left
    #[command(flatten)]
    pub output: Output,
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

/// `planted`.
#[derive(Debug, Args)]
pub struct PlantedArgs {
    /// Bugs by name; all of them by default
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Looks at this kind of place only: simulation, processes or test
    #[arg(long)]
    pub kind: Option<String>,
    /// Most looks per place; 0 for the places' own bounds
    #[arg(long, default_value_t = 0)]
    pub looks: u32,
}

/// `figures`.
#[derive(Debug, Args)]
pub struct FiguresArgs {
    /// Print them and leave the README as it is
    #[arg(long)]
    pub print: bool,
    /// Where the reports are
    #[arg(long, value_name = "DIR", default_value = "target/adversary")]
    pub dir: PathBuf,
}
