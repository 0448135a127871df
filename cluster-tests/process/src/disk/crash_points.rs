//! A run that kills nodes at the N-th call of every phase, and asks each time whether all is still there.
//!
//! Clusters live on from point to point, side by side, with buyers in them. At each point one node dies at one call, its
//! disk may lose power too, and it is started again: it must come back, every promise must be kept on every node, and
//! equal indexes must have equal digests. Phases of a start (opening, installing, rebuilding) are walked without a life in
//! between: the node dies at point after point of one start that never ends.
//!
//! What a point met is told by the thread, the file and the calls before; a point is counted under the phase it met. A
//! point whose call did not occur is counted apart, and proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use super::{
    crash_plan::{Kind, Phase, Point, Role, chains, file_kind, phase_met, plan},
    faults::watched,
    inject::{Effect, Hit, Injection, Tracer, probe},
    judge::{Digests, all_is_there, is_ready, promises_kept, settled, status, tail, verified},
    lab::Lab,
    shopper::{Crowd, Shopper, send},
};
use crate::machine::NodeProgram;
use agora_scenario::cluster::Part;

/// What is asked of a run.
#[derive(Clone, Debug)]
pub struct Args {
    /// The node.
    pub program: NodeProgram,
    /// Where everything is kept; what belongs to a finding stays.
    pub dir: PathBuf,
    /// Decides the order of the points.
    pub seed: u64,
    /// Points to hit.
    pub points: u64,
    /// No new point is begun after so long.
    pub wall: Duration,
    /// Clusters side by side.
    pub clusters: usize,
    /// Every other crash is followed by a loss of power: needs root, and mounts of one's own.
    pub power: bool,
    /// Only these points, again and again; those of one start after one another.
    pub only: Vec<Point>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub seed: u64,
    pub wall_s: f64,
    /// Points at which a node died.
    pub hit: u64,
    /// Of these, different in phase, role, kind of call and N.
    pub different: u64,
    /// Points whose call did not occur.
    pub missed: u64,
    pub points_per_s: f64,
    /// Died while leading.
    pub hit_leading: u64,
    /// Losses of power right after the crash.
    pub power_losses: u64,
    /// Points hit, by phase, then by call, kind of file and thread.
    pub by_phase: BTreeMap<String, BTreeMap<String, u64>>,
    /// Points missed, by phase they were meant for and kind of call.
    pub missed_by_phase: BTreeMap<String, u64>,
    /// From the restart until all nodes serve again, milliseconds: half of the times, of 99 in 100, longest.
    pub back_ms: [u64; 3],
    /// Orders promised.
    pub promised: u64,
    /// Attempts that had to be repeated.
    pub repeated: u64,
    /// Indexes at which digests of several nodes were compared.
    pub digests_compared: u64,
    /// Clusters that were founded.
    pub clusters: u64,
    /// What does not hold. Empty, or the run failed.
    pub findings: Vec<Finding>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Where.
    pub point: String,
    /// What.
    pub what: String,
    /// The line that does it again.
    pub again: String,
    /// Directories of the cluster, left as they were.
    pub kept: PathBuf,
}

/// Points a cluster lives through before another is founded: rows grow, and checks take longer.
const POINTS_PER_CLUSTER: u64 = 60;
const FINDINGS_MAX: usize = 10;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const BUYERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(8);
/// Nodes of a cluster.
const NODES: [u64; 3] = [1, 2, 3];
/// Batches of orders that fill more than the log may keep.
const PAST_THE_LOG: usize = 26;
/// Size of each disk, where power is lost: three journals and what else there is.
const DISK_BYTES: u64 = 768 << 20;

struct Shared {
    args: Args,
    queue: Mutex<(u64, VecDeque<Vec<Point>>)>,
    report: Mutex<Report>,
    seen: Mutex<(BTreeSet<Point>, Vec<u64>)>,
    began: Instant,
}

