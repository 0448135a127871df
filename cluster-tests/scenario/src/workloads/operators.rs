//! W8: people who run the cluster, while it is under load. Leadership is handed over, snapshots are taken, a node is added,
//! promoted, and another one removed in its place. What is refused or not answered is tried again later; what was left
//! half done is tidied up by the runner.

use agora_history::NodeId;

use super::Task;
use crate::cluster::Act;

/// Voters below which nobody is removed.
const VOTERS_MIN: usize = 3;
/// Nodes beyond which nobody is added.
const NODES_MAX: usize = 5;

pub(super) async fn run(mut task: Task) {
    while task.next().await {
        task.spend();
        let node = task.client.some_node();
        let done = match task.client.rng().below(10) {
            0..3 => {
                let to = task.percent(50).then(|| task.client.some_node());
                ("transfer", task.admin.transfer(node, to).await.is_ok())
            }
            3..6 => ("snapshot", task.admin.snapshot(node).await.is_ok()),
            _ => match change_members(&mut task, node).await {
                Some(done) => done,
                None => continue,
            },
        };
        task.shop.note_act(done.0, done.1);
    }
}

/// One step: a learner is promoted; else a node too many is removed; else one is added.
async fn change_members(task: &mut Task, via: NodeId) -> Option<(&'static str, bool)> {
    let status = task.admin.status(via).await?;
    let nodes = task.cluster.nodes();
    let voters = status.members.iter().filter(|(_, votes)| *votes).count();
    if let Some((learner, _)) = status.members.iter().find(|(node, votes)| !*votes && nodes.contains(node)) {
        return Some(("promote", task.admin.promote(via, *learner).await.is_ok()));
    }
    let stranger = nodes.iter().copied().find(|node| !status.members.iter().any(|(member, _)| member == node));
    if let Some(stranger) = stranger {
        let added = task.admin.add(via, stranger).await;
        if added.as_ref().is_err_and(|why| why.contains("NODE_ID_REUSED")) {
            // It was removed, and whoever removed it did not hear so.
            task.cluster.act(Act::Retire(stranger)).await.ok();
        }
        return Some(("add", added.is_ok()));
    }
    if voters > VOTERS_MIN {
        let members: Vec<NodeId> = status.members.iter().map(|(node, _)| *node).collect();
        let node = *task.client.rng().pick(&members)?;
        let is_done = task.admin.remove(via, node).await.is_ok();
        if is_done {
            // Only a definite yes lets it be switched off: it may be counted on otherwise.
            task.cluster.act(Act::Retire(node)).await.ok();
        }
        return Some(("remove", is_done));
    }
    let node = task.recorder.fresh_node(task.cluster.fresh_id());
    if nodes.len() >= NODES_MAX || !task.cluster.supports(&Act::Provision(node)) {
        return None;
    }
    Some(("provision", task.cluster.act(Act::Provision(node)).await.is_ok()))
}
