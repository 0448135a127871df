//! Histories that are known to be wrong: each breaks one promise in one place, and the checkers that keep that promise
//! must say so. The histories are true ones with one lie.

use agora_checkers::{
    Checked, Checker, c01_model, c04_conservation, c05_acknowledged, c06_one_effect, c07_transitions, c09_digest,
    testing::{Plan, each_feed, perfect_run},
};
use agora_history::{Answer, Call, FeedEvent, Item, Level, Op, Order, Outcome, Refusal, Reply, RunData, operations};
use serde_json::{Value, json};

mod answers;
mod conservation;
mod effects;
mod feed;
mod orders;
mod refusals;
mod time;

const CHECKERS: [(&str, Checker); 6] = [
    ("C1", c01_model::check),
    ("C4", c04_conservation::check),
    ("C5", c05_acknowledged::check),
    ("C6", c06_one_effect::check),
    ("C7", c07_transitions::check),
    ("C9", c09_digest::check),
];

fn verdict(name: &str, data: &RunData) -> Checked {
    let (_, checker) = CHECKERS.iter().find(|(known, _)| *known == name).expect("a checker");
    checker(data)
}

/// Breaks a true history, and expects all of `checkers` to reject it.
#[track_caller]
fn caught_by(checkers: &[&str], lie: impl Fn(&mut RunData) -> Option<()>) {
    let mut data = perfect_run(&Plan { operations: 1_500, ..Plan::default() });
    let truth = data.clone();
    lie(&mut data).expect("the history has what is to be broken");
    let is_true = (&data.calls, &data.feeds, &data.finals) == (&truth.calls, &truth.feeds, &truth.finals);
    assert!(!is_true, "the lie changed nothing");
    for name in checkers {
        let checked = verdict(name, &data);
        assert!(!checked.findings.is_empty(), "{name} found nothing: {checked:#?}");
    }
}

/// Calls whose write was acknowledged and took effect.
fn acknowledged(data: &RunData) -> impl Iterator<Item = (usize, &Call)> {
    let happened = |call: &Call| data.feeds[&1].iter().any(|event| event.trace_id == call.trace);
    data.calls
        .iter()
        .enumerate()
        .filter(move |(_, call)| call.key.is_some() && matches!(call.reply, Reply::Yes { .. }) && happened(call))
}

fn first(data: &RunData, wanted: impl Fn(&Call) -> bool) -> Option<(usize, Call)> {
    // Not the very first ones: a history in full swing is harder to judge.
    let (at, call) = acknowledged(data).filter(|(_, call)| wanted(call)).nth(3)?;
    Some((at, call.clone()))
}

fn is_place(call: &Call) -> bool {
    matches!(call.request, Op::Place(_))
}

fn order_of(reply: &mut Reply) -> Option<&mut Order> {
    match reply {
        Reply::Yes { answer: Answer::Order(order), .. } => Some(order),
        _ => None,
    }
}

fn refusal(reply: &Reply, code: &str) -> Option<Refusal> {
    match reply {
        Reply::Refused { refusal, .. } if refusal.code == code => Some(refusal.clone()),
        _ => None,
    }
}

/// Changes a refusal with that code, somewhere in the middle.
fn change_refusal(data: &mut RunData, code: &str, change: impl Fn(&mut Refusal) -> bool) -> Option<()> {
    for call in data.calls.iter_mut().skip(150) {
        if let Reply::Refused { refusal, .. } = &mut call.reply
            && refusal.code == code
            && change(refusal)
        {
            return Some(());
        }
    }
    None
}

/// Every entry begins with sub 1 and has no gap.
fn renumber(feed: &mut [FeedEvent]) {
    let (mut index, mut sub) = (0, 0);
    for event in feed {
        sub = if event.index == index { sub + 1 } else { 1 };
        (index, event.sub) = (event.index, sub);
    }
}

/// The n-th event of a kind, in every feed.
fn change_event(data: &mut RunData, kind: &str, nth: usize, change: impl Fn(&mut FeedEvent)) -> Option<()> {
    let mut found = None;
    each_feed(data, |feed| {
        let event = feed.iter_mut().filter(|event| event.kind == kind).nth(nth);
        found = event.map(&change);
    });
    found
}

fn remove_event(data: &mut RunData, kind: &str, nth: usize) -> Option<()> {
    let mut found = None;
    each_feed(data, |feed| {
        let at = feed.iter().enumerate().filter(|(_, event)| event.kind == kind).nth(nth).map(|(at, _)| at);
        found = at.map(|at| {
            feed.remove(at);
            renumber(feed);
        });
    });
    found
}

/// The events of a request once more, right behind (`None`) or in an entry at the end.
fn repeat(data: &mut RunData, trace: &str, at_the_end: bool) {
    each_feed(data, |feed| {
        let from = feed.iter().position(|event| event.trace_id == trace).expect("its events");
        let mut again: Vec<FeedEvent> = feed.iter().filter(|event| event.trace_id == trace).cloned().collect();
        let last = feed.last().cloned().expect("events");
        let to = from + again.len();
        if at_the_end {
            for event in &mut again {
                (event.index, event.time) = (last.index + 1, last.time.clone());
                event.prev_hash = "ab".repeat(32);
            }
            feed.extend(again);
        } else {
            feed.splice(to..to, again);
        }
        renumber(feed);
    });
}