impl Shared {
    fn next(&self) -> Option<Vec<Point>> {
        let report = self.with(|report| (report.hit, report.findings.len()));
        if report.0 >= self.args.points || report.1 >= FINDINGS_MAX || self.began.elapsed() >= self.args.wall {
            return None;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.1.is_empty() {
            queue.1 = match self.args.only.is_empty() {
                true => plan(self.args.seed.wrapping_add(queue.0)).into(),
                false => chains(&self.args.only).into(),
            };
            queue.0 += 1;
        }
        queue.1.pop_front()
    }

    fn with<T>(&self, look: impl FnOnce(&mut Report) -> T) -> T {
        look(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn found(&self, points: &[Point], what: String, kept: &Path) {
        let names: Vec<String> = points.iter().map(ToString::to_string).collect();
        let power = if self.args.power { " --power" } else { "" };
        let again = format!(
            "cargo run -p agora-cluster-tests -- crash-points --seed {} --points 40{power} --only {}",
            self.args.seed,
            names.join(",")
        );
        self.with(|report| {
            report.findings.push(Finding { point: names.join(","), what, again, kept: kept.to_path_buf() });
        });
    }

    fn note_hit(&self, point: Point, met: Phase, hit: &Hit, leading: bool) {
        let phase =
            serde_json::to_value(met).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
        let what = format!("{} {} ({})", hit.call, file_kind(&hit.path), hit.thread);
        self.with(|report| {
            report.hit += 1;
            report.hit_leading += u64::from(leading);
            *report.by_phase.entry(phase).or_default().entry(what).or_default() += 1;
        });
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.insert(Point { phase: met, ..point });
    }

    fn note_missed(&self, points: &[Point]) {
        self.with(|report| {
            for point in points {
                report.missed += 1;
                let name = point.to_string();
                let name = name.rsplit_once('/').map_or(name.as_str(), |(before, _)| before).to_owned();
                *report.missed_by_phase.entry(name).or_default() += 1;
            }
        });
    }

    fn note_back(&self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1.push(ms);
    }
}

/// Runs.
pub async fn run(args: Args) -> Report {
    let shared = Arc::new(Shared {
        report: Mutex::new(Report { seed: args.seed, ..Report::default() }),
        args,
        queue: Mutex::default(),
        seen: Mutex::default(),
        began: Instant::now(),
    });
    match probe() {
        Ok(()) => {
            let clusters: Vec<_> = (0..shared.args.clusters.max(1))
                .map(|number| tokio::spawn(one_after_the_other(shared.clone(), number)))
                .collect();
            for cluster in clusters {
                if let Err(error) = cluster.await {
                    shared.found(&[], format!("the run itself failed: {error}"), &shared.args.dir);
                }
            }
        }
        Err(missing) => shared.found(&[], missing, &shared.args.dir),
    }
    let (different, mut back) = {
        let seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.0.len() as u64, seen.1.clone())
    };
    back.sort_unstable();
    let at = |share: f64| back.get(((back.len() as f64 * share) as usize).min(back.len().saturating_sub(1))).copied();
    shared.with(|report| {
        report.different = different;
        report.wall_s = shared.began.elapsed().as_secs_f64();
        report.points_per_s = report.hit as f64 / report.wall_s.max(0.001);
        report.back_ms = [0.5, 0.99, 1.0].map(|share| at(share).unwrap_or(0));
        report.clone()
    })
}

/// Founds clusters and lets each live through some points, until there is nothing left to do.
async fn one_after_the_other(shared: Arc<Shared>, number: usize) {
    let mut founded = 0;
    loop {
        let Some(first) = shared.next() else { return };
        let root = shared.args.dir.join(format!("crash-{number}-{founded}"));
        founded += 1;
        shared.with(|report| report.clusters += 1);
        let mut bench = match Bench::found(&shared, &root).await {
            Ok(bench) => bench,
            Err(error) => return shared.found(&[], format!("a cluster cannot be founded: {error}"), &root),
        };
        let mut next = Some(first);
        let mut lived = 0;
        let mut good = true;
        while let Some(chain) = next.take() {
            lived += chain.len() as u64;
            if let Err(what) = bench.walk(&shared, &chain).await {
                shared.found(&chain, what, &root);
                good = false;
                break;
            }
            if lived < POINTS_PER_CLUSTER {
                next = shared.next();
            }
        }
        if good && let Err(what) = bench.end(&shared).await {
            shared.found(&[], format!("at the end of {}: {what}", root.display()), &root);
            good = false;
        }
        shared.with(|report| {
            bench.shopper.with_ledger(|ledger| {
                report.promised += ledger.orders.len() as u64;
                report.repeated += ledger.repeated;
            });
            report.digests_compared += bench.digests.compared();
        });
        drop(bench);
        if good {
            let _ = std::fs::remove_dir_all(&root);
        }
    }
}

/// One cluster with its buyers.
struct Bench {
    lab: Arc<Lab>,
    shopper: Shopper,
    crowd: Option<Crowd>,
    digests: Digests,
    turn: usize,
    crashes: u64,
}

impl Bench {
    async fn found(shared: &Shared, root: &Path) -> Result<Bench, String> {
        let _ = std::fs::remove_dir_all(root);
        let (program, root) = (shared.args.program.clone(), root.to_path_buf());
        let disk = shared.args.power.then_some(DISK_BYTES);
        let made = tokio::task::spawn_blocking(move || Lab::new(&program, &root, NODES.len() as u64, disk)).await;
        let lab = Arc::new(made.map_err(|error| error.to_string())??);
        for node in NODES {
            lab.start(node)?;
        }
        settled(&lab, &NODES, SETTLE_TIMEOUT).await?;
        let shopper = Shopper::open(lab.clone()).await?;
        // So that the log has been purged once, and rows that are lost are nowhere but with peers.
        shopper.buy_many(PAST_THE_LOG).await;
        let crowd = Some(shopper.crowd(BUYERS, PAUSE));
        Ok(Bench { lab, shopper, crowd, digests: Digests::default(), turn: 0, crashes: 0 })
    }

    /// One chain of points.
    async fn walk(&mut self, shared: &Shared, chain: &[Point]) -> Result<(), String> {
        let Some(first) = chain.first() else { return Ok(()) };
        let leader = settled(&self.lab, &NODES, SETTLE_TIMEOUT).await?;
        self.turn += 1;
        let followers: Vec<u64> = NODES.into_iter().filter(|node| *node != leader).collect();
        let follower = followers[self.turn % followers.len()];
        let victim = if first.role == Role::Leader { leader } else { follower };
        let died = if first.phase.is_at_start() {
            self.die_starting(shared, chain, victim).await?
        } else {
            self.die_living(shared, *first, victim, leader, follower).await?
        };
        let began = Instant::now();
        // In a vote it may be another one than was thought of.
        for node in NODES.into_iter().filter(|node| self.lab.pid(*node).is_none()) {
            self.lab.start(node)?;
        }
        settled(&self.lab, &NODES, SETTLE_TIMEOUT).await.map_err(|error| format!("it does not come back: {error}"))?;
        if died {
            shared.note_back(began.elapsed());
        }
        promises_kept(&self.lab, &self.shopper, &mut self.digests, &NODES).await
    }

    /// A node dies at one point of its life; true if it did.
    async fn die_living(
        &mut self,
        shared: &Shared,
        point: Point,
        victim: u64,
        leader: u64,
        follower: u64,
    ) -> Result<bool, String> {
        // Who is about to lead is the one to die in its own vote; the third one dies in the vote it is asked for.
        let (mut victim, mut successor) = (victim, None);
        if point.phase == Phase::Vote {
            let third = NODES.into_iter().find(|node| *node != leader && *node != follower).unwrap_or(leader);
            victim = if point.role == Role::Leader { follower } else { third };
            successor = Some(follower);
        }
        match point.phase {
            Phase::SnapshotBuild => self.shopper.buy_many(2).await,
            Phase::Purge => self.shopper.buy_many(10).await,
            _ => {}
        }
        // Nothing else on its way, so that the calls are those of this phase.
        let quiet = !matches!(point.phase, Phase::Append | Phase::Apply);
        let closed = if quiet { Some(self.shopper.gate.clone().write_owned().await) } else { None };
        let said = self.lab.said(victim);
        let tracer = self.attach(point, victim).await?;
        let patience = match point.phase {
            Phase::Vote => {
                self.ask("/api/v2/cluster/leader/transfer", leader, json!({"to": successor}));
                Duration::from_millis(2_500)
            }
            Phase::SnapshotFile => {
                self.ask("/api/v2/cluster/snapshots", victim, json!({}));
                Duration::from_millis(2_500)
            }
            Phase::SnapshotBuild => Duration::from_millis(1_700),
            // First what may go is made durable, and half a second later the beginning of the log goes.
            Phase::Purge => Duration::from_millis(2_500),
            _ => Duration::from_millis(3_000),
        };
        let exit = self.lab.exited(victim, patience).await;
        let (hit, trace) =
            tokio::task::spawn_blocking(move || tracer.detach_with_trace()).await.map_err(|error| error.to_string())?;
        drop(closed);
        // It may have died in the moment it was let go.
        let exit = match exit {
            None if hit.is_some() => self.lab.exited(victim, Duration::from_secs(2)).await,
            exit => exit,
        };
        let Some(exit) = exit else {
            shared.note_missed(&[point]);
            return Ok(false);
        };
        self.died_as_told(victim, exit, hit.as_ref())?;
        if let Some(hit) = hit {
            let purging = self.lab.said_since(victim, said).contains("purging the log");
            let met = phase_met(point.phase, &hit, rows_were_synced(&trace), purging);
            shared.note_hit(point, met, &hit, victim == leader || successor == Some(victim));
        }
        self.power(shared, victim).await?;
        Ok(true)
    }

    /// A node dies at one point after the other of a start that never ends; true if it did at all.
    async fn die_starting(&mut self, shared: &Shared, chain: &[Point], victim: u64) -> Result<bool, String> {
        let phase = chain[0].phase;
        let generations = super::corrupt::generations(&self.lab.data_dir(victim))?;
        let current = generations.iter().filter_map(|path| path.to_str()?.rsplit_once("rows-")?.1.parse().ok()).max();
        let current: u64 = current.unwrap_or(1);
        self.lab.kill(victim);
        match phase {
            Phase::Install => self.leave_behind(victim).await?,
            Phase::Rebuild => {
                for dir in generations {
                    std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
                }
            }
            _ => {}
        }
        let mut died = false;
        for (position, point) in chain.iter().enumerate() {
            let paths = start_paths(&self.lab.data_dir(victim), *point, current);
            let injection =
                Injection { calls: point.kind.calls(), seen: Vec::new(), paths, effect: Effect::KillAt(point.n) };
            let (lab, trace) = (self.lab.clone(), self.lab.root().join(format!("n{victim}/crash.trace")));
            let tracer = tokio::task::spawn_blocking(move || {
                let pid = lab.start_held(victim)?;
                let tracer = injection.attach(pid, &trace);
                lab.release(victim);
                tracer
            });
            let tracer = tracer.await.map_err(|error| error.to_string())??;
            let exit = self.dead_or_well(victim).await;
            let hit = tokio::task::spawn_blocking(move || tracer.detach()).await.map_err(|error| error.to_string())?;
            let exit = match exit {
                None if hit.is_some() => self.lab.exited(victim, Duration::from_secs(2)).await,
                exit => exit,
            };
            let Some(exit) = exit else {
                // It has what it was to get; what comes later does not occur either.
                shared.note_missed(&chain[position..]);
                return Ok(died);
            };
            self.died_as_told(victim, exit, hit.as_ref())?;
            died = true;
            if let Some(hit) = hit {
                shared.note_hit(*point, phase_met(phase, &hit, false, false), &hit, false);
            }
            self.power(shared, victim).await?;
        }
        Ok(died)
    }

    /// Waits until a starting node is dead, or serves and so is past its start.
    async fn dead_or_well(&self, node: u64) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(exit) = self.lab.exited(node, Duration::from_millis(20)).await {
                return Some(exit);
            }
            if is_ready(&self.lab, node).await {
                return self.lab.exited(node, Duration::from_millis(400)).await;
            }
        }
        None
    }

