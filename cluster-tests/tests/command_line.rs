//! Promise: a stranger gets a working cluster with one command, and a careful one with two: `agora dev` starts three real
//! processes that sell, goes on where it was when started again, and leaves nothing behind; the files `agora init` writes
//! start a cluster; `agora cluster` and `agora snapshot` work on any node, with `--json`.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agora_cluster_tests::{
    client::{Call, Client, Endpoint},
    cluster::{Cluster, wait_exit},
    config::Overrides,
    ports,
    shop::{create_account, place, read, stock, stocked_sku, text},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");

/// A running `agora dev`, killed with the test.
struct Dev {
    child: Child,
    ready: Value,
}

impl Dev {
    fn start(data: &Path, port: u16, more: &[&str]) -> Dev {
        let mut child = Command::new(BINARY)
            .args(["dev", "--json", "--http-port", &port.to_string(), "--data-dir"])
            .arg(data)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(data.with_extension("log")).expect("a log file"))
            .spawn()
            .expect("agora dev");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            let said = std::fs::read_to_string(data.with_extension("log")).unwrap_or_default();
            panic!("not one line of JSON: {error}: {line:?}\n{said}")
        });
        Dev { child, ready }
    }

    fn client(&self) -> Client {
        let nodes = self.ready["nodes"].as_array().expect("nodes");
        let endpoints: Vec<Endpoint> = nodes
            .iter()
            .map(|node| (node["id"].as_u64().expect("an id"), text(node, "http").replace("http://", "")))
            .collect();
        Client::new(endpoints, &text(&self.ready, "shop_key"), &text(&self.ready, "admin_key"))
    }

    fn pids(&self) -> Vec<Pid> {
        let nodes = self.ready["nodes"].as_array().expect("nodes");
        let raw = nodes.iter().map(|node| node["pid"].as_i64().expect("a pid") as i32);
        raw.map(|pid| Pid::from_raw(pid).expect("a pid")).collect()
    }

    fn stop(mut self, signal: Signal) {
        let pids = self.pids();
        kill_process(Pid::from_child(&self.child), signal).expect("a signal to an own child");
        let status = wait_exit(&mut self.child, Duration::from_secs(60)).expect("agora dev leaves when told to");
        assert!(status.success(), "agora dev left with {status}");
        for pid in pids {
            assert!(test_kill_process(pid).is_err(), "a node outlived agora dev");
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_starts_a_shop_that_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let port = ports::free_row(8);
    let dev = Dev::start(&data, port, &[]);
    let nodes = dev.ready["nodes"].as_array().expect("nodes").clone();
    let addresses: Vec<String> = nodes.iter().map(|node| text(node, "http")).collect();
    let expected: Vec<String> = (0..3).map(|step| format!("http://127.0.0.1:{}", port + step)).collect();
    assert_eq!(addresses, expected);
    let client = dev.client();
    let catalogue = read(&client, 3, &Call::get("/skus").consistency("linearizable")).await;
    assert!(!catalogue["data"].as_array().expect("data").is_empty(), "no demo catalogue");
    let sku = stocked_sku(&client, "MINE", 100, 5).await.id;
    let account = create_account(&client, "me").await;
    let order = text(&place(&client, 1, &account, &[(&sku, 1)]).await, "order_no");

    // What an operator tries first: kill the leader, order again, read on another node.
    let status = client.ask(2, &Call::get("/cluster/status")).await.expect(200);
    let leader = status["leader"].as_u64().expect("a leader");
    let pid = dev.pids()[leader as usize - 1];
    kill_process(pid, Signal::KILL).expect("a signal to a grandchild");
    place(&client, 0, &account, &[(&sku, 1)]).await;
    let other = leader % 3 + 1;
    assert_eq!(read(&client, other, &Call::get(&format!("/orders/{order}"))).await["order_no"], order.as_str());
    dev.stop(Signal::INT);

    let dev = Dev::start(&data, port, &[]);
    let client = dev.client();
    assert_eq!(stock(&client, 2, &sku, "linearizable").await.reserved, 2, "it does not go on where it was");
    dev.stop(Signal::TERM);

    let dev = Dev::start(&data, port, &["--fresh"]);
    let gone = dev.client().ask(1, &Call::get(&format!("/skus/{sku}/stock"))).await;
    assert_eq!(gone.status, 404, "--fresh kept the past: {}", gone.text());
    dev.stop(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_do_not_outlive_a_dev_that_was_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut dev = Dev::start(&dir.path().join("data"), ports::free_row(8), &["--nodes", "1"]);
    let pids = dev.pids();
    assert_eq!(pids.len(), 1);
    dev.child.kill().expect("kill -9 of an own child");
    dev.child.wait().expect("the end of an own child");
    let deadline = Instant::now() + Duration::from_secs(30);
    while test_kill_process(pids[0]).is_ok() {
        assert!(Instant::now() < deadline, "a node outlives its parent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_init_start_a_cluster() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = dir.path().join("config");
    let (http, peer) = (ports::free_row(3), ports::free_row(3));
    let init = |dir: &Path| {
        Command::new(BINARY)
            .args([
                "init",
                "--nodes",
                "3",
                "--json",
                "--http-port",
                &http.to_string(),
                "--peer-port",
                &peer.to_string(),
            ])
            .arg("--dir")
            .arg(dir)
            .output()
            .expect("agora init")
    };
    let first = init(&files);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let configs: Vec<String> =
        (1..=3).map(|id| std::fs::read_to_string(files.join(format!("n{id}.toml"))).expect("a file")).collect();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(files.join("n1.toml")).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o077, 0, "secrets that others may read");
    // What is there already may be the only copy of a cluster's secrets.
    assert!(!init(&files).status.success(), "a second init overwrote the files");
    let elsewhere = dir.path().join("elsewhere");
    assert!(init(&elsewhere).status.success());
    let secret = |config: &str, key: &str| -> String {
        let table: toml::Table = config.parse().expect("TOML");
        table["keys"][key].as_str().expect("a key").to_owned()
    };
    let other = std::fs::read_to_string(elsewhere.join("n1.toml")).expect("a file");
    for key in ["shop", "admin", "peer"] {
        assert!(secret(&configs[0], key).len() >= 32, "{key} is weak");
        assert_ne!(secret(&configs[0], key), secret(&other, key), "{key} is the same in two clusters");
        assert_eq!(secret(&configs[0], key), secret(&configs[2], key), "{key} differs within a cluster");
    }

    let mut children: Vec<Killed> = (1..=3).map(|id| Killed::start(&files.join(format!("n{id}.toml")))).collect();
    let endpoints = (1..=3_u64).map(|id| (id, format!("127.0.0.1:{}", http + id as u16 - 1))).collect();
    let client = Client::new(endpoints, &secret(&configs[0], "shop"), &secret(&configs[0], "admin"));
    let sku = stocked_sku(&client, "INIT", 100, 3).await.id;
    assert_eq!(stock(&client, 3, &sku, "linearizable").await.available, 3);
    for child in &mut children {
        kill_process(Pid::from_child(&child.0), Signal::TERM).expect("a signal to an own child");
    }
    for child in &mut children {
        assert!(wait_exit(&mut child.0, Duration::from_secs(45)).is_some_and(|status| status.success()));
    }
}

struct Killed(Child);

impl Killed {
    fn start(config: &Path) -> Killed {
        let command = Command::new(BINARY)
            .args(["start", "--exit-with-stdin", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Killed(command.expect("agora start"))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_looks_at_and_moves_a_cluster() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let run = |node: u64, words: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(words).args([
            "--endpoints",
            &cluster.http(node),
            "--admin-key",
            agora_cluster_tests::config::ADMIN_KEY,
        ]);
        let output = command.output().expect("agora");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let json = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")) };
    for node in 1..=3 {
        let status = json(&run(node, &["cluster", "status", "--json"]));
        assert_eq!(status["leader"].as_u64(), Some(leader));
        let ids: Vec<u64> =
            status["members"].as_array().expect("members").iter().filter_map(|member| member["id"].as_u64()).collect();
        assert_eq!(ids, [1, 2, 3]);
        for member in status["members"].as_array().expect("members") {
            for field in ["role", "term", "applied_index", "version"] {
                assert!(!member[field].is_null(), "a member without {field}: {member}");
            }
        }
        let table = run(node, &["cluster", "status"]);
        assert!(table.lines().count() >= 4 && !table.trim_start().starts_with('{'), "no table for people: {table}");
        assert!(json(&run(node, &["cluster", "members", "--json"])).to_string().contains(&cluster.peer(2)));
    }
    stocked_sku(&client, "CLI", 100, 1).await;
    let made = json(&run(follower, &["snapshot", "create", "--json"]));
    assert!(made.to_string().contains("index"), "{made}");
    let listed = json(&run(follower, &["snapshot", "list", "--json"]));
    assert!(listed.to_string().contains("index"), "{listed}");
    let to = follower.to_string();
    run(leader, &["cluster", "transfer", "--to", &to, "--json"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while cluster.leader_seen_by(&client, follower).await != Some(follower) {
        assert!(Instant::now() < deadline, "leadership did not move");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let wrong = Command::new(BINARY)
        .args([
            "cluster",
            "status",
            "--endpoints",
            &cluster.http(1),
            "--admin-key",
            "wrong-wrong-wrong-wrong-wrong-wrong",
        ])
        .output()
        .expect("agora");
    assert!(!wrong.status.success(), "a wrong key is no success");
}
