//! Rows that turn out to be damaged while they are read: the node says so, ends when the others can do without it, and makes
//! its rows anew; and when nobody has better ones, it goes on with what can be read.

mod common;

use std::time::Duration;

use agora_raft::{Health, RaftConfig, StartError};
use agora_storage::{BrokenRow, Disk, Error, Keyspace};
use common::{Cluster, Node, PATIENCE, eventually};

const BROKEN: &[u8] = b"a row that cannot be read";
/// Longer than peers are given to hear of damage before a node ends for it.
const TOLD: Duration = Duration::from_millis(2_500);

/// Breaks a row of a running node, and reads it.
fn damage(cluster: &Cluster, id: u64, how: BrokenRow) {
    let disk = &cluster.disks[&id];
    let generation = *disk.list_generations().unwrap().last().unwrap();
    assert!(disk.break_row(generation, Keyspace::Entity, BROKEN, how));
    assert!(cluster.node(id).rows().get(Keyspace::Entity, BROKEN).is_err());
}

async fn is_damaged(node: &Node) {
    eventually("the node to say so", || (node.status().health == Health::Damaged).then_some(())).await;
}

async fn end_of(node: &Node) -> String {
    tokio::time::timeout(PATIENCE, node.fatal()).await.expect("a reason")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_damaged_rows_hands_over_ends_and_comes_back_with_whole_ones() {
    // Bytes that do not check and places that the disk cannot read are the same to it.
    for how in [BrokenRow::Rotten, BrokenRow::Unreadable] {
        let mut cluster = Cluster::new(3).await;
        cluster.write("before").await;
        cluster.settled().await;
        let (leader, _) = cluster.leader().await;
        damage(&cluster, leader, how);
        let reason = end_of(cluster.node(leader)).await;
        assert!(reason.contains("its rows are damaged"), "{how:?}: {reason}");
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        let leads = |id: &&u64| cluster.node(**id).status().leader == Some(**id);
        assert!(others.iter().any(|id| leads(&id)), "{how:?}: it ended before another led");
        cluster.kill(leader).await;
        cluster.write("meanwhile").await;
        cluster.restart(leader).await;
        assert_eq!(cluster.disks[&leader].list_generations().unwrap(), [2], "{how:?}: these are not new rows");
        assert!(cluster.node(leader).rows().get(Keyspace::Entity, BROKEN).unwrap().is_none());
        cluster.write("after").await;
        assert_eq!(cluster.settled().await.len(), 3);
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_node_stays_as_long_as_the_others_could_not_go_on_without_it() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.kill(others[0]).await;
    eventually("the death to be noticed", || {
        let members = cluster.node(others[1]).status().members;
        members.iter().any(|member| member.id == others[0] && member.health == Health::Unreachable).then_some(())
    })
    .await;
    damage(&cluster, others[1], BrokenRow::Rotten);
    is_damaged(cluster.node(others[1])).await;
    tokio::time::sleep(TOLD).await;
    assert_eq!(cluster.node(others[1]).fatal_now(), None);
    cluster.write("without the dead one").await;
    // Back again: now two whole ones are enough.
    cluster.restart(others[0]).await;
    let reason = end_of(cluster.node(others[1])).await;
    assert!(reason.contains("its rows are damaged"), "{reason}");
    cluster.kill(others[1]).await;
    cluster.write("without the damaged one").await;
    cluster.restart(others[1]).await;
    assert_eq!(cluster.settled().await.len(), 3);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_nodes_end_one_after_the_other() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("before").await;
    cluster.settled().await;
    for id in [1, 2] {
        damage(&cluster, id, BrokenRow::Rotten);
    }
    end_of(cluster.node(1)).await;
    // It is still there to be heard of, and then it is gone: the second one is needed either way.
    tokio::time::sleep(TOLD).await;
    assert_eq!(cluster.node(2).fatal_now(), None);
    cluster.kill(1).await;
    tokio::time::sleep(TOLD).await;
    assert_eq!(cluster.node(2).fatal_now(), None);
    cluster.write("beside a damaged one").await;
    cluster.restart(1).await;
    end_of(cluster.node(2)).await;
    cluster.kill(2).await;
    cluster.restart(2).await;
    cluster.write("after").await;
    assert_eq!(cluster.settled().await.len(), 3);
    assert!(cluster.nodes.values().all(|node| node.fatal_now().is_none()));
    cluster.shutdown().await;
}

/// Little log, so that a few writes purge it, and little patience with peers that are not there.
fn alone(config: &mut RaftConfig) {
    config.log_bytes_max = 1024 * 1024;
    config.snapshot_log_bytes = 256 * 1024;
    config.log_cache_bytes_max = 64 * 1024;
    config.rebuild_timeout_ms = 300;
}

/// A cluster of one that has purged log, so that only a peer could make its rows anew.
async fn purged() -> (Cluster, usize) {
    let cluster = Cluster::tuned(1, alone).await;
    let filling = "x".repeat(64 * 1024);
    let mut written = 0;
    while cluster.node(1).status().purged == 0 {
        assert!(written < 2_000, "nothing was purged");
        cluster.write(&filling).await;
        written += 1;
        // Alone, a node writes faster than it looks at its log.
        if written > 40 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (cluster, written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_rows_are_better_than_none_when_nobody_has_whole_ones() {
    for how in [BrokenRow::Rotten, BrokenRow::Unreadable] {
        let (mut cluster, written) = purged().await;
        damage(&cluster, 1, how);
        is_damaged(cluster.node(1)).await;
        // Nobody else is there: it stays.
        tokio::time::sleep(TOLD).await;
        assert_eq!(cluster.node(1).fatal_now(), None);
        cluster.write("beside the damage").await;
        cluster.kill(1).await;
        cluster.restart(1).await;
        let rows = cluster.node(1).rows();
        assert!(rows.get(Keyspace::Entity, BROKEN).is_err(), "{how:?}: what is gone is gone");
        assert_eq!(rows.damage(), None, "{how:?}: what is known is not a reason to end again");
        cluster.write("after").await;
        assert_eq!(cluster.settled().await.len(), written + 2);
        // It stays so over the next start, and whatever is written anew is whole.
        cluster.node(1).shutdown().await;
        cluster.nodes.remove(&1);
        cluster.restart(1).await;
        cluster.write("once more").await;
        assert_eq!(cluster.settled().await.len(), written + 3);
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_open_at_all_are_not_served_and_the_node_says_what_it_needs() {
    let (mut cluster, _) = purged().await;
    cluster.kill(1).await;
    assert!(cluster.disks[&1].spoil_rows());
    let error = loop {
        match cluster.try_start(1, agora_raft::Boot::Existing).await {
            // The last tasks of the node's former life may still be ending.
            Err(StartError::Storage(Error::Locked { .. })) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
            Ok(_) => panic!("a node serves rows that it cannot account for"),
        }
    };
    assert!(matches!(&error, StartError::RowsLost { need_index, .. } if *need_index > 0), "{error}");
}
