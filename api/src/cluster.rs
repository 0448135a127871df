//! `/cluster`: who belongs to it, who leads, snapshots. Needs the administrator's key.
//!
//! Every act is answered on any node (the node that is asked finds the leader) and is safe to repeat: an act that has
//! been done already changes nothing and says the same. So none of them needs an idempotency key. Acts answer with the
//! cluster as it is afterwards, as the asked node sees it.

use std::time::Duration;

use agora_actors::{Member, MembershipError};
use agora_raft::{CheckpointReport, MemberStatus, Role, Status};
use agora_storage::disk::SnapshotInfo;

use http::Method;
use serde::Serialize;

use crate::{
    auth::Access,
    body::{parse, parse_or_empty},
    dto::{NewMember, Nothing, Transfer},
    endpoint::{Call, Endpoint},
    health::{health_word, role_word},
    problem::{Applied, Code, Details, Outcome, Problem, Success},
    reply::Reply,
};

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v2/cluster/status", Access::Admin, "getClusterStatus", status)
            .about("The cluster as this node sees it.")
            .gives("ClusterStatus"),
        Endpoint::get("/api/v2/cluster/members", Access::Admin, "listMembers", members)
            .about("Its members.")
            .gives("Members"),
        Endpoint::act(Method::POST, "/api/v2/cluster/members", "addMember", add)
            .about("Adds a node as a learner. Its id must never have been used.")
            .takes("NewMember")
            .gives("ClusterStatus"),
        Endpoint::get("/api/v2/cluster/members/{id}", Access::Admin, "getMember", member)
            .about("One member.")
            .gives("Member"),
        Endpoint::act(Method::DELETE, "/api/v2/cluster/members/{id}", "removeMember", remove)
            .about("Removes a node. Refused where the others would have no quorum.")
            .gives("ClusterStatus"),
        Endpoint::act(Method::POST, "/api/v2/cluster/members/{id}/promote", "promoteMember", promote)
            .about("Makes a learner that has caught up a voter.")
            .takes("Nothing")
            .gives("ClusterStatus"),
        Endpoint::act(Method::POST, "/api/v2/cluster/leader/transfer", "transferLeader", transfer)
            .about("Hands leadership to a voter: to the one named, or to the best one.")
            .takes("Transfer")
            .gives("ClusterStatus"),
        Endpoint::get("/api/v2/cluster/snapshots", Access::Admin, "listSnapshots", snapshots)
            .about("Snapshots in this node's directory.")
            .gives("Snapshots"),
        Endpoint::act(Method::POST, "/api/v2/cluster/snapshots", "createSnapshot", create_snapshot)
            .about("Writes a snapshot of this node's rows into its directory.")
            .takes("Nothing")
            .makes("Snapshot"),
    ]
}

#[derive(Serialize)]
struct StatusView<'a> {
    cluster: &'a str,
    lineage: String,
    node: u64,
    role: &'static str,
    leader: Option<u64>,
    term: u64,
    reign: Option<u64>,
    last_log_index: u64,
    commit_index: u64,
    applied_index: u64,
    purged_index: u64,
    quorum_age_ms: Option<u64>,
    health: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    health_detail: &'a str,
    clock_trusted: bool,
    changing_members: bool,
    voters: usize,
    quorum: usize,
    members: Vec<MemberView<'a>>,
}

#[derive(Serialize)]
struct MemberView<'a> {
    id: u64,
    role: &'static str,
    peer: &'a str,
    http: &'a str,
    term: u64,
    last_log_index: u64,
    commit_index: u64,
    applied_index: u64,
    lag: u64,
    version: &'a str,
    feature_level: u32,
    health: &'static str,
    /// Digest at the last checkpoint, for a glance.
    digest: Option<String>,
    checkpoint: Option<CheckpointView>,
    heard_ms: Option<u64>,
}

#[derive(Serialize)]
struct CheckpointView {
    index: u64,
    digest: String,
    chain_head: String,
}

impl From<&CheckpointReport> for CheckpointView {
    fn from(report: &CheckpointReport) -> Self {
        let chain_head = report.chain_head.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { index: report.index, digest: format!("{:032x}", report.digest), chain_head }
    }
}

