//! From what clients saw to one history per object, for the search of C2.
//!
//! An operation that touches several objects is one entry in the history of each. Times and answers are taken from
//! clients alone. Three things nobody was answered, and they come from the feed: orders whose time ran out, what somebody
//! did whose calls were not recorded, and, where neither answers nor known prices tell it, what an unanswered order would
//! have held. Each may take effect at any time from the earliest it can have been, or never.
//!
//! What the nodes say at the end is a last read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agora_history::{
    Account, Answer, Basket, Call, FeedEvent, Item, Level, Micros, Op, Operation, Order, Outcome, Refusal, Reply,
    RunData, Stock, operations,
};

use crate::{
    c02_known::{Known, Told},
    c02_objects::{Amounts, Delta, Life, OrderOp, PoolOp, Terms, TermsOp},
    wgl::{Entry, Place},
    words::{Fact, Status, fact},
};

/// Operation id of what no client asked for.
pub const NOBODY: u64 = u64::MAX;
/// An order may expire so much before its time by the clients' clock.
const EARLY_MS: u64 = 500;

/// One history per object.
#[derive(Default)]
pub struct Keys {
    pub stocks: BTreeMap<String, Vec<Entry<PoolOp>>>,
    pub wallets: BTreeMap<String, Vec<Entry<PoolOp>>>,
    pub orders: BTreeMap<String, Vec<Entry<OrderOp>>>,
    pub terms: BTreeMap<String, Vec<Entry<TermsOp>>>,
    /// Wallets about which an unanswered operation may have done what nobody can tell.
    pub unclear: BTreeSet<String>,
    /// Operations that are in some history.
    pub operations: BTreeSet<u64>,
    /// Answers that cannot be understood.
    pub odd: Vec<(u64, String)>,
}

/// The maker of the histories.
pub struct Maker<'a> {
    pub data: &'a RunData,
    pub ops: Vec<Operation<'a>>,
    pub feed: &'a [FeedEvent],
    pub known: BTreeMap<String, Known>,
    pub prices: BTreeMap<String, BTreeSet<i64>>,
    /// Unanswered orders that somebody saw by their key: op, the order, and when it was seen at last.
    pub evidence: BTreeMap<u64, (Order, Micros)>,
    /// Where the feed tells first of what a request did. Only a proposal, see `crate::witness`.
    pub places: HashMap<&'a str, Place>,
    pub keys: Keys,
    pub end: Micros,
}

/// Makes the histories of a run.
pub fn keys(data: &RunData) -> Keys {
    let feed = data.feeds.values().max_by_key(|feed| feed.len()).map_or(&[][..], Vec::as_slice);
    let end = data.calls.iter().map(|call| call.returned.max(call.invoked) + 1).max().unwrap_or(0);
    let mut maker = Maker {
        data,
        ops: operations(&data.calls),
        feed,
        known: BTreeMap::new(),
        prices: BTreeMap::new(),
        evidence: BTreeMap::new(),
        places: HashMap::new(),
        keys: Keys::default(),
        end,
    };
    for event in feed {
        maker.places.entry(event.trace_id.as_str()).or_insert((event.index, event.sub));
    }
    maker.learn_prices();
    maker.learn_orders();
    maker.learn_lives();
    let ops = std::mem::take(&mut maker.ops);
    for operation in &ops {
        maker.operation(operation);
    }
    maker.nobody(&ops);
    maker.finals();
    maker.keys
}

/// Units per SKU, what is named twice summed.
pub fn sum(items: &[(String, u32)]) -> BTreeMap<&str, i64> {
    let mut summed = BTreeMap::new();
    for (sku, quantity) in items {
        *summed.entry(sku.as_str()).or_default() += i64::from(*quantity);
    }
    summed
}

fn of_stock(stock: &Stock) -> Amounts {
    Amounts { all: stock.on_hand as i64, promised: stock.reserved as i64, version: stock.version }
}

fn of_account(account: &Account) -> Amounts {
    Amounts { all: account.balance, promised: account.held, version: account.version }
}

fn of_sku(sku: &agora_history::Sku) -> Terms {
    Terms { price: sku.price, sellable: sku.sellable, version: sku.version }
}

