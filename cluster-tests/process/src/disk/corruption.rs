//! A run that spoils every kind of file of a node, and asks whether wrong rows are served or a promise is lost.
//!
//! One cluster lives through all cases, with buyers in it. A node is killed, or told to stop; a copy of its directory is put
//! aside; something of it is spoiled; it is started again. Then it either **serves**, and what it serves must be right, order by
//! order, with a log that holds all it ever promised; or it **refuses**, and says what is damaged and what to do; or it
//! runs and is **shunned** by its peers, and says so. Afterwards it is repaired as an operator would: its directory is put
//! back, or it is replaced under a new id.
//!
//! A node whose log was spoiled is first started among peers that stand still: what its log ends with then is its own
//! word, and must not be less than what it ended with before.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    corrupt::copy_tree,
    corruption_cases::{Case, Scope, Site, cases},
    crash_points::Finding,
    faults::watched,
    inject::{Effect, Injection},
    judge::{
        Digests, all_is_there, feed_read, get, is_ready, orders_on, promises_kept, settled, status, tail, verified,
    },
    lab::Lab,
    shopper::{Crowd, Shopper, send},
};
use crate::machine::NodeProgram;
use agora_scenario::{cluster::Part, rng::Rng};

/// What is asked of a run.
#[derive(Clone, Debug)]
pub struct Args {
    /// The node.
    pub program: NodeProgram,
    /// Where everything is kept; what belongs to a finding stays.
    pub dir: PathBuf,
    /// Decides the order of the cases, and on which node and in what state each is done.
    pub seed: u64,
    /// No new case is begun after so long.
    pub wall: Duration,
    /// Only cases whose title contains this.
    pub only: Option<String>,
}

/// How a spoiled node ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It serves, and had nothing to repair, or repaired it alone.
    Served,
    /// It serves, with rows from a peer or made again from its log.
    Rebuilt,
    /// It does not start, and says why.
    Refused,
    /// It served right and stopped, with a reason, when it read what was spoiled; or said so when it was asked to verify.
    FoundLater,
    /// It runs and is not let in.
    Shunned,
}

/// One case, as it went.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    pub case: String,
    pub node: u64,
    /// `leader` or `follower`, when it was killed or stopped.
    pub role: &'static str,
    /// `killed` or `stopped`.
    pub state: &'static str,
    pub done: String,
    pub outcome: Outcome,
    /// The line that says so, of a node that refuses.
    pub said: String,
    /// Where its log ended before (index, term), and where it said it ended, spoiled, among peers that stood still.
    pub log_ends: Option<(End, Option<End>)>,
    pub took_ms: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub seed: u64,
    pub wall_s: f64,
    pub cases: u64,
    /// By kind of file, then by outcome.
    pub by_file: BTreeMap<String, BTreeMap<Outcome, u64>>,
    pub while_leading: u64,
    /// Nodes that were replaced under a new id.
    pub replaced: u64,
    /// Orders promised, all of which were there at the end.
    pub promised: u64,
    pub digests_compared: u64,
    pub told: Vec<Told>,
    /// Cases that could not be made.
    pub not_made: Vec<String>,
    /// What does not hold. Empty, or the run failed.
    pub findings: Vec<Finding>,
}

const FINDINGS_MAX: usize = 10;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a spoiled node may take to serve, to refuse or to be shunned: fetching rows is given up after 30 s.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(45);
/// A node that runs, hears its peers and is not ready for so long is shunned.
const SHUNNED_AFTER: Duration = Duration::from_secs(6);
/// How long a node may take to tell, among peers that stand still, where its log ends.
const ALONE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node that met what it cannot read may take to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
const BUYERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(10);
/// Batches of orders before the first case: the log was purged, tables and journals hold something.
const STOCK_OF_ORDERS: usize = 30;
/// Lines of a refusal, at most: more is no message.
const LINES_MAX: usize = 40;

