//! The figures of one run: for people as tables, for programs as one line of JSON.

use serde::Serialize;

use super::{
    histogram::Histogram,
    nodes::{NodeUse, Used},
    recorder::{Point, Recorder},
};
use crate::table;

/// Parts of a node's work on a write, in their order.
const STAGES: [&str; 6] = ["decide", "queue", "append", "commit", "apply", "answer"];

/// Latencies in milliseconds; `None` where nothing was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half took no longer.
    pub p50_ms: Option<f64>,
    /// 95 of 100.
    pub p95_ms: Option<f64>,
    /// 99 of 100.
    pub p99_ms: Option<f64>,
    /// 999 of 1,000.
    pub p999_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

impl Quantiles {
    /// Of a histogram.
    pub fn of(histogram: &Histogram) -> Quantiles {
        let ms = |us: u64| us as f64 / 1_000.0;
        let quantile = |share| histogram.quantile_us(share).map(ms);
        Quantiles {
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: histogram.max_us().map(ms),
        }
    }
}

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpFigures {
    /// Its name.
    pub name: &'static str,
    /// Answers per second.
    pub per_second: f64,
    /// Definite noes.
    pub refused: u64,
    /// Neither yes nor no.
    pub errors: u64,
    /// How long they took.
    #[serde(flatten)]
    pub latency: Quantiles,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeFigures {
    /// In the order of addresses, from 1.
    pub node: usize,
    /// It led at the end.
    pub leads: Option<bool>,
    /// Processor time per order (or request), in microseconds.
    pub cpu_us: Option<f64>,
    /// Bytes the kernel wrote to disks per order (or request).
    pub disk_bytes: Option<f64>,
    /// Orders (or requests) per fsync.
    pub per_fsync: Option<f64>,
    /// Memory at the end.
    pub memory_bytes: Option<u64>,
}

/// One stage of a request's time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Mean over all requests, those that do not pass it included, in microseconds.
    pub mean_us: f64,
    /// Median of those that do.
    pub p50_us: Option<f64>,
    /// 99 of 100 of those that do.
    pub p99_us: Option<f64>,
}

/// How often, and of what.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `agora bench orders --distribution hot …`.
    pub title: String,
    /// What is counted, in the singular.
    pub unit: &'static str,
    /// Kinds of requests that write.
    pub writes: &'static [usize],
    /// Sessions per second that were meant to be.
    pub rate: Option<f64>,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// What the scenario itself has to say.
    pub remarks: Vec<(String, String)>,
}

/// The line of `--json`. What is not known is null.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Orders accepted per second; null where something else is counted.
    pub orders_per_second: Option<f64>,
    /// From when a session was due (open loop) or sent (closed loop) to its last answer.
    #[serde(flatten)]
    pub latency: Quantiles,
    /// Processor time of all nodes per order (or request), in microseconds.
    pub cpu_us_per_order: Option<f64>,
    /// Orders (or requests) per fsync, mean over the nodes.
    pub orders_per_fsync: Option<f64>,
    /// Neither yes nor no.
    pub errors: u64,
    /// What is counted: all that is called "per order" here is per one of these.
    pub unit: &'static str,
    /// Done per second.
    pub per_second: f64,
    /// Meant per second, of an open loop.
    pub rate: Option<f64>,
    /// Measured, in seconds.
    pub seconds: f64,
    /// Definite noes.
    pub refused: u64,
    /// Mean latency.
    pub mean_ms: Option<f64>,
    /// Orders per log entry.
    pub orders_per_entry: Option<f64>,
    /// Bytes in the log of one node.
    pub log_bytes_per_order: Option<f64>,
    /// Bytes of keys and values in the rows of one node.
    pub row_bytes_per_order: Option<f64>,
    /// Processor time of the generator.
    pub generator_cpu_us_per_order: Option<f64>,
    /// By kind of request.
    pub operations: Vec<OpFigures>,
    /// By node.
    pub nodes: Vec<NodeFigures>,
    /// Where the time of a write (or a read, where nothing writes) goes; the means add up to what the client sees.
    pub stages: Vec<Stage>,
    /// What the scenario itself has to say.
    pub remarks: Vec<(String, String)>,
    /// What was run.
    pub title: String,
    /// Whether anything writes.
    #[serde(skip)]
    pub writes: bool,
    /// Over time, for the plot.
    #[serde(skip)]
    pub points: Vec<Point>,
    /// Latency in milliseconds up to which a share lies, for the plot.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
    /// The first error, in words.
    #[serde(skip)]
    pub first_error: Option<String>,
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

