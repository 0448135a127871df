//! Promise: members come and go while orders run: a fourth node joins from a snapshot, is promoted, an old one is removed,
//! leadership moves, and no write fails other than with an answer that says it may be repeated; what would lose the
//! quorum is refused, an id is used once for ever, and a node that lost its disk is not let in under its old id.

use std::time::{Duration, Instant};

use agora_cluster_tests::{
    check::{equal_feeds, wait_equal_digests},
    client::{Answer, Call, Client, Reply, Verdict},
    cluster::{Cluster, SETTLE_TIMEOUT},
    config::Overrides,
    load::{Crowd, rush},
    settings::scaled,
    shop::{create_account, order, order_body, stock, stocked_sku},
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
const UNITS: u64 = 1_000_000;

/// A log so short that who joins late finds its beginning gone.
fn short_log() -> Overrides {
    Overrides::none().set("raft", "snapshot_log_bytes", 64 << 10).set("raft", "log_bytes_max", 1 << 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_while_orders_run() {
    let cluster = Cluster::start(BINARY, 3, short_log()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "MEMBERS", 100, UNITS).await.id;
    let account = create_account(&client, "buyer").await;
    // More than the log may keep, so that only a snapshot brings the newcomer there.
    let before = rush(&client, &order_body(&account, &[(&sku, 1)]), scaled(6_000, 60_000), 64).await;
    assert_eq!(before.refused().count(), 0);

    let crowd = Crowd::enter(&client, &account, &sku, 8, Duration::from_millis(5));
    crowd.wait_accepted(50, Duration::from_secs(60)).await;

    cluster.prepare_joiner(4);
    cluster.start_node(4);
    // Buyers come to it at once: until it can sell it has to say so in a way that sends them elsewhere.
    client.set_endpoints(cluster.endpoints());
    let newcomer = json!({"id": 4, "peer_addr": cluster.peer(4), "http_addr": cluster.http(4)});
    administer(&client, 1, &Call::post("/cluster/members", newcomer.clone())).await.expect_success();
    // Safe to repeat.
    administer(&client, 2, &Call::post("/cluster/members", newcomer)).await.expect_success();
    let status = cluster.status_of(&client, cluster.wait_leader().await).await.expect("a status");
    let there = status["applied_index"].as_u64().expect("an applied index");
    let caught_up = |member: &Value| member["applied_index"].as_u64().is_some_and(|applied| applied >= there);
    let learner = wait_member(&cluster, &client, 4, caught_up).await;
    assert_eq!(learner["role"].as_str().map(str::to_lowercase).as_deref(), Some("learner"), "{learner}");
    let installed = cluster.metric(&client, 4, "agora_snapshots_installed").await;
    assert!(installed >= 1.0, "the newcomer came by the log alone: the test did not force a snapshot");
    crowd.wait_accepted(50, Duration::from_secs(60)).await;

    administer(&client, 3, &Call::post("/cluster/members/4/promote", json!({}))).await.expect_success();
    administer(&client, 1, &Call::post("/cluster/members/4/promote", json!({}))).await.expect_success();
    wait_member(&cluster, &client, 4, is_voter).await;
    crowd.wait_accepted(50, Duration::from_secs(60)).await;

    let leader = cluster.wait_ready().await;
    let old = (1..=3).find(|id| *id != leader).expect("a follower");
    administer(&client, 4, &Call::delete(&format!("/cluster/members/{old}"))).await.expect_success();
    wait_gone(&cluster, &client, old).await;
    crowd.wait_accepted(50, Duration::from_secs(60)).await;

    transfer(&cluster, &client, 4).await;
    crowd.wait_accepted(50, Duration::from_secs(60)).await;
    // The old leader leaves as well, and the cluster is the newcomer's and one founder's.
    administer(&client, 4, &Call::delete(&format!("/cluster/members/{leader}"))).await.expect_success();
    wait_gone(&cluster, &client, leader).await;
    for removed in [old, leader] {
        retire(&cluster, removed);
    }
    client.set_endpoints(cluster.endpoints().into_iter().filter(|(id, _)| ![old, leader].contains(id)).collect());
    crowd.wait_accepted(50, Duration::from_secs(60)).await;
    let told = crowd.leave().await;

    println!("attempts: {:?}", told.attempts_by_label());
    told.assert_settled();
    // A definite no, or a 5xx that does not allow a retry, would be a refusal here.
    assert_eq!(told.refused().count(), 0, "a write failed for good: {:?}", told.refused().next());
    let sold = (before.numbers().len() + told.numbers().len()) as u64;
    let mut until = 0;
    for node in cluster.running() {
        let left = stock(&client, node, &sku, "linearizable").await;
        assert_eq!((left.on_hand, left.reserved), (UNITS, sold), "as node {node} sees it");
        let status = cluster.status_of(&client, node).await.expect("a status");
        until = until.max(status["applied_index"].as_u64().expect("an applied index"));
    }
    equal_feeds(&cluster, &client, until).await;
    wait_equal_digests(&cluster, &client, until).await;

    // An id is used once, whoever bears it.
    let again = json!({"id": old, "peer_addr": cluster.peer(old), "http_addr": cluster.http(old)});
    administer(&client, 4, &Call::post("/cluster/members", again)).await.answer.expect_problem(409, "NODE_ID_REUSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_refused() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let leader = cluster.wait_ready().await;
    let dead = (1..=3).find(|id| *id != leader).expect("a follower");
    let other = (1..=3).find(|id| *id != leader && *id != dead).expect("another follower");
    cluster.kill(dead);
    client.set_endpoints(cluster.endpoints().into_iter().filter(|(id, _)| *id != dead).collect());
    // Two live voters of three. Without the live follower it would be one of two.
    let refused = administer(&client, leader, &Call::delete(&format!("/cluster/members/{other}"))).await;
    refused.answer.expect_problem(409, "WOULD_LOSE_QUORUM");
    let status = cluster.status_of(&client, leader).await.expect("a status");
    assert_eq!(voters(&status).len(), 3, "the refused removal was begun: {status}");

    // The dead one may go: two live voters of two.
    administer(&client, other, &Call::delete(&format!("/cluster/members/{dead}"))).await.expect_success();
    wait_gone(&cluster, &client, dead).await;
    let sku = stocked_sku(&client, "AFTER", 100, 5).await.id;
    assert_eq!(stock(&client, other, &sku, "linearizable").await.available, 5);
    // Nobody can be removed or promoted who was never there.
    let unknown = administer(&client, leader, &Call::delete("/cluster/members/77")).await.answer;
    unknown.expect_problem(404, "NOT_FOUND");
    let stranger = administer(&client, leader, &Call::post("/cluster/members/77/promote", json!({}))).await.answer;
    stranger.expect_problem(404, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "MOVES", 100, UNITS).await.id;
    let account = create_account(&client, "buyer").await;
    let crowd = Crowd::enter(&client, &account, &sku, 6, Duration::from_millis(5));
    for target in [1, 2, 3, 3, 1] {
        crowd.wait_accepted(20, Duration::from_secs(60)).await;
        let asked = Instant::now();
        transfer(&cluster, &client, target).await;
        crowd.wait_accepted(20, Duration::from_secs(60)).await;
        println!("leadership moved to {target} and 20 orders accepted in {:?}", asked.elapsed());
    }
    let told = crowd.leave().await;
    println!("attempts: {:?}", told.attempts_by_label());
    told.assert_settled();
    assert_eq!(told.refused().count(), 0);
    assert_eq!(stock(&client, 2, &sku, "linearizable").await.reserved, told.numbers().len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_not_let_in_under_its_old_id() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "WIPED", 100, 100).await.id;
    let account = create_account(&client, "buyer").await;
    let leader = cluster.wait_ready().await;
    let wiped = (1..=3).find(|id| *id != leader).expect("a follower");
    let witness = (1..=3).find(|id| *id != leader && *id != wiped).expect("another follower");
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).expect("the wiped data directory");
    cluster.start_node(wiped);
    // It may leave with a message or stay and be refused; what counts is that it never counts.
    let left = cluster.wait_exit(wiped, Duration::from_secs(8));
    if let Some(status) = left {
        assert!(!status.success(), "a node that cannot do its work left with success");
    } else {
        let ready = client.send(wiped, &Call::get("/readyz").timeout(Duration::from_secs(3))).await;
        assert!(!matches!(&ready, Reply::Answer(answer) if answer.status == 200), "a node without its past is ready");
    }
    let said = cluster.log(wiped).to_lowercase();
    assert!(
        ["id", "refuse"].iter().all(|word| said.contains(word)),
        "the wiped node does not say why it was refused:\n{}",
        cluster.log_tail(wiped)
    );
    // Two good nodes work on.
    client.set_endpoints(cluster.endpoints().into_iter().filter(|(id, _)| *id != wiped).collect());
    let placed = client.settle(0, &order(&account, &[(&sku, 1)]), SETTLE_TIMEOUT).await;
    placed.answer().expect(201);
    // With one of them dead, the wiped node must not make a majority with the other.
    cluster.kill(witness);
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        let reply = client.send(leader, &order(&account, &[(&sku, 1)]).timeout(Duration::from_secs(3))).await;
        assert_ne!(reply.verdict(), Verdict::Yes, "a node without its past voted or held an entry");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.start_node(witness);
    let placed = client.settle(0, &order(&account, &[(&sku, 1)]), SETTLE_TIMEOUT).await;
    placed.answer().expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_wiped_nodes_do_not_write_over_the_third() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "THIRD", 100, 100).await.id;
    let account = create_account(&client, "buyer").await;
    client.must(0, &order(&account, &[(&sku, 1)]), 201).await;
    let keeper = cluster.wait_ready().await;
    let wiped: Vec<u64> = (1..=3).filter(|id| *id != keeper).collect();
    cluster.kill_all(&[1, 2, 3]);
    for id in &wiped {
        std::fs::remove_dir_all(cluster.data_dir(*id)).expect("the wiped data directory");
        cluster.start_node(*id);
    }
    // They are a majority by number and know nothing. What they do among themselves nobody can forbid them; but the one
    // that remembers must not be made to forget, whoever speaks to it and for however long.
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.start_node(keeper);
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let local = Call::get(&format!("/skus/{sku}/stock")).consistency("local").timeout(Duration::from_secs(2));
        if let Reply::Answer(answer) = client.send(keeper, &local).await {
            assert_ne!(answer.status, 404, "the survivor was made to forget: {}", answer.text());
            if answer.status == 200 {
                assert_eq!(answer.json()["reserved"], 1, "the survivor was made to forget");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = cluster.wait_exit(keeper, Duration::from_millis(10));
    assert!(left.is_none_or(|status| !status.success()), "the survivor left as if all were well");
    let said = (1..=3).map(|id| cluster.log(id)).collect::<String>().to_lowercase();
    assert!(said.contains("refused"), "nobody says that something is wrong\n{}", cluster.log_tail(keeper));
}

/// An administrator's answer with the request that got it.
struct Administered {
    answer: Answer,
    call: String,
}

impl Administered {
    #[track_caller]
    fn expect_success(&self) {
        let Administered { answer, call } = self;
        assert!((200..300).contains(&answer.status), "{call}: {} {}", answer.status, answer.text());
    }
}

/// Sends an administrator's request until the answer is a definite one; it is safe to repeat.
async fn administer(client: &Client, node: u64, call: &Call) -> Administered {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let reply = client.send(node, &call.clone().timeout(Duration::from_secs(40))).await;
        match reply {
            Reply::Answer(answer) if answer.status < 500 && answer.code() != "CONFIG_CHANGE_IN_PROGRESS" => {
                return Administered { answer, call: format!("{call:?}") };
            }
            other => assert!(Instant::now() < deadline, "no definite answer to {call:?}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn voters(status: &Value) -> Vec<u64> {
    members(status).iter().filter(|member| is_voter(member)).filter_map(|member| member["id"].as_u64()).collect()
}

fn members(status: &Value) -> Vec<Value> {
    status["members"].as_array().unwrap_or_else(|| panic!("no members in {status}")).clone()
}

fn is_voter(member: &Value) -> bool {
    let role = member["role"].as_str().unwrap_or_default().to_lowercase();
    ["voter", "leader", "follower", "candidate"].contains(&role.as_str())
}

/// Waits until the leader's status shows the member as wanted; returns it.
async fn wait_member(cluster: &Cluster, client: &Client, id: u64, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let mut seen = Value::Null;
        for node in cluster.running() {
            if let Some(status) = cluster.status_of(client, node).await
                && status["leader"].as_u64() == Some(node)
            {
                seen = status;
            }
        }
        let member = seen["members"].as_array().into_iter().flatten().find(|member| member["id"] == json!(id));
        if let Some(member) = member.filter(|member| wanted(member)) {
            return member.clone();
        }
        assert!(Instant::now() < deadline, "member {id} does not become as wanted: {seen}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until no node that stays lists the member.
async fn wait_gone(cluster: &Cluster, client: &Client, id: u64) {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let mut listed = Vec::new();
        for node in cluster.running().into_iter().filter(|node| *node != id) {
            let Some(status) = cluster.status_of(client, node).await else { continue };
            if status["leader"].as_u64() == Some(node) {
                listed.push(members(&status).iter().any(|member| member["id"] == json!(id)));
            }
        }
        if !listed.is_empty() && listed.iter().all(|still| !still) {
            return;
        }
        assert!(Instant::now() < deadline, "member {id} is still listed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Moves leadership and waits until it has moved. A refused transfer (target not caught up) is asked again.
async fn transfer(cluster: &Cluster, client: &Client, to: u64) {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while cluster.leader_seen_by(client, to).await != Some(to) {
        let call = Call::post("/cluster/leader/transfer", json!({"to": to})).timeout(Duration::from_secs(20));
        let answer = client.send(cluster.running()[0], &call).await;
        assert!(Instant::now() < deadline, "leadership does not move to {to}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Ends a removed node's process, if it has not left by itself.
fn retire(cluster: &Cluster, id: u64) {
    if cluster.wait_exit(id, Duration::from_millis(10)).is_none() {
        cluster.kill(id);
    }
}