fn of_order(order: &Order) -> Option<Life> {
    Some(Life { status: Status::of(&order.status)?, version: order.version })
}

pub fn statuses(order: &Order) -> BTreeSet<Status> {
    order.steps.iter().filter_map(|(status, _)| Status::of(status)).chain(Status::of(&order.status)).collect()
}

/// What the feed proposes stands first: it is what a search or a witness tries first, and only that.
fn first(ways: &mut [Delta], is_proposed: impl Fn(&Delta) -> bool) {
    if let Some(at) = ways.iter().position(is_proposed) {
        ways[..=at].rotate_right(1);
    }
}

/// The order's lines as they are in an answer.
pub fn lines(order: &Order) -> Vec<(String, i64)> {
    order.lines.iter().map(|line| (line.sku.clone(), i64::from(line.quantity))).collect()
}

/// A linearizable read's answer counts as of the attempt that brought it, a write's as of the first attempt.
pub fn asked_at(operation: &Operation<'_>) -> Micros {
    match operation.decisive {
        Some(call) if !operation.request.is_write() => call.invoked,
        _ => operation.invoked,
    }
}

pub fn is_exact(call: &Call) -> bool {
    matches!(call.level, None | Some(Level::Linearizable))
}

pub fn target(op: &Op) -> Option<(&String, Status)> {
    match op {
        Op::Pay { order } => Some((order, Status::Paid)),
        Op::Cancel { order } => Some((order, Status::Cancelled)),
        Op::Ship { order } => Some((order, Status::Shipped)),
        Op::Confirm { order } => Some((order, Status::Completed)),
        _ => None,
    }
}

impl<'a> Maker<'a> {
    fn stock(&mut self, sku: &str, span: &Span, what: PoolOp) {
        self.keys.operations.insert(span.op);
        self.keys.stocks.entry(sku.to_owned()).or_default().push(span.entry(what));
    }

    fn wallet(&mut self, account: &str, span: &Span, what: PoolOp) {
        self.keys.operations.insert(span.op);
        self.keys.wallets.entry(account.to_owned()).or_default().push(span.entry(what));
    }

    fn order(&mut self, order: &str, span: &Span, what: OrderOp) {
        self.keys.operations.insert(span.op);
        self.keys.orders.entry(order.to_owned()).or_default().push(span.entry(what));
    }

    fn terms(&mut self, sku: &str, span: &Span, what: TermsOp) {
        self.keys.operations.insert(span.op);
        self.keys.terms.entry(sku.to_owned()).or_default().push(span.entry(what));
    }

    fn operation(&mut self, operation: &Operation<'_>) {
        let place = self.places.get(operation.attempts[0].trace.as_str()).copied();
        let span = Span { op: operation.op, invoked: asked_at(operation), returned: operation.returned, place };
        match (operation.outcome, operation.decisive.map(|call| (call, &call.reply))) {
            (Outcome::Unknown, _) => match self.evidence.get(&operation.op).cloned() {
                Some((order, seen)) => {
                    let placed = Order { status: "CREATED".to_owned(), version: 1, ..order };
                    self.placed(&Span { returned: Some(seen), ..span }, operation.request, &placed);
                }
                None => self.unknown(operation, &Span { returned: None, ..span }),
            },
            (_, Some((call, Reply::Yes { answer, .. }))) if operation.request.is_write() || is_exact(call) => {
                self.yes(operation.request, &span, answer);
            }
            (_, Some((_, Reply::Refused { status, refusal }))) if operation.request.is_write() => {
                self.refused(operation.request, &span, *status, refusal);
            }
            (_, Some((call, Reply::Refused { status: 404, .. } | Reply::NotDone { status: 404, .. })))
                if is_exact(call) =>
            {
                self.missing(operation.request, &span);
            }
            _ => {}
        }
    }

