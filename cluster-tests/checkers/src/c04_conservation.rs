//! C4: stock and money are conserved at every index.
//!
//! Two accounts are kept of the same thing, from different events, and must agree behind every entry: what a SKU says
//! it has promised and what open orders hold of it; what a wallet says it holds for orders and what unpaid orders with a
//! hold cost; what a wallet has and what came in by hand less what paid orders cost. Nothing is ever negative, and what
//! one event leaves the next one finds. At the end every node's own figures must add up in the same way, and debits
//! equal credits whenever they are read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agora_history::{Answer, FeedEvent, Item, NodeFinals, Reply, RunData, Stock};

use crate::{
    Checked,
    report::Report,
    words::{Fact, Line, Status, Units, fact, longest_feed},
};

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C4", "stock and money are conserved at every index");
    let mut books = Books::default();
    let feed = longest_feed(data);
    let mut from = 0;
    while from < feed.len() {
        let index = feed[from].index;
        let to = from + feed[from..].iter().take_while(|event| event.index == index).count();
        feed[from..to].iter().for_each(|event| books.book(event, &mut report));
        books.close(index, &mut report);
        report.looked_at((to - from) as u64);
        from = to;
    }
    let last = feed.last().map_or(0, |event| event.index);
    for (node, finals) in &data.finals.nodes {
        let mut wrong = at_the_end(finals);
        if finals.index >= last {
            wrong.extend(books.compare(finals));
        }
        for why in wrong {
            report.find(format!("node {node} at the end: {why}"), &[], Some(finals.index));
        }
    }
    answers(data, &mut report);
    report.done()
}

#[derive(Default)]
struct Shelf {
    on_hand: i64,
    reserved: i64,
    /// Received and adjusted less shipped.
    came: i64,
    /// Lines of open orders.
    open: i64,
}

#[derive(Default)]
struct Purse {
    balance: i64,
    held: i64,
    /// Put in by hand.
    came: i64,
    /// Cost of paid orders.
    spent: i64,
    /// Cost of unpaid orders with a hold.
    open: i64,
}

struct Bought<'a> {
    account: &'a str,
    lines: Vec<Line<'a>>,
    total: i64,
    held: bool,
    status: Status,
}

#[derive(Default)]
struct Books<'a> {
    shelves: HashMap<&'a str, Shelf>,
    purses: HashMap<&'a str, Purse>,
    orders: HashMap<&'a str, Bought<'a>>,
    /// What the entry has touched.
    skus: BTreeSet<&'a str>,
    accounts: BTreeSet<&'a str>,
    /// Sums over all accounts.
    funding: i64,
    revenue: i64,
    balances: i64,
}

impl<'a> Books<'a> {
    fn book(&mut self, event: &'a FeedEvent, report: &mut Report) {
        match fact(event) {
            Some(Fact::Stock { sku, how, amount, .. }) => {
                self.skus.insert(sku);
                let shelf = self.shelves.entry(sku).or_default();
                let (on_hand, reserved) = how.moves(amount);
                if !matches!(how, Units::Reserved | Units::Released) {
                    shelf.came += on_hand;
                }
                let told = event.stock.map(|told| {
                    let figures = [told.on_hand_pre, told.reserved_pre, told.on_hand_post, told.reserved_post];
                    figures.map(|units| i64::try_from(units).unwrap_or(i64::MAX))
                });
                let expected = [shelf.on_hand, shelf.reserved, shelf.on_hand + on_hand, shelf.reserved + reserved];
                if told != Some(expected) {
                    let what = format!("{} of {sku} tells {told:?}, and should {expected:?}", event.kind);
                    report.find(what, &[], Some(event.index));
                }
                [_, _, shelf.on_hand, shelf.reserved] = told.unwrap_or(expected);
            }
            Some(Fact::Wallet { account, how, amount, .. }) => {
                self.accounts.insert(account);
                let purse = self.purses.entry(account).or_default();
                let (balance, held) = how.moves(amount);
                purse.balance += balance;
                purse.held += held;
                self.balances += balance;
                if how == crate::words::Money::Adjusted {
                    purse.came += amount;
                    self.funding += amount;
                }
            }
            Some(Fact::Placed { order, account, lines, total, held, .. }) => {
                self.open(&lines, 1);
                self.hold(account, if held { total } else { 0 }, 0);
                self.orders.insert(order, Bought { account, lines, total, held, status: Status::Created });
            }
            Some(Fact::Moved { order, to, .. }) => self.step(order, to, event.index, report),
            _ => {}
        }
    }

