//! What a kind of entity brings along to be put to the laws.

use std::fmt::Debug;

use agora_domain::{At, Entity, Impossible, OrderId, Uid};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Commands one run makes.
const WISHES_MAX: usize = 40;

/// An entity under test.
///
/// Some commands are asked only by a coordinator that knows what it may ask: the release of a promise goes to the SKU
/// that gave it, once. So a random *wish* becomes an honest command by way of a *book* of standing promises.
pub trait Subject: Entity {
    /// What a client wishes for.
    type Wish: Clone + Debug;
    /// Which promises stand, as the orders that own them know.
    type Book: Clone + Debug + Default;

    /// Any wish.
    fn wish() -> BoxedStrategy<Self::Wish>;

    /// Any event at all, such as a later release or a damaged log could hold.
    fn event() -> BoxedStrategy<Self::Event>;

    /// What happened before the run begins.
    fn opening() -> Vec<Self::Event>;

    /// The command a coordinator makes of a wish; `None` when it would ask the entity nothing. `state` is the committed
    /// one, as the client may have read it.
    fn command(wish: &Self::Wish, book: &mut Self::Book, state: Option<&Self>) -> Option<Self::Command>;

    /// The event was granted: a promise that it ends is nobody else's to end.
    fn granted(_book: &mut Self::Book, _event: &Self::Event) {}

    /// The event is in the log: a promise that it makes may be ended.
    fn committed(_book: &mut Self::Book, _event: &Self::Event) {}

    /// The granted event will never be in the log.
    fn lost(_book: &mut Self::Book, _event: &Self::Event) {}

    /// Its promise, checked on a committed state.
    fn sound(&self) -> bool;

    /// Limits that only decisions keep, so that a later release may move them.
    fn within_limits(&self) -> bool {
        true
    }

    /// What a command that does not commute is told when it is asked again right after it was appended.
    fn again(command: &Self::Command, after: &Self) -> Result<Vec<Self::Event>, Self::Refusal>;
}

/// A sequence of wishes.
pub fn wishes<E: Subject>() -> impl Strategy<Value = Vec<E::Wish>> {
    vec(E::wish(), 1..WISHES_MAX)
}

/// A sequence of events that no one decided.
pub fn events<E: Subject>() -> impl Strategy<Value = Vec<E::Event>> {
    vec(E::event(), 1..WISHES_MAX)
}

/// Where entry `index` stands in time.
pub fn at(index: u64) -> At {
    At { index, time_ms: i64::try_from(index).unwrap() * 1_000 }
}

/// The state after the opening, and its index.
pub fn opened<E: Subject>() -> (Option<E>, u64) {
    let mut state = None;
    let mut index = 0;
    for event in E::opening() {
        index += 1;
        E::evolve(&mut state, &event, at(index)).expect("an opening is honest");
    }
    (state, index)
}

/// Evolves, and says on what an honest event was refused or a promise broken.
pub fn evolve<E: Subject>(state: &mut Option<E>, event: &E::Event, index: u64) -> Result<(), String> {
    let before = state.clone();
    E::evolve(state, event, at(index)).map_err(|Impossible(why)| format!("refused: {why}, on {before:?}"))?;
    match state {
        Some(after) if after.sound() && after.within_limits() && after.index() == index => Ok(()),
        _ => Err(format!("{event:?} made {state:?} of {before:?}")),
    }
}

/// The order of a number.
pub fn order_id(number: u128) -> OrderId {
    OrderId(Uid(number))
}

/// One of the keys, if there are any.
pub fn pick<K: Copy, V>(open: &std::collections::BTreeMap<K, V>, index: Index) -> Option<K> {
    if open.is_empty() { None } else { open.keys().nth(index.index(open.len())).copied() }
}
