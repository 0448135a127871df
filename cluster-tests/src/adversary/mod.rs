//! The adversary's commands: attack a cluster, simulated or real, and tell what came of it.
//!
//! - [`cli`]: the words of the command line.
//! - [`verdict`]: how every command ends: files, a table or JSON, one line that repeats a failure, an exit code.
//!
//! The work itself is in crates of its own: `agora-scenario` (what is done), `agora-sim` and `agora-process` (to what),
//! `agora-checkers` (whether it was right).

mod cli;
mod verdict;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::cli::{Cli, Command};

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
    let done = match Cli::parse_from(std::iter::once(own).chain(rest)).command {
        Command::Check(args) => verdict::check(&args),
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
