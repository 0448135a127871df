//! Changing the members: safe to repeat, refused where it would lose the majority, finished if interrupted.
//!
//! Only the leader changes members; any node forwards. A change of voters goes through a joint configuration in two
//! entries; one that a lost leader left half done is completed by [`reconcile`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agora_planted::{self as planted, Bug};
use futures_util::future::join_all;
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::Instant;

use crate::config::Member;
use crate::core::{Core, metrics};
use crate::error::MembershipError;
use crate::hand_over::hand_over_to_the_end;
use crate::machine::voters;
use crate::supervisor::ping;
use crate::transport::Lane;
use crate::transport::link::LinkError;
use crate::transport::wire::{self, Manage, Managed, kind};
use crate::types::{MemberAddr, TypeConfig};

/// A learner may be so many entries behind to become a voter.
const LAG_MAX: u64 = 1_000;
/// Deadline of a change, wherever it is made.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Deadline of one attempt at one node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A joint configuration that nobody finished for so long is finished by the leader.
const JOINT_AGE_MAX: Duration = Duration::from_secs(2);

/// Makes a change from any node: here if it leads, otherwise at the leader; repeated until it is known, or too late.
pub(crate) async fn change(core: Arc<Core>, change: Manage) -> Result<(), MembershipError> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    let mut sent = false;
    loop {
        let attempt = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        match attempt_once(&core, &change, attempt).await {
            Attempt::Done(result) => match result {
                // Another change may be the previous attempt of this very one.
                Err(MembershipError::InProgress) if sent => {}
                other => return other,
            },
            Attempt::NotThere => {}
            Attempt::Unknown => sent = true,
        }
        if Instant::now() + RETRY_PAUSE >= deadline {
            return Err(if sent {
                MembershipError::Unknown("no answer before the deadline; repeat the request".to_owned())
            } else {
                MembershipError::NoLeader
            });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

enum Attempt {
    Done(Result<(), MembershipError>),
    /// Nothing was asked of a leader.
    NotThere,
    /// Something may have been done.
    Unknown,
}

async fn attempt_once(core: &Arc<Core>, change: &Manage, deadline: Instant) -> Attempt {
    let managed = if core.pulse.leading().is_some() {
        as_leader(core.clone(), change.clone()).await
    } else {
        let Some(leader) = core.pulse.observed.read().leader else { return Attempt::NotThere };
        let asked = async {
            let link = core.links.get(leader, Lane::Calls).await?;
            link.call(kind::MANAGE, wire::encode(change), deadline).await
        };
        match asked.await {
            Ok((kind::MANAGED, body)) => match wire::decode(&body) {
                Ok(managed) => managed,
                Err(_) => return Attempt::Unknown,
            },
            Ok(_) => return Attempt::Unknown,
            Err(LinkError::NotSent(_)) => return Attempt::NotThere,
            Err(_) => return Attempt::Unknown,
        }
    };
    match managed {
        Managed::Done => Attempt::Done(Ok(())),
        Managed::Refused(MembershipError::Unknown(_)) => Attempt::Unknown,
        Managed::Refused(error) => Attempt::Done(Err(error)),
        Managed::NotLeader => Attempt::NotThere,
    }
}

/// Makes a change on the leader.
pub(crate) async fn as_leader(core: Arc<Core>, change: Manage) -> Managed {
    if core.pulse.leading().is_none() {
        return Managed::NotLeader;
    }
    if !core.pulse.quorum_fresh() {
        return Managed::Refused(MembershipError::NoQuorum);
    }
    let work = async {
        match change {
            Manage::AddLearner(member) => add_learner(&core, member).await,
            Manage::Promote(node) => promote(&core, node).await,
            Manage::Remove(node) if node == core.who.node() => remove_self(&core).await,
            Manage::Remove(node) => remove(&core, node).await,
            Manage::TransferLeader(to) => transfer(&core, to).await,
        }
    };
    // A change that waits for a majority that is gone must not hold the others up for ever.
    let Ok(result) = tokio::time::timeout(ATTEMPT_TIMEOUT, work).await else {
        return Managed::Refused(MembershipError::Unknown("no majority answered in time".to_owned()));
    };
    match result {
        Ok(()) => Managed::Done,
        Err(Refusal::NotLeader) => Managed::NotLeader,
        Err(Refusal::Because(error)) => Managed::Refused(error),
    }
}

enum Refusal {
    NotLeader,
    Because(MembershipError),
}

impl From<MembershipError> for Refusal {
    fn from(error: MembershipError) -> Refusal {
        Refusal::Because(error)
    }
}

async fn add_learner(core: &Core, member: Member) -> Result<(), Refusal> {
    let _one = core.changing.lock().await;
    let metrics = metrics(&core.raft);
    let addr = MemberAddr { peer_addr: member.peer_addr, http_addr: member.http_addr };
    if let Some(known) = metrics.membership_config.membership().get_node(&member.id) {
        return if *known == addr { Ok(()) } else { Err(MembershipError::NodeIdReused(member.id).into()) };
    }
    let used = core.apply.with_progress(|progress| progress.members.used_ids.contains(&member.id));
    if used && !planted::is(Bug::NodeIdReused) || member.id == 0 {
        return Err(MembershipError::NodeIdReused(member.id).into());
    }
    let result = core.raft.add_learner(member.id, addr, false).await;
    tracing::info!(node = member.id, ok = result.is_ok(), "adding a learner");
    finish(result.map(|_| ()))
}

async fn promote(core: &Core, node: u64) -> Result<(), Refusal> {
    let _one = core.changing.lock().await;
    let metrics = metrics(&core.raft);
    let membership = metrics.membership_config.membership();
    if voters(membership).contains(&node) && membership.get_joint_config().len() == 1 {
        return Ok(());
    }
    if membership.get_node(&node).is_none() {
        return Err(MembershipError::NotFound(node).into());
    }
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&node).copied().flatten());
    let lag = last.saturating_sub(matched.map_or(0, |at| at.index + 1));
    if matched.is_none() || lag > LAG_MAX {
        return Err(MembershipError::NotCaughtUp { node, lag, lag_max: LAG_MAX }.into());
    }
    // With one voter more the majority may be one more, too: a joint configuration that cannot be committed can never be
    // taken back, and the lag of a learner that is gone says nothing while nobody writes.
    let after: BTreeSet<u64> = voters(membership).into_iter().chain([node]).collect();
    let alive = answering(core, &after).await;
    check_quorum(&after, |voter| alive.contains(&voter))?;
    let change = ChangeMembers::AddVoterIds(BTreeSet::from([node]));
    let result = core.raft.change_membership(change, true).await;
    tracing::info!(node, ok = result.is_ok(), "making a learner a voter");
    finish(result.map(|_| ()))
}

