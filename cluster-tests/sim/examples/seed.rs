//! Runs one seed and tells of it: `cargo run -p agora-sim --example seed -- 7 [scenario|-] [lines]`.

use agora_sim::seed::{SeedArgs, run_seed};

fn main() {
    let mut args = std::env::args().skip(1);
    let seed = args.next().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let scenario = args.next().filter(|name| name != "-");
    let lines = args.next().is_some();
    let keep = std::env::var_os("KEEP").map(Into::into);
    let mut report = run_seed(&SeedArgs { seed, scenario, lines, keep, ..SeedArgs::default() });
    for line in std::mem::take(&mut report.lines) {
        println!("{line}");
    }
    eprintln!("{}", std::mem::take(&mut report.evidence));
    let summary = std::mem::take(&mut report.summary);
    eprintln!("{}", agora_scenario::report::render(&summary));
    eprintln!("{report:?}");
    eprintln!("{:.1} simulated seconds per second", report.simulated_s / report.wall_s);
}
