//! What must hold after a disk has failed: every promise is kept once, on every node, and equal indexes have equal digests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    lab::Lab,
    shopper::{Reply, Shopper, send},
};

/// How long a node may take to serve what it must.
pub const SERVE_TIMEOUT: Duration = Duration::from_secs(40);
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);
/// Promises looked up by key at each check, the newest.
const SPOT_CHECKS: usize = 2;

/// Asks one node, once.
///
/// # Errors
/// When no whole answer comes.
pub async fn get(lab: &Lab, node: u64, path: &str, headers: &[(&str, &str)]) -> Result<Reply, String> {
    send(&lab.http(node), "GET", path, headers, None, ASK_TIMEOUT).await
}

/// What a node says of the cluster, if it says anything.
pub async fn status(lab: &Lab, node: u64) -> Option<Value> {
    let reply = get(lab, node, "/api/v2/cluster/status", &[]).await.ok()?;
    (reply.status == 200).then_some(reply.body)
}

/// Whether a node says that it can serve.
pub async fn is_ready(lab: &Lab, node: u64) -> bool {
    get(lab, node, "/readyz", &[]).await.is_ok_and(|reply| reply.status == 200)
}

/// Times a node that ends itself over rotten rows is started again: once for what was spoiled here, once for what it was
/// given by others.
const RESTARTS_MAX: u32 = 6;