impl Report {
    /// Puts the figures together.
    pub fn new(recorder: &Recorder, subject: Subject, used: &Used) -> Report {
        let decided = (recorder.in_time.done + recorder.in_time.refused) as f64;
        let each = |value: Option<f64>| value.filter(|_| decided > 0.0).map(|value| rounded(value / decided));
        let per = |value: Option<f64>| value.filter(|value| *value > 0.0).map(|value| rounded(decided / value));
        let per_second = rounded(recorder.in_time.done as f64 / subject.seconds.max(1e-9));
        let node = |(at, node): (usize, &NodeUse)| NodeFigures {
            node: at + 1,
            leads: node.leads,
            cpu_us: each(node.cpu_us),
            disk_bytes: each(node.disk_bytes),
            per_fsync: per(node.fsyncs),
            memory_bytes: node.memory_bytes,
        };
        let op = |op: &super::recorder::Op| OpFigures {
            name: op.name,
            per_second: rounded(op.answers as f64 / subject.seconds.max(1e-9)),
            refused: op.count.refused,
            errors: op.count.errors,
            latency: Quantiles::of(&op.latency),
        };
        Report {
            orders_per_second: (subject.unit == "order").then_some(per_second),
            latency: Quantiles::of(&recorder.sessions),
            cpu_us_per_order: each(used.cpu_us()),
            orders_per_fsync: per(used.fsyncs()),
            errors: recorder.total.errors,
            unit: subject.unit,
            per_second,
            rate: subject.rate,
            seconds: rounded(subject.seconds),
            refused: recorder.total.refused,
            mean_ms: recorder.sessions.mean_us().map(|us| rounded(us / 1_000.0)),
            orders_per_entry: per(used.entries),
            log_bytes_per_order: each(used.log_bytes),
            row_bytes_per_order: each(used.row_bytes),
            generator_cpu_us_per_order: each(used.generator_cpu_us),
            operations: recorder.ops.iter().map(op).collect(),
            nodes: used.nodes.iter().enumerate().map(node).collect(),
            stages: stages(recorder, subject.writes, used),
            remarks: subject.remarks,
            title: subject.title,
            writes: !subject.writes.is_empty(),
            points: recorder.points().to_vec(),
            curve: curve(&recorder.sessions),
            first_error: recorder.first_error.clone(),
        }
    }

