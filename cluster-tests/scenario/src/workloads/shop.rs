//! What is sold in a run and to whom, and what its clients know of each other's orders.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agora_history::{Answer, Item, Op, Order, Reply};

use crate::{client::Client, rng::Rng};

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    /// SKUs everybody wants.
    pub hot: u32,
    /// Units of each.
    pub hot_units: u32,
    /// SKUs for carts.
    pub wide: u32,
    /// Units of each.
    pub wide_units: u32,
    /// SKUs for bulk orders; their stock does not end.
    pub bulk: u32,
    /// Customers with money.
    pub accounts: u32,
    /// Minor units each of them has.
    pub balance: i64,
    /// Customers with little of it.
    pub poor: u32,
}

impl Default for Catalogue {
    fn default() -> Catalogue {
        Catalogue {
            hot: 2,
            hot_units: 300,
            wide: 10,
            wide_units: 150,
            bulk: 0,
            accounts: 8,
            balance: 2_000_000,
            poor: 2,
        }
    }
}

/// Minor units a poor customer has.
const POOR_BALANCE: i64 = 3_000;
/// The most units one line of a receipt may name.
const LINE_UNITS_MAX: u32 = 1_000_000;
/// Receipts of that many units for SKUs whose stock must not end.
const BULK_RECEIPTS: u32 = 20;

/// A SKU on sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goods {
    pub id: String,
    pub code: String,
    pub price: i64,
}

/// Orders that are remembered, for others to move on.
const ORDERS_MAX: usize = 2_048;
/// Keys of orders that are remembered, for others to look up.
const KEYS_MAX: usize = 1_024;
/// The latest orders, at which several clients meet.
const RECENT: usize = 8;

/// The stage of all loads of a run.
#[derive(Debug, Default)]
pub struct Shop {
    pub hot: Vec<Goods>,
    pub wide: Vec<Goods>,
    pub bulk: Vec<Goods>,
    /// Customers with money.
    pub accounts: Vec<String>,
    /// Customers with little of it.
    pub poor: Vec<String>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Orders with the status they were last seen in, the newest at the end.
    orders: Vec<(String, String)>,
    keys: Vec<String>,
    /// What operators did: done, and not done.
    acts: BTreeMap<String, (u64, u64)>,
}

