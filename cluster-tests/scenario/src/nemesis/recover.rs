//! Bringing a cluster back to full strength by what an operator may do, and noticing when that does not help.

use std::{collections::BTreeMap, time::Duration};

use agora_history::NodeId;
use tokio::time::Instant;

use super::{
    round::act_if_there,
    scene::{Scene, only},
};
use crate::{
    admin::{Admin, Status},
    cluster::{Act, Link},
    rng::Rng,
    schedule::Context,
};

/// A healed cluster that is not whole after so long has a defect. Rows that are rebuilt from a peer may take half of it.
pub const WHOLE_BOUND: Duration = Duration::from_secs(60);
/// A healed majority that does not lead after so long has a defect.
pub const QUORUM_BOUND: Duration = Duration::from_secs(20);
/// A damaged node that does not follow the leader after so long is refused. Rebuilding rows takes a few seconds.
const RETURN_BOUND: Duration = Duration::from_secs(20);
/// One step of an operator that is not done after so long has a defect.
const STEP_BOUND: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// A node that dies again after its start is started again, as a supervisor would, at most so often in a row.
const STARTS_MAX: u32 = 8;
/// Entries a node may be behind the leader and count as there.
const LAG_MAX: u64 = 500;
/// Ids that may turn out to be used before a new node gets one.
const IDS_MAX: u32 = 32;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// All nodes run and follow one leader.
    Whole,
    /// These do not stay up.
    Hopeless(Vec<NodeId>),
    /// The attack's time was over first: the runner heals and looks.
    Over,
}

/// Undoes all that was done to these nodes, among themselves and towards clients; the others stay as they are.
///
/// # Errors
/// An act that was not done.
pub async fn mend(context: &Context, nodes: &[NodeId]) -> Result<(), String> {
    let set = nodes.iter().copied().collect();
    let link = Link::default();
    context
        .act(Act::SetLinks { from: nodes.iter().copied().collect(), to: nodes.iter().copied().collect(), link })
        .await?;
    act_if_there(context, Act::SetClientLinks { nodes: set, link }).await?;
    for node in nodes {
        mend_node(context, *node).await?;
    }
    Ok(())
}

/// Lets a node go on, gives it its disk and clock back, and starts it.
async fn mend_node(context: &Context, node: NodeId) -> Result<(), String> {
    for act in [Act::MendDisk(node), Act::Resume(node), Act::ClockOffset { node, ms: 0 }] {
        if context.cluster().supports(&act) {
            act_if_there(context, act).await?;
        }
    }
    act_if_there(context, Act::Start(node)).await
}

/// Undoes everything.
///
/// # Errors
/// An act that was not done.
pub async fn mend_all(context: &Context) -> Result<(), String> {
    context.act(Act::HealNetwork).await?;
    for node in context.cluster().nodes() {
        mend_node(context, node).await?;
    }
    Ok(())
}

/// Waits until every node runs and follows one leader; starts those that are down. `may_end` says whether the end of the
/// attack's time ends the wait.
///
/// # Errors
/// Not whole within [`WHOLE_BOUND`] though nothing is broken: the cluster did not heal.
pub async fn recover(context: &Context, may_end: bool) -> Result<Recovery, String> {
    let bound = Instant::now() + WHOLE_BOUND;
    let mut starts: BTreeMap<NodeId, u32> = BTreeMap::new();
    loop {
        for node in context.cluster().nodes() {
            if !context.cluster().is_up(node) {
                let count = starts.entry(node).or_default();
                *count += 1;
                if *count <= STARTS_MAX {
                    act_if_there(context, Act::Start(node)).await?;
                }
            }
        }
        let statuses = context.admin().statuses().await;
        if is_whole(&statuses, &context.cluster().nodes()) {
            return Ok(Recovery::Whole);
        }
        let hopeless: Vec<NodeId> =
            starts.iter().filter(|(_, count)| **count > STARTS_MAX).map(|(node, _)| *node).collect();
        if !hopeless.is_empty() {
            return Ok(Recovery::Hopeless(hopeless));
        }
        if may_end && context.is_over() {
            return Ok(Recovery::Over);
        }
        if Instant::now() >= bound {
            return Err(format!("the cluster is not whole {WHOLE_BOUND:?} after it was healed: {}", brief(&statuses)));
        }
        // Longer with every start: a node that refuses to start must not be started a hundred times a second.
        let tries = starts.values().copied().max().unwrap_or(0);
        tokio::time::sleep(LOOK * (1 + tries.min(7))).await;
    }
}

/// How a damaged node's start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// It runs and follows.
    Back,
    /// It refuses to start, or its peers refuse it.
    Refused,
}

