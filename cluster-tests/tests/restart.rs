//! Promise: what was acknowledged survives the death of all three nodes; a node that is told to stop hands its work over
//! and exits 0; rows that were lost or damaged are rebuilt and never served as they are; a directory or configuration
//! that cannot be used is refused with a message that says what happened and what to do, and a non-zero exit (invariant 7).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use agora_cluster_tests::{
    check::{equal_feeds, feed, fold_feed, wait_equal_digests},
    client::{Call, Client, Reply, Verdict},
    cluster::{Cluster, SETTLE_TIMEOUT},
    config::Overrides,
    load::{Crowd, rush},
    settings::scaled,
    shop::{create_account, order_body, orders_of, place, stock, stocked_sku, text},
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
const UNITS: u64 = 1_000_000;

/// A log that is cut often, so that rows and log have to agree across snapshots too.
fn short_log() -> Overrides {
    Overrides::none().set("raft", "snapshot_log_bytes", 64 << 10).set("raft", "log_bytes_max", 1 << 20)
}

async fn applied(cluster: &Cluster, client: &Client) -> u64 {
    let mut most = 0;
    for node in cluster.running() {
        let status = cluster.status_of(client, node).await.expect("a status");
        most = most.max(status["applied_index"].as_u64().expect("an applied index"));
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_survives_the_death_of_all() {
    let cluster = Cluster::start(BINARY, 3, short_log()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "ALL-DIE", 100, UNITS).await.id;
    let account = create_account(&client, "survivor").await;
    let crowd = Crowd::enter(&client, &account, &sku, 16, Duration::from_millis(2));
    for round in 0..scaled(3, 20) {
        crowd.wait_accepted(300, Duration::from_secs(90)).await;
        cluster.kill_all(&[1, 2, 3]);
        for id in [2, 3, 1] {
            cluster.start_node(id);
        }
        let begun = Instant::now();
        cluster.wait_ready().await;
        println!("round {round}: all three dead and back, ready after {:?}", begun.elapsed());
    }
    crowd.wait_accepted(100, Duration::from_secs(90)).await;
    let told = crowd.leave().await;
    println!("attempts: {:?}", told.attempts_by_label());
    told.assert_settled();
    assert_eq!(told.refused().count(), 0);
    let numbers = told.numbers();
    for node in cluster.running() {
        let left = stock(&client, node, &sku, "linearizable").await;
        assert_eq!((left.on_hand, left.reserved), (UNITS, numbers.len() as u64), "as node {node} sees it");
    }
    let listed: BTreeSet<String> =
        orders_of(&client, 2, &account).await.iter().map(|order| text(order, "order_no")).collect();
    assert_eq!(listed, numbers);
    for (turn, order) in told.accepted().enumerate().step_by(scaled(7, 1)) {
        let call = Call::post_with_key("/orders", &order.key, order_body(&account, &[(&sku, 1)]));
        let again = client.settle(turn, &call, Duration::from_secs(30)).await;
        assert_eq!(again.verdict, Verdict::Yes);
        assert_eq!(again.answer().body, order.answer().body, "{} has two answers", order.key);
    }
    let until = applied(&cluster, &client).await;
    equal_feeds(&cluster, &client, until).await;
    wait_equal_digests(&cluster, &client, until).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_told_to_stop_hands_over_and_leaves_with_zero() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "STOP", 100, UNITS).await.id;
    let account = create_account(&client, "buyer").await;
    let crowd = Crowd::enter(&client, &account, &sku, 8, Duration::from_millis(4));
    for _ in 0..scaled(3, 12) {
        let leader = cluster.wait_ready().await;
        crowd.wait_accepted(30, Duration::from_secs(60)).await;
        let asked = Instant::now();
        let status = cluster.terminate(leader);
        let left = asked.elapsed();
        assert!(status.success(), "node {leader} left with {status}\n{}", cluster.log_tail(leader));
        let next = cluster.wait_ready().await;
        println!("leader {leader} left {left:?} after SIGTERM; {next} leads {:?} after it", asked.elapsed());
        crowd.wait_accepted(30, Duration::from_secs(60)).await;
        cluster.start_node(leader);
        cluster.wait_ready().await;
    }
    let told = crowd.leave().await;
    println!("attempts: {:?}", told.attempts_by_label());
    told.assert_settled();
    assert_eq!(told.refused().count(), 0);
    assert_eq!(stock(&client, 1, &sku, "linearizable").await.reserved, told.numbers().len() as u64);

    // All told to stop, one after the other, the last without a majority: each leaves with zero, and nothing is lost.
    // While a node runs, its rows are not looked at from outside; when it has stopped, they sum up to their digest.
    let verify = |id| {
        let done = Command::new(BINARY).args(["verify", "--json", "--config"]).arg(cluster.config_path(id)).output();
        let done = done.expect("agora verify runs");
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr),
        )
    };
    for id in [1, 2, 3] {
        let (verified, said) = verify(id);
        assert!(!verified && said.contains("in use"), "a running node was looked at: {said}");
        let status = cluster.terminate(id);
        assert!(status.success(), "node {id} left with {status}\n{}", cluster.log_tail(id));
        let (verified, said) = verify(id);
        assert!(verified && said.contains("\"ok\":true"), "node {id}: {said}");
    }
    for id in [1, 2, 3] {
        cluster.start_node(id);
    }
    cluster.wait_ready().await;
    assert_eq!(stock(&client, 3, &sku, "linearizable").await.reserved, told.numbers().len() as u64);
}

