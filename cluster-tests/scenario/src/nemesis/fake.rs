//! A cluster that is only a table of what was done to it, for the tests of attacks: who is up, what is cut, who leads.
//!
//! It elects, applies and forgets as a sound cluster would, and it refuses acts that no harness could do or no promise
//! covers: spoiling files of a node that runs, using an id twice, destroying the logs of a majority.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agora_history::{Micros, NodeId};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Act, BoxFuture, Cluster, DiskFault, HttpRequest, HttpResponse, Link, Part, SendError};

/// What the fake gets wrong, to see that attacks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// A node that forgot is let in again.
    LetsTheForgetfulIn,
    /// A node that was killed does not start again.
    NeverStarts,
    /// Any key opens everything.
    OpensToStrangers,
}

#[derive(Clone, Debug, Default)]
struct Node {
    up: bool,
    paused: bool,
    clock_ms: i64,
    disk: Option<DiskFault>,
    dies_at: Option<Micros>,
    /// Member, and whether it votes.
    vote: Option<bool>,
    /// Its directory is empty, old or another's.
    forgot: bool,
    /// Its log is damaged: it leaves at every start.
    refuses: bool,
    kept: bool,
    snapshots: bool,
    applied: u64,
    client: Link,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    used: BTreeSet<NodeId>,
    leader: Option<NodeId>,
    term: u64,
    acts: Vec<String>,
}

pub struct Fake {
    start: Instant,
    flaw: Flaw,
    lacks: fn(&Act) -> bool,
    state: Mutex<State>,
}

const HTTP: &str = "http";