/// Waits until all of these are ready and name one leader among them. A node that met rotten rows and ended is started
/// again, as any supervisor does: only then does it make them anew.
///
/// # Errors
/// With what they say, when that does not come to pass in time, or one of them leaves.
pub async fn settled(lab: &Lab, nodes: &[u64], patience: Duration) -> Result<u64, String> {
    let deadline = Instant::now() + patience;
    let mut restarts = 0;
    loop {
        let mut leaders = Vec::new();
        for node in nodes {
            if let Some(exit) = lab.exited(*node, Duration::ZERO).await {
                if restarts < RESTARTS_MAX && tail(lab, *node).contains("its rows are damaged") {
                    restarts += 1;
                    lab.start(*node)?;
                    continue;
                }
                return Err(format!("node {node} left with {exit}: {}", tail(lab, *node)));
            }
            if is_ready(lab, *node).await {
                leaders.push(status(lab, *node).await.and_then(|status| status["leader"].as_u64()));
            }
        }
        if leaders.len() == nodes.len()
            && let Some(Some(leader)) = leaders.first()
            && nodes.contains(leader)
            && leaders.iter().all(|other| other == &Some(*leader))
        {
            return Ok(*leader);
        }
        if Instant::now() > deadline {
            let mut said = String::new();
            for node in nodes {
                let ready = get(lab, *node, "/readyz", &[]).await;
                said.push_str(&format!("node {node}: {ready:?}: {}\n", tail(lab, *node)));
            }
            return Err(format!("no common leader within {patience:?}: {said}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last lines of a node.
pub fn tail(lab: &Lab, node: u64) -> String {
    let said = lab.said_since(node, lab.said(node).saturating_sub(3_000));
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(12)..].join(" | ")
}

/// Digests seen, by index and node.
#[derive(Debug, Default)]
pub struct Digests {
    seen: BTreeMap<u64, BTreeMap<u64, String>>,
}

impl Digests {
    /// Takes in what a status says of all members.
    ///
    /// # Errors
    /// When two digests of one index differ.
    pub fn note(&mut self, status: &Value) -> Result<(), String> {
        for member in status["members"].as_array().into_iter().flatten() {
            let checkpoint = &member["checkpoint"];
            let told = (member["id"].as_u64(), checkpoint["index"].as_u64(), checkpoint["digest"].as_str());
            let (Some(node), Some(index), Some(digest)) = told else { continue };
            let at = self.seen.entry(index).or_default();
            if let Some((other, known)) = at.iter().find(|(_, known)| *known != digest) {
                return Err(format!("at index {index} node {node} has digest {digest}, node {other} {known}"));
            }
            at.insert(node, digest.to_owned());
        }
        while self.seen.len() > 10_000 {
            self.seen.pop_first();
        }
        Ok(())
    }

    /// Whether all of these have told their digest at one index from this one on.
    pub fn agreed(&self, nodes: &[u64], from: u64) -> bool {
        self.seen.range(from..).any(|(_, at)| nodes.iter().all(|node| at.contains_key(node)))
    }

    /// Indexes at which more than one node told its digest.
    pub fn compared(&self) -> u64 {
        self.seen.values().filter(|at| at.len() > 1).count() as u64
    }
}

/// With nothing on its way: what is reserved on each of these nodes is what was promised, the newest promises are found
/// under their keys, no order went without an answer, and digests agree as far as they are told.
///
/// # Errors
/// With what does not hold.
pub async fn promises_kept(lab: &Lab, shopper: &Shopper, digests: &mut Digests, nodes: &[u64]) -> Result<(), String> {
    let _closed = shopper.gate.write().await;
    let (promised, index, newest, trouble) = shopper.with_ledger(|ledger| {
        let newest: Vec<(String, String)> = ledger
            .orders
            .iter()
            .rev()
            .filter(|(key, _)| !key.contains('#'))
            .take(SPOT_CHECKS)
            .map(|(key, number)| (key.clone(), number.clone()))
            .collect();
        (ledger.orders.len() as u64, ledger.index, newest, ledger.troubles.first().cloned())
    });
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    for node in nodes {
        let path = format!("/api/v2/skus/{}/stock", shopper.sku());
        let stock = served(lab, *node, &path, index).await?;
        if stock["reserved"].as_u64() != Some(promised) {
            return Err(format!("{promised} orders were promised up to index {index}, node {node} shows {stock}"));
        }
        for (key, number) in &newest {
            let order = served(lab, *node, &format!("/api/v2/orders/by-idempotency-key/{key}"), index).await?;
            if order["order_no"].as_str() != Some(number) {
                return Err(format!("{key} was promised order {number}, node {node} shows {order}"));
            }
        }
        if let Some(status) = status(lab, *node).await {
            digests.note(&status)?;
        }
    }
    Ok(())
}

/// A local read of rows at an index or later, asked until it is answered.
async fn served(lab: &Lab, node: u64, path: &str, index: u64) -> Result<Value, String> {
    let deadline = Instant::now() + SERVE_TIMEOUT;
    let index = index.to_string();
    loop {
        let reply = get(lab, node, path, &[("consistency", "local"), ("min-index", &index)]).await;
        match &reply {
            Ok(reply) if reply.status == 200 => return Ok(reply.body.clone()),
            // 503 and 504 pass; 500 is never an honest node's.
            Ok(reply) if reply.status <= 500 => {
                return Err(format!(
                    "node {node} answers {path} at index {index} with {} {}",
                    reply.status, reply.body
                ));
            }
            _ if Instant::now() > deadline => {
                return Err(format!(
                    "node {node} does not serve {path} at index {index}: {reply:?}: {}",
                    tail(lab, node)
                ));
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Everything, at the end of a cluster's life: digests of all nodes at one index past the last promise, and the list of
/// all orders on every node, one by one.
///
/// # Errors
/// With what does not hold.
pub async fn all_is_there(lab: &Lab, shopper: &Shopper, digests: &mut Digests, nodes: &[u64]) -> Result<(), String> {
    promises_kept(lab, shopper, digests, nodes).await?;
    let index = shopper.with_ledger(|ledger| ledger.index);
    let deadline = Instant::now() + SERVE_TIMEOUT;
    while !digests.agreed(nodes, index) {
        if Instant::now() > deadline {
            return Err(format!("no digest of {nodes:?} at one index from {index} on within {SERVE_TIMEOUT:?}"));
        }
        // A checkpoint is written when something was.
        shopper.write("/api/v2/accounts", &json!({"name": "nobody, to move the log", "kind": "customer"})).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for node in nodes {
            if let Some(status) = status(lab, *node).await {
                digests.note(&status)?;
            }
        }
    }
    let promised: BTreeSet<String> = shopper.with_ledger(|ledger| ledger.orders.values().cloned().collect());
    for node in nodes {
        let held = orders_on(lab, shopper, *node, index).await?;
        let lost: Vec<&String> = promised.difference(&held).take(5).collect();
        let extra: Vec<&String> = held.difference(&promised).take(5).collect();
        if !lost.is_empty() || !extra.is_empty() {
            return Err(format!("node {node}: {lost:?} were promised and are not there, {extra:?} were not promised"));
        }
    }
    Ok(())
}

/// Numbers of all orders as a node holds them.
///
/// # Errors
/// When it does not tell, or tells one twice.
pub async fn orders_on(lab: &Lab, shopper: &Shopper, node: u64, index: u64) -> Result<BTreeSet<String>, String> {
    let mut held = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/v2/orders?user_id={}&limit=200{cursor}", shopper.account());
        let page = served(lab, node, &path, index).await?;
        for order in page["data"].as_array().into_iter().flatten() {
            let number = order["order_no"].as_str().unwrap_or_default().to_owned();
            if !held.insert(number.clone()) {
                return Err(format!("node {node} lists order {number} twice"));
            }
        }
        match page["next_cursor"].as_str().filter(|_| page["has_more"] == true) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(held),
        }
    }
}

/// Reads a node's whole feed up to an index.
///
/// # Errors
/// When it does not tell, or goes back.
pub async fn feed_read(lab: &Lab, node: u64, index: u64) -> Result<(), String> {
    let mut after = 0;
    loop {
        let page = served(lab, node, &format!("/api/v2/changes?after={after}&limit=1000"), index).await?;
        let last = page["data"].as_array().and_then(|events| events.last()?["index"].as_u64());
        match last {
            Some(last) if last < index && last > after => after = last,
            Some(last) if last <= after => return Err(format!("the feed of node {node} goes from {after} to {last}")),
            _ => return Ok(()),
        }
    }
}

/// Stops all nodes and lets the product compare each one's rows with its digest.
///
/// # Errors
/// With the nodes that do not verify.
pub async fn verified(lab: &Arc<Lab>, nodes: &[u64]) -> Result<(), String> {
    for node in nodes {
        if !lab.stop(*node).await {
            return Err(format!("node {node} did not stop when told to: {}", tail(lab, *node)));
        }
    }
    for node in nodes {
        let (good, said) = lab.verify(*node).await;
        if !good {
            return Err(format!("node {node} does not verify: {}", said.trim()));
        }
    }
    Ok(())
}
