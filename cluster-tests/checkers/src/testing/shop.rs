//! A shop that is always right: one thread, no log, no failures. What it decides is what a run's feed must tell.

use std::collections::BTreeMap;

use agora_history::{
    Account, Answer, Basket, FeedEvent, Item, NodeFinals, Op, Order, OrderLine, Refusal, Shortage, Sku, Stock,
    StockMove,
};
use serde_json::{Value, json};

/// Milliseconds since the epoch at which made-up runs begin: the first of January 2026.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// A SKU as the shop keeps it.
#[derive(Clone, Debug)]
struct Ware {
    code: String,
    price: i64,
    sellable: bool,
    version: u64,
    on_hand: u64,
    reserved: u64,
    stock_version: u64,
}

/// An order as the shop keeps it.
#[derive(Clone, Debug)]
struct Kept {
    order: Order,
    hold: bool,
    expire_ms: i64,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Yes(Answer),
    Refused(Refusal),
}

/// The shop.
#[derive(Clone, Debug)]
pub struct Shop {
    skus: BTreeMap<String, Ware>,
    accounts: BTreeMap<String, Account>,
    orders: BTreeMap<String, Kept>,
    codes: BTreeMap<String, String>,
    /// Unpaid orders by the time they expire at.
    timers: BTreeMap<(i64, String), ()>,
    posted: i64,
    ids: u64,
    ttl_ms: u64,
    index: u64,
    sub: u32,
    time_ms: i64,
    chain: u64,
    trace: String,
    feed: Vec<FeedEvent>,
}

/// Hex text that looks like a hash.
pub fn hash_text(seed: u64) -> String {
    let part = |n: u64| mix(seed.wrapping_mul(4).wrapping_add(n));
    format!("{:016x}{:016x}{:016x}{:016x}", part(0), part(1), part(2), part(3))
}

/// One step of splitmix64.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// RFC 3339 in UTC with milliseconds. Only times of January 2026 are asked for.
fn time_text(time_ms: i64) -> String {
    let since = time_ms - BEGIN_MS;
    let (days, rest) = (since / 86_400_000, since % 86_400_000);
    assert!((0..31).contains(&days), "a made-up run lasts less than a month");
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
    format!("2026-01-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", days + 1, rest % 1_000)
}

fn money(amount: i64) -> Value {
    json!({"amount": amount, "currency": "CNY"})
}

fn of_order(order: &str, name: &str, value: &Value) -> Value {
    json!({"order_id": order, "order_no": order.trim_start_matches("ord_"), name: value})
}

fn refused(code: &str) -> Refusal {
    Refusal { code: code.to_owned(), ..Refusal::default() }
}

fn no(code: &str) -> Box<Refusal> {
    Box::new(refused(code))
}

impl Shop {
    /// An empty one, whose unpaid orders live so long.
    pub fn new(ttl_ms: u64) -> Shop {
        Shop {
            skus: BTreeMap::new(),
            accounts: BTreeMap::new(),
            orders: BTreeMap::new(),
            codes: BTreeMap::new(),
            timers: BTreeMap::new(),
            posted: 0,
            ids: 0,
            ttl_ms,
            index: 3,
            sub: 0,
            time_ms: BEGIN_MS,
            chain: 1,
            trace: String::new(),
            feed: Vec::new(),
        }
    }

    /// Begins a new entry `skip` indexes behind the last one.
    pub fn begin_entry(&mut self, skip: u64, now_ms: i64) -> u64 {
        self.index += skip.max(1);
        self.sub = 0;
        self.chain = mix(self.chain ^ self.index);
        self.time_ms = self.time_ms.max(BEGIN_MS + now_ms);
        self.index
    }

    /// Index of the last entry.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// All that happened.
    pub fn feed(&self) -> &[FeedEvent] {
        &self.feed
    }

    /// Orders whose time has run out.
    pub fn due(&self) -> Vec<String> {
        self.timers.range(..(self.time_ms, String::new())).map(|((_, order), ())| order.clone()).collect()
    }