    fn yes(&mut self, request: &Op, span: &Span, answer: &Answer) {
        match (request, answer) {
            (Op::CreateSku { price, sellable, .. }, Answer::Sku(sku)) => {
                self.stock(&sku.id, span, PoolOp::Create);
                self.terms(&sku.id, span, TermsOp::Create { price: *price, sellable: *sellable });
                self.terms(&sku.id, span, TermsOp::Shows(of_sku(sku)));
            }
            (Op::ChangeSku { expected_version, price, sellable, .. }, Answer::Sku(sku)) => {
                let (expected, shown) = (*expected_version, Some(of_sku(sku)));
                let change = TermsOp::Change { expected, price: *price, sellable: *sellable, shown };
                self.terms(&sku.id, span, change);
            }
            (Op::ReadSku { .. }, Answer::Sku(sku)) => self.terms(&sku.id, span, TermsOp::Shows(of_sku(sku))),
            (Op::Receive { lines }, Answer::Stocks(stocks)) => {
                let mut summed = sum(lines);
                for stock in stocks {
                    self.available_adds_up(span.op, stock);
                    let Some(all) = summed.remove(stock.sku.as_str()) else { continue };
                    let delta = Delta { all, promised: 0, changes: 1 };
                    self.stock(&stock.sku, span, PoolOp::Wrote(delta, of_stock(stock)));
                }
                for (sku, all) in summed {
                    self.stock(sku, span, PoolOp::Add(vec![Delta { all, promised: 0, changes: 1 }]));
                }
            }
            (Op::AdjustStock { sku, delta }, Answer::Stocks(stocks)) => {
                for stock in stocks.iter().filter(|stock| stock.sku == *sku) {
                    self.available_adds_up(span.op, stock);
                    let delta = Delta { all: *delta, promised: 0, changes: 1 };
                    self.stock(sku, span, PoolOp::Wrote(delta, of_stock(stock)));
                }
            }
            (Op::ReadStock { .. }, Answer::Stocks(stocks)) => {
                for stock in stocks {
                    self.available_adds_up(span.op, stock);
                    self.stock(&stock.sku, span, PoolOp::Shows(of_stock(stock)));
                }
            }
            (Op::CreateAccount { .. }, Answer::Account(account)) => {
                self.wallet(&account.id, span, PoolOp::Create);
                self.wallet(&account.id, span, PoolOp::Shows(of_account(account)));
            }
            (Op::AdjustWallet { amount, .. }, Answer::Account(account)) => {
                let delta = Delta { all: *amount, promised: 0, changes: 1 };
                self.wallet(&account.id, span, PoolOp::Wrote(delta, of_account(account)));
            }
            (Op::ReadWallet { .. }, Answer::Account(account)) => {
                self.wallet(&account.id, span, PoolOp::Shows(of_account(account)));
            }
            (Op::Place(_), Answer::Order(order)) => self.placed(span, request, order),
            (Op::PlaceBatch(baskets), Answer::Orders(items)) => self.batch(span, baskets, items),
            (Op::ReadOrder { .. } | Op::ReadKey { .. }, Answer::Order(order)) => match of_order(order) {
                Some(life) => self.order(&order.id, span, OrderOp::Shows(life)),
                None => self.odd(span.op, order),
            },
            (_, Answer::Order(order)) => {
                if let Some((id, to)) = target(request) {
                    self.moved(span, id, to, order);
                }
            }
            _ => {}
        }
    }

    fn odd(&mut self, op: u64, order: &Order) {
        self.keys.odd.push((op, format!("{} is shown as {:?}", order.id, order.status)));
    }

    fn available_adds_up(&mut self, op: u64, stock: &Stock) {
        if i128::from(stock.available) != i128::from(stock.on_hand) - i128::from(stock.reserved) {
            self.keys.odd.push((op, format!("stock does not add up: {stock:?}")));
        }
    }

    fn placed(&mut self, span: &Span, request: &Op, order: &Order) {
        let hold = matches!(request, Op::Place(basket) if basket.hold);
        let baskets = [(order, hold)];
        self.placed_together(span, &baskets);
    }

