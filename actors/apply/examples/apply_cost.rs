//! What one order costs when it is applied: decode, evolve, digest and chain, with rows in memory and on disk. No log,
//! no network, no actors.
//!
//! `cargo run --release -p agora-apply --example apply_cost` prints, for several numbers of orders per entry, the
//! microseconds per order on the clock, the CPU of the applying thread, and that of all threads, the store's own among
//! them. `hot`: 90 % of orders name one SKU of 1,000; `uniform`: 10,000 SKUs, all alike.
//!
//! Arguments pick what is run: `disk|mem`, `hot|uniform`, orders per entry, orders, MiB of a memtable.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use agora_apply::Machine;
use agora_domain::{
    AccountEvent, AccountId, AccountKind, Change, Currency, KeyRef, Money, OrderEvent, OrderId, SkuEvent, SkuId,
    SkuTerms, Transaction, Uid, order::Line, transaction::Outcome,
};
use agora_storage::{
    Disk, FileDisk, LogPosition, MemRows, RowOptions, codec,
    entry::{EntryBuilder, EntryHeader, EntryKind},
    rows::Rows,
};

/// The allocator of the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a node uses.
const MEMTABLE_MIB: u64 = 32;
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

/// An order of one to three lines.
fn placed(number: u64, skus: &[SkuId], time_ms: i64) -> Transaction {
    let id = OrderId(Uid::new(time_ms, 1, number));
    let lines: Vec<Line> = skus
        .iter()
        .map(|sku| Line {
            sku: *sku,
            code: "B-1".to_owned(),
            name: "bench item".to_owned(),
            quantity: 1,
            unit_price: money(100),
            total: money(100),
        })
        .collect();
    let mut changes: Vec<Change> =
        skus.iter().map(|sku| Change::Sku(*sku, SkuEvent::Reserved { order: id, quantity: 1 })).collect();
    changes.push(Change::Order(
        id,
        OrderEvent::Placed {
            id,
            account: BUYER,
            total: money(100 * lines.len() as i64),
            lines,
            held: false,
            ttl_ms: 900_000,
            note: String::new(),
        },
    ));
    transaction(number, changes, Outcome::Order(id))
}

/// A generator that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn skus(&mut self, hot: bool) -> Vec<SkuId> {
        let mut picked: Vec<SkuId> = Vec::with_capacity(3);
        for line in 0..1 + self.roll(3) {
            let number = match hot {
                true if line == 0 && self.roll(10) > 0 => 0,
                true => 1 + self.roll(999),
                false => self.roll(10_000),
            };
            if !picked.contains(&sku(number)) {
                picked.push(sku(number));
            }
        }
        picked
    }
}

fn entry(index: u64, kind: EntryKind, transactions: &[Transaction]) -> (LogPosition, bytes::Bytes) {
    let mut builder = EntryBuilder::new();
    for transaction in transactions {
        builder.push(&codec::encode(transaction));
    }
    let header = EntryHeader {
        kind,
        reign: 1,
        term: 1,
        node: 1,
        sequence: index,
        log_time_ms: 1_700_000_000_000 + index as i64,
        feature_level: 1,
        count: transactions.len() as u32,
    };
    (LogPosition { index, term: 1 }, builder.finish(header))
}

/// CPU of the calling thread, and of all threads that live, in nanoseconds.
fn cpu_ns() -> (u64, u64) {
    let read = |path: std::path::PathBuf| -> u64 {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
    };
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    (read("/proc/thread-self".into()), threads.map(|thread| read(thread.path())).sum())
}

#[inline(never)]
fn apply(machine: &mut Machine, rows: &Arc<dyn Rows>, group: &[(LogPosition, bytes::Bytes)]) {
    for (position, bytes) in group {
        machine.apply_entry(rows.as_ref(), *position, bytes).expect("applied");
    }
}

struct Run {
    hot: bool,
    batch: u64,
    orders: u64,
}

fn measure(what: &str, rows: Arc<dyn Rows>, run: &Run) {
    let mut machine = Machine::open(rows.as_ref()).expect("empty rows");
    let buyer = AccountEvent::Created { id: BUYER, kind: AccountKind::Customer, name: "bench".into() };
    let buyer = transaction(u64::MAX, vec![Change::Account(BUYER, buyer)], Outcome::None);
    let mut group = vec![entry(1, EntryKind::Fence, &[]), entry(2, EntryKind::Transactions, &[buyer])];
    for first in 0..10 {
        let skus: Vec<_> = (first * 1_000..(first + 1) * 1_000).map(stocked).collect();
        group.push(entry(3 + first, EntryKind::Transactions, &skus));
    }
    apply(&mut machine, &rows, &group);
    let (mut index, mut number, mut dice) = (13, 0, Dice(7));
    let mut clock = Duration::ZERO;
    let mut spent = (0, 0);
    while number < run.orders {
        // Entries are made in stretches, so that the store's threads work while orders are applied, as they would.
        let mut stretch = Vec::new();
        while number < run.orders && stretch.len() < 64 {
            let time_ms = 1_700_000_000_000 + index as i64;
            let orders: Vec<_> =
                (number..number + run.batch).map(|n| placed(n, &dice.skus(run.hot), time_ms)).collect();
            stretch.push(entry(index, EntryKind::Transactions, &orders));
            (index, number) = (index + 1, number + run.batch);
        }
        let (before, started) = (cpu_ns(), Instant::now());
        apply(&mut machine, &rows, &stretch);
        clock += started.elapsed();
        let after = cpu_ns();
        spent = (spent.0 + after.0 - before.0, spent.1 + after.1 - before.1);
    }
    let per = |ns: u64| ns as f64 / 1e3 / number as f64;
    let stats = rows.stats();
    println!(
        "{what:<4} {:<8} {:>4} orders per entry {:>7.2} us clock {:>7.2} us applying \
         {:>7.2} us all threads; {} commits",
        if run.hot { "hot" } else { "uniform" },
        run.batch,
        clock.as_secs_f64() * 1e6 / number as f64,
        per(spent.0),
        per(spent.1),
        stats.commits,
    );
}

fn run(disk: bool, run: &Run, memtable_mib: u64) {
    if !disk {
        return measure("mem", Arc::new(MemRows::new()), run);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = memtable_mib * 1024 * 1024;
    let options = RowOptions { memtable_bytes: bytes, outcomes_memtable_bytes: bytes / 2, ..RowOptions::default() };
    let disk = FileDisk::new(folder.path(), options).expect("a disk");
    measure("disk", disk.create_rows(1).expect("rows"), run);
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| given.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    if !given.is_empty() {
        let hot = given.get(1).is_none_or(|text| text == "hot");
        let picked = Run { hot, batch: number(2, 64), orders: number(3, 100_000) };
        return run(given[0] == "disk", &picked, number(4, MEMTABLE_MIB));
    }
    for hot in [true, false] {
        for disk in [false, true] {
            for batch in [1, 16, 64, 256] {
                let orders = if batch < 16 { 20_000 } else { 100_000 };
                run(disk, &Run { hot, batch, orders }, MEMTABLE_MIB);
            }
        }
    }
}