    /// What a node says at the end.
    pub fn finals(&self) -> NodeFinals {
        NodeFinals {
            index: self.index,
            digest_index: self.index,
            digest: hash_text(self.chain ^ 7),
            chain_head: hash_text(mix(self.chain)),
            skus: self.skus.keys().map(|id| (id.clone(), self.sku(id))).collect(),
            stocks: self.skus.keys().map(|id| (id.clone(), self.stock(id))).collect(),
            accounts: self.accounts.clone(),
            orders: self.orders.iter().map(|(id, kept)| (id.clone(), kept.order.clone())).collect(),
            debits: self.posted,
            credits: self.posted,
        }
    }

    fn sku(&self, id: &str) -> Sku {
        let ware = &self.skus[id];
        Sku {
            id: id.to_owned(),
            code: ware.code.clone(),
            price: ware.price,
            sellable: ware.sellable,
            version: ware.version,
        }
    }

    fn stock(&self, id: &str) -> Stock {
        let ware = &self.skus[id];
        Stock {
            sku: id.to_owned(),
            on_hand: ware.on_hand,
            reserved: ware.reserved,
            available: ware.on_hand - ware.reserved,
            version: ware.stock_version,
        }
    }

    /// Answers a read of one thing.
    pub fn read(&self, op: &Op) -> Option<Answer> {
        Some(match op {
            Op::ReadSku { sku } => Answer::Sku(self.skus.get(sku).map(|_| self.sku(sku))?),
            Op::ReadStock { sku } => Answer::Stocks(vec![self.skus.get(sku).map(|_| self.stock(sku))?]),
            Op::ReadOrder { order } => Answer::Order(self.orders.get(order)?.order.clone()),
            Op::ReadWallet { account } => Answer::Account(self.accounts.get(account)?.clone()),
            Op::ReadLedger => Answer::Ledger { debits: self.posted, credits: self.posted },
            _ => return None,
        })
    }

    fn id(&mut self, prefix: &str) -> String {
        self.ids += 1;
        format!("{prefix}_{:026}", self.ids)
    }

    fn tell(&mut self, kind: &str, aggregate: &str, id: &str, version: u64, data: Value, stock: Option<StockMove>) {
        self.sub += 1;
        self.feed.push(FeedEvent {
            index: self.index,
            sub: self.sub,
            kind: kind.to_owned(),
            aggregate: aggregate.to_owned(),
            aggregate_id: id.to_owned(),
            aggregate_version: version,
            time: time_text(self.time_ms),
            data,
            stock,
            trace_id: self.trace.clone(),
            prev_hash: hash_text(self.chain),
        });
    }

    fn move_stock(&mut self, sku: &str, on_hand: i64, reserved: i64, kind: &str, data: Value) {
        let ware = self.skus.get_mut(sku).expect("a known SKU");
        let (on_hand_pre, reserved_pre) = (ware.on_hand, ware.reserved);
        ware.on_hand = ware.on_hand.checked_add_signed(on_hand).expect("stock is not negative");
        ware.reserved = ware.reserved.checked_add_signed(reserved).expect("promises are not negative");
        assert!(ware.reserved <= ware.on_hand, "oversold");
        ware.stock_version += 1;
        let moved = StockMove { on_hand_pre, on_hand_post: ware.on_hand, reserved_pre, reserved_post: ware.reserved };
        let version = ware.version + ware.stock_version;
        self.tell(kind, "sku", sku, version, data, Some(moved));
    }

    fn move_money(&mut self, account: &str, balance: i64, held: i64, kind: &str, data: Value) {
        let wallet = self.accounts.get_mut(account).expect("a known account");
        wallet.balance += balance;
        wallet.held += held;
        assert!(wallet.held >= 0 && wallet.held <= wallet.balance, "money from nowhere");
        wallet.version += 1;
        let version = wallet.version;
        self.posted += balance.abs();
        self.tell(kind, "account", account, version, data, None);
    }