    /// Orders of one transaction.
    fn placed_together(&mut self, span: &Span, orders: &[(&Order, bool)]) {
        let mut units: BTreeMap<String, Delta> = BTreeMap::new();
        let mut money: BTreeMap<String, Delta> = BTreeMap::new();
        for (order, hold) in orders {
            for line in &order.lines {
                let delta = units.entry(line.sku.clone()).or_insert(Delta { all: 0, promised: 0, changes: 0 });
                delta.promised += i64::from(line.quantity);
                delta.changes += 1;
                self.terms(&line.sku, span, TermsOp::Sold(line.unit_price));
            }
            if *hold {
                let delta = money.entry(order.account.clone()).or_insert(Delta { all: 0, promised: 0, changes: 0 });
                delta.promised += order.total;
                delta.changes += 1;
            }
            self.order(&order.id, span, OrderOp::Place);
            match of_order(order) {
                Some(Life { status: Status::Created, version: 1 }) => {}
                _ => self.odd(span.op, order),
            }
        }
        for (sku, delta) in units {
            self.stock(&sku, span, PoolOp::Add(vec![delta]));
        }
        for (account, delta) in money {
            self.wallet(&account, span, PoolOp::Add(vec![delta]));
        }
    }

    fn batch(&mut self, span: &Span, baskets: &[Basket], items: &[Item]) {
        let placed: Vec<(&Order, bool)> = baskets
            .iter()
            .zip(items)
            .filter_map(|(basket, item)| match item {
                Item::Order(order) => Some((order, basket.hold)),
                Item::Refused(_) => None,
            })
            .collect();
        self.placed_together(span, &placed);
        // What earlier items of the batch took is part of what a later one is told, and no state of its own.
        let taken: BTreeSet<&str> =
            placed.iter().flat_map(|(order, _)| &order.lines).map(|line| line.sku.as_str()).collect();
        let buyers: BTreeSet<&str> = placed.iter().map(|(order, _)| order.account.as_str()).collect();
        for (basket, item) in baskets.iter().zip(items) {
            let Item::Refused(refusal) = item else { continue };
            let clear = |sku: &str| !taken.contains(sku);
            self.not_placed(span, basket, refusal, clear, !buyers.contains(basket.account.as_str()));
        }
    }

    fn not_placed(
        &mut self,
        span: &Span,
        basket: &Basket,
        refusal: &Refusal,
        clear: impl Fn(&str) -> bool,
        wallet_is_clear: bool,
    ) {
        for shortage in refusal.shortages.iter().filter(|shortage| clear(&shortage.sku)) {
            self.stock(&shortage.sku, span, PoolOp::Available(shortage.available as i64));
        }
        if let (Some((_, available)), true) = (refusal.money, wallet_is_clear) {
            self.wallet(&basket.account, span, PoolOp::Available(available));
        }
        let skus = sum(&basket.items);
        if let ("SKU_NOT_SELLABLE", [sku]) = (refusal.code.as_str(), skus.keys().collect::<Vec<_>>().as_slice()) {
            self.terms(sku, span, TermsOp::NotSold);
        }
    }

    fn moved(&mut self, span: &Span, id: &str, to: Status, order: &Order) {
        let Some(life) = of_order(order) else { return self.odd(span.op, order) };
        if order.no_change {
            return self.order(id, span, OrderOp::Already(to, life));
        }
        self.order(id, span, OrderOp::Move(to, Some(life)));
        let was_paid = statuses(order).contains(&Status::Paid);
        let held = self.known.get(id).and_then(|known| known.held);
        let total = order.total;
        let money = |all, promised| Delta { all, promised, changes: 1 };
        let (per_unit, ways) = match to {
            Status::Paid => {
                let ways = match held {
                    Some(true) => vec![money(-total, -total)],
                    Some(false) => vec![money(-total, 0)],
                    None => vec![money(-total, -total), money(-total, 0)],
                };
                (None, ways)
            }
            Status::Cancelled if was_paid => (Some((0, -1)), vec![money(total, 0)]),
            Status::Cancelled => match held {
                Some(true) => (Some((0, -1)), vec![money(0, -total)]),
                Some(false) => (Some((0, -1)), Vec::new()),
                None => (Some((0, -1)), vec![Delta { all: 0, promised: 0, changes: 0 }, money(0, -total)]),
            },
            Status::Shipped => (Some((-1, -1)), Vec::new()),
            Status::Created | Status::Completed => (None, Vec::new()),
        };
        self.of_order(span, (id, &order.account), &lines(order), per_unit, ways);
    }

