//! From attempts to operations: what a client wanted, from its first try to its last, and what is known of it.

use std::collections::BTreeMap;

use crate::calls::{Call, Micros, Op, Reply};

/// How an operation ended, over all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Some attempt was answered yes.
    Yes,
    /// Some attempt was refused by a rule.
    Refused,
    /// Every attempt was a definite no: it did not happen.
    NotDone,
    /// It may have happened at any time from its invocation on.
    Unknown,
}

/// One intention of a client.
#[derive(Clone, Debug)]
pub struct Operation<'a> {
    pub op: u64,
    pub client: u32,
    /// When the first attempt was sent.
    pub invoked: Micros,
    /// When it was known how it ended; `None` if it never was.
    pub returned: Option<Micros>,
    pub outcome: Outcome,
    pub request: &'a Op,
    /// The attempt whose answer decided it.
    pub decisive: Option<&'a Call>,
    /// All of them, in order.
    pub attempts: Vec<&'a Call>,
}

/// Groups calls by operation, in the order of their invocation. Attempts with another body than the first (which a test
/// of idempotency sends on purpose) are operations of their own and have an `op` of their own.
pub fn operations(calls: &[Call]) -> Vec<Operation<'_>> {
    let mut by_op: BTreeMap<u64, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        by_op.entry(call.op).or_default().push(call);
    }
    let mut all: Vec<_> = by_op
        .into_iter()
        .map(|(op, mut attempts)| {
            attempts.sort_by_key(|call| (call.invoked, call.attempt));
            fold(op, attempts)
        })
        .collect();
    all.sort_by_key(|operation| (operation.invoked, operation.op));
    all
}

fn fold(op: u64, attempts: Vec<&Call>) -> Operation<'_> {
    let first = attempts[0];
    let said = |wanted: fn(&Reply) -> bool| attempts.iter().copied().find(|call| wanted(&call.reply));
    let yes = said(|reply| matches!(reply, Reply::Yes { .. }));
    let refused = said(|reply| matches!(reply, Reply::Refused { .. }));
    let unknown = said(|reply| matches!(reply, Reply::Unknown { .. }));
    let (outcome, decisive) = match (yes, refused, unknown) {
        (Some(call), _, _) => (Outcome::Yes, Some(call)),
        (None, Some(call), _) => (Outcome::Refused, Some(call)),
        (None, None, Some(_)) => (Outcome::Unknown, None),
        (None, None, None) => (Outcome::NotDone, attempts.last().copied()),
    };
    Operation {
        op,
        client: first.client,
        invoked: first.invoked,
        returned: decisive.map(|call| call.returned),
        outcome,
        request: &first.request,
        decisive,
        attempts,
    }
}
