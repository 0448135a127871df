//! A small shop: what entities promise each other when one transaction touches many of them.
//!
//! Two SKUs, one wallet, any number of orders. The coordinator here is the plainest that keeps the rules: it asks every
//! entity that a request touches, drops all grants unless it has them all, and hands the whole to the journal. After
//! every transaction the rows must agree: units promised are those of open orders, money held and spent is that of held
//! and paid orders, and an order's prices are those in force at its own place in the log.

use std::collections::{BTreeMap, VecDeque};

use agora_domain::{
    Account, AccountCommand, AccountEvent, AccountId, Change, Currency, Decision, Entity, Live, Money, Order,
    OrderCommand, OrderEvent, OrderId, OrderStatus, Sku, SkuCommand, SkuId, Uid,
    order::{Line, Provider},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::subject::{at, evolve, opened, order_id, pick};

const STEPS_MAX: usize = 60;
const SKUS: usize = 2;
const ACCOUNT: AccountId = AccountId(Uid(7));

/// A bug to plant into the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An honest coordinator.
    None,
    /// Does not release what a cancelled order was promised.
    CancelKeepsStock,
    /// Pays an order that its row says is unpaid, without asking the order.
    PaysByTheRow,
    /// Prices an order by what a SKU cost when the shop opened.
    RemembersPrices,
}

/// What a client or a timer wants.
#[derive(Clone, Debug)]
pub enum Request {
    Place { quantities: [u32; SKUS], hold: bool },
    Pay(Index),
    Cancel(Index),
    Expire(Index),
    Ship(Index),
    Receive(usize, u32),
    Deposit(i64),
    Price(usize, i64),
}

/// What may happen next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A request is decided.
    Ask(Request),
    /// A decided transaction is handed to the journal.
    Journal(Index),
    /// A decided transaction is given up.
    Drop(Index),
    /// An entry of so many transactions is applied.
    Commit(usize),
    /// So many of the journal still commit, and all actors are loaded anew.
    EndReign(usize),
}

/// Any run.
pub fn scripts() -> impl Strategy<Value = Vec<Step>> {
    let request = prop_oneof![
        6 => ([0..3u32, 0..3u32], any::<bool>())
            .prop_filter("an order has a line", |(quantities, _)| quantities.iter().any(|quantity| *quantity > 0))
            .prop_map(|(quantities, hold)| Request::Place { quantities, hold }),
        3 => any::<Index>().prop_map(Request::Pay),
        2 => any::<Index>().prop_map(Request::Cancel),
        1 => any::<Index>().prop_map(Request::Expire),
        2 => any::<Index>().prop_map(Request::Ship),
        2 => (0..SKUS, 1..4u32).prop_map(|(sku, quantity)| Request::Receive(sku, quantity)),
        2 => (1..400i64).prop_map(Request::Deposit),
        2 => (0..SKUS, 98..102i64).prop_map(|(sku, minor)| Request::Price(sku, minor)),
    ];
    let step = prop_oneof![
        10 => request.prop_map(Step::Ask),
        10 => any::<Index>().prop_map(Step::Journal),
        1 => any::<Index>().prop_map(Step::Drop),
        6 => (1..4usize).prop_map(Step::Commit),
        1 => (0..4usize).prop_map(Step::EndReign),
    ];
    vec(step, 1..STEPS_MAX)
}

/// Runs a script, lets everything commit, and checks the rows after every transaction.
pub fn run(script: &[Step], fault: Fault) -> Result<(), String> {
    let mut shop = Shop::new(fault);
    for step in script {
        match step {
            Step::Ask(request) => shop.ask(request),
            Step::Journal(index) => {
                if !shop.in_hand.is_empty() {
                    let transaction = shop.in_hand.swap_remove(index.index(shop.in_hand.len()));
                    shop.journal(transaction);
                }
            }
            Step::Drop(index) => {
                if !shop.in_hand.is_empty() {
                    let transaction = shop.in_hand.swap_remove(index.index(shop.in_hand.len()));
                    shop.actors.drop_all(&transaction);
                }
            }
            Step::Commit(count) => shop.commit(*count)?,
            Step::EndReign(count) => {
                shop.commit(*count)?;
                shop.in_hand.clear();
                shop.journal.clear();
                shop.rows.index += 1;
                shop.actors = Actors::load(&shop.rows);
            }
        }
    }
    for transaction in std::mem::take(&mut shop.in_hand) {
        shop.journal(transaction);
    }
    shop.commit(usize::MAX)?;
    let clean = shop.actors.skus.iter().all(Live::is_clean) && shop.actors.account.is_clean();
    if clean && shop.actors.orders.values().all(Live::is_clean) {
        return Ok(());
    }
    Err("all is applied, and something is still in flight".into())
}

