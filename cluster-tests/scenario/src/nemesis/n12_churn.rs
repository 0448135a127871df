//! N12: members come and go, and leadership moves, while the network is cut (N1) and nodes are killed (N5).
//!
//! A change of voters takes two entries, and whoever makes it may die between them. Afterwards the cluster is as large as
//! before, though of other nodes.

use std::time::Duration;

use agora_history::NodeId;

use super::{
    Attack, Done, Scene, Turn,
    recover::{self, Errand},
    round::begin,
    scene::only,
};
use crate::{
    cluster::{Act, Link},
    rng::Rng,
    schedule::Context,
};

/// N12.
pub struct Churn;

impl Attack for Churn {
    fn name(&self) -> &'static str {
        "N12"
    }

    fn about(&self) -> &'static str {
        "members and leadership change while the network is cut and nodes are killed"
    }

    fn needs(&self) -> Vec<Act> {
        vec![
            Act::Provision(9),
            Act::Retire(9),
            Act::Kill(only(1)),
            Act::SetLinks { from: only(1), to: only(2), link: Link::CUT },
        ]
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(8)
    }

    fn is_destroying(&self) -> bool {
        true
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let node = scene.victim(rng);
            match rng.below(4) {
                0 => joins_while_one_is_cut_off(context, node, rng, scene).await,
                1 => dies_while_a_node_is_promoted(context, node, rng).await,
                2 => leaves_and_another_comes(context, node).await,
                _ => leadership_moves(context, node, rng, scene).await,
            }
        })
    }
}

async fn joins_while_one_is_cut_off(
    context: &Context,
    node: NodeId,
    rng: &mut Rng,
    scene: &Scene,
) -> Result<(), String> {
    let hold = rng.between(0, 1_000);
    let fault = begin(context, "N12", "a node joins while one is cut off", &[node], &format!("hold {hold} ms")).await;
    let (one, rest) = (only(node), scene.rest(&only(node)));
    context.act(Act::SetLinks { from: one.clone(), to: rest.clone(), link: Link::CUT }).await?;
    context.act(Act::SetLinks { from: rest, to: one, link: Link::CUT }).await?;
    // The one that is cut off must not be asked: it may believe that it leads.
    recover::enlist(context, &[node]).await?;
    context.pause(Duration::from_millis(hold)).await;
    context.act(Act::HealNetwork).await?;
    context.end_fault(fault);
    recover::recover(context, false).await?;
    recover::dismiss(context, node).await
}

async fn dies_while_a_node_is_promoted(context: &Context, node: NodeId, rng: &mut Rng) -> Result<(), String> {
    let (delay, down) = (rng.between(0, 120), rng.between(0, 1_500));
    let new = recover::add_learner(context, &[]).await?;
    let fault =
        begin(context, "N12", "killed while a node is promoted", &[node], &format!("after {delay} ms, down {down} ms"))
            .await;
    let others: Vec<NodeId> =
        context.cluster().nodes().into_iter().filter(|other| *other != node && *other != new).collect();
    let via = rng.pick(&others).copied().ok_or("nobody to ask")?;
    let (_, killed) = tokio::join!(biased; context.admin().promote(via, new), async {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        context.act(Act::Kill(only(node))).await
    });
    killed?;
    context.pause(Duration::from_millis(down)).await;
    context.act(Act::Start(node)).await?;
    context.end_fault(fault);
    recover::insist(context, &[new], Errand::Promote(new)).await?;
    recover::recover(context, false).await?;
    recover::dismiss(context, node).await
}

async fn leaves_and_another_comes(context: &Context, node: NodeId) -> Result<(), String> {
    let fault = begin(context, "N12", "a member leaves and another comes", &[node], "").await;
    recover::dismiss(context, node).await?;
    recover::enlist(context, &[]).await?;
    context.end_fault(fault);
    Ok(())
}

async fn leadership_moves(context: &Context, node: NodeId, rng: &mut Rng, scene: &Scene) -> Result<(), String> {
    let times = rng.between(2, 5);
    let fault =
        begin(context, "N12", "leadership moves and who gets it is killed", &[node], &format!("{times} times")).await;
    for turn in 0..times {
        let Some(leader) = context.some_leader().await else { break };
        let others: Vec<NodeId> = scene.voters.iter().copied().filter(|other| *other != leader).collect();
        let to = if turn == 0 && node != leader { node } else { rng.pick(&others).copied().unwrap_or(node) };
        // It may be refused, or lead elsewhere: all that counts is what clients see.
        let _ = context.admin().transfer(leader, Some(to)).await;
        if !context.pause(Duration::from_millis(rng.between(0, 300))).await {
            break;
        }
        if rng.per_mille(400) {
            context.act(Act::Kill(only(to))).await?;
            context.pause(Duration::from_millis(rng.between(0, 600))).await;
            context.act(Act::Start(to)).await?;
        }
    }
    context.end_fault(fault);
    Ok(())
}