impl Fake {
    pub fn new(size: u64, flaw: Flaw, lacks: fn(&Act) -> bool) -> Fake {
        let sound = Node { up: true, vote: Some(true), ..Node::default() };
        let nodes: BTreeMap<NodeId, Node> = (1..=size).map(|node| (node, sound.clone())).collect();
        let used = nodes.keys().copied().collect();
        Fake {
            start: Instant::now(),
            flaw,
            lacks,
            state: Mutex::new(State { nodes, used, term: 1, ..State::default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tick(self.now(), self.flaw);
        state
    }

    /// Everything that was done, with its time.
    pub fn acts(&self) -> Vec<String> {
        self.state().acts.clone()
    }

    /// What is still broken.
    pub fn broken(&self, size: usize) -> Vec<String> {
        let state = self.state();
        let mut broken: Vec<String> =
            state.links.iter().map(|(ends, link)| format!("link {ends:?} is {link:?}")).collect();
        for (id, node) in &state.nodes {
            let good = Node {
                up: true,
                vote: Some(true),
                applied: node.applied,
                kept: node.kept,
                snapshots: node.snapshots,
                ..Node::default()
            };
            if format!("{node:?}") != format!("{good:?}") {
                broken.push(format!("node {id} is {node:?}"));
            }
        }
        if state.nodes.len() != size {
            broken.push(format!("there are {} nodes", state.nodes.len()));
        }
        broken
    }
}

impl State {
    /// Lets time pass: traps strike, leaders fall and rise, entries are applied.
    fn tick(&mut self, now: Micros, flaw: Flaw) {
        for node in self.nodes.values_mut() {
            if node.up && node.dies_at.is_some_and(|at| at <= now) {
                node.die();
            }
            if node.refuses {
                node.up = false;
            }
        }
        let serves = |node: &Node| {
            let sound = !node.forgot || flaw == Flaw::LetsTheForgetfulIn;
            node.up && !node.paused && sound && !matches!(node.disk, Some(DiskFault::Hung))
        };
        let voters: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| node.vote == Some(true)).map(|(id, _)| *id).collect();
        let can_lead = |state: &State, id: NodeId| {
            let awake = |other: &&NodeId| serves(&state.nodes[*other]) && state.connected(id, **other);
            serves(&state.nodes[&id]) && voters.iter().filter(awake).count() > voters.len() / 2
        };
        if self.leader.is_none_or(|leader| !voters.contains(&leader) || !can_lead(self, leader)) {
            let after = self.leader.unwrap_or(0);
            let next = voters.iter().filter(|id| **id > after).chain(&voters).find(|id| can_lead(self, **id)).copied();
            if next.is_some() {
                self.term += 1;
            }
            self.leader = next;
        }
        let Some(leader) = self.leader else { return };
        let reached: Vec<NodeId> = self.nodes.keys().copied().filter(|id| self.connected(leader, *id)).collect();
        for id in reached {
            if let Some(node) = self.nodes.get_mut(&id)
                && serves(node)
                && node.vote.is_some()
            {
                node.applied = 10 + now / 10_000;
            }
        }
    }

    fn connected(&self, one: NodeId, other: NodeId) -> bool {
        let cut = |from, to| self.links.get(&(from, to)).is_some_and(|link| link.loss >= 1.0);
        one == other || !cut(one, other) && !cut(other, one)
    }

    fn down(&mut self, id: NodeId) -> Result<&mut Node, String> {
        let node = self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}"))?;
        if node.up { Err(format!("node {id} runs")) } else { Ok(node) }
    }

    fn node(&mut self, id: NodeId) -> Result<&mut Node, String> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}"))
    }

    /// Destroys a log, unless that is one too many.
    fn destroy(&mut self, id: NodeId) -> Result<(), String> {
        let voters = self.nodes.values().filter(|node| node.vote == Some(true)).count();
        let lost = |(other, node): &(&NodeId, &Node)| {
            node.vote == Some(true) && (node.forgot || node.refuses || **other == id)
        };
        let lost = self.nodes.iter().filter(lost).count();
        if lost > voters.saturating_sub(1) / 2 {
            return Err(format!("the logs of {lost} of {voters} voters would be destroyed"));
        }
        self.down(id).map(drop)
    }

    fn act(&mut self, act: &Act, now: Micros, flaw: Flaw) -> Result<(), String> {
        match act {
            Act::SetLinks { from, to, link } => {
                for ends in from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))) {
                    self.node(ends.0)?;
                    self.node(ends.1)?;
                    self.links.remove(&ends);
                    if *link != Link::default() && ends.0 != ends.1 {
                        self.links.insert(ends, *link);
                    }
                }
            }
            Act::SetClientLinks { nodes, link } => {
                for node in nodes {
                    self.node(*node)?.client = *link;
                }
            }
            Act::ResetConnections { .. } | Act::SwapBinary(_) | Act::RawConnections { .. } => {}
            Act::HealNetwork => {
                self.links.clear();
                self.nodes.values_mut().for_each(|node| node.client = Link::default());
            }
            Act::Kill(nodes) | Act::PowerLoss(nodes) => {
                for node in nodes {
                    self.node(*node)?.die();
                }
            }
            Act::Stop(node) => self.node(*node)?.die(),
            Act::Start(node) => {
                let node = self.node(*node)?;
                node.up = flaw != Flaw::NeverStarts && !node.refuses;
            }
            Act::Pause(node) => self.node(*node)?.paused = true,
            Act::Resume(node) => self.node(*node)?.paused = false,
            Act::ClockOffset { node, ms } => self.node(*node)?.clock_ms = *ms,
            Act::BreakDisk { node, fault } => {
                let node = self.node(*node)?;
                match fault {
                    DiskFault::FsyncErrorOnce(_) => node.die(),
                    other => node.disk = Some(*other),
                }
            }
            Act::MendDisk(node) => {
                let node = self.node(*node)?;
                (node.disk, node.dies_at) = (None, None);
            }
            Act::CrashAt { node, n, .. } => self.node(*node)?.dies_at = Some(now + n * 20_000),
            Act::Corrupt { node, part: Part::Log, .. } => {
                self.destroy(*node)?;
                self.down(*node)?.refuses = true;
            }
            Act::Corrupt { node, .. } => drop(self.down(*node)?),
            Act::KeepDirectory(node) => self.down(*node)?.kept = true,
            Act::RestoreDirectory(node) => {
                self.destroy(*node)?;
                let node = self.down(*node)?;
                if !node.kept {
                    return Err("nothing was kept".to_owned());
                }
                node.forgot = true;
            }
            Act::Wipe(node) | Act::Refound(node) => {
                if self.node(*node)?.vote.is_some() {
                    self.destroy(*node)?;
                }
                let node = self.down(*node)?;
                (node.forgot, node.applied) = (true, 0);
            }
            Act::Provision(node) => {
                if !self.used.insert(*node) {
                    return Err(format!("id {node} was used before"));
                }
                self.nodes.insert(*node, Node { up: true, ..Node::default() });
            }
            Act::Retire(node) => {
                if self.node(*node)?.vote.is_some() {
                    return Err(format!("node {node} is a member"));
                }
                self.nodes.remove(node);
                self.links.retain(|ends, _| ends.0 != *node && ends.1 != *node);
            }
        }
        Ok(())
    }

    fn status(&self, id: NodeId) -> Value {
        let node = &self.nodes[&id];
        let members: Vec<Value> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some(json!({"id": id, "role": if node.vote? { "follower" } else { "learner" }})))
            .collect();
        let sees = self.leader.filter(|leader| !node.forgot && self.connected(*leader, id));
        json!({
            "node": id, "role": if self.leader == Some(id) { "leader" } else { "follower" },
            "leader": sees, "term": self.term, "health": "ok", "last_log_index": node.applied,
            "commit_index": node.applied, "applied_index": node.applied, "purged_index": 0, "members": members,
        })
    }

    fn answer(&mut self, at: NodeId, request: &HttpRequest) -> (u16, Value) {
        let path: Vec<&str> = request.path.trim_start_matches("/api/v2/cluster/").split('/').collect();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let can_commit = self.leader.is_some_and(|leader| self.connected(leader, at));
        match (request.method.as_str(), path.as_slice()) {
            ("GET", ["status"]) => (200, self.status(at)),
            ("GET", ["snapshots"]) if self.nodes[&at].snapshots => (200, json!({"data": [{"index": 3, "bytes": 9}]})),
            ("GET", ["snapshots"]) => (200, json!({"data": []})),
            ("POST", ["snapshots"]) => {
                self.nodes.get_mut(&at).expect("asked").snapshots = true;
                (201, json!({"index": 3}))
            }
            _ if !can_commit => (503, json!({"code": "NO_LEADER"})),
            ("POST", ["members"]) => {
                let id = body["id"].as_u64().unwrap_or(0);
                match self.nodes.get_mut(&id) {
                    Some(node) if !node.forgot && node.applied == 0 => {
                        node.vote.get_or_insert(false);
                        (200, json!({}))
                    }
                    _ => (409, json!({"code": "NODE_ID_REUSED"})),
                }
            }
            ("POST", ["members", id, "promote"]) => self.set_vote(id, Some(true)),
            ("DELETE", ["members", id]) => self.set_vote(id, None),
            ("POST", ["leader", "transfer"]) => {
                self.leader = body["to"].as_u64().or(self.leader);
                self.term += 1;
                (200, json!({}))
            }
            _ => (404, json!({"code": "NOT_FOUND"})),
        }
    }

    fn set_vote(&mut self, id: &str, vote: Option<bool>) -> (u16, Value) {
        let node = id.parse().ok().and_then(|id: NodeId| self.nodes.get_mut(&id));
        match node {
            Some(node) if node.vote.is_some() => {
                node.vote = vote;
                (200, json!({}))
            }
            _ => (404, json!({"code": "NOT_FOUND"})),
        }
    }
}

