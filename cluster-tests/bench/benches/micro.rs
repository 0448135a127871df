//! What the parts of an order's path cost by themselves: decide, evolve, encode, decode, log append, apply.
//!
//! One thread, no network; the allocator is the node's, with its calls counted. `items` are orders wherever an order is
//! what is done, so that the figures of one batch size compare with those of another. Each iteration gets new input,
//! made outside the measured time: applied orders are new ones under new keys, and append goes on where it was.
//!
//! `cluster-tests/bench/micro.py` runs this and compares with the figures that are kept beside it.

use agora_bench::{Applied, entry, entry_of_orders, order_id, placed, placed_event, sku_id, stocked_sku};
use agora_domain::{
    At, Change, Entity, Order, OrderCommand, OrderEvent, Sku, SkuCommand, SkuEvent, SkuId, Transaction, order::Provider,
};
use agora_storage::{
    FileDisk, LogOp, MemRows, RowOptions, codec,
    disk::Disk,
    entry::{EntryKind, EntryReader},
};
use divan::{AllocProfiler, Bencher, Divan, black_box, counter::ItemsCount};
use mimalloc::MiMalloc;
use std::{sync::Arc, time::Duration};

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

/// Lines of an order.
const LINES: [u64; 2] = [1, 3];
/// Orders per entry.
const BATCHES: [u64; 4] = [1, 16, 64, 256];
/// SKUs in turn: one, and ten thousand.
const HOT: u64 = 1;
const UNIFORM: u64 = 10_000;
/// Where an event takes effect.
const AT: At = At { index: 2, time_ms: agora_bench::EPOCH_MS };

/// Each is repeated for at least so long: what takes nanoseconds is measured warm, and not as the first of its kind.
const REPEATED: Duration = Duration::from_millis(250);

fn main() {
    Divan::default().min_time(REPEATED).config_with_args().main();
}

fn skus(lines: u64) -> Vec<SkuId> {
    (0..lines).map(sku_id).collect()
}

/// The promises of one order, SKU by SKU: decided, and taken from what the next decision sees.
#[divan::bench(args = LINES)]
fn decide_reserve(bencher: Bencher, lines: u64) {
    // More units than iterations will ever take.
    let mut stocked: Vec<Sku> = skus(lines).into_iter().map(|id| stocked_sku(id, u32::MAX)).collect();
    let command = SkuCommand::Reserve { order: order_id(1), quantity: 1 };
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        for sku in &mut stocked {
            let events = Sku::decide(Some(sku), black_box(&command)).expect("there is enough");
            for event in &events {
                sku.take(event);
            }
            black_box(events);
        }
    });
}

#[divan::bench]
fn decide_refuse(bencher: Bencher) {
    let sku = stocked_sku(sku_id(1), 1);
    let command = SkuCommand::Reserve { order: order_id(1), quantity: 2 };
    let decide = || Sku::decide(Some(black_box(&sku)), black_box(&command));
    bencher.counter(ItemsCount::new(1_u32)).bench_local(decide);
}

#[divan::bench]
fn decide_pay(bencher: Bencher) {
    let mut order = None;
    Order::evolve(&mut order, &placed_event(order_id(1), &skus(3)), AT).expect("a new order");
    let command = OrderCommand::Pay { provider: Provider::Balance };
    let decide = || Order::decide(black_box(order.as_ref()), black_box(&command));
    bencher.counter(ItemsCount::new(1_u32)).bench_local(decide);
}

/// One order's events, on the entities they are about.
#[divan::bench(args = LINES)]
fn evolve_place(bencher: Bencher, lines: u64) {
    let ids = skus(lines);
    let stocked: Vec<Option<Sku>> = ids.iter().map(|id| Some(stocked_sku(*id, 1_000_000))).collect();
    let reserved = SkuEvent::Reserved { order: order_id(1), quantity: 1 };
    let placed = placed_event(order_id(1), &ids);
    bencher.counter(ItemsCount::new(1_u32)).with_inputs(|| stocked.clone()).bench_local_refs(|skus| {
        for sku in skus {
            Sku::evolve(sku, black_box(&reserved), AT).expect("possible");
        }
        let mut order = None;
        Order::evolve(&mut order, black_box(&placed), AT).expect("possible");
        order
    });
}