    /// The line of `--json`.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("figures are JSON")
    }

    /// Name and value of each figure, for tables.
    pub fn figures(&self) -> Vec<(String, String)> {
        let unit = self.unit;
        let number = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "not available".to_owned(), |value| format!("{value:.2}{unit}"))
        };
        let bytes = |value: Option<f64>| {
            value.map_or_else(
                || "not available".to_owned(),
                |value| format!("{} B", table::grouped(value.round() as u64)),
            )
        };
        let mut rows = vec![(format!("{unit}s per second"), table::grouped(self.per_second.round() as u64))];
        if let Some(rate) = self.rate {
            rows.push(("meant per second".to_owned(), table::grouped(rate.round() as u64)));
        }
        rows.extend([
            ("p50".to_owned(), number(self.latency.p50_ms, " ms")),
            ("p95".to_owned(), number(self.latency.p95_ms, " ms")),
            ("p99".to_owned(), number(self.latency.p99_ms, " ms")),
            ("p99.9".to_owned(), number(self.latency.p999_ms, " ms")),
            ("longest".to_owned(), number(self.latency.max_ms, " ms")),
            (format!("CPU per {unit}, all nodes"), number(self.cpu_us_per_order, " µs")),
            (format!("CPU per {unit}, generator"), number(self.generator_cpu_us_per_order, " µs")),
        ]);
        let of_writes = [
            (format!("{unit}s per entry"), number(self.orders_per_entry, "")),
            (format!("{unit}s per fsync"), number(self.orders_per_fsync, "")),
            (format!("log per {unit}, each node"), bytes(self.log_bytes_per_order)),
            (format!("rows per {unit}, each node"), bytes(self.row_bytes_per_order)),
        ];
        rows.extend(of_writes.into_iter().filter(|_| self.writes));
        rows.extend([
            ("refused".to_owned(), table::grouped(self.refused)),
            ("errors".to_owned(), table::grouped(self.errors)),
        ]);
        rows.extend(self.remarks.iter().cloned());
        rows
    }

    /// All of it for people.
    pub fn text(&self) -> String {
        let figures: Vec<Vec<String>> = self.figures().into_iter().map(|(name, value)| vec![name, value]).collect();
        let mut out = table::render(&[table::words("FIGURE"), table::figures("VALUE")], &figures);
        let shown =
            |value: Option<f64>, digits: usize| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
        if self.operations.len() > 1 {
            let rows = self.operations.iter().map(|op| {
                let latency = &op.latency;
                let mut row = vec![op.name.to_owned(), table::grouped(op.per_second.round() as u64)];
                let all = [latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.p999_ms, latency.max_ms];
                row.extend(all.map(|ms| shown(ms, 2)));
                row.extend([table::grouped(op.refused), table::grouped(op.errors)]);
                row
            });
            let titles =
                ["REQUEST", "PER SECOND", "P50 MS", "P95 MS", "P99 MS", "P99.9 MS", "LONGEST MS", "REFUSED", "ERRORS"];
            out.push('\n');
            out.push_str(&titled(&titles, 1, &rows.collect::<Vec<_>>()));
        }
        if self.nodes.iter().any(|node| node.cpu_us.is_some() || node.per_fsync.is_some()) {
            let rows = self.nodes.iter().map(|node| {
                let role = node.leads.map_or("", |leads| if leads { "leader" } else { "follower" });
                vec![
                    node.node.to_string(),
                    role.to_owned(),
                    shown(node.cpu_us, 1),
                    shown(node.per_fsync, 1),
                    node.disk_bytes.map_or_else(String::new, |bytes| table::grouped(bytes.round() as u64)),
                    node.memory_bytes.map_or_else(String::new, |bytes| format!("{}", bytes >> 20)),
                ]
            });
            let unit = self.unit.to_uppercase();
            let (cpu, fsync, disk) = (format!("CPU µs/{unit}"), format!("{unit}S/FSYNC"), format!("DISK BYTES/{unit}"));
            out.push('\n');
            let titles = ["NODE", "ROLE", &cpu, &fsync, &disk, "MEMORY MIB"];
            out.push_str(&titled(&titles, 2, &rows.collect::<Vec<_>>()));
        }
        if !self.stages.is_empty() {
            let total: f64 = self.stages.iter().map(|stage| stage.mean_us).sum();
            let rows = self.stages.iter().map(|stage| {
                vec![
                    stage.name.to_owned(),
                    format!("{:.0}", stage.mean_us),
                    format!("{:.0} %", stage.mean_us * 100.0 / total.max(1e-9)),
                    shown(stage.p50_us, 0),
                    shown(stage.p99_us, 0),
                ]
            });
            out.push('\n');
            let titles = ["WHERE THE TIME GOES", "MEAN µS", "SHARE", "P50 µS", "P99 µS"];
            out.push_str(&titled(&titles, 1, &rows.collect::<Vec<_>>()));
        }
        out
    }
}

