//! What an operator asks of a cluster: who leads, who belongs, take a snapshot. Not part of the history: nothing of the
//! shop is told or changed.

use std::{sync::Arc, time::Duration};

use agora_history::{NodeId, Role, Target};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, HttpRequest, SendError};

/// How long one question to one node may take.
pub const ASK: Duration = Duration::from_millis(500);
/// How long an act may take, such as a change of members.
pub const ACT: Duration = Duration::from_secs(10);

/// What a node says of itself, cut to what scenarios need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub node: NodeId,
    pub is_leader: bool,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub last_log: u64,
    pub commit: u64,
    pub applied: u64,
    pub purged: u64,
    pub health: String,
    /// Index, digest and chain head of its last checkpoint.
    pub checkpoint: Option<(u64, String, String)>,
    /// Id and whether it votes.
    pub members: Vec<(NodeId, bool)>,
}

/// Talks to the nodes with the administrator's key.
#[derive(Clone)]
pub struct Admin {
    cluster: Arc<dyn Cluster>,
}

impl Admin {
    /// Of a cluster.
    pub fn new(cluster: Arc<dyn Cluster>) -> Admin {
        Admin { cluster }
    }

    /// Asks one node: status code and body, whatever they say.
    ///
    /// # Errors
    /// No whole answer.
    pub async fn ask(
        &self,
        node: NodeId,
        method: Method,
        path: &str,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<(u16, Value), SendError> {
        let (_, key) = self.cluster.keys();
        let mut headers = vec![("authorization".to_owned(), format!("Bearer {key}"))];
        let body = body.map_or_else(Bytes::new, |body| {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
            Bytes::from(body.to_string())
        });
        let request = HttpRequest { method, path: path.to_owned(), headers, body };
        let response = self.cluster.send(node, request, deadline).await?;
        Ok((response.status, serde_json::from_slice(&response.body).unwrap_or(Value::Null)))
    }

    /// One node's word, or nothing if it does not give one soon.
    pub async fn status(&self, node: NodeId) -> Option<Status> {
        let (code, body) = self.ask(node, Method::GET, "/api/v2/cluster/status", None, ASK).await.ok()?;
        (code == 200).then(|| read_status(&body))
    }

    /// The words of all nodes that run, ascending.
    pub async fn statuses(&self) -> Vec<Status> {
        let mut asked = JoinSet::new();
        for node in self.cluster.nodes().into_iter().filter(|node| self.cluster.is_up(*node)) {
            let admin = self.clone();
            asked.spawn(async move { admin.status(node).await });
        }
        let mut all: Vec<Status> = asked.join_all().await.into_iter().flatten().collect();
        all.sort_by_key(|status| status.node);
        all
    }

    /// Who leads: of those that say so themselves the one with the highest term. A node that was cut off may still
    /// believe it leads; with its term it loses against the one that was elected after.
    pub async fn leader(&self) -> Option<NodeId> {
        let said = self.statuses().await;
        said.iter().filter(|status| status.is_leader).max_by_key(|status| status.term).map(|status| status.node)
    }

    /// Nodes with the part they play at this moment.
    pub async fn targets(&self, nodes: &[NodeId]) -> Vec<Target> {
        let leader = self.leader().await;
        let role = |node: &NodeId| match leader {
            Some(leader) if leader == *node => Role::Leader,
            Some(_) if self.cluster.is_up(*node) => Role::Follower,
            _ => Role::Neither,
        };
        nodes.iter().map(|node| Target { node: *node, role: role(node) }).collect()
    }

    /// Waits until someone leads.
    pub async fn wait_for_leader(&self, bound: Duration) -> Option<NodeId> {
        let until = tokio::time::Instant::now() + bound;
        loop {
            if let Some(leader) = self.leader().await {
                return Some(leader);
            }
            if tokio::time::Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An act of the table below `/api/v2/cluster`, asked of one node.
    async fn act(&self, node: NodeId, method: Method, path: String, body: Option<Value>) -> Result<Value, String> {
        match self.ask(node, method, &path, body, ACT).await {
            Ok((200 | 201, body)) => Ok(body),
            Ok((code, body)) => Err(format!("{path} at node {node}: {code} {}", body["code"].as_str().unwrap_or("?"))),
            Err(error) => Err(format!("{path} at node {node}: {error:?}")),
        }
    }

    /// Adds a provisioned node as a learner, asked at `via`.
    ///
    /// # Errors
    /// What was answered.
    pub async fn add(&self, via: NodeId, node: NodeId) -> Result<(), String> {
        let (peer, http) = self.cluster.addresses(node);
        let body = serde_json::json!({"id": node, "peer": peer, "http": http});
        self.act(via, Method::POST, "/api/v2/cluster/members".to_owned(), Some(body)).await.map(drop)
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// What was answered; a learner that has not caught up is refused with `SYNCING`.
    pub async fn promote(&self, via: NodeId, node: NodeId) -> Result<(), String> {
        let path = format!("/api/v2/cluster/members/{node}/promote");
        self.act(via, Method::POST, path, Some(serde_json::json!({}))).await.map(drop)
    }

    /// Removes a member.
    ///
    /// # Errors
    /// What was answered.
    pub async fn remove(&self, via: NodeId, node: NodeId) -> Result<(), String> {
        self.act(via, Method::DELETE, format!("/api/v2/cluster/members/{node}"), None).await.map(drop)
    }

    /// Hands leadership over.
    ///
    /// # Errors
    /// What was answered.
    pub async fn transfer(&self, via: NodeId, to: Option<NodeId>) -> Result<(), String> {
        let body = to.map_or_else(|| serde_json::json!({}), |to| serde_json::json!({"to": to}));
        self.act(via, Method::POST, "/api/v2/cluster/leader/transfer".to_owned(), Some(body)).await.map(drop)
    }

    /// Has a node write a snapshot file; gives the index it stands at.
    ///
    /// # Errors
    /// What was answered.
    pub async fn snapshot(&self, node: NodeId) -> Result<u64, String> {
        let path = "/api/v2/cluster/snapshots".to_owned();
        let made = self.act(node, Method::POST, path, Some(serde_json::json!({}))).await?;
        Ok(made["index"].as_u64().unwrap_or(0))
    }
}

fn read_status(body: &Value) -> Status {
    let number = |name: &str| body[name].as_u64().unwrap_or(0);
    let node = number("node");
    let members = body["members"].as_array().map_or(&[][..], Vec::as_slice);
    let me = members.iter().find(|member| member["id"].as_u64() == Some(node));
    let checkpoint = me.map(|me| &me["checkpoint"]).filter(|checkpoint| checkpoint.is_object()).map(|checkpoint| {
        let text = |name: &str| checkpoint[name].as_str().unwrap_or_default().to_owned();
        (checkpoint["index"].as_u64().unwrap_or(0), text("digest"), text("chain_head"))
    });
    Status {
        node,
        is_leader: body["role"] == "leader",
        leader: body["leader"].as_u64(),
        term: number("term"),
        last_log: number("last_log_index"),
        commit: number("commit_index"),
        applied: number("applied_index"),
        purged: number("purged_index"),
        health: body["health"].as_str().unwrap_or_default().to_owned(),
        checkpoint,
        members: members
            .iter()
            .filter_map(|member| Some((member["id"].as_u64()?, member["role"] != "learner")))
            .collect(),
    }
}