    fn open(&mut self, lines: &[Line<'a>], sign: i64) {
        for line in lines {
            self.skus.insert(line.sku);
            self.shelves.entry(line.sku).or_default().open += sign * line.quantity;
        }
    }

    fn hold(&mut self, account: &'a str, open: i64, spent: i64) {
        self.accounts.insert(account);
        let purse = self.purses.entry(account).or_default();
        purse.open += open;
        purse.spent += spent;
        self.revenue += spent;
    }

    fn step(&mut self, order: &'a str, to: Status, index: u64, report: &mut Report) {
        let Some(mut bought) = self.orders.remove(order) else {
            report.find(format!("{order} moves and was never placed"), &[], Some(index));
            return;
        };
        let unpaid = bought.status == Status::Created;
        let hold = if unpaid && bought.held { -bought.total } else { 0 };
        match to {
            Status::Paid => self.hold(bought.account, hold, bought.total),
            Status::Cancelled => {
                let back = if unpaid { 0 } else { -bought.total };
                self.hold(bought.account, hold, back);
                self.open(&bought.lines, -1);
            }
            Status::Shipped => self.open(&bought.lines, -1),
            Status::Created | Status::Completed => {}
        }
        bought.status = to;
        self.orders.insert(order, bought);
    }

    /// Behind an entry, all that it has touched adds up.
    fn close(&mut self, index: u64, report: &mut Report) {
        for sku in std::mem::take(&mut self.skus) {
            let Some(Shelf { on_hand, reserved, came, open }) = self.shelves.get(sku) else { continue };
            if *reserved < 0 || reserved > on_hand || reserved != open || on_hand != came {
                let what = format!(
                    "{sku}: on hand {on_hand} of {came} that came, reserved {reserved} of {open} in open orders"
                );
                report.find(what, &[], Some(index));
            }
        }
        for account in std::mem::take(&mut self.accounts) {
            let Some(Purse { balance, held, came, spent, open }) = self.purses.get(account) else { continue };
            if *held < 0 || held > balance || *balance != came - spent || held != open {
                let what = format!(
                    "{account}: balance {balance} of {came} put in less {spent} paid, held {held} of {open} unpaid"
                );
                report.find(what, &[], Some(index));
            }
        }
        if self.balances != self.funding - self.revenue {
            let (balances, funding, revenue) = (self.balances, self.funding, self.revenue);
            let what = format!("all wallets have {balances}, {funding} was put in and {revenue} earned");
            report.find(what, &[], Some(index));
        }
    }

    /// A node's last word against the books.
    fn compare(&self, finals: &NodeFinals) -> Vec<String> {
        let mut wrong = Vec::new();
        for (sku, stock) in &finals.stocks {
            let figures = self.shelves.get(sku.as_str()).map_or((0, 0), |shelf| (shelf.on_hand, shelf.reserved));
            if (i128::from(stock.on_hand), i128::from(stock.reserved)) != (figures.0.into(), figures.1.into()) {
                wrong.push(format!("{sku} has {stock:?}, the feed leaves {figures:?}"));
            }
        }
        for (account, told) in &finals.accounts {
            let purse = self.purses.get(account.as_str()).map_or((0, 0), |purse| (purse.balance, purse.held));
            if (told.balance, told.held) != purse {
                wrong.push(format!("{account} has {told:?}, the feed leaves {purse:?}"));
            }
        }
        wrong
    }
}

/// A node's last word in itself.
fn at_the_end(finals: &NodeFinals) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut open: BTreeMap<&str, u64> = BTreeMap::new();
    for order in finals.orders.values().filter(|order| matches!(order.status.as_str(), "CREATED" | "PAID")) {
        for line in &order.lines {
            *open.entry(line.sku.as_str()).or_default() += u64::from(line.quantity);
        }
    }
    for (sku, stock) in &finals.stocks {
        let promised = open.remove(sku.as_str()).unwrap_or_default();
        if stock.reserved != promised || !adds_up(stock) {
            wrong.push(format!("{sku} has {stock:?}, open orders hold {promised}"));
        }
    }
    wrong.extend(open.into_iter().map(|(sku, units)| format!("open orders hold {units} of an unknown {sku}")));
    for (account, told) in &finals.accounts {
        if told.held < 0 || told.held > told.balance {
            wrong.push(format!("{account} has {told:?}"));
        }
    }
    if finals.debits != finals.credits {
        wrong.push(format!("debits {} and credits {}", finals.debits, finals.credits));
    }
    for order in finals.orders.values() {
        let sum: i64 = order.lines.iter().map(|line| line.unit_price * i64::from(line.quantity)).sum();
        if sum != order.total {
            wrong.push(format!("{} costs {}, its lines {sum}", order.id, order.total));
        }
    }
    wrong
}

fn adds_up(stock: &Stock) -> bool {
    stock.reserved <= stock.on_hand && stock.available == stock.on_hand - stock.reserved
}

/// Figures within one answer.
fn answers(data: &RunData, report: &mut Report) {
    for call in &data.calls {
        let Reply::Yes { answer, .. } = &call.reply else { continue };
        report.looked_at(1);
        let orders: Vec<_> = match answer {
            Answer::Order(order) => vec![order],
            Answer::Orders(items) => items
                .iter()
                .filter_map(|item| match item {
                    Item::Order(order) => Some(order),
                    Item::Refused(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let costs = |order: &&agora_history::Order| {
            order.total == order.lines.iter().map(|line| line.unit_price * i64::from(line.quantity)).sum::<i64>()
        };
        let is_wrong = match answer {
            Answer::Stocks(stocks) => !stocks.iter().all(adds_up),
            Answer::Account(account) => account.held < 0 || account.held > account.balance,
            Answer::Ledger { debits, credits } => debits != credits,
            _ => !orders.iter().all(costs),
        };
        if is_wrong {
            report.find(format!("does not add up: {answer:?}"), &[call.op], call.index);
        }
    }
}
