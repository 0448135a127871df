//! Is there an order of these operations, each between its call and its answer, that explains every answer?
//!
//! Wing and Gong's search as Lowe sharpened it: walk through calls and answers in time; only when an operation is
//! answered that has not taken effect yet must something be chosen. What was seen before (the same operations done, the
//! same state) is not searched again. Four things make long histories of one busy key searchable, and none of them
//! changes the verdict:
//!
//! - *A read takes effect as soon as it can.* It changes nothing, so earlier is never worse.
//! - *Equal operations are taken in the order of their answers.* Two operations of equal value that have both been asked
//!   are interchangeable, and the one answered first has less time. One that was never answered comes last. So hundreds of
//!   unknown operations are a handful of candidates.
//! - *What adds up waits.* Operations of [`Nature::Adds`] commute. One takes effect before it must only if an observation
//!   is explained by it, or the operation that must go now becomes possible by it.
//! - *A clock in the state* (its version, which counts changes) that has passed what an open or later answer shows ends a
//!   branch at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use agora_history::Micros;

/// What an operation is to the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Never changes the state.
    Reads,
    /// Adds the same to the state whatever the state is, and is possible exactly where one figure of the sum (the same
    /// for all) is not negative. So what was done before one of them may as well be done behind it, if it is possible
    /// at once: those that give first, those that take last.
    Adds,
    /// Anything else, such as a write whose answer shows the state.
    Other,
}

/// A sequential object.
pub trait Spec {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// What was asked and answered. Equal operations must mean the same.
    type Op: Eq + Hash;

    /// The states that may follow; none where the operation could not have ended as it did.
    fn step(&self, state: &Self::State, op: &Self::Op, next: &mut Vec<Self::State>);

    /// What it is to the search.
    fn nature(&self, op: &Self::Op) -> Nature;

    /// How many states may follow at most.
    fn ways(&self, _op: &Self::Op) -> usize {
        1
    }

    /// Something in the state that no operation makes smaller.
    fn clock(&self, _state: &Self::State) -> u64 {
        0
    }

    /// The highest clock of a state in which the operation can take effect.
    fn latest(&self, _op: &Self::Op) -> u64 {
        u64::MAX
    }

    /// Roughly how far a state is from one in which the operation can take effect. Only makes the search faster.
    fn distance(&self, _state: &Self::State, _op: &Self::Op) -> u64 {
        0
    }
}

/// Index of a log entry, and a position in it.
pub type Place = (u64, u32);

/// One operation of a history.
#[derive(Clone, Debug)]
pub struct Entry<Op> {
    /// Of the client; several entries may come of one.
    pub op: u64,
    /// What, and how it ended.
    pub what: Op,
    /// When it was asked.
    pub invoked: Micros,
    /// When it was answered. `None`: it takes effect at any time after it was asked, or never.
    pub returned: Option<Micros>,
    /// Where somebody says it stands among the writes. The search does not look at it.
    pub place: Option<Place>,
}

/// What became of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<State> {
    /// There is such an order.
    Explained,
    /// There is none. The furthest any order came: this entry was answered, and cannot be explained.
    Impossible {
        /// Index into the history.
        entry: usize,
        /// One of the states in which it could not take effect.
        state: State,
    },
    /// The bound on steps was reached.
    Undecided,
}

/// What it came to, and how hard it was.
#[derive(Clone, Debug)]
pub struct Searched<State> {
    pub verdict: Verdict<State>,
    pub steps: u64,
}

/// Looks for an order.
pub fn search<S: Spec>(spec: &S, initial: S::State, entries: &[Entry<S::Op>], steps_max: u64) -> Searched<S::State> {
    Search::new(spec, initial, entries).run(steps_max)
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Event {
    entry: usize,
    is_return: bool,
}

/// Equal operations that have been asked and have not taken effect.
#[derive(Default)]
struct Class {
    /// Those with an answer, the one answered first at the end.
    answered: Vec<usize>,
    /// All without an answer, in the order they were asked.
    unanswered: Vec<usize>,
    /// Of these, how many have been asked by now.
    asked: usize,
    /// Of these, how many have taken effect.
    used: usize,
}

impl Class {
    fn first(&self) -> Option<usize> {
        let unanswered = || if self.used < self.asked { Some(self.unanswered[self.used]) } else { None };
        self.answered.last().copied().or_else(unanswered)
    }
}

/// What to take back.
enum Undo {
    Asked(usize),
    Done(usize),
}

/// What was done ahead of the operation that must go now, since the last observation was explained.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Ahead {
    Nothing,
    /// Something that has explained nothing yet, while what must go now could have gone first.
    Idle,
    /// Something that may have made possible what must go now.
    Enabled,
}

