//! Some seeds, each in a process of its own: nothing is found, and a seed runs the same way twice.

use std::env;

use agora_sim::{
    fleet::{Fleet, TWICE_ONE_IN, child, run, run_child},
    seed::SeedArgs,
};

/// In the environment of the processes that run one seed.
const CHILD: &str = "AGORA_SIM_CHILD";

/// Seconds under attack here: many short seeds meet more beginnings of trouble than a few long ones, and the long ones
/// are run with the longer tests.
const ATTACK_S: u64 = 8;
const SEEDS: u64 = 200;

fn fleet(first: u64, count: u64) -> Fleet {
    // The test runner takes the last argument for a filter as well; it names no test.
    let mut fleet = Fleet::new(first, count, &["run_as_a_child", "--nocapture", "--test-threads=1", "--"]).unwrap();
    fleet.attack_s = Some(ATTACK_S);
    fleet.environment = vec![(CHILD.to_owned(), "1".to_owned())];
    fleet
}

/// Not a test of its own: what the processes run.
#[test]
fn run_as_a_child() {
    if env::var_os(CHILD).is_some() {
        child(&env::args().next_back().unwrap()).unwrap();
    }
}

#[test]
fn seeds_find_nothing() {
    let report = run(&fleet(1_000, SEEDS));
    println!(
        "{} seeds, {:.0} simulated s at {:.1} per second of a core",
        report.seeds, report.simulated_s, report.speed
    );
    assert!(report.is_good(), "{:#?}", report.failures);
    assert_eq!((report.seeds, report.replayed), (SEEDS, SEEDS / TWICE_ONE_IN));
    assert!(report.states_compared > 10 * SEEDS, "{} states compared", report.states_compared);
    assert!(report.summary.rounds() > SEEDS, "{} rounds", report.summary.rounds());
}

#[test]
fn a_seed_runs_the_same_way_in_every_process_and_no_two_seeds_alike() {
    let fleet = fleet(0, 0);
    let ran = |seed| {
        let args = SeedArgs { seed, lines: true, attack_s: fleet.attack_s, ..SeedArgs::default() };
        run_child(&fleet, &args).unwrap()
    };
    let mut traces = Vec::new();
    for seed in [3, 11, 42] {
        let (one, two) = (ran(seed), ran(seed));
        let differs = one.lines.iter().zip(&two.lines).position(|(one, two)| one != two);
        if let Some(at) = differs {
            panic!("seed {seed} differs at event {at}: {} and {}", one.lines[at], two.lines[at]);
        }
        assert_eq!((one.trace, one.events), (two.trace, two.events));
        traces.push(one.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 3);
}
