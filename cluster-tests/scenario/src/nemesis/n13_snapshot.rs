//! N13: a node is away until the log it needs is gone; then it is sent a snapshot, and killed while it receives it, at
//! one step after the other; now and then the sender is killed instead.
//!
//! Log goes when it grows beyond its bound, so the clients must write enough while the node is away: run this with a
//! `log_bytes_max` of 1 MiB and with [`crate::workloads::Kind::Bulk`] among the loads, as the scenarios with a short log
//! do. Where too little is written, the round is an interrupted catch-up by log and is called so.

use std::time::Duration;

use agora_history::NodeId;

use super::{Attack, Done, Turn, round::begin, scene::only, watch};
use crate::{cluster::Act, schedule::Context};

/// N13.
pub struct Snapshot;

/// How long the log may take to grow beyond its bound.
const PURGE_BOUND: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(100);
/// Deaths in one round.
const DEATHS_MAX: u64 = 4;

impl Attack for Snapshot {
    fn name(&self) -> &'static str {
        "N13"
    }

    fn about(&self) -> &'static str {
        "log purged to the tip, snapshot transfer, receiver killed at each step"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::Kill(only(1)), Act::PowerLoss(only(1)), Act::Start(1)]
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(12)
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let node = scene.victim(rng);
            let purged = away_until_purged(context, node).await?;
            let kind = if purged { "killed while it receives a snapshot" } else { "killed while it catches up by log" };
            let plan: Vec<(u64, bool, bool)> = (0..rng.between(2, DEATHS_MAX))
                .map(|_| (1 << rng.below(10), rng.per_mille(300), rng.per_mille(200)))
                .collect();
            let detail = format!("node {node}: (ms after start, power, sender) {plan:?}");
            let fault = begin(context, self.name(), kind, &[node], &detail).await;
            for (most, power, sender) in plan {
                context.act(Act::Start(node)).await?;
                tokio::time::sleep(Duration::from_millis(rng.between(most / 2, most))).await;
                let dies = if sender { context.leader().await.unwrap_or(node) } else { node };
                context.act(if power { Act::PowerLoss(only(dies)) } else { Act::Kill(only(dies)) }).await?;
                if dies != node {
                    context.act(Act::Start(dies)).await?;
                    context.act(Act::Kill(only(node))).await?;
                }
            }
            context.act(Act::Start(node)).await?;
            context.end_fault(fault);
            Ok(())
        })
    }
}

/// Kills a node and waits until the leader no longer holds what follows its log; says whether that was so in time.
async fn away_until_purged(context: &Context, node: NodeId) -> Result<bool, String> {
    let end = watch::tip(context).await;
    let detail = format!("node {node}, log to {end}");
    let fault = begin(context, "N13", "away while the log is purged", &[node], &detail).await;
    context.act(Act::Kill(only(node))).await?;
    let until = tokio::time::Instant::now() + PURGE_BOUND.min(context.left());
    let mut purged = false;
    while !purged && tokio::time::Instant::now() < until && context.pause(LOOK).await {
        if let Some(leader) = context.leader().await {
            // Rows must be durable before the log goes.
            let _ = context.admin().snapshot(leader).await;
            purged = context.admin().status(leader).await.is_some_and(|status| status.purged > end);
        }
    }
    context.end_fault(fault);
    Ok(purged)
}