    /// What a step of an order does to stock and money.
    fn of_order(
        &mut self,
        span: &Span,
        (order, account): (&str, &str),
        lines: &[(String, i64)],
        per_unit: Option<(i64, i64)>,
        mut ways: Vec<Delta>,
    ) {
        if let Some((all, promised)) = per_unit {
            for (sku, quantity) in lines {
                let delta = Delta { all: all * quantity, promised: promised * quantity, changes: 1 };
                self.stock(sku, span, PoolOp::Add(vec![delta]));
            }
        }
        if let (Some(place), 2..) = (span.place, ways.len()) {
            let told = self.told_money(place, order);
            first(&mut ways, |way| (way.all, way.promised) == told);
        }
        if !ways.is_empty() {
            self.wallet(account, span, PoolOp::Add(ways));
        }
    }

    fn refused(&mut self, request: &Op, span: &Span, status: u16, refusal: &Refusal) {
        if status == 404 {
            return self.missing(request, span);
        }
        match request {
            Op::ChangeSku { sku, .. } => {
                if let Some((expected, there)) = refusal.versions {
                    self.terms(sku, span, TermsOp::Mismatch(expected, there));
                }
            }
            Op::AdjustStock { .. } | Op::Receive { .. } => {
                for shortage in &refusal.shortages {
                    self.stock(&shortage.sku, span, PoolOp::Available(shortage.available as i64));
                }
            }
            Op::AdjustWallet { account, .. } => {
                if let Some((_, available)) = refusal.money {
                    self.wallet(account, span, PoolOp::Available(available));
                }
            }
            Op::Place(basket) => self.not_placed(span, basket, refusal, |_| true, true),
            _ => {
                let Some((order, to)) = target(request) else { return };
                if let Some(from) = refusal.transition.as_ref().and_then(|(from, _)| Status::of(from)) {
                    self.order(order, span, OrderOp::CannotGo(from, to));
                }
                if let Some((_, available)) = refusal.money {
                    self.order(order, span, OrderOp::Is(Status::Created));
                    if let Some(account) = self.known.get(order).map(|known| known.account.clone()) {
                        self.wallet(&account, span, PoolOp::Available(available));
                    }
                }
            }
        }
    }

    /// It was said that there is no such thing.
    fn missing(&mut self, request: &Op, span: &Span) {
        match request {
            Op::ReadStock { sku } | Op::AdjustStock { sku, .. } => self.stock(sku, span, PoolOp::Missing),
            Op::ReadSku { sku } | Op::ChangeSku { sku, .. } => self.terms(sku, span, TermsOp::Missing),
            Op::ReadWallet { account } | Op::AdjustWallet { account, .. } => {
                self.wallet(account, span, PoolOp::Missing);
            }
            Op::ReadOrder { order } => self.order(order, span, OrderOp::Missing),
            _ => {
                if let Some((order, _)) = target(request) {
                    self.order(order, span, OrderOp::Missing);
                }
            }
        }
    }

    fn unknown(&mut self, operation: &Operation<'_>, span: &Span) {
        match operation.request {
            Op::Receive { lines } => {
                for (sku, all) in sum(lines) {
                    self.stock(sku, span, PoolOp::Add(vec![Delta { all, promised: 0, changes: 1 }]));
                }
            }
            Op::AdjustStock { sku, delta } => {
                let delta = Delta { all: *delta, promised: 0, changes: 1 };
                self.stock(sku, span, PoolOp::Add(vec![delta]));
            }
            Op::AdjustWallet { account, amount } => {
                let delta = Delta { all: *amount, promised: 0, changes: 1 };
                self.wallet(account, span, PoolOp::Add(vec![delta]));
            }
            Op::ChangeSku { sku, expected_version, price, sellable } => {
                let (price, sellable) = (*price, *sellable);
                let change = TermsOp::Change { expected: *expected_version, price, sellable, shown: None };
                self.terms(sku, span, change);
            }
            Op::Place(basket) => {
                let told = self.told_placed(&operation.attempts[0].trace).into_iter().find(|told| told.is_of(basket));
                self.maybe_placed(operation, span, basket, told.as_ref());
            }
            Op::PlaceBatch(baskets) => {
                // Which of them, the feed proposes.
                let mut told = self.told_placed(&operation.attempts[0].trace).into_iter().peekable();
                for basket in baskets {
                    let same = |next: &Told| next.is_of(basket);
                    let told = told.next_if(same);
                    let place = told.as_ref().and(span.place);
                    self.maybe_placed(operation, &Span { place, ..*span }, basket, told.as_ref());
                }
            }
            request => {
                let Some((order, to)) = target(request) else { return };
                self.order(order, span, OrderOp::Move(to, None));
                let Some(known) = self.known.get(order).cloned().filter(|known| known.may_have_become(to)) else {
                    return;
                };
                let total = known.total;
                let paid_free = Delta { all: -total, promised: 0, changes: 1 };
                let captured = Delta { all: -total, promised: -total, changes: 1 };
                let (per_unit, ways) = match (to, known.held) {
                    (Status::Paid, Some(true)) => (None, vec![captured]),
                    (Status::Paid, Some(false)) => (None, vec![paid_free]),
                    (Status::Paid, None) => (None, vec![captured, paid_free]),
                    (Status::Cancelled, _) => (Some((0, -1)), known.money_back()),
                    (Status::Shipped, _) => (Some((-1, -1)), Vec::new()),
                    (Status::Created | Status::Completed, _) => (None, Vec::new()),
                };
                self.of_order(span, (order, &known.account), &known.lines, per_unit, ways);
            }
        }
    }

