//! C12: nothing goes wrong inside the nodes, and nobody is sent away for nothing.
//!
//! - A node never answers that it met a fault of its own (`INTERNAL`): that is what a decision is answered with that apply
//!   had to refuse. A node whose disk fails, is spoiled or loses its power may say so, and only that one; if it led, the
//!   others pass on what it answers to writes. What was spoiled at rest may be read, and found, at any time afterwards.
//! - In a run in which nothing is broken and no operator acts, every write is in the end answered with yes or no.

use std::collections::BTreeMap;

use agora_history::{Call, Fault, NodeId, Op, Reply, Role, RunData, Target};

use crate::{Checked, report::Report};

/// Attacks on disks.
const ON_DISKS: [&str; 5] = ["N6", "N7", "N8", "N10", "N16"];
/// What a node's disk leads to may be answered so much later, in microseconds.
const LATER_US: u64 = 5_000_000;

/// A follower may lead so long after it was seen to follow, in microseconds.
const ELECTED_US: u64 = 300_000;

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C12", "no fault of the machine's own, and in calm nobody is sent away");
    let operators = data.run.settings.iter().any(|(name, value)| name.starts_with("load") && value.starts_with("W8"));
    for call in &data.calls {
        report.looked_at(1);
        let (status, code) = match &call.reply {
            Reply::NotDone { status, code } => (*status, code.as_str()),
            Reply::Unknown { status: Some(status), why } => (*status, why.as_str()),
            _ => continue,
        };
        let of_disk = || data.faults.iter().any(|fault| explains(fault, call, &data.faults));
        if (status == 500 || code.contains("INTERNAL")) && !of_disk() {
            let what = format!("{} was answered {status} {code} by node {}", brief(&call.request), call.node);
            report.find(what, &[call.op], call.index);
        }
    }
    if data.faults.is_empty() && !operators {
        all_answered(&mut report, &data.calls);
    }
    report.done()
}

/// Every write got an answer, if not at first.
fn all_answered(report: &mut Report, calls: &[Call]) {
    let mut writes: BTreeMap<u64, (bool, &Call)> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.request.is_write()) {
        let answered = match &call.reply {
            Reply::Yes { .. } | Reply::Refused { .. } => true,
            Reply::NotDone { status, .. } => *status < 500,
            Reply::Unknown { .. } => false,
        };
        let entry = writes.entry(call.op).or_insert((answered, call));
        *entry = (entry.0 || answered, call);
    }
    for (op, (_, last)) in writes.into_iter().filter(|(_, (answered, _))| !answered) {
        let what = format!("{} got no answer while nothing was broken: {:?}", brief(&last.request), last.reply);
        report.find(what, &[op], None);
    }
}

/// Whether a disk that was hurt explains that this node met a fault of its own.
fn explains(fault: &Fault, call: &Call, faults: &[Fault]) -> bool {
    let is_meanwhile = |fault: &Fault| {
        let ends = match rots(fault) {
            true => u64::MAX,
            false => fault.until.unwrap_or(u64::MAX).saturating_add(LATER_US),
        };
        fault.from <= call.returned && call.invoked <= ends
    };
    // Who led is noted with faults alone. A node that no fault since has met may have been elected unnoticed.
    let led = |node: NodeId| {
        let known = faults.iter().filter(|fault| fault.from <= call.returned).flat_map(|fault| {
            fault.targets.iter().filter(|target| target.node == node).map(|target| (fault.from, target.role))
        });
        known
            .max_by_key(|(from, _)| *from)
            .is_none_or(|(from, role)| role == Role::Leader || call.returned.saturating_sub(from) > ELECTED_US)
    };
    let has_hurt = |target: &Target| target.node == call.node || (call.request.is_write() && led(target.node));
    is_on_disk(fault) && is_meanwhile(fault) && fault.targets.iter().any(has_hurt)
}

/// Whether it spoils what lies on a disk, alone or among others.
fn rots(fault: &Fault) -> bool {
    fault.is_of("N10")
}

/// An attack on a disk, or several at once with one among them.
fn is_on_disk(fault: &Fault) -> bool {
    ON_DISKS.iter().any(|nemesis| fault.is_of(nemesis))
}

