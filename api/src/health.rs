//! Health probes, the only endpoints that are open. They tell how the node is and nothing about the shop.
//!
//! `livez`: the process answers. `readyz`: it can serve requests now. `healthz`: the same as figures, always with 200.

use std::time::Duration;

use agora_raft::{Health, MemberStatus, Role, Status};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    auth::Access,
    endpoint::{Call, Endpoint},
    problem::{Code, Details, Outcome, Problem, Success},
    reply::Reply,
};

/// Entries a node may be behind and still be ready.
const LAG_ENTRIES_MAX: u64 = 10_000;
/// A voter that was not heard for so long does not count, in milliseconds.
const SILENCE_MS_MAX: u64 = 2_000;

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/livez", Access::Open, "livez", live).about("The process answers.").gives("Alive"),
        Endpoint::get("/readyz", Access::Open, "readyz", ready)
            .about("The node can serve requests now; 503 with reasons if not.")
            .gives("Alive"),
        Endpoint::get("/healthz", Access::Open, "healthz", health)
            .about("How the node is, in figures.")
            .reads(&["verbose"])
            .gives("Healthz"),
    ]
}

#[derive(Serialize)]
struct Alive {
    status: &'static str,
}

async fn live(_call: Call) -> Outcome<Reply> {
    Ok(Reply::json(Success::Ok, &Alive { status: "ok" }))
}

async fn ready(call: Call) -> Outcome<Reply> {
    let (code, reasons) = why_not(&call.api.status(), call.api.shop.cluster().serves_from());
    if reasons.is_empty() {
        return Ok(Reply::json(Success::Ok, &Alive { status: "ready" }));
    }
    let problem = Problem::new(code, format!("not ready: {}", reasons.join(", ")));
    Err(problem.with(Details::Reasons { reasons }).after(Duration::from_secs(1)))
}

/// Why a node cannot serve now; empty when it can. `serves_from`: rows that are being made again are not served before.
fn why_not(status: &Status, serves_from: Option<u64>) -> (Code, Vec<String>) {
    let mut code = Code::Syncing;
    let mut reasons = Vec::new();
    if status.leader.is_none() {
        code = Code::NoLeader;
        reasons.push("no leader is known".to_owned());
    }
    let is_heard = |member: &&MemberStatus| {
        member.id == status.node || member.heard_ms.is_some_and(|heard_ms| heard_ms <= SILENCE_MS_MAX)
    };
    let voters = || status.members.iter().filter(|member| member.role != Role::Learner);
    let (all, heard) = (voters().count(), voters().filter(is_heard).count());
    if heard < all / 2 + 1 {
        code = Code::NoQuorum;
        reasons.push(format!("{heard} of {all} voters are heard, {} are needed", all / 2 + 1));
    }
    let lag = status.commit.saturating_sub(status.applied);
    if lag > LAG_ENTRIES_MAX {
        reasons.push(format!("{lag} entries behind, at most {LAG_ENTRIES_MAX}"));
    }
    if status.health != Health::Ok {
        let detail = if status.health_detail.is_empty() { "no detail" } else { &status.health_detail };
        reasons.push(format!("{}: {detail}", health_word(status.health)));
    }
    if status.members.iter().all(|member| member.id != status.node) {
        reasons.push("not a member of the cluster".to_owned());
    }
    if let Some(needed) = serves_from {
        reasons.push(format!("the rows are being made again up to index {needed}"));
    }
    (code, reasons)
}

/// As the API writes it.
pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Stalled => "stalled",
        Health::ClockOff => "clock_off",
        Health::Diverged => "diverged",
        Health::HandingOver => "handing_over",
        Health::Unreachable => "unreachable",
        Health::Damaged => "damaged",
    }
}

/// As the API writes it.
pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
    }
}

async fn health(call: Call) -> Outcome<Reply> {
    let status = call.api.status();
    let (_, reasons) = why_not(&status, call.api.shop.cluster().serves_from());
    let mut body = json!({
        "status": if reasons.is_empty() { "ok" } else { "degraded" },
        "node": status.node,
        "role": role_word(status.role),
        "leader": status.leader,
        "health": health_word(status.health),
        "reasons": reasons,
    });
    if call.query()?.get("verbose").is_some()
        && let Some(fields) = body.as_object_mut()
    {
        for (name, value) in [
            ("term", json!(status.term)),
            ("last_log_index", json!(status.last_log)),
            ("commit_index", json!(status.commit)),
            ("applied_index", json!(status.applied)),
            ("clock_trusted", json!(status.clock_trusted)),
            ("quorum_age_ms", status.quorum_age_ms.map_or(Value::Null, Value::from)),
        ] {
            fields.insert(name.to_owned(), value);
        }
    }
    Ok(Reply::json(Success::Ok, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Status {
        let member = MemberStatus {
            id: 1,
            role: Role::Leader,
            peer_addr: String::new(),
            http_addr: String::new(),
            term: 1,
            last_log: 5,
            commit: 5,
            applied: 5,
            lag: 0,
            version: String::new(),
            feature_level: 1,
            health: Health::Ok,
            checkpoint: None,
            heard_ms: Some(0),
        };
        Status { node: 1, leader: Some(1), commit: 5, applied: 5, members: vec![member], ..Status::default() }
    }

    #[test]
    fn a_node_is_ready_when_it_has_a_leader_is_a_member_well_and_near_the_end() {
        assert_eq!(why_not(&good(), None).1, Vec::<String>::new());
        let reasons = |spoil: fn(&mut Status)| {
            let mut status = good();
            spoil(&mut status);
            why_not(&status, None).1
        };
        assert_eq!(reasons(|status| status.leader = None), ["no leader is known"]);
        assert_eq!(reasons(|status| status.commit = 20_000), ["19995 entries behind, at most 10000"]);
        assert_eq!(reasons(|status| status.health = Health::ClockOff), ["clock_off: no detail"]);
        assert_eq!(
            reasons(|status| status.members.clear()),
            ["0 of 0 voters are heard, 1 are needed", "not a member of the cluster"]
        );
        assert_eq!(why_not(&good(), Some(9)).1, ["the rows are being made again up to index 9"]);
        let silent = reasons(|status| {
            for (id, heard_ms) in [(2, Some(2_001)), (3, None)] {
                let member = MemberStatus { id, role: Role::Follower, heard_ms, ..status.members[0].clone() };
                status.members.push(member);
            }
        });
        assert_eq!(silent, ["1 of 3 voters are heard, 2 are needed"]);
    }
}