struct Choice<State> {
    entry: usize,
    state: State,
    /// The smallest is tried first: how far it leaves the goal, whether it was never answered, and until when it has time.
    order: (u64, bool, Micros),
}

struct Frame<State> {
    choices: Vec<Choice<State>>,
    state: State,
    at: usize,
    ahead: Ahead,
    was_possible: bool,
    trail: usize,
}

struct Search<'a, S: Spec> {
    spec: &'a S,
    entries: &'a [Entry<S::Op>],
    natures: Vec<Nature>,
    events: Vec<Event>,
    /// By position: the least `latest` of what is asked from there on.
    latest_from: Vec<u64>,
    class_of: Vec<usize>,

    at: usize,
    state: S::State,
    done: Vec<bool>,
    ahead: Ahead,
    /// Reads that were asked and not explained.
    reads: Vec<usize>,
    /// Writes that observe, asked and not done.
    observing: usize,
    classes: Vec<Class>,
    /// Classes that have somebody to go first.
    open: BTreeSet<usize>,
    /// Of all that is done.
    hash: u128,
    trail: Vec<Undo>,

    seen: HashSet<u128>,
    furthest: Option<(usize, usize, S::State)>,
    scratch: Vec<S::State>,
}

impl<'a, S: Spec> Search<'a, S> {
    fn new(spec: &'a S, initial: S::State, entries: &'a [Entry<S::Op>]) -> Self {
        let mut timed: Vec<(Micros, bool, usize)> = Vec::with_capacity(entries.len() * 2);
        for (index, entry) in entries.iter().enumerate() {
            timed.push((entry.invoked, false, index));
            timed.extend(entry.returned.map(|returned| (returned.max(entry.invoked), true, index)));
        }
        // Asked and answered at the same time counts as side by side.
        timed.sort_unstable();
        let events: Vec<Event> = timed.into_iter().map(|(_, is_return, entry)| Event { entry, is_return }).collect();
        let natures: Vec<Nature> = entries.iter().map(|entry| spec.nature(&entry.what)).collect();
        let mut latest_from = vec![u64::MAX; events.len() + 1];
        for at in (0..events.len()).rev() {
            let event = events[at];
            let entry = &entries[event.entry];
            let needed = !event.is_return && entry.returned.is_some();
            let latest = if needed { spec.latest(&entry.what) } else { u64::MAX };
            latest_from[at] = latest_from[at + 1].min(latest);
        }
        let mut numbers: HashMap<&S::Op, usize> = HashMap::new();
        let mut class_of = vec![0; entries.len()];
        let mut classes: Vec<Class> = Vec::new();
        for event in events.iter().filter(|event| !event.is_return) {
            let class = *numbers.entry(&entries[event.entry].what).or_insert_with(|| {
                classes.push(Class::default());
                classes.len() - 1
            });
            class_of[event.entry] = class;
            if entries[event.entry].returned.is_none() {
                classes[class].unanswered.push(event.entry);
            }
        }
        Search {
            spec,
            entries,
            natures,
            events,
            latest_from,
            class_of,
            at: 0,
            state: initial,
            done: vec![false; entries.len()],
            ahead: Ahead::Nothing,
            reads: Vec::new(),
            observing: 0,
            classes,
            open: BTreeSet::new(),
            hash: 0,
            trail: Vec::new(),
            seen: HashSet::new(),
            furthest: None,
            scratch: Vec::new(),
        }
    }

