//! The feed, transaction by transaction: is each event legal where it stands, and exactly what its request asked for?

use std::collections::HashMap;

use agora_history::{FeedEvent, Operation, Outcome, StockMove};

use super::{Order, Past, Sku, Step, Stock, Terms, Wallet, World, causes};
use crate::{
    report::Report,
    words::{Fact, Money, Status, fact, time_ms},
};

/// The trace id of what nobody asked for: the timer's work.
const NOBODY: &str = "00000000000000000000000000000000";

/// Every operation of the history, found by trace id.
pub(crate) struct Requests<'a> {
    pub(crate) all: Vec<Operation<'a>>,
    by_trace: HashMap<&'a str, usize>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(all: Vec<Operation<'a>>, report: &mut Report) -> Requests<'a> {
        let mut by_trace = HashMap::with_capacity(all.len());
        for (at, operation) in all.iter().enumerate() {
            let traces = operation.attempts.iter().map(|call| call.trace.as_str());
            for trace in traces {
                if let Some(other) = by_trace.insert(trace, at).filter(|other| *other != at) {
                    let ops = [all[other].op, operation.op];
                    report.find(format!("two operations share the trace id {trace}"), &ops, None);
                }
            }
        }
        Requests { all, by_trace }
    }

    fn find(&self, trace: &str) -> Option<&Operation<'a>> {
        self.by_trace.get(trace).map(|at| &self.all[*at])
    }
}

/// Reads the feed from end to end.
pub(crate) fn replay<'a>(feed: &'a [FeedEvent], requests: &Requests<'a>, report: &mut Report) -> World<'a> {
    let mut replay = Replay { world: World::new(), requests, report, last: (0, 0), time: 0, ttl_ms: None };
    let mut from = 0;
    while from < feed.len() {
        let to = transaction_end(feed, from);
        replay.transaction(&feed[from..to]);
        from = to;
    }
    replay.world
}

/// Events of one transaction follow each other, under one trace id. The timer's transactions have none, but each is
/// about one order.
fn transaction_end(feed: &[FeedEvent], from: usize) -> usize {
    let first = &feed[from];
    let same = |event: &FeedEvent| event.index == first.index && event.trace_id == first.trace_id;
    let of_timer = (first.trace_id == NOBODY).then(|| order_of(first));
    let goes_on = |event: &&FeedEvent| same(event) && of_timer.is_none_or(|about| order_of(event) == about);
    from + feed[from..].iter().take_while(goes_on).count()
}

fn order_of(event: &FeedEvent) -> Option<&str> {
    fact(event).and_then(|fact| fact.order())
}

struct Replay<'a, 'b> {
    world: World<'a>,
    requests: &'b Requests<'a>,
    report: &'b mut Report,
    /// Index and sub of the event before.
    last: (u64, u32),
    time: i64,
    ttl_ms: Option<u64>,
}

