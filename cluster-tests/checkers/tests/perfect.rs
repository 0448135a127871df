//! Runs that keep every promise are not accused of anything.

use agora_checkers::{
    all,
    testing::{Plan, perfect_run},
};

#[test]
fn perfect_runs_pass_every_checker() {
    for seed in 1..=12 {
        let plan = Plan { seed, operations: 900, clients: 2 + seed as u32, ..Plan::default() };
        let data = perfect_run(&plan);
        for checker in all() {
            let checked = checker(&data);
            assert!(checked.findings.is_empty(), "seed {seed}: {checked:#?}");
            assert!(checked.checked > 0, "seed {seed}: {} looked at nothing", checked.checker);
        }
    }
}

#[test]
fn no_answer_at_all_is_no_contradiction() {
    let plan = Plan { operations: 300, trouble: 1, ..Plan::default() };
    let data = perfect_run(&plan);
    for name in ["C1", "C4", "C5", "C6", "C7", "C9"] {
        let checked = all().into_iter().map(|checker| checker(&data)).find(|checked| checked.checker == name);
        let checked = checked.expect("a checker");
        assert!(checked.findings.is_empty(), "{checked:#?}");
    }
}
