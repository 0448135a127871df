//! Promise: a unit is never sold twice, a unit that is there is never refused, and an order is never half placed,
//! however many buyers press at once and whichever node they ask (invariant 5: never oversell, never negative, never half an
//! order, never a false refusal).
//!
//! Short: 6,000 orders for 3,000 units. Long (`AGORA_LONG=1`): 100,000 orders for 50,000 units.

use std::collections::BTreeSet;

use agora_cluster_tests::{
    check::{Folded, equal_feeds, wait_equal_digests},
    cluster::{Cluster, Lease, Shared},
    config::Overrides,
    load::rush,
    settings::scaled,
    shop::{Stock, create_account, order_body, orders_of, stock, stocked_sku, text},
};
use serde_json::json;

static CLUSTER: Shared = Shared::new();

async fn cluster() -> Lease {
    CLUSTER.lease(env!("CARGO_BIN_EXE_agora-test-node"), 3, Overrides::none()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_sku_sells_exactly_its_stock() {
    let (orders, units) = scaled((6_000, 3_000), (100_000, 50_000));
    let cluster = cluster().await;
    let client = cluster.client();
    let goods = stocked_sku(&client, "HOT-1", 1_999, units).await;
    let account = create_account(&client, "hot buyer").await;

    let told = rush(&client, &order_body(&account, &[(&goods.id, 1)]), orders, 64).await;

    told.assert_only_201_and_shortage();
    println!("attempts: {:?}", told.attempts_by_label());
    let numbers = told.numbers();
    assert_eq!(numbers.len() as u64, units, "as many orders accepted as there were units");
    assert_eq!(told.refused().count() as u64, orders as u64 - units, "all others refused");
    for refusal in told.refused() {
        let shortages = refusal.answer().json()["details"]["shortages"].clone();
        assert_eq!(shortages.as_array().map(Vec::len), Some(1), "one SKU is short: {shortages}");
        assert_eq!(shortages[0]["sku_id"], json!(goods.id));
        assert_eq!(shortages[0]["requested"], json!(1));
        assert_eq!(shortages[0]["available"], json!(0), "a unit was there and was refused");
    }
    let sold_out = Stock { on_hand: units, reserved: units, available: 0, version: units + 1 };
    for node in cluster.running() {
        assert_eq!(stock(&client, node, &goods.id, "linearizable").await, sold_out, "as node {node} sees it");
    }
    let listed: BTreeSet<String> =
        orders_of(&client, 1, &account).await.iter().map(|order| text(order, "order_no")).collect();
    assert_eq!(listed, numbers, "the orders listed are the orders acknowledged");
    audit(&cluster, &goods.id, units, units).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_basket_is_sold_whole_or_not_at_all() {
    let (orders, scarce, plenty) = scaled((600, 200, 450), (20_000, 6_000, 15_000));
    let cluster = cluster().await;
    let client = cluster.client();
    let a = stocked_sku(&client, "BASKET-A", 500, plenty).await;
    let b = stocked_sku(&client, "BASKET-B", 700, scarce).await;
    let account = create_account(&client, "basket buyer").await;
    // Half of the buyers name the SKUs in one order, half in the other: who holds one and waits for the other would hang.
    let there = order_body(&account, &[(&a.id, 1), (&b.id, 1)]);
    let back = order_body(&account, &[(&b.id, 1), (&a.id, 1)]);
    let (mut told, other) =
        tokio::join!(rush(&client, &there, orders / 2, 16), rush(&client, &back, orders - orders / 2, 16));
    told.extend(other);

    told.assert_only_201_and_shortage();
    assert_eq!(told.numbers().len() as u64, scarce, "every unit of the scarce SKU was sold, none twice");
    for order in told.accepted() {
        assert_eq!(order.answer().json()["lines"].as_array().map(Vec::len), Some(2), "an order with half its lines");
    }
    for refusal in told.refused() {
        let short = refusal.answer().json()["details"]["shortages"].to_string();
        assert!(short.contains(&b.id) && !short.contains(&a.id), "only the scarce SKU is short: {short}");
    }
    for node in cluster.running() {
        let left = stock(&client, node, &a.id, "linearizable").await;
        assert_eq!((left.on_hand, left.reserved), (plenty, scarce), "a refused basket kept units, says node {node}");
    }
    audit(&cluster, &b.id, scarce, scarce).await;
}

/// Conservation at every index by the feed of each node, and equal digests.
async fn audit(cluster: &Cluster, sku: &str, units: u64, promised: u64) {
    let client = cluster.client();
    let node = cluster.running()[0];
    let status = cluster.status_of(&client, node).await.expect("a status");
    let until = status["applied_index"].as_u64().unwrap_or_else(|| panic!("no applied_index in {status}"));
    let folded = equal_feeds(cluster, &client, until).await;
    let (units, promised) = (i128::from(units), i128::from(promised));
    let expected = Folded { received: units, adjusted: 0, reserved: promised, shipped: 0, on_hand: units };
    assert_eq!(folded[sku], expected, "the feed tells another story than the stock");
    wait_equal_digests(cluster, &client, until).await;
}
