//! Runs many seeds: `cargo run --release -p agora-sim --example seeds -- FIRST COUNT [SCENARIO]`; keeps what failed in
//! the directory named by `KEEP`.

use agora_sim::fleet::{Fleet, child, run};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "child") {
        return child(&args[1]).expect("a child runs");
    }
    let number = |at: usize, otherwise| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let mut fleet = Fleet::new(number(0, 1), number(1, 100), &["child"]).expect("this program");
    fleet.scenario = args.get(2).cloned();
    fleet.keep = std::env::var_os("KEEP").map(Into::into);
    fleet.tell = true;
    let report = run(&fleet);
    println!("{}", agora_scenario::report::render(&report.summary));
    for failure in &report.failures {
        println!("seed {} ({}):", failure.seed, failure.scenario);
        for finding in failure.findings.iter().take(3) {
            println!("    {finding}");
        }
    }
    println!(
        "{} seeds, {:.0} simulated s, {:.1} per core second, {} replayed, {} differed, {} failed, {:.0} s, {} states compared, {} terms",
        report.seeds,
        report.simulated_s,
        report.speed,
        report.replayed,
        report.differed.len(),
        report.failed,
        report.wall_s,
        report.states_compared,
        report.terms
    );
    println!("{:?}\n{:?}", report.ops, report.faults);
}