    fn run(mut self, steps_max: u64) -> Searched<S::State> {
        let mut stack: Vec<Frame<S::State>> = Vec::new();
        let mut steps = 0;
        self.walk();
        let mut arrived = true;
        loop {
            if arrived {
                let Some(must) = self.must() else { return Searched { verdict: Verdict::Explained, steps } };
                if steps == steps_max {
                    return Searched { verdict: Verdict::Undecided, steps };
                }
                steps += 1;
                if self.furthest.as_ref().is_none_or(|(at, ..)| *at < self.at) {
                    self.furthest = Some((self.at, must, self.state.clone()));
                }
                if !self.is_too_late() && self.is_new() {
                    let frame = self.frame(must);
                    stack.push(frame);
                }
            }
            let Some(frame) = stack.last_mut() else {
                let (_, entry, state) = self.furthest.expect("a search that failed began");
                return Searched { verdict: Verdict::Impossible { entry, state }, steps };
            };
            let Some(choice) = frame.choices.pop() else {
                stack.pop();
                arrived = false;
                continue;
            };
            let (trail, at, ahead, was_possible) = (frame.trail, frame.at, frame.ahead, frame.was_possible);
            self.state.clone_from(&frame.state);
            self.take_back(trail);
            (self.at, self.ahead) = (at, ahead);
            self.choose(choice, was_possible);
            arrived = true;
        }
    }

    /// The operation that was answered and has not taken effect.
    fn must(&self) -> Option<usize> {
        self.events.get(self.at).map(|event| event.entry)
    }

    fn frame(&mut self, must: usize) -> Frame<S::State> {
        let mut choices: Vec<Choice<S::State>> = Vec::new();
        let adds = self.natures[must] == Nature::Adds;
        let mut next = std::mem::take(&mut self.scratch);
        self.spec.step(&self.state, &self.entries[must].what, &mut next);
        // In every way it may go, or what must come before it decides the way.
        let is_possible = next.len() == self.spec.ways(&self.entries[must].what);
        let mut first = Vec::new();
        if !adds || self.ahead != Ahead::Idle {
            first.extend(next.drain(..).map(|state| Choice { entry: must, state, order: (0, false, 0) }));
        }
        next.clear();
        if !(adds && is_possible && self.reads.is_empty() && self.observing == 0) {
            let goal = if adds && is_possible { self.next_observation().unwrap_or(must) } else { must };
            for class in &self.open {
                let Some(entry) = self.classes[*class].first().filter(|entry| *entry != must) else { continue };
                self.spec.step(&self.state, &self.entries[entry].what, &mut next);
                let returned = self.entries[entry].returned;
                choices.extend(next.drain(..).map(|state| {
                    let distance = self.spec.distance(&state, &self.entries[goal].what);
                    let order = (distance, returned.is_none(), returned.unwrap_or(Micros::MAX));
                    Choice { entry, state, order }
                }));
            }
        }
        self.scratch = next;
        // The last is taken first.
        choices.sort_by_key(|choice| std::cmp::Reverse(choice.order));
        choices.append(&mut first);
        Frame {
            choices,
            state: self.state.clone(),
            at: self.at,
            ahead: self.ahead,
            was_possible: is_possible,
            trail: self.trail.len(),
        }
    }

    /// The open read that is answered first.
    fn next_observation(&self) -> Option<usize> {
        self.reads.iter().copied().min_by_key(|entry| self.entries[*entry].returned.unwrap_or(Micros::MAX))
    }

    fn choose(&mut self, choice: Choice<S::State>, was_possible: bool) {
        let before = self.at;
        let must = self.must();
        self.finish(choice.entry);
        self.state = choice.state;
        let explained = self.explain_reads() || self.natures[choice.entry] == Nature::Other;
        self.walk();
        self.ahead = match must {
            Some(must) if self.at == before && !explained && self.natures[must] == Nature::Adds => {
                if was_possible {
                    Ahead::Idle
                } else {
                    Ahead::Enabled
                }
            }
            _ => Ahead::Nothing,
        };
    }

    /// Goes on to the next answer that is not explained.
    fn walk(&mut self) {
        while let Some(event) = self.events.get(self.at).copied() {
            if !event.is_return {
                self.ask(event.entry);
            } else if !self.done[event.entry] {
                return;
            }
            self.at += 1;
        }
    }

    fn ask(&mut self, entry: usize) {
        self.trail.push(Undo::Asked(entry));
        match self.natures[entry] {
            Nature::Reads => {
                self.reads.push(entry);
                if self.is_possible(entry) {
                    self.finish(entry);
                }
                return;
            }
            Nature::Other => self.observing += 1,
            Nature::Adds => {}
        }
        let entries = self.entries;
        let class = &mut self.classes[self.class_of[entry]];
        if entries[entry].returned.is_some() {
            put(&mut class.answered, entries, entry);
        } else {
            class.asked += 1;
        }
        self.open.insert(self.class_of[entry]);
    }