/// Which actor gave a grant.
#[derive(Clone, Copy, Debug)]
enum Who {
    Sku(usize),
    Account,
    Order(OrderId),
}

#[derive(Clone, Debug, Default)]
struct Transaction {
    grants: Vec<(Who, u64)>,
    changes: Vec<Change>,
}

/// The committed shop.
struct Rows {
    skus: Vec<Option<Sku>>,
    account: Option<Account>,
    orders: BTreeMap<OrderId, Option<Order>>,
    deposited_minor: i64,
    index: u64,
}

/// The shop in a leader's memory.
struct Actors {
    skus: Vec<Live<Sku>>,
    account: Live<Account>,
    orders: BTreeMap<OrderId, Live<Order>>,
}

struct Shop {
    rows: Rows,
    actors: Actors,
    in_hand: Vec<Transaction>,
    journal: VecDeque<Transaction>,
    next_order: u128,
    fault: Fault,
}

fn sku_id(sku: usize) -> SkuId {
    SkuId(Uid(u128::try_from(sku).unwrap()))
}

fn sku_of(id: SkuId) -> usize {
    usize::try_from(id.0.0).unwrap()
}

/// Asks one entity. `None`: refused, or not now; the request is dropped either way, and may come again.
fn ask<E: Entity>(
    live: &mut Live<E>,
    who: Who,
    command: &E::Command,
    into: &mut Transaction,
    change: impl Fn(E::Event) -> Change,
) -> Option<()> {
    match live.ask(command) {
        Decision::Granted { grant, events } => {
            into.grants.push((who, grant));
            into.changes.extend(events.into_iter().map(change));
            Some(())
        }
        Decision::Refused { .. } | Decision::NotNow => None,
    }
}

impl Actors {
    fn load(rows: &Rows) -> Self {
        Self {
            skus: rows.skus.iter().map(|sku| Live::new(sku.clone(), rows.index)).collect(),
            account: Live::new(rows.account.clone(), rows.index),
            orders: rows.orders.iter().map(|(id, order)| (*id, Live::new(order.clone(), rows.index))).collect(),
        }
    }

    fn ask_sku(&mut self, sku: usize, command: &SkuCommand, into: &mut Transaction) -> Option<()> {
        ask(&mut self.skus[sku], Who::Sku(sku), command, into, |event| Change::Sku(sku_id(sku), event))
    }

    fn ask_account(&mut self, command: &AccountCommand, into: &mut Transaction) -> Option<()> {
        ask(&mut self.account, Who::Account, command, into, |event| Change::Account(ACCOUNT, event))
    }

    /// Moves an order on; `None` also when it was so already, since then nothing else is to be done.
    fn ask_order(&mut self, id: OrderId, command: &OrderCommand, into: &mut Transaction) -> Option<()> {
        let live = self.orders.get_mut(&id)?;
        ask(live, Who::Order(id), command, into, |event| Change::Order(id, event))?;
        if into.changes.is_empty() { None } else { Some(()) }
    }

    fn drop_all(&mut self, transaction: &Transaction) {
        for (who, grant) in &transaction.grants {
            match who {
                Who::Sku(sku) => self.skus[*sku].dropped(*grant),
                Who::Account => self.account.dropped(*grant),
                Who::Order(id) => self.orders.get_mut(id).into_iter().for_each(|live| live.dropped(*grant)),
            }
        }
    }

    fn journalled(&mut self, transaction: &Transaction) {
        for (who, grant) in &transaction.grants {
            match who {
                Who::Sku(sku) => self.skus[*sku].journalled(*grant),
                Who::Account => self.account.journalled(*grant),
                Who::Order(id) => self.orders.get_mut(id).into_iter().for_each(|live| live.journalled(*grant)),
            }
        }
    }

    /// One entry's events, to every actor that they concern; an order placed by it is loaded now.
    fn applied(&mut self, entry: &[Transaction], rows: &Rows) -> Result<(), String> {
        let changes = || entry.iter().flat_map(|transaction| &transaction.changes);
        let (at, broken) = (at(rows.index), |impossible: agora_domain::Impossible| impossible.to_string());
        for (sku, live) in self.skus.iter_mut().enumerate() {
            let own = changes().filter_map(|change| match change {
                Change::Sku(id, event) if *id == sku_id(sku) => Some(event),
                _ => None,
            });
            live.applied(own, at).map_err(broken)?;
        }
        let own = changes().filter_map(|change| match change {
            Change::Account(_, event) => Some(event),
            _ => None,
        });
        self.account.applied(own, at).map_err(broken)?;
        for (id, order) in &rows.orders {
            let live = self.orders.entry(*id).or_insert_with(|| Live::new(order.clone(), rows.index));
            let own = changes().filter_map(|change| match change {
                Change::Order(of, event) if of == id => Some(event),
                _ => None,
            });
            live.applied(own, at).map_err(broken)?;
        }
        Ok(())
    }
}

