//! What the nodes say of themselves, and what the kernel says of them: read before and after, and the difference.

use std::{collections::BTreeMap, time::Duration};

use crate::{client::Client, config::Address, telemetry};

/// Longest wait for one node's figures.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Buckets of one histogram of a node: upper bound in microseconds, and how many are at or below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    buckets: BTreeMap<u64, f64>,
    sum_us: f64,
    count: f64,
}

impl Distribution {
    /// What came between two readings.
    fn since(&self, before: &Distribution) -> Distribution {
        let old = |bound| before.buckets.get(bound).copied().unwrap_or(0.0);
        Distribution {
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, count - old(bound))).collect(),
            sum_us: self.sum_us - before.sum_us,
            count: self.count - before.count,
        }
    }

    fn add(&mut self, other: &Distribution) {
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
        self.sum_us += other.sum_us;
        self.count += other.count;
    }

    /// All together, in microseconds.
    pub fn sum_us(&self) -> f64 {
        self.sum_us
    }

    /// How many.
    #[cfg(test)]
    pub fn count(&self) -> f64 {
        self.count
    }

    /// The upper bound of the bucket in which a share of all lies, in microseconds.
    pub fn quantile_us(&self, share: f64) -> Option<f64> {
        let rank = (self.count * share).ceil().max(1.0);
        let found = self.buckets.iter().find(|(_, count)| **count >= rank && self.count > 0.0);
        found.map(|(bound, _)| *bound as f64)
    }
}

/// What one node has counted so far.
#[derive(Clone, Debug, Default)]
struct Page {
    leads: bool,
    fsyncs: f64,
    log_bytes: f64,
    row_bytes: Option<f64>,
    entries: f64,
    stages: BTreeMap<String, Distribution>,
    /// Requests by whether they write: how many, and their time in microseconds.
    requests: BTreeMap<bool, (f64, f64)>,
}

impl Page {
    fn read(text: &str) -> Option<Page> {
        let mut stages: BTreeMap<String, Distribution> = BTreeMap::new();
        let stage_of = |labels: &str| telemetry::label(labels, "stage").map(str::to_owned);
        for (labels, count) in telemetry::samples(text, "agora_stage_seconds_bucket") {
            let bound = telemetry::label(labels, "le")?;
            let bound_us =
                bound.parse::<f64>().ok().filter(|bound| bound.is_finite()).map(|bound| (bound * 1e6).round());
            let bound_us = bound_us.map_or(u64::MAX, |bound| bound as u64);
            stages.entry(stage_of(labels)?).or_default().buckets.insert(bound_us, count);
        }
        for (labels, sum) in telemetry::samples(text, "agora_stage_seconds_sum") {
            stages.entry(stage_of(labels)?).or_default().sum_us = sum * 1e6;
        }
        for (labels, count) in telemetry::samples(text, "agora_stage_seconds_count") {
            stages.entry(stage_of(labels)?).or_default().count = count;
        }
        let mut requests: BTreeMap<bool, (f64, f64)> = BTreeMap::new();
        for (name, is_sum) in
            [("http_request_duration_seconds_count", false), ("http_request_duration_seconds_sum", true)]
        {
            for (labels, value) in telemetry::samples(text, name) {
                let is_shop = telemetry::label(labels, "route").is_some_and(|route| route.starts_with("/api/v2/"));
                let writes = telemetry::label(labels, "method").is_some_and(|method| method != "GET");
                let (count, sum_us) = requests.entry(writes).or_default();
                match (is_shop, is_sum) {
                    (false, _) => {}
                    (true, false) => *count += value,
                    (true, true) => *sum_us += value * 1e6,
                }
            }
        }
        Some(Page {
            leads: telemetry::metric(text, "agora_raft_is_leader")? > 0.0,
            fsyncs: telemetry::metric(text, "agora_log_fsyncs")?,
            log_bytes: telemetry::metric(text, "agora_log_bytes_written")?,
            row_bytes: telemetry::metric(text, "agora_row_bytes_written"),
            entries: telemetry::metric(text, "agora_raft_entries")?,
            stages,
            requests,
        })
    }
}

/// One node at one moment.
#[derive(Clone, Debug, Default)]
struct Node {
    cpu_us: Option<u64>,
    disk_bytes: Option<u64>,
    memory_bytes: Option<u64>,
    page: Option<Page>,
}

/// All nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    nodes: Vec<Node>,
    /// Of this process.
    generator_cpu_us: Option<u64>,
}