/// Starts a node, as a supervisor would, until it follows the leader or it is clear that it will not. It follows when it has
/// applied what the leader had when they were first seen to agree: one that is refused by the leader alone may name it for a
/// moment, too.
///
/// # Errors
/// An act that was not done.
pub async fn comes_back(context: &Context, node: NodeId) -> Result<Return, String> {
    let bound = Instant::now() + RETURN_BOUND;
    let mut starts = 0;
    let mut to_reach = None;
    loop {
        if !context.cluster().is_up(node) {
            starts += 1;
            if starts > STARTS_MAX {
                return Ok(Return::Refused);
            }
            context.act(Act::Start(node)).await?;
        }
        let statuses = context.admin().statuses().await;
        if is_whole(&statuses, &[node]) && has_reached(&statuses, node, &mut to_reach) {
            return Ok(Return::Back);
        }
        if Instant::now() >= bound {
            return Ok(Return::Refused);
        }
        tokio::time::sleep(LOOK * (1 + starts)).await;
    }
}

/// Whether all of these run, are members, and follow one leader without being far behind.
fn is_whole(statuses: &[Status], nodes: &[NodeId]) -> bool {
    let Some(leader) = statuses.iter().find(|status| status.is_leader) else { return false };
    nodes.iter().all(|node| {
        let Some(status) = statuses.iter().find(|status| status.node == *node) else { return false };
        status.leader == Some(leader.node)
            && status.term == leader.term
            && status.health == "ok"
            && status.applied + LAG_MAX >= leader.applied
            && leader.members.contains(&(*node, true))
    })
}

/// Whether the node has applied what the leader had when this was asked first.
fn has_reached(statuses: &[Status], node: NodeId, to_reach: &mut Option<u64>) -> bool {
    let Some(leader) = statuses.iter().find(|status| status.is_leader) else { return false };
    let to_reach = *to_reach.get_or_insert(leader.applied);
    statuses.iter().any(|status| status.node == node && status.applied >= to_reach)
}

fn brief(statuses: &[Status]) -> String {
    let word = |status: &Status| {
        format!(
            "node {} leader {:?} term {} applied {} {} members {:?}",
            status.node, status.leader, status.term, status.applied, status.health, status.members
        )
    };
    statuses.iter().map(word).collect::<Vec<_>>().join("; ")
}

/// The cluster as it is, when it is whole enough to be attacked: a leader that says who votes.
pub async fn look(context: &Context) -> Option<Scene> {
    let leader = context.some_leader().await?;
    let statuses = context.admin().statuses().await;
    let status = statuses.iter().find(|status| status.node == leader)?;
    let nodes = context.cluster().nodes();
    let voters: Vec<NodeId> =
        status.members.iter().filter(|(node, votes)| *votes && nodes.contains(node)).map(|(node, _)| *node).collect();
    let uncut = statuses.iter().filter(|status| status.purged == 0).map(|status| status.node).collect();
    voters.contains(&leader).then(|| Scene::new(leader, voters, uncut, context.cluster().clone()))
}

