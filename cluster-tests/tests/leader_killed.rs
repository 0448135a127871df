//! Promise: any of three nodes killed with `kill -9` under load, and paused ones that come back: writes go on, no
//! acknowledged order is lost, none is there twice, stock is exact (invariants 7 and 8).
//!
//! The time to the first new acceptance is measured and printed; asserted is only a bound that no busy machine breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use agora_cluster_tests::{
    check::{Folded, equal_feeds, wait_equal_digests},
    client::{Call, Client, Verdict},
    cluster::Cluster,
    config::Overrides,
    load::{Crowd, Told},
    settings::scaled,
    shop::{create_account, order_body, orders_of, stock, stocked_sku, text},
};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
/// No cluster on a busy machine needs longer to accept orders again.
const RECOVERY_BOUND: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_order_is_lost_or_doubled_when_nodes_are_killed() {
    let rounds = scaled(4, 40);
    let scene = Scene::open("KILLED").await;
    let (cluster, client) = (&scene.cluster, &scene.client);
    let crowd = Crowd::enter(client, &scene.account, &scene.sku, 16, Duration::from_millis(4));
    crowd.wait_accepted(100, Duration::from_secs(60)).await;

    let (mut leaders, mut followers, mut hit) = (0, 0, BTreeSet::new());
    let mut kills = Vec::new();
    for round in 0.. {
        let leader = cluster.wait_ready().await;
        // The leader and a follower in turn, those first that were spared so far, until every node was hit.
        let victim = if round % 2 == 0 {
            leader
        } else {
            let spared = cluster.running().into_iter().filter(|id| *id != leader);
            spared.min_by_key(|id| hit.contains(id)).expect("three nodes")
        };
        *(if victim == leader { &mut leaders } else { &mut followers }) += 1;
        hit.insert(victim);
        crowd.wait_accepted(30, Duration::from_secs(60)).await;
        let killed = Instant::now();
        cluster.kill(victim);
        kills.push((victim, victim == leader, killed));
        crowd.wait_accepted(30, RECOVERY_BOUND).await;
        cluster.start_node(victim);
        cluster.wait_ready().await;
        if round + 1 >= rounds && hit.len() == 3 {
            break;
        }
    }
    assert!(leaders > 0 && followers > 0, "a run that spared leaders or followers proves nothing");
    crowd.wait_accepted(50, Duration::from_secs(60)).await;
    let told = crowd.leave().await;

    for (victim, led, killed) in kills {
        let again = told.first_accepted_after(killed).expect("orders were accepted after every kill");
        let role = if led { "leader" } else { "follower" };
        println!("killed {role} {victim}: a new order accepted after {:?}", again - killed);
    }
    scene.audit(told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_comes_back_without_harm() {
    let rounds = scaled(2, 12);
    let scene = Scene::open("SLEPT").await;
    let (cluster, client) = (&scene.cluster, &scene.client);
    let crowd = Crowd::enter(client, &scene.account, &scene.sku, 8, Duration::from_millis(8));
    for round in 0..rounds {
        let leader = cluster.wait_ready().await;
        crowd.wait_accepted(30, Duration::from_secs(60)).await;
        let paused = Instant::now();
        cluster.pause(leader);
        // Long enough for a new leader to be chosen while the old one still believes in itself.
        tokio::time::sleep(Duration::from_millis(if round % 2 == 0 { 2_500 } else { 700 })).await;
        cluster.resume(leader);
        crowd.wait_accepted(30, RECOVERY_BOUND).await;
        println!("leader {leader} slept; 30 orders more {:?} after it fell asleep", paused.elapsed());
    }
    cluster.wait_ready().await;
    let told = crowd.leave().await;
    scene.audit(told).await;
}

/// A cluster with one account and one SKU that never runs out.
struct Scene {
    cluster: Cluster,
    client: Client,
    account: String,
    sku: String,
}

const UNITS: u64 = 1_000_000;

impl Scene {
    async fn open(code: &str) -> Scene {
        let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
        let client = cluster.client();
        let sku = stocked_sku(&client, code, 250, UNITS).await.id;
        let account = create_account(&client, "buyer").await;
        Scene { cluster, client, account, sku }
    }

    /// Every acknowledged order is there once, by number, by list, by key and by stock, on every node.
    async fn audit(&self, told: Told) {
        let (cluster, client) = (&self.cluster, &self.client);
        println!("attempts: {:?}", told.attempts_by_label());
        told.assert_settled();
        assert_eq!(told.refused().count(), 0, "units were there for every order");
        let numbers = told.numbers();
        let sold = numbers.len() as u64;
        cluster.wait_ready().await;
        let mut until = 0;
        for node in cluster.running() {
            let left = stock(client, node, &self.sku, "linearizable").await;
            assert_eq!((left.on_hand, left.reserved), (UNITS, sold), "units and orders differ, says node {node}");
            let listed: Vec<String> =
                orders_of(client, node, &self.account).await.iter().map(|order| text(order, "order_no")).collect();
            assert_eq!(listed.len() as u64, sold, "node {node} lists other orders than were acknowledged");
            assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), numbers, "as node {node} lists them");
            let status = cluster.status_of(client, node).await.expect("a status");
            until = until.max(status["applied_index"].as_u64().expect("an applied index"));
        }
        self.replay_all(&told).await;
        let folded = equal_feeds(cluster, client, until).await;
        let (units, sold) = (i128::from(UNITS), i128::from(sold));
        let expected = Folded { received: units, adjusted: 0, reserved: sold, shipped: 0, on_hand: units };
        assert_eq!(folded[&self.sku], expected, "the feed tells another story than the stock");
        wait_equal_digests(cluster, client, until).await;
    }

    /// Every key, asked again on every node in turn, gives its first answer byte by byte.
    async fn replay_all(&self, told: &Told) {
        let body = order_body(&self.account, &[(&self.sku, 1)]);
        let nodes = self.cluster.running();
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        for (turn, order) in told.accepted().enumerate() {
            let call = Call::post_with_key("/orders", &order.key, body.clone());
            let again = self.client.settle(turn % nodes.len(), &call, Duration::from_secs(30)).await;
            assert_eq!(again.verdict, Verdict::Yes, "{} was accepted and is no more", order.key);
            assert_eq!(again.answer().body, order.answer().body, "{} has two answers", order.key);
            assert!(again.answer().replayed(), "{} took effect again", order.key);
            *labels.entry(again.answer().node.to_string()).or_default() += 1;
        }
        println!("replays by node: {labels:?}");
    }
}