async fn remove(core: &Core, node: u64) -> Result<(), Refusal> {
    let _one = core.changing.lock().await;
    let metrics = metrics(&core.raft);
    let membership = metrics.membership_config.membership();
    if membership.get_node(&node).is_none() {
        let used = core.apply.with_progress(|progress| progress.members.used_ids.contains(&node));
        return if used { Ok(()) } else { Err(MembershipError::NotFound(node).into()) };
    }
    let before = voters(membership);
    let result = if before.contains(&node) {
        let remain: BTreeSet<u64> = before.iter().copied().filter(|voter| *voter != node).collect();
        let alive = answering(core, &remain).await;
        check_quorum(&remain, |voter| alive.contains(&voter))?;
        core.raft.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([node])), false).await.map(|_| ())
    } else {
        core.raft.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([node])), false).await.map(|_| ())
    };
    tracing::info!(node, ok = result.is_ok(), "removing a member");
    finish(result)
}

/// The nodes that answer now. A removal that its successors cannot commit would block the cluster for good, so what was
/// heard a moment ago is not enough.
async fn answering(core: &Core, nodes: &BTreeSet<u64>) -> BTreeSet<u64> {
    let asks = nodes.iter().map(|node| async move { (*node, *node == core.who.node() || ping(core, *node).await) });
    join_all(asks).await.into_iter().filter(|(_, answers)| *answers).map(|(node, _)| node).collect()
}

/// Refuses a set of voters of which no majority is alive.
fn check_quorum(remain: &BTreeSet<u64>, alive: impl Fn(u64) -> bool) -> Result<(), MembershipError> {
    let live = remain.iter().filter(|voter| alive(**voter)).count();
    let needed = remain.len() / 2 + 1;
    if remain.is_empty() || live < needed {
        return Err(MembershipError::WouldLoseQuorum { live, voters: remain.len(), needed });
    }
    Ok(())
}

/// A leader to be removed hands over first; whoever asked repeats at the new one.
async fn remove_self(core: &Arc<Core>) -> Result<(), Refusal> {
    let own = core.who.node();
    let membership = metrics(&core.raft).membership_config.membership().clone();
    let remain: BTreeSet<u64> = voters(&membership).into_iter().filter(|voter| *voter != own).collect();
    let alive = answering(core, &remain).await;
    check_quorum(&remain, |voter| alive.contains(&voter))?;
    match hand_over_to_the_end(core, None, "this node is to be removed").await {
        Ok(()) => Err(Refusal::NotLeader),
        Err(reason) => Err(MembershipError::Unknown(reason).into()),
    }
}

