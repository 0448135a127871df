//! Reads a run's directory and prints what every checker says of it; other people's histories are as welcome as ours.
//!
//! `cargo run --release -p agora-checkers --example check -- DIR`, or `-- --made-up N` for a made-up run of N
//! operations, which shows how long checking takes.

use std::{process::ExitCode, time::Instant};

use agora_checkers::{
    all,
    testing::{Plan, perfect_run},
};
use agora_history::{RunData, RunDir};

fn read() -> Result<RunData, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--made-up", operations] => {
            let operations = operations.parse().map_err(|_| format!("{operations} is no number"))?;
            Ok(perfect_run(&Plan { operations, clients: 64, skus: 8, accounts: 40, ..Plan::default() }))
        }
        [dir] => RunDir::new(dir).read().map_err(|error| format!("{dir}: {error}")),
        _ => Err("usage: check DIR | check --made-up OPERATIONS".to_owned()),
    }
}

fn main() -> ExitCode {
    let begun = Instant::now();
    let data = match read() {
        Ok(data) => data,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let (calls, events) = (data.calls.len(), data.feeds.values().map(Vec::len).max().unwrap_or_default());
    println!("{calls} calls, {events} events, {} faults, read in {:.1?}", data.faults.len(), begun.elapsed());
    let mut is_right = true;
    for checker in all() {
        let begun = Instant::now();
        let checked = checker(&data);
        let verdict = if checked.findings.is_empty() { "holds" } else { "BROKEN" };
        println!(
            "{:<4} {verdict:<7} {} ({} looked at, {} undecided, {:.1?})",
            checked.checker,
            checked.promise,
            checked.checked,
            checked.undecided,
            begun.elapsed()
        );
        for (name, value) in &checked.figures {
            println!("       {name}: {value}");
        }
        for finding in &checked.findings {
            println!("     - {} [ops {:?}, index {:?}]", finding.what, finding.ops, finding.index);
        }
        is_right &= checked.findings.is_empty();
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