impl Reading {
    /// Reads all nodes. `pids` is empty when they are not ours; what is not known stays so.
    pub async fn take(endpoints: &[Address], key: &str, pids: &[u32]) -> Reading {
        let mut nodes = Vec::with_capacity(endpoints.len());
        for (at, endpoint) in endpoints.iter().enumerate() {
            let pid = pids.get(at).copied();
            nodes.push(Node {
                cpu_us: None,
                disk_bytes: pid.and_then(telemetry::disk_bytes),
                memory_bytes: pid.and_then(telemetry::memory_bytes),
                page: page(endpoint, key).await,
            });
        }
        // Last, so that reading pages is not in it on one side and out of it on the other.
        for (node, pid) in nodes.iter_mut().zip(pids) {
            node.cpu_us = telemetry::cpu_us(*pid);
        }
        Reading { nodes, generator_cpu_us: telemetry::cpu_us(std::process::id()) }
    }

    /// The place of the node that leads, if one says so.
    pub fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.page.as_ref().is_some_and(|page| page.leads))
    }
}

async fn page(endpoint: &Address, key: &str) -> Option<Page> {
    let client = Client::new(vec![endpoint.clone()], Some(key), TIMEOUT).ok()?;
    let answer = client.get("/metrics").await.ok()?;
    Page::read(std::str::from_utf8(&answer.raw).ok()?)
}

/// What one node used between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeUse {
    /// It led at the end.
    pub leads: Option<bool>,
    /// Processor time in microseconds.
    pub cpu_us: Option<f64>,
    /// Bytes the kernel was made to write.
    pub disk_bytes: Option<f64>,
    /// Memory at the end, in bytes.
    pub memory_bytes: Option<u64>,
    /// Commits of the log.
    pub fsyncs: Option<f64>,
}

/// What all nodes used between two readings. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Node by node.
    pub nodes: Vec<NodeUse>,
    /// Processor time of this process, in microseconds.
    pub generator_cpu_us: Option<f64>,
    /// Entries proposed.
    pub entries: Option<f64>,
    /// Bytes written to the log of one node, mean.
    pub log_bytes: Option<f64>,
    /// Bytes of rows written by one node, mean.
    pub row_bytes: Option<f64>,
    /// Time by stage, over all nodes.
    pub stages: BTreeMap<String, Distribution>,
    /// Writes the nodes answered, and their time in microseconds.
    pub writes: (f64, f64),
    /// The same for reads.
    pub reads: (f64, f64),
}

