//! Several nodes on this machine as child processes, for `agora dev` and `agora bench`.
//!
//! The children are ordinary nodes, `agora start --config …`, each with a log file. Nothing about them is special, so
//! killing one is a real failure, and it can be started again by hand. Their standard input is a pipe this process
//! holds: however it ends, the pipe closes and they shut down. They have process groups of their own, so that Ctrl-C
//! reaches this process alone and it stops them in order.

use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use http::Method;
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::{
    client::Client,
    config::{Address, Config},
};

/// Time a cluster has until every node is ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time one question has whether a node is ready; between two, it is looked whether the node still runs.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Time a node has to shut down before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Size at which a log file is put aside when its node starts, in bytes. One old one is kept.
const LOG_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Lines of a log shown when a node fails to start.
const TAIL_LINES_MAX: usize = 5;

/// One node of the fleet, running or not.
#[derive(Clone, Debug)]
pub struct Place {
    /// Node id.
    pub id: u64,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// Its HTTP address.
    pub http: Address,
    /// Its peer address.
    pub peer: Address,
}

/// Reads the places of a fleet from the files `n1.toml` … in `dir`, and the first node's configuration, whose keys all
/// share.
pub fn places(dir: &Path, nodes: u16) -> anyhow::Result<(Vec<Place>, Config)> {
    let mut places = Vec::new();
    let mut first = None;
    for id in 1..=u64::from(nodes) {
        let path = dir.join(format!("n{id}.toml"));
        let config = Config::load(&path)?;
        places.push(Place {
            id,
            log: dir.join(format!("n{id}.log")),
            http: config.http.listen.clone(),
            peer: config.peer_listen.clone(),
            config: path,
        });
        first.get_or_insert(config);
    }
    let first = first.context("a fleet has at least one node")?;
    Ok((places, first))
}

/// Refuses ports that somebody listens on, all of them at once. `hint` says how to choose others.
pub fn check_ports(places: &[Place], hint: &str) -> anyhow::Result<()> {
    let addresses = places.iter().flat_map(|place| [&place.http, &place.peer]);
    let taken: Vec<String> = addresses
        .filter(|address| TcpListener::bind(address.to_string()).is_err())
        .map(|address| address.to_string())
        .collect();
    ensure!(
        taken.is_empty(),
        "cannot listen on {}: something else does, perhaps an earlier run; {hint}",
        taken.join(", ")
    );
    Ok(())
}

/// A node's process ended.
#[derive(Debug)]
pub struct Exited {
    /// Node id.
    pub id: u64,
    /// How.
    pub status: String,
}

/// A running child: what is needed to stop it.
struct Running {
    id: u64,
    pid: u32,
    stdin: Option<ChildStdin>,
    kill: Option<oneshot::Sender<()>>,
    done: oneshot::Receiver<()>,
}

/// The children.
pub struct Fleet {
    running: Vec<Running>,
    exits: mpsc::Receiver<Exited>,
}

impl Fleet {
    /// Starts a child for every place. They are not ready yet.
    pub fn start(places: &[Place]) -> anyhow::Result<Fleet> {
        let (sender, exits) = mpsc::channel(places.len().max(1));
        let mut running = Vec::new();
        for place in places {
            running.push(spawn(place, sender.clone())?);
        }
        Ok(Fleet { running, exits })
    }

    /// Process ids, by node id.
    pub fn pids(&self) -> Vec<(u64, u32)> {
        self.running.iter().map(|child| (child.id, child.pid)).collect()
    }

