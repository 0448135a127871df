//! The made-up runs that the tests of checkers start from: they hold what a checker must look at.

use std::collections::BTreeMap;

use agora_checkers::testing::{Plan, perfect_run};
use agora_history::{Outcome, Reply, operations};

#[test]
fn a_made_up_run_has_everything_a_checker_looks_at() {
    let data = perfect_run(&Plan::default());
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for operation in operations(&data.calls) {
        *outcomes.entry(format!("{:?}", operation.outcome)).or_default() += 1;
        if let Some(Reply::Refused { refusal, .. }) = operation.decisive.map(|call| &call.reply) {
            *outcomes.entry(refusal.code.clone()).or_default() += 1;
        }
        if operation.outcome == Outcome::Yes && operation.decisive.is_some_and(|call| call.replayed) {
            *outcomes.entry("replayed".to_owned()).or_default() += 1;
        }
    }
    for event in &data.feeds[&1] {
        let cause = event.data["cause"].as_str().filter(|cause| *cause == "EXPIRED");
        *outcomes.entry(cause.unwrap_or(&event.kind).to_owned()).or_default() += 1;
    }
    for wanted in [
        "Yes",
        "Refused",
        "NotDone",
        "Unknown",
        "replayed",
        "EXPIRED",
        "INVENTORY_SHORTAGE",
        "INSUFFICIENT_BALANCE",
        "INVALID_TRANSITION",
        "VERSION_MISMATCH",
        "DUPLICATE_EXTERNAL_ID",
        "wallet.balance.refunded",
        "wallet.balance.captured",
        "wallet.balance.paid",
        "wallet.balance.released",
        "inventory.stock.deducted",
        "order.order.completed",
        "catalog.sku.changed",
    ] {
        assert!(outcomes.get(wanted).is_some_and(|count| *count >= 2), "too few {wanted}: {outcomes:#?}");
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let plan = Plan { operations: 300, ..Plan::default() };
    let (one, other) = (perfect_run(&plan), perfect_run(&plan));
    assert_eq!(one.calls, other.calls);
    assert_eq!(one.feeds, other.feeds);
    assert_eq!(one.finals, other.finals);
}