impl Used {
    /// The difference.
    pub fn between(before: &Reading, after: &Reading) -> Used {
        let gone = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?) as f64);
        let pairs: Vec<(&Node, &Node)> = before.nodes.iter().zip(&after.nodes).collect();
        let nodes = pairs.iter().map(|(before, after)| NodeUse {
            leads: after.page.as_ref().map(|page| page.leads),
            cpu_us: gone(before.cpu_us, after.cpu_us),
            disk_bytes: gone(before.disk_bytes, after.disk_bytes),
            memory_bytes: after.memory_bytes,
            fsyncs: before.page.as_ref().zip(after.page.as_ref()).map(|(before, after)| after.fsyncs - before.fsyncs),
        });
        let mut used = Used {
            nodes: nodes.collect(),
            generator_cpu_us: gone(before.generator_cpu_us, after.generator_cpu_us),
            ..Used::default()
        };
        let pages: Option<Vec<(&Page, &Page)>> =
            pairs.iter().map(|(before, after)| before.page.as_ref().zip(after.page.as_ref())).collect();
        let Some(pages) = pages.filter(|pages| !pages.is_empty()) else { return used };
        let sum = |of: &dyn Fn(&Page) -> Option<f64>| {
            pages.iter().map(|(before, after)| Some(of(after)? - of(before)?)).sum::<Option<f64>>()
        };
        let count = pages.len() as f64;
        used.entries = sum(&|page| Some(page.entries));
        used.log_bytes = sum(&|page| Some(page.log_bytes)).map(|bytes| bytes / count);
        used.row_bytes = sum(&|page| page.row_bytes).map(|bytes| bytes / count);
        let of = |writes: bool| {
            let one = |page: &Page| page.requests.get(&writes).copied().unwrap_or_default();
            pages.iter().fold((0.0, 0.0), |(count, us), (before, after)| {
                (count + one(after).0 - one(before).0, us + one(after).1 - one(before).1)
            })
        };
        (used.writes, used.reads) = (of(true), of(false));
        for (before, after) in &pages {
            for (name, distribution) in &after.stages {
                let since = before.stages.get(name).map_or_else(|| distribution.clone(), |old| distribution.since(old));
                used.stages.entry(name.clone()).or_default().add(&since);
            }
        }
        used
    }

    /// Processor time of all nodes, if known of each.
    pub fn cpu_us(&self) -> Option<f64> {
        self.of_all(|node| node.cpu_us)
    }

    /// Commits of the log, mean over the nodes.
    pub fn fsyncs(&self) -> Option<f64> {
        self.of_all(|node| node.fsyncs).map(|fsyncs| fsyncs / self.nodes.len() as f64)
    }

    fn of_all(&self, of: impl Fn(&NodeUse) -> Option<f64>) -> Option<f64> {
        let all: Option<Vec<f64>> = self.nodes.iter().map(of).collect();
        all.filter(|all| !all.is_empty()).map(|all| all.iter().sum())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Pages of three nodes, the second of which leads, after `orders` writes of two milliseconds in the node.
    pub fn reading(orders: u64, cpu_us: u64) -> Reading {
        let page = |leads: bool| {
            let text = format!(
                "agora_raft_is_leader {}\nagora_log_fsyncs {}\nagora_log_bytes_written {}\nagora_row_bytes_written {}\n\
                 agora_raft_entries {}\n\
                 http_request_duration_seconds_count{{method=\"POST\",route=\"/api/v2/orders\",status_code=\"201\"}} {orders}\n\
                 http_request_duration_seconds_sum{{method=\"POST\",route=\"/api/v2/orders\",status_code=\"201\"}} {}\n\
                 http_request_duration_seconds_count{{method=\"GET\",route=\"/metrics\",status_code=\"200\"}} 9\n\
                 agora_stage_seconds_bucket{{stage=\"decide\",le=\"0.0001\"}} {}\n\
                 agora_stage_seconds_bucket{{stage=\"decide\",le=\"0.0002\"}} {orders}\n\
                 agora_stage_seconds_bucket{{stage=\"decide\",le=\"+Inf\"}} {orders}\n\
                 agora_stage_seconds_sum{{stage=\"decide\"}} {}\n\
                 agora_stage_seconds_count{{stage=\"decide\"}} {orders}\n",
                u8::from(leads),
                orders / 10,
                orders * 300,
                orders * 1_000,
                if leads { orders / 5 } else { 0 },
                orders as f64 * 0.002,
                orders / 2,
                orders as f64 * 0.000_1,
            );
            Page::read(&text)
        };
        let node = |leads| Node {
            cpu_us: Some(cpu_us),
            disk_bytes: Some(orders * 5_000),
            memory_bytes: Some(1 << 20),
            page: page(leads),
        };
        Reading { nodes: vec![node(false), node(true), node(false)], generator_cpu_us: Some(cpu_us) }
    }

    #[test]
    fn what_was_used_is_the_difference() {
        let (before, after) = (reading(100, 1_000), reading(1_100, 5_000));
        let used = Used::between(&before, &after);
        assert_eq!(after.leader(), Some(1));
        assert_eq!((used.cpu_us(), used.fsyncs(), used.entries), (Some(12_000.0), Some(100.0), Some(200.0)));
        assert_eq!((used.log_bytes, used.row_bytes), (Some(300_000.0), Some(1_000_000.0)));
        assert_eq!(used.writes.0, 3_000.0);
        assert!((used.writes.1 - 6e6).abs() < 1.0, "{:?}", used.writes);
        assert_eq!(used.reads, (0.0, 0.0), "the reading of pages is none");
        let decide = &used.stages["decide"];
        assert_eq!(decide.count(), 3_000.0);
        assert!((decide.sum_us() - 300_000.0).abs() < 1.0);
        assert_eq!((decide.quantile_us(0.5), decide.quantile_us(0.99)), (Some(100.0), Some(200.0)));
    }

    #[test]
    fn what_one_node_does_not_say_is_not_known() {
        let (before, mut after) = (reading(0, 0), reading(10, 10));
        after.nodes[0].page = None;
        after.nodes[2].cpu_us = None;
        let used = Used::between(&before, &after);
        assert_eq!((used.cpu_us(), used.fsyncs(), used.entries), (None, None, None));
        assert_eq!(used.nodes[1].fsyncs, Some(1.0));
        assert_eq!(Distribution::default().quantile_us(0.5), None);
    }
}