impl Shop {
    fn new(fault: Fault) -> Self {
        let (sku, _) = opened::<Sku>();
        let (account, index) = opened::<Account>();
        let deposited_minor = 0;
        let rows = Rows { skus: vec![sku; SKUS], account, orders: BTreeMap::new(), deposited_minor, index };
        let actors = Actors::load(&rows);
        Self { rows, actors, in_hand: Vec::new(), journal: VecDeque::new(), next_order: 0, fault }
    }

    fn ask(&mut self, request: &Request) {
        let mut transaction = Transaction::default();
        match self.decide(request, &mut transaction) {
            Some(()) => self.in_hand.push(transaction),
            None => self.actors.drop_all(&transaction),
        }
    }

    fn decide(&mut self, request: &Request, into: &mut Transaction) -> Option<()> {
        match request {
            Request::Place { quantities, hold } => self.place(quantities, *hold, into),
            Request::Pay(index) => {
                let id = pick(&self.rows.orders, *index)?;
                let order = self.rows.orders[&id].clone()?;
                let pay = OrderCommand::Pay { provider: Provider::Balance };
                if self.fault == Fault::PaysByTheRow {
                    let events = Order::decide(Some(&order), &pay).ok().filter(|events| !events.is_empty())?;
                    into.changes.extend(events.into_iter().map(|event| Change::Order(id, event)));
                } else {
                    self.actors.ask_order(id, &pay, into)?;
                }
                let (order, amount, held) = (id, order.total, order.held);
                let command = if held {
                    AccountCommand::Capture { order, amount }
                } else {
                    AccountCommand::Pay { order, amount }
                };
                self.actors.ask_account(&command, into)
            }
            Request::Cancel(index) => {
                let id = pick(&self.rows.orders, *index)?;
                self.call_off(id, &OrderCommand::Cancel { reason: String::new() }, into)
            }
            Request::Expire(index) => {
                let id = pick(&self.rows.orders, *index)?;
                let now_ms = self.rows.orders[&id].as_ref()?.expire_ms;
                self.call_off(id, &OrderCommand::Expire { now_ms }, into)
            }
            Request::Ship(index) => {
                let id = pick(&self.rows.orders, *index)?;
                self.actors.ask_order(id, &OrderCommand::Ship { note: String::new() }, into)?;
                for Line { sku, quantity, .. } in self.rows.orders[&id].clone()?.lines {
                    self.actors.ask_sku(sku_of(sku), &SkuCommand::Ship { order: id, quantity }, into)?;
                }
                Some(())
            }
            Request::Receive(sku, quantity) => {
                let receive = SkuCommand::Receive { quantity: *quantity, reason: String::new() };
                self.actors.ask_sku(*sku, &receive, into)
            }
            Request::Deposit(minor) => {
                let amount = Money::new(*minor, Currency::CNY);
                self.actors.ask_account(&AccountCommand::Adjust { amount, reason: String::new() }, into)
            }
            Request::Price(sku, minor) => {
                let expected_version = self.rows.skus[*sku].as_ref()?.version;
                let price = Some(Money::new(*minor, Currency::CNY));
                self.actors.ask_sku(
                    *sku,
                    &SkuCommand::Change { expected_version, price, name: None, sellable: None },
                    into,
                )
            }
        }
    }

    fn place(&mut self, quantities: &[u32; SKUS], hold: bool, into: &mut Transaction) -> Option<()> {
        self.next_order += 1;
        let id = order_id(self.next_order);
        let mut lines = Vec::new();
        for (sku, quantity) in quantities.iter().enumerate().filter(|(_, quantity)| **quantity > 0) {
            self.actors.ask_sku(sku, &SkuCommand::Reserve { order: id, quantity: *quantity }, into)?;
            // A grant tells the terms; they hold until it is in the log or given back.
            let terms = Sku::terms(self.actors.skus[sku].committed())?;
            let unit_price =
                if self.fault == Fault::RemembersPrices { Money::new(100, Currency::CNY) } else { terms.price };
            let total = unit_price.times(*quantity)?;
            let (code, name) = (terms.code.clone(), terms.name.clone());
            lines.push(Line { sku: sku_id(sku), code, name, quantity: *quantity, unit_price, total });
        }
        let nothing = Money::new(0, Currency::CNY);
        let total = lines.iter().try_fold(nothing, |sum, line| sum.plus(line.total))?;
        let command = if hold { AccountCommand::Hold { order: id, amount: total } } else { AccountCommand::Use };
        self.actors.ask_account(&command, into)?;
        let note = String::new();
        let placed = OrderEvent::Placed { id, account: ACCOUNT, lines, total, held: hold, ttl_ms: 5_000, note };
        into.changes.push(Change::Order(id, placed));
        Some(())
    }

