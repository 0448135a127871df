//! What storage costs: CPU per order in the rows, and per group commit in the log. Prints figures for the machine it runs on.
//!
//! `cargo run --release -p agora-storage --example storage_cost [directory [flushing threads]]`

use std::time::{Duration, Instant};

use agora_storage::{
    Batch, Disk, FileDisk, Keyspace, LogOp, RowOptions, Rows, StateHeader, codec, key, meta, scrub,
    snapshot::{SNAPSHOT_FORMAT, SnapshotHeader, install_snapshot, verify_snapshot, write_snapshot},
};
use bytes::Bytes;

const BATCHES: u64 = 5_000;
const ORDERS_PER_BATCH: u64 = 100;
const ROWS_PER_ORDER: u64 = 8;
const VALUE_BYTES: usize = 120;

/// CPU time of this process so far, from the kernel, and of its calling thread.
fn cpu() -> (Duration, Duration) {
    let read = |path: &str| -> Duration {
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        let ticks: u64 = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // USER_HZ is 100 on every Linux that matters here.
        Duration::from_millis(ticks * 10)
    };
    (read("/proc/self/stat"), read("/proc/thread-self/stat"))
}

/// Lets the peak start again from what is in use now.
fn forget_peak_memory() {
    std::fs::write("/proc/self/clear_refs", "5").ok();
    println!("memory: {} MiB in use", peak_memory_mib());
}

fn peak_memory_mib() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0_u64)
        / 1024
}

/// The batch of an index: orders of eight rows each, some of them in every keyspace.
fn batch_of(index: u64) -> Batch {
    let mut batch = Batch::new(index);
    for order in 0..ORDERS_PER_BATCH {
        let id = (u128::from(index) << 64) | u128::from(order);
        let value =
            |n: u64| -> Vec<u8> { (0..VALUE_BYTES as u64).map(|at| (at * 31 + n * 7 + order * index) as u8).collect() };
        for n in 0..3 {
            batch.insert(Keyspace::Entity, key::entity(n as u8, id), value(n));
        }
        for n in 3..5 {
            batch.insert(Keyspace::Index, key::index_entry(n as u8, b"acct", &id.to_be_bytes()), value(n));
        }
        for n in 5..7 {
            batch.insert(Keyspace::Feed, key::feed(index, (order * 2 + n) as u32), value(n));
        }
        let hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        batch.insert(Keyspace::Outcomes(0), key::outcome(hash), value(7));
    }
    batch
}