    /// Decides a write and does it, in the present entry.
    pub fn write(&mut self, op: &Op, trace: &str) -> Decision {
        self.trace = trace.to_owned();
        match self.try_write(op) {
            Ok(answer) => Decision::Yes(answer),
            Err(refusal) => Decision::Refused(*refusal),
        }
    }

    fn try_write(&mut self, op: &Op) -> Result<Answer, Box<Refusal>> {
        match op {
            Op::CreateSku { code, price, sellable } => self.create_sku(code, *price, *sellable),
            Op::ChangeSku { sku, expected_version, price, sellable } => {
                let ware = self.skus.get_mut(sku).ok_or_else(|| no("NOT_FOUND"))?;
                if ware.version != *expected_version {
                    let versions = Some((*expected_version, ware.version));
                    return Err(Box::new(Refusal { versions, ..refused("VERSION_MISMATCH") }));
                }
                let now = (price.unwrap_or(ware.price), sellable.unwrap_or(ware.sellable));
                if now != (ware.price, ware.sellable) {
                    (ware.price, ware.sellable) = now;
                    ware.version += 1;
                    let (version, data) = (ware.version + ware.stock_version, terms(ware));
                    self.tell("catalog.sku.changed", "sku", sku, version, data, None);
                }
                Ok(Answer::Sku(self.sku(sku)))
            }
            Op::Receive { lines } => {
                let summed = sum(lines);
                if summed.keys().any(|sku| !self.skus.contains_key(sku)) {
                    return Err(no("NOT_FOUND"));
                }
                for (sku, quantity) in &summed {
                    let data = json!({"quantity": quantity, "reason": ""});
                    self.move_stock(sku, i64::from(*quantity), 0, "inventory.stock.received", data);
                }
                Ok(Answer::Stocks(summed.keys().map(|sku| self.stock(sku)).collect()))
            }
            Op::AdjustStock { sku, delta } => {
                let ware = self.skus.get(sku).ok_or_else(|| no("NOT_FOUND"))?;
                let (requested, available) = (delta.unsigned_abs(), ware.on_hand - ware.reserved);
                if *delta < 0 && requested > available {
                    let shortages = vec![Shortage { sku: sku.clone(), requested, available }];
                    return Err(Box::new(Refusal { shortages, ..refused("INVENTORY_SHORTAGE") }));
                }
                let data = json!({"delta": delta, "reason": ""});
                self.move_stock(sku, *delta, 0, "inventory.stock.adjusted", data);
                Ok(Answer::Stocks(vec![self.stock(sku)]))
            }
            Op::CreateAccount { name } => {
                let id = self.id("acc");
                let account = Account { id: id.clone(), balance: 0, held: 0, version: 1 };
                self.accounts.insert(id.clone(), account.clone());
                let data = json!({"name": name, "kind": "customer"});
                self.tell("customer.account.created", "account", &id, 1, data, None);
                Ok(Answer::Account(account))
            }
            Op::AdjustWallet { account, amount } => {
                if *amount < 0 {
                    self.spendable(account, -amount)?;
                } else if !self.accounts.contains_key(account) {
                    return Err(no("NOT_FOUND"));
                }
                let data = json!({"amount": money(*amount), "reason": ""});
                self.move_money(account, *amount, 0, "wallet.balance.adjusted", data);
                Ok(Answer::Account(self.accounts[account].clone()))
            }
            Op::Place(basket) => self.place(basket).map(Answer::Order),
            Op::PlaceBatch(baskets) => {
                let place = |basket| match self.place(basket) {
                    Ok(order) => Item::Order(order),
                    Err(refusal) => Item::Refused(*refusal),
                };
                Ok(Answer::Orders(baskets.iter().map(place).collect()))
            }
            Op::Pay { order } => self.step(order, "PAID"),
            Op::Cancel { order } => self.step(order, "CANCELLED"),
            Op::Ship { order } => self.step(order, "SHIPPED"),
            Op::Confirm { order } => self.step(order, "COMPLETED"),
            _ => unreachable!("a read is no write"),
        }
    }