/// A table whose first columns are words.
fn titled(titles: &[&str], words: usize, rows: &[Vec<String>]) -> String {
    let columns: Vec<table::Column<'_>> =
        titles.iter().enumerate().map(|(at, title)| table::Column { title, right: at >= words }).collect();
    table::render(&columns, rows)
}

/// Points of the latency curve: ever finer towards the slow end, as far as there are requests to tell of.
fn curve(histogram: &Histogram) -> Vec<(f64, f64)> {
    const STEPS_PER_DECADE: u32 = 24;
    let decades = (histogram.count().max(1) as f64).log10();
    let steps = (decades * f64::from(STEPS_PER_DECADE)) as u32;
    let at = |step: u32| 1.0 - 10_f64.powf(-f64::from(step) / f64::from(STEPS_PER_DECADE));
    let point = |share: f64| histogram.quantile_us(share.max(1e-9)).map(|us| (share, us as f64 / 1_000.0));
    (0..=steps).filter_map(|step| point(at(step))).collect()
}

/// Where the time goes. Means are per request that the client sent, and add up to what it saw.
fn stages(recorder: &Recorder, writes: &[usize], used: &Used) -> Vec<Stage> {
    let of_writes = !writes.is_empty();
    let (count, node_us) = if of_writes { used.writes } else { used.reads };
    let ops = recorder.ops.iter().enumerate().filter(|(at, _)| !of_writes || writes.contains(at));
    let (mut answers, mut client_us) = (0.0, 0.0);
    for (_, op) in ops {
        answers += op.latency.count() as f64;
        client_us += op.latency.mean_us().unwrap_or(0.0) * op.latency.count() as f64;
    }
    if count <= 0.0 || answers <= 0.0 {
        return Vec::new();
    }
    let (client_us, node_us) = (client_us / answers, node_us / count);
    let outside = Stage {
        name: "outside: network, kernel, generator",
        mean_us: (client_us - node_us).max(0.0),
        p50_us: None,
        p99_us: None,
    };
    let Some(submit) = used.stages.get("submit").filter(|_| of_writes) else {
        return vec![outside, Stage { name: "in the node", mean_us: node_us, p50_us: None, p99_us: None }];
    };
    let sum = |name: &str| used.stages.get(name).map_or(0.0, |stage| stage.sum_us());
    let one = |name: &'static str, of: &str, us: f64| {
        let stage = used.stages.get(of);
        let quantile = |share| stage.and_then(|stage| stage.quantile_us(share));
        Stage { name, mean_us: (us / count).max(0.0), p50_us: quantile(0.5), p99_us: quantile(0.99) }
    };
    // What HTTP itself takes is all but the write; its quantiles are those of the way in, the way out does not wait.
    let http = one("http", "receive", node_us * count - submit.sum_us());
    // A forwarded write is decided by the leader in its own time, so the way there and back is the rest.
    let forward_us = (sum("forward") - sum("serve")) / count;
    let forward = Stage { name: "forward, there and back", mean_us: forward_us.max(0.0), p50_us: None, p99_us: None };
    let mut all = vec![outside, http, forward];
    all.extend(STAGES.map(|name| one(name, name, sum(name))));
    let known: f64 = all.iter().map(|stage| stage.mean_us).sum();
    all.push(Stage { name: "rest", mean_us: (client_us - known).max(0.0), p50_us: None, p99_us: None });
    all
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::{
        nodes::{Reading, tests::reading},
        recorder::Count,
    };

    /// A report of a thousand orders.
    pub fn report() -> Report {
        let mut recorder = Recorder::new(&["order", "payment"], 2);
        for us in 1..=900_u64 {
            recorder.answer(0, Count::DONE, us * 10, Some(us * 2_000), true);
            recorder.session(us * 10, Some(us * 2_000));
        }
        for _ in 0..100 {
            recorder.answer(0, Count::REFUSED, 20, Some(1_900_000), true);
        }
        recorder.fail("gone & <away>");
        recorder.finish(2_000_000);
        let used = Used::between(&reading(0, 0), &reading(1_000, 20_000));
        Report::new(&recorder, subject(), &used)
    }

    fn subject() -> Subject {
        Subject {
            title: "agora bench orders".to_owned(),
            unit: "order",
            writes: &[0, 1],
            rate: None,
            seconds: 2.0,
            remarks: Vec::new(),
        }
    }

    #[test]
    fn json_begins_with_the_promised_keys_and_holds_the_rest() {
        let json = report().json();
        let begins = concat!(
            r#"{"orders_per_second":450.0,"p50_ms":4.5,"p95_ms":8.57"#,
            r#"5,"p99_ms":8.959,"p999_ms":9.0,"max_ms":9.0,"#,
            r#""cpu_us_per_order":60.0,"orders_per_fsync":10.0,"errors":1,"unit":"order","#
        );
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let keys = |text: &str| -> Vec<String> {
            text.split(',').filter_map(|pair| pair.split_once(':')).map(|(key, _)| key.replace('{', "")).collect()
        };
        assert_eq!(keys(&json)[..10], keys(begins)[..10], "{json}");
        assert_eq!(value["orders_per_second"], 450.0);
        assert_eq!(value["cpu_us_per_order"], 60.0);
        assert_eq!(value["orders_per_fsync"], 10.0);
        assert_eq!(value["orders_per_entry"], 5.0);
        assert_eq!(value["log_bytes_per_order"], 300.0);
        assert_eq!(value["row_bytes_per_order"], 1_000.0);
        assert_eq!(value["nodes"][1]["leads"], true);
        assert_eq!(value["nodes"][1]["cpu_us"], 20.0);
        assert_eq!(value["operations"][0]["refused"], 100);
        assert!((value["p50_ms"].as_f64().unwrap() - 4.5).abs() < 0.05, "{json}");
    }

    #[test]
    fn what_is_not_known_is_null_and_said_so() {
        let recorder = Recorder::new(&["order"], 1);
        let used = Used::between(&Reading::default(), &Reading::default());
        let report = Report::new(&recorder, subject(), &used);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for key in ["p50_ms", "p999_ms", "max_ms", "cpu_us_per_order", "orders_per_fsync", "row_bytes_per_order"] {
            assert!(json[key].is_null(), "{key}");
        }
        assert!(report.text().contains("orders per fsync"), "{}", report.text());
        assert!(report.text().contains("not available\n"), "{}", report.text());
        assert!(report.stages.is_empty());
    }

    #[test]
    fn stages_add_up_to_what_the_client_saw() {
        let mut recorder = Recorder::new(&["order"], 1);
        for _ in 0..10 {
            recorder.answer(0, Count::DONE, 3_000, Some(1), true);
        }
        let mut used = Used::between(&reading(0, 0), &reading(1_000, 1));
        let stages_without = stages(&recorder, &[0], &used);
        assert_eq!(stages_without.len(), 2, "nodes that keep no time of writes");
        // What decide took is all that the write took.
        used.stages.insert("submit".to_owned(), used.stages["decide"].clone());
        let stages = stages(&recorder, &[0], &used);
        let mean = |name: &str| stages.iter().find(|stage| stage.name.starts_with(name)).map(|stage| stage.mean_us);
        let near = |name: &str, us: f64| assert!((mean(name).unwrap() - us).abs() < 1.0, "{name}: {stages:?}");
        near("outside", 1_000.0);
        near("http", 1_900.0);
        near("forward", 0.0);
        near("decide", 100.0);
        near("rest", 0.0);
        assert!((stages.iter().map(|stage| stage.mean_us).sum::<f64>() - 3_000.0).abs() < 1.0);
    }

    #[test]
    fn tables_name_every_part() {
        let text = report().text();
        for words in
            ["orders per second", "p99.9", "REQUEST", "payment", "ORDERS/FSYNC", "leader", "WHERE THE TIME GOES"]
        {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}
