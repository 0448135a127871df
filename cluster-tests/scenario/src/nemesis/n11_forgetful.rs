//! N11: a node comes back without its past: its directory was emptied, or belongs to another cluster, or its id was
//! removed and is used again.
//!
//! It acknowledged entries and votes that it no longer knows. Counted once more, it would make a majority out of nodes
//! that do not hold what was acknowledged. So its peers remember it and refuse it; a cluster that would need it has no
//! leader. Afterwards it is replaced by a new node under a new id.

use std::time::Duration;

use agora_history::NodeId;

use super::{
    Attack, Done, Scene, Turn,
    recover::{self, Errand},
    round::begin,
    scene::only,
    watch,
};
use crate::{cluster::Act, rng::Rng, schedule::Context};

/// N11.
pub struct Forgetful;

impl Attack for Forgetful {
    fn name(&self) -> &'static str {
        "N11"
    }

    fn about(&self) -> &'static str {
        "wiped directory under the old id, reused id, node of another cluster"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::Kill(only(1)), Act::Wipe(1), Act::Start(1), Act::Provision(9), Act::Retire(9)]
    }

    fn wants(&self) -> Vec<Act> {
        vec![Act::Refound(1), Act::Pause(1), Act::Resume(1)]
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(12)
    }

    fn is_destroying(&self) -> bool {
        true
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let node = scene.victim(rng);
            match rng.below(5) {
                0 if scene.can(&Act::Refound(node)) => replaced_by_a_stranger(context, node, rng).await,
                1 => id_used_again(context, node, rng).await,
                _ => wiped(context, node, rng, scene).await,
            }
        })
    }
}

async fn wiped(context: &Context, node: NodeId, rng: &mut Rng, scene: &Scene) -> Result<(), String> {
    let tip = watch::tip(context).await;
    let detail = format!("node {node}, tip {tip}");
    let fault = begin(context, "N11", "directory wiped, old id", &[node], &detail).await;
    context.act(Act::Kill(only(node))).await?;
    context.act(Act::Wipe(node)).await?;
    watch::knocks(context, node, tip, rng).await?;
    if scene.can_all(&[Act::Pause(1), Act::Resume(1)]) && rng.per_mille(600) {
        recover::led(context, &voters_but(scene, node)).await?;
        let leader = context.leader().await.unwrap_or(scene.leader);
        let time = Duration::from_millis(rng.between(1_500, 3_000));
        watch::no_majority_with(context, node, leader, &scene.voters, time).await?;
    }
    recover::replace(context, node, rng).await?;
    context.end_fault(fault);
    Ok(())
}

fn voters_but(scene: &Scene, node: NodeId) -> Vec<NodeId> {
    scene.voters.iter().copied().filter(|voter| *voter != node).collect()
}

async fn replaced_by_a_stranger(context: &Context, node: NodeId, rng: &mut Rng) -> Result<(), String> {
    let tip = watch::tip(context).await;
    let detail = format!("node {node}, tip {tip}");
    let fault = begin(context, "N11", "node of another cluster", &[node], &detail).await;
    context.act(Act::Kill(only(node))).await?;
    context.act(Act::Refound(node)).await?;
    watch::knocks(context, node, tip, rng).await?;
    recover::replace(context, node, rng).await?;
    context.end_fault(fault);
    Ok(())
}

/// A member is removed; then somebody adds its id again, and its old self comes back.
async fn id_used_again(context: &Context, node: NodeId, rng: &mut Rng) -> Result<(), String> {
    let fault = begin(context, "N11", "id used again", &[node], &format!("node {node}")).await;
    recover::insist(context, &[node], Errand::Remove(node)).await?;
    let tip = watch::tip(context).await;
    // The answer must be a clear no; anything but that, or trouble on the way, is a yes.
    match recover::insist(context, &[node], Errand::Add(node)).await {
        Err(error) if error.contains("NODE_ID_REUSED") => {}
        Err(error) => return Err(format!("adding the removed id {node} was not refused as a reuse: {error}")),
        Ok(()) => return Err(format!("the removed id {node} was taken in again")),
    }
    context.act(Act::Kill(only(node))).await?;
    if rng.per_mille(500) {
        context.act(Act::Wipe(node)).await?;
    }
    // What was on its way when it was removed may still have reached it.
    watch::knocks(context, node, tip.saturating_add(64), rng).await?;
    context.act(Act::Kill(only(node))).await?;
    context.act(Act::Retire(node)).await?;
    recover::enlist(context, &[]).await?;
    context.end_fault(fault);
    Ok(())
}