/// Waits until these have a leader: one of them, or another that one of them follows.
///
/// # Errors
/// They have none within [`QUORUM_BOUND`] though they are a majority and healed.
pub async fn led(context: &Context, nodes: &[NodeId]) -> Result<(), String> {
    let bound = Instant::now() + QUORUM_BOUND;
    loop {
        for node in nodes {
            act_if_there(context, Act::Start(*node)).await?;
        }
        let statuses = context.admin().statuses().await;
        if is_led(&statuses, nodes) || context.is_over() {
            return Ok(());
        }
        if Instant::now() >= bound {
            return Err(format!(
                "a healed majority {nodes:?} has no leader within {QUORUM_BOUND:?}: {}",
                brief(&statuses)
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the one who leads in the highest term is one of these, or one of these follows it.
fn is_led(statuses: &[Status], nodes: &[NodeId]) -> bool {
    let leader = statuses.iter().filter(|status| status.is_leader).max_by_key(|status| status.term);
    leader.is_some_and(|leader| {
        let follows = |status: &Status| status.leader == Some(leader.node) && status.term == leader.term;
        statuses.iter().any(|status| nodes.contains(&status.node) && (status.node == leader.node || follows(status)))
    })
}

/// What an operator may insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// This node is a member, without a vote.
    Add(NodeId),
    /// It has a vote.
    Promote(NodeId),
    /// It is no member.
    Remove(NodeId),
    /// It writes a snapshot file.
    Snapshot(NodeId),
}

async fn run(admin: &Admin, via: NodeId, errand: Errand) -> Result<(), String> {
    match errand {
        Errand::Add(node) => admin.add(via, node).await,
        Errand::Promote(node) => admin.promote(via, node).await,
        Errand::Remove(node) => match admin.remove(via, node).await {
            // An earlier attempt may have done it without saying so.
            Err(error) if error.contains("NOT_FOUND") => Ok(()),
            other => other,
        },
        Errand::Snapshot(node) => admin.snapshot(node).await.map(drop),
    }
}

/// Repeats an operator's request, at this node and that, until it is done or refused for good. Those to `avoid` are not
/// asked. A node that has to read all its rows may meet rot that an earlier attack left in them, and ends to make them anew:
/// it is started again, as a supervisor would.
///
/// # Errors
/// The last answer.
pub async fn insist(context: &Context, avoid: &[NodeId], errand: Errand) -> Result<(), String> {
    let bound = Instant::now() + STEP_BOUND;
    let mut last = "nobody to ask".to_owned();
    let mut starts = 0;
    loop {
        if let Errand::Snapshot(node) = errand
            && starts < STARTS_MAX
            && !context.cluster().is_up(node)
        {
            starts += 1;
            act_if_there(context, Act::Start(node)).await?;
        }
        let nodes = context.cluster().nodes();
        for via in nodes.into_iter().filter(|node| context.cluster().is_up(*node) && !avoid.contains(node)) {
            match run(context.admin(), via, errand).await {
                Ok(()) => return Ok(()),
                Err(error) if error.contains("NODE_ID_REUSED") => return Err(error),
                Err(error) => last = error,
            }
        }
        if Instant::now() >= bound {
            return Err(format!("{errand:?} was not done within {STEP_BOUND:?}: {last}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A new node, added and made a voter. Returns its id.
///
/// # Errors
/// A step that was not done.
pub async fn enlist(context: &Context, avoid: &[NodeId]) -> Result<NodeId, String> {
    let node = add_learner(context, avoid).await?;
    let mut avoid = avoid.to_vec();
    avoid.push(node);
    insist(context, &avoid, Errand::Promote(node)).await?;
    Ok(node)
}

/// A new node, added without a vote. Returns its id. An id that some earlier node had is passed over.
///
/// # Errors
/// A step that was not done.
pub async fn add_learner(context: &Context, avoid: &[NodeId]) -> Result<NodeId, String> {
    let mut last = String::new();
    for _ in 0..IDS_MAX {
        let node = context.fresh_node();
        context.act(Act::Provision(node)).await?;
        let mut elsewhere = avoid.to_vec();
        elsewhere.push(node);
        match insist(context, &elsewhere, Errand::Add(node)).await {
            Ok(()) => return Ok(node),
            Err(error) if error.contains("NODE_ID_REUSED") => {
                context.act(Act::Retire(node)).await?;
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(format!("{IDS_MAX} ids in a row were used before: {last}"))
}

/// Takes a member out and away.
///
/// # Errors
/// A step that was not done.
pub async fn dismiss(context: &Context, node: NodeId) -> Result<(), String> {
    insist(context, &[node], Errand::Remove(node)).await?;
    context.act(Act::Retire(node)).await
}

/// Replaces a node that lost what it had acknowledged, as the README tells an operator to: it is down, and the others
/// are a majority. Either the new one comes first, or the old one goes first; a seed decides.
///
/// # Errors
/// A step that was not done.
pub async fn replace(context: &Context, lost: NodeId, rng: &mut Rng) -> Result<NodeId, String> {
    context.act(Act::Kill(only(lost))).await?;
    if rng.per_mille(500) {
        dismiss(context, lost).await?;
        return enlist(context, &[]).await;
    }
    let node = enlist(context, &[lost]).await?;
    dismiss(context, lost).await?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node: NodeId, leader: NodeId) -> Status {
        Status {
            node,
            is_leader: node == leader,
            leader: Some(leader),
            term: 3,
            applied: 1_000,
            health: "ok".to_owned(),
            members: vec![(1, true), (2, true), (3, true)],
            ..Status::default()
        }
    }

    #[test]
    fn a_majority_is_led_by_one_of_its_own_or_by_whom_one_of_it_follows() {
        assert!(is_led(&[status(1, 1), status(2, 1)], &[1, 2]));
        assert!(is_led(&[status(1, 3), status(2, 3), status(3, 3)], &[1, 2]));
        assert!(!is_led(&[status(1, 3), status(2, 3)], &[1, 2]), "the leader they name does not answer");
        let old = Status { term: 2, ..status(3, 3) };
        assert!(!is_led(&[status(1, 4), status(2, 4), old], &[1, 2]), "it leads in a term that is over");
        assert!(!is_led(&[], &[1, 2]));
    }

    #[test]
    fn who_is_back_has_caught_up_with_what_the_leader_had() {
        let behind = Status { applied: 900, ..status(1, 2) };
        let ahead = |applied| Status { applied, ..status(2, 2) };
        let mut to_reach = None;
        assert!(!has_reached(&[behind.clone(), ahead(1_000)], 1, &mut to_reach));
        let caught_up = Status { applied: 1_000, ..behind };
        assert!(has_reached(&[caught_up, ahead(2_000)], 1, &mut to_reach));
        assert_eq!(to_reach, Some(1_000));
    }

    #[test]
    fn whole_means_all_run_and_follow_one_leader() {
        let good = || vec![status(1, 2), status(2, 2), status(3, 2)];
        assert!(is_whole(&good(), &[1, 2, 3]));
        assert!(!is_whole(&good()[..2], &[1, 2, 3]), "one does not answer");
        assert!(!is_whole(&good(), &[1, 2, 3, 4]), "one is no member");
        let spoilt: [fn(&mut Status); 4] = [
            |status| status.leader = None,
            |status| status.term = 2,
            |status| status.health = "stalled".to_owned(),
            |status| status.applied = 1,
        ];
        for spoil in spoilt {
            let mut statuses = good();
            spoil(&mut statuses[0]);
            assert!(!is_whole(&statuses, &[1, 2, 3]));
        }
    }
}