    fn create_sku(&mut self, code: &str, price: i64, sellable: bool) -> Result<Answer, Box<Refusal>> {
        if self.codes.contains_key(code) {
            return Err(no("DUPLICATE_EXTERNAL_ID"));
        }
        let id = self.id("sku");
        self.codes.insert(code.to_owned(), id.clone());
        let ware =
            Ware { code: code.to_owned(), price, sellable, version: 1, on_hand: 0, reserved: 0, stock_version: 0 };
        let data = json!({"name": format!("sku_code:{code}"), "owner": id});
        self.tell("catalog.sku_code.taken", "claim", &format!("clm_{code}"), 1, data, None);
        let data = terms(&ware);
        self.skus.insert(id.clone(), ware);
        self.tell("catalog.sku.created", "sku", &id, 1, data, None);
        Ok(Answer::Sku(self.sku(&id)))
    }

    fn spendable(&self, account: &str, amount: i64) -> Result<(), Box<Refusal>> {
        let wallet = self.accounts.get(account).ok_or_else(|| no("NOT_FOUND"))?;
        let available = wallet.balance - wallet.held;
        if amount > available {
            let money = Some((amount, available));
            return Err(Box::new(Refusal { money, ..refused("INSUFFICIENT_BALANCE") }));
        }
        Ok(())
    }

    fn place(&mut self, basket: &Basket) -> Result<Order, Box<Refusal>> {
        let summed = sum(&basket.items);
        if !self.accounts.contains_key(&basket.account) || summed.keys().any(|sku| !self.skus.contains_key(sku)) {
            return Err(no("NOT_FOUND"));
        }
        if summed.keys().any(|sku| !self.skus[sku].sellable) {
            return Err(no("SKU_NOT_SELLABLE"));
        }
        let short = |(sku, quantity): (&String, &u32)| {
            let (requested, available) = (u64::from(*quantity), self.stock(sku).available);
            (requested > available).then(|| Shortage { sku: sku.clone(), requested, available })
        };
        let shortages: Vec<Shortage> = summed.iter().filter_map(short).collect();
        if !shortages.is_empty() {
            return Err(Box::new(Refusal { shortages, ..refused("INVENTORY_SHORTAGE") }));
        }
        let line = |(sku, quantity): (&String, &u32)| OrderLine {
            sku: sku.clone(),
            quantity: *quantity,
            unit_price: self.skus[sku].price,
        };
        let lines: Vec<OrderLine> = summed.iter().map(line).collect();
        let total = lines.iter().map(|line| line.unit_price * i64::from(line.quantity)).sum();
        if basket.hold {
            self.spendable(&basket.account, total)?;
        }
        let id = self.id("ord");
        if basket.hold {
            let data = of_order(&id, "amount", &money(total));
            self.move_money(&basket.account, 0, total, "wallet.balance.held", data);
        }
        for line in &lines {
            let data = of_order(&id, "quantity", &json!(line.quantity));
            self.move_stock(&line.sku, 0, i64::from(line.quantity), "inventory.stock.reserved", data);
        }
        let told = |line: &OrderLine| {
            json!({
                "sku_id": line.sku,
                "sku_code": self.skus[&line.sku].code,
                "quantity": line.quantity,
                "unit_price": money(line.unit_price),
                "total": money(line.unit_price * i64::from(line.quantity)),
            })
        };
        let data = json!({
            "order_id": id,
            "order_no": id.trim_start_matches("ord_"),
            "user_id": basket.account,
            "lines": lines.iter().map(told).collect::<Vec<_>>(),
            "grand_total": money(total),
            "held": basket.hold,
            "ttl_ms": self.ttl_ms,
            "note": "",
        });
        self.tell("order.order.created", "order", &id, 1, data, None);
        let order = Order {
            id: id.clone(),
            account: basket.account.clone(),
            status: "CREATED".to_owned(),
            total,
            lines,
            version: 1,
            no_change: false,
            steps: vec![("CREATED".to_owned(), self.index)],
        };
        let expire_ms = self.time_ms.saturating_add_unsigned(self.ttl_ms);
        self.timers.insert((expire_ms, id.clone()), ());
        self.orders.insert(id, Kept { order: order.clone(), hold: basket.hold, expire_ms });
        Ok(order)
    }

