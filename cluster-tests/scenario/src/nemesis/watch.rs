//! Nodes that must not be let in: watched while they try.
//!
//! A node that forgot what it had acknowledged is refused under its id for good. It is started more than once, for each
//! start counts up its incarnation: one day that passes what its peers remember, and then only its vote and its log
//! speak against it.

use std::time::Duration;

use agora_history::NodeId;
use tokio::time::Instant;

use super::{recover, round::begin, scene::only};
use crate::{cluster::Act, rng::Rng, schedule::Context};

const LOOK: Duration = Duration::from_millis(50);
/// Starts of a node that must stay out.
const STARTS: u64 = 3;

/// Watches a node for a while that holds nothing beyond `tip` and must not get more.
///
/// # Errors
/// It was given entries, or leads.
pub async fn stays_out(context: &Context, node: NodeId, tip: u64, time: Duration) -> Result<(), String> {
    let until = Instant::now() + time;
    loop {
        if let Some(status) = context.admin().status(node).await {
            if status.is_leader {
                return Err(format!("node {node} leads, which forgot what it had acknowledged: {status:?}"));
            }
            if status.applied > tip {
                return Err(format!(
                    "node {node} forgot what it had acknowledged, and was given entries up to {} (it had at most {tip})",
                    status.applied
                ));
            }
        }
        if Instant::now() >= until {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts a node that must stay out, again and again, and watches.
///
/// # Errors
/// It was let in.
pub async fn knocks(context: &Context, node: NodeId, tip: u64, rng: &mut Rng) -> Result<(), String> {
    for _ in 0..rng.between(1, STARTS) {
        context.act(Act::Start(node)).await?;
        stays_out(context, node, tip, Duration::from_millis(rng.between(400, 1_200))).await?;
        context.act(Act::Kill(only(node))).await?;
    }
    context.act(Act::Start(node)).await
}

/// Puts so many of the others to sleep, the leader first, that those which are awake are one short of a majority. Together
/// with a node that forgot they would be one: nobody may lead.
///
/// # Errors
/// Somebody leads.
pub async fn no_majority_with(
    context: &Context,
    forgetful: NodeId,
    leader: NodeId,
    voters: &[NodeId],
    time: Duration,
) -> Result<(), String> {
    let sound: Vec<NodeId> = voters.iter().copied().filter(|node| *node != forgetful).collect();
    let awake_max = voters.len() / 2;
    let mut sleepers: Vec<NodeId> = sound.iter().copied().filter(|node| *node == leader).collect();
    sleepers.extend(sound.iter().copied().filter(|node| *node != leader));
    sleepers.truncate(sound.len().saturating_sub(awake_max).max(1));
    // Who led before may go on saying so for a while; who is elected from now on is of a later term.
    let before = context.admin().statuses().await.iter().map(|status| status.term).max().unwrap_or(0);
    for node in &sleepers {
        context.act(Act::Pause(*node)).await?;
    }
    let until = Instant::now() + time;
    let mut verdict = Ok(());
    while Instant::now() < until && verdict.is_ok() {
        let awake = voters.iter().filter(|node| !sleepers.contains(node));
        for node in awake {
            let status = context.admin().status(*node).await;
            if status.is_some_and(|status| status.is_leader && status.term > before) {
                verdict = Err(format!(
                    "node {node} leads by the vote of node {forgetful}, which forgot what it had acknowledged ({sleepers:?} sleep)"
                ));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    for node in &sleepers {
        context.act(Act::Resume(*node)).await?;
    }
    verdict
}

/// The highest index any node has.
pub async fn tip(context: &Context) -> u64 {
    let statuses = context.admin().statuses().await;
    statuses.iter().map(|status| status.last_log.max(status.applied)).max().unwrap_or(0)
}

/// Puts an old copy of a node's directory back while the others live, sees that it is not let in, and replaces it.
///
/// # Errors
/// It was let in, or the cluster did not heal.
pub async fn roll_back(context: &Context, name: &str, node: NodeId, rng: &mut Rng) -> Result<(), String> {
    let (age, down) = (rng.between(500, 2_500), rng.between(0, 500));
    let detail =
        format!("node {node} killed, kept, started, killed after {age} ms, old directory back after {down} ms");
    let fault = begin(context, name, "directory rolled back", &[node], &detail).await;
    context.act(Act::Kill(only(node))).await?;
    context.act(Act::KeepDirectory(node)).await?;
    context.act(Act::Start(node)).await?;
    recover::recover(context, false).await?;
    context.pause(Duration::from_millis(age)).await;
    context.act(Act::Kill(only(node))).await?;
    // Once a second the peers write down what they remember of others; in memory they know at once.
    context.pause(Duration::from_millis(down)).await;
    let tip = tip(context).await;
    context.act(Act::RestoreDirectory(node)).await?;
    knocks(context, node, tip, rng).await?;
    recover::replace(context, node, rng).await?;
    context.end_fault(fault);
    Ok(())
}
