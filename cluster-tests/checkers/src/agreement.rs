//! Three judges of linearizability that share nothing but the object must agree on many small random histories, right
//! and wrong ones: the search, the plain search, and the trial of every order there is. And whatever a witness proves, they
//! must find as well.

use crate::{
    c02_objects::{Amounts, Delta, Life, OneOrder, OneTerms, OrderOp, Pool, PoolOp, Terms, TermsOp},
    second::is_linearizable,
    testing::Dice,
    wgl::{Entry, Spec, Verdict, search},
    witness::explains,
    words::Status,
};

/// Tries every order.
fn every_order<S: Spec>(spec: &S, state: &S::State, history: &[Entry<S::Op>], done: u32) -> bool {
    let open = |at: usize| done & 1 << at == 0;
    if (0..history.len()).all(|at| !open(at) || history[at].returned.is_none()) {
        return true;
    }
    (0..history.len()).filter(|at| open(*at)).any(|at| {
        // Nothing that was answered before it was asked may still be open.
        let late = |other: usize| open(other) && history[other].returned.is_some_and(|end| end < history[at].invoked);
        if (0..history.len()).any(late) {
            return false;
        }
        let mut next = Vec::new();
        spec.step(state, &history[at].what, &mut next);
        next.iter().any(|state| every_order(spec, state, history, done | 1 << at))
    })
}

#[derive(Default, Debug)]
struct Count {
    right: u32,
    wrong: u32,
    witnessed: u32,
}

fn agree<S: Spec>(count: &mut Count, spec: &S, initial: &S::State, history: &[Entry<S::Op>])
where
    S::Op: std::fmt::Debug,
    S::State: std::fmt::Debug,
{
    let truth = every_order(spec, initial, history, 0);
    let found = search(spec, initial.clone(), history, 1_000_000).verdict;
    assert_eq!(found == Verdict::Explained, truth, "{found:?} of {history:#?}");
    assert_ne!(found, Verdict::Undecided);
    assert_eq!(is_linearizable(spec, initial.clone(), history, 1_000_000), Some(truth), "{history:#?}");
    let witnessed = explains(spec, initial, history);
    assert!(truth || !witnessed, "{history:#?}");
    count.right += u32::from(truth);
    count.wrong += u32::from(!truth);
    count.witnessed += u32::from(witnessed);
}

/// Entries that are plausible: each takes effect in some true order, and its answer is of that order, or nearly.
fn history<S: Spec>(
    dice: &mut Dice,
    spec: &S,
    initial: &S::State,
    mut propose: impl FnMut(&mut Dice, &S::State) -> S::Op,
) -> Vec<Entry<S::Op>> {
    let mut state = initial.clone();
    let mut entries = Vec::new();
    let count = 3 + dice.below(6);
    for turn in 0..count {
        let what = propose(dice, &state);
        let mut next = Vec::new();
        spec.step(&state, &what, &mut next);
        let took = match next.len() as u64 {
            0 => false,
            many => {
                state = next.swap_remove(dice.below(many) as usize);
                true
            }
        };
        let at = turn * 10 + 40;
        let invoked = at - dice.below(30);
        let unknown = dice.once_in(4);
        // Seldom an answer comes before what it answers.
        let returned = if dice.once_in(6) { invoked + 1 } else { at + dice.below(30) };
        if !took && !unknown && !dice.once_in(3) {
            continue;
        }
        let place = (took || dice.once_in(20)).then_some((turn, 0));
        entries.push(Entry { op: turn, what, invoked, returned: (!unknown).then_some(returned), place });
    }
    entries
}

fn pool_op(dice: &mut Dice, state: &Option<Amounts>) -> PoolOp {
    let now = state.unwrap_or(Amounts { all: 0, promised: 0, version: 0 });
    let small = |dice: &mut Dice| 1 + dice.below(3) as i64;
    let delta = |dice: &mut Dice| {
        let (all, promised) = match dice.below(5) {
            0 => (small(dice), 0),
            1 | 2 => (0, small(dice)),
            3 => (0, -small(dice)),
            _ => (-1, -1),
        };
        Delta { all, promised, changes: 1 }
    };
    let mut shown = now;
    if dice.once_in(4) {
        shown.promised += 1;
        shown.version += dice.below(2);
    }
    match dice.below(8) {
        0..4 => PoolOp::Add(vec![delta(dice)]),
        4 => PoolOp::Add(vec![delta(dice), delta(dice)]),
        5 => {
            let all = small(dice);
            let sum = Amounts { all: shown.all + all, version: shown.version + 1, ..shown };
            PoolOp::Wrote(Delta { all, promised: 0, changes: 1 }, sum)
        }
        6 => PoolOp::Shows(shown),
        _ => PoolOp::Available(shown.available()),
    }
}

fn order_op(dice: &mut Dice, state: &Option<Life>) -> OrderOp {
    let all = [Status::Created, Status::Paid, Status::Shipped, Status::Completed, Status::Cancelled];
    let Some(now) = *state else { return if dice.once_in(5) { OrderOp::Missing } else { OrderOp::Place } };
    let to = all[dice.below(5) as usize];
    match dice.below(7) {
        0..3 => OrderOp::Move(to, Some(Life { status: to, version: now.version + 1 })),
        3 => OrderOp::Move(to, None),
        4 => OrderOp::Expire,
        5 => OrderOp::CannotGo(now.status, to),
        _ => OrderOp::Shows(now),
    }
}

fn terms_op(dice: &mut Dice, state: &Option<Terms>) -> TermsOp {
    let Some(now) = *state else { return TermsOp::Create { price: 1, sellable: true } };
    let price = dice.below(3) as i64;
    let after = Terms { price, version: now.version + u64::from(price != now.price), ..now };
    match dice.below(6) {
        0..2 => TermsOp::Change { expected: now.version, price: Some(price), sellable: None, shown: Some(after) },
        2 => TermsOp::Change { expected: now.version, price: Some(price), sellable: None, shown: None },
        3 => TermsOp::Mismatch(now.version + 1, now.version),
        4 => TermsOp::Sold(price),
        _ => TermsOp::Shows(now),
    }
}

fn enough(count: &Count) {
    assert!(count.right > 1_000 && count.wrong > 1_000 && count.witnessed > 500, "{count:?}");
}

#[test]
fn of_a_pool() {
    let spec = Pool { first_version: 0 };
    let initial = Some(Amounts { all: 4, promised: 1, version: 0 });
    let mut count = Count::default();
    for seed in 0..20_000 {
        let mut dice = Dice(seed);
        let history = history(&mut dice, &spec, &initial, pool_op);
        agree(&mut count, &spec, &initial, &history);
    }
    enough(&count);
}

#[test]
fn of_an_order() {
    let mut count = Count::default();
    for seed in 0..20_000 {
        let mut dice = Dice(seed);
        let history = history(&mut dice, &OneOrder, &None, order_op);
        agree(&mut count, &OneOrder, &None, &history);
    }
    enough(&count);
}

#[test]
fn of_terms() {
    let mut count = Count::default();
    for seed in 0..20_000 {
        let mut dice = Dice(seed);
        let history = history(&mut dice, &OneTerms, &None, terms_op);
        agree(&mut count, &OneTerms, &None, &history);
    }
    enough(&count);
}