    /// Only a kill is a crash of ours; a panic or an error is the node's own.
    fn died_as_told(&self, node: u64, exit: std::process::ExitStatus, hit: Option<&Hit>) -> Result<(), String> {
        if exit.signal() == Some(9) && hit.is_some() {
            return Ok(());
        }
        Err(format!("node {node} left by itself with {exit}: {}", tail(&self.lab, node)))
    }

    async fn power(&mut self, shared: &Shared, victim: u64) -> Result<(), String> {
        self.crashes += 1;
        if !shared.args.power || self.crashes.is_multiple_of(2) {
            return Ok(());
        }
        let lab = self.lab.clone();
        tokio::task::spawn_blocking(move || lab.power_loss(victim)).await.map_err(|error| error.to_string())??;
        shared.with(|report| report.power_losses += 1);
        Ok(())
    }

    async fn attach(&self, point: Point, victim: u64) -> Result<Tracer, String> {
        let data = self.lab.data_dir(victim);
        let (log, journals) = (watched(&data, Part::Log)?, watched(&data, Part::RowsJournal)?);
        let mut seen = Vec::new();
        let paths = match point.phase {
            Phase::Apply => journals,
            Phase::SnapshotBuild | Phase::Purge => {
                seen = Kind::Sync.calls();
                [log, journals].concat()
            }
            Phase::SnapshotFile if point.kind == Kind::Rename => Vec::new(),
            Phase::SnapshotFile => self.snapshot_paths(victim).await,
            _ => log,
        };
        let injection = Injection { calls: point.kind.calls(), seen, paths, effect: Effect::KillAt(point.n) };
        let pid = self.lab.pid(victim).ok_or_else(|| format!("node {victim} is down"))?;
        let trace = self.lab.root().join(format!("n{victim}/crash.trace"));
        tokio::task::spawn_blocking(move || injection.attach(pid, &trace)).await.map_err(|error| error.to_string())?
    }