#[divan::bench]
fn evolve_pay(bencher: Bencher) {
    let mut placed = None;
    Order::evolve(&mut placed, &placed_event(order_id(1), &skus(3)), AT).expect("a new order");
    let command = OrderCommand::Pay { provider: Provider::Balance };
    let paid: OrderEvent = Order::decide(placed.as_ref(), &command).expect("it may be paid").remove(0);
    bencher
        .counter(ItemsCount::new(1_u32))
        .with_inputs(|| placed.clone())
        .bench_local_refs(|order| Order::evolve(order, black_box(&paid), AT).expect("possible"));
}

#[divan::bench(args = LINES)]
fn encode_transaction(bencher: Bencher, lines: u64) {
    let transaction = placed(1, &skus(lines));
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| codec::encode(black_box(&transaction)));
}

#[divan::bench(args = LINES)]
fn decode_transaction(bencher: Bencher, lines: u64) {
    let bytes = codec::encode(&placed(1, &skus(lines)));
    let decode = || codec::decode::<Transaction>(black_box(&bytes)).expect("as encoded");
    bencher.counter(ItemsCount::new(1_u32)).bench_local(decode);
}

/// An entry of transactions that are encoded already, as the leader closes a batch.
#[divan::bench(args = BATCHES)]
fn encode_entry(bencher: Bencher, orders: u64) {
    let encoded: Vec<Vec<u8>> = (0..orders).map(|number| codec::encode(&placed(number, &skus(1)))).collect();
    let build = || entry(EntryKind::Transactions, 1, black_box(&encoded).iter().map(Vec::as_slice));
    bencher.counter(ItemsCount::new(orders)).bench_local(build);
}

/// An entry with all its transactions, as apply reads it.
#[divan::bench(args = BATCHES)]
fn decode_entry(bencher: Bencher, orders: u64) {
    let bytes = entry_of_orders(0, orders, HOT);
    bencher.counter(ItemsCount::new(orders)).bench_local(|| {
        let entry = EntryReader::parse(black_box(&bytes)).expect("as built");
        let decoded = entry.transactions().map(|bytes| codec::decode::<Transaction>(bytes).expect("as encoded"));
        decoded.fold(0, |changes, transaction| changes + black_box::<Vec<Change>>(transaction.changes).len())
    });
}

/// One group commit: an entry of so many orders written to the log file, and its fsync.
#[divan::bench(args = BATCHES, sample_count = 400)]
fn append_to_log(bencher: Bencher, orders: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = FileDisk::new(folder.path(), RowOptions::default()).expect("a disk");
    let log = disk.open_log().expect("a log");
    let entry = entry_of_orders(0, orders, UNIFORM);
    let mut index = 0;
    bencher.counter(ItemsCount::new(orders)).bench_local(|| {
        index += 1;
        log.write(vec![LogOp::Append { first: index, entries: vec![entry.clone()] }]).expect("written");
    });
}

fn apply(bencher: Bencher, mut applied: Applied, orders: u64, spread: u64) {
    let mut next = 0;
    let fresh_entry = || {
        next += orders;
        entry_of_orders(next - orders, orders, spread)
    };
    let bencher = bencher.counter(ItemsCount::new(orders)).with_inputs(fresh_entry);
    bencher.bench_local_refs(|bytes| applied.apply(bytes));
}

fn apply_on_disk(bencher: Bencher, orders: u64, spread: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = FileDisk::new(folder.path(), RowOptions::default()).expect("a disk");
    let rows = disk.create_rows(1).expect("rows");
    apply(bencher, Applied::stocked(rows, spread), orders, spread);
}

#[divan::bench(args = BATCHES, sample_count = 400)]
fn apply_hot_in_memory(bencher: Bencher, orders: u64) {
    apply(bencher, Applied::stocked(Arc::new(MemRows::new()), HOT), orders, HOT);
}

#[divan::bench(args = BATCHES, sample_count = 400)]
fn apply_uniform_in_memory(bencher: Bencher, orders: u64) {
    apply(bencher, Applied::stocked(Arc::new(MemRows::new()), UNIFORM), orders, UNIFORM);
}

#[divan::bench(args = BATCHES, sample_count = 400)]
fn apply_hot_on_disk(bencher: Bencher, orders: u64) {
    apply_on_disk(bencher, orders, HOT);
}

#[divan::bench(args = BATCHES, sample_count = 400)]
fn apply_uniform_on_disk(bencher: Bencher, orders: u64) {
    apply_on_disk(bencher, orders, UNIFORM);
}
