//! What can be known of orders before any history is made: what their placing was answered, what was seen of them under
//! their keys, what became of them, and what the feed proposes.

use std::collections::{BTreeMap, BTreeSet};

use agora_history::{Answer, Basket, Call, Item, Micros, Op, Operation, Order, Outcome, Refusal, Reply};

use crate::{
    c02_keys::{Maker, asked_at, is_exact, lines, statuses, sum, target},
    c02_objects::Delta,
    wgl::Place,
    words::{Fact, Status, fact},
};

/// Totals an unanswered order may have had, by the prices its SKUs ever had.
const TOTALS_MAX: usize = 64;
/// What is known of an order.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub account: String,
    pub lines: Vec<(String, i64)>,
    pub total: i64,
    /// `None` where it is not known whether the total was held.
    pub held: Option<bool>,
    pub ttl_ms: Option<u64>,
    pub placed_from: Micros,
    /// The latest time at which it is known to have been open when asked, and the earliest at which it was cancelled.
    pub open_at: Micros,
    pub cancelled_by: Option<Micros>,
    /// Where the feed tells that it was placed, and that its time ran out.
    pub place: Option<Place>,
    pub expired: Option<Place>,
    /// A client was told that its own request cancelled, shipped, paid it.
    pub told: BTreeSet<Status>,
    /// What became of it in the end, if that is known.
    pub ever: Option<BTreeSet<Status>>,
}

impl Known {
    /// Whether an unanswered request may have moved it there.
    pub fn may_have_become(&self, to: Status) -> bool {
        let by_another = self.told.contains(&to) || (to == Status::Cancelled && self.expired.is_some());
        !by_another && self.ever.as_ref().is_none_or(|ever| ever.contains(&to))
    }

    /// What each way of calling it off does to the wallet.
    pub fn money_back(&self) -> Vec<Delta> {
        let refund = Delta { all: self.total, promised: 0, changes: 1 };
        let release = Delta { all: 0, promised: -self.total, changes: 1 };
        let was_paid = self.ever.as_ref().map(|ever| ever.contains(&Status::Paid));
        let mut ways = Vec::new();
        if was_paid != Some(false) {
            ways.push(refund);
        }
        if was_paid != Some(true) && self.held != Some(false) {
            ways.push(release);
        }
        ways
    }
}

/// An order as the feed tells it.
pub struct Told {
    pub account: String,
    pub units: BTreeMap<String, i64>,
    pub total: i64,
    pub held: bool,
}

impl Told {
    /// Whether it may be what became of this basket.
    pub fn is_of(&self, basket: &Basket) -> bool {
        let units = self.units.iter().map(|(sku, quantity)| (sku.as_str(), *quantity));
        self.account == basket.account && self.held == basket.hold && units.eq(sum(&basket.items))
    }
}

