//! The command line: what can be asked of the binary `agora`.
//!
//! Only words and their forms are here; each command lives in a module of its own. Everything that prints can print
//! JSON instead.

mod bench;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::bench::{
    BenchCommand, Distribution, FlashArgs, Freshness, Goods, Load, MarketplaceArgs, MixedArgs, On, OrdersArgs, PayArgs,
    ReadsArgs, What,
};

/// A replicated shop back end in one binary.
#[derive(Debug, Parser)]
#[command(name = "agora", version, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node
    Start(StartArgs),
    /// Write configuration files with fresh secrets for a new cluster
    Init(InitArgs),
    /// Run a cluster on this machine to try things out
    Dev(DevArgs),
    /// Look at a cluster and change its members
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Make and list snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Read all rows of a stopped node and compare them with what it believes of them
    Verify(VerifyArgs),
    /// Measure throughput, latency and cost, of three nodes of its own or of a cluster that runs
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// `agora verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Configuration file of the node, which must not be running
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agora start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Configuration file of the node
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Shut down when standard input closes: how a supervisor makes sure that no node outlives it
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// `agora init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder for the files n1.toml, n2.toml …
    #[arg(long, value_name = "DIR", default_value = "agora-config")]
    pub dir: PathBuf,
    /// Number of nodes [default: one per host, or 3]
    #[arg(long, value_name = "N")]
    pub nodes: Option<u16>,
    /// One host name or address per node; without it all nodes are on this machine
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "agora")]
    pub cluster: String,
    /// HTTP port; nodes on one machine take this and the following ones
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    pub http_port: u16,
    /// Port between nodes; nodes on one machine take this and the following ones
    #[arg(long, value_name = "PORT", default_value_t = 7401)]
    pub peer_port: u16,
    /// Data directory of each node [default: /var/lib/agora with --hosts, else data/n<id> beside the file]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agora dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Number of nodes [default: what the data directory holds, or 3]
    #[arg(long, value_name = "N")]
    pub nodes: Option<u16>,
    /// HTTP port of the first node; the others follow, then the ports between nodes [default: what the data directory
    /// holds, or 8081]
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Where the cluster keeps everything
    #[arg(long, value_name = "DIR", default_value = "agora-data")]
    pub data_dir: PathBuf,
    /// Throw away what an earlier run left in the data directory
    #[arg(long)]
    pub fresh: bool,
    /// Print one line of JSON when ready, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// How to reach a cluster.
#[derive(Clone, Debug, Default, Args)]
pub struct Access {
    /// Nodes to ask, any of them: host:port,host:port [environment: AGORA_ENDPOINTS]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// Bearer key of cluster administration [environment: AGORA_ADMIN_KEY]
    #[arg(long, value_name = "KEY")]
    pub admin_key: Option<String>,
    /// Configuration file of a node: its members and keys are used
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agora cluster …`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Who leads, how far every node is, and whether all is well
    Status {
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
    /// The members and their addresses
    Members {
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
    /// Add a node as a learner: it catches up and does not vote yet
    Add {
        /// Id of the new node, never used before
        #[arg(value_name = "ID")]
        id: u64,
        /// host:port at which the other nodes reach it
        #[arg(long, value_name = "HOST:PORT")]
        peer: String,
        /// host:port at which clients reach it
        #[arg(long, value_name = "HOST:PORT")]
        http: String,
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
    /// Make a learner a voter
    Promote {
        /// Id of the node
        #[arg(value_name = "ID")]
        id: u64,
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
    /// Remove a node for ever
    Remove {
        /// Id of the node
        #[arg(value_name = "ID")]
        id: u64,
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
    /// Hand leadership over
    Transfer {
        /// Id of the next leader [default: the voter that is furthest]
        #[arg(long, value_name = "ID")]
        to: Option<u64>,
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
}

/// `agora snapshot …`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write a snapshot on the node that is asked
    Create {
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
    /// The snapshots of the node that is asked
    List {
        /// How to reach the cluster.
        #[command(flatten)]
        access: Access,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_command() {
        let help = Cli::command().render_help().to_string();
        for word in ["start", "init", "dev", "cluster", "snapshot", "bench"] {
            assert!(help.contains(word), "{word} is missing in:\n{help}");
        }
        assert!(
            !Cli::command().find_subcommand_mut("start").unwrap().render_help().to_string().contains("exit-with-stdin")
        );
    }

    #[test]
    fn the_documented_lines_parse() {
        for line in [
            "agora start --config n1.toml",
            "agora init --dir out --nodes 3 --hosts a,b,c",
            "agora dev --nodes 3 --http-port 8081 --data-dir d --fresh --json",
            "agora cluster status --endpoints 127.0.0.1:8081,127.0.0.1:8082 --admin-key k --json",
            "agora cluster add 4 --peer h:7401 --http h:8081 --config n1.toml",
            "agora cluster promote 4",
            "agora cluster remove 2",
            "agora cluster transfer --to 3",
            "agora snapshot create --json",
            "agora snapshot list",
            "agora bench orders --connections 64 --seconds 5 --distribution uniform --batch 50 --json --orders 10 --stock 5",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }
}
