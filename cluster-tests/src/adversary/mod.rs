//! The adversary's commands: attack a cluster, simulated or real, and tell what came of it.
//!
//! - [`cli`]: the words of the command line.
//! - [`simulated`], [`real`]: attacks on simulated clusters and on real processes.
//! - [`figures`]: what the last runs came to, as a table in the README.
//! - [`enough`]: whether an attack was one.
//! - [`verdict`]: how every command ends: files, a table or JSON, one line that repeats a failure, an exit code.
//!
//! The work itself is in crates of its own: `agora-scenario` (what is done), `agora-sim` and `agora-process` (to what),
//! `agora-checkers` (whether it was right).

mod cli;
mod enough;
mod figures;
mod real;
mod simulated;
mod verdict;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::cli::{Cli, Command, PlantedArgs};
#[cfg(feature = "planted")]
use crate::planted;

/// Runs the command line of this process. 0: every promise was kept; 1: one was broken, or the attack did not happen;
/// 2: a command line that is not understood.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let own = words.next().unwrap_or_else(|| OsString::from("agora-cluster-tests"));
    let rest: Vec<OsString> = words.collect();
    // The same program is also the node that is attacked, so one build gives both.
    if rest.first().is_some_and(|word| word == "node") {
        return agora_node::main_of(std::iter::once(OsString::from("agora")).chain(rest.into_iter().skip(1)));
    }
    if let [child, seed] = rest.as_slice()
        && child == simulated::CHILD
    {
        return match agora_sim::fleet::child(&seed.to_string_lossy()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let done = match Cli::parse_from(std::iter::once(own).chain(rest)).command {
        Command::Chaos(args) => real::inside(|inside| async move { real::chaos(inside, &args).await }),
        Command::Sim(args) => simulated::run(&args),
        Command::Corruption(args) => real::inside(|inside| async move { real::corruption(inside, &args).await }),
        Command::Figures(args) => figures::publish(&args).map(|()| true),
        Command::CrashPoints(args) => real::inside(|inside| async move { real::crash_points(inside, &args).await }),
        Command::Check(args) => verdict::check(&args),
        Command::Planted(args) => hunt(args),
        #[cfg(feature = "planted")]
        Command::PlantedLook(args) => planted::child(&args.args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `planted`, in a build where none is.
#[cfg(not(feature = "planted"))]
fn hunt(_: PlantedArgs) -> Result<bool, String> {
    let how = "cargo run -p agora-cluster-tests --features planted -- planted";
    Err(format!("no bug is planted in this build: {how}"))
}

/// `planted`.
#[cfg(feature = "planted")]
fn hunt(args: PlantedArgs) -> Result<bool, String> {
    let options =
        planted::Options { only: args.only, kind: args.kind, looks_max: args.looks, ..planted::Options::default() };
    let program = std::env::current_exe().map_err(|error| format!("the path of this program: {error}"))?;
    let escaped = planted::hunt(&options, &planted::Tools::new(program))?;
    if !escaped.is_empty() {
        eprintln!("not caught: {}", escaped.join(", "));
    }
    Ok(escaped.is_empty())
}
