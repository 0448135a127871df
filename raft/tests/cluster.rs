//! Three nodes in one process: election, proposals, failover, reads, members.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use agora_raft::{Boot, CallError, Exec, Health, Lost, MembershipError, ReadError, Refused, Role};
use bytes::Bytes;
use common::{Cluster, Outcome, PATIENCE, eventually, eventually_ok, member, recorded, role};
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_is_applied_once_in_order_on_all_nodes() {
    let cluster = Cluster::new(3).await;
    let (leader, reign) = cluster.leader().await;
    let journal = cluster.node(leader).journal();
    let mut pending = Vec::new();
    for n in 0..500 {
        pending.push(journal.propose(reign.number, Bytes::from(format!("t{n}"))).unwrap());
    }
    let mut last_index = 0;
    for (n, one) in pending.into_iter().enumerate() {
        let placed = one.await.unwrap();
        assert_eq!(placed.outcome, Outcome::Counted(n as u64 + 1));
        assert!(placed.index >= last_index);
        last_index = placed.index;
    }
    let expected: Vec<Vec<u8>> = (0..500).map(|n| format!("t{n}").into_bytes()).collect();
    assert_eq!(cluster.settled().await, expected);
    let counters = cluster.node(leader).counters();
    assert!(counters.raft_entries.get() < 400, "transactions share entries: {}", counters.raft_entries.get());
    assert!(counters.log_fsyncs.get() > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_needs_no_one() {
    let cluster = Cluster::new(1).await;
    for n in 1..=20 {
        assert_eq!(cluster.write("x").await.1, Outcome::Counted(n));
    }
    assert_eq!(cluster.settled().await.len(), 20);
    assert!(cluster.node(1).journal().quorum_fresh());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(3).await;
    for n in 0..10 {
        cluster.write(&format!("a{n}")).await;
    }
    let (leader, reign) = cluster.leader().await;
    cluster.kill(leader).await;
    for n in 0..10 {
        cluster.write(&format!("b{n}")).await;
    }
    let (next, later) = cluster.leader().await;
    assert_ne!(next, leader);
    assert!(later.number > reign.number && later.term > reign.term);
    assert!(matches!(
        cluster.node(next).journal().propose(reign.number, Bytes::from_static(b"old")),
        Err(Refused::ReignOver)
    ));
    cluster.restart(leader).await;
    assert_eq!(cluster.settled().await.len(), 20);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_reign_is_followed_by_another_in_the_same_term() {
    let cluster = Cluster::new(3).await;
    cluster.write("before").await;
    let (leader, reign) = cluster.leader().await;
    let journal = cluster.node(leader).journal();
    journal.end_reign("the test says so");
    assert!(matches!(journal.propose(reign.number, Bytes::from_static(b"old")), Err(Refused::ReignOver)));
    let next = eventually("the next reign", || journal.reign()).await;
    if next.term == reign.term {
        assert_eq!(next.number, reign.number + 1);
    }
    assert!(next.number > reign.number);
    cluster.write("after").await;
    assert_eq!(cluster.settled().await.len(), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_new_writes_are_refused_before_anything_is_proposed() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("kept").await;
    let (leader, reign) = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.kill(id).await;
    }
    let journal = cluster.node(leader).journal().clone();
    let refused = eventually("a refusal", || journal.propose(reign.number, Bytes::from_static(b"lonely")).err()).await;
    assert!(matches!(refused, Refused::NoQuorum | Refused::ReignOver), "{refused:?}");
    assert!(!journal.quorum_fresh());
    let read = journal.read_barrier(Instant::now() + Duration::from_secs(1)).await;
    assert!(matches!(read, Err(ReadError::NoQuorum | ReadError::NoLeader | ReadError::Timeout)), "{read:?}");
    assert_eq!(recorded(&cluster.node(leader).rows())[0], b"kept");
    // What was on its way when the others died may be written when they are back; nothing is refused any more then.
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.restart(id).await;
    }
    cluster.write("again").await;
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_answers_its_waiters_when_it_learns_their_fate() {
    let cluster = Cluster::new(3).await;
    cluster.write("first").await;
    let (leader, reign) = cluster.leader().await;
    cluster.wires.cut(&common::name(leader));
    // Proposed into the void: accepted, replicated to nobody.
    let pending = cluster.node(leader).journal().propose(reign.number, Bytes::from_static(b"lost")).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    eventually("another reign", || others.iter().find_map(|id| cluster.node(*id).journal().reign())).await;
    cluster.wires.heal();
    let fate = tokio::time::timeout(PATIENCE, pending).await.expect("an answer");
    assert_eq!(fate.unwrap_err(), Lost::NeverApplied);
    cluster.write("second").await;
    assert_eq!(cluster.settled().await, [b"first".to_vec(), b"second".to_vec()]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_gives_a_read_index_that_covers_what_was_acknowledged() {
    let cluster = Cluster::new(3).await;
    for n in 0..20 {
        let (written, _) = cluster.write(&format!("w{n}")).await;
        for node in cluster.nodes.values() {
            let index = node.journal().read_barrier(soon()).await.unwrap();
            assert!(index >= written, "read index {index} after a write at {written}");
            node.wait_applied(index, soon()).await.unwrap();
            assert_eq!(recorded(&node.rows()).len(), n + 1);
            assert!(node.journal().leader_applied(soon()).await.unwrap() >= written);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_reads_share_a_round() {
    let cluster = Cluster::new(3).await;
    cluster.write("x").await;
    let (leader, _) = cluster.leader().await;
    let node = cluster.node(leader);
    let before = node.counters().barriers.get();
    let reads = (0..500).map(|_| {
        let journal = node.journal().clone();
        tokio::spawn(async move { journal.read_barrier(soon()).await })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap().unwrap();
    }
    let rounds = node.counters().barriers.get() - before;
    assert!(rounds < 400, "500 reads took {rounds} rounds");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_reach_other_nodes_and_say_when_they_were_not_sent() {
    let mut cluster = Cluster::new(3).await;
    cluster.leader().await;
    let answer = eventually_ok("an answer", || cluster.node(1).call(2, Bytes::from_static(b"hi"), soon())).await;
    assert_eq!(answer, "1>2:hi");
    let many: Vec<_> = (0..1000)
        .map(|n| {
            let node = cluster.node(3).clone();
            tokio::spawn(async move { node.call(1, Bytes::from(format!("{n}")), soon()).await })
        })
        .collect();
    for (n, call) in many.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), format!("3>1:{n}"));
    }
    assert_eq!(cluster.node(1).call(99, Bytes::new(), soon()).await, Err(CallError::NotSent));
    cluster.kill(2).await;
    let gone = eventually_ok("a failure", || async {
        match cluster.node(1).call(2, Bytes::new(), Instant::now() + Duration::from_secs(1)).await {
            Err(CallError::NotSent) => Ok(()),
            other => Err(other),
        }
    });
    gone.await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_promoted_removed_and_never_reused() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("one").await;
    cluster.start(4, Boot::Join).await;
    let (leader, _) = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.node(follower).add_learner(member(4)).await.unwrap();
    cluster.node(follower).add_learner(member(4)).await.unwrap();
    let elsewhere = agora_raft::Member { peer_addr: "n9".to_owned(), ..member(4) };
    assert_eq!(cluster.node(follower).add_learner(elsewhere).await, Err(MembershipError::NodeIdReused(4)));
    assert_eq!(cluster.node(follower).promote(77).await, Err(MembershipError::NotFound(77)));
    eventually_ok("the promotion", || cluster.node(follower).promote(4)).await;
    cluster.node(follower).promote(4).await.unwrap();
    cluster.write("two").await;
    eventually("four voters on the new node", || {
        let status = cluster.node(4).status();
        (status.members.len() == 4 && status.role == Role::Follower).then_some(())
    })
    .await;
    assert_eq!(cluster.settled().await.len(), 2);
    // The leader itself goes: it hands over first.
    cluster.node(4).remove(leader).await.unwrap();
    cluster.node(4).remove(leader).await.unwrap();
    cluster.kill(leader).await;
    cluster.write("three").await;
    assert_eq!(cluster.settled().await.len(), 3);
    assert_eq!(cluster.node(4).add_learner(member(leader)).await, Err(MembershipError::NodeIdReused(leader)));
    assert_eq!(cluster.node(4).remove(55).await, Err(MembershipError::NotFound(55)));
    let status = cluster.node(4).status();
    assert_eq!(status.members.len(), 3);
    assert!(!status.changing_members);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_live_node_beside_a_dead_one_would_lose_the_majority() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("x").await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.kill(others[0]).await;
    eventually_ok("the refusal", || async {
        match cluster.node(leader).remove(others[1]).await {
            Err(MembershipError::WouldLoseQuorum { .. }) => Ok(()),
            Ok(()) => panic!("a live node was removed beside a dead one"),
            Err(other) => Err(other),
        }
    })
    .await;
    cluster.node(leader).remove(others[0]).await.unwrap();
    cluster.write("y").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::new(3).await;
    cluster.write("x").await;
    for _ in 0..2 {
        let (leader, reign) = cluster.leader().await;
        let target = (1..=3).find(|id| *id != leader).unwrap();
        let asked = (1..=3).find(|id| *id != leader && *id != target).unwrap();
        cluster.node(asked).transfer_leader(Some(target)).await.unwrap();
        let next = eventually("the new leader", || cluster.node(target).journal().reign()).await;
        assert!(next.number > reign.number);
        cluster.write("y").await;
    }
    assert!(cluster.nodes.values().all(|node| node.fatal_now().is_none()));
    assert_eq!(cluster.settled().await.len(), 3);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_nobody_waits_for_any_more_does_not_leave_the_journal_closed() {
    let mut cluster = Cluster::new(3).await;
    cluster.write("x").await;
    let (leader, reign) = cluster.leader().await;
    let target = (1..=3).find(|id| *id != leader).unwrap();
    // What is on its way and not applied holds the drain up.
    cluster.hang[&leader].store(true, Ordering::Relaxed);
    let held = cluster.node(leader).journal().propose(reign.number, Bytes::from_static(b"held")).unwrap();
    let node = cluster.node(leader).clone();
    let asked = tokio::spawn(async move { node.transfer_leader(Some(target)).await });
    let node = cluster.node(leader).clone();
    eventually("the drain", || (node.status().health == Health::HandingOver).then_some(())).await;
    // Half way the successor dies, and the client of the request goes away.
    assert!(!asked.is_finished(), "it was to be given up half way");
    asked.abort();
    let given_up = asked.await;
    assert!(given_up.is_err_and(|why| why.is_cancelled()), "it was to be given up half way");
    assert_eq!(node.status().health, Health::HandingOver);
    cluster.kill(target).await;
    cluster.hang[&leader].store(false, Ordering::Relaxed);
    held.await.unwrap();
    cluster.write("y").await;
    // Once it is known to be dead, nothing is drained for it and the answer is a definite no.
    let (leader, _) = cluster.leader().await;
    let refused = eventually_ok("the refusal", || async {
        match cluster.node(leader).transfer_leader(Some(target)).await {
            Err(MembershipError::NotAnswering(dead)) => Ok(dead),
            other => Err(other),
        }
    });
    assert_eq!(refused.await, target);
    cluster.write("z").await;
    assert_eq!(cluster.settled().await.len(), 4);
    cluster.shutdown().await;
}

#[tokio::test]
async fn who_asks_at_once_what_is_committed_shares_one_question() {
    let cluster = Cluster::with(3, |_| (), Exec::Inline).await;
    let (written, _) = cluster.write("x").await;
    let (leader, _) = cluster.leader().await;
    let node = cluster.node(leader);
    let counted = || (node.counters().committed_questions.get(), node.counters().committed_answers.get());
    let before = counted();
    let all = futures_util::future::join_all((0..200).map(|_| node.committed_index())).await;
    assert!(all.iter().all(|index| index.is_some_and(|index| index >= written)), "{all:?}");
    let (questions, answers) = counted();
    assert_eq!((questions - before.0, answers - before.1), (1, 200));
    // And the next one is asked anew.
    let (later, _) = cluster.write("y").await;
    assert!(node.committed_index().await.is_some_and(|index| index >= later));
    let gone = node.clone();
    cluster.shutdown().await;
    assert_eq!(gone.committed_index().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_gone_is_not_promoted_where_its_vote_would_be_needed() {
    let mut cluster = Cluster::new(1).await;
    cluster.write("x").await;
    cluster.start(2, Boot::Join).await;
    cluster.node(1).add_learner(member(2)).await.unwrap();
    let caught_up = cluster.node(1).applied_index();
    cluster.node(2).wait_applied(caught_up, soon()).await.unwrap();
    cluster.kill(2).await;
    eventually_ok("the refusal", || async {
        match cluster.node(1).promote(2).await {
            Err(MembershipError::WouldLoseQuorum { .. }) => Ok(()),
            Ok(()) => panic!("a dead learner was given a vote that is needed"),
            Err(other) => Err(other),
        }
    })
    .await;
    cluster.write("y").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_the_same_members_and_checkpoints() {
    let cluster = Cluster::new(3).await;
    cluster.write("x").await;
    let (leader, _) = cluster.leader().await;
    eventually("equal checkpoints in every status", || {
        let statuses: Vec<_> = cluster.nodes.values().map(agora_raft::RaftNode::status).collect();
        let fine = statuses.iter().all(|status| {
            status.leader == Some(leader)
                && status.members.len() == 3
                && status
                    .members
                    .iter()
                    .all(|one| one.health == agora_raft::Health::Ok && one.version == env!("CARGO_PKG_VERSION"))
                && status
                    .members
                    .iter()
                    .all(|one| one.checkpoint.is_some() && one.checkpoint == status.members[0].checkpoint)
                && status.members.iter().filter(|one| one.role == Role::Leader).count() == 1
        });
        fine.then_some(())
    })
    .await;
    assert_eq!(role(cluster.node(leader)), Role::Leader);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_state_differs_stops() {
    let mut cluster = Cluster::new(3).await;
    let (leader, _) = cluster.leader().await;
    let odd = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(odd).await;
    cluster.spoil.insert(odd, 1);
    cluster.restart(odd).await;
    for n in 0..5 {
        cluster.write(&format!("x{n}")).await;
    }
    let reason = tokio::time::timeout(PATIENCE, cluster.node(odd).fatal()).await.expect("a reason");
    assert!(reason.contains("odd one out"), "{reason}");
    for (id, node) in &cluster.nodes {
        assert!(*id == odd || node.fatal_now().is_none());
    }
    cluster.shutdown().await;
}
