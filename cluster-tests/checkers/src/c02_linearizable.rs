//! C2: what clients saw of each object could have happened one operation at a time, each between its call and its
//! answer. Trusts no index that a server names; only times and answers count, versions among the answers.
//!
//! One history per object (stock of a SKU, terms of a SKU, wallet, order), each searched on its own: objects that are
//! linearizable each for itself are so together (Herlihy and Wing, locality). What is left for other checkers is what
//! holds several objects together. The order of the feed is tried first, as a proposal that proves itself or not.

use std::fmt::Debug;

use agora_history::RunData;

use crate::{
    Checked,
    c02_keys::{Keys, NOBODY, keys},
    c02_objects::{Amounts, OneOrder, OneTerms, Pool, PoolOp, TermsOp},
    report::Report,
    second,
    wgl::{Entry, Spec, Verdict, search},
    witness::explains,
};

/// Steps one object's search may take.
const STEPS_MAX: u64 = 4_000_000;

/// Operations around a failure that are named.
const NAMED_MAX: usize = 8;

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let keys = keys(data);
    let mut tally = Tally::new(data.feeds.values().any(|feed| !feed.is_empty()));
    tally.report.looked_at(keys.operations.len() as u64);
    for (op, what) in &keys.odd {
        tally.report.find(what, &[*op], None);
    }
    all_objects(&keys, &mut tally);
    for (name, value) in [
        ("objects", tally.objects as f64),
        ("explained_by_the_order_of_the_feed", tally.witnessed as f64),
        ("unknown", tally.unknown as f64),
        ("steps", tally.steps as f64),
        ("most_steps_of_an_object", tally.most_steps as f64),
        ("longest_history", tally.longest as f64),
    ] {
        tally.report.figure(name, value);
    }
    tally.report.done()
}

struct Tally {
    report: Report,
    has_feed: bool,
    objects: u64,
    /// Objects that the order of the feed explains.
    witnessed: u64,
    unknown: u64,
    steps: u64,
    most_steps: u64,
    longest: usize,
}

impl Tally {
    fn new(has_feed: bool) -> Tally {
        let report = Report::new("C2", "each object linearizable by times and answers");
        Tally { report, has_feed, objects: 0, witnessed: 0, unknown: 0, steps: 0, most_steps: 0, longest: 0 }
    }
}

fn all_objects(keys: &Keys, tally: &mut Tally) {
    let stock = Pool { first_version: 0 };
    for (sku, history) in &keys.stocks {
        pool(tally, &format!("stock of {sku}"), &stock, history);
    }
    let wallet = Pool { first_version: 1 };
    for (account, history) in &keys.wallets {
        if keys.unclear.contains(account) {
            history.iter().for_each(|_| tally.report.undecided());
            continue;
        }
        pool(tally, &format!("wallet of {account}"), &wallet, history);
    }
    for (order, history) in &keys.orders {
        object(tally, order, &OneOrder, None, history);
    }
    for (sku, history) in &keys.terms {
        let is_created = history.iter().any(|entry| matches!(entry.what, TermsOp::Create { .. } | TermsOp::Missing));
        if is_created {
            object(tally, &format!("terms of {sku}"), &OneTerms, None, history);
        }
    }
}

/// What exists before the first call was made with nothing in it; what there is in it was put there by somebody.
fn begin(spec: &Pool, history: &[Entry<PoolOp>]) -> Option<Amounts> {
    if history.iter().any(|entry| entry.what == PoolOp::Create) { None } else { Some(spec.new_one()) }
}

fn pool(tally: &mut Tally, name: &str, spec: &Pool, history: &[Entry<PoolOp>]) {
    if let Err((what, ops)) = versions_agree(history) {
        tally.objects += 1;
        tally.report.find(format!("{name}: {what}"), &ops, None);
        return;
    }
    object(tally, name, spec, begin(spec, history), history);
}

fn object<S: Spec>(tally: &mut Tally, name: &str, spec: &S, initial: S::State, history: &[Entry<S::Op>])
where
    S::State: Debug,
    S::Op: Debug,
{
    tally.objects += 1;
    tally.unknown += history.iter().filter(|entry| entry.returned.is_none()).count() as u64;
    tally.longest = tally.longest.max(history.len());
    if explains(spec, &initial, history) {
        tally.witnessed += 1;
        return;
    }
    let searched = search(spec, initial, history, STEPS_MAX);
    tally.steps += searched.steps;
    tally.most_steps = tally.most_steps.max(searched.steps);
    match searched.verdict {
        Verdict::Explained => {}
        Verdict::Undecided => {
            history.iter().for_each(|_| tally.report.undecided());
            if tally.has_feed {
                // Nobody can say that there is no order; but the one that the shop names is none, and that it must be.
                let what = format!("{name}: the order of the feed does not explain the answers, nor does any found");
                tally.report.find(what, &[], None);
            }
        }
        Verdict::Impossible { entry, state } => {
            let failed = &history[entry];
            let end = failed.returned.unwrap_or(failed.invoked);
            let mut beside: Vec<&Entry<S::Op>> = history
                .iter()
                .filter(|other| other.invoked <= end && other.returned.is_none_or(|at| at >= failed.invoked))
                .filter(|other| other.op != failed.op && other.op != NOBODY && other.returned.is_some())
                .collect();
            beside.sort_by_key(|other| other.invoked);
            let ops: Vec<u64> = [failed.op]
                .into_iter()
                .chain(beside.iter().map(|other| other.op))
                .filter(|op| *op != NOBODY)
                .take(NAMED_MAX)
                .collect();
            let who = if failed.op == NOBODY { "the last read".to_owned() } else { format!("operation {}", failed.op) };
            let what = format!(
                "{name}: no order of operations explains {who}, {:?}, between {} and {end} us; one that explains all \
                before it leads to {state:?}; {} more were under way",
                failed.what,
                failed.invoked,
                beside.len()
            );
            tally.report.find(what, &ops, None);
        }
    }
}