    /// Names a snapshot made about now can get: they tell its index and term.
    async fn snapshot_paths(&self, victim: u64) -> Vec<PathBuf> {
        let dir = self.lab.data_dir(victim).join("snapshots");
        let status = status(&self.lab, victim).await.unwrap_or_default();
        let (index, term) = (status["applied_index"].as_u64().unwrap_or(0), status["term"].as_u64().unwrap_or(0));
        let mut paths = vec![dir.clone()];
        paths.extend((index..index + 8).map(|index| dir.join(format!("snapshot-{index:020}-{term:010}.new"))));
        paths
    }

    /// Asks a node for something without waiting for the answer, which may never come.
    fn ask(&self, path: &'static str, node: u64, body: serde_json::Value) {
        let address = self.lab.http(node);
        tokio::spawn(async move {
            // Acts upon the cluster are safe to repeat and need no key.
            let _ = send(&address, "POST", path, &[], Some(&body), Duration::from_secs(3)).await;
        });
    }

    /// The others go on until the log no longer reaches back to a node that is down.
    async fn leave_behind(&self, node: u64) -> Result<(), String> {
        let others: Vec<u64> = NODES.into_iter().filter(|other| *other != node).collect();
        let leader = settled(&self.lab, &others, SETTLE_TIMEOUT).await?;
        let last = status(&self.lab, leader).await.and_then(|status| status["last_log_index"].as_u64()).unwrap_or(0);
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            self.shopper.buy_many(PAST_THE_LOG / 3).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut purged = u64::MAX;
            for other in &others {
                let status = status(&self.lab, *other).await.unwrap_or_default();
                purged = purged.min(status["purged_index"].as_u64().unwrap_or(0));
            }
            if purged > last {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the log is not purged up to {last} within {SETTLE_TIMEOUT:?}"));
            }
        }
    }

    /// The end of a cluster's life: all that was promised, order by order, and rows that add up.
    async fn end(&mut self, _shared: &Shared) -> Result<(), String> {
        if let Some(crowd) = self.crowd.take() {
            crowd.leave().await;
        }
        settled(&self.lab, &NODES, SETTLE_TIMEOUT).await?;
        all_is_there(&self.lab, &self.shopper, &mut self.digests, &NODES).await?;
        verified(&self.lab, &NODES).await
    }
}

