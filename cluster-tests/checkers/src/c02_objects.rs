//! What the objects of the shop do one operation at a time: a pool (stock of a SKU, money of a wallet), an order, and
//! the terms of a SKU. Versions are part of what an answer shows, so an order of operations must explain them too.

use crate::{
    wgl::{Nature, Spec},
    words::Status,
};

/// Units on hand of which some are reserved, or a balance of which some is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Amounts {
    pub all: i64,
    pub promised: i64,
    pub version: u64,
}

/// What a change adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delta {
    pub all: i64,
    pub promised: i64,
    /// Versions it takes.
    pub changes: u64,
}

impl Amounts {
    pub fn available(&self) -> i64 {
        self.all - self.promised
    }

    /// Nothing is promised that is not there. That what is promised is never less than nothing is left to the reads:
    /// a release may be known to begin before the promise it ends.
    fn plus(&self, delta: &Delta) -> Option<Amounts> {
        let sum = Amounts {
            all: self.all + delta.all,
            promised: self.promised + delta.promised,
            version: self.version + delta.changes,
        };
        if sum.available() >= 0 { Some(sum) } else { None }
    }

    fn apart(&self, other: &Amounts) -> u64 {
        self.all.abs_diff(other.all) + self.promised.abs_diff(other.promised) + self.version.abs_diff(other.version)
    }
}

/// What is asked of a pool, and answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PoolOp {
    /// It exists, with nothing in it.
    Create,
    /// One of these, without an answer that shows the pool.
    Add(Vec<Delta>),
    /// A change whose answer shows the pool.
    Wrote(Delta, Amounts),
    /// A read.
    Shows(Amounts),
    /// A refusal that tells what is available.
    Available(i64),
    /// There is none.
    Missing,
}

/// A pool. The state is `None` until it is created.
pub struct Pool {
    /// Version of a new one.
    pub first_version: u64,
}

impl Pool {
    pub fn new_one(&self) -> Amounts {
        Amounts { all: 0, promised: 0, version: self.first_version }
    }
}

impl Spec for Pool {
    type State = Option<Amounts>;
    type Op = PoolOp;

    fn step(&self, state: &Self::State, op: &PoolOp, next: &mut Vec<Self::State>) {
        match (state, op) {
            (None, PoolOp::Create) => next.push(Some(self.new_one())),
            (None, PoolOp::Missing) => next.push(None),
            (Some(now), PoolOp::Add(deltas)) => {
                next.extend(deltas.iter().filter_map(|delta| now.plus(delta)).map(Some))
            }
            (Some(now), PoolOp::Wrote(delta, shown)) => {
                next.extend(now.plus(delta).filter(|sum| sum == shown).map(Some));
            }
            (Some(now), PoolOp::Shows(shown)) if now == shown => next.push(*state),
            (Some(now), PoolOp::Available(told)) if now.available() == *told => next.push(*state),
            _ => {}
        }
    }

    fn nature(&self, op: &PoolOp) -> Nature {
        match op {
            PoolOp::Add(_) => Nature::Adds,
            PoolOp::Create | PoolOp::Wrote(..) => Nature::Other,
            PoolOp::Shows(_) | PoolOp::Available(_) | PoolOp::Missing => Nature::Reads,
        }
    }

    fn ways(&self, op: &PoolOp) -> usize {
        if let PoolOp::Add(deltas) = op { deltas.len() } else { 1 }
    }

    fn clock(&self, state: &Self::State) -> u64 {
        state.map_or(0, |now| now.version)
    }

    fn latest(&self, op: &PoolOp) -> u64 {
        match op {
            PoolOp::Wrote(delta, shown) => shown.version.saturating_sub(delta.changes),
            PoolOp::Shows(shown) => shown.version,
            PoolOp::Create | PoolOp::Missing => 0,
            PoolOp::Add(_) | PoolOp::Available(_) => u64::MAX,
        }
    }

    fn distance(&self, state: &Self::State, op: &PoolOp) -> u64 {
        let Some(now) = state else { return 0 };
        match op {
            PoolOp::Wrote(delta, shown) => {
                let before = Amounts {
                    all: shown.all - delta.all,
                    promised: shown.promised - delta.promised,
                    version: shown.version.saturating_sub(delta.changes),
                };
                now.apart(&before)
            }
            PoolOp::Shows(shown) => now.apart(shown),
            PoolOp::Available(told) => now.available().abs_diff(*told),
            PoolOp::Add(deltas) => deltas
                .iter()
                .map(|delta| (delta.promised - delta.all - now.available()).max(0).unsigned_abs())
                .min()
                .unwrap_or(0),
            PoolOp::Create | PoolOp::Missing => 0,
        }
    }
}

/// An order as an answer shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    pub status: Status,
    pub version: u64,
}

/// What is asked of an order, and answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrderOp {
    /// Placed.
    Place,
    /// Moved on; what the answer shows, if there was one.
    Move(Status, Option<Life>),
    /// Its time ran out.
    Expire,
    /// Asked to move to where it was already.
    Already(Status, Life),
    /// Refused: it is here and cannot go there.
    CannotGo(Status, Status),
    /// It is here, by the way another request was answered.
    Is(Status),
    /// A read.
    Shows(Life),
    /// There is none.
    Missing,
}