impl<'a> Replay<'a, '_> {
    fn transaction(&mut self, events: &'a [FeedEvent]) {
        let (index, trace) = (events[0].index, events[0].trace_id.as_str());
        let operation = self.requests.find(trace);
        let ops: Vec<u64> = operation.iter().map(|operation| operation.op).collect();
        self.report.looked_at(events.len() as u64);
        let mut facts = Vec::with_capacity(events.len());
        for event in events {
            self.in_order(event, &ops);
            match fact(event) {
                Some(fact) => facts.push(fact),
                None => self.report.find(format!("an event that cannot be read: {event:?}"), &ops, Some(index)),
            }
        }
        if trace != NOBODY {
            self.asked_for(operation, trace, index);
        }
        self.caused(operation, &facts, index);
        self.world.indexes.push(index);
        let place = self.world.place();
        if trace != NOBODY && self.world.traces.insert(trace, place).is_some() {
            self.report.find(format!("the request of trace {trace} took effect a second time"), &ops, Some(index));
        }
        for (event, fact) in events.iter().zip(facts) {
            if let Err(why) = self.evolve(event, fact) {
                let what = format!("{} of {} is impossible: {why}", event.kind, event.aggregate_id);
                self.report.find(what, &ops, Some(index));
            }
        }
    }

    /// Places grow by one without a gap in an entry; time never goes back and stands still in an entry.
    fn in_order(&mut self, event: &FeedEvent, ops: &[u64]) {
        let (index, sub) = self.last;
        let follows = match event.index == index {
            true => event.sub == sub + 1,
            false => event.index > index && event.sub == 1,
        };
        if !follows {
            let what = format!("event ({}, {}) follows ({index}, {sub})", event.index, event.sub);
            self.report.find(what, ops, Some(event.index));
        }
        match time_ms(&event.time) {
            Some(time) if time == self.time || (time > self.time && event.index > index) => self.time = time,
            Some(_) => {
                let what = format!("log time {} is not that of its entry, or behind the one before", event.time);
                self.report.find(what, ops, Some(event.index));
            }
            None => self.report.find(format!("a time that cannot be read: {}", event.time), ops, Some(event.index)),
        }
        self.last = (event.index, event.sub);
    }

    /// Whoever was told that nothing happened must be right.
    fn asked_for(&mut self, operation: Option<&Operation<'a>>, trace: &str, index: u64) {
        let Some(operation) = operation else {
            self.report.find(format!("nobody sent the request of trace {trace}, and it took effect"), &[], Some(index));
            return;
        };
        let told = match operation.outcome {
            Outcome::Yes | Outcome::Unknown => return,
            Outcome::Refused => "refused",
            Outcome::NotDone => "definitely not done",
        };
        let what = format!("{:?} was {told}, and it took effect", operation.request);
        self.report.find(what, &[operation.op], Some(index));
    }

    /// The events are exactly what the request had to cause in the state before them.
    fn caused(&mut self, operation: Option<&Operation<'a>>, facts: &[Fact<'a>], index: u64) {
        let expected = match (operation, facts.first().and_then(Fact::order)) {
            (Some(operation), _) => causes::of_request(&self.world, operation.request, facts),
            (None, Some(order)) => causes::of_timer(&self.world, order, self.time),
            (None, None) => Err("no order is named".to_owned()),
        };
        let mut happened: Vec<Fact<'a>> = facts.to_vec();
        for fact in &mut happened {
            if let Fact::Placed { lines, .. } = fact {
                lines.sort();
            }
        }
        happened.sort();
        let wrong = match expected {
            Ok(mut expected) => {
                expected.sort();
                if expected == happened {
                    return;
                }
                format!("{happened:?}, and should be {expected:?}")
            }
            Err(why) => format!("{happened:?}, and could not be: {why}"),
        };
        let cause = operation.map_or_else(|| "the timer".to_owned(), |operation| format!("{:?}", operation.request));
        let ops: Vec<u64> = operation.iter().map(|operation| operation.op).collect();
        self.report.find(format!("what {cause} caused is {wrong}"), &ops, Some(index));
    }

    fn evolve(&mut self, event: &FeedEvent, fact: Fact<'a>) -> Result<(), String> {
        match fact {
            Fact::CodeTaken { code, .. } => {
                let place = self.world.place();
                version(event, 1)?;
                match self.world.codes.insert(code, place) {
                    Some(_) => Err("the code is taken".to_owned()),
                    None => Ok(()),
                }
            }
            Fact::SkuCreated { sku, code, price, sellable } => self.create_sku(event, sku, code, price, sellable),
            Fact::SkuChanged { sku, code, price, sellable } => {
                let place = self.world.place();
                let known = self.world.skus.get_mut(sku).ok_or("no such SKU")?;
                known.events += 1;
                let old = known.terms.now().ok_or("a SKU without terms")?;
                known.terms.set(place, Terms { price, sellable, version: old.version + 1 });
                if code != known.code {
                    return Err(format!("its code was {}", known.code));
                }
                version(event, known.events)
            }
            Fact::Stock { sku, how, amount, .. } => self.move_stock(event, sku, how.moves(amount)),
            Fact::AccountCreated { account, .. } => {
                let place = self.world.place();
                let mut wallet = Past::default();
                wallet.set(place, Wallet { version: 1, ..Wallet::default() });
                if self.world.accounts.insert(account, wallet).is_some() {
                    return Err("created twice".to_owned());
                }
                version(event, 1)
            }
            Fact::Wallet { account, how, amount, .. } => self.move_money(event, account, how, amount),
            Fact::Placed { order, account, lines, total, held, ttl_ms } => {
                let expire_ms = self.time.saturating_add_unsigned(ttl_ms);
                let steps = vec![self.step(Status::Created, event.index)];
                let mut lines = lines;
                lines.sort();
                let placed = Order { account, lines, total, held, expire_ms, sub: event.sub, steps };
                if self.world.orders.insert(order, placed).is_some() {
                    return Err("placed twice".to_owned());
                }
                let ttl = *self.ttl_ms.get_or_insert(ttl_ms);
                if ttl != ttl_ms {
                    return Err(format!("it lives {ttl_ms} ms, others {ttl} ms"));
                }
                version(event, 1)
            }
            Fact::Moved { order, to, .. } => {
                let step = self.step(to, event.index);
                let known = self.world.orders.get_mut(order).ok_or("no such order")?;
                let from = known.status();
                known.steps.push(step);
                if !from.may_become(to) {
                    return Err(format!("from {} to {}", from.name(), to.name()));
                }
                version(event, known.steps.len() as u64)
            }
        }
    }

    fn step(&self, status: Status, index: u64) -> Step {
        Step { status, place: self.world.place(), index }
    }

    fn create_sku(
        &mut self,
        event: &FeedEvent,
        sku: &'a str,
        code: &'a str,
        price: i64,
        sellable: bool,
    ) -> Result<(), String> {
        let place = self.world.place();
        let mut new = Sku { code, events: 1, ..Sku::default() };
        new.terms.set(place, Terms { price, sellable, version: 1 });
        new.stock.set(place, Stock::default());
        if self.world.skus.insert(sku, new).is_some() {
            return Err("created twice".to_owned());
        }
        version(event, 1)
    }

    fn move_stock(&mut self, event: &FeedEvent, sku: &str, (on_hand, reserved): (i64, i64)) -> Result<(), String> {
        let place = self.world.place();
        let known = self.world.skus.get_mut(sku).ok_or("no such SKU")?;
        let old = known.stock.now().unwrap_or_default();
        let new = Stock { on_hand: old.on_hand + on_hand, reserved: old.reserved + reserved, version: old.version + 1 };
        known.stock.set(place, new);
        known.events += 1;
        if new.on_hand < 0 || new.reserved < 0 || new.reserved > new.on_hand {
            return Err(format!("it leaves on hand {}, reserved {}", new.on_hand, new.reserved));
        }
        let told = |stock: i64| u64::try_from(stock).unwrap_or(u64::MAX);
        let expected = StockMove {
            on_hand_pre: told(old.on_hand),
            on_hand_post: told(new.on_hand),
            reserved_pre: told(old.reserved),
            reserved_post: told(new.reserved),
        };
        if event.stock != Some(expected) {
            return Err(format!("it tells {:?} of {expected:?}", event.stock));
        }
        version(event, known.events)
    }

    fn move_money(&mut self, event: &FeedEvent, account: &str, how: Money, amount: i64) -> Result<(), String> {
        let place = self.world.place();
        let known = self.world.accounts.get_mut(account).ok_or("no such account")?;
        let old = known.now().unwrap_or_default();
        let (balance, held) = how.moves(amount);
        let new = Wallet { balance: old.balance + balance, held: old.held + held, version: old.version + 1 };
        known.set(place, new);
        let posted = self.world.posted.now().unwrap_or_default();
        if balance != 0 {
            self.world.posted.set(place, posted + balance.abs());
        }
        if new.held < 0 || new.held > new.balance {
            return Err(format!("it leaves balance {}, held {}", new.balance, new.held));
        }
        version(event, new.version)
    }
}

fn version(event: &FeedEvent, expected: u64) -> Result<(), String> {
    if event.aggregate_version != expected {
        return Err(format!("it is version {}, and should be {expected}", event.aggregate_version));
    }
    Ok(())
}