    fn is_possible(&mut self, entry: usize) -> bool {
        let mut next = std::mem::take(&mut self.scratch);
        self.spec.step(&self.state, &self.entries[entry].what, &mut next);
        let possible = !next.is_empty();
        next.clear();
        self.scratch = next;
        possible
    }

    /// Reads that the state explains. True if there were any.
    fn explain_reads(&mut self) -> bool {
        let mut any = false;
        for place in (0..self.reads.len()).rev() {
            let entry = self.reads[place];
            if self.is_possible(entry) {
                self.finish(entry);
                any = true;
            }
        }
        any
    }

    /// It takes effect.
    fn finish(&mut self, entry: usize) {
        self.trail.push(Undo::Done(entry));
        self.done[entry] = true;
        self.hash ^= mark(entry);
        if self.natures[entry] == Nature::Reads {
            remove(&mut self.reads, entry);
            return;
        }
        if self.natures[entry] == Nature::Other {
            self.observing -= 1;
        }
        let class = &mut self.classes[self.class_of[entry]];
        if self.entries[entry].returned.is_some() {
            remove(&mut class.answered, entry);
        } else {
            class.used += 1;
        }
        if class.first().is_none() {
            self.open.remove(&self.class_of[entry]);
        }
    }

    fn take_back(&mut self, trail: usize) {
        while self.trail.len() > trail {
            match self.trail.pop() {
                Some(Undo::Done(entry)) => self.unfinish(entry),
                Some(Undo::Asked(entry)) => self.unask(entry),
                None => return,
            }
        }
    }

    fn unfinish(&mut self, entry: usize) {
        self.done[entry] = false;
        self.hash ^= mark(entry);
        if self.natures[entry] == Nature::Reads {
            self.reads.push(entry);
            return;
        }
        if self.natures[entry] == Nature::Other {
            self.observing += 1;
        }
        let class = &mut self.classes[self.class_of[entry]];
        if self.entries[entry].returned.is_some() {
            put(&mut class.answered, self.entries, entry);
        } else {
            class.used -= 1;
        }
        self.open.insert(self.class_of[entry]);
    }

    fn unask(&mut self, entry: usize) {
        match self.natures[entry] {
            Nature::Reads => {
                remove(&mut self.reads, entry);
                return;
            }
            Nature::Other => self.observing -= 1,
            Nature::Adds => {}
        }
        let class = &mut self.classes[self.class_of[entry]];
        if self.entries[entry].returned.is_some() {
            remove(&mut class.answered, entry);
        } else {
            class.asked -= 1;
        }
        if class.first().is_none() {
            self.open.remove(&self.class_of[entry]);
        }
    }

    /// Something answered, or yet to be asked and answered, saw a state that is over.
    fn is_too_late(&self) -> bool {
        let clock = self.spec.clock(&self.state);
        let late = |entry: &usize| {
            self.entries[*entry].returned.is_some() && self.spec.latest(&self.entries[*entry].what) < clock
        };
        self.latest_from[self.at] < clock
            || self.reads.iter().any(late)
            || (self.observing > 0 && self.open.iter().any(|class| self.classes[*class].answered.iter().any(&late)))
    }

    fn is_new(&mut self) -> bool {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            (salt, &self.state, self.ahead).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        self.seen.insert(self.hash ^ (half(1) << 64 | half(2)))
    }
}

/// Keeps the one answered first at the end.
fn put<Op>(answered: &mut Vec<usize>, entries: &[Entry<Op>], entry: usize) {
    let key = |entry: usize| (entries[entry].returned, entry);
    let place = answered.partition_point(|other| key(*other) > key(entry));
    answered.insert(place, entry);
}

fn remove(list: &mut Vec<usize>, entry: usize) {
    if let Some(place) = list.iter().rposition(|other| *other == entry) {
        list.remove(place);
    }
}

/// 128 bits for an entry, so that a set of entries is their sum by bits (splitmix64, twice).
fn mark(entry: usize) -> u128 {
    let mix = |salt: u64| {
        let mut bits = (entry as u64).wrapping_mul(2).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(bits ^ (bits >> 31))
    };
    mix(1) << 64 | mix(2)
}
