//! A second opinion on linearizability: the search as porcupine does it, with none of the shortcuts of [`crate::wgl`].
//!
//! Calls and answers in a list by time. Any operation whose call stands before the first answer may go next; whoever
//! goes is lifted out. A set of operations that led to the same state before is not tried again. Where an answer is
//! reached whose operation has not gone, the last choice was wrong. Simple, and slow where much is under way at once.

use std::{collections::HashSet, hash::Hash};

use crate::wgl::{Entry, Spec};

/// Calls and answers in the order of time, some of them lifted out.
struct List {
    next: Vec<usize>,
    before: Vec<usize>,
}

impl List {
    fn lift(&mut self, place: usize) {
        let (before, next) = (self.before[place], self.next[place]);
        self.next[before] = next;
        self.before[next] = before;
    }

    /// Undoes the last `lift` that was not undone.
    fn put_back(&mut self, place: usize) {
        let (before, next) = (self.before[place], self.next[place]);
        self.next[before] = place;
        self.before[next] = place;
    }
}

/// A choice that was made: where, the state before it, and the states it may lead to besides.
struct Choice<State> {
    place: usize,
    was: State,
    others: Vec<State>,
}

struct Seen<State> {
    gone: Vec<u64>,
    states: HashSet<(Vec<u64>, State)>,
}

impl<State: Clone + Eq + Hash> Seen<State> {
    fn flip(&mut self, index: usize) {
        self.gone[index / 64] ^= 1 << (index % 64);
    }

    /// The first of these to which nobody came with the same operations gone.
    fn first_new(&mut self, states: &mut Vec<State>) -> Option<State> {
        while let Some(state) = states.pop() {
            if self.states.insert((self.gone.clone(), state.clone())) {
                return Some(state);
            }
        }
        None
    }
}

/// Whether there is an order that explains all; `None` when `steps_max` did not suffice.
pub fn is_linearizable<S: Spec>(spec: &S, initial: S::State, history: &[Entry<S::Op>], steps_max: u64) -> Option<bool> {
    let mut points: Vec<(u64, bool, usize)> = Vec::new();
    for (index, entry) in history.iter().enumerate() {
        points.push((entry.invoked, false, index));
        points.extend(entry.returned.map(|returned| (returned.max(entry.invoked), true, index)));
    }
    points.sort_unstable();
    // A ring; place 0 stands before the first and behind the last.
    let count = points.len() + 1;
    let mut list = List {
        next: (0..count).map(|at| (at + 1) % count).collect(),
        before: (0..count).map(|at| (at + count - 1) % count).collect(),
    };
    let mut answer_of = vec![None; history.len()];
    for (at, (_, is_return, index)) in points.iter().enumerate() {
        if *is_return {
            answer_of[*index] = Some(at + 1);
        }
    }
    let mut unexplained = history.iter().filter(|entry| entry.returned.is_some()).count();
    let mut seen = Seen { gone: vec![0; history.len().div_ceil(64)], states: HashSet::new() };
    let mut stack: Vec<Choice<S::State>> = Vec::new();
    let mut state = initial;
    let mut at = list.next[0];
    let mut steps = 0;
    while unexplained > 0 {
        steps += 1;
        if steps > steps_max {
            return None;
        }
        let (place, was, mut others) = if at != 0 && !points[at - 1].1 {
            let index = points[at - 1].2;
            let mut states = Vec::new();
            spec.step(&state, &history[index].what, &mut states);
            seen.flip(index);
            list.lift(at);
            if let Some(answer) = answer_of[index] {
                list.lift(answer);
                unexplained -= 1;
            }
            (at, state.clone(), states)
        } else {
            let Some(choice) = stack.pop() else { return Some(false) };
            (choice.place, choice.was, choice.others)
        };
        // Here the operation at `place` is gone; the state it leads to is to be chosen.
        match seen.first_new(&mut others) {
            Some(new) => {
                state = new;
                stack.push(Choice { place, was, others });
                at = list.next[0];
            }
            None => {
                let index = points[place - 1].2;
                seen.flip(index);
                if let Some(answer) = answer_of[index] {
                    list.put_back(answer);
                    unexplained += 1;
                }
                list.put_back(place);
                state = was;
                at = list.next[place];
            }
        }
    }
    Some(true)
}
