//! Runs one seed and tells of it: `cargo run -p agora-sim --example seed -- 7 [lines]`.

use agora_sim::seed::{SeedArgs, run_seed};

fn main() {
    let mut args = std::env::args().skip(1);
    let seed = args.next().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let lines = args.next().is_some();
    let mut report = run_seed(&SeedArgs { seed, lines });
    for line in std::mem::take(&mut report.lines) {
        println!("{line}");
    }
    eprintln!("{}", std::mem::take(&mut report.evidence));
    eprintln!("{report:?}");
    eprintln!("{:.1} simulated seconds per second", report.simulated_s / report.wall_s);
}
