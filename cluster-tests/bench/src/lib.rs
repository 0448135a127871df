//! What the measurements share: goods, orders and the entries they travel in, made the same way everywhere.
//!
//! The micro-benchmarks beside this file and the examples of `agora-cluster-tests` measure with these, so that two
//! figures about "an order" are about the same order: one to a few lines of one unit each, under a key spread as a hash
//! spreads it, placed by one buyer. Nothing here measures, and nothing here is part of a node.

use std::sync::Arc;

use agora_apply::Machine;
use agora_domain::{
    AccountEvent, AccountId, AccountKind, Change, Currency, Entity, KeyRef, Money, OrderEvent, OrderId, Sku, SkuEvent,
    SkuId, SkuTerms, Transaction, Uid, entity::At, order::Line, transaction::Outcome,
};
use agora_storage::{
    LogPosition, codec,
    entry::{EntryBuilder, EntryHeader, EntryKind},
    rows::Rows,
};
use bytes::Bytes;

/// Who buys everything.
pub const BUYER: AccountId = AccountId(Uid(1));
/// Where log time begins.
pub const EPOCH_MS: i64 = 1_700_000_000_000;
/// Units of a SKU that an entry brings: more than a measurement can sell.
const STOCK_UNITS: u32 = 1_000_000;
/// SKUs one entry makes.
const SKUS_PER_ENTRY: u64 = 1_000;
/// Numbers of SKUs in keys lie above all numbers of orders.
const SKU_KEYS: u64 = 1 << 40;

/// An amount in the one currency there is here.
pub fn money(minor: i64) -> Money {
    Money::new(minor, Currency::CNY)
}

/// Id of the SKU of that number.
pub fn sku_id(number: u64) -> SkuId {
    SkuId(Uid(1_000_000 + u128::from(number)))
}

/// Id of the order of that number.
pub fn order_id(number: u64) -> OrderId {
    OrderId(Uid::new(EPOCH_MS + number as i64, 1, number))
}

/// What makes a SKU and fills its shelf.
fn sku_events(id: SkuId, code: String, units: u32) -> [SkuEvent; 2] {
    let terms = SkuTerms { code, name: "bench item".to_owned(), price: money(100), sellable: true };
    let created = SkuEvent::Created { terms: Arc::new(terms), id };
    [created, SkuEvent::Received { quantity: units, reason: String::new() }]
}

/// A SKU with so many units.
///
/// # Panics
/// If a new SKU cannot be made, which would be a bug of the domain.
pub fn stocked_sku(id: SkuId, units: u32) -> Sku {
    let mut state = None;
    for event in sku_events(id, "B-1".to_owned(), units) {
        Sku::evolve(&mut state, &event, At { index: 1, time_ms: EPOCH_MS }).expect("a new SKU");
    }
    state.expect("created")
}

fn transaction(number: u64, changes: Vec<Change>, outcome: Outcome) -> Transaction {
    // Keys are hashes: spread them as a hash would.
    let hash = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let key = Some(KeyRef { hash, fingerprint: hash });
    Transaction { key, trace: hash, decided_at: 0, changes, legs: Vec::new(), outcome }
}

/// The event of an order over these SKUs, one unit of each.
pub fn placed_event(id: OrderId, skus: &[SkuId]) -> OrderEvent {
    let line = |sku: &SkuId| {
        let (code, name) = ("B-1".to_owned(), "bench item".to_owned());
        Line { sku: *sku, code, name, quantity: 1, unit_price: money(100), total: money(100) }
    };
    OrderEvent::Placed {
        id,
        account: BUYER,
        lines: skus.iter().map(line).collect(),
        total: money(100 * skus.len() as i64),
        held: false,
        ttl_ms: 900_000,
        note: String::new(),
    }
}

/// What the leader journals for such an order. Numbers must not repeat within one log.
pub fn placed(number: u64, skus: &[SkuId]) -> Transaction {
    let id = order_id(number);
    let reserve = |sku: &SkuId| Change::Sku(*sku, SkuEvent::Reserved { order: id, quantity: 1 });
    let mut changes: Vec<Change> = skus.iter().map(reserve).collect();
    changes.push(Change::Order(id, placed_event(id, skus)));
    transaction(number, changes, Outcome::Order(id))
}

/// An entry of transactions that are encoded already.
pub fn entry<'a>(kind: EntryKind, index: u64, transactions: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut builder = EntryBuilder::new();
    for transaction in transactions {
        builder.push(transaction);
    }
    let log_time_ms = EPOCH_MS + index as i64;
    let header =
        EntryHeader { kind, reign: 1, term: 1, node: 1, sequence: index, log_time_ms, feature_level: 1, count: 0 };
    builder.finish(header)
}

/// An entry of so many orders of one line from number `first` on, over `spread` SKUs in turn.
pub fn entry_of_orders(first: u64, orders: u64, spread: u64) -> Bytes {
    let encoded: Vec<Vec<u8>> =
        (first..first + orders).map(|number| codec::encode(&placed(number, &[sku_id(number % spread)]))).collect();
    entry(EntryKind::Transactions, first, encoded.iter().map(Vec::as_slice))
}

/// A machine over rows, and the index it stands at.
pub struct Applied {
    index: u64,
    machine: Machine,
    rows: Arc<dyn Rows>,
}

impl Applied {
    /// Over empty rows: the first reign begins, the buyer is there, and so are `spread` SKUs with stock.
    ///
    /// # Panics
    /// If the rows are not empty or cannot be written.
    pub fn stocked(rows: Arc<dyn Rows>, spread: u64) -> Applied {
        let machine = Machine::open(rows.as_ref()).expect("empty rows");
        let mut applied = Applied { index: 0, machine, rows };
        applied.apply(&entry(EntryKind::Fence, 1, []));
        let created = AccountEvent::Created { id: BUYER, kind: AccountKind::Customer, name: "bench".to_owned() };
        let buyer = transaction(SKU_KEYS - 1, vec![Change::Account(BUYER, created)], Outcome::None);
        applied.apply(&entry(EntryKind::Transactions, 2, [codec::encode(&buyer).as_slice()]));
        for first in (0..spread).step_by(SKUS_PER_ENTRY as usize) {
            let stocked = |number| {
                let id = sku_id(number);
                let events = sku_events(id, format!("B-{number}"), STOCK_UNITS);
                let changes = events.map(|event| Change::Sku(id, event)).to_vec();
                codec::encode(&transaction(SKU_KEYS + number, changes, Outcome::Sku(id)))
            };
            let encoded: Vec<Vec<u8>> = (first..(first + SKUS_PER_ENTRY).min(spread)).map(stocked).collect();
            applied.apply(&entry(EntryKind::Transactions, first, encoded.iter().map(Vec::as_slice)));
        }
        applied
    }

    /// Applies an entry at the next index.
    ///
    /// # Panics
    /// If the rows cannot be written, or a transaction had no effect: what was measured would not be an order.
    pub fn apply(&mut self, bytes: &[u8]) {
        self.index += 1;
        let position = LogPosition { index: self.index, term: 1 };
        let result = self.machine.apply_entry(self.rows.as_ref(), position, bytes).expect("applied");
        let applied = result.results.iter().all(|result| matches!(result, agora_apply::TransactionResult::Applied(_)));
        assert!(applied, "entry {} had no effect: {:?}", self.index, result.results.first());
    }
}