impl Maker<'_> {
    pub fn learn_prices(&mut self) {
        for operation in &self.ops {
            if let Some(Call { reply: Reply::Yes { answer: Answer::Sku(sku), .. }, .. }) = operation.decisive {
                self.prices.entry(sku.id.clone()).or_default().insert(sku.price);
            }
            if let Op::ChangeSku { sku, price: Some(price), .. } = operation.request {
                self.prices.entry(sku.clone()).or_default().insert(*price);
            }
        }
        for event in self.feed {
            if let Some(Fact::SkuCreated { sku, price, .. } | Fact::SkuChanged { sku, price, .. }) = fact(event) {
                self.prices.entry(sku.to_owned()).or_default().insert(price);
            }
        }
    }

    /// Orders by what their placing was answered, by what was seen under its key, and by the feed.
    pub fn learn_orders(&mut self) {
        let mut placed: Vec<(Order, bool, Micros)> = Vec::new();
        // A key that was used for two bodies does not tell whose order is shown under it.
        let mut by_key: BTreeMap<&str, Option<usize>> = BTreeMap::new();
        let mut by_trace: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, operation) in self.ops.iter().enumerate() {
            by_trace.insert(operation.attempts[0].trace.as_str(), at);
            if let Some(key) = &operation.attempts[0].key {
                let wanted = matches!(operation.request, Op::Place(_)) && operation.outcome == Outcome::Unknown;
                by_key.entry(key).and_modify(|at| *at = None).or_insert(wanted.then_some(at));
            }
            let Some(Call { reply: Reply::Yes { answer, .. }, .. }) = operation.decisive else { continue };
            match (operation.request, answer) {
                (Op::Place(basket), Answer::Order(order)) => {
                    placed.push((order.clone(), basket.hold, operation.invoked));
                }
                (Op::PlaceBatch(baskets), Answer::Orders(items)) => {
                    for (basket, item) in baskets.iter().zip(items) {
                        if let Item::Order(order) = item {
                            placed.push((order.clone(), basket.hold, operation.invoked));
                        }
                    }
                }
                _ => {}
            }
        }
        for operation in &self.ops {
            let (Op::ReadKey { key }, Some(call)) = (operation.request, operation.decisive) else { continue };
            let Reply::Yes { answer: Answer::Order(order), .. } = &call.reply else { continue };
            let Some(at) = by_key.get(key.as_str()).copied().flatten() else { continue };
            let wanted = &self.ops[at];
            let seen = self.evidence.entry(wanted.op).or_insert_with(|| (order.clone(), call.returned));
            seen.1 = seen.1.min(call.returned);
            if let Op::Place(basket) = wanted.request {
                placed.push((order.clone(), basket.hold, wanted.invoked));
            }
        }
        for (order, held, invoked) in placed {
            self.known.entry(order.id.clone()).or_insert_with(|| Known {
                account: order.account.clone(),
                lines: lines(&order),
                total: order.total,
                held: Some(held),
                placed_from: invoked,
                ..Known::default()
            });
        }
        for event in self.feed {
            match fact(event) {
                Some(Fact::Placed { order, account, lines, total, held, ttl_ms }) => {
                    let asked = by_trace.get(event.trace_id.as_str()).map_or(0, |at| self.ops[*at].invoked);
                    let known = self.known.entry(order.to_owned()).or_insert_with(|| Known {
                        account: account.to_owned(),
                        lines: lines.iter().map(|line| (line.sku.to_owned(), line.quantity)).collect(),
                        total,
                        held: Some(held),
                        placed_from: asked,
                        ..Known::default()
                    });
                    known.ttl_ms = Some(ttl_ms);
                    known.place = Some((event.index, event.sub));
                }
                Some(Fact::Moved { order, expired: true, .. }) => {
                    let known = self.known.entry(order.to_owned()).or_default();
                    known.expired.get_or_insert((event.index, event.sub));
                }
                _ => {}
            }
        }
    }

    /// When orders were seen to be what.
    pub fn learn_lives(&mut self) {
        for operation in &self.ops {
            let Some(call) = operation.decisive else { continue };
            let (from, until) = (asked_at(operation), call.returned);
            let saw = |known: &mut Known, status: Status| {
                if status != Status::Cancelled {
                    known.open_at = known.open_at.max(from);
                } else {
                    known.cancelled_by = Some(known.cancelled_by.map_or(until, |by| by.min(until)));
                }
            };
            match &call.reply {
                Reply::Yes { answer: Answer::Order(order), .. } if operation.request.is_write() || is_exact(call) => {
                    let known = self.known.entry(order.id.clone()).or_insert_with(|| Known {
                        account: order.account.clone(),
                        lines: lines(order),
                        total: order.total,
                        ..Known::default()
                    });
                    if let Some(status) = Status::of(&order.status) {
                        saw(known, status);
                        let to = target(operation.request).map(|(_, to)| to);
                        if to == Some(status) && !order.no_change {
                            known.told.insert(status);
                        }
                    }
                }
                Reply::Refused { refusal: Refusal { transition: Some((was, _)), .. }, .. } => {
                    if let (Some((order, _)), Some(status)) = (target(operation.request), Status::of(was))
                        && let Some(known) = self.known.get_mut(order)
                    {
                        saw(known, status);
                    }
                }
                _ => {}
            }
        }
        for node in self.data.finals.nodes.values() {
            for (id, order) in &node.orders {
                if let Some(known) = self.known.get_mut(id) {
                    known.ever.get_or_insert_default().extend(statuses(order));
                }
            }
        }
    }

    /// The orders that the feed tells of a request.
    pub fn told_placed(&self, trace: &str) -> Vec<Told> {
        let Some(place) = self.places.get(trace) else { return Vec::new() };
        let from = self.feed.partition_point(|event| (event.index, event.sub) < *place);
        self.feed[from..]
            .iter()
            .take_while(|event| event.index == place.0 && event.trace_id == trace)
            .filter_map(|event| match fact(event) {
                Some(Fact::Placed { account, lines, total, held, .. }) => {
                    let mut units = BTreeMap::new();
                    for line in lines {
                        *units.entry(line.sku.to_owned()).or_default() += line.quantity;
                    }
                    Some(Told { account: account.to_owned(), units, total, held })
                }
                _ => None,
            })
            .collect()
    }

    /// What the feed tells that an order's step did to its buyer's money, as (balance, held).
    pub fn told_money(&self, place: Place, order: &str) -> (i64, i64) {
        let from = self.feed.partition_point(|event| event.index < place.0);
        let events = self.feed[from..].iter().take_while(|event| event.index == place.0);
        let moves = events.filter_map(|event| match fact(event) {
            Some(Fact::Wallet { how, amount, order: of, .. }) if of == order => Some(how.moves(amount)),
            _ => None,
        });
        moves.fold((0, 0), |(all, promised), (more, held)| (all + more, promised + held))
    }

    /// What an unanswered basket may have cost: by the prices there were, or, where these are too many, by the feed.
    pub fn totals(&self, operation: &Operation<'_>, basket: &Basket) -> Option<BTreeSet<i64>> {
        let mut totals = BTreeSet::from([0]);
        for (sku, quantity) in sum(&basket.items) {
            let prices = self.prices.get(sku)?;
            totals = totals.iter().flat_map(|sum| prices.iter().map(move |price| sum + price * quantity)).collect();
            if totals.len() > TOTALS_MAX {
                break;
            }
        }
        if totals.len() <= TOTALS_MAX {
            return Some(totals);
        }
        if self.feed.is_empty() {
            return None;
        }
        let told = self.told_placed(&operation.attempts[0].trace);
        Some(told.into_iter().filter(|told| told.account == basket.account).map(|told| told.total).collect())
    }
}
