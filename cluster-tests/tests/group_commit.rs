//! Promise: one group commit is one fsync per node, groups grow with load, and a transaction never spans two entries;
//! at 256 connections at least 20 orders share an fsync.
//!
//! The figures come from the nodes' own counters; that they are counters of the real thing is checked against the feed.

use std::collections::{BTreeMap, BTreeSet};

use agora_cluster_tests::{
    check::feed,
    client::Client,
    cluster::Cluster,
    config::Overrides,
    load::rush,
    settings::scaled,
    shop::{create_account, number, order_body, stocked_sku, text},
};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
/// The least number of orders that share one fsync under load.
const ORDERS_PER_FSYNC_MIN: f64 = 20.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_share_entries_and_fsyncs() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let mut skus = Vec::new();
    for at in 0..3 {
        skus.push(stocked_sku(&client, &format!("GROUP-{at}"), 100, 1_000_000).await.id);
    }
    let account = create_account(&client, "buyer").await;
    let body = order_body(&account, &[(&skus[0], 1), (&skus[1], 2), (&skus[2], 3)]);
    // The first orders load the entities and open the connections.
    let warm = rush(&client, &body, 512, 256).await;
    assert_eq!(warm.refused().count(), 0);

    let leader = cluster.wait_ready().await;
    let before = counters(&cluster, &client).await;
    let told = rush(&client, &body, scaled(8_000, 100_000), 256).await;
    let after = counters(&cluster, &client).await;
    told.assert_only_201_and_shortage();
    assert_eq!(told.refused().count(), 0);
    let orders = told.numbers().len() as f64;

    // Entries are counted where they are proposed; every node makes them durable.
    let entries: f64 = after.iter().map(|(node, now)| now.entries - before[node].entries).sum();
    println!("{orders} orders in {entries} entries: {:.1} orders per entry", orders / entries);
    assert!(entries > 0.0, "a counter of entries that does not count");
    for (node, now) in &after {
        let fsyncs = now.fsyncs - before[node].fsyncs;
        let role = if *node == leader { "leader" } else { "follower" };
        println!("node {node} ({role}): {fsyncs} fsyncs, {:.1} orders per fsync", orders / fsyncs);
        assert!(fsyncs > 0.0, "orders were acknowledged without an fsync on node {node}");
        assert!(orders / fsyncs >= ORDERS_PER_FSYNC_MIN, "node {node}: {:.1} orders per fsync", orders / fsyncs);
    }
    let counted = after[&leader].orders - before[&leader].orders;
    assert!(counted >= orders, "agora_orders counted {counted} of {orders}");

    // The entry counter tells the truth: as many entries as the feed shows indexes.
    let first = told.accepted().filter_map(|order| order.answer().index()).min().expect("an index");
    let last = told.accepted().filter_map(|order| order.answer().index()).max().expect("an index");
    let changes = feed(&client, leader, first - 1, last).await;
    let mut indexes_by_order: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut changes_by_order: BTreeMap<String, usize> = BTreeMap::new();
    for change in &changes {
        let named = change["aggregate_id"].as_str().filter(|id| id.starts_with("ord_"));
        let Some(order) = named.or_else(|| change["data"]["order_id"].as_str()) else { continue };
        indexes_by_order.entry(order.to_owned()).or_default().insert(number(change, "index"));
        *changes_by_order.entry(order.to_owned()).or_default() += 1;
    }
    for order in told.accepted() {
        let body = order.answer().json();
        let id = text(&body, "id");
        let indexes = indexes_by_order.get(&id).unwrap_or_else(|| panic!("order {id} is not in the feed"));
        assert_eq!(indexes.len(), 1, "the changes of {id} are in several entries: {indexes:?}");
        assert_eq!(order.answer().index(), indexes.first().copied(), "{id} is not where its answer says");
        // The order itself and a promise of each of three SKUs.
        assert!(changes_by_order[&id] >= 4, "only {} of four changes of {id} are in the feed", changes_by_order[&id]);
    }
    let entries_in_feed = changes.iter().map(|change| number(change, "index")).collect::<BTreeSet<_>>().len() as f64;
    assert!(entries >= entries_in_feed, "{entries} entries counted, {entries_in_feed} seen in the feed");
}

struct Counters {
    entries: f64,
    fsyncs: f64,
    orders: f64,
}

async fn counters(cluster: &Cluster, client: &Client) -> BTreeMap<u64, Counters> {
    let mut all = BTreeMap::new();
    for node in cluster.running() {
        let counters = Counters {
            entries: cluster.metric(client, node, "agora_raft_entries").await,
            fsyncs: cluster.metric(client, node, "agora_log_fsyncs").await,
            orders: cluster.metric(client, node, "agora_orders").await,
        };
        all.insert(node, counters);
    }
    all
}