impl<'a> From<&'a MemberStatus> for MemberView<'a> {
    fn from(member: &'a MemberStatus) -> Self {
        let checkpoint = member.checkpoint.as_ref().map(CheckpointView::from);
        Self {
            id: member.id,
            role: role_word(member.role),
            peer: &member.peer_addr,
            http: &member.http_addr,
            term: member.term,
            last_log_index: member.last_log,
            commit_index: member.commit,
            applied_index: member.applied,
            lag: member.lag,
            version: &member.version,
            feature_level: member.feature_level,
            health: health_word(member.health),
            digest: checkpoint.as_ref().map(|checkpoint| checkpoint.digest.clone()),
            checkpoint,
            heard_ms: member.heard_ms,
        }
    }
}

impl<'a> From<&'a Status> for StatusView<'a> {
    fn from(status: &'a Status) -> Self {
        let voters = status.members.iter().filter(|member| member.role != Role::Learner).count();
        Self {
            cluster: &status.cluster,
            lineage: format!("{:032x}", status.lineage),
            node: status.node,
            role: role_word(status.role),
            leader: status.leader,
            term: status.term,
            reign: status.reign,
            last_log_index: status.last_log,
            commit_index: status.commit,
            applied_index: status.applied,
            purged_index: status.purged,
            quorum_age_ms: status.quorum_age_ms,
            health: health_word(status.health),
            health_detail: &status.health_detail,
            clock_trusted: status.clock_trusted,
            changing_members: status.changing_members,
            voters,
            quorum: voters / 2 + 1,
            members: status.members.iter().map(MemberView::from).collect(),
        }
    }
}

/// The figures of a status are read one after the other while entries pass by. What is applied is committed, and what is
/// committed is in the log: said so, no figure contradicts another.
pub fn consistent(mut status: Status) -> Status {
    status.commit = status.commit.max(status.applied);
    status.last_log = status.last_log.max(status.commit);
    for member in &mut status.members {
        member.commit = member.commit.max(member.applied);
        member.last_log = member.last_log.max(member.commit);
    }
    status
}

fn show(call: &Call) -> Reply {
    let status = call.api.status();
    Reply::json(Success::Ok, &StatusView::from(&status)).read(status.applied, None)
}

async fn status(call: Call) -> Outcome<Reply> {
    Ok(show(&call))
}

async fn members(call: Call) -> Outcome<Reply> {
    #[derive(Serialize)]
    struct View<'a> {
        leader: Option<u64>,
        members: Vec<MemberView<'a>>,
    }
    let status = call.api.status();
    let members = status.members.iter().map(MemberView::from).collect();
    Ok(Reply::json(Success::Ok, &View { leader: status.leader, members }))
}

fn node_of(call: &Call) -> Outcome<u64> {
    let text = call.param("id");
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = if is_plain { text.parse().ok() } else { None };
    id.ok_or_else(|| Problem::not_found("member", text.chars().take(80).collect::<String>()))
}

async fn member(call: Call) -> Outcome<Reply> {
    let id = node_of(&call)?;
    let status = call.api.status();
    let member = status.members.iter().find(|member| member.id == id);
    let member = member.ok_or_else(|| Problem::not_found("member", id.to_string()))?;
    Ok(Reply::json(Success::Ok, &MemberView::from(member)))
}

async fn add(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let NewMember { id, peer_addr, http_addr } = parse::<NewMember>(&body)?.checked()?;
    call.api.shop.cluster().add_learner(Member { id, peer_addr, http_addr }).await.map_err(refused)?;
    Ok(show(&call))
}

async fn promote(mut call: Call) -> Outcome<Reply> {
    let id = node_of(&call)?;
    let Nothing {} = parse_or_empty(&call.body().await?)?;
    call.api.shop.cluster().promote(id).await.map_err(refused)?;
    Ok(show(&call))
}

async fn remove(call: Call) -> Outcome<Reply> {
    let id = node_of(&call)?;
    call.api.shop.cluster().remove(id).await.map_err(refused)?;
    Ok(show(&call))
}

async fn transfer(mut call: Call) -> Outcome<Reply> {
    let Transfer { to } = parse_or_empty(&call.body().await?)?;
    call.api.shop.cluster().transfer_leader(to).await.map_err(refused)?;
    Ok(show(&call))
}

#[derive(Serialize)]
struct SnapshotView {
    name: String,
    index: u64,
    term: u64,
    bytes: u64,
}

