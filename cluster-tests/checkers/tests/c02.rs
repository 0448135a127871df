//! C2 passes what is right, rejects what is wrong, and agrees with a second implementation.

use std::collections::BTreeSet;

use agora_checkers::{
    Checked,
    c02_linearizable::{check, second_opinion},
    testing::{Plan, perfect_run},
};
use agora_history::{Answer, Call, Item, Level, Op, Reply, RunData};

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

/// Of a batch that nobody was answered, the feed tells what was placed. Baskets of one buyer for as many units of other
/// goods must not be taken for each other: what was refused would be placed, and what was placed refused.
#[test]
fn what_was_placed_of_an_unanswered_batch_is_told_by_its_goods() {
    let mut mistakable = 0;
    for seed in 0..200 {
        let mut data = perfect_run(&Plan { seed, operations: 400, accounts: 1, trouble: 4, ..Plan::default() });
        let mut lost = BTreeSet::new();
        for call in &data.calls {
            let (Op::PlaceBatch(baskets), Reply::Yes { answer: Answer::Orders(items), .. }) =
                (&call.request, &call.reply)
            else {
                continue;
            };
            let units = |at: usize| baskets[at].items.iter().map(|(_, units)| *units).collect::<Vec<_>>();
            let placed = |at: usize| matches!(items[at], Item::Order(_));
            let mistaken = |one: usize, other: usize| units(one) == units(other) && !placed(one) && placed(other);
            if (0..items.len()).any(|other| (0..other).any(|one| mistaken(one, other))) {
                lost.insert(call.op);
            }
        }
        mistakable += lost.len();
        for call in data.calls.iter_mut().filter(|call| lost.contains(&call.op)) {
            (call.index, call.replayed) = (None, false);
            call.reply = Reply::Unknown { status: None, why: "lost".to_owned() };
        }
        let checked = check(&data);
        clean(&checked);
        assert_eq!(checked.figures["explained_by_the_order_of_the_feed"], checked.figures["objects"], "seed {seed}");
    }
    assert!(mistakable > 20, "{mistakable}");
}

/// Hundreds of orders and batches of one buyer, at prices that change, each holding money and none answered. What each
/// took from the wallet is one of many sums, and all of them together far more than can be tried; the feed proposes one.
#[test]
fn hundreds_of_unanswered_holds_on_one_wallet_are_decided() {
    let plan = Plan { seed: 3, operations: 6_000, accounts: 1, clients: 16, skus: 6, trouble: 20, ..Plan::default() };
    let mut data = perfect_run(&plan);
    let mut holds = 0;
    for call in &mut data.calls {
        let (baskets, is_yes) = match (&call.request, &call.reply) {
            (Op::Place(basket), Reply::Yes { .. }) => (std::slice::from_ref(basket), true),
            (Op::PlaceBatch(baskets), Reply::Yes { .. }) => (baskets.as_slice(), true),
            (Op::ReadKey { .. }, _) => (&[][..], true),
            _ => (&[][..], false),
        };
        let held = baskets.iter().filter(|basket| basket.hold).count();
        // What is kept under a key would tell what was lost.
        if is_yes && (held > 0 || baskets.is_empty()) {
            holds += held;
            (call.index, call.replayed) = (None, false);
            call.reply = Reply::Unknown { status: None, why: "lost".to_owned() };
        }
    }
    assert!(holds >= 200, "{holds}");
    clean(&check(&data));
    // And it is no blind yes: a wallet that shows one minor unit less is found.
    let mut wrong = data;
    spoil(&mut wrong, |call| match (&call.request, &mut call.reply) {
        (Op::ReadWallet { .. }, Reply::Yes { answer: Answer::Account(account), .. })
            if call.level == Some(Level::Linearizable) =>
        {
            account.balance -= 1;
            true
        }
        _ => false,
    });
    assert_ne!(check(&wrong).findings, vec![]);
}

#[test]
fn a_busy_shop_is_decided() {
    let plan = Plan { seed: 7, operations: 80_000, clients: 64, skus: 3, accounts: 8, trouble: 8, ..Plan::default() };
    let data = perfect_run(&plan);
    let checked = check(&data);
    clean(&checked);
    assert!(checked.checked >= 50_000, "{}", checked.checked);
}

/// Spoils the last answer for which that can be done.
fn spoil(data: &mut RunData, change: impl Fn(&mut Call) -> bool) {
    assert!(data.calls.iter_mut().rev().any(change), "nothing to spoil");
}

#[test]
fn one_wrong_answer_in_a_busy_shop_is_found() {
    let plan = Plan { seed: 9, operations: 12_000, clients: 48, skus: 3, accounts: 8, trouble: 8, ..Plan::default() };
    let right = perfect_run(&plan);
    let exact = |call: &Call| call.level == Some(Level::Linearizable);
    let spoils: [fn(&mut Call) -> bool; 4] = [
        |call| match (&call.request, &mut call.reply) {
            (Op::ReadStock { .. }, Reply::Yes { answer: Answer::Stocks(stocks), .. }) => {
                stocks[0].reserved += 1;
                stocks[0].available -= 1;
                true
            }
            _ => false,
        },
        |call| match (&call.request, &mut call.reply) {
            (Op::ReadWallet { .. }, Reply::Yes { answer: Answer::Account(account), .. }) => {
                account.balance -= 1;
                true
            }
            _ => false,
        },
        |call| match (&call.request, &mut call.reply) {
            (Op::ReadStock { .. }, Reply::Yes { answer: Answer::Stocks(stocks), .. }) => {
                stocks[0].version -= 40;
                true
            }
            _ => false,
        },
        |call| match &mut call.reply {
            Reply::Refused { refusal, .. } if !refusal.shortages.is_empty() => {
                refusal.shortages[0].available += 100_000;
                true
            }
            _ => false,
        },
    ];
    for (number, spoiled) in spoils.into_iter().enumerate() {
        let mut wrong = right.clone();
        spoil(&mut wrong, |call| (call.request.is_write() || exact(call)) && spoiled(call));
        assert_ne!(check(&wrong).findings, vec![], "{number}");
    }
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
