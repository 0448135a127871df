//! C3: transactions that touch several objects happened in one order, which agrees with the clock of their clients.
//!
//! As Elle does it: versions tell, object by object, who wrote before whom (ww), who read what whom had written (wr), and
//! who read what another then replaced (rw). A request that was answered before another was asked comes before it as well.
//! Put together, these must not run in a circle. Versions come from answers and from the feed, where its events name them;
//! the order of the feed and its indexes are not looked at.
//!
//! "Answered before it was asked" is true of most pairs there are; a chain through the answers in the order of time says
//! the same with three edges an operation.

use std::collections::{BTreeMap, HashMap, VecDeque};

use agora_history::{Answer, Item, Level, Op, Operation, Order, Outcome, Reply, RunData, Stock, operations};

use crate::{
    Checked,
    cycles::{Graph, components},
    report::Report,
    words::fact,
};

/// Circles of one tangle that are looked at to find a short one.
const STARTS_MAX: usize = 16;

/// Which version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Stock,
    Terms,
    Wallet,
    Order,
}

type Object<'a> = (Kind, &'a str);

/// Who did it.
#[derive(Clone, Debug)]
enum Node<'a> {
    /// An operation, by its place in the list.
    Operation(usize),
    /// Something no client asked for, or whose call is not known.
    Other { index: u64, about: &'a str },
    /// An answer, as a point in time.
    Moment,
}

/// Why one comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It wrote the next version of this object.
    Wrote(u32),
    /// It read what the other wrote.
    Read(u32),
    /// It replaced what the other read.
    Replaced(u32),
    /// It was asked when the other had been answered.
    Time,
}

#[derive(Default)]
struct History {
    /// Version and who wrote it.
    writers: BTreeMap<u64, u32>,
    /// Version and who read it.
    readers: Vec<(u64, u32)>,
}

struct Maker<'a> {
    ops: &'a [Operation<'a>],
    nodes: Vec<Node<'a>>,
    graph: Graph<Why>,
    numbers: HashMap<Object<'a>, u32>,
    names: Vec<Object<'a>>,
    histories: Vec<History>,
    report: Report,
    /// SKUs each operation or other transaction changed.
    width: HashMap<u32, Vec<&'a str>>,
}

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let ops = operations(&data.calls);
    let mut maker = Maker {
        ops: &ops,
        nodes: (0..ops.len()).map(Node::Operation).collect(),
        graph: Graph::default(),
        numbers: HashMap::new(),
        names: Vec::new(),
        histories: Vec::new(),
        report: Report::new("C3", "transactions over several objects in one order"),
        width: HashMap::new(),
    };
    let has_feed = maker.feed(data);
    maker.answers();
    maker.by_version(has_feed);
    maker.by_time();
    let wide = maker.width.values_mut().filter_map(|skus| {
        skus.sort_unstable();
        skus.dedup();
        (skus.len() > 1).then_some(())
    });
    let wide = wide.count();
    maker.report.figure("transactions_over_several_skus", wide as f64);
    maker.report.figure("edges", maker.graph.edges() as f64);
    maker.report.figure("objects", maker.names.len() as f64);
    maker.circles();
    maker.report.done()
}

impl<'a> Maker<'a> {
    fn object(&mut self, object: Object<'a>) -> usize {
        let next = self.names.len();
        let number = *self.numbers.entry(object).or_insert(next as u32) as usize;
        if number == next {
            self.names.push(object);
            self.histories.push(History::default());
        }
        number
    }

    fn name(&self, object: u32) -> String {
        let (kind, id) = self.names[object as usize];
        match kind {
            Kind::Stock => format!("stock of {id}"),
            Kind::Terms => format!("terms of {id}"),
            Kind::Wallet => format!("wallet of {id}"),
            Kind::Order => id.to_owned(),
        }
    }

    fn who(&self, node: u32) -> String {
        match &self.nodes[node as usize] {
            Node::Operation(at) => format!("operation {}", self.ops[*at].op),
            Node::Other { index, about } => format!("entry {index} on {about}"),
            Node::Moment => "a moment".to_owned(),
        }
    }

    fn op(&self, node: u32) -> Option<u64> {
        match &self.nodes[node as usize] {
            Node::Operation(at) => Some(self.ops[*at].op),
            _ => None,
        }
    }

    fn wrote(&mut self, node: u32, object: Object<'a>, version: u64) {
        let number = self.object(object);
        let first = *self.histories[number].writers.entry(version).or_insert(node);
        if first != node {
            let what = format!(
                "version {version} of {} was written twice, by {} and by {}",
                self.name(number as u32),
                self.who(first),
                self.who(node)
            );
            let ops: Vec<u64> = [first, node].into_iter().filter_map(|node| self.op(node)).collect();
            self.report.find(what, &ops, None);
        }
    }

