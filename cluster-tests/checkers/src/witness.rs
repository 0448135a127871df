//! Does one given order of the writes explain all answers?
//!
//! A search for an order is hard, to check one that is given is not. Who names it (the feed) need not be trusted: if it
//! fits all calls and answers, then there is such an order, which is all that was asked. If it does not, nothing is said.
//!
//! The order of the writes is given, and each gets the earliest and the latest time it can have. What changes nothing
//! goes into the latest gap between two writes in which it is true and for which its time suffices, those answered last
//! first; so none stands in the way of one that was answered before it was asked. Then the whole is played once more,
//! from the beginning.

use std::collections::HashSet;

use agora_history::Micros;

use crate::wgl::{Entry, Nature, Spec};

/// States that are kept side by side where a write may have done one of several things. Of more, the first ones are
/// kept: a write's ways stand in the order in which they are proposed.
const STATES_MAX: usize = 1_024;

/// Whether the writes, in the order of their places, explain all answers together with what changes nothing.
pub fn explains<S: Spec>(spec: &S, initial: &S::State, history: &[Entry<S::Op>]) -> bool {
    lay_out(spec, initial, history).is_some_and(|order| plays(spec, initial, history, &order))
}

fn end<Op>(entry: &Entry<Op>) -> Micros {
    entry.returned.unwrap_or(Micros::MAX)
}

fn step_all<S: Spec>(spec: &S, states: &[S::State], op: &S::Op) -> Vec<S::State> {
    let (mut all, mut known, mut next) = (Vec::new(), HashSet::new(), Vec::new());
    for state in states {
        spec.step(state, op, &mut next);
        for state in next.drain(..) {
            if known.insert(state.clone()) {
                all.push(state);
            }
        }
        if all.len() >= STATES_MAX {
            break;
        }
    }
    all
}

/// The entries in an order that may do; `None` if there is none with these places.
fn lay_out<S: Spec>(spec: &S, initial: &S::State, history: &[Entry<S::Op>]) -> Option<Vec<usize>> {
    let (mut writes, mut floating) = (Vec::new(), Vec::new());
    for (index, entry) in history.iter().enumerate() {
        let reads = spec.nature(&entry.what) == Nature::Reads;
        match (reads, entry.place, entry.returned) {
            (false, Some(place), _) => writes.push((place, index)),
            (_, _, Some(returned)) => floating.push((returned, index)),
            // It never took effect.
            _ => {}
        }
    }
    writes.sort_unstable();
    let writes: Vec<usize> = writes.into_iter().map(|(_, index)| index).collect();
    // Gap 0 is before the first write, gap n behind the n-th.
    let mut states = vec![vec![initial.clone()]];
    for index in &writes {
        let next = step_all(spec, states.last()?, &history[*index].what);
        if next.is_empty() {
            return None;
        }
        states.push(next);
    }
    let mut earliest = vec![0; writes.len() + 1];
    for (at, index) in writes.iter().enumerate() {
        earliest[at + 1] = earliest[at].max(history[*index].invoked);
    }
    let mut latest = vec![Micros::MAX; writes.len() + 1];
    for (at, index) in writes.iter().enumerate().rev() {
        latest[at] = latest[at + 1].min(end(&history[*index]));
    }
    floating.sort_unstable_by(|one, other| other.cmp(one));
    let mut gaps: Vec<Vec<usize>> = vec![Vec::new(); writes.len() + 1];
    let mut next = Vec::new();
    for (returned, index) in floating {
        let entry = &history[index];
        let mut gap = earliest.partition_point(|time| *time <= returned).checked_sub(1)?;
        loop {
            // The next write comes no later than `latest` of the gap.
            if latest[gap] < entry.invoked {
                return None;
            }
            let is_true = states[gap].iter().any(|state| {
                next.clear();
                spec.step(state, &entry.what, &mut next);
                next.contains(state)
            });
            if is_true {
                break;
            }
            gap = gap.checked_sub(1)?;
        }
        gaps[gap].push(index);
        for time in earliest[gap..].iter_mut().skip(1).take_while(|time| **time < entry.invoked) {
            *time = entry.invoked;
        }
        for time in latest[..gap].iter_mut().rev().take_while(|time| **time > returned) {
            *time = returned;
        }
    }
    let mut order = Vec::with_capacity(history.len());
    for (at, gap) in gaps.into_iter().enumerate() {
        if at > 0 {
            order.push(writes[at - 1]);
        }
        // Answered last is first in a gap so far.
        order.extend(gap.into_iter().rev());
    }
    Some(order)
}

/// Plays the entries in this order, each as early as it can be.
fn plays<S: Spec>(spec: &S, initial: &S::State, history: &[Entry<S::Op>], order: &[usize]) -> bool {
    let mut left = history.iter().filter(|entry| entry.returned.is_some()).count();
    let mut states = vec![initial.clone()];
    let mut time = 0;
    for index in order {
        let entry = &history[*index];
        time = time.max(entry.invoked);
        states = step_all(spec, &states, &entry.what);
        if states.is_empty() || time > end(entry) {
            return false;
        }
        left -= usize::from(entry.returned.is_some());
    }
    left == 0
}