/// Commits at a pace, as a node does: how long does a batch take when the disk is not the limit?
fn paced_cost(rows: &dyn Rows, state: &mut StateHeader, orders_per_second: u64) {
    let pause = Duration::from_secs_f64(ORDERS_PER_BATCH as f64 / orders_per_second as f64);
    let first = rows.applied() + 1;
    let started = Instant::now();
    let mut commits = Vec::new();
    for number in 0..orders_per_second * 15 / ORDERS_PER_BATCH {
        let due = started + pause * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut batch = batch_of(first + number);
        state.digest = state.digest.wrapping_add(batch.digest_delta());
        batch.put_meta(meta::STATE, codec::encode(state));
        let begun = Instant::now();
        rows.commit(batch).expect("commit");
        commits.push(begun.elapsed());
    }
    commits.sort_unstable();
    let at = |share: f64| commits[((commits.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "rows: at {orders_per_second} orders/s, commit of a batch of {ORDERS_PER_BATCH}: p50 {} us, p99 {} us, p99.9 {} us, longest {} us",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn rows_cost(disk: &FileDisk) -> StateHeader {
    let rows = disk.create_rows(1).expect("rows");
    let orders = BATCHES * ORDERS_PER_BATCH;
    let mut state = StateHeader::default();
    for orders_per_second in [10_000, 30_000] {
        paced_cost(&*rows, &mut state, orders_per_second);
    }
    let first = rows.applied() + 1;
    let mut building = Duration::ZERO;
    let mut commits: Vec<Duration> = Vec::new();
    let (started, (process, thread)) = (Instant::now(), cpu());
    for index in first..first + BATCHES {
        let begun = Instant::now();
        let mut batch = batch_of(index);
        state.digest = state.digest.wrapping_add(batch.digest_delta());
        batch.put_meta(meta::STATE, codec::encode(&state));
        building += begun.elapsed();
        let begun = Instant::now();
        rows.commit(batch).expect("commit");
        commits.push(begun.elapsed());
    }
    let took = started.elapsed();
    let (process_end, thread_end) = cpu();
    commits.sort_unstable();
    let per_order = |time: Duration| time.as_secs_f64() * 1e6 / orders as f64;
    println!(
        "rows: {orders} orders of {ROWS_PER_ORDER} rows x {VALUE_BYTES} B in batches of {ORDERS_PER_BATCH}: {:.1} us wall per order",
        per_order(took)
    );
    println!(
        "rows: cpu per order: writer thread {:.2} us (of it building batch and digest {:.2} us), whole process with flush and compaction {:.2} us",
        per_order(thread_end - thread),
        per_order(building),
        per_order(process_end - process)
    );
    let at = |share: f64| commits[((commits.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "rows: commit of a batch: p50 {} us, p99 {} us, p99.9 {} us, longest {} us",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    println!("rows: {:?}", rows.stats());
    read_cost(&*rows);
    state
}

fn read_cost(rows: &dyn Rows) {
    let reads = 200_000u64;
    let started = Instant::now();
    for n in 0..reads {
        let index = 1 + (n * 7919) % BATCHES;
        let id = (u128::from(index) << 64) | u128::from(n % ORDERS_PER_BATCH);
        assert!(rows.get(Keyspace::Entity, &key::entity(0, id)).expect("get").is_some());
    }
    println!("rows: get {:.2} us", started.elapsed().as_secs_f64() * 1e6 / reads as f64);
    let started = Instant::now();
    for _ in 0..reads {
        drop(rows.view().expect("view"));
    }
    println!("rows: view {:.2} us", started.elapsed().as_secs_f64() * 1e6 / reads as f64);
}

fn log_cost(disk: &FileDisk, bytes: usize) {
    let log = disk.open_log().expect("log");
    let entry = Bytes::from(vec![7; bytes]);
    let groups = 2_000u64;
    let first = log.bounds().expect("bounds").end().map_or(1, |end| end + 1);
    let (started, (process, _), fsyncs) = (Instant::now(), cpu(), log.fsyncs());
    for index in first..first + groups {
        let mut ops = vec![LogOp::Append { first: index, entries: vec![entry.clone()] }];
        if index % 256 == 0 {
            ops.push(LogOp::PurgeTo { index: index - 200, mark: vec![1; 32] });
        }
        log.write(ops).expect("write");
    }
    let took = started.elapsed().as_secs_f64() * 1e6 / groups as f64;
    let used = (cpu().0 - process).as_secs_f64() * 1e6 / groups as f64;
    println!(
        "log: group commit of {bytes} B: {took:.0} us wall, {used:.0} us cpu, {:.2} fsyncs, file {} MiB",
        (log.fsyncs() - fsyncs) as f64 / groups as f64,
        disk.usage().log_bytes / 1024 / 1024
    );
}

fn snapshot_cost(disk: &FileDisk, state: StateHeader) {
    let agora_storage::OpenedRows::Ready(rows) = disk.open_rows(1, 0).expect("open") else {
        panic!("rows lost");
    };
    let header = SnapshotHeader {
        format: SNAPSHOT_FORMAT,
        cluster: "cost".into(),
        lineage: 1,
        index: rows.applied(),
        term: 1,
        membership: Default::default(),
        state,
        created_ms: 0,
    };
    let view = rows.view().expect("view");
    forget_peak_memory();
    let started = Instant::now();
    scrub::verify(&*view).expect("verify");
    println!("scrub: {:.2} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    let mut file = disk.snapshot_create("cost").expect("create");
    let stats = write_snapshot(&*view, &header, &mut *file, &mut |_| Ok(())).expect("snapshot");
    file.finish().expect("finish");
    println!(
        "snapshot: written in {:.2} s, {stats:?}, peak memory {} MiB",
        started.elapsed().as_secs_f64(),
        peak_memory_mib()
    );
    let started = Instant::now();
    let mut input = disk.snapshot_open("cost").expect("open");
    verify_snapshot(&mut *input, &mut |_| Ok(())).expect("verify");
    println!("snapshot: verified in {:.2} s", started.elapsed().as_secs_f64());
    forget_peak_memory();
    let started = Instant::now();
    let target = disk.create_rows(2).expect("rows");
    let mut input = disk.snapshot_open("cost").expect("open");
    install_snapshot(&mut *input, &*target, &mut |_| Ok(())).expect("install");
    disk.finish_rows(2).expect("finish");
    println!("snapshot: installed in {:.2} s, peak memory {} MiB", started.elapsed().as_secs_f64(), peak_memory_mib());
    let started = Instant::now();
    drop(target);
    drop(disk.open_rows(2, header.index).expect("reopen"));
    println!("rows: closed and opened again in {:.2} s", started.elapsed().as_secs_f64());
}

fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/storage-cost".into());
    std::fs::remove_dir_all(&dir).ok();
    let worker_threads = std::env::args().nth(2).and_then(|count| count.parse().ok()).unwrap_or(1);
    let disk = FileDisk::new(&dir, RowOptions { worker_threads, ..RowOptions::default() }).expect("disk");
    for bytes in [1_000, 10_000, 30_000, 100_000] {
        log_cost(&disk, bytes);
    }
    let state = rows_cost(&disk);
    snapshot_cost(&disk, state);
    drop(disk);
    std::fs::remove_dir_all(&dir).ok();
}
