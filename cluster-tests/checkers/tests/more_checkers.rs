//! C3, C8, C10 and C11 pass what is right.

use agora_checkers::{
    Checked, all,
    testing::{Plan, perfect_run},
};
use agora_history::RunData;

fn ask(name: &str, data: &RunData) -> Checked {
    all().into_iter().map(|check| check(data)).find(|checked| checked.checker == name).expect("a known checker")
}

#[test]
fn right_histories_pass() {
    for seed in 0..300 {
        let data = perfect_run(&Plan { seed, operations: 150, clients: 8, skus: 3, ..Plan::default() });
        for name in ["C3", "C8", "C10", "C11"] {
            assert_eq!(ask(name, &data).findings, vec![], "{name}, seed {seed}");
        }
    }
}
