//! The process: command line, configuration, wiring, supervision, measuring.
//!
//! Everything that decides, agrees or stores lives in the crates below; here a node is put together from them and told
//! to run, and the tools an operator needs are kept in the same binary. The library exists so that a second binary can be
//! the same program: integration tests start what was compiled with them.
//!
//! Deliberately absent: any knowledge of commerce, and any state of its own besides files of configuration.

mod admin;
mod bench;
mod cli;
mod client;
mod config;
mod demo;
mod dev;
mod fleet;
mod init;
mod limits;
mod logs;
mod start;
mod table;
mod telemetry;
mod verify;

use std::{ffi::OsString, future::Future, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use cli::{Cli, Command};
use tokio::task::LocalSet;

/// Exit code for a configuration that is not valid, `EX_CONFIG` of sysexits.
const EXIT_CONFIG: u8 = 78;

/// Orders are many small allocations that are freed on another thread than they were made on, which this allocator is
/// made for. Measured against the system's, the difference in orders per second is within noise so far.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the command line of this process. The exit code is 0 when all is well, 1 after a failure, 2 for a command line
/// that is not understood and 78 for a configuration that is not valid; in each case one message on standard error says
/// what happened and what to do.
pub fn main() -> ExitCode {
    main_of(std::env::args_os())
}

/// The same for another command line (its first word is the program's name), for a program that can also be a node.
pub fn main_of(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = match Cli::parse_from(words).command {
        Command::Start(args) => start::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Dev(args) => on_one_thread(dev::run(&args)),
        Command::Cluster(command) => on_one_thread(admin::cluster(&command)),
        Command::Snapshot(command) => on_one_thread(admin::snapshot(&command)),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(command) => on_one_thread(bench::run(&command)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agora: {}", explain(&error));
            if error.is::<config::ConfigError>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// An error and its causes in one line. Some errors already end with their cause's words, which are not said twice.
fn explain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut line, cause| {
        let words = cause.to_string();
        if !line.ends_with(&words) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&words);
        }
        line
    })
}

/// A runtime for the commands, which wait more than they work. Local tasks may be spawned on it.
fn on_one_thread(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    LocalSet::new().block_on(&runtime, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file").context("create x: no such file").context("node 1 cannot start");
        assert_eq!(explain(&error), "node 1 cannot start: create x: no such file");
    }
}