impl Shop {
    /// Makes everything, through the client like any other load.
    ///
    /// # Errors
    /// The first request that was not granted.
    pub async fn open(client: &mut Client, catalogue: &Catalogue, seed: u64) -> Result<Shop, String> {
        let mut shop = Shop::default();
        for number in 0..catalogue.hot {
            shop.hot.push(create(client, format!("hot-{seed:x}-{number}")).await?);
        }
        for number in 0..catalogue.wide {
            shop.wide.push(create(client, format!("wide-{seed:x}-{number}")).await?);
        }
        for number in 0..catalogue.bulk {
            shop.bulk.push(create(client, format!("bulk-{seed:x}-{number}")).await?);
        }
        let line = |units: u32| move |goods: &Goods| (goods.id.clone(), units);
        let hot = shop.hot.iter().map(line(catalogue.hot_units));
        let lines: Vec<_> = hot.chain(shop.wide.iter().map(line(catalogue.wide_units))).collect();
        receive(client, lines).await?;
        for _ in 0..BULK_RECEIPTS {
            receive(client, shop.bulk.iter().map(line(LINE_UNITS_MAX)).collect()).await?;
        }
        for number in 0..catalogue.accounts {
            shop.accounts.push(customer(client, format!("customer {number}"), catalogue.balance).await?);
        }
        for number in 0..catalogue.poor {
            shop.poor.push(customer(client, format!("poor customer {number}"), POOR_BALANCE).await?);
        }
        Ok(shop)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what an answer tells of orders.
    pub fn learn(&self, reply: &Reply) {
        match reply {
            Reply::Yes { answer: Answer::Order(order), .. } => self.known().learn(order),
            Reply::Yes { answer: Answer::Orders(items), .. } => {
                let mut known = self.known();
                // A few of a batch are enough to go on with.
                for item in items.iter().take(RECENT) {
                    if let Item::Order(order) = item {
                        known.learn(order);
                    }
                }
            }
            _ => {}
        }
    }

    /// A known order with the status it was last seen in; most often one of the newest, so that clients meet.
    pub fn some_order(&self, rng: &mut Rng) -> Option<(String, String)> {
        let known = self.known();
        let recent = known.orders.len().saturating_sub(RECENT);
        let from = if rng.per_mille(500) { &known.orders[recent..] } else { &known.orders[..] };
        rng.pick(from).cloned()
    }

    /// Remembers under which key an order was asked for.
    pub fn note_key(&self, key: &str) {
        let mut known = self.known();
        if known.keys.len() >= KEYS_MAX {
            known.keys.drain(..KEYS_MAX / 2);
        }
        known.keys.push(key.to_owned());
    }

    /// A key under which an order was asked for.
    pub fn some_key(&self, rng: &mut Rng) -> Option<String> {
        rng.pick(&self.known().keys).cloned()
    }

    /// So many of the keys under which orders were asked for, from the oldest to the newest.
    pub fn keys(&self, most: usize) -> Vec<String> {
        let known = self.known();
        let step = known.keys.len().div_ceil(most.max(1)).max(1);
        known.keys.iter().step_by(step).cloned().collect()
    }

    /// Any SKU.
    pub fn some_goods(&self, rng: &mut Rng) -> Option<Goods> {
        let all: Vec<&Goods> = self.hot.iter().chain(&self.wide).chain(&self.bulk).collect();
        rng.pick(&all).map(|goods| (*goods).clone())
    }

    /// Notes whether an operator's act was done.
    pub fn note_act(&self, act: &str, is_done: bool) {
        let mut known = self.known();
        let counts = known.acts.entry(act.to_owned()).or_default();
        if is_done {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
    }

    /// What operators did: done, and not done.
    pub fn acts(&self) -> BTreeMap<String, (u64, u64)> {
        self.known().acts.clone()
    }
}

impl Known {
    fn learn(&mut self, order: &Order) {
        let is_over = order.status == "COMPLETED" || order.status == "CANCELLED";
        if let Some(at) = self.orders.iter().rposition(|(id, _)| *id == order.id) {
            // Most of those that are over are of no more use; some stay, to be asked for what cannot be.
            if is_over && order.steps.last().is_some_and(|(_, index)| index % 4 != 0) {
                self.orders.remove(at);
            } else {
                self.orders[at].1.clone_from(&order.status);
            }
            return;
        }
        if self.orders.len() >= ORDERS_MAX {
            self.orders.drain(..ORDERS_MAX / 2);
        }
        self.orders.push((order.id.clone(), order.status.clone()));
    }
}

async fn create(client: &mut Client, code: String) -> Result<Goods, String> {
    let price = i64::try_from(client.rng().between(100, 2_000)).unwrap_or(100);
    let reply = client.write(Op::CreateSku { code, price, sellable: true }).await;
    match reply {
        Reply::Yes { answer: Answer::Sku(sku), .. } => Ok(Goods { id: sku.id, code: sku.code, price }),
        other => Err(format!("a SKU could not be created: {other:?}")),
    }
}

async fn receive(client: &mut Client, lines: Vec<(String, u32)>) -> Result<(), String> {
    if lines.is_empty() {
        return Ok(());
    }
    match client.write(Op::Receive { lines }).await {
        Reply::Yes { .. } => Ok(()),
        other => Err(format!("stock could not be received: {other:?}")),
    }
}

async fn customer(client: &mut Client, name: String, balance: i64) -> Result<String, String> {
    let id = match client.write(Op::CreateAccount { name }).await {
        Reply::Yes { answer: Answer::Account(account), .. } => account.id,
        other => return Err(format!("an account could not be created: {other:?}")),
    };
    match client.write(Op::AdjustWallet { account: id.clone(), amount: balance }).await {
        Reply::Yes { .. } => Ok(id),
        other => Err(format!("a wallet could not be filled: {other:?}")),
    }
}