/// What versions alone refuse, told better than a search can tell it: one version is one state, no version is shown
/// after a later one was answered, and a version counts the changes.
fn versions_agree(history: &[Entry<PoolOp>]) -> Result<(), (String, Vec<u64>)> {
    let mut shown: Vec<(&Entry<PoolOp>, &Amounts)> = history
        .iter()
        .filter_map(|entry| match &entry.what {
            PoolOp::Shows(amounts) | PoolOp::Wrote(_, amounts) => Some((entry, amounts)),
            _ => None,
        })
        .collect();
    let ops = |some: &[&Entry<PoolOp>]| -> Vec<u64> {
        some.iter().map(|entry| entry.op).filter(|op| *op != NOBODY).collect()
    };
    shown.sort_by_key(|(entry, amounts)| (amounts.version, entry.invoked));
    for pair in shown.windows(2) {
        let ((one, first), (other, second)) = (pair[0], pair[1]);
        let both_wrote = matches!((&one.what, &other.what), (PoolOp::Wrote(..), PoolOp::Wrote(..)));
        if first.version == second.version && (first != second || both_wrote) {
            let what = format!("version {} is answered as {first:?} and as {second:?}", first.version);
            return Err((what, ops(&[one, other])));
        }
    }
    let mut returned: Vec<(u64, u64, &Entry<PoolOp>)> =
        shown.iter().filter_map(|(entry, amounts)| Some((entry.returned?, amounts.version, *entry))).collect();
    returned.sort_by_key(|(at, ..)| *at);
    shown.sort_by_key(|(entry, _)| entry.invoked);
    let mut behind = returned.iter().peekable();
    let mut newest: Option<(u64, &Entry<PoolOp>)> = None;
    for (entry, amounts) in &shown {
        while let Some((_, version, known)) = behind.next_if(|(at, ..)| *at < entry.invoked) {
            if newest.is_none_or(|(newest, _)| newest < *version) {
                newest = Some((*version, known));
            }
        }
        if let Some((version, known)) = newest.filter(|(version, _)| *version > amounts.version) {
            let what =
                format!("{amounts:?} is a state of the past: version {version} was answered before it was asked for");
            return Err((what, ops(&[entry, known])));
        }
    }
    Ok(())
}

/// What a second opinion says of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opinions {
    /// Objects on which both were sure.
    pub compared: u64,
    /// Of these, on which they differed.
    pub differ: u64,
    /// Objects the second could not decide within its bound.
    pub unsure: u64,
}

/// Asks a second, plain implementation about every object of a run, with so many steps for each.
pub fn second_opinion(data: &RunData, steps_max: u64) -> Opinions {
    let keys = keys(data);
    let mut opinions = Opinions::default();
    let (stock, wallet) = (Pool { first_version: 0 }, Pool { first_version: 1 });
    for history in keys.stocks.values() {
        compare(&mut opinions, &stock, begin(&stock, history), history, steps_max);
    }
    for history in keys.wallets.values() {
        compare(&mut opinions, &wallet, begin(&wallet, history), history, steps_max);
    }
    for history in keys.orders.values() {
        compare(&mut opinions, &OneOrder, None, history, steps_max);
    }
    for history in keys.terms.values() {
        compare(&mut opinions, &OneTerms, None, history, steps_max);
    }
    opinions
}

fn compare<S: Spec>(opinions: &mut Opinions, spec: &S, initial: S::State, history: &[Entry<S::Op>], steps_max: u64) {
    let first = match search(spec, initial.clone(), history, STEPS_MAX).verdict {
        Verdict::Explained => true,
        Verdict::Impossible { .. } => false,
        Verdict::Undecided => {
            opinions.unsure += 1;
            return;
        }
    };
    match second::is_linearizable(spec, initial, history, steps_max) {
        Some(second) => {
            opinions.compared += 1;
            opinions.differ += u64::from(first != second);
        }
        None => opinions.unsure += 1,
    }
}