/// Runs.
pub async fn run(args: Args) -> Report {
    let began = Instant::now();
    let mut report = Report { seed: args.seed, ..Report::default() };
    let mut left = order(&args);
    let mut number = 0;
    while !left.is_empty() && report.findings.len() < FINDINGS_MAX && began.elapsed() < args.wall {
        let root = args.dir.join(format!("rot-{number}"));
        number += 1;
        let mut bench = match Bench::found(&args, &root).await {
            Ok(bench) => bench,
            Err(error) => {
                note(&mut report, &args, "", format!("a cluster cannot be founded: {error}"), &root);
                break;
            }
        };
        let mut good = true;
        while good && began.elapsed() < args.wall {
            let Some((case, even)) = left.pop() else { break };
            let title = case.title();
            match bench.live_through(&case, even, &mut report).await {
                Ok(()) => {}
                Err(what) => {
                    note(&mut report, &args, &title, what, &root);
                    good = false;
                }
            }
        }
        if good && let Err(what) = bench.end().await {
            note(&mut report, &args, "", format!("at the end: {what}"), &root);
            good = false;
        }
        report.promised += bench.shopper.with_ledger(|ledger| ledger.orders.len() as u64);
        report.digests_compared += bench.digests.compared();
        drop(bench);
        if good {
            let _ = fs::remove_dir_all(&root);
        }
    }
    report.wall_s = began.elapsed().as_secs_f64();
    report
}

/// The cases by turns, last first; with each, which of two states and roles it is done in.
fn order(args: &Args) -> Vec<(Case, u64)> {
    let mut rng = Rng::new(args.seed).fork("corruption");
    let fits = |case: &Case| args.only.as_ref().is_none_or(|only| case.title().contains(only));
    let mut left: Vec<(Case, u64)> = cases().into_iter().filter(fits).map(|case| (case, rng.below(8))).collect();
    for last in (1..left.len()).rev() {
        left.swap(last, rng.below(last as u64 + 1) as usize);
    }
    left
}

fn note(report: &mut Report, args: &Args, title: &str, what: String, root: &Path) {
    let again = format!("cargo run -p agora-cluster-tests -- corruption --seed {} --only '{title}'", args.seed);
    report.findings.push(Finding { point: title.to_owned(), what, again, kept: root.to_path_buf() });
}

/// Where a log ends: last index and term.
pub type End = (u64, u64);

struct Bench {
    lab: Arc<Lab>,
    shopper: Shopper,
    crowd: Option<Crowd>,
    digests: Digests,
    refusals: u64,
    next_id: u64,
    /// Of the last case about a log.
    log_ends: Option<(End, Option<End>)>,
}

impl Bench {
    async fn found(args: &Args, root: &Path) -> Result<Bench, String> {
        let _ = fs::remove_dir_all(root);
        let lab = Arc::new(Lab::new(&args.program, root, 3, None)?);
        for node in lab.nodes() {
            lab.start(node)?;
        }
        settled(&lab, &lab.nodes(), SETTLE_TIMEOUT).await?;
        let shopper = Shopper::open(lab.clone()).await?;
        shopper.buy_many(STOCK_OF_ORDERS).await;
        let crowd = Some(shopper.crowd(BUYERS, PAUSE));
        Ok(Bench { lab, shopper, crowd, digests: Digests::default(), refusals: 0, next_id: 4, log_ends: None })
    }

    fn nodes(&self) -> Vec<u64> {
        self.lab.nodes()
    }

    fn others(&self, node: u64) -> Vec<u64> {
        self.nodes().into_iter().filter(|other| *other != node).collect()
    }

    fn aside(&self, name: &str, node: u64) -> PathBuf {
        self.lab.root().join(format!("{name}-{node}"))
    }

