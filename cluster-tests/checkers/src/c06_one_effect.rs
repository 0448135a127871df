//! C6: one key, one effect, one answer.
//!
//! All definite answers under a key are those of one request, and equal to the byte and the index. A request that comes
//! with a key that another one has is not decided and leaves nothing. The feed tells of at most one request per key,
//! and of each once: its events stand together. And a key is only called another's, or busy, when somebody else used it;
//! and an answer is only called an old one when an earlier request may have been applied: one that was told *not applied*
//! was not.

use std::collections::{BTreeMap, HashMap, HashSet};

use agora_history::{Call, FeedEvent, Reply, RunData};

use crate::{Checked, report::Report, words::longest_feed};

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C6", "one key has one effect and one answer");
    let effects = effects(longest_feed(data), &mut report);
    let mut keys: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in data.calls.iter().filter(|call| call.request.is_write()) {
        match &call.key {
            Some(key) => keys.entry(key).or_default().push(call),
            None => report.find("a write without a key", &[call.op], call.index),
        }
    }
    report.looked_at(keys.len() as u64);
    let mut reused = 0u64;
    for (key, calls) in &keys {
        reused += u64::from(calls.iter().any(|call| call.trace != calls[0].trace));
        one_answer(key, calls, &mut report);
        one_effect(key, calls, &effects, &mut report);
        somebody_else(key, calls, &mut report);
        no_was_no(key, calls, &mut report);
    }
    report.figure("keys_with_several_requests", reused as f64);
    report.figure("replayed_answers", data.calls.iter().filter(|call| call.replayed).count() as f64);
    report.done()
}

/// Trace ids that have an effect. Events of one request that do not stand together are two effects.
fn effects<'a>(feed: &'a [FeedEvent], report: &mut Report) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    let mut last = (0, "");
    for event in feed.iter().filter(|event| event.trace_id.bytes().any(|digit| digit != b'0')) {
        let this = (event.index, event.trace_id.as_str());
        if this != last && !seen.insert(this.1) {
            report.find(format!("the request of trace {} took effect twice", this.1), &[], Some(event.index));
        }
        last = this;
    }
    seen
}

fn is_definite(call: &Call) -> bool {
    matches!(call.reply, Reply::Yes { .. } | Reply::Refused { .. })
}

fn one_answer(key: &str, calls: &[&Call], report: &mut Report) {
    let mut definite = calls.iter().filter(|call| is_definite(call));
    let Some(first) = definite.next() else { return };
    for other in definite {
        let differs = if other.request != first.request {
            "were given to different requests"
        } else if other.index != first.index {
            "name different entries"
        } else if other.body_hash != first.body_hash || other.reply != first.reply {
            "differ"
        } else {
            continue;
        };
        let what = format!("answers under the key {key} {differs}: {:?}, {:?}", first.reply, other.reply);
        report.find(what, &[first.op, other.op], other.index);
    }
}

fn one_effect(key: &str, calls: &[&Call], effects: &HashSet<&str>, report: &mut Report) {
    let mut traces: HashMap<&str, &Call> = HashMap::new();
    let mut in_order: Vec<&Call> = Vec::new();
    for call in calls {
        if traces.insert(call.trace.as_str(), call).is_none() {
            in_order.push(call);
        }
    }
    let decided = calls.iter().find(|call| is_definite(call));
    let effective: Vec<&&Call> = in_order.iter().filter(|call| effects.contains(call.trace.as_str())).collect();
    let ops = || effective.iter().map(|call| call.op).collect::<Vec<u64>>();
    if effective.len() > 1 {
        report.find(format!("{} requests under the key {key} took effect", effective.len()), &ops(), None);
    }
    if let (Some(decided), Some(other)) = (decided, effective.first())
        && decided.trace != other.trace
        && decided.request != other.request
    {
        let what = format!("the key {key} belongs to {:?}, and {:?} took effect", decided.request, other.request);
        report.find(what, &[decided.op, other.op], decided.index);
    }
}

/// An answer that was given before was given to somebody: to a request that is still on its way, or whose answer was lost,
/// or who heard it. If all that came before was told that it was not applied, one of them was lied to.
fn no_was_no(key: &str, calls: &[&Call], report: &mut Report) {
    for call in calls.iter().filter(|call| call.replayed && is_definite(call)) {
        let mut before = calls
            .iter()
            .filter(|other| (other.op, other.attempt) != (call.op, call.attempt) && other.invoked < call.returned);
        let was_told_no = |other: &&Call| {
            other.returned <= call.invoked && matches!(other.reply, Reply::NotDone { status: 500..=599, .. })
        };
        if before.all(was_told_no) {
            let what =
                format!("the key {key} is answered anew, and nobody before was told but that it was not applied");
            report.find(what, &[call.op], call.index);
        }
    }
}

/// Who is told that the key is another's, or that its first request still runs, is not the first to use it.
fn somebody_else(key: &str, calls: &[&Call], report: &mut Report) {
    for call in calls {
        let Reply::NotDone { code, .. } = &call.reply else { continue };
        let before =
            |other: &&&Call| other.invoked < call.returned && (other.op, other.attempt) != (call.op, call.attempt);
        let others = || calls.iter().filter(before);
        let is_true = match code.as_str() {
            "IDEMPOTENCY_KEY_REUSED" => others().any(|other| other.request != call.request),
            "IDEMPOTENCY_IN_FLIGHT" => others().next().is_some(),
            _ => true,
        };
        if !is_true {
            report.find(format!("{code} for the key {key}, which nobody else had used"), &[call.op], None);
        }
    }
}

#[cfg(test)]
mod tests {
    use agora_history::{Answer, Op};

    use super::*;

    fn call(attempt: u32, invoked: u64, reply: Reply, replayed: bool) -> Call {
        Call {
            op: 1,
            attempt,
            client: 1,
            node: 1,
            invoked,
            returned: invoked + 10,
            key: Some("key".to_owned()),
            trace: format!("{:032x}", 1),
            level: None,
            min_index: None,
            request: Op::CreateAccount { name: "a".to_owned() },
            reply,
            index: Some(7),
            staleness_ms: None,
            replayed,
            body_hash: Some(1),
        }
    }

    #[test]
    fn an_answer_given_before_was_given_to_somebody() {
        let yes = || Reply::Yes { status: 201, answer: Answer::Orders(Vec::new()) };
        let no = || Reply::NotDone { status: 503, code: "NO_LEADER".to_owned() };
        let lost = || Reply::Unknown { status: None, why: "lost".to_owned() };
        let finds = |calls: Vec<Call>| check(&RunData { calls, ..RunData::default() }).findings.len();
        assert_eq!(finds(vec![call(0, 0, no(), false), call(1, 20, yes(), true)]), 1, "the no was a lie");
        assert_eq!(finds(vec![call(0, 0, yes(), true)]), 1, "nobody had asked");
        assert_eq!(finds(vec![call(0, 0, no(), false), call(1, 20, yes(), false)]), 0);
        assert_eq!(finds(vec![call(0, 0, lost(), false), call(1, 20, yes(), true)]), 0);
        assert_eq!(finds(vec![call(0, 0, no(), false), call(1, 5, yes(), true)]), 0, "the first may still be running");
    }
}