/// One order. The state is `None` until it is placed.
pub struct OneOrder;

impl Spec for OneOrder {
    type State = Option<Life>;
    type Op = OrderOp;

    fn step(&self, state: &Self::State, op: &OrderOp, next: &mut Vec<Self::State>) {
        let Some(now) = state else {
            match op {
                OrderOp::Place => next.push(Some(Life { status: Status::Created, version: 1 })),
                OrderOp::Missing => next.push(None),
                _ => {}
            }
            return;
        };
        let moved = |to| Life { status: to, version: now.version + 1 };
        match op {
            OrderOp::Move(to, shown) if now.status.may_become(*to) && shown.is_none_or(|shown| shown == moved(*to)) => {
                next.push(Some(moved(*to)));
            }
            OrderOp::Expire if now.status == Status::Created => next.push(Some(moved(Status::Cancelled))),
            OrderOp::Already(to, shown) if now == shown && now.status == *to => next.push(*state),
            OrderOp::CannotGo(from, to) if now.status == *from && !from.may_become(*to) && from != to => {
                next.push(*state);
            }
            OrderOp::Is(status) if now.status == *status => next.push(*state),
            OrderOp::Shows(shown) if now == shown => next.push(*state),
            _ => {}
        }
    }

    fn nature(&self, op: &OrderOp) -> Nature {
        match op {
            OrderOp::Place | OrderOp::Move(..) | OrderOp::Expire => Nature::Other,
            _ => Nature::Reads,
        }
    }

    fn clock(&self, state: &Self::State) -> u64 {
        state.map_or(0, |now| now.version)
    }

    fn latest(&self, op: &OrderOp) -> u64 {
        match op {
            OrderOp::Move(_, Some(shown)) => shown.version.saturating_sub(1),
            OrderOp::Already(_, shown) | OrderOp::Shows(shown) => shown.version,
            OrderOp::Place | OrderOp::Missing => 0,
            _ => u64::MAX,
        }
    }
}

/// Terms of a SKU as an answer shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub price: i64,
    pub sellable: bool,
    pub version: u64,
}

/// What is asked of terms, and answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TermsOp {
    /// They are these.
    Create { price: i64, sellable: bool },
    /// Changed if the version is the expected one; what the answer shows, if there was one.
    Change { expected: u64, price: Option<i64>, sellable: Option<bool>, shown: Option<Terms> },
    /// Changed by somebody whose call is not known.
    Set { price: i64, sellable: bool },
    /// Refused: expected, and there.
    Mismatch(u64, u64),
    /// Sold at this price.
    Sold(i64),
    /// Not sold.
    NotSold,
    /// A read.
    Shows(Terms),
    /// There are none.
    Missing,
}

/// Terms of one SKU. The state is `None` until it is created.
pub struct OneTerms;

impl Spec for OneTerms {
    type State = Option<Terms>;
    type Op = TermsOp;

    fn step(&self, state: &Self::State, op: &TermsOp, next: &mut Vec<Self::State>) {
        let Some(now) = state else {
            match op {
                TermsOp::Create { price, sellable } => {
                    next.push(Some(Terms { price: *price, sellable: *sellable, version: 1 }));
                }
                TermsOp::Missing => next.push(None),
                _ => {}
            }
            return;
        };
        match op {
            TermsOp::Change { expected, price, sellable, shown } if *expected == now.version => {
                let mut after =
                    Terms { price: price.unwrap_or(now.price), sellable: sellable.unwrap_or(now.sellable), ..*now };
                after.version += u64::from(after != *now);
                if shown.is_none_or(|shown| shown == after) {
                    next.push(Some(after));
                }
            }
            TermsOp::Set { price, sellable } => {
                next.push(Some(Terms { price: *price, sellable: *sellable, version: now.version + 1 }));
            }
            TermsOp::Mismatch(expected, there) if *there == now.version && expected != there => next.push(*state),
            TermsOp::Sold(price) if now.sellable && now.price == *price => next.push(*state),
            TermsOp::NotSold if !now.sellable => next.push(*state),
            TermsOp::Shows(shown) if now == shown => next.push(*state),
            _ => {}
        }
    }

    fn nature(&self, op: &TermsOp) -> Nature {
        match op {
            TermsOp::Create { .. } | TermsOp::Change { .. } | TermsOp::Set { .. } => Nature::Other,
            _ => Nature::Reads,
        }
    }

    fn clock(&self, state: &Self::State) -> u64 {
        state.map_or(0, |now| now.version)
    }

    fn latest(&self, op: &TermsOp) -> u64 {
        match op {
            TermsOp::Change { expected, .. } => *expected,
            TermsOp::Mismatch(_, there) => *there,
            TermsOp::Shows(shown) => shown.version,
            TermsOp::Create { .. } | TermsOp::Missing => 0,
            TermsOp::Sold(_) | TermsOp::NotSold | TermsOp::Set { .. } => u64::MAX,
        }
    }
}
