//! Who must not get in: strangers, huge frames, other clusters, other secrets, nodes that lost what they held.

mod common;

use std::sync::Arc;
use std::time::Duration;

use agora_raft::{Boot, RaftNode, World};
use agora_storage::MemDisk;
use common::{Cluster, Counter, Echo, PATIENCE, config, eventually, member};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends bytes to node 1's peer port and reads until the node closes; returns what it said.
async fn poke(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let addr = cluster.wires.addr("n1").unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The node may close while we still write.
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the node closes");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_bytes_are_refused_and_cost_nothing() {
    let cluster = Cluster::new(3).await;
    cluster.write("before").await;
    let before = cluster.node(1).counters().peers_refused.get();
    let mut opening = b"AGORA-P\x02".to_vec();
    opening.extend([0; 32]);
    let mut huge = opening.clone();
    huge.extend(u16::MAX.to_le_bytes());
    huge.extend([0xff; 100]);
    let mut forged = opening.clone();
    forged.extend(10_u16.to_le_bytes());
    forged.extend([0; 10 + 32]);
    let pokes: [&[u8]; 6] = [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[0; 4096], &opening, &huge, &forged];
    for bytes in pokes {
        let said = poke(&cluster, bytes).await;
        assert!(said.len() <= 40, "a stranger was told {} bytes", said.len());
    }
    // One that says nothing is cut off too.
    assert!(poke(&cluster, b"").await.is_empty());
    eventually("the count", || (cluster.node(1).counters().peers_refused.get() >= before + 7).then_some(())).await;
    cluster.write("after").await;
    assert_eq!(cluster.settled().await.len(), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_idle_strangers_do_not_keep_peers_out() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    let addr = cluster.wires.addr("n1").unwrap();
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(TcpStream::connect(&addr).await.unwrap());
    }
    cluster.kill(2).await;
    cluster.restart(2).await;
    cluster.write("after").await;
    assert_eq!(cluster.settled().await.len(), 2);
    drop(idle);
    cluster.shutdown().await;
}

/// Starts a node beside the cluster that claims to be member 3 of it, with other words in its hello.
async fn impostor(
    cluster: &Cluster,
    change: impl FnOnce(&mut agora_raft::RaftConfig),
    lineage: u128,
) -> RaftNode<Counter> {
    let mut world = World::real(Arc::new(MemDisk::new()));
    world.net = cluster.net("n3");
    let mut config = config(3);
    config.listen = "impostor".to_owned();
    change(&mut config);
    let boot = Boot::Create { lineage, members: (1..=3).map(member).collect() };
    RaftNode::start(world, config, boot, Counter::default(), Arc::new(Echo(3))).await.unwrap()
}

/// An impostor tries for a while; the cluster must count refusals, never follow it, and write on.
async fn judge(cluster: Cluster, impostor: RaftNode<Counter>) {
    let refused = |id: u64| cluster.node(id).counters().peers_refused.get();
    eventually("refusals", || (refused(1) > 0 || refused(2) > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(impostor.applied_index(), 0, "an impostor was given entries");
    cluster.write("after").await;
    impostor.kill().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.kill(3).await;
    let impostor = impostor(&cluster, |config| config.cluster = "other".to_owned(), common::LINEAGE).await;
    judge(cluster, impostor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_lineage_is_refused() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.kill(3).await;
    let impostor = impostor(&cluster, |_| (), common::LINEAGE + 1).await;
    judge(cluster, impostor).await;
}

/// Nothing that either side remembers speaks against this one: it was started more often than the node in whose place it
/// is, has voted in later terms, has a longer log, and has never met the others. Only its history is not ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_lineage_is_refused_even_if_it_has_seen_more() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.settled().await;
    cluster.kill(3).await;
    let disk = MemDisk::new();
    for _ in 0..4 {
        let mut world = World::real(Arc::new(disk.clone()));
        world.net = common::Wires::default().net("n3");
        let boot = Boot::Create { lineage: common::LINEAGE + 1, members: vec![member(3)] };
        let alone = RaftNode::start(world, config(3), boot, Counter::default(), Arc::new(Echo(3))).await.unwrap();
        eventually("a leader of its own", || alone.status().reign).await;
        alone.kill().await;
        disk.kill();
    }
    cluster.disks.insert(3, disk);
    cluster.restart(3).await;
    let stranger = cluster.node(3);
    eventually("refusals", || (stranger.counters().peers_refused.get() > 0).then_some(())).await;
    let held = stranger.status().last_log;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster.write("after").await;
    let leads = |id: u64| cluster.node(id).status().leader.is_some_and(|leader| leader != 3);
    assert!([1, 2].into_iter().all(leads), "a stranger leads");
    // Alone it may go on with its own history; it gets nothing of ours.
    assert!(stranger.status().leader.is_none_or(|leader| leader == 3), "a stranger follows");
    assert!(stranger.status().last_log >= held);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_is_refused() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.kill(3).await;
    let impostor = impostor(&cluster, |config| config.peer_secret = [8; 32], common::LINEAGE).await;
    judge(cluster, impostor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_id() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.settled().await;
    cluster.kill(3).await;
    let impostor = impostor(&cluster, |_| (), common::LINEAGE).await;
    judge(cluster, impostor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_rolled_back_to_an_older_copy_is_refused_even_after_the_others_restarted() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.settled().await;
    cluster.kill(3).await;
    let copy = cluster.disks[&3].fork();
    cluster.restart(3).await;
    for n in 0..5 {
        cluster.write(&format!("later {n}")).await;
    }
    cluster.settled().await;
    // What was seen of it is written along within a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster.write("and last").await;
    cluster.kill(3).await;
    cluster.disks.insert(3, copy);
    for id in [1, 2] {
        cluster.kill(id).await;
        cluster.restart(id).await;
    }
    cluster.restart(3).await;
    cluster.write("with two of three").await;
    let refused = |id: u64| cluster.node(id).counters().peers_refused.get();
    eventually("refusals", || (refused(1) + refused(2) > 0).then_some(())).await;
    assert!(cluster.node(3).status().leader.is_none_or(|leader| leader != 3));
    let behind = cluster.node(3).applied_index();
    cluster.write("still without it").await;
    assert!(cluster.node(3).applied_index() <= behind, "the rolled back node was given entries");
    cluster.shutdown().await;
}