/// What is done to a node's rows while it is down.
type Harm = (&'static str, fn(&Path));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_or_damaged_rows_are_rebuilt_and_never_served() {
    let harms: Vec<Harm> = vec![
        ("rows removed", |data| rows(data).iter().for_each(|dir| fs::remove_dir_all(dir).expect("removed"))),
        ("rows emptied", |data| {
            for file in files(&rows(data)) {
                fs::remove_file(file).expect("removed");
            }
        }),
        ("every file of the rows cut in half", |data| {
            for file in files(&rows(data)) {
                let half = fs::metadata(&file).expect("a file").len() / 2;
                fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(half)).expect("cut");
            }
        }),
        ("a page of zeros in the middle of each file of the rows", |data| {
            for file in files(&rows(data)) {
                let mut bytes = fs::read(&file).expect("a file");
                let middle = bytes.len() / 2;
                let end = (middle + 4_096).min(bytes.len());
                bytes[middle..end].fill(0);
                fs::write(&file, bytes).expect("written");
            }
        }),
        ("snapshots removed", |data| {
            let _ = fs::remove_dir_all(data.join("snapshots"));
        }),
    ];
    let cluster = Cluster::start(BINARY, 3, short_log()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "DAMAGED", 100, UNITS).await.id;
    let account = create_account(&client, "buyer").await;
    // More than the log keeps, so that rows that are gone are nowhere but with the peers.
    let told = rush(&client, &order_body(&account, &[(&sku, 1)]), 8_000, 64).await;
    let mut sold = told.numbers().len() as u64;
    for (what, harm) in harms {
        let told = rush(&client, &order_body(&account, &[(&sku, 1)]), 600, 32).await;
        sold += told.numbers().len() as u64;
        let leader = cluster.wait_ready().await;
        let victim = (1..=3).find(|id| *id != leader).expect("a follower");
        cluster.kill(victim);
        assert!(!rows(&cluster.data_dir(victim)).is_empty(), "no rows where this test looks for them");
        harm(&cluster.data_dir(victim));
        // The others go on while it is away.
        client.set_endpoints(cluster.endpoints().into_iter().filter(|(id, _)| *id != victim).collect());
        place(&client, 0, &account, &[(&sku, 1)]).await;
        client.set_endpoints(cluster.endpoints());
        sold += 1;
        let said_before = cluster.log(victim).len();
        cluster.start_node(victim);
        let begun = Instant::now();
        // As long as it is not ready it serves nothing that could be wrong.
        never_a_hole(&cluster, &client, victim, &sku, what).await;
        cluster.wait_ready().await;
        println!("{what}: node {victim} is back after {:?}", begun.elapsed());
        if what.starts_with("rows") {
            let said = &cluster.log(victim)[said_before..];
            assert!(said.contains("given up"), "{what}: it does not say that it gave its rows up: {said}");
        }
        let left = stock(&client, victim, &sku, "linearizable").await;
        assert_eq!((left.on_hand, left.reserved), (UNITS, sold), "{what}");
        let until = applied(&cluster, &client).await;
        wait_equal_digests(&cluster, &client, until).await;
        equal_feeds(&cluster, &client, until).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_made_again_from_the_log_are_not_served_half() {
    // A long log: nothing was cut, so rows that are lost are made again from its beginning.
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "REPLAYED", 100, UNITS).await.id;
    let account = create_account(&client, "buyer").await;
    let sold = rush(&client, &order_body(&account, &[(&sku, 1)]), 4_000, 64).await.numbers().len() as u64;
    for id in 1..=3 {
        cluster.kill(id);
        for dir in rows(&cluster.data_dir(id)) {
            fs::remove_dir_all(dir).expect("removed");
        }
        cluster.start_node(id);
        let first_seen = never_a_hole(&cluster, &client, id, &sku, "rows removed under a whole log").await;
        assert_eq!(first_seen["reserved"], sold, "node {id} served what it had made again so far");
        cluster.wait_ready().await;
    }
    let until = applied(&cluster, &client).await;
    wait_equal_digests(&cluster, &client, until).await;
}