    /// Cancels or expires: promises are taken back, and money that was held or spent.
    fn call_off(&mut self, id: OrderId, command: &OrderCommand, into: &mut Transaction) -> Option<()> {
        self.actors.ask_order(id, command, into)?;
        // Granted, so nothing else moves the order now, and the committed one is the present one.
        let order = self.rows.orders[&id].clone()?;
        if self.fault != Fault::CancelKeepsStock {
            for Line { sku, quantity, .. } in &order.lines {
                let release = SkuCommand::Release { order: id, quantity: *quantity };
                self.actors.ask_sku(sku_of(*sku), &release, into)?;
            }
        }
        let amount = order.total;
        match order.status() {
            OrderStatus::Created if order.held => {
                self.actors.ask_account(&AccountCommand::ReleaseHold { order: id, amount }, into)
            }
            OrderStatus::Paid => self.actors.ask_account(&AccountCommand::Refund { order: id, amount }, into),
            _ => Some(()),
        }
    }

    fn journal(&mut self, transaction: Transaction) {
        self.actors.journalled(&transaction);
        self.journal.push_back(transaction);
    }

    fn commit(&mut self, count: usize) -> Result<(), String> {
        let entry: Vec<_> = self.journal.drain(..count.min(self.journal.len())).collect();
        self.rows.index += 1;
        for transaction in &entry {
            transaction.changes.iter().try_for_each(|change| self.rows.apply(change))?;
            self.rows.check()?;
        }
        self.actors.applied(&entry, &self.rows)
    }
}

impl Rows {
    fn apply(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Sku(id, event) => evolve(&mut self.skus[sku_of(*id)], event, self.index),
            Change::Account(_, event) => {
                if let AccountEvent::Adjusted { amount, .. } = event {
                    self.deposited_minor += amount.minor;
                }
                evolve(&mut self.account, event, self.index)
            }
            Change::Order(id, event) => {
                if let OrderEvent::Placed { lines, .. } = event {
                    lines.iter().try_for_each(|line| self.check_price(line))?;
                }
                evolve(self.orders.entry(*id).or_default(), event, self.index)
            }
            Change::Claim(id, _) => Err(format!("nobody claims {id}")),
        }
    }

    fn check_price(&self, line: &Line) -> Result<(), String> {
        match &self.skus[sku_of(line.sku)] {
            Some(sku) if sku.terms.price == line.unit_price => Ok(()),
            sku => Err(format!("sold at {}, while it is {sku:?}", line.unit_price)),
        }
    }

    /// The rows agree with each other.
    fn check(&self) -> Result<(), String> {
        let orders = || self.orders.values().flatten();
        let reserved = |at: usize| {
            let open = orders().filter(|order| matches!(order.status(), OrderStatus::Created | OrderStatus::Paid));
            let lines = open.flat_map(|order| &order.lines).filter(move |line| line.sku == sku_id(at));
            lines.map(|line| u64::from(line.quantity)).sum::<u64>()
        };
        for (at, sku) in self.skus.iter().flatten().enumerate() {
            if sku.reserved_units != reserved(at) {
                return Err(format!("open orders are promised {} units of {sku:?}", reserved(at)));
            }
        }
        let sum =
            |filter: &dyn Fn(&&Order) -> bool| orders().filter(filter).map(|order| order.total.minor).sum::<i64>();
        let held = sum(&|order| order.held && order.status() == OrderStatus::Created);
        let spent = sum(&|order| !matches!(order.status(), OrderStatus::Created | OrderStatus::Cancelled));
        let before = opened::<Account>().0.map_or(0, |account| account.wallet(Currency::CNY).balance_minor);
        let wallet = self.account.as_ref().map(|account| account.wallet(Currency::CNY)).unwrap_or_default();
        if wallet.held_minor != held || wallet.balance_minor != before + self.deposited_minor - spent {
            return Err(format!("orders hold {held} and spent {spent}, the wallet is {wallet:?}"));
        }
        Ok(())
    }
}
