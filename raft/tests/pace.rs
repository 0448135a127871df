//! How fast entries go through three nodes that share this machine, on real disks.
//!
//! Prints figures; asserts only what no noise can break: that entries are shared and fsyncs are grouped. More seconds
//! by `AGORA_PACE_SECONDS`.

mod common;

use std::sync::Arc;
use std::time::Duration;

use agora_raft::{Boot, Member, RaftConfig, RaftNode, World};
use agora_storage::{FileDisk, RowOptions};
use bytes::Bytes;
use common::{Counter, Echo, eventually, init_logs};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_shared_and_fsyncs_are_grouped() {
    init_logs();
    let seconds: u64 = std::env::var("AGORA_PACE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let callers: usize = std::env::var("AGORA_PACE_CALLERS").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
    let in_flight: usize = std::env::var("AGORA_PACE_IN_FLIGHT").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let dir = tempfile::tempdir().unwrap();
    let wires = common::Wires::default();
    let members: Vec<Member> = (1..=3).map(common::member).collect();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let disk = FileDisk::new(dir.path().join(format!("n{id}")), RowOptions::default()).unwrap();
        let mut world = World::real(Arc::new(disk));
        world.net = wires.net(&common::name(id));
        let config = RaftConfig { entries_in_flight_max: in_flight, ..common::config(id) };
        let boot = Boot::Create { lineage: 1, members: members.clone() };
        nodes.push(RaftNode::start(world, config, boot, Counter::default(), Arc::new(Echo(id))).await.unwrap());
    }
    let (leader, reign) = eventually("a reign", || {
        nodes.iter().find_map(|node| node.journal().reign().map(|reign| (node.clone(), reign)))
    })
    .await;
    let before = (leader.counters().raft_entries.get(), leader.counters().log_fsyncs.get());
    let cpu_before = cpu();
    let started = Instant::now();
    let deadline = started + Duration::from_secs(seconds);
    let work: Vec<_> = (0..callers)
        .map(|_| {
            let journal = leader.journal().clone();
            tokio::spawn(async move {
                let (mut done, mut slowest) = (0_u64, Duration::ZERO);
                let transaction = Bytes::from(vec![7_u8; 200]);
                while Instant::now() < deadline {
                    let asked = Instant::now();
                    // A leader that lost its reign on a noisy machine ends the measurement early, and honestly.
                    let Ok(pending) = journal.propose(reign.number, transaction.clone()) else { break };
                    if pending.await.is_err() {
                        break;
                    }
                    slowest = slowest.max(asked.elapsed());
                    done += 1;
                }
                (done, slowest)
            })
        })
        .collect();
    let (mut transactions, mut slowest) = (0, Duration::ZERO);
    for one in work {
        let (done, slow) = one.await.unwrap();
        transactions += done;
        slowest = slowest.max(slow);
    }
    let took = started.elapsed().as_secs_f64();
    let entries = leader.counters().raft_entries.get() - before.0;
    let fsyncs = leader.counters().log_fsyncs.get() - before.1;
    println!(
        "{callers} callers: {:.0} transactions/s, {:.0} entries/s, {:.1} transactions per entry, {:.1} per fsync, slowest {slowest:?}, cpu {:.1} us per transaction (all three nodes)",
        transactions as f64 / took,
        entries as f64 / took,
        transactions as f64 / entries.max(1) as f64,
        transactions as f64 / fsyncs.max(1) as f64,
        (cpu() - cpu_before) * 1e6 / transactions.max(1) as f64,
    );
    let (counts, sum) = leader.counters().log_commit_us.read();
    println!("log commits on the leader: {counts:?}, mean {} us", sum / counts.iter().sum::<u64>().max(1));
    let (counts, sum) = leader.counters().apply_us.read();
    println!("applies on the leader: {counts:?}, mean {} us", sum / counts.iter().sum::<u64>().max(1));
    println!("frames sent {} in {} writes", leader.counters().frames_sent.get(), leader.counters().socket_writes.get());
    assert!(transactions > 0);
    if callers > 8 {
        assert!(entries < transactions, "{transactions} transactions took {entries} entries");
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

/// CPU seconds of this process, user and system.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // utime and stime, in ticks of a hundredth of a second; the state letter before them does not parse.
    fields.get(10).zip(fields.get(11)).map_or(0.0, |(user, system)| (user + system) / 100.0)
}