    fn read(&mut self, node: u32, object: Object<'a>, version: u64) {
        let number = self.object(object);
        self.histories[number].readers.push((version, node));
    }

    /// Writers by the longest feed. False where there is none.
    fn feed(&mut self, data: &'a RunData) -> bool {
        let Some(feed) = data.feeds.values().max_by_key(|feed| feed.len()).filter(|feed| !feed.is_empty()) else {
            return false;
        };
        let mut by_trace: HashMap<&str, u32> = HashMap::with_capacity(self.ops.len());
        for (at, operation) in self.ops.iter().enumerate() {
            by_trace.insert(operation.attempts[0].trace.as_str(), at as u32);
        }
        let mut others: HashMap<(u64, &str, &str), u32> = HashMap::new();
        let mut entry_of: HashMap<u32, u64> = HashMap::new();
        let mut terms: HashMap<&str, u64> = HashMap::new();
        for event in feed {
            let id = event.aggregate_id.as_str();
            let node = match by_trace.get(event.trace_id.as_str()) {
                Some(node) => {
                    let first = *entry_of.entry(*node).or_insert(event.index);
                    if first != event.index {
                        let op = self.op(*node);
                        let what =
                            format!("{} took effect in entry {first} and in entry {}", self.who(*node), event.index);
                        self.report.find(what, op.as_slice(), Some(event.index));
                        continue;
                    }
                    *node
                }
                None => {
                    let about = fact(event).and_then(|fact| fact.order()).unwrap_or_default();
                    let next = self.nodes.len() as u32;
                    let key = (event.index, event.trace_id.as_str(), about);
                    let node = *others.entry(key).or_insert(next);
                    if node == next {
                        let about = if about.is_empty() { id } else { about };
                        self.nodes.push(Node::Other { index: event.index, about });
                    }
                    node
                }
            };
            let version = event.aggregate_version;
            match event.aggregate.as_str() {
                // A SKU's version in the feed is the sum of that of its terms and that of its stock.
                "sku" if event.stock.is_some() => {
                    let of_terms = terms.get(id).copied().unwrap_or(1);
                    self.wrote(node, (Kind::Stock, id), version.saturating_sub(of_terms));
                    self.width.entry(node).or_default().push(id);
                }
                "sku" => {
                    let now = terms.entry(id).and_modify(|now| *now += 1).or_insert(1);
                    let now = *now;
                    self.wrote(node, (Kind::Terms, id), now);
                }
                "order" => self.wrote(node, (Kind::Order, id), version),
                "account" => self.wrote(node, (Kind::Wallet, id), version),
                _ => {}
            }
        }
        true
    }

    /// What answers show: of writes, what they wrote; of linearizable reads, what they read.
    fn answers(&mut self) {
        let ops = self.ops;
        let mut looked_at = 0;
        for (at, operation) in ops.iter().enumerate() {
            let node = at as u32;
            let Some(call) = operation.decisive else { continue };
            let Reply::Yes { answer, .. } = &call.reply else { continue };
            let write = operation.request.is_write();
            if !write && !matches!(call.level, None | Some(Level::Linearizable)) {
                continue;
            }
            looked_at += 1;
            match answer {
                Answer::Stocks(stocks) => self.stocks(node, stocks, write),
                Answer::Sku(sku) if write => {
                    // A change that changed nothing shows what somebody else wrote.
                    let changed = match operation.request {
                        Op::ChangeSku { expected_version, .. } => sku.version > *expected_version,
                        _ => true,
                    };
                    if changed {
                        self.wrote(node, (Kind::Terms, &sku.id), sku.version);
                    }
                }
                Answer::Sku(sku) => self.read(node, (Kind::Terms, &sku.id), sku.version),
                Answer::Account(account) if write => {
                    self.wrote(node, (Kind::Wallet, &account.id), account.version);
                }
                Answer::Account(account) => self.read(node, (Kind::Wallet, &account.id), account.version),
                Answer::Order(order) => self.order(node, order, write && !order.no_change),
                Answer::Orders(items) => {
                    for item in items {
                        if let Item::Order(order) = item {
                            self.order(node, order, true);
                        }
                    }
                }
                Answer::Ledger { .. } | Answer::Feed(_) => {}
            }
        }
        self.report.looked_at(looked_at);
    }

    fn stocks(&mut self, node: u32, stocks: &'a [Stock], write: bool) {
        for stock in stocks {
            if write {
                self.wrote(node, (Kind::Stock, &stock.sku), stock.version);
                self.width.entry(node).or_default().push(&stock.sku);
            } else {
                self.read(node, (Kind::Stock, &stock.sku), stock.version);
            }
        }
    }

