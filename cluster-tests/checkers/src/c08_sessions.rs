//! C8: what one client sees goes forward, its own writes included, and every state it is shown has existed.
//!
//! Promised by level of a read, and no more than this:
//!
//! - any: the state shown is the one that the log had at the index the answer names, and with `Min-Index` that index is
//!   no smaller than asked for. So a client that passes on its last index reads its own writes and never goes back.
//! - linearizable: all that the client was answered before, whatever it had asked.
//! - leader: the same as long as nobody doubts who leads; in a run with faults it is only counted.
//! - bounded: what anybody was answered more than the bound before it asked; and while nothing is broken, all that this
//!   node itself has answered.
//! - local: nothing beyond the first.
//!
//! A page of the feed holds exactly what the feed has, in the end, between where it was asked to begin and where it says
//! to go on.

use std::collections::HashMap;

use agora_history::{
    Account, Answer, Call, FeedEvent, FeedPage, Item, Level, Micros, NodeId, Op, Order, Reply, RunData, Sku, Stock,
};

use crate::{
    Checked,
    report::Report,
    words::{Fact, fact},
};

/// How old a bounded read may be.
const BOUND_US: Micros = 2_000_000;
/// What is left to clocks, and to the way of an answer.
const SLACK_US: Micros = 500_000;

/// A state of something.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Stock(u64, u64),
    Terms(i64, bool),
    Wallet(i64, i64),
    Order(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Stock,
    Terms,
    Wallet,
    Order,
}

type Object<'a> = (Kind, &'a str);

/// One version of something, and the entry that made it.
#[derive(Debug)]
struct Version {
    number: u64,
    index: u64,
    state: State,
}

/// What was shown of one thing.
struct Shown<'a> {
    object: Object<'a>,
    version: u64,
    state: State,
}

/// Every version of everything, by the feed.
#[derive(Default)]
struct Past<'a> {
    versions: HashMap<Object<'a>, Vec<Version>>,
}

impl<'a> Past<'a> {
    fn push(&mut self, object: Object<'a>, number: u64, index: u64, state: State) {
        self.versions.entry(object).or_default().push(Version { number, index, state });
    }

    fn state(&self, object: Object<'a>) -> Option<&State> {
        self.versions.get(&object)?.last().map(|version| &version.state)
    }

    fn learn(&mut self, feed: &'a [FeedEvent]) {
        for event in feed {
            let Some(fact) = fact(event) else { continue };
            let (index, told) = (event.index, event.aggregate_version);
            match fact {
                Fact::SkuCreated { sku, price, sellable, .. } => {
                    self.push((Kind::Terms, sku), told, index, State::Terms(price, sellable));
                    self.push((Kind::Stock, sku), 0, index, State::Stock(0, 0));
                }
                Fact::SkuChanged { sku, price, sellable, .. } => {
                    let next = self.next((Kind::Terms, sku), 1);
                    self.push((Kind::Terms, sku), next, index, State::Terms(price, sellable));
                }
                Fact::Stock { sku, .. } => {
                    let Some(moved) = event.stock else { continue };
                    let next = self.next((Kind::Stock, sku), 0);
                    let state = State::Stock(moved.on_hand_post, moved.reserved_post);
                    self.push((Kind::Stock, sku), next, index, state);
                }
                Fact::AccountCreated { account, .. } => {
                    self.push((Kind::Wallet, account), told, index, State::Wallet(0, 0));
                }
                Fact::Wallet { account, how, amount, .. } => {
                    let object = (Kind::Wallet, account);
                    let Some(State::Wallet(balance, held)) = self.state(object).cloned() else { continue };
                    let (more, promised) = how.moves(amount);
                    self.push(object, told, index, State::Wallet(balance + more, held + promised));
                }
                Fact::Placed { order, .. } => {
                    self.push((Kind::Order, order), told, index, State::Order("CREATED".to_owned()));
                }
                Fact::Moved { order, to, .. } => {
                    self.push((Kind::Order, order), told, index, State::Order(to.name().to_owned()));
                }
                Fact::CodeTaken { .. } => {}
            }
        }
    }

    /// Number of the next version; the first one is `first` behind a creation that is not in the feed.
    fn next(&self, object: Object<'a>, first: u64) -> u64 {
        self.versions.get(&object).and_then(|versions| versions.last()).map_or(first, |last| last.number) + 1
    }

    fn at<'b>(&'b self, object: Object<'b>, index: u64) -> Option<&'b Version> {
        let versions = self.versions.get(&object)?;
        versions[..versions.partition_point(|version| version.index <= index)].last()
    }