    fn step(&mut self, id: &str, to: &str) -> Result<Answer, Box<Refusal>> {
        let kept = self.orders.get(id).ok_or_else(|| no("NOT_FOUND"))?.clone();
        let from = kept.order.status.as_str();
        if from == to {
            return Ok(Answer::Order(Order { no_change: true, ..kept.order }));
        }
        let legal = matches!(
            (from, to),
            ("CREATED", "PAID" | "CANCELLED") | ("PAID", "SHIPPED" | "CANCELLED") | ("SHIPPED", "COMPLETED")
        );
        if !legal {
            let transition = Some((from.to_owned(), to.to_owned()));
            return Err(Box::new(Refusal { transition, ..refused("INVALID_TRANSITION") }));
        }
        if to == "PAID" && !kept.hold {
            self.spendable(&kept.order.account, kept.order.total)?;
        }
        Ok(Answer::Order(self.go(&kept, to, "REQUEST")))
    }

    /// Cancels an order whose time ran out.
    pub fn expire(&mut self, id: &str) {
        self.trace = "0".repeat(32);
        let kept = self.orders[id].clone();
        assert_eq!(kept.order.status, "CREATED", "only unpaid orders expire");
        self.go(&kept, "CANCELLED", "EXPIRED");
    }

    fn go(&mut self, kept: &Kept, to: &str, cause: &str) -> Order {
        let was = &kept.order;
        let data = json!({"status": to, "cause": cause, "note": ""});
        let kind = format!("order.order.{}", to.to_lowercase());
        self.timers.remove(&(kept.expire_ms, was.id.clone()));
        self.tell(&kind, "order", &was.id, was.version + 1, data, None);
        let (on_hand, stock_kind) = match to {
            "CANCELLED" => (false, Some("inventory.stock.released")),
            "SHIPPED" => (true, Some("inventory.stock.deducted")),
            _ => (false, None),
        };
        for line in stock_kind.iter().flat_map(|_| &was.lines) {
            let less = -i64::from(line.quantity);
            let data = of_order(&was.id, "quantity", &json!(line.quantity));
            self.move_stock(&line.sku, if on_hand { less } else { 0 }, less, stock_kind.unwrap_or_default(), data);
        }
        let data = of_order(&was.id, "amount", &money(was.total));
        let moved = match (to, was.status.as_str(), kept.hold) {
            ("PAID", _, true) => Some((-was.total, -was.total, "wallet.balance.captured")),
            ("PAID", _, false) => Some((-was.total, 0, "wallet.balance.paid")),
            ("CANCELLED", "PAID", _) => Some((was.total, 0, "wallet.balance.refunded")),
            ("CANCELLED", _, true) => Some((0, -was.total, "wallet.balance.released")),
            _ => None,
        };
        if let Some((balance, held, kind)) = moved {
            self.move_money(&was.account, balance, held, kind, data);
        }
        let index = self.index;
        let order = &mut self.orders.get_mut(&was.id).expect("a known order").order;
        order.status = to.to_owned();
        order.version += 1;
        order.steps.push((to.to_owned(), index));
        order.clone()
    }
}

fn terms(ware: &Ware) -> Value {
    json!({"sku_code": ware.code, "name": ware.code, "price": money(ware.price), "sellable": ware.sellable})
}

fn sum(items: &[(String, u32)]) -> BTreeMap<String, u32> {
    let mut summed = BTreeMap::new();
    for (sku, quantity) in items {
        *summed.entry(sku.clone()).or_default() += quantity;
    }
    summed
}
