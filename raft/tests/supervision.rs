//! A node that is not well gives way: hung threads, wrong clocks, states that differ. And a node without threads.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use agora_raft::{Boot, Exec, Health, Refused};
use bytes::Bytes;
use common::{Cluster, PATIENCE, eventually, eventually_ok, member};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_apply_hands_over_and_a_node_that_stays_stuck_ends() {
    let cluster = Cluster::tuned(3, |config| {
        config.stall_hand_over_ms = 500;
        config.stall_exit_ms = 4_000;
    })
    .await;
    cluster.write("before").await;
    let (leader, reign) = cluster.leader().await;
    cluster.hang[&leader].store(true, Ordering::Relaxed);
    let stuck = cluster.node(leader).journal().propose(reign.number, Bytes::from_static(b"stuck")).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    eventually("a reign elsewhere", || others.iter().find_map(|id| cluster.node(*id).journal().reign())).await;
    let reason = tokio::time::timeout(PATIENCE, cluster.node(leader).fatal()).await.expect("a reason");
    assert!(reason.contains("apply thread"), "{reason}");
    cluster.hang[&leader].store(false, Ordering::Relaxed);
    // The entry was committed by the others; its waiter was kept.
    stuck.await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_hands_over_and_does_not_stand_again() {
    let cluster = Cluster::new(3).await;
    cluster.write("before").await;
    let (leader, _) = cluster.leader().await;
    assert!(cluster.node(leader).journal().clock_trusted());
    cluster.skew[&leader].store(86_400_000, Ordering::Relaxed);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let next = eventually("a reign elsewhere", || {
        others.iter().copied().find(|id| cluster.node(*id).journal().reign().is_some())
    })
    .await;
    eventually("the verdict", || (cluster.node(leader).status().health == Health::ClockOff).then_some(())).await;
    assert!(!cluster.node(leader).journal().clock_trusted());
    assert!(cluster.node(next).journal().clock_trusted(), "two good clocks outvote one");
    // The day ahead never got into the log.
    let log_time_ms = cluster.node(next).journal().log_time_ms();
    cluster.write("after").await;
    assert!(cluster.node(next).journal().log_time_ms() - log_time_ms < 3_600_000);
    cluster.skew[&leader].store(0, Ordering::Relaxed);
    eventually("trust", || cluster.node(leader).journal().clock_trusted().then_some(())).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_nodes_that_differ_both_stop_taking_writes() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.kill(others[0]).await;
    cluster.kill(others[1]).await;
    cluster.spoil.insert(others[1], 1);
    cluster.restart(others[1]).await;
    let (leader, reign) = cluster.leader().await;
    // Whatever becomes of it: the difference itself may end the reign first.
    let _ = cluster.node(leader).journal().propose(reign.number, Bytes::from_static(b"x")).map(drop);
    eventually("both to say so", || {
        cluster.nodes.values().all(|node| node.status().health == Health::Diverged).then_some(())
    })
    .await;
    eventually("no reign", || cluster.nodes.values().all(|node| node.journal().reign().is_none()).then_some(())).await;
    assert!(cluster.nodes.values().all(|node| node.fatal_now().is_none()));
    let refused = cluster.node(leader).journal().propose(reign.number, Bytes::from_static(b"y"));
    assert!(matches!(refused, Err(Refused::ReignOver)));
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_cluster_runs_inline_on_one_thread() {
    let mut cluster = Cluster::with(3, |_| (), Exec::Inline).await;
    for n in 0..50 {
        cluster.write(&format!("{n}")).await;
    }
    let (leader, _) = cluster.leader().await;
    cluster.kill(leader).await;
    for n in 0..10 {
        cluster.write(&format!("more {n}")).await;
    }
    cluster.restart(leader).await;
    assert_eq!(cluster.settled().await.len(), 60);
    cluster.start(4, Boot::Join).await;
    let (leader, _) = cluster.leader().await;
    cluster.node(leader).create_snapshot().await.unwrap();
    cluster.node(leader).add_learner(member(4)).await.unwrap();
    eventually_ok("the promotion", || cluster.node(leader).promote(4)).await;
    assert_eq!(cluster.settled().await.len(), 60);
    tokio::time::timeout(Duration::from_secs(60), cluster.shutdown()).await.unwrap();
}