    async fn live_through(&mut self, case: &Case, even: u64, report: &mut Report) -> Result<(), String> {
        let began = Instant::now();
        let leader = settled(&self.lab, &self.nodes(), SETTLE_TIMEOUT).await?;
        let leading = even & 1 == 0;
        let victim = if leading { leader } else { self.others(leader)[(even as usize / 2) % 2] };
        let stopped = even & 2 == 0 && case.scope != Scope::All;
        self.log_ends = None;
        let told = |outcome, done: String, said: String, log_ends| Told {
            case: case.title(),
            node: victim,
            role: if leading { "leader" } else { "follower" },
            state: if stopped { "stopped" } else { "killed" },
            done,
            outcome,
            said,
            log_ends,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let (done, outcome, said) = if case.scope == Scope::All {
            match self.all_spoiled(case).await? {
                Some(result) => result,
                None => {
                    report.not_made.push(case.title());
                    return Ok(());
                }
            }
        } else {
            self.prepare(case, victim, leader).await?;
            // Nothing on its way when it goes, so that where its log ends is known.
            let closed = self.shopper.gate.clone().write_owned().await;
            // The last thing it promises is an entry: what a log that forgot one commit would lack.
            let last = json!({"name": "the last one before the end", "kind": "customer"});
            let last = self.shopper.write("/api/v2/accounts", &last).await?;
            let mut end = self.caught_up(victim, last["log_index"].as_u64().unwrap_or(0)).await?;
            if stopped {
                if !self.lab.stop(victim).await {
                    return Err(format!("node {victim} does not stop: {}", tail(&self.lab, victim)));
                }
            } else if case.is_of_log() && even & 4 == 0 && !leading {
                // Not of a leader: what its own log holds since it last shook hands, no peer remembers.
                end.0 = end.0.max(self.killed_before_applying(victim).await?);
            } else {
                self.lab.kill(victim);
            }
            let kept = self.aside("kept", victim);
            copy_tree(&self.lab.data_dir(victim), &kept)?;
            let done = match (case.deed)(&self.site(victim)) {
                Ok(done) => done,
                Err(why) => {
                    drop(closed);
                    report.not_made.push(format!("{}: {why}", case.title()));
                    copy_tree(&kept, &self.lab.data_dir(victim))?;
                    return self.lab.start(victim);
                }
            };
            let (outcome, said) =
                self.one_spoiled(case, victim, end, closed).await.map_err(|what| format!("{done}: {what}"))?;
            self.repair(victim, outcome, &kept, report).await.map_err(|what| format!("{done}: {outcome:?}: {what}"))?;
            (done, outcome, said)
        };
        report.cases += 1;
        report.while_leading += u64::from(leading);
        *report.by_file.entry(case.file.to_owned()).or_default().entry(outcome).or_default() += 1;
        report.told.push(told(outcome, done, said, self.log_ends));
        Ok(())
    }

    fn site(&self, node: u64) -> Site {
        Site { data: self.lab.data_dir(node), older: self.aside("older", node), other: self.aside("other", node) }
    }

    /// What the case needs beside the node itself.
    async fn prepare(&mut self, case: &Case, victim: u64, leader: u64) -> Result<(), String> {
        match case.scope {
            Scope::One | Scope::All => Ok(()),
            Scope::OneWithSnapshot => {
                let address = self.lab.http(victim);
                let body = json!({});
                let path = "/api/v2/cluster/snapshots";
                let made = send(&address, "POST", path, &[], Some(&body), Duration::from_secs(10)).await?;
                if made.status < 300 { Ok(()) } else { Err(format!("no snapshot: {} {}", made.status, made.body)) }
            }
            Scope::OneWithOlder => {
                self.copied_while_down(victim, &self.aside("older", victim)).await?;
                // Much happens after that copy: more than a moment's worth of it, and a vote.
                self.shopper.buy_many(4).await;
                Ok(())
            }
            Scope::OneWithOther => {
                let other = self.others(victim).into_iter().find(|other| *other != leader);
                let other = other.ok_or("no other node")?;
                self.copied_while_down(other, &self.aside("other", victim)).await
            }
        }
    }

    async fn copied_while_down(&self, node: u64, to: &Path) -> Result<(), String> {
        self.lab.kill(node);
        copy_tree(&self.lab.data_dir(node), to)?;
        self.lab.start(node)?;
        settled(&self.lab, &self.nodes(), SETTLE_TIMEOUT).await.map(drop)
    }

    /// Waits until a node holds an index; says where its log ends.
    async fn caught_up(&self, node: u64, index: u64) -> Result<End, String> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            if let Some(status) = status(&self.lab, node).await
                && status["applied_index"].as_u64().unwrap_or(0) >= index
            {
                return Ok(end_of(&status));
            }
            if Instant::now() > deadline {
                return Err(format!("node {node} does not reach index {index}: {}", tail(&self.lab, node)));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A node dies when an entry is in its log, and before it is in its rows: then nothing but the log knows of it.
    async fn killed_before_applying(&self, node: u64) -> Result<u64, String> {
        let pid = self.lab.pid(node).ok_or_else(|| format!("node {node} is down"))?;
        let paths = watched(&self.lab.data_dir(node), Part::RowsJournal)?;
        let injection = Injection { calls: vec!["write"], seen: Vec::new(), paths, effect: Effect::KillAt(1) };
        let tracer = injection.attach(pid, &self.lab.root().join(format!("n{node}/crash.trace")))?;
        let last = json!({"name": "in the log alone", "kind": "customer"});
        let (last, exit) =
            tokio::join!(self.shopper.write("/api/v2/accounts", &last), self.lab.exited(node, Duration::from_secs(10)));
        drop(tracer);
        match (last, exit) {
            (Ok(last), Some(_)) => Ok(last["log_index"].as_u64().unwrap_or(0)),
            (Ok(_), None) => Err(format!("node {node} did not apply an entry within 10 s")),
            (Err(error), _) => Err(error),
        }
    }

    /// Starts a spoiled node and judges it.
    async fn one_spoiled(
        &mut self,
        case: &Case,
        victim: u64,
        end: End,
        closed: tokio::sync::OwnedRwLockWriteGuard<()>,
    ) -> Result<(Outcome, String), String> {
        let since = self.lab.said(victim);
        let mut alone = None;
        if case.is_of_log() || case.file == "directory" {
            for other in self.others(victim) {
                self.lab.pause(other);
            }
            self.lab.start(victim)?;
            alone = self.end_alone(victim).await;
            for other in self.others(victim) {
                self.lab.release(other);
            }
        } else {
            self.lab.start(victim)?;
        }
        drop(closed);
        self.log_ends = case.is_of_log().then_some((end, alone));
        let mut outcome = self.judged(victim, since).await?;
        let said = self.lab.said_since(victim, since);
        let forgot = alone.filter(|(last, term)| *last < end.0 || *term < end.1);
        if forgot.is_some() && outcome == Outcome::Served && self.shunned(victim, since).await {
            outcome = Outcome::Shunned;
        }
        if let Some((last, term)) = forgot
            && !matches!(outcome, Outcome::Shunned | Outcome::Refused)
        {
            return Err(format!(
                "its log ended at index {}, term {}; spoiled it ended at index {last}, term {term}, and it was let in under \
                 its id: {outcome:?}: {said}",
                end.0, end.1
            ));
        }
        if matches!(outcome, Outcome::Refused) {
            clear_refusal(&said)?;
        }
        let line = said.lines().rfind(|line| !line.contains("INFO") && !line.trim().is_empty());
        let line: String = line.unwrap_or_default().chars().take(400).collect();
        if !matches!(outcome, Outcome::Served | Outcome::Rebuilt) {
            return Ok((outcome, line));
        }
        let nodes = self.nodes();
        promises_kept(&self.lab, &self.shopper, &mut self.digests, &nodes).await?;
        match self.read_through(victim, since).await? {
            Some(later) => Ok((Outcome::FoundLater, later)),
            None => Ok((outcome, line)),
        }
    }

    /// Whether the peer that knows better does not let a node in; the third may have done so a moment before.
    async fn shunned(&self, node: u64, since: u64) -> bool {
        let deadline = Instant::now() + SHUNNED_AFTER;
        while Instant::now() < deadline {
            if self.lab.said_since(node, since).contains(&format!("refused: node {node} ")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// What a node among peers that stand still says of its log.
    async fn end_alone(&self, node: u64) -> Option<End> {
        let deadline = Instant::now() + ALONE_TIMEOUT;
        while Instant::now() < deadline {
            // Its term is told a moment later than that it lives.
            if let Some(status) = status(&self.lab, node).await
                && status["term"].as_u64().unwrap_or(0) > 0
            {
                return Some(end_of(&status));
            }
            // The process is looked at by its state alone, so that how it left is still told afterwards.
            if !self.lab.runs(node) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Waits for what becomes of a node.
    async fn judged(&self, node: u64, since: u64) -> Result<Outcome, String> {
        let deadline = Instant::now() + JUDGE_TIMEOUT;
        let began = Instant::now();
        loop {
            if let Some(exit) = self.lab.exited(node, Duration::from_millis(20)).await {
                if exit.success() {
                    return Err(format!("it left with success: {}", self.lab.said_since(node, since)));
                }
                return Ok(Outcome::Refused);
            }
            let said = || self.lab.said_since(node, since);
            if is_ready(&self.lab, node).await {
                let rebuilt = said().contains("given up") || said().contains("rows were rebuilt");
                return Ok(if rebuilt { Outcome::Rebuilt } else { Outcome::Served });
            }
            let is_shunned = ["wiped", "forgot", "removed from the cluster", "belongs to", "new id", "not let in"];
            if began.elapsed() > SHUNNED_AFTER && is_shunned.iter().any(|word| said().contains(word)) {
                return Ok(Outcome::Shunned);
            }
            if Instant::now() > deadline {
                let ready = get(&self.lab, node, "/readyz", &[]).await;
                return Err(format!("neither serves nor refuses within {JUDGE_TIMEOUT:?}: {ready:?}: {}", said()));
            }
        }
    }

    /// Reads every order from the node, and lets a stopped copy of it be verified; what is spoiled must then be right or
    /// be found. `Some` tells how it was found.
    async fn read_through(&mut self, node: u64, since: u64) -> Result<Option<String>, String> {
        let closed = self.shopper.gate.clone().write_owned().await;
        let (promised, index) = self.shopper.with_ledger(|ledger| {
            let numbers: std::collections::BTreeSet<String> = ledger.orders.values().cloned().collect();
            (numbers, ledger.index)
        });
        let mut read = orders_on(&self.lab, &self.shopper, node, index).await;
        if read.is_ok()
            && let Err(error) = feed_read(&self.lab, node, index).await
        {
            read = Err(error);
        }
        drop(closed);
        match read {
            Ok(held) if held == promised => {}
            Ok(held) => return Err(format!("it shows {} orders of {}", held.len(), promised.len())),
            Err(error) => {
                // It hands leadership over first, and lets its peers hear of it.
                let gone = self.lab.exited(node, LEAVE_TIMEOUT).await;
                let said = self.lab.said_since(node, since);
                let line = said.lines().rfind(|line| !line.contains("INFO")).unwrap_or_default().to_owned();
                if said.contains("panicked") {
                    return Err(format!("it panics on what was spoiled: {said}"));
                }
                if gone.is_none() {
                    return Err(format!("it goes on though it cannot read: {error}"));
                }
                return Ok(Some(line));
            }
        }
        if !self.lab.stop(node).await {
            return Err(format!("it does not stop: {}", tail(&self.lab, node)));
        }
        let (good, said) = self.lab.verify(node).await;
        if good {
            self.lab.start(node)?;
            return Ok(None);
        }
        if said.contains("panicked") {
            return Err(format!("verify panics: {said}"));
        }
        Ok(Some(format!("agora verify: {}", said.trim())))
    }

    /// Makes the cluster whole again.
    async fn repair(&mut self, node: u64, outcome: Outcome, kept: &Path, report: &mut Report) -> Result<(), String> {
        match outcome {
            Outcome::Served | Outcome::Rebuilt => {}
            Outcome::FoundLater => {
                // Its log is whole and goes on; the rows are fetched anew.
                self.lab.kill(node);
                for dir in super::corrupt::generations(&self.lab.data_dir(node))? {
                    fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
                }
                self.lab.start(node)?;
            }
            Outcome::Refused | Outcome::Shunned => {
                self.lab.kill(node);
                self.refusals += 1;
                if self.refusals.is_multiple_of(3) {
                    self.replace(node).await?;
                    report.replaced += 1;
                } else {
                    copy_tree(kept, &self.lab.data_dir(node))?;
                    self.lab.start(node)?;
                }
            }
        }
        let nodes = self.nodes();
        settled(&self.lab, &nodes, SETTLE_TIMEOUT).await?;
        promises_kept(&self.lab, &self.shopper, &mut self.digests, &nodes).await
    }

    /// As the manual says: a node under a new id is added and promoted, the lost one removed.
    async fn replace(&mut self, lost: u64) -> Result<(), String> {
        let new = self.next_id;
        self.next_id += 1;
        self.lab.newcomer(new)?;
        self.lab.start(new)?;
        let member = json!({"id": new, "peer": self.lab.peer(new), "http": self.lab.http(new)});
        let via: Vec<u64> = self.nodes().into_iter().filter(|node| *node != lost && *node != new).collect();
        self.administer(&via, "POST", "/api/v2/cluster/members", Some(&member)).await?;
        self.administer(&via, "POST", &format!("/api/v2/cluster/members/{new}/promote"), Some(&json!({}))).await?;
        self.administer(&via, "DELETE", &format!("/api/v2/cluster/members/{lost}"), None).await?;
        self.lab.forget(lost);
        Ok(())
    }

    async fn administer(&self, via: &[u64], method: &str, path: &str, body: Option<&Value>) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut turn = 0;
        loop {
            let address = self.lab.http(via[turn % via.len()]);
            let answer = send(&address, method, path, &[], body, Duration::from_secs(10)).await;
            match answer {
                Ok(reply) if reply.status < 300 => return Ok(()),
                _ if Instant::now() > deadline => return Err(format!("{method} {path}: {answer:?}")),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            turn += 1;
        }
    }

    /// The same on all nodes at once; `None` if it could not be made.
    async fn all_spoiled(&mut self, case: &Case) -> Result<Option<(String, Outcome, String)>, String> {
        let nodes = self.nodes();
        let since: Vec<u64> = nodes.iter().map(|node| self.lab.said(*node)).collect();
        // While buyers are at work.
        for node in &nodes {
            self.lab.kill(*node);
        }
        let mut done = Vec::new();
        for node in &nodes {
            copy_tree(&self.lab.data_dir(*node), &self.aside("kept", *node))?;
            if let Ok(what) = (case.deed)(&self.site(*node)) {
                done.push(what);
            }
        }
        let made = done.len() == nodes.len();
        for node in &nodes {
            self.lab.start(*node)?;
        }
        let deadline = Instant::now() + JUDGE_TIMEOUT;
        let mut refused = Vec::new();
        loop {
            for (node, since) in nodes.iter().zip(&since) {
                if !refused.contains(node) && self.lab.exited(*node, Duration::ZERO).await.is_some() {
                    refused.push(*node);
                    clear_refusal(&self.lab.said_since(*node, *since))?;
                }
            }
            if refused.is_empty() && settled(&self.lab, &nodes, Duration::from_millis(100)).await.is_ok() {
                break;
            }
            if refused.len() == nodes.len() || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let outcome = if refused.is_empty() { Outcome::Served } else { Outcome::Refused };
        let said = self.lab.said_since(nodes[0], since[0]);
        let line = said.lines().rfind(|line| !line.contains("INFO") && !line.trim().is_empty()).unwrap_or_default();
        let line: String = line.chars().take(400).collect();
        if !refused.is_empty() {
            for node in &nodes {
                self.lab.kill(*node);
                copy_tree(&self.aside("kept", *node), &self.lab.data_dir(*node))?;
                self.lab.start(*node)?;
            }
        }
        settled(&self.lab, &nodes, SETTLE_TIMEOUT).await.map_err(|what| format!("{done:?}: {outcome:?}: {what}"))?;
        let kept = promises_kept(&self.lab, &self.shopper, &mut self.digests, &nodes).await;
        kept.map_err(|what| format!("{done:?}: {outcome:?}: {what}"))?;
        // What is spoiled and was not read yet is made whole, or nobody has rows to give the others; then it goes with the
        // rows it is in, one node after the other.
        for node in &nodes {
            self.lab.kill(*node);
        }
        for node in &nodes {
            tables_back(&self.aside("kept", *node), &self.lab.data_dir(*node))?;
            self.lab.start(*node)?;
        }
        settled(&self.lab, &nodes, SETTLE_TIMEOUT).await?;
        for node in &nodes {
            self.lab.kill(*node);
            for dir in super::corrupt::generations(&self.lab.data_dir(*node))? {
                fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
            }
            self.lab.start(*node)?;
            settled(&self.lab, &nodes, SETTLE_TIMEOUT).await?;
        }
        Ok(made.then(|| (done.join("; "), outcome, line)))
    }

    async fn end(&mut self) -> Result<(), String> {
        if let Some(crowd) = self.crowd.take() {
            crowd.leave().await;
        }
        let nodes = self.nodes();
        settled(&self.lab, &nodes, SETTLE_TIMEOUT).await?;
        all_is_there(&self.lab, &self.shopper, &mut self.digests, &nodes).await?;
        verified(&self.lab, &nodes).await
    }
}

/// Puts the tables of rows that are still in use back as they were. A table is never changed once it is written, so an old
/// copy of one that is still there is the table itself.
fn tables_back(kept: &Path, data: &Path) -> Result<(), String> {
    for generation in super::corrupt::generations(kept)? {
        let name = generation.file_name().ok_or("a generation without a name")?;
        if data.join(name).is_dir() {
            copy_over(&generation, &data.join(name), false)?;
            // A mark that says they are damaged is true no longer.
            match fs::remove_file(data.join(name).join("damaged")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Copies the files below directories named `tables` that are in both places.
fn copy_over(from: &Path, to: &Path, inside: bool) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", from.display());
    for entry in fs::read_dir(from).map_err(told)? {
        let entry = entry.map_err(told)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() && to.is_dir() {
            copy_over(&from, &to, inside || entry.file_name() == "tables")?;
        } else if inside && to.is_file() {
            fs::copy(&from, &to).map_err(|error| format!("{}: {error}", to.display()))?;
        }
    }
    Ok(())
}

fn end_of(status: &Value) -> End {
    (status["last_log_index"].as_u64().unwrap_or(0), status["term"].as_u64().unwrap_or(0))
}

/// A refusal says what is damaged and what to do, in a few lines, and is no panic.
fn clear_refusal(said: &str) -> Result<(), String> {
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("agora:")).collect();
    let what = ["log", "rows", "data directory", "snapshot"];
    let advice = [
        "new id",
        "start it",
        "start the",
        "check the",
        "remove the",
        "never copy",
        "this release reads",
        "needs a peer",
    ];
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
    if said.contains("panicked") {
        return Err(format!("a panic is no message: {said}"));
    }
    if lines.len() > LINES_MAX || !has(&what) || !has(&advice) {
        return Err(format!("it does not say what is damaged and what to do: {said}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_decided_by_the_seed_and_a_word_selects() {
        let args = |seed, only: Option<&str>| Args {
            program: NodeProgram::agora("agora"),
            dir: PathBuf::new(),
            seed,
            wall: Duration::ZERO,
            only: only.map(str::to_owned),
        };
        let titles = |args: &Args| order(args).into_iter().map(|(case, even)| (case.title(), even)).collect::<Vec<_>>();
        assert_eq!(titles(&args(3, None)), titles(&args(3, None)));
        assert_ne!(titles(&args(3, None)), titles(&args(4, None)));
        let selected = titles(&args(3, Some("checksum")));
        assert!(!selected.is_empty() && selected.iter().all(|(title, _)| title.contains("checksum")));
    }

    #[test]
    fn a_refusal_is_clear_or_it_is_a_finding() {
        clear_refusal("agora: node 1 cannot start on /d: the log is damaged; add it again with a new id").unwrap();
        for unclear in [
            "",
            "agora: no",
            "agora: the log is damaged",
            "thread main panicked at\nagora: the log is damaged: add it with a new id",
        ] {
            assert!(clear_refusal(unclear).is_err(), "{unclear}");
        }
    }
}