/// Reads locally until the node serves, and returns what it served first: before that it may refuse, but not show a shop
/// without what it had acknowledged.
async fn never_a_hole(cluster: &Cluster, client: &Client, node: u64, sku: &str, what: &str) -> Value {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        cluster.assert_running();
        let local = client.send(node, &Call::get(&format!("/skus/{sku}/stock")).consistency("local")).await;
        if let Reply::Answer(answer) = local {
            let hole = [404, 500].contains(&answer.status);
            assert!(!hole, "{what}: served from rows it cannot account for: {}", answer.text());
            if answer.status == 200 {
                return answer.json();
            }
        }
        assert!(Instant::now() < deadline, "{what}: not back in time\n{}", cluster.log_tail(node));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_used_is_refused_with_a_reason() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "REFUSE", 100, 10).await.id;
    let account = create_account(&client, "buyer").await;
    place(&client, 0, &account, &[(&sku, 1)]).await;
    let leader = cluster.wait_ready().await;
    let node = (1..=3).find(|id| *id != leader).expect("a follower");
    let other = (1..=3).find(|id| *id != leader && *id != node).expect("another follower");

    // A second process on a directory in use.
    let config = fs::read_to_string(cluster.config_path(node)).expect("a configuration");
    let mut elsewhere: toml::Table = config.parse().expect("TOML");
    for section in ["http", "peer"] {
        elsewhere[section]["listen"] = format!("127.0.0.1:{}", agora_cluster_tests::ports::free()).into();
    }
    fs::write(cluster.config_path(node), toml::to_string(&elsewhere).expect("TOML")).expect("a configuration");
    let said = refused(&cluster, node, "in use", |_| ()).await;
    let names_it = said.contains(&cluster.data_dir(node).display().to_string());
    assert!(names_it && (said.contains("use") || said.contains("lock")), "{said}");
    fs::write(cluster.config_path(node), config).expect("a configuration");

    cluster.terminate(node);
    cluster.terminate(other);
    let data = cluster.data_dir(node);
    let kept = data.with_extension("kept");
    copy(&data, &kept);
    let log = data.join("log.redb");
    assert!(log.exists(), "no log where this test looks for it");

    let said = refused(&cluster, node, "another node's directory", |data| {
        fs::remove_dir_all(data).expect("removed");
        copy(&cluster.data_dir(other), data);
    })
    .await;
    assert!(said.contains(&node.to_string()) && said.contains(&other.to_string()), "both ids are named: {said}");
    restore(&kept, &data);

    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 4] = [
        ("the head of the log overwritten", |data| {
            let path = data.join("log.redb");
            let mut bytes = fs::read(&path).expect("the log");
            bytes[..4_096].fill(0xa5);
            fs::write(path, bytes).expect("written");
        }),
        ("the log cut", |data| {
            let path = data.join("log.redb");
            let half = fs::metadata(&path).expect("the log").len() / 2;
            fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(half)).expect("cut");
        }),
        ("the log emptied", |data| fs::write(data.join("log.redb"), b"").expect("written")),
        ("a file in place of the directory", |data| {
            fs::remove_dir_all(data).expect("removed");
            fs::write(data, b"not a directory").expect("written");
        }),
    ];
    for (what, damage) in damages {
        let said = refused(&cluster, node, what, damage).await;
        assert!(said.contains("log") || said.contains("director"), "{what}: what is wrong is not named: {said}");
        restore(&kept, &data);
    }

    // Whole again, it is taken back, and nothing was lost.
    cluster.start_node(node);
    cluster.start_node(other);
    cluster.wait_ready().await;
    assert_eq!(stock(&client, node, &sku, "linearizable").await.reserved, 1);
    let until = applied(&cluster, &client).await;
    fold_feed(&feed(&client, node, 0, until).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_cannot_be_used_is_refused_with_a_reason() {
    let cluster = Cluster::prepare(BINARY, 1, Overrides::none());
    let path = cluster.config_path(1);
    let good = fs::read_to_string(&path).expect("a configuration");
    let cases: Vec<(&str, String, &str)> = vec![
        ("an unknown key", good.replace("[shop]", "").to_string() + "\n[shop]\norder_tll_ms = 5000\n", "order_tll_ms"),
        ("an unknown table", good.clone() + "\n[shopp]\nx = 1\n", "shopp"),
        ("no TOML", "= = =".to_owned(), "toml"),
        ("a weak key", good.replace(agora_cluster_tests::config::SHOP_KEY, "secret"), "shop"),
        ("an id of nobody", good.replace("[node]\n", "[node]\nid_ = 2\n"), "id_"),
        ("a figure out of bounds", good.clone() + "\n[shop]\norder_ttl_ms = 0\n", "order_ttl_ms"),
        ("a listen address that is none", good.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.1.9:"), "listen"),
    ];
    for (what, text, named) in cases {
        fs::write(&path, text).expect("a configuration");
        let said = refused(&cluster, 1, what, |_| ()).await;
        assert!(said.to_lowercase().contains(named), "{what}: {named} is not named: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert!(!said.contains(agora_cluster_tests::config::ADMIN_KEY), "{what}: a secret is printed: {said}");
    }
    fs::remove_file(&path).expect("removed");
    let said = refused(&cluster, 1, "no file", |_| ()).await;
    assert!(said.contains("node.toml"), "the missing file is not named: {said}");
}

/// Harms a directory and starts a process on it, which must leave by itself with a non-zero code; returns what it said.
async fn refused(cluster: &Cluster, node: u64, what: &str, harm: impl FnOnce(&Path)) -> String {
    harm(&cluster.data_dir(node));
    let mut child = Command::new(cluster.binary())
        .args(["start", "--exit-with-stdin", "--config"])
        .arg(cluster.config_path(node))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("a process");
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("a child").is_none() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stayed = child.try_wait().expect("a child").is_none();
    if stayed {
        child.kill().expect("kill -9 of an own child");
    }
    let output = child.wait_with_output().expect("its output");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!stayed, "{what}: it runs on as if nothing were wrong: {said}");
    assert!(!output.status.success(), "{what}: it left with success: {said}");
    assert!(!said.trim().is_empty(), "{what}: it left without a word");
    assert!(said.lines().count() < 40, "{what}: the message drowns in {} lines", said.lines().count());
    assert!(!said.contains("panicked"), "{what}: a panic is no message: {said}");
    said
}

/// Generations of rows in a data directory.
fn rows(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rows-"))).collect()
}

/// All files below some directories.
fn files(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in dirs {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() { found.extend(files(&[path])) } else { found.push(path) }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target)
        } else {
            let _ = fs::copy(&path, target).expect("copied");
        }
    }
}

fn restore(kept: &Path, data: &Path) {
    if data.is_dir() {
        fs::remove_dir_all(data).expect("removed");
    } else {
        let _ = fs::remove_file(data);
    }
    copy(kept, data);
}
