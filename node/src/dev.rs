//! `agora dev`: a whole cluster on this machine, in one command.
//!
//! It writes configuration files with fresh secrets into a data directory, starts real nodes from them, waits until
//! they agree, loads a small catalogue and says what to try. Run again on the same directory it goes on where it was.
//! When a node ends it says so and goes on: the user may have killed it to watch the others take over.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::DevArgs,
    config::Config,
    demo::{self, Demo},
    fleet::{self, Exited, Fleet, Place},
    init::{self, Plan, Secrets},
};

/// Marks a directory as made by `agora dev`, and holds its shape. Only such a directory is ever emptied.
const MARK: &str = "agora-dev.json";
const NODES_DEFAULT: u16 = 3;
const HTTP_PORT_DEFAULT: u16 = 8081;

/// The shape of the cluster in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    nodes: u16,
    http_port: u16,
}

/// The command. Returns when it was told to stop.
pub async fn run(args: &DevArgs) -> anyhow::Result<()> {
    // From here on a signal ends this command in order, whatever it is doing.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (shape, is_new) = prepare(args)?;
    let dir =
        fs::canonicalize(&args.data_dir).with_context(|| format!("cannot resolve {}", args.data_dir.display()))?;
    let (places, config) = fleet::places(&dir, shape.nodes)?;
    if is_new {
        // A directory that never ran must not tie the user to ports that cannot be had.
        let free = fleet::check_ports(&places, "stop it, or choose other ports with --http-port");
        free.or_else(|taken| clear(&dir).and(Err(taken)))?;
    } else {
        fleet::check_ports(&places, "stop it, or give another --data-dir with --http-port")?;
    }
    let mut fleet = Fleet::start(&places)?;
    let stopped = tokio::select! {
        result = serve(args, &places, &config, &dir, &mut fleet) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    if !args.json && stopped.is_ok() {
        say("\nstopping …");
    }
    fleet.stop().await;
    stopped
}

/// Waits for the cluster, announces it, and watches it until the caller has enough.
async fn serve(args: &DevArgs, places: &[Place], config: &Config, dir: &Path, fleet: &mut Fleet) -> anyhow::Result<()> {
    if !args.json {
        say(&format!("starting {} nodes in {} …", places.len(), dir.display()));
    }
    fleet.ready(places).await?;
    let endpoints = places.iter().map(|place| place.http.clone()).collect();
    let demo = demo::load(dir, endpoints, config.shop_key.reveal()).await?;
    let pids = fleet.pids();
    let text = if args.json { announcement(places, &pids, config, dir) } else { welcome(places, &pids, config, &demo) };
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")?;
    loop {
        let exited = fleet.next_exit().await;
        eprintln!("{}", farewell(&exited, places));
    }
}

/// A line of talk. Whoever has closed our output does not want to hear it, which is no reason to end.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The shape of the cluster in the directory, and whether it is new: one is written if there is none.
fn prepare(args: &DevArgs) -> anyhow::Result<(Shape, bool)> {
    let dir = &args.data_dir;
    if args.fresh {
        clear(dir)?;
    }
    let mark = dir.join(MARK);
    if let Ok(text) = fs::read_to_string(&mark) {
        let shape: Shape = serde_json::from_str(&text)
            .with_context(|| format!("{}: unreadable; --fresh starts anew", mark.display()))?;
        let nodes = args.nodes.unwrap_or(shape.nodes);
        let http_port = args.http_port.unwrap_or(shape.http_port);
        ensure!(
            shape == Shape { nodes, http_port },
            "{} holds a cluster of {} nodes on ports from {}: leave --nodes and --http-port out to go on with it, \
             give another --data-dir, or throw it away with --fresh",
            dir.display(),
            shape.nodes,
            shape.http_port
        );
        return Ok((shape, false));
    }
    let shape =
        Shape { nodes: args.nodes.unwrap_or(NODES_DEFAULT), http_port: args.http_port.unwrap_or(HTTP_PORT_DEFAULT) };
    write_cluster(dir, shape)?;
    Ok((shape, true))
}

/// Configurations first, the mark last: a directory with the mark is complete.
fn write_cluster(dir: &Path, shape: Shape) -> anyhow::Result<()> {
    let mut plan = Plan::new(shape.nodes);
    plan.cluster = "dev".to_owned();
    plan.http_port = shape.http_port;
    plan.peer_port = shape.http_port.checked_add(shape.nodes).context("the ports from --http-port on do not reach")?;
    plan.header = "One node of a cluster made by `agora dev`, for trying things out.".to_owned();
    plan.changed = vec![("log", "format", "text".into())];
    let mut drafts = plan.drafts(&Secrets::fresh()?)?;
    for draft in &mut drafts {
        draft.data_dir = format!("n{}", draft.node_id);
    }
    init::write_files(dir, &drafts)?;
    let mark = dir.join(MARK);
    fs::write(&mark, serde_json::to_string(&shape)?).with_context(|| format!("cannot write {}", mark.display()))
}

/// Removes what `agora dev` made in a directory, and only that. A directory that it did not make is left alone.
fn clear(dir: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    let paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Configurations without the mark are what an interrupted start leaves behind.
    let ours = paths.iter().any(|path| name(path) == MARK) || paths.iter().all(|path| is_ours(&name(path)));
    if !ours {
        bail!(
            "{} was not made by `agora dev` and is not emptied: remove it yourself, or give another --data-dir",
            dir.display()
        );
    }
    if let Some(running) = paths.iter().find(|path| is_ours(&name(path)) && is_running(path)) {
        bail!("a node still runs in {}: stop it before its data is thrown away", running.display());
    }
    for path in paths.iter().filter(|path| is_ours(&name(path))) {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Whether a node holds the lock of its data directory, as it does for as long as it lives.
fn is_running(data_dir: &Path) -> bool {
    fs::File::open(data_dir.join("lock"))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// `n1`, `n1.toml`, `n1.log`, `n1.log.old`, the mark, and the note of the demo.
fn is_ours(name: &str) -> bool {
    let of_node = name.strip_prefix('n').is_some_and(|rest| {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < rest.len() && matches!(digits, "" | ".toml" | ".log" | ".log.old")
    });
    of_node || name == MARK || name == "demo.json"
}

/// The one line of `--json`.
#[derive(Serialize)]
struct Announcement<'a> {
    nodes: Vec<AnnouncedNode>,
    shop_key: &'a str,
    admin_key: &'a str,
    data_dir: String,
}

#[derive(Serialize)]
struct AnnouncedNode {
    id: u64,
    pid: Option<u32>,
    http: String,
}

fn announcement(places: &[Place], pids: &[(u64, u32)], config: &Config, dir: &Path) -> String {
    let node = |place: &Place| AnnouncedNode {
        id: place.id,
        pid: pid_of(pids, place.id),
        http: format!("http://{}", place.http),
    };
    let announcement = Announcement {
        nodes: places.iter().map(node).collect(),
        shop_key: config.shop_key.reveal(),
        admin_key: config.admin_key.reveal(),
        data_dir: dir.display().to_string(),
    };
    serde_json::to_string(&announcement).expect("text and numbers are JSON")
}

fn pid_of(pids: &[(u64, u32)], id: u64) -> Option<u32> {
    pids.iter().find(|(of, _)| *of == id).map(|(_, pid)| *pid)
}

/// What is there and what to try.
fn welcome(places: &[Place], pids: &[(u64, u32)], config: &Config, demo: &Demo) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("\nagora is ready (for trying things out: keys on the screen, no TLS)\n\n");
    for place in places {
        let pid = pid_of(pids, place.id).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let _ = writeln!(out, "  node {}   http://{}   pid {pid}   log {}", place.id, place.http, place.log.display());
    }
    let first = &places[0].http;
    let second = &places[1 % places.len()].http;
    let last = &places[places.len() - 1].http;
    let key = config.shop_key.reveal();
    let (code, sku) = demo.skus.first().map_or(("", ""), |(code, id)| (code.as_str(), id.as_str()));
    let program = program();
    let _ = write!(out, "\n  shop key   {key}\n  admin key  {}\n", config.admin_key.reveal());
    let _ = write!(
        out,
        "\ntry:\n\n\
         # what is in stock ({code})\n\
         curl -s http://{first}/api/v2/skus/{sku}/stock -H 'Authorization: Bearer {key}'\n\n\
         # order two, on another node; the same line again gives the same order\n\
         curl -s http://{second}/api/v2/orders -H 'Authorization: Bearer {key}' -H 'Idempotency-Key: try-1' \\\n  \
           -H 'Content-Type: application/json' \\\n  \
           -d '{{\"user_id\":\"{account}\",\"items\":[{{\"sku_id\":\"{sku}\",\"quantity\":2}}]}}'\n\n\
         # the orders of this customer, from a third node\n\
         curl -s 'http://{last}/api/v2/orders?user_id={account}' -H 'Authorization: Bearer {key}'\n\n\
         # who leads; then kill the leader (kill -9 <pid>) and order again\n\
         {program} cluster status --config {config}\n",
        account = demo.account,
        config = places[0].config.display(),
    );
    if std::io::stdout().is_terminal() {
        out.push_str("\nCtrl-C stops all nodes; run the same command again to go on.");
    }
    out
}

/// What is said when a node ended.
fn farewell(exited: &Exited, places: &[Place]) -> String {
    let place = places.iter().find(|place| place.id == exited.id);
    let config = place.map(|place| place.config.display().to_string()).unwrap_or_default();
    format!(
        "agora: node {} ended ({}); the others go on; to start it again: {} start --config {config}",
        exited.id,
        exited.status,
        program()
    )
}

/// How the user calls this program.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "agora".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(dir: &Path) -> DevArgs {
        DevArgs { nodes: None, http_port: None, data_dir: dir.to_owned(), fresh: false, json: false }
    }

    #[test]
    fn a_directory_keeps_its_shape_and_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(&dir.path().join("d"));
        args.http_port = Some(18_081);
        let shape = Shape { nodes: 3, http_port: 18_081 };
        assert_eq!(prepare(&args).unwrap(), (shape, true));
        let (places, config) = fleet::places(&args.data_dir, 3).unwrap();
        assert_eq!((places[2].http.port(), places[2].peer.port()), (18_083, 18_086));
        assert_eq!(config.data_dir, args.data_dir.join("n1"));
        args.http_port = None;
        assert_eq!(prepare(&args).unwrap(), (shape, false));
        assert_eq!(fleet::places(&args.data_dir, 3).unwrap().1.shop_key, config.shop_key);
        args.nodes = Some(5);
        assert!(prepare(&args).unwrap_err().to_string().contains("holds a cluster of 3 nodes on ports from 18081"));
        args.fresh = true;
        assert_eq!(prepare(&args).unwrap(), (Shape { nodes: 5, http_port: 8081 }, true));
        assert_ne!(fleet::places(&args.data_dir, 3).unwrap().1.shop_key, config.shop_key);
    }

    #[test]
    fn fresh_never_empties_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        let mut args = args(dir.path());
        args.fresh = true;
        assert!(prepare(&args).unwrap_err().to_string().contains("was not made by `agora dev`"));
        assert!(dir.path().join("thesis.txt").exists());
        assert!(is_ours("n12.log.old") && is_ours("n1") && !is_ours("n") && !is_ours("notes") && !is_ours("n1.txt"));
    }

    #[test]
    fn fresh_leaves_the_data_of_a_running_node_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        args.http_port = Some(18_081);
        prepare(&args).unwrap();
        let data_dir = dir.path().join("n2");
        fs::create_dir(&data_dir).unwrap();
        let lock = fs::File::create(data_dir.join("lock")).unwrap();
        lock.lock().unwrap();
        args.fresh = true;
        let refused = prepare(&args).unwrap_err().to_string();
        assert!(refused.starts_with("a node still runs in "), "{refused}");
        assert!(data_dir.exists() && dir.path().join(MARK).exists());
        drop(lock);
        assert!(prepare(&args).unwrap().1 && !data_dir.exists());
    }

    #[tokio::test]
    async fn ports_that_are_taken_do_not_bind_a_new_directory_to_them() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(&dir.path().join("d"));
        args.http_port = Some(holder.local_addr().unwrap().port());
        args.nodes = Some(1);
        let refused = run(&args).await.unwrap_err().to_string();
        assert!(refused.contains("choose other ports with --http-port"), "{refused}");
        assert!(!args.data_dir.join(MARK).exists());
    }

    #[test]
    fn the_announcement_is_one_line_with_the_promised_keys() {
        let dir = tempfile::tempdir().unwrap();
        write_cluster(dir.path(), Shape { nodes: 3, http_port: 18_081 }).unwrap();
        let (places, config) = fleet::places(dir.path(), 3).unwrap();
        let line = announcement(&places, &[(1, 11), (2, 22), (3, 33)], &config, dir.path());
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["nodes"][1], json!({"id": 2, "pid": 22, "http": "http://127.0.0.1:18082"}));
        assert_eq!(value["shop_key"], config.shop_key.reveal());
        assert_eq!(value["admin_key"], config.admin_key.reveal());
        assert_eq!(value["data_dir"], dir.path().display().to_string());
    }
}
