//! C2 passes what is right, rejects what is wrong, and agrees with a second implementation.

use agora_checkers::{
    Checked,
    c02_linearizable::{check, second_opinion},
    testing::{Plan, perfect_run},
};

fn clean(checked: &Checked) {
    assert_eq!(checked.findings, vec![], "{:?}", checked.figures);
    assert_eq!(checked.undecided, 0, "{:?}", checked.figures);
}

#[test]
fn right_histories_pass() {
    let mut unknown = 0.0;
    for seed in 0..500 {
        let data = perfect_run(&Plan { seed, operations: 150, clients: 8, skus: 3, ..Plan::default() });
        let checked = check(&data);
        clean(&checked);
        unknown += checked.figures["unknown"];
    }
    assert!(unknown > 1_000.0, "{unknown}");
}

#[test]
fn right_histories_pass_without_the_feed() {
    let (mut undecided, mut checked) = (0, 0);
    for seed in 0..500 {
        let mut data = perfect_run(&Plan { seed, operations: 150, clients: 8, skus: 3, ..Plan::default() });
        data.feeds.clear();
        let verdict = check(&data);
        assert_eq!(verdict.findings, vec![], "seed {seed}");
        undecided += verdict.undecided;
        checked += verdict.checked;
    }
    // What an unanswered order would have held cannot always be told from the prices there were.
    assert!(undecided * 50 < checked, "{undecided} of {checked}");
}

#[test]
fn a_busy_shop_is_decided() {
    let plan = Plan { seed: 7, operations: 80_000, clients: 64, skus: 3, accounts: 8, trouble: 8, ..Plan::default() };
    let data = perfect_run(&plan);
    let checked = check(&data);
    clean(&checked);
    assert!(checked.checked >= 50_000, "{}", checked.checked);
}

#[test]
fn a_second_implementation_agrees() {
    let mut compared = 0;
    for seed in 0..60 {
        let mut data = perfect_run(&Plan { seed, operations: 60, clients: 4, skus: 3, ..Plan::default() });
        if seed % 2 == 0 {
            data.feeds.clear();
        }
        let opinions = second_opinion(&data, 200_000);
        assert_eq!(opinions.differ, 0, "seed {seed}");
        compared += opinions.compared;
    }
    assert!(compared > 500, "{compared}");
}