    fn order(&mut self, node: u32, order: &'a Order, wrote: bool) {
        if wrote {
            self.wrote(node, (Kind::Order, &order.id), order.version);
        } else if self.ops[node as usize].request.is_write() {
            // "Already so": true when it was decided, which may be before others were answered.
        } else {
            self.read(node, (Kind::Order, &order.id), order.version);
        }
    }

    fn by_version(&mut self, has_feed: bool) {
        let histories = std::mem::take(&mut self.histories);
        for (object, history) in histories.iter().enumerate() {
            let object = object as u32;
            let mut last: Option<(u64, u32)> = None;
            for (version, writer) in &history.writers {
                // A version in between may have been written by somebody who was never answered.
                if let Some((_, before)) = last {
                    self.edge(before, *writer, Why::Wrote(object));
                }
                last = Some((*version, *writer));
            }
            for (version, reader) in &history.readers {
                match history.writers.range(..=version).next_back() {
                    Some((written, writer)) if written == version => self.edge(*writer, *reader, Why::Read(object)),
                    other => {
                        if let Some((_, writer)) = other {
                            self.edge(*writer, *reader, Why::Read(object));
                        }
                        if has_feed && !(self.names[object as usize].0 == Kind::Stock && *version == 0) {
                            let op = self.op(*reader);
                            let what = format!(
                                "{} read version {version} of {}, which nobody wrote",
                                self.who(*reader),
                                self.name(object)
                            );
                            self.report.find(what, op.as_slice(), None);
                        }
                    }
                }
                if let Some((_, writer)) = history.writers.range(version + 1..).next() {
                    self.edge(*reader, *writer, Why::Replaced(object));
                }
            }
        }
        self.histories = histories;
    }

    fn edge(&mut self, from: u32, to: u32, why: Why) {
        if from != to {
            self.graph.edge(from, to, why);
        }
    }

    fn by_time(&mut self) {
        let ops = self.ops;
        let mut answered: Vec<(u64, u32)> = Vec::new();
        for (at, operation) in ops.iter().enumerate() {
            let counts = matches!(operation.outcome, Outcome::Yes);
            if let Some(returned) = operation.returned.filter(|_| counts) {
                answered.push((returned, at as u32));
            }
        }
        answered.sort_unstable();
        let first = self.nodes.len() as u32;
        for (place, (_, node)) in answered.iter().enumerate() {
            let moment = first + place as u32;
            self.nodes.push(Node::Moment);
            self.graph.edge(*node, moment, Why::Time);
            if place > 0 {
                self.graph.edge(moment - 1, moment, Why::Time);
            }
        }
        for (at, operation) in ops.iter().enumerate() {
            let exact = |call: &agora_history::Call| matches!(call.level, None | Some(Level::Linearizable));
            let asked = match operation.decisive {
                Some(call) if !operation.request.is_write() && exact(call) => call.invoked,
                _ if operation.request.is_write() => operation.invoked,
                _ => continue,
            };
            let before = answered.partition_point(|(returned, _)| *returned < asked);
            if before > 0 {
                self.graph.edge(first + before as u32 - 1, at as u32, Why::Time);
            }
        }
    }

    fn circles(&mut self) {
        let graph = std::mem::take(&mut self.graph).ready(self.nodes.len());
        for component in components(&graph) {
            let starts: Vec<u32> = component
                .iter()
                .copied()
                .filter(|node| !matches!(self.nodes[*node as usize], Node::Moment))
                .take(STARTS_MAX)
                .collect();
            let inside: std::collections::HashSet<u32> = component.iter().copied().collect();
            let shortest = starts.iter().filter_map(|start| graph.circle(*start, &inside)).min_by_key(VecDeque::len);
            let Some(circle) = shortest else { continue };
            let mut what = String::from("a circle: ");
            let mut ops = Vec::new();
            let mut in_time = false;
            for (node, why) in &circle {
                if !matches!(self.nodes[*node as usize], Node::Moment) {
                    what += &self.who(*node);
                    ops.extend(self.op(*node));
                    in_time = false;
                }
                match why {
                    Why::Time if !in_time => {
                        what += " -answered before the call of-> ";
                        in_time = true;
                    }
                    Why::Time => {}
                    Why::Wrote(object) => what += &format!(" -wrote before ({})-> ", self.name(*object)),
                    Why::Read(object) => what += &format!(" -was read by ({})-> ", self.name(*object)),
                    Why::Replaced(object) => {
                        what += &format!(" -read what was replaced ({}) by-> ", self.name(*object))
                    }
                }
            }
            if let Some((node, _)) = circle.front() {
                what += &self.who(*node);
            }
            self.report.find(what, &ops, None);
        }
    }
}
