//! What one order costs when it is applied: decode, evolve, digest and chain (over rows in memory), and with the rows
//! on disk. One thread, no log, no network.
//!
//! `cargo run --release -p agora-cluster-tests --example apply_cost` prints microseconds per order for several batch
//! sizes, one SKU for all orders (hot) and 10,000 SKUs (uniform). Every run is long enough for the row store to flush and
//! compact; the micro-benchmarks in `cluster-tests/bench` look at single entries instead.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agora_bench::{Applied, entry_of_orders};
use agora_storage::{Disk, FileDisk, MemRows, RowOptions, rows::Rows};

const ORDERS: u64 = 100_000;
const SKUS: u64 = 10_000;

fn measure(what: &str, rows: Arc<dyn Rows>, batch: u64, spread: u64) {
    let mut applied = Applied::stocked(rows, spread);
    let mut spent = Duration::ZERO;
    for first in (0..ORDERS).step_by(batch as usize) {
        let bytes = entry_of_orders(first, batch, spread);
        let started = Instant::now();
        applied.apply(&bytes);
        spent += started.elapsed();
    }
    let per_order = spent.as_secs_f64() * 1e6 / ORDERS as f64;
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
