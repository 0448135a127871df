//! Promise: a read says how fresh it is and is as fresh as it was asked to be, on every node: linearizable reads see every
//! write acknowledged before they were asked; bounded ones are within their bound and never older than what their node
//! itself has acknowledged; `Min-Index` waits or refuses; local ones never go back on one node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_cluster_tests::{
    client::{Answer, Call, Client, Reply},
    cluster::{Cluster, Lease, Shared},
    config::Overrides,
    settings::scaled,
    shop::{create_account, create_sku, number, order_body, receive, stock, stocked_sku, text},
};
use serde_json::json;

static CLUSTER: Shared = Shared::new();

async fn cluster() -> Lease {
    CLUSTER.lease(env!("CARGO_BIN_EXE_agora-test-node"), 3, Overrides::none()).await
}

fn header_number(answer: &Answer, name: &str) -> u64 {
    let text = answer.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", answer.headers));
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_sees_every_acknowledged_write() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = create_sku(&client, "LINEAR", 100).await.id;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writer = {
        let (client, sku, stop, acknowledged) = (client.clone(), sku.clone(), stop.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for unit in 1..=scaled(150, 5_000) {
                let body = json!({"lines": [{"sku_id": sku, "quantity": 1}], "reason": "one more"});
                client.must(unit as usize, &Call::post("/stock/receive", body), 200).await;
                acknowledged.store(unit, Ordering::SeqCst);
            }
            stop.store(true, Ordering::SeqCst);
        })
    };
    let readers: Vec<_> = (1..=3)
        .map(|node| {
            let (client, sku, stop, acknowledged) = (client.clone(), sku.clone(), stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let (mut reads, mut highest) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    let at_least = acknowledged.load(Ordering::SeqCst);
                    let seen = stock(&client, node, &sku, "linearizable").await.on_hand;
                    assert!(seen >= at_least, "node {node} read {seen} after {at_least} was acknowledged");
                    assert!(seen >= highest, "node {node} read {seen} after it had read {highest}");
                    (highest, reads) = (seen, reads + 1);
                }
                reads
            })
        })
        .collect();
    writer.await.expect("the writer");
    for reader in readers {
        let reads = reader.await.expect("a reader");
        assert!(reads > 5, "only {reads} reads raced with the writes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_its_own_and_others_writes() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "OWN", 100, 1_000).await.id;
    let account = create_account(&client, "reader").await;
    for round in 0..scaled(30, 500) {
        let writer = round % 3 + 1;
        let call = Call::post("/orders", order_body(&account, &[(&sku, 1)]));
        let settled = client.settle(writer as usize - 1, &call, Duration::from_secs(60)).await;
        let placed = settled.answer();
        let (order_no, index) = (text(&placed.expect(201), "order_no"), placed.index().expect("an index"));
        assert_eq!(header_number(placed, "x-log-index"), number(&placed.json(), "log_index"));
        let path = format!("/orders/{order_no}");
        for node in 1..=3 {
            // The default for one thing by its id is linearizable.
            let answer = client.ask(node, &Call::get(&path)).await;
            assert_eq!(answer.expect(200)["order_no"], json!(order_no), "on node {node}");
            assert!(header_number(&answer, "x-log-index") >= index);
            assert_eq!(header_number(&answer, "x-node"), node);
            assert!((1..=3).contains(&header_number(&answer, "x-leader")));
        }
        // Who stays on a node sees his own write by a bounded read, however wide the bound.
        let bounded = Call::get(&path).consistency("bounded").header("max-staleness", "30s");
        client.ask(placed.node, &bounded).await.expect(200);
        // Who names the index sees it on any node, however he reads.
        for node in 1..=3 {
            let local = client.ask(node, &Call::get(&path).consistency("local").min_index(index)).await;
            assert_eq!(local.expect(200)["order_no"], json!(order_no), "on node {node}");
        }
        let leader = client.ask(writer, &Call::get(&path).consistency("leader")).await;
        assert_eq!(leader.expect(200)["order_no"], json!(order_no));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_not_there_yet_is_waited_for_and_then_refused() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = create_sku(&client, "FUTURE", 100).await.id;
    let received = receive(&client, &sku, 7).await;
    let index = number(&received, "log_index");
    let path = format!("/skus/{sku}/stock");
    for node in 1..=3 {
        let far = Call::get(&path).consistency("local").min_index(index + 1_000_000_000);
        let answer = client.ask(node, &far).await;
        answer.expect_problem(503, "STALE_READ");
    }
    // A read that waits is woken by the write it waits for.
    let next = Call::get(&path).consistency("local").min_index(index + 1);
    let waiting = {
        let (client, next) = (client.clone(), next.clone());
        tokio::spawn(async move { client.ask(2, &next).await })
    };
    receive(&client, &sku, 1).await;
    let woken = waiting.await.expect("a reader");
    if woken.status == 200 {
        // Other tests write as well, so the index may be reached by another's write.
        assert!(header_number(&woken, "x-log-index") > index);
    } else {
        woken.expect_problem(503, "STALE_READ");
    }
    assert_eq!(client.ask(2, &next.consistency("linearizable")).await.status, 400, "two levels in one request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounded_reads_keep_their_bound_and_local_ones_do_not_go_back() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = create_sku(&client, "BOUNDED", 100).await.id;
    let path = format!("/skus/{sku}/stock");
    let mut last = [0_u64; 4];
    for units in 1..=scaled(30_u64, 300) {
        receive(&client, &sku, 1).await;
        for node in 1..=3_u64 {
            let local = client.ask(node, &Call::get(&path).consistency("local")).await;
            // A follower may not have heard of the SKU yet.
            if local.status == 200 {
                let seen = number(&local.json(), "on_hand");
                assert!(seen >= last[node as usize], "node {node} went back from {} to {seen}", last[node as usize]);
                assert!(seen <= units, "node {node} shows units that were never received");
                last[node as usize] = seen;
            }
            let bounded =
                client.ask(node, &Call::get(&path).consistency("bounded").header("max-staleness", "250ms")).await;
            match bounded.status {
                200 => assert!(header_number(&bounded, "x-staleness-ms") <= 250, "{:?}", bounded.headers),
                _ => drop(bounded.expect_problem(503, "STALE_READ")),
            }
        }
    }
    // Old rows satisfy no bound: wait longer than the bound after the last write, and it must be there.
    tokio::time::sleep(Duration::from_millis(700)).await;
    for node in 1..=3 {
        let body =
            answered(&client, node, &Call::get(&path).consistency("bounded").header("max-staleness", "500ms")).await;
        assert_eq!(number(&body.json(), "on_hand"), scaled(30, 300), "node {node} passed old rows within a bound");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_slept_does_not_pass_old_rows_as_fresh() {
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_agora-test-node"), 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = create_sku(&client, "ASLEEP", 100).await.id;
    let path = format!("/skus/{sku}/stock");
    for round in 1..=scaled(3_u64, 20) {
        let follower = cluster.follower().await;
        receive(&client, &sku, 1).await;
        cluster.pause(follower);
        let awake: Vec<_> = cluster.endpoints().into_iter().filter(|(id, _)| *id != follower).collect();
        let others = cluster.client();
        others.set_endpoints(awake);
        // Written while it sleeps, and more than a bound ago when it wakes.
        receive(&others, &sku, 1).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        // These requests lie in its sockets beside the heartbeats it has missed.
        let levels = [("linearizable", None), ("bounded", Some("400ms"))];
        let reads: Vec<_> = levels
            .into_iter()
            .map(|(level, bound)| {
                let mut call = Call::get(&path).consistency(level);
                if let Some(bound) = bound {
                    call = call.header("max-staleness", bound);
                }
                let client = client.clone();
                tokio::spawn(async move { client.send(follower, &call).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.resume(follower);
        for read in reads {
            match read.await.expect("a reader") {
                Reply::Answer(answer) if answer.status == 200 => {
                    assert_eq!(number(&answer.json(), "on_hand"), 2 * round, "old rows passed as fresh: {answer:?}");
                }
                Reply::Answer(answer) => assert!(answer.status == 503, "{}", answer.text()),
                other => panic!("no answer: {other:?}"),
            }
        }
        cluster.wait_ready().await;
    }
}

/// An answer that is not a momentary refusal.
async fn answered(client: &Client, node: u64, call: &Call) -> Answer {
    for _ in 0..50 {
        let answer = client.ask(node, call).await;
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("node {node} refuses {call:?} for five seconds")
}