impl From<&SnapshotInfo> for SnapshotView {
    /// A snapshot is named after the entry it stands at: `snapshot-<index>-<term>`.
    fn from(info: &SnapshotInfo) -> Self {
        let mut figures = info.name.split('-').skip(1).map(|figure| figure.parse().unwrap_or(0));
        let (index, term) = (figures.next().unwrap_or(0), figures.next().unwrap_or(0));
        Self { name: info.name.clone(), index, term, bytes: info.bytes }
    }
}

async fn snapshots(call: Call) -> Outcome<Reply> {
    #[derive(Serialize)]
    struct View {
        data: Vec<SnapshotView>,
    }
    let found = call.api.shop.cluster().snapshots().map_err(Problem::storage)?;
    Ok(Reply::json(Success::Ok, &View { data: found.iter().map(SnapshotView::from).collect() }))
}

async fn create_snapshot(mut call: Call) -> Outcome<Reply> {
    let Nothing {} = parse_or_empty(&call.body().await?)?;
    let made = call.api.shop.cluster().create_snapshot().await.map_err(Problem::storage)?;
    Ok(Reply::json(Success::Created, &SnapshotView::from(&made)))
}

const SOON: Duration = Duration::from_secs(1);

fn refused(error: MembershipError) -> Box<Problem> {
    let detail = error.to_string();
    match error {
        MembershipError::WouldLoseQuorum { .. } | MembershipError::NotAnswering(_) => {
            Problem::new(Code::WouldLoseQuorum, detail)
        }
        MembershipError::NodeIdReused(id) => {
            Problem::new(Code::NodeIdReused, detail).with(Details::Id { kind: "node", id: id.to_string() })
        }
        MembershipError::NotFound(id) => Problem::not_found("member", id.to_string()),
        MembershipError::InProgress => Problem::new(Code::ConfigChangeInProgress, detail).after(SOON),
        MembershipError::NotCaughtUp { .. } => Problem::new(Code::Syncing, detail).after(SOON),
        MembershipError::NoLeader => Problem::new(Code::NoLeader, detail).after(SOON),
        MembershipError::NoQuorum => Problem::new(Code::NoQuorum, detail).after(SOON),
        MembershipError::Unknown(_) => {
            let mut problem = Problem::new(Code::OutcomeUnknown, detail).after(SOON);
            problem.applied = Applied::Unknown;
            problem
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_is_committed_and_in_the_log_in_every_answer() {
        let status = consistent(Status { last_log: 13, commit: 13, applied: 14, ..Status::default() });
        assert_eq!((status.last_log, status.commit, status.applied), (14, 14, 14));
        let status = consistent(Status { last_log: 13, commit: 11, applied: 9, ..Status::default() });
        assert_eq!((status.last_log, status.commit, status.applied), (13, 11, 9));
    }

    #[test]
    fn a_snapshot_is_named_after_its_place() {
        let name = "snapshot-00000000000000120331-0000000003".to_owned();
        let view = SnapshotView::from(&SnapshotInfo { name, bytes: 9 });
        assert_eq!((view.index, view.term, view.bytes), (120_331, 3, 9));
        let odd = SnapshotView::from(&SnapshotInfo { name: "by hand".to_owned(), bytes: 9 });
        assert_eq!((odd.index, odd.term), (0, 0));
    }

    #[test]
    fn every_refusal_has_its_code_and_only_unknown_is_unknown() {
        for (error, code) in [
            (MembershipError::WouldLoseQuorum { live: 1, voters: 3, needed: 2 }, Code::WouldLoseQuorum),
            (MembershipError::NotAnswering(3), Code::WouldLoseQuorum),
            (MembershipError::NodeIdReused(3), Code::NodeIdReused),
            (MembershipError::NotFound(9), Code::NotFound),
            (MembershipError::InProgress, Code::ConfigChangeInProgress),
            (MembershipError::NotCaughtUp { node: 4, lag: 9, lag_max: 1 }, Code::Syncing),
            (MembershipError::NoLeader, Code::NoLeader),
            (MembershipError::NoQuorum, Code::NoQuorum),
            (MembershipError::Unknown("lost".into()), Code::OutcomeUnknown),
        ] {
            let problem = refused(error);
            assert_eq!(problem.code, code);
            assert_eq!(problem.applied == Applied::Unknown, code == Code::OutcomeUnknown);
        }
    }
}
