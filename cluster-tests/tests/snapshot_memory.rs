//! Promise: a snapshot is written and installed in bounded memory, however many rows there are; the peaks are shown.
//!
//! Short: some 40,000 rows. Long (`AGORA_LONG=1`): 1,000,000. What is asserted is that the peak does not follow the rows.

use std::time::{Duration, Instant};

use agora_cluster_tests::{
    check::wait_equal_digests,
    client::{Call, Client, Reply},
    cluster::{Cluster, SETTLE_TIMEOUT},
    config::Overrides,
    settings::scaled,
    shop::{create_account, number, order_body, stock, stocked_sku},
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
/// Rows an order leaves at the least: itself, its facts, two indexes, a timer, and its part in the outcome of its batch.
const ROWS_PER_ORDER: usize = 5;
/// What a snapshot and an install may add to a node's memory: blocks and buffers, not rows.
const PEAK_KIB_MAX: u64 = 256 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_many_rows_needs_little_memory() {
    let rows = scaled(40_000, 1_000_000);
    let overrides = Overrides::none().set("raft", "snapshot_log_bytes", 64 << 10).set("raft", "log_bytes_max", 1 << 20);
    let cluster = Cluster::start(BINARY, 3, overrides).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "ROWS", 100, 1_000_000).await.id;
    let account = create_account(&client, "bulk").await;
    let mut orders = rows / ROWS_PER_ORDER;
    fill(&client, &account, &sku, orders).await;

    // The log's beginning must be gone, or the newcomer comes by the log.
    let maker = cluster.wait_ready().await;
    let begun = Instant::now();
    while cluster.status_of(&client, maker).await.is_none_or(|status| status["purged_index"].as_u64().unwrap_or(0) == 0)
    {
        fill(&client, &account, &sku, 100).await;
        orders += 100;
        assert!(begun.elapsed() < SETTLE_TIMEOUT, "the log is never cut");
    }
    let before = cluster.memory_kib(maker);
    let begun = Instant::now();
    let made = snapshot(&client, maker).await;
    let after = cluster.memory_kib(maker);
    println!(
        "snapshot of at least {rows} rows ({made}) in {:?}: resident {} KiB before, peak {} KiB",
        begun.elapsed(),
        before.0,
        after.1
    );
    assert!(number(&made, "index") > 0 && number(&made, "bytes") > rows as u64, "a snapshot of nothing: {made}");
    assert!(after.1 < before.1 + PEAK_KIB_MAX, "writing a snapshot took {} KiB", after.1 - before.1);

    cluster.prepare_joiner(4);
    cluster.start_node(4);
    client.set_endpoints(cluster.endpoints());
    let begun = Instant::now();
    let body = json!({"id": 4, "peer_addr": cluster.peer(4), "http_addr": cluster.http(4)});
    let deadline = Instant::now() + scaled(1, 5) * SETTLE_TIMEOUT;
    loop {
        let reply = client.send(maker, &Call::post("/cluster/members", body.clone()).timeout(SETTLE_TIMEOUT)).await;
        if matches!(&reply, Reply::Answer(answer) if answer.status < 300) {
            break;
        }
        assert!(Instant::now() < deadline, "the newcomer is not taken in: {reply:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cluster.wait_live(4).await;
    while cluster.metric(&client, 4, "agora_snapshots_installed").await < 1.0 {
        assert!(Instant::now() < deadline, "no snapshot was installed\n{}", cluster.log_tail(4));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (now, peak) = cluster.memory_kib(4);
    let sender = cluster.memory_kib(maker).1;
    println!("installed in {:?}: resident {now} KiB, peak {peak} KiB; the sender's peak {sender} KiB", begun.elapsed());
    // The newcomer holds its caches besides what the install takes.
    assert!(peak < 2 * PEAK_KIB_MAX, "installing a snapshot took {peak} KiB");
    assert!(sender < after.1 + PEAK_KIB_MAX, "sending a snapshot took {} KiB", sender - after.1);

    let left = stock(&client, 4, &sku, "local").await;
    assert_eq!(left.reserved, orders as u64, "the newcomer has other rows");
    let status = cluster.status_of(&client, maker).await.expect("a status");
    wait_equal_digests(&cluster, &client, status["applied_index"].as_u64().expect("an index")).await;
}

/// Orders in batches of a hundred, from eight hands.
async fn fill(client: &Client, account: &str, sku: &str, orders: usize) {
    let batches = orders.div_ceil(100);
    let body = json!({"orders": vec![order_body(account, &[(sku, 1)]); 100]});
    let hands: Vec<_> = (0..8)
        .map(|hand| {
            let (client, body) = (client.clone(), body.clone());
            tokio::spawn(async move {
                for _ in (hand..batches).step_by(8) {
                    client.must(hand, &Call::post("/orders/batch", body.clone()), 200).await;
                }
            })
        })
        .collect();
    for hand in hands {
        hand.await.expect("a hand");
    }
}

/// Makes a snapshot on a node and returns what it says of it.
async fn snapshot(client: &Client, node: u64) -> Value {
    let call = Call::post("/cluster/snapshots", json!({})).timeout(Duration::from_secs(300));
    let answer = client.ask(node, &call).await;
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    answer.json()
}