    fn maybe_placed(&mut self, operation: &Operation<'_>, span: &Span, basket: &Basket, told: Option<&Told>) {
        for (sku, promised) in sum(&basket.items) {
            self.stock(sku, span, PoolOp::Add(vec![Delta { all: 0, promised, changes: 1 }]));
            if self.feed.is_empty() {
                // Nobody knows of it, so nobody tells that its time ran out.
                self.stock(sku, span, PoolOp::Add(vec![Delta { all: 0, promised: -promised, changes: 1 }]));
            }
        }
        if !basket.hold {
            return;
        }
        match self.totals(operation, basket) {
            Some(totals) if totals.is_empty() => {}
            Some(totals) => {
                let held = |promised| Delta { all: 0, promised, changes: 1 };
                let mut ways: Vec<Delta> = totals.iter().copied().map(held).collect();
                first(&mut ways, |way| told.is_some_and(|told| told.total == way.promised));
                self.wallet(&basket.account, span, PoolOp::Add(ways));
                if self.feed.is_empty() {
                    let released = totals.into_iter().map(|total| held(-total)).collect();
                    self.wallet(&basket.account, span, PoolOp::Add(released));
                }
            }
            None => {
                self.keys.unclear.insert(basket.account.clone());
            }
        }
    }

    /// What nobody asked for: expiries, and what was done by calls that are not in the history.
    fn nobody(&mut self, ops: &[Operation<'_>]) {
        let steady = self.data.faults.iter().all(|fault| !fault.is_of("N15"));
        let without_feed = self.feed.is_empty();
        let usual: Option<u64> = self.data.run.settings.get("order_ttl_ms").and_then(|text| text.parse().ok());
        for (id, known) in self.known.clone() {
            let could = without_feed
                && known.told.is_empty()
                && known.ever.as_ref().is_none_or(|ever| ever.contains(&Status::Cancelled));
            if known.expired.is_none() && !could {
                continue;
            }
            let early =
                known.ttl_ms.or(usual).filter(|_| steady).map_or(0, |ttl_ms| ttl_ms.saturating_sub(EARLY_MS) * 1_000);
            let invoked = (known.placed_from + early).max(known.open_at);
            // Seen to be cancelled, and nobody else did it: it was so by then.
            let returned = known.cancelled_by.filter(|_| known.expired.is_some()).map(|by| by.max(invoked));
            let span = Span { op: NOBODY, invoked, returned, place: known.expired };
            self.order(&id, &span, OrderOp::Expire);
            let ways = match known.held {
                Some(true) => vec![Delta { all: 0, promised: -known.total, changes: 1 }],
                Some(false) => Vec::new(),
                None => vec![
                    Delta { all: 0, promised: 0, changes: 0 },
                    Delta { all: 0, promised: -known.total, changes: 1 },
                ],
            };
            self.of_order(&span, (&id, &known.account), &known.lines, Some((0, -1)), ways);
        }
        let traces: BTreeSet<&str> =
            ops.iter().flat_map(|operation| &operation.attempts).map(|call| call.trace.as_str()).collect();
        let expired: BTreeSet<(&str, u64)> = self
            .feed
            .iter()
            .filter(|event| matches!(fact(event), Some(Fact::Moved { expired: true, .. })))
            .map(|event| (event.aggregate_id.as_str(), event.index))
            .collect();
        for event in self.feed {
            if traces.contains(event.trace_id.as_str()) {
                continue;
            }
            let Some(fact) = fact(event) else { continue };
            if fact.order().is_some_and(|order| expired.contains(&(order, event.index))) {
                continue;
            }
            self.foreign(&fact, (event.index, event.sub));
        }
        // Placed by somebody who was never answered.
        for (id, history) in &mut self.keys.orders {
            if !history.iter().any(|entry| entry.what == OrderOp::Place) {
                let (invoked, place) = self.known.get(id).map_or((0, None), |known| (known.placed_from, known.place));
                history.push(Span { op: NOBODY, invoked, returned: None, place }.entry(OrderOp::Place));
            }
        }
        self.keys.operations.remove(&NOBODY);
    }

    fn foreign(&mut self, fact: &Fact<'_>, place: Place) {
        let span = Span { op: NOBODY, invoked: 0, returned: None, place: Some(place) };
        match fact {
            Fact::Stock { sku, how, amount, .. } => {
                let (all, promised) = how.moves(*amount);
                self.stock(sku, &span, PoolOp::Add(vec![Delta { all, promised, changes: 1 }]));
            }
            Fact::Wallet { account, how, amount, .. } => {
                let (all, promised) = how.moves(*amount);
                self.wallet(account, &span, PoolOp::Add(vec![Delta { all, promised, changes: 1 }]));
            }
            Fact::Placed { order, .. } => self.order(order, &span, OrderOp::Place),
            Fact::Moved { order, to, .. } => self.order(order, &span, OrderOp::Move(*to, None)),
            Fact::SkuCreated { sku, price, sellable, .. } => {
                self.terms(sku, &span, TermsOp::Create { price: *price, sellable: *sellable });
            }
            Fact::SkuChanged { sku, price, sellable, .. } => {
                self.terms(sku, &span, TermsOp::Set { price: *price, sellable: *sellable });
            }
            Fact::AccountCreated { .. } | Fact::CodeTaken { .. } => {}
        }
    }

    /// What the nodes say at the end, as reads behind everything. Only of what clients touched.
    fn finals(&mut self) {
        // They are read a while after the last call, and orders expire in that while.
        let span = Span { op: NOBODY, invoked: self.end, returned: Some(Micros::MAX), place: None };
        let nodes: Vec<_> = self.data.finals.nodes.values().collect();
        let mut said: BTreeSet<(u8, &str, String)> = BTreeSet::new();
        for node in nodes {
            for (sku, stock) in &node.stocks {
                if self.keys.stocks.contains_key(sku) && said.insert((0, sku, format!("{stock:?}"))) {
                    self.stock(sku, &span, PoolOp::Shows(of_stock(stock)));
                }
            }
            for (id, account) in &node.accounts {
                if self.keys.wallets.contains_key(id) && said.insert((1, id, format!("{account:?}"))) {
                    self.wallet(id, &span, PoolOp::Shows(of_account(account)));
                }
            }
            for (id, order) in &node.orders {
                let Some(life) = of_order(order).filter(|_| self.keys.orders.contains_key(id)) else { continue };
                if said.insert((2, id, format!("{life:?}"))) {
                    self.order(id, &span, OrderOp::Shows(life));
                }
            }
            for (id, sku) in &node.skus {
                if self.keys.terms.contains_key(id) && said.insert((3, id, format!("{sku:?}"))) {
                    self.terms(id, &span, TermsOp::Shows(of_sku(sku)));
                }
            }
        }
        self.keys.operations.remove(&NOBODY);
    }
}

/// Whose, and when.
#[derive(Clone, Copy)]
struct Span {
    op: u64,
    invoked: Micros,
    returned: Option<Micros>,
    place: Option<Place>,
}

impl Span {
    fn entry<What>(&self, what: What) -> Entry<What> {
        let returned = self.returned.map(|at| at.max(self.invoked));
        Entry { op: self.op, what, invoked: self.invoked, returned, place: self.place }
    }
}
