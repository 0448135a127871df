//! A shop as it must have been after every transaction of the feed.
//!
//! Written from the README and the meaning of the API alone. Time is counted in *transactions*: 0 is the empty shop, n
//! the state behind the n-th transaction of the feed. An entry holds several transactions, and each of them is a place
//! at which the shop was in one state; so "at index i" means behind the last transaction of an entry up to i.
//! Everything keeps its whole past, so that any answer can be compared with the state it claims to tell of.

pub(crate) mod answers;
pub(crate) mod causes;
pub(crate) mod floor;
pub(crate) mod refusals;
pub(crate) mod replay;

use std::collections::HashMap;

use crate::words::{Line, Status};

/// Number of a transaction; 0 is the empty shop.
pub(crate) type Place = u32;

/// A value and all its former ones, each with the transaction that brought it.
#[derive(Clone, Debug)]
pub(crate) struct Past<T> {
    steps: Vec<(Place, T)>,
}

impl<T> Default for Past<T> {
    fn default() -> Self {
        Past { steps: Vec::new() }
    }
}

impl<T: Copy> Past<T> {
    /// The value now.
    pub(crate) fn now(&self) -> Option<T> {
        self.steps.last().map(|(_, value)| *value)
    }

    /// A new value; a transaction that changes it twice leaves the last one.
    pub(crate) fn set(&mut self, place: Place, value: T) {
        match self.steps.last_mut() {
            Some((last, old)) if *last == place => *old = value,
            _ => self.steps.push((place, value)),
        }
    }

    /// The value behind a transaction; `None` before the first.
    pub(crate) fn at(&self, place: Place) -> Option<T> {
        let after = self.steps.partition_point(|(from, _)| *from <= place);
        after.checked_sub(1).map(|at| self.steps[at].1)
    }

    /// Every value it had from behind `from` to behind `to`, newest first, each with where it began.
    pub(crate) fn during(&self, from: Place, to: Place) -> impl Iterator<Item = (Place, T)> + '_ {
        let first = self.steps.partition_point(|(place, _)| *place <= from).saturating_sub(1);
        let after = self.steps.partition_point(|(place, _)| *place <= to).max(first);
        self.steps[first..after].iter().rev().map(move |(place, value)| ((*place).max(from), *value))
    }
}

/// What a SKU is sold as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) price: i64,
    pub(crate) sellable: bool,
    pub(crate) version: u64,
}

/// Units of a SKU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stock {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) version: u64,
}

impl Stock {
    pub(crate) fn available(self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// A SKU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sku<'a> {
    pub(crate) code: &'a str,
    pub(crate) terms: Past<Terms>,
    pub(crate) stock: Past<Stock>,
    /// Events so far: the version its events carry.
    pub(crate) events: u64,
}

/// Money of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wallet {
    pub(crate) balance: i64,
    pub(crate) held: i64,
    pub(crate) version: u64,
}

impl Wallet {
    pub(crate) fn available(self) -> i64 {
        self.balance - self.held
    }
}

/// A step of an order's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) status: Status,
    pub(crate) place: Place,
    pub(crate) index: u64,
}

/// An order.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    pub(crate) account: &'a str,
    /// Sorted by SKU.
    pub(crate) lines: Vec<Line<'a>>,
    pub(crate) total: i64,
    pub(crate) held: bool,
    pub(crate) expire_ms: i64,
    /// Position of its first event in its entry: orders of a batch come in the order of the batch.
    pub(crate) sub: u32,
    pub(crate) steps: Vec<Step>,
}

impl Order<'_> {
    /// Steps taken by then; 0 before it was placed.
    pub(crate) fn version_at(&self, place: Place) -> usize {
        self.steps.partition_point(|step| step.place <= place)
    }

    pub(crate) fn status(&self) -> Status {
        self.steps.last().map_or(Status::Created, |step| step.status)
    }
}

/// The shop, with all its past.
#[derive(Debug, Default)]
pub(crate) struct World<'a> {
    pub(crate) skus: HashMap<&'a str, Sku<'a>>,
    pub(crate) accounts: HashMap<&'a str, Past<Wallet>>,
    pub(crate) orders: HashMap<&'a str, Order<'a>>,
    /// Codes, and the transaction that took them.
    pub(crate) codes: HashMap<&'a str, Place>,
    /// Sum of all postings: debits, and as many credits.
    pub(crate) posted: Past<i64>,
    /// Index of each transaction; the first is that of the empty shop.
    pub(crate) indexes: Vec<u64>,
    /// The transaction of a request, by trace id.
    pub(crate) traces: HashMap<&'a str, Place>,
}

impl<'a> World<'a> {
    pub(crate) fn new() -> World<'a> {
        World { indexes: vec![0], ..World::default() }
    }

    /// The transaction that is being replayed, or was last.
    pub(crate) fn place(&self) -> Place {
        (self.indexes.len() - 1) as Place
    }

    /// The last transaction of the entries up to an index.
    pub(crate) fn at_index(&self, index: u64) -> Place {
        (self.indexes.partition_point(|at| *at <= index).max(1) - 1) as Place
    }

    pub(crate) fn index_of(&self, place: Place) -> u64 {
        self.indexes[place as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_tells_every_value_that_was_there_in_between() {
        let mut past = Past::default();
        for (place, value) in [(2, 'a'), (5, 'b'), (5, 'c'), (9, 'd')] {
            past.set(place, value);
        }
        let at = |place| past.at(place);
        assert_eq!((at(1), at(2), at(4), at(5), at(99)), (None, Some('a'), Some('a'), Some('c'), Some('d')));
        let during = |from, to| past.during(from, to).collect::<Vec<_>>();
        assert_eq!(during(3, 5), [(5, 'c'), (3, 'a')]);
        assert_eq!(during(5, 8), [(5, 'c')]);
        assert_eq!(during(0, 1), []);
        assert_eq!(during(0, 9), [(9, 'd'), (5, 'c'), (2, 'a')]);
    }

    #[test]
    fn an_index_is_the_state_behind_its_entry() {
        let world = World { indexes: vec![0, 4, 4, 7], ..World::default() };
        let places: Vec<Place> = [0, 3, 4, 6, 7, 9].into_iter().map(|index| world.at_index(index)).collect();
        assert_eq!(places, [0, 0, 2, 2, 3, 3]);
    }
}