/// Whether the rows' journal was synced by anybody but the thread that does so behind the writer's back.
fn rows_were_synced(trace: &str) -> bool {
    trace.lines().any(|line| line.contains("sync(") && line.contains(".jnl>") && !line.contains("<rows-sync>"))
}

/// The files a start is about to write. Those of a generation that does not exist yet are known by their names.
fn start_paths(data: &Path, point: Point, current: u64) -> Vec<PathBuf> {
    if matches!(point.kind, Kind::Rename | Kind::Name) {
        return Vec::new();
    }
    if point.phase == Phase::Open {
        // Where only files count: waking a thread is a write as well.
        let journals = watched(data, Part::RowsJournal).unwrap_or_default();
        let dirs = [data.to_path_buf(), data.join(format!("rows-{current}")), data.join("log.redb")];
        return [dirs.to_vec(), journals].concat();
    }
    let mut paths = Vec::new();
    for generation in current + 1..=current + 4 {
        let rows = data.join(format!("rows-{generation}"));
        paths.extend(["", "version", "lock", "0.jnl", "1.jnl", "keyspaces"].map(|name| rows.join(name)));
        for keyspace in 0..8 {
            let keyspace = rows.join(format!("keyspaces/{keyspace}"));
            let names = ["", "tables", "current", "v0", "v1", "v2", "tables/0", "tables/1", "tables/2", "tables/3"];
            paths.extend(names.map(|name| keyspace.join(name)));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sync_of_the_rows_by_others_than_the_background_is_one() {
        let line = |thread: &str, call: &str, file: &str| format!("7<{thread}> {call}(9</d/{file}>) = 0\n");
        assert!(rows_were_synced(&line("agora-raft", "fsync", "rows-1/0.jnl")));
        assert!(!rows_were_synced(&line("rows-sync", "fdatasync", "rows-1/0.jnl")));
        assert!(!rows_were_synced(&line("agora-log", "fdatasync", "log.redb")));
        assert!(!rows_were_synced(&line("agora-apply", "write", "rows-1/0.jnl")));
    }

    #[test]
    fn no_selection_of_a_start_is_larger_than_a_tracer_takes() {
        let data = Path::new("/d");
        for chain in plan(3) {
            for point in chain {
                assert!(start_paths(data, point, 5).len() <= super::super::inject::PATHS_MAX, "{point}");
            }
        }
    }
}
