//! What one order costs when it is applied: decode, evolve, digest and chain (over rows in memory), and with the rows
//! on disk. One thread, no log, no network.
//!
//! `cargo run --release -p agora-cluster-tests --example apply_cost` prints microseconds per order for several batch
//! sizes, one SKU for all orders (hot) and 10,000 SKUs (uniform).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agora_actors::domain::{
    AccountEvent, AccountId, AccountKind, Change, Currency, KeyRef, Money, OrderEvent, OrderId, SkuEvent, SkuId,
    SkuTerms, Transaction, Uid, order::Line, transaction::Outcome,
};
use agora_apply::Machine;
use agora_storage::{
    Disk, FileDisk, LogPosition, MemRows, RowOptions, codec,
    entry::{EntryBuilder, EntryHeader, EntryKind},
    rows::Rows,
};

const ORDERS: u64 = 100_000;
const SKUS: u64 = 10_000;
const BUYER: AccountId = AccountId(Uid(1));

fn sku(number: u64) -> SkuId {
    SkuId(Uid(1_000_000 + u128::from(number)))
}

fn money(minor: i64) -> Money {
    Money::new(minor, Currency::CNY)
}

fn transaction(number: u64, changes: Vec<Change>, outcome: Outcome) -> Transaction {
    // Keys are hashes: spread them as a hash would.
    let hash = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let key = Some(KeyRef { hash, fingerprint: hash });
    Transaction { key, trace: hash, decided_at: 0, changes, legs: Vec::new(), outcome }
}

fn stocked(number: u64) -> Transaction {
    let terms = SkuTerms { code: format!("B-{number}"), name: "bench item".into(), price: money(100), sellable: true };
    let id = sku(number);
    let created = SkuEvent::Created { terms: Arc::new(terms), id };
    let received = SkuEvent::Received { quantity: 1_000_000, reason: String::new() };
    transaction(1_000_000_000 + number, vec![Change::Sku(id, created), Change::Sku(id, received)], Outcome::Sku(id))
}

fn placed(number: u64, of: SkuId, time_ms: i64) -> Transaction {
    let id = OrderId(Uid::new(time_ms, 1, number));
    let (code, name) = ("B-1".to_owned(), "bench item".to_owned());
    let line = Line { sku: of, code, name, quantity: 1, unit_price: money(100), total: money(100) };
    let placed = OrderEvent::Placed {
        id,
        account: BUYER,
        lines: vec![line],
        total: money(100),
        held: false,
        ttl_ms: 900_000,
        note: String::new(),
    };
    let reserved = SkuEvent::Reserved { order: id, quantity: 1 };
    transaction(number, vec![Change::Sku(of, reserved), Change::Order(id, placed)], Outcome::Order(id))
}

struct Log {
    index: u64,
    machine: Machine,
    rows: Arc<dyn Rows>,
    spent: Duration,
}

impl Log {
    fn apply(&mut self, kind: EntryKind, transactions: &[Transaction]) {
        self.index += 1;
        let mut builder = EntryBuilder::new();
        for transaction in transactions {
            builder.push(&codec::encode(transaction));
        }
        let header = EntryHeader {
            kind,
            reign: 1,
            term: 1,
            node: 1,
            sequence: self.index,
            log_time_ms: 1_700_000_000_000 + self.index as i64,
            feature_level: 1,
            count: transactions.len() as u32,
        };
        let bytes = builder.finish(header);
        let started = Instant::now();
        let position = LogPosition { index: self.index, term: 1 };
        self.machine.apply_entry(self.rows.as_ref(), position, &bytes).expect("applied");
        self.spent += started.elapsed();
    }
}

fn measure(what: &str, rows: Arc<dyn Rows>, batch: u64, spread: u64) {
    let machine = Machine::open(rows.as_ref()).expect("empty rows");
    let mut log = Log { index: 0, machine, rows, spent: Duration::ZERO };
    log.apply(EntryKind::Fence, &[]);
    let buyer = AccountEvent::Created { id: BUYER, kind: AccountKind::Customer, name: "bench".into() };
    log.apply(EntryKind::Transactions, &[transaction(u64::MAX, vec![Change::Account(BUYER, buyer)], Outcome::None)]);
    for first in (0..spread).step_by(1_000) {
        let skus: Vec<_> = (first..(first + 1_000).min(spread)).map(stocked).collect();
        log.apply(EntryKind::Transactions, &skus);
    }
    log.spent = Duration::ZERO;
    for first in (0..ORDERS).step_by(batch as usize) {
        let time_ms = 1_700_000_000_000 + first as i64;
        let orders: Vec<_> =
            (first..first + batch).map(|number| placed(number, sku(number % spread), time_ms)).collect();
        log.apply(EntryKind::Transactions, &orders);
    }
    let per_order = log.spent.as_secs_f64() * 1e6 / ORDERS as f64;
    println!(
        "{what:<10} {:<8} {batch:>5} orders per entry {per_order:>8.2} us per order",
        if spread == 1 { "hot" } else { "uniform" }
    );
}

fn main() {
    for spread in [1, SKUS] {
        for batch in [1, 20, 100, 500] {
            measure("in memory", Arc::new(MemRows::new()), batch, spread);
            let folder = tempfile::tempdir().expect("a folder");
            let disk = FileDisk::new(folder.path(), RowOptions::default()).expect("a disk");
            measure("on disk", disk.create_rows(1).expect("rows"), batch, spread);
        }
    }
}