    /// Waits until every node says it is ready; an error as soon as one ends before.
    pub async fn ready(&mut self, places: &[Place]) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for place in places {
            let client = Client::new(vec![place.http.clone()], None, PROBE_TIMEOUT)?;
            loop {
                let last = match client.send(Method::GET, "/readyz", None, None).await {
                    Ok(answer) if answer.status == 200 => break,
                    Ok(answer) => format!("answers {}", answer.body),
                    Err(error) => format!("{error:#}"),
                };
                if let Ok(exited) = self.exits.try_recv() {
                    let log = places.iter().find(|place| place.id == exited.id).map(|place| place.log.as_path());
                    bail!(
                        "node {} ended before it was ready ({}){}",
                        exited.id,
                        exited.status,
                        log.map(tail).unwrap_or_default()
                    );
                }
                if Instant::now() >= deadline {
                    bail!("node {} is not ready after {READY_TIMEOUT:?}: {last}{}", place.id, tail(&place.log));
                }
                sleep(Duration::from_millis(25)).await;
            }
        }
        Ok(())
    }

    /// The next child that ends. Never, when none is left.
    pub async fn next_exit(&mut self) -> Exited {
        match self.exits.recv().await {
            Some(exited) => {
                self.running.retain(|child| child.id != exited.id);
                exited
            }
            None => std::future::pending().await,
        }
    }

    /// Stops the children: all are asked at once, by closing their standard input; who does not follow is killed.
    pub async fn stop(mut self) {
        for child in &mut self.running {
            child.stdin = None;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for mut child in self.running {
            let left = deadline.saturating_duration_since(Instant::now());
            if timeout(left, &mut child.done).await.is_err() {
                eprintln!(
                    "agora: node {} (pid {}) did not stop within {STOP_TIMEOUT:?} and is killed",
                    child.id, child.pid
                );
                if let Some(kill) = child.kill.take() {
                    // The other end is gone only if the child ended in this very moment.
                    let _ = kill.send(());
                }
                let _ = child.done.await;
            }
        }
    }
}

fn spawn(place: &Place, exits: mpsc::Sender<Exited>) -> anyhow::Result<Running> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let log = log_file(&place.log)?;
    let mut child = Command::new(&program)
        .arg("start")
        .arg("--config")
        .arg(&place.config)
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let pid = child.id().context("the child has no process id")?;
    let stdin = child.stdin.take();
    let (kill, killed) = oneshot::channel();
    let (finished, done) = oneshot::channel();
    let id = place.id;
    tokio::spawn(async move {
        let status = watch(&mut child, killed).await;
        // Both may have nobody left to tell: the fleet is gone, then.
        let _ = exits.send(Exited { id, status }).await;
        let _ = finished.send(());
    });
    Ok(Running { id, pid, stdin, kill: Some(kill), done })
}

async fn watch(child: &mut Child, killed: oneshot::Receiver<()>) -> String {
    let ended = tokio::select! {
        ended = child.wait() => ended,
        Ok(()) = killed => match child.kill().await {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
    };
    match ended {
        Ok(status) => describe(status),
        Err(error) => format!("cannot wait for it: {error}"),
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

/// Opens a log file for appending, after putting a large one aside.
fn log_file(path: &Path) -> anyhow::Result<fs::File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_FILE_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.old"))
            .with_context(|| format!("cannot put {} aside", path.display()))?;
    }
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The end of a log file, for an error message.
pub fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(TAIL_LINES_MAX);
    let mut out = format!("; the end of {}:", path.display());
    for line in &lines[from..] {
        out.push_str("\n  ");
        out.push_str(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Place {
            id: 1,
            config: PathBuf::new(),
            log: PathBuf::new(),
            http: Address::new("127.0.0.1", port).unwrap(),
            peer: Address::new("127.0.0.1", other).unwrap(),
        };
        let error = check_ports(&[place], "choose --http-port").unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot listen on 127.0.0.1:{port}: something else does, perhaps an earlier run; choose --http-port"
            )
        );
    }

    #[test]
    fn the_tail_of_a_log_is_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n1.log");
        fs::write(&path, "1\n2\n3\n\n4\n5\n6\n7\n").unwrap();
        assert_eq!(tail(&path), format!("; the end of {}:\n  3\n  4\n  5\n  6\n  7", path.display()));
    }
}