/// How often to look whether a node answers.
const HEARD_STEP: Duration = Duration::from_millis(20);

async fn transfer(core: &Arc<Core>, to: Option<u64>) -> Result<(), Refusal> {
    if to == Some(core.who.node()) {
        return Ok(());
    }
    if let Some(to) = to
        && !voters(metrics(&core.raft).membership_config.membership()).contains(&to)
    {
        return Err(MembershipError::NotFound(to).into());
    }
    // Looked at before the journal is drained, which would hold up writes for nothing. A leader that has just been
    // elected hears of its voters with their first heartbeat.
    if let Some(to) = to {
        let deadline = Instant::now() + Duration::from_millis(core.config.election_max_ms);
        while core.pulse.leading().is_some() && !core.live_voters().contains_key(&to) {
            if Instant::now() >= deadline {
                return Err(MembershipError::NotAnswering(to).into());
            }
            tokio::time::sleep(HEARD_STEP).await;
        }
    }
    match hand_over_to_the_end(core, to, "asked to").await {
        Ok(()) => Ok(()),
        Err(_) if core.live_voters().is_empty() => Err(MembershipError::NoQuorum.into()),
        Err(reason) => Err(MembershipError::Unknown(reason).into()),
    }
}

type Written = Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

fn finish(result: Written) -> Result<(), Refusal> {
    let Err(error) = result else { return Ok(()) };
    Err(match error {
        RaftError::Fatal(fatal) => MembershipError::Unknown(fatal.to_string()).into(),
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Refusal::NotLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            MembershipError::Unknown("leadership was lost on the way".to_owned()).into()
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => MembershipError::InProgress.into(),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                MembershipError::InProgress.into()
            }
            ChangeMembershipError::EmptyMembership(_) => {
                MembershipError::WouldLoseQuorum { live: 0, voters: 0, needed: 1 }.into()
            }
            ChangeMembershipError::LearnerNotFound(missing) => MembershipError::NotFound(missing.node_id).into(),
            ChangeMembershipError::NodeMetadataChanged(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_) => {
                MembershipError::Unknown(error.to_string()).into()
            }
        },
    })
}

/// When a joint configuration was first seen without progress.
#[derive(Default)]
pub(crate) struct Joint {
    since: Option<(Option<crate::types::LogId>, Instant)>,
}

/// Finishes a joint configuration that an interrupted change left behind; called now and then.
pub(crate) async fn reconcile(core: &Core, joint: &mut Joint) {
    let metrics = metrics(&core.raft);
    let config = &metrics.membership_config;
    if core.pulse.leading().is_none() || config.membership().get_joint_config().len() < 2 {
        joint.since = None;
        return;
    }
    let at = *config.log_id();
    match &joint.since {
        Some((seen, since)) if *seen == at => {
            if since.elapsed() < JOINT_AGE_MAX {
                return;
            }
        }
        _ => {
            joint.since = Some((at, Instant::now()));
            return;
        }
    }
    // A change that is still being made here holds this.
    let Ok(_one) = core.changing.try_lock() else { return };
    tracing::warn!("finishing a change of members that was interrupted");
    // An empty change flattens the joint configuration to its second half.
    let finishing = core.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false);
    // Whoever calls this keeps the log bounded, too: it must not wait for a majority that may not come back.
    match tokio::time::timeout(ATTEMPT_TIMEOUT, finishing).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "an interrupted change of members could not be finished; tried again later");
        }
        Err(_) => tracing::warn!("no majority finished an interrupted change of members in time; tried again later"),
    }
    joint.since = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(remain: &[u64], alive: &[u64], expected: Result<(), MembershipError>) {
        let remain: BTreeSet<u64> = remain.iter().copied().collect();
        assert_eq!(check_quorum(&remain, |voter| alive.contains(&voter)), expected);
    }

    #[test]
    fn a_change_that_loses_the_majority_is_refused() {
        check(&[1, 2], &[1, 2], Ok(()));
        // Also one that adds a voter: two of three were alive, three of four are needed.
        check(&[1, 2, 3, 4], &[1, 2], Err(MembershipError::WouldLoseQuorum { live: 2, voters: 4, needed: 3 }));
        check(&[1, 2], &[1], Err(MembershipError::WouldLoseQuorum { live: 1, voters: 2, needed: 2 }));
        check(&[1, 2, 3], &[1, 3], Ok(()));
        check(&[], &[], Err(MembershipError::WouldLoseQuorum { live: 0, voters: 0, needed: 1 }));
    }
}