impl Node {
    fn die(&mut self) {
        (self.up, self.paused, self.dies_at) = (false, false, None);
    }
}

/// As the product admits: its two keys, sizes and forms.
fn refuses(request: &HttpRequest) -> Option<u16> {
    let key = request.headers.iter().find(|header| header.0 == "authorization").map(|header| header.1.as_str());
    let cluster = request.path.starts_with("/api/v2/cluster/");
    match (key, cluster) {
        (Some("Bearer admin"), true) => None,
        (Some("Bearer admin"), false) | (Some("Bearer shop"), true) => Some(403),
        (Some("Bearer shop"), false) if request.body.len() > 1 << 20 => Some(413),
        (Some("Bearer shop"), false) => Some(400),
        _ => Some(401),
    }
}

impl Cluster for Fake {
    fn harness(&self) -> &'static str {
        "fake"
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.state().nodes.keys().copied().collect()
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.state().nodes.get(&node).is_some_and(|node| node.up)
    }

    fn now(&self) -> Micros {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<HttpResponse, SendError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let reach = self.state().nodes.get(&node).map(|node| (node.up, node.paused || node.client.loss >= 1.0));
            match reach {
                Some((true, false)) => {}
                Some((true, true)) => {
                    tokio::time::sleep(deadline).await;
                    return Err(SendError::TimedOut);
                }
                _ => return Err(SendError::NotSent("down".to_owned())),
            }
            let (status, body) = match refuses(&request) {
                Some(_) if self.flaw == Flaw::OpensToStrangers => (200, Value::Null),
                Some(status) => (status, Value::Null),
                None => self.state().answer(node, &request),
            };
            Ok(HttpResponse { status, headers: Vec::new(), body: Bytes::from(body.to_string()) })
        })
    }

    fn addresses(&self, node: NodeId) -> (String, String) {
        (format!("peer{node}"), format!("{HTTP}{node}"))
    }

    fn keys(&self) -> (String, String) {
        ("shop".to_owned(), "admin".to_owned())
    }

    fn supports(&self, act: &Act) -> bool {
        !(self.lacks)(act)
    }

    fn act(&self, act: Act) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if !self.supports(&act) {
                return Err("not supported".to_owned());
            }
            let (now, flaw) = (self.now(), self.flaw);
            let mut state = self.state();
            state.acts.push(format!("{now} {act:?}"));
            state.act(&act, now, flaw)
        })
    }

    fn evidence(&self) -> String {
        String::new()
    }
}
