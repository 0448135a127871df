//! `/metrics`: counters and histograms in Prometheus' text format, written by hand.
//!
//! Every endpoint has its own histograms, found by its number in the table, so that measuring a request costs a few
//! atomic additions and no text. The figures of the shop and of the cluster are read when they are asked for.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_raft::{HISTOGRAM_BOUNDS_US, Health, Histogram, Role, StageHistogram};
use http::StatusCode;
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::{
    auth::Access,
    endpoint::{Call, Endpoint},
    problem::Outcome,
    reply::Reply,
};

/// Upper bounds of the buckets of `http_request_duration_seconds`, in microseconds.
const BOUNDS_US: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 350_000, 500_000, 1_000_000, 2_000_000, 5_000_000];

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/metrics", Access::Admin, "getMetrics", show)
            .about("Counters and histograms in Prometheus' text format."),
    ]
}

#[derive(Default)]
struct Durations {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Histograms of one endpoint, one per status that it ever answered. Statuses are few, so a list will do.
type ByStatus = RwLock<Vec<(u16, Arc<Durations>)>>;

/// What the API counts of itself.
pub struct HttpMetrics {
    routes: Vec<(String, &'static str, ByStatus)>,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections closed because too many were open.
    pub connections_refused: AtomicU64,
    /// Connections closed because the client was silent, slow, or sent no HTTP.
    pub connections_broken: AtomicU64,
    /// Room for long polls.
    pub polls: Semaphore,
    /// From a write's head until the shop is asked: its body, its key, its checks.
    pub receive: StageHistogram,
}

impl HttpMetrics {
    /// One set of histograms per endpoint, and one for what no endpoint takes.
    pub fn new(endpoints: &[Endpoint], polls_max: usize) -> Self {
        let mut routes: Vec<(String, &'static str, ByStatus)> =
            endpoints.iter().map(|one| (one.method.to_string(), one.path, RwLock::default())).collect();
        routes.push(("other".to_owned(), "unmatched", RwLock::default()));
        Self {
            routes,
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_broken: AtomicU64::new(0),
            polls: Semaphore::new(polls_max),
            receive: StageHistogram::default(),
        }
    }

    /// Records one answered request; `number` is the endpoint's in the table.
    pub fn observe(&self, number: Option<usize>, status: StatusCode, took: Duration) {
        let last = self.routes.len() - 1;
        let (_, _, by_status) = &self.routes[number.unwrap_or(last).min(last)];
        let status = status.as_u16();
        let find = |list: &[(u16, Arc<Durations>)]| {
            list.iter().find(|(known, _)| *known == status).map(|(_, durations)| Arc::clone(durations))
        };
        let known = find(&by_status.read());
        let durations = known.unwrap_or_else(|| {
            let mut list = by_status.write();
            find(&list).unwrap_or_else(|| {
                let fresh = Arc::new(Durations::default());
                list.push((status, Arc::clone(&fresh)));
                fresh
            })
        });
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        durations.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        durations.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn write(&self, page: &mut Page) {
        const NAME: &str = "http_request_duration_seconds";
        page.head(NAME, "histogram", "Time from a request's head to its answer.");
        for (method, route, by_status) in &self.routes {
            for (status, durations) in by_status.read().iter() {
                let labels = format!("method=\"{method}\",route=\"{route}\",status_code=\"{status}\"");
                let counts = durations.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
                let sum_us = durations.sum_us.load(Ordering::Relaxed);
                page.histogram(NAME, &labels, &BOUNDS_US, &counts, sum_us);
            }
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.gauge("agora_http_connections", "Connections open now.", load(&self.connections));
        let help = "Connections closed because too many were open.";
        page.counter("agora_http_connections_refused_total", help, load(&self.connections_refused));
        let help = "Connections closed because the client was silent, slow, or sent no HTTP.";
        page.counter("agora_http_connections_broken_total", help, load(&self.connections_broken));
    }
}

/// A page of metrics in the making. Writing into a string cannot fail, so results of writes are dropped.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(name, "", value);
    }

    fn histogram(&mut self, name: &str, labels: &str, bounds_us: &[u64], counts: &[u64], sum_us: u64) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds_us.get(at).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            let _ = writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        self.sample(&format!("{name}_sum"), labels, seconds(sum_us));
        self.sample(&format!("{name}_count"), labels, total);
    }
}

/// Microseconds as seconds, exactly: 350000 is 0.35.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

async fn show(call: Call) -> Outcome<Reply> {
    let mut page = Page::default();
    call.api.metrics.write(&mut page);
    write_shop(&call, &mut page);
    write_raft(&call, &mut page);
    write_stages(&call, &mut page);
    Ok(Reply::text(page.0, "text/plain; version=0.0.4; charset=utf-8"))
}

fn write_shop(call: &Call, page: &mut Page) {
    let shop = call.api.shop.metrics();
    page.counter("agora_orders", "Orders placed, as applied on this node.", shop.orders_placed);
    page.head("agora_orders_total", "counter", "Orders by what became of the request, as applied on this node.");
    page.sample("agora_orders_total", "result=\"placed\"", shop.orders_placed);
    page.sample("agora_orders_total", "result=\"refused\"", shop.orders_refused);
    for (name, help, value) in [
        ("agora_orders_paid_total", "Orders paid, as applied on this node.", shop.orders_paid),
        (
            "agora_orders_cancelled_total",
            "Orders cancelled or expired, as applied on this node.",
            shop.orders_cancelled,
        ),
        ("agora_orders_expired_total", "Orders this node expired as leader.", shop.expired),
        ("agora_stock_deductions_total", "Promises of stock, as applied on this node.", shop.stock_deductions),
        ("agora_transactions_total", "Transactions applied on this node.", shop.transactions),
        ("agora_idempotency_hits_total", "Requests answered from an earlier outcome.", shop.replays),
        ("agora_idempotency_conflicts_total", "Keys used again for another request.", shop.key_conflicts),
        ("agora_apply_impossible_total", "Transactions refused at apply as impossible; must stay 0.", shop.impossible),
        ("agora_apply_fenced_total", "Transactions of an older reign refused at apply.", shop.fenced),
        ("agora_writes_unknown_total", "Writes answered unknown.", shop.unknown),
        ("agora_writes_overloaded_total", "Writes turned away because too many were waiting.", shop.overloaded),
        ("agora_writes_forwarded_total", "Writes sent on to the leader.", shop.forwarded),
    ] {
        page.counter(name, help, value);
    }
    page.gauge("agora_writes_deciding", "Writes being decided or waiting for their outcome now.", shop.deciding);
    page.gauge("agora_entities_live", "Entities in memory now.", shop.entities_live);
}

fn write_raft(call: &Call, page: &mut Page) {
    let status = call.api.status();
    for (name, help, value) in [
        ("agora_raft_term", "Term of this node.", status.term),
        ("agora_raft_is_leader", "1 while this node leads.", u64::from(status.role == Role::Leader)),
        ("agora_raft_reign", "Reign in force on this node, 0 if none.", status.reign.unwrap_or(0)),
        ("agora_raft_last_log_index", "End of this node's log.", status.last_log),
        ("agora_raft_commit_index", "What this node knows to be committed.", status.commit),
        ("agora_raft_applied_index", "What this node has applied.", status.applied),
        ("agora_raft_purged_index", "Last index gone from this node's log.", status.purged),
        ("agora_raft_lag_entries", "Committed and not yet applied here.", status.commit.saturating_sub(status.applied)),
        ("agora_raft_members", "Members this node knows.", status.members.len() as u64),
        ("agora_healthy", "1 while nothing is wrong with this node.", u64::from(status.health == Health::Ok)),
        ("agora_clock_trusted", "1 while the voters' clocks agree.", u64::from(status.clock_trusted)),
    ] {
        page.gauge(name, help, value);
    }
    let raft = call.api.shop.cluster().counters();
    page.gauge("agora_log_bytes", "Bytes the log holds now.", raft.log_bytes.get());
    for (name, help, value) in [
        ("agora_raft_entries", "Entries this node proposed.", raft.raft_entries.get()),
        ("agora_raft_entries_applied", "Entries applied here, whoever proposed them.", raft.entries_applied.get()),
        ("agora_raft_transactions", "Transactions in the entries this node proposed.", raft.transactions.get()),
        ("agora_raft_entry_bytes", "Bytes of the entries this node proposed.", raft.entry_bytes.get()),
        ("agora_log_fsyncs", "Commits of the log, each one fsync.", raft.log_fsyncs.get()),
        ("agora_log_bytes_written", "Bytes written to the log.", raft.log_bytes_written.get()),
        ("agora_log_cache_misses", "Reads of the log that the cache could not answer.", raft.log_cache_misses.get()),
        ("agora_raft_elections_won", "Times this node became leader.", raft.elections_won.get()),
        ("agora_raft_reigns", "Reigns begun here.", raft.reigns.get()),
        ("agora_raft_reigns_broken", "Reigns that ended before their term.", raft.reigns_broken.get()),
        ("agora_raft_proposals_refused", "Proposals refused with a definite no.", raft.proposals_refused.get()),
        ("agora_raft_never_applied", "Transactions accepted and never applied.", raft.never_applied.get()),
        ("agora_raft_barriers", "Read barriers run as leader.", raft.barriers.get()),
        ("agora_raft_barrier_reads", "Reads that shared them.", raft.barrier_reads.get()),
        ("agora_row_syncs", "Points at which the rows were made durable.", raft.row_syncs.get()),
        ("agora_snapshots_built", "Snapshot files written.", raft.snapshots_built.get()),
        ("agora_snapshots_sent", "Snapshots sent to a peer.", raft.snapshots_sent.get()),
        ("agora_snapshots_installed", "Snapshots installed here.", raft.snapshots_installed.get()),
        ("agora_peers_refused", "Peer connections refused.", raft.peers_refused.get()),
        ("agora_peer_frames_sent", "Frames sent to peers.", raft.frames_sent.get()),
        ("agora_peer_socket_writes", "Writes to peer sockets.", raft.socket_writes.get()),
        ("agora_peer_calls_served", "Calls forwarded to this node.", raft.calls_served.get()),
    ] {
        page.counter(name, help, value);
    }
    let rows = call.api.shop.cluster().rows().stats();
    page.counter("agora_row_bytes_written", "Bytes of keys and values written to the rows.", rows.bytes_written);
    page.counter("agora_row_compactions", "Compactions of the rows that ended.", rows.compactions);
    page.gauge("agora_row_disk_bytes", "Bytes the rows take on disk, their journals included.", rows.disk_bytes);
    write_durations(page, "agora_apply_seconds", "Time one entry took to apply.", &raft.apply_us);
    write_durations(page, "agora_fsync_seconds", "Time one log commit took.", &raft.log_commit_us);
}

/// Where the time of writes goes. A forwarded write counts in `receive`, `submit` and `forward` of the node that was asked and
/// in the others of the leader, of whose time `serve` is the part that forwarded ones took.
fn write_stages(call: &Call, page: &mut Page) {
    const NAME: &str = "agora_stage_seconds";
    page.head(NAME, "histogram", "Time of writes by stage.");
    let (shop, journal) = (call.api.shop.stages(), &call.api.shop.cluster().counters().stages);
    for (stage, histogram) in [
        ("receive", &call.api.metrics.receive),
        ("submit", &shop.submit),
        ("forward", &shop.forward),
        ("serve", &shop.serve),
        ("decide", &shop.decide),
        ("queue", &journal.queue),
        ("append", &journal.append),
        ("commit", &journal.commit),
        ("apply", &journal.apply),
        ("answer", &shop.answer),
    ] {
        let (counts, sum_us) = histogram.read();
        let bounds: Vec<u64> = (0..counts.len()).filter_map(StageHistogram::upper_us).collect();
        page.histogram(NAME, &format!("stage=\"{stage}\""), &bounds, &counts, sum_us);
    }
}

fn write_durations(page: &mut Page, name: &str, help: &str, histogram: &Histogram) {
    page.head(name, "histogram", help);
    let (counts, sum_us) = histogram.read();
    page.histogram(name, "", &HISTOGRAM_BOUNDS_US, &counts, sum_us);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_falls_into_the_buckets_at_and_above_its_time() {
        let metrics = HttpMetrics::new(&crate::endpoints(), 1);
        metrics.observe(None, StatusCode::NOT_FOUND, Duration::from_micros(5_000));
        metrics.observe(None, StatusCode::NOT_FOUND, Duration::from_micros(350_001));
        metrics.observe(None, StatusCode::NOT_FOUND, Duration::from_secs(60));
        let mut page = Page::default();
        metrics.write(&mut page);
        let buckets: Vec<&str> = page.0.lines().filter(|line| line.contains("unmatched")).collect();
        let labels = "method=\"other\",route=\"unmatched\",status_code=\"404\"";
        let bucket = |bound: &str, count: u64| {
            format!("http_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}")
        };
        assert_eq!(buckets[0], bucket("0.005", 1));
        assert_eq!(buckets[6], bucket("0.35", 1));
        assert_eq!(buckets[7], bucket("0.5", 2));
        assert_eq!(buckets[10], bucket("5", 2));
        assert_eq!(buckets[11], bucket("+Inf", 3));
        assert_eq!(buckets[12], format!("http_request_duration_seconds_sum{{{labels}}} 60.355001"));
        assert_eq!(buckets[13], format!("http_request_duration_seconds_count{{{labels}}} 3"));
    }
}
