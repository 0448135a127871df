//! Snapshots, catching up, purging, lost rows, restarts.

mod common;

use std::io::Read;
use std::time::Duration;

use agora_raft::{Boot, RaftConfig, StartError};
use agora_storage::disk::Disk;
use agora_storage::snapshot::verify_snapshot;
use common::{Cluster, PATIENCE, eventually, eventually_ok, member, recorded};

/// Little log, so that a few writes purge it.
fn small_log(config: &mut RaftConfig) {
    config.log_bytes_max = 1024 * 1024;
    config.snapshot_log_bytes = 256 * 1024;
    config.log_cache_bytes_max = 64 * 1024;
    config.rebuild_timeout_ms = 20_000;
}

/// Writes until every running node has purged something.
async fn fill(cluster: &Cluster, rounds: usize) -> usize {
    let filling = "x".repeat(64 * 1024);
    let mut written = 0;
    for _ in 0..rounds {
        cluster.write(&filling).await;
        written += 1;
    }
    while cluster.nodes.values().any(|node| node.status().purged == 0) {
        assert!(written < 2_000, "nothing was purged");
        cluster.write(&filling).await;
        written += 1;
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_is_filled_by_a_snapshot_while_writes_go_on() {
    let mut cluster = Cluster::tuned(3, small_log).await;
    let mut written = fill(&cluster, 40).await;
    cluster.start(4, Boot::Join).await;
    cluster.node(1).add_learner(member(4)).await.unwrap();
    for n in 0..20 {
        cluster.write(&format!("late {n}")).await;
        written += 1;
    }
    eventually_ok("the promotion", || cluster.node(2).promote(4)).await;
    assert_eq!(cluster.settled().await.len(), written);
    assert_eq!(cluster.node(4).counters().snapshots_installed.get(), 1);
    // It votes: with one of the first three gone, four minus one still write.
    let (leader, _) = cluster.leader().await;
    let gone = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(gone).await;
    cluster.write("without one").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_slept_through_the_purge_is_filled_by_a_snapshot() {
    let mut cluster = Cluster::tuned(3, small_log).await;
    cluster.write("first").await;
    let (leader, _) = cluster.leader().await;
    let sleeper = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(sleeper).await;
    let written = fill(&cluster, 60).await + 1;
    cluster.restart(sleeper).await;
    eventually("the snapshot", || (cluster.node(sleeper).counters().snapshots_installed.get() > 0).then_some(())).await;
    assert_eq!(cluster.settled().await.len(), written);
    // And once more from its own disk.
    cluster.kill(sleeper).await;
    cluster.restart(sleeper).await;
    cluster.write("last").await;
    assert_eq!(cluster.settled().await.len(), written + 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_follower_reads_the_log_from_disk() {
    let mut cluster = Cluster::tuned(3, |config| config.log_cache_bytes_max = 1024).await;
    let (leader, _) = cluster.leader().await;
    let sleeper = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(sleeper).await;
    for n in 0..200 {
        cluster.write(&format!("n{n}")).await;
    }
    cluster.restart(sleeper).await;
    assert_eq!(cluster.settled().await.len(), 200);
    assert_eq!(cluster.node(sleeper).counters().snapshots_installed.get(), 0);
    assert!(cluster.nodes.values().any(|node| node.counters().log_cache_misses.get() > 0));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_rows_are_pulled_from_a_peer_before_raft_starts() {
    let mut cluster = Cluster::tuned(3, small_log).await;
    let written = fill(&cluster, 40).await;
    let (leader, _) = cluster.leader().await;
    for victim in [leader, (1..=3).find(|id| *id != leader).unwrap()] {
        cluster.kill(victim).await;
        for generation in cluster.disks[&victim].list_generations().unwrap() {
            cluster.disks[&victim].remove_rows(generation).unwrap();
        }
        cluster.restart(victim).await;
        assert!(cluster.node(victim).applied_index() > 0, "rows are there as soon as the node has started");
    }
    assert_eq!(cluster.settled().await.len(), written);
    cluster.write("on").await;
    assert_eq!(cluster.settled().await.len(), written + 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_rows_without_peers_are_refused_with_what_to_do() {
    let mut cluster = Cluster::tuned(3, |config| {
        small_log(config);
        config.rebuild_timeout_ms = 1_000;
    })
    .await;
    fill(&cluster, 40).await;
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    for generation in cluster.disks[&1].list_generations().unwrap() {
        cluster.disks[&1].remove_rows(generation).unwrap();
    }
    match cluster.try_start(1, Boot::Existing).await {
        Err(StartError::RowsLost { need_index, .. }) => assert!(need_index > 0),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a node started without its rows"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_and_go_on_where_they_were() {
    let mut cluster = Cluster::new(3).await;
    for n in 0..30 {
        cluster.write(&format!("{n}")).await;
    }
    let (_, reign) = cluster.leader().await;
    for round in 1..=2 {
        for id in 1..=3 {
            cluster.kill(id).await;
        }
        for id in 1..=3 {
            cluster.restart(id).await;
        }
        cluster.write("again").await;
        assert_eq!(cluster.settled().await.len(), 30 + round);
    }
    assert!(cluster.leader().await.1.number > reign.number);
    assert!(cluster.nodes.values().all(|node| node.counters().snapshots_installed.get() == 0));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_loss_of_all_keeps_what_was_acknowledged() {
    let mut cluster = Cluster::new(3).await;
    for n in 0..30 {
        cluster.write(&format!("{n}")).await;
    }
    for id in 1..=3 {
        cluster.kill(id).await;
        cluster.disks[&id].crash(id);
    }
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    cluster.write("again").await;
    assert_eq!(cluster.settled().await.len(), 31);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_file_is_whole_and_listed() {
    let cluster = Cluster::new(3).await;
    for n in 0..30 {
        cluster.write(&format!("{n}")).await;
    }
    cluster.settled().await;
    let node = cluster.node(2);
    let made = node.create_snapshot().await.unwrap();
    assert_eq!(node.snapshots().unwrap(), std::slice::from_ref(&made));
    let mut file = cluster.disks[&2].snapshot_open(&made.name).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let (header, _) = verify_snapshot(&mut bytes.as_slice(), &mut |_| Ok(())).unwrap();
    assert_eq!((header.cluster.as_str(), header.lineage), ("test", common::LINEAGE));
    assert!(header.index <= node.applied_index());
    assert_eq!(recorded(&node.rows()).len(), 30);
    tokio::time::timeout(PATIENCE, cluster.shutdown()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
}