    fn version<'b>(&'b self, object: Object<'b>, number: u64) -> Option<&'b Version> {
        let versions = self.versions.get(&object)?;
        let at = versions.binary_search_by_key(&number, |version| version.number).ok()?;
        versions.get(at)
    }
}

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C8", "own writes, nothing backwards, and no state that never was");
    let longest = data.feeds.values().max_by_key(|feed| feed.len()).map_or(&[][..], Vec::as_slice);
    let mut past = Past::default();
    past.learn(longest);
    let mut calls: Vec<&Call> = data.calls.iter().collect();
    calls.sort_by_key(|call| call.invoked);
    if !longest.is_empty() {
        existed(&mut report, &past, &calls);
        pages(&mut report, longest, &calls);
    }
    sessions(&mut report, &calls, data.faults.is_empty());
    if data.faults.iter().all(|fault| !fault.is_of("N15")) {
        bounded(&mut report, &calls);
    }
    if data.faults.is_empty() {
        own_word(&mut report, &calls);
    }
    report.done()
}

fn stock_of(stock: &Stock) -> Shown<'_> {
    Shown {
        object: (Kind::Stock, &stock.sku),
        version: stock.version,
        state: State::Stock(stock.on_hand, stock.reserved),
    }
}

fn terms_of(sku: &Sku) -> Shown<'_> {
    Shown { object: (Kind::Terms, &sku.id), version: sku.version, state: State::Terms(sku.price, sku.sellable) }
}

fn wallet_of(account: &Account) -> Shown<'_> {
    Shown {
        object: (Kind::Wallet, &account.id),
        version: account.version,
        state: State::Wallet(account.balance, account.held),
    }
}

fn order_of(order: &Order) -> Shown<'_> {
    Shown { object: (Kind::Order, &order.id), version: order.version, state: State::Order(order.status.clone()) }
}

fn shown(call: &Call) -> Vec<Shown<'_>> {
    let Reply::Yes { answer, .. } = &call.reply else { return Vec::new() };
    match answer {
        Answer::Sku(sku) => vec![terms_of(sku)],
        Answer::Stocks(stocks) => stocks.iter().map(stock_of).collect(),
        Answer::Account(account) => vec![wallet_of(account)],
        Answer::Order(order) => vec![order_of(order)],
        Answer::Orders(items) => items
            .iter()
            .filter_map(|item| match item {
                Item::Order(order) => Some(order_of(order)),
                Item::Refused(_) => None,
            })
            .collect(),
        Answer::Ledger { .. } | Answer::Feed(_) => Vec::new(),
    }
}

fn name(object: Object<'_>) -> String {
    match object.0 {
        Kind::Stock => format!("stock of {}", object.1),
        Kind::Terms => format!("terms of {}", object.1),
        Kind::Wallet => format!("wallet of {}", object.1),
        Kind::Order => object.1.to_owned(),
    }
}

/// Every state shown was there, reads at the index they name.
fn existed(report: &mut Report, past: &Past<'_>, calls: &[&Call]) {
    let mut states = 0;
    for call in calls {
        for shown in shown(call) {
            states += 1;
            let (of, version) = (name(shown.object), shown.version);
            match past.version(shown.object, version) {
                Some(known) if known.state == shown.state => {}
                Some(known) => {
                    let what =
                        format!("version {version} of {of} was {:?} and is shown as {:?}", known.state, shown.state);
                    report.find(what, &[call.op], Some(known.index));
                    continue;
                }
                None => {
                    report.find(format!("{of} is shown in version {version}, which never was"), &[call.op], call.index);
                    continue;
                }
            }
            let Some(index) = call.index.filter(|_| !call.request.is_write()) else { continue };
            let there = past.at(shown.object, index);
            if there.is_none_or(|there| there.number != version) {
                let was = there.map_or("none".to_owned(), |there| there.number.to_string());
                let what = format!("{of} is shown in version {version} as of index {index}, which had version {was}");
                report.find(what, &[call.op], Some(index));
            }
        }
        if let Some(object) = said_missing(call)
            && let Some(index) = call.index
            && let Some(there) = past.at(object, index)
        {
            let what = format!("{} was made at index {}, and at {index} there is none", name(object), there.index);
            report.find(what, &[call.op], Some(index));
        }
    }
    report.figure("states_shown", states as f64);
}

/// What a read was told not to exist.
fn said_missing(call: &Call) -> Option<Object<'_>> {
    if !matches!(&call.reply, Reply::NotDone { status: 404, .. } | Reply::Refused { status: 404, .. }) {
        return None;
    }
    match &call.request {
        Op::ReadStock { sku } => Some((Kind::Stock, sku)),
        Op::ReadSku { sku } => Some((Kind::Terms, sku)),
        Op::ReadWallet { account } => Some((Kind::Wallet, account)),
        Op::ReadOrder { order } => Some((Kind::Order, order)),
        _ => None,
    }
}

