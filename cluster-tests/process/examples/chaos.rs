//! Attacks real nodes: `cargo run -p agora-process --example chaos -- <agora binary> <minutes> <seed> <scenario or -> [N1 N6 …]`.
//! The command of the adversary does the same with words of its own; this is for working on the harness.

use std::{process::ExitCode, time::Duration};

use agora_process::{
    NodeProgram,
    chaos::{ChaosArgs, chaos},
    enter,
};
use agora_scenario::report::render;

fn main() -> ExitCode {
    let inside = match enter() {
        Ok(inside) => inside,
        Err(missing) => {
            eprintln!("{missing}");
            return ExitCode::FAILURE;
        }
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [exe, minutes, seed, scenario, nemeses @ ..] = words.as_slice() else {
        eprintln!("<agora binary> <minutes> <seed> <scenario or -> [N1 N6 …]");
        return ExitCode::FAILURE;
    };
    let mut args = ChaosArgs::new(NodeProgram::agora(std::path::absolute(exe).unwrap()));
    args.time = Duration::from_secs_f64(minutes.parse::<f64>().unwrap() * 60.0);
    args.seed = seed.parse().unwrap();
    args.scenario = if scenario == "-" { String::new() } else { scenario.clone() };
    args.nemeses = nemeses.to_vec();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match runtime.block_on(chaos(inside, &args)) {
        Ok(report) => {
            println!("{}", render(&report.summary));
            println!("left out: {:?}; packets {:?}", report.left_out, report.packets);
            if report.again.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
