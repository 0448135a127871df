//! Promise: `agora bench` measures what it says: every scenario runs against three real nodes, counts what it did, knows
//! what it cost, and leaves a picture; a flash sale sells each unit once and says so.

use std::{path::Path, process::Stdio, time::Duration};

use agora_cluster_tests::{cluster::Cluster, config::Overrides};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
/// A run of a second, its setup, and nodes of its own.
const PATIENCE: Duration = Duration::from_secs(180);
/// Little to make: what is tested here is the instrument.
const SMALL: &str = "--connections 8 --accounts 5 --json";

/// Runs the benchmark; its line of figures.
async fn bench(words: &str, more: &[&Path]) -> Value {
    let mut command = Command::new(BINARY);
    command.arg("bench").args(words.split(' ')).args(SMALL.split(' ')).args(more);
    for name in ["AGORA_ENDPOINTS", "AGORA_SHOP_KEY", "AGORA_ADMIN_KEY"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("a run of a second ends").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {said}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{words}: {error}: {}\n{said}", String::from_utf8_lossy(&output.stdout));
    });
    assert_eq!(figures["errors"], 0, "{words}: {said}");
    figures
}

#[track_caller]
fn positive(figures: &Value, path: &str) -> f64 {
    let value = figures.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is not in {figures}"));
    assert!(value > 0.0, "{path} is {value} in {figures}");
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_counts_what_it_did() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    cluster.wait_ready().await;
    let config = cluster.config_path(1);
    let plot = cluster.root().join("plot.svg");
    let more = [Path::new("--config"), config.as_path(), Path::new("--plot"), plot.as_path()];
    for (words, unit, ops) in [
        ("orders --seconds 1 --warmup 0 --skus 20", "order", &["order"][..]),
        ("orders --seconds 1 --warmup 0 --skus 20 --batch 10 --distribution zipf", "order", &["batch"]),
        ("orders --seconds 1 --warmup 0 --skus 20 --rate 100 --on leader", "order", &["order"]),
        ("pay --seconds 1 --warmup 0 --skus 20", "order", &["order", "payment"]),
        ("reads --seconds 1 --warmup 0 --skus 20 --placed 20 --on follower", "request", &["read an order"]),
        ("reads --seconds 1 --warmup 0 --skus 20 --what skus --consistency linearizable", "request", &["read a SKU"]),
        ("reads --seconds 1 --warmup 0 --skus 20 --placed 20 --what lists", "request", &["list orders", "list SKUs"]),
        (
            "mixed --seconds 1 --warmup 0 --skus 20 --placed 20 --rate 300",
            "request",
            &["read a SKU", "read an order", "order"],
        ),
        ("marketplace --seconds 1 --warmup 0 --skus 20 --cart 3", "transaction", &["read a SKU", "order", "payment"]),
    ] {
        let figures = bench(words, &more).await;
        assert_eq!(figures["unit"], unit, "{words}");
        for path in ["/per_second", "/p50_ms", "/p999_ms", "/max_ms", "/seconds"] {
            positive(&figures, path);
        }
        let operations = figures["operations"].as_array().expect("operations");
        for op in ops {
            let found = operations.iter().find(|operation| operation["name"] == *op);
            positive(found.unwrap_or_else(|| panic!("{words}: no {op} in {figures}")), "/per_second");
        }
        let stages = figures["stages"].as_array().expect("stages");
        let of = |name: &str| stages.iter().find(|stage| stage["name"] == name);
        if unit == "order" {
            for path in ["/orders_per_second", "/orders_per_entry", "/log_bytes_per_order", "/row_bytes_per_order"] {
                positive(&figures, path);
            }
            for name in ["http", "decide", "append", "apply"] {
                positive(of(name).unwrap_or_else(|| panic!("{words}: no {name} in {figures}")), "/mean_us");
            }
        } else {
            assert!(!stages.is_empty(), "{words}: {figures}");
        }
        let drawn = std::fs::read_to_string(&plot).expect("a picture");
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"), "{words}: {drawn}");
    }
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_on_nodes_of_its_own_sells_each_unit_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("flash.html");
    let figures = bench("flash --units 200 --seconds 60", &[Path::new("--plot"), page.as_path()]).await;
    assert_eq!(figures["operations"][0]["refused"], 8, "each connection ends when it is told that nothing is left");
    let remarks = figures["remarks"].to_string();
    assert!(remarks.contains(r#"["sold out","after "#) && remarks.contains(r#"["sold twice","0"]"#), "{remarks}");
    // The nodes are its own, so it knows what they used.
    positive(&figures, "/cpu_us_per_order");
    for node in 0..3 {
        positive(&figures, &format!("/nodes/{node}/memory_bytes"));
        positive(&figures, &format!("/nodes/{node}/per_fsync"));
    }
    let leaders = figures["nodes"].as_array().expect("nodes").iter().filter(|node| node["leads"] == true).count();
    assert_eq!(leaders, 1, "{figures}");
    assert!(std::fs::read_to_string(&page).expect("a page").starts_with("<!doctype html>"));
}