/// What one client was shown of one thing last.
#[derive(Clone, Copy)]
struct Last {
    version: u64,
    op: u64,
}

fn sessions(report: &mut Report, calls: &[&Call], steady: bool) {
    let mut known: HashMap<(u32, Object<'_>), Last> = HashMap::new();
    let (mut reads, mut leader_back, mut local_back) = (0, 0u64, 0u64);
    // In the order of their answers, since a client may ask several things at once.
    let mut answered: Vec<&Call> = calls.to_vec();
    answered.sort_by_key(|call| call.returned);
    let mut behind = answered.iter().peekable();
    for call in calls {
        while let Some(earlier) = behind.next_if(|earlier| earlier.returned < call.invoked) {
            for shown in shown(earlier) {
                let last = Last { version: shown.version, op: earlier.op };
                let entry = known.entry((earlier.client, shown.object)).or_insert(last);
                if entry.version < last.version {
                    *entry = last;
                }
            }
        }
        if call.request.is_write() {
            continue;
        }
        if let (Some(index), Some(least), Reply::Yes { .. }) = (call.index, call.min_index, &call.reply)
            && index < least
        {
            report.find(format!("asked for index {least} at least, answered as of {index}"), &[call.op], Some(index));
        }
        for shown in shown(call) {
            reads += 1;
            let Some(last) = known.get(&(call.client, shown.object)) else { continue };
            if last.version <= shown.version {
                continue;
            }
            let must = match call.level {
                None | Some(Level::Linearizable) => true,
                Some(Level::Leader) => {
                    leader_back += 1;
                    steady
                }
                Some(Level::Bounded | Level::Local) => {
                    local_back += 1;
                    false
                }
            };
            if must {
                let what = format!(
                    "client {} is shown version {} of {} after version {}",
                    call.client,
                    shown.version,
                    name(shown.object),
                    last.version
                );
                report.find(what, &[call.op, last.op], call.index);
            }
        }
    }
    report.looked_at(reads);
    report.figure("leader_reads_that_went_back", leader_back as f64);
    report.figure("bounded_and_local_reads_that_went_back", local_back as f64);
}

/// A bounded read shows what anybody was answered longer ago than its bound.
fn bounded(report: &mut Report, calls: &[&Call]) {
    let mut answered: Vec<&Call> = calls.to_vec();
    answered.sort_by_key(|call| call.returned);
    let mut behind = answered.iter().peekable();
    let mut newest: HashMap<Object<'_>, Last> = HashMap::new();
    let mut furthest = (0, 0);
    let mut oldest_ms = 0;
    for call in calls.iter().filter(|call| call.level == Some(Level::Bounded) && !call.request.is_write()) {
        let Some(limit) = call.invoked.checked_sub(BOUND_US + SLACK_US) else { continue };
        while let Some(earlier) = behind.next_if(|earlier| earlier.returned < limit) {
            furthest = furthest.max((written_at(earlier), earlier.op));
            for shown in shown(earlier) {
                let last = Last { version: shown.version, op: earlier.op };
                let entry = newest.entry(shown.object).or_insert(last);
                if entry.version < last.version {
                    *entry = last;
                }
            }
        }
        oldest_ms = oldest_ms.max(call.staleness_ms.unwrap_or(0));
        let index = call.index.filter(|_| matches!(call.reply, Reply::Yes { .. }));
        if let Some(index) = index.filter(|index| *index < furthest.0) {
            let what = format!(
                "a bounded read of node {} (staleness {:?} ms) is as of index {index}; {} was answered more than {} ms before",
                call.node,
                call.staleness_ms,
                furthest.0,
                (BOUND_US + SLACK_US) / 1_000
            );
            report.find(what, &[call.op, furthest.1], Some(index));
        }
        for shown in shown(call) {
            if let Some(last) = newest.get(&shown.object).filter(|last| last.version > shown.version) {
                let what = format!(
                    "a bounded read shows version {} of {}; version {} was answered more than {} ms before",
                    shown.version,
                    name(shown.object),
                    last.version,
                    (BOUND_US + SLACK_US) / 1_000
                );
                report.find(what, &[call.op, last.op], call.index);
            }
        }
    }
    report.figure("oldest_bounded_read_ms", oldest_ms as f64);
}

/// The index of an answered write, 0 for everything else.
fn written_at(call: &Call) -> u64 {
    let answered = matches!(call.reply, Reply::Yes { .. } | Reply::Refused { .. });
    call.index.filter(|_| answered && call.request.is_write()).unwrap_or(0)
}

/// A bounded read shows what the same node has answered before. A node that is started anew no longer knows what it
/// answered, so this is looked at in runs without faults.
fn own_word(report: &mut Report, calls: &[&Call]) {
    let mut answered: Vec<&Call> = calls.to_vec();
    answered.sort_by_key(|call| call.returned);
    let mut behind = answered.iter().peekable();
    let mut told: HashMap<NodeId, (u64, u64)> = HashMap::new();
    for call in calls.iter().filter(|call| call.level == Some(Level::Bounded) && !call.request.is_write()) {
        while let Some(earlier) = behind.next_if(|earlier| earlier.returned < call.invoked) {
            let entry = told.entry(earlier.node).or_default();
            *entry = (*entry).max((written_at(earlier), earlier.op));
        }
        let Some((index, (least, op))) = call.index.zip(told.get(&call.node)) else { continue };
        if index < *least && matches!(call.reply, Reply::Yes { .. }) {
            let what = format!("a bounded read is as of index {index}, and node {} had answered {least}", call.node);
            report.find(what, &[call.op, *op], Some(index));
        }
    }
}

fn pages(report: &mut Report, feed: &[FeedEvent], calls: &[&Call]) {
    let begins = feed.first().map_or(0, |event| event.index);
    let mut pages = 0;
    for call in calls {
        let (Op::ReadFeed { after, .. }, Reply::Yes { answer: Answer::Feed(page), .. }) = (&call.request, &call.reply)
        else {
            continue;
        };
        pages += 1;
        if let Err(what) = page_is_right(feed, *after, page, begins) {
            report.find(format!("a page of the feed behind {after} {what}"), &[call.op], call.index);
        }
    }
    report.looked_at(pages);
    report.figure("feed_pages", pages as f64);
}

fn page_is_right(feed: &[FeedEvent], after: u64, page: &FeedPage, begins: u64) -> Result<(), String> {
    let last = page.places.last().map_or(after, |place| place.0);
    if page.next_after < last || page.next_after > page.head_index.max(after) {
        return Err(format!(
            "ends at {last}, says to go on behind {} and that the feed ends at {}",
            page.next_after, page.head_index
        ));
    }
    let from = feed.partition_point(|event| event.index <= after);
    let until = feed.partition_point(|event| event.index <= page.next_after);
    let known = feed[from.min(until)..until].iter().map(|event| (event.index, event.sub));
    // What the feed, read at the end, no longer has cannot be compared.
    let shown = page.places.iter().copied().skip_while(|place| place.0 < begins);
    let (known, shown): (Vec<_>, Vec<_>) = (known.collect(), shown.collect());
    if known == shown {
        return Ok(());
    }
    let differ = known.iter().zip(&shown).position(|(one, other)| one != other).unwrap_or(known.len().min(shown.len()));
    Err(format!(
        "has {} events up to {}, where the feed has {}; at place {differ} {:?} for {:?}",
        shown.len(),
        page.next_after,
        known.len(),
        shown.get(differ),
        known.get(differ)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(op: u64, node: NodeId, invoked: Micros, request: Op, index: u64) -> Call {
        let is_write = request.is_write();
        Call {
            op,
            attempt: 0,
            client: u32::try_from(op).expect("a small number"),
            node,
            invoked,
            returned: invoked + 1_000,
            key: is_write.then(|| op.to_string()),
            trace: format!("{op:032x}"),
            level: (!is_write).then_some(Level::Bounded),
            min_index: None,
            request,
            reply: Reply::Yes { status: 200, answer: Answer::Orders(Vec::new()) },
            index: Some(index),
            staleness_ms: None,
            replayed: false,
            body_hash: None,
        }
    }

    #[track_caller]
    fn finds(read: (NodeId, Micros, u64), count: usize) {
        let write = Op::AdjustWallet { account: "usr_1".to_owned(), amount: 1 };
        let (node, invoked, index) = read;
        let calls = vec![call(1, 1, 0, write, 50), call(2, node, invoked, Op::ReadLedger, index)];
        let found = check(&RunData { calls, ..RunData::default() }).findings;
        assert_eq!(found.len(), count, "{found:?}");
    }

    #[test]
    fn a_bounded_read_is_not_older_than_its_bound_nor_than_its_nodes_own_word() {
        finds((2, 2_000_000, 49), 0);
        finds((2, 3_000_000, 49), 1);
        finds((2, 3_000_000, 50), 0);
        finds((1, 500, 49), 0);
        finds((1, 2_000, 49), 1);
        finds((1, 2_000, 50), 0);
    }
}