fn brief(op: &Op) -> String {
    let text = format!("{op:?}");
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(op: u64, reply: Reply) -> Call {
        let request = Op::AdjustWallet { account: "usr_1".to_owned(), amount: 1 };
        Call {
            op,
            attempt: 0,
            client: 1,
            node: 1,
            invoked: 1_000_000,
            returned: 1_100_000,
            key: Some(format!("key-{op}")),
            trace: format!("{op:032x}"),
            level: None,
            min_index: None,
            request,
            reply,
            index: None,
            staleness_ms: None,
            replayed: false,
            body_hash: None,
        }
    }

    fn fault(nemesis: &str) -> Fault {
        let (kind, detail) = (String::new(), String::new());
        let until = Some(1_050_000);
        let targets = vec![Target { node: 1, role: Role::Follower }];
        Fault { nemesis: nemesis.to_owned(), kind, from: 0, until, targets, in_flight: 0, detail }
    }

    fn not_done(status: u16, code: &str) -> Reply {
        Reply::NotDone { status, code: code.to_owned() }
    }

    #[track_caller]
    fn finds(calls: Vec<Call>, faults: Vec<Fault>, count: usize) {
        let found = check(&RunData { calls, faults, ..RunData::default() }).findings;
        assert_eq!(found.len(), count, "{found:?}");
    }

    #[test]
    fn a_fault_of_its_own_is_never_an_answer() {
        finds(vec![call(1, not_done(500, "INTERNAL")), call(1, not_done(422, "X"))], Vec::new(), 1);
        finds(vec![call(1, not_done(500, "INTERNAL"))], vec![fault("N8")], 0);
        finds(vec![call(1, not_done(500, "INTERNAL"))], vec![fault("N1")], 1);
    }

    /// The call was answered by node 1.
    fn of(nemesis: &str, kind: &str, node: NodeId, role: Role) -> Vec<Fault> {
        // So shortly before the call that the role is still true.
        vec![Fault { kind: kind.to_owned(), targets: vec![Target { node, role }], from: 900_000, ..fault(nemesis) }]
    }

    #[test]
    fn a_hurt_disk_excuses_its_own_node_and_what_others_pass_on_of_it() {
        let write = || vec![call(1, not_done(500, "INTERNAL"))];
        let read = || vec![Call { request: Op::ReadLedger, ..call(1, not_done(500, "INTERNAL")) }];
        finds(write(), of("N8", "", 1, Role::Follower), 0);
        finds(write(), of("N8", "", 2, Role::Follower), 1);
        finds(write(), of("N8", "", 2, Role::Leader), 0);
        let elected_since = vec![Fault { from: 100_000, ..of("N8", "", 2, Role::Follower).remove(0) }];
        finds(write(), elected_since, 0);
        let long_ago = |nemesis| vec![Fault { from: 0, until: Some(1), ..of(nemesis, "", 1, Role::Leader).remove(0) }];
        let late = || vec![Call { invoked: 60_000_000, returned: 60_100_000, ..write().remove(0) }];
        finds(late(), long_ago("N8"), 1);
        finds(late(), long_ago("N10"), 0);
        finds(read(), of("N8", "", 1, Role::Follower), 0);
        finds(read(), of("N8", "", 2, Role::Leader), 1);
        finds(write(), of("N18", "N1 leader isolated + N8 disk full", 1, Role::Leader), 0);
        finds(write(), of("N18", "N1 leader isolated + N4 paused", 1, Role::Leader), 1);
    }

    #[test]
    fn an_attack_is_known_among_several() {
        let both = of("N18", "N6 power loss of all + N15 clock jumps", 1, Role::Leader).remove(0);
        assert!(["N18", "N6", "N15"].iter().all(|nemesis| both.is_of(nemesis)));
        assert!(!both.is_of("N1") && !of("N1", "N6 is not meant", 1, Role::Leader)[0].is_of("N6"));
    }

    #[test]
    fn in_calm_every_write_is_answered_in_the_end() {
        let no = || not_done(503, "OVERLOADED");
        finds(vec![call(1, no()), call(1, not_done(409, "X"))], Vec::new(), 0);
        finds(vec![call(1, no()), call(2, Reply::Unknown { status: None, why: String::new() })], Vec::new(), 2);
        finds(vec![call(1, no())], vec![fault("N1")], 0);
    }
}
