//! Promise: state may be far larger than memory: entities leave the leader's memory when they are cold, the bound on
//! live ones holds, and what left comes back as it was.
//!
//! Short: 6,000 SKUs with a bound of 500. Long (`AGORA_LONG=1`): 200,000 with 10,000.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use agora_cluster_tests::{
    client::Call,
    cluster::Cluster,
    config::Overrides,
    settings::scaled,
    shop::{create_account, money, order_body, place, read, receive, stock, text},
};
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
/// What is being decided at one moment may stand above the bound: it cannot leave.
const OVERSHOOT: f64 = 1.25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_more_skus_are_sold_than_fit_in_memory() {
    let (skus, bound) = scaled((6_000, 500), (200_000, 10_000));
    let overrides = Overrides::none().set("shop", "live_entities_max", bound as i64);
    let cluster = Cluster::start(BINARY, 3, overrides).await;
    let client = cluster.client();
    let account = create_account(&client, "collector").await;

    // Created and received by many hands; ids kept in the order of their numbers.
    let next = Arc::new(AtomicUsize::new(0));
    let hands: Vec<_> = (0..32)
        .map(|hand| {
            let (client, next) = (client.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut made = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= skus {
                        return made;
                    }
                    let body = json!({"sku_code": format!("COLD-{at}"), "name": "cold", "price": money(100)});
                    let sku = client.must(hand, &Call::post("/skus", body), 201).await;
                    made.push((at, text(&sku, "id")));
                }
            })
        })
        .collect();
    let mut ids = vec![String::new(); skus];
    for hand in hands {
        for (at, id) in hand.await.expect("a hand") {
            ids[at] = id;
        }
    }
    for chunk in ids.chunks(100) {
        let lines: Vec<_> = chunk.iter().map(|sku| json!({"sku_id": sku, "quantity": 3})).collect();
        client.must(0, &Call::post("/stock/receive", json!({"lines": lines, "reason": "first"})), 200).await;
    }

    // Every SKU is sold from twice, a whole round apart, so that it has left and come back in between.
    let ids = Arc::new(ids);
    let highest = Arc::new(AtomicU64::new(0));
    for round in 0..2 {
        let next = Arc::new(AtomicUsize::new(0));
        let hands: Vec<_> = (0..32)
            .map(|hand| {
                let (client, next, ids, account) = (client.clone(), next.clone(), ids.clone(), account.clone());
                tokio::spawn(async move {
                    loop {
                        // Five SKUs by five distant steps: five loads per order.
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= ids.len() / 5 {
                            return;
                        }
                        let items: Vec<(&str, u64)> =
                            (0..5).map(|row| (ids[at + row * (ids.len() / 5)].as_str(), 1)).collect();
                        client.must(hand, &Call::post("/orders", order_body(&account, &items)), 201).await;
                    }
                })
            })
            .collect();
        while hands.iter().any(|hand| !hand.is_finished()) {
            for node in cluster.running() {
                let live = cluster.metric(&client, node, "agora_entities_live").await;
                highest.fetch_max(live as u64, Ordering::Relaxed);
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        for hand in hands {
            hand.await.expect("a hand");
        }
        println!("round {round}: at most {} entities were live at once", highest.load(Ordering::Relaxed));
    }
    let highest = highest.load(Ordering::Relaxed) as f64;
    assert!(highest <= bound as f64 * OVERSHOOT, "{highest} entities live with a bound of {bound}");
    assert!(highest >= bound as f64 * 0.25, "only {highest} were ever live: the bound of {bound} was not tried");
    for (at, sku) in ids.iter().enumerate().step_by(scaled(60, 200)) {
        let node = at as u64 % 3 + 1;
        let left = stock(&client, node, sku, "linearizable").await;
        assert_eq!((left.on_hand, left.reserved, left.version), (3, 2, 3), "{sku} came back as another");
    }
    // What was sold out twice over is sold out for good.
    place(&client, 0, &account, &[(&ids[0], 1)]).await;
    let more = client
        .settle(1, &Call::post("/orders", order_body(&account, &[(&ids[0], 1)])), std::time::Duration::from_secs(30))
        .await;
    more.answer().expect_problem(409, "INVENTORY_SHORTAGE");
    receive(&client, &ids[0], 1).await;
    let page = read(&client, 2, &Call::get("/skus?limit=200").consistency("linearizable")).await;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(200));
    for node in cluster.running() {
        println!(
            "node {node}: resident {} KiB, at most {} KiB",
            cluster.memory_kib(node).0,
            cluster.memory_kib(node).1
        );
    }
}
